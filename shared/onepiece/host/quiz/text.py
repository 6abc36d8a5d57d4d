"""Texts of a quiz as lines of a terminal: marked words, and line breaks that Chinese needs."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.text import Text as Line

from onepiece.course.text import Text

_MARKED = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*)")
_NEVER_FIRST = "，。、；：？！）」』》…,.;:?!)]}%％"
_NEVER_LAST = "（「『《([{"


def prose(text: Text) -> Line:
    """A text with its `code` and **strong** words, as the page shows them."""
    line = Line()
    for piece in _MARKED.split(str(text)):
        if len(piece) > 2 and piece[0] == piece[-1] == "`":
            line.append(piece[1:-1], "cyan")
        elif len(piece) > 4 and piece.startswith("**") and piece.endswith("**"):
            line.append(piece[2:-2], "bold")
        else:
            line.append(piece)
    return line


def wrapped(line: Line, width: int) -> Line:
    """The same text with line breaks, so that no line is wider than `width` cells.

    Rich breaks at spaces only, and Chinese has none: it may break between any two characters, but not before a closing
    punctuation mark or after an opening one.
    """
    text, cuts, begin, used, possible = line.plain, [], 0, 0, 0
    for place, character in enumerate(text):
        if place > begin and _may_break(text[place - 1], character):
            possible = place
        used += cell_len(character)
        if used > width and character != " " and place > begin:
            begin = possible if possible > begin else place
            cuts.append(begin)
            used = cell_len(text[begin : place + 1])
            if used > width:  # what may not be broken is wider than the line
                begin = place
                cuts.append(begin)
                used = cell_len(character)
    lines = line.divide(cuts)
    for part in lines:
        part.rstrip()
    return Line("\n").join(lines)


def _may_break(before: str, after: str) -> bool:
    if before == " ":
        return after != " "
    wide = cell_len(before) == 2 or cell_len(after) == 2
    return wide and after != " " and after not in _NEVER_FIRST and before not in _NEVER_LAST
