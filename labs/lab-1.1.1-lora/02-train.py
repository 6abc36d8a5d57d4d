# %% [markdown] lang="en"
# # 2. Train: as good as full fine-tuning?
#
# **Question.** LoRA may move a weight in only a few directions. Does it learn a task as well as training everything, and which of its settings matter?
#
# | | |
# |---|---|
# | You build | both trainings of both tasks over several seeds; a LoRA that cannot learn; sweeps of rank, layers and alpha; rsLoRA, DoRA and AdaLoRA beside it; the same task on a 4-bit base |
# | You need | two to three minutes on two CPU cores, 2 GB of memory |
# | You should see | two methods that end at the same accuracy; a control that never moves; which setting matters and which hardly does; a base of four bits that learns as well |

# %% [markdown] lang="zh-TW"
# # 2. 訓練：跟全參數微調一樣好嗎？
#
# **問題。** LoRA 只准權重沿著少數幾個方向移動。它學一個任務，能跟訓練全部參數一樣好嗎？它的哪些設定有關係？
#
# | | |
# |---|---|
# | 你會做出 | 兩個任務、兩種訓練方式、數個種子；一個學不會的 LoRA；秩、層與 alpha 的掃描；並列比較 rsLoRA、DoRA 與 AdaLoRA；在 4 位元的基礎模型上做同一個任務 |
# | 你需要 | 兩個 CPU 核心跑兩到三分鐘，2 GB 記憶體 |
# | 你應該看到 | 兩種方法達到相同的準確率；完全不動的對照組；哪個設定重要、哪個幾乎沒差；4 位元的基礎模型一樣學得會 |

# %%
import dataclasses
import json
import time

from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model

from broken_variants import add_lora_with_frozen_b
from lora import LoraSettings, add_lora, lora_layers, lora_parameter_count
from lora_files import save_adapter
from nf4 import Nf4Linear, quantize_model
from onepiece import lab
from onepiece.adaptation import ALL_LINEAR, accuracy, base_identity, batches, fit, forgetting, load_base, load_task, logits_of
from onepiece.course.errors import UserError
from onepiece.course.text import Text, tr
from onepiece.evaluation import wilson_interval
from onepiece.figures import COLORS, subplots
from onepiece.models import count_parameters
from onepiece.training import accumulate_gradients

settings = lab.settings
torch.set_num_threads(settings.threads)

# %% [markdown] lang="en"
# ## One plan for both methods
#
# For each task, LoRA and full fine-tuning get the same number of steps and the same batches in the same order. The learning rate and its schedule differ: LoRA wants a larger rate, as its authors say too, so each
# method has what suits it. (Comparing both at one rate would be a race that one of them runs in the other's shoes, and a full fine-tuning that is badly tuned is easily beaten.) Rates and schedules were searched for both, on a few seeds and on this size of model:
# the comparison says what each can reach, not which is easier to tune.

# %% [markdown] lang="zh-TW"
# ## 兩種方法，同一份計畫
#
# 每個任務，LoRA 與全參數微調用同樣的步數、同樣順序的同樣批次。不同的是學習率和它的排程：LoRA 需要大一點的學習率，作者們也這麼說，所以兩種方法各用適合自己的。
# （硬要兩者用同一個學習率，就像要其中一位穿著別人的鞋子賽跑；而沒調好的全參數微調，誰都贏得了。）兩種方法的學習率和排程，都是用這個大小的模型、少數幾個種子找出來的：
# 這裡比的是各自能做到多好，而不是哪一種比較容易調。

# %%
@dataclasses.dataclass(frozen=True)
class Plan:
    """How one task is trained."""

    steps: int
    batch: int  # rows of a step
    lora_rate: float
    full_rate: float


schedules = {
    "LoRA": {"schedule": settings.lora_schedule},
    "full": {"schedule": settings.full_schedule, "warmup_steps": settings.full_warmup_steps},
}
plans = {
    "relabel": Plan(settings.relabel_steps, settings.relabel_batch, settings.relabel_lora_rate, settings.relabel_full_rate),
    "compose": Plan(settings.compose_steps, settings.compose_batch, settings.compose_lora_rate, settings.compose_full_rate),
}
chosen = LoraSettings(settings.rank, settings.alpha, ALL_LINEAR)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
tasks = {
    name: load_task(name, tokenizer, train_items=settings.train_items, held_out_items=settings.held_out_items, chat=settings.chat) for name in plans
}
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


lab.table(
    [tr("task", "任務"), tr("steps", "步數"), tr("batch", "批次"), tr("LoRA's rate", "LoRA 的學習率"), tr("full rate", "全參數的學習率")],
    [(name, plan.steps, plan.batch, plan.lora_rate, plan.full_rate) for name, plan in plans.items()],
)

