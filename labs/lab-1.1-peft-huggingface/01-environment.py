# %% [markdown] lang="en"
# # 1. The environment, and what a parameter costs
#
# **Question.** A model of seven billion parameters is too big to be trained on your GPU. What has to fit there, and how many bytes does each parameter take?
#
# | | |
# |---|---|
# | You build | a table of what works on this machine, the bytes of a training step as a formula and as they are held, and the count of LoRA's parameters on Llama 2 |
# | You need | twenty seconds on two CPU cores, 1 GB of memory |
# | You should see | what works on this machine; where the bytes of a training step are; how many parameters LoRA trains on Llama-2-7B |
#
# This lab is the road with the library: five notebooks, each a fresh process that reads what the one before has written. What LoRA does
# inside is written from the paper in `lab-1.1.1-lora`.

# %% [markdown] lang="zh-TW"
# # 1. 環境，以及一個參數的成本
#
# **問題。** 七十億個參數的模型太大，沒辦法在你的 GPU 上訓練。訓練時到底有哪些東西一定要放在 GPU 裡？每個參數各占多少位元組？
#
# | | |
# |---|---|
# | 你會做出 | 一張這台機器能跑什麼的表、一個訓練步驟要多少位元組（公式算的，與實際占用的）、LoRA 在 Llama 2 上的參數量 |
# | 你需要 | 兩個 CPU 核心跑二十秒左右，1 GB 記憶體 |
# | 你應該看到 | 這台機器能跑什麼；一個訓練步驟的記憶體用在哪裡；LoRA 在 Llama-2-7B 上訓練的參數有多少 |
#
# 這個實驗走的是現成函式庫的路線：五本筆記本，每一本都是全新的行程，讀取前一本寫下的檔案。LoRA 內部怎麼運作，
# 由 `lab-1.1.1-lora` 照著論文寫出來。

# %%
import gc
import json
import platform
from importlib import metadata

import torch
from transformers import LlamaConfig

from lora_setup import lora_config, lora_model
from lora_targets import lora_parameters, target_linears
from onepiece import lab, world
from onepiece.adaptation import base_identity, distance, load_base, targeted_shapes
from onepiece.course.errors import UserError
from onepiece.course.text import Text, tr
from onepiece.data import IGNORED, Collator, InstructionDataset, plain_prompt
from onepiece.measure import peak_memory, timed
from onepiece.models import count_parameters, load_model, memory_estimate, meta_model
from onepiece.records import Record
from onepiece.training import causal_lm_loss, make_optimizer, to_device
from peft_figures import memory_of_plans
from training_cost import held_bytes, nf4_bytes, saved_for_backward, tensor_bytes, training_bytes

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits

# %% [markdown] lang="en"
# ## Who takes part
#
# Seven packages, one job each: `torch` computes, `transformers` holds models and tokenizers, `peft` puts adapters into them, `trl` trains on
# conversations, `accelerate` places tensors on devices, `bitsandbytes` stores weights in 8 or 4 bits, `datasets` reads data. A result without their versions cannot be repeated.
#
# Two words that will come up all the time. A *tokenizer* cuts text into **tokens**, words or parts of words that each have a number: models read and write
# those numbers. An **adapter** is a small set of new weights beside the frozen ones of a model; only the new ones are trained.

# %% [markdown] lang="zh-TW"
# ## 用到哪些套件
#
# 七個套件各司其職：`torch` 負責計算，`transformers` 提供模型與分詞器，`peft` 把 adapter 放進模型，`trl` 用對話資料訓練，`accelerate` 決定張量放在哪個裝置，
# `bitsandbytes` 用 8 或 4 個位元存放權重，`datasets` 讀取資料。沒有寫下版本的結果，沒有人能重現。
#
# 有兩個詞會一直出現。*分詞器*（tokenizer）把文字切成 **token**，也就是一個個詞或詞的一部分，每個都有編號；模型讀的、寫的都是這些編號。
# **adapter** 是放在凍結的權重旁邊的一小組新權重，訓練時只動這一組。

