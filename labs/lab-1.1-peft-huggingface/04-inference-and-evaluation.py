# %% [markdown] lang="en"
# # 4. Inference and evaluation
#
# **Question.** The loss is near zero. Is the task learned, how sure is that, and what was the price?
#
# | | |
# |---|---|
# | You build | batched generation of prompts of different lengths, beside one prompt at a time; accuracy with intervals, over seeds and against the base; a table of errors; a picture of what was forgotten |
# | You need | a quarter of a minute on two CPU cores, 1 GB of memory |
# | You should see | whether padding changes answers, and on which side; how well each seed has learned the task; what happened to the other skills; whether the base comes back when the adapter is switched off |
#
# This is a new process. It has the base model and the directories that notebook 3 wrote, and nothing else. One base is loaded, with all
# adapters beside it.

# %% [markdown] lang="zh-TW"
# # 4. 推論與評估
#
# **問題。** 損失接近零了。任務學會了嗎？有多確定？又因此失去了什麼？
#
# | | |
# |---|---|
# | 你會做出 | 長短不一的提示的批次生成，並與逐一回答比較；附信賴區間的準確率，跨種子、也和基礎模型相比；一張錯誤表；一張遺忘了什麼的圖 |
# | 你需要 | 兩個 CPU 核心跑十幾秒，1 GB 記憶體 |
# | 你應該看到 | 補齊會不會改變答案，補在哪一邊才會；每個種子把任務學得多好；其他能力變得怎麼樣；關掉 adapter，能不能還原成基礎模型 |
#
# 這是一個新的行程。它只有基礎模型，以及第 3 本寫下的目錄。基礎模型只載入一份，所有的 adapter 都放在它旁邊。

# %%
import json

import numpy as np
import torch

from exact_match import KINDS, best_constant, constant_answers, count_kinds, exact_matches, wilson
from left_padding import left_padded, right_padded
from lora_setup import load_adapted
from onepiece import lab
from onepiece.adaptation import forgetting, largest_difference, load_base, load_task, logits_of
from onepiece.course.text import Text, tr
from onepiece.evaluation import exact_matches as matches
from onepiece.evaluation import over_seeds, paired_bootstrap, wilson_interval
from onepiece.tiny import skills
from onepiece.tiny.tokenizer import prompt_text
from onepiece.world.words import FIRST_NEGATION
from peft_figures import kinds_of_answers, skills_before_and_after

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits
base, tokenizer = load_base(settings)
size = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
task = load_task(settings.task, tokenizer, **size, chat=settings.chat)
items, wanted = task.held_out, [item.answer for item in task.held_out]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in items]
kept = json.loads(lab.artifact("base-answers.json").read_text(encoding="utf-8"))
assert kept["prompts"] == prompts, "these are not the items that notebook 2 asked the base"

adapters = lab.artifact("adapters")
names = [f"seed-{seed}" for seed in settings.seeds]
model = load_adapted(settings, adapters / names[0], name=names[0])
for name in (*names[1:], "frozen-b", "early"):
    model.load_adapter(adapters / name, adapter_name=name)


def adapted(name):
    """The one base with one of its adapters at work; that changing between them is exact is a gate of notebook 5."""
    model.set_adapter(name)
    return model.eval()

# %% [markdown] lang="en"
# ## One batch, prompts of different lengths
#
# Generation continues each row at its end, so every prompt must end in the last column. What stands before it is hidden by the mask, and positions
# count from the first real token:

# %% [markdown] lang="zh-TW"
# ## 一個批次，長短不一的提示
#
# 生成是從每一列的結尾接下去，所以每個提示都得在最後一欄結束。前面補上的部分由遮罩遮住，位置從第一個真正的 token 開始數：

