"""How much attention moves between HBM (large, slow) and SRAM (small, fast): counted, and from formulas.

Counting runs the lesson's own loops, whose `Traffic` is called at every load and store; a formula never looks at the
loops. Where both agree to the last element, the formula is right about the code. Everything is counted in elements;
bytes = elements * bytes per element.

Source: FlashAttention, arXiv 2205.14135, section 3.2 and theorem 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flash_attention import plan_tiles, tiled_backward, tiled_forward
from tiling import Tiling, Traffic, causal_mask


@dataclass(frozen=True)
class AttentionShape:
    """The size of one attention call. Causal: the last query sees the last key, as everywhere in this lab."""

    query_len: int  # tokens
    key_len: int  # tokens
    head_dim: int  # numbers per head
    batch: int = 1  # sequences
    heads: int = 1  # query heads
    kv_heads: int = 1  # key/value heads; divides heads
    causal: bool = False

    @property
    def first_row(self) -> int:
        """The first query that sees a key; the ones before it are neither loaded nor stored."""
        return max(0, self.query_len - self.key_len) if self.causal else 0

    @property
    def rows(self) -> int:
        """Queries that see a key."""
        return self.query_len - self.first_row

    def visible_keys(self, row: int) -> int:
        """How many keys query number `row` sees; for rows that see one."""
        return row + 1 + self.key_len - self.query_len if self.causal else self.key_len

    @property
    def visible_pairs(self) -> int:
        """Scores that are not masked, of one head: an arithmetic series from the first row that sees a key."""
        return self.rows * (self.visible_keys(self.first_row) + self.key_len) // 2

    def zeros(self, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Float32 queries (batch, heads, query_len, head_dim), keys and values (batch, kv_heads, key_len, head_dim)."""
        queries = torch.zeros(self.batch, self.heads, self.query_len, self.head_dim, device=device)
        keys = torch.zeros(self.batch, self.kv_heads, self.key_len, self.head_dim, device=device)
        return queries, keys, torch.zeros_like(keys)


# ---------------------------------------------------------------------------------------------- counted


def count_naive_forward(shape: AttentionShape) -> Traffic:
    """Loads and stores of algorithm 0: three kernels, with S and P making a round trip through HBM between them."""
    queries, keys, values = shape.zeros(device="meta")  # shapes without numbers: S may be larger than the memory here
    return recorded_naive_forward(queries, keys, values, causal=shape.causal)[1]


