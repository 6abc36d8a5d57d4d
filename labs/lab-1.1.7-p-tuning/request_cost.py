"""What a request costs before its first token, when the server has kept what it has read before.

Keys and values of a token depend on what stands before it, and on nothing behind it. Virtual tokens in front have nothing of the request
before them: they are read once, for everybody. Those behind the anchor have the whole question before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from onepiece.adaptation.soft_prompt import Inputs


def reading_flops(config: Any, new: int, kept: int) -> int:
    """Multiplications and additions of a Llama that reads `new` tokens behind `kept` ones whose keys and values it has.

    Counted: linear layers and the head for each new token, queries times keys and weights times values with all keys; 2 for each product of
    two numbers. The plain attention computes what the mask hides, too. Not counted: norms, rotations, softmax.

    Args:
        config: a `LlamaConfig` or one with the same names.
    """
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    linear = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * config.intermediate_size
    attention = 2 * queries * (kept + new)
    return 2 * new * (config.num_hidden_layers * (linear + attention) + hidden * config.vocab_size)


@torch.no_grad()
def counted_flops(base: Any, read: Inputs, kept: int) -> int:
    """The same as PyTorch counts it, of one row whose first `kept` places were read before."""
    embeddings, before = read.inputs_embeds.detach(), base.config._attn_implementation
    base.set_attn_implementation("eager")  # the fused kernels are no matrix products to the counter
    cache = base(inputs_embeds=embeddings[:, :kept], use_cache=True).past_key_values if kept else None
    with FlopCounterMode(display=False) as counter:
        base(inputs_embeds=embeddings[:, kept:], past_key_values=cache, use_cache=True)
    base.set_attn_implementation(before)
    return counter.get_total_flops()


@torch.no_grad()
def keys_read(base: Any, read: Inputs) -> Tensor:
    """The keys of one row in every layer, (layers, heads, places, head_dim)."""
    cache = base(inputs_embeds=read.inputs_embeds, position_ids=read.position_ids, use_cache=True).past_key_values
    return torch.stack([layer.keys[0] for layer in cache.layers])
