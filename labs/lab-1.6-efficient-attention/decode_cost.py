"""What one decoded token costs: bytes counted while a model runs, the formula beside them, and where a GPU's roof is.

A decode step multiplies with every weight and with every key and value that is kept, once. So the bytes that it must read are known before
it runs; `count_step` watches the operators to see whether an implementation reads just those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from key_value_cache import KeyValueCache, cache_bytes
from small_llama import SmallLlama

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass
class StepBytes:
    """Bytes that one decode step moved."""

    weights: int = 0
    """Of parameters, read; of the embedding's table only the rows that were looked up."""
    cache_read: int = 0
    cache_written: int = 0
    copies: int = 0
    """Of copies of the cache, written and read: what `repeat_interleave` makes."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def of_cache(self) -> int:
        """All that is there because of keys and values."""
        return self.total - self.weights


COPYING = {"clone", "copy_", "index_select", "repeat", "_to_copy", "repeat_interleave", "cat"}
"""Operators whose result is what they were given, elsewhere: a copy of keys is keys."""


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Counter(TorchDispatchMode):
    """Sorts what operators read and write by whose memory it is."""

    def __init__(self, model: SmallLlama, caches: Sequence[KeyValueCache]) -> None:
        super().__init__()
        self.bytes = StepBytes()
        self.of_weights = {_storage(parameter) for parameter in model.parameters()}
        self.of_cache = {_storage(tensor) for cache in caches for tensor in (cache.keys, cache.values)}
        self.copied: dict[int, Tensor] = {}
        """Held, so that their memory is not given to somebody else."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            self.add(operator.__name__.partition(".")[0], [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)], result)
        return result

    def add(self, name: str, read: list[Tensor], result: Any) -> None:
        if name == "copy_" and _storage(read[0]) in self.of_cache:
            self.bytes.cache_written += read[0].nbytes
            return
        from_cache = [tensor for tensor in read if _storage(tensor) in self.of_cache]
        from_copies = [tensor for tensor in read if _storage(tensor) in self.copied]
        self.bytes.cache_read += sum(bytes_behind(tensor) for tensor in from_cache)
        self.bytes.copies += sum(bytes_behind(tensor) for tensor in from_copies)
        weights = [tensor for tensor in read if _storage(tensor) in self.of_weights]
        self.bytes.weights += result.nbytes if name == "embedding" else sum(tensor.nbytes for tensor in weights)
        if name in COPYING and (from_cache or from_copies):
            self.copied[_storage(result)] = result
            self.bytes.copies += result.nbytes


def bytes_behind(tensor: Tensor) -> int:
    """Bytes of memory that a tensor stands for: an axis that `expand` made repeats what is there, and is read once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


@torch.no_grad()
def count_step(model: SmallLlama, ids: Tensor, caches: Sequence[KeyValueCache]) -> StepBytes:
    """Run one decode step, ids (batch, 1), and count."""
    counter = _Counter(model, caches)
    with counter:
        model(ids, caches=caches)
    return counter.bytes


def step_bytes(model: SmallLlama, batch: int, tokens: int) -> StepBytes:
    """The formula: what a step must move that is the `tokens`-th token of each sequence."""
    sizes, layout = model.sizes, model.sizes.layout
    number = model.model.embed_tokens.weight.element_size()
    shape = {"layers": sizes.layers, "kv_heads": layout.kv_heads, "head_dim": layout.head_dim, "bytes_per_number": number}
    weights = sum(parameter.nbytes for parameter in model.parameters()) + batch * sizes.width * number
    return StepBytes(weights, cache_bytes(tokens=tokens, batch=batch, **shape), cache_bytes(tokens=1, batch=batch, **shape))


# ---------------------------------------------------------------------------------------------- the roof


@dataclass(frozen=True)
class Roof:
    """What a device can do at best, from its data sheet."""

    operations: float
    """Per second; dense, in the dtype that is meant."""
    bandwidth: float
    """Bytes per second of the memory that holds weights and cache."""

    @property
    def ridge(self) -> float:
        """Operations per byte from which on the arithmetic, not the memory, is the limit."""
        return self.operations / self.bandwidth


@dataclass(frozen=True)
class Kept:
    """What one layer keeps of a token, and what a decode step does with it."""

    numbers: int
    """Kept per token and layer."""
    operations: int
    """Multiplications and additions per kept token, layer and new token, of all heads."""
    layers: int

    def intensity(self, bytes_per_number: int) -> float:
        """Operations per byte of attention over a long cache."""
        return self.operations / (self.numbers * bytes_per_number)


def kept_by_grouped(config: PretrainedConfig, kv_heads: int | None = None) -> Kept:
    """Of a Llama, Mistral or the like; with another number of key/value heads, if one is given."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads if kv_heads is None else kv_heads
    return Kept(2 * heads * head_dim, 2 * config.num_attention_heads * 2 * head_dim, config.num_hidden_layers)


def kept_by_latent(config: PretrainedConfig) -> Kept:
    """Of a DeepSeek-V2 or V3, decoded in the absorbed form: its keys are latent and turned key, its values the latent."""
    kept = config.kv_lora_rank + config.qk_rope_head_dim
    return Kept(kept, 2 * config.num_attention_heads * (kept + config.kv_lora_rank), config.num_hidden_layers)
