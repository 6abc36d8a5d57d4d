"""Links of READMEs and other files of the repository, as links of the site."""

from __future__ import annotations

import re
from pathlib import Path

from onepiece.course.places import ROOT

from . import course

_LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s]+)\)")
# Files outside docs/ that a page includes.
_INCLUDED = {"CONTRIBUTING.md": "/guides/add-a-lab.md", "docs/architecture.md": "/guides/architecture.md"}


def to_pages(text: str, directory: Path) -> str:
    """Links that are relative to `directory` lead to pages; those that have no page here become plain text."""

    def replaced(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        page = _page_of(directory, target)
        if page is None:
            return found[0]
        return f"[{found['text']}]({page}{'#' + anchor if anchor else ''})" if page else found["text"]

    return _LINK.sub(replaced, text)


def _page_of(directory: Path, target: str) -> str | None:
    """The page of a link's target; "" if it has none, None if it leads out of the repository and is left alone."""
    if not target or target.startswith("/") or re.match(r"[a-z]+:", target):
        return None
    path = (directory / target).resolve()
    if not path.is_relative_to(ROOT):
        return ""
    parts = path.relative_to(ROOT).parts
    if "/".join(parts) in _INCLUDED:
        return _INCLUDED["/".join(parts)]
    if parts[0] == "docs":
        page = re.fullmatch(r"(.+)\.(?:en|zh-TW)\.md", "/".join(parts[1:]))
        return f"/{page[1]}.md" if page and path.exists() else ""
    lab = course.lab(parts[1]) if parts[0] == "labs" and len(parts) > 1 else None
    if lab is None or (len(parts) > 2 and path.name not in ("README.md", "README.zh-TW.md", *(f"{name}.py" for name in lab.notebooks))):
        return ""
    return f"/labs/{lab.id}/{path.stem if path.stem in lab.notebooks else 'index'}.md"
