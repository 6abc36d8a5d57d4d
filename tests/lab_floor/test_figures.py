"""The figures that labs share: what is drawn is what was measured, and labels can be read in both languages."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from types import ModuleType

import matplotlib
import numpy
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ft2font import FT2Font

from onepiece.course.places import ROOT
from onepiece.evaluation import Interval
from onepiece.figures import LABEL_FONT, ablation_lines, comparison_bars, training_curves
from onepiece.training import History


@pytest.fixture(autouse=True)
def _english_and_no_open_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ONEPIECE_LANG", "en")
    yield
    pyplot.close("all")


def label_font() -> ModuleType:
    """docs/label_font.py, which is a program and in no package."""
    specification = importlib.util.spec_from_file_location("label_font", ROOT / "docs" / "label_font.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_training_curves() -> None:
    figure = training_curves({"LoRA": History(losses=[4.0, 2.0, 0.0]), "full": [1.0, 1.0]}, window=2, title="Loss")
    axes = figure.axes[0]
    lora, full = axes.get_lines()
    assert lora.get_xdata().tolist() == [1, 2, 3] and list(lora.get_ydata()) == [4.0, 3.0, 1.0]
    assert list(full.get_ydata()) == [1.0, 1.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["LoRA", "full"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("step", "loss (nats per token)", "Loss")
    assert lora.get_color() != full.get_color() and lora.get_marker() != full.get_marker()


def test_comparison_bars() -> None:
    figure = comparison_bars({"LoRA": Interval(0.9, 0.8, 0.95, 3), "full": 0.7}, ylabel="exact match", title="Held-out", reference=0.5)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0.7]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["LoRA", "full"]
    (segment,) = axes.collections[0].get_segments()  # one error bar: the other value has no interval
    numpy.testing.assert_allclose(segment[:, 1], [0.8, 0.95])
    assert len(axes.collections) == 1 and 0.5 in [line.get_ydata()[0] for line in axes.get_lines()]


def test_ablation_lines() -> None:
    series = {"relabel": [Interval(0.5, 0.4, 0.6, 3), 0.7, 0.9], "compose": [0.1, 0.2, 0.3]}
    figure = ablation_lines([1, 2, 4], series, xlabel="rank", ylabel="exact match", log_x=True)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log" and [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    segments = axes.collections[0].get_segments()
    numpy.testing.assert_allclose([segment[:, 1] for segment in segments], [[0.4, 0.6], [0.7, 0.7], [0.9, 0.9]])
    figure.canvas.draw()  # every label can be laid out


def test_nothing_to_plot() -> None:
    for draw in (
        lambda: training_curves({}),
        lambda: training_curves({"LoRA": History()}),
        lambda: comparison_bars({}, ylabel="x"),
        lambda: ablation_lines([1], {}, xlabel="x", ylabel="y"),
    ):
        with pytest.raises(ValueError, match="nothing to plot"):
            draw()
    with pytest.raises(ValueError, match="LoRA has 1 values for 2 settings"):
        ablation_lines([1, 2], {"LoRA": [0.5]}, xlabel="x", ylabel="y")


def test_labels_are_in_the_readers_language_and_every_sign_has_a_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training_curves({"LoRA": [2.0, 1.0]}, title="LoRA").canvas.draw()
    monkeypatch.setenv("ONEPIECE_LANG", "zh-TW")
    figure = training_curves({"LoRA": [2.0, 1.0]}, title="用 LoRA 學 relabel")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("步", "損失（nats／token）")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # matplotlib only warns of a sign that it cannot draw
        figure.canvas.draw()
        assert not caplog.text  # matplotlib logs a weight that a font lacks
        axes.set_title("\u9f98")  # dragons in flight, which no label needs: the test can fail
        with pytest.raises(UserWarning, match="missing from font"):
            figure.canvas.draw()


def test_the_label_font_has_every_sign_of_a_label() -> None:
    program = label_font()
    assert LABEL_FONT == program.TARGET
    there, wanted = FT2Font(str(LABEL_FONT)).get_charmap(), program.label_signs()
    missing = {sign: path.name for sign, path in wanted.items() if ord(sign) not in there}
    assert len(wanted) > 100
    assert not missing, f"{missing}: make the font again with {program.COMMAND}"
    assert LABEL_FONT.stat().st_size < 300_000
    assert "SIL OPEN FONT LICENSE Version 1.1" in LABEL_FONT.with_name("OFL.txt").read_text(encoding="utf-8")
