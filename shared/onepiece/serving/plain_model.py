"""A directory of a plain model behind HTTP: `transformers serve`, a real server, started and stopped by a context manager.

    with served(directory) as base_url:                       # what a method leaves when it is merged or folded
        complete(base_url, "27 + 15 →", max_tokens=8).text

The server speaks the OpenAI protocol (`/v1/completions`, `/v1/chat/completions`) on 127.0.0.1 only. It needs fastapi, uvicorn and
openai: the extra `serve` of the course. Nothing is downloaded: the child process is told that there is no hub.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from onepiece.serving.servers import free_port

NEEDED = ("fastapi", "uvicorn", "openai")
READY_SECONDS = 120.0
"""Patience until the server answers: importing and loading take some 10 s on a quiet machine."""
_LOG_LINES = 20
GREEDY = {"do_sample": False, "repetition_penalty": 1.0}
"""Said with each request: a model brings generation settings of its own, many instruct models a repetition penalty."""


class ServerError(RuntimeError):
    """The server did not start, or ended; the message holds the last lines of its log."""


@dataclass(frozen=True)
class Completion:
    """What the server answered."""

    text: str
    """The continuation, without special tokens."""
    prompt_tokens: int
    completion_tokens: int
    """As the server counted them, the end-of-sequence token included."""
    finish_reason: str
    """`stop` at the end-of-sequence token, `length` at `max_tokens`."""


def missing_packages() -> list[str]:
    """Which of NEEDED cannot be imported here."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def served(directory: Path | str, *, port: int | None = None, device: str = "cpu", trust_code: bool = False) -> Iterator[str]:
    """Serve a model saved with `save_pretrained` (tokenizer too) while the block runs; gives the base URL.

    Args:
        directory: the model, a plain one.
        port: to listen on; None takes a free one.
        device: where the server puts the model.
        trust_code: run the Python code in the directory, if its configuration names some: the class of a model that Transformers lacks.

    Raises:
        ServerError: a package is missing, the server ended, or it was not ready in READY_SECONDS.
    """
    if missing := missing_packages():
        msg = f"transformers serve needs {', '.join(missing)}: the extra `serve` of this course installs them"
        raise ServerError(msg)
    port = free_port() if port is None else port
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(_command(port, device, trust_code), cwd=directory, env=_environment(), stdout=log, stderr=log)
        try:
            base_url = f"http://127.0.0.1:{port}"
            _wait_until_ready(base_url, process, log)
            yield base_url
        finally:
            _stop(process)


def _command(port: int, device: str, trust_code: bool) -> list[str]:
    # The entry point of the command line, on this interpreter: a script in bin/ could belong to another one. The model is ".",
    # the child's directory, because the server reads an @ in a path as the start of a revision; -P keeps Python from
    # importing what lies there.
    entry = "from transformers.cli.transformers import main; main()"
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", device, "--dtype", "auto"]
    options += ["--trust-remote-code"] if trust_code else []
    return [sys.executable, "-P", "-c", entry, "serve", ".", *options]


def _environment() -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "PYTHONUTF8": "1"}
    return os.environ | offline


def _wait_until_ready(base_url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Ask `/health` until it answers. The model is loaded before the server listens, so an answer means ready."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            msg = f"the server ended with exit code {process.returncode}:\n{_tail(log)}"
            raise ServerError(msg)
        try:
            _request(f"{base_url}/health", None, timeout=2.0)
            return
        except OSError:  # refused, or too slow: not there yet
            time.sleep(0.1)
    msg = f"the server was not ready after {READY_SECONDS:g} s:\n{_tail(log)}"
    raise ServerError(msg)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", errors="replace").splitlines()[-_LOG_LINES:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def complete(base_url: str, prompt: str, max_tokens: int, *, timeout: float = 60.0) -> Completion:
    """The greedy continuation of a prompt.

    Args:
        prompt: plain text. The server's tokenizer puts the beginning-of-sequence token before it: leave that out.
        max_tokens: where the answer is cut off.
        timeout: seconds to wait.

    Raises:
        ServerError: the server refused; says what it answered.
        OSError: the server cannot be reached.
    """
    body = {"prompt": prompt, "max_tokens": max_tokens, "generation_config": json.dumps(GREEDY)}
    answer = _request(f"{base_url}/v1/completions", body, timeout)
    choice, usage = answer["choices"][0], answer["usage"]
    return Completion(choice["text"], usage["prompt_tokens"], usage["completion_tokens"], choice["finish_reason"])


def _request(url: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    """GET without a body, POST with one; JSON both ways."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        msg = f"{url} answered {error.code}: {error.read().decode('utf-8', errors='replace')}"
        raise ServerError(msg) from None
