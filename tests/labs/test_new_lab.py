"""`nox -s new-lab`: what it makes is a lab like any other, of every kind.

What holds for every lab is not said again here: the tests of labs and Dockerfiles are run on a course of scaffolded labs. Whole runs
and mutants take minutes; `ONEPIECE_SCAFFOLDS=all`, or `serving,peft`, says of which kinds (without it: `training`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_course
from rich.console import Console
from toy_course import Checkout, Done

from onepiece.course.errors import UserError
from onepiece.host.commands import new_lab
from onepiece.host.commands.catalog import READMES

KINDS = tuple(new_lab.KINDS)
CHOSEN = os.environ.get("ONEPIECE_SCAFFOLDS") or "training"
OF_EVERY_LAB = ("tests/labs/test_every_lab.py", "tests/labs/test_checks_and_mutants.py", "tests/images/test_dockerfiles.py")
KEPT = "published or search_of_settings"  # in the names of tests that need a run, or a search, that was kept


def lab_of(kind: str) -> str:
    """The id of the scaffolded lab; its number is its own."""
    return f"lab-9.{KINDS.index(kind) + 1}-{kind}"


def _slow(kind: str) -> Any:
    reason = f"takes minutes: ONEPIECE_SCAFFOLDS={kind} runs it, ONEPIECE_SCAFFOLDS=all runs every kind"
    asked = CHOSEN == "all" or kind in CHOSEN.split(",")
    return pytest.param(kind, marks=[pytest.mark.slow_lab, *([] if asked else [pytest.mark.skip(reason=reason)])])


slow_kinds = pytest.mark.parametrize("kind", [_slow(kind) for kind in KINDS])


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose labs are those that the command makes, one of each kind."""
    made = Checkout.make(tmp_path_factory.mktemp("scaffolds"))
    shutil.rmtree(made.root / "labs" / toy_course.LAB)
    for image in (made.root / "images").glob("lab-*"):
        shutil.rmtree(image)
    for kind in KINDS:
        done = made.host("new-lab", lab_of(kind), "--like", kind)
        assert done.code == 0, done.output
    for name in READMES:
        shutil.copy(toy_course.ROOT / name, made.root / name)
    assert made.host("catalog", "--readme").code == 0
    return made


def hold_to_the_tests(course: Checkout, *options: str, labs: str) -> Done:
    """Run the tests of every lab on the scaffolded ones."""
    command = [sys.executable, "-m", "pytest", *OF_EVERY_LAB, "-p", "no:cacheprovider", "-q", *options]
    environ = os.environ | {"ONEPIECE_ROOT": str(course.root), "ONEPIECE_LABS": labs}
    done = subprocess.run(command, cwd=toy_course.ROOT, env=environ, capture_output=True, text=True, encoding="utf-8")
    return Done(done.returncode, done.stdout + done.stderr)


# --- structure ----------------------------------------------------------------------------------------------


def test_what_holds_for_every_lab_without_a_run_holds_for_a_scaffolded_one_of_each_kind(course: Checkout) -> None:
    done = hold_to_the_tests(course, "-m", "not slow_lab", "-k", f"not ({KEPT})", labs=",".join(map(lab_of, KINDS)))
    assert done.code == 0, done.output


def test_its_quiz_has_three_questions_and_nothing_is_wrong_with_them(course: Checkout) -> None:
    listed = course.host("quiz")
    assert listed.code == 0, listed.output
    for kind in KINDS:
        assert re.search(rf"^│ {re.escape(lab_of(kind))} .*│ +3 │", listed.output, re.MULTILINE), listed.output


@pytest.mark.parametrize("kind", KINDS)
def test_every_placeholder_is_filled(kind: str) -> None:
    for name, content in new_lab.scaffold("lab-9.9-x", kind).items():
        assert not re.search(r"@[A-Za-z]+@", content), name
        assert content.endswith("\n") and not content.endswith("\n\n"), name


def test_code_and_layout_are_as_ruff_wants_them(course: Checkout) -> None:
    config = ["--config", str(toy_course.ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *config, "labs"], cwd=course.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- what the command refuses -----------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course without labs."""
    monkeypatch.setattr(new_lab, "LABS", tmp_path / "labs")
    monkeypatch.setattr(new_lab, "IMAGES", tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["lab-9.9-x"], "which-kind"),
        (["lab-9.9-x", "--like", "cooking"], "usage"),
        (["9.9", "--like", "training"], "bad-lab-id"),
        (["lab-9.9-X", "--like", "training"], "bad-lab-id"),
        (["lab-9.1-there", "--like", "training"], "lab-exists"),
        (["lab-9.1-other", "--like", "training"], "lab-number-taken"),
        (["lab-9.2-other", "--like", "training"], "lab-number-taken"),
    ],
)
def test_what_cannot_become_a_lab_is_refused_before_anything_is_written(empty: Path, arguments: list[str], code: str) -> None:
    new_lab.command(Console(record=True), ["lab-9.1-there", "--like", "training"])
    (empty / "labs" / "lab-9.2-broken").mkdir()
    (empty / "labs" / "lab-9.2-broken" / "lab.toml").write_text("title = 1\n", encoding="utf-8")
    before = sorted(empty.rglob("*"))
    with pytest.raises(UserError) as error:
        new_lab.command(Console(record=True), arguments)
    assert error.value.code == code
    assert sorted(empty.rglob("*")) == before


def test_an_image_without_its_lab_is_not_overwritten(empty: Path) -> None:
    (empty / "images" / "lab-9.9-x").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        new_lab.command(Console(record=True), ["lab-9.9-x", "--like", "training"])
    assert error.value.code == "lab-exists"
    assert not (empty / "labs").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_steps_are_what_the_lab_can_do(empty: Path, kind: str) -> None:
    console = Console(record=True, width=160)
    assert new_lab.command(console, ["lab-9.9-x", "--like", kind]) == 0
    said = console.export_text()
    for typed in ("nox -s lab-9.9-x -- --publish", "nox -s check -- lab-9.9-x --reference", "nox -s tests -- lab-9.9-x"):
        assert typed in said
    assert ("nox -s calibrate" in said) == (empty / "labs" / "lab-9.9-x" / "calibration.py").exists()


# --- runs ---------------------------------------------------------------------------------------------------


@slow_kinds
def test_it_runs_whole_every_gate_holds_what_must_miss_misses_and_what_is_published_is_accepted(
    course: Checkout, kind: str, read_results: Callable[[Path], dict[str, Any]]
) -> None:
    lab_id = lab_of(kind)
    done = course.host("run", lab_id, "--profile", "cpu", "--device", "cpu", "--backend", "local", "--publish")
    assert done.code == 0, done.output
    (run,) = course.runs(lab_id)
    gates = read_results(run)["gates"]
    assert [gate["metric"] for gate in gates if not (gate["passed"] and gate["control"] and gate["control"]["missed"])] == []
    assert [gate["null"]["missed"] for gate in gates if gate["null"]] == [True], "one gate on quality, with a null system"
    judged = course.host("mutate", lab_id, "--gates", "--publish")
    assert judged.code == 0, judged.output
    if (course.root / "labs" / lab_id / "calibration.py").exists():
        done = course.host("calibrate", lab_id, "--publish")
        assert done.code == 0, done.output
    published = hold_to_the_tests(course, "-m", "not slow_lab", "-k", f"({KEPT}) and {kind}", labs=lab_id)
    assert published.code == 0, published.output
    (page,) = (course.root / "labs" / lab_id / "results").glob("cpu-cpu.json")
    assert json.loads(page.read_text(encoding="utf-8"))["status"] == "passed"
