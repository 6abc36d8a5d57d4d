"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import mistakes as wrong
from attention_share import prefix_share
from broken_variants import (
    COUNT_MISTAKES,
    ENCODER_MISTAKES,
    ENTRY_MISTAKES,
    LENGTH_MISTAKES,
    SHARE_MISTAKES,
    broken_count,
    broken_entries,
    broken_length,
    broken_rows,
    broken_share,
)
from onepiece.adaptation.prefix_cache import CacheShape
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from prefix_tuning import (
    EncodedPrefix,
    PrefixSettings,
    exported,
    longest_prefix,
    prefix_parameter_count,
    rows_of_text,
    rows_to_entries,
)

CLOSE = 1e-9  # absolute, float64
SINGLE = 1e-5  # absolute, float32 numbers of size 1
SHAPE = CacheShape(layers=3, kv_heads=2, head_dim=5)


@exercise(
    1,
    title=Text("How many numbers are stored and trained", "存放、訓練了多少個數"),
    minutes=10,
    level="core",
    hint=Text(
        "How many keys does one virtual token have in one layer, and what has it besides keys? In how many layers? With an encoder, which "
        "three things have parameters, and what of them is needed once training is over?",
        "一個虛擬 token 在一層有幾個 key 的數字？除了 key 還有什麼？總共幾層？有編碼器的時候，哪三樣東西有參數？訓練結束之後還需要什麼？",
    ),
)
def check_exercise_1() -> None:
    for settings in (PrefixSettings(7), PrefixSettings(7, 4)):
        with_or_without = (
            Text("with an encoder of width 4", "有寬度 4 的編碼器") if settings.encoder else Text("without an encoder", "沒有編碼器")
        )
        expect(
            list(prefix_parameter_count(SHAPE, settings)), list(broken_count(SHAPE, settings, None)),
            what=Text(
                f"stored and trained, 7 virtual tokens, 3 layers, 2 heads of 5, {with_or_without.en}",
                f"存放的與訓練的數字（7 個虛擬 token、3 層、2 個 5 維的 head，{with_or_without.zh_tw}）",
            ),
            mistakes={wrong.COUNT[name]: list(broken_count(SHAPE, settings, name)) for name in COUNT_MISTAKES},
        )  # fmt: skip


@exercise(
    2,
    title=Text("Where attention looks for a row", "注意力去哪裡找這些數字"),
    minutes=15,
    level="core",
    hint=Text(
        "Into which five sizes does a row of `layers * 2 * kv_heads * head_dim` numbers split, in the order in which they are stored? "
        "Then: which of the dimensions has to move, and does `view` move anything?",
        "一列有 `layers * 2 * kv_heads * head_dim` 個數字，照存放的順序，要拆成哪幾個維度？"
        "接著：哪一個維度要搬動？`view` 會搬動任何東西嗎？",
    ),
)
def check_exercise_2() -> None:
    square = CacheShape(layers=2, kv_heads=2, head_dim=2)  # no mistake is caught by a shape
    for shape, virtual in ((square, 2), (SHAPE, 4)):
        rows = torch.randn(virtual, shape.numbers, generator=torch.Generator().manual_seed(2))
        expect(
            rows_to_entries(rows, shape), broken_entries(rows, shape, None),
            what=Text(f"the entries of {virtual} rows, {shape}", f"{virtual} 列的排列，{shape}"),
            mistakes={wrong.ENTRIES[name]: broken_entries(rows, shape, name) for name in ENTRY_MISTAKES},
        )  # fmt: skip


@exercise(
    3,
    title=Text("The network, and the prefix without it", "那個網路，以及拿掉網路的 prefix"),
    minutes=10,
    level="core",
    hint=Text(
        "a. What does the network read, and of which shape is what it writes? b. `exported` must go on saying the same when the network is "
        "trained further: which two things keep it from changing?",
        "a. 網路讀什麼？寫出來的形狀是什麼？b. 網路繼續訓練的時候，`exported` 給的必須維持不變：要做哪兩件事？",
    ),
)
def check_exercise_3() -> None:
    torch.manual_seed(3)
    prefix = EncodedPrefix(PrefixSettings(4, 6), SHAPE).double()
    wanted = broken_rows(prefix, None).detach()
    expect(
        prefix.rows, wanted, atol=CLOSE, what=Text("the rows that a network makes", "網路寫出的數字"),
        mistakes={wrong.ENCODER[name]: broken_rows(prefix, name) for name in ENCODER_MISTAKES},
    )  # fmt: skip
    plain = exported(prefix)
    expect(
        plain.rows, wanted, atol=CLOSE, what=Text("the rows of the exported prefix", "匯出的 prefix 的數字"),
        mistakes={wrong.EXPORTED_TABLE: prefix.embedding.weight},
    )  # fmt: skip
    expect(
        [plain.rows.is_leaf, plain.shape == SHAPE], [True, True],
        what=Text("whether the exported rows stand alone, and for the same cache", "匯出的數字是否獨立、快取的形狀是否相同"),
        mistakes={wrong.STILL_ATTACHED: [False, True]},
    )  # fmt: skip
    again = exported(plain)
    plain.rows.data.zero_()
    expect(
        again.rows, wanted, atol=CLOSE, what=Text("an exported prefix, after the other one was changed", "改動另一份之後，匯出的 prefix"),
        mistakes={wrong.SHARED_MEMORY: torch.zeros_like(wanted)},
    )  # fmt: skip


