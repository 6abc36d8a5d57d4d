"""`nox -s calibrate -- lab-X`: which settings suit a method and its baseline, searched equally hard, judged on other seeds."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from onepiece.course import catalog
from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.json_numbers import decode_number
from onepiece.course.places import RUNS
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.road import runs, sources
from onepiece.host.road.environments import Environment
from onepiece.host.road.local import kept_file, run_module
from onepiece.host.road.plan import Plan, Request
from onepiece.host.road.prepare import plan_for, prepare_environment


def command(console: Console, arguments: list[str]) -> int:
    """Search the settings of one lab, show what was found; `--publish` keeps it beside the lab."""
    options = _parser().parse_args(arguments)
    lab = one_lab(options.lab, "calibrate")
    if not (lab.directory / sources.CALIBRATION).is_file():
        having = [each.id for each in catalog.load().labs if (each.directory / sources.CALIBRATION).is_file()]
        raise UserError("no-calibration", lab=lab.id, choices=", ".join(having) or tr("none yet", "目前沒有"))
    if options.publish and (options.grid or options.contender or options.seeds or options.quick):
        what = tr(
            "--publish keeps the search as calibration.py says it: not with --grid, --contender, --seeds or --quick",
            "--publish 只保存 calibration.py 寫定的搜尋，不能搭配 --grid、--contender、--seeds 或 --quick",
        )
        raise UserError("usage", what=what, session="calibrate")
    plan: Plan = plan_for(dataclasses.replace(lab, server=None), Request("cpu", "cpu", "local"))
    environment = prepare_environment(console, plan, options.fresh, f"calibrate -- {lab.id}")
    result = _search(console, lab, plan, environment, options)
    _show(console, lab, result)
    if options.publish:
        path = publish(lab, result, environment.lock_sha256)
        console.print(tr(f"Published to {kept_file(path)}", f"已發布到 {kept_file(path)}"), soft_wrap=True)
    return 0


def _search(console: Console, lab: Lab, plan: Plan, environment: Environment, options: argparse.Namespace) -> dict[str, Any]:
    """Run the lab's search in its environment, with a context like that of its notebooks; finished trials are in `runs/calibration/`."""
    directory = RUNS / "calibration" / lab.id
    directory.mkdir(parents=True, exist_ok=True)
    trials = directory / "trials.jsonl"
    if options.fresh_search:
        trials.unlink(missing_ok=True)
    context = runs.context_json(lab, plan, runs.Options(current_language(), lab.notebooks), sources.usage(lab), {}, ())
    runs.write_json(directory / "context.json", context)
    variables = runs.kernel_environment(directory, [lab.directory], current_language(), offline=True)
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    program = ["onepiece.adaptation.calibrate", str(lab.directory), str(trials), *_passed_on(options)]
    with View(console) as view:
        try:
            exit_code = run_module(environment, program, variables, lambda line: view.hear(json.loads(line)))
        except KeyboardInterrupt:
            view.close()
            kept = _kept(trials, view.sources)
            en = f"{kept} finished trials are kept; the same command goes on from there."
            console.print(tr(en, f"已完成的 {kept} 次試驗會保留；再執行同樣的指令就會接著做。"))
            raise
    if view.refused is not None:
        what = view.refused["what"]
        if view.refused["where"] == "options":
            raise UserError("usage", what=what, session="calibrate")
        raise UserError("bad-calibration", where=f"{lab.id}/{sources.CALIBRATION}", what=what)
    if view.result is None:
        raise UserError("calibration-failed", lab=lab.id, reason=exit_code)
    return view.result


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nox -s calibrate --",
        description=tr("Search the settings of a lab's method and of its baseline.", "為實驗的方法與基準方法搜尋設定。"),
    )
    parser.add_argument("lab", nargs="*")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help=tr("other values for a key of the grid", "改用其他的值來搜尋")
    )
    parser.add_argument(
        "--contender",
        action="append",
        default=[],
        metavar="NAME",
        help=tr("only this one, as the table names it", "只搜尋表中這個名稱的方法"),
    )
    parser.add_argument("--seeds", default="", metavar="10,11", help=tr("other search seeds", "改用其他的搜尋種子"))
    parser.add_argument("--quick", action="store_true", help=tr("one seed of each kind, for trying", "搜尋與確認各用一個種子，試跑用"))
    parser.add_argument("--fresh-search", action="store_true", help=tr("forget the finished trials", "捨棄已完成的試驗，重新開始"))
    parser.add_argument(
        "--publish", action="store_true", help=tr("write labs/<lab>/results/calibration.json", "寫入 labs/<lab>/results/calibration.json")
    )
    add_language(parser)
    return parser


