"""The course as the site sees it: the catalog, the syllabus, and which chapters have a page."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from onepiece.course import catalog, learning_paths
from onepiece.course.catalog import Lab
from onepiece.course.places import LABS, ROOT
from onepiece.course.text import Text

DOCS = ROOT / "docs"
CHAPTERS = DOCS / "chapters"
_CHAPTER_DIRECTORY = re.compile(r"(\d+\.\d+)-[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class Chapter:
    """A theory chapter; `directory` is None as long as nobody wrote it."""

    number: str
    title: Text
    directory: Path | None

    @property
    def page(self) -> str | None:
        """Its document, without suffix."""
        return f"chapters/{self.directory.name}/index" if self.directory else None


def language() -> str:
    """The language of this build, "en" or "zh-TW"."""
    return os.environ["ONEPIECE_LANG"]


@functools.cache
def _course() -> catalog.Course:
    return catalog.load(LABS)


def labs() -> tuple[Lab, ...]:
    """Every lab whose manifest can be read, in course order."""
    return _course().labs


def upcoming() -> tuple[str, ...]:
    """Ids of planned labs that do not exist yet."""
    return syllabus().upcoming(_course())


def lab(lab_id: str) -> Lab | None:
    """The lab of that id, if it is in the course already."""
    return next((found for found in labs() if found.id == lab_id), None)


@functools.cache
def syllabus() -> learning_paths.Syllabus:
    """Modules, chapters, planned labs and paths."""
    return learning_paths.load(labs=labs())


@functools.cache
def chapters() -> tuple[Chapter, ...]:
    """Every chapter of the course, written or not."""
    written = {match[1]: path for path in sorted(CHAPTERS.glob("*")) if (match := _CHAPTER_DIRECTORY.fullmatch(path.name))}
    readable = {number: path for number, path in written.items() if (path / "index.en.md").exists() and (path / "index.zh-TW.md").exists()}
    return tuple(Chapter(number, title, readable.get(number)) for number, title in syllabus().chapters.items())


def chapter(number: str) -> Chapter | None:
    """The chapter of that number."""
    return next((found for found in chapters() if found.number == number), None)


def is_lab_id(text: str) -> bool:
    """Could this be a lab, now or later?"""
    return catalog.LAB_ID.fullmatch(text) is not None


def strict() -> bool:
    """Is a number that nobody published yet a problem of this build?"""
    return os.environ.get("ONEPIECE_DOCS_STRICT") == "1"
