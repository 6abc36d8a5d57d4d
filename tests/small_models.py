"""Random models and a tokenizer, small enough to be made in every test of the lab floor."""

from __future__ import annotations

from functools import cache

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from onepiece import world
from onepiece.tiny.tokenizer import train_tokenizer

torch.set_num_threads(1)  # models this small are faster so, and far faster on a busy machine

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny models' kind of tokenizer, trained on a handful of texts."""
    items = [item for family in ("facts", "add", "sentiment") for item in world.items(family, 40, seed=0)]
    return train_tokenizer([f"{item.plain} {item.answer}" for item in items], vocabulary=420)


def llama_config(**changes: object) -> LlamaConfig:
    """A Llama of about 40k parameters whose vocabulary fits `tokenizer`."""
    settings = SIZES | {"vocab_size": len(tokenizer()), "head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ends = {"bos_token_id": tokenizer().bos_token_id, "eos_token_id": tokenizer().eos_token_id, "pad_token_id": tokenizer().pad_token_id}
    return LlamaConfig(**(settings | ends | {"initializer_range": 0.2} | changes))


def gpt_neox_config(**changes: object) -> GPTNeoXConfig:
    """The same with biases, LayerNorm and an MLP without gate."""
    return GPTNeoXConfig(**(SIZES | {"vocab_size": len(tokenizer()), "initializer_range": 0.2} | changes))


def random_model(config: PreTrainedConfig | None = None, seed: int = 0) -> PreTrainedModel:
    """A model in evaluation mode with random weights; a small Llama unless `config` says otherwise."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config or llama_config()).eval()
