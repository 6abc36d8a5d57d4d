"""The files that a model is made from: whether a directory holds them whole, and whether the shipped ones are what was shipped.

    shipped("tiny")                    # its directory, when every hash in `SHA256SUMS` is right
    verify_directory(Path("my-model")) # a directory that somebody gave, before anything is started on it

Standard library only: the same check stands before a run, before a server, and before `from_pretrained`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.places import SHARED
from onepiece.course.text import tr

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

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.json", "vocab.txt")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LFS_POINTER = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LENGTH_BYTES = 8  # before the header of a safetensors file, https://huggingface.co/docs/safetensors, "Format"


@cache
def shipped(name: str) -> Path:
    """Where checkpoint `name` lies. Verified, once per process: labs load the same one again for every seed.

    Raises:
        UserError: "unknown-checkpoint", "bad-checkpoint".
    """
    verify(known(name), CHECKPOINTS)
    return CHECKPOINTS / name


def known(name: str) -> str:
    """`name`, if a checkpoint is called so.

    Raises:
        UserError: "unknown-checkpoint".
    """
    if name not in NAMES:
        raise UserError("unknown-checkpoint", name=name, choices=", ".join(NAMES))
    return name


def sha256(path: Path) -> str:
    """The hash of a file, as `sha256sum` prints it. A text file is hashed with Unix line ends, whatever the checkout made of it."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        content = content.replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


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


def verify_directory(path: Path) -> Path:
    """The directory of a model, resolved, if it can be loaded as far as its files say.

    Configuration, weights and tokenizer must be there and be no Git LFS pointers; JSON must be JSON, and safetensors as long as their
    headers say. A shipped checkpoint that is given by its path must have the right hashes.

    Raises:
        UserError: "model-missing", "bad-model" (which names the file and what is wrong with it), "bad-checkpoint".
    """
    path = path.resolve()
    if not (path / "config.json").is_file():
        raise UserError("model-missing", path=path)
    if path.parent == CHECKPOINTS.resolve() and path.name in NAMES:
        return shipped(path.name)
    if not isinstance(_json(path / "config.json").get("model_type"), str):
        raise _bad(
            path / "config.json", tr("it has no model_type, so it is no model of Transformers", "沒有 model_type，不是 Transformers 的模型")
        )
    for weights in _weights(path):
        _verify_weights(weights)
    found = [path / name for name in _TOKENIZERS if (path / name).is_file()]
    if not found:
        raise _bad(path, tr(f"it has no tokenizer ({_TOKENIZERS[0]})", f"缺少 tokenizer（{_TOKENIZERS[0]}）"))
    for file in (*found, path / "tokenizer_config.json", path / "generation_config.json"):
        if file.is_file() and file.suffix == ".json":
            _json(file)
        elif file.is_file():
            _refuse_pointer(file)
    return path


def _weights(path: Path) -> list[Path]:
    for name in _WEIGHTS:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            shards = _json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise _bad(index, tr("it has no weight_map", "沒有 weight_map"))
            return [path / str(shard) for shard in sorted(set(map(str, shards.values())))]
    raise _bad(path, tr(f"it has no weights ({_WEIGHTS[0]})", f"缺少權重（{_WEIGHTS[0]}）"))


def _verify_weights(path: Path) -> None:
    if not path.is_file():
        raise _bad(path, tr("it is missing, and the index names it", "索引檔列出了它，檔案卻不存在"))
    _refuse_pointer(path)
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        if size == 0:
            raise _bad(path, tr("it is empty", "檔案是空的"))
        return
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = stream.read(length) if _LENGTH_BYTES + length <= size else b""
    try:
        entries = json.loads(header.decode())
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):  # cut off, or never such a file
        what = tr(f"its header cannot be read; {size:,} bytes are here", f"無法讀取它的標頭；檔案有 {size:,} 位元組")
        raise _bad(path, what) from None
    wanted = _LENGTH_BYTES + length + max(ends, default=0)
    if size != wanted:
        what = tr(f"{size:,} bytes of {wanted:,} are here: it is cut off", f"應有 {wanted:,} 位元組，只有 {size:,}：檔案被截斷了")
        raise _bad(path, what if size < wanted else tr("it is longer than its header says", "檔案比標頭所說的還長"))


def _json(path: Path) -> dict[str, Any]:
    _refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _bad(path, tr(f"no valid JSON ({error})", f"不是正確的 JSON（{error}）")) from None
    if not isinstance(content, dict):
        raise _bad(path, tr("it is no JSON object", "內容不是 JSON 物件"))
    return content


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise _bad(path, tr("it is a Git LFS pointer, not the file itself", "它只是 Git LFS 的指標檔，不是檔案本身"))


def _bad(path: Path, reason: str) -> UserError:
    return UserError("bad-model", path=path, reason=reason)