def _passed_on(options: argparse.Namespace) -> list[str]:
    """What the lab floor's process reads itself; with `=`, so that a value may begin with a dash."""
    given = [f"--grid={grid}" for grid in options.grid] + [f"--contender={name}" for name in options.contender]
    return [*given, f"--seeds={options.seeds}", *["--quick"] * options.quick]


def publish(lab: Lab, result: Mapping[str, Any], lock_sha256: str | None) -> Path:
    """Keep a whole search beside the lab, as data: a page can say from it how the settings were found."""
    path = lab.directory / "results" / "calibration.json"
    path.parent.mkdir(exist_ok=True)
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {"schema": 1, "lab": lab.id, "command": f"nox -s calibrate -- {lab.id}", "finished": finished, **result}
    runs.write_json(path, content | {"lock_sha256": lock_sha256})
    return path


def _kept(trials: Path, sources: str) -> int:
    """How many trials of these sources the file holds: we may not have heard of the last ones."""
    content = trials.read_bytes() if trials.exists() else b""
    return sum(json.loads(line)["sources"] == sources for line in content.split(b"\n")[:-1])  # the last one may be cut


# --- while it runs ------------------------------------------------------------------------------------------------


class View:
    """Follows the events of a search: a line per trial, and on a terminal how far it is, the best so far, and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        fixed, rest = Column(no_wrap=True), Column(no_wrap=True, ratio=1, overflow="ellipsis")
        counted, left = MofNCompleteColumn(table_column=fixed), TextColumn("{task.fields[left]}", table_column=fixed)
        best = TextColumn("{task.description}", table_column=rest)
        self._progress = Progress(BarColumn(16), counted, left, best, console=console, disable=not console.is_terminal, expand=True)
        self._task: TaskID | None = None
        self._planned: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}  # wall-clock, of the trials that ran now
        self._finished: dict[str, int] = {}
        self._best: dict[str, dict[str, Any]] = {}
        self._heard = time.monotonic()
        self.sources = ""
        self.refused: dict[str, Any] | None = None
        self.result: dict[str, Any] | None = None

    def __enter__(self) -> View:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to others."""
        self._progress.stop()

    @property
    def done(self) -> int:
        """Finished trials, those of earlier calls included."""
        return sum(self._finished.values())

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event of `onepiece.adaptation.calibrate`."""
        kind = event["event"]
        if kind == "plan":
            self._planned, self.sources = event["trials"], event["sources"]
            self._task = self._progress.add_task(escape(event["metric"]), total=sum(self._planned.values()), left="")
            self._heard = time.monotonic()
        elif kind == "trial":
            self._trial(event)
        elif kind == "refused":
            self.refused = event
        elif kind == "result":
            self.result = {key: value for key, value in event.items() if key != "event"}

    def _trial(self, event: dict[str, Any]) -> None:
        label, now = event["contender"], time.monotonic()
        if not event["resumed"]:
            self._seconds.setdefault(label, []).append(now - self._heard)
        self._heard = now
        self._finished[label] = self._finished.get(label, 0) + 1
        score = decode_number(event["score"])
        if label not in self._best or score > decode_number(self._best[label]["score"]):
            self._best[label] = event
        if not event["resumed"]:
            said = f"{label}  {listed(event['settings'])}  {tr('seed', '種子')} {event['seed']}  {score:.4g}  {event['cpu_seconds']:.1f} s"
            self._console.print(escape(f"  {self.done}/{sum(self._planned.values())}  {said}"), soft_wrap=True)
        if self._task is not None:
            best = self._best[label]
            so_far = f"{label}: {tr('best so far', '目前最佳')} {decode_number(best['score']):.4g} ({listed(best['settings'])})"
            self._progress.update(self._task, completed=self.done, description=escape(so_far), left=self._left())

    def _left(self) -> str:
        """Minutes to go: trials of one contender take alike long, those of another may not."""
        everything = [second for seconds in self._seconds.values() for second in seconds]
        if not everything:
            return ""
        seconds = 0.0
        for label, planned in self._planned.items():
            own = self._seconds.get(label) or everything
            seconds += (planned - self._finished.get(label, 0)) * sum(own) / len(own)
        return tr(f"{seconds / 60:.1f} min left", f"還要 {seconds / 60:.1f} 分鐘")


# --- what was found -----------------------------------------------------------------------------------------------


def listed(settings: Mapping[str, Any]) -> str:
    """Settings in one line: `learning_rate 0.004, schedule linear`."""
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items())


def _show(console: Console, lab: Lab, result: Mapping[str, Any]) -> None:
    search, confirmation = (", ".join(map(str, result[key])) for key in ("search_seeds", "confirmation_seeds"))
    table = Table(title=escape(f"{lab.id}: {result['metric']}"), title_justify="left", caption_justify="left")
    table.caption = tr(
        "(now): what lab.toml has; in brackets after a mean: over how many seeds",
        "（現值）：lab.toml 目前的設定；平均值後面的括號：幾個種子",
    )
    table.add_column(tr("contender", "方法"))
    table.add_column(tr("settings", "設定"), min_width=32)
    table.add_column(tr(f"search, seeds {search}", f"搜尋，種子 {search}"), justify="right", max_width=18)
    said_of_both = tr(f"confirmed, seeds {confirmation}, 95% interval", f"確認，種子 {confirmation}，95% 區間")
    table.add_column(said_of_both, justify="right", max_width=24)
    table.add_column(tr("CPU s", "CPU 秒"), justify="right")
    now = lab.profiles["cpu"].settings
    for contender in result["contenders"]:
        for place, candidate in enumerate(contender["candidates"]):
            confirmed = contender["confirmed"][place] if place < len(contender["confirmed"]) else None
            said = {contender["names"][key]: value for key, value in candidate["settings"].items()}
            present = tr(" (now)", "（現值）") if all(now.get(name) == value for name, value in said.items()) else ""
            table.add_row(
                escape(contender["label"]) if place == 0 else "",
                escape(listed(candidate["settings"]) + present),
                f"{decode_number(candidate['mean']):.4g} ({len(candidate['scores'])})",
                "" if confirmed is None else _interval(confirmed),
                f"{candidate['cpu_seconds'] + (confirmed['cpu_seconds'] if confirmed else 0):.0f}",
                style="bold" if place == 0 else "",
                end_section=place == len(contender["candidates"]) - 1,
            )
    console.print(table)
    for contender in result["contenders"]:
        for note in _notes(contender):
            console.print(escape(f"{contender['label']}: {note}"), soft_wrap=True)
    budget = result["budget"]
    spent = f"{budget['cpu_seconds'] / 60:.1f}"
    console.print(tr(f"{budget['trials']} trials, {spent} CPU-minutes.", f"{budget['trials']} 次試驗，{spent} CPU 分鐘。"))
    console.print(tr("The settings that the search found, for lab.toml:", "搜尋找到的設定，可以貼進 lab.toml："))
    console.print(escape(pasted(result, now)), soft_wrap=True)


def _interval(confirmed: Mapping[str, Any]) -> str:
    mean = f"{decode_number(confirmed['mean']):.4g}"
    if confirmed["low"] is None:
        return f"{mean} {tr('(no interval)', '（沒有區間）')}"
    return f"{mean} [{decode_number(confirmed['low']):.4g}, {decode_number(confirmed['high']):.4g}]"


def _notes(contender: Mapping[str, Any]) -> list[str]:
    """What one should know before the settings are taken over."""
    notes = []
    if contender["tied"]:
        notes.append(
            tr(
                f"candidates that scored the same to the end: {contender['tied'] + 1}; the first of the grid was taken.",
                f"到最後平均分數相同的設定有 {contender['tied'] + 1} 組；取搜尋範圍中排在最前面的一組。",
            )
        )
    for key in contender["on_the_edge"]:
        notes.append(
            tr(
                f"{key} is at the edge of its grid; a better one may lie outside: --grid {key}=...",
                f"{key} 落在搜尋範圍的邊緣，外面也許有更好的值：--grid {key}=...",
            )
        )
    winner, *others = (decode_number(each["mean"]) for each in contender["confirmed"])
    if any(other > winner for other in others):
        notes.append(
            tr(
                "the runner-up did better on the confirmation seeds: the search cannot tell the two apart.",
                "第二名在確認種子上反而較好：這次搜尋分不出兩者的高下。",
            )
        )
    return notes


def pasted(result: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The winners as lines of TOML; each says what `lab.toml` has now, if that is something else."""
    lines = ["[cpu.settings]"]
    for contender in result["contenders"]:
        for name, value in contender["settings"].items():
            # What JSON writes of a text, a number or a truth value is TOML too.
            line = f"{name} = {json.dumps(value, ensure_ascii=False)}"
            changed = name in now and now[name] != value
            lines.append(f"{line}  # {tr('now', '目前')} {json.dumps(now[name], ensure_ascii=False)}" if changed else line)
    return "\n".join(lines)
