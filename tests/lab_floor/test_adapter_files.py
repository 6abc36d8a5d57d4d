"""Adapter files: what we write peft reads, what peft writes we read, and what does not fit is refused in words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from onepiece.adaptation import (
    CONFIG,
    WEIGHTS,
    common_config,
    data_bytes,
    directory_bytes,
    distance,
    expect_shape,
    fitting_layer,
    in_peft,
    layer_tensors,
    logits_of,
    out_of_peft,
    read_config,
    read_tensors,
    save_peft_model,
    write_adapter,
)

IDS = torch.arange(5, 17).view(2, 6)
UNUSED: dict[str, Any] = {"peft_type": "IA3", "modules_to_save": None, "fan_in_fan_out": False}


def scales() -> dict[str, Tensor]:
    """An IA3 adapter: a factor for each output of two layers, and for each input of a third."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"self_attn.k_proj": (16, 1), "self_attn.v_proj": (16, 1), "mlp.down_proj": (1, 48)}
    return {f"model.layers.0.{name}": 1 + torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def write(directory: Path) -> Path:
    """The adapter as a lab would write it."""
    own = {"target_modules": [name.removeprefix("model.") for name in scales()], "feedforward_modules": ["layers.0.mlp.down_proj"]}
    tensors = {f"base_model.model.{name}.ia3_l": scale for name, scale in scales().items()}
    return write_adapter(directory, common_config("IA3", "random") | own, tensors)


def by_hand() -> nn.Module:
    """The base with the same factors folded into its weights."""
    model = small_models.random_model()
    with torch.no_grad():
        for name, scale in scales().items():
            model.get_submodule(name).weight.mul_(scale)  # (out, 1) scales outputs, (1, in) inputs
    return model


def peft_model(config: Any) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(small_models.random_model(), config)


# --- ours in peft, and back ---------------------------------------------------------------------------------------


def test_peft_computes_with_our_files_what_we_mean() -> None:
    model = in_peft(small_models.random_model(), write)
    assert distance(logits_of(model, {"input_ids": IDS}), logits_of(by_hand(), {"input_ids": IDS})) < 1e-5
    assert distance(logits_of(model, {"input_ids": IDS}), logits_of(small_models.random_model(), {"input_ids": IDS})) > 1e-2
    assert not any(weight.requires_grad for weight in model.parameters())
    assert model.active_peft_config.base_model_name_or_path == "random"


def test_an_adapter_of_ours_can_be_trained_on_in_peft() -> None:
    model = in_peft(small_models.random_model(), write, trainable=True)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 3
    assert all("ia3_l" in name for name in trained)


def test_what_peft_saves_we_read_tensor_by_tensor() -> None:
    model = in_peft(small_models.random_model(), write)
    again = out_of_peft(model, lambda directory: layer_tensors(directory, "ia3_l"))
    assert set(again) == set(scales())
    assert all(torch.equal(again[name][0], scale) for name, scale in scales().items())
    config = out_of_peft(model, lambda directory: read_config(directory, "IA3", unused=UNUSED))
    assert set(config["target_modules"]) == {name.removeprefix("model.") for name in scales()}


def test_the_files_are_those_that_peft_writes(tmp_path: Path) -> None:
    save_peft_model(in_peft(small_models.random_model(), write), tmp_path / "peft")
    write(tmp_path / "ours")
    assert {CONFIG, WEIGHTS} == {path.name for path in (tmp_path / "ours").iterdir()}
    assert {CONFIG, WEIGHTS} <= {path.name for path in (tmp_path / "peft").iterdir()}
    ours, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "peft"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (json.loads((tmp_path / name / CONFIG).read_text(encoding="utf-8")) for name in ("ours", "peft"))
    sets = {"target_modules", "feedforward_modules"}
    assert {name: theirs[name] for name in ours if name not in sets} == {name: ours[name] for name in ours if name not in sets}
    assert all(set(ours[name]) == set(theirs[name]) for name in sets)


def test_peft_does_not_ask_the_hub_about_the_base_when_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # so that it would say that it could not ask
    base = small_models.random_model()
    base.name_or_path = "OWNER/NAME"
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_peft_model(model, tmp_path)


def test_parts_come_in_the_order_in_which_they_are_asked_for() -> None:
    model = peft_model(LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for parts in (("lora_A.weight", "lora_B.weight"), ("lora_B.weight", "lora_A.weight")):
        layers = out_of_peft(model, lambda directory, parts=parts: layer_tensors(directory, *parts))
        first, second = layers["model.layers.1.mlp.down_proj"]
        lora_a, lora_b = (first, second) if parts[0].startswith("lora_A") else (second, first)
        assert (lora_a.shape, lora_b.shape) == ((2, 48), (32, 2))
        assert len(layers) == 4


def test_an_adapter_that_belongs_to_no_layer_is_read_by_name() -> None:
    model = peft_model(PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    tensors = out_of_peft(model, read_tensors)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"prompt_embeddings": (3, 32)}
    expect_shape("prompt_embeddings", tensors["prompt_embeddings"], (None, 32))


# --- refusals -----------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        write_adapter(tmp_path / "new", common_config("IA3", "random"), {})
    assert not (tmp_path / "new").exists()


def test_a_directory_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path, "IA3", unused=UNUSED)
    with pytest.raises(FileNotFoundError):
        layer_tensors(tmp_path, "ia3_l")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modules_to_save": ["lm_head"]}, r"is not plain IA3: modules_to_save is \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"peft_type": "LORA"}, "peft_type is 'LORA'"),
    ],
)
def test_what_is_not_the_plain_method_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert read_config(tmp_path, "IA3", unused=UNUSED) == config
    (tmp_path / CONFIG).write_text(json.dumps(config | dict.fromkeys(changes)), encoding="utf-8")
    read_config(tmp_path, "IA3", unused=UNUSED)  # null: not used
    (tmp_path / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        read_config(tmp_path, "IA3", unused=UNUSED)


def test_tensors_of_another_method_and_half_layers_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"no layer of an adapter with lora_A.weight has a tensor base_model\.model\.\S+ia3_l"):
        layer_tensors(tmp_path, "lora_A.weight")
    half = {"base_model.model.q_proj.lora_A.weight": torch.ones(2, 3)}
    write_adapter(tmp_path, common_config("LORA", "random"), half)
    with pytest.raises(ValueError, match=r"the layer q_proj has no lora_B\.weight"):
        layer_tensors(tmp_path, "lora_A.weight", "lora_B.weight")
    for name in ("q_proj.ia3_l", "base_model.model.q_proj.more_ia3_l"):
        write_adapter(tmp_path, common_config("IA3", "random"), {name: torch.ones(3, 1)})
        with pytest.raises(ValueError, match=f"has a tensor {name}"):
            layer_tensors(tmp_path, "ia3_l")


