"""`nox -s labs`: several labs, one summary."""

from __future__ import annotations

import subprocess

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import LABS, ROOT
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser
from onepiece.host.commands.run import add_options, run_options
from onepiece.host.interrupts import raise_if_asked
from onepiece.host.road.run_lab import run


def command(console: Console, arguments: list[str]) -> int:
    """Run labs one after the other; exit 0 only if each of them passed."""
    parser = Parser(prog="nox -s labs --", description=tr("Run several labs and show one summary.", "執行多個實驗，並列出總結。"))
    parser.add_argument("lab", nargs="*", help=tr("which labs; all of them if none is named", "要執行的實驗；不指定就是全部"))
    parser.add_argument(
        "--changed",
        nargs="?",
        const="HEAD",
        metavar="COMMIT",
        help=tr("only labs whose files differ from COMMIT (HEAD)", "只執行與 COMMIT（預設 HEAD）不同的實驗"),
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    course = catalog.load()
    labs = [course.lab(lab_id) for lab_id in options.lab] or list(course.labs)
    if options.changed:
        changed = changed_labs(options.changed)
        labs = [lab for lab in labs if lab.id in changed]
    if not labs:
        console.print(tr("No lab to run.", "沒有要執行的實驗。"))
        return 0
    rows: list[tuple[catalog.Lab, str, str]] = []
    worst = 0
    for lab in labs:
        raise_if_asked()
        console.rule(f"[bold]{lab.id}[/]  {escape(lab.title[current_language()])}", align="left")
        try:
            outcome = run(console, lab, run_options(options))
        except UserError as error:
            console.print(f"[bold red]{tr('error', '錯誤')}[/] {escape(str(error.cause))}\n{escape(str(error.remedy))}")
            rows.append((lab, tr("could not run", "無法執行"), ""))
            worst = max(worst, 2)
            continue
        results = outcome.results
        held = sum(gate["passed"] is True for gate in results["gates"])
        rows.append(
            (
                lab,
                results["status"],
                f"{held}/{len(results['gates'])}   {results['seconds'] / 60:.1f} min   {results['peak_bytes'] / 2**30:.2f} GB",
            )
        )
        worst = max(worst, outcome.exit_code)
        if outcome.exit_code == 130:
            break
    console.print(_summary(rows))
    return worst


def changed_labs(commit: str) -> set[str]:
    """Ids of labs with files that differ from `commit`, or that git does not know yet."""
    found: set[str] = set()
    for arguments in (["diff", "--name-only", commit, "--", "labs"], ["ls-files", "--others", "--exclude-standard", "--", "labs"]):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError("usage", what=f"git: {done.stderr.strip().splitlines()[0]}", session="labs")
        found |= {line.split("/")[1] for line in done.stdout.splitlines() if line.count("/") >= 2}
    return {lab_id for lab_id in found if (LABS / lab_id / "lab.toml").exists()}


def _summary(rows: list[tuple[catalog.Lab, str, str]]) -> Table:
    table = Table(title=tr("Summary", "總結"), title_justify="left")
    for column in (tr("lab", "實驗"), tr("status", "狀態"), tr("gates, time, memory", "關卡、時間、記憶體")):
        table.add_column(column)
    for lab, status, detail in rows:
        color = {"passed": "green", "incomplete": "yellow"}.get(status, "red")
        table.add_row(lab.id, f"[{color}]{status}[/]", detail)
    return table
