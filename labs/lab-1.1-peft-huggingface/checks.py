"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here, never by the modules under test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mistakes as wrong
from adapter_design import design
from exact_match import exact_matches, wilson
from instruction_format import supervised_example
from left_padding import left_padded
from lora_targets import lora_parameters, target_linears, train_only
from merging import merged_weight
from onepiece.adaptation import targeted_shapes
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text
from training_cost import TrainingBytes, training_bytes

CLOSE = 1e-9  # absolute, float64


@exercise(
    1,
    title=Text("The bytes of a training step", "訓練一步要多少位元組"),
    minutes=10,
    level="core",
    hint=Text(
        "Which parameters are held at all, and which of them have a gradient? How many numbers does AdamW remember for one of those? In "
        "whose type is each of these kept?",
        "哪些參數要放在記憶體裡？其中哪些有梯度？有梯度的參數，AdamW 要替它記住幾個數？這些數各用誰的型別？",
    ),
)
def check_training_bytes() -> None:
    expect(
        parts(training_bytes(100, 10, frozen_bytes=2, trained_bytes=4)), [240, 40, 80], atol=CLOSE,
        what=same("training_bytes(100, 10, frozen_bytes=2, trained_bytes=4)"),
        mistakes={
            wrong.FROZEN_PAY_TOO: [240, 440, 880],
            wrong.ONE_MEAN: [240, 40, 40],
            wrong.FROZEN_FORGOTTEN: [40, 40, 80],
            wrong.TRAINED_FORGOTTEN: [200, 40, 80],
            wrong.TRAINED_IN_FROZEN_TYPE: [220, 40, 80],
            wrong.GRADIENTS_IN_FROZEN_TYPE: [240, 20, 40],
        },
    )  # fmt: skip
    expect(
        parts(training_bytes(0, 10, trained_bytes=2)), [20, 20, 40], atol=CLOSE,
        what=same("training_bytes(0, 10, trained_bytes=2)"),
        mistakes={wrong.STATE_ALWAYS_EIGHT: [20, 20, 80], wrong.ONE_MEAN: [20, 20, 20]},
    )  # fmt: skip
    expect(
        parts(training_bytes(1000, 10, frozen_bytes=0.5)), [540, 40, 80], atol=CLOSE,
        what=Text("a frozen parameter of half a byte (4 bits)", "凍結的參數只占半個位元組（4 位元）"),
    )  # fmt: skip


def parts(given: TrainingBytes | None) -> list[float] | None:
    """The three parts in order; None as it came, which `expect` explains."""
    return None if given is None else [given.weights, given.gradients, given.optimizer]


@exercise(
    2,
    title=Text("How many parameters LoRA trains", "LoRA 訓練多少參數"),
    minutes=10,
    level="core",
    hint=Text(
        "For one matrix: which shape has A, and which has B? How many numbers is that together? And how many matrices are there?",
        "以一個矩陣來說：A 是什麼形狀？B 呢？合起來有幾個數？總共有幾個矩陣？",
    ),
)
def check_lora_parameters() -> None:
    shapes, rank = [(4096, 1024), (4096, 4096), (11008, 4096)], 8
    expect(
        lora_parameters(shapes, rank), sum(rank * inner + rank * out for inner, out in shapes),
        what=Text("three matrices, rank 8", "三個矩陣，rank 8"),
        mistakes={
            wrong.ONLY_A: sum(rank * inner for inner, _ in shapes),
            wrong.ONLY_B: sum(rank * out for _, out in shapes),
            wrong.WHOLE_MATRIX: sum(rank * inner * out for inner, out in shapes),
            wrong.SQUARE: sum(2 * rank * inner for inner, _ in shapes),
            wrong.ONE_MATRIX: rank * sum(shapes[-1]),
        },
    )  # fmt: skip
    expect(lora_parameters([(4096, 4096)] * 64, 8), 4_194_304, what=Text("Llama-2-7B, q and v, rank 8", "Llama-2-7B 的 q 和 v，rank 8"))


