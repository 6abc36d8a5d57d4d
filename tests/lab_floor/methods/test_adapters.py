"""Bottleneck adapters of lab 1.1.2: hooks and einsum in float64 as the oracle; no library of this course has the method."""

from __future__ import annotations

import json
import sys
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
from transformers import AutoModelForCausalLM

from onepiece.adaptation import (
    CONFIG,
    WEIGHTS,
    base_names,
    changed_tensors,
    distance,
    fold_layers,
    logits_of,
    read_tensors,
    tensor_hashes,
)
from onepiece.serving.model_with_code import save_with_code
from onepiece.training import train

adapters, adapter_drop, bottleneck_files, mixed_batch, merging, model_with_adapters, broken_variants = lab_modules(
    "lab-1.1.2-adapters",
    *("adapters", "adapter_drop", "bottleneck_files", "mixed_batch", "merging", "model_with_adapters", "broken_variants"),
)

TWO, ONE = adapters.houlsby(4), adapters.pfeiffer(4)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "labels": IDS}


def base() -> Any:
    """A small random Llama of two layers."""
    return small_models.random_model()


def adapted(settings: Any = TWO, *, seed: int | None = None) -> Any:
    """With adapters in it; with a seed as after some training."""
    model = base()
    adapters.add_adapters(model, settings, seed=0)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for layer in adapters.adapted_layers(model).values():
            for weight in layer.stack[0].parameters():
                weight.data.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return model


def tensors_of(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    return {name: dict(layer.stack[0].state_dict()) for name, layer in adapters.adapted_layers(model).items()}


@pytest.mark.parametrize("settings", [TWO, ONE, adapters.pfeiffer(3, non_linearity="gelu"), adapters.houlsby(2, leave_out=(0,))])
def test_a_model_computes_what_hooks_on_its_sublayers_do_in_float64(settings: Any) -> None:
    model = adapted(settings, seed=1).double()
    wanted = logits_of(broken_variants.HookedAdapters(model, base().double()), BATCH)
    assert distance(logits_of(model, BATCH), wanted) < 1e-12
    assert distance(logits_of(base().double(), BATCH), wanted) > 1e-2
    other = broken_variants.HookedAdapters(model, base().double(), "parallel")
    assert distance(logits_of(other, BATCH), wanted) > 1e-2


def test_gradients_are_those_of_the_oracle() -> None:
    model = adapted(seed=1)
    oracle = broken_variants.HookedAdapters(model, base())
    for each in (model, oracle):
        cross_entropy(each(input_ids=IDS[:1]).logits[0, :-1], IDS[0, 1:]).backward()
    for name, layer in adapters.adapted_layers(model).items():
        for part, weight in layer.stack[0].named_parameters():
            wanted = oracle.weights[name.replace(".", "/")][part.replace(".", "_")].grad
            torch.testing.assert_close(weight.grad, wanted, rtol=1e-3, atol=1e-6)


def test_the_count_is_that_of_what_is_trained_and_fresh_adapters_change_nothing() -> None:
    for settings in (TWO, ONE, adapters.pfeiffer(5, leave_out=(1,))):
        model = adapted(settings)
        trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
        assert all(".stack.0." in name for name in trained)
        assert sum(trained.values()) == adapters.adapter_parameter_count(base(), settings)
        assert torch.equal(logits_of(model, BATCH), logits_of(base(), BATCH))


def test_training_leaves_the_base_as_it_was_to_the_bit_and_a_start_of_zeros_moves_nothing_but_a_bias() -> None:
    frozen = tensor_hashes(base())
    model = adapted()
    history = train(model, lambda number: BATCH, steps=4, learning_rate=1e-2, seed=0, progress=False)
    assert history.losses[-1] < history.losses[0]
    assert changed_tensors(frozen, tensor_hashes(model, base_names(model))) == []
    dead = adapted()
    broken_variants.restart(dead, "both_zero", seed=0)
    train(dead, lambda number: BATCH, steps=4, learning_rate=1e-2, seed=0, progress=False)
    for layer in adapters.adapted_layers(dead).values():
        assert not layer.stack[0].down.weight.any()
        assert not layer.stack[0].up.weight.any()


def test_layers_left_out_are_the_base_to_the_bit() -> None:
    model = adapted(seed=1)

    def states(each: nn.Module) -> Any:
        with torch.no_grad():
            return each(input_ids=IDS, output_hidden_states=True).hidden_states

    wanted = states(base())
    adapter_drop.drop_first(model, 1)
    got = states(model)
    assert torch.equal(got[1], wanted[1])
    assert not torch.equal(got[2], wanted[2])
    adapter_drop.drop_first(model, 2)
    assert torch.equal(states(model)[2], wanted[2])
    broken_variants.drop_last(model, 1)
    assert not torch.equal(states(model)[1], wanted[1])
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"in 0 to 2 layers, not in {number}"):
            adapter_drop.drop_first(model, number)