def written_by_hand(model: LlamaForCausalLM, token_ids: list[int]) -> Tensor:
    """The rows of a text in a model of one layer: norm, projections and rotation, number by number; (tokens, numbers)."""
    layer, config = model.model.layers[0], model.config
    hidden = layer.input_layernorm(model.model.embed_tokens(torch.tensor(token_ids)))  # (tokens, hidden)
    keys, values = layer.self_attn.k_proj(hidden), layer.self_attn.v_proj(hidden)
    half = config.head_dim // 2
    rotated = keys.clone()
    for place in range(len(token_ids)):
        for head in range(config.num_key_value_heads):
            for pair in range(half):
                angle = place * 10_000.0 ** (-pair / half)
                one, other = head * config.head_dim + pair, head * config.head_dim + pair + half
                rotated[place, one] = keys[place, one] * math.cos(angle) - keys[place, other] * math.sin(angle)
                rotated[place, other] = keys[place, other] * math.cos(angle) + keys[place, one] * math.sin(angle)
    return torch.cat([rotated, values], dim=1)


@exercise(
    4,
    title=Text("A start from real text", "從真實文字開始"),
    minutes=15,
    level="core",
    hint=Text(
        "What does a model of Transformers give back besides logits, if it is called with `use_cache=True`? Which of the helpers in "
        "this file and in `onepiece.adaptation.prefix_cache` go from there to entries, and from entries to rows?",
        "呼叫 Transformers 的模型時加上 `use_cache=True`，除了 logits 還會得到什麼？這個檔案與 `onepiece.adaptation.prefix_cache` 裡，"
        "哪些函式可以從那裡走到快取的內容，再走到一列一列的數字？",
    ),
)
def check_exercise_4() -> None:
    torch.manual_seed(4)
    sizes = {"vocab_size": 20, "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, head_dim=4, initializer_range=0.5)).eval()
    token_ids = [5, 9, 2]
    with torch.no_grad():
        wanted = written_by_hand(model, token_ids)
    rows, width = rows_of_text(model, token_ids), wanted.shape[1] // 2
    expect(
        rows, wanted, atol=SINGLE, what=Text("the rows of a text of three tokens, one layer", "三個 token 的文字、一層模型的數字"),
        mistakes={
            wrong.TEXT_START["values_first"]: torch.cat([wanted[:, width:], wanted[:, :width]], dim=1),
            wrong.TEXT_START["last_token"]: wanted[-1:],
            wrong.TEXT_START["reversed"]: wanted.flip(0),
        },
    )  # fmt: skip
    what = Text("whether the rows hang on the model, and their type", "這些數字是否還連著模型，以及型別")
    expect([rows.requires_grad, str(rows.dtype)], [False, "torch.float32"], what=what)
    expect(
        str(rows_of_text(model.bfloat16(), token_ids).dtype),
        "torch.float32",
        what=Text("the type in a bfloat16 model", "bfloat16 模型得到的型別"),
    )


@exercise(
    5,
    title=Text("The share of attention", "注意力的比例"),
    minutes=15,
    level="core",
    hint=Text(
        "Write the share as a fraction of sums of exponentials, then divide above and below by the numerator. Which well-known function of "
        "one number is that, and which number is it? `logsumexp` takes the logarithm of a sum of exponentials without ever making one.",
        "先把比例寫成指數總和的分數，再把分子分母同除以分子。這是哪個常見的單變數函數？那個變數是什麼？"
        "`logsumexp` 可以算出指數總和的對數，而不必真的算出指數。",
    ),
)
def check_exercise_5() -> None:
    generator = torch.Generator().manual_seed(5)
    text, prefix = (2 * torch.randn(2, 3, length, generator=generator, dtype=torch.float64) for length in (6, 4))
    text[..., -1] = -math.inf  # masked
    expect(
        prefix_share(text, prefix), broken_share(text, prefix, None), atol=CLOSE,
        what=Text("the share of 4 entries beside 5 tokens and a masked one", "4 筆記憶的比例，旁邊是 5 個 token 與 1 個被遮住的"),
        mistakes={wrong.SHARE[name]: broken_share(text, prefix, name) for name in SHARE_MISTAKES},
    )  # fmt: skip
    large, nothing = torch.tensor([900.0, 899.0]), torch.tensor(math.nan)
    expect(
        prefix_share(large, torch.tensor([900.0])), broken_share(large, torch.tensor([900.0]), None), atol=SINGLE,
        what=Text("the share at scores of 900", "分數高達 900 時的比例"), mistakes={wrong.OVERFLOW: nothing},
    )  # fmt: skip


@exercise(
    6,
    title=Text("How long may a prefix be", "prefix 最長可以多長"),
    minutes=15,
    level="stretch",
    hint=Text(
        "What do the texts take, and what is left? Each virtual token takes as much as a token of text; how many copies of it are there in "
        "either kind of server?",
        "文字本身占多少？還剩多少？每個虛擬 token 占的空間跟一個文字 token 一樣；兩種伺服器裡，它各有幾份？",
    ),
)
def check_exercise_6() -> None:
    per_token = SHAPE.numbers * 2
    for shared, spare in ((False, 0), (True, 0), (False, 7), (True, 7)):
        # 4 texts of 10 tokens, and room for 9 tokens more, less a byte or with some to spare
        given = {"room": 49 * per_token - 1 + spare, "requests": 4, "tokens": 10, "number_bytes": 2, "shared": shared}
        expect(
            longest_prefix(SHAPE, **given), broken_length(SHAPE, **given, mistake=None),
            what=Text(f"the longest prefix, with {given}", f"最長的 prefix，條件 {given}"),
            mistakes={wrong.LENGTH[name]: broken_length(SHAPE, **given, mistake=name) for name in LENGTH_MISTAKES},
        )  # fmt: skip
    full = {"room": 40 * per_token, "requests": 4, "tokens": 10, "number_bytes": 2, "shared": True}
    expect(longest_prefix(SHAPE, **full), 0, what=Text("the longest prefix where the texts fill the room", "文字剛好占滿時，最長的 prefix"))
