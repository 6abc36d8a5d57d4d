"""Formulas as MathML, made at build time: no script, no network, readable by a screen reader."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_logger = logging.getLogger(__name__)

# What the converter spells differently.
_SPELLINGS = (
    (re.compile(r"\\(big|Big|bigg|Bigg)(?![a-zA-Z])"), r"\\\1l"),
    (re.compile(r"\\stackrel(?![a-zA-Z])"), r"\\overset"),
    (re.compile(r"\\dfrac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\dots[bcm]?(?![a-zA-Z])"), r"\\ldots"),
)
_BARE_ARGUMENT = re.compile(r"(<mo>&ApplyFunction;</mo>)(?!\s*<mo[^>]*>\s*[(\[|])")
_TAG = re.compile(r"\\tag\{([^}]*)\}")


def convert(tex: str, block: bool = False) -> str:
    """One formula as a `<math>` element.

    Raises:
        MathError: a command that the converter does not know.
    """
    for pattern, spelling in _SPELLINGS:
        tex = pattern.sub(spelling, tex)
    # TeX sets a thin space between a function's name and its argument, unless that is in brackets.
    return _BARE_ARGUMENT.sub(r'\1<mspace width="0.17em"/>', tex2mathml(tex.strip(), as_block=block))


def _visit(translator: HTML5Translator, node: nodes.Element, block: bool) -> None:
    tex = node.astext()
    tag = _TAG.search(tex)
    tex = _TAG.sub("", tex)
    try:
        markup = convert(tex, block)
    except MathError as error:
        _logger.warning("a formula that cannot be shown: %s in %s", str(error).splitlines()[0], tex, location=node)
        markup = f"<code>{translator.encode(tex)}</code>"
    if not block:
        translator.body.append(f'<span class="math">{markup}</span>')
        return
    name = tag[1] if tag else node.get("number")
    number = f'<span class="eqno">({translator.encode(str(name))})</span>' if name else ""
    identifiers = " ".join(f'id="{identifier}"' for identifier in node.get("ids", [])[:1])
    translator.body.append(f'<div class="math-block" {identifiers} tabindex="0">{number}{markup}</div>\n')


def _inline(translator: HTML5Translator, node: nodes.Element) -> None:
    _visit(translator, node, block=False)
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.Element) -> None:
    _visit(translator, node, block=True)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
