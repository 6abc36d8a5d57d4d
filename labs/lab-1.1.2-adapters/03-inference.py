# %% [markdown] lang="en"
# # 1. A knob for each feature
#
# **Question.** A model may not learn a single new feature. You may only turn up or down what it computes already. How many knobs is that, on which side of a layer do they belong, and can anything be learned with them?
#
# | | |
# |---|---|
# | You build | (IA)3 in plain PyTorch: a factor for each key, each value and each hidden feature; its count; the proof that it is the method that `peft` has |
# | You write | exercises 1, 2, 5 and 6 |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | how many knobs a 7B model has; losses beside those of `peft`, step by step; a default of many training scripts that turns all knobs down |

# %% [markdown] lang="zh-TW"
# # 1. 每個特徵一個旋鈕
#
# **問題。** 模型不准學任何新的特徵，你只能把它本來就會算的東西轉大或轉小。這樣有多少個旋鈕？要放在一層的哪一邊？光靠它們，學得到東西嗎？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出 (IA)3：每個 key、每個 value、每個隱藏特徵各一個倍率；它的參數量；並證明它就是 `peft` 裡的那個方法 |
# | 你要寫的 | 練習 1、2、5、6 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 7B 模型有幾個旋鈕；每一步的損失與 `peft` 並列；許多訓練程式的一個預設值，會把所有旋鈕一起轉小 |

# %%
import functools

import numpy as np
import torch
from transformers import LlamaConfig, Qwen2Config

from broken_variants import broken_count, everything_on_outputs, start_at_random
from ia3 import Ia3Settings, RescaledLinear, add_ia3, ia3_layers, ia3_parameter_count, settings_for
from ia3_figures import beside_peft
from ia3_files import save_adapter
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    batches,
    distance,
    family,
    fit,
    in_peft,
    linear_shapes,
    load_base,
    logits_of,
    targeted_shapes,
    traced,
)
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, load_model, meta_model

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
chosen = Ia3Settings(settings.outputs, settings.inputs)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## Three tasks that the base cannot do
#
# The same three for every method of this module. `relabel`: judge a review, but answer with a colour. `compose`: reverse some letters, then pick two; the base knows both and has never done one after the other. `new_facts`: facts about people whom it has never heard of.

# %% [markdown] lang="zh-TW"
# ## 基礎模型不會的三個任務
#
# 這個單元的每個方法都用同樣三個任務。`relabel`：判斷一則評論，但用顏色回答。`compose`：先把幾個字母反轉，再取兩個；兩件事基礎模型都會，但從沒接著做過。`new_facts`：一些人的資料，而它從沒聽過這些人。

