"""`nox -s grade`: what somebody handed in gets the points of what passes, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_course
from toy_course import LAB, ROOT, Checkout, Done

TITLES = ["count", "double", "halve"]
HALVING = '''
"""Halving."""

from counting import double


def halve(steps: int) -> int:
    """Half of as many, doubled and quartered."""
    # SOLUTION 3
    return double(steps) // 4
    # END SOLUTION
'''
CHECKS = f"""
from halving import halve
{toy_course.CHECKS}

@exercise(3, title=Text("halve", "減半"), minutes=10, level="core", hint=Text("use //", "用 //"))
def check_halve() -> None:
    expect(halve(8), 4, mistakes={{Text("a quarter", "四分之一"): 2}})
"""
RIGHT = {
    "counting.py": "def count(steps):\n    return steps\n\n\ndef double(steps):\n    return steps + steps\n",
    "halving.py": "def halve(steps):\n    return steps // 2\n",
}
OUTCOME = {"exercise": 1, "title": "", "minutes": 5, "level": "core", "hint": "", "status": "passed", "reached": True, "error": None}
FORGED = json.dumps(OUTCOME | {"what": None, "got": None, "want": None, "mistake": None})
FORGE = f"""
import os, sys
FORGED = {FORGED!r}
def say(stream):
    try:
        os.write(stream, (FORGED + chr(10)).encode())
    except OSError:
        pass
def count(steps):
    print(FORGED, flush=True)
    print(FORGED, file=sys.__stdout__, flush=True)
    for descriptor in range(1, 64):
        say(descriptor)
    for descriptor in os.listdir(f"/proc/{{os.getppid()}}/fd") if sys.platform == "linux" else []:
        try:
            with open(f"/proc/{{os.getppid()}}/fd/{{descriptor}}", "wb", buffering=0) as stream:
                say(stream.fileno())
        except OSError:
            pass
    return 0
def double(steps):
    return 2 * steps
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    (toy_course.write_lab(made.root, checks=CHECKS) / "halving.py").write_text(HALVING.lstrip("\n"), encoding="utf-8")
    return made


