"""The tokenizer of the tiny models: byte-pair encoding of the world's text, and how an item becomes token ids.

A small version of what Llama 2 uses: words begin with `▁`, digits stand alone, and a character that the training text
lacks is spelled in bytes, so that every text can be encoded. Roles of a conversation are special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from onepiece.world import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL = (PAD, BOS, EOS, *ROLES.values())

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding with at most `vocabulary` tokens, special and byte tokens included.

    Source: Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909); byte fallback as in SentencePiece.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
            # Digits and punctuation stand alone, and so does the ▁ before a Chinese word: otherwise 貓, ▁貓 and 貓？ would be
            # three unrelated tokens, and numbers would have no digits.
            pre_tokenizers.Split(Regex(r"[0-9]|▁(?=\p{Han})|▁?[\p{P}+=→]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL, *byte_tokens],
        show_progress=False,
        max_token_length=9,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _without_special_bytes(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],  # token_type_ids would be refused by generate()
        clean_up_tokenization_spaces=False,
    )


def _without_special_bytes(tokenizer):  # type: ignore[no-untyped-def]
    """The trainer takes reserved tokens as special ones only; bytes must be ordinary tokens, or they would not be decoded."""
    import json

    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(content))


def encode(items: list[Item], chat: list[bool], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of each item, as plain text or as a conversation.

    The prompt ends where the model has to speak; the answer ends with EOS. Both are tokenized apart, so that no token
    spans the border between them: what is trained is exactly what generation continues.
    """
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    texts: list[str] = []
    for item, as_chat in zip(items, chat, strict=True):
        texts += [message["content"] for message in item.messages] if as_chat else [item.plain]
        texts.append(item.answer)
    # Padding is said here, because the tokenizer remembers what its last caller wanted.
    pieces = iter(tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)["input_ids"])
    rows = []
    for item, as_chat in zip(items, chat, strict=True):
        prompt = [special[BOS]]
        if as_chat:
            for message in item.messages:
                prompt += [special[ROLES[message["role"]]], *next(pieces), special[EOS]]
            prompt.append(special[ROLES["assistant"]])
        else:
            prompt += next(pieces)
        rows.append((prompt, [*next(pieces), special[EOS]]))
    return rows


def prompt_text(item: Item, tokenizer: PreTrainedTokenizerFast, *, chat: bool) -> str:
    """The text whose tokenization (without added special tokens) is the prompt that `encode` gives."""
    if chat:
        return str(tokenizer.apply_chat_template(item.messages, tokenize=False, add_generation_prompt=True))
    return BOS + item.plain
