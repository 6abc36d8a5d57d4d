"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 20
"""Steps whose mean is drawn."""


def moved_by_one(moves: Mapping[str, Sequence[float]], asked: int) -> Figure:
    """How far each virtual token moves when only one of them is asked to, as shares of the one that moves most."""
    figure, axes = subplots()
    width = 0.8 / len(moves)
    for number, (name, lengths) in enumerate(moves.items()):
        places = np.arange(len(lengths)) + (number - (len(moves) - 1) / 2) * width
        axes.bar(places, np.divide(lengths, max(lengths)), width, label=name)
    axes.axvline(asked, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=tr("virtual token", "虛擬 token"), ylabel=tr("moved (share of the most)", "移動（與最大者之比）"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(moves))  # no bar below it
    return figure


def losses_side_by_side(left: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[float]], titles: tuple[str, str]) -> Figure:
    """Two panels of training losses with one scale, the mean of WINDOW steps."""
    figure, both = subplots(1, 2, figsize=(10.5, 4), sharey=True)
    for axes, losses, title in zip(both, (left, right), titles, strict=True):
        for name, values in losses.items():
            means = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
            axes.plot(np.arange(WINDOW, len(values) + 1), means, label=name, markevery=max(1, len(means) // 8))
        axes.set(xlabel=tr("step", "步"), title=title, ylim=(0, None))
        axes.legend()
    both[0].set(ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    return figure


def resumed_losses(before: Sequence[float], after: Mapping[str, Sequence[float]]) -> Figure:
    """Losses of a training up to where it was interrupted, and of each way to go on."""
    figure, axes = subplots()
    shown = min(len(before), WINDOW)
    axes.plot(np.arange(-shown + 1, 1), before[-shown:], label=tr("before the interruption", "中斷之前"), markevery=5)
    for name, values in after.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=name, markevery=5)
    axes.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"), ylim=(0, None))
    axes.legend()
    return figure
