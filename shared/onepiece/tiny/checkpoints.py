"""The checkpoints that the repository ships: where they are, whether they are whole, how to load them.

    from onepiece.tiny.checkpoints import load_tiny

    model, tokenizer = load_tiny("tiny")

Every file of a checkpoint that a model is made from is listed in `SHA256SUMS`, and nothing is loaded whose hash is wrong.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from onepiece.course.errors import UserError
from onepiece.course.model_files import CHECKPOINTS, HASHED_FILES, NAMES, known, sha256, shipped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def directory(name: str = "tiny") -> Path:
    """Where checkpoint `name` lies, verified: what `from_pretrained`, vLLM and lm-eval take as a path.

    Raises:
        UserError: "unknown-checkpoint", or "bad-checkpoint" if a file is not what was shipped.
    """
    return shipped(name)


def write_manifest(root: Path = CHECKPOINTS, names: tuple[str, ...] = NAMES) -> None:
    """Hash the checkpoints `names` under `root` anew into its `SHA256SUMS` (the format of `sha256sum --check`).

    Lines of other checkpoints stay: hashing what may be damaged would bless the damage.
    """
    manifest = root / "SHA256SUMS"
    listed = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
    lines = [line for line in listed if not line.partition("  ")[2].startswith(tuple(f"{name}/" for name in names))]
    for name in names:
        lines += [f"{sha256(root / name / file)}  {name}/{file}" for file in HASHED_FILES]
    ordered = sorted(lines, key=lambda line: line.partition("  ")[2])
    manifest.write_text("\n".join(ordered) + "\n", encoding="utf-8", newline="\n")


def ship(name: str, source: Path, root: Path = CHECKPOINTS) -> None:
    """Make the finished pretraining run in `source` the checkpoint `name`. Its card is then due: `nox -s skills`.

    Raises:
        UserError: "unknown-checkpoint", or "no-write" if the checkout cannot be written.
    """
    known(name)
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in (*HASHED_FILES, "learning_curve.json"):
            shutil.copyfile(source / file, root / name / file)
        write_manifest(root, (name,))
    except PermissionError as error:
        raise UserError("no-write", path=root, reason=error.strerror) from error


def load_tiny(
    name: str = "tiny", *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A shipped model, in evaluation mode, and its tokenizer (which pads on the left).

    Args:
        name: one of `NAMES`.

    Raises:
        UserError: "unknown-checkpoint", or "bad-checkpoint" if a file is not what was shipped.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory(name), dtype=dtype, local_files_only=True).to(device)
    return model.eval(), load_tokenizer(name)


def load_tokenizer(name: str = "tiny") -> PreTrainedTokenizerFast:
    """The tokenizer alone; all checkpoints share one."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory(name), local_files_only=True)
