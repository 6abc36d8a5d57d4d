"""Vectors before a text: what every method needs that feeds a frozen language model something that is no token.

    model = SoftPromptModel(base, prompt, before_text)    # `prompt()` gives (virtual, hidden); `before_text` is the lab's Layout
    fit(model, task, ...)                                 # trains what requires a gradient in `prompt`
    accuracy(model, task)                                 # `generate` and `logits_of` are those of a model of Transformers
    with model.using([relabel, compose, relabel]):        # another prompt in each row of a batch
        ...

What the vectors are, and where they stand, is a lab's to say: it hands in the prompt, a module, and the layout, a function. Here is
the rest: from token ids to embeddings, rows whose prompts differ in length, training and generation in the form of Transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Vectors(NamedTuple):
    """Embeddings of a batch, and which of them mean something; of text, or of prompts."""

    embeddings: Tensor
    """(batch, length, hidden)"""
    mask: Tensor
    """(batch, length), int64: 1 where a vector counts, 0 at padding."""


class Inputs(NamedTuple):
    """What a causal language model of Transformers takes instead of token ids."""

    inputs_embeds: Tensor
    """(batch, virtual + seq, hidden)"""
    attention_mask: Tensor
    """(batch, virtual + seq)"""
    position_ids: Tensor
    """(batch, virtual + seq)"""
    labels: Tensor | None
    """(batch, virtual + seq), or None if there were none."""


Layout = Callable[[Vectors, Vectors, Tensor | None], Inputs]
"""(prompts, text, labels of the text) -> inputs: where the vectors stand, which positions they take, and that no loss is theirs.

The text must come out in its order and last: `SoftPromptModel` and `logits_of` look for its logits at the end.
"""


def stack_prompts(prompts: Sequence[Tensor]) -> Vectors:
    """One prompt for each row of a batch: [(virtual_i, hidden), ...] -> (batch, longest, hidden).

    Shorter ones are padded on the left, so that every prompt ends where the text begins.

    Raises:
        ValueError: there are none, or one has no vectors.
    """
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        msg = "every row needs a prompt of at least one vector"
        raise ValueError(msg)
    masks = [torch.ones(len(prompt), dtype=torch.long, device=prompt.device) for prompt in prompts]
    padded = {"batch_first": True, "padding_side": "left"}
    return Vectors(pad_sequence(list(prompts), **padded), pad_sequence(masks, **padded))


class SoftPromptModel(nn.Module):
    """A frozen language model that reads the vectors of a prompt with each text.

    It stands where a model of Transformers may stand: `onepiece.training.train`, `generate_batch`, `logits_of`, `token_ratio`.

    Args:
        base: a causal language model; all of it is frozen.
        prompt: without arguments it gives (virtual, hidden). Its parameters are what is trained.
        layout: puts prompts and text together.
    """

    def __init__(self, base: PreTrainedModel, prompt: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.prompt = prompt.to(base.device)
        self.layout = layout
        self._of_rows: Sequence[nn.Module] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.device

    @property
    def config(self) -> Any:
        """That of the base."""
        return self.base.config

    def get_base_model(self) -> PreTrainedModel:
        """The model inside, by the name that peft has for it: its generation settings are what counts."""
        return self.base

    @contextlib.contextmanager
    def using(self, prompts: Sequence[nn.Module]) -> Iterator[None]:
        """Within the block row i of every batch is read with `prompts[i]`; their lengths may differ."""
        before, self._of_rows = self._of_rows, prompts
        try:
            yield
        finally:
            self._of_rows = before

    def inputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Inputs:
        """What the base is given for a batch.

        Args:
            input_ids, attention_mask, labels: (batch, seq), padded on either side.

        Raises:
            ValueError: within `using` the batch has not as many rows as there are prompts, or prompt and text are longer than the
                base's context.
        """
        rows = len(input_ids)
        chosen = self._of_rows or [self.prompt] * rows
        if len(chosen) != rows:
            msg = f"{len(chosen)} prompts cannot be those of {rows} rows"
            raise ValueError(msg)
        made = {module: module() for module in dict.fromkeys(chosen)}  # an encoder computes once, however many rows read it
        prompts = stack_prompts([made[module] for module in chosen])
        length, context = prompts.mask.shape[1] + input_ids.shape[1], getattr(self.config, "max_position_embeddings", None)
        if context is not None and length > context:
            msg = f"prompt and text have {length} positions, the model has {context}: shorten the prompt or the text"
            raise ValueError(msg)
        embeddings = self.base.get_input_embeddings()(input_ids)  # (batch, seq) -> (batch, seq, hidden)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = Vectors(prompts.embeddings.to(embeddings.dtype), prompts.mask)
        return self.layout(prompts, Vectors(embeddings, mask), labels)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Loss and logits as the base gives them; the logits have `virtual` rows more than the text, in front.

        Args:
            position_ids: looked at by nobody: they change with the prompt, so the layout makes them anew.
            options: of the base's `forward`.
        """
        return self.base(**self.inputs(input_ids, attention_mask, labels)._asdict(), **options)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Token ids of text and answer, (batch, seq + new), as the base's `generate` gives them; `options` are those of it."""
        given = self.inputs(input_ids, attention_mask)
        # Transformers derives the positions from the mask, for the tokens to come too.
        new = self.base.generate(inputs_embeds=given.inputs_embeds, attention_mask=given.attention_mask, **options)
        return torch.cat([input_ids, new], dim=1)  # (batch, seq), (batch, new) -> (batch, seq + new)