@exercise(
    3,
    title=Text("Labels: what counts in the loss", "標籤：損失要算什麼"),
    minutes=10,
    level="core",
    hint=Text(
        "What does the model read, from the first token to the last? Which of these tokens must it learn to write itself? Does your "
        "code make a new list, or does it change the one that it was given?",
        "模型從第一個到最後一個 token 讀的是什麼？其中哪些要學會自己寫出來？你的程式碼是做一個新的串列，還是改動了傳進來的？",
    ),
)
def check_supervised_example() -> None:
    prompt, answer, end, ignored = [1, 7, 8], [5, 6], 2, -100
    token_ids, hidden = [1, 7, 8, 5, 6, 2], [ignored] * 3
    expect(
        supervised_example(prompt, answer, end), [token_ids, [*hidden, 5, 6, 2]],
        what=same("supervised_example([1, 7, 8], [5, 6], 2)"),
        mistakes={
            wrong.UNMASKED: [token_ids, token_ids],
            wrong.END_MISSING: [token_ids[:-1], [*hidden, 5, 6]],
            wrong.END_IGNORED: [token_ids, [*hidden, 5, 6, ignored]],
            wrong.SHIFTED: [token_ids, [ignored, ignored, 5, 6, 2, ignored]],
            wrong.ANSWER_MASKED: [token_ids, [1, 7, 8, ignored, ignored, ignored]],
            wrong.ZERO_IGNORED: [token_ids, [0, 0, 0, 5, 6, 2]],
            wrong.ONE_TOO_MANY: [token_ids, [*hidden, ignored, 6, 2]],
        },
    )  # fmt: skip
    expect(
        [prompt, answer], [[1, 7, 8], [5, 6]], what=Text("the lists that were given, afterwards", "傳進來的串列，在呼叫之後"),
        mistakes={wrong.CHANGED_GIVEN: [prompt, answer]},
    )  # fmt: skip


class SmallModel(nn.Module):
    """Two layers with names as in Llama, one trap (`kv_proj`) and an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q_proj": nn.Linear(4, 4), "kv_proj": nn.Linear(4, 2), "v_proj": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
            for _ in range(2)
        )
        self.lm_head = nn.Linear(4, 10)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


@exercise(
    4,
    title=Text("Which layers, and who may move", "調整哪些層、誰可以動"),
    minutes=15,
    level="core",
    hint=Text(
        "a. What does model.named_modules() give, and how do you know the output head among them without knowing its name? Is `v_proj` "
        "the last name of `layers.0.kv_proj`? b. Who was trainable before does not matter: what has to be set for each parameter?",
        "a. model.named_modules() 會給你什麼？不知道輸出層的名稱，要怎麼認出它？`layers.0.kv_proj` 的最後一段名稱是 `v_proj` 嗎？"
        "b. 之前誰可以訓練不重要：每個參數要設定什麼？",
    ),
)
def check_targets() -> None:
    model = SmallModel()
    everything = [f"layers.{index}.{kind}" for index in range(2) for kind in ("q_proj", "kv_proj", "v_proj")]
    expect(
        target_linears(model), everything, what=same("target_linears(model)"),
        mistakes={
            wrong.HEAD_ADAPTED: [*everything, "lm_head"],
            wrong.LAST_NAMES: ["q_proj", "kv_proj", "v_proj"] * 2,
            wrong.NOT_LINEAR: ["embed", *[f"layers.{i}.{kind}" for i in range(2) for kind in ("q_proj", "kv_proj", "v_proj", "norm")]],
        },
    )  # fmt: skip
    expect(
        target_linears(model, ("v_proj",)), ["layers.0.v_proj", "layers.1.v_proj"], what=same('target_linears(model, ("v_proj",))'),
        mistakes={
            wrong.SUBSTRING: ["layers.0.kv_proj", "layers.0.v_proj", "layers.1.kv_proj", "layers.1.v_proj"],
            wrong.KINDS_IGNORED: everything,
            wrong.LAST_NAMES: ["v_proj", "v_proj"],
        },
    )  # fmt: skip
    check_train_only()


def check_train_only() -> None:
    """From a state in which some of the wanted parameters are frozen and some of the others are not."""
    model = SmallModel()
    before = {name: index % 2 == 0 for index, (name, _) in enumerate(model.named_parameters())}
    for name, weight in model.named_parameters():
        weight.requires_grad_(before[name])
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    wanted = {name: "q_proj" in name for name in sizes}
    number = train_only(model, "q_proj")
    expect(
        {name: weight.requires_grad for name, weight in model.named_parameters()}, wanted,
        what=Text('what requires a gradient after train_only(model, "q_proj")', 'train_only(model, "q_proj") 之後誰需要梯度'),
        mistakes={
            wrong.NOTHING_FROZEN: {name: before[name] or wanted[name] for name in sizes},
            wrong.NOTHING_OPENED: {name: before[name] and wanted[name] for name in sizes},
            wrong.WRONG_WAY_ROUND: {name: not wanted[name] for name in sizes},
        },
    )  # fmt: skip
    expect(
        number, sum(sizes[name] for name in sizes if wanted[name]), what=Text("the number that it returns", "它回傳的個數"),
        mistakes={wrong.TENSORS_COUNTED: sum(wanted.values()), wrong.ALL_COUNTED: sum(sizes.values())},
    )  # fmt: skip


def a_model(layers: int, **kinds: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of the same kinds of layers in every block."""
    return {f"model.layers.{index}.{kind}": shape for index in range(layers) for kind, shape in kinds.items()}


