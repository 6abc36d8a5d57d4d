"""Keys and values before a text: the cache of a text that was read stands for the text, whatever else is in the batch."""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onepiece.adaptation import distance, logits_of
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel, as_cache, from_cache, stack_prefixes
from onepiece.training import train

BEFORE = [7, 8, 9]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 2, 2]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
SHAPE = CacheShape(layers=2, kv_heads=1, head_dim=16)


class Fixed(nn.Module):
    """Entries that can be trained."""

    def __init__(self, entries: Tensor) -> None:
        super().__init__()
        self.entries = nn.Parameter(entries)

    def forward(self) -> Tensor:
        return self.entries


def read(base: PreTrainedModel, token_ids: list[int]) -> Tensor:
    with torch.no_grad():
        return from_cache(base(torch.tensor([token_ids]), use_cache=True).past_key_values)


def random_entries(virtual: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE.layers, 2, SHAPE.kv_heads, virtual, SHAPE.head_dim, generator=generator)


def test_the_shape_is_that_of_the_cache_whether_heads_share_keys_or_not() -> None:
    assert CacheShape.of(small_models.llama_config()) == SHAPE
    assert CacheShape.of(small_models.gpt_neox_config()) == CacheShape(2, 2, 16)
    assert (SHAPE.width, SHAPE.numbers) == (16, 64)
    entries = read(small_models.random_model(), BEFORE)
    assert entries.shape == (2, 2, 1, 3, 16)
    assert torch.equal(from_cache(as_cache(entries[None].expand(2, -1, -1, -1, -1, -1)), row=1), entries)


@pytest.mark.parametrize("config", [small_models.llama_config, small_models.gpt_neox_config])
def test_the_cache_of_a_text_stands_for_the_text(config: object) -> None:
    base = small_models.random_model(config()).double()
    model = PrefixModel(base, Fixed(read(base, BEFORE)))
    whole = torch.cat([torch.tensor([BEFORE] * 2), IDS], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), MASK], dim=1)
    wanted = base(whole, attention_mask=mask).logits[:, 3:][MASK.bool()]
    batch = {"input_ids": IDS, "attention_mask": MASK}
    assert distance(logits_of(model, batch), wanted) < 1e-12
    from_zero = batch | {"position_ids": torch.arange(6).expand(2, -1) - 3}
    assert distance(logits_of(model, from_zero), wanted) > 1e-3
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS[:1], **greedy), base.generate(whole[:1], **greedy)[:, 3:])


def test_rows_of_a_batch_have_prefixes_of_their_own_or_none() -> None:
    base = small_models.random_model().double()
    short, long = Fixed(random_entries(2).double()), Fixed(random_entries(5, seed=1).double())
    model = PrefixModel(base, short)
    ids, mask = torch.tensor([[0, 0, 5, 6], [0, 7, 8, 9], [10, 11, 12, 13]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    greedy = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    prefixes = [None, long, short]
    with model.using(prefixes):
        mixed = logits_of(model, {"input_ids": ids, "attention_mask": mask})
        written = model.generate(ids, mask, **greedy)
    alone = []
    for row, prefix in enumerate(prefixes):
        with model.using([prefix]):
            alone.append(logits_of(model, {"input_ids": ids[row : row + 1, 2 - row if row < 2 else 0 :]}))
            assert torch.equal(model.generate(ids[row : row + 1], mask[row : row + 1], **greedy)[0], written[row])
    assert distance(mixed, torch.cat(alone)) < 1e-12
    with model.using([None]):
        without = logits_of(model, {"input_ids": IDS[:1]})
    assert distance(without, logits_of(base, {"input_ids": IDS[:1]})) < 1e-12


def test_only_the_prefix_is_trained_and_the_cache_of_a_step_is_not_that_of_the_next() -> None:
    base = small_models.random_model()
    model, before = PrefixModel(base, Fixed(random_entries(3))), {name: weight.clone() for name, weight in base.state_dict().items()}
    start = model.prefix.entries.detach().clone()
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}
    history = train(model, lambda number: batch, steps=8, learning_rate=3e-2, seed=0, progress=False)
    assert history.losses[-1] < history.losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert bool((model.prefix.entries != start).flatten(2).any(dim=-1).all()), "keys and values of both layers moved"


def test_what_does_not_fit_is_refused_in_words() -> None:
    base = small_models.random_model()
    model = PrefixModel(base, Fixed(random_entries(3)))
    with pytest.raises(ValueError, match="1 prefixes cannot be those of 2 rows"), model.using([None]):
        model(IDS)
    with pytest.raises(ValueError, match=r"made for another model: its entries are \(2, 2, 1, 3, 8\)"):
        PrefixModel(base, Fixed(random_entries(3)[..., :8]))(IDS)
    with pytest.raises(ValueError, match="have 258 positions, the model has 256"):
        PrefixModel(base, Fixed(random_entries(252)))(IDS)
    with pytest.raises(ValueError, match="without rows"):
        stack_prefixes([])
    checkpointing = small_models.random_model()
    checkpointing.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        PrefixModel(checkpointing, Fixed(random_entries(3)))
