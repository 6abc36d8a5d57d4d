"""Folding an adapter into its matrix: W + (alpha / r) B A, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftModel


# Exercise 8. Merge.
# The adapted layer computes x W^T + (alpha / r) (x A^T) B^T. Which single matrix gives the same for every x?
def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float, rank: int) -> Tensor:
    """One matrix that does what the frozen one and its adapter do together (https://arxiv.org/abs/2106.09685, section 4.1).

    Args:
        weight: W, (out, in); not changed.
        lora_a: A, (r, in).
        lora_b: B, (out, r).
        alpha, rank: the update is scaled by alpha / r, so that changing r does not call for another learning rate.

    Returns:
        (out, in)
    """
    # SOLUTION 8
    return weight + (alpha / rank) * (lora_b @ lora_a)  # (out, r) @ (r, in) -> (out, in)
    # END SOLUTION


def merge_by_hand(model: PeftModel, scale: float | None = None) -> dict[str, Tensor]:
    """The merged matrix of every adapted layer of a model, by the layer's name in the base.

    Args:
        model: a model with one active LoRA adapter.
        scale: None for the right one; another number is a mistake on purpose, for the control.
    """
    settings = model.active_peft_config
    alpha, rank = (settings.lora_alpha, settings.r) if scale is None else (scale, 1)
    weights = {}
    for name, layer in model.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            lora_a, lora_b = (part[model.active_adapter].weight for part in (layer.lora_A, layer.lora_B))
            weights[name] = merged_weight(layer.base_layer.weight, lora_a, lora_b, alpha, rank).detach()
    return weights


def put_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Write matrices into the layers of a plain model, in place."""
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_submodule(name).weight.copy_(weight)
