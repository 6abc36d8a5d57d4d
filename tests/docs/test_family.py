"""The table of module 1.1 and its figure: drawn from what labs published, refused where rows were not measured alike."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
from built_site import Built
from extension import course, family, family_plot
from extension.generated import expand

from onepiece.course import catalog
from onepiece.course.family_rows import ONCE, PER_TASK, PROTOCOL, SEEDS, TASKS, NotComparable
from onepiece.course.text import LANGUAGES

ACCURACY = {"relabel": (0.9, 0.95, 1.0), "compose": (0.0, 0.0, 0.3), "new_facts": (0.5, 0.5, 0.5)}
VERSIONS = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}
EVERY_PART = "```{family-protocol}\n```\n\n```{family-table}\n```\n\n```{family-figure}\n```\n\n```{family-tasks} ##\n```\n"


def family_records(variant: str | None = None, trained: int = 50) -> list[dict[str, Any]]:
    """What a lab records of a row: the goal is reached on `relabel` by all seeds but the last, and never on the others."""

    def record(metric: str, value: float | str, seed: int | None = None) -> dict[str, Any]:
        return {"metric": f"family_{metric}", "value": value, "seed": seed, "variant": variant, "notebook": "01-count"}

    once = {"protocol": PROTOCOL, "trained": trained, "total": 1000, "file_bytes": 2048, "peak_bytes": 3 * 2**20, "token_ratio": 1.25,
            "mergeable": float(variant is None)}  # fmt: skip
    made = [record(column, once[column]) for column in ONCE]
    for task in TASKS:
        for seed in SEEDS:
            reached = task == "relabel" and seed != SEEDS[-1]
            values = {"accuracy": ACCURACY[task][seed], "steps": 200, "steps_to_goal": 75 + 25 * seed if reached else "inf",
                      "cpu_seconds_to_goal": 1.25 + seed if reached else "inf"}  # fmt: skip
            made += [record(f"{task}_{column}", values[column], seed) for column in PER_TASK]
        made.append(record(f"{task}_kept_facts", 0.75))
    return made


def published_lab(root: Path, lab_id: str, records: list[dict[str, Any]], **changes: Any) -> None:
    results = toy_course.write_lab(root, lab_id) / "results"
    results.mkdir(exist_ok=True)
    content = {"lab": lab_id, "records": records, "versions": VERSIONS, "settings": {"base_model": "tiny"}} | changes
    (results / "cpu-cpu.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def of_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy course whose labs the site shows: what a test writes below it."""
    monkeypatch.setattr(course, "labs", lambda: catalog.load(tmp_path / "labs").labs)
    (tmp_path / "labs").mkdir()
    return tmp_path


def cells(markdown: str, number: int) -> list[list[str]]:
    """The cells of every line that begins with this row's number."""
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in markdown.splitlines() if line.startswith(f"| {number} |")]


def test_the_table_has_every_column_of_a_row(of_course: Path) -> None:
    published_lab(of_course, "lab-9.1-toy", [*family_records(), *family_records("full", trained=1000)])
    published_lab(of_course, "lab-9.2-other", [{"metric": "error", "value": 1.0, "seed": None, "variant": None, "notebook": "01-count"}])
    made = family.table("", "en")
    link = "[lab-9.1-toy](/labs/lab-9.1-toy/index.md)"
    spans = ["0.950 [0.900, 1.000]", "0.100 [0.000, 0.300]", "0.500 [0.500, 0.500]"]
    assert cells(made, 1) == [[link, "`tiny` (1,000)", "50", "5.000%", "2.0", "3.0", "1.25", "yes", *spans]]
    assert cells(made, 2) == [[f"{link} (`full`)", "`tiny` (1,000)", "1,000", "100.000%", "2.0", "3.0", "1.25", "no", *spans]]
    assert cells(made, 3) == [], "a lab of another family has no row"


def test_each_task_tells_its_seeds_apart(of_course: Path) -> None:
    published_lab(of_course, "lab-9.1-toy", family_records())
    relabel, kept, *others = cells(family.tasks("###", "en"), 1)
    assert relabel[2:] == ["200", "75, 100, never", "1.2, 2.2, never"]
    assert kept[1:] == ["0.750"]
    assert others[0][2:] == ["200", "never", "never"]
    assert "### `relabel`" in family.tasks("###", "zh-TW")
    assert "75、100、未達到" in family.tasks("###", "zh-TW")


