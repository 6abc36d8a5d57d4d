"""From records to a verdict. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onepiece.course.catalog import Gate
from onepiece.course.json_numbers import encode_number


@dataclass(frozen=True, slots=True)
class Record:
    """One measured value."""

    metric: str
    value: float
    seed: int | None
    variant: str | None
    notebook: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate, what was measured for it, and whether it held.

    `passed` is None if it was not judged in this run, and `reason` says why: its notebook was not run, or an
    optional part is missing here. `control_missed` is None if the gate has no control, and likewise `null_missed`.
    """

    gate: Gate
    value: float | None
    passed: bool | None
    control_value: float | None
    control_missed: bool | None
    reason: str | None = None
    null_value: float | None = None
    null_missed: bool | None = None

    @property
    def ok(self) -> bool:
        """True unless the gate, its control or its null system is known to be wrong."""
        return False not in (self.passed, self.control_missed, self.null_missed)


def within(gate: Gate, value: float) -> bool:
    """Does a value keep the bound? A NaN never does."""
    if math.isnan(value):
        return False
    if gate.max is not None:
        return value <= gate.max
    if gate.min is not None:
        return value >= gate.min
    return value == gate.equals


def judge(gate: Gate, records: Sequence[Record], *, expected: bool = True, missing_extras: Sequence[str] = ()) -> Judged:
    """Judge one gate.

    Over "every" seed, the gate holds if all values keep the bound and the control (the null system) misses if none does; over
    the "mean", all look at the mean. The value shown is the worst one, and for a control the one nearest to passing.

    Args:
        gate: what must hold.
        records: everything that the run recorded.
        expected: whether the notebooks that record the metric were all run to the end.
        missing_extras: optional parts that this machine cannot have.
    """
    absent = [extra for extra in gate.requires if extra in missing_extras]
    if absent:
        return Judged(gate, None, None, None, None, f"needs {', '.join(absent)}")
    values, control, null = (
        [record.value for record in records if record.metric == gate.metric and record.variant == variant]
        for variant in (None, gate.control, gate.null)
    )
    if not expected and (not values or (gate.control and not control) or (gate.null and not null)):
        return Judged(gate, None, None, None, None, "not run")
    if not values:
        return Judged(gate, None, False, None, None, "not recorded")
    passed = all(within(gate, value) for value in _aggregate(gate, values))
    contrasts = [_contrast(gate, found) if variant else (None, None) for variant, found in ((gate.control, control), (gate.null, null))]
    absent = [name for name, (value, missed) in zip(("control", "null"), contrasts, strict=True) if value is None and missed is False]
    reason = f"{' and '.join(absent)} not recorded" if absent else None
    return Judged(gate, _worst(gate, _aggregate(gate, values)), passed, *contrasts[0], reason, *contrasts[1])


def _contrast(gate: Gate, values: Sequence[float]) -> tuple[float | None, bool]:
    """Of what must miss: the value nearest to passing, and whether it missed. What nobody measured did not."""
    if not values:
        return None, False
    found = _aggregate(gate, values)
    return _best(gate, found), not any(within(gate, value) for value in found)


def _mean(values: Sequence[float]) -> float:
    """Unlike statistics.fmean it has an answer for [inf, -inf]: nan."""
    return sum(values) / len(values)


def _aggregate(gate: Gate, values: Sequence[float]) -> list[float]:
    return [_mean(values)] if gate.over == "mean" else list(values)


def _distance(gate: Gate, value: float) -> float:
    """How far on the wrong side of the bound; larger is worse."""
    if math.isnan(value):
        return math.inf
    if gate.max is not None:
        return value - gate.max
    if gate.min is not None:
        return gate.min - value
    return abs(value - float(gate.equals or 0))


def _worst(gate: Gate, values: Sequence[float]) -> float:
    return max(values, key=lambda value: _distance(gate, value))


def _best(gate: Gate, values: Sequence[float]) -> float:
    return min(values, key=lambda value: _distance(gate, value))


def as_json(judged: Judged) -> dict[str, Any]:
    """One entry of `gates` in results.json."""
    gate = judged.gate

    def contrast(variant: str | None, value: float | None, missed: bool | None) -> dict[str, Any] | None:
        return None if variant is None else {"variant": variant, "value": encode_number(value), "missed": missed}

    return {
        "metric": gate.metric,
        "objective": {"en": gate.objective.en, "zh-TW": gate.objective.zh_tw},
        "bound": gate.bound,
        "over": gate.over,
        "value": encode_number(judged.value),
        "passed": judged.passed,
        "reason": judged.reason,
        "control": contrast(gate.control, judged.control_value, judged.control_missed),
        "null": contrast(gate.null, judged.null_value, judged.null_missed),
    }


def measured(records: Sequence[Record]) -> Mapping[str, float]:
    """Metric -> the mean over its seeds, without variants: what a prediction is compared with."""
    values: dict[str, list[float]] = {}
    for record in records:
        if record.variant is None:
            values.setdefault(record.metric, []).append(float(record.value))
    return {metric: _mean(found) for metric, found in values.items()}
