"""`nox -s check -- lab-X`: is my code right, and if not, why not."""

from __future__ import annotations

import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.places import WORKSPACE
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, one_lab, speak_as_the_copy
from onepiece.host.progress.record import record_checks
from onepiece.host.road import checks, exercises, sources
from onepiece.host.road.environments import Environment
from onepiece.host.road.local import MAYBE_DAMAGED, how_it_ended, run_module


def command(console: Console, arguments: list[str]) -> int:
    """Run the diagnosing checks; non-zero while anything is open."""
    parser = Parser(prog="nox -s check --", description=tr("Check your code, exercise by exercise.", "逐題檢查你的程式碼。"))
    parser.add_argument("lab", nargs="*")
    parser.add_argument(
        "--hint", action="store_true", help=tr("show a hint for each exercise that is not right yet", "為尚未答對的練習顯示提示")
    )
    parser.add_argument("--solution", type=int, metavar="N", help=tr("show the reference solution of exercise N", "顯示練習 N 的參考解"))
    parser.add_argument("--exercise", type=int, metavar="N", help=tr("show only exercise N", "只顯示練習 N"))
    parser.add_argument(
        "--reference", action="store_true", help=tr("check the reference instead of your copy", "檢查參考解，而不是你的副本")
    )
    add_language(parser)
    options = parser.parse_args(arguments)
    if options.lab:
        speak_as_the_copy(options.lab[0], options.lang)
    lab = one_lab(options.lab, "check")
    if options.solution is not None:
        return _show_solution(console, lab, options.solution)
    if not (lab.directory / "checks.py").exists():
        console.print(tr(f"{lab.id} has no exercises.", f"{lab.id} 沒有練習。"))
        return 0
    outcomes = check(console, lab, reference=options.reference, fresh=options.fresh)
    new = record_checks(console, lab.id, outcomes, own=not options.reference)
    if options.exercise is not None and not _nothing_imported(outcomes):
        choices = ", ".join(str(outcome["exercise"]) for outcome in outcomes)
        outcomes = [outcome for outcome in outcomes if outcome["exercise"] == options.exercise]
        if not outcomes:
            raise UserError("unknown-exercise", lab=lab.id, exercise=options.exercise, choices=choices)
    _show(console, lab, outcomes, options.hint)
    if not options.reference:
        _light_up(console, lab, outcomes, new)
    return 0 if all(outcome["status"] == "passed" for outcome in outcomes) else 1


def check(console: Console, lab: Lab, *, reference: bool, fresh: bool = False) -> list[dict[str, Any]]:
    """The outcome of every exercise, from the lab's environment."""
    mine = WORKSPACE / lab.id
    if not reference:
        sources.require_copy(lab, mine)
        exercises.refuse_hiding(mine)
    environment = checks.prepare(console, lab, fresh=fresh)
    if reference:
        return _outcomes(console, lab, environment, [lab.directory])
    outcomes = _outcomes(console, lab, environment, [mine, lab.directory])
    standing = exercises.standing(lab, mine)
    blocked = {outcome["exercise"]: needs for outcome in outcomes if (needs := _needs(outcome, standing)) is not None}
    if not blocked:
        return outcomes
    # They are written, and stopped at one that is not: with the reference for that one they show what they are.
    with tempfile.TemporaryDirectory(prefix="onepiece-") as directory:
        for name, source in standing.replace.items():
            (Path(directory) / name).write_text(source, encoding="utf-8", newline="\n")
        helped = {outcome["exercise"]: outcome for outcome in _outcomes(console, lab, environment, [Path(directory), mine, lab.directory])}
    for index, outcome in enumerate(outcomes):
        number = outcome["exercise"]
        if number in blocked and number in helped:
            status = "needs" if helped[number]["status"] == "passed" else helped[number]["status"]
            outcomes[index] = helped[number] | {"status": status, "needs": blocked[number]}
    return outcomes


def _needs(outcome: dict[str, Any], standing: exercises.Standing) -> int | None:
    """The open exercise at which one that is written stopped."""
    number, stopped_at = outcome["exercise"], exercises.open_exercise(outcome["error"] or "")
    return stopped_at if outcome["status"] == "open" and number in standing.mine and stopped_at != number else None


