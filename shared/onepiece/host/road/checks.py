"""A lab's checks, as the host runs them: in the lab's environment, once or many times in one warm process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import current_language
from onepiece.host.interrupts import Aside, ignore_interrupts
from onepiece.host.road import damage, runs
from onepiece.host.road.environments import Environment
from onepiece.host.road.local import ended, how_it_ended, last_words, spawn
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import plan_for, prepare_environment

_END_SECONDS = 5.0  # for the warm process to end what it is at
_MARGIN_SECONDS = 15.0  # for the warm process to keep to a limit itself; code that stops it must not stop us


def broken(environment: Environment, lab: Lab) -> UserError | None:
    """The error that the environment of checks is damaged, where it is."""
    return damage.broken(environment, _session(lab))


def _session(lab: Lab) -> str:
    """What needs no more than an environment for checks, whoever asks, so that `--fresh` behind it rebuilds that one."""
    return f"check -- {lab.id} --reference"


def prepare(console: Console, lab: Lab, *, fresh: bool = False) -> Environment:
    """The environment that the checks of a lab run in: they are small, and need neither a GPU nor a server, whatever this machine has."""
    plan = plan_for(dataclasses.replace(lab, server=None), Request("cpu", "cpu", "local"))
    return prepare_environment(console, plan, fresh, _session(lab))


def variables(directory: Path) -> dict[str, str]:
    """Environment variables of checks; `directory` is what they may take for their run."""
    return runs.kernel_environment(directory, [], current_language(), offline=True) | {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """How the checks of a lab ended on some code."""

    outcomes: tuple[dict[str, Any], ...] = ()  # as `onepiece.checks` says them; empty if the process did not live to say one
    timed_out: bool = False
    exit_code: int | None = None  # of the process that checked; below 0: the signal that ended it
    strange: int = 0  # lines in the place of outcomes that are none

    @property
    def passed(self) -> bool:
        """Every exercise is."""
        return bool(self.outcomes) and all(outcome.get("status") == "passed" for outcome in self.outcomes)

    @property
    def statuses(self) -> dict[int, str]:
        """Exercise -> passed, open, failed or error; empty if the code could not be imported."""
        return {outcome["exercise"]: outcome["status"] for outcome in self.outcomes if "exercise" in outcome}


class Warm(Protocol):
    """A running `onepiece.kernel.warm_checks`, wherever it is."""

    lines: Iterator[bytes]  # of its standard output

    def place(self, path: Path) -> str:
        """Where it finds a path of this machine."""

    def ask(self, line: bytes) -> None:
        """Write to its standard input; OSError if it has ended."""

    def kill(self) -> None:
        """End it now; its lines end too."""

    def close(self) -> None:
        """End it, and whatever it is at."""

    def ended(self) -> UserError:
        """Why it ended, which nobody had asked it to."""


class WarmHere:
    """The warm process, in an environment of this machine."""

    def __init__(self, environment: Environment, lab: Lab) -> None:
        """Start it.

        Args:
            environment: has what the labs need that will be asked for.
            lab: the one whose name error messages give.
        """
        self._environment, self._lab = environment, lab
        self._place = tempfile.TemporaryDirectory(prefix="onepiece-")
        self._log = Path(self._place.name) / "warm_checks.log"
        with self._log.open("wb") as log:
            # -P: what stands where the user happens to be must hide no module.
            command = [str(environment.python), "-P", "-m", "onepiece.kernel.warm_checks"]
            self._process = spawn(command, variables(Path(self._place.name)), log)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin = self._process.stdin
        self.lines: Iterator[bytes] = iter(Aside(self._process.stdout))

    def place(self, path: Path) -> str:
        """The same."""
        return str(path)

    def ask(self, line: bytes) -> None:
        """Write to its standard input."""
        self._stdin.write(line)
        self._stdin.flush()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def close(self) -> None:
        """End it, and what it is at."""
        with ignore_interrupts():
            self._process.terminate()
            with contextlib.suppress(OSError):  # what was not taken from us, and has nobody to take it any more
                self._stdin.close()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._place.cleanup()

    def ended(self) -> UserError:
        """Why it ended."""
        code = self._process.wait()
        return ended(self._lab.id, self._environment, _session(self._lab), last_words(self._log, how_it_ended(code)), code)


class WarmChecks:
    """`onepiece.kernel.warm_checks`: a process that has imported what is heavy, and checks one version of a lab's code after the other.

    Use it as a context manager. `versions` are those of the packages there.
    """

    def __init__(self, warm: Warm) -> None:
        """Wait until it is warm; it ends with this.

        Raises:
            UserError: it ended instead.
        """
        self._warm = warm
        try:
            self.versions: dict[str, str] = json.loads(self._hear())["versions"]
        except BaseException:
            self.close()
            raise

    def check(
        self,
        lab: Lab,
        *,
        code: Sequence[Path] = (),
        replace: Mapping[str, str] | None = None,
        stop: bool = False,
        only: Sequence[int] | None = None,
        module: str | None = None,
        names: Sequence[str] = (),
        seconds: float = 60.0,
    ) -> Checked:
        """Check one version of a lab's code.

        Args:
            lab: whose checks.
            code: directories that come before the lab's own.
            replace: file name -> source that stands for it; nothing is written.
            stop: do not go on after the first exercise that is not passed.
            only: the exercises that are looked at; None: all.
            module: check nothing; only see whether this one can be imported.
            names: what it must have then.
            seconds: then it is killed.

        Raises:
            UserError: the process that was to answer has ended, or did not keep to `seconds` itself.
        """
        token = secrets.token_hex(16)
        asked = {
            "lab": self._warm.place(lab.directory),
            "code": [self._warm.place(directory) for directory in [*code, lab.directory]],
            "replace": dict(replace or {}),
            "stop": stop,
            "only": only,
            "seconds": seconds,
            "token": token,
        }
        guard = threading.Timer(seconds + _MARGIN_SECONDS, self._warm.kill)
        guard.start()
        try:
            try:
                self._warm.ask(json.dumps(asked | ({} if module is None else {"module": module, "names": names})).encode() + b"\n")
            except OSError:
                raise self._warm.ended() from None
            answer, strange = self._answer(token)
        finally:
            guard.cancel()
        outcomes = tuple(answer.get("outcomes", ()))
        return Checked(outcomes, answer.get("timeout", False), answer.get("exit_code"), strange + answer.get("strange", 0))

    def close(self) -> None:
        """End it, and what it is at."""
        self._warm.close()

    def __enter__(self) -> WarmChecks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _answer(self, token: str) -> tuple[dict[str, Any], int]:
        """The line with the token, and how many there were before it that pretended to be it."""
        strange = 0
        while True:
            try:
                answer = json.loads(self._hear())
            except ValueError:
                answer = None
            if isinstance(answer, dict) and answer.get("token") == token:
                return answer, strange
            strange += 1

    def _hear(self) -> bytes:
        line = next(self._warm.lines, None)
        if line is None:
            raise self._warm.ended()
        return line
