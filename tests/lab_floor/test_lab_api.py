"""What a notebook says to its run: records, artifacts, figures, progress."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pytest
import torch

from onepiece import lab
from onepiece.course.errors import UserError
from onepiece.course.text import Text

matplotlib.use("Agg")

CONTEXT: dict[str, Any] = {
    "lab": "lab-9.1-toy",
    "profile": "cpu",
    "device": "cpu",
    "dtype": "bfloat16",
    "language": "en",
    "settings": {"seeds": [0, 1], "steps": 3, "rate": 0.5},
    "model": None,
    "predictions": {"error": 0.25},
    "artifact_makers": {"made.txt": "01-make", "deep/made.txt": "01-make"},
    "earlier_runs": [],
    "strict": True,
}

Enter = Callable[..., Path]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Become the kernel of a notebook: `enter("01-make", device="cuda")`; gives the run directory."""

    def become(notebook: str | None = "01-make", run: str = "run", **changes: Any) -> Path:
        directory = tmp_path / run
        directory.mkdir(exist_ok=True)
        (directory / "context.json").write_text(json.dumps(CONTEXT | changes), encoding="utf-8")
        monkeypatch.setattr(lab, "_run", None)
        monkeypatch.setattr(lab, "_settings", None)
        monkeypatch.setenv("ONEPIECE_RUN", str(directory))
        monkeypatch.setenv("ONEPIECE_LANG", "en")
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        if notebook is None:
            monkeypatch.delenv("ONEPIECE_NOTEBOOK", raising=False)
        else:
            monkeypatch.setenv("ONEPIECE_NOTEBOOK", notebook)
        return directory

    return become


def events(run: Path, notebook: str = "01-make") -> list[dict[str, Any]]:
    path = run / "events" / f"{notebook}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


# --- record -----------------------------------------------------------------------------------------------


def test_a_recorded_value_travels_unrounded_with_seed_and_variant(enter: Enter) -> None:
    run = enter()
    lab.record("error", 0.1 + 0.2, seed=3, variant="slow")
    assert events(run) == [{"event": "record", "metric": "error", "value": 0.30000000000000004, "seed": 3, "variant": "slow"}]


@pytest.mark.parametrize(
    ("value", "travels"),
    [
        (True, True), (3, 3), (torch.tensor(0.5), 0.5), (torch.tensor([2]), 2), (torch.tensor(True), True),
        (numpy.float64(0.25), 0.25), (numpy.int64(7), 7), (numpy.bool_(False), False),
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (torch.tensor(math.nan), "nan"),
    ],
)  # fmt: skip
def test_one_number_of_any_kind_can_be_recorded(enter: Enter, value: Any, travels: Any) -> None:
    run = enter()
    lab.record("error", value)
    (event,) = events(run)
    assert event["value"] == travels
    assert type(event["value"]) is type(travels)


@pytest.mark.parametrize("value", ["0.5", None, [0.5], torch.zeros(2), numpy.zeros(2), 1j, torch.tensor(1j)], ids=repr)
def test_what_is_not_one_number_is_refused(enter: Enter, value: Any) -> None:
    run = enter()
    with pytest.raises(TypeError, match="error"):
        lab.record("error", value)
    assert events(run) == []


def test_the_same_value_twice_is_refused_and_another_seed_or_variant_is_not(enter: Enter) -> None:
    enter()
    lab.record("error", 1.0)
    lab.record("error", 1.0, seed=0)
    lab.record("error", 1.0, seed=1)
    lab.record("error", 1.0, variant="slow")
    lab.record("error", 1.0, seed=0, variant="slow")
    with pytest.raises(ValueError, match=r"error \(seed 1, variant None\) is recorded twice"):
        lab.record("error", 2.0, seed=1)


def test_a_cell_may_be_run_again_in_a_notebook_that_is_open_by_hand(enter: Enter) -> None:
    enter(strict=False)
    lab.record("error", 1.0)
    lab.record("error", 2.0)


