"""The site builds without a warning in both languages, links nowhere wrong, and is served on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import toy_course
from built_site import Built
from parts import linux_only

from onepiece.course import catalog
from onepiece.course.text import LANGUAGES


class Page(HTMLParser):
    """Ids and links of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("alternate", "next", "prev", "canonical"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


def pages(site: Path) -> dict[Path, Page]:
    found = {
        path: Page(path) for language in LANGUAGES for path in sorted((site / language).rglob("*.html")) if "_static" not in path.parts
    }
    assert found
    return found


def test_the_site_builds_without_a_warning(built: Built) -> None:
    assert built.done.code == 0, built.done.output
    assert "WARNING" not in built.done.output
    assert "stale" not in built.done.output


def test_every_lab_has_its_pages_and_its_download(built: Built) -> None:
    course = catalog.load()
    assert course.labs
    for language in LANGUAGES:
        for lab in course.labs:
            here = built.site / language / "labs" / lab.id
            for name in ("index", *lab.notebooks, *(["quiz"] if (lab.directory / "quiz.toml").exists() else [])):
                assert (here / f"{name}.html").is_file(), f"{language}: {lab.id}/{name}"
            (packed,) = (built.site / language / "_downloads").rglob(f"{lab.id}.zip")
            with zipfile.ZipFile(packed) as archive:
                names = set(archive.namelist())
            assert {f"{lab.id}/{notebook}.ipynb" for notebook in lab.notebooks} <= names
            assert f"{lab.id}/.run/context.json" in names


def test_internal_links_lead_somewhere(built: Built) -> None:
    found = pages(built.site)
    broken = []
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("javascript"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{path.relative_to(built.site)}: {link}")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in found[target].ids:
                broken.append(f"{path.relative_to(built.site)}: {link} (no such place)")
    assert broken == []


def test_nothing_is_loaded_from_anywhere_else(built: Built) -> None:
    for path, page in pages(built.site).items():
        elsewhere = [load for load in page.loads if urlsplit(load).scheme not in ("", "data") or urlsplit(load).netloc]
        assert elsewhere == [], path
    for path in built.site.rglob("*.css"):
        if ".build" not in path.parts:
            loaded = re.findall(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)", path.read_text(encoding="utf-8"))
            assert loaded == [], path


def test_a_page_names_its_language_and_links_to_its_twin(built: Built) -> None:
    for path in pages(built.site):
        language = path.relative_to(built.site).parts[0]
        (other,) = set(LANGUAGES) - {language}
        assert f'<html lang="{language}"' in path.read_text(encoding="utf-8")
        assert (built.site / other / path.relative_to(built.site / language)).is_file(), path


def test_no_image_lacks_its_alternative_text(built: Built) -> None:
    for path in pages(built.site):
        for image in re.findall(r"<img [^>]*>", path.read_text(encoding="utf-8")):
            assert re.search(r'alt="[^"]+"', image), f"{path}: {image}"


def test_what_a_notebook_printed_is_shown_as_it_is(toy_site: Built) -> None:
    assert toy_site.done.code == 0, toy_site.done.output
    (page,) = (toy_site.site / "en").glob("labs/*/02-use.html")
    text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
    assert "---\nlibrary_name: peft\n---\nA model card, ``` and all" in text
    assert "\n:class: no option, but text" in text


def test_a_second_build_reads_nothing_again(toy_site: Built) -> None:
    assert toy_site.checkout.host("docs").code == 0  # other tests may have changed a page and changed it back
    before = {path: path.stat().st_mtime_ns for path in pages(toy_site.site)}
    assert toy_site.checkout.host("docs").code == 0
    assert {path: path.stat().st_mtime_ns for path in pages(toy_site.site)} == before


def test_a_build_after_a_change_reads_that_page_only(toy_site: Built) -> None:
    assert toy_site.checkout.host("docs").code == 0
    before = {path: path.stat().st_mtime_ns for path in pages(toy_site.site)}
    readme = toy_site.checkout.root / "labs" / toy_course.LAB / "README.md"
    readme.write_text("# A toy\n\nNew words.\n", encoding="utf-8")
    try:
        assert toy_site.checkout.host("docs").code == 0
        labs = toy_site.site / "en" / "labs"
        read = {path for path, age in before.items() if path.stat().st_mtime_ns != age}
        assert labs / toy_course.LAB / "index.html" in read
        assert read <= {labs / toy_course.LAB / "index.html", labs / "index.html"}, "and the list that names it"
        assert "New words." in (labs / toy_course.LAB / "index.html").read_text(encoding="utf-8")
    finally:
        readme.unlink()


@linux_only
def test_it_is_served_on_loopback_and_says_where(built: Built) -> None:
    command = built.checkout.host_command("docs", "--serve")
    process = subprocess.Popen(
        command, env=built.checkout.host_environ, cwd=built.checkout.root, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        preexec_fn=toy_course.hear_signals,
    )  # fmt: skip
    try:
        assert process.stdout
        said = next(line for line in process.stdout if "http://" in line)
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, said
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address[0] + "zh-TW/index.html", timeout=10) as answer:
            assert "可以" in answer.read().decode() or answer.status == 200
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == built.done.code
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_error_of_the_program_is_on_the_troubleshooting_page(built: Built, language: str) -> None:
    from onepiece.course.errors import known_errors

    text = (built.staged(language) / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    assert text.count("\n: ") == len(known_errors())


def test_parts_are_made_from_data_but_not_where_a_page_shows_how_to_write_them() -> None:
    from extension.generated import expand

    made = expand("```{error-list}\nunknown-lab\n```\n\n````\n```{error-list}\nunknown-lab\n```\n````\n", "en")
    assert made.startswith("There is no lab named *\\<lab\\>*.\n: next: Did you mean: *\\<nearest\\>* ? All labs: `nox -s catalog`\n")
    assert made.endswith("````\n```{error-list}\nunknown-lab\n```\n````\n")
