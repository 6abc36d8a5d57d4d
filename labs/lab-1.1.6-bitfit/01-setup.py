# %% [markdown] lang="en"
# # 1. Constants
#
# **Question.** BitFit trains only numbers that are added whatever the input is. How many of those does a model have, does it *hear* all of them, and what if it has none?
#
# | | |
# |---|---|
# | You build | BitFit in plain PyTorch: the biases of a model found, told apart by kind, trained alone; the proof that `peft` does the same with a LoRA of zeros |
# | You write | exercises 1 to 4 |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | the biases of four architectures, counted; random numbers added where nobody notices; a model that refuses, and says what to do; losses beside those of `peft` |

# %% [markdown] lang="zh-TW"
# # 1. 常數
#
# **問題。** BitFit 只訓練那些不管輸入是什麼都會加上去的數字。一個模型有幾個這樣的數字？模型全都*聽得見*嗎？一個都沒有的話怎麼辦？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出 BitFit：找出模型的偏差、分出種類、只訓練它們；並證明 `peft` 用一個全是零的 LoRA 也在做同樣的事 |
# | 你要寫的 | 練習 1 到 4 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 四種架構的偏差各有幾個；把亂數加在沒有人會發現的地方；一個拒絕訓練、並告訴你該怎麼辦的模型；每一步的損失與 `peft` 並列 |

# %%
import copy
import functools

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, LlamaConfig, Qwen2Config

from bias_files import save_biases
from bitfit import Architecture, bias_count, bias_parameters, masks_by_kind, require_gradients, train_biases_only
from broken_variants import broken_count, broken_names, shift_biases
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    batches,
    distance,
    family,
    fit,
    in_peft,
    load_base,
    logits_of,
    traced,
)
from onepiece.course.text import Text, tr
from onepiece.figures import training_curves
from onepiece.models import count_parameters, load_model, meta_model

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## Three tasks that the base cannot do
#
# The same three for every method of this module. `relabel`: judge a review, but answer with a colour. `compose`: reverse some letters, then pick two. `new_facts`: facts about people of whom it has never heard. The base is another one than in most labs here: it has biases.

# %% [markdown] lang="zh-TW"
# ## 基礎模型不會的三個任務
#
# 這個單元的每個方法都用同樣三個任務。`relabel`：判斷一則評論，但用顏色回答。`compose`：先把幾個字母反轉，再取兩個。`new_facts`：一些人的資料，而它從沒聽過這些人。基礎模型則跟這個單元多數的實驗不同：它有偏差。

