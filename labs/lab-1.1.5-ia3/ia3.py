"""(IA)3: a vector of factors on the keys, on the values and inside the feed-forward network, and nothing else is trained.

Read from top to bottom: where the vectors go, how many numbers that is, the layer, into a model, folded out of it again.
Source: Liu et al. (2022), https://arxiv.org/abs/2205.05638.

    keys    K' = l_k * K          values    V' = l_v * V          inside the MLP    h' = l_ff * h

A factor stands before or behind a linear layer, so that two kinds of place are enough:

    on the outputs   y = l * (W x + b)     k_proj, v_proj; l is (out,)
    on the inputs    y = W (l * x) + b     down_proj, whose input is the inside of the MLP; l is (in,)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onepiece.adaptation import (
    Shapes,
    WrappedLinear,
    dense_weight,
    fold_layers,
    linear_shapes,
    plain_linear,
    replace_layer,
    targeted_shapes,
    wrap_layers,
    wrapped_layers,
)

# ---------------------------------------------------------------------------------------------- 1. where the vectors go


@dataclass(frozen=True)
class Ia3Settings:
    """Which layers get a vector, and on which side.

    Raises:
        ValueError: no layer, a single string instead of a tuple, or a layer with both.
    """

    outputs: tuple[str, ...] = ("k_proj", "v_proj")
    """Last parts of the names of the layers whose outputs are rescaled."""
    inputs: tuple[str, ...] = ("down_proj",)
    """Of those whose inputs are."""

    def __post_init__(self) -> None:
        for side, names in (("outputs", self.outputs), ("inputs", self.inputs)):
            if isinstance(names, str):
                msg = f"{side} must be a tuple of layer names such as ('k_proj',), not {names!r}"
                raise ValueError(msg)
        if not self.targets:
            msg = "no layer gets a vector: name some in outputs or inputs"
            raise ValueError(msg)
        if both := set(self.outputs) & set(self.inputs):
            msg = f"{min(both)} stands in outputs and in inputs: a layer has one vector"
            raise ValueError(msg)

    @property
    def targets(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.outputs, *self.inputs)


# Exercise 6. Other architectures have other names, and some compute queries, keys and values in one layer. Which layer's outputs
# are the keys and values (one layer or two)? Which layer's inputs are the inside of the MLP? Choose from KEYS_AND_VALUES and
# AFTER_THE_MLP, by the names that `shapes` has, and raise ValueError, with those names in it, if you find no place for one of both.
KEYS_AND_VALUES = (("k_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("k", "v"))
AFTER_THE_MLP = ("down_proj", "dense_4h_to_h", "fc2", "wo")


def settings_for(model_or_shapes: nn.Module | Shapes) -> Ia3Settings:
    """Settings for an architecture by the names of its layers.

    Args:
        model_or_shapes: a model, on the `meta` device too; or what `linear_shapes` gave of one.

    Raises:
        ValueError: the names say nothing; lists them.
    """
    shapes = linear_shapes(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else model_or_shapes
    there = {name.rpartition(".")[2] for name in shapes}
    # SOLUTION 6
    outputs = next((names for names in KEYS_AND_VALUES if there.issuperset(names)), None)
    inputs = next((name for name in AFTER_THE_MLP if name in there), None)
    if outputs is None or inputs is None:
        msg = f"which layers make keys and values, and which follows the MLP? The names here: {', '.join(sorted(there)) or 'none'}"
        raise ValueError(msg)
    return Ia3Settings(outputs, (inputs,))
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. how many numbers


# Exercise 1. A vector is as long as what it rescales: which side of a layer is that?
def ia3_parameter_count(model_or_shapes: nn.Module | Shapes, settings: Ia3Settings) -> int:
    """Trainable parameters with these settings.

    Args:
        model_or_shapes: a model, on the `meta` device too; or name -> (in, out) of its linear layers.
    """
    on_outputs = targeted_shapes(model_or_shapes, settings.outputs)
    on_inputs = targeted_shapes(model_or_shapes, settings.inputs)
    # SOLUTION 1
    rescaled_outputs = sum(out_features for _, out_features in on_outputs.values())
    rescaled_inputs = sum(in_features for in_features, _ in on_inputs.values())
    return rescaled_outputs + rescaled_inputs
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. the layer


class RescaledLinear(WrappedLinear):
    """A frozen linear layer with factors on its outputs or on its inputs. Fresh, all of them are 1: nothing changes, to the bit.

    Args:
        base: nn.Linear, or one of 4 bits.
        on_input: where the factors stand.
    """

    def __init__(self, base: nn.Module, *, on_input: bool) -> None:
        super().__init__(base)
        self.on_input = on_input
        self.enabled = True
        # Float32 beside a base in bfloat16 too: next to 1 that has steps of 1/128, and a smaller update would round to nothing.
        length = self.in_features if on_input else self.out_features
        self.scale = nn.Parameter(torch.ones(length, dtype=torch.float32, device=base.weight.device))
        self.rows: Tensor | None = None
        """(batch, 1, features): factors of its own for each row of a batch, instead of `scale`; see `mixed_batch.py`."""

    # Exercise 2. `factors` is (features,), or (batch, 1, features) for a mixed batch: both broadcast over (batch, seq, features).
    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, seq, in) -> (batch, seq, out), in the dtype of the inputs."""
        if not self.enabled:
            return self.base(inputs)
        factors = (self.scale if self.rows is None else self.rows).to(inputs.dtype)
        # SOLUTION 2
        if self.on_input:
            return self.base(inputs * factors)
        return self.base(inputs) * factors
        # END SOLUTION

    # Exercise 3. The same as one plain layer. W is (out, in): which of its two dimensions are the outputs? And which of
    # y = l * (W x + b) and y = W (l * x) + b changes the bias? A layer without bias has None, and keeps it.
    def folded(self) -> nn.Linear:
        """A plain layer with the factors in its weight, and in its bias where they belong there too."""
        weight, bias = dense_weight(self.base), self.base.bias
        factors = self.scale.detach().to(weight.dtype)
        # SOLUTION 3
        if self.on_input:
            weight = weight * factors  # a column of W for each input: (out, in) * (in,)
        else:
            weight = weight * factors.unsqueeze(1)  # a row of W for each output: (out, in) * (out, 1)
            bias = None if bias is None else bias * factors
        # END SOLUTION
        return plain_linear(weight, bias if bias is None else bias.detach())

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"{len(self.scale)} factors on the {'inputs' if self.on_input else 'outputs'}"


