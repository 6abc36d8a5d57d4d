"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions
under test. Products are float64, so that rounding cannot be taken for a mistake.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mistakes as wrong
from broken_variants import LEVEL_MISTAKES, SCALING_MISTAKES, broken_levels, broken_scaling
from lora import LoraLinear, LoraSettings, add_lora, initial_factors, lora_layers, lora_parameter_count
from lora_files import adapter_tensors
from nf4 import nearest_levels, nf4_levels
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text

CLOSE = 1e-9  # absolute, float64
SINGLE = 1e-6  # absolute, for float32 numbers of size 1


def uniform(rank: int, in_features: int, generator: torch.Generator | None, bound: float) -> Tensor:
    """(rank, in), float32, between -bound and bound; without a generator from the global one."""
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)


def a_layer(in_features: int, out_features: int, rank: int, scaling: float, seed: int) -> LoraLinear:
    """A float64 layer that nothing under test has made: all of W, its bias, A and B random."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = nn.Linear(in_features, out_features, dtype=torch.float64)
    base.weight.data, base.bias.data = random(out_features, in_features), random(out_features)
    return LoraLinear(base, random(rank, in_features), random(out_features, rank), scaling)


@exercise(
    1,
    title=Text("The scale of the update", "更新量的縮放係數"),
    minutes=5,
    level="core",
    hint=Text(
        "What does the paper divide alpha by, and what does rsLoRA divide it by? Which of the two does `rank_stabilized` ask for?",
        "論文把 alpha 除以什麼？rsLoRA 又除以什麼？`rank_stabilized` 要的是哪一個？",
    ),
)
def check_exercise_1() -> None:
    rank, alpha = 8, 32.0
    plain, stabilized = (broken_scaling(rank, alpha, None, choice) for choice in (False, True))
    got = [LoraSettings(rank, alpha, ("q_proj",), choice).scaling for choice in (False, True)]
    expect(
        got, [plain, stabilized], atol=CLOSE,
        what=Text("the scale for rank 8 and alpha 32, plain and rank-stabilised", "rank 8、alpha 32 的縮放係數（一般、rank-stabilized）"),
        mistakes={
            wrong.RANK_STABILIZED_IGNORED: [plain, plain],
            wrong.RANK_STABILIZED_ALWAYS: [stabilized, stabilized],
            **{
                wrong.SCALING[name]: [broken_scaling(rank, alpha, name, choice) for choice in (False, True)]
                for name in SCALING_MISTAKES
            },
        },
    )  # fmt: skip


@exercise(
    2,
    title=Text("How many numbers are trained", "訓練了多少個數"),
    minutes=10,
    level="core",
    hint=Text(
        "How many numbers has a matrix of shape (rank, in)? And one of (out, rank)? `shapes` has one pair (in, out) for each layer.",
        "形狀是 (rank, in) 的矩陣有幾個數？(out, rank) 的呢？`shapes` 裡每一層有一對 (in, out)。",
    ),
)
def check_exercise_2() -> None:
    rank, shapes = 3, {"0.q_proj": (10, 6), "0.up_proj": (7, 9), "1.q_proj": (11, 4)}
    sizes = [shapes["0.q_proj"], shapes["1.q_proj"]]
    expect(
        lora_parameter_count(shapes, LoraSettings(rank, 6.0, ("q_proj",))),
        sum(rank * into + rank * out for into, out in sizes),
        what=Text("the parameters of two layers, 10 to 6 and 11 to 4, rank 3", "兩層（10 到 6、11 到 4）、rank 3 的參數量"),
        mistakes={
            wrong.A_ONLY: sum(rank * into for into, _ in sizes),
            wrong.B_ONLY: sum(rank * out for _, out in sizes),
            wrong.DENSE: sum(into * out for into, out in sizes),
            wrong.RANK_FORGOTTEN: sum(into + out for into, out in sizes),
            wrong.ONE_LAYER: rank * sum(sizes[0]),
        },
    )  # fmt: skip
    llama = {f"{layer}.{name}": (4096, 4096) for layer in range(32) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    expect(
        lora_parameter_count(llama, LoraSettings(8, 16.0, ("q_proj", "v_proj"))), 4_194_304,
        what=Text("the parameters of Llama-2-7B, q and v, rank 8", "Llama-2-7B、q 與 v、rank 8 的參數量"),
    )  # fmt: skip


@exercise(
    3,
    title=Text("Where training begins", "訓練從哪裡開始"),
    minutes=10,
    level="core",
    hint=Text(
        "Which of the two makes the product zero? The other one is random: which arguments of nn.init.kaiming_uniform_ decide its bound, "
        "and from where the numbers are drawn?",
        "乘積是零，靠的是哪一個？另一個是隨機的：nn.init.kaiming_uniform_ 的哪些引數決定它的範圍，又是哪一個決定亂數從哪裡抽？",
    ),
)
def check_exercise_3() -> None:
    into, out, rank = 64, 48, 4
    torch.manual_seed(1)
    lora_a, lora_b = initial_factors(into, out, rank, torch.Generator().manual_seed(3))
    expect(
        [list(lora_a.shape), list(lora_b.shape)], [[rank, into], [out, rank]],
        what=Text("the shapes of A and B, 64 to 48, rank 4", "A 與 B 的形狀（64 到 48、rank 4）"),
        mistakes={wrong.SHAPE_SWAPPED: [[into, rank], [rank, out]]},
    )  # fmt: skip
    bound = 1 / math.sqrt(into)
    normal = torch.randn(rank, into, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    expect(
        lora_a, uniform(rank, into, torch.Generator().manual_seed(3), bound), atol=SINGLE,
        what=Text("A, from a generator with seed 3", "A（產生器的 seed 為 3）"),
        mistakes={
            wrong.A_ZERO: torch.zeros(rank, into),
            wrong.GENERATOR_IGNORED: uniform(rank, into, None, bound),
            wrong.KAIMING_DEFAULT: uniform(rank, into, torch.Generator().manual_seed(3), math.sqrt(6) * bound),
            wrong.A_GAUSSIAN: normal * (lora_a.detach().float().std() / normal.std()),
        },
    )  # fmt: skip
    expect(
        bool(lora_b.any()), False,
        what=Text("whether B has a number that is not zero", "B 是否有不為零的數"), mistakes={wrong.B_RANDOM: True},
    )  # fmt: skip


@exercise(
    4,
    title=Text("The forward pass", "前向傳播"),
    minutes=10,
    level="core",
    hint=Text(
        "functional.linear(x, weight) is x weight^T. Which shape comes out with A first, and which with B after it? Who adds the base's "
        "outputs? Where does the scale cost the fewest multiplications?",
        "functional.linear(x, weight) 就是 x weight^T。先用 A 會得到什麼形狀？再用 B 呢？基礎層的輸出由誰加上去？"
        "縮放放在哪裡，乘法次數最少？",
    ),
)
def check_exercise_4() -> None:
    layer, scaling = a_layer(6, 5, rank=3, scaling=2.5, seed=4), 2.5
    inputs = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(44), dtype=torch.float64)
    base = inputs @ layer.base.weight.T + layer.base.bias
    update = torch.einsum("bsi,ri,or->bso", inputs, layer.lora_a, layer.lora_b)
    expect(
        layer(inputs), base + scaling * update, atol=CLOSE,
        what=Text("the outputs of a layer, 6 to 5, rank 3, scale 2.5", "一層（6 到 5、rank 3、縮放 2.5）的輸出"),
        mistakes={
            wrong.NOT_SCALED: base + update,
            wrong.SCALED_TWICE: base + scaling**2 * update,
            wrong.BASE_ADDED: 2 * base + scaling * update,
            wrong.BASE_ONLY: base,
        },
    )  # fmt: skip


class _Block(nn.Module):
    """Two targeted layers, and parameters of every other kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.q_proj, self.k_proj, self.up_proj = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 8)
        self.norm = nn.LayerNorm(6)


