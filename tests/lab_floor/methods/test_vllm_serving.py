"""What lab-2.3-vllm-serving measures with: its count of blocks, its controls, its distribution of a second token, its estimate."""

from __future__ import annotations

import random

import pytest
import torch
from lab_modules import lab_modules
from small_models import random_model

prefix_cache, broken, reference, capacity = lab_modules(
    "lab-2.3-vllm-serving", *("prefix_cache", "broken_variants", "reference", "capacity")
)


def blocks_one_by_one(prompts: list[list[int]], generated: int, size: int) -> int:
    """The blocks of a small memory, token by token: a full block of a prompt is known by everything up to its end."""
    known: set[tuple[int, ...]] = set()
    own = 0
    for prompt in prompts:
        tokens = [*prompt, *[-1] * (generated - 1)]  # of the last one nobody needs keys and values
        for begin in range(0, len(tokens), size):
            end = begin + size
            if end <= len(prompt):
                known.add(tuple(prompt[:end]))
            else:
                own += 1
    return len(known) + own


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("generated", [1, 2, 17])
def test_blocks_are_counted_as_a_small_memory_would(size: int, generated: int) -> None:
    generator = random.Random(size * 100 + generated)
    common = [generator.randrange(100) for _ in range(3 * size)]
    prompts = [[*common[: generator.randrange(1, len(common) + 1)], generator.randrange(100)] for _ in range(8)]
    assert prefix_cache.blocks_held(prompts, generated, size) == blocks_one_by_one(prompts, generated, size)


def test_the_cache_without_a_mistake_is_the_prediction_and_every_mistake_differs() -> None:
    common = list(range(100, 140))
    prompts = [common, common[:33], common[:32], [*common[:5], 1, *common[6:]], [1, *common[1:]], common, common]
    adapters = ["base"] * 5 + ["other", "base"]
    right = prefix_cache.predicted_hits(prompts, 8, adapters=adapters)
    assert broken.broken_hits(prompts, 8, adapters, None) == right
    assert all(broken.broken_hits(prompts, 8, adapters, mistake) != right for mistake in broken.HITS)
    with pytest.raises(ValueError, match="unknown mistake"):
        broken.broken_hits(prompts, 8, adapters, "tokens_")


def test_a_second_token_is_as_likely_as_after_all_first_ones() -> None:
    model = random_model().eval()
    prompt = [3, 5]
    wanted = torch.zeros_like(first := reference.next_probabilities(model, prompt))
    guesses = torch.zeros_like(first)
    for token, probability in enumerate(first):
        after = reference.next_probabilities(model, [*prompt, token])
        wanted += probability * after
        guesses[after.argmax()] += probability
    torch.testing.assert_close(reference.second_probabilities(model, prompt, at_least=0.0), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(reference.guessed_second(model, prompt, first), guesses, atol=1e-6, rtol=0)


def test_a_step_of_several_tokens_is_as_good_as_so_many_steps() -> None:
    plain = capacity.StepModel.from_measurements(1, 0.003, 4, 0.006)
    speculating = capacity.StepModel.from_measurements(1, 0.006, 4, 0.012, tokens_per_step=2.0)
    for of in (lambda model: model.tokens_per_second(8), lambda model: model.seconds(5.0, 48), lambda model: model.highest_rate(48, 8)):
        assert of(speculating) == pytest.approx(of(plain))