# %%
def version(package):
    """Its installed version, or why there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return tr("not installed", "沒有安裝")


packages = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")
base_name, revision = base_identity(settings)
versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
lab.table([tr("package", "套件"), tr("version", "版本")], versions.items())
no_revision = tr(
    "none: a directory of this machine (a shipped model is checked by hash)",
    "沒有：它是這台機器上的目錄（課程附上的模型以雜湊檢查）",
)
lab.table(
    [tr("this run", "這次執行"), ""],
    [
        [tr("base model", "基礎模型"), base_name],
        [tr("revision", "版本（commit）"), revision or no_revision],
        [tr("device", "裝置"), settings.device],
        [tr("type of weights", "權重的型別"), settings.dtype],
    ],
)

# %% [markdown] lang="en"
# A hub model is loaded at a *revision*, the full hash of a commit. A name alone means "whatever is there today".
#
# ## What works here?
#
# A type is only as good as the kernels for it on your device, and that is best asked by trying. Each row loads the base anew, counts the
# bytes of its weights and asks the same 32 questions. After each token a model gives every token of its vocabulary a score for coming next: a
# **logit**. The largest change of a logit, as a share of the largest logit, says how near a row stays to float32. What fails says why.

# %% [markdown] lang="zh-TW"
# hub 上的模型要指定 *revision*，也就是 commit 的完整雜湊。只寫名字，意思是「今天那裡放什麼就用什麼」。
#
# ## 這裡能跑什麼？
#
# 一種型別好不好用，要看你的裝置有沒有對應的 kernel；最好的辦法就是試試看。下面每一列都重新載入基礎模型，數一數權重的位元組，
# 再問同樣的 32 題。模型每讀完一個 token，就替詞彙表裡的每個 token 打一個「接下來輪到它」的分數，叫做 **logit**。
# logit 最大的變化（除以最大的 logit）說明這一列離 float32 有多遠。不能用的，會說明原因。

# %%
render = None if settings.chat else plain_prompt
questions = [item for family in world.TAUGHT for item in world.items(family, 4, seed=0, split="held-out")]


def probe(dtype, quantized):
    """Bytes of the weights, logits, milliseconds of a forward pass; for one way to hold the base."""
    where = {"device": settings.device, "dtype": dtype, "quantized": quantized}
    model, tokenizer = load_model(base_name, revision=revision or None, **where)
    records = [Record.of(item.messages, item.answer) for item in questions]
    examples = InstructionDataset(records, tokenizer, render_prompt=render)
    batch = to_device(Collator(tokenizer.pad_token_id)([examples[index] for index in range(len(examples))]), model)
    counts = batch["labels"] != IGNORED  # padding sees nothing, and what a kernel puts there means nothing
    with torch.inference_mode():
        logits = model(**batch).logits[counts].float().cpu()  # (batch, seq, vocabulary) -> (answer tokens, vocabulary)
        milliseconds = timed(lambda: model(**batch), repeats=3).median * 1e3
    return memory_estimate(model, batch_size=1, seq_len=1).weights, logits, milliseconds


ways = {
    "float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None), "float16": (torch.float16, None),
    "int8": (settings.dtype, "int8"), "nf4": (settings.dtype, "nf4"),
}  # fmt: skip
works, reasons = {}, {}
for name, way in lab.progress(ways.items()):
    try:
        works[name] = probe(*way)
    except UserError as error:  # bitsandbytes has no kernels for this device, or is not there
        reasons[name] = str(error.cause)
    except RuntimeError as error:  # PyTorch: "not implemented for 'Half'"
        reasons[name] = str(error).splitlines()[0]
    gc.collect()

# %%
exact_weights, exact_logits, _ = works["float32"]
rows = []
for name in ways:
    if name in works:
        weights, logits, milliseconds = works[name]
        change = f"{distance(logits, exact_logits):.1e}"
        rows.append([name, f"{weights / 1e6:.3f}", f"{weights / exact_weights:.2f}", change, f"{milliseconds:.1f}"])
    else:
        rows.append([name, "–", "–", reasons[name], "–"])
lab.table(
    [
        *(tr("weights as", "權重存成"), "MB", tr("of float32", "相對於 float32")),
        *(tr("change of a logit", "logit 的變化"), "ms"),
    ],
    rows,
)
lab.say(
    f"""{len(works)} of {len(ways)} ways work here. Quantised weights are not a half, a quarter or an eighth of the
whole: embeddings and norms stay as they are, and in a small model they weigh more. Times depend on this machine; no gate looks at them.""",
    f"""{len(ways)} 種做法裡有 {len(works)} 種可以用。量化後的權重並不剛好是一半、四分之一或八分之一：
