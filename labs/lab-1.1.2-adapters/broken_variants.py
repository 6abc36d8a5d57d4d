"""Adapters with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
with einsum and hooks on whole sublayers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adapters import AFTER_ATTENTION, AdaptedLinear, Bottleneck, adapted_layers, layer_number
from onepiece.checks import check_mistake

if TYPE_CHECKING:
    from transformers import PreTrainedModel

F = {"relu": lambda x: x.clamp(min=0), "swish": lambda x: x * torch.sigmoid(x), "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2}
COUNT_MISTAKES = (
    "no_biases",  # the two matrices alone
    "one_matrix",  # down alone, with its bias
    "hidden_biases",  # both biases as long as the hidden size
    "square",  # hidden x hidden, as if there were no bottleneck
    "last_only",  # assigned instead of added up
)
FORWARD_MISTAKES = (
    "no_skip",  # the way past the bottleneck is missing: the sublayer is replaced
    "no_non_linearity",  # up(down(h)): LoRA in series, which can be merged
    "non_linearity_last",  # f after up
    "non_linearity_first",  # f before down
    "skip_inside",  # f of everything
)
START_MISTAKES = ("both_zero", "both_random", "down_zero", "shapes_swapped")
DROP_MISTAKES = ("last_layers", "one_more", "never_back", "inverted")
BUDGET_MISTAKES = ("factor_kept", "one_wider", "half", "one_narrower")
FIT_MISTAKES = ("no_bias", "transposed", "of_the_change", "bias_is_mean")
ROW_MISTAKES = ("first_row", "no_skip", "next_row", "no_biases", "no_non_linearity")


def broken_count(hidden_sizes: Mapping[str, int], width: Callable[[int], int], mistake: str | None) -> int:
    """How many numbers are trained, with one of COUNT_MISTAKES or None.

    Args:
        hidden_sizes: of each place.
        width: hidden size -> width of the bottleneck.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, COUNT_MISTAKES)
    counts = []
    for hidden in hidden_sizes.values():
        matrix, wide = hidden * width(hidden), width(hidden)
        sizes = {
            "no_biases": 2 * matrix, "one_matrix": matrix + wide, "hidden_biases": 2 * (matrix + hidden),
            "square": 2 * hidden * (hidden + 1),
        }  # fmt: skip
        counts.append(sizes.get(mistake or "", (hidden + 1) * wide + (wide + 1) * hidden))
    return counts[-1] if mistake == "last_only" else sum(counts)


def broken_forward(hidden: Tensor, weights: Mapping[str, Tensor], non_linearity: str, mistake: str | None) -> Tensor:
    """(..., hidden) -> (..., hidden), with one of FORWARD_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FORWARD_MISTAKES)
    f = F[non_linearity]
    first = f(hidden) if mistake == "non_linearity_first" else hidden
    narrow = torch.einsum("...h,wh->...w", first, weights["down.weight"]) + weights["down.bias"]
    if mistake in (None, "no_skip"):
        narrow = f(narrow)
    wide = torch.einsum("...w,hw->...h", narrow, weights["up.weight"]) + weights["up.bias"]
    ends = {"no_skip": wide, "non_linearity_last": hidden + f(wide), "skip_inside": f(hidden + wide)}
    return ends.get(mistake or "", hidden + wide)


def broken_start(hidden: int, width: int, seed: int, mistake: str | None) -> tuple[Tensor, Tensor]:
    """Weights of down and up before the first step, with one of START_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, START_MISTAKES)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(hidden)
    down = torch.empty(width, hidden).uniform_(-bound, bound, generator=generator)
    up = torch.empty(hidden, width).uniform_(-bound, bound, generator=generator)
    starts = {
        "both_zero": (torch.zeros(width, hidden), torch.zeros(hidden, width)), "both_random": (down, up),
        "down_zero": (torch.zeros(width, hidden), up), "shapes_swapped": (down.T, torch.zeros(width, hidden)),
    }  # fmt: skip
    return starts.get(mistake or "", (down, torch.zeros(hidden, width)))


def broken_drop(numbers: list[int], drop: int, mistake: str | None) -> list[bool]:
    """Which of the layers with these numbers run their adapters, with one of DROP_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, DROP_MISTAKES)
    layers = max(numbers) + 1
    running = {
        "last_layers": lambda number: number < layers - drop, "one_more": lambda number: number > drop,
        "never_back": lambda number: False, "inverted": lambda number: number < drop,
    }  # fmt: skip
    return [running.get(mistake or "", lambda number: number >= drop)(number) for number in numbers]


def broken_width(count: Callable[[int], int], budget: int, kept: int, mistake: str | None) -> int:
    """The width of a bottleneck within a budget, with one of BUDGET_MISTAKES or None.

    Args:
        count: width -> trained numbers.
        kept: the width before.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, BUDGET_MISTAKES)
    widest = max(width for width in range(1, 1000) if count(width) <= budget)
    return {"factor_kept": kept, "one_wider": widest + 1, "half": 2 * kept, "one_narrower": widest - 1}.get(mistake or "", widest)


