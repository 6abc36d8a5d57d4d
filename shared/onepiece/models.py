"""Loads a model, counts its parameters, estimates its memory.

    from onepiece.models import count_parameters, load_model, memory_estimate, meta_model

    model, tokenizer = load_model("tiny", device="cpu", dtype=torch.float32)
    model, tokenizer = load_model("OWNER/NAME", revision="40 hex digits", device="cuda", dtype=torch.bfloat16, quantized="nf4")
    count_parameters(meta_model(LlamaConfig())).total    # 6,738,415,616, without a byte of weights

Nothing here guesses a device, a type or a revision: a lab's numbers depend on all three.
"""

from __future__ import annotations

import logging
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onepiece.course.errors import UserError
from onepiece.course.model_files import verify_directory
from onepiece.course.text import tr
from onepiece.tiny import checkpoints

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

QUANTIZED = ("nf4", "int8")
KINDS = ("embedding", "attention", "mlp", "norm", "head", "adapter", "other")

_PATTERNS = (  # the first that matches wins: `post_attention_layernorm` is a norm, `q_proj.lora_A` an adapter
    ("adapter", r"(lora|ia3|vera|boft)_|adapter|prompt|prefix"),
    ("norm", r"norm|\bln_"),
    ("head", r"lm_head|embed_out"),
    ("embedding", r"embed|\bw[tp]e\b"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|feed_forward"),
)
_NOISE = "|".join(
    (
        "IProgress not found",  # tqdm, which then draws its bars as text
        "`is_gradient_checkpointing` is deprecated",  # peft 0.21 reads what transformers 5.23 has renamed
        "Could not find a config file",  # peft, where it cannot ask the hub about the base of an adapter that it saves
    )
)
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # not the same weights again in older formats


def quiet_libraries() -> None:
    """Silence what transformers, peft and bitsandbytes say although nothing is wrong; before peft is imported, which says some of it."""
    warnings.filterwarnings("ignore", message=_NOISE)
    # It tells at import that an optional package of kernels is missing, and at every layer that int8 computes in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def load_model(
    name_or_path: str | Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    revision: str | None = None,
    quantized: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, and its tokenizer, which pads on the left.

    Args:
        name_or_path: `tiny`, `tiny-draft`, `tiny-bias`; the directory of a model saved with `save_pretrained`; or
            OWNER/NAME on the hub, which is downloaded if it is not in the cache yet.
        device: where the weights go.
        dtype: of the weights; with `quantized`, of the computation and of what stays unquantised.
        revision: the full commit hash of a hub model. A branch moves, and with it every number of the lab.
        quantized: None; `nf4` (4 bits, double quantisation: QLoRA, https://arxiv.org/abs/2305.14314, section 3) or `int8`
            (LLM.int8(), https://arxiv.org/abs/2208.07339) by bitsandbytes. Embeddings, norms and the head stay in `dtype`.

    Raises:
        UserError: "no-quantized", "bad-model" (weights that the model needs are missing), or what `model_directory` raises.
        ValueError: there is no such `quantized`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights, which takes a second; downloads keep theirs
    if quantized is not None and quantized not in QUANTIZED:
        msg = f"quantized must be None or one of {QUANTIZED}, not {quantized!r}"
        raise ValueError(msg)
    if name_or_path in checkpoints.NAMES and quantized is None:
        return checkpoints.load_tiny(str(name_or_path), device=device, dtype=dtype)
    directory = model_directory(name_or_path, revision)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if quantized is None:
        model, loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        if missing := sorted(loaded["missing_keys"]):  # Transformers would go on with random ones
            raise UserError("bad-model", path=directory, reason=tr(f"the weights lack {missing[0]}", f"權重裡沒有 {missing[0]}"))
        model = model.to(device)
    else:
        model = _load_quantized(directory, quantized, torch.device(device), dtype)
    return model.eval(), tokenizer


def model_directory(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Where a model lies: what `from_pretrained` and servers take as a path.

    Args:
        name_or_path: as `load_model` takes it.
        revision: likewise; None or empty for what is not of the hub.

    Raises:
        UserError: "model-missing", "bad-model", "bad-checkpoint", "model-not-pinned", "model-not-fetched".
    """
    if name_or_path in checkpoints.NAMES:
        return checkpoints.directory(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return verify_directory(path)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name_or_path)):
        raise UserError("model-missing", path=path)
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError("model-not-pinned", model=name_or_path, revision=revision)
    return verify_directory(fetch(str(name_or_path), revision))


def fetch(name: str, revision: str) -> Path:
    """The snapshot of a hub model in the cache, downloaded if need be.

    Raises:
        UserError: "model-not-fetched", which says how to prefetch.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(*, local: bool) -> Path:
        return Path(snapshot_download(name, revision=revision, local_files_only=local, allow_patterns=_FETCHED))

    try:
        return snapshot(local=True)
    except LocalEntryNotFoundError as error:
        reason = _first_line(error)
    if not constants.HF_HUB_OFFLINE:
        try:
            _reach(constants.ENDPOINT)
            return snapshot(local=False)
        except OSError as error:  # all of the hub's errors are
            reason = _first_line(error)
    raise UserError("model-not-fetched", model=name, revision=revision, reason=reason, hf=Path(sys.executable).parent / "hf")


def _reach(url: str) -> None:
    """Ask once: without a network the hub's own client tries each file six times, which takes minutes."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # it answered


def _load_quantized(directory: Path, quantized: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _probe_bitsandbytes(quantized, device, dtype)
    if quantized == "nf4":
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    else:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, quantization_config=settings, device_map={"": device})


def _probe_bitsandbytes(quantized: str, device: torch.device, dtype: torch.dtype) -> None:
    """Run one small layer: bitsandbytes imports on machines where its kernels then fail."""
    quiet_libraries()
    try:
        import bitsandbytes

        layer = (
            bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=dtype)
            if quantized == "nf4"
            else bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
        )
        result = layer.to(device)(torch.ones(1, 64, device=device, dtype=dtype))
    except Exception as error:  # a missing package, library, symbol or kernel: whatever it is, it is the reason to give
        raise UserError("no-quantized", quantized=quantized, device=device, reason=_first_line(error)) from error
    if not bool(result.isfinite().all()):
        raise UserError("no-quantized", quantized=quantized, device=device, reason="a test layer gives no finite numbers")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".")


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Numbers of parameters. A tied weight counts once, a quantised one with the values it stands for."""

    total: int
    trainable: int
    by_kind: dict[str, int]
    """Those of `KINDS` that occur -> how many of `total`."""

    @property
    def share(self) -> float:
        """The trainable share, 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


def count_parameters(model: torch.nn.Module) -> ParameterCount:
    """Count the parameters of any module; on the `meta` device too."""
    by_kind: Counter[str] = Counter()
    trainable = 0
    for name, weight in model.named_parameters():
        kind = next((kind for kind, pattern in _PATTERNS if re.search(pattern, name)), "other")
        by_kind[kind] += _values(weight)
        trainable += _values(weight) if weight.requires_grad else 0
    return ParameterCount(sum(by_kind.values()), trainable, {kind: by_kind[kind] for kind in KINDS if kind in by_kind})


def _values(weight: torch.nn.Parameter) -> int:
    state = getattr(weight, "quant_state", None)  # a 4-bit weight holds two values in a byte, in a shape of its own
    return weight.numel() if state is None else torch.Size(state.shape).numel()


def meta_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The architecture of `config` on the `meta` device: every shape and count, no weights, a second for 7B parameters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a training step holds at once."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes; an upper bound, since activations are released while gradients are made."""
        return self.weights + self.gradients + self.optimizer + self.activations


def memory_estimate(
    model: PreTrainedModel, *, batch_size: int, seq_len: int, state_bytes: int | None = None, checkpointing: bool = False
) -> MemoryEstimate:
    """What one training step of `model` holds, in bytes; on the `meta` device too.

    - weights: what parameters and buffers occupy, with the scales of quantised ones.
    - gradients: one value of the weight's own type per trainable parameter.
    - optimizer: `state_bytes` per trainable parameter.
    - activations, in values per token, for L Llama-style layers with fused attention (h hidden, a query and k key-value heads of
      size d, i intermediate, v vocabulary): L (6h + 2ad + 2kd + 4i) + 3h + 2v. Per layer: two norms keep input,
      normalised and scaled values; attention keeps q, k, v and its output; the gated MLP keeps gate, its activation, up and
      their product. At the end: the last norm, logits and their log-softmax. An MLP without gate keeps 2i, and LayerNorm 2h.
      With checkpointing only the inputs of the layers stay, and one layer at a time is computed again:
      L h + (6h + 2ad + 2kd + 4i) + 3h + 2v. Within a few percent for Llama in float32, 15% for other architectures, and
      more than is needed if weights are frozen.

    Args:
        batch_size, seq_len: tokens of a step are their product.
        state_bytes: bytes of optimizer state per trainable parameter: None for AdamW, two values of the weight's own
            type; 2 for 8-bit AdamW; 0 for plain SGD, or for inference.
        checkpointing: whether the layers are checkpointed.
    """
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trainable)
    optimizer = 2 * gradients if state_bytes is None else state_bytes * sum(weight.numel() for weight in trainable)
    config = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    intermediate = getattr(config, "intermediate_size", None) or 4 * hidden
    gated = any("gate_proj" in name for name, _ in model.named_modules())
    per_layer = (6 if gated else 4) * hidden + 2 * (heads + kv_heads) * head_dim + (4 if gated else 2) * intermediate
    at_end = (3 if gated else 2) * hidden + 2 * config.vocab_size
    per_token = (layers * hidden + per_layer if checkpointing else layers * per_layer) + at_end
    activations = batch_size * seq_len * per_token * torch.empty((), dtype=model.dtype).element_size()
    return MemoryEstimate(_weight_bytes(model), gradients, optimizer, activations)


def _weight_bytes(model: torch.nn.Module) -> int:
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    for weight in model.parameters():
        if (state := getattr(weight, "quant_state", None)) is not None:
            tensors += state.as_dict().values()
        tensors.append(getattr(weight, "SCB", None))  # the scales of an int8 weight, one per row
    # The first forward pass moves them from the weight to the layer.
    tensors += [getattr(getattr(module, "state", None), "SCB", None) for module in model.modules()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
