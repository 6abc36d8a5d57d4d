"""`nox -s mutate` on a toy lab: good checks notice every mutant, checks that cannot fail let them live, and gates are asked when told to."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
from toy_course import LAB, Checkout, Done

from onepiece.course import catalog
from onepiece.host.mutation.published import sources_hash

WEAK = toy_course.CHECKS.replace("expect(double(4), 8, mistakes", "double(4)\n    expect(8, 8, mistakes")
WRONG = toy_course.CHECKS.replace("expect(double(4), 8,", "expect(double(4), 9,")
ENDLESS = toy_course.COUNTING.replace("    return 2 * steps\n", "    while not steps:\n        steps += 1\n    return 2 * steps\n")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("course"))


@pytest.fixture
def lab(checkout: Checkout) -> Iterator[Path]:
    """A toy lab of the test's own, which may change it."""
    directory = toy_course.write_lab(checkout.root, "lab-9.2-judged")
    yield directory
    shutil.rmtree(directory)
    shutil.rmtree(checkout.root / "images" / directory.name)


def mutate(checkout: Checkout, lab: Path, *options: str, toml: str = "", **changes: str) -> Done:
    """`nox -s mutate` on that lab, with these of its files changed."""
    toy_course.write_lab(checkout.root, lab.name, **changes)
    if toml:
        (lab / "mutants.toml").write_text(toml, encoding="utf-8")
    return checkout.host("mutate", lab.name, *options)


def rows(done: Done) -> dict[int, list[int]]:
    """Exercise -> killed, timed out, survived, equivalent, as the table says."""
    found = re.findall(r"^│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │$", done.output, re.MULTILINE)
    return {int(number): [int(count) for count in counts] for number, *counts in found}


def entry(kind: str, change: str = "", line: str = "return 2 * steps") -> str:
    more = 'reason = "a test"\n' if kind == "equivalent" else ""
    return f'[[{kind}]]\nmodule = "counting.py"\nline = "{line}"\n{more}' + (f'change = "{change}"\n' if change else "")


def published(lab: Path) -> dict[str, Any]:
    return json.loads((lab / "results" / "mutants.json").read_text(encoding="utf-8"))


# --- checks -----------------------------------------------------------------------------------------------


def test_good_checks_notice_every_mutant(checkout: Checkout) -> None:
    done = checkout.nox("-s", "mutate", "--", LAB)
    assert done.code == 0, done.output
    assert rows(done) == {1: [3, 0, 0, 0], 2: [4, 0, 0, 0]}
    assert "100.0% of the mutants are noticed: 7 of 7" in done.words


def test_a_check_that_cannot_fail_lets_its_mutants_live(checkout: Checkout, lab: Path) -> None:
    done = mutate(checkout, lab, "--publish", checks=WEAK)
    assert done.code == 1
    assert rows(done) == {1: [3, 0, 0, 0], 2: [0, 0, 4, 0]}
    assert "counting.py:14 return 2 * steps" in done.words
    for change in ("deleted", "`2 * steps` -> `2 / steps`", "`2 * steps` -> `1 * steps`"):
        assert change in done.words
    assert "42.9% of the mutants are noticed: 3 of 7" in done.words
    results = published(lab)
    assert results["killed"] == 0.4286
    assert results["survivors"][0] == {"module": "counting.py", "line": 14, "text": "return 2 * steps", "change": "deleted"}
    assert results["exercises"][1] == {"exercise": 2, "killed": 0, "timed_out": 0, "survived": 4, "equivalent": 0}
    assert "torch" in results["versions"]


def test_what_is_published_is_the_same_for_the_same_sources(checkout: Checkout, lab: Path) -> None:
    first = mutate(checkout, lab, "--publish")
    assert first.code == 0, first.output
    path = lab / "results" / "mutants.json"
    content = path.read_bytes()
    assert mutate(checkout, lab, "--publish").code == 0
    assert path.read_bytes() == content
    assert str(checkout.root) not in content.decode()
    made = catalog.load(checkout.root / "labs").lab(lab.name)
    assert sources_hash(made) == published(lab)["sources_sha256"]
    (lab / "checks.py").write_text(toy_course.CHECKS + "\n# a comment\n", encoding="utf-8")
    assert sources_hash(made) != published(lab)["sources_sha256"]


