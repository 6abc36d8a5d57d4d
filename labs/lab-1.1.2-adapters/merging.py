"""Can an adapter be merged? The nearest plain layer, by least squares, and what it cannot explain.

A merged model has one plain layer, W x + b, where a layer and its adapter were. Nobody says that W must be computed from the weights: here
it is *fitted* to what the two do with real tokens, the best that any W and b can do. For LoRA what is left is rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters import adapted_layers
from onepiece.adaptation import logits_of, plain_linear, replace_layer
from onepiece.data import Batch


@dataclass(frozen=True, slots=True)
class Seen:
    """What went through a layer; real tokens only."""

    inputs: Tensor
    """(tokens, in)"""
    outputs: Tensor
    """(tokens, out)"""


def seen_by(model: nn.Module, names: Iterable[str], batch: Batch) -> dict[str, Seen]:
    """Name of a layer -> what went in and what came out while the model read a batch.

    Args:
        names: of the layers, as in `named_modules`.
        batch: as `logits_of` takes it.
    """
    real = batch["attention_mask"].bool()  # (batch, seq)
    seen: dict[str, Seen] = {}

    def keep(name: str, inputs: Tensor, outputs: Tensor) -> None:
        seen[name] = Seen(inputs[real].detach(), outputs[real].detach())  # (batch, seq, ...) -> (tokens, ...)

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, given, outputs, name=name: keep(name, given[0], outputs))
        for name in names
    ]
    try:
        logits_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


# Exercise 6. Find W and b so that inputs @ W^T + b is as near to the outputs as it can be (least squares). torch.linalg.lstsq(A, B)
# gives, as `.solution`, the X for which A @ X is nearest to B. It knows of no bias: a bias is a weight of an input that is always 1.
# Compute in float64; say driver="gelsd", because the inputs may not span all directions.
def best_plain_layer(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weight, (out, in), and bias, (out,), of the plain layer nearest to what a layer did; float64.

    Args:
        inputs: (tokens, in)
        outputs: (tokens, out)
    """
    inputs, outputs = inputs.double().cpu(), outputs.double().cpu()
    # SOLUTION 6
    with_ones = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], dim=1)  # -> (tokens, in + 1)
    solution = torch.linalg.lstsq(with_ones, outputs, driver="gelsd").solution  # (in + 1, out)
    return solution[:-1].T, solution[-1]
    # END SOLUTION


def unexplained(weight: Tensor, bias: Tensor, seen: Seen, without: Tensor) -> float:
    """The norm of what a plain layer gets wrong, divided by the norm of what the adapter changes: 0 is merged, 1 has learned nothing.

    Args:
        weight, bias: of the plain layer.
        seen: by the layer with its adapter.
        without: (tokens, out), what the layer of the base alone makes of the same inputs.
    """
    outputs = seen.outputs.double().cpu()
    wrong = outputs - (seen.inputs.double().cpu() @ weight.T + bias)
    return (wrong.norm() / (outputs - without.double().cpu()).norm()).item()


def best_plain_model(model: nn.Module, fitted: Mapping[str, tuple[Tensor, Tensor]]) -> nn.Module:
    """A copy without adapters, with these plain layers in their places; the model itself is unchanged.

    Args:
        fitted: name of each layer with an adapter -> weight and bias.
    """
    plain = copy.deepcopy(model)
    for name, layer in adapted_layers(plain).items():
        weight, bias = (tensor.to(layer.base.weight) for tensor in fitted[name])
        replace_layer(plain, name, plain_linear(weight, bias))
    return plain
