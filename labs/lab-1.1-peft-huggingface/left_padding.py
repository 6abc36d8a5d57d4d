"""Prompts of different lengths in one batch: padding, the mask, the positions.

Generation appends to the end of each row, so every prompt must *end* at the same place: padding goes to the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Inputs = dict[str, torch.Tensor]
"""`input_ids`, `attention_mask` and `position_ids`, each int64 (batch, seq)."""


# Exercise 6. Pad on the left.
# The mask is 1 at real tokens and 0 at padding. Positions begin at 0 with the first real token of each row, so that the
# model sees the prompt as if it stood alone; at padding they are 0 (nobody looks there).
def left_padded(sequences: Sequence[Sequence[int]], pad_id: int) -> Inputs:
    """One batch of sequences of token ids.

    Args:
        sequences: token ids of each prompt, none of them empty.
        pad_id: what stands in the padding.

    Returns:
        (seq_i,) ... -> (batch, longest), for each of the three.
    """
    # SOLUTION 6
    longest = max(len(sequence) for sequence in sequences)
    padding = [longest - len(sequence) for sequence in sequences]
    rows = list(zip(padding, sequences, strict=True))
    token_ids = torch.tensor([[pad_id] * missing + list(sequence) for missing, sequence in rows])
    mask = torch.tensor([[0] * missing + [1] * len(sequence) for missing, sequence in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": token_ids, "attention_mask": mask, "position_ids": positions}
    # END SOLUTION


def right_padded(sequences: Sequence[Sequence[int]], pad_id: int) -> Inputs:
    """The same batch padded on the right: right for training, wrong for generation. The control of notebook 4."""
    rows = [torch.tensor(list(sequence)) for sequence in sequences]
    token_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)  # (batch, longest)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": token_ids, "attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
