"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

Every wanted value, and what each mistake would give, is computed here or in `broken_variants.py`, never by the functions under test.
Numbers are float64 and layers square, so that neither rounding nor a shape catches a mistake before its text can.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

import mistakes as wrong
from bias_files import file_tensors
from bitfit import bias_parameters, fused_masks, require_gradients, with_new_biases
from broken_variants import (
    CARRY_MISTAKES,
    FREEZE_MISTAKES,
    FUSED_MISTAKES,
    NAME_MISTAKES,
    broken_carry,
    broken_fused,
    broken_gradients,
    broken_names,
)
from equal_biases import carry_through
from onepiece.checks import exercise, expect, same
from onepiece.course.text import Text
from row_biases import shifts_of_rows

CLOSE = 1e-9  # absolute, float64


def random(*shape: int, seed: int) -> Tensor:
    """Float64, from a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Bag(nn.Module):
    """Everything that is called bias somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 6)
        self.plain = nn.Linear(6, 4, bias=False)
        self.attention = nn.MultiheadAttention(4, 2)
        self.relative_attention_bias = nn.Embedding(8, 2)
        self.register_buffer("bias", torch.ones(3, 3).tril())


@exercise(
    1,
    title=Text("Which parameters are biases", "哪些參數是偏差"),
    minutes=10,
    level="core",
    hint=Text(
        "What is the difference between `parameters` and the state of a model? Into which parts does a dot divide a name, and "
        "which of them names the parameter itself? Must that part be equal to bias, or only end with it?",
        "`parameters` 與模型的 state 差在哪裡？點把名稱分成哪幾段？哪一段才是參數本身的名字？那一段必須等於 bias，還是以 bias 結尾就好？",
    ),
)
def check_exercise_1() -> None:
    model = Bag()
    expect(
        list(bias_parameters(model)),
        broken_names(model, None),
        what=Text("the names of the biases", "偏差的名稱"),
        mistakes={wrong.NAMES[name]: broken_names(model, name) for name in NAME_MISTAKES},
    )
    expect(
        bias_parameters(model)["up.bias"] is model.up.bias,
        True,
        what=Text("what is found is the parameter itself, not a copy", "找到的是參數本身，不是複本"),
    )


@exercise(
    2,
    title=Text("Whose number is it, in a fused bias", "融合的偏差裡，哪個數字是誰的"),
    minutes=15,
    level="core",
    hint=Text(
        "The layer's outputs are read as (heads, 3 * head_dim). How many parts has a head, and how long is each? What shape would a "
        "mask have in which one index says query, key or value?",
        "這一層的輸出被讀成 (heads, 3 * head_dim)。一個 head 有幾段？每段多長？"
        "遮罩要是什麼形狀，才能讓其中一個索引代表 query、key 或 value？",
    ),
)
def check_exercise_2() -> None:
    for heads, head_dim in ((2, 4), (3, 2)):
        expect(
            {kind: mask.tolist() for kind, mask in fused_masks(heads, head_dim).items()},
            {kind: mask.tolist() for kind, mask in broken_fused(heads, head_dim, None).items()},
            what=Text(f"the masks of {heads} heads of {head_dim}", f"{heads} 個 head、每個 {head_dim} 維的遮罩"),
            mistakes={
                wrong.FUSED[name]: {kind: mask.tolist() for kind, mask in broken_fused(heads, head_dim, name).items()}
                for name in FUSED_MISTAKES
            },
        )


@exercise(
    3,
    title=Text("Freeze all but the biases", "只留下偏差，其他凍結"),
    minutes=15,
    level="core",
    hint=Text(
        "In which order: freeze everything, then open some, or the other way round? A parameter either requires a gradient or does "
        "not, all of it: what does `register_hook` let you do with the gradient of a part?",
        "先全部凍結再打開一些，還是反過來？一個參數要嘛整個需要梯度，要嘛整個不需要："
        "對於只有一部分要訓練的，`register_hook` 能讓你對梯度做什麼？",
    ),
)
def check_exercise_3() -> None:
    masks = {"0.bias": torch.tensor([True, False, True, False]), "1.bias": torch.ones(4, dtype=torch.bool)}

    def made() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)).double()
        for number, parameter in enumerate(model.parameters()):
            parameter.data.copy_(random(*parameter.shape, seed=10 + number))
        return model

    inputs = random(5, 4, seed=1)
    model = made()
    require_gradients(model, masks)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    everything = [name for name, _ in model.named_parameters()]
    expect(
        trained,
        ["0.bias", "1.bias"],
        what=Text("what requires a gradient", "需要梯度的參數"),
        mistakes={
            wrong.FREEZE["nothing_frozen"]: everything,
            wrong.FREEZE["all_biases"]: ["0.bias", "1.bias", "2.bias"],
            wrong.NOTHING_TRAINED: [],
        },
    )
    model(inputs).square().sum().backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    variants = {name: broken_gradients(made(), masks, inputs, name) for name in FREEZE_MISTAKES}
    expect(
        got,
        broken_gradients(made(), masks, inputs, None),
        atol=CLOSE,
        what=Text("the gradients", "梯度"),
        mistakes={wrong.FREEZE[name]: value for name, value in variants.items()},
    )


