"""The figures of this lab: how they are drawn. No measurement is made here; labels are in the reader's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, comparison_bars, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from decode_cost import Roof


def who_reads_whom(assignments: Mapping[str, Sequence[int]]) -> Figure:
    """A panel per way to repeat heads: a line from each query head to the key/value head that it reads."""
    figure, panels = subplots(1, len(assignments), figsize=(10, 2.8))
    colors = list(COLORS.values())
    for axes, (name, reads) in zip(panels, assignments.items(), strict=True):
        places = np.linspace(0, len(reads) - 1, max(reads) + 3)[1:-1]  # key/value heads, spread below the query heads
        for head, read in enumerate(reads):
            axes.plot([head, places[read]], [1, 0], color=colors[read], marker="o", linewidth=1.5)
        axes.set_xticks(range(len(reads)))
        axes.set_yticks([0, 1], [tr("key/value heads", "key/value head"), tr("query heads", "query head")])
        axes.set(title=name, ylim=(-0.25, 1.25))
        axes.grid(visible=False)
    return figure


def bars(values: Mapping[str, float], *, ylabel: str, reference: float | None = None) -> Figure:
    """One bar per variant, with its number on it."""
    figure = comparison_bars(values, ylabel=ylabel, reference=reference)
    for place, value in enumerate(values.values()):
        figure.axes[0].annotate(f"{value:.2f}", (place, value), textcoords="offset points", xytext=(0, 3), ha="center")
    return figure


def cache_over_tokens(per_token: Mapping[str, int], *, budget: float) -> Figure:
    """Bytes of one sequence over its length, and the memory that there is."""
    figure, axes = subplots()
    tokens = 2 ** np.arange(10, 21)
    for name, count in per_token.items():
        axes.loglog(tokens, tokens * count / 1e9, label=name, markevery=2)
    axes.axhline(budget / 1e9, color="black", linestyle="--", marker="", linewidth=1.2)
    axes.set(xlabel=tr("tokens", "token 數"), ylabel=tr("cache of one sequence (GB)", "一條序列的快取（GB）"))
    axes.set_xticks(tokens[::2], [f"{count // 1024}K" for count in tokens[::2]])
    axes.minorticks_off()
    axes.legend()
    return figure


def uptraining_curves(curves: Mapping[str, Sequence[float]], window: int = 8) -> Figure:
    """Losses over the steps of uptraining, smoothed; a label per conversion."""
    figure, axes = subplots()
    for name, losses in curves.items():
        means = [np.mean(losses[max(0, end - window) : end]) for end in range(1, len(losses) + 1)]
        axes.semilogy(range(1, len(means) + 1), means, label=name, markevery=12)
    axes.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    return figure


def skills(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of right answers per skill, a group of bars each; `shares` is variant -> skill -> share."""
    figure, axes = subplots(figsize=(10, 3.8))
    names = list(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for number, (variant, values) in enumerate(shares.items()):
        places = np.arange(len(names)) + (number - (len(shares) - 1) / 2) * width
        axes.bar(places, [values[name] for name in names], width, label=variant, color=list(COLORS.values())[number])
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel=tr("share of right answers", "答對的比例"), ylim=(0, 1.02))
    figure.legend(loc="outside upper center", ncols=len(shares))
    return figure


def roofline(roof: Roof, intensities: Mapping[str, float]) -> Figure:
    """Operations per second that a device can reach at most, over operations per byte; a point per kind of attention."""
    figure, axes = subplots()
    grid = np.logspace(-0.5, 3.3, 200)
    line = tr("roof (data sheet)", "上限（規格表）")
    axes.loglog(grid, np.minimum(roof.operations, grid * roof.bandwidth) / 1e12, color="black", marker="", label=line)
    for (name, intensity), color, marker in zip(intensities.items(), COLORS.values(), "osD^v", strict=False):
        reached = min(roof.operations, intensity * roof.bandwidth) / 1e12
        axes.loglog(intensity, reached, color=color, marker=marker, markersize=10, linestyle="", label=name)
    axes.axvline(roof.ridge, color="black", linestyle=":", marker="", linewidth=1.2)
    axes.set(xlabel=tr("operations per byte of cache", "每個快取位元組的運算次數"), ylabel=tr("TFLOP/s, at most", "TFLOP/s，至多"))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure
