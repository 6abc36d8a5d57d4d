"""Prefix tuning with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
number by number, with loops.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onepiece.adaptation.prefix_cache import CacheShape
from onepiece.checks import check_mistake
from prefix_tuning import DirectPrefix, EncodedPrefix, PrefixSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from onepiece.data import Batch

COUNT_MISTAKES = (
    "keys_only",  # the values are forgotten
    "one_layer",  # as if a prefix stood before the first layer only
    "no_biases",  # the two linear layers of the encoder without theirs
    "encoder_stored",  # the encoder is counted in the file
    "encoder_beside",  # the rows are counted as trained beside the encoder
)
ENTRY_MISTAKES = (
    "kinds_first",  # the row is read as the keys of all layers, then the values of all layers
    "values_first",  # values where the keys are
    "dims_first",  # head_dim outside, heads inside
    "not_moved",  # the shape is right, the numbers are in the order of the row
)
ENCODER_MISTAKES = ("no_tanh", "table_left_out")
SHARE_MISTAKES = (
    "length",  # every score counts the same: virtual / (virtual + seq)
    "mean",  # mean exponentials instead of sums
    "odds",  # prefix : text instead of prefix : all
    "of_text",  # the other share
    "largest",  # the largest score of each side instead of all
)
LENGTH_MISTAKES = ("sharing_ignored", "always_shared", "room_for_one", "texts_ignored")


def broken_count(shape: CacheShape, settings: PrefixSettings, mistake: str | None) -> tuple[int, int]:
    """(stored, trained) with one of COUNT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, COUNT_MISTAKES)
    row = (1 if mistake == "keys_only" else 2) * (1 if mistake == "one_layer" else shape.layers) * shape.kv_heads * shape.head_dim
    stored = sum(row for _ in range(settings.virtual_tokens))
    if not settings.encoder:
        return stored, stored
    width, one = shape.kv_heads * shape.head_dim, 0 if mistake == "no_biases" else 1
    trained = settings.virtual_tokens * width + width * settings.encoder + one * settings.encoder + settings.encoder * row + one * row
    if mistake == "encoder_stored":
        return trained, trained
    return stored, trained + (stored if mistake == "encoder_beside" else 0)


def hidden_size_count(config: PretrainedConfig, virtual_tokens: int) -> int:
    """The stored numbers of someone who takes the hidden size for the width of the keys: right only where no heads share them."""
    return 2 * config.num_hidden_layers * config.hidden_size * virtual_tokens


def broken_entries(rows: Tensor, shape: CacheShape, mistake: str | None) -> Tensor:
    """(layers, 2, kv_heads, virtual, head_dim) with one of ENTRY_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ENTRY_MISTAKES)
    layers, heads, dims = shape.layers, shape.kv_heads, shape.head_dim
    if mistake == "not_moved":
        return rows.reshape(layers, 2, heads, len(rows), dims)
    entries = rows.new_empty(layers, 2, heads, len(rows), dims)
    for layer in range(layers):
        for kind in range(2):
            for head in range(heads):
                for dim in range(dims):
                    block = kind * layers + layer if mistake == "kinds_first" else 2 * layer + kind
                    if mistake == "values_first":
                        block = 2 * layer + 1 - kind
                    inside = dim * heads + head if mistake == "dims_first" else head * dims + dim
                    entries[layer, kind, head, :, dim] = rows[:, block * heads * dims + inside]
    return entries


def broken_rows(prefix: EncodedPrefix, mistake: str | None) -> Tensor:
    """(virtual, numbers) out of an encoder, with one of ENCODER_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ENCODER_MISTAKES)
    inner, _, outer = prefix.transform
    table = torch.zeros_like(prefix.embedding.weight) if mistake == "table_left_out" else prefix.embedding.weight
    hidden = table @ inner.weight.T + inner.bias
    return (hidden if mistake == "no_tanh" else 2 * torch.sigmoid(2 * hidden) - 1) @ outer.weight.T + outer.bias


def broken_share(text_scores: Tensor, prefix_scores: Tensor, mistake: str | None) -> Tensor:
    """The prefix's share of attention with one of SHARE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, SHARE_MISTAKES)
    top = torch.maximum(text_scores.amax(dim=-1), prefix_scores.amax(dim=-1))[..., None]
    text, prefix = (text_scores - top).exp(), (prefix_scores - top).exp()
    if mistake == "length":
        text, prefix = (text_scores > -math.inf).double(), torch.ones_like(prefix_scores)
    of_text, of_prefix = text.sum(dim=-1), prefix.sum(dim=-1)
    if mistake == "mean":
        of_text, of_prefix = text.mean(dim=-1), prefix.mean(dim=-1)
    if mistake == "largest":
        of_text, of_prefix = text.amax(dim=-1), prefix.amax(dim=-1)
    if mistake == "odds":
        return of_prefix / of_text
    return (of_text if mistake == "of_text" else of_prefix) / (of_text + of_prefix)


def broken_length(shape: CacheShape, *, room: int, requests: int, tokens: int, number_bytes: int, shared: bool, mistake: str | None) -> int:
    """Virtual tokens that fit, with one of LENGTH_MISTAKES or None: counted up, one after the other.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, LENGTH_MISTAKES)
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * number_bytes
    once = {"sharing_ignored": False, "always_shared": True}.get(mistake or "", shared)
    texts = {"room_for_one": tokens, "texts_ignored": 0}.get(mistake or "", requests * tokens)
    virtual = 0
    while (texts + (virtual + 1) * (1 if once else requests)) * per_token <= room:
        virtual += 1
    return virtual


# ---------------------------------------------------------------------------------------------- whole models


class ValuesFirst(DirectPrefix):
    """Values where the keys are looked for: every shape is right."""

    def forward(self) -> Tensor:
        """(layers, 2, kv_heads, virtual, head_dim)"""
        return broken_entries(self.rows, self.shape, None).flip(1)


def from_position_zero(batch: Batch, virtual_tokens: int) -> Batch:
    """The batch of someone who lets the text begin at position 0, where the prefix already is: as `PrefixModel` counts, below zero."""
    places = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return batch | {"position_ids": places - virtual_tokens}


def another_encoder(prefix: EncodedPrefix, *, seed: int) -> EncodedPrefix:
    """The trained table with a network that was not trained: what one has who saved the table and threw the network away."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = EncodedPrefix(PrefixSettings(prefix.embedding.num_embeddings, prefix.transform[0].out_features), prefix.shape)
    other.embedding.weight = nn.Parameter(prefix.embedding.weight.detach().clone())
    return other.to(prefix.embedding.weight.device)
