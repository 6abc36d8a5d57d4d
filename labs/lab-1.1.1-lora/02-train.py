# %% [markdown] lang="en"
# # 2. Train: as good as full fine-tuning?
#
# **Question.** LoRA may move a weight in only a few directions. Does it learn a task as well as training everything, and which of its settings matter?
#
# | | |
# |---|---|
# | You build | both trainings of both tasks over several seeds; a LoRA that cannot learn; sweeps of rank, layers and learning rate; rsLoRA, DoRA and AdaLoRA beside it; the same task on a 4-bit base |
# | You need | two to three minutes on two CPU cores, 2 GB of memory |
# | You should see | where the two methods end; what a control does that cannot move; which settings matter; how far three claims about LoRA hold at this size; what a base of four bits costs |

# %% [markdown] lang="zh-TW"
# # 2. 訓練：跟全參數微調一樣好嗎？
#
# **問題。** LoRA 只准權重沿著少數幾個方向移動。它學一個任務，能跟訓練全部參數一樣好嗎？它的哪些設定有關係？
#
# | | |
# |---|---|
# | 你會做出 | 兩個任務、兩種訓練方式、數個種子；一個學不會的 LoRA；秩、層與學習率的掃描；並列比較 rsLoRA、DoRA 與 AdaLoRA；在 4 位元的基礎模型上做同一個任務 |
# | 你需要 | 兩個 CPU 核心跑兩到三分鐘，2 GB 記憶體 |
# | 你應該看到 | 兩種方法最後各到哪裡；無法學習的對照組會怎麼樣；哪些設定有關係；關於 LoRA 的三個說法，在這個規模下成立到什麼程度；4 位元的基礎模型代價是什麼 |

# %%
import dataclasses
import json

from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from broken_variants import add_lora_with_frozen_b, broken_levels, round_trip
from lora import LoraSettings, add_lora, lora_layers, lora_parameter_count, set_scaling
from lora_figures import first_step_over_rank, loss_over_rates, losses_and_accuracies, rank_of_a_change, ranks_of_layers
from lora_files import save_adapter
from nf4 import BLOCK, Nf4Linear, dequantize_nf4, quantize_model, quantize_nf4
from onepiece import lab
from onepiece.adaptation import (
    ALL_LINEAR,
    accuracy,
    base_identity,
    batches,
    best_constant,
    dense_weight,
    fit,
    forgetting,
    load_base,
    load_task,
    logits_of,
)
from onepiece.course.errors import UserError
from onepiece.course.text import Text, tr
from onepiece.evaluation import wilson_interval
from onepiece.measure import cpu_timed
from onepiece.models import count_parameters
from onepiece.training import accumulate_gradients

settings = lab.settings
torch.set_num_threads(settings.threads)

# %% [markdown] lang="en"
# ## One plan for both methods
#
# For each task, LoRA and full fine-tuning get the same number of steps and the same batches in the same order. The learning rate and its schedule differ: LoRA wants a larger rate, as its authors say too, so each
# method has what suits it. (Comparing both at one rate would be a race that one of them runs in the other's shoes, and a full fine-tuning that is badly tuned is easily beaten.) Rates and schedules were searched equally hard for both, on seeds that are not those below: `nox -s calibrate -- lab-1.1.1-lora` does it again.
# The comparison says what each can reach, not which is easier to tune. `compose` takes long, so it has fewer seeds here.

# %% [markdown] lang="zh-TW"
# ## 兩種方法，同一份計畫
#
# 每個任務，LoRA 與全參數微調用同樣的步數、同樣順序的同樣批次。不同的是學習率和它的排程：LoRA 需要大一點的學習率，作者們也這麼說，所以兩種方法各用適合自己的。
# （硬要兩者用同一個學習率，就一定有一邊用到不適合自己的值；而沒調好的全參數微調，誰都贏得了。）兩種方法的學習率和排程，花了同樣的力氣去找，用的種子也跟下面的不同：`nox -s calibrate -- lab-1.1.1-lora` 可以重找一次。
# 這裡比的是各自能做到多好，而不是哪一種比較容易調。`compose` 要跑很久，所以這裡用的種子比較少。

# %%
@dataclasses.dataclass(frozen=True)
class Plan:
    """How one task is trained."""

    steps: int
    batch: int  # rows of a step
    lora_rate: float
    full_rate: float
    seeds: tuple[int, ...]


schedules = {
    "LoRA": {"schedule": settings.lora_schedule},
    "full": {"schedule": settings.full_schedule, "warmup_steps": settings.full_warmup_steps},
}
plans = {
    "relabel": Plan(
        settings.relabel_steps,
        settings.relabel_batch,
        settings.relabel_lora_rate,
        settings.relabel_full_rate,
        settings.seeds,
    ),
    "compose": Plan(
        settings.compose_steps,
        settings.compose_batch,
        settings.compose_lora_rate,
        settings.compose_full_rate,
        settings.few_seeds,
    ),
}
chosen = LoraSettings(settings.rank, settings.alpha, ALL_LINEAR)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
size = {
    "train_items": settings.train_items,
    "held_out_items": settings.held_out_items,
    "chat": settings.chat,
}
tasks = {name: load_task(name, tokenizer, **size) for name in plans}
whole = count_parameters(base).total
untrained = {name: accuracy(base, task).accuracy for name, task in tasks.items()}
base = base.cpu()  # it is only compared with from here on


def fresh(**options):
    """The base model, anew."""
    return load_base(settings, **options)[0]


def train(model, name, seed, rate, **options):
    """Train what requires a gradient; the history, and the accuracy on held-out items."""
    plan = plans[name]
    options = {"steps": plan.steps, "batch_size": plan.batch, "progress": False} | schedules["LoRA"] | options
    history = fit(model, tasks[name], learning_rate=rate, seed=seed, **options)
    return history, accuracy(model, tasks[name]).accuracy


constant = {name: best_constant(task) for name, task in tasks.items()}
columns = (
    *(tr("task", "任務"), tr("steps", "步數"), tr("batch", "批次"), tr("LoRA's rate", "LoRA 的學習率")),
    *(tr("full rate", "全參數的學習率"), tr("seeds", "種子"), tr("always the same answer", "永遠答同一個")),
)
lab.table(
    columns,
    [
        (name, plan.steps, plan.batch, plan.lora_rate, plan.full_rate, len(plan.seeds), f"{constant[name]:.1%}")
        for name, plan in plans.items()
    ],
)