# %%
def token_ids(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


shortest, *_, longest = sorted(prompts, key=len)
example = left_padded([token_ids(shortest), token_ids(longest)], tokenizer.pad_token_id)
for name, tensor in example.items():
    print(name)
    print(tensor)

# %% [markdown] lang="en"
# ## Predict
#
# We answer the same prompts one at a time, in one batch padded on the left, and in one padded on the right (the mask is right in both). How many answers of
# the batch padded on the *left* differ from those given one at a time? And: what share of the held-out items does the trained adapter get right, and how
# much of its taught skills does the model lose on average? Into `predictions.toml`:
#
# ```toml
# padding_mismatches = 0
# exact_match = 0.8
# forgotten = 0.1
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 同樣的提示，我們逐一回答、補在左邊做成一個批次回答、再補在右邊做成一個批次回答（兩者的遮罩都正確）。補在*左邊*的那個批次，有幾個答案會和逐一回答的不同？
# 另外，訓練好的 adapter 能答對幾成的保留題目？模型原本學過的能力，平均會掉幾成？寫進 `predictions.toml`：
#
# ```toml
# padding_mismatches = 0
# exact_match = 0.8
# forgotten = 0.1
# ```

# %%
# explicit, because models bring settings of their own
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 8}


@torch.inference_mode()
def continued(model, inputs):
    """What the model writes after each row of a batch."""
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    rows = model.generate(**inputs, **GREEDY, pad_token_id=tokenizer.pad_token_id)
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows[:, inputs["input_ids"].shape[1] :]]


adapted(names[0])
sequences = [token_ids(text) for text in prompts[: settings.padding_items]]
alone = [continued(model, left_padded([sequence], tokenizer.pad_token_id))[0] for sequence in lab.progress(sequences)]
on_the_left = continued(model, left_padded(sequences, tokenizer.pad_token_id))
on_the_right = continued(model, right_padded(sequences, tokenizer.pad_token_id))

differ = [index for index, (one, other) in enumerate(zip(alone, on_the_right, strict=True)) if one != other]
left_differ = sum(one != other for one, other in zip(alone, on_the_left, strict=True))
lab.record("padding_mismatches", left_differ)
lab.record("padding_mismatches", len(differ), variant="right_padded")
lab.table(
    [tr("prompt", "提示"), tr("alone", "逐一"), tr("padded left", "補左邊"), tr("padded right", "補右邊")],
    [
        [items[index].prompt, *(f"`{given[index]}`" for given in (alone, on_the_left, on_the_right))]
        for index in differ[:5]
    ],
)
lengths = sorted(map(len, sequences))
guess = lab.predict("padding_mismatches")
lab.say(
    f"""{len(sequences)} prompts of {lengths[0]} to {lengths[-1]} tokens. \
Padded on the left, {left_differ} answers differ from those given one at a \
time{"" if guess is None else f" (you guessed {guess:g})"}; padded on the right, {len(differ)}: \
there the model goes on
after padding, and only the longest prompts are safe. Transformers logs a warning when it finds padding at the end of \
a prompt; nothing fails, the answers are just worse.""",
    f"""{len(sequences)} 個提示，長度從 {lengths[0]} 到 {lengths[-1]} 個 token。補在左邊，有 {left_differ} \
個答案和逐一回答不同{"" if guess is None else f"（你猜 {guess:g}）"}；補在右邊則有 {len(differ)} 個：模型會從補齊的部分後面接下去，
只有最長的提示沒事。Transformers 發現提示結尾有補齊時會記一行警告；程式不會失敗，答案就是變差了。""",
)

# %% [markdown] lang="en"
# ## Is the task learned?
#
# Exact match on held-out items, for each seed. An accuracy from 200 items is an estimate, so it gets an interval (Wilson's, which does not claim
# certainty at 100%); three seeds get one of their own, because a second training is another source of chance.

# %% [markdown] lang="zh-TW"
# ## 任務學會了嗎？
#
# 每個種子在保留題目上的完全相符率。從 200 題得出的準確率只是估計，所以附上區間（Wilson 區間，就算全對也不會宣稱百分之百確定）；
# 三個種子另有一個區間，因為重新訓練一次是另一個機率來源。

# %%
answers = {"base": kept["answers"]}
for name in lab.progress((*names, "frozen-b", "early")):
    answers[name] = skills.answers(adapted(name), tokenizer, items, chat=settings.chat)
right = {name: exact_matches(given, wanted) for name, given in answers.items()}
rows = []
for name, number in right.items():
    low, high = wilson(number, len(wanted))
    interval = f"[{max(0, low):.1%}, {min(1, high):.1%}]"
    rows.append([name, f"{number} / {len(wanted)}", f"{number / len(wanted):.1%}", interval])
