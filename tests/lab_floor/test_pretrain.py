"""The recipe of the tiny models: it learns, it is the same for a seed, and an interruption changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onepiece import world
from onepiece.course.errors import UserError
from onepiece.tiny import pretrain
from onepiece.tiny.corpus import MIXTURE, Batch, Corpus, tokenizer_texts
from onepiece.tiny.pretrain import Run, batch_loss
from onepiece.tiny.recipes import RECIPES
from onepiece.tiny.tokenizer import BOS, EOS, SPECIAL, encode, prompt_text, train_tokenizer
from onepiece.world.words import COLOURS, NEW_PEOPLE, PEOPLE

SMOKE = RECIPES["smoke"]
SMOKE_LOSS = 1.1
"""Nats per counted token that the smoke recipe has to reach; an untrained model has ln 1024 = 6.9."""

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return train_tokenizer(tokenizer_texts(), 1024)


def silent(_: str) -> None:
    pass


def test_the_recipe_reaches_its_loss_in_a_minute_of_one_core(tmp_path: Path) -> None:
    lines: list[str] = []
    began = time.process_time()
    run = pretrain.pretrain(SMOKE, tmp_path, tell=lines.append)
    assert time.process_time() - began < 60
    losses = [point["loss"] for point in run.curve]
    assert losses[0] > 5
    assert sum(losses[-20:]) / 20 < SMOKE_LOSS
    assert "min left" in lines[-1]
    recorded = json.loads((tmp_path / "learning_curve.json").read_text())
    assert recorded["curve"][-1]["step"] == SMOKE.steps and recorded["recipe"]["seed"] == SMOKE.seed
    assert not (tmp_path / "interrupted.pt").exists()
    assert _saved_model_speaks(tmp_path)


def _saved_model_speaks(directory: Path) -> bool:
    """What was saved loads by its path alone, and knows at least how a greeting is answered."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from onepiece.tiny.skills import score

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return score(model, tokenizer, world.items("chat", 20, 0)).accuracy > 0.2


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(tmp_path: Path) -> None:
    recipe = replace(SMOKE, steps=8, warmup_steps=2)
    whole = pretrain.pretrain(recipe, tmp_path / "whole", tell=silent)
    again = pretrain.pretrain(recipe, tmp_path / "again", tell=silent)
    cut = pretrain.pretrain(recipe, tmp_path / "cut", stop_at=3, tell=silent)
    assert cut.step == 3 and not (tmp_path / "cut" / "model.safetensors").exists()
    resumed = pretrain.pretrain(recipe, tmp_path / "cut", resume=True, tell=silent)
    for other in (again, resumed):
        assert other.step == 8
        for mine, theirs in zip(whole.average, other.average, strict=True):
            assert torch.equal(mine, theirs)
        assert [point["loss"] for point in other.curve] == [point["loss"] for point in whole.curve]
    another = pretrain.pretrain(replace(recipe, seed=1), tmp_path / "another", tell=silent)
    assert not torch.equal(whole.average[0], another.average[0])


def test_a_run_of_another_recipe_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(SMOKE, steps=4)
    pretrain.pretrain(recipe, tmp_path, stop_at=1, tell=silent)
    with pytest.raises(UserError) as caught:
        pretrain.pretrain(replace(recipe, learning_rate=1e-3), tmp_path, resume=True, tell=silent)
    assert caught.value.code == "other-recipe"
    assert pretrain.main(["smoke", "--steps", "5", "--out", str(tmp_path), "--resume"]) == 2
    assert "nox -s pretrain -- smoke" in capsys.readouterr().err


def test_packed_items_do_not_see_each_other(tokenizer) -> None:  # type: ignore[no-untyped-def]
    run = Run(SMOKE, tokenizer, CPU)
    batch = run.corpus.batch(0, rows=2, length=64, prompt_share=1.0)
    packed = float(batch_loss(run.model, batch, CPU).detach())
    total, count = 0.0, 0
    for item in _items_of(batch):
        logits = run.model(input_ids=item[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, item[1:], reduction="sum").detach())
        count += len(item) - 1
    assert count == len(batch.targets)
    assert packed == pytest.approx(total / count, abs=1e-5)


def _items_of(batch: Batch) -> Iterator[torch.Tensor]:
    """The items of a packed batch, one after the other."""
    for row, positions in zip(batch.ids, batch.positions, strict=True):
        row = row[: int((row != 0).nonzero().max()) + 1]
        begins = (positions[: len(row)] == 0).nonzero().flatten().tolist()
        for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
            yield row[begin:end]


