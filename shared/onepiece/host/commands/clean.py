"""`nox -s clean`: remove the containers that killed runs left behind, and with `--images` the course's images."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road import preflight


def command(console: Console, arguments: list[str]) -> int:
    """Remove what is ours and nothing else, and say what it was."""
    parser = Parser(
        prog="nox -s clean --", description=tr("Remove what killed runs left in Docker.", "清除執行被強制結束後，留在 Docker 裡的東西。")
    )
    parser.add_argument("--images", action="store_true", help=tr("also the course's images", "連同本課程的映像檔"))
    add_language(parser)
    options = parser.parse_args(arguments)
    facts = preflight.gather()
    if facts.engine is None:
        raise UserError("no-engine", reason=facts.engine_reason)
    from onepiece.host.containers import engine  # docker-py: not before there is something to ask

    removed, working = engine.remove_abandoned(facts.engine)
    _say(console, tr("containers removed", "已移除的容器"), removed)
    if working:
        _say(console, tr("containers at work, left alone", "執行中、未動的容器"), working)
    if options.images:
        removed, used = engine.remove_images(facts.engine)
        _say(console, tr("images removed", "已移除的映像檔"), removed)
        if used:
            _say(console, tr("images that a container uses, left alone", "容器使用中、未動的映像檔"), used)
    return 0


def _say(console: Console, what: str, names: Sequence[str]) -> None:
    console.print(f"{len(names)} {what}")
    for name in sorted(names):
        console.print(f"  {escape(name)}", soft_wrap=True)
