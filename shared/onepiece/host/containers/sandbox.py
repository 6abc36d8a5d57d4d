"""What the container of a run, or of the checks of somebody's code, sees, may use and is told: pure. `container` makes it so.

That of a run sees the lab and `shared/` read-only, writes into its own run directory alone, has no network unless the lab needs one, and
no more memory than the lab's budget with a margin. That of checks writes nowhere, and never has a network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.places import HOME, IMAGES, LABS, RUNS, SHARED, WORKSPACE
from onepiece.host.road.preflight import Engine
from onepiece.host.road.runs import Run, lesson_variables

COURSE = PurePosixPath("/course")  # where a container finds the course
PYTHON = "/opt/onepiece/bin/python"
LABEL = "org.onepiece"
LOCK = "container.lock"  # in the run directory, or beside the code that is checked; held by the host for as long as it lives

# `memory_gb` is the budget of a notebook with everything that it starts. Above it: the runner, and files in memory.
_MEMORY_FACTOR, _MEMORY_MORE_GB = 1.25, 0.5
_SHARED_MEMORY_GB = 8.0  # where no budget limits it; data loaders and NCCL pass tensors through it
PIDS = 4096  # threads count: a fork bomb ends, data loaders do not
CHECKS_PIDS = 512  # of code that somebody handed in
_CHECKS_MEMORY_GB = 8.0  # where the lab names no budget: what is handed in has one always

# What decides how a lab runs and is the learner's to set. The second line matters only where there is a network.
_PASSED = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_PASSED_ONLINE = ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of this machine, and where the container finds it."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A container as it is described, before an engine is told: what it runs, sees, may use and is told."""

    image: str  # its identifier
    name: str
    command: tuple[str, ...]  # what Python is started with
    directory: str  # where it is started, in the container
    variables: Mapping[str, str]
    labels: Mapping[str, str]
    binds: tuple[Bind, ...]
    offline: bool
    memory: int | None  # bytes of everything in it; None: no limit
    shared_memory: int  # bytes of /dev/shm
    pids: int = PIDS
    device: str = "cpu"


def place(path: Path) -> str:
    """Where a container finds a path of this machine."""
    for room, name in ((LABS, "labs"), (IMAGES, "images"), (SHARED, "shared"), (RUNS, "runs"), (WORKSPACE, "workspace")):
        if path.is_relative_to(room):
            return str(COURSE.joinpath(name, *path.relative_to(room).parts))
    return str(COURSE / "model")  # the one directory from elsewhere: --model


def of_run(run: Run, cache: Path, environ: Mapping[str, str]) -> Sandbox:
    """The container that runs the notebooks of a prepared run, whose image is known."""
    assert run.image is not None
    command = ("-m", "onepiece.kernel.execute", place(run.directory), *run.options.notebooks)
    return Sandbox(
        image=run.image["id"],
        name=f"onepiece-{run.lab.id}-{run.directory.name}",
        command=(*command, *(("--keep-going",) if run.options.keep_going else ())),
        directory=place(run.directory),
        variables=variables(run, environ),
        labels=labels(run.lab, run.directory),
        binds=tuple(binds(run, cache)),
        offline=offline(run),
        memory=memory_limit(run),
        shared_memory=shared_memory(run),
        device=run.plan.device,
    )


def of_checks(lab: Lab, image: str, directory: Path, language: str, environ: Mapping[str, str]) -> Sandbox:
    """The container that checks somebody's code, which gets as little as that needs: nothing of this machine can be written.

    Args:
        lab: whose checks; its budget on a CPU is what they may use.
        image: its identifier.
        directory: of the code and the checks, below `RUNS`; the lock of this container is beside it.
        language: of what the checks say.
        environ: the environment variables here.
    """
    memory = _with_margin(lab.profiles["cpu"].memory_gb or _CHECKS_MEMORY_GB)
    inside = place(directory)
    return Sandbox(
        image=image,
        name=f"onepiece-{lab.id}-{directory.parent.name}",
        command=("-P", "-m", "onepiece.kernel.warm_checks"),
        directory=inside,
        variables=_told([SHARED], inside, language, environ, _PASSED, offline=True),
        labels=labels(lab, directory.parent),
        binds=tuple(Bind(path, place(path)) for path in (directory, SHARED, IMAGES / "versions.toml")),
        offline=True,
        memory=memory,
        shared_memory=memory // 2,
        pids=CHECKS_PIDS,
    )


