"""Mutants: the reference of an exercise with one small thing wrong, as source text.

Only what stands between `# SOLUTION n` and `# END SOLUTION` is changed, and only its text: comments and line numbers stay what they are.
Nothing inside f-strings and annotations is changed (before Python 3.12 nobody knows where in an f-string a node is).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.host.mutation.edits import edits
from onepiece.host.mutation.source_text import Edit, SourceText
from onepiece.host.road import sources

DELETED = "deleted"
_LONG = 100  # characters of an expression that are shown whole
_AROUND = 32  # characters shown around the change in a longer one


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong version of a module."""

    module: str  # "lora.py"
    exercise: int
    line: int
    text: str  # that line of the reference, without indent and comment
    change: str  # "`scores * scale` -> `scores / scale`", or "deleted"
    source: str  # the whole module

    def __str__(self) -> str:
        return f"{self.module}:{self.line}  {self.text}  ({self.change})"


def mutants_of_lab(lab: Lab) -> list[Mutant]:
    """The mutants of every module, in a fixed order: by module, then by place."""
    return [mutant for path in sources.modules(lab) for mutant in mutants_of_module(path)]


def mutants_of_module(path: Path) -> list[Mutant]:
    """The mutants of one module. None equals the reference, and no two are equal: comments and layout do not count."""
    source = SourceText(path.read_text(encoding="utf-8-sig"))
    found: list[Mutant] = []
    on_line: Counter[tuple[int, str]] = Counter()
    for region in sources.regions(path):
        seen = {_meaning(source.tree, region)}
        for edit in _edits_in(source, region):
            text = source.apply(edit)
            meaning = _meaning(ast.parse(text), region)
            if meaning in seen:
                continue
            seen.add(meaning)
            line, change = source.line_of(edit.start), _change(source, edit)
            on_line[line, change] += 1
            if on_line[line, change] > 1:
                change += f", number {on_line[line, change]} on this line"
            found.append(Mutant(path.name, region.exercise, line, source.code_of_line(line), change, text))
    return found


def _edits_in(source: SourceText, region: sources.Region) -> list[Edit]:
    """The edits of a region, from top to bottom and from left to right."""
    found = [edit for statement in _statements(source.tree, region) for edit in edits(source, statement)]
    return sorted(found, key=lambda edit: edit.start)


def _statements(node: ast.AST, region: sources.Region) -> Iterator[ast.stmt]:
    """The statements that lie in a region, but not those inside of them."""
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.stmt)
            and child.end_lineno is not None
            and region.first <= child.lineno
            and child.end_lineno <= region.last
        ):
            yield child
        else:
            yield from _statements(child, region)


def _meaning(module: ast.Module, region: sources.Region) -> str:
    """The syntax of the functions and classes that a region is in; that of the rest of the module is the same for all its mutants."""
    return "".join(ast.dump(node) for node in module.body if node.lineno <= region.last and (node.end_lineno or 0) >= region.first)


def _change(source: SourceText, edit: Edit) -> str:
    """What was done, as a reader sees it."""
    if edit.shown is None:
        return DELETED
    before, after = source.shown(edit)
    if max(len(before), len(after)) > _LONG:
        before, after = _around_the_difference(before, after)
    return f"`{before}` -> `{after}`"


def _around_the_difference(before: str, after: str) -> tuple[str, str]:
    same = _in_common(before, after)
    same_end = _in_common(before[same:][::-1], after[same:][::-1])
    first, last = max(same - _AROUND, 0), max(same_end - _AROUND, 0)
    head, tail = "…" * (first > 0), "…" * (last > 0)
    return head + before[first : len(before) - last] + tail, head + after[first : len(after) - last] + tail


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
