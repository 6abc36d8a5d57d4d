"""`onepiece.kernel.warm_checks` in a container of the lab's image: for code that somebody handed in."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from docker.errors import DockerException

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import current_language
from onepiece.host.containers import sandbox
from onepiece.host.containers.container import kill, output_lines, started, state_of, told
from onepiece.host.containers.engine import connected, holding, remove_abandoned_of
from onepiece.host.interrupts import Aside
from onepiece.host.road.local import last_words
from onepiece.host.road.preflight import Engine


class WarmContainer:
    """The warm process, in a container that sees one directory of code and nothing else of anybody's."""

    def __init__(self, lab: Lab, engine: Engine, image: str, directory: Path) -> None:
        """Start it.

        Args:
            lab: whose checks will be asked for.
            engine: where.
            image: its identifier; it is here.
            directory: of the code and the checks, below `RUNS`; the lock and the log come beside it.

        Raises:
            UserError: what the engine cannot or will not do.
        """
        self._lab, self._log = lab, directory.parent / "warm_checks.log"
        wanted = sandbox.of_checks(lab, image, directory, current_language(), os.environ)
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(self._log.open("wb"))
            client = stack.enter_context(connected(engine))
            stack.enter_context(holding(directory.parent / sandbox.LOCK))
            remove_abandoned_of(client)
            self._container, self._connection = stack.enter_context(started(client, told(wanted, engine)))
            self._stack = stack.pop_all()
        self.lines: Iterator[bytes] = iter(Aside(output_lines(self._connection, errors)))

    def place(self, path: Path) -> str:
        """Where the container finds it."""
        return sandbox.place(path)

    def ask(self, line: bytes) -> None:
        """Write to its standard input."""
        self._connection.sendall(line)

    def kill(self) -> None:
        """End it now."""
        kill(self._container, self._connection)

    def close(self) -> None:
        """Remove it, with whatever still runs in it."""
        self._stack.close()

    def ended(self) -> UserError:
        """Why it ended."""
        with contextlib.suppress(DockerException, OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        state = state_of(self._container)
        if not state:
            return UserError("engine-gone")
        reason = last_words(self._log, state.get("Error") or f"it ended with {state.get('ExitCode')}")
        return UserError("container-failed", reason=reason, lab=self._lab.id)
