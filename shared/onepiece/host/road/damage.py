"""Is an environment damaged, as an error makes one think? It is looked at before anybody says so. Standard library only.

A program of the lab floor that ends by itself may have been killed, or ended by a learner's code: to rebuild gigabytes mends neither.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from onepiece.course import intact
from onepiece.course.errors import UserError
from onepiece.course.places import IMAGES
from onepiece.host.road import environments
from onepiece.host.road.environments import Environment

_PROBE = Path(intact.__file__)
_PROBE_SECONDS = 180.0
_LAB_FLOOR = ("torch", "onepiece.kernel.execute", "onepiece.checks")
_IMPORTS = {"host": ("docker", "filelock", "jinja2", "rich.console", "virtualenv"), "vllm-cpu": ("vllm",), "triton-cpu": ("torch",)}
"""What must be importable for an environment to be of use: of the lab floor unless it is named here."""


def this(name: str) -> Environment:
    """The environment that this program runs in, which was made from the lock of that name."""
    return Environment(name, Path(sys.prefix), environments.lock_hash(name))


def damage(environment: Environment) -> str | None:
    """What is wrong with an environment: a package or a file that is gone, or an import that fails. None if it is whole.

    Nobody may call an environment damaged, and have it rebuilt, who did not ask this: it takes some seconds.
    """
    locks = [IMAGES / environment.name / file for file in environments.stamp_of(environment.directory) if file.endswith(".txt")]
    locks = [str(lock) for lock in locks if lock.is_file()] if environment.lock_sha256 else []
    command = [str(environment.python), "-I", str(_PROBE), *locks, "--import", *_IMPORTS.get(environment.name, _LAB_FLOOR)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=_PROBE_SECONDS)
    except OSError as error:
        return f"{environment.python}: {error.strerror or error}"
    except subprocess.TimeoutExpired:  # a busy machine; that says nothing about the environment
        return None
    if done.returncode == 0:
        return None
    lines = [*done.stdout.splitlines(), *reversed(done.stderr.splitlines())]
    return next((line for line in lines if line.strip()), f"its Python ended with {done.returncode}")


def broken(environment: Environment, session: str) -> UserError | None:
    """The error that an environment is damaged, where it is; `session` is what the user typed after `nox -s`."""
    found = damage(environment)
    if found is None:
        return None
    if environment.lock_sha256 is None:  # not ours to rebuild
        return UserError("not-an-environment", path=environment.directory, reason=found, session=session)
    return UserError("broken-environment", name=environment.name, reason=found, rebuild=rebuilding(session))


def rebuilding(session: str) -> str:
    """The command that the user typed, so that it makes its environment anew: `nox -s check -- lab-1.5-flashattention --fresh`"""
    return f"nox -s {session} --fresh" if " -- " in session else f"nox -s {session} -- --fresh"
