# %% [markdown] lang="en"
# # 1. The environment, and what a parameter costs
#
# **Question.** A model of seven billion parameters does not fit on your GPU for training. How much of it must fit, and who pays for what?
#
# | | |
# |---|---|
# | You build | a table of what works on this machine, the bytes of a training step as a formula and as they are held, and the count of LoRA's parameters on Llama 2 |
# | You need | twenty seconds on two CPU cores, 1 GB of memory |
# | You should see | 16 bytes for a trained parameter, 4 for a frozen one; LoRA on Llama-2-7B training one parameter in 1,600 |
#
# This lab is the road with the library: five notebooks, each a fresh process that reads what the one before has written. What LoRA does
# inside is written from the paper in `lab-1.1.1-lora`.

# %% [markdown] lang="zh-TW"
# # 1. 環境，以及一個參數的代價
#
# **問題。** 七十億個參數的模型，放不進你的 GPU 來訓練。到底有多少非放進去不可？誰要付多少？
#
# | | |
# |---|---|
# | 你會做出 | 一張這台機器能跑什麼的表、一個訓練步驟要多少位元組（公式與實際持有）、LoRA 在 Llama 2 上的參數量 |
# | 你需要 | 兩個 CPU 核心跑二十秒左右，1 GB 記憶體 |
# | 你應該看到 | 訓練一個參數要 16 位元組，凍結的只要 4；在 Llama-2-7B 上，LoRA 大約每 1,600 個參數只訓練一個 |
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
from onepiece.figures import COLORS, subplots
from onepiece.measure import peak_memory, timed
from onepiece.models import count_parameters, load_model, memory_estimate, meta_model
from onepiece.records import Record
from onepiece.training import causal_lm_loss, make_optimizer, to_device
from training_cost import held_bytes, nf4_bytes, tensor_bytes, training_bytes

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits

# %% [markdown] lang="en"
# ## Who takes part
#
# Six packages, one job each: `torch` computes, `transformers` holds models and tokenizers, `peft` puts adapters into them, `accelerate`
# places tensors on devices, `bitsandbytes` stores weights in 8 or 4 bits, `datasets` reads data. A result without their versions cannot be repeated.

# %% [markdown] lang="zh-TW"
# ## 有哪些角色
#
# 六個套件各司其職：`torch` 負責計算，`transformers` 提供模型與分詞器，`peft` 把 adapter 放進模型，`accelerate` 決定張量放在哪個裝置，
# `bitsandbytes` 用 8 或 4 個位元存放權重，`datasets` 讀取資料。沒有寫下版本的結果，誰也無法重現。

