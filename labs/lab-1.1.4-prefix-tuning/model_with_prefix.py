"""A base and a prefix as one model: weights, prefix, and the few lines that put one into the cache of the other.

    save_with_code(with_prefix(base, entries), directory)   # weights, prefix, and this file

Whatever loads models of Transformers loads the directory, if it is told to trust the code in it. Imports nothing of the course.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM


class _WithPrefix:
    """What both architectures get: `config.virtual_tokens` keys and values in every layer, before anything is read."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = (config.num_key_value_heads, config.virtual_tokens, head_dim)
        self.prefix = torch.nn.Parameter(torch.zeros(config.num_hidden_layers, 2, *heads))
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **given: Any,
    ) -> Any:
        """As of the model without a prefix; mask and positions are those of the text alone."""
        rows, virtual = len(inputs_embeds if input_ids is None else input_ids), self.config.virtual_tokens
        cache = DynamicCache() if past_key_values is None else past_key_values
        if cache.get_seq_length() == 0:  # nothing was read yet
            for layer, (keys, values) in enumerate(self.prefix):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(rows, virtual), attention_mask], dim=1)
        if position_ids is not None:
            position_ids = position_ids + virtual
        return super().forward(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            inputs_embeds=inputs_embeds,
            **given,
        )


class PrefixLlamaForCausalLM(_WithPrefix, LlamaForCausalLM):
    """A Llama that remembers something before it reads."""


class PrefixQwen2ForCausalLM(_WithPrefix, Qwen2ForCausalLM):
    """A Qwen2 that remembers something before it reads."""


def with_prefix(base: PreTrainedModel, entries: torch.Tensor) -> PreTrainedModel:
    """One model of a base and a prefix.

    Args:
        base: a Llama or a Qwen2; it is copied.
        entries: (layers, 2, kv_heads, virtual, head_dim)

    Raises:
        ValueError: the base is neither.
    """
    known = {"llama": PrefixLlamaForCausalLM, "qwen2": PrefixQwen2ForCausalLM}
    kind = known.get(base.config.model_type)
    if kind is None:
        msg = f"{base.config.model_type} is none of {', '.join(known)}: write a class for it, as those in this file"
        raise ValueError(msg)
    config = copy.deepcopy(base.config)
    config.virtual_tokens = entries.shape[-2]
    model = kind(config).to(device=base.device, dtype=base.dtype)
    model.load_state_dict(base.state_dict() | {"prefix": entries.detach()})
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.eval()
