"""What lab-1.5-flashattention measures with: its controls, its counts, its fits, its recall task. The attention itself is held by the lab's
checks and gates."""

from __future__ import annotations

import ast
import math

import pytest
import torch
import toy_course
from lab_modules import lab_modules
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from onepiece.host.road import sources

LAB = toy_course.ROOT / "labs" / "lab-1.5-flashattention"
broken, flash, tiling, traffic, keys_outer, power_law, small_transformer, recall = lab_modules(
    "lab-1.5-flashattention",
    *("broken_variants", "flash_attention", "tiling", "memory_traffic", "keys_outer", "power_law", "small_transformer", "recall_task"),
)


def tensors(query_len: int, key_len: int, heads: int = 6, kv_heads: int = 2, head_dim: int = 8, batch: int = 1) -> list[Tensor]:
    """Float64 queries, keys, values and a gradient of the output."""
    generator = torch.Generator().manual_seed(query_len * 1000 + key_len)
    sizes = ((heads, query_len), (kv_heads, key_len), (kv_heads, key_len), (heads, query_len))
    return [torch.randn(batch, *size, head_dim, generator=generator, dtype=torch.float64) for size in sizes]


def gradients(attend: object, inputs: list[Tensor], grad_output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = attend(*inputs)  # type: ignore[operator]
    return output.detach(), torch.autograd.grad(output, inputs, grad_output)


# --- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_mistake_the_broken_variants_are_attention(causal: bool) -> None:
    *inputs, grad_output = tensors(20, 33)
    output, wanted = gradients(lambda *given: flash.naive_attention(*given, causal=causal), inputs, grad_output)
    assert torch.allclose(broken.broken_attention(*inputs, None, causal=causal, block_keys=8), output, atol=1e-12)
    for got, want in zip(broken.broken_gradients(*inputs, grad_output, None, causal=causal), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_no_rescale_is_what_the_loops_give_when_the_merge_forgets_it(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradients: the control of the Triton gates is the kernel with that line deleted, not some other wrong thing."""

    def forgetful(state: object, scores: Tensor, values: Tensor) -> object:
        return flash.SoftmaxState(*broken.merge_without_rescale(broken.State(*state), scores, values))  # type: ignore[misc]

    monkeypatch.setattr(flash, "online_softmax_merge", forgetful)
    *inputs, grad_output = tensors(20, 33)
    attend = lambda *given: flash.flash_attention(*given, causal=causal, block_queries=8, block_keys=8)  # noqa: E731
    output, got = gradients(attend, inputs, grad_output)
    options = {"causal": causal, "block_keys": 8}
    assert torch.allclose(output, broken.broken_attention(*inputs, "no_rescale", **options), atol=1e-10)
    for one, other in zip(got, broken.broken_gradients(*inputs, grad_output, "no_rescale", **options), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_each_mistake_shows() -> None:
    *inputs, grad_output = tensors(20, 33)
    right = broken.broken_attention(*inputs, None, causal=True, block_keys=8)
    for mistake in broken.FORWARD_MISTAKES:
        wrong = broken.broken_attention(*inputs, mistake, causal=True, block_keys=8)
        gentle = mistake == "no_maximum"  # the same softmax while nothing overflows
        assert torch.allclose(wrong, right, atol=1e-9) == gentle, mistake
    for mistake in broken.GRADIENT_MISTAKES:
        wrong, right = (broken.broken_gradients(*inputs, grad_output, name, block_keys=8) for name in (mistake, None))
        assert not torch.allclose(wrong[0], right[0], atol=1e-9), mistake


def test_the_last_block_is_all_that_its_control_sees() -> None:
    queries, keys, values, _ = tensors(24, 24)
    got = broken.last_block_attention(queries, keys, values, causal=True, block=8)
    scores = broken.scores_of(queries, keys, True, None, None)
    rows, columns = torch.arange(24)[:, None], torch.arange(24)
    scores = scores.masked_fill(rows // 8 != columns // 8, -math.inf)
    assert torch.allclose(got, torch.softmax(scores, dim=-1) @ broken.repeat_heads(values, queries), atol=1e-12)
    with pytest.raises(ValueError, match="as many queries as keys"):
        broken.last_block_attention(queries[:, :, 1:], keys, values, causal=True, block=8)


# --- counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query_len", "key_len", "block_queries", "block_keys"), [(16, 16, 4, 4), (21, 30, 8, 7), (30, 9, 7, 16)])
def test_with_the_keys_outside_it_is_attention_and_the_formula_equals_the_count(
    query_len: int, key_len: int, block_queries: int, block_keys: int
) -> None:
    queries, keys, values, _ = tensors(query_len, key_len, batch=2)
    counted = tiling.Traffic()
    output = keys_outer.keys_outer_forward(queries, keys, values, block_queries, block_keys, counted)
    assert torch.allclose(output, flash.naive_attention(queries, keys, values), atol=1e-12)
    shape = traffic.AttentionShape(query_len, key_len, 8, batch=2, heads=6, kv_heads=2)
    assert keys_outer.keys_outer_traffic(shape, block_keys) == counted
    assert keys_outer.count_keys_outer(shape, block_queries, block_keys) == counted


def test_fast_memory_counts_through_the_outer_block() -> None:
    """Twice the memory on the outer block is about half of the traffic; on the inner one it changes nothing."""
    shape = traffic.AttentionShape(8192, 8192, 64)
    for inner in (16, 64):
        outer = [traffic.block_queries_for_sram(m, 64, 16) for m in (2**14, 2**15)]
        few, many = (traffic.tiled_forward_traffic(shape, rows, inner).total for rows in outer)
        assert 0.4 < many / few < 0.55
        outer = [keys_outer.block_keys_for_sram(m, 64, 16) for m in (2**14, 2**15)]
        few, many = (keys_outer.keys_outer_traffic(shape, columns).total for columns in outer)
        assert 0.4 < many / few < 0.55
    assert traffic.tiled_forward_traffic(shape, 16, 64).total == traffic.tiled_forward_traffic(shape, 16, 512).total


@pytest.mark.parametrize("find", ["block_queries_for_sram", "block_keys_for_sram"])
def test_what_is_spent_fits_and_one_more_would_not(find: str) -> None:
    for sram in (5_000, 2**14, 2**15 + 1):
        rows = getattr(traffic if find == "block_queries_for_sram" else keys_outer, find)(sram, 64, 16)
        sizes = [(rows, 16), (rows + 1, 16)] if find == "block_queries_for_sram" else [(16, rows), (16, rows + 1)]
        fits, too_large = (traffic.sram_elements(*size, 64) for size in sizes)
        assert fits <= sram < too_large
    with pytest.raises(ValueError, match="need"):
        getattr(traffic if find == "block_queries_for_sram" else keys_outer, find)(100, 64, 16)


def test_pairs_are_counted_while_the_loop_runs() -> None:
    full = traffic.AttentionShape(96, 96, 8, heads=2, kv_heads=1)
    assert traffic.count_tiled_pairs(full, 16, 16) == 2 * 96 * 96
    causal = traffic.AttentionShape(96, 96, 8, heads=2, kv_heads=1, causal=True)
    assert traffic.count_tiled_pairs(causal, 16, 16) == 2 * 96 * (96 + 16) // 2, "half of the matrix and half of the diagonal tiles"
    ragged = traffic.AttentionShape(50, 33, 8, causal=True)
    assert 50 * 33 > traffic.count_tiled_pairs(ragged, 8, 5) > ragged.visible_pairs


def test_operations_are_the_useful_ones_unless_pairs_are_given() -> None:
    shape = traffic.AttentionShape(8, 8, 4, heads=2, kv_heads=2, causal=True)
    assert traffic.attention_flops(shape) == 4 * 4 * 2 * 36
    assert traffic.attention_flops(shape, pairs=2 * 64) == 4 * 4 * 2 * 64
    assert traffic.attention_flops(shape, pairs=2 * 64, backward=True) == 10 * 4 * 2 * 64


# --- fits ---------------------------------------------------------------------------------------------


def test_a_fit_finds_the_law_and_its_spread_says_when_it_is_rough() -> None:
    lengths = [512, 1024, 2048, 4096]
    exact = [3e-6 * n**2 for n in lengths]
    law = power_law.fit_power_law(lengths, [exact])
    assert law.exponent == pytest.approx(2) and law.factor == pytest.approx(3e-6) and law.spread == 0 and not law.rough
    # A minute in which the machine is busy slows a whole round: the exponents stay.
    calm = power_law.fit_power_law(lengths, [exact, [5 * cost for cost in exact], exact])
    assert calm.exponent == pytest.approx(2) and not calm.rough
    # One that slows the last length in half of the rounds does not go unnoticed.
    slowed = [*exact[:-1], 8 * exact[-1]]
    assert power_law.fit_power_law(lengths, [exact, slowed, exact, slowed, exact]).rough
    hidden = [1e3, *exact[1:]]
    assert power_law.fit_power_law(lengths, [hidden]).exponent == pytest.approx(2), "short lengths are left out"
    assert power_law.fit_power_law(lengths, [hidden], longest=4).exponent != pytest.approx(2)


# --- the recall task ------------------------------------------------------------------------------------


CORPUS = torch.frombuffer(bytearray(b"def attend(queries, keys):\n    return queries @ keys\n" * 40), dtype=torch.uint8)


def test_the_answer_stands_in_the_header_and_nowhere_near_a_question() -> None:
    tokens, targets = recall.recall_piece(CORPUS, 64, recall.SIGNS[1], torch.Generator().manual_seed(0))
    assert tokens[0, :16].eq(recall.SIGNS[1]).all() and tokens[0, -16:].eq(recall.QUESTION).all()
    assert targets[0, -16:].eq(recall.SIGNS[1]).all()
    assert not tokens[0, 16:].eq(recall.SIGNS[1]).any(), "targets and tokens are no views of one piece"
    assert torch.equal(targets[0, :47], tokens[0, 1:48]), "everything else is the next byte"


def test_the_signs_come_equally_often() -> None:
    for seed in range(5):
        signs = [tokens[0, 0].item() for tokens, _ in recall.recall_batches(CORPUS, steps=10, seq=32, seed=seed)]
        assert sorted(signs) == sorted(recall.SIGNS * 5)


@pytest.mark.parametrize("blind", ["zeros", "last_block"])
def test_who_does_not_see_the_header_gains_nothing_however_it_was_trained(blind: str) -> None:
    attention = broken.zero_attention
    if blind == "last_block":
        attention = lambda *given, causal: broken.last_block_attention(*given, causal=causal, block=32)  # noqa: E731
    model = small_transformer.build_model(small_transformer.ModelConfig(), attention, seed=0)
    list(small_transformer.train_steps(model, recall.recall_batches(CORPUS, steps=6, seq=128, seed=0), learning_rate=1e-2))
    assert recall.recall_gain(model, CORPUS, 128, seed=1) <= 1e-6


# --- the model ------------------------------------------------------------------------------------------


def test_rotary_pairs_lie_as_in_hugging_faces_llama() -> None:
    vectors = torch.randn(1, 2, 50, 16, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(50.0)[:, None] * 10_000.0 ** (-torch.arange(8.0) / 8)
    cosines, sines = (torch.cat([table, table], dim=-1)[None] for table in (angles.cos(), angles.sin()))
    wanted, _ = apply_rotary_pos_emb(vectors, vectors, cosines, sines)
    assert torch.allclose(small_transformer.rotate(vectors, 10_000.0), wanted, atol=1e-5)


def test_the_slowest_pair_needs_as_many_tokens_for_a_turn_as_the_docstring_says() -> None:
    turn = 2 * math.pi * 100.0 ** (1 - 2 / 16)  # a small base, so that a turn is short
    vectors = torch.ones(1, 1, round(turn) + 1, 16)
    rotated = small_transformer.rotate(vectors, 100.0)[0, 0]
    assert torch.allclose(rotated[round(turn), [7, 15]], torch.ones(2), atol=0.01)
    assert torch.allclose(rotated[round(turn / 2), [7, 15]], -torch.ones(2), atol=0.01)


# --- the notebooks ----------------------------------------------------------------------------------------


def test_notebook_1_needs_exercise_1_alone() -> None:
    tree = ast.parse((LAB / "01-setup-and-comparison.py").read_text(encoding="utf-8"))
    modules = {path.stem: path.read_text(encoding="utf-8") for path in LAB.glob("*.py")}
    with_exercises = {name for name, text in modules.items() if "# SOLUTION" in text}
    taken = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module in with_exercises for alias in node.names
    }
    assert taken == {"naive_attention"}


def test_code_that_a_reader_follows_fits_its_line() -> None:
    """Lines of notebooks that are longer than 120 characters are text, not code."""
    for path in sorted(LAB.glob("0*.py")):
        for cell in sources.read_cells(path):
            if cell.kind != "code":
                continue
            text = [node for node in ast.walk(ast.parse(cell.text)) if isinstance(node, ast.JoinedStr | ast.Constant)]
            strings = {line for node in text for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
            long = [number for number, line in enumerate(cell.text.split("\n"), start=1) if len(line) > 120 and number not in strings]
            assert not long, f"{path.name}, from line {cell.line}: {long}"
