"""Load a saved model where nothing is left of its training: `python -m fresh_process MODEL INPUTS OUTPUT DEVICE`.

INPUTS is what `torch.save` wrote of a batch (`input_ids`, `attention_mask`, `position_ids`); OUTPUT gets the logits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def logits_of_a_fresh_process(model: Path, inputs: dict[str, Tensor], device: torch.device) -> Tensor:
    """The logits (batch, seq, vocabulary) that a new Python process gets from a saved model.

    Raises:
        RuntimeError: the process failed; says what it wrote last.
    """
    with tempfile.TemporaryDirectory() as directory:
        given, made = Path(directory) / "inputs.pt", Path(directory) / "logits.pt"
        torch.save({name: tensor.cpu() for name, tensor in inputs.items()}, given)
        command = [sys.executable, "-m", "fresh_process", str(model), str(given), str(made), str(device)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            msg = f"the fresh process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
            raise RuntimeError(msg)
        return torch.load(made, weights_only=True)


def main(model: str, inputs: str, output: str, device: str) -> None:
    """Load, run once, write the logits."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # as in the notebook: another number of threads adds in another order
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to(device).eval()
    batch = {name: tensor.to(device) for name, tensor in torch.load(inputs, weights_only=True).items()}
    with torch.inference_mode():
        torch.save(loaded(**batch).logits.cpu(), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
