"""The container backend: `onepiece.kernel.execute` in a container of the lab's image.

A container's standard input is ours: when we end, however that happens, it ends too. It is always removed; what a killed host leaves
behind is labelled, and removed by the next run or `nox -s clean`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import docker
from docker.errors import DockerException
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount

from onepiece.course.errors import UserError
from onepiece.host.containers import sandbox
from onepiece.host.containers.engine import connected, holding, remove, remove_abandoned_of
from onepiece.host.interrupts import held_interrupts, ignore_interrupts
from onepiece.host.road import local
from onepiece.host.road.preflight import Engine
from onepiece.host.road.runs import Run

_END_SECONDS = 10.0  # for a container whose output has ended to end itself


def execute(run: Run, engine: Engine, hear: Callable[[dict[str, Any]], None]) -> bool:
    """Run the notebooks of a prepared run, whose image is here; `hear` gets every event. The same contract as `local.execute`.

    Returns:
        False if it was interrupted (Ctrl-C, SIGTERM, a closed terminal); nothing is left running then.

    Raises:
        UserError: "out-of-memory", "engine-gone", or whatever else kept the container from its end.
    """
    cache = sandbox.model_cache()
    if not sandbox.offline(run):
        cache.mkdir(parents=True, exist_ok=True)
    log = run.directory / "execute.log"
    with log.open("wb") as errors, connected(engine) as client, holding(run.directory / sandbox.LOCK):
        remove_abandoned_of(client)
        with started(client, settings(run, engine, cache)) as (container, connection):

            def hear_why(event: dict[str, Any]) -> None:
                hear(_with_memory(event, container, run))

            def stop() -> None:
                close_input(container, connection)

            def wait() -> None:
                with contextlib.suppress(DockerException, OSError):  # an engine that is gone shows when the container is looked at
                    container.wait(timeout=_END_SECONDS)

            def end() -> None:
                kill(container, connection)

            ending = local.listen(output_lines(connection, errors), hear_why, stop=stop, wait=wait, kill=end)
            if ending.finished and not ending.whole:
                raise _crash(container, log, run)
    return ending.finished


def settings(run: Run, engine: Engine, cache: Path) -> dict[str, Any]:
    """Everything that docker-py is told about the container of a run."""
    return told(sandbox.of_run(run, cache, os.environ), engine)


def told(wanted: sandbox.Sandbox, engine: Engine) -> dict[str, Any]:
    """Everything that docker-py is told about a container."""
    return {
        "image": wanted.image,
        "name": f"{wanted.name}-{os.getpid()}",
        "labels": dict(wanted.labels),
        "entrypoint": [sandbox.PYTHON],
        "command": list(wanted.command),
        "environment": dict(wanted.variables),
        "working_dir": wanted.directory,
        "hostname": "localhost",  # resolves without a network, which is what torch.distributed asks of a host name
        "network_mode": "none" if wanted.offline else "bridge",
        "stdin_open": True,
        "init": True,  # reaps what notebooks leave, and passes signals on
        "mounts": [Mount(bind.target, str(bind.source), type="bind", read_only=bind.read_only) for bind in wanted.binds],
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777,exec"},  # exec: compiled kernels are loaded from there
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", *(["label=disable"] if "selinux" in engine.security else [])],
        "pids_limit": wanted.pids,
        "mem_limit": wanted.memory,
        "memswap_limit": wanted.memory,  # no swap beyond it
        "shm_size": wanted.shared_memory,
        "log_config": LogConfig(type=LogConfig.types.NONE),  # what it says is read, not kept a second time
        "device_requests": [DeviceRequest(**sandbox.gpu_request(engine))] if wanted.device == "cuda" else None,
        **sandbox.identity(engine, sys.platform, getattr(os, "getuid", int)(), getattr(os, "getgid", int)()),
    }


# --- one container ------------------------------------------------------------------------------


@contextlib.contextmanager
def started(client: docker.DockerClient, wanted: dict[str, Any]) -> Iterator[tuple[Container, socket.socket]]:
    """A container that runs, and the connection to its standard streams. It is gone afterwards."""
    container: Container | None = None
    connection: socket.socket | None = None
    try:
        with held_interrupts():
            container = client.containers.create(**wanted)
            connection = _attach(client, container)
            container.start()
        client.api.timeout = int(_END_SECONDS)  # what is asked from now on is quick, or the engine hangs
        yield container, connection
    finally:
        with ignore_interrupts():
            if connection is not None:
                _cut(connection)
            if container is not None:
                remove(container)


def _attach(client: docker.DockerClient, container: Container) -> socket.socket:
    attached = client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    connection: socket.socket = getattr(attached, "_sock", attached)
    connection.settimeout(None)  # a notebook may be silent for as long as it likes
    return connection


def close_input(container: Container, connection: socket.socket) -> None:
    """What the runner takes as: stop, save, end."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except (AttributeError, OSError):  # Windows' named pipes have no such half; the runner takes SIGTERM just so
        with contextlib.suppress(DockerException, OSError):
            container.kill("SIGTERM")


