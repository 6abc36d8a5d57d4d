"""Comparisons: only real tokens count, a difference is never passed over, and equal means equal to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import small_models
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn

from onepiece.adaptation import (
    Trace,
    changed_tensors,
    distance,
    largest_difference,
    logits_of,
    loss_difference,
    tensor_hashes,
    traced,
)
from onepiece.data import Collator
from onepiece.training import History, train

T = torch.tensor
NAN = math.nan
ROWS = [[5, 6, 7, 8], [9, 10]]


def batch(side: str = "right", rows: list[list[int]] = ROWS) -> dict[str, Any]:
    return Collator(0, side=side)([{"input_ids": T(row), "labels": T(row)} for row in rows])


# --- logits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_are_those_of_each_row_alone_without_padding(side: str) -> None:
    model = small_models.random_model()
    got = logits_of(model, batch(side))
    with torch.no_grad():
        wanted = torch.cat([model(input_ids=T([row])).logits[0] for row in ROWS])  # (4 + 2 tokens, vocabulary)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_without_a_mask_every_token_is_real_and_labels_are_not_looked_at() -> None:
    model, ids = small_models.random_model(), T([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits.flatten(0, 1)
    assert torch.equal(logits_of(model, {"input_ids": ids}), wanted)
    assert torch.equal(logits_of(model, {"input_ids": ids, "labels": T([[1]])}), wanted)


def test_a_model_keeps_its_mode_and_is_asked_without_dropout_or_gradient() -> None:
    model = small_models.random_model(small_models.llama_config(attention_dropout=0.9))
    wanted = logits_of(model, batch())
    assert not model.training
    model.train()
    got = logits_of(model, batch())
    assert model.training
    assert torch.equal(got, wanted)
    assert not got.requires_grad
    with torch.no_grad():
        assert not torch.equal(model(input_ids=T(ROWS[:1])).logits[0], wanted[:4]), "the dropout of this test is one"


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig], ids=["before the text", "in keys and values"])
def test_the_places_of_a_soft_prompt_are_left_out(config: Any) -> None:
    torch.manual_seed(0)
    model = get_peft_model(small_models.random_model(), config(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    got = logits_of(model, batch())
    assert got.shape == (6, len(small_models.tokenizer()))
    with torch.no_grad():
        alone = [model(input_ids=T([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)).logits[0, -len(row) :] for row in ROWS]
    torch.testing.assert_close(got, torch.cat(alone), rtol=0, atol=1e-5)
    assert distance(got, logits_of(small_models.random_model(), batch())) > 1e-3


# --- differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "wanted", "absolute", "relative"),
    [
        (T([1.0, -4.0]), T([1.0, -4.0]), 0.0, 0.0),
        (T([1.0, -4.5]), T([1.0, -4.0]), 0.5, 0.125),
        (T([100.0, -450.0]), T([100.0, -400.0]), 50.0, 0.125),
        (T([1.0, -4.0]), T([1.5, -4.0]), 0.5, 0.125),
        (T([1.0], dtype=torch.float64), T([1.0 + 1e-12], dtype=torch.float64), 1e-12, 1e-12),
        (T([256.0], dtype=torch.bfloat16), T([1.5078125], dtype=torch.bfloat16), 254.4921875, 254.4921875 / 1.5078125),
        (T([1.0], dtype=torch.bfloat16), T([1.001]), 1.001 - 1.0, 0.001 / 1.001),
    ],
)
def test_the_largest_difference_absolute_and_relative(got: torch.Tensor, wanted: torch.Tensor, absolute: float, relative: float) -> None:
    assert largest_difference(got, wanted) == pytest.approx(absolute, rel=1e-3)
    assert distance(got, wanted) == pytest.approx(relative, rel=1e-3)


@pytest.mark.parametrize("places", [(NAN, 1.0, 1.0), (1.0, 1.0, NAN)])
def test_what_is_not_a_number_is_near_nothing(places: tuple[float, ...]) -> None:
    for got, wanted in ((T(places), T([1.0, 1.0, 1.0])), (T([1.0, 1.0, 1.0]), T(places))):
        assert math.isnan(largest_difference(got, wanted))
        assert math.isnan(distance(got, wanted))
    assert math.isnan(loss_difference(places, (1.0, 1.0, 1.5)))


def test_tensors_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\) cannot be compared with \(2, 3\)"):
        largest_difference(torch.zeros(1, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="cannot be compared"):
        distance(torch.zeros(3), T(0.0))


def test_loss_curves_are_compared_step_by_step() -> None:
    assert loss_difference([3.0, 2.0, 1.0], [3.0, 2.25, 1.125]) == 0.25
    with pytest.raises(ValueError, match="cannot be compared"):
        loss_difference([3.0, 2.0], [3.0])


# --- traces ---------------------------------------------------------------------------------------------------


def training(model: nn.Module, *, steps: int = 3, rows: list[list[int]] = ROWS) -> History:
    return train(model, lambda number: batch(rows=rows), steps=steps, learning_rate=1e-3, seed=0, progress=False)


def test_a_trace_is_the_losses_and_the_logits_on_both_sides_of_the_training() -> None:
    model = small_models.random_model()
    before, again = logits_of(model, batch()), training(small_models.random_model())
    trace = traced(model, training, batch())
    assert trace.losses == again.losses
    assert torch.equal(trace.before, before)
    assert torch.equal(trace.after, logits_of(model, batch()))
    assert distance(trace.after, trace.before) > 1e-3


def test_equal_trainings_are_not_apart_and_what_differs_is_told() -> None:
    wanted = traced(small_models.random_model(), training, batch())
    same = traced(small_models.random_model(), training, batch()).apart_from(wanted)
    assert (same.before, same.loss, same.after) == (0, 0, 0)

    other_start = traced(small_models.random_model(seed=1), training, batch()).apart_from(wanted)
    assert min(other_start.before, other_start.loss, other_start.after) > 1e-2

    other_data = traced(small_models.random_model(), lambda model: training(model, rows=[[5, 6, 7, 9]]), batch()).apart_from(wanted)
    assert other_data.before == 0
    assert min(other_data.loss, other_data.after) > 1e-4


def test_trainings_of_different_lengths_or_on_different_tokens_are_not_compared() -> None:
    wanted = traced(small_models.random_model(), training, batch())
    with pytest.raises(ValueError, match="cannot be compared"):
        traced(small_models.random_model(), lambda model: training(model, steps=2), batch()).apart_from(wanted)
    with pytest.raises(ValueError, match="cannot be compared"):
        Trace(wanted.losses, wanted.before[:1], wanted.after).apart_from(wanted)


# --- bits -----------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Tensors of every kind: bfloat16, a single number, integers, one that is not contiguous, one that is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.turned = nn.Parameter(torch.arange(6.0).view(2, 3).T)
        self.register_buffer("count", T(7))
        self.register_buffer("flags", T([True, False]))
        self.register_buffer("nothing", torch.empty(0))


def test_every_tensor_has_a_hash_and_one_changed_bit_changes_it() -> None:
    before = tensor_hashes(Mixed())
    assert list(before) == ["short", "turned", "count", "flags", "nothing"]
    assert changed_tensors(before, tensor_hashes(Mixed())) == []
    model = Mixed()
    with torch.no_grad():
        model.short[1] = torch.nextafter(T(1.0, dtype=torch.bfloat16), T(2.0, dtype=torch.bfloat16))
        model.turned[0, 0] = -0.0  # equal to 0.0, but not to the bit
        model.count += 1
    assert changed_tensors(before, tensor_hashes(model)) == ["short", "turned", "count"]


def test_tensors_are_compared_under_their_names_in_the_base() -> None:
    base = small_models.random_model()
    before = tensor_hashes(base)
    inner = nn.ModuleDict({"wrapped": base, "more": nn.Linear(2, 2)})

    def base_name(name: str) -> str | None:
        return name.removeprefix("wrapped.") if name.startswith("wrapped.") else None

    after = tensor_hashes(inner, base_name)
    assert list(after) == list(before)
    assert changed_tensors(before, after) == []
    assert changed_tensors(before, tensor_hashes(inner)) == list(before), "what is not there under its name is not what it was"


def test_training_changes_what_is_trained_and_nothing_else() -> None:
    model = small_models.random_model().requires_grad_(False)
    model.model.norm.requires_grad_(True)
    before = tensor_hashes(model)
    training(model)
    assert changed_tensors(before, tensor_hashes(model)) == ["model.norm.weight"]
