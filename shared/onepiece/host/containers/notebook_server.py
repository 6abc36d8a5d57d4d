"""JupyterLab in a container of the lab's image: on loopback, with a token, on the learner's copy."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docker.types import Mount

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import current_language
from onepiece.host.containers import container, sandbox
from onepiece.host.containers.engine import connected, holding, remove_abandoned_of
from onepiece.host.interrupts import Aside, ignore_interrupts
from onepiece.host.road import local, runs, sources
from onepiece.host.road.plan import Plan
from onepiece.host.road.preflight import Engine
from onepiece.serving.servers import answers

_READY_SECONDS = 120.0  # for JupyterLab to answer; bytecode is compiled, so that a slow disk decides


def serve(
    lab: Lab, plan: Plan, engine: Engine, image: dict[str, Any], workspace: Path, port: int, browser: bool, say: Callable[[str], None]
) -> int:
    """Run JupyterLab until Ctrl-C, or until it is shut down from its menu.

    Args:
        lab: whose reference modules are importable behind the learner's.
        plan: on what.
        engine: the engine.
        image: from `engine.identify`.
        workspace: the learner's copy, which can be written.
        port: of this machine; the next free one if it is taken.
        browser: open it there.
        say: gets its address.
    """
    options = runs.Options(current_language(), lab.notebooks, mine=True)
    run = runs.Run(lab, plan, options, workspace / ".run", sources.usage(lab), datetime.datetime.now(datetime.UTC), {}, image)
    port, token = free_port(port), secrets.token_hex(24)
    address = f"http://127.0.0.1:{port}/lab?token={token}"
    wanted = settings(run, engine, sandbox.model_cache(), port, token)
    with connected(engine) as client, holding(run.directory / sandbox.LOCK):
        remove_abandoned_of(client)
        with container.started(client, wanted) as (running, connection):
            ready = threading.Thread(target=_when_ready, args=(address, browser, say), daemon=True)
            ready.start()
            try:
                for _, said in Aside(container.frames(connection)):
                    sys.stderr.buffer.write(said)
                    sys.stderr.buffer.flush()
                return int(running.wait()["StatusCode"])
            except KeyboardInterrupt:
                with ignore_interrupts():
                    container.close_input(running, connection)
                    running.wait(timeout=local.GRACE_SECONDS)
                return 130


def settings(run: runs.Run, engine: Engine, cache: Path, port: int, token: str) -> dict[str, Any]:
    """As for a run, but the learner's copy can be written, and one port is open, to this machine alone.

    An engine publishes no port of a container without a network, so that there is one here.
    """
    workspace = run.directory.parent
    found = container.settings(run, engine, cache)
    mounts = [mount for mount in found["mounts"] if Path(mount["Source"]) not in (workspace, run.directory)]
    server = {
        "ServerApp.root_dir": sandbox.place(workspace),
        "ServerApp.ip": "0.0.0.0",  # inside; outside it is loopback
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        # News and extension downloads are of no use to a lab.
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
    }
    command = ["-m", "onepiece.kernel.tethered", "jupyterlab", "--no-browser", *(f"--{name}={value}" for name, value in server.items())]
    return found | {
        "name": f"{found['name']}-jupyter",
        "command": [*command, "--allow-root"],  # who the container runs as was decided outside
        "environment": found["environment"] | {"JUPYTER_TOKEN": token},
        "mounts": [*mounts, Mount(sandbox.place(workspace), str(workspace), type="bind")],
        "working_dir": sandbox.place(workspace),
        "mem_limit": None,  # notebooks stay open side by side, and their sum has no budget
        "memswap_limit": None,
        "network_mode": "bridge",
        "ports": {f"{port}/tcp": ("127.0.0.1", port)},
    }


def free_port(wanted: int) -> int:
    """`wanted`, or the next port of this machine that is free."""
    for port in range(wanted, min(wanted + 50, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise UserError("no-port", port=wanted)


def _when_ready(address: str, browser: bool, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if answers(address.replace("/lab?", "/api/status?"), timeout=5):
            break
        time.sleep(0.2)
    else:
        return
    say(address)
    if browser:
        webbrowser.open(address)
