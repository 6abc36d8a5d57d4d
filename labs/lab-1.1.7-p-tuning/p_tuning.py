"""P-tuning: vectors that an encoder makes, read at places of a text that a template names, by a frozen model; from the paper.

Read from top to bottom: the settings, the encoder, the count, the template, the place, into a model. Paper: Liu et al. 2021, "GPT
Understands, Too", https://arxiv.org/abs/2103.10385:

    [P_0 .. P_i]  x  [P_i+1 .. P_m]  y        P = encoder(table); table and encoder are all that is trained

What is no part of the idea (from token ids to embeddings, generating, several prompts in a batch) is in
`onepiece.adaptation.soft_prompt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onepiece.adaptation.soft_prompt import Inputs, SoftPromptModel, Vectors
from onepiece.data import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODERS = ("none", "mlp", "lstm")

# ---------------------------------------------------------------------------------------------- 1. settings


@dataclass(frozen=True)
class Template:
    """How many virtual tokens stand where. Between the groups is the text, with one of its real tokens as an anchor.

        front  text  before  anchor  behind  answer

    Raises:
        ValueError: no virtual token stands anywhere, or a number is negative.
    """

    front: int = 0
    """Before the first token of the text."""
    before: int = 0
    """Just before the anchor."""
    behind: int = 0
    """Just behind it."""

    def __post_init__(self) -> None:
        if min(self.groups) < 0 or self.virtual_tokens < 1:
            msg = f"a template needs at least 1 virtual token and no negative number, not {self.groups}"
            raise ValueError(msg)

    @property
    def groups(self) -> tuple[int, int, int]:
        """The three numbers, in the order of the text."""
        return self.front, self.before, self.behind

    @property
    def virtual_tokens(self) -> int:
        """Of all groups together."""
        return sum(self.groups)


@dataclass(frozen=True)
class EncoderSettings:
    """What makes the vectors.

    Raises:
        ValueError: there is no such encoder, or it has no width.
    """

    kind: str
    """One of ENCODERS; with `none` the vectors themselves are trained: prompt tuning."""
    width: int = 64
    """Of the encoder's hidden layers; an LSTM has as much in each direction."""
    layers: int = 2
    """Of the LSTM."""

    def __post_init__(self) -> None:
        if self.kind not in ENCODERS:
            msg = f"the encoder must be one of {ENCODERS}, not {self.kind!r}"
            raise ValueError(msg)
        if self.width < 1 or self.layers < 1:
            msg = f"an encoder needs a width and layers of at least 1, not {self.width} and {self.layers}"
            raise ValueError(msg)


# ---------------------------------------------------------------------------------------------- 2. the encoder