def _outcomes(console: Console, lab: Lab, environment: Environment, code: list[Path]) -> list[dict[str, Any]]:
    # Every exercise is announced before the first is checked; the last word on each counts.
    said: dict[Any, dict[str, Any]] = {}
    waiting: list[Any] = []

    def hear(line: str) -> None:
        try:
            outcome = json.loads(line)
        except ValueError:  # code that found where outcomes go: no outcome, and nobody's loss but its own
            return
        number = outcome.get("exercise")
        if number in said:
            waiting.remove(number)
        else:
            waiting.append(number)
        said[number] = outcome

    program = ["onepiece.checks", str(lab.directory), *map(str, code)]
    try:
        exit_code = run_module(environment, program, checks.variables(lab.directory), hear)
    except KeyboardInterrupt:
        if waiting:
            console.print(tr(f"Stopped while exercise {waiting[0]} was being checked.", f"在檢查練習 {waiting[0]} 時中斷。"))
        raise
    outcomes = list(said.values())
    if not outcomes:  # a module ended the process while it was imported
        reason = tr(f"your modules ended Python: {how_it_ended(exit_code)}", f"你的模組讓 Python 結束了：{how_it_ended(exit_code)}")
        outcomes = [{"import_error": reason, "traceback": ""}]
    errors = " ".join(str(outcome.get("import_error") or outcome.get("error")) for outcome in outcomes)
    if ("import_error" in outcomes[0] or any(name in errors for name in MAYBE_DAMAGED)) and (wrong := checks.broken(environment, lab)):
        raise wrong
    if "import_error" in outcomes[0]:
        return [_import_failure(outcomes[0])]
    return outcomes


def _nothing_imported(outcomes: list[dict[str, Any]]) -> bool:
    return [outcome["exercise"] for outcome in outcomes] == [0]


def _import_failure(outcome: dict[str, Any]) -> dict[str, Any]:
    return {
        "exercise": 0,
        "title": tr("your modules can be imported", "你的模組可以匯入"),
        "minutes": 0,
        "level": "core",
        "status": "error",
        "hint": tr("Python says where it stopped reading.", "Python 會指出它讀到哪裡停下來。"),
        "what": None,
        "got": None,
        "want": None,
        "mistake": None,
        "error": outcome["import_error"],
        "traceback": outcome["traceback"],
    }


def _show(console: Console, lab: Lab, outcomes: list[dict[str, Any]], hint: bool) -> None:
    table = Table(title=f"{lab.id}", title_justify="left")
    table.add_column("", width=2)
    table.add_column(tr("exercise", "練習"))
    table.add_column(tr("level", "程度"))
    table.add_column(tr("minutes", "分鐘"), justify="right")
    table.add_column("")
    levels = {"core": tr("core", "核心"), "stretch": tr("stretch", "進階")}
    words = {
        "passed": ("[green]✓[/]", f"[green]{tr('passed', '通過')}[/]"),
        "open": ("[yellow]○[/]", f"[yellow]{tr('open', '尚未作答')}[/]"),
        "needs": ("[yellow]◐[/]", f"[yellow]{tr('right so far', '目前正確')}[/]"),
        "failed": ("[red]✗[/]", f"[red]{tr('not right yet', '還不對')}[/]"),
        "error": ("[red]✗[/]", f"[red]{tr('raises', '發生例外')}[/]"),
    }
    for outcome in outcomes:
        mark, word = words[outcome["status"]]
        table.add_row(mark, f"{outcome['exercise']}. {escape(outcome['title'])}", levels[outcome["level"]], str(outcome["minutes"]), word)
    console.print(table)
    for outcome in outcomes:
        if outcome["status"] in ("failed", "error"):
            _explain(console, outcome)
        if outcome["status"] == "needs":
            number, needs = outcome["exercise"], outcome["needs"]
            console.print(tr(f"{number} is right so far; it needs {needs}.", f"練習 {number} 目前正確；它還需要練習 {needs}。"))
        if hint and outcome["status"] not in ("passed", "needs"):
            console.print(f"[bold]{tr('hint', '提示')} {outcome['exercise']}[/]  {escape(outcome['hint'])}")
    passed = sum(outcome["status"] == "passed" for outcome in outcomes)
    if _nothing_imported(outcomes):
        console.print(tr("No exercise can be checked before this is mended.", "修好之前，所有練習都無法檢查。"))
    else:
        console.print(tr(f"{passed} of {len(outcomes)} exercises passed.", f"{len(outcomes)} 題中通過 {passed} 題。"))
    still_open = [outcome for outcome in outcomes if outcome["status"] not in ("passed", "needs")]
    if still_open and not hint and still_open[0]["exercise"]:
        # What was tried comes before what was not.
        number = min(still_open, key=lambda outcome: (outcome["status"] == "open", outcome["exercise"]))["exercise"]
        base = f"nox -s check -- {lab.id}"
        console.print(f"[dim]{base} --exercise {number} --hint      {base} --solution {number}[/]", soft_wrap=True)


