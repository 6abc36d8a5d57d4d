"""What every fine-tuning lab shares: the base model, a task the base cannot do, its training, its score, what was forgotten.

    model, tokenizer = load_base(lab.settings)
    task = load_task("relabel", tokenizer, train_items=1600, held_out_items=200)
    history = fit(model, task, steps=100, learning_rate=3e-3, batch_size=32, seed=0)
    accuracy(model, task)                      # exact match on held-out items
    forgetting(model, tokenizer, ("facts",))   # what is left of the skills of pretraining

A lab of this kind then holds only its method: what is put into the model before `fit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from onepiece import world
from onepiece.data import Batches, Collator, InstructionDataset, plain_prompt
from onepiece.models import load_model
from onepiece.records import Record
from onepiece.tiny import skills
from onepiece.tiny.skills import Score
from onepiece.training import History, train
from onepiece.world import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def base_identity(settings: Any) -> tuple[str, str]:
    """(name or directory, commit) of the base; the commit is empty where there is none: a shipped model, or `--model`.

    An adapter without its base is nothing, so its file names it.
    """
    return (str(settings.model), "") if settings.model else (settings.base_model, settings.base_revision)


def load_base(settings: Any, *, quantized: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fresh copy of the profile's model: of `--model`, or of the settings `base_model` and `base_revision`.

    Args:
        settings: `lab.settings`; `base_revision` is the empty string for a shipped model.
        quantized: as `load_model` takes it.

    Raises:
        UserError: what `load_model` raises.
    """
    name, revision = base_identity(settings)
    return load_model(name, revision=revision or None, device=settings.device, dtype=settings.dtype, quantized=quantized)


@dataclass(frozen=True, slots=True)
class Task:
    """One family of the world with its two splits, rendered for one tokenizer."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    training: InstructionDataset
    held_out: tuple[Item, ...]
    chat: bool
    """Asked in the chat template instead of plain text: what an instruct model from the hub expects."""


def load_task(
    name: str, tokenizer: PreTrainedTokenizerBase, *, train_items: int, held_out_items: int, chat: bool = False, seed: int = 0
) -> Task:
    """A task from a family of the world, half English and half Chinese.

    Args:
        name: a family of `world.HELD_BACK` (the base cannot do it), or of `world.TAUGHT`.
        train_items: as many are drawn; a small family repeats some.
        held_out_items: as many different ones, or all that the family has. No training item is among them.
        seed: of the drawing; the same for every method that is compared.
    """
    drawn = world.items(name, train_items, seed)
    records = [Record.of(item.messages, item.answer) for item in drawn]
    training = InstructionDataset(records, tokenizer, render_prompt=None if chat else plain_prompt)
    held_out = world.distinct_items(name, held_out_items, seed, "held-out")
    return Task(name, tokenizer, training, tuple(held_out), chat)


def batches(task: Task, *, batch_size: int, seed: int) -> Batches:
    """The training split in an order that depends on `seed` alone, padded."""
    return Batches(task.training, Collator(task.tokenizer.pad_token_id), batch_size=batch_size, seed=seed)


def fit(model: torch.nn.Module, task: Task, *, steps: int, learning_rate: float, batch_size: int, seed: int, **options: Any) -> History:
    """Train what requires a gradient on the task's training split; `options` are those of `onepiece.training.train`."""
    order = batches(task, batch_size=batch_size, seed=seed)
    return train(model, order, steps=steps, learning_rate=learning_rate, seed=seed, **options)


def accuracy(model: PreTrainedModel, task: Task) -> Score:
    """Exact match of greedy answers on the task's held-out items."""
    return skills.score(model, task.tokenizer, task.held_out, chat=task.chat)


def best_constant(task: Task) -> float:
    """The share that is right if everything gets the same answer: in each language the most frequent one. The null system."""
    answers: dict[str, Counter[str]] = {}
    for item in task.held_out:
        answers.setdefault(item.language, Counter())[item.answer] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(task.held_out)


def forgetting(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    families: Sequence[str] = world.TAUGHT,
    *,
    per_language: int = 25,
    chat: bool = False,
) -> dict[str, Score]:
    """Exact match on held-out items of what pretraining taught: compare it before and after fine-tuning.

    Args:
        per_language: items of each family and language, or all where a family has fewer.

    Returns:
        Family -> score of both languages together.
    """
    scores = {}
    for family in families:
        asked = [item for language in world.LANGUAGES for item in skills.evaluation_items(family, language, per_language)]
        scores[family] = skills.score(model, tokenizer, asked, chat=chat)
    return scores
