"""What operations do to a server's process, on a small server under the guard that real ones have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import linux_only

from onepiece.serving import servers, signals
from onepiece.serving.servers import Server
from onepiece.serving.waiting import until

pytestmark = linux_only

PROGRAM = """
import http.server, signal, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
def end(*_):
    print("asked to end", flush=True)
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, end)
server.serve_forever()
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A small server under the guard that real ones have."""
    port = servers.free_port()
    command = [sys.executable, "-c", PROGRAM, str(port)]
    server = servers.start("small", command, {}, f"http://127.0.0.1:{port}", "/", {"http": port}, tmp_path)
    yield server
    server.stop()


def test_a_frozen_server_is_silent_and_answers_afterwards(guarded: Server) -> None:
    with signals.frozen(guarded):
        assert not servers.answers(guarded.url, timeout=0.3)
        assert guarded.alive, "the guard does not stand still"
    assert servers.answers(guarded.url, timeout=30)
    with pytest.raises(ZeroDivisionError), signals.frozen(guarded):
        raise ZeroDivisionError
    assert servers.answers(guarded.url, timeout=30)


def test_a_server_that_is_asked_to_end_does_it_in_its_own_time(guarded: Server) -> None:
    signals.terminate(guarded)
    until(lambda: not guarded.alive, seconds=30, what="it has ended")
    assert guarded.tail() == "asked to end"  # by its own handler: nobody killed it
