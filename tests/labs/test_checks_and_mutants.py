"""The checks of every lab, in one warm process: the reference passes, the starter is open, and wrong code is noticed as published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from onepiece.course import catalog
from onepiece.course.catalog import Lab
from onepiece.course.places import LABS
from onepiece.host.mutation import declared, published, score
from onepiece.host.mutation.mutants import mutants_of_lab
from onepiece.host.road import environments, sources
from onepiece.host.road.checks import WarmChecks, WarmHere

SAMPLE = 5  # mutants of each lab, judged again

WITH_EXERCISES = [lab for lab in catalog.load(LABS).labs if (lab.directory / "checks.py").exists()]

every_lab = pytest.mark.parametrize("lab", WITH_EXERCISES, ids=lambda lab: lab.id)


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmChecks]:
    """One process for all of them, with what any of them needs."""
    extras = {extra: None for lab in WITH_EXERCISES for extra in lab.extras if environments.extra_available(extra)}
    environment = environments.ensure("cpu", tuple(extras), session="tests")
    with WarmChecks(WarmHere(environment, WITH_EXERCISES[0])) as started:
        yield started


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What is published of each lab."""
    return {lab.id: published.read(lab) for lab in WITH_EXERCISES}


def numbers(lab: Lab) -> set[int]:
    return {region.exercise for path in sources.modules(lab) for region in sources.regions(path)}


@every_lab
def test_the_reference_passes_every_check(lab: Lab, warm: WarmChecks) -> None:
    found = warm.check(lab)
    assert found.passed, found
    assert set(found.statuses) <= numbers(lab), "an exercise whose extra this system cannot have has no check here"


@every_lab
def test_every_exercise_of_the_starter_is_open(lab: Lab, warm: WarmChecks) -> None:
    starter = {path.name: sources.starter_source(path) for path in sources.modules(lab) if sources.regions(path)}
    found = warm.check(lab, replace=starter)
    assert set(found.statuses.values()) == {"open"}, found.statuses
    assert set(found.statuses) <= numbers(lab)


@every_lab
def test_its_checks_notice_wrong_code_as_published(lab: Lab, results: dict[str, Any]) -> None:
    found = results[lab.id]
    assert found is not None, f"not measured yet: nox -s mutate -- {lab.id} --publish"
    assert found["sources_sha256"] == published.sources_hash(lab), f"measure it anew: nox -s mutate -- {lab.id} --publish"
    assert found["killed"] >= score.ENOUGH
    mutants = mutants_of_lab(lab)
    assert sum(row[fate] for row in found["exercises"] for fate in score.FATES) == len(mutants)
    said = declared.read(lab, mutants)
    assert sum(row["equivalent"] for row in found["exercises"]) == len(said.equivalent)


@every_lab
def test_its_gates_notice_wrong_core_lines_as_published(lab: Lab, results: dict[str, Any]) -> None:
    said = declared.read(lab, mutants_of_lab(lab))
    if not said.core:
        pytest.skip("its mutants.toml names no core lines")
    again = f"measure it anew: nox -s mutate -- {lab.id} --gates --publish"
    core = (results[lab.id] or {}).get("core")
    assert core is not None and core["code_sha256"] == published.code_hash(lab), again
    assert [(line["module"], line["line"], line["change"]) for line in core["lines"]] == [
        (mutant.module, mutant.line, mutant.change) for mutant in said.core
    ], again
    assert [line for line in core["lines"] if not line["noticed_by"]] == []


@every_lab
def test_a_sample_of_its_mutants_ends_as_published(lab: Lab, warm: WarmChecks, results: dict[str, Any]) -> None:
    found = results[lab.id]
    assert found is not None, f"not measured yet: nox -s mutate -- {lab.id} --publish"
    mutants = mutants_of_lab(lab)
    survivors = {(entry["module"], entry["line"], entry["change"]) for entry in found["survivors"]}
    said = declared.read(lab, mutants)
    sample = score.sample(mutants, SAMPLE)
    for item in score.judge(lab, warm, sample, said, score.patience(lab, warm)):
        mutant = item.mutant
        lives = (mutant.module, mutant.line, mutant.change) in survivors or mutant in said.equivalent
        assert (item.fate in ("survived", "equivalent")) == lives, mutant
