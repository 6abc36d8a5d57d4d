# %% [markdown] lang="en"
# # 2. What can they learn, and which of them are needed?
#
# **Question.** An adapter sees only what a sublayer has already decided. Is that enough for three tasks?
# Is it better to have two narrow ones in a layer or a wide one? And can the lower half be left out?
#
# | | |
# |---|---|
# | You build | adapters, LoRA and full fine-tuning on the family's tasks; two placements with the same number of parameters; AdapterDrop, trained for it and not |
# | You write | exercises 4 and 5 (`adapters.py`) |
# | You need | four minutes on two CPU cores, 2 GB of memory |
# | You should see | a task on which the place matters; what each layer left out costs, and what one line in the training changes about that |

# %% [markdown] lang="zh-TW"
# # 2. 它們學得會什麼？哪些是必要的？
#
# **問題。** adapter 看到的，只有子層已經決定好的結果。這樣夠學會三個任務嗎？
# 一層放兩個窄的好，還是一個寬的好？下半部的層能不能乾脆不放？
#
# | | |
# |---|---|
# | 你會做出 | 在家族的任務上訓練 adapter、LoRA 與全參數微調；參數量相同的兩種位置；AdapterDrop，訓練時有準備與沒準備的 |
# | 你要寫的 | 練習 4、5（`adapters.py`） |
# | 你需要 | 兩個 CPU 核心跑四分鐘，2 GB 記憶體 |
# | 你應該看到 | 有一個任務，放在哪裡很要緊；每跳過一層的代價，以及訓練裡多一行之後有什麼不同 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from adapter_drop import RandomDrop, drop_first
from adapter_figures import accuracy_by_dropped, losses_of_tasks
from adapters import (
    adapted_layers,
    adapter_parameter_count,
    add_adapters,
    bottleneck_width,
    houlsby,
    layer_number,
    pfeiffer,
    settings_within,
)
from bottleneck_files import save_adapter
from broken_variants import drop_last, multiply_by_zero, restart
from onepiece import lab
from onepiece.adaptation import (
    ALL_LINEAR,
    accuracy,
    base_identity,
    base_names,
    batches,
    best_constant,
    changed_tensors,
    directory_bytes,
    distance,
    family,
    fit,
    load_base,
    save_peft_model,
    tensor_hashes,
)
from onepiece.course.text import Text, tr
from onepiece.measure import peak_memory
from onepiece.models import count_parameters

settings = lab.settings
torch.set_num_threads(settings.threads)
chosen = houlsby(settings.reduction_factor)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
frozen = tensor_hashes(base)
tasks = family.load_tasks(tokenizer, chat=settings.chat)
steps = {"relabel": settings.relabel_steps, "compose": settings.compose_steps, "new_facts": settings.facts_steps}
rates = {"relabel": settings.relabel_rate, "compose": settings.compose_rate, "new_facts": settings.compose_rate}
lora_rates = {
    "relabel": settings.lora_relabel_rate,
    "compose": settings.lora_compose_rate,
    "new_facts": settings.lora_compose_rate,
}
constant = {name: best_constant(task) for name, task in tasks.items()}
first_seed = settings.seeds[0]


def fresh(options=chosen, seed=first_seed):
    """The base anew, with adapters."""
    model, _ = load_base(settings)
    add_adapters(model, options, seed=seed)
    return model


def fresh_lora(seed, targets=ALL_LINEAR, rank=settings.lora_rank):
    """The base anew, with peft's LoRA, set as in lab 1.1.1."""
    torch.manual_seed(seed)
    alpha = settings.lora_alpha * rank / settings.lora_rank
    return get_peft_model(load_base(settings)[0], LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))


def learn(model, name, rate, seed, schedule=settings.schedule):
    """Train, look at the held-out items on the way, score at the end."""
    return family.learn(model, tasks[name], seed=seed, steps=steps[name], learning_rate=rate, schedule=schedule)


lab.table(
    [
        *(
            tr("task", "任務"),
            tr("steps", "步數"),
            tr("rate of adapters", "adapter 的學習率"),
            tr("rate of LoRA", "LoRA 的學習率"),
        ),
        tr("always the same answer", "永遠答同一個"),
    ],
    [(name, steps[name], rates[name], lora_rates[name], f"{constant[name]:.1%}") for name in family.TASKS],
)

