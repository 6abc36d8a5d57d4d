# %% [markdown] lang="en"
# # 2. What constants can learn
#
# **Question.** A constant is the same for every input. How can a model judge a review by constants, which of them do it, and what does an optimizer do to everything that was to stay?
#
# | | |
# |---|---|
# | You build | BitFit and full fine-tuning, each with its own learning rate; each kind of bias alone; biases for a Llama that had none; the row of this method in the family's table |
# | You write | exercise 5 (`bitfit.py`) |
# | You need | three minutes on two CPU cores, 2 GB of memory |
# | You should see | which kind of bias is enough by itself; a change of the logits that is the same for all texts, and one that is not; frozen weights that shrink |

# %% [markdown] lang="zh-TW"
# # 2. 常數能學會什麼
#
# **問題。** 常數對每個輸入都一樣。模型怎麼可能靠常數來判斷一則評論？是哪些常數在起作用？最佳化器又會對那些該保持不動的東西做什麼？
#
# | | |
# |---|---|
# | 你會做出 | BitFit 與全參數微調，各用自己的學習率；每種偏差單獨訓練；給沒有偏差的 Llama 裝上偏差；這個方法在家族總表中的一列 |
# | 你要寫的 | 練習 5（`bitfit.py`） |
# | 你需要 | 兩個 CPU 核心跑三分鐘，2 GB 記憶體 |
# | 你應該看到 | 哪一種偏差單獨就夠；對所有文字都相同的 logits 改變，以及因文字而異的；被凍結卻會縮小的權重 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from bias_files import save_biases
from bitfit import bias_parameters, masks_by_kind, train_biases_only, with_new_biases
from bitfit_figures import change_of_the_logits, kinds_alone
from broken_variants import freeze_by_zeroing
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    batches,
    best_constant,
    changed_tensors,
    directory_bytes,
    distance,
    family,
    fit,
    load_base,
    logits_of,
    tensor_hashes,
)
from onepiece.course.text import Text, tr
from onepiece.figures import training_curves
from onepiece.measure import peak_memory
from onepiece.models import count_parameters, load_model

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
tasks = family.load_tasks(tokenizer, chat=settings.chat)
steps = {"relabel": settings.relabel_steps, "compose": settings.compose_steps, "new_facts": settings.facts_steps}
rates = {"relabel": settings.relabel_rate, "compose": settings.compose_rate, "new_facts": settings.compose_rate}
full_rates = {"relabel": settings.relabel_full_rate, "compose": settings.compose_full_rate}
constant = {name: best_constant(task) for name, task in tasks.items()}
first_seed = settings.seeds[0]


def fresh(*, full=False, kinds=None):
    """The base anew: its biases trainable, those of some kinds, or all of it."""
    model, _ = load_base(settings)
    if full:
        model.requires_grad_(True)
    else:
        train_biases_only(model, kinds)
    return model


