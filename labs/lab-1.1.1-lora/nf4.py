"""4-bit NormalFloat: how QLoRA stores a frozen base model in about half a byte per weight.

Read from top to bottom: the 16 levels, quantising in blocks, the second quantisation (of the scales), a layer, a model.
Papers: QLoRA, https://arxiv.org/abs/2305.14314, section 3; how its levels are really made,
https://arxiv.org/abs/2306.06965, section 3. What is here agrees with bitsandbytes, except for the second quantisation: there the
8-bit levels are bitsandbytes' own, here they are the 8-bit floats that the paper speaks of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from onepiece.adaptation import replace_layer, targeted_shapes

BLOCK = 64
"""Weights that share a scale (QLoRA, section 3: a small block, so that one large weight spoils few others)."""
SCALE_BLOCK = 256
"""Scales that share a scale of their own."""
_FLOAT8_MAXIMUM = 448.0  # the largest number of torch.float8_e4m3fn

# ---------------------------------------------------------------------------------------------- 1. the levels


# Exercise 8, part a. Trained weights are nearly normal, so levels at equal steps would waste most of them on rare values.
# Take quantiles of the normal distribution (torch.special.ndtri is its inverse distribution function), from DEEPEST down to
# 0.5, which is where a quantile is zero:
#     8 positive levels:  the quantiles of 9 equal steps from DEEPEST to 0.5 (torch.linspace), without the last, the zero
#     7 negative levels:  minus those of 8 equal steps, again without the last
#     and one exact zero; sorted, and divided by the largest, so that they reach from -1 to 1.
DEEPEST = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
"""Mean of the outermost probabilities for 15 and for 16 levels: quantile 1 would be infinite."""


def nf4_levels() -> Tensor:
    """The 16 levels in rising order, float32, from -1 to 1."""
    # SOLUTION 8
    positive = torch.special.ndtri(torch.linspace(DEEPEST, 0.5, 9)[:-1])
    negative = -torch.special.ndtri(torch.linspace(DEEPEST, 0.5, 8)[:-1])
    levels = torch.cat([negative, torch.zeros(1), positive]).sort().values
    return levels / levels.max()
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. weights


@dataclass(frozen=True)
class QuantizedScales:
    """The second quantisation: scales, less their mean, as 8-bit floats that share a scale in blocks of SCALE_BLOCK."""

    values: Tensor  # (blocks,) float8_e4m3fn
    scales: Tensor  # (ceil(blocks / SCALE_BLOCK),) float32
    mean: Tensor  # () float32


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix in 4 bits."""

    packed: Tensor  # (ceil(numel / 2),) uint8: two indices of levels in a byte, the first in the upper half
    scales: Tensor | QuantizedScales  # (ceil(numel / block),) float32: the largest absolute value of each block
    shape: torch.Size
    block: int

    @property
    def stored_bytes(self) -> int:
        """Bytes that the packed weights and their scales occupy."""
        scales = self.scales
        tensors = [scales] if isinstance(scales, Tensor) else [scales.values, scales.scales, scales.mean]
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.packed, *tensors))

    @property
    def bytes_per_parameter(self) -> float:
        """As stored; QLoRA, section 3: 0.5 + 4/64 bytes, and 0.5 + 1/64 + 4/(64 * 256) with the second quantisation."""
        return self.stored_bytes / self.shape.numel()


