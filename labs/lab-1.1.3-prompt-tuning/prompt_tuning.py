"""Prompt tuning: a frozen model, and a few trained vectors that it reads before each text, written from the paper.

Read from top to bottom: the settings, the count, the start values, the place, the labels, into a model. Paper: Lester et al.
2021, https://arxiv.org/abs/2104.08691, section 2:

    Pr(Y | [P; X]), where P, (virtual_tokens, hidden), is all that is trained

What is no part of the idea (from token ids to embeddings, generating, several prompts in a batch) is in
`onepiece.adaptation.soft_prompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onepiece.adaptation.soft_prompt import Inputs, SoftPromptModel, Vectors
from onepiece.data import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STARTS = ("random", "vocabulary", "text")

# ---------------------------------------------------------------------------------------------- 1. settings


@dataclass(frozen=True)
class PromptSettings:
    """What has to be chosen before a prompt can be trained.

    Raises:
        ValueError: there is no virtual token, no such start, or a start from text without text (or text without that start).
    """

    virtual_tokens: int
    """Vectors of the prompt: positions of the context that they take away from the text."""
    start: str = "vocabulary"
    """Where the vectors begin: one of STARTS."""
    token_ids: tuple[int, ...] = ()
    """For the start `text`: tokens whose embeddings the vectors begin with, such as those of the answers of a task."""

    def __post_init__(self) -> None:
        if self.virtual_tokens < 1:
            msg = f"a prompt needs at least 1 virtual token, not {self.virtual_tokens}"
            raise ValueError(msg)
        if self.start not in STARTS:
            msg = f"start must be one of {STARTS}, not {self.start!r}"
            raise ValueError(msg)
        if (self.start == "text") != bool(self.token_ids):
            msg = f"token_ids belong to the start 'text' and to no other: start is {self.start!r}, and there are {len(self.token_ids)}"
            raise ValueError(msg)


# ---------------------------------------------------------------------------------------------- 2. how many numbers


# Exercise 1. How many numbers does a prompt train? One vector of the width of the embeddings for each virtual token, and it
# stands before the first layer only: neither layers nor the vocabulary come in.
def prompt_parameter_count(hidden: int, settings: PromptSettings) -> int:
    """Trainable parameters of a prompt for a model of this width."""
    # SOLUTION 1
    return settings.virtual_tokens * hidden
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 3. the start values


# Exercise 2. Where does training begin? The paper compares three starts (section 2.1): random numbers between -0.5 and 0.5;
# embeddings of tokens drawn from the vocabulary; embeddings of the words that the task answers with. There the words are used
# over and over until there are enough, as peft does it. Draw with `generator`: torch.rand for numbers, torch.randint for tokens.
# The result must share no memory with the table, or training the prompt would change words.
def initial_vectors(table: Tensor, settings: PromptSettings, generator: torch.Generator) -> Tensor:
    """The vectors before the first step, (virtual_tokens, hidden), float32.

    Args:
        table: the embeddings of the base, (vocabulary, hidden).
    """
    number = settings.virtual_tokens
    # SOLUTION 2
    if settings.start == "random":
        return torch.rand(number, table.shape[1], generator=generator) - 0.5
    if settings.start == "vocabulary":
        token_ids = torch.randint(len(table), (number,), generator=generator)
    else:
        token_ids = torch.tensor([settings.token_ids[place % len(settings.token_ids)] for place in range(number)])
    return table[token_ids.to(table.device)].detach().float()  # (vocabulary, hidden) -> (virtual_tokens, hidden), a copy
    # END SOLUTION


class SoftPrompt(nn.Module):
    """The vectors, and nothing else."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self) -> Tensor:
        """(virtual_tokens, hidden)"""
        return self.vectors


# ---------------------------------------------------------------------------------------------- 4. the place


