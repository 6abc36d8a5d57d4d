"""Every figure of chapter 1.3, drawn from the formulas of its text: no number here was measured or guessed.

`python figures.py` writes `figures/<name>.svg` beside this file; `python figures.py DIRECTORY` writes elsewhere. The
files are made when the site is built, once for each language of labels (`ONEPIECE_LANG`), and never committed. Captions and
alternative texts stand in the chapter.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from onepiece.course.text import tr
from onepiece.figures import COLORS, subplots

# One row of scores, chosen so that the running maximum rises twice after the first block: 12 keys in blocks of 3.
ROW = np.array([0.5, 1.0, -0.5, 2.5, 0.0, 1.5, 1.0, 2.0, 3.5, 0.5, 3.0, 1.0])
BLOCK = 3

# name, largest number, smallest normal number, smallest number above zero, all as powers of two. Sources: IEEE 754
# (binary32, binary16); bfloat16 has binary32's exponent and 7 fraction bits; FP8: arXiv 2209.05433, table 1.
FORMATS = (
    ("FP32", 128, -126, -149),
    ("BF16", 128, -126, -133),
    ("FP16", 16, -14, -24),
    ("FP8 E5M2", math.log2(57344), -14, -16),
    ("FP8 E4M3", math.log2(448), -6, -9),
)


def online_softmax() -> Figure:
    """The running total of one row, with and without the rescale (section 3.1)."""
    seen, rescaled, forgotten, maxima = [], [], [], []
    maximum, total, wrong = -math.inf, 0.0, 0.0
    for start in range(0, len(ROW), BLOCK):
        block = ROW[start : start + BLOCK]
        new = max(maximum, block.max())
        added = np.exp(block - new).sum()
        total = math.exp(maximum - new) * total + added
        wrong += added
        maximum = new
        for values, value in ((seen, start + BLOCK), (rescaled, total), (forgotten, wrong), (maxima, maximum)):
            values.append(value)
    whole = np.exp(ROW - ROW.max()).sum()
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    left.plot(range(1, len(ROW) + 1), ROW, linestyle="", label=tr("scores", "分數"))
    left.step(seen, maxima, where="post", marker="", label=tr("running maximum m", "目前最大值 m"))
    left.set(xlabel="key", ylabel=tr("score", "分數"), ylim=(-1, 5.2))
    left.legend(loc="upper left", ncols=2)
    right.plot(seen, rescaled, label=tr("with rescale", "有重新縮放"))
    right.plot(seen, forgotten, label=tr("without", "沒有"))
    right.axhline(whole, color="black", linestyle="--", marker="", linewidth=1.2, label=tr("whole row at once", "整列一次算"))
    right.set(xlabel=tr("keys seen", "看過的 key"), ylabel=tr("running total", "累積總和"), xticks=seen)
    right.legend()
    return figure


def attention_traffic() -> Figure:
    """Elements that cross the memory border in a forward pass with the queries outside, over the size of fast memory (section 3.2)."""
    length, head_dim, block_keys = 4096, 64, 16
    sizes = np.array([2**power for power in range(12, 18)])
    # What one step holds: tiles of Q and O, tiles of K and V, the scores, and two numbers per row.
    rows = (sizes - 2 * block_keys * head_dim) // (2 * head_dim + block_keys + 2)
    tiled = 2 * length * head_dim + length + np.ceil(length / rows) * 2 * length * head_dim
    naive = 4 * length * head_dim + 4 * length**2
    figure, axes = subplots(figsize=(7.2, 3.8))
    axes.axhline(naive, color=COLORS["blue"], marker="", label=tr("naive: 4Nd + 4N²", "原始版：4Nd + 4N²"))
    axes.loglog(sizes, tiled, color=COLORS["orange"], marker="s", label=tr("tiled", "分塊版"))
    anchor = len(sizes) // 2
    theorem = tiled[anchor] * sizes[anchor] / sizes
    axes.loglog(sizes, theorem, color="black", linestyle="--", marker="", linewidth=1.2, label=tr("slope of 1 / M", "1 / M 的斜率"))
    axes.set(xlabel=tr("fast memory M (elements)", "快速記憶體 M（元素）"), ylabel=tr("elements moved", "搬移的元素"))
    axes.set(title=f"N = {length}, d = {head_dim}")
    axes.set_xticks(sizes, [f"{size // 1024}K" for size in sizes])
    axes.minorticks_off()
    axes.legend()
    return figure


def number_formats() -> Figure:
    """Range of the number formats, normal and subnormal (section 2.2)."""
    figure, axes = subplots(figsize=(8.4, 3.2))
    full, fewer = tr("full precision", "完整精度"), tr("fewer digits (subnormal)", "位數較少（次正規數）")
    for place, (_, largest, normal, smallest) in enumerate(FORMATS):
        axes.barh(place, largest - normal, left=normal, color=COLORS["blue"], label=full if place == 0 else None)
        axes.barh(place, normal - smallest, left=smallest, color=COLORS["sky"], label=fewer if place == 0 else None)
    axes.set_yticks(range(len(FORMATS)), [name for name, *_ in FORMATS])
    axes.invert_yaxis()
    axes.set(xlabel=tr("power of two", "2 的次方"), xlim=(-155, 135))
    axes.axvline(0, color="black", linewidth=1, marker="")
    axes.legend(loc="lower left")
    axes.grid(axis="y", visible=False)
    return figure


def loss_scaling() -> Figure:
    """Log-normal gradients against the window of FP16 (section 3.3): what is lost for each loss scale."""
    mean, spread = -26.0, 4.0  # of log2 of the magnitudes: an example, no measurement

    def below(power: float, shift: np.ndarray) -> np.ndarray:
        return np.array([0.5 * (1 + math.erf((power - mean - s) / (spread * math.sqrt(2)))) for s in shift])

    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    powers = np.linspace(-45, 17, 300)
    for shift, name in ((0, tr("unscaled", "未縮放")), (16, tr("times 2^16", "乘上 2^16"))):
        left.plot(powers, np.exp(-(((powers - mean - shift) / spread) ** 2) / 2), marker="", label=name)
    left.axvspan(-25, 16, color=COLORS["green"], alpha=0.15, label=tr("FP16 can hold", "FP16 可表示"))
    left.set(xlabel=tr("log2 of the magnitude", "大小的 log2"), ylabel=tr("density", "密度"), yticks=[], ylim=(0, 1.55))
    left.legend(loc="upper left", fontsize=9)
    shift = np.arange(0, 41, 2.0)
    right.plot(shift, below(-25, shift), label=tr("rounded to zero", "捨入成零"))
    right.plot(shift, 1 - below(16, shift), label=tr("overflow", "溢位"))
    right.set(
        xlabel=tr("log2 of the loss scale", "損失縮放係數的 log2"), ylabel=tr("share of the gradients", "占梯度的比例"), ylim=(-0.02, 1.02)
    )
    right.legend()
    return figure


def checkpoint_memory() -> Figure:
    """Stored activations over the number of segments, for cheap and expensive layers (section 3.4)."""
    layers = 64
    segments = np.arange(1, layers + 1)
    figure, axes = subplots(figsize=(7.2, 3.8))
    for ratio, color in ((1, "blue"), (4, "orange"), (16, "green")):
        held = segments + ratio * layers / segments
        best = min(layers, max(1.0, math.sqrt(layers * ratio)))
        axes.plot(segments, held / (ratio * layers), color=COLORS[color], marker="", label=f"a / b = {ratio}")
        axes.plot(best, (best + ratio * layers / best) / (ratio * layers), color=COLORS[color], marker="o", linestyle="")
    axes.set(xlabel=tr("segments k", "段數 k"), ylabel=tr("share of no checkpointing", "相對於不用檢查點"), ylim=(0, 1.05))
    axes.set(title=tr(f"{layers} layers", f"{layers} 層"))
    axes.legend(title=tr("layer / checkpoint", "一層／檢查點"))
    return figure


def kv_cache() -> Figure:
    """Bytes of the KV cache over the context, 32 layers and 32 query heads of 128 numbers in BF16 (section 3.6)."""
    context = np.array([2**power for power in range(10, 18)])
    figure, axes = subplots(figsize=(7.2, 3.8))
    for name, kv_heads in (("MHA: 32 KV heads", 32), ("GQA: 8 KV heads", 8), ("MQA: 1 KV head", 1)):
        axes.loglog(context, 2 * 32 * kv_heads * 128 * context * 2 / 2**30, label=name)
    axes.set(xlabel=tr("context (tokens)", "上下文（token）"), ylabel=tr("KV cache of one sequence (GiB)", "一條序列的 KV 快取（GiB）"))
    axes.set_xticks(context, [f"{size // 1024}K" for size in context])
    axes.minorticks_off()
    axes.legend()
    return figure


def preference_gradients() -> Figure:
    """How strongly DPO pushes a pair over its margin, and ORPO's two factors (sections 3.7 and 3.8)."""
    margin = np.linspace(-60, 60, 241)
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    for beta in (0.05, 0.1, 0.5):
        left.plot(margin, 1 / (1 + np.exp(beta * margin)), marker="", label=f"beta = {beta}")
    left.axvline(0, color="black", linestyle=":", linewidth=1, marker="")
    margins = tr("margin: log-ratio chosen - rejected (nats)", "差距：選中減落選的對數比值（nats）")
    left.set(xlabel=margins, ylabel=tr("weight of the pair", "這一對的權重"), title="DPO")
    left.legend()
    probability = np.linspace(0.01, 0.98, 200)
    right.plot(probability, 1 / (1 - probability), marker="", label="1 / (1 - P)")
    right.plot(probability, np.log(probability / (1 - probability)), marker="", label="log odds")
    right.plot(probability, np.log(probability), marker="", linestyle="--", label="log P")
    right.set(xlabel=tr("P: geometric mean over the tokens", "P：各 token 的幾何平均"), ylim=(-5, 15), title="ORPO")
    right.legend()
    return figure


