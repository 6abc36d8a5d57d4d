"""Diagnosing checks: right is right, wrong says how, and what a learner's code prints disturbs nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import toy_course

from onepiece import checks
from onepiece.checks import Exercise, Missed, check_mistake, exercise, expect, run_exercise, same
from onepiece.course.text import Text

NAN, INF = math.nan, math.inf
T = torch.tensor


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_LANG", "en")


# --- expect -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (3, 3), (3.0, 3), (True, True), ("text", "text"), (None, None), (NAN, NAN), (INF, INF), (T(2.0), 2.0), (T([2.0]), 2.0),
        (T([1.0, 2.0]), T([1.0, 2.0])), (T([1, 2]), T([1.0, 2.0])), (T([1.0], dtype=torch.float64), T([1.0], dtype=torch.bfloat16)),
        (T([NAN, INF, -INF]), T([NAN, INF, -INF])), (torch.empty(0, 3), torch.empty(0, 3)), (T(True), T(True)),
        (T([1.0], requires_grad=True), T([1.0])), ([1, (2, T([3.0]))], (1, [2, T([3.0])])), ({"a": T([1.0])}, {"a": T([1.0])}), ([], ()),
        (numpy.float64(0.5), 0.5),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_equal_is_right(got: Any, want: Any) -> None:
    expect(got, want)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (3, 4), (3.0, 3.0000001), (True, 1), (1, True), (1, "1"), ("a", "b"), (None, 0), (0, None), (NAN, 0.0), (0.0, NAN), (INF, -INF),
        ("12", [1, 2]), (T([1.0, 2.0]), T([1.0, 3.0])), (T([1.0]), T([1.0, 1.0])), (T([[1.0]]), T([1.0])), ([1.0], T([1.0])), (T([1.0, 2.0]), [1.0, 2.0]),
        (T([NAN]), T([0.0])), (T([0.0]), T([NAN])), (T([INF]), T([-INF])), (torch.empty(0, 3), torch.empty(3, 0)), ([1, 2], [1, 2, 3]),
        ([1, [2, T([3.0])]], [1, [2, T([4.0])]]), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 1, "b": 2}), (None, T([1.0])), (T([1.0, 2.0]), 1.0),
    ],
    ids=repr,
)  # fmt: skip
def test_what_differs_in_value_shape_or_kind_is_missed(got: Any, want: Any) -> None:
    with pytest.raises(Missed) as missed:
        expect(got, want)
    assert missed.value.got
    assert missed.value.want


@pytest.mark.parametrize(("got", "want"), [(numpy.array([1.0, 2.0]), [1.0, 2.0]), (numpy.array([1.0, 2.0]), T([1.0, 2.0]))], ids=repr)
def test_an_array_where_something_else_is_wanted_is_missed(got: Any, want: Any) -> None:
    with pytest.raises(Missed):
        expect(got, want)


def test_of_a_mapping_only_what_differs_is_shown() -> None:
    with pytest.raises(Missed) as missed:
        expect({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "c": 3})
    assert (missed.value.got.partition(" (")[0], missed.value.want) == ("{'b': 2}", "{'b': 3}")


def test_the_tolerance_is_absolute_and_inclusive() -> None:
    expect(1.5, 1.0, atol=0.5)
    expect(T([1.0, 1.5]), T([1.0, 1.0]), atol=0.5)
    expect({"a": [1.5]}, {"a": [1.0]}, atol=0.5)
    with pytest.raises(Missed):
        expect(1.6, 1.0, atol=0.5)
    with pytest.raises(Missed, match=r"largest difference 0\.6"):
        expect(T([1.0, 1.6]), T([1.0, 1.0]), atol=0.5)
    with pytest.raises(Missed):
        expect(T([NAN]), T([1.0]), atol=1e9)


def test_a_miss_shows_shape_beginning_and_worst_place_of_a_tensor() -> None:
    with pytest.raises(Missed) as missed:
        expect(torch.tensor([[0.0, 0, 0], [0, 0, 7]]), torch.tensor([[0.0, 0, 0], [0, 1, 0]]), what=Text("the output", "輸出"))
    assert missed.value.what == "the output"
    assert missed.value.got.startswith("tensor(2, 3) [0, 0, 0, 0, ...], 7 at [1, 2]")
    assert missed.value.want == "tensor(2, 3) [0, 0, 0, 0, ...], 0 at [1, 2]"


@pytest.mark.fault("a-mask-as-a-truncated-list")
def test_a_mask_is_a_small_picture_with_the_wrong_places_marked() -> None:
    want = torch.ones(3, 5, dtype=torch.bool).tril(1)
    with pytest.raises(Missed) as missed:
        expect(want.tril(0), want)
    assert missed.value.got.splitlines()[1:] == ["      ■×···", "      ■■×··", "      ■■■×·"]
    assert missed.value.want.splitlines()[1:] == ["      ■■···", "      ■■■··", "      ■■■■·"]
    assert "× wrong, 3 (largest difference 1)" in missed.value.got


@pytest.mark.fault("a-mask-as-a-truncated-list")
def test_of_a_long_list_of_answers_every_one_is_seen() -> None:
    want = [True] * 70
    with pytest.raises(Missed) as missed:
        expect([*want[:65], False, *want[66:]], want)
    assert missed.value.got.splitlines()[1:] == [f"      {'■' * 60}", f"      {'■' * 5}×{'■' * 4}"]
    with pytest.raises(Missed) as missed:
        expect([[True, False], [True, True]], [[True, False, True]])
    assert missed.value.got.splitlines()[1:] == ["      ■·", "      ■■"], "of another shape: shown, and nothing marked"


@pytest.mark.fault("a-mask-as-a-truncated-list")
def test_a_batch_of_masks_is_shown_where_it_is_wrong_and_a_large_one_around_that() -> None:
    want = torch.zeros(2, 100, 200, dtype=torch.bool)
    got = want.clone()
    got[1, 90, 150] = True
    with pytest.raises(Missed) as missed:
        expect(got, want)
    lines = missed.value.got.splitlines()
    assert "tensor(2, 100, 200)" in lines[0] and "from row 78, column 120" in lines[0]
    assert lines[13].strip() == "·" * 30 + "×" + "·" * 29
    assert max(map(len, lines[1:])) <= 70 and len(lines) <= 25


def test_of_a_long_list_what_is_around_the_first_difference_is_shown() -> None:
    want = list(range(1000, 1100))
    with pytest.raises(Missed) as missed:
        expect([*want[:50], 7, *want[51:]], want)
    assert missed.value.got.startswith("[..., 1048, 1049, 7, 1051, 1052, 1053, ...] (the first difference: 50 of 100)")


def test_a_function_that_returns_nothing_is_told_so() -> None:
    with pytest.raises(Missed) as missed:
        expect(None, torch.ones(2))
    assert "return" in (missed.value.mistake or "")


def test_a_miss_fits_a_line_however_long_the_value_is() -> None:
    with pytest.raises(Missed) as missed:
        expect("x" * 1000, "y" * 1000)
    assert len(missed.value.got) <= 140


# --- the likely mistake -----------------------------------------------------------------------------------------

MISTAKES = {Text("the scale is missing", "漏了縮放"): T([2.0]), Text("the sign is wrong", "符號錯了"): T([-1.0])}


@pytest.mark.parametrize(("got", "named"), [(T([2.0]), "the scale is missing"), (T([-1.0]), "the sign is wrong"), (T([7.0]), None)])
def test_a_likely_mistake_is_named_if_the_value_is_the_one_it_gives(got: torch.Tensor, named: str | None) -> None:
    with pytest.raises(Missed) as missed:
        expect(got, T([1.0]), atol=1e-6, mistakes=MISTAKES)
    assert missed.value.mistake == named


def test_a_mistake_is_named_in_the_learners_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_LANG", "zh-TW")
    with pytest.raises(Missed) as missed:
        expect(T([2.0]), T([1.0]), mistakes=MISTAKES)
    assert missed.value.mistake == "漏了縮放"


def test_a_mistake_that_gives_the_right_value_here_explains_nothing() -> None:
    with pytest.raises(Missed) as missed:
        expect(5.0, 1.0, mistakes={Text("never mind", "不要緊"): 1.0, Text("five", "五"): 5.0})
    assert missed.value.mistake == "five"


def test_a_mistake_of_another_shape_is_recognised_too() -> None:
    with pytest.raises(Missed) as missed:
        expect(torch.ones(3, 2), torch.ones(2, 3), mistakes={Text("transposed", "轉置了"): torch.ones(3, 2)})
    assert missed.value.mistake == "transposed"


@pytest.mark.parametrize("mistake", [None, "no_scale", "transposed"])
def test_no_mistake_and_known_ones_are_let_through(mistake: str | None) -> None:
    check_mistake(mistake, ("no_scale", "transposed"))


@pytest.mark.parametrize("mistake", ["no_scal", "", "scale"])
def test_a_misspelt_mistake_is_not_taken_for_none(mistake: str) -> None:
    with pytest.raises(ValueError, match=f"unknown mistake '{mistake}'; known: no_scale, transposed"):
        check_mistake(mistake, ("no_scale", "transposed"))


def test_code_is_the_same_in_both_languages() -> None:
    assert same("row_dots(a, b)") == Text("row_dots(a, b)", "row_dots(a, b)")


# --- outcomes -----------------------------------------------------------------------------------------------------


def outcome(check: Any) -> dict[str, Any]:
    return run_exercise(Exercise(1, Text("title", "標題"), 5, "core", Text("hint", "提示"), check))


def test_a_check_that_says_nothing_passed() -> None:
    assert outcome(lambda: None)["status"] == "passed"


def test_an_exercise_without_code_is_open() -> None:
    def check() -> None:
        raise NotImplementedError("Exercise 1")

    assert (outcome(check)["status"], outcome(check)["error"]) == ("open", "Exercise 1")


def test_a_wrong_value_failed_with_everything_a_learner_needs() -> None:
    found = outcome(lambda: expect(2.0, 1.0, mistakes={Text("twice", "兩倍"): 2.0}))
    assert (found["status"], found["got"], found["want"], found["mistake"]) == ("failed", "2.0 (largest difference 1)", "1.0", "twice")
    assert json.loads(json.dumps(found)) == found


def test_an_exception_is_shown_with_the_learners_frames_only() -> None:
    def check() -> None:
        {}["key"]

    found = outcome(check)
    assert (found["status"], found["error"]) == ("error", "KeyError: 'key'")
    assert __file__ in found["traceback"]
    assert "onepiece/checks.py" not in found["traceback"].replace("\\", "/")


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye")])
def test_a_program_that_ends_itself_did_not_pass(error: BaseException) -> None:
    def check() -> None:
        raise error

    assert outcome(check)["status"] == "error"


# --- registration ---------------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Iterator[dict[int, Exercise]]:
    checks._exercises.clear()
    yield checks._exercises
    checks._exercises.clear()


def register(number: int, level: str = "core") -> None:
    exercise(number, title=Text("t", "題"), minutes=5, level=level, hint=Text("h", "示"))(lambda: None)


def test_an_exercise_has_one_check_and_a_known_level(registry: dict[int, Exercise]) -> None:
    register(1)
    with pytest.raises(ValueError, match="two checks"):
        register(1)
    with pytest.raises(ValueError, match="level"):
        register(2, level="easy")
    assert list(registry) == [1]


def test_exercises_come_by_number_not_by_place(registry: dict[int, Exercise], tmp_path: Path) -> None:
    decorated = "@exercise({n}, title=Text('t', '題'), minutes=5, level='core', hint=Text('h', '示'))\ndef check_{n}(): pass\n"
    source = "from onepiece.checks import exercise\nfrom onepiece.course.text import Text\n" + "".join(
        decorated.format(n=n) for n in (10, 2, 1)
    )
    (tmp_path / "checks.py").write_text(source, encoding="utf-8")
    assert [item.number for item in checks.load_exercises(tmp_path)] == [1, 2, 10]


# --- the protocol, in a process of its own -----------------------------------------------------------------------------

NOISY = """
import os
import sys

