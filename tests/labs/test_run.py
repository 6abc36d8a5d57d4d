"""`nox -s lab-X` on a toy course, with the real nox, host, kernels and environments."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import toy_course
from parts import linux_only, missing
from toy_course import GOOD, LAB, Checkout, Done

from onepiece.course.model_files import CHECKPOINTS

Results = Callable[[Path], dict[str, Any]]

RAISES, MISSES, HOLDS, SHOWS = "lab-9.2-raises", "lab-9.3-misses", "lab-9.4-holds", "lab-9.5-shows"

FIGURE = """
from onepiece.figures import subplots
from onepiece.course.text import Text

figure, axes = subplots()
axes.plot([1, 2], [3, 4])
lab.figure("line", figure, Text("A rising line", "一條上升的線"))
lab.say("It rises by one.", "它上升了一。")
lab.table(["length", "seconds"], [[1, 0.123456]])
lab.record("error", float("nan"), variant="broken")
lab.record("error", float("inf"), seed=7, variant="broken")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    toy_course.write_quick_lab(made.root, RAISES, first='values = [1, 2]\nprint("looking")\nvalues[7]  # out of reach', second=GOOD)
    toy_course.write_quick_lab(made.root, MISSES, first=GOOD.replace("0.0", "0.5"))
    toy_course.write_quick_lab(made.root, HOLDS, first=GOOD.replace('1.0, variant="off_by_one"', '0.05, variant="off_by_one"'))
    toy_course.write_quick_lab(made.root, SHOWS, first=GOOD + FIGURE)
    return made


def only_run(checkout: Checkout, lab_id: str) -> Path:
    (run,) = checkout.runs(lab_id)
    return run


def no_traceback(done: Done) -> None:
    """A user's mistake is one line of cause and one of remedy."""
    assert "Traceback" not in done.output
    assert done.output.strip()


# --- the score --------------------------------------------------------------------------------------------

SCORE = """
[score]
metric = "speed"
objective = { en = "Faster than before", zh-TW = "比之前快" }
unit = "x"
better = "higher"
"""
SPEED = """
from counting import speed

lab.record("speed", speed(), seed=0)
lab.record("speed", speed() + 1, seed=1)
lab.record("speed", 99.0, variant="naive")
"""
SPEEDING = "def speed() -> float:\n    # SOLUTION 1\n    return 2.0\n    # END SOLUTION\n"


def test_a_score_is_said_kept_and_shown_beside_the_best_so_far(checkout: Checkout, read_results: Results, tmp_path: Path) -> None:
    lab_id, other = "lab-9.6-speed", checkout.elsewhere(tmp_path / "home")
    directory = toy_course.write_quick_lab(checkout.root, lab_id, first=GOOD + SPEED)
    (directory / "counting.py").write_text(SPEEDING, encoding="utf-8")
    manifest = directory / "lab.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8") + SCORE, encoding="utf-8")
    try:
        first = other.host("run", lab_id, "--backend", "local", "--device", "cpu")
        assert first.code == 0, first.output
        assert "score: 2.5 x (the first one) Faster than before" in first.words
        assert other.host("start", lab_id).code == 0
        mine = other.home / "workspace" / lab_id / "counting.py"
        for value, said in (("1.0", "score: 1.5 x (the first one)"), ("3.0", "score: 3.5 x (the best so far; before: 1.5 x)")):
            mine.write_text(f"def speed() -> float:\n    return {value}\n", encoding="utf-8")
            done = other.host("run", lab_id, "--mine", "--backend", "local", "--device", "cpu")
            assert said in done.words, "the reference's score is another's"
        shown = other.host("progress").output
    finally:
        shutil.rmtree(directory)
    assert re.search(rf"{lab_id} +speed +cpu +.+ reference +2\.5 x", shown), shown
    assert re.search(rf"{lab_id} +speed +cpu +.+ mine +3\.5 x", shown), shown
    scores = [read_results(run)["score"] for run in other.runs(lab_id)]
    assert [score["value"] for score in scores] == [2.5, 1.5, 3.5]
    assert scores[0] == {
        "metric": "speed",
        "objective": {"en": "Faster than before", "zh-TW": "比之前快"},
        "unit": "x",
        "better": "higher",
        "value": 2.5,
    }


