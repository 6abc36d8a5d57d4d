"""The rows of the family's table come from published results, and only rows that were measured alike stand in one table."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from onepiece.course.family_rows import ONCE, PER_TASK, PROTOCOL, SEEDS, TASKS, NotComparable, expect_comparable, rows_of


def record(metric: str, value: float | str, seed: int | None = None, variant: str | None = None) -> dict[str, Any]:
    return {"metric": metric, "value": value, "seed": seed, "variant": variant, "notebook": "02-train"}


def results(variant: str | None = None, **changes: Any) -> dict[str, Any]:
    once = {"protocol": PROTOCOL, "trained": 50, "total": 1000, "file_bytes": 300, "peak_bytes": 9, "token_ratio": 1.25, "mergeable": 1.0}
    records = [record(f"family_{column}", once[column], variant=variant) for column in ONCE]
    for number, task in enumerate(TASKS):
        for seed in SEEDS:
            values = {"accuracy": 0.1 * number + 0.01 * seed, "steps": 200, "steps_to_goal": "inf", "cpu_seconds_to_goal": "inf"}
            records += [record(f"family_{task}_{column}", values[column], seed, variant) for column in PER_TASK]
        records.append(record(f"family_{task}_kept_facts", 0.75, variant=variant))
    records.append(record("another_metric", 1.0))
    versions = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}
    return {"lab": "lab-9.1-toy", "records": records, "versions": versions, "settings": {"base_model": "tiny"}} | changes


def test_a_row_says_what_was_recorded() -> None:
    made = results()
    made["records"] += [entry for entry in results("full")["records"] if entry["variant"]]
    row, beside = rows_of(made)
    assert (row.lab, row.variant, beside.variant, row.base_model) == ("lab-9.1-toy", None, "full", "tiny")
    assert row.share == 0.05
    assert row.mean("compose") == pytest.approx(0.11)
    assert row.mean("compose", "steps_to_goal") == float("inf"), "never reached"
    assert row.kept == {(task, "facts"): 0.75 for task in TASKS}
    assert beside.by_seed["relabel", "accuracy"] == {0: 0.0, 1: 0.01, 2: 0.02}


def test_a_lab_of_another_family_has_no_row() -> None:
    assert rows_of(results(records=[record("error", 0.5)])) == []


def without(metric: str, seed: int | None = None) -> dict[str, Any]:
    made = results()
    made["records"] = [entry for entry in made["records"] if (entry["metric"], entry["seed"]) != (metric, seed)]
    return made


def other(metric: str, **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(results())
    next(entry for entry in made["records"] if entry["metric"] == metric).update(changes)
    return made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (without("family_trained"), "lacks trained"),
        (without("family_relabel_accuracy", 2), "relabel_accuracy is of the seeds"),
        (other("family_compose_accuracy", seed=7), "compose_accuracy is of the seeds"),
        (other("family_protocol", value=PROTOCOL + 1), f"by protocol {PROTOCOL + 1}"),
    ],
)
def test_a_row_that_is_not_whole_or_was_measured_otherwise_is_refused(made: dict[str, Any], says: str) -> None:
    with pytest.raises(NotComparable, match=says):
        rows_of(made)


def test_rows_of_two_versions_of_a_library_are_not_compared() -> None:
    rows = [*rows_of(results()), *rows_of(results(versions={"torch": "2.13.0+cpu", "transformers": "5.24.0"}))]
    expect_comparable(rows[:1])
    with pytest.raises(NotComparable, match=r"transformers 5\.24\.0"):
        expect_comparable(rows)
