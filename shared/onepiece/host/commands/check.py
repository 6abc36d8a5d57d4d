"""`nox -s check -- lab-X`: is my code right, and if not, why not."""

from __future__ import annotations

import json
import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.json_objects import read_object
from onepiece.course.places import WORKSPACE
from onepiece.course.text import LANGUAGES, tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.progress.record import record_checks
from onepiece.host.road import checks, sources
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
    _speak_as_the_copy(options.lab, options.lang)
    lab = one_lab(options.lab, "check")
    if options.solution is not None:
        return _show_solution(console, lab, options.solution)
    if not (lab.directory / "checks.py").exists():
        console.print(tr(f"{lab.id} has no exercises.", f"{lab.id} 沒有練習。"))
        return 0
    outcomes = check(console, lab, reference=options.reference, fresh=options.fresh)
    record_checks(console, lab.id, outcomes, own=not options.reference)
    if options.exercise is not None and not _nothing_imported(outcomes):
        choices = ", ".join(str(outcome["exercise"]) for outcome in outcomes)
        outcomes = [outcome for outcome in outcomes if outcome["exercise"] == options.exercise]
        if not outcomes:
            raise UserError("unknown-exercise", lab=lab.id, exercise=options.exercise, choices=choices)
    _show(console, lab, outcomes, options.hint)
    return 0 if all(outcome["status"] == "passed" for outcome in outcomes) else 1


def check(console: Console, lab: Lab, *, reference: bool, fresh: bool = False) -> list[dict[str, Any]]:
    """The outcome of every exercise, from the lab's environment."""
    code = [lab.directory]
    if not reference:
        mine = WORKSPACE / lab.id
        sources.require_copy(lab, mine)
        code.insert(0, mine)
    environment = checks.prepare(console, lab, fresh=fresh)
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


def _speak_as_the_copy(given: list[str], language: str | None) -> None:
    """Without --lang, the language that the learner's copy was made in."""
    context = WORKSPACE / (given[0] if given else "") / ".run" / "context.json"
    if language is None and read_object(context).get("language") in LANGUAGES:
        os.environ["ONEPIECE_LANG"] = read_object(context)["language"]


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
        if hint and outcome["status"] != "passed":
            console.print(f"[bold]{tr('hint', '提示')} {outcome['exercise']}[/]  {escape(outcome['hint'])}")
    passed = sum(outcome["status"] == "passed" for outcome in outcomes)
    if _nothing_imported(outcomes):
        console.print(tr("No exercise can be checked before this is mended.", "修好之前，所有練習都無法檢查。"))
    else:
        console.print(tr(f"{passed} of {len(outcomes)} exercises passed.", f"{len(outcomes)} 題中通過 {passed} 題。"))
    still_open = [outcome for outcome in outcomes if outcome["status"] != "passed"]
    if still_open and not hint and still_open[0]["exercise"]:
        number = still_open[0]["exercise"]
        base = f"nox -s check -- {lab.id}"
        console.print(f"[dim]{base} --exercise {number} --hint      {base} --solution {number}[/]", soft_wrap=True)


def _explain(console: Console, outcome: dict[str, Any]) -> None:
    console.print(f"\n[bold red]{outcome['exercise']}. {escape(outcome['title'])}[/]")
    if outcome["status"] == "error":
        console.print(f"   {escape(outcome['error'])}")
        console.print(f"[dim]{escape(outcome.get('traceback') or '')}[/]")
        return
    console.print(f"   {tr('comparing', '比較')}  {escape(outcome['what'])}")
    console.print(f"   {tr('your value', '你的值')}  {escape(outcome['got'])}")
    console.print(f"   {tr('expected', '正確值')}  {escape(outcome['want'])}")
    if outcome["mistake"]:
        console.print(f"   [bold]{tr('likely', '可能的原因')}[/]  {escape(outcome['mistake'])}")


def _show_solution(console: Console, lab: Lab, number: int) -> int:
    known: set[int] = set()
    shown = False
    for path in sources.modules(lab):
        solutions = sources.solutions(path)
        known |= set(solutions)
        if number in solutions:
            console.print(f"[bold]{path.name}[/]")
            console.print(Syntax(solutions[number], "python", word_wrap=True))
            shown = True
    if not shown:
        raise UserError("unknown-exercise", lab=lab.id, exercise=number, choices=", ".join(map(str, sorted(known))))
    return 0
