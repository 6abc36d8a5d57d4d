"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import mistakes as wrong
from broken_variants import (
    COUNT_MISTAKES,
    ENCODER_MISTAKES,
    LABEL_MISTAKES,
    ORDER_MISTAKES,
    SLOT_MISTAKES,
    STATE_MISTAKES,
    broken_count,
    broken_export,
    broken_labels,
    broken_order,
    broken_slots,
    broken_state,
    broken_vectors,
)
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from onepiece.data import IGNORED
from p_tuning import EncoderSettings, PromptEncoder, Template, exported, placed_labels, reading_order, slots, trained_count
from prompt_files import state_to_go_on

SINGLE = 1e-5  # absolute, for float32 numbers of size 1


def encoder(kind: str, width: int = 3, seed: int = 1) -> PromptEncoder:
    """One of four virtual tokens, six wide; an LSTM of width 3 gives as many numbers as the table has."""
    return PromptEncoder(Template(4), EncoderSettings(kind, width), 6, seed=seed)


@exercise(
    1,
    title=Text("From the table to the vectors", "從表到向量"),
    minutes=10,
    level="core",
    hint=Text(
        "What does `nn.LSTM` return, and which part of it has a row for each virtual token? What is left to do where both networks are "
        "None?",
        "`nn.LSTM` 回傳什麼？哪一部分的每一列對應一個虛擬 token？兩個網路都是 None 的時候，還剩什麼要做？",
    ),
)
def check_exercise_1() -> None:
    for kind in ("none", "mlp", "lstm"):
        prompt = encoder(kind)
        told = {wrong.ENCODER[name]: broken_vectors(prompt, name) for name in ENCODER_MISTAKES}
        expect(
            prompt(), broken_vectors(prompt, None), atol=SINGLE,
            what=Text(f"four vectors, encoder {kind!r}", f"四個向量，編碼器 {kind!r}"), mistakes=told,
        )  # fmt: skip


@exercise(
    2,
    title=Text("What is kept", "留下什麼"),
    minutes=5,
    level="core",
    hint=Text(
        "Does the model read the table, or what the encoder makes of it? What happens to your copy when the encoder is trained on? "
        "Try it without an encoder, too.",
        "模型讀的是表，還是編碼器拿它做出來的東西？編碼器繼續訓練的話，你的副本會怎樣？沒有編碼器的情況也試試看。",
    ),
)
def check_exercise_2() -> None:
    for kind in ("mlp", "none"):
        prompt = encoder(kind)
        wanted = broken_vectors(prompt, None).detach().clone()
        kept = exported(prompt)
        expect(
            kept(), wanted, atol=SINGLE, what=Text(f"the kept vectors, encoder {kind!r}", f"留下的向量，編碼器 {kind!r}"),
            mistakes={wrong.EXPORT["table"]: broken_export(prompt, "table")()},
        )  # fmt: skip
        expect(
            kept.vectors.is_leaf and not kept().requires_grad, True, what=Text("whether no graph hangs on them", "是否沒有連著計算圖"),
            mistakes={wrong.STILL_ATTACHED: False},
        )  # fmt: skip
        with torch.no_grad():
            prompt.table += 1
        expect(
            kept(), wanted, atol=SINGLE, what=Text("the kept vectors after more training", "繼續訓練之後，留下的向量"),
            mistakes={wrong.SHARED_MEMORY: wanted + 1},
        )  # fmt: skip


@exercise(
    3,
    title=Text("How many numbers are trained", "訓練了多少個數"),
    minutes=15,
    level="core",
    hint=Text(
        "Write the shapes of one layer down: `nn.LSTM(6, 3).weight_ih_l0.shape`. How many of these are there with two directions? And "
        "how wide is what the second layer reads?",
        "把一層的形狀寫下來：`nn.LSTM(6, 3).weight_ih_l0.shape`。兩個方向的話有幾個？第二層讀進去的有多寬？",
    ),
)
def check_exercise_3() -> None:
    for options in (EncoderSettings("none"), EncoderSettings("mlp", 10), EncoderSettings("lstm", 5, 1), EncoderSettings("lstm", 8, 3)):
        expect(
            trained_count(6, 4, options), broken_count(6, 4, options, None),
            what=Text(
                f"4 virtual tokens, 6 wide, {options.kind} of width {options.width}, {options.layers} layers",
                f"4 個虛擬 token、寬 6、{options.kind} 寬 {options.width}、{options.layers} 層",
            ),
            mistakes={wrong.COUNT[name]: broken_count(6, 4, options, name) for name in COUNT_MISTAKES},
        )  # fmt: skip


