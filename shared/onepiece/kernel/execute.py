"""Run a lab's notebooks, each in a fresh kernel: `python -m onepiece.kernel.execute RUN [--keep-going] NOTEBOOK...`

The same command in a local environment and in a container. `RUN` is a run directory that the host has prepared:
`context.json` and `notebooks/<name>.ipynb`, which are executed in place. Standard output is one JSON object per line:

    {"event": "notebook_start", "notebook": ..., "cells": 9}
    {"event": "cell_start", "notebook": ..., "cell": 3}
    {"event": "record" | "progress" | "figure", "notebook": ..., ...}     from `onepiece.lab`
    {"event": "notebook_end", "notebook": ..., "status": "ok" | "failed" | "interrupted", "seconds": ..., "peak_bytes": ...,
     "error": {"cell": 3, "source": ..., "name": ..., "message": ..., "traceback": ...} | null}
    {"event": "end", "versions": {...}, "hardware": {...}}

Exit code: 0 every notebook ran, 1 a cell failed, 130 interrupted. It ends, kernels and all, on SIGINT, on SIGTERM,
and when its standard input closes: then whoever started it is gone, however that happened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import nbformat
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from onepiece.course.json_numbers import decode_number
from onepiece.kernel.machine import hardware, versions

_MAX_SOCKET_PATH = 80  # a Unix socket's path has about a hundred bytes, its own name included
_POLL_SECONDS = 0.1
_STOP_SECONDS = 3.0  # a kernel that has not ended by then is killed
_KEYS = {
    "record": {"event", "metric", "value", "seed", "variant"},
    "progress": {"event", "done", "total", "metrics"},
    "figure": {"event", "name", "file", "caption"},
}
"""What `onepiece.lab` writes into a notebook's file of events."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

_events: TextIO = sys.stdout


def emit(event: dict[str, Any]) -> None:
    """One event to whoever reads our standard output."""
    try:
        _events.write(json.dumps(event, ensure_ascii=False) + "\n")
        _events.flush()
    except BrokenPipeError:  # the reader is gone: the watcher of standard input ends the run
        pass


