"""A client for OpenAI's protocol: HTTP, server-sent events, and a clock beside them.

    async with connect(server.url) as client:
        reply = await stream(client, {"model": "tiny", "prompt": [1, 327], "max_tokens": 8})
        reply.text, reply.first_token_seconds, reply.gaps

With `"stream": true` the server answers with server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines `data: {...}`, an empty line after each event, and `data: [DONE]` at the end. One event mostly brings one token, but a server that
speculates puts several into one, and the network several events into one piece: `Reply` has what came and when, and invents nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import httpx2

from onepiece.serving.load import run

Result = TypeVar("Result")
Body = dict[str, Any]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
TIMEOUT_SECONDS = 120.0
"""Between two pieces of an answer, not for the whole answer: a stream may take as long as it likes."""
STREAMED: Body = {"stream": True, "stream_options": {"include_usage": True}}
"""What makes a request one for a stream, the last event of which says the usage."""


class Parser(Protocol):
    """What `stream` reads with."""

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that are complete with `piece`, in order."""


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
        self.buffer = (self.buffer + piece).replace(b"\r\n", b"\n")
        *complete, self.buffer = self.buffer.split(b"\n\n")
        events = []
        for event in complete:
            lines = [line[5:].removeprefix(" ") for line in event.decode("utf-8").split("\n") if line.startswith("data:")]
            if lines:
                events.append("\n".join(lines))
        return events


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
    def complete(self) -> bool:
        """Whether it is a whole answer: the server said why it ended (`stop`, `length`), and the stream ended in order.

        A stream that breaks off looks like a short answer: its status is 200, its tokens are right.
        """
        return self.status == 200 and self.done and self.finish_reason in ("stop", "length")

    @property
    def choices(self) -> list[Body]:
        """The choice of each event that has one; the last event holds the usage only."""
        return [event["choices"][0] for event in self.events if event.get("choices")]

    @property
    def text(self) -> str:
        """All pieces of the answer together."""
        return "".join(choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in self.choices)

    @property
    def token_ids(self) -> list[int]:
        """The answer's tokens, if the request had `"return_token_ids": true` (vLLM)."""
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
        try:
            said = json.loads(self.error)
        except json.JSONDecodeError:  # the name of a broken connection, or a page that is not the server's own
            return self.error.partition(":")[0]
        for key in ("error", "detail", "message"):  # {"error": {"message": ...}}, or flat, or as FastAPI says it
            said = said.get(key, said) if isinstance(said, dict) else said
        return str(said)

    @property
    def first_token_seconds(self) -> float:
        """From the intended time to the first event (of a chat it may hold nothing but the role).

        Raises:
            IndexError: no event came.
        """
        return self.times[0] - self.intended

    @property
    def gaps(self) -> list[float]:
        """Seconds between one event of the answer and the next: the inter-token latency where each event brings one token."""
        moments = [moment for moment, event in zip(self.times, self.events, strict=True) if event.get("choices")]
        return [after - before for before, after in pairwise(moments)]

    @property
    def seconds(self) -> float:
        """From the intended time to the end."""
        return self.ended - self.intended


def connect(url: str, *, key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> httpx2.AsyncClient:
    """A client with as many connections as requests; never through a proxy.

    Args:
        url: of the server, without a path.
        key: the server's API key.
        timeout: seconds without a byte after which a request fails.
    """
    headers = {"Accept-Encoding": "identity"}  # the bytes of a stream are read as they come
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, limits=limits, trust_env=False)


def with_client(url: str, work: Callable[[httpx2.AsyncClient], Awaitable[Result]], **options: Any) -> Result:
    """Run `work(client)` from a notebook, with a client of its own that is closed at the end.

    Args:
        options: of `connect`.
    """

    async def connected() -> Result:
        async with connect(url, **options) as client:
            return await work(client)

    return run(connected())


