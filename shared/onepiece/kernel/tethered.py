"""Run a Python module that ends with whoever started it: `python -m onepiece.kernel.tethered jupyterlab --port 8888`

Its standard input is held by them, so that it ends when that closes, however that happens; the module itself finds an empty one. Where
`ONEPIECE_OWNER` names a process, the module ends with that one instead, and keeps its standard input.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

from onepiece.course.owner import end_with_owner


def _end_with_standard_input() -> None:
    held = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(held,), daemon=True).start()


def _watch(held: int) -> None:
    while os.read(held, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if not end_with_owner():
        _end_with_standard_input()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
