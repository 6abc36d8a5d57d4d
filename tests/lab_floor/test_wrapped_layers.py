"""Wrapped layers: only what the wrapper adds is trained, it is found again, and folding leaves plain layers and the model as it was."""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor, nn

from onepiece.adaptation import (
    ALL_LINEAR,
    WrappedLinear,
    base_names,
    changed_tensors,
    distance,
    fold_layers,
    logits_of,
    plain_linear,
    tensor_hashes,
    wrap_layers,
    wrapped_layers,
)

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


class Shifted(WrappedLinear):
    """A summand for each output."""

    def __init__(self, base: nn.Module, start: float = 0.0) -> None:
        super().__init__(base)
        self.shift = nn.Parameter(torch.full((base.out_features,), start))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.shift

    def folded(self) -> nn.Linear:
        bias = self.shift if self.base.bias is None else self.base.bias + self.shift
        return plain_linear(self.base.weight, bias.detach())


class Other(Shifted):
    """Another method."""


def wrapped(start: float = 0.1) -> nn.Module:
    model = small_models.random_model()
    wrap_layers(model, ("q_proj", "down_proj"), lambda base: Shifted(base, start))
    return model


def test_only_what_a_wrapper_adds_is_trained_and_it_is_found_again() -> None:
    model = small_models.random_model()
    names = wrap_layers(model, ("q_proj", "down_proj"), Shifted)
    assert names == [f"model.layers.{index}.{kind}" for index in range(2) for kind in ("self_attn.q_proj", "mlp.down_proj")]
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == [f"{name}.shift" for name in names]
    assert list(wrapped_layers(model)) == list(wrapped_layers(model, Shifted)) == names
    assert wrapped_layers(model, Other) == {}
    layer = model.get_submodule(names[1])
    assert (layer.in_features, layer.out_features) == (48, 32)
    assert torch.equal(logits_of(model, BATCH), logits_of(small_models.random_model(), BATCH))


def test_the_base_is_recognised_inside_and_a_change_of_it_is_seen() -> None:
    frozen, model = tensor_hashes(small_models.random_model()), wrapped()
    assert changed_tensors(frozen, tensor_hashes(model, base_names(model))) == []
    assert base_names(model)("model.layers.0.self_attn.q_proj.shift") is None
    assert base_names(model)("model.embed_tokens.weight") == "model.embed_tokens.weight"
    model.get_submodule("model.layers.1.mlp.down_proj").base.weight.data += 1
    assert changed_tensors(frozen, tensor_hashes(model, base_names(model))) == ["model.layers.1.mlp.down_proj.weight"]


def test_folding_gives_a_plain_copy_with_the_same_logits() -> None:
    model = wrapped().eval()
    before = tensor_hashes(model)
    plain = fold_layers(model)
    assert distance(logits_of(plain, BATCH), logits_of(model, BATCH)) < 1e-6
    assert distance(logits_of(plain, BATCH), logits_of(small_models.random_model(), BATCH)) > 1e-3
    assert wrapped_layers(plain) == {}
    assert type(plain.get_submodule("model.layers.0.self_attn.q_proj")) is nn.Linear
    assert not plain.get_submodule("model.layers.0.self_attn.q_proj").training
    assert tensor_hashes(model) == before
    assert len(wrapped_layers(model)) == 4


def test_what_is_wrapped_already_or_matches_nothing_is_refused_before_anything_is_changed() -> None:
    model = wrapped()
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj is wrapped already: load the model anew, or fold it"):
        wrap_layers(model, ("k_proj", "q_proj"), Other)
    with pytest.raises(ValueError, match="no linear layer is named 'c_attn'"):
        wrap_layers(model, ("v_proj", "c_attn"), Other)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == trainable
    assert wrapped_layers(model, Other) == {}


def test_a_second_method_beside_the_first_is_the_only_one_trained() -> None:
    model = wrapped()
    wrap_layers(model, ("v_proj",), Other)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained == [f"model.layers.{index}.self_attn.v_proj.shift" for index in range(2)]
    assert len(fold_layers(model).state_dict()) == len(small_models.random_model().state_dict()) + 6, "the biases that folding made"


def test_a_wrapper_that_does_not_say_how_it_folds_is_not_folded_by_guessing() -> None:
    model = small_models.random_model()
    wrap_layers(model, ALL_LINEAR[:1], WrappedLinear)
    with pytest.raises(NotImplementedError):
        fold_layers(model)