# %% [markdown] lang="en"
# ## Predict
#
# Rates were searched on seeds that are not used here (`nox -s calibrate -- lab-1.1.2-adapters`; those of LoRA are from lab 1.1.1).
# An adapter changes what attention and MLP *give*. It touches no query and no key: where a layer looks, it cannot change in that layer.
# LoRA on all linear layers can. Write into `predictions.toml`:
#
# ```toml
# lora_ahead = 0.0           # accuracy on compose after as many steps: LoRA minus adapters
# placement_gap = 0.0        # accuracy on compose: two narrow adapters per layer minus a wide one with as many parameters
# plain_dropped = 0.5        # relabel, trained as usual, then run without the adapters of the first two of four layers: accuracy
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 學習率是用這裡沒有用到的種子找的（`nox -s calibrate -- lab-1.1.2-adapters`；LoRA 的來自實驗 1.1.1）。
# adapter 改變的是注意力與 MLP *輸出*的東西。它碰不到 query，也碰不到 key：一層往哪裡看，在那一層它改不了。
# 放在所有線性層上的 LoRA 可以。把這些寫進 `predictions.toml`：
#
# ```toml
# lora_ahead = 0.0           # 同樣步數之後在 compose 的準確率：LoRA 減去 adapter
# placement_gap = 0.0        # compose 的準確率：每層兩個窄的 adapter，減去參數量相同的一個寬的
# plain_dropped = 0.5        # relabel，照常訓練，執行時拿掉四層裡前兩層的 adapter：準確率
# ```

# %%
runs, of_lora, trained_models = {}, {}, {}
for name in family.TASKS:
    for seed in lab.progress(family.SEEDS):
        model = fresh(seed=seed)
        runs[name, seed] = learn(model, name, rates[name], seed)
        other = fresh_lora(seed)
        of_lora[name, seed] = learn(other, name, lora_rates[name], seed)
        trained_models[name, seed] = model
        if name == "relabel" and seed == first_seed:
            lora_model = other

# %% [markdown] lang="en"
# ## Beside full fine-tuning, and begun as nothing
#
# Full fine-tuning sees the same batches of `relabel`. The controls: full fine-tuning with a hundredth of its rate, and adapters whose two
# weights are *both* zero at the start.

# %% [markdown] lang="zh-TW"
# ## 與全參數微調並列，以及從零開始
#
# 全參數微調看到同樣的 `relabel` 批次。對照組：學習率只用百分之一的全參數微調，以及一開始兩個權重*都*是零的 adapter。


# %%
def full_model():
    """The base anew, all of it trainable."""
    return load_base(settings)[0].requires_grad_(True)


full = {seed: learn(full_model(), "relabel", settings.relabel_full_rate, seed, settings.full_schedule) for seed in settings.seeds}
slow = learn(full_model(), "relabel", settings.relabel_full_rate / 100, first_seed, settings.full_schedule).accuracy
both_zero = fresh()
restart(both_zero, "both_zero", seed=first_seed)
from_zero = learn(both_zero, "relabel", rates["relabel"], first_seed).accuracy
for seed in settings.seeds:
    reached = full[seed].accuracy
    lab.record("full_accuracy", reached, seed=seed)
    lab.record("full_accuracy", constant["relabel"], seed=seed, variant="constant")
    lab.record("relabel_vs_full", runs["relabel", seed].accuracy / reached, seed=seed)
    lab.record("relabel_vs_full", constant["relabel"] / reached, seed=seed, variant="constant")
    lab.record("compose_accuracy", runs["compose", seed].accuracy, seed=seed)
    lab.record("compose_accuracy", constant["compose"], seed=seed, variant="constant")
lab.record("full_accuracy", slow, seed=first_seed, variant="hundredth_of_the_rate")
lab.record("relabel_vs_full", from_zero / full[first_seed].accuracy, seed=first_seed, variant="both_zero")

right = {(name, "adapters"): [runs[name, seed].accuracy for seed in family.SEEDS] for name in family.TASKS}
right |= {(name, "LoRA"): [of_lora[name, seed].accuracy for seed in family.SEEDS] for name in family.TASKS}
right["relabel", "full"] = [full[seed].accuracy for seed in settings.seeds]
right["relabel", "adapters, both weights zero at first"] = [from_zero]
mean = {key: float(np.mean(values)) for key, values in right.items()}
lab.table(
    [tr("task", "任務"), tr("training", "訓練"), tr("held-out exact match, by seed", "保留題目答對的比例，逐個種子")],
    [(*key, ", ".join(f"{value:.1%}" for value in values)) for key, values in right.items()],
)

