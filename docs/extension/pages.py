"""Stage one language: `python -m extension.pages WORK` writes WORK/source, which Sphinx then reads."""

from __future__ import annotations

import sys
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.family_rows import NotComparable

from . import course
from .assets import drawn_figures
from .generated import expand
from .lab_page import write_lab
from .stage import Stage
from .translations import pairs, text_of

WORDS = {
    "labs": {"en": "Labs", "zh-TW": "實驗"},
    "chapters": {"en": "Chapters", "zh-TW": "章節"},
    "quiz": {"en": "Quiz", "zh-TW": "測驗"},
}


def stage_pages(work: Path, language: str) -> list[str]:
    """Every page of one language; returns the names of the files that changed."""
    stage = Stage(work / "source")
    for pair in pairs():
        path = pair.path(language)
        if path.exists() and not path.is_relative_to(course.CHAPTERS):
            stage.write(f"{pair.name}.md", expand(text_of(path), language))
    for lab in course.labs():
        write_lab(stage, lab, language)
    stage.write("labs/index.md", _labs_index(language))
    for chapter in course.chapters():
        if chapter.directory:
            _write_chapter(stage, chapter, work.parent / "figures", language)
    stage.write("chapters/index.md", _chapters_index(language))
    stage.close()
    return stage.changed


def _labs_index(language: str) -> str:
    entries = "\n".join(f"{lab.id}/index" for lab in course.labs())
    return expand(f"# {WORDS['labs'][language]}\n\n```{{course-map}} ##\n```\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n", language)


def _chapters_index(language: str) -> str:
    entries = "\n".join(f"{chapter.directory.name}/index" for chapter in course.chapters() if chapter.directory)
    return expand(f"# {WORDS['chapters'][language]}\n\n```{{chapter-map}}\n```\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n", language)


def _write_chapter(stage: Stage, chapter: course.Chapter, figures: Path, language: str) -> None:
    assert chapter.directory is not None
    name = chapter.directory.name
    text = expand(text_of(chapter.directory / f"index.{language}.md"), language)
    if (chapter.directory / "quiz.toml").exists() and "```{quiz}" not in text:
        text += f"\n## {WORDS['quiz'][language]}\n\n```{{quiz}} {chapter.number}\n```\n"
    stage.write(f"chapters/{name}/index.md", text)
    if (chapter.directory / "figures.py").exists():
        for drawn in sorted(drawn_figures(chapter.directory / "figures.py", figures, language).iterdir()):
            stage.copy(drawn, f"chapters/{name}/figures/{drawn.name}")


if __name__ == "__main__":
    try:
        stage_pages(Path(sys.argv[1]), course.language())
    except UserError as error:  # a lab whose sources are wrong
        sys.exit(f"{error.cause}\n{error.remedy}")
    except NotComparable as error:
        sys.exit(f"The PEFT family's table holds only what was measured alike: {error}.\nMeasure it again: nox -s LAB -- --publish")
