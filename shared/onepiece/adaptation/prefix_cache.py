"""Keys and values before those of a text: what every method needs that writes into the cache of a frozen language model.

    model = PrefixModel(base, prefix)           # `prefix()` gives (layers, 2, kv_heads, virtual, head_dim): keys, then values
    fit(model, task, ...)                       # trains what requires a gradient in `prefix`
    accuracy(model, task)                       # `generate` and `logits_of` are those of a model of Transformers
    with model.using([relabel, compose, None]): # another prefix in each row of a batch, or none
        ...

What stands in the prefix, and how it is trained, is a lab's to say. Here is the rest: a cache for each batch, its mask, the positions of
the text behind it, rows whose prefixes differ in length, generation in the form of Transformers.

Keys of a prefix are read as they are: a model that rotates its keys by position has rotated those of its cache already. So the
prefix has no positions of its own; the text stands behind it, and begins at the position that is the prefix's length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig, PreTrainedModel

Prefix = Callable[[], Tensor]
"""Without arguments it gives the entries of the cache: (layers, 2, kv_heads, virtual, head_dim), keys at 0 and values at 1."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one token takes in the cache of a model."""

    layers: int
    kv_heads: int
    """Heads that have keys and values of their own: fewer than query heads where these share (grouped-query attention)."""
    head_dim: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> CacheShape:
        """That of a model with this configuration."""
        config = config.get_text_config()
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(config.num_hidden_layers, kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads)

    @property
    def width(self) -> int:
        """Numbers of the keys of a token in one layer; of its values there are as many."""
        return self.kv_heads * self.head_dim

    @property
    def numbers(self) -> int:
        """Numbers of a token: keys and values, in all layers."""
        return 2 * self.layers * self.width


class Stacked(NamedTuple):
    """The prefixes of the rows of a batch."""

    entries: Tensor
    """(batch, layers, 2, kv_heads, longest, head_dim)"""
    mask: Tensor
    """(batch, longest), int64: 1 where a prefix has an entry, 0 before one that is shorter."""


def stack_prefixes(prefixes: Sequence[Tensor]) -> Stacked:
    """One prefix for each row: [(layers, 2, kv_heads, virtual_i, head_dim), ...]; an empty one (virtual 0) is allowed.

    Shorter ones are padded in front, so that every prefix ends where the text begins.

    Raises:
        ValueError: there are none.
    """
    if not prefixes:
        msg = "a batch without rows has no prefixes"
        raise ValueError(msg)
    longest = max(prefix.shape[-2] for prefix in prefixes)
    rows, masks = [], []
    for prefix in prefixes:
        missing = longest - prefix.shape[-2]
        rows.append(nn.functional.pad(prefix, (0, 0, missing, 0)))  # (..., virtual_i, head_dim) -> (..., longest, head_dim)
        masks.append(torch.tensor([0] * missing + [1] * prefix.shape[-2], device=prefix.device))
    return Stacked(torch.stack(rows), torch.stack(masks))


def as_cache(entries: Tensor) -> Cache:
    """(batch, layers, 2, kv_heads, virtual, head_dim) -> a new cache: a model appends to the one that it is given."""
    from transformers import DynamicCache

    cache = DynamicCache()
    if entries.shape[-2]:
        for layer, (keys, values) in enumerate(entries.permute(1, 2, 0, 3, 4, 5)):  # -> (layers, 2, batch, kv_heads, virtual, head_dim)
            cache.update(keys, values, layer)
    return cache


def from_cache(cache: Cache, row: int = 0) -> Tensor:
    """The entries of one row of a cache, (layers, 2, kv_heads, seq, head_dim): what a model has made of a text."""
    return torch.stack([torch.stack([layer.keys[row], layer.values[row]]) for layer in cache.layers])


