"""A lab's checks, as the host runs them: in the lab's environment, once or many times in one warm process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import current_language
from onepiece.host.interrupts import Aside, ignore_interrupts
from onepiece.host.road import runs
from onepiece.host.road.environments import Environment
from onepiece.host.road.local import last_words, spawn
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import plan_for, prepare_environment

_END_SECONDS = 5.0  # for the warm process to end what it is at


def prepare(console: Console, lab: Lab, session: str, *, fresh: bool = False) -> Environment:
    """The environment that the checks of a lab run in: they are small, and need neither a GPU nor a server, whatever this machine has."""
    plan = plan_for(dataclasses.replace(lab, server=None), Request("cpu", "cpu", "local"))
    return prepare_environment(console, plan, fresh, session)


def variables(directory: Path) -> dict[str, str]:
    """Environment variables of checks; `directory` is what they may take for their run."""
    return runs.kernel_environment(directory, [], current_language(), offline=True) | {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """How the checks of a lab ended on some code."""

    outcomes: tuple[dict[str, Any], ...] = ()  # as `onepiece.checks` says them; empty if the process did not live to say one
    timed_out: bool = False

    @property
    def passed(self) -> bool:
        """Every exercise is."""
        return bool(self.outcomes) and all(outcome.get("status") == "passed" for outcome in self.outcomes)

    @property
    def statuses(self) -> dict[int, str]:
        """Exercise -> passed, open, failed or error; empty if the code could not be imported."""
        return {outcome["exercise"]: outcome["status"] for outcome in self.outcomes if "exercise" in outcome}


class WarmChecks:
    """`onepiece.kernel.warm_checks`: a process that has imported what is heavy, and checks one version of a lab's code after the other.

    Use it as a context manager. `versions` are those of the packages there.
    """

    def __init__(self, environment: Environment, session: str) -> None:
        """Start it, and wait until it is warm.

        Args:
            environment: has what the labs need that will be asked for.
            session: what the user typed, for error messages.
        """
        self._environment, self._session = environment, session
        self._place = tempfile.TemporaryDirectory(prefix="onepiece-")
        self._log = Path(self._place.name) / "warm_checks.log"
        with self._log.open("wb") as log:
            command = [str(environment.python), "-m", "onepiece.kernel.warm_checks"]
            self._process = spawn(command, variables(Path(self._place.name)), log)
        assert self._process.stdout is not None
        self._lines = iter(Aside(self._process.stdout))
        try:
            self.versions: dict[str, str] = self._hear()["versions"]
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
        seconds: float = 60.0,
    ) -> Checked:
        """Check one version of a lab's code.

        Args:
            lab: whose checks.
            code: directories that come before the lab's own.
            replace: file name -> source that stands for it; nothing is written.
            stop: do not go on after the first exercise that is not passed.
            seconds: then it is killed.
        """
        asked = {
            "lab": str(lab.directory),
            "code": [str(directory) for directory in [*code, lab.directory]],
            "replace": dict(replace or {}),
            "stop": stop,
            "seconds": seconds,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._hear()
        return Checked(tuple(answer.get("outcomes", ())), answer.get("timeout", False))

    def close(self) -> None:
        """End it, and what it is at."""
        with ignore_interrupts():
            assert self._process.stdin is not None
            self._process.terminate()
            self._process.stdin.close()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._place.cleanup()

    def __enter__(self) -> WarmChecks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _hear(self) -> dict[str, Any]:
        line = next(self._lines, None)
        if line is None:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> UserError:
        reason = last_words(self._log, f"the checks ended with {self._process.wait()} and said nothing")
        return UserError("broken-environment", name=self._environment.name, reason=reason, session=self._session)
