"""What the server's answers are held against: the same model in Transformers, one prompt at a time, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""Said with each call: many models bring sampling settings of their own."""


@torch.inference_mode()
def greedy_tokens(model: PreTrainedModel, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """The most likely continuation, token by token, the end-of-sequence token included."""
    inputs = torch.tensor([list(prompt)], device=model.device)
    outputs = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=max_tokens, **GREEDY)
    return outputs[0, len(prompt) :].tolist()


@torch.inference_mode()
def token_logprobs(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Natural logarithm of the probability of each token of `answer`, given everything before it."""
    inputs = torch.tensor([[*prompt, *answer]], device=model.device)
    logits = model(inputs, use_cache=False).logits[0, len(prompt) - 1 : -1]  # (answer, vocabulary): a position predicts the next one
    return logits.log_softmax(dim=-1)[torch.arange(len(answer)), list(answer)].tolist()


@torch.inference_mode()
def next_probabilities(model: PreTrainedModel, prompt: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """The distribution of the token after `prompt`: (vocabulary,), float64 on the CPU."""
    logits = model(torch.tensor([list(prompt)], device=model.device), use_cache=False).logits[0, -1]
    return (logits.double().cpu() / temperature).softmax(dim=-1)


def total_variation(counts: dict[int, int], probabilities: torch.Tensor) -> float:
    """Half the sum of the differences between shares and probabilities: 0 if they are equal, 1 if they have nothing in common."""
    shares = torch.zeros_like(probabilities)
    drawn = sum(counts.values())
    for token, count in counts.items():
        shares[token] = count / drawn
    return float((shares - probabilities).abs().sum() / 2)


def nucleus(probabilities: torch.Tensor, top_p: float) -> set[int]:
    """The most likely tokens that together reach `top_p`: what top-p sampling may draw from."""
    ordered, tokens = probabilities.sort(descending=True)
    before = ordered.cumsum(dim=0) - ordered  # what the more likely tokens have together
    return set(tokens[before < top_p].tolist())
