"""A small fictional world, and tasks about it, from which the tiny models are pretrained.

    from onepiece import world

    world.items("sentiment", 1000, seed=0)                          # for training, both languages
    world.items("sentiment", 100, seed=0, split="held-out", distinct=True)

Families that pretraining teaches are `TAUGHT`; those it holds back, so that fine-tuning has something to learn, are
`HELD_BACK`. Preference pairs and noisy instructions are in `world_held_back`.

An item belongs to the training or to the held-out split by a hash of its *content*, which is the same in both
languages and in every rendering. So a held-out question is in no training text: not translated, not as a chat turn.
Pure Python, no third-party package: the same seed gives the same items everywhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LANGUAGES = ("en", "zh-TW")
TAUGHT = ("facts", "add", "reverse", "pick", "sentiment", "lookup", "story", "chat")
HELD_BACK = ("relabel", "compose", "new_facts")
SPLITS = ("train", "held-out")
HELD_OUT_PERCENT = 10

ARROW = " →"
"""What stands between a prompt and its answer in plain text: `27 + 15 → 42`."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its only right answer."""

    family: str
    language: str
    key: str
    """The content without language and wording; the split is a hash of it."""
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    """Answers that could be given, the right one among them; empty where the answer is open."""
    earlier: tuple[tuple[str, str], ...] = ()
    """(role, content) of what a conversation said before the prompt."""

    @property
    def split(self) -> str:
        """`train` or `held-out`."""
        return split_of(self.key)

    @property
    def plain(self) -> str:
        """The prompt as plain text, up to where the answer (after one space) is expected."""
        return " ".join([*(content for _, content in self.earlier), self.prompt]) + ARROW

    @property
    def messages(self) -> list[Message]:
        """The conversation up to and including the prompt, in the messages format of chat templates."""
        return [{"role": role, "content": content} for role, content in (*self.earlier, ("user", self.prompt))]

    @property
    def conversation(self) -> list[Message]:
        """The conversation with its answer."""
        return [*self.messages, {"role": "assistant", "content": self.answer}]


def split_of(key: str) -> str:
    """The split of a content: `held-out` for `HELD_OUT_PERCENT` percent of all contents."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "held-out" if int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT else "train"


def draw(family: str, language: str, generator: random.Random, **options: object) -> Item:
    """One item of a family, of either split.

    Args:
        family: one of `TAUGHT` or `HELD_BACK`.
        language: one of `LANGUAGES`.
        generator: where the randomness comes from; advanced by the call.
        options: what a family lets one choose (`pairs` of lookup, `length` of reverse).

    Raises:
        KeyError: there is no such family.
        ValueError: there is no such language.
    """
    if language not in LANGUAGES:
        msg = f"there is no language {language!r}: choose one of {LANGUAGES}"
        raise ValueError(msg)
    return _families()[family](LANGUAGES.index(language), generator, **options)


def stream(family: str, seed: int, split: str = "train", language: str | None = None, **options: object) -> Iterator[Item]:
    """Items of one split without end. `language` None alternates English and Chinese."""
    if split not in SPLITS:
        msg = f"there is no split {split!r}: choose one of {SPLITS}"
        raise ValueError(msg)
    # A string seeds Random through SHA-512, the same on every machine; a tuple would go through hash().
    generator = random.Random(f"{family}/{split}/{seed}")
    turn = 0
    while True:
        item = draw(family, language or LANGUAGES[turn % 2], generator, **options)
        if item.split == split:
            turn += 1
            yield item


def items(
    family: str, count: int, seed: int, split: str = "train", language: str | None = None, *, distinct: bool = False, **options: object
) -> list[Item]:
    """`count` items of one family and split.

    Args:
        distinct: never the same text twice. Families are finite; this is for evaluation.

    Raises:
        ValueError: fewer than `count` distinct items were found.
    """
    if not distinct:
        source = stream(family, seed, split, language, **options)
        return [next(source) for _ in range(count)]
    found = distinct_items(family, count, seed, split, language, **options)
    if len(found) < count:
        msg = f"{family} has only {len(found)} distinct {split} items, not {count}"
        raise ValueError(msg)
    return found


def distinct_items(
    family: str, at_most: int, seed: int, split: str = "train", language: str | None = None, **options: object
) -> list[Item]:
    """`at_most` different items of one family and split, or all that there are if they are fewer."""
    source = stream(family, seed, split, language, **options)
    found: dict[tuple[str, str, str], Item] = {}
    drawn_in_vain = 0
    while len(found) < at_most and drawn_in_vain < 2000:
        item = next(source)
        drawn_in_vain = drawn_in_vain + 1 if (item.language, item.plain, item.answer) in found else 0
        found.setdefault((item.language, item.plain, item.answer), item)
    return list(found.values())


def _families() -> dict[str, Callable[..., Item]]:
    # Imported here because both modules build `Item`s.
    from onepiece import world_held_back, world_taught

    return {**world_taught.FAMILIES, **world_held_back.FAMILIES}
