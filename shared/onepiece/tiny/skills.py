"""What the tiny models can do: greedy exact match on held-out items, family by family.

`nox -s skills -- tiny` prints the table and writes it into the model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onepiece import world
from onepiece.evaluation import generate_batch, wilson_interval
from onepiece.tiny.tokenizer import prompt_text
from onepiece.world import HELD_BACK, LANGUAGES, TAUGHT, Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ITEMS_PER_LANGUAGE = 100
"""Held-out items of each family and language in the model card, or all of them where a family has fewer."""


@dataclass(frozen=True, slots=True)
class Score:
    """How many of `count` answers were exactly right."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        """A share, 0 to 1."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        interval = wilson_interval(self.right, self.count)
        return interval.low, interval.high

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.count + other.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.1%} [{low:.1%}, {high:.1%}]"


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    *,
    chat: bool = False,
    max_new_tokens: int = 32,
    batch_size: int = 64,
) -> list[str]:
    """The greedy answers of a model, in the order of the items.

    Args:
        chat: ask in the chat template instead of plain text.
        max_new_tokens: tokens after which an answer is cut off.
    """
    prompts = [prompt_text(item, tokenizer, chat=chat) for item in items]
    return generate_batch(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], *, chat: bool = False) -> Score:
    """Exact match of greedy answers.

    Raises:
        ValueError: there are no items.
    """
    if not items:
        msg = "no items to score"
        raise ValueError(msg)
    given = answers(model, tokenizer, items, chat=chat)
    return Score(sum(answer == item.answer for answer, item in zip(given, items, strict=True)), len(items))


def evaluation_items(family: str, language: str, count: int = ITEMS_PER_LANGUAGE, seed: int = 0) -> list[Item]:
    """Distinct held-out items, the same for everybody; all of them where a family has fewer than `count`."""
    return world.distinct_items(family, count, seed, "held-out", language)


def table(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = ITEMS_PER_LANGUAGE
) -> dict[tuple[str, str, bool], Score]:
    """(family, language, as chat) -> score, for all families."""
    return {
        (family, language, chat): score(model, tokenizer, evaluation_items(family, language, count), chat=chat)
        for family in (*TAUGHT, *HELD_BACK)
        for language in LANGUAGES
        for chat in (False, True)
    }
