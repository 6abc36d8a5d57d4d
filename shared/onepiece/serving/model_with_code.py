"""A directory with a model of a class that Transformers lacks: its weights, and the file in which the class is written.

    save_with_code(model, directory)                     # the module of type(model) is copied beside the weights
    with served(directory, trust_code=True) as address:  # see `plain_model`
        ...

The module must import nothing but Transformers, torch and the standard library: whoever loads the directory has no more.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel


def save_with_code(model: PreTrainedModel, directory: Path | str) -> Path:
    """Write a model and the file of its class; the directory, made if need be.

    `transformers serve` (5.23) looks for the class that a configuration names among those of Transformers. So the configuration names
    the auto class, which looks into `auto_map`, and finds the class in the file.

    Args:
        model: of a class in a module of its own, whose configuration is one of Transformers.
    """
    type(model).register_for_auto_class("AutoModelForCausalLM")
    model.save_pretrained(directory)
    path = Path(directory) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"architectures": ["AutoModelForCausalLM"]}, indent=2) + "\n", encoding="utf-8")
    return Path(directory)
