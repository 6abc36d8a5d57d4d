"""`nox -s mutate -- lab-X`: do the checks of a lab notice when its code is wrong?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.mutation import core, declared, published, score
from onepiece.host.mutation.core import Noticed
from onepiece.host.mutation.mutants import Mutant, mutants_of_lab
from onepiece.host.mutation.score import FATES, Judged
from onepiece.host.road import checks, sources
from onepiece.host.road.local import kept_file


def command(console: Console, arguments: list[str]) -> int:
    """Judge a lab's checks by mutants of its reference; 0 if they notice enough of them."""
    options = parser().parse_args(arguments)
    lab = one_lab(options.lab, "mutate")
    for problem in sources.verify(lab):
        raise problem
    if not (lab.directory / "checks.py").exists():
        console.print(tr(f"{lab.id} has no exercises.", f"{lab.id} 沒有練習。"))
        return 0
    everything = mutants_of_lab(lab)
    said = declared.read(lab, everything)
    mutants = _chosen(lab, everything, options)
    if options.publish and len(mutants) < len(everything):
        what = tr("only all mutants of a lab are published", "只能發布整個實驗的全部變異體")
        raise UserError("usage", what=what, session="mutate")
    lines = [mutant for mutant in said.core if mutant in mutants]
    if options.gates and not lines:
        what = tr(f"{lab.id}/{declared.FILE} names no core line of these", f"{lab.id}/{declared.FILE} 沒有指定其中任何核心行")
        raise UserError("usage", what=what, session="mutate")
    environment = checks.prepare(console, lab, fresh=options.fresh)
    with checks.WarmChecks(checks.WarmHere(environment, lab)) as warm:
        seconds = score.patience(lab, warm)
        judged = _judge(console, lab, warm, mutants, said, seconds)
    _show(console, lab, judged)
    noticed = _by_gates(console, lab, lines) if options.gates else []
    if options.publish:
        path = published.write(lab, judged, noticed, warm.versions)
        console.print(tr(f"Published to {kept_file(path)}", f"已發布到 {kept_file(path)}"), soft_wrap=True)
    return 0 if score.share_killed(judged) >= score.ENOUGH and all(item.by for item in noticed) else 1


def parser() -> argparse.ArgumentParser:
    """The options of the session."""
    made = Parser(
        prog="nox -s mutate --",
        description=tr(
            "Change one thing at a time in a lab's reference, and see whether its checks notice.",
            "每次只改動參考解的一個地方，看看檢查是否會發現。",
        ),
    )
    made.add_argument("lab", nargs="*")
    made.add_argument("--module", metavar="FILE", help=tr("only this module, as lora.py", "只改這個模組，例如 lora.py"))
    made.add_argument("--exercise", type=int, metavar="N", help=tr("only the solution of exercise N", "只改練習 N 的解答"))
    made.add_argument("--sample", type=_at_least_one, metavar="K", help=tr("only K of them, evenly spread", "只取其中 K 個，平均分布"))
    made.add_argument(
        "--gates",
        action="store_true",
        help=tr(
            "and run the notebooks on every core line of mutants.toml: minutes each",
            "另外對 mutants.toml 的每個核心行執行筆記本：每個要幾分鐘",
        ),
    )
    made.add_argument(
        "--publish",
        action="store_true",
        help=tr("write the result to labs/<lab>/results/mutants.json", "把結果寫到 labs/<lab>/results/mutants.json"),
    )
    add_language(made)
    return made


def _at_least_one(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(tr(f"{text}: allowed: a number from 1", f"{text}：只能是 1 以上的整數"))
    return number


def _chosen(lab: Lab, mutants: Sequence[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """The mutants that the options ask for."""
    modules = {mutant.module: None for mutant in mutants}
    exercises = sorted({mutant.exercise for mutant in mutants})
    if options.module is not None and options.module not in modules:
        what = tr(
            f"{options.module} has no solutions; modules that have: {', '.join(modules)}",
            f"{options.module} 裡沒有解答；有解答的模組：{', '.join(modules)}",
        )
        raise UserError("usage", what=what, session="mutate")
    if options.exercise is not None and options.exercise not in exercises:
        raise UserError("unknown-exercise", lab=lab.id, exercise=options.exercise, choices=", ".join(map(str, exercises)))
    found = [mutant for mutant in mutants if options.module in (None, mutant.module) and options.exercise in (None, mutant.exercise)]
    return score.sample(found, options.sample)


def _judge(
    console: Console, lab: Lab, warm: checks.WarmChecks, mutants: Sequence[Mutant], said: declared.Declared, seconds: float
) -> list[Judged]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    judged: list[Judged] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(lab.id, total=len(mutants))
        for item in score.judge(lab, warm, mutants, said, seconds):
            judged.append(item)
            progress.update(task, advance=1, description=f"{item.mutant.module}:{item.mutant.line}")
    return judged


def _show(console: Console, lab: Lab, judged: Sequence[Judged]) -> None:
    table = Table(title=lab.id, title_justify="left")
    table.add_column(tr("exercise", "練習"), justify="right")
    for name in (tr("killed", "被發現"), tr("timed out", "逾時"), tr("survived", "未被發現"), tr("equivalent", "等價")):
        table.add_column(name, justify="right")
    for number, fates in score.counts(judged).items():
        survived = f"[red]{fates['survived']}[/]" if fates["survived"] else "0"
        table.add_row(str(number), *(survived if fate == "survived" else str(fates[fate]) for fate in FATES))
    console.print(table)
    for item in judged:
        if item.fate == "survived":
            mutant = item.mutant
            console.print(
                f"[red]✗[/] {mutant.exercise}. [bold]{escape(f'{mutant.module}:{mutant.line}')}[/]  {escape(mutant.text)}", soft_wrap=True
            )
            console.print(f"     {escape(mutant.change)}", soft_wrap=True)
    share = score.share_killed(judged)
    counted = sum(item.fate != "equivalent" for item in judged)
    color = "green" if share >= score.ENOUGH else "red"
    noticed = sum(item.fate in ("killed", "timed_out") for item in judged)
    console.print(
        tr(
            f"[bold {color}]{share:.1%}[/] of the mutants are noticed: {noticed} of {counted} (at least {score.ENOUGH:.0%} are needed)",
            f"檢查發現了 [bold {color}]{share:.1%}[/] 的變異體：{counted} 個中的 {noticed} 個（至少要 {score.ENOUGH:.0%}）",
        )
    )


def _by_gates(console: Console, lab: Lab, mutants: Sequence[Mutant]) -> list[Noticed]:
    """Run the notebooks on each of these, and say what noticed it."""
    reference = core.reference_run(console, lab)
    gates = core.Gates(console, lab, reference)
    noticed: list[Noticed] = []
    for mutant in mutants:
        console.print(
            f"[bold]{escape(f'{mutant.module}:{mutant.line}')}[/]  {escape(mutant.text)}  {escape(mutant.change)}", soft_wrap=True
        )
        item = gates.judge(mutant)
        noticed.append(item)
        if item.by:
            console.print(f"  [green]✓[/] {escape(', '.join(item.by))}", soft_wrap=True)
        elif item.notebooks:
            console.print(f"  [red]✗ {tr('every gate stayed green', '所有關卡都維持通過')}[/]")
        else:
            console.print(f"  [red]✗ {tr('no notebook uses this module', '沒有筆記本使用這個模組')}[/]")
    return noticed
