"""Bottleneck adapters: a small network in series with a sublayer; everything else is frozen.

Read from top to bottom: where they stand, how many numbers that is, one adapter, a layer with adapters behind it, into a model.
Sources: Houlsby et al. (2019), https://arxiv.org/abs/1902.00751; Pfeiffer et al. (2020), https://arxiv.org/abs/2005.00247.

    h = what a sublayer gives, before it is added to the residual stream
    h + up(f(down(h)))        down: hidden -> bottleneck, f: not linear, up: bottleneck -> hidden

The last linear layer of a sublayer is what gives h: o_proj of attention, down_proj of the MLP. So an adapter stands behind those.
Settings are called as the `adapters` library calls them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from onepiece.adaptation import Shapes, WrappedLinear, linear_shapes, targeted_shapes, wrap_layers, wrapped_layers

NON_LINEARITIES = {"relu": functional.relu, "swish": functional.silu, "gelu": functional.gelu}
AFTER_ATTENTION = ("o_proj", "attention.dense")
AFTER_THE_MLP = ("down_proj", "dense_4h_to_h")
"""How the last linear layer of a sublayer is called: in Llama and Qwen, and in GPT-NeoX."""

# ---------------------------------------------------------------------------------------------- 1. where adapters stand


@dataclass(frozen=True)
class AdapterSettings:
    """What has to be chosen before adapters can be put into a model.

    Raises:
        ValueError: no place, a factor that leaves no bottleneck, an unknown non-linearity.
    """

    mh_adapter: bool
    """One after attention in each layer."""
    output_adapter: bool
    """One after the MLP in each layer."""
    reduction_factor: float
    """Hidden size divided by the width of the bottleneck."""
    non_linearity: str = "relu"
    """f, one of NON_LINEARITIES."""
    leave_out: tuple[int, ...] = ()
    """Numbers of the layers that have no adapter, from 0 at the bottom."""

    def __post_init__(self) -> None:
        if not (self.mh_adapter or self.output_adapter):
            msg = "no place for an adapter: set mh_adapter, output_adapter or both"
            raise ValueError(msg)
        if not self.reduction_factor > 0:
            msg = f"reduction_factor must be above 0, not {self.reduction_factor}"
            raise ValueError(msg)
        if self.non_linearity not in NON_LINEARITIES:
            msg = f"non_linearity must be one of {', '.join(NON_LINEARITIES)}, not {self.non_linearity!r}"
            raise ValueError(msg)
        if isinstance(self.leave_out, int):
            msg = f"leave_out must be a tuple of numbers of layers such as (0, 1), not {self.leave_out}"
            raise ValueError(msg)


def houlsby(reduction_factor: float, **options: object) -> AdapterSettings:
    """Two adapters in each layer: after attention and after the MLP (Houlsby et al. 2019)."""
    return replace(AdapterSettings(True, True, reduction_factor, "swish"), **options)


def pfeiffer(reduction_factor: float, **options: object) -> AdapterSettings:
    """One adapter in each layer: after the MLP (Pfeiffer et al. 2020)."""
    return replace(AdapterSettings(False, True, reduction_factor), **options)


def layer_number(name: str) -> int:
    """2 of `model.layers.2.mlp.down_proj`.

    Raises:
        ValueError: the name has no number.
    """
    found = re.search(r"\.(\d+)\.", name)
    if found is None:
        msg = f"{name} stands in no numbered layer"
        raise ValueError(msg)
    return int(found.group(1))


def adapter_places(model_or_shapes: nn.Module | Shapes, settings: AdapterSettings) -> dict[str, int]:
    """Name of each linear layer that gets an adapter behind it -> its hidden size, in the order of the model.

    Args:
        model_or_shapes: a model, on the `meta` device too; or name -> (in, out) of its linear layers.

    Raises:
        ValueError: the names say nothing, `leave_out` names a layer that is not there, or leaves none.
    """
    shapes = linear_shapes(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else model_or_shapes
    targets = []
    for wanted, known in ((settings.mh_adapter, AFTER_ATTENTION), (settings.output_adapter, AFTER_THE_MLP)):
        target = next((ending for ending in known if any(name.endswith(f".{ending}") for name in shapes)), None)
        if wanted and target is None:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in shapes})) or "none"
            msg = f"which layer ends a sublayer? None is called {' or '.join(known)}; the names here: {there}"
            raise ValueError(msg)
        targets += [target] if wanted else []
    hidden = {name: out for name, (_, out) in targeted_shapes(shapes, targets).items()}
    numbers = {layer_number(name) for name in hidden}
    if strangers := sorted(set(settings.leave_out) - numbers):
        msg = f"leave_out names layer {strangers[0]}, and the model has layers 0 to {max(numbers)}"
        raise ValueError(msg)
    if numbers <= set(settings.leave_out):
        msg = "leave_out leaves no layer: there would be nothing to train"
        raise ValueError(msg)
    return {name: size for name, size in hidden.items() if layer_number(name) not in settings.leave_out}


# ---------------------------------------------------------------------------------------------- 2. how many numbers


def bottleneck_width(hidden: int, reduction_factor: float) -> int:
    """Width of the bottleneck, at least 1: the hidden size divided by the factor, rounded down."""
    return max(1, int(hidden / reduction_factor + 1e-9))  # 64 / (64 / 17) may be 16.999...


# Exercise 1. `down` and `up` are linear layers with a bias each. How many numbers has one adapter?
def adapter_parameter_count(model_or_shapes: nn.Module | Shapes, settings: AdapterSettings) -> int:
    """Trainable parameters with these settings.

    Args:
        model_or_shapes: a model, on the `meta` device too; or name -> (in, out) of its linear layers.
    """
    total = 0
    for hidden in adapter_places(model_or_shapes, settings).values():
        width = bottleneck_width(hidden, settings.reduction_factor)
        # SOLUTION 1
        total += hidden * width + width  # down: weight and bias
        total += width * hidden + hidden  # up
        # END SOLUTION
    return total


# Exercise 5. Two placements are compared fairly when they train about as many numbers. Find the widest bottleneck of `settings`
# that trains at most `budget` numbers, and give `settings` back with the reduction factor that makes it. (`replace` changes a
# field of a frozen dataclass; adapter_parameter_count says what a factor costs; a factor may be no whole number.)
def settings_within(model_or_shapes: nn.Module | Shapes, settings: AdapterSettings, budget: int) -> AdapterSettings:
    """`settings` with the smallest reduction factor, hidden / width, that keeps within a budget of trained numbers.

    Raises:
        ValueError: even a bottleneck of width 1 takes more.
    """
    hidden = next(iter(adapter_places(model_or_shapes, settings).values()))
    # SOLUTION 5
    best = None
    for width in range(1, budget + 1):
        candidate = replace(settings, reduction_factor=hidden / width)
        if adapter_parameter_count(model_or_shapes, candidate) > budget:
            break
        best = candidate
    if best is None:
        msg = f"{budget:,} numbers are too few for a bottleneck of width 1 at these places"
        raise ValueError(msg)
    return best
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. one adapter


# Exercise 2. Where does training begin? An adapter must hand on h unchanged, and yet must learn from the first step. One weight is
# random, uniform between -1/sqrt(hidden) and 1/sqrt(hidden), which is nn.init.kaiming_uniform_ with a=math.sqrt(5) on `down`;
# draw it from `generator`. The other is zero. Which? And why not both? (Biases are zero. The `adapters` library calls this start
# `mam_adapter`; its default, `bert`, draws both, normal with a standard deviation of 0.02.)
def initial_weights(hidden: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights of down, (width, hidden), and of up, (hidden, width), before the first step."""
    # SOLUTION 2
    down = torch.empty(width, hidden)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
    up = torch.zeros(hidden, width)
    # END SOLUTION
    return down, up