@exercise(
    5,
    title=Text("Freeze the model, put the layers in", "凍結模型，放進新的層"),
    minutes=20,
    level="core",
    hint=Text(
        "What would requires_grad_(False) do to A and B, if they were there already? Which four things does LoraLinear take, and "
        "where does each come from? model.get_submodule(name) gives the layer that is there now.",
        "如果 A 和 B 已經在裡面，requires_grad_(False) 會對它們做什麼？LoraLinear 需要哪四樣東西，各從哪裡來？"
        "model.get_submodule(name) 會給你現在的那一層。",
    ),
)
def check_exercise_5() -> None:
    torch.manual_seed(5)
    model, settings = _Block(), LoraSettings(2, 8.0, ("q_proj", "k_proj"))
    every = [name for name, _ in model.named_parameters()]
    names = add_lora(model, settings, seed=9)
    layers = lora_layers(model)
    expect(
        list(layers), ["q_proj", "k_proj"], what=Text("which layers are LoRA layers", "哪些層是 LoRA 層"),
        mistakes={wrong.NOTHING_REPLACED: []},
    )  # fmt: skip
    expect(names, ["q_proj", "k_proj"], what=Text("the names that add_lora returns", "add_lora 回傳的名稱"))
    check_trainable(model, every)
    check_start(layers)


