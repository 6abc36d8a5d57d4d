"""What a server says about itself: the text of `/metrics`, in the format of Prometheus. `onepiece.serving.metrics` reads with it.

    before = read_idle(server.url)
    ...
    total(changes(before, read_idle(server.url)), "vllm:generation_tokens_total")

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. A counter only grows, so what one looks at is a difference; a
gauge is what it is at this moment; a histogram is a set of counters (`_count`, `_sum`, and a `_bucket` for each upper bound).
"""

from __future__ import annotations

import re
from functools import partial

from onepiece.serving import metrics
from onepiece.serving.metrics import Samples

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


read_idle = partial(metrics.read_idle, parse=parse)
read_with = partial(metrics.read_with, parse=parse)
