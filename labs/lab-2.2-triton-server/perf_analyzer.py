"""NVIDIA's `perf_analyzer`, the standard tool: a closed loop as in `onepiece.serving.load`, with the server's statistics beside it.

It is a program of NVIDIA's SDK container (`nvcr.io/nvidia/tritonserver:<yy.mm>-py3-sdk`). On PyPI there is a package of that name
without a program in it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

NAME = "perf_analyzer"


def command(model: str, data: Path, address: str, concurrency: int, requests: int) -> list[str]:
    """What to type: a closed loop over gRPC.

    Args:
        data: what `write_data` wrote.
        address: host:port of the server's gRPC port.
        concurrency: the most clients; it begins with one, and adds five.
        requests: in a measurement; it repeats until three measurements agree.
    """
    return [
        NAME, "-m", model, "-i", "grpc", "-u", address, "--input-data", str(data), "--concurrency-range", f"1:{concurrency}:5",
        "--percentile=95", "--measurement-mode", "count_windows", "--measurement-request-count", str(requests),
    ]  # fmt: skip


def write_data(path: Path, inputs: Mapping[str, np.ndarray]) -> Path:
    """The request to repeat, as `--input-data` reads it; shapes are without the batch dimension."""
    content = {name: {"content": array.ravel().tolist(), "shape": list(array.shape[1:])} for name, array in inputs.items()}
    path.write_text(json.dumps({"data": [content]}), encoding="utf-8")
    return path


def run(arguments: list[str], seconds: float) -> str | None:
    """What it printed, errors included, for at most so many seconds; None where there is no such program."""
    if shutil.which(NAME) is None:
        return None
    try:
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:  # it repeats until it is content
        return (late.stdout or b"").decode("utf-8") + f"\nended after {seconds:.0f} s"
    return done.stdout