# %% [markdown] lang="en"
# ## Predict
#
# Two guesses for `predictions.toml`:
#
# ```toml
# compose_vs_full = 0.9     # LoRA's held-out accuracy on compose, divided by that of full fine-tuning
# enough_rank = 8           # relabel, fewer steps: the smallest rank within 2% of the best rank of the sweep
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 把兩個猜測寫進 `predictions.toml`：
#
# ```toml
# compose_vs_full = 0.9     # compose 的保留題目：LoRA 的準確率除以全參數微調的準確率
# enough_rank = 8           # relabel、較少的步數：與掃描中最好的秩相差 2% 以內的最小秩
# ```

# %%
histories, scores, changes, kept = {}, {}, {}, {}
matrices = [name for name, module in base.named_modules() if name.endswith(ALL_LINEAR)]
for seed in lab.progress(settings.seeds):
    for name, plan in plans.items():
        model = fresh()
        model.requires_grad_(True)
        histories[name, "full", seed], scores[name, "full", seed] = train(model, name, seed, plan.full_rate, **schedules["full"])
        if seed == settings.seeds[0]:
            kept[f"{name}, full"] = forgetting(model, tokenizer, per_language=settings.forget_items, chat=settings.chat)
            changes[name] = {
                layer: model.get_submodule(layer).weight.detach().cpu() - base.get_submodule(layer).weight for layer in matrices
            }
        del model
        model = fresh()
        add_lora(model, chosen, seed=seed)
        histories[name, "LoRA", seed], scores[name, "LoRA", seed] = train(model, name, seed, plan.lora_rate)
        if seed == settings.seeds[0]:
            adapter = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}[name]
            save_adapter(model, chosen, adapter, base_name)
        del model

# %% [markdown] lang="en"
# ## A LoRA that cannot learn
#
# The gradient of A has B as a factor: $\partial L/\partial A = \tfrac{\alpha}{r} B^\top \tfrac{\partial L}{\partial h} x^\top$. If B is frozen at zero, A gets a gradient of zero, in every step. So this control must learn nothing; if it did learn, our measurement
# would be wrong.

# %% [markdown] lang="zh-TW"
# ## 學不會的 LoRA
#
# A 的梯度裡有 B 這個因子：$\partial L/\partial A = \tfrac{\alpha}{r} B^\top \tfrac{\partial L}{\partial h} x^\top$。把 B 凍結在零，A 的梯度在每一步就都是零。所以這個對照組一定什麼都學不會；
# 要是它學會了，錯的就是我們的量測。

# %%
def of_full(right, name, seed):
    """An accuracy as a share of that of full fine-tuning; not a number if that is zero, which no gate accepts."""
    return right / scores[name, "full", seed] if scores[name, "full", seed] else float("nan")


for seed in settings.seeds:
    model = fresh()
    add_lora_with_frozen_b(model, chosen, seed=seed)
    histories["relabel", "B frozen", seed], scores["relabel", "B frozen", seed] = train(model, "relabel", seed, plans["relabel"].lora_rate)
    lab.record("relabel_vs_full", of_full(scores["relabel", "LoRA", seed], "relabel", seed), seed=seed)
    lab.record("relabel_vs_full", of_full(scores["relabel", "B frozen", seed], "relabel", seed), seed=seed, variant="b_frozen")
    lab.record("compose_vs_full", of_full(scores["compose", "LoRA", seed], "compose", seed), seed=seed)
    lab.record("compose_vs_full", of_full(untrained["compose"], "compose", seed), seed=seed, variant="base")
    lab.record("full_accuracy", min(scores[name, "full", seed] for name in plans), seed=seed)
    lab.record("full_accuracy", max(untrained.values()), seed=seed, variant="base")

# %%
figure, axes = subplots(1, 3, figsize=(12.5, 3.9), width_ratios=[1, 1, 0.9])
kinds = {"full": ("blue", "-", "o"), "LoRA": ("orange", "-", "s"), "B frozen": ("black", ":", "^")}
for place, (name, plan) in zip(axes, plans.items(), strict=False):
    for kind, (colour, style, marker) in kinds.items():
        runs = np.array([histories[name, kind, seed].losses for seed in settings.seeds if (name, kind, seed) in histories])
        if not len(runs):
            continue
        smooth = np.stack([np.convolve(run, np.ones(5) / 5, mode="valid") for run in runs])  # mean of five steps
        steps = np.arange(5, plan.steps + 1)
        place.plot(steps, smooth.mean(axis=0), color=COLORS[colour], linestyle=style, marker=marker, markevery=plan.steps // 6, label=kind)
        place.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=COLORS[colour], alpha=0.18, linewidth=0)
    place.set(xlabel="step", title=name, ylim=(0, None))
axes[0].set_ylabel("loss (nats per token)")
axes[0].legend()
columns = [("relabel", "full"), ("relabel", "LoRA"), ("relabel", "B frozen"), ("compose", "full"), ("compose", "LoRA")]
for place, (name, kind) in enumerate(columns):
    values = [100 * scores[name, kind, seed] for seed in settings.seeds]
    colour, _, marker = kinds[kind]
    spread = np.linspace(-0.15, 0.15, len(values))
    axes[2].plot(place + spread, values, linestyle="", marker=marker, color=COLORS[colour], markersize=8, alpha=0.8)
