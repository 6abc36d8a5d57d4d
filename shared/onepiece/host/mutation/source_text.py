"""The text of a module by the nodes of its syntax tree, so that one place can be changed and everything else stays as it is."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NO_CODE = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its place in the text."""

    string: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters `start` to `end` become `replacement`; what a reader is shown of it is the expression or statement around it."""

    start: int
    end: int
    replacement: str
    shown: tuple[int, int] | None  # None: a statement is deleted


class SourceText:
    """A module's text, its tree, and where the one is in the other. Places are numbers of characters from the beginning."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._tokens: list[Token] = []
        self._comments: list[Token] = []
        for found in tokenize.generate_tokens(io.StringIO(text).readline):
            token = Token(found.string, self._starts[found.start[0] - 1] + found.start[1], self._starts[found.end[0] - 1] + found.end[1])
            if found.type == tokenize.COMMENT:
                self._comments.append(token)
            elif found.type not in _NO_CODE:
                self._tokens.append(token)

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Where a node begins and ends; a function with its decorators."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            return self.before(self.span(decorators[0])[0]).start, self._place(node.end_lineno, node.end_col_offset)
        return self._place(node.lineno, node.col_offset), self._place(node.end_lineno, node.end_col_offset)

    def _place(self, line: int, column: int) -> int:
        """The syntax tree counts columns in bytes of UTF-8."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def between(self, start: int, end: int) -> list[Token]:
        """The tokens of code that lie within these places."""
        return [token for token in self._tokens if token.start >= start and token.end <= end]

    def before(self, place: int) -> Token:
        """The last token of code that ends at or before a place."""
        return next(token for token in reversed(self._tokens) if token.end <= place)

    def after(self, place: int) -> Token:
        """The first token of code that starts at or after a place."""
        return next(token for token in self._tokens if token.start >= place)

    def rest_of_blank(self, place: int) -> int:
        """Where the blanks end that begin at a place, on its line."""
        return place + len(self.text[place:]) - len(self.text[place:].lstrip(" \t"))

    def line_of(self, place: int) -> int:
        """The number, from 1, of the line that a place is in."""
        return next(number for number, start in enumerate(self._starts[1:], start=1) if place < start)

    def code_of_line(self, line: int) -> str:
        """A line without its indent and its comment."""
        return self.without_comments(self._starts[line - 1], self._starts[line])

    def without_comments(self, start: int, end: int) -> str:
        """A piece of the text in one line, each run of blanks as one."""
        return _one_line(self._pieces(start, end))

    def shown(self, edit: Edit) -> tuple[str, str]:
        """The expression around an edit, before and after it, in one line each."""
        assert edit.shown is not None
        start, end = edit.shown
        changed = [*self._pieces(start, edit.start), edit.replacement, *self._pieces(edit.end, end)]
        return self.without_comments(start, end), _one_line(changed)

    def _pieces(self, start: int, end: int) -> Iterator[str]:
        for comment in self._comments:
            if start <= comment.start < end:
                yield self.text[start : comment.start]
                start = min(comment.end, end)
        yield self.text[start:end]

    def apply(self, edit: Edit) -> str:
        """The text with one edit, and as many lines as before."""
        lost = self.text.count("\n", edit.start, edit.end) - edit.replacement.count("\n")
        return self.text[: edit.start] + edit.replacement + "\n" * lost + self.text[edit.end :]


def _one_line(pieces: Iterable[str]) -> str:
    return " ".join("".join(pieces).split())
