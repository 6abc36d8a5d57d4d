"""One loader for shipped, local and hub models; counts and memory against what is really there."""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import parts
import pytest
import small_models
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedModel

from onepiece.course.errors import UserError
from onepiece.measure import peak_memory
from onepiece.models import (
    KINDS,
    QUANTIZED,
    MemoryEstimate,
    ParameterCount,
    count_parameters,
    fetch,
    load_model,
    memory_estimate,
    meta_model,
    model_directory,
    quiet_libraries,
)
from onepiece.tiny import checkpoints

CPU: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, PreTrainedModel]:
    """A model directory, and what was saved in it."""
    model = small_models.random_model(small_models.llama_config(hidden_size=64, intermediate_size=128, head_dim=32))
    model.save_pretrained(tmp_path / "model")
    small_models.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


IDS = torch.arange(20)[None]


def test_a_directory_is_loaded_as_it_was_saved(saved: tuple[Path, PreTrainedModel]) -> None:
    directory, original = saved
    for path in (directory, str(directory)):
        model, tokenizer = load_model(path, **CPU)
        assert not model.training and model.dtype == torch.float32 and tokenizer.padding_side == "left"
        assert torch.equal(model(IDS).logits, original(IDS).logits)
    half, _ = load_model(directory, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


@pytest.mark.fault("model-not-whole")
def test_weights_that_are_missing_are_not_made_up(saved: tuple[Path, PreTrainedModel]) -> None:
    directory, original = saved
    original.model.save_pretrained(directory)  # without the head, but the head is the embedding: nothing is missing
    settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert torch.equal(load_model(directory, **CPU)[0](IDS).logits, original(IDS).logits)
    (directory / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}), encoding="utf-8")
    with pytest.raises(UserError, match=r"the weights lack lm_head\.weight") as caught:
        load_model(directory, **CPU)
    assert caught.value.code == "bad-model"


