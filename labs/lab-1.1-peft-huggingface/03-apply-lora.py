# %% [markdown] lang="en"
# # 3. Applying LoRA
#
# **Question.** A few small matrices are put beside the frozen ones. What do they change at first, what do they learn, and what if one half of them may not move?
#
# | | |
# |---|---|
# | You build | an adapter with `peft`, three training runs with three seeds, the same run by `transformers.Trainer`, one with B frozen, one on the instruction data and the same by `trl`'s `SFTTrainer`; and an adapter of your own design, within a budget |
# | You need | a minute on two CPU cores, 1 GB of memory |
# | You should see | what a fresh adapter changes; whether three training loops have one curve; what a frozen B learns; how a budget of parameters is best spent; adapters on disk for notebooks 4 and 5 |

# %% [markdown] lang="zh-TW"
# # 3. 套用 LoRA
#
# **問題。** 在凍結的矩陣旁邊放幾個小矩陣。它們一開始改變了什麼？學到了什麼？如果其中一半不准動呢？
#
# | | |
# |---|---|
# | 你會做出 | 用 `peft` 放進 adapter、用三個種子各訓練一次、用 `transformers.Trainer` 做同樣的訓練、把 B 凍結訓練一次、用指令資料訓練一次，再用 `trl` 的 `SFTTrainer` 做同樣的訓練；最後在參數預算內設計你自己的 adapter |
# | 你需要 | 兩個 CPU 核心跑一分鐘，1 GB 記憶體 |
# | 你應該看到 | 剛放進去的 adapter 改變了什麼；三種訓練迴圈的曲線是否相同；B 凍結時學到了什麼；同樣的參數預算該怎麼用；寫進磁碟的 adapter，給第 4、5 本用 |

# %%
import contextlib
import io
import itertools
import json
import math
import tempfile
import warnings
from dataclasses import asdict, dataclass

import torch

from adapter_design import design, last_names
from lora_setup import adapted_by, load_adapted, lora_config, lora_model
from lora_targets import lora_parameters, target_linears, train_only
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    fit,
    largest_difference,
    load_base,
    load_task,
    logits_of,
    loss_difference,
    save_peft_model,
    targeted_shapes,
)
from onepiece.course.text import Text, tr
from onepiece.data import Batches, Collator, InstructionDataset, ordered_batches
from onepiece.evaluation import mean_loss
from onepiece.figures import training_curves
from onepiece.models import count_parameters
from onepiece.records import read_records
from onepiece.training import train

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits
base, tokenizer = load_base(settings)
size = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
task = load_task(settings.task, tokenizer, **size, chat=settings.chat)

# %% [markdown] lang="en"
# ## What peft puts into the model
#
# `LoraConfig` says where and how much; `get_peft_model` replaces each named Linear layer by one that holds the old layer and two small ones:

# %% [markdown] lang="zh-TW"
# ## peft 在模型裡放了什麼
#
# `LoraConfig` 說明放在哪裡、放多少；`get_peft_model` 把指定的每個 Linear 層換成一個新層，裡面有原來的層，再加上兩個小的層：

# %% [markdown]
# $$h = W x + \frac{\alpha}{r}\, B A\, x,\qquad A\in\mathbb R^{r\times d_{in}},\quad B\in\mathbb R^{d_{out}\times r}$$

# %%
adapted = lora_model(settings, seed=0)
configuration = adapted.active_peft_config
print(adapted.base_model.model.model.layers[0].self_attn.q_proj)
scale = configuration.lora_alpha / configuration.r
meanings = {
    "r": tr("rows of A, columns of B: the rank", "A 的列數、B 的行數，也就是秩"),
    "lora_alpha": tr(f"the update is multiplied by alpha / r = {scale:g}", f"更新量乘上 alpha / r = {scale:g}"),
    "target_modules": tr("every Linear layer but the output head", "輸出層以外的每個 Linear 層"),
    "lora_dropout": tr("of the adapter's input, in training", "訓練時對 adapter 的輸入做 dropout"),
}
rows = []
for name, meaning in meanings.items():
    value = getattr(configuration, name)
    rows.append([name, ", ".join(sorted(value)) if name == "target_modules" else value, meaning])
lab.table([tr("setting", "設定"), tr("value", "值"), tr("meaning", "意義")], rows)

