"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the modules
under test. Inputs are float64, so that rounding cannot be taken for a mistake.
"""

from __future__ import annotations

import importlib.util
import itertools
import math

import torch
from torch import Tensor

import mistakes as wrong
from broken_variants import State, broken_attention, broken_gradients, merge, scores_of
from flash_attention import (
    SoftmaxState,
    causal_offset,
    default_scale,
    empty_state,
    finish_softmax,
    flash_attention,
    naive_attention,
    online_softmax_merge,
    row_dots,
    tile_gradients,
    tiled_forward,
)
from memory_traffic import AttentionShape, tiled_forward_traffic
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text
from tiling import Tiling, Traffic

CLOSE = 1e-9  # absolute, float64
TILINGS = ((8, 8, 2, 2), (7, 10, 2, 3), (8, 8, 4, 2), (8, 9, 2, 4), (9, 6, 2, 2))  # lengths and blocks, as in Tiling


def random_tensors(query_len: int, key_len: int, heads: int = 2, kv_heads: int = 2, head_dim: int = 16) -> list[Tensor]:
    """Float64 queries, keys, values and a gradient of the output, from a seed; batch of one."""
    generator = torch.Generator().manual_seed(query_len * 1000 + key_len)
    shapes = [(heads, query_len), (kv_heads, key_len), (kv_heads, key_len), (heads, query_len)]
    return [torch.randn(1, *shape, head_dim, generator=generator, dtype=torch.float64) for shape in shapes]


@exercise(
    1,
    title=Text("Naive attention and the causal offset", "原始注意力與因果位移"),
    minutes=10,
    level="core",
    hint=Text(
        "Which two tokens must just see each other: the last query and the last key? Put query_len - 1 and key_len - 1 "
        "into j <= i + offset. And along which axis does one query share out its weight?",
        "哪兩個 token 必須剛好看得到彼此：最後一個 query 和最後一個 key？把 query_len - 1 和 key_len - 1 代進 j <= i + offset。"
        "還有：一個 query 是沿著哪個軸分配它的權重？",
    ),
)
def check_exercise_1() -> None:
    expect(
        default_scale(64), 0.125, atol=CLOSE, what=same("default_scale(64)"),
        mistakes={wrong.SCALE_NOT_ROOT: 1 / 64, wrong.SCALE_MISSING: 1.0, wrong.SCALE_INVERTED: 8.0},
    )  # fmt: skip
    expect(
        [causal_offset(2, 5), causal_offset(5, 5), causal_offset(5, 2)], [3, 0, -3],
        what=Text("causal_offset(2, 5), (5, 5) and (5, 2)", "causal_offset(2, 5)、(5, 5) 和 (5, 2)"),
        mistakes={wrong.TOP_LEFT: [0, 0, 0], wrong.SEES_NEXT: [4, 1, -2], wrong.OFFSET_SIGN: [-3, 0, 3]},
    )  # fmt: skip
    check_naive_attention()
    check_blind_queries()


def check_naive_attention() -> None:
    """Full, then causal with more keys than queries, where the offset shows."""
    queries, keys, values, _ = random_tensors(6, 9)
    inputs, scores = (queries, keys, values), scores_of(queries, keys, False, None, None)
    expect(
        naive_attention(*inputs), broken_attention(*inputs, None), atol=CLOSE,
        what=Text("naive_attention, full", "naive_attention（不加遮罩）"),
        mistakes={
            wrong.SCALE_MISSING: broken_attention(*inputs, "no_scale"),
            wrong.SCALE_NOT_ROOT: broken_attention(*inputs, "scale_by_head_dim"),
            wrong.SOFTMAX_OVER_QUERIES: torch.softmax(scores, dim=-2) @ values,
        },
    )  # fmt: skip
    visible = scores_of(queries, keys, True, None, None).isfinite()
    expect(
        naive_attention(*inputs, causal=True), broken_attention(*inputs, None, causal=True), atol=CLOSE,
        what=Text("naive_attention, causal, 6 queries, 9 keys", "naive_attention（因果遮罩，6 個 query、9 個 key）"),
        mistakes={
            wrong.NO_MASK: broken_attention(*inputs, None),
            wrong.TOP_LEFT: broken_attention(*inputs, "causal_top_left", causal=True),
            wrong.SEES_NEXT: broken_attention(*inputs, "causal_off_by_one", causal=True),
            wrong.MASK_AFTER_SOFTMAX: (torch.softmax(scores, dim=-1) * visible) @ values,
            wrong.MASK_INVERTED: torch.softmax(scores.masked_fill(visible, -1e300), dim=-1) @ values,
        },
    )  # fmt: skip


def check_blind_queries() -> None:
    """More queries than keys: the first ones see nothing, and must not spoil the gradients of the others."""
    queries, keys, values, grad_output = random_tensors(9, 6)
    values.requires_grad_()
    (got,) = torch.autograd.grad(naive_attention(queries, keys, values, causal=True), values, grad_output)
    queries, grad_output = queries[:, :, 3:], grad_output[:, :, 3:]
    *_, want = broken_gradients(queries, keys, values.detach(), grad_output, None, causal=True)
    expect(
        got, want, atol=CLOSE,
        what=Text("gradient of the values, causal, 9 queries, 6 keys", "values 的梯度（因果，9 個 query、6 個 key）"),
        mistakes={wrong.MINUS_INFINITY: torch.full_like(want, math.nan)},
    )  # fmt: skip


@exercise(
    2,
    title=Text("The online-softmax merge", "線上 softmax 的合併"),
    minutes=15,
    level="core",
    hint=Text(
        "A sum of exp(s - old) is known, a sum of exp(s - new) is wanted: by what must each term be multiplied? Is it the "
        "same for all terms of a row? And is the output such a sum, too?",
        "手上是 exp(s - 舊) 的總和，想要的是 exp(s - 新) 的總和：每一項要乘上什麼？同一列的每一項都一樣嗎？"
        "輸出是不是也是這種總和？",
    ),
)
def check_exercise_2() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 5, 8), (2, 8, 4), (2, 5, 8), (2, 8, 4))
    earlier, earlier_values, scores, values = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    empty = empty_state(torch.zeros(2, 5, 4, dtype=torch.float64))
    old = merge(State(*empty), earlier, earlier_values)
    got, want = online_softmax_merge(SoftmaxState(*old), scores, values), merge(old, scores, values)
    expect(
        got.maximum, want.maximum, atol=CLOSE, what=Text("the new maximum", "新的最大值"),
        mistakes={wrong.PAST_LOST: scores.amax(-1, keepdim=True), wrong.BLOCK_IGNORED: old.maximum},
    )  # fmt: skip
    check_sums(old, want, got, scores, values)
    far = online_softmax_merge(empty, scores + 2000, values)
    expect(
        far.total, merge(State(*empty), scores + 2000, values).total, atol=CLOSE,
        what=Text("the total of scores near 2000", "分數在 2000 附近時的 total"),
        mistakes={wrong.NO_MAXIMUM: torch.full((2, 5, 1), math.inf)},
    )  # fmt: skip


def check_sums(old: State, want: State, got: SoftmaxState, scores: Tensor, values: Tensor) -> None:
    """Total and output go through the same algebra, the total with a value of one for every key."""
    fresh, stale = torch.exp(scores - want.maximum), torch.exp(scores - old.maximum)
    ones, correction = torch.ones(2, 8, 1, dtype=torch.float64), torch.exp(old.maximum - want.maximum)
    for name, factor in (("total", ones), ("output", values)):
        before, added, added_stale = getattr(old, name), fresh @ factor, stale @ factor
        expect(
            getattr(got, name), getattr(want, name), atol=CLOSE, what=Text(f"the new {name}", f"新的 {name}"),
            mistakes={
                wrong.NO_RESCALE: before + added,
                wrong.RESCALE_INVERTED: before / correction + added,
                wrong.SUM_BEFORE_MAXIMUM: correction * before + added_stale,
                wrong.SUM_AND_OLD_MAXIMUM: before + added_stale,
                wrong.BLOCK_RESCALED: correction * (before + added),
                wrong.PAST_LOST: added,
            },
        )  # fmt: skip


@exercise(
    3,
    title=Text("The tiled forward pass", "分塊的前向傳播"),
    minutes=20,
    level="core",
    hint=Text(
        "What does one query block need of one key block, which of it must be hidden, and what must the next turn of the "
        "loop know? One line each; tiling and exercise 2 have the last two. And what is the sum of exp(s), if total is "
        "the sum of exp(s - maximum)?",
        "一個 query 區塊需要一個 key 區塊的什麼？其中哪些要遮住？迴圈的下一輪又必須知道什麼？各一行，後兩行在 tiling 和練習 2 裡。"
        "還有：total 是 exp(s - 最大值) 的總和，那 exp(s) 的總和是什麼？",
    ),
)
def check_exercise_3() -> None:
    queries, keys, values, _ = random_tensors(37, 53)
    check_finish(queries, keys, values)
    check_tiled_forward(queries, keys, values)


def check_finish(queries: Tensor, keys: Tensor, values: Tensor) -> None:
    """finish_softmax, on the state after all keys at once."""
    scores = scores_of(queries, keys, False, None, None)
    state = merge(State(*empty_state(queries)), scores, values)
    output, logsumexp = finish_softmax(SoftmaxState(*state))
    expect(
        output, state.output / state.total, atol=CLOSE, what=Text("output of finish_softmax", "finish_softmax 的輸出"),
        mistakes={wrong.NOT_DIVIDED: state.output},
    )  # fmt: skip
    want = torch.logsumexp(scores, dim=-1)
    expect(
        logsumexp, want, atol=CLOSE, what=Text("logsumexp of finish_softmax", "finish_softmax 的 logsumexp"),
        mistakes={
            wrong.COLUMN_LEFT: want[..., None],
            wrong.NO_LOGARITHM: (state.maximum + state.total).squeeze(-1),
            wrong.MAXIMUM_NOT_ADDED: state.total.log().squeeze(-1),
        },
    )  # fmt: skip


def check_tiled_forward(*inputs: Tensor) -> None:
    """Ragged in both directions: four key blocks, so that a mistake in the merge shows."""
    got, logsumexp = tiled_forward(*inputs, Tiling(37, 53, None, 16, 16), 0.25, Traffic())
    mistakes = {
        text: broken_attention(*inputs, name, block_keys=16)
        for text, name in (
            (wrong.SCALE_MISSING, "no_scale"),
            (wrong.NO_RESCALE, "no_rescale"),
            (wrong.OUTPUT_NOT_RESCALED, "output_not_rescaled"),
            (wrong.SUM_BEFORE_MAXIMUM, "sum_before_maximum"),
            (wrong.NOT_DIVIDED, "no_division"),
        )
    }
    mistakes[wrong.SCALE_TWICE] = broken_attention(*inputs, None, scale=0.25**2)
    last_block = (tensor[:, :, 48:] for tensor in inputs[1:])
    mistakes[wrong.LAST_BLOCK_ONLY] = broken_attention(inputs[0], *last_block, None)
    what = Text("tiled_forward, 37 queries, 53 keys, blocks of 16", "tiled_forward（37 個 query、53 個 key、區塊 16）")
    expect(got, broken_attention(*inputs, None), atol=CLOSE, what=what, mistakes=mistakes)
    want = torch.logsumexp(scores_of(*inputs[:2], False, None, None), dim=-1)
    expect(logsumexp, want, atol=CLOSE, what=Text("its logsumexp", "它的 logsumexp"))


@exercise(
    4,
    title=Text("Tiles that causality does not need", "因果遮罩用不到的 tile"),
    minutes=15,
    level="core",
    hint=Text(
        "Which query of a block sees most, and which key of a block is seen most? If not even that pair is visible, what "
        "follows? And which pair is the first to be hidden? Mind what the last token of a slice is.",
        "一個區塊裡，看得最遠的是哪個 query？最容易被看到的是哪個 key？連這一對都看不到的話，代表什麼？"
        "反過來，最先看不到的又是哪一對？注意 slice 的最後一個 token 是哪一個。",
    ),
)
def check_exercise_4() -> None:
    needed, masked = judge_tiles()
    expect(
        needed["got"], needed["want"], what=Text("needs_tile, tile by tile", "逐一檢查 needs_tile"),
        mistakes={
            wrong.ALL_TILES: needed["all"], wrong.TOP_LEFT: needed["top left"], wrong.STOP_IS_A_ROW: needed["stop"],
            wrong.FIRST_ROW_DECIDES: needed["first"], wrong.WHOLE_BLOCK_ONLY: needed["whole"],
        },
    )  # fmt: skip
    expect(
        masked["got"], masked["want"], what=Text("needs_mask, tile by tile", "逐一檢查 needs_mask"),
        mistakes={
            wrong.ALWAYS_MASK: masked["all"], wrong.TOP_LEFT: masked["top left"],
            wrong.STOP_IS_A_COLUMN: masked["stop"], wrong.LAST_ROW_DECIDES: masked["last"],
        },
    )  # fmt: skip
    inputs = random_tensors(21, 30, heads=4)[:3]
    expect(
        flash_attention(*inputs, causal=True, block_queries=8, block_keys=8),
        broken_attention(*inputs, None, causal=True), atol=CLOSE,
        what=Text("flash_attention, causal, 21 queries, 30 keys", "flash_attention（因果，21 個 query、30 個 key）"),
    )  # fmt: skip


def judge_tiles() -> tuple[dict[str, list[bool]], dict[str, list[bool]]]:
    """For every tile of several tilings: the learner's two answers, the right ones, and those of each mistake."""
    needed: dict[str, list[bool]] = {}
    masked: dict[str, list[bool]] = {}
    for query_len, key_len, block_queries, block_keys in TILINGS:
        offset = key_len - query_len
        tiling = Tiling(query_len, key_len, offset, block_queries, block_keys)
        for rows, keys in itertools.product(cut(query_len, block_queries), cut(key_len, block_keys)):
            visible = [j <= i + offset for i in range(query_len)[rows] for j in range(key_len)[keys]]
            for name, answer in {
                "got": bool(tiling.needs_tile(rows, keys)), "want": any(visible), "all": True, "whole": all(visible),
                "first": keys.start <= rows.start + offset, "stop": keys.start <= rows.stop + offset,
                "top left": keys.start <= rows.stop - 1,
            }.items():  # fmt: skip
                needed.setdefault(name, []).append(answer)
            for name, answer in {
                "got": bool(tiling.needs_mask(rows, keys)), "want": not all(visible), "all": True,
                "stop": keys.stop > rows.start + offset, "last": keys.stop - 1 > rows.stop - 1 + offset,
                "top left": keys.stop - 1 > rows.start,
            }.items():  # fmt: skip
                masked.setdefault(name, []).append(answer)
    return needed, masked


def cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@exercise(
    5,
    title=Text("The tiled backward pass", "分塊的反向傳播"),
    minutes=30,
    level="core",
    hint=Text(
        "Put dP_ik = dO_i . V_k into sum_k P_ik dP_ik and pull dO_i out: what is the sum that is left? For a tile, go back "
        "from O = P V to P and V, from P to S with D, and from S = scale * Q K^T to Q and K: where does scale go?",
        "把 dP_ik = dO_i · V_k 代進 sum_k P_ik dP_ik，再把 dO_i 提出來：剩下的總和是什麼？"
        "每個 tile 裡，從 O = P V 走回 P 和 V，從 P 帶著 D 走回 S，再從 S = scale * Q K^T 走回 Q 和 K：scale 落在哪裡？",
    ),
)
def check_exercise_5() -> None:
    queries, keys, values, grad_output = random_tensors(6, 9)
    inputs = (queries, keys, values)
    output, scores = broken_attention(*inputs, None), scores_of(queries, keys, False, None, None)
    want = (grad_output * output).sum(-1)
    expect(
        row_dots(grad_output, output), want, atol=CLOSE, what=same("row_dots"),
        mistakes={
            wrong.DOTS_WITHOUT_PRODUCT: grad_output.sum(-1),
            wrong.DOTS_OVER_ROWS: (grad_output * output).sum(-2),
            wrong.DOTS_COLUMN: want[..., None],
        },
    )  # fmt: skip
    got = tile_gradients(*inputs, scores, grad_output, torch.logsumexp(scores, dim=-1), want, 0.25)
    check_tile_gradients(got, inputs, grad_output, scores)
    for causal in (False, True):
        check_tiled_backward(causal)


