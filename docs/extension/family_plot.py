"""The methods of module 1.1 as points: trained share against exact match. Inline SVG, so that it fits a phone and a dark page."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from onepiece.course.family_rows import SEEDS, TASKS, Row

from . import course
from .family import comparable_rows, span
from .notebook_page import fenced
from .punctuation import colon, listed

WORDS = {
    "x": {"en": "trained share of the base's parameters", "zh-TW": "訓練的參數占基礎模型的比例"},
    "caption": {
        "en": "Exact match on held-out items over the trained share, one panel a task. A number is a row of the table; the point is the "
        "mean over {seeds} seeds, the bar spans the worst and the best of them. Hollow: a variant beside a lab's method.",
        "zh-TW": "沒看過的題目上的完全相符比例，隨訓練參數占比的變化，每個任務一格。數字是表格的列號；點是 {seeds} 個種子的平均，"
        "線段是其中最差到最好的範圍。空心：實驗方法之外並列的變體。",
    },
}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 250, 38, 12, 26, 44  # of a panel, in its own units


def figure(argument: str, language: str) -> str:
    """Trained share against exact match, one panel per task, with the span over the seeds; nothing while there is no row."""
    rows = comparable_rows(course.labs())
    if not rows:
        return ""
    exponents = [math.log10(row.share) for row in rows]
    low, high = math.floor(min(exponents)), max(math.ceil(max(exponents)), math.floor(min(exponents)) + 1)
    panels = "".join(_panel(rows, task, low, high, language) for task in TASKS)
    caption = html.escape(WORDS["caption"][language].format(seeds=len(SEEDS)))
    return fenced("{raw} html", f'<figure class="family-plot"><div>{panels}</div><figcaption>{caption}</figcaption></figure>')


def _panel(rows: Sequence[Row], task: str, low: int, high: int, language: str) -> str:
    """An SVG: x is the share on a logarithmic scale from 10^low to 10^high, y the exact match from 0 to 1."""

    def across(share: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(share) - low) / (high - low)

    def up(accuracy: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * accuracy

    parts = [f'<text class="title" x="{_LEFT}" y="15">{html.escape(task)}</text>']
    for step in range(5):
        level = up(step / 4)
        parts.append(f'<path class="grid" d="M{_LEFT} {level:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{level + 4:.1f}" text-anchor="end">{step / 4:g}</text>')
    for exponent in range(low, high + 1):
        place = across(10.0**exponent)
        parts.append(f'<path class="grid" d="M{place:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{_percent(exponent)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(WORDS["x"][language])}</text>')
    for number, row in enumerate(rows, start=1):
        parts.append(_point(number, row, task, across(row.share), up))
    label = html.escape(
        colon(task, listed((f"{number}: {span(row, task)}" for number, row in enumerate(rows, start=1)), language), language)
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _point(number: int, row: Row, task: str, x: float, up: Callable[[float], float]) -> str:
    """The mean, a bar from the worst to the best seed, the row's number, and what a pointer shows."""
    values = row.by_seed[task, "accuracy"].values()
    y = up(row.mean(task))
    says = html.escape(f"{row.lab} {row.variant or ''}: {row.share:.3%}, {span(row, task)}")
    return (
        f'<g class="{"variant" if row.variant else "method"}"><title>{says}</title>'
        f'<path d="M{x:.1f} {up(min(values)):.1f}V{up(max(values)):.1f}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text x="{x + 6:.1f}" y="{y - 5:.1f}">{number}</text></g>'
    )


def _percent(exponent: int) -> str:
    """10^exponent as a percentage: `0.01%`."""
    return f"{10.0 ** (exponent + 2):.10f}".rstrip("0").rstrip(".") + "%"
