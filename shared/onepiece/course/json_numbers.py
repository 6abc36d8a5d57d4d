"""Numbers as they travel in events and results: JSON has no inf and nan."""

from __future__ import annotations

import math


def encode_number(value: float | None) -> float | str | None:
    """A JSON value for any number: inf and nan become the strings "inf", "-inf", "nan"."""
    if value is None or isinstance(value, (bool, int)) or math.isfinite(value):
        return value
    return str(value)


def decode_number(value: float | str) -> float:
    """The inverse of `encode_number`."""
    return float(value) if isinstance(value, str) else value