def _servers(processes: list[psutil.Process]) -> set[psutil.Process]:
    """The guards of `onepiece.serving.servers` among these, and what they guard: later notebooks use them too."""
    found: set[psutil.Process] = set()
    for process in processes:
        try:
            if "onepiece.serving.servers" in process.cmdline():
                found |= {process, *process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return found


class _ThisPython(KernelSpecManager):
    """Every kernel is the Python that runs this: a `python3` that somebody installed elsewhere (JUPYTER_PATH) is another environment."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class NotebookRun:
    """One notebook in one fresh kernel, in a thread with its own event loop."""

    def __init__(self, run: Path, name: str) -> None:
        self.run, self.name = run, name
        self.path = run / "notebooks" / f"{name}.ipynb"
        self.notebook = nbformat.read(self.path, as_version=4)
        # The lab's and the learner's modules: on the kernel's path only, so that a file of theirs can hide nothing from us.
        self.code: list[str] = json.loads((run / "context.json").read_text(encoding="utf-8")).get("code", [])
        self.error: dict[str, Any] | None = None
        self._stopping = False
        self.kernel_pid: int | None = None
        self.peak_bytes = 0
        self._cell, self._source = 0, ""
        self._events_read = 0
        self._seen: set[psutil.Process] = set()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancel the execution and give the kernel a moment to end."""
        self._stopping = True
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_STOP_SECONDS)

    def clean_up(self) -> None:
        """Kill what the kernel left running, and the kernel itself if it did not end; not the servers, which end with the run."""
        if self.kernel_pid is not None and os.name != "nt":
            try:
                os.killpg(self.kernel_pid, signal.SIGKILL)  # it was started as the leader of a group of its own
            except (ProcessLookupError, PermissionError):
                pass
        for process in self._seen:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._thread.join(_STOP_SECONDS)

    def save(self) -> None:
        """Write the notebook with the outputs so far; a reader never sees half a file."""
        temporary = self.path.with_suffix(".tmp")
        nbformat.write(self.notebook, temporary)
        temporary.replace(self.path)

    def poll(self) -> None:
        """Relay what the notebook said since the last call, and look at its memory."""
        events = self.run / "events" / f"{self.name}.jsonl"
        if events.exists():
            with events.open("rb") as stream:
                stream.seek(self._events_read)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    self._events_read += len(line)
                    self._relay(line)
        resident = 0
        processes = self._processes()
        self._seen = (self._seen | set(processes)) - _servers(processes)  # also one that looked like its parent when it was new
        for process in processes:
            try:
                resident += process.memory_info().rss
            except psutil.Error:
                continue
        self.peak_bytes = max(self.peak_bytes, resident)

    def _relay(self, line: bytes) -> None:
        """Pass on what `onepiece.lab` said; a line that it cannot have written fails the notebook, for one of its may be lost in it."""
        try:
            event = json.loads(line)
            whole = event.keys() == _KEYS[event["event"]] and isinstance(event.get("metric", event.get("name", "")), str)
            decode_number(event.get("value"))
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if whole:
            emit({**event, "notebook": self.name})
        elif self.error is None:
            self._fail("BadEvent", f"something else than onepiece.lab wrote into events/{self.name}.jsonl: {line[:80]!r}", "")

    def _processes(self) -> list[psutil.Process]:
        """The kernel and everything it started."""
        if self.kernel_pid is None:
            return []
        try:
            kernel = psutil.Process(self.kernel_pid)
            return [kernel, *kernel.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._execute())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # a kernel that does not start, a protocol error: reported as this notebook's failure
            self._fail(type(error).__name__, str(error), str(error))

    async def _execute(self) -> None:
        environment = {**os.environ, "ONEPIECE_RUN": str(self.run), "ONEPIECE_NOTEBOOK": self.name}
        environment["PYTHONPATH"] = os.pathsep.join([*self.code, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment["ONEPIECE_RUNNER_PID"] = str(os.getpid())  # servers that notebooks share end with it
        # No start-up files, history or connection files of the user's own Jupyter take part in a run.
        environment |= {"IPYTHONDIR": str(self.run / ".ipython"), "PYTHONNOUSERSITE": "1"}
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython())
        client = NotebookClient(
            self.notebook, km=manager, timeout=None, resources={"metadata": {"path": str(self.run)}}, store_widget_state=False
        )
        # Unix sockets where there are any: nobody else on this machine can listen. Their paths must be short.
        sockets = tempfile.mkdtemp(prefix="onepiece-")
        manager.transport = "tcp" if os.name == "nt" or len(sockets) > _MAX_SOCKET_PATH else "ipc"
        manager.connection_file = str(Path(sockets) / "kernel.json")
        try:
            await client.async_start_new_kernel(env=environment)
            self.kernel_pid = manager.provisioner.pid
            await client.async_start_new_kernel_client()
            for index, cell in enumerate(self.notebook.cells):
                if cell.cell_type == "code":
                    self._cell, self._source = self._cell + 1, cell.source
                    emit({"event": "cell_start", "notebook": self.name, "cell": self._cell})
                    await client.async_execute_cell(cell, index)
        except CellExecutionError as error:
            self._fail(error.ename, error.evalue, _ANSI.sub("", error.traceback))
        except DeadKernelError:
            self._fail("DeadKernel", "the kernel died (out of memory, or killed)", "")
        finally:
            await asyncio.shield(client._async_cleanup_kernel())
            shutil.rmtree(sockets, ignore_errors=True)

    def _fail(self, name: str, message: str, traceback: str) -> None:
        if self._stopping:  # nbclient takes our own cancelling for the death of the kernel
            return
        self.error = {"cell": self._cell, "source": self._source, "name": name, "message": message, "traceback": traceback}


def main(arguments: list[str] | None = None) -> int:
    """Execute the named notebooks of a prepared run directory, in order."""
    global _events
    # Events have standard output to themselves: what a kernel, or a program that a cell starts, inherits is our standard error.
    _events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parser = argparse.ArgumentParser(prog="python -m onepiece.kernel.execute", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("notebooks", nargs="+")
    parser.add_argument("--keep-going", action="store_true", help="go on with the next notebook after a failing cell")
    options = parser.parse_args(arguments)
    stop = _stop_requests()
    failed = False
    for name in options.notebooks:
        status = _run_one(options.run, name, stop)
        if status == "interrupted":
            return 130
        if status == "failed":
            failed = True
            if not options.keep_going:
                break
    shutil.rmtree(options.run / ".ipython", ignore_errors=True)
    emit({"event": "end", "versions": versions(), "hardware": hardware()})
    return 1 if failed else 0


def _run_one(run: Path, name: str, stop: threading.Event) -> str:
    notebook = NotebookRun(run, name)
    emit({"event": "notebook_start", "notebook": name, "cells": sum(cell.cell_type == "code" for cell in notebook.notebook.cells)})
    began = time.monotonic()
    notebook.start()
    while notebook.running and not stop.wait(_POLL_SECONDS):
        notebook.poll()
    interrupted = notebook.running and stop.is_set()
    if interrupted:
        notebook.stop()
    notebook.clean_up()
    notebook.poll()
    notebook.save()
    status = "interrupted" if interrupted else "failed" if notebook.error else "ok"
    emit(
        {
            "event": "notebook_end",
            "notebook": name,
            "status": status,
            "seconds": round(time.monotonic() - began, 3),
            "peak_bytes": notebook.peak_bytes,
            "error": notebook.error,
        }
    )
    return status


def _stop_requests() -> threading.Event:
    """An event that is set by SIGINT, SIGTERM, SIGHUP and by the end of standard input."""
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())

    def watch_standard_input() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would be a fatal error
            pass
        stop.set()

    threading.Thread(target=watch_standard_input, daemon=True).start()
    return stop


if __name__ == "__main__":
    sys.exit(main())
