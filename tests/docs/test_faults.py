"""Every fault that is told has a test, every test of a fault is told, in both languages, and the count is what was tried."""

from __future__ import annotations

import collections

import pytest
import run
import toy_course
from extension.faults import FAULTS, TESTS, Fault, fault_table, faults, marked_tests

from onepiece.course.text import LANGUAGES

TOLD = list(faults(FAULTS))
MARKED = marked_tests(TESTS)


@pytest.mark.parametrize("fault", TOLD, ids=lambda fault: fault.id)
def test_a_fault_is_told_in_both_languages_and_held_by_a_test(fault: Fault) -> None:
    for text in (fault.kind, fault.seen, fault.now):
        assert all(text[language].strip() for language in LANGUAGES)
        assert text.en != text.zh_tw
    assert MARKED.get(fault.id), f"no test is marked @pytest.mark.fault({fault.id!r})"


def test_every_mark_is_told_once() -> None:
    counted = collections.Counter(fault.id for fault in TOLD)
    assert max(counted.values()) == 1, counted.most_common(3)
    assert sorted(set(MARKED) - set(counted)) == [], "marked, but in no file of docs/faults"


def test_the_tests_that_are_named_exist() -> None:
    for tests in MARKED.values():
        for test in tests:
            file, name = test.split("::", 1)
            assert name == "*" or f"def {name.rsplit('::', 1)[-1]}(" in (TESTS / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_has_a_row_for_each_with_its_tests(language: str) -> None:
    _, _, *rows = fault_table("", language).splitlines()
    assert len(rows) == len(TOLD)
    assert all(row.count(" | ") == 3 and "`tests/" in row for row in rows)


def test_marks_are_found_wherever_they_stand(tmp_path) -> None:  # type: ignore[no-untyped-def]
    source = """
import pytest

pytestmark = [pytest.mark.fault("everywhere"), pytest.mark.skip]

@pytest.mark.fault("a")
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.fault("one-case")), 2])
def test_first(x): ...

class TestMore:
    @pytest.mark.fault("a")
    def test_second(self): ...
"""
    (tmp_path / "test_it.py").write_text(source, encoding="utf-8")
    assert marked_tests(tmp_path) == {
        "everywhere": ["test_it.py::*"],
        "a": ["test_it.py::test_first", "test_it.py::TestMore::test_second"],
        "one-case": ["test_it.py::test_first"],
    }


def noted(fault: str, outcome: str, why: str = "") -> dict[str, object]:
    return {"faults": [fault], "test": "test_x", "outcome": outcome, "why": why}


def test_what_was_not_tried_is_not_counted_as_survived() -> None:
    good, said = run.count_faults(
        ["a", "b", "c"], [noted("a", "passed"), noted("a", "skipped", "no GPU"), noted("b", "skipped", "no engine")]
    )
    assert good
    assert said.splitlines() == [
        "not tried here: b: no engine",
        "not tried here: c: none of its tests ran",
        "1 of 1 faults survived, 2 not tried here",
    ]


def test_one_failing_test_is_enough_not_to_have_survived() -> None:
    good, said = run.count_faults(["a", "b"], [noted("a", "passed"), noted("a", "failed"), noted("b", "passed")])
    assert not good
    assert said.splitlines() == ["NOT SURVIVED: a", "1 of 2 faults survived"]


def test_where_nothing_was_tried_nothing_was_survived() -> None:
    assert not run.count_faults(["a"], [])[0]


def test_the_whole_lot_is_of_this_course() -> None:
    assert len(TOLD) > 10
    assert toy_course.ROOT / "docs" / "faults" == FAULTS
