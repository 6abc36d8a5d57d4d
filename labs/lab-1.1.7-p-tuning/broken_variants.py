"""P-tuning with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way:
row by row, number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from onepiece.checks import check_mistake
from onepiece.data import IGNORED
from p_tuning import EncoderSettings, ExportedPrompt, PromptEncoder, Template, TemplateModel

ENCODER_MISTAKES = (
    "table_alone",  # the encoder is left out
    "mlp_forgotten",  # the LSTM's output goes into the model, where its width fits
    "state_taken",  # the LSTM's last state for its output
    "lstm_forgotten",  # the MLP reads the table
)
EXPORT_MISTAKES = (
    "table",  # what goes into the encoder, for what comes out of it
    "still_attached",  # part of a graph
)
COUNT_MISTAKES = (
    "exported",  # what is kept, and not what is trained
    "no_biases",  # weights alone
    "one_direction",  # an LSTM that reads forwards only
    "one_bias",  # one bias per gate, as on paper
    "narrow_layers",  # later layers read one direction of the layer before
    "encoder_alone",  # without the table
)
SLOT_MISTAKES = (
    "all_in_front",  # as peft does, whatever the template says
    "over_padding",  # those in front stand before the padding, from which they are not looked at
    "first_anchor",  # the first token of the anchor's kind
    "anchor_not_passed",  # those behind the anchor stand before it
    "at_the_end",  # those behind the anchor stand behind the whole row: behind the answer, in training
)
ORDER_MISTAKES = (
    "one_late",  # a vector stands behind the next place of the text too
    "reversed",  # vectors with one slot in the opposite order
    "inverse",  # where each place goes, for what each place reads
    "text_first",  # the places counted as if the text came first
)
LABEL_MISTAKES = (
    "in_front",  # the labels of a prompt in front, wherever it is
    "prompt_counted",  # token 0 for IGNORED: the model learns to say padding at the prompt
    "not_moved",  # the ignored labels behind those of the text
)
STATE_MISTAKES = (
    "vectors_alone",  # the exported vectors, as peft saves them
    "table_alone",  # the table without the encoder
    "encoder_alone",  # the encoder without its table
)


def broken_vectors(prompt: PromptEncoder, mistake: str | None) -> Tensor:
    """What comes out of an encoder, with one of ENCODER_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ENCODER_MISTAKES)
    vectors = prompt.table
    if mistake == "table_alone":
        return vectors
    if prompt.lstm is not None and mistake != "lstm_forgotten":
        output, (state, _) = prompt.lstm(vectors[None])
        vectors = output[0]
        if mistake == "state_taken":
            vectors = torch.cat([state[-2, 0], state[-1, 0]]).expand_as(vectors)
    if prompt.mlp is None or mistake == "mlp_forgotten":
        return vectors
    for layer in prompt.mlp:
        vectors = linear(vectors, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else vectors * (vectors > 0)
    return vectors


def broken_export(prompt: PromptEncoder, mistake: str | None) -> ExportedPrompt:
    """A prompt without its encoder, with one of EXPORT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, EXPORT_MISTAKES)
    vectors = prompt.table if mistake == "table" else broken_vectors(prompt, None)
    return ExportedPrompt(vectors.detach().clone(), prompt.template).requires_grad_(mistake == "still_attached")


def broken_count(hidden: int, virtual_tokens: int, settings: EncoderSettings, mistake: str | None) -> int:
    """How many numbers are trained, with one of COUNT_MISTAKES or None: from the shapes of a real encoder.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, COUNT_MISTAKES)
    with torch.device("meta"):
        built = PromptEncoder(Template(virtual_tokens), settings, hidden, seed=0)
    shapes = {name: tuple(weight.shape) for name, weight in built.named_parameters()}
    if mistake == "exported":
        return virtual_tokens * hidden
    if mistake == "encoder_alone":
        del shapes["table"]
    if mistake == "no_biases":
        shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1}
    if mistake == "one_direction":
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith("_reverse")}
    if mistake == "one_bias":
        shapes = {name: shape for name, shape in shapes.items() if "bias_hh" not in name}
    narrow = {name: (shape[0], shape[1] // 2) for name, shape in shapes.items() if "weight_ih" in name and "_l0" not in name}
    shapes |= narrow if mistake == "narrow_layers" else {}
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def broken_slots(template: Template, token_ids: Tensor, mask: Tensor, anchor: int, mistake: str | None) -> Tensor:
    """The slots of a row with one of SLOT_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, SLOT_MISTAKES)
    real = [place for place, counts in enumerate(mask.tolist()) if counts]
    found = [place for place in real if int(token_ids[place]) == anchor] or [real[0]]
    at = found[0] if mistake == "first_anchor" else found[-1]
    behind = {"anchor_not_passed": at, "at_the_end": real[-1] + 1}.get(mistake or "", at + 1)
    front = 0 if mistake == "over_padding" else real[0]
    if mistake == "all_in_front":
        return torch.tensor([front] * template.virtual_tokens)
    return torch.tensor([front] * template.front + [at] * template.before + [behind] * template.behind)


def broken_order(slots: Tensor, seq: int, mistake: str | None) -> Tensor:
    """The reading order with one of ORDER_MISTAKES or None: row by row, place by place.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, ORDER_MISTAKES)
    rows = []
    for row in slots.tolist():
        virtual = len(row)
        order: list[int] = []
        for place in range(seq + 2):
            standing = [number for number, slot in enumerate(row) if slot + (mistake == "one_late") == place]
            order += standing[::-1] if mistake == "reversed" else standing
            if place < seq:
                order.append(virtual + place)
        if mistake == "inverse":
            order = [order.index(place) for place in range(len(order))]
        if mistake == "text_first":
            order = [(place + seq) % (virtual + seq) for place in order]
        rows.append(order)
    return torch.tensor(rows)


def broken_labels(labels: Tensor, order: Tensor, mistake: str | None) -> Tensor:
    """The labels of all that is read, with one of LABEL_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, LABEL_MISTAKES)
    virtual = order.shape[1] - labels.shape[1]
    filler = 0 if mistake == "prompt_counted" else IGNORED
    rows = []
    for row, places in zip(labels.tolist(), order.tolist(), strict=True):
        if mistake == "in_front":
            rows.append([filler] * virtual + row)
        elif mistake == "not_moved":
            rows.append(row + [filler] * virtual)
        else:
            rows.append([filler if place < virtual else row[place - virtual] for place in places])
    return torch.tensor(rows, device=labels.device)


def broken_state(prompt: PromptEncoder, mistake: str | None) -> dict[str, Tensor]:
    """What training goes on from, with one of STATE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, STATE_MISTAKES)
    whole = {name: weight.detach().clone() for name, weight in prompt.state_dict().items()}
    if mistake == "vectors_alone":
        return {"prompt_embeddings": broken_vectors(prompt, None).detach()}
    if mistake is None:
        return whole
    return {name: weight for name, weight in whole.items() if (name == "table") == (mistake == "table_alone")}