# Exercise 8, part b. Each block of weights is divided by its largest absolute value, its scale, so that it lies within
# -1 and 1; each weight is then replaced by the index of the nearest level. Between two levels the border is half way:
# torch.bucketize(values, borders) tells between which borders a value lies, without comparing it to all 16 levels. A
# block of zeros has scale 0: divide it by 1.
def nearest_levels(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise blocks (count, block) of float32.

    Returns:
        Indices of levels (count, block), int64 from 0 to 15, and scales (count,), float32.
    """
    levels = nf4_levels().to(blocks.device)
    # SOLUTION 8
    scales = blocks.abs().amax(dim=1)  # (count, block) -> (count,)
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    borders = (levels[1:] + levels[:-1]) / 2
    indices = torch.bucketize(blocks / divisors[:, None], borders)  # (count, block)
    # END SOLUTION
    return indices, scales


def quantize_nf4(weight: Tensor, *, block: int = BLOCK, double: bool = False) -> QuantizedWeight:
    """Quantise a matrix.

    Args:
        weight: of any shape; blocks run along its rows, and over the end of a row into the next.
        block: weights that share a scale, an even number.
        double: quantise the scales too.

    Raises:
        ValueError: `block` is odd or below 2.
    """
    if block < 2 or block % 2:
        msg = f"a block must hold an even number of weights, not {block}"
        raise ValueError(msg)
    flat = weight.detach().float().flatten()  # (...) -> (numel,)
    padded = functional.pad(flat, (0, -len(flat) % block))  # (numel,) -> (count * block,)
    indices, scales = nearest_levels(padded.unflatten(0, (-1, block)))  # -> (count, block), (count,)
    pairs = indices.flatten()[: len(flat) + len(flat) % 2].to(torch.uint8).unflatten(0, (-1, 2))  # -> (bytes, 2)
    packed = pairs[:, 0] * 16 + pairs[:, 1]  # (bytes, 2) -> (bytes,)
    return QuantizedWeight(packed, quantize_scales(scales) if double else scales, weight.shape, block)


def dequantize_nf4(quantized: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix that the 4 bits stand for."""
    scales = quantized.scales if isinstance(quantized.scales, Tensor) else dequantize_scales(quantized.scales)
    indices = torch.stack([quantized.packed // 16, quantized.packed % 16], dim=1).flatten()  # (bytes,) -> (2 * bytes,)
    values = nf4_levels().to(indices.device)[indices.long()]
    values = functional.pad(values, (0, len(scales) * quantized.block - len(values)))  # -> (count * block,)
    values = values.unflatten(0, (-1, quantized.block)) * scales[:, None]  # -> (count, block)
    return values.flatten()[: quantized.shape.numel()].view(quantized.shape).to(dtype)


# ---------------------------------------------------------------------------------------------- 3. the scales again


def quantize_scales(scales: Tensor) -> QuantizedScales:
    """Double quantisation (QLoRA, section 3): scales are positive, so their mean is taken off before 8 bits are enough."""
    mean = scales.mean()
    padded = functional.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).unflatten(0, (-1, SCALE_BLOCK))
    outer = padded.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / _FLOAT8_MAXIMUM  # -> (outer blocks,)
    values = (padded / outer[:, None]).flatten()[: len(scales)].to(torch.float8_e4m3fn)
    return QuantizedScales(values, outer, mean)


def dequantize_scales(scales: QuantizedScales) -> Tensor:
    """(blocks,), float32."""
    outer = scales.scales.repeat_interleave(SCALE_BLOCK)[: len(scales.values)]  # (outer blocks,) -> (blocks,)
    return scales.values.float() * outer + scales.mean


# ---------------------------------------------------------------------------------------------- 4. a layer, a model


class _Nf4Product(torch.autograd.Function):
    """x W^T with W from 4 bits. Autograd would keep the dense W for the backward pass; this makes it again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer = layer
        return functional.linear(inputs, dequantize_nf4(layer.quantized, inputs.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs @ dequantize_nf4(ctx.layer.quantized, grad_outputs.dtype), None


class Nf4Linear(nn.Module):
    """A frozen linear layer whose weight is stored in 4 bits and made dense, for a moment, at each use."""

    def __init__(self, layer: nn.Linear, *, block: int = BLOCK, double: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.quantized = quantize_nf4(layer.weight, block=block, double=double)
        self.dtype = layer.weight.dtype
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """What the 4 bits stand for, (out, in), made anew at each call."""
        return dequantize_nf4(self.quantized, self.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        outputs = _Nf4Product.apply(inputs, self)
        return outputs if self.bias is None else outputs + self.bias

    def _apply(self, function: Any, recurse: bool = True) -> Nf4Linear:
        """What `model.to(device)` calls: the packed tensors follow, in the types they have."""
        super()._apply(function, recurse)
        self.quantized = _moved(self.quantized, function(torch.empty(0, device=self.quantized.packed.device)).device)
        return self

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        size = f"{self.in_features}, {self.out_features}"
        return f"{size}, {self.quantized.bytes_per_parameter:.4f} bytes per parameter"


def _moved(part: Any, device: torch.device) -> Any:
    """A frozen dataclass of tensors, on another device."""
    fields = {name: value for name, value in vars(part).items() if isinstance(value, (Tensor, QuantizedScales))}
    moved = {name: value.to(device) if isinstance(value, Tensor) else _moved(value, device) for name, value in fields.items()}
    return replace(part, **moved)


def quantize_model(model: nn.Module, targets: tuple[str, ...], *, block: int = BLOCK, double: bool = False) -> list[str]:
    """Put an Nf4Linear in the place of each linear layer whose name ends with one of `targets`; returns their names.

    Embeddings, norms and head stay as they are, and everything is frozen.

    Raises:
        ValueError: a target matches nothing.
    """
    names = list(targeted_shapes(model, targets))
    model.requires_grad_(False)
    for name in names:
        replace_layer(model, name, Nf4Linear(model.get_submodule(name), block=block, double=double))
    return names
