"""What will the server say? A model repository judged before anything is started.

The server judges in stages: it reads the directory and config.pbtxt, it starts the code, and later it checks each request against the
configuration. `read_verdict` reads what the server said; `diagnose` has to know it before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from tritonclient.utils import np_to_triton_dtype

SERVED = "served"
# Verdict -> what the server's own words look like. The first eight come when the model is loaded, the others with a request.
VERDICTS = {
    "unreadable config": r"failed to read text proto",
    "name is not the directory's": r"directory name must equal model name",
    "no version": r"at least one version must be available",
    "bad dims": r"dimension must be integer >= 1, or -1",
    "no such backend": r"unable to find backend library",
    "no GPU here": r"no GPUs are available",
    "file missing": r"FileNotFoundError",
    "code fails": r"Internal: \w*Error",
    "unknown input": r"unexpected inference input",
    "input missing": r"missing required input",
    "wrong type": r"data-type is .* but model .* expects",
    "wrong shape": r"unexpected shape for input",
    "batch too large": r"batch-size must be <=",
}
BACKENDS_HERE = ("python",)
"""What the server of the CPU profile was built with."""


@dataclass(frozen=True)
class Request:
    """What a client is going to send."""

    inputs: Mapping[str, np.ndarray]


def read_verdict(words: str) -> str:
    """The name in VERDICTS of what the server said; `unknown` if it is none of them."""
    return next((verdict for verdict, pattern in VERDICTS.items() if re.search(pattern, words)), "unknown")


def read_config(directory: Path) -> ModelConfig | None:
    """config.pbtxt as the server's own schema reads it, or None if it cannot be read."""
    try:
        return text_format.Parse((directory / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())
    except text_format.ParseError:
        return None


def diagnose(directory: Path, request: Request) -> str:
    """The verdict on a model's directory and a client's request: a name in VERDICTS, or SERVED."""
    config = read_config(directory)
    if config is None:
        return "unreadable config"
    return diagnose_directory(directory, config) or diagnose_request(config, request) or SERVED


def diagnose_directory(directory: Path, config: ModelConfig) -> str:
    """The verdict when the model is loaded; empty if it loads."""
    if config.name not in ("", directory.name):
        return "name is not the directory's"
    versions = [path for path in directory.iterdir() if path.is_dir() and path.name.isdigit()]
    if not versions:
        return "no version"
    if config.backend not in BACKENDS_HERE:
        return "no such backend"
    if any(group.kind == ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        return "no GPU here"
    if any(size == 0 or size < -1 for tensor in (*config.input, *config.output) for size in tensor.dims):
        return "bad dims"
    code = "\n".join((path / "model.py").read_text(encoding="utf-8") for path in versions)
    if not compiles(code) or "class TritonPythonModel" not in code:
        return "code fails"
    # What the code reads when it starts is not in config.pbtxt: one has to know the model.
    return "file missing" if "weights.npy" in code and not all((path / "weights.npy").exists() for path in versions) else ""


def compiles(code: str) -> bool:
    """Whether it is Python at all."""
    try:
        compile(code, "model.py", "exec")
    except SyntaxError:
        return False
    return True


def diagnose_request(config: ModelConfig, request: Request) -> str:
    """The verdict on a request; empty if the server lets it through to the model.

    In the server's order: an input that the configuration does not have ("unknown input"); one that it has, that is not optional,
    and that the client did not send ("input missing"); a batch larger than max_batch_size ("batch too large"); the type ("wrong
    type"); the shape ("wrong shape"). With max_batch_size above 0 the first dimension is the batch, and `dims` speaks of the others;
    -1 fits any size. `DataType.Name(tensor.data_type)` is "TYPE_FP32", `np_to_triton_dtype(array.dtype)` is "FP32"; what is called
    TYPE_STRING in the configuration is BYTES in a request.
    """
    # SOLUTION 2
    declared = {tensor.name: tensor for tensor in config.input}
    if set(request.inputs) - set(declared):
        return "unknown input"
    if any(name not in request.inputs and not tensor.optional for name, tensor in declared.items()):
        return "input missing"
    batched = config.max_batch_size > 0
    if batched and any(len(array) > config.max_batch_size for array in request.inputs.values()):
        return "batch too large"
    for name, array in request.inputs.items():
        data_type = DataType.Name(declared[name].data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
        if np_to_triton_dtype(array.dtype) != data_type:
            return "wrong type"
        shape, dims = array.shape[1:] if batched else array.shape, tuple(declared[name].dims)
        if len(shape) != len(dims) or any(want not in (-1, got) for got, want in zip(shape, dims, strict=True)):
            return "wrong shape"
    return ""
    # END SOLUTION


def undeclared(config: ModelConfig, outputs: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with an answer, held against the configuration. The server does not look: a client or a test has to."""
    found = []
    for tensor in config.output:
        array, data_type = outputs.get(tensor.name), DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
        if array is None:
            found.append(f"{tensor.name} is missing")
            continue
        if np_to_triton_dtype(array.dtype) != data_type:
            found.append(f"{tensor.name} is {np_to_triton_dtype(array.dtype)}, not {data_type}")
        shape = array.shape[1:] if config.max_batch_size > 0 else array.shape
        if len(shape) != len(tensor.dims) or any(want not in (-1, got) for got, want in zip(shape, tensor.dims, strict=True)):
            found.append(f"{tensor.name} has the shape {list(shape)}, not {list(tensor.dims)}")
    return found
