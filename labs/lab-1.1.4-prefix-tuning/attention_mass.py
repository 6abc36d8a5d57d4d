"""How much attention a prefix takes: measured where it can be seen, and computed from the scores of the text.

    text_scores(base, ids)          # what the queries of the first layer think of the keys of the text
    measured_share(base, model, ids)  # by how much a prefix of zeros has shrunk what comes out of the first layer's heads
    shares_by_head(model, batch)    # the share that goes to the prefix, in every layer and head

The first layer is where formula and measurement can be compared: its queries and keys do not know of a prefix yet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onepiece.adaptation.prefix_cache import PrefixModel
from onepiece.training import to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onepiece.data import Batch


@torch.no_grad()
def text_scores(base: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Scores of the first layer over the text, (batch, heads, seq, seq), float64; what lies behind a query is minus infinity.

    Args:
        base: a Llama or Qwen2: with rotated keys.
        input_ids: (batch, seq), without padding.
    """
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    layer, inner = base.model.layers[0], base.model.layers[0].self_attn
    hidden = layer.input_layernorm(base.get_input_embeddings()(input_ids))
    split = (*input_ids.shape, -1, inner.head_dim)
    queries, keys = (projection(hidden).view(split).transpose(1, 2) for projection in (inner.q_proj, inner.k_proj))
    places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # (1, seq)
    queries, keys = apply_rotary_pos_emb(queries, keys, *base.model.rotary_emb(hidden, places))
    keys = repeat_kv(keys, queries.shape[1] // keys.shape[1])  # (batch, kv_heads, seq, head_dim) -> (batch, heads, seq, head_dim)
    scores = queries.double() @ keys.double().transpose(2, 3) * inner.scaling  # -> (batch, heads, seq, seq)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)


@torch.no_grad()
def first_heads(model: PreTrainedModel | PrefixModel, input_ids: Tensor) -> Tensor:
    """What the heads of the first layer give, (batch, heads, seq, head_dim)."""
    base = model.get_base_model() if isinstance(model, PrefixModel) else model
    inner, seen = base.model.layers[0].self_attn, []
    handle = inner.o_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(input_ids)
    finally:
        handle.remove()
    return seen[0].view(*input_ids.shape, -1, inner.head_dim).transpose(1, 2)  # (batch, seq, hidden) -> (batch, heads, seq, head_dim)


def measured_share(base: PreTrainedModel, model: PrefixModel, input_ids: Tensor) -> Tensor:
    """The share of attention that went to a prefix of zeros, (batch, heads, seq), float64: 1 - |output| / |output without it|.

    Its values add nothing, so the output can only be shorter, in the same direction.
    """
    without, with_it = (first_heads(one, input_ids).double() for one in (base, model))
    return 1 - (with_it * without).sum(dim=-1) / without.square().sum(dim=-1)


@torch.no_grad()
def shares_by_head(model: PrefixModel, batch: Batch) -> Tensor:
    """Mean share of attention that goes to the prefix, over the real tokens of a batch: (layers, heads)."""
    base = model.get_base_model()
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")  # the others do not say where they looked
    try:
        given = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, model)
        weights = model(**given, output_attentions=True).attentions
    finally:
        base.set_attn_implementation(before)
    real = given["attention_mask"].bool()
    virtual = weights[0].shape[-1] - real.shape[1]
    shares = torch.stack([of_layer[..., :virtual].sum(dim=-1) for of_layer in weights])  # -> (layers, batch, heads, seq)
    return shares.transpose(2, 3)[:, real].mean(dim=1)  # -> (layers, batch, seq, heads) -> (layers, tokens, heads) -> (layers, heads)


@torch.no_grad()
def patterns(model: PreTrainedModel | PrefixModel, batch: Batch) -> Tensor:
    """How the attention over the text is shared out among its tokens, (layers, rows, heads, seq): each line sums to 1.

    What goes to a prefix is left out and the rest scaled up again. A row is a real token of the batch; a plain model, and one in which
    the prefix is all that differs from it, can be compared.
    """
    base = model.get_base_model() if isinstance(model, PrefixModel) else model
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    try:
        given = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, model)
        weights = torch.stack(model(**given, output_attentions=True).attentions)  # (layers, batch, heads, seq, virtual + seq)
    finally:
        base.set_attn_implementation(before)
    real = given["attention_mask"].bool()
    of_text = weights[..., -real.shape[1] :].double()
    of_text = of_text / of_text.sum(dim=-1, keepdim=True)
    return of_text.transpose(2, 3)[:, real]  # -> (layers, batch, seq, heads, seq) -> (layers, tokens, heads, seq)


def pattern_change(model: PreTrainedModel | PrefixModel, base: PreTrainedModel, batch: Batch) -> Tensor:
    """By how much the shares of the tokens of the text differ from those in the base, (layers,): the largest of each layer, 0 to 1."""
    return (patterns(model, batch) - patterns(base, batch)).abs().flatten(1).amax(dim=1)
