"""A server that was started with our standard input ends with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import toy_course


@pytest.mark.skipif(sys.platform == "win32", reason="it is for containers, which are Linux")
def test_a_tethered_module_runs_with_its_arguments_and_ends_when_standard_input_closes() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "onepiece.kernel.tethered", "http.server", "--bind", "127.0.0.1", "0"],
        env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert "Serving HTTP on 127.0.0.1" in process.stdout.readline()
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=20) != 0
    process.stdout.close()


def test_what_is_tethered_reads_nothing_of_its_tether() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "onepiece.kernel.tethered", "code", "-q"],  # a console, which ends at the end of its input
        env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.wait(timeout=20) == 0
    process.communicate()
