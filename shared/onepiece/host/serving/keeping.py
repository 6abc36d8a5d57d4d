"""Servers that are started, watched while they run, and started again when they end, hang or take too much memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.serving import probe, watch
from onepiece.host.serving.keys import DIRECTORY, api_key
from onepiece.host.serving.stack import Settings
from onepiece.serving import servers
from onepiece.serving.servers import Server

_RESTARTS, _RESTARTS_SECONDS = 3, 600.0  # of each server so many within so long; one that ends now and then is always started again


def started(console: Console, name: str, begin: Callable[[], Server], ask: Callable[[Server], str]) -> Server:
    """Start a server and wait until it has done some work: Triton is live before its models are loaded.

    Raises:
        UserError: "port-taken", "server-failed"; nothing is left running then.
    """
    began = time.monotonic()
    with console.status(tr(f"{name}: starting", f"{name}：啟動中")):
        server = begin()
        deadline = time.monotonic() + servers.READY_SECONDS  # begin has a patience of its own
        try:
            while wrong := ask(server):
                if not server.alive or time.monotonic() > deadline:
                    why = wrong if server.alive else "it ended"
                    raise UserError("server-failed", name=name, reason=why, log=server.log, tail="\n" + server.tail())
                time.sleep(0.2)
        except BaseException:
            server.stop()
            raise
    server.save(DIRECTORY / f"{name}.json")
    console.print(tr(f"{name}: ready after {time.monotonic() - began:.0f} s", f"{name}：{time.monotonic() - began:.0f} 秒後就緒"))
    return server


def keep_running(console: Console, settings: Settings, running: dict[str, Server], wanted: dict[str, Callable[[], Server]]) -> None:
    """Until Ctrl-C. A server that ended, hangs or takes too much is started again; again and again, and the reason is the error."""
    restarts = watch.Restarts(_RESTARTS_SECONDS)
    questions = {name: asks(name, settings.http, settings.model) for name in running}
    health = {name: watch.Health(functools.partial(questions[name], server)) for name, server in running.items()}
    while True:
        time.sleep(0.5)
        watch.rotate([*DIRECTORY.glob("*.log"), *DIRECTORY.glob("nginx/*.log")])
        for name, server in list(running.items()):
            why = _what_is_wrong(server, settings.memory.get(name), health[name])
            if not why:
                continue
            times = restarts.count(name, time.monotonic())
            if times > _RESTARTS:
                minutes = f"{_RESTARTS_SECONDS / 60:g}"
                tail = "\n" + server.tail()
                raise UserError("server-restarts", name=name, times=times, minutes=minutes, reason=why, log=server.log, tail=tail)
            console.print(escape(tr(f"{name}: {why}; starting it again", f"{name}：{why}；重新啟動")))
            server.kill()
            running[name] = started(console, name, wanted[name], questions[name])
            health[name] = watch.Health(functools.partial(questions[name], running[name]))


def _what_is_wrong(server: Server, most: int | None, health: watch.Health) -> str:
    """Why a server must be started again; empty if it need not. `most` is the memory that it may take, in bytes."""
    if not server.alive:
        return tr("it ended", "已結束")
    taken, gib = sum(watch.memory(server.pid).values()), 2**30
    if most and taken > most:
        return tr(
            f"it took {taken / gib:.1f} GiB of memory, {most / gib:.1f} are allowed",
            f"使用了 {taken / gib:.1f} GiB 記憶體，上限是 {most / gib:.1f} GiB",
        )
    wrong = health.wrong()
    return tr(f"it does not do its work ({wrong})", f"無法正常運作（{wrong}）") if wrong else ""


def asks(name: str, http: int, model: str, timeout: float = probe.SECONDS) -> Callable[[Server], str]:
    """What asks a server for the least of its work, and says what is wrong; `http` is the port that clients know."""

    def ask(server: Server) -> str:
        if name == "gateway":
            return probe.one_token(name, server.url + "/healthz", timeout=timeout)
        key = api_key() if name == "vllm" and server.ports["http"] == http else ""  # there is no gateway to ask for it
        return probe.one_token(name, server.url, model if name == "vllm" else "tiny", key, timeout)

    return ask