def recorded_naive_forward(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> tuple[Tensor, Traffic]:
    """Algorithm 0 with its loads and stores: the output of `naive_attention` where every query sees a key.

    Scale and mask are taken to be part of a neighbouring kernel, as in the paper; eager PyTorch moves more than this.
    """
    traffic, (heads, query_len, head_dim), key_len = Traffic(), queries.shape[1:], keys.shape[2]
    group = heads // keys.shape[1]
    queries, keys, values = (traffic.load(tensor) for tensor in (queries, keys, values))
    keys, values = (tensor.repeat_interleave(group, dim=1) for tensor in (keys, values))  # kv_heads -> heads
    scores = traffic.store(queries @ keys.transpose(-2, -1))  # -> (batch, heads, query_len, key_len)
    scores = traffic.load(scores) / math.sqrt(head_dim)
    if causal:
        rows, columns = slice(0, query_len), slice(0, key_len)
        scores.masked_fill_(~causal_mask(rows, columns, key_len - query_len, scores.device), -math.inf)
    weights = traffic.store(torch.softmax(scores, dim=-1))
    output = traffic.store(traffic.load(weights) @ values)  # -> (batch, heads, query_len, head_dim)
    return output, traffic


def count_tiled_forward(shape: AttentionShape, block_queries: int, block_keys: int) -> Traffic:
    """Loads and stores that the loops of `tiled_forward` really do."""
    traffic, (queries, keys, values) = Traffic(), shape.zeros()
    tiling = plan_tiles(queries, keys, shape.causal, block_queries, block_keys)
    tiled_forward(queries, keys, values, tiling, 1.0, traffic)
    return traffic


def count_tiled_backward(shape: AttentionShape, block_queries: int, block_keys: int) -> Traffic:
    """Loads and stores that the loops of `tiled_backward` really do."""
    traffic, (queries, keys, values) = Traffic(), shape.zeros()
    tiling = plan_tiles(queries, keys, shape.causal, block_queries, block_keys)
    saved = (queries, keys, values, queries, torch.zeros_like(queries[..., 0]))
    tiled_backward(queries, saved, tiling, 1.0, traffic)
    return traffic


# ---------------------------------------------------------------------------------------------- exact formulas


def naive_forward_traffic(shape: AttentionShape) -> Traffic:
    """Algorithm 0, exactly: Q, K, V and O once; S and P, query_len * key_len per head, once out and once in."""
    scores = shape.batch * shape.heads * shape.query_len * shape.key_len
    query_size = shape.batch * shape.heads * shape.query_len * shape.head_dim
    key_size = shape.batch * shape.kv_heads * shape.key_len * shape.head_dim
    return Traffic(loaded=query_size + 2 * key_size + 2 * scores, stored=2 * scores + query_size)


# Exercise 6. Write what `tiled_forward` moves, without running it. Per query head: each row of Q comes in once; each
# row of O, and one number of L for it, go out once. Per key/value head: every query block reads K and V again, as far
# as it needs them. Without causality that is all of K and V. With causality it is the whole key blocks up to the last
# key that the last row of the block sees; only the very last key block may be short. Only rows that see a key are
# visited: query blocks start at shape.first_row, and there are shape.rows rows in all.
def tiled_forward_traffic(shape: AttentionShape, block_queries: int, block_keys: int) -> Traffic:
    """The loops of arXiv 2307.08691, algorithm 1, exactly, for ragged lengths, grouped heads, full and causal."""
    # SOLUTION 6
    key_rows = 0  # rows of K that one key/value head reads, over all query blocks
    for start in range(shape.first_row, shape.query_len, block_queries):
        last_row = min(start + block_queries, shape.query_len) - 1
        needed_blocks = math.ceil(shape.visible_keys(last_row) / block_keys)
        key_rows += min(needed_blocks * block_keys, shape.key_len)
    query_rows = shape.batch * shape.heads * shape.rows
    loaded = query_rows * shape.head_dim + shape.batch * shape.kv_heads * 2 * key_rows * shape.head_dim
    stored = query_rows * (shape.head_dim + 1)
    # END SOLUTION
    return Traffic(loaded=loaded, stored=stored)


def tiled_backward_traffic(shape: AttentionShape, block_queries: int, block_keys: int) -> Traffic:
    """The loops of arXiv 2307.08691, algorithm 2, exactly, with D = rowsum(dO * O) computed in a pass before them."""
    tile_rows = 0  # rows of tiles that one query head visits, over all key blocks
    for start in range(0, shape.key_len, block_keys):
        first_seeing = max(shape.first_row, start + shape.query_len - shape.key_len) if shape.causal else 0
        skipped_blocks = (first_seeing - shape.first_row) // block_queries
        tile_rows += max(0, shape.rows - skipped_blocks * block_queries)
    heads, dim = shape.batch * shape.heads, shape.head_dim
    keys_and_values = 2 * shape.batch * shape.kv_heads * shape.key_len * dim
    # A tile loads Q, dO, dQ, L and D of its rows, and stores dQ.
    loaded = heads * (shape.rows * 2 * dim + tile_rows * (3 * dim + 2)) + keys_and_values
    stored = heads * (shape.rows + tile_rows * dim) + keys_and_values
    return Traffic(loaded=loaded, stored=stored)


# ---------------------------------------------------------------------------------------------- the paper's theorem


def theorem_flash(seq: int, head_dim: int, sram: int) -> float:
    """Theorem 2, FlashAttention: N^2 d^2 / M elements per head, up to a constant factor.

    It is proved for algorithm 1 of that paper, whose outer loop runs over keys (`keys_outer.py`). FlashAttention-2, whose
    outer loop runs over queries, follows the same law. `sram` is M in elements. Raises ValueError outside the range for
    which the theorem is stated, d <= M <= N d.
    """
    if not head_dim <= sram <= seq * head_dim:
        raise ValueError(f"theorem 2 holds for head_dim <= sram <= seq * head_dim; got {head_dim}, {sram}, {seq}")
    return seq * seq * head_dim * head_dim / sram


def sram_elements(block_queries: int, block_keys: int, head_dim: int) -> int:
    """What one step of either forward loop holds in SRAM: Q and O tiles, K and V tiles, the scores, m and l."""
    return 2 * block_queries * head_dim + 2 * block_keys * head_dim + block_queries * block_keys + 2 * block_queries


def block_queries_for_sram(sram: int, head_dim: int, block_keys: int) -> int:
    """The most rows of queries that fit into `sram` elements beside `block_keys` keys and values.

    About sram / (2 * head_dim + block_keys): this is where M enters the traffic of `tiled_forward`, which has the queries
    outside and reads K and V once per query block. Raises ValueError when not even one row fits.
    """
    rows = (sram - 2 * block_keys * head_dim) // (2 * head_dim + block_keys + 2)
    if rows < 1:
        needed = sram_elements(1, block_keys, head_dim)
        raise ValueError(f"one query and {block_keys} keys of {head_dim} need {needed} elements of SRAM; got {sram}")
    return rows


# ---------------------------------------------------------------------------------------------- memory and arithmetic


class LargestTensor(TorchDispatchMode):
    """While active, sees every tensor that an operator makes, in the forward and in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}  # storage -> elements; a freed storage's key may come back
        self.freed = 0  # elements of the largest storage whose key came back

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (key := leaf.untyped_storage()._cdata) not in given:
                self.freed = max(self.freed, self.live.get(key, 0))
                self.live[key] = leaf.untyped_storage().nbytes() // leaf.element_size()
        return result


def largest_temporary(function: Callable[[], Any]) -> int:
    """Elements of the largest tensor that `function` makes on its way and does not return, measured while it runs."""
    with LargestTensor() as seen:
        result = function()
    returned = {leaf.untyped_storage()._cdata for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
    return max([seen.freed, *(size for key, size in seen.live.items() if key not in returned)])


@dataclass(frozen=True)
class WatchedTiling(Tiling):
    """A tiling that sees every tile of scores that a loop computes: each comes by once, to be masked."""

    scored: list[int] = field(default_factory=list)  # scores per tile, of all heads, in the order of the loop

    def hide_future(self, scores: Tensor, query_block: slice, key_block: slice) -> Tensor:
        """As `Tiling.hide_future`, and noted."""
        self.scored.append(scores.numel())
        return super().hide_future(scores, query_block, key_block)


def count_tiled_pairs(shape: AttentionShape, block_queries: int, block_keys: int) -> int:
    """Query-key pairs that the loops of `tiled_forward` really score, of all heads."""
    queries, keys, values = shape.zeros()
    plan = plan_tiles(queries, keys, shape.causal, block_queries, block_keys)
    watched = WatchedTiling(plan.query_len, plan.key_len, plan.offset, block_queries, block_keys)
    tiled_forward(queries, keys, values, watched, 1.0, Traffic())
    return sum(watched.scored)


def attention_flops(shape: AttentionShape, *, pairs: int | None = None, backward: bool = False) -> int:
    """Floating-point operations of the matrix products on `pairs` pairs of all heads; a multiply-add is two.

    Forward: Q K^T and P V, 4 * head_dim per pair. Backward: five products (S again, dV, dP, dQ, dK), 10 * head_dim per
    pair. Without `pairs` it is the useful work, the visible pairs: this is the count of arXiv 2307.08691, section 4.1,
    except that it halves causal ones and we count exactly. What an implementation *does* may be more: naive attention
    scores every pair and masks afterwards, tiled attention scores whole tiles.
    """
    pairs = shape.batch * shape.heads * shape.visible_pairs if pairs is None else pairs
    return (10 if backward else 4) * shape.head_dim * pairs
