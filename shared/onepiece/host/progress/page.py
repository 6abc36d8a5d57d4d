"""Progress as one HTML page, in both languages, readable without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from onepiece.course.text import current_language
from onepiece.host.progress.achievements import Achievement
from onepiece.host.progress.state import Advice, State


def render(found: State, all_of_them: Sequence[Achievement], advice: Advice) -> str:
    """The page of what `nox -s progress` shows."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(found=found, achievements=all_of_them, advice=advice, language=current_language())
