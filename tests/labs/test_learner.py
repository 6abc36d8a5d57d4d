"""The learner's road on a toy course: start, check, and the whole lab on one's own modules."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_course
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


ONLY_COUNT = """
def count(steps: int) -> int:
    return len(range(steps))


def double(steps: int) -> int:
    raise NotImplementedError("Exercise 2")  # replace this line; keep what follows it
"""

USES_COUNT = """
def count(steps: int) -> int:
    raise NotImplementedError("Exercise 1")  # replace this line; keep what follows it


def double(steps: int) -> int:
    return 2 * count(steps)
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
    done = other.host("start", LAB, "--lang", "zh")
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


@pytest.mark.fault("a-solution-without-a-name")
def test_a_solution_has_its_title_the_names_of_its_functions_and_what_it_is_for(checkout: Checkout) -> None:
    done = checkout.host("check", LAB, "--solution", "2", "--lang", "zh-TW")
    assert "2. 加倍" in done.output
    assert "def double(steps: int) -> int:" in done.output
    assert "Twice as many." in done.output
    assert "SOLUTION" not in done.output
    assert re.search(r"提示\s+用 \*", done.output)


@pytest.mark.fault("a-check-called-a-failure")
def test_nox_does_not_call_open_exercises_a_failure_and_scripts_get_the_exit_code(checkout: Checkout, copy: Path) -> None:
    done = checkout.nox("-s", "check", "--", LAB)
    assert done.code == 1
    assert "0 of 2 exercises passed" in done.output
    assert "failed" not in done.output and "onepiece.host" not in done.output
    mistake = checkout.nox("-s", "check", "--", LAB, "--exercise", "9")
    assert mistake.code != 0 and "Session check failed" in mistake.output