def ppo_clip() -> Figure:
    """PPO's clipped objective for a good and a bad action (section 3.9)."""
    ratio, clip = np.linspace(0, 2, 201), 0.2
    figure, panels = subplots(1, 2, figsize=(9.6, 3.4))
    for panel, advantage in zip(panels, (1, -1), strict=True):
        clipped = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
        panel.plot(
            ratio, ratio * advantage, color=COLORS["black"], linestyle="--", linewidth=1.2, marker="", label=tr("ratio x A", "比值 x A")
        )
        panel.plot(ratio, clipped, color=COLORS["orange"], linewidth=3, marker="", label=tr("clipped objective", "截斷後的目標"))
        panel.axvspan(1 - clip, 1 + clip, color=COLORS["green"], alpha=0.15)
        panel.plot(1, advantage, color=COLORS["black"], marker="o")
        panel.set(xlabel=tr("probability ratio", "機率比值"), ylabel=tr("objective", "目標"), title=f"A = {advantage:+d}")
        panel.legend(loc="upper left" if advantage > 0 else "lower left")
    return figure


def grpo_advantage() -> Figure:
    """Group advantages of right and wrong answers over the success rate, with and without the division (section 3.10)."""
    rate = np.linspace(0.03, 0.97, 200)
    figure, panels = subplots(1, 2, figsize=(9.6, 3.6), sharex=True)
    divided, only = tr("divided by the spread", "除以標準差"), tr("mean only", "只減平均")
    for panel, spread, title in ((panels[0], np.sqrt(rate * (1 - rate)), divided), (panels[1], 1, only)):
        panel.plot(rate, (1 - rate) / spread, marker="", color=COLORS["blue"], label=tr("right answer", "答對"))
        panel.plot(rate, -rate / spread, marker="", color=COLORS["orange"], label=tr("wrong answer", "答錯"))
        panel.axhline(0, color="black", linewidth=1, marker="")
        panel.set(
            xlabel=tr("share of right answers in the group", "組裡答對的比例"), ylabel=tr("advantage", "優勢"), title=title, ylim=(-6, 6)
        )
        panel.legend()
    return figure