# %%
def version(package):
    """Its installed version, or why there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return tr("not installed", "沒有安裝")


packages = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")
base_name, revision = base_identity(settings)
versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
lab.table([tr("package", "套件"), tr("version", "版本")], versions.items())
lab.table(
    [tr("this run", "這次執行"), ""],
    [
        [tr("base model", "基礎模型"), base_name],
        [tr("revision", "版本（commit）"), revision or tr("none: a directory of this machine (a shipped model is checked by hash)", "沒有：它是這台機器上的目錄（課程附上的模型以雜湊檢查）")],
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
# bytes of its weights and asks the same 32 questions; the largest change of a logit, as a share of the largest logit, says how near it
# stays to float32. What fails says why.

# %% [markdown] lang="zh-TW"
# hub 上的模型要指定 *revision*，也就是 commit 的完整雜湊。只寫名字，意思是「今天那裡放什麼就用什麼」。
#
# ## 這裡能跑什麼？
#
# 一種型別好不好用，要看你的裝置有沒有對應的 kernel；最好的辦法就是試試看。下面每一列都重新載入基礎模型，數一數權重的位元組，
# 再問同樣的 32 題；logit 最大的變化（除以最大的 logit）說明它離 float32 有多遠。不能用的，會說明原因。

# %%
render = None if settings.chat else plain_prompt
questions = [item for family in world.TAUGHT for item in world.items(family, 4, seed=0, split="held-out")]


def probe(dtype, quantized):
    """Bytes of the weights, logits, milliseconds of a forward pass; for one way to hold the base."""
    model, tokenizer = load_model(base_name, revision=revision or None, device=settings.device, dtype=dtype, quantized=quantized)
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
        change = distance(logits, exact_logits)
        rows.append([name, f"{weights / 1e6:.3f}", f"{weights / exact_weights:.2f}", f"{change:.1e}", f"{milliseconds:.1f}"])
    else:
        rows.append([name, "–", "–", reasons[name], "–"])
lab.table([tr("weights as", "權重存成"), "MB", tr("of float32", "相對於 float32"), tr("change of a logit", "logit 的變化"), "ms"], rows)
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
# How many bytes is that per trained parameter? And how many parameters does LoRA train on Llama-2-7B, if it adapts the query and value matrices
# of all 32 layers (4,096 × 4,096 each) at rank 8? Write into `predictions.toml`:
#
# ```toml
# bytes_per_trained_parameter = 8
# trained_parameters_7b = 1000000
# ```
#
# <details><summary>A hint</summary>
#
# AdamW keeps a running mean of the gradient, and one of its square. And a product of a tall and a flat matrix has far fewer numbers than
# what it makes.
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 我們用 AdamW 以 float32 訓練基礎模型一步，把留下來的每個位元組加起來：權重、梯度、最佳化器的狀態。
# 平均每個受訓練的參數是多少位元組？另外，在 Llama-2-7B 上，如果 LoRA 以 rank 8 調整全部 32 層的 query 和 value 矩陣
# （各 4,096 × 4,096），總共訓練多少參數？寫進 `predictions.toml`：
#
# ```toml
# bytes_per_trained_parameter = 8
# trained_parameters_7b = 1000000
# ```
#
# <details><summary>提示</summary>
#
# AdamW 會記住梯度的移動平均，還有梯度平方的移動平均。至於 LoRA：一個高瘦矩陣乘上一個矮胖矩陣，用到的數字比乘出來的矩陣少得多。
# </details>

# %% [markdown] lang="en"
# ## One training step, byte by byte
#
# The formula has three lines, and only trained parameters pay for the last two:

# %% [markdown] lang="zh-TW"
# ## 一個訓練步驟，一個位元組一個位元組地數
#
# 公式只有三行，而後面兩行只有受訓練的參數要付：

# %%
lab.source(training_bytes)

# %%
def one_step(model, batch):
    """A step of AdamW that keeps its gradients; returns the optimizer."""
    optimizer = make_optimizer([weight for weight in model.parameters() if weight.requires_grad], 1e-3, 0.0, (0.9, 0.999))
    causal_lm_loss(model, batch).backward()
    optimizer.step()
    return optimizer


def bytes_per_parameter(model, optimizer, *, trained):
    """What is held for the trained (or the frozen) parameters, divided by their number."""
    chosen = [weight for weight in model.parameters() if weight.requires_grad == trained]
    beside = [tensor for weight in chosen for tensor in (weight.grad, *optimizer.state.get(weight, {}).values())]
    held = [*chosen, *(tensor for tensor in beside if isinstance(tensor, torch.Tensor) and tensor.dim() > 0)]
    return tensor_bytes(held) / sum(weight.numel() for weight in chosen)


def measure_step(model):
    """(formula, held, estimate and peak of what a step adds to the weights, share of activations, bytes per parameter)."""
    count = count_parameters(model)
    token_ids = torch.randint(10, 200, (settings.step_batch, settings.step_seq), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": token_ids, "labels": token_ids}
    estimate = memory_estimate(model, batch_size=settings.step_batch, seq_len=settings.step_seq)
    kept = []
    peak = peak_memory(lambda: kept.append(one_step(model, batch)), settings.device)
    formula, held = training_bytes(count.total - count.trainable, count.trainable), held_bytes(model, kept[0])
    per_trained = bytes_per_parameter(model, kept[0], trained=True)
    per_frozen = bytes_per_parameter(model, kept[0], trained=False) if count.trainable < count.total else None
    return formula, held, (estimate.total - estimate.weights, peak), estimate.activations / estimate.total, (per_trained, per_frozen)


steps = {}
for name, make in {"full": lambda: load_base(settings)[0], "lora": lambda: lora_model(settings, seed=0)}.items():
    steps[name] = measure_step(make())
    gc.collect()

rows = []
for name, (formula, held, (estimate, peak), *_) in steps.items():
    parts = zip((formula.weights, formula.gradients, formula.optimizer), (held.weights, held.gradients, held.optimizer), strict=True)
    rows.append([name, *(f"{by_formula:,.0f} / {really:,}" for by_formula, really in parts), f"{estimate / 1e6:.2f} / {peak / 1e6:.2f}"])
lab.table([tr("training", "訓練方式"), *(tr(f"{en}: formula / held", f"{zh}：公式／實際") for en, zh in (("weights", "權重"), ("gradients", "梯度"), ("AdamW", "AdamW"))), tr("whole step, MB: estimate / peak", "整個步驟 MB：估計／峰值")], rows)

# %%
_, _, (full_estimate, full_peak), full_activations, (per_trained, _) = steps["full"]
_, _, (lora_estimate, lora_peak), lora_activations, (_, per_frozen) = steps["lora"]
lab.record("bytes_per_trained_parameter", per_trained)
lab.record("bytes_per_trained_parameter", per_frozen, variant="frozen")
lab.record("step_peak_ratio", full_peak / full_estimate, variant="full")
lab.record("step_peak_ratio", lora_peak / lora_estimate, variant="lora")
guess = lab.predict("bytes_per_trained_parameter")
lab.say(
    f"""- A trained parameter costs **{per_trained:g} bytes**{"" if guess is None else f" (you guessed {guess:g})"}: 4 for itself, 4 for its gradient, 8 for AdamW's two means. A frozen one costs {per_frozen:g}.
