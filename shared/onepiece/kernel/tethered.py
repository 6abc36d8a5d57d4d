"""Run a Python module that ends when standard input closes: `python -m onepiece.kernel.tethered jupyterlab --port 8888`

For a server in a container: its standard input is held by whoever started it, so that it ends with them, however that happens.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _watch_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_watch_standard_input, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
