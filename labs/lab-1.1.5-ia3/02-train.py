# %% [markdown] lang="en"
# # 2. Are knobs enough?
#
# **Question.** No new feature, no new direction, half a percent of the numbers. What can a model learn that way, how far do the knobs have to be turned, and which of them?
#
# | | |
# |---|---|
# | You build | (IA)3 on three tasks, and full fine-tuning beside it, each with its own learning rate; the row of this method in the family's table; a look at the knobs afterwards |
# | You write | exercise 3 (`ia3.py`) |
# | You need | three minutes on two CPU cores, 2 GB of memory |
# | You should see | what the learning rate of another method does to this one; the rank of what was learned; what is left when one kind of knob is put back to 1 |

# %% [markdown] lang="zh-TW"
# # 2. 只有旋鈕，夠嗎？
#
# **問題。** 沒有新的特徵、沒有新的方向，只動千分之五的數字。模型這樣能學會什麼？旋鈕要轉多遠？是哪些旋鈕在起作用？
#
# | | |
# |---|---|
# | 你會做出 | 在三個任務上訓練 (IA)3，旁邊是全參數微調，各用自己的學習率；這個方法在家族總表中的一列；再回頭看看旋鈕轉到哪裡 |
# | 你要寫的 | 練習 3（`ia3.py`） |
# | 你需要 | 兩個 CPU 核心跑三分鐘，2 GB 記憶體 |
# | 你應該看到 | 拿別的方法的學習率來用會怎樣；學到的改變量的秩；把其中一種旋鈕轉回 1 之後還剩什麼 |

# %%
import numpy as np
import torch

from ia3 import Ia3Settings, add_ia3, fold_ia3, ia3_layers, ia3_parameter_count
from ia3_figures import change_cut_to_rank, factors_by_kind, losses_of_tasks
from ia3_files import save_adapter
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    base_names,
    best_constant,
    changed_tensors,
    directory_bytes,
    family,
    fit,
    load_base,
    tensor_hashes,
)
from onepiece.course.text import Text, tr
from onepiece.measure import peak_memory
from onepiece.models import count_parameters

settings = lab.settings
torch.set_num_threads(settings.threads)
chosen = Ia3Settings(settings.outputs, settings.inputs)
base, tokenizer = load_base(settings)
frozen = tensor_hashes(base)
tasks = family.load_tasks(tokenizer, chat=settings.chat)
steps = {"relabel": settings.relabel_steps, "compose": settings.compose_steps, "new_facts": settings.facts_steps}
rates = {"relabel": settings.relabel_rate, "compose": settings.compose_rate, "new_facts": settings.compose_rate}
full_rates = {"relabel": settings.relabel_full_rate, "compose": settings.compose_full_rate}
constant = {name: best_constant(task) for name, task in tasks.items()}
first_seed = settings.seeds[0]


def fresh(*, full=False):
    """The base anew: with factors, or with all of it trainable."""
    model, _ = load_base(settings)
    if full:
        model.requires_grad_(True)
    else:
        add_ia3(model, chosen)
    return model


def learn(model, name, rate, seed):
    """Train, look at the held-out items on the way, score at the end."""
    options = {"steps": steps[name], "learning_rate": rate, "schedule": settings.schedule}
    return family.learn(model, tasks[name], seed=seed, **options)


lab.table(
    [
        *(tr("task", "任務"), tr("steps", "步數"), tr("rate of (IA)3", "(IA)3 的學習率")),
        *(tr("rate of full fine-tuning", "全參數微調的學習率"), tr("always the same answer", "永遠答同一個")),
    ],
    [(name, steps[name], rates[name], full_rates.get(name, "-"), f"{constant[name]:.1%}") for name in family.TASKS],
)

