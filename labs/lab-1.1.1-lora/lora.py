"""LoRA: a frozen linear layer with a trainable low-rank update beside it, written from the paper.

Read from top to bottom: the settings and the scale, the count, the start values, the layer, putting it into a model,
taking it out again. Papers: LoRA, https://arxiv.org/abs/2106.09685; the scale that allows large ranks (rsLoRA),
https://arxiv.org/abs/2312.03732.

    h = W x + scaling * B A x        (LoRA, equation 3; scaling = alpha / rank, section 4.1)

Conventions
    base    W, (out, in): the layer that is there already; frozen, of whatever kind (`nn.Linear`, 4-bit)
    lora_a  A, (rank, in): random at the start
    lora_b  B, (out, rank): zero at the start, so that training begins with exactly the base model
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from onepiece.adaptation import Shapes, dense_weight, forget_quantization, plain_linear, replace_layer, targeted_shapes

# ---------------------------------------------------------------------------------------------- 1. settings and scale


@dataclass(frozen=True)
class LoraSettings:
    """What has to be chosen before LoRA can be put into a model.

    Raises:
        ValueError: the rank is below 1, or `targets` is empty or a single string.
    """

    rank: int
    """Width of the bottleneck: numbers that pass from A to B per token."""
    alpha: float
    """Numerator of the scale. Held fixed, it spares a new search for the learning rate at each new rank."""
    targets: tuple[str, ...]
    """Last parts of the names of the layers to adapt, such as `q_proj`."""
    rank_stabilized: bool = False
    """Divide by sqrt(rank) instead of rank (rsLoRA)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            msg = f"rank must be at least 1, not {self.rank}"
            raise ValueError(msg)
        if isinstance(self.targets, str) or not self.targets:
            msg = f"targets must be a tuple of layer names such as ('q_proj', 'v_proj'), not {self.targets!r}"
            raise ValueError(msg)

    # Exercise 1. The scale in front of B A x: alpha / rank (LoRA, section 4.1). B A x is a sum of `rank` terms, so dividing
    # by the rank is more than is needed to keep its size when the rank grows: rsLoRA proves that alpha / sqrt(rank) neither
    # grows nor vanishes (arXiv 2312.03732, theorem 3.2).
    @property
    def scaling(self) -> float:
        """The factor on the low-rank update, standard or rank-stabilised."""
        # SOLUTION 1
        return self.alpha / math.sqrt(self.rank) if self.rank_stabilized else self.alpha / self.rank
        # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. how many numbers


# Exercise 2. How many numbers does LoRA train? A is (rank, in) and B is (out, rank), for each targeted layer. It depends
# on shapes alone, so it can be asked of a 7B model without a byte of its weights.
def lora_parameter_count(model_or_shapes: nn.Module | Shapes, settings: LoraSettings) -> int:
    """Trainable parameters with these settings.

    Args:
        model_or_shapes: a model, on the `meta` device too; or name -> (in, out) of its linear layers.
    """
    shapes = targeted_shapes(model_or_shapes, settings.targets)
    # SOLUTION 2
    return sum(settings.rank * (in_features + out_features) for in_features, out_features in shapes.values())
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. the layer


