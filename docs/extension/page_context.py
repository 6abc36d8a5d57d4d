"""What each page knows beside its text: its twin in the other language, and which scripts it needs."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from . import course

OTHER = {"en": ("zh-TW", "繁體中文"), "zh-TW": ("en", "English")}
WORDS = {
    "search": {"en": "Search", "zh-TW": "搜尋"},
    "search_all": {"en": "Search the course", "zh-TW": "搜尋整個課程"},
    "search_close": {"en": "Close", "zh-TW": "關閉"},
    "search_none": {"en": "Nothing found.", "zh-TW": "找不到結果。"},
    "search_found": {"en": "{count} results", "zh-TW": "{count} 筆結果"},
    "search_offline": {
        "en": "Search needs the site to be served: nox -s docs -- --serve",
        "zh-TW": "搜尋需要以伺服器開啟網站：nox -s docs -- --serve",
    },
    "copy": {"en": "Copy", "zh-TW": "複製"},
    "copied": {"en": "Copied", "zh-TW": "已複製"},
}


def _add(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    language = course.language()
    other, name = OTHER[language]
    context["html_lang"] = language
    context["other_language"], context["other_language_name"] = other, name
    context["words"] = {key: text[language] for key, text in WORDS.items()}
    app.add_js_file("site.js", loading_method="defer")
    if doctree is not None and app.env.metadata.get(pagename, {}).get("quiz"):
        app.add_js_file("quiz.js", loading_method="defer")


def _no_search_index(app: Sphinx) -> None:
    """Sphinx's own search finds no Chinese words; Pagefind indexes the finished pages."""
    if hasattr(app.builder, "search"):
        app.builder.search = False


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _no_search_index)
    app.connect("html-page-context", _add)
