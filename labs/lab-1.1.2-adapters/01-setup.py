# %% [markdown] lang="en"
# # 1. A network in series
#
# **Question.** LoRA stands *beside* a layer. An adapter stands *behind* it: everything the layer says goes through.
# How can something be put in the way of every signal, and the model not notice?
#
# | | |
# |---|---|
# | You build | bottleneck adapters in plain PyTorch: where they stand, how many numbers they have, how they begin |
# | You write | exercises 1, 2 and 3 (`adapters.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | how many numbers that is on a 7B model; two starts that look alike, of which one never learns; the method written a second way |

# %% [markdown] lang="zh-TW"
# # 1. 串在後面的網路
#
# **問題。** LoRA 站在一層的*旁邊*，adapter 站在它的*後面*：那一層說的每一句話都要從這裡經過。
# 怎樣才能擋在所有訊號的路上，卻讓模型毫無察覺？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出 bottleneck adapter：放在哪裡、有多少個數、從什麼狀態開始 |
# | 你要寫的 | 練習 1、2、3（`adapters.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 在 7B 模型上有多少個數；兩種看起來一樣的起點，其中一種永遠學不會；同一個方法用第二種寫法，一步一步對照 |

# %%
import functools

import numpy as np
import torch
from transformers import LlamaConfig, Qwen2Config

from adapter_figures import beside_oracle
from adapters import (
    Bottleneck,
    adapted_layers,
    adapter_parameter_count,
    adapter_places,
    add_adapters,
    bottleneck_width,
    houlsby,
    pfeiffer,
)
from broken_variants import HookedAdapters, broken_count, restart
from onepiece import lab
from onepiece.adaptation import accuracy, batches, distance, family, fit, load_base, logits_of, traced
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, load_model, meta_model

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
chosen = houlsby(settings.reduction_factor)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## Three tasks that the base cannot do
#
# The same three for every method of this module. `relabel`: judge a review, but answer with a colour.
# `compose`: reverse some letters, then pick two; the base knows both and has never done one after the other.
# `new_facts`: facts about people whom it has never heard of.

# %% [markdown] lang="zh-TW"
# ## 基礎模型不會的三個任務
#
# 這個單元的每個方法都用同樣三個任務。`relabel`：判斷一則評論，但用顏色回答。
# `compose`：先把幾個字母反轉，再取兩個；兩件事基礎模型都會，但從沒接著做過。
# `new_facts`：一些人的資料，而它從沒聽過這些人。

