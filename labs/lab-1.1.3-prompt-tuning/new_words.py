"""A prompt for servers that know no prompts: its vectors become new words of the vocabulary.

A soft prompt is a row of embeddings that no token has. So give them tokens: k new rows of the embedding table, k new words of the
tokenizer. What is left is a plain model, which any server takes; whoever writes the words before a text gets the prompt, several
prompts share a batch, and a server with a prefix cache reads each of them once. (vLLM had an option for soft prompts. It was
removed after 0.9.2: https://github.com/vllm-project/vllm/pull/20588.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prompt_tuning import SoftPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Exercise 7. Two tables become longer. The embeddings: the vectors, below the rows that are there. The head, which gives each word a
# score: a new word must never be *said*, and a row of zeros would not prevent that (a score of 0 is high where all others
# are negative). So each new row of the head is the row of a word that is never said either, `unsaid`: the padding.
def longer_tables(embeddings: Tensor, head: Tensor, vectors: Tensor, unsaid: int) -> tuple[Tensor, Tensor]:
    """Both tables with new rows, (vocabulary + new, hidden), in the dtype of the old ones.

    Args:
        embeddings, head: (vocabulary, hidden)
        vectors: (new, hidden)
        unsaid: a row of the head.
    """
    # SOLUTION 7
    read = torch.cat([embeddings, vectors.to(embeddings)])  # (vocabulary, hidden), (new, hidden) -> (vocabulary + new, hidden)
    said = torch.cat([head, head[unsaid].expand(len(vectors), -1)])
    # END SOLUTION
    return read, said


def word(name: str, place: int) -> str:
    """How a vector of a prompt is called in the vocabulary."""
    return f"<|{name}-{place}|>"


def words(name: str, prompt: SoftPrompt) -> str:
    """What stands before a text to be read with this prompt."""
    return "".join(word(name, place) for place in range(len(prompt())))


@torch.no_grad()
def with_new_words(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, SoftPrompt]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A copy of a model and of its tokenizer in whose vocabulary the prompts are words; both as given are unchanged.

    The copy's head is its own, also where the base shares one table between both ends. Its tokenizer adds no
    beginning-of-sequence token: that one follows the prompt, so a client writes both.

    Raises:
        ValueError: a prompt has another width than the model, or a word is there already.
    """
    model, tokenizer = copy.deepcopy(base), copy.deepcopy(tokenizer)
    table, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    new = [word(name, place) for name, prompt in prompts.items() for place in range(len(prompt()))]
    if taken := set(new) & set(tokenizer.get_vocab()):
        msg = f"{min(taken)} is a word of the vocabulary already: call the prompt something else"
        raise ValueError(msg)
    for name, prompt in prompts.items():
        if prompt().shape[1] != table.shape[1]:
            msg = f"the prompt {name} is {prompt().shape[1]} wide, the model {table.shape[1]}: it was trained on another one"
            raise ValueError(msg)
    read, said = longer_tables(table, head, torch.cat([prompt() for prompt in prompts.values()]), tokenizer.pad_token_id)
    read, said = (_only_known(rows, tokenizer, len(new)) for rows in (read, said))
    tokenizer.add_tokens(new, special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = None
    model.config.tie_word_embeddings = False
    model.config.vocab_size = len(read)
    model.set_input_embeddings(nn.Embedding.from_pretrained(read, freeze=False))
    model.set_output_embeddings(_head(said))
    return model.eval(), tokenizer


def _only_known(rows: Tensor, tokenizer: PreTrainedTokenizerBase, new: int) -> Tensor:
    """Without rows that no token has (some models have more rows than their tokenizer has words): new words follow the last one."""
    known = len(tokenizer)
    return torch.cat([rows[:known], rows[len(rows) - new :]])


def _head(rows: Tensor) -> nn.Linear:
    head = nn.Linear(rows.shape[1], len(rows), bias=False, dtype=rows.dtype, device=rows.device)
    head.weight.copy_(rows)
    return head


@torch.no_grad()
def nearest_words(vectors: Tensor, table: Tensor) -> Tensor:
    """The token whose embedding is most alike to each vector, by cosine, (virtual_tokens,)."""
    alike = nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(table, dim=1).T  # -> (virtual_tokens, vocabulary)
    return alike.argmax(dim=1)
