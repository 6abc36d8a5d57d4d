# %% [markdown] lang="en"
# # 5. Merge, save, ship
#
# **Question.** Adapter or merged model: what do you hand over, how big is it, and how do you know that it is still the same model?
#
# | | |
# |---|---|
# | You build | the merge by hand and by the library, a merged model that a really fresh process loads, two adapters that take turns on one base, a 4-bit base under the adapter, a model card with this run's numbers |
# | You need | a quarter of a minute on two CPU cores, 1.5 GB of memory |
# | You should see | what merging, saving and loading do to the logits; what a wrong scale does; how big each form is on disk |

# %% [markdown] lang="zh-TW"
# # 5. 合併、儲存、出貨
#
# **問題。** adapter 還是合併後的模型：你要交出哪一個？它有多大？怎麼知道它還是同一個模型？
#
# | | |
# |---|---|
# | 你會做出 | 手算與函式庫的合併、由真正全新的行程載入的合併模型、兩個 adapter 輪流用同一個基礎模型、4 位元的基礎模型配上 adapter、寫著這次執行數字的模型卡 |
# | 你需要 | 兩個 CPU 核心跑十幾秒，1.5 GB 記憶體 |
# | 你應該看到 | 合併、儲存、載入之後 logits 變了多少；縮放錯了會怎麼樣；各種形式在磁碟上有多大 |

# %%
import copy
import functools
import json
import shutil

import torch

from exact_match import exact_matches
from fresh_process import logits_of_a_fresh_process
from left_padding import left_padded
from lora_setup import load_adapted
from merging import merge_by_hand, merged_weight, put_weights
from onepiece import lab
from onepiece.adaptation import (
    WEIGHTS,
    base_identity,
    data_bytes,
    directory_bytes,
    distance,
    largest_difference,
    load_base,
    load_task,
    logits_of,
)
from onepiece.course.errors import UserError
from onepiece.course.text import Text, tr
from onepiece.measure import timed
from onepiece.models import count_parameters, memory_estimate
from onepiece.record_files import json_lines
from onepiece.tiny import skills
from onepiece.tiny.tokenizer import prompt_text
from peft_figures import size_on_disk
from release_card import Release, card

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits
adapters = lab.artifact("adapters")
best = adapters / f"seed-{settings.seeds[0]}"
model, (base, tokenizer) = load_adapted(settings, best), load_base(settings)
size = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
task = load_task(settings.task, tokenizer, **size, chat=settings.chat)
texts = [prompt_text(item, tokenizer, chat=settings.chat) for item in task.held_out[: settings.inputs]]
sequences = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
inputs = left_padded(sequences, tokenizer.pad_token_id)
wanted = logits_of(model, inputs)  # (tokens, vocabulary), of the prompts: what a kernel puts at padding means nothing

# %% [markdown] lang="en"
# ## Merging is one line
#
# The adapter adds $\frac{\alpha}{r} BAx$ to $Wx$. Both are matrices times $x$, so one matrix does it:

# %% [markdown] lang="zh-TW"
# ## 合併只要一行
#
# adapter 把 $\frac{\alpha}{r} BAx$ 加到 $Wx$ 上。兩者都是矩陣乘 $x$，所以一個矩陣就夠了：

# %%
lab.source(merged_weight)

# %% [markdown] lang="en"
# ## Predict
#
# In exact arithmetic nothing changes. In float32, what is the largest change of a logit, as a share of the largest logit? And how big is the
# adapter's directory, as a share of the merged model's? Into `predictions.toml`:
#
# ```toml
# merged_difference = 1e-3
# shipped_share = 0.05
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 在精確的算術裡，什麼都不會變。用 float32 算，logit 最大的變化（除以最大的 logit）是多少？另外，adapter 的目錄是合併後模型的幾分之幾？
# 寫進 `predictions.toml`：
#
# ```toml
# merged_difference = 1e-3
# shipped_share = 0.05
# ```

# %%
def base_with(weights):
    """A fresh base with some of its matrices replaced."""
    fresh, _ = load_base(settings)
    put_weights(fresh, weights)
    return fresh