@exercise(
    4,
    title=Text("Names that peft understands", "peft 看得懂的名稱"),
    minutes=10,
    level="core",
    hint=Text(
        "What do peft's two wrappers put before a name? Which one layer has a third wrapper around it, and where does its own name "
        "end? Is a bias of another layer whose name *begins* alike touched by that?",
        "peft 的兩層包裝會在名稱前面加上什麼？哪一層多了第三層包裝？它自己的名稱到哪裡為止？另一層的名稱只是*開頭*相同，會受影響嗎？",
    ),
)
def check_exercise_4() -> None:
    names = ("layers.0.up.bias", "layers.0.upper.bias", "layers.0.norm.bias")
    biases = {name: nn.Parameter(random(3, seed=number)) for number, name in enumerate(names)}
    got = file_tensors(biases, "layers.0.up")

    def named(*inside: str, prefix: str = "base_model.model.") -> list[str]:
        return sorted(prefix + name for name in inside)

    wrapped = ("layers.0.up.base_layer.bias", *names[1:])
    expect(
        sorted(got),
        named(*wrapped),
        what=Text("the names in the file", "檔案裡的名稱"),
        mistakes={
            wrong.NO_PREFIX: named(*wrapped, prefix=""),
            wrong.NO_WRAPPER: named(*names),
            wrong.ALL_WRAPPED: named(*(name.replace(".bias", ".base_layer.bias") for name in names)),
            wrong.LORA_NAMES: named(*wrapped, "layers.0.up.lora_A.weight", "layers.0.up.lora_B.weight"),
        },
    )
    expect(
        [got[name] for name in named(*wrapped)],
        [biases[name] for name in sorted(names, key=lambda name: wrapped[names.index(name)])],
        what=Text("the numbers in the file", "檔案裡的數字"),
    )
    expect(any(tensor.requires_grad for tensor in got.values()), False, what=same("requires_grad"))


@exercise(
    5,
    title=Text("Biases for a model without", "給沒有偏差的模型裝上偏差"),
    minutes=20,
    level="stretch",
    hint=Text(
        "Which options of the configuration are off? How do you change a configuration without changing the model that has it? What does "
        "`load_state_dict(..., strict=False)` return, and with which numbers does a new bias change nothing?",
        "設定裡哪些選項是關的？怎樣改設定，才不會動到擁有它的模型？"
        "`load_state_dict(..., strict=False)` 會回傳什麼？新的偏差要是多少，才什麼都不改變？",
    ),
)
def check_exercise_5() -> None:
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).double().eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        larger = with_new_biases(model)
        got = sorted(name.removeprefix("model.layers.0.") for name, _ in larger.named_parameters() if name.endswith("bias"))
        on_attention = [f"self_attn.{name}_proj.bias" for name in "koqv"]
        on_mlp = [f"mlp.{name}_proj.bias" for name in ("down", "gate", "up")]
        expect(
            got,
            on_mlp + on_attention,
            what=Text("the biases of a block", "一個 block 的偏差"),
            mistakes={wrong.ATTENTION_ONLY: on_attention, wrong.MLP_ONLY: on_mlp},
        )
        given = [name for name, _ in model.named_parameters() if name.endswith("bias")]
        expect((given, model.config.mlp_bias), ([], False), what=Text("the model that was given", "傳進來的模型"))
        new = torch.cat([bias.flatten() for name, bias in larger.named_parameters() if name.endswith("bias")])
        expect(new, torch.zeros_like(new), what=Text("the new biases", "新的偏差"), mistakes={wrong.NEW_NOT_ZERO: new})
        old = dict(model.named_parameters())
        kept = all(name.endswith("bias") or torch.equal(weight, old[name]) for name, weight in larger.named_parameters())
        expect(kept, True, what=Text("the old weights", "原本的權重"), mistakes={wrong.OLD_LOST: False})
        expect(larger(input_ids=ids).logits, wanted, atol=CLOSE, what=Text("the logits", "logits"))
    expect(
        refusal(GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))),
        "ValueError",
        what=Text("what is said of a GPT-NeoX", "遇到 GPT-NeoX 時的反應"),
        mistakes={wrong.NOT_REFUSED: "not refused", wrong.OTHER_ERROR: "another error"},
    )


