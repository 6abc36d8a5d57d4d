"""The open loop, and percentiles. The closed loop, and more about a load, is in `onepiece.serving.load`.

    replies = run(closed_loop(ask, count=64, concurrency=8))       # 8 clients, each waits for its answer
    replies = run(open_loop(ask, poisson_arrivals(20.0, 64, seed=0)))   # requests come when they come

A closed loop asks less often when the server is slow, as a batch job does. An open loop does not, as users do: nobody out there waits
for somebody else's answer before asking. What a closed loop leaves out is known as *coordinated omission*.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence

from onepiece.serving.load import Ask, Result


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