# Exercise 3. Where do the vectors stand? Before the text. What follows from that is easily forgotten: the mask says that they
# are there, and the text moves back by as many positions. Positions count what is real, from 0: padding, on whichever side it
# is, has no position of its own (give it that of the real one before it, or 0). `mask` is 1 where a vector counts.
def place_in_front(prompts: Vectors, text: Vectors) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (batch, virtual + seq, hidden), mask and positions, both (batch, virtual + seq)."""
    # SOLUTION 3
    embeddings = torch.cat([prompts.embeddings, text.embeddings], dim=1)  # -> (batch, virtual + seq, hidden)
    mask = torch.cat([prompts.mask, text.mask], dim=1)  # -> (batch, virtual + seq)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    # END SOLUTION
    return embeddings, mask, positions


# Exercise 4. Which labels count? Transformers compares the logits at place i - 1 with label i, so the labels must be as long as
# what the model reads, and each must still stand at its own token. The prompt is nothing that the model should learn to say: its
# labels are IGNORED.
def shifted_labels(labels: Tensor, virtual_tokens: int) -> Tensor:
    """Labels of the text, (batch, seq) -> labels of prompt and text, (batch, virtual_tokens + seq)."""
    # SOLUTION 4
    ignored = labels.new_full((len(labels), virtual_tokens), IGNORED)
    return torch.cat([ignored, labels], dim=1)  # (batch, seq) -> (batch, virtual_tokens + seq)
    # END SOLUTION


def before_text(prompts: Vectors, text: Vectors, labels: Tensor | None) -> Inputs:
    """The layout of prompt tuning: the prompt, then the text with its beginning-of-sequence token; as peft has it."""
    embeddings, mask, positions = place_in_front(prompts, text)
    return Inputs(embeddings, mask, positions, None if labels is None else shifted_labels(labels, prompts.mask.shape[1]))


# ---------------------------------------------------------------------------------------------- 5. into a model


def add_prompt(base: PreTrainedModel, settings: PromptSettings, *, seed: int) -> SoftPromptModel:
    """Freeze a model and put a fresh prompt before its texts; only the prompt is trained afterwards.

    Args:
        seed: of the start values; it gives the same numbers on every device.

    Raises:
        ValueError: the prompt leaves the text no room in the model's context.
    """
    table = base.get_input_embeddings().weight
    context = base.config.max_position_embeddings
    if settings.virtual_tokens >= context:
        msg = f"a prompt of {settings.virtual_tokens} leaves no room for text: the model has {context} positions"
        raise ValueError(msg)
    vectors = initial_vectors(table, settings, torch.Generator().manual_seed(seed))
    return SoftPromptModel(base, SoftPrompt(vectors), before_text)


# ---------------------------------------------------------------------------------------------- 6. what it costs


def token_flops(config: Any, context: int) -> int:
    """Multiplications and additions of a Llama for one new token that sees `context` tokens, itself and the prompt among them.

    Counted: linear layers and the head, queries times keys, weights times values; 2 for each product of two numbers. Not counted:
    norms, rotations and the softmax, which are no matrix products.

    Args:
        config: a `LlamaConfig` or one with the same names.
    """
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * config.intermediate_size + 2 * queries * context
    return 2 * (config.num_hidden_layers * layer + hidden * config.vocab_size)


# Exercise 5, a design. How long may a prompt be? It takes positions from the context, and each of its vectors is read once per
# request like a token. Find the longest prompt so that prompt, text and answer fit into `context`, and the prompt is not more than
# `share` of all tokens that are read and written. There may be none: 0.
def longest_prompt(context: int, text: int, answer: int, share: float) -> int:
    """Virtual tokens, for a text and an answer of so many tokens.

    Raises:
        ValueError: text and answer alone do not fit, or `share` is not at least 0 and below 1.
    """
    if text + answer > context:
        msg = f"text and answer have {text + answer} tokens, the context {context}: nothing fits before them"
        raise ValueError(msg)
    if not 0 <= share < 1:
        msg = f"share must be at least 0 and below 1, not {share}"
        raise ValueError(msg)
    # SOLUTION 5
    room = context - text - answer
    affordable = int(share * (text + answer) / (1 - share))  # v <= share * (v + text + answer), solved for v
    return min(room, affordable)
    # END SOLUTION


def answer_tokens(tokenizer: Any, answers: Sequence[str]) -> tuple[int, ...]:
    """The tokens of the answers of a task, in their order: what the start `text` begins with."""
    return tuple(token for answer in answers for token in tokenizer(answer, add_special_tokens=False)["input_ids"])
