"""The prefix cache with exactly one mistake: what `checks.py` recognises, and what the controls of notebook 3 are. It calls no exercise."""

from __future__ import annotations

from collections.abc import Sequence

from onepiece.checks import check_mistake

HITS = ("tokens", "last_token", "no_chain", "adapters", "itself", "latest", "blocks")


def broken_hits(prompts: Sequence[Sequence[int]], size: int, adapters: Sequence[str], mistake: str | None) -> list[int]:
    """The hits with exactly one mistake, or with none: by comparing each prompt with all earlier ones.

    Args:
        prompts: token ids, one prompt after the other.
        size: tokens of a block.
        adapters: which model computes each prompt.
        mistake: one of `HITS`, or None.
    """
    check_mistake(mistake, HITS)
    hits = []
    for number, prompt in enumerate(prompts):
        earlier = [other for other in range(number) if mistake == "adapters" or adapters[other] == adapters[number]]
        earlier = earlier[-1:] if mistake == "latest" else earlier + ([number] if mistake == "itself" else [])
        most = len(prompt) // size if mistake == "last_token" else (len(prompt) - 1) // size
        if mistake == "no_chain":
            known = {block for other in earlier for block in cut(prompts[other], size)}
            found = sum(block in known for block in cut(prompt, size)[:most]) * size
        else:
            shared = max((in_common(prompt, prompts[other]) for other in earlier), default=0)
            found = shared if mistake == "tokens" else min(shared // size, most) * (1 if mistake == "blocks" else size)
        hits.append(found)
    return hits


def cut(prompt: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The full blocks of a prompt, each by itself."""
    return [tuple(prompt[begin : begin + size]) for begin in range(0, len(prompt) - size + 1, size)]


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