def refusal(model: nn.Module) -> str:
    """Whether a model that cannot be built with biases is refused, and how."""
    try:
        with_new_biases(model)
    except ValueError:
        return "ValueError"
    except (AttributeError, KeyError, TypeError, RuntimeError):
        return "another error"
    return "not refused"


@exercise(
    6,
    title=Text("A bias for each row of a batch", "批次裡每一列的偏差"),
    minutes=15,
    level="core",
    hint=Text(
        "The outputs of a layer are (batch, seq, out). Which dimension do the rows have, and which one must be of size 1? Which "
        "number is added to a row of the base?",
        "一層的輸出是 (batch, seq, out)。列在哪個維度？哪個維度必須是 1？基礎模型的那一列，要加上多少？",
    ),
)
def check_exercise_6() -> None:
    first, second = random(3, seed=80), random(3, seed=81)
    nothing = torch.zeros(3, dtype=torch.float64)
    tasks = ["b", None, "a", "b"]
    right = torch.stack([second, nothing, first, second])[:, None]
    got = shifts_of_rows({"a": first, "b": second}, tasks)
    expect(
        list(got.shape),
        [4, 1, 3],
        what=Text("the shape for four rows and three features", "四列、三個特徵時的形狀"),
        mistakes={wrong.NO_SEQ: [4, 3], wrong.SEQ_FIRST: [1, 4, 3], wrong.SEQ_LAST: [4, 3, 1]},
    )
    expect(
        got,
        right,
        atol=CLOSE,
        what=Text("what is added to the rows", "各列加上的數字"),
        mistakes={
            wrong.BASE_ONES: torch.stack([second, nothing + 1, first, second])[:, None],
            wrong.SAME_FOR_ALL: second.expand(4, 1, 3),
            wrong.ORDER_LOST: torch.stack([first, first, second, second])[:, None],
        },
    )


@exercise(
    7,
    title=Text("Carry a constant through a layer", "把常數帶過一層"),
    minutes=10,
    level="core",
    hint=Text(
        "Multiply W (x + s) + b out. Which part does not depend on x? In place: which operators change a tensor "
        "instead of making a new one?",
        "把 W (x + s) + b 展開。哪一部分與 x 無關？要在原地改：哪些運算子會改動張量本身，而不是做出新的？",
    ),
)
def check_exercise_7() -> None:
    layer = nn.Linear(4, 4).double()
    layer.weight.data, layer.bias.data = random(4, 4, seed=60), random(4, seed=61)
    shift = random(4, seed=62)
    given = (layer.weight.detach().clone(), layer.bias.detach().clone(), shift)
    carry_through(layer, shift)
    expect(
        layer.bias,
        broken_carry(*given, None),
        atol=CLOSE,
        what=Text("the bias of the layer", "這一層的偏差"),
        mistakes={wrong.NOT_IN_PLACE: given[1]} | {wrong.CARRY[name]: broken_carry(*given, name) for name in CARRY_MISTAKES},
    )
    expect(layer.weight, given[0], what=Text("the weight of the layer", "這一層的權重"))
    wide = nn.Linear(3, 5).double()
    wide.weight.data, wide.bias.data = random(5, 3, seed=63), random(5, seed=64)
    expected = broken_carry(copy.deepcopy(wide.weight.detach()), wide.bias.detach().clone(), random(3, seed=65), None)
    carry_through(wide, random(3, seed=65))
    expect(wide.bias, expected, atol=CLOSE, what=Text("the bias of a layer that is not square", "不是方形的層的偏差"))
