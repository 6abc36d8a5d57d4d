"""Pages in pairs: `name.en.md` is the source, `name.zh-TW.md` says which state of it was translated."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .course import DOCS
from .links import to_pages

_MARK = re.compile(r"<!-- source-sha256: (?P<digest>[0-9a-f]{64}|) -->\n?")
_INCLUDE = re.compile(r"^```\{include\} (?P<file>\S+)\n(?:.*\n)*?```$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pair:
    """A page in both languages."""

    english: Path
    chinese: Path

    @property
    def name(self) -> str:
        """`guides/faq`, relative to docs/, without language and suffix."""
        return self.english.relative_to(DOCS).as_posix().removesuffix(".en.md")

    def path(self, language: str) -> Path:
        """The file of that language."""
        return self.english if language == "en" else self.chinese

    @property
    def source_digest(self) -> str:
        """The hash of the English text, with what it includes."""
        return hashlib.sha256(with_includes(self.english).encode()).hexdigest()

    @property
    def translated_digest(self) -> str | None:
        """The hash of the English text that the Chinese page was written from; None if it does not say."""
        mark = _MARK.search(self.chinese.read_text(encoding="utf-8")) if self.chinese.exists() else None
        return mark["digest"] if mark else None

    @property
    def problem(self) -> str | None:
        """What is wrong with the pair, and what to type."""
        place = self.chinese.relative_to(DOCS.parent).as_posix()
        if not self.english.exists():
            return f"{place} has no English source ({self.english.name})"
        if not self.chinese.exists():
            return f"{place} is missing: {self.english.name} has no translation"
        if self.translated_digest != self.source_digest:
            return f"{place} is stale: bring it up to date with {self.english.name}, then type: nox -s docs -- --translated {place}"
        return None

    def mark_translated(self) -> None:
        """Write the present hash of the English text into the Chinese page."""
        mark = f"<!-- source-sha256: {self.source_digest} -->\n"
        text = _MARK.sub("", self.chinese.read_text(encoding="utf-8"))
        self.chinese.write_text(mark + text.lstrip("\n"), encoding="utf-8", newline="\n")


def pairs() -> Iterator[Pair]:
    """Every page below docs/ that is written by hand."""
    names = {path.with_name(path.name.removesuffix(suffix)) for suffix in (".en.md", ".zh-TW.md") for path in DOCS.rglob(f"*{suffix}")}
    for name in sorted(names):
        yield Pair(name.with_name(name.name + ".en.md"), name.with_name(name.name + ".zh-TW.md"))


def text_of(path: Path) -> str:
    """A page as it is staged: without its mark, what it includes written out with links that lead to pages."""
    return _MARK.sub("", with_includes(path, links=True)).lstrip("\n")


def with_includes(path: Path, links: bool = False) -> str:
    """A page with each ```{include} FILE``` replaced by that file."""

    def included(found: re.Match[str]) -> str:
        file = (path.parent / found["file"]).resolve()
        text = file.read_text(encoding="utf-8").rstrip("\n")
        return to_pages(text, file.parent) if links else text

    return _INCLUDE.sub(included, path.read_text(encoding="utf-8"))
