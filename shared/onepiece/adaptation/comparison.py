"""Are two models the same, nearly the same, or different? Three answers: by their logits, step by step, bit by bit.

    distance(logits_of(merged, batch), logits_of(model, batch))    # of the largest logit: 1e-6 is rounding, 1e-2 is a mistake

    def train(model):
        return fit(model, task, steps=12, learning_rate=8e-3, batch_size=16, seed=0, progress=False)

    own, reference = traced(mine, train, batch), traced(peft_model, train, batch)
    own.apart_from(reference)                                      # Apart(before=0.0, loss=0.0, after=0.0): one method

    frozen = tensor_hashes(model)                                  # before something is put into it
    changed_tensors(frozen, tensor_hashes(model, base_name))       # after it was trained: none

Answers say less than logits: a wrong merge can still answer 99% right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onepiece.data import Batch
from onepiece.training import History, to_device

# ---------------------------------------------------------------------------------------------- logits


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The logits at the real tokens of a batch, (tokens, vocabulary), on the model's device; without dropout.

    What a kernel puts at padding means nothing, and what a soft prompt puts before the text belongs to no token of it: both are
    left out, so that models with and without a prompt can be compared.

    Args:
        model: a causal language model of Transformers, or one with an adapter in it; it keeps its mode.
        batch: as a `Collator` makes it, or `input_ids` and `attention_mask`; labels are not looked at.
    """
    given = to_device({name: value for name, value in batch.items() if name != "labels"}, model)
    was_training = model.training
    model.eval()
    logits = model(**given).logits
    model.train(was_training)
    real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
    return logits[:, -real.shape[1] :][real]  # (batch, prompt + seq, vocabulary) -> (batch, seq, ...) -> (tokens, vocabulary)


def largest_difference(got: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference between two tensors of one shape, wherever they are; not a number if one of them has one.

    Raises:
        ValueError: the shapes differ.
    """
    if got.shape != wanted.shape:
        msg = f"{tuple(got.shape)} cannot be compared with {tuple(wanted.shape)}"
        raise ValueError(msg)
    # Two bfloat16 numbers are subtracted as float32: the difference would be rounded once more.
    dtype = torch.promote_types(torch.promote_types(got.dtype, wanted.dtype), torch.float32)
    return float((got.to(wanted.device, dtype) - wanted.to(dtype)).abs().max())


def distance(got: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference, as a share of the largest absolute value wanted.

    An absolute bound would not do: logits of 20 have a rounding unit 20 times that of 1.

    Raises:
        ValueError: the shapes differ.
    """
    return largest_difference(got, wanted) / float(wanted.abs().max())


# ---------------------------------------------------------------------------------------------- step by step


@dataclass(frozen=True, slots=True)
class Apart:
    """How far one training is from another."""

    before: float
    """Distance of the logits before the first step: more than rounding, and the start values were not equal."""
    loss: float
    """Largest difference of the losses of a step, in nats."""
    after: float
    """Distance of the logits after the last step."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a training did."""

    losses: Sequence[float]
    """Of each step, in nats per counted token."""
    before: Tensor
    """Logits before the first step, (tokens, vocabulary)."""
    after: Tensor
    """The same after the last one."""

    def apart_from(self, wanted: Trace) -> Apart:
        """How far this training is from one of as many steps, on the same batches.

        Raises:
            ValueError: they do not have as many steps, or not the same tokens.
        """
        loss = loss_difference(self.losses, wanted.losses)
        return Apart(distance(self.before, wanted.before), loss, distance(self.after, wanted.after))


def traced(model: nn.Module, train: Callable[[nn.Module], History], batch: Batch) -> Trace:
    """Train a model, and keep what two trainings are compared by.

    Args:
        model: whatever is trainable in it is trained, in place. Not one of bitsandbytes in 4 bits: on some CPUs it cannot be
            trained any more once it was evaluated.
        train: trains it: the same batches, rates and seed for all that are compared.
        batch: for the logits, as `logits_of` takes it.
    """
    before = logits_of(model, batch)
    losses = train(model).losses
    return Trace(losses, before, logits_of(model, batch))


def loss_difference(got: Sequence[float], wanted: Sequence[float]) -> float:
    """Largest difference of two loss curves at the same step, in nats; not a number if one of them has one.

    Raises:
        ValueError: the curves do not have as many steps.
    """
    # Not Python's `max`, which passes over a NaN that does not come first.
    return largest_difference(torch.tensor(got, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- bit by bit


def tensor_hashes(model: nn.Module, base_name: Callable[[str], str | None] = str) -> dict[str, str]:
    """SHA-256 of every tensor of a model's state, buffers that are saved among them.

    Args:
        base_name: the name of a tensor here -> its name in the base model, or None for one that the base does not have. What a
            method puts around a layer changes the names of the tensors inside: with `base.q_proj.weight` for `q_proj.weight`, say.
    """
    named = {base_name(name): tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    # As bytes, because NumPy has no bfloat16; flat, because a single number has no bytes to be viewed as.
    flat = {name: tensor.detach().cpu().reshape(-1).view(torch.uint8) for name, tensor in named.items() if name is not None}
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in flat.items()}


def changed_tensors(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the tensors of `before` that are other ones in `after`, to the bit, or are gone; both as `tensor_hashes` gives them."""
    return [name for name, value in before.items() if after.get(name) != value]