# %% [markdown] lang="en"
# ## Does it train what the formula says?
#
# The library counts, and so do we. The control is a common short cut: to take every matrix for a square of the hidden size.

# %% [markdown] lang="zh-TW"
# ## 訓練的參數量和公式一樣嗎？
#
# 函式庫數一次，我們也數一次。對照組是一種常見的簡化算法：把每個矩陣都當成邊長等於 hidden size 的方陣。

# %%
names = target_linears(base)
formula = lora_parameters(targeted_shapes(base, names).values(), settings.rank)
square = lora_parameters([(base.config.hidden_size, base.config.hidden_size)] * len(names), settings.rank)
adapted.print_trainable_parameters()
count = count_parameters(adapted)
lab.record("trainable_difference", abs(count.trainable - formula))
lab.record("trainable_difference", abs(count.trainable - square), variant="square_matrices")
lab.record("trainable_share", count.share)
lab.say(
    f"""`peft` trains {count.trainable:,} parameters in {len(names)} matrices; \
the formula gives {formula:,}, the short cut {square:,}. That is {count.share:.2%} of the model: \
on Llama-2-7B the same rank
on all linear layers was a fraction of a percent (notebook 1). The smaller the model, the larger the share.""",
    f"""`peft` 在 {len(names)} 個矩陣裡訓練 {count.trainable:,} 個參數；公式算出 {formula:,}，簡化的算法是 {square:,}。占整個模型的 {count.share:.2%}：在 Llama-2-7B 上，
同樣的 rank 放進所有線性層，連百分之一都不到（第 1 本筆記本）。模型愈小，比例愈大。""",
)

# %% [markdown] lang="en"
# ## Predict
#
# The adapter has just been put in, with a random A. By how much do the logits differ from the base's? Then: we train on the instruction data for
# a short while. What is the held-out perplexity after it, as a share of the one before? Into `predictions.toml`:
#
# ```toml
# initial_difference = 0.1
# instruction_perplexity_ratio = 0.8
# ```
#
# And one to think about: only A is trained, B stays what it is at the start. What will the loss do?
#
# <details><summary>A hint</summary>
#
# Where should training begin: at the model that pretraining made, or at another one? With a random A, what must B be for that?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# adapter 剛放進去，A 是隨機的。logits 和基礎模型差多少？接著，我們用指令資料訓練一小段時間。訓練後的保留集困惑度，是訓練前的幾倍？
# 寫進 `predictions.toml`：
#
# ```toml
# initial_difference = 0.1
# instruction_perplexity_ratio = 0.8
# ```
#
# 還有一題請想一想：只訓練 A，B 一直維持一開始的值，損失會怎麼變化？
#
# <details><summary>提示</summary>
#
# 訓練該從哪裡開始：預訓練好的那個模型，還是另一個模型？A 是隨機的，B 要是什麼才做得到？
# </details>

# %%
def random_b():
    """The control: an adapter whose B does not begin at zero."""
    from peft import get_peft_model

    fresh, _ = load_base(settings)
    config = lora_config(fresh, settings)
    config.init_lora_weights = False
    torch.manual_seed(0)
    return get_peft_model(fresh, config)


batch = batches(task, batch_size=settings.batch, seed=0)(0)
base_logits = logits_of(base, batch)  # (tokens, vocabulary), without padding
change = largest_difference(logits_of(adapted, batch), base_logits)
random_change = largest_difference(logits_of(random_b(), batch), base_logits)
lab.record("initial_difference", change)
lab.record("initial_difference", random_change, variant="random_b")
guess = lab.predict("initial_difference")
lab.say(
    f"""The largest change of a logit is **{change:g}**{"" if guess is None else f" (you guessed {guess:g})"}: \
`peft` begins with B = 0, so the product is zero whatever A is, and training begins exactly where pretraining ended. \
With a random B it
would be {random_change:.3g}, a damaged model that has to be repaired first.""",
    f"""logit 最大的變化是 **{change:g}**{"" if guess is None else f"（你猜 {guess:g}）"}：`peft` 一開始讓 B = 0，不管 A 是什麼，乘積都是零，所以訓練正好從預訓練結束的地方開始。如果 B 是隨機的，
變化會是 {random_change:.3g}，等於一開始就得先修好一個弄壞的模型。""",
)

