"""The shipped checkpoints: whole, loud when they are not, quick to load, and as good as their cards say."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from onepiece import world
from onepiece.course import model_files
from onepiece.course.errors import UserError
from onepiece.models import load_model, model_directory
from onepiece.tiny import checkpoints, model_card, skills
from onepiece.tiny.recipes import RECIPES
from onepiece.tiny.skills import Score

NAMES = checkpoints.NAMES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkpoints in a directory of their own, to be damaged."""
    return Path(shutil.copytree(checkpoints.CHECKPOINTS, tmp_path / "checkpoints"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_whole_and_listed(name: str) -> None:
    model_files.verify(name)
    files = {path.name for path in checkpoints.directory(name).iterdir()}
    assert files == {*checkpoints.HASHED_FILES, "README.md", "learning_curve.json"}


def test_all_checkpoints_together_are_small() -> None:
    assert sum(path.stat().st_size for path in checkpoints.CHECKPOINTS.rglob("*") if path.is_file()) <= 15e6


def test_a_flipped_bit_is_refused_with_the_command_that_repairs_it(copy: Path) -> None:
    weights = copy / "tiny" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError) as caught:
        model_files.verify("tiny", copy)
    assert caught.value.code == "bad-checkpoint"
    assert "tiny/model.safetensors" in caught.value.cause.en
    for remedy in (caught.value.remedy.en, caught.value.remedy.zh_tw):
        assert "git checkout -- shared/checkpoints" in remedy and "nox -s pretrain -- tiny" in remedy
    model_files.verify("tiny-draft", copy)  # the others are as they were


@pytest.mark.parametrize(
    ("missing", "says"), [("tiny/config.json", "tiny/config.json is missing"), ("SHA256SUMS", "SHA256SUMS is missing")]
)
def test_a_missing_file_is_refused(copy: Path, missing: str, says: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(UserError) as caught:
        model_files.verify("tiny", copy)
    assert says in caught.value.cause.en


def test_a_checkpoint_that_the_manifest_does_not_list_is_refused(copy: Path) -> None:
    with pytest.raises(UserError) as caught:
        model_files.verify("huge", copy)
    assert caught.value.code == "bad-checkpoint"


def test_windows_line_ends_are_no_damage(copy: Path) -> None:
    config = copy / "tiny" / "config.json"
    config.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    model_files.verify("tiny", copy)


def test_the_manifest_is_what_writing_it_again_gives(copy: Path) -> None:
    before = (copy / "SHA256SUMS").read_text()
    checkpoints.write_manifest(copy)
    assert (copy / "SHA256SUMS").read_text() == before


def test_a_finished_run_becomes_a_checkpoint_and_blesses_no_other(copy: Path) -> None:
    before = (copy / "SHA256SUMS").read_text()
    (copy / "tiny-draft" / "config.json").write_text("damaged")
    (copy / "tiny" / "model.safetensors").unlink()
    checkpoints.ship("tiny", checkpoints.directory("tiny"), copy)
    assert (copy / "SHA256SUMS").read_text() == before
    model_files.verify("tiny", copy)
    with pytest.raises(UserError):
        model_files.verify("tiny-draft", copy)


@pytest.mark.fault("one-road-checked")
@pytest.mark.parametrize(
    "load",
    [
        checkpoints.load_tiny,
        checkpoints.load_tokenizer,
        checkpoints.directory,
        model_directory,
        lambda name: model_directory(model_files.CHECKPOINTS / name),
        lambda name: load_model(name, device="cpu", dtype=torch.float32),
        lambda name: load_model(model_files.CHECKPOINTS / name, device="cpu", dtype=torch.float32),
        lambda name: load_model(name, device="cpu", dtype=torch.float32, quantized="nf4"),
    ],
)
def test_every_road_that_loads_a_shipped_model_checks_its_hashes(
    copy: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[str], object]
) -> None:
    weights = copy / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(model_files, "CHECKPOINTS", copy)
    model_files.shipped.cache_clear()
    try:
        with pytest.raises(UserError) as caught:
            load("tiny")
    finally:
        model_files.shipped.cache_clear()
    assert caught.value.code == "bad-checkpoint" and "tiny/model.safetensors" in caught.value.cause.en


def test_an_unknown_checkpoint_is_refused_by_name() -> None:
    with pytest.raises(UserError) as caught:
        checkpoints.load_tiny("huge")
    assert caught.value.code == "unknown-checkpoint" and "tiny-draft" in caught.value.remedy.en


@pytest.mark.parametrize("name", NAMES)
def test_loading_takes_less_than_a_second(name: str) -> None:
    checkpoints.load_tiny(name)  # imports
    model_files.shipped.cache_clear()
    began = time.process_time()
    model, tokenizer = checkpoints.load_tiny(name)
    assert time.process_time() - began < 1.0
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.padding_side == "left" and len(tokenizer) == model.config.vocab_size


def test_a_dtype_can_be_asked_for() -> None:
    model, _ = checkpoints.load_tiny("tiny", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_all_share_one_tokenizer_and_the_draft_is_clearly_smaller() -> None:
    tokenizers = {(checkpoints.directory(name) / "tokenizer.json").read_bytes() for name in NAMES}
    assert len(tokenizers) == 1
    sizes = {name: sum(weight.numel() for weight in checkpoints.load_tiny(name)[0].parameters()) for name in NAMES}
    assert sizes["tiny-draft"] < 0.4 * sizes["tiny"]
    assert all(1e5 < size < 1.5e6 for size in sizes.values())


def test_the_bias_model_has_a_bias_in_every_linear_layer() -> None:
    model, _ = checkpoints.load_tiny("tiny-bias")
    inner = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(inner) == 4 * model.config.num_hidden_layers
    assert all(module.bias is not None and module.bias.abs().max() > 0 for module in inner)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_with_left_padding_gives_the_answers_of_one_at_a_time(name: str) -> None:
    model, tokenizer = checkpoints.load_tiny(name)
    items = [item for family in (*world.TAUGHT, *world.HELD_BACK) for item in world.items(family, 4, 5, "held-out")]
    assert len({len(item.plain) for item in items}) > 10
    for chat in (False, True):
        together = skills.answers(model, tokenizer, items, chat=chat)
        assert together == skills.answers(model, tokenizer, items, chat=chat, batch_size=1)


@pytest.mark.parametrize("family", world.TAUGHT)
def test_the_target_knows_what_it_was_taught(family: str) -> None:
    model, tokenizer = checkpoints.load_tiny("tiny")
    items = [item for language in world.LANGUAGES for item in skills.evaluation_items(family, language, 20, seed=9)]
    # Not the card's items: 40 others, so one or two may be missed.
    assert skills.score(model, tokenizer, items).accuracy >= 0.9


@pytest.mark.parametrize("family", world.HELD_BACK)
@pytest.mark.parametrize("name", ["tiny", "tiny-bias"])
def test_what_was_held_back_is_not_known(name: str, family: str) -> None:
    model, tokenizer = checkpoints.load_tiny(name)
    items = [item for language in world.LANGUAGES for item in skills.evaluation_items(family, language, 20, seed=9)]
    assert skills.score(model, tokenizer, items).accuracy <= 0.15


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_what_was_measured(name: str) -> None:
    card = (checkpoints.directory(name) / "README.md").read_text(encoding="utf-8")
    model, tokenizer = checkpoints.load_tiny(name)
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in card
    for family in (*world.TAUGHT, *world.HELD_BACK):
        assert f"| {family} |" in card
    family = "reverse"
    cells = [cell.strip() for cell in next(line for line in card.splitlines() if line.startswith(f"| {family} |")).split("|")]
    for column, language in ((2, "en"), (4, "zh-TW")):
        measured = skills.score(model, tokenizer, skills.evaluation_items(family, language))
        assert cells[column] == f"{measured.accuracy:.0%}"


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_trains() -> None:
    from onepiece.tiny.corpus import tokenizer_texts
    from onepiece.tiny.tokenizer import train_tokenizer

    trained = json.loads(train_tokenizer(tokenizer_texts(), 1024).backend_tokenizer.to_str())
    shipped = json.loads((checkpoints.directory("tiny") / "tokenizer.json").read_text(encoding="utf-8"))
    assert trained["model"] == shipped["model"] and trained["pre_tokenizer"] == shipped["pre_tokenizer"]


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_curve_was_kept(name: str) -> None:
    record = json.loads((checkpoints.directory(name) / "learning_curve.json").read_text(encoding="utf-8"))
    curve = record["curve"]
    # What `nox -s pretrain` would train today is what was shipped.
    assert record["recipe"] == json.loads(json.dumps(asdict(RECIPES[name])))
    assert curve[-1]["step"] == RECIPES[name].steps
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert [point["step"] for point in curve] == sorted(point["step"] for point in curve)


def test_wilson_intervals_are_those_of_the_formula() -> None:
    # Computed by hand: 8 of 10 at 95% gives 0.4902 to 0.9433 (Wilson 1927).
    low, high = Score(8, 10).interval
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Score(0, 50).interval[0] == 0.0 and Score(50, 50).interval[1] == pytest.approx(1.0)
    assert Score(0, 50).interval[1] == pytest.approx(0.0714, abs=1e-4)
    assert str(Score(8, 10)) == "80.0% [49.0%, 94.3%]"
    assert Score(1, 2) + Score(3, 4) == Score(4, 6)


def test_nothing_to_score_is_an_error() -> None:
    model, tokenizer = checkpoints.load_tiny("tiny-draft")
    with pytest.raises(ValueError, match="no items"):
        skills.score(model, tokenizer, [])


def test_a_family_that_falls_short_is_named_in_the_card() -> None:
    scores = {
        (family, language, chat): Score(90 if family == "lookup" else 0 if family in world.HELD_BACK else 100, 100)
        for family in (*world.TAUGHT, *world.HELD_BACK)
        for language in world.LANGUAGES
        for chat in (False, True)
    }
    assert model_card.shortfalls(scores) == ["lookup"]
    model, tokenizer = checkpoints.load_tiny("tiny")
    text = model_card.card("tiny", model, tokenizer, scores, checkpoints.directory("tiny"))
    assert "lookup (90.0%)" in text and len(re.findall("lookup", text)) == 3


def test_chinese_costs_more_tokens_outside_the_small_world() -> None:
    _, tokenizer = checkpoints.load_tiny("tiny")
    inside = model_card.tokens_per_chinese_character(tokenizer, "介紹一下圖書館")
    outside = model_card.tokens_per_chinese_character(tokenizer, model_card.GENERAL_CHINESE)
    assert inside < 1 < outside <= 3
    assert math.isfinite(outside)
