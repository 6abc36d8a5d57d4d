"""The servers of `nox -s serving`: what compose runs in containers, started from wheels, with the same template and variables."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.model_files import CHECKPOINTS, shipped, verify_directory
from onepiece.course.places import ROOT
from onepiece.course.text import tr
from onepiece.host.serving import gateway
from onepiece.host.serving.keys import DIRECTORY, api_key
from onepiece.serving import servers
from onepiece.serving.servers import Server

NAMES = ("triton", "vllm", "gateway")


def _value(name: str, default: str, pattern: str) -> str:
    """A variable of the environment; nginx would refuse a wrong one only after both servers were started.

    Raises:
        UserError: "usage".
    """
    value = os.environ.get(name) or default
    if not re.fullmatch(pattern, value):
        what = tr(
            f"{name}={value} is not understood. The default is {default}; compose/README.md says what it is.",
            f"看不懂 {name}={value}。預設值是 {default}，說明請見 compose/README.zh-TW.md。",
        )
        raise UserError("usage", what=what, session="serving")
    return value


def _options() -> list[str]:
    """More options of vLLM, as a shell would read them.

    Raises:
        UserError: "usage".
    """
    value = os.environ.get("ONEPIECE_VLLM_OPTIONS", "")
    try:
        return shlex.split(value)
    except ValueError as error:
        what = tr(f"ONEPIECE_VLLM_OPTIONS={value} is not understood: {error}.", f"看不懂 ONEPIECE_VLLM_OPTIONS={value}：{error}。")
        raise UserError("usage", what=what, session="serving") from None


def _seconds(text: str) -> float:
    return float(text.rstrip("smh")) * {"m": 60, "h": 3600}.get(text[-1], 1)


def _bytes(text: str) -> int:
    return int(text.rstrip("bkmgBKMG")) * {"k": 2**10, "m": 2**20, "g": 2**30}.get(text[-1].lower(), 1)


_SIZE = r"[1-9]\d*[bkmgBKMG]?"
_NUMBER, _PORT = r"[1-9]\d{0,8}", r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]"


@dataclass(frozen=True, slots=True)
class Settings:
    """What compose reads from the environment too, with the same defaults."""

    http: int = field(default_factory=lambda: int(_value("ONEPIECE_HTTP_PORT", "8080", _PORT)))
    grpc: int = field(default_factory=lambda: int(_value("ONEPIECE_GRPC_PORT", "8081", _PORT)))
    model: str = field(default_factory=lambda: os.environ.get("ONEPIECE_MODEL") or "tiny")
    models: Path = field(default_factory=lambda: Path(os.environ.get("ONEPIECE_MODELS") or CHECKPOINTS))
    revision: str = field(default_factory=lambda: os.environ.get("ONEPIECE_MODEL_REVISION") or "main")
    length: int = field(default_factory=lambda: int(_value("ONEPIECE_MAX_MODEL_LEN", "512", _NUMBER)))
    cache: str = field(default_factory=lambda: os.environ.get("ONEPIECE_KV_CACHE") or "64M")
    options: tuple[str, ...] = field(default_factory=lambda: tuple(_options()))

    sequences: str = field(default_factory=lambda: _value("ONEPIECE_SEQUENCES", "16", _NUMBER))
    """Texts that one request may ask for."""
    vllm_threads: str = field(default_factory=lambda: _value("ONEPIECE_VLLM_THREADS", "1", _NUMBER))
    triton_threads: str = field(default_factory=lambda: _value("ONEPIECE_TRITON_THREADS", "1", _NUMBER))
    vllm_start: float = field(default_factory=lambda: _seconds(_value("ONEPIECE_VLLM_START", "900s", r"[1-9]\d*[smh]?")))
    """Seconds that vLLM may need: a hub's model is downloaded first."""
    limits: dict[str, str] = field(
        default_factory=lambda: {
            "RATE": _value("ONEPIECE_RATE", "20", _NUMBER),
            "BURST": _value("ONEPIECE_BURST", "40", _NUMBER),
            "OPEN": _value("ONEPIECE_OPEN", "64", _NUMBER),
            "BODY": _value("ONEPIECE_BODY", "1m", r"[1-9]\d*[kKmM]?"),
            "TIMEOUT": _value("ONEPIECE_TIMEOUT", "300s", r"[1-9]\d*(ms|s|m|h)?"),
        }
    )
    """Of the gateway."""
    memory: dict[str, int] = field(
        default_factory=lambda: {
            "vllm": _bytes(_value("ONEPIECE_VLLM_MEMORY", "8g", _SIZE)),
            "triton": _bytes(_value("ONEPIECE_TRITON_MEMORY", "6g", _SIZE)),
        }
    )
    """Bytes that a server may take before it is started again."""

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.http}"

    def path(self) -> Path | None:
        """The model's directory; None for one of a hub.

        Raises:
            UserError: "serving-model", or what `verify_directory` raises.
        """
        for candidate in (self.models / self.model, Path(self.model).expanduser()):
            if (candidate / "config.json").is_file():
                return verify_directory(candidate)
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", self.model):
            return None
        raise UserError("serving-model", model=self.model, directory=self.models)


def starters(settings: Settings) -> dict[str, Callable[[], Server]]:
    """Name -> what starts it, in order; ports stay the same when one is started again."""
    program = gateway.nginx()
    inside = {name: servers.free_port() for name in ("vllm", "triton", "metrics")}
    triton_ports = {"http": inside["triton"], "grpc": servers.free_port() if program else settings.grpc, "metrics": inside["metrics"]}
    vllm_port = inside["vllm"] if program else settings.http
    found: dict[str, Callable[[], Server]] = {
        "triton": lambda: start_triton(settings, triton_ports),
        "vllm": lambda: start_vllm(settings, vllm_port, None if program else api_key()),
    }
    if program:
        upstreams = {"VLLM": vllm_port, "TRITON_HTTP": triton_ports["http"], "TRITON_GRPC": triton_ports["grpc"]}
        found["gateway"] = lambda: gateway.start(
            program, api_key(), {"http": settings.http, "grpc": settings.grpc}, settings.limits, upstreams
        )
    return found


def start_triton(settings: Settings, ports: dict[str, int]) -> Server:
    """Triton on the stack's model repository."""
    shutil.rmtree(DIRECTORY / "tritonserver", ignore_errors=True)  # a copy of what is installed now, whole
    variables = {"ONEPIECE_TRITON_CHECKPOINT": str(shipped("tiny")), "OMP_NUM_THREADS": settings.triton_threads}
    return servers.triton(ROOT / "compose" / "triton" / "models", directory=DIRECTORY, ports=ports, variables=variables)


def start_vllm(settings: Settings, port: int, key: str | None) -> Server:
    """vLLM on the chosen model; with a key of its own only where there is no gateway to ask for it."""
    path = settings.path()
    limits = {"PYTHONPATH": str(ROOT / "compose" / "vllm"), "ONEPIECE_SEQUENCES": settings.sequences}
    options = ["--middleware", "onepiece_limits.Limits", "--max-model-len", str(settings.length)]
    options += ["--kv-cache-memory-bytes", settings.cache, "--revision", settings.revision]
    variables = limits | {"OMP_NUM_THREADS": settings.vllm_threads}
    variables |= ({"VLLM_API_KEY": key} if key else {}) | ({} if path else {"HF_HUB_OFFLINE": "0"})
    return servers.vllm(
        path or settings.model,
        directory=DIRECTORY,
        served_name=settings.model,
        port=port,
        options=[*options, *settings.options],
        variables=variables,
        patience=settings.vllm_start,
    )
