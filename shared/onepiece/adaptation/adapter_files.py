"""Adapters as two small files, in the format of peft: any tool that reads peft's adapters reads these.

    adapter_config.json        which method, which layers, which sizes
    adapter_model.safetensors  the trained tensors, and nothing of the base model

What each method has in them is its lab's to say. Here is what all have in common:

    write_adapter(directory, common_config("IA3", "tiny") | {"target_modules": [...]}, {"base_model.model....ia3_l": scale})
    config = read_config(directory, "IA3", unused={"peft_type": "IA3", "modules_to_save": None})
    for name, (scale,) in layer_tensors(directory, "ia3_l").items():
        layer = fitting_layer(model, name)
        expect_shape(f"{name}.ia3_l", scale, (layer.out_features, 1))

`in_peft` and `out_of_peft` let peft read what we wrote, and us what peft wrote.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onepiece.adaptation.linear_layers import is_linear
from onepiece.models import quiet_libraries

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Result = TypeVar("Result")

_PREFIX = "base_model.model."  # peft's two wrappers around the model: a PeftModel, and the method's own

# ---------------------------------------------------------------------------------------------- writing


def common_config(peft_type: str, base_model_name: str) -> dict[str, Any]:
    """What the configuration of every method says.

    Args:
        peft_type: the method, as peft calls it: `LORA`, `IA3`, `PROMPT_TUNING`, ...
        base_model_name: of the model without which the adapter is nothing; see `base_identity`.
    """
    return {"peft_type": peft_type, "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model_name, "inference_mode": True}


def write_adapter(directory: Path | str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write both files; the directory, made if need be.

    Args:
        config: what `peft.PeftConfig` reads; keys that are left out have peft's defaults.
        tensors: name in the file -> tensor, contiguous.

    Raises:
        ValueError: there are no tensors.
    """
    if not tensors:
        msg = "the model has no adapter: there is nothing to save"
        raise ValueError(msg)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return directory


def save_peft_model(model: PeftModel, directory: Path | str) -> None:
    """Let peft write the adapter of its model, and nothing else."""
    # "auto" would ask the hub for the base's vocabulary, to see whether the embeddings have changed.
    model.save_pretrained(directory, save_embedding_layers=False)


# ---------------------------------------------------------------------------------------------- reading


def read_config(directory: Path | str, method: str, *, unused: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a saved adapter, if it is one of the plain method.

    Args:
        method: what people call it, for the message.
        unused: what peft can do and the reader cannot: key -> the value that means "not used". The method itself is one of
            them: `{"peft_type": "LORA", "bias": "none", ...}`. A key that is missing, or null, is not used.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: the adapter uses something more, or is of another method; says what.
    """
    config = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8"))
    for key, plain in unused.items():
        if config.get(key, plain) not in (plain, None):
            msg = f"{directory} is not plain {method}: {key} is {config[key]!r}"
            raise ValueError(msg)
    return config


def read_tensors(directory: Path | str) -> dict[str, Tensor]:
    """Name in the file -> tensor, on the CPU.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
    """
    return load_file(Path(directory) / WEIGHTS)


def layer_tensors(directory: Path | str, *parts: str) -> dict[str, tuple[Tensor, ...]]:
    """The tensors of an adapter that belongs to layers: name of the layer in the base -> its tensors, in the order of `parts`.

    Args:
        parts: how the names of a layer's tensors end in the file: `lora_A.weight` and `lora_B.weight`, or `ia3_l`.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: a layer lacks a part, or a tensor is none of them.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(directory).items():
        part = next((part for part in parts if name.startswith(_PREFIX) and name.endswith(f".{part}")), None)
        if part is None:
            msg = f"{directory}: no layer of an adapter with {', '.join(parts)} has a tensor {name}"
            raise ValueError(msg)
        layers.setdefault(name.removeprefix(_PREFIX).removesuffix(f".{part}"), {})[part] = tensor
    for name, found in layers.items():
        if missing := [part for part in parts if part not in found]:
            msg = f"{directory}: the layer {name} has no {missing[0]}"
            raise ValueError(msg)
    return {name: tuple(found[part] for part in parts) for name, found in layers.items()}


def fitting_layer(model: nn.Module, name: str) -> nn.Module:
    """The linear layer (or the adapter's wrapper of one) that an adapter was made for.

    Raises:
        ValueError: the model has no such linear layer.
    """
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if layer is None or not is_linear(layer):
        msg = f"the adapter was made for another model: this one has no linear layer {name}"
        raise ValueError(msg)
    return layer


def expect_shape(name: str, tensor: Tensor, wanted: Sequence[int | None]) -> None:
    """Refuse a tensor of an adapter that does not fit the model.

    Args:
        name: of the tensor, for the message.
        wanted: what the model takes; None where any length fits, such as a rank or a number of virtual tokens.

    Raises:
        ValueError: the shape is another one.
    """
    fits = len(tensor.shape) == len(wanted) and all(want in (None, length) for length, want in zip(tensor.shape, wanted, strict=True))
    if not fits:
        takes = ", ".join("any" if length is None else str(length) for length in wanted)
        msg = f"the adapter was made for another model: {name} is {tuple(tensor.shape)}, and this one takes ({takes})"
        raise ValueError(msg)


# ---------------------------------------------------------------------------------------------- peft beside us


def in_peft(base: nn.Module, write: Callable[[Path], object], *, trainable: bool = False) -> PeftModel:
    """An adapter of ours in peft's model, by way of files.

    Args:
        base: a fresh copy of the base model; peft wraps it.
        write: writes the adapter into the directory that it is given.
        trainable: whether the adapter may be trained on.
    """
    quiet_libraries()
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory))
        return PeftModel.from_pretrained(base, directory, is_trainable=trainable)


def out_of_peft(model: PeftModel, read: Callable[[Path], Result]) -> Result:
    """What `read` makes of the directory in which peft has saved the adapter of its model."""
    with tempfile.TemporaryDirectory() as directory:
        save_peft_model(model, directory)
        return read(Path(directory))


# ---------------------------------------------------------------------------------------------- sizes


def data_bytes(path: Path) -> int:
    """Bytes of the numbers in a safetensors file: without its 8-byte length and its JSON header.

    Source: https://huggingface.co/docs/safetensors, "Format".
    """
    with path.open("rb") as stream:
        (header,) = struct.unpack("<Q", stream.read(8))
        entries = json.loads(stream.read(header))
    return max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")


def directory_bytes(directory: Path) -> int:
    """Bytes of all files of a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
