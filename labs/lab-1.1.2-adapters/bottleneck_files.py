"""An adapter as two small files. No library of this course reads them; the configuration has the names of the `adapters` library:

    adapter_config.json        {"config": {"mh_adapter": ..., "reduction_factor": ..., "leave_out": [...], ...}, "hidden_size": ...}
    adapter_model.safetensors  four tensors for each layer that has an adapter, and nothing of the base model

`leave_out` says which layers have none. A reader that forgets it runs something there that no training has seen run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adapters import AdapterSettings, adapted_layers, adapter_places, add_adapters, bottleneck_width, use_adapter
from onepiece.adaptation import CONFIG, expect_shape, read_tensors, write_adapter

_NOT_USED: dict[str, Any] = {
    "is_parallel": False, "scaling": 1.0, "use_gating": False, "ln_before": False, "ln_after": False, "phm_layer": False,
    "inv_adapter": None, "cross_adapter": False, "dropout": 0.0,
}  # fmt: skip
"""What the library can do and this lesson cannot: value of the configuration that means "not used"."""
_PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def adapter_tensors(model: nn.Module, *, position: int = 0) -> dict[str, Tensor]:
    """Name in the file -> tensor, of each layer whose adapters run; those that are left out are not among them."""
    tensors = {}
    for name, layer in adapted_layers(model).items():
        if layer.active:
            tensors |= {f"{name}.{part}": layer.stack[position].get_parameter(part).detach().cpu().contiguous() for part in _PARTS}
    return tensors


def save_adapter(model: nn.Module, settings: AdapterSettings, directory: Path | str, base_model_name: str, *, position: int = 0) -> Path:
    """Write one adapter of a model; the directory, made if need be.

    Args:
        settings: what is said of it; its `leave_out` must be the layers that are left out.
        position: in the stack, from 0 at the bottom.

    Raises:
        ValueError: the model has no adapters, or others run than the settings say.
    """
    running = [name for name, layer in adapted_layers(model).items() if layer.active]
    if running and running != list(adapter_places(model, settings)):
        msg = "other adapters run in the model than its settings say: leave_out must name the layers that are left out"
        raise ValueError(msg)
    hidden = next((layer.out_features for layer in adapted_layers(model).values()), 0)
    config = {"config": asdict(settings), "hidden_size": hidden, "model_name": base_model_name}
    return write_adapter(directory, config, adapter_tensors(model, position=position))


def read_settings(directory: Path | str) -> AdapterSettings:
    """The settings of a saved adapter.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: it uses something that is not in this lesson, or lacks a field; says what.
    """
    config = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8")).get("config")
    if not isinstance(config, dict):
        msg = f"{directory} is no bottleneck adapter: its configuration has no config"
        raise ValueError(msg)
    for key, plain in _NOT_USED.items():
        if config.get(key, plain) != plain:
            msg = f"{directory} is not a plain bottleneck adapter: {key} is {config[key]!r}"
            raise ValueError(msg)
    needed = ("mh_adapter", "output_adapter", "reduction_factor", "non_linearity")
    if missing := [key for key in needed if key not in config]:
        msg = f"{directory}: its configuration has no {missing[0]}"
        raise ValueError(msg)
    return AdapterSettings(**{key: config[key] for key in needed}, leave_out=tuple(config.get("leave_out", ())))


def read_adapter(model: nn.Module, directory: Path | str) -> tuple[AdapterSettings, dict[str, dict[str, Tensor]]]:
    """Settings, and name of a layer -> tensors of its adapter, of a saved adapter that fits this model; the model is not changed.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: a tensor is missing or one too many, or it was made for another model.
    """
    settings, found = read_settings(directory), read_tensors(directory)
    places, tensors = adapter_places(model, settings), {}
    for name, hidden in places.items():
        width = bottleneck_width(hidden, settings.reduction_factor)
        shapes = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
        if missing := [part for part in _PARTS if f"{name}.{part}" not in found]:
            msg = f"{directory}: the adapter of {name} has no {missing[0]}"
            raise ValueError(msg)
        tensors[name] = {part: found.pop(f"{name}.{part}") for part in _PARTS}
        for part, shape in shapes.items():
            expect_shape(f"{part} of {name}", tensors[name][part], shape)
    if found:
        msg = f"{directory}: its file has {min(found)}, and its configuration has no adapter there"
        raise ValueError(msg)
    return settings, tensors


def load_adapter(model: nn.Module, directory: Path | str) -> AdapterSettings:
    """Put a saved adapter into a model: in the place of the one that it has at the same places, or into one that has none.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: what `read_adapter` raises, or the model has adapters at other places; it is then as it was.
    """
    settings, tensors = read_adapter(model, directory)
    layers = adapted_layers(model)
    if not layers:
        add_adapters(model, settings, seed=0)  # all that is drawn is overwritten
    elif list(layers) != list(tensors):
        msg = f"the model has adapters in {len(layers)} places and the file in {len(tensors)}: load the base anew"
        raise ValueError(msg)
    use_adapter(model, tensors)
    return settings
