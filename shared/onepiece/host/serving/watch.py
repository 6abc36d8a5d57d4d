"""What is watched of servers that run: whether they do their work, how much memory they take, how often they were started again."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.host.serving import probe

PAUSE = 5.0
"""Seconds between two probes of a server."""
LOG_BYTES, LOGS = 10_000_000, 3
"""As compose has it: a log is cut at so many bytes, and there are so many of it."""


@dataclass
class Health:
    """Probes of one server, one after the other, each in a thread of its own: a server that hangs holds nobody up."""

    ask: Callable[[], str]
    """What is wrong; empty if nothing is."""
    failed: list[str] = field(default_factory=list)
    """What was wrong, of the last failures in a row."""
    _thread: threading.Thread | None = None
    _next: float = 0.0

    def wrong(self) -> str:
        """Look, at once; what is wrong once it was wrong `probe.FAILURES` times in a row, before that an empty string."""
        if self._thread is None and time.monotonic() >= self._next:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        elif self._thread is not None and not self._thread.is_alive():
            self._thread, self._next = None, time.monotonic() + PAUSE
        return self.failed[-1] if len(self.failed) >= probe.FAILURES else ""

    def _run(self) -> None:
        said = self.ask()
        self.failed = [*self.failed, said] if said else []


@dataclass
class Restarts:
    """Of each server its own, within a time: one that ends now and then is always started again."""

    seconds: float
    moments: dict[str, list[float]] = field(default_factory=dict)

    def count(self, name: str, now: float) -> int:
        """Note one more of a server; how many of it there were within the time."""
        self.moments[name] = [*(moment for moment in self.moments.get(name, []) if now - moment < self.seconds), now]
        return len(self.moments[name])


def family(root: int) -> set[int]:
    """A process that runs, and everything that it started and that runs."""
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        for path in Path(f"/proc/{pid}/task").glob("*/children"):  # of each thread its own
            with contextlib.suppress(OSError):
                waiting += [int(child) for child in path.read_text(encoding="utf-8").split()]
                found.add(pid)
    return found


def memory(root: int) -> dict[int, int]:
    """Process -> bytes of memory that are no file's, of a process and everything that it started."""
    taken: dict[int, int] = {}
    for pid in family(root):
        with contextlib.suppress(OSError):  # it has just ended
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
            taken[pid] = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return taken


def rotate(logs: list[Path]) -> None:
    """Cut logs that have grown too long, and keep the last of what was cut: LOG.1 is the newest.

    Whoever writes them keeps them open for appending: they are copied and emptied. A line written between the two is lost.
    """
    for log in logs:
        if log.stat().st_size < LOG_BYTES:
            continue
        for number in range(LOGS - 1, 1, -1):
            older = log.with_name(f"{log.name}.{number - 1}")
            if older.exists():
                older.replace(log.with_name(f"{log.name}.{number}"))
        shutil.copy2(log, log.with_name(f"{log.name}.1"))
        with log.open("r+b") as stream:
            stream.truncate(0)
