"""From MHA to fewer key/value heads, in a model that is trained already: build the new heads, then train on for a little while.

Source: Ainslie et al., *GQA*, arXiv 2305.13245, section 2.1: mean pooling, against the first head and against random heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grouped_attention import HeadLayout
from onepiece.tiny.corpus import Batch, Corpus
from onepiece.tiny.skills import evaluation_items
from onepiece.tiny.tokenizer import encode
from onepiece.world import LANGUAGES, TAUGHT
from small_llama import SmallLlama

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# ---------------------------------------------------------------------------------------------- 1. new heads from old ones


# Exercise 6. The rows of a projection are its heads, one after the other. Make `kv_heads` heads of them: each is the mean of the heads
# whose query heads will share it. Which are those? (Exercise 1 has said so.)
def pooled_heads(weight: Tensor, kv_heads: int, head_dim: int) -> Tensor:
    """(old_kv_heads * head_dim, width) -> (kv_heads * head_dim, width)."""
    # SOLUTION 6
    groups = weight.unflatten(0, (kv_heads, -1, head_dim))  # -> (kv_heads, group, head_dim, width)
    return groups.mean(dim=1).flatten(0, 1)  # -> (kv_heads * head_dim, width)
    # END SOLUTION


def first_heads(weight: Tensor, kv_heads: int, head_dim: int) -> Tensor:
    """Of each group the first head; the others are thrown away."""
    return weight.unflatten(0, (kv_heads, -1, head_dim))[:, 0].flatten(0, 1)


def random_heads(weight: Tensor, kv_heads: int, head_dim: int) -> Tensor:
    """Fresh ones, of the size that the old ones have."""
    generator = torch.Generator().manual_seed(0)
    fresh = torch.randn(kv_heads * head_dim, weight.shape[1], generator=generator)
    return fresh.to(weight) * weight.std()


WAYS = {"mean": pooled_heads, "first": first_heads, "random": random_heads}


@torch.no_grad()
def convert(model: SmallLlama, kv_heads: int, way: str = "mean") -> SmallLlama:
    """A copy with `kv_heads` key/value heads; queries, outputs and everything else are as they were.

    Args:
        way: one of WAYS.

    Raises:
        ValueError: `kv_heads` does not divide the number of heads that are there.
    """
    old = model.sizes.layout
    if old.kv_heads % kv_heads:
        msg = f"{old.kv_heads} key/value heads cannot be made into {kv_heads} groups of one size"
        raise ValueError(msg)
    converted = SmallLlama(replace(model.sizes, layout=HeadLayout(old.heads, kv_heads, old.head_dim)))
    weights = {
        name: WAYS[way](weight, kv_heads, old.head_dim) if name.endswith(("k_proj.weight", "v_proj.weight")) else weight
        for name, weight in model.state_dict().items()
    }
    converted.load_state_dict(weights)
    return converted.to(model.model.embed_tokens.weight)


# ---------------------------------------------------------------------------------------------- 2. train on


def uptraining_batches(tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, rows: int, length: int) -> list[Batch]:
    """More of what the model was pretrained on, from a seed that pretraining did not use."""
    corpus = Corpus(tokenizer, seed)
    return [corpus.batch(number, rows=rows, length=length) for number in range(steps)]


def uptrain(model: SmallLlama, batches: Sequence[Batch], *, learning_rate: float) -> Iterator[float]:
    """One step per batch with AdamW, its rate falling to zero as half a cosine; yields each loss, in nats per counted token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    device = model.model.embed_tokens.weight.device
    for number, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * number / len(batches))) / 2
        hidden = model.hidden(batch.ids.to(device), batch.positions.to(device), batch.mask.to(device))
        chosen = hidden.flatten(0, 1)[batch.predicts.to(device)]  # (rows, length, width) -> (counted, width)
        loss = cross_entropy(chosen @ model.model.embed_tokens.weight.T, batch.targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())


# ---------------------------------------------------------------------------------------------- 3. what is left of its skills


class Exam:
    """Held-out items of all skills that were taught, as one padded batch per skill.

    An answer is right if each of its tokens, the end of the answer too, is the most likely one after the right tokens before it. Greedy
    generation then writes exactly this answer, so one pass without generation tells.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, per_language: int) -> None:
        self.papers: dict[str, tuple[Tensor, Tensor]] = {}
        """Skill -> ids (items, length) and, where an answer's token is to be predicted, True (items, length - 1)."""
        for family in TAUGHT:
            items = [item for language in LANGUAGES for item in evaluation_items(family, language, per_language)]
            rows = encode(items, [False] * len(items), tokenizer)
            length = max(len(prompt) + len(answer) for prompt, answer in rows)
            ids = torch.zeros(len(rows), length, dtype=torch.long)
            asked = torch.zeros(len(rows), length - 1, dtype=torch.bool)
            for row, (prompt, answer) in enumerate(rows):
                ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                asked[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
            self.papers[family] = ids, asked

    @torch.inference_mode()
    def shares(self, model: SmallLlama) -> dict[str, float]:
        """Skill -> the share of items that are answered right."""
        found = {}
        for family, (ids, asked) in self.papers.items():
            ids, asked = ids.to(model.model.embed_tokens.weight.device), asked.to(model.model.embed_tokens.weight.device)
            right = model(ids)[:, :-1].argmax(dim=-1) == ids[:, 1:]  # (items, length - 1)
            found[family] = float((right | ~asked).all(dim=1).double().mean())
        return found

    def constant(self) -> float:
        """The mean share if every item of a skill gets the most frequent answer of that skill: the null system."""
        best = []
        for ids, asked in self.papers.values():
            answers = [tuple(row[1:][wanted].tolist()) for row, wanted in zip(ids, asked, strict=True)]
            best.append(max(answers.count(answer) for answer in set(answers)) / len(answers))
        return sum(best) / len(best)


def recovery(shares: dict[str, float], before: dict[str, float]) -> float:
    """Mean over skills of the share that is right now, relative to the model before conversion."""
    return sum(shares[skill] / before[skill] for skill in before) / len(before)