# %%
tasks = family.load_tasks(tokenizer, chat=settings.chat)
lab.table(
    [tr("task", "任務"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("the base is right", "基礎模型答對")],
    [
        (name, task.held_out[0].prompt, task.held_out[0].answer, str(accuracy(base, task)))
        for name, task in tasks.items()
    ],
)

# %% [markdown] lang="en"
# ## The last thing that a layer does
#
# LoRA gives a layer a new path from its input to its output. BitFit (Ben Zaken, Ravfogel and Goldberg 2021, [2106.10199](https://arxiv.org/abs/2106.10199)) gives it nothing: the constant that it adds anyway may change, and that is all.

# %% [markdown] lang="zh-TW"
# ## 一層最後做的事
#
# LoRA 給一層一條從輸入到輸出的新路。BitFit（Ben Zaken、Ravfogel 與 Goldberg，2021，[2106.10199](https://arxiv.org/abs/2106.10199)）什麼都不給：只准改它本來就會加上去的那個常數。

# %% [markdown]
# $$y = W x + b\qquad\text{LoRA: } y = (W + BA)\,x + b\qquad\text{BitFit: } y = W x + (b + \Delta b)$$

# %% [markdown] lang="en"
# Which parameters are biases? By name, it seems; and the check of exercise 1 has a model in which five ways of reading names give five answers.

# %% [markdown] lang="zh-TW"
# 哪些參數是偏差？看名稱就知道，好像是這樣；練習 1 的檢查裡有一個模型，五種讀名稱的方法會得到五種答案。

# %%
lab.source(bias_parameters)

# %% [markdown] lang="en"
# ## Predict
#
# Write into `predictions.toml`:
#
# ```toml
# qwen_biases = 100_000     # of Qwen2.5-0.5B: 24 blocks, hidden size 896, keys and values 128 wide each, inside of the MLP 4,864
# llama_biases = 100_000    # of Llama-2-7B: 32 blocks, hidden size 4,096, inside of the MLP 11,008
# ```
#
# <details><summary>A hint</summary>
#
# Which of their layers have a bias at all? And what does RMSNorm leave out of LayerNorm?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 把這些寫進 `predictions.toml`：
#
# ```toml
# qwen_biases = 100_000     # Qwen2.5-0.5B：24 個 block，hidden size 896，key 與 value 各寬 128，MLP 內部寬 4,864
# llama_biases = 100_000    # Llama-2-7B：32 個 block，hidden size 4,096，MLP 內部寬 11,008
# ```
#
# <details><summary>提示</summary>
#
# 它們的哪些層根本就有偏差？RMSNorm 又比 LayerNorm 少了什麼？
# </details>

# %%
half_billion = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
seven_billion = GPTNeoXConfig(
    hidden_size=4096, intermediate_size=16384, num_hidden_layers=32, num_attention_heads=32, vocab_size=50432
)
nothing = {"on_attention_inputs": False, "on_other_layers": False, "on_norms": False}
tiny_bias, _ = load_model("tiny-bias", device=settings.device, dtype=settings.dtype)
models = {
    "tiny-bias": (tiny_bias, Architecture(4, 64, 64, 256)),
    "GPT-NeoX, 7B": (meta_model(seven_billion), Architecture(32, 4096, 4096, 16384)),
    "Qwen2.5-0.5B": (meta_model(half_billion), Architecture(24, 896, 128, 4864, on_other_layers=False, on_norms=False)),
    "Llama-2-7B": (meta_model(LlamaConfig()), Architecture(32, 4096, 4096, 11008, **nothing)),  # its default values
}
counts, vectors, wrong_by = {}, {}, 0
for name, (model, architecture) in models.items():
    counts[name] = sum(bias.numel() for bias in bias_parameters(model).values()), count_parameters(model).total
    vectors[name] = broken_count(model, "vectors")
    wrong_by += abs(bias_count(architecture) - counts[name][0])
lab.record("parameter_count_difference", wrong_by)
miscounted = sum(abs(vectors[name] - counts[name][0]) for name in models)
lab.record("parameter_count_difference", miscounted, variant="vectors")
lab.record("qwen_biases", counts["Qwen2.5-0.5B"][0])
lab.record("qwen_biases", vectors["Qwen2.5-0.5B"], variant="vectors")
lab.record("llama_biases", counts["Llama-2-7B"][0])
lab.record("llama_biases", vectors["Llama-2-7B"], variant="vectors")
lab.table(
    [tr("model", "模型"), tr("parameters", "參數量"), tr("biases", "偏差"), tr("share", "比例"), tr("everything 1-D", "所有一維的")],
    [
        (name, f"{whole:,}", f"{own:,}", f"{own / whole:.3%}", f"{vectors[name]:,}")
        for name, (own, whole) in counts.items()
    ],
)

# %%
guesses = {name: lab.predict(name) for name in ("qwen_biases", "llama_biases")}
said = {name: "" if guess is None else f" (you guessed {guess:,.0f})" for name, guess in guesses.items()}
said_zh = {name: "" if guess is None else f"（你猜 {guess:,.0f}）" for name, guess in guesses.items()}
lab.say(
    f"""Qwen2.5-0.5B has **{counts["Qwen2.5-0.5B"][0]:,}** biases{said["qwen_biases"]}, \
on queries, keys and values only; Llama-2-7B has **{counts["Llama-2-7B"][0]:,}**{said["llama_biases"]}. \
Whoever takes everything of one dimension for a bias trains {vectors["Llama-2-7B"]:,} *factors* there: the weights \
of RMSNorm.
BitFit was written for BERT, whose layers all have biases. It is a method for the models of its time, and whether \
it is one for yours is a question of the architecture.""",
    f"""Qwen2.5-0.5B 有 **{counts["Qwen2.5-0.5B"][0]:,}** 個偏差{said["qwen_biases"]}，只在 query、key、value 上；Llama-2-7B 有 \
**{counts["Llama-2-7B"][0]:,}** 個{said["llama_biases"]}。把所有一維的參數都當成偏差的人，在那裡訓練的是 {vectors["Llama-2-7B"]:,} 個*倍率*：\
RMSNorm 的權重。
BitFit 是為 BERT 而寫的，BERT 每一層都有偏差。它適合當時的模型；適不適合你的，要看架構。""",
)

# %% [markdown] lang="en"
# ## A model without biases
#
# `tiny`, the base of the other labs, is a small Llama. A script that looks for biases, finds none and carries on would train nothing and report a loss all the same. Ours refuses.

# %% [markdown] lang="zh-TW"
# ## 沒有偏差的模型
#
# 其他實驗的基礎模型 `tiny` 是小型的 Llama。有些程式找不到偏差也照跑，什麼都沒訓練到，卻還是回報損失。我們的會拒絕。

# %%
llama, _ = load_model(settings.plain_model, device=settings.device, dtype=settings.dtype)
try:
    train_biases_only(llama)
except ValueError as refusal:
    print(refusal)

# %% [markdown] lang="en"
# ## Of which kind?
#
# GPT-NeoX computes queries, keys and values in one layer, so one bias of length 3 × hidden holds all three; whose is number 70? Exercise 2 says. Where two architectures order the same numbers otherwise, code that reads one as the other fails without a word.

# %% [markdown] lang="zh-TW"
# ## 是哪一種？
#
# GPT-NeoX 用一層同時算出 query、key、value，所以一個長度 3 × hidden 的偏差裡三種都有；第 70 個是誰的？練習 2 會回答。兩種架構若以不同順序排同樣的數字，照另一種去讀的程式會出錯，而且一聲不響。

# %%
of_kind = {kind: sum(int(mask.sum()) for mask in masks.values()) for kind, masks in masks_by_kind(base).items()}
lab.table(
    [tr("kind", "種類"), tr("biases", "偏差"), tr("share of all", "占全部")],
    [(kind, f"{number:,}", f"{number / sum(of_kind.values()):.1%}") for kind, number in of_kind.items()],
)

# %% [markdown] lang="en"
# ## Predict: are they all heard?
#
# Take a GPT-2 (random weights, absolute positions) and add random numbers, as large as 1, to the bias of *every key* in every layer. By how much do the logits change, relative to the largest? Write `key_bias_difference = ...` into `predictions.toml`. Then the same in `tiny-bias`, which turns queries and keys by their position (rotary).
#
# <details><summary>A hint</summary>
#
# A score is $q_i\cdot(k_j+s)$. Multiply it out. Which part depends on $j$, and what does softmax do with the rest?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看：全都聽得見嗎？
#
# 拿一個 GPT-2（隨機權重、絕對位置），在每一層*所有 key* 的偏差上，加上大小約為 1 的亂數。logits 相對於最大的那個會改變多少？把 `key_bias_difference = ...` 寫進 `predictions.toml`。然後在 `tiny-bias` 上做同樣的事，它會依位置旋轉 query 與 key（rotary）。
#
# <details><summary>提示</summary>
#
# 分數是 $q_i\cdot(k_j+s)$。把它展開。哪一部分與 $j$ 有關？softmax 又會怎麼處理剩下的？
# </details>

# %%
ids = torch.arange(4, 124, device=settings.device).reshape(4, 30)  # any tokens will do
probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
torch.manual_seed(0)
absolute = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=4, n_head=2, vocab_size=1024, bos_token_id=1, eos_token_id=2))
absolute = absolute.to(settings.device).eval()