@pytest.mark.fault("model-not-whole")
def test_a_directory_that_is_not_whole_is_refused_by_name(saved: tuple[Path, PreTrainedModel]) -> None:
    weights = saved[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    for load in (lambda: load_model(saved[0], **CPU), lambda: model_directory(saved[0])):
        with pytest.raises(UserError, match=r"model.safetensors: .* it is cut off") as caught:
            load()
        assert caught.value.code == "bad-model"


def test_a_tokenizer_without_padding_pads_with_its_end_token(saved: tuple[Path, PreTrainedModel]) -> None:
    small_models.tokenizer().backend_tokenizer.no_padding()  # else a batch of another test is in what is saved
    small_models.tokenizer().save_pretrained(saved[0])
    settings = saved[0] / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    del content["pad_token"]
    settings.write_text(json.dumps(content), encoding="utf-8")
    _, tokenizer = load_model(saved[0], **CPU)
    assert tokenizer.pad_token == tokenizer.eos_token is not None


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_the_tiny_family(name: str) -> None:
    if not (checkpoints.directory(name) / "model.safetensors").is_file():
        parts.missing("checkpoints", f"{checkpoints.directory(name)} is not there")
    model, tokenizer = load_model(name, **CPU)
    assert count_parameters(model).total == sum(weight.numel() for weight in model.parameters())
    assert not model.training and tokenizer.padding_side == "left" and tokenizer.pad_token_id != tokenizer.eos_token_id
    for quantized in QUANTIZED:
        assert load_quantized(name, quantized)(IDS).logits.isfinite().all()


def test_where_a_model_lies(saved: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_directory("tiny") == checkpoints.directory("tiny")
    monkeypatch.chdir(saved[0].parent)
    assert model_directory(saved[0].name, "") == saved[0].resolve(), "a server may be started elsewhere"


def test_what_is_no_model(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "nothing", "tinny", "../x", ""):
        with pytest.raises(UserError, match="there is no model directory") as caught:
            load_model(name, **CPU)
        assert caught.value.code == "model-missing"
        with pytest.raises(UserError, match="there is no model directory"):
            model_directory(name)
    for revision in (None, "main", "v1.0", REVISION[:7]):
        with pytest.raises(UserError, match=r"OWNER/NAME .* not pinned .*40 hex digits") as caught:
            load_model("OWNER/NAME", revision=revision, **CPU)
        assert caught.value.code == "model-not-pinned"
    with pytest.raises(ValueError, match="quantized must be None or one of"):
        load_model("tiny", quantized="int2", **CPU)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no hub: a port of this machine where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_error_says_how_to_prefetch(hub_cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError) as caught:
        load_model("owner/name", revision=REVISION, **CPU)
    assert caught.value.code == "model-not-fetched"
    for language in ("en", "zh-TW"):
        assert f"hf download owner/name --revision {REVISION}" in caught.value.remedy[language]
    assert ("refused" in caught.value.cause.en) is not offline


def test_a_model_in_the_cache_needs_no_network(hub_cache: Path, saved: tuple[Path, PreTrainedModel]) -> None:
    snapshot = hub_cache / "models--owner--name" / "snapshots" / REVISION
    snapshot.parent.mkdir(parents=True)
    saved[0].rename(snapshot)
    assert fetch("owner/name", REVISION) == snapshot
    model, _ = load_model("owner/name", revision=REVISION, **CPU)
    assert torch.equal(model(IDS).logits, saved[1](IDS).logits)


def test_a_model_is_downloaded_once_the_hub_answers(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is a server that has nothing at its root, which is an answer; the download itself is a stand-in."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    def snapshot_download(name: str, *, revision: str, local_files_only: bool, allow_patterns: list[str]) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        if name == "owner/gone":
            raise FileNotFoundError("404: no such revision")
        assert "*.safetensors" in allow_patterns
        return f"{hub_cache}/{name}/{revision}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert fetch("owner/name", REVISION) == hub_cache / "owner/name" / REVISION
        with pytest.raises(UserError, match="404: no such revision"):
            fetch("owner/gone", REVISION)
        server.shutdown()


# Quantised loading.


def load_quantized(name: str | Path, quantized: str) -> PreTrainedModel:
    try:
        return load_model(name, quantized=quantized, **CPU)[0]
    except UserError as error:
        if error.code != "no-quantized":
            raise
        parts.missing("bitsandbytes", str(error))


@pytest.mark.parametrize(("quantized", "bits", "error"), [("nf4", 4, 0.15), ("int8", 8, 0.02)])
def test_quantized_loading(saved: tuple[Path, PreTrainedModel], quantized: str, bits: int, error: float) -> None:
    directory, original = saved
    model = load_quantized(directory, quantized)
    inputs = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    got, want = (each.model.layers[1].mlp.up_proj(inputs) for each in (model, original))
    assert 1e-3 < (got - want).norm() / want.norm() < error
    assert not torch.equal(model(IDS).logits, original(IDS).logits)
    # The counts are those of the original; the bytes of a quantised matrix are `bits` per value and its scales.
    assert count_parameters(model).total == count_parameters(original).total
    layer = original.model.layers[0]
    matrices = sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2) * len(original.model.layers)
    full, small = (memory_estimate(each, batch_size=1, seq_len=1).weights for each in (original, model))
    scales = small - (full - 4 * matrices) - matrices * bits // 8
    rows = sum(weight.shape[0] for weight in layer.parameters() if weight.dim() == 2) * len(original.model.layers)
    # int8: a float32 per row. nf4: a byte per 64 values, and per matrix the values of both code books and the scales' own scales.
    assert scales == 4 * rows if quantized == "int8" else matrices // 64 < scales < matrices // 64 + 14 * 4 * (16 + 256 + 8)


@pytest.mark.parametrize("quantized", QUANTIZED)
def test_quantized_loading_where_it_does_not_work(
    saved: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch, quantized: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python keeps for a package that cannot be imported
    with pytest.raises(UserError, match=r"weights do not work on cpu here: .*bitsandbytes") as caught:
        load_model(saved[0], quantized=quantized, **CPU)
    assert caught.value.code == "no-quantized"


# What libraries say although nothing is wrong.


@pytest.mark.parametrize("asked", [False, True])
def test_libraries_say_nothing_where_they_were_asked_to_be_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    level = logging.getLogger("bitsandbytes").level
    base = small_models.random_model()
    base.name_or_path = "OWNER/NAME"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logging.getLogger("bitsandbytes").setLevel(logging.WARNING)
            if asked:
                quiet_libraries()
            loud = logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
            get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
            warnings.warn("ours", stacklevel=1)
    finally:
        logging.getLogger("bitsandbytes").setLevel(level)
    said = [str(warning.message) for warning in caught]
    assert said[-1] == "ours"
    assert loud is not asked
    noise = ("`is_gradient_checkpointing` is deprecated", "Could not find a config file")
    for text in noise:
        assert any(message.startswith(text) for message in said) is not asked, "a library is quiet by itself now: take it out"


# Counts.


def test_counts_of_real_architectures() -> None:
    """Llama 2 7B, GPT-2 and GPT-NeoX 20B as published, without their weights."""
    llama = meta_model(LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32))
    assert {weight.device.type for weight in llama.parameters()} == {"meta"}
    assert count_parameters(llama) == ParameterCount(
        total=6_738_415_616,
        trainable=6_738_415_616,
        by_kind={
            "embedding": 32000 * 4096,
            "attention": 32 * 4 * 4096 * 4096,
            "mlp": 32 * 3 * 4096 * 11008,
            "norm": (2 * 32 + 1) * 4096,
            "head": 32000 * 4096,
        },
    )
    assert count_parameters(meta_model(GPT2Config())).total == 124_439_808
    assert count_parameters(meta_model(GPTNeoXConfig())).total == 20_554_567_680
    # LoRA on q and v of Llama 2 7B: 32 layers, 2 matrices, r (4096 + 4096) each.
    adapted = count_parameters(get_peft_model(llama, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])))
    assert adapted.trainable == adapted.by_kind["adapter"] == 32 * 2 * 8 * (4096 + 4096) == 4_194_304
    assert adapted.total == 6_738_415_616 + 4_194_304 and adapted.share == 4_194_304 / adapted.total


