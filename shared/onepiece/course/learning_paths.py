"""The course beyond its labs: `docs/paths.toml` -> modules, chapters, planned labs and learning paths.

Stdlib only: `nox -s progress` and the site read it. A lab belongs to a path if a stage of the path names it, or if its own
`lab.toml` names the path: then it stands in the stage of its chapter, so that a new lab needs no line here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onepiece.course.catalog import LAB_ID, PATHS, Course, Lab
from onepiece.course.errors import UserError
from onepiece.course.places import ROOT
from onepiece.course.text import LANGUAGES, Text

FILE = ROOT / "docs" / "paths.toml"
CHAPTERS = ROOT / "docs" / "chapters"
CHAPTER_DIRECTORY = re.compile(r"(?P<chapter>\d+\.\d+)(-.*)?")


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a path: chapters to read, then labs to run, in this order."""

    title: Text
    chapters: tuple[str, ...]
    labs: tuple[str, ...]  # ids; those that do not exist yet are upcoming


@dataclass(frozen=True, slots=True)
class LearningPath:
    """A way through the course for one kind of reader."""

    id: str  # one of catalog.PATHS
    title: Text
    summary: Text
    stages: tuple[Stage, ...]

    @property
    def labs(self) -> tuple[str, ...]:
        """Every lab of the path, in order."""
        return tuple(lab for stage in self.stages for lab in stage.labs)


@dataclass(frozen=True, slots=True)
class Syllabus:
    """What the course is about, whether its parts exist already or not."""

    modules: Mapping[str, Text] = field(default_factory=dict)  # "1" -> "Core training"
    chapters: Mapping[str, Text] = field(default_factory=dict)  # "1.3" -> "Optimisation and alignment"
    planned: tuple[str, ...] = ()  # ids of all labs that the course will have, in course order
    paths: tuple[LearningPath, ...] = ()

    def path(self, path_id: str) -> LearningPath:
        """The path of that id.

        Raises:
            UserError: "no-path".
        """
        found = next((path for path in self.paths if path.id == path_id), None)
        if found is None:
            raise UserError("no-path", path=path_id, choices=", ".join(path.id for path in self.paths) or "—")
        return found

    def upcoming(self, course: Course) -> tuple[str, ...]:
        """Planned labs that do not exist yet."""
        existing = {lab.id for lab in course.labs} | set(course.problems)
        return tuple(lab_id for lab_id in self.planned if lab_id not in existing)


def written_chapters(directory: Path = CHAPTERS) -> frozenset[str]:
    """The numbers of the chapters that have a text: `docs/chapters/<number>-<name>/*.md`."""
    found = (CHAPTER_DIRECTORY.fullmatch(path.parent.name) for path in directory.glob("*/*.md"))
    return frozenset(chapter["chapter"] for chapter in found if chapter)


def load(file: Path = FILE, labs: Sequence[Lab] = ()) -> Syllabus:
    """Read and check `docs/paths.toml`; an empty syllabus if there is none.

    Args:
        file: where it is.
        labs: the labs that exist; those that name a path in their manifest and stand in none of its stages are added to it.

    Raises:
        UserError: "bad-paths", with what is wrong where.
    """
    if not file.exists():
        return Syllabus()
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(file, f"cannot be read: {error}") from None
    modules, chapters = (_texts(file, table, key) for key in ("modules", "chapters"))
    planned = _lab_ids(file, "planned", table.get("planned"))
    tables = table.get("paths")
    if not isinstance(tables, list) or sorted(str(item.get("id")) for item in tables) != sorted(PATHS):
        raise _bad(file, f"[[paths]] with the ids {', '.join(PATHS)}")
    existing = {lab.id for lab in labs}
    paths = tuple(_with_labs(_path(file, item, chapters, {*planned, *existing}), labs) for item in tables)
    return Syllabus(modules, chapters, planned, paths)


def _path(file: Path, values: dict[str, Any], chapters: Mapping[str, Text], known: set[str]) -> LearningPath:
    path_id = values["id"]
    stages = tuple(
        Stage(
            _text(file, f"{path_id}, stage {number}, title", stage.get("title")),
            tuple(stage.get("chapters", ())),
            _lab_ids(file, f"{path_id}, stage {number}, labs", stage.get("labs", [])),
        )
        for number, stage in enumerate(values.get("stages", []), start=1)
    )
    if not stages:
        raise _bad(file, f"{path_id} has no [[paths.stages]]")
    made = LearningPath(path_id, *(_text(file, f"{path_id}, {key}", values.get(key)) for key in ("title", "summary")), stages)
    for what, found, allowed in (
        ("chapter", [chapter for stage in stages for chapter in stage.chapters], set(chapters)),
        ("lab", list(made.labs), known),
    ):
        wrong = [item for item in found if item not in allowed or found.count(item) > 1]
        if wrong:
            raise _bad(file, f"{path_id}: {what} {wrong[0]} is named twice, or is neither planned nor there")
    return made


def _with_labs(path: LearningPath, labs: Sequence[Lab]) -> LearningPath:
    """The path with the labs that name it themselves, each at the end of the stage of its chapter, or of the last stage."""
    stages = list(path.stages)
    for lab in labs:
        if path.id in lab.paths and lab.id not in path.labs:
            place = next((index for index, stage in enumerate(stages) if lab.chapter in stage.chapters), len(stages) - 1)
            stages[place] = replace(stages[place], labs=(*stages[place].labs, lab.id))
    return replace(path, stages=tuple(stages))


def _texts(file: Path, table: dict[str, Any], key: str) -> dict[str, Text]:
    values = table.get(key)
    if not isinstance(values, dict):
        raise _bad(file, f"[{key}] is missing")
    return {name: _text(file, f"{key}.{name}", value) for name, value in values.items()}


def _text(file: Path, where: str, value: Any) -> Text:
    if (
        not isinstance(value, dict)
        or set(value) != set(LANGUAGES)
        or not all(isinstance(text, str) and text.strip() for text in value.values())
    ):
        raise _bad(file, f'{where} is not {{ en = "...", zh-TW = "..." }}')
    return Text(value["en"], value["zh-TW"])


def _lab_ids(file: Path, where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and LAB_ID.fullmatch(item) for item in value):
        raise _bad(file, f"{where} is not a list of lab ids")
    if len(set(value)) < len(value):
        raise _bad(file, f"{where} names a lab twice")
    return tuple(value)


def _bad(file: Path, what: str) -> UserError:
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return UserError("bad-paths", where=place.as_posix(), what=what)
