"""Scale and shift with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
with a diagonal matrix instead of a product by elements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onepiece.adaptation import plain_linear, replace_layer
from onepiece.checks import check_mistake
from scale_shift import scale_shift_layers

FORWARD_MISTAKES = (
    "no_shift",  # only the scale
    "no_scale",  # only the shift
    "shift_scaled",  # scale * (W x + b + shift)
    "scale_plus_one",  # the scale is taken for a change: (1 + scale), although it starts at 1
    "input_scaled",  # the scale is on the input; only in a square layer does that run
)
MERGE_MISTAKES = (
    "shift_scaled",  # scale * (b + shift)
    "bias_unscaled",  # b + shift: of a base without biases nobody sees it
    "bias_forgotten",  # the shift alone, as if the base had no bias
    "columns_scaled",  # W diag(scale): the scale is on the input
)


def broken_merge(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mistake: str | None) -> tuple[Tensor, Tensor]:
    """(out, in) and (out,) of the plain layer, with one of MERGE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, MERGE_MISTAKES)
    diagonal = torch.diag(scale)  # (out,) -> (out, out)
    biases = {"shift_scaled": diagonal @ (bias + shift), "bias_unscaled": bias + shift, "bias_forgotten": shift}
    merged = weight @ diagonal if mistake == "columns_scaled" else diagonal @ weight
    return merged, biases.get(mistake or "", diagonal @ bias + shift)


def broken_forward(base: nn.Linear, scale: Tensor, shift: Tensor, inputs: Tensor, mistake: str | None) -> Tensor:
    """(batch, in) -> (batch, out), with one of FORWARD_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FORWARD_MISTAKES)
    if mistake == "input_scaled":
        return base(inputs @ torch.diag(scale)) + shift
    if mistake == "scale_plus_one":
        scale = 1 + scale
    elif mistake == "no_scale":
        scale = torch.ones_like(scale)
    if mistake == "no_shift":
        shift = torch.zeros_like(shift)
    weight, bias = broken_merge(base.weight, base.bias, scale, shift, "shift_scaled" if mistake == "shift_scaled" else None)
    return inputs @ weight.T + bias


def merge_with_mistake(model: nn.Module, mistake: str) -> None:
    """Merge every layer of a model of bases without biases, with one of MERGE_MISTAKES; in place."""
    for name, layer in scale_shift_layers(model).items():
        nothing = torch.zeros_like(layer.shift)
        weight, bias = broken_merge(layer.base.weight, nothing, layer.scale, layer.shift, mistake)
        replace_layer(model, name, plain_linear(weight.detach(), bias.detach()))


def start_somewhere_else(model: nn.Module, *, seed: int) -> None:
    """Scales near 1 and shifts near 0 instead of 1 and 0; in place."""
    generator = torch.Generator().manual_seed(seed)
    for layer in scale_shift_layers(model).values():
        for parameter in (layer.scale, layer.shift):
            parameter.data += (0.02 * torch.randn(parameter.shape, generator=generator)).to(parameter)
