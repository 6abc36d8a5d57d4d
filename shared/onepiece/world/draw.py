"""Items of any family: one, a stream without end, so many, or so many that differ."""

from __future__ import annotations

import random
from collections.abc import Iterator

from onepiece.world import held_back, taught
from onepiece.world.item import LANGUAGES, SPLITS, Item

_FAMILIES = {**taught.FAMILIES, **held_back.FAMILIES}


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
    return _FAMILIES[family](LANGUAGES.index(language), generator, **options)


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