# %% [markdown] lang="en"
# ## Predict
#
# Two guesses for `predictions.toml`:
#
# ```toml
# compose_vs_full = 0.9     # LoRA's held-out accuracy on compose, divided by that of full fine-tuning
# enough_rank = 8           # relabel, fewer steps: the smallest rank whose accuracy is within 2% of the best of the sweep
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 把兩個猜測寫進 `predictions.toml`：
#
# ```toml
# compose_vs_full = 0.9     # compose 的保留題目：LoRA 的準確率除以全參數微調的準確率
# enough_rank = 8           # relabel、較少的步數：準確率與掃描中最好的秩相差 2% 以內的最小秩
# ```

# %%
histories, scores, seconds, changes, kept = {}, {}, {}, {}, {}
matrices = [name for name, module in base.named_modules() if name.endswith(ALL_LINEAR)]
first_seed = settings.seeds[0]


def train_fully(name, seed):
    """Full fine-tuning; of the first seed, what it forgot and how it changed each matrix."""
    model = fresh()
    model.requires_grad_(True)
    found = train(model, name, seed, plans[name].full_rate, **schedules["full"])
    histories[name, "full", seed], scores[name, "full", seed] = found
    if seed == first_seed:
        kept[f"{name}, full"] = forgetting(model, tokenizer, per_language=settings.forget_items, chat=settings.chat)
        changes[name] = {
            layer: model.get_submodule(layer).weight.detach().cpu() - base.get_submodule(layer).weight
            for layer in matrices
        }


def train_lora(name, seed):
    """LoRA; of the first seed, the adapter as a file. Of compose also the accuracy when the scale is forgotten: 1."""
    model = fresh()
    add_lora(model, chosen, seed=seed)
    found, seconds[name, seed] = cpu_timed(lambda: train(model, name, seed, plans[name].lora_rate))
    histories[name, "LoRA", seed], scores[name, "LoRA", seed] = found
    if seed == first_seed:
        adapter = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}[name]
        save_adapter(model, chosen, adapter, base_name)
    if name == "compose":
        set_scaling(model, 1.0)
        scores[name, "scale forgotten", seed] = accuracy(model, tasks[name]).accuracy


for name, seed in lab.progress([(name, seed) for name, plan in plans.items() for seed in plan.seeds]):
    train_fully(name, seed)
    train_lora(name, seed)

# %% [markdown] lang="en"
# ## A LoRA that cannot learn
#
# The gradient of A has B as a factor: $\partial L/\partial A = \tfrac{\alpha}{r} B^\top \tfrac{\partial L}{\partial h} x^\top$. If B is frozen at zero, A gets a gradient of zero, in every step. So this control must learn nothing; if it did learn, our measurement
# would be wrong.
#
# Three controls are nearer to what goes wrong in practice: LoRA at the learning rate of full fine-tuning, full fine-tuning at a tenth of its own, and a trained adapter whose scale was forgotten.

# %% [markdown] lang="zh-TW"
# ## 學不會的 LoRA
#
# A 的梯度裡有 B 這個因子：$\partial L/\partial A = \tfrac{\alpha}{r} B^\top \tfrac{\partial L}{\partial h} x^\top$。把 B 凍結在零，A 的梯度在每一步就都是零。所以這個對照組一定什麼都學不會；
# 要是它學會了，錯的就是我們的量測。
#
# 另外三個對照組比較接近實務上會犯的錯：LoRA 用了全參數微調的學習率、全參數微調的學習率只用了十分之一，以及訓練好的 adapter 忘了縮放。

# %%
def of_full(right, name, seed):
    """An accuracy as a share of that of full fine-tuning; not a number if that is zero, which no gate accepts."""
    return right / scores[name, "full", seed] if scores[name, "full", seed] else float("nan")


plan = plans["relabel"]
model = fresh()
add_lora_with_frozen_b(model, chosen, seed=first_seed)
histories["relabel", "B frozen", first_seed], without_b = train(model, "relabel", first_seed, plan.lora_rate)
model = fresh()
add_lora(model, chosen, seed=first_seed)
_, at_full_rate = train(model, "relabel", first_seed, plan.full_rate)
model = fresh()
model.requires_grad_(True)
_, at_tenth = train(model, "relabel", first_seed, plan.full_rate / 10, **schedules["full"])
scores["relabel", "B frozen", first_seed] = without_b

for seed in plan.seeds:
    lab.record("relabel_vs_full", of_full(scores["relabel", "LoRA", seed], "relabel", seed), seed=seed)
    lab.record("relabel_vs_full", of_full(constant["relabel"], "relabel", seed), seed=seed, variant="constant")
lab.record("relabel_vs_full", of_full(at_full_rate, "relabel", first_seed), seed=first_seed, variant="full_rate")
lab.record("relabel_vs_full", of_full(without_b, "relabel", first_seed), seed=first_seed, variant="b_frozen")
for seed in plans["compose"].seeds:
    lab.record("compose_vs_full", of_full(scores["compose", "LoRA", seed], "compose", seed), seed=seed)
    unscaled = of_full(scores["compose", "scale forgotten", seed], "compose", seed)
    lab.record("compose_vs_full", unscaled, seed=seed, variant="scale_forgotten")
    lab.record("compose_vs_full", of_full(constant["compose"], "compose", seed), seed=seed, variant="constant")
    lab.record("full_accuracy", min(scores[name, "full", seed] for name in plans), seed=seed)
lab.record("full_accuracy", at_tenth, seed=first_seed, variant="tenth_of_the_rate")
lab.record("full_accuracy", max(constant.values()), seed=first_seed, variant="constant")

# %%
shown = [("relabel", "full"), ("relabel", "LoRA"), ("relabel", "B frozen"), ("compose", "full"), ("compose", "LoRA")]


def by_seed(values, name, kind):
    """What was kept of a kind of training, in the order of the seeds that it had."""
    return [values[name, kind, seed] for seed in plans[name].seeds if (name, kind, seed) in values]


