"""The local backend: `onepiece.execute` in a virtual environment of this machine."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from onepiece.errors import UserError
from onepiece.host.environments import Environment
from onepiece.host.runs import Run, kernel_environment

_GRACE_SECONDS = 8.0  # for the runner to stop its kernel and save what it has; then it is killed


def execute(run: Run, environment: Environment, session: str, hear: Callable[[dict[str, Any]], None]) -> bool:
    """Run the notebooks of a prepared run; `hear` gets every event.

    Returns:
        False if it was interrupted (Ctrl-C, SIGTERM, a closed terminal); nothing is left running then.

    Raises:
        UserError: "broken-environment", if the runner itself could not work.
    """
    context = json.loads((run.directory / "context.json").read_text(encoding="utf-8"))
    command = [str(environment.python), "-m", "onepiece.execute", str(run.directory), *run.options.notebooks]
    if run.options.keep_going:
        command.append("--keep-going")
    offline = not run.lab.network and run.plan.profile == "cpu"
    variables = kernel_environment(run.directory, context["code"], run.options.language, offline=offline)
    log = run.directory / "execute.log"
    with log.open("wb") as stream, interruptible():
        try:
            process = _spawn(command, variables, stream)
        except OSError as error:
            raise UserError("broken-environment", name=environment.name, reason=error.strerror or error, session=session) from None
        ended = False

        def hear_to_the_end(event: dict[str, Any]) -> None:
            nonlocal ended
            ended = ended or event["event"] == "end"
            hear(event)

        finished = _listen(process, hear_to_the_end)
    if finished and not ended:
        raise _crash(log, process.returncode, environment, session)
    return finished


def _crash(log: Path, code: int, environment: Environment, session: str) -> Exception:
    """Why a runner ended without saying so itself."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"the runner ended with {code}"
    # On a full disk the log may have had no room for the reason.
    if f"[Errno {errno.ENOSPC}]" in reason or shutil.disk_usage(log.parent).free < 2**20:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.parent))
    return UserError("broken-environment", name=environment.name, reason=reason, session=session)


def _spawn(command: list[str], variables: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches us alone, and we end the runner in order.
    flags: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, **flags)


def _listen(process: subprocess.Popen[bytes], hear: Callable[[dict[str, Any]], None]) -> bool:
    assert process.stdin is not None and process.stdout is not None
    finished = True
    try:
        _relay(process.stdout, hear)
        process.wait()
    except KeyboardInterrupt:
        finished = False
        with ignore_interrupts():
            process.stdin.close()  # the runner takes this as: stop, save, end
            killer = threading.Timer(_GRACE_SECONDS, _kill, [process])
            killer.start()
            _relay(process.stdout, hear)
            process.wait()
            killer.cancel()
    finally:
        if process.poll() is None:
            _kill(process)
            process.wait()
    return finished


def _relay(stream: IO[bytes], hear: Callable[[dict[str, Any]], None]) -> None:
    for line in stream:
        hear(json.loads(line))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the runner the hard way; its kernels end by themselves when their parent is gone."""
    process.kill()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop us the way Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in _stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """While cleaning up, an impatient second Ctrl-C must not leave half of it undone."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def run_python(environment: Environment, arguments: list[str], variables: dict[str, str], hear: Callable[[str], None]) -> int:
    """Run a short program of the lab floor; `hear` gets every line it writes. Its log goes to our standard error."""
    command = [str(environment.python), *arguments]
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        for line in process.stdout or ():
            hear(line)
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def kept_file(path: Path) -> str:
    """A path as the learner can type it: relative to where they are, if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
