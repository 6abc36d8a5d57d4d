"""How far each measured value and each control is from its bound: plain HTML, so that it fits a phone and a dark page."""

from __future__ import annotations

import html
import math
from typing import Any

from onepiece.course.json_numbers import decode_number

from .numbers import readable
from .published import Published

_DECADES = 4.0  # what is further from its bound than this is drawn at the edge
WORDS = {
    "holds": {"en": "keeps the bound", "zh-TW": "在界限之內"},
    "bound": {"en": "bound", "zh-TW": "界限"},
    "misses": {"en": "misses it", "zh-TW": "超出界限"},
    "seeds": {"en": "measured, one dot per seed", "zh-TW": "量測值，每個種子一點"},
    "measured": {"en": "measured", "zh-TW": "量測值"},
    "control": {"en": "control", "zh-TW": "對照組"},
    "scale": {"en": "Each line is a factor of ten; dots at an edge are further away.", "zh-TW": "每條格線差十倍；貼在邊緣的點離得更遠。"},
}


def decades_from_bound(value: object, bound: str) -> float:
    """Signed distance on a logarithmic scale: negative keeps the bound, positive misses it.

    Args:
        value: as results.json holds it.
        bound: as a gate shows it: `<= 1e-05`, `>= 1.8`, `== 4,194,304`, `is true`.
    """
    relation, _, text = bound.replace(",", "").partition(" ")
    if relation in ("==", "is"):
        wanted = {"true": 1.0, "false": 0.0}.get(text) if relation == "is" else float(text)
        return -_DECADES if decode_number(value) == wanted else _DECADES  # type: ignore[arg-type]
    number, limit = decode_number(value), float(text)  # type: ignore[arg-type]
    if math.isnan(number):
        return _DECADES
    if relation == ">=":
        number, limit = -number, -limit
    kept = number <= limit
    if number == limit:
        return 0.0
    if number * limit <= 0 or math.isinf(number):  # no ratio to speak of
        return -_DECADES if kept else _DECADES
    distance = min(abs(math.log10(abs(number / limit))), _DECADES)
    return -distance if kept else distance


def gate_plot(run: Published, caption: str, language: str) -> str:
    """A `<figure>` with one row per judged gate."""
    rows = [_row(run, gate, language) for gate in run.results["gates"] if gate["passed"] is not None]
    word = {key: html.escape(text[language]) for key, text in WORDS.items()}
    return (
        f'<figure class="gate-plot"><div class="gate-scale" aria-hidden="true"><span></span><span>← {word["holds"]} · {word["bound"]} · '
        f"{word['misses']} →</span></div>{''.join(rows)}<figcaption>{html.escape(caption)} "
        f'<span class="dot measured"></span> {word["seeds"]} <span class="dot control"></span> {word["control"]}. {word["scale"]}'
        "</figcaption></figure>"
    )


def _row(run: Published, gate: dict[str, Any], language: str) -> str:
    records = [record for record in run.results["records"] if record["metric"] == gate["metric"]]
    dots = [_dot("measured", record["value"], gate["bound"], language) for record in records if record["variant"] is None]
    for contrast in filter(None, (gate["control"], gate.get("null"))):
        variant = contrast["variant"]
        dots += [_dot("control", record["value"], gate["bound"], language, variant) for record in records if record["variant"] == variant]
    label = html.escape(gate["objective"][language])
    return f'<div class="gate-row"><span class="gate-label">{label}</span><span class="gate-track">{"".join(dots)}</span></div>'


def _dot(kind: str, value: object, bound: str, language: str, variant: str = "") -> str:
    place = 50 + 50 * decades_from_bound(value, bound) / (_DECADES * 1.08)
    says = html.escape(f"{variant or WORDS[kind][language]}: {readable(value, language)} ({bound})")
    return f'<span class="dot {kind}" style="left:{place:.1f}%" title="{says}" aria-label="{says}" role="img"></span>'
