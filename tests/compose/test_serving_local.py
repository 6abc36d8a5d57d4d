"""`nox -s serving` for real, without Docker: the servers from their wheels, this machine's nginx, and nothing left at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from parts import linux_only, missing
from requests_to import ANSWER, GRPC, PROMPT, Client, until
from toy_course import Checkout
from watched import expressions, metrics_in

from onepiece.course.errors import UserError
from onepiece.host.commands import serving
from onepiece.host.road import environments
from onepiece.host.serving import gateway, stack
from onepiece.serving import metrics, servers

pytestmark = linux_only

READY = 400.0  # seconds until the test gives up; two cores need 60 to 100, and 290 when ten others want them


@pytest.fixture
def real() -> None:
    """The real servers' environments."""
    for name in ("vllm-cpu", "triton-cpu"):
        if not environments.installed(name):
            missing("vllm", f"the environment {name} is not installed: nox -s serving -- --install")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """This checkout, with a home of its own by which its processes are known."""
    home = (tmp_path / "home").resolve()
    toy_course.link_environments(home)
    yield Checkout(toy_course.ROOT, home)
    for pid in toy_course.processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ports() -> dict[str, str]:
    return {"ONEPIECE_HTTP_PORT": str(servers.free_port()), "ONEPIECE_GRPC_PORT": str(servers.free_port())}


def started(checkout: Checkout, ports: dict[str, str], log: Path) -> subprocess.Popen[str]:
    """`nox -s serving` in a session of its own, as a terminal gives it one."""
    with log.open("w") as stream:
        return subprocess.Popen(
            checkout.nox_command("-s", "serving"),
            cwd=checkout.root,
            env=checkout.environ | ports,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=toy_course.hear_signals,
        )


def wait_for_it(checkout: Checkout, process: subprocess.Popen[str], log: Path) -> float:
    def ready() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        return checkout.host("serving", "--status").code == 0

    return until(ready, READY, f"ready; so far: {log.read_text(encoding='utf-8')}")


def over_grpc(address: str, key: str) -> list[str]:
    """What Triton answers with the key and with a wrong one; the client is in Triton's own environment."""
    code = GRPC.format(address=address, prompt=PROMPT)
    python = servers.environment_python("triton-cpu")
    done = subprocess.run([python, "-c", code], env=os.environ | {"ASKED_WITH": key}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def metrics_of(checkout: Checkout) -> set[str]:
    """The names of all metrics that the running servers have."""
    vllm, triton = (servers.Server.load(checkout.home / "runs/serving" / f"{name}.json") for name in ("vllm", "triton"))
    texts = [Client(port).ask("/metrics").body.decode("utf-8") for port in (vllm.ports["http"], triton.ports["metrics"])]
    return {name for text in texts for name, _ in metrics.parse(text)}


@pytest.mark.fault("crashing-server")
@pytest.mark.fault("probe-does-no-work")
def test_it_serves_survives_a_crash_and_ctrl_c_leaves_nothing(
    real: None, checkout: Checkout, ports: dict[str, str], tmp_path: Path
) -> None:
    if gateway.nginx() is None:
        missing("vllm", "nginx is not installed (a Debian package: nginx-light)")
    log = tmp_path / "output.txt"
    process = started(checkout, ports, log)
    print(f"ready after {wait_for_it(checkout, process, log):.0f} s")
    key = checkout.host("serving", "--key").output.strip()
    client = Client(int(ports["ONEPIECE_HTTP_PORT"]), key)
    assert client.complete().json["choices"][0]["text"] == ANSWER
    assert client.infer().json["outputs"][0]["data"] == [ANSWER.strip()]
    assert Client(client.port, "wrong").complete().status == 401
    assert over_grpc(f"127.0.0.1:{ports['ONEPIECE_GRPC_PORT']}", key) == [ANSWER.strip(), "StatusCode.UNAUTHENTICATED"]
    assert client.complete(60, stream=True, ignore_eos=True, pieces=True).pieces[1:], "in more than one piece"
    assert key not in " ".join(toy_course.processes_of(checkout.home).values())
    assert key not in checkout.host("serving", "--logs").output
    wanted = {name for expression in expressions() for name in metrics_in(expression)} - {"up"}
    assert wanted <= metrics_of(checkout), "what dashboards and alerts ask for"

    again = checkout.host("serving", **ports)
    assert again.code == 2 and "runs already" in again.words

    (stub,) = [pid for pid, line in toy_course.processes_of(checkout.home).items() if "/triton_python_backend_stub " in line]
    os.kill(stub, signal.SIGKILL)  # Triton itself says that it is ready, from now on and for ever
    assert client.ask("/v2/health/ready").status == 200
    until(lambda: "does not do its work" in checkout.host("serving", "--status").words, 20, "--status says that Triton does no work")
    print(f"back after {until(lambda: client.infer().status == 200, READY, 'Triton is started again'):.0f} s")

    (vllm,) = [
        pid
        for pid, line in toy_course.processes_of(checkout.home).items()
        if "api_server" in line and "onepiece.serving.servers" not in line
    ]
    os.kill(vllm, signal.SIGKILL)
    until(lambda: client.complete().status == 503, 20, "the gateway says that vLLM is away")
    print(f"back after {until(lambda: client.complete().status == 200, READY, 'vLLM is started again'):.0f} s")

    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=30)
    left = toy_course.left_of(checkout.home, 10)
    assert not left, left
    print(f"gone after {time.monotonic() - began:.1f} s")
    assert not (checkout.home / "runs/serving/state.json").exists()
    assert all(servers.is_free(int(port)) for port in ports.values())
    assert "Traceback" not in log.read_text(encoding="utf-8")