def lora():
    """The base in peft, with about as many numbers to train as it has biases."""
    torch.manual_seed(0)
    targets = list(settings.lora_layers)
    config = LoraConfig(r=1, lora_alpha=2, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(load_base(settings)[0], config)


def learn(model, name, rate, seed):
    """Train, look at the held-out items on the way, score at the end."""
    options = {"steps": steps[name], "learning_rate": rate, "schedule": settings.schedule}
    return family.learn(model, tasks[name], seed=seed, **options)


lab.table(
    [
        *(tr("task", "任務"), tr("steps", "步數"), tr("rate of BitFit", "BitFit 的學習率")),
        *(tr("rate of full fine-tuning", "全參數微調的學習率"), tr("always the same answer", "永遠答同一個")),
    ],
    [(name, steps[name], rates[name], full_rates.get(name, "-"), f"{constant[name]:.1%}") for name in family.TASKS],
)

# %% [markdown] lang="en"
# ## Predict
#
# The rates were searched equally hard for both sides, on seeds that are not used here (`nox -s calibrate -- lab-1.1.6-bitfit`; `calibration.py` says how). Write into `predictions.toml`:
#
# ```toml
# compose_accuracy = 0.5     # held-out exact match of BitFit on compose
# last_norm_accuracy = 0.5   # on relabel, if only the bias of the last norm is trained
# inside_accuracy = 0.5      # on relabel, if only the biases inside the MLP are
# ```
#
# <details><summary>A hint</summary>
#
# Behind the last norm comes only the head, a linear layer. Behind the biases inside the MLP comes an activation function.
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 兩邊的學習率找得一樣認真，用的是這裡沒有用到的種子（`nox -s calibrate -- lab-1.1.6-bitfit`；怎麼找的寫在 `calibration.py`）。把這些寫進 `predictions.toml`：
#
# ```toml
# compose_accuracy = 0.5     # BitFit 在 compose 的保留題目上答對的比例
# last_norm_accuracy = 0.5   # 只訓練最後一個 norm 的偏差時，relabel 答對的比例
# inside_accuracy = 0.5      # 只訓練 MLP 內部的偏差時，relabel 答對的比例
# ```
#
# <details><summary>提示</summary>
#
# 最後一個 norm 之後只剩輸出層，那是線性的。MLP 內部的偏差之後，則是激勵函數。
# </details>

# %%
runs, trained_models = {}, {}
for name in family.TASKS:
    for seed in lab.progress(family.SEEDS):
        model = fresh()
        runs[name, seed] = learn(model, name, rates[name], seed)
        if seed == first_seed:
            trained_models[name] = model
full_models = {name: fresh(full=True) for name in full_rates}
full = {name: learn(full_models[name], name, full_rates[name], first_seed) for name in full_rates}
slow_full = learn(fresh(full=True), "relabel", full_rates["relabel"] / 100, first_seed).accuracy
full_rate = learn(fresh(), "relabel", full_rates["relabel"] / 10, first_seed)
in_lora = lora()
as_many = learn(in_lora, "compose", settings.lora_rate, first_seed)
reached = full["relabel"].accuracy
lab.record("full_accuracy", reached)
lab.record("full_accuracy", slow_full, variant="hundredth_of_the_rate")
lab.record("full_accuracy", constant["relabel"], variant="constant")
for seed in settings.seeds:
    lab.record("relabel_vs_full", runs["relabel", seed].accuracy / reached, seed=seed)
    lab.record("relabel_vs_full", constant["relabel"] / reached, seed=seed, variant="constant")
    lab.record("compose_accuracy", runs["compose", seed].accuracy, seed=seed)
lab.record("relabel_vs_full", full_rate.accuracy / reached, seed=first_seed, variant="tenth_of_full_rate")
lab.record("compose_accuracy", as_many.accuracy, seed=first_seed, variant="as_many_in_lora")

# %% [markdown] lang="en"
# ## Beside full fine-tuning, and with another rate
#
# Full fine-tuning sees the same batches, with one seed. The controls: BitFit with a tenth of the rate of full fine-tuning, and full fine-tuning with a hundredth of its own. And on `compose` a LoRA of rank 1 by `peft`, on so many layers that it trains about as many numbers as there are biases; its rate was not searched.

# %% [markdown] lang="zh-TW"
# ## 與全參數微調並列，以及換一個學習率
#
# 全參數微調看到同樣的批次，只跑一個種子。對照組：用全參數微調學習率的十分之一訓練的 BitFit，以及只用自己學習率百分之一的全參數微調。另外在 `compose` 上還有 `peft` 的秩 1 LoRA，所裝的層數讓它訓練的數字與偏差差不多多；它的學習率沒有搜尋。

# %%
right = {(name, "BitFit"): [runs[name, seed].accuracy for seed in family.SEEDS] for name in family.TASKS}
right |= {(name, "full"): [found.accuracy] for name, found in full.items()}
right["relabel", "BitFit, a tenth of full's rate"] = [full_rate.accuracy]
right["compose", "LoRA, as many numbers"] = [as_many.accuracy]
right["relabel", "full, a hundredth of the rate"] = [slow_full]
lab.table(
    [tr("task", "任務"), tr("training", "訓練"), tr("held-out exact match, by seed", "保留題目答對的比例，逐個種子")],
    [(*key, ", ".join(f"{value:.1%}" for value in values)) for key, values in right.items()],
)
curves = {f"{name}, BitFit": runs[name, first_seed].history for name in family.TASKS}
curves |= {f"{name}, full": found.history for name, found in full.items()}
lab.figure(
    "losses",
    training_curves(curves, window=10, ylabel=tr("loss (nats per token)", "損失（nats／token）")),
    Text(
        en="Losses over the steps, first seed, mean of ten steps.",
        zh_tw="損失隨步數的變化；第一個種子，取十步的平均。",
    ),
)

# %% [markdown] lang="en"
# ## Each kind alone
#
# Every kind gets the whole of `relabel` to itself, in as many steps and at one rate: three times that of all kinds together, because fewer numbers have farther to go; it was not searched for each. The paper asked the same of BERT, and found that two kinds nearly suffice there: the queries' and the middle of the MLP's.

# %% [markdown] lang="zh-TW"
# ## 每一種單獨來
#
# 每一種偏差都單獨訓練 `relabel`，步數與全部一起訓練時相同，學習率都是那時的三倍：數字少，每個要走得更遠；沒有替每一種另外搜尋。論文在 BERT 上問過同樣的問題，發現兩種就幾乎夠了：query 的，以及 MLP 中間的。

# %%
short = {"steps": settings.relabel_steps, "learning_rate": rates["relabel"], "batch_size": family.BATCH}
short["schedule"] = settings.schedule
by_kind = short | {"learning_rate": settings.kind_rate}
of_kind = {kind: sum(int(mask.sum()) for mask in masks.values()) for kind, masks in masks_by_kind(base).items()}
alone = {}
for kind in lab.progress(list(of_kind)):
    alone[kind] = fresh(kinds=[kind])
    fit(alone[kind], tasks["relabel"], seed=first_seed, progress=False, **by_kind)
kind_right = {kind: accuracy(model, tasks["relabel"]).accuracy for kind, model in alone.items()}
lab.figure(
    "kinds-alone",
    kinds_alone(kind_right, of_kind, together=runs["relabel", first_seed].accuracy, constant=constant["relabel"]),
    Text(
        en="relabel after training one kind of bias alone; lines: all kinds together, and a constant answer.",
        zh_tw="只訓練一種偏差之後的 relabel；兩條線是全部一起訓練，以及永遠答同一個。",
    ),
)

# %% [markdown] lang="en"
# ## The same for every text
#
# How can a constant judge? Look at what training has changed in the logits, at every token of sixteen texts. If a kind is a mere shift, the change is one vector, the same at each of them. We measure how far the changes are from their mean, relative to the largest: the *spread*.

# %% [markdown] lang="zh-TW"
# ## 對每段文字都一樣
#
# 常數怎麼可能判斷？看看訓練在 logits 上改變了什麼，看十六段文字的每一個 token。如果某一種偏差只是平移，改變量就是同一個向量，在每個 token 都一樣。我們量的是改變量離它們的平均有多遠，相對於最大的改變：稱為*離散*。

# %%
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
untouched = logits_of(base, batch)
change = {kind: logits_of(model, batch) - untouched for kind, model in alone.items()}  # (tokens, vocabulary) each
spread = {kind: ((moved - moved.mean(dim=0)).abs().max() / moved.abs().max()).item() for kind, moved in change.items()}
if "last norm" in alone:  # not in a Qwen, whose norms have no bias
    lab.record("shift_spread", spread["last norm"])
    lab.record("shift_spread", spread["inside the MLP"], variant="inside_the_mlp")
    lab.record("inside_accuracy", kind_right["inside the MLP"])
    lab.record("inside_accuracy", kind_right["last norm"], variant="last_norm")
    lab.record("last_norm_accuracy", kind_right["last norm"])
    lab.record("inside_accuracy", constant["relabel"], variant="constant")
    word = int(change["last norm"].mean(dim=0).abs().argmax())
    lab.figure(
        "change-of-the-logits",
        change_of_the_logits({kind: change[kind][:, word].cpu().numpy() for kind in ("last norm", "inside the MLP")}),
        Text(
            en="How the logit of one word changed, at every token of sixteen texts: two kinds of bias.",
            zh_tw="同一個詞的 logit 在十六段文字的每個 token 上改變了多少：兩種偏差。",
        ),
    )
lab.table(
    [tr("kind alone", "單獨的種類"), tr("numbers", "數量"), tr("right on relabel", "relabel 答對"), tr("spread", "離散")],
    [(kind, of_kind[kind], f"{kind_right[kind]:.1%}", spread[kind]) for kind in of_kind],
)


# %% [markdown] lang="en"
# A constant in front of an activation function decides *where it bends*: which inputs pass, and which are cut off. We count how many features of the MLP change sides, at the tokens of these texts, after training all kinds. The factor of (IA)3 on the inside of an MLP cannot do that: it stands behind the activation function, and a feature that is cut off stays cut off, times anything.

# %% [markdown] lang="zh-TW"
# 激勵函數前面的常數，決定的是*在哪裡轉彎*：哪些輸入通過，哪些被截掉。我們來數，訓練全部種類之後，在這些文字的 token 上，MLP 有多少特徵換了邊。(IA)3 放在 MLP 內部的倍率做不到這件事：它乘在激勵函數之後，被截掉的特徵，乘上什麼都還是被截掉。

# %%
def middles(model):
    """What goes into the activation functions of all MLPs, at the real tokens: (tokens, features)."""
    seen = []
    inside = [layer for name, layer in model.named_modules() if name.endswith(("dense_h_to_4h", "gate_proj"))]


    def look(_layer, _inputs, outputs):
        seen.append(outputs.detach())

    hooks = [layer.register_forward_hook(look) for layer in inside]
    logits_of(model, batch)
    for hook in hooks:
        hook.remove()
    real = batch["attention_mask"].bool().to(seen[0].device)
    # (batch, seq, features) -> (tokens, features of all blocks)
    return torch.cat([outputs[real] for outputs in seen], dim=-1)


of_base, of_trained = middles(base), middles(trained_models["relabel"])
switched = ((of_base > 0) != (of_trained > 0)).float().mean().item()
lab.say(
    f"{switched:.1%} of the features changed sides; before, {(of_base < 0).float().mean():.0%} were cut off.",
    f"有 {switched:.1%} 的特徵換了邊；訓練之前，{(of_base < 0).float().mean():.0%} 是被截掉的。",
)

# %% [markdown] lang="en"
# ## Three ways to freeze, and a decay
#
# Weight decay of 0.1, and three scripts. One gives the optimizer only what is trained. One gives it *all* parameters, of which the frozen ones require no gradient. One lets all of them require a gradient, and sets that of the frozen ones to zero before each step. All three train the biases alike. Predict: which of them leaves the other weights as they were, to the bit?

# %% [markdown] lang="zh-TW"
# ## 三種凍結的方法，加上衰減
#
# 權重衰減 0.1，三個程式。第一個只把要訓練的交給最佳化器。第二個把*所有*參數都交出去，其中被凍結的不需要梯度。第三個讓所有參數都需要梯度，每一步之前再把被凍結的梯度設為零。三個程式訓練偏差的方式都一樣。先猜：哪一個會讓其他權重逐位元不變？

# %%
decaying = short | {"steps": settings.equal_steps, "weight_decay": settings.weight_decay}
biases = set(bias_parameters(base))
frozen = {name: value for name, value in tensor_hashes(base).items() if name not in biases}


def given_everything(model):
    """Train with an optimizer that has every parameter of the model, frozen ones too; in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rates["relabel"], weight_decay=settings.weight_decay)
    order = batches(tasks["relabel"], batch_size=family.BATCH, seed=first_seed)
    for step in range(settings.equal_steps):
        model(**{key: value.to(model.device) for key, value in order(step).items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


by_list, by_flag, by_zeroing = fresh(), fresh(), fresh(full=True)
fit(by_list, tasks["relabel"], seed=first_seed, progress=False, **decaying)
given_everything(by_flag)
freeze_by_zeroing(by_zeroing)
fit(by_zeroing, tasks["relabel"], seed=first_seed, progress=False, **decaying)
without_decay = fresh(full=True)
freeze_by_zeroing(without_decay)
fit(without_decay, tasks["relabel"], seed=first_seed, progress=False, **(decaying | {"weight_decay": 0.0}))
ways = {
    tr("the optimizer has the biases only", "最佳化器只有偏差"): by_list,
    tr("it has everything, frozen without gradient", "最佳化器有全部，凍結的沒有梯度"): by_flag,
    tr("gradients set to zero", "梯度設為零"): by_zeroing,
    tr("gradients set to zero, no decay", "梯度設為零，不衰減"): without_decay,
}
changed = {way: len(changed_tensors(frozen, tensor_hashes(model))) for way, model in ways.items()}
matrix = next(name for name, weight in base.named_parameters() if weight.dim() == 2 and "embed" not in name)
size = {
    way: (model.get_parameter(matrix).norm() / base.get_parameter(matrix).norm()).item() for way, model in ways.items()
}
in_order = list(changed.values())
trained_changed = [len(changed_tensors(frozen, tensor_hashes(model))) for model in trained_models.values()]
lab.record("changed_tensors", max(*in_order[:2], *trained_changed))
lab.record("changed_tensors", in_order[2], variant="zeroed_gradients")
lab.table(
    [
        tr("way", "方法"),
        tr(f"of {len(frozen)} frozen tensors, changed", f"{len(frozen)} 個凍結的張量，變了幾個"),
        tr("size of a matrix", "某個矩陣的大小"),
    ],
    [(way, changed[way], f"{size[way]:.5f}") for way in ways],
)

# %%
whole = (1 - rates["relabel"] * settings.weight_decay) ** settings.compose_steps
lab.say(
    f"""A parameter without a gradient is skipped by the optimizer. One with a gradient of zero is not: the decay of \
AdamW multiplies it by 1 − rate × decay in every step, and after {settings.compose_steps} steps \
{whole:.0%} would be left. Without decay the mistake is invisible ({in_order[3]} tensors changed), \
so a test without decay does not find it.
The mask of a fused bias works by zeroing too (exercise 3). It may, because the loop decays matrices only.""",
    f"""沒有梯度的參數，最佳化器會跳過；梯度為零的不會：AdamW 的衰減每一步都把它乘上「1 − 學習率 × 衰減」，{settings.compose_steps} 步之後只剩 {whole:.0%}。\
沒有衰減的話，這個錯誤看不出來（{in_order[3]} 個張量改變），所以不加衰減的測試找不到它。
融合的偏差所用的遮罩也是把梯度設為零（練習 3）。那裡可以這麼做，因為這個訓練迴圈只衰減矩陣。""",
)

# %% [markdown] lang="en"
# ## A Llama with biases
#
# What does one do with a model that has none? A Llama's *configuration* has two options for biases, off by default. Exercise 5 builds the same model with both, all new biases zero: it must compute what it did. The control forgot the zeros. Then it learns `relabel` by constants that it never had.

# %% [markdown] lang="zh-TW"
# ## 裝上偏差的 Llama
#
# 遇到沒有偏差的模型怎麼辦？Llama 的*設定*裡有兩個偏差的選項，預設關閉。練習 5 用兩個都打開的設定建出同一個模型，新的偏差全是零：它算出來的必須和原來一樣。對照組忘了設成零。然後它用從來沒有過的常數學 `relabel`。

# %%
plain, plain_tokenizer = load_model(settings.plain_model, device=settings.device, dtype=settings.dtype)
plain_task = family.load_tasks(plain_tokenizer)["relabel"]
plain_batch = batches(plain_task, batch_size=settings.batch, seed=0)(0)
wanted = logits_of(plain, plain_batch)
with_biases, forgotten = with_new_biases(plain), with_new_biases(plain)
generator = torch.Generator().manual_seed(0)
for bias in bias_parameters(forgotten).values():
    bias.data.copy_(torch.randn(bias.shape, generator=generator) * plain.config.initializer_range)
lab.record("new_biases_difference", distance(logits_of(with_biases, plain_batch), wanted))
lab.record("new_biases_difference", distance(logits_of(forgotten, plain_batch), wanted), variant="not_zero")
new_biases = train_biases_only(with_biases)
fit(with_biases, plain_task, seed=first_seed, progress=False, **short)
of_llama = accuracy(with_biases, plain_task).accuracy
lab.say(
    f"""{new_biases:,} new biases beside {count_parameters(plain).total:,} parameters; \
after {settings.relabel_steps} steps {of_llama:.1%} of `relabel`.""",
    f"""{new_biases:,} 個新的偏差，原本有 {count_parameters(plain).total:,} 個參數；\
{settings.relabel_steps} 步之後，`relabel` 答對 {of_llama:.1%}。""",
)

# %% [markdown] lang="en"
# ## What was forgotten, and the row of the family
#
# What pretraining taught, asked again after each task (first seed). Then this method's row in the table that compares all of module 1.1; it says that its base was another one.

# %% [markdown] lang="zh-TW"
# ## 忘了什麼，以及家族總表的一列
#
# 每個任務訓練之後，再問一次預訓練教過的東西（第一個種子）。接著是這個方法在 1.1 單元總表中的一列；表上會註明它的基礎模型不同。

# %%
kept = {name: runs[name, family.SEEDS[0]].kept for name in family.TASKS}
kept |= {f"{name}, full": found.kept for name, found in full.items()}
skills_asked = list(kept["relabel"])
average = {name: float(np.mean(list(values.values()))) for name, values in kept.items()}
lab.table(
    [tr("after", "訓練之後"), *skills_asked, tr("mean", "平均")],
    [
        (name, *(f"{values[skill]:.0%}" for skill in skills_asked), f"{average[name]:.0%}")
        for name, values in kept.items()
    ],
)

# %%
base_name, _ = base_identity(settings)
adapters = {"relabel": lab.artifact("biases-relabel"), "compose": lab.artifact("biases-compose")}
for name, directory in adapters.items():
    save_biases(trained_models[name], directory, base_name)
one_step = {"steps": 1, "learning_rate": 0.0, "batch_size": family.BATCH, "seed": 0, "progress": False}
measured = fresh()
peak = peak_memory(lambda: fit(measured, tasks["compose"], **one_step), settings.device)
prompt = tokenizer("27 + 15 →", return_tensors="pt")["input_ids"].to(settings.device)
trained = sum(bias.numel() for bias in bias_parameters(base).values())
row = {
    "trained": trained,
    "total": count_parameters(base).total,
    "file_bytes": directory_bytes(adapters["relabel"]),
    "peak_bytes": peak,
    "token_ratio": family.token_ratio(trained_models["compose"], base, prompt, repeats=settings.repeats),
}
family.record_row(runs, mergeable=True, **row)
lab.table(
    [tr("column", "欄位"), tr("value", "值")],
    [(key, f"{value:,.4g}" if value < 10 else f"{value:,}") for key, value in row.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
asked = ("compose_accuracy", "last_norm_accuracy", "inside_accuracy")
guesses = {name: lab.predict(name) for name in asked}
said = {name: "" if value is None else f" (you guessed {value:.0%})" for name, value in guesses.items()}
said_zh = {name: "" if value is None else f"（你猜 {value:.0%}）" for name, value in guesses.items()}
mean = {name: float(np.mean(right[name, "BitFit"])) for name in family.TASKS}
last_loss = {
    name: float(np.mean([runs[name, seed].history.losses[-20:] for seed in family.SEEDS])) for name in family.TASKS
}
in_full = float(np.mean(full["compose"].history.losses[-20:]))
in_one = float(np.mean(as_many.history.losses[-20:]))
worse = average["relabel"] < average["relabel, full"]
best_kind = max(kind_right, key=kind_right.get)
lora_numbers = count_parameters(in_lora).trainable
lab.say(
    f"""- {trained:,} constants ({trained / row["total"]:.2%}) reach {mean["relabel"]:.1%} on `relabel`; full \
fine-tuning {reached:.1%}. On `compose` they stay at {mean["compose"]:.1%}{said["compose_accuracy"]}, where full \
fine-tuning has {full["compose"].accuracy:.1%} and a LoRA with {lora_numbers:,} numbers {as_many.accuracy:.1%}; on \
`new_facts` at {mean["new_facts"]:.1%}.
- On `compose` it is not that what was learned does not carry over: the last losses in training are \
{last_loss["compose"]:.2f} nats, with full fine-tuning {in_full:.2f}, with that LoRA {in_one:.2f}. \
In so many steps it was not learned. Nor is the number of numbers to blame: LoRA's are multiplied with the input, \
and these are not. But it is a limit of {settings.compose_steps} steps, and no proof of a wall: \
try four times as many at half the rate (`compose_steps` and `compose_rate` in `lab.toml`).
- Alone, `{best_kind}` does most ({kind_right[best_kind]:.1%} with {of_kind[best_kind]:,} \
numbers){said["inside_accuracy"]}; the last norm \
{kind_right.get("last norm", float("nan")):.1%}{said["last_norm_accuracy"]}: one vector for all texts. The queries, \
one of the paper's two kinds, {kind_right["query"]:.1%} here.
- Afterwards the skills of pretraining stand at {average["relabel"]:.0%} (`relabel`) and {average["compose"]:.0%} \
(`compose`) on average; after full fine-tuning at {average["relabel, full"]:.0%} and \
{average["compose, full"]:.0%}. \
{"Few trained numbers are no protection: these went far, and everything passes them. " if worse else ""}\
What protects is that the old constants can be copied back.""",
    f"""- {trained:,} 個常數（{trained / row["total"]:.2%}）在 `relabel` 達到 {mean["relabel"]:.1%}；全參數微調是 {reached:.1%}。在 \
`compose` 上它們停在 {mean["compose"]:.1%}{said_zh["compose_accuracy"]}，全參數微調則有 {full["compose"].accuracy:.1%}，\
{lora_numbers:,} 個數字的 LoRA 有 {as_many.accuracy:.1%}；`new_facts` 停在 {mean["new_facts"]:.1%}。
- `compose` 的問題不是學會了卻用不出來：訓練到最後的損失是 {last_loss["compose"]:.2f} nats，全參數微調是 {in_full:.2f}，那個 LoRA 是 {in_one:.2f}。\
這麼多步裡，它沒有學起來。也不是數字太少：LoRA 的數字會與輸入相乘，這裡的不會。\
但這是 {settings.compose_steps} 步的極限，不能證明前面是一堵牆：試試四倍的步數、一半的學習率（`lab.toml` 裡的 `compose_steps` 與 `compose_rate`）。
- 單獨訓練時，`{best_kind}` 做得最多（{of_kind[best_kind]:,} 個數字，{kind_right[best_kind]:.1%}）{said_zh["inside_accuracy"]}；最後一個 \
norm 是 {kind_right.get("last norm", float("nan")):.1%}{said_zh["last_norm_accuracy"]}：對所有文字都是同一個向量。論文那兩種之一的 query，在這裡是 \
{kind_right["query"]:.1%}。
- 訓練之後，預訓練的技能平均剩 {average["relabel"]:.0%}（`relabel`）與 {average["compose"]:.0%}（`compose`）；全參數微調之後是 \
{average["relabel, full"]:.0%} 與 {average["compose, full"]:.0%}。\
{"訓練的數字少，並不能防止遺忘：這些數字走得遠，而且所有計算都會經過它們。" if worse else ""}真正的保護，是原本的常數可以抄回去。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The paper's tasks are classifications by BERT, which is what `relabel` is nearest to; it says itself that its finding is about exposing what pretraining has put into a model. `compose` and `new_facts` ask for more.
# - `compose` had as many steps for all three methods. What BitFit does with several times as many, and a rate for that, is not measured here.
# - Each kind was trained alone at one rate, with one seed. Another rate may change the order of those in the middle.
# - `new_facts` was not searched: it has the rate of `compose`. Full fine-tuning and the LoRA ran with one seed.
#
# **Exercise.** 5 (`bitfit.py`: biases for a model without) belongs here: `nox -s check -- lab-1.1.6-bitfit`.
#
# **Next:** how does one model answer for several tasks?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 論文的任務是用 BERT 做分類，與 `relabel` 最接近；論文自己也說，它的發現是把預訓練放進模型的東西顯露出來。`compose` 與 `new_facts` 要的更多。
# - `compose` 上三種方法的步數相同。步數多幾倍、學習率也配合的話，BitFit 會怎樣，這裡沒有測。
# - 每一種偏差單獨訓練時都只用一個學習率、一個種子。換個學習率，中間幾種的順序可能不同。
# - `new_facts` 沒有另外搜尋，用的是 `compose` 的學習率。全參數微調與 LoRA 都只跑一個種子。
#
# **練習。** 練習 5（`bitfit.py`：給沒有偏差的模型裝上偏差）屬於這一本：`nox -s check -- lab-1.1.6-bitfit`。
#
# **下一步：** 一個模型怎麼替好幾個任務回答？
