"""The memory of a model that writes: keys and values of what it has read, one cache per layer, and what they cost in bytes.

Read from top to bottom: the price, the cache that keeps everything, the cache that forgets the middle.
Source of the last: Xiao et al., *Efficient Streaming Language Models with Attention Sinks*, arXiv 2309.17453.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------- 1. the price


# Exercise 4, part a. What is kept of a token, in one layer? Not the query. How often?
def cache_bytes(*, layers: int, kv_heads: int, head_dim: int, tokens: int, batch: int, bytes_per_number: int) -> int:
    """Bytes of the keys and values of `tokens` tokens in each of `batch` sequences."""
    # SOLUTION 4
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_number
    # END SOLUTION


# Exercise 4, part b: you design. A GPU has `budget` bytes left for the cache. Return the largest number of key/value heads with which it
# fits: quality asks for many, memory for few. It must divide `heads`. 0 says that not even one head fits.
def largest_kv_heads(budget: int, *, heads: int, layers: int, head_dim: int, tokens: int, batch: int, bytes_per_number: int) -> int:
    """A divisor of `heads`, or 0."""
    # SOLUTION 4
    sizes = {"layers": layers, "head_dim": head_dim, "tokens": tokens, "batch": batch, "bytes_per_number": bytes_per_number}
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    return max((count for count in divisors if cache_bytes(kv_heads=count, **sizes) <= budget), default=0)
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. keep everything


@dataclass(frozen=True)
class CacheShape:
    """What one layer's cache has room for."""

    batch: int
    kv_heads: int
    capacity: int
    """Tokens per sequence."""
    head_dim: int

    def zeros(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """(batch, kv_heads, capacity, head_dim)."""
        return torch.zeros(self.batch, self.kv_heads, self.capacity, self.head_dim, dtype=dtype, device=device)


class KeyValueCache:
    """Keys and values of one layer, in memory that is reserved once: nothing is copied when a token comes."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.shape = shape
        self.keys, self.values = shape.zeros(dtype, device), shape.zeros(dtype, device)
        self.positions = torch.arange(shape.capacity, device=device)
        self.length = 0
        """Tokens that are in it."""

    @property
    def nbytes(self) -> int:
        """Bytes that are reserved, counted on the tensors."""
        return self.keys.nbytes + self.values.nbytes

    # Exercise 3. Write the new keys and values behind what is there, move `length`, and return everything that is there now, as views,
    # with the positions of it. A text comes in pieces of any length: the whole prompt at first, then one token at a time.
    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add new tokens, (batch, kv_heads, new, head_dim), with their positions turned into the keys already.

        Returns:
            Keys and values (batch, kv_heads, length, head_dim), and their positions (length,).

        Raises:
            ValueError: there is no room.
        """
        end = self.length + keys.shape[2]
        if end > self.shape.capacity:
            msg = f"the cache has room for {self.shape.capacity} tokens, and this would be token {end}"
            raise ValueError(msg)
        # SOLUTION 3
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end], self.positions[:end]
        # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. forget the middle


# Exercise 5. The cache has `sinks + window` places. The first `sinks` tokens stay where they are for ever; all others go round in the
# `window` places behind them. Which place does the token at `position` take?
def place_of(position: int, *, sinks: int, window: int) -> int:
    """0 to sinks + window - 1."""
    # SOLUTION 5
    return position if position < sinks else sinks + (position - sinks) % window
    # END SOLUTION


class RollingCache(KeyValueCache):
    """Keeps the first `sinks` tokens and the last `window` others; each key keeps the position that it was turned by.

    (StreamingLLM numbers positions anew by place in the cache. Here they stay, so that a masked model without cache is the oracle.)
    """

    def __init__(self, shape: CacheShape, sinks: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        super().__init__(shape, dtype, device)
        self.sinks, self.window = sinks, shape.capacity - sinks
        if self.window < 1:
            msg = f"{shape.capacity} places for {sinks} sinks leave no window"
            raise ValueError(msg)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the base class, in whatever order: attention does not ask for one. One token at a time.

        Raises:
            ValueError: there is more than one new token: early ones of them would have to see keys that late ones push out.
        """
        if keys.shape[2] != 1:
            msg = f"a rolling cache takes one token at a time, not {keys.shape[2]}"
            raise ValueError(msg)
        place = place_of(self.length, sinks=self.sinks, window=self.window)
        self.keys[:, :, place : place + 1], self.values[:, :, place : place + 1] = keys, values
        self.positions[place] = self.length
        self.length += 1
        filled = min(self.length, self.shape.capacity)
        return self.keys[:, :, :filled], self.values[:, :, :filled], self.positions[:filled]
