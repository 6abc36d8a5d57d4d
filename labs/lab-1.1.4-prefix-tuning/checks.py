"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
Layers are float64, so that rounding cannot be taken for a mistake.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mistakes as wrong
from broken_variants import FORWARD_MISTAKES, MERGE_MISTAKES, broken_forward, broken_merge
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from scale_shift import ScaleShiftLinear

CLOSE = 1e-9  # absolute, float64


def a_layer(size: int, *, bias: bool = True) -> tuple[ScaleShiftLinear, Tensor]:
    """A square layer, so that no mistake is caught by a shape, and inputs for it: (3, in)."""
    generator = torch.Generator().manual_seed(size)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = nn.Linear(size, size, bias=bias, dtype=torch.float64)
    base.weight.data = random(size, size)
    if bias:
        base.bias.data = random(size)
    layer = ScaleShiftLinear(base)
    layer.scale.data, layer.shift.data = random(size), random(size)
    return layer, random(3, size)


@exercise(
    1,
    title=Text("The forward pass", "前向傳播"),
    minutes=5,
    level="core",
    hint=Text(
        "What does the layer compute when scale is all ones and shift all zeros? Which of the two comes first?",
        "scale 全是 1、shift 全是 0 的時候，這一層會算出什麼？兩者哪一個先做？",
    ),
)
def check_exercise_1() -> None:
    layer, inputs = a_layer(5)
    given = (layer.base, layer.scale, layer.shift, inputs)
    expect(
        layer(inputs), broken_forward(*given, None), atol=CLOSE,
        what=Text("the outputs of a layer", "一層的輸出"),
        mistakes={wrong.FORWARD[name]: broken_forward(*given, name) for name in FORWARD_MISTAKES},
    )  # fmt: skip


@exercise(
    2,
    title=Text("One plain layer again", "變回一個普通的層"),
    minutes=10,
    level="core",
    hint=Text(
        "Multiply scale * (W x + b) + shift out. What is multiplied by x, what is not? And which dimension of W counts the outputs?",
        "把 scale * (W x + b) + shift 展開。哪些乘上 x，哪些沒有？W 的哪一個維度是輸出？",
    ),
)
def check_exercise_2() -> None:
    layer, _ = a_layer(4)
    given = (layer.base.weight, layer.base.bias, layer.scale, layer.shift)
    merged = layer.merged()
    weight, bias = broken_merge(*given, None)
    columns, _ = broken_merge(*given, "columns_scaled")
    expect(
        merged.weight, weight, atol=CLOSE,
        what=Text("the merged weight", "合併後的權重"),
        mistakes={wrong.MERGE["columns_scaled"]: columns, wrong.NOT_MERGED: layer.base.weight},
    )  # fmt: skip
    expect(
        merged.bias, bias, atol=CLOSE,
        what=Text("the merged bias", "合併後的偏差"),
        mistakes={wrong.MERGE[name]: broken_merge(*given, name)[1] for name in MERGE_MISTAKES},
    )  # fmt: skip
    layer, _ = a_layer(4, bias=False)
    what = Text("the merged bias of a base that has none", "基礎層沒有偏差時，合併後的偏差")
    expect(layer.merged().bias, layer.shift, atol=CLOSE, what=what)
