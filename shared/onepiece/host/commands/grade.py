"""`nox -s grade -- lab-X --submission DIR`: points for what a learner handed in."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.places import RUNS
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, directory_argument, make_console, one_lab
from onepiece.host.grading import submission
from onepiece.host.grading.grade import Grading
from onepiece.host.grading.score import OF, Graded, score
from onepiece.host.grading.submission import Submission
from onepiece.host.road import checks, preflight, runs, shared_modules, sources
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import container_backend, plan_for

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Where:
    """A place that is ready to check foreign code."""

    backend: str  # "local" or "container"
    start: Callable[[], checks.WarmChecks]
    image: dict[str, Any] | None = None  # of the container, as `results.json` holds it
    reason: str = ""  # why there is no container, although one would have been used

    @property
    def isolated(self) -> bool:
        """Is the code kept from this machine and from a network?"""
        return self.backend == "container"


def command(console: Console, arguments: list[str]) -> int:
    """Grade one submission; 0 only if every exercise passed."""
    options = _parser().parse_args(arguments)
    lab = one_lab(options.lab, "grade")
    for problem in sources.verify(lab):
        raise problem
    if not (lab.directory / "checks.py").exists():
        raise UserError("no-exercises", lab=lab.id)
    handed_in = submission.read(lab, options.submission)
    notes = make_console(stderr=True) if options.json else console  # standard output has the one object then, and nothing else
    (RUNS / "grading").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{lab.id}-", dir=RUNS / "grading", ignore_cleanup_errors=True) as place:
        staged = Path(place) / "code"
        submission.stage(lab, handed_in, staged)
        where = _where(notes, lab, staged, options)
        grading = Grading(lab, handed_in, staged, where.start, options.seconds)
        with notes.status(lab.id) as status:
            graded = grading.grade(lambda what: status.update(f"[dim]{escape(what)}[/]"))
    if options.json:
        made = _as_json(lab, options.submission, handed_in, where, graded, grading.versions)
        print(json.dumps(made, ensure_ascii=False, allow_nan=False))
    else:
        _show(console, lab, handed_in, where, graded)
    return 0 if all(item.status == "passed" for item in graded) else 1


def _parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="nox -s grade --",
        description=tr(
            "Judge a learner's copy of a lab: 0 to 100 points, by the minutes of the exercises that pass.",
            "為學習者的實驗副本評分：0 到 100 分，依通過的練習所占的分鐘數計算。",
        ),
    )
    made.add_argument("lab", nargs="*")
    made.add_argument(
        "--submission",
        metavar="DIR",
        type=directory_argument,
        required=True,
        help=tr("the copy, as nox -s start makes it", "副本所在的目錄，也就是 nox -s start 建立的目錄"),
    )
    made.add_argument("--json", action="store_true", help=tr("one JSON object instead of a table", "輸出一個 JSON 物件，而不是表格"))
    made.add_argument(
        "--backend",
        choices=("auto", "local", "container"),
        default="auto",
        help=tr("where the code runs; only a container isolates it", "程式碼在哪裡執行；只有容器能隔離它"),
    )
    made.add_argument(
        "--seconds",
        metavar="S",
        type=_seconds,
        help=tr(
            "limit of each exercise (10 times what the reference takes, at least 30)", "每題的時間上限（預設是參考解的 10 倍，至少 30 秒）"
        ),
    )
    add_language(made)
    return made


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError(tr("more than 0, less than a day", "必須大於 0，且少於一天"))
    return value


def _where(notes: Console, lab: Lab, staged: Path, options: argparse.Namespace) -> Where:
    """A container if there can be one, else this machine, with the reason.

    Raises:
        UserError: a container was asked for and cannot be had; or the environment here cannot.
    """
    reason = ""
    if options.backend != "local":
        try:
            return _in_container(notes, lab, staged, options.fresh)
        except UserError as error:
            if options.backend == "container":
                raise
            reason = str(error.cause)
        notes.print(f"[yellow]{tr('no container', '不用容器')}[/]: {escape(reason)}", soft_wrap=True)
    environment = checks.prepare(notes, lab, fresh=options.fresh)
    return Where("local", lambda: checks.WarmChecks(checks.WarmHere(environment, lab)), reason=reason)


def _in_container(notes: Console, lab: Lab, staged: Path, fresh: bool) -> Where:
    facts = preflight.gather()
    without_server = dataclasses.replace(lab, server=None)  # checks need neither a server nor a GPU
    plan = plan_for(without_server, Request("cpu", "cpu", "container"), facts)
    engine = facts.engine
    assert engine is not None, "or there is no such plan"
    image = container_backend(notes, without_server, plan, engine, fresh).image
    assert image is not None
    from onepiece.host.containers.warm_container import WarmContainer  # docker-py, which is slow to import

    return Where("container", lambda: checks.WarmChecks(WarmContainer(lab, engine, image["id"], staged)), image)


def _as_json(
    lab: Lab, directory: Path, handed_in: Submission, where: Where, graded: Sequence[Graded], versions: dict[str, str]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "lab": lab.id,
        "submission": str(directory),
        "score": score(graded),
        "of": OF,
        "exercises": [item.as_json() for item in graded],
        "not_taken": {name: str(why) for name, why in {**handed_in.missing, **handed_in.ignored}.items()},
        "backend": where.backend,
        "isolated": where.isolated,
        "reason": where.reason or None,
        "image": where.image,
        "versions": versions,
        "sources_sha256": shared_modules.checks_hash(lab),
        "submission_sha256": handed_in.sha256,
        "git": runs.git_state(),
    }


def _show(console: Console, lab: Lab, handed_in: Submission, where: Where, graded: Sequence[Graded]) -> None:
    words = {
        "passed": f"[green]{tr('passed', '通過')}[/]",
        "open": f"[yellow]{tr('open', '尚未作答')}[/]",
        "failed": f"[red]{tr('wrong', '不正確')}[/]",
        "error": f"[red]{tr('raises', '發生例外')}[/]",
        "blocked": f"[bold red]{tr('blocked', '無法判定')}[/]",
    }
    table = Table(title=lab.id, title_justify="left", show_footer=True)
    table.add_column(tr("exercise", "練習"), tr("total", "總分"))
    table.add_column(tr("minutes", "分鐘"), str(sum(item.minutes for item in graded)), justify="right")
    table.add_column("")
    table.add_column(tr("points", "得分"), f"[bold]{score(graded):g}[/] / {OF}", justify="right")
    for item in graded:
        table.add_row(f"{item.exercise}. {escape(item.title)}", str(item.minutes), words[item.status], f"{item.points:g} / {item.of:g}")
    console.print(table)
    for item in graded:
        if item.mistake or (item.error and item.status != "open"):
            console.print(f"{item.exercise}. {escape(item.mistake or item.error or '')}", soft_wrap=True)
    for name, why in handed_in.ignored.items():
        console.print(f"{tr('not taken', '未採用')}  {escape(name)}: {escape(str(why))}", soft_wrap=True)
    if where.isolated:
        console.print(f"[dim]{tr('The code ran in a container, without a network.', '程式碼在容器中執行，沒有網路。')}[/]")
    else:
        console.print(
            tr(
                "[yellow]The code ran on this machine, not isolated[/]: it could do what you can. --backend container isolates it.",
                "[yellow]程式碼直接在這台機器上執行，沒有隔離[/]：你能做的事它都能做。要隔離請用 --backend container。",
            ),
            soft_wrap=True,
        )
