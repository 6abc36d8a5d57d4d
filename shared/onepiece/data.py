"""From records to batches: examples (see `onepiece.encoding`), padding, packing, a fixed order.

    dataset = InstructionDataset(records, tokenizer)
    batches = Batches(dataset, Collator(tokenizer.pad_token_id), batch_size=16, seed=0)
    model(**batches(0)).loss

An example is a dict of `input_ids` and `labels`, both int64 (seq,): label i is token i where it counts in the loss and
`IGNORED` where it does not. Transformers shifts labels itself: the logits at i - 1 are compared with label i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onepiece.encoding import IGNORED, Example, RenderPrompt, encode_record
from onepiece.encoding import plain_prompt as plain_prompt
from onepiece.records import Record, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Any]
Collate = Callable[[Sequence[Any]], Batch]


class InstructionDataset(torch.utils.data.Dataset[Example]):
    """Conversations as examples, tokenized once.

    Args:
        records: conversations; `rejected` answers are ignored.
        max_length: longer examples are left out and counted in `left_out`: cut off, they would teach to stop in the middle.
        render_prompt, mask_prompt: as `encode_record` takes them.

    Raises:
        ValueError: no example is left, or as `encode_record`, with the number of the record.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        render_prompt: RenderPrompt | None = None,
        mask_prompt: bool = True,
    ) -> None:
        options: dict[str, Any] = {"render_prompt": render_prompt, "mask_prompt": mask_prompt}
        examples = [_encoded(number, record, tokenizer, options) for number, record in enumerate(records, start=1)]
        self._examples = [example for example in examples if _fits(example, max_length)]
        self.left_out = len(examples) - len(self._examples)
        _refuse_empty(self._examples, len(records), max_length)

    @classmethod
    def from_file(cls, path: Path | str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> InstructionDataset:
        """From a file that `read_records` understands; `options` are those of the class."""
        return cls(read_records(path), tokenizer, **options)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class PreferenceDataset(torch.utils.data.Dataset[dict[str, Example]]):
    """Pairs of answers to the same prompt: each item has a `chosen` and a `rejected` example, with the prompt masked in both.

    Raises:
        ValueError: a record has no rejected answer, no pair is left, or as `encode_record`, with the number of the record.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        render_prompt: RenderPrompt | None = None,
    ) -> None:
        pairs = []
        for number, record in enumerate(records, start=1):
            if record.rejected is None:
                msg = f"record {number} has no rejected answer"
                raise ValueError(msg)
            answers = {"chosen": record.answer, "rejected": record.rejected}
            sides = {name: Record(record.messages, answer) for name, answer in answers.items()}
            options: dict[str, Any] = {"render_prompt": render_prompt}
            pairs.append({name: _encoded(number, side, tokenizer, options) for name, side in sides.items()})
        self._pairs = [pair for pair in pairs if all(_fits(example, max_length) for example in pair.values())]
        self.left_out = len(pairs) - len(self._pairs)
        _refuse_empty(self._pairs, len(records), max_length)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Example]:
        return self._pairs[index]


def _encoded(number: int, record: Record, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> Example:
    try:
        return encode_record(record, tokenizer, **options)
    except ValueError as error:
        msg = f"record {number}: {error}"
        raise ValueError(msg) from error


def _fits(example: Example, max_length: int | None) -> bool:
    return max_length is None or len(example["input_ids"]) <= max_length


def _refuse_empty(kept: Sequence[object], records: int, max_length: int | None) -> None:
    if not kept:
        msg = f"none of {records} records is left with max_length={max_length}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes a batch of examples; goes to `Batches`, to a DataLoader or to a Trainer (`data_collator=`).

    Pairs of a `PreferenceDataset` become one batch of twice the rows: all chosen ones first, then all rejected ones.
    """

    pad_token_id: int
    side: str = "right"
    """Where padding goes: `right`, or `left` as for generation (not with soft prompts, which `peft` puts before it)."""
    packing: int | None = None
    """None, or the tokens of a row that several examples share without seeing each other."""

    def __call__(self, examples: Sequence[Any]) -> Batch:
        """A batch that any causal model of Transformers takes as keyword arguments.

        Returns:
            `input_ids`, `labels`, int64 (batch, seq). Padded: `attention_mask` too, and on the left `position_ids`, which
            begin at 0 with the first real token. Packed: (rows, seq) with `position_ids` that begin at 0 in every example,
            from which Transformers derives a block-diagonal mask; only without a cache, hence `use_cache` False.

        Raises:
            ValueError: an example is longer than a packed row.
        """
        if "chosen" in examples[0]:
            examples = [pair["chosen"] for pair in examples] + [pair["rejected"] for pair in examples]
        if self.packing is not None:
            return self._packed(examples, self.packing)
        mask = [torch.ones_like(example["input_ids"]) for example in examples]
        batch: Batch = {
            "input_ids": self._padded([example["input_ids"] for example in examples], self.pad_token_id),
            "labels": self._padded([_predictable(example["labels"]) for example in examples], IGNORED),
            "attention_mask": self._padded(mask, 0),
        }
        if self.side == "left":
            batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        return batch

    def _packed(self, examples: Sequence[Example], room: int) -> Batch:
        rows = pack([len(example["input_ids"]) for example in examples], room)
        token_ids, labels, positions = [], [], []
        for row in rows:
            chosen = [examples[index] for index in row]
            token_ids.append(torch.cat([example["input_ids"] for example in chosen]))
            positions.append(torch.cat([torch.arange(len(example["input_ids"])) for example in chosen]))
            labels.append(torch.cat([_predictable(example["labels"]) for example in chosen]))
        return {
            "input_ids": self._padded(token_ids, self.pad_token_id),
            "labels": self._padded(labels, IGNORED),
            "position_ids": self._padded(positions, 0),  # each token of the padding is an example of its own
            "use_cache": False,
        }

    def _padded(self, rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        """[(seq_i,), ...] -> (batch, seq)"""
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=self.side)


def _predictable(labels: torch.Tensor) -> torch.Tensor:
    """Without the first label: in a row it would be predicted from padding, or from the end of another example."""
    return torch.cat([torch.tensor([IGNORED]), labels[1:]])


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which examples share a row: the longest first, each into the first row that has room ("first-fit decreasing").

    Returns:
        The indices of each row.

    Raises:
        ValueError: an example is longer than `room`.
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if lengths[index] > room:
            msg = f"example {index} has {lengths[index]} tokens, a row has {room}"
            raise ValueError(msg)
        row = next((row for row, free in enumerate(left) if free >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(index)
        left[row] -= lengths[index]
    return rows


class Batches:
    """Batch number n, for every n: it depends on the seed and on n alone, so an interrupted training can go on anywhere.

    Each epoch is a new permutation; the rows that do not fill a batch at its end are left to another epoch.

    Args:
        dataset: what `collator` understands; at least `batch_size` items.
        shuffle: False takes the items in order, over and over.

    Raises:
        ValueError: the dataset does not fill a batch.
    """

    def __init__(self, dataset: Any, collator: Collate, *, batch_size: int, seed: int, shuffle: bool = True) -> None:
        if not 0 < batch_size <= len(dataset):
            msg = f"a dataset of {len(dataset)} does not fill a batch of {batch_size}"
            raise ValueError(msg)
        self._dataset, self._collator, self._size, self._seed, self._shuffle = dataset, collator, batch_size, seed, shuffle
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._dataset) // self._size

    def __call__(self, number: int) -> Batch:
        """Batch `number`, from 0."""
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, self._permutation(epoch))
        rows = self._order[1][place * self._size : (place + 1) * self._size]
        return self._collator([self._dataset[index] for index in rows])

    def _permutation(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._dataset)))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        return torch.randperm(len(self._dataset), generator=generator).tolist()


def ordered_batches(dataset: Any, collator: Collate, *, batch_size: int) -> list[Batch]:
    """All items once and in order, the last batch as small as it falls: what an evaluation goes through."""
    items = [dataset[index] for index in range(len(dataset))]
    return [collator(items[begin : begin + batch_size]) for begin in range(0, len(items), batch_size)]
