"""A TOML table that says where a value stands, what was found and what is allowed: of manifests, quizzes and learning paths.

It remembers which keys were asked for, so that the others can be refused.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.text import LANGUAGES, Text

_MISSING: Any = object()
_TEXT = '{ en = "...", zh-TW = "..." }'

Refuse = Callable[[str, str], UserError]
"""Where in the file ("" for the whole of it) and what is wrong there -> the error to raise."""


def at(file: str, where: str) -> str:
    """A place as errors write it: the file as a reader of the course knows it, then where in it."""
    return ", ".join(filter(None, (file, where)))


def read(path: Path, refuse: Refuse) -> Table:
    """The whole file as a table.

    Raises:
        UserError: of `refuse`, for a file that is unreadable, empty or no TOML.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")  # with what Windows editors put first, or without
    except (OSError, UnicodeDecodeError) as error:
        raise refuse("", f"unreadable ({error}); allowed: a UTF-8 TOML file") from None
    if not content.strip():
        raise refuse("", "an empty file; allowed: the keys of CONTRIBUTING.md")
    try:
        return Table(refuse, tomllib.loads(content))
    except (ValueError, RecursionError) as error:  # tomllib's own error, a number of thousands of digits, endless nesting
        raise refuse("", f"not TOML: {error}; allowed: a TOML file") from None


class Table:
    """One table of a file.

    Args:
        refuse: makes the errors.
        values: what the table holds.
        prefix: of its keys: `gates[0].`.
        where: what stands before the key in an error, if keys alone do not lead a reader there: `question how-much`.
    """

    def __init__(self, refuse: Refuse, values: dict[str, Any], prefix: str = "", where: str = "") -> None:
        self._refuse, self._values, self._prefix, self._where = refuse, values, prefix, where
        self._asked: set[str] = set()

    def named(self, where: str) -> Table:
        """The same table under a name that leads a reader to it: `question how-much` instead of `questions[3].`"""
        return Table(self._refuse, self._values, where=where)

    def has(self, key: str) -> bool:
        """Is there such a key?"""
        return key in self._values

    def bad(self, key: str, found: str, allowed: str) -> UserError:
        """The error that `found` stands at `key` where only `allowed` may."""
        return self.wrong(f"found {found}; allowed: {allowed}", key)

    def wrong(self, what: str, key: str = "") -> UserError:
        """The error that something is wrong with the table, or with one of its keys."""
        return self._refuse(", ".join(filter(None, (self._where, f"key {self._prefix}{key}" if key else ""))), what)

    def take(self, key: str, default: Any = _MISSING, allowed: str = "a value") -> Any:
        """The value of a key, whatever it is; an error if it is missing and has no default."""
        self._asked.add(key)
        if key in self._values:
            return self._values[key]
        if default is _MISSING:
            raise self.bad(key, "missing", allowed)
        return default

    def rest(self) -> dict[str, Any]:
        """Everything in the table, for keys that are not known beforehand."""
        return dict(self._values)

    def string(self, key: str, default: Any = _MISSING) -> Any:
        """A string that is not blank."""
        return self._typed(key, default, lambda value: isinstance(value, str) and value.strip() != "", "a non-empty string")

    def number(self, key: str, default: Any = _MISSING, least: float = -math.inf, above: float = -math.inf) -> Any:
        """A finite number, at least `least` and above `above`."""

        def is_number(value: object) -> bool:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return False
            return (isinstance(value, int) or math.isfinite(value)) and value >= least and value > above

        bound = f" >= {least:g}" if math.isfinite(least) else f" > {above:g}" if math.isfinite(above) else ""
        return self._typed(key, default, is_number, "a number" + bound)

    def boolean(self, key: str, default: Any = _MISSING) -> Any:
        """True or false."""
        return self._typed(key, default, lambda value: isinstance(value, bool), "true or false")

    def choice(self, key: str, choices: Iterable[str], default: Any = _MISSING) -> Any:
        """One of several strings."""
        choices = tuple(choices)
        return self._typed(key, default, lambda value: isinstance(value, str) and value in choices, " | ".join(choices))

    def strings(self, key: str, default: Any = _MISSING, allowed: tuple[str, ...] = (), non_empty: bool = False) -> tuple[str, ...]:
        """A list of different strings, each of `allowed` if that is given."""

        def is_list(value: object) -> bool:
            if not isinstance(value, (list, tuple)) or (non_empty and not value):
                return False
            if not all(isinstance(item, str) and item for item in value) or len(set(value)) != len(value):
                return False
            return not allowed or all(item in allowed for item in value)

        wording = f"a list of {' | '.join(allowed)}" if allowed else "a list of different strings"
        return tuple(self._typed(key, default, is_list, wording))

    def text(self, key: str) -> Text:
        """A text in both languages, without blanks around it."""
        value = self.take(key, allowed=_TEXT)
        if not isinstance(value, dict):
            raise self.bad(key, repr(value), _TEXT)
        for language in LANGUAGES:
            written = value.get(language)
            if not isinstance(written, str) or not written.strip():
                raise self.bad(f"{key}.{language}", "missing" if written is None else repr(written), "the text in that language")
        unknown = set(value) - set(LANGUAGES)
        if unknown:
            raise self.bad(f"{key}.{min(unknown)}", "an unknown key", ", ".join(LANGUAGES))
        return Text(value["en"].strip(), value["zh-TW"].strip())

    def texts(self, key: str) -> dict[str, Text]:
        """A table whose values are texts in both languages."""
        table = self.table(key)
        return {name: table.text(name) for name in table.rest()}

    def table(self, key: str) -> Table:
        """A table below this one."""
        value = self.take(key, allowed=f"a [{key}] table")
        if not isinstance(value, dict):
            raise self.bad(key, repr(value), f"a [{key}] table")
        return Table(self._refuse, value, f"{self._prefix}{key}.", self._where)

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty if there is none."""
        value = self.take(key, default=[])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.bad(key, repr(value), f"[[{key}]] tables")
        return [Table(self._refuse, item, f"{self._prefix}{key}[{index}].", self._where) for index, item in enumerate(value)]

    def refuse_unknown(self) -> None:
        """An error for the first key that nobody asked for."""
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._asked, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise self.bad(unknown[0], f"an unknown key{hint}", ", ".join(sorted(self._asked)))

    def _typed(self, key: str, default: Any, accepts: Callable[[Any], bool], allowed: str) -> Any:
        value = self.take(key, default, allowed)
        if key in self._values and not accepts(value):
            raise self.bad(key, repr(value), allowed)
        return value