# %%
curves = {
    (name, way): [np.array(found[name, seed].history.losses) for seed in family.SEEDS]
    for name in family.TASKS
    for way, found in (("adapters", runs), ("LoRA", of_lora))
}
curves["relabel", "full"] = [np.array(full[seed].history.losses) for seed in settings.seeds]
lab.figure(
    "losses",
    losses_of_tasks(curves),
    Text(
        en="Losses over the steps, of three ways to train; the band spans the seeds.",
        zh_tw="三種訓練方式的損失隨步數的變化；色帶是各種子的範圍。",
    ),
)

# %% [markdown] lang="en"
# ## One or two, with the same number of parameters
#
# Two narrow adapters in each layer, or a wide one after the MLP? `settings_within` (exercise 5) finds the widest bottleneck that trains no more
# numbers.
# The control keeps the reduction factor: half the places, half the numbers, and then "two are better" would say nothing about the place.
#
# And is it the *place* or the *shape* that counts on `compose`? LoRA with about as many numbers, but only on the layers behind which the
# adapters stand, has their place and its own shape.

# %% [markdown] lang="zh-TW"
# ## 一個還是兩個，參數量相同
#
# 每層兩個窄的，還是 MLP 之後一個寬的？`settings_within`（練習 5）會找出參數量不超過的最寬瓶頸。
# 對照組沿用原本的 reduction factor：位置少一半，參數也少一半，這時候說「兩個比較好」就跟位置無關了。
#
# 另外，在 `compose` 上要緊的是*位置*還是*形狀*？參數量差不多、但只放在 adapter 前面那些層的 LoRA，位置是 adapter 的，形狀是自己的。


# %%
def learn_compose(model, rate, seed):
    """Train on compose without looks on the way: accuracy at the end."""
    options = {"steps": steps["compose"], "learning_rate": rate, "schedule": settings.schedule, "progress": False}
    fit(model, tasks["compose"], seed=seed, batch_size=family.BATCH, **options)
    return accuracy(model, tasks["compose"]).accuracy


trained = adapter_parameter_count(base, chosen)
wide = settings_within(base, pfeiffer(1), trained)
ratio = adapter_parameter_count(base, wide) / trained
lab.record("placement_parameter_gap", abs(ratio - 1))
lab.record(
    "placement_parameter_gap",
    abs(adapter_parameter_count(base, pfeiffer(settings.reduction_factor)) / trained - 1),
    variant="same_factor",
)
one = {seed: learn_compose(fresh(wide, seed), settings.compose_pfeiffer_rate, seed) for seed in settings.placement_seeds}
two = {seed: runs["compose", seed].accuracy for seed in settings.placement_seeds}
places = sorted({name.rpartition(".")[2] for name in adapted_layers(trained_models["relabel", first_seed])})
per_rank = count_parameters(fresh_lora(first_seed, places, rank=1)).trainable
rank_there = round(trained / per_rank)
lora_there = learn_compose(fresh_lora(first_seed, places, rank_there), lora_rates["compose"], first_seed)
for seed in settings.placement_seeds:
    lab.record("placement_gap", two[seed] - one[seed], seed=seed)
lab.table(
    [
        tr("placement", "位置"),
        tr("width or rank", "寬度或秩"),
        tr("parameters", "參數量"),
        tr("compose, by seed", "compose，逐個種子"),
    ],
    [
        (
            "two adapters in each layer",
            bottleneck_width(64, chosen.reduction_factor),
            f"{trained:,}",
            ", ".join(f"{two[seed]:.1%}" for seed in two),
        ),
        (
            "one, after the MLP",
            bottleneck_width(64, wide.reduction_factor),
            f"{adapter_parameter_count(base, wide):,}",
            ", ".join(f"{one[seed]:.1%}" for seed in one),
        ),
        (f"LoRA on {', '.join(places)}", rank_there, f"{rank_there * per_rank:,}", f"{lora_there:.1%}"),
        (
            "LoRA on all linear layers",
            settings.lora_rank,
            f"{count_parameters(lora_model).trainable:,}",
            ", ".join(f"{value:.1%}" for value in right["compose", "LoRA"]),
        ),
    ],
)

