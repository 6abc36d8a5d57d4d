"""What a run looks like in a terminal: live progress, then the verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text as Line

from onepiece.course.text import current_language, tr
from onepiece.host.road.gates import Judged
from onepiece.host.road.local import kept_file
from onepiece.host.road.runs import Run


@dataclass
class _Row:
    name: str
    state: str = "waiting"
    cells: int = 0
    cell: int = 0
    began: float = 0.0
    seconds: float = 0.0
    metric: str = ""


class RunView:
    """Follows the events of a run; a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, run: Run) -> None:
        self._console = console
        self._run = run
        self._rows = {name: _Row(name) for name in run.options.notebooks}
        self._live = Live(self, console=console, refresh_per_second=8, transient=False) if console.is_terminal else None

    def __enter__(self) -> RunView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event of `onepiece.kernel.execute`."""
        row = self._rows.get(event.get("notebook", ""))
        if row is None:
            return
        kind = event["event"]
        if kind == "notebook_start":
            row.state, row.cells, row.began = "running", event["cells"], time.monotonic()
        elif kind == "cell_start":
            row.cell = event["cell"]
        elif kind == "record" and event["variant"] is None:
            row.metric = f"{event['metric']} = {_number(event['value'])}"
        elif kind == "progress":
            total = f"/{event['total']}" if event["total"] else ""
            metrics = "  ".join(f"{name} {_number(value)}" for name, value in event["metrics"].items())
            row.metric = f"{event['done']}{total}  {metrics}"
        elif kind == "notebook_end":
            row.state, row.seconds = event["status"], event["seconds"]
            if self._live is None:
                self._plain_line(row)

    def _plain_line(self, row: _Row) -> None:
        self._console.print(f"  {_mark(row.state)} {row.name}  {row.seconds:.1f} s  {escape(row.metric)}")

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=True, expand=True, show_header=False)
        table.add_column(width=2)
        table.add_column(no_wrap=True, ratio=3)
        table.add_column(width=20)
        table.add_column(justify="right", width=9)
        table.add_column(justify="right", width=8)
        table.add_column(no_wrap=True, ratio=3, style="cyan")
        for row in self._rows.values():
            seconds = time.monotonic() - row.began if row.state == "running" else row.seconds
            done = row.cells if row.state == "ok" else max(row.cell - 1, 0)
            bar = ProgressBar(total=max(row.cells, 1), completed=done, width=20)
            counted = f"{row.cell}/{row.cells}" if row.cells else ""
            table.add_row(_mark(row.state), row.name, bar, counted, f"{seconds:.0f} s" if row.cells else "", escape(row.metric))
        return table


def _mark(state: str) -> str:
    return {
        "waiting": "[dim]·[/]",
        "running": "[cyan]▶[/]",
        "ok": "[green]✓[/]",
        "failed": "[red]✗[/]",
        "interrupted": "[yellow]■[/]",
    }[state]


def _number(value: object) -> str:
    """A measured value as a table shows it."""
    if isinstance(value, bool):
        return tr("yes", "是") if value else tr("no", "否")
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "—")


def failing_cell(name: str, error: dict[str, Any]) -> Group:
    """The cell that failed, and its error."""
    title = tr(f"{name}, cell {error['cell']}", f"{name}，第 {error['cell']} 格")
    parts: list[Any] = []
    if error["source"]:
        parts.append(Panel(Syntax(error["source"], "python", word_wrap=True), title=title, border_style="red"))
    parts.append(Line(f"{error['name']}: {error['message']}", style="bold red"))
    frames = [line for line in error["traceback"].splitlines() if line.strip()]
    parts.append(Line("\n".join(frames[-12:]), style="dim"))
    return Group(*parts)


def gates_table(judged: Sequence[Judged]) -> Table:
    """Objective, measured, bound, verdict, control; and the null system, where a gate names one."""
    table = Table(title=tr("Gates", "關卡"), title_justify="left", expand=False)
    table.add_column(tr("objective", "目標"), ratio=5)
    table.add_column(tr("measured", "量測值"), justify="right", no_wrap=True)
    table.add_column(tr("bound", "界限"), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column(tr("control (must miss)", "對照組（必須不通過）"), ratio=3)
    with_null = any(item.gate.null for item in judged)
    if with_null:
        table.add_column(tr("null system (must miss)", "null 系統（必須不通過）"), ratio=2)
    for item in judged:
        gate = item.gate
        verdict = {
            True: f"[green]✓ {tr('held', '通過')}[/]",
            False: f"[red]✗ {tr('missed', '未過')}[/]",
            None: f"[dim]– {tr('not judged', '未判定')}[/]",
        }
        contrasts = [_contrast(gate.control, item.control_value, item.control_missed)]
        if with_null:
            contrasts.append(_contrast(gate.null, item.null_value, item.null_missed))
        objective = escape(gate.objective[current_language()])
        if item.reason:
            objective += f" [dim]({escape(item.reason)})[/]"
        table.add_row(objective, _number(item.value), gate.bound, verdict[item.passed], *contrasts)
    return table


def _contrast(variant: str | None, value: float | None, missed: bool | None) -> str:
    if variant is None:
        return ""
    outcome = {True: f"[green]✓ {tr('missed', '未過')}[/]", False: f"[red]✗ {tr('held!', '竟然通過')}[/]", None: "[dim]–[/]"}
    return f"{variant}: {_number(value)} {outcome[missed]}"


def predictions_table(results: dict[str, Any]) -> Table:
    """The learner's guesses beside the measurements."""
    table = Table(title=tr("Your predictions", "你的預測"), title_justify="left")
    for column in (tr("metric", "指標"), tr("you said", "你的猜測"), tr("measured", "量測值")):
        table.add_column(column, justify="right")
    for entry in results["predictions"]:
        table.add_row(entry["metric"], _number(entry["predicted"]), _number(entry["measured"]))
    return table