def third(name, bias, number):
    """In GPT-2 queries, keys and values are thirds of the fused layer, and not interleaved."""
    mask = torch.zeros(bias.shape, dtype=torch.bool)
    if name.endswith("c_attn.bias"):
        mask[number * len(bias) // 3 : (number + 1) * len(bias) // 3] = True
    return mask


heard = {}
for kind, number in (("query", 0), ("key", 1)):
    for place, model in (("GPT-2", absolute), ("tiny-bias", tiny_bias)):
        shifted = copy.deepcopy(model)
        biases = bias_parameters(shifted)
        in_gpt2 = {name: third(name, bias, number) for name, bias in biases.items()}
        shift_biases(biases, in_gpt2 if place == "GPT-2" else masks_by_kind(shifted)[kind], seed=0)
        heard[place, kind] = distance(logits_of(shifted, probe), logits_of(model, probe))
lab.record("key_bias_difference", heard["GPT-2", "key"])
lab.record("key_bias_difference", heard["tiny-bias", "key"], variant="rotary")
lab.table(
    [
        *(tr("model", "模型"), tr("random numbers on", "亂數加在")),
        tr("largest change of a logit (relative)", "logit 的最大改變（相對值）"),
    ],
    [(*key, value) for key, value in heard.items()],
)

# %%
guess = lab.predict("key_bias_difference")
of_gpt2 = bias_parameters(absolute)
of_keys = sum(int(third(name, bias, 1).sum()) for name, bias in of_gpt2.items())
silent = of_keys / sum(bias.numel() for bias in of_gpt2.values())
lab.say(
    f"""In the GPT-2 the keys' biases change \
{heard["GPT-2", "key"]:.1e}{"" if guess is None else f" (you guessed {guess:.2g})"}: rounding. \
$q_i\\cdot s$ is the same for every $j$, and softmax does not see what is added to all scores. \
Of such a model's biases {silent:.1%} are trained for nothing, with a gradient of zero.
With rotary positions the same numbers change {heard["tiny-bias", "key"]:.2g}: between query and key stands a \
rotation by their distance, so that the constant becomes a taste for certain distances. \
The same method, the same kind, another architecture: heard or not.""",
    f"""在 GPT-2 上，key 的偏差只改變了 {heard["GPT-2", "key"]:.1e}{"" if guess is None else f"（你猜 {guess:.2g}）"}：只是捨入。\
$q_i\\cdot s$ 對每個 $j$ 都一樣，而所有分數一起加上的東西，softmax 看不見。這種模型有 {silent:.1%} 的偏差是白訓練的，梯度為零。
有 rotary 位置的話，同樣的亂數會改變 {heard["tiny-bias", "key"]:.2g}：query 與 key 之間隔著依距離的旋轉，常數就變成了對某些距離的偏好。\
同樣的方法、同樣的種類，換一個架構，聽得見與聽不見就不同。""",
)

# %% [markdown] lang="en"
# ## Is it what `peft` would do?
#
# `peft` has no BitFit. It has `LoraConfig(bias="all")`: LoRA, and every bias beside it. A LoRA whose two matrices are *both* zero never gets a gradient, so what remains is BitFit. Ours goes there as files. The control is the nearest mistake, the biases of linear layers without those of norms.

# %% [markdown] lang="zh-TW"
# ## `peft` 做的是同一件事嗎？
#
# `peft` 沒有 BitFit，但有 `LoraConfig(bias="all")`：LoRA，外加所有的偏差。兩個矩陣*都*是零的 LoRA 永遠拿不到梯度，剩下的就是 BitFit。我們的以檔案交過去。對照組是最接近的錯誤：只訓練線性層的偏差，漏了 norm 的。

# %%
budget = {"steps": settings.equal_steps, "learning_rate": settings.relabel_rate, "batch_size": settings.batch}
write = functools.partial(save_biases, base, base_model_name=base_identity(settings)[0])
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)


