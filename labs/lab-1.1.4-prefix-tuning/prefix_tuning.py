"""Prefix tuning: a frozen model, and trained keys and values that stand in its cache before any text does, written from the paper.

Read from top to bottom: the settings, the count, rows and entries, the two ways to train them, a start from real text, into a model,
and what it costs. Paper: Li and Liang 2021, https://arxiv.org/abs/2101.00190. How much attention a prefix takes is in
`attention_share.py`.

What is no part of the idea (a cache for each batch, mask, positions, generating, several prefixes in a batch) is in
`onepiece.adaptation.prefix_cache`.

Conventions
    row      what is trained and stored of one virtual token: its keys and values of all layers, one after the other
    entries  the same numbers where attention looks for them, (layers, 2, kv_heads, virtual, head_dim)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel, from_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# ---------------------------------------------------------------------------------------------- 1. settings


@dataclass(frozen=True)
class PrefixSettings:
    """What has to be chosen before a prefix can be trained.

    Raises:
        ValueError: there is no virtual token, or the encoder has a negative width.
    """

    virtual_tokens: int
    """Entries that are in the cache before the text."""
    encoder: int = 0
    """Hidden width of the MLP that the rows come out of while they are trained; 0: the rows are trained themselves."""

    def __post_init__(self) -> None:
        if self.virtual_tokens < 1:
            msg = f"a prefix needs at least 1 virtual token, not {self.virtual_tokens}"
            raise ValueError(msg)
        if self.encoder < 0:
            msg = f"encoder is the width of a hidden layer, or 0 for none, not {self.encoder}"
            raise ValueError(msg)


# ---------------------------------------------------------------------------------------------- 2. how many numbers


# Exercise 1. How many numbers are stored, and how many are trained? A row has the keys and the values of one virtual token in
# every layer: `shape.width` is what its keys take in one layer (not the hidden size: heads may share their keys). With an
# encoder more is trained than is stored: a table of (virtual_tokens, width), a linear layer from there to the hidden width,
# and one from the hidden width to a whole row; both have biases.
def prefix_parameter_count(shape: CacheShape, settings: PrefixSettings) -> tuple[int, int]:
    """(stored, trained): numbers that a file holds, and numbers that an optimizer moves."""
    # SOLUTION 1
    row = 2 * shape.layers * shape.width
    stored = settings.virtual_tokens * row
    if settings.encoder == 0:
        return stored, stored
    table = settings.virtual_tokens * shape.width
    inner, outer = (shape.width + 1) * settings.encoder, (settings.encoder + 1) * row
    return stored, table + inner + outer
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. rows and entries


# Exercise 2. Where in a row is which number? peft's files have them in this order: layer by layer, in a layer first the keys and
# then the values, in these head by head. Attention wants the heads in front of the virtual tokens.
def rows_to_entries(rows: Tensor, shape: CacheShape) -> Tensor:
    """(virtual, numbers of a token) -> (layers, 2, kv_heads, virtual, head_dim)."""
    # SOLUTION 2
    split = rows.view(len(rows), shape.layers, 2, shape.kv_heads, shape.head_dim)  # (virtual, layers, 2, kv_heads, head_dim)
    return split.permute(1, 2, 3, 0, 4)  # -> (layers, 2, kv_heads, virtual, head_dim)
    # END SOLUTION


def entries_to_rows(entries: Tensor) -> Tensor:
    """(layers, 2, kv_heads, virtual, head_dim) -> (virtual, numbers of a token): the way back."""
    return entries.permute(3, 0, 1, 2, 4).flatten(1)  # -> (virtual, layers, 2, kv_heads, head_dim) -> (virtual, numbers)


# ---------------------------------------------------------------------------------------------- 4. two ways to train them


class DirectPrefix(nn.Module):
    """The rows themselves: what is stored, and what is trained without an encoder."""

    def __init__(self, rows: Tensor, shape: CacheShape) -> None:
        super().__init__()
        self.rows, self.shape = nn.Parameter(rows), shape

    def forward(self) -> Tensor:
        """(layers, 2, kv_heads, virtual, head_dim)"""
        return rows_to_entries(self.rows, self.shape)


class EncodedPrefix(nn.Module):
    """Rows that come out of a small network, whose weights they all share (as in the paper; names as in peft)."""

    def __init__(self, settings: PrefixSettings, shape: CacheShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(settings.virtual_tokens, shape.width)
        inner, outer = nn.Linear(shape.width, settings.encoder), nn.Linear(settings.encoder, shape.numbers)
        self.transform = nn.Sequential(inner, nn.Tanh(), outer)

    # Exercise 3. The rows are what the network makes of its table. When training is over, they are all that is needed: `exported`
    # gives a prefix without a network, whose numbers share no memory with anything that is trained.
    @property
    def rows(self) -> Tensor:
        """(virtual, numbers of a token)"""
        # SOLUTION 3
        return self.transform(self.embedding.weight)  # (virtual, width) -> (virtual, encoder) -> (virtual, numbers)
        # END SOLUTION

    def forward(self) -> Tensor:
        """(layers, 2, kv_heads, virtual, head_dim)"""
        return rows_to_entries(self.rows, self.shape)


def exported(prefix: DirectPrefix | EncodedPrefix) -> DirectPrefix:
    """The same prefix as rows alone: what is written into a file, and what a server holds."""
    # SOLUTION 3
    return DirectPrefix(prefix.rows.detach().clone(), prefix.shape)
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 5. start from real text


# Exercise 4. What does the model itself write into its cache when it reads a text? Let it read, with `use_cache=True` and without
# gradients, and take what is in `past_key_values` of its answer: `from_cache` gives the entries of one row. Then bring them into rows.
def rows_of_text(base: PreTrainedModel, token_ids: Sequence[int]) -> Tensor:
    """The rows of a prefix that is a text, (tokens, numbers of a token), float32.

    Raises:
        ValueError: the text has no token.
    """
    if not token_ids:
        msg = "a prefix cannot start from an empty text"
        raise ValueError(msg)
    # SOLUTION 4
    with torch.no_grad():
        read = base(torch.tensor([list(token_ids)], device=base.device), use_cache=True)
    return entries_to_rows(from_cache(read.past_key_values)).float()
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 6. into a model


def fresh_prefix(shape: CacheShape, settings: PrefixSettings, *, seed: int) -> DirectPrefix | EncodedPrefix:
    """A prefix before the first step, random as peft's: a standard normal distribution, and the usual start of linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.encoder:
            return EncodedPrefix(settings, shape)
        return DirectPrefix(torch.randn(settings.virtual_tokens, shape.numbers), shape)


