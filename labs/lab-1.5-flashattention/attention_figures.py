"""The figures of this lab: how they are drawn, so that notebooks can show what is measured. No measurement is made here.

Labels are in the reader's language; names of variants are those of the tables. Captions stand in the notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots
from power_law import PowerLaw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tiling import Tiling

EMPTY, MASKED, FULL = 0, 1, 2  # kinds of tiles, as `tile_maps` draws them


def name_sizes(axes: Any, sizes: Sequence[int], divisor: int = 1, unit: str = "") -> None:
    """Write the sizes themselves on a logarithmic x axis: as they are, or as 8K for divisor 1024 and unit "K"."""
    axes.set_xticks(sizes, [f"{size // divisor}{unit}" for size in sizes])
    axes.minorticks_off()


# ---------------------------------------------------------------------------------------------- costs over the length


def cost_curves(
    lengths: Sequence[int], costs: Mapping[str, Mapping[str, Sequence[float]]], laws: Mapping[tuple[str, str], PowerLaw]
) -> Figure:
    """Memory and time over the length: points are measured, lines are the fitted laws.

    `costs` is {"bytes" or "seconds": {implementation: one value per length}}, `laws` goes by (implementation, quantity).
    """
    figure, panels = subplots(1, 2, figsize=(10.5, 4.2))
    labels = (("bytes", 1e6, tr("peak memory (MB)", "記憶體峰值（MB）")), ("seconds", 1e-3, tr("time (ms)", "時間（ms）")))
    for axes, (quantity, unit, label) in zip(panels, labels, strict=True):
        for name, values in costs[quantity].items():
            law = laws[name, quantity]
            spread = f" ± {law.spread:.2f}" if law.spread else ""
            points = axes.loglog(lengths, np.array(values) / unit, linestyle="", label=f"{name}: $N^{{{law.exponent:.2f}{spread}}}$")
            line = law.factor * np.array(lengths) ** law.exponent / unit
            axes.loglog(lengths, line, color=points[0].get_color(), marker="", linewidth=1.2)
        axes.set(xlabel=tr("sequence length N", "序列長度 N"), ylabel=label)
        name_sizes(axes, lengths)
        axes.legend()
    return figure


def speed_curves(lengths: Sequence[int], speeds: Mapping[str, Sequence[float]], peak: float) -> Figure:
    """Operations per second over the length, beside the speed of a large matrix product."""
    figure, axes = subplots()
    for name, values in speeds.items():
        axes.semilogx(lengths, np.array(values) / 1e9, label=name)
    axes.axhline(peak / 1e9, color="black", linestyle="--", marker="", linewidth=1.2, label=tr("matmul peak", "矩陣乘法的峰值"))
    speed = tr("useful GFLOP/s, forward + backward", "有用的 GFLOP/s，前向加反向")
    axes.set(xlabel=tr("sequence length N", "序列長度 N"), ylabel=speed, ylim=(0, None))
    name_sizes(axes, lengths)
    axes.legend(loc="center right")
    return figure


# ---------------------------------------------------------------------------------------------- the online softmax


def running_softmax(
    scores: Sequence[float], seen: Sequence[int], maxima: Sequence[float], factors: Sequence[float],
    totals: Sequence[float], whole: float,
) -> Figure:  # fmt: skip
    """One row of scores going by: running maximum, rescale factor and running total after each block."""
    figure, (top, middle, bottom) = subplots(3, 1, figsize=(8, 5.6), sharex=True)
    keys = np.arange(1, len(scores) + 1)
    top.plot(keys, scores, linestyle="", marker=".", color=COLORS["sky"], label=tr("scores", "分數"))
    top.step(seen, maxima, where="post", marker="", color=COLORS["orange"], label=tr("running maximum m", "目前最大值 m"))
    top.set(ylim=(-10, 15))
    top.legend(loc="upper left", ncols=2)
    middle.plot(seen, factors, color=COLORS["green"], marker="^")
    middle.set(ylabel=tr("rescale factor", "縮放係數"), ylim=(-0.05, 1.1))
    bottom.plot(seen, totals, color=COLORS["blue"], label=tr("running total", "累積總和"))
    of_row = tr("total of the whole row", "整列的總和")
    bottom.axhline(whole, color="black", linestyle="--", marker="", linewidth=1.2, label=of_row)
    bottom.set(xlabel=tr("keys seen", "看過的 key"))
    bottom.legend(loc="upper right")
    return figure


def tile_maps(maps: Sequence[tuple[Tiling, np.ndarray]]) -> Figure:
    """Which tiles a causal pass visits: per panel a tiling and the kind of every score (query_len, key_len)."""
    figure, panels = subplots(1, len(maps), figsize=(10, 4))
    colors = {FULL: COLORS["blue"], MASKED: COLORS["amber"], EMPTY: "#f2f2f2"}
    for panel, (tiling, kinds) in zip(panels, maps, strict=True):
        query_len, key_len = kinds.shape
        panel.imshow(kinds, cmap=ListedColormap([colors[kind] for kind in sorted(colors)]), vmin=0, vmax=2, aspect="equal")
        for set_ticks, length, block in (
            (panel.set_xticks, key_len, tiling.block_keys), (panel.set_yticks, query_len, tiling.block_queries)
        ):  # fmt: skip
            set_ticks(np.arange(0, length, block) - 0.5, np.arange(0, length, block))
        panel.grid(color="white", linewidth=2, alpha=1)
        border = np.arange(query_len + 1)
        panel.step(border + tiling.offset + 0.5, border - 0.5, where="pre", color="black", marker="", linewidth=1.2)
        panel.set(
            xlabel="key", ylabel="query", xlim=(-0.5, key_len - 0.5), ylim=(query_len - 0.5, -0.5),
            title=tr(f"{query_len} queries, {key_len} keys", f"{query_len} 個 query、{key_len} 個 key"),
        )  # fmt: skip
    labels = {
        FULL: tr("tile without mask", "不用遮罩的 tile"),
        MASKED: tr("tile with mask", "要遮罩的 tile"),
        EMPTY: tr("tile skipped", "略過的 tile"),
    }
    handles = [Patch(color=color, label=labels[kind]) for kind, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def exactness(errors: Mapping[tuple[str, str], Sequence[float]]) -> Figure:
    """Errors of tiled over errors of naive attention, by (what, implementation): one point per random shape."""
    figure, panels = subplots(1, 2, figsize=(10, 4))
    titles = {"output": tr("output", "輸出"), "gradients": tr("gradients", "梯度")}
    for panel, (what, title) in zip(panels, titles.items(), strict=True):
        naive, tiled = errors[what, "naive"], errors[what, "tiled"]
        panel.loglog(naive, tiled, linestyle="", markersize=5)
        limits = [min(naive) / 2, max([*naive, *tiled]) * 2]
        panel.plot(limits, limits, color="black", linestyle="--", marker="", linewidth=1.2)
        panel.set(
            xlabel=tr("error of naive float32", "原始版 float32 的誤差"),
            ylabel=tr("error of tiled float32", "分塊版 float32 的誤差"),
            title=title,
        )
    return figure


def mistakes_over_scores(largest_scores: Sequence[float], errors: Mapping[str, Sequence[float]], overflow: float, ceiling: float) -> Figure:
    """Errors over the size of the scores; what is above `ceiling`, inf and nan too, is drawn there."""
    figure, axes = subplots()
    for name, values in errors.items():
        axes.loglog(largest_scores, np.minimum(values, ceiling), label=name)
    axes.axvline(overflow, color="black", linestyle=":", marker="", linewidth=1.2)
    axes.annotate(tr("exp overflows in float32", "exp 在 float32 溢位"), (overflow, 3e-7), textcoords="offset points", xytext=(6, 0))
    axes.set(xlabel=tr("largest score of the matrix", "矩陣中最大的分數"), ylabel=tr("largest error of the output", "輸出的最大誤差"))
    axes.legend(loc="upper left")
    return figure


# ---------------------------------------------------------------------------------------------- training


def loss_curves(curves: Mapping[str, Sequence[float]], byte_entropy: float) -> Figure:
    """Losses over the steps, and the distance of each curve from the one named naive."""
    figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
    styles = dict(zip(curves, ("-", "--", ":", "-", "-."), strict=False))
    for name, losses in curves.items():
        (line,) = left.plot(losses, linestyle=styles[name], markevery=3, label=name)
        if name != "naive":
            distance = np.maximum(np.abs(np.array(losses) - curves["naive"]), 1e-8)
            right.semilogy(distance, color=line.get_color(), marker=line.get_marker(), markevery=3, label=name)
    left.axhline(byte_entropy, color="black", linestyle=":", marker="", linewidth=1.2)
    left.annotate(tr("entropy of the bytes", "位元組的熵"), (0, byte_entropy), textcoords="offset points", xytext=(0, -14))
    step = tr("step", "步")
    left.set(xlabel=step, ylabel=tr("loss (nats per byte)", "損失（nats／位元組）"))
    equal = tr("1e-8 stands for equal", "1e-8 代表相等")
    right.set(xlabel=step, ylabel=tr("distance from naive (nats)", "與原始版的距離（nats）"), title=equal)
    left.legend()
    right.legend()
    return figure


def long_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Losses over the steps of the long pieces, one line per attention."""
    figure, axes = subplots()
    for name, losses in curves.items():
        axes.plot(range(1, len(losses) + 1), losses, markevery=3, label=name)
    axes.set(xlabel=tr("step", "步"), ylabel=tr("loss (nats per byte)", "損失（nats／位元組）"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


# ---------------------------------------------------------------------------------------------- traffic and speed


def traffic_over_length(lengths: Sequence[int], totals: Mapping[str, Sequence[int]], laws: Mapping[str, PowerLaw]) -> Figure:
    """Elements moved by a forward pass over the length."""
    figure, axes = subplots()
    for name, values in totals.items():
        axes.loglog(lengths, values, label=f"{name}: $N^{{{laws[name].exponent:.2f}}}$")
    axes.set(xlabel=tr("sequence length N", "序列長度 N"), ylabel=tr("elements moved, forward", "前向搬移的元素"))
    name_sizes(axes, lengths)
    axes.legend()
    return figure


def traffic_over_sram(
    srams: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[int]]], theorem: Sequence[float], naive: int
) -> Figure:
    """One panel per loop order: elements moved over the size of fast memory, by what that memory is spent on.

    The line of the theorem, which leaves its constant open, goes through the middle of the first curve of each panel.
    """
    figure, both = subplots(1, len(panels), figsize=(10.5, 4.2), sharey=True)
    middle = len(srams) // 2
    for axes, (title, curves) in zip(both, panels.items(), strict=True):
        axes.axhline(naive, color=COLORS["blue"], marker="", label="naive")
        for (name, values), color, marker in zip(curves.items(), ("orange", "purple"), ("s", "D"), strict=True):
            axes.loglog(srams, values, color=COLORS[color], marker=marker, label=tr(f"spent on {name}", f"用在 {name}"))
        promised = np.array(theorem) * next(iter(curves.values()))[middle] / theorem[middle]
        law = tr("theorem: 1 / M", "定理：1 / M")
        axes.loglog(srams, promised, linestyle="--", color="black", marker="", linewidth=1.2, label=law)
        axes.set(xlabel=tr("fast memory M (elements)", "快速記憶體 M（元素）"), title=title)
        name_sizes(axes, srams, 1024, "K")
        axes.legend()
    both[0].set(ylabel=tr("elements moved, forward", "前向搬移的元素"))
    return figure


