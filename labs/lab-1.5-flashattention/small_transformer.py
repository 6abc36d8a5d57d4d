"""A small language model whose attention is handed to it: the same weights run with naive, tiled or Triton attention.

A decoder-only transformer as in Llama (arXiv 2302.13971, section 2.2): RMSNorm before each sublayer, rotary positions,
SwiGLU, no biases. It reads bytes, so there is no tokenizer, and learns from text that is on every machine with Python:
the standard library's own sources.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, rms_norm, silu


class AttentionFunction(Protocol):
    """`naive_attention`, `flash_attention` and `flash_attention_triton` are attention functions."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor: ...


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; in brackets those of Llama-2-7B."""

    layers: int = 2  # transformer blocks [32]
    width: int = 64  # numbers per token [4096]
    heads: int = 4  # query heads [32]
    kv_heads: int = 2  # key/value heads, a divisor of heads [32; Llama-2-70B: 8 for 64]
    head_dim: int = 16  # numbers per head, even [128]
    hidden: int = 176  # numbers between the two layers of the feed-forward network [11008]
    vocabulary: int = 256  # tokens: the values of a byte [32000]
    rope_base: float = 10_000.0  # of the speeds of rotation, which fall from 1 to nearly 1 / rope_base [10000]


class Attention(nn.Module):
    """Projections and rotary positions around the attention function; (batch, seq, width) in and out."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.config, self.attention = config, attention
        queries_width, keys_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.to_queries = nn.Linear(config.width, queries_width, bias=False)
        self.to_keys = nn.Linear(config.width, keys_width, bias=False)
        self.to_values = nn.Linear(config.width, keys_width, bias=False)
        self.to_width = nn.Linear(queries_width, config.width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        split = (-1, self.config.head_dim)
        # (batch, seq, heads * head_dim) -> (batch, seq, heads, head_dim) -> (batch, heads, seq, head_dim)
        queries = self.to_queries(tokens).unflatten(-1, split).transpose(1, 2)
        keys = self.to_keys(tokens).unflatten(-1, split).transpose(1, 2)  # -> (batch, kv_heads, seq, head_dim)
        values = self.to_values(tokens).unflatten(-1, split).transpose(1, 2)  # -> (batch, kv_heads, seq, head_dim)
        queries, keys = rotate(queries, self.config.rope_base), rotate(keys, self.config.rope_base)
        mixed = self.attention(queries, keys, values, causal=True)
        return self.to_width(mixed.transpose(1, 2).flatten(2))  # (batch, heads, seq, head_dim) -> (batch, seq, width)


def rotate(vectors: Tensor, base: float) -> Tensor:
    """Rotary positions: pair p of the token at position t is turned by t / base^(2p / head_dim) (arXiv 2104.09864).

    (batch, heads, seq, head_dim) in and out. A pair is (p, p + head_dim / 2), the layout of Hugging Face's Llama. The paper's
    and Meta's own is (2p, 2p + 1): weights that Meta published need their query and key rows permuted for this one.
    The slowest pair, p = head_dim / 2 - 1, takes 2 pi * base^(1 - 2 / head_dim) tokens for one turn.
    """
    half = vectors.shape[-1] // 2
    # In float32 whatever the model's dtype: bfloat16 cannot even count positions beyond 256.
    positions = torch.arange(vectors.shape[-2], device=vectors.device, dtype=torch.float32)
    speeds = base ** (-torch.arange(half, device=vectors.device, dtype=torch.float32) / half)
    angles = positions[:, None] * speeds  # (seq, 1), (half,) -> (seq, half)
    cosines, sines = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors.split(half, dim=-1)  # (batch, heads, seq, head_dim) -> 2 x (batch, heads, seq, half)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)  # -> head_dim


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): (batch, seq, width) in and out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down(silu(self.gate(tokens)) * self.up(tokens))  # width -> hidden -> width


class Norm(nn.Module):
    """RMSNorm with a learned gain: (batch, seq, width) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return rms_norm(tokens, tokens.shape[-1:], self.gain, eps=1e-5)


class Block(nn.Module):
    """One transformer block: each sublayer reads a normalised copy of the stream and adds to it."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(config.width), Attention(config, attention)
        self.feed_forward_norm, self.feed_forward = Norm(config.width), FeedForward(config)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class SmallTransformer(nn.Module):
    """Bytes (batch, seq), int64 -> logits of the next byte (batch, seq, vocabulary)."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, attention) for _ in range(config.layers))
        self.norm = Norm(config.width)
        self.to_logits = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embedding(tokens)  # (batch, seq) -> (batch, seq, width)
        for block in self.blocks:
            stream = block(stream)
        return self.to_logits(self.norm(stream))  # (batch, seq, width) -> (batch, seq, vocabulary)


def build_model(
    config: ModelConfig, attention: AttentionFunction, *, seed: int,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> SmallTransformer:  # fmt: skip
    """A fresh model. Equal seeds give equal weights on every device and for every attention function."""
    model = SmallTransformer(config, attention)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.endswith("gain"):
            # So that a linear layer keeps the variance of the stream; 0.02, often seen, is meant for widths near 2500.
            nn.init.normal_(parameter, std=config.width**-0.5, generator=generator)
    return model.to(device=device, dtype=dtype)


def stdlib_corpus(max_bytes: int) -> Tensor:
    """Real text: the first `max_bytes` of the Python standard library's sources in sorted order; uint8 (bytes,).

    The same on every run of one Python version; other versions have other sources. Tests and installed packages are
    left out, line ends are made equal on all systems. Raises FileNotFoundError where Python came without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    text = bytearray()
    for directory, children, files in os.walk(root):
        # Changing `children` in place is how os.walk is told where to go, and in which order.
        skipped = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
        children[:] = sorted(set(children) - skipped)
        for name in sorted(name for name in files if name.endswith(".py")):
            text += (Path(directory) / name).read_bytes().replace(b"\r\n", b"\n")
            if len(text) >= max_bytes:
                return torch.frombuffer(text[:max_bytes], dtype=torch.uint8)
    if not text:
        raise FileNotFoundError(f"no Python sources under {root}; use a Python that has its standard library as files")
    return torch.frombuffer(text, dtype=torch.uint8)


def sample_batch(corpus: Tensor, batch: int, seq: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random pieces of the corpus and, as targets, the same pieces one byte later; both int64 (batch, seq)."""
    if corpus.numel() <= seq:
        raise ValueError(f"a corpus of {corpus.numel()} bytes has no piece of {seq} + 1; read more of it")
    starts = torch.randint(corpus.numel() - seq, (batch, 1), generator=generator)
    pieces = corpus[starts + torch.arange(seq + 1)].long()  # (bytes,) -> (batch, seq + 1)
    return pieces[:, :-1], pieces[:, 1:]


def text_batches(
    corpus: Tensor, *, steps: int, batch: int, seq: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of random pieces; equal seeds give equal batches for every attention function and device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield sample_batch(corpus, batch, seq, generator)


def train_steps(
    model: SmallTransformer, batches: Iterable[tuple[Tensor, Tensor]], *, learning_rate: float = 3e-3
) -> Iterator[float]:
    """Train with AdamW, one step per batch; yields each step's loss before its update, in nats per byte.

    A batch is tokens and targets, both int64 (batch, seq).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    device = model.embedding.weight.device
    for batch in batches:
        tokens, targets = (tensor.to(device) for tensor in batch)
        logits = model(tokens)  # (batch, seq) -> (batch, seq, vocabulary)
        loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten())  # (batch * seq, vocabulary) -> ()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
