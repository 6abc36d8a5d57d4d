# %% [markdown] lang="en"
# # 1. Writing into a model's memory
#
# **Question.** You may not touch one weight of a model, and you may not change what it is asked. But you may write into its memory: the keys and values that it keeps of what it has read. What can you make it believe, and what does it cost merely to have something there?
#
# | | |
# |---|---|
# | You build | a prefix: keys and values of every layer, in the cache before any text; its count; its share of attention; the proof that it is the prefix that `peft` trains |
# | You write | exercises 1, 2 and 4 (`prefix_tuning.py`), 5 (`attention_share.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | a model that answers a question about a text that is not there; what numbers that are all zero do to it |

# %% [markdown] lang="zh-TW"
# # 1. 寫進模型的記憶
#
# **問題。** 模型的權重一個都不准碰，問它的題目也不准改。但你可以寫進它的記憶：它為讀過的東西保留的 key 與 value。你能讓它相信什麼？光是放了東西在那裡，又要付出什麼代價？
#
# | | |
# |---|---|
# | 你會做出 | 一個 prefix：每一層的 key 與 value，在任何文字之前就放進快取；它的參數量；它分走的注意力；並證明它就是 `peft` 訓練的那種 prefix |
# | 你要寫的 | 練習 1、2、4（`prefix_tuning.py`）與 5（`attention_share.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 模型回答一個關於「不在那裡的文字」的問題；全部是零的數字對它做了什麼 |

# %%
import functools

import numpy as np
import torch
from transformers import LlamaConfig, Qwen2Config

from attention_mass import measured_share, text_scores
from attention_share import prefix_share
from broken_variants import ValuesFirst, broken_count, broken_share, from_position_zero, hidden_size_count
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    distance,
    family,
    fit,
    load_base,
    load_task,
    logits_of,
    traced,
)
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, meta_model
from onepiece.tiny.tokenizer import prompt_text
from prefix_figures import beside_peft, zeros_over_length
from prefix_files import trainable_in_peft
from prefix_tuning import (
    DirectPrefix,
    PrefixSettings,
    add_prefix,
    exported,
    prefix_parameter_count,
    rows_of_text,
    rows_to_entries,
)

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
shape = CacheShape.of(base.config)
tasks = family.load_tasks(tokenizer, chat=settings.chat)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}, {shape}")

# %% [markdown] lang="en"
# ## A text that is not there
#
# A model that writes token after token does not read the text again each time: of each token it keeps, in every layer, a key (what it can be found by) and a value (what it gives when it is found). That is the *cache*. It is all that later tokens see of earlier ones.
#
# So let the base read the first half of a question, take what it keeps, and throw the text away. A fresh copy gets these numbers and the second half only. What will it answer?

# %% [markdown] lang="zh-TW"
# ## 不在那裡的文字
#
# 模型一個 token 接一個 token 往下寫，並不是每次都把整段文字重讀一遍：對每個 token，它在每一層都留下一個 key（憑什麼被找到）和一個 value（被找到時給出什麼）。這就是*快取*（cache）。後面的 token 能看到的前文，就只有這些。
#
# 所以：讓基礎模型讀題目的前半段，取出它留下的東西，再把文字丟掉。另一份全新的模型，只拿到這些數字和題目的後半段。它會答什麼？

# %%
lab.source(rows_of_text)

# %%
known = load_task("lookup", tokenizer, train_items=settings.batch, held_out_items=20, chat=settings.chat)


def halves(item):
    """The token ids of a question: those up to its first full stop, and the rest."""
    token_ids = tokenizer(prompt_text(item, tokenizer, chat=settings.chat), add_special_tokens=False)["input_ids"]
    end = next(place for place in range(len(token_ids)) if tokenizer.decode(token_ids[: place + 1]).rstrip().endswith((".", "。")))
    return token_ids[: end + 1], token_ids[end + 1 :]


