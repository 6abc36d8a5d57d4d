"""The gateway's decisions, each against the bytes that a client sends and the bytes that a server gets. No server, no Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy_course
from gateway_alone import KEY, Answer, Upstream, answer_of, line, over_http2, raw
from parts import linux_only, missing

from onepiece.host.serving import gateway
from onepiece.serving import servers

pytestmark = linux_only

LIMITS = {"RATE": "10000", "BURST": "10000", "OPEN": "4", "BODY": "64k", "TIMEOUT": "20s"}
TEMPLATE = toy_course.ROOT / "compose/gateway"


@dataclass
class Gate:
    http: int
    grpc: int
    vllm: Upstream
    triton: Upstream
    server: servers.Server
    directory: Path

    def ask(self, request: bytes) -> Answer:
        return raw(self.http, request)


Opened = Callable[..., Gate]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    program = gateway.nginx()
    if program is None:
        missing("nginx", "nginx is not installed (Debian: apt install nginx-light)")
    running: list[Gate] = []
    with pytest.MonkeyPatch.context() as patch:

        def opened(**limits: str) -> Gate:
            directory = tmp_path_factory.mktemp("gateway")
            patch.setattr(gateway, "DIRECTORY", directory)
            patch.setattr(gateway, "_OURS", directory / "nginx")
            vllm, triton = Upstream(), Upstream()
            ports = {"http": servers.free_port(), "grpc": servers.free_port()}
            upstreams = {"VLLM": vllm.port, "TRITON_HTTP": triton.port, "TRITON_GRPC": servers.free_port()}  # nothing listens there: 503
            server = gateway.start(program, KEY, ports, LIMITS | limits, upstreams)
            running.append(Gate(ports["http"], ports["grpc"], vllm, triton, server, directory / "nginx"))
            return running[-1]

        yield opened
        for gate in running:
            gate.server.stop()
            gate.vllm.shutdown()
            gate.triton.shutdown()


@pytest.fixture(scope="module")
def gate(opened: Opened) -> Gate:
    return opened()


# --- one string is judged, and that one is forwarded ----------------------------------------------

VLLM = [
    "/v1/models",
    "/v1/completions",
    "/v1/models/org/name:tag",
    "/v1/",
    "/v1/models?a=/../b&c=%2f",
    "/v1/a..b/..c/.d",
    "/v1/a-b_c~d@e+f=g,h",
]
TRITON = [
    "/v2", "/v2/", "/v2/health/ready", "/v2/health/live", "/v2/models/tiny", "/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer",
    "/v2/models/tiny/generate_stream", "/v2/models/stats", "/v2/models/tiny/config", "/v2/models/tiny/infer?x=1",
]  # fmt: skip
OPERATOR = [
    "/v2/repository/index", "/v2/repository/models/x/load", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status", "/v2/trace/setting",
    "/v2/logging", "/v2/models/tiny/trace/setting", "/v2/models/tiny/versions/1/trace/setting", "/v2/unknown", "/v2/models/tiny/infer/more",
]  # fmt: skip
ELSEWHERE = ["/", "/metrics", "/health", "/v1", "/v3/x", "/V1/models", "/load", "/invocations", "/v2x"]
NOT_PLAIN = [
    "/metrics/../v1/models", "/v1/../metrics", "/v1/./models", "/v1/models/..", "/v1/models/.", "/metrics/..%2fv1/x", "/v1/%2e%2e/metrics",
    "/v1/models%2fx", "/v1/models%5cx", "/v1\\models", "/v1//models", "//v1/models", "/v1/models//", "/v1/%6dodels", "/v1/models%00", "/v1/a;b/c",
    "/v1/models#/../x", "/v1/models?a#b", "/v2/repository/../index", "/v2/health/../repository/index", "/v2/models/../repository/index",
    "/v2/models/x/../../repository/index", "/v2/models/tiny/%74race/setting", "/v2/repositor%79/index", "/v2//repository/index",
    "/v2/models/tiny/trac%65", "http://x/v1/models", "http://x/metrics", "HTTP://127.0.0.1/v2/repository/index", "http://x/v1/../metrics", "/v1/é",
]  # fmt: skip


@pytest.mark.fault("path-read-twice")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", [*VLLM, *TRITON])
def test_what_is_let_through_arrives_as_it_was_sent(gate: Gate, path: str, method: str) -> None:
    upstream = gate.vllm if path.startswith("/v1") else gate.triton
    before = len(gate.vllm.lines) + len(gate.triton.lines)
    assert gate.ask(line(path, method)).status == 200
    assert upstream.lines[-1] == f"{method} {path} HTTP/1.1"
    assert len(gate.vllm.lines) + len(gate.triton.lines) == before + 1
    assert "authorization" not in upstream.headers[-1]


@pytest.mark.fault("path-read-twice")
@pytest.mark.parametrize(
    ("path", "status"), [*((path, 403) for path in OPERATOR), *((path, 404) for path in ELSEWHERE), *((path, 400) for path in NOT_PLAIN)]
)
def test_every_other_form_of_a_path_ends_here(gate: Gate, path: str, status: int) -> None:
    before = len(gate.vllm.lines) + len(gate.triton.lines)
    answer = gate.ask(line(path))
    assert answer.status == status and "error" in json.loads(answer.body), (path, answer)
    assert gate.ask(line(path, key="")).status in (401, 400), "and without a key nobody is told more"
    assert len(gate.vllm.lines) + len(gate.triton.lines) == before


SERVICE = "/inference.GRPCInferenceService"


@pytest.mark.fault("path-read-twice")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(
            (f"{SERVICE}/{name}", 503)
            for name in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
        ),
        *((f"{SERVICE}/{name}", 503) for name in ("ModelStreamInfer", "ModelConfig", "ModelStatistics")),
        *((f"{SERVICE}/{name}", 403) for name in ("RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryRegister", "TraceSetting")),
        *((f"{SERVICE}/{name}", 403) for name in ("CudaSharedMemoryStatus", "LogSettings", "ModelInferX", "modelinfer", "")),
        *((f"{SERVICE}/{name}", 400) for name in ("../x", "x/../RepositoryIndex", "Repositor%79Index", "%2e%2e/x", "./ModelInfer")),
        *(
            (path, 400)
            for path in (f"/{SERVICE}/ModelInfer", f"/x/..{SERVICE}/ModelInfer", f"{SERVICE}//ModelInfer", f"{SERVICE}%2fModelInfer")
        ),
        *((path, 404) for path in ("/", "/grpc.health.v1.Health/Check", "/inferencexGRPCInferenceService/ModelInfer", "/v2/health/live")),
    ],
)
def test_grpc_methods_are_those_of_clients_and_written_plainly(gate: Gate, path: str, status: int) -> None:
    assert over_http2(gate.grpc, path) == status  # 503: it was let through, to where nothing listens
    assert over_http2(gate.grpc, path, key="") in (401, 400)


def test_the_log_says_what_was_asked_and_not_what_became_of_it(gate: Gate) -> None:
    gate.ask(line("/v1/../metrics?secret=1", "PUT", "X-Request-Id: asked-so"))
    entries = [json.loads(entry) for entry in (gate.directory / "access.log").read_text(encoding="utf-8").splitlines()]
    (entry,) = [entry for entry in entries if entry["id"] == "asked-so"]
    assert (entry["method"], entry["path"], entry["status"]) == ("PUT", "/v1/../metrics", 400)


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.fault("bearer-case")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_has_no_case_and_the_key_has(gate: Gate, scheme: str) -> None:
    assert gate.ask(line("/v1/models", key=f"{scheme} {KEY}")).status == 200
    assert gate.ask(line("/v1/models", key=f"{scheme}  {KEY}")).status == 200
    for wrong in (KEY.lower(), KEY.upper(), KEY[:-1], f"{KEY}x", f"{KEY} {KEY}", f"x{KEY}", ""):
        answer = gate.ask(line("/v1/models", key=f"{scheme} {wrong}"))
        assert answer.status == 401 and answer.headers["www-authenticate"] == 'Bearer realm="onepiece"', wrong
    assert gate.ask(line("/v1/models", key=f"{scheme}{KEY}")).status == gate.ask(line("/v1/models", key=KEY)).status == 401
    assert over_http2(gate.grpc, f"{SERVICE}/ModelInfer", key=f"{scheme} {KEY}") == 503


def gateways_key(directory: Path, key: str) -> subprocess.CompletedProcess[str]:
    """What `start.sh` does with a key; in place of nginx stands what ends well."""
    for name in ("nginx", "envsubst"):
        (directory / name).write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        (directory / name).chmod(0o755)
    (directory / "key").write_text(key, encoding="utf-8")
    variables = {
        "ONEPIECE_KEY_FILE": str(directory / "key"),
        "ONEPIECE_RUN": str(directory),
        "ONEPIECE_KEY_CONF": str(directory / "key.conf"),
    }
    path = f"{directory}:{os.environ['PATH']}"
    return subprocess.run(["sh", str(TEMPLATE / "start.sh")], env=variables | {"PATH": path}, capture_output=True, text=True, timeout=20)


@pytest.mark.fault("no-key-no-start")
def test_in_a_container_a_key_that_keeps_nobody_out_ends_the_start(tmp_path: Path) -> None:
    for bad in ("", "short", "a" * 31, "a" * 257, "a" * 40 + ".", ".*" * 20, "a b" * 20, "a" * 40 + '"; }', "ä" * 40):
        done = gateways_key(tmp_path, bad)
        assert done.returncode == 2 and "nothing is started" in done.stderr, bad
        assert not (tmp_path / "key.conf").exists()
    assert gateways_key(tmp_path, KEY + "\n").returncode == 0
    assert (tmp_path / "key.conf").read_text(encoding="utf-8") == gateway._KEY_CONF.format(key=KEY), "as the local way writes it"


# --- what is refused, and in which words ----------------------------------------------------------


@pytest.mark.fault("encoded-bodies")
@pytest.mark.parametrize("path", ["/v1/completions", "/v2/models/tiny/infer"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity", "gzip, identity", "x"])
def test_a_body_that_would_unfold_behind_the_limit_is_refused(gate: Gate, path: str, coding: str) -> None:
    answer = gate.ask(line(path, "POST", f"Content-Encoding: {coding}", body=b"{}"))
    assert answer.status == 415 and "must not be encoded" in answer.body
    assert gate.ask(line(path, "POST", "Transfer-Encoding: gzip, chunked")).status in (400, 501)
    assert over_http2(gate.grpc, f"{SERVICE}/ModelInfer", grpc_encoding=coding) == (503 if coding == "identity" else 415)


@pytest.mark.fault("encoded-bodies")
def test_of_two_encodings_none_reaches_the_server(gate: Gate) -> None:
    answer = gate.ask(line("/v1/completions", "POST", "Content-Encoding:", "Content-Encoding: gzip", body=b"{}"))
    assert answer.status in (200, 415) and "content-encoding" not in gate.vllm.headers[-1]


@pytest.mark.fault("gateway-errors")
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /v1/models\r\n\r\n", 0, ""),  # HTTP/0.9
        (b"GET /v1/a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\r\n\r\n", 400, "invalid_request"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "invalid_request"),  # without a Host
        (line("/v1/models", "CONNECT"), 405, "method_not_allowed"),
        (line("/v1/models", "TRACE"), 405, "method_not_allowed"),
        (line("/v1/" + "a" * 20000), 414, "uri_too_long"),
        (line("/v1/models", "GET", "X: " + "a" * 20000), 431, "headers_too_large"),
        (line("/v1/completions", "POST", body=b"x" * 70_000), 413, "request_too_large"),
        (line("/v1/models", "POST", "Transfer-Encoding: gzip"), 501, "unsupported_encoding"),
        (line("/nowhere"), 404, "not_found"),
        (line("/v1/../x"), 400, "invalid_request"),
        (line("/v1/x", key=""), 401, "invalid_api_key"),
    ],
)
def test_the_gateways_own_errors_are_json(gate: Gate, request_: bytes, status: int, code: str) -> None:
    answer = gate.ask(request_)
    if code:
        assert answer.status == status, answer
        assert answer.headers["content-type"] == "application/json"
        error = json.loads(answer.body)["error"]
        assert error["code"] == code and error["message"] and set(error) == {"message", "type", "param", "code"}
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "<html" not in answer.body.lower()


@pytest.mark.fault("gateway-errors")
def test_of_triton_they_have_the_form_of_its_own(gate: Gate) -> None:
    for path, status in (("/v2/repository/index", 403), ("/v2/../x", 400), ("/v2/models/tiny/infer", 413)):
        answer = gate.ask(line(path, "POST", body=b"x" * 70_000 if status == 413 else b""))
        assert answer.status == status and isinstance(json.loads(answer.body)["error"], str)


# --- places are for work --------------------------------------------------------------------------


@pytest.mark.fault("slow-bodies")
def test_bodies_that_come_slowly_take_no_place_of_requests_that_came_whole(gate: Gate) -> None:
    slow = [socket.create_connection(("127.0.0.1", gate.http), timeout=20) for _ in range(64)]
    try:
        for connection in slow:
            connection.sendall(line("/v1/completions", "POST", "Content-Length: 100") + b"{")
        time.sleep(0.3)
        assert [gate.ask(line("/v1/completions", "POST", body=b"{}")).status for _ in range(4)] == [200] * 4
        for connection in slow[:4]:
            connection.sendall(b" " * 99)
        assert [answer_of(connection).status for connection in slow[:4]] == [200] * 4, "and they are answered when they are whole"
    finally:
        for connection in slow:
            connection.close()


def test_more_than_a_server_may_have_are_told_to_come_back(gate: Gate) -> None:
    gate.vllm.go_on.clear()
    waiting = [socket.create_connection(("127.0.0.1", gate.http), timeout=20) for _ in range(4)]
    try:
        for connection in waiting:
            connection.sendall(line("/v1/completions", "POST", body=b"{}"))
        time.sleep(0.3)
        refused = gate.ask(line("/v1/completions", "POST", body=b"{}"))
        assert refused.status == 503 and refused.headers["retry-after"] == "1" and "as many requests as it may" in refused.body
        assert gate.ask(line("/v2/health/ready")).status == 200, "the other server has places of its own"
        gate.vllm.go_on.set()
        assert [answer_of(connection).status for connection in waiting] == [200] * 4
        assert gate.ask(line("/v1/models")).status == 200
    finally:
        gate.vllm.go_on.set()
        for connection in waiting:
            connection.close()


def test_too_many_in_a_second_are_told_so(opened: Opened) -> None:
    gate = opened(RATE="1", BURST="1")
    answers = [gate.ask(line("/v1/models")) for _ in range(4)]
    assert {answer.status for answer in answers} == {200, 429}
    assert answers[-1].headers["retry-after"] == "1" and json.loads(answers[-1].body)["error"]["type"] == "rate_limit_error"


@pytest.mark.fault("stop-under-load")
def test_draining_answers_what_is_under_way_and_sends_the_rest_back(opened: Opened) -> None:
    gate = opened()
    gate.vllm.go_on.clear()
    with socket.create_connection(("127.0.0.1", gate.http), timeout=20) as under_way:
        under_way.sendall(line("/v1/completions", "POST", body=b"{}"))
        time.sleep(0.2)
        began = time.monotonic()
        draining = threading.Thread(target=gateway.drain)
        draining.start()
        time.sleep(0.3)  # nginx reads its configuration
        refused = gate.ask(line("/v1/models"))
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        gate.vllm.go_on.set()
        assert answer_of(under_way).status == 200
    draining.join(timeout=10)
    assert time.monotonic() - began < 5, "it waits no longer than what is under way"
    assert gate.ask(line("/v1/models")).status == 503


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.fault("loose-umask")
def test_nobody_else_may_change_the_configuration_or_read_the_key(opened: Opened) -> None:
    before = os.umask(0)
    try:
        gate = opened()
    finally:
        os.umask(before)
    for name in ("nginx.conf", "key.conf"):
        assert (gate.directory / name).stat().st_mode & 0o777 == 0o600, name


@pytest.mark.skipif(shutil.which("envsubst") is None, reason="gettext-base is not installed")
def test_both_ways_fill_in_the_template_alike(gate: Gate) -> None:
    text = (TEMPLATE / "nginx.conf.template").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"\$\{(ONEPIECE_[A-Z_]+)\}", text)))
    made = (gate.directory / "nginx.conf").read_text(encoding="utf-8")
    assert not re.search(r"\$\{ONEPIECE_[A-Z]", made)
    done = subprocess.run(
        ["envsubst", " ".join(f"${{{name}}}" for name in names)], input=text, capture_output=True, text=True, env=dict.fromkeys(names, "x")
    )
    assert done.stdout.count("$onepiece_plain") == made.count("$onepiece_plain"), "nginx's own variables are left alone"