# %% [markdown] lang="en"
# ## Predict
#
# Look at the two columns of rates. Both were searched equally hard, on a seed that is not used here (`nox -s calibrate -- lab-1.1.5-ia3`). Of the best two of each, the one was taken that did better on two more seeds; on `compose` that was not the first of the search. These two seeds are among the three below, so only the third had no part in the choice. Why are the columns so far apart? Then write into `predictions.toml`:
#
# ```toml
# compose_accuracy = 0.5     # held-out exact match of (IA)3 on compose: two known skills, one after the other
# change_rank_share = 0.5    # the rank of the change of a weight, as a share of the rank of that weight (LoRA of rank 8 on k_proj here: 8/64)
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 看看那兩欄學習率。兩邊搜尋的預算相同，用的是這裡沒有用到的種子（`nox -s calibrate -- lab-1.1.5-ia3`）。各自最好的兩個再用另外兩個種子比一次，取較好的那個；在 `compose` 上，它並不是搜尋的第一名。這兩個種子也在下面的三個之中，所以只有第三個種子沒有參與選擇。兩欄為什麼差這麼多？然後把這些寫進 `predictions.toml`：
#
# ```toml
# compose_accuracy = 0.5     # (IA)3 在 compose 的保留題目上答對的比例：兩個已知的技能，一個接一個
# change_rank_share = 0.5    # 權重改變量的秩，占該權重的秩的比例（這裡 k_proj 上秩 8 的 LoRA 是 8/64）
# ```

# %%
runs, trained_models = {}, {}
for name in family.TASKS:
    for seed in lab.progress(family.SEEDS):
        model = fresh()
        runs[name, seed] = learn(model, name, rates[name], seed)
        if seed == first_seed:
            trained_models[name] = model
for seed in settings.seeds:
    lab.record("compose_accuracy", runs["compose", seed].accuracy, seed=seed)
    lab.record("compose_accuracy", constant["compose"], seed=seed, variant="constant")
    lab.record("new_facts_accuracy", runs["new_facts", seed].accuracy, seed=seed)

# %% [markdown] lang="en"
# ## Beside full fine-tuning, and with the wrong rate
#
# Full fine-tuning sees the same batches of `relabel`. The controls are (IA)3 with the rate of full fine-tuning, (IA)3 with a tenth of its own, and full fine-tuning with a hundredth of its own.

# %% [markdown] lang="zh-TW"
# ## 與全參數微調並列，以及用錯學習率
#
# 全參數微調看到同樣的 `relabel` 批次。對照組是用全參數微調的學習率訓練的 (IA)3、只用自己學習率十分之一的 (IA)3，以及只用自己學習率百分之一的全參數微調。

# %%
full = {("relabel", seed): learn(fresh(full=True), "relabel", full_rates["relabel"], seed) for seed in settings.seeds}


def wrongly(model, name, rate):
    """As `learn`, without looks on the way: losses, and how much is right at the end."""
    whole = {"steps": steps[name], "batch_size": family.BATCH, "schedule": settings.schedule, "progress": False}
    losses = fit(model, tasks[name], learning_rate=rate, seed=first_seed, **whole).losses
    return np.array(losses), accuracy(model, tasks[name]).accuracy


_, slow_full = wrongly(fresh(full=True), "relabel", full_rates["relabel"] / 100)
full_rate_losses, full_rate = wrongly(fresh(), "relabel", full_rates["relabel"])
tenth_losses, tenth = wrongly(fresh(), "compose", rates["compose"] / 10)
for seed in settings.seeds:
    reached = full["relabel", seed].accuracy
    lab.record("full_accuracy", reached, seed=seed)
    lab.record("full_accuracy", constant["relabel"], seed=seed, variant="constant")
    lab.record("relabel_vs_full", runs["relabel", seed].accuracy / reached, seed=seed)
    lab.record("relabel_vs_full", constant["relabel"] / reached, seed=seed, variant="constant")
lab.record("full_accuracy", slow_full, seed=first_seed, variant="hundredth_of_the_rate")
lab.record("relabel_vs_full", full_rate / full["relabel", first_seed].accuracy, seed=first_seed, variant="full_rate")
lab.record("compose_accuracy", tenth, seed=first_seed, variant="tenth_of_the_rate")

right = {(name, "IA3"): [runs[name, seed].accuracy for seed in family.SEEDS] for name in family.TASKS}
right["relabel", "full"] = [full["relabel", seed].accuracy for seed in settings.seeds]
right["relabel", "IA3, rate of full"] = [full_rate]
right["compose", "IA3, a tenth of the rate"] = [tenth]
lab.table(
    [tr("task", "任務"), tr("training", "訓練"), tr("held-out exact match, by seed", "保留題目答對的比例，逐個種子")],
    [(*key, ", ".join(f"{value:.1%}" for value in values)) for key, values in right.items()],
)

