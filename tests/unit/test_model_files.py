"""A model directory that is not whole is refused by name before anything starts on it, on every road that the host has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onepiece.course import model_files
from onepiece.course.errors import UserError
from onepiece.course.model_files import CHECKPOINTS, verify_directory
from onepiece.host.serving import stack
from onepiece.serving import servers

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 12\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model that is not a shipped one."""
    return Path(shutil.copytree(CHECKPOINTS / "tiny-draft", tmp_path / "a model"))


def cut(path: Path, bytes_left: int) -> None:
    path.write_bytes(path.read_bytes()[:bytes_left])


def in_shards(model: Path, *names: str) -> None:
    """The same weights under other names, all but the last of them missing."""
    (model / "model.safetensors").rename(model / names[-1])
    index = {"metadata": {}, "weight_map": {f"weight-{number}": name for number, name in enumerate(names)}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def test_a_whole_model_is_taken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify_directory(model) == model.resolve()
    monkeypatch.chdir(model.parent)
    assert verify_directory(Path(model.name)) == model.resolve()
    assert all(verify_directory(CHECKPOINTS / name) == CHECKPOINTS / name for name in model_files.NAMES)
    (model / "generation_config.json").unlink()
    (model / "tokenizer_config.json").unlink()
    in_shards(model, "model-00001-of-00001.safetensors")
    assert verify_directory(model) == model.resolve()


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "weights are a pointer": (lambda model: (model / "model.safetensors").write_bytes(POINTER), "model.safetensors", "Git LFS pointer"),
    "tokenizer is a pointer": (lambda model: (model / "tokenizer.json").write_bytes(POINTER), "tokenizer.json", "Git LFS pointer"),
    "config is a pointer": (lambda model: (model / "config.json").write_bytes(POINTER), "config.json", "Git LFS pointer"),
    "weights are cut off": (lambda model: cut(model / "model.safetensors", 300_000), "model.safetensors", "it is cut off"),
    "weights are cut off in the header": (
        lambda model: cut(model / "model.safetensors", 100),
        "model.safetensors",
        "header cannot be read",
    ),
    "weights are empty": (lambda model: cut(model / "model.safetensors", 0), "model.safetensors", "header cannot be read"),
    "weights go on": (lambda model: (model / "model.safetensors").open("ab").write(b"x"), "model.safetensors", "longer than its header"),
    "weights are a page": (
        lambda model: (model / "model.safetensors").write_text("<html>not found</html>"),
        "model.safetensors",
        "header cannot be read",
    ),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "a model", "it has no weights"),
    "a shard is missing": (
        lambda model: in_shards(model, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        "model-00001-of-00002.safetensors",
        "the index names it",
    ),
    "a shard is cut off": (
        lambda model: (in_shards(model, "model-1.safetensors"), cut(model / "model-1.safetensors", 300_000)),
        "model-1.safetensors",
        "it is cut off",
    ),
    "older weights are empty": (
        lambda model: ((model / "model.safetensors").unlink(), (model / "pytorch_model.bin").touch()),
        "pytorch_model.bin",
        "it is empty",
    ),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "a model", "it has no tokenizer"),
    "tokenizer is cut off": (lambda model: cut(model / "tokenizer.json", 1000), "tokenizer.json", "no valid JSON"),
    "config is cut off": (lambda model: cut(model / "config.json", 100), "config.json", "no valid JSON"),
    "config is a list": (lambda model: (model / "config.json").write_text("[]"), "config.json", "no JSON object"),
    "config of something else": (lambda model: (model / "config.json").write_text("{}"), "config.json", "no model_type"),
}


@pytest.mark.fault("model-not-whole")
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_named(model: Path, name: str) -> None:
    damage, file, reason = DAMAGE[name]
    damage(model)
    with pytest.raises(UserError) as caught:
        verify_directory(model)
    assert caught.value.code == "bad-model"
    assert f"{file}: " in caught.value.cause.en and reason in caught.value.cause.en


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        verify_directory(tmp_path)
    assert caught.value.code == "model-missing"


@pytest.fixture
def altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shipped checkpoints, with other weights in `tiny`."""
    copy = Path(shutil.copytree(CHECKPOINTS, tmp_path / "checkpoints"))
    weights = copy / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(model_files, "CHECKPOINTS", copy)
    model_files.shipped.cache_clear()
    yield copy
    model_files.shipped.cache_clear()


@pytest.mark.fault("one-road-checked")
def test_serving_checks_the_hashes_of_what_is_shipped(altered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "start", lambda *arguments, **options: pytest.fail("it was started"))
    settings = stack.Settings(model="tiny", models=altered)
    ports = {name: servers.free_port() for name in ("http", "grpc", "metrics")}
    for start in (lambda: stack.start_vllm(settings, 1, None), lambda: stack.start_triton(settings, ports)):
        with pytest.raises(UserError) as caught:
            start()
        assert caught.value.code == "bad-checkpoint"
    assert stack.Settings(model="tiny-draft", models=altered).path() == altered / "tiny-draft"


@pytest.mark.fault("model-not-whole")
def test_serving_names_what_is_wrong_with_a_model(model: Path) -> None:
    cut(model / "model.safetensors", 1000)
    with pytest.raises(UserError) as caught:
        stack.Settings(model=str(model)).path()
    assert caught.value.code == "bad-model"