def training_memory() -> Figure:
    """Bytes per parameter for weights and optimiser states of every model that a method keeps (section 4)."""
    trained, frozen = 16, 2
    methods = {
        "SFT": {"policy": trained},
        "ORPO": {"policy": trained},
        "DPO": {"policy": trained, "reference": frozen},
        tr("GRPO, rule reward", "GRPO，規則獎勵"): {"policy": trained, "reference": frozen},
        tr("GRPO, reward model", "GRPO，獎勵模型"): {"policy": trained, "reference": frozen, "reward model": frozen},
        "PPO": {"policy": trained, "reference": frozen, "reward model": frozen, "critic": trained},
    }
    colors = {"policy": "blue", "reference": "sky", "reward model": "green", "critic": "orange"}
    figure, axes = subplots(figsize=(8.4, 3.4))
    for place, parts in enumerate(methods.values()):
        left = 0
        for part, size in parts.items():
            axes.barh(place, size, left=left, color=COLORS[colors[part]])
            left += size
        axes.text(left + 0.4, place, f"{left}", va="center")
    axes.set_yticks(range(len(methods)), list(methods))
    axes.invert_yaxis()
    axes.set(xlabel=tr("bytes per parameter of the policy", "策略每個參數的位元組數"), xlim=(0, 40))
    names = {
        "policy": tr("policy", "策略"),
        "reference": tr("reference", "參考模型"),
        "reward model": tr("reward model", "獎勵模型"),
        "critic": "critic",
    }
    handles = [Patch(color=COLORS[color], label=names[part]) for part, color in colors.items()]
    axes.legend(handles=handles, loc="upper right", ncols=2)
    axes.grid(axis="y", visible=False)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "online-softmax": online_softmax,
    "attention-traffic": attention_traffic,
    "number-formats": number_formats,
    "loss-scaling": loss_scaling,
    "checkpoint-memory": checkpoint_memory,
    "kv-cache": kv_cache,
    "preference-gradients": preference_gradients,
    "ppo-clip": ppo_clip,
    "grpo-advantage": grpo_advantage,
    "training-memory": training_memory,
}


def draw_all(directory: Path) -> list[Path]:
    """Write every figure as `<name>.svg` into `directory`; two builds give equal bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        figure = draw()
        path = directory / f"{name}.svg"
        with matplotlib.rc_context({"svg.hashsalt": name}):
            # A white background keeps black labels legible on a dark page.
            figure.savefig(path, facecolor="white", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
        written.append(path)
    return written


if __name__ == "__main__":
    matplotlib.use("svg")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "figures"
    for drawn in draw_all(target):
        print(drawn.name)
