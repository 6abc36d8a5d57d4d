"""The servers of `nox -s serving`: what compose runs in containers, started from wheels, with the same template and variables."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.model_files import CHECKPOINTS, shipped, verify_directory
from onepiece.course.places import ROOT, RUNS
from onepiece.course.text import tr
from onepiece.serving import servers
from onepiece.serving.servers import Server

DIRECTORY = RUNS / "serving"
NAMES = ("triton", "vllm", "gateway")
_KEY = DIRECTORY / "key"


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


def _seconds(text: str) -> float:
    return float(text.rstrip("smh")) * {"m": 60, "h": 3600}.get(text[-1], 1)


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
    options: tuple[str, ...] = field(default_factory=lambda: tuple(shlex.split(os.environ.get("ONEPIECE_VLLM_OPTIONS", ""))))

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


def api_key() -> str:
    """The key that the gateway asks for, made at the first use; only this user can read it."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    if not _KEY.exists():
        write_private(_KEY, secrets.token_hex(32))
    return _KEY.read_text(encoding="utf-8").strip()


def write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)


def starters(settings: Settings) -> dict[str, Callable[[], Server]]:
    """Name -> what starts it, in order; ports stay the same when one is started again."""
    program = nginx()
    inside = {name: servers.free_port() for name in ("vllm", "triton", "metrics")}
    triton_ports = {"http": inside["triton"], "grpc": servers.free_port() if program else settings.grpc, "metrics": inside["metrics"]}
    vllm_port = inside["vllm"] if program else settings.http
    found: dict[str, Callable[[], Server]] = {
        "triton": lambda: start_triton(settings, triton_ports),
        "vllm": lambda: start_vllm(settings, vllm_port, None if program else api_key()),
    }
    if program:
        upstreams = {"VLLM": vllm_port, "TRITON_HTTP": triton_ports["http"], "TRITON_GRPC": triton_ports["grpc"]}
        found["gateway"] = lambda: start_gateway(program, settings, upstreams)
    return found


def start_triton(settings: Settings, ports: dict[str, int]) -> Server:
    """Triton on the stack's model repository."""
    shutil.rmtree(DIRECTORY / "tritonserver", ignore_errors=True)  # a copy of what is installed now, whole
    variables = {"ONEPIECE_TRITON_CHECKPOINT": str(shipped("tiny")), "OMP_NUM_THREADS": settings.triton_threads}
    return servers.triton(ROOT / "compose" / "triton" / "models", directory=DIRECTORY, ports=ports, variables=variables)


def start_vllm(settings: Settings, port: int, key: str | None) -> Server:
    """vLLM on the chosen model; with a key of its own only where there is no gateway to ask for it."""
    path = settings.path()
    options = ["--max-model-len", str(settings.length), "--kv-cache-memory-bytes", settings.cache, "--revision", settings.revision]
    variables = (
        {"OMP_NUM_THREADS": settings.vllm_threads} | ({"VLLM_API_KEY": key} if key else {}) | ({} if path else {"HF_HUB_OFFLINE": "0"})
    )
    return servers.vllm(
        path or settings.model,
        directory=DIRECTORY,
        served_name=settings.model,
        port=port,
        options=[*options, *settings.options],
        variables=variables,
        patience=settings.vllm_start,
    )


def nginx() -> str | None:
    """The nginx of this machine; distributions put it where only root looks."""
    if os.environ.get("ONEPIECE_GATEWAY", "") == "none":
        return None
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def start_gateway(program: str, settings: Settings, upstreams: dict[str, int]) -> Server:
    """nginx with the stack's own template."""
    directory = DIRECTORY / "nginx"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "access.log").touch()
    key_conf = 'map $http_authorization $onepiece_key {\n    default 0;\n    "~^Bearer %s$" 1;\n}\n'
    write_private(directory / "key.conf", key_conf % api_key())
    values = {
        "RUN": str(directory),
        "KEY_CONF": str(directory / "key.conf"),
        "ACCESS_LOG": str(directory / "access.log"),
        "RESOLVER": "",
        "LISTEN_HTTP": f"127.0.0.1:{settings.http}",
        "LISTEN_GRPC": f"127.0.0.1:{settings.grpc}",
        **settings.limits,
        **{name: f"127.0.0.1:{port}" for name, port in upstreams.items()},
    }
    template = (ROOT / "compose" / "gateway" / "nginx.conf.template").read_text(encoding="utf-8")
    configuration = directory / "nginx.conf"
    configuration.write_text(re.sub(r"\$\{ONEPIECE_([A-Z_]+)\}", lambda name: values[name.group(1)], template), encoding="utf-8")
    line = [program, "-e", "stderr", "-p", str(directory), "-c", str(configuration), "-g", "daemon off;"]
    return servers.start("gateway", line, {}, settings.url, "/healthz", {"http": settings.http, "grpc": settings.grpc}, DIRECTORY)
