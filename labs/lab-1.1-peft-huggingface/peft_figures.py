"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each.

Labels are in the reader's language; names of models and variants are those of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from onepiece.evaluation import Interval


def memory_of_plans(bills: Mapping[str, Sequence[float]], gpus: Sequence[int]) -> Figure:
    """Stacked bars of bytes, in GiB.

    Args:
        bills: plan -> bytes of weights, gradients, AdamW and activations.
        gpus: memories to compare with, in GiB.
    """
    figure, axes = subplots(figsize=(8.4, 3.6))
    left = np.zeros(len(bills))
    parts = (tr("weights", "權重"), tr("gradients", "梯度"), "AdamW", tr("activations", "激勵值"))
    for index, part in enumerate(parts):
        sizes = np.array([held[index] for held in bills.values()]) / 2**30
        color = COLORS[("blue", "orange", "green", "purple")[index]]
        axes.barh(range(len(bills)), sizes, left=left, color=color, label=part)
        left += sizes
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, total in enumerate(left):
        axes.annotate(f"{total:.1f} GiB", (total, place), textcoords="offset points", xytext=(4, -4), bbox=box)
    for memory in gpus:
        axes.axvline(memory, color="black", linestyle=":", marker="", linewidth=1)
        axes.annotate(f"{memory}", (memory, len(bills) - 0.5), textcoords="offset points", xytext=(2, 0), fontsize=9)
    axes.set_yticks(range(len(bills)), list(bills))
    axes.invert_yaxis()
    label = tr("GiB to train Llama-2-7B, 1 x 512 tokens, checkpointed", "訓練 Llama-2-7B 的 GiB，1 x 512 個 token，使用檢查點")
    axes.set(xlabel=label, xlim=(0, 1.13 * left.max()))
    axes.legend(loc="lower right")
    return figure


def padded_and_packed(batches: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Two batches as pictures, a row of pixels for each of theirs.

    Args:
        batches: name -> where a token stands, and where its label counts; bool, (rows, seq).
    """
    figure, axes = subplots(1, len(batches), figsize=(10, 4.2), width_ratios=[1, 1.2])
    colors = ListedColormap(["white", COLORS["sky"], COLORS["orange"]])
    names = {"padded": tr("padded", "補齊"), "packed": tr("packed", "打包")}
    for place, (name, (real, counted)) in zip(axes, batches.items(), strict=True):
        picture = real.long() + counted.long()  # 0 padding, 1 prompt, 2 what counts
        place.imshow(picture, cmap=colors, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
        place.set(title=f"{names.get(name, name)}: {tuple(picture.shape)}", xlabel=tr("position", "位置"))
        place.grid(False)
    axes[0].set_ylabel(tr("row", "列"))
    kinds = {tr("prompt", "提示"): COLORS["sky"], tr("counts", "計入損失"): COLORS["orange"], tr("padding", "補齊"): "white"}
    patches = [Patch(facecolor=color, edgecolor="black", label=label) for label, color in kinds.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3)
    return figure


def kinds_of_answers(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Stacked bars: for each model how many answers are of each kind."""
    figure, axes = subplots(figsize=(8, 3.6))
    left = np.zeros(len(counts))
    names = {
        "right": tr("right", "答對"),
        "wrong choice": tr("wrong choice", "選錯"),
        "other language": tr("other language", "另一種語言"),
        "something else": tr("something else", "其他"),
    }
    for kind, color in zip(next(iter(counts.values())), ("green", "orange", "amber", "black"), strict=True):
        sizes = np.array([of_model[kind] for of_model in counts.values()])
        axes.barh(list(counts), sizes, left=left, color=COLORS[color], label=names[kind])
        left += sizes
    axes.invert_yaxis()
    axes.set(xlabel=tr("held-out items", "保留題目"))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def skills_before_and_after(before: Mapping[str, Interval], after: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Two bars for each family of the world.

    Args:
        before: family -> accuracy of the base with its interval.
        after: family -> accuracy of each seed; the bar is their mean.
        label: of the second bars.
    """
    places = np.arange(len(before))
    figure, axes = subplots(figsize=(8.4, 3.8))
    errors = [[each.value - each.low for each in before.values()], [each.high - each.value for each in before.values()]]
    first = [each.value for each in before.values()]
    axes.bar(places - 0.2, first, width=0.4, yerr=errors, capsize=3, color=COLORS["sky"], label=tr("base", "基礎模型"))
    axes.bar(places + 0.2, [np.mean(seeds) for seeds in after.values()], width=0.4, color=COLORS["orange"], label=label)
    for place, seeds in zip(places + 0.2, after.values(), strict=True):
        axes.plot([place] * len(seeds), seeds, linestyle="", color="black", marker="o", markersize=4, clip_on=False)
    axes.set_xticks(places, list(before))
    axes.set(ylabel=tr("exact match, held-out items", "完全相符，保留題目"), ylim=(0, 1.05))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def size_on_disk(tasks: Sequence[int], sizes: Mapping[str, Sequence[float]]) -> Figure:
    """Lines of bytes, in megabytes, over the number of tasks; double logarithmic."""
    figure, axes = subplots()
    for label, held in sizes.items():
        axes.loglog(tasks, np.array(held) / 1e6, label=label)
    axes.set(xlabel=tr("tasks", "任務數"), ylabel=tr("megabytes on disk", "在磁碟上的 MB"))
    axes.set_xticks(tasks, [str(count) for count in tasks])
    axes.minorticks_off()
    axes.legend()
    return figure
