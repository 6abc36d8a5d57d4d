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
from onepiece.adaptation import (
    common_config,
    expect_shape,
    fitting_layer,
    layer_tensors,
    read_config,
    replace_layer,
    targeted_shapes,
    write_adapter,
)

# What peft can do and this lesson cannot: value of the configuration that means "not used". What is for training alone is left out.
_NOT_USED: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    **dict.fromkeys(("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"), False),
    "rank_pattern": {},
    "alpha_pattern": {},
    # other layers or weights than `target_modules` names
    **dict.fromkeys(("target_parameters", "exclude_modules", "layers_to_transform", "layer_replication"), None),
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "megatron_config"), None),
    # another product than B A, or one at some tokens only
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora"), None),
}
_BASE_UNCHANGED = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` after which W is what it was. The others (PiSSA, OLoRA, ...) take B A out of it first."""


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
    targets, start = config.get("target_modules"), config.get("init_lora_weights", True)
    if isinstance(targets, str) or not targets:  # a string is a pattern for peft
        msg = f"{directory} is not plain LoRA: target_modules is {targets!r}, and not a list of names"
        raise ValueError(msg)
    if start not in _BASE_UNCHANGED:
        msg = f"{directory} is not plain LoRA: init_lora_weights is {start!r}, which changes the base's weights"
        raise ValueError(msg)
    return LoraSettings(config.get("r", 8), config.get("lora_alpha", 8), tuple(sorted(targets)), bool(config.get("use_rslora")))


def load_adapter(model: nn.Module, directory: Path | str, *, name: str) -> LoraSettings:
    """Load a saved adapter under a name, and make it the active one. Other adapters of the model are kept.

    The model's layers are wrapped where they are not yet; its parameters are frozen, those of the adapter too.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter is not plain LoRA, its two files contradict each other, or it does not fit the model, which is
            then as it was.
    """
    settings = read_settings(directory)
    factors = layer_tensors(directory, "lora_A.weight", "lora_B.weight")
    _expect_fit(model, settings, factors, directory)  # all of it before anything of the model is changed
    model.requires_grad_(False)
    for layer_name, (lora_a, lora_b) in factors.items():
        layer = model.get_submodule(layer_name)
        if isinstance(layer, LoraLinear):
            layer.store(name, lora_a, lora_b, settings.scaling)
        else:
            replace_layer(model, layer_name, LoraLinear(layer, lora_a, lora_b, settings.scaling, name))
    use_adapter(model, name)
    return settings


def _expect_fit(model: nn.Module, settings: LoraSettings, factors: dict[str, tuple[Tensor, ...]], directory: Path | str) -> None:
    """Refuse, with a ValueError, tensors that are not those of these settings on this model."""
    for name, (lora_a, lora_b) in factors.items():
        layer = fitting_layer(model, name)
        if len(lora_a) != settings.rank:
            msg = f"{directory}: its configuration says rank {settings.rank}, but A of {name} has rank {len(lora_a)}"
            raise ValueError(msg)
        expect_shape(f"A of {name}", lora_a, (settings.rank, layer.in_features))
        expect_shape(f"B of {name}", lora_b, (layer.out_features, settings.rank))
    targeted = targeted_shapes(model, settings.targets)
    if missing := [name for name in targeted if name not in factors]:
        msg = f"{directory}: its configuration targets {missing[0]}, and its file has no tensors of that layer"
        raise ValueError(msg)
    if more := [name for name in factors if name not in targeted]:
        msg = f"{directory}: its file has tensors of {more[0]}, which its configuration does not target"
        raise ValueError(msg)


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
