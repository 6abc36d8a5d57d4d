"""What Triton tells Prometheus: the text of its metrics port, read without a library."""

from __future__ import annotations

import re

from onepiece.serving.metrics import Labels, Samples, fetch
from onepiece.serving.servers import Server
from onepiece.serving.waiting import unchanged

SETTLE_SECONDS = 15.0
"""Patience until the metrics stand still."""


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
    return fetch(f"http://127.0.0.1:{server.ports['metrics']}")


def settled_metrics(server: Server, pause: float = 0.3) -> Samples:
    """The metrics once they stand still for `pause` seconds: the server counts a request after it has sent the answer.

    Raises:
        TimeoutError: they never stand still, so that nothing can be read off them.
    """

    def of_models() -> Samples:
        return {key: value for key, value in parse_metrics(fetch_metrics(server)).items() if key[0].startswith("nv_inference_")}

    return unchanged(of_models, seconds=SETTLE_SECONDS, pause=pause, what=f"the metrics of {server.url} stand still")