# Grouped heads and a wide MLP; names as in GPT-NeoX; and one whose rank 1 takes all of a budget that two ranks on a part would waste.
LLAMA = a_model(4, q_proj=(64, 64), k_proj=(64, 32), v_proj=(64, 32), o_proj=(64, 64), gate_proj=(64, 192), down_proj=(192, 64))
NEOX = a_model(3, query_key_value=(48, 144), dense=(48, 48), dense_4h_to_h=(192, 48))
UNEVEN = a_model(2, q_proj=(20, 15), up_proj=(25, 40))


@exercise(
    5,
    title=Text("Design an adapter within a budget", "在預算內設計一個 adapter"),
    minutes=20,
    level="core",
    hint=Text(
        "What does rank 1 take on all the layers that you want? How often does that fit into the budget, and what do you do if it does "
        "not fit at all? And which will notebook 3 like better: few layers with a high rank, or many with a low one?",
        "在你想要的那些層上，秩 1 要幾個參數？預算裡放得下幾份？連一份都放不下的話怎麼辦？"
        "還有：少數幾層配高的秩，或是很多層配低的秩，依第 3 本筆記本的比較，哪一種比較好？",
    ),
)
def check_design() -> None:
    for shapes, budget in ((LLAMA, 20_000), (NEOX, 9_000), (UNEVEN, 200), (LLAMA, 1_000), (LLAMA, 390)):
        config = design(shapes, budget)
        expect(type(config).__name__, "LoraConfig", what=Text("the type of what design returns", "design 回傳的型別"))
        expect(config.task_type, "CAUSAL_LM", what=same("task_type"))
        expect(
            isinstance(config.r, int) and config.r >= 1, True,
            what=Text(f"whether r is a whole number above 0 (budget {budget:,})", f"r 是不是 1 以上的整數（預算 {budget:,}）"),
            mistakes={wrong.RANK_ZERO: False},
        )  # fmt: skip
        expect(config.lora_alpha, 2 * config.r, what=same("lora_alpha"), mistakes={wrong.ALPHA_FIXED: 16, wrong.ALPHA_IS_RANK: config.r})
        check_budget(shapes, budget, config.r, sorted(config.target_modules or ()))


