"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here, never by the modules under test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mistakes as wrong
from exact_match import exact_matches, wilson
from instruction_format import WITH_INPUT, WITHOUT_INPUT, alpaca_prompt, supervised_example
from left_padding import left_padded
from lora_targets import lora_parameters, target_linears, train_only
from merging import merged_weight
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text
from training_cost import TrainingBytes, training_bytes

CLOSE = 1e-9  # absolute, float64


@exercise(
    1,
    title=Text("Who pays for what in training", "訓練時誰要付多少"),
    minutes=10,
    level="core",
    hint=Text(
        "Three sums. weights: frozen times frozen_bytes and trained times trained_bytes. gradients: one number per trained "
        "parameter. optimizer: two. Gradients and means have the type of the trained weight.",
        "三個總和。weights：frozen 乘 frozen_bytes，加上 trained 乘 trained_bytes。gradients：每個受訓練的參數一個數。"
        "optimizer：兩個。梯度與平均的型別和受訓練的權重相同。",
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
        "For one matrix: A has rank * in numbers, B has out * rank. Sum over the matrices.",
        "以一個矩陣來說：A 有 rank * in 個數，B 有 out * rank 個。再對所有矩陣加總。",
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
    title=Text("An Alpaca record as a prompt", "把 Alpaca 資料寫成提示"),
    minutes=10,
    level="core",
    hint=Text(
        'Make a list of parts (opening, "### Instruction:\\n" + instruction, perhaps the input, "### Response:") and join it '
        "with two line breaks.",
        '先把各部分放進串列（開頭、"### Instruction:\\n" + instruction、有輸入就加上輸入、"### Response:"），再用兩個換行接起來。',
    ),
)
def check_alpaca_prompt() -> None:
    instruction, context = "Who was it?", "Mira found a key."
    short, long = f"### Instruction:\n{instruction}", f"### Input:\n{context}"
    expect(
        alpaca_prompt(instruction), f"{WITHOUT_INPUT}\n\n{short}\n\n### Response:", what=Text("without input", "沒有輸入"),
        mistakes={
            wrong.EMPTY_INPUT_HEADING: f"{WITH_INPUT}\n\n{short}\n\n### Input:\n\n\n### Response:",
            wrong.OPENING_PROMISES_INPUT: f"{WITH_INPUT}\n\n{short}\n\n### Response:",
            wrong.NO_EMPTY_LINES: f"{WITHOUT_INPUT}\n{short}\n### Response:",
            wrong.NEWLINE_AT_THE_END: f"{WITHOUT_INPUT}\n\n{short}\n\n### Response:\n",
            wrong.NO_RESPONSE_HEADING: f"{WITHOUT_INPUT}\n\n{short}",
        },
    )  # fmt: skip
    expect(
        alpaca_prompt(instruction, context), f"{WITH_INPUT}\n\n{short}\n\n{long}\n\n### Response:", what=Text("with input", "有輸入"),
        mistakes={
            wrong.INPUT_FORGOTTEN: f"{WITHOUT_INPUT}\n\n{short}\n\n### Response:",
            wrong.OPENING_HIDES_INPUT: f"{WITHOUT_INPUT}\n\n{short}\n\n{long}\n\n### Response:",
            wrong.NO_EMPTY_LINES: f"{WITH_INPUT}\n{short}\n{long}\n### Response:",
            wrong.NEWLINE_AT_THE_END: f"{WITH_INPUT}\n\n{short}\n\n{long}\n\n### Response:\n",
        },
    )  # fmt: skip


@exercise(
    4,
    title=Text("Labels: what counts in the loss", "標籤：損失要算什麼"),
    minutes=10,
    level="core",
    hint=Text(
        "Both lists are prompt + answer + [end]. In the labels each token of the prompt is replaced by IGNORED. `+` makes a new "
        "list, append changes the old one.",
        "兩個串列都是提示 + 答案 + [結束]。標籤裡，提示的每個 token 換成 IGNORED。`+` 會做出新的串列，append 則會改動舊的。",
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
    5,
    title=Text("Which layers, and who may move", "調整哪些層、誰可以動"),
    minutes=15,
    level="core",
    hint=Text(
        "a. Go through model.named_modules(), keep what is an nn.Linear; the head is the same *object* as "
        'get_output_embeddings(). The last name is name.rpartition(".")[2]. b. Go through named_parameters() and '
        "call requires_grad_(part in name) on each.",
        "a. 走訪 model.named_modules()，留下是 nn.Linear 的；輸出層和 get_output_embeddings() 是同一個*物件*。最後一段名稱是 "
        'name.rpartition(".")[2]。b. 走訪 named_parameters()，對每一個呼叫 requires_grad_(part in name)。',
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


@exercise(
    6,
    title=Text("Padding on the left, and positions", "補在左邊，以及位置"),
    minutes=15,
    level="core",
    hint=Text(
        "For each row: how many tokens are missing to the longest? The mask follows from that number, not from the tokens. "
        "Positions are the running sum of the mask minus one, and at least 0.",
        "每一列離最長的還差幾個 token？遮罩由這個數字決定，不是由 token 決定。位置是遮罩的累加減一，最小為 0。",
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
        "a. Compare answer.strip() with want.strip(), pair by pair. b. First share = right / count and scale = 1 + z**2 / count, "
        "then the two lines of the formula.",
        "a. 逐對比較 answer.strip() 與 want.strip()。b. 先算 share = right / count 與 scale = 1 + z**2 / count，再照公式寫那兩行。",
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
        "One line. The shapes decide the order: (out, r) times (r, in) is (out, in).",
        "一行就好。形狀決定順序：(out, r) 乘 (r, in) 是 (out, in)。",
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
