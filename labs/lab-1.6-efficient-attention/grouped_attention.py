"""Attention whose keys and values have fewer heads than its queries: one code path for MHA, GQA and MQA.

Read from top to bottom: which query head reads which key/value head, attention by copying heads, attention without a copy, the module.
Papers: multi-query attention, arXiv 1911.02150; grouped-query attention (GQA), arXiv 2305.13245.

    queries      (batch, heads, query_len, head_dim)
    keys/values  (batch, kv_heads, key_len, head_dim)       kv_heads == heads: MHA;  1 < kv_heads < heads: GQA;  kv_heads == 1: MQA
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from key_value_cache import KeyValueCache

# ---------------------------------------------------------------------------------------------- 1. which head reads which


@dataclass(frozen=True)
class HeadLayout:
    """How many heads there are, and how wide.

    Raises:
        ValueError: `kv_heads` does not divide `heads`, or a size is not positive.
    """

    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads: each is read by a group of `heads // kv_heads` query heads."""
    head_dim: int
    """Numbers per head; even, because rotary positions turn pairs."""

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1:
            msg = f"heads, kv_heads and head_dim must be positive; got {self.heads}, {self.kv_heads} and {self.head_dim}"
            raise ValueError(msg)
        if self.heads % self.kv_heads or self.head_dim % 2:
            msg = f"kv_heads must divide heads, and head_dim be even; got {self.heads} heads, {self.kv_heads} and {self.head_dim}"
            raise ValueError(msg)


# Exercise 1. Query head h reads key/value head h // group, where group = heads // kv_heads: neighbours share. Repeat each key/value
# head so often that there is one for every query head, in that order.
def expand_heads(tensor: Tensor, heads: int) -> Tensor:
    """(batch, kv_heads, seq, head_dim) -> (batch, heads, seq, head_dim)."""
    # SOLUTION 1
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. two ways to attend

Attend = Callable[..., Tensor]
"""(queries, keys, values, visible, scale=None) -> (batch, heads, query_len, value_dim)."""


def expanded_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
    """The naive way: copy keys and values until every query head has its own, then do as if there were no groups.

    Args:
        visible: bool (query_len, key_len) or (batch, 1, query_len, key_len), True where the query may see the key.
        scale: of the scores; None is 1 / sqrt(head_dim).
    """
    keys, values = expand_heads(keys, queries.shape[1]), expand_heads(values, queries.shape[1])  # kv_heads -> heads
    scale = 1 / math.sqrt(queries.shape[-1]) if scale is None else scale
    scores = (queries * scale) @ keys.mT  # -> (batch, heads, query_len, key_len)
    return torch.softmax(scores.masked_fill(~visible, -math.inf), dim=-1) @ values


# Exercise 2. The same without a copy. All query heads of a group read the same keys, so to those keys they are nothing but more
# queries: put the group into the query axis, multiply once, and take it out again.
#   (batch, heads, query_len, head_dim) -> (batch, kv_heads, group, query_len, head_dim) -> (batch, kv_heads, group * query_len, head_dim)
# The mask is for one head: give it an axis for the group (`visible.unsqueeze(-3)`) while the scores have that axis.
def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
    """`expanded_attention`, without expanding anything; the values may be narrower or wider than the keys."""
    kv_heads, query_len = keys.shape[1], queries.shape[2]
    scale = 1 / math.sqrt(queries.shape[-1]) if scale is None else scale
    # SOLUTION 2
    folded = (queries * scale).unflatten(1, (kv_heads, -1)).flatten(2, 3)  # -> (batch, kv_heads, group * query_len, head_dim)
    scores = (folded @ keys.mT).unflatten(2, (-1, query_len))  # -> (batch, kv_heads, group, query_len, key_len)
    weights = torch.softmax(scores.masked_fill(~visible.unsqueeze(-3), -math.inf), dim=-1)
    mixed = weights.flatten(2, 3) @ values  # -> (batch, kv_heads, group * query_len, value_dim)
    return mixed.unflatten(2, (-1, query_len)).flatten(1, 2)  # -> (batch, heads, query_len, value_dim)
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. positions


def rotate(vectors: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions in the layout of Hugging Face's Llama: pair p is (p, p + head_dim / 2).

    (batch, heads, seq, head_dim) in and out; `positions` is (seq,) or (batch, seq). Source: arXiv 2104.09864.
    """
    half = vectors.shape[-1] // 2
    speeds = base ** (-torch.arange(half, device=vectors.device, dtype=torch.float32) / half)
    angles = (positions.float().unsqueeze(-1) * speeds).unsqueeze(-3)  # (..., seq) -> (..., 1, seq, half)
    cosines, sines = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors.split(half, dim=-1)  # -> 2 x (batch, heads, seq, half)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def causal(query_positions: Tensor, key_positions: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """Bool (query_len, key_len): which keys a query may see.

    Args:
        query_positions, key_positions: (query_len,) and (key_len,).
        window: a query sees itself and the `window - 1` tokens before it; None is everything before it.
        sinks: the first tokens of the text, which it sees in any case.
    """
    distance = query_positions[:, None] - key_positions[None, :]  # -> (query_len, key_len)
    past = distance >= 0
    return past if window is None else past & ((distance < window) | (key_positions < sinks))


# ---------------------------------------------------------------------------------------------- 4. the module


class GroupedQueryAttention(nn.Module):
    """Projections, positions, cache and attention: (batch, seq, width) in and out. Parameter names are those of Hugging Face's Llama."""

    def __init__(self, width: int, layout: HeadLayout) -> None:
        super().__init__()
        self.layout = layout
        self.attend: Attend = grouped_attention
        """Can be exchanged: for `expanded_attention`, or for something broken."""
        queries_width, keys_width = layout.heads * layout.head_dim, layout.kv_heads * layout.head_dim
        self.q_proj = nn.Linear(width, queries_width, bias=False)
        self.k_proj = nn.Linear(width, keys_width, bias=False)
        self.v_proj = nn.Linear(width, keys_width, bias=False)
        self.o_proj = nn.Linear(queries_width, width, bias=False)

    def forward(self, hidden: Tensor, positions: Tensor, visible: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Args:
        positions: (seq,) or (batch, seq), of these tokens.
        visible: as `grouped_attention` takes it; None is causal.
        cache: has the keys and values of earlier tokens, and gets those of these.
        """
        split = (-1, self.layout.head_dim)
        # (batch, seq, heads * head_dim) -> (batch, seq, heads, head_dim) -> (batch, heads, seq, head_dim)
        queries = rotate(self.q_proj(hidden).unflatten(-1, split).transpose(1, 2), positions)
        keys = rotate(self.k_proj(hidden).unflatten(-1, split).transpose(1, 2), positions)  # kv_heads for heads
        values = self.v_proj(hidden).unflatten(-1, split).transpose(1, 2)
        key_positions = positions
        if cache is not None:
            keys, values, key_positions = cache.append(keys, values)
        if visible is None:
            visible = causal(positions, key_positions)
        mixed = self.attend(queries, keys, values, visible)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # (batch, heads, seq, head_dim) -> (batch, seq, width)