# %%
curves = {(name, "IA3"): [np.array(runs[name, seed].history.losses) for seed in family.SEEDS] for name in family.TASKS}
wrong = tr("wrong rate", "錯的學習率")
curves["relabel", "full"] = [np.array(full["relabel", seed].history.losses) for seed in settings.seeds]
curves["relabel", wrong] = [full_rate_losses]
curves["compose", wrong] = [tenth_losses]
lab.figure(
    "losses",
    losses_of_tasks(curves),
    Text(
        en="Losses over the steps. Wrong rate: (IA)3 with full fine-tuning's on relabel, with a tenth of its own on compose.",
        zh_tw="損失隨步數的變化。錯的學習率：relabel 上是用全參數微調學習率的 (IA)3，compose 上是用自己十分之一學習率的 (IA)3。",
    ),
)

# %% [markdown] lang="en"
# ## Why such a rate?
#
# Adam moves each number by about the rate in each step, whatever the gradient's size. What matters is the rate *relative to the number*. How large is a weight here, and how large is a factor?

# %% [markdown] lang="zh-TW"
# ## 為什麼要這麼大的學習率？
#
# 不管梯度多大，Adam 每一步都讓每個數字移動大約一個學習率。重要的是學習率*相對於那個數字*的大小。這裡的權重有多大，倍率又有多大？

# %%
model = trained_models["relabel"]
layers = ia3_layers(model)
typical_weight = torch.cat([layer.base.weight.detach().flatten() for layer in layers.values()]).square().mean().sqrt().item()
moved = torch.cat([(layer.scale.detach() - 1).abs() for layer in layers.values()])
relative = {"IA3": rates["relabel"] / 1, "full": full_rates["relabel"] / typical_weight}
lab.say(
    f"""A weight of these layers is about {typical_weight:.2g} (root mean square), a factor is 1. \
So one step of full fine-tuning may move a weight by {relative["full"]:.1%} of itself, and one of (IA)3 a factor by \
{relative["IA3"]:.0%}: {relative["IA3"] / relative["full"]:.0f} times as far, although the rates differ by \
{rates["relabel"] / full_rates["relabel"]:.0f}.
A few numbers must do what {count_parameters(base).total:,} do otherwise: \
on `relabel` they moved by {moved.mean():.2f} on average, the farthest by {moved.max():.1f}. \
With full fine-tuning's rate and {settings.relabel_steps} steps none could have moved by more than about \
{settings.relabel_steps * full_rates["relabel"]:.1f}, and the method would look weak: {full_rate:.1%}.
The authors trained with 3e-3 (`configs/ia3.json` of r-three/t-few) on a model of 3 or 11 billion parameters, with \
another optimizer. No rate carries over: search it.""",
    f"""這些層的權重大約是 {typical_weight:.2g}（均方根），倍率則是 1。所以全參數微調走一步，權重可能移動自己的 {relative["full"]:.1%}；\
(IA)3 走一步，倍率移動 {relative["IA3"]:.0%}：學習率相差 {rates["relabel"] / full_rates["relabel"]:.0f} 倍，相對的步伐是 \
{relative["IA3"] / relative["full"]:.0f} 倍。
少數幾個數字，要做到原本 {count_parameters(base).total:,} 個做的事：在 `relabel` 上，它們平均移動了 {moved.mean():.2f}，最遠的移動了 {moved.max():.1f}。\
用全參數微調的學習率走 {settings.relabel_steps} 步，誰都移動不了 {settings.relabel_steps * full_rates["relabel"]:.1f} 左右以上，這個方法看起來就會很弱：\
{full_rate:.1%}。
作者用的是 3e-3（r-three/t-few 的 `configs/ia3.json`），模型有 30 億或 110 億個參數，最佳化器也不同。學習率不能照搬：要自己找。""",
)

# %% [markdown] lang="en"
# ## What is frozen
#
# A hash of each tensor of the base, before and after. The control put the vectors in and forgot to freeze the rest.

# %% [markdown] lang="zh-TW"
# ## 凍結的部分
#
# 比對基礎模型每個張量訓練前後的雜湊值。對照組放了向量，卻忘了凍結其他部分。

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
# ## Few numbers, which rank?
#
# LoRA saves numbers by a low rank. (IA)3 has fewer numbers still. Is its change $(\mathrm{diag}(l)-I)\,W$ of a low rank too? We fold the factors into the weights (exercise 3; notebook 4 looks at it closely), and count the rank of each change, beside that of the weight. The control is the change cut to as many directions as LoRA could afford with these numbers: one, at best.
#
# Then we cut the change of each layer to its best few directions, as lab 1.1.1 did with full fine-tuning, and ask what the model still knows.