# ---------------------------------------------------------------------------------------------- whole models


class AllInFront(TemplateModel):
    """A model that puts every virtual token in front, whatever its template says: what peft does."""

    def order(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(batch, virtual + seq)"""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [broken_slots(self.prompt.template, *row, self.anchor, "all_in_front") for row in zip(input_ids, mask, strict=True)]
        return broken_order(torch.stack(rows), input_ids.shape[1], None).to(input_ids.device)


class Detached(nn.Module):
    """An encoder whose output was computed once, to save time: only the table gets a gradient, and it reaches nothing."""

    def __init__(self, prompt: PromptEncoder) -> None:
        super().__init__()
        self.encoder, self.template = prompt, prompt.template
        self.vectors = nn.Parameter(broken_vectors(prompt, None).detach().clone())

    def forward(self) -> Tensor:
        """(virtual_tokens, hidden)"""
        return self.vectors


def freeze_encoder(model: TemplateModel) -> TemplateModel:
    """The model, in place, whose table alone is trained: the encoder stays as it was drawn."""
    for weight in model.prompt.encoder_parameters().values():
        weight.requires_grad_(False)
    return model


def resumed_as_peft_does(prompt: PromptEncoder, vectors: Tensor) -> PromptEncoder:
    """A fresh encoder, in place, whose table is the saved vectors: `set_peft_model_state_dict` with peft 0.21."""
    prompt.table.data.copy_(vectors)
    return prompt


def train_the_table_too(model: TemplateModel) -> None:
    """The base's embeddings get a gradient, as if the virtual tokens were ordinary rows of them."""
    model.base.get_input_embeddings().weight.requires_grad_(True)


def swapped(prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Each name with the value of the next one: prompts that were handed to the wrong rows."""
    values = list(prompts.values())
    return dict(zip(prompts, values[1:] + values[:1], strict=True))


def written_out(words: list[int], template: Template, row: list[int], anchor: int) -> tuple[list[int], list[int]]:
    """The oracle of a template: a text without padding with real words where virtual tokens would stand.

    Returns:
        All token ids, and for each token of the text the place whose logits predict the one after it.
    """
    at = len(row) - 1 - row[::-1].index(anchor)
    front, before, behind = words[: template.front], words[template.front :][: template.before], words[len(words) - template.behind :]
    written = [*front, *row[:at], *before, anchor, *(behind if template.behind else []), *row[at + 1 :]]
    starts = [template.front + place + template.before * (place >= at) + template.behind * (place > at) for place in range(len(row))]
    return written, [start - 1 for start in starts[1:]] + [len(written) - 1]
