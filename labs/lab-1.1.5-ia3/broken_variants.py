"""(IA)3 with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
with diagonal matrices instead of products by elements.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ia3 import Ia3Settings, ia3_layers
from onepiece.adaptation import Shapes, plain_linear, replace_layer, targeted_shapes
from onepiece.checks import check_mistake

COUNT_MISTAKES = (
    "outputs_everywhere",  # as many as outputs, in down_proj too
    "inputs_everywhere",  # as many as inputs
    "swapped",  # the inputs of k and v, the outputs of down_proj
    "both_sides",  # in and out, as LoRA of rank 1 has them
    "one_layer",  # of each name the first layer only
)
FORWARD_MISTAKES = (
    "other_side",  # inputs for outputs and outputs for inputs; only in a square layer does that run
    "one_plus",  # 1 + l: the vector is taken for a change, although it starts at 1
    "bias_outside",  # l * (W x) + b: seen only where there is a bias
    "added",  # l is added
)
FOLD_MISTAKES = (
    "bias_forgotten",  # the bias is not rescaled with the outputs: seen only where there is a bias
    "bias_dropped",  # the folded layer has no bias
    "bias_always",  # the bias is rescaled, although the factors are on the inputs
    "other_dimension",  # rows for columns and columns for rows; only in a square layer does that run
    "one_plus",  # 1 + l
)


def broken_count(shapes: Shapes, settings: Ia3Settings, mistake: str | None) -> int:
    """How many numbers are trained, with one of COUNT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, COUNT_MISTAKES)
    total, seen = 0, set()
    for name, (into, out) in targeted_shapes(shapes, settings.targets).items():
        kind = name.rpartition(".")[2]
        if mistake == "one_layer" and kind in seen:
            continue
        seen.add(kind)
        right, wrong = (into, out) if kind in settings.inputs else (out, into)
        sizes = {"outputs_everywhere": out, "inputs_everywhere": into, "swapped": wrong, "both_sides": into + out}
        total += sizes.get(mistake or "", right)
    return total


def broken_fold(
    weight: Tensor, bias: Tensor | None, factors: Tensor, *, on_input: bool, mistake: str | None
) -> tuple[Tensor, Tensor | None]:
    """(out, in), and (out,) or None, of the plain layer, with one of FOLD_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FOLD_MISTAKES)
    diagonal = torch.diag(1 + factors if mistake == "one_plus" else factors)
    columns = on_input != (mistake == "other_dimension")
    weight = weight @ diagonal if columns else diagonal @ weight
    if bias is None or mistake == "bias_dropped":
        return weight, None
    rescaled = mistake == "bias_always" if on_input else mistake != "bias_forgotten"
    return weight, diagonal @ bias if rescaled and len(diagonal) == len(bias) else bias


def broken_forward(base: nn.Linear, factors: Tensor, inputs: Tensor, *, on_input: bool, mistake: str | None) -> Tensor:
    """(..., in) -> (..., out), with one of FORWARD_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FORWARD_MISTAKES)
    if mistake == "added":
        return base(inputs + factors) if on_input else base(inputs) + factors
    of_fold = {"other_side": None, "one_plus": "one_plus", "bias_outside": "bias_forgotten"}.get(mistake or "")
    weight, bias = broken_fold(base.weight, base.bias, factors, on_input=on_input != (mistake == "other_side"), mistake=of_fold)
    return nn.functional.linear(inputs, weight, bias)


# ---------------------------------------------------------------------------------------------- whole models


def everything_on_outputs(settings: Ia3Settings) -> Ia3Settings:
    """The mistake of whoever rescales what comes out of down_proj: the residual stream instead of the inside of the MLP."""
    return Ia3Settings(settings.targets, ())


def start_at_random(model: nn.Module, *, seed: int) -> None:
    """Factors from a normal distribution, as ordinary weights begin (and as peft's `init_ia3_weights=False` begins); in place."""
    generator = torch.Generator().manual_seed(seed)
    for layer in ia3_layers(model).values():
        layer.scale.data.copy_(torch.randn(layer.scale.shape, generator=generator))


def fold_with_mistake(model: nn.Module, mistake: str | None) -> nn.Module:
    """A copy in which every vector is folded with one of FOLD_MISTAKES, or None."""
    plain = copy.deepcopy(model)
    for name, layer in ia3_layers(plain).items():
        weight, bias = broken_fold(
            layer.base.weight.detach(), layer.base.bias, layer.scale.detach(), on_input=layer.on_input, mistake=mistake
        )
        replace_layer(plain, name, plain_linear(weight, bias if bias is None else bias.detach()))
    return plain
