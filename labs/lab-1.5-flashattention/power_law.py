"""A power law through measurements: cost = factor * length ** exponent, and how far its exponent can be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 3  # of the lengths: at short ones constant costs (a tile, a Python call) hide the law
ROUGH = 0.15  # a spread from which on the exponent of a fit says little: N^1.85 and N^2 are then the same


@dataclass(frozen=True)
class PowerLaw:
    """A straight line on doubly logarithmic paper."""

    exponent: float  # of the length
    factor: float  # in the unit of the costs
    spread: float  # half the distance of the quartiles of the exponents that single rounds give; 0 for one round

    @property
    def rough(self) -> bool:
        """Whether single rounds disagree so much that the exponent is not to be taken at its word."""
        return self.spread > ROUGH


def fit_power_law(
    lengths: Sequence[int], rounds: Sequence[Sequence[float]], *, longest: int = LONGEST
) -> PowerLaw:
    """Least squares through the `longest` last lengths, in logarithms, of the median of the rounds at each length.

    Args:
        lengths: tokens, ascending (or whatever else the costs depend on).
        rounds: one sequence of costs for each round of measurements, (rounds, lengths). If each round went through all
            lengths, a busy minute makes one round slow, not one length.
        longest: how many points the line goes through.
    """
    medians = [statistics.median(costs) for costs in zip(*rounds, strict=True)]
    exponent, factor = _line(lengths[-longest:], medians[-longest:])
    exponents = [_line(lengths[-longest:], costs[-longest:])[0] for costs in rounds]
    lower, upper = np.quantile(exponents, [0.25, 0.75])
    return PowerLaw(exponent, factor, float(upper - lower) / 2)


def _line(lengths: Sequence[int], costs: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of the line through all points."""
    exponent, log_factor = np.polyfit(np.log(lengths), np.log(costs), 1)
    return float(exponent), float(np.exp(log_factor))