print("at import")
sys.stdout.flush()


def count(steps):
    print("printed")
    sys.stdout.write("written without an end of line")
    os.write(1, b"written to the file descriptor\\n")
    os.system("echo from a process")
    print('{"exercise": 1, "status": "passed"}')
    return steps


def double(steps):
    raise ValueError("中文")
"""


def run_checks(tmp_path: Path, counting: str, **environ: str) -> tuple[int, list[dict[str, Any]], str]:
    lab = toy_course.write_lab(tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "counting.py").write_text(counting, encoding="utf-8")
    command = [sys.executable, "-m", "onepiece.checks", str(lab), str(mine), str(lab)]
    done = subprocess.run(command, env=os.environ | {"PYTHONUTF8": "1"} | environ, capture_output=True, text=True, encoding="utf-8")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    last_word = {outcome.get("exercise"): outcome for outcome in said}
    return done.returncode, list(last_word.values()), done.stderr


def test_what_a_learners_code_prints_is_not_mixed_with_the_outcomes(tmp_path: Path) -> None:
    code, outcomes, log = run_checks(tmp_path, NOISY)
    assert code == 1
    assert [(item["exercise"], item["status"]) for item in outcomes] == [(1, "passed"), (2, "error")]
    assert outcomes[1]["error"] == "ValueError: 中文"
    for line in ("at import", "printed", "written to the file descriptor", "from a process"):
        assert line in log


def test_a_module_that_cannot_be_imported_is_one_outcome_with_its_place(tmp_path: Path) -> None:
    code, outcomes, _ = run_checks(tmp_path, "def count(steps):\n    return (steps\n")
    assert code == 1
    (only,) = outcomes
    assert "SyntaxError: " in only["import_error"]
    assert 'counting.py", line 2' in only["import_error"]
    assert "return (steps\n" in only["import_error"], "the line itself"


def test_a_learners_module_comes_before_the_reference(tmp_path: Path) -> None:
    code, outcomes, _ = run_checks(tmp_path, "def count(steps):\n    return steps + 1\n\n\ndef double(steps):\n    return 2 * steps\n")
    assert code == 1
    assert [(item["status"], item["mistake"]) for item in outcomes] == [("failed", "one too many"), ("passed", None)]
