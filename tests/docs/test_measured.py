"""Numbers on pages come from published results; what was not published says so, and what cannot exist is an error."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import toy_course
from built_site import Built
from extension.gate_plot import decades_from_bound
from extension.lab_page import results_section
from extension.numbers import readable
from extension.published import published
from extension.translations import pairs
from hypothesis import given
from hypothesis import strategies as st

from onepiece.course import catalog
from onepiece.course.text import LANGUAGES
from onepiece.host.road import sources
from onepiece.host.road.shared_modules import shared_hash, sources_hash

ROLE = re.compile(r"\{measured\}`([^`]+)`")


def html(built: Built, language: str, page: str) -> str:
    return (built.site / language / f"{page}.html").read_text(encoding="utf-8")


def test_the_toy_site_builds_without_a_warning(toy_site: Built) -> None:
    assert toy_site.done.code == 0, toy_site.done.output
    assert "WARNING" not in toy_site.done.output


@pytest.mark.parametrize(("language", "later"), [("en", "not yet measured here"), ("zh-TW", "尚未量測")])
def test_a_measured_number_is_that_of_the_published_run_and_links_to_its_notebook(toy_site: Built, language: str, later: str) -> None:
    results = json.loads((toy_site.checkout.root / "labs" / toy_course.LAB / "results" / "cpu-cpu.json").read_text(encoding="utf-8"))
    found = re.findall(r'<a class="measured" href="([^"]+)" title="([^"]+)">([^<]+)</a>', html(toy_site, language, "index"))
    assert [value for _, _, value in found] == ["0", "1"]
    assert {link for link, _, _ in found} == {"labs/lab-9.1-toy/01-count.html"}
    for _, title, _ in found:
        assert results["hardware"]["processor"] in title
        assert results["started"][:10] in title
    assert re.search(rf'<span class="not-measured">{later}</span>', html(toy_site, language, "index"))


def test_an_upcoming_lab_is_a_link_once_it_is_there(toy_site: Built) -> None:
    page = html(toy_site, "en", "index")
    assert re.search(r'<a href="labs/lab-9.1-toy/index.html" title="A toy"><code[^>]*>', page)
    assert 'lab-9.2-later</span></code><span class="upcoming"> (upcoming)</span>' in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_results_table_has_every_gate_with_value_bound_and_control(toy_site: Built, language: str) -> None:
    page = html(toy_site, language, f"labs/{toy_course.LAB}/index")
    cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)]
    held, missed = {"en": ("✓ held", "off_by_one: 1 ✓ missed"), "zh-TW": ("✓ 通過", "off_by_one: 1 ✓ 沒過")}[language]
    place = cells.index("&lt;= 0.1")
    assert cells[place - 1 : place + 3] == ["0", "&lt;= 0.1", held, missed]
    assert page.count('class="gate-row"') == 2


def test_a_published_run_outside_the_lock_says_so(built: Built) -> None:
    counts = []
    for lab in catalog.load().labs:
        given = [run for run in published(lab) if run.results["environment"]["lock_sha256"] is None]
        counts.append(len(given))
        assert html(built, "en", f"labs/{lab.id}/index").count("an environment that was there already") == len(given)
        assert html(built, "zh-TW", f"labs/{lab.id}/index").count("不是照鎖定檔安裝的環境") == len(given)
    assert sum(counts) > 0, "the course has such a run, or this test shows nothing"


def test_results_of_an_earlier_version_of_a_lab_say_so(tmp_path: Path) -> None:
    shutil.copytree(toy_course.ROOT / "labs" / "lab-1.5-flashattention", tmp_path / "lab-1.5-flashattention")
    lab = catalog.load(tmp_path).lab("lab-1.5-flashattention")
    for results in (lab.directory / "results").glob("[cg]pu-*.json"):
        content = json.loads(results.read_text(encoding="utf-8")) | {"sources_sha256": sources_hash(lab), "shared_sha256": shared_hash(lab)}
        results.write_text(json.dumps(content), encoding="utf-8")
    assert "changed since" not in results_section(lab, "en")
    (lab.directory / "one_more.py").write_text("", encoding="utf-8")
    assert results_section(lab, "en").count("changed since") == results_section(lab, "zh-TW").count("又改過") == len(published(lab)) > 0


def test_results_from_before_a_change_of_shared_code_say_so(tmp_path: Path) -> None:
    shutil.copytree(toy_course.ROOT / "labs" / "lab-1.5-flashattention", tmp_path / "lab-1.5-flashattention")
    lab = catalog.load(tmp_path).lab("lab-1.5-flashattention")
    for results in (lab.directory / "results").glob("[cg]pu-*.json"):
        content = json.loads(results.read_text(encoding="utf-8")) | {"sources_sha256": sources_hash(lab), "shared_sha256": "0" * 64}
        results.write_text(json.dumps(content), encoding="utf-8")
    assert results_section(lab, "en").count("shares with others has been changed") == len(published(lab)) > 0
    assert results_section(lab, "zh-TW").count("共用的程式碼又改過") == len(published(lab))


def test_a_notebook_shows_the_outputs_of_the_run_and_whose_they_are(toy_site: Built) -> None:
    assert "Outputs are those of a run" in html(toy_site, "en", f"labs/{toy_course.LAB}/01-count")
    assert "That run spoke Traditional Chinese" in html(toy_site, "en", f"labs/{toy_course.LAB}/01-count")
    assert "那次執行用的是英文" not in html(toy_site, "zh-TW", f"labs/{toy_course.LAB}/01-count")


def test_without_a_run_a_notebook_says_that_it_has_no_outputs(built: Built) -> None:
    for lab in catalog.load().labs:
        assert "built without outputs" in html(built, "en", f"labs/{lab.id}/{lab.notebooks[0]}")
        assert "這一頁沒有輸出" in html(built, "zh-TW", f"labs/{lab.id}/{lab.notebooks[0]}")


def test_formulas_are_mathml(toy_site: Built) -> None:
    page = html(toy_site, "en", "index")
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page
    assert '<span class="eqno">(7)</span>' in page
    assert "\\frac" not in page


@pytest.mark.parametrize(
    ("role", "complaint"),
    [
        ("lab-9.1-toy:speed", "has published results, but none of speed"),
        ("lab-9.1-toy:error:nonsense", "has published results, but none of error:nonsense"),
        ("no lab:error", "is no lab id"),
    ],
)
def test_a_number_that_cannot_exist_fails_the_build(toy_site: Built, role: str, complaint: str) -> None:
    page = toy_site.checkout.root / "docs" / "guides" / "colab.zh-TW.md"
    kept = page.read_text(encoding="utf-8")
    try:
        page.write_text(f"{kept}\n{{measured}}`{role}`\n", encoding="utf-8")
        done = toy_site.checkout.host("docs")
    finally:
        page.write_text(kept, encoding="utf-8")
    assert done.code == 1
    assert complaint in done.words


def test_a_strict_build_wants_every_number(toy_site: Built) -> None:
    done = toy_site.checkout.host("docs", "--strict")
    assert done.code == 1
    assert "lab-9.2-later:speed is not published yet" in done.words


def test_every_number_of_the_real_pages_resolves_or_is_explicitly_unpublished() -> None:
    labs = {lab.id: lab for lab in catalog.load().labs}
    asked = [
        (pair.name, role)
        for pair in pairs()
        for language in LANGUAGES
        for role in ROLE.findall(pair.path(language).read_text(encoding="utf-8"))
    ]
    assert asked
    for page, role in asked:
        lab_id, metric, *variant = role.partition("@")[0].split(":")
        assert catalog.LAB_ID.fullmatch(lab_id), f"{page}: {role}"
        if lab_id not in labs:
            continue
        runs = published(labs[lab_id])
        if runs:
            assert any(run.measurement(metric, *variant) for run in runs), f"{page}: {role} is not among the published results"
        else:
            known = sources.usage(labs[lab_id]).records
            assert {(metric, variant[0] if variant else None), (metric, "*")} & known, f"{page}: no notebook records {role}"


# --- how a number reads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"), (True, "yes"), (False, "no"), (0, "0"), (0.0, "0"), (392997, "392,997"), (1.966123, "1.966"), (1.0386e-06, "1.04 × 10⁻⁶"),
        (-0.91563, "−0.9156"), (12345.6, "12,346"), (3e9, "3.00 × 10⁹"), ("inf", "∞"), ("-inf", "−∞"), ("nan", "nan"), (-7, "−7"), (0.001, "0.001"),
    ],
)  # fmt: skip
def test_a_number_reads_well(value: object, text: str) -> None:
    assert readable(value, "en") == text


@given(st.floats(-1e300, 1e300))
def test_a_number_is_never_told_wrong(value: float) -> None:
    text = readable(value, "en").replace("−", "-").replace(",", "")
    if "×" in text:
        mantissa, power = text.split(" × 10")
        text = f"{mantissa}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}"
    assert float(text) == pytest.approx(value, rel=5.1e-3, abs=1e-320)


@pytest.mark.parametrize(
    ("value", "bound", "distance"),
    [
        (1e-7, "<= 1e-05", -2), (1e-3, "<= 1e-05", 2), (0, "<= 1e-05", -4), ("inf", "<= 1e-05", 4), ("nan", "<= 1e-05", 4), (1e-5, "<= 1e-05", 0),
        (18.0, ">= 1.8", -1), (0.18, ">= 1.8", 1), (-0.09, "<= -0.9", 1), (-9.0, "<= -0.9", -1), (0.5, "<= -0.9", 4), (0, "== 0", -4), (1, "== 0", 4),
        (True, "is true", -4), (False, "is true", 4),
    ],
)  # fmt: skip
def test_a_dot_stands_where_its_value_is(value: object, bound: str, distance: float) -> None:
    assert decades_from_bound(value, bound) == pytest.approx(distance)
