"""How good, how sure, and what kind of wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from onepiece.world import Item

KINDS = ("right", "wrong choice", "other language", "something else")


# Exercise 7. How many are right, and what does that say?
# a. exact_matches: an answer is right if it is equal to the wanted one, to the character; spaces at both ends do not count.
# b. wilson: the interval of Wilson 1927 (https://doi.org/10.2307/2276774). With p = right / count:
#
#        centre = (p + z^2 / (2 count)) / (1 + z^2 / count)
#        half   = z / (1 + z^2 / count) * sqrt(p (1 - p) / count + z^2 / (4 count^2))
#
#    Unlike p +- z sqrt(p (1 - p) / count) it does not claim certainty when all answers are right.
def exact_matches(answers: Sequence[str], wanted: Sequence[str]) -> int:
    """How many answers are right; both sequences have the same length."""
    # SOLUTION 7
    return sum(answer.strip() == want.strip() for answer, want in zip(answers, wanted, strict=True))
    # END SOLUTION


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """(low, high) of an accuracy of `right` out of `count`; z = 1.96 makes it a 95% interval."""
    # SOLUTION 7
    share, scale = right / count, 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half
    # END SOLUTION


def kind_of(answer: str, item: Item, elsewhere: Sequence[str]) -> str:
    """One of `KINDS`: what an answer to a question with choices is.

    Args:
        item: the question, with its right answer and its choices.
        elsewhere: the choices of the same task in the other language.
    """
    if answer == item.answer:
        return "right"
    if answer in item.choices:
        return "wrong choice"
    return "other language" if answer in elsewhere else "something else"


def count_kinds(answers: Sequence[str], items: Sequence[Item]) -> dict[str, int]:
    """How many answers are of each of `KINDS`, in their order."""
    everywhere = {choice for item in items for choice in item.choices}
    kinds = [kind_of(answer, item, sorted(everywhere - set(item.choices))) for answer, item in zip(answers, items, strict=True)]
    found = Counter(kinds)
    return {kind: found[kind] for kind in KINDS}


def best_constant(items: Sequence[Item]) -> float:
    """The share that is right if everything gets the same answer: in each language the most frequent one. The null system."""
    return sum(given == item.answer for given, item in zip(constant_answers(items), items, strict=True)) / len(items)


def constant_answers(items: Sequence[Item]) -> list[str]:
    """To every item the most frequent answer of its language."""
    counted: dict[str, Counter[str]] = {}
    for item in items:
        counted.setdefault(item.language, Counter())[item.answer] += 1
    return [counted[item.language].most_common(1)[0][0] for item in items]