# %% [markdown] lang="en"
# ## What is frozen
#
# A hash of each tensor of the base, before and after. The control put the adapters in and forgot to freeze the rest.

# %% [markdown] lang="zh-TW"
# ## 凍結的部分
#
# 比對基礎模型每個張量訓練前後的雜湊值。對照組放了 adapter，卻忘了凍結其他部分。

# %%
changed = max(len(changed_tensors(frozen, tensor_hashes(model, base_names(model)))) for model in trained_models.values())
unfrozen = fresh()
unfrozen.requires_grad_(True)
fit(unfrozen, tasks["relabel"], steps=2, learning_rate=rates["relabel"], batch_size=family.BATCH, seed=0, progress=False)
changed_by_mistake = len(changed_tensors(frozen, tensor_hashes(unfrozen, base_names(unfrozen))))
lab.record("changed_tensors", changed)
lab.record("changed_tensors", changed_by_mistake, variant="not_frozen")
lab.say(
    f"Of {len(frozen)} tensors {changed} changed; without freezing {changed_by_mistake} after two steps.",
    f"{len(frozen)} 個張量中有 {changed} 個改變；沒有凍結的話，兩步之後就有 {changed_by_mistake} 個。",
)

# %% [markdown] lang="en"
# ## AdapterDrop: leave the first layers out
#
# Rücklé et al. ([2010.11918](https://arxiv.org/abs/2010.11918)) leave out the adapters of the first layers. First, is that what the code does?
# Calls are counted by hooks; and up to the first layer that has an adapter, the hidden states must be the base's to the bit.
# One control multiplies the outputs of the adapters by zero instead of leaving them out; the other leaves out the *last* layers.

# %% [markdown] lang="zh-TW"
# ## AdapterDrop：跳過前幾層
#
# Rücklé 等人（[2010.11918](https://arxiv.org/abs/2010.11918)）把前幾層的 adapter 拿掉。首先，程式真的這樣做了嗎？
# 用 hook 數呼叫次數；而且在第一個有 adapter 的層之前，隱藏狀態必須跟基礎模型一個位元都不差。
# 一個對照組把 adapter 的輸出乘以零，而不是跳過；另一個跳過的是*最後*幾層。


# %%
def calls(model):
    """How often a bottleneck runs while a batch goes through the model."""
    count = []
    adapters = [adapter for layer in adapted_layers(model).values() for adapter in layer.stack]
    hooks = [adapter.register_forward_hook(lambda *_: count.append(1)) for adapter in adapters]
    states = hidden_states(model)
    for hook in hooks:
        hook.remove()
    return len(count), states


@torch.no_grad()
def hidden_states(model):
    """What goes into each layer, and what comes out of the last one: (batch, seq, hidden) each."""
    return model(
        **{name: tensor.to(settings.device) for name, tensor in batch.items() if name != "labels"},
        output_hidden_states=True,
    ).hidden_states


batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
model = trained_models["relabel", first_seed]
layers = 1 + max(layer_number(name) for name in adapted_layers(model))
per_layer = len(adapted_layers(model)) // layers
of_base = hidden_states(base)
gaps, zero_gaps, below = [], [], []
for number in range(layers + 1):
    drop_first(model, number)
    counted, states = calls(model)
    gaps.append(abs(counted - per_layer * (layers - number)))
    below.append(max(distance(states[place], of_base[place]) for place in range(number + 1)))
    drop_first(model, 0)
    multiply_by_zero(model, number)
    zero_gaps.append(abs(calls(model)[0] - per_layer * (layers - number)))
    for layer in adapted_layers(model).values():
        layer.rows = None
drop_last(model, settings.dropped)
wrong_end = hidden_states(model)
drop_first(model, 0)
lab.record("dropped_call_difference", max(gaps))
lab.record("dropped_call_difference", max(zero_gaps), variant="times_zero")
lab.record("lower_layer_difference", max(below))
lab.record("lower_layer_difference", distance(wrong_end[settings.dropped], of_base[settings.dropped]), variant="last_layers")

# %% [markdown] lang="en"
# ## What does each layer cost?
#
# Three trainings of `relabel`: as usual; with another number of layers left out in each step (one line: `after_step=RandomDrop(...)`,
# which the paper calls robust); and one training for each fixed number (specialised). Then each runs without the adapters of its first layers.