@pytest.mark.parametrize("name", ["model.layers.7.mlp.down_proj", "model.norm", "nothing"])
def test_a_layer_that_the_model_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"made for another model: this one has no linear layer {name}"):
        fitting_layer(small_models.random_model(), name)


def test_a_layer_fits_whether_or_not_it_has_an_adapter() -> None:
    model = small_models.random_model()
    assert fitting_layer(model, "model.layers.0.mlp.down_proj") is model.model.layers[0].mlp.down_proj
    wrapped = peft_model(IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"])).get_base_model()
    assert fitting_layer(wrapped, "model.layers.0.mlp.down_proj") is wrapped.model.layers[0].mlp.down_proj


@pytest.mark.parametrize("wanted", [(2, 3), (None, 3), (2, None), (None, None)])
def test_a_shape_that_fits(wanted: tuple[int | None, ...]) -> None:
    expect_shape("A", torch.zeros(2, 3), wanted)


@pytest.mark.parametrize(
    ("wanted", "said"), [((3, 3), "(3, 3)"), ((None, 4), "(any, 4)"), ((2,), "(2)"), ((None, None, None), "(any, any, any)")]
)
def test_a_shape_that_does_not_fit_is_refused(wanted: tuple[int | None, ...], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        expect_shape("A of q_proj", torch.zeros(2, 3), wanted)
    assert str(caught.value) == f"the adapter was made for another model: A of q_proj is (2, 3), and this one takes {said}"


# --- sizes --------------------------------------------------------------------------------------------------------


def test_a_file_holds_four_bytes_per_number_and_a_header(tmp_path: Path) -> None:
    write(tmp_path)
    numbers = sum(scale.numel() for scale in scales().values())
    size = (tmp_path / WEIGHTS).stat().st_size
    assert data_bytes(tmp_path / WEIGHTS) == 4 * numbers < size
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "more.txt").write_bytes(b"1234")
    assert directory_bytes(tmp_path) == size + (tmp_path / CONFIG).stat().st_size + 4