class Bottleneck(nn.Module):
    """One adapter: down, a non-linearity, up, and the way past them."""

    def __init__(self, hidden: int, width: int, non_linearity: str, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, width), nn.Linear(width, hidden)
        self.non_linearity = non_linearity
        down, up = initial_weights(hidden, width, generator)
        for layer, weight in ((self.down, down), (self.up, up)):
            layer.weight.data.copy_(weight)
            layer.bias.data.zero_()

    # Exercise 3. The formula at the top of this file.
    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        f = NON_LINEARITIES[self.non_linearity]
        # SOLUTION 3
        narrow = f(self.down(hidden))  # (..., hidden) -> (..., width)
        return hidden + self.up(narrow)  # (..., width) -> (..., hidden)
        # END SOLUTION


# ---------------------------------------------------------------------------------------------- 4. a layer with adapters behind it


class AdaptedLinear(WrappedLinear):
    """A frozen linear layer, and behind it adapters, one after the other: usually one; two are a stack."""

    def __init__(self, base: nn.Module, *adapters: Bottleneck) -> None:
        super().__init__(base)
        self.stack = nn.ModuleList(adapters)
        self.active = True
        self.rows: Callable[[Tensor], Tensor] | None = None
        """What stands in the place of the stack while each row of a batch has an adapter of its own; see `mixed_batch.py`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the base."""
        outputs = self.base(inputs)  # (..., in) -> (..., out)
        if not self.active:
            return outputs
        hidden = outputs.to(self.stack[0].up.weight.dtype)  # float32 beside a base in bfloat16 too
        for adapter in self.stack if self.rows is None else [self.rows]:
            hidden = adapter(hidden)
        return hidden.to(outputs.dtype)

    def folded(self) -> nn.Linear:
        """There is none.

        Raises:
            ValueError: says so.
        """
        msg = "an adapter is not linear: no single weight computes what it does, so it cannot be merged"
        raise ValueError(msg)