# %% [markdown] lang="en"
# ## Three seeds
#
# The seed decides A and the order of the data; everything else is equal. After the first few steps of one run we keep a copy of the
# adapter: a half-trained one makes mistakes, and notebook 4 looks at them.

# %% [markdown] lang="zh-TW"
# ## 三個種子
#
# 種子決定 A 和資料的順序，其餘都一樣。其中一次訓練在開頭幾步之後，我們先存一份 adapter：訓練到一半的會犯錯，第 4 本筆記本要看那些錯誤。

# %%
adapters = lab.artifact("adapters")
recipe = {"steps": settings.steps, "learning_rate": settings.learning_rate, "batch_size": settings.batch}
histories = {}
for seed in settings.seeds:
    model = lora_model(settings, seed)

    def keep_early(step, model=model, seed=seed):
        if seed == settings.seeds[0] and step + 1 == settings.early_steps:
            save_peft_model(model, adapters / "early")

    histories[f"seed {seed}"] = fit(model, task, seed=seed, after_step=keep_early, **recipe)
    save_peft_model(model, adapters / f"seed-{seed}")
trained_change = largest_difference(logits_of(model, batch), base_logits)
del model, adapted  # a large base would stay on the device

# %% [markdown] lang="en"
# ## The same run by `Trainer`
#
# The loop that made these curves is short enough to read (`onepiece/training.py`). `transformers.Trainer` is not: it brings checkpoints, distributed
# training and callbacks. Given the same adapter, the same examples in the same order and the same schedule, do they agree? The control is our own loop with
# the data in another order.

# %% [markdown] lang="zh-TW"
# ## 用 `Trainer` 做同樣的訓練
#
# 剛才用的訓練迴圈很短，可以從頭讀到尾（`onepiece/training.py`）。`transformers.Trainer` 就不行了：它包含 checkpoint、分散式訓練和各種 callback。
# 給它同樣的 adapter、同樣順序的例子、同樣的學習率排程，結果會一致嗎？對照組是我們自己的迴圈，但資料換個順序。

# %%
from transformers import Trainer, TrainingArguments

seed = settings.seeds[0]
quiet = {  # nothing written, nothing reported, a loss after each step
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": settings.device.type == "cpu",
    "dataloader_pin_memory": False,
}
as_our_loop = {  # what `onepiece.training.train` does
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "train_sampling_strategy": "sequential",
    "seed": seed,
}


def losses_of(trainer):
    """Of each step; it prints a line for each, which nobody needs here."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def in_order(items, batch_size, steps):
    """The items as our loop meets them with this seed, one after the other."""
    by_step = Batches(items, list, batch_size=batch_size, seed=seed)  # `list` is the collator: the items themselves
    return list(itertools.chain.from_iterable(by_step(step) for step in range(steps)))


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=settings.batch,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        **as_our_loop,
        **quiet,
    )
    trainer = Trainer(
        model=lora_model(settings, seed),
        args=arguments,
        train_dataset=in_order(task.training, settings.batch, settings.steps),
        data_collator=Collator(tokenizer.pad_token_id),
    )
    trainer_losses = losses_of(trainer)
del trainer
other_order = fit(lora_model(settings, seed), task, seed=max(settings.seeds) + 1, **recipe)
own = histories[f"seed {seed}"].losses
of_trainer, of_other_order = loss_difference(trainer_losses, own), loss_difference(other_order.losses, own)
lab.record("trainer_loss_difference", of_trainer)
lab.record("trainer_loss_difference", of_other_order, variant="other_order")
lab.say(
    f"""Over {len(own)} steps the curves of the two loops are at most {of_trainer:.1e} nats apart; \
another order of the same data gives {of_other_order:.2f}. What you learn
about the short loop holds for the long one.""",
    f"""{len(own)} 步之間，兩個迴圈的曲線最多只差 {of_trainer:.1e} nats；同樣的資料換個順序，就差 {of_other_order:.2f}。
