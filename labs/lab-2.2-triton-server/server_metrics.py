"""What Triton tells Prometheus: the text of its metrics port, read without a library."""

from __future__ import annotations

import re
import time
import urllib.request

from onepiece.serving.servers import Server

Labels = tuple[tuple[str, str], ...]
"""Sorted pairs (name, value), such as (("model", "tiny"), ("version", "1"))."""


def parse_metrics(text: str) -> dict[tuple[str, Labels], float]:
    """(name of the metric, its labels) -> value, of the text format.

    A line is `name{label="value",label="value"} 12`, or `name 12` without labels. Lines that begin with # are comments, and empty ones
    are allowed. Values are numbers such as `3`, `0.25`, `1.5e+06`.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    # SOLUTION 9
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})?\s+(\S+)", line.strip()).groups()
        found[name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels or "")))] = float(value)
    return found
    # END SOLUTION


def fetch_metrics(server: Server) -> str:
    """The text of the metrics port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=10) as answer:
        return answer.read().decode("utf-8")


def total(metrics: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    """The sum of a metric over all label sets that have these labels."""
    return sum(value for (found, own), value in metrics.items() if found == name and labels.items() <= dict(own).items())


def settled_metrics(server: Server, seconds: float = 0.3) -> dict[tuple[str, Labels], float]:
    """The metrics once nothing is pending and they stand still: the server counts a request after it has sent the answer.

    Raises:
        TimeoutError: they never stand still, so that nothing can be read off them.
    """
    before: dict[tuple[str, Labels], float] = {}
    for _ in range(50):
        now = {key: value for key, value in parse_metrics(fetch_metrics(server)).items() if key[0].startswith("nv_inference_")}
        if now == before:
            return now
        before = now
        time.sleep(seconds)
    msg = f"the metrics of {server.url} do not stand still"
    raise TimeoutError(msg)