# ---------------------------------------------------------------------------------------------- 4. into a model


def add_ia3(model: nn.Module, settings: Ia3Settings) -> list[str]:
    """Freeze a model and put fresh vectors into it, in place. There is no seed: nothing is random.

    Returns:
        The names of the layers that have a vector.

    Raises:
        ValueError: a name matches nothing, or the model has vectors already; the model is then as it was.
    """
    on_inputs = targeted_shapes(model, settings.inputs)
    places = {id(model.get_submodule(name)) for name in on_inputs}
    return wrap_layers(model, settings.targets, lambda base: RescaledLinear(base, on_input=id(base) in places))


def ia3_layers(model: nn.Module) -> dict[str, RescaledLinear]:
    """Name -> layer, of all layers with a vector, in the order of the model."""
    return wrapped_layers(model, RescaledLinear)


def set_enabled(model: nn.Module, enabled: bool) -> None:
    """Switch all vectors on, or off: then the model computes as its base does."""
    for layer in ia3_layers(model).values():
        layer.enabled = enabled


# ---------------------------------------------------------------------------------------------- 5. and out again


def fold_ia3(model: nn.Module) -> nn.Module:
    """A copy with plain layers only, of the shapes of the base: no factor is left. The model itself is unchanged."""
    return fold_layers(model)


# Exercise 4. The inside of a gated MLP is silu(gate_proj x) * up_proj x, and l_ff rescales it before down_proj. So l_ff can stand
# one layer earlier: on the outputs of up_proj, which is where the authors' own code has it. Give up_proj the factors, in place, and
# leave down_proj alone. Its bias, where there is one, is part of its outputs.
@torch.no_grad()
def fold_into_up_proj(up_proj: nn.Linear, factors: Tensor) -> None:
    """Rescale the outputs of a layer by changing its numbers, in place.

    Args:
        factors: (out,) of `up_proj`, which is (in,) of `down_proj`.
    """
    # SOLUTION 4
    up_proj.weight *= factors.unsqueeze(1)  # (out, in) * (out, 1)
    if up_proj.bias is not None:
        up_proj.bias *= factors
    # END SOLUTION


def fold_one_layer_earlier(model: nn.Module, neighbour: str = "up_proj") -> nn.Module:
    """`fold_ia3`, but with the factors of each down_proj in its neighbour.

    Raises:
        ValueError: a layer with factors on its inputs has no such neighbour, as in an MLP without gate.
    """
    plain = copy.deepcopy(model)
    for name, layer in ia3_layers(plain).items():
        if not layer.on_input:
            continue
        before = f"{name.rpartition('.')[0]}.{neighbour}"
        if before not in linear_shapes(plain):
            msg = f"{name} has no {neighbour} beside it: an activation function stands before it, and factors do not pass through one"
            raise ValueError(msg)
        fold_into_up_proj(plain.get_submodule(before), layer.scale.detach())
        replace_layer(plain, name, layer.base)
    return fold_layers(plain)