在短的迴圈上學到的，對長的那個一樣成立。""",
)

# %% [markdown] lang="en"
# ## The control: B frozen at zero
#
# `train_only` lets A move and nothing else. Half of the adapter is trained, with the same data and the same steps.

# %% [markdown] lang="zh-TW"
# ## 對照組：B 凍結在零
#
# `train_only` 只讓 A 動。adapter 有一半在訓練，資料相同，步數也相同。

# %%
frozen = lora_model(settings, seed)
trained_numbers = train_only(frozen, "lora_A")
histories["B frozen"] = fit(frozen, task, seed=seed, **recipe)
save_peft_model(frozen, adapters / "frozen-b")
frozen_change = largest_difference(logits_of(frozen, batch), base_logits)
del frozen
lab.record("frozen_b_change", frozen_change)
lab.record("frozen_b_change", trained_change, variant="trained")

figure = training_curves(histories, title=tr(f"LoRA on {settings.task}", f"用 LoRA 學 {settings.task}"))
figure.axes[0].set_yscale("log")
lab.figure(
    "learning-curves",
    figure,
    Text(
        en="Training loss of three seeds, and of a run whose B is frozen at zero (logarithmic).",
        zh_tw="三個種子的訓練損失，以及把 B 凍結在零的那次訓練（對數座標）。",
    ),
)

# %%
with_b = [history.losses for name, history in histories.items() if name != "B frozen"]
first = sum(losses[0] for losses in with_b) / len(with_b)
last = sum(sum(losses[-10:]) / 10 for losses in with_b) / len(with_b)
without_b = histories["B frozen"].losses
frozen_first, frozen_last = without_b[0], sum(without_b[-10:]) / 10
norm = max(histories["B frozen"].gradient_norms)
lab.say(
    f"""- Three seeds: from {first:.2f} to {last:.3f} nats per token in {settings.steps} steps.
- B frozen: {trained_numbers:,} parameters were trained, from {frozen_first:.2f} to {frozen_last:.2f} nats (batches differ), and the largest change of a logit is **{frozen_change:g}** (trained: {trained_change:.3g}). The gradient of A is $B^\\top$ times something; its
  largest norm in all steps was {norm:g}. So the first step of any LoRA moves B alone, and A only after it.""",
    f"""- 三個種子：{settings.steps} 步之內，從每個 token {first:.2f} nats 降到 {last:.3f}。
- B 凍結：訓練了 {trained_numbers:,} 個參數，損失從 {frozen_first:.2f} 到 {frozen_last:.2f} nats（每個批次難易不同），而 logit 最大的變化是 **{frozen_change:g}**（正常訓練是 {trained_change:.3g}）。A 的梯度是 $B^\\top$ 乘上某個量，
  所有步驟裡最大的範數是 {norm:g}。所以任何 LoRA 的第一步都只動 B，之後 A 才開始動。""",
)

# %% [markdown] lang="en"
# ## A short run on the instruction data
#
# The same recipe on the records of notebook 2, in the chat template. Many answers can be right, so we measure the perplexity of the held-out
# answers: among how many equally likely tokens the model hesitates. The control is an adapter that was trained well, but on the other task; the model before
# training must miss as well.

# %% [markdown] lang="zh-TW"
# ## 用指令資料訓練一小段
#
# 同樣的做法，換成第 2 本筆記本的指令資料，用對話範本。正確的答法可能有很多種，所以我們量保留答案的困惑度：相當於模型在幾個機率相等的 token 之間選一個。
# 對照組是另一個任務的 adapter：訓練得很好，但用錯地方；訓練之前的模型當然也不能過關。

# %%
collator = Collator(tokenizer.pad_token_id)
limit = {"max_length": settings.instruction_length}
training = InstructionDataset.from_file(lab.artifact("instructions-train.jsonl"), tokenizer, **limit)
held_out = InstructionDataset.from_file(lab.artifact("instructions-held-out.jsonl"), tokenizer, **limit)
evaluation = ordered_batches(held_out, collator, batch_size=settings.instruction_batch)

model = lora_model(settings, seed)
untrained_loss = mean_loss(model, evaluation)
of_other_adapter = mean_loss(load_adapted(settings, adapters / f"seed-{seed}"), evaluation)
history = train(
    model,
    Batches(training, collator, batch_size=settings.instruction_batch, seed=seed),
    steps=settings.instruction_steps,
    learning_rate=settings.instruction_learning_rate,
    seed=seed,
    evaluate=lambda: {"held-out": mean_loss(model, evaluation)},
    evaluate_every=settings.instruction_steps // 5,
)
save_peft_model(model, adapters / "instructions")
trained_loss = history.evaluations[-1]["held-out"]
lab.record("instruction_perplexity_ratio", math.exp(trained_loss - untrained_loss))
other_ratio = math.exp(of_other_adapter - untrained_loss)
lab.record("instruction_perplexity_ratio", other_ratio, variant="other_adapter")
lab.record("instruction_perplexity_ratio", math.exp(mean_loss(base, evaluation) - untrained_loss), variant="untrained")

curves = {tr("training", "訓練"): history}
figure = training_curves(curves, window=5, title=tr("LoRA on the instruction data", "用 LoRA 學指令資料"))
axes = figure.axes[0]
steps = [0, *(entry["step"] for entry in history.evaluations)]
losses = [untrained_loss, *(entry["held-out"] for entry in history.evaluations)]
axes.plot(steps, losses, linestyle="--", label=tr("held-out", "保留資料"))
axes.legend()
lab.figure(
    "instruction-curves",
    figure,
    Text(
        en="Loss on the instruction data: training (mean of five steps) and held-out records.",
        zh_tw="指令資料的損失：訓練（五步平均）與保留資料。",
    ),
)

# %%
guess = lab.predict("instruction_perplexity_ratio")
lab.say(
    f"""On {len(held_out):,} held-out records the perplexity goes from {math.exp(untrained_loss):.2f} to \
