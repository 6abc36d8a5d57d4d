# %% [markdown] lang="en"
# # 1. What fine-tuning costs, and a layer that costs less
#
# **Question.** A model has to learn one new task. Why should all of its weights move, and what does it cost if they do?
#
# | | |
# |---|---|
# | You build | LoRA in plain PyTorch: the layer, its start values, its parameter count, and the proof that it is the LoRA that `peft` has |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | what the base makes of two new tasks; a bill for a model of 7 billion weights; what a layer changes before it is trained; its losses beside those of `peft`, step by step |

# %% [markdown] lang="zh-TW"
# # 1. 微調的代價，以及比較省的一層
#
# **問題。** 模型只要學一個新任務。為什麼所有的權重都得動？全部都動的話，代價是多少？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出 LoRA：這一層、它的初始值、它的參數量，並證明它就是 `peft` 裡的那個 LoRA |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 基礎模型怎麼回答兩個新任務；70 億個權重的模型要多少記憶體；這一層在訓練之前改變了什麼；每一步的損失與 `peft` 並列 |

# %%
import functools

import numpy as np
import torch
from transformers import LlamaConfig, Qwen2Config

from broken_variants import add_lora_with_random_b, forgotten_out_side
from lora import LoraLinear, LoraSettings, add_lora, initial_factors, lora_layers, lora_parameter_count, set_scaling
from lora_figures import beside_peft, share_over_size, training_memory
from lora_files import save_adapter
from nf4 import BLOCK, SCALE_BLOCK
from onepiece import lab
from onepiece.adaptation import (
    ALL_LINEAR,
    accuracy,
    base_identity,
    batches,
    distance,
    fit,
    in_peft,
    load_base,
    load_task,
    logits_of,
    targeted_shapes,
    traced,
)
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, memory_estimate, meta_model
from onepiece.tiny import skills

settings = lab.settings
torch.set_num_threads(settings.threads)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## Two tasks that are new to the base
#
# The base model has finished its pretraining. We want two more things from it:
#
# - `relabel`: judge a review, but answer with the colour of a signal instead of a word of judgement. The model knows how to *judge*; only the labels are new.
# - `compose`: reverse some letters, then pick two of them. It knows how to reverse and how to pick; it has never done one *after* the other.
#
# Answers count when they are right to the last character. Beside the new tasks we ask the known skills that they are made of.

# %% [markdown] lang="zh-TW"
# ## 兩個對基礎模型來說全新的任務
#
# 基礎模型已經完成預訓練。我們還想要它會兩件事：
#
# - `relabel`：判斷一則評論，但要用燈號的顏色回答，而不是用評價的字眼。模型知道怎麼*判斷*，新的只有標籤。
# - `compose`：先把幾個字母反轉，再從中取兩個。它會反轉、也會取字母，但從來沒有把兩件事*接著*做過。
#
# 答案要一字不差才算對。除了新任務，我們也問組成它們的已知技能。

# %%
base, tokenizer = load_base(settings)
size = {
    "train_items": settings.equal_steps * settings.batch,
    "held_out_items": settings.held_out_items,
    "chat": settings.chat,
}
tasks = {name: load_task(name, tokenizer, **size) for name in ("relabel", "compose")}

rows = []
for task in tasks.values():
    shown = task.held_out[:2] + task.held_out[-2:]
    answers = skills.answers(base, tokenizer, shown, chat=settings.chat)
    for item, answer in zip(shown, answers, strict=True):
        rows.append([task.name, item.prompt, item.answer, answer.replace("\n", " ")[:40]])