lab.table(
    [
        *(tr("model", "模型"), tr("right", "答對"), tr("exact match", "完全相符")),
        tr("95% interval", "95% 信賴區間"),
    ],
    rows,
)
for seed in settings.seeds:
    lab.record("exact_match", right[f"seed-{seed}"] / len(wanted), seed=seed)
first = settings.seeds[0]
lab.record("exact_match", right["frozen-b"] / len(wanted), seed=first, variant="frozen_b")
lab.record("exact_match", right["early"] / len(wanted), seed=first, variant="early")
lab.record("exact_match", best_constant(items), seed=first, variant="constant")

# %% [markdown] lang="en"
# Better than the base, item by item: the paired bootstrap draws the items again and again and looks at the difference each time.

# %% [markdown] lang="zh-TW"
# 和基礎模型逐題相比：成對的 bootstrap 反覆重抽題目，每次都看兩者的差。

# %%
def gain(given):
    """Over the base, on the same items."""
    return paired_bootstrap(matches(given, wanted), matches(answers["base"], wanted), seed=0)


gains = {name: gain(given) for name, given in answers.items() if name != "base"}
for seed in settings.seeds:
    lab.record("gain_low", gains[f"seed-{seed}"].difference.low, seed=seed)
lab.record("gain_low", gains["early"].difference.low, seed=first, variant="early")
lab.record("gain_low", gain(constant_answers(items)).difference.low, seed=first, variant="constant")
lab.table(
    [tr("model", "模型"), tr("gain over the base", "比基礎模型多"), "p", tr("decided?", "分出高下了嗎？")],
    [
        [name, str(each.difference), f"{each.p_value:.2g}", tr("yes", "是") if each.decided else tr("no", "否")]
        for name, each in gains.items()
    ],
)
mean = over_seeds([right[name] / len(wanted) for name in names])
guess = lab.predict("exact_match")
lab.say(
    f"""- Over {len(names)} seeds: **{mean.value:.1%}** [{mean.low:.1%}, \
{min(1, mean.high):.1%}]{"" if guess is None else f"; you guessed {guess:.0%}"}. \
(The interval of the seeds may reach beyond 100%; it is cut there.)
- With B frozen at zero the gain is {gains["frozen-b"].difference.value:.3f}: \
{"a null result, as it must be" if not gains["frozen-b"].decided else "not zero"}. \
After {settings.early_steps} of {settings.steps} steps: {right["early"] / len(wanted):.1%}. \
Whoever always gives the same answer: {best_constant(items):.1%}.""",
    f"""- {len(names)} 個種子平均：**{mean.value:.1%}** [{mean.low:.1%}, \
{min(1, mean.high):.1%}]{"" if guess is None else f"；你猜 {guess:.0%}"}。（種子的區間可能超過 100%，超過的部分截掉。）
- B 凍結在零，進步是 {gains["frozen-b"].difference.value:.3f}：{"沒有差別，本來就該如此" if not gains["frozen-b"].decided else "不是零"}。\
訓練到第 {settings.early_steps} 步（共 {settings.steps} 步）時：{right["early"] / len(wanted):.1%}。\
永遠答同一個答案：{best_constant(items):.1%}。""",
)

# %% [markdown] lang="en"
# ## What kind of wrong?
#
# One number hides how a model fails. Four kinds: right; the other choice (it knows the words, and decides wrongly); a choice in the other
# language; something else (it does not know the words).

# %% [markdown] lang="zh-TW"
# ## 錯在哪裡？
#
# 只看一個數字，看不出模型是怎麼錯的。分成四種：答對；選錯（知道要用哪些字，但判斷錯了）；用了另一種語言的選項；其他（根本不知道要用哪些字）。

# %%
kinds = {name: count_kinds(given, items) for name, given in answers.items()}
lab.figure(
    "kinds-of-answers",
    kinds_of_answers(kinds),
    Text(
        en="What kind of answer each model gives to the held-out items.",
        zh_tw="每個模型對保留題目的回答屬於哪一種。",
    ),
)

# %%
early = list(zip(items, answers["early"], strict=True))
wrong = [(item, answer) for item, answer in early if answer != item.answer]
lab.table(
    [tr("prompt", "提示"), tr("wanted", "正確答案"), tr("answered", "回答")],
    [[item.prompt, item.answer, f"`{answer}`"] for item, answer in wrong[:8]],
)