def graded(one):
    """(largest change of a logit, share of the held-out items answered right)."""
    answered = skills.answers(one, tokenizer, task.held_out, chat=settings.chat)
    return distance(logits_of(one, inputs), wanted), exact_matches(answered, given) / len(given)


given = [item.answer for item in task.held_out]
merged = load_adapted(settings, best).merge_and_unload()
scales = {"by hand, alpha / r": None, "by hand, scale alpha": settings.alpha, "by hand, scale 1": 1.0}
results = {name: graded(base_with(merge_by_hand(model, scale))) for name, scale in scales.items()}
results |= {"base, no adapter": graded(base), "merge_and_unload": graded(merged)}
differences = {name: difference for name, (difference, _) in results.items()}
right = {name: share for name, (_, share) in results.items()}
lab.record("hand_merge_difference", differences["by hand, alpha / r"])
lab.record("hand_merge_difference", differences["by hand, scale alpha"], variant="alpha_only")
lab.record("merged_difference", differences["merge_and_unload"])
lab.record("merged_difference", differences["by hand, scale 1"], variant="wrong_scale")
lab.table(
    [tr("merged", "合併方式"), tr("largest change of a logit (relative)", "logit 最大的變化（相對）"), tr("exact match", "完全相符")],
    [[name, f"{difference:.1e}", f"{share:.1%}"] for name, (difference, share) in results.items()],
)
guess = lab.predict("merged_difference")
lab.say(
    f"""The library's merge changes a logit by at most **{differences["merge_and_unload"]:.1e}** of the largest \
one{"" if guess is None else f" (you guessed {guess:.0e})"}, ours by {differences["by hand, alpha / r"]:.1e}: \
rounding. A scale of 1 instead of {settings.alpha / settings.rank:g} changes {differences["by hand, scale 1"]:.2f}, \
and that
model answers {right["by hand, scale 1"]:.0%} right. A wrong merge can hide behind a good score: compare logits.""",
    f"""函式庫的合併，logit 的變動最多是最大 logit 的 **{differences["merge_and_unload"]:.1e}** \
倍{"" if guess is None else f"（你猜 {guess:.0e}）"}，我們的是 {differences["by hand, alpha / r"]:.1e} 倍：只是捨入。\
縮放用 1 而不是 {settings.alpha / settings.rank:g}，變動就有 {differences["by hand, scale 1"]:.2f} 倍，
而那個模型答對 {right["by hand, scale 1"]:.0%}。合併錯了，分數不一定看得出來：要比 logits。""",
)

# %% [markdown] lang="en"
# ## Saved, and loaded by somebody else
#
# `peft` is not needed any more: the merged model is an ordinary one. A new Python process, which has imported nothing of ours but the loader,
# reads the directory and computes the same batch. The control was saved in bfloat16, half the size: would anybody notice?

# %% [markdown] lang="zh-TW"
# ## 存起來，讓別人載入
#
# 從此不再需要 `peft`：合併後就是一個普通的模型。一個新的 Python 行程，除了載入程式之外什麼都沒匯入，讀取這個目錄、計算同一個批次。
# 對照組存成 bfloat16，大小只有一半：會有人發現嗎？

# %%
shipped = lab.artifact("merged")
merged.save_pretrained(shipped)
tokenizer.save_pretrained(shipped)
fresh = logits_of_a_fresh_process(shipped, inputs, settings.device)[inputs["attention_mask"].bool()]
merged_logits = logits_of(merged, inputs)
lab.record("reloaded_difference", distance(fresh, merged_logits))
rounded = copy.deepcopy(merged).to(torch.bfloat16).to(settings.dtype)
of_rounded, right_of_rounded = graded(rounded)
lab.record("reloaded_difference", distance(logits_of(rounded, inputs), merged_logits), variant="through_bfloat16")
lab.say(
    f"""The fresh process differs from the merged model in this one by {distance(fresh, merged_logits):g} of the largest \
logit, and from the adapter by {distance(fresh, wanted):.1e}.
Through bfloat16 it would be {of_rounded:.1e}, with {right_of_rounded:.0%} of the answers right: \
the logits notice, the score {"does not" if right_of_rounded == right["merge_and_unload"] else "does too"}.""",
    f"""全新的行程與這裡的合併模型，差異是最大 logit 的 {distance(fresh, merged_logits):g} 倍；與 adapter 的差異是 {distance(fresh, wanted):.1e} 倍。
經過 bfloat16 則是 {of_rounded:.1e} 倍，答對 {right_of_rounded:.0%}：logits 看得出來，分數{"看不出來" if right_of_rounded == right["merge_and_unload"] else "也看得出來"}。""",
)

