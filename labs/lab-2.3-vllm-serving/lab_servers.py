"""The two servers of this lab, real vLLM both times, and what happens to them.

The first one is for learning: adapters may come and go while it runs. The second one is for production: a key, limits, an adapter from
the start, a draft model, time to finish at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onepiece import models
from onepiece.serving import servers
from onepiece.serving.servers import Server
from onepiece.tiny import checkpoints

NAME = "base"
"""What clients call the model, whichever it is."""
COMPACT_JSON = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
"""JSON without spaces between its parts. A grammar allows any number of them, and a small model can fill an answer with nothing else."""


def model_directory(name: str, revision: str = "") -> Path:
    """Where a model lies: a shipped one, a directory, or one of the hub, downloaded if need be."""
    if name in checkpoints.NAMES:
        return checkpoints.directory(name)
    return Path(name) if Path(name).is_dir() else models.fetch(name, revision)


def start_first(settings: Any, directory: Path) -> Server:
    """The server of notebooks 1 to 3."""
    return servers.vllm(
        model_directory(settings.model or settings.base_model, settings.base_revision),
        directory=directory,
        served_name=NAME,
        options=[*settings.server_options, "--enable-lora", "--max-lora-rank", str(settings.rank), *COMPACT_JSON],
        variables={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
    )


def start_production(settings: Any, directory: Path, *, adapter: Path, key: str, port: int | None = None) -> Server:
    """The server of notebooks 3 (its end) and 4.

    Args:
        adapter: loaded at start as `relabel`.
        key: clients must send it.
        port: that of a server that has ended, to take its place; None takes a free one.
    """
    options = [
        *("--enable-lora", "--max-lora-rank", str(settings.rank), "--lora-modules", f"relabel={adapter}"),
        *("--max-loras", "2"),  # one more than there are: notebook 3 shows why
        *("--speculative-config", json.dumps(speculation(settings))),
        *("--max-num-seqs", str(settings.most_running), "--max-num-queued-reqs", str(settings.most_running + settings.most_waiting)),
        *("--shutdown-timeout", str(settings.shutdown_seconds)),
    ]
    return servers.vllm(
        model_directory(settings.model or settings.base_model, settings.base_revision),
        directory=directory,
        served_name=NAME,
        port=port,
        options=[*settings.server_options, *options],
        variables={"VLLM_API_KEY": key},  # not an option: every user of a machine can read a command line
    )


def speculation(settings: Any) -> dict[str, Any]:
    """Who guesses the next tokens: a small model, or, if there is none, the prompt itself (n-grams that came before)."""
    if settings.draft_model:
        draft = {"method": "draft_model", "model": str(model_directory(settings.draft_model))}
    else:
        draft = {"method": "ngram", "prompt_lookup_max": 4}
    return draft | {"num_speculative_tokens": settings.guessed_tokens}


def terminate(server: Server) -> None:
    """Ask the server's main process to end (SIGTERM), as `docker stop` and Kubernetes do, and do not wait for it."""
    os.kill(child_of(server.pid), signal.SIGTERM)


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Let the server stand still while the block runs, as a long garbage collection or a stolen CPU would: SIGSTOP, then SIGCONT."""
    group = child_of(server.pid)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def child_of(pid: int) -> int:
    """The process that `pid` has started and that leads a group of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(children[0])
