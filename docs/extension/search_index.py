"""The search index, made by Pagefind from the finished pages.

Pagefind cuts Chinese into words, but Traditional Chinese often wrongly (of 參數 it makes 參 and 數高效), and then finds nothing.
So it reads copies of the pages in which every character is a word of its own, and `site.js` asks for phrases of them: a
Chinese term is found exactly where it stands.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

_WIDE = re.compile("([\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f])")
_TAG = re.compile(r"(<[^>]+>)")
_ZERO_WIDTH_SPACE = "\u200b"


def separated(markup: str) -> str:
    """HTML with an invisible space on both sides of each wide character of its text."""
    parts = _TAG.split(markup)
    return "".join(part if part.startswith("<") else _WIDE.sub(rf"{_ZERO_WIDTH_SPACE}\1{_ZERO_WIDTH_SPACE}", part) for part in parts)


def write_index(pages: Path, work: Path) -> str:
    """Index the pages of one language into `pages/pagefind`; returns what went wrong, or nothing.

    Args:
        pages: the finished pages.
        work: where their copies may be.
    """
    copies = work / "searchable"
    shutil.rmtree(copies, ignore_errors=True)
    for page in pages.rglob("*.html"):
        copy = copies / page.relative_to(pages)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(separated(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    index = pages / "pagefind"
    shutil.rmtree(index, ignore_errors=True)
    options = ["--site", str(copies), "--output-path", str(index), "--root-selector", "article.bd-article"]
    options += ["--exclude-selectors", "a.headerlink", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "pagefind", *options], capture_output=True, text=True, encoding="utf-8", errors="replace")
    return "" if done.returncode == 0 else done.stdout + done.stderr
