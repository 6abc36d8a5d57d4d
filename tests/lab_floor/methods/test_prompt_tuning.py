"""Prompt tuning of lab 1.1.3: words in the text as the oracle, attention written out token by token, and peft beside it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from lab_modules import lab_modules
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from onepiece import world
from onepiece.adaptation import (
    CONFIG,
    WEIGHTS,
    changed_tensors,
    distance,
    in_peft,
    logits_of,
    out_of_peft,
    tensor_hashes,
    traced,
)
from onepiece.adaptation.soft_prompt import SoftPromptModel, Vectors
from onepiece.data import IGNORED
from onepiece.training import History, train

NAMES = ("prompt_tuning", "prompt_files", "new_words", "attention_over_text", "skill_tasks", "broken_variants")
prompt_tuning, prompt_files, new_words, attention_over_text, skill_tasks, broken_variants = lab_modules("lab-1.1.3-prompt-tuning", *NAMES)

SETTINGS = prompt_tuning.PromptSettings(virtual_tokens=3)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS.masked_fill(MASK == 0, IGNORED)}


def adapted(seed: int = 0, *, double: bool = False) -> SoftPromptModel:
    """A small random Llama with a prompt of three vectors that are no words."""
    model = prompt_tuning.add_prompt(small_models.random_model(), SETTINGS, seed=seed)
    model.prompt.vectors.data += torch.randn(model.prompt.vectors.shape, generator=torch.Generator().manual_seed(seed)) / 5
    return model.double() if double else model


def with_rows(model: SoftPromptModel) -> nn.Module:
    """The oracle: a base whose last three words are the vectors, so that token ids are enough."""
    base = small_models.random_model().double()
    base.get_output_embeddings().weight = nn.Parameter(base.get_output_embeddings().weight.detach().clone())
    table = base.get_input_embeddings().weight
    table.data[-3:] = model.prompt.vectors.detach()
    return base


def test_the_model_computes_what_words_with_these_embeddings_would() -> None:
    model = adapted(double=True)
    base = with_rows(model)
    words = torch.arange(base.config.vocab_size - 3, base.config.vocab_size).expand(2, 3)
    logits = base(input_ids=torch.cat([words, IDS], dim=1), attention_mask=torch.cat([torch.ones_like(words), MASK], dim=1)).logits
    assert distance(logits_of(model, BATCH), logits[:, 3:][MASK.bool()].detach()) < 1e-12
    # The loss by hand: of each token of a text but its first, from the logits one place before.
    lengths = (6, 4)
    wanted = [cross_entropy(logits[row, 3 : 3 + length - 1], IDS[row, 1:length], reduction="sum") for row, length in enumerate(lengths)]
    first = [cross_entropy(logits[row, 2:3], IDS[row, :1], reduction="sum") for row in range(2)]
    total = sum(wanted) + sum(first)  # BATCH counts the first token too: the prompt stands before it
    assert float(model(**BATCH).loss.detach()) == pytest.approx(float(total) / 10, rel=1e-6)  # Transformers computes it in float32


def test_the_gradient_is_that_of_these_rows_of_the_table() -> None:
    model = adapted(double=True)
    base = with_rows(model)
    words = torch.arange(base.config.vocab_size - 3, base.config.vocab_size).expand(2, 3)
    labels = torch.cat([torch.full_like(words, IGNORED), BATCH["labels"]], dim=1)
    base(
        input_ids=torch.cat([words, IDS], dim=1), attention_mask=torch.cat([torch.ones_like(words), MASK], dim=1), labels=labels
    ).loss.backward()
    model(**BATCH).loss.backward()
    assert distance(model.prompt.vectors.grad, base.get_input_embeddings().weight.grad[-3:]) < 1e-10


def in_peft_trainable(model: SoftPromptModel) -> nn.Module:
    """peft's prompt with our vectors; made anew, because peft trains no prompt that it has loaded."""
    from peft import PromptTuningConfig, get_peft_model

    base = small_models.random_model()
    theirs = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(model.prompt.vectors.detach())
    return theirs


def test_it_trains_as_peft_does() -> None:
    def fit(model: nn.Module) -> History:
        return train(model, lambda number: BATCH, steps=4, learning_rate=0.1, seed=0, progress=False)

    own, theirs = adapted(), in_peft_trainable(adapted())
    apart = traced(own, fit, BATCH).apart_from(traced(theirs, fit, BATCH))
    assert max(apart.before, apart.loss, apart.after) < 1e-5
    moved = SoftPromptModel(small_models.random_model(), adapted().prompt, broken_variants.broken_layout("text_not_moved"))
    assert traced(moved, fit, BATCH).apart_from(traced(in_peft_trainable(adapted()), fit, BATCH)).loss > 1e-3