def test_without_a_run_the_learner_hears_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "_run", None)
    monkeypatch.delenv("ONEPIECE_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="nox -s start"):
        lab.record("error", 1.0)


def test_a_notebook_opened_by_hand_uses_the_run_beside_it(enter: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = enter(None, run=".run", strict=False)
    monkeypatch.delenv("ONEPIECE_RUN")
    monkeypatch.chdir(tmp_path)
    lab.record("error", 1.0)
    assert len(events(run, "interactive")) == 1


# --- settings and predictions -----------------------------------------------------------------------------------


def test_settings_are_those_of_the_profile_with_device_and_dtype(enter: Enter) -> None:
    enter()
    assert (lab.settings.seeds, lab.settings.steps, lab.settings.rate) == ((0, 1), 3, 0.5)
    assert lab.settings.device == torch.device("cpu")
    assert lab.settings.dtype is torch.bfloat16
    assert (lab.settings.profile, lab.settings.model) == ("cpu", None)


def test_settings_cannot_be_changed_by_a_cell(enter: Enter) -> None:
    enter()
    with pytest.raises(dataclasses.FrozenInstanceError):
        lab.settings.steps = 5
    with pytest.raises(TypeError):
        lab.settings.seeds[0] = 7
    assert lab.settings is lab.settings


def test_a_setting_or_a_function_that_is_not_there_is_an_attribute_error(enter: Enter) -> None:
    enter()
    with pytest.raises(AttributeError, match="lenght"):
        _ = lab.settings.lenght
    with pytest.raises(AttributeError):
        _ = lab.no_such_thing


def test_a_prediction_is_what_the_learner_guessed_or_none(enter: Enter) -> None:
    enter()
    assert lab.predict("error") == 0.25
    assert lab.predict("speed") is None


# --- artifacts ----------------------------------------------------------------------------------------------------


def test_its_maker_gets_a_place_to_write_and_a_later_notebook_the_file(enter: Enter) -> None:
    enter("01-make")
    lab.artifact("made.txt").write_text("made")
    lab.artifact("deep/made.txt").write_text("deep")
    enter("02-use")
    assert lab.artifact("made.txt").read_text() == "made"
    assert lab.artifact("deep/made.txt").read_text() == "deep"


def test_the_newest_earlier_run_helps_out_and_this_run_comes_first(enter: Enter, tmp_path: Path) -> None:
    earlier = []
    for name in ("newest", "oldest"):
        (tmp_path / name / "artifacts").mkdir(parents=True)
        (tmp_path / name / "artifacts" / "made.txt").write_text(name)
        earlier.append(str(tmp_path / name))
    run = enter("02-use", earlier_runs=earlier)
    assert lab.artifact("made.txt").read_text() == "newest"
    (run / "artifacts" / "made.txt").write_text("this")
    assert lab.artifact("made.txt").read_text() == "this"


def test_a_maker_never_writes_into_an_earlier_run(enter: Enter, tmp_path: Path) -> None:
    (tmp_path / "earlier" / "artifacts").mkdir(parents=True)
    (tmp_path / "earlier" / "artifacts" / "made.txt").write_text("kept")
    run = enter("01-make", earlier_runs=[str(tmp_path / "earlier")])
    assert lab.artifact("made.txt").is_relative_to(run)


def test_a_missing_artifact_says_which_notebook_makes_it_and_what_to_type(enter: Enter) -> None:
    enter("02-use")
    with pytest.raises(UserError) as refusal:
        lab.artifact("made.txt")
    assert refusal.value.code == "missing-artifact"
    assert "02-use needs made.txt, which 01-make makes" in refusal.value.cause.en
    assert "nox -s lab-9.1-toy -- --notebook 01" in refusal.value.remedy.en


@pytest.mark.fault("escaping-artifact")
@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../x", "", "."])
def test_an_artifact_stays_inside_its_run(enter: Enter, name: str) -> None:
    run = enter(None, strict=False)
    with pytest.raises(ValueError, match="inside artifacts/ of this run"):
        lab.artifact(name)
    assert not (run.parent / "x").exists()


@pytest.mark.fault("escaping-artifact")
def test_so_does_a_figure(enter: Enter) -> None:
    from matplotlib import pyplot

    enter()
    with pytest.raises(ValueError, match="inside figures/"):
        lab.figure("../../x", pyplot.figure(), Text("a", "b"))


def test_a_notebook_opened_by_hand_may_write_any_artifact(enter: Enter) -> None:
    run = enter(None, strict=False)
    lab.artifact("made.txt").write_text("by hand")
    assert (run / "artifacts" / "made.txt").exists()


# --- what a reader sees ---------------------------------------------------------------------------------------------


def test_a_figure_is_saved_closed_and_part_of_the_report_in_both_languages(enter: Enter) -> None:
    from matplotlib import pyplot

    run = enter()
    before = pyplot.get_fignums()
    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    lab.figure("memory", figure, Text("Memory grows", "記憶體成長"))
    assert (run / "figures" / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert events(run) == [
        {"event": "figure", "name": "memory", "file": "figures/memory.png", "caption": {"en": "Memory grows", "zh-TW": "記憶體成長"}}
    ]
    assert pyplot.get_fignums() == before, "else a notebook shows it twice"


def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `display` is given from now on, as Markdown source."""
    import IPython.display

    said: list[str] = []
    monkeypatch.setattr(IPython.display, "display", lambda item: said.append(item.data))
    return said


@pytest.mark.parametrize(("language", "sentence"), [("en", "It is 3 times smaller."), ("zh-TW", "小了 3 倍。")])
def test_prose_made_from_results_is_in_the_readers_language(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, language: str, sentence: str
) -> None:
    enter()
    monkeypatch.setenv("ONEPIECE_LANG", language)
    said = shown(monkeypatch)
    lab.say("It is 3 times smaller.", "小了 3 倍。")
    assert said == [sentence]


def test_a_table_shows_four_significant_digits_and_everything_else_as_it_is(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    enter()
    said = shown(monkeypatch)
    lab.table(["length", "seconds", "fits"], [[1024, 0.123456, True], ["2k", 1234567.0, None]])
    assert said == ["| length | seconds | fits |\n| --- | --- | --- |\n| 1024 | 0.1235 | True |\n| 2k | 1.235e+06 | None |"]


# --- progress -------------------------------------------------------------------------------------------------------


def test_progress_gives_every_item_and_always_tells_the_last_step(enter: Enter) -> None:
    run = enter()
    seen: list[int] = []
    for step in lab.progress(range(5), loss=lambda: 1.0 / len(seen), rate=0.5):
        seen.append(step)
    assert seen == [0, 1, 2, 3, 4]
    last = events(run)[-1]
    assert (last["done"], last["total"]) == (5, 5)
    assert last["metrics"] == {"loss": pytest.approx(0.2), "rate": 0.5}


def test_progress_takes_what_has_no_length_and_values_that_are_no_numbers(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    run = enter()
    monkeypatch.setattr(lab, "_PROGRESS_SECONDS", 0.0)
    assert list(lab.progress((letter for letter in "ab"), loss=lambda: torch.tensor(math.nan))) == ["a", "b"]
    assert [(event["done"], event["total"], event["metrics"]["loss"]) for event in events(run)] == [(1, None, "nan"), (2, None, "nan")]


def test_progress_of_nothing_says_nothing(enter: Enter) -> None:
    run = enter()
    assert list(lab.progress([])) == []
    assert events(run) == []


def test_progress_works_in_a_notebook_that_is_open_by_hand(enter: Enter) -> None:
    run = enter(strict=False)
    assert list(lab.progress(range(3), loss=lambda: 1.0)) == [0, 1, 2]
    assert events(run) == []
