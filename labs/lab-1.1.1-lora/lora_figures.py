"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each.

Labels are in the reader's language; names of models and variants are those of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"full": ("blue", "-", "o"), "LoRA": ("orange", "-", "s"), "B frozen": ("black", ":", "^")}
"""Colour, line and marker of each way to train."""

# ---------------------------------------------------------------------------------------------- notebook 1


def training_memory(bills: Mapping[str, Sequence[float]], parts: Sequence[str]) -> Figure:
    """Stacked bars: for each way to train the GiB of each of `parts`."""
    figure, axes = subplots(figsize=(7.2, 3.2))
    left = np.zeros(len(bills))
    for index, (part, colour) in enumerate(zip(parts, ("blue", "amber", "orange", "purple"), strict=True)):
        widths = np.array([values[index] for values in bills.values()])
        axes.barh(list(bills), widths, left=left, color=COLORS[colour], label=part, height=0.55)
        left += widths
    for place, total in enumerate(left):
        axes.annotate(f"{total:.1f} GiB", (total, place), textcoords="offset points", xytext=(5, -4))
    axes.invert_yaxis()
    axes.set(xlabel=tr("GiB, without activations", "GiB，不含激勵值"), xlim=(0, left.max() * 1.18))
    axes.legend(loc="lower right")
    return figure


def share_over_size(counts: Mapping[str, tuple[int, int, int]]) -> Figure:
    """Trained share over size, double logarithmic.

    Args:
        counts: name of a model -> its parameters, LoRA's on queries and values, LoRA's on all linear layers.
    """
    sizes = np.array([whole for whole, _, _ in counts.values()])
    figure, axes = subplots()
    everywhere = tr("rank 8 on all linear layers", "秩 8，所有線性層")
    for label, column in ((everywhere, 2), (tr("rank 8 on queries and values", "秩 8，query 與 value"), 1)):
        axes.loglog(sizes, [100 * count[column] / count[0] for count in counts.values()], label=label)
    for name, (whole, _, many) in counts.items():
        axes.annotate(name, (whole, 100 * many / whole), textcoords="offset points", xytext=(5, 6))
    axes.set(xlabel=tr("parameters of the model", "模型的參數量"), ylabel=tr("trained share (%)", "訓練的比例（%）"))
    axes.set(xlim=(sizes.min() / 3, sizes.max() * 15))
    axes.legend(loc="lower left")
    return figure


def beside_peft(losses: Mapping[str, np.ndarray]) -> Figure:
    """Losses of `peft`, `own` and `double_scale` over the steps, and the distance of the last two from peft's."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    steps = np.arange(1, len(losses["peft"]) + 1)
    for name, style in (("peft", "-"), ("own", "--"), ("double_scale", ":")):
        left.plot(steps, losses[name], linestyle=style, markevery=3, label=name)
    left.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    left.legend()
    right.set_prop_cycle(color=[COLORS["orange"], COLORS["green"]], marker=["s", "^"])
    for name in ("own", "double_scale"):
        right.semilogy(steps, np.maximum(np.abs(losses[name] - losses["peft"]), 1e-9), markevery=3, label=name)
    equal = tr("1e-9 stands for equal", "1e-9 代表相等")
    right.set(xlabel=tr("step", "步"), ylabel=tr("distance from peft (nats)", "與 peft 的距離（nats）"), title=equal)
    right.legend()
    return figure


# ---------------------------------------------------------------------------------------------- notebook 2


def losses_and_accuracies(losses: Mapping[tuple[str, str], np.ndarray], scores: Mapping[tuple[str, str], Sequence[float]]) -> Figure:
    """A panel of losses for each task, and one with the accuracies.

    Args:
        losses: (task, kind) -> (seeds, steps) in nats; kinds are those of `KINDS`.
        scores: (task, kind) -> the accuracy of each seed, 0 to 1.
    """
    tasks = list(dict.fromkeys(name for name, _ in losses))
    figure, axes = subplots(1, len(tasks) + 1, figsize=(12.5, 3.9), width_ratios=[1] * len(tasks) + [0.9])
    for (name, kind), runs in losses.items():
        _loss_band(axes[tasks.index(name)], runs, kind)
    for place, name in zip(axes, tasks, strict=False):
        place.set(xlabel=tr("step", "步"), title=name, ylim=(0, None))
    axes[0].set_ylabel(tr("loss (nats per token)", "損失（nats／token）"))
    axes[0].legend()
    for place, ((_, kind), values) in enumerate(scores.items()):
        colour, _, marker = KINDS[kind]
        spread = place + np.linspace(-0.15, 0.15, len(values))
        axes[-1].plot(spread, 100 * np.array(values), linestyle="", marker=marker, color=COLORS[colour], markersize=8, alpha=0.8)
    axes[-1].set_xticks(range(len(scores)), [f"{name}\n{kind}" for name, kind in scores], fontsize=9)
    title = tr("accuracy, a mark per seed", "準確率，每個種子一點")
    axes[-1].set(ylabel=tr("held-out exact match (%)", "保留題目完全相符（%）"), ylim=(-4, 104), title=title)
    return figure


def _loss_band(axes: Axes, runs: np.ndarray, kind: str) -> None:
    """The mean of five steps, over the seeds; the band spans them."""
    colour, style, marker = KINDS[kind]
    smooth = np.stack([np.convolve(run, np.ones(5) / 5, mode="valid") for run in runs])
    steps = np.arange(5, runs.shape[1] + 1)
    every = max(1, runs.shape[1] // 6)
    axes.plot(steps, smooth.mean(axis=0), color=COLORS[colour], linestyle=style, marker=marker, markevery=every, label=kind)
    axes.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=COLORS[colour], alpha=0.18, linewidth=0)


def rank_of_a_change(ranks: Sequence[int], truncated: Mapping[str, Sequence[float]], energy: Mapping[str, Sequence[float]]) -> Figure:
    """Accuracy, and share of the squared change, over the directions that are kept; both by task, 0 to 1."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 3.9))
    for name, colour, marker in zip(truncated, ("green", "purple"), ("o", "s"), strict=True):
        style = {"color": COLORS[colour], "marker": marker, "label": name}
        left.plot(ranks, 100 * np.array(truncated[name]), **style)
        right.plot(ranks, 100 * np.array(energy[name]), **style)
    kept = tr("share of the squared change (%)", "占改變量平方的比例（%）")
    for axes, label in ((left, tr("held-out exact match (%)", "保留題目完全相符（%）")), (right, kept)):
        _powers_of_two(axes, ranks)
        axes.set(xlabel=tr("directions kept of each change", "每個改變留下的方向數"), ylabel=label, ylim=(-4, 104))
        axes.legend()
    return figure


