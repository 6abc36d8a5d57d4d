"""Every figure of chapter 1.1: computed from the formulas of its text, but one, which shows results that `peft` publishes.

`python figures.py` writes `figures/<name>.svg` beside this file; `python figures.py DIRECTORY` writes elsewhere. The
files are made when the site is built and never committed. Labels are English; captions and alternative texts stand in
the chapter, in both languages. Our own results are not drawn here: they come from what labs published.
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

from onepiece.figures import COLORS, subplots

# Llama-2-7B as published: width, layers, width of the MLP, vocabulary. All heads have keys and values of their own; no biases.
WIDTH, LAYERS, MLP, VOCABULARY = 4096, 32, 11008, 32000
LINEAR = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * MLP)
TOTAL = LINEAR + 2 * VOCABULARY * WIDTH + LAYERS * 2 * WIDTH + WIDTH

# Right answers of the 1,319 test questions of GSM8K, from huggingface/peft at commit 5d602fdbff04c33c1c4de55cda9d4ae1d7cb7e40,
# method_comparison/MetaMathQA/results/<method>--llama-3.2-3B-<setting>.json ("test accuracy" times 1,319). One seed each.
QUESTIONS = 1319
METAMATHQA: dict[str, dict[str, int]] = {
    "LoRA": {"rank 32, q v": 631, "rank 64, q v": 625, "rank 64, q v, rsLoRA": 677, "rank 10, MLP": 652, "rank 32, q v, DoRA": 619},
    "full fine-tuning": {"1e-5": 622},
    "IA3": {"lr 1e-4": 410, "lr 1e-3": 525, "more layers, lr 5e-3": 600},
    "prefix tuning": {"200 tokens, lr 1e-3": 245, "200 tokens, zero, lr 5e-3": 472, "50 tokens of text, lr 5e-3": 549},
    "AdaLoRA": {"64 to 32": 492},
    "VeRA": {"rank 256": 467},
    "P-tuning": {"20 tokens": 461},
    "prompt tuning": {"random, lr 1e-4": 75, "random, lr 1e-3": 309, "from words, lr 1e-3": 453},
}


def intrinsic_dimension() -> Figure:
    """How much loss is left when `dimension` random directions may be trained, for tasks that ask `asked` things (section 3.1)."""
    parameters, trials = 400, 12
    figure, axes = subplots(figsize=(7.2, 3.8))
    for asked, color in ((5, "blue"), (20, "orange"), (80, "green")):
        dimensions = sorted({1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 80, 100, asked - 1, asked})
        left = []
        for dimension in dimensions:
            shares = []
            for trial in range(trials):
                draw = np.random.default_rng([asked, trial])
                task = draw.standard_normal((asked, parameters))
                wanted = draw.standard_normal(asked)
                directions = draw.standard_normal((parameters, parameters))[:, :dimension]
                reached = task @ directions
                best = reached @ np.linalg.lstsq(reached, wanted, rcond=None)[0]
                shares.append(((wanted - best) ** 2).sum() / (wanted**2).sum())
            left.append(np.mean(shares))
        axes.plot(dimensions, left, color=COLORS[color], label=f"{asked} equations")
        axes.axvline(asked, color=COLORS[color], linestyle=":", marker="", linewidth=1.2)
    axes.set(xlabel="trained directions d", ylabel="share of the loss that is left", title=f"{parameters} parameters", ylim=(-0.03, 1.03))
    axes.legend()
    return figure


def first_step() -> Figure:
    """How far the first step moves the outputs, over the rank, for both scales and both optimisers (section 3.2)."""
    inputs, outputs, tokens, alpha, trials = 256, 256, 16, 16.0, 20
    ranks = np.array([2**power for power in range(9)])
    moves: dict[tuple[str, str], list[float]] = {(way, scale): [] for way in ("gradient descent", "Adam") for scale in ("r", "sqrt(r)")}
    for rank in ranks:
        of_trials: dict[tuple[str, str], list[float]] = {key: [] for key in moves}
        for trial in range(trials):
            draw = np.random.default_rng(trial)
            features = draw.standard_normal((inputs, tokens))
            gradient = draw.standard_normal((outputs, tokens)) @ features.T / tokens
            lora_a = draw.uniform(-1, 1, (rank, inputs)) / math.sqrt(inputs)
            for scale in ("r", "sqrt(r)"):
                factor = alpha / (rank if scale == "r" else math.sqrt(rank))
                of_b = factor * gradient @ lora_a.T
                for way, step in (("gradient descent", of_b), ("Adam", np.sign(of_b))):
                    of_trials[way, scale].append(np.linalg.norm(factor * step @ (lora_a @ features)))
        for key, values in of_trials.items():
            moves[key].append(float(np.mean(values)))
    figure, panels = subplots(1, 2, figsize=(9.6, 4.0), sharey=True)
    for panel, way in zip(panels, ("gradient descent", "Adam"), strict=True):
        for scale in ("r", "sqrt(r)"):
            values = np.array(moves[way, scale])
            power = np.polyfit(np.log(ranks[4:]), np.log(values[4:]), 1)[0]
            panel.loglog(ranks, values / values[0], label=f"alpha / {scale}: power {power:+.2f} from 16 on")
        panel.set(xlabel="rank", title=way)
        panel.set_xticks(ranks[::2], [str(rank) for rank in ranks[::2]])
        panel.minorticks_off()
        panel.legend(loc="lower left", fontsize=9)
    panels[0].set_ylabel("move of the outputs, rank 1 = 1")
    return figure


def prefix_gate() -> Figure:
    """The gate of a zero prefix over its length, and of one virtual token over its score (section 3.3)."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    virtual = np.arange(0, 201, 5)
    scores = np.linspace(-4, 12, 161)
    for context in (16, 128, 1024):
        left.plot(virtual, virtual / (virtual + context), marker="", label=f"{context} tokens of text")
        right.plot(scores, np.exp(scores) / (np.exp(scores) + context), marker="", label=f"{context} tokens of text")
    left.set(xlabel="virtual tokens, keys and values zero", ylabel="gate", ylim=(-0.03, 1.03))
    right.set(xlabel="score of one virtual token, text at 0", ylim=(-0.03, 1.03))
    right.legend()
    return figure


