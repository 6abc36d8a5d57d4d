"""Vectors as two small files, in the format of peft: any tool that reads peft's adapters reads these.

    adapter_config.json        which layers, and which of them on the inputs (peft calls those `feedforward_modules`)
    adapter_model.safetensors  a vector for each layer, and nothing of the base model

Here is what (IA)3 has in them; `onepiece.adaptation.adapter_files` opens and writes such files for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ia3 import Ia3Settings, add_ia3, ia3_layers
from onepiece.adaptation import common_config, expect_shape, fitting_layer, layer_tensors, read_config, targeted_shapes, write_adapter

_NOT_USED: dict[str, Any] = {"peft_type": "IA3", "fan_in_fan_out": False, "modules_to_save": None, "exclude_modules": None}
"""What peft can do and this lesson cannot: value of the configuration that means "not used"."""


# Exercise 5. peft wraps a model twice, so that a layer called model.layers.0.mlp.down_proj is saved as
#     base_model.model.model.layers.0.mlp.down_proj.ia3_l
# peft keeps a vector as a matrix that broadcasts over the weight, which is (out, in): what shape has one on the outputs, and what
# shape one on the inputs? Take the tensors detached and contiguous, on the CPU.
def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name in the file -> vector, of each layer that has one."""
    # SOLUTION 5
    tensors = {}
    for name, layer in ia3_layers(model).items():
        shape = (1, -1) if layer.on_input else (-1, 1)
        tensors[f"base_model.model.{name}.ia3_l"] = layer.scale.detach().cpu().reshape(shape).contiguous()
    return tensors
    # END SOLUTION


def save_adapter(model: nn.Module, settings: Ia3Settings, directory: Path | str, base_model_name: str) -> Path:
    """Write the vectors of a model as peft does; the directory, made if need be.

    Raises:
        ValueError: the model has no vectors.
    """
    own = {"target_modules": sorted(settings.targets), "feedforward_modules": sorted(settings.inputs)}
    return write_adapter(directory, common_config("IA3", base_model_name) | own, adapter_tensors(model))


def read_settings(directory: Path | str) -> Ia3Settings:
    """The settings of a saved adapter.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter uses something of peft that is not plain (IA)3; says what.
    """
    config = read_config(directory, "(IA)3", unused=_NOT_USED)
    targets, inputs = config.get("target_modules"), config.get("feedforward_modules") or []
    for key, names in (("target_modules", targets), ("feedforward_modules", inputs)):
        if isinstance(names, str) or (key == "target_modules" and not names):  # a string is a pattern for peft
            msg = f"{directory} is not plain (IA)3: {key} is {names!r}, and not a list of names"
            raise ValueError(msg)
    if stray := set(inputs) - set(targets):
        msg = f"{directory}: feedforward_modules has {min(stray)}, which is not among its target_modules"
        raise ValueError(msg)
    return Ia3Settings(tuple(sorted(set(targets) - set(inputs))), tuple(sorted(inputs)))


def read_vectors(model: nn.Module, directory: Path | str) -> tuple[Ia3Settings, dict[str, Tensor]]:
    """Settings, and name of a layer -> its vector, of a saved adapter that fits this model; the model is not changed.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter is not plain (IA)3, its two files contradict each other, or it was made for another model.
    """
    settings = read_settings(directory)
    found = layer_tensors(directory, "ia3_l")
    on_inputs = targeted_shapes(model, settings.inputs)
    for name, (vector,) in found.items():
        layer = fitting_layer(model, name)
        expect_shape(f"ia3_l of {name}", vector, (1, layer.in_features) if name in on_inputs else (layer.out_features, 1))
    targeted = targeted_shapes(model, settings.targets)
    if missing := [name for name in targeted if name not in found]:
        msg = f"{directory}: its configuration targets {missing[0]}, and its file has no vector of that layer"
        raise ValueError(msg)
    if more := [name for name in found if name not in targeted]:
        msg = f"{directory}: its file has a vector of {more[0]}, which its configuration does not target"
        raise ValueError(msg)
    return settings, {name: vector.flatten() for name, (vector,) in found.items()}  # (1, in) or (out, 1) -> (features,)


def load_adapter(model: nn.Module, directory: Path | str) -> Ia3Settings:
    """Put saved vectors into a model: in the place of those that it has, or into layers that have none yet.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: what `read_vectors` raises; the model is then as it was.
    """
    settings, vectors = read_vectors(model, directory)
    if not ia3_layers(model):
        add_ia3(model, settings)
    use_vectors(model, vectors)
    return settings


@torch.no_grad()
def use_vectors(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Switch to these vectors: a copy of a few hundred numbers for each layer.

    Raises:
        ValueError: they are not those of the model's layers.
    """
    layers = ia3_layers(model)
    if set(vectors) != set(layers):
        msg = f"vectors of {len(vectors)} layers do not fit a model with {len(layers)} rescaled layers: other names"
        raise ValueError(msg)
    for name, layer in layers.items():
        layer.scale.copy_(vectors[name])