embedding 和 norm 維持原樣，模型愈小，它們的比重愈大。時間取決於這台機器，沒有關卡看它。""",
)

# %% [markdown] lang="en"
# ## Predict
#
# We train one step of the base in float32 with AdamW and add up every byte that stays: weights, gradients, the optimizer's state.
# How many bytes is that per trained parameter?
#
# And how many parameters does LoRA train on Llama-2-7B, if it adapts the query and value matrices of all 32 layers (4,096 × 4,096 each) at rank 8?
# (In attention three matrices make three vectors of each token: a **query** (q), what it looks for, a **key** (k), what it can be found by, and a **value** (v),
# what it passes on. LoRA learns the change of a matrix as a tall matrix times a flat one; the **rank** is how many columns the tall one has, and rows the flat one.)
# Write into `predictions.toml`:
#
# ```toml
# bytes_per_trained_parameter = 8
# trained_parameters_7b = 1000000
# ```
#
# <details><summary>A hint</summary>
#
# What does AdamW remember of each gradient, beside the gradient itself? And how many numbers have a tall and a flat matrix together, if their
# product is as large as the matrix?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 我們用 AdamW 以 float32 訓練基礎模型一步，把留下來的每個位元組加起來：權重、梯度、最佳化器的狀態。
# 平均每個受訓練的參數是多少位元組？
#
# 另外，在 Llama-2-7B 上，如果 LoRA 以 rank 8 調整全部 32 層的 query 和 value 矩陣（各 4,096 × 4,096），總共訓練多少參數？
# （注意力用三個矩陣，替每個 token 算出三個向量：**query**（q）代表它在找什麼，**key**（k）讓別人找得到它，**value**（v）是它要傳出去的內容。
# LoRA 把矩陣的改變學成「高瘦矩陣乘上矮胖矩陣」；**rank**（秩）就是高瘦矩陣的行數，也是矮胖矩陣的列數。）
# 寫進 `predictions.toml`：
#
# ```toml
# bytes_per_trained_parameter = 8
# trained_parameters_7b = 1000000
# ```
#
# <details><summary>提示</summary>
#
# 除了梯度本身，AdamW 還替每個梯度記住什麼？至於 LoRA：乘出來要跟原本的矩陣一樣大，高瘦矩陣和矮胖矩陣合起來是幾個數字？
# </details>

# %% [markdown] lang="en"
# ## One training step, byte by byte
#
# The formula has three lines, and the last two count trained parameters only:

# %% [markdown] lang="zh-TW"
# ## 逐一數出一個訓練步驟的位元組
#
# 公式只有三行，而後面兩行只算受訓練的參數：

# %%
lab.source(training_bytes)

# %%
def one_step(model, batch, make=make_optimizer):
    """A step that keeps its gradients, by AdamW if nothing else is asked for; returns the optimizer."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = make(trained, 1e-3, 0.0, (0.9, 0.999))
    causal_lm_loss(model, batch).backward()
    optimizer.step()
    return optimizer


def with_momentum(weights, rate, *_):
    """The control: an optimizer that remembers one mean instead of two."""
    return torch.optim.SGD(weights, rate, momentum=0.9)


def bytes_per_parameter(model, optimizer, *, trained):
    """What is held for the trained (or the frozen) parameters, divided by their number."""
    chosen = [weight for weight in model.parameters() if weight.requires_grad == trained]
    beside = [tensor for weight in chosen for tensor in (weight.grad, *optimizer.state.get(weight, {}).values())]
    held = [*chosen, *(tensor for tensor in beside if isinstance(tensor, torch.Tensor) and tensor.dim() > 0)]
    return tensor_bytes(held) / sum(weight.numel() for weight in chosen)


def measure_step(model):
    """One step: bytes by formula and held, per parameter, and on top of the weights, estimated and at the peak."""
    count = count_parameters(model)
    estimate = memory_estimate(model, batch_size=settings.step_batch, seq_len=settings.step_seq)
    kept = []
    peak = peak_memory(lambda: kept.append(one_step(model, batch)), settings.device)
    return {
        "count": count,
        "formula": training_bytes(count.total - count.trainable, count.trainable),
        "held": held_bytes(model, kept[0]),
        "estimate": estimate.total - estimate.weights,
        "peak": peak,
        "per trained": bytes_per_parameter(model, kept[0], trained=True),
        "per frozen": bytes_per_parameter(model, kept[0], trained=False) if count.trainable < count.total else None,
    }