# %%
tasks = family.load_tasks(tokenizer, chat=settings.chat)
lab.table(
    [tr("task", "任務"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("the base is right", "基礎模型答對")],
    [(name, task.held_out[0].prompt, task.held_out[0].answer, str(accuracy(base, task))) for name, task in tasks.items()],
)

# %% [markdown] lang="en"
# ## Down, bend, up, and past it
#
# An adapter takes what a sublayer gives, $h$, before it is added to the residual stream, squeezes it through a narrow layer
# with a non-linearity $f$, and adds the result to $h$:

# %% [markdown] lang="zh-TW"
# ## 往下、彎一下、往上，再加一條繞過去的路
#
# adapter 拿到子層的輸出 $h$（還沒加進殘差流），讓它穿過一個很窄、帶有非線性 $f$ 的層，再把結果加回 $h$：

# %% [markdown]
# $$h \;\leftarrow\; h + W_{\text{up}}\, f\bigl(W_{\text{down}}\,h + b_{\text{down}}\bigr) + b_{\text{up}}$$

# %%
lab.source(Bottleneck.forward)

# %% [markdown] lang="en"
# Houlsby et al. ([1902.00751](https://arxiv.org/abs/1902.00751)) put two into each layer, after attention and after the MLP;
# Pfeiffer et al. ([2005.00247](https://arxiv.org/abs/2005.00247)) one, after the MLP.
# What comes out of a sublayer is what its *last linear layer* gives: an adapter stands behind that one.
# The settings have the names of the `adapters` library: the width of the bottleneck is the hidden size divided by a *reduction factor*.

# %% [markdown] lang="zh-TW"
# Houlsby 等人（[1902.00751](https://arxiv.org/abs/1902.00751)）在每層放兩個：注意力之後、MLP 之後。
# Pfeiffer 等人（[2005.00247](https://arxiv.org/abs/2005.00247)）只放一個，在 MLP 之後。
# 子層的輸出，就是它*最後一個線性層*的輸出：adapter 站在那一層後面。
# 設定沿用 `adapters` 函式庫的名稱：瓶頸的寬度，是 hidden size 除以 *reduction factor*。

# %%
with_biases, _ = load_model(settings.bias_model, device=settings.device, dtype=settings.dtype)
lab.table(
    [
        tr("architecture", "架構"),
        tr("settings", "設定"),
        tr("behind which layers of block 0", "第 0 個 block 裡，在哪些層後面"),
    ],
    [
        (name, kind.__name__, ", ".join(place for place in adapter_places(model, kind(2)) if ".0." in place))
        for name, model in (("Llama", base), ("GPT-NeoX", with_biases))
        for kind in (houlsby, pfeiffer)
    ],
)

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-7B has 32 blocks of hidden size 4,096. With two adapters in each and a reduction factor of 16, how many numbers are trained?
# Write `llama_trained = ...` into `predictions.toml`. (LoRA of rank 8 on queries and values trains 4,194,304 there.)
#
# <details><summary>A hint</summary>
#
# How wide is the bottleneck? Which shapes do two linear layers have that lead there and back, and what has each besides its weight?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-7B 有 32 個 block，hidden size 是 4,096。每個 block 放兩個 adapter、reduction factor 是 16，要訓練多少個數？
# 把 `llama_trained = ...` 寫進 `predictions.toml`。（query 與 value 上秩 8 的 LoRA，在那裡訓練 4,194,304 個。）
#
# <details><summary>提示</summary>
#
# 瓶頸有多寬？走過去、再走回來的兩個線性層，各是什麼形狀？除了權重，各自還有什麼？
# </details>

# %%
wrong_by, without_biases = 0, 0
for options in (chosen, pfeiffer(settings.reduction_factor), pfeiffer(5, leave_out=(0,))):
    model, _ = load_base(settings)
    add_adapters(model, options, seed=0)
    trained = count_parameters(model).trainable  # counted in a real model
    width = functools.partial(bottleneck_width, reduction_factor=options.reduction_factor)
    wrong_by += abs(adapter_parameter_count(base, options) - trained)
    without_biases += abs(broken_count(adapter_places(base, options), width, "no_biases") - trained)
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", without_biases, variant="no_biases")

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
    "this run": (base, settings.reduction_factor),
    "Qwen2.5-0.5B": (meta_model(half_billion), 16),
    "Llama-2-7B": (meta_model(LlamaConfig()), 16),  # its default values are those of Llama 7B
}
counts = {
    name: (
        count_parameters(model).total,
        *(adapter_parameter_count(model, kind(factor)) for kind in (houlsby, pfeiffer)),
    )
    for name, (model, factor) in models.items()
}
large, width = models["Llama-2-7B"][0], functools.partial(bottleneck_width, reduction_factor=16)
lab.record("llama_trained", counts["Llama-2-7B"][1])
lab.record("llama_trained", broken_count(adapter_places(large, houlsby(16)), width, "no_biases"), variant="no_biases")
lab.table(
    [
        *(tr("model", "模型"), tr("parameters", "參數量"), tr("reduction factor", "reduction factor")),
        *(tr("two in each layer", "每層兩個"), tr("one", "每層一個")),
    ],
    [(name, f"{whole:,}", models[name][1], f"{two:,} ({two / whole:.1%})", f"{one:,}") for name, (whole, two, one) in counts.items()],
)

# %%
guess = lab.predict("llama_trained")
whole, seven, _ = counts["Llama-2-7B"]
lab.say(
    f"""Llama-2-7B gets **{seven:,}** numbers{"" if guess is None else f" (you guessed {guess:,.0f})"}: \
{seven / whole:.1%} of it, and {seven / 4_194_304:.0f} times as many as that LoRA.
Adapters were invented for models of a hundred million parameters; the count grows with the square of the hidden \
size.""",
    f"""Llama-2-7B 會多出 **{seven:,}** 個數{"" if guess is None else f"（你猜 {guess:,.0f}）"}：\
是它的 {seven / whole:.1%}，是那個 LoRA 的 {seven / 4_194_304:.0f} 倍。
adapter 是在一億參數的模型上發明的；參數量會隨 hidden size 的平方成長。""",
)

# %% [markdown] lang="en"
# ## Where training begins
#
# A random network in the way of every signal would be the end of a pretrained model. So an adapter begins as (nearly) nothing.
# Three starts are used in practice; the `adapters` library has all of them. By default it draws both weights, normal with a
# standard deviation of 0.02; Houlsby's draws them with 0.01; the third draws `down`, and `up` is zero. Which of them leave every logit as it
# was, to the bit?