def check_trainable(model: nn.Module, every: list[str]) -> None:
    """Which parameters require a gradient; `every` are the names before LoRA."""
    adapted = [f"{layer}.{factor}" for layer in ("q_proj", "k_proj") for factor in ("lora_a", "lora_b")]
    others = [name for name in every if not name.startswith(("q_proj", "k_proj"))]
    expect(
        sorted(name for name, weight in model.named_parameters() if weight.requires_grad), sorted(adapted),
        what=Text("the parameters that require a gradient", "需要梯度的參數"),
        mistakes={
            wrong.ALL_FROZEN: [],
            wrong.TARGETED_ONLY_FROZEN: sorted(adapted + others),
        },
    )  # fmt: skip


def check_start(layers: dict[str, LoraLinear]) -> None:
    """The start values of two layers, from one generator with seed 9, and their scale."""
    bound, generator = 1 / math.sqrt(6), torch.Generator().manual_seed(9)
    first, second = uniform(2, 6, generator, bound), uniform(2, 6, generator, bound)
    expect(
        [layer.lora_a for layer in layers.values()], [first, second], atol=SINGLE,
        what=Text("A of both layers, seed 9", "兩層的 A（seed 為 9）"), mistakes={wrong.SAME_START: [first, first]},
    )  # fmt: skip
    expect(
        [layer.scaling for layer in layers.values()], [4.0, 4.0], atol=CLOSE,
        what=Text("the scale of both layers, rank 2, alpha 8", "兩層的縮放係數（rank 2、alpha 8）"),
        mistakes={wrong.ALPHA_AS_SCALE: [8.0, 8.0]},
    )  # fmt: skip


@exercise(
    6,
    title=Text("Merge the update, and take it out again", "合併更新量，再拿出來"),
    minutes=20,
    level="core",
    hint=Text(
        "In which order do (rank, in) and (out, rank) make (out, in)? What does `merge` have to know before it adds, so that twice is no "
        "more than once? And what must be true for `unmerge` to take something out?",
        "(rank, in) 和 (out, rank) 要照什麼順序相乘，才會是 (out, in)？`merge` 加上去之前要先知道什麼，做兩次才不會多加一次？"
        "`unmerge` 又要在什麼情況下才能拿掉？",
    ),
)
def check_exercise_6() -> None:
    layer, scaling = a_layer(6, 6, rank=2, scaling=2.5, seed=6), 2.5
    product = torch.einsum("or,ri->oi", layer.lora_b, layer.lora_a).detach()
    delta, before = scaling * product, layer.base.weight.detach().clone()
    expect(
        layer.delta_weight, delta, atol=CLOSE, what=Text("delta_weight, 6 to 6, rank 2", "delta_weight（6 到 6、rank 2）"),
        mistakes={
            wrong.DELTA_TRANSPOSED: delta.T, wrong.DELTA_NOT_SCALED: product, wrong.DELTA_SCALED_TWICE: scaling * delta,
        },
    )  # fmt: skip
    layer.merge()
    expect(
        layer.base.weight, before + delta, atol=CLOSE, what=Text("the weight after merge", "merge 之後的權重"),
        mistakes={
            wrong.MERGE_NOTHING: before, wrong.MERGE_SUBTRACTED: before - delta, wrong.MERGE_REPLACED: delta,
            wrong.DELTA_SCALED_TWICE: before + scaling * delta,
        },
    )  # fmt: skip
    check_state(layer, before, delta)


def check_state(layer: LoraLinear, before: Tensor, delta: Tensor) -> None:
    """Merging and unmerging once more, and what `merged` says; `layer` is merged."""
    expect(layer.merged, True, what=same("merged"), mistakes={wrong.COUNTED_TWICE: False})
    layer.merge()
    expect(
        layer.base.weight, before + delta, atol=CLOSE, what=Text("the weight after a second merge", "第二次 merge 之後的權重"),
        mistakes={wrong.MERGED_TWICE: before + 2 * delta},
    )  # fmt: skip
    layer.unmerge()
    expect(
        layer.base.weight, before, atol=CLOSE, what=Text("the weight after unmerge", "unmerge 之後的權重"),
        mistakes={wrong.UNMERGE_NOTHING: before + delta},
    )  # fmt: skip
    expect(layer.merged, False, what=Text("merged, after unmerge", "unmerge 之後的 merged"))
    layer.unmerge()
    expect(
        layer.base.weight, before, atol=CLOSE, what=Text("the weight after a second unmerge", "第二次 unmerge 之後的權重"),
        mistakes={wrong.UNMERGED_UNASKED: before - delta},
    )  # fmt: skip


