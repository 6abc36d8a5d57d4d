"""Generation in batches, and statistics against values worked out by hand."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import small_models
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import PretrainedConfig, PreTrainedModel

from onepiece import world
from onepiece.data import IGNORED, Collator
from onepiece.evaluation import (
    Comparison,
    Interval,
    exact_match,
    exact_matches,
    generate_batch,
    mean_loss,
    over_seeds,
    paired_bootstrap,
    perplexity,
    wilson_interval,
)
from onepiece.tiny.tokenizer import prompt_text

PROMPTS = [
    prompt_text(item, small_models.tokenizer(), chat=chat)
    for chat in (False, True)
    for item in world.items("facts", 2, seed=0) + world.items("add", 2, seed=0)
]


def talker(config: PretrainedConfig) -> PreTrainedModel:
    """A random model that never says a token of a single byte: their text would not tell one from another."""
    model = small_models.random_model(config)
    single = [token_id for token, token_id in small_models.tokenizer().get_vocab().items() if token.startswith("<0x")]
    with torch.no_grad():
        model.get_output_embeddings().weight[single] = 0.0
    return model


def greedy_by_hand(model: torch.nn.Module, prompt: str, stops: set[int], limit: int = 8) -> tuple[list[int], str]:
    """(token ids, text) of one prompt without padding and cache, one whole forward pass per token."""
    tokenizer = small_models.tokenizer()
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    begin = ids.shape[1]
    with torch.inference_mode():
        while ids.shape[1] < begin + limit:
            following = model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, following], dim=1)
            if int(following) in stops:
                break
    return ids[0, begin:].tolist(), tokenizer.decode(ids[0, begin:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("config", [small_models.llama_config, small_models.gpt_neox_config])
def test_batched_generation_equals_one_prompt_at_a_time(config: Callable[..., PretrainedConfig]) -> None:
    model, tokenizer = talker(config(tie_word_embeddings=False)), small_models.tokenizer()
    model.generation_config.repetition_penalty = 5.0  # as many instruct models have; greedy must stay greedy
    together = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=3)
    assert together == [generate_batch(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    eos = model.generation_config.eos_token_id
    assert together == [greedy_by_hand(model, prompt, {eos})[1] for prompt in PROMPTS]
    assert len(set(together)) > 1 and len({len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) > 3


INHERITED: dict[str, Any] = {
    "min_new_tokens": 6,
    "suppress_tokens": list(range(20, 300)),
    "sequence_bias": [[[45], 50.0]],
    "num_return_sequences": 2,
    "do_sample": True,
    "num_beams": 2,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[number] for number in range(30, 250)],
    "forced_eos_token_id": 7,
    "return_dict_in_generate": True,
    "max_time": 1e-6,
    "max_length": 3,
}


@pytest.mark.fault("inherited-generation")
@pytest.mark.parametrize("name", INHERITED)
@pytest.mark.parametrize("adapted", [False, True])
def test_no_generation_setting_of_the_model_is_inherited(name: str, adapted: bool) -> None:
    model, tokenizer = talker(small_models.llama_config(tie_word_embeddings=False)), small_models.tokenizer()
    if adapted:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).eval()
    wanted = generate_batch(model, tokenizer, PROMPTS[:3], max_new_tokens=8)
    assert wanted == [greedy_by_hand(model, prompt, {model.generation_config.eos_token_id})[1] for prompt in PROMPTS[:3]]
    own = model.generation_config
    setattr(own, name, INHERITED[name])
    assert generate_batch(model, tokenizer, PROMPTS[:3], max_new_tokens=8) == wanted
    assert model.generation_config is own and getattr(own, name) == INHERITED[name], "the model has its own again"


def test_a_soft_prompt_keeps_its_distance_in_a_batch() -> None:
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = get_peft_model(talker(small_models.llama_config(tie_word_embeddings=False)), settings).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.mul_(3.0)
    together = generate_batch(model, small_models.tokenizer(), PROMPTS, max_new_tokens=8)
    assert together == [generate_batch(model, small_models.tokenizer(), [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]


def test_generation_stops_at_the_end_token() -> None:
    model, tokenizer = talker(small_models.llama_config(tie_word_embeddings=False)), small_models.tokenizer()
    full = [greedy_by_hand(model, prompt, set()) for prompt in PROMPTS]
    end = full[0][0][2]
    model.generation_config.eos_token_id = end
    stopped = [greedy_by_hand(model, prompt, {end}) for prompt in PROMPTS]
    assert len(stopped[0][0]) <= 3 and len({len(ids) for ids, _ in stopped}) > 1  # some stop, others go on beside them
    assert generate_batch(model, tokenizer, PROMPTS, max_new_tokens=8) == [text for _, text in stopped]


def test_generation_keeps_the_mode_and_refuses_an_empty_prompt() -> None:
    model, tokenizer = small_models.random_model(small_models.llama_config(attention_dropout=0.5)), small_models.tokenizer()
    answers = generate_batch(model, tokenizer, PROMPTS[:2], max_new_tokens=4)
    model.train()
    assert generate_batch(model, tokenizer, PROMPTS[:2], max_new_tokens=4) == answers  # without dropout
    assert model.training
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate_batch(model, tokenizer, ["Hi", ""], max_new_tokens=4)
    assert generate_batch(model, tokenizer, [], max_new_tokens=4) == []


def test_exact_match_by_hand() -> None:
    assert exact_matches(["Ann", " 42 ", "ann", ""], ["Ann", "42", "Ann", "x"]) == [True, True, False, False]
    assert exact_match(["Ann", " 42 ", "ann", ""], ["Ann", "42", "Ann", "x"]) == 0.5
    for answers, wanted in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="cannot be compared"):
            exact_match(answers, wanted)


def test_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary() -> None:
    model = small_models.random_model(small_models.llama_config(tie_word_embeddings=False))
    torch.nn.init.zeros_(model.lm_head.weight)
    batch = Collator(0)([{"input_ids": torch.arange(5), "labels": torch.arange(5)}])
    assert perplexity(model, [batch]) == pytest.approx(len(small_models.tokenizer()), rel=1e-5)


def test_perplexity_weighs_tokens_not_batches() -> None:
    model = small_models.random_model().train()
    examples = [{"input_ids": ids, "labels": ids} for ids in (torch.arange(3), torch.arange(40, 60), torch.arange(9))]
    with torch.inference_mode():
        losses = []
        for example in examples:
            logits = model.eval()(input_ids=example["input_ids"][None]).logits[0, :-1]
            losses += torch.nn.functional.cross_entropy(logits, example["labels"][1:], reduction="none").tolist()
    model.train()
    batches = [Collator(0)(examples[:1]), Collator(0)(examples[1:])]
    assert mean_loss(model, batches) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert perplexity(model, batches) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert mean_loss(model, [Collator(0, packing=64)(examples)]) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert model.training
    with pytest.raises(ValueError, match="no label counts"):
        mean_loss(model, [{"input_ids": torch.zeros(1, 2, dtype=torch.long), "labels": torch.full((1, 2), IGNORED)}])


def test_wilson_intervals_by_hand() -> None:
    interval = wilson_interval(8, 10)  # (0.8 + 0.19207 ± 1.95996 sqrt(0.016 + 0.0096037)) / 1.384146
    assert (interval.value, interval.count) == (0.8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert (wilson_interval(0, 10).low, wilson_interval(0, 10).high) == (0.0, pytest.approx(0.277533, abs=1e-5))
    assert (wilson_interval(10, 10).low, wilson_interval(10, 10).high) == (pytest.approx(0.722467, abs=1e-5), 1.0)
    for right, count in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="is no accuracy"):
            wilson_interval(right, count)


def test_wilson_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """The exact coverage for a true accuracy, summed over the binomial distribution."""
    for truth in (0.03, 0.3, 0.5, 0.95):
        coverage = 0.0
        for right in range(101):
            interval = wilson_interval(right, 100)
            assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
            if interval.low <= truth <= interval.high:
                coverage += math.comb(100, right) * truth**right * (1 - truth) ** (100 - right)
        assert 0.92 < coverage < 0.98


def test_seeds_by_hand() -> None:
    interval = over_seeds([1.0, 2.0, 3.0])  # mean 2, s = 1, t(2) = 4.3027
    half = 4.3027 / math.sqrt(3)
    assert (interval.value, interval.low, interval.high, interval.count) == pytest.approx((2.0, 2.0 - half, 2.0 + half, 3))
    assert over_seeds([0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 2)
    with pytest.raises(ValueError, match="1 seed gives no interval"):
        over_seeds([1.0])


@pytest.mark.parametrize("freedom", [*range(1, 31), 31, 60, 200])
def test_quantiles_of_students_t(freedom: int) -> None:
    """The density, integrated over the interval that two points at ±1 per seed would give, holds 95%."""
    values = [1.0, -1.0] * ((freedom + 1) // 2) + [0.0] * ((freedom + 1) % 2)
    interval = over_seeds(values)
    quantile = interval.high * math.sqrt(len(values)) / statistics.stdev(values) if interval.value == 0 else math.nan
    # x = sqrt(df) tan(u) turns the integral into one of a smooth function on a finite range; Simpson's rule.
    end, steps = math.atan(quantile / math.sqrt(freedom)), 400
    weights = [1 if index in (0, steps) else 4 if index % 2 else 2 for index in range(steps + 1)]
    integral = sum(weight * math.cos(end * index / steps) ** (freedom - 1) for index, weight in enumerate(weights)) * end / steps / 3
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    assert 2 * constant * integral == pytest.approx(0.95, abs=1e-5 if freedom <= 30 else 5e-4)


def test_paired_bootstrap_by_hand() -> None:
    same = paired_bootstrap([1, 0, 1], [1, 0, 1], seed=0)
    assert same == Comparison(Interval(0.0, 0.0, 0.0, 3), 1.0) and not same.decided
    better = paired_bootstrap([True] * 20, [False] * 20, seed=0, resamples=1000)
    assert better.difference == Interval(1.0, 1.0, 1.0, 20) and better.decided
    assert better.p_value == pytest.approx(2 / 1001)
    # Items with differences 2, -1, -1, 0: the mean of each of the 256 resamples is known, and so are its quantiles.
    means = sorted(sum(drawn) / 4 for drawn in itertools.product([2, -1, -1, 0], repeat=4))
    mixed = paired_bootstrap([2, 0, 0, 1], [0, 1, 1, 1], seed=0, resamples=40_000)
    assert mixed.difference.value == 0.0 and not mixed.decided
    assert (mixed.difference.low, mixed.difference.high) == (means[6], means[249])
    below, above = (sum(mean <= 0 for mean in means) / 256, sum(mean >= 0 for mean in means) / 256)
    assert mixed.p_value == pytest.approx(min(1.0, 2 * min(below, above)), abs=0.02)
    for a, b in (([], []), ([1], [1, 0])):
        with pytest.raises(ValueError, match="are no pairs"):
            paired_bootstrap(a, b, seed=0)


def test_pairing_decides_where_unpaired_intervals_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    hardness = torch.randn(200, generator=generator)
    a, b = (hardness + 0.1 + 0.1 * torch.randn(200, generator=generator)).tolist(), hardness.tolist()
    compared = paired_bootstrap(a, b, seed=0)
    assert compared.decided and compared.difference.low < 0.1 < compared.difference.high and compared.p_value < 0.01
    assert compared == paired_bootstrap(a, b, seed=0)
    reverse = paired_bootstrap(b, a, seed=0).difference
    assert (reverse.low, reverse.high) == pytest.approx((-compared.difference.high, -compared.difference.low))
    shuffled = paired_bootstrap(a, b[::-1], seed=0)
    assert shuffled.difference.value == pytest.approx(compared.difference.value) and not shuffled.decided
    assert str(Interval(0.98765, 0.9, 1.0, 3)) == "0.988 [0.9, 1]"
