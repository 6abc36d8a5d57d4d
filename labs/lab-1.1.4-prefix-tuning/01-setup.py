# %% [markdown] lang="en"
# # 1. Two numbers for each output
#
# **Question.** A model has to learn a new task, and you may train two numbers for each output of its layers. Where do you put them, so that the model starts as the one you had?
#
# | | |
# |---|---|
# | You build | a layer around a frozen layer, in every place of a model |
# | You write | exercise 1 (`scale_shift.py`) |
# | You need | a few seconds on two CPU cores, 1 GB of memory |
# | You should see | a count that a formula says before, and the logits of a model into which something was put |

# %% [markdown] lang="zh-TW"
# # 1. 每個輸出兩個數
#
# **問題。** 模型要學一個新任務，而你只能為每層的每個輸出訓練兩個數。要放在哪裡，模型一開始才會跟原來一樣？
#
# | | |
# |---|---|
# | 你會做出 | 包住凍結層的一個層，放進模型的每個位置 |
# | 你要寫的 | 練習 1（`scale_shift.py`） |
# | 你需要 | 兩個 CPU 核心跑幾秒鐘，1 GB 記憶體 |
# | 你應該看到 | 用公式事先算得出來的數量，以及放進東西之後，模型的 logits |

# %%
import json

import torch
from transformers import LlamaConfig

from broken_variants import start_somewhere_else
from onepiece import lab
from onepiece.adaptation import ALL_LINEAR, accuracy, batches, largest_difference, load_base, load_task, logits_of, targeted_shapes
from onepiece.course.text import tr
from onepiece.models import count_parameters, meta_model
from scale_shift import ScaleShiftLinear, add_scale_shift, scale_shift_count

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
task = load_task("relabel", tokenizer, train_items=settings.train_items, held_out_items=settings.held_out_items, chat=settings.chat)

# %% [markdown] lang="en"
# ## A task that the base cannot do
#
# `relabel` is a known skill with other labels: judge a review, and answer with a colour. The base judges well and has never heard of the colours.

# %% [markdown] lang="zh-TW"
# ## 基礎模型不會的任務
#
# `relabel` 是學過的技能換一組標籤：判斷一則評論，但用顏色回答。基礎模型很會判斷，卻從沒聽過這些顏色。

# %%
before = accuracy(base, task)
lab.table([tr("prompt", "提示"), tr("wanted", "正確答案")], [(item.prompt, item.answer) for item in task.held_out[:2] + task.held_out[-2:]])
lab.say(f"The base answers {before} of the held-out items right.", f"基礎模型在保留題目上答對 {before}。")

# %% [markdown] lang="en"
# ## The layer

# %% [markdown] lang="zh-TW"
# ## 這一層

# %%
lab.source(ScaleShiftLinear)

# %% [markdown] lang="en"
# ## Predict
#
# The layer goes around all linear layers of every block. What share of the model's parameters is then trained? Write it as `trained_share = ...` into `predictions.toml`. And of a model with seven billion parameters: a larger or a smaller share?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 每個區塊的所有線性層都包上這一層。這樣要訓練的，占模型參數的多少？寫成 `trained_share = ...`，放進 `predictions.toml`。換成七十億參數的模型，比例會更大還是更小？

# %%
formula = scale_shift_count(targeted_shapes(base, ALL_LINEAR))
model, _ = load_base(settings)
add_scale_shift(model, ALL_LINEAR)
counted = count_parameters(model).trainable
lab.record("parameter_count_difference", formula - counted)
lab.record("parameter_count_difference", formula // 2 - counted, variant="shift_forgotten")
trained_share = counted / count_parameters(base).total
lab.record("trained_share", trained_share)

seven_billion = meta_model(LlamaConfig())  # its default values are those of Llama 7B
of_seven_billion = scale_shift_count(targeted_shapes(seven_billion, ALL_LINEAR))
total = count_parameters(seven_billion).total
guess = lab.predict("trained_share")
lab.say(
    f"{counted:,} of the base's {count_parameters(base).total:,} parameters: {trained_share:.1%}{'' if guess is None else f' (you guessed {guess:.1%})'}. Of Llama 7B, counted and not trained: {of_seven_billion:,} of {total:,}, or {of_seven_billion / total:.3%}.",
    f"基礎模型 {count_parameters(base).total:,} 個參數，訓練 {counted:,} 個：{trained_share:.1%}{'' if guess is None else f'（你猜 {guess:.1%}）'}。Llama 7B 只數不訓練：{total:,} 個中的 {of_seven_billion:,} 個，也就是 {of_seven_billion / total:.3%}。",
)

# %% [markdown] lang="en"
# ## Where training begins
#
# A scale of 1 and a shift of 0 are exact in floating point, so the logits must be those of the base to the bit. The control starts *near* 1 and 0, as one starts ordinary weights.

# %% [markdown] lang="zh-TW"
# ## 訓練從哪裡開始
#
# scale 為 1、shift 為 0，在浮點數裡是精確的，所以 logits 必須跟基礎模型一個位元都不差。對照組從 1 和 0 的*附近*開始，就像一般權重的初始值。

# %%
batch = batches(task, batch_size=settings.batch, seed=0)(0)
wanted = logits_of(base, batch)
identity_difference = largest_difference(logits_of(model, batch), wanted)
lab.record("identity_difference", identity_difference)
start_somewhere_else(model, seed=0)
elsewhere_difference = largest_difference(logits_of(model, batch), wanted)
lab.record("identity_difference", elsewhere_difference, variant="start_somewhere_else")
lab.say(
    f"Largest difference of a logit: {identity_difference:g}. From somewhere near: {elsewhere_difference:.2g}.",
    f"logit 的最大差異：{identity_difference:g}。從附近開始：{elsewhere_difference:.2g}。",
)
lab.artifact("base.json").write_text(json.dumps({"accuracy": before.accuracy, "trained": counted}), encoding="utf-8")

# %% [markdown] lang="en"
# **Exercise.** 1 (`scale_shift.py`) belongs here: `nox -s check -- lab-1.1.4-prefix-tuning`.
#
# **Next:** training, and a merge.

# %% [markdown] lang="zh-TW"
# **練習。** 練習 1（`scale_shift.py`）屬於這一本：`nox -s check -- lab-1.1.4-prefix-tuning`。
#
# **下一步：** 訓練，然後合併。
