"""The gateway in front of nothing but what writes down what reached it: bytes in, bytes out, no client library that tidies them."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

KEY = "Az09_-" * 8


class Upstream(socketserver.ThreadingTCPServer):
    """Answers every HTTP request with 200, once it is told to; keeps first lines and headers."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(socketserver.StreamRequestHandler):
    server: Upstream

    def handle(self) -> None:
        while line := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            headers = {}
            while header := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            self.rfile.read(int(headers.get("content-length", 0)))
            self.server.lines.append(line)
            self.server.headers.append(headers)
            self.server.go_on.wait(20)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@dataclass
class Answer:
    """What came back: the status, the headers and the body, or 0 if the connection was closed without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


def raw(port: int, request: bytes, *, timeout: float = 20.0) -> Answer:
    """Send bytes, read to the end of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        return answer_of(connection)


def answer_of(connection: socket.socket) -> Answer:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length and len(body) >= int(length[0]):
                break
    if not data.startswith(b"HTTP/"):
        return Answer(0, {}, data.decode("latin-1"))
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body.decode("latin-1"))


def line(target: str, method: str = "GET", *headers: str, key: str = f"Bearer {KEY}", body: bytes = b"") -> bytes:
    """A request as it is written on the wire."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *([f"Authorization: {key}"] if key else []), *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# --- HTTP/2, as far as one request needs it -------------------------------------------------------


def over_http2(port: int, path: str, key: str = f"Bearer {KEY}", **headers: str) -> int:
    """The status that a gRPC call of `path` is answered with; 0 if the connection or the stream is closed without one."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "content-type": "application/grpc", "te": "trailers"}
    fields |= {"authorization": key} if key else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    block = b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())  # literals, not indexed
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        # Settings; the request's headers (END_HEADERS); five bytes of an empty message (END_STREAM).
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0) + _frame(1, 4, 1, block) + _frame(0, 1, 1, b"\0" * 5))
        return next((status for status in _statuses(connection)), 0)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    return (bytes([len(data)]) if len(data) < 127 else bytes([127, (len(data) - 127) & 127 | 128, (len(data) - 127) >> 7])) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _statuses(connection: socket.socket) -> Iterator[int]:
    stream = connection.makefile("rb")
    while len(head := stream.read(9)) == 9:
        payload = stream.read(int.from_bytes(head[:3], "big"))
        if head[3] == 1:
            yield _status(payload)
        elif head[3] in (3, 7):  # the stream is reset, the connection ends
            return


def _status(block: bytes) -> int:
    """The first header of an answer by nginx is the status: an entry of the static table, or three digits."""
    block = block.lstrip(b"\x20\x3f\xe1\x1f") if block[0] & 0xE0 == 0x20 else block  # a new size of the table goes before it
    static = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    return static.get(block[0]) or int(block[2:5])
