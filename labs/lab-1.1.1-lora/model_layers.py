"""The linear layers of a model: which there are, which a method is to change, and how one is put in another's place."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

Shapes = Mapping[str, tuple[int, int]]
"""Name of a linear layer -> (in, out)."""

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama or Qwen block; embeddings and head are not among them."""


def is_linear(module: nn.Module) -> bool:
    """Any layer that maps `in_features` to `out_features`: nn.Linear, its quantised relatives, LoraLinear."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of all linear layers of a model; a layer inside a linear layer (what LoRA wraps) is left out."""
    layers = {name: module for name, module in model.named_modules() if is_linear(module)}
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in layers.items()
        if name.rpartition(".")[0] not in layers
    }  # fmt: skip


def targeted_shapes(model_or_shapes: nn.Module | Shapes, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of the linear layers whose name ends with one of `targets`, in the order of the model.

    Raises:
        ValueError: a target matches nothing; says what there is.
    """
    shapes = linear_shapes(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else dict(model_or_shapes)
    for target in targets:
        if not any(ends_with(name, target) for name in shapes):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in shapes})) or "none"
            msg = f"no linear layer is named {target!r}; the linear layers here: {there}"
            raise ValueError(msg)
    return {name: shape for name, shape in shapes.items() if any(ends_with(name, target) for target in targets)}


def ends_with(name: str, target: str) -> bool:
    """Whole parts of a name only: `proj` is not the end of `layers.0.q_proj`, `q_proj` is."""
    return f".{name}".endswith(f".{target}")


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the layer called `name` is."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