def model_of(kind):
    """The base, ready to be trained: ours, ours without the norms, or peft's."""
    model, _ = load_base(settings)
    if kind == "peft":
        return in_peft(model, write, trainable=True)
    if kind == "own":
        train_biases_only(model)
    else:
        biases = bias_parameters(model)
        wrong = broken_names(model, "no_norms")
        wrong = wrong[::2] if len(wrong) == len(biases) else wrong  # no norm of a Qwen has one: every second bias then
        require_gradients(model, {name: torch.ones(biases[name].shape, dtype=torch.bool) for name in wrong})
    return model


losses, apart = {}, {}
for seed in lab.progress(settings.seeds):
    train = functools.partial(fit, task=tasks["relabel"], seed=seed, progress=False, **budget)
    traces = {kind: traced(model_of(kind), train, batch) for kind in ("own", "no_norms", "peft")}
    losses[seed] = {kind: trace.losses for kind, trace in traces.items()}
    own, wrong = (traces[kind].apart_from(traces["peft"]) for kind in ("own", "no_norms"))
    apart[seed] = own, wrong
    lab.record("peft_loss_difference", own.loss, seed=seed)
    lab.record("peft_loss_difference", wrong.loss, seed=seed, variant="no_norms")
    lab.record("peft_logit_difference", own.after, seed=seed)
    lab.record("peft_logit_difference", wrong.after, seed=seed, variant="no_norms")