def negated(item):
    """Whether the review says that something is *not* so; its key is review:subject:degree:adjective."""
    return int(item.key.split(":")[2]) >= FIRST_NEGATION


groups = {
    tr("plain", "肯定句"): [item.answer == answer for item, answer in early if not negated(item)],
    tr("negated", "否定句"): [item.answer == answer for item, answer in early if negated(item)],
    tr("English", "英文"): [item.answer == answer for item, answer in early if item.language == "en"],
    tr("Chinese", "中文"): [item.answer == answer for item, answer in early if item.language != "en"],
}
rows = []
for name, group in groups.items():
    interval = wilson_interval(sum(group), len(group))
    rows.append([name, len(group), f"{sum(group) / len(group):.1%}", f"[{interval.low:.1%}, {interval.high:.1%}]"])
after_steps = tr(f"after {settings.early_steps} steps", f"第 {settings.early_steps} 步")
lab.table(
    [after_steps, tr("items", "題數"), tr("exact match", "完全相符"), tr("95% interval", "95% 信賴區間")],
    rows,
)
late = {kind: sum(kinds[name][kind] for name in names) for kind in KINDS}
lab.say(
    f"""- The base: {kinds["base"]["something else"]} of {len(items)} answers are something else. It does not know which words to use.
- After {settings.early_steps} steps {kinds["early"]["something else"]} are: \
of its {len(wrong)} errors {kinds["early"]["wrong choice"]} are a wrong choice and {kinds["early"]["other language"]} \
are in the other language.
- At the end the {len(names)} seeds make {sum(late.values()) - late["right"]} errors in {sum(late.values())} answers. \
All errors above are from the half-trained adapter, which is what it was kept for.""",
    f"""- 基礎模型：{len(items)} 個回答裡有 {kinds["base"]["something else"]} 個是「其他」。它不知道該用哪些字。
- 第 {settings.early_steps} 步之後剩下 {kinds["early"]["something else"]} 個：{len(wrong)} 個錯誤裡，\
{kinds["early"]["wrong choice"]} 個是選錯，{kinds["early"]["other language"]} 個用了另一種語言。
- 訓練結束時，{len(names)} 個種子的 {sum(late.values())} 個回答裡共有 {sum(late.values()) - late["right"]} 個錯誤。上面列的錯誤都來自訓練到一半的 adapter，當初存下它就是為了這個。""",
)

# %% [markdown] lang="en"
# ## What was lost
#
# The adapter was trained on one task only. The same model is now asked what it was taught before:

# %% [markdown] lang="zh-TW"
# ## 失去了什麼
#
# 這個 adapter 只用一個任務訓練。現在拿它以前學過的東西來考它：

# %%
asked = {"per_language": settings.forgetting_items, "chat": settings.chat}
before = forgetting(base, tokenizer, **asked)
after = [forgetting(adapted(name), tokenizer, **asked) for name in lab.progress(names)]
families = list(before)
drops = {}
for family in families:
    drops[family] = before[family].accuracy - np.mean([scores[family].accuracy for scores in after])
for seed, scores in zip(settings.seeds, after, strict=True):
    lost = np.mean([before[family].accuracy - scores[family].accuracy for family in families])
    lab.record("forgotten", lost.item(), seed=seed)

figure = skills_before_and_after(
    {family: wilson_interval(score.right, score.count) for family, score in before.items()},
    {family: [scores[family].accuracy for scores in after] for family in families},
    tr(f"after LoRA on {settings.task}", f"用 LoRA 學 {settings.task} 之後"),
)
lab.figure(
    "forgetting",
    figure,
    Text(
        en="Taught skills before and after LoRA on one task; points are the seeds, bars their mean.",
        zh_tw="用 LoRA 學一個任務之前與之後，原本學過的能力；點是各個種子，長條是平均。",
    ),
)

