"""The learner's road on a toy course: start, check, and the whole lab on one's own modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_course import LAB, Checkout, Done

RIGHT = """
def count(steps: int) -> int:
    return len(range(steps))


def double(steps: int) -> int:
    return steps + steps
"""

ONE_TOO_MANY_AND_A_TYPO = """
def count(steps: int) -> int:
    print("counting", steps)
    return steps + 1


def double(steps: int) -> int:
    return stepz * 2
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def started(checkout: Checkout) -> Done:
    """`nox -s start`, once for all tests below."""
    return checkout.nox("-s", "start", "--", LAB)


@pytest.fixture
def copy(started: Done, checkout: Checkout) -> Path:
    """The learner's copy of the lab, as `start` made it."""
    directory = checkout.home / "workspace" / LAB
    (directory / "counting.py").unlink(missing_ok=True)
    assert checkout.host("start", LAB, "--refresh").code == 0
    return directory


def no_traceback_of_ours(done: Done) -> None:
    assert "shared/onepiece" not in done.output


# --- start ------------------------------------------------------------------------------------------------


def test_start_makes_a_copy_with_open_exercises_and_says_what_to_do_next(started: Done, checkout: Checkout, copy: Path) -> None:
    assert started.code == 0
    assert f"workspace/{LAB}" in started.output.replace("\\", "/")
    assert f"nox -s check -- {LAB}" in started.output
    assert f"nox -s {LAB} -- --mine" in started.output
    module = (copy / "counting.py").read_text(encoding="utf-8")
    assert 'raise NotImplementedError("Exercise 1")' in module
    assert "SOLUTION" not in module
    assert "range(steps)" not in module, "the answer is not in the learner's copy"
    assert {path.name for path in copy.glob("*.ipynb")} == {"01-count.ipynb", "02-use.ipynb"}
    assert "# error = " in (copy / "predictions.toml").read_text(encoding="utf-8")


