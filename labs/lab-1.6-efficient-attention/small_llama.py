"""A Llama small enough to read, around our attention: its parameters have the names of Hugging Face's, so weights go both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from grouped_attention import GroupedQueryAttention, HeadLayout
from key_value_cache import CacheShape, KeyValueCache, RollingCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LlamaSizes:
    """Sizes of the model; in brackets those of Llama-2-7B."""

    layers: int  # transformer blocks [32]
    width: int  # numbers per token [4096]
    layout: HeadLayout  # of its attention [32 heads, 32 key/value heads of 128]
    hidden: int  # numbers inside the feed-forward network [11008]
    vocabulary: int  # tokens [32000]


class FeedForward(nn.Module):
    """SwiGLU: (batch, seq, width) in and out."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down_proj = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Block(nn.Module):
    """Attention, then a feed-forward network; each reads a normalised copy of the stream and adds to it."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(sizes.width, eps=1e-6)
        self.self_attn = GroupedQueryAttention(sizes.width, sizes.layout)
        self.post_attention_layernorm = nn.RMSNorm(sizes.width, eps=1e-6)
        self.mlp = FeedForward(sizes)

    def forward(self, hidden: Tensor, positions: Tensor, visible: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), positions, visible, cache)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Module):
    """Tokens in, the last hidden state out; the place that Hugging Face calls `model`."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, eps=1e-6)


class SmallLlama(nn.Module):
    """Token ids (batch, seq) -> logits of the next token (batch, seq, vocabulary); the embedding is the output layer, too."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = Decoder(sizes)

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, visible: Tensor | None = None, caches: Sequence[KeyValueCache] | None = None
    ) -> Tensor:
        """(batch, seq) -> (batch, seq, width). Without positions, counting goes on behind what the caches hold."""
        if positions is None:
            start = caches[0].length if caches else 0
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        hidden = self.model.embed_tokens(ids)
        for number, layer in enumerate(self.model.layers):
            hidden = layer(hidden, positions, visible, caches[number] if caches else None)
        return self.model.norm(hidden)

    def forward(self, ids: Tensor, visible: Tensor | None = None, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        return self.hidden(ids, None, visible, caches) @ self.model.embed_tokens.weight.T

    def caches(self, batch: int, capacity: int, sinks: int | None = None) -> list[KeyValueCache]:
        """Empty caches, one per layer; with `sinks`, rolling ones."""
        weight, layout = self.model.embed_tokens.weight, self.sizes.layout
        shape = CacheShape(batch, layout.kv_heads, capacity, layout.head_dim)
        if sinks is None:
            return [KeyValueCache(shape, weight.dtype, weight.device) for _ in self.model.layers]
        return [RollingCache(shape, sinks, weight.dtype, weight.device) for _ in self.model.layers]


def random_llama(sizes: LlamaSizes, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> SmallLlama:
    """Weights that keep the variance of the stream; equal seeds give equal weights."""
    model = SmallLlama(sizes)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=sizes.width**-0.5, generator=generator)
    return model.to(device, dtype)


def from_hugging_face(model: PreTrainedModel) -> SmallLlama:
    """The same weights in our model. KeyError or RuntimeError if it is not a Llama with tied embeddings and without biases."""
    config = model.config
    layout = HeadLayout(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    sizes = LlamaSizes(config.num_hidden_layers, config.hidden_size, layout, config.intermediate_size, config.vocab_size)
    own = SmallLlama(sizes).to(model.device, model.dtype)
    weights = {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    own.load_state_dict(weights)
    return own.eval()


def to_hugging_face(own: SmallLlama) -> PreTrainedModel:
    """The same weights in `LlamaForCausalLM`, which brings an attention that others wrote (eager: with `repeat_kv`)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes, layout = own.sizes, own.sizes.layout
    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, intermediate_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=layout.heads, num_key_value_heads=layout.kv_heads, head_dim=layout.head_dim,
        tie_word_embeddings=True, max_position_embeddings=512,
    )  # fmt: skip
    config._attn_implementation = "eager"
    weight = own.model.embed_tokens.weight
    theirs = LlamaForCausalLM(config).to(weight.device, weight.dtype)
    theirs.load_state_dict(own.state_dict() | {"lm_head.weight": weight})
    return theirs.eval()
