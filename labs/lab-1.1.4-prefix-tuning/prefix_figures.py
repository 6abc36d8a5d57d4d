"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS = ("loss (nats per token)", "損失（nats／token）")
RIGHT = ("held-out exact match (%)", "保留題目答對的比例（%）")


def beside_peft(losses: Mapping[str, np.ndarray]) -> Figure:
    """Losses of `peft`, `own` and `values_first` over the steps, and distances from peft's, also of the two with an encoder."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    steps = np.arange(1, len(losses["peft"]) + 1)
    for name, style in (("peft", "-"), ("own", "--"), ("values_first", ":")):
        left.plot(steps, losses[name], linestyle=style, markevery=3, label=name)
    left.set(xlabel=tr("step", "步"), ylabel=tr(*LOSS))
    left.legend()
    apart = {name: np.abs(losses[name] - losses["peft"]) for name in ("own", "values_first")}
    apart["own encoded"] = np.abs(losses["own encoded"] - losses["peft encoded"])
    right.set_prop_cycle(color=[COLORS[name] for name in ("orange", "green", "purple")], marker=["s", "^", "D"])
    for name, values in apart.items():
        right.semilogy(steps, np.maximum(values, 1e-9), markevery=3, label=name)
    right.set(xlabel=tr("step", "步"), ylabel=tr("distance from peft (nats)", "與 peft 的距離（nats）"))
    right.set_title(tr("1e-9 stands for equal", "1e-9 代表相等"))
    right.legend()
    return figure


def zeros_over_length(lengths: Sequence[int], values: Mapping[str, Sequence[float]], untouched: Mapping[str, float]) -> Figure:
    """The share of attention that zeros take, and what is left of each skill, over the number of zeros; all from 0 to 1.

    Args:
        values: `share`, and each skill -> a value for each length.
        untouched: skill -> its value without any: the dashed lines.
    """
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 3.8))
    left.plot(lengths, 100 * np.array(values["share"]))
    left.set(ylabel=tr("share of attention (%)", "注意力的比例（%）"), ylim=(0, 100))
    for name, colour, marker in zip(untouched, ("orange", "green", "purple"), ("s", "^", "D"), strict=True):
        right.plot(lengths, 100 * np.array(values[name]), color=COLORS[colour], marker=marker, label=name)
        right.axhline(100 * untouched[name], color=COLORS[colour], linestyle="--", linewidth=1, marker="")
    right.set(ylabel=tr(*RIGHT), ylim=(-4, 104))
    right.legend()
    for place in (left, right):
        place.set_xscale("log", base=2)
        place.set_xticks(list(lengths), [str(length) for length in lengths])
        place.minorticks_off()
        place.set_xlabel(tr("zeros in the memory", "記憶裡有幾個零"))
    return figure


def accuracy_over_rate(found: Mapping[str, Mapping[float, float]]) -> Figure:
    """Held-out accuracy, 0 to 1, over the learning rate, a line for each way to train."""
    figure, axes = subplots(figsize=(7.6, 4))
    for name, by_rate in found.items():
        axes.plot(list(by_rate), [100 * value for value in by_rate.values()], label=name)
    axes.set_xscale("log")
    axes.set(xlabel=tr("learning rate", "學習率"), ylabel=tr(*RIGHT), ylim=(-4, 104))
    axes.legend()
    return figure


def losses_of_tasks(losses: Mapping[tuple[str, str], Sequence[np.ndarray]]) -> Figure:
    """A panel for each task, a line for each way to train: the mean of ten steps, over seeds; the band spans them.

    Args:
        losses: (task, way) -> the losses of each seed, in nats.
    """
    tasks, ways = (list(dict.fromkeys(key[index] for key in losses)) for index in (0, 1))
    figure, axes = subplots(1, len(tasks), figsize=(12.5, 3.9), squeeze=False)
    for (task, way), runs in losses.items():
        smooth = np.stack([np.convolve(run, np.ones(10) / 10, mode="valid") for run in runs])
        steps, place, index = np.arange(10, smooth.shape[1] + 10), axes[0, tasks.index(task)], ways.index(way)
        colour = list(COLORS.values())[index]
        place.plot(
            steps, smooth.mean(axis=0), color=colour, linestyle=("-", "--", ":", "-.", "-")[index], marker="os^Dv"[index],
            markevery=max(1, smooth.shape[1] // 6), label=way,
        )  # fmt: skip
        place.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    for place, task in zip(axes[0], tasks, strict=True):
        place.set(xlabel=tr("step", "步"), title=task)
        place.set_yscale("log")
        place.legend()
    axes[0, 0].set_ylabel(tr(*LOSS))
    return figure


def shares_of_heads(shares: Mapping[str, np.ndarray]) -> Figure:
    """A panel for each prefix: the share of attention that it gets, (layers, heads), 0 to 1."""
    figure, axes = subplots(1, len(shares), figsize=(3.6 * len(shares), 3.6), squeeze=False)
    for place, (name, values) in zip(axes[0], shares.items(), strict=True):
        place.imshow(values, cmap="viridis", vmin=0, vmax=1)
        for layer, row in enumerate(values):
            for head, value in enumerate(row):
                place.text(head, layer, f"{value:.0%}", ha="center", va="center", color="white" if value < 0.6 else "black", fontsize=9)
        place.set(xlabel=tr("head", "head"), title=name, xticks=range(values.shape[1]), yticks=range(values.shape[0]))
        place.grid(visible=False)
    axes[0, 0].set_ylabel(tr("layer", "層"))
    return figure


def accuracy_over_part(parts: Sequence[float], found: Mapping[str, Sequence[float]]) -> Figure:
    """Accuracy of each task, 0 to 1, over how many virtual tokens are left."""
    figure, axes = subplots(figsize=(7.2, 3.8))
    for name, values in found.items():
        axes.plot(parts, [100 * value for value in values], label=name)
    axes.set(xlabel=tr("virtual tokens that are left", "剩下幾個虛擬 token"), ylabel=tr(*RIGHT), ylim=(-4, 104), xticks=list(parts))
    axes.legend()
    return figure
