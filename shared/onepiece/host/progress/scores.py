"""The best score of each lab, machine and author, computed from events. Scores of other metrics or machines never compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onepiece.course.json_numbers import decode_number
from onepiece.course.text import tr
from onepiece.host.progress.events import Event

Key = tuple[str, str, str, str, bool]


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of one run."""

    lab: str
    metric: str
    profile: str
    machine: str
    mine: bool  # of the learner's modules, not of the reference
    value: float
    unit: str
    better: str  # "higher" or "lower"

    @property
    def comparable(self) -> Key:
        """Scores compare where this is equal."""
        return self.lab, self.metric, self.profile, self.machine, self.mine

    @property
    def whose(self) -> str:
        """Whose code ran."""
        return tr("mine", "我的") if self.mine else tr("reference", "參考解")

    def beats(self, other: Scored) -> bool:
        """Is it better, not only as good?"""
        return self.value > other.value if self.better == "higher" else self.value < other.value

    def __str__(self) -> str:
        return f"{self.value:.4g}{' ' if self.unit else ''}{self.unit}"


def scored(run: Event) -> Scored | None:
    """The score of a run that passed: of one that missed a gate it says nothing."""
    values = run.values
    score = values.get("score")
    if run.kind != "lab_run" or values.get("status") != "passed" or not isinstance(score, Mapping):
        return None
    value = _number(score.get("value"))
    if value is None or value != value or score.get("better") not in ("higher", "lower"):  # NaN compares with nothing
        return None
    texts = [score.get("metric"), values.get("profile"), values.get("machine"), score.get("unit")]
    if not all(isinstance(text, str) for text in texts):  # of a later version, or edited
        return None
    metric, profile, machine, unit = map(str, texts)
    return Scored(run.subject, metric, profile, machine, values.get("mine") is True, value, unit, str(score["better"]))


def best(events: Iterable[Event]) -> dict[Key, Scored]:
    """The best score of each kind, by the order in which kinds came first."""
    found: dict[Key, Scored] = {}
    for run in events:
        one = scored(run)
        if one is not None and (one.comparable not in found or one.beats(found[one.comparable])):
            found[one.comparable] = one
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(decode_number(value))
    except ValueError:
        return None
