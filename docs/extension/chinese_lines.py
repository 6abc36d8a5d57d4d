"""Spaces in Chinese: none where a line of the source ends, and none around full-width punctuation, which brings its own."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_BREAK = re.compile(rf"(?<=[{_WIDE}])\s*\n\s*(?=[{_WIDE}])")
_ENDS_WIDE = re.compile(rf"[{_WIDE}]\Z")
_STARTS_WIDE = re.compile(rf"\A[{_WIDE}]")
_SPACED = re.compile(r"[ \t]*([，。；：！？、（）「」『』])[ \t]*")
_CLOSES = re.compile(r"\A[，。；：！？、）」』]")
_WORD_JOINER = "\u2060"
_FULL_STOP = re.compile(r"[，。；：！？、）」』（「『]")


class JoinChineseLines(SphinxTransform):
    """Remove line breaks between wide characters and spaces at full-width punctuation, also across the bounds of nodes."""

    default_priority = 210

    def apply(self, **_: Any) -> None:
        if not str(self.config.language).startswith("zh"):
            return
        for text in list(self.document.findall(nodes.Text)):
            parent = text.parent
            if isinstance(parent, (nodes.literal, nodes.FixedTextElement, nodes.raw, nodes.math, nodes.math_block)):
                continue
            if text.strip():
                joined = _SPACED.sub(r"\1", _BREAK.sub("", text))
                place = parent.index(text)
                if place > 0 and _FULL_STOP.search(parent[place - 1].astext()[-1:]):
                    joined = joined.lstrip()
                if place > 0 and isinstance(parent[place - 1], nodes.math) and _CLOSES.search(joined):
                    joined = _WORD_JOINER + joined  # no line begins with a comma
                if joined != text:
                    parent.replace(text, nodes.Text(joined))
            elif "\n" in text and self._between_wide(parent, text):
                parent.remove(text)

    @staticmethod
    def _between_wide(parent: nodes.Element, text: nodes.Text) -> bool:
        place = parent.index(text)
        before = parent[place - 1].astext() if place > 0 else ""
        after = parent[place + 1].astext() if place + 1 < len(parent) else ""
        if _ENDS_WIDE.search(before) and _STARTS_WIDE.search(after):
            return True
        # Full-width punctuation brings its own space, whatever stands on its other side.
        return bool(_FULL_STOP.search(before[-1:]) or _FULL_STOP.search(after[:1]))


def setup(app: Sphinx) -> None:
    app.add_transform(JoinChineseLines)
