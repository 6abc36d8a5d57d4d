"""Which labs are run whole before a change lands, and why: `ONEPIECE_LABS=$(python tests/whole_runs.py)`.

Forty labs take hours. What a change can have broken is run, as much of it as fits; the others are covered by their published results,
which a test holds to the present sources. In this order, until the declared minutes are spent:

1. the first exemplar, which the README promises;
2. labs that did not fit the last time on this machine, if it remembers (`ONEPIECE_WHOLE_RUNS_FILE`);
3. labs whose own files or image the commits of the last hours touched;
4. labs that import a shared module which they touched;
5. labs whose published results are older than a shared module that they import;
6. a handful in turn, by the date.

Standard library only: `.ci/run` calls it before anything is installed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "shared"))

from onepiece.course import catalog  # noqa: E402 -- found through the line above
from onepiece.course.catalog import Lab  # noqa: E402
from onepiece.host.road import shared_modules  # noqa: E402

EXEMPLAR = "lab-1.5-flashattention"
HOURS = 12
MINUTES = 15.0
HANDFUL = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """A lab that should be run whole."""

    lab: str
    why: str
    minutes: float  # declared, of the cpu profile


@dataclass(frozen=True, slots=True)
class Selection:
    """What is run, in this order, and what did not fit."""

    run: tuple[Choice, ...]
    left: tuple[Choice, ...]
    covered: tuple[str, ...] = ()  # the other labs, for which their published results stand

    @property
    def ids(self) -> list[str]:
        """The labs that are run."""
        return [choice.lab for choice in self.run]

    def lines(self) -> list[str]:
        """What to tell a reader of the output."""
        spent = sum(choice.minutes for choice in self.run)
        lines = [f"whole runs: {len(self.run)} labs, {spent:g} declared minutes"]
        lines += [f"  run   {choice.lab:36} {choice.minutes:3g} min  {choice.why}" for choice in self.run]
        lines += [f"  later {choice.lab:36} {choice.minutes:3g} min  {choice.why}" for choice in self.left]
        if self.covered:
            lines.append(f"  not run, published results stand: {', '.join(self.covered)}")
        return lines


def select(
    labs: Sequence[Lab],
    changed: Iterable[str],
    *,
    modules: Mapping[str, Mapping[str, str]],
    older: Iterable[str] = (),
    left_before: Iterable[str] = (),
    day: int = 0,
    minutes: float = MINUTES,
) -> Selection:
    """Choose labs, each once, for the first reason that it has.

    Args:
        labs: the course.
        changed: paths below the checkout that the last commits touched, with `/`.
        modules: lab id -> path of each shared module that it imports -> the module's name.
        older: labs whose published results are older than a shared module of theirs.
        left_before: labs that did not fit the last time.
        day: days since any day: whose turn it is.
        minutes: how many declared minutes may be run; the first choice is run whatever it takes.
    """
    by_id = {lab.id: lab for lab in labs}
    reasons: dict[str, str] = {}
    for lab_id, why in _reasons(labs, set(changed), modules, older, left_before, day):
        if lab_id in by_id:
            reasons.setdefault(lab_id, why)
    run: list[Choice] = []
    left: list[Choice] = []
    for lab_id, why in reasons.items():
        choice = Choice(lab_id, why, by_id[lab_id].profiles["cpu"].minutes)
        fits = not run or sum(chosen.minutes for chosen in run) + choice.minutes <= minutes
        (run if fits else left).append(choice)
    return Selection(tuple(run), tuple(left), tuple(lab.id for lab in labs if lab.id not in reasons))


def _reasons(
    labs: Sequence[Lab],
    changed: set[str],
    modules: Mapping[str, Mapping[str, str]],
    older: Iterable[str],
    left_before: Iterable[str],
    day: int,
) -> Iterator[tuple[str, str]]:
    yield EXEMPLAR, "the first exemplar"
    yield from ((lab_id, "did not fit the last time") for lab_id in left_before)
    for lab in labs:
        own = sorted(path for path in changed if path.startswith((f"labs/{lab.id}/", f"images/{lab.id}/")) and _is_run(path))
        if own:
            yield lab.id, f"touched: {own[0]}" + (f" and {len(own) - 1} more" if len(own) > 1 else "")
    for lab in labs:
        shared = sorted(name for path, name in modules[lab.id].items() if path in changed)
        if shared:
            yield lab.id, f"imports {', '.join(shared)}"
    yield from ((lab_id, "published results are older than a shared module") for lab_id in older)
    for turn in range(min(HANDFUL, len(labs))):
        yield labs[(day * HANDFUL + turn) % len(labs)].id, "its turn"


def _is_run(path: str) -> bool:
    """Texts, quizzes and published results are not what a run runs."""
    return path.endswith((".py", "/lab.toml", "/Dockerfile"))


# --- what is so in this checkout -----------------------------------------------------------------


def changed_paths(hours: float = HOURS) -> set[str]:
    """Paths that commits of the last hours touched, or that differ from the last commit. All of them where there is no git."""
    found: set[str] = set()
    since = f"--since={hours:g} hours ago"
    for arguments in (["log", since, "--name-only", "--format="], ["diff", "--name-only", "HEAD"]):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            return {path.relative_to(ROOT).as_posix() for path in (ROOT / "labs").glob("*/lab.toml")}
        found |= set(done.stdout.split("\n")) - {""}
    return found


def results_are_older(lab: Lab) -> bool:
    """Were the lab's results on a CPU published before a shared module of its changed?"""
    try:
        results = json.loads((lab.directory / "results" / "cpu-cpu.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return results.get("shared_sha256") != shared_modules.shared_hash(lab)


def of_this_checkout(hours: float = HOURS, minutes: float = MINUTES) -> Selection:
    """What to run here and now."""
    labs = catalog.load().labs
    modules = {lab.id: {path.relative_to(ROOT).as_posix(): name for name, path in shared_modules.of_lab(lab).items()} for lab in labs}
    older = [lab.id for lab in labs if results_are_older(lab)]
    today = datetime.datetime.now(datetime.UTC).date().toordinal()
    return select(
        labs, changed_paths(hours), modules=modules, older=older, left_before=_remembered(), day=today, minutes=minutes
    )  # fmt: skip


def _memory() -> Path | None:
    path = os.environ.get("ONEPIECE_WHOLE_RUNS_FILE")
    return Path(path) if path else None


def _remembered() -> list[str]:
    memory = _memory()
    try:
        found = json.loads(memory.read_text(encoding="utf-8")) if memory else []
    except (OSError, ValueError):
        return []
    return [lab_id for lab_id in found if isinstance(lab_id, str)] if isinstance(found, list) else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the labs, one comma-separated line on standard output, the reasons on standard error."""
    parser = argparse.ArgumentParser(prog="python tests/whole_runs.py", description="Which labs to run whole, and why.")
    parser.add_argument("--hours", type=float, default=HOURS, help="commits of the last so many hours count (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="declared minutes that may be run (%(default)s)")
    options = parser.parse_args(arguments)
    selection = of_this_checkout(options.hours, options.minutes)
    print(*selection.lines(), sep="\n", file=sys.stderr)
    print(",".join(selection.ids))
    memory = _memory()
    if memory:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps([choice.lab for choice in selection.left]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
