"""How each tiny checkpoint is made: architecture, schedule and seed, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the run with rows of one length."""

    share: float
    """Share of all steps."""
    rows: int
    """Rows per batch."""
    length: int
    """Tokens per row."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one checkpoint is made."""

    name: str
    architecture: str
    """`llama` or `gpt_neox`."""
    hidden: int
    """Width of the residual stream."""
    layers: int
    heads: int
    head_dim: int
    """At least 32: what vLLM's CPU kernels accept. Queries are `heads * head_dim` wide, which may exceed `hidden` (Llama only)."""
    intermediate: int
    """Width of the MLP."""
    steps: int
    """Optimiser steps."""
    stages: tuple[Stage, ...] = field(default=(Stage(0.7, 24, 64), Stage(0.3, 12, 128)))
    short_lookups: float = 0.1
    """The share of the run, at its begin, in which no look-up has more than three boxes."""
    vocabulary: int = 1024
    learning_rate: float = 4e-3
    """Peak; warm-up is linear, the last `decay_share` of the steps falls linearly to zero."""
    warmup_steps: int = 100
    decay_share: float = 0.4
    weight_decay: float = 0.05
    """Of matrices; norms and biases are not decayed."""
    average: float = 0.998
    """Each step keeps this share of the averaged weights."""
    seed: int = 0

    def config(self, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
        """The Transformers configuration of the model."""
        from transformers import GPTNeoXConfig, LlamaConfig

        common: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.05,
        }
        if self.architecture == "gpt_neox":
            return GPTNeoXConfig(**common, rotary_pct=1.0, use_parallel_residual=False, hidden_act="gelu", attention_bias=True)
        return LlamaConfig(**common, num_key_value_heads=self.heads, head_dim=self.head_dim)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("tiny", "llama", hidden=64, layers=4, heads=4, head_dim=32, intermediate=192, steps=10_000, short_lookups=0.16),
        Recipe("tiny-draft", "llama", hidden=48, layers=2, heads=2, head_dim=32, intermediate=96, steps=8_000),
        Recipe("tiny-bias", "gpt_neox", hidden=64, layers=4, heads=2, head_dim=32, intermediate=256, steps=10_000),
        Recipe(
            "smoke",
            "llama",
            hidden=64,
            layers=2,
            heads=2,
            head_dim=32,
            intermediate=128,
            steps=600,
            stages=(Stage(1.0, 24, 64),),
            warmup_steps=20,
            average=0.95,
        ),
    )
}
