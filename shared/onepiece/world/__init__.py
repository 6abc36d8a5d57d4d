"""A small fictional world, and tasks about it, from which the tiny models are pretrained.

    from onepiece import world

    world.items("sentiment", 1000, seed=0)                          # for training, both languages
    world.items("sentiment", 100, seed=0, split="held-out", distinct=True)

Families that pretraining teaches are `TAUGHT`; those it holds back, so that fine-tuning has something to learn, are
`HELD_BACK`. Preference pairs and noisy instructions are in `world.derived`.
Pure Python, no third-party package: the same seed gives the same items everywhere.
"""

from __future__ import annotations

from onepiece.world.draw import distinct_items, draw, items, stream
from onepiece.world.item import ARROW, HELD_BACK, HELD_OUT_PERCENT, LANGUAGES, SPLITS, TAUGHT, Item, Message, split_of

__all__ = [
    "ARROW",
    "HELD_BACK",
    "HELD_OUT_PERCENT",
    "LANGUAGES",
    "SPLITS",
    "TAUGHT",
    "Item",
    "Message",
    "distinct_items",
    "draw",
    "items",
    "split_of",
    "stream",
]
