"""Load: many requests at once, in the two ways there are, and what to say about their times.

    replies = run(closed_loop(ask, count=64, concurrency=8))       # 8 clients, each waits for its answer
    replies = run(open_loop(ask, poisson_arrivals(20.0, 64, seed=0)))   # requests come when they come

A closed loop asks less often when the server is slow, as a batch job does. An open loop does not, as users do: nobody out there waits
for somebody else's answer before asking. What a closed loop leaves out is known as *coordinated omission*.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")
Ask = Callable[[int, float], Awaitable[Result]]
"""(number of the request, when it should be sent) -> its reply."""


class Timed(Protocol):
    """What has a beginning and an end."""

    @property
    def sent(self) -> float: ...
    @property
    def ended(self) -> float: ...


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run asynchronous work from a notebook, whose own event loop is busy with the notebook."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that at least `percent` percent of them do not exceed ("nearest rank").

    It is one of the values: nothing is invented between two of them.

    Args:
        values: in any order.
        percent: above 0, up to 100.

    Raises:
        ValueError: there are no values.
    """
    # SOLUTION 3
    ordered = sorted(values)
    if not ordered:
        msg = "no values, no percentile"
        raise ValueError(msg)
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]  # times first: 0.55 * 100 is more than 55
    # END SOLUTION


async def closed_loop(ask: Ask[Result], *, count: int, concurrency: int) -> list[Result]:
    """`concurrency` clients share `count` requests; each sends its next one when it has the answer to the last."""
    waiting = iter(range(count))
    replies: dict[int, Result] = {}

    async def client() -> None:
        for number in waiting:
            replies[number] = await ask(number, time.perf_counter())

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return [replies[number] for number in range(count)]


def poisson_arrivals(rate: float, count: int, *, seed: int) -> list[float]:
    """When `count` requests of users who know nothing of each other arrive, in seconds from the start, ascending.

    The gaps between them are exponential with mean 1 / rate: a Poisson process.
    """
    generator = random.Random(seed)
    now, arrivals = 0.0, []
    for _ in range(count):
        now += generator.expovariate(rate)
        arrivals.append(now)
    return arrivals


async def open_loop(ask: Ask[Result], arrivals: Sequence[float]) -> list[Result]:
    """Send request `number` at `arrivals[number]` seconds from now, whether the earlier ones are answered or not.

    `ask` is told when the request *should* have been sent, on the clock `time.perf_counter`: a client that was held up has waited too.

    Returns:
        The replies in the order of the arrivals.
    """
    began = time.perf_counter()
    # SOLUTION 4

    async def one(number: int, arrival: float) -> Result:
        await asyncio.sleep(began + arrival - time.perf_counter())
        return await ask(number, began + arrival)

    return await asyncio.gather(*(one(number, arrival) for number, arrival in enumerate(arrivals)))
    # END SOLUTION


def most_at_once(replies: Sequence[Timed]) -> int:
    """How many requests were under way at the same moment, at most."""
    moments = sorted([(reply.sent, 1) for reply in replies] + [(reply.ended, -1) for reply in replies])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def mean_at_once(replies: Sequence[Timed]) -> float:
    """How many requests were under way on average, between the first beginning and the last end."""
    span = max(reply.ended for reply in replies) - min(reply.sent for reply in replies)
    return sum(reply.ended - reply.sent for reply in replies) / span
