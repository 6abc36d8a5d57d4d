"""Loads against a real server in a thread, and what is said about their times against numbers worked out by hand."""

from __future__ import annotations

import asyncio
import http.client
import random
import statistics
import threading
import time
from itertools import pairwise

import pytest
from small_server import Question, serving

from onepiece.serving import load
from onepiece.serving.load import Answered, closed_loop, closed_loop_in_threads, open_loop, percentile, poisson_arrivals, run
from onepiece.serving.streaming import Reply, stream, with_client

BODY = {"model": "tiny", "prompt": [1], "max_tokens": 1}
ANSWER = b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def numbered(number: int) -> dict[str, object]:
    return BODY | {"number": number}


def asked_numbers(questions: list[Question]) -> list[int]:
    return [question.body["number"] for question in questions]


# --- closed loop --------------------------------------------------------------------------------------------


def test_a_closed_loop_asks_everything_once_with_as_many_at_once_as_clients() -> None:
    first = threading.Barrier(3)
    asked = iter(range(100))

    def reply(question: Question) -> None:
        if next(asked) < 3:
            first.wait(30)  # the first are answered when all clients have asked
        question.stream(ANSWER)

    with serving(reply) as server:
        replies = with_client(
            server.url,
            lambda client: closed_loop(
                lambda number, intended: stream(client, numbered(number), intended=intended), count=12, concurrency=3
            ),
        )
    assert sorted(asked_numbers(server.questions)) == list(range(12))
    assert all(reply.complete for reply in replies)
    assert server.most_at_once == load.most_at_once(replies) == 3


def test_the_replies_of_a_closed_loop_are_in_the_order_of_their_numbers() -> None:
    async def ask(number: int, intended: float) -> int:
        await asyncio.sleep(0.002 * (5 - number))  # later ones end earlier
        return number

    assert run(closed_loop(ask, count=5, concurrency=5)) == [0, 1, 2, 3, 4]
    assert run(closed_loop(ask, count=2, concurrency=5)) == [0, 1]
    assert run(closed_loop(ask, count=0, concurrency=5)) == []


def test_an_exception_ends_a_closed_loop() -> None:
    asked = []

    async def ask(number: int, intended: float) -> None:
        asked.append(number)
        await asyncio.sleep(0)
        if number == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(closed_loop(ask, count=1000, concurrency=2))
    assert len(asked) < 10


# --- closed loop of clients that block ----------------------------------------------------------------------


