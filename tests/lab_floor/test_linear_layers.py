"""Linear layers: each is found once, targets are whole parts of names, and what is put in place or taken out holds the same numbers."""

from __future__ import annotations

from typing import Any

import parts
import pytest
import small_models
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig

from onepiece.adaptation import (
    ALL_LINEAR,
    dense_weight,
    forget_quantization,
    linear_shapes,
    plain_linear,
    replace_layer,
    targeted_shapes,
)
from onepiece.course.errors import UserError
from onepiece.models import load_model, meta_model


class Wrapper(nn.Module):
    """A linear layer with something beside it, as adapters are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.beside = base, nn.Sequential(nn.Linear(base.in_features, 1))
        self.in_features, self.out_features = base.in_features, base.out_features


def test_all_linear_layers_are_found_in_the_order_of_the_model() -> None:
    shapes = linear_shapes(small_models.random_model())
    block = {
        "self_attn.q_proj": (32, 32), "self_attn.k_proj": (32, 16), "self_attn.v_proj": (32, 16), "self_attn.o_proj": (32, 32),
        "mlp.gate_proj": (32, 48), "mlp.up_proj": (32, 48), "mlp.down_proj": (48, 32),
    }  # fmt: skip
    wanted = {f"model.layers.{index}.{name}": shape for index in range(2) for name, shape in block.items()}
    assert list(shapes.items())[:-1] == list(wanted.items())
    assert list(shapes)[-1] == "lm_head"
    assert {name.rpartition(".")[2] for name in wanted} == set(ALL_LINEAR)


def test_what_is_inside_a_linear_layer_is_not_found_again() -> None:
    model = nn.ModuleDict({"q": nn.Linear(3, 2), "q_more": nn.Linear(2, 4)})
    replace_layer(model, "q", Wrapper(model["q"]))
    assert linear_shapes(model) == {"q": (3, 2), "q_more": (2, 4)}
    base = small_models.random_model()
    before = linear_shapes(base)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=list(ALL_LINEAR)))
    assert linear_shapes(adapted.get_base_model()) == before


def test_shapes_need_no_weights() -> None:
    shapes = targeted_shapes(meta_model(LlamaConfig()), ("q_proj", "down_proj"))
    assert set(shapes.values()) == {(4096, 4096), (11008, 4096)}
    assert len(shapes) == 64


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (("q_proj",), ["a.q_proj", "b.q_proj"]),
        (("b.q_proj",), ["b.q_proj"]),
        (["kv_proj", "a.q_proj"], ["a.q_proj", "a.kv_proj"]),
    ],
)
def test_targets_are_whole_last_parts_of_names(targets: Any, wanted: list[str]) -> None:
    shapes = {"a.q_proj": (2, 3), "a.kv_proj": (2, 1), "b.q_proj": (4, 3), "head": (2, 9)}
    assert targeted_shapes(shapes, targets) == {name: shapes[name] for name in wanted}


@pytest.mark.parametrize("target", ["proj", "v_proj", "model.a.q_proj", ""])
def test_a_target_that_matches_nothing_is_refused_with_what_there_is(target: str) -> None:
    with pytest.raises(ValueError, match="the linear layers here: kv_proj, q_proj"):
        targeted_shapes({"a.q_proj": (2, 3), "a.kv_proj": (2, 1)}, ("q_proj", target))
    with pytest.raises(ValueError, match="the linear layers here: none"):
        targeted_shapes(nn.LayerNorm(3), ("q_proj",))


def test_a_layer_is_replaced_where_it_is() -> None:
    model, layer = small_models.random_model(), nn.Linear(32, 32)
    replace_layer(model, "model.layers.1.self_attn.q_proj", layer)
    assert model.model.layers[1].self_attn.q_proj is layer
    assert model.model.layers[0].self_attn.q_proj is not layer
    replace_layer(model, "lm_head", layer)
    assert model.lm_head is layer
    with pytest.raises(AttributeError):
        replace_layer(model, "model.layers.9.self_attn.q_proj", layer)


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, -2.0])])
def test_a_plain_layer_holds_the_given_numbers_frozen(bias: Tensor | None) -> None:
    weight = torch.arange(6.0).view(2, 3)
    layer = plain_linear(weight, bias)
    inputs = torch.tensor([[1.0, 10.0, 100.0]])
    assert layer(inputs).tolist() == [[210.0 + (0 if bias is None else 1), 543.0 - (0 if bias is None else 2)]]
    assert (layer.in_features, layer.out_features) == (3, 2)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"][: 1 if bias is None else 2]
    assert not any(each.requires_grad for each in layer.parameters())
    assert layer.weight.data_ptr() == weight.data_ptr(), "nothing is copied"


def test_a_dense_layer_is_its_own_weight() -> None:
    layer = nn.Linear(3, 2)
    assert torch.equal(dense_weight(layer), layer.weight)
    assert not dense_weight(layer).requires_grad


def test_four_bits_become_numbers_and_the_configuration_says_so() -> None:
    try:
        model, _ = load_model("tiny", device="cpu", dtype=torch.float32, quantized="nf4")
    except UserError as error:
        parts.missing("bitsandbytes", str(error))
    original, _ = load_model("tiny", device="cpu", dtype=torch.float32)
    names = targeted_shapes(model, ALL_LINEAR)
    inputs = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    layer = model.get_submodule(next(iter(names)))
    by_kernel = layer(inputs[:, : layer.in_features])  # evaluated, so that some CPUs have repacked it
    weight = dense_weight(layer)
    assert weight.shape == (layer.out_features, layer.in_features)
    # In evaluation mode some kernels compute in bfloat16.
    torch.testing.assert_close(inputs[:, : layer.in_features] @ weight.T, by_kernel.float(), rtol=0.05, atol=0.05)
    error = (weight - original.get_submodule(next(iter(names))).weight).norm() / original.get_submodule(next(iter(names))).weight.norm()
    assert 1e-3 < error < 0.15

    forget_quantization(model)
    assert hasattr(model.config, "quantization_config"), "it still has 4-bit weights"
    for name in names:
        replace_layer(model, name, plain_linear(dense_weight(model.get_submodule(name))))
    forget_quantization(model)
    assert not hasattr(model.config, "quantization_config")


def test_a_model_that_was_never_quantised_is_left_alone() -> None:
    forget_quantization(small_models.random_model())
    forget_quantization(nn.Linear(2, 2))
