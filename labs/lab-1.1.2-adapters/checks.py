"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
Layers are square where a mistake could be caught by a shape before its text can.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import mistakes as wrong
from adapter_drop import drop_first
from adapters import (
    NON_LINEARITIES,
    AdaptedLinear,
    AdapterSettings,
    Bottleneck,
    adapter_parameter_count,
    houlsby,
    initial_weights,
    pfeiffer,
    settings_within,
)
from broken_variants import (
    BUDGET_MISTAKES,
    COUNT_MISTAKES,
    DROP_MISTAKES,
    FIT_MISTAKES,
    FORWARD_MISTAKES,
    ROW_MISTAKES,
    START_MISTAKES,
    broken_count,
    broken_drop,
    broken_fit,
    broken_forward,
    broken_rows,
    broken_start,
    broken_width,
)
from merging import best_plain_layer
from mixed_batch import adapt_rows
from onepiece.checks import exercise, expect
from onepiece.course.text import Text

CLOSE = 1e-9  # absolute, float64
SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(3)
    for name, shape in (("self_attn.q_proj", (12, 8)), ("self_attn.o_proj", (8, 12)), ("mlp.down_proj", (20, 12)))
}


def random(*shape: int, seed: int) -> Tensor:
    """Float64, from a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_weights(hidden: int, width: int, *, seed: int, rows: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Tensors of a bottleneck, or of one for each row."""
    shapes = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
    return {name: random(*rows, *shape, seed=seed + place) for place, (name, shape) in enumerate(shapes.items())}