- The last column adds activations and leaves the weights out. Measured peak over estimate: {full_peak / full_estimate:.2f} for full fine-tuning, {lora_peak / lora_estimate:.2f} with LoRA.
  In full fine-tuning activations are given back one by one while gradients are made, so both are never whole at once; LoRA has little gradient to
  make, and its adapters keep activations of their own.
- Activations hardly care who is trained, because frozen layers must pass gradients on to the adapters below them. By the estimate they are {full_activations:.0%} of all that
  full fine-tuning holds here, and {lora_activations:.0%} with LoRA.""",
    f"""- 訓練一個參數要 **{per_trained:g} 位元組**{"" if guess is None else f"（你猜 {guess:g}）"}：自己 4、梯度 4、AdamW 的兩個平均共 8。凍結的參數只要 {per_frozen:g}。
- 最後一欄加上了激勵值（activation）、扣掉了權重。量到的峰值除以估計：全參數微調是 {full_peak / full_estimate:.2f}，LoRA 是 {lora_peak / lora_estimate:.2f}。
  全參數微調在產生梯度的同時，會一個一個釋放激勵值，兩者從不同時完整存在；LoRA 要產生的梯度很少，adapter 自己又有一些激勵值。
- 激勵值幾乎不管誰在訓練，因為凍結的層也得把梯度往下傳給下面的 adapter。照估計，全參數微調在這裡持有的記憶體有 {full_activations:.0%} 是激勵值，
  用 LoRA 時是 {lora_activations:.0%}。""",
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
from peft import get_peft_model

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
    [tr(f"adapted matrices, r = {settings.rank}", f"調整的矩陣，r = {settings.rank}"), "peft", tr("formula", "公式"), tr("share of the base", "占基礎模型")],
    [[name, f"{trained:,}", f"{formula:,}", f"{trained / base_count.total:.4%}"] for name, (trained, formula) in counts.items()],
)
lab.record("trained_parameters_7b", counts["q, v"][0])
lab.record("trained_parameters_7b", counts["q, v"][1], variant="formula")
lab.record("trained_parameters_7b", counts["all linear"][0], variant="all_linear")

# %%
linear = base_count.by_kind["attention"] + base_count.by_kind["mlp"]
nf4_average = (linear * nf4_bytes() + (base_count.total - linear) * 2) / base_count.total  # embeddings, norms and the head stay in bfloat16
trained = counts["q, v"][0]
plans = {
    "full, float32": (training_bytes(0, base_count.total), torch.float32),
    "LoRA q,v, bfloat16 base": (training_bytes(base_count.total, trained, frozen_bytes=2), torch.bfloat16),
    "QLoRA q,v, nf4 base": (training_bytes(base_count.total, trained, frozen_bytes=nf4_average), torch.bfloat16),
}
figure, axes = subplots(figsize=(8.4, 3.6))
totals = {}
for place, (name, (held, dtype)) in enumerate(plans.items()):
    activations = memory_estimate(meta_model(llama, dtype), batch_size=1, seq_len=512, checkpointing=True).activations
    parts = {"weights": held.weights, "gradients": held.gradients, "AdamW": held.optimizer, "activations": activations}
    left = 0.0
    for (part, size), color in zip(parts.items(), ("blue", "orange", "green", "purple"), strict=True):
        axes.barh(place, size / 2**30, left=left, color=COLORS[color], label=part if place == 0 else None)
        left += size / 2**30
    totals[name] = left
    axes.annotate(f"{left:.1f} GiB", (left, place), textcoords="offset points", xytext=(4, -4), bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
for memory in (16, 24, 80):
    axes.axvline(memory, color="black", linestyle=":", marker="", linewidth=1)
    axes.annotate(f"{memory}", (memory, 2.5), textcoords="offset points", xytext=(2, 0), fontsize=9)
axes.set_yticks(range(len(plans)), list(plans))
axes.invert_yaxis()
axes.set(xlabel="GiB to train Llama-2-7B, 1 x 512 tokens, checkpointed", xlim=(0, 1.13 * max(totals.values())))
axes.legend(loc="lower right")
lab.figure(
    "memory-7b",
    figure,
    Text(
        en="What training Llama-2-7B holds, by formula. Dotted: GPUs of 16, 24 and 80 GiB.",
        zh_tw="用公式算出訓練 Llama-2-7B 要持有多少。點線：16、24、80 GiB 的 GPU。",
    ),
)

# %%
guess = lab.predict("trained_parameters_7b")
full, lora, qlora = totals.values()
lab.say(
    f"""- LoRA on q and v trains **{trained:,}** of {base_count.total:,} parameters{"" if guess is None else f" (you guessed {guess:,.0f})"}: one in {base_count.total / trained:,.0f}. Library and formula agree.
