"""Something trainable around a frozen linear layer: into a model, found again, and folded into plain layers.

class Shifted(WrappedLinear):                                     # what a lesson writes
    def __init__(self, base):
        super().__init__(base)
        self.shift = nn.Parameter(torch.zeros(base.out_features))

    def forward(self, inputs):
        return self.base(inputs) + self.shift

    def folded(self):
        return plain_linear(self.base.weight, self.base.bias + self.shift.detach())

wrap_layers(model, ("q_proj", "v_proj"), Shifted)                 # freezes the rest
changed_tensors(frozen, tensor_hashes(model, base_names(model)))  # was it frozen?
plain = fold_layers(model)                                        # a copy without wrappers
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from onepiece.adaptation.linear_layers import forget_quantization, replace_layer, targeted_shapes


class WrappedLinear(nn.Module):
    """A frozen linear layer, and whatever a method puts around it: `forward` and `folded` are the method's to write."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features: int = base.in_features
        self.out_features: int = base.out_features

    def folded(self) -> nn.Linear:
        """The plain layer that computes the same."""
        raise NotImplementedError


Wrapped = TypeVar("Wrapped", bound=WrappedLinear)


def wrap_layers(model: nn.Module, targets: Sequence[str], wrap: Callable[[nn.Module], WrappedLinear]) -> list[str]:
    """Freeze a model, wrappers that are there already too, and put a new one around each targeted layer; in place.

    Args:
        targets: as `targeted_shapes` takes them.
        wrap: the layer that is there -> its wrapper. Called after the freezing, so that what it makes can be trained.

    Returns:
        The names of the wrapped layers, in the order of the model.

    Raises:
        ValueError: a target matches nothing, or a layer is wrapped already.
    """
    names = list(targeted_shapes(model, targets))
    if twice := [name for name in names if isinstance(model.get_submodule(name), WrappedLinear)]:
        msg = f"{twice[0]} is wrapped already: load the model anew, or fold it first"
        raise ValueError(msg)
    model.requires_grad_(False)
    for name in names:
        replace_layer(model, name, wrap(model.get_submodule(name)))
    return names


def wrapped_layers(model: nn.Module, kind: type[Wrapped] = WrappedLinear) -> dict[str, Wrapped]:
    """Name -> wrapper, of one kind or of all, in the order of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


@torch.no_grad()
def fold_layers(model: nn.Module) -> nn.Module:
    """A copy of a model in which each wrapper has become the plain layer that it stands for; the model itself is unchanged."""
    plain = copy.deepcopy(model)
    for name, layer in wrapped_layers(plain).items():
        replace_layer(plain, name, layer.folded().train(layer.training))
    forget_quantization(plain)
    return plain


def base_names(model: nn.Module) -> Callable[[str], str | None]:
    """What `tensor_hashes` asks: name of a tensor of this model -> its name in the base, or None for what a wrapper has added."""
    wrappers = [f"{name}." for name in wrapped_layers(model)]

    def base_name(name: str) -> str | None:
        wrapper = next((wrapper for wrapper in wrappers if name.startswith(wrapper)), None)
        if wrapper is None:
            return name
        inside = name.removeprefix(wrapper)
        return wrapper + inside.removeprefix("base.") if inside.startswith("base.") else None

    return base_name