token_ids = torch.randint(10, 200, (settings.step_batch, settings.step_seq), generator=torch.Generator().manual_seed(0))
batch = {"input_ids": token_ids, "labels": token_ids}
steps = {}
for name, make in {"full": lambda: load_base(settings)[0], "LoRA": lambda: lora_model(settings, seed=0)}.items():
    steps[name] = measure_step(make())
    gc.collect()

rows = []
for name, step in steps.items():
    row = [name]
    for part in ("weights", "gradients", "optimizer"):
        row.append(f"{getattr(step['formula'], part):,.0f} / {getattr(step['held'], part):,}")
    rows.append([*row, f"{step['estimate'] / 1e6:.2f} / {step['peak'] / 1e6:.2f}"])
parts = (("weights", "權重"), ("gradients", "梯度"), ("AdamW", "AdamW"))
lab.table(
    [
        tr("training", "訓練方式"),
        *(tr(f"{en}: formula / held", f"{zh}：公式／實際") for en, zh in parts),
        tr("whole step, MB: estimate / peak", "整個步驟 MB：估計／峰值"),
    ],
    rows,
)

# %%
full, lora = steps["full"], steps["LoRA"]
model, _ = load_base(settings)
one_mean = bytes_per_parameter(model, one_step(model, batch, with_momentum), trained=True)
lab.record("bytes_per_trained_parameter", full["per trained"])
lab.record("bytes_per_trained_parameter", one_mean, variant="one_mean")
lab.record("bytes_per_trained_parameter", lora["per frozen"], variant="frozen")
everything_trained = training_bytes(0, lora["count"].total).total
lab.record("step_bytes_difference", max(abs(step["formula"].total - step["held"].total) for step in steps.values()))
lab.record("step_bytes_difference", abs(everything_trained - lora["held"].total), variant="frozen_pay_too")
for name, step in steps.items():
    lab.record("step_peak_ratio", step["peak"] / step["estimate"], variant=name)
guess = lab.predict("bytes_per_trained_parameter")
lab.say(
    f"""- A trained parameter takes **{full["per trained"]:g} bytes**{"" if guess is None else f" (you guessed {guess:g})"}: \
4 for itself, 4 for its gradient, 8 for AdamW's two means. A frozen one takes {lora["per frozen"]:g}. \
(With SGD and momentum, which keeps one mean: {one_mean:g}.)
- The last column adds activations, what the forward pass keeps for the backward pass, and leaves the weights out. \
Measured peak over estimate: {full["peak"] / full["estimate"]:.2f} for full fine-tuning, \
{lora["peak"] / lora["estimate"]:.2f} with LoRA.
  In full fine-tuning activations are given back one by one while gradients are made, so both are never whole at once.""",
    f"""- 訓練一個參數要 **{full["per trained"]:g} 位元組**{"" if guess is None else f"（你猜 {guess:g}）"}：自己 4、梯度 4、AdamW 的兩個平均共 8。\
凍結的參數只要 {lora["per frozen"]:g}。（SGD 加動量只記一個平均，是 {one_mean:g}。）
- 最後一欄加上了激勵值（activation），也就是前向傳播替反向傳播留下來的東西，並扣掉權重。量到的峰值除以估計：全參數微調是 {full["peak"] / full["estimate"]:.2f}，LoRA 是 {lora["peak"] / lora["estimate"]:.2f}。
  全參數微調一邊算梯度、一邊釋放用過的激勵值，所以這兩部分不會同時占滿記憶體。""",
)

# %% [markdown] lang="en"
# ## Do activations care who is trained?
#
# The estimate of the activations is a formula of shapes: it does not know which weights are frozen. Autograd does. It hands over every tensor that it keeps for the backward
# pass, so we can add up what it really keeps:

# %% [markdown] lang="zh-TW"
# ## 激勵值和訓練哪些參數有關嗎？
#
# 激勵值的估計是由形狀算出來的公式，它不知道哪些權重凍結了。autograd 知道：它為反向傳播保留的每個張量都可以攔下來，所以我們能把它真正保留的加起來：

# %%
lab.source(saved_for_backward)

# %%
from peft import get_peft_model


def lora_on(kinds):
    """The base with a fresh LoRA on some kinds of layers."""
    fresh, _ = load_base(settings)
    return get_peft_model(fresh, lora_config(fresh, settings, kinds))


ways = {
    "full": load_base(settings)[0],
    "LoRA, all linear": lora_on(None),
    "LoRA, q and v": lora_on(("q_proj", "v_proj")),
}
size = {"batch_size": settings.step_batch, "seq_len": settings.step_seq}
by_formula = memory_estimate(ways["full"], **size).activations  # the same for all of them
checkpointed = memory_estimate(ways["full"], **size, checkpointing=True).activations
saved = {}
for name, model in ways.items():
    saved[name] = saved_for_backward(model.train(), lambda model=model: causal_lm_loss(model, batch))