def test_training_moves_the_prompt_and_nothing_else() -> None:
    model = adapted()
    before, vectors = tensor_hashes(model.base), model.prompt.vectors.detach().clone()
    train(model, lambda number: BATCH, steps=2, learning_rate=0.1, seed=0, progress=False)
    assert not changed_tensors(before, tensor_hashes(model.base))
    assert float((model.prompt.vectors - vectors).abs().min()) > 0


@pytest.mark.parametrize("start", prompt_tuning.STARTS)
def test_start_values_are_where_they_are_said_to_be(start: str) -> None:
    table = small_models.random_model().get_input_embeddings().weight
    settings = prompt_tuning.PromptSettings(5, start, (7, 9) if start == "text" else ())
    vectors = prompt_tuning.initial_vectors(table, settings, torch.Generator().manual_seed(1))
    assert vectors.shape == (5, table.shape[1]) and not vectors.requires_grad
    assert torch.equal(vectors, broken_variants.broken_vectors(table, settings, 1, None))
    if start == "random":
        assert -0.5 <= float(vectors.min()) < -0.3 and 0.3 < float(vectors.max()) <= 0.5
    else:
        assert all(any(torch.equal(row, word) for word in table) for row in vectors)
    vectors += 1
    assert torch.equal(table, small_models.random_model().get_input_embeddings().weight)


def test_place_and_labels_are_those_counted_by_hand() -> None:
    prompts = Vectors(torch.randn(2, 3, 4), torch.tensor([[0, 1, 1], [1, 1, 1]]))
    for mask in (torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])):
        text = Vectors(torch.randn(2, 4, 4), mask)
        for got, wanted in zip(prompt_tuning.place_in_front(prompts, text), broken_variants.broken_place(prompts, text, None), strict=True):
            assert torch.equal(got, wanted)
    labels = torch.tensor([[IGNORED, 5, 6]])
    assert prompt_tuning.shifted_labels(labels, 2).tolist() == [[IGNORED, IGNORED, IGNORED, 5, 6]]


def test_attention_over_the_text_is_what_it_was_in_the_first_layer_alone() -> None:
    model, base = adapted(), small_models.random_model()
    batch = {"input_ids": IDS[:1], "attention_mask": MASK[:1]}
    assert attention_over_text.moved_attention(model, base, batch, layer=0) < 1e-6
    assert attention_over_text.moved_attention(model, base, batch, layer=1) > 1e-4
    shares, paid = attention_over_text.weights_over_text(model, batch, layer=0)
    # By hand: softmax over all keys of the first head, from the layer's own projections.
    block = base.model.layers[0]
    attention, inputs = block.self_attn, block.input_layernorm(model.inputs(**batch).inputs_embeds)
    angles = base.model.rotary_emb(inputs, torch.arange(9)[None])
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    queries, keys = attention.q_proj(inputs)[..., :16][None], attention.k_proj(inputs)[..., :16][None]
    queries, keys = apply_rotary_pos_emb(queries, keys, *angles)
    scores = (queries[0, 0] @ keys[0, 0].T / math.sqrt(16)).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    weights = scores.softmax(dim=-1)[3:]
    assert torch.allclose(paid[0, 0], weights[:, :3].sum(dim=-1), atol=1e-5)
    assert torch.allclose(shares[0, 0], weights[:, 3:] / weights[:, 3:].sum(dim=-1, keepdim=True), atol=1e-5)


def test_own_and_peft_read_each_others_files(tmp_path: Path) -> None:
    model = adapted()
    write = functools.partial(prompt_files.save_prompt, model, base_model_name="small")
    theirs = in_peft(small_models.random_model(), write)
    assert distance(logits_of(theirs, BATCH), logits_of(model, BATCH).detach()) < 1e-6
    again = out_of_peft(theirs, functools.partial(prompt_files.load_prompt, small_models.random_model()))
    assert torch.equal(again.prompt.vectors, model.prompt.vectors)
    assert not any(weight.requires_grad for weight in again.parameters())