**{math.exp(trained_loss):.2f}** in {settings.instruction_steps} steps, {math.exp(trained_loss - untrained_loss):.2f} \
of what it was{"" if guess is None else f" (you guessed {guess:.2f})"}.
The training loss of the last five steps is {sum(history.losses[-5:]) / 5:.3f}, the held-out loss {trained_loss:.3f}: \
how far they are apart tells how much was learned by heart. With the adapter of `{settings.task}` the perplexity is \
{other_ratio:.2f} times that of the base.""",
    f"""在 {len(held_out):,} 筆保留資料上，困惑度在 {settings.instruction_steps} 步之內從 {math.exp(untrained_loss):.2f} 變成 \
**{math.exp(trained_loss):.2f}**，是原來的 {math.exp(trained_loss - untrained_loss):.2f} \
倍{"" if guess is None else f"（你猜 {guess:.2f}）"}。
最後五步的訓練損失是 {sum(history.losses[-5:]) / 5:.3f}，保留集的損失是 {trained_loss:.3f}：兩者差多少，就看得出死背了多少。換成 `{settings.task}` 的 adapter，困惑度是基礎模型的 {other_ratio:.2f} 倍。""",
)
# %% [markdown] lang="en"
# ## The same run by `SFTTrainer`
#
# This is how most people do it: `trl` takes conversations as they are, applies the chat template, decides which tokens count, and trains. Here it gets the same
# records in the same order and the same fresh adapter. Does it make the same tokens and labels as our data set, and the same losses as our loop? The control lets it
# count the tokens of the prompt too (`completion_only_loss=False`).

# %% [markdown] lang="zh-TW"
# ## 用 `SFTTrainer` 做同樣的訓練
#
# 大多數人是這樣做的：把對話原封不動交給 `trl`，由它套用對話範本、決定哪些 token 要算、然後訓練。這裡給它同樣順序的同樣資料，以及同樣的全新 adapter。
# 它做出的 token 和標籤，跟我們的資料集一樣嗎？損失跟我們的迴圈一樣嗎？對照組讓它連提示的 token 也算進去（`completion_only_loss=False`）。

# %%
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer

disable_progress_bar()
records = read_records(lab.artifact("instructions-train.jsonl"), [])
every_length = InstructionDataset(records, tokenizer)  # our data set leaves out what is too long: so must theirs
lengths = [len(every_length[index]["labels"]) for index in range(len(records))]
records = [record for record, length in zip(records, lengths, strict=True) if length <= settings.instruction_length]
records = in_order(records, settings.instruction_batch, settings.instruction_steps)
conversations = []
for record in records:
    *turns, reply = record.conversation
    conversations.append({"prompt": turns, "completion": [reply]})


def sft_trainer(folder, steps, **options):
    """Supervised fine-tuning of a fresh adapter on the conversations."""
    arguments = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=settings.instruction_batch,
        max_steps=steps,
        learning_rate=settings.instruction_learning_rate,
        max_length=None,
        bf16=False,  # both are on unless they are switched off, on a CPU too
        gradient_checkpointing=False,
        **as_our_loop,
        **quiet,
        **options,
    )
    rows = Dataset.from_list(conversations[: steps * settings.instruction_batch])
    return SFTTrainer(model=lora_model(settings, seed), args=arguments, train_dataset=rows, processing_class=tokenizer)


with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # transformers has a new name for checkpointing, trl has the old one
    trainer = sft_trainer(folder, settings.instruction_steps)
    prepared = trainer.train_dataset
    sft_losses = losses_of(trainer)
    prompt_counted = losses_of(sft_trainer(folder, 2, completion_only_loss=False))
del trainer

# %%
ours = in_order(training, settings.instruction_batch, settings.instruction_steps)


def unlike_ours(part):
    """How many examples have other numbers there than ours."""
    return sum(row[part] != example[part].tolist() for row, example in zip(prepared, ours, strict=True))


other_tokens, other_labels = unlike_ours("input_ids"), unlike_ours("labels")
of_sft = loss_difference(sft_losses, history.losses)
of_prompt_counted = loss_difference(prompt_counted[:1], history.losses[:1])
lab.record("sft_loss_difference", of_sft)
lab.record("sft_loss_difference", of_prompt_counted, variant="prompt_counted")
lab.say(
    f"""Of {len(ours):,} examples, {other_tokens} have other tokens and {other_labels} other labels than ours. \