def check_tiled_backward(causal: bool) -> None:
    """The whole backward pass, with grouped heads and ragged blocks."""
    *inputs, grad_output = random_tensors(21, 30, heads=4)
    want = broken_gradients(*inputs, grad_output, None, causal=causal)
    for tensor in inputs:
        tensor.requires_grad_()
    output = flash_attention(*inputs, causal=causal, block_queries=8, block_keys=8)
    got = torch.autograd.grad(output, inputs, grad_output)
    for name, actual, right in zip(("dQ", "dK", "dV"), got, want, strict=True):
        expect(actual, right, atol=CLOSE, what=same(f"flash_attention(causal={causal}), {name}"))


def check_tile_gradients(
    got: tuple[Tensor, ...], inputs: tuple[Tensor, ...], grad_output: Tensor, scores: Tensor
) -> None:
    """dV first: it needs neither D nor the scale, so that a mistake in it is told apart from one in dS."""
    queries, keys, values = inputs
    want, no_dots, no_scale = (broken_gradients(*inputs, grad_output, m) for m in (None, "no_row_dots", "no_scale"))
    weights, grad_weights = torch.softmax(scores, dim=-1), grad_output @ values.transpose(-2, -1)
    dots = (weights * grad_weights).sum(-1, keepdim=True)
    expect(
        got[2], want[2], atol=CLOSE, what=same("tile_gradients, dV"),
        mistakes={
            wrong.WEIGHTS_NOT_NORMALISED: torch.exp(scores).transpose(-2, -1) @ grad_output,
            wrong.GRAD_WEIGHTS_FOR_VALUES: (0.25 * weights * (grad_weights - dots)).transpose(-2, -1) @ grad_output,
        },
    )  # fmt: skip
    added = 0.25 * weights * (grad_weights + dots)
    for index, name, with_plus in ((0, "dQ", added @ keys), (1, "dK", added.transpose(-2, -1) @ queries)):
        expect(
            got[index], want[index], atol=CLOSE, what=same(f"tile_gradients, {name}"),
            mistakes={
                wrong.NO_ROW_DOTS: no_dots[index], wrong.GRADIENT_NOT_SCALED: no_scale[index],
                wrong.GRADIENT_SCALED_TWICE: 0.25 * want[index], wrong.DOTS_SIGN: with_plus,
            },
        )  # fmt: skip


