"""The two floors of the package keep apart, and what must start quickly imports little."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy_course

SHARED = toy_course.ROOT / "shared"
PACKAGE = SHARED / "onepiece"

# What the host environment installs, by the names under which it is imported.
HOST_PACKAGES = {"docker", "filelock", "jinja2", "jsonschema", "jupytext", "rich", "virtualenv"}
NOXFILE = toy_course.ROOT / "noxfile.py"


def module_name(path: Path) -> str:
    parts = path.relative_to(SHARED).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, package: str = "") -> set[str]:
    """Every module that a file imports, at any depth: `from onepiece import lab` counts as `onepiece.lab`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names}
    return found


def floor(module: str) -> str:
    """`course` is for both; `serving` starts and ends servers for both, and so keeps to the standard library too."""
    if module in ("onepiece", "onepiece.serving", "onepiece.serving.servers") or module.startswith("onepiece.course"):
        return "both"
    return "host" if module == "onepiece.host" or module.startswith("onepiece.host.") else "lab"


def is_stdlib(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) == "both"])
def test_what_both_floors_import_needs_the_standard_library_only(module: str) -> None:
    for imported in imports(MODULES[module]):
        assert is_stdlib(imported) or floor(imported) == "both", imported


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) == "host"])
def test_the_host_floor_imports_nothing_of_the_lab_floor_and_nothing_heavy(module: str) -> None:
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] == "onepiece":
            assert floor(imported) in ("host", "both"), f"{module} imports {imported}"
        else:
            assert is_stdlib(imported) or imported.split(".")[0] in HOST_PACKAGES, f"{module} imports {imported}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) == "lab"])
def test_the_lab_floor_imports_nothing_of_the_host_floor(module: str) -> None:
    assert not {imported for imported in imports(MODULES[module]) if imported.split(".")[0] == "onepiece" and floor(imported) == "host"}


@pytest.mark.parametrize("path", sorted((toy_course.ROOT / "labs").glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_lab_imports_nothing_of_the_host_floor(path: Path) -> None:
    assert not {imported for imported in imports(path) if imported.startswith("onepiece.host")}


def test_both_floors_were_found() -> None:
    assert {"onepiece.course.catalog", "onepiece.serving.servers"} <= {name for name in MODULES if floor(name) == "both"}
    assert {"onepiece.host.command_line", "onepiece.host.road.sources"} <= {name for name in MODULES if floor(name) == "host"}
    assert {"onepiece.lab", "onepiece.kernel.execute", "onepiece.measure", "onepiece.checks"} <= {
        name for name in MODULES if floor(name) == "lab"
    }


def circles() -> list[list[str]]:
    """Groups of modules that import each other in a circle, at any depth: imports inside functions count."""
    graph = {name: imports(path) & set(MODULES) for name, path in MODULES.items()}
    found: list[list[str]] = []
    while graph:
        ends = {name for name, imported in graph.items() if not imported & set(graph) - {name}}
        used = {imported for name, all_of_them in graph.items() for imported in all_of_them if imported != name}
        starts = set(graph) - used
        if not ends | starts:
            found.append(sorted(graph))
            break
        graph = {name: imported for name, imported in graph.items() if name not in ends | starts}
    return found


def test_no_module_imports_itself_around_a_corner() -> None:
    assert circles() == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/guides/architecture.zh-TW.md"])
def test_the_map_of_the_house_names_every_room(page: str) -> None:
    text = (toy_course.ROOT / page).read_text(encoding="utf-8")
    rooms = {path.parent.name for path in PACKAGE.rglob("__init__.py")} - {"onepiece"}
    assert {room for room in rooms if f"{room}/`" not in text} == set()


def test_a_command_is_there_for_every_session_and_a_session_for_every_command() -> None:
    """The noxfile is the one list of commands: each is dispatched to the module of its name."""
    named = set(re.findall(r'^command\("([a-z-]+)"', NOXFILE.read_text(encoding="utf-8"), re.MULTILINE)) | {"run"}
    there = {path.stem.replace("_", "-") for path in (PACKAGE / "host" / "commands").glob("*.py")} - {"--init--"}
    assert there == named


# --- the noxfile, and what it reads at every start --------------------------------------------------------


def test_the_noxfile_is_short_and_imports_the_standard_library_nox_and_the_course_only() -> None:
    assert len(NOXFILE.read_text(encoding="utf-8").splitlines()) <= 150
    for imported in imports(NOXFILE):
        assert is_stdlib(imported) or imported.split(".")[0] in ("nox", "onepiece"), imported


def test_the_noxfile_names_no_lab() -> None:
    tree = ast.parse(NOXFILE.read_text(encoding="utf-8"))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    examples = [text for text in strings if "nox -s" in text]  # docstrings of commands may show one
    assert not [text for text in strings if "lab-1." in text and text not in examples]


# Lazily, for what is done rarely: filelock comes with virtualenv, which comes with nox.
@pytest.mark.parametrize(
    "module",
    [
        "onepiece.course.catalog",
        "onepiece.course.errors",
        "onepiece.course.places",
        "onepiece.course.text",
        "onepiece.host.road.environments",
    ],
)
def test_what_the_noxfile_imports_starts_without_any_installed_package(module: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(SHARED)!r}); import {module}; print(*sorted(sys.modules))"
    # -S: no site-packages, so that an import of anything else cannot succeed; -E: whatever PYTHONPATH says.
    done = subprocess.run([sys.executable, "-S", "-E", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {name for name in loaded if not name.startswith("_") and name not in sys.stdlib_module_names} == {"onepiece"}


def test_a_home_may_be_written_with_a_tilde() -> None:
    program = "from onepiece.course.places import HOME; print(HOME)"
    environ = os.environ | {"PYTHONPATH": str(SHARED), "ONEPIECE_HOME": "~/op", "HOME": "/somewhere", "USERPROFILE": "/somewhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path("/somewhere/op").resolve()


def test_the_catalog_command_does_not_load_what_a_run_needs() -> None:
    program = "import sys; import onepiece.host.commands.catalog; print(*sorted(sys.modules))"
    environ = os.environ | {"PYTHONPATH": str(SHARED)}
    loaded = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert not {"jinja2", "jsonschema", "docker", "virtualenv", "nbformat", "jupytext", "torch"} & set(loaded)
