"""The course beyond its labs: `docs/paths.toml` -> modules, chapters, planned labs and learning paths.

Stdlib only: `nox -s progress` and the site read it. A lab belongs to a path if a stage of the path names it, or if its own
`lab.toml` names the path: then it stands in the stage of its chapter, so that a new lab needs no line here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onepiece.course import toml_table
from onepiece.course.catalog import LAB_ID, PATHS, Course, Lab
from onepiece.course.errors import UserError
from onepiece.course.places import ROOT
from onepiece.course.text import Text
from onepiece.course.toml_table import Table, at

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
    start: str = ""  # id of the lab to begin with; empty: the first of the course

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
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    table = toml_table.read(file, lambda where, what: UserError("bad-paths", where=at(place.as_posix(), where), what=what))
    modules, chapters = table.texts("modules"), table.texts("chapters")
    planned = _lab_ids(table, "planned")
    start = table.string("start", "")
    known = {*planned, *(lab.id for lab in labs)}
    if start and start not in known:
        raise table.bad("start", start, "the id of a lab")
    paths = tuple(_with_labs(_path(item, chapters, known), labs) for item in table.tables("paths"))
    if sorted(path.id for path in paths) != sorted(PATHS):
        raise table.bad("paths", ", ".join(path.id for path in paths) or "none", f"one [[paths]] table for each of {', '.join(PATHS)}")
    table.refuse_unknown()
    return Syllabus(modules, chapters, planned, paths, start)


def _path(table: Table, chapters: Mapping[str, Text], known: set[str]) -> LearningPath:
    path_id = table.choice("id", PATHS)
    table = table.named(path_id)
    table.take("id")
    stages = tuple(_stage(stage.named(f"{path_id}, stage {number}")) for number, stage in enumerate(table.tables("stages"), start=1))
    if not stages:
        raise table.bad("stages", "none", "[[paths.stages]] tables")
    made = LearningPath(path_id, table.text("title"), table.text("summary"), stages)
    table.refuse_unknown()
    for what, found, allowed in (
        ("chapter", [chapter for stage in stages for chapter in stage.chapters], set(chapters)),
        ("lab", list(made.labs), known),
    ):
        wrong = [item for item in found if item not in allowed or found.count(item) > 1]
        if wrong:
            raise table.wrong(f"{what} {wrong[0]} is named twice, or is neither planned nor there")
    return made


def _stage(table: Table) -> Stage:
    stage = Stage(table.text("title"), table.strings("chapters", default=()), _lab_ids(table, "labs", default=()))
    table.refuse_unknown()
    return stage


def _lab_ids(table: Table, key: str, **default: tuple[str, ...]) -> tuple[str, ...]:
    ids = table.strings(key, **default)
    wrong = [lab_id for lab_id in ids if not LAB_ID.fullmatch(lab_id)]
    if wrong:
        raise table.bad(key, repr(wrong[0]), "ids of labs")
    return ids


def _with_labs(path: LearningPath, labs: Sequence[Lab]) -> LearningPath:
    """The path with the labs that name it themselves, each at the end of the stage of its chapter, or of the last stage."""
    stages = list(path.stages)
    for lab in labs:
        if path.id in lab.paths and lab.id not in path.labs:
            place = next((index for index, stage in enumerate(stages) if lab.chapter in stage.chapters), len(stages) - 1)
            stages[place] = replace(stages[place], labs=(*stages[place].labs, lab.id))
    return replace(path, stages=tuple(stages))
