"""Who types a command owns what it starts, however they end. Standard library only: for what nox starts, on both floors.

Ctrl-C reaches nox and everything below it. A signal that ends nox at once (SIGKILL, and SIGTERM and SIGHUP, which it does not take)
reaches nobody else, so that what nox started has to look whether it is still there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

OWNER = "ONEPIECE_OWNER"
"""The environment variable that holds the process id of whoever started this program, and stays until it ends."""
_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 15.0  # a signal that came where signals are ignored is lost


def end_with_owner() -> bool:
    """Have this process interrupted, as by SIGTERM, as soon as its owner is gone.

    The variable is taken out: the owner of what this process starts is this process.

    Returns:
        Whether there is such an owner.
    """
    owner = os.environ.pop(OWNER, "")
    if not owner.isdigit():
        return False
    threading.Thread(target=_interrupt_after, args=(int(owner), os.getppid()), name="owner", daemon=True).start()
    return True


def _interrupt_after(owner: int, parent: int) -> None:
    if sys.platform == "win32":
        import _thread

        _wait_on_windows(owner)
        while True:
            _thread.interrupt_main(signal.SIGINT)  # os.kill would end us here, without a word
            time.sleep(_AGAIN_SECONDS)
    while os.getppid() == parent and _exists(owner):
        time.sleep(_LOOK_SECONDS)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_AGAIN_SECONDS)


def _exists(process: int) -> bool:
    with contextlib.suppress(PermissionError):  # it is there, and somebody else's
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _wait_on_windows(process: int) -> None:
    """There a parent that is gone stays the parent: wait for the process itself."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(0x00100000, False, process)  # SYNCHRONIZE
    if handle:
        kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0xFFFFFFFF)
