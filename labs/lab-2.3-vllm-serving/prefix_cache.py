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


def blocks_held(prompts: Sequence[Sequence[int]], generated: int, block_size: int) -> int:
    """How many blocks the keys and values of requests take that run together, each at its last step: a formula, to hold the server against.

    A request has a block for every `block_size` tokens that it has begun; full blocks of prompts that begin alike are there only once. Of
    the token generated last nobody needs keys and values any more.

    Args:
        prompts: token ids, one prompt for each request.
        generated: tokens of each answer.
        block_size: tokens of a block.
    """
    shared = {tuple(prompt[:end]) for prompt in prompts for end in range(block_size, len(prompt) + 1, block_size)}
    own = sum(-(-(len(prompt) + generated - 1) // block_size) - len(prompt) // block_size for prompt in prompts)
    return len(shared) + own