# %%
known = [family for family in families if before[family].accuracy >= 0.5]
guess = lab.predict("forgotten")
if known:
    worst, best = max(known, key=drops.get), min(known, key=drops.get)
    lab.say(
        f"""Of {len(families)} families the base does {len(known)}. After LoRA on `{settings.task}` they lose \
{np.mean([drops[family] for family in known]):.0%} on \
average{"" if guess is None else f" (you guessed {guess:.0%})"}: \
most `{worst}` ({before[worst].accuracy:.0%} to {before[worst].accuracy - drops[worst]:.0%}), least `{best}` \
({before[best].accuracy:.0%} to {before[best].accuracy - drops[best]:.0%}).
That few parameters move does not mean that little changes. What LoRA gives is a way back:""",
        f"""{len(families)} 類任務裡，基礎模型會 {len(known)} 類。用 LoRA 學了 `{settings.task}` 之後，平均掉了 \
{np.mean([drops[family] for family in known]):.0%}{"" if guess is None else f"（你猜 {guess:.0%}）"}：掉最多的是 \
`{worst}`（{before[worst].accuracy:.0%} 變成 {before[worst].accuracy - drops[worst]:.0%}），最少的是 \
`{best}`（{before[best].accuracy:.0%} 變成 {before[best].accuracy - drops[best]:.0%}）。
動的參數少，不代表改變就小。但 LoRA 保留了還原的辦法：""",
    )
else:
    lab.say(
        "This base does none of the families of the small world, so there is nothing of them to forget. What LoRA gives is a way back:",
        "這個基礎模型不會小世界裡的任何一類任務，也就沒有可以遺忘的。而 LoRA 保留了還原的辦法：",
    )

# %% [markdown] lang="en"
# ## The way back
#
# The base's weights were never touched. `disable_adapter` leaves the product out, and what comes out must be the base's numbers, not
# merely near them:

# %% [markdown] lang="zh-TW"
# ## 還原
#
# 基礎模型的權重從頭到尾沒有動過。`disable_adapter` 會略過那個乘積，所以算出來的必須跟基礎模型完全相等，而不只是接近：

# %%
inputs = left_padded(sequences, tokenizer.pad_token_id)
base_logits = logits_of(base, inputs)  # (tokens, vocabulary), without padding
adapted(names[0])
with model.disable_adapter():
    disabled = largest_difference(logits_of(model, inputs), base_logits)
enabled = largest_difference(logits_of(model, inputs), base_logits)
lab.record("disabled_difference", disabled)
lab.record("disabled_difference", enabled, variant="enabled")
lab.say(
    f"""Switched off, the largest difference from the base is **{disabled:g}**; switched on, {enabled:.3g}. \
So one process can serve the tuned and the original model, a request at a time.""",
    f"""關掉時，與基礎模型最大的差異是 **{disabled:g}**；打開時是 {enabled:.3g}。所以一個行程就能同時提供微調後與原本的模型，每個請求各選各的。""",
)
scores = {
    "exact_match": {name: right[name] / len(wanted) for name in right},
    "mean": f"{mean.value:.1%} [{mean.low:.1%}, {min(1, mean.high):.1%}]",
    "count": len(wanted),
    "gain": "{0.value:.1%} [{0.low:.1%}, {0.high:.1%}]".format(gains[names[0]].difference),
    "forgetting": {family: [before[family].accuracy, after[0][family].accuracy] for family in families},
}
_ = lab.artifact("scores.json").write_text(json.dumps(scores), encoding="utf-8")

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The small world has two answers per language, and 200 held-out items are most of what there is. A real task has more ways to be wrong.
# - Three seeds are few: their interval is wide where they differ, and has no width where they agree, which is no certainty either. It says that
#   the result is not one lucky run, not more.
# - Exact match on greedy answers is strict and cheap. Open answers need other judges.
#
# **Exercises.** 6 (`left_padding.py`) and 7 (`exact_match.py`) belong here.
#
# **Next:** from an adapter to something to ship.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 小世界的每種語言只有兩個答案，而 200 題保留題目已經是大部分了。真實的任務有更多種錯法。
# - 三個種子很少：不一致時，區間很寬；一致時，區間寬度是零，但那也不代表百分之百確定。它只說明結果不是碰巧一次的運氣。
# - 對貪婪解碼的回答要求完全相符，既嚴格又便宜。開放式的回答需要別的評分方式。
#
# **練習。** 練習 6（`left_padding.py`）和練習 7（`exact_match.py`）屬於這一本。
#
# **下一步：** 從 adapter 變成可以出貨的東西。