# ---------------------------------------------------------------------------------------------- 5. into a model


def fresh_adapter(hidden: int, settings: AdapterSettings, generator: torch.Generator) -> Bottleneck:
    """One that changes nothing yet."""
    return Bottleneck(hidden, bottleneck_width(hidden, settings.reduction_factor), settings.non_linearity, generator)


def add_adapters(model: nn.Module, settings: AdapterSettings, *, seed: int) -> list[str]:
    """Freeze a model and put fresh adapters into it, in place; only they are trained afterwards.

    Returns:
        The names of the layers that have an adapter behind them, in the order of the model.

    Raises:
        ValueError: what `adapter_places` raises, or the model has adapters already; it is then as it was.
    """
    places = adapter_places(model, settings)
    generator = torch.Generator().manual_seed(seed)

    def wrap(base: nn.Module) -> AdaptedLinear:
        return AdaptedLinear(base, fresh_adapter(base.out_features, settings, generator).to(base.weight.device))

    return wrap_layers(model, list(places), wrap)


def stack_adapters(model: nn.Module, settings: AdapterSettings, *, seed: int) -> None:
    """Put a second, fresh adapter on top of each one in the model, and freeze those that were there; in place.

    MAD-X (Pfeiffer et al. 2020, https://arxiv.org/abs/2005.00052) stacks so: a language below, a task on top.

    Raises:
        ValueError: the model has no adapters, or has them at other places.
    """
    layers = adapted_layers(model)
    if list(adapter_places(model, settings)) != list(layers):
        msg = "a stack needs both adapters at the same places"
        raise ValueError(msg)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        layer.stack.append(fresh_adapter(layer.out_features, settings, generator).to(layer.base.weight.device))


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Name -> layer, of all layers with an adapter behind them, in the order of the model."""
    return wrapped_layers(model, AdaptedLinear)


def use_adapter(model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]], *, position: int = 0) -> None:
    """Copy trained tensors into the adapters of a model; name of a layer -> tensors of `Bottleneck.state_dict`."""
    for name, layer in adapted_layers(model).items():
        layer.stack[position].load_state_dict(dict(tensors[name]))
