"""What a prompt can change in an attention layer, and what it cannot.

A query attends to the prompt and to the text. With the share a that goes to the prompt, softmax splits exactly:

    output = a * (mean of the prompt's values) + (1 - a) * (output without the prompt)

So in a layer whose inputs are what they were (the first one), the *ratios* between tokens of the text stay as they were, whatever the
vectors are: a prompt can turn the text down and add something, and cannot make one token look more at another. Petrov et al.,
https://arxiv.org/abs/2310.19698.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

    from onepiece.data import Batch


@torch.no_grad()
def weights_over_text(model: nn.Module, batch: Batch, layer: int) -> tuple[Tensor, Tensor]:
    """Attention of a layer between tokens of the text, as shares of what each pays to the text.

    Args:
        model: a causal language model of Transformers or a `SoftPromptModel`; its attention is computed the plain way within.
        batch: of one row, or of rows without padding.

    Returns:
        The shares, (batch, heads, seq, seq), each row of which sums to 1; and what each token pays to the prompt, (batch, heads, seq).
    """
    base = getattr(model, "base", model)
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")  # the fused kernels never have the weights in memory
    seq = batch["input_ids"].shape[1]
    given = {name: batch[name].to(base.device) for name in ("input_ids", "attention_mask")}
    whole = model(**given, output_attentions=True, use_cache=False).attentions[layer]
    base.set_attn_implementation(before)
    text = whole[:, :, -seq:, -seq:]  # (batch, heads, virtual + seq, virtual + seq) -> (batch, heads, seq, seq)
    paid = text.sum(dim=-1, keepdim=True)  # -> (batch, heads, seq, 1)
    return text / paid, 1 - paid[..., 0]


def moved_attention(model: nn.Module, base: nn.Module, batch: Batch, layer: int) -> float:
    """How far the shares among tokens of the text are from those of the base: half the sum of differences, 0 to 1; the mean of all.

    Source: total variation distance, https://en.wikipedia.org/wiki/Total_variation_distance_of_probability_measures.
    """
    shares, _ = weights_over_text(model, batch, layer)
    wanted, _ = weights_over_text(base, batch, layer)
    return float((shares - wanted).abs().sum(dim=-1).mean() / 2)
