"""The course at a glance: labs by module, chapters with their labs, learning paths."""

from __future__ import annotations

import tomllib

from onepiece.course.catalog import Lab
from onepiece.course.places import ROOT

from . import course, facts
from .punctuation import brackets, colon, listed

WORDS = {
    "upcoming": {"en": "Upcoming", "zh-TW": "即將推出"},
    "no labs": {"en": "The labs of this module are still to come.", "zh-TW": "這個單元的實驗還在準備中。"},
    "module": {"en": "Module {number}", "zh-TW": "單元 {number}"},
    "chapter": {"en": "chapter", "zh-TW": "章節"},
    "labs": {"en": "labs that measure it", "zh-TW": "負責量測的實驗"},
    "read": {"en": "Read", "zh-TW": "先讀"},
    "no chapter": {"en": "not written yet", "zh-TW": "尚未撰寫"},
}
REPOSITORY = {
    "en": "This copy of the course does not say where its repository is (`[project.urls]` in `pyproject.toml`); "
    "write the address that you cloned it from in place of `REPOSITORY`.",
    "zh-TW": "這份課程沒有寫明儲存庫的位置（`pyproject.toml` 的 `[project.urls]`）；請把 `REPOSITORY` 換成你當初複製（clone）的網址。",
}


def course_map(argument: str, language: str) -> str:
    """One section per module, one card per lab: title, level, minutes, GPU, what comes first. The argument is the heading's mark."""
    parts = []
    for number, title in course.syllabus().modules.items():
        labs = [lab for lab in course.labs() if lab.module == number]
        later = [lab_id for lab_id in course.upcoming() if lab_id.removeprefix("lab-").split(".")[0] == number]
        module = WORDS["module"][language].format(number=number)
        parts.append(f"{argument} {colon(module, title[language], language)}")
        if labs:
            cards = [_card(lab, language) for lab in labs]
            parts.append("\n".join(["::::::{grid} 1 2 2 3", ":gutter: 3", ":class-container: lab-map", "", *cards, "::::::"]))
        if later:
            names = " ".join(f"`{lab_id}`" for lab_id in later)
            parts.append(f":::{{container}} upcoming-labs\n{colon(WORDS['upcoming'][language], names, language)}\n:::")
        elif not labs:
            parts.append(WORDS["no labs"][language])
    return "\n\n".join(parts)


def _card(lab: Lab, language: str) -> str:
    gpu = facts.gpu(lab, language)
    first = colon(facts.LABELS["requires"][language], listed(lab.requires, language), language)
    lines = [
        f":::::{{grid-item-card}} {lab.title[language]}",
        f":link: /labs/{lab.id}/index",
        ":link-type: doc",
        ":class-card: lab-card",
        "",
        f"{lab.summary[language]}",
        "",
        "::::{card-footer}",
        f"{{bdg-secondary-line}}`{lab.id.split('-')[1]}` {{bdg-primary-line}}`{facts.LEVELS[lab.level][language]}`"
        f" {{bdg-success-line}}`CPU {facts.minutes(lab, 'cpu', language)}`"
        + (f" {{bdg-info-line}}`GPU {facts.minutes(lab, 'gpu', language)}, {lab.profiles['gpu'].vram_gb:g} GB`" if gpu else ""),
        "",
        first if lab.requires else facts.NOTHING_FIRST[language],
        "::::",
        ":::::",
    ]
    return "\n".join(lines)


def chapter_map(argument: str, language: str) -> str:
    """A table: chapter -> the labs that measure it."""
    lines = [f"| {WORDS['chapter'][language]} | {WORDS['labs'][language]} |", "|---|---|"]
    for chapter in course.chapters():
        labs = [lab for lab in course.labs() if lab.chapter == chapter.number]
        names = listed((f"[{lab.id}](/labs/{lab.id}/index.md)" for lab in labs), language) or "—"
        state = "" if chapter.page else brackets(WORDS["no chapter"][language], language)
        lines.append(f"| {facts.chapter(chapter.number, language)}{state} | {names} |")
    return "\n".join(lines)


def learning_paths(argument: str, language: str) -> str:
    """Three ways through the course, stage by stage."""
    parts = []
    for path in course.syllabus().paths:
        parts += [f"## {path.title[language]}", path.summary[language], f"```console\n$ nox -s progress -- --path {path.id}\n```"]
        for number, stage in enumerate(path.stages, start=1):
            chapters = [facts.chapter(chapter, language) for chapter in stage.chapters]
            labs = [_lab_line(lab_id, language) for lab_id in stage.labs]
            read = [f"- {colon(WORDS['read'][language], chapter, language)}" for chapter in chapters]
            parts.append("\n".join([f"{number}. **{stage.title[language]}**", "", *(f"   {line}" for line in [*read, *labs])]))
    return "\n\n".join(parts)


def _lab_line(lab_id: str, language: str) -> str:
    lab = course.lab(lab_id)
    if lab is None:
        return f"- `{lab_id}`" + brackets(WORDS["upcoming"][language].lower(), language)
    return f"- [{lab.title[language]}](/labs/{lab.id}/index.md)" + brackets(f"CPU {facts.minutes(lab, 'cpu', language)}", language)


def repository(argument: str, language: str) -> str:
    """Where the course is cloned from, or that it does not say."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("repository")
    return f"<{address}>" if address else REPOSITORY[language]