figure = losses_and_accuracies(
    {key: np.array([history.losses for history in by_seed(histories, *key)]) for key in shown},
    {key: by_seed(scores, *key) for key in shown},
)
lab.figure(
    "lora-and-full",
    figure,
    Text(
        en="Training losses of full fine-tuning, LoRA and a LoRA with B frozen at zero (mean of five steps; "
            "the band spans the seeds), and the accuracy on held-out items.",
        zh_tw="全參數微調、LoRA，以及 B 凍結在零的 LoRA 的訓練損失（五步平均；色帶是各種子的範圍），以及在保留題目上的準確率。",
    ),
)

# %%
def mean(name, kind):
    """Over the seeds."""
    return float(np.mean(by_seed(scores, name, kind)))


trained = lora_parameter_count(base, chosen)
guess = lab.predict("compose_vs_full")
relative = {}
for name, plan in plans.items():
    relative[name] = np.mean([of_full(scores[name, "LoRA", seed], name, seed) for seed in plan.seeds])
moved = max(histories["relabel", "B frozen", first_seed].gradient_norms)
rows = []
for name in plans:
    found = {kind: ", ".join(f"{right:.1%}" for right in by_seed(scores, name, kind)) for kind in ("full", "LoRA")}
    rows.append([name, f"{untrained[name]:.1%}", *found.values(), f"{relative[name]:.1%}"])
lab.table(
    [
        *(tr("task", "任務"), tr("base", "基礎模型"), tr("full, by seed", "全參數，各種子")),
        *(tr("LoRA, by seed", "LoRA，各種子"), tr("LoRA / full", "LoRA／全參數")),
    ],
    rows,
)
lab.say(
    f"""- LoRA trains {trained:,} of {whole:,} parameters ({trained / whole:.1%}) and reaches {relative["relabel"]:.1%} of \
full fine-tuning on `relabel` ({len(plans["relabel"].seeds)} seeds), {relative["compose"]:.1%} on `compose` \
({len(plans["compose"].seeds)} seeds){"" if guess is None else f"; you guessed {guess:.0%}"}.
- With B frozen at zero: {without_b:.1%}, and the largest gradient of all steps was {moved:g}.
- LoRA at full fine-tuning's rate: {at_full_rate:.1%} on `relabel`. Full fine-tuning at a tenth of its rate: \
{at_tenth:.1%}. The adapter of `compose` with its scale forgotten: {mean("compose", "scale forgotten"):.1%}. \
Whoever always says the same gets {constant["relabel"]:.1%} of `relabel`.""",
    f"""- LoRA 訓練 {whole:,} 個參數中的 {trained:,} 個（{trained / whole:.1%}），在 `relabel` 達到全參數微調的 \
{relative["relabel"]:.1%}（{len(plans["relabel"].seeds)} 個種子），在 `compose` 達到 \
{relative["compose"]:.1%}（{len(plans["compose"].seeds)} 個種子{"" if guess is None else f"；你猜 {guess:.0%}"}）。
- B 凍結在零：{without_b:.1%}，所有步之中最大的梯度是 {moved:g}。
- LoRA 用全參數微調的學習率：`relabel` 是 {at_full_rate:.1%}。全參數微調只用十分之一的學習率：{at_tenth:.1%}。\
`compose` 的 adapter 忘了縮放：{mean("compose", "scale forgotten"):.1%}。永遠答同一個答案，`relabel` 也有 {constant["relabel"]:.1%}。""",
)

# %% [markdown] lang="en"
# ## Why may the rank be low?
#
# Full fine-tuning was free to change every matrix in any direction. How many did it *need*? We take the change $\Delta W$ that it made to each linear layer and keep only the $k$ largest singular directions. Everything else goes back to the base, embeddings
# and norms too. Then we ask again.

# %% [markdown] lang="zh-TW"
# ## 秩為什麼可以低？
#
# 全參數微調可以讓每個矩陣往任何方向改變。它*需要*多少個方向？我們取出它對每個線性層造成的改變 $\Delta W$，只留下最大的 $k$ 個奇異方向；其他一切都回到基礎模型，連 embedding 和 norm 也是。
# 然後再問一次。

# %%
full_rank = min(min(change.shape) for change in changes["relabel"].values())
kept_ranks = [rank for rank in settings.sweep_ranks if rank < full_rank] + [full_rank]
truncated, energy = {}, {}
for name, change in changes.items():
    parts = {layer: torch.linalg.svd(delta.to(settings.device), full_matrices=False) for layer, delta in change.items()}
    squares = torch.stack([values[:full_rank].square() / values.square().sum() for _, values, _ in parts.values()])
    for rank in kept_ranks:
        model = fresh()
        with torch.no_grad():
            for layer, (left, values, right) in parts.items():
                model.get_submodule(layer).weight += (left[:, :rank] * values[:rank]) @ right[:rank]
        truncated[name, rank] = accuracy(model, tasks[name]).accuracy
        energy[name, rank] = squares[:, :rank].sum(dim=1).mean().item()  # (layers, full_rank) -> ()
    del parts

by_task = [{name: [of[name, rank] for rank in kept_ranks] for name in changes} for of in (truncated, energy)]
lab.figure(
    "rank-of-full-fine-tuning",
    rank_of_a_change(kept_ranks, *by_task),
    Text(
        en="What is left of full fine-tuning if each change of a linear layer is cut to its largest directions. Left: accuracy. "
            "Right: the share of the change's squared norm.",
        zh_tw="把全參數微調對每個線性層造成的改變裁到只剩最大的幾個方向之後，還剩下什麼。左：準確率。右：改變量平方範數的比例。",
    ),
)

# %%
def needed(name):
    """Directions that keep 98% of what all directions of the linear layers keep."""
    return next(rank for rank in kept_ranks if truncated[name, rank] >= 0.98 * truncated[name, full_rank])