@exercise(
    7,
    title=Text("Names that peft understands", "peft 看得懂的名稱"),
    minutes=15,
    level="core",
    hint=Text(
        "lora_layers(model) gives each layer by its name: what do peft's two wrappers put before that name, and what stands behind it for "
        "each of the two matrices?",
        "lora_layers(model) 用名稱給出每一層：peft 的兩層包裝會在名稱前面加上什麼？兩個矩陣又各在後面接什麼？",
    ),
)
def check_exercise_7() -> None:
    layers = {"q_proj": a_layer(6, 4, rank=3, scaling=1.0, seed=7), "v_proj": a_layer(4, 6, rank=3, scaling=1.0, seed=8)}
    model = nn.ModuleDict({"block": nn.ModuleDict(layers), "norm": nn.LayerNorm(6)})

    def named(pattern: str, *factors: str) -> list[str]:
        return sorted(pattern.format(f"block.{name}", factor) for name in layers for factor in factors or ("lora_A", "lora_B"))

    got = adapter_tensors(model)
    expect(
        sorted(got), named("base_model.model.{}.{}.weight"), what=Text("the names in the file", "檔案裡的名稱"),
        mistakes={
            wrong.NO_PREFIX: named("{}.{}.weight"),
            wrong.HALF_PREFIX: named("base_model.{}.{}.weight"),
            wrong.NO_WEIGHT: named("base_model.model.{}.{}"),
            wrong.LOWER_CASE: named("base_model.model.{}.{}.weight", "lora_a", "lora_b"),
            wrong.ADAPTER_NAME: named("base_model.model.{}.{}.default.weight"),
        },
    )  # fmt: skip
    want, exchanged, transposed = {}, {}, {}
    for name, layer in layers.items():
        first, second = (f"base_model.model.block.{name}.{factor}.weight" for factor in ("lora_A", "lora_B"))
        want |= {first: layer.lora_a, second: layer.lora_b}
        exchanged |= {first: layer.lora_b, second: layer.lora_a}
        transposed |= {first: layer.lora_a.T, second: layer.lora_b.T}
    expect(
        got, want, what=Text("the tensors in the file", "檔案裡的張量"),
        mistakes={wrong.FACTORS_EXCHANGED: exchanged, wrong.FILE_TRANSPOSED: transposed},
    )  # fmt: skip


@exercise(
    8,
    title=Text("4-bit NormalFloat", "4 位元的 NormalFloat"),
    minutes=30,
    level="stretch",
    hint=Text(
        "a. Which quantile do nine equal steps from DEEPEST end with, and why is it left out? How many levels does that leave above zero, "
        "and how many below? b. Which border lies half way between two neighbouring levels? How many borders do 16 levels have? What would "
        "a block of zeros be divided by?",
        "a. 從 DEEPEST 走九個等距的點，最後一個是哪個分位數？為什麼不要它？這樣零以上剩幾個位準，零以下呢？"
        "b. 相鄰兩個位準正中間的界線怎麼算？16 個位準有幾條界線？全是零的區塊會被除以多少？",
    ),
)
def check_exercise_8() -> None:
    want = broken_levels(None)
    expect(
        nf4_levels(), want, atol=SINGLE, what=Text("the 16 levels", "16 個位準"),
        mistakes={wrong.LEVELS[name]: broken_levels(name) for name in LEVEL_MISTAKES},
    )  # fmt: skip
    blocks = torch.randn(5, 64, generator=torch.Generator().manual_seed(8))
    blocks[1, 7] = -9.0  # the largest absolute value of its block is negative
    blocks[3] /= 10  # and the scale of this one is below 1
    indices, scales = nearest_levels(blocks)
    right = blocks.abs().amax(dim=1)
    expect(
        scales, right, atol=SINGLE, what=Text("the scales of 5 blocks", "5 個區塊的縮放係數"),
        mistakes={wrong.SIGNED_MAXIMUM: blocks.amax(dim=1), wrong.ONE_SCALE: blocks.abs().max().expand(5)},
    )  # fmt: skip
    inside = blocks / right[:, None]
    expect(
        indices, nearest(inside, want), what=Text("the indices of 5 blocks", "5 個區塊的索引"),
        mistakes={
            wrong.FLOORED: (inside[..., None] > want[1:]).sum(dim=-1),
            wrong.NOT_DIVIDED: nearest(blocks, want),
            wrong.SMALL_NOT_DIVIDED: nearest(blocks / right.clamp_min(1)[:, None], want),
        },
    )  # fmt: skip
    zeros, _ = nearest_levels(torch.zeros(1, 64))
    expect(
        zeros, torch.full((1, 64), 7), what=Text("the indices of a block of zeros", "全是零的區塊的索引"),
        mistakes={wrong.ZERO_BLOCK: torch.full((1, 64), 15)},
    )  # fmt: skip


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The index of the nearest level of each value, compared to all 16: (count, block) -> (count, block)."""
    return (values[..., None] - levels).abs().argmin(dim=-1)
