"""A model repository: directories, versions, and the text of `config.pbtxt`.

    <repository>/
      linear/
        config.pbtxt        what clients may send, and how the server runs it
        1/model.py          version 1: the code, and whatever files it reads
        2/model.py

The format is protobuf text; its schema is `model_config.proto` of https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """An input or output, as the server checks it."""

    name: str
    data_type: str
    """As in the protocol: `FP32`, `INT32`, `INT64`, `BYTES` (which config.pbtxt calls STRING)."""
    dims: tuple[int, ...]
    """Without the batch dimension if the model has one; -1 is any size."""
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """What `config.pbtxt` says."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    """0: tensors have exactly the shape of `dims`. From 1 on, they have a batch dimension before it."""
    backend: str = "python"
    platform: str = ""
    """`ensemble` for a model that is made of others; then there is no backend."""
    instances: int = 1
    """Copies that run side by side; with the Python backend, each is a process."""
    limit: str = ""
    """`rate_limiter { }`: what an execution needs before it may begin."""
    kind: str = "KIND_CPU"
    """Explicit, because the default is KIND_AUTO: a GPU wherever the server sees one."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Handed to `initialize`."""
    more: str = ""
    """Further blocks as they stand: `dynamic_batching { }`, `version_policy { }`, ..."""


def tensor_text(tensor: Tensor) -> str:
    """One entry of `input [ ]` or `output [ ]`: `{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }`.

    The type has the prefix `TYPE_`, and BYTES is spelled STRING. `optional: true` stands there only if it is.
    """
    # SOLUTION 1
    data_type = "TYPE_" + {"BYTES": "STRING"}.get(tensor.data_type, tensor.data_type)
    dims = ", ".join(str(size) for size in tensor.dims)
    optional = " optional: true" if tensor.optional else ""
    return f'{{ name: "{tensor.name}" data_type: {data_type} dims: [ {dims} ]{optional} }}'
    # END SOLUTION


def config_text(model: Model) -> str:
    """The whole `config.pbtxt`."""
    lines = [f'name: "{model.name}"', f'platform: "{model.platform}"' if model.platform else f'backend: "{model.backend}"']
    lines.append(f"max_batch_size: {model.max_batch_size}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        lines += [f"{kind} [", ",\n".join(f"  {tensor_text(tensor)}" for tensor in tensors), "]"]
    if not model.platform:
        limit = f" {model.limit}" if model.limit else ""
        lines.append(f"instance_group [ {{ kind: {model.kind} count: {model.instances}{limit} }} ]")
    lines += [f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in model.parameters.items()]
    return "\n".join([*lines, *([model.more.strip()] if model.more else [])]) + "\n"


def lesson_file(module: str) -> Path:
    """The file of a lesson's module, found as `import` would find it: with `--mine`, the learner's."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"there is no module {module}"
    return Path(spec.origin)


def write_model(repository: Path, model: Model, module: str = "", versions: Mapping[int, Mapping[str, np.ndarray]] | None = None) -> Path:
    """Write a model's directory, in place of what was there, and return it.

    Args:
        module: the lesson's module that becomes `model.py`. Empty for an ensemble, whose version is an empty directory.
        versions: number -> arrays to save beside `model.py` as `<name>.npy`. One version without arrays if left out.
    """
    directory = repository / model.name
    shutil.rmtree(directory, ignore_errors=True)
    for version, arrays in (versions or {1: {}}).items():
        (directory / str(version)).mkdir(parents=True)
        if module:
            shutil.copyfile(lesson_file(module), directory / str(version) / "model.py")
        for name, array in arrays.items():
            np.save(directory / str(version) / f"{name}.npy", array)
    (directory / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
    return directory