at = settings.rank if settings.rank in kept_ranks else kept_ranks[-2]
lower = "So the part of the change that matters has a lower rank than the change itself."
all_used = "Here full fine-tuning used all its directions; that LoRA does without does not follow from this."
lab.say(
    f"""All directions of the linear layers alone (embeddings and norms back at the base) keep \
{truncated["relabel", full_rank]:.1%} on `relabel` and {truncated["compose", full_rank]:.1%} on `compose`. \
{needed("relabel")} and {needed("compose")} directions are within 2% of that, of {full_rank};
{at} directions hold {energy["relabel", at]:.0%} and {energy["compose", at]:.0%} of the squared change. \
{lower if max(needed("relabel"), needed("compose")) < full_rank else all_used}
(Full fine-tuning was not asked to use few directions. LoRA is, from the first step on, and finds a solution of its own.)""",
    f"""只留線性層的全部方向（embedding 與 norm 回到基礎模型），`relabel` 還有 {truncated["relabel", full_rank]:.1%}，`compose` 還有 \
{truncated["compose", full_rank]:.1%}。在 {full_rank} 個方向中，{needed("relabel")} 個與 {needed("compose")} 個就在它的 2% 以內；
{at} 個方向占了改變量平方的 {energy["relabel", at]:.0%} 與 {energy["compose", at]:.0%}。\
{"所以真正有用的那部分改變，秩比改變本身來得低。" if max(needed("relabel"), needed("compose")) < full_rank else "在這裡，全參數微調用上了所有的方向；LoRA 用不著這麼多，並不能從這裡推論出來。"}
（沒有人要求全參數微調只用少數方向。LoRA 則是從第一步起就被這樣要求，並找到自己的解。）""",
)

# %% [markdown] lang="en"
# ## How low may the rank be?
#
# LoRA itself, on `relabel` with fewer steps than above and a constant rate, so that a setting has the chance to be worse. One seed: read it as a hint. Small differences between neighbours mean nothing.

# %% [markdown] lang="zh-TW"
# ## 秩可以低到什麼程度？
#
# 這次直接掃描 LoRA 的秩：還是 `relabel`，步數比上面少，學習率固定不變，設定才有機會顯得差。只跑一個種子：僅供參考。相鄰設定之間的小差異沒有意義。

# %%
@dataclasses.dataclass(frozen=True)
class Short:
    """What a short training on relabel came to."""

    right: float  # of the held-out items, 0 to 1
    loss: float  # nats per token, mean of the last ten steps
    trained: int  # parameters


def short(setting, rate, seed):
    """A short training at a constant rate: LoRA with a setting, or full fine-tuning (None)."""
    model = fresh()
    if setting is None:
        model.requires_grad_(True)
    else:
        add_lora(model, setting, seed=seed)
    history, right = train(model, "relabel", seed, rate, steps=settings.sweep_steps, schedule="constant")
    return Short(right, float(np.mean(history.losses[-10:])), count_parameters(model).trainable)


by_rank = {}
for rank in lab.progress(settings.sweep_ranks):
    by_rank[rank] = short(dataclasses.replace(chosen, rank=rank), plans["relabel"].lora_rate, first_seed)
best = max(result.right for result in by_rank.values())
enough = next(rank for rank in sorted(by_rank) if by_rank[rank].right >= 0.98 * best)
lab.record("enough_rank", enough)
guess = lab.predict("enough_rank")
lab.table(
    [tr("rank", "秩"), tr("parameters", "參數量"), tr("accuracy", "準確率"), tr("last losses", "最後的損失")],
    [(rank, f"{result.trained:,}", f"{result.right:.1%}", result.loss) for rank, result in by_rank.items()],
)
lab.say(
    f"""The smallest rank within 2% of the best one, after {settings.sweep_steps} steps, is **{enough}**{"" if guess is None else f" (you guessed {guess:g})"}.""",
    f"""訓練 {settings.sweep_steps} 步之後，與最好的秩相差 2% 以內的最小秩是 **{enough}**{"" if guess is None else f"（你猜 {guess:g}）"}。""",
)

# %% [markdown] lang="en"
# ## Three claims, at this size
#
# *LoRA Without Regret* (Schulman and Thinking Machines Lab, 2025, [thinkingmachines.ai/blog/lora](https://thinkingmachines.ai/blog/lora/)) compared LoRA with full fine-tuning on models that people use. Three of its findings:
#
# 1. LoRA belongs on *all* linear layers. On attention alone it is worse, even with a rank that is raised until both train equally many numbers.
# 2. The best learning rate of LoRA is about ten times that of full fine-tuning.
# 3. On a small data set LoRA learns as much from each example as full fine-tuning does.
#
# Do they hold for a model of this size, in a short training? Each way is searched over as many rates, a factor of two apart, with one seed; the best rate of each is then judged with seeds that the search did not see. All have a constant rate, and LoRA the same scale $\alpha/r$ everywhere.

# %% [markdown] lang="zh-TW"
# ## 三個說法，放到這個規模來看
#
# *LoRA Without Regret*（Schulman 與 Thinking Machines Lab，2025，[thinkingmachines.ai/blog/lora](https://thinkingmachines.ai/blog/lora/)）在大家實際使用的模型上比較 LoRA 與全參數微調。其中三個發現：
#
# 1. LoRA 應該加在*所有*線性層。只加在注意力層會比較差，就算把秩調高到訓練的參數一樣多也一樣。
# 2. LoRA 最好的學習率，大約是全參數微調的十倍。
# 3. 資料集小的時候，LoRA 從每個例子學到的跟全參數微調一樣多。
#
# 換成這個大小的模型、這麼短的訓練，還成立嗎？每一種訓練方式都用一個種子試同樣多個學習率（相鄰兩個差兩倍）；各自最好的那個，再用沒有參與挑選的種子來評斷。學習率一律固定不變，LoRA 的縮放 $\alpha/r$ 也都相同。

# %%
per_rank = lora_parameter_count(base, LoraSettings(1, 1, ALL_LINEAR[:4]))
raised = round(trained / per_rank)  # the rank at which attention alone trains as many numbers
attention = LoraSettings(raised, raised * chosen.alpha / chosen.rank, ALL_LINEAR[:4])
ways = {
    "full": (None, settings.short_full_rates),
    f"LoRA, all linear, r = {chosen.rank}": (chosen, settings.short_lora_rates),
    f"LoRA, attention, r = {raised}": (attention, settings.short_lora_rates),
}
searched, judged, best_rate = {}, {}, {}
for label, (setting, rates) in lab.progress(ways.items()):
    searched[label] = {rate: short(setting, rate, first_seed).loss for rate in rates}
    best_rate[label] = min(rates, key=searched[label].__getitem__)
    judged[label] = [short(setting, best_rate[label], seed) for seed in settings.seeds[1:]]

