"""The loop order of FlashAttention-1: keys outside, queries inside. What it moves, counted and as a formula.

FlashAttention-2 turned the two loops around, and that decides what fast memory is good for. Queries outside: K and V are
read once per *query* block. Keys outside: Q is read, and the unfinished output goes out and in, once per *key* block.
Theorem 2 of the first paper is about this order. Full attention only: no mask, so that every tile is needed.

Source: FlashAttention, arXiv 2205.14135, algorithm 1 and theorem 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flash_attention import SoftmaxState, check_shapes, default_scale, online_softmax_merge
from memory_traffic import AttentionShape, sram_elements
from tiling import Traffic, cut, fold_group, unfold_group


def keys_outer_forward(
    queries: Tensor, keys: Tensor, values: Tensor, block_queries: int, block_keys: int, traffic: Traffic
) -> Tensor:
    """Attention without a mask, in the order of the first paper; shapes as `naive_attention`, float32 or float64.

    Between two key blocks the state of each row waits in slow memory: its output so far, its maximum and its total.
    Raises ValueError when shapes do not fit.
    """
    check_shapes(queries, keys, values)
    (heads, query_len, head_dim), (kv_heads, key_len) = queries.shape[1:], keys.shape[1:3]
    output = torch.zeros_like(queries)
    total = torch.zeros_like(queries[..., :1])  # -> (batch, heads, query_len, 1)
    maximum = total - math.inf
    for key_block in cut(0, key_len, block_keys):
        key_tile, value_tile = traffic.load(keys[:, :, key_block]), traffic.load(values[:, :, key_block])
        for block in cut(0, query_len, block_queries):
            loaded = [traffic.load(tensor[:, :, block]) for tensor in (queries, maximum, total, output)]
            query_tile, *state = (fold_group(tile, kv_heads, queries.dtype) for tile in loaded)
            scores = default_scale(head_dim) * query_tile @ key_tile.transpose(-2, -1)  # -> (..., group * rows, columns)
            # Algorithm 1 stores the output divided by the total, so that the last tile needs no step of its own.
            merged = online_softmax_merge(SoftmaxState(state[0], state[1], state[2] * state[1]), scores, value_tile)
            stored = (merged.maximum, merged.total, merged.output / merged.total)
            for tensor, tile in zip((maximum, total, output), stored, strict=True):
                tensor[:, :, block] = traffic.store(unfold_group(tile, heads, queries.dtype))
    return output


def count_keys_outer(shape: AttentionShape, block_queries: int, block_keys: int) -> Traffic:
    """Loads and stores that the loops of `keys_outer_forward` really do."""
    traffic = Traffic()
    keys_outer_forward(*shape.zeros(), block_queries, block_keys, traffic)
    return traffic


def keys_outer_traffic(shape: AttentionShape, block_keys: int) -> Traffic:
    """Algorithm 1 of arXiv 2205.14135, exactly; how the queries are cut does not matter.

    K and V come in once. For each key block every row of Q and of the unfinished O comes in with its maximum and total,
    and O, maximum and total go out again.
    """
    key_blocks = math.ceil(shape.key_len / block_keys)
    rows = shape.batch * shape.heads * shape.query_len * key_blocks
    keys_and_values = 2 * shape.batch * shape.kv_heads * shape.key_len * shape.head_dim
    return Traffic(loaded=keys_and_values + rows * (2 * shape.head_dim + 2), stored=rows * (shape.head_dim + 2))


def block_keys_for_sram(sram: int, head_dim: int, block_queries: int) -> int:
    """The most keys that fit into `sram` elements beside `block_queries` queries, their output and their statistics.

    About sram / (2 * head_dim + block_queries): this is where M enters theorem 2, whose algorithm has the keys outside.
    Raises ValueError when not even one key fits.
    """
    columns = (sram - 2 * block_queries * (head_dim + 1)) // (2 * head_dim + block_queries)
    if columns < 1:
        needed = sram_elements(block_queries, 1, head_dim)
        raise ValueError(f"{block_queries} queries and one key of {head_dim} need {needed} elements of SRAM; got {sram}")
    return columns
