"""What every notebook of this lab does in the same way: a base with a LoRA in it, fresh or from disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lora_targets import target_linears
from onepiece.adaptation import base_identity, load_base
from onepiece.models import quiet_libraries

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

quiet_libraries()  # before peft is imported, which tells of things that are not wrong


def lora_config(model: torch.nn.Module, settings: Any, kinds: tuple[str, ...] | None = None) -> LoraConfig:
    """LoRA on the Linear layers of `model` that `target_linears` names, with the profile's rank and alpha."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=target_linears(model, kinds),
    )


def lora_model(settings: Any, seed: int) -> PeftModel:
    """A fresh base with a fresh adapter in it; `seed` decides the random A (B is zero)."""
    from peft import get_peft_model

    base, _ = load_base(settings)
    # An adapter without its base is nothing. Its file names the base, which peft copies from here, and the commit.
    base.name_or_path, revision = base_identity(settings)
    config = lora_config(base, settings)
    config.revision = revision or None
    torch.manual_seed(seed)
    return get_peft_model(base, config)


def load_adapted(settings: Any, directory: Path, *, name: str = "default", quantized: str | None = None) -> PeftModel:
    """A fresh base with an adapter from disk in it, for inference; more can be put beside it by `load_adapter`."""
    from peft import PeftModel

    base, _ = load_base(settings, quantized=quantized)
    return PeftModel.from_pretrained(base, directory, adapter_name=name).eval()