def answer(model, token_ids):
    """A greedy answer."""
    prompt = torch.tensor([token_ids], device=settings.device)
    greedy = {"max_new_tokens": settings.answer_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **greedy)[0, len(token_ids) :]
    return tokenizer.decode(written, skip_special_tokens=True).strip()


rows, differences, from_zero = [], [], []
for item in known.held_out[:4]:
    gone, asked = halves(item)
    remembering = add_prefix(load_base(settings)[0], PrefixSettings(len(gone)), token_ids=gone)
    rows.append([tokenizer.decode(gone[1:]), tokenizer.decode(asked), item.answer, answer(remembering, asked), answer(base, asked)[:24]])
    whole = torch.tensor([gone + asked], device=settings.device)
    wanted = base(whole).logits[0, len(gone) :].detach()
    batch = {"input_ids": whole[:, len(gone) :], "attention_mask": torch.ones_like(whole[:, len(gone) :])}
    differences.append(distance(logits_of(remembering, batch), wanted))
    from_zero.append(distance(logits_of(remembering, from_position_zero(batch, len(gone))), wanted))
lab.record("text_difference", max(differences))
lab.record("text_difference", min(from_zero), variant="positions_from_zero")
lab.table(
    [
        *(tr("only in the memory", "只在記憶裡"), tr("all that is asked", "真正問的只有"), tr("wanted", "正確答案")),
        *(tr("with the memory", "有這份記憶"), tr("without", "沒有")),
    ],
    rows,
)

# %%
lab.say(
    f"""The memory of a text *is* the text: the logits differ by {max(differences):.1e} of the largest one from those of a model that reads all of it.
One thing must be right besides: the positions. A Llama rotates each key by its position before it keeps it, so the \
question has to stand behind the memory. If it begins at position 0 again, the logits are off by {min(from_zero):.2g} \
at least, and nothing complains.""",
    f"""一段文字的記憶*就是*那段文字：跟把全文讀完的模型相比，logits 只差最大值的 {max(differences):.1e}。
除此之外還有一件事要對：位置。Llama 在留下 key 之前，會依位置旋轉它，所以題目必須排在記憶後面。如果位置又從 0 開始，logits 至少差 {min(from_zero):.2g}，而且不會有任何錯誤訊息。""",
)

# %% [markdown] lang="en"
# ## Numbers that no text has
#
# Nobody says that the numbers in the memory must come from a text. Make them parameters, freeze everything else, and train them. That is prefix tuning (Li and Liang, [2101.00190](https://arxiv.org/abs/2101.00190)). A prompt as in prompt tuning (Lester et al., [2104.08691](https://arxiv.org/abs/2104.08691)) is read by the first layer, and the layers make keys and values of it; a prefix is written into every layer directly.

# %% [markdown] lang="zh-TW"
# ## 沒有任何文字寫得出來的數字
#
# 誰說記憶裡的數字一定要來自文字？把它們當成參數，其他全部凍結，拿去訓練。這就是 prefix tuning（Li 與 Liang，[2101.00190](https://arxiv.org/abs/2101.00190)）。Prompt tuning（Lester 等人，[2104.08691](https://arxiv.org/abs/2104.08691)）的 prompt 由第一層讀進去，再由各層算成 key 與 value；prefix 則是直接寫進每一層。

# %%
lab.source(rows_to_entries)

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-70B has 80 layers, hidden size 8,192, and 64 heads of 128; eight heads share their keys and values. How many numbers are stored for a prefix of 16 virtual tokens? Write `stored_70b = ...` into `predictions.toml`. And:
#
# ```toml
# zero_share = 0.0    # 8 keys and values that are all zero, before texts of this lab: which share of the attention of the first layer do they get? (0 to 1)
# ```
#
# The documentation of `peft` says of `init_weights="zero"` in a prefix: "the weights are initialized so that the activations will be a no-op (zero)" (`peft/tuners/prefix_tuning/config.py`, version 0.21).

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-70B 有 80 層，hidden size 是 8,192，64 個 head、每個 128 維；每八個 head 共用 key 與 value。16 個虛擬 token 的 prefix 要存幾個數字？把 `stored_70b = ...` 寫進 `predictions.toml`。還有：
#
# ```toml
# zero_share = 0.0    # 在這個實驗的文字前面放 8 個全部是零的 key 與 value：第一層的注意力有多少比例分給它們？（0 到 1）
# ```
#
# `peft` 的文件這樣說明 prefix 的 `init_weights="zero"`："the weights are initialized so that the activations will be a no-op (zero)"（`peft/tuners/prefix_tuning/config.py`，0.21 版）。

