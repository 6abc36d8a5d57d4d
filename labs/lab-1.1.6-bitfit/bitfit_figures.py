"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each.

Labels are in the reader's language; names of kinds, layers and tasks are those of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kinds_alone(right: Mapping[str, float], numbers: Mapping[str, int], *, together: float, constant: float) -> Figure:
    """A bar for each kind that was trained alone, its count beside it.

    Args:
        right: kind -> share that is right, 0 to 1.
        numbers: kind -> how many numbers were trained.
        together, constant: of all kinds together, and of a constant answer.
    """
    figure, axes = subplots(figsize=(8.4, 3.9))
    labels = [f"{kind} ({numbers[kind]:,})" for kind in right]
    axes.barh(labels, [100 * value for value in right.values()], color=COLORS["blue"], height=0.65)
    axes.axvline(100 * together, color=COLORS["green"], linestyle="-", marker="", label=tr("all kinds", "全部種類"))
    axes.axvline(100 * constant, color=COLORS["orange"], linestyle="--", marker="", label=tr("constant answer", "固定答案"))
    axes.invert_yaxis()
    axes.set(xlabel=tr("held-out exact match (%)", "保留題目完全相符（%）"), xlim=(0, 104))
    axes.legend(loc="upper right", bbox_to_anchor=(0.93, 1))
    return figure


def change_of_the_logits(changes: Mapping[str, np.ndarray]) -> Figure:
    """A panel for each kind: the change of one logit at each token.

    Args:
        changes: kind -> (tokens,).
    """
    figure, axes = subplots(1, len(changes), figsize=(10.5, 3.4), sharey=True)
    for place, (kind, values), colour in zip(axes, changes.items(), ("blue", "orange"), strict=True):
        place.plot(values, linestyle="", marker=".", color=COLORS[colour])
        place.set(title=kind, xlabel=tr("token", "token"))
    axes[0].set_ylabel(tr("change of the logit", "logit 的改變"))
    return figure


def distances(values: Mapping[str, float], rounding: float) -> Figure:
    """A mark for each model; what lies left of the dashed line is rounding."""
    figure, axes = subplots(figsize=(7.2, 2.6))
    colours = [COLORS["green"] if value < rounding else COLORS["orange"] for value in values.values()]
    axes.scatter([max(value, 1e-9) for value in values.values()], list(values), color=colours, s=70, zorder=3)
    axes.set_xscale("log")
    axes.axvline(rounding, color="black", linestyle="--", linewidth=1.2, marker="")
    axes.invert_yaxis()
    axes.set(xlabel=tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）"))
    return figure