def check_budget(shapes: dict[str, tuple[int, int]], budget: int, rank: int, targets: list[str]) -> None:
    """Whether a design fits, and whether it uses what it may."""
    chosen = targeted_shapes(shapes, targets).values()
    expect(bool(chosen), True, what=Text("whether target_modules names a layer", "target_modules 是否指定了任何一層"))
    trained = sum(rank * (inner + out) for inner, out in chosen)
    likely = {}
    if sum(rank * inner for inner, _ in chosen) <= budget or sum(rank * out for _, out in chosen) <= budget:
        likely[wrong.BUDGET_OF_HALF] = False
    if max(rank * (inner + out) for inner, out in chosen) <= budget:
        likely[wrong.BUDGET_OF_ONE] = False
    choice = f"r = {rank}, {', '.join(targets)}"
    en, zh = f"{trained:,} parameters ({choice})", f"{trained:,} 個參數（{choice}）"
    expect(
        trained <= budget, True, mistakes=likely,
        what=Text(f"whether {en} are within a budget of {budget:,}", f"{zh}是否在預算 {budget:,} 之內"),
    )  # fmt: skip
    if sum(inner + out for inner, out in shapes.values()) <= budget:
        expect(
            4 * trained >= 3 * budget, True, mistakes={wrong.BUDGET_LEFT: False},
            what=Text(f"whether {en} are three quarters of {budget:,}", f"{zh}有沒有用到 {budget:,} 的四分之三"),
        )  # fmt: skip


@exercise(
    6,
    title=Text("Padding on the left, and positions", "補在左邊，以及位置"),
    minutes=15,
    level="core",
    hint=Text(
        "For each row: how many tokens are missing to the longest? Can the mask be told from the tokens, if a prompt holds pad_id itself? "
        "How many real tokens stand before each place of a row?",
        "每一列離最長的還差幾個 token？如果提示本身就含有 pad_id，從 token 看得出遮罩嗎？每個位置前面有幾個真正的 token？",
    ),
)
def check_left_padded() -> None:
    got = left_padded([[5, 0, 7, 9], [8, 6]], 0)
    expect(
        sorted(got) if isinstance(got, dict) else got, ["attention_mask", "input_ids", "position_ids"],
        what=Text("the names in the batch", "批次裡的名稱"),
    )  # fmt: skip
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    expect(
        got["input_ids"], torch.tensor([[5, 0, 7, 9], [0, 0, 8, 6]]), what=same("input_ids"),
        mistakes={
            wrong.PADDED_RIGHT: torch.tensor([[5, 0, 7, 9], [8, 6, 0, 0]]),
            wrong.REVERSED: torch.tensor([[9, 7, 0, 5], [0, 0, 6, 8]]),
        },
    )  # fmt: skip
    expect(
        got["attention_mask"], mask, what=same("attention_mask"),
        mistakes={
            wrong.MASK_INVERTED: 1 - mask,
            wrong.MASK_FROM_PAD_ID: torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]),
            wrong.MASK_OF_ONES: torch.ones_like(mask),
            wrong.PADDED_RIGHT: mask.flip(1),
        },
    )  # fmt: skip
    check_positions(got["position_ids"])


def check_positions(positions: Tensor) -> None:
    """Of the two rows above: one without padding, one with two places of it."""
    expect(
        positions, torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]]), what=same("position_ids"),
        mistakes={
            wrong.POSITIONS_OF_COLUMNS: torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]),
            wrong.POSITIONS_FROM_ONE: torch.tensor([[1, 2, 3, 4], [0, 0, 1, 2]]),
            wrong.POSITIONS_NEGATIVE: torch.tensor([[0, 1, 2, 3], [-1, -1, 0, 1]]),
        },
    )  # fmt: skip