# %%
sizes = [(4, 0), (16, 0), (16, 64)]
table, wrong_by, forgotten_by = [], 0, 0
for virtual, encoder in sizes:
    chosen = PrefixSettings(virtual, encoder)
    model = add_prefix(load_base(settings)[0], chosen, seed=0)
    stored, trained = exported(model.prefix).rows.numel(), count_parameters(model).trainable  # counted in a real model
    formula = prefix_parameter_count(shape, chosen)
    wrong_by += abs(formula[0] - stored) + abs(formula[1] - trained)
    forgotten_by += abs(broken_count(shape, chosen, "keys_only")[0] - stored)
    table.append([virtual, encoder or "-", f"{stored:,}", f"{trained:,}", f"{stored / count_parameters(base).total:.2%}"])
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", forgotten_by, variant="keys_only")
lab.table(
    [
        *(tr("virtual tokens", "虛擬 token"), tr("encoder", "編碼器"), tr("stored", "存放的"), tr("trained", "訓練的")),
        tr("stored, share of the base", "存放的，占基礎模型的比例"),
    ],
    table,
)

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
    "Llama-2-7B": meta_model(LlamaConfig()),  # its default values are those of Llama 7B
    "Llama-2-70B": meta_model(seventy_billion),
}
sixteen = PrefixSettings(16)
counts = {
    name: (
        count_parameters(model).total,
        prefix_parameter_count(CacheShape.of(model.config), sixteen)[0],
        hidden_size_count(model.config, 16),
    )
    for name, model in models.items()
}
lab.record("stored_70b", counts["Llama-2-70B"][1])
lab.record("stored_70b", counts["Llama-2-70B"][2], variant="hidden_size")
lab.table(
    [
        *(tr("model", "模型"), tr("parameters", "參數量"), tr("16 virtual tokens", "16 個虛擬 token"), tr("share", "比例")),
        tr("by the hidden size", "若用 hidden size 算"),
    ],
    [(name, f"{whole:,}", f"{own:,}", f"{own / whole:.4%}", f"{wrong:,}") for name, (whole, own, wrong) in counts.items()],
)

# %%
guess = lab.predict("stored_70b")
whole, seventy, by_hidden = counts["Llama-2-70B"]
lab.say(
    f"""Llama-2-70B keeps **{seventy:,}** numbers{"" if guess is None else f" (you guessed {guess:,.0f})"}, fewer than the \
{counts["Llama-2-7B"][1]:,} of 7B: heads that share their keys have a small memory. \
By the hidden size it would be {by_hidden:,}.
In the model of this run the heads together are wider than the hidden size ({shape.width} and \
{base.config.hidden_size}), so even without shared keys the hidden size gives a wrong number.""",
    f"""Llama-2-70B 要存 **{seventy:,}** 個數字{"" if guess is None else f"（你猜 {guess:,.0f}）"}，比 7B 的 {counts["Llama-2-7B"][1]:,} \
個還少：head 共用 key，記憶就小。用 hidden size 來算會得到 {by_hidden:,}。
這次執行的模型，所有 head 合起來比 hidden size 還寬（{shape.width} 與 {base.config.hidden_size}），所以就算沒有共用 key，用 hidden size 算也是錯的。""",
)