def test_in_the_background_without_nginx_vllm_asks_for_the_key_itself(real: None, checkout: Checkout, ports: dict[str, str]) -> None:
    done = checkout.host("serving", "--detach", **ports, ONEPIECE_GATEWAY="none")
    assert done.code == 0, done.output
    assert "no gateway" in done.words and "sudo apt install nginx-light" in done.words
    key = checkout.host("serving", "--key").output.strip()
    client = Client(int(ports["ONEPIECE_HTTP_PORT"]), key)
    assert client.complete().json["choices"][0]["text"] == ANSWER
    assert Client(client.port, "wrong").complete().status == 401
    assert key not in " ".join(toy_course.processes_of(checkout.home).values())
    assert checkout.host("serving", "--stop").code == 0
    left = toy_course.left_of(checkout.home, 10)
    assert not left, left
    assert checkout.host("serving", "--status").code == 1 and "Nothing is running" in checkout.host("serving", "--stop").output


@pytest.mark.fault("crashing-server")
def test_a_server_that_never_becomes_ready_shows_its_log_and_leaves_nothing(real: None, checkout: Checkout, ports: dict[str, str]) -> None:
    done = checkout.host("serving", **ports, ONEPIECE_MAX_MODEL_LEN="99999")
    assert done.code == 2
    assert "vllm did not become ready: it ended; its log ends:" in done.words and "99999" in done.words, done.output
    left = toy_course.left_of(checkout.home, 10)
    assert not left, left
    assert not (checkout.home / "runs/serving/state.json").exists()


@pytest.mark.fault("crashing-server")
@pytest.mark.parametrize("moment", ["tritonserver", "api_server"])
def test_ctrl_c_while_it_starts_leaves_nothing(real: None, checkout: Checkout, ports: dict[str, str], tmp_path: Path, moment: str) -> None:
    process = started(checkout, ports, tmp_path / "output.txt")
    until(lambda: moment in " ".join(toy_course.processes_of(checkout.home).values()), READY, f"{moment} is started")
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=40)
    left = toy_course.left_of(checkout.home, 15)
    assert not left, left
    assert not (checkout.home / "runs/serving/state.json").exists()
    assert "Traceback" not in (tmp_path / "output.txt").read_text(encoding="utf-8")


