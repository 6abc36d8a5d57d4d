"""Biases that say the same: a constant that goes through a linear layer comes out as a constant, and may as well be added there.

    W (norm(x) + s) + b  =  W norm(x) + (W s + b)          the bias of a norm, said by the layer behind it
    sum_j a_j (v_j + s)  =  sum_j a_j v_j + s              shares of attention add up to 1: a value's bias passes through untouched

So three of the eight kinds of a GPT-NeoX can be zero, and the model computes what it did. Not so where an activation function or a norm
stands between. What of the keys? `softmax(scores + c)` does not see a c that is the same for all; whether a key's bias is that, depends
on where positions come in.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bitfit import fused_masks


# Exercise 7. `layer` gets x + shift from now on without the shift: what must be added to its bias, in place, so that its outputs stay?
# The weight is (out, in).
@torch.no_grad()
def carry_through(layer: nn.Linear, shift: Tensor) -> None:
    """Let a layer say itself what a constant in front of it said.

    Args:
        shift: (in,), which will be taken away in front of the layer.
    """
    # SOLUTION 7
    layer.bias += layer.weight @ shift
    # END SOLUTION


@torch.no_grad()
def said_once(model: nn.Module) -> nn.Module:
    """A copy of a GPT-NeoX that computes the same, with zeros for the biases of both norms of a block and of the values.

    The norms come first: what is carried into the fused layer lands on its values too.
    """
    plain = copy.deepcopy(model)
    heads = plain.config.num_attention_heads
    of_values = fused_masks(heads, plain.config.hidden_size // heads)["value"]
    for block in plain.gpt_neox.layers:
        fused = block.attention.query_key_value
        for norm, behind in ((block.input_layernorm, fused), (block.post_attention_layernorm, block.mlp.dense_h_to_4h)):
            carry_through(behind, norm.bias)
            norm.bias.zero_()
        mask = of_values.to(fused.bias.device)
        carry_through(block.attention.dense, fused.bias[mask])  # heads one after the other, as attention puts them together
        fused.bias[mask] = 0
    return plain


def biases_in_use(biases: dict[str, nn.Parameter]) -> int:
    """How many of these numbers are not zero."""
    return sum(int(bias.count_nonzero()) for bias in biases.values())