def _powers_of_two(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.minorticks_off()


def loss_over_rates(curves: Mapping[str, Mapping[float, float]]) -> Figure:
    """Last losses over the learning rate, a line for each way to train; the best rate of each is circled."""
    figure, axes = subplots()
    for label, losses in curves.items():
        (line,) = axes.plot(list(losses), list(losses.values()), label=label)
        best = min(losses, key=losses.__getitem__)
        axes.plot(best, losses[best], marker="o", markersize=15, markerfacecolor="none", color=line.get_color())
    axes.set(xscale="log", xlabel=tr("learning rate", "學習率"), ylabel=tr("last losses (nats per token)", "最後的損失（nats／token）"))
    axes.legend()
    return figure


def first_step_over_rank(ranks: Sequence[int], steps: Mapping[str, np.ndarray], exponents: Mapping[str, Sequence[float]]) -> Figure:
    """What a first step does over the rank, relative to the smallest one.

    Args:
        steps: scale -> (ranks, 3): squared gradient of B, move of the logits by gradient descent, by Adam.
        exponents: scale -> the power of the rank that each column goes with.
    """
    figure, axes = subplots(1, 3, figsize=(12.5, 3.7), sharey=True)
    titles = (
        tr("squared gradient of B", "B 的梯度平方"),
        tr("move of the logits, gradient descent", "logits 的移動，梯度下降"),
        tr("move of the logits, Adam", "logits 的移動，Adam"),
    )
    for column, title in enumerate(titles):
        for scale, values in steps.items():
            label = f"{scale}: $r^{{{exponents[scale][column]:.2f}}}$"
            axes[column].loglog(ranks, values[:, column] / values[0, column], label=label)
        axes[column].set_xticks(ranks, [str(rank) for rank in ranks])
        axes[column].minorticks_off()
        axes[column].set(xlabel=tr("rank", "秩"), title=title)
        axes[column].legend()
    axes[0].set_ylabel(tr("relative to the smallest rank", "相對於最小的秩"))
    return figure


def ranks_of_layers(average: Mapping[str, float], budget: int) -> Figure:
    """Bars of the mean rank of each kind of layer; the dashed line is the budget."""
    figure, axes = subplots(figsize=(7.2, 3.2))
    axes.bar(range(len(average)), list(average.values()), width=0.6, color=COLORS["purple"])
    axes.axhline(budget, color="black", linestyle="--", linewidth=1.2, marker="")
    axes.set_xticks(range(len(average)), list(average), fontsize=9)
    axes.set(ylabel=tr("mean rank kept", "留下的秩（平均）"))
    return figure


# ---------------------------------------------------------------------------------------------- notebooks 3 and 4


def skills_left(kept: Mapping[str, Mapping[str, float]]) -> Figure:
    """A table in colours: model -> family of the world -> accuracy, 0 to 1."""
    families = list(next(iter(kept.values())))
    values = 100 * np.array([list(row.values()) for row in kept.values()])
    figure, axes = subplots(figsize=(8.6, 3.4))
    grid = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(families)), families)
    axes.set_yticks(range(len(kept)), list(kept))
    axes.grid(visible=False)
    for (row, column), value in np.ndenumerate(values):
        axes.annotate(f"{value:.0f}", (column, row), ha="center", va="center", color="black" if value > 55 else "white")
    figure.colorbar(grid, label=tr("held-out exact match (%)", "保留題目完全相符（%）"))
    return figure


def accuracy_over_scale(dial: Sequence[float], accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each skill over the scale of the adapter, as a share of the trained one."""
    figure, axes = subplots()
    for (name, values), style in zip(accuracies.items(), ("-", "--", ":"), strict=True):
        axes.plot(dial, 100 * np.array(values), linestyle=style, label=name)
    dial_label = tr("scale, as a share of the trained one", "縮放，相對於訓練時的值")
    axes.set(xlabel=dial_label, ylabel=tr("held-out exact match (%)", "保留題目完全相符（%）"), ylim=(-4, 104))
    axes.legend()
    return figure


def merge_errors(errors: Mapping[str, float], rounding: float) -> Figure:
    """A mark for each way to merge; what lies left of the dashed line is rounding."""
    figure, axes = subplots(figsize=(7.2, 2.9))
    colours = [COLORS["green"] if value < rounding else COLORS["orange"] for value in errors.values()]
    axes.scatter(list(errors.values()), list(errors), color=colours, s=70, zorder=3)
    axes.set_xscale("log")
    axes.axvline(rounding, color="black", linestyle="--", linewidth=1.2, marker="")
    axes.invert_yaxis()
    axes.set(xlabel=tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）"))
    return figure
