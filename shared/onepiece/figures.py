"""One legible, colour-blind-safe style for every figure of the course."""

from __future__ import annotations

from typing import Any

import matplotlib
from cycler import cycler

# Okabe & Ito, "Color Universal Design" (2008): distinguishable with every common colour vision deficiency.
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#000000",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, Any] = {
    # Marker and colour change together, so that a figure survives a black-and-white printer.
    "axes.prop_cycle": cycler(color=list(COLORS.values())) + cycler(marker=list(MARKERS)),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.figsize": (7.2, 4.2),
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
}


def use_style() -> None:
    """Make the course's style the default of this process; called when a notebook imports this module's `subplots`."""
    matplotlib.rcParams.update(_STYLE)


def subplots(*args: Any, **kwargs: Any) -> Any:
    """`matplotlib.pyplot.subplots` in the course's style."""
    from matplotlib import pyplot

    use_style()
    return pyplot.subplots(*args, **kwargs)
