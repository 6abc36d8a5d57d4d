"""The numbers in the text of chapter 1.1 are those that its figures are computed from."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
import toy_course
from extension.course import CHAPTERS

from onepiece.course.text import LANGUAGES
from onepiece.host.road import environments

CHAPTER = CHAPTERS / "1.1-parameter-efficient-fine-tuning"
ASK = "import figures, json; print(json.dumps([figures.counts(), figures.METAMATHQA, figures.QUESTIONS]))"


@pytest.fixture(scope="module")
def figures() -> list[Any]:
    """Trained parameters by method; right answers by method and setting; of how many questions."""
    python = environments.ensure("docs", session="tests").python
    environ = {
        "PYTHONPATH": os.pathsep.join([str(toy_course.ROOT / "shared"), str(CHAPTER)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "svg",
    }
    done = subprocess.run([str(python), "-c", ASK], env=environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def rows(language: str) -> list[list[str]]:
    text = (CHAPTER / f"index.{language}.md").read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_counts_of_the_table_are_those_of_the_figure(language: str, figures: list[Any]) -> None:
    told = {cell[-1].split("：")[-1].split(": ")[-1] for cell in rows(language) if len(cell) == 5}
    assert {f"{count:,}" for count in figures[0].values()} <= told


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_public_results_of_the_table_are_those_of_the_figure(language: str, figures: list[Any]) -> None:
    _, by_method, questions = figures
    shares = {f"{right / questions:.1%}" for settings in by_method.values() for right in settings.values()}
    told = [cell[3] for cell in rows(language) if len(cell) == 5 and cell[3].endswith("%")]
    assert len(told) == 12
    assert set(told) <= shares