# %% [markdown] lang="zh-TW"
# ## 每一層的代價是多少？
#
# `relabel` 用三種方式訓練：照常；每一步隨機跳過不同的層數（只多一行：`after_step=RandomDrop(...)`，論文稱為 robust）；
# 以及每個固定層數各訓練一次（specialised）。然後都在拿掉前幾層 adapter 的情況下執行。


# %%
def with_drop(model):
    """Accuracy on relabel, over the number of first layers without adapters."""
    values = []
    for number in range(layers + 1):
        drop_first(model, number)
        values.append(accuracy(model, tasks["relabel"]).accuracy)
    drop_first(model, 0)
    return values


options = {
    "steps": steps["relabel"],
    "learning_rate": rates["relabel"],
    "batch_size": family.BATCH,
    "schedule": settings.schedule,
    "progress": False,
}
plain_curves, robust_curves = [], []
for seed in lab.progress(settings.seeds):
    robust = fresh(seed=seed)
    fit(robust, tasks["relabel"], seed=seed, after_step=RandomDrop(robust, seed=seed), **options)
    plain_curves.append(with_drop(trained_models["relabel", seed]))
    robust_curves.append(with_drop(robust))
    lab.record("dropped_accuracy", robust_curves[-1][settings.dropped], seed=seed)
    lab.record("dropped_accuracy", plain_curves[-1][settings.dropped], seed=seed, variant="plain_training")
    lab.record("dropped_accuracy", constant["relabel"], seed=seed, variant="constant")
specialised = [mean["relabel", "adapters"]]
for number in range(1, layers):
    model = fresh(houlsby(settings.reduction_factor, leave_out=tuple(range(number))))
    fit(model, tasks["relabel"], seed=first_seed, **options)
    specialised.append(accuracy(model, tasks["relabel"]).accuracy)
by_training = {
    "as usual": np.mean(plain_curves, axis=0),
    "robust": np.mean(robust_curves, axis=0),
    "specialised": specialised,
}
lab.figure(
    "adapter-drop",
    accuracy_by_dropped(by_training),
    Text(
        en="Accuracy on relabel without the adapters of the first layers, by how it was trained; "
        "specialised: one seed, a training for each point.",
        zh_tw="拿掉前幾層 adapter 之後在 relabel 的準確率，依訓練方式分開；specialised 只有一個種子，每個點各訓練一次。",
    ),
)

# %% [markdown] lang="en"
# ## What is saved in training?
#
# Below the first adapter nothing is trained, so that the way back ends there. Counted: the matrix products of one step, forward and backward.

# %% [markdown] lang="zh-TW"
# ## 訓練省下什麼？
#
# 第一個 adapter 以下沒有東西要訓練，所以反向傳播到那裡就結束。數出來的：一步裡前向加反向的矩陣乘積。