@exercise(
    7,
    title=Text("Exact match, and how sure that is", "完全相符，以及有多確定"),
    minutes=15,
    level="core",
    hint=Text(
        "a. What may stand around an answer and does not count? b. Which part of the formula comes up in both of its lines? What does the "
        "interval say if every answer is right?",
        "a. 答案前後有什麼是不算的？b. 公式的兩行裡，哪一部分重複出現？如果全部答對，區間會是什麼樣子？",
    ),
)
def check_scoring() -> None:
    answers = [" 藍色 ", "green", "Green", "green blue", "green!", "blue"]
    wanted = ["藍色", "green", "green", "green", "green", "green"]
    expect(
        exact_matches(answers, wanted), 2, what=Text("exact_matches of six answers", "六個回答的 exact_matches"),
        mistakes={wrong.NOT_STRIPPED: 1, wrong.CASE_IGNORED: 3, wrong.CONTAINED: 4, wrong.SHARE_RETURNED: 2 / 6},
    )  # fmt: skip
    z = 1.96
    for right, count in ((36, 40), (40, 40), (0, 40)):
        share, scale = right / count, 1 + z**2 / count
        centre = (share + z**2 / (2 * count)) / scale
        wald = z * math.sqrt(share * (1 - share) / count)
        half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
        expect(
            wilson(right, count), list(wilson_by_roots(right, count, z)), atol=CLOSE, what=same(f"wilson({right}, {count})"),
            mistakes={
                wrong.WALD: [share - wald, share + wald],
                wrong.NO_SHIFT: [share - half / scale, share + half / scale],
                wrong.NO_DIVISION: [centre - half, centre + half],
                wrong.NO_INNER_TERM: [centre - wald / scale, centre + wald / scale],
                wrong.HALF_ONLY: [centre, half / scale],
            },
        )  # fmt: skip


def wilson_by_roots(right: int, count: int, z: float) -> tuple[float, float]:
    """What the interval is by definition: the accuracies p at which (share - p)^2 = z^2 p (1 - p) / count."""
    share = right / count
    a, b, c = 1 + z**2 / count, -(2 * share + z**2 / count), share**2
    root = math.sqrt(max(0.0, b**2 - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@exercise(
    8,
    title=Text("Merge an adapter into its matrix", "把 adapter 合併進矩陣"),
    minutes=10,
    level="core",
    hint=Text(
        "In which order do (r, in) and (out, r) make (out, in)? What is the product multiplied by, and may W itself change?",
        "(r, in) 和 (out, r) 要照什麼順序，才會乘出 (out, in)？乘積要再乘上什麼？W 本身可以改動嗎？",
    ),
)
def check_merged_weight() -> None:
    weight, lora_a, lora_b = matrices(6, 4, 2)
    kept, update = weight.clone(), lora_b @ lora_a
    got = merged_weight(weight, lora_a, lora_b, 8, 2)
    expect(
        got, kept + 4 * update, atol=CLOSE, what=Text("W of (6, 4), r = 2, alpha = 8", "W 是 (6, 4)，r = 2，alpha = 8"),
        mistakes={
            wrong.NO_SCALE: kept + update,
            wrong.ALPHA_ONLY: kept + 8 * update,
            wrong.SCALE_INVERTED: kept + update / 4,
            wrong.SUBTRACTED: kept - 4 * update,
            wrong.UPDATE_ONLY: 4 * update,
        },
    )  # fmt: skip
    expect(
        weight, kept, what=Text("W itself, afterwards", "W 本身，在呼叫之後"),
        mistakes={wrong.WEIGHT_CHANGED: weight},
    )  # fmt: skip
    weight, lora_a, lora_b = matrices(4, 4, 4)
    expect(
        merged_weight(weight, lora_a, lora_b, 8, 4), weight + 2 * lora_b @ lora_a, atol=CLOSE,
        what=Text("square matrices, r = 4, where every order fits", "方陣，r = 4，任何順序都乘得起來"),
        mistakes={wrong.ORDER: weight + 2 * lora_a @ lora_b, wrong.TRANSPOSED: weight + 2 * (lora_b @ lora_a).T},
    )  # fmt: skip


def matrices(outputs: int, inputs: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """W (out, in), A (r, in) and B (out, r), float64, from a seed."""
    generator = torch.Generator().manual_seed(outputs)
    shapes = ((outputs, inputs), (rank, inputs), (outputs, rank))
    first, second, third = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return first, second, third