def test_answers_always_count_and_prompts_seldom(tokenizer) -> None:  # type: ignore[no-untyped-def]
    corpus = Corpus(tokenizer, seed=0)
    answers = corpus.batch(0, rows=16, length=64, prompt_share=0.0)
    everything = corpus.batch(0, rows=16, length=64, prompt_share=1.0)
    eos = tokenizer.eos_token_id
    assert len(answers.targets) < len(everything.targets) / 2
    assert int((answers.targets == eos).sum()) >= sum(1 for _ in _items_of(answers))  # every item ends with a counted EOS
    for index, target in zip(everything.predicts.tolist(), everything.targets.tolist(), strict=True):
        assert everything.ids.flatten()[index + 1] == target


def test_what_is_trained_on_holds_no_held_out_question(tokenizer) -> None:  # type: ignore[no-untyped-def]
    corpus = Corpus(tokenizer, seed=0)
    seen: set[tuple[int, ...]] = set()
    rows = []
    for number in range(150):
        batch = corpus.batch(number, rows=12, length=128)
        for item in _items_of(batch):
            rows.append(tuple(item.tolist()))
    for row in rows:
        seen.update(row[:end] for end in range(1, len(row)))  # every prefix: a prompt is one
    for family in world.TAUGHT:
        items = world.items(family, 100, 0, "held-out")
        for chat in (False, True):
            for prompt, _ in encode(items, [chat] * len(items), tokenizer):
                assert tuple(prompt) not in seen


def test_conversations_of_several_turns_come_with_the_longer_rows(tokenizer) -> None:  # type: ignore[no-untyped-def]
    corpus = Corpus(tokenizer, seed=0)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    turns = {length: max(int((item == user).sum()) for item in _items_of(corpus.batch(0, rows=12, length=length))) for length in (64, 128)}
    assert turns[64] <= 2 < turns[128]


def test_every_text_survives_the_tokenizer(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert len(tokenizer) == 1024
    for text in ("27 + 15", "Mira 住在瑞溫。", "臭豆腐 🧋 naïve Ω", "a  b", "\ttab\nline", "½ ﬁ 龘"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer("27")["input_ids"] == [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(["▁", "2", "7"])]
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))


def test_what_is_trained_is_what_the_chat_template_and_the_plain_text_give(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for family in MIXTURE:
        for item in world.items(family, 20, 0):
            for chat in (False, True):
                prompt, answer = encode([item], [chat], tokenizer)[0]
                assert tokenizer(prompt_text(item, tokenizer, chat=chat), add_special_tokens=False)["input_ids"] == prompt
                assert tokenizer.decode(answer) == item.answer + EOS
            whole = tokenizer.apply_chat_template(item.conversation, tokenize=True, return_dict=True)["input_ids"]
            prompt, answer = encode([item], [True], tokenizer)[0]
            assert whole == prompt + answer
            assert prompt_text(item, tokenizer, chat=False).startswith(BOS)


def test_who_used_the_tokenizer_before_does_not_matter(tokenizer) -> None:  # type: ignore[no-untyped-def]
    items = world.items("facts", 10, 0) + world.items("tell", 5, 0)
    before = encode(items, [False] * 15, tokenizer)
    tokenizer([item.plain for item in items], padding=True, truncation=True, max_length=12)
    assert encode(items, [False] * 15, tokenizer) == before


def test_names_and_colours_are_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    one = [name for name in PEOPLE if len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 1]
    assert len(one) == len(PEOPLE)
    assert all(len(tokenizer(english, add_special_tokens=False)["input_ids"]) == 1 for english, _ in COLOURS)
    assert not set(NEW_PEOPLE) & {token.removeprefix("▁") for token in tokenizer.get_vocab()}


def test_the_schedule_warms_up_stays_and_falls_to_zero(tokenizer) -> None:  # type: ignore[no-untyped-def]
    run = Run(replace(SMOKE, steps=100, warmup_steps=10, decay_share=0.4), tokenizer, CPU)
    rates = []
    for run.step in range(100):
        rates.append(run.learning_rate() / SMOKE.learning_rate)
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:60]) == {1.0}
    assert rates[-1] == pytest.approx(1 / 40)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_of_the_size_that_servers_accept(name: str, tokenizer) -> None:  # type: ignore[no-untyped-def]
    model = Run(RECIPES[name], tokenizer, CPU).model
    config = model.config
    assert getattr(config, "head_dim", config.hidden_size // config.num_attention_heads) >= 32
    assert 1e5 < sum(weight.numel() for weight in model.parameters()) < 1.5e6
    if name == "tiny-bias":
        linear = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
        assert linear and all(module.bias is not None for module in linear)
