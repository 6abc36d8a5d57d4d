"""What the local stack does about servers that fail, told without them: keys, probes, memory, restarts, logs."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from parts import linux_only
from rich.console import Console

from onepiece.course.errors import UserError
from onepiece.host.commands import serving
from onepiece.host.serving import keeping, keys, probe, stack, watch

pytestmark = linux_only


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "serving"
    monkeypatch.setattr(keys, "DIRECTORY", place)
    monkeypatch.setattr(keys, "_KEY", place / "key")
    monkeypatch.setattr(keeping, "DIRECTORY", place)
    return place


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.fault("no-key-no-start")
@pytest.mark.parametrize("key", ["", "\n", "short", "a" * 31, "a" * 257, "a" * 40 + '"', "a" * 40 + "\nb", ".*" * 20, "鑰" * 40])
def test_a_key_that_keeps_nobody_out_is_refused(directory: Path, key: str) -> None:
    keys.api_key()
    (directory / "key").write_text(key, encoding="utf-8")
    with pytest.raises(UserError) as error:
        keys.api_key()
    assert error.value.code == "serving-key" and "32 to 256" in error.value.cause.en


@pytest.mark.fault("no-key-no-start")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o777])
def test_a_key_that_others_may_read_or_change_is_refused(directory: Path, mode: int) -> None:
    assert len(keys.api_key()) == 64 and keys.api_key() == keys.api_key()
    (directory / "key").chmod(mode)
    with pytest.raises(UserError) as error:
        keys.api_key()
    assert error.value.code == "serving-key" and f"{mode:o}" in error.value.cause.en


@pytest.mark.fault("no-key-no-start")
def test_it_is_looked_at_before_anything_starts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.private_directory()
    keys.write_private(directory / "key", "")
    monkeypatch.setattr(serving, "_state", dict)
    with pytest.raises(UserError) as error:
        serving._refuse_early(stack.Settings(http=1, grpc=2))
    assert error.value.code == "serving-key"


@pytest.mark.fault("no-key-no-start")
def test_a_stack_that_answers_without_the_key_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(serving.servers, "answers", lambda url: asked.append(url) or True)
    with pytest.raises(UserError) as error:
        serving._refuse_open(stack.Settings(http=18999), {"vllm": Fake("vllm")})  # type: ignore[dict-item]
    assert error.value.code == "serving-open" and asked == ["http://127.0.0.1:18999/v1/models"]
    monkeypatch.setattr(serving.servers, "answers", lambda _: False)
    serving._refuse_open(stack.Settings(http=18999), {})


@pytest.mark.fault("loose-umask")
def test_what_is_secret_is_private_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0)
    try:
        keys.api_key()
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o700 and (directory / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault("one-port-twice")
def test_one_port_for_two_things_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_state", dict)
    with pytest.raises(UserError) as error:
        serving._refuse_early(stack.Settings(http=18999, grpc=18999))
    assert error.value.code == "usage" and "both 18999" in error.value.cause.en


def test_options_that_no_shell_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_VLLM_OPTIONS", "'x")
    with pytest.raises(UserError) as error:
        stack.Settings()
    assert error.value.code == "usage" and "ONEPIECE_VLLM_OPTIONS='x" in error.value.cause.en


@pytest.mark.parametrize("text", ["[1]", "null", "3", '"x"', "{}", '{"owner": "x"}'])
def test_a_state_that_is_not_ours_is_none(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    keys.private_directory()
    (directory / "state.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(serving, "_STATE", directory / "state.json")
    assert serving._state() == {}


def test_sizes_are_those_of_compose() -> None:
    assert [stack._bytes(text) for text in ("8g", "512M", "3k", "7", "7b")] == [8 * 2**30, 512 * 2**20, 3072, 7, 7]


# --- health is work -------------------------------------------------------------------------------


@dataclass
class Answering:
    """A server whose answers to POST are given; whatever is asked with GET, it is well."""

    status: int = 200
    seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def answering() -> Iterator[Answering]:
    made = Answering()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            time.sleep(made.seconds)
            self.send_response(made.status)
            self.end_headers()
            self.wfile.write(b"said so")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.mark.fault("probe-does-no-work")
def test_a_server_that_says_it_is_well_and_answers_no_request_is_not_well(answering: Answering) -> None:
    for kind in ("vllm", "triton"):
        answering.status = 200
        assert probe.one_token(kind, answering.url, "m", "k") == ""
        assert "m" in json.dumps(answering.asked[-1]) and answering.asked[-1]["key"] == "Bearer k"
        answering.status = 500
        assert probe.one_token(kind, answering.url) == "HTTP 500 said so"
    answering.status = 404
    assert probe.one_token("vllm", answering.url) == "" and probe.one_token("triton", answering.url)
    answering.status, answering.seconds = 200, 1.0
    assert "within 0.1 s" in probe.one_token("triton", answering.url, timeout=0.1)
    assert "refused" in probe.one_token("vllm", "http://127.0.0.1:9")


def test_it_asks_for_one_token(answering: Answering) -> None:
    probe.one_token("vllm", answering.url)
    probe.one_token("triton", answering.url)
    assert answering.asked[0]["max_tokens"] == 1 and answering.asked[1]["inputs"][1]["data"] == [1]


@pytest.mark.fault("probe-does-no-work")
def test_in_a_container_so_many_failures_after_it_was_well_end_it(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_COUNT", tmp_path / "count")
    killed: list[int] = []
    monkeypatch.setattr(probe.os, "kill", lambda pid, _: killed.append(pid))

    def asked(times: int, status: int, *options: str) -> list[int]:
        answering.status = status
        return [probe.main([*options, "triton", answering.url]) for _ in range(times)]

    assert asked(5, 500, "--end") == [1] * 5 and not killed, "it is starting"
    assert asked(1, 200, "--end") == [0] and asked(2, 500, "--end") == [1, 1] and not killed
    assert asked(1, 200, "--end") == [0], "which forgets those before"
    assert asked(4, 500) == [1] * 4 and not killed, "only where it is asked to: outside of containers process 1 is not ours"
    assert asked(1, 200, "--end") == [0] and asked(3, 500, "--end") == [1] * 3 and killed == [1]


def test_the_probe_is_one_file_that_any_python_runs(answering: Answering) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", probe.__file__, "triton", answering.url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    Path("/tmp/onepiece-health").unlink(missing_ok=True)


@pytest.mark.fault("probe-does-no-work")
def test_three_failures_in_a_row_are_wrong_and_a_server_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.0)
    said = iter(["bad", "bad", "", "bad", "bad", "worse"])
    health = watch.Health(lambda: next(said, "worse"))
    seen = []
    deadline = time.monotonic() + 10
    while not (wrong := health.wrong()) and time.monotonic() < deadline:
        seen.append(len(health.failed))
        time.sleep(0.005)
    assert wrong == "worse" and seen.count(0), "it was well in between"
    held = threading.Event()
    hangs = watch.Health(lambda: str(held.wait(20))[:0])
    began = time.monotonic()
    assert [hangs.wrong() for _ in range(3)] == [""] * 3 and time.monotonic() - began < 1
    held.set()


# --- restarts, memory, logs -----------------------------------------------------------------------


@pytest.mark.fault("one-budget")
def test_restarts_are_counted_of_each_server_and_within_a_time() -> None:
    restarts = watch.Restarts(600.0)
    assert [restarts.count(name, 0.0) for name in ("vllm", "triton", "gateway", "vllm")] == [1, 1, 1, 2]
    assert restarts.count("vllm", 700.0) == 1


@dataclass
class Fake:
    """A server as far as it is watched."""

    name: str
    alive: bool = True
    pid: int = os.getpid()
    log: Path = Path("the.log")
    url: str = "http://127.0.0.1:9"
    killed: int = 0

    def tail(self) -> str:
        return f"the end of {self.name}"

    def kill(self) -> None:
        self.killed += 1


@pytest.mark.fault("one-budget")
def test_the_error_names_the_server_that_failed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.private_directory()
    monkeypatch.setattr(keeping.time, "sleep", lambda _: None)
    monkeypatch.setattr(keeping, "asks", lambda *_: lambda _: "")
    running = {name: Fake(name) for name in ("triton", "vllm", "gateway")}
    deaths = iter(["vllm", "triton", "gateway", "vllm", "vllm", "triton", "vllm"])
    monkeypatch.setattr(keeping, "started", lambda _, name, *__: die(Fake(name)))

    def die(fresh: Any) -> Any:
        running[fresh.name] = fresh
        running[next(deaths)].alive = False
        return fresh

    running[next(deaths)].alive = False
    with pytest.raises(UserError) as error:
        keeping.keep_running(Console(quiet=True), stack.Settings(), running, dict.fromkeys(running))  # type: ignore[arg-type]
    assert error.value.code == "server-restarts"
    assert error.value.cause.en.startswith("vllm failed 4 times within 10 minutes") and "the end of vllm" in error.value.cause.en


@pytest.mark.fault("no-memory-limit")
def test_a_server_that_takes_too_much_memory_is_wrong_with_all_that_it_started() -> None:
    child = "import time; held = bytearray(200_000_000); print('held', flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        taken = watch.memory(process.pid)
        assert len(taken) == 2 and 200_000_000 < sum(taken.values()) < 400_000_000
        fake = Fake("triton", pid=process.pid)
        health = watch.Health(lambda: "")
        assert "GiB of memory" in keeping._what_is_wrong(fake, 150_000_000, health)  # type: ignore[arg-type]
        assert keeping._what_is_wrong(fake, 10**9, health) == ""  # type: ignore[arg-type]
    finally:
        for pid in watch.family(process.pid):
            os.kill(pid, 9)
        process.wait(timeout=20)
        process.stdout.close()
    assert watch.memory(process.pid) == {}


@pytest.mark.fault("logs-grow")
def test_logs_are_cut_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOG_BYTES", 1000)
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as stream:
        for number in range(6):
            stream.write(bytes([65 + number]) * 1500)
            watch.rotate([log])
        stream.write(b"after")
    assert log.read_bytes() == b"after"
    assert [(tmp_path / f"a.log.{number}").read_bytes()[:1] for number in (1, 2)] == [b"F", b"E"]
    assert not (tmp_path / "a.log.3").exists()