# %%
tasks = family.load_tasks(tokenizer, chat=settings.chat)
lab.table(
    [tr("task", "任務"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("the base is right", "基礎模型答對")],
    [(name, task.held_out[0].prompt, task.held_out[0].answer, str(accuracy(base, task))) for name, task in tasks.items()],
)

# %% [markdown] lang="en"
# ## Where the knobs are
#
# LoRA puts a new path beside a layer. (IA)3, *Infused Adapter by Inhibiting and Amplifying Inner Activations* (Liu et al., [2205.05638](https://arxiv.org/abs/2205.05638)), puts nothing beside it: three vectors per block multiply what is there already, element by element.

# %% [markdown] lang="zh-TW"
# ## 旋鈕在哪裡
#
# LoRA 在一層旁邊加一條新的路。(IA)3（*Infused Adapter by Inhibiting and Amplifying Inner Activations*，Liu 等人，[2205.05638](https://arxiv.org/abs/2205.05638)）什麼都不加：每個 block 有三個向量，逐元素乘在本來就有的東西上。

# %% [markdown]
# $$K' = l_k\odot K,\qquad V' = l_v\odot V,\qquad h' = W_{\text{down}}\,\bigl(l_{ff}\odot \mathrm{silu}(W_{\text{gate}}x)\odot W_{\text{up}}x\bigr)$$

# %% [markdown] lang="en"
# Keys and values are the *outputs* of two layers. The inside of the MLP has no layer of its own: it is the *input* of `down_proj`. So one layer class with two sides is enough:

# %% [markdown] lang="zh-TW"
# key 與 value 是兩個層的*輸出*。MLP 的內部沒有自己的層，它是 `down_proj` 的*輸入*。所以一個類別、兩種位置就夠了：

# %%
lab.source(RescaledLinear.forward)

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-7B has 32 blocks of hidden size 4,096; keys and values are as wide as that, the inside of the MLP is 11,008 wide. How many knobs are there? Write `llama_trained = ...` into `predictions.toml`. (LoRA of rank 8 on queries and values trains 4,194,304 numbers there.)
#
# <details><summary>A hint</summary>
#
# A vector is as long as what it multiplies. What goes *into* `down_proj`, and what comes out of it?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-7B 有 32 個 block，hidden size 是 4,096；key 與 value 也是這個寬度，MLP 內部的寬度是 11,008。總共有幾個旋鈕？把 `llama_trained = ...` 寫進 `predictions.toml`。（query 與 value 上秩 8 的 LoRA，在那裡訓練 4,194,304 個數字。）
#
# <details><summary>提示</summary>
#
# 向量的長度，就是它所乘的東西的長度。*進入* `down_proj` 的是什麼？出來的又是什麼？
# </details>

# %%
wrong_by, misplaced_by = 0, 0
for options in (chosen, Ia3Settings(settings.outputs, ()), Ia3Settings((), settings.inputs)):
    model, _ = load_base(settings)
    add_ia3(model, options)
    trained = count_parameters(model).trainable  # counted in a real model
    wrong_by += abs(ia3_parameter_count(base, options) - trained)
    misplaced_by += abs(broken_count(linear_shapes(base), options, "outputs_everywhere") - trained)
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", misplaced_by, variant="outputs_everywhere")

half_billion = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
seventy_billion = LlamaConfig(
    hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
)
models = {
    "this run": base,
    "Qwen2.5-0.5B": meta_model(half_billion),
    "Llama-2-7B": meta_model(LlamaConfig()),  # its default values are those of Llama 7B
    "Llama-2-70B": meta_model(seventy_billion),
}
counts = {}
for name, model in models.items():
    shapes = targeted_shapes(model, ("q_proj", "v_proj")).values()
    of_lora = sum(8 * (into + out) for into, out in shapes)
    counts[name] = count_parameters(model).total, ia3_parameter_count(model, settings_for(model)), of_lora
misplaced = broken_count(linear_shapes(models["Llama-2-7B"]), Ia3Settings(), "outputs_everywhere")
lab.record("llama_trained", counts["Llama-2-7B"][1])
lab.record("llama_trained", misplaced, variant="outputs_everywhere")
lab.table(
    [
        *(tr("model", "模型"), tr("parameters", "參數量"), tr("knobs", "旋鈕"), tr("share", "比例")),
        tr("LoRA, q and v, rank 8", "LoRA，q、v，秩 8"),
    ],
    [(name, f"{whole:,}", f"{own:,}", f"{own / whole:.4%}", f"{lora:,}") for name, (whole, own, lora) in counts.items()],
)

# %%
guess = lab.predict("llama_trained")
whole, seven, of_lora = counts["Llama-2-7B"]
lab.say(
    f"""Llama-2-7B has **{seven:,}** knobs{"" if guess is None else f" (you guessed {guess:,.0f})"}, {of_lora / seven:.1f} \
times fewer than LoRA has numbers. Whoever counts the outputs of `down_proj` gets {misplaced:,}.
Of 70B it is {counts["Llama-2-70B"][1] / counts["Llama-2-70B"][0]:.4%}, of the model of this run \
{counts["this run"][1] / counts["this run"][0]:.2%}. In 70B several heads share their keys and values, so these \
vectors are short there.""",
    f"""Llama-2-7B 有 **{seven:,}** 個旋鈕{"" if guess is None else f"（你猜 {guess:,.0f}）"}，LoRA 的數字是它的 {of_lora / seven:.1f} 倍。\
把 `down_proj` 算成輸出的人，會得到 {misplaced:,}。
在 70B 上是 {counts["Llama-2-70B"][1] / counts["Llama-2-70B"][0]:.4%}，在這次執行的模型上是 \
{counts["this run"][1] / counts["this run"][0]:.2%}。70B 的好幾個 head 共用 key 與 value，所以那裡這兩種向量很短。""",
)

# %% [markdown] lang="en"
# ## Where training begins
#
# LoRA needs a zero and a random matrix. A knob begins at 1, and times 1 is exact in floating point, so the logits must be the base's to the bit. Nothing is random: there is no seed to choose. The control begins as ordinary weights do.

# %% [markdown] lang="zh-TW"
# ## 訓練從哪裡開始
#
# LoRA 需要一個零矩陣和一個隨機矩陣。旋鈕則從 1 開始，而乘以 1 在浮點數裡是精確的，所以 logits 必須跟基礎模型一個位元都不差。沒有任何隨機的東西，也就沒有種子可選。對照組像一般的權重那樣開始。

# %%
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
wanted = logits_of(base, batch)  # (tokens, vocabulary), without the rows of padding
model, _ = load_base(settings)
add_ia3(model, chosen)
identity = distance(logits_of(model, batch), wanted)
start_at_random(model, seed=0)
damaged = distance(logits_of(model, batch), wanted)
lab.record("identity_difference", identity)
lab.record("identity_difference", damaged, variant="random_start")
print(next(iter(ia3_layers(model).values())))
lab.say(
    f"Relative to the largest logit, fresh factors change {identity:g}; random ones would change {damaged:.2g}.",
    f"相對於最大的 logit，全新的倍率改變了 {identity:g}；隨機的倍率會改變 {damaged:.2g}。",
)

# %% [markdown] lang="en"
# ## Is it the (IA)3 that `peft` has?
#
# Both get the same base and the same batches; ours goes to `peft` as files. If the two are one method, every loss is equal. The control rescales what comes *out* of `down_proj`, the residual stream: it has the right formula on the wrong side.

# %% [markdown] lang="zh-TW"
# ## 這就是 `peft` 裡的 (IA)3 嗎？
#
# 兩者用同樣的基礎模型、同樣的批次；我們的以檔案交給 `peft`。如果是同一個方法，每一步的損失都會相等。對照組乘的是 `down_proj` 的*輸出*，也就是殘差流：公式對了，邊放錯了。

# %%
budget = {"steps": settings.equal_steps, "learning_rate": settings.relabel_rate, "batch_size": settings.batch}
base_name, _ = base_identity(settings)
fresh, _ = load_base(settings)
add_ia3(fresh, chosen)
write = functools.partial(save_adapter, fresh, chosen, base_model_name=base_name)


def model_of(kind):
    """The base with vectors in it: ours, ours on the wrong side, or peft's."""
    model, _ = load_base(settings)
    if kind == "peft":
        return in_peft(model, write, trainable=True)
    add_ia3(model, chosen if kind == "own" else everything_on_outputs(chosen))
    return model


losses, apart = {}, {}
for seed in lab.progress(settings.seeds):
    train = functools.partial(fit, task=tasks["relabel"], seed=seed, progress=False, **budget)
    traces = {kind: traced(model_of(kind), train, batch) for kind in ("own", "output_of_down_proj", "peft")}
    losses[seed] = {kind: np.array(trace.losses) for kind, trace in traces.items()}
    own, wrong = (traces[kind].apart_from(traces["peft"]) for kind in ("own", "output_of_down_proj"))
    apart[seed] = own, wrong
    lab.record("peft_loss_difference", own.loss, seed=seed)
    lab.record("peft_loss_difference", wrong.loss, seed=seed, variant="output_of_down_proj")
    lab.record("peft_logit_difference", own.after, seed=seed)
    lab.record("peft_logit_difference", wrong.after, seed=seed, variant="output_of_down_proj")

# %%
lab.figure(
    "own-and-peft",
    beside_peft(losses[settings.seeds[0]]),
    Text(
        en="Left: losses of our factors, of peft's, and of ours on the outputs of down_proj. Right: their distance from peft's.",
        zh_tw="左：我們的倍率、peft 的倍率，以及放在 down_proj 輸出上的版本各自的損失。右：它們與 peft 的距離。",
    ),
)

# %% [markdown] lang="en"
# ## The same two, with weight decay
#
# Many training scripts decay every matrix and spare vectors; so does the loop of this course. Our factors are a vector, `(features,)`. `peft` keeps the same numbers as `(features, 1)` or `(1, features)`. What will the *same* script do to the two? And to which value does decay pull a factor that has nothing to learn?

# %% [markdown] lang="zh-TW"
# ## 同樣的兩者，加上權重衰減
#
# 許多訓練程式會衰減每個矩陣、放過向量，這門課的訓練迴圈也是。我們的倍率是向量 `(features,)`；`peft` 把同樣的數字存成 `(features, 1)` 或 `(1, features)`。*同一個*程式會對兩者做什麼？沒有東西可學的倍率，又會被衰減拉到什麼值？

# %%
decaying = functools.partial(fit, task=tasks["relabel"], seed=0, progress=False, weight_decay=settings.weight_decay, **budget)
ours, theirs = model_of("own"), model_of("peft")
of_ours, of_theirs = traced(ours, decaying, batch), traced(theirs, decaying, batch)
decayed_apart = of_ours.apart_from(of_theirs)
mean_of = {
    "own": torch.cat([weight.flatten() for weight in ours.parameters() if weight.requires_grad]).mean().item(),
    "peft": torch.cat([weight.flatten() for weight in theirs.parameters() if weight.requires_grad]).mean().item(),
}
kept = (1 - settings.relabel_rate * settings.weight_decay) ** settings.relabel_steps
lab.say(
    f"""After {settings.equal_steps} steps with a decay of {settings.weight_decay:g} the losses are {decayed_apart.loss:.2g} \
nats apart and the mean factor is {mean_of["own"]:.3f} (ours) and {mean_of["peft"]:.3f} (`peft`'s): \
one method, one script, two results, because of a dimension of size 1.
Decay pulls to 0, and a factor of 0 is a feature switched off. At this rate a factor that never gets a gradient would \
be at {kept:.2f} after {settings.relabel_steps} steps. For factors, no decay: their neutral value is 1.""",
    f"""衰減 {settings.weight_decay:g}、{settings.equal_steps} 步之後，損失相差 {decayed_apart.loss:.2g} nats，倍率的平均是 \
{mean_of["own"]:.3f}（我們的）與 {mean_of["peft"]:.3f}（`peft` 的）：同一個方法、同一個程式，兩種結果，只因為一個大小為 1 的維度。
衰減是往 0 拉，而倍率 0 等於關掉一個特徵。照這個學習率，一個從沒拿到梯度的倍率，{settings.relabel_steps} 步之後會剩 {kept:.2f}。倍率不要衰減：它們的中性值是 1。""",
)

# %% [markdown] lang="en"
# ## Other names, the same places
#
# `settings_for` finds the places by name. GPT-NeoX computes queries, keys and values in one layer, so its queries get knobs too; and all of its layers have biases, which notebook 4 will need.

# %% [markdown] lang="zh-TW"
# ## 名稱不同，位置相同
#
# `settings_for` 靠名稱找位置。GPT-NeoX 用一層同時算出 query、key、value，所以它的 query 也會有旋鈕；而且它每一層都有偏差，第 4 本筆記本會用到。

# %%
with_biases, _ = load_model(settings.bias_model, device=settings.device, dtype=settings.dtype)
places = {name: settings_for(model) for name, model in (("Llama", base), ("GPT-NeoX", with_biases))}
lab.table(
    [tr("architecture", "架構"), tr("on the outputs of", "乘在輸出上"), tr("on the inputs of", "乘在輸入上")],
    [(name, ", ".join(found.outputs), ", ".join(found.inputs)) for name, found in places.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
worst = [max(pair[index].loss for pair in apart.values()) for index in (0, 1)]
lab.say(
    f"""- {counts["this run"][1]:,} factors in the model of this run; the formula is off by {wrong_by} in three models that were really built.
- Over {len(settings.seeds)} orders of the data the losses of ours and of `peft` differ by {worst[0]:.1e} nats at \
most; on the wrong side of `down_proj` they would by {worst[1]:.2g}.
- Random numbers used: none. What differs between seeds from here on is the order of the data.""",
    f"""- 這次執行的模型有 {counts["this run"][1]:,} 個倍率；在三個實際建出來的模型上，公式總共差了 {wrong_by} 個。
- {len(settings.seeds)} 種資料順序之下，我們與 `peft` 的損失最多差 {worst[0]:.1e} nats；放錯邊則會差 {worst[1]:.2g}。
- 用到的亂數：沒有。接下來不同種子之間，差的只是資料的順序。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The share in the small model is that of a toy; the formula and the counts on `meta` carry over.
# - The paper trains an encoder-decoder, which has cross-attention with keys and values of its own. A decoder has three vectors per block.
#
# **Exercises.** 1, 2 and 6 (`ia3.py`: the count, the layer, another architecture) and 5 (`ia3_files.py`: the file) belong here: `nox -s check -- lab-1.1.5-ia3`.
#
# **Next:** can a model learn something new with knobs alone?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的比例只適用於小模型；能套用到大模型的是公式，以及在 `meta` 上數出來的數字。
# - 論文訓練的是 encoder-decoder，它的 cross-attention 有自己的 key 與 value。decoder 每個 block 是三個向量。
#
# **練習。** 練習 1、2、6（`ia3.py`：參數量、這一層、另一種架構）與練習 5（`ia3_files.py`：檔案）屬於這一本：`nox -s check -- lab-1.1.5-ia3`。
#
# **下一步：** 光靠旋鈕，模型學得會新東西嗎？
