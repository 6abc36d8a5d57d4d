"""The score matrix in tiles: which tiles exist, which need a mask, and what crosses between slow and fast memory.

The matrix S = Q K^T has `query_len` rows and `key_len` columns. FlashAttention never holds it: it visits one tile of
`block_queries` x `block_keys` scores at a time. This module knows the geometry and no attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def cut(start: int, stop: int, size: int) -> list[slice]:
    """[start, stop) in pieces of `size` tokens; the last one may be shorter."""
    return [slice(left, min(left + size, stop)) for left in range(start, stop, size)]


def causal_mask(query_rows: slice, key_columns: slice, offset: int, device: torch.device) -> Tensor:
    """True where a query may see a key; bool (rows, columns), for any rectangle of the score matrix."""
    rows = torch.arange(query_rows.start, query_rows.stop, device=device)
    columns = torch.arange(key_columns.start, key_columns.stop, device=device)
    return columns <= rows[:, None] + offset  # (rows, 1), (columns,) -> (rows, columns)


@dataclass(frozen=True)
class Tiling:
    """How the score matrix is cut into tiles, and which of them are needed.

    Blocks are slices: [block.start, block.stop) are token positions, the stop excluded.
    """

    query_len: int  # rows of the score matrix, tokens
    key_len: int  # columns of the score matrix, tokens
    offset: int | None  # causal: query i sees key j when j <= i + offset, tokens; None: every query sees every key
    block_queries: int  # rows of a tile, tokens
    block_keys: int  # columns of a tile, tokens

    def __post_init__(self) -> None:
        if self.block_queries < 1 or self.block_keys < 1:
            raise ValueError(f"a block holds at least one token; got {self.block_queries} x {self.block_keys}")

    def all_query_blocks(self) -> list[slice]:
        """Row blocks from the first row that sees any key on, so that every row of a block sees at least key 0."""
        first_row = max(0, -self.offset) if self.offset is not None else 0
        return cut(first_row, self.query_len, self.block_queries)

    def all_key_blocks(self) -> list[slice]:
        """Column blocks."""
        return cut(0, self.key_len, self.block_keys)

    # Exercise 4. Half of a causal score matrix is empty, and an empty tile should cost nothing: not even a load.
    # a. needs_tile: is any pair of the tile visible? Which of the queries sees most? Which of the keys is seen most?
    # b. needs_mask: is any pair of the tile hidden? Away from the diagonal none is, and masking would only cost time.
    def needs_tile(self, query_block: slice, key_block: slice) -> bool:
        """Whether any query of the block sees any key of the block (arXiv 2307.08691, section 3.1, causal masking)."""
        if self.offset is None:
            return True
        # SOLUTION 4
        return key_block.start <= query_block.stop - 1 + self.offset
        # END SOLUTION

    def needs_mask(self, query_block: slice, key_block: slice) -> bool:
        """Whether any key of the block is hidden from any query of the block."""
        if self.offset is None:
            return False
        # SOLUTION 4
        return key_block.stop - 1 > query_block.start + self.offset
        # END SOLUTION

    def key_blocks(self, query_block: slice) -> list[slice]:
        """The key blocks that one row of tiles needs: the forward pass."""
        return [block for block in self.all_key_blocks() if self.needs_tile(query_block, block)]

    def query_blocks(self, key_block: slice) -> list[slice]:
        """The query blocks that one column of tiles needs: the backward pass."""
        return [block for block in self.all_query_blocks() if self.needs_tile(block, key_block)]

    def hide_future(self, scores: Tensor, query_block: slice, key_block: slice) -> Tensor:
        """Set the hidden scores of a tile to -inf, in place; scores (batch, kv_heads, group * rows, columns)."""
        if not self.needs_mask(query_block, key_block):
            return scores
        hidden = ~causal_mask(query_block, key_block, self.offset or 0, scores.device)
        group = scores.shape[-2] // hidden.shape[0]
        return scores.masked_fill_(hidden.repeat(group, 1), -math.inf)  # (rows, columns) -> (group * rows, columns)


# The query heads that share a key/value head become extra rows of one tile: its keys are loaded once for all of them,
# and the matrix products of the backward pass sum dK and dV over the group by themselves.
def fold_group(rows: Tensor, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """(batch, heads, rows, ...) -> (batch, kv_heads, group * rows, ...), in the dtype that sums are kept in."""
    return rows.unflatten(1, (kv_heads, -1)).flatten(2, 3).to(dtype)


def unfold_group(rows: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """(batch, kv_heads, group * rows, ...) -> (batch, heads, rows, ...), in the dtype that HBM holds."""
    return rows.unflatten(2, (heads // rows.shape[1], -1)).flatten(1, 2).to(dtype)


@dataclass
class Traffic:
    """Counts what crosses between slow memory (HBM) and fast memory (SRAM); each pass calls it at every crossing."""

    loaded: int = 0  # elements, HBM -> SRAM
    stored: int = 0  # elements, SRAM -> HBM

    @property
    def total(self) -> int:
        """Elements moved in both directions."""
        return self.loaded + self.stored

    def load(self, tile: Tensor) -> Tensor:
        """Count a tile on its way in; returns it unchanged."""
        self.loaded += tile.numel()
        return tile

    def store(self, tile: Tensor) -> Tensor:
        """Count a tile on its way out; returns it unchanged."""
        self.stored += tile.numel()
        return tile
