"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
Inputs are float64, so that rounding cannot be taken for a mistake. Heads, groups and lengths all differ.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mistakes as wrong
from broken_latent import broken_latent
from broken_variants import (
    broken_append,
    broken_attention,
    broken_expand,
    broken_place,
    broken_pool,
)
from conversion import pooled_heads
from grouped_attention import causal, expand_heads, grouped_attention
from key_value_cache import CacheShape, KeyValueCache, cache_bytes, largest_kv_heads, place_of
from latent_attention import LatentSizes, absorbed, project, random_weights
from onepiece.checks import Missed, exercise, expect, same
from onepiece.course.text import Text

CLOSE = 1e-9  # absolute, float64
LAYOUTS = ((6, 2), (6, 3), (4, 4), (4, 1))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LargestResult(TorchDispatchMode):
    """Remembers the most numbers that an operator has made, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            self.largest = max([self.largest, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


@exercise(
    1,
    title=Text("Which head reads which", "哪個 head 讀哪個"),
    minutes=5,
    level="core",
    hint=Text(
        "Write down for 6 query heads and 2 key/value heads which one each of them reads. Is it 0 0 0 1 1 1 or 0 1 0 1 0 1? PyTorch has an "
        "operation for each of the two.",
        "寫下來：6 個 query head、2 個 key/value head，各自讀哪一個？是 0 0 0 1 1 1，還是 0 1 0 1 0 1？這兩種 PyTorch 各有一個運算。",
    ),
)
def check_exercise_1() -> None:
    for heads, kv_heads in LAYOUTS:
        tensor = draw(2, kv_heads, 5, 4)
        expect(
            expand_heads(tensor, heads), broken_expand(tensor, heads, None),
            what=Text(f"{kv_heads} key/value heads for {heads} query heads", f"{heads} 個 query head 用的 {kv_heads} 個 key/value head"),
            mistakes={text: broken_expand(tensor, heads, name) for name, text in wrong.GROUPS.items()},
        )  # fmt: skip


@exercise(
    2,
    title=Text("Attention without a copy", "不複製的注意力"),
    minutes=20,
    level="core",
    hint=Text(
        "A matrix product does not ask whose rows it multiplies. Which axis of the queries can hold the group as well? And what must be "
        "undone, in which order, before the mask and at the end?",
        "矩陣乘法不管每一列是誰的。query 的哪個軸可以連 group 一起放進去？在套遮罩之前、還有最後，各要還原什麼，順序又是什麼？",
    ),
)
def check_exercise_2() -> None:
    for heads, kv_heads in LAYOUTS:
        queries, keys, values = draw(2, heads, 3, 8), draw(2, kv_heads, 7, 8, seed=1), draw(2, kv_heads, 7, 6, seed=2)
        visible = causal(torch.arange(4, 7), torch.arange(7))
        expect(
            grouped_attention(queries, keys, values, visible), broken_attention(queries, keys, values, visible), atol=CLOSE,
            what=Text(f"{heads} query heads, {kv_heads} key/value heads", f"{heads} 個 query head、{kv_heads} 個 key/value head"),
            mistakes={
                text: broken_attention(queries, keys, values, visible, mistake=name) for name, text in wrong.ATTENTION.items()
            },
        )  # fmt: skip
        of_rows = torch.stack([visible, visible.flip(1)]).unsqueeze(1)  # (batch, 1, query_len, key_len)
        expect(
            grouped_attention(queries, keys, values, of_rows, 0.3), broken_attention(queries, keys, values, of_rows, 0.3), atol=CLOSE,
            what=Text("a mask for each row of the batch, and scale=0.3", "批次的每一列各有遮罩，而且 scale=0.3"),
            mistakes={wrong.SCALE_IGNORED: broken_attention(queries, keys, values, of_rows)},
        )  # fmt: skip
    check_nothing_is_copied()


def check_nothing_is_copied() -> None:
    """One query against many keys: no result may be as large as the keys are."""
    queries, keys = draw(1, 8, 1, 64), draw(1, 2, 50, 64)
    with LargestResult() as seen:
        grouped_attention(queries, keys, keys, torch.ones(1, 50, dtype=torch.bool))
    if seen.largest >= keys.numel():
        raise Missed(
            what=str(Text("the largest tensor that is made", "做出的最大張量")), got=str(seen.largest),
            want=f"< {keys.numel()}", mistake=str(wrong.EXPANDED),
        )  # fmt: skip


@exercise(
    3,
    title=Text("A cache that grows", "會長大的快取"),
    minutes=10,
    level="core",
    hint=Text(
        "Where does the next token go, and where does the one after it go? Which part of the memory has been filled so far, and may "
        "anything else be seen?",
        "下一個 token 放在哪裡？再下一個呢？到目前為止，哪一部分的記憶體已經填了？其他部分可以被看到嗎？",
    ),
)
def check_exercise_3() -> None:
    pieces = [draw(2, 3, new, 4, seed=new) for new in (4, 1, 2)]
    cache = KeyValueCache(CacheShape(2, 3, 9, 4), torch.float64)
    wanted = broken_append(pieces, 9, None)
    for number, piece in enumerate(pieces):
        keys, values, positions = cache.append(piece, -piece)
        expect(
            [keys, values], list(wanted[number]),
            what=Text(f"keys and values after piece {number + 1}", f"第 {number + 1} 段之後的 key 與 value"),
            mistakes={text: list(broken_append(pieces, 9, name)[number]) for name, text in wrong.APPEND.items()},
        )  # fmt: skip
        end = wanted[number][0].shape[2]
        expect(
            positions, torch.arange(end), what=Text("their positions", "它們的位置"),
            mistakes={wrong.POSITIONS: torch.arange(end - piece.shape[2], end)},
        )  # fmt: skip
        expect(cache.length, end, what=same("cache.length"), mistakes={wrong.APPEND["length_stays"]: end - piece.shape[2]})
        shared = [keys.untyped_storage().data_ptr(), values.untyped_storage().data_ptr()]
        own = [cache.keys.untyped_storage().data_ptr(), cache.values.untyped_storage().data_ptr()]
        expect([shared[0] == own[0], shared[1] == own[1]], [True, True], what=Text("is it a view", "是不是 view"),
               mistakes={wrong.COPIED: [False, False]})  # fmt: skip


@exercise(
    4,
    title=Text("What a cache costs, and how many heads fit", "快取要多少記憶體，放得下幾個 head"),
    minutes=15,
    level="core",
    hint=Text(
        "How many numbers does one layer keep of one token? For part b: which numbers may `kv_heads` be at all?",
        "一層要為一個 token 留下幾個數？第二部分：`kv_heads` 到底可以是哪些數？",
    ),
)
def check_exercise_4() -> None:
    sizes = {"layers": 5, "head_dim": 16, "tokens": 7, "batch": 3, "bytes_per_number": 2}
    whole = 2 * 5 * 2 * 16 * 7 * 3 * 2
    expect(
        cache_bytes(kv_heads=2, **sizes), whole, what=same("cache_bytes(kv_heads=2, ...)"),
        mistakes={wrong.KEYS_ONLY: whole // 2, wrong.ONE_LAYER: whole // 5},
    )  # fmt: skip
    one = whole // 2
    for heads, budget, want, mistaken in (
        (12, 5 * one, 4, {wrong.NOT_A_DIVISOR: 5, wrong.SMALLEST: 1}),
        (12, 6 * one, 6, {wrong.SMALLEST: 1, wrong.TOO_LARGE: 12}),
        (12, 6 * one - 1, 4, {wrong.TOO_LARGE: 6}),
        (8, 100 * one, 8, {wrong.NOT_A_DIVISOR: 100}),
        (8, one, 1, {}),
        (8, one - 1, 0, {wrong.TOO_LARGE: 1}),
    ):
        expect(
            largest_kv_heads(budget, heads=heads, **sizes), want,
            what=same(f"largest_kv_heads({budget / one:.2f} heads' bytes, heads={heads})"),
            mistakes=mistaken,
        )  # fmt: skip


@exercise(
    5,
    title=Text("A window and its sinks", "視窗與 sink"),
    minutes=10,
    level="stretch",
    hint=Text(
        "2 sinks and a window of 3: write down the places of tokens 0 to 8. From which token on does the window begin to go round, and "
        "what is that token's distance to the last sink?",
        "2 個 sink、視窗 3：把第 0 到第 8 個 token 的位置寫下來。從哪個 token 開始，視窗要繞回來？它離最後一個 sink 多遠？",
    ),
)
def check_exercise_5() -> None:
    for sinks, window in ((2, 3), (0, 4), (1, 5)):
        got = [place_of(position, sinks=sinks, window=window) for position in range(14)]
        right, *mistaken = (
            [broken_place(position, sinks=sinks, window=window, mistake=name) for position in range(14)] for name in (None, *wrong.PLACES)
        )
        expect(
            got, right, what=Text(f"places with {sinks} sinks and a window of {window}", f"{sinks} 個 sink、視窗 {window} 的位置"),
            mistakes=dict(zip(wrong.PLACES.values(), mistaken, strict=True)),
        )  # fmt: skip


@exercise(
    6,
    title=Text("Four heads into two", "四個 head 併成兩個"),
    minutes=10,
    level="core",
    hint=Text(
        "Which query heads will read new head 0? Which key heads did they read? A head is `head_dim` rows: which axis is the mean over?",
        "哪些 query head 會讀新的第 0 個 head？它們原本讀的是哪些 key head？一個 head 有 `head_dim` 列：平均要沿著哪個軸？",
    ),
)
def check_exercise_6() -> None:
    for old, kv_heads in ((6, 2), (4, 2), (6, 3), (4, 1)):
        weight = draw(old * 6, 5, seed=old)
        expect(
            pooled_heads(weight, kv_heads, 6), broken_pool(weight, kv_heads, 6, None), atol=CLOSE,
            what=Text(f"{old} heads into {kv_heads}", f"{old} 個 head 併成 {kv_heads} 個"),
            mistakes={text: broken_pool(weight, kv_heads, 6, name) for name, text in wrong.POOL.items()},
        )  # fmt: skip


@exercise(
    7,
    title=Text("Latent attention, absorbed", "吸收後的潛在注意力"),
    minutes=25,
    level="stretch",
    hint=Text(
        "For one head and one pair of tokens: q is (plain_dim,), K is (plain_dim, latent_dim), c is (latent_dim,). In which order can "
        "you multiply the three so that c comes last? What does a head then read, and is it the same for all heads?",
        "就一個 head、一對 token 來看：q 是 (plain_dim,)、K 是 (plain_dim, latent_dim)、c 是 (latent_dim,)。照什麼順序乘，c 才會排到最後？"
        "這時一個 head 讀的是什麼？所有 head 都一樣嗎？",
    ),
)
def check_exercise_7() -> None:
    sizes = LatentSizes(width=12, heads=3, plain_dim=6, rotary_dim=4, value_dim=5, latent_dim=8)
    weights = random_weights(sizes, seed=1, dtype=torch.float64)
    inputs = project(weights, 3 * draw(2, 7, 12))
    expect(
        absorbed(weights, inputs), broken_latent(weights, inputs, None), atol=CLOSE,
        what=Text("the absorbed form", "吸收後的形式"),
        mistakes={text: broken_latent(weights, inputs, name) for name, text in wrong.LATENT.items()},
    )  # fmt: skip
    sizes = LatentSizes(width=4, heads=16, plain_dim=8, rotary_dim=2, value_dim=8, latent_dim=2)
    weights = random_weights(sizes, seed=1, dtype=torch.float64)
    inputs = project(weights, draw(1, 5, 4))
    with LargestResult() as seen:
        absorbed(weights, inputs)
    made = 5 * 16 * 8  # keys of all heads
    if seen.largest > made:
        raise Missed(what=str(Text("the largest tensor that is made", "做出的最大張量")), got=str(seen.largest), want=f"<= {made}",
                     mistake=str(wrong.MADE_HEADS))  # fmt: skip
