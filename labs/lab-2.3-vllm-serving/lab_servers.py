"""The two servers of this lab, real vLLM both times.

The first one is for learning: adapters may come and go while it runs. The second one is for production: a key, limits, an adapter from
the start, a draft model, time to finish at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onepiece.models import model_directory
from onepiece.serving import servers
from onepiece.serving.servers import Server

NAME = "base"
"""What clients call the model, whichever it is."""
COMPACT_JSON = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
"""JSON without spaces between its parts. A grammar allows any number of them, and a small model can fill an answer with nothing else."""


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