axes[2].set_xticks(range(len(columns)), [f"{name}\n{kind}" for name, kind in columns], fontsize=9)
axes[2].set(ylabel="held-out exact match (%)", ylim=(-4, 104), title="accuracy, a mark per seed")
lab.figure(
    "lora-and-full",
    figure,
    Text(
        en="Training losses of full fine-tuning, LoRA and a LoRA with B frozen at zero (mean of five steps; the band spans the seeds), and the accuracy on held-out items.",
        zh_tw="全參數微調、LoRA，以及 B 凍結在零的 LoRA 的訓練損失（五步平均；色帶是各種子的範圍），以及在保留題目上的準確率。",
    ),
)

# %%
def mean(name, kind):
    """Over the seeds."""
    return float(np.mean([scores[name, kind, seed] for seed in settings.seeds]))


trained = lora_parameter_count(base, chosen)
guess = lab.predict("compose_vs_full")
relative = {name: np.mean([of_full(scores[name, "LoRA", seed], name, seed) for seed in settings.seeds]) for name in plans}
moved = max(max(histories["relabel", "B frozen", seed].gradient_norms) for seed in settings.seeds)
lab.table(
    [tr("task", "任務"), tr("base", "基礎模型"), tr("full, by seed", "全參數，各種子"), tr("LoRA, by seed", "LoRA，各種子"), tr("LoRA / full", "LoRA／全參數")],
    [
        (name, f"{untrained[name]:.1%}", *(", ".join(f"{scores[name, kind, seed]:.1%}" for seed in settings.seeds) for kind in ("full", "LoRA")), f"{relative[name]:.1%}")
        for name in plans
    ],
)
lab.say(
    f"""- LoRA trains {trained:,} of {whole:,} parameters ({trained / whole:.1%}) and reaches {relative["relabel"]:.1%} of full fine-tuning on `relabel`, {relative["compose"]:.1%} on `compose`{"" if guess is None else f" (you guessed {guess:.0%})"}; means over {len(settings.seeds)} seeds.
- With B frozen at zero: {mean("relabel", "B frozen"):.1%}, and the largest gradient of all steps was {moved:g}.""",
    f"""- LoRA 訓練 {whole:,} 個參數中的 {trained:,} 個（{trained / whole:.1%}），在 `relabel` 達到全參數微調的 {relative["relabel"]:.1%}，在 `compose` 達到 {relative["compose"]:.1%}{"" if guess is None else f"（你猜 {guess:.0%}）"}；都是 {len(settings.seeds)} 個種子的平均。
- B 凍結在零：{mean("relabel", "B frozen"):.1%}，所有步之中最大的梯度是 {moved:g}。""",
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
    squares = torch.stack([(values[:full_rank] ** 2).cpu() / (values**2).sum().cpu() for _, values, _ in parts.values()])  # (layers, rank)
    for rank in kept_ranks:
        model = fresh()
        with torch.no_grad():
            for layer, (left, values, right) in parts.items():
                model.get_submodule(layer).weight += (left[:, :rank] * values[:rank]) @ right[:rank]
        truncated[name, rank] = accuracy(model, tasks[name]).accuracy
        energy[name, rank] = squares[:, :rank].sum(dim=1).mean().item()
    del parts

figure, (left, right) = subplots(1, 2, figsize=(10.5, 3.9))
for name, colour, marker in (("relabel", "green", "o"), ("compose", "purple", "s")):
    style = {"color": COLORS[colour], "marker": marker, "label": name}
    left.plot(kept_ranks, [100 * truncated[name, rank] for rank in kept_ranks], **style)
    right.plot(kept_ranks, [100 * energy[name, rank] for rank in kept_ranks], **style)
for axes, label in ((left, "held-out exact match (%)"), (right, "share of the squared change (%)")):
    axes.set_xscale("log", base=2)
    axes.set_xticks(kept_ranks, [str(rank) for rank in kept_ranks])
    axes.set(xlabel="directions kept of each change", ylabel=label, ylim=(-4, 104))
    axes.legend()
lab.figure(
    "rank-of-full-fine-tuning",
    figure,
    Text(
        en="What is left of full fine-tuning if each change of a linear layer is cut to its largest directions. Left: accuracy. Right: the share of the change's squared norm.",
        zh_tw="把全參數微調對每個線性層造成的改變裁到只剩最大的幾個方向之後，還剩下什麼。左：準確率。右：改變量平方範數的比例。",
    ),
)

# %%
def needed(name):
    """Directions that keep 98% of what all directions of the linear layers keep."""
    return next(rank for rank in kept_ranks if truncated[name, rank] >= 0.98 * truncated[name, full_rank])


at = settings.rank if settings.rank in kept_ranks else kept_ranks[-2]
lab.say(
    f"""All directions of the linear layers alone (embeddings and norms back at the base) keep {truncated["relabel", full_rank]:.1%} on `relabel` and {truncated["compose", full_rank]:.1%} on `compose`. {needed("relabel")} and {needed("compose")} directions are within 2% of that, of {full_rank};
{at} directions hold {energy["relabel", at]:.0%} and {energy["compose", at]:.0%} of the squared change. {"So the part of the change that matters has a lower rank than the change itself." if max(needed("relabel"), needed("compose")) < full_rank else "Here full fine-tuning used all its directions; that LoRA does without does not follow from this."}
(Full fine-tuning was not asked to use few directions. LoRA is, from the first step on, and finds a solution of its own.)""",
    f"""只留線性層的全部方向（embedding 與 norm 回到基礎模型），`relabel` 還有 {truncated["relabel", full_rank]:.1%}，`compose` 還有 {truncated["compose", full_rank]:.1%}。在 {full_rank} 個方向中，{needed("relabel")} 個與 {needed("compose")} 個就在它的 2% 以內；
{at} 個方向占了改變量平方的 {energy["relabel", at]:.0%} 與 {energy["compose", at]:.0%}。{"所以真正有用的那部分改變，秩比改變本身來得低。" if max(needed("relabel"), needed("compose")) < full_rank else "在這裡，全參數微調用上了所有的方向；LoRA 用不著這麼多，並不能從這裡推論出來。"}
（沒有人要求全參數微調只用少數方向。LoRA 則是從第一步起就被這樣要求，並找到自己的解。）""",
)

# %% [markdown] lang="en"
# ## Which settings matter?
#
# Three sweeps on `relabel`, with fewer steps than above, so that a setting has the chance to be worse: the rank, the layers, and alpha. One seed each: read them as hints. Small differences between neighbours mean nothing.

# %% [markdown] lang="zh-TW"
# ## 哪些設定有關係？
#
# 在 `relabel` 上做三個掃描，步數比上面少，設定才有機會顯得差：秩、加在哪些層，以及 alpha。每個只跑一個種子：當作線索來讀。相鄰設定之間的小差異沒有意義。

# %%
target_sets = {"q, v": ("q_proj", "v_proj"), "attention": ALL_LINEAR[:4], "MLP": ALL_LINEAR[4:], "all linear": ALL_LINEAR}
seed = settings.seeds[0]


def sweep(setting):
    """Accuracy and mean loss of the last five steps with a setting."""
    model = fresh()
    add_lora(model, setting, seed=seed)
    history, right = train(model, "relabel", seed, plans["relabel"].lora_rate, steps=settings.sweep_steps)
    return right, float(np.mean(history.losses[-5:])), lora_parameter_count(base, setting)


by_rank = {rank: sweep(dataclasses.replace(chosen, rank=rank)) for rank in lab.progress(settings.sweep_ranks)}
by_target = {label: sweep(dataclasses.replace(chosen, targets=targets)) for label, targets in target_sets.items() if targets != ALL_LINEAR}
by_target["all linear"] = by_rank.get(settings.rank) or sweep(chosen)
by_alpha = {alpha: by_rank[settings.rank] if alpha == settings.alpha and settings.rank in by_rank else sweep(dataclasses.replace(chosen, alpha=alpha)) for alpha in settings.sweep_alphas}

figure, axes = subplots(1, 3, figsize=(12.5, 3.8))
for place, swept, label in ((axes[0], by_rank, "rank (all linear layers)"), (axes[2], by_alpha, f"alpha (rank {settings.rank})")):
    place.plot(list(swept), [100 * right for right, _, _ in swept.values()], color=COLORS["orange"], marker="s")
    place.set_xscale("log", base=2)
    place.set_xticks(list(swept), [f"{value:g}" for value in swept])
    place.set(xlabel=label, ylim=(-4, 104))
axes[1].bar(range(len(by_target)), [100 * right for right, _, _ in by_target.values()], width=0.6, color=COLORS["sky"])
axes[1].set_xticks(range(len(by_target)), [f"{label}\n{count:,}" for label, (_, _, count) in by_target.items()], fontsize=9)
axes[1].set(xlabel=f"layers (rank {settings.rank}) and parameters", ylim=(-4, 104))
axes[0].set_ylabel("held-out exact match (%)")
lab.figure(
    "sweeps",
    figure,
    Text(
        en=f"Accuracy on relabel after {settings.sweep_steps} steps over the rank, the adapted layers and alpha. One seed.",
        zh_tw=f"訓練 {settings.sweep_steps} 步之後 relabel 的準確率：隨秩、加在哪些層，以及 alpha 變化。單一種子。",
    ),
)

# %%
rows = [(tr(f"rank {rank}", f"秩 {rank}"), f"{count:,}", f"{right:.1%}", loss) for rank, (right, loss, count) in by_rank.items()]
rows += [(label, f"{count:,}", f"{right:.1%}", loss) for label, (right, loss, count) in by_target.items()]
rows += [(f"alpha {alpha:g}", f"{count:,}", f"{right:.1%}", loss) for alpha, (right, loss, count) in by_alpha.items()]
lab.table([tr("setting", "設定"), tr("parameters", "參數量"), tr("accuracy", "準確率"), tr("last losses", "最後的損失")], rows)

best = max(right for right, _, _ in by_rank.values())
enough = next(rank for rank in sorted(by_rank) if by_rank[rank][0] >= 0.98 * best)
lab.record("enough_rank", enough)
guess = lab.predict("enough_rank")
spans = {
    tr("rank", "秩"): by_rank, tr("layers", "層"): by_target, "alpha": by_alpha,
}  # fmt: skip
spans = {label: max(right for right, _, _ in swept.values()) - min(right for right, _, _ in swept.values()) for label, swept in spans.items()}
first, second, _ = sorted(spans.values(), reverse=True)
clear = first - second > 0.1
lab.say(
    f"""The smallest rank within 2% of the best one is **{enough}**{"" if guess is None else f" (you guessed {guess:g})"}. After {settings.sweep_steps} steps, the accuracy moves from the worst to the best value by {", ".join(f"{span:.0%} ({label})" for label, span in spans.items())}.{"" if clear else " Which of the three matters most, one seed cannot decide."}
With Adam, tuning alpha is roughly tuning the learning rate of the update (the paper, section 4.1): that is why alpha is usually left alone. Here the last losses with the smallest and the largest alpha are {by_alpha[min(by_alpha)][1]:.2f} and {by_alpha[max(by_alpha)][1]:.2f}.""",
    f"""與最好的秩相差 2% 以內的最小秩是 **{enough}**{"" if guess is None else f"（你猜 {guess:g}）"}。訓練 {settings.sweep_steps} 步之後，從最差到最好的設定，準確率的變動是{"、".join(f"{label} {span:.0%}" for label, span in spans.items())}。{"" if clear else "三者之中誰影響最大，一個種子決定不了。"}
用 Adam 的話，調 alpha 大致等於調更新量的學習率（論文 4.1 節），所以 alpha 通常固定不動。在這裡，alpha 最小與最大時，最後的損失分別是 {by_alpha[min(by_alpha)][1]:.2f} 與 {by_alpha[max(by_alpha)][1]:.2f}。""",
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
    """Squared gradient norm of all B, and how far one small step moves the logits (root mean square): gradient descent, Adam."""
    model = fresh()
    add_lora(model, setting, seed=seed)
    before = logits_of(model, batch)
    accumulate_gradients(model, [batch])
    factors = [layer.lora_b for layer in lora_layers(model).values()]
    squared = sum(float((factor.grad**2).sum()) for factor in factors)
    moves = []
    for step in (lambda gradient: 1e-2 * gradient, lambda gradient: 1e-5 * gradient.sign()):  # the first step of Adam is the sign
        with torch.no_grad():
            for factor in factors:
                factor.copy_(-step(factor.grad))
        moves.append((logits_of(model, batch) - before).pow(2).mean().sqrt().item())
    return squared, *moves


def exponent(values):
    """p of value = c * rank ** p, by least squares on logarithms."""
    return float(np.polyfit(np.log(settings.scale_ranks), np.log(values), 1)[0])


steps = {
    scale: np.array([first_step(dataclasses.replace(chosen, rank=rank, rank_stabilized=scale == "rsLoRA")) for rank in settings.scale_ranks])
    for scale in ("standard", "rsLoRA")
}
exponents = {scale: [exponent(values[:, column]) for column in range(3)] for scale, values in steps.items()}
lab.record("gradient_exponent", abs(exponents["rsLoRA"][0]))
lab.record("gradient_exponent", abs(exponents["standard"][0]), variant="standard_scale")

# %%
figure, axes = subplots(1, 3, figsize=(12.5, 3.7), sharey=True)
for column, title in enumerate(("squared gradient of B", "move of the logits, gradient descent", "move of the logits, Adam")):
    for scale, values in steps.items():
        axes[column].loglog(settings.scale_ranks, values[:, column] / values[0, column], label=f"{scale}: $r^{{{exponents[scale][column]:.2f}}}$")
    axes[column].set_xticks(settings.scale_ranks, [str(rank) for rank in settings.scale_ranks])
    axes[column].minorticks_off()
    axes[column].set(xlabel="rank", title=title)
    axes[column].legend()
axes[0].set_ylabel("relative to the smallest rank")
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
    f"""- The squared gradient goes like $r^{{{standard[0]:.2f}}}$ with the standard scale and $r^{{{stabilised[0]:.2f}}}$ with rsLoRA's: theory says −1 and 0. One step of gradient descent moves the logits like $r^{{{standard[1]:.2f}}}$ and $r^{{{stabilised[1]:.2f}}}$.
  Under gradient descent, then, the standard scale makes a high rank learn more slowly.
- One step of Adam moves them like $r^{{{standard[2]:.2f}}}$ and $r^{{{stabilised[2]:.2f}}}$: at the first step Adam hides the size of the gradient, and {"then it is the standard scale that hardly depends on the rank" if abs(standard[2]) < abs(stabilised[2]) else "still rsLoRA's scale depends less on the rank"}.
  Which scale is right thus depends on the optimizer and on the phase of training; rsLoRA's proof is about the whole of it.""",
    f"""- 梯度的平方在標準縮放下像 $r^{{{standard[0]:.2f}}}$，在 rsLoRA 的縮放下像 $r^{{{stabilised[0]:.2f}}}$：理論值是 −1 與 0。梯度下降一步，logits 的移動像 $r^{{{standard[1]:.2f}}}$ 與 $r^{{{stabilised[1]:.2f}}}$。
  所以在梯度下降之下，標準縮放會讓高秩學得比較慢。
- Adam 一步的移動像 $r^{{{standard[2]:.2f}}}$ 與 $r^{{{stabilised[2]:.2f}}}$：在第一步，Adam 把梯度的大小藏了起來，{"這時幾乎與秩無關的反而是標準縮放" if abs(standard[2]) < abs(stabilised[2]) else "即使如此，rsLoRA 的縮放還是比較不受秩影響"}。
  所以哪一種縮放才對，要看最佳化器，也要看訓練的階段；rsLoRA 的證明談的是整個訓練過程。""",
)

# %% [markdown] lang="en"
# ## Three relatives, through `peft`
#
# - **rsLoRA**: the scale from above.
# - **DoRA** ([2402.09353](https://arxiv.org/abs/2402.09353)) splits a weight into direction and length, and trains a length per output beside A and B.
# - **AdaLoRA** ([2303.10512](https://arxiv.org/abs/2303.10512)) writes the update as $P\Lambda Q$, begins with a higher rank, and takes singular values away from the layers that need them least.
#
# They get the same task, seed, steps and batches as LoRA. We also count what they train, and what a step costs compared with LoRA in this run.

# %% [markdown] lang="zh-TW"
# ## 三個近親，用 `peft` 來比
#
# - **rsLoRA**：上面那種縮放。
# - **DoRA**（[2402.09353](https://arxiv.org/abs/2402.09353)）把權重拆成方向與長度，除了 A、B 之外，還為每個輸出訓練一個長度。
# - **AdaLoRA**（[2303.10512](https://arxiv.org/abs/2303.10512)）把更新寫成 $P\Lambda Q$，從比較高的秩開始，再從最不需要的層把奇異值拿走。
#
# 任務、種子、步數、批次都與 LoRA 相同。我們也數它們訓練多少參數，以及在這次執行中，一步的代價是 LoRA 的幾倍。

# %%
plan = plans["relabel"]
common = {"lora_alpha": settings.alpha, "target_modules": list(ALL_LINEAR)}
configs = {
    "LoRA": LoraConfig(r=settings.rank, **common),
    "rsLoRA": LoraConfig(r=settings.rank, use_rslora=True, **common),
    "DoRA": LoraConfig(r=settings.rank, use_dora=True, **common),
    "AdaLoRA": AdaLoraConfig(
        init_r=settings.rank * 3 // 2, target_r=settings.rank, tinit=plan.steps // 10, tfinal=plan.steps // 3, total_step=plan.steps, **common
    ),
}
relatives, ranks = {}, {}
for name, config in lab.progress(list(configs.items())):
    torch.manual_seed(seed)
    model = get_peft_model(fresh(), config)
    adapt = {"after_step": model.base_model.update_and_allocate} if name == "AdaLoRA" else {}
    began = time.perf_counter()
    history, right = train(model, "relabel", seed, plan.lora_rate, **adapt)
    relatives[name] = {"right": right, "trained": count_parameters(model).trainable, "seconds": time.perf_counter() - began, "losses": history.losses}
    if name == "AdaLoRA":
        ranks = {layer: sum(kept) for layer, kept in model.peft_config["default"].rank_pattern.items()}
    del model
lab.record("relatives_accuracy", min(result["right"] for result in relatives.values()))
lab.record("relatives_accuracy", untrained["relabel"], variant="base")
lab.table(
    [tr("method", "方法"), tr("trained", "訓練的參數"), tr("accuracy", "準確率"), tr("time, LoRA = 1", "時間，LoRA = 1")],
    [(name, f"{result['trained']:,}", f"{result['right']:.1%}", f"{result['seconds'] / relatives['LoRA']['seconds']:.2f}") for name, result in relatives.items()],
)

# %%
average = {kind: np.mean([rank for layer, rank in ranks.items() if f".{kind}." in layer]) for kind in ALL_LINEAR}
figure, axes = subplots(figsize=(7.2, 3.2))
axes.bar(range(len(average)), list(average.values()), width=0.6, color=COLORS["purple"])
axes.axhline(settings.rank, color="black", linestyle="--", linewidth=1.2, marker="")
axes.set_xticks(range(len(average)), list(average), fontsize=9)
axes.set(ylabel="mean rank kept")
lab.figure(
    "adalora-ranks",
    figure,
    Text(
        en="The rank that AdaLoRA leaves to each kind of layer, averaged over the blocks; the dashed line is the budget.",
        zh_tw="AdaLoRA 留給每一種層的秩，對各 block 取平均；虛線是預算。",
    ),
)
low, high = min(relatives, key=lambda name: relatives[name]["right"]), max(relatives, key=lambda name: relatives[name]["right"])
spread = relatives[high]["right"] - relatives[low]["right"]
items = len(tasks["relabel"].held_out)
intervals = [wilson_interval(round(relatives[name]["right"] * items), items) for name in (low, high)]
overlap = intervals[0].high >= intervals[1].low
lab.say(
    f"""From {low} ({relatives[low]["right"]:.1%}) to {high} ({relatives[high]["right"]:.1%}) lie {spread:.1%} on {items} items, with one seed. {"Their 95% intervals overlap: no winner here." if overlap else "Their 95% intervals do not overlap, but one seed, at LoRA's learning rate, decides no ranking."}
AdaLoRA left most rank to `{max(average, key=average.get)}` and least to `{min(average, key=average.get)}`. (Its rank above the budget is masked, not removed, so it trains more numbers than the others here.)""",
    f"""從 {low}（{relatives[low]["right"]:.1%}）到 {high}（{relatives[high]["right"]:.1%}）相差 {spread:.1%}，根據 {items} 題、一個種子。{"兩者的 95% 信賴區間重疊：這裡沒有贏家。" if overlap else "兩者的 95% 信賴區間沒有重疊；但只有一個種子，用的又是 LoRA 的學習率，決定不了名次。"}
AdaLoRA 留給 `{max(average, key=average.get)}` 的秩最多，留給 `{min(average, key=average.get)}` 的最少。（超出預算的秩只是被遮住，並沒有移除，所以它在這裡訓練的數字比別人多。）""",
)

# %% [markdown] lang="en"
# ## A base in four bits
#
# A frozen base needs no gradient, so it may be stored coarsely: QLoRA ([2305.14314](https://arxiv.org/abs/2305.14314)) keeps it in NF4, 16 levels at the quantiles of a normal distribution, with a scale for each block of 64. At each use the weight is made dense for a moment; the adapters stay in float32.
# `nf4.py` does that in plain PyTorch. If bitsandbytes runs on this machine, its kernels do the same beside it.

# %% [markdown] lang="zh-TW"
# ## 四位元的基礎模型
#
# 凍結的基礎模型不需要梯度，所以可以存得粗一點：QLoRA（[2305.14314](https://arxiv.org/abs/2305.14314)）把它存成 NF4，也就是取常態分布分位數的 16 個位準，每 64 個權重共用一個縮放。每次使用時，權重才暫時還原成稠密的；adapter 維持 float32。
# `nf4.py` 用純 PyTorch 做這件事。如果 bitsandbytes 在這台機器上跑得動，就用它的 kernel 並列再做一次。

# %%
def own_four_bit():
    model = fresh()
    quantize_model(model, ALL_LINEAR, double=True)
    return model


def bits(model):
    """Stored bits per weight of the quantised layers, scales included."""
    stored = [module.quantized for module in model.modules() if isinstance(module, Nf4Linear)]
    return 8 * sum(weight.stored_bytes for weight in stored) / sum(weight.shape.numel() for weight in stored)


bases = {"nf4": own_four_bit}
try:
    fresh(quantized="nf4")
    bases["bitsandbytes"] = lambda: fresh(quantized="nf4")
except UserError as error:
    lab.say(f"bitsandbytes does not run here, so only our own NF4 is used: {error.cause}", f"bitsandbytes 在這裡跑不動，所以只用我們自己的 NF4：{error.cause}")

quantised = own_four_bit()
without = accuracy(quantised, tasks["relabel"]).accuracy
four_bit = {}
for name, make in bases.items():
    for seed in settings.seeds if name == "nf4" else settings.seeds[:1]:
        model = make()  # not evaluated before it is trained: on some CPUs bitsandbytes then repacks its weights into a form without gradients
        add_lora(model, chosen, seed=seed)
        _, four_bit[name, seed] = train(model, "relabel", seed, plan.lora_rate)
        if name == "nf4" and seed == settings.seeds[0]:
            save_adapter(model, chosen, lab.artifact("adapter-four-bit"), base_name)
for seed in settings.seeds:
    lab.record("four_bit_vs_full", of_full(four_bit["nf4", seed], "relabel", seed), seed=seed)
    lab.record("four_bit_vs_full", of_full(without, "relabel", seed), seed=seed, variant="no_adapter")
seed = settings.seeds[0]
lab.record("four_bit_bits", bits(quantised))
lab.record("four_bit_bits", 8.0 * base.get_submodule(matrices[0]).weight.element_size(), variant="dense")

# %%
originals = {name: base.get_submodule(name).weight for name in matrices}
error = np.mean([((quantised.get_submodule(name).weight.cpu() - weight).norm() / weight.norm()).item() for name, weight in originals.items()])
after = np.mean([four_bit["nf4", seed] for seed in settings.seeds])
known = forgetting(quantised, tokenizer, ("sentiment",), per_language=settings.forget_items, chat=settings.chat)["sentiment"].accuracy
other = "" if "bitsandbytes" not in bases else f"; on bitsandbytes' base {four_bit['bitsandbytes', seed]:.1%} (one seed)"
other_zh = "" if "bitsandbytes" not in bases else f"；在 bitsandbytes 的基礎模型上是 {four_bit['bitsandbytes', seed]:.1%}（一個種子）"
lab.say(
    f"""The linear layers take {bits(quantised):.2f} bits per weight instead of {8 * base.get_submodule(matrices[0]).weight.element_size()}, and differ from the original weights by {error:.1%} (relative norm, mean over the layers). LoRA on top reaches {after:.1%} on `relabel` over {len(settings.seeds)} seeds{other}; on the dense base it was {mean("relabel", "LoRA"):.1%}.""",
    f"""線性層每個權重占 {bits(quantised):.2f} 位元，原本是 {8 * base.get_submodule(matrices[0]).weight.element_size()} 位元；與原本的權重相差 {error:.1%}（相對範數，各層平均）。在上面加 LoRA，`relabel` 達到 {after:.1%}（{len(settings.seeds)} 個種子）{other_zh}；在稠密的基礎模型上是 {mean("relabel", "LoRA"):.1%}。""",
)

# %%
content = {
    "right": {name: scores[name, "LoRA", seed] for name in plans},
    "full_right": {name: scores[name, "full", seed] for name in plans},
    "full_kept": {name: {family: score.accuracy for family, score in by_family.items()} for name, by_family in kept.items()},
    "four_bit_right": four_bit["nf4", seed],
}
with lab.artifact("training.json").open("w", encoding="utf-8") as file:
    json.dump(content, file)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- LoRA reaches {relative["relabel"]:.1%} and {relative["compose"]:.1%} of full fine-tuning, with {trained / whole:.1%} of the parameters. With B frozen it learns nothing.
- After {settings.sweep_steps} steps of `relabel`, rank {enough} is enough. LoRA and its three relatives lie within {spread:.1%} of each other.
- A base of {bits(quantised):.2f} bits per weight changes the accuracy on `relabel` by {100 * (after - mean("relabel", "LoRA")):+.1f} points.""",
    f"""- LoRA 用 {trained / whole:.1%} 的參數，達到全參數微調的 {relative["relabel"]:.1%} 與 {relative["compose"]:.1%}。B 凍結的話什麼都學不會。
- `relabel` 訓練 {settings.sweep_steps} 步之後，秩 {enough} 就夠了。LoRA 與三個近親彼此相差 {spread:.1%} 以內。
- 每個權重 {bits(quantised):.2f} 位元的基礎模型，`relabel` 的準確率變化是 {100 * (after - mean("relabel", "LoRA")):+.1f} 個百分點。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Both tasks build on what the base can do. Where a model must take in much that is new (another language, a lot of code), the literature finds full fine-tuning ahead: Biderman et al., *LoRA Learns Less and Forgets Less*, [2405.09673](https://arxiv.org/abs/2405.09673).
# - The matrices of this model are small, so even a low rank is a good part of their full rank. On a large model the same rank restricts far more.
# - Sweeps and relatives ran with one seed. The two comparisons with full fine-tuning and the 4-bit base ran with several.
# - NF4 in plain PyTorch shows what is stored and what it costs in accuracy. It shows nothing about speed: that is the business of fused kernels.
#
# **Exercises.** 1 to 5 (`lora.py`) make this notebook run on *your* LoRA, 8 (`nf4.py`) on your 4-bit base: `nox -s lab-1.1.1-lora -- --mine`.
#
# **Next:** one base, several adapters. How are they switched, and what did the model forget?

# %% [markdown] lang="zh-TW"
# ## 玩具規模的限制
#
# - 兩個任務都建立在基礎模型已經會的事上。模型必須吸收大量新東西（另一種語言、大量程式碼）時，文獻的發現是全參數微調領先：Biderman 等人，*LoRA Learns Less and Forgets Less*，[2405.09673](https://arxiv.org/abs/2405.09673)。
# - 這個模型的矩陣很小，所以很低的秩也已經是滿秩的不小一部分。在大模型上，同樣的秩限制要大得多。
# - 掃描與近親的比較只跑一個種子。與全參數微調的兩個比較，以及 4 位元的基礎模型，跑了數個種子。
# - 純 PyTorch 的 NF4 看得出存了什麼、準確率的代價是多少，看不出速度：那是融合 kernel 的事。
#
# **練習。** 練習 1 到 5（`lora.py`）會讓這本筆記本跑在*你的* LoRA 上，練習 8（`nf4.py`）則是你的 4 位元基礎模型：`nox -s lab-1.1.1-lora -- --mine`。
#
# **下一步：** 一個基礎模型、數個 adapter。要怎麼切換？模型又忘了什麼？