# %% [markdown] lang="zh-TW"
# ## 數字這麼少，秩是多少？
#
# LoRA 靠低秩來省數字，(IA)3 的數字還更少。它的改變量 $(\mathrm{diag}(l)-I)\,W$ 也是低秩嗎？我們把倍率收進權重（練習 3；第 4 本筆記本會仔細看），再算出每個改變量的秩，與權重的秩並列。對照組把改變量砍到 LoRA 用這麼多數字買得起的方向數：頂多一個。
#
# 接著像實驗 1.1.1 對全參數微調做的那樣，把每層的改變量砍到最好的幾個方向，再看模型還會什麼。

# %%
plain_base = {name: base.get_submodule(name).weight.detach() for name in layers}


def changes(model):
    """Name of a layer -> how its weight changes when it is folded, (out, in)."""
    folded = fold_ia3(model)
    return {name: folded.get_submodule(name).weight.detach() - plain_base[name] for name in plain_base}


def cut(change, rank):
    """The nearest matrix of at most this rank, and the share of the squared change that it keeps."""
    left, values, right_side = torch.linalg.svd(change.double(), full_matrices=False)
    kept = (left[:, :rank] * values[:rank]) @ right_side[:rank]  # (out, rank) @ (rank, in) -> (out, in)
    return kept.to(change), (values[:rank].square().sum() / values.square().sum()).item()


def rank_of(matrix):
    """Directions with at least 1e-5 of the largest one: below that is the rounding of float32."""
    return int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-5))


shares, one_direction = [], []
for name, change in changes(trained_models["compose"]).items():
    of_weight = rank_of(plain_base[name])
    shares.append(rank_of(change) / of_weight)
    one_direction.append(rank_of(cut(change, 1)[0]) / of_weight)
lab.record("change_rank_share", min(shares))
lab.record("change_rank_share", max(one_direction), variant="as_many_numbers")

full_rank = min(min(weight.shape) for weight in plain_base.values())
cut_ranks = [2**power for power in range(full_rank.bit_length()) if 2**power <= full_rank]
cut_right, energy = {}, {}
for task_name in ("relabel", "compose"):
    found = changes(trained_models[task_name])
    cut_right[task_name], energy[task_name] = [], []
    for rank in cut_ranks:
        model, _ = load_base(settings)
        parts = {name: cut(change, rank) for name, change in found.items()}
        with torch.no_grad():
            for name, (kept, _) in parts.items():
                model.get_submodule(name).weight += kept
        cut_right[task_name].append(accuracy(model, tasks[task_name]).accuracy)
        energy[task_name].append(float(np.mean([share for _, share in parts.values()])))
lab.figure(
    "cut-to-rank",
    change_cut_to_rank(cut_ranks, cut_right, energy),
    Text(
        en="The trained change of each weight, cut to its best few directions: what the model still knows, and how much of the change is kept.",
        zh_tw="把訓練後每個權重的改變量砍到最好的幾個方向：模型還會多少，改變量還剩多少。",
    ),
)

# %% [markdown] lang="en"
# ## Which knobs?
#
# After training, one kind of knob is put back to 1 and the others stay. What is lost was on that kind.

# %% [markdown] lang="zh-TW"
# ## 是哪些旋鈕？
#
# 訓練完之後，把其中一種旋鈕轉回 1，其他的不動。失去的，就是那一種旋鈕負責的。

# %%
kinds = chosen.targets
kind_factors = {kind: [] for kind in kinds}
for name, layer in ia3_layers(trained_models["compose"]).items():
    kind_factors[name.rpartition(".")[2]].append(layer.scale.detach().cpu().numpy())
kind_factors = {kind: np.concatenate(values) for kind, values in kind_factors.items()}
without = {}
for task_name in ("relabel", "compose"):
    for kind in kinds:
        model = trained_models[task_name]
        touched = [layer for name, layer in ia3_layers(model).items() if name.endswith(f".{kind}")]
        for layer in touched:
            layer.enabled = False
        without[task_name, kind] = accuracy(model, tasks[task_name]).accuracy
        for layer in touched:
            layer.enabled = True
