"""Evaluation: what a model answers, how good that is, and how sure one can be.

    answers = generate_batch(model, tokenizer, prompts, max_new_tokens=16)
    accuracy = wilson_interval(sum(exact_matches(answers, wanted)), len(wanted))
    difference = paired_bootstrap(scores_lora, scores_full, seed=0)
    over_seeds([0.97, 0.99, 0.98])

Every interval is a 95% interval.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from onepiece.data import Batch
from onepiece.training import causal_lm_loss, counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The 0.975 quantiles of Student's t for 1 to 30 degrees of freedom; 2.5% lie above each.
_T_QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z = statistics.NormalDist().inv_cdf(0.975)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Greedy continuations, up to the end-of-sequence token; special tokens are left out, spaces at both ends too.

    Prompts of different lengths share a batch: padding on the left, so that every prompt ends where its answer begins.
    The answers equal those of one prompt at a time (up to ties that the order of additions decides).

    Args:
        prompts: with their special tokens, as `prompt_text` and `apply_chat_template(..., tokenize=False)` make them.
        max_new_tokens: tokens after which an answer is cut off.
        batch_size: prompts per batch; memory grows with it.

    Returns:
        One answer per prompt, in the order of the prompts.

    Raises:
        ValueError: a prompt is empty.
    """
    if not all(prompts):
        msg = f"prompt {[bool(prompt) for prompt in prompts].index(False)} is empty"
        raise ValueError(msg)
    answers = [""] * len(prompts)
    with _plain_generation(model, tokenizer):
        for chosen in _alike(model, tokenizer, prompts, batch_size):
            inputs = tokenizer(
                [prompts[index] for index in chosen],
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(model.device)
            outputs = model.generate(**inputs, max_new_tokens=max_new_tokens)
            # (batch, prompt + new) -> (batch, new)
            for index, new in zip(chosen, outputs[:, inputs["input_ids"].shape[1] :], strict=True):
                answers[index] = tokenizer.decode(new, skip_special_tokens=True).strip()
    return answers


@contextlib.contextmanager
def _plain_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Evaluation mode and generation settings that hold token ids only, until the model gets back its own.

    Set aside, because `generate` fills in from them whatever a call leaves open: repetition penalties, tokens that are suppressed or
    favoured, a least length, several answers to a prompt.
    """
    from transformers import GenerationConfig

    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # `peft` asks the model inside
    own, was_training = base.generation_config, model.training
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    base.generation_config = GenerationConfig(bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        base.generation_config = own


def _alike(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Indices of the prompts of each batch: alike lengths together, because padding costs as much as text."""
    lengths = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    # `peft` puts a soft prompt before the padding, where every prompt is at another distance from it: no padding there.
    equal = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lengths.__getitem__):
        if len(batch) == batch_size or (batch and equal and lengths[index] != lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def exact_matches(answers: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    """Which answers are right to the character; spaces at both ends do not count.

    Raises:
        ValueError: there are none, or not as many of one as of the other.
    """
    if not wanted or len(answers) != len(wanted):
        msg = f"{len(answers)} answers cannot be compared with {len(wanted)} wanted ones"
        raise ValueError(msg)
    return [answer.strip() == want.strip() for answer, want in zip(answers, wanted, strict=True)]


def exact_match(answers: Sequence[str], wanted: Sequence[str]) -> float:
    """The share of answers that are right to the character, 0 to 1; errors as in `exact_matches`."""
    matches = exact_matches(answers, wanted)
    return sum(matches) / len(matches)


@torch.inference_mode()
def mean_loss(model: torch.nn.Module, batches: Iterable[Batch]) -> float:
    """Cross-entropy in nats per label that counts, over all batches: long ones weigh more.

    Raises:
        ValueError: no label counts.
    """
    was_training, total, tokens = model.training, 0.0, 0
    model.eval()
    for batch in batches:
        if number := counted(batch):
            total += float(causal_lm_loss(model, batch)) * number
            tokens += number
    model.train(was_training)
    if tokens == 0:
        msg = "no label counts: is every token masked?"
        raise ValueError(msg)
    return total / tokens


def perplexity(model: torch.nn.Module, batches: Iterable[Batch]) -> float:
    """exp of `mean_loss`: among how many equally likely tokens the model hesitates."""
    return math.exp(mean_loss(model, batches))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float
    count: int
    """What it rests on: items, or seeds."""

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def wilson_interval(right: int, count: int) -> Interval:
    """An accuracy and its Wilson interval, which is sound near 0 and 1 too.

    Source: Wilson 1927, https://doi.org/10.2307/2276774.

    Raises:
        ValueError: `right` is not between 0 and `count`, or `count` is 0.
    """
    if count < 1 or not 0 <= right <= count:
        msg = f"{right} right of {count} is no accuracy"
        raise ValueError(msg)
    share = right / count
    scale = 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    # In exact arithmetic the ends are 0 and 1 for none and all right, and the share is always inside.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), count)


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds and its t interval: mean ± t s / sqrt(n), s the sample standard deviation (n - 1).

    Raises:
        ValueError: fewer than two seeds, which tell nothing about their spread.
    """
    if len(values) < 2:
        msg = f"{len(values)} seed gives no interval: two at least, three or more to trust it"
        raise ValueError(msg)
    mean, freedom = statistics.fmean(values), len(values) - 1
    # Beyond the table: the first term of Cornish and Fisher's expansion, right to three digits there.
    quantile = _T_QUANTILES[freedom - 1] if freedom <= len(_T_QUANTILES) else _Z + (_Z**3 + _Z) / (4 * freedom)
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better `a` is than `b`, on the same items."""

    difference: Interval
    """Mean of a - b."""
    p_value: float
    """Two-sided: how often a difference this large would come up if there were none."""

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero; otherwise print a null result."""
        return self.difference.low > 0 or self.difference.high < 0


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, seed: int, resamples: int = 10_000) -> Comparison:
    """Compare two systems item by item: resample the items with replacement, keep each pair together.

    Pairing removes what makes items hard for both, so small differences show on few items. The interval is the
    percentile interval of the resampled means (Efron and Tibshirani 1993, chapter 13); the p-value is twice the share of them on the
    other side of zero, at least 2 / (resamples + 1).

    Args:
        a, b: scores of the same items in the same order; truth values count as 0 and 1.

    Raises:
        ValueError: there are no items, or not as many of one as of the other.
    """
    if not a or len(a) != len(b):
        msg = f"{len(a)} and {len(b)} scores are no pairs"
        raise ValueError(msg)
    differences = torch.tensor([float(x) - float(y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    for begin in range(0, resamples, 256):  # in parts, so that memory does not grow with items x resamples
        rows = min(256, resamples - begin)
        drawn = torch.randint(len(differences), (rows, len(differences)), generator=generator)
        means[begin : begin + rows] = differences[drawn].mean(dim=1)  # (rows, items) -> (rows,)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    below, above = int((means <= 0).sum()), int((means >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Comparison(Interval(float(differences.mean()), low, high, len(differences)), p_value)