- Full fine-tuning holds {full:.0f} GiB, LoRA {lora:.1f} GiB, QLoRA {qlora:.1f} GiB. LoRA removes gradients and optimizer state; what is left is the frozen base, and
  QLoRA makes that one smaller: {nf4_bytes() * 8:.3f} bits per matrix entry, scales included.
- These are sums of tensors. A real run adds the CUDA context, buffers of kernels and fragmentation: expect more.""",
    f"""- 只調整 q 和 v 的 LoRA，在 {base_count.total:,} 個參數中訓練 **{trained:,}** 個{"" if guess is None else f"（你猜 {guess:,.0f}）"}：每 {base_count.total / trained:,.0f} 個才訓練一個。函式庫與公式一致。
- 全參數微調要持有 {full:.0f} GiB，LoRA {lora:.1f} GiB，QLoRA {qlora:.1f} GiB。LoRA 拿掉了梯度與最佳化器的狀態，剩下的是凍結的基礎模型；
  QLoRA 再把它縮小：每個矩陣元素 {nf4_bytes() * 8:.3f} 個位元，包含 scale。
- 這些是張量大小的總和。實際執行還要加上 CUDA context、kernel 的緩衝區和記憶體碎片，會再多一些。""",
)
_ = lab.artifact("environment.json").write_text(json.dumps({"versions": versions, "works": sorted(works), "reasons": reasons}, ensure_ascii=False), encoding="utf-8")

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - On the `tiny` model LoRA of rank 8 is a large share of all parameters, because its matrices are small: A and B grow with their sides, the
#   matrix with its area. The saving is a matter of size, and only the 7B count shows it.
# - The number of parameters says nothing about quality. That is measured in notebook 4.
#
# **Exercises.** 1 (`training_cost.py`: who pays for what) and 2 (`lora_targets.py`: LoRA's parameters) belong here. Check them with
# `nox -s check -- lab-1.1-peft-huggingface`.
#
# **Next:** a model, its tokenizer, and data that it can learn from without cheating.

# %% [markdown] lang="zh-TW"
# ## 玩具規模的限制
#
# - 在 `tiny` 模型上，rank 8 的 LoRA 占了不小的比例，因為它的矩陣很小：A 和 B 隨邊長成長，矩陣卻隨面積成長。
#   省多少取決於規模，只有 7B 的計數看得出來。
# - 參數量與品質無關。品質由第 4 本筆記本來量。
#
# **練習。** 練習 1（`training_cost.py`：誰要付多少）和練習 2（`lora_targets.py`：LoRA 的參數量）屬於這一本。用
# `nox -s check -- lab-1.1-peft-huggingface` 檢查。
#
# **下一步：** 模型、分詞器，以及可以學、又不能作弊的資料。