# %%
def flops_of_a_step(model):
    """Of the matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        model.train()
        model(**{name: tensor.to(settings.device) for name, tensor in batch.items()}).loss.backward()
    return counter.get_total_flops()


of_full = flops_of_a_step(full_model())
step_flops = [
    flops_of_a_step(fresh(houlsby(settings.reduction_factor, leave_out=tuple(range(number))))) / of_full for number in range(layers)
]
lab.table(
    [
        tr("first layers left out", "跳過的前幾層"),
        tr("FLOPs of a step, full fine-tuning = 1", "一步的 FLOPs，全參數微調 = 1"),
        *by_training,
    ],
    [
        (
            number,
            f"{step_flops[number]:.2f}" if number < layers else "-",
            *(f"{values[number]:.1%}" if number < len(values) else "-" for values in by_training.values()),
        )
        for number in range(layers + 1)
    ],
)

# %% [markdown] lang="en"
# ## What was forgotten, and the rows of the family
#
# What pretraining taught, asked again after each task (first seed). Then two rows in the table that compares all of module 1.1: adapters, and
# `peft`'s LoRA as lab 1.1.1 set it.

# %% [markdown] lang="zh-TW"
# ## 忘了什麼，以及家族總表的兩列
#
# 每個任務訓練之後，再問一次預訓練教過的東西（第一個種子）。接著是 1.1 單元總表中的兩列：adapter，以及照實驗 1.1.1 設定的 `peft` LoRA。

# %%
kept = {
    f"{name}, {way}": found[name, family.SEEDS[0]].kept for name in family.TASKS for way, found in (("adapters", runs), ("LoRA", of_lora))
}
kept["relabel, full"] = full[family.SEEDS[0]].kept
skills_asked = list(kept["relabel, full"])
average = {name: float(np.mean(list(values.values()))) for name, values in kept.items()}
lab.table(
    [tr("after", "訓練之後"), *skills_asked, tr("mean", "平均")],
    [(name, *(f"{values[skill]:.0%}" for skill in skills_asked), f"{average[name]:.0%}") for name, values in kept.items()],
)

# %%
files = {"relabel": lab.artifact("adapter-relabel"), "new_facts": lab.artifact("adapter-new_facts")}
for name, directory in files.items():
    save_adapter(trained_models[name, first_seed], chosen, directory, base_name)
lora_directory = lab.artifact("lora-relabel")
save_peft_model(lora_model, lora_directory)
prompt = tokenizer("27 + 15 →", return_tensors="pt")["input_ids"].to(settings.device)
one_step = {"steps": 1, "learning_rate": 0.0, "batch_size": family.BATCH, "seed": 0, "progress": False}
rows = {}
for variant, found, make, directory in (
    (None, runs, fresh, files["relabel"]),
    ("lora", of_lora, lambda: fresh_lora(first_seed), lora_directory),
):
    measured = make()
    rows[variant] = {
        "trained": count_parameters(measured).trainable,
        "total": count_parameters(base).total,
        "file_bytes": directory_bytes(directory),
        "peak_bytes": peak_memory(lambda model=measured: fit(model, tasks["compose"], **one_step), settings.device),
        "token_ratio": family.token_ratio(measured, base, prompt, repeats=settings.repeats),
    }
    family.record_row(found, mergeable=variant == "lora", variant=variant, **rows[variant])
lab.table(
    [tr("column", "欄位"), tr("adapters", "adapter"), "LoRA"],
    [(key, *(f"{row[key]:,.4g}" if row[key] < 10 else f"{row[key]:,}" for row in rows.values())) for key in rows[None]],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
measured_for = {
    "lora_ahead": mean["compose", "LoRA"] - mean["compose", "adapters"],
    "placement_gap": float(np.mean([two[seed] - one[seed] for seed in one])),
    "plain_dropped": float(by_training["as usual"][settings.dropped]),
}
said, said_zh = {}, {}
lab.record("lora_ahead", measured_for["lora_ahead"])
lab.record("plain_dropped", measured_for["plain_dropped"])
for name in measured_for:
    guess = lab.predict(name)
    said[name] = "" if guess is None else f" (you guessed {guess:g})"
    said_zh[name] = "" if guess is None else f"（你猜 {guess:g}）"
lost = [by_training["as usual"][0] - value for value in by_training["as usual"][1:]]
points_ahead = [100 * (two[seed] - one[seed]) for seed in one]
gaps_by_seed = ", ".join(f"{value:+.0f}" for value in points_ahead)
unsure = min(points_ahead) <= 0 or max(points_ahead) - min(points_ahead) > abs(float(np.mean(points_ahead)))
at_places = lora_there < (1 + mean["compose", "adapters"]) / 2 * mean["compose", "LoRA"]
place_or_shape = (
    Text(
        en="So it is the place more than the shape: what stands behind a sublayer cannot tell the same sublayer where to look.",
        zh_tw="所以要緊的是位置，而不是形狀：站在子層後面的東西，沒辦法告訴同一個子層該往哪裡看。",
    )
    if at_places
    else Text(
        en="So the place alone does not explain it: LoRA learns it there.",
        zh_tw="所以位置不足以解釋：LoRA 放在那裡也學得會。",
    )
)
lab.say(
    f"""- {trained:,} numbers ({trained / count_parameters(base).total:.1%}) reach {mean["relabel", "adapters"]:.1%} \
