"""What a prefix cache must find: vLLM's automatic prefix caching, predicted.

vLLM keeps keys and values in blocks of a fixed number of tokens. A full block is known by the hash of its tokens *and of everything
before it* (and of the adapter that computed it), so a later prompt with the same beginning finds it. See "Automatic Prefix Caching" in
https://docs.vllm.ai/en/latest/design/prefix_caching.html.
"""

from __future__ import annotations

from collections.abc import Sequence


def predicted_hits(prompts: Sequence[Sequence[int]], block_size: int, *, adapters: Sequence[str] | None = None) -> list[int]:
    """How many tokens of each prompt the cache has already, if the prompts come one after the other and the cache is empty and large.

    - Only full blocks are kept: the tokens after the last multiple of `block_size` are not.
    - A block is found only if all blocks before it are the same too.
    - At least the last token of a prompt is always computed: its logits are what generation begins with.
    - A block that one adapter computed is of no use to another one.

    Args:
        prompts: token ids.
        block_size: tokens of a block.
        adapters: which model computes each prompt; None: always the same one.
    """
    models = adapters or ["base"] * len(prompts)
    kept: set[tuple[str, tuple[int, ...]]] = set()
    hits = []
    # SOLUTION 5
    for model, prompt in zip(models, prompts, strict=True):
        ends = range(block_size, len(prompt) + 1, block_size)
        blocks = [(model, tuple(prompt[:end])) for end in ends]  # a block and everything before it
        found = 0
        while found < (len(prompt) - 1) // block_size and blocks[found] in kept:
            found += 1
        hits.append(found * block_size)
        kept.update(blocks)
    # END SOLUTION
    return hits


def shared_tokens(prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens each prompt shares with the best of the earlier ones: what a cache without blocks would find."""
    shared = []
    for number, prompt in enumerate(prompts):
        lengths = [_common(prompt, earlier) for earlier in prompts[:number]]
        shared.append(max(lengths, default=0))
    return shared


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length
