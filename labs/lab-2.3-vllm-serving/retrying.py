"""When may a client say "done", and what does it do otherwise?

    ledger = run(complete_all(ask, count=32, attempts=6, seed=0))

A ledger has one entry for each request: its last reply and all its attempts. Nothing is a success because no error was seen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from onepiece.serving.streaming import Reply

TEMPORARY = frozenset({0, 408, 425, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed; 0: the connection broke. Everything else will be refused again."""
BASE_SECONDS = 0.1
LONGEST_SECONDS = 4.0


def succeeded(reply: Reply) -> bool:
    """Whether the answer is complete.

    A stream that breaks off looks like a short answer: its status is 200, its tokens are right. It is complete only if the server said
    why it ended (`finish_reason` is `stop` or `length`; `abort` is none), and if the stream itself ended in order (`[DONE]`).
    """
    # SOLUTION 6
    return reply.status == 200 and reply.done and reply.finish_reason in ("stop", "length")
    # END SOLUTION


def retry_delay(attempt: int, status: int, generator: random.Random) -> float | None:
    """Seconds to wait after attempt number `attempt` (from 0) failed; None if trying again is of no use.

    Exponential backoff with full jitter: a random number between 0 and `BASE_SECONDS` times 2 to the power of `attempt`, but never
    more than between 0 and `LONGEST_SECONDS`. Without the randomness all refused clients would come back at the same moment.
    A status of 200 here means that the stream broke off: that is temporary too.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    # SOLUTION 7
    if status != 200 and status not in TEMPORARY:
        return None
    return generator.uniform(0, min(LONGEST_SECONDS, BASE_SECONDS * 2**attempt))
    # END SOLUTION


@dataclass(slots=True)
class Entry:
    """What became of one request."""

    replies: list[Reply]
    """One for each attempt."""

    @property
    def last(self) -> Reply:
        """The reply that counts."""
        return self.replies[-1]

    @property
    def complete(self) -> bool:
        """Whether the client may tell its user that it has the answer."""
        return succeeded(self.last)


async def complete_all(
    ask: Callable[[int], Awaitable[Reply]], *, count: int, attempts: int, seed: int, until: asyncio.Event | None = None
) -> list[Entry]:
    """Send `count` requests at once and repeat what failed and may succeed.

    Args:
        attempts: of each request, at most.
        seed: of the waiting times.
        until: no attempt after a failure begins before this is set; None: nothing to wait for.
    """
    generator = random.Random(seed)
    ledger = [Entry([]) for _ in range(count)]

    async def one(number: int) -> None:
        for attempt in range(attempts):
            reply = await ask(number)
            ledger[number].replies.append(reply)
            wait = None if succeeded(reply) else retry_delay(attempt, reply.status, generator)
            if wait is None:
                return
            await asyncio.sleep(wait)
            if until is not None:
                await until.wait()

    await asyncio.gather(*(one(number) for number in range(count)))
    return ledger
