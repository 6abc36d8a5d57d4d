"""What operations do to a server's own process, as it stands: ask it to end and not wait, or make it stand still.

`Server.stop` and `Server.kill` (`onepiece.serving.servers`) end a server and wait until it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from onepiece.serving.servers import Server


def terminate(server: Server) -> None:
    """Ask the server's main process to end (SIGTERM), as `docker stop` and Kubernetes do, and do not wait for it."""
    os.kill(_guarded(server), signal.SIGTERM)


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Let the server stand still while the block runs, as a long garbage collection or a stolen CPU would: SIGSTOP, then SIGCONT."""
    group = _guarded(server)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def _guarded(server: Server) -> int:
    """The process that the server's guard has started, and that leads a group of its own."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="utf-8").split()
    return int(children[0])