def counts() -> dict[str, int]:
    """Trained parameters of each method in Llama-2-7B, by the formulas of section 4."""
    attention, mlp = 4 * 2 * WIDTH, 3 * (WIDTH + MLP)
    return {
        "full fine-tuning": TOTAL,
        "adapters, width 64": LAYERS * 2 * (2 * WIDTH * 64 + WIDTH + 64),
        "LoRA, rank 8, all linear": LAYERS * 8 * (attention + mlp),
        "prefix tuning, 20 tokens": 2 * LAYERS * 20 * WIDTH,
        "LoRA, rank 8, q and v": LAYERS * 8 * 2 * 2 * WIDTH,
        "IA3, k v and MLP": LAYERS * (2 * WIDTH + MLP),
        "prompt tuning, 20 tokens": 20 * WIDTH,
    }


def trained_parameters() -> Figure:
    """Trained parameters on a logarithmic axis (section 4)."""
    found = counts()
    figure, axes = subplots(figsize=(8.4, 3.4))
    for place, count in enumerate(found.values()):
        axes.barh(place, count, color=COLORS["blue"])
        axes.text(count * 1.25, place, f"{count:,}", va="center")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set(xlabel="trained parameters, Llama-2-7B", xlim=(1e4, 4e12))
    axes.set_xticks([10.0**power for power in range(4, 11)])
    axes.grid(axis="y", visible=False)
    return figure


def training_memory() -> Figure:
    """Weights, gradients and optimiser states of three ways to train Llama-2-7B, in GB of 10^9 bytes (section 3.6)."""
    lora = counts()["LoRA, rank 8, all linear"]
    four_bit = (LINEAR * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + (TOTAL - LINEAR) * 2) / 1e9
    ways = {
        "full fine-tuning": (0.0, TOTAL * 16 / 1e9),
        "LoRA": (TOTAL * 2 / 1e9, lora * 16 / 1e9),
        "LoRA on 4 bits (QLoRA)": (four_bit, lora * 16 / 1e9),
    }
    figure, axes = subplots(figsize=(8.4, 2.4))
    for place, (frozen, trained) in enumerate(ways.values()):
        axes.barh(place, frozen, color=COLORS["sky"], label="frozen weights" if place == 0 else None)
        axes.barh(place, trained, left=frozen, color=COLORS["orange"], label="trained: weights, gradients, states" if place == 0 else None)
        axes.text(frozen + trained + 1, place, f"{frozen + trained:.1f}", va="center")
    axes.set_yticks(range(len(ways)), list(ways))
    axes.invert_yaxis()
    axes.set(xlabel="GB before the first activation", xlim=(0, 125))
    axes.legend(loc="lower right")
    axes.grid(axis="y", visible=False)
    return figure


def settings_and_methods() -> Figure:
    """The public MetaMathQA comparison of `peft`: one line a method, one point a setting, 95% intervals (section 4.3)."""
    figure, axes = subplots(figsize=(8.4, 4.2))
    for place, settings in enumerate(METAMATHQA.values()):
        shares = sorted(right / QUESTIONS for right in settings.values())
        axes.plot([shares[0], shares[-1]], [place, place], color=COLORS["sky"], linewidth=6, alpha=0.4, marker="", solid_capstyle="round")
        for share in shares:
            half = 1.96 * math.sqrt(share * (1 - share) / QUESTIONS)
            axes.errorbar(share, place, xerr=half, color=COLORS["blue"], marker="o", capsize=3, linewidth=1.2)
    axes.set_yticks(range(len(METAMATHQA)), [f"{name} ({len(settings)})" for name, settings in METAMATHQA.items()])
    axes.invert_yaxis()
    axes.set(xlabel="right answers on GSM8K, test (settings published)", xlim=(0, 0.6))
    axes.grid(axis="y", visible=False)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "intrinsic-dimension": intrinsic_dimension,
    "first-step": first_step,
    "prefix-gate": prefix_gate,
    "trained-parameters": trained_parameters,
    "training-memory": training_memory,
    "settings-and-methods": settings_and_methods,
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
