"""Notebooks and modules from one source: both languages, the reference and the starter.

A notebook is jupytext py:percent: code once, prose twice. Cells are `# %%` and `# %% [markdown]`; a markdown cell
with `lang="en"` is directly followed by its `lang="zh-TW"` twin, one without `lang` stands in both. A module is plain
Python with `# SOLUTION 3` ... `# END SOLUTION` around what the learner writes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import LANGUAGES

_MARKER = re.compile(r"^# ?%%(?P<rest>.*)$")
_HEADER = re.compile(r"^(?:\s+\[(?P<type>[^\]]*)\])?(?P<options>(?:\s+.*)?)$")
_OPTION = re.compile(r"\s+(?P<key>[^\s=]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|\[[^\]]*\])")
_SOLUTION = re.compile(r"^(?P<indent>\s*)# SOLUTION (?P<number>\d+)\s*$")
_END_SOLUTION = re.compile(r"^\s*# END SOLUTION\s*$")
_LOOKS_LIKE_MARKER = re.compile(r"^\s*#\s*(END\s+)?SOLUTION\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a source file: the line it starts on, what its header says, and its text."""

    line: int
    kind: str  # "code" or "markdown"
    language: str | None
    tags: tuple[str, ...]
    text: str = ""


# --- notebooks ----------------------------------------------------------------------------------


def read_cells(path: Path) -> list[Cell]:
    """Check a notebook source line by line and cut it into cells.

    The format is a strict part of what jupytext reads, and a test compares the two. Jupytext itself guesses more than a
    strict format needs: it takes comments that begin like a shell command for one, and markers inside strings for cells.

    Raises:
        UserError: "bad-source", with file and line.
    """
    cells: list[Cell] = []
    lines: list[str] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        marker = _MARKER.match(line)
        if marker:
            _close_cell(cells, lines)
            cells.append(_read_header(path, number, marker["rest"]))
        elif not cells and line.strip():
            raise _bad(path, number, 'text before the first cell; a notebook starts with a line `# %% [markdown] lang="en"`')
        elif cells and cells[-1].kind == "markdown" and line.strip() and not line.startswith("#"):
            raise _bad(path, number, "a line of a markdown cell that is not a comment")
        else:
            lines.append(line)
    if not cells:
        raise _bad(path, 1, "no cells")
    _close_cell(cells, lines)
    _check_twins(path, cells)
    return cells


def _close_cell(cells: list[Cell], lines: list[str]) -> None:
    """Give the lines since the last marker to its cell; blank lines around a cell are not part of it."""
    if cells and cells[-1].kind == "markdown":
        lines[:] = [line.removeprefix("#").removeprefix(" ") for line in lines]
    if cells:
        cells[-1] = replace(cells[-1], text="\n".join(lines).strip("\n"))
    lines.clear()


def _read_header(path: Path, line: int, rest: str) -> Cell:
    header = _HEADER.match(rest)
    if header is None:
        raise _bad(path, line, f"a cell header that cannot be read: `{rest.strip()}`")
    kind = header["type"]
    if kind not in (None, "markdown"):
        raise _bad(path, line, f"unknown cell type [{kind}]; allowed: none (code) or [markdown]")
    options: dict[str, Any] = {}
    text = header["options"].rstrip()
    position = 0
    while position < len(text):
        option = _OPTION.match(text, position)
        if option is None:
            raise _bad(path, line, f'`{text[position:].strip()}`: a cell key is written key="value" or tags=["a"]')
        if option["key"] not in ("lang", "tags"):
            raise _bad(path, line, f"unknown cell key {option['key']}; allowed: lang, tags")
        try:
            options[option["key"]] = json.loads(option["value"])
        except json.JSONDecodeError:
            raise _bad(path, line, f"{option['key']}={option['value']} is not a quoted value") from None
        position = option.end()
    language = options.get("lang")
    if language is not None and (kind is None or language not in LANGUAGES):
        raise _bad(path, line, f"lang={language!r}; allowed: {' | '.join(LANGUAGES)}, on markdown cells only")
    tags = options.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise _bad(path, line, "tags is a list of strings")
    return Cell(line, kind or "code", language, tuple(tags))


def _check_twins(path: Path, cells: list[Cell]) -> None:
    expected: str | None = None
    for cell in cells:
        if cell.language == expected == "zh-TW":
            expected = None
        elif expected is not None:
            raise _bad(path, cell.line, 'the lang="en" cell before this line has no lang="zh-TW" twin directly after it')
        elif cell.language == "zh-TW":
            raise _bad(path, cell.line, 'a lang="zh-TW" cell without its lang="en" twin directly before it')
        elif cell.language == "en":
            expected = "zh-TW"
    if expected is not None:
        raise _bad(path, cells[-1].line, 'the last lang="en" cell has no lang="zh-TW" twin')