# %% [markdown] lang="en"
# ## What it weighs
#
# An adapter's file is a short header and the numbers of A and B. The merged model is as big as the base, once per task.

# %% [markdown] lang="zh-TW"
# ## 占多少空間
#
# adapter 的檔案是一段短短的標頭，加上 A 和 B 的數字。合併後的模型和基礎模型一樣大，而且每個任務各要一份。

# %%
trained = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
files = {"adapter": best / WEIGHTS, "merged": shipped / "model.safetensors"}
numbers = {name: data_bytes(path) for name, path in files.items()}
lab.record("adapter_bytes_difference", abs(numbers["adapter"] - 4 * trained))
lab.record("adapter_bytes_difference", abs(numbers["merged"] - 4 * trained), variant="merged")
whole = {"adapter": directory_bytes(best), "merged": directory_bytes(shipped)}
lab.record("shipped_share", whole["adapter"] / whole["merged"])
shown = {"base": base, "adapter": model, "merged": merged}
speed = timed({name: functools.partial(logits_of, one, inputs) for name, one in shown.items()}, repeats=7)
rows = []
for name, needs in {
    "adapter": tr("the base at its revision, peft", "指定版本的基礎模型、peft"),
    "merged": tr("transformers alone", "只要 transformers"),
}.items():
    rows.append([name, f"{numbers[name]:,}", f"{whole[name]:,}", str(speed[name]), needs])
lab.table(
    [
        *(tr("shipped as", "出貨形式"), tr("numbers, bytes", "數字的位元組"), tr("directory, bytes", "目錄的位元組")),
        *(tr("forward pass", "一次前向傳播"), tr("needs", "需要")),
    ],
    rows,
)

# %%
tasks = [1, 2, 4, 8, 16, 32, 64]
base_bytes = directory_bytes(shipped)
sizes = {
    tr("merged: one model per task", "合併：每個任務一個模型"): [count * whole["merged"] for count in tasks],
    tr("one base and an adapter per task", "一個基礎模型，每個任務一個 adapter"): [base_bytes + count * whole["adapter"] for count in tasks],
}
figure = size_on_disk(tasks, sizes)
lab.figure(
    "size-on-disk",
    figure,
    Text(
        en="What a number of tasks takes on disk, from the sizes of this run's directories.",
        zh_tw="若干個任務在磁碟上的大小，由這次執行的目錄大小算出。",
    ),
)
guess = lab.predict("shipped_share")
many = tasks[-1]
lab.say(
    f"""- The adapter's numbers are {trained:,} × 4 = {4 * trained:,} bytes, exactly what the file holds. \
Its directory is **{whole["adapter"] / whole["merged"]:.1%}** of the merged \
one{"" if guess is None else f" (you guessed {guess:.1%})"}. {many} tasks take {many * whole["merged"] / 1e6:.1f} MB \
merged, {(base_bytes + many * whole["adapter"]) / 1e6:.1f} MB as adapters.
- A forward pass with the adapter takes {speed["adapter"].median / speed["merged"].median:.2f} times as long as \
merged (base: {speed["base"].median / speed["merged"].median:.2f}): two more products per layer. Reported, not gated.
- Ship the adapter if many tasks share a base, if it may be switched off, or if it will be trained on. \
Ship merged if one task must be fast or the other side has no `peft`.""",
    f"""- adapter 的數字是 {trained:,} × 4 = {4 * trained:,} 位元組，正好是檔案裡的大小。它的目錄是合併後的 \
**{whole["adapter"] / whole["merged"]:.1%}**{"" if guess is None else f"（你猜 {guess:.1%}）"}。\
{many} 個任務，合併要 {many * whole["merged"] / 1e6:.1f} MB，用 adapter 要 {(base_bytes + many * whole["adapter"]) / 1e6:.1f} \
MB。
- 帶著 adapter 的一次前向傳播，時間是合併後的 {speed["adapter"].median / speed["merged"].median:.2f} 倍（基礎模型：\
{speed["base"].median / speed["merged"].median:.2f}）：每層多兩次矩陣乘法。只回報，不當作關卡。
- 多個任務共用一個基礎模型、需要能關掉、或之後還要繼續訓練，就出貨 adapter。只有一個任務而且要快、或對方沒有 `peft`，就出貨合併後的模型。""",
)

