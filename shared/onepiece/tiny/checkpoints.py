"""The checkpoints that the repository ships: where they are, whether they are whole, how to load them.

    from onepiece.tiny.checkpoints import load_tiny

    model, tokenizer = load_tiny("tiny")

Every file of a checkpoint that a model is made from is listed in `SHA256SUMS`, and nothing is loaded whose hash is wrong.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from onepiece.course.errors import UserError
from onepiece.course.places import SHARED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAMES = ("tiny", "tiny-draft", "tiny-bias")
CHECKPOINTS = SHARED / "checkpoints"
HASHED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What a model is made from. Model card and learning curve are text for people, and are not hashed."""


def directory(name: str = "tiny") -> Path:
    """Where checkpoint `name` lies: what `from_pretrained`, vLLM and lm-eval take as a path.

    Raises:
        UserError: "unknown-checkpoint".
    """
    if name not in NAMES:
        raise UserError("unknown-checkpoint", name=name, choices=", ".join(NAMES))
    return CHECKPOINTS / name


def sha256(path: Path) -> str:
    """The hash of a file, as `sha256sum` prints it. A text file is hashed with Unix line ends, whatever the checkout made of it."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        content = content.replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def write_manifest(root: Path = CHECKPOINTS, names: tuple[str, ...] = NAMES) -> None:
    """Hash the checkpoints `names` under `root` anew into its `SHA256SUMS` (the format of `sha256sum --check`).

    Lines of other checkpoints stay: hashing what may be damaged would bless the damage.
    """
    manifest = root / "SHA256SUMS"
    known = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
    lines = [line for line in known if not line.partition("  ")[2].startswith(tuple(f"{name}/" for name in names))]
    for name in names:
        lines += [f"{sha256(root / name / file)}  {name}/{file}" for file in HASHED_FILES]
    ordered = sorted(lines, key=lambda line: line.partition("  ")[2])
    manifest.write_text("\n".join(ordered) + "\n", encoding="utf-8", newline="\n")


def ship(name: str, source: Path, root: Path = CHECKPOINTS) -> None:
    """Make the finished pretraining run in `source` the checkpoint `name`. Its card is then due: `nox -s skills`.

    Raises:
        UserError: "unknown-checkpoint", or "no-write" if the checkout cannot be written.
    """
    directory(name)
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in (*HASHED_FILES, "learning_curve.json"):
            shutil.copyfile(source / file, root / name / file)
        write_manifest(root, (name,))
    except PermissionError as error:
        raise UserError("no-write", path=root, reason=error.strerror) from error


def verify(name: str, root: Path = CHECKPOINTS) -> None:
    """Compare every file of a checkpoint with the manifest.

    Raises:
        UserError: "bad-checkpoint", which says what is wrong and how to repair it.
    """
    manifest = root / "SHA256SUMS"
    if not manifest.is_file():
        raise UserError("bad-checkpoint", name=name, reason=f"{manifest} is missing")
    expected: dict[str, str] = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        digest, _, path = line.partition("  ")
        if path.startswith(f"{name}/"):
            expected[path] = digest
    if not expected:
        raise UserError("bad-checkpoint", name=name, reason=f"{manifest.name} does not list it")
    for path, digest in expected.items():
        if not (root / path).is_file():
            raise UserError("bad-checkpoint", name=name, reason=f"{path} is missing")
        if sha256(root / path) != digest:
            raise UserError("bad-checkpoint", name=name, reason=f"the SHA-256 of {path} is wrong")


@cache
def _verified(name: str) -> Path:
    """Once per process: labs load the same checkpoint again for every seed."""
    verify(name)
    return directory(name)


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

    directory(name)
    path = _verified(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True).to(device)
    return model.eval(), load_tokenizer(name)


def load_tokenizer(name: str = "tiny") -> PreTrainedTokenizerFast:
    """The tokenizer alone; all checkpoints share one."""
    from transformers import AutoTokenizer

    directory(name)
    return AutoTokenizer.from_pretrained(_verified(name), local_files_only=True)
