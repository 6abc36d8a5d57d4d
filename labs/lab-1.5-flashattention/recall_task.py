"""A task that only a long reach solves: what stands at the end of a piece can be known from its beginning alone.

A piece is a *header*, one of two signs written over and over; then real text; then *questions*, each of them the same
byte, whose right answer is the sign of the header. No question stands nearer to the header than half of the piece, and
answers are never read, only predicted. A model whose tokens cannot look back that far can only guess, and a guess costs at
least ln 2 nats on average, however it is made, when both signs are asked for equally often.

Signs and question are bytes that no UTF-8 text has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from small_transformer import SmallTransformer, sample_batch

SIGNS = (0xF8, 0xF9)
QUESTION = 0xFF


def recall_piece(corpus: Tensor, seq: int, sign: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One piece and its targets, both int64 (1, seq): a quarter header, half text, a quarter questions."""
    # Copies: both are views of one piece, and an answer written into the targets would stand in the tokens.
    tokens, targets = (tensor.clone() for tensor in sample_batch(corpus, 1, seq, generator))
    quarter = seq // 4
    tokens[:, :quarter], targets[:, : quarter - 1] = sign, sign
    tokens[:, -quarter:], targets[:, -quarter:] = QUESTION, sign
    targets[:, -quarter - 1] = QUESTION
    return tokens, targets


def recall_batches(corpus: Tensor, *, steps: int, seq: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` pieces of `seq` bytes, their signs in random order, each as often; equal seeds give equal pieces."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step % len(SIGNS) == 0:
            order = torch.randperm(len(SIGNS), generator=generator).tolist()
        yield recall_piece(corpus, seq, SIGNS[order[step % len(SIGNS)]], generator)


@torch.no_grad()
def recall_gain(model: SmallTransformer, corpus: Tensor, seq: int, *, seed: int) -> float:
    """Nats per question that a model gains over guessing, on one text under each of the two headers; at most ln 2.

    A model that does not see the header answers both alike: 0 if it gives each sign a half, and below 0 otherwise.
    """
    device, losses = model.embedding.weight.device, []
    for sign in SIGNS:
        generator = torch.Generator().manual_seed(seed)  # the same text each time
        tokens, targets = (tensor.to(device) for tensor in recall_piece(corpus, seq, sign, generator))
        answers = model(tokens)[0, -(seq // 4) :]  # (1, seq, vocabulary) -> (seq / 4, vocabulary)
        losses.append(cross_entropy(answers.float(), targets[0, -(seq // 4) :]).item())
    return math.log(len(SIGNS)) - sum(losses) / len(losses)