# %% [markdown] lang="en"
# ## Two adapters, one base
#
# `load_adapter` puts a second one beside the first, `set_adapter` chooses. After a turn there and back the logits must be the same to the bit; the control
# forgets to come back.

# %% [markdown] lang="zh-TW"
# ## 兩個 adapter，一個基礎模型
#
# `load_adapter` 在第一個旁邊再放一個，`set_adapter` 選擇要用哪一個。換過去再換回來，logits 必須一個位元都不差；對照組忘了換回來。

# %%
model.load_adapter(adapters / "instructions", adapter_name="instructions")
model.set_adapter("instructions")
away = logits_of(model, inputs)
_, first = next(json_lines(lab.artifact("instructions-held-out.jsonl").read_bytes()))
asked = first["messages"]
questions = {
    settings.task: task.held_out[0].messages if settings.chat else texts[0],
    "instructions": asked[:-1],
}
told = {}
in_template = functools.partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
for name in ("default", "instructions"):
    model.set_adapter(name)
    for about, question in questions.items():
        text = question if isinstance(question, str) else in_template(question)
        told[name, about] = skills.generate_batch(model, tokenizer, [text], max_new_tokens=24)[0]
model.set_adapter("default")
lab.record("swap_difference", largest_difference(logits_of(model, inputs), wanted))
lab.record("swap_difference", largest_difference(away, wanted), variant="not_swapped_back")
model.delete_adapter("instructions")
shown_and_wanted = {
    settings.task: (task.held_out[0].prompt, task.held_out[0].answer),
    "instructions": tuple(asked[index]["content"].replace("\n", " ")[:200] for index in (-2, -1)),
}
rows = []
for about, (question, answer) in shown_and_wanted.items():
    rows.append([question, f"`{told['default', about]}`", f"`{told['instructions', about]}`", answer])
lab.table(
    [
        *(tr("question", "問題"), tr(f"adapter for {settings.task}", f"{settings.task} 的 adapter")),
        *(tr("adapter for instructions", "指令資料的 adapter"), tr("wanted", "正確答案")),
    ],
    rows,
)

# %% [markdown] lang="en"
# ## A 4-bit base under the adapter
#
# QLoRA trains on a quantised base. Here only inference: the adapter was trained beside float32 weights, and its base is now in nf4. Does it still work?

# %% [markdown] lang="zh-TW"
# ## adapter 底下換成 4 位元的基礎模型
#
# QLoRA 是在量化的基礎模型上訓練。這裡只做推論：adapter 是在 float32 的權重旁邊訓練的，現在把基礎模型換成 nf4，還能用嗎？

# %%
try:
    small = load_adapted(settings, best, quantized="nf4")
    nf4 = exact_matches(skills.answers(small, tokenizer, task.held_out, chat=settings.chat), given) / len(given)
except (UserError, RuntimeError) as error:  # bitsandbytes is not there, or has no kernel for this device
    nf4 = None
    reason = error.cause if isinstance(error, UserError) else Text(str(error), str(error))
    lab.say(f"Not here: {reason.en}", f"這裡做不到：{reason.zh_tw}")
else:
    small_bytes, full_bytes = (memory_estimate(one, batch_size=1, seq_len=1).weights for one in (small, model))
    lab.record("exact_match_on_another_base", nf4, variant="nf4")
    off = distance(logits_of(small, inputs), wanted)
    lab.say(
        f"""Exact match {nf4:.1%} (float32: {right["merge_and_unload"]:.1%}), logits off by {off:.2f} of the largest, weights \
with adapter {small_bytes / 1e6:.2f} MB (float32: {full_bytes / 1e6:.2f} MB).""",
        f"""完全相符 {nf4:.1%}（float32：{right["merge_and_unload"]:.1%}），logits 的差異是最大值的 {off:.2f}，權重連同 adapter 共 \
{small_bytes / 1e6:.2f} MB（float32：{full_bytes / 1e6:.2f} MB）。""",
    )

