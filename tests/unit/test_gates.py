"""From records to a verdict: a gate holds or it does not, and a control that holds is a failure."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onepiece.course.catalog import Gate
from onepiece.course.text import Text
from onepiece.host.road.gates import Judged, Record, as_json, judge, measured, within

NAN, INF = math.nan, math.inf


def gate(**bounds: Any) -> Gate:
    return Gate(metric="error", objective=Text("It is exact", "完全精確"), **bounds)


def records(*values: float, variant: str | None = None, metric: str = "error") -> list[Record]:
    return [Record(metric, value, seed, variant, "01-a") for seed, value in enumerate(values)]


# --- bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"max": 1.0}, [1.0, 0.0, -INF], [1.0000001, INF, NAN]),
        ({"min": 1.0}, [1.0, INF], [0.9999999, -INF, NAN]),
        ({"equals": 2.0}, [2.0, 2], [2.0000001, NAN, INF]),
        ({"equals": True}, [True, 1.0], [False, 0.0, NAN]),
        ({"equals": False}, [False], [True]),
        ({"max": 0.0}, [0.0, -0.0], [5e-324]),
    ],
)
def test_a_bound_includes_its_limit_and_never_a_nan(bounds: dict[str, Any], inside: list[float], outside: list[float]) -> None:
    for value in inside:
        assert within(gate(**bounds), value), value
    for value in outside:
        assert not within(gate(**bounds), value), value


def test_a_bound_reads_as_one_writes_it() -> None:
    assert gate(max=1e-5).bound == "<= 1e-05"
    assert gate(min=1.8).bound == ">= 1.8"
    assert gate(equals=0).bound == "== 0"
    assert gate(equals=4_194_304).bound == "== 4,194,304"
    assert gate(equals=0.5).bound == "== 0.5"
    assert gate(equals=True).bound == "is true"
    assert gate(equals=False).bound == "is false"


# --- over seeds -----------------------------------------------------------------------------------------


def test_over_every_seed_one_bad_seed_is_enough_to_miss_and_is_the_one_shown() -> None:
    judged = judge(gate(max=1.0), records(0.1, 5.0, 0.2))
    assert judged.passed is False
    assert judged.value == 5.0
    assert not judged.ok


def test_over_the_mean_one_bad_seed_can_be_made_up_for() -> None:
    judged = judge(gate(max=2.0, over="mean"), records(0.0, 5.0, 1.0))
    assert judged.passed is True
    assert judged.value == 2.0


def test_the_worst_value_is_shown_for_each_kind_of_bound() -> None:
    assert judge(gate(min=0.0), records(3.0, 1.0, 2.0)).value == 1.0
    assert judge(gate(equals=1.0), records(1.0, 3.0, 0.0)).value == 3.0
    assert math.isnan(judge(gate(max=1.0), records(0.0, NAN, INF)).value or 0.0)


@pytest.mark.parametrize("over", ["every", "mean"])
@pytest.mark.parametrize("bounds", [{"max": 1.0}, {"min": 1.0}, {"equals": 1.0}])
def test_a_nan_among_the_seeds_never_passes(over: str, bounds: dict[str, Any]) -> None:
    judged = judge(gate(over=over, **bounds), records(1.0, NAN, 1.0))
    assert judged.passed is False
    assert not judged.ok


def test_a_variant_or_another_metric_is_not_the_lesson_s_result() -> None:
    judged = judge(gate(max=1.0), records(0.5) + records(9.0, variant="slow") + records(9.0, metric="loss"))
    assert judged.passed is True
    assert judged.value == 0.5


# --- controls -------------------------------------------------------------------------------------------


def test_a_control_that_misses_is_what_is_wanted() -> None:
    judged = judge(gate(max=1.0, control="broken"), records(0.5) + records(3.0, 2.0, variant="broken"))
    assert (judged.passed, judged.control_missed, judged.ok) == (True, True, True)
    assert judged.control_value == 2.0, "the value nearest to passing"


def test_a_control_that_holds_is_a_failure_although_the_gate_holds() -> None:
    judged = judge(gate(max=1.0, control="broken"), records(0.5) + records(0.7, variant="broken"))
    assert (judged.passed, judged.control_missed, judged.ok) == (True, False, False)


def test_one_seed_at_which_the_control_holds_is_enough() -> None:
    judged = judge(gate(max=1.0, control="broken"), records(0.5) + records(9.0, 0.7, variant="broken"))
    assert judged.control_missed is False
    assert judged.control_value == 0.7


def test_over_the_mean_the_control_is_its_mean() -> None:
    judged = judge(gate(max=1.0, control="broken", over="mean"), records(0.5) + records(9.0, 0.7, variant="broken"))
    assert judged.control_missed is True
    assert judged.control_value == pytest.approx(4.85)


def test_a_control_that_is_not_a_number_misses() -> None:
    assert judge(gate(max=1.0, control="broken"), records(0.5) + records(NAN, variant="broken")).control_missed is True


def test_a_control_that_was_not_recorded_is_a_failure() -> None:
    judged = judge(gate(max=1.0, control="broken"), records(0.5) + records(9.0, variant="other"))
    assert (judged.passed, judged.control_missed, judged.ok) == (True, False, False)
    assert judged.reason == "control not recorded"


# --- what was not run -----------------------------------------------------------------------------------


def test_a_metric_that_should_be_there_and_is_not_is_a_failure() -> None:
    judged = judge(gate(max=1.0), [])
    assert (judged.passed, judged.ok, judged.reason) == (False, False, "not recorded")


def test_a_metric_of_a_notebook_that_was_not_run_is_not_judged() -> None:
    judged = judge(gate(max=1.0, control="broken"), [], expected=False)
    assert (judged.passed, judged.control_missed, judged.ok, judged.reason) == (None, None, True, "not run")


def test_half_a_gate_is_not_judged_when_the_other_notebook_was_not_run() -> None:
    judged = judge(gate(max=1.0, control="broken"), records(0.5), expected=False)
    assert (judged.passed, judged.ok) == (None, True)


def test_a_gate_that_needs_what_this_machine_cannot_have_is_not_judged_and_says_so() -> None:
    judged = judge(gate(max=1.0, requires=("triton",)), records(9.0), missing_extras=["triton"])
    assert (judged.passed, judged.ok) == (None, True)
    assert judged.reason == "needs triton"


def test_a_gate_that_needs_what_is_here_is_judged() -> None:
    assert judge(gate(max=1.0, requires=("triton",)), records(9.0), missing_extras=["flash"]).passed is False


# --- null systems -----------------------------------------------------------------------------------------


def test_a_null_system_must_miss_as_a_control_must() -> None:
    judged = judge(gate(min=0.9, null="constant"), records(0.95) + records(0.5, 0.6, variant="constant"))
    assert (judged.passed, judged.null_missed, judged.null_value, judged.ok) == (True, True, 0.6, True)
    assert as_json(judged)["null"] == {"variant": "constant", "value": 0.6, "missed": True}
    passes = judge(gate(min=0.9, null="constant"), records(0.95) + records(0.5, 0.92, variant="constant"))
    assert (passes.passed, passes.null_missed, passes.ok) == (True, False, False)


def test_a_null_system_stands_beside_the_control_and_neither_excuses_the_other() -> None:
    both = gate(min=0.9, control="broken", null="constant")
    good = records(0.95) + records(0.1, variant="broken")
    assert judge(both, good + records(0.2, variant="constant")).ok
    assert not judge(both, good + records(0.95, variant="constant")).ok
    assert not judge(both, records(0.95) + records(0.95, variant="broken") + records(0.2, variant="constant")).ok


def test_a_null_system_that_was_not_recorded_is_a_failure() -> None:
    judged = judge(gate(min=0.9, control="broken", null="constant"), records(0.95) + records(0.1, variant="broken"))
    assert (judged.null_missed, judged.ok, judged.reason) == (False, False, "null not recorded")
    assert judge(gate(min=0.9, null="constant"), records(0.95), expected=False).reason == "not run"


# --- results --------------------------------------------------------------------------------------------


def test_a_verdict_travels_as_json_also_when_it_is_not_a_number() -> None:
    entry = as_json(judge(gate(max=1.0, control="broken"), records(NAN) + records(INF, variant="broken")))
    assert json.loads(json.dumps(entry, allow_nan=False)) == {
        "metric": "error",
        "objective": {"en": "It is exact", "zh-TW": "完全精確"},
        "bound": "<= 1",
        "over": "every",
        "value": "nan",
        "passed": False,
        "reason": None,
        "control": {"variant": "broken", "value": "inf", "missed": True},
        "null": None,
    }


def test_a_prediction_is_compared_with_the_mean_over_seeds_without_variants() -> None:
    assert measured(records(1.0, 3.0) + records(9.0, variant="slow") + records(True, metric="agrees")) == {"error": 2.0, "agrees": 1.0}


VALUES = st.lists(st.floats() | st.booleans() | st.integers(-(10**6), 10**6), max_size=4)
BOUNDS = st.one_of(
    st.builds(lambda value: {"max": value}, st.floats(allow_nan=False)),
    st.builds(lambda value: {"min": value}, st.floats(allow_nan=False)),
    st.builds(lambda value: {"equals": value}, st.floats(allow_nan=False) | st.booleans()),
)


@given(VALUES, VALUES, BOUNDS, st.sampled_from(["every", "mean"]), st.booleans(), st.booleans())
@example([INF, -INF], [], {"max": 1.0}, "mean", False, True)
@example([1e308, 1e308], [], {"max": 1.0}, "mean", False, True)
@example([0.0], [INF, -INF], {"max": 1.0}, "mean", True, True)
def test_whatever_was_recorded_there_is_a_verdict(
    values: list[float], control: list[float], bounds: dict[str, Any], over: str, has_control: bool, expected: bool
) -> None:
    found = records(*values) + records(*control, variant="broken")
    judged: Judged = judge(gate(over=over, control="broken" if has_control else None, **bounds), found, expected=expected)
    json.dumps(as_json(judged), allow_nan=False)
    measured(found)
    if judged.passed:
        assert values
        assert not any(math.isnan(value) for value in values)
    if judged.ok and judged.passed and has_control:
        assert control, "no gate is passed by a control that nobody measured"