def test_start_never_overwrites_and_says_how_to_refresh(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text("mine = True\n", encoding="utf-8")
    done = checkout.host("start", LAB)
    assert done.code == 2
    assert "--refresh" in done.output
    assert (copy / "counting.py").read_text(encoding="utf-8") == "mine = True\n"


def test_refresh_adds_what_is_missing_and_keeps_everything_else(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text("mine = True\n", encoding="utf-8")
    (copy / "notes.txt").write_text("my notes", encoding="utf-8")
    (copy / "02-use.ipynb").unlink()
    done = checkout.host("start", LAB, "--refresh")
    assert done.code == 0
    assert "1 files added" in done.output or "1 file added" in done.output
    assert (copy / "counting.py").read_text(encoding="utf-8") == "mine = True\n"
    assert (copy / "notes.txt").read_text(encoding="utf-8") == "my notes"
    assert (copy / "02-use.ipynb").exists()


def test_a_copy_in_chinese_has_chinese_notebooks_and_the_same_modules(checkout: Checkout, copy: Path, tmp_path: Path) -> None:
    other = checkout.elsewhere(tmp_path / "home")
    done = other.host("start", LAB, "--lang", "zh-TW")
    assert done.code == 0
    assert "你的" in done.output
    theirs = other.home / "workspace" / LAB
    assert "# 計數" in (theirs / "01-count.ipynb").read_text(encoding="utf-8")
    assert (theirs / "counting.py").read_bytes() == (copy / "counting.py").read_bytes()


@pytest.mark.parametrize("arguments", [[], [LAB, LAB]])
def test_start_without_one_lab_says_what_to_type(checkout: Checkout, arguments: list[str]) -> None:
    done = checkout.host("start", *arguments)
    assert done.code == 2
    assert f"nox -s start -- {LAB}" in done.words


def test_start_of_an_unknown_lab_suggests_the_nearest(checkout: Checkout) -> None:
    done = checkout.host("start", "lab-9.1-tory")
    assert done.code == 2
    assert LAB in done.words


# --- check ------------------------------------------------------------------------------------------------


def test_check_without_a_copy_says_how_to_make_one(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.elsewhere(tmp_path / "home").host("check", LAB)
    assert done.code == 2
    assert f"nox -s start -- {LAB}" in done.words


@pytest.mark.parametrize("command", [("check", LAB), ("run", LAB, "--mine")], ids=["check", "run"])
def test_a_copy_that_lost_a_module_is_refused_because_the_reference_would_pass_for_it(
    checkout: Checkout, copy: Path, command: tuple[str, ...]
) -> None:
    (copy / "counting.py").unlink()
    done = checkout.host(*command)
    assert done.code == 2
    assert "counting.py" in done.words and f"nox -s start -- {LAB} --refresh" in done.words


def test_open_exercises_are_open_and_a_hint_is_shown_when_asked_for(checkout: Checkout, copy: Path) -> None:
    done = checkout.nox("-s", "check", "--", LAB, "--hint")
    assert done.code != 0
    assert re.search(r"1\. count.*open", done.output)
    assert re.search(r"2\. double.*open", done.output)
    assert "use range" in done.output
    assert "use *" in done.output
    assert "0 of 2 exercises passed" in done.output
    no_traceback_of_ours(done)


def test_a_wrong_answer_is_shown_beside_the_right_one_with_the_likely_mistake(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(ONE_TOO_MANY_AND_A_TYPO, encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code == 1
    assert "not right yet" in done.output
    assert re.search(r"your value\s+4", done.output)
    assert re.search(r"expected\s+3", done.output)
    assert "one too many" in done.output
    assert "NameError: name 'stepz' is not defined" in done.words
    assert "counting.py" in done.output, "where it was raised"
    assert "use range" not in done.output, "a hint is for those who ask"
    assert "--hint" in done.output
    assert "0 of 2 exercises passed" in done.output


def test_everything_right_exits_with_zero_also_in_chinese(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(RIGHT, encoding="utf-8")
    done = checkout.host("check", LAB, "--lang", "zh-TW")
    assert done.code == 0
    assert "2 題中通過 2 題" in done.output
    assert "計數" in done.output


@pytest.mark.parametrize("arguments", [[], ["--exercise", "2"]])
def test_a_syntax_error_in_the_learners_file_is_shown_with_its_place(checkout: Checkout, copy: Path, arguments: list[str]) -> None:
    (copy / "counting.py").write_text("def count(steps):\n    return (steps\n", encoding="utf-8")
    done = checkout.host("check", LAB, *arguments)
    assert done.code == 1
    assert "SyntaxError" in done.output
    assert 'counting.py", line 2' in done.words
    assert "return (steps" in done.words, "the line itself"
    no_traceback_of_ours(done)


@pytest.mark.fault("code-that-ends-the-check")
def test_code_that_ends_the_program_does_not_pass(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(RIGHT.replace("return steps + steps", "raise SystemExit(0)"), encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code == 1
    assert "1 of 2 exercises passed" in done.output
    assert "SystemExit" in done.output


@pytest.mark.fault("code-that-ends-the-check")
def test_code_that_kills_the_process_does_not_pass(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text("import os\n" + RIGHT.replace("return steps + steps", "os._exit(0)"), encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code != 0
    assert "double" in done.output


def test_one_exercise_alone_decides_when_it_is_asked_for(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(RIGHT.replace("return steps + steps", "return steps ** 2"), encoding="utf-8")
    assert checkout.host("check", LAB, "--exercise", "1").code == 0
    unknown = checkout.host("check", LAB, "--exercise", "9")
    assert unknown.code == 2
    assert "Its exercises: 1, 2" in unknown.words


def test_a_solution_is_shown_when_asked_for(checkout: Checkout) -> None:
    done = checkout.host("check", LAB, "--solution", "2")
    assert done.code == 0
    assert "counting.py" in done.output
    assert "return 2 * steps" in done.output
    assert "range(steps)" not in done.output, "only that one"


def test_a_solution_that_is_not_there_is_refused_with_those_that_are(checkout: Checkout) -> None:
    done = checkout.host("check", LAB, "--solution", "7")
    assert done.code == 2
    assert "Its exercises: 1, 2" in done.words


def test_check_leaves_nothing_in_the_checkout(checkout: Checkout, copy: Path) -> None:
    assert not list((checkout.root / "labs").rglob("__pycache__"))


# --- the whole lab on the learner's modules -------------------------------------------------------------------


def test_the_whole_lab_runs_on_the_learners_modules_with_their_predictions_beside_it(
    checkout: Checkout, copy: Path, read_results: Callable[[Path], dict[str, Any]]
) -> None:
    # Wrong on purpose, in a way that only the learner's module has: then it was the learner's module that ran.
    (copy / "counting.py").write_text(RIGHT.replace("len(range(steps))", "steps + 2"), encoding="utf-8")
    (copy / "predictions.toml").write_text("error = 0.25\nagrees = false\n", encoding="utf-8-sig")  # as Windows editors write
    done = checkout.nox("-s", LAB, "--", "--mine")
    assert done.code != 0
    (run,) = checkout.runs()
    results = read_results(run)
    assert results["mine"] is True
    assert [record["value"] for record in results["records"] if record["variant"] is None][:2] == [2, 2]
    assert results["predictions"] == [
        {"metric": "error", "predicted": 0.25, "measured": 2.0},
        {"metric": "agrees", "predicted": 0.0, "measured": 1.0},
    ]
    assert "Your predictions" in done.output
    assert "0.25" in done.output
    assert "Your predictions" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["error = ", 'error = "many"', "error = nan", "= 1", "eror = 1"])
def test_predictions_that_cannot_be_read_are_refused_with_an_example(checkout: Checkout, tmp_path: Path, content: str) -> None:
    other = checkout.elsewhere(tmp_path / "home")
    predictions = other.home / "workspace" / LAB / "predictions.toml"
    predictions.parent.mkdir(parents=True)
    predictions.write_text(content, encoding="utf-8")
    done = other.host("run", LAB)
    assert done.code == 2
    assert "predictions.toml" in done.words
    assert "error = 0.5" in done.words
    assert "Traceback" not in done.output
    assert not other.runs()