def test_counts_by_kind() -> None:
    tied = count_parameters(small_models.random_model())
    assert "head" not in tied.by_kind and tied.total == tied.trainable == sum(tied.by_kind.values())
    neox = count_parameters(small_models.random_model(small_models.gpt_neox_config(tie_word_embeddings=False)))
    assert list(neox.by_kind) == ["embedding", "attention", "mlp", "norm", "head"]
    assert neox.by_kind["norm"] == (2 * 2 + 1) * 2 * 32 and neox.by_kind["attention"] == 2 * (4 * 32 * 32 + 4 * 32)
    other = count_parameters(torch.nn.Linear(3, 2).requires_grad_(False))
    assert other == ParameterCount(8, 0, {"other": 8}) and other.share == 0.0 and KINDS[-1] == "other"
    assert count_parameters(torch.nn.Identity()).share == 0.0


# Memory.


def configurations() -> dict[str, tuple[Any, float]]:
    """name -> (configuration, how far the estimate of its activations may be off)."""
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {
        "llama": (LlamaConfig(**sizes), 0.03),
        "llama with grouped queries": (LlamaConfig(**sizes, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True), 0.03),
        "gpt-neox": (GPTNeoXConfig(**sizes), 0.15),
    }


@pytest.mark.parametrize("name", configurations())
def test_estimated_memory_is_what_is_measured(name: str) -> None:
    config, tolerance = configurations()[name]
    model = small_models.random_model(config).train()
    ids = torch.randint(300, (4, 96), generator=torch.Generator().manual_seed(0))
    estimate = memory_estimate(model, batch_size=4, seq_len=96)
    assert estimate == memory_estimate(meta_model(config), batch_size=4, seq_len=96)

    def forward() -> torch.Tensor:
        return model(input_ids=ids, labels=ids, use_cache=False).loss

    forward()  # what is allocated once and kept is not what one step needs
    assert estimate.activations == pytest.approx(peak_memory(forward), rel=tolerance)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        forward().backward()
        optimizer.step()

    peak = peak_memory(step)
    assert peak < estimate.total - estimate.weights < 1.3 * peak
    tensors = [*model.parameters(), *model.buffers()]
    assert estimate.weights == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert estimate.gradients == sum(weight.grad.untyped_storage().nbytes() for weight in model.parameters())
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert estimate.optimizer == sum(moment.untyped_storage().nbytes() for moment in moments)


def test_estimates_follow_what_is_trained_and_how() -> None:
    model = small_models.random_model()
    full = memory_estimate(model, batch_size=2, seq_len=64)
    assert memory_estimate(model, batch_size=4, seq_len=32) == full
    assert full.total == full.weights + full.gradients + full.optimizer + full.activations
    small = memory_estimate(model, batch_size=2, seq_len=64, state_bytes=2, checkpointing=True)
    assert small.optimizer == 2 * count_parameters(model).trainable and small.activations < full.activations
    half = memory_estimate(model.to(torch.bfloat16), batch_size=2, seq_len=64)
    assert (half.gradients, half.optimizer, half.activations) == (full.gradients / 2, full.optimizer / 2, full.activations / 2)
    model.requires_grad_(False)
    frozen = memory_estimate(model, batch_size=2, seq_len=64)
    assert frozen == MemoryEstimate(half.weights, 0, 0, half.activations)


def test_checkpointed_activations_are_estimated_too() -> None:
    model = small_models.random_model(configurations()["llama"][0]).train()
    model.activation_checkpointing_enable()
    ids = torch.randint(300, (4, 96), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    step()
    estimate = memory_estimate(model, batch_size=4, seq_len=96, checkpointing=True)
    plain = memory_estimate(model, batch_size=4, seq_len=96)
    peak = peak_memory(step)
    assert estimate.activations < 0.6 * plain.activations
    assert peak < estimate.activations + estimate.gradients < 1.4 * peak
