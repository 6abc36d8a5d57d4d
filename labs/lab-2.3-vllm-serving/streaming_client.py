"""A client for OpenAI's protocol, written out: HTTP, server-sent events, and a clock beside them.

    async with connect(server.url) as client:
        reply = await stream(client, {"model": "base", "prompt": [1, 327], "max_tokens": 8})
        reply.token_ids, reply.first_token_seconds, reply.gaps

With `"stream": true` the server answers with server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines `data: {...}`, an empty line after each event, and `data: [DONE]` at the end.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx2

Body = dict[str, Any]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
TIMEOUT_SECONDS = 120.0
"""Between two pieces of an answer, not for the whole answer: a stream may take as long as it likes."""


class EventParser:
    """Turns the bytes of a stream into events, however the network has cut them."""

    def __init__(self) -> None:
        self.buffer = b""
        """What has arrived of an event that is not complete yet."""

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that are complete with `piece`, in order.

        A piece may hold several events, half of one, or half of a character. Lines end with LF or CR LF. An event is complete at an
        empty line. Of its lines only those that begin with `data:` count; one space after the colon is no data, and several such
        lines are joined by a line break. An event without data (a comment that keeps the connection open) is none.
        """
        # SOLUTION 1
        self.buffer = (self.buffer + piece).replace(b"\r\n", b"\n")
        *complete, self.buffer = self.buffer.split(b"\n\n")
        events = []
        for event in complete:
            lines = [line[5:].removeprefix(" ") for line in event.decode("utf-8").split("\n") if line.startswith("data:")]
            if lines:
                events.append("\n".join(lines))
        return events
        # END SOLUTION


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request, and when; all times are in seconds on `time.perf_counter`."""

    intended: float
    """When the request should have been sent. Whoever waits for a free connection waits too."""
    sent: float
    ended: float
    status: int = 0
    """What became of the request: HTTP's status, or that of an error inside the stream; 0: the connection broke before there was one."""
    http_status: int = 0
    """Of HTTP alone. It is sent before the first token, so it cannot know what comes later."""
    events: tuple[Body, ...] = ()
    times: tuple[float, ...] = ()
    """When each event arrived."""
    done: bool = False
    """Whether `[DONE]` came."""
    error: str = ""
    """What the server said when it refused, or how the connection broke."""

    @property
    def choices(self) -> list[Body]:
        """The choice of each event that has one; the last event holds the usage only."""
        return [event["choices"][0] for event in self.events if event.get("choices")]

    @property
    def text(self) -> str:
        """All pieces of the answer together."""
        return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in self.choices)

    @property
    def token_ids(self) -> list[int]:
        """The answer's tokens, if the request had `"return_token_ids": true`."""
        return [token for choice in self.choices for token in choice.get("token_ids") or ()]

    @property
    def finish_reason(self) -> str | None:
        """`stop`, `length`, `abort`, ...; None if the server did not get to say."""
        return next((choice["finish_reason"] for choice in reversed(self.choices) if choice.get("finish_reason")), None)

    @property
    def usage(self) -> Body:
        """Tokens as the server counted them; empty if the stream ended before it said."""
        return next((event["usage"] for event in reversed(self.events) if event.get("usage")), {})

    @property
    def problem(self) -> str:
        """What went wrong, in a few words; empty if nothing did."""
        if not self.error.startswith("{"):
            return self.error.partition(":")[0]
        said = json.loads(self.error)["error"]
        return said if isinstance(said, str) else said["message"]

    @property
    def first_token_seconds(self) -> float:
        """From the intended time to the first event."""
        return self.times[0] - self.intended

    @property
    def gaps(self) -> list[float]:
        """Seconds between one token and the next (inter-token latency)."""
        moments = [moment for moment, event in zip(self.times, self.events, strict=True) if event.get("choices")]
        return [after - before for before, after in pairwise(moments)]

    @property
    def seconds(self) -> float:
        """From the intended time to the end."""
        return self.ended - self.intended


def connect(url: str, *, key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> httpx2.AsyncClient:
    """A client with as many connections as requests.

    Args:
        key: the server's API key.
        timeout: seconds without a byte after which a request fails.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, limits=limits, trust_env=False)


async def stream(
    client: httpx2.AsyncClient,
    body: Body,
    *,
    path: str = COMPLETIONS,
    intended: float | None = None,
    begun: asyncio.Event | None = None,
) -> Reply:
    """Send one request and take its answer piece by piece.

    A refusal or a broken connection is a result, not an exception: load tests need them counted.

    Args:
        intended: when it should have been sent, on `time.perf_counter`; None: now.
        begun: set when the first event is there.
    """
    sent = time.perf_counter()
    status, http_status, error, done = 0, 0, "", False
    events: list[Body] = []
    times: list[float] = []
    parser = EventParser()
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", path, json=streamed) as answer:
            status = http_status = answer.status_code
            if status != 200:
                error = (await answer.aread()).decode("utf-8", errors="replace")
            else:
                async for piece in answer.aiter_raw():
                    now = time.perf_counter()
                    for data in parser.feed(piece):
                        if data == "[DONE]":
                            done = True
                        elif "error" in (event := json.loads(data)):  # too late for HTTP to say so: 200 was sent with the first byte
                            status, error = int(event["error"].get("code") or 500), data
                        else:
                            events.append(event)
                            times.append(now)
                            if begun is not None:
                                begun.set()
    except httpx2.TransportError as problem:
        error = f"{type(problem).__name__}: {problem}"
    ended = time.perf_counter()
    return Reply(sent if intended is None else intended, sent, ended, status, http_status, tuple(events), tuple(times), done, error)


async def begin(client: httpx2.AsyncClient, *bodies: Body) -> list[asyncio.Task[Reply]]:
    """Send requests at once and come back when the first event of any of them is there, or an end: the rest goes on in the tasks."""
    begun = asyncio.Event()
    answers = [asyncio.create_task(stream(client, body, begun=begun)) for body in bodies]
    first = asyncio.create_task(begun.wait())
    await asyncio.wait({first, *answers}, return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    return answers


async def whole_body(client: httpx2.AsyncClient, body: Body, *, path: str = COMPLETIONS) -> Reply:
    """The same request by a client that waits for the end of the body before it looks at it."""
    sent = time.perf_counter()
    answer = await client.post(path, json=body | {"stream": True, "stream_options": {"include_usage": True}})
    ended = time.perf_counter()
    found = EventParser().feed(answer.content)
    events = tuple(json.loads(data) for data in found if data != "[DONE]")
    return Reply(sent, sent, ended, answer.status_code, answer.status_code, events, (ended,) * len(events), "[DONE]" in found)


async def send(client: httpx2.AsyncClient, body: Body, *, path: str = COMPLETIONS) -> Body:
    """One request without streaming: the JSON of its answer.

    Raises:
        httpx2.HTTPStatusError: the server refused.
    """
    answer = await client.post(path, json=body)
    answer.raise_for_status()
    return dict(answer.json())
