"""What holds for every lab of the course: first what shows without running it, then a whole run. Its checks are in
`test_checks_and_mutants.py`.

Whole runs take minutes each: without `ONEPIECE_LABS` only the first exemplar is run; `ONEPIECE_LABS=all` runs every lab, and
`ONEPIECE_LABS=lab-1.1.1-lora,...` these. The course is that of `ONEPIECE_ROOT`, or this checkout: `test_new_lab.py` has scaffolded labs
looked at.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import toy_course
from toy_course import Checkout, Done

from onepiece.course import catalog
from onepiece.course.catalog import Lab
from onepiece.course.places import LABS, ROOT
from onepiece.course.text import LANGUAGES
from onepiece.host.commands.catalog import READMES, with_labs
from onepiece.host.road import sources
from onepiece.host.road.shared_modules import sources_hash

IDS = sorted(path.parent.name for path in LABS.glob("*/lab.toml"))
CHOSEN = os.environ.get("ONEPIECE_LABS") or "lab-1.5-flashattention"


def _whole_run(lab_id: str) -> Any:
    """The lab as a parameter of a test that runs it, skipped with the reason if it was not asked for."""
    asked = CHOSEN == "all" or lab_id in CHOSEN.split(",")
    reason = f"takes minutes: ONEPIECE_LABS={lab_id} runs it, ONEPIECE_LABS=all runs every lab"
    return pytest.param(lab_id, marks=[pytest.mark.slow_lab, *([] if asked else [pytest.mark.skip(reason=reason)])])


every_lab = pytest.mark.parametrize("lab", IDS, indirect=True)
whole_runs = pytest.mark.parametrize("lab", [_whole_run(lab_id) for lab_id in IDS], indirect=True)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    return catalog.load(LABS).lab(request.param)


def cells(lab: Lab, notebook: str, language: str) -> list[Any]:
    return nbformat.reads(sources.notebook_json(lab.directory / f"{notebook}.py", language), as_version=4).cells


def code_trees(lab: Lab) -> dict[str, ast.Module]:
    """The code of each notebook, module and check of a lab, by file name."""
    return {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(lab.directory.glob("*.py"))}


# --- the course ---------------------------------------------------------------------------------------------


def test_every_manifest_of_the_course_can_be_read() -> None:
    assert {name: [str(error) for error in found] for name, found in catalog.load(LABS).problems.items()} == {}


@pytest.mark.parametrize("name", READMES)
def test_the_readme_lists_the_labs_that_there_are(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert with_labs(text, catalog.load(LABS), READMES[name]) == text, "nox -s catalog -- --readme writes the list"


def test_the_labs_that_were_asked_for_exist() -> None:
    assert CHOSEN == "all" or set(CHOSEN.split(",")) <= set(IDS)


def test_no_generated_notebook_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this checkout is not a git repository")
    assert listed.stdout.split() == []


# --- sources ------------------------------------------------------------------------------------------------


@every_lab
def test_nothing_is_wrong_with_its_sources(lab: Lab) -> None:
    assert [str(error) for error in sources.verify(lab)] == []


@every_lab
def test_it_is_introduced_in_both_languages(lab: Lab) -> None:
    for name in ("README.md", "README.zh-TW.md"):
        text = (lab.directory / name).read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"nox -s {lab.id}" in text, f"{name} says how to run it"
    assert re.search(r"[\u4e00-\u9fff]", (lab.directory / "README.zh-TW.md").read_text(encoding="utf-8"))


@every_lab
@pytest.mark.parametrize("language", LANGUAGES)
def test_its_notebooks_are_generated_byte_equal_valid_and_without_outputs(lab: Lab, language: str) -> None:
    for name in lab.notebooks:
        path = lab.directory / f"{name}.py"
        text = sources.notebook_json(path, language)
        assert sources.notebook_json(path, language) == text
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
        assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@every_lab
def test_each_cell_of_code_stands_on_its_own(lab: Lab) -> None:
    for name in lab.notebooks:
        for cell in cells(lab, name, "en"):
            if cell.cell_type == "code":
                ast.parse(cell.source, filename=f"{name}, {cell.id}")


@every_lab
def test_both_languages_say_the_same_in_structure(lab: Lab) -> None:
    def structure(notebook: str, language: str) -> list[tuple[int, int, int, int]]:
        """Per cell of prose: headings, rows of tables, formulas, links."""
        prose = [cell.source for cell in cells(lab, notebook, language) if cell.cell_type == "markdown"]
        return [
            (
                len(re.findall(r"^#+ ", text, re.MULTILINE)),
                len(re.findall(r"^\|", text, re.MULTILINE)),
                len(re.findall(r"\$\$", text)),
                len(re.findall(r"\]\(", text)),
            )
            for text in prose
        ]

    for name in lab.notebooks:
        assert structure(name, "en") == structure(name, "zh-TW"), name


@every_lab
def test_chinese_cells_are_chinese(lab: Lab) -> None:
    for name in lab.notebooks:
        both = [(cell.language, cell.line) for cell in sources.read_cells(lab.directory / f"{name}.py")]
        assert any(language == "zh-TW" for language, _ in both)
        text = "".join(cell.source for cell in cells(lab, name, "zh-TW") if cell.cell_type == "markdown")
        assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 50, name


@every_lab
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_notebook_opens_with_its_card(lab: Lab, language: str) -> None:
    for name in lab.notebooks:
        card = cells(lab, name, language)[0]
        assert card.cell_type == "markdown"
        assert re.match(r"# \S", card.source), f"{name}: a title"
        assert re.search(r"^\*\*(Question\.|問題。)\*\* \S", card.source, re.MULTILINE), f"{name}: its question"
        rows = re.findall(r"^\|\s*([^|\-\s][^|]*?)\s*\|\s*\S", card.source, re.MULTILINE)
        assert len(rows) >= 3, f"{name}: what is built, what is needed, what one should see"


@every_lab
def test_its_modules_are_short_enough_to_read(lab: Lab) -> None:
    for path in sources.modules(lab):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path.name


@every_lab
def test_lesson_code_does_not_ask_which_profile_it_runs(lab: Lab) -> None:
    for name, tree in code_trees(lab).items():
        for node in ast.walk(tree):
            asked = isinstance(node, ast.Attribute) and node.attr == "profile" and isinstance(node.value, (ast.Attribute, ast.Name))
            assert not (asked and ast.unparse(node.value).endswith("settings")), f"{name}:{node.lineno}: sizes are settings"


@every_lab
def test_every_setting_is_used(lab: Lab) -> None:
    lessons = [tree for name, tree in code_trees(lab).items() if name != sources.CALIBRATION]
    used = {node.attr for tree in lessons for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert sorted(set(lab.profiles["cpu"].settings) - used - read_by_shared_code() - {"dtype"}) == []


def read_by_shared_code() -> set[str]:
    """The settings that `onepiece.adaptation` reads of those that it is handed: every `settings.<name>` in it."""
    room = toy_course.ROOT / "shared" / "onepiece" / "adaptation"
    nodes = [node for path in sorted(room.glob("*.py")) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    read = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "settings"}
    assert {"base_model", "base_revision"} <= read, "the settings of the base have another name now: look for it here"
    return read


# --- exercises ------------------------------------------------------------------------------------------------


def exercises(lab: Lab) -> dict[int, str]:
    """Exercise number -> the module that has it."""
    return {number: path.name for path in sources.modules(lab) for number in sources.solutions(path)}


@every_lab
def test_its_exercises_are_numbered_from_one_and_each_has_exactly_one_check(lab: Lab) -> None:
    checked = [
        call.args[0].value
        for call in ast.walk(code_trees(lab)["checks.py"])
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "exercise"
        if call.args and isinstance(call.args[0], ast.Constant)
    ]
    assert sorted(checked) == sorted(exercises(lab))
    assert sorted(exercises(lab)) == list(range(1, len(exercises(lab)) + 1))


@every_lab
def test_its_published_results_on_a_cpu_are_those_of_the_sources_that_are_here(lab: Lab) -> None:
    """Whoever changes a lab measures it anew: `nox -s <lab> -- --publish`. Results on a GPU may be older, and their page says so."""
    results = json.loads((lab.directory / "results" / "cpu-cpu.json").read_text(encoding="utf-8"))
    assert results["sources_sha256"] == sources_hash(lab)
    assert results["status"] == "passed"


@every_lab
def test_what_its_search_of_settings_found_is_beside_it(lab: Lab) -> None:
    """A lab with a calibration.py published what that found, and uses the winner or the runner-up of each side."""
    if not (lab.directory / sources.CALIBRATION).is_file():
        pytest.skip("this lab has no calibration.py")
    path = lab.directory / "results" / "calibration.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 60_000
    assert found["lab"] == lab.id
    assert not set(found["search_seeds"]) & set(found["confirmation_seeds"])
    settings = lab.profiles["cpu"].settings
    sides: dict[str, int] = {}
    for contender in found["contenders"]:
        sides[contender["comparison"]] = sides.get(contender["comparison"], 0) + 1
        assert set(contender["settings"]) == set(contender["names"].values()) <= set(settings)
        assert set(contender["names"]) == set(contender["grid"])
        present = {key: settings[name] for key, name in contender["names"].items()}
        assert present in [each["settings"] for each in contender["confirmed"]], f"{contender['label']}: {present} was not confirmed"
        assert len(contender["confirmed"][0]["scores"]) == len(found["confirmation_seeds"]) >= 2
    assert min(sides.values()) >= 2, "a method and its baseline"
    for name in ("README.md", "README.zh-TW.md"):
        assert f"nox -s calibrate -- {lab.id}" in (lab.directory / name).read_text(encoding="utf-8"), f"{name} says how they were found"


@every_lab
def test_its_starter_parses_has_every_exercise_open_and_no_answer(lab: Lab) -> None:
    for path in sources.modules(lab):
        starter = sources.starter_source(path)
        ast.parse(starter)
        for number, answer in sources.solutions(path).items():
            assert f'raise NotImplementedError("Exercise {number}")' in starter
            assert answer.strip(), f"{path.name}: exercise {number} has an empty solution"
            if len(answer.strip().splitlines()) > 1:
                assert answer not in starter


# --- runs -----------------------------------------------------------------------------------------------------


@whole_runs
def test_the_whole_lab_passes_small_with_every_gate_held_and_every_control_missed(
    lab: Lab, run_small: Callable[[str], tuple[Done, Checkout]], read_results: Callable[[Path], dict[str, Any]]
) -> None:
    done, home = run_small(lab.id)
    assert done.code == 0, done.output
    (run,) = home.runs(lab.id)
    results = read_results(run)
    assert results["status"] == "passed"
    missing_extras = set(results["environment"]["missing_extras"])
    for gate, told in zip([gate for gate in lab.gates if "cpu" in gate.profiles], results["gates"], strict=True):
        if missing_extras & set(gate.requires):
            assert told["passed"] is None
            continue
        assert told["passed"] is True, told
        assert gate.control is None or told["control"]["missed"] is True, told
    budget = lab.profiles["cpu"].memory_gb
    assert budget is not None
    assert results["peak_bytes"] <= budget * 2**30
    report = (run / "report.html").read_text(encoding="utf-8")
    assert lab.title.en in html.unescape(report)  # however its quotes are written
    assert lab.title.zh_tw in report
    assert json.dumps(results["lab"])[1:-1] in report