lab.figure(
    "loss-over-rates",
    loss_over_rates(searched),
    Text(
        en=f"The loss after {settings.sweep_steps} steps over the learning rate, one seed; circles mark the best rate of each way.",
        zh_tw=f"訓練 {settings.sweep_steps} 步之後的損失隨學習率的變化，一個種子；圓圈是各種方式最好的學習率。",
    ),
)
losses = {label: [result.loss for result in results] for label, results in judged.items()}
lab.table(
    [
        *(tr("way", "訓練方式"), tr("parameters", "參數量"), tr("best rate", "最好的學習率")),
        *(tr("last losses, other seeds", "最後的損失（其他種子）"), tr("accuracy", "準確率")),
    ],
    [
        (
            label,
            f"{results[0].trained:,}",
            best_rate[label],
            ", ".join(f"{result.loss:.3f}" for result in results),
            ", ".join(f"{result.right:.1%}" for result in results),
        )
        for label, results in judged.items()
    ],
)

# %%
full, everywhere, on_attention = ways
ratio = best_rate[everywhere] / best_rate[full]
lab.record("rate_ratio", ratio)
on_the_edge = [label for label, (_, rates) in ways.items() if best_rate[label] in (min(rates), max(rates))]


def apart(worse, better):
    """Whether every seed of one way ended with a higher loss than every seed of the other."""
    return min(losses[worse]) > max(losses[better])


first = apart(on_attention, everywhere)
third = not apart(everywhere, full)
too_short = f"""So the third claim does not hold for a training as short as this one. (After the {plans["relabel"].steps} steps of the plan \
above, LoRA had {relative["relabel"]:.1%} of full fine-tuning's accuracy.)"""
lab.say(
    f"""1. Attention alone, with as many parameters: {np.mean(losses[on_attention]):.3f} nats against \
{np.mean(losses[everywhere]):.3f} on all linear layers. \
{"Every seed agrees: the claim holds here." if first else "The seeds overlap: here no difference can be told, which is a null result and not a refutation."}
2. The best rates are {best_rate[everywhere]:g} and {best_rate[full]:g}, a ratio of **{ratio:g}** (the grid knows \
factors of two).{f" The best rate of {', '.join(on_the_edge)} lies on the edge of what was tried: a better one may lie outside." if on_the_edge else ""}
3. After {settings.sweep_steps} steps full fine-tuning stands at {np.mean(losses[full]):.3f} nats and LoRA at \
{np.mean(losses[everywhere]):.3f}. \
{"No difference can be told: the claim is not contradicted here." if third else too_short}""",
    f"""1. 只加在注意力層、參數一樣多：{np.mean(losses[on_attention]):.3f} nats，加在所有線性層則是 {np.mean(losses[everywhere]):.3f}。\
{"每個種子都一致：這個說法在這裡成立。" if first else "種子之間互相重疊：在這裡看不出差別；這是沒有結果，不是推翻。"}
2. 最好的學習率分別是 {best_rate[everywhere]:g} 與 {best_rate[full]:g}，相差 **{ratio:g}** 倍（格點之間本來就差兩倍）。\
{f"{'、'.join(on_the_edge)} 最好的學習率落在試過的範圍邊緣：更好的可能在外面。" if on_the_edge else ""}
3. {settings.sweep_steps} 步之後，全參數微調是 {np.mean(losses[full]):.3f} nats，LoRA 是 {np.mean(losses[everywhere]):.3f}。\
{"看不出差別：這個說法在這裡沒有被推翻。" if third else f"所以訓練這麼短的時候，第三個說法並不成立。（照上面的計畫訓練 {plans['relabel'].steps} 步之後，LoRA 的準確率是全參數微調的 {relative['relabel']:.1%}。）"}""",
)

# %% [markdown] lang="en"
# ## Which power of the rank?
#
# The scale is $\alpha/r$; rsLoRA says it should be $\alpha/\sqrt r$ ([2312.03732](https://arxiv.org/abs/2312.03732)). Why would that matter? At the start B is zero, and the gradient of B is $s\,\tfrac{\partial L}{\partial h}(Ax)^\top$, where $Ax$ has $r$ components of a size that does not
# depend on $r$. So the gradient's squared norm grows like $s^2 r$: like $1/r$ with the standard scale, and not at all with rsLoRA's. We measure exactly that, without any training.
#
# Then the question behind it: how far does one step move the *outputs*? With plain gradient descent, and with Adam, which divides the size of the gradient out again.

# %% [markdown] lang="zh-TW"
# ## 秩的幾次方？
#
# 縮放是 $\alpha/r$；rsLoRA 說應該是 $\alpha/\sqrt r$（[2312.03732](https://arxiv.org/abs/2312.03732)）。這有什麼差別？一開始 B 是零，B 的梯度是 $s\,\tfrac{\partial L}{\partial h}(Ax)^\top$，其中 $Ax$ 有 $r$ 個分量，每個分量的大小與 $r$ 無關。
# 所以梯度的平方範數像 $s^2 r$ 一樣成長：標準縮放下是 $1/r$，rsLoRA 則與 $r$ 無關。我們不必訓練，直接量這件事。
#
# 再問背後的問題：一步會讓*輸出*移動多遠？分別用單純的梯度下降，以及會把梯度大小再除掉的 Adam。

# %%
batch = batches(tasks["relabel"], batch_size=plans["relabel"].batch, seed=0)(0)


def first_step(setting):
    """Squared gradient of all B; how far a small step moves the logits (root mean square): gradient descent, Adam."""
    model = fresh()
    add_lora(model, setting, seed=first_seed)
    before = logits_of(model, batch)
    accumulate_gradients(model, [batch])
    factors = [layer.lora_b for layer in lora_layers(model).values()]
    gradients = [factor.grad for factor in factors]
    descent = [1e-2 * gradient for gradient in gradients]
    adam = [1e-5 * gradient.sign() for gradient in gradients]  # its first step is the sign
    moves = []
    for step in (descent, adam):
        with torch.no_grad():
            for factor, change in zip(factors, step, strict=True):
                factor.copy_(-change)
        moves.append((logits_of(model, batch) - before).square().mean().sqrt().item())
    return sum(gradient.square().sum().item() for gradient in gradients), *moves