# %%
shown = {kind: losses[settings.seeds[0]][kind] for kind in ("peft", "own", "no_norms")}
lab.figure(
    "own-and-peft",
    training_curves(shown, ylabel=tr("loss (nats per token)", "損失（nats／token）")),
    Text(
        en="Losses over the steps: peft's LoRA of zeros with all biases, our biases, and ours without those of norms.",
        zh_tw="損失隨步數的變化：peft 全零的 LoRA 加上所有偏差、我們的偏差，以及漏了 norm 的版本。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
worst = [max(pair[index].loss for pair in apart.values()) for index in (0, 1)]
lab.say(
    f"""- The formula of the count is off by {wrong_by} over four architectures, most of them on `meta` only.
- Over {len(settings.seeds)} orders of the data the losses of ours and of `peft` differ by {worst[0]:.1e} nats \
at most; without the norms' biases they would by {worst[1]:.2g}.
- Nothing was put into the model: it has {count_parameters(base).total:,} parameters, as before. Nothing is random \
either.""",
    f"""- 參數量的公式在四種架構上總共差了 {wrong_by} 個，其中幾種只存在於 `meta` 上。
- {len(settings.seeds)} 種資料順序之下，我們與 `peft` 的損失最多差 {worst[0]:.1e} nats；漏了 norm 的偏差則會差 {worst[1]:.2g}。
- 模型裡沒有放進任何東西：參數量是 {count_parameters(base).total:,}，跟原來一樣。也沒有用到任何亂數。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The shares are those of small models; the formula and the counts on `meta` carry over.
# - The GPT-2 here has random weights: what it shows is algebra, and holds for trained ones too.
#
# **Exercises.** 1, 2 and 3 (`bitfit.py`: names, kinds, freezing) and 4 (`bias_files.py`: the file) belong here: `nox -s check -- lab-1.1.6-bitfit`.
#
# **Next:** what can be learned by constants?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的比例是小模型的；能套用到大模型的是公式，以及在 `meta` 上數出來的數字。
# - 這裡的 GPT-2 用的是隨機權重：它展示的是代數，對訓練過的也成立。
#
# **練習。** 練習 1、2、3（`bitfit.py`：名稱、種類、凍結）與練習 4（`bias_files.py`：檔案）屬於這一本：`nox -s check -- lab-1.1.6-bitfit`。
#
# **下一步：** 只靠常數，學得會什麼？