@exercise(
    4,
    title=Text("Behind how many places", "在第幾格之後"),
    minutes=20,
    level="core",
    hint=Text(
        "In a row whose mask is 0 0 1 1 1, where does the text begin? If the anchor is at place 3, how many places come before a vector "
        "just before it, and before one just behind it?",
        "遮罩是 0 0 1 1 1 的一列，文字從哪裡開始？如果錨點在第 3 格，緊貼在它前面的向量之前有幾格？緊貼在後面的呢？",
    ),
)
def check_exercise_4() -> None:
    template, anchor = Template(front=2, before=1, behind=2), 9
    rows = {
        Text("padded on the left", "左邊補齊"): ([0, 0, 5, 6, 9, 7], [0, 0, 1, 1, 1, 1]),
        Text("padded on the right, with two anchors", "右邊補齊，有兩個錨點"): ([5, 9, 6, 9, 7, 9], [1, 1, 1, 1, 1, 0]),
        Text("a question alone, the anchor last", "只有問題，錨點在最後"): ([5, 6, 7, 8, 9], [1] * 5),
    }
    for what, (token_ids, mask) in rows.items():
        given = template, torch.tensor(token_ids), torch.tensor(mask), anchor
        expect(
            slots(*given), broken_slots(*given, None), what=what,
            mistakes={wrong.SLOTS[name]: broken_slots(*given, name) for name in SLOT_MISTAKES},
        )  # fmt: skip
    plain = Template(front=3), torch.tensor([5, 6]), torch.tensor([1, 1]), anchor
    expect(slots(*plain), broken_slots(*plain, None), what=Text("all in front, a text without the anchor", "全在前面，文字沒有錨點"))


@exercise(
    5,
    title=Text("The order of reading", "閱讀的順序"),
    minutes=20,
    level="core",
    hint=Text(
        "If the places of the text are numbered 0, 1, 2, which number stands between 1 and 2? Where does a vector with slot 2 belong, and "
        "what does a stable sort do with equal numbers?",
        "文字的格子編號是 0、1、2，哪個數字介於 1 與 2 之間？slot 是 2 的向量該放哪裡？相同的數字，穩定排序會怎麼處理？",
    ),
)
def check_exercise_5() -> None:
    given = torch.tensor([[0, 0, 2, 4], [1, 3, 3, 3], [0, 0, 0, 0]])
    expect(
        reading_order(given, 4), broken_order(given, 4, None),
        what=Text("three rows of four vectors and four tokens", "三列，各四個向量、四個 token"),
        mistakes={wrong.ORDER[name]: broken_order(given, 4, name) for name in ORDER_MISTAKES},
    )  # fmt: skip
    many = torch.full((1, 40), 3)
    expect(reading_order(many, 20), broken_order(many, 20, None), what=Text("forty vectors at one place", "四十個向量在同一格"))


@exercise(
    6,
    title=Text("Labels that move along", "跟著走的標籤"),
    minutes=10,
    level="core",
    hint=Text(
        "The order says which place of [vectors, text] is read at each place. What would [labels of the vectors, labels of the text] be, "
        "and which function of tensors picks by such an order?",
        "順序說的是每一格讀 [向量, 文字] 的哪一格。那 [向量的標籤, 文字的標籤] 是什麼？張量的哪個函式會照這樣的順序挑？",
    ),
)
def check_exercise_6() -> None:
    order = broken_order(torch.tensor([[0, 2, 2], [1, 3, 4]]), 4, None)
    labels = torch.tensor([[IGNORED, 7, 8, 9], [4, IGNORED, 5, 6]])
    expect(
        placed_labels(labels, order), broken_labels(labels, order, None),
        what=Text("the labels of two rows with three virtual tokens", "兩列、三個虛擬 token 的標籤"),
        mistakes={wrong.LABELS[name]: broken_labels(labels, order, name) for name in LABEL_MISTAKES},
    )  # fmt: skip


@exercise(
    7,
    title=Text("What training goes on from", "接著訓練需要什麼"),
    minutes=10,
    level="core",
    hint=Text(
        "A fresh encoder of the same settings is to become this one. Which of its tensors would still be other ones? Could you compute "
        "them from the vectors?",
        "要讓同樣設定的新編碼器變成這一個。它的哪些張量還不一樣？有辦法從向量算回來嗎？",
    ),
)
def check_exercise_7() -> None:
    for kind in ("mlp", "lstm"):
        prompt = encoder(kind)
        wanted = broken_state(prompt, None)
        told = {wrong.STATE[name]: broken_state(prompt, name) for name in STATE_MISTAKES}
        got = state_to_go_on(prompt)
        _expect_names(got, wanted, told)
        expect(got, wanted, atol=SINGLE, what=Text(f"the tensors of the encoder {kind!r}", f"編碼器 {kind!r} 的張量"))
        attached = [name for name, tensor in got.items() if tensor.requires_grad or not tensor.is_contiguous()]
        expect(attached, [], what=Text("tensors with a gradient, or not contiguous", "還帶著梯度、或不連續的張量"))
    turned = encoder("mlp")
    turned.mlp[0].weight = torch.nn.Parameter(turned.mlp[0].weight.detach().T.contiguous().T)
    loose = [name for name, tensor in state_to_go_on(turned).items() if not tensor.is_contiguous()]
    expect(loose, [], what=Text("tensors that are not contiguous, as the file needs them", "不連續的張量（檔案需要連續）"))


def _expect_names(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], told: Mapping[Text, Mapping[str, Tensor]]) -> None:
    names = {explanation: sorted(tensors) for explanation, tensors in told.items()}
    expect(sorted(got), sorted(wanted), what=Text("the names of the tensors", "張量的名稱"), mistakes=names)
