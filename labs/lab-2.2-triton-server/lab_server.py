"""The server of this lab: one start with every option that the notebooks need, and models that are loaded on request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference_client import over_grpc, over_http
from onepiece.serving import servers
from onepiece.serving.servers import Server

OPTIONS = (
    "--model-control-mode=explicit",  # nothing is loaded until somebody asks; a broken model harms no other
    "--rate-limit=execution_count",  # honour the resources of models that name some
    "--rate-limit-resource=slots:2",
    "--cache-config=local,size=4194304",  # bytes, for models with a response cache
)
SHARED_MEMORY = Path("/dev/shm")


def start(repository: Path, directory: Path, *, ports: dict[str, int] | None = None, options: Sequence[str] = ()) -> Server:
    """Start Triton with OPTIONS on a model repository and wait until it answers.

    Args:
        directory: where its log goes. Its name also marks the shared memory of this server's models.
        ports: those of a server that has ended, to take its place; None takes free ones.
        options: more of them, such as `--load-model=tiny`.
    """
    prefix = f"--backend-config=python,shm-region-prefix-name={region_prefix(directory)}"
    return servers.triton(repository, directory=directory, ports=ports, options=[*OPTIONS, prefix, *options])


def region_prefix(directory: Path) -> str:
    """How the names of this server's shared-memory regions begin: the Python backend passes tensors to its processes there.

    Two servers on one machine need different ones (https://github.com/triton-inference-server/vllm_backend, "Running Multiple Instances").
    """
    return f"onepiece-{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]}-"


def regions(directory: Path) -> list[Path]:
    """The regions in shared memory that a server with this directory has, or left behind."""
    return sorted(SHARED_MEMORY.glob(f"{region_prefix(directory)}*"))


def ensure_loaded(server: Server, *models: str) -> None:
    """Load those of `models` that are not ready: a notebook may be opened alone."""
    with closing(over_grpc(server)) as client:
        for model in models:
            if not client.is_model_ready(model):
                client.load_model(model)


@contextmanager
def closing(client: Any) -> Iterator[Any]:
    """Close a client at the end: the server's shutdown waits for every connection that is open."""
    try:
        yield client
    finally:
        client.close()


def index(server: Server) -> dict[str, dict[str, str]]:
    """Model -> version -> state, as the server's repository index says; models that were never loaded have no version."""
    states: dict[str, dict[str, str]] = {}
    with closing(over_http(server)) as client:
        for entry in client.get_model_repository_index():
            versions = states.setdefault(entry["name"], {})
            if "version" in entry:
                versions[entry["version"]] = entry.get("state", "")
    return states