ways.clear()

lab.record("activation_formula_error", abs(by_formula / saved["full"] - 1))
lab.record("activation_formula_error", abs(checkpointed / saved["full"] - 1), variant="checkpointed")
for name, held in saved.items():
    lab.record("saved_share", held / saved["full"], variant=name)
in_megabytes = f"{by_formula / 1e6:.2f}"
lab.table(
    [
        *(tr("trained", "訓練什麼"), tr("kept by autograd, MB", "autograd 保留的 MB")),
        *(tr("of full fine-tuning", "相對於全參數微調"), tr("formula, MB", "公式 MB"), tr("formula / kept", "公式／實際")),
    ],
    [
        (name, f"{held / 1e6:.2f}", f"{held / saved['full']:.0%}", in_megabytes, f"{by_formula / held:.2f}")
        for name, held in saved.items()
    ],
)
fewest = min(saved, key=saved.get)
lab.say(
    f"""- The formula is {abs(by_formula / saved["full"] - 1):.0%} off in full fine-tuning, and further with LoRA \
({by_formula / saved[fewest]:.2f} times what is kept with {fewest}): take it for an upper bound there.
- LoRA needs most of the activations too, {saved["LoRA, all linear"] / saved["full"]:.0%} on all linear layers and \
{saved["LoRA, q and v"] / saved["full"]:.0%} on q and v: gradients pass through the frozen layers on their way to the \
adapters below. What goes is the input of each layer
  whose weight gets no gradient and which has no adapter. So LoRA saves gradients and optimizer state; activations are another matter.""",
    f"""- 全參數微調時，公式差了 {abs(by_formula / saved["full"] - 1):.0%}；用 LoRA 時差得更多（{fewest}：公式是實際的 {by_formula / saved[fewest]:.2f} 倍），只能當作上限。
- LoRA 也需要大部分的激勵值：加在所有線性層是全參數微調的 {saved["LoRA, all linear"] / saved["full"]:.0%}，只加在 q 和 v 是 \
{saved["LoRA, q and v"] / saved["full"]:.0%}。因為梯度要穿過凍結的層，才到得了更下面的 adapter。
  省下來的，是「權重不需要梯度、又沒有 adapter」的那些層的輸入。所以 LoRA 省的是梯度與最佳化器的狀態；激勵值是另一回事。""",
)

# %% [markdown] lang="en"
# ## The same for seven billion
#
# On the `meta` device a model has shapes and no numbers, so Llama 2 takes no memory and a second. `peft` works on it as on any other.

# %% [markdown] lang="zh-TW"
# ## 換成七十億個參數
#
# 在 `meta` 裝置上，模型只有形狀、沒有數值，所以 Llama 2 不占記憶體，一秒就好。`peft` 照樣能用。

# %%
llama = LlamaConfig()  # its defaults are Llama-2-7B


def llama_with_lora(kinds):
    """(what peft trains, what the formula says) on Llama-2-7B."""
    model = meta_model(llama, torch.bfloat16)
    shapes = targeted_shapes(model, target_linears(model, kinds)).values()  # (in, out) of each
    with torch.device("meta"):
        adapted = get_peft_model(model, lora_config(model, settings, kinds))
    return count_parameters(adapted).trainable, lora_parameters(shapes, settings.rank)


chosen = {"q, v": ("q_proj", "v_proj"), "q, k, v, o": ("q_proj", "k_proj", "v_proj", "o_proj"), "all linear": None}
base_count = count_parameters(meta_model(llama))
counts = {name: llama_with_lora(kinds) for name, kinds in chosen.items()}
lab.table(
    [
        *(tr(f"adapted matrices, r = {settings.rank}", f"調整的矩陣，r = {settings.rank}"), "peft"),
        *(tr("formula", "公式"), tr("share of the base", "占基礎模型")),
    ],
    [
        [name, f"{trained:,}", f"{formula:,}", f"{trained / base_count.total:.4%}"]
        for name, (trained, formula) in counts.items()
    ],
)
lab.record("trained_parameters_7b", counts["q, v"][0])
lab.record("trained_parameters_7b", counts["q, v"][1], variant="formula")
lab.record("trained_parameters_7b", counts["all linear"][0], variant="all_linear")

