"""Load for a server, in a closed loop: so many clients, each of which asks again as soon as it has its answer.

NVIDIA's `perf_analyzer` does this, and more, from the SDK container. A closed loop never overloads a server: if it is slow, the clients
wait, and ask less often.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from inference_client import REFUSED

RETRY_SECONDS = 0.2
"""Between two attempts: a server that starts does not need a storm of them."""


@dataclass(frozen=True)
class Measured:
    """What so many clients saw."""

    concurrency: int
    seconds: float
    latencies: tuple[float, ...]
    """Seconds, of each request that was answered."""

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` of the requests did not exceed (nearest rank)."""
        return sorted(self.latencies)[math.ceil(len(self.latencies) * percent / 100) - 1]


def closed_loop(clients: Sequence[Any], ask: Callable[[Any, int], object], requests: int) -> Measured:
    """Ask `requests` times in all: each client in a thread of its own, one request at a time.

    Args:
        ask: client and number of the request -> whatever it answers; an exception ends the measurement.
    """
    numbers, latencies = iter(range(requests)), []
    taking = threading.Lock()

    def work(client: Any) -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            began = time.perf_counter()
            ask(client, number)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(work, client) for client in clients]:
            done.result()
    return Measured(len(clients), time.perf_counter() - began, tuple(latencies))


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these spans (begin, end) overlap at the worst moment; one that ends when another begins does not overlap it."""
    # SOLUTION 8
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])  # at one moment, ends come before begins
    most = current = 0
    for _, change in changes:
        current += change
        most = max(most, current)
    return most
    # END SOLUTION


@dataclass
class Ledger:
    """What a set of clients knows about their requests when the server has been away."""

    answers: dict[int, Any] = field(default_factory=dict)
    """Number of the request -> its answer: it was acknowledged."""
    failures: list[int] = field(default_factory=list)
    """Numbers of requests that got no answer; a request may fail several times."""


def ask_until_answered(
    connect: Callable[[], Any], ask: Callable[[Any, int], Any], requests: int, *, clients: int, patience: float
) -> Ledger:
    """Closed loop that survives a restart: what gets no answer is asked again, on a new connection.

    That is safe because asking twice does no harm here: inference changes nothing. (A sequence, or a payment, would need a number that the
    server knows again.)

    Args:
        connect: makes a client.
        ask: client and number of the request -> answer.
        patience: seconds after which a request is given up for good; it is then missing from the answers. 0 asks once.
    """
    ledger, taking, numbers = Ledger(), threading.Lock(), iter(range(requests))

    def work() -> None:
        client = connect()
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                break
            client = _until_answered(client, connect, ask, number, ledger, patience)
        client.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work) for _ in range(clients)]:
            done.result()
    return ledger


def _until_answered(
    client: Any, connect: Callable[[], Any], ask: Callable[[Any, int], Any], number: int, ledger: Ledger, patience: float
) -> Any:
    """Ask one question until it is answered or given up; returns the client that is connected now."""
    deadline = time.monotonic() + patience
    while number not in ledger.answers:
        try:
            ledger.answers[number] = ask(client, number)
        except REFUSED:
            ledger.failures.append(number)
            client.close()
            time.sleep(RETRY_SECONDS)
            client = connect()
            if time.monotonic() > deadline:
                break
    return client
