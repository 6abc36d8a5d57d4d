"""A prompt for servers that know no prompts: its vectors become words, and the tokenizer writes them where the template says.

Whoever asks the server sends a plain text. Its tokenizer adds a beginning-of-sequence token anyway; in the same way it adds the words of
the prompt, in front, and behind the text, which ends with the anchor. (vLLM had an option for soft prompts. It was removed
after 0.9.2: https://github.com/vllm-project/vllm/pull/20588.)
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from p_tuning import ExportedPrompt, Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def words(template: Template) -> list[str]:
    """How the virtual tokens are called in the vocabulary, in order."""
    return [f"<|virtual-{place}|>" for place in range(template.virtual_tokens)]


def pattern(template: Template, begin: str | None) -> str:
    """What the tokenizer makes of a text, `$A`: its words before and behind, and the beginning-of-sequence token if it has one.

    Raises:
        ValueError: the template has virtual tokens before its anchor, in the middle of what a client sends.
    """
    if template.before:
        msg = "a tokenizer writes before a text and behind it, not into its middle: this template has virtual tokens before the anchor"
        raise ValueError(msg)
    names = words(template)
    return " ".join([*names[: template.front], *([begin] if begin else []), "$A", *names[template.front :]])


@torch.no_grad()
def with_template(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: ExportedPrompt
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A copy of a model and of its tokenizer, plain ones: the prompt is in every text that the tokenizer reads.

    The copy has a head of its own, also where the base shares one table between both ends, and says none of the words: they score
    as the padding does, which is never said.

    Raises:
        ValueError: the prompt has another width than the model, the words are in the vocabulary, or what `pattern` raises.
    """
    from tokenizers.processors import TemplateProcessing

    vectors, names = prompt(), words(prompt.template)
    if vectors.shape[1] != base.config.hidden_size:
        msg = f"the prompt is {vectors.shape[1]} wide, the model {base.config.hidden_size}: it was trained on another one"
        raise ValueError(msg)
    if set(names) & set(tokenizer.get_vocab()):
        msg = f"{names[0]} is a word of the vocabulary already: the model has a prompt"
        raise ValueError(msg)
    single = pattern(prompt.template, tokenizer.bos_token)
    model, tokenizer = copy.deepcopy(base), copy.deepcopy(tokenizer)
    tokenizer.add_tokens(names, special_tokens=True)
    new = tokenizer.convert_tokens_to_ids(names)
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in [*names, tokenizer.bos_token] if name]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    _untie(model)
    if model.config.vocab_size < len(tokenizer):  # some models have more rows than words
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_input_embeddings().weight[new] = vectors.to(model.get_input_embeddings().weight)
    head = model.get_output_embeddings().weight
    head[new] = head[tokenizer.pad_token_id].clone()
    return model.eval(), tokenizer


def _untie(model: PreTrainedModel) -> None:
    """Give the head a table of its own: what is read at a new word must not be what is said."""
    head = nn.Linear(1, 1, bias=False)
    head.weight = nn.Parameter(model.get_output_embeddings().weight.detach().clone())
    head.out_features, head.in_features = head.weight.shape
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
