"""Tasks of the fine-tuning labs: the base comes anew each time, tasks do not leak, every method sees the same batches."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_models
import torch

from onepiece import world
from onepiece.adaptation import Task, accuracy, base_identity, batches, best_constant, fit, forgetting, load_base, load_task
from onepiece.course.errors import UserError
from onepiece.tiny import checkpoints, skills
from onepiece.tiny.skills import Score


def settings(**changes: Any) -> SimpleNamespace:
    """What `lab.settings` says of the model on the cpu profile."""
    values = {"model": None, "base_model": "tiny", "base_revision": "", "device": torch.device("cpu"), "dtype": torch.float32}
    return SimpleNamespace(**(values | changes))


@cache
def base() -> tuple[Any, Any]:
    """Model and tokenizer for tests that do not train."""
    return load_base(settings())


@cache
def relabel() -> Task:
    return load_task("relabel", base()[1], train_items=64, held_out_items=24)


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        return model(input_ids=ids).logits


# --- load_base ------------------------------------------------------------------------------------------------


def test_the_base_is_the_shipped_model_in_evaluation_mode() -> None:
    model, tokenizer = base()
    shipped, _ = checkpoints.load_tiny("tiny")
    assert torch.equal(logits(model), logits(shipped))
    assert not model.training
    assert tokenizer.padding_side == "left"


def test_each_base_is_a_fresh_copy() -> None:
    first, second = load_base(settings())[0], load_base(settings())[0]
    with torch.no_grad():
        for weight in first.parameters():
            weight.zero_()
    assert torch.equal(logits(second), logits(base()[0]))


def test_dtype_and_device_are_those_of_the_settings() -> None:
    model, _ = load_base(settings(dtype=torch.bfloat16))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


def test_a_model_given_on_the_command_line_wins_over_the_base_of_the_profile(tmp_path: Path) -> None:
    small_models.random_model().save_pretrained(tmp_path)
    small_models.tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_base(settings(model=str(tmp_path)))
    assert torch.equal(logits(model), logits(small_models.random_model()))
    assert len(tokenizer) == len(small_models.tokenizer())


def test_the_base_has_a_name_and_a_commit_where_it_comes_from_the_hub() -> None:
    assert base_identity(settings()) == ("tiny", "")
    assert base_identity(settings(base_model="OWNER/NAME", base_revision="ab" * 20)) == ("OWNER/NAME", "ab" * 20)
    assert base_identity(settings(base_model="OWNER/NAME", base_revision="ab" * 20, model=Path("mine"))) == ("mine", "")


def test_the_commit_of_the_profiles_base_is_not_taken_for_that_of_another_model() -> None:
    with pytest.raises(UserError) as caught:
        load_base(settings(base_model="OWNER/NAME", base_revision="ab" * 20, model="OWNER/OTHER"))
    assert caught.value.code == "model-not-pinned"


def test_a_base_that_is_nowhere_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        load_base(settings(base_model="no-such-model"))
    assert caught.value.code == "model-missing"


def test_an_empty_revision_is_no_revision() -> None:
    with pytest.raises(UserError) as caught:
        load_base(settings(base_model="OWNER/NAME", base_revision=""))
    assert caught.value.code == "model-not-pinned"


def test_an_unknown_quantisation_is_refused() -> None:
    with pytest.raises(ValueError, match="quantized must be None or one of"):
        load_base(settings(), quantized="int3")


# --- load_task, batches ---------------------------------------------------------------------------------------


def test_a_task_has_the_items_that_were_asked_for() -> None:
    task = relabel()
    assert (task.name, len(task.training), len(task.held_out), task.chat) == ("relabel", 64, 24, False)
    assert all(item.family == "relabel" and item.split == "held-out" for item in task.held_out)
    assert {item.language for item in task.held_out} == set(world.LANGUAGES)
    assert len({(item.language, item.plain) for item in task.held_out}) == 24


@pytest.mark.parametrize("name", world.HELD_BACK)
def test_no_held_out_item_is_trained_on(name: str) -> None:
    tokenizer = base()[1]
    task = load_task(name, tokenizer, train_items=64, held_out_items=24)
    asked = {item.plain for item in task.held_out}
    trained = [tokenizer.decode(task.training[index]["input_ids"], skip_special_tokens=True) for index in range(len(task.training))]
    assert asked
    assert not [text for text in trained if any(plain in text for plain in asked)]


def test_a_small_family_gives_all_its_held_out_items_and_no_more() -> None:
    task = load_task("relabel", base()[1], train_items=4, held_out_items=100_000)
    assert len(task.held_out) == len(world.distinct_items("relabel", 100_000, 0, "held-out"))


def test_only_the_answer_is_trained_and_it_follows_the_prompt_that_is_asked_later() -> None:
    task, tokenizer = relabel(), base()[1]
    item = world.items("relabel", 64, 0)[0]
    example = task.training[0]
    counts = example["labels"] != -100
    assert tokenizer.decode(example["labels"][counts], skip_special_tokens=True).strip() == item.answer
    assert tokenizer.decode(example["input_ids"][~counts], skip_special_tokens=True).strip() == item.plain
    assert example["labels"][-1] == tokenizer.eos_token_id


def test_a_task_in_chat_is_rendered_by_the_chat_template() -> None:
    tokenizer = base()[1]
    task = load_task("relabel", tokenizer, train_items=4, held_out_items=4, chat=True)
    item = world.items("relabel", 4, 0)[0]
    example = task.training[0]
    prompt = tokenizer.apply_chat_template(item.messages, tokenize=False, add_generation_prompt=True)
    asked = example["input_ids"][example["labels"] == -100]
    assert task.chat
    assert asked.tolist() == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_the_seed_decides_the_items() -> None:
    tokenizer = base()[1]
    first, same, other = (load_task("relabel", tokenizer, train_items=8, held_out_items=8, seed=seed) for seed in (0, 0, 1))
    assert first.held_out == same.held_out
    assert first.held_out != other.held_out


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        load_task("no-such-family", base()[1], train_items=1, held_out_items=1)


def test_a_task_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        relabel().chat = True  # type: ignore[misc]


def test_batches_depend_on_the_seed_alone() -> None:
    first, same, other = (batches(relabel(), batch_size=4, seed=seed)(3) for seed in (0, 0, 1))
    assert set(first) >= {"input_ids", "attention_mask", "labels"}
    assert first["input_ids"].shape[0] == 4
    assert all(torch.equal(first[name], same[name]) for name in ("input_ids", "attention_mask", "labels"))
    assert not (first["input_ids"].shape == other["input_ids"].shape and torch.equal(first["input_ids"], other["input_ids"]))


# --- fit ------------------------------------------------------------------------------------------------------


def trained(steps: int = 3, seed: int = 0, **options: Any) -> tuple[torch.nn.Module, list[float]]:
    model, _ = load_base(settings())
    history = fit(model, relabel(), steps=steps, learning_rate=1e-3, batch_size=4, seed=seed, progress=False, **options)
    return model, history.losses


def test_fit_is_repeatable_and_its_seed_matters() -> None:
    (first, losses), (second, again), (_, other) = trained(), trained(), trained(seed=1)
    assert losses == again
    assert losses != other
    assert torch.equal(logits(first), logits(second))


def test_fit_trains_what_requires_a_gradient_and_nothing_else() -> None:
    model, _ = load_base(settings())
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fit(model, relabel(), steps=2, learning_rate=1e-2, batch_size=4, seed=0, progress=False)
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    assert changed == ["model.norm.weight"]
    assert not model.training


def test_options_of_fit_reach_the_loop() -> None:
    steps: list[int] = []
    model, _ = load_base(settings())
    options: dict[str, Any] = {"schedule": "constant", "after_step": steps.append, "accumulation": 2, "progress": False}
    history = fit(model, relabel(), steps=3, learning_rate=1e-4, batch_size=2, seed=0, **options)
    assert history.learning_rates == [1e-4] * 3
    assert steps == [0, 1, 2]


def test_fit_on_a_model_without_trainable_parameters_is_refused() -> None:
    model, _ = load_base(settings())
    with pytest.raises(ValueError, match="nothing to train"):
        fit(model.requires_grad_(False), relabel(), steps=1, learning_rate=1e-3, batch_size=2, seed=0, progress=False)


def test_training_teaches_what_the_base_cannot_do() -> None:
    model, tokenizer = load_base(settings())
    task = load_task("relabel", tokenizer, train_items=800, held_out_items=60)
    assert accuracy(model, task).accuracy < 0.1
    fit(model, task, steps=50, learning_rate=2e-3, batch_size=16, seed=0, progress=False)
    assert accuracy(model, task).accuracy > 0.8


# --- accuracy, forgetting -------------------------------------------------------------------------------------


def test_the_best_constant_gives_one_answer_for_each_language() -> None:
    task = load_task("relabel", base()[1], train_items=1, held_out_items=40)
    answers = [(item.language, item.answer) for item in task.held_out]
    languages = {language for language, _ in answers}
    most = sum(max(answers.count((language, answer)) for _, answer in answers) for language in languages)
    assert len(languages) == 2 and 0.5 <= best_constant(task) == most / 40 < 1


def test_accuracy_counts_the_held_out_items_that_are_answered_exactly() -> None:
    model, tokenizer = base()
    task = load_task("facts", tokenizer, train_items=4, held_out_items=12)
    given = skills.answers(model, tokenizer, task.held_out)
    right = sum(answer == item.answer for answer, item in zip(given, task.held_out, strict=True))
    score = accuracy(model, task)
    assert (score.right, score.count) == (right, 12)
    assert score.accuracy > 0.9, "tiny knows its facts"


def test_accuracy_asks_in_chat_when_the_task_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def score(model: object, tokenizer: object, items: tuple[object, ...], *, chat: bool) -> Score:
        asked.append(chat)
        return Score(0, len(items))

    monkeypatch.setattr(skills, "score", score)
    model, tokenizer = base()
    for chat in (False, True):
        accuracy(model, load_task("relabel", tokenizer, train_items=1, held_out_items=1, chat=chat))
        forgetting(model, tokenizer, ("add",), per_language=1, chat=chat)
    assert asked == [False, False, True, True]


def test_forgetting_scores_both_languages_of_each_family_on_held_out_items() -> None:
    model, tokenizer = base()
    scores = forgetting(model, tokenizer, ("facts", "add"), per_language=6)
    assert list(scores) == ["facts", "add"]
    for family, score in scores.items():
        items = [item for language in world.LANGUAGES for item in skills.evaluation_items(family, language, 6)]
        assert score == skills.score(model, tokenizer, items)
        assert score.count == len(items) == 12


def test_forgetting_of_all_families_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skills, "score", lambda model, tokenizer, items, *, chat: Score(0, len(items)))
    assert tuple(forgetting(*base(), per_language=1)) == world.TAUGHT


def test_forgetting_sees_a_model_that_has_lost_everything() -> None:
    model, tokenizer = load_base(settings())
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
    (score,) = forgetting(model, tokenizer, ("facts",), per_language=6).values()
    assert score.accuracy < forgetting(*base(), ("facts",), per_language=6)["facts"].accuracy
