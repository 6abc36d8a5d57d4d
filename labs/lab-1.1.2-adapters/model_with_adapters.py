"""A base and its adapters as one model: the weights of both, and the few lines that put one behind the other.

    save_with_code(with_adapters(base, tensors, "swish"), directory)   # weights, adapters, and this file

Whatever loads models of Transformers loads the directory, if it is told to trust the code in it. Imports nothing of the course.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

_NON_LINEARITIES = {"relu": functional.relu, "swish": functional.silu, "gelu": functional.gelu}


class LinearThenAdapter(nn.Linear):
    """A linear layer with the names of its own tensors, and an adapter behind it."""

    def __init__(self, into: int, out: int, width: int, non_linearity: str, *, bias: bool) -> None:
        super().__init__(into, out, bias=bias)
        self.down, self.up = nn.Linear(out, width), nn.Linear(width, out)
        self.non_linearity = non_linearity

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        hidden = super().forward(inputs)
        return hidden + self.up(_NON_LINEARITIES[self.non_linearity](self.down(hidden)))


class _WithAdapters:
    """What both architectures get: `config.adapters` says behind which layers one stands, and how wide it is."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for name, width in config.adapters["widths"].items():
            layer, (parent, _, own) = self.get_submodule(name), name.rpartition(".")
            sizes = layer.in_features, layer.out_features, width
            adapted = LinearThenAdapter(*sizes, config.adapters["non_linearity"], bias=layer.bias is not None)
            setattr(self.get_submodule(parent), own, adapted)
        self.post_init()


class AdapterLlamaForCausalLM(_WithAdapters, LlamaForCausalLM):
    """A Llama with adapters."""


class AdapterQwen2ForCausalLM(_WithAdapters, Qwen2ForCausalLM):
    """A Qwen2 with adapters."""


def with_adapters(base: PreTrainedModel, tensors: Mapping[str, Mapping[str, torch.Tensor]], non_linearity: str) -> PreTrainedModel:
    """One model of a base and an adapter.

    Args:
        base: a Llama or a Qwen2; it is copied.
        tensors: name of a layer -> `down.weight`, `down.bias`, `up.weight`, `up.bias`.

    Raises:
        ValueError: the base is neither.
    """
    known = {"llama": AdapterLlamaForCausalLM, "qwen2": AdapterQwen2ForCausalLM}
    kind = known.get(base.config.model_type)
    if kind is None:
        msg = f"{base.config.model_type} is none of {', '.join(known)}: write a class for it, as those in this file"
        raise ValueError(msg)
    config = copy.deepcopy(base.config)
    widths = {name: len(parts["down.bias"]) for name, parts in tensors.items()}
    config.adapters = {"widths": widths, "non_linearity": non_linearity}
    model = kind(config).to(device=base.device, dtype=base.dtype)
    of_adapters = {f"{name}.{part}": tensor for name, parts in tensors.items() for part, tensor in parts.items()}
    model.load_state_dict(base.state_dict() | of_adapters)
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.eval()