def binds(run: Run, cache: Path) -> list[Bind]:
    """What the container of a run sees of this machine; `cache` holds the hub's models."""
    ours = [run.lab.directory, SHARED, IMAGES / "versions.toml"]  # lessons name versions too
    if run.options.mine:
        ours.append(WORKSPACE / run.lab.id)
    if len(run.options.notebooks) < len(run.lab.notebooks):
        ours.append(run.directory.parent)  # the artifacts of earlier runs
    if run.options.model is not None:
        ours.append(run.options.model.resolve())
    found = [Bind(path, place(path)) for path in ours]
    if not offline(run):
        found.append(Bind(cache, str(COURSE / "cache"), read_only=False))
    return [*found, Bind(run.directory, place(run.directory), read_only=False)]


def offline(run: Run) -> bool:
    """Needs this run no network?"""
    return not run.lab.network and run.plan.profile == "cpu"


def memory_limit(run: Run) -> int | None:
    """Bytes that everything in the container may use; None if the profile has no budget."""
    budget = run.lab.profiles[run.plan.profile].memory_gb
    return None if budget is None else _with_margin(budget)


def _with_margin(budget_gb: float) -> int:
    return int((budget_gb * _MEMORY_FACTOR + _MEMORY_MORE_GB) * 2**30)


def shared_memory(run: Run) -> int:
    """Bytes of /dev/shm, which count as memory when they are used."""
    limit = memory_limit(run)
    return limit // 2 if limit else int(_SHARED_MEMORY_GB * 2**30)


def gpu_request(engine: Engine) -> dict[str, Any]:
    """How this engine is asked for all of its GPUs: through NVIDIA's runtime, or by the name that a CDI file gives them."""
    if engine.gpu == "cdi":
        return {"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"]}
    return {"count": -1, "capabilities": [["gpu"]]}


def identity(engine: Engine, system: str, user: int, group: int) -> dict[str, str]:
    """Who the container runs as, so that what it writes belongs to the caller.

    Docker Desktop gives files to the caller whoever wrote them. A rootless engine's root is the caller.
    """
    if system != "linux":
        return {}
    if "rootless" in engine.security:
        return {"user": "0:0"}
    return {"user": f"{user}:{group}"} | ({"userns_mode": "host"} if "userns" in engine.security else {})


def variables(run: Run, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the container of a run; of ours it gets a few, named ones."""
    code = ([WORKSPACE / run.lab.id] if run.options.mine else []) + [run.lab.directory, SHARED]
    passed = _PASSED if offline(run) else _PASSED + _PASSED_ONLINE
    return _told(code, place(run.directory), run.options.language, environ, passed, offline=offline(run))


def _told(
    code: Sequence[Path], directory: str, language: str, environ: Mapping[str, str], passed: Sequence[str], *, offline: bool
) -> dict[str, str]:
    return {
        **lesson_variables(language, offline=offline),
        **{name: environ[name] for name in passed if name in environ},
        "PYTHONPATH": ":".join(place(path) for path in code),
        "ONEPIECE_ROOT": str(COURSE),
        "ONEPIECE_HOME": str(COURSE),
        "ONEPIECE_RUN": directory,
        # The only place besides the run directory that can be written; in memory, and gone with the container.
        "HOME": "/tmp",
        # Who has no line in the image's passwd has no name, and torch.compile asks for one.
        "USER": "learner",
        "HF_HUB_CACHE": str(COURSE / "cache"),
        "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",  # a second cache of what is downloaded, 10 GB of it, would be in memory here
    }


def labels(lab: Lab, directory: Path) -> dict[str, str]:
    """By which a container is known as ours, and whether its host still lives; `directory` has its lock."""
    return {
        f"{LABEL}.home": str(HOME),
        f"{LABEL}.lab": lab.id,
        f"{LABEL}.run": directory.name,
        f"{LABEL}.lock": str(directory / LOCK),
    }


def model_cache() -> Path:
    """Where this machine keeps the hub's models."""
    user = Path(os.path.expanduser("~"))  # noqa: PTH111 -- Path's own raises for somebody without a home
    cache = os.environ.get("XDG_CACHE_HOME") or (user if user.is_absolute() else HOME) / ".cache"
    home = os.environ.get("HF_HOME") or Path(cache, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
