"""`nox -s progress`: what was done, what to do next; export, import and merge."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, directory_argument
from onepiece.host.progress import files, scores, store, view
from onepiece.host.progress.achievements import achievements
from onepiece.host.progress.events import Event
from onepiece.host.progress.state import Material, State, gather, recommend, state
from onepiece.host.road.local import kept_file


def command(console: Console, arguments: list[str]) -> int:
    """Show progress, or move it between machines; nothing but an import ever changes it."""
    options = _parser().parse_args(arguments)
    if options.import_from is not None:
        return _import(console, directory_argument(options.import_from))
    events = store.read()
    if options.export is not None:
        return _export(console, events, *options.export)
    material = gather(catalog.load())
    found = state(material, events)
    path = material.syllabus.path(options.path) if options.path else None
    order = path.labs if path else tuple(found.labs)
    if path:
        view.show_path(console, path, material, found)
    else:
        view.show_modules(console, found)
        view.show_labs(console, found)
        view.show_scores(console, scores.best(events).values())
    view.show_advice(console, recommend(found, order, material.syllabus.start), found)
    view.show_achievements(console, achievements(found, events))
    for problem in material.problems:
        console.print(f"[yellow]{tr('note', '提醒')}[/] {escape(str(problem.cause))}", soft_wrap=True)
    _where_it_is(console, bool(events))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nox -s progress --",
        description=tr("What you did and what to do next. Kept on this machine only.", "你做了什麼、下一步做什麼。只存在這台機器上。"),
    )
    parser.add_argument("--path", choices=catalog.PATHS, help=tr("follow a learning path", "依照一條學習路徑"))
    moves = parser.add_mutually_exclusive_group()
    moves.add_argument(
        "--export",
        nargs=2,
        metavar=("|".join(files.FORMATS), "FILE"),
        help=tr("write it to a new file; json can be imported again", "寫到新檔案；json 之後可以再匯入"),
    )
    moves.add_argument(
        "--import",
        dest="import_from",
        metavar="FILE",
        help=tr("add what a json export or another progress.sqlite holds", "併入 json 匯出檔或另一個 progress.sqlite 的內容"),
    )
    add_language(parser)
    return parser


def _export(console: Console, events: tuple[Event, ...], kind: str, name: str) -> int:
    if kind not in files.FORMATS:
        raise UserError("usage", what=f"--export {kind}: {' | '.join(files.FORMATS)}", session="progress")
    target = directory_argument(name)
    if kind == "html":
        files.export(target, lambda: _html(events))
    else:
        files.export(target, lambda: files.as_json(events) if kind == "json" else files.as_csv(events))
    where = escape(str(target.resolve()))
    console.print(tr(f"{len(events)} events written to {where}", f"已將 {len(events)} 筆紀錄寫到 {where}"), soft_wrap=True)
    return 0


def _html(events: tuple[Event, ...]) -> str:
    from onepiece.host.progress.page import render

    material: Material = gather(catalog.load())
    found: State = state(material, events)
    return render(found, achievements(found, events), recommend(found, tuple(found.labs), material.syllabus.start))


def _import(console: Console, source: Path) -> int:
    events = files.read_export(source)
    new = store.add(events) if events else 0
    console.print(
        tr(
            f"{len(events)} events read, {new} of them new. Nothing that was here has changed.",
            f"讀到 {len(events)} 筆紀錄，其中 {new} 筆是新的。原有的紀錄都沒有變動。",
        )
    )
    return 0


def _where_it_is(console: Console, any_events: bool) -> None:
    if not any_events:
        console.print(
            tr("Nothing is recorded yet. Run a lab, or take a quiz: nox -s quiz", "還沒有任何紀錄。執行一個實驗，或做一份測驗：nox -s quiz")
        )
        return
    where = escape(kept_file(store.PATH))
    console.print(
        tr(
            f"Kept in {where}, on this machine only. To another machine: nox -s progress -- --export json FILE, and there --import FILE",
            f"存在 {where}，而且只在這台機器上。換機器：nox -s progress -- --export json 檔案，再到另一台 --import 檔案",
        ),
        style="dim",
        soft_wrap=True,
    )