def test_random_drop_draws_every_number_but_all_layers() -> None:
    model = adapted()
    drop = adapter_drop.RandomDrop(model, seed=0)
    seen = set()
    for step in range(20):
        drop(step)
        seen.add(sum(layer.active for layer in adapters.adapted_layers(model).values()))
    assert seen == {2, 4}


@torch.no_grad()
def test_a_stack_is_one_after_the_other_and_its_lower_adapter_stays_frozen() -> None:
    model, upper = adapted(seed=1), adapted(seed=2)
    adapters.stack_adapters(model, TWO, seed=0)
    assert {name.split(".stack.")[1][0] for name, weight in model.named_parameters() if weight.requires_grad} == {"1"}
    adapters.use_adapter(model, tensors_of(upper), position=1)
    orders = {}
    for order in ((1, 2), (2, 1)):
        plain = base()
        for seed in order:
            broken_variants.HookedAdapters(adapted(seed=seed), plain)
        orders[order] = logits_of(plain, BATCH)
    assert distance(logits_of(model, BATCH), orders[1, 2]) < 1e-5
    assert distance(logits_of(model, BATCH), orders[2, 1]) > 1e-3
    with pytest.raises(ValueError, match="same places"):
        adapters.stack_adapters(adapted(ONE), TWO, seed=0)


@torch.no_grad()
def test_a_row_of_a_mixed_batch_is_what_it_is_alone() -> None:
    model, of = adapted(), {"a": tensors_of(adapted(seed=1)), "b": tensors_of(adapted(seed=2))}
    ids = {"input_ids": IDS[:1].repeat(3, 1)}
    with mixed_batch.rows(model, of, ["b", None, "a"]):
        together = model(**ids).logits
    alone = [each(input_ids=IDS[:1]).logits for each in (adapted(seed=2), base(), adapted(seed=1))]
    assert distance(together, torch.cat(alone)) < 1e-5
    assert all(layer.rows is None for layer in adapters.adapted_layers(model).values())
    with pytest.raises(ValueError, match="there is no adapter 'c'; there are a, b"), mixed_batch.rows(model, of, ["a", "c"]):
        pass
    of["b"] = dict(list(of["b"].items())[1:])
    with pytest.raises(ValueError, match=r"the adapter b has no tensors for model\.layers\.0"), mixed_batch.rows(model, of, ["a"]):
        pass


def test_it_cannot_be_folded_and_the_best_plain_layer_explains_a_linear_one_only() -> None:
    model = adapted(seed=1)
    with pytest.raises(ValueError, match="not linear"):
        fold_layers(model)
    name, layer = next(iter(adapters.adapted_layers(model).items()))
    inputs = torch.randn(400, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        without, bent = layer.base(inputs), layer(inputs)
        straight = broken_variants.without_non_linearity(layer, inputs)
    for outputs, low, high in ((bent, 1e-2, 1.0), (straight, 0.0, 1e-5)):
        left = merging.unexplained(*merging.best_plain_layer(inputs, outputs), merging.Seen(inputs, outputs), without)
        assert low <= left < high, name
    seen = merging.seen_by(model, [name], BATCH)[name]
    assert seen.inputs.shape == (10, layer.in_features)
    fitted = {
        place: merging.best_plain_layer(torch.randn(9, one.in_features), torch.randn(9, one.out_features))
        for place, one in adapters.adapted_layers(model).items()
    }
    plain = merging.best_plain_model(model, fitted)
    assert not adapters.adapted_layers(plain)


def test_a_saved_adapter_comes_back_to_the_bit_and_what_is_left_out_stays_out(tmp_path: Path) -> None:
    model = adapted(seed=1)
    bottleneck_files.save_adapter(model, TWO, tmp_path / "whole", "random")
    again = base()
    assert bottleneck_files.load_adapter(again, tmp_path / "whole") == TWO
    assert torch.equal(logits_of(again, BATCH), logits_of(model, BATCH))
    adapter_drop.drop_first(model, 1)
    with pytest.raises(ValueError, match="leave_out must name the layers"):
        bottleneck_files.save_adapter(model, TWO, tmp_path / "wrong", "random")
    shorter = adapters.houlsby(4, leave_out=(0,))
    bottleneck_files.save_adapter(model, shorter, tmp_path / "shorter", "random")
    fresh = base()
    assert bottleneck_files.load_adapter(fresh, tmp_path / "shorter") == shorter
    assert torch.equal(logits_of(fresh, BATCH), logits_of(model, BATCH))
    with pytest.raises(ValueError, match="adapters in 4 places and the file in 2"):
        bottleneck_files.load_adapter(again, tmp_path / "shorter")
    with pytest.raises(ValueError, match="no adapter"):
        bottleneck_files.save_adapter(base(), TWO, tmp_path / "none", "random")


Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]
FIRST = "model.layers.0.self_attn.o_proj"
WRONG_FILES: dict[str, tuple[dict[str, Any], Edit, str]] = {
    "a missing tensor": ({}, lambda all_: {name: value for name, value in all_.items() if name != f"{FIRST}.up.bias"}, "has no up.bias"),
    "something beside it": ({}, lambda all_: all_ | {"lm_head.weight": torch.ones(2, 2)}, "its file has lm_head.weight"),
    "a tensor in a layer left out": ({"leave_out": [0]}, dict, "has no adapter there"),
    "another width": ({"reduction_factor": 2}, dict, r"down.weight of .* is \(8, 32\), and this one takes \(16, 32\)"),
    "a parallel adapter": ({"is_parallel": True}, dict, "is_parallel is True"),
    "another non-linearity": ({"non_linearity": "tanh"}, dict, "non_linearity must be one of"),
    "a layer that is not there": ({"leave_out": [7]}, dict, "layer 7, and the model has layers 0 to 1"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_does_not_fit_is_refused_before_anything_is_changed(tmp_path: Path, wrong: str) -> None:
    changes, edit, said = WRONG_FILES[wrong]
    bottleneck_files.save_adapter(adapted(seed=1), TWO, tmp_path, "random")
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | {"config": config["config"] | changes}), encoding="utf-8")
    save_file(edit(read_tensors(tmp_path)), tmp_path / WEIGHTS)
    model = base()
    before = tensor_hashes(model)
    with pytest.raises(ValueError, match=said):
        bottleneck_files.load_adapter(model, tmp_path)
    assert tensor_hashes(model) == before
    assert not adapters.adapted_layers(model)


