"""Punctuation of both languages, for sentences that are put together."""

from __future__ import annotations

from collections.abc import Iterable


def colon(before: str, after: str, language: str) -> str:
    """`before: after`."""
    return f"{before}: {after}" if language == "en" else f"{before}：{after}"


def brackets(text: str, language: str) -> str:
    """` (text)`, with the space before it that English needs."""
    return f" ({text})" if language == "en" else f"（{text}）"


def listed(items: Iterable[str], language: str) -> str:
    """`a, b, c`."""
    return (", " if language == "en" else "、").join(items)
