# %% [markdown] lang="en"
# # 3. Inference: one base, many adapters
#
# **Question.** The base stays as it was, and what was learned is a small file. What can one do with that, and what did the model forget meanwhile?
#
# | | |
# |---|---|
# | You build | adapters loaded from files, in our code and in `peft`; switching between them; a dial from the base to the adapter; a table of what was forgotten |
# | You need | half a minute on two CPU cores, 1 GB of memory; the adapters of notebook 2 |
# | You should see | what an adapter makes of another one's task; what a switch costs; whether the base is still the base; and which skills an adapter costs while it is on |

# %% [markdown] lang="zh-TW"
# # 3. 推論：一個基礎模型，許多 adapter
#
# **問題。** 基礎模型維持原樣，學到的東西是一個小檔案。這能拿來做什麼？模型又在這期間忘了什麼？
#
# | | |
# |---|---|
# | 你會做出 | 從檔案載入 adapter，用我們的程式碼，也用 `peft`；在它們之間切換；在基礎模型與 adapter 之間調整強度；一張忘了什麼的表 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的 adapter |
# | 你應該看到 | adapter 碰到別人的任務會怎麼樣；切換一次要多久；基礎模型是不是還是原來的基礎模型；啟用 adapter 時，哪些技能受影響 |

# %%
import functools
import json

from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import numpy as np
import torch
from peft import PeftModel

from lora import disabled, merge_lora, set_scaling
from lora_figures import accuracy_over_scale, skills_left
from lora_files import load_adapter, read_settings, use_adapter
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    best_constant,
    changed_tensors,
    directory_bytes,
    distance,
    forgetting,
    load_base,
    load_task,
    logits_of,
    out_of_peft,
    tensor_hashes,
)
from onepiece.course.text import Text, tr
from onepiece.evaluation import generate_batch
from onepiece.measure import timed
from onepiece.tiny import skills
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
adapters = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}
full_kept = json.loads(lab.artifact("full-kept.json").read_text(encoding="utf-8"))

# %% [markdown] lang="en"
# ## What lies on the disk
#
# An adapter is two files: a configuration and the factors A and B. The base model is not in there, only its name.

# %% [markdown] lang="zh-TW"
# ## 磁碟上有什麼
#
# 一個 adapter 是兩個檔案：設定，以及 A、B 兩組因子。裡面沒有基礎模型，只有它的名字。

# %%
model, tokenizer = load_base(settings)
whole = sum(weight.numel() * weight.element_size() for weight in model.parameters())
size = {name: directory_bytes(directory) for name, directory in adapters.items()}
print((adapters["relabel"] / "adapter_config.json").read_text(encoding="utf-8"))
rows = [("base", whole / 1e3, "100%")]
rows += [(f"adapter {name}", held / 1e3, f"{held / whole:.2%}") for name, held in size.items()]
lab.table([tr("what", "項目"), "KB", tr("share of the base", "占基礎模型的比例")], rows)

# %% [markdown] lang="en"
# ## The same file in our code and in `peft`
#
# We keep to `peft`'s format, so its adapters are ours and ours are its own. Both directions are tried: our file in `peft`, and what `peft` saves again in our code. The control is the other task's adapter, which has the same shape.

# %% [markdown] lang="zh-TW"
# ## 同一個檔案，用我們的程式碼，也用 `peft`
#
# 我們遵守 `peft` 的格式，所以它的 adapter 我們能用，我們的它也能用。兩個方向都試：我們的檔案交給 `peft`，`peft` 再存一次之後由我們讀回。對照組是另一個任務的 adapter，形狀完全相同。

# %%
asked = {"train_items": settings.batch, "held_out_items": settings.held_out_items, "chat": settings.chat}
tasks = {name: load_task(name, tokenizer, **asked) for name in adapters}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)


def base_name(name):
    """In the base, the name of a tensor of a model with LoRA layers; None for A and B, which the base does not have."""
    return None if "lora_" in name else name.replace(".base.", ".")


