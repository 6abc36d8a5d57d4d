"""The loops of `flash_attention.py` as GPU kernels, in Triton: forward, and two for the backward pass.

One program of a kernel does one turn of the outer loop. Its tiles live in registers and shared memory, the SRAM of the
paper; its pointers point into HBM. All tensors are contiguous: (batch, heads, seq, HEAD_DIM) seen as (batch * heads)
matrices of seq rows. The softmax works in base 2, because a GPU has an instruction for exp2 and none for exp.

Source: arXiv 2307.08691, algorithms 1 and 2, and section 3.2 (parallel over query blocks forward, over key blocks
backward). Unlike algorithm 2, dQ has its own kernel: nothing is added up in HBM, so results are the same on every run.
"""

from __future__ import annotations

import math
import os

import torch

# Triton decides between compiler and interpreter while it is imported, before a tensor can say where it lives: so here,
# and only here, the machine decides. Without a GPU there is nothing to compile for.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED and isinstance(tl.sum, triton.JITFunction):
    # torch.compile and torch.optim import triton on their own, without the variable.
    raise RuntimeError(
        "triton was imported before the choice of its interpreter could be made.\n"
        "Restart the kernel and import flash_attention_triton first, before an optimizer is made."
    )

LOG2_E: tl.constexpr = tl.constexpr(math.log2(math.e))
LN_2: tl.constexpr = tl.constexpr(math.log(2))
IS_INTERPRETED: tl.constexpr = tl.constexpr(INTERPRETED)


@triton.jit
def load_rows(base, rows, length, HEAD_DIM: tl.constexpr):
    """Rows of one head, (rows,) -> (rows, HEAD_DIM); rows at or beyond `length` are zero."""
    columns = tl.arange(0, HEAD_DIM)
    return tl.load(base + rows[:, None] * HEAD_DIM + columns[None, :], mask=rows[:, None] < length, other=0.0)


@triton.jit
def store_rows(base, rows, length, tile, HEAD_DIM: tl.constexpr):
    """The way back, in the dtype that `base` points to; rows at or beyond `length` are not written."""
    columns = tl.arange(0, HEAD_DIM)
    pointers = base + rows[:, None] * HEAD_DIM + columns[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=rows[:, None] < length)


@triton.jit
def matmul(left, right):
    """Product of two tiles of one dtype, summed in float32."""
    if IS_INTERPRETED:  # Triton 3.7's interpreter would multiply the bit patterns of bfloat16 as integers
        left, right = left.to(tl.float32), right.to(tl.float32)
    # "ieee" matters for float32 alone: by default a GPU would round it to TF32, with ten bits of mantissa.
    return tl.dot(left, right, input_precision="ieee")


# ---------------------------------------------------------------------------------------------- forward