def add_prefix(base: PreTrainedModel, settings: PrefixSettings, *, seed: int = 0, token_ids: Sequence[int] = ()) -> PrefixModel:
    """Freeze a model and put a prefix into its cache; only the prefix is trained afterwards.

    Args:
        seed: of a random start; it gives the same numbers on every device.
        token_ids: a text to start from instead; as many tokens as the prefix has.

    Raises:
        ValueError: the prefix leaves the text no room in the model's context, or the text to start from does not fit the settings.
    """
    context = base.config.max_position_embeddings
    if settings.virtual_tokens >= context:
        msg = f"a prefix of {settings.virtual_tokens} leaves no room for text: the model has {context} positions"
        raise ValueError(msg)
    shape = CacheShape.of(base.config)
    if not token_ids:
        return PrefixModel(base, fresh_prefix(shape, settings, seed=seed))
    if settings.encoder or len(token_ids) != settings.virtual_tokens:
        msg = f"a text of {len(token_ids)} tokens is no start for {settings}: it takes as many virtual tokens, and no encoder"
        raise ValueError(msg)
    return PrefixModel(base, DirectPrefix(rows_of_text(base, token_ids), shape))


# ---------------------------------------------------------------------------------------------- 7. what it costs


# Exercise 6, a design. How long may a prefix be on a server? `room` bytes are free for the cache, `requests` texts of up to `tokens`
# tokens are there at once, and a number takes `number_bytes`. A plain server keeps the prefix once for every request; a server that
# shares prefixes keeps it once. Find the longest prefix with which everything fits. There may be none: 0.
def longest_prefix(shape: CacheShape, *, room: int, requests: int, tokens: int, number_bytes: int, shared: bool) -> int:
    """Virtual tokens.

    Raises:
        ValueError: the texts alone do not fit.
    """
    per_token = shape.numbers * number_bytes
    if requests * tokens * per_token > room:
        msg = f"{requests} texts of {tokens} tokens take {requests * tokens * per_token:,} bytes, and there are {room:,}"
        raise ValueError(msg)
    # SOLUTION 6
    free = room - requests * tokens * per_token
    return free // (per_token * (1 if shared else requests))
    # END SOLUTION