def test_the_figure_has_a_point_with_its_bar_for_every_row_and_task(of_course: Path) -> None:
    published_lab(of_course, "lab-9.1-toy", [*family_records(), *family_records("full", trained=1000)])
    drawn = family_plot.figure("", "en")
    panels = re.findall(r"<svg .*?</svg>", drawn)
    assert len(panels) == len(TASKS)
    for task, panel in zip(TASKS, panels, strict=True):
        points = re.findall(r'<path d="M([\d.]+) ([\d.]+)V([\d.]+)"/><circle cx="([\d.]+)" cy="([\d.]+)"', panel)
        zero, one = (float(place) for place in re.findall(r'"M38 ([\d.]+)H', panel)[:: len(SEEDS) + 1])
        heights = [(zero - float(place)) / (zero - one) for place in points[0][1:3] + points[0][4:]]
        values = ACCURACY[task]
        assert heights == pytest.approx([min(values), max(values), sum(values) / 3], abs=1e-3)
        five, all_of_them = (float(point[3]) for point in points)
        left, right = 38, 308  # 1% and 100%
        assert five == pytest.approx(left + (right - left) * 0.349485, abs=0.1), "log10(5) of two decades"
        assert all_of_them == right
        assert panel.count('<g class="variant">') == panel.count('<g class="method">') == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_a_row_the_page_says_who_will_publish(language: str, of_course: Path) -> None:
    made = expand(EVERY_PART, language)
    assert {"en": "nothing to compare", "zh-TW": "沒有東西可以比較"}[language] in made
    assert "{upcoming}`lab-1.1.8-p-tuning-v2`" in made
    assert "<svg" not in made


def test_a_lab_that_published_is_waited_for_no_longer(of_course: Path) -> None:
    published_lab(of_course, "lab-1.1.1-lora", family_records())
    made = family.table("", "en")
    assert "{upcoming}`lab-1.1.1-lora`" not in made
    assert "{upcoming}`lab-1.1.5-ia3`" in made


def test_only_the_run_on_a_cpu_is_drawn(of_course: Path) -> None:
    published_lab(of_course, "lab-9.1-toy", family_records())
    results = of_course / "labs" / "lab-9.1-toy" / "results" / "cpu-cpu.json"
    elsewhere = json.loads(results.read_text(encoding="utf-8")) | {"versions": VERSIONS | {"torch": "2.11.0"}}
    (results.parent / "cpu-cuda.json").write_text(json.dumps(elsewhere), encoding="utf-8")
    assert cells(family.table("", "en"), 1)
    assert not cells(family.table("", "en"), 2)


def other_seeds() -> list[dict[str, Any]]:
    made = family_records()
    next(record for record in made if record["metric"] == "family_compose_accuracy")["seed"] = 7
    return made


@pytest.mark.parametrize(
    ("records", "changes", "says"),
    [
        ([record for record in family_records() if "new_facts" not in record["metric"]], {}, "lab-9.2-other lacks new_facts_accuracy"),
        (other_seeds(), {}, "lab-9.2-other: compose_accuracy is of the seeds"),
        (family_records(), {"versions": VERSIONS | {"torch": "2.14.1"}}, r"lab-9\.2-other was measured with torch 2\.14\.1"),
    ],
    ids=["tasks", "seeds", "versions"],
)
@pytest.mark.parametrize("part", [family.table, family.tasks, family_plot.figure])
def test_rows_of_other_tasks_seeds_or_versions_are_refused(
    part: Any, records: list[dict[str, Any]], changes: dict[str, Any], says: str, of_course: Path
) -> None:
    published_lab(of_course, "lab-9.1-toy", family_records())
    part("", "en")
    published_lab(of_course, "lab-9.2-other", records, **changes)
    with pytest.raises(NotComparable, match=says):
        part("", "en")


@pytest.fixture
def results(toy_site: Built) -> Iterator[Path]:
    """The published results of the toy lab, and a page with every part; both as before when the test ends."""
    root = toy_site.checkout.root
    changed = [
        root / "labs" / toy_course.LAB / "results" / "cpu-cpu.json",
        *(root / "docs" / f"guides/vscode.{name}.md" for name in LANGUAGES),
    ]
    before = {path: path.read_bytes() for path in changed}
    for page in changed[1:]:
        page.write_text(page.read_text(encoding="utf-8") + "\n" + EVERY_PART, encoding="utf-8")
    assert toy_site.checkout.host("docs", "--translated", str(changed[2])).code == 0
    yield changed[0]
    for path, content in before.items():
        path.write_bytes(content)


def test_a_build_draws_what_is_published_and_refuses_what_is_not_comparable(toy_site: Built, results: Path) -> None:
    content = json.loads(results.read_text(encoding="utf-8"))
    content["settings"]["base_model"] = "tiny"
    content["versions"] |= VERSIONS
    content["records"] += family_records()
    results.write_text(json.dumps(content), encoding="utf-8")
    done = toy_site.checkout.host("docs")
    assert done.code == 0, done.output
    for language in LANGUAGES:
        page = (toy_site.site / language / "guides" / "vscode.html").read_text(encoding="utf-8")
        assert "0.950 [0.900, 1.000]" in page
        assert page.count('<svg viewBox="0 0 320 250"') == len(TASKS)
    wrong = copy.deepcopy(content)
    next(record for record in wrong["records"] if record["metric"] == "family_protocol")["value"] = PROTOCOL + 1
    results.write_text(json.dumps(wrong), encoding="utf-8")
    done = toy_site.checkout.host("docs")
    assert done.code == 1
    assert f"{toy_course.LAB} was measured by protocol {PROTOCOL + 1}, not {PROTOCOL}" in done.words
    assert "--publish" in done.words
    assert "Traceback" not in done.output
