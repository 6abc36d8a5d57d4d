"""What a server says about itself: the text of `/metrics`, in the format of Prometheus.

    before = read(server.url)
    ...
    total(changes(before, read(server.url)), "vllm:generation_tokens_total")

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. A counter only grows, so what one looks at is a difference; a
gauge is what it is at this moment; a histogram is a set of counters (`_count`, `_sum`, and a `_bucket` for each upper bound).
"""

from __future__ import annotations

import re
import time

import httpx2

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels sorted by name) -> value."""

LABEL = re.compile(r'(\w+)="((?:\\.|[^"\\])*)"')
"""One label: its name, and its value, in which a backslash escapes a quote."""


def parse(text: str) -> Samples:
    """The samples of a page of metrics.

    A line is `name value` or `name{label="value",...} value`; lines that begin with `#` are comments. The value is whatever `float`
    reads, `+Inf` and `1e+06` too. A label's value may hold spaces, commas and braces: the sample's value is what stands after the
    *last* space. (vLLM writes no timestamps, which the format allows after it.)
    """
    # SOLUTION 2
    samples: Samples = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        series, _, value = line.strip().rpartition(" ")
        name, _, labels = series.partition("{")
        samples[name, tuple(sorted(LABEL.findall(labels)))] = float(value)
    return samples
    # END SOLUTION


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all series of a name that have these labels; 0 if there is none."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= set(has))


def changes(before: Samples, after: Samples) -> Samples:
    """By how much each series has grown; one that is new began at 0."""
    return {series: value - before.get(series, 0.0) for series, value in after.items()}


def label(samples: Samples, name: str, wanted: str) -> str:
    """The value of a label; some facts about a server are labels of a series whose value is always 1.

    Raises:
        KeyError: no series of that name has that label.
    """
    for (found, labels), _ in samples.items():
        if found == name and wanted in dict(labels):
            return dict(labels)[wanted]
    raise KeyError(wanted)


def read(url: str) -> Samples:
    """The metrics of a server at this moment."""
    return parse(httpx2.get(f"{url}/metrics", timeout=30.0, trust_env=False).raise_for_status().text)


def read_idle(url: str, *, seconds: float = 30.0) -> Samples:
    """The metrics as soon as no request is running or waiting: then everything has been counted.

    Raises:
        TimeoutError: the server is still busy after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        samples = read(url)
        if total(samples, "vllm:num_requests_running") + total(samples, "vllm:num_requests_waiting") == 0:
            return samples
        if time.monotonic() > deadline:
            msg = f"{url} is still busy"
            raise TimeoutError(msg)
        time.sleep(0.05)


async def read_with(client: httpx2.AsyncClient) -> Samples:
    """The same, while other requests of this client run."""
    answer = await client.get("/metrics")
    return parse(answer.raise_for_status().text)