def exponent(values):
    """p of value = c * rank ** p, by least squares on logarithms."""
    return float(np.polyfit(np.log(settings.scale_ranks), np.log(values), 1)[0])


steps = {}
for scale in ("standard", "rsLoRA"):
    of_scale = dataclasses.replace(chosen, rank_stabilized=scale == "rsLoRA")
    of_ranks = [dataclasses.replace(of_scale, rank=rank) for rank in settings.scale_ranks]
    steps[scale] = np.array([first_step(setting) for setting in of_ranks])
exponents = {scale: [exponent(values[:, column]) for column in range(3)] for scale, values in steps.items()}
lab.record("gradient_exponent", abs(exponents["rsLoRA"][0]))
lab.record("gradient_exponent", abs(exponents["standard"][0]), variant="standard_scale")

# %%
figure = first_step_over_rank(settings.scale_ranks, steps, exponents)
lab.figure(
    "scale-and-rank",
    figure,
    Text(
        en="The very first step over the rank, with alpha / r and alpha / sqrt(r): the gradient of B, and how far one step moves the logits.",
        zh_tw="最初的第一步隨秩的變化，縮放分別為 alpha / r 與 alpha / sqrt(r)：B 的梯度，以及一步讓 logits 移動多遠。",
    ),
)

# %%
standard, stabilised = exponents["standard"], exponents["rsLoRA"]
lab.say(
    f"""- The squared gradient goes like $r^{{{standard[0]:.2f}}}$ with the standard scale and $r^{{{stabilised[0]:.2f}}}$ \
with rsLoRA's: theory says −1 and 0. One step of gradient descent moves the logits like $r^{{{standard[1]:.2f}}}$ and \
$r^{{{stabilised[1]:.2f}}}$.
  Under gradient descent, then, the standard scale makes a high rank learn more slowly.
- One step of Adam moves them like $r^{{{standard[2]:.2f}}}$ and $r^{{{stabilised[2]:.2f}}}$: \
at the first step Adam hides the size of the gradient, and \
{"then it is the standard scale that hardly depends on the rank" if abs(standard[2]) < abs(stabilised[2]) else "still rsLoRA's scale depends less on the rank"}.
  Which scale is right thus depends on the optimizer and on the phase of training; rsLoRA's proof is about the whole of it.""",
    f"""- 梯度的平方在標準縮放下像 $r^{{{standard[0]:.2f}}}$，在 rsLoRA 的縮放下像 $r^{{{stabilised[0]:.2f}}}$：理論值是 −1 與 0。\
梯度下降一步，logits 的移動像 $r^{{{standard[1]:.2f}}}$ 與 $r^{{{stabilised[1]:.2f}}}$。
  所以在梯度下降之下，標準縮放會讓高秩學得比較慢。
- Adam 一步的移動像 $r^{{{standard[2]:.2f}}}$ 與 $r^{{{stabilised[2]:.2f}}}$：在第一步，Adam 消去了梯度的大小，\
{"這時幾乎與秩無關的反而是標準縮放" if abs(standard[2]) < abs(stabilised[2]) else "即使如此，rsLoRA 的縮放還是比較不受秩影響"}。
  所以哪一種縮放才對，要看最佳化器，也要看訓練的階段；rsLoRA 的證明談的是整個訓練過程。""",
)

# %% [markdown] lang="en"
# ## Three relatives, through `peft`
#
# - **rsLoRA**: the scale from above.
# - **DoRA** ([2402.09353](https://arxiv.org/abs/2402.09353)) splits a weight into direction and length, and trains a length per output beside A and B.
# - **AdaLoRA** ([2303.10512](https://arxiv.org/abs/2303.10512)) writes the update as $P\Lambda Q$, begins with a higher rank, and takes singular values away from the layers that need them least.
#
# They get the same task, seed, steps, rate and batches as our LoRA. We also count what they train, and what a step costs compared with LoRA in this run.

# %% [markdown] lang="zh-TW"
# ## LoRA 的三種變體，用 `peft` 來比
#
# - **rsLoRA**：上面那種縮放。
# - **DoRA**（[2402.09353](https://arxiv.org/abs/2402.09353)）把權重拆成方向與長度，除了 A、B 之外，還為每個輸出訓練一個長度。
# - **AdaLoRA**（[2303.10512](https://arxiv.org/abs/2303.10512)）把更新寫成 $P\Lambda Q$，從比較高的秩開始，再從最不需要的層把奇異值拿走。
#
# 任務、種子、步數、學習率、批次都與我們的 LoRA 相同。我們也數它們訓練多少參數，以及在這次執行中，一步的代價是 LoRA 的幾倍。

