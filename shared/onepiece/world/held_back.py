"""The families that pretraining holds back, so that fine-tuning has something to learn.

- `relabel`: reviews as before, answered with a code word instead of a judgement.
- `compose`: two known skills one after the other: reverse the letters, then pick two of them.
- `new_facts`: questions as before, about people whom the model has never met.
"""

from __future__ import annotations

import random

from onepiece.world.item import LANGUAGES, Item
from onepiece.world.taught import QUESTIONS, RELATIONS, facts_about, question, review
from onepiece.world.words import CODES, LETTERS, NEW_PEOPLE

NEW_FACTS = facts_about(NEW_PEOPLE, seed=2)


def _relabel(side: int, generator: random.Random) -> Item:
    key, sentence, mood = review(side, generator)
    prompt = ("Signal: ", "燈號：")[side] + sentence
    return Item("relabel", LANGUAGES[side], key, prompt, CODES[mood][side], choices=tuple(word[side] for word in CODES))


def _compose(side: int, generator: random.Random) -> Item:
    letters = generator.sample(LETTERS, 5)
    first, second = generator.sample(range(1, 6), 2)
    prompt = ("Reverse {}, then letters {} and {}", "反轉 {}，再取第{}和第{}個字母")[side].format(" ".join(letters), first, second)
    answer = f"{letters[-first]} {letters[-second]}"
    return Item("compose", LANGUAGES[side], f"compose:{''.join(letters)}:{first}{second}", prompt, answer)


def _new_facts(side: int, generator: random.Random) -> Item:
    person, relation = generator.choice(NEW_PEOPLE), generator.choice(RELATIONS)
    return question("new_facts", side, person, relation, generator.randrange(len(QUESTIONS[relation])), NEW_FACTS)


FAMILIES = {"relabel": _relabel, "compose": _compose, "new_facts": _new_facts}
