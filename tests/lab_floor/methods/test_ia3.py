"""(IA)3 of lab 1.1.5: diagonal matrices in float64 as the oracle, and peft beside it."""

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
    base_names,
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

ia3, ia3_files, mixed_batch, broken_variants = lab_modules("lab-1.1.5-ia3", "ia3", "ia3_files", "mixed_batch", "broken_variants")

SETTINGS = ia3.Ia3Settings()
WITH_BIASES = ia3.Ia3Settings(("query_key_value",), ("dense_4h_to_h",))
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "labels": IDS}


def base(*, biases: bool = False) -> nn.Module:
    """A small random Llama, or a GPT-NeoX, whose layers have biases; none of them zero."""
    if not biases:
        return small_models.random_model()
    model = small_models.random_model(small_models.gpt_neox_config())
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / 5)
    return model


def adapted(*, biases: bool = False, seed: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """With vectors in it; with a seed as after some training."""
    model = base(biases=biases).to(dtype)
    ia3.add_ia3(model, WITH_BIASES if biases else SETTINGS)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for layer in ia3.ia3_layers(model).values():
            layer.scale.data.copy_(1 + torch.randn(layer.scale.shape, generator=generator) / 3)
    return model.to(dtype)


def dense(model: nn.Module, *, biases: bool) -> nn.Module:
    """The oracle: the base with each weight multiplied by a diagonal matrix, from the left for outputs and from the right for inputs."""
    plain = base(biases=biases).double()
    for name, layer in ia3.ia3_layers(model).items():
        target, diagonal = plain.get_submodule(name), torch.diag(layer.scale.detach())
        if name.endswith(("down_proj", "dense_4h_to_h")):
            target.weight.data = target.weight.data @ diagonal
        else:
            target.weight.data = diagonal @ target.weight.data
            if target.bias is not None:
                target.bias.data = diagonal @ target.bias.data
    return plain


@pytest.mark.parametrize("biases", [False, True])
def test_layer_and_fold_compute_what_diagonal_matrices_do(biases: bool) -> None:
    model = adapted(biases=biases, seed=1, dtype=torch.float64)
    wanted = logits_of(dense(model, biases=biases), BATCH)
    assert distance(logits_of(model, BATCH), wanted) < 1e-12
    assert distance(logits_of(ia3.fold_ia3(model), BATCH), wanted) < 1e-12
    assert distance(logits_of(base(biases=biases).double(), BATCH), wanted) > 1e-2
    folded = broken_variants.fold_with_mistake(model, None)
    assert distance(logits_of(folded, BATCH), wanted) < 1e-12
    for mistake in ("bias_forgotten", "bias_always", "bias_dropped"):
        wrong = distance(logits_of(broken_variants.fold_with_mistake(model, mistake), BATCH), wanted)
        assert wrong > 1e-4 if biases and mistake != "bias_always" else wrong < 1e-12 or biases


def test_gradients_are_those_of_the_weight_summed_over_what_a_factor_multiplies() -> None:
    model = adapted(seed=1, dtype=torch.float64)
    plain = dense(model, biases=False)
    for each in (model, plain):
        cross_entropy(each(input_ids=IDS[:1]).logits[0, :-1], IDS[0, 1:]).backward()
    for name, layer in ia3.ia3_layers(model).items():
        of_weight = plain.get_submodule(name).weight.grad * layer.base.weight  # (out, in)
        wanted = of_weight.sum(dim=0 if layer.on_input else 1)
        torch.testing.assert_close(layer.scale.grad, wanted, rtol=1e-9, atol=1e-14)


def test_the_count_is_that_of_what_is_trained_and_fresh_vectors_change_nothing() -> None:
    for biases, settings in ((False, SETTINGS), (True, WITH_BIASES)):
        model = adapted(biases=biases)
        trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
        assert all(name.endswith(".scale") for name in trained)
        assert sum(trained.values()) == ia3.ia3_parameter_count(base(biases=biases), settings)
        assert torch.equal(logits_of(model, BATCH), logits_of(base(biases=biases), BATCH))


def training(model: nn.Module) -> History:
    return train(model, lambda number: BATCH, steps=4, learning_rate=3e-2, seed=0, progress=False)


def write(model: nn.Module, directory: Path, settings: Any = SETTINGS) -> None:
    ia3_files.save_adapter(model, settings, directory, "random")


@pytest.mark.parametrize("biases", [False, True])
def test_four_steps_are_those_of_peft_and_factors_on_the_outputs_of_the_mlp_are_another_method(biases: bool) -> None:
    settings = WITH_BIASES if biases else SETTINGS
    writes = functools.partial(write, adapted(biases=biases), settings=settings)
    wanted = traced(in_peft(base(biases=biases), writes, trainable=True), training, BATCH)
    own = traced(adapted(biases=biases), training, BATCH).apart_from(wanted)
    assert own.before == 0
    assert max(own.loss, own.after) < 1e-5
    other = base(biases=biases)
    ia3.add_ia3(other, broken_variants.everything_on_outputs(settings))
    wrong = traced(other, training, BATCH).apart_from(wanted)
    assert min(wrong.loss, wrong.after) > 1e-4


def test_training_leaves_the_base_as_it_was_to_the_bit() -> None:
    model, frozen = adapted(), tensor_hashes(base())
    training(model)
    assert changed_tensors(frozen, tensor_hashes(model, base_names(model))) == []
    folded = tensor_hashes(ia3.fold_ia3(model))
    assert set(changed_tensors(frozen, folded)) == {f"{name}.weight" for name in ia3.ia3_layers(model)}


def test_factors_may_stand_one_layer_earlier_but_not_behind_an_activation_function() -> None:
    model = adapted(seed=1, dtype=torch.float64)
    wanted = logits_of(model, BATCH)
    earlier = ia3.fold_one_layer_earlier(model)
    assert distance(logits_of(earlier, BATCH), wanted) < 1e-12
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(earlier.state_dict()[name], base().double().state_dict()[name])
    assert distance(logits_of(ia3.fold_one_layer_earlier(model, "gate_proj"), BATCH), wanted) > 1e-3
    with pytest.raises(ValueError, match="no up_proj beside it: an activation function"):
        ia3.fold_one_layer_earlier(adapted(biases=True))


@torch.no_grad()
def test_a_row_of_a_mixed_batch_is_what_it_is_alone() -> None:
    model = adapted(dtype=torch.float64)
    adapters = {}
    for task, seed in (("a", 1), ("b", 2)):
        adapters[task] = {name: layer.scale.detach() for name, layer in ia3.ia3_layers(adapted(seed=seed, dtype=torch.float64)).items()}
    ids = {"input_ids": IDS[:1].repeat(3, 1)}
    with mixed_batch.rows(model, adapters, ["b", None, "a"]):
        together = model(**ids).logits
    alone = []
    for task in ("b", None, "a"):
        ia3.set_enabled(model, task is not None)
        if task is not None:
            ia3_files.use_vectors(model, adapters[task])
        alone.append(model(input_ids=IDS[:1]).logits)
    assert distance(together, torch.cat(alone)) < 1e-12
    assert all(layer.rows is None for layer in ia3.ia3_layers(model).values())
    with pytest.raises(ValueError, match="there is no adapter 'c'; there are a, b"), mixed_batch.rows(model, adapters, ["a", "c"]):
        pass
    adapters["b"] = dict(list(adapters["b"].items())[1:])
    with pytest.raises(ValueError, match=r"the adapter b has no vector for model\.layers\.0"), mixed_batch.rows(model, adapters, ["a"]):
        pass


@pytest.mark.parametrize("biases", [False, True])
def test_both_read_the_files_of_the_other(biases: bool) -> None:
    model, settings = adapted(biases=biases, seed=1), WITH_BIASES if biases else SETTINGS
    peft_model = in_peft(base(biases=biases), functools.partial(write, model, settings=settings))
    assert distance(logits_of(peft_model, BATCH), logits_of(model, BATCH)) < 1e-5
    again = base(biases=biases)
    assert out_of_peft(peft_model, functools.partial(ia3_files.load_adapter, again)) == settings
    assert torch.equal(logits_of(again, BATCH), logits_of(model, BATCH))


def test_what_peft_takes_for_a_llama_is_what_these_settings_say() -> None:
    from peft import IA3Config, get_peft_model

    model = get_peft_model(base(), IA3Config(task_type="CAUSAL_LM"))
    assert model.get_nb_trainable_parameters()[0] == ia3.ia3_parameter_count(base(), SETTINGS)
    again = base()
    assert out_of_peft(model, functools.partial(ia3_files.load_adapter, again)) == SETTINGS


def without(*endings: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """An edit of the tensors in a file: those that end so are left out."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.endswith(endings)}


FIRST = "model.layers.0.self_attn.k_proj"
WRONG_FILES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "something beside it": ({}, lambda tensors: tensors | {"base_model.model.lm_head.weight": torch.ones(2, 2)}, "has a tensor .*lm_head"),
    "a layer without its vector": ({}, without(f"{FIRST}.ia3_l"), f"targets {FIRST}, and its file has no"),
    "a vector of a layer that is not targeted": (
        {"target_modules": ["v_proj", "down_proj"]},
        dict,
        "which its configuration does not target",
    ),
    "another side": ({"feedforward_modules": []}, dict, r"ia3_l of .*down_proj is \(1, 48\), and this one takes \(32, 1\)"),
    "a feed-forward module that is no target": (
        {"feedforward_modules": ["up_proj"]},
        dict,
        "up_proj, which is not among its target_modules",
    ),
    "a pattern of names": ({"target_modules": ".*_proj"}, dict, "not a list of names"),
    "no names": ({"target_modules": None}, dict, "not a list of names"),
    "other weights beside": ({"modules_to_save": ["lm_head"]}, dict, "modules_to_save"),
    "another method": ({"peft_type": "LORA"}, dict, "peft_type"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_is_not_plain_or_does_not_fit_is_refused_before_anything_is_changed(tmp_path: Path, wrong: str) -> None:
    changes, edit, said = WRONG_FILES[wrong]
    write(adapted(seed=1), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(edit(read_tensors(tmp_path)), tmp_path / WEIGHTS)
    model = base()
    before, trainable = tensor_hashes(model), [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(ValueError, match=said):
        ia3_files.load_adapter(model, tmp_path)
    assert (tensor_hashes(model), [weight.requires_grad for weight in model.parameters()]) == (before, trainable)
    assert not ia3.ia3_layers(model)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    write(adapted(), tmp_path)
    with pytest.raises(ValueError, match=r"made for another model: ia3_l of .*down_proj is \(1, 48\)"):
        ia3_files.load_adapter(small_models.random_model(small_models.llama_config(intermediate_size=40)), tmp_path)
    with pytest.raises(ValueError, match="no linear layer"):
        ia3_files.load_adapter(base(biases=True), tmp_path)
    other = base()
    ia3.add_ia3(other, ia3.Ia3Settings(("v_proj",), ()))
    with pytest.raises(ValueError, match="vectors of 6 layers do not fit a model with 2"):
        ia3_files.load_adapter(other, tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"outputs": "k_proj"}, "outputs must be a tuple"),
        ({"inputs": "down_proj"}, "inputs must be a tuple"),
        ({"outputs": (), "inputs": ()}, "no layer gets a vector"),
        ({"outputs": ("down_proj",)}, "down_proj stands in outputs and in inputs"),
    ],
)
def test_settings_that_say_nothing_or_two_things_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ia3.Ia3Settings(**given)


def test_settings_follow_the_names_of_an_architecture_and_targets_that_match_nothing_are_refused() -> None:
    assert ia3.settings_for(base()) == SETTINGS
    assert ia3.settings_for(base(biases=True)) == WITH_BIASES
    with pytest.raises(ValueError, match="which follows the MLP"):
        ia3.settings_for(nn.LayerNorm(3))
    model = base()
    with pytest.raises(ValueError, match="no linear layer is named 'wo'"):
        ia3.add_ia3(model, ia3.Ia3Settings(("k_proj",), ("wo",)))
    assert all(weight.requires_grad for weight in model.parameters())
    ia3.add_ia3(model, SETTINGS)
    with pytest.raises(ValueError, match="wrapped already"):
        ia3.add_ia3(model, SETTINGS)
