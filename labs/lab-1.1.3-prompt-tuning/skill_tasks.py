"""Five letters and no word about what to do with them: which answer is wanted, only the training says.

All tasks have the same texts, and answers of the same letters. What differs is whether pretraining taught the base to give them:

    reversed    e d c b a    the skill `reverse` ("Reverse a b c d e"): it is there, and nobody asks for it
    picked      b            the skill `pick` ("Letter 2 of a b c d e"): likewise
    rotated     b c d e a    as simple an exchange of places, and never taught
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

TAUGHT = ("reversed", "picked")
ANSWERS = (*TAUGHT, "rotated")


def answered(item: Item, answer: str) -> Item:
    """The letters of a question of `compose`, with one of ANSWERS.

    Raises:
        ValueError: there is no such answer.
    """
    letters = item.key.split(":")[1]
    wanted = {"reversed": letters[::-1], "picked": letters[1], "rotated": letters[1:] + letters[:1]}
    if answer not in wanted:
        msg = f"the answer must be one of {ANSWERS}, not {answer!r}"
        raise ValueError(msg)
    return dataclasses.replace(item, prompt=" ".join(letters), answer=" ".join(wanted[answer]))


def skill_task(answer: str, tokenizer: PreTrainedTokenizerBase, *, train_items: int, held_out_items: int, chat: bool = False) -> Task:
    """The same letters with one of the answers; no letters of the training are among those that are held out."""
    drawn = [answered(item, answer) for item in world.items("compose", train_items, 0)]
    records = [Record.of(item.messages, item.answer) for item in drawn]
    training = InstructionDataset(records, tokenizer, render_prompt=None if chat else plain_prompt)
    # A question of compose is held out with its places; the letters alone must be new too.
    seen = {item.prompt for item in drawn}
    held_out = (answered(item, answer) for item in world.distinct_items("compose", 2 * held_out_items, 0, "held-out"))
    return Task(answer, tokenizer, training, tuple(item for item in held_out if item.prompt not in seen)[:held_out_items], chat)