class PrefixModel(nn.Module):
    """A frozen language model whose cache is not empty when a text begins.

    It stands where a model of Transformers may stand: `onepiece.training.train`, `generate_batch`, `logits_of`, `token_ratio`.

    Args:
        base: a causal language model; all of it is frozen.
        prefix: a module that is a `Prefix`. Its parameters are what is trained.

    Raises:
        ValueError: the base uses gradient checkpointing, which has no cache.
    """

    def __init__(self, base: PreTrainedModel, prefix: nn.Module) -> None:
        super().__init__()
        if getattr(base, "is_activation_checkpointing", False):
            msg = "a prefix stands in the cache, and gradient checkpointing has none: switch one of the two off"
            raise ValueError(msg)
        self.base = base.requires_grad_(False)
        self.prefix = prefix.to(base.device)
        self._of_rows: Sequence[Prefix | None] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.device

    @property
    def config(self) -> Any:
        """That of the base."""
        return self.base.config

    def get_base_model(self) -> PreTrainedModel:
        """The model inside, by the name that peft has for it: its generation settings are what counts."""
        return self.base

    @contextlib.contextmanager
    def using(self, prefixes: Sequence[Prefix | None]) -> Iterator[None]:
        """Within the block row i of every batch is read with `prefixes[i]`; their lengths may differ, and None has no prefix."""
        before, self._of_rows = self._of_rows, prefixes
        try:
            yield
        finally:
            self._of_rows = before

    def stacked(self, input_ids: Tensor) -> Stacked:
        """The prefixes of the rows of a batch, in the type of the base.

        Args:
            input_ids: (batch, seq)

        Raises:
            ValueError: within `using` the batch has not as many rows as there are prefixes; a prefix was made for another model; prefix
                and text are longer than the base's context.
        """
        rows = len(input_ids)
        chosen = [self.prefix] * rows if self._of_rows is None else self._of_rows
        if len(chosen) != rows:
            msg = f"{len(chosen)} prefixes cannot be those of {rows} rows"
            raise ValueError(msg)
        shape = CacheShape.of(self.config)
        nothing = torch.empty(shape.layers, 2, shape.kv_heads, 0, shape.head_dim, device=self.device)
        made = {prefix: nothing if prefix is None else prefix() for prefix in dict.fromkeys(chosen)}  # an encoder computes once
        for entries in made.values():
            expect_entries(entries, shape)
        stacked = stack_prefixes([made[prefix] for prefix in chosen])
        length, context = stacked.mask.shape[1] + input_ids.shape[1], getattr(self.config, "max_position_embeddings", None)
        if context is not None and length > context:
            msg = f"prefix and text have {length} positions, the model has {context}: shorten the prefix or the text"
            raise ValueError(msg)
        return Stacked(stacked.entries.to(self.base.dtype), stacked.mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **options: Any) -> Any:
        """Loss and logits as the base gives them; the logits are those of the text alone.

        Args:
            input_ids, attention_mask: (batch, seq), padded on either side.
            position_ids: (batch, seq), as they would be without a prefix; None counts what is real from 0.
            options: of the base's `forward`: labels, for one.
        """
        stacked = self.stacked(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.base(
            input_ids,
            attention_mask=torch.cat([stacked.mask, mask], dim=1),  # (batch, longest), (batch, seq) -> (batch, longest + seq)
            position_ids=position_ids + stacked.mask.sum(dim=1, keepdim=True),
            past_key_values=as_cache(stacked.entries),
            **options,
        )

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Token ids of text and answer, (batch, seq + new), as the base's `generate` gives them; `options` are those of it."""
        stacked = self.stacked(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        longest = stacked.mask.shape[1]
        # Transformers takes the ids of the whole text, cuts off as many as the cache holds, and counts positions by the mask.
        held = input_ids[:, -1:].expand(-1, longest)
        written = self.base.generate(
            torch.cat([held, input_ids], dim=1),  # -> (batch, longest + seq)
            attention_mask=torch.cat([stacked.mask, mask], dim=1),
            past_key_values=as_cache(stacked.entries),
            **options,
        )
        return written[:, longest:]


def expect_entries(entries: Tensor, shape: CacheShape) -> None:
    """Refuse entries that are not those of a model's cache.

    Raises:
        ValueError: the shape is another one.
    """
    wanted = (shape.layers, 2, shape.kv_heads, shape.head_dim)
    if entries.dim() != 5 or (*entries.shape[:3], entries.shape[4]) != wanted:
        msg = (
            f"the prefix was made for another model: its entries are {tuple(entries.shape)}, and this one takes "
            f"({shape.layers}, 2, {shape.kv_heads}, any, {shape.head_dim}): layers, keys and values, heads, length, head_dim"
        )
        raise ValueError(msg)
