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


def lora_config(model: torch.nn.Module, settings: Any, kinds: tuple[str, ...] | None = None, *, rank: int | None = None) -> LoraConfig:
    """LoRA on the Linear layers of `model` that `target_linears` names, with the profile's scale alpha / r.

    Args:
        kinds: as `target_linears` takes them.
        rank: None for the profile's.
    """
    from peft import LoraConfig

    rank = settings.rank if rank is None else rank
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank * settings.alpha / settings.rank,
        lora_dropout=0.0,
        target_modules=target_linears(model, kinds),
    )


def lora_model(settings: Any, seed: int) -> PeftModel:
    """A fresh base with the lab's own adapter in it; `seed` decides the random A (B is zero)."""
    base, _ = load_base(settings)
    return adapted_by(lora_config(base, settings), settings, seed)


def adapted_by(config: LoraConfig, settings: Any, seed: int) -> PeftModel:
    """A fresh base with a fresh adapter in it, as a configuration wants it."""
    from peft import get_peft_model

    base, _ = load_base(settings)
    # An adapter without its base is nothing. Its file names the base, which peft copies from here, and the commit.
    base.name_or_path, revision = base_identity(settings)
    config.revision = revision or None
    torch.manual_seed(seed)
    return get_peft_model(base, config)


def load_adapted(settings: Any, directory: Path, *, name: str = "default", quantized: str | None = None) -> PeftModel:
    """A fresh base with an adapter from disk in it, for inference; more can be put beside it by `load_adapter`."""
    from peft import PeftModel

    base, _ = load_base(settings, quantized=quantized)
    return PeftModel.from_pretrained(base, directory, adapter_name=name).eval()
