"""Exact attention that never holds the score matrix: FlashAttention-2 in plain PyTorch.

Read from top to bottom: the naive version (the oracle), the online softmax, the forward loop, the backward loop, the
function a model calls. Papers: FlashAttention, arXiv 2205.14135; FlashAttention-2, arXiv 2307.08691.

Conventions
    queries     (batch, heads, query_len, head_dim)
    keys/values (batch, kv_heads, key_len, head_dim); kv_heads divides heads, and query head h reads kv head
                h // (heads // kv_heads), as in grouped-query attention (arXiv 2305.13245)
    causal      the last query is aligned with the last key ("bottom right"), as in flash-attn >= 2.1 and
                torch.nn.attention.bias.causal_lower_right. Trap: `is_causal=True` of PyTorch's
                scaled_dot_product_attention aligns the first with the first; both agree when the lengths are equal.
                A query that sees no key (query_len > key_len) has an output of zero and a logsumexp of -inf.
    dtype       the tiled version multiplies and sums float32, bfloat16 and float16 in float32, and float64 in float64
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiling import Tiling, Traffic, causal_mask, fold_group, unfold_group

# ---------------------------------------------------------------------------------------------- 1. naive attention


# Exercise 1, part a. The factor on the logits that keeps their variance at 1 when the entries of queries and keys are
# independent with variance 1 ("Attention Is All You Need", arXiv 1706.03762, section 3.2.1 and its footnote).
def default_scale(head_dim: int) -> float:
    """The softmax scale for heads of `head_dim` numbers."""
    # SOLUTION 1
    return 1.0 / math.sqrt(head_dim)
    # END SOLUTION


# Exercise 1, part b. Query i may see key j when j <= i + offset, and the last query sees up to the last key. Write the
# offset. Try it on 2 queries and 5 keys: query 1 must see key 4, query 0 must not.
def causal_offset(query_len: int, key_len: int) -> int:
    """How many tokens the diagonal is shifted to the right; negative when there are more queries than keys."""
    # SOLUTION 1
    return key_len - query_len
    # END SOLUTION


# Exercise 1, part c. Attention as it is defined: scores S = scale * Q K^T, weights P = softmax(S) along the keys,
# output O = P V. When causal, hide the future before the softmax with causal_mask(slice, slice, offset, device). Fill
# with torch.finfo(dtype).min, not -inf: a row of nothing but -inf is 0/0 in the softmax, and although its output is
# set to zero below, its nan would reach the gradient of the values, for nan * 0 is nan.
def naive_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """The oracle, in the dtype of its inputs: materialises S and P, each (batch, heads, query_len, key_len).

    Returns the shape of `queries`. Raises ValueError when shapes do not fit. Source: arXiv 2205.14135, algorithm 0.
    """
    group = check_shapes(queries, keys, values)
    scale = default_scale(queries.shape[-1]) if scale is None else scale
    offset = causal_offset(queries.shape[2], keys.shape[2]) if causal else 0
    keys = keys.repeat_interleave(group, dim=1)  # (batch, kv_heads, key_len, head_dim) -> (batch, heads, ...)
    values = values.repeat_interleave(group, dim=1)  # (batch, kv_heads, key_len, head_dim) -> (batch, heads, ...)
    # SOLUTION 1
    scores = (queries * scale) @ keys.transpose(-2, -1)  # -> (batch, heads, query_len, key_len)
    if causal:
        visible = causal_mask(slice(0, queries.shape[2]), slice(0, keys.shape[2]), offset, scores.device)
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    output = torch.softmax(scores, dim=-1) @ values  # -> (batch, heads, query_len, head_dim)
    # END SOLUTION
    if offset < 0:
        output[:, :, :-offset] = 0  # the first queries see no key
    return output


def check_shapes(queries: Tensor, keys: Tensor, values: Tensor) -> int:
    """How many query heads share one key/value head; ValueError says which shape does not fit."""
    if queries.dim() != 4 or keys.dim() != 4 or keys.shape != values.shape:
        cause = "queries, keys and values must be (batch, heads, seq, head_dim), keys and values of one shape"
    elif queries.shape[0] != keys.shape[0] or queries.shape[-1] != keys.shape[-1]:
        cause = "queries and keys must have the same batch and head_dim"
    elif 0 in queries.shape or 0 in keys.shape:
        cause = "attention needs at least one query and one key"
    elif queries.shape[1] % keys.shape[1]:
        cause = "the number of key/value heads must divide the number of query heads"
    else:
        return queries.shape[1] // keys.shape[1]
    raise ValueError(f"{cause}; got {tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(values.shape)}")


# ---------------------------------------------------------------------------------------------- 2. the online softmax


class SoftmaxState(NamedTuple):
    """What is known about the rows of one query block after some of their keys."""

    maximum: Tensor  # (..., rows, 1) m: the largest score so far, -inf before the first key
    total: Tensor  # (..., rows, 1) l: the sum of exp(score - maximum) so far
    output: Tensor  # (..., rows, head_dim) the sum of exp(score - maximum) * value so far, not yet divided by l


def empty_state(query_tile: Tensor) -> SoftmaxState:
    """The state of queries (..., rows, head_dim) that have seen no key yet."""
    zeros = torch.zeros_like(query_tile[..., :1])  # (..., rows, head_dim) -> (..., rows, 1)
    return SoftmaxState(zeros - math.inf, zeros, torch.zeros_like(query_tile))


# Exercise 2. The heart of the paper: take in one more block of keys (arXiv 2307.08691, algorithm 1, lines 9 and 10).
# 1. the new maximum, over the old one and this block;
# 2. the factor that makes the old sums, which are relative to the old maximum, relative to the new one;
# 3. the weights of this block, exp(score - new maximum);
# 4. the new total and the new output: old sum times factor, plus what this block adds.
def online_softmax_merge(state: SoftmaxState, scores: Tensor, values: Tensor) -> SoftmaxState:
    """Add a block of keys to a running softmax: scores (..., rows, columns), values (..., columns, head_dim).

    Exact: neither the order nor the size of the blocks changes the result beyond rounding.
    """
    # SOLUTION 2
    maximum = torch.maximum(state.maximum, scores.amax(dim=-1, keepdim=True))  # (..., rows, columns) -> (..., rows, 1)
    correction = torch.exp(state.maximum - maximum)
    weights = torch.exp(scores - maximum)
    total = correction * state.total + weights.sum(dim=-1, keepdim=True)  # (..., rows, columns) -> (..., rows, 1)
    output = correction * state.output + weights @ values  # -> (..., rows, head_dim)
    # END SOLUTION
    return SoftmaxState(maximum, total, output)


# Exercise 3, part a. After the last key: divide by the total once, here instead of in the loop (FlashAttention-2,
# section 3.1.1), and keep one number per row for the backward pass: L = log(sum over all keys of exp(score)).
def finish_softmax(state: SoftmaxState) -> tuple[Tensor, Tensor]:
    """The output (..., rows, head_dim) and the logsumexp (..., rows) of rows that have seen all their keys."""
    # SOLUTION 3
    output = state.output / state.total
    logsumexp = (state.maximum + torch.log(state.total)).squeeze(-1)  # (..., rows, 1) -> (..., rows)
    # END SOLUTION
    return output, logsumexp


# ---------------------------------------------------------------------------------------------- 3. forward


# Exercise 3, part b. In the loop: the scores of this tile, times `scale`; the hidden ones by tiling.hide_future; merge.
def tiled_forward(
    queries: Tensor, keys: Tensor, values: Tensor, tiling: Tiling, scale: float, traffic: Traffic
) -> tuple[Tensor, Tensor]:
    """The output, shaped like `queries`, and the logsumexp (batch, heads, query_len), at least float32.

    The outer loop over queries and the inner one over keys is what FlashAttention-2 changed: a block of the output
    stays in fast memory until it is finished. Source: arXiv 2307.08691, algorithm 1.
    """
    heads, kv_heads = queries.shape[1], keys.shape[1]
    dtype = torch.promote_types(queries.dtype, torch.float32)
    output = torch.zeros_like(queries)
    logsumexp = torch.full_like(queries[..., 0], -math.inf, dtype=dtype)  # -> (batch, heads, query_len)
    for query_block in tiling.all_query_blocks():
        query_tile = fold_group(traffic.load(queries[:, :, query_block]), kv_heads, dtype)
        state = empty_state(query_tile)
        for key_block in tiling.key_blocks(query_block):
            key_tile = traffic.load(keys[:, :, key_block]).to(dtype)  # (batch, kv_heads, columns, head_dim)
            value_tile = traffic.load(values[:, :, key_block]).to(dtype)  # (batch, kv_heads, columns, head_dim)
            # SOLUTION 3
            scores = scale * query_tile @ key_tile.transpose(-2, -1)  # -> (batch, kv_heads, group * rows, columns)
            scores = tiling.hide_future(scores, query_block, key_block)
            state = online_softmax_merge(state, scores, value_tile)
            # END SOLUTION
        output_tile, logsumexp_tile = finish_softmax(state)
        output[:, :, query_block] = traffic.store(unfold_group(output_tile, heads, queries.dtype))
        logsumexp[:, :, query_block] = traffic.store(unfold_group(logsumexp_tile, heads, dtype))
    return output, logsumexp


# ---------------------------------------------------------------------------------------------- 4. backward


# Exercise 5, part a. The softmax couples all keys of a row: dS_ij = P_ij (dP_ij - sum_k P_ik dP_ik). That sum runs over
# keys of other tiles, yet each row can have it before the first tile: show that it equals a dot product of two vectors
# of head_dim numbers, both at hand (arXiv 2205.14135, appendix B.2, equation 4: D).
def row_dots(grad_output: Tensor, output: Tensor) -> Tensor:
    """D, one number per row: (..., rows, head_dim) twice -> (..., rows)."""
    # SOLUTION 5
    return (grad_output * output).sum(dim=-1)  # (..., rows, head_dim) -> (..., rows)
    # END SOLUTION


class TileGradients(NamedTuple):
    """What one tile adds to the gradients of its queries, keys and values."""

    queries: Tensor  # (..., rows, head_dim)
    keys: Tensor  # (..., columns, head_dim)
    values: Tensor  # (..., columns, head_dim)


# Exercise 5, part b. No softmax statistics are needed again: the weights are P = exp(S - L), with L from the forward
# pass. Then dV, dP, dS, and from dS both dQ and dK (arXiv 2307.08691, algorithm 2, lines 11 to 16). The scores come in
# already scaled and masked: S = scale * Q K^T. Mind the scale on the way back.
def tile_gradients(
    queries: Tensor, keys: Tensor, values: Tensor, scores: Tensor,
    grad_output: Tensor, logsumexp: Tensor, dots: Tensor, scale: float,
) -> TileGradients:  # fmt: skip
    """Gradients of one tile: queries and grad_output (..., rows, head_dim), keys and values (..., columns, head_dim),
    scores S (..., rows, columns), logsumexp L and dots D (..., rows).
    """
    # SOLUTION 5
    weights = torch.exp(scores - logsumexp[..., None])  # (..., rows, columns), recomputed, never stored
    grad_values = weights.transpose(-2, -1) @ grad_output  # -> (..., columns, head_dim)
    grad_weights = grad_output @ values.transpose(-2, -1)  # -> (..., rows, columns)
    grad_scores = scale * weights * (grad_weights - dots[..., None])
    grad_queries = grad_scores @ keys  # -> (..., rows, head_dim)
    grad_keys = grad_scores.transpose(-2, -1) @ queries  # -> (..., columns, head_dim)
    # END SOLUTION
    return TileGradients(grad_queries, grad_keys, grad_values)


def tiled_row_dots(grad_output: Tensor, saved: tuple[Tensor, ...], tiling: Tiling, traffic: Traffic) -> Tensor:
    """D of every row, (batch, heads, query_len); one pass before the tiles (arXiv 2307.08691, algorithm 2, line 4)."""
    output, logsumexp = saved[3:]
    dots = torch.zeros_like(logsumexp)
    for block in tiling.all_query_blocks():
        tiles = (traffic.load(tensor[:, :, block]).to(dots.dtype) for tensor in (grad_output, output))
        dots[:, :, block] = traffic.store(row_dots(*tiles))
    return dots


def tiled_backward(
    grad_output: Tensor, saved: tuple[Tensor, ...], tiling: Tiling, scale: float, traffic: Traffic
) -> TileGradients:
    """Gradients shaped like queries, keys and values; `saved` is (queries, keys, values, output, logsumexp).

    Outer loop over key blocks: their dK and dV stay in fast memory, while dQ, in the dtype of the logsumexp, makes a
    round trip for every tile. Source: arXiv 2307.08691, algorithm 2.
    """
    queries, keys, values, _, logsumexp = saved
    heads, kv_heads, dtype = queries.shape[1], keys.shape[1], logsumexp.dtype
    dots = tiled_row_dots(grad_output, saved, tiling, traffic)
    grad_queries = torch.zeros_like(queries, dtype=dtype)
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    for key_block in tiling.all_key_blocks():
        key_tile, value_tile = (traffic.load(tensor[:, :, key_block]).to(dtype) for tensor in (keys, values))
        key_sum, value_sum = torch.zeros_like(key_tile), torch.zeros_like(value_tile)
        for block in tiling.query_blocks(key_block):
            loaded = [traffic.load(tensor[:, :, block]) for tensor in (queries, grad_output, logsumexp, dots)]
            query_tile, *row_tiles = (fold_group(tile, kv_heads, dtype) for tile in loaded)
            scores = scale * query_tile @ key_tile.transpose(-2, -1)  # -> (batch, kv_heads, group * rows, columns)
            scores = tiling.hide_future(scores, block, key_block)
            grads = tile_gradients(query_tile, key_tile, value_tile, scores, *row_tiles, scale)
            key_sum += grads.keys
            value_sum += grads.values
            query_sum = traffic.load(grad_queries[:, :, block]) + unfold_group(grads.queries, heads, dtype)
            grad_queries[:, :, block] = traffic.store(query_sum)
        grad_keys[:, :, key_block] = traffic.store(key_sum)
        grad_values[:, :, key_block] = traffic.store(value_sum)
    return TileGradients(grad_queries.to(queries.dtype), grad_keys, grad_values)


# ---------------------------------------------------------------------------------------------- 5. for a model


class FlashAttention(torch.autograd.Function):
    """Saves O(N * head_dim) for the backward pass: autograd through the loops would save every tile, O(N * N)."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, tiling: Tiling, scale: float
    ) -> Tensor:
        output, logsumexp = tiled_forward(queries, keys, values, tiling, scale, Traffic())
        ctx.save_for_backward(queries, keys, values, output, logsumexp)
        ctx.tiling, ctx.scale = tiling, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grads = tiled_backward(grad_output, ctx.saved_tensors, ctx.tiling, ctx.scale, Traffic())
        return *grads, None, None


def flash_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, scale: float | None = None,
    block_queries: int = 64, block_keys: int = 64,
) -> Tensor:  # fmt: skip
    """Exact attention in O(query_len * head_dim) memory, differentiable once; same result as `naive_attention`.

    Returns the shape and dtype of `queries`; block sizes in tokens. Raises ValueError when shapes do not fit.
    """
    check_shapes(queries, keys, values)
    tiling = plan_tiles(queries, keys, causal, block_queries, block_keys)
    scale = default_scale(queries.shape[-1]) if scale is None else scale
    return FlashAttention.apply(queries, keys, values, tiling, scale)


def plan_tiles(queries: Tensor, keys: Tensor, causal: bool, block_queries: int = 64, block_keys: int = 64) -> Tiling:
    """The tiles of queries (batch, heads, query_len, head_dim) and keys (batch, kv_heads, key_len, head_dim)."""
    query_len, key_len = queries.shape[2], keys.shape[2]
    offset = causal_offset(query_len, key_len) if causal else None
    return Tiling(query_len, key_len, offset, block_queries, block_keys)
