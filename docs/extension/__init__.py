"""The parts of the site that are ours. Each file is one idea; `build.py` stages what Sphinx then reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part with Sphinx."""
    # Here and not above: what stages pages is also used, and tested, where there is no Sphinx.
    from . import chinese_lines, mathml, measured, page_context, quiz_page, theme_words

    for part in (chinese_lines, mathml, measured, page_context, quiz_page, theme_words):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