# %% [markdown] lang="zh-TW"
# ## 訓練從哪裡開始
#
# 一個隨機的網路擋在每個訊號前面，預訓練的模型就完了。所以 adapter 一開始要（幾乎）什麼都不是。
# 實務上有三種起點，`adapters` 函式庫都有。預設是兩個權重都用標準差 0.02 的常態分布抽；
# Houlsby 的用 0.01；第三種抽 `down`，`up` 則是零。哪幾種會讓每個 logit 一個位元都不變？

# %%
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
wanted = logits_of(base, batch)  # (tokens, vocabulary), without the rows of padding


def started(mistake=None, **options):
    """The base with adapters that begin in a certain way."""
    model, _ = load_base(settings)
    add_adapters(model, houlsby(settings.reduction_factor, **options), seed=0)
    if mistake is not None:
        restart(model, mistake, seed=0)
    return model


identity, of_library = (
    distance(logits_of(started(), batch), wanted),
    distance(logits_of(started("library"), batch), wanted),
)
lab.record("identity_difference", identity)
lab.record("identity_difference", of_library, variant="library_start")
print(next(iter(adapted_layers(started()).values())))
lab.say(
    f"""Relative to the largest logit, fresh adapters change {identity:g}. With 0.02 for both weights they change \
{of_library:.2g}: \
near enough to train, but it is no longer the base.""",
    f"""相對於最大的 logit，全新的 adapter 改變了 {identity:g}。兩個權重都用 0.02 的話，改變 {of_library:.2g}：\
近到可以開始訓練，但已經不是基礎模型了。""",
)

# %% [markdown] lang="en"
# ## Four starts, three of them the identity
#
# $W_{\text{up}} f(W_{\text{down}} h)$ is zero if `up` is zero, if `down` is zero (for each $f$ here $f(0)=0$), or if both are.
# Before you run the next cell: which of the three can learn? The gradient of the first step says it, of each weight by itself.

# %% [markdown] lang="zh-TW"
# ## 四種起點，其中三種什麼都不改變
#
# `up` 是零、`down` 是零（這裡每個 $f$ 都滿足 $f(0)=0$）、兩者都是零，這三種情況下 $W_{\text{up}} f(W_{\text{down}} h)$ 都是零。
# 執行下一格之前先想：哪一種學得起來？第一步的梯度會告訴你，兩個權重分開看。


# %%
def gradient_norms(model):
    """Of all weights down, and of all weights up, in the first step."""
    model.train()
    given = {name: tensor.to(settings.device) for name, tensor in batch.items()}
    model(**given).loss.backward()
    adapters = [layer.stack[0] for layer in adapted_layers(model).values()]
    return [torch.stack([getattr(one, side).weight.grad.norm() for one in adapters]).norm().item() for side in ("down", "up")]


starts = {
    "up zero": {},
    "down zero, swish": {"mistake": "down_zero"},
    "down zero, relu": {"mistake": "down_zero", "non_linearity": "relu"},
    "both zero": {"mistake": "both_zero"},
    "both 0.02": {"mistake": "library"},
}
first_gradients = {name: gradient_norms(started(**options)) for name, options in starts.items()}
lab.table(
    [
        tr("start", "起點"),
        tr("changes the logits", "改變 logits"),
        tr("gradient of down", "down 的梯度"),
        tr("gradient of up", "up 的梯度"),
    ],
    [
        (name, f"{distance(logits_of(started(**starts[name]), batch), wanted):.2g}", *(f"{norm:.2g}" for norm in norms))
        for name, norms in first_gradients.items()
    ],
)

# %% [markdown] lang="en"
# ## Is it the method of the papers?
#
# `peft` 0.21 has no bottleneck adapters, and the `adapters` library is made for an older Transformers than this course uses: there is no
# library to stand beside.
# So the method is written a second time, another way: the base stays as it is, and *hooks* on its attentions and MLPs compute the formula with
# einsum. Equal start values and equal batches must give equal losses. In the control the bottleneck reads what goes *into* a sublayer instead
# of what comes out
# (a published method too, the parallel adapter of He et al., [2110.04366](https://arxiv.org/abs/2110.04366); but another one).

# %% [markdown] lang="zh-TW"
# ## 這就是論文裡的方法嗎？
#
# `peft` 0.21 沒有 bottleneck adapter，`adapters` 函式庫需要的 Transformers 又比這門課用的舊：沒有函式庫可以對照。
# 所以同一個方法用另一種方式再寫一次：基礎模型原封不動，由掛在注意力與 MLP 上的 *hook* 用 einsum 計算公式。
# 起始值與批次相同，每一步的損失就必須相同。對照組的瓶頸讀的是*進入*子層的東西，而不是出來的
# （那也是發表過的方法：He 等人的 parallel adapter，[2110.04366](https://arxiv.org/abs/2110.04366)；但不是這一個）。

