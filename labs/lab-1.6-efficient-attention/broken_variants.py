"""Each part of this lab with exactly one mistake: the controls of the gates, and what `checks.py` recognises in a learner's numbers.

Nothing here calls an exercise: with `mistake=None` everything is right and can be the oracle. It is written another way than the lesson,
head by head. At the end stands what knows nothing: the null systems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from key_value_cache import KeyValueCache
from onepiece.checks import check_mistake

GROUP_MISTAKES = (
    "tile",  # query head h reads head h % kv_heads: invisible with one head, one group or one head per group
    "first_only",  # all read head 0
    "reversed",  # the order of the heads is turned round
)
ATTENTION_MISTAKES = (
    *GROUP_MISTAKES[:2],
    "no_scale",  # scores not divided by sqrt(head_dim)
    "no_mask",  # the future is seen
    "softmax_over_queries",  # along the wrong axis
    "interleaved",  # group and query_len are taken out in the other order than they were put in
)
APPEND_MISTAKES = (
    "overwrites",  # always at the beginning
    "new_only",  # returns the new tokens alone
    "whole_capacity",  # returns empty places, too
    "values_are_keys",  # the keys are written twice
    "length_stays",  # `length` is not moved on
)
POOL_MISTAKES = (
    "first",  # the first head of each group
    "sum",  # not divided
    "strided",  # the mean over every kv_heads-th head: the groups of `tile`
    "rows",  # neighbouring rows are averaged, not heads
)


def kv_head_of(head: int, heads: int, kv_heads: int, mistake: str | None = None) -> int:
    """Which key/value head a query head reads, with one of GROUP_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, GROUP_MISTAKES)
    right = head // (heads // kv_heads)
    return {"tile": head % kv_heads, "first_only": 0, "reversed": kv_heads - 1 - right}.get(mistake or "", right)


def broken_expand(tensor: Tensor, heads: int, mistake: str | None) -> Tensor:
    """(batch, kv_heads, seq, head_dim) -> (batch, heads, seq, head_dim)."""
    return torch.stack([tensor[:, kv_head_of(head, heads, tensor.shape[1], mistake)] for head in range(heads)], dim=1)


def broken_attention(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float | None = None, *, mistake: str | None = None
) -> Tensor:
    """(batch, heads, query_len, value_dim), head by head, with one of ATTENTION_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ATTENTION_MISTAKES)
    heads, query_len = queries.shape[1:3]
    of_heads = mistake if mistake in GROUP_MISTAKES else None
    keys, values = broken_expand(keys, heads, of_heads), broken_expand(values, heads, of_heads)
    scale = (1.0 if mistake == "no_scale" else queries.shape[-1] ** -0.5) if scale is None else scale
    scores = torch.einsum("bhqd,bhkd->bhqk", queries, keys) * scale
    if mistake != "no_mask":
        scores = scores.masked_fill(~visible, -math.inf)
    weights = torch.softmax(scores, dim=2 if mistake == "softmax_over_queries" else 3)
    mixed = torch.einsum("bhqk,bhkd->bhqd", weights.nan_to_num(0.0), values)
    if mistake == "interleaved":  # (heads, query_len) read as (query_len, heads)
        mixed = mixed.flatten(1, 2).unflatten(1, (query_len, heads)).transpose(1, 2)
    return mixed


def attend_with(mistake: str | None) -> Callable[..., Tensor]:
    """`broken_attention` as a model takes it."""

    def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
        return broken_attention(queries, keys, values, visible, scale, mistake=mistake)

    return attend


def zero_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
    """The null system: no token learns anything of another one."""
    return torch.zeros(*queries.shape[:3], values.shape[-1], dtype=queries.dtype, device=queries.device)


def broken_append(pieces: Sequence[Tensor], capacity: int, mistake: str | None) -> list[tuple[Tensor, Tensor]]:
    """Keys and values that a cache returns after each piece (batch, kv_heads, new, head_dim); the values are the keys times -1.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, APPEND_MISTAKES)
    returned, written = [], torch.cat(list(pieces), dim=2)
    buffer = torch.zeros(*written.shape[:2], capacity, written.shape[-1], dtype=written.dtype)
    length = 0
    for piece in pieces:
        start = 0 if mistake in ("overwrites", "length_stays") else length
        buffer[:, :, start : start + piece.shape[2]] = piece
        length = start + piece.shape[2] if mistake == "length_stays" else length + piece.shape[2]
        shown = buffer if mistake == "whole_capacity" else buffer[:, :, :length]
        shown = (piece if mistake == "new_only" else shown).clone()
        returned.append((shown, shown if mistake == "values_are_keys" else -shown))
    return returned


class RestartingCache(KeyValueCache):
    """A cache that is right, in a model that counts positions from 0 in every step: it says that nothing came before."""

    @property
    def length(self) -> int:
        """Always 0, to those who ask where to go on counting."""
        return 0

    @length.setter
    def length(self, value: int) -> None:
        self._filled = value

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As it should be; positions are all 0, so that nothing is hidden."""
        end = self._filled + keys.shape[2]
        self.keys[:, :, self._filled : end], self.values[:, :, self._filled : end] = keys, values
        self._filled = end
        return self.keys[:, :, :end], self.values[:, :, :end], torch.zeros(end, dtype=torch.long, device=keys.device)


class ForgetfulCache(KeyValueCache):
    """The null system: every token stands alone."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nothing is kept; positions go on."""
        start, self.length = self.length, self.length + keys.shape[2]
        return keys, values, torch.arange(start, self.length, device=keys.device)


def broken_place(position: int, *, sinks: int, window: int, mistake: str | None) -> int:
    """Where a rolling cache puts a token: `no_sinks` goes round everywhere, `not_shifted` wraps by the position itself.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ("no_sinks", "not_shifted", "over_all"))
    if mistake == "no_sinks":
        return position % (sinks + window)
    if position < sinks:
        return position
    if mistake == "over_all":
        return sinks + (position - sinks) % (sinks + window)
    return sinks + (position if mistake == "not_shifted" else position - sinks) % window


def broken_pool(weight: Tensor, kv_heads: int, head_dim: int, mistake: str | None) -> Tensor:
    """(old_kv_heads * head_dim, width) -> (kv_heads * head_dim, width), with one of POOL_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, POOL_MISTAKES)
    old = weight.split(head_dim)
    group = len(old) // kv_heads
    if mistake == "rows":
        return torch.stack([rows.mean(dim=0) for rows in weight.split(group)])
    chosen = [old[place::kv_heads] if mistake == "strided" else old[place * group : (place + 1) * group] for place in range(kv_heads)]
    if mistake == "first":
        return torch.cat([heads[0] for heads in chosen])
    return torch.cat([sum(heads) / (1 if mistake == "sum" else group) for heads in chosen])
