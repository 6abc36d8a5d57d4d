"""The rows of the table that compares the methods of module 1.1: what labs publish, read from their results and from nothing else.

A lab publishes its row under names that begin with `family_` (`onepiece.adaptation.family` measures and records them); a variant is a
row of its own: the same method otherwise placed, or full fine-tuning beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onepiece.course.json_numbers import decode_number

TASKS = ("relabel", "compose", "new_facts")
SEEDS = (0, 1, 2)
TRAIN_ITEMS, HELD_OUT_ITEMS, BATCH = 6400, 200, 16
GOAL = 0.9
"""The exact match at which a method has reached a task: how many steps and CPU-seconds that takes is in its row."""
PROTOCOL = 1
"""Counted up when a number above, a task or a meaning of a column changes: rows of two protocols are not compared."""

PREFIX = "family_"
ONCE = ("protocol", "trained", "total", "file_bytes", "peak_bytes", "token_ratio", "mergeable")
PER_TASK = ("accuracy", "steps", "steps_to_goal", "cpu_seconds_to_goal")
VERSIONS = ("torch", "transformers")
"""Packages of which two versions may train differently."""


class NotComparable(ValueError):
    """Two rows that were not measured alike, or one that lacks a number."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method, or a variant of it, as one lab measured it."""

    lab: str
    variant: str | None
    once: Mapping[str, float]
    """Column of ONCE -> value."""
    by_seed: Mapping[tuple[str, str], Mapping[int, float]]
    """(task, column of PER_TASK) -> seed -> value; infinite steps: the goal was never reached."""
    kept: Mapping[tuple[str, str], float]
    """(task, skill of pretraining) -> exact match after training on the task with the first seed."""
    versions: Mapping[str, str]
    base_model: str

    @property
    def share(self) -> float:
        """Trained parameters as a share of those of the base."""
        return self.once["trained"] / self.once["total"]

    def mean(self, task: str, column: str = "accuracy") -> float:
        """Over the seeds."""
        values = self.by_seed[task, column].values()
        return sum(values) / len(values)


def rows_of(results: Mapping[str, Any]) -> list[Row]:
    """The rows that published results hold; none if the lab is not of the family.

    Args:
        results: what `results/cpu-cpu.json` of a lab says.

    Raises:
        NotComparable: a row is not whole, or of another protocol, or of other seeds.
    """
    by_variant: dict[str | None, dict[str, dict[int | None, float]]] = {}
    for record in results["records"]:
        if record["metric"].startswith(PREFIX):
            named = by_variant.setdefault(record["variant"], {}).setdefault(record["metric"].removeprefix(PREFIX), {})
            named[record["seed"]] = decode_number(record["value"])
    return [_row(results, variant, found) for variant, found in by_variant.items()]


def _row(results: Mapping[str, Any], variant: str | None, found: Mapping[str, Mapping[int | None, float]]) -> Row:
    name = results["lab"] + (f" ({variant})" if variant else "")
    wanted = [*ONCE, *(f"{task}_{column}" for task in TASKS for column in PER_TASK)]
    if missing := [column for column in wanted if column not in found]:
        raise NotComparable(f"{name} lacks {', '.join(missing)}")
    once = {column: found[column][None] for column in ONCE}
    if once["protocol"] != PROTOCOL:
        raise NotComparable(f"{name} was measured by protocol {once['protocol']:g}, not {PROTOCOL}")
    by_seed = {(task, column): found[f"{task}_{column}"] for task in TASKS for column in PER_TASK}
    for (task, column), values in by_seed.items():
        if tuple(sorted(seed for seed in values if seed is not None)) != SEEDS or None in values:
            raise NotComparable(f"{name}: {task}_{column} is of the seeds {sorted(map(str, values))}, not {SEEDS}")
    kept = {
        (task, metric.removeprefix(f"{task}_kept_")): values[None]
        for metric, values in found.items() for task in TASKS if metric.startswith(f"{task}_kept_")
    }  # fmt: skip
    versions = {package: results["versions"][package] for package in VERSIONS}
    seeded = {key: {seed: value for seed, value in values.items() if seed is not None} for key, values in by_seed.items()}
    return Row(results["lab"], variant, once, seeded, kept, versions, results["settings"]["base_model"])


def expect_comparable(rows: Iterable[Row]) -> None:
    """Rows of one table were measured with the same versions.

    Raises:
        NotComparable: says which differ. Another base model is no error: a row says which it had.
    """
    rows = list(rows)
    for row in rows[1:]:
        for package, version in row.versions.items():
            if version != rows[0].versions[package]:
                raise NotComparable(f"{row.lab} was measured with {package} {version}, {rows[0].lab} with {rows[0].versions[package]}")
