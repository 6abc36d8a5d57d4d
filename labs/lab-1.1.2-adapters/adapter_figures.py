"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each.

Labels are in the reader's language; names of tasks and ways are those of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside_oracle(losses: Mapping[str, np.ndarray]) -> Figure:
    """Losses of `oracle`, `own` and `parallel` over the steps, and the distance of the last two from the oracle's."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    steps = np.arange(1, len(losses["oracle"]) + 1)
    for name, style in (("oracle", "-"), ("own", "--"), ("parallel", ":")):
        left.plot(steps, losses[name], linestyle=style, markevery=3, label=name)
    left.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    left.legend()
    right.set_prop_cycle(color=[COLORS["orange"], COLORS["green"]], marker=["s", "^"])
    for name in ("own", "parallel"):
        right.semilogy(steps, np.maximum(np.abs(losses[name] - losses["oracle"]), 1e-9), markevery=3, label=name)
    right.set(xlabel=tr("step", "步"), ylabel=tr("distance from the oracle (nats)", "與對照實作的距離（nats）"))
    right.set_title(tr("1e-9 stands for equal", "1e-9 代表相等"))
    right.legend()
    return figure


def losses_of_tasks(losses: Mapping[tuple[str, str], Sequence[np.ndarray]]) -> Figure:
    """A panel for each task, a line for each way to train: the mean of ten steps, over seeds; the band spans them.

    Args:
        losses: (task, way) -> the losses of each seed, in nats.
    """
    tasks, ways = (list(dict.fromkeys(key[index] for key in losses)) for index in (0, 1))
    figure, axes = subplots(1, len(tasks), figsize=(12.5, 3.9))
    for (task, way), runs in losses.items():
        smooth = np.stack([np.convolve(run, np.ones(10) / 10, mode="valid") for run in runs])
        steps, place, index = np.arange(10, smooth.shape[1] + 10), axes[tasks.index(task)], ways.index(way)
        look = {"color": list(COLORS.values())[index], "linestyle": ("-", "--", ":", "-.")[index], "marker": "os^D"[index]}
        place.plot(steps, smooth.mean(axis=0), markevery=max(1, len(steps) // 6), label=way, **look)
        place.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=look["color"], alpha=0.18, linewidth=0)
    for place, task in zip(axes, tasks, strict=True):
        place.set(xlabel=tr("step", "步"), title=task, ylim=(0, None))
        place.legend()
    axes[0].set_ylabel(tr("loss (nats per token)", "損失（nats／token）"))
    return figure


def accuracy_by_dropped(curves: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each way to train: accuracy, 0 to 1, over the number of first layers that run without adapters."""
    figure, axes = subplots(figsize=(7.2, 4))
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(range(len(values)), 100 * np.array(values), linestyle=("-", "--", ":")[index], marker="os^"[index], label=name)
    axes.set(xlabel=tr("first layers without adapters", "前面幾層沒有 adapter"), ylim=(-4, 104))
    axes.set_ylabel(tr("held-out exact match (%)", "保留題目完全相符（%）"))
    axes.set_xticks(range(max(len(values) for values in curves.values())))
    axes.legend()
    return figure


def unexplained_by_layer(shares: Mapping[str, Sequence[float]], places: Sequence[str]) -> Figure:
    """A row for each place, a mark for each kind: the share of the change that the best plain layer gets wrong, on a log scale."""
    figure, axes = subplots(figsize=(8.4, 4.2))
    for index, (name, values) in enumerate(shares.items()):
        axes.scatter(
            np.maximum(values, 1e-9), list(places), s=60, marker="os^"[index], color=list(COLORS.values())[index], label=name, zorder=3
        )
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set(xlabel=tr("what the best plain layer gets wrong (share of the change)", "最好的一般線性層弄錯的部分（占改變量）"))
    axes.legend()
    return figure
