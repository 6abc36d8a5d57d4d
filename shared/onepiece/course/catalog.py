"""The course as data: every lab in order, and what is wrong with those that cannot be read.

Stdlib only and quick: the noxfile reads the whole course on each start. What needs the notebooks' sources
(a gate on a metric that nothing records, a missing translation) is in `onepiece.host.road.sources`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.course.declarations import LAB_ID, LEVELS, PATHS, PROFILES, Gate, Lab, Profile, Score
from onepiece.course.errors import UserError
from onepiece.course.manifest import manifest_table, read_manifest
from onepiece.course.places import LABS

__all__ = [
    "LAB_ID",
    "LEVELS",
    "PATHS",
    "PROFILES",
    "Course",
    "Gate",
    "Lab",
    "Profile",
    "Score",
    "environment_name",
    "load",
    "read_manifest",
]


@dataclass(frozen=True, slots=True)
class Course:
    """Every lab in order, and what is wrong with those that could not be read."""

    labs: tuple[Lab, ...]
    problems: Mapping[str, tuple[UserError, ...]] = field(default_factory=dict)

    def lab(self, lab_id: str) -> Lab:
        """The lab `lab_id`, or the only one that it is the beginning of (`lab-1.5`)."""
        by_id = {lab.id: lab for lab in self.labs}
        if lab_id in by_id:
            return by_id[lab_id]
        if lab_id in self.problems:
            raise self.problems[lab_id][0]
        begins = [lab for lab in self.labs if lab.id.startswith(lab_id + "-")]
        if len(begins) == 1:
            return begins[0]
        raise UserError("unknown-lab", lab=lab_id, nearest=self.nearest(lab_id))

    def nearest(self, lab_id: str) -> str:
        """The existing id that looks most like `lab_id`."""
        return nearest(lab_id, [lab.id for lab in self.labs]) or "..."


def nearest(typed: str, ids: Iterable[str]) -> str | None:
    """The id that was meant: one with `typed` in it, whole parts before others (`1.1.4` is no `1.1.5`), or else the one most like it."""
    ids = list(ids)
    parts = [each for each in ids if f"-{typed}-" in f"-{each}-"]
    within = parts or [each for each in ids if typed in each]
    return next(iter(difflib.get_close_matches(typed, within or ids, n=1, cutoff=0.0)), None)


def load(labs_directory: Path = LABS) -> Course:
    """Read every manifest below `labs_directory`, in course order. A bad one is set aside, not raised.

    The images that the manifests name are looked for in `images/` beside it.
    """
    labs: list[Lab] = []
    problems: dict[str, tuple[UserError, ...]] = {}
    for manifest in sorted(labs_directory.glob("*/lab.toml")):
        try:
            labs.append(read_manifest(manifest))
        except UserError as error:
            problems[manifest.parent.name] = (error,)
    labs.sort(key=_course_order)
    for lab, error in (*_relations(labs, set(problems)), *_images(labs, labs_directory.parent / "images")):
        problems[lab.id] = (*problems.get(lab.id, ()), error)
    return Course(tuple(lab for lab in labs if lab.id not in problems), problems)


def environment_name(lab_id: str) -> str:
    """The id as directory, image and Python names see it, where dots and dashes are one."""
    return re.sub(r"[^a-z0-9]+", "-", lab_id.lower())


def _course_order(lab: Lab) -> tuple[list[int], str]:
    numbers = lab.id.removeprefix("lab-").split("-")[0]
    return [int(number) for number in numbers.split(".")], lab.id


def _bad(lab: Lab, key: str, found: str, allowed: str) -> tuple[Lab, UserError]:
    return lab, manifest_table(lab.directory / "lab.toml").bad(key, found, allowed)


def _relations(labs: list[Lab], broken: set[str]) -> Iterator[tuple[Lab, UserError]]:
    """What only shows when the labs are seen together."""
    by_id = {lab.id: lab for lab in labs}
    by_environment: dict[str, Lab] = {}
    by_number: dict[str, Lab] = {}
    for lab in labs:
        other = by_environment.setdefault(environment_name(lab.id), lab)
        if other is not lab:
            yield _bad(lab, "id", f"{lab.id} and {other.id} collapse to one environment name", "ids that differ in letters or digits")
        other = by_number.setdefault(lab.id.split("-")[1], lab)
        if other is not lab:
            yield _bad(lab, "id", f"duplicate id: {other.id} has the same number", "one lab per number")
        for required in lab.requires:
            if required not in by_id and required not in broken:
                yield _bad(lab, "requires", repr(required), "ids of existing labs")
    for lab in labs:
        cycle = _cycle_from(lab, by_id)
        if cycle:
            yield _bad(lab, "requires", f"a cycle: {' -> '.join(cycle)}", "prerequisites without a cycle")


def _images(labs: list[Lab], directory: Path) -> Iterator[tuple[Lab, UserError]]:
    """What a manifest names of `images/` and is not there, and an image of the lab's own that nobody wrote."""
    if not directory.is_dir():  # a directory of labs alone, which no image is built for
        return
    groups = {path.parent.name for path in directory.glob("*/Dockerfile") if not LAB_ID.fullmatch(path.parent.name)}
    extras = {path.stem.removeprefix("extra-") for path in directory.glob("*/extra-*.txt")}
    for lab in labs:
        if lab.image not in groups:
            yield _bad(lab, "image", repr(lab.image), " | ".join(sorted(groups)))
        if not (directory / lab.id / "Dockerfile").is_file():
            yield _bad(lab, "id", f"no images/{lab.id}/Dockerfile", "labs with an image of their own")
        for extra in lab.extras:
            if extra not in extras:
                yield _bad(lab, "extras", repr(extra), " | ".join(sorted(extras)))


def _cycle_from(start: Lab, by_id: Mapping[str, Lab]) -> list[str]:
    """A path from `start` back to itself along `requires`; empty if there is none."""
    stack = [(start, [start.id])]
    seen: set[str] = set()
    while stack:
        lab, path = stack.pop()
        for required in lab.requires:
            if required == start.id:
                return [*path, required]
            if required in by_id and required not in seen:
                seen.add(required)
                stack.append((by_id[required], [*path, required]))
    return []
