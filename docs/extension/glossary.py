"""The glossary, from docs/glossary.toml: the terms that both languages use, and which word was chosen."""

from __future__ import annotations

import tomllib
from typing import Any

from .course import DOCS

FILE = DOCS / "glossary.toml"
HEADER = {
    "en": "| English | Traditional Chinese | note |\n|---|---|---|",
    "zh-TW": "| 中文 | 英文 | 說明 |\n|---|---|---|",
}


def terms(argument: str, language: str) -> str:
    """A table of terms, sorted by the English one."""
    entries = tomllib.loads(FILE.read_text(encoding="utf-8"))["terms"] if FILE.exists() else []
    rows = [_row(entry, language) for entry in sorted(entries, key=lambda entry: entry["term"].lower())]
    return "\n".join([HEADER[language], *rows])


def _row(entry: dict[str, Any], language: str) -> str:
    first, second = (entry["term"], entry["zh-TW"]) if language == "en" else (entry["zh-TW"], entry["term"])
    cells = [first, second, entry.get("note", {}).get(language, "")]
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