# %% [markdown] lang="en"
# ## The card
#
# `peft` has put an empty form into each directory. What goes out with the adapter says which base, how well, how sure, and what was lost, and
# takes every number from this run:

# %% [markdown] lang="zh-TW"
# ## 模型卡
#
# `peft` 在每個目錄裡放了一張空白表格。隨 adapter 出貨的模型卡要說明：哪個基礎模型、表現多好、有多確定、失去了什麼。每個數字都取自這次執行：

# %%
scores = json.loads(lab.artifact("scores.json").read_text(encoding="utf-8"))
versions = json.loads(lab.artifact("environment.json").read_text(encoding="utf-8"))["versions"]
release = lab.artifact("release")
shutil.copytree(best, release, dirs_exist_ok=True)
base_name, revision = base_identity(settings)
text = card(
    Release(
        base=base_name,
        revision=revision,
        task=settings.task,
        settings={
            "rank": settings.rank,
            "alpha": settings.alpha,
            "trained parameters": f"{trained:,}",
            "share of the base": f"{trained / count_parameters(base).total:.2%}",
            "steps": settings.steps,
            "batch": settings.batch,
            "learning rate": settings.learning_rate,
            "seed": settings.seeds[0],
        },
        scores={
            f"exact match on {scores['count']} held-out items": f"{scores['exact_match'][best.name]:.1%}",
            f"mean of {len(settings.seeds)} seeds [95% interval]": scores["mean"],
            "gain over the base [95% interval]": scores["gain"],
            "the base": f"{scores['exact_match']['base']:.1%}",
            "with a base in nf4": "not measured here" if nf4 is None else f"{nf4:.1%}",
        },
        forgotten={family: f"{before:.0%} -> {after:.0%}" for family, (before, after) in scores["forgetting"].items()},
        versions=versions,
        files={path.name: path.stat().st_size for path in sorted(release.iterdir()) if path.name != "README.md"},
    )
)
_ = (release / "README.md").write_text(text, encoding="utf-8")
print(text)

# %% [markdown] lang="en"
# ## What the numbers said, and their limits
#
# - **Five processes, one pipeline.** Each notebook read what the one before had written; nothing was handed over in memory.
# - **Equal means equal.** Merged, saved, reloaded and swapped models were compared by logits, not by their scores.
# - **Sizes are the toy's.** On a small model the adapter is a large share. For Llama-2-7B with q and v at rank 8 the numbers are those of notebook 1.
# - **Merging into a quantised base is another matter**: the sum must be rounded again. `lab-1.1.1-lora` goes into that.
#
# **Exercise.** 8 (`merging.py`) belongs here. With `nox -s lab-1.1-peft-huggingface -- --mine` the whole road runs on *your* functions.
#
# <details><summary>Something to try</summary>
#
# Ship the `early` adapter instead and let the gates tell you. Then set `rank` to 2 in `lab.toml` of your copy: which gates still hold?
# </details>

# %% [markdown] lang="zh-TW"
# ## 數字說了什麼，以及它們的限制
#
# - **五個行程，一條流程。** 每本筆記本讀的都是前一本寫下的檔案，沒有任何東西經由記憶體傳遞。
# - **說相等，就要逐一比對。** 合併、儲存、重新載入、切換後的模型，比的都是 logits，不是分數。
# - **這裡的比例只適用於小模型。** 模型小，adapter 的比例就大。Llama-2-7B 以 rank 8 調整 q 和 v 的數字，請看第 1 本。
# - **合併進量化的基礎模型是另一回事**：相加之後得再捨入一次。`lab-1.1.1-lora` 會深入探討。
#
# **練習。** 練習 8（`merging.py`）屬於這一本。執行 `nox -s lab-1.1-peft-huggingface -- --mine`，整個流程就會用*你的*函式來跑。
#
# <details><summary>可以試試看</summary>
#
# 改成出貨 `early` 這個 adapter，讓關卡告訴你結果。再把你那份 `lab.toml` 裡的 `rank` 改成 2：哪些關卡還過得了？
# </details>