def test_a_lab_has_no_score_on_a_profile_that_it_is_not_for(checkout: Checkout, read_results: Results, tmp_path: Path) -> None:
    lab_id, other = "lab-9.7-quiet", checkout.elsewhere(tmp_path / "home")
    directory = toy_course.write_quick_lab(checkout.root, lab_id, first=GOOD + 'lab.record("speed", 2.0)\n')
    manifest = directory / "lab.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8") + SCORE + 'profiles = ["gpu"]\n', encoding="utf-8")
    try:
        done = other.host("run", lab_id, "--backend", "local", "--device", "cpu")
    finally:
        shutil.rmtree(directory)
    assert done.code == 0, done.output
    assert "score:" not in done.output
    assert read_results(other.runs(lab_id)[0])["score"] is None


# --- the course -------------------------------------------------------------------------------------------


def test_nox_list_shows_every_lab_in_order_with_title_and_minutes(checkout: Checkout) -> None:
    done = checkout.nox("--list")
    assert done.code == 0
    listed = re.findall(r"^[*-] (lab-\S+).*-> (.*)$", done.output, re.MULTILINE)
    assert [lab_id for lab_id, _ in listed] == [LAB, RAISES, MISSES, HOLDS, SHOWS]
    assert all("A toy (1 min)" in title for _, title in listed)


def test_nox_alone_shows_the_course(checkout: Checkout) -> None:
    done = checkout.nox()
    assert done.code == 0
    for lab_id in (LAB, RAISES, SHOWS):
        assert lab_id in done.output


