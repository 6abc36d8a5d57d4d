"""Latent attention with exactly one mistake, head by head: controls, and what `checks.py` recognises. `mistake=None` is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_attention import LatentInputs, LatentWeights
from onepiece.checks import check_mistake

LATENT_MISTAKES = (
    "latent_scale",  # scale by the width that is now multiplied: latent_dim + rotary_dim
    "plain_scale",  # by plain_dim alone
    "no_position",  # the turned part is left out
    "no_values",  # head 0's value matrix for all heads
)


def broken_latent(weights: LatentWeights, inputs: LatentInputs, mistake: str | None) -> Tensor:
    """Latent attention, (batch, seq, width), head by head, with one of LATENT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, LATENT_MISTAKES)
    plain, rotary, latent = weights.keys.shape[1], weights.turned_key.shape[0], weights.latent.shape[0]
    scale = {"latent_scale": latent + rotary, "plain_scale": plain}.get(mistake or "", plain + rotary) ** -0.5
    seq = inputs.latent.shape[1]
    future = torch.ones(seq, seq, dtype=torch.bool, device=inputs.latent.device).triu(1)
    mixed = []
    for head in range(weights.keys.shape[0]):
        scores = inputs.plain_queries[:, head] @ (inputs.latent @ weights.keys[head].T).mT  # (batch, seq, seq)
        if mistake != "no_position":
            scores = scores + inputs.turned_queries[:, head] @ inputs.turned_key.mT
        shares = torch.softmax((scores * scale).masked_fill(future, -math.inf), dim=-1)
        mixed.append(shares @ (inputs.latent @ weights.values[0 if mistake == "no_values" else head].T))
    return torch.cat(mixed, dim=-1) @ weights.output.T