def output_lines(connection: socket.socket, errors: IO[bytes]) -> Iterator[bytes]:
    """Lines of a container's standard output, from the one connection that has both streams; standard error goes to `errors`."""
    begun = b""
    for number, data in frames(connection):
        if number == 1:
            *whole, begun = (begun + data).split(b"\n")
            yield from (line + b"\n" for line in whole)
        else:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or a log closed by who listened: the events go on
                errors.write(data)
                errors.flush()
    if begun:
        yield begun


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """What an engine sends of an attached container: stream number, three zeros, size (big-endian), data; number and data of each."""
    # ConnectionError: a killed engine; what comes next finds out.
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as stream:
        while len(header := stream.read(8)) == 8:
            yield header[0], stream.read(int.from_bytes(header[4:], "big"))


def kill(container: Container, connection: socket.socket) -> None:
    """End it now; what it says ends too."""
    try:
        container.kill()
    except (DockerException, OSError):  # the engine hangs: do not wait for it
        _cut(connection)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, AttributeError):  # gone already; Windows' named pipes are only closed
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


# --- what went wrong ----------------------------------------------------------------------------


def _with_memory(event: dict[str, Any], container: Container, run: Run) -> dict[str, Any]:
    """The end of a notebook that failed, with the reason if memory was it: Linux killed something in the container."""
    if event["event"] != "notebook_end" or not event["error"] or not state_of(container).get("OOMKilled"):
        return event
    error, why = event["error"], str(out_of_memory(run).cause)
    if error["name"] == "DeadKernel":
        return {**event, "error": {**error, "name": "OutOfMemory", "message": why}}
    return {**event, "error": {**error, "message": f"{error['message']} ({why})"}}


def out_of_memory(run: Run) -> UserError:
    """That the container of a run used more than it may."""
    limit_gb = (sandbox.memory_limit(run) or 0) / 2**30
    return UserError("out-of-memory", limit_gb=limit_gb, budget_gb=run.lab.profiles[run.plan.profile].memory_gb or 0, lab=run.lab.id)


def next_steps(run: Run) -> list[str]:
    """What to type after a notebook ran out of memory."""
    errors = [notebook["error"] for notebook in run.notebooks.values() if notebook["error"]]
    return [str(out_of_memory(run).remedy)] if any(error["name"] == "OutOfMemory" for error in errors) else []


def _crash(container: Container, log: Path, run: Run) -> UserError:
    """Why a runner ended without saying so itself."""
    state = state_of(container)
    if not state:
        return UserError("engine-gone")
    if state.get("OOMKilled"):
        return out_of_memory(run)
    if state.get("ExitCode") in (128 + signal.SIGINT, 128 + 9, 128 + signal.SIGTERM):  # what a runner ends with that was stopped, or killed
        return UserError("container-stopped")
    reason = local.last_words(log, state.get("Error") or f"it ended with {state.get('ExitCode')}")
    return UserError("container-failed", reason=reason, lab=run.lab.id)


def state_of(container: Container) -> dict[str, Any]:
    """The engine's word on the container; empty if it does not answer."""
    try:
        container.reload()
    except (DockerException, OSError):
        return {}
    return dict(container.attrs["State"])