# Exercise 7 (stretch). The inner loop of algorithm 1 on tiles: for each block of keys from `start` to `stop`, load,
# score, mask, merge. You know all of it from exercises 2 and 3; what is new:
#   load_rows takes token positions: columns = first + tl.arange(0, BLOCK_KEYS). tl.trans(x) transposes a tile.
#   matmul, above, takes two tiles of one dtype: weights are float32, values perhaps bfloat16; x.to(y.dtype) converts.
#   Softmax in base 2: scale_log2 is scale * log2(e), so that tl.exp2, one GPU instruction, gives exp. The mask is
#   needed only if MASKED: keys at or beyond key_len, and if CAUSAL those after row + offset, get -inf by tl.where.
#   maximum and total are (BLOCK_QUERIES,); x[:, None] makes a column of one. tl.max and tl.sum take axis=1.
@triton.jit
def attend(
    maximum, total, output, query_tile, key_base, value_base, rows, start, stop, key_len, offset, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_KEYS: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The softmax state (maximum, total, output) of one query block after the keys [start, stop)."""
    # SOLUTION 7
    for first in range(start, stop, BLOCK_KEYS):
        columns = first + tl.arange(0, BLOCK_KEYS)
        key_tile = load_rows(key_base, columns, key_len, HEAD_DIM)
        value_tile = load_rows(value_base, columns, key_len, HEAD_DIM)
        scores = matmul(query_tile, tl.trans(key_tile)) * scale_log2
        if MASKED:
            visible = columns[None, :] < key_len
            if CAUSAL:
                visible = visible & (columns[None, :] <= rows[:, None] + offset)
            scores = tl.where(visible, scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        correction = tl.exp2(maximum - new_maximum)
        weights = tl.exp2(scores - new_maximum[:, None])
        total = correction * total + tl.sum(weights, axis=1)
        output = correction[:, None] * output
        output += matmul(weights.to(value_tile.dtype), value_tile)
        maximum = new_maximum
    # END SOLUTION
    return maximum, total, output


@triton.jit
def forward_kernel(
    queries, keys, values, output, logsumexp, query_len, key_len, first_row, group, scale,
    HEAD_DIM: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program per query block and query head."""
    query_head = tl.program_id(1).to(tl.int64)  # int64: batch * heads * seq * head_dim may pass 2^31
    kv_head = query_head // group
    start_row = first_row + tl.program_id(0) * BLOCK_QUERIES
    rows = start_row + tl.arange(0, BLOCK_QUERIES)
    offset = key_len - query_len

    # Keys [0, unmasked): whole blocks that every row sees. Keys [unmasked, stop): need a mask. The rest: skipped.
    stop, unmasked = key_len, key_len // BLOCK_KEYS * BLOCK_KEYS
    if CAUSAL:
        stop = tl.minimum(key_len, start_row + BLOCK_QUERIES + offset)
        unmasked = tl.minimum(key_len, start_row + offset + 1) // BLOCK_KEYS * BLOCK_KEYS

    query_tile = load_rows(queries + query_head * query_len * HEAD_DIM, rows, query_len, HEAD_DIM)
    key_base, value_base = keys + kv_head * key_len * HEAD_DIM, values + kv_head * key_len * HEAD_DIM
    maximum = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    acc = tl.zeros([BLOCK_QUERIES, HEAD_DIM], tl.float32)
    maximum, total, acc = attend(
        maximum, total, acc, query_tile, key_base, value_base, rows, 0, unmasked, key_len, offset, scale * LOG2_E,
        HEAD_DIM, BLOCK_KEYS, CAUSAL, False,
    )  # fmt: skip
    maximum, total, acc = attend(
        maximum, total, acc, query_tile, key_base, value_base, rows, unmasked, stop, key_len, offset, scale * LOG2_E,
        HEAD_DIM, BLOCK_KEYS, CAUSAL, True,
    )  # fmt: skip
    store_rows(output + query_head * query_len * HEAD_DIM, rows, query_len, acc / total[:, None], HEAD_DIM)
    tl.store(logsumexp + query_head * query_len + rows, (maximum + tl.log2(total)) * LN_2, mask=rows < query_len)


# ---------------------------------------------------------------------------------------------- backward


@triton.jit
def tile_gradients(query_tile, key_tile, value_tile, grad_output_tile, logsumexp_tile, dots_tile, visible, scale):
    """Weights P, recomputed, and gradient of the unscaled scores, dS, of one tile: both (rows, columns), float32."""
    scores = matmul(query_tile, tl.trans(key_tile)) * (scale * LOG2_E)
    # Also for keys beyond the end, although they are zero: their weight may be inf, and inf * 0 is nan.
    scores = tl.where(visible, scores, float("-inf"))
    weights = tl.exp2(scores - logsumexp_tile[:, None] * LOG2_E)
    grad_weights = matmul(grad_output_tile, tl.trans(value_tile))
    return weights, weights * (grad_weights - dots_tile[:, None])


@triton.jit
def key_value_gradient_kernel(
    queries, keys, values, grad_output, logsumexp, dots, grad_keys, grad_values,
    query_len, key_len, first_row, group, scale,
    HEAD_DIM: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program per key block and key/value head: it sums over the queries of the whole group, without atomics."""
    kv_head = tl.program_id(1).to(tl.int64)
    start_column = tl.program_id(0) * BLOCK_KEYS
    columns = start_column + tl.arange(0, BLOCK_KEYS)
    offset = key_len - query_len
    key_tile = load_rows(keys + kv_head * key_len * HEAD_DIM, columns, key_len, HEAD_DIM)
    value_tile = load_rows(values + kv_head * key_len * HEAD_DIM, columns, key_len, HEAD_DIM)
    key_sum = tl.zeros([BLOCK_KEYS, HEAD_DIM], tl.float32)
    value_sum = tl.zeros([BLOCK_KEYS, HEAD_DIM], tl.float32)
    start_row = 0
    if CAUSAL:
        start_row = tl.maximum(first_row, start_column - offset)  # the queries before it see none of these keys
    for member in range(group):
        row_base = (kv_head * group + member) * query_len  # rows of the query heads before this one
        for first in range(start_row, query_len, BLOCK_QUERIES):
            rows = first + tl.arange(0, BLOCK_QUERIES)
            query_tile = load_rows(queries + row_base * HEAD_DIM, rows, query_len, HEAD_DIM)
            grad_output_tile = load_rows(grad_output + row_base * HEAD_DIM, rows, query_len, HEAD_DIM)
            # A row beyond the end has an infinite logsumexp, so that all its weights are zero.
            logsumexp_tile = tl.load(logsumexp + row_base + rows, mask=rows < query_len, other=float("inf"))
            dots_tile = tl.load(dots + row_base + rows, mask=rows < query_len, other=0.0)
            visible = columns[None, :] < key_len
            if CAUSAL:
                visible = visible & (columns[None, :] <= rows[:, None] + offset)
            weights, grad_scores = tile_gradients(
                query_tile, key_tile, value_tile, grad_output_tile, logsumexp_tile, dots_tile, visible, scale
            )
            value_sum += matmul(tl.trans(weights).to(query_tile.dtype), grad_output_tile)
            key_sum += matmul(tl.trans(grad_scores).to(query_tile.dtype), query_tile)
    store_rows(grad_keys + kv_head * key_len * HEAD_DIM, columns, key_len, key_sum * scale, HEAD_DIM)
    store_rows(grad_values + kv_head * key_len * HEAD_DIM, columns, key_len, value_sum, HEAD_DIM)


@triton.jit
def query_gradient_kernel(
    queries, keys, values, grad_output, logsumexp, dots, grad_queries, query_len, key_len, first_row, group, scale,
    HEAD_DIM: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program per query block and query head, like the forward kernel: dQ stays in registers until it is done."""
    query_head = tl.program_id(1).to(tl.int64)
    kv_head = query_head // group
    start_row = first_row + tl.program_id(0) * BLOCK_QUERIES
    rows = start_row + tl.arange(0, BLOCK_QUERIES)
    offset = key_len - query_len
    query_tile = load_rows(queries + query_head * query_len * HEAD_DIM, rows, query_len, HEAD_DIM)
    grad_output_tile = load_rows(grad_output + query_head * query_len * HEAD_DIM, rows, query_len, HEAD_DIM)
    logsumexp_tile = tl.load(logsumexp + query_head * query_len + rows, mask=rows < query_len, other=float("inf"))
    dots_tile = tl.load(dots + query_head * query_len + rows, mask=rows < query_len, other=0.0)
    query_sum = tl.zeros([BLOCK_QUERIES, HEAD_DIM], tl.float32)
    stop = key_len
    if CAUSAL:
        stop = tl.minimum(key_len, start_row + BLOCK_QUERIES + offset)
    for first in range(0, stop, BLOCK_KEYS):
        columns = first + tl.arange(0, BLOCK_KEYS)
        key_tile = load_rows(keys + kv_head * key_len * HEAD_DIM, columns, key_len, HEAD_DIM)
        value_tile = load_rows(values + kv_head * key_len * HEAD_DIM, columns, key_len, HEAD_DIM)
        visible = columns[None, :] < key_len
        if CAUSAL:
            visible = visible & (columns[None, :] <= rows[:, None] + offset)
        _, grad_scores = tile_gradients(
            query_tile, key_tile, value_tile, grad_output_tile, logsumexp_tile, dots_tile, visible, scale
        )
        query_sum += matmul(grad_scores.to(key_tile.dtype), key_tile)
    store_rows(grad_queries + query_head * query_len * HEAD_DIM, rows, query_len, query_sum * scale, HEAD_DIM)