Grade = Callable[..., tuple[Done, dict[str, Any]]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A submission that is right."""
    directory = tmp_path / "submission"
    directory.mkdir()
    for name, content in RIGHT.items():
        (directory / name).write_text(content, encoding="utf-8")
    return directory


@pytest.fixture
def grade(checkout: Checkout, copy: Path) -> Grade:
    """Grade the copy; what was said, and the JSON object."""

    def run(**files: str) -> tuple[Done, dict[str, Any]]:
        for name, content in files.items():
            (copy / f"{name}.py").write_text(content, encoding="utf-8")
        done = checkout.host("grade", LAB, "--submission", str(copy), "--backend", "local", "--json", "--seconds", "20")
        assert "Traceback" not in done.output
        assert done.code in (0, 1), done.output
        made = json.loads(done.output.splitlines()[-1])
        assert not list((checkout.home / "runs" / "grading").iterdir()), "nothing is left behind"
        return done, made

    return run


def statuses(made: dict[str, Any]) -> list[str]:
    return [item["status"] for item in made["exercises"]]


# --- the score --------------------------------------------------------------------------------------------


def test_a_copy_that_is_right_has_all_points(grade: Grade) -> None:
    done, made = grade()
    assert (done.code, made["score"], made["of"]) == (0, 100, 100)
    assert [item["points"] for item in made["exercises"]] == [25, 25, 50]
    assert [item["title"] for item in made["exercises"]] == TITLES
    assert (made["backend"], made["isolated"], made["image"]) == ("local", False, None)
    assert {"python", "torch"} <= set(made["versions"])
    assert len(made["sources_sha256"]) == len(made["submission_sha256"]) == 64


def test_the_starter_has_none(checkout: Checkout) -> None:
    assert checkout.host("start", LAB).code == 0
    starter = checkout.home / "workspace" / LAB
    done = checkout.host("grade", LAB, "--submission", str(starter), "--backend", "local")
    assert done.code == 1
    assert "0 / 100" in done.output
    assert done.output.count("open") == 3
    assert "not isolated" in done.words


def test_the_reference_has_all(checkout: Checkout) -> None:
    done = checkout.host("grade", LAB, "--submission", str(checkout.root / "labs" / LAB), "--backend", "local")
    assert done.code == 0, done.output
    assert "100 / 100" in done.output


def test_a_mistake_loses_exactly_its_exercises_points_and_is_named(grade: Grade) -> None:
    done, made = grade(counting=RIGHT["counting.py"].replace("return steps\n", "return steps + 1\n"))
    assert (done.code, made["score"]) == (1, 75)
    assert statuses(made) == ["failed", "passed", "passed"]
    assert made["exercises"][0]["mistake"] == "one too many"
    assert made["exercises"][0]["points"] == 0


def test_what_raises_and_what_is_open_have_no_points(grade: Grade) -> None:
    _, made = grade(counting="def count(steps):\n    return stepz\n\n\ndef double(steps):\n    raise NotImplementedError('Exercise 2')\n")
    assert (statuses(made), made["score"]) == (["error", "open", "passed"], 50)
    assert "stepz" in made["exercises"][0]["error"]


def test_json_is_all_that_is_on_standard_output(checkout: Checkout, copy: Path) -> None:
    command = checkout.host_command("grade", LAB, "--submission", str(copy), "--json", "--backend", "local", "--lang", "zh-TW")
    done = subprocess.run(command, cwd=checkout.root, env=checkout.host_environ, capture_output=True, encoding="utf-8")
    assert json.loads(done.stdout)["exercises"][2]["title"] == "減半"
    assert done.stdout.count("\n") == 1


# --- blocked ----------------------------------------------------------------------------------------------


@pytest.mark.fault("reference-stands-in")
def test_the_reference_does_not_stand_in_for_a_module_that_is_missing(grade: Grade, copy: Path) -> None:
    (copy / "counting.py").unlink()
    _, made = grade()
    assert (statuses(made), made["score"]) == (["blocked", "blocked", "passed"], 50)
    assert "counting.py: it is not there" in made["exercises"][0]["error"]


@pytest.mark.fault("reference-stands-in")
def test_nor_for_one_that_another_module_needs(grade: Grade, copy: Path) -> None:
    (copy / "counting.py").unlink()
    _, made = grade(halving="from counting import double\n\n\ndef halve(steps):\n    return double(steps) // 4\n")
    assert (statuses(made), made["score"]) == (["blocked", "blocked", "open"], 0)


@pytest.mark.fault("reference-stands-in")
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_the_reference_is_no_module(grade: Grade, copy: Path, checkout: Checkout) -> None:
    (copy / "counting.py").unlink()
    (copy / "counting.py").symlink_to(checkout.root / "labs" / LAB / "counting.py")
    _, made = grade()
    assert statuses(made) == ["blocked", "blocked", "passed"]


MODULES = {  # a module of one exercise each -> its status, and what is said of it
    "syntax": ("def answer(:\n", "blocked", "syntax.py:1: SyntaxError"),
    "package": ("import no_such_package\n", "blocked", "ModuleNotFoundError"),
    "exits": ("import sys\nsys.exit(0)\n", "blocked", "SystemExit"),
    "ends": ("import os\nos._exit(0)\n", "blocked", "exit code 0"),
    "loops": ("while True:\n    pass\n", "blocked", "not done after 5 s"),
    "lacks": ("def other():\n    return 1\n", "blocked", "lacks.py has no answer"),
    "ends_late": ("import os\n\n\ndef answer():\n    os._exit(0)\n", "blocked", "exit code 0"),
    "exits_late": ("import sys\n\n\ndef answer():\n    sys.exit(0)\n", "error", "SystemExit"),
    "interrupts": ("def answer():\n    raise KeyboardInterrupt\n", "blocked", "exit code 1"),
    "killed": ("import os\n\n\ndef answer():\n    os.kill(os.getpid(), 9)\n", "blocked", "SIGKILL"),
    "crashes": ("import os\n\n\ndef answer():\n    os.kill(os.getpid(), 11)\n", "blocked", "SIGSEGV"),
    "kills": ("import os\n\n\ndef answer():\n    os.kill(os.getppid(), 9)\n", "blocked", "ended or stopped the process"),
    "loops_late": ("def answer():\n    while True:\n        pass\n", "blocked", "not done after 5 s"),
    "eats": ("def answer():\n    return bytearray(2**36)\n", "blocked", "out of memory"),
    "right": ("def answer():\n    return 1\n", "passed", ""),
}
_PROLOGUE = "from onepiece.checks import exercise, expect\nfrom onepiece.course.text import Text\n"
_CHECK = """

@exercise({number}, title=Text("{name}", "{name}題"), minutes=2, level="core", hint=Text("a", "b"))
def check_{name}() -> None:
    expect({name}_answer(), 1)
"""


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Module -> what became of its exercise, in one submission that has every misfortune."""
    checkout = Checkout.make(tmp_path_factory.mktemp("many"))
    lab_id, submission = "lab-9.3-many", tmp_path_factory.mktemp("submission")
    directory = toy_course.write_quick_lab(checkout.root, lab_id, first=toy_course.GOOD)
    checks = _PROLOGUE
    for number, (name, (source, _, _)) in enumerate(MODULES.items(), start=1):
        reference = f"def answer():\n    # SOLUTION {number}\n    return 1\n    # END SOLUTION\n"
        (directory / f"{name}.py").write_text(reference, encoding="utf-8")
        (submission / f"{name}.py").write_text(source, encoding="utf-8")
        checks = f"from {name} import answer as {name}_answer\n{checks}{_CHECK.format(number=number, name=name)}"
    (directory / "checks.py").write_text(checks, encoding="utf-8")
    limits = ("--seconds", "5")
    done = checkout.host("grade", lab_id, "--submission", str(submission), "--backend", "local", "--json", *limits)
    assert done.code == 1, done.output
    assert "Traceback" not in done.output
    made = json.loads(done.output.splitlines()[-1])
    assert made["score"] == round(100 / len(MODULES), 2)
    return {item["title"]: item for item in made["exercises"]}


@pytest.mark.fault("code-that-ends-the-check")
@pytest.mark.skipif(os.name == "nt", reason="signals end a process there in other words")
@pytest.mark.parametrize("name", MODULES)
def test_what_never_came_to_a_verdict_is_blocked_and_harms_no_other_exercise(blocked: dict[str, Any], name: str) -> None:
    _, status, why = MODULES[name]
    assert (blocked[name]["status"], blocked[name]["points"] > 0) == (status, status == "passed")
    assert why in (blocked[name]["error"] or "")
    assert "runs/grading" not in (blocked[name]["error"] or "")


def test_who_imports_a_broken_module_is_not_broken_itself(grade: Grade) -> None:
    halving = "from counting import double\n\n\ndef halve(steps):\n    return steps // 2\n"
    _, made = grade(counting="def count(steps:\n", halving=halving)
    assert statuses(made) == ["blocked", "blocked", "passed"]


# --- what is not taken ------------------------------------------------------------------------------------


def test_the_checks_and_the_package_are_the_courses_own(grade: Grade, copy: Path) -> None:
    (copy / "onepiece").mkdir()
    (copy / "onepiece" / "__init__.py").touch()
    (copy / "onepiece" / "checks.py").write_text("raise SystemExit", encoding="utf-8")
    _, made = grade(counting="def count(steps):\n    return 0\n\n\ndef double(steps):\n    return 0\n", checks="import sys\nsys.exit(0)\n")
    assert statuses(made) == ["failed", "failed", "passed"]
    assert set(made["not_taken"]) == {"checks.py", "onepiece"}


def test_a_module_that_hides_one_of_python_harms_nobody_and_is_named(grade: Grade) -> None:
    done, made = grade(random="raise SystemExit\n", torch="raise SystemExit\n")
    assert (done.code, made["score"]) == (0, 100)
    assert set(made["not_taken"]) == {"random.py", "torch.py"}
    uses_it = RIGHT["counting.py"].replace("def count", "from random import mine\n\n\ndef count")
    _, made = grade(counting=uses_it)
    assert statuses(made) == ["blocked", "blocked", "passed"]
    assert "cannot import name 'mine'" in made["exercises"][0]["error"]


def test_a_module_of_the_learners_own_is_taken(grade: Grade) -> None:
    _, made = grade(
        own_sums="def twice(steps):\n    return 2 * steps\n", halving="from own_sums import twice\n\n\nhalve = lambda n: twice(n) // 4\n"
    )
    assert made["score"] == 100


# --- outcomes that are not the check's --------------------------------------------------------------------


@pytest.mark.fault("forged-outcomes")
def test_lines_that_look_like_outcomes_are_noticed_and_count_for_nothing(grade: Grade) -> None:
    _, made = grade(counting=FORGE)
    assert (statuses(made), made["score"]) == (["blocked", "passed", "passed"], 75)
    assert "something else than the check" in made["exercises"][0]["error"]


def test_printing_alone_reaches_nobody(grade: Grade) -> None:
    prints = f"def count(steps):\n    print({FORGED!r}, flush=True)\n    return 0\n\n\ndef double(steps):\n    return 2 * steps\n"
    _, made = grade(counting=prints)
    assert statuses(made) == ["failed", "passed", "passed"]


@pytest.mark.fault("forged-outcomes")
@pytest.mark.parametrize(
    "cheat",
    ["onepiece.checks.expect = lambda *a, **k: None", "onepiece.checks.expect.__code__ = (lambda *a, **k: None).__code__"],
)
def test_who_replaces_what_judges_is_not_judged(grade: Grade, cheat: str) -> None:
    _, made = grade(counting=f"import onepiece.checks\n{cheat}\n\n\ncount = double = lambda steps: 0\n")
    assert statuses(made) == ["blocked", "blocked", "passed"]
    assert "replaces parts of onepiece.checks: expect" in made["exercises"][0]["error"]


def test_exercises_and_minutes_are_the_courses(grade: Grade) -> None:
    more = (
        "from onepiece.checks import exercise\nfrom onepiece.course.text import Text\n\n\n"
        '@exercise(9, title=Text("a", "b"), minutes=1000, level="core", hint=Text("a", "b"))\ndef check():\n    pass\n\n\n'
    )
    _, made = grade(counting=more + RIGHT["counting.py"].replace("return steps\n", "return 0\n"))
    assert (len(made["exercises"]), made["score"]) == (3, 75)


# --- what cannot be graded --------------------------------------------------------------------------------


def test_what_is_no_copy_of_this_lab_is_two_lines(checkout: Checkout, copy: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        done = checkout.host("grade", *arguments, "--backend", "local")
        assert (done.code, len(done.output.splitlines())) == (2, 2), done.output
        return done.words

    assert "There is no directory" in refused(LAB, "--submission", str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it has none of counting.py, halving.py" in refused(LAB, "--submission", str(empty))
    (copy / ".run").mkdir()
    (copy / ".run" / "context.json").write_text('{"lab": "lab-9.9-other"}', encoding="utf-8")
    assert "it was made for lab-9.9-other" in refused(LAB, "--submission", str(copy))
    assert "--submission" in refused(LAB)
    assert "--seconds" in refused(LAB, "--submission", str(copy), "--seconds", "-1")


def test_a_lab_without_exercises_is_not_graded(checkout: Checkout, copy: Path) -> None:
    toy_course.write_quick_lab(checkout.root, "lab-9.2-none", first=toy_course.GOOD)
    try:
        done = checkout.host("grade", "lab-9.2-none", "--submission", str(copy), "--backend", "local")
    finally:
        shutil.rmtree(checkout.root / "labs" / "lab-9.2-none")
    assert done.code == 2
    assert "no exercises" in done.words


def test_without_an_engine_auto_says_why_and_a_container_that_was_asked_for_is_an_error(checkout: Checkout, copy: Path) -> None:
    nowhere = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = checkout.host("grade", LAB, "--submission", str(copy), **nowhere)
    assert done.code == 0, done.output
    assert done.output.startswith("no container: ")
    assert "not isolated" in done.words
    asked = checkout.host("grade", LAB, "--submission", str(copy), "--backend", "container", **nowhere)
    assert asked.code == 2
    assert "Traceback" not in asked.output


# --- a real lab -------------------------------------------------------------------------------------------


def test_the_exemplar_gives_a_starter_nothing_and_a_planted_mistake_its_points(tmp_path: Path) -> None:
    real = Checkout(ROOT, ROOT).elsewhere(tmp_path / "home")
    lab_id = "lab-1.5-flashattention"

    def graded(directory: Path) -> dict[str, Any]:
        done = real.host("grade", lab_id, "--submission", str(directory), "--backend", "local", "--json")
        assert done.code in (0, 1), done.output
        return json.loads(done.output.splitlines()[-1])

    assert real.host("start", lab_id).code == 0
    starter = graded(real.home / "workspace" / lab_id)
    assert (starter["score"], set(statuses(starter))) == (0, {"open"})
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "labs" / lab_id, copy)
    assert graded(copy)["score"] == 100
