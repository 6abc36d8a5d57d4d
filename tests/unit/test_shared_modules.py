"""What a lab's results are made of: its own deciding sources, and the shared modules that these import."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_course

from onepiece.course import catalog
from onepiece.host.road.shared_modules import of_lab, shared_hash, sources_hash


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return toy_course.write_lab(tmp_path)


def lab(directory: Path) -> catalog.Lab:
    return catalog.load(directory.parent).lab(toy_course.LAB)


def test_a_module_that_a_module_imports_counts_and_texts_and_checks_do_not(directory: Path) -> None:
    (directory / "counting.py").write_text("from onepiece.adaptation import fit\nfrom onepiece.checks import same\n", encoding="utf-8")
    found = set(of_lab(lab(directory)))
    assert {"onepiece.adaptation", "onepiece.adaptation.tasks", "onepiece.training", "onepiece.lab"} <= found
    assert not {name for name in found if name.startswith(("onepiece.checks", "onepiece.course", "onepiece.host"))}


@pytest.mark.parametrize("name", ["checks.py", "calibration.py", "mistakes.py"])
def test_what_judges_a_learner_or_searched_for_settings_decides_nothing(directory: Path, name: str) -> None:
    checks = (directory / "checks.py").read_text(encoding="utf-8")
    (directory / "checks.py").write_text("import mistakes\n" + checks, encoding="utf-8")
    (directory / "mistakes.py").touch()
    before = sources_hash(lab(directory)), shared_hash(lab(directory))
    with (directory / name).open("a", encoding="utf-8") as stream:
        stream.write("\nfrom onepiece.evaluation import perplexity\n")
    assert (sources_hash(lab(directory)), shared_hash(lab(directory))) == before


@pytest.mark.parametrize("name", ["01-count.py", "counting.py", "lab.toml", "started_by_its_path.py"])
def test_everything_else_does(directory: Path, name: str) -> None:
    (directory / "started_by_its_path.py").touch()
    before = sources_hash(lab(directory))
    with (directory / name).open("a", encoding="utf-8") as stream:
        stream.write("\n# another word\n")
    assert sources_hash(lab(directory)) != before


def test_a_module_that_a_notebook_uses_too_decides(directory: Path) -> None:
    (directory / "checks.py").write_text("import counting\n", encoding="utf-8")
    before = sources_hash(lab(directory))
    (directory / "counting.py").write_text((directory / "counting.py").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert sources_hash(lab(directory)) != before