lab.table(
    [tr("put back to 1", "轉回 1 的"), *(tr(f"right on {name}", f"{name} 答對") for name in ("relabel", "compose"))],
    [
        (tr("nothing", "無"), *(f"{runs[name, first_seed].accuracy:.1%}" for name in ("relabel", "compose"))),
        *((kind, *(f"{without[name, kind]:.1%}" for name in ("relabel", "compose"))) for kind in kinds),
    ],
)
lab.figure(
    "factors",
    factors_by_kind(kind_factors),
    Text(
        en="The factors after training on compose, by kind; all began at the dashed line.",
        zh_tw="在 compose 上訓練之後的倍率，依種類分開；全部從虛線的位置開始。",
    ),
)

# %%
negative = {kind: float((values < 0).mean()) for kind, values in kind_factors.items()}
muted = {kind: float((np.abs(values) < 0.25).mean()) for kind, values in kind_factors.items()}
lab.say(
    f"""On `compose` the share of muted features (a factor within 0.25 of zero) is \
{", ".join(f"{value:.0%} of {kind}" for kind, value in muted.items())}; \
turned *round* (below zero) are {", ".join(f"{value:.0%}" for value in negative.values())}. \
A knob is not only a volume: nothing stops it at zero, and a feature with its sign changed is nearly a new one.
Most is lost without the factors of `{min(kinds, key=lambda kind: without["compose", kind])}`.""",
    f"""在 `compose` 上，被關小的特徵（倍率離零不到 0.25）占 {"、".join(f"{kind} 的 {value:.0%}" for kind, value in muted.items())}；\
被*反轉*的（小於零）依序是 {"、".join(f"{value:.0%}" for value in negative.values())}。旋鈕不只是音量：到了零也沒有東西擋住它，而變了正負號的特徵，幾乎就是新的特徵。
拿掉 `{min(kinds, key=lambda kind: without["compose", kind])}` 的倍率，失去的最多。""",
)

# %% [markdown] lang="en"
# ## What was forgotten, and the row of the family
#
# What pretraining taught, asked again after each task (first seed). Then this method's row in the table that compares all of module 1.1.

# %% [markdown] lang="zh-TW"
# ## 忘了什麼，以及家族總表的一列
#
# 每個任務訓練之後，再問一次預訓練教過的東西（第一個種子）。接著是這個方法在 1.1 單元總表中的一列。

# %%
kept = {name: runs[name, family.SEEDS[0]].kept for name in family.TASKS}
kept["relabel, full"] = full["relabel", family.SEEDS[0]].kept
skills_asked = list(kept["relabel"])
average = {name: float(np.mean(list(values.values()))) for name, values in kept.items()}
lab.table(
    [tr("after", "訓練之後"), *skills_asked, tr("mean", "平均")],
    [(name, *(f"{values[skill]:.0%}" for skill in skills_asked), f"{average[name]:.0%}") for name, values in kept.items()],
)

# %%
base_name, _ = base_identity(settings)
adapters = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}
for name, directory in adapters.items():
    save_adapter(trained_models[name], chosen, directory, base_name)