class Blocking:
    """A client that refuses to be used by two threads at once."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        self.used = threading.Lock()

    def ask(self, number: int) -> bytes:
        assert self.used.acquire(blocking=False), "two threads have one client"
        try:
            self.connection.request("POST", "/v1/completions", body=f'{{"number": {number}}}')
            return self.connection.getresponse().read()
        finally:
            self.used.release()


def test_blocking_clients_share_the_requests_each_in_a_thread_of_its_own() -> None:
    first = threading.Barrier(4)
    asked = iter(range(100))

    def reply(question: Question) -> None:
        if next(asked) < 4:
            first.wait(30)
        question.answer(str(question.body["number"]).encode())

    with serving(reply) as server:
        clients = [Blocking(server.url) for _ in range(4)]
        found = closed_loop_in_threads(clients, Blocking.ask, 25)
        for client in clients:
            client.connection.close()
    assert sorted(asked_numbers(server.questions)) == list(range(25))
    assert [request.answer for request in found] == [str(number).encode() for number in range(25)]
    assert server.most_at_once == load.most_at_once(found) == 4
    assert all(0 < request.seconds == request.ended - request.sent for request in found)


def test_an_exception_of_a_blocking_client_is_raised_when_the_others_are_done() -> None:
    done = []

    def ask(client: int, number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        done.append(number)

    with pytest.raises(ZeroDivisionError):
        closed_loop_in_threads([1, 2], ask, 10)
    assert done == list(range(1, 10))


# --- open loop ----------------------------------------------------------------------------------------------


def test_an_open_loop_sends_although_nobody_is_answered() -> None:
    everybody = threading.Barrier(10)

    def reply(question: Question) -> None:
        everybody.wait(30)  # no answer before the last request has come: a closed loop would stand here
        question.stream(ANSWER)

    arrivals = [0.002 * number for number in range(10)]
    with serving(reply) as server:
        replies = with_client(
            server.url,
            lambda client: open_loop(lambda number, intended: stream(client, numbered(number), intended=intended), arrivals),
        )
    assert all(reply.complete for reply in replies)
    assert load.most_at_once(replies) == 10
    assert [reply.intended - replies[0].intended for reply in replies] == pytest.approx(arrivals)
    assert all(reply.sent >= reply.intended for reply in replies)


def test_an_open_loop_keeps_its_order_and_its_times_when_the_client_is_held_up() -> None:
    async def ask(number: int, intended: float) -> tuple[int, float, float]:
        now = time.perf_counter()
        if number == 0:
            time.sleep(0.2)  # the client itself stands still, with all of its requests
        return number, intended, now

    arrivals = [0.0, 0.05, 0.1]
    found = run(open_loop(ask, arrivals))
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert [intended - found[0][1] for _, intended, _ in found] == pytest.approx(arrivals)
    assert all(now - intended > 0.05 for _, intended, now in found[1:]), "what was sent late says so"


def test_an_open_loop_waits_for_the_arrivals() -> None:
    async def ask(number: int, intended: float) -> float:
        return time.perf_counter() - intended

    late = run(open_loop(ask, [0.0, 0.1, 0.3]))
    assert min(late) > -0.02  # clocks tick differently on some systems


def test_arrivals_are_a_poisson_process_of_the_rate_and_the_seed() -> None:
    arrivals = poisson_arrivals(20.0, 4000, seed=0)
    gaps = [after - before for before, after in pairwise([0.0, *arrivals])]
    assert min(gaps) > 0 and poisson_arrivals(1000.0, 1, seed=0)[0] < 0.1  # the first may come at once
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 20, rel=0.1)  # of an exponential distribution: its mean
    assert arrivals == poisson_arrivals(20.0, 4000, seed=0) != poisson_arrivals(20.0, 4000, seed=1)


# --- what is said about it ----------------------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured() -> None:
    values = [50.0, 10.0, 40.0, 20.0, 30.0]
    assert [percentile(values, percent) for percent in (1, 20, 21, 50, 90, 100)] == [10.0, 10.0, 20.0, 30.0, 50.0, 50.0]
    assert percentile((float(number) for number in range(1, 101)), 55) == 55.0  # 0.55 * 100 is more than 55
    assert percentile([7.0], 99) == 7.0
    shuffled = random.Random(0).sample(range(1000), 1000)
    assert percentile(shuffled, 99) == 989


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], -5), ([1.0], 100.5)])
def test_there_is_no_percentile_of_nothing_or_beyond_all(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match=f"no p{percent:g} of {len(values)} values"):
        percentile(values, percent)


def test_what_is_said_of_a_load_is_what_one_counts_by_hand() -> None:
    requests = [Answered(0.0, 4.0, None), Answered(1.0, 2.0, None), Answered(3.0, 6.0, None), Answered(3.5, 3.75, None), Answered(6.0, 10.0, None)]  # fmt: skip
    assert load.span(requests) == 10.0
    assert load.throughput(requests) == 0.5
    assert load.mean_at_once(requests) == (4 + 1 + 3 + 0.25 + 4) / 10
    assert load.most_at_once(requests) == 3  # where one ends and another begins, they do not overlap
    assert load.most_at_once([]) == 0
    replies = [Reply(0.0, 1.0, 3.0), Reply(0.0, 2.0, 5.0)]  # from the moment of sending, not from the intended one
    assert (load.span(replies), load.mean_at_once(replies)) == (4.0, 1.25)
    with pytest.raises(ValueError, match="empty"):
        load.span([])