# %%
budget = {
    "steps": settings.equal_steps,
    "learning_rate": settings.relabel_rate,
    "batch_size": settings.batch,
    "schedule": settings.schedule,
}


def way(kind, seed):
    """The base with fresh adapters: ours, hooks with the same start values, or hooks that read the other side."""
    model, _ = load_base(settings)
    add_adapters(model, chosen, seed=seed)
    return model if kind == "own" else HookedAdapters(model, load_base(settings)[0], None if kind == "oracle" else kind)


losses, apart = {}, {}
for seed in lab.progress(settings.seeds):
    train = functools.partial(fit, task=tasks["relabel"], seed=seed, progress=False, **budget)
    traces = {kind: traced(way(kind, seed), train, batch) for kind in ("own", "parallel", "oracle")}
    losses[seed] = {kind: np.array(trace.losses) for kind, trace in traces.items()}
    own, parallel = (traces[kind].apart_from(traces["oracle"]) for kind in ("own", "parallel"))
    apart[seed] = own, parallel
    lab.record("oracle_loss_difference", own.loss, seed=seed)
    lab.record("oracle_loss_difference", parallel.loss, seed=seed, variant="parallel")
    lab.record("oracle_logit_difference", own.after, seed=seed)
    lab.record("oracle_logit_difference", parallel.after, seed=seed, variant="parallel")

# %%
lab.figure(
    "own-and-oracle",
    beside_oracle(losses[settings.seeds[0]]),
    Text(
        en="Left: losses of our adapters, of the hooks (oracle), and of hooks that read what goes into a sublayer "
        "(parallel). Right: their distance from the oracle.",
        zh_tw="左：我們的 adapter、hook（oracle），以及讀取子層輸入的 hook（parallel）的損失。右：它們與 oracle 的距離。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
worst = [max(pair[index].loss for pair in apart.values()) for index in (0, 1)]
dead, alive = first_gradients["down zero, relu"], first_gradients["up zero"]
lab.say(
    f"""- {counts["this run"][1]:,} numbers in the model of this run; the formula is off by {wrong_by} in three \
models that were really built.
- With `up` zero, `up` has a gradient of {alive[1]:.2g} and `down` of {alive[0]:g}: one step later `up` is not zero \
any more, and both move.
- With `down` zero and relu, both are {max(dead):g}: the logits were the base's to the bit as well, and would stay \
so, but for the biases. \
"It changes nothing at the start" does not say that it learns.
- Over {len(settings.seeds)} seeds the losses of the two ways to write it differ by {worst[0]:.1e} nats at most; \
reading the other side \
of a sublayer makes {worst[1]:.2g}.""",
    f"""- 這次執行的模型上有 {counts["this run"][1]:,} 個數；在三個實際建出來的模型上，公式總共差了 {wrong_by} 個。
- `up` 是零時，`up` 的梯度是 {alive[1]:.2g}，`down` 的是 {alive[0]:g}：走一步之後 `up` 就不再是零，兩者都會動。
- `down` 是零又用 relu 時，兩者都是 {max(dead):g}：logits 同樣跟基礎模型一個位元都不差，而且除了偏差之外會一直如此。\
「一開始不改變任何東西」並不代表學得起來。
- {len(settings.seeds)} 個種子之下，兩種寫法的損失最多差 {worst[0]:.1e} nats；改讀子層的另一邊則差 {worst[1]:.2g}。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The share of the small model is that of a toy, and its bottleneck is wide; the formula and the counts on `meta` carry over.
# - Houlsby et al. put adapters into BERT, which normalises *after* each sublayer, and trained its norms too.
#   A decoder of today normalises before; the norms stay frozen here.
#
# **Exercises.** 1, 2 and 3 (`adapters.py`: the count, the start, the forward pass) belong here: `nox -s check -- lab-1.1.2-adapters`.
#
# **Next:** what can they learn, and what do they cost?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 小模型上的比例是玩具的比例，瓶頸也很寬；能帶走的是公式，以及在 `meta` 上數到的數字。
# - Houlsby 等人把 adapter 放進 BERT，它在每個子層*之後*才做正規化，而且連 norm 一起訓練。
#   現在的 decoder 在之前做；這裡的 norm 維持凍結。
#
# **練習。** 練習 1、2、3（`adapters.py`：參數量、起點、前向傳播）屬於這一本：`nox -s check -- lab-1.1.2-adapters`。
#
# **下一步：** 它們學得會什麼？代價又是什麼？