def notebook_json(path: Path, language: str, note: str = "") -> str:
    """The `.ipynb` text of a notebook source in one language, below a `note` if there is one; the same bytes for the same source."""
    cells = []
    for cell in ([Cell(0, "markdown", None, (), note)] if note else []) + read_cells(path):
        if cell.language not in (None, language):
            continue
        digest = hashlib.sha256(cell.text.encode()).hexdigest()[:8]
        generated: dict[str, Any] = {
            "cell_type": cell.kind,
            "id": f"{len(cells):03d}-{digest}",
            "metadata": {"tags": list(cell.tags)} if cell.tags else {},
            "source": cell.text.splitlines(keepends=True),
        }
        if cell.kind == "code":
            generated |= {"execution_count": None, "outputs": []}
        cells.append(generated)
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def write_notebooks(lab: Lab, directory: Path, language: str, names: Iterable[str] | None = None, note: str = "") -> None:
    """Generate notebooks of `lab` into `directory`, each below a `note` if there is one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names or lab.notebooks:
        text = notebook_json(lab.directory / f"{name}.py", language, note)
        (directory / f"{name}.ipynb").write_text(text, encoding="utf-8", newline="\n")


# --- modules ------------------------------------------------------------------------------------


CALIBRATION = "calibration.py"
"""How the settings of a lab are searched: no lesson, and it decides no result."""


def modules(lab: Lab) -> list[Path]:
    """The lab's Python modules: what a notebook imports and a learner writes."""
    beside = {"checks.py", CALIBRATION, *(f"{name}.py" for name in lab.notebooks)}
    return [path for path in sorted(lab.directory.glob("*.py")) if path.name not in beside]


def require_copy(lab: Lab, copy: Path) -> None:
    """Refuse a learner's copy that is not there or lacks exercises: the reference, which is importable behind it, would pass for them.

    Raises:
        UserError: "no-workspace", "workspace-incomplete".
    """
    if not copy.is_dir():
        raise UserError("no-workspace", lab=lab.id)
    missing = [path.name for path in modules(lab) if solutions(path) and not (copy / path.name).is_file()]
    if missing:
        raise UserError("workspace-incomplete", lab=lab.id, files=", ".join(missing))


def starter_source(path: Path) -> str:
    """The module with every solution replaced by `raise NotImplementedError("Exercise N")`.

    Raises:
        UserError: "bad-source", for markers that do not pair, nest, or leave something that does not parse.
    """
    source = _read(path)
    _must_parse(path, source, "the reference")
    starter: list[str] = []
    inside = False
    for kind, line, number, indent in _solution_lines(path, source):
        if kind == "begin":
            starter.append(f'{indent}raise NotImplementedError("Exercise {number}")  # replace this line; keep what follows it')
            inside = True
        elif kind == "end":
            inside = False
        elif not inside:
            starter.append(line)
    result = "\n".join(starter) + "\n"
    _must_parse(path, result, "the starter")
    return result


@dataclass(frozen=True, slots=True)
class Region:
    """The lines of a module that are a part of an exercise's reference, without their markers."""

    exercise: int
    first: int  # line number, from 1
    last: int  # before `first`, if there is nothing between the markers


def regions(path: Path) -> list[Region]:
    """Where the reference solutions of a module are, from top to bottom; an exercise can have several parts."""
    found: list[Region] = []
    exercise = first = 0
    for number, (kind, _, marked, _) in enumerate(_solution_lines(path, _read(path)), start=1):
        if kind == "begin":
            exercise, first = marked, number + 1
        elif kind == "end":
            found.append(Region(exercise, first, number - 1))
    return found


def solutions(path: Path) -> dict[int, str]:
    """Exercise number -> the reference's lines for it."""
    lines = _read(path).splitlines()
    found: dict[int, list[str]] = {}
    for region in regions(path):
        found.setdefault(region.exercise, []).extend(lines[region.first - 1 : region.last])
    return {number: "\n".join(parts) for number, parts in found.items()}


def without_marks(source: str) -> str:
    """Code of the reference without the marks of its exercises."""
    return "\n".join(line for line in source.splitlines() if not _SOLUTION.match(line) and not _END_SOLUTION.match(line))


def _solution_lines(path: Path, source: str) -> Iterable[tuple[str, str, int, str]]:
    opened: int | None = None
    for number, line in enumerate(source.splitlines(), start=1):
        begin = _SOLUTION.match(line)
        if begin:
            if opened is not None:
                raise _bad(path, number, f"a solution inside the one of line {opened}")
            opened = number
            yield "begin", line, int(begin["number"]), begin["indent"]
        elif _END_SOLUTION.match(line):
            if opened is None:
                raise _bad(path, number, "END SOLUTION without its SOLUTION")
            opened = None
            yield "end", line, 0, ""
        elif _LOOKS_LIKE_MARKER.match(line):
            raise _bad(path, number, "a solution marker is `# SOLUTION 3` or `# END SOLUTION`, alone on its line")
        else:
            yield "line", line, 0, ""
    if opened is not None:
        raise _bad(path, opened, "SOLUTION without its END SOLUTION")