class PromptEncoder(nn.Module):
    """A table of inputs, and a network from it to the vectors that the model reads; the shapes and names are those of peft.

    Args:
        hidden: width of the base's embeddings.
        seed: of all start values; it gives the same numbers on every device.
    """

    def __init__(self, template: Template, settings: EncoderSettings, hidden: int, *, seed: int) -> None:
        super().__init__()
        self.template, width = template, settings.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = nn.Parameter(torch.randn(template.virtual_tokens, hidden))
            self.lstm, self.mlp = None, None
            if settings.kind == "lstm":
                # Two directions: a vector depends on those behind it too. The text is read in one direction, the prompt need not be.
                self.lstm = nn.LSTM(hidden, width, settings.layers, bidirectional=True, batch_first=True)
                self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, hidden))
            if settings.kind == "mlp":
                layers = (nn.Linear(hidden, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, hidden))
                self.mlp = nn.Sequential(*layers)

    # Exercise 1. From the table to the vectors that the model reads. The LSTM reads the virtual tokens as a sequence, and gives
    # (output, state): the output is what goes on, as wide as two directions. Then the MLP, token by token. What is not
    # there (None) does nothing. `nn.LSTM` takes (virtual, hidden) for one sequence without a batch.
    def forward(self) -> Tensor:
        """(virtual_tokens, hidden)"""
        # SOLUTION 1
        vectors = self.table
        if self.lstm is not None:
            vectors, _ = self.lstm(vectors)  # (virtual, hidden) -> (virtual, 2 * width)
        return vectors if self.mlp is None else self.mlp(vectors)  # -> (virtual, hidden)
        # END SOLUTION

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> what is trained besides the table."""
        return {name: weight for name, weight in self.named_parameters() if name != "table"}


class ExportedPrompt(nn.Module):
    """The vectors alone: what is left when the encoder has gone."""

    def __init__(self, vectors: Tensor, template: Template) -> None:
        super().__init__()
        self.vectors, self.template = nn.Parameter(vectors), template

    def forward(self) -> Tensor:
        """(virtual_tokens, hidden)"""
        return self.vectors


# Exercise 2. After training nothing goes into the encoder any more but its own table, so what comes out is always the same. Keep
# that, and throw the encoder away. The copy is no part of a graph and shares no memory with what made it.
def exported(prompt: nn.Module) -> ExportedPrompt:
    """A prompt without its encoder, frozen; it gives the same vectors."""
    # SOLUTION 2
    vectors = prompt().detach().clone()  # (virtual_tokens, hidden): the output, not the table
    # END SOLUTION
    return ExportedPrompt(vectors, prompt.template).requires_grad_(False)


# ---------------------------------------------------------------------------------------------- 3. how many numbers


# Exercise 3. How many numbers are trained? The table; and of the encoder every weight and every bias. A linear layer from a to b has
# a * b + b. An LSTM has four gates; in each direction of each layer they have weights from the input, weights from its own state,
# and *two* biases. What does the second layer read?
def trained_count(hidden: int, virtual_tokens: int, settings: EncoderSettings) -> int:
    """Numbers that training changes."""
    table, width = virtual_tokens * hidden, settings.width
    # SOLUTION 3
    if settings.kind == "none":
        return table
    if settings.kind == "mlp":
        return table + (hidden + 1) * width + (width + 1) * width + (width + 1) * hidden
    inputs = [hidden] + [2 * width] * (settings.layers - 1)  # later layers read both directions of the one before
    lstm = sum(2 * 4 * width * (each + width + 2) for each in inputs)
    return table + lstm + (2 * width + 1) * 2 * width + (2 * width + 1) * hidden
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 4. the template


# Exercise 4. Behind how many places of the text does each virtual token stand? Those of `front` behind the padding on the left, if
# there is any; those of `before` behind what comes before the anchor; those of `behind` behind the anchor too. The anchor is
# the last real token of its kind: a word of the question may be spelled with it.
def slots(template: Template, token_ids: Tensor, mask: Tensor, anchor: int) -> Tensor:
    """For each virtual token, in order, how many places of the text come before it, (virtual_tokens,).

    Args:
        token_ids, mask: (seq,) of one row; the mask is 1 at real tokens.
        anchor: a token id.

    Raises:
        ValueError: virtual tokens stand at the anchor, and the text has none.
    """
    found = ((token_ids == anchor) & (mask == 1)).nonzero().flatten().tolist()
    if not found and (template.before or template.behind):
        msg = f"the template has virtual tokens at token {anchor}, and the text has no such token: write it, or put all in front"
        raise ValueError(msg)
    # SOLUTION 4
    first = int(mask.argmax())  # of equal values argmax takes the first
    last = found[-1] if found else 0
    places = [first] * template.front + [last] * template.before + [last + 1] * template.behind
    # END SOLUTION
    return torch.tensor(places, device=token_ids.device)


# ---------------------------------------------------------------------------------------------- 5. the place


# Exercise 5. Prompt and text lie one behind the other: places 0 .. virtual - 1 are the vectors, the rest is the text. In which order
# are they read? A vector whose slot is s comes after s places of the text, before the next one; vectors with one slot keep their
# order. Give each place a number so that sorting does it: `torch.argsort(..., stable=True)`.
def reading_order(slots_of_rows: Tensor, seq: int) -> Tensor:
    """Which place of [prompt, text] is read first, second, ...: (batch, virtual) -> (batch, virtual + seq)."""
    # SOLUTION 5
    text = torch.arange(seq, device=slots_of_rows.device).expand(len(slots_of_rows), -1)  # (seq,) -> (batch, seq)
    keys = torch.cat([slots_of_rows - 0.5, text], dim=1)  # -> (batch, virtual + seq)
    return keys.argsort(dim=1, stable=True)
    # END SOLUTION


# Exercise 6. A label belongs to its token wherever that is read, and no loss is that of a virtual token.
def placed_labels(labels: Tensor, order: Tensor) -> Tensor:
    """Labels of the text, (batch, seq) -> labels of all that is read, (batch, virtual + seq)."""
    # SOLUTION 6
    virtual = order.shape[1] - labels.shape[1]
    ignored = labels.new_full((len(labels), virtual), IGNORED)
    return torch.cat([ignored, labels], dim=1).gather(1, order)  # -> (batch, virtual + seq)
    # END SOLUTION


def side_by_side(prompts: Vectors, text: Vectors, labels: Tensor | None) -> Inputs:
    """Prompt and text one behind the other, before they are put in order; labels are left as they are."""
    embeddings = torch.cat([prompts.embeddings, text.embeddings], dim=1)  # -> (batch, virtual + seq, hidden)
    mask = torch.cat([prompts.mask, text.mask], dim=1)
    return Inputs(embeddings, mask, torch.zeros_like(mask), labels)


# ---------------------------------------------------------------------------------------------- 6. into a model


class TemplateModel(SoftPromptModel):
    """A frozen model that reads the vectors of a prompt where its template puts them.

    Args:
        prompt: with a `template`; so have those of `using`.
        anchor: id of the token at which templates put virtual tokens.
    """

    def __init__(self, base: PreTrainedModel, prompt: nn.Module, anchor: int) -> None:
        super().__init__(base, prompt, side_by_side)
        self.anchor = anchor

    def order(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """In which order [prompt, text] is read, (batch, virtual + seq)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = self._of_rows or [self.prompt] * len(input_ids)
        rows = [slots(prompt.template, *row, self.anchor) for prompt, *row in zip(prompts, input_ids, mask, strict=False)]
        longest = max(len(row) for row in rows)
        # A shorter prompt is padded on its left; that padding goes to the very front.
        padded = [nn.functional.pad(row, (longest - len(row), 0)) for row in rows]
        return reading_order(torch.stack(padded), input_ids.shape[1])

    def inputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Inputs:
        """What the base is given for a batch; raises what `SoftPromptModel.inputs` and `slots` raise."""
        laid = super().inputs(input_ids, attention_mask, labels)
        order = self.order(input_ids, attention_mask)
        mask = laid.attention_mask.gather(1, order)
        embeddings = laid.inputs_embeds.gather(1, order[..., None].expand(-1, -1, laid.inputs_embeds.shape[2]))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return Inputs(embeddings, mask, positions, None if labels is None else placed_labels(labels, order))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **options: Any) -> Any:
        """Loss as the base gives it; logits (batch, seq, vocabulary): for each token of the text, those of the next *token*.

        Where virtual tokens follow a token, the next token is predicted from the last of them.
        """
        output = super().forward(input_ids, attention_mask, labels, **options)
        order = self.order(input_ids, attention_mask)
        places = order.argsort(dim=1)[:, -input_ids.shape[1] :]  # where each token of the text is read, (batch, seq)
        end = torch.full_like(places[:, :1], order.shape[1])
        before_next = torch.cat([places[:, 1:], end], dim=1) - 1
        output.logits = output.logits.gather(1, before_next[..., None].expand(-1, -1, output.logits.shape[2]))
        return output


def add_prompt(base: PreTrainedModel, template: Template, settings: EncoderSettings, anchor: int, *, seed: int) -> TemplateModel:
    """Freeze a model and put a fresh prompt into its texts; only table and encoder are trained afterwards.

    Raises:
        ValueError: the template leaves the text no room in the model's context.
    """
    context = base.config.max_position_embeddings
    if template.virtual_tokens >= context:
        msg = f"{template.virtual_tokens} virtual tokens leave no room for text: the model has {context} positions"
        raise ValueError(msg)
    hidden = base.get_input_embeddings().weight.shape[1]
    return TemplateModel(base, PromptEncoder(template, settings, hidden, seed=seed), anchor)
