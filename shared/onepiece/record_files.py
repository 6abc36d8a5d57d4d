"""Files of records: JSON (one array), JSON Lines or Parquet, told by their content; what a row means is told in `onepiece.records`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.text import tr


class BadRecord(ValueError):
    """Why a record cannot be used, in the reader's language."""


def rows_of(path: Path, fields: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """(where, row) of each record; a row that cannot be parsed is a `BadRecord`.

    Args:
        fields: those whose values are wanted of a Parquet file; others have the value None.

    Raises:
        UserError: "bad-record", if the file as a whole cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from None
    if content.startswith(b"PAR1"):
        yield from _numbered(_parquet(path, content, fields))
        return
    content = content.removeprefix(b"\xef\xbb\xbf")  # what Windows editors put first
    begin = content.lstrip()[:1]
    if begin == b"[":
        yield from _numbered(_json_array(path, content))
    elif begin == b"{":
        yield from ((tr(f"line {number}", f"第 {number} 行"), row) for number, row in json_lines(content))
    elif begin:
        raise unreadable(path, tr("it is neither JSON, JSON Lines nor Parquet", "它不是 JSON、JSON Lines 或 Parquet"))


def json_lines(content: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line of JSON Lines that is not blank, from 1; a line that cannot be parsed is a `BadRecord`.

    A line feed ends a line, and nothing else does: `str.splitlines` cuts at U+2028 and others too, which JSON text may hold as they are.
    """
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, _json(line)


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, start=1):
        yield tr(f"record {number}", f"第 {number} 筆"), row


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return BadRecord(tr(f"no valid JSON ({error}); is it cut off?", f"不是正確的 JSON（{error}）；是不是被截斷了？"))


def _json_array(path: Path, content: bytes) -> list[Any]:
    rows = _json(content)
    if isinstance(rows, BadRecord):
        raise unreadable(path, str(rows))
    return rows


def _parquet(path: Path, content: bytes, fields: frozenset[str]) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(content))
        # Of the others only the names are told: a value may be one that Python cannot hold, such as a date in the year 20000.
        others = dict.fromkeys(name for name in table.column_names if name not in fields)
        rows = table.drop_columns(list(others)).to_pylist() if len(others) < table.num_columns else [{}] * table.num_rows
        return [row | others for row in rows]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise unreadable(path, tr(f"no valid Parquet ({reason})", f"不是正確的 Parquet（{reason}）")) from None


def unreadable(path: Path, reason: str) -> UserError:
    """The error of a file that cannot be read as a whole."""
    return UserError("bad-record", path=path, where=tr("the whole file", "整個檔案"), reason=reason)
