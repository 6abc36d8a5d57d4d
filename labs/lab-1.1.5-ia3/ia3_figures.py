"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each.

Labels are in the reader's language; names of models, layers and ways are those of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside_peft(losses: Mapping[str, np.ndarray]) -> Figure:
    """Losses of `peft`, `own` and `output_of_down_proj` over the steps, and the distance of the last two from peft's."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    steps = np.arange(1, len(losses["peft"]) + 1)
    for name, style in (("peft", "-"), ("own", "--"), ("output_of_down_proj", ":")):
        left.plot(steps, losses[name], linestyle=style, markevery=3, label=name)
    left.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    left.legend()
    right.set_prop_cycle(color=[COLORS["orange"], COLORS["green"]], marker=["s", "^"])
    for name in ("own", "output_of_down_proj"):
        right.semilogy(steps, np.maximum(np.abs(losses[name] - losses["peft"]), 1e-9), markevery=3, label=name)
    equal = tr("1e-9 stands for equal", "1e-9 代表相等")
    right.set(xlabel=tr("step", "步"), ylabel=tr("distance from peft (nats)", "與 peft 的距離（nats）"), title=equal)
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
        steps, place = np.arange(10, smooth.shape[1] + 10), axes[tasks.index(task)]
        colour = list(COLORS.values())[ways.index(way)]
        every = max(1, smooth.shape[1] // 6)
        style = ("-", "--", ":", "-.")[ways.index(way)]
        place.plot(steps, smooth.mean(axis=0), color=colour, linestyle=style, marker="os^D"[ways.index(way)], markevery=every, label=way)
        place.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    for place, task in zip(axes, tasks, strict=True):
        place.set(xlabel=tr("step", "步"), title=task, ylim=(0, None))
        place.legend()
    axes[0].set_ylabel(tr("loss (nats per token)", "損失（nats／token）"))
    return figure


def factors_by_kind(factors: Mapping[str, np.ndarray]) -> Figure:
    """A histogram for each kind of vector; the dashed line is 1, where all of them began."""
    figure, axes = subplots(1, len(factors), figsize=(11.5, 3.2), sharex=True)
    for place, (kind, values), colour in zip(axes, factors.items(), ("blue", "orange", "green"), strict=True):
        place.hist(values, bins=40, color=COLORS[colour])
        place.axvline(1, color="black", linestyle="--", linewidth=1.2, marker="")
        place.set(xlabel=tr("factor", "倍率"), title=kind)
    axes[0].set_ylabel(tr("how many", "個數"))
    return figure


def change_cut_to_rank(ranks: Sequence[int], accuracies: Mapping[str, Sequence[float]], energy: Mapping[str, Sequence[float]]) -> Figure:
    """Accuracy, and share of the squared change, over the directions that are kept; both by task, 0 to 1."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 3.9))
    for name, colour, marker in zip(accuracies, ("green", "purple"), ("o", "s"), strict=True):
        style = {"color": COLORS[colour], "marker": marker, "label": name}
        left.plot(ranks, 100 * np.array(accuracies[name]), **style)
        right.plot(ranks, 100 * np.array(energy[name]), **style)
    kept = tr("share of the squared change (%)", "占改變量平方的比例（%）")
    for place, label in ((left, tr("held-out exact match (%)", "保留題目完全相符（%）")), (right, kept)):
        place.set_xscale("log", base=2)
        place.set_xticks(list(ranks), [str(rank) for rank in ranks])
        place.minorticks_off()
        place.set(xlabel=tr("directions kept of each change", "每個改變量留下的方向數"), ylabel=label, ylim=(-4, 104))
        place.legend()
    return figure


def distances(values: Mapping[str, float], rounding: float) -> Figure:
    """A mark for each way to fold; what lies left of the dashed line is rounding."""
    figure, axes = subplots(figsize=(7.2, 2.9))
    colours = [COLORS["green"] if value < rounding else COLORS["orange"] for value in values.values()]
    axes.scatter([max(value, 1e-9) for value in values.values()], list(values), color=colours, s=70, zorder=3)
    axes.set_xscale("log")
    axes.axvline(rounding, color="black", linestyle="--", linewidth=1.2, marker="")
    axes.invert_yaxis()
    axes.set(xlabel=tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）"))
    return figure
