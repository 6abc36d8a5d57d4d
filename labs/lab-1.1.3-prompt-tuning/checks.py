"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
"""

from __future__ import annotations

import torch
from torch import Tensor

import mistakes as wrong
from broken_variants import (
    COUNT_MISTAKES,
    LABEL_MISTAKES,
    PLACE_MISTAKES,
    TABLE_MISTAKES,
    broken_count,
    broken_labels,
    broken_place,
    broken_tables,
    broken_vectors,
)
from new_words import longer_tables
from onepiece.adaptation.soft_prompt import Vectors
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from onepiece.data import IGNORED
from prompt_files import prompt_tensors
from prompt_tuning import (
    PromptSettings,
    SoftPrompt,
    initial_vectors,
    longest_prompt,
    place_in_front,
    prompt_parameter_count,
    shifted_labels,
)

SINGLE = 1e-6  # absolute, for float32 numbers of size 1


def random(*shape: int, seed: int) -> Tensor:
    """Float32 numbers of a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise(
    1,
    title=Text("How many numbers are trained", "訓練了多少個數"),
    minutes=5,
    level="core",
    hint=Text(
        "What does the model read at the place of one virtual token, and how wide is that? In how many layers is it looked up?",
        "在一個虛擬 token 的位置上，模型讀到的是什麼？它有多寬？它出現在幾層裡？",
    ),
)
def check_exercise_1() -> None:
    for hidden, length, layers, vocabulary in ((6, 5, 3, 11), (4096, 20, 32, 32000)):
        settings = PromptSettings(length)
        known = {"layers": layers, "vocabulary": vocabulary}
        expect(
            prompt_parameter_count(hidden, settings), broken_count(hidden, settings, None),
            what=Text(f"the parameters of {length} virtual tokens, width {hidden:,}", f"{length} 個虛擬 token、寬度 {hidden:,} 的參數量"),
            mistakes={wrong.COUNT[name]: broken_count(hidden, settings, name, **known) for name in COUNT_MISTAKES},
        )  # fmt: skip


@exercise(
    2,
    title=Text("Where training begins", "訓練從哪裡開始"),
    minutes=15,
    level="core",
    hint=Text(
        "torch.rand is between 0 and 1: what has to be taken off to lie around 0? Which numbers does torch.randint need to draw any "
        "row of the table? With three words and five vectors, which word does the fourth vector get?",
        "torch.rand 介於 0 與 1：要減掉多少才會落在 0 的兩邊？torch.randint 要給什麼，才抽得到表的任何一列？"
        "有三個字、五個向量，第四個向量拿到哪個字？",
    ),
)
def check_exercise_2() -> None:
    for start, names in (
        ("random", ("positive", "doubled", "generator_ignored")),
        ("vocabulary", ("same_word", "first_words", "generator_ignored")),
        ("text", ("same_word", "first_words", "padded")),
    ):
        table, settings = random(50, 6, seed=1), PromptSettings(5, start, (9, 30, 4) if start == "text" else ())
        torch.manual_seed(3)
        got = initial_vectors(table, settings, torch.Generator().manual_seed(2))
        torch.manual_seed(3)
        expect(
            got, broken_vectors(table, settings, 2, None), atol=SINGLE,
            what=Text(f"five vectors, start {start!r}, generator with seed 2", f"五個向量，初始值 {start!r}，產生器的 seed 為 2"),
            mistakes={wrong.START[name]: broken_vectors(table, settings, 2, name) for name in names},
        )  # fmt: skip
        got += 1
        expect(
            table, random(50, 6, seed=1), atol=SINGLE, what=Text("the table afterwards", "之後的 embedding 表"),
            mistakes={wrong.SHARED_MEMORY: table},
        )  # fmt: skip
    longest = initial_vectors(random(50, 6, seed=1).double(), PromptSettings(2), torch.Generator().manual_seed(2))
    expect(str(longest.dtype), "torch.float32", what=Text("the type of the vectors, from a table in float64", "向量的型別（表是 float64）"))


@exercise(
    3,
    title=Text("The place before the text", "文字前面的位置"),
    minutes=20,
    level="core",
    hint=Text(
        "In a row whose mask is 0 0 1 1 behind a prompt of two: how many real vectors are there up to each place? Which function adds "
        "up along a dimension, and by how much is a position less than such a count?",
        "一列的提示有兩個向量，後面的遮罩是 0 0 1 1：到每個位置為止，各有幾個真的向量？哪個函式沿著一個維度累加？位置比這個個數少多少？",
    ),
)
def check_exercise_3() -> None:
    prompts = Vectors(random(3, 2, 4, seed=3), torch.tensor([[1, 1], [1, 1], [0, 1]]))
    text = Vectors(random(3, 4, 4, seed=4), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]))
    names = (
        Text(
            "the embeddings of three rows: padded on the left, on the right, with a shorter prompt",
            "三列的 embedding：左邊補齊、右邊補齊、提示較短",
        ),
        Text("the mask of these rows", "這三列的遮罩"),
        Text("the positions of these rows", "這三列的位置"),
    )
    wanted = broken_place(prompts, text, None)
    variants = {name: broken_place(prompts, text, name) for name in PLACE_MISTAKES}
    for part, got in enumerate(place_in_front(prompts, text)):
        told = {
            wrong.PLACE[name]: variant[part]
            for name, variant in variants.items()
            if not torch.equal(variant[part], wanted[part])
        }  # fmt: skip
        expect(got, wanted[part], what=names[part], mistakes=told)


