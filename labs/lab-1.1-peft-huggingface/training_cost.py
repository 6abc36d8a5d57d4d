"""What a parameter costs: the bytes of a training step, as a formula and as they are held.

training_bytes(frozen=0, trained=6_738_415_616).total                     # full fine-tuning in float32
training_bytes(frozen=6_738_415_616, trained=4_194_304, frozen_bytes=2)   # LoRA beside a bfloat16 base
held_bytes(model, optimizer)                                              # added up from real tensors
saved_for_backward(model, lambda: loss(model, batch))                     # activations, counted while a forward pass makes them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

NF4_BLOCK = 64
"""Weights that share one scale in QLoRA's 4-bit format (https://arxiv.org/abs/2305.14314, section 3)."""
NF4_SCALES = 256
"""Scales that share one scale of their own: the double quantisation of the same section."""


@dataclass(frozen=True, slots=True)
class TrainingBytes:
    """Bytes that stay for the whole training, in three parts."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Bytes of all three."""
        return self.weights + self.gradients + self.optimizer


# Exercise 1. How many bytes does a training step take?
# Every parameter is held. A trained one also has a gradient and two running means in AdamW: of its gradient and of the
# gradient's square (https://arxiv.org/abs/1412.6980, algorithm 1). All of these are kept in the type of the trained weight.
def training_bytes(frozen: int, trained: int, *, frozen_bytes: float = 4, trained_bytes: float = 4) -> TrainingBytes:
    """What training with AdamW holds, apart from activations.

    Args:
        frozen: number of parameters that are not trained.
        trained: number of parameters that are.
        frozen_bytes: bytes of one frozen parameter: 4 in float32, 2 in bfloat16, about 0.52 in nf4.
        trained_bytes: bytes of one trained parameter, of its gradient, and of each of its two means.
    """
    # SOLUTION 1
    return TrainingBytes(
        weights=frozen * frozen_bytes + trained * trained_bytes,
        gradients=trained * trained_bytes,
        optimizer=2 * trained * trained_bytes,
    )
    # END SOLUTION


def held_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingBytes:
    """The same three parts, added up from the tensors of a model that has just made a step and kept its gradients.

    Single numbers (AdamW counts its steps in one per tensor) are left out: they do not grow with the model.
    """
    weights = list(model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values()]
    return TrainingBytes(
        weights=tensor_bytes(weights),
        gradients=tensor_bytes(weight.grad for weight in weights if weight.grad is not None),
        optimizer=tensor_bytes(value for value in states if isinstance(value, torch.Tensor) and value.dim() > 0),
    )


def saved_for_backward(model: torch.nn.Module, compute: Callable[[], torch.Tensor]) -> int:
    """Bytes of activations that autograd keeps from a forward pass for the backward pass; the model's own weights are not among them.

    Args:
        compute: runs the forward pass and returns the loss, which holds what was kept.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # several views of one storage take its memory once
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = compute()
    del loss
    return sum(kept.values())


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the values of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def nf4_bytes() -> float:
    """Bytes of one weight in QLoRA's format: 4 bits, an 8-bit scale per block, and a float32 scale per 256 scales."""
    return 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * NF4_SCALES)
