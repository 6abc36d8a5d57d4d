"""Both languages have the same pages, built the same way; a translation whose source changed says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from built_site import Built
from extension.translations import Pair, pairs

from onepiece.course.text import LANGUAGES

FENCE = re.compile(r"^(`{3,}|~{3,}).*\n(?:.*\n)*?\1$", re.MULTILINE)


def structure(text: str) -> dict[str, list[str] | int]:
    """What a translation must share with its source."""
    prose = FENCE.sub("", text)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "figures": re.findall(r"^(?:`{3,}|:{3,})\{(?:figure|image)\} (\S+)", text, re.MULTILINE),
        "directives": re.findall(r"^(?:`{3,}|:{3,})\{(\S+)\}", text, re.MULTILINE),
        "measured": sorted(re.findall(r"\{(?:measured|upcoming)\}`([^`]+)`", text)),
        "formulas": len(re.findall(r"^\$\$$", text, re.MULTILINE)),
        "rows of tables": len(re.findall(r"^\|", prose, re.MULTILINE)),
    }


PAIRS = list(pairs())


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_translation_is_there_and_up_to_date(pair: Pair) -> None:
    assert pair.problem is None


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_translation_is_built_like_its_source(pair: Pair, built: Built) -> None:
    text = {language: (built.staged(language) / f"{pair.name}.md").read_text(encoding="utf-8") for language in LANGUAGES}
    assert structure(text["en"]) == structure(text["zh-TW"])
    assert re.search(r"[\u4e00-\u9fff]", text["zh-TW"])


def test_both_languages_have_the_same_pages_and_pictures(built: Built) -> None:
    def names(language: str) -> set[str]:
        root = built.staged(language)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    assert names("en") == names("zh-TW")
    assert {"index.md", "labs/index.md", "chapters/index.md", "guides/setup.md", "glossary.md", "paths.md"} <= names("en")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A page of one's own, translated."""
    monkeypatch.setattr("extension.translations.DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    made = Pair(tmp_path / "docs" / "page.en.md", tmp_path / "docs" / "page.zh-TW.md")
    (tmp_path / "OTHER.md").write_text("# Other\n", encoding="utf-8")
    made.english.write_text("```{include} ../OTHER.md\n```\n", encoding="utf-8")
    made.chinese.write_text("# 其他\n", encoding="utf-8")
    made.mark_translated()
    return made


def test_a_marked_translation_is_up_to_date(pair: Pair) -> None:
    assert pair.problem is None
    assert pair.chinese.read_text(encoding="utf-8").endswith("\n# 其他\n")


def test_a_translation_goes_stale_with_its_source_and_with_what_that_includes(pair: Pair) -> None:
    other = pair.english.parents[1] / "OTHER.md"
    other.write_text("# Other, changed\n", encoding="utf-8")
    assert pair.problem
    assert "nox -s docs -- --translated docs/page.zh-TW.md" in pair.problem
    pair.mark_translated()
    assert pair.problem is None
    assert pair.chinese.read_text(encoding="utf-8").count("source-sha256") == 1


def test_half_a_pair_is_a_problem(pair: Pair) -> None:
    kept = pair.chinese.read_text(encoding="utf-8")
    pair.chinese.unlink()
    assert "missing" in (pair.problem or "")
    pair.chinese.write_text(kept, encoding="utf-8")
    pair.english.unlink()
    assert "no English source" in (pair.problem or "")


def test_a_stale_translation_fails_the_build_and_says_what_to_type(toy_site: Built, tmp_path: Path) -> None:
    source = toy_site.checkout.root / "docs" / "guides" / "colab.en.md"
    kept = source.read_text(encoding="utf-8")
    shutil.copy(source, tmp_path)
    try:
        source.write_text("# Colab, changed\n", encoding="utf-8")
        done = toy_site.checkout.host("docs")
    finally:
        source.write_text(kept, encoding="utf-8")
    assert done.code == 1
    assert "docs/guides/colab.zh-TW.md is stale" in done.output
    assert "nox -s docs -- --translated docs/guides/colab.zh-TW.md" in done.output
