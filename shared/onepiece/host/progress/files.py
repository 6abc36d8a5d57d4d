"""Progress as a file: exports (JSON, CSV, HTML) and what can be imported again (JSON, or a progress.sqlite itself)."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.host.progress import store
from onepiece.host.progress.events import BadEvent, Conflict, Event, canonical, check, merge

JSON_FORMAT = "onepiece-progress"
JSON_VERSION = 1
FORMATS = ("json", "csv", "html")


def export(path: Path, write: Callable[[], str]) -> None:
    """Write a new file; an existing one is never replaced.

    Raises:
        UserError: "export-exists".
    """
    content = write()
    try:
        with path.open("x", encoding="utf-8", newline="") as stream:
            stream.write(content)
    except FileExistsError:
        raise UserError("export-exists", path=path) from None
    except FileNotFoundError:
        raise UserError("no-write", path=path, reason="its directory does not exist") from None


def as_json(events: Sequence[Event]) -> str:
    """Everything, to be imported on another machine."""
    rows = [{"id": event.id, "at": event.at, "kind": event.kind, "subject": event.subject, "data": event.values} for event in events]
    exported = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {"format": JSON_FORMAT, "version": JSON_VERSION, "exported": exported, "events": rows}
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def as_csv(events: Sequence[Event]) -> str:
    """One row per event, one column per thing known about any of them, for a spreadsheet."""
    names = sorted({name for event in events for name in event.values} - {"id", "at", "kind", "subject"})
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["id", "at", "kind", "subject", *map(_cell, names)])
    for event in events:
        values = event.values
        writer.writerow([event.id, event.at, event.kind, event.subject, *(_cell(values.get(name)) for name in names)])
    return stream.getvalue()


def _cell(value: object) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return "'" + value  # a spreadsheet would compute it
    return value  # type: ignore[return-value]


def read_export(path: Path) -> tuple[Event, ...]:
    """The events of an export, or of another progress.sqlite.

    Raises:
        UserError: "bad-import", with the reason; what `store.read` raises.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError("bad-import", path=path, reason=error.strerror or error) from None
    if content.startswith(b"SQLite format 3\0"):
        return store.read(path)
    try:
        table = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError("bad-import", path=path, reason=f"it is no JSON export ({error})") from None
    if not isinstance(table, dict) or table.get("format") != JSON_FORMAT or not isinstance(table.get("events"), list):
        raise UserError("bad-import", path=path, reason=f'it is no export of progress ("format": "{JSON_FORMAT}")')
    if table.get("version") != JSON_VERSION:
        raise UserError("bad-import", path=path, reason=f"it has version {table.get('version')!r}, and this course reads {JSON_VERSION}")
    return _read_events(path, table["events"])


def _read_events(path: Path, rows: list[object]) -> tuple[Event, ...]:
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, dict) or set(row) != {"id", "at", "kind", "subject", "data"} or not isinstance(row["data"], dict):
                raise BadEvent("not id, at, kind, subject, data")
            found.append(check(Event(row["at"], row["id"], row["kind"], row["subject"], canonical(row["data"]))))
        except BadEvent as error:
            raise UserError("bad-import", path=path, reason=f"event {number}: {error}") from None
    try:
        return merge(found)
    except Conflict as error:
        raise UserError("bad-import", path=path, reason=f"two events have the id {error}") from None