one_step = {"steps": 1, "learning_rate": 0.0, "batch_size": family.BATCH, "seed": 0, "progress": False}
measured = fresh()
peak = peak_memory(lambda: fit(measured, tasks["compose"], **one_step), settings.device)
prompt = tokenizer("27 + 15 →", return_tensors="pt")["input_ids"].to(settings.device)
trained = ia3_parameter_count(base, chosen)
row = {
    "trained": trained,
    "total": count_parameters(base).total,
    "file_bytes": directory_bytes(adapters["relabel"]),
    "peak_bytes": peak,
    "token_ratio": family.token_ratio(trained_models["compose"], base, prompt, repeats=settings.repeats),
}
family.record_row(runs, mergeable=True, **row)
lab.table([tr("column", "欄位"), tr("value", "值")], [(key, f"{value:,.4g}" if value < 10 else f"{value:,}") for key, value in row.items()])

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guesses = {name: lab.predict(name) for name in ("compose_accuracy", "change_rank_share")}
mean = {name: float(np.mean(right[name, "IA3"])) for name in family.TASKS}
said = {name: "" if value is None else f" (you guessed {value:.0%})" for name, value in guesses.items()}
said_zh = {name: "" if value is None else f"（你猜 {value:.0%}）" for name, value in guesses.items()}
nine_tenths = {
    name: next((rank for rank, value in zip(cut_ranks, values, strict=True) if value >= 0.9 * runs[name, first_seed].accuracy), full_rank)
    for name, values in cut_right.items()
}
forgets_more = average["relabel"] < average["relabel, full"]
no_protection = "Few trained numbers are no protection: turned that far, they change everything that the model does. \
What protects is that the factors can be taken off."
lab.say(
    f"""- {trained:,} factors ({trained / row["total"]:.2%}) reach {mean["relabel"]:.1%} on `relabel`, {mean["compose"]:.1%} \
on `compose`{said["compose_accuracy"]} and {mean["new_facts"]:.1%} on `new_facts`; \
full fine-tuning {np.mean(right["relabel", "full"]):.1%} on the first. \
With a tenth of the rate `compose` is at {tenth:.1%}.
- The change of a weight has {min(shares):.0%} of the weight's rank at least{said["change_rank_share"]}. \
Few numbers do not mean a low rank: here a number moves a whole row or column. \
To keep nine tenths of the accuracy, {nine_tenths["relabel"]} directions are needed for `relabel` and \
{nine_tenths["compose"]} for `compose`, of {full_rank}.
- Afterwards the skills of pretraining stand at {average["relabel"]:.0%} (`relabel`) on average, after full \
fine-tuning at {average["relabel, full"]:.0%}. \
{no_protection if forgets_more else "That depends on rates and steps: take it for no law."}""",
    f"""- {trained:,} 個倍率（{trained / row["total"]:.2%}）在 `relabel` 達到 {mean["relabel"]:.1%}，`compose` \
{mean["compose"]:.1%}{said_zh["compose_accuracy"]}，`new_facts` {mean["new_facts"]:.1%}；\
全參數微調在 `relabel` 是 {np.mean(right["relabel", "full"]):.1%}。\
學習率只用十分之一的話，`compose` 是 {tenth:.1%}。
- 權重的改變量，至少有權重的秩的 {min(shares):.0%}{said_zh["change_rank_share"]}。數字少不代表秩低：在這裡，一個數字動的是一整列或一整行。\
要保住九成的準確率，`relabel` 需要 {nine_tenths["relabel"]} 個方向，`compose` 需要 {nine_tenths["compose"]} 個，總共有 {full_rank} 個。
- 訓練之後，預訓練的技能平均剩 {average["relabel"]:.0%}（`relabel`），全參數微調之後是 {average["relabel, full"]:.0%}。\
{"訓練的數字少，並不能防止遺忘：轉到那麼遠，模型做的每件事都跟著變。真正的保護是倍率可以拿掉。" if forgets_more else "這取決於學習率與步數，別當成定律。"}""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - `relabel` and `compose` are made of what the base can do. Where a feature is missing, no knob can turn it up. `new_facts` may be such a case; with so few steps, and the rate of `compose`, the table does not say so.
# - The rate stays constant to the end, so that the last steps still shake the accuracy, on `compose` more than elsewhere: look at the seeds, not at the mean alone.
# - Full fine-tuning did not run on `compose` here. What the search found of it is in `results/calibration.json`.
# - The paper's own recipe adds two more losses (unlikelihood and length-normalised) and few examples; ours has thousands of examples and the plain loss.
#
# **Exercise.** 3 (`ia3.py`: the fold) belongs here: `nox -s check -- lab-1.1.5-ia3`.
#
# **Next:** what can one do with adapters that are vectors?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - `relabel` 與 `compose` 是用基礎模型本來就會的東西組成的。缺了的特徵，轉什麼旋鈕都轉不出來。`new_facts` 也許就是這種情況；但它的步數很少，用的又是 `compose` 的學習率，表裡的結果還不能這樣說。
# - 學習率到最後都不變，所以最後幾步仍會讓準確率晃動，`compose` 晃得最厲害：請看各個種子，別只看平均。
# - 全參數微調在這裡沒有跑 `compose`；搜尋時的結果在 `results/calibration.json`。
# - 論文自己的配方還多兩種損失（unlikelihood 與長度正規化），例子很少；我們有幾千個例子，用一般的損失。
#
# **練習。** 練習 3（`ia3.py`：收進權重）屬於這一本：`nox -s check -- lab-1.1.5-ia3`。
#
# **下一步：** adapter 只是向量的話，可以拿來做什麼？