def test_a_mutant_that_never_ends_is_noticed(checkout: Checkout, lab: Path) -> None:
    done = mutate(checkout, lab, "--exercise", "2", counting=ENDLESS)
    killed, timed_out, survived, _ = rows(done)[2]
    assert timed_out == 1, "`while steps` instead of `while not steps`"
    assert f"{killed + 1} of {killed + 1 + survived}" in done.words


def test_equivalent_mutants_count_neither_way(checkout: Checkout, lab: Path) -> None:
    done = mutate(checkout, lab, checks=WEAK, toml=entry("equivalent", "deleted") + entry("equivalent", "`2 * steps` -> `3 * steps`"))
    assert done.code == 1
    assert rows(done) == {1: [3, 0, 0, 0], 2: [0, 0, 2, 2]}
    assert "60.0% of the mutants are noticed: 3 of 5" in done.words


def test_one_that_a_check_can_tell_from_the_reference_is_not_equivalent(checkout: Checkout, lab: Path) -> None:
    done = mutate(checkout, lab, toml=entry("equivalent", "deleted"))
    assert done.code == 2
    assert "a check tells this one from the reference: counting.py:14 return 2 * steps (deleted)" in done.words
    assert f"nox -s mutate -- {lab.name}" in done.words


def test_the_options_choose_among_the_mutants(checkout: Checkout, lab: Path) -> None:
    assert rows(mutate(checkout, lab, "--exercise", "2", "--module", "counting.py")) == {2: [4, 0, 0, 0]}
    assert rows(mutate(checkout, lab, "--sample", "2")) == {1: [1, 0, 0, 0], 2: [1, 0, 0, 0]}


def test_a_reference_that_does_not_pass_is_named(checkout: Checkout, lab: Path) -> None:
    done = mutate(checkout, lab, checks=WRONG)
    assert done.code == 2
    assert f"The reference of {lab.name} does not pass its own checks: 2 (failed)." in done.words
    assert f"nox -s check -- {lab.name} --reference" in done.words


def test_a_lab_without_exercises_has_nothing_to_judge(checkout: Checkout, lab: Path) -> None:
    (lab / "checks.py").unlink()
    done = checkout.host("mutate", lab.name)
    assert (done.code, done.output.strip()) == (0, f"{lab.name} has no exercises.")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--exercise", "7"], f"{LAB} has no exercise 7. next Its exercises: 1, 2"),
        (["--module", "count.py"], "count.py has no solutions; modules that have: counting.py"),
        (["--sample", "3", "--publish"], "only all mutants of a lab are published"),
        (["--gates"], f"{LAB}/mutants.toml names no core line of these"),
        (["--sample", "many"], "--sample: many: allowed: a number from 1"),
        (["--sample", "0"], "--sample: 0: allowed: a number from 1"),
    ],
)
def test_a_mistake_is_one_line_of_cause_and_one_of_remedy(checkout: Checkout, options: list[str], says: str) -> None:
    done = checkout.host("mutate", LAB, *options)
    assert done.code == 2
    assert says in done.words
    assert "Traceback" not in done.output


def test_it_speaks_chinese(checkout: Checkout) -> None:
    done = checkout.host("mutate", LAB, "--exercise", "2", "--lang", "zh-TW")
    assert done.code == 0
    assert "檢查發現了 100.0% 的變異體" in done.words


# --- gates ------------------------------------------------------------------------------------------------


def test_core_lines_are_held_against_the_gates(checkout: Checkout, lab: Path) -> None:
    counted = "return sum(1 for _ in range(steps))"
    lines = entry("core", "`sum(1 for _ in range(steps))` -> `sum(2 for _ in range(steps))`", counted) + entry("core", line=counted)
    done = mutate(checkout, lab, "--gates", "--publish", toml=lines + entry("core"))
    assert done.code == 1, "the notebooks never double anything"
    assert "PASSED" in done.output, "the reference was run first"
    assert "✓ gate error" in done.words
    assert "✓ TypeError in 01-count, cell 1" in done.words
    assert "✗ every gate stayed green" in done.words
    assert len(checkout.runs(lab.name)) == 1, "nobody takes the run of a mutant for one of the reference"
    core = published(lab)["core"]
    assert [line["noticed_by"] for line in core["lines"]] == [["gate error"], ["TypeError in 01-count, cell 1"], []]
    again = mutate(checkout, lab, "--gates", "--exercise", "1", toml=entry("core", line=counted))
    assert again.code == 0, again.output
    assert "PASSED" not in again.output, "the run of these sources is there"
    assert len(checkout.runs(lab.name)) == 1
