"""What one request may ask of vLLM: the middleware alone, as a server calls it. No server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import toy_course

sys.path.insert(0, str(toy_course.ROOT / "compose/vllm"))

import onepiece_limits

PROMPT = {"model": "tiny", "prompt": "27 + 15 →"}


def served(
    asked: Any, *, status: int = 200, errored: bool = False, pieces: int = 1, path: str = "/v1/completions"
) -> tuple[int, bytes, bytes | None]:
    """The status and the body of an answer, and the body that reached the application; it answers with `status`."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    size = -(-len(body) // pieces)
    incoming = [{"type": "http.request", "body": body[at * size : (at + 1) * size], "more_body": at < pieces - 1} for at in range(pieces)]
    sent: list[dict[str, Any]] = []
    got: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        got.append((await receive())["body"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"of the application"})

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    app = SimpleNamespace(state=SimpleNamespace(engine_client=SimpleNamespace(errored=errored)))
    scope = {"type": "http", "method": "POST", "path": path, "app": app}
    asyncio.run(onepiece_limits.Limits(application)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), (got or [None])[0]


@pytest.mark.fault("work-not-requests")
@pytest.mark.parametrize(
    "more",
    [
        {"n": 16384}, {"n": 17}, {"best_of": 17}, {"n": 9, "prompt": ["a", "b"]}, {"prompt": ["a"] * 17}, {"prompt": [[1]] * 17},
        {"messages": [[{"role": "user", "content": "a"}]] * 17}, {"use_beam_search": True, "n": 64}, {"stop": ["a"] * 1025}, {"stop": "a" * 257},
        {"stop": ["a" * 257]}, {"logit_bias": {str(token): 1 for token in range(1025)}}, {"stop_token_ids": [1] * 1025}, {"bad_words": ["a" * 257]},
        {"allowed_token_ids": [1] * 1025}, {"structured_outputs": {"regex": "a" * 40_000}}, {"response_format": {"a": "b" * 40_000}},
        {"prompt_embeds": ["a"] * 17},
    ],
)  # fmt: skip
def test_a_request_for_the_work_of_many_is_refused_before_any_of_it(more: dict[str, Any]) -> None:
    status, body, got = served(PROMPT | more)
    assert status == 400 and got is None and json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "more",
    [
        {}, {"n": 16}, {"n": None}, {"n": "x"}, {"prompt": ["a"] * 16}, {"prompt": list(range(500))}, {"prompt": ["a", "b"], "n": 8},
        {"messages": [{"role": "user", "content": "a"}] * 100}, {"stop": ["a"] * 4}, {"logit_bias": {"1": 5}}, {"prompt": "[{" * 5000},
        {"structured_outputs": {"json": {"type": "object"}}}, {"prompt": '\\"[{"[' * 100},
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_not_too_much_arrives_byte_for_byte(more: dict[str, Any], pieces: int) -> None:
    body = json.dumps(PROMPT | more).encode()
    assert served(body, pieces=pieces) == (200, b"of the application", body)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b"\xff", b'{"n": NaN}'])
def test_what_is_no_request_is_left_to_the_server(body: bytes) -> None:
    assert served(body) == (200, b"of the application", body)


@pytest.mark.fault("work-not-requests")
@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b'"\\' * 500_000, b'"\\' * 500_000 + b"\\", b"[]," * 300_000])
def test_a_body_that_is_made_to_be_slow_is_not(body: bytes) -> None:
    began = time.monotonic()
    served(body)
    assert time.monotonic() - began < 2


@pytest.mark.fault("grammar-500")
def test_a_grammar_that_no_text_satisfies_is_the_requests_own_fault_while_the_engine_is_well() -> None:
    for more in ({"structured_outputs": {"grammar": "root ::= root"}}, {"response_format": {"type": "json_schema"}}, {"tools": [{}]}):
        status, body, _ = served(PROMPT | more, status=500)
        assert status == 400 and "satisfies this grammar" in json.loads(body)["error"]["message"]
        assert served(PROMPT | more, status=500, errored=True)[:2] == (500, b"of the application"), (
            "an engine that died is no client's fault"
        )
        assert served(PROMPT | more)[0] == 200
    assert served(PROMPT, status=500)[0] == 500, "without one it is the server's"


def test_other_paths_are_none_of_its_business() -> None:
    assert served(PROMPT | {"n": 99}, path="/tokenize")[0] == 200
