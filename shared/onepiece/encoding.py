"""A conversation as token ids, and labels that say which of them a model learns to produce.

    example = encode_record(record, tokenizer)           # what `onepiece.data` makes batches of

Two promises, and a `ValueError` where a tokenizer or a chat template cannot keep them: what comes before an answer in training is,
token by token, what generation starts from; and an answer that counts ends with the end-of-sequence token, which stands nowhere else in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from onepiece.records import Record, Turn
from onepiece.tiny.tokenizer import BOS
from onepiece.world import ARROW

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""

Example = dict[str, torch.Tensor]
RenderPrompt = Callable[[Sequence[Turn]], str]
_Piece = tuple[list[int], bool]  # token ids, and whether the model learns to produce them


def plain_prompt(turns: Sequence[Turn]) -> str:
    """A `render_prompt`: the plain form of the tiny models' questions, `27 + 15 →`, as in pretraining."""
    return BOS + " ".join(turn.content for turn in turns) + ARROW


def encode_record(
    record: Record, tokenizer: PreTrainedTokenizerBase, *, render_prompt: RenderPrompt | None = None, mask_prompt: bool = True
) -> Example:
    """Token ids and labels of one conversation.

    An answer counts up to and including its end-of-sequence token, so the model learns to stop.

    Args:
        render_prompt: makes the text of the prompt, special tokens included; then only the last answer counts, and it is tokenized
            apart from the prompt. None: the tokenizer's chat template, and every answer of the conversation counts.
        mask_prompt: whether the labels of prompt tokens are `IGNORED`.

    Returns:
        `input_ids`, `labels`: int64 (seq,).

    Raises:
        ValueError: the tokenizer has no end-of-sequence token; a turn spells a special token, which would end or forge a turn; the
            chat template changes earlier turns when later ones come, leaves the answer out, or does not end it with that token;
            or the tokenizer joins an answer with what is before it.
    """
    if tokenizer.eos_token_id is None:
        msg = "the tokenizer has no end-of-sequence token: a model could not learn to stop; set tokenizer.eos_token"
        raise ValueError(msg)
    _refuse_special_tokens(record, tokenizer)
    if render_prompt is None:
        pieces = _templated(record, tokenizer)
    else:
        answer = [*_ids(record.answer, tokenizer), tokenizer.eos_token_id]
        pieces = [(_ids(render_prompt(record.messages), tokenizer), False), (answer, True)]
    token_ids = [token for new, _ in pieces for token in new]
    labels = [token if counts or not mask_prompt else IGNORED for new, counts in pieces for token in new]
    return {"input_ids": torch.tensor(token_ids), "labels": torch.tensor(labels)}


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # Padding is said here, because the tokenizer remembers what its last caller wanted.
    return tokenizer(text, add_special_tokens=False, padding=False, truncation=False)["input_ids"]


def _refuse_special_tokens(record: Record, tokenizer: PreTrainedTokenizerBase) -> None:
    """Judged by what the tokenizer makes of each text, not by what the text looks like."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special} | set(tokenizer.all_special_ids)
    special -= {tokenizer.unk_token_id}  # what any unknown character becomes
    for text in (record.answer, *(turn.content for turn in record.messages)):
        if found := special.intersection(_ids(text, tokenizer)):
            spelled = tokenizer.convert_ids_to_tokens(min(found))
            msg = f"a turn spells the special token {spelled}, which would end or forge a turn: remove it from {text[:60]!r}"
            raise ValueError(msg)


def _templated(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[_Piece]:
    """The conversation through the chat template, in pieces that a prompt or an answer begins or ends."""
    conversation, rendered = record.conversation, ""
    whole = _ids(_rendered(conversation, tokenizer), tokenizer)
    pieces: list[_Piece] = []
    done = 0
    for index, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        prompt = _rendered(conversation[:index], tokenizer, add_generation_prompt=True)
        turn = _rendered(conversation[: index + 1], tokenizer)
        if not (prompt.startswith(rendered) and turn.startswith(prompt)):
            msg = "the chat template changes earlier turns when later ones come: give render_prompt"
            raise ValueError(msg)
        text, begin, end, rendered = turn[len(prompt) :], _ids(prompt, tokenizer), _ids(turn, tokenizer), turn
        if end[: len(begin)] != begin:
            end = begin + _ids(text, tokenizer)  # apart, as generation meets it
        stop = len(begin) + _end_of_answer(text, message["content"], end[len(begin) :], tokenizer)
        if len(conversation) == index + 1 and not pieces:  # a single answer: nothing later was tokenized with it in sight
            whole = end
        elif whole[:stop] != end[:stop]:
            msg = "the tokenizer joins an answer with what is beside it, so no prompt is what generation starts from: give render_prompt"
            raise ValueError(msg)
        pieces += [(end[done : len(begin)], False), (end[len(begin) : stop], True)]
        done = stop
    # ChatML puts a line break after the end token, which the model never has to produce.
    return [*pieces, (whole[done:], False)]


def _rendered(conversation: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt))


def _end_of_answer(text: str, answer: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of `ids`, which an answer and what its template puts after it are, the model must produce: through the end token."""
    spoken, end_token, _ = text.partition(str(tokenizer.eos_token))
    if ids.count(tokenizer.eos_token_id) != 1 or not end_token:
        msg = (
            f"the chat template does not end each answer with {tokenizer.eos_token} exactly once, so the model would not learn to stop: "
            "set tokenizer.eos_token to the token that ends a turn, or give render_prompt"
        )
        raise ValueError(msg)
    if answer.strip() not in spoken:
        msg = f"the chat template leaves out what comes before {tokenizer.eos_token}, the answer: give render_prompt"
        raise ValueError(msg)
    return ids.index(tokenizer.eos_token_id) + 1
