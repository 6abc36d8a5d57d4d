"""From an instruction to token ids and labels: the prompt's words, and what counts in the loss."""

from __future__ import annotations

from onepiece.data import IGNORED

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
"""The two openings of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca, `PROMPT_DICT` of train.py)."""


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """The prompt of Stanford Alpaca, up to where the answer begins.

    Parts with an empty line between them: the opening, and sections that each begin with a heading of its own line.

    Args:
        instruction: what to do.
        context: what to do it with (Alpaca calls it `input`, Dolly `context`); empty if there is nothing.
    """
    parts = [WITH_INPUT if context else WITHOUT_INPUT, f"### Instruction:\n{instruction}"]
    if context:
        parts.append(f"### Input:\n{context}")
    return "\n\n".join([*parts, "### Response:"])


# Exercise 3. What counts in the loss?
# The model reads prompt and answer and is graded on the answer alone, the end token included: without it the model
# would never learn to stop. Do not shift anything: Transformers compares the logits at i - 1 with label i by itself.
def supervised_example(prompt_ids: list[int], answer_ids: list[int], end_id: int) -> tuple[list[int], list[int]]:
    """(token ids, labels), of equal length; a label is its token where it counts and `IGNORED` (-100) where it does not.

    Args:
        prompt_ids: tokens of the prompt, at least one.
        answer_ids: tokens of the answer, without the end token.
        end_id: the end-of-sequence token.
    """
    # SOLUTION 3
    answer = [*answer_ids, end_id]
    return [*prompt_ids, *answer], [IGNORED] * len(prompt_ids) + answer
    # END SOLUTION
