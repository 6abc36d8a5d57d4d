"""The theme's own words in Traditional Chinese: its translation knows only Simplified."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from . import course

_WORDS = {
    "Back to top": "回到頂端",
    "Breadcrumb": "目前位置",
    "Color mode": "色彩模式",
    "Collapse Sidebar": "收合側欄",
    "Dark": "深色",
    "Expand Sidebar": "展開側欄",
    "Home": "首頁",
    "Light": "淺色",
    "More": "更多",
    "On this page": "本頁內容",
    "Search": "搜尋",
    "Section Navigation": "本區導覽",
    "Site navigation": "網站導覽",
    "Skip to main content": "跳到主要內容",
    "System Settings": "跟隨系統",
    "next": "下一頁",
    "next page": "下一頁",
    "previous": "上一頁",
    "previous page": "上一頁",
}


def _translate(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if course.language() == "zh-TW":
        context["_"] = lambda text: _WORDS.get(text, text)


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", _translate)