def test_an_adapter_of_another_model_or_without_its_configuration_is_refused(tmp_path: Path) -> None:
    bottleneck_files.save_adapter(adapted(seed=1), TWO, tmp_path, "random")
    with pytest.raises(ValueError, match="made for another model"):
        bottleneck_files.load_adapter(small_models.random_model(small_models.llama_config(hidden_size=48)), tmp_path)
    (tmp_path / CONFIG).write_text('{"config": {"mh_adapter": true}}', encoding="utf-8")
    with pytest.raises(ValueError, match="has no output_adapter"):
        bottleneck_files.read_settings(tmp_path)
    (tmp_path / CONFIG).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="no bottleneck adapter"):
        bottleneck_files.read_settings(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((False, False, 4), "no place"),
        ((True, False, 0), "reduction_factor must be above 0"),
        ((True, False, 4, "tanh"), "non_linearity must be one of"),
        ((True, False, 4, "relu", 1), "leave_out must be a tuple"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adapters.AdapterSettings(*given)


def test_places_follow_the_names_of_an_architecture_and_a_model_is_refused_before_it_is_frozen() -> None:
    neox = small_models.random_model(small_models.gpt_neox_config())
    assert {name.rpartition(".")[2] for name in adapters.adapter_places(neox, TWO)} == {"dense", "dense_4h_to_h"}
    with pytest.raises(ValueError, match="None is called o_proj"):
        adapters.adapter_places({"0.c_proj": (4, 4)}, TWO)
    with pytest.raises(ValueError, match="leaves no layer"):
        adapters.adapter_places(base(), adapters.houlsby(4, leave_out=(0, 1)))
    with pytest.raises(ValueError, match="in no numbered layer"):
        adapters.layer_number("lm_head")
    model = base()
    with pytest.raises(ValueError, match="leave_out names layer 5"):
        adapters.add_adapters(model, adapters.houlsby(4, leave_out=(5,)), seed=0)
    assert all(weight.requires_grad for weight in model.parameters())
    adapters.add_adapters(model, TWO, seed=0)
    with pytest.raises(ValueError, match="wrapped already"):
        adapters.add_adapters(model, TWO, seed=0)


def test_a_budget_is_used_and_kept_and_one_that_is_too_small_is_refused() -> None:
    budget = adapters.adapter_parameter_count(base(), TWO)
    wide = adapters.settings_within(base(), ONE, budget)
    width = adapters.bottleneck_width(32, wide.reduction_factor)
    assert adapters.adapter_parameter_count(base(), wide) <= budget
    assert adapters.adapter_parameter_count(base(), adapters.pfeiffer(32 / (width + 1))) > budget
    with pytest.raises(ValueError, match="too few"):
        adapters.settings_within(base(), ONE, 10)


def test_an_export_loads_without_the_course_and_is_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(seed=1)
    whole = model_with_adapters.with_adapters(base(), tensors_of(model), TWO.non_linearity)
    monkeypatch.setitem(sys.modules, model_with_adapters.__name__, model_with_adapters)  # Transformers looks for its file there
    save_with_code(whole, tmp_path)
    assert (tmp_path / "model_with_adapters.py").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert distance(logits_of(again, BATCH), logits_of(model, BATCH)) < 1e-6
    with pytest.raises(ValueError, match="gpt_neox is none of llama, qwen2"):
        model_with_adapters.with_adapters(small_models.random_model(small_models.gpt_neox_config()), {}, "relu")