# %%
linear = base_count.by_kind["attention"] + base_count.by_kind["mlp"]
others = base_count.total - linear  # embeddings, norms and the head, which stay in bfloat16
nf4_average = (linear * nf4_bytes() + others * 2) / base_count.total
trained = counts["q, v"][0]
plans = {
    "full, float32": (training_bytes(0, base_count.total), torch.float32),
    "LoRA q,v, bfloat16 base": (training_bytes(base_count.total, trained, frozen_bytes=2), torch.bfloat16),
    "QLoRA q,v, nf4 base": (training_bytes(base_count.total, trained, frozen_bytes=nf4_average), torch.bfloat16),
}
bills = {}
for name, (held, dtype) in plans.items():
    estimate = memory_estimate(meta_model(llama, dtype), batch_size=1, seq_len=512, checkpointing=True)
    bills[name] = (held.weights, held.gradients, held.optimizer, estimate.activations)
totals = {name: sum(parts) / 2**30 for name, parts in bills.items()}
lab.figure(
    "memory-7b",
    memory_of_plans(bills, gpus=(16, 24, 80)),
    Text(
        en="What training Llama-2-7B holds, by formula. Dotted: GPUs of 16, 24 and 80 GiB.",
        zh_tw="用公式算出訓練 Llama-2-7B 要占用多少記憶體。點線：16、24、80 GiB 的 GPU。",
    ),
)

# %%
guess = lab.predict("trained_parameters_7b")
in_full, in_lora, in_qlora = totals.values()
lab.say(
    f"""- LoRA on q and v trains **{trained:,}** of {base_count.total:,} \
parameters{"" if guess is None else f" (you guessed {guess:,.0f})"}: one in {base_count.total / trained:,.0f}. \
Library and formula agree.
- Full fine-tuning holds {in_full:.0f} GiB, LoRA {in_lora:.1f} GiB, QLoRA {in_qlora:.1f} GiB. \
LoRA removes gradients and optimizer state; what is left is the frozen base, and
  QLoRA makes that one smaller: {nf4_bytes() * 8:.3f} bits per matrix entry, scales included.
- These are sums of tensors. A real run adds the CUDA context, buffers of kernels and fragmentation: expect more.""",
    f"""- 只調整 q 和 v 的 LoRA，在 {base_count.total:,} 個參數中訓練 **{trained:,}** 個{"" if guess is None else f"（你猜 {guess:,.0f}）"}：每 \
{base_count.total / trained:,.0f} 個才訓練一個。函式庫與公式一致。
- 全參數微調要占用 {in_full:.0f} GiB，LoRA {in_lora:.1f} GiB，QLoRA {in_qlora:.1f} GiB。LoRA 拿掉了梯度與最佳化器的狀態，剩下的是凍結的基礎模型；
  QLoRA 再把它縮小：每個矩陣元素 {nf4_bytes() * 8:.3f} 個位元，包含 scale。
- 這些是張量大小的總和。實際執行還要加上 CUDA context、kernel 的緩衝區和記憶體碎片，會再多一些。""",
)
found = {"versions": versions, "works": sorted(works), "reasons": reasons}
_ = lab.artifact("environment.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - On the `tiny` model LoRA of rank 8 is a large share of all parameters, because its matrices are small: A and B grow with their sides, the
#   matrix with its area. The saving is a matter of size, and only the 7B count shows it.
# - The number of parameters says nothing about quality. That is measured in notebook 4.
#
# **Exercises.** 1 (`training_cost.py`: the bytes of a training step) and 2 (`lora_targets.py`: LoRA's parameters) belong here. Check them with
# `nox -s check -- lab-1.1-peft-huggingface`.
#
# **Next:** a model, its tokenizer, and data that it can learn from without cheating.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 在 `tiny` 模型上，rank 8 的 LoRA 占了不小的比例，因為它的矩陣很小：A 和 B 隨邊長成長，矩陣則隨邊長的乘積成長。
#   省多少取決於規模，只有 7B 的計數看得出來。
# - 參數量與品質無關。品質由第 4 本筆記本來量。
#
# **練習。** 練習 1（`training_cost.py`：訓練一步要多少位元組）和練習 2（`lora_targets.py`：LoRA 的參數量）屬於這一本。用
# `nox -s check -- lab-1.1-peft-huggingface` 檢查。
#
# **下一步：** 模型、分詞器，以及可以學、又不能作弊的資料。