@dataclass(slots=True)
class _Heard:
    """What has been heard of an answer so far."""

    begun: asyncio.Event | None
    status: int = 0
    error: str = ""
    done: bool = False
    events: list[Body] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def take(self, found: list[str], now: float) -> None:
        for data in found:
            if data == "[DONE]":
                self.done = True
            elif (event := _of_an_answer(data)) is None:
                self.refuse(_status_said(data), data)
            else:
                self.events.append(event)
                self.times.append(now)
                if self.begun is not None:
                    self.begun.set()

    def refuse(self, status: int, error: str) -> None:
        """Too late for HTTP to say so: 200 was sent with the first byte. What went wrong first is kept."""
        if not self.error:
            self.status, self.error = status, error

    @contextlib.contextmanager
    def problems(self) -> Iterator[None]:
        """What goes wrong on the way is kept, not raised: the connection, or bytes that are no text."""
        try:
            yield
        except httpx2.RequestError as problem:
            self.error = self.error or f"{type(problem).__name__}: {problem}"
        except UnicodeDecodeError as problem:
            self.refuse(500, f"{type(problem).__name__}: {problem}")

    def reply(self, intended: float, sent: float, http_status: int) -> Reply:
        """All of it, at the end."""
        ended, events, times = time.perf_counter(), tuple(self.events), tuple(self.times)
        return Reply(intended, sent, ended, self.status, http_status, events, times, self.done, self.error)


def _read(data: str) -> Any:
    """The JSON of an event; None if it is none."""
    try:
        return json.loads(data)
    except (json.JSONDecodeError, RecursionError):
        return None


def _of_an_answer(data: str) -> Body | None:
    """An event of an answer: an object with `choices` (a list of objects), or with the `usage`; None if it is anything else."""
    event = _read(data)
    if not isinstance(event, dict) or "error" in event or not ("choices" in event or "usage" in event):
        return None
    choices = event.get("choices") or []
    return event if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices) else None


def _status_said(data: str) -> int:
    """The HTTP status that an error inside of a stream names, as `code` of its own or of its `error`; 500 if it names none."""
    said = _read(data)
    for content in (said, said.get("error")) if isinstance(said, dict) else ():
        code = str(content.get("code")) if isinstance(content, dict) else ""
        if re.fullmatch("[45][0-9][0-9]", code):  # others have a word there, or a number that is no status
            return int(code)
    return 500


async def stream(
    client: httpx2.AsyncClient,
    body: Body,
    *,
    path: str = COMPLETIONS,
    intended: float | None = None,
    begun: asyncio.Event | None = None,
    parser: Callable[[], Parser] = EventParser,
) -> Reply:
    """Send one request and take its answer piece by piece.

    A refusal, a broken connection, an error in the middle of the stream or an event that is none: each is a result, not an exception,
    whatever its form. Load tests need them counted.

    Args:
        body: the request; what asks for a stream is added.
        intended: when it should have been sent, on `time.perf_counter`; None: now.
        begun: set when the first event is there.
        parser: makes what reads the bytes of this answer.
    """
    sent = time.perf_counter()
    http_status, heard = 0, _Heard(begun)
    with heard.problems():
        async with client.stream("POST", path, json=body | STREAMED) as answer:
            heard.status = http_status = answer.status_code
            if http_status != 200:
                heard.error = (await answer.aread()).decode("utf-8", errors="replace")
            else:
                reader = parser()
                async for piece in answer.aiter_raw():
                    now = time.perf_counter()
                    heard.take(reader.feed(piece), now)
    return heard.reply(sent if intended is None else intended, sent, http_status)


async def whole_body(
    client: httpx2.AsyncClient, body: Body, *, path: str = COMPLETIONS, parser: Callable[[], Parser] = EventParser
) -> Reply:
    """The same request by a client that waits for the end of the body before it looks at it: all events come at the end."""
    sent = time.perf_counter()
    http_status, heard = 0, _Heard(None)
    with heard.problems():
        answer = await client.post(path, json=body | STREAMED)
        heard.status = http_status = answer.status_code
        if http_status != 200:
            heard.error = answer.text
        else:
            heard.take(parser().feed(answer.content), time.perf_counter())
    return heard.reply(sent, sent, http_status)


async def begin(client: httpx2.AsyncClient, *bodies: Body, **options: Any) -> list[asyncio.Task[Reply]]:
    """Send requests at once and come back when the first event of any of them is there, or an end: the rest goes on in the tasks.

    Args:
        options: of `stream`.
    """
    begun = asyncio.Event()
    answers = [asyncio.create_task(stream(client, body, begun=begun, **options)) for body in bodies]
    first = asyncio.create_task(begun.wait())
    await asyncio.wait({first, *answers}, return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    return answers


async def send(client: httpx2.AsyncClient, body: Body, *, path: str = COMPLETIONS) -> Body:
    """One request without streaming: the JSON of its answer.

    Raises:
        httpx2.HTTPStatusError: the server refused.
        httpx2.TransportError: the connection broke.
    """
    answer = await client.post(path, json=body)
    answer.raise_for_status()
    return dict(answer.json())
