"""Prefix tuning of lab 1.1.4: attention written out in float64 as the oracle, and peft beside it."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from lab_modules import lab_modules
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig

from onepiece.adaptation import (
    CONFIG,
    WEIGHTS,
    changed_tensors,
    distance,
    in_peft,
    logits_of,
    out_of_peft,
    read_tensors,
    tensor_hashes,
    traced,
)
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel
from onepiece.data import IGNORED
from onepiece.models import load_model, meta_model
from onepiece.serving.model_with_code import save_with_code
from onepiece.training import History, train

prefix_tuning, prefix_files, broken_variants, attention_share, attention_mass, model_with_prefix = lab_modules(
    "lab-1.1.4-prefix-tuning", "prefix_tuning", "prefix_files", "broken_variants", "attention_share", "attention_mass", "model_with_prefix"
)
PrefixSettings = prefix_tuning.PrefixSettings

SHAPE = CacheShape(layers=2, kv_heads=1, head_dim=16)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS.masked_fill(MASK == 0, IGNORED)}  # padding has no position in peft


def model_with(virtual: int = 3, encoder: int = 0, *, seed: int = 0) -> PrefixModel:
    return prefix_tuning.add_prefix(small_models.random_model(), PrefixSettings(virtual, encoder), seed=seed)


def training(model: nn.Module) -> History:
    return train(model, lambda number: BATCH, steps=4, learning_rate=1e-2, seed=0, progress=False)


def write(model: PrefixModel, directory: Path) -> None:
    prefix_files.save_prefix(model.prefix, directory, "random")


def test_attention_with_a_prefix_is_a_gate_between_the_text_and_the_prefix() -> None:
    generator = torch.Generator().manual_seed(1)
    query, text, prefix = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((1, 8), (5, 2, 8), (3, 2, 8)))

    def attend(*sides: Tensor) -> Tensor:
        keys, values = (torch.cat([side[:, kind] for side in sides]) for kind in (0, 1))
        return (query @ keys.T).softmax(dim=-1) @ values

    share = attention_share.prefix_share(query @ text[:, 0].T, query @ prefix[:, 0].T)
    torch.testing.assert_close((1 - share) * attend(text) + share * attend(prefix), attend(text, prefix), rtol=1e-12, atol=1e-12)
    assert attention_share.prefix_share(torch.tensor([900.0, 0.0]), torch.tensor([900.0])).item() == pytest.approx(0.5)


def test_zeros_take_the_share_that_the_formula_says_and_zero_tokens_would_take_none() -> None:
    base = small_models.random_model()
    zeros = prefix_tuning.DirectPrefix(torch.zeros(4, SHAPE.numbers), SHAPE)
    scores = attention_mass.text_scores(base, IDS)
    measured = attention_mass.measured_share(base, PrefixModel(base, zeros), IDS)
    formula = attention_share.prefix_share(scores, scores.new_zeros(*scores.shape[:-1], 4))
    torch.testing.assert_close(measured, formula, rtol=0, atol=1e-5)
    assert measured.min() > 0.01
    by_head = attention_mass.shares_by_head(PrefixModel(base, zeros), BATCH)
    assert by_head.shape == (2, 2)
    real = BATCH["attention_mask"].bool()
    of_first = formula.transpose(1, 2)[real].mean(dim=0)  # (batch, heads, seq) -> (tokens, heads) -> (heads,)
    torch.testing.assert_close(by_head[0].double(), of_first, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", [0, 5])
def test_the_count_is_that_of_what_is_trained_and_stored(encoder: int) -> None:
    model, settings = model_with(3, encoder), PrefixSettings(3, encoder)
    stored, trained = prefix_tuning.prefix_parameter_count(SHAPE, settings)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == trained
    assert prefix_tuning.exported(model.prefix).rows.numel() == stored
    assert broken_variants.broken_count(SHAPE, settings, None) == (stored, trained)


def test_a_model_whose_heads_share_keys_needs_a_smaller_prefix() -> None:
    config = LlamaConfig(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8)
    shape = CacheShape.of(meta_model(config).config)
    assert prefix_tuning.prefix_parameter_count(shape, PrefixSettings(16)) == (2_621_440, 2_621_440)
    assert broken_variants.hidden_size_count(config, 16) == 8 * 2_621_440


@pytest.mark.parametrize("encoder", [0, 5])
def test_four_steps_are_those_of_peft_and_values_before_keys_are_another_method(encoder: int) -> None:
    model = model_with(3, encoder)
    peft_model = prefix_files.trainable_in_peft(small_models.random_model(), model.prefix)
    wanted = traced(peft_model, training, BATCH)
    own = traced(model, training, BATCH).apart_from(wanted)
    assert max(own.before, own.loss, own.after) < 1e-5
    swapped = PrefixModel(small_models.random_model(), broken_variants.ValuesFirst(prefix_tuning.exported(model_with().prefix).rows, SHAPE))
    assert traced(swapped, training, BATCH).apart_from(wanted).loss > 1e-3


def test_training_leaves_the_base_as_it_was_to_the_bit() -> None:
    model, frozen = model_with(), tensor_hashes(small_models.random_model())
    training(model)
    assert changed_tensors(frozen, tensor_hashes(model.base)) == []


def test_a_prefix_of_a_text_is_the_text_and_is_trained_from_there() -> None:
    base, before = small_models.random_model(), [7, 8, 9]
    model = prefix_tuning.add_prefix(base, PrefixSettings(3), token_ids=before)
    whole = torch.cat([torch.tensor([before]), IDS[:1]], dim=1)
    assert distance(logits_of(model, {"input_ids": IDS[:1]}), base(whole).logits[0, 3:].detach()) < 1e-5
    losses = training(model).losses
    assert losses[-1] < losses[0]


def test_a_prefix_leaves_the_proportions_of_the_first_layer_as_they_were() -> None:
    base = small_models.random_model()
    change = attention_mass.pattern_change(model_with(3), base, BATCH)
    assert change[0] < 1e-6
    assert change[1] > 1e-3


def test_without_its_encoder_a_prefix_is_the_same_and_shares_no_memory_with_it() -> None:
    model = model_with(3, 5)
    training(model)
    plain = prefix_tuning.exported(model.prefix)
    assert torch.equal(plain(), model.prefix())
    torch.testing.assert_close(plain.rows.detach(), broken_variants.broken_rows(model.prefix, None).detach())
    nn.init.zeros_(model.prefix.embedding.weight)
    assert not torch.equal(plain(), model.prefix())
    assert distance(broken_variants.another_encoder(model_with(3, 5).prefix, seed=9)(), plain()) > 1e-2


@pytest.mark.parametrize("encoder", [0, 5])
def test_both_read_the_files_of_the_other(encoder: int) -> None:
    model = model_with(3, encoder)
    peft_model = in_peft(small_models.random_model(), functools.partial(write, model))
    assert distance(logits_of(peft_model, BATCH), logits_of(model, BATCH)) < 1e-5
    again = out_of_peft(peft_model, functools.partial(prefix_files.load_prefix, small_models.random_model()))
    assert torch.equal(again.prefix(), model.prefix())


def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"something": tensors["prompt_embeddings"]}


WRONG_FILES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "another method": ({"peft_type": "PROMPT_TUNING"}, dict, "not plain prefix tuning"),
    "a missing tensor": ({}, without, "a prefix is one tensor, prompt_embeddings"),
    "another length": ({"num_virtual_tokens": 4}, dict, "says 4 virtual tokens, and its file has 3"),
    "no length": ({"num_virtual_tokens": 0}, dict, "says 0 virtual tokens"),
    "another width": ({}, lambda tensors: {"prompt_embeddings": tensors["prompt_embeddings"][:, :32].clone()}, "made for another model"),
    "other heads": ({"num_attention_heads": 2}, dict, "num_attention_heads is 2, and this one has 1"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_is_no_prefix_for_this_model_is_refused(tmp_path: Path, wrong: str) -> None:
    changes, edit, said = WRONG_FILES[wrong]
    write(model_with(), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(edit(read_tensors(tmp_path)), tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=said):
        prefix_files.load_prefix(small_models.random_model(), tmp_path)


def test_settings_that_make_no_sense_are_refused_in_words() -> None:
    base = small_models.random_model()
    for settings, said in (((0,), "at least 1 virtual token"), ((3, -1), "width of a hidden layer")):
        with pytest.raises(ValueError, match=said):
            PrefixSettings(*settings)
    with pytest.raises(ValueError, match="leaves no room for text: the model has 256 positions"):
        prefix_tuning.add_prefix(base, PrefixSettings(256))
    with pytest.raises(ValueError, match="a text of 2 tokens is no start"):
        prefix_tuning.add_prefix(base, PrefixSettings(3), token_ids=[1, 2])
    with pytest.raises(ValueError, match="empty text"):
        prefix_tuning.rows_of_text(base, [])
    room = {"requests": 2, "tokens": 5, "number_bytes": 4}
    with pytest.raises(ValueError, match=r"take 2,560 bytes, and there are 100"):
        prefix_tuning.longest_prefix(SHAPE, room=100, shared=True, **room)


def test_a_model_with_its_prefix_is_saved_and_loaded_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    model = prefix_tuning.add_prefix(load_model("tiny", device="cpu", dtype=torch.float32)[0], PrefixSettings(3), seed=0)
    whole = model_with_prefix.with_prefix(model.base, model.prefix())
    assert torch.equal(logits_of(whole, BATCH), logits_of(model, BATCH))
    monkeypatch.setitem(sys.modules, model_with_prefix.__name__, model_with_prefix)  # Transformers looks for its file there
    save_with_code(whole, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(logits_of(again, BATCH), logits_of(model, BATCH))
    greedy = {"max_new_tokens": 5, "do_sample": False}
    ids, mask = IDS.flip(1), MASK.flip(1)  # padded on the left
    assert torch.equal(again.generate(ids, attention_mask=mask, **greedy), model.generate(ids, mask, **greedy))
    with pytest.raises(ValueError, match="gpt_neox is none of llama, qwen2"):
        model_with_prefix.with_prefix(small_models.random_model(small_models.gpt_neox_config()), model.prefix())