Over {len(sft_losses)} steps the losses are at most {of_sft:.1e} nats apart. \
With the prompt counted the very first loss is {of_prompt_counted:.2f} nats away, and nothing would say so.
What `SFTTrainer` adds: packing, evaluation, checkpoints, distributed training. What it decides for you: \
what counts, and the type of the numbers (bfloat16, even on a CPU).""",
    f"""{len(ours):,} 個例子裡，token 跟我們不同的有 {other_tokens} 個，標籤不同的有 {other_labels} 個。\
{len(sft_losses)} 步之間，損失最多只差 {of_sft:.1e} nats。如果連提示也算，第一步的損失就差 {of_prompt_counted:.2f} nats，而且不會有任何提醒。
`SFTTrainer` 多給你的：打包、評估、checkpoint、分散式訓練。它替你決定的：哪些 token 要算，以及數字的型別（預設 bfloat16，在 CPU 上也一樣）。""",
)

# %% [markdown] lang="en"
# ## Design an adapter
#
# So far the lab chose: every Linear layer, one rank. Now there is a budget, so many trained parameters and no more. A high rank on few layers, or a low rank on
# many? Exercise 5 is `design`: it returns the `LoraConfig` that you would train. Here it gets a short training, beside three other ways to spend the same
# budget. Queries and values at rank 8 are what the paper adapts in its main experiments.

# %% [markdown] lang="zh-TW"
# ## 設計一個 adapter
#
# 到目前為止，都是實驗替你選好的：每個 Linear 層、同一個秩。現在有預算：訓練的參數最多這麼多。要少數幾層配高的秩，還是很多層配低的秩？
# 練習 5 是 `design`，它回傳你想訓練的 `LoraConfig`。這裡讓它短短訓練一次，並跟同樣預算的另外三種用法比較。其中 query 和 value、秩 8，
# 就是論文在主要實驗裡的選擇。

# %%
lab.source(design)

# %%
budget = settings.design_budget
shapes = targeted_shapes(base, target_linears(base))
configs = {"your design": design(shapes, budget)}
rivals = {
    "queries and values": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
}
for name, kinds in rivals.items():
    of_rank_one = lora_parameters(targeted_shapes(base, kinds).values(), 1)
    configs[name] = lora_config(base, settings, kinds, rank=budget // of_rank_one)


@dataclass(frozen=True)
class Outcome:
    """What a short training came to."""

    trained: int  # parameters
    right: float  # of the held-out items, 0 to 1
    first: float  # loss, nats per token
    last: float  # mean of the last ten losses


def short_training(config, seed):
    model = adapted_by(config, settings, seed)
    short = recipe | {"steps": settings.design_steps}
    losses = fit(model, task, seed=seed, progress=False, **short).losses
    right = accuracy(model, task).accuracy
    return Outcome(count_parameters(model).trainable, right, losses[0], sum(losses[-10:]) / 10)


outcomes = {}
for name, config in lab.progress(configs.items()):
    outcomes[name] = [short_training(config, seed) for seed in settings.design_seeds]

# %%
spent = outcomes["your design"][0].trained
paper = configs["queries and values"]
twice = lora_parameters(targeted_shapes(base, rivals["queries and values"]).values(), 2 * paper.r)
lab.record("over_budget", max(0, spent - budget))
lab.record("over_budget", max(0, twice - budget), variant="twice_the_rank")
for index, seed in enumerate(settings.design_seeds):
    yours, of_paper, attention = (outcomes[name][index] for name in ("your design", "queries and values", "attention"))
    lab.record("designed_loss_ratio", yours.last / of_paper.last, seed=seed)
    lab.record("designed_loss_ratio", attention.last / of_paper.last, seed=seed, variant="attention")
    lab.record("designed_loss_ratio", yours.first / of_paper.last, seed=seed, variant="untrained")

rows = []
for name, found in outcomes.items():
    layers = ", ".join(sorted(last_names(configs[name].target_modules)))
    scores, losses = ", ".join(f"{each.right:.1%}" for each in found), ", ".join(f"{each.last:.3f}" for each in found)
    rows.append([name, configs[name].r, layers, f"{found[0].trained:,}", scores, losses])
lab.table(
    [
        *(tr("adapter", "adapter"), "r", tr("layers", "哪些層"), tr("parameters", "參數量")),
        *(tr("exact match, by seed", "完全相符，各種子"), tr("last losses", "最後的損失")),
    ],
    rows,
)
means = {name: sum(each.last for each in found) / len(found) for name, found in outcomes.items()}
best = min(means, key=means.get)
lab.say(
    f"""The budget is {budget:,} parameters. Your design trains {spent:,} and ends at {means["your design"]:.3f} nats after \
{settings.design_steps} steps (mean over {len(settings.design_seeds)} seeds); \
queries and values with the same budget end at {means["queries and values"]:.3f}, and the lowest of the four is \
*{best}*.
So it matters where the parameters are, not only how many. (One small model and one easy task: try again on yours. Longer training narrows the gap.)""",
    f"""預算是 {budget:,} 個參數。你的設計訓練 {spent:,} 個，{settings.design_steps} 步之後損失是 {means["your design"]:.3f} \
