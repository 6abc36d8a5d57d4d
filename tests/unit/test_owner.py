"""A program ends with the process that owns it, whichever signal ended that, and what it starts is owned by it alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import toy_course
from parts import linux_only

pytestmark = linux_only

# As nox and the host: the owner starts the owned one in the background of a wait, and is ended from outside.
OWNER = """
import os, subprocess, sys
owned = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"ONEPIECE_OWNER": str(os.getpid())})
owned.wait()
"""
OWNED = """
import os, sys, time
from onepiece.course.owner import end_with_owner
from onepiece.host.interrupts import interruptible
try:
    with interruptible():
        print(end_with_owner(), "ONEPIECE_OWNER" in os.environ, flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start(*command: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *command], env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")} | environ,
        stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=toy_course.hear_signals,
    )  # fmt: skip


@pytest.mark.fault("killed-owner")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_it_is_interrupted_within_seconds(how: signal.Signals) -> None:
    owner = start(OWNER, OWNED)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "True False\n", "what it starts has another owner"
    began = time.monotonic()
    owner.send_signal(how)
    assert owner.stdout.read() == "interrupted\n"
    assert time.monotonic() - began < 10
    owner.wait()


def test_without_an_owner_nothing_is_watched() -> None:
    owned = start(OWNED.replace("60", "0"), ONEPIECE_OWNER="")
    assert owned.communicate(timeout=20)[0] == "False False\n"


@pytest.mark.fault("killed-owner")
def test_an_owner_that_is_gone_before_anybody_looked_is_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owned = start(OWNED, ONEPIECE_OWNER=str(gone.pid))
    assert owned.communicate(timeout=20)[0].endswith("interrupted\n")
