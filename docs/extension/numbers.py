"""How a measured number reads."""

from __future__ import annotations

import math

from onepiece.course.json_numbers import decode_number

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(value: object, language: str) -> str:
    """`1.039e-06` as `1.04 × 10⁻⁶`, a truth value as a word, None as a dash.

    Floats have four significant digits, as in the terminal and the report, and three where a power of ten is written.
    """
    if value is None:
        return "—"
    if isinstance(value, bool):
        return {"en": ("no", "yes"), "zh-TW": ("否", "是")}[language][value]
    number = decode_number(value) if isinstance(value, str) else value
    assert isinstance(number, (int, float))
    if number < 0:
        return "−" + readable(-number, language)
    if isinstance(number, int):
        return f"{number:,}"
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "∞"
    if number == 0:
        return "0"
    if 1e-3 <= abs(number) < 1e6:
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
