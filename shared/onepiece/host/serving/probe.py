"""Whether a server does its work: one token is asked of it. Its own health says less: Triton's stays good when a model's process is dead.

    python3 probe.py [--end] vllm|triton URL [MODEL]

Nothing but the standard library, and nothing of this package: in containers this very file is the health check, by its path. There, with
`--end`, it also ends what process 1 started, when it failed often enough in a row after it had once been well: an engine starts again what
ends, not what is unhealthy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 30.0
"""Patience for one token; a server with all its places taken answers within a fraction of that."""
FAILURES = 3
"""So many in a row, and a server is started again."""
_COUNT = Path("/tmp/onepiece-health")


def one_token(kind: str, url: str, model: str = "tiny", key: str = "", timeout: float = SECONDS) -> str:
    """Ask for one token, never through a proxy.

    Args:
        kind: `vllm` or `triton`; of anything else only a GET of `url` is asked.
        url: of its HTTP port, or what is asked for with GET.
        key: where the server asks for one itself.

    Returns:
        What is wrong; empty if the server does its work. An answer that refuses the request is a good one of vLLM: some models do not
        complete texts.
    """
    path, body = _request(kind, model)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return "" if kind == "vllm" and error.code < 500 else f"HTTP {error.code} {error.read(300).decode('utf-8', 'replace').strip()}"
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except OSError as error:  # a URLError too
        return str(getattr(error, "reason", error))
    return ""


def _request(kind: str, model: str) -> tuple[str, dict[str, object] | None]:
    if kind == "vllm":
        return "/v1/completions", {"model": model, "prompt": "1", "max_tokens": 1}
    if kind == "triton":
        inputs = [
            {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": ["1"]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [1]},
        ]
        return f"/v2/models/{model}/infer", {"inputs": inputs}
    return "", None


def main(arguments: list[str]) -> int:
    """As the health check of a container: 0 if the server is well."""
    ends = arguments[:1] == ["--end"]
    wrong = one_token(*arguments[ends:])
    if not wrong:
        _COUNT.write_text("0", encoding="utf-8")
        return 0
    print(wrong, file=sys.stderr)
    if _COUNT.exists():  # it was well: it is not starting
        failed = int(_COUNT.read_text(encoding="utf-8") or 0) + 1
        _COUNT.write_text(str(failed), encoding="utf-8")
        if ends and failed == FAILURES:
            os.kill(1, signal.SIGTERM)  # the container's init, which passes it on
        elif ends and failed > FAILURES:  # what hangs does not end in order
            for pid in Path("/proc/1/task/1/children").read_text(encoding="utf-8").split():
                os.kill(int(pid), signal.SIGKILL)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
