"""LoRA of lab 1.1.1: a dense matrix instead of two thin ones as the oracle, and peft beside it."""

from __future__ import annotations

import copy
import functools
import json
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

from onepiece.adaptation import (
    ALL_LINEAR,
    CONFIG,
    WEIGHTS,
    changed_tensors,
    distance,
    in_peft,
    linear_shapes,
    logits_of,
    out_of_peft,
    read_tensors,
    tensor_hashes,
    traced,
)
from onepiece.training import History, train

lora, lora_files, broken_variants = lab_modules("lab-1.1.1-lora", "lora", "lora_files", "broken_variants")

SETTINGS = lora.LoraSettings(rank=3, alpha=7.0, targets=ALL_LINEAR)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "labels": IDS}


def adapted(*, seed: int = 0, random_b: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small random Llama with LoRA in all its linear layers; with `random_b` as after some training."""
    model = small_models.random_model().to(dtype)
    lora.add_lora(model, SETTINGS, seed=seed)
    if random_b:
        generator = torch.Generator().manual_seed(seed + 1)
        for layer in lora.lora_layers(model).values():
            layer.lora_b.data.copy_(torch.randn(layer.lora_b.shape, generator=generator) / 10)
    return model.to(dtype)


def dense(model: nn.Module) -> nn.Module:
    """The oracle: the same model with plain matrices W + scale * (b_1 a_1^T + ... + b_r a_r^T), a sum of outer products."""
    plain = small_models.random_model().to(model.dtype)
    for name, layer in lora.lora_layers(model).items():
        update = sum(torch.outer(column, row) for column, row in zip(layer.lora_b.T, layer.lora_a, strict=True))
        plain.get_submodule(name).weight.data += SETTINGS.alpha / SETTINGS.rank * update.detach()
    return plain


def loss(model: nn.Module) -> Tensor:
    """Cross-entropy of the next token in the unpadded row."""
    logits = model(input_ids=IDS[:1]).logits[0, :-1]
    return cross_entropy(logits, IDS[0, 1:])


def test_the_adapted_model_computes_what_dense_matrices_do() -> None:
    model = adapted(random_b=True, dtype=torch.float64)
    assert distance(logits_of(model, BATCH), logits_of(dense(model), BATCH)) < 1e-12
    assert distance(logits_of(model, BATCH), logits_of(small_models.random_model().double(), BATCH)) > 1e-2


def test_its_gradients_are_those_of_the_dense_matrices_by_the_chain_rule() -> None:
    model = adapted(random_b=True, dtype=torch.float64)
    plain, scale = dense(model), SETTINGS.alpha / SETTINGS.rank
    loss(model).backward()
    loss(plain).backward()
    for name, layer in lora.lora_layers(model).items():
        of_weight = plain.get_submodule(name).weight.grad  # (out, in)
        torch.testing.assert_close(layer.lora_a.grad, scale * torch.einsum("or,oi->ri", layer.lora_b, of_weight), rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(layer.lora_b.grad, scale * torch.einsum("ri,oi->or", layer.lora_a, of_weight), rtol=1e-9, atol=1e-14)


def test_the_count_is_that_of_what_is_trained_and_a_fresh_adapter_changes_nothing() -> None:
    model = adapted()
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained)
    assert sum(trained.values()) == lora.lora_parameter_count(small_models.random_model(), SETTINGS)
    assert torch.equal(logits_of(model, BATCH), logits_of(small_models.random_model(), BATCH))


def training(model: nn.Module) -> History:
    return train(model, lambda number: BATCH, steps=4, learning_rate=1e-2, seed=0, progress=False)


def write(model: nn.Module, directory: Path) -> None:
    lora_files.save_adapter(model, SETTINGS, directory, "random")


def test_four_steps_are_those_of_peft_and_twice_the_scale_is_another_method() -> None:
    peft_model = in_peft(small_models.random_model(), functools.partial(write, adapted()), trainable=True)
    wanted = traced(peft_model, training, BATCH)
    own = traced(adapted(), training, BATCH).apart_from(wanted)
    assert own.before == 0
    assert max(own.loss, own.after) < 1e-5
    double = adapted()
    lora.set_scaling(double, 2 * SETTINGS.scaling)
    wrong = traced(double, training, BATCH).apart_from(wanted)
    assert min(wrong.loss, wrong.after) > 1e-3


def test_training_leaves_the_base_as_it_was_to_the_bit() -> None:
    def base_name(name: str) -> str | None:
        return None if "lora_" in name else name.replace(".base.", ".")

    model, frozen = adapted(), tensor_hashes(small_models.random_model())
    training(model)
    assert changed_tensors(frozen, tensor_hashes(model, base_name)) == []
    merged = tensor_hashes(lora.merge_lora(model))
    assert set(changed_tensors(frozen, merged)) == {f"{name}.weight" for name in lora.lora_layers(model)}


def test_both_read_the_files_of_the_other() -> None:
    model = adapted(random_b=True)
    peft_model = in_peft(small_models.random_model(), functools.partial(write, model))
    assert distance(logits_of(peft_model, BATCH), logits_of(model, BATCH)) < 1e-5
    again = small_models.random_model()
    settings = out_of_peft(peft_model, functools.partial(lora_files.load_adapter, again, name="again"))
    assert (settings.rank, settings.alpha, settings.targets) == (3, 7.0, tuple(sorted(ALL_LINEAR)))
    assert torch.equal(logits_of(again, BATCH), logits_of(model, BATCH))


def test_an_adapter_of_another_model_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    write(adapted(), tmp_path)
    other = small_models.random_model(small_models.llama_config(intermediate_size=40))
    before = tensor_hashes(other)
    with pytest.raises(ValueError, match=r"made for another model: A of .*down_proj is"):
        lora_files.load_adapter(other, tmp_path, name="other")
    assert tensor_hashes(other) == before
    assert not lora.lora_layers(other)
    with pytest.raises(ValueError, match="this one has no linear layer model"):
        lora_files.load_adapter(small_models.random_model(small_models.gpt_neox_config()), tmp_path, name="other")


def without(*endings: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """An edit of the tensors in a file: those that end so are left out."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.endswith(endings)}


def with_rank(rank: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Every A and B cut to another rank than the configuration has."""
    return lambda tensors: {name: (tensor[:rank] if "lora_A" in name else tensor[:, :rank]).clone() for name, tensor in tensors.items()}


FIRST = "model.layers.0.self_attn.q_proj"
WRONG_FILES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "something beside LoRA": (
        {},
        lambda tensors: tensors | {"base_model.model.lm_head.weight": torch.ones(2, 2)},
        "has a tensor .*lm_head",
    ),
    "no B": ({}, without(f"{FIRST}.lora_B.weight"), f"{FIRST} has no lora_B"),
    "a layer without tensors": ({}, without(f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"), f"targets {FIRST}, and its file has no"),
    "tensors of a layer that is not targeted": ({"target_modules": ["q_proj"]}, dict, "which its configuration does not target"),
    "another rank": ({}, with_rank(2), "says rank 3, but A of .* has rank 2"),
    "another rank in the configuration": ({"r": 5}, dict, "says rank 5, but A of .* has rank 3"),
    "weights that are no layer's": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, dict, "target_parameters"),
    "DoRA": ({"use_dora": True}, dict, "use_dora"),
    "aLoRA": ({"alora_invocation_tokens": [5]}, dict, "alora_invocation_tokens"),
    "ranks by layer": ({"rank_pattern": {"q_proj": 2}}, dict, "rank_pattern"),
    "some layers only": ({"layers_to_transform": [0]}, dict, "layers_to_transform"),
    "a pattern of names": ({"target_modules": ".*_proj"}, dict, "not a list of names"),
    "no names": ({"target_modules": None}, dict, "not a list of names"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, dict, "changes the base's weights"),
    "another method": ({"peft_type": "LOHA"}, dict, "peft_type"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_is_not_plain_lora_is_refused_before_anything_is_changed(tmp_path: Path, wrong: str) -> None:
    changes, edit, said = WRONG_FILES[wrong]
    write(adapted(random_b=True), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(edit(read_tensors(tmp_path)), tmp_path / WEIGHTS)
    model = small_models.random_model()
    before, trainable = tensor_hashes(model), [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(ValueError, match=said):
        lora_files.load_adapter(model, tmp_path, name="wrong")
    assert (tensor_hashes(model), [weight.requires_grad for weight in model.parameters()]) == (before, trainable)
    assert not lora.lora_layers(model)


def test_keys_that_are_left_out_have_the_defaults_of_peft(tmp_path: Path) -> None:
    from peft import LoraConfig

    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}), encoding="utf-8")
    defaults = LoraConfig()
    assert lora_files.read_settings(tmp_path) == lora.LoraSettings(defaults.r, defaults.lora_alpha, ("q_proj",))


def test_what_peft_writes_of_a_plain_lora_is_plain_whatever_its_start(tmp_path: Path) -> None:
    from peft import LoraConfig

    for start in (True, False, "gaussian", "orthogonal"):
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start).save_pretrained(tmp_path)
        assert lora_files.read_settings(tmp_path).rank == 2


@pytest.mark.parametrize("config", [small_models.llama_config, small_models.gpt_neox_config])
def test_a_merged_model_has_plain_layers_and_the_same_logits(config: Any) -> None:
    model = small_models.random_model(config()).double()
    targets = tuple({name.rpartition(".")[2] for name in linear_shapes(model)} - {"lm_head", "embed_out"})
    lora.add_lora(model, lora.LoraSettings(2, 4.0, targets), seed=0)
    for layer in lora.lora_layers(model.double()).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    unchanged = copy.deepcopy(model.state_dict())
    merged = lora.merge_lora(model)
    assert not lora.lora_layers(merged)
    assert distance(logits_of(merged, BATCH), logits_of(model, BATCH)) < 1e-12
    assert all(torch.equal(tensor, unchanged[name]) for name, tensor in model.state_dict().items())
    wrong = broken_variants.broken_merge(model, lora.LoraSettings(2, 4.0, targets), "alpha_alone")
    assert distance(logits_of(wrong, BATCH), logits_of(model, BATCH)) > 1e-2