on `relabel`, \
{mean["new_facts", "adapters"]:.1%} on `new_facts` and {mean["compose", "adapters"]:.1%} on `compose`; \
LoRA {mean["relabel", "LoRA"]:.1%}, {mean["new_facts", "LoRA"]:.1%} and {mean["compose", "LoRA"]:.1%}. \
On `compose` LoRA is {100 * measured_for["lora_ahead"]:.0f} points ahead{said["lora_ahead"]}.
- With as many parameters two narrow adapters in a layer are {100 * measured_for["placement_gap"]:+.0f} points ahead \
of \
one wide one{said["placement_gap"]}, seed by seed {gaps_by_seed}. \
{"Seeds differ by as much: that is no ranking yet." if unsure else "Every seed says so."} \
LoRA on the very layers behind which the adapters stand: {lora_there:.1%}. \
{place_or_shape.en}
- Trained as usual, and run without the adapters of {settings.dropped} of {layers} layers: \
{measured_for["plain_dropped"]:.1%}{said["plain_dropped"]}. \
Layer by layer the loss is {", ".join(f"{100 * value:.0f}" for value in lost)} points. \
Trained for it: {by_training["robust"][settings.dropped]:.1%}, for all of them at once, with \
{by_training["robust"][0]:.1%} when nothing is left out.
- Skills of pretraining after `relabel`: {average["relabel, adapters"]:.0%} with adapters, \
{average["relabel, LoRA"]:.0%} with LoRA, \
{average["relabel, full"]:.0%} after full fine-tuning, on average. Taken off, both are the base.""",
    f"""- {trained:,} 個數（{trained / count_parameters(base).total:.1%}）在 `relabel` 達到 \
{mean["relabel", "adapters"]:.1%}，\
`new_facts` {mean["new_facts", "adapters"]:.1%}，`compose` {mean["compose", "adapters"]:.1%}；\
LoRA 依序是 {mean["relabel", "LoRA"]:.1%}、{mean["new_facts", "LoRA"]:.1%}、{mean["compose", "LoRA"]:.1%}。\
在 `compose` 上 LoRA 領先 {100 * measured_for["lora_ahead"]:.0f} 個百分點{said_zh["lora_ahead"]}。
- 參數量相同時，每層兩個窄的 adapter 比一個寬的多 {100 * measured_for["placement_gap"]:+.0f} 個百分點{said_zh["placement_gap"]}，\
逐個種子是 {gaps_by_seed}。{"種子之間的差別也有這麼大，還排不出名次。" if unsure else "每個種子都是如此。"}\
LoRA 只放在 adapter 前面那些層上：{lora_there:.1%}。\
{place_or_shape.zh_tw}
- 照常訓練，執行時拿掉 {layers} 層裡前 {settings.dropped} 層的 adapter：{measured_for["plain_dropped"]:.1%}{said_zh["plain_dropped"]}。\
跳過一層、兩層……依序損失 {"、".join(f"{100 * value:.0f}" for value in lost)} 個百分點。\
訓練時就準備好的話：{by_training["robust"][settings.dropped]:.1%}，而且一次訓練就適用於所有層數；什麼都不跳過時是 {by_training["robust"][0]:.1%}。
- `relabel` 之後，預訓練的技能平均剩下：adapter {average["relabel, adapters"]:.0%}、LoRA {average["relabel, LoRA"]:.0%}、\
全參數微調 {average["relabel, full"]:.0%}。拿掉之後，前兩者都變回基礎模型。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Four layers: the paper leaves out five of twelve and more. Here each layer is a quarter of the model.
# - `compose` was not trained to its end: steps are the same for both methods. What more of them would bring was not measured here.
# - `new_facts` was not searched: it has the rates of `compose`.
# - LoRA on the adapters' layers ran with one seed, at a rate found for LoRA on all layers.
#
# **Exercises.** 4 and 5 (`adapters.py`: leaving layers out, an equal budget) belong here: `nox -s check -- lab-1.1.2-adapters`.
#
# **Next:** several of them, one after the other and side by side; and what every token pays.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 只有四層：論文跳過的是十二層裡的五層甚至更多。這裡的一層就是模型的四分之一。
# - `compose` 沒有訓練到底：兩個方法的步數相同。再多的步數會帶來什麼，這裡沒有量。
# - `new_facts` 沒有另外搜尋，用的是 `compose` 的學習率。
# - 只放在 adapter 前面那些層的 LoRA 只跑一個種子，學習率是替「放在所有層的 LoRA」找的。
#
# **練習。** 練習 4、5（`adapters.py`：跳過幾層、相同的預算）屬於這一本：`nox -s check -- lab-1.1.2-adapters`。
#
# **下一步：** 好幾個 adapter，一個接一個、或各走各的；以及每個 token 要付的代價。
