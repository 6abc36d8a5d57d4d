"""`nox -s serving`: the serving stack without Docker, on Linux x86-64: real vLLM and Triton from their wheels, behind the same nginx.

The model repository, the gateway's configuration, the ports and the variables are those of `compose/serving.yaml`. Who typed the
command owns the servers: they end with it, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course.errors import UserError
from onepiece.course.json_objects import read_object
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.interrupts import ignore_interrupts
from onepiece.host.road import environments
from onepiece.host.serving import gateway, keeping
from onepiece.host.serving.keys import DIRECTORY, api_key, private_directory, write_private
from onepiece.host.serving.stack import NAMES, Settings, starters
from onepiece.serving import servers
from onepiece.serving.servers import Server

_STATE = DIRECTORY / "state.json"
_STOP_SECONDS = 60.0
_STATUS_SECONDS = 10.0  # for one token


def command(console: Console, arguments: list[str]) -> int:
    """Start the stack and stay with it until Ctrl-C; or look at, or end, the one that runs."""
    parser = Parser(prog="nox -s serving --", description=tr("The serving stack without Docker.", "不用 Docker 的服務堆疊。"))
    actions = parser.add_mutually_exclusive_group()
    for name, text in (
        ("--detach", tr("start it, wait until it is ready, and leave it running", "啟動並等到就緒後，讓它在背景執行")),
        ("--status", tr("what runs; exit code 0 if everything answers", "查看執行狀態；全部有回應時結束碼為 0")),
        ("--stop", tr("end what runs", "停止執行中的服務")),
        ("--logs", tr("the end of every log", "每份日誌的結尾")),
        ("--key", tr("print the API key", "印出 API 金鑰")),
        ("--install", tr("install the servers' environments, start nothing", "只安裝伺服器的環境，不啟動")),
    ):
        actions.add_argument(name, action="store_true", help=text)
    add_language(parser)
    options = parser.parse_args(arguments)
    if options.status:
        return _status(console)
    if options.stop:
        return _stop(console)
    if options.logs:
        return _logs(console)
    _refuse_elsewhere()
    if options.key:
        print(api_key())
        return 0
    settings = Settings()
    if not options.install:
        _refuse_early(settings)
    _install(console, options.fresh)
    if options.install:
        return 0
    return _detach(console) if options.detach else _serve(console, settings)


# --- before anything is started -----------------------------------------------------------------


def _refuse_elsewhere() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UserError("serving-elsewhere", platform=f"{platform.system()} {platform.machine()}")


def _refuse_early(settings: Settings) -> None:
    """What would only be found after a minute of starting."""
    state = _state()
    if state:
        raise UserError("serving-runs", url=state["url"])
    settings.path()
    api_key()  # no key that keeps anybody out, no start
    if settings.http == settings.grpc:
        what = tr(
            f"ONEPIECE_HTTP_PORT and ONEPIECE_GRPC_PORT are both {settings.http}; each needs a port of its own.",
            f"ONEPIECE_HTTP_PORT 和 ONEPIECE_GRPC_PORT 都是 {settings.http}；兩者必須使用不同的連接埠。",
        )
        raise UserError("usage", what=what, session="serving")
    for port, name in ((settings.http, "HTTP"), (settings.grpc, "gRPC")):
        if not servers.is_free(port):
            raise UserError("port-taken", port=port, name=name)


def _install(console: Console, fresh: bool) -> None:
    for name in ("triton-cpu", "vllm-cpu"):
        environments.ensure(name, fresh=fresh, session="serving -- --install", note=lambda line: console.print(escape(line)))


# --- while it runs ------------------------------------------------------------------------------


def _serve(console: Console, settings: Settings) -> int:
    os.umask(0o077)  # what servers write is for this user, whatever the shell says
    running: dict[str, Server] = {}
    wanted = starters(settings)
    for old in (path for name in NAMES for path in DIRECTORY.glob(f"{name}-*.log*")):  # ports, and so their names, change
        old.unlink()
    with _cleaned_up(running):
        _write_state(settings, ready=False)
        for name, begin in wanted.items():
            running[name] = keeping.started(console, name, begin, keeping.asks(name, settings.http, settings.model))
        _refuse_open(settings, running)
        _write_state(settings, ready=True)
        _say_how(console, settings, running)
        keeping.keep_running(console, settings, running, wanted)
    return 0


@contextlib.contextmanager
def _cleaned_up(running: dict[str, Server]) -> Iterator[None]:
    try:
        yield
    finally:
        with ignore_interrupts():
            if "gateway" in running:
                gateway.drain()
            behind = [server for name, server in running.items() if name != "gateway"]
            for server in behind:  # all are told first, so that they end side by side
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.pid, signal.SIGTERM)
            for server in [*behind, *running.values()]:  # the gateway last: until then it says that they are away
                server.stop()
            for path in (_STATE, *(DIRECTORY / f"{name}.json" for name in NAMES)):
                path.unlink(missing_ok=True)


def _refuse_open(settings: Settings, running: dict[str, Server]) -> None:
    """What answers clients must ask for the key, whatever options it was given.

    Raises:
        UserError: "serving-open".
    """
    asked = servers.answers(f"{settings.url}/v1/models")
    if asked:
        raise UserError("serving-open", name="gateway" if "gateway" in running else "vllm", url=settings.url)


def _say_how(console: Console, settings: Settings, running: dict[str, Server]) -> None:
    lines = [
        f"OpenAI   {settings.url}/v1   model {settings.model}",
        f"KServe   {settings.url}/v2   gRPC 127.0.0.1:{settings.grpc}   model tiny",
        tr("key      nox -s serving -- --key", "金鑰     nox -s serving -- --key"),
    ]
    if "gateway" not in running:
        lines[1] = f"KServe   {running['triton'].url}/v2   gRPC 127.0.0.1:{settings.grpc}   model tiny"
        note = tr(
            "No nginx here, so no gateway: vLLM asks for the key itself, Triton asks for none, and nothing is limited. "
            "To have it: sudo apt install nginx-light",
            "這台機器沒有 nginx，因此沒有閘道：vLLM 自行檢查金鑰，Triton 不檢查，也沒有任何限制。安裝方式：sudo apt install nginx-light",
        )
        console.print(f"[yellow]{escape(note)}[/]")
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    console.print(
        tr("To end it: nox -s serving -- --stop, or Ctrl-C where it runs.", "停止：nox -s serving -- --stop，或在執行它的終端機按 Ctrl-C。")
    )


# --- from another terminal ----------------------------------------------------------------------


def _write_state(settings: Settings, *, ready: bool) -> None:
    private_directory()
    state = {"owner": os.getpid(), "url": settings.url, "http": settings.http, "model": settings.model, "ready": ready}
    write_private(_STATE, json.dumps(state))


def _state() -> dict[str, object]:
    """What a stack that runs wrote down; empty if none runs."""
    state = read_object(_STATE)
    try:
        line = Path(f"/proc/{state['owner']}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError, TypeError):  # the last: it is JSON, but not ours
        return {}
    whole = isinstance(state["owner"], int) and isinstance(state.get("url"), str) and isinstance(state.get("ready"), bool)
    return state if whole and b"onepiece.host" in line and b"serving" in line else {}


def _detach(console: Console) -> int:
    private_directory()
    log = DIRECTORY / "serving.log"
    log.unlink(missing_ok=True)
    with log.open("ab") as stream:  # appending, so that it can be cut
        line = [sys.executable, "-m", "onepiece.host", "serving"]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True)
    try:
        with console.status(tr("The stack is starting", "服務堆疊啟動中")):
            while process.poll() is None and not _state().get("ready"):  # it has patience of its own with each server
                time.sleep(0.2)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    console.print(escape(log.read_text(encoding="utf-8").rstrip()), soft_wrap=True)
    return 0 if _state().get("ready") else process.poll() or 1


def _status(console: Console) -> int:
    state = _state()
    if not state:
        console.print(tr("Nothing is running.", "沒有執行中的服務。"))
        return 1
    table = Table()
    for column in (tr("server", "伺服器"), tr("state", "狀態"), tr("address", "位址"), "pid"):
        table.add_column(column)
    good = bool(state["ready"])
    for name in NAMES:
        path = DIRECTORY / f"{name}.json"
        if not path.exists():
            continue
        server = Server.load(path)
        wrong = keeping.asks(name, int(str(state["http"])), str(state["model"]), _STATUS_SECONDS)(server)
        good = good and not wrong
        told = tr("answers", "正常回應") if not wrong else tr(f"does not do its work: {wrong}", f"無法正常運作：{wrong}")
        table.add_row(name, escape(told), server.url, str(server.pid))
    console.print(table)
    return 0 if good else 1


def _stop(console: Console) -> int:
    state = _state()
    if not state:
        console.print(tr("Nothing is running.", "沒有執行中的服務。"))
        return 0
    owner = int(str(state["owner"]))
    os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while _state() and time.monotonic() < deadline:
        time.sleep(0.1)
    if _state():
        console.print(tr(f"Still running after {_STOP_SECONDS:.0f} s: kill {owner}", f"{_STOP_SECONDS:.0f} 秒後仍在執行：kill {owner}"))
        return 1
    console.print(tr("Stopped.", "已停止。"))
    return 0


def _logs(console: Console) -> int:
    for log in sorted([*DIRECTORY.glob("*.log"), *DIRECTORY.glob("nginx/*.log")]):
        console.rule(escape(str(log.relative_to(DIRECTORY))))
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        console.print(escape("\n".join(lines)), soft_wrap=True)
    return 0