def block_sweep(sweep: Mapping[int, Mapping[str, float]], naive_traffic: int, naive_temporary: int) -> Figure:
    """Traffic, largest temporary and time (ms, with its spread) over the block size."""
    figure, (moved, held, time) = subplots(1, 3, figsize=(12, 3.8))
    blocks = list(sweep)
    for axes, key, naive, label, color, marker in (
        (moved, "traffic", naive_traffic, tr("elements moved, forward", "前向搬移的元素"), "blue", "o"),
        (held, "temporary", naive_temporary, tr("largest temporary (elements)", "最大暫存張量（元素）"), "orange", "s"),
    ):
        axes.loglog(blocks, [entry[key] for entry in sweep.values()], color=COLORS[color], marker=marker)
        axes.axhline(naive, color="black", linestyle="--", marker="", linewidth=1.2)
        axes.annotate("naive", (blocks[0], naive), textcoords="offset points", xytext=(0, -14))
        axes.set(ylabel=label)
    milliseconds, spread = ([entry[key] for entry in sweep.values()] for key in ("ms", "spread"))
    time.errorbar(blocks, milliseconds, spread, color=COLORS["green"], marker="^")
    time.set(ylabel=tr("time (ms), Python loop", "時間（ms），Python 迴圈"), ylim=(0, None))
    time.set_xscale("log")
    for axes in (moved, held, time):
        axes.set(xlabel=tr("block size", "區塊大小"))
        name_sizes(axes, blocks)
    return figure


def roofline(peak: float, bandwidth: float, points: Mapping[str, tuple[float, float]], fused: float) -> Figure:
    """Measured roof, and per implementation its (operations per byte, operations per second); `fused` is a speed alone."""
    figure, axes = subplots()
    grid = np.logspace(-1.5, 3, 100)
    roof = tr("roof (measured)", "上限（量測值）")
    axes.loglog(grid, np.minimum(peak, grid * bandwidth) / 1e9, color="black", marker="", label=roof)
    for (name, (intensity, speed)), color, marker in zip(points.items(), ("blue", "orange"), ("o", "s"), strict=True):
        axes.loglog(intensity, speed / 1e9, color=COLORS[color], marker=marker, markersize=10, linestyle="", label=name)
    useful = tr("SDPA (useful operations only)", "SDPA（只計有用的運算）")
    axes.axhline(fused / 1e9, color=COLORS["green"], linestyle="--", marker="", linewidth=1.5, label=useful)
    axes.set(xlabel=tr("arithmetic intensity (operations per byte)", "運算強度（每位元組的運算次數）"), ylabel="GFLOP/s")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure
