"""A method's row in the table of module 1.1: measured in one way by all labs, and recorded under the same names.

    tasks = family.load_tasks(tokenizer, chat=settings.chat)
    runs = {}
    for name in family.TASKS:
        for seed in family.SEEDS:
            model = with_the_method(load_base(settings)[0], seed)
            runs[name, seed] = family.learn(model, tasks[name], steps=300, learning_rate=4e-2, seed=seed, tokenizer=tokenizer)
    family.record_row(runs, model, base_total=..., file_bytes=..., peak_bytes=..., token_ratio=..., mergeable=True)

Tasks, items, batches and seeds are the family's; steps, learning rate and schedule are the method's own, found as `calibrate` finds them.
The page that draws the table reads the published results (`onepiece.course.family_rows`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onepiece import lab, world
from onepiece.adaptation.tasks import Task, accuracy, fit, forgetting, load_task
from onepiece.course.family_rows import BATCH, GOAL, HELD_OUT_ITEMS, PROTOCOL, SEEDS, TASKS, TRAIN_ITEMS
from onepiece.measure import timed
from onepiece.tiny import skills
from onepiece.training import History

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BATCH", "GOAL", "SEEDS", "TASKS", "Learned", "learn", "load_tasks", "record_row", "token_ratio"]

LOOK_EVERY = 25
_LOOKED_AT = slice(None, None, 4)  # of the held-out items: half of them are Chinese and come last


@dataclass(frozen=True, slots=True)
class Learned:
    """One training of one task with one seed."""

    history: History
    accuracy: float
    """Exact match on all held-out items at the end."""
    steps_to_goal: float
    """Steps after which a quarter of the held-out items was answered as well as GOAL; infinite: never."""
    cpu_seconds_to_goal: float
    """CPU-seconds of training, without the looks, until then."""
    kept: Mapping[str, float] = field(default_factory=dict)
    """Skill of pretraining -> exact match afterwards; of the first seed only."""

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return len(self.history.losses)


def load_tasks(tokenizer: PreTrainedTokenizerBase, *, chat: bool = False) -> dict[str, Task]:
    """Name -> task, of all that the family is measured on."""
    sizes = {"train_items": TRAIN_ITEMS, "held_out_items": HELD_OUT_ITEMS, "chat": chat}
    return {name: load_task(name, tokenizer, **sizes) for name in TASKS}


def learn(
    model: PreTrainedModel, task: Task, *, steps: int, learning_rate: float, seed: int, keep_items: int = 10, **options: Any
) -> Learned:
    """Train what requires a gradient, look every LOOK_EVERY steps whether the goal is reached, and score at the end.

    Args:
        model: with the method in it; trained in place.
        keep_items: of each skill of pretraining and language, asked after the training with the first seed: what was forgotten.
        options: of `onepiece.training.train`: schedule, warm-up, a loss function.
    """
    asked = task.held_out[_LOOKED_AT]
    began, looking, reached = time.process_time(), 0.0, []

    def look() -> Mapping[str, float]:
        nonlocal looking
        if reached:
            return {}
        before = time.process_time()
        right = skills.score(model, task.tokenizer, asked, chat=task.chat).accuracy
        if right >= GOAL:
            reached.append(before - began - looking)
        looking += time.process_time() - before
        return {"accuracy": right}

    options = {"batch_size": BATCH, "progress": False} | options
    history = fit(model, task, steps=steps, learning_rate=learning_rate, seed=seed, evaluate=look, evaluate_every=LOOK_EVERY, **options)
    looks = [found for found in history.evaluations if "accuracy" in found]
    kept = {}
    if seed == SEEDS[0]:
        scores = forgetting(model, task.tokenizer, world.TAUGHT, per_language=keep_items, chat=task.chat)
        kept = {skill: score.accuracy for skill, score in scores.items()}
    return Learned(
        history,
        accuracy(model, task).accuracy,
        looks[-1]["step"] if reached else math.inf,
        reached[0] if reached else math.inf,
        kept,
    )


def token_ratio(adapted: PreTrainedModel, base: PreTrainedModel, prompt: torch.Tensor, *, tokens: int = 32, repeats: int = 5) -> float:
    """Time of a decoded token with the method, divided by that of the base: both decode the same number, in turn.

    Args:
        adapted: with the method in it, not merged; whatever has a `generate` like a model of Transformers.
        prompt: (1, seq) token ids.
    """
    exactly = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}

    def decode(model: PreTrainedModel) -> None:
        with torch.inference_mode():
            model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **exactly)

    times = timed({"adapted": lambda: decode(adapted), "base": lambda: decode(base)}, repeats=repeats)
    return times["adapted"].median / times["base"].median


def record_row(
    runs: Mapping[tuple[str, int], Learned],
    *,
    trained: int,
    total: int,
    file_bytes: int,
    peak_bytes: int,
    token_ratio: float,
    mergeable: bool,
    variant: str | None = None,
    tasks: Sequence[str] = TASKS,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Record a row; it is published with the lab's results.

    Args:
        runs: (task, seed) -> what was learned, of all of both.
        trained, total: parameters that are trained, and those of the base.
        file_bytes: of the adapter's files; of the whole model where there is no adapter.
        peak_bytes: of one training step on one batch of `compose`, as `onepiece.measure.peak_memory` says.
        token_ratio: as the function of this name gives it.
        mergeable: can it become a plain model of the base's shape?
        variant: None for the lab's method; a name for a row beside it, such as `full`.

    Raises:
        KeyError: a task or a seed is missing.
    """
    once = {
        "protocol": PROTOCOL, "trained": trained, "total": total, "file_bytes": file_bytes, "peak_bytes": peak_bytes,
        "token_ratio": token_ratio, "mergeable": float(mergeable),
    }  # fmt: skip
    for column, value in once.items():
        lab.record(f"family_{column}", value, variant=variant)
    for task in tasks:
        for seed in seeds:
            run = runs[task, seed]
            lab.record(f"family_{task}_accuracy", run.accuracy, seed=seed, variant=variant)
            lab.record(f"family_{task}_steps", run.steps, seed=seed, variant=variant)
            lab.record(f"family_{task}_steps_to_goal", run.steps_to_goal, seed=seed, variant=variant)
            lab.record(f"family_{task}_cpu_seconds_to_goal", run.cpu_seconds_to_goal, seed=seed, variant=variant)
        for skill, value in runs[task, seeds[0]].kept.items():
            lab.record(f"family_{task}_kept_{skill}", value, variant=variant)