@exercise(
    4,
    title=Text("Labels that count, and labels that do not", "要算與不算的標籤"),
    minutes=10,
    level="core",
    hint=Text(
        "How long is what the model reads now, and how long are the labels? At which end is something missing, and what must stand there "
        "so that no loss counts?",
        "模型現在讀進去的有多長？標籤有多長？少的部分在哪一頭？那裡要放什麼，損失才不會算？",
    ),
)
def check_exercise_4() -> None:
    labels = torch.tensor([[IGNORED, 7, 8, 9], [IGNORED, IGNORED, 5, IGNORED]])
    expect(
        shifted_labels(labels, 3), broken_labels(labels, 3, None),
        what=Text("the labels behind a prompt of three", "三個向量的提示後面的標籤"),
        mistakes={wrong.LABELS[name]: broken_labels(labels, 3, name) for name in LABEL_MISTAKES},
    )  # fmt: skip


@exercise(
    5,
    title=Text("The longest prompt within a budget", "預算內最長的提示"),
    minutes=15,
    level="core",
    hint=Text(
        "Which two bounds are there, and which one holds? v vectors of v + text + answer tokens are at most `share`: what is v then?",
        "有哪兩個上限？以哪一個為準？v + 文字 + 答案裡的 v 個向量最多占 `share`：這樣 v 是多少？",
    ),
)
def check_exercise_5() -> None:
    for context, text, answer, share in ((512, 60, 20, 0.25), (64, 40, 10, 0.5), (100, 30, 10, 0.3), (90, 60, 30, 0.5), (200, 30, 10, 0.0)):
        fitting = [length for length in range(context) if length + text + answer <= context and length <= share * (length + text + answer)]
        affordable = max(length for length in range(10_000) if length <= share * (length + text + answer))
        room = context - text - answer
        expect(
            longest_prompt(context, text, answer, share), max(fitting),
            what=Text(
                f"context {context}, text {text}, answer {answer}, share {share:g}",
                f"上下文 {context}、文字 {text}、答案 {answer}、比例 {share:g}",
            ),
            mistakes={
                wrong.LENGTH["room_alone"]: room,
                wrong.LENGTH["share_alone"]: affordable,
                wrong.LENGTH["share_of_text"]: min(room, int(share * (text + answer))),
                wrong.LENGTH["answer_forgotten"]: min(context - text, int(share * text / (1 - share))),
                wrong.LENGTH["rounded_up"]: min(room, affordable + 1),
            },
        )  # fmt: skip


@exercise(
    6,
    title=Text("The tensor that peft reads", "peft 讀的張量"),
    minutes=5,
    level="core",
    hint=Text(
        "What comes out of the module, and is it still part of a graph? Under which name does peft look for it?",
        "從這個模組出來的是什麼？它還連著計算圖嗎？peft 用什麼名稱找它？",
    ),
)
def check_exercise_6() -> None:
    prompt = SoftPrompt(random(3, 4, seed=6))
    got = prompt_tensors(prompt)
    expect(
        sorted(got), ["prompt_embeddings"], what=Text("the names in the file", "檔案裡的名稱"),
        mistakes={
            wrong.NAME["weights"]: ["embedding.weight"],
            wrong.NAME["prefixed"]: ["base_model.model.prompt_embeddings"],
        },
    )  # fmt: skip
    tensor = got["prompt_embeddings"]
    expect(tensor, prompt.vectors, atol=SINGLE, what=Text("the tensor in the file", "檔案裡的張量"))
    expect(
        tensor.requires_grad, False, what=Text("whether the tensor has a gradient", "這個張量是否帶著梯度"),
        mistakes={wrong.STILL_TRAINED: True},
    )  # fmt: skip
    turned = prompt_tensors(SoftPrompt(random(4, 3, seed=6).T))["prompt_embeddings"]
    expect(turned.is_contiguous(), True, what=Text("whether the tensor is contiguous, as the file needs it", "張量是否連續（檔案需要）"))


@exercise(
    7,
    title=Text("Words that are read and never said", "只讀、不說的字"),
    minutes=15,
    level="core",
    hint=Text(
        "At which end must new rows stand, so that every old word keeps its number? Which row of the head belongs to a word that the model "
        "never says, and how often is it needed?",
        "新的列要放在哪一頭，舊字的編號才不會變？輸出層的哪一列屬於模型從來不說的字？需要幾份？",
    ),
)
def check_exercise_7() -> None:
    embeddings, head, vectors = random(6, 4, seed=7), random(6, 4, seed=8), random(3, 4, seed=9)
    names = (Text("the longer embedding table", "變長的 embedding 表"), Text("the longer head", "變長的輸出層"))
    wanted = broken_tables(embeddings, head, vectors, 2, None)
    variants = {name: broken_tables(embeddings, head, vectors, 2, name) for name in TABLE_MISTAKES}
    for part, got in enumerate(longer_tables(embeddings, head, vectors, 2)):
        told = {
            wrong.TABLES[name]: variant[part]
            for name, variant in variants.items()
            if not torch.equal(variant[part], wanted[part])
        }  # fmt: skip
        expect(got, wanted[part], atol=SINGLE, what=names[part], mistakes=told)
    half = longer_tables(embeddings.to(torch.bfloat16), head.to(torch.bfloat16), vectors, 2)
    expect(
        [str(rows.dtype) for rows in half], ["torch.bfloat16"] * 2, what=Text("the types, for tables in bfloat16", "型別（表是 bfloat16）")
    )
