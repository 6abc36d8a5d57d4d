"""An adapter as two small files, in the format of peft: any tool that reads peft's adapters reads these.

    adapter_config.json        which layers, which rank, which scale
    adapter_model.safetensors  A and B of each layer, and nothing of the base model

Here is what LoRA has in them; `onepiece.adaptation.adapter_files` opens and writes such files for every method.
Several adapters can be loaded into one base model, each under its own name; `use_adapter` switches between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora import LoraLinear, LoraSettings, lora_layers, set_enabled
from onepiece.adaptation import common_config, expect_shape, fitting_layer, layer_tensors, read_config, replace_layer, write_adapter

# What peft can do and this lesson cannot: value of the configuration that means "not used".
_NOT_USED: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "trainable_token_indices": None,
}


# Exercise 7. peft wraps a model twice, in a PeftModel (its attribute is `base_model`) and in a LoraModel (attribute
# `model`). So a layer called model.layers.0.self_attn.q_proj is saved as
#     base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
# and likewise lora_B: A and B are linear layers there, so their tensors are named `weight`. The shapes are ours. Take the
# tensors of the active adapter, detached and contiguous, on the CPU.
def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name in the file -> tensor, of the active adapter of each LoRA layer."""
    # SOLUTION 7
    tensors = {}
    for name, layer in lora_layers(model).items():
        for factor, tensor in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b)):
            tensors[f"base_model.model.{name}.{factor}.weight"] = tensor.detach().cpu().contiguous()
    return tensors
    # END SOLUTION


def adapter_config(settings: LoraSettings, base_model_name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    return common_config("LORA", base_model_name) | {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rank_stabilized,
        "target_modules": sorted(settings.targets),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def save_adapter(model: nn.Module, settings: LoraSettings, directory: Path | str, base_model_name: str) -> Path:
    """Write the active adapter of a model as peft does; the directory, made if need be.

    Raises:
        ValueError: the model has no LoRA layers.
    """
    return write_adapter(directory, adapter_config(settings, base_model_name), adapter_tensors(model))


def read_settings(directory: Path | str) -> LoraSettings:
    """The settings of a saved adapter.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter uses something of peft that is not plain LoRA; says what.
    """
    config = read_config(directory, "LoRA", unused=_NOT_USED)
    targets = config["target_modules"]
    targets = (targets,) if isinstance(targets, str) else tuple(sorted(targets))
    return LoraSettings(config["r"], config["lora_alpha"], targets, bool(config.get("use_rslora")))


def load_adapter(model: nn.Module, directory: Path | str, *, name: str) -> LoraSettings:
    """Load a saved adapter under a name, and make it the active one. Other adapters of the model are kept.

    The model's layers are wrapped where they are not yet; its parameters are frozen, those of the adapter too.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter is not plain LoRA, or does not fit the model, which is then as it was.
    """
    settings = read_settings(directory)
    factors = layer_tensors(directory, "lora_A.weight", "lora_B.weight")
    for layer_name, (lora_a, lora_b) in factors.items():  # all of them before anything of the model is changed
        layer = fitting_layer(model, layer_name)
        expect_shape(f"A of {layer_name}", lora_a, (settings.rank, layer.in_features))
        expect_shape(f"B of {layer_name}", lora_b, (layer.out_features, settings.rank))
    model.requires_grad_(False)
    for layer_name, (lora_a, lora_b) in factors.items():
        layer = model.get_submodule(layer_name)
        if isinstance(layer, LoraLinear):
            layer.store(name, lora_a, lora_b, settings.scaling)
        else:
            replace_layer(model, layer_name, LoraLinear(layer, lora_a, lora_b, settings.scaling, name))
    use_adapter(model, name)
    return settings


def adapter_names(model: nn.Module) -> list[str]:
    """The adapters that a model holds, in the order they came."""
    return list(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.adapters))


@torch.no_grad()
def use_adapter(model: nn.Module, name: str | None) -> None:
    """Switch to a loaded adapter, or to the base model alone. No weight is copied, so it costs no time.

    Args:
        name: of an adapter, or None for the base. A layer that the adapter does not have computes as its base does.

    Raises:
        ValueError: there is no such adapter, or a layer is merged.
    """
    if name is not None and name not in adapter_names(model):
        msg = f"there is no adapter {name!r}; loaded: {', '.join(adapter_names(model)) or 'none'}"
        raise ValueError(msg)
    set_enabled(model, False)
    if name is None:
        return
    for layer in lora_layers(model).values():
        if name in layer.adapters:
            layer.activate(name)
            layer.enabled = True