@exercise(
    6,
    title=Text("The memory traffic, as a formula", "用公式算記憶體傳輸量"),
    minutes=20,
    level="core",
    hint=Text(
        "How many rows of K does one query block read: which of its rows decides, and what does a key block that is only "
        "partly visible cost? Then: which tensors are read per key/value head and which per query head, how wide is each, "
        "and what goes out besides O?",
        "一個 query 區塊要讀幾列 K：由它的哪一列決定？只看得到一部分的 key 區塊要付多少代價？"
        "接著：哪些張量是每個 key/value head 讀一次，哪些是每個 query head？各有多寬？除了 O，還有什麼要存回去？",
    ),
)
def check_exercise_6() -> None:
    for shape, block_queries, block_keys in (
        (AttentionShape(64, 64, 16), 16, 16),
        (AttentionShape(70, 50, 8, batch=3, heads=6, kv_heads=2), 16, 32),
        (AttentionShape(64, 64, 16, heads=2, kv_heads=2, causal=True), 16, 32),
        (AttentionShape(37, 53, 8, batch=2, heads=4, kv_heads=2, causal=True), 8, 16),
        (AttentionShape(53, 37, 8, batch=2, heads=4, kv_heads=1, causal=True), 16, 8),
        # Only the last row of a query block sees the first key of one more key block.
        (AttentionShape(32, 33, 8, causal=True), 16, 16),
    ):
        counts = walk_tiles(shape, block_queries, block_keys)
        query_rows = shape.batch * shape.heads * shape.rows
        got = tiled_forward_traffic(shape, block_queries, block_keys)
        label = f"{shape.query_len} x {shape.key_len}, {shape.heads}/{shape.kv_heads} heads, causal={shape.causal}"

        def loaded(keys: int, heads: int = shape.kv_heads, copies: int = 2, shape: AttentionShape = shape) -> int:
            return shape.head_dim * shape.batch * (shape.heads * shape.rows + heads * copies * keys)

        expect(
            got.loaded, loaded(counts["whole"]), what=Text(f"elements loaded, {label}", f"載入的元素數，{label}"),
            mistakes={
                wrong.KEYS_ONLY: loaded(counts["whole"], copies=1), wrong.KEYS_ONCE: loaded(shape.key_len),
                wrong.KEYS_PER_QUERY_HEAD: loaded(counts["whole"], heads=shape.heads),
                wrong.CAUSAL_NOT_SKIPPED: loaded(counts["all"]), wrong.CAUSAL_NOT_WHOLE: loaded(counts["visible"]),
                wrong.RAGGED_BLOCK_FULL: loaded(counts["padded"]), wrong.LAST_ROW_NOT_ASKED: loaded(counts["early"]),
            },
        )  # fmt: skip
        expect(
            got.stored, query_rows * (shape.head_dim + 1),
            what=Text(f"elements stored, {label}", f"存回的元素數，{label}"),
            mistakes={wrong.LOGSUMEXP_FORGOTTEN: query_rows * shape.head_dim},
        )  # fmt: skip


