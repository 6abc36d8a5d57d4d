"""What this machine is. Gathers facts, decides nothing: `plan.choose` does that from the facts alone."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from onepiece.places import HOME

_PROBE_SECONDS = 10.0  # a hanging driver or engine must not hang the course


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as `nvidia-smi` reports it."""

    name: str
    vram_gb: float
    driver: str
    compute: str  # compute capability, "8.9"


@dataclass(frozen=True, slots=True)
class Engine:
    """The Docker engine that the docker CLI talks to."""

    version: str
    api: str
    gpu_runtime: bool  # the NVIDIA runtime or a CDI device is there


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a plan depends on."""

    system: str  # "linux", "darwin", "win32"
    machine: str  # "x86_64", "arm64", ...
    python: str
    cores: int
    memory_gb: float
    free_disk_gb: float
    gpus: tuple[Gpu, ...]
    gpu_reason: str  # why there is no GPU; empty if there is one
    engine: Engine | None
    engine_reason: str  # why there is no engine; empty if there is one


_asked: set[subprocess.Popen[str]] = set()  # tools that have not answered yet


def gather() -> Facts:
    """Look at this machine; the slow looks side by side."""
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        gpus, engine = pool.submit(_gpus), pool.submit(_engine)
        gpus.result(), engine.result()
    finally:  # interrupted: nothing that was asked may go on, or keep us waiting
        pool.shutdown(wait=False, cancel_futures=True)
        while any(thread.is_alive() for thread in pool._threads) and sys.exc_info()[0] is not None:
            for process in tuple(_asked):
                process.kill()
            time.sleep(0.01)
    return Facts(
        system=sys.platform,
        machine={"AMD64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=_memory_gb(),
        free_disk_gb=shutil.disk_usage(_existing(HOME)).free / 2**30,
        gpus=gpus.result()[0],
        gpu_reason=gpus.result()[1],
        engine=engine.result()[0],
        engine_reason=engine.result()[1],
    )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _memory_gb() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if sys.platform == "win32":
        import ctypes

        kilobytes = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value / 2**20
    return 0.0


def probe(command: list[str]) -> tuple[str, str]:
    """Standard output of a command, and why there is none."""
    if shutil.which(command[0]) is None:
        return "", f"{command[0]} is not installed"
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    except OSError as error:
        return "", f"{command[0]} cannot be started: {error.strerror}"
    _asked.add(process)
    try:
        out, said = process.communicate(timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", f"{command[0]} did not answer within {_PROBE_SECONDS:.0f} s"
    finally:
        _asked.discard(process)
    if process.returncode != 0:
        lines = (said or out).strip().splitlines()
        if lines and lines[-1].startswith("Run 'docker"):  # what the CLI says of a subcommand that it does not have
            return "", "the plugin is not installed"
        return "", lines[-1] if lines else f"{command[0]} ended with {process.returncode}"
    return out, ""


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    out, reason = probe(["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"])
    if reason:
        return (), reason
    return parse_gpus(out)


def parse_gpus(out: str) -> tuple[tuple[Gpu, ...], str]:
    """The rows of `nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap`, and why there are none."""
    found, unreadable = [], ""
    for line in out.strip().splitlines():
        fields = [field.strip() for field in line.split(",")]
        try:
            name, mebibytes, driver, compute = fields
            found.append(Gpu(name, float(mebibytes) / 1024, driver, compute))
        except ValueError:  # "[N/A]", or a message instead of a row
            unreadable = line.strip()
    if found:
        return tuple(found), ""
    return (), f"nvidia-smi said: {unreadable}" if unreadable else "nvidia-smi lists no GPU"


def _engine() -> tuple[Engine | None, str]:
    out, reason = probe(["docker", "version", "--format", "{{json .Server}}"])
    if reason:
        return None, reason
    try:
        server = json.loads(out)
        version, api = server["Version"], server["ApiVersion"]
    except (ValueError, KeyError, TypeError):
        return None, "docker answers, but no engine does"
    info, _ = probe(["docker", "info", "--format", "{{json .Runtimes}} {{json .CDISpecDirs}}"])
    return Engine(version, api, "nvidia" in info), ""
