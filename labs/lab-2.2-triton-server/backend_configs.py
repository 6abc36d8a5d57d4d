"""The other backends: repositories for PyTorch, ONNX Runtime, TensorRT and vLLM, written here and run elsewhere.

The server of the CPU profile is built with the Python backend alone. These configurations are held against Triton's schema and against the
layout that each backend's documentation asks for; that they serve is NOT shown in this lab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diagnosis import read_config
from lesson_models import linear
from model_repository import Model, Tensor, config_text

TEXT_INPUT, TEXT_OUTPUT = Tensor("text_input", "BYTES", (1,)), Tensor("text_output", "BYTES", (1,))


@dataclass(frozen=True)
class OtherBackend:
    """A model for a backend that is not here."""

    model: Model
    file: str
    """What the backend looks for in the version directory."""
    source: str
    """Its documentation."""
    content: Mapping[str, object] = field(default_factory=dict)
    """Of that file, where it is JSON; the others are made by an export."""


def _model(name: str, backend: str, *, inputs: tuple[Tensor, ...] = (), outputs: tuple[Tensor, ...] = (), more: str = "") -> Model:
    inputs, outputs = inputs or linear().inputs, outputs or linear().outputs
    return Model(name, inputs, outputs, max_batch_size=8, backend=backend, kind="KIND_GPU", more=more)


ORGANISATION = "https://github.com/triton-inference-server"
OTHERS = (
    OtherBackend(  # TorchScript does not name its tensors: any name with the place behind it
        _model("linear_pytorch", "pytorch", inputs=(Tensor("INPUT__0", "FP32", (4,)),), outputs=(Tensor("OUTPUT__0", "FP32", (2,)),)),
        "model.pt", f"{ORGANISATION}/pytorch_backend",
    ),
    OtherBackend(  # or, for inputs, the names of the arguments of `forward`
        _model("linear_arguments", "pytorch", outputs=(Tensor("scores__0", "FP32", (2,)),)), "model.pt", f"{ORGANISATION}/pytorch_backend",
    ),
    OtherBackend(_model("linear_onnx", "onnxruntime"), "model.onnx", f"{ORGANISATION}/onnxruntime_backend"),
    OtherBackend(
        _model("linear_tensorrt", "tensorrt", more="dynamic_batching { preferred_batch_size: [ 4, 8 ] }"),
        "model.plan", f"{ORGANISATION}/tensorrt_backend",
    ),
    OtherBackend(  # vLLM batches by itself, token by token: a batch dimension or a dynamic batcher before it would only be in the way
        Model(
            "tiny_vllm", (TEXT_INPUT, Tensor("stream", "BOOL", (1,), optional=True)), (Tensor("text_output", "BYTES", (-1,)),),
            backend="vllm", kind="KIND_MODEL", more="model_transaction_policy { decoupled: true }",
        ),
        "model.json", f"{ORGANISATION}/vllm_backend",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "7ae557604adf67be50417f59c2c2f167def9a775", "gpu_memory_utilization": 0.5},
    ),
)  # fmt: skip


def write_other(repository: Path, other: OtherBackend) -> Path:
    """Write config.pbtxt and the version directory, with the file if it is JSON; an export of the model is what is still missing."""
    directory = repository / other.model.name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    (directory / "config.pbtxt").write_text(config_text(other.model), encoding="utf-8")
    if other.content:
        (directory / "1" / other.file).write_text(json.dumps(dict(other.content), indent=2) + "\n", encoding="utf-8")
    return directory


def names_fit(inputs: Sequence[str], outputs: Sequence[str]) -> bool:
    """Whether the PyTorch backend can tell which tensor is which. Source: its README, "Naming Convention".

    `<name>__<index>` says the place of a tensor, whatever the name. Inputs may instead have the names of the arguments of `forward`, or
    of the keys of the dictionary that it takes; the two ways must not be mixed. Whether `forward` has these arguments only the model says.
    """

    def numbered(names: Sequence[str]) -> bool:
        places = [re.fullmatch(r".+__(\d+)", name) for name in names]
        return sorted(int(place[1]) if place else -1 for place in places) == list(range(len(names)))

    by_argument = all(name.isidentifier() and not re.search(r"__\d+$", name) for name in inputs)
    return (numbered(inputs) or by_argument) and numbered(outputs)


def form_problems(directory: Path) -> list[str]:
    """What can be found without the backend: the schema, the name, names of tensors that TorchScript cannot have, a batcher before vLLM."""
    config = read_config(directory)
    if config is None:
        return ["config.pbtxt does not fit the schema"]
    found = [] if config.name == directory.name else ["the name is not the directory's"]
    if config.backend == "pytorch" and not names_fit(*([tensor.name for tensor in side] for side in (config.input, config.output))):
        found.append("tensors of TorchScript are called <name>__<index>; inputs may have the names of forward's arguments instead")
    if config.backend == "vllm" and (config.max_batch_size or config.HasField("dynamic_batching")):
        found.append("vLLM batches by itself: max_batch_size is 0")
    if config.backend == "vllm" and not config.model_transaction_policy.decoupled:
        found.append("vLLM answers several times per request: decoupled")
    return found