def walk_tiles(shape: AttentionShape, block_queries: int, block_keys: int) -> dict[str, int]:
    """Rows of K that one head reads, found by walking over all pairs: the right count and the mistaken ones."""
    counts = {"whole": 0, "all": 0, "visible": 0, "padded": 0, "early": 0}
    for start in range(shape.first_row, shape.query_len, block_queries):
        rows = range(start, min(start + block_queries, shape.query_len))
        seen, seen_early = (
            [any(j < shape.visible_keys(i) for i in some) for j in range(shape.key_len)] for some in (rows, rows[:-1])
        )
        for left in range(0, shape.key_len, block_keys):
            block = seen[left : left + block_keys]
            counts["all"] += len(block)
            counts["visible"] += sum(block)
            counts["whole"] += len(block) if any(block) else 0
            counts["padded"] += block_keys if any(block) else 0
            counts["early"] += len(block) if any(seen_early[left : left + block_keys]) else 0
    return counts


def check_exercise_7() -> None:
    from flash_attention_triton import INTERPRETED, flash_attention_triton, inner_loop_is_open

    if inner_loop_is_open():
        raise NotImplementedError("Exercise 7")
    device = "cpu" if INTERPRETED else "cuda"
    inputs = tuple(random_tensors(37, 53)[:3])
    for causal in (False, True):
        got = flash_attention_triton(
            *(tensor.float().to(device) for tensor in inputs), causal=causal, block_queries=16, block_keys=16
        ).cpu()
        expect(
            got, broken_attention(*inputs, None, causal=causal), atol=1e-5,
            what=same(f"flash_attention_triton(causal={causal})"), mistakes=mistakes_in_kernel(*inputs, causal),
        )  # fmt: skip
    check_unequal_rows(device)


