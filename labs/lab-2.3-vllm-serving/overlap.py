"""How much of a load happens at the same time: as its clients see it, and as it is answered.

The two are not the same. A server that answers one request after the other lets clients wait side by side, so that all of them are under
way at once; but no answer grows beside another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onepiece.serving.load import most_at_once
from onepiece.serving.streaming import Reply


class Span(NamedTuple):
    """From one moment to another, in seconds on `time.perf_counter`."""

    sent: float
    ended: float


def asked_at_once(replies: Sequence[Reply]) -> int:
    """How many clients waited at the same moment, at most, for the beginning of an answer or for its end."""
    return most_at_once([Span(reply.intended, reply.ended) for reply in replies])


def answered_at_once(replies: Sequence[Reply]) -> int:
    """How many answers had begun and were not complete at the same moment, at most.

    Raises:
        IndexError: a reply has no event.
    """
    return most_at_once([Span(reply.times[0], reply.ended) for reply in replies])
