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


@torch.inference_mode()
def second_probabilities(model: PreTrainedModel, prompt: Sequence[int], *, at_least: float = 1e-6) -> torch.Tensor:
    """The distribution of the second token after `prompt`, whatever the first one is: (vocabulary,), float64 on the CPU.

    It is the sum over the first tokens of p(first) p(second | first); those less likely than `at_least` are left out.
    """
    first = next_probabilities(model, prompt)
    likely = (first >= at_least).nonzero().flatten()
    total = torch.zeros_like(first)
    for tokens in likely.split(256):
        total += first[tokens] @ _after_each(model, prompt, tokens).double().cpu().softmax(dim=-1)  # (vocabulary,)
    return total / total.sum()


@torch.inference_mode()
def guessed_second(draft: PreTrainedModel, prompt: Sequence[int], first: torch.Tensor) -> torch.Tensor:
    """The distribution of the second token if the draft model's guess for it is always believed: (vocabulary,), float64 on the CPU.

    Args:
        first: the distribution of the first token, which nobody guesses.
    """
    total = torch.zeros_like(first)
    for tokens in first.nonzero().flatten().split(256):
        guesses = _after_each(draft, prompt, tokens).argmax(dim=-1).cpu()  # (batch,)
        total.index_add_(0, guesses, first[tokens])
    return total


def _after_each(model: PreTrainedModel, prompt: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    """The logits after `prompt` and each of the tokens: (batch, vocabulary)."""
    begun = torch.tensor([list(prompt)]).expand(len(tokens), -1)
    inputs = torch.cat([begun, tokens[:, None]], dim=1)  # (batch, prompt + 1)
    return model(inputs.to(model.device), use_cache=False).logits[:, -1]


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