untouched, hashed = logits_of(model, batch), tensor_hashes(model)
for name, directory in adapters.items():
    load_adapter(model, directory, name=name)

through, of_others = {}, {}
for name, directory in adapters.items():
    reference = PeftModel.from_pretrained(load_base(settings)[0], directory)
    use_adapter(model, name)
    wanted = logits_of(reference, batch)
    through[name, "our file in peft"] = distance(logits_of(model, batch), wanted)
    again, _ = load_base(settings)
    out_of_peft(reference, functools.partial(load_adapter, again, name="again"))
    through[name, "peft's file in ours"] = distance(logits_of(again, batch), wanted)
    use_adapter(model, next(key for key in adapters if key != name))
    of_others[name, "the other adapter"] = distance(logits_of(model, batch), wanted)
lab.record("file_difference", max(through.values()))
lab.record("file_difference", min(of_others.values()), variant="other_adapter")
columns = ["adapter", tr("way", "方式"), tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）")]
lab.table(columns, [(*key, value) for key, value in (through | of_others).items()])

# %% [markdown] lang="en"
# ## Predict
#
# Two adapters, two tasks. Each adapter was trained on one of them. How many percent of the *other* task does an adapter get right? Write `away = ...` (0 to 1, the better of the two) into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 兩個 adapter，兩個任務，每個 adapter 只在其中一個上訓練過。換到*另一個*任務，它能答對幾成？把 `away = ...`（0 到 1，取兩者中較好的）寫進 `predictions.toml`。

# %%
table = {}
for name in (None, *adapters):
    use_adapter(model, name)
    for task in tasks.values():
        table[name, task.name] = accuracy(model, task)
home = min(table[name, name].accuracy for name in adapters)
away = max(table[name, other].accuracy for name in adapters for other in tasks if other != name)
lab.record("home", home)
lab.record("home", away, variant="other_task")
lab.record("home", max(best_constant(task) for task in tasks.values()), variant="constant")
lab.record("away", away)
columns = [tr("active adapter", "啟用的 adapter"), *(tr(f"right on {name}", f"{name} 答對") for name in tasks)]
lab.table(
    columns,
    [
        (name or tr("none: the base", "無：基礎模型"), *(str(table[name, task]) for task in tasks))
        for name in (None, *adapters)
    ],
)

# %% [markdown] lang="en"
# ## What does a switch cost?
#
# Loading a second model means reading all of its weights. Switching an adapter means pointing each layer at other factors:

# %% [markdown] lang="zh-TW"
# ## 切換的代價是多少？
#
# 載入第二個模型，要讀進它的全部權重。切換 adapter，只是讓每一層指向另一組因子：

# %%
lab.source(use_adapter)

# %%
def switch():
    use_adapter(model, "relabel")
    use_adapter(model, "compose")


def one_answer():
    prompt = prompt_text(tasks["compose"].held_out[0], tokenizer, chat=settings.chat)
    generate_batch(model, tokenizer, [prompt], max_new_tokens=8)


actions = {"two switches": switch, "load the base": lambda: load_base(settings), "one answer": one_answer}
times = timed(actions, repeats=settings.repeats)
lab.table([tr("what", "項目"), tr("time", "時間")], [(name, str(timing)) for name, timing in times.items()])
one_switch = times["two switches"].median / 2
lab.record("switch_over_load", one_switch / times["load the base"].median)

# %% [markdown] lang="en"
# ## Is the base really untouched?
#
# Two proofs. The logits without adapter must be those from before we loaded any, to the last bit; and each tensor of the base must have the hash that it had. The controls: an adapter left on, and a merged model.

# %% [markdown] lang="zh-TW"
# ## 基礎模型真的沒被動過嗎？
#
# 兩個證明。沒有 adapter 時的 logits，必須跟載入之前的一個位元都不差；基礎模型的每一個張量，雜湊值也必須跟原來一樣。對照組：adapter 沒關，以及合併過的模型。

# %%
use_adapter(model, "relabel")
with disabled(model):
    off = distance(logits_of(model, batch), untouched)
on = distance(logits_of(model, batch), untouched)
lab.record("base_difference", off)
lab.record("base_difference", on, variant="adapter_on")

changed = len(changed_tensors(hashed, tensor_hashes(model, base_name)))
merged_changed = len(changed_tensors(hashed, tensor_hashes(merge_lora(model))))
lab.record("changed_tensors", changed)
lab.record("changed_tensors", merged_changed, variant="merged")
lab.say(
    f"Switched off, the model differs from the base by {off:g}; left on, by {on:.2g}. "
    f"Of {len(hashed)} tensors, {changed} changed; merging changes {merged_changed}.",
    f"關掉之後，模型與基礎模型的差異是 {off:g}；沒關則是 {on:.2g}。{len(hashed)} 個張量中有 {changed} 個改變；合併會改變 {merged_changed} 個。",
)

# %% [markdown] lang="en"
# ## What was forgotten?
#
# While an adapter is on, the model is another model. We ask for everything that pretraining taught: the base, the two adapters, and the two models of full fine-tuning from notebook 2 (same seed).

# %% [markdown] lang="zh-TW"
# ## 忘了什麼？
#
# adapter 開著的時候，模型就是另一個模型。我們把預訓練教過的全部再問一次：基礎模型、兩個 adapter，以及第 2 本筆記本全參數微調的兩個模型（同一個種子）。

# %%
kept = {}
for name in lab.progress((None, *adapters)):
    use_adapter(model, name)
    scores = forgetting(model, tokenizer, per_language=settings.forget_items, chat=settings.chat)
    kept["base" if name is None else f"{name}, LoRA"] = {family: score.accuracy for family, score in scores.items()}
kept |= full_kept
families = list(kept["base"])
order = ["base", *(f"{name}, {kind}" for name in adapters for kind in ("LoRA", "full"))]
averages = {name: float(np.mean(list(kept[name].values()))) for name in order}
lab.table(
    [tr("model", "模型"), *families, tr("mean", "平均")],
    [(name, *(f"{kept[name][family]:.0%}" for family in families), f"{averages[name]:.0%}") for name in order],
)

# %%
lab.figure(
    "forgetting",
    skills_left({name: kept[name] for name in order}),
    Text(
        en="What is left of the skills of pretraining: the base, with each adapter switched on, and after full fine-tuning.",
        zh_tw="預訓練的技能還剩下什麼：基礎模型、開著各個 adapter，以及全參數微調之後。",
    ),
)

# %%
lost = {name: averages["base"] - averages[name] for name in order[1:]}
worst = {name: min(families, key=lambda family: kept[name][family] - kept["base"][family]) for name in order[1:]}
less = [name for name in adapters if lost[f"{name}, LoRA"] < lost[f"{name}, full"]]
lab.record("forgotten", max(lost[f"{name}, LoRA"] for name in adapters))
no_protection = "Few trained numbers are no protection by themselves; LoRA also had the larger learning rate."
no_law = "Do not take that for a law: it depends on rates and steps."
lab.say(
    f"""- The base has {averages["base"]:.0%} on average. {"; ".join(f"{name} loses {value:.0%} (most on `{worst[name]}`)" for name, value in lost.items())}.
- LoRA forgets less than full fine-tuning on {len(less)} of {len(adapters)} tasks here (one seed, \
{settings.forget_items} items per family and language). \
{no_protection if len(less) < len(adapters) else no_law}
- The difference that always holds: LoRA's forgetting is a switch. \
With the adapter off, everything is back, as the hashes above prove; after full fine-tuning it is gone.""",
    f"""- 基礎模型平均 {averages["base"]:.0%}。{"；".join(f"{name} 掉了 {value:.0%}（掉最多的是 `{worst[name]}`）" for name, value in lost.items())}。
- 在這裡的 {len(adapters)} 個任務中，LoRA 比全參數微調忘得少的有 {len(less)} 個（一個種子，每類、每種語言 {settings.forget_items} 題）。\
{"光是訓練的數字少，並不能防止遺忘；而且 LoRA 的學習率比較大。" if len(less) < len(adapters) else "別把它當成定律：這取決於學習率與步數。"}
- 永遠成立的差別是：LoRA 的遺忘可以關掉。關掉 adapter，一切都會恢復，上面的雜湊值就是證明；全參數微調之後，失去的就回不來了。""",
)

# %% [markdown] lang="en"
# ## Not only on and off
#
# The scale is still there after training. Between 0 (the base) and the trained value lies a family of models that nobody trained:

# %% [markdown] lang="zh-TW"
# ## 不只是開與關
#
# 訓練之後，縮放還可以調整。從 0（基礎模型）到訓練時的值，中間是一系列沒有人訓練過的模型：

# %%
use_adapter(model, "relabel")
full_scale = read_settings(adapters["relabel"]).scaling
dial = np.array(settings.dial)
old_skill = "sentiment"
at_dial = {"relabel (new)": [], f"{old_skill} (old)": [], "facts (old)": []}
for share in dial:
    set_scaling(model, float(share) * full_scale)
    at_dial["relabel (new)"].append(accuracy(model, tasks["relabel"]).accuracy)
    left = forgetting(model, tokenizer, (old_skill, "facts"), per_language=settings.forget_items, chat=settings.chat)
    at_dial[f"{old_skill} (old)"].append(left[old_skill].accuracy)
    at_dial["facts (old)"].append(left["facts"].accuracy)
use_adapter(model, None)

lab.figure(
    "dial",
    accuracy_over_scale(dial, at_dial),
    Text(
        en="The relabel adapter turned up from 0 to beyond the scale it was trained with: the new task, and two old skills.",
        zh_tw="把 relabel 的 adapter 從 0 一路調到超過訓練時的縮放：新任務，以及兩個舊技能。",
    ),
)
enough = next((place for place, right in enumerate(at_dial["relabel (new)"]) if right >= 0.98 * home), len(dial) - 1)
trained_at = int(np.argmin(np.abs(dial - 1)))
before_after = {name: (values[enough], values[trained_at]) for name, values in at_dial.items() if "old" in name}
gained = all(small > full + 0.1 for small, full in before_after.values())
there = [f"{small:.0%} instead of {full:.0%} ({name})" for name, (small, full) in before_after.items()]
there_zh = [f"{name} {small:.0%}（原本的縮放是 {full:.0%}）" for name, (small, full) in before_after.items()]
lab.say(
    f"""The new task is done at {dial[enough]:g} of the trained scale ({at_dial["relabel (new)"][enough]:.0%}). There the old skills stand at {", ".join(there)}.
{"An adapter turned down a little may be the better model: try it before you train anew." if gained else "Turning it down does not bring everything back."}""",
    f"""調到訓練縮放的 {dial[enough]:g} 倍時，新任務已經學會（{at_dial["relabel (new)"][enough]:.0%}）。這時舊技能是 {"、".join(there_zh)}。
{"把 adapter 調弱一點，可能就是更好的模型：重新訓練之前，先試試看。" if gained else "調弱並不能讓一切都恢復。"}""",
)

# %% [markdown] lang="en"
# ## Many prompts at once
#
# A batch shares each reading of the weights, adapters included. Prompts of different lengths are padded on the left, so that each ends where its answer begins. First: are the answers the same as one by one? Then: what does a batch gain?

# %% [markdown] lang="zh-TW"
# ## 一次很多個提示
#
# 一個批次共用每一次讀進來的權重，adapter 也一樣。長度不同的提示在左邊補齊，讓每個提示都在答案開始的地方結束。先問：答案跟逐一回答的一樣嗎？再問：批次有什麼好處？

# %%
use_adapter(model, "compose")
asked = tasks["compose"].held_out[: settings.served_prompts]
alone = skills.answers(model, tokenizer, asked, chat=settings.chat, batch_size=1)
together = skills.answers(model, tokenizer, asked, chat=settings.chat, batch_size=len(asked))
different = sum(one != other for one, other in zip(alone, together, strict=True))
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]
rows_at_once = (1, len(prompts))


