"""Ask servers the same in turn, from a process of its own, and write down how long they took: one line of JSON in, one out.

    python load.py '{"targets": {"direct": {"url": ..., "body": ...}, ...}, "key": ..., "requests": 60, "at_once": 4, "rounds": 9}'

Each target keeps its connections over all rounds, as a client library does. Rounds alternate their order; the first is not measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import Any

import aiohttp

from onepiece.serving.load import closed_loop


async def ask(session: aiohttp.ClientSession, target: dict[str, Any]) -> int:
    """One request, read to its end.

    Returns:
        How many tokens were generated, where the answer says so.

    Raises:
        RuntimeError: the answer is not a success, or a stream has no end.
    """
    body = target.get("body")
    async with session.request("GET" if body is None else "POST", target["url"], json=body) as answer:
        text = await answer.read()
    streams = bool(body and body.get("stream"))
    if answer.status != 200 or (streams and not text.rstrip().endswith(b"[DONE]")):
        msg = f"{target['url']}: {answer.status} {text[-300:]!r}"
        raise RuntimeError(msg)
    return 0 if body is None or streams else int(json.loads(text)["usage"]["completion_tokens"])


async def round_of(session: aiohttp.ClientSession, target: dict[str, Any], requests: int, at_once: int) -> dict[str, float]:
    """`requests` requests by `at_once` clients, each of which asks again as soon as it was answered."""

    async def timed(_: int, began: float) -> tuple[float, int]:
        tokens = await ask(session, target)
        return time.perf_counter() - began, tokens

    began = time.perf_counter()
    latencies, tokens = zip(*await closed_loop(timed, count=requests, concurrency=at_once), strict=True)
    return {"seconds": time.perf_counter() - began, "median": statistics.median(latencies), "tokens": sum(tokens)}


async def rounds(plan: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """All measured rounds of every target."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in plan["targets"]}
    headers = {"Authorization": f"Bearer {plan['key']}"}
    # Shorter than vLLM keeps a connection without requests, 5 s: a request that crosses with its end would fail.
    connectors = {name: aiohttp.TCPConnector(limit=plan["at_once"], keepalive_timeout=3) for name in plan["targets"]}
    sessions = {name: aiohttp.ClientSession(headers=headers, connector=connector) for name, connector in connectors.items()}
    try:
        for number in range(plan["rounds"] + 1):
            names = list(plan["targets"])
            for name in names if number % 2 else reversed(names):
                measured = await round_of(sessions[name], plan["targets"][name], plan["requests"], plan["at_once"])
                if number:
                    found[name].append(measured)
    finally:
        for session in sessions.values():
            await session.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(rounds(json.loads(sys.argv[1])))))
