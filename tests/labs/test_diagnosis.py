"""An error blames what did it: an environment is called damaged only if it is, and what is printed as a remedy can be typed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_course
from parts import linux_only
from toy_course import GOOD, LAB, Checkout, Done

from onepiece.host.road import environments

pytestmark = linux_only

QUICK = "lab-9.2-quick"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    toy_course.write_quick_lab(made.root, QUICK, first=GOOD)
    return made


@pytest.fixture
def checkout(source: Checkout, tmp_path: Path) -> Checkout:
    return source.elsewhere(tmp_path / "home")


def with_damage(checkout: Checkout, name: str, package: str, spoil: Callable[[Path], object]) -> Path:
    """Give this home an environment of its own that has what the real one has, but for one package; its Python."""
    real = environments.ensure(name, session="tests").directory
    made = checkout.home / ".nox" / real.name
    everything = (checkout.home / ".nox").resolve()
    (checkout.home / ".nox").unlink()
    (checkout.home / ".nox").mkdir()
    for other in everything.iterdir():
        if other.name != real.name:
            (checkout.home / ".nox" / other.name).symlink_to(other)
    site = next((real / "lib").glob("python*/site-packages"))
    mine = made / site.relative_to(real)
    mine.mkdir(parents=True)
    (made / "bin").mkdir()
    (made / "bin" / "python").symlink_to((real / "bin" / "python").resolve())
    for file in ("pyvenv.cfg", "onepiece.json"):
        shutil.copy(real / file, made / file)
    (mine / "real.pth").write_text(str(site), encoding="utf-8")  # behind what is here
    for part in (package, *(found.name for found in site.glob(f"*{package}-*.dist-info"))):
        shutil.copytree(site / part, mine / part)
    spoil(mine / package)
    return made / "bin" / "python"


def cut_libraries(package: Path) -> None:
    for library in package.rglob("*.so"):
        library.write_bytes(library.read_bytes()[:1000])


def empty(package: Path) -> None:
    shutil.rmtree(package)
    package.mkdir()
    (package / "__init__.py").touch()  # a directory alone would be looked for further on


def is_damage(done: Done, name: str, rebuild: str) -> None:
    assert done.code == 2, done.output
    assert f"The environment {name} is damaged: " in done.words and "Traceback" not in done.output, done.output
    assert f"Rebuild it with: {rebuild}" in done.words, done.output


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.fault("damaged-environment")
@pytest.mark.parametrize(
    ("package", "spoil"), [("psutil", cut_libraries), ("ipykernel", empty), ("zmq", cut_libraries)], ids=["cut", "gone", "of the kernel"]
)
def test_a_lab_in_a_damaged_environment_says_what_is_damaged_and_how_to_mend_it(
    checkout: Checkout, package: str, spoil: Callable[[Path], object]
) -> None:
    with_damage(checkout, "cpu", package, spoil)
    is_damage(checkout.host("run", QUICK), "cpu", f"nox -s {QUICK} -- --fresh")


@pytest.mark.fault("damaged-environment")
def test_so_does_a_check(checkout: Checkout) -> None:
    with_damage(checkout, "cpu", "numpy", cut_libraries)
    lab = toy_course.write_lab(checkout.root, "lab-9.3-numbers", checks="import numpy\n")
    try:
        is_damage(checkout.host("check", lab.name, "--reference"), "cpu", f"nox -s check -- {lab.name} --reference --fresh")
    finally:
        shutil.rmtree(lab)


@pytest.mark.fault("damaged-environment")
@pytest.mark.parametrize(("package", "spoil"), [("jinja2", empty), ("rich", empty)])
def test_so_does_a_host_that_lost_something(checkout: Checkout, package: str, spoil: Callable[[Path], object]) -> None:
    python = with_damage(checkout, "host", package, spoil)
    _, *command = checkout.host_command("run", QUICK)
    is_damage(checkout._run([str(python), *command], checkout.host_environ), "host", "nox -s catalog -- --fresh")


# --- what is no damage --------------------------------------------------------------------------------------


@pytest.mark.fault("wrong-diagnosis")
def test_code_that_ends_python_while_it_is_imported_is_its_own_fault(checkout: Checkout) -> None:
    assert checkout.host("start", LAB).code == 0
    (checkout.home / "workspace" / LAB / "counting.py").write_text("import os\nos._exit(3)\n", encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code == 1, done.output
    assert "your modules ended Python: it ended with 3" in done.words
    assert "damaged" not in done.output and "--fresh" not in done.output


@pytest.mark.fault("wrong-diagnosis")
def test_a_module_that_the_learner_misspelt_is_no_damage(checkout: Checkout) -> None:
    assert checkout.host("start", LAB).code == 0
    (checkout.home / "workspace" / LAB / "counting.py").write_text("import nunpy\n", encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code == 1 and "No module named 'nunpy'" in done.words
    assert "damaged" not in done.output and "--fresh" not in done.output


@pytest.mark.fault("wrong-diagnosis")
@pytest.mark.parametrize("line", ["no event", "[1]", '{"event": "end"}', '{"event": "record", "metric": []}'])
def test_something_else_among_a_notebooks_events_fails_the_notebook(source: Checkout, tmp_path: Path, read_results: Any, line: str) -> None:
    root = tmp_path / "course"
    made = toy_course.Checkout(toy_course.write_course(root), root)
    toy_course.write_quick_lab(
        root, QUICK, first=f"{GOOD}\nfrom pathlib import Path\nopen('events/01-first.jsonl', 'a').write({line + chr(10)!r})"
    )
    done = made.host("run", QUICK)
    assert done.code == 1, done.output
    assert "Traceback" not in done.output and "damaged" not in done.output
    assert read_results(made.runs(QUICK)[0])["notebooks"][0]["error"]["name"] == "BadEvent"
