"""What lab-1.6-efficient-attention measures with: its controls, its counter, its exam. The exercises are held by the lab's checks and gates."""

from __future__ import annotations

import pytest
import torch
from lab_modules import lab_modules

from onepiece.evaluation import generate_batch
from onepiece.tiny.checkpoints import load_tiny
from onepiece.tiny.skills import evaluation_items
from onepiece.tiny.tokenizer import prompt_text

broken, broken_latent, grouped, caches, latent, llama, conversion, cost = lab_modules(
    "lab-1.6-efficient-attention",
    *(
        "broken_variants",
        "broken_latent",
        "grouped_attention",
        "key_value_cache",
        "latent_attention",
        "small_llama",
        "conversion",
        "decode_cost",
    ),
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(kv_heads: int = 2, heads: int = 6) -> object:
    sizes = llama.LlamaSizes(2, 24, grouped.HeadLayout(heads, kv_heads, 4), 32, 50)
    return llama.random_llama(sizes, seed=0, dtype=torch.float64)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (6, 3), (4, 1), (4, 4)])
def test_without_a_mistake_the_broken_variants_are_the_lesson(heads: int, kv_heads: int) -> None:
    queries, keys, values = draw(2, heads, 3, 8), draw(2, kv_heads, 7, 8, seed=1), draw(2, kv_heads, 7, 8, seed=2)
    visible = grouped.causal(torch.arange(4, 7), torch.arange(7))
    wanted = broken.broken_attention(queries, keys, values, visible)
    for attend in (grouped.grouped_attention, grouped.expanded_attention):
        assert torch.allclose(attend(queries, keys, values, visible), wanted, atol=1e-12)
    weight = draw(heads * 4, 5)
    assert torch.allclose(broken.broken_pool(weight, kv_heads, 4, None), conversion.pooled_heads(weight, kv_heads, 4), atol=1e-12)


@pytest.mark.parametrize("mistake", broken.GROUP_MISTAKES)
def test_tile_cannot_be_seen_where_there_is_one_head_or_one_group(mistake: str) -> None:
    tensor = draw(1, 1, 3, 4)
    assert torch.equal(broken.broken_expand(tensor, 4, mistake), broken.broken_expand(tensor, 4, None))
    tensor = draw(1, 2, 3, 4)
    assert not torch.equal(broken.broken_expand(tensor, 6, mistake), broken.broken_expand(tensor, 6, None))


@pytest.mark.parametrize("mistake", broken_latent.LATENT_MISTAKES)
def test_every_mistake_of_latent_attention_changes_it(mistake: str) -> None:
    sizes = latent.LatentSizes(width=12, heads=3, plain_dim=6, rotary_dim=4, value_dim=5, latent_dim=8)
    weights = latent.random_weights(sizes, seed=0, dtype=torch.float64)
    inputs = latent.project(weights, draw(2, 6, 12))
    wanted = latent.expanded(weights, inputs)
    assert torch.allclose(broken_latent.broken_latent(weights, inputs, None), wanted, atol=1e-12)
    assert not torch.allclose(broken_latent.broken_latent(weights, inputs, mistake), wanted, atol=1e-3)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="divide"):
        grouped.HeadLayout(6, 4, 8)
    with pytest.raises(ValueError, match="positive"):
        grouped.HeadLayout(6, 0, 8)
    with pytest.raises(ValueError, match="groups of one size"):
        conversion.convert(small(kv_heads=2), 4)
    with pytest.raises(ValueError, match="room for 3"):
        caches.KeyValueCache(caches.CacheShape(1, 1, 3, 2)).append(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
    with pytest.raises(ValueError, match="no window"):
        caches.RollingCache(caches.CacheShape(1, 1, 3, 2), 3)
    with pytest.raises(ValueError, match="one token at a time"):
        caches.RollingCache(caches.CacheShape(1, 1, 3, 2), 1).append(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


def test_a_window_hides_what_is_too_far_away_except_sinks() -> None:
    seen = grouped.causal(torch.tensor([6]), torch.arange(8), window=3, sinks=2)
    assert seen.tolist() == [[True, True, False, False, True, True, True, False]]


def test_the_counter_sees_a_copy_of_the_cache_and_a_read_of_it_apart() -> None:
    model = small()
    for layer in model.model.layers:
        layer.self_attn.attend = grouped.expanded_attention
    memory = model.caches(2, 9)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(ids[:, :-1], caches=memory)
    counted, formula = cost.count_step(model, ids[:, -1:], memory), cost.step_bytes(model, 2, 9)
    assert (counted.weights, counted.cache_read, counted.cache_written) == (formula.weights, formula.cache_read, formula.cache_written)
    assert counted.copies == 2 * 3 * formula.cache_read  # three times as many heads, written and read


def test_the_exam_says_what_greedy_generation_says() -> None:
    theirs, tokenizer = load_tiny("tiny")
    model = conversion.convert(llama.from_hugging_face(theirs), 2)
    exam = conversion.Exam(tokenizer, 12)
    items = [item for language in conversion.LANGUAGES for item in evaluation_items("pick", language, 12)]
    prompts = [prompt_text(item, tokenizer, chat=False) for item in items]
    written = generate_batch(llama.to_hugging_face(model), tokenizer, prompts, max_new_tokens=16)
    right = sum(answer == item.answer for answer, item in zip(written, items, strict=True))
    assert exam.shares(model)["pick"] == pytest.approx(right / len(items))
    assert 0 < right < len(items)
