"""What a lab asks for, in one look: level, minutes, memory, GPU, what to do first, its chapter."""

from __future__ import annotations

from onepiece.course.catalog import Lab

from . import course
from .punctuation import listed

LEVELS = {
    "intro": {"en": "introductory", "zh-TW": "入門"},
    "core": {"en": "core", "zh-TW": "核心"},
    "advanced": {"en": "advanced", "zh-TW": "進階"},
}
PATHS = {
    "engineer": {"en": "engineer", "zh-TW": "工程師"},
    "researcher": {"en": "researcher", "zh-TW": "研究人員"},
    "manager": {"en": "technical manager", "zh-TW": "技術主管"},
}
LABELS = {
    "level": {"en": "level", "zh-TW": "程度"},
    "cpu": {"en": "on a CPU", "zh-TW": "用 CPU"},
    "gpu": {"en": "on a GPU", "zh-TW": "用 GPU"},
    "requires": {"en": "do first", "zh-TW": "先修"},
    "chapter": {"en": "chapter", "zh-TW": "章節"},
    "paths": {"en": "paths", "zh-TW": "適合"},
}
NOTHING_FIRST = {"en": "no prerequisites", "zh-TW": "不需先修"}


def minutes(lab: Lab, profile: str, language: str) -> str:
    """`2 min`, as the manifest's budget says."""
    return f"{lab.profiles[profile].minutes:g} {'min' if language == 'en' else '分鐘'}"


def cpu(lab: Lab, language: str) -> str:
    """The budget of the cpu profile."""
    memory = lab.profiles["cpu"].memory_gb
    return minutes(lab, "cpu", language) + (f", {memory:g} GB" if language == "en" else f"，{memory:g} GB 記憶體")


def gpu(lab: Lab, language: str) -> str | None:
    """The budget of the gpu profile, if the lab has one."""
    if "gpu" not in lab.profiles:
        return None
    return minutes(lab, "gpu", language) + (", " if language == "en" else "，") + f"{lab.profiles['gpu'].vram_gb:g} GB VRAM"


def requires(lab: Lab, language: str) -> str:
    """Links to the labs to do first."""
    if not lab.requires:
        return NOTHING_FIRST[language]
    return listed((f"[{wanted}](/labs/{wanted}/index.md)" for wanted in lab.requires), language)


def chapter(number: str, language: str) -> str:
    """A chapter by number and title; a link once it is written."""
    found = course.chapter(number)
    if found is None:
        return number
    name = f"{number} {found.title[language]}"
    return f"[{name}](/{found.page}.md)" if found.page else name


def facts_table(lab: Lab, language: str) -> str:
    """The line below a lab's title."""
    cells = {
        "level": LEVELS[lab.level][language],
        "cpu": cpu(lab, language),
        "gpu": gpu(lab, language),
        "requires": requires(lab, language),
        "chapter": chapter(lab.chapter, language),
        "paths": listed((PATHS[path][language] for path in lab.paths), language),
    }
    shown = {key: value for key, value in cells.items() if value}
    items = [f"{LABELS[key][language]}\n: {value}" for key, value in shown.items()]
    return ":::{container} lab-facts\n" + "\n\n".join(items) + "\n:::"
