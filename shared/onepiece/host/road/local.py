"""The local backend: `onepiece.kernel.execute` in a virtual environment of this machine."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.interrupts import Aside, ignore_interrupts
from onepiece.host.road.damage import broken
from onepiece.host.road.environments import Environment
from onepiece.host.road.runs import Run, kernel_environment

MAYBE_DAMAGED = frozenset({"ImportError", "ModuleNotFoundError", "OSError"})
"""Errors that a damaged environment may be the cause of; the last one is the loader's, of a library that was cut."""
_CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"})  # what a program does to itself
GRACE_SECONDS = 8.0  # for the runner to stop its kernel and save what it has; then it is killed


def execute(run: Run, environment: Environment, session: str, hear: Callable[[dict[str, Any]], None], seconds: float | None = None) -> bool:
    """Run the notebooks of a prepared run; `hear` gets every event.

    Returns:
        False if it was interrupted (Ctrl-C, SIGTERM, a closed terminal), or not done after `seconds`; nothing is left running then.

    Raises:
        UserError: "runner-ended", if the runner itself came to no end; "broken-environment", if its environment is why.
    """
    # Neither where the user stands nor a learner's files are on the runner's path: it gives those to the kernels alone.
    command = [str(environment.python), "-P", "-m", "onepiece.kernel.execute", str(run.directory), *run.options.notebooks]
    if run.options.keep_going:
        command.append("--keep-going")
    offline = not run.lab.network and run.plan.profile == "cpu"
    variables = kernel_environment(run.directory, [], run.options.language, offline=offline)
    if run.plan.device == "cpu":  # not even Triton, which asks for a GPU by itself, may find one
        variables["CUDA_VISIBLE_DEVICES"] = ""
    log = run.directory / "execute.log"
    with log.open("wb") as stream:
        try:
            process = spawn(command, variables, stream)
        except OSError as error:
            raise ended(run.lab.id, environment, session, error.strerror or str(error)) from None
        assert process.stdin is not None and process.stdout is not None
        try:
            # A closed standard input is what the runner takes as: stop, save, end. If it is killed, its kernels end by themselves.
            with _called_after(seconds, process.stdin.close), _called_after(seconds and seconds + GRACE_SECONDS, process.kill):
                ending = listen(process.stdout, hear, stop=process.stdin.close, wait=process.wait, kill=process.kill)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    late = process.stdin.closed and not ending.whole
    if ending.finished and not ending.whole and not late:
        raise ended(run.lab.id, environment, session, last_words(log, how_it_ended(process.returncode)), process.returncode)
    return ending.finished and not late


@contextlib.contextmanager
def _called_after(seconds: float | None, call: Callable[[], object]) -> Iterator[None]:
    """Call something if what is done here takes longer than that; None: it may take as long as it takes."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, call)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def ended(lab_id: str, environment: Environment, session: str, reason: str, code: int | None = None) -> UserError:
    """The error that a program of the lab floor came to no end of its own: whether its environment is why is found by looking.

    Args:
        lab_id: whose code it ran.
        environment: where.
        session: what the user typed after `nox -s`.
        reason: its last words, or how it ended.
        code: its exit code; a signal from outside says that its environment is not why.
    """
    from_outside = code is not None and code < 0 and signal.Signals(-code).name not in _CRASHES
    found = None if from_outside else broken(environment, session)
    return found or UserError("runner-ended", lab=lab_id, name=environment.name, reason=reason)


def how_it_ended(code: int | None) -> str:
    """An exit code as words: below 0 it is the signal that ended the program."""
    if code is None or code >= 0:
        return tr(f"it ended with {code}", f"結束代碼為 {code}")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    if name == "SIGKILL":
        return tr(f"it was killed ({name}), as the system does when memory runs out", f"它被強制終止（{name}），系統在記憶體不足時會這麼做")
    return tr(f"it was ended by {name}", f"它被 {name} 結束")


def next_steps(run: Run, environment: Environment, session: str) -> list[str]:
    """What to type after a notebook that failed because its environment is damaged, which is said only after a look at it."""
    errors = [notebook["error"] for notebook in run.notebooks.values() if notebook["error"]]
    if not any(error["name"] in MAYBE_DAMAGED or error["cell"] == 0 for error in errors):
        return []
    found = broken(environment, session)
    return [] if found is None else [str(found.cause), str(found.remedy)]


def last_words(log: Path, otherwise: str) -> str:
    """The last line of a runner that ended without saying so itself.

    Raises:
        OSError: the disk is full, which the log itself may have had no room for.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    reason = lines[-1] if lines else otherwise
    if f"[Errno {errno.ENOSPC}]" in reason or shutil.disk_usage(log.parent).free < 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.parent))
    return reason


def spawn(command: list[str], variables: dict[str, str], log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start a program of the lab floor that is spoken to over pipes, in a session of its own: Ctrl-C reaches us alone, and we end it."""
    flags: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, **flags)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a runner's events ended."""

    finished: bool  # not interrupted
    whole: bool  # the runner said itself that this is the end


def listen(
    stream: Iterable[bytes],
    hear: Callable[[dict[str, Any]], None],
    *,
    stop: Callable[[], object],
    wait: Callable[[], object],
    kill: Callable[[], object],
) -> Ending:
    """Hand every event of a runner to `hear`, until there are no more and `wait` says that it has ended.

    On Ctrl-C the runner is asked to `stop` and what it still says is heard; after a grace it is killed.
    """
    lines = Aside(stream)
    try:
        whole = _relay(lines, hear)
        wait()
        return Ending(True, whole)
    except KeyboardInterrupt:
        with ignore_interrupts():
            stop()
            killer = threading.Timer(GRACE_SECONDS, kill)
            killer.start()
            try:
                whole = _relay(lines, hear)
                wait()
                return Ending(False, whole)
            finally:
                killer.cancel()


def _relay(lines: Iterable[bytes], hear: Callable[[dict[str, Any]], None]) -> bool:
    """Returns whether the runner came to its own end."""
    ended = False
    for line in lines:
        if not line.endswith(b"\n"):  # killed while it spoke
            break
        event = json.loads(line)
        hear(event)
        ended = ended or event["event"] == "end"
    return ended


def run_module(environment: Environment, command: list[str], variables: dict[str, str], hear: Callable[[str], None]) -> int:
    """Run a program of the lab floor; `hear` gets every line it writes. Its log goes to our standard error.

    It ends with us, even if we are killed, and Ctrl-C reaches us alone.

    Args:
        environment: whose Python.
        command: a module and its arguments.
        variables: its environment variables, all of them.
        hear: called with each line of its standard output.

    Returns:
        Its exit code. However this function ends, the program has ended too.
    """
    # -P: what stands where the user happens to be must hide no module.
    process = spawn([str(environment.python), "-P", "-m", "onepiece.kernel.tethered", *command], variables, None)
    try:
        for line in Aside(process.stdout or ()):
            if line.endswith(b"\n"):  # or it was killed while it spoke
                hear(line.decode())
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def kept_file(path: Path) -> str:
    """A path as the learner can type it: relative to where they are, if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
