"""The client of OpenAI's protocol, against a server that sends its bytes in every way a network can."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from small_server import Question, SmallServer, serving

from onepiece.serving import servers
from onepiece.serving.streaming import CHAT, COMPLETIONS, EventParser, Reply, begin, connect, send, stream, whole_body, with_client

BODY = {"model": "tiny", "prompt": [1, 2], "max_tokens": 3}
USAGE = {"prompt_tokens": 2, "completion_tokens": 3}


def event(**content: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def token(text: str, number: int, finish_reason: str | None = None) -> bytes:
    """The event of one token."""
    return event(choices=[{"text": text, "token_ids": [number], "finish_reason": finish_reason}])


ANSWER = token("貓", 7) + token(" 坐", 8) + token("。", 9, "stop") + event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def replied(server: SmallServer, **options: Any) -> Reply:
    """What the client makes of one request."""
    return with_client(server.url, lambda client: stream(client, BODY, **options))


def pieces(*contents: bytes) -> Callable[[Question], None]:
    return lambda question: question.stream(*contents)


# --- events -------------------------------------------------------------------------------------------------


def test_events_are_found_however_the_bytes_are_cut() -> None:
    sent = 'data: {"a": 1}\n\ndata:b\r\n\r\n: still here\n\nevent: x\ndata: 貓\ndata: y\nid: 3\n\ndata:  two\n\ndata: not com'.encode()
    want = ['{"a": 1}', "b", "貓\ny", " two"]
    for size in (1, 2, 3, 7, len(sent)):
        parser = EventParser()
        found = [data for at in range(0, len(sent), size) for data in parser.feed(sent[at : at + size])]
        assert found == want, size
        assert parser.buffer == b"data: not com"


# --- whole answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_whole_answer_is_put_together_however_it_was_cut(size: int) -> None:
    sent = ANSWER + DONE
    with serving(pieces(*(sent[at : at + size] for at in range(0, len(sent), size)))) as server:
        reply = replied(server)
    assert (reply.text, reply.token_ids, reply.finish_reason, reply.usage) == ("貓 坐。", [7, 8, 9], "stop", USAGE)
    assert (reply.status, reply.http_status, reply.done, reply.error, reply.problem) == (200, 200, True, "", "")
    assert reply.complete
    assert len(reply.events) == len(reply.times) == 4 and len(reply.gaps) == 2  # the usage is no piece of the answer
    assert reply.intended == reply.sent <= reply.times[0] <= reply.times[-1] <= reply.ended
    assert all(gap >= 0 for gap in reply.gaps)
    assert reply.first_token_seconds == reply.times[0] - reply.sent


def test_what_came_in_one_piece_came_at_one_moment() -> None:
    with serving(pieces(ANSWER + DONE)) as server:
        assert replied(server).gaps == [0.0, 0.0]


def test_the_request_asks_for_a_stream_and_its_usage_and_is_the_callers_otherwise() -> None:
    with serving(pieces(ANSWER + DONE)) as server:
        with_client(server.url, lambda client: stream(client, BODY), key="secret")
        with_client(server.url, lambda client: stream(client, BODY, path=CHAT))
    first, second = server.questions
    assert first.body == BODY | {"stream": True, "stream_options": {"include_usage": True}}
    assert (first.path, second.path) == (COMPLETIONS, CHAT)
    assert first.headers["Authorization"] == "Bearer secret" and "Authorization" not in second.headers
    assert first.headers["Accept-Encoding"] == "identity"


def test_a_chat_brings_deltas() -> None:
    deltas = [{"role": "assistant", "content": ""}, {"content": "yes"}, {"content": None}]
    sent = [event(choices=[{"delta": delta, "finish_reason": None}]) for delta in deltas]
    with serving(pieces(*sent, event(choices=[{"delta": {}, "finish_reason": "length"}]), DONE)) as server:
        reply = replied(server)
    assert (reply.text, reply.token_ids, reply.finish_reason, reply.usage, reply.complete) == ("yes", [], "length", {}, True)


def test_a_request_is_late_from_the_time_when_it_should_have_been_sent() -> None:
    with serving(pieces(ANSWER + DONE)) as server:

        async def late(client: httpx2.AsyncClient) -> Reply:
            return await stream(client, BODY, intended=time.perf_counter() - 5)

        reply = with_client(server.url, late)
    assert reply.seconds == reply.ended - reply.intended > 5
    assert reply.first_token_seconds == reply.times[0] - reply.intended > 5
    assert reply.intended + 5 <= reply.sent


def test_another_parser_reads_the_bytes() -> None:
    class Deaf:
        def feed(self, piece: bytes) -> list[str]:
            return ["[DONE]"] if b"[DONE]" in piece else []

    with serving(pieces(ANSWER, DONE)) as server:
        reply = replied(server, parser=Deaf)
    assert reply.done and not reply.events


# --- the first event comes first ----------------------------------------------------------------------------


def test_events_are_there_while_the_server_still_computes() -> None:
    sent, seen = threading.Event(), threading.Event()

    def hold_the_rest_back(question: Question) -> None:
        question.begin()
        sent.set()
        question.piece(token("a", 1))
        assert seen.wait(30), "the first event never reached the client"
        question.piece(token("b", 2, "stop") + DONE)
        question.end()

    async def work(client: httpx2.AsyncClient) -> list[Reply]:
        tasks = await begin(client, BODY, BODY)
        assert sent.is_set() and not any(task.done() for task in tasks)
        seen.set()
        return list(await asyncio.gather(*tasks))

    with serving(hold_the_rest_back) as server:
        replies = with_client(server.url, work)
    assert [reply.text for reply in replies] == ["ab", "ab"]
    assert all(reply.gaps[0] > 0 for reply in replies)


def test_waiting_for_the_first_event_ends_where_there_is_none() -> None:
    with serving(lambda question: question.answer({"error": "no"}, status=503)) as server:

        async def work(client: httpx2.AsyncClient) -> Reply:
            (task,) = await begin(client, BODY)
            assert task.done()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody waits for the first event any more"
            return await task

        assert with_client(server.url, work).status == 503


# --- what goes wrong is a result ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"error": {"message": "Too many.", "code": 429}}', "Too many."),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"object": "error", "message": "no such model", "code": 404}', "no such model"),
        (b'["no"]', "['no']"),
        (b'{"error": {"mess', '{"error"'),
        (b"Service Unavailable: try later", "Service Unavailable"),
        (b"", ""),
    ],
)
def test_a_refusal_says_what_the_server_said(content: bytes, problem: str) -> None:
    with serving(lambda question: question.answer(content, status=429)) as server:
        reply = replied(server)
    assert (reply.status, reply.http_status, reply.problem, reply.done, reply.events) == (429, 429, problem, False, ())
    assert not reply.complete


NOT_OF_AN_ANSWER = [
    (b'{"error": {"message": "full", "code": 503}}', 503, "full"),
    (b'{"error": {"message": "full", "code": "429"}}', 429, "full"),
    (b'{"error": {"message": "full", "code": "overloaded"}}', 500, "full"),
    (b'{"error": {"message": "full", "code": 200}}', 500, "full"),  # an error is no success, whatever it says of itself
    (b'{"error": {"message": "full", "code": null}}', 500, "full"),
    (b'{"error": "full"}', 500, "full"),
    (b'{"error": null, "choices": []}', 500, "None"),
    (b'{"object": "error", "message": "full", "code": 400}', 400, "full"),
    (b'{"detail": "full"}', 500, "full"),
    (b'{"choices": [null]}', 500, "{'choices': [None]}"),
    (b'{"choices": "a"}', 500, "{'choices': 'a'}"),
    (b'{"id": 1}', 500, "{'id': 1}"),
    (b'["error"]', 500, "['error']"),
    (b'{"choices": [{"te', 500, '{"choices"'),
    (b"Internal Server Error", 500, "Internal Server Error"),
    (b"\xff\xfe", 500, "UnicodeDecodeError"),
]


@pytest.mark.parametrize(("content", "status", "problem"), NOT_OF_AN_ANSWER)
@pytest.mark.parametrize("ask", [stream, whole_body])
def test_an_event_that_is_no_part_of_an_answer_is_the_status_of_the_request(
    ask: Callable[..., Awaitable[Reply]], content: bytes, status: int, problem: str
) -> None:
    with serving(pieces(token("a", 1), b"data: " + content + b"\n\n", token("b", 2, "stop") + DONE)) as server:
        reply = with_client(server.url, lambda client: ask(client, BODY))
    assert (reply.status, reply.http_status, reply.problem) == (status, 200, problem)
    assert not reply.complete
    if problem != "UnicodeDecodeError":  # after which nothing is read any more
        assert (reply.text, reply.finish_reason, reply.done) == ("ab", "stop", True)


def test_what_went_wrong_first_is_said() -> None:
    with serving(pieces(b'data: {"error": {"message": "full", "code": 429}}\n\ndata: nonsense\n\n', DONE)) as server:
        assert (replied(server).status, replied(server).problem) == (429, "full")


def test_usage_may_come_without_choices_and_a_delta_may_be_null() -> None:
    with serving(pieces(event(choices=[{"delta": None, "finish_reason": "stop"}]), event(usage=USAGE), DONE)) as server:
        reply = replied(server)
    assert (reply.text, reply.usage, reply.complete) == ("", USAGE, True)


def test_a_stream_that_breaks_off_keeps_what_came_and_is_not_complete() -> None:
    def break_off(question: Question) -> None:
        question.begin()
        question.piece(token("a", 1) + token("b", 2, "stop"))
        question.break_off()

    with serving(break_off) as server:
        reply = replied(server)
    assert (reply.text, reply.finish_reason, reply.http_status, reply.status, reply.done) == ("ab", "stop", 200, 200, False)
    assert reply.error.startswith("RemoteProtocolError") and reply.problem == "RemoteProtocolError"
    assert not reply.complete


def test_a_server_that_falls_silent_ends_in_the_clients_own_time() -> None:
    leave = threading.Event()

    def fall_silent(question: Question) -> None:
        question.begin()
        question.piece(token("a", 1))
        leave.wait(30)

    with serving(fall_silent) as server:
        reply = with_client(server.url, lambda client: stream(client, BODY), timeout=0.3)
        leave.set()
    assert (reply.status, reply.token_ids, reply.problem) == (200, [1], "ReadTimeout")


def test_nobody_there_is_a_reply_without_a_status() -> None:
    reply = with_client(f"http://127.0.0.1:{servers.free_port()}", lambda client: stream(client, BODY))
    assert (reply.status, reply.http_status, reply.problem) == (0, 0, "ConnectError")
    with pytest.raises(IndexError):
        _ = reply.first_token_seconds


def test_an_abort_ends_in_order_and_is_not_complete() -> None:
    with serving(pieces(token("a", 1, "abort"), DONE)) as server:
        reply = replied(server)
    assert reply.done and reply.finish_reason == "abort" and not reply.complete


# --- without a stream, and in a notebook --------------------------------------------------------------------


def test_an_answer_without_a_stream_is_its_json_or_an_error() -> None:
    def reply(question: Question) -> None:
        question.answer({"asked": question.body}, status=200 if question.path == COMPLETIONS else 404)

    with serving(reply) as server:
        assert with_client(server.url, lambda client: send(client, BODY)) == {"asked": BODY}
        with pytest.raises(httpx2.HTTPStatusError, match="404"):
            with_client(server.url, lambda client: send(client, BODY, path="/v1/nothing"))


def test_a_notebook_has_a_loop_that_runs_already_and_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def notebook(url: str) -> Reply:
        return with_client(url, lambda client: stream(client, BODY))

    with serving(pieces(ANSWER + DONE)) as server:
        assert asyncio.run(notebook(server.url)).complete


def test_a_client_opens_as_many_connections_as_it_has_requests() -> None:
    everybody = threading.Barrier(80)

    def together(question: Question) -> None:
        everybody.wait(30)  # nobody is answered before all are here
        question.stream(ANSWER, DONE)

    async def work(client: httpx2.AsyncClient) -> list[Reply]:
        asked: list[Awaitable[Reply]] = [stream(client, BODY) for _ in range(80)]
        return list(await asyncio.gather(*asked))

    with serving(together) as server:
        assert all(reply.complete for reply in with_client(server.url, work))


def test_gaps_are_between_the_events_of_the_answer() -> None:
    answer = {"choices": [{"text": "a"}]}
    reply = Reply(0.0, 0.5, 4.0, 200, 200, (answer, answer, answer, {"choices": [], "usage": USAGE}), (1.0, 1.25, 2.0, 3.0), done=True)
    assert reply.gaps == [after - before for before, after in pairwise([1.0, 1.25, 2.0])]
    assert (reply.first_token_seconds, reply.seconds) == (1.0, 4.0)
    nothing = Reply(0.0, 0.5, 4.0)
    assert (nothing.status, nothing.http_status, nothing.complete, nothing.text, nothing.gaps) == (0, 0, False, "", [])


def test_the_connection_is_closed_at_the_end_and_after_an_error() -> None:
    clients: list[httpx2.AsyncClient] = []

    async def fail(client: httpx2.AsyncClient) -> None:
        clients.append(client)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with_client("http://127.0.0.1:9", fail)
    assert clients[0].is_closed
    assert not connect("http://127.0.0.1:9").is_closed
