"""Which labs are run whole: those that a change can have broken first, as many as fit, and in the end all of them in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import toy_course
import whole_runs
from whole_runs import EXEMPLAR, HANDFUL, select

from onepiece.course.catalog import Gate, Lab, Profile
from onepiece.course.text import Text

SHARED = "shared/onepiece/training.py"


def lab(lab_id: str, minutes: float = 3) -> Lab:
    return Lab(
        id=lab_id,
        directory=Path("labs") / lab_id,
        title=Text("A", "甲"),
        summary=Text("A", "甲"),
        chapter="1.1",
        level="core",
        notebooks=("01-a",),
        image="train",
        profiles={"cpu": Profile(minutes, {}, 1)},
        gates=(Gate("error", Text("A", "甲"), max=1.0, control="wrong"),),
    )


FORTY = [lab(EXEMPLAR, 2), *(lab(f"lab-3.{number}-x") for number in range(1, 40))]


def choose(changed: Iterable[str] = (), users: Iterable[str] = (), labs: list[Lab] = FORTY, **options: Any) -> whole_runs.Selection:
    """A selection in which the labs of `users` import the shared module."""
    users = set(users)
    modules = {found.id: {SHARED: "onepiece.training"} if found.id in users else {} for found in labs}
    return select(labs, changed, modules=modules, **options)


def why(selection: whole_runs.Selection) -> dict[str, str]:
    return {choice.lab: choice.why for choice in (*selection.run, *selection.left)}


def test_without_a_change_the_exemplar_and_a_handful_are_run() -> None:
    selection = choose()
    assert selection.run[0].lab == EXEMPLAR
    assert len(selection.run) in (HANDFUL, HANDFUL + 1)
    assert not selection.left


def test_every_lab_has_its_turn() -> None:
    seen = {lab_id for day in range(-(-len(FORTY) // HANDFUL)) for lab_id in choose(day=day).ids}
    assert seen == {found.id for found in FORTY}


def test_a_lab_that_was_touched_comes_before_those_that_import_what_was_touched_and_these_before_the_others() -> None:
    selection = choose([SHARED, "labs/lab-3.30-x/method.py"], users=["lab-3.20-x"], older=["lab-3.10-x"], left_before=["lab-3.35-x"])
    assert selection.ids[:5] == [EXEMPLAR, "lab-3.35-x", "lab-3.30-x", "lab-3.20-x", "lab-3.10-x"]
    said = why(selection)
    assert said["lab-3.30-x"] == "touched: labs/lab-3.30-x/method.py"
    assert said["lab-3.20-x"] == "imports onepiece.training"


@pytest.mark.parametrize(
    "path", ["labs/lab-3.9-x/README.md", "labs/lab-3.9-x/results/cpu-cpu.json", "labs/lab-3.9-x/quiz.toml", "labs/lab-3.99-x/a.py"]
)
def test_texts_and_results_and_other_labs_are_no_reason(path: str) -> None:
    assert "lab-3.9-x" not in choose([path], day=5).ids


@pytest.mark.parametrize("path", ["labs/lab-3.9-x/lab.toml", "labs/lab-3.9-x/01-a.py", "images/lab-3.9-x/Dockerfile"])
def test_what_a_run_runs_is_a_reason(path: str) -> None:
    assert why(choose([path]))["lab-3.9-x"] == f"touched: {path}"


def test_what_does_not_fit_is_said_and_a_shorter_one_takes_its_place() -> None:
    labs = [lab(EXEMPLAR, 2), lab("lab-1.1-a", 20), lab("lab-1.2-b", 10), lab("lab-1.3-c", 3)]
    selection = choose([f"labs/{found.id}/a.py" for found in labs], labs=labs, minutes=25)
    assert selection.ids == [EXEMPLAR, "lab-1.1-a", "lab-1.3-c"]
    assert [choice.lab for choice in selection.left] == ["lab-1.2-b"]
    assert sum(choice.minutes for choice in selection.run) <= 25
    assert any("later lab-1.2-b" in line for line in selection.lines())


def test_a_change_of_everything_stays_within_the_minutes() -> None:
    selection = choose([SHARED], users=[found.id for found in FORTY])
    assert sum(choice.minutes for choice in selection.run) <= 25
    assert {choice.lab for choice in (*selection.run, *selection.left)} == {found.id for found in FORTY}


def test_a_lab_that_takes_longer_than_there_is_time_is_run_when_it_comes_first() -> None:
    assert choose(labs=[lab(EXEMPLAR, 90)]).ids == [EXEMPLAR]


def test_the_command_prints_labs_that_exist_and_remembers_what_did_not_fit(tmp_path: Path) -> None:
    memory = tmp_path / "somewhere" / "left.json"
    command = [sys.executable, "-S", "-E", str(toy_course.ROOT / "tests" / "whole_runs.py"), "--minutes", "1"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "ONEPIECE_WHOLE_RUNS_FILE": str(memory)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{EXEMPLAR}\n", "one declared minute is only for the first"
    left = json.loads(memory.read_text(encoding="utf-8"))
    assert all(f"later {lab_id}" in done.stderr for lab_id in left)


@pytest.mark.parametrize("content", ["", "[", "{}", "[1, null]"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (tmp_path / "left.json").write_text(content, encoding="utf-8")
    monkeypatch.setenv("ONEPIECE_WHOLE_RUNS_FILE", str(tmp_path / "left.json"))
    assert whole_runs._remembered() == []
