"""The tests, in parts, with the time of each: what `nox -s tests` runs.

    nox -s tests                     # all that this machine can do; of the labs only the first exemplar is run whole
    nox -s tests -- lab-1.1.1-lora   # everything about one lab: structure, checks, mutants, the whole run, and in its image
    nox -s tests -- tests/unit -k quiz   # whatever pytest takes
    nox -s tests -- --faults             # the tests that inject a fault or an attack (docs/faults), and how many were survived

Lab floor tests run in the lab's environment. Of the others most run on all cores; those that need the machine to themselves (a
whole lab, a container engine, real servers) run after them, one after the other. Tests with a container engine take many minutes:
they run if `ONEPIECE_REQUIRE` names docker, or if they are named. Of the labs that `nox -s new-lab` makes only one kind is run whole:
`ONEPIECE_SCAFFOLDS=all`, or `serving,peft`, says which.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
LAB_FLOOR = "tests/lab_floor"
_LAB = re.compile(r"lab-\d")
_NOTHING_COLLECTED = 5  # pytest's exit code


@dataclass
class Parts:
    """What ran, how long it took, and whether it was good."""

    lab_python: str
    rows: list[tuple[str, float, bool]] = field(default_factory=list)

    def run(self, name: str, *command: str, **environ: str) -> None:
        """Run one part to its end, whatever became of those before it."""
        print(f"\n== {name}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=os.environ | environ).returncode
        self.rows.append((name, time.monotonic() - began, code in (0, _NOTHING_COLLECTED)))

    def pytest(self, name: str, *arguments: str, lab_floor: bool = False, **environ: str) -> None:
        """Run pytest, in the lab's environment or in that of the other tests."""
        self.run(name, self.lab_python if lab_floor else sys.executable, "-m", "pytest", *arguments, **environ)

    def end(self) -> int:
        """Print the table; 1 if any part was not good."""
        print("\npart                                     minutes")
        for name, seconds, good in self.rows:
            print(f"{name:40} {seconds / 60:7.1f}  {'' if good else 'FAILED'}".rstrip())
        print(f"{'all':40} {sum(seconds for _, seconds, _ in self.rows) / 60:7.1f}", flush=True)
        return 0 if all(good for *_, good in self.rows) else 1


def everything(parts: Parts) -> None:
    """All that this machine can do."""
    parts.run("ruff", sys.executable, "-m", "ruff", "check", ".")
    parts.pytest("lab floor", LAB_FLOOR, lab_floor=True)
    # One thread of PyTorch to a worker: two on two cores wait for each other. By group (conftest.py): its fixtures are made once.
    workers = str(os.cpu_count() or 2)
    parts.pytest("the others, side by side", "tests", "-m", "not alone", "-n", workers, "--dist", "loadgroup", OMP_NUM_THREADS="1")
    parts.pytest("whole labs, engine and servers", "tests", "-m", "alone", "--durations=15")


def about_labs(parts: Parts, labs: Sequence[str]) -> None:
    """Everything about some labs."""
    words = " or ".join(labs)
    for path in sorted((TESTS / "lab_floor" / "methods").glob("test_*.py")):
        if any(lab in path.read_text(encoding="utf-8") for lab in labs):
            parts.pytest(f"methods: {path.stem}", path.relative_to(ROOT).as_posix(), lab_floor=True)
    parts.pytest("labs", "tests/labs", "tests/docs", "tests/images", "-k", words, ONEPIECE_LABS=",".join(labs))


def faults(parts: Parts, more: Sequence[str]) -> int:
    """Every test that injects a fault, on both floors; 0 if all that could be tried were survived. `more` goes to pytest, such as `-k`."""
    with tempfile.TemporaryDirectory(prefix="onepiece-") as place:
        log = Path(place) / "faults.jsonl"
        noted = {"ONEPIECE_FAULTS_LOG": str(log)}
        workers = str(os.cpu_count() or 2)
        parts.pytest("lab floor", LAB_FLOOR, "-m", "fault", *more, lab_floor=True, **noted)
        parts.pytest(
            "side by side", "tests", *more, "-m", "fault and not alone", "-n", workers, "--dist", "loadgroup", OMP_NUM_THREADS="1", **noted
        )
        parts.pytest("one by one", "tests", "-m", "fault and alone", *more, **noted)
        code = parts.end()
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    told = [entry["id"] for path in sorted((ROOT / "docs" / "faults").glob("*.toml")) for entry in _table(path)["faults"]]
    survived, verdict = count_faults(told, [json.loads(line) for line in lines])
    print("\n" + verdict, flush=True)
    return code if survived else 1


def _table(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def count_faults(told: Sequence[str], noted: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    """Whether every fault that could be tried was survived, and the lines that say so.

    Args:
        told: the ids of the entries in docs/faults.
        noted: what `conftest.py` noted of each test that is marked with a fault.
    """
    outcomes: dict[str, set[str]] = {fault: set() for fault in told}
    reasons: dict[str, str] = {}
    for note in noted:
        for fault in note["faults"]:
            outcomes.setdefault(fault, set()).add(note["outcome"])
            if note["why"]:
                reasons.setdefault(fault, note["why"])
    harmed = [fault for fault, ends in outcomes.items() if "failed" in ends]
    untried = [fault for fault, ends in outcomes.items() if not ends & {"passed", "failed"}]
    tried = len(outcomes) - len(untried)
    lines = [f"not tried here: {fault}: {reasons.get(fault, 'none of its tests ran')}" for fault in untried]
    lines += [f"NOT SURVIVED: {fault}" for fault in harmed]
    lines.append(f"{tried - len(harmed)} of {tried} faults survived" + (f", {len(untried)} not tried here" if untried else ""))
    return not harmed and tried > 0, "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; exit 0 only if every part was good."""
    parser = argparse.ArgumentParser(prog="nox -s tests --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab-python", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--faults", action="store_true", help=argparse.SUPPRESS)  # the text above tells
    options, words = parser.parse_known_args(arguments)
    parts = Parts(options.lab_python)
    labs = [word for word in words if _LAB.match(word)]
    if options.faults:
        return faults(parts, words)
    if not words:
        everything(parts)
    elif labs == words:
        about_labs(parts, labs)
    else:
        floor = any(word.startswith(LAB_FLOOR) for word in words)
        parts.pytest("pytest", *words, lab_floor=floor)
        return 0 if parts.rows[-1][2] else 1
    return parts.end()


if __name__ == "__main__":
    sys.exit(main())
