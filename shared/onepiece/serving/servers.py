"""Real inference servers of this machine: vLLM and Triton, from their wheels, on loopback, ended with whoever started them.

    server = vllm(checkpoints.directory("tiny"), directory=run, options=("--enable-lora",))
    server.url                           # http://127.0.0.1:41283
    server.stop()

    server = shared(lab.artifact("server.json"), lambda: vllm(...))     # one start for all notebooks of a run

Standard library only: `nox -s serving` and the labs start the same servers in the same way. The environments are `vllm-cpu` and
`triton-cpu`, which exist for Linux on x86-64. The image of a lab that starts a server has it inside, and says by the variable
`ONEPIECE_SERVER` which one: "cpu", the same build in /opt/server, or "cuda", the vendor's own, which uses the GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.places import ENVIRONMENTS, SHARED

READY_SECONDS = 300.0
"""Patience until a server answers; vLLM needs some 11 seconds of one core (26 the first time), Triton with a torch model some 10."""
_STOP_SECONDS = 15.0
_WATCH_SECONDS = 0.5
_LOG_LINES = 12
_IMAGE_SERVER = Path("/opt/server")
_VLLM_ON_CPU = (
    *("--enforce-eager", "--dtype", "float32"),
    # The model in the engine's own process, as on one GPU. vLLM's default on a CPU is a process of its own, for whose answer the engine
    # spins: on two cores, eight requests that came together were now and then served one after the other.
    *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
    *("--block-size", "32", "--kv-cache-memory-bytes", "64M", "--max-model-len", "256"),
)
_SETTINGS = "ONEPIECE_SERVER_SETTINGS"  # what the guard sets for the server, as JSON


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is running, or was."""

    name: str
    """`vllm` or `triton`."""
    pid: int
    """Of its guard: the process that ends the server when the owner is gone."""
    url: str
    """Of its HTTP port; for Triton see `ports` too."""
    ports: dict[str, int]
    """`http`; Triton also has `grpc` and `metrics`."""
    log: Path
    command: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z" and "onepiece.serving.servers" in Path(f"/proc/{self.pid}/cmdline").read_text(encoding="utf-8")

    def tail(self, lines: int = _LOG_LINES) -> str:
        """The last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def stop(self) -> None:
        """End it in order; nothing happens if it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would: at once, with whatever it was doing."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if not self.alive:
            return
        os.kill(self.pid, number)
        deadline = time.monotonic() + _STOP_SECONDS + 5
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)

    def save(self, path: Path) -> None:
        """Write it down for another notebook of the run."""
        path.write_text(json.dumps(asdict(self) | {"log": str(self.log)}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Server:
        """What `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"log": Path(content["log"]), "command": tuple(content["command"])})


def shared(path: Path, start: Callable[[], Server]) -> Server:
    """The server that an earlier notebook of this run wrote to `path` if it is alive, otherwise a new one, written there.

    It ends with the run: its owner is the runner, not the notebook.
    """
    if path.exists():
        server = Server.load(path)
        if server.alive:
            return server
    server = start()
    server.save(path)
    return server


def vllm(
    model: Path | str,
    *,
    directory: Path,
    served_name: str = "tiny",
    port: int | None = None,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    patience: float = READY_SECONDS,
) -> Server:
    """Start vLLM's OpenAI-compatible server and wait until it answers.

    Args:
        model: a directory in Transformers' format.
        directory: where its log goes.
        served_name: what clients call the model.
        port: None takes a free one.
        options: more options of the server, such as `--enable-lora`; a later one wins over the defaults here.
        variables: more environment variables, such as `VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
        patience: seconds until it must answer; a model of a hub is downloaded first.

    Raises:
        UserError: "no-server" (its environment is missing), "server-failed" (with the log's last lines).
    """
    port = port or free_port()
    settings = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    # Each start imports vLLM in two processes, one after the other: without compiled bytecode 27 s, with it 13 s.
    settings["PYTHONDONTWRITEBYTECODE"] = ""
    where = ["--served-model-name", served_name, "--host", "127.0.0.1", "--port", str(port)]
    if official():
        command = ["vllm", "serve", str(model), *where, *options]
    else:
        python = environment_python("vllm-cpu")
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *where, *_VLLM_ON_CPU, *options]
        settings |= _vllm_on_cpu(python)
    url = f"http://127.0.0.1:{port}"
    return start("vllm", command, settings | dict(variables or {}), url, "/health", {"http": port}, directory, patience)


def _vllm_on_cpu(python: Path) -> dict[str, str]:
    # Otherwise the first request for log-probabilities waits 13 s for a compiler, in eager mode too.
    settings = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}
    library = next(iter(sorted(python.parent.parent.rglob("libiomp5.so"))), None)
    if library is None:
        return settings | {"LD_PRELOAD": ""}
    # Without this library loaded first, vLLM binds threads of another OpenMP. By its name, because a space in LD_PRELOAD ends a path.
    found = os.pathsep.join([str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return settings | {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": found}


def triton(
    repository: Path | str,
    *,
    directory: Path,
    ports: Mapping[str, int] | None = None,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Server:
    """Start Triton Inference Server on a model repository and wait until it is ready.

    Args:
        repository: of models for the Python backend, whose models find torch and transformers.
        directory: where its log and its copy of the backends go.
        ports: `http`, `grpc`, `metrics`; free ones for those that are missing.
        options: more options of `tritonserver`, such as `--model-control-mode=explicit`.

    Raises:
        UserError: "model-missing" (there is no such repository), or as `vllm`.
    """
    if not Path(repository).is_dir():  # the server would wait for it, and never be live
        raise UserError("model-missing", path=repository)
    chosen = {"http": 0, "grpc": 0, "metrics": 0} | dict(ports or {})
    chosen = {name: port or free_port() for name, port in chosen.items()}
    program, settings = _official_triton() if official() else _triton_on_cpu(directory)
    command = [
        *program, "--model-repository", str(repository), "--exit-on-error", "false",
        *(f"--{name}-address=127.0.0.1" for name in chosen), *(f"--{name}-port={port}" for name, port in chosen.items()), *options,
    ]  # fmt: skip
    url = f"http://127.0.0.1:{chosen['http']}"
    return start("triton", command, settings | dict(variables or {}), url, "/v2/health/live", chosen, directory)


def _official_triton() -> tuple[list[str], dict[str, str]]:
    """The vendor's server: what is typed, and its variables. Its Python models import what the notebooks can."""
    return ["tritonserver"], {"HF_HUB_OFFLINE": "1", "PYTHONPATH": sysconfig.get_path("purelib")}


def _triton_on_cpu(directory: Path) -> tuple[list[str], dict[str, str]]:
    """The server inside the nvidia-pytriton wheel, with its backends laid out below `directory` as in the vendor's image."""
    python = environment_python("triton-cpu")
    packages = next((python.parent.parent / "lib").glob("python*/site-packages"))
    source, installed = packages / "pytriton" / "tritonserver", directory / "tritonserver"
    if not installed.exists():
        shutil.copytree(source / "backends", installed / "backends")
        shutil.copytree(source / "caches", installed / "caches")
        stub = source / "python_backend_stubs" / packages.parent.name.removeprefix("python") / "triton_python_backend_stub"
        shutil.copy2(stub, installed / "backends" / "python" / stub.name)
    backends = ["--backend-directory", str(installed / "backends"), "--cache-directory", str(installed / "caches")]
    settings = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(packages),
        # The stub must find the libpython that it was built for, and the server its own libraries.
        "LD_LIBRARY_PATH": os.pathsep.join([str(packages / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR") or "")]),
    }
    return [str(source / "bin" / "tritonserver"), *backends, "--allow-gpu-metrics", "false"], settings


def official() -> bool:
    """Whether the servers here are the vendors' own, as in the images for GPUs."""
    return os.environ.get("ONEPIECE_SERVER") == "cuda"


def environment_python(name: str) -> Path:
    """The interpreter of a server's environment.

    Raises:
        UserError: "no-server".
    """
    if os.environ.get("ONEPIECE_SERVER") == "cpu":
        return _IMAGE_SERVER / "bin" / "python"
    path = ENVIRONMENTS / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}" / "bin" / "python"
    if not path.exists():
        raise UserError("no-server", name=name)
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a GET of `url`, on this machine, is answered with success; never through a proxy, which would not find it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout):
            return True
    except (urllib.error.URLError, OSError):
        return False


def start(
    name: str,
    command: Sequence[str],
    settings: Mapping[str, str],
    url: str,
    ready: str,
    ports: dict[str, int],
    directory: Path,
    patience: float = READY_SECONDS,
) -> Server:
    """Start any server under a guard and wait until a GET of `url + ready` succeeds, for at most `patience` seconds.

    Raises:
        UserError: "port-taken", "server-failed"; nothing is left running then.
    """
    taken = [port for port in ports.values() if not is_free(port)]
    if taken:
        raise UserError("port-taken", port=taken[0], name=name)
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}-{ports['http']}.log"
    owner = os.environ.get("ONEPIECE_RUNNER_PID") or str(os.getpid())
    guard = [sys.executable, "-m", "onepiece.serving.servers", owner, *command]
    # Not on the command line, which every user of the machine can read: there may be a key among them.
    variables = os.environ | {"PYTHONPATH": str(SHARED), _SETTINGS: json.dumps(dict(settings))}
    with log.open("ab") as stream:  # a session of its own: Ctrl-C reaches the owner, who ends the server in order
        process = subprocess.Popen(guard, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, env=variables)
    server = Server(name, process.pid, url, ports, log, tuple(command))
    deadline = time.monotonic() + patience
    try:
        while not answers(url + ready):
            if process.poll() is not None or time.monotonic() > deadline:
                why = "it ended" if process.poll() is not None else f"it did not answer within {patience:.0f} s"
                raise UserError("server-failed", name=name, reason=why, log=log, tail="\n" + server.tail())
            time.sleep(0.2)
    except BaseException:
        server.stop()
        raise
    return server


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# --- the guard ----------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """`python -m onepiece.serving.servers OWNER_PID COMMAND...`: run the command until it or its owner ends.

    SIGTERM ends it in order, SIGUSR1 at once.
    """
    owner, *command = arguments
    settings = json.loads(os.environ.pop(_SETTINGS, "{}"))
    child = subprocess.Popen(command, env=os.environ | settings, start_new_session=True)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda received, _: asked.append(received))
    while child.poll() is None and not asked and Path(f"/proc/{owner}").exists():
        time.sleep(_WATCH_SECONDS)
    if child.poll() is None:
        _end(child, signal.SIGKILL if signal.SIGUSR1 in asked else signal.SIGTERM)
    _end(child, signal.SIGKILL)  # workers that outlive the main process
    return child.wait()


def _end(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(child.pid, number)
        child.wait(timeout=_STOP_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
