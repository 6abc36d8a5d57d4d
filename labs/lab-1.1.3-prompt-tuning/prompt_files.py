"""A prompt as two small files, in the format of peft: any tool that reads peft's prompts reads these.

adapter_config.json        how many virtual tokens, how wide
adapter_model.safetensors  the vectors, and nothing of the base model
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onepiece.adaptation import common_config, expect_shape, read_config, read_tensors, write_adapter
from onepiece.adaptation.soft_prompt import SoftPromptModel
from prompt_tuning import SoftPrompt, before_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOT_USED: dict[str, Any] = {"peft_type": "PROMPT_TUNING", "num_transformer_submodules": 1, "modules_to_save": None}


# Exercise 6. peft keeps the vectors as one tensor, (virtual_tokens, hidden), called prompt_embeddings: not the weights of the module
# that made them, but what comes out of it, so that a prompt from an encoder (P-tuning) looks the same. Detached, contiguous, CPU.
def prompt_tensors(prompt: SoftPrompt) -> dict[str, Tensor]:
    """Name in the file -> tensor."""
    # SOLUTION 6
    return {"prompt_embeddings": prompt().detach().cpu().contiguous()}
    # END SOLUTION


def prompt_config(model: SoftPromptModel, base_model_name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    virtual_tokens, hidden = model.prompt.vectors.shape
    return common_config("PROMPT_TUNING", base_model_name) | {
        "num_virtual_tokens": virtual_tokens,
        "token_dim": hidden,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
        # Where training began is of no use any more, and peft would want the tokenizer of a start from text.
        "prompt_tuning_init": "RANDOM",
    }


def save_prompt(model: SoftPromptModel, directory: Path | str, base_model_name: str) -> Path:
    """Write the prompt of a model as peft does; the directory, made if need be."""
    return write_adapter(directory, prompt_config(model, base_model_name), prompt_tensors(model.prompt))


def read_prompt(directory: Path | str, hidden: int) -> SoftPrompt:
    """A saved prompt, for a base of this width.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: it is no plain prompt, has no vectors, was made for a base of another width, or its two files contradict each
            other; says what.
    """
    config = read_config(directory, "prompt tuning", unused=_NOT_USED)
    tensors = read_tensors(directory)
    if set(tensors) != {"prompt_embeddings"}:
        msg = f"{directory}: a prompt is one tensor called prompt_embeddings, and the file has {', '.join(sorted(tensors)) or 'none'}"
        raise ValueError(msg)
    vectors = tensors["prompt_embeddings"]
    expect_shape("prompt_embeddings", vectors, (None, hidden))
    if len(vectors) == 0 or config.get("num_virtual_tokens") != len(vectors):
        msg = f"{directory}: its configuration says {config.get('num_virtual_tokens')} virtual tokens, and its file has {len(vectors)}"
        raise ValueError(msg)
    return SoftPrompt(vectors)


def load_prompt(base: PreTrainedModel, directory: Path | str) -> SoftPromptModel:
    """A base with a saved prompt before its texts, frozen; raises what `read_prompt` raises."""
    prompt = read_prompt(directory, base.get_input_embeddings().weight.shape[1])
    return SoftPromptModel(base, prompt.requires_grad_(False), before_text)
