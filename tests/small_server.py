"""A real HTTP server of a test, on a free port of 127.0.0.1: what it answers is the test's own function."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Question:
    """One request, and how to answer it."""

    path: str
    headers: Mapping[str, str]
    body: Any
    """Its JSON; None of a GET."""
    handler: BaseHTTPRequestHandler = field(repr=False)

    def answer(self, content: bytes | dict[str, Any], status: int = 200) -> None:
        """In one piece."""
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(sent)))
        self.handler.end_headers()
        self.handler.wfile.write(sent)

    def begin(self) -> None:
        """The head of an answer in pieces."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "text/event-stream")
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()

    def piece(self, content: bytes) -> None:
        """One piece more, which leaves at once."""
        self.handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.handler.wfile.flush()

    def end(self) -> None:
        """Nothing more comes."""
        self.handler.wfile.write(b"0\r\n\r\n")

    def stream(self, *pieces: bytes) -> None:
        """An answer in these pieces."""
        self.begin()
        for content in pieces:
            self.piece(content)
        self.end()

    def break_off(self) -> None:
        """The connection ends here, in the middle of whatever it was."""
        self.handler.wfile.flush()
        self.handler.close_connection = True


@dataclass
class SmallServer:
    """Where it is, and what it was asked."""

    url: str
    questions: list[Question] = field(default_factory=list)
    most_at_once: int = 0
    """Requests under way at the same moment, at most, as this server saw them."""


@contextlib.contextmanager
def serving(reply: Callable[[Question], None]) -> Iterator[SmallServer]:
    """A server whose every answer `reply` gives, each in a thread of its own, for as long as the block runs."""
    at_once, counting = 0, threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal at_once
            length = int(self.headers.get("Content-Length") or 0)
            question = Question(self.path, self.headers, json.loads(self.rfile.read(length)) if length else None, self)
            with counting:
                at_once += 1
                server.questions.append(question)
                server.most_at_once = max(server.most_at_once, at_once)
            try:
                reply(question)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has left
            finally:
                with counting:
                    at_once -= 1

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128  # many clients at once: beyond 5 the system's default makes them wait a second
        daemon_threads = True  # a client that keeps its connection open keeps nobody waiting

    listener = Listener(("127.0.0.1", 0), Handler)
    server = SmallServer(f"http://127.0.0.1:{listener.server_address[1]}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
