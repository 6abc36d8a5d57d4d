"""A prefix as two small files, in the format of peft: any tool that reads peft's prefixes reads these.

    adapter_config.json        how many virtual tokens, and the shape of the cache that they are for
    adapter_model.safetensors  one tensor, the rows, and nothing of the base model

Whatever the rows came out of while they were trained is not in there: peft does not save its encoder either.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onepiece.adaptation import common_config, expect_shape, read_config, read_tensors, write_adapter
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel
from onepiece.models import quiet_libraries
from prefix_tuning import DirectPrefix, EncodedPrefix, exported

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

TENSOR = "prompt_embeddings"
"""What peft calls the one tensor of every method with virtual tokens."""


def prefix_config(prefix: DirectPrefix, base_model_name: str) -> dict[str, Any]:
    """What stands in adapter_config.json. peft's `token_dim` and `num_attention_heads` are those of the keys, not of the queries."""
    shape = prefix.shape
    return common_config("PREFIX_TUNING", base_model_name) | {
        "num_virtual_tokens": len(prefix.rows),
        "num_layers": shape.layers,
        "num_attention_heads": shape.kv_heads,
        "token_dim": shape.width,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": shape.width,
        "prefix_projection": False,
    }


def save_prefix(prefix: DirectPrefix | EncodedPrefix, directory: Path | str, base_model_name: str) -> Path:
    """Write a prefix as peft does; the directory, made if need be."""
    plain = exported(prefix)
    return write_adapter(directory, prefix_config(plain, base_model_name), {TENSOR: plain.rows.detach().cpu().contiguous()})


def read_prefix(directory: Path | str, shape: CacheShape) -> DirectPrefix:
    """A saved prefix, for a model with such a cache; its rows can be trained on.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: it is no prefix, was made for another model, or its two files contradict each other; says what.
    """
    config = read_config(directory, "prefix tuning", unused={"peft_type": "PREFIX_TUNING", "modules_to_save": None})
    rows = _only_tensor(directory)
    virtual = config.get("num_virtual_tokens")
    if not virtual or len(rows) != virtual:
        msg = f"{directory}: its configuration says {virtual} virtual tokens, and its file has {len(rows)}"
        raise ValueError(msg)
    expect_shape(TENSOR, rows, (virtual, shape.numbers))
    for key, own in (("num_layers", shape.layers), ("num_attention_heads", shape.kv_heads)):
        if config.get(key, own) != own:  # as many numbers in another order
            msg = f"the adapter was made for another model: {key} is {config[key]}, and this one has {own}"
            raise ValueError(msg)
    return DirectPrefix(rows, shape)


def _only_tensor(directory: Path | str) -> Tensor:
    tensors = read_tensors(directory)
    if set(tensors) != {TENSOR}:
        msg = f"{directory}: a prefix is one tensor, {TENSOR}; its file has {', '.join(sorted(tensors)) or 'none'}"
        raise ValueError(msg)
    return tensors[TENSOR]


def load_prefix(base: PreTrainedModel, directory: Path | str) -> PrefixModel:
    """A base with a saved prefix in its cache; errors as `read_prefix`."""
    return PrefixModel(base, read_prefix(directory, CacheShape.of(base.config)))


def trainable_in_peft(base: PreTrainedModel, prefix: DirectPrefix | EncodedPrefix) -> PeftModel:
    """peft's model of a base, with the numbers of a prefix of ours, encoder and all, to be trained on.

    Not by way of files: peft 0.21 loads a prefix for inference only, and of an encoder it saves nothing.
    """
    quiet_libraries()
    from peft import PrefixTuningConfig, get_peft_model

    options: dict[str, Any] = {}
    state = {"embedding.weight": prefix.rows}
    if isinstance(prefix, EncodedPrefix):
        options = {"prefix_projection": True, "encoder_hidden_size": prefix.transform[0].out_features}
        state = prefix.state_dict()
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(prefix.rows), **options)
    model = get_peft_model(base, config)
    model.prompt_encoder["default"].load_state_dict(state)
    return model