# %% [markdown] lang="en"
# ## Nothing is something
#
# LoRA starts with a zero and changes nothing. What does a memory of zeros do? Its values add nothing. But its keys take part in the softmax: a key of zeros has a score of 0 with every query, and $e^0 = 1$. With $v$ such entries, a query whose scores with the text are $s_1, \dots, s_n$ gives away the share

# %% [markdown] lang="zh-TW"
# ## 什麼都沒有，也是有東西
#
# LoRA 從零開始，什麼都不改變。一份全部是零的記憶呢？它的 value 什麼都不加。可是它的 key 會參加 softmax：全是零的 key，跟任何 query 的分數都是 0，而 $e^0 = 1$。有 $v$ 筆這樣的記憶時，一個對文字的分數是 $s_1, \dots, s_n$ 的 query，會分出去的比例是

# %% [markdown]
# $$\lambda = \frac{v}{v + \sum_{j} e^{s_j}},\qquad \text{attention} = (1-\lambda)\,\text{attention}_{\text{text}} + \lambda\cdot 0$$

# %% [markdown] lang="en"
# For any prefix the numerator is the sum of $e^{\text{score}}$ over its keys, and the last term is the attention over the prefix: a prefix is a second attention, mixed in by a gate (He et al., [2110.04366](https://arxiv.org/abs/2110.04366)). The share is computed from the scores of the base, and measured by how much shorter the output of each head has become.

# %% [markdown] lang="zh-TW"
# 一般的 prefix，分子是對它的 key 的 $e^{\text{score}}$ 總和，最後一項則是對 prefix 的注意力：prefix 就是另一份注意力，由一個閘門混進來（He 等人，[2110.04366](https://arxiv.org/abs/2110.04366)）。這個比例可以由基礎模型的分數算出來，也可以量出來：看每個 head 的輸出縮短了多少。

# %%
lab.source(prefix_share)


# %%
def zeros(virtual):
    """The base with a memory of zeros."""
    return PrefixModel(base, DirectPrefix(torch.zeros(virtual, shape.numbers), shape))


texts = [tokenizer(item.plain, return_tensors="pt")["input_ids"].to(settings.device) for item in tasks["relabel"].held_out[:20]]
eight = 8
measured, formula, by_length = [], [], []
for token_ids in texts:
    scores = text_scores(base, token_ids)
    of_zeros = scores.new_zeros(*scores.shape[:-1], eight)
    measured.append(measured_share(base, zeros(eight), token_ids).flatten())
    formula.append(prefix_share(scores, of_zeros).flatten())
    by_length.append(broken_share(scores, of_zeros, "length").flatten())
measured, formula, by_length = (torch.cat(values) for values in (measured, formula, by_length))
share = measured.mean().item()
lab.record("zero_share", share)
lab.record("zero_share_error", (measured - formula).abs().max())
lab.record("zero_share_error", measured.abs().max(), variant="no_op")
lab.record("zero_share_error", (measured - by_length).abs().max(), variant="length")

# %%
skills = {name: load_task(name, tokenizer, train_items=settings.batch, held_out_items=60, chat=settings.chat) for name in settings.skills}
lengths = settings.zero_lengths
over_length = {"share": [], **{name: [] for name in skills}}
for virtual in lengths:
    over_length["share"].append(torch.cat([measured_share(base, zeros(virtual), ids).flatten() for ids in texts]).mean().item())
    for name, task in skills.items():
        over_length[name].append(accuracy(zeros(virtual), task).accuracy)
untouched = {name: accuracy(base, task).accuracy for name, task in skills.items()}
lab.figure(
    "zeros",
    zeros_over_length(lengths, over_length, untouched),
    Text(
        en="A memory of zeros: the share of the first layer's attention that it takes, and what is left of skills that the base has.",
        zh_tw="全部是零的記憶：它分走第一層多少注意力，以及基礎模型原有的技能還剩多少。",
    ),
)

