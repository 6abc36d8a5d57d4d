"""LoRA and NF4 with exactly one mistake: what each part of the method is there for.

First the numbers that `checks.py` recognises in a learner's results: they are computed without the lesson's code, so that
they say the same whatever it contains, and with `mistake=None` they are right. Then whole models with one mistake: the
negative controls of the lab. Shapes as in `lora.py`: A is (rank, in), B is (out, rank).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from lora import LoraSettings, add_lora, lora_layers
from onepiece.adaptation import Shapes, plain_linear, replace_layer, targeted_shapes
from onepiece.checks import check_mistake

SCALING_MISTAKES = (
    "no_scaling",  # the factor is 1: the scale is forgotten
    "alpha_alone",  # alpha, not divided by the rank
    "alpha_forgotten",  # 1 / rank
    "inverted",  # rank / alpha
    "other_rule",  # sqrt(rank) where the rank is asked for, and the other way round
)
START_MISTAKES = (
    "b_frozen",  # B stays zero: the update stays zero, and A never gets a gradient
    "both_random",  # B is random as well: training does not begin with the base model
    "both_zero",  # the gradient of each factor has the other as a factor: nothing ever moves
)
LEVEL_MISTAKES = (
    "even",  # 16 levels at equal steps, which is what plain 4-bit integers have
    "no_zero",  # 16 symmetric quantiles, none of them zero
    "not_normalised",  # quantiles that do not reach from -1 to 1
    "halves_swapped",  # 8 levels below zero and 7 above
)


def broken_scaling(rank: int, alpha: float, mistake: str | None, rank_stabilized: bool = False) -> float:
    """The factor on the update, with one of SCALING_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, SCALING_MISTAKES)
    if mistake == "other_rule":
        rank_stabilized = not rank_stabilized
    divisor = math.sqrt(rank) if rank_stabilized else rank
    wrong = {"no_scaling": 1.0, "alpha_alone": alpha, "alpha_forgotten": 1 / divisor, "inverted": divisor / alpha}
    return wrong.get(mistake or "", alpha / divisor)


def broken_levels(mistake: str | None) -> Tensor:
    """16 levels for 4 bits in rising order, float32, with one of LEVEL_MISTAKES or None.

    The quantiles are found by bisection of the error function, so that nothing is shared with `nf4.py`.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, LEVEL_MISTAKES)
    if mistake == "even":
        return torch.linspace(-1, 1, 16)
    deepest = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    above, below = (7, 8) if mistake == "halves_swapped" else (8, 7)
    if mistake == "no_zero":
        half = [normal_quantile(deepest + (0.5 - deepest) * (index + 0.0) / 7.5) for index in range(8)]
        levels = sorted([-value for value in half] + half)
    else:
        positive, negative = (
            [normal_quantile(deepest + (0.5 - deepest) * index / count) for index in range(count)] for count in (above, below)
        )
        levels = sorted([-value for value in negative] + [0.0] + positive)
    largest = 1.0 if mistake == "not_normalised" else max(abs(level) for level in levels)
    return torch.tensor([level / largest for level in levels], dtype=torch.float32)


def normal_quantile(probability: float) -> float:
    """Where the distribution function of the standard normal distribution reaches a probability."""
    low, high = -10.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        reached = 0.5 * (1 + math.erf(middle / math.sqrt(2))) < probability
        low, high = (middle, high) if reached else (low, middle)
    return (low + high) / 2


def round_trip(blocks: Tensor, levels: Tensor) -> Tensor:
    """Blocks (count, block) through 4 bits and back: each weight compared to each of the levels, the plain way."""
    scales = blocks.abs().amax(dim=1, keepdim=True)  # (count, block) -> (count, 1)
    inside = blocks / torch.where(scales > 0, scales, torch.ones_like(scales))
    indices = (inside[..., None] - levels).abs().argmin(dim=-1)  # (count, block, 16) -> (count, block)
    return levels[indices] * scales


# ---------------------------------------------------------------------------------------------- whole models


def forgotten_out_side(model_or_shapes: nn.Module | Shapes, settings: LoraSettings) -> int:
    """The parameter count of someone who counts A and forgets B."""
    shapes = targeted_shapes(model_or_shapes, settings.targets)
    return sum(settings.rank * in_features for in_features, _ in shapes.values())


def add_broken_lora(model: nn.Module, settings: LoraSettings, *, seed: int, mistake: str) -> list[str]:
    """`add_lora` with one of START_MISTAKES; raises what `add_lora` raises, and ValueError for an unknown mistake."""
    check_mistake(mistake, START_MISTAKES)
    names = add_lora(model, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in lora_layers(model).values():
        if mistake == "b_frozen":
            layer.lora_b.requires_grad_(False)
        elif mistake == "both_zero":
            nn.init.zeros_(layer.lora_a)
        else:
            bound = 1 / math.sqrt(settings.rank)
            random = torch.empty(layer.lora_b.shape).uniform_(-bound, bound, generator=generator)
            layer.lora_b.data.copy_(random)
    return names


def add_lora_with_random_b(model: nn.Module, settings: LoraSettings, *, seed: int) -> list[str]:
    """Training does not begin with the base model."""
    return add_broken_lora(model, settings, seed=seed, mistake="both_random")


def add_lora_with_frozen_b(model: nn.Module, settings: LoraSettings, *, seed: int) -> list[str]:
    """The update stays zero whatever A is: nothing can be learned."""
    return add_broken_lora(model, settings, seed=seed, mistake="b_frozen")


def broken_merge(model: nn.Module, settings: LoraSettings, mistake: str | None) -> nn.Module:
    """A copy of a model with LoRA layers in which each weight has become W + factor * B A, one of SCALING_MISTAKES in it."""
    factor = broken_scaling(settings.rank, settings.alpha, mistake, settings.rank_stabilized)
    merged = copy.deepcopy(model)
    for name, layer in lora_layers(merged).items():
        delta = factor * (layer.lora_b @ layer.lora_a).detach()  # (out, rank) @ (rank, in) -> (out, in)
        replace_layer(merged, name, plain_linear(layer.base.weight + delta, layer.base.bias))
    return merged
