"""Sphinx configuration of both languages. `build.py` says which one, and stages the sources."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

LANGUAGE = os.environ["ONEPIECE_LANG"]  # "en" or "zh-TW"
ENGLISH = LANGUAGE == "en"

project = "LLM One Piece"
author = "the authors of LLM One Piece"
project_copyright = "the authors of LLM One Piece, Apache-2.0"
language = "en" if ENGLISH else "zh_TW"

extensions = ["myst_parser", "sphinx_design", "extension"]
source_suffix = {".md": "markdown"}
root_doc = "index"
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # console transcripts that only begin like a language

myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist", "html_image"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
myst_dmath_double_inline = True
smartquotes = False
highlight_language = "none"
html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = "LLM One Piece"
html_static_path = [str(DOCS / "static"), os.environ["ONEPIECE_SITE_ASSETS"]]
templates_path = [str(DOCS / "templates")]
html_css_files = ["site.css"]
html_favicon = str(DOCS / "static" / "favicon.svg")
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_domain_indices = False
html_sidebars = {"index": [], "paths": [], "glossary": [], "peft-family": [], "**": ["sidebar-nav-bs"]}
html_theme_options = {
    "disable_search": True,  # ours finds words in unspaced Chinese
    "logo": {"text": "LLM One Piece"},
    "navbar_persistent": ["site-search"],
    "navbar_end": ["language-switch", "theme-switcher"],
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 1,
    "navigation_depth": 3,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "primary_sidebar_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
