"""Waiting for a state, never for a time: a faster machine is done before the time is over, a busy one not yet.

    samples = until(lambda: read(server.url), is_idle, seconds=30, what="the server is idle")
    until(lambda: len(answered) >= 10, seconds=60, what="ten answers")

Each wait has a bound, so that what never comes ends in an error that names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], holds: Callable[[Seen], bool] = bool, *, seconds: float, what: str, pause: float = 0.05) -> Seen:
    """Look again and again until what is seen holds, and return that.

    Args:
        look: what is to be seen now.
        holds: whether it is what is waited for.
        seconds: patience. There is always a first look.
        what: is waited for, in words, for the error.
        pause: seconds between two looks.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not holds(seen := look()):
        _still_time(deadline, seconds, what)
        time.sleep(pause)
    return seen


def unchanged(look: Callable[[], Seen], *, seconds: float, what: str, pause: float) -> Seen:
    """Look until two looks, `pause` seconds apart, see the same: for a server that says of no request whether it has been counted.

    Where a server says that it is idle, wait for that with `until`: standing still proves less.

    Raises:
        TimeoutError: it changed all the time.
    """
    deadline = time.monotonic() + seconds
    before = look()
    while True:
        time.sleep(pause)
        if (now := look()) == before:
            return now
        _still_time(deadline, seconds, what)
        before = now


def _still_time(deadline: float, seconds: float, what: str) -> None:
    if time.monotonic() > deadline:
        msg = f"not within {seconds:g} s: {what}"
        raise TimeoutError(msg)