lab.table(
    [tr("task", "任務"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("the base says", "基礎模型的回答")],
    rows,
)

# %%
before = {name: accuracy(base, task) for name, task in tasks.items()}
known = ("sentiment", "reverse", "pick")  # what the two tasks are made of
for name in known:
    before[name] = accuracy(base, load_task(name, tokenizer, **size))
lab.record("base_accuracy", max(before[name].accuracy for name in tasks))
lab.record("base_accuracy", min(before[name].accuracy for name in known), variant="known_skills")
lab.table(
    [tr("held-out items of", "保留題目"), tr("right, with its 95% interval", "答對的比例與 95% 信賴區間")],
    before.items(),
)

# %% [markdown] lang="en"
# ## The bill
#
# Training a weight needs more than the weight. With AdamW each trained number brings its gradient and two moments, running means of the gradient and of its square. What is frozen brings nothing but itself.
# `memory_estimate` adds that up from shapes alone; a model on the `meta` device has shapes and no weights, so we can ask about 7 billion parameters on any laptop.
#
# The usual mixture of precisions, as in chapter 1.3: weights and gradients in bfloat16; in float32 the two moments, and a *master copy* of the weights, because an
# update that is small beside its weight would be rounded away in 16 bits. LoRA's own weights are in float32, and so need no copy.

# %% [markdown] lang="zh-TW"
# ## 要多少記憶體
#
# 要訓練一個權重，需要的不只是那個權重。用 AdamW 的話，每個要訓練的數字都帶著一個梯度和兩個動量（梯度的移動平均，以及梯度平方的移動平均）；凍結的權重只占自己那一份。
# `memory_estimate` 只憑形狀就能把它加總。放在 `meta` 裝置上的模型只有形狀、沒有權重，所以任何一台筆電都能拿 70 億參數的模型來算。
#
# 這裡用常見的混合精度，跟第 1.3 章一樣：權重與梯度用 bfloat16；兩個動量用 float32，另外再留一份 float32 的*主權重*，
# 因為更新量和權重相比太小的話，用 16 位元相加就捨入掉了。LoRA 自己的權重用 float32，所以不必再留一份。

# %%
PARTS = (tr("weights", "權重"), tr("gradients", "梯度"), tr("master copy", "主權重"), tr("AdamW moments", "AdamW 動量"))


def bill(model):
    """GiB of each of PARTS in one training step."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    master = 4 * sum(weight.numel() for weight in trained if weight.element_size() == 2)
    estimate = memory_estimate(model, batch_size=1, seq_len=1, state_bytes=8)
    return np.array([estimate.weights, estimate.gradients, master, estimate.optimizer]) / 2**30


paper = LoraSettings(rank=8, alpha=16, targets=("q_proj", "v_proj"))  # what the paper adapts in its main experiments
seven_billion = meta_model(LlamaConfig(), torch.bfloat16)  # its default values are those of Llama 7B
full_bill = bill(seven_billion)
adapted_layers = targeted_shapes(seven_billion, ALL_LINEAR).values()  # (in, out) of each
linear = sum(in_features * out_features for in_features, out_features in adapted_layers)
all_of_it = count_parameters(seven_billion).total

adapted = meta_model(LlamaConfig(), torch.bfloat16)
add_lora(adapted, paper, seed=0)
lora_bill = bill(adapted)
four_bits = 1 / 2 + 1 / BLOCK + 4 / (BLOCK * SCALE_BLOCK)  # bytes per weight, double quantisation: QLoRA, section 3
saved = np.array([linear * (2 - four_bits), 0, 0, 0]) / 2**30
bills = {"full fine-tuning": full_bill, "LoRA, bfloat16 base": lora_bill, "LoRA, 4-bit base": lora_bill - saved}

beside = full_bill[1:] * 2**30 / all_of_it  # bytes per trained weight: gradient, master copy, moments
lab.record("bytes_per_trained_weight", 2 + beside.sum())
lab.record("bytes_per_trained_weight", 2 + beside.sum() - beside[1], variant="no_master_copy")
figure = training_memory(bills, PARTS)
lab.figure(
    "training-memory",
    figure,
    Text(
        en="What one training step of a 7B Llama holds besides activations: computed from shapes.",
        zh_tw="7B Llama 訓練一步除了激勵值之外要存放的東西：由形狀計算而來。",
    ),
)

# %%
total = {name: values.sum() for name, values in bills.items()}
lab.say(
    f"""Each trained weight takes {2 + beside.sum():g} bytes: 2 for itself, {beside[0]:g} for its gradient, {beside[1]:g} for \
the master copy, {beside[2]:g} for the moments.
So full fine-tuning of {all_of_it / 1e9:.2f} billion weights holds **{total["full fine-tuning"]:.0f} GiB** before the \
first activation, {full_bill[1:].sum() / full_bill[0]:.0f} times the weights on top of them.
With a frozen base, all but the weights shrinks to {lora_bill[1:].sum() * 1024:.0f} MiB, and what is left is the base \
itself: {total["LoRA, bfloat16 base"]:.1f} GiB, or {total["LoRA, 4-bit base"]:.1f} GiB if it is stored in 4 bits.
(Activations come on top, for LoRA as well.)""",
    f"""每個要訓練的權重占 {2 + beside.sum():g} 位元組：自己 2、梯度 {beside[0]:g}、主權重 {beside[1]:g}、動量 {beside[2]:g}。
所以全參數微調 {all_of_it / 1e8:.1f} 億個權重，在還沒有任何激勵值（activation）之前就要 **{total["full fine-tuning"]:.0f} GiB**，也就是在權重之外再加上 {full_bill[1:].sum() / full_bill[0]:.0f} 倍的權重。
把基礎模型凍結之後，權重以外的部分縮到 {lora_bill[1:].sum() * 1024:.0f} MiB，剩下的就是基礎模型本身：{total["LoRA, bfloat16 base"]:.1f} GiB；改用 4 位元存放則是 {total["LoRA, 4-bit base"]:.1f} GiB。
（激勵值要另外算，LoRA 也一樣要。）""",
)

# %% [markdown] lang="en"
# ## The idea
#
# Fine-tuning turns a weight $W_0$ into $W_0 + \Delta W$. If the change needs few directions, then $\Delta W$ has a low rank, and a matrix of rank $r$ is a product of two thin ones. So freeze $W_0$
# and train the thin ones:

# %% [markdown] lang="zh-TW"
# ## 想法
#
# 微調把權重 $W_0$ 變成 $W_0 + \Delta W$。如果這個改變只需要很少的方向，$\Delta W$ 的秩（rank）就很低，而秩為 $r$ 的矩陣就是兩個細長矩陣的乘積。
# 所以：凍結 $W_0$，只訓練那兩個細長的矩陣。

# %% [markdown]
# $$h = W_0\,x + \frac{\alpha}{r}\,B A\,x,\qquad A\in\mathbb R^{r\times d_{\text{in}}},\quad B\in\mathbb R^{d_{\text{out}}\times r},\qquad r\,(d_{\text{in}}+d_{\text{out}})\ \ll\ d_{\text{in}}\,d_{\text{out}}$$

# %% [markdown] lang="en"
# (Hu et al., *LoRA*, [2106.09685](https://arxiv.org/abs/2106.09685), equation 3. That few directions may be enough was found before: Aghajanyan et al., [2012.13255](https://arxiv.org/abs/2012.13255).
# Whether it holds for *our* tasks is measured in notebook 2: there we look at the rank of the change that full fine-tuning makes.)
#
# How the two matrices begin, and what the layer computes. Look for three things: which of them is zero, in which order the products are taken, and where the scale is:

# %% [markdown] lang="zh-TW"
# （Hu 等人，*LoRA*，[2106.09685](https://arxiv.org/abs/2106.09685)，式 3。少數方向就可能足夠，是更早的發現：Aghajanyan 等人，[2012.13255](https://arxiv.org/abs/2012.13255)。
# 對*我們的*任務是否成立，第 2 本筆記本會實際量測：看全參數微調造成的改變，秩到底有多高。）
#
# 兩個矩陣從什麼值開始，以及這一層怎麼計算。請找出三件事：哪一個是零、乘積照什麼順序做、縮放放在哪裡：

# %%
lab.source(initial_factors)
lab.source(LoraLinear.forward)

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-7B has 32 layers of hidden size 4096. LoRA of rank 8 on the query and value projections: how many numbers are trained? Write `llama_trained = ...` into `predictions.toml`.
#
# <details><summary>A hint</summary>
#
# Both projections are 4096 × 4096 in this model. How many numbers has A then, and how many has B? How many such pairs are there?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-7B 有 32 層，hidden size 是 4096。在 query 和 value 投影上加秩為 8 的 LoRA，要訓練幾個數字？把 `llama_trained = ...` 寫進 `predictions.toml`。
#
# <details><summary>提示</summary>
#
# 在這個模型裡，兩個投影都是 4096 × 4096。這樣 A 有幾個數字？B 呢？這樣的 A 和 B 總共有幾對？
# </details>

# %%
target_sets = {
    "q, v": ("q_proj", "v_proj"),
    "attention": ALL_LINEAR[:4],
    "MLP": ALL_LINEAR[4:],
    "all linear": ALL_LINEAR,
}
ranks, rows, wrong_by, forgotten_by = (1, 8, 64), [], 0, 0
for label, targets in target_sets.items():
    row = [label]
    for rank in ranks:
        chosen = LoraSettings(rank, 16, targets)
        model, _ = load_base(settings)
        add_lora(model, chosen, seed=0)
        trained = count_parameters(model).trainable  # counted in a real model
        wrong_by += abs(lora_parameter_count(base, chosen) - trained)
        forgotten_by += abs(forgotten_out_side(base, chosen) - trained)
        row.append(f"{trained:,}")
    rows.append(row)
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", forgotten_by, variant="forgotten_out_side")
lab.table([tr("layers", "哪些層"), *(tr(f"rank {rank}", f"秩 {rank}") for rank in ranks)], rows)
lab.say(
    f"Counted in {len(rows) * len(ranks)} models that were really built; "
    f"the formula is off by {wrong_by} numbers in all of them together. "
    f"A formula that forgets B would be off by {forgotten_by:,}.",
    f"這是實際建出 {len(rows) * len(ranks)} 個模型數出來的；公式在它們身上總共差了 {wrong_by} 個數字。忘了 B 的公式則會差 {forgotten_by:,} 個。",
)

# %% [markdown] lang="en"
# The same formula for architectures of any size. How large is LoRA *as a share* of the model?

# %% [markdown] lang="zh-TW"
# 同一個公式可以套用在任何大小的架構上。LoRA 占整個模型的*比例*是多少？

# %%
seventy_billion = LlamaConfig(
    hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
)
half_billion = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
models = {
    "this run": base,
    "Qwen2.5-0.5B": meta_model(half_billion),
    "Llama-2-7B": seven_billion,
    "Llama-2-70B": meta_model(seventy_billion),
}
everywhere = LoraSettings(rank=8, alpha=16, targets=ALL_LINEAR)
counts = {}
for name, model in models.items():
    trained = [lora_parameter_count(model, chosen) for chosen in (paper, everywhere)]
    counts[name] = (count_parameters(model).total, *trained)
lab.record("llama_trained", counts["Llama-2-7B"][1])
lab.record("llama_trained", counts["Llama-2-7B"][2], variant="all_linear")
of_it = tr("share", "比例")
lab.table(
    [
        *(tr("model", "模型"), tr("parameters", "參數量"), tr("q, v, rank 8", "q、v，秩 8"), of_it),
        *(tr("all linear, rank 8", "所有線性層，秩 8"), of_it),
    ],
    [
        (name, f"{whole:,}", f"{few:,}", f"{few / whole:.3%}", f"{many:,}", f"{many / whole:.3%}")
        for name, (whole, few, many) in counts.items()
    ],
)

# %%
lab.figure(
    "share-over-size",
    share_over_size(counts),
    Text(
        en="The share of trained parameters at rank 8 over the size of the model; counted, the large ones on the meta device.",
        zh_tw="秩為 8 時，訓練參數所占的比例隨模型大小的變化；都是數出來的，大模型放在 meta 裝置上數。",
    ),
)

# %%
guess = lab.predict("llama_trained")
share = {name: many / whole for name, (whole, _, many) in counts.items()}
lab.say(
    f"""- Llama-2-7B, queries and values, rank 8: **{counts["Llama-2-7B"][1]:,}** numbers{"" if guess is None else f" (you guessed {guess:,.0f})"}.
- Layers grow with the *product* of their sides, LoRA with the *sum*. \
So the same rank is a smaller share of a larger model: {share["Llama-2-70B"]:.3%} of 70B, {share["Llama-2-7B"]:.2%} \
of 7B, and {share["this run"]:.1%} of the model of this run.
  At toy scale LoRA is not small, and we do not claim that it is. What carries over is the formula, which is exact at every size.""",
    f"""- Llama-2-7B、query 與 value、秩 8：**{counts["Llama-2-7B"][1]:,}** 個數字{"" if guess is None else f"（你猜 {guess:,.0f}）"}。
- 層的大小隨兩邊長度的*乘積*成長，LoRA 則隨兩邊長度的*和*成長。所以同樣的秩，模型越大，比例越小：70B 的 {share["Llama-2-70B"]:.3%}、7B 的 {share["Llama-2-7B"]:.2%}，而這次執行的模型是 {share["this run"]:.1%}。
  在這麼小的模型上，LoRA 並不小，我們也不會說它小。能套用到大模型的是公式，它在任何大小都精確。""",
)

# %% [markdown] lang="en"
# ## Before the first step: what has changed?
#
# B starts at zero, so $BA = 0$, and the adapted model should *be* the base model. Not nearly: exactly. If both were random, training would begin from a damaged model. We look at the logits, the scores that a model gives to every possible next token.

# %% [markdown] lang="zh-TW"
# ## 第一步之前，改變了什麼？
#
# B 從零開始，所以 $BA = 0$，加了 LoRA 的模型應該*就是*基礎模型。不是近似，是完全相等。要是兩者都隨機，訓練就會從一個被弄壞的模型出發。我們看的是 logits，也就是模型替每個可能的下一個 token 打的分數。

# %%
chosen = LoraSettings(settings.rank, settings.alpha, ALL_LINEAR)
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
wanted = logits_of(base, batch)  # (tokens, vocabulary), without the rows of padding
for seed in settings.seeds:
    model, _ = load_base(settings)
    add_lora(model, chosen, seed=seed)
    lab.record("identity_difference", distance(logits_of(model, batch), wanted), seed=seed)
    broken, _ = load_base(settings)
    add_lora_with_random_b(broken, chosen, seed=seed)
    lab.record("identity_difference", distance(logits_of(broken, batch), wanted), seed=seed, variant="random_b")
identity, damaged = distance(logits_of(model, batch), wanted), distance(logits_of(broken, batch), wanted)

layer = next(iter(lora_layers(model).values()))
print(layer)
lab.say(
    f"Relative to the largest logit, the fresh LoRA changes {identity:g}; with a random B it would change {damaged:.2g}.",
    f"相對於最大的 logit，全新的 LoRA 改變了 {identity:g}；B 若是隨機，改變就是 {damaged:.2g}。",
)

# %% [markdown] lang="en"
# ## Is it the LoRA that everyone uses?
#
# `peft` is the reference in practice. We save our fresh adapter as files, let `peft` load them onto its own copy of the base, and train both on the same batches. If the two are one method, then every loss is equal, and so are
# the logits at the end. The control is ours with twice the scale: nearly LoRA.

# %% [markdown] lang="zh-TW"
# ## 這就是大家在用的 LoRA 嗎？
#
# 實務上的標準是 `peft`。我們把全新的 adapter 存成檔案，讓 `peft` 載入到它自己的基礎模型上，再用同樣的批次訓練兩者。如果兩者是同一個方法，每一步的損失都會相等，
# 最後的 logits 也會相等。對照組是我們自己的版本，但縮放大了一倍：只差這一點。

# %%
budget = {"steps": settings.equal_steps, "learning_rate": settings.relabel_lora_rate, "batch_size": settings.batch}
base_name, _ = base_identity(settings)
losses, apart = {}, {}
for seed in lab.progress(settings.seeds):
    fresh, _ = load_base(settings)
    add_lora(fresh, chosen, seed=seed)
    write = functools.partial(save_adapter, fresh, chosen, base_model_name=base_name)
    train = functools.partial(fit, task=tasks["relabel"], seed=seed, progress=False, **budget)
    traces = {}
    for name in ("own", "double_scale", "peft"):
        model, _ = load_base(settings)
        if name == "peft":
            model = in_peft(model, write, trainable=True)
        else:
            add_lora(model, chosen, seed=seed)
        if name == "double_scale":
            set_scaling(model, 2 * chosen.scaling)
        traces[name] = traced(model, train, batch)
        losses[name, seed] = np.array(traces[name].losses)
    apart[seed] = {name: traces[name].apart_from(traces["peft"]) for name in ("own", "double_scale")}
    lab.record("peft_loss_difference", apart[seed]["own"].loss, seed=seed)
    lab.record("peft_loss_difference", apart[seed]["double_scale"].loss, seed=seed, variant="double_scale")
    lab.record("peft_logit_difference", apart[seed]["own"].after, seed=seed)
    lab.record("peft_logit_difference", apart[seed]["double_scale"].after, seed=seed, variant="double_scale")

# %%
seed = settings.seeds[0]
figure = beside_peft({name: losses[name, seed] for name in ("peft", "own", "double_scale")})
lab.figure(
    "own-and-peft",
    figure,
    Text(
        en="Left: losses of our LoRA, of peft's, and of ours with twice the scale. Right: their distance from peft's.",
        zh_tw="左：我們的 LoRA、peft 的 LoRA，以及縮放大一倍的版本各自的損失。右：它們與 peft 的距離。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
def in_words(difference, digits=".1e"):
    """A difference, or that there is none."""
    return tr("exactly 0", "0") if difference == 0 else f"{difference:{digits}}"


worst = {}
for name in ("own", "double_scale"):
    found = [apart[seed][name] for seed in settings.seeds]
    worst[name] = max(each.loss for each in found), max(each.after for each in found)
new, old = max(before[name].accuracy for name in tasks), min(before[name].accuracy for name in known)
lab.say(
    f"""- The base answers at most {new:.1%} of the new tasks and at least {old:.1%} of the skills that they are made of.
- Before training, LoRA changes {"nothing, to the last bit" if identity == 0 else f"{identity:.1e}"}.
- Over {len(settings.seeds)} seeds and {settings.equal_steps} steps, the largest distance between our losses and \
`peft`'s is {in_words(worst["own"][0])} nats, and between the logits at the end {in_words(worst["own"][1])} \
(relative). With twice the scale it would be {worst["double_scale"][0]:.2g} and {worst["double_scale"][1]:.2g}.
  So what the next notebooks find out about our layer holds for `peft`'s.""",
    f"""- 基礎模型在新任務上最多答對 {new:.1%}，在組成它們的技能上至少答對 {old:.1%}。
- 訓練之前，LoRA {"一個位元都沒有改變" if identity == 0 else f"改變了 {identity:.1e}"}。
- {len(settings.seeds)} 個種子、{settings.equal_steps} 步之中，我們的損失與 `peft` 最大的差距是 {in_words(worst["own"][0])} nats，最後的 \
logits 則是 {in_words(worst["own"][1])}（相對值）。縮放大一倍的話，會差 {worst["double_scale"][0]:.2g} 與 {worst["double_scale"][1]:.2g}。
  所以接下來的筆記本在我們這一層上發現的事，對 `peft` 的也成立。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The shares are those of a toy; only the formula and the counts on `meta` carry over.
# - The bill counts what stays: weights, gradients, master copy and moments. Activations depend on batch, length and on what is recomputed; LoRA needs most of them too, because the gradient has to pass through every frozen layer on its way to the adapters.
# - Equal to `peft` is shown for linear layers without dropout. `peft` can do more: embeddings, convolutions, dropout, biases.
#
# **Exercises.** 1 to 5 (`lora.py`: the scale, the count, the start values, the layer, putting it into a model) and 7 (`lora_files.py`: the file format) belong here. Check them with `nox -s check -- lab-1.1.1-lora`.
#
# **Next:** does it learn as well as full fine-tuning, and how small may the rank be?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的比例只適用於小模型；能套用到大模型的只有公式，以及在 `meta` 上數出來的數字。
# - 記憶體用量只算會一直留著的：權重、梯度、主權重與動量。激勵值取決於批次大小、長度，以及哪些要重算；LoRA 也需要其中的大部分，因為梯度要穿過每一個凍結的層，才到得了 adapter。
# - 與 `peft` 相等，是在沒有 dropout 的線性層上證明的。`peft` 能做的更多：embedding、卷積、dropout、bias。
#
# **練習。** 練習 1 到 5（`lora.py`：縮放、參數量、初始值、這一層、放進模型）和練習 7（`lora_files.py`：檔案格式）屬於這一本。用 `nox -s check -- lab-1.1.1-lora` 檢查。
#
# **下一步：** 它學得跟全參數微調一樣好嗎？秩可以小到什麼程度？
