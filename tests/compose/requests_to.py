"""What the tests ask a serving stack, with the standard library: no proxy, no retry, every answer seen as it comes."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onepiece.serving import waiting

PROMPT, ANSWER = "27 + 15 →", " 42"

GRPC = """
import os, numpy, tritonclient.grpc as grpc
client = grpc.InferenceServerClient("{address}")
prompt = grpc.InferInput("prompt", [1, 1], "BYTES")
prompt.set_data_from_numpy(numpy.array([["{prompt}".encode()]], dtype=object))
for key in (os.environ["ASKED_WITH"], "wrong"):
    try:
        print(client.infer("tiny", [prompt], headers={{"authorization": f"Bearer {{key}}"}}).as_numpy("text")[0, 0].decode())
    except grpc.InferenceServerException as error:
        print(error.status())
"""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    pieces: tuple[float, ...] = ()  # when each read returned something, in seconds after the request

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def streamed_text(self) -> str:
        """Of a streamed completion; how many tokens one event holds is the server's choice."""
        events = [line.removeprefix("data: ") for line in self.body.decode("utf-8").splitlines() if line.startswith("data: {")]
        return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


@dataclass
class Client:
    """Of one gateway."""

    port: int
    key: str = ""
    timeout: float = 120.0

    def ask(self, path: str, content: Any = None, *, headers: Mapping[str, str] | None = None, pieces: bool = False) -> Answer:
        """GET, or POST of `content`, with the key if there is one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {}), **(headers or {})}
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        began = time.monotonic()
        try:
            connection.request("GET" if body is None else "POST", path, body, sent)
            answer = connection.getresponse()
            read, times = [], []
            while piece := (answer.read1(65536) if pieces else answer.read()):
                read.append(piece)
                times.append(time.monotonic() - began)
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, b"".join(read), tuple(times))
        finally:
            connection.close()

    def complete(self, tokens: int = 4, *, request_id: str = "", pieces: bool = False, **more: Any) -> Answer:
        """A greedy completion by vLLM."""
        content = {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, **more}
        return self.ask("/v1/completions", content, headers={"X-Request-Id": request_id} if request_id else {}, pieces=pieces)

    def infer(self, prompt: str = PROMPT, tokens: int = 4) -> Answer:
        """The same by Triton."""
        inputs = [
            {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": [prompt]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [tokens]},
        ]
        return self.ask("/v2/models/tiny/infer", {"inputs": inputs})


@dataclass
class Load:
    """Clients that ask one thing after the other until they are told to stop, and remember what they were told; the first streams."""

    client: Client
    clients: int = 3
    pause: float = 0.3
    succeeded: dict[str, Answer] = field(default_factory=dict)
    streamed: list[Answer] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        count = 0
        while not self._end.is_set():
            count += 1
            name = f"load-{number}-{count}"
            try:
                answer = self.client.complete(400 if number == 0 else 64, request_id=name, ignore_eos=True, stream=number == 0)
            except (OSError, http.client.HTTPException, ValueError) as error:  # the last: http.client met the end in place of a length
                self.broken.append(type(error).__name__)
            else:
                self._remember(name, answer)
            if number > 0:
                self._end.wait(self.pause)

    def _remember(self, name: str, answer: Answer) -> None:
        if answer.status != 200:
            self.refused.append(answer.status)
            self._end.wait(self.pause)
        elif answer.headers["content-type"].startswith("application/json"):
            self.succeeded[name] = answer
        elif answer.body.rstrip().endswith(b"[DONE]"):
            self.streamed.append(answer)
        else:
            self.broken.append("a stream without its end")


def together(calls: int, ask: Callable[[], Answer]) -> list[Answer]:
    """The answers to the same request sent `calls` times at once."""
    answers: list[Answer] = []
    start = threading.Barrier(calls)

    def one() -> None:
        start.wait()
        answers.append(ask())

    threads = [threading.Thread(target=one) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until it holds; how long that took."""
    began = time.monotonic()
    waiting.until(holds, seconds=seconds, what=what, pause=0.5)
    return time.monotonic() - began