def next_steps(run: Run) -> list[str]:
    """What to type after a cell failed."""
    errors = [notebook["error"] for notebook in run.notebooks.values() if notebook["error"]]
    steps = []
    if run.options.mine and any(error["name"] == "NotImplementedError" for error in errors):
        command = f"nox -s check -- {run.lab.id}"
        steps.append(tr(f"An exercise is still open. Which one: {command}", f"還有練習尚未作答。看看是哪些：{command}"))
    return steps


def verdict(console: Console, run: Run, judged: Sequence[Judged], results: dict[str, Any]) -> None:
    """Everything that a learner wants to see after a run."""
    for name, notebook in run.notebooks.items():
        if notebook["error"]:
            console.print(failing_cell(name, notebook["error"]))
            path = kept_file(run.directory / "notebooks" / f"{name}.ipynb")
            # Soft wrap, here and below: a path in two pieces cannot be copied.
            console.print(escape(tr(f"The notebook with its outputs so far: {path}", f"筆記本（含目前的輸出）：{path}")), soft_wrap=True)
    reached = [item for item in judged if item.reason != "not run"]
    if reached:
        console.print(gates_table(reached))
    if len(reached) < len(judged):
        missing = len(judged) - len(reached)
        console.print(tr(f"{missing} gates were not reached in this run.", f"這次執行另有 {missing} 道關卡沒跑到。"))
    if results["predictions"]:
        console.print(predictions_table(results))
    budget = results["budget"]
    memory = f" / {budget['memory_gb']:g} GB" if budget["memory_gb"] else ""
    console.print(
        f"{tr('time', '時間')} {results['seconds'] / 60:.1f} / {budget['minutes']:g} min   "
        f"{tr('peak memory', '記憶體峰值')} {results['peak_bytes'] / 2**30:.2f}{memory}   "
        f"{tr('report', '報告')} {escape(kept_file(run.directory / 'report.html'))}",
        soft_wrap=True,
    )
    held = sum(item.passed is True for item in judged)
    words = {
        "passed": ("green", tr("PASSED", "通過")),
        "failed": ("red", tr("FAILED", "未通過")),
        "incomplete": ("yellow", tr("INCOMPLETE", "未完成")),
    }
    color, word = words[results["status"]]
    counted = f"{len(reached)} 道關卡全數通過" if held == len(reached) else f"{len(reached)} 道關卡中有 {held} 道通過"
    console.print(f"[bold {color}]{word}[/]  {run.lab.id}  {tr(f'{held} of {len(reached)} gates held', counted) * bool(reached)}")
    if run.standing is not None:
        console.print(f"{tr('exercises', '練習')}  {run.standing.said}")
    for step in next_steps(run):
        console.print(step, soft_wrap=True)
