"""A task as two small files that peft reads. peft has no BitFit: its nearest is a LoRA with `bias="all"`, whose file holds the biases too.

    adapter_config.json        a LoRA of rank 1 on a single layer, bias="all"
    adapter_model.safetensors  its two matrices, zeros; and every bias of the model, as it is after training

With both matrices zero neither gets a gradient, so that in peft too the biases alone are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bitfit import bias_parameters
from onepiece.adaptation import common_config, expect_shape, linear_shapes, read_config, read_tensors, write_adapter

PREFIX = "base_model.model."
Biases = Mapping[str, Tensor]
"""Name of a bias in the model -> its values, (out,)."""


# Exercise 4. peft wraps a model twice, so that every name begins with base_model.model. The layer that has the LoRA is wrapped once
# more: what was layers.0.mlp.up.bias in the model is layers.0.mlp.up.base_layer.bias there. The biases of all other layers keep their
# names. Take the tensors detached and contiguous, on the CPU.
def file_tensors(biases: Biases, wrapped: str) -> dict[str, Tensor]:
    """Name in the file -> bias.

    Args:
        biases: of the model, by their names there.
        wrapped: name of the layer that has the LoRA.
    """
    # SOLUTION 4
    tensors = {}
    for name, bias in biases.items():
        inside = f"{wrapped}.base_layer.bias" if name == f"{wrapped}.bias" else name
        tensors[PREFIX + inside] = bias.detach().cpu().contiguous()
    return tensors
    # END SOLUTION


def save_biases(model: nn.Module, directory: Path | str, base_model_name: str) -> Path:
    """Write the biases of a model as peft does; the directory, made if need be.

    Raises:
        ValueError: the model has no biases.
    """
    biases = bias_parameters(model)
    if not biases:
        msg = f"{type(model).__name__} has no biases: there is nothing to save"
        raise ValueError(msg)
    wrapped, (into, out) = next(iter(linear_shapes(model).items()))
    zeros = {f"{PREFIX}{wrapped}.lora_A.weight": torch.zeros(1, into), f"{PREFIX}{wrapped}.lora_B.weight": torch.zeros(out, 1)}
    own = {"r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "bias": "all", "target_modules": [wrapped]}
    return write_adapter(directory, common_config("LORA", base_model_name) | own, file_tensors(biases, wrapped) | zeros)


def read_biases(model: nn.Module, directory: Path | str) -> dict[str, Tensor]:
    """Name -> values, of saved biases that fit this model; the model is not changed.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the file holds something other than biases, was made for another model, or lacks one of this model's.
    """
    config = read_config(directory, "BitFit", unused={"peft_type": "LORA", "modules_to_save": None})
    if config.get("bias") != "all":
        msg = f"{directory} holds no biases: its configuration says bias={config.get('bias')!r}, not 'all'. Is it a LoRA?"
        raise ValueError(msg)
    here, found = bias_parameters(model), {}
    for name, tensor in read_tensors(directory).items():
        if ".lora_" in name:
            if tensor.count_nonzero():
                msg = f"{directory} is not plain BitFit: {name} is not zero, so that a LoRA was trained beside the biases"
                raise ValueError(msg)
            continue
        own = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        if own not in here:
            msg = f"{directory} was made for another model: this one has no bias {own}"
            raise ValueError(msg)
        expect_shape(own, tensor, tuple(here[own].shape))
        found[own] = tensor
    if missing := [name for name in here if name not in found]:
        msg = f"{directory}: {missing[0]} is missing, and what the model has there belongs to whichever task was loaded before"
        raise ValueError(msg)
    return found


@torch.no_grad()
def use_biases(model: nn.Module, biases: Biases) -> None:
    """Switch to these biases, in place: the base's too are only biases, so keep them.

    Raises:
        ValueError: they are not those of the model; it is then as it was.
    """
    here = bias_parameters(model)
    if set(biases) != set(here):
        msg = f"{len(biases)} biases do not fit a model with {len(here)}: other names, or some are missing"
        raise ValueError(msg)
    for name, bias in here.items():
        bias.copy_(biases[name])


def copied_biases(model: nn.Module) -> dict[str, Tensor]:
    """Name -> a copy of its values: what to go back to."""
    return {name: bias.detach().clone() for name, bias in bias_parameters(model).items()}