# %%
guess = lab.predict("zero_share")
asked = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
moved = distance(logits_of(zeros(eight), asked), logits_of(base, asked))
left = {name: values[lengths.index(eight)] for name, values in over_length.items() if name != "share"}
at_most = {name: values[-1] for name, values in over_length.items() if name != "share"}
lab.say(
    f"""Eight zeros take **{share:.0%}** of the first layer's attention on \
average{"" if guess is None else f" (you guessed {guess:.0%})"}, between {measured.min():.1%} and \
{measured.max():.1%} by head and place. The formula is right to {(measured - formula).abs().max():.1e}. \
Whoever only counts tokens, 8 of 8 + n, is off by up to {(measured - by_length).abs().max():.2f}: \
what matters is how much the query thinks of the text.
So zeros are no no-op: they move the logits by {moved:.2g} of the largest one. \
Whether answers show it is another question. With eight of them the skills stand at \
{", ".join(f"{value:.0%} ({name}, before {untouched[name]:.0%})" for name, value in left.items())}; \
with {lengths[-1]}, where they take {over_length["share"][-1]:.0%}, at \
{", ".join(f"{value:.0%} ({name})" for name, value in at_most.items())}.
To start from exactly the base one would need keys that no query looks at, and queries differ too much for a key that all of them dislike alike.""",
    f"""八個零平均分走第一層 **{share:.0%}** 的注意力{"" if guess is None else f"（你猜 {guess:.0%}）"}，依 head 與位置不同，從 {measured.min():.1%} 到 \
{measured.max():.1%}。公式的誤差在 {(measured - formula).abs().max():.1e} 以內。\
只數 token、算成 8／(8 + n) 的人，最多會差 {(measured - by_length).abs().max():.2f}：重要的是 query 對文字的分數有多高。
所以零不是 no-op：它讓 logits 移動了最大值的 {moved:.2g}。答案看不看得出來，是另一回事。放了八個之後，技能剩下 \
{"、".join(f"{name} {value:.0%}（原本 {untouched[name]:.0%}）" for name, value in left.items())}；\
放了 {lengths[-1]} 個，分走 {over_length["share"][-1]:.0%} 之後，是 \
{"、".join(f"{name} {value:.0%}" for name, value in at_most.items())}。
要完全從基礎模型出發，就需要沒有任何 query 會看的 key；但 query 彼此差太多，找不到大家都同樣不喜歡的 key。""",
)

# %% [markdown] lang="en"
# ## Is it the prefix tuning that `peft` has?
#
# Both get the same start, the same base and the same batches: once with the rows themselves, and once with the small network in front of them (notebook 2 says what it is for). `peft` loads no prefix to train on, so the numbers are copied. The control has every shape right: keys and values have changed places.

# %% [markdown] lang="zh-TW"
# ## 這就是 `peft` 裡的 prefix tuning 嗎？
#
# 兩者用同樣的起點、同樣的基礎模型、同樣的批次：一次直接訓練那些數字，另一次在前面加上一個小網路（用途見第 2 本筆記本）。`peft` 不能載入 prefix 接著訓練，所以數字是直接抄過去的。對照組的每個形狀都對，只是 key 與 value 互換了位置。

# %%
chosen = PrefixSettings(settings.virtual_tokens)
encoded = PrefixSettings(settings.virtual_tokens, settings.encoder)
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)


def model_of(kind, seed):
    """The base with a prefix in it: ours or peft's, with an encoder or without; or with values before keys."""
    own = add_prefix(load_base(settings)[0], encoded if "encoded" in kind else chosen, seed=seed)
    if kind == "values_first":
        return PrefixModel(own.base, ValuesFirst(own.prefix.rows.detach(), shape))
    if "peft" not in kind:
        return own
    return trainable_in_peft(own.base, own.prefix)