@exercise(
    1,
    title=Text("How many numbers are trained", "訓練了多少個數"),
    minutes=5,
    level="core",
    hint=Text(
        "down leads from h to the bottleneck, up leads back. Which shape has each weight, and how long is each bias?",
        "down 從 h 到瓶頸，up 再回來。兩個權重各是什麼形狀？兩個偏差各有多長？",
    ),
)
def check_exercise_1() -> None:
    for settings, places in ((houlsby(3), ("o_proj", "down_proj")), (pfeiffer(3), ("down_proj",)), (pfeiffer(4, leave_out=(0, 2)), ())):
        hidden = {name: out for name, (_, out) in SHAPES.items() if name.endswith(places)} if places else {"1": 12}

        def width(size: int, factor: float = settings.reduction_factor) -> int:
            return int(size // factor)

        expect(
            adapter_parameter_count(SHAPES, settings), broken_count(hidden, width, None),
            what=Text(
                f"the numbers of {len(hidden)} adapters, hidden size 12, bottleneck {width(12)}",
                f"{len(hidden)} 個 adapter 的參數量（hidden size 12、瓶頸 {width(12)}）",
            ),
            mistakes={wrong.COUNT[name]: broken_count(hidden, width, name) for name in COUNT_MISTAKES},
        )  # fmt: skip


@exercise(
    2,
    title=Text("Where training begins", "訓練從哪裡開始"),
    minutes=10,
    level="core",
    hint=Text(
        "up(f(down(h))) must be zero: which of the two is enough for that? Then write the gradient of the *other* one down: "
        "through what does it pass on its way back?",
        "up(f(down(h))) 必須是零：兩者之中哪一個是零就夠了？接著寫出*另一個*的梯度：它傳回來的路上會經過什麼？",
    ),
)
def check_exercise_2() -> None:
    for hidden, width in ((6, 6), (8, 3)):
        start = initial_weights(hidden, width, torch.Generator().manual_seed(5))
        expect(
            list(start), list(broken_start(hidden, width, 5, None)), atol=1e-7,
            what=Text(f"down and up, hidden size {hidden}, bottleneck {width}", f"down 與 up（hidden size {hidden}、瓶頸 {width}）"),
            mistakes={wrong.START[name]: list(broken_start(hidden, width, 5, name)) for name in START_MISTAKES},
        )  # fmt: skip


@exercise(
    3,
    title=Text("The forward pass", "前向傳播"),
    minutes=10,
    level="core",
    hint=Text(
        "Four things happen, and one of them is that nothing happens. In which order? What must come out when up is zero?",
        "總共發生四件事，其中一件是「什麼都不做」。順序是什麼？up 是零的時候，出來的應該是什麼？",
    ),
)
def check_exercise_3() -> None:
    for place, name in enumerate(NON_LINEARITIES):
        adapter = Bottleneck(5, 5, name, torch.Generator().manual_seed(0)).double()
        weights = random_weights(5, 5, seed=10 * place)
        adapter.load_state_dict(weights)
        hidden = random(2, 3, 5, seed=99)
        expect(
            adapter(hidden), broken_forward(hidden, weights, name, None), atol=CLOSE,
            what=Text(f"what an adapter with {name} gives", f"用 {name} 的 adapter 的輸出"),
            mistakes={wrong.FORWARD[mistake]: broken_forward(hidden, weights, name, mistake) for mistake in FORWARD_MISTAKES},
        )  # fmt: skip


@exercise(
    4,
    title=Text("Leave the first layers out", "跳過前幾層"),
    minutes=10,
    level="core",
    hint=Text(
        "With number = 2 the layers 0 and 1 have active = False. Which comparison says that? And what should a second call, with 0, do?",
        "number = 2 時，第 0 與第 1 層是 active = False。哪個比較式說的是這件事？再呼叫一次、改成 0 的話，應該發生什麼？",
    ),
)
def check_exercise_4() -> None:
    numbers = [0, 0, 1, 1, 2, 2, 3, 3]
    layers = nn.ModuleList(nn.ModuleDict({"o_proj": _layer(), "down_proj": _layer()}) for _ in range(4))
    model = nn.ModuleDict({"layers": layers})
    for number in (1, 3, 0, 4, 2):
        drop_first(model, number)
        expect(
            [block[name].active for block in layers for name in ("o_proj", "down_proj")], broken_drop(numbers, number, None),
            what=Text(f"which adapters of 4 layers run, number = {number}", f"4 層裡有哪些 adapter 在執行，number = {number}"),
            mistakes={wrong.DROP[name]: broken_drop(numbers, number, name) for name in DROP_MISTAKES},
        )  # fmt: skip


def _layer() -> AdaptedLinear:
    return AdaptedLinear(nn.Linear(2, 2), Bottleneck(2, 1, "relu", torch.Generator().manual_seed(0)))


@exercise(
    5,
    title=Text("The same number of parameters elsewhere", "換個位置，參數量相同"),
    minutes=15,
    level="stretch",
    hint=Text(
        "The count grows with the width: which widths fit? The factor that makes a width is the hidden size divided by it. "
        "What if not even width 1 fits?",
        "參數量隨寬度增加：哪些寬度放得進去？要得到某個寬度，係數是 hidden size 除以它。如果連寬度 1 都放不下呢？",
    ),
)
def check_exercise_5() -> None:
    settings = pfeiffer(6, non_linearity="gelu", leave_out=(1,))

    def count(width: int) -> int:
        return broken_count({"0": 12, "2": 12}, lambda _: width, None)

    for budget in (count(7), count(7) + 1, count(8) - 1, count(4) + 5, count(1)):
        got = settings_within(SHAPES, settings, budget)
        expect(
            round(12 / got.reduction_factor, 6), broken_width(count, budget, 2, None),
            what=Text(f"the width for {budget} numbers, hidden size 12, 2 layers", f"{budget} 個參數的寬度（hidden size 12、2 層）"),
            mistakes={wrong.BUDGET[name]: broken_width(count, budget, 2, name) for name in BUDGET_MISTAKES},
        )  # fmt: skip
        expect(
            replace(got, reduction_factor=6) == settings, True,
            what=Text("whether the other fields are as before", "其他欄位是否不變"), mistakes={wrong.OTHER_FIELDS: False},
        )  # fmt: skip
    expect(
        _refuses(settings, count(1) - 1), True,
        what=Text("whether a budget below width 1 is refused", "預算不到寬度 1 時是否拒絕"), mistakes={wrong.NOT_REFUSED: False},
    )  # fmt: skip


def _refuses(settings: AdapterSettings, budget: int) -> bool:
    try:
        settings_within(SHAPES, settings, budget)
    except ValueError:
        return True
    return False


@exercise(
    6,
    title=Text("The nearest plain layer", "最接近的一般線性層"),
    minutes=15,
    level="core",
    hint=Text(
        "Give the inputs one more column: which number stands in it, so that its weight is the bias? "
        "The solution is (in + 1, out): "
        "which part of it is the weight, and which way round does a linear layer keep that?",
        "替輸入多加一行：裡面要放什麼數字，它的權重才會是偏差？解是 (in + 1, out)：哪一部分是權重？線性層存的又是哪個方向？",
    ),
)
def check_exercise_6() -> None:
    inputs = random(40, 4, seed=60) + 0.5
    outputs = torch.tanh(inputs @ random(4, 4, seed=61)) + 2
    weight, bias = best_plain_layer(inputs, outputs)
    wanted, wanted_bias = broken_fit(inputs, outputs, None)
    wrongs = {name: broken_fit(inputs, outputs, name) for name in FIT_MISTAKES}
    expect(
        weight, wanted, atol=CLOSE, what=Text("the weight", "權重"),
        mistakes={wrong.FIT[name]: value for name, (value, _) in wrongs.items() if name != "bias_is_mean"},
    )  # fmt: skip
    expect(
        bias,
        wanted_bias,
        atol=CLOSE,
        what=Text("the bias", "偏差"),
        mistakes={wrong.FIT[name]: value for name, (_, value) in wrongs.items()},
    )
    # The default driver of torch.linalg.lstsq on a CPU (gelsy) was seen to go wrong on such inputs, in some calls and not in others.
    for seed in range(12):
        inputs = random(40, 4, seed=60 + seed) + 0.5
        flat = torch.cat([inputs, inputs[:, :1]], dim=1)  # two inputs that are always equal
        outputs = torch.tanh(inputs @ random(4, 4, seed=61 + seed)) + 2
        del_soon = [torch.full((length,), 7) for length in range(1, 20)]  # memory that is used again is not zero
        del del_soon
        weight, bias = best_plain_layer(flat, outputs)
        wanted, wanted_bias = broken_fit(inputs, outputs, None)
        expect(
            flat @ weight.T + bias, inputs @ wanted.T + wanted_bias, atol=1e-8,
            what=Text("what the layer gives when two inputs are always equal", "兩個輸入永遠相等時，這一層的輸出"),
        )  # fmt: skip


@exercise(
    7,
    title=Text("A bottleneck for each row of a batch", "批次裡每一列一個瓶頸"),
    minutes=15,
    level="core",
    hint=Text(
        "(batch, seq, hidden) @ (batch, ?, ?): which two sizes, in which order, give (batch, seq, width)? "
        "And which shape must a bias have, so that each token of a row gets the row's?",
        "(batch, seq, hidden) @ (batch, ?, ?)：後面兩個大小要怎麼排，才會得到 (batch, seq, width)？"
        "偏差又要是什麼形狀，一列裡的每個 token 才會加到同一個？",
    ),
)
def check_exercise_7() -> None:
    for hidden, width, seq in ((4, 4, 3), (6, 2, 5)):
        states, weights = random(3, seq, hidden, seed=70), random_weights(hidden, width, seed=71, rows=(3,))
        expect(
            adapt_rows(states, weights, NON_LINEARITIES["swish"]), broken_rows(states, weights, "swish", None), atol=CLOSE,
            what=Text(
                f"three rows of {seq} tokens, hidden size {hidden}, bottleneck {width}",
                f"三列、每列 {seq} 個 token（hidden size {hidden}、瓶頸 {width}）",
            ),
            mistakes={wrong.ROWS[name]: broken_rows(states, weights, "swish", name) for name in ROW_MISTAKES},
        )  # fmt: skip
