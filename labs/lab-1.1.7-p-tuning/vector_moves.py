"""How vectors of a prompt move while they are trained: how far in a step, and whether they go together.

Equal learning rates of two parametrisations mean nothing to each other: Adam moves each *trained* number by about the rate, and how far
a vector goes for that is the encoder's to say. So look at the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def together(moves: Tensor) -> float:
    """Share of a movement that all vectors have in common, 0 to 1: the squared length of their mean move, by their mean squared length.

    1: all go the same way. As many vectors with nothing to do with each other give 1 / number of them.

    Args:
        moves: (virtual_tokens, hidden), not all zero.
    """
    return float(moves.mean(dim=0).square().sum() / moves.square().sum(dim=1).mean())


@dataclass
class Watch:
    """Goes to `train` as `after_step`: looks at the vectors of a prompt when its weights have moved."""

    prompt: nn.Module
    lengths: list[float] = field(default_factory=list)
    """Of each step: how far a vector went, the mean of all."""
    common: list[float] = field(default_factory=list)
    """Of each step: what `together` gives."""

    def __post_init__(self) -> None:
        self._before = self._look()

    @torch.no_grad()
    def _look(self) -> Tensor:
        return self.prompt().detach().clone()

    def __call__(self, step: int) -> None:
        """After step number `step`."""
        now = self._look()
        moves = now - self._before
        self.lengths.append(float(moves.norm(dim=1).mean()))
        self.common.append(together(moves))
        self._before = now
