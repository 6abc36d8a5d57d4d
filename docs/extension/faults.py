"""What goes wrong on purpose, from docs/faults/*.toml, each with the tests that hold it: those marked `@pytest.mark.fault("its-id")`."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onepiece.course.places import ROOT
from onepiece.course.text import Text

from .course import DOCS
from .punctuation import brackets

FAULTS = DOCS / "faults"
TESTS = ROOT / "tests"
HEADER = {
    "en": "| kind | what was seen, or was to be feared | what happens now | held by |\n|---|---|---|---|",
    "zh-TW": "| 種類 | 看到的現象，或可能的後果 | 現在的結果 | 由哪些測試把關 |\n|---|---|---|---|",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry: a fault or an attack, before and after."""

    id: str
    kind: Text
    seen: Text
    now: Text


def fault_table(argument: str, language: str) -> str:
    """A table of every fault with its tests, area by area."""
    held = marked_tests(TESTS)
    rows = []
    for fault in faults(FAULTS):
        tests = "<br>".join(_sentence(test, language) for test in held.get(fault.id, ()))
        rows.append("| " + " | ".join([*(_cell(text[language]) for text in (fault.kind, fault.seen, fault.now)), tests]) + " |")
    return "\n".join([HEADER[language], *rows])


def faults(room: Path) -> Iterator[Fault]:
    """Every entry of the files there.

    Raises:
        KeyError: an entry that lacks a key, or a language.
    """
    for path in sorted(room.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["faults"]:
            yield Fault(entry["id"], *(Text(entry[key]["en"], entry[key]["zh-TW"]) for key in ("kind", "seen", "now")))


def marked_tests(room: Path) -> dict[str, list[str]]:
    """Id -> tests that are marked with it (`unit/test_locks.py::test_x`), read from the sources: no test need be importable here."""
    found: dict[str, list[str]] = {}
    for path in sorted(room.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for fault, test in _marks_of(node):
                found.setdefault(fault, []).append(f"{path.relative_to(room).as_posix()}::{test}")
    return found


def _marks_of(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """(id, test) of a test function, of the tests of a class, and of `pytestmark`, whose test is `*`."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        for decorator in node.decorator_list:
            yield from ((fault, node.name) for fault in _ids(decorator))
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield from ((fault, f"{node.name}::{test}") for fault, test in _marks_of(inner))
    elif isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets):
        yield from ((fault, "*") for fault in _ids(node.value))


def _ids(expression: ast.expr) -> Iterator[str]:
    """The ids of every `pytest.mark.fault("id")` in an expression, also of those among the cases of a parametrized test."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant) and isinstance(argument.value, str))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(test: str, language: str) -> str:
    """A test as it reads, with its file: names of tests are sentences."""
    file, name = test.split("::", 1)
    words = name.rsplit("::", 1)[-1].removeprefix("test_").replace("_", " ").replace("*", "\\*")
    return words + brackets(f"`tests/{file}`", language)