nats（{len(settings.design_seeds)} 個種子的平均）；同樣的預算放在 query 和 value，則是 {means["queries and values"]:.3f}；四種裡最低的是 *{best}*。
可見要緊的不只是參數有多少，還有放在哪裡。（這只是一個小模型、一個簡單的任務：換成你的，請再試一次。訓練久一點，差距也會縮小。）""",
)

# %%
summary = {name: asdict(history) for name, history in histories.items()}
_ = lab.artifact("histories.json").write_text(json.dumps(summary), encoding="utf-8")
print(*sorted(path.relative_to(adapters).as_posix() for path in adapters.rglob("*.*")), sep="\n")

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Learning rates do not transfer from a toy to a large model: the two profiles of this lab use different ones (`lab.toml`).
# - A loss near zero says that the *training* data is learned. Whether the task is learned, the next notebook asks in a fresh process.
#
# **Exercises.** 4 (`lora_targets.py`: which layers, and who may move) and 5 (`adapter_design.py`: an adapter within a budget) belong here. With
# `nox -s lab-1.1-peft-huggingface -- --mine` your design is trained and judged.
#
# **Next:** is the adapter on disk as good as the one in memory, and what did the model forget?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 學習率不能從小模型照搬到大模型：這個實驗的兩個 profile 用的就是不同的學習率（`lab.toml`）。
# - 損失接近零，只表示*訓練*資料學會了。任務學會了沒有，下一本筆記本會在全新的行程裡問。
#
# **練習。** 練習 4（`lora_targets.py`：哪些層、誰可以動）與練習 5（`adapter_design.py`：預算內的 adapter）屬於這一本。執行
# `nox -s lab-1.1-peft-huggingface -- --mine`，就會訓練你的設計並加以評斷。
#
# **下一步：** 磁碟上的 adapter 和記憶體裡的一樣好嗎？模型又忘了什麼？
