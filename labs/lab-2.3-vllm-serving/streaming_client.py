"""Server-sent events from the bytes of a stream, and the client of `onepiece.serving.streaming`, reading with that.

    async with connect(server.url) as client:
        reply = await stream(client, {"model": "base", "prompt": [1, 327], "max_tokens": 8})
        reply.token_ids, reply.first_token_seconds, reply.gaps

With `"stream": true` the server answers with server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines `data: {...}`, an empty line after each event, and `data: [DONE]` at the end.
"""

from __future__ import annotations

from functools import partial

from onepiece.serving import streaming


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


stream = partial(streaming.stream, parser=EventParser)
begin = partial(streaming.begin, parser=EventParser)
whole_body = partial(streaming.whole_body, parser=EventParser)
