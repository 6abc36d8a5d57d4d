"""Being asked to stop: Ctrl-C, SIGTERM, a closed terminal.

The handler raises `KeyboardInterrupt`, and notes it, because neither is enough alone. Python drops an exception that is raised in a
callback of its import locks, or while an object is finalised (`iobase_finalize` in CPython's `Modules/_io/iobase.c`), and a signal that
comes just before a blocking read does not end it. So whoever waits for long looks at the note now and then: `raise_if_asked`, `Aside`,
`read_line`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

_LOOK_SECONDS = 0.25
_END = object()

Item = TypeVar("Item")

_asked = threading.Event()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop us the way Ctrl-C does.

    Whoever asked once may ask again while we say that we end, and while Python ends: that changes nothing any more.
    """
    leaving = False

    def interrupt(*_: object) -> None:
        _asked.set()
        if not leaving:
            raise KeyboardInterrupt

    _asked.clear()
    previous = {number: signal.getsignal(number) for number in stop_signals()}
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        leaving = True
        for number, earlier in previous.items():
            signal.signal(number, signal.SIG_IGN if _asked.is_set() else earlier)


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Ctrl-C waits for the end of what must not be cut in two: a container that exists, but that nobody knows."""
    with _handled_by(lambda *_: _asked.set()):
        yield
    raise_if_asked()


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """While cleaning up, an impatient second Ctrl-C must not leave half of it undone, nor the first one be heard again."""
    was_asked = _asked.is_set()
    with _handled_by(signal.SIG_IGN):
        _asked.clear()
        try:
            yield
        finally:
            if was_asked:
                _asked.set()


def raise_if_asked() -> None:
    """Raise `KeyboardInterrupt` if we were asked to stop, even if the first one got lost."""
    if _asked.is_set():
        raise KeyboardInterrupt


class Aside(Generic[Item]):
    """What a source yields, read in a thread of its own, so that waiting for it can be interrupted at any moment."""

    def __init__(self, source: Iterable[Item]) -> None:
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._error: BaseException | None = None
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def _read(self, source: Iterable[Item]) -> None:
        try:
            for item in source:
                self._items.put(item)
        except BaseException as error:
            self._error = error
        finally:
            self._items.put(_END)

    def __iter__(self) -> Iterator[Item]:
        """Each item once, also over several loops: what one that was interrupted has not taken, the next one gets."""
        while True:
            raise_if_asked()
            try:
                item = self._items.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if item is _END:
                break
            yield item
        if self._error is not None:
            raise self._error


_typed = bytearray()  # what was read of standard input beyond the last line


def read_line() -> str:
    """The next line of standard input, without its end; a signal ends the wait even if it came just before it.

    Raises:
        EOFError: there is no more.
    """
    if sys.platform == "win32":  # select() takes only sockets there
        return input()
    source, kind = sys.stdin.fileno(), sys.stdin.encoding or "utf-8"
    while b"\n" not in _typed:
        raise_if_asked()
        if not select.select([source], [], [], _LOOK_SECONDS)[0]:
            continue
        data = os.read(source, 4096)
        _typed.extend(data)
        if not data:
            break
    if not _typed:
        raise EOFError
    line, _, rest = bytes(_typed).partition(b"\n")
    _typed[:] = rest
    return line.decode(kind, errors="replace")


def stop_signals() -> list[signal.Signals]:
    """What asks us to stop, on this operating system."""
    names = ("SIGINT", "SIGTERM", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@contextlib.contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in stop_signals()}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
