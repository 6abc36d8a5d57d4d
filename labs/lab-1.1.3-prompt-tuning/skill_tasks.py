"""The same questions with three answers: two that the base has the skill for, and one that needs both skills, one after the other.

`compose` asks: "Reverse a b c d e, then letters 2 and 4". Each task keeps the text of the question and wants

    first     the letters reversed: the skill `reverse`
    second    the letters at these places, not reversed: the skill `pick`, twice
    both      the letters at these places *after* reversing: compose itself
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from onepiece import world
from onepiece.adaptation import Task
from onepiece.data import InstructionDataset, plain_prompt
from onepiece.records import Record
from onepiece.world import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS = ("first", "second", "both")


def answered(item: Item, answer: str) -> Item:
    """A question of `compose` with another answer, one of ANSWERS.

    Raises:
        ValueError: there is no such answer.
    """
    _, letters, places = item.key.split(":")
    picked = [int(place) - 1 for place in places]
    wanted = {
        "first": " ".join(reversed(letters)),
        "second": " ".join(letters[place] for place in picked),
        "both": " ".join(letters[::-1][place] for place in picked),
    }
    if answer not in wanted:
        msg = f"the answer must be one of {ANSWERS}, not {answer!r}"
        raise ValueError(msg)
    return dataclasses.replace(item, answer=wanted[answer])


def skill_task(answer: str, tokenizer: PreTrainedTokenizerBase, *, train_items: int, held_out_items: int, chat: bool = False) -> Task:
    """The questions of `compose` with one of ANSWERS; the same items and splits for each."""
    drawn = [answered(item, answer) for item in world.items("compose", train_items, 0)]
    records = [Record.of(item.messages, item.answer) for item in drawn]
    training = InstructionDataset(records, tokenizer, render_prompt=None if chat else plain_prompt)
    held_out = [answered(item, answer) for item in world.distinct_items("compose", held_out_items, 0, "held-out")]
    return Task(answer, tokenizer, training, tuple(held_out), chat)