def test_the_catalog_names_what_is_wrong_and_shows_the_rest(checkout: Checkout, tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    toy_course.write_lab(tmp_path, "lab-9.9-bad", manifest="title = 1")
    done = checkout.host("catalog", ONEPIECE_ROOT=str(tmp_path))
    assert done.code == 2
    assert LAB in done.output
    assert "lab-9.9-bad/lab.toml, key title" in done.words
    no_traceback(done)


# --- a run that passes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passed(checkout: Checkout) -> Done:
    return checkout.nox("-s", LAB, "--", "--publish")


def test_a_passing_lab_exits_with_zero_and_says_what_was_chosen_and_why(passed: Done) -> None:
    assert passed.code == 0
    assert "Running locally on" in passed.words
    assert "profile" in passed.words
    no_traceback(passed)


def test_progress_and_verdict_are_shown(passed: Done, checkout: Checkout) -> None:
    assert re.search(r"✓ 01-count\s+[\d.]+ s", passed.output)
    assert re.search(r"✓ 02-use\s+[\d.]+ s", passed.output)
    assert "The count is exact" in passed.output
    assert re.search(r"off_by_one: 1 ✓ missed", passed.words)
    assert "2 of 2 gates held" in passed.words
    assert "PASSED" in passed.output
    run = checkout.runs()[0]
    assert str(run.relative_to(checkout.root) / "report.html") in passed.output


def test_the_results_say_everything_that_a_reader_needs(passed: Done, checkout: Checkout, read_results: Results) -> None:
    results = read_results(checkout.runs()[0])
    assert (results["status"], results["complete"], results["mine"]) == ("passed", True, False)
    assert (results["backend"], results["profile"]) == ("local", "cpu")
    assert results["settings"] == {"seeds": [0, 1], "steps": 3}
    assert [notebook["status"] for notebook in results["notebooks"]] == ["ok", "ok"]
    gate, other = results["gates"]
    assert (gate["metric"], gate["bound"], gate["value"], gate["passed"]) == ("error", "<= 0.1", 0, True)
    assert gate["control"] == {"variant": "off_by_one", "value": 1.0, "missed": True}
    assert (other["metric"], other["value"], other["passed"], other["control"]) == ("agrees", True, True, None)
    assert {(record["metric"], record["seed"], record["variant"]) for record in results["records"]} == {
        ("error", 0, None),
        ("error", 1, None),
        ("error", 0, "off_by_one"),
        ("error", 1, "off_by_one"),
        ("agrees", None, None),
    }
    assert results["versions"]["torch"]
    assert results["hardware"]["cores"] >= 1
    assert 0 < results["peak_bytes"] < 2**30
    assert results["seconds"] > 0


def test_the_executed_notebooks_are_kept_with_their_outputs(passed: Done, checkout: Checkout) -> None:
    notebook = nbformat.read(checkout.runs()[0] / "notebooks" / "01-count.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert "How many?" in notebook.cells[0].source


def test_a_published_run_is_the_committed_result(passed: Done, checkout: Checkout, read_results: Results) -> None:
    published = json.loads((checkout.root / "labs" / LAB / "results" / "cpu-cpu.json").read_text(encoding="utf-8"))
    assert published == read_results(checkout.runs()[0])


def test_a_single_notebook_uses_the_artifacts_of_an_earlier_run_and_speaks_chinese(
    passed: Done, checkout: Checkout, read_results: Results
) -> None:
    before = set(checkout.runs())
    done = checkout.host("run", LAB, "--notebook", "2", "--lang", "zh-TW")
    assert done.code == 0
    (run,) = set(checkout.runs()) - before
    results = read_results(run)
    assert (results["status"], results["complete"], results["language"]) == ("incomplete", False, "zh-TW")
    assert [notebook["name"] for notebook in results["notebooks"]] == ["02-use"]
    first, second = results["gates"]
    assert (first["passed"], first["reason"]) == (None, "not run")
    assert (second["metric"], second["passed"]) == ("agrees", True)
    assert "兩份筆記本一致" in done.output
    assert "未完成" in done.output
    assert "Both notebooks agree" not in done.output
    notebook = nbformat.read(run / "notebooks" / "02-use.ipynb", as_version=4)
    assert notebook.cells[0].source == "# 使用"


def test_a_single_notebook_on_a_fresh_machine_says_which_one_must_run_first(
    checkout: Checkout, tmp_path: Path, read_results: Results
) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", LAB, "--notebook", "02")
    assert done.code == 1
    assert "02-use needs count.json, which 01-count makes" in done.words
    assert f"nox -s {LAB} -- --notebook 01" in done.words
    assert read_results(only_run(fresh, LAB))["status"] == "failed"


# --- a run that fails -------------------------------------------------------------------------------------


def test_a_failing_cell_is_shown_with_its_error_and_the_saved_notebook(checkout: Checkout, tmp_path: Path, read_results: Results) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", RAISES)
    assert done.code == 1
    assert "01-first, cell 1" in done.words
    assert "values[7] # out of reach" in done.words
    assert "IndexError: list index out of range" in done.words
    assert "FAILED" in done.output
    run = only_run(fresh, RAISES)
    saved = run / "notebooks" / "01-first.ipynb"
    assert str(saved) in done.output, "in one piece, so that it can be copied"
    assert "looking" in saved.read_text(encoding="utf-8"), "the outputs up to the error are kept"
    results = read_results(run)
    assert results["status"] == "failed"
    (notebook,) = results["notebooks"]
    assert (notebook["status"], notebook["error"]["name"], notebook["error"]["cell"]) == ("failed", "IndexError", 1)
    for gate in results["gates"]:  # of a notebook that was never started
        assert (gate["passed"], gate["reason"]) == (None, "not run")
    assert "IndexError" in (run / "report.html").read_text(encoding="utf-8")


def test_keep_going_runs_the_notebooks_after_a_failing_one(checkout: Checkout, tmp_path: Path, read_results: Results) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", RAISES, "--keep-going")
    assert done.code == 1
    results = read_results(only_run(fresh, RAISES))
    assert [notebook["status"] for notebook in results["notebooks"]] == ["failed", "ok"]
    assert [gate["passed"] for gate in results["gates"]] == [True, True]
    assert results["status"] == "failed", "a cell that failed is a failure, whatever the gates say"


def test_a_gate_that_misses_is_a_failure(checkout: Checkout, read_results: Results) -> None:
    done = checkout.host("run", MISSES, "--publish")
    assert done.code != 0
    assert "1 of 2 gates held" in done.words
    assert "✗ missed" in done.words
    results = read_results(only_run(checkout, MISSES))
    assert results["status"] == "failed"
    assert (results["gates"][0]["value"], results["gates"][0]["passed"], results["gates"][0]["control"]["missed"]) == (0.5, False, True)
    assert not (checkout.root / "labs" / MISSES / "results").exists(), "a failed run is not published"
    assert "Nothing was published" in done.words


def test_a_control_that_holds_is_a_failure(checkout: Checkout, read_results: Results) -> None:
    done = checkout.host("run", HOLDS)
    assert done.code == 1
    assert "held!" in done.output
    results = read_results(only_run(checkout, HOLDS))
    assert results["status"] == "failed"
    assert (results["gates"][0]["passed"], results["gates"][0]["control"]["missed"]) == (True, False)


# --- the report, and two runs at once -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_once(checkout: Checkout) -> list[Done]:
    """Two runs of one lab, started at the same moment."""
    started = [
        subprocess.Popen(
            checkout.host_command("run", SHOWS),
            cwd=checkout.root,
            env=checkout.host_environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    return [Done(process.wait(), output) for process in started for output in [process.communicate(timeout=300)[0]]]


def test_two_runs_at_once_do_not_collide(at_once: list[Done], checkout: Checkout, read_results: Results) -> None:
    assert [done.code for done in at_once] == [0, 0], at_once
    assert len(checkout.runs(SHOWS)) == 2
    for run in checkout.runs(SHOWS):
        assert read_results(run)["status"] == "passed"
        assert len(read_results(run)["records"]) == 5


def test_numbers_that_are_none_are_kept_as_what_they_are(at_once: list[Done], checkout: Checkout, read_results: Results) -> None:
    broken = [record for record in read_results(checkout.runs(SHOWS)[0])["records"] if record["variant"] == "broken"]
    assert [(record["value"], record["seed"]) for record in broken] == [("nan", None), ("inf", 7)]


def test_the_report_is_one_file_in_both_languages_that_needs_no_network(at_once: list[Done], checkout: Checkout) -> None:
    html = (checkout.runs(SHOWS)[0] / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe|source|video|object|embed)\b[^>]*\b(src|href|data)\s*=\s*[\"']?(https?:)?//", html)
    assert not re.search(r"@import|url\((?!['\"]?data:)", html)
    for text in ("A toy", "玩具", "The count is exact", "計數精確", "A rising line", "一條上升的線", "off_by_one"):
        assert text in html
    assert 'src="data:image/png;base64,' in html
    assert re.search(r"<img[^>]*\balt=\"A rising line\"", html), "who cannot see the figure reads its caption"


def test_what_a_notebook_shows_is_in_the_saved_notebook(at_once: list[Done], checkout: Checkout) -> None:
    text = (checkout.runs(SHOWS)[0] / "notebooks" / "01-first.ipynb").read_text(encoding="utf-8")
    assert "It rises by one." in text
    assert "它上升了一" not in text.split('"outputs"', 1)[1].split('"source"')[0], "prose made from results is in one language"
    assert "| 1 | 0.1235 |" in text
    assert (checkout.runs(SHOWS)[0] / "figures" / "line.png").read_bytes().startswith(b"\x89PNG")


# --- mistakes ---------------------------------------------------------------------------------------------


def test_an_environment_that_is_there_already_is_used_and_the_results_say_so(checkout: Checkout, read_results: Results) -> None:
    from onepiece.host.road import environments

    there = environments.ensure("cpu", session="tests").directory
    done = checkout.host("run", LAB, "--environment", str(there))
    assert done.code == 0, done.output
    run = checkout.runs()[-1]
    assert read_results(run)["environment"]["lock_sha256"] is None
    assert "not installed from a lock" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--environment", "nowhere"], "--environment nowhere: there is no"),
        (["--environment", "nowhere", "--backend", "container"], "--environment nowhere: there is no"),
        (["--environment", sys.prefix, "--backend", "container"], "not with --backend container"),
    ],
)
def test_an_environment_that_cannot_be_used_is_a_clear_error(checkout: Checkout, arguments: list[str], says: str) -> None:
    done = checkout.host("run", LAB, *arguments)
    assert done.code == 2
    assert says in done.words
    assert "Traceback" not in done.output


def test_an_unknown_lab_suggests_the_nearest(checkout: Checkout) -> None:
    done = checkout.nox("-s", "lab-9.1-tory")
    assert done.code != 0
    assert "There is no lab named lab-9.1-tory." in done.words
    assert f"nox -s {LAB}" in done.words
    no_traceback(done)


def test_the_beginning_of_an_id_runs_nothing_and_says_what_it_is_the_beginning_of(checkout: Checkout) -> None:
    before = len(checkout.runs(MISSES))
    done = checkout.nox("-s", "lab-9.3")
    assert done.code != 0
    assert f"Did you mean: nox -s {MISSES} ?" in done.words
    assert len(checkout.runs(MISSES)) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--profil", "cpu"], "--profil", id="an unknown option"),
        pytest.param(["--profile", "tpu"], "'tpu'", id="an unknown profile"),
        pytest.param(["--notebook"], "--notebook", id="a missing value"),
        pytest.param(["--notebook", "7"], "Choose one of: 01-count, 02-use", id="an unknown notebook"),
        pytest.param(["--mine"], f"nox -s start -- {LAB}", id="no copy of one's own"),
        pytest.param(["--backend", "container"], "Leave out --backend container", id="no container backend"),
        pytest.param(["--model", "nowhere"], "no model directory", id="a model that is not there"),
        pytest.param(["extra"], "extra", id="a word too many"),
    ],
)
def test_a_mistake_is_one_line_of_cause_and_one_of_remedy(checkout: Checkout, tmp_path: Path, arguments: list[str], says: str) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", LAB, *arguments, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.code == 2
    assert says in done.words
    assert "error" in done.output
    assert "next" in done.output
    no_traceback(done)
    assert not fresh.runs(), "nothing half-made is left"


