"""One legible, colour-blind-safe style for every figure of the course, and the figures that labs share.

`training_curves`, `comparison_bars` and `ablation_lines` return a figure, which `lab.figure` shows and saves. Labels are in the reader's
language (`tr`); `fonts/` has what zh-TW is written in. Nothing here needs torch: pages of the site draw with it too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from cycler import cycler

from onepiece.course.text import current_language, tr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepiece.evaluation import Interval
    from onepiece.training import History

# Okabe & Ito, "Color Universal Design" (2008): distinguishable with every common colour vision deficiency.
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#000000",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LABEL_FONT = Path(__file__).resolve().parent / "fonts" / "NotoSansTC-labels.otf"
"""Chinese signs of labels, made by docs/label_font.py; its licence stands beside it."""

_STYLE: dict[str, Any] = {
    # Marker and colour change together, so that a figure survives a black-and-white printer.
    "axes.prop_cycle": cycler(color=list(COLORS.values())) + cycler(marker=list(MARKERS)),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.figsize": (7.2, 4.2),
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
}


def use_style() -> None:
    """Make the course's style the default of this process; called when a notebook imports this module's `subplots`."""
    matplotlib.rcParams.update(_STYLE)
    if current_language() == "zh-TW":  # the label font has one weight: matplotlib complains of bold, and bold Latin beside it looks wrong
        matplotlib.rcParams.update({"axes.titleweight": "normal", "font.family": ["DejaVu Sans", _label_family()]})


@functools.cache
def _label_family() -> str:
    """The name under which matplotlib knows the label font from now on: signs that its own font lacks are taken from there."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(LABEL_FONT)
    return font_manager.FontProperties(fname=LABEL_FONT).get_name()


def subplots(*args: Any, **kwargs: Any) -> Any:
    """`matplotlib.pyplot.subplots` in the course's style."""
    from matplotlib import pyplot

    use_style()
    return pyplot.subplots(*args, **kwargs)


def training_curves(histories: Mapping[str, History | Sequence[float]], *, window: int = 1, ylabel: str = "", title: str = "") -> Figure:
    """Losses over steps, one line per run.

    Args:
        histories: label -> history, or its losses.
        window: each point is the mean of the last so many steps; the first points of fewer. 1 shows every step as it was.
        ylabel: what the losses are; if nothing is said, nats per token.

    Raises:
        ValueError: there is no run, or one without a step.
    """
    _refuse_empty(histories)
    figure, axes = subplots()
    for label, history in histories.items():
        losses: Sequence[float] = getattr(history, "losses", history)
        _refuse_empty(losses)
        means = [sum(losses[max(0, end - window) : end]) / min(end, window) for end in range(1, len(losses) + 1)]
        # Lines of hundreds of steps: a marker on each would hide them.
        axes.plot(range(1, len(means) + 1), means, label=label, markevery=max(1, len(means) // 8))
    axes.set(xlabel=tr("step", "步"), ylabel=ylabel or tr("loss (nats per token)", "損失（nats／token）"), title=title)
    axes.legend()
    return figure


def comparison_bars(values: Mapping[str, Interval | float], *, ylabel: str, title: str = "", reference: float | None = None) -> Figure:
    """One bar per variant, with its 95% interval where there is one.

    Args:
        values: label -> value; an `Interval` gets its error bar.
        reference: a dashed line to compare with, such as chance or full fine-tuning.

    Raises:
        ValueError: there is no variant.
    """
    _refuse_empty(values)
    figure, axes = subplots()
    for place, value in enumerate(values.values()):
        axes.bar(place, _middle(value), width=0.6, yerr=_error_bar([value]), capsize=4)
    axes.set_xticks(range(len(values)), list(values), rotation=20 if max(map(len, values)) > 12 else 0)
    if reference is not None:
        axes.axhline(reference, color="black", linestyle="--", linewidth=1.2, marker="")
    axes.set(ylabel=ylabel, title=title)
    return figure


def ablation_lines(
    x_values: Sequence[float],
    series: Mapping[str, Sequence[Interval | float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log_x: bool = False,
) -> Figure:
    """What changes with one setting (a rank, a prompt length, a number of bits): a line per variant, with intervals.

    Args:
        x_values: the settings.
        series: label -> a value for each of them.
        log_x: a logarithmic axis in base 2, for settings that double.

    Raises:
        ValueError: there is no line, or one does not have a value for each setting.
    """
    _refuse_empty(series)
    figure, axes = subplots()
    for label, values in series.items():
        if len(values) != len(x_values):
            msg = f"{label} has {len(values)} values for {len(x_values)} settings"
            raise ValueError(msg)
        axes.errorbar(x_values, [_middle(value) for value in values], yerr=_error_bar(values), label=label, capsize=3)
    if log_x:
        axes.set_xscale("log", base=2)
    axes.set_xticks(x_values, [f"{value:g}" for value in x_values], minor=False)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    return figure


def _middle(value: Interval | float) -> float:
    return float(getattr(value, "value", value))


def _error_bar(values: Sequence[Interval | float]) -> list[list[float]] | None:
    """[below, above] of each value, as matplotlib takes them; None if no value has an interval."""
    if all(isinstance(value, (int, float)) for value in values):
        return None
    return [
        [_middle(value) - getattr(value, "low", value) for value in values],
        [getattr(value, "high", value) - _middle(value) for value in values],
    ]


def _refuse_empty(values: Mapping[str, object] | Sequence[object]) -> None:
    if len(values) == 0:
        msg = "there is nothing to plot"
        raise ValueError(msg)
