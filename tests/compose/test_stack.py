"""`docker compose up serving`, for real, on a machine without a GPU: what clients are promised, and what a crash may cost them."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
import toy_course
from requests_to import ANSWER, GRPC, PROMPT, Client, Load, together, until
from stack import Stack
from watched import expressions, metrics_in

from onepiece.serving import metrics

KILL = """
import os, signal
for entry in filter(str.isdigit, os.listdir("/proc")):  # what init started, not init: the engine must see a crash
    with open(f"/proc/{entry}/stat") as file:
        state = file.read().rpartition(")")[2].split()
    if entry != str(os.getpid()) and state[1] == "1":
        os.kill(int(entry), signal.SIGKILL)
"""


def test_everything_is_up_in_order_and_nothing_is_root(stack: Stack) -> None:
    print(f"up to healthy: {stack.seconds:.0f} s")
    for service in ("vllm", "triton", "serving", "prometheus"):
        state = stack.inspect(service)
        assert state["State"]["Health"]["Status"] == "healthy"
        assert state["HostConfig"]["ReadonlyRootfs"] and state["HostConfig"]["CapDrop"] == ["ALL"]
        user = stack.compose("exec", "-T", service, "id", "-u").strip()
        assert user not in ("", "0"), service
    for service in ("vllm", "triton"):
        mounts = stack.compose("exec", "-T", service, "cat", "/proc/mounts")
        assert "noexec" not in next(line for line in mounts.splitlines() if line.split()[1] == "/tmp"), (
            "compiled kernels are loaded from there"
        )
    assert stack.inspect("key")["State"]["ExitCode"] == 0
    assert stack.inspect("serving")["State"]["StartedAt"] > stack.inspect("key")["State"]["FinishedAt"]


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models/tiny", "/v2/health/ready", "/metrics", "/"])
def test_without_the_key_there_is_nothing(stack: Stack, path: str) -> None:
    key = stack.client.key
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    for wrong in ("", "wrong", key[:-1], key + "0", key.upper() if key.upper() != key else "x", f"{key} {key}"):
        answer = Client(stack.client.port, wrong).ask(path)
        assert answer.status == 401, (path, wrong)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        error = answer.json["error"]  # in the form of the server that was meant: Triton's is a text
        assert "key" in error if path.startswith("/v2") else error["code"] == "invalid_api_key"
    assert Client(stack.client.port).ask("/healthz").json == {"status": "ok"}


def test_with_the_key_an_openai_client_is_answered(stack: Stack) -> None:
    code = (
        "import os; from openai import OpenAI\n"
        "client = OpenAI(base_url='http://serving:8080/v1', api_key=os.environ['ASKED_WITH'], max_retries=0)\n"
        f"print(client.completions.create(model='tiny', prompt='{PROMPT}', max_tokens=4, temperature=0).choices[0].text)\n"
        "parts = client.chat.completions.create(model='tiny', messages=[{'role': 'user', 'content': '27 + 15'}], max_tokens=8, stream=True)\n"
        "print(sum(1 for _ in parts))\n"
    )
    said, count = stack.python("vllm", code, ASKED_WITH=stack.client.key).splitlines()
    assert said == ANSWER and int(count) >= 2
    refused = (
        code.partition("print")[0]
        + "import openai\ntry:\n    client.models.list()\nexcept openai.AuthenticationError as e:\n    print(e.code)"
    )
    assert stack.python("vllm", refused, ASKED_WITH="wrong").strip() == "invalid_api_key"


def test_the_key_outlives_a_new_start(stack: Stack) -> None:
    stack.compose("run", "--rm", "key")
    assert stack.compose("exec", "-T", "serving", "cat", "/run/onepiece/key") == stack.client.key


# --- what clients are promised --------------------------------------------------------------------


def test_tokens_arrive_one_by_one(stack: Stack) -> None:
    answer = stack.client.complete(200, stream=True, ignore_eos=True, pieces=True)
    assert answer.status == 200 and answer.body.rstrip().endswith(b"[DONE]")
    first, last = answer.pieces[0], answer.pieces[-1]
    print(f"first piece after {first:.3f} s, last after {last:.3f} s, {len(answer.pieces)} pieces")
    # A gateway that gathers hands over 64 kB at a time: all of this in two or three pieces, at the end.
    assert len(answer.pieces) >= 20 and first < 0.9 * last


def test_triton_answers_over_http_and_grpc(stack: Stack) -> None:
    (text, count) = stack.client.infer().json["outputs"]
    assert text["data"] == [ANSWER.strip()] or text["data"] == [ANSWER]
    assert 1 <= count["data"][0] <= 4
    code = GRPC.format(address="serving:8081", prompt=PROMPT)
    assert stack.python("triton", code, ASKED_WITH=stack.client.key).split() == [ANSWER.strip(), "StatusCode.UNAUTHENTICATED"]
    assert "max_tokens is 999" in stack.client.infer(tokens=999).json["error"]
    for path in ("/v2/repository/index", "/v2/systemsharedmemory/status", "/v2/logging"):
        assert stack.client.ask(path).status == 403


def test_triton_batches_what_waits_together(stack: Stack) -> None:
    read = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8002/metrics').read().decode())"

    def counted() -> tuple[float, float]:
        samples = metrics.parse(stack.python("triton", read))
        return metrics.total(samples, "nv_inference_count"), metrics.total(samples, "nv_inference_exec_count")

    before = counted()
    answers = together(16, stack.client.infer)
    inferences, executions = (now - then for now, then in zip(counted(), before, strict=True))
    assert [answer.json["outputs"][0]["data"] for answer in answers] == [answers[0].json["outputs"][0]["data"]] * 16
    assert 16 <= inferences <= 18 and executions < inferences  # health may have asked in between


def test_requests_have_names_and_the_log_has_neither_key_nor_prompt(stack: Stack) -> None:
    client = stack.client
    mine = client.complete(request_id="my-request.1")
    assert mine.headers["x-request-id"] == "my-request.1" and mine.json["id"] == "cmpl-my-request.1"
    made = client.complete(request_id='bad"id{}')
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])
    (entry,) = [entry for entry in stack.access_log() if entry["id"] == "my-request.1"]
    assert (entry["status"], entry["method"], entry["path"]) == (200, "POST", "/v1/completions") and entry["seconds"] > 0
    everything = "".join(stack.log(service) for service in ("serving", "vllm", "triton"))
    assert client.key not in everything and PROMPT not in everything


def test_too_large_is_refused(stack: Stack) -> None:
    answer = stack.client.ask("/v1/completions", b"x" * 2_000_000)
    assert answer.status == 413 and answer.json["error"]["code"] == "request_too_large"


def test_too_much_is_refused_at_once_and_then_it_recovers(stack: Stack) -> None:
    answers = together(120, lambda: stack.client.complete(8, ignore_eos=True))
    statuses = sorted(answer.status for answer in answers)
    print(f"{statuses.count(200)} answered, {statuses.count(429)} refused")
    assert set(statuses) == {200, 429} and statuses.count(200) >= 20  # of a burst of 40, less what the tests before took
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["retry-after"] == "1" and refused.json["error"]["type"] == "rate_limit_error"
    # Its first answer is looked at, not that of one more request: the limit lets one in every 50 ms, and the server may be quicker.
    until(lambda: answers.append(stack.client.complete()) or answers[-1].status == 200, 10, "answers again")
    assert answers[-1].json["choices"][0]["text"] == ANSWER


# --- what is watched ------------------------------------------------------------------------------


def test_every_metric_of_the_dashboard_and_the_alerts_exists(stack: Stack) -> None:
    until(lambda: stack.number('sum(up{job=~"vllm|triton"})') == 2, 60, "both are scraped")
    for expression in expressions():
        stack.prometheus(expression)  # compiles, or fails with its reason
        for name in metrics_in(expression):  # some exist from the first request on, and a scrape later here
            until(lambda name=name: bool(stack.prometheus(f"count({name})")), 15, f"there is {name}, which {expression} asks for")


def test_prometheus_counts_what_the_client_counts(stack: Stack) -> None:
    counters = {
        "requests": 'sum(http_requests_total{handler="/v1/completions",status="2xx"})',
        "prompt": "sum(vllm:prompt_tokens_total)",
        "generated": "sum(vllm:generation_tokens_total)",
        "triton": "sum(nv_inference_request_success)",
    }
    scraped = "max(timestamp(up{job=~'vllm|triton'}))"

    def counted() -> dict[str, float]:
        now = max(stack.number(scraped), 0)
        until(lambda: stack.number("min(timestamp(up{job=~'vllm|triton'}))") > now + 1, 60, "a scrape after this")
        return {name: stack.number(query) for name, query in counters.items()}

    began = time.monotonic()
    before = counted()
    answers = [stack.client.complete(6, ignore_eos=True) for _ in range(12)]
    inferred = [stack.client.infer().status for _ in range(5)]
    after = counted()
    assert {answer.status for answer in answers} == {200} and set(inferred) == {200}
    usage = [answer.json["usage"] for answer in answers]
    asked = {
        "requests": 12,
        "prompt": sum(one["prompt_tokens"] for one in usage),
        "generated": sum(one["completion_tokens"] for one in usage),
        "triton": 5,
    }
    more = {name: after[name] - before[name] - asked[name] for name in counters}
    print(f"beside these, health asked: {more}")
    health = (time.monotonic() - began) / 5 + 2  # times at most: each asks for one token, of a prompt of one or two
    assert all(0 <= more[name] <= health * (2 if name == "prompt" else 1) for name in counters)
    assert abs(more["requests"] - more["generated"]) <= 1


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.fault("crashing-server")
def test_a_killed_server_comes_back_and_nothing_that_succeeded_is_lost(stack: Stack) -> None:
    with Load(stack.client) as load:
        until(lambda: len(load.succeeded) >= 5, 60, "load")
        stack.python("vllm", KILL)
        until(lambda: bool(load.refused), 30, "refused while it is away")
        answered = len(load.succeeded)
        back = until(lambda: len(load.succeeded) > answered + 5, 300, "it comes back")
    print(f"answers again after {back:.0f} s")
    told = f"{len(load.succeeded)} succeeded, {len(load.streamed)} streams ended, {len(load.refused)} refused, broken off: {load.broken}"
    print(told)
    assert set(load.refused) <= {429, 503} and stack.inspect("vllm")["RestartCount"] == 1
    texts = {answer.json["choices"][0]["text"] for answer in load.succeeded.values()}
    assert len(texts) == 1, "each success is the whole answer, before the crash and after it"
    assert {answer.json["usage"]["completion_tokens"] for answer in load.succeeded.values()} == {64}
    assert len({answer.streamed_text for answer in load.streamed}) == 1, "each stream that ended is whole"
    served = {entry["id"] for entry in stack.access_log() if entry["status"] == 200}
    assert set(load.succeeded) <= served


def test_a_server_that_hangs_fires_the_alert_and_recovery_clears_it(stack: Stack) -> None:
    # Not by a crash: a quick machine has vLLM back before the alert, which waits for three scrapes, may fire.
    firing = 'ALERTS{alertname="ServerDown",alertstate="firing",job="vllm"}'
    until(lambda: stack.number('up{job="vllm"}') == 1 and not stack.prometheus(firing), 60, "all is well")
    stack.compose("pause", "vllm")
    try:
        fired = until(lambda: bool(stack.prometheus(firing)), 60, "the alert fires")
    finally:
        stack.compose("unpause", "vllm")
    cleared = until(lambda: not stack.prometheus(firing), 60, "the alert is cleared")
    print(f"alert after {fired:.0f} s, cleared {cleared:.0f} s after the recovery")
    assert stack.client.complete().json["choices"][0]["text"] == ANSWER


def test_the_gpus_triton_image_is_built_to_its_last_instruction(stand_ins: dict[str, str]) -> None:
    # With a small lock in place of gigabytes of CUDA, and without the vendor's server: what is ours is executed.
    root, tag = toy_course.ROOT, "onepiece-tests/serving-triton-gpu:test"
    arguments = ["--build-arg", f"BASE_IMAGE={stand_ins['ONEPIECE_CPU_BASE']}", "--file", str(root / "compose/triton/Dockerfile")]
    done = subprocess.run(["docker", "build", "--tag", tag, *arguments, str(root / "images/host")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    show = "import docker, os, pathlib; pathlib.Path.home().joinpath('x').touch(); print(os.getuid(), docker.__file__)"
    said = subprocess.run(["docker", "run", "--rm", "--cap-drop", "ALL", tag, "python3", "-c", show], capture_output=True, text=True)
    assert said.stdout.startswith("1000 /opt/models/packages/docker/"), said.stderr


def test_down_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes", "--timeout", "10")
    label = f"label=com.docker.compose.project={stack.name}"
    for command in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        done = subprocess.run(["docker", *command, "--quiet", "--filter", label], capture_output=True, text=True, check=True)
        assert done.stdout == "", command
