"""BitFit of lab 1.1.6: written-out sums in float64 as the oracle, a plain optimizer over named biases, and peft beside it."""

from __future__ import annotations

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
from onepiece.training import History, train

bitfit, bias_files, row_biases, equal_biases, broken_variants = lab_modules(
    "lab-1.1.6-bitfit", "bitfit", "bias_files", "row_biases", "equal_biases", "broken_variants"
)

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "labels": IDS}


def base(*, seed: int = 3, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small random GPT-NeoX; none of its biases is zero."""
    model = small_models.random_model(small_models.gpt_neox_config())
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / 5)
    return model.to(dtype)


def training(model: nn.Module) -> History:
    return train(model, lambda number: BATCH, steps=4, learning_rate=3e-2, seed=0, progress=False)


def test_the_biases_are_what_is_called_bias_and_their_count_is_the_formula() -> None:
    model = base()
    wanted = [name for name, _ in model.named_parameters() if name.endswith(".bias")]
    assert list(bitfit.bias_parameters(model)) == wanted == broken_variants.broken_names(model, None)
    config = model.config
    sizes = bitfit.Architecture(config.num_hidden_layers, config.hidden_size, config.hidden_size, config.intermediate_size)
    counted = sum(bias.numel() for bias in bitfit.bias_parameters(model).values())
    assert bitfit.bias_count(sizes) == counted == broken_variants.broken_count(model, None)
    assert broken_variants.broken_count(model, "vectors") > counted > broken_variants.broken_count(model, "no_norms")
    assert bitfit.train_biases_only(model) == counted == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_every_bias_is_of_exactly_one_kind_and_a_fused_one_is_read_as_the_model_reads_it() -> None:
    model = base(dtype=torch.float64)
    covered: dict[str, Tensor] = {}
    for masks in bitfit.masks_by_kind(model).values():
        for name, mask in masks.items():
            covered[name] = covered.get(name, torch.zeros(mask.shape, dtype=torch.int)) + mask.int()
    assert set(covered) == set(bitfit.bias_parameters(model))
    assert all(bool((count == 1).all()) for count in covered.values())
    layer = model.gpt_neox.layers[0].attention
    heads = model.config.num_attention_heads
    outputs = layer.query_key_value.bias.view(heads, 3, -1)  # as the model's own code splits them
    for third, kind in enumerate(bitfit.FUSED):
        mask = bitfit.fused_masks(heads, outputs.shape[-1])[kind]
        assert torch.equal(layer.query_key_value.bias[mask], outputs[:, third].flatten())


def test_the_steps_are_those_of_a_plain_optimizer_over_named_biases() -> None:
    own, plain = base(dtype=torch.float64), base(dtype=torch.float64)
    frozen = tensor_hashes(plain)
    bitfit.train_biases_only(own)
    training(own)
    biases = [weight for name, weight in plain.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.Adam(biases, lr=3e-2)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 3e-2 * 0.5 * (1 + torch.cos(torch.tensor(step / 4 * torch.pi, dtype=torch.float64)).item())
        logits = plain(**{key: BATCH[key] for key in ("input_ids", "attention_mask")}).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        plain.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(biases, 1.0)
        optimizer.step()
    assert distance(logits_of(own, BATCH), logits_of(plain, BATCH)) < 1e-7  # Transformers takes the loss in float32
    assert set(changed_tensors(frozen, tensor_hashes(own))) == set(bitfit.bias_parameters(own))


def test_a_part_of_a_fused_bias_is_trained_and_the_other_parts_stay() -> None:
    model, before = base(), base()
    trained = bitfit.train_biases_only(model, ["query", "last norm"])
    hidden = model.config.hidden_size
    assert trained == (model.config.num_hidden_layers + 1) * hidden
    training(model)
    for name, bias in bitfit.bias_parameters(model).items():
        moved = bias != before.get_parameter(name)
        mask = bitfit.chosen_masks(before, ["query", "last norm"]).get(name, torch.zeros_like(moved))
        assert not bool((moved & ~mask).any())
        assert bool(moved[mask].float().mean() > 0.9) if bool(mask.any()) else True


def test_weight_decay_reaches_a_gradient_of_zero_but_no_missing_one() -> None:
    for freeze, stays in ((bitfit.train_biases_only, True), (broken_variants.freeze_by_zeroing, False)):
        model = base()
        frozen = {name: value for name, value in tensor_hashes(model).items() if not name.endswith("bias")}
        freeze(model)
        train(model, lambda number: BATCH, steps=2, learning_rate=1e-2, seed=0, progress=False, weight_decay=0.1)
        assert (changed_tensors(frozen, tensor_hashes(model)) == []) is stays


def test_four_steps_are_those_of_peft_with_a_lora_of_zeros() -> None:
    model = base()
    wanted = traced(
        in_peft(base(), functools.partial(bias_files.save_biases, model, base_model_name="random"), trainable=True), training, BATCH
    )
    bitfit.train_biases_only(model)
    own = traced(model, training, BATCH).apart_from(wanted)
    assert max(own.before, own.loss, own.after) < 1e-5
    other = base()
    names = broken_variants.broken_names(other, "no_norms")
    bitfit.require_gradients(other, {name: torch.ones(other.get_parameter(name).shape, dtype=torch.bool) for name in names})
    assert traced(other, training, BATCH).apart_from(wanted).loss > 1e-4


def test_both_read_the_files_of_the_other_and_the_way_back_is_the_base_to_the_bit() -> None:
    model, plain = base(seed=5), base()
    of_base, wanted = bias_files.copied_biases(plain), logits_of(plain, BATCH)
    peft_model = in_peft(base(), functools.partial(bias_files.save_biases, model, base_model_name="random"))
    assert distance(logits_of(peft_model, BATCH), logits_of(model, BATCH)) < 1e-6
    bias_files.use_biases(plain, out_of_peft(peft_model, functools.partial(bias_files.read_biases, plain)))
    assert torch.equal(logits_of(plain, BATCH), logits_of(model, BATCH))
    bias_files.use_biases(plain, of_base)
    assert torch.equal(logits_of(plain, BATCH), wanted)


def test_constants_may_be_said_elsewhere_and_others_may_not() -> None:
    model = base(dtype=torch.float64)
    wanted = logits_of(model, BATCH)
    moved = equal_biases.said_once(model)
    assert distance(logits_of(moved, BATCH), wanted) < 1e-12
    counts = {kind: sum(int(mask.sum()) for mask in masks.values()) for kind, masks in bitfit.masks_by_kind(model).items()}
    left = equal_biases.biases_in_use(bitfit.bias_parameters(moved))
    assert left == sum(counts.values()) - counts["value"] - counts["norm before"]
    assert distance(logits_of(broken_variants.values_as_last_third(base(dtype=torch.float64)), BATCH), wanted) > 1e-3
    for block in moved.gpt_neox.layers:
        block.attention.query_key_value.bias.data.zero_()  # queries and keys are not said elsewhere
    assert distance(logits_of(moved, BATCH), wanted) > 1e-3


def test_new_biases_change_nothing_and_can_be_trained() -> None:
    llama = small_models.random_model()
    larger = bitfit.with_new_biases(llama)
    assert distance(logits_of(larger, BATCH), logits_of(llama, BATCH)) < 1e-6
    assert not bitfit.bias_parameters(llama)
    assert bitfit.train_biases_only(larger, ["query", "inside the MLP"]) > 0
    training(larger)
    assert distance(logits_of(larger, BATCH), logits_of(llama, BATCH)) > 1e-3


@torch.no_grad()
def test_a_row_of_a_mixed_batch_is_what_it_is_alone() -> None:
    model = base(dtype=torch.float64)
    of_base = bias_files.copied_biases(model)
    saved = {task: bias_files.copied_biases(base(seed=seed, dtype=torch.float64)) for task, seed in (("a", 7), ("b", 8))}
    shifts = {task: row_biases.differences(of_base, found) for task, found in saved.items()}
    with row_biases.rows(model, shifts, ["b", None, "a"]):
        together = model(input_ids=IDS[:1].repeat(3, 1)).logits
    alone = []
    for biases in (saved["b"], of_base, saved["a"]):
        bias_files.use_biases(model, biases)
        alone.append(model(input_ids=IDS[:1]).logits)
    assert distance(together, torch.cat(alone)) < 1e-12
    with pytest.raises(ValueError, match="there is no task 'c'; there are a, b"), row_biases.rows(model, shifts, ["c"]):
        pass
    shifts["b"] = dict(list(shifts["b"].items())[1:])
    with pytest.raises(ValueError, match="the task b has nothing for gpt_neox"), row_biases.rows(model, shifts, ["a"]):
        pass


FIRST = "gpt_neox.layers.0.input_layernorm.bias"
WRONG_FILES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "a lora": ({"bias": "none"}, dict, "holds no biases"),
    "a lora that was trained": (
        {},
        lambda tensors: {name: tensor + 1 if "lora_B" in name else tensor for name, tensor in tensors.items()},
        "not plain BitFit: .*lora_B.* is not zero",
    ),
    "another method": ({"peft_type": "IA3"}, dict, "peft_type"),
    "something beside it": ({}, lambda tensors: tensors | {"base_model.model.head.bias": torch.ones(2)}, "this one has no bias head"),
    "a bias is missing": (
        {},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.endswith(FIRST)},
        f"{FIRST} is missing",
    ),
    "another length": (
        {},
        lambda tensors: {name: tensor[:-1].clone() if name.endswith(FIRST) else tensor for name, tensor in tensors.items()},
        f"{FIRST} is",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_is_not_plain_or_does_not_fit_is_refused_before_anything_is_changed(tmp_path: Path, wrong: str) -> None:
    changes, edit, said = WRONG_FILES[wrong]
    bias_files.save_biases(base(seed=5), tmp_path, "random")
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(edit(read_tensors(tmp_path)), tmp_path / WEIGHTS)
    model = base()
    before = tensor_hashes(model)
    with pytest.raises(ValueError, match=said):
        bias_files.use_biases(model, bias_files.read_biases(model, tmp_path))
    assert tensor_hashes(model) == before


def test_what_cannot_be_done_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    llama, model = small_models.random_model(), base()
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no biases.*Take a model that has some .*with_new_biases.*LoRA"):
        bitfit.train_biases_only(llama)
    assert all(weight.requires_grad for weight in llama.parameters())
    with pytest.raises(ValueError, match="nothing to save"):
        bias_files.save_biases(llama, tmp_path, "random")
    with pytest.raises(ValueError, match="no biases of the kind 'gate' here; there are: query, key"):
        bitfit.train_biases_only(model, ["gate"])
    with pytest.raises(ValueError, match="has no mlp_bias: this architecture cannot be built with biases"):
        bitfit.with_new_biases(model)
    with pytest.raises(ValueError, match=r"of which kind is 0\.bias"):
        bitfit.masks_by_kind(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="do not fit a model"):
        bias_files.use_biases(model, {})
