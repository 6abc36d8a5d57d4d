"""What this machine is. Gathers facts, decides nothing: `plan.choose` does that from the facts alone."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course.places import HOME
from onepiece.course.text import Text

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
    host: str = ""  # its endpoint, "unix:///var/run/docker.sock"
    platform: str = "linux/x86_64"  # what its containers run on
    buildx: str = ""  # version of the CLI's plugin; empty: images cannot be built
    compose: str = ""
    gpu: str = ""  # how a container gets a GPU: "runtime" (NVIDIA's), "cdi" (a device description); empty: not at all
    security: tuple[str, ...] = ()  # "rootless", "userns", "selinux", ...
    free_disk_gb: float | None = None  # where its images are; None: not on a disk that we can see


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
    gpu_reason: Text | None  # why there is no GPU; None if there is one
    engine: Engine | None
    engine_reason: Text | None  # why there is no engine; None if there is one


def gather() -> Facts:
    """Look at this machine; the slow looks side by side."""
    with asking(_NVIDIA, *_DOCKER) as answers:
        gpus, gpu_reason = _gpus(answers[0])
        engine, engine_reason = parse_engine(*answers[1:])
    return Facts(
        system=sys.platform,
        machine={"AMD64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=_memory_gb(),
        free_disk_gb=shutil.disk_usage(_existing(HOME)).free / 2**30,
        gpus=gpus,
        gpu_reason=gpu_reason,
        engine=engine,
        engine_reason=engine_reason,
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


# --- tools that are asked -------------------------------------------------------------------------

_NVIDIA = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
_DOCKER = (
    ["docker", "version", "--format", "{{json .Server}}"],
    ["docker", "info", "--format", "{{json .}}"],
    ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
)

Answer = tuple[str, Text | None]  # standard output of a tool, and why there is none


@contextlib.contextmanager
def asking(*commands: list[str]) -> Iterator[list[Answer]]:
    """The answers of several tools that are asked at once. However this ends, none of them goes on."""
    deadline = time.monotonic() + _PROBE_SECONDS
    asked: list[subprocess.Popen[str] | Text] = []
    try:
        for command in commands:
            asked.append(_ask(command))
        yield [
            (("", tool) if isinstance(tool, Text) else _answer(command[0], tool, deadline))
            for command, tool in zip(commands, asked, strict=True)
        ]
    finally:
        for tool in asked:
            if not isinstance(tool, Text) and tool.poll() is None:
                tool.kill()
                tool.communicate()


def _ask(command: list[str]) -> subprocess.Popen[str] | Text:
    """The tool at work, or why it is not."""
    if shutil.which(command[0]) is None:
        return Text(f"{command[0]} is not installed", f"沒有安裝 {command[0]}")
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        return Text(f"{command[0]} cannot be started: {error.strerror}", f"無法啟動 {command[0]}：{error.strerror}")


def _answer(name: str, tool: subprocess.Popen[str], deadline: float) -> Answer:
    try:
        out, said = tool.communicate(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return "", Text(f"{name} did not answer within {_PROBE_SECONDS:.0f} s", f"{name} 在 {_PROBE_SECONDS:.0f} 秒內沒有回應")
    if tool.returncode != 0:
        lines = (said or out).strip().splitlines()
        if lines:
            return "", Text(lines[-1], lines[-1])
        return "", Text(f"{name} ended with {tool.returncode}", f"{name} 以 {tool.returncode} 結束")
    return out, None


def is_of_a_tool(reason: Text) -> bool:
    """Are these the words of a tool, which speaks one language?"""
    return bool(reason.en) and reason.en == reason.zh_tw


def _gpus(answer: Answer) -> tuple[tuple[Gpu, ...], Text | None]:
    out, reason = answer
    return ((), reason) if reason else parse_gpus(out)


def parse_gpus(out: str) -> tuple[tuple[Gpu, ...], Text | None]:
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
        return tuple(found), None
    if unreadable:
        return (), Text(f"nvidia-smi said: {unreadable}", f"nvidia-smi 的回應是：{unreadable}")
    return (), Text("nvidia-smi lists no GPU", "nvidia-smi 沒有列出任何 GPU")


def parse_engine(version: Answer, info: Answer, context: Answer) -> tuple[Engine | None, Text | None]:
    """The engine from what `docker version`, `docker info` and `docker context inspect` answered, and why there is none."""
    if version[1]:
        return None, version[1]
    try:
        server = json.loads(version[0])
        found, api = server["Version"], server["ApiVersion"]
    except (ValueError, KeyError, TypeError):
        return None, Text("docker answers, but no engine does", "docker 有回應，但沒有引擎回應")
    host = context[0].strip()
    if host and not host.startswith(("unix://", "npipe://")):
        return None, Text(
            f"the engine at {host} is on another machine, which does not see the course's files",
            f"{host} 的引擎在另一台機器上，看不到課程的檔案",
        )
    try:
        said = json.loads(info[0])
        said = said if isinstance(said, dict) else {}
    except ValueError:
        said = {}
    plugins = {plugin.get("Name"): plugin.get("Version", "") for plugin in (said.get("ClientInfo") or {}).get("Plugins") or ()}
    options = [option.partition(",")[0].removeprefix("name=") for option in said.get("SecurityOptions") or ()]
    return Engine(
        version=found,
        api=api,
        host=host,
        platform=f"{said.get('OSType', 'linux')}/{said.get('Architecture', 'x86_64')}",
        buildx=plugins.get("buildx", ""),
        compose=plugins.get("compose", ""),
        gpu=_gpu_form(said),
        security=tuple(options),
        free_disk_gb=_free_gb(Path(said.get("DockerRootDir") or "")),
    ), None


def _free_gb(directory: Path) -> float | None:
    try:
        return shutil.disk_usage(directory).free / 2**30 if directory.is_absolute() else None
    except OSError:  # in the virtual machine of Docker Desktop
        return None


def _gpu_form(info: dict[str, Any]) -> str:
    """How this engine gives a GPU to a container, as `Engine.gpu` says it."""
    if "nvidia" in (info.get("Runtimes") or {}):
        return "runtime"
    devices = [device.get("ID", "") for device in info.get("DiscoveredDevices") or ()]  # engines before 28.3 do not list them
    if any(device.startswith("nvidia.com/gpu") for device in devices):
        return "cdi"
    described = [path for directory in info.get("CDISpecDirs") or () for path in Path(directory).glob("*") if _describes_gpu(path)]
    return "cdi" if described else ""


def _describes_gpu(path: Path) -> bool:
    try:
        return path.suffix in (".yaml", ".yml", ".json") and "nvidia.com/gpu" in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
