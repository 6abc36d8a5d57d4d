"""Multi-head latent attention (MLA): keep one short vector per token, and make all heads' keys and values from it.

Read from top to bottom: the weights, the expanded form (how it is defined), the absorbed form (how it is decoded).
Source: DeepSeek-V2, arXiv 2405.04434, section 2.1. Left out: compressed queries and the norms on what is compressed.

    latent      (batch, seq, latent_dim)       kept: keys without position and values of all heads are linear in it
    turned_key  (batch, seq, rotary_dim)       kept: the part of the keys that has the position, one for all heads
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grouped_attention import causal, expanded_attention, grouped_attention, rotate


@dataclass(frozen=True)
class LatentSizes:
    """In brackets those of DeepSeek-V3."""

    width: int  # numbers per token [7168]
    heads: int  # [128]
    plain_dim: int  # numbers of a head's query and key that have no position [128]
    rotary_dim: int  # numbers that have it, even [64]
    value_dim: int  # numbers of a head's value [128]
    latent_dim: int  # numbers that are kept of all keys and values together [512]


@dataclass(frozen=True)
class LatentWeights:
    """The projections, as matrices per head."""

    queries: Tensor  # (heads, plain_dim + rotary_dim, width)
    latent: Tensor  # (latent_dim, width)
    turned_key: Tensor  # (rotary_dim, width)
    keys: Tensor  # (heads, plain_dim, latent_dim)
    values: Tensor  # (heads, value_dim, latent_dim)
    output: Tensor  # (width, heads * value_dim)


def random_weights(sizes: LatentSizes, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> LatentWeights:
    """Normal numbers that keep variances; equal seeds give equal weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (sizes.heads, sizes.plain_dim + sizes.rotary_dim, sizes.width),
        (sizes.latent_dim, sizes.width),
        (sizes.rotary_dim, sizes.width),
        (sizes.heads, sizes.plain_dim, sizes.latent_dim),
        (sizes.heads, sizes.value_dim, sizes.latent_dim),
        (sizes.width, sizes.heads * sizes.value_dim),
    )
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) * shape[-1] ** -0.5 for shape in shapes]
    return LatentWeights(*(draw.to(device, dtype) for draw in draws))


@dataclass(frozen=True)
class LatentInputs:
    """What attention gets of a text: queries without and with position, and the two things that are kept."""

    plain_queries: Tensor  # (batch, heads, seq, plain_dim)
    turned_queries: Tensor  # (batch, heads, seq, rotary_dim)
    latent: Tensor  # (batch, seq, latent_dim)
    turned_key: Tensor  # (batch, seq, rotary_dim)

    @property
    def cached_per_token(self) -> int:
        """Numbers that are kept of a token, counted on the tensors."""
        return self.latent.shape[-1] + self.turned_key.shape[-1]


def project(weights: LatentWeights, hidden: Tensor) -> LatentInputs:
    """Of (batch, seq, width)."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    queries = torch.einsum("hdw,bsw->bhsd", weights.queries, hidden)
    plain, rotary = queries.split([weights.keys.shape[1], weights.turned_key.shape[0]], dim=-1)
    turned_key = rotate((hidden @ weights.turned_key.T).unsqueeze(1), positions).squeeze(1)  # through an axis of one head
    return LatentInputs(plain, rotate(rotary, positions), hidden @ weights.latent.T, turned_key)


def scale_of(weights: LatentWeights) -> float:
    """1 / sqrt(numbers of a head's query), as the heads were defined: the width of the latent does not come in."""
    return 1 / math.sqrt(weights.queries.shape[1])


def expanded(weights: LatentWeights, inputs: LatentInputs) -> Tensor:
    """As it is defined: make keys and values of every head from the latent, then attend. (batch, seq, width)."""
    heads, seq = weights.keys.shape[0], inputs.latent.shape[1]
    keys = torch.einsum("hdc,bsc->bhsd", weights.keys, inputs.latent)
    values = torch.einsum("hvc,bsc->bhsv", weights.values, inputs.latent)
    turned_key = inputs.turned_key.unsqueeze(1).expand(-1, heads, -1, -1)  # (batch, seq, rotary_dim) -> (batch, heads, ...)
    positions = torch.arange(seq, device=keys.device)
    queries, keys = torch.cat([inputs.plain_queries, inputs.turned_queries], -1), torch.cat([keys, turned_key], -1)
    mixed = expanded_attention(queries, keys, values, causal(positions, positions), scale_of(weights))
    return mixed.transpose(1, 2).flatten(2) @ weights.output.T  # (batch, heads, seq, value_dim) -> (batch, seq, width)


# Exercise 7. The score of a key without position is q . (K c) for a latent c. Brackets may stand elsewhere: (K^T q) . c. So take K into
# the query, attend to the latents themselves, and take V out behind the mixing: mixing c and then multiplying by V is the same as the
# other way round. Then all heads read the same "keys" (latent and turned key, side by side) and "values" (the latent): you have written
# that case already, in exercise 2. Which scale?
def absorbed(weights: LatentWeights, inputs: LatentInputs) -> Tensor:
    """As it is decoded: no key or value of a head is ever made. (batch, seq, width), equal to `expanded`."""
    positions = torch.arange(inputs.latent.shape[1], device=inputs.latent.device)
    visible = causal(positions, positions)
    # SOLUTION 7
    latent_queries = torch.einsum("hdc,bhsd->bhsc", weights.keys, inputs.plain_queries)
    queries = torch.cat([latent_queries, inputs.turned_queries], -1)  # -> (batch, heads, seq, latent_dim + rotary_dim)
    keys = torch.cat([inputs.latent, inputs.turned_key], -1).unsqueeze(1)  # -> (batch, 1, seq, latent_dim + rotary_dim)
    latent = inputs.latent.unsqueeze(1)  # -> (batch, 1, seq, latent_dim)
    mixed = grouped_attention(queries, keys, latent, visible, scale=scale_of(weights))  # -> (batch, heads, seq, latent_dim)
    values = torch.einsum("hvc,bhsc->bshv", weights.values, mixed)
    # END SOLUTION
    return values.flatten(2) @ weights.output.T  # (batch, seq, heads, value_dim) -> (batch, seq, width)