@pytest.mark.fault("killed-owner")
def test_a_nox_that_is_killed_takes_the_stack_with_it(real: None, checkout: Checkout, ports: dict[str, str], tmp_path: Path) -> None:
    process = started(checkout, ports, tmp_path / "output.txt")
    until(lambda: "tritonserver" in " ".join(toy_course.processes_of(checkout.home).values()), READY, "tritonserver is started")
    process.kill()
    process.wait(timeout=10)
    left = toy_course.left_of(checkout.home, 40)
    assert not left, left
    assert not (checkout.home / "runs/serving/state.json").exists()


@pytest.mark.parametrize("name", ["ONEPIECE_HTTP_PORT", "ONEPIECE_GRPC_PORT"])
def test_a_port_that_is_taken_is_said_before_anything_starts(checkout: Checkout, ports: dict[str, str], name: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(ports[name])))
        other.listen()
        done = checkout.host("serving", **ports)
    assert done.code == 2 and f"Port {ports[name]} of 127.0.0.1" in done.words and "is taken" in done.words
    assert not toy_course.left_of(checkout.home)


@pytest.mark.parametrize("model", ["/nowhere/at/all", "no-such-model", "./here"])
def test_a_model_that_is_not_there_is_said_before_anything_starts(checkout: Checkout, ports: dict[str, str], model: str) -> None:
    done = checkout.host("serving", **ports, ONEPIECE_MODEL=model)
    assert done.code == 2 and f"ONEPIECE_MODEL={model}" in done.words
    assert not toy_course.left_of(checkout.home)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ONEPIECE_HTTP_PORT", "http"),
        ("ONEPIECE_GRPC_PORT", "65536"),
        ("ONEPIECE_RATE", "0"),
        ("ONEPIECE_BODY", "lots"),
        ("ONEPIECE_TIMEOUT", "5 minutes"),
        ("ONEPIECE_VLLM_START", "soon"),
    ],
)
def test_a_value_that_is_wrong_is_said_before_anything_starts(checkout: Checkout, ports: dict[str, str], name: str, value: str) -> None:
    done = checkout.host("serving", **ports | {name: value})
    assert done.code == 2 and f"{name}={value} is not understood. The default is " in done.words
    assert not toy_course.left_of(checkout.home)


def test_values_are_those_that_compose_and_nginx_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HTTP_PORT": "65535", "BODY": "512k", "TIMEOUT": "10m", "VLLM_START": "15m", "VLLM_THREADS": "2"}.items():
        monkeypatch.setenv(f"ONEPIECE_{name}", value)
    settings = stack.Settings()
    assert (settings.http, settings.vllm_start, settings.vllm_threads) == (65535, 900.0, "2")
    assert (settings.limits["BODY"], settings.limits["TIMEOUT"]) == ("512k", "10m")


def test_a_model_is_a_name_a_directory_or_one_of_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = toy_course.ROOT / "shared/checkpoints/tiny"
    for model, path in (("", tiny), ("tiny", tiny), (str(tiny), tiny), ("Qwen/Qwen2.5-0.5B-Instruct", None)):
        monkeypatch.setenv("ONEPIECE_MODEL", model)
        monkeypatch.delenv("ONEPIECE_MODELS", raising=False)
        assert stack.Settings().path() == path


def test_elsewhere_docker_is_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for system, machine in (("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")):
        monkeypatch.setattr(serving.sys, "platform", {"Darwin": "darwin", "Linux": "linux", "Windows": "win32"}[system])
        monkeypatch.setattr(serving.platform, "system", lambda system=system: system)
        monkeypatch.setattr(serving.platform, "machine", lambda machine=machine: machine)
        with pytest.raises(UserError) as error:
            serving._refuse_elsewhere()
        assert error.value.code == "serving-elsewhere" and "docker compose up serving" in error.value.remedy.en