def _light_up(console: Console, lab: Lab, outcomes: list[dict[str, Any]], new: set[int]) -> None:
    """The one command that shows a solved exercise in a figure or a gate: one that passed only now, or else the last one."""
    passed, right = (
        {outcome["exercise"] for outcome in outcomes if outcome["status"] in kinds} for kinds in (("passed",), ("passed", "needs"))
    )
    if not right:
        return
    run, number = f"nox -s {lab.id} -- --mine", max(new & passed or passed or right)
    notebook = None if len(passed) == len(outcomes) > 1 else exercises.first_notebook(lab, number)
    if notebook is None:
        console.print(tr(f"See your code in the whole lab: [bold]{run}[/]", f"看你的程式碼跑完整個實驗：[bold]{run}[/]"), soft_wrap=True)
        return
    gates = exercises.gates_of(lab, notebook)
    console.print(
        tr(
            f"See your exercise {number} at work ({gates} gates): [bold]{run} --notebook {notebook[:2]}[/]",
            f"看你的練習 {number} 實際運作（{gates} 道關卡）：[bold]{run} --notebook {notebook[:2]}[/]",
        ),
        soft_wrap=True,
    )


def _explain(console: Console, outcome: dict[str, Any]) -> None:
    console.print(f"\n[bold red]{outcome['exercise']}. {escape(outcome['title'])}[/]")
    if outcome["status"] == "error":
        console.print(f"   {escape(outcome['error'])}")
        console.print(f"[dim]{escape(outcome.get('traceback') or '')}[/]")
        return
    console.print(f"   {tr('comparing', '比較')}  {escape(outcome['what'])}")
    for name, value in ((tr("your value", "你的值"), outcome["got"]), (tr("expected", "正確值"), outcome["want"])):
        console.print(f"   {name}  {escape(value)}")
    if outcome["mistake"]:
        console.print(f"   [bold]{tr('likely', '可能的原因')}[/]  {escape(outcome['mistake'])}")


def _show_solution(console: Console, lab: Lab, number: int) -> int:
    """Every function that the exercise asks for, whole: what it is for, its name, and the reference."""
    parts = exercises.parts(lab)
    wanted = [part for part in parts if part.exercise == number]
    if not wanted:
        known = sorted({part.exercise for part in parts})
        raise UserError("unknown-exercise", lab=lab.id, exercise=number, choices=", ".join(map(str, known)))
    title, hint = exercises.told(lab).get(number, (None, None))
    if title is not None:
        console.print(f"[bold]{number}. {escape(str(title))}[/]")
    for part in wanted:
        console.print(f"\n[bold]{part.function}[/]  [dim]{part.file}[/]")
        console.print(Syntax(textwrap.dedent(f"{part.remark}\n{part.source}".lstrip("\n")), "python", word_wrap=True))
    if hint is not None:
        console.print(f"\n[bold]{tr('hint', '提示')}[/]  {escape(str(hint))}")
    return 0
