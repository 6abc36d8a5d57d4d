"""Vectors before a text: rows, padding, prompts of different lengths, generation, and what is refused."""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor, nn

from onepiece.adaptation import distance, logits_of
from onepiece.adaptation.soft_prompt import Inputs, SoftPromptModel, Vectors, stack_prompts
from onepiece.data import IGNORED
from onepiece.evaluation import generate_batch

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])


class Fixed(nn.Module):
    """A prompt of given vectors."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.calls = 0

    def forward(self) -> Tensor:
        self.calls += 1
        return self.vectors


def in_front(prompts: Vectors, text: Vectors, labels: Tensor | None) -> Inputs:
    """The plainest layout, row by row."""
    mask = torch.cat([prompts.mask, text.mask], dim=1)
    positions = torch.tensor([[max(sum(row[: place + 1]) - 1, 0) for place in range(len(row))] for row in mask.tolist()])
    if labels is not None:
        labels = torch.cat([torch.full(prompts.mask.shape, IGNORED), labels], dim=1)
    return Inputs(torch.cat([prompts.embeddings, text.embeddings], dim=1), mask, positions, labels)


def prompt_of(*token_ids: int) -> Fixed:
    """The embeddings of real tokens, so that the tokens themselves are the oracle."""
    table = small_models.random_model().get_input_embeddings().weight
    return Fixed(table[torch.tensor(token_ids)].detach().clone())


def with_prompt(*token_ids: int) -> SoftPromptModel:
    return SoftPromptModel(small_models.random_model(), prompt_of(*token_ids), in_front)


def test_embeddings_of_words_do_what_the_words_do() -> None:
    model = with_prompt(20, 21, 22)
    words = torch.tensor([[20, 21, 22]]).expand(2, -1)
    asked = {"input_ids": torch.cat([words, IDS], dim=1), "attention_mask": torch.cat([torch.ones_like(words), MASK], dim=1)}
    base = small_models.random_model()
    wanted = base(**asked).logits[:, 3:][MASK.bool()]
    assert distance(logits_of(model, {"input_ids": IDS, "attention_mask": MASK}), wanted) < 1e-6
    labels = IDS.masked_fill(MASK == 0, IGNORED)
    counted = torch.cat([torch.full_like(words, IGNORED), labels], dim=1)
    assert float(model(IDS, MASK, labels).loss) == pytest.approx(float(base(**asked, labels=counted).loss), abs=1e-6)


def test_only_the_prompt_gets_a_gradient_and_the_base_is_frozen() -> None:
    model = with_prompt(20, 21)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["prompt.vectors"]
    model(IDS, MASK, IDS).loss.backward()
    assert float(model.prompt.vectors.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in model.base.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_logit(side: str) -> None:
    model = with_prompt(20, 21, 22)
    alone = logits_of(model, {"input_ids": IDS[1:, :4]})
    padding = torch.full((1, 3), small_models.tokenizer().pad_token_id)
    parts = [padding, IDS[1:, :4]] if side == "left" else [IDS[1:, :4], padding]
    mask = [torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)]
    padded = {"input_ids": torch.cat(parts, dim=1), "attention_mask": torch.cat(mask if side == "left" else mask[::-1], dim=1)}
    assert distance(logits_of(model, padded), alone) < 1e-6


def test_answers_of_a_padded_batch_are_those_of_one_at_a_time() -> None:
    model, tokenizer = with_prompt(20, 21, 22), small_models.tokenizer()
    texts = [f"<|bos|>{text}" for text in ("27 + 15 →", "1 + 2 + 3 + 4 + 5 →", "Review: the film was bad →")]
    together = generate_batch(model, tokenizer, texts, max_new_tokens=6)
    alone = [generate_batch(model, tokenizer, [text], max_new_tokens=6)[0] for text in texts]
    assert together == alone
    base = small_models.random_model()
    words = tokenizer.decode([20, 21, 22])
    in_text = torch.tensor([[20, 21, 22, *tokenizer(texts[0], add_special_tokens=False)["input_ids"]]])
    new = base.generate(in_text, attention_mask=torch.ones_like(in_text), max_new_tokens=6, do_sample=False)[0, in_text.shape[1] :]
    assert tokenizer.decode(new, skip_special_tokens=True).strip() == alone[0], words


def test_rows_of_a_batch_may_have_prompts_of_their_own_and_of_other_lengths() -> None:
    model, short, long = with_prompt(20), prompt_of(30, 31), prompt_of(40, 41, 42, 43)
    rows = {"input_ids": IDS[:, :4]}
    with model.using([short, long]):
        together = logits_of(model, rows)
    for place, prompt in enumerate((short, long)):
        with model.using([prompt]):
            alone = logits_of(model, {"input_ids": IDS[place : place + 1, :4]})
        assert distance(together[4 * place : 4 * place + 4], alone) < 1e-6
    with model.using([long, short]):
        assert distance(logits_of(model, rows), together) > 1e-2
    with model.using([short]):
        alone = logits_of(model, {"input_ids": IDS[:1, :4]})
    assert distance(logits_of(model, {"input_ids": IDS[:1, :4]}), alone) > 1e-2, "afterwards it has its own prompt again"


def test_a_prompt_that_several_rows_read_is_made_once() -> None:
    model = with_prompt(20, 21)
    model.prompt.calls = 0
    logits_of(model, {"input_ids": IDS})
    assert model.prompt.calls == 1


def test_shorter_prompts_are_padded_in_front() -> None:
    stacked = stack_prompts([torch.ones(1, 2), torch.full((3, 2), 2.0)])
    assert stacked.mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert stacked.embeddings[0].tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one vector"):
        stack_prompts([])
    with pytest.raises(ValueError, match="at least one vector"):
        stack_prompts([torch.ones(0, 2)])
    model = with_prompt(20, 21)
    with model.using([model.prompt] * 3), pytest.raises(ValueError, match="3 prompts cannot be those of 2 rows"):
        model(IDS)
    with pytest.raises(ValueError, match="257 positions, the model has 256"):
        model(torch.full((1, 255), 5))
