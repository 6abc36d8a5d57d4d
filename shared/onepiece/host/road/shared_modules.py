"""Which modules of the package a lab runs on: what it imports, and what those import in turn.

A lab's results are of its own sources and of these. When one of them changes, the published results are older than what is here: the
lab's page says so, and whole runs come to that lab sooner. Left out is what measures nothing: `course` (texts and manifests) and `checks`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.course.places import SHARED

PACKAGE = "onepiece"
_DECIDES_NOTHING = frozenset({"checks", "calibration"})
_NOT_MEASURED = (f"{PACKAGE}.checks", f"{PACKAGE}.course", f"{PACKAGE}.host")


def of_lab(lab: Lab) -> dict[str, Path]:
    """Module -> file, of everything shared that decides the results of `lab`, in the order of the names."""
    found: dict[str, Path] = {}
    waiting = [name for path in _deciding(lab) for name in _imported(path)]
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(_NOT_MEASURED):
            continue
        found[name] = _modules()[name]
        waiting += _imported_by(name)
    return dict(sorted(found.items()))


def sources_hash(lab: Lab) -> str:
    """One hash over everything in the lab's directory that decides its results."""
    return _hash([("lab.toml", lab.directory / "lab.toml"), *((path.name, path) for path in _deciding(lab))])


def _deciding(lab: Lab) -> list[Path]:
    """The lab's Python files that decide its results.

    What judges a learner's code and what searched for settings decide nothing: `checks.py`, `calibration.py`, and modules that only
    these import. Everything else does, whether it is imported or started by its path.
    """
    files = {path.stem: path for path in sorted(lab.directory.glob("*.py"))}
    users = {name: {user for user, path in files.items() if name in _roots(path) - {user}} for name in files}
    return [path for name, path in files.items() if name not in _DECIDES_NOTHING and not (users[name] and users[name] <= _DECIDES_NOTHING)]


def checks_hash(lab: Lab) -> str:
    """One hash over everything in the lab's directory that decides what its checks say: all code but the notebooks."""
    notebooks = {f"{name}.py" for name in lab.notebooks}
    return _hash((path.name, path) for path in sorted(lab.directory.glob("*.py")) if path.name not in notebooks)


def shared_hash(lab: Lab) -> str:
    """One hash over the shared modules that the lab runs on."""
    return _hash(of_lab(lab).items())


def _hash(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _modules() -> dict[str, Path]:
    """Every module of the package -> its file."""

    def name(path: Path) -> str:
        parts = path.relative_to(SHARED).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    return {name(path): path for path in sorted((SHARED / PACKAGE).rglob("*.py"))}


@functools.cache
def _imported_by(name: str) -> tuple[str, ...]:
    return _imported(_modules()[name])


def _imported(path: Path) -> tuple[str, ...]:
    """The modules of the package that a file imports, at any depth, with the rooms that they are in."""
    return tuple(sorted({name for found in _names(ast.parse(path.read_bytes())) for name in _with_rooms(found)}))


def _roots(path: Path) -> frozenset[str]:
    """The first part of everything that a file imports."""
    return frozenset(name.split(".")[0] for name in _names(ast.parse(path.read_bytes())))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _with_rooms(name: str) -> Iterator[str]:
    """Importing `a.b.c` runs `a`, `a.b` and `a.b.c`; a name that is no module (a function) stands for none."""
    parts = name.split(".")
    if parts[0] == PACKAGE:
        yield from (made for end in range(1, len(parts) + 1) if (made := ".".join(parts[:end])) in _modules())
