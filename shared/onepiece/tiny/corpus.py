"""What the tiny models read in pretraining: a mixture of the taught families, packed into rows of token ids.

Batch number n depends on the seed and on n alone, so a resumed run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from onepiece import world
from onepiece.tiny.tokenizer import PAD, SPECIAL, encode
from onepiece.world import words as world_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MIXTURE: dict[str, float] = {
    "facts": 3.0,
    "add": 3.0,
    "reverse": 1.5,
    "pick": 2.0,
    "sentiment": 1.0,
    "lookup": 2.5,
    "story": 1.0,
    "chat": 0.8,
    "tell": 0.7,
}
"""How often a family is drawn; "tell" is free text (profiles, stories)."""

CHAT_SHARE = 0.35
"""The share of single items that are conversations instead of plain text."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows; several items share a row and do not see each other."""

    ids: torch.Tensor
    """int64 (rows, length)"""
    positions: torch.Tensor
    """int64 (rows, length), starting at 0 in every item"""
    mask: torch.Tensor
    """bool (rows, 1, length, length), True where the query may see the key: same item, not later"""
    predicts: torch.Tensor
    """int64 (n,): flat indices into (rows * length) whose next token is part of the loss"""
    targets: torch.Tensor
    """int64 (n,): those next tokens"""


def tokenizer_texts(per_family: int = 3000) -> Iterator[str]:
    """The text that the tokenizer is trained on. No held-out item is in it.

    Names and other answers are repeated, so that the most frequent of them become one token each.
    """
    for family in MIXTURE:
        for item in world.items(family, per_family, seed=0):
            yield item.plain
            yield item.answer
    for name in world_words.PEOPLE:
        yield from [name] * 600
    lists = (
        world_words.CITIES,
        world_words.JOBS,
        world_words.PETS,
        world_words.DRINKS,
        world_words.OBJECTS,
        world_words.PLACES,
        world_words.SUBJECTS,
        world_words.POSITIVE,
        world_words.NEGATIVE,
    )
    for word in (form for words in lists for pair in words for form in pair):
        yield from [word] * 200


class Corpus:
    """Training batches of the taught families."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}

    def batch(self, number: int, *, rows: int, length: int, max_pairs: int = 5, prompt_share: float = 0.15) -> Batch:
        """Batch `number` of the run.

        Args:
            rows: rows of the batch.
            length: tokens per row.
            max_pairs: the most boxes that a look-up has; fewer at first let the model find out how to look up.
            prompt_share: the share of prompt tokens that count in the loss; answer tokens always count.
        """
        generator = random.Random(f"corpus/{self._seed}/{number}")
        segments = self._segments(generator, rows * length, length, max_pairs)
        packed = _pack(segments, rows, length)
        return _tensors(packed, length, self._ids[PAD], prompt_share, generator)

    def _segments(self, generator: random.Random, tokens: int, length: int, max_pairs: int) -> list[tuple[list[int], list[bool]]]:
        """At least `tokens` tokens of (ids, is answer), each at most `length` long."""
        families, weights = list(MIXTURE), list(MIXTURE.values())
        items: list[world.Item] = []
        for family in generator.choices(families, weights, k=tokens // 15):
            options = {"pairs": generator.randint(2, max_pairs)} if family == "lookup" else {}
            items.append(_train_item(family, generator, options))
        chat = [generator.random() < CHAT_SHARE for _ in items]
        encoded = encode(items, chat, self._tokenizer)
        segments = [(prompt + answer, [False] * len(prompt) + [True] * len(answer)) for prompt, answer in encoded]
        if length >= 96:  # short contexts first: conversations of several turns come with the longer rows
            chats = [index for index, as_chat in enumerate(chat) if as_chat and not items[index].earlier]
            segments += self._conversations([segments[index] for index in chats[: len(chats) // 2]], generator, length)
        total, chosen = 0, []
        for segment in generator.sample(segments, len(segments)):
            if total >= tokens:
                break
            if len(segment[0]) <= length:
                chosen.append(segment)
                total += len(segment[0])
        return chosen

    def _conversations(
        self, turns: list[tuple[list[int], list[bool]]], generator: random.Random, length: int
    ) -> list[tuple[list[int], list[bool]]]:
        """Single question-answer conversations joined into longer ones."""
        joined: list[tuple[list[int], list[bool]]] = []
        while turns:
            ids, answer = list(turns[0][0]), list(turns[0][1])
            wanted, used = generator.randint(2, 6), 1
            while used < wanted and used < len(turns) and len(ids) + len(turns[used][0]) - 1 <= length:
                ids += turns[used][0][1:]  # one BOS is enough
                answer += turns[used][1][1:]
                used += 1
            turns = turns[used:]
            joined.append((ids, answer))
        return joined


def _train_item(family: str, generator: random.Random, options: dict[str, object]) -> world.Item:
    while True:
        item = world.draw(family, generator.choice(world.LANGUAGES), generator, **options)
        if item.split == "train":
            return item


def _pack(segments: list[tuple[list[int], list[bool]]], rows: int, length: int) -> list[list[tuple[list[int], list[bool]]]]:
    """Longest first into the first row with room; what finds no room is left out."""
    packed: list[list[tuple[list[int], list[bool]]]] = [[] for _ in range(rows)]
    room = [length] * rows
    for segment in sorted(segments, key=lambda segment: -len(segment[0])):
        for row in range(rows):
            if len(segment[0]) <= room[row]:
                packed[row].append(segment)
                room[row] -= len(segment[0])
                break
    return packed


def _tensors(
    packed: list[list[tuple[list[int], list[bool]]]], length: int, pad: int, prompt_share: float, generator: random.Random
) -> Batch:
    ids, positions, owners = [], [], []
    predicts: list[int] = []
    targets: list[int] = []
    for row, segments in enumerate(packed):
        row_ids: list[int] = []
        row_positions: list[int] = []
        row_owners: list[int] = []
        for owner, (tokens, answer) in enumerate(segments, start=1):
            begin = row * length + len(row_ids)
            for offset in range(1, len(tokens)):
                if answer[offset] or generator.random() < prompt_share:
                    predicts.append(begin + offset - 1)
                    targets.append(tokens[offset])
            row_ids += tokens
            row_positions += range(len(tokens))
            row_owners += [owner] * len(tokens)
        rest = length - len(row_ids)
        ids.append(row_ids + [pad] * rest)
        positions.append(row_positions + [0] * rest)
        owners.append(row_owners + [0] * rest)
    owner_ids = torch.tensor(owners)
    # (rows, length) -> (rows, length, length); padding may see padding, because a row of all False gives NaN
    same = owner_ids[:, :, None] == owner_ids[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(torch.tensor(ids), torch.tensor(positions), (same & causal)[:, None], torch.tensor(predicts), torch.tensor(targets))
