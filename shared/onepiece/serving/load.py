"""Load: many requests at once, in the two ways there are, and what to say about their times.

    replies = run(closed_loop(ask, count=64, concurrency=8))            # 8 clients, each waits for its answer
    replies = run(open_loop(ask, poisson_arrivals(20.0, 64, seed=0)))   # requests come when they come

A closed loop asks less often when the server is slow, as a batch job does: it never overloads a server. An open loop does, as users do:
nobody out there waits for somebody else's answer before asking. What a closed loop leaves out is known as *coordinated omission*.

All times are in seconds on `time.perf_counter`. Standard library only: `ask` brings its client with it, such as
`lambda number, intended: stream(client, bodies[number], intended=intended)` (`onepiece.serving.streaming`).
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")
Client = TypeVar("Client")
Ask = Callable[[int, float], Awaitable[Result]]
"""(number of the request, when it should be sent) -> its reply."""


class Timed(Protocol):
    """A request that has a beginning and an end, such as an `Answered` or a `Reply` of `onepiece.serving.streaming`."""

    @property
    def sent(self) -> float:
        """When it was sent."""

    @property
    def ended(self) -> float:
        """When its answer was there, or the end of it."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[Result]):
    """A request whose client blocks until the answer is there."""

    sent: float
    ended: float
    answer: Result

    @property
    def seconds(self) -> float:
        """From the question to the answer."""
        return self.ended - self.sent


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run asynchronous work from a notebook, whose own event loop is busy with the notebook."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


# --- closed loop --------------------------------------------------------------------------------------------


async def closed_loop(ask: Ask[Result], *, count: int, concurrency: int) -> list[Result]:
    """`concurrency` clients share `count` requests; each sends its next one when it has the answer to the last.

    Returns:
        The replies in the order of their numbers. An exception of `ask` ends the load.
    """
    waiting = iter(range(count))
    replies: dict[int, Result] = {}

    async def client() -> None:
        for number in waiting:
            replies[number] = await ask(number, time.perf_counter())

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return [replies[number] for number in range(count)]


def closed_loop_in_threads(clients: Sequence[Client], ask: Callable[[Client, int], Result], count: int) -> list[Answered[Result]]:
    """The same for clients that block: each has a thread of its own, and asks one thing at a time.

    Args:
        clients: as many as requests are to be under way; none is used by two threads at once.
        ask: client and number of the request -> its answer.
        count: requests of all clients together.

    Returns:
        The requests in the order of their numbers. An exception of `ask` ends its client, and is raised when the others are done.
    """
    numbers, taking = iter(range(count)), threading.Lock()
    found: dict[int, Answered[Result]] = {}

    def work(client: Client) -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            sent = time.perf_counter()
            answer = ask(client, number)
            found[number] = Answered(sent, time.perf_counter(), answer)

    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(work, client) for client in clients]:
            done.result()
    return [found[number] for number in range(count)]


# --- open loop ----------------------------------------------------------------------------------------------


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

    `ask` is told when the request *should* have been sent: a client that was held up has waited too.

    Returns:
        The replies in the order of the arrivals. An exception of `ask` ends the load.
    """
    began = time.perf_counter()

    async def one(number: int, arrival: float) -> Result:
        await asyncio.sleep(began + arrival - time.perf_counter())
        return await ask(number, began + arrival)

    return await asyncio.gather(*(one(number, arrival) for number, arrival in enumerate(arrivals)))


# --- what to say about it -----------------------------------------------------------------------------------


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that at least `percent` percent of them do not exceed ("nearest rank").

    It is one of the values: nothing is invented between two of them.

    Args:
        values: in any order.
        percent: above 0, up to 100.

    Raises:
        ValueError: there are no values, or no such percentile.
    """
    ordered = sorted(values)
    if not ordered or not 0 < percent <= 100:
        msg = f"there is no p{percent:g} of {len(ordered)} values"
        raise ValueError(msg)
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]  # times first: 0.55 * 100 is more than 55


def span(requests: Sequence[Timed]) -> float:
    """Seconds from the first beginning to the last end.

    Raises:
        ValueError: there are no requests.
    """
    return max(request.ended for request in requests) - min(request.sent for request in requests)


def throughput(requests: Sequence[Timed]) -> float:
    """Requests per second; leave out those that were refused, which are quick."""
    return len(requests) / span(requests)


def mean_at_once(requests: Sequence[Timed]) -> float:
    """How many requests were under way on average, between the first beginning and the last end."""
    return sum(request.ended - request.sent for request in requests) / span(requests)


def most_at_once(requests: Sequence[Timed]) -> int:
    """How many requests were under way at the same moment, at most; one that ends when another begins is not under way with it."""
    moments = sorted([(request.sent, 1) for request in requests] + [(request.ended, -1) for request in requests])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