@pytest.mark.fault("model-not-whole")
@pytest.mark.parametrize(("size", "says"), [(300_000, "it is cut off"), (0, "its header cannot be read")])
def test_a_model_that_is_not_whole_is_named_before_a_kernel_starts(checkout: Checkout, tmp_path: Path, size: int, says: str) -> None:
    model = Path(shutil.copytree(CHECKPOINTS / "tiny-draft", tmp_path / "model"))
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:size])
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", LAB, "--model", str(model))
    assert done.code == 2
    assert says in done.words and "model.safetensors" in done.output
    no_traceback(done)
    assert not fresh.runs(), "nothing half-made is left"


def test_mistakes_are_told_in_chinese_too(checkout: Checkout) -> None:
    done = checkout.host("run", LAB, "--lang", "zh-TW", "--notebook", "7")
    assert done.code == 2
    assert "沒有編號 7 的筆記本" in done.words


def test_help_explains_every_option_and_exits_with_zero(checkout: Checkout) -> None:
    done = checkout.host("run", LAB, "--help")
    assert done.code == 0
    for option in (
        "--profile",
        "--device",
        "--backend",
        "--notebook",
        "--lang",
        "--model",
        "--mine",
        "--keep-going",
        "--publish",
        "--fresh",
    ):
        assert option in done.output


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        pytest.param("lab.toml", "title = 1", f"{LAB}/lab.toml, key title", id="manifest"),
        pytest.param("02-use.py", "# %% [md]\n", f"{LAB}/02-use.py:1: unknown cell type [md]", id="notebook"),
        pytest.param("counting.py", "# SOLUTION 1\n", f"{LAB}/counting.py:1: SOLUTION without its END SOLUTION", id="module"),
    ],
)
def test_a_broken_source_is_named_before_anything_runs(checkout: Checkout, tmp_path: Path, file: str, content: str, says: str) -> None:
    (toy_course.write_lab(tmp_path) / file).write_text(content, encoding="utf-8")
    fresh = checkout.elsewhere(tmp_path / "home")
    done = fresh.host("run", LAB, ONEPIECE_ROOT=str(tmp_path))
    assert done.code == 2
    assert says in done.words
    no_traceback(done)
    assert not fresh.runs()


@pytest.mark.fault("full-disk")
@linux_only
def test_a_place_that_cannot_be_written_is_named(checkout: Checkout, tmp_path: Path) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    (fresh.home / "runs").symlink_to("/sys/kernel")  # where not even root may make a directory
    done = fresh.host("run", LAB)
    assert done.code == 2
    assert "Cannot write to" in done.words
    assert "ONEPIECE_HOME" in done.words
    no_traceback(done)


@pytest.mark.fault("full-disk")
@linux_only
def test_a_full_disk_is_named(checkout: Checkout, tmp_path: Path) -> None:
    fresh = checkout.elsewhere(tmp_path / "home")
    (fresh.home / "runs").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(fresh.home / "runs")], capture_output=True, text=True)
    if mounted.returncode != 0:
        missing("mount", f"a disk of a few bytes cannot be mounted here: {mounted.stderr.strip()}")
    try:
        done = fresh.host("run", SHOWS)
    finally:
        subprocess.run(["umount", "--lazy", str(fresh.home / "runs")], check=True)
    assert done.code == 2
    assert "is full" in done.words
    no_traceback(done)
