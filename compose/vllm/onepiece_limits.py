"""What one request may ask of vLLM: a gateway counts requests, and one of them may be the work of thousands.

For `vllm serve --middleware onepiece_limits.Limits`, with this directory in PYTHONPATH. vLLM itself bounds `max_tokens` (and the prompt) by
`--max-model-len`, `logprobs` by `--max-logprobs`, and `stop` to four strings. This bounds the rest, before anything is tokenized.

A second thing that a request alone is to blame for: a grammar or schema that no text can satisfy, such as one that refers to itself. vLLM
finds that while it generates, and says 500; a client would ask again. As long as the engine is well it is a 400 here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

SEQUENCES = int(os.environ.get("ONEPIECE_SEQUENCES") or 16)
"""Texts that one request may ask for: prompts times `n`, or the width of a beam search."""
ENTRIES = 1024
"""Of a list or a table of tokens or words."""
CHARACTERS = 256
"""Of one string in such a list, and of each of the strings of `stop`."""
NESTING = 64
"""Brackets within brackets of a body: readers of JSON follow them by calling themselves."""
SCHEMA = 32_768
"""Characters of a grammar, expression or schema, as JSON."""

_LISTS = ("logit_bias", "stop", "stop_token_ids", "bad_words", "allowed_token_ids")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?+)*+"?', re.DOTALL)  # one that is not closed too; nothing is tried twice
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_FORMS = ("structured_outputs", "response_format", "tools")


class Limits:
    """ASGI middleware: reads the body of a POST, refuses with 400 or hands on what it read."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:  # the client is gone
            return
        asked, wrong = read(body)
        if wrong:
            await _refuse(send, wrong)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()  # tells when the client is gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        constrained = any(asked.get(name) for name in _FORMS)
        await self.app(scope, again, _blamed_on_the_request(scope, send) if constrained else send)


def read(body: bytes) -> tuple[dict[str, Any], str]:
    """A request and what is too much of it; vLLM itself says what else is wrong with a body that is no JSON object."""
    if _nesting(body) > NESTING:
        return {}, f"The body has more than {NESTING} brackets within brackets."
    try:
        asked = json.loads(body)
    except ValueError:
        return {}, ""
    return (asked, too_much(asked)) if isinstance(asked, dict) else ({}, "")


def too_much(asked: dict[str, Any]) -> str:
    """What a request asks too much of, in words; empty if it does not."""
    most = max((_number(asked.get(name)) for name in ("n", "best_of")), default=1)
    texts = _prompts(asked) * max(most, 1)
    if texts > SEQUENCES:
        return f"{texts} texts (prompts times n or best_of) are more than {SEQUENCES} for one request."
    for name in _LISTS:
        value = asked.get(name)
        strings = [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else []
        if len(strings) > ENTRIES:
            return f"{name} has {len(strings)} entries, more than {ENTRIES}."
        if any(isinstance(text, str) and len(text) > CHARACTERS for text in strings):
            return f"{name} has a string of more than {CHARACTERS} characters."
    for name in _FORMS:
        if asked.get(name) and len(json.dumps(asked[name])) > SCHEMA:
            return f"{name} has more than {SCHEMA} characters."
    return ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _prompts(asked: dict[str, Any]) -> int:
    """How many texts are to be continued: a list of token ids, or of messages, is one."""
    for name in ("prompt", "prompt_embeds", "messages"):
        value = asked.get(name)
        if isinstance(value, list) and value and not isinstance(value[0], (int, dict)):
            return len(value)
    return 1


def _nesting(body: bytes) -> int:
    """How deep brackets go, outside of strings; no deeper than what is refused."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", body).translate(None, _NO_BRACKET):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > NESTING:
                break
        else:
            depth -= 1
    return deepest


async def _whole(receive: Receive) -> bytes | None:
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _refuse(send: Send, why: str) -> None:
    body = json.dumps({"error": {"message": why, "type": "BadRequestError", "param": None, "code": 400}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _blamed_on_the_request(scope: Message, send: Send) -> Send:
    """A `send` that says 400 where vLLM says 500 of a request with a grammar or a schema, if the engine itself is well."""
    failed = False

    async def say(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start" and message["status"] == 500:
            engine = getattr(scope["app"].state, "engine_client", None)
            failed = engine is not None and not engine.errored
            if failed:
                await _refuse(send, "No text can be generated that satisfies this grammar or schema.")
        if not failed:
            await send(message)

    return say
