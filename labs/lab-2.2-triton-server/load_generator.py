"""Load for a server: how much of it is under way at once, and clients that survive the server's restart.

The closed loop itself is `closed_loop_in_threads` of `onepiece.serving.load`. NVIDIA's `perf_analyzer` does that, and more, from the SDK
container.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from inference_client import REFUSED

RETRY_SECONDS = 0.2
"""Between two attempts: a server that starts does not need a storm of them."""


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
