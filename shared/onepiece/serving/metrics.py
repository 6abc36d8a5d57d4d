"""What a server says about itself: the page `/metrics`, in the text format of Prometheus.

    before = read_idle(server.url)
    ...
    total(changes(before, read_idle(server.url)), "vllm:generation_tokens_total")

A counter only grows, so what one looks at is a difference; a gauge is what it is at this moment; a histogram is a set of counters:
`_count`, `_sum`, and a `_bucket` for each upper bound `le`, the last of which is `+Inf`.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. Standard library only.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

from onepiece.serving.waiting import until

if TYPE_CHECKING:
    import httpx2

Labels = tuple[tuple[str, str], ...]
"""(name, value) of each label, sorted by name."""
Samples = dict[tuple[str, Labels], float]
"""(name of the metric, its labels) -> value."""
Parse = Callable[[str], Samples]

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
"""vLLM's gauges of the requests that are in its batch, and of those in its queue."""
IDLE_SECONDS = 30.0
_FETCH_SECONDS = 30.0

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LABEL = re.compile(rf"\s*([a-zA-Z_]\w*)\s*=\s*{_QUOTED}\s*(?:,|$)", re.ASCII)
_SAMPLE = re.compile(
    rf"""(?P<name>[a-zA-Z_:][\w:]*)\s*
         (?:\{{(?P<labels>(?:[^"}}]|{_QUOTED})*)\}}\s*|\s)  # a brace inside of quotes does not end them
         (?P<value>\S+)
         (?:\s+[+-]?\d+)?                                   # milliseconds since 1970
    """,
    re.ASCII | re.VERBOSE,
)
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> Samples:
    """The samples of a page.

    A line is `name value` or `name{label="value",...} value`, with a time after it or none; lines that begin with `#` are comments. The
    value is what `float` reads: `3`, `1e+06`, `+Inf`, `NaN`. In a label's value anything may stand, a brace or a comma too; only a
    backslash, a quote and a line break are written with a backslash before them.

    Raises:
        ValueError: a line is no sample.
    """
    samples: Samples = {}
    for number, line in enumerate(text.split("\n"), start=1):  # not `splitlines`, which cuts at characters that a label may have
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line.strip())
        if found is None or _LABEL.sub("", found["labels"] or "").strip():
            msg = f"line {number} is no sample: {line[:100]!r}"
            raise ValueError(msg)
        labels = sorted((name, _unescape(value)) for name, value in _LABEL.findall(found["labels"] or ""))
        samples[found["name"], tuple(labels)] = float(found["value"])
    return samples


def _unescape(value: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPED.get(found[0], found[0]), value)


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all series of a name that have these labels; 0 if there is none."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= set(has))


def changes(before: Samples, after: Samples) -> Samples:
    """By how much each counter has grown between two readings.

    A series that is new began at 0. So did one that has fallen: counters never fall, so its server was started again in between, and what
    it counted before it ended, after the first reading, is lost (as for Prometheus' `increase`). Of a gauge a difference says nothing.
    """
    grown: Samples = {}
    for series, value in after.items():
        then = before.get(series, 0.0)
        grown[series] = value - then if value >= then else value
    return grown


def label(samples: Samples, name: str, wanted: str) -> str:
    """The value of a label; some facts about a server are labels of a series whose value is always 1.

    Raises:
        KeyError: no series of that name has that label.
    """
    for found, labels in samples:
        if found == name and wanted in dict(labels):
            return dict(labels)[wanted]
    raise KeyError(wanted)


# --- reading ------------------------------------------------------------------------------------------------


def fetch(url: str) -> str:
    """The text of `url`/metrics, never through a proxy.

    Args:
        url: such as `server.url`; Triton has a port for it alone, `server.ports["metrics"]`.

    Raises:
        urllib.error.URLError: nobody answers, or not with success.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/metrics", timeout=_FETCH_SECONDS) as answer:
        return str(answer.read().decode("utf-8"))


def read(url: str, *, parse: Parse = parse) -> Samples:
    """The metrics of a server at this moment; with another `parse`, as that one reads them.

    Raises:
        urllib.error.URLError: as `fetch`.
        ValueError: as `parse`.
    """
    return parse(fetch(url))


async def read_with(client: httpx2.AsyncClient, *, parse: Parse = parse) -> Samples:
    """The same by a client of `onepiece.serving.streaming`, while other requests of it run.

    Raises:
        httpx2.HTTPError: nobody answers, or not with success.
    """
    answer = await client.get("/metrics")
    return parse(answer.raise_for_status().text)


def is_idle(samples: Samples) -> bool:
    """Whether vLLM has no request, neither running nor waiting.

    Raises:
        ValueError: these are not vLLM's metrics; of another server nothing would look idle at once.
    """
    if not any(name == RUNNING for name, _ in samples):
        msg = f"there is no {RUNNING}: these are not vLLM's metrics"
        raise ValueError(msg)
    return total(samples, RUNNING) + total(samples, WAITING) == 0


def read_idle(url: str, *, seconds: float = IDLE_SECONDS, parse: Parse = parse) -> Samples:
    """The metrics of a vLLM as soon as it is idle: then everything has been counted.

    Raises:
        TimeoutError: it is still busy after `seconds`.
    """
    return until(lambda: read(url, parse=parse), is_idle, seconds=seconds, what=f"{url} is idle")
