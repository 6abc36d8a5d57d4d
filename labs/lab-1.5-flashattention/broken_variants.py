"""Attention with exactly one mistake: what each line of the real algorithm is there for.

These are the negative controls of the lab, and what `checks.py` recognises in a learner's numbers. The module imports
none of the lesson's modules, so that it says the same whatever they contain. With `mistake=None` everything here is
right, which the tests hold: a control that failed for another reason than its mistake would prove nothing.
At the end stands what knows nothing at all: `zero_attention`, the null system, which every gate on exactness and on
learning must tell from attention. Shapes as in `flash_attention.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from onepiece.checks import check_mistake

FORWARD_MISTAKES = (
    "no_rescale",  # the old sums are not multiplied by exp(old maximum - new maximum)
    "output_not_rescaled",  # the total is, the output is not
    "no_maximum",  # exp of the bare score: the same softmax on paper, inf / inf once a score passes 88 in float32
    "sum_before_maximum",  # the block's terms of the total are taken relative to the maximum before this block
    "no_division",  # the output is not divided by the total
    "causal_top_left",  # the first query is aligned with the first key instead of the last with the last
    "causal_off_by_one",  # each query also sees the next key: a language model that looks up its answer
    "no_scale",  # scores not divided by sqrt(head_dim)
    "scale_by_head_dim",  # scores divided by head_dim
)
GRADIENT_MISTAKES = (
    "no_rescale",  # the forward pass forgot it: the backward pass gets its output and its logsumexp
    "no_row_dots",  # dS = P * dP, without D: as if each weight were free, although they sum to one
    "no_scale",  # dQ and dK without the factor on the scores
)


class State(NamedTuple):
    """Running softmax of one query block: maximum and total (..., rows, 1), output (..., rows, head_dim)."""

    maximum: Tensor
    total: Tensor
    output: Tensor


def merge(state: State, scores: Tensor, values: Tensor) -> State:
    """Without a mistake: scores (..., rows, columns), values (..., columns, head_dim)."""
    maximum = torch.maximum(state.maximum, scores.amax(-1, keepdim=True))  # (..., rows, columns) -> (..., rows, 1)
    correction, weights = torch.exp(state.maximum - maximum), torch.exp(scores - maximum)
    total = correction * state.total + weights.sum(-1, keepdim=True)
    return State(maximum, total, correction * state.output + weights @ values)


def merge_without_rescale(state: State, scores: Tensor, values: Tensor) -> State:
    """Sums relative to different maxima are added up as if they were of one kind."""
    maximum = torch.maximum(state.maximum, scores.amax(-1, keepdim=True))  # (..., rows, columns) -> (..., rows, 1)
    weights = torch.exp(scores - maximum)
    return State(maximum, state.total + weights.sum(-1, keepdim=True), state.output + weights @ values)


def merge_without_rescale_of_output(state: State, scores: Tensor, values: Tensor) -> State:
    """Total and output are no longer sums over the same weights."""
    right = merge(state, scores, values)
    return right._replace(output=state.output + torch.exp(scores - right.maximum) @ values)


def merge_without_maximum(state: State, scores: Tensor, values: Tensor) -> State:
    """There is nothing to rescale, and nothing that keeps exp from overflowing."""
    weights = torch.exp(scores)
    return State(state.maximum, state.total + weights.sum(-1, keepdim=True), state.output + weights @ values)


def merge_sum_before_maximum(state: State, scores: Tensor, values: Tensor) -> State:
    """The total is one step behind: its new terms are relative to the old maximum, its old ones to the new."""
    right = merge(state, scores, values)
    old_maximum = torch.where(state.maximum.isinf(), right.maximum, state.maximum)
    stale = torch.exp(scores - old_maximum).sum(-1, keepdim=True)  # (..., rows, columns) -> (..., rows, 1)
    return right._replace(total=torch.exp(state.maximum - right.maximum) * state.total + stale)


MERGES: dict[str | None, Callable[[State, Tensor, Tensor], State]] = {
    "no_rescale": merge_without_rescale,
    "output_not_rescaled": merge_without_rescale_of_output,
    "no_maximum": merge_without_maximum,
    "sum_before_maximum": merge_sum_before_maximum,
}


def scores_of(queries: Tensor, keys: Tensor, causal: bool, scale: float | None, mistake: str | None) -> Tensor:
    """The masked score matrix (batch, heads, query_len, key_len), whole, so that only its summation is in tiles."""
    (query_len, head_dim), key_len = queries.shape[2:], keys.shape[2]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    scale = {"no_scale": 1.0, "scale_by_head_dim": 1 / head_dim}.get(mistake or "", scale)
    scores = scale * queries @ repeat_heads(keys, queries).transpose(-2, -1)
    if not causal:
        return scores
    right = key_len - query_len
    offset = {"causal_top_left": 0, "causal_off_by_one": right + 1}.get(mistake or "", right)
    rows, columns = torch.arange(query_len, device=scores.device), torch.arange(key_len, device=scores.device)
    return scores.masked_fill(columns > rows[:, None] + offset, -math.inf)


def repeat_heads(keys: Tensor, queries: Tensor) -> Tensor:
    """(batch, kv_heads, key_len, head_dim) -> (batch, heads, key_len, head_dim)."""
    return keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)


def broken_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mistake: str | None, *,
    causal: bool = False, scale: float | None = None, block_keys: int = 64,
) -> Tensor:  # fmt: skip
    """Tiled attention with one of FORWARD_MISTAKES, or right with None; the shape of `queries`.

    Raises ValueError for a mistake it does not know. A query that sees no key gives zero.
    """
    check_mistake(mistake, FORWARD_MISTAKES)
    scores, values = scores_of(queries, keys, causal, scale, mistake), repeat_heads(values, queries)
    blind = scores.isneginf().all(-1, keepdim=True)  # (batch, heads, query_len, key_len) -> (..., query_len, 1)
    state = state_after(scores.masked_fill(blind, 0.0), values, mistake, block_keys)
    output = state.output if mistake == "no_division" else state.output / state.total
    return output.masked_fill(blind, 0.0)


def state_after(scores: Tensor, values: Tensor, mistake: str | None, block_keys: int) -> State:
    """The softmax state of all rows after all keys: scores (..., rows, columns), values (..., columns, head_dim)."""
    column = torch.zeros_like(scores[..., :1])  # (..., rows, columns) -> (..., rows, 1)
    state = State(column - math.inf, column, column * torch.zeros_like(values[..., :1, :]))  # -> (..., rows, head_dim)
    for start in range(0, scores.shape[-1], block_keys):
        block = slice(start, start + block_keys)
        state = MERGES.get(mistake, merge)(state, scores[..., block], values[..., block, :])
    return state


def broken_gradients(
    queries: Tensor, keys: Tensor, values: Tensor, grad_output: Tensor, mistake: str | None, *,
    causal: bool = False, scale: float | None = None, block_keys: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dQ, dK and dV by the matrix formulas of arXiv 2205.14135, appendix B.2, with one of GRADIENT_MISTAKES or None.

    Every query must see a key. Raises ValueError for a mistake it does not know.
    """
    check_mistake(mistake, GRADIENT_MISTAKES)
    scale = 1 / math.sqrt(queries.shape[-1]) if scale is None else scale
    scores, all_values = scores_of(queries, keys, causal, scale, None), repeat_heads(values, queries)
    weights = torch.softmax(scores, dim=-1)
    grad_weights = grad_output @ all_values.transpose(-2, -1)  # -> (batch, heads, query_len, key_len)
    row_dots = (weights * grad_weights).sum(-1, keepdim=True)  # -> (batch, heads, query_len, 1)
    if mistake == "no_rescale":
        state = state_after(scores, all_values, mistake, block_keys)
        weights = torch.exp(scores - state.maximum - torch.log(state.total))
        row_dots = (grad_output * state.output / state.total).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - (0.0 if mistake == "no_row_dots" else row_dots))
    grad_scores = grad_scores * (1.0 if mistake == "no_scale" else scale)
    grad_queries = grad_scores @ repeat_heads(keys, queries)  # -> (batch, heads, query_len, head_dim)
    grad_keys = grad_scores.transpose(-2, -1) @ queries  # -> (batch, heads, key_len, head_dim)
    grad_values = weights.transpose(-2, -1) @ grad_output  # -> (batch, heads, key_len, head_dim)
    groups = (keys.shape[1], queries.shape[1] // keys.shape[1])
    # (batch, heads, key_len, head_dim) -> (batch, kv_heads, group, key_len, head_dim) -> (batch, kv_heads, ...)
    grad_keys, grad_values = (grad.unflatten(1, groups).sum(2) for grad in (grad_keys, grad_values))
    return grad_queries, grad_keys, grad_values


def last_block_attention(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, block: int) -> Tensor:
    """A causal tiled loop that does not hand its state on: each query sees only the last block that it reaches, its own.

    In memory of `block` x `block` scores, so that it can be trained where naive attention cannot; as many queries as keys.
    """
    if not causal or queries.shape[2] != keys.shape[2]:
        msg = "here the last block of a query is its own: causal attention with as many queries as keys"
        raise ValueError(msg)
    blocks = [slice(start, start + block) for start in range(0, queries.shape[2], block)]
    outputs = []
    for own in blocks:
        tiles = (tensor[:, :, own] for tensor in (queries, keys, values))
        outputs.append(broken_attention(*tiles, None, causal=True, block_keys=block))
    return torch.cat(outputs, dim=2)


def zero_attention(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False) -> Tensor:
    """The null system: no token learns anything of another one."""
    return torch.zeros_like(queries)