def broken_fit(inputs: Tensor, outputs: Tensor, mistake: str | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the nearest plain layer, by the normal equations, with one of FIT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FIT_MISTAKES)
    if mistake == "of_the_change":
        outputs = outputs - inputs  # as if the layer had a way past it
    means = (0 * inputs.mean(0), 0 * outputs.mean(0)) if mistake in ("no_bias", "bias_is_mean") else (inputs.mean(0), outputs.mean(0))
    centred, wanted = inputs - means[0], outputs - means[1]
    weight = torch.linalg.solve(centred.T @ centred, centred.T @ wanted).T  # (out, in)
    bias = outputs.mean(0) if mistake == "bias_is_mean" else means[1] - weight @ means[0]
    return (weight.T if mistake == "transposed" else weight), bias


def broken_rows(hidden: Tensor, weights: Mapping[str, Tensor], non_linearity: str, mistake: str | None) -> Tensor:
    """(batch, seq, hidden) -> the same, a row at a time, with one of ROW_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ROW_MISTAKES)
    place = {"first_row": lambda row: 0, "next_row": lambda row: (row + 1) % len(hidden)}.get(mistake or "", lambda row: row)
    inner = mistake if mistake in FORWARD_MISTAKES else None
    outputs = []
    for row, states in enumerate(hidden):
        own = {name: tensor[place(row)] for name, tensor in weights.items()}
        if mistake == "no_biases":
            own |= {name: 0 * tensor for name, tensor in own.items() if name.endswith("bias")}
        outputs.append(broken_forward(states, own, non_linearity, inner))
    return torch.stack(outputs)


# ---------------------------------------------------------------------------------------------- whole models


class HookedAdapters(nn.Module):
    """The same method, as the oracle: a base that nothing was put into, with hooks on its attentions and MLPs.

    Args:
        adapted: a model with adapters, of which copies are taken.
        base: a fresh copy of its base, a Llama or a Qwen2.
        mistake: None, or `parallel`: the bottleneck reads what goes *into* the sublayer.
    """

    def __init__(self, adapted: nn.Module, base: PreTrainedModel, mistake: str | None = None) -> None:
        super().__init__()
        check_mistake(mistake, ("parallel",))
        self.base, self.mistake = base.requires_grad_(False), mistake
        self.weights = nn.ModuleDict()
        for name, layer in adapted_layers(adapted).items():
            sublayer, key = name.rpartition(".")[0], name.replace(".", "/")
            own = {part.replace(".", "_"): nn.Parameter(value.detach().clone()) for part, value in layer.stack[0].named_parameters()}
            self.weights[key] = nn.ParameterDict(own)
            hook = self._hook(key, layer.stack[0].non_linearity)
            base.get_submodule(sublayer).register_forward_hook(hook, with_kwargs=True)

    def _hook(self, key: str, non_linearity: str) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], outputs: Any) -> Any:
            hidden = outputs[0] if isinstance(outputs, tuple) else outputs
            weights = {name.replace("_", "."): value for name, value in self.weights[key].items()}
            reads = hidden if self.mistake is None else (given[0] if given else named["hidden_states"])
            hidden = hidden + broken_forward(reads, weights, non_linearity, "no_skip")
            return (hidden, *outputs[1:]) if isinstance(outputs, tuple) else hidden

        return hook

    @property
    def device(self) -> torch.device:
        """Of the base."""
        return self.base.device

    def forward(self, **given: Any) -> Any:
        """As of the base."""
        return self.base(**given)


def restart(model: nn.Module, mistake: str, *, seed: int) -> None:
    """Start weights with one of START_MISTAKES, in place. `library` is what the `adapters` library does by default: 0.02, both."""
    for place, layer in enumerate(adapted_layers(model).values()):
        adapter: Bottleneck = layer.stack[0]
        sizes = adapter.down.in_features, adapter.down.out_features
        if mistake == "library":
            generator = torch.Generator().manual_seed(seed + place)
            start = [torch.randn(weight.shape, generator=generator) * 0.02 for weight in (adapter.down.weight, adapter.up.weight)]
        else:
            start = broken_start(*sizes, seed + place, mistake)
        for weight, value in zip((adapter.down.weight, adapter.up.weight), start, strict=True):
            weight.data.copy_(value)


def multiply_by_zero(model: nn.Module, number: int) -> None:
    """AdapterDrop as a mistake: the first layers still run their adapters, and throw away what comes out; in place."""
    for name, layer in adapted_layers(model).items():
        if layer_number(name) < number:
            layer.rows = lambda hidden, stack=layer.stack: hidden + 0 * stack[0](hidden)


def drop_last(model: nn.Module, number: int) -> None:
    """AdapterDrop from the wrong end, in place."""
    layers = adapted_layers(model)
    running = broken_drop([layer_number(name) for name in layers], number, "last_layers")
    for layer, active in zip(layers.values(), running, strict=True):
        layer.active = active


def run_all(model: nn.Module) -> None:
    """The layers that were left out in training run now, in place."""
    for layer in adapted_layers(model).values():
        layer.active = True


def without_non_linearity(layer: AdaptedLinear, inputs: Tensor) -> Tensor:
    """(tokens, in) -> (tokens, out), of a layer whose adapter has lost its f."""
    weights = {name: value.detach() for name, value in layer.stack[0].named_parameters()}
    return broken_forward(layer.base(inputs).detach(), weights, layer.stack[0].non_linearity, "no_non_linearity")


def after_attention(name: str) -> bool:
    """Whether a place is after attention."""
    return name.endswith(AFTER_ATTENTION)