@pytest.mark.fault("an-exercise-stopped-by-another")
def test_an_exercise_that_needs_an_open_one_is_judged_with_the_reference_for_that(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(USES_COUNT, encoding="utf-8")
    right = checkout.host("check", LAB, "--exercise", "2")
    assert right.code == 1, "it is not passed"
    assert "2 is right so far; it needs 1." in right.words
    (copy / "counting.py").write_text(USES_COUNT.replace("2 * count", "3 * count"), encoding="utf-8")
    wrong = checkout.host("check", LAB)
    assert "right so far" not in wrong.output
    assert re.search(r"your value\s+12", wrong.output)


@pytest.mark.fault("one-solved-exercise-shows-nothing")
def test_check_ends_with_the_one_command_that_shows_the_solved_exercise(checkout: Checkout, copy: Path) -> None:
    (copy / "counting.py").write_text(ONLY_COUNT, encoding="utf-8")
    assert checkout.host("check", LAB).words.endswith(f"See your exercise 1 at work (1 gates): nox -s {LAB} -- --mine --notebook 01")
    (copy / "counting.py").write_text(RIGHT, encoding="utf-8")
    assert checkout.host("check", LAB).words.endswith(f"See your code in the whole lab: nox -s {LAB} -- --mine")


@pytest.mark.fault("a-copy-hides-a-module")
@pytest.mark.parametrize("command", [("check", LAB), ("run", LAB, "--mine"), ("jupyter", LAB)], ids=["check", "run", "jupyter"])
@pytest.mark.parametrize("name", ["random.py", "numpy/__init__.py"])
def test_a_file_of_the_learner_that_hides_a_module_is_named(checkout: Checkout, copy: Path, command: tuple[str, ...], name: str) -> None:
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError\n", encoding="utf-8")
    try:
        done = checkout.host(*command)
    finally:
        path.unlink()
    assert done.code == 2
    assert f"{path if path.name == name else path.parent} hides the module {name.split('/')[0].removesuffix('.py')}" in done.words
    assert "Rename the file" in done.words and "Traceback" not in done.output


@pytest.mark.fault("a-copy-hides-a-module")
def test_a_file_where_the_user_stands_hides_nothing(checkout: Checkout, copy: Path) -> None:
    python, *nox = checkout.nox_command()

    def run(*arguments: str) -> Done:
        command = [python, "-P", *nox, *arguments]  # as the script `nox`, which does not look where the user stands
        done = subprocess.run(command, cwd=checkout.root, env=checkout.environ, capture_output=True, text=True, timeout=300)
        return Done(done.returncode, done.stdout + done.stderr)

    for name in ("random", "json", "rich", "torch"):
        (checkout.root / f"{name}.py").write_text("raise RuntimeError('the wrong one')\n", encoding="utf-8")
    try:
        (copy / "counting.py").write_text(RIGHT, encoding="utf-8")
        for arguments in (("check", "--", LAB), (LAB, "--", "--mine", "--notebook", "01")):
            done = run("-s", *arguments)
            assert done.code == 0, done.output
    finally:
        for name in ("random", "json", "rich", "torch"):
            (checkout.root / f"{name}.py").unlink()


@pytest.mark.fault("help-that-installs")
def test_the_help_of_the_tests_installs_nothing(tmp_path: Path) -> None:
    done = Checkout(toy_course.ROOT, tmp_path).nox("-s", "tests", "--", "--help")
    assert done.code == 0 and "nox -s tests" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("predictions-without-their-question")
@pytest.mark.parametrize(("language", "said"), [("en", "How many does it count?"), ("zh-TW", "它會數到多少？")])
def test_predictions_say_what_each_name_means(checkout: Checkout, tmp_path: Path, language: str, said: str) -> None:
    count = checkout.root / "labs" / LAB / "01-count.py"
    source = count.read_text(encoding="utf-8")
    question = (
        '\n# %% [markdown] lang="en"\n# ## Predict\n#\n# How many does it count? `error = ...`\n'
        '\n# %% [markdown] lang="zh-TW"\n# ## 先猜\n#\n# 它會數到多少？`error = ...`\n\n# %%\nlab.predict("error")\n'
    )
    count.write_text(source + question, encoding="utf-8")
    try:
        assert checkout.elsewhere(tmp_path / "home").host("start", LAB, "--lang", language).code == 0
    finally:
        count.write_text(source, encoding="utf-8")
    lines = (tmp_path / "home" / "workspace" / LAB / "predictions.toml").read_text(encoding="utf-8").splitlines()
    assert lines[-3:] == ["# 01-count:", f"# {said}{' ' if language == 'en' else ''}`error = ...`", "# error = "]


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
    run = checkout.runs()[-1]
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


@pytest.mark.fault("one-solved-exercise-shows-nothing")
@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_the_reference_stands_for_open_exercises_and_everything_says_so(
    checkout: Checkout, tmp_path: Path, language: str, read_results: Callable[[Path], dict[str, Any]]
) -> None:
    other = checkout.elsewhere(tmp_path / "home")
    assert other.host("start", LAB, "--lang", language).code == 0
    mine = other.home / "workspace" / LAB / "counting.py"
    mine.write_text(USES_COUNT, encoding="utf-8")
    done = other.host("run", LAB, "--mine", "--backend", "local", ONEPIECE_LANG="")
    assert done.code == 0, done.output
    (run,) = other.runs()
    results = read_results(run)
    said = {"en": "yours: 2; reference: 1", "zh-TW": "你的：2；參考解：1"}
    assert results["exercises"] == {"mine": [2], "partly": [], "reference": [1]}
    assert said[language] in done.output, "the verdict, in the language of the copy"
    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(text in report for text in said.values())
    notebook = json.loads((run / "notebooks" / "01-count.ipynb").read_text(encoding="utf-8"))
    assert said[language] in "".join(notebook["cells"][0]["source"])
    assert mine.read_text(encoding="utf-8") == USES_COUNT, "the copy is the learner's"
    shown = other.host("progress", "--lang", "en").output
    assert re.search(rf"✓ +{LAB} +passed", shown), shown


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