budget = {"steps": settings.equal_steps, "batch_size": settings.batch, "progress": False}
losses, apart = {}, {}
for seed in lab.progress(settings.seeds):
    traces = {}
    for kind in ("own", "peft", "values_first", "own encoded", "peft encoded"):
        rate = settings.encoded_rate if "encoded" in kind else settings.relabel_rate
        train = functools.partial(fit, task=tasks["relabel"], seed=seed, learning_rate=rate, **budget)
        traces[kind] = traced(model_of(kind, seed), train, batch)
    losses[seed] = {kind: np.array(trace.losses) for kind, trace in traces.items()}
    direct, wrong = (traces[kind].apart_from(traces["peft"]) for kind in ("own", "values_first"))
    network = traces["own encoded"].apart_from(traces["peft encoded"])
    apart[seed] = direct, network, wrong
    lab.record("peft_loss_difference", max(direct.loss, network.loss), seed=seed)
    lab.record("peft_loss_difference", wrong.loss, seed=seed, variant="values_first")
    lab.record("peft_logit_difference", max(direct.before, direct.after, network.before, network.after), seed=seed)
    lab.record("peft_logit_difference", wrong.after, seed=seed, variant="values_first")

# %%
lab.figure(
    "own-and-peft",
    beside_peft(losses[settings.seeds[0]]),
    Text(
        en="Left: losses of our prefix, of peft's, and of ours with values before keys. Right: "
            "their distance from peft's, with and without the encoder.",
        zh_tw="左：我們的 prefix、peft 的 prefix，以及 key 與 value 互換的版本各自的損失。右：它們與 peft 的距離，有編碼器與沒有編碼器。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
worst = [max(found[place].loss for found in apart.values()) for place in range(3)]
lab.say(
    f"""- The memory of a text stands for the text ({max(differences):.1e}), if the positions go on behind it.
- {prefix_parameter_count(shape, chosen)[0]:,} numbers are stored for {chosen.virtual_tokens} virtual tokens in the \
model of this run. Eight zeros take {share:.0%} of the first layer's attention.
- Ours and `peft`'s differ by {worst[0]:.1e} nats at most over {settings.equal_steps} steps without the encoder, \
{worst[1]:.1e} with it; with values before keys by {worst[2]:.2g}.""",
    f"""- 一段文字的記憶可以代替那段文字（{max(differences):.1e}），只要位置接在它後面。
- 這次執行的模型，{chosen.virtual_tokens} 個虛擬 token 要存 {prefix_parameter_count(shape, chosen)[0]:,} 個數字。八個零分走第一層 {share:.0%} 的注意力。
- {settings.equal_steps} 步之內，我們與 `peft` 的損失：沒有編碼器最多差 {worst[0]:.1e} nats，有編碼器差 {worst[1]:.1e}；key 與 value 互換則差 {worst[2]:.2g}。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Texts here have some ten tokens, so a few zeros weigh much. Before a text of thousands they weigh less; the formula says how much less, for any scores.
# - Some models have a place for attention that is to go nowhere, such as a learned sink. `tiny` has none but its first token.
#
# **Exercises.** 1, 2 and 4 (`prefix_tuning.py`: the count, rows and entries, a start from real text) and 5 (`attention_share.py`: the share of attention) belong here: `nox -s check -- lab-1.1.4-prefix-tuning`.
#
# **Next:** what is to be written, if no text says it?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的文字只有十個左右的 token，所以幾個零的分量就很重。放在幾千個 token 的文字前面就輕得多；輕多少，不論分數如何，公式都算得出來。
# - 有些模型替「不想看任何東西」的注意力留了地方，例如學出來的 sink。`tiny` 除了第一個 token 之外沒有這種地方。
#
# **練習。** 練習 1、2、4（`prefix_tuning.py`：參數量、數字的排列、從真實文字開始）與練習 5（`attention_share.py`：注意力的比例）屬於這一本：`nox -s check -- lab-1.1.4-prefix-tuning`。
#
# **下一步：** 如果沒有任何文字說得出來，該寫什麼進去？