def check_unequal_rows(device: str) -> None:
    """Rows whose scores are 200 apart, as outliers make them: each needs its own maximum, one of the whole tile is too much for it.

    e^-200 is zero in float32, e^-200 / e^-200 is not. The outlier stands in one number of queries and keys.
    """
    from flash_attention_triton import flash_attention_triton

    queries, keys, values, _ = random_tensors(21, 40)
    keys[..., 0] = 4.0  # times 0.25, the scale: what stands in the query is added to each of its scores
    queries[..., 0] = 0.0
    queries[:, :, 1::2, 0] = 200.0
    inputs = (queries, keys, values)
    got = flash_attention_triton(*(tensor.float().to(device) for tensor in inputs), block_queries=16, block_keys=16).cpu()
    want = broken_attention(*inputs, None)
    one_maximum = want.clone()
    one_maximum[:, :, 0::2] = math.nan
    expect(
        got, want, atol=1e-3,
        what=Text("flash_attention_triton, rows 200 apart in their scores", "flash_attention_triton（各列的分數相差 200）"),
        mistakes={wrong.MAXIMUM_OF_TILE: one_maximum},
    )  # fmt: skip


def mistakes_in_kernel(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> dict[Text, Tensor]:
    """What mistakes in `attend` give with tiles of 16 x 16."""
    inputs = (queries, keys, values)
    named = {
        text: broken_attention(*inputs, name, causal=causal, block_keys=16)
        for text, name in (
            (wrong.SCALE_MISSING, "no_scale"),
            (wrong.NO_RESCALE, "no_rescale"),
            (wrong.OUTPUT_NOT_RESCALED, "output_not_rescaled"),
            (wrong.SUM_BEFORE_MAXIMUM, "sum_before_maximum"),
        )
    }
    named[wrong.BASE_MIXED] = broken_attention(*inputs, None, causal=causal, scale=0.25 * math.log2(math.e))
    padded = [torch.nn.functional.pad(tensor, (0, 0, 0, 11)) for tensor in (keys, values)]  # 53 keys -> 64
    if not causal:
        return named | {wrong.PADDING_COUNTED: broken_attention(queries, *padded, None)}
    # The kernel masks only the tiles that the diagonal crosses: a wrong mask does not reach the others.
    rows, columns, offset = torch.arange(37)[:, None], torch.arange(64), 53 - 37
    first_row = rows // 16 * 16
    below, above = (first_row + offset + 1) // 16 * 16, -(-(first_row + 16 + offset) // 16) * 16
    scores = scores_of(queries, padded[0], False, None, None)
    for text, limit in ((wrong.TOP_LEFT, rows), (wrong.SEES_NEXT, rows + offset + 1), (wrong.NO_MASK, rows + 64)):
        visible = (columns < below) | ((columns <= limit) & (columns < above) & (columns < 53))
        named[text] = torch.softmax(scores.masked_fill(~visible, -math.inf), dim=-1) @ padded[1]
    return named


if importlib.util.find_spec("triton") is not None:  # it exists for Linux only; elsewhere there is no exercise 7
    exercise(
        7,
        title=Text("The inner loop in Triton", "用 Triton 寫內層迴圈"),
        minutes=45,
        level="stretch",
        hint=Text(
            "Write exercises 2 and 3 side by side with it: what is each of their lines called here? In which base are the "
            "scores, and which exponential belongs to it? Over which axis has each row its own maximum and its own sum? "
            "And in which dtype must the weights be for the second product?",
            "把練習 2 和 3 放在旁邊對照：它們的每一行在這裡叫什麼？分數以幾為底，該用哪個指數函數？"
            "每一列各自的最大值與總和是沿哪個軸取的？做第二個乘積時，權重要是什麼 dtype？",
        ),
    )(check_exercise_7)