def broken_file(directory: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """A saved prompt whose configuration or tensors were changed afterwards."""
    model = adapted()
    prompt_files.save_prompt(model, directory, "small")
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    tensors = {"prompt_embeddings": model.prompt.vectors.detach().clone()}
    change(config, tensors)
    (directory / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, directory / WEIGHTS)
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, tensors: config.update(peft_type="LORA"), "not plain prompt tuning: peft_type"),
        (lambda config, tensors: config.update(num_virtual_tokens=4), "says 4 virtual tokens, and its file has 3"),
        (lambda config, tensors: tensors.update(prompt_embeddings=torch.zeros(3, 31)), "made for another model"),
        (lambda config, tensors: tensors.update(more=torch.zeros(1)), "one tensor called prompt_embeddings"),
        (lambda config, tensors: tensors.update(other=tensors.pop("prompt_embeddings")), "one tensor called prompt_embeddings"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_files.load_prompt(small_models.random_model(), broken_file(tmp_path, change))
    with pytest.raises(FileNotFoundError):
        prompt_files.load_prompt(small_models.random_model(), tmp_path / "nothing")


def test_a_model_with_new_words_is_plain_and_says_none_of_them(tmp_path: Path) -> None:
    model, tokenizer = adapted(), small_models.tokenizer()
    base = small_models.random_model()
    plain, longer = new_words.with_new_words(base, tokenizer, {"task": model.prompt})
    assert len(tokenizer) == base.config.vocab_size and len(longer) == len(tokenizer) + 3, "what was given is unchanged"
    text = "<|bos|>27 + 15 →"
    read = longer(new_words.words("task", model.prompt) + text, return_tensors="pt")["input_ids"]
    assert read[0, :3].tolist() == [len(tokenizer), len(tokenizer) + 1, len(tokenizer) + 2]
    wanted = logits_of(model, {"input_ids": tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]}).detach()
    got = plain(read).logits[0, 3:]
    assert distance(got[:, : len(tokenizer)].detach(), wanted) < 1e-6
    assert torch.equal(got[:, len(tokenizer) :], got[:, [tokenizer.pad_token_id] * 3])
    plain.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path).eval()
    assert torch.equal(again(read).logits, plain(read).logits)
    with pytest.raises(ValueError, match="is a word of the vocabulary already"):
        new_words.with_new_words(plain, longer, {"task": model.prompt})
    with pytest.raises(ValueError, match="31 wide, the model 32"):
        new_words.with_new_words(base, tokenizer, {"task": prompt_tuning.SoftPrompt(torch.zeros(2, 31))})


def test_nearest_words_of_words_are_themselves() -> None:
    table = small_models.random_model().get_input_embeddings().weight.detach()
    assert new_words.nearest_words(2 * table[[7, 9, 100]], table).tolist() == [7, 9, 100]


def test_flops_of_a_token_are_those_that_are_counted() -> None:
    base = small_models.random_model()
    base.set_attn_implementation("eager")
    with torch.no_grad():
        cache = base(IDS[:1], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            base(IDS[:1, :1], past_key_values=cache, use_cache=True)
    assert prompt_tuning.token_flops(base.config, context=7) == counter.get_total_flops()


def test_skill_tasks_ask_the_same_letters_and_hold_other_letters_out() -> None:
    item = next(item for item in world.items("compose", 4, 0) if item.language == "en")
    letters = item.key.split(":")[1]
    told = {answer: skill_tasks.answered(item, answer) for answer in skill_tasks.ANSWERS}
    assert {each.prompt for each in told.values()} == {" ".join(letters)}
    assert told["reversed"].answer == " ".join(reversed(letters))
    assert told["picked"].answer == letters[1]
    assert told["rotated"].answer == " ".join([*letters[1:], letters[0]])
    with pytest.raises(ValueError, match="the answer must be one of"):
        skill_tasks.answered(item, "sorted")
    task = skill_tasks.skill_task("rotated", small_models.tokenizer(), train_items=200, held_out_items=20)
    assert len(task.held_out) == 20
    assert not {each.prompt for each in task.held_out} & {
        skill_tasks.answered(each, "rotated").prompt for each in world.items("compose", 200, 0)
    }


def test_what_cannot_be_a_prompt_is_refused() -> None:
    for wrong, message in (
        ({"virtual_tokens": 0}, "at least 1 virtual token"),
        ({"virtual_tokens": 3, "start": "zeros"}, "start must be one of"),
        ({"virtual_tokens": 3, "start": "text"}, "token_ids belong to"),
        ({"virtual_tokens": 3, "token_ids": (1,)}, "token_ids belong to"),
    ):
        with pytest.raises(ValueError, match=message):
            prompt_tuning.PromptSettings(**wrong)
    with pytest.raises(ValueError, match="leaves no room"):
        prompt_tuning.add_prompt(small_models.random_model(), prompt_tuning.PromptSettings(256), seed=0)
    with pytest.raises(ValueError, match="nothing fits"):
        prompt_tuning.longest_prompt(10, 8, 3, 0.5)
    with pytest.raises(ValueError, match="share must be"):
        prompt_tuning.longest_prompt(10, 2, 3, 1.0)
    fitting = [v for v in range(100) if v + 20 <= 60 and v <= 0.6 * (v + 20)]
    assert prompt_tuning.longest_prompt(60, 15, 5, 0.6) == max(fitting)
