"""What a submission is worth, from outcomes alone: no process is started here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepiece.host.grading import score
from onepiece.host.grading.score import Found, found, graded, imported, shares
from onepiece.host.road.checks import Checked

MINUTES = st.lists(st.integers(0, 90), min_size=1, max_size=12)


def outcome(number: int = 1, **changes: Any) -> dict[str, Any]:
    plain = {"exercise": number, "title": "t", "level": "core", "minutes": 5, "status": "passed", "reached": True, "tampered": []}
    return {**plain, "what": None, "got": None, "want": None, "mistake": None, "error": None, **changes}


def checked(*outcomes: dict[str, Any], **more: Any) -> Checked:
    return Checked(outcomes, **more)


def judged(minutes: list[int], passed: set[int]) -> list[score.Graded]:
    reference = [outcome(number, minutes=some) for number, some in enumerate(minutes)]
    return graded(reference, {number: Found("passed" if number in passed else "blocked") for number in range(len(minutes))})


@given(MINUTES, st.sets(st.integers(0, 11)))
def test_nothing_is_0_everything_is_100_and_the_rest_is_between(minutes: list[int], some: set[int]) -> None:
    assert score.score(judged(minutes, set())) == 0
    assert score.score(judged(minutes, set(range(len(minutes))))) == 100
    assert 0 <= score.score(judged(minutes, some)) <= 100
    assert sum(shares(dict(enumerate(minutes))).values()) == pytest.approx(100)


def test_an_exercise_is_worth_its_share_of_the_minutes() -> None:
    assert [item.points for item in judged([5, 5, 10], {0, 2})] == [25, 0, 50]
    assert score.score(judged([10, 10, 10], {0, 1})) == 66.67
    assert [item.of for item in judged([0, 0], set())] == [50, 50]


def test_titles_and_minutes_are_the_references() -> None:
    (item,) = graded([outcome(3, minutes=7, title="of the course")], {3: Found("failed", "a mistake", "a difference")})
    assert (item.exercise, item.title, item.minutes, item.mistake, item.error) == (3, "of the course", 7, "a mistake", "a difference")


@pytest.mark.parametrize("status", ["passed", "open", "failed", "error"])
def test_a_verdict_is_what_the_check_reached(status: str) -> None:
    error = None if status == "passed" else "ValueError: no"
    assert found(1, checked(outcome(status=status, error=error)), 5).status == status


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (checked(timed_out=True), "not done after 5 s"),
        (checked(exit_code=0), "exit code 0"),
        (checked(exit_code=-9), "SIGKILL"),
        (checked(exit_code=-250), "ended by 250"),
        (checked(outcome(2), exit_code=0), "exit code 0"),
        (checked(outcome(reached=False), exit_code=3), "exit code 3"),
        (checked(outcome(), strange=1), "something else"),
        (checked(outcome(tampered=["expect"])), "replaces parts of onepiece.checks: expect"),
        (checked({"import_error": "ImportError: no"}), "cannot be imported: ImportError: no"),
        (checked({"import_error": '  File "/a b/c.py", line 3\n    x\n    ^\nSyntaxError: no'}), "c.py:3: SyntaxError: no"),
        (checked(outcome(status="error", error="MemoryError: ")), "out of memory"),
    ],
)
def test_what_is_no_verdict_is_blocked(answer: Checked, why: str) -> None:
    verdict = found(1, answer, 5)
    assert verdict.status == "blocked"
    assert why in (verdict.error or "")


def test_a_value_that_differs_is_said_with_the_mistake() -> None:
    verdict = found(1, checked(outcome(status="failed", what="the sum", got="3", want="4", mistake="one too few")), 5)
    assert (verdict.status, verdict.mistake, verdict.error) == ("failed", "one too few", "the sum: got 3, want 4")


def test_a_module_is_imported_only_if_its_process_says_so_and_nobody_else() -> None:
    assert imported(checked({"import_error": None}))
    assert not imported(checked({"import_error": "ImportError: no"}))
    assert not imported(checked({"import_error": None}, strange=1))
    assert not imported(checked({"import_error": None, "tampered": ["expect"]}))
    assert not imported(checked())