# %%
plan = plans["relabel"]
common = {"lora_alpha": settings.alpha, "target_modules": list(ALL_LINEAR)}
phases = {"tinit": plan.steps // 10, "tfinal": plan.steps // 3, "total_step": plan.steps}
configs = {
    "rsLoRA": LoraConfig(r=settings.rank, use_rslora=True, **common),
    "DoRA": LoraConfig(r=settings.rank, use_dora=True, **common),
    "AdaLoRA": AdaLoraConfig(init_r=settings.rank * 3 // 2, target_r=settings.rank, **phases, **common),
}


@dataclasses.dataclass(frozen=True)
class Relative:
    """What training with one of the relatives came to."""

    right: float  # of the held-out items, 0 to 1
    trained: int  # parameters
    seconds: float  # of this process, whatever else the machine did


def train_relative(name, config):
    """The trained model too."""
    torch.manual_seed(first_seed)
    model = get_peft_model(fresh(), config)
    adapt = {"after_step": model.base_model.update_and_allocate} if name == "AdaLoRA" else {}
    (_, right), spent = cpu_timed(lambda: train(model, "relabel", first_seed, plan.lora_rate, **adapt))
    return model, Relative(right, count_parameters(model).trainable, spent)


relatives = {"LoRA": Relative(scores["relabel", "LoRA", first_seed], trained, seconds["relabel", first_seed])}
for name, config in lab.progress(list(configs.items())):
    model, relatives[name] = train_relative(name, config)
    if name == "rsLoRA":  # the control: an adapter that is used with a scale of 1
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] = 1.0
        scale_forgotten = accuracy(model, tasks["relabel"]).accuracy
ranks = {layer: sum(kept) for layer, kept in model.peft_config["default"].rank_pattern.items()}  # AdaLoRA came last
lab.record("relatives_accuracy", min(result.right for result in relatives.values()))
lab.record("relatives_accuracy", scale_forgotten, variant="scale_forgotten")
lab.record("relatives_accuracy", constant["relabel"], variant="constant")
lab.table(
    [
        *(tr("method", "方法"), tr("trained", "訓練的參數"), tr("accuracy", "準確率")),
        tr("CPU time, LoRA = 1", "CPU 時間，LoRA = 1"),
    ],
    [
        (name, f"{result.trained:,}", f"{result.right:.1%}", f"{result.seconds / relatives['LoRA'].seconds:.2f}")
        for name, result in relatives.items()
    ],
)

# %%
average = {kind: np.mean([rank for layer, rank in ranks.items() if f".{kind}." in layer]) for kind in ALL_LINEAR}
lab.figure(
    "adalora-ranks",
    ranks_of_layers(average, settings.rank),
    Text(
        en="The rank that AdaLoRA leaves to each kind of layer, averaged over the blocks; the dashed line is the budget.",
        zh_tw="AdaLoRA 留給每一種層的秩，對各 block 取平均；虛線是預算。",
    ),
)
by_accuracy = sorted(relatives, key=lambda name: relatives[name].right)
low, high = by_accuracy[0], by_accuracy[-1]
spread = relatives[high].right - relatives[low].right
items = len(tasks["relabel"].held_out)
intervals = [wilson_interval(round(relatives[name].right * items), items) for name in (low, high)]
overlap = intervals[0].high >= intervals[1].low
lab.say(
    f"""From {low} ({relatives[low].right:.1%}) to {high} ({relatives[high].right:.1%}) lie {spread:.1%} on {items} items, \
with one seed. \
{"Their 95% intervals overlap: no winner here." if overlap else "Their 95% intervals do not overlap, but one seed, at LoRA's learning rate, decides no ranking."}
AdaLoRA left most rank to `{max(average, key=average.get)}` and least to `{min(average, key=average.get)}`. \
(Its rank above the budget is masked, not removed, so it trains more numbers than the others here.)""",
    f"""從 {low}（{relatives[low].right:.1%}）到 {high}（{relatives[high].right:.1%}）相差 {spread:.1%}，根據 {items} 題、一個種子。\
{"兩者的 95% 信賴區間重疊：這裡分不出高下。" if overlap else "兩者的 95% 信賴區間沒有重疊；但只有一個種子，用的又是 LoRA 的學習率，決定不了名次。"}
AdaLoRA 留給 `{max(average, key=average.get)}` 的秩最多，留給 `{min(average, key=average.get)}` 的最少。（超出預算的秩只是被遮住，並沒有移除，所以它在這裡訓練的數字比別人多。）""",
)

# %% [markdown] lang="en"
# ## A base in four bits
#
# A frozen base needs no gradient, so it may be stored coarsely: QLoRA ([2305.14314](https://arxiv.org/abs/2305.14314)) keeps it in NF4, 16 levels at the quantiles of a normal distribution, with a scale for each block of 64. At each use the weight is made dense for a moment; the adapters stay in float32.
# `nf4.py` does that in plain PyTorch. Three questions: how many bits is that, what does it do to the weights, and can LoRA learn on top of it?

# %% [markdown] lang="zh-TW"
# ## 四位元的基礎模型
#
# 凍結的基礎模型不需要梯度，所以可以存得粗略一點：QLoRA（[2305.14314](https://arxiv.org/abs/2305.14314)）把它存成 NF4，也就是取常態分布分位數的 16 個位準，每 64 個權重共用一個縮放。每次使用時，權重才暫時還原成稠密的；adapter 維持 float32。
# `nf4.py` 用純 PyTorch 做這件事。三個問題：這樣是幾個位元？權重變成什麼樣子？LoRA 以它為基礎還學得會嗎？

# %%
def quantised_base(**options):
    """The base in four bits, by our own code."""
    model = fresh()
    quantize_model(model, ALL_LINEAR, **options)
    return model


def bits(model):
    """Stored bits per weight of the quantised layers, scales included."""
    stored = [module.quantized for module in model.modules() if isinstance(module, Nf4Linear)]
    return 8 * sum(weight.stored_bytes for weight in stored) / sum(weight.shape.numel() for weight in stored)


originals = {name: base.get_submodule(name).weight.detach() for name in matrices}


def mean_error(change):
    """By how much a way to store a matrix changes it: relative norm, mean over the layers."""
    return float(np.mean([((change(weight) - weight).norm() / weight.norm()).item() for weight in originals.values()]))


def through_nf4(weight, block=BLOCK):
    return dequantize_nf4(quantize_nf4(weight, block=block, double=True))


def through_equal_steps(weight):
    blocks = weight.flatten().unflatten(0, (-1, BLOCK))  # (out, in) -> (blocks, BLOCK)
    return round_trip(blocks, broken_levels("even")).flatten().view_as(weight)


quantised = quantised_base(double=True)
lab.record("four_bit_bits", bits(quantised))
lab.record("four_bit_bits", bits(quantised_base(double=False)), variant="single_quantisation")
error, of_equal_steps = mean_error(through_nf4), mean_error(through_equal_steps)
of_wide_blocks = mean_error(lambda weight: through_nf4(weight, 4 * BLOCK))
lab.record("four_bit_error_ratio", error / of_equal_steps)
lab.record("four_bit_error_ratio", of_wide_blocks / of_equal_steps, variant="wide_blocks")
lab.table(
    [tr("16 levels", "16 個位準"), tr("change of the weights (relative norm)", "權重的改變（相對範數）")],
    [
        (tr("quantiles, blocks of 64", "分位數，每塊 64 個"), f"{error:.2%}"),
        (tr("equal steps, blocks of 64", "等距，每塊 64 個"), f"{of_equal_steps:.2%}"),
        (tr("quantiles, blocks of 256", "分位數，每塊 256 個"), f"{of_wide_blocks:.2%}"),
    ],
)

# %%
try:
    library = fresh(quantized="nf4")
except UserError as error_here:
    cause = error_here.cause
    lab.say(f"bitsandbytes does not run here: {cause.en}", f"bitsandbytes 在這裡跑不動：{cause.zh_tw}")
else:
    differences = []
    for name in matrices:
        own = quantised.get_submodule(name).weight
        differences.append((dense_weight(library.get_submodule(name)) - own).norm() / own.norm())
    apart_by = torch.stack(differences).mean().item()
    lab.say(
        f"bitsandbytes makes nearly the same weights: ours and its differ by {apart_by:.2%} (the scales of scales have other 8-bit levels there).",
        f"bitsandbytes 做出的權重幾乎相同：與我們的相差 {apart_by:.2%}（它第二次量化用的 8 位元位準跟我們不同）。",
    )

# %%
four_bit = {}
for seed in lab.progress(settings.few_seeds):
    model = quantised_base(double=True)
    add_lora(model, chosen, seed=seed)
    _, four_bit[seed] = train(model, "relabel", seed, plan.lora_rate)
    if seed == first_seed:
        save_adapter(model, chosen, lab.artifact("adapter-four-bit"), base_name)
    set_scaling(model, chosen.alpha)
    unscaled = accuracy(model, tasks["relabel"]).accuracy
    lab.record("four_bit_vs_full", of_full(four_bit[seed], "relabel", seed), seed=seed)
    lab.record("four_bit_vs_full", of_full(unscaled, "relabel", seed), seed=seed, variant="alpha_alone")
    lab.record("four_bit_vs_full", of_full(constant["relabel"], "relabel", seed), seed=seed, variant="constant")

without = accuracy(quantised, tasks["relabel"]).accuracy
after = np.mean(list(four_bit.values()))
whole_bits = 8 * originals[matrices[0]].element_size()
lab.say(
    f"""The linear layers take {bits(quantised):.2f} bits per weight instead of {whole_bits}, and differ from the original \
weights by {error:.1%}. LoRA on top reaches {after:.1%} on `relabel` over {len(four_bit)} seeds; \
on the dense base it was {mean("relabel", "LoRA"):.1%}. (Without an adapter the 4-bit base has {without:.1%}.)""",
    f"""線性層每個權重占 {bits(quantised):.2f} 位元，原本是 {whole_bits} 位元；與原本的權重相差 {error:.1%}。\
加上 LoRA 之後，`relabel` 達到 {after:.1%}（{len(four_bit)} 個種子）；在稠密的基礎模型上是 {mean("relabel", "LoRA"):.1%}。\
（4 位元的基礎模型不加 adapter 是 {without:.1%}。）""",
)

# %%
full_kept = {name: {family: score.accuracy for family, score in found.items()} for name, found in kept.items()}
_ = lab.artifact("full-kept.json").write_text(json.dumps(full_kept), encoding="utf-8")

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- LoRA reaches {relative["relabel"]:.1%} and {relative["compose"]:.1%} of full fine-tuning, with \
{trained / whole:.1%} of the parameters. With B frozen it learns nothing.
- After {settings.sweep_steps} steps of `relabel`, rank {enough} is enough, and the best rate of LoRA is {ratio:g} \
times that of full fine-tuning. LoRA and its three relatives lie within {spread:.1%} of each other.
- A base of {bits(quantised):.2f} bits per weight changes the accuracy on `relabel` by {100 * (after - mean("relabel", "LoRA")):+.1f} points.""",
    f"""- LoRA 用 {trained / whole:.1%} 的參數，達到全參數微調的 {relative["relabel"]:.1%} 與 {relative["compose"]:.1%}。B 凍結的話什麼都學不會。
- `relabel` 訓練 {settings.sweep_steps} 步之後，秩 {enough} 就夠了；LoRA 最好的學習率是全參數微調的 {ratio:g} 倍。LoRA 與三種變體彼此相差 {spread:.1%} 以內。
- 每個權重 {bits(quantised):.2f} 位元的基礎模型，`relabel` 的準確率變化是 {100 * (after - mean("relabel", "LoRA")):+.1f} 個百分點。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Both tasks build on what the base can do. Where a model must take in much that is new (another language, a lot of code), the literature finds full fine-tuning ahead: Biderman et al., *LoRA Learns Less and Forgets Less*, [2405.09673](https://arxiv.org/abs/2405.09673).
# - The matrices of this model are small, so even a low rank is a good part of their full rank. On a large model the same rank restricts far more.
# - The sweep of ranks and the relatives ran with one seed, `compose` and the 4-bit base with two, `relabel` with three.
# - Three claims about large models were asked of a small one, on one easy task. Where they fail here, they are not refuted there.
# - NF4 in plain PyTorch shows what is stored and what it costs in accuracy. It shows nothing about speed: that is the business of fused kernels.
#
# **Exercises.** 1 to 5 (`lora.py`) make this notebook run on *your* LoRA, 8 (`nf4.py`) on your 4-bit base: `nox -s lab-1.1.1-lora -- --mine`.
#
# **Next:** one base, several adapters. How are they switched, and what did the model forget?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 兩個任務都建立在基礎模型已經會的事上。模型必須吸收大量新東西（另一種語言、大量程式碼）時，文獻的發現是全參數微調領先：Biderman 等人，*LoRA Learns Less and Forgets Less*，[2405.09673](https://arxiv.org/abs/2405.09673)。
# - 這個模型的矩陣很小，所以很低的秩也已經是滿秩的不小一部分。在大模型上，同樣的秩限制要大得多。
# - 秩的掃描與變體的比較只跑一個種子，`compose` 與 4 位元的基礎模型跑兩個，`relabel` 跑三個。
# - 三個說法談的是大模型，這裡只問了一個小模型、一個簡單的任務。在這裡不成立，不代表在那裡被推翻。
# - 純 PyTorch 的 NF4 看得出存了什麼、準確率的代價是多少，看不出速度：那是融合 kernel 的事。
#
# **練習。** 練習 1 到 5（`lora.py`）會讓這本筆記本跑在*你的* LoRA 上，練習 8（`nf4.py`）則是你的 4 位元基礎模型：`nox -s lab-1.1.1-lora -- --mine`。
#
# **下一步：** 一個基礎模型、數個 adapter。要怎麼切換？模型又忘了什麼？