# Exercise 3. Where does training begin? The product B A must be zero, so that the adapted model is the base model. Both
# zero would never move: the gradient of each has the other as a factor. So B is zero, and A is random: uniform between
# -1/sqrt(in) and 1/sqrt(in), which is nn.init.kaiming_uniform_ with a=math.sqrt(5), what peft and the authors' own code
# use. (The paper's section 4.1 says Gaussian.) Draw A from `generator`, in float32.
def initial_factors(in_features: int, out_features: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A, (rank, in), and B, (out, rank), before the first step."""
    # SOLUTION 3
    lora_a = torch.empty(rank, in_features)
    nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5), generator=generator)
    lora_b = torch.zeros(out_features, rank)
    # END SOLUTION
    return lora_a, lora_b


class Factors(NamedTuple):
    """One adapter of one layer."""

    lora_a: nn.Parameter  # (rank, in)
    lora_b: nn.Parameter  # (out, rank)
    scaling: float


class LoraLinear(nn.Module):
    """A frozen linear layer and, beside it, the update `scaling * B A`.

    Several adapters may be kept by name in `adapters`; `lora_a`, `lora_b` and `scaling` are those of the active one. The
    others are no parameters of the model: they stay where they are when the model is moved.
    """

    def __init__(self, base: nn.Module, lora_a: Tensor, lora_b: Tensor, scaling: float, name: str = "default") -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features: int = base.in_features
        self.out_features: int = base.out_features
        self.adapters: dict[str, Factors] = {}
        self.enabled = True
        self.merged = False
        self.store(name, lora_a, lora_b, scaling)
        self.activate(name)

    def store(self, name: str, lora_a: Tensor, lora_b: Tensor, scaling: float) -> None:
        """Keep an adapter, on the device of the base layer, without making it the active one."""
        device = self.base.weight.device
        self.adapters[name] = Factors(nn.Parameter(lora_a.to(device)), nn.Parameter(lora_b.to(device)), scaling)

    def activate(self, name: str) -> None:
        """Make a stored adapter the active one: three assignments, nothing is copied."""
        self.lora_a, self.lora_b, self.scaling = self.adapters[name]

    # Exercise 4. Equation 3 of the paper, for row vectors: inputs A^T is (..., rank), and that times B^T is (..., out).
    # Multiply in this order. (B A first would make an (out, in) matrix at every step: all that LoRA avoids.) Scale where
    # the tensor is smallest.
    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype that the base layer gives."""
        outputs = self.base(inputs)  # (..., in) -> (..., out)
        if self.merged or not self.enabled:
            return outputs
        inputs = inputs.to(self.lora_a.dtype)  # a base in bfloat16 may have adapters in float32
        # SOLUTION 4
        bottleneck = functional.linear(inputs, self.lora_a)  # (..., in) -> (..., rank)
        update = functional.linear(self.scaling * bottleneck, self.lora_b)  # (..., rank) -> (..., out)
        # END SOLUTION
        return outputs + update.to(outputs.dtype)

    # Exercise 6, part a. The same update as a matrix: scaling * B A, in the order in which the shapes fit.
    @property
    def delta_weight(self) -> Tensor:
        """What the adapter adds to W, (out, in)."""
        # SOLUTION 6
        return self.scaling * (self.lora_b @ self.lora_a)  # (out, rank) @ (rank, in) -> (out, in)
        # END SOLUTION

    # Exercise 6, part b. Add the update to the base's weight in place (`+=`, `add_`), so that inference costs nothing extra
    # (LoRA, section 4.1, "No Additional Inference Latency"). The layer remembers it in `self.merged`, and twice must be no
    # more than once.
    @torch.no_grad()
    def merge(self) -> None:
        """Put the active adapter into the base's weight; nothing happens if it is in there.

        Raises:
            TypeError: the base is quantised. `merge_lora` makes a plain layer of it.
        """
        if not isinstance(self.base, nn.Linear) or not self.base.weight.is_floating_point():
            msg = f"a {type(self.base).__name__} cannot be changed in place: use merge_lora(model)"
            raise TypeError(msg)
        # SOLUTION 6
        if not self.merged:
            self.base.weight += self.delta_weight.to(self.base.weight.dtype)
            self.merged = True
        # END SOLUTION

    # Exercise 6, part c. Take it out again. It comes back within rounding, not bit by bit: (w + d) - d is not always w.
    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the active adapter out of the base's weight; nothing happens if it is not in there."""
        # SOLUTION 6
        if self.merged:
            self.base.weight -= self.delta_weight.to(self.base.weight.dtype)
            self.merged = False
        # END SOLUTION

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"rank={self.lora_a.shape[0]}, scaling={self.scaling:g}, adapters={list(self.adapters)}"


# ---------------------------------------------------------------------------------------------- 4. into a model


# Exercise 5. Freeze everything, then put a LoraLinear in the place of each targeted layer. The order matters: what is made
# after the freezing keeps its gradient. `initial_factors` gives the start values; take them layer by layer, in the order
# of `names`, from the one generator. `replace_layer(model, name, layer)` puts a layer in place.
def add_lora(model: nn.Module, settings: LoraSettings, *, seed: int) -> list[str]:
    """Freeze a model and put fresh LoRA layers into it, in place; only they are trained afterwards.

    Args:
        seed: of A; it gives the same numbers on every device.

    Returns:
        The names of the adapted layers, in the order of the model.

    Raises:
        ValueError: a target matches nothing, or the model has LoRA layers already.
    """
    if lora_layers(model):
        msg = "the model has LoRA layers already: load it anew, or take them out with merge_lora"
        raise ValueError(msg)
    names = list(targeted_shapes(model, settings.targets))
    generator = torch.Generator().manual_seed(seed)
    # SOLUTION 5
    model.requires_grad_(False)
    for name in names:
        base = model.get_submodule(name)
        factors = initial_factors(base.in_features, base.out_features, settings.rank, generator)
        replace_layer(model, name, LoraLinear(base, *factors, settings.scaling))
    # END SOLUTION
    return names


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Name -> layer, of all LoRA layers in a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as its base does.

    Raises:
        ValueError: a layer is merged, so that the base is no longer there to compute with.
    """
    layers = lora_layers(model).values()
    before = [layer.enabled for layer in layers]
    set_enabled(model, False)
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


def set_enabled(model: nn.Module, enabled: bool) -> None:
    """Switch all LoRA layers on or off. Raises ValueError when a layer is merged."""
    merged = [name for name, layer in lora_layers(model).items() if layer.merged]
    if merged:
        msg = f"unmerge first: {merged[0]} and perhaps others are merged"
        raise ValueError(msg)
    for layer in lora_layers(model).values():
        layer.enabled = enabled


def set_scaling(model: nn.Module, scaling: float) -> None:
    """Give all LoRA layers this scale; 0 is the base model, between 0 and the trained one a weaker adapter."""
    for layer in lora_layers(model).values():
        layer.scaling = scaling


# ---------------------------------------------------------------------------------------------- 5. and out again


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """A copy of the model with each adapter added to its weight and plain `nn.Linear` in place; no LoRA layer is left.

    The model itself is unchanged. A 4-bit base comes out dense: the update does not fit on its 16 levels.
    """
    merged = copy.deepcopy(model)
    for name, layer in lora_layers(merged).items():
        weight = dense_weight(layer.base)  # (out, in); numbers, also where 4 bits stand for them
        if layer.enabled and not layer.merged:
            weight = weight + layer.delta_weight.to(weight.dtype)
        replace_layer(merged, name, plain_linear(weight, layer.base.bias).train(layer.training))
    forget_quantization(merged)
    return merged