def _must_parse(path: Path, source: str, what: str) -> None:
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise _bad(path, error.lineno or 1, f"{what} does not parse: {error.msg}") from None


# --- what the notebooks of a lab do, seen without running them -----------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What the code cells of a lab's notebooks say to the lab API."""

    records: frozenset[tuple[str, str | None]]  # (metric, variant); variant "*" if it is not a literal
    recorded_in: dict[str, frozenset[str]]  # metric -> the notebooks that record it
    artifact_makers: dict[str, str]  # artifact -> the first notebook that names it
    predicted: tuple[str, ...]  # metrics that the notebooks ask a guess for, in their order


def usage(lab: Lab) -> Usage:
    """Read the calls of `lab.record` and `lab.artifact` in all notebooks of a lab."""
    records: set[tuple[str, str | None]] = set()
    recorded_in: dict[str, frozenset[str]] = {}
    makers: dict[str, str] = {}
    predicted: dict[str, None] = {}
    for name in lab.notebooks:
        path = lab.directory / f"{name}.py"
        source = _read(path)
        _must_parse(path, source, "the code of the notebook")
        predicted |= dict.fromkeys(_asked_in_prose(source))
        for call in ast.walk(ast.parse(source)):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
                continue
            first = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if not isinstance(call.func.value, ast.Name) or call.func.value.id != "lab" or not isinstance(first, str):
                continue
            if call.func.attr == "record":
                records.add((first, _variant(call)))
                recorded_in[first] = recorded_in.get(first, frozenset()) | {name}
            elif call.func.attr == "artifact":
                makers.setdefault(first, name)
            elif call.func.attr == "predict":
                predicted[first] = None
    return Usage(frozenset(records), recorded_in, makers, tuple(predicted))


def _asked_in_prose(source: str) -> list[str]:
    """Metrics that a notebook's text asks to be written into `predictions.toml`: its code may take them by a name."""
    blocks = re.findall(r"^# ```toml\n(.*?)^# ```$", source, flags=re.MULTILINE | re.DOTALL)
    return [metric for block in blocks for metric in re.findall(r"^# (\w+) *=", block, flags=re.MULTILINE)]


def _variant(call: ast.Call) -> str | None:
    for keyword in call.keywords:
        if keyword.arg == "variant":
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) else "*"
    return None


def verify(lab: Lab) -> list[UserError]:
    """Everything that is wrong with a lab's sources, found without running it."""
    problems: list[UserError] = []

    def collect(check: Any, *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except UserError as error:
            problems.append(error)
            return None

    for name in lab.notebooks:
        collect(read_cells, lab.directory / f"{name}.py")
    for path in modules(lab):
        collect(starter_source, path)
        if hides(path.stem):
            problems.append(_bad(path, 1, "the module shadows an importable name; rename it"))
    seen = collect(usage, lab)
    if seen is None:
        return problems
    for index, gate in enumerate(lab.gates):
        for variant in dict.fromkeys((None, gate.control, gate.null)):
            possible = {(gate.metric, variant), (gate.metric, "*")}
            if not possible & seen.records:
                what = f"gates[{index}]: metric {gate.metric!r}" + (f", control variant {variant!r}," if variant else "")
                problems.append(
                    UserError("bad-manifest", where=f"{lab.id}/lab.toml", what=f"{what} which no notebook records with lab.record")
                )
    if lab.score and not {(lab.score.metric, None), (lab.score.metric, "*")} & seen.records:
        what = f"score.metric {lab.score.metric!r} which no notebook records with lab.record"
        problems.append(UserError("bad-manifest", where=f"{lab.id}/lab.toml", what=what))
    return problems


def hides(module: str) -> bool:
    """Would a module of this name, first on the path, hide one of Python, or of the packages that the course needs?"""
    return module in sys.stdlib_module_names or module in _course_packages()


def _course_packages() -> frozenset[str]:
    """Import names of the packages named by the course, which a lab's module must not hide."""
    named = "nox docker torch transformers peft trl bitsandbytes flash_attn vllm tritonclient triton jupyterlab"
    beside = "accelerate datasets matplotlib numpy onepiece pandas psutil safetensors tokenizers"
    return frozenset(f"{named} {beside}".split())


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")  # with what Windows editors put first, or without
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, 1, f"unreadable: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line.splitlines()) > 1:
            raise _bad(path, number, "a character that some readers take for the end of a line; write it as an escape")
    return text


def _bad(path: Path, line: int, what: str) -> UserError:
    return UserError("bad-source", where=f"{path.parent.name}/{path.name}:{line}", what=what)
