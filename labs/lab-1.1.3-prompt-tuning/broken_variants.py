"""Prompt tuning with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
row by row, number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onepiece.adaptation.soft_prompt import Inputs, Layout, SoftPromptModel, Vectors
from onepiece.checks import check_mistake
from onepiece.data import IGNORED
from prompt_tuning import PromptSettings

COUNT_MISTAKES = (
    "every_layer",  # as many as prefix tuning has: keys and values in each layer
    "tokens_alone",  # the number of virtual tokens
    "whole_table",  # the embedding table is trained too
)
START_MISTAKES = (
    "positive",  # random numbers from 0 to 1
    "doubled",  # from -1 to 1
    "same_word",  # one word for all vectors
    "first_words",  # the first rows of the table, which are special tokens and bytes
    "generator_ignored",  # drawn from PyTorch's global generator
    "padded",  # words once, then zeros
)
PLACE_MISTAKES = (
    "text_not_moved",  # the positions of the text begin at 0 again
    "over_padding",  # positions count padding too, as peft does
    "mask_forgotten",  # nobody may look at the prompt
    "behind",  # the prompt stands after the text
)
LABEL_MISTAKES = (
    "prompt_counted",  # token 0 for IGNORED: the model learns to say padding at the prompt
    "not_moved",  # the ignored labels stand after those of the text
    "too_short",  # none for the prompt
    "moved_twice",  # one place more, because "the model predicts the next token"
)
TABLE_MISTAKES = (
    "in_front",  # the new rows come first: every old word has another number
    "tied",  # the head has the vectors, as a base with one table would
    "zeros",  # the head has rows of zeros
    "last_row",  # the head repeats its last row, which is a word that is said
)


def broken_count(hidden: int, settings: PromptSettings, mistake: str | None, *, layers: int = 1, vocabulary: int = 0) -> int:
    """How many numbers are trained, with one of COUNT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, COUNT_MISTAKES)
    right = sum(hidden for _ in range(settings.virtual_tokens))
    wrong = {"every_layer": 2 * layers * right, "tokens_alone": settings.virtual_tokens, "whole_table": right + vocabulary * hidden}
    return wrong.get(mistake or "", right)


def broken_vectors(table: Tensor, settings: PromptSettings, seed: int, mistake: str | None) -> Tensor:
    """The start values with one of START_MISTAKES or None; `seed` is that of the generator.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, START_MISTAKES)
    generator = None if mistake == "generator_ignored" else torch.Generator().manual_seed(seed)
    number, (vocabulary, hidden) = settings.virtual_tokens, table.shape
    if settings.start == "random":
        drawn = torch.rand(number, hidden, generator=generator)
        return {"positive": drawn, "doubled": 2 * drawn - 1}.get(mistake or "", drawn - 0.5)
    if settings.start == "vocabulary":
        chosen = torch.randint(vocabulary, (number,), generator=generator).tolist()
    else:
        chosen = (list(settings.token_ids) * number)[:number]
    if mistake == "same_word":
        chosen = chosen[:1] * number
    if mistake == "first_words":
        chosen = list(range(number))
    rows = [table[token].detach().clone() for token in chosen]
    if mistake == "padded":
        rows = [row if place < len(settings.token_ids) else torch.zeros_like(row) for place, row in enumerate(rows)]
    return torch.stack(rows)


def broken_place(prompts: Vectors, text: Vectors, mistake: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, mask and positions with one of PLACE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, PLACE_MISTAKES)
    parts = (text, prompts) if mistake == "behind" else (prompts, text)
    embeddings = torch.cat([part.embeddings for part in parts], dim=1)
    masks = [part.mask for part in parts]
    if mistake == "mask_forgotten":
        masks[0] = torch.zeros_like(masks[0])
    mask = torch.cat(masks, dim=1)
    rows = [_positions(row, mistake, prompts.mask.shape[1]) for row in mask.tolist()]
    return embeddings, mask, torch.tensor(rows, device=mask.device)


def _positions(mask: list[int], mistake: str | None, virtual_tokens: int) -> list[int]:
    """Of one row, counted by hand."""
    positions, real = [], 0
    for place, counts in enumerate(mask):
        if mistake == "text_not_moved" and place == virtual_tokens:
            real = 0
        real += counts
        positions.append(place if mistake == "over_padding" else max(real - 1, 0))
    return positions


def broken_labels(labels: Tensor, virtual_tokens: int, mistake: str | None) -> Tensor:
    """The labels of prompt and text with one of LABEL_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, LABEL_MISTAKES)
    filler = 0 if mistake == "prompt_counted" else IGNORED
    rows = []
    for row in labels.tolist():
        front = [filler] * virtual_tokens
        if mistake == "too_short":
            rows.append(row)
        elif mistake == "not_moved":
            rows.append([*row, *front])
        elif mistake == "moved_twice":
            rows.append([*front, *row[1:], filler])
        else:
            rows.append([*front, *row])
    return torch.tensor(rows, device=labels.device)


def broken_layout(mistake: str | None) -> Layout:
    """`before_text` with one of PLACE_MISTAKES or LABEL_MISTAKES, or None; raises ValueError for any other."""
    check_mistake(mistake, PLACE_MISTAKES + LABEL_MISTAKES)

    def layout(prompts: Vectors, text: Vectors, labels: Tensor | None) -> Inputs:
        laid = broken_place(prompts, text, mistake if mistake in PLACE_MISTAKES else None)
        if labels is not None:
            labels = broken_labels(labels, prompts.mask.shape[1], mistake if mistake in LABEL_MISTAKES else None)
        return Inputs(*laid, labels)

    return layout


def broken_tables(embeddings: Tensor, head: Tensor, vectors: Tensor, unsaid: int, mistake: str | None) -> tuple[Tensor, Tensor]:
    """Both tables with new rows, with one of TABLE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, TABLE_MISTAKES)
    quiet = torch.stack([head[unsaid]] * len(vectors))
    rows = {"tied": vectors, "zeros": torch.zeros_like(vectors), "last_row": torch.stack([head[-1]] * len(vectors))}
    said = torch.vstack([head, rows.get(mistake or "", quiet)])
    if mistake == "in_front":
        return torch.vstack([vectors, embeddings]), torch.vstack([quiet, head])
    return torch.vstack([embeddings, vectors]), said


# ---------------------------------------------------------------------------------------------- whole models


def train_the_table_too(model: SoftPromptModel) -> None:
    """The base's embeddings get a gradient, as if the new words were ordinary rows of the table."""
    model.base.get_input_embeddings().weight.requires_grad_(True)


@torch.no_grad()
def with_tied_head(exported: nn.Module, vectors: Tensor) -> nn.Module:
    """An exported model, in place, whose head scores the new words with their own vectors."""
    head = exported.get_output_embeddings().weight
    head[-len(vectors) :] = vectors
    return exported


def linear_layers_alone(config: Any, flops: int, context: int) -> int:
    """The FLOPs of a token without those of attention, which is all that a prompt makes dearer."""
    return flops - 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * context


def swapped(names: Mapping[str, Any]) -> dict[str, Any]:
    """Each name with the value of the next one: prompts that were handed to the wrong rows."""
    values = list(names.values())
    return dict(zip(names, values[1:] + values[:1], strict=True))
