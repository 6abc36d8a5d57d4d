"""`nox -s catalog`: the course as a table, and every problem of every manifest."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course import catalog
from onepiece.course.places import ROOT
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road import sources

READMES = {"README.md": "en", "README.zh-TW.md": "zh-TW"}
BEGINS, ENDS = "<!-- labs, written by: nox -s catalog -- --readme -->", "<!-- end of labs -->"


def command(console: Console, arguments: list[str]) -> int:
    """Show the course; exit 2 if a lab is broken."""
    parser = Parser(prog="nox -s catalog --", description=tr("The course as a table.", "課程總表。"))
    parser.add_argument(
        "--readme", action="store_true", help=tr("write the list of labs into both README files", "把實驗清單寫進兩份 README")
    )
    add_language(parser)
    options = parser.parse_args(arguments)
    course = catalog.load()
    if options.readme:
        for name, language in READMES.items():
            text = (ROOT / name).read_text(encoding="utf-8")
            (ROOT / name).write_text(with_labs(text, course, language), encoding="utf-8", newline="\n")
    console.print(course_table(course))
    console.print(
        tr(
            "Run one: nox -s <lab>   Your own copy: nox -s start -- <lab>   This machine: nox -s doctor",
            "執行：nox -s <lab>　個人副本：nox -s start -- <lab>　這台機器：nox -s doctor",
        )
    )
    problems = [problem for found in course.problems.values() for problem in found]
    problems += [problem for lab in course.labs for problem in sources.verify(lab)]
    for problem in problems:
        console.print(f"[bold red]{tr('error', '錯誤')}[/] {escape(str(problem.cause))}")
    return 2 if problems else 0


def with_labs(text: str, course: catalog.Course, language: str) -> str:
    """A README with the present list of labs between its two marks."""
    head, minutes = {"en": ("lab", "CPU minutes"), "zh-TW": ("實驗", "CPU 分鐘")}[language]
    page = "README.zh-TW.md" if language == "zh-TW" else "README.md"
    rows = [f"| {head} | | {minutes} |", "|---|---|--:|"]
    for lab in course.labs:
        number = f"{lab.profiles['cpu'].minutes:g}"
        rows.append(f"| [{lab.id}](labs/{lab.id}/{page}) | **{lab.title[language]}**<br>{lab.summary[language]} | {number} |")
    before, _, rest = text.partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    return before + "\n".join([BEGINS, *rows, ENDS]) + after


def course_table(course: catalog.Course) -> Table:
    """One row per lab."""
    table = Table()
    table.add_column(tr("lab", "實驗"), no_wrap=True)
    table.add_column(tr("title", "標題"))
    table.add_column(tr("level", "程度"))
    table.add_column(tr("needs", "先修"))
    table.add_column(tr("CPU min", "CPU 分鐘"), justify="right")
    table.add_column(tr("GPU profile, GB", "GPU profile, GB"), justify="right")
    table.add_column(tr("theory chapter", "理論章節"), justify="right")
    for lab in course.labs:
        gpu = lab.profiles.get("gpu")
        needs = ", ".join(required.split("-")[1] for required in lab.requires)
        table.add_row(
            lab.id,
            escape(lab.title[current_language()]),
            lab.level,
            needs,
            f"{lab.profiles['cpu'].minutes:g}",
            f"{gpu.vram_gb:g}" if gpu and gpu.vram_gb else "—",
            lab.chapter,
        )
    return table
