"""`nox -s catalog`: the course as a table, and every problem of every manifest."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course import catalog
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road import sources


def command(console: Console, arguments: list[str]) -> int:
    """Show the course; exit 2 if a lab is broken."""
    parser = Parser(prog="nox -s catalog --", description=tr("The course as a table.", "課程總表。"))
    add_language(parser)
    parser.parse_args(arguments)
    course = catalog.load()
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
