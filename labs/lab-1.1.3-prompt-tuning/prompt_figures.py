"""How the figures of this lab are drawn. What is in them is measured in the notebooks; what they show is said there, beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def beside_peft(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Losses of `peft`, `own` and `text_not_moved` over the steps, and the distance of the last two from peft's."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    steps = np.arange(1, len(losses["peft"]) + 1)
    for name, style in (("peft", "-"), ("own", "--"), ("text_not_moved", ":")):
        left.plot(steps, losses[name], linestyle=style, markevery=3, label=name)
    left.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    left.legend()
    right.set_prop_cycle(color=[COLORS["orange"], COLORS["green"]], marker=["s", "^"])
    for name in ("own", "text_not_moved"):
        right.semilogy(steps, np.maximum(np.abs(np.subtract(losses[name], losses["peft"])), 1e-9), markevery=3, label=name)
    equal = tr("1e-9 stands for equal", "1e-9 代表相等")
    right.set(xlabel=tr("step", "步"), ylabel=tr("distance from peft (nats)", "與 peft 的距離（nats）"), title=equal)
    right.legend()
    return figure


def losses_by_answer(losses: Mapping[str, Sequence[float]], window: int = 10) -> Figure:
    """Training losses with the mean of `window` steps, one line per label."""
    figure, axes = subplots()
    for name, values in losses.items():
        means = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(np.arange(window, len(values) + 1), means, label=name, markevery=max(1, len(means) // 8))
    axes.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"), ylim=(0, None))
    axes.legend()
    return figure


def attention_pictures(without: Tensor, with_prompt: Sequence[Tensor], tokens: Sequence[str], titles: Sequence[str]) -> Figure:
    """What each token of a text pays to the others, as shares: without a prompt, then with one, layer by layer.

    Args:
        without: (seq, seq); `with_prompt`: one such table for each of `titles` but the first.
        tokens: of the text.
    """
    tables = [without, *with_prompt]
    figure, all_axes = subplots(1, len(tables), figsize=(4.2 * len(tables), 4.6))
    for axes, shares, title in zip(all_axes, tables, titles, strict=True):
        axes.imshow(shares.cpu(), cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.grid(False)
    return figure


def starts_and_lengths(starts: Mapping[str, Sequence[float]], lengths: Mapping[int, float]) -> Figure:
    """Left: the loss from each start, the mean of ten steps. Right: the loss at the end over the length of the prompt."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    for name, values in starts.items():
        means = np.convolve(values, np.ones(10) / 10, mode="valid")
        left.plot(np.arange(10, len(values) + 1), means, label=name, markevery=max(1, len(means) // 8))
    left.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    left.legend()
    right.plot(list(lengths), list(lengths.values()))
    right.set(xlabel=tr("virtual tokens", "虛擬 token"), ylabel=tr("loss (nats per token)", "損失（nats／token）"))
    return figure
