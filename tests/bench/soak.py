"""`nox -s bench -- --soak`: the stack under moderate load for half an hour, and the memory of each of its processes.

Not for a CI: it takes the time that it takes. What is asked differs from request to request: texts, lengths, streams, both servers. The
slope is that of the second half of the time: what grows there still grows after everything was once loaded, cached and fragmented.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from serving import missing_stack, stack, table

from onepiece.host.serving import watch

SAMPLE_SECONDS = 5.0
CLIENTS, PAUSE_SECONDS = 3, 0.5
BLOCKS = 8
STUDENT = 2.447  # of the t distribution with 6 degrees of freedom, as many as 8 blocks leave: 95%
PLATEAU = 0.01
BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Load:
    """Clients that ask one thing after the other, with pauses, until they are told to end."""

    port: int
    key: str
    statuses: Counter[str] = field(default_factory=Counter)
    _end: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    def end(self) -> None:
        self._end.set()

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._end.wait(chance.uniform(0, 2 * PAUSE_SECONDS)):
            prompt = f"{chance.randrange(100)} + {chance.randrange(100)} →" * chance.randint(1, 8)
            tokens = chance.choice((1, 16, 64, 200))
            if chance.random() < 0.7:
                content = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": chance.random() < 0.5}
                self._ask("vllm", "/v1/completions", content)
            else:
                content = {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": [prompt]}]}
                self._ask("triton", "/v2/models/tiny/infer", content)

    def _ask(self, server: str, path: str, content: dict[str, object]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
            connection.request("POST", path, json.dumps(content), headers)
            answer = connection.getresponse()
            answer.read()
            self.statuses[f"{server} {answer.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            self.statuses[f"{server} {type(error).__name__}"] += 1
        finally:
            connection.close()


def name_of(pid: int) -> str:
    """What a process is, in words."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "ended"
    for word, name in (
        ("onepiece.serving.servers", "guard"),
        ("EngineCore", "EngineCore"),
        ("api_server", "API server"),
        ("resource_tracker", "resource tracker"),
        ("python_backend_stub", "Python backend"),
        ("tritonserver", "tritonserver"),
        ("nginx: worker", "nginx worker"),
        ("nginx: master", "nginx master"),
    ):
        if word in line:
            return name
    return line.split(" ")[0].rpartition("/")[2] or "unnamed"


def slope(seconds: list[float], values: list[float]) -> tuple[float, float]:
    """Of the second half, per minute, and half of its interval of 95%.

    Neighbouring samples are nearly the same, and as single ones they would promise too much: the line is put through the means of blocks.
    """
    half = len(seconds) // 2
    times, later = seconds[half:], values[half:]
    size = len(times) // BLOCKS
    if size == 0:
        return math.nan, math.nan
    xs = [statistics.fmean(times[at * size : (at + 1) * size]) / 60 for at in range(BLOCKS)]
    ys = [statistics.fmean(later[at * size : (at + 1) * size]) for at in range(BLOCKS)]
    line = statistics.linear_regression(xs, ys)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    middle = statistics.fmean(xs)
    error = math.sqrt(left / (BLOCKS - 2) / sum((x - middle) ** 2 for x in xs))
    return line.slope, STUDENT * error


def drawn(values: list[float], width: int = 40) -> str:
    """The values from the least to the most, in as many columns."""
    low, high = min(values), max(values)
    picked = [values[round(at * (len(values) - 1) / (width - 1))] for at in range(width)]
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0] for value in picked)


def soak(console: Console, scratch: Path, minutes: float) -> None:
    """Run it and print a table; every sample goes to `soak.jsonl` beside where the command was typed."""
    if missing := missing_stack():
        sys.exit(f"nothing to soak: {missing}")
    samples: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    with stack(scratch / "home") as running, Path("soak.jsonl").open("w", encoding="utf-8") as written:
        load = Load(running["gateway"].ports["http"], (scratch / "home/runs/serving/key").read_text(encoding="utf-8"))
        threads = load.start()
        began = time.monotonic()
        while (now := time.monotonic() - began) < 60 * minutes:
            for server, entry in running.items():
                for pid, taken in watch.memory(entry.pid).items():
                    times, values = samples.setdefault((f"{server}: {name_of(pid)}", pid), ([], []))
                    times.append(now)
                    values.append(taken / 1e6)
                    written.write(json.dumps({"seconds": round(now, 1), "server": server, "pid": pid, "bytes": taken}) + "\n")
            time.sleep(SAMPLE_SECONDS)
        load.end()
        for thread in threads:
            thread.join(timeout=150)
    made = table(
        f"memory of {minutes:g} minutes under load, MB", "process", "first", "last", "most", "MB/min, 2nd half", "plateau", "drawn"
    )
    for (name, _), (times, values) in samples.items():
        rise, spread = slope(times, values)
        if max(values) < 20 or math.isnan(rise):  # guards, and what lived for moments
            continue
        level = "yes" if (rise + spread) * 10 <= PLATEAU * values[-1] else "no"
        row = (f"{values[0]:.0f}", f"{values[-1]:.0f}", f"{max(values):.0f}", f"{rise:+.2f} ± {spread:.2f}", level, drawn(values))
        made.add_row(name, *row)
    console.print(made)
    console.print(", ".join(f"{status}: {count}" for status, count in sorted(load.statuses.items())))
    console.print(f"plateau: by the upper end of the interval of 95%, at most {PLATEAU:.0%} more in ten minutes")