def answer_all(rows):
    generate_batch(model, tokenizer, prompts, max_new_tokens=8, batch_size=rows)


speed = timed({rows: functools.partial(answer_all, rows) for rows in rows_at_once}, repeats=settings.repeats)
gain = speed[1].median / speed[len(prompts)].median
lab.say(
    f"{different} of {len(asked)} answers differ. All prompts in one batch take {speed[len(prompts)]}, one at a time "
    f"{speed[1]}: {gain:.1f} times as long.",
    f"{len(asked)} 個答案中有 {different} 個不同。全部放進一個批次要 {speed[len(prompts)]}，逐一回答要 {speed[1]}：{gain:.1f} 倍的時間。",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("away")
lab.say(
    f"""- At home an adapter is right in at least {home:.1%}, away from home in at most {away:.1%}{"" if guess is None else f" (you guessed {guess:.0%})"}.
- A switch takes {one_switch * 1e6:.0f} µs, {times["load the base"].median / one_switch:,.0f} times less than loading \
the base again, even from memory's own file cache and with a base this small.
- Bit by bit, the base is what it was: {changed} of {len(hashed)} tensors changed.
- Each further task costs {max(size.values()) / 1e3:,.0f} KB instead of another {whole / 1e3:,.0f} KB (and a smaller \
share of a larger model, see notebook 1). The price: while it is on, an adapter also unlearns.""",
    f"""- 在自己的任務上，adapter 至少答對 {home:.1%}；換到別的任務，最多答對 {away:.1%}{"" if guess is None else f"（你猜 {guess:.0%}）"}。
- 切換一次要 {one_switch * 1e6:.0f} µs，是重新載入基礎模型的 {times["load the base"].median / one_switch:,.0f} 分之一；而且這還是檔案已在快取裡、基礎模型又這麼小的情況。
- 基礎模型逐位元不變：{len(hashed)} 個張量中有 {changed} 個改變。
- 每多一個任務，多的是 {max(size.values()) / 1e3:,.0f} KB，而不是再一份 {whole / 1e3:,.0f} KB（模型越大，比例越小，見第 1 本筆記本）。代價是：adapter 開著的時候，也會讓模型忘掉一些事。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - A model this small has little room: what it learns pushes other things out more than in a large model. That forgetting has to be measured carries over; how much there is does not.
# - Held-out items of the old skills are few per family. Look at the pattern, not at single percents.
# - All prompts of a batch use the same adapter here. Serving many adapters in one batch needs kernels for it, such as those of vLLM or S-LoRA ([2311.03285](https://arxiv.org/abs/2311.03285)).
#
# **Exercise.** 7 (`lora_files.py`: the file format) belongs here: `nox -s check -- lab-1.1.1-lora`.
#
# **Next:** a server that knows nothing of adapters. How does one give it the fine-tuned model?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這麼小的模型空間有限：學進來的東西把別的擠出去，比大模型嚴重。「遺忘必須量測」在大模型也成立，遺忘的多寡則不能照搬。
# - 舊技能每類的保留題目不多。請看整體的趨勢，別看個別的百分點。
# - 這裡一個批次的所有提示都用同一個 adapter。要在一個批次裡服務許多 adapter，需要專用的 kernel，例如 vLLM 或 S-LoRA（[2311.03285](https://arxiv.org/abs/2311.03285)）的做法。
#
# **練習。** 練習 7（`lora_files.py`：檔案格式）屬於這一本：`nox -s check -- lab-1.1.1-lora`。
#
# **下一步：** 伺服器完全不認得 adapter。要怎麼把微調好的模型交給它？
