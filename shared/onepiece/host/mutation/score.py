"""Which mutants a lab's checks notice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.host.mutation.declared import Declared, refused
from onepiece.host.mutation.mutants import Mutant
from onepiece.host.road.checks import WarmChecks

ENOUGH = 0.95  # of the mutants that can be noticed
FATES = ("killed", "timed_out", "survived", "equivalent")
_PATIENCE = 10  # times what the reference takes
_LEAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A mutant, and what became of it, one of `FATES`."""

    mutant: Mutant
    fate: str


def patience(lab: Lab, warm: WarmChecks) -> float:
    """How many seconds a mutant may take: many times what the reference does.

    Raises:
        UserError: "reference-fails": mutants of what is wrong itself say nothing.
    """
    seconds = 0.0
    for _ in range(2):  # after the first time the process has imported everything
        began = time.monotonic()
        checked = warm.check(lab)
        seconds = time.monotonic() - began
        if not checked.passed:
            wrong = [f"{number} ({status})" for number, status in checked.statuses.items() if status != "passed"]
            raise UserError("reference-fails", lab=lab.id, exercises=", ".join(wrong) or "-")
    return max(_LEAST_SECONDS, _PATIENCE * seconds)


def judge(lab: Lab, warm: WarmChecks, mutants: Sequence[Mutant], declared: Declared, seconds: float) -> Iterator[Judged]:
    """Let the checks look at one mutant after the other.

    One that is said to be equivalent is looked at like any other.

    Raises:
        UserError: "bad-mutants": a check tells it from the reference.
    """
    for mutant in mutants:
        checked = warm.check(lab, replace={mutant.module: mutant.source}, stop=True, seconds=seconds)
        fate = "timed_out" if checked.timed_out else "survived" if checked.passed else "killed"
        if mutant in declared.equivalent:
            if fate != "survived":
                raise refused(lab, "equivalent", f"a check tells this one from the reference: {mutant}")
            fate = "equivalent"
        yield Judged(mutant, fate)


def sample(mutants: Sequence[Mutant], size: int | None) -> list[Mutant]:
    """At most `size` of them, evenly spread and always the same; all of them, if that is None."""
    if size is None or size >= len(mutants):
        return list(mutants)
    return [mutants[index * len(mutants) // size] for index in range(size)]


def share_killed(judged: Sequence[Judged]) -> float:
    """Of the mutants that can be noticed, the share that was: who never ends is noticed too. 1 if there are none."""
    counted = [item.fate != "survived" for item in judged if item.fate != "equivalent"]
    return sum(counted) / len(counted) if counted else 1.0


def counts(judged: Sequence[Judged]) -> dict[int, dict[str, int]]:
    """Exercise -> fate -> how many."""
    found: dict[int, dict[str, int]] = {}
    for item in sorted(judged, key=lambda item: item.mutant.exercise):
        found.setdefault(item.mutant.exercise, dict.fromkeys(FATES, 0))[item.fate] += 1
    return found
