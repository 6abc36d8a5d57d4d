"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
Layers are float64 and square, so that neither rounding nor a shape catches a mistake before its text can.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mistakes as wrong
from broken_variants import COUNT_MISTAKES, FOLD_MISTAKES, FORWARD_MISTAKES, broken_count, broken_fold, broken_forward
from ia3 import Ia3Settings, RescaledLinear, fold_into_up_proj, ia3_parameter_count, settings_for
from ia3_files import adapter_tensors
from mixed_batch import factors_of_rows
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text

CLOSE = 1e-9  # absolute, float64
SIDES = {False: Text("on the outputs", "乘在輸出上"), True: Text("on the inputs", "乘在輸入上")}


def random(*shape: int, seed: int) -> Tensor:
    """Float64, from a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_layer(into: int, out: int, *, on_input: bool, bias: bool = True, seed: int = 0) -> RescaledLinear:
    """A float64 layer, all of it random."""
    base = nn.Linear(into, out, bias=bias, dtype=torch.float64)
    base.weight.data = random(out, into, seed=seed)
    if bias:
        base.bias.data = random(out, seed=seed + 1)
    layer = RescaledLinear(base, on_input=on_input).double()
    layer.scale.data = random(into if on_input else out, seed=seed + 2)
    return layer


@exercise(
    1,
    title=Text("How many numbers are trained", "訓練了多少個數"),
    minutes=5,
    level="core",
    hint=Text(
        "`shapes` has a pair (in, out) for each layer. A vector on the outputs is as long as what? And one on the inputs?",
        "`shapes` 裡每一層有一對 (in, out)。乘在輸出上的向量有多長？乘在輸入上的呢？",
    ),
)
def check_exercise_1() -> None:
    shapes = {}
    for block, (hidden, wide, inside) in enumerate(((10, 6, 14), (10, 7, 15))):
        shapes |= {f"{block}.k_proj": (hidden, wide), f"{block}.v_proj": (hidden, wide + 2), f"{block}.down_proj": (inside, hidden)}
    settings = Ia3Settings()
    expect(
        ia3_parameter_count(shapes, settings),
        broken_count(shapes, settings, None),
        what=Text("the factors of two blocks", "兩個 block 的倍率數"),
        mistakes={wrong.COUNT[name]: broken_count(shapes, settings, name) for name in COUNT_MISTAKES},
    )
    expect(
        ia3_parameter_count(shapes, Ia3Settings(("k_proj",), ())),
        13,
        what=Text("the factors on the keys alone", "只有 key 的倍率數"),
    )


@exercise(
    2,
    title=Text("The forward pass", "前向傳播"),
    minutes=10,
    level="core",
    hint=Text(
        "What does self.base do to the inputs? Which of the two sides has its factors before that, and which after? "
        "The bias is part of the outputs: who adds it?",
        "self.base 對輸入做了什麼？兩種位置裡，哪一種的倍率在那之前，哪一種在那之後？偏差也是輸出的一部分：是誰加上去的？",
    ),
)
def check_exercise_2() -> None:
    inputs = random(2, 3, 5, seed=9)
    for on_input, side in SIDES.items():
        layer = a_layer(5, 5, on_input=on_input, seed=20 + on_input)
        given = (layer.base, layer.scale, inputs)
        expect(
            layer(inputs),
            broken_forward(*given, on_input=on_input, mistake=None),
            atol=CLOSE,
            what=Text(f"the outputs of a layer with factors {side.en}", f"倍率{side.zh_tw}的一層的輸出"),
            mistakes={wrong.FORWARD[name]: broken_forward(*given, on_input=on_input, mistake=name) for name in FORWARD_MISTAKES},
        )
        layer.rows = random(2, 1, 5, seed=31)
        each = [broken_forward(layer.base, layer.rows[row, 0], inputs[row], on_input=on_input, mistake=None) for row in range(2)]
        alone = broken_forward(*given, on_input=on_input, mistake=None)
        expect(
            layer(inputs),
            torch.stack(each),
            atol=CLOSE,
            what=Text(f"the outputs with factors for each row, {side.en}", f"每一列各有倍率時的輸出（{side.zh_tw}）"),
            mistakes={wrong.ROWS_IGNORED: alone},
        )


@exercise(
    3,
    title=Text("Fold the factors away", "把倍率收進權重"),
    minutes=15,
    level="core",
    hint=Text(
        "Multiply l * (W x + b) and W (l * x) + b out. W is (out, in): does an output belong to a row or to a column? "
        "Which shape must l have to broadcast over that? In which of the two is b multiplied?",
        "把 l * (W x + b) 與 W (l * x) + b 展開。W 是 (out, in)：一個輸出對應一列（row）還是一行（column）？l "
        "要是什麼形狀，才能照那個方向廣播？b 在哪一個裡面被乘到？",
    ),
)
def check_exercise_3() -> None:
    for on_input, side in SIDES.items():
        layer = a_layer(4, 4, on_input=on_input, seed=40 + on_input)
        given = (layer.base.weight, layer.base.bias, layer.scale)
        folded = layer.folded()
        wrongs = {name: broken_fold(*given, on_input=on_input, mistake=name) for name in FOLD_MISTAKES}
        weight, bias = broken_fold(*given, on_input=on_input, mistake=None)
        expect(
            folded.weight,
            weight,
            atol=CLOSE,
            what=Text(f"the folded weight, factors {side.en}", f"收進權重之後的權重（倍率{side.zh_tw}）"),
            mistakes={wrong.NOT_FOLDED: layer.base.weight} | {wrong.FOLD[name]: value for name, (value, _) in wrongs.items()},
        )
        expect(
            folded.bias,
            bias,
            atol=CLOSE,
            what=Text(f"the folded bias, factors {side.en}", f"收進權重之後的偏差（倍率{side.zh_tw}）"),
            mistakes={wrong.FOLD[name]: value for name, (_, value) in wrongs.items()},
        )
        without = a_layer(4, 4, on_input=on_input, bias=False, seed=50)
        expect(
            without.folded().bias,
            None,
            what=Text("the folded bias of a layer that has none", "原本沒有偏差的層，收進權重之後的偏差"),
        )


@exercise(
    4,
    title=Text("One layer earlier", "提前一層"),
    minutes=10,
    level="core",
    hint=Text(
        "Whose outputs are rescaled now? So rows or columns? In place: which operators change a tensor instead of making a new one?",
        "現在縮放的是誰的輸出？所以是列還是行？要在原地改：哪些運算子會改動張量本身，而不是做出新的？",
    ),
)
def check_exercise_4() -> None:
    for bias in (True, False):
        layer = a_layer(4, 4, on_input=False, bias=bias, seed=60).base
        factors = random(4, seed=61)
        weight, wanted = broken_fold(layer.weight.clone(), layer.bias, factors, on_input=False, mistake=None)
        columns, _ = broken_fold(layer.weight.clone(), layer.bias, factors, on_input=True, mistake=None)
        before, kept = layer.weight.detach().clone(), None if layer.bias is None else layer.bias.detach().clone()
        fold_into_up_proj(layer, factors)
        expect(
            layer.weight,
            weight,
            atol=CLOSE,
            what=Text("the weight of up_proj", "up_proj 的權重"),
            mistakes={wrong.NOT_IN_PLACE: before, wrong.FOLD["other_dimension"]: columns},
        )
        expect(
            layer.bias,
            wanted,
            atol=CLOSE,
            what=Text("the bias of up_proj", "up_proj 的偏差"),
            mistakes={wrong.FOLD["bias_forgotten"]: kept} if bias else {},
        )


@exercise(
    5,
    title=Text("Names and shapes that peft understands", "peft 看得懂的名稱與形狀"),
    minutes=10,
    level="core",
    hint=Text(
        "Which shape must a factor for each row of an (out, in) matrix have, so that * does the rest? And one for each "
        "column? What do peft's two wrappers put before a name?",
        "(out, in) 的矩陣，每一列一個倍率，要是什麼形狀，* 才能完成剩下的事？每一行一個呢？peft 的兩層包裝會在名稱前面加上什麼？",
    ),
)
def check_exercise_5() -> None:
    keys, down = a_layer(6, 4, on_input=False, seed=70), a_layer(5, 6, on_input=True, seed=71)
    model = nn.ModuleDict({"block": nn.ModuleDict({"k_proj": keys, "down_proj": down}), "norm": nn.LayerNorm(6)})
    got = adapter_tensors(model)

    def named(pattern: str) -> list[str]:
        return sorted(pattern.format(f"block.{name}") for name in ("k_proj", "down_proj"))

    expect(
        sorted(got),
        named("base_model.model.{}.ia3_l"),
        what=Text("the names in the file", "檔案裡的名稱"),
        mistakes={
            wrong.NO_PREFIX: named("{}.ia3_l"),
            wrong.HALF_PREFIX: named("base_model.{}.ia3_l"),
            wrong.OWN_NAME: named("base_model.model.{}.scale"),
            wrong.WEIGHT: named("base_model.model.{}.ia3_l.weight"),
        },
    )
    shapes = {"k_proj": [4, 1], "down_proj": [1, 5]}
    expect(
        {name: list(got[f"base_model.model.block.{name}.ia3_l"].shape) for name in shapes},
        shapes,
        what=Text("the shapes in the file", "檔案裡的形狀"),
        mistakes={
            wrong.FLAT: {"k_proj": [4], "down_proj": [5]},
            wrong.SHAPES_SWAPPED: {"k_proj": [1, 4], "down_proj": [5, 1]},
            wrong.ALL_COLUMNS: {"k_proj": [4, 1], "down_proj": [5, 1]},
            wrong.ALL_ROWS: {"k_proj": [1, 4], "down_proj": [1, 5]},
        },
    )
    expect(
        [got["base_model.model.block.k_proj.ia3_l"].flatten(), got["base_model.model.block.down_proj.ia3_l"].flatten()],
        [keys.scale, down.scale],
        what=Text("the numbers in the file", "檔案裡的數字"),
    )
    expect(any(tensor.requires_grad for tensor in got.values()), False, what=same("requires_grad"))


@exercise(
    6,
    title=Text("Places in another architecture", "另一種架構的位置"),
    minutes=15,
    level="stretch",
    hint=Text(
        "KEYS_AND_VALUES has tuples: when does an architecture have *all* names of one? What should happen when only "
        "k_proj is there? Which exception tells its reader what there was?",
        "KEYS_AND_VALUES 裡是 tuple：什麼時候才算一個架構有其中一組的*全部*名稱？只有 k_proj 的時候該怎麼辦？"
        "例外要讓人看到原本有哪些名稱。",
    ),
)
def check_exercise_6() -> None:
    def places(*names: str) -> list[list[str]]:
        found = settings_for({f"model.0.{name}": (4, 4) for name in names})
        return [list(found.outputs), list(found.inputs)]

    llama = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    expect(
        places(*llama),
        [["k_proj", "v_proj"], ["down_proj"]],
        what=Text("the places in a Llama", "Llama 的位置"),
        mistakes={wrong.SIDES_SWAPPED: [["down_proj"], ["k_proj", "v_proj"]], wrong.ALL_OUTPUTS: [["k_proj", "v_proj", "down_proj"], []]},
    )
    expect(
        places("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        [["query_key_value"], ["dense_4h_to_h"]],
        what=Text("the places in a GPT-NeoX", "GPT-NeoX 的位置"),
    )
    expect(
        places("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
        [["k", "v"], ["wo"]],
        what=Text("the places in a T5", "T5 的位置"),
    )
    for names in (("k_proj", "down_proj"), ("k_proj", "v_proj"), ("c_attn", "fc2")):
        expect(
            refusal(names),
            "refused with the names",
            what=Text(f"what is said of a model with {', '.join(names)}", f"遇到只有 {'、'.join(names)} 的模型時的反應"),
            mistakes={wrong.NOT_REFUSED: "not refused", wrong.NAMES_NOT_SAID: "refused without the names"},
        )


def refusal(names: tuple[str, ...]) -> str:
    """Whether names that say nothing are refused, and in which words."""
    try:
        settings_for({f"0.{name}": (4, 4) for name in names})
    except ValueError as error:
        return "refused with the names" if all(name in str(error) for name in names) else "refused without the names"
    return "not refused"


@exercise(
    7,
    title=Text("Factors for each row of a batch", "批次裡每一列的倍率"),
    minutes=15,
    level="core",
    hint=Text(
        "Activations are (batch, seq, features). Which dimension do the rows have, and which one must be of size 1? By "
        "which number is a row of the base multiplied?",
        "激勵值是 (batch, seq, features)。列在哪個維度？哪個維度必須是 1？基礎模型的那一列，要乘上多少？",
    ),
)
def check_exercise_7() -> None:
    first, second = random(3, seed=80), random(3, seed=81)
    nothing = torch.ones(3, dtype=torch.float64)
    tasks = ["b", None, "a", "b"]
    chosen = [second, nothing, first, second]
    right = torch.stack(chosen)[:, None]
    got = factors_of_rows({"a": first, "b": second}, tasks)
    expect(
        list(got.shape),
        [4, 1, 3],
        what=Text("the shape for four rows and three features", "四列、三個特徵時的形狀"),
        mistakes={wrong.NO_SEQ: [4, 3], wrong.SEQ_FIRST: [1, 4, 3], wrong.SEQ_LAST: [4, 3, 1]},
    )
    zeros = torch.stack([second, 0 * nothing, first, second])[:, None]
    expect(
        got,
        right,
        atol=CLOSE,
        what=Text("the factors of the rows", "各列的倍率"),
        mistakes={
            wrong.BASE_MUTED: zeros,
            wrong.SAME_FOR_ALL: second.expand(4, 1, 3),
            wrong.ORDER_LOST: torch.stack([first, first, second, second])[:, None],
        },
    )
