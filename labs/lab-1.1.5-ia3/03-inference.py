# %% [markdown] lang="en"
# # 3. One batch, a task in every row
#
# **Question.** An adapter is now a handful of vectors. Sixteen requests arrive, for two tasks and for the base. Do they have to wait for each other?
#
# | | |
# |---|---|
# | You build | adapters read from files, in our code and in `peft`; a batch in which every row has its own adapter; two adapters mixed into one |
# | You write | exercise 7 (`mixed_batch.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory; the adapters of notebook 2 |
# | You should see | rows of a mixed batch beside the same rows alone; what a factor costs per token, counted; what becomes of two tasks when their factors are averaged |

# %% [markdown] lang="zh-TW"
# # 3. 一個批次，每一列一個任務
#
# **問題。** adapter 現在只是幾個向量。來了十六個請求，分屬兩個任務，還有給基礎模型的。它們必須互相等待嗎？
#
# | | |
# |---|---|
# | 你會做出 | 從檔案讀取 adapter，用我們的程式碼，也用 `peft`；每一列都有自己的 adapter 的批次；把兩個 adapter 混成一個 |
# | 你要寫的 | 練習 7（`mixed_batch.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的 adapter |
# | 你應該看到 | 混合批次的每一列，與同一列單獨執行並列；數出來的：每個 token、每個倍率的代價；兩個任務的倍率取平均之後會怎樣 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import functools

import torch
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode

from broken_variants import broken_count
from ia3 import Ia3Settings, ia3_parameter_count, set_enabled
from ia3_files import load_adapter, read_vectors, use_vectors
from mixed_batch import ProductCounter, factors_of_rows, rows
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    best_constant,
    directory_bytes,
    distance,
    family,
    linear_shapes,
    load_base,
    logits_of,
    out_of_peft,
    targeted_shapes,
)
from onepiece.course.text import tr
from onepiece.measure import timed
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
adapters = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}
chosen = Ia3Settings(settings.outputs, settings.inputs)
base, tokenizer = load_base(settings)
every_task = family.load_tasks(tokenizer, chat=settings.chat)
tasks = {name: every_task[name] for name in adapters}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)

# %% [markdown] lang="en"
# ## What lies on the disk, and who can read it
#
# Two files, in `peft`'s format. Both directions are tried: ours in `peft`, and what `peft` saves again in ours. The control is the other task's adapter, which has the same shapes.

# %% [markdown] lang="zh-TW"
# ## 磁碟上有什麼，誰讀得懂
#
# 兩個檔案，`peft` 的格式。兩個方向都試：我們的交給 `peft`，`peft` 再存一次之後由我們讀回。對照組是另一個任務的 adapter，形狀完全相同。

# %%
print((adapters["relabel"] / "adapter_config.json").read_text(encoding="utf-8"))
model, _ = load_base(settings)
untouched = logits_of(model, batch)
through, of_others = {}, {}
for name, directory in adapters.items():
    reference = PeftModel.from_pretrained(load_base(settings)[0], directory)
    wanted = logits_of(reference, batch)
    load_adapter(model, directory)
    through[name, "our file in peft"] = distance(logits_of(model, batch), wanted)
    again, _ = load_base(settings)
    out_of_peft(reference, functools.partial(load_adapter, again))
    through[name, "peft's file in ours"] = distance(logits_of(again, batch), wanted)
    load_adapter(model, next(path for other, path in adapters.items() if other != name))
    of_others[name, "the other adapter"] = distance(logits_of(model, batch), wanted)
lab.record("file_difference", max(through.values()))
lab.record("file_difference", min(of_others.values()), variant="other_adapter")
columns = ["adapter", tr("way", "方式"), tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）")]
lab.table(columns, [(*key, value) for key, value in (through | of_others).items()])
whole = sum(weight.numel() * weight.element_size() for weight in base.parameters())
held = directory_bytes(adapters["relabel"])
lab.say(
    f"An adapter takes {held / 1e3:.1f} KB beside {whole / 1e3:,.0f} KB of weights: {held / whole:.2%}.",
    f"一個 adapter 占 {held / 1e3:.1f} KB，權重是 {whole / 1e3:,.0f} KB：{held / whole:.2%}。",
)

# %% [markdown] lang="en"
# ## At home, away, and switched off
#
# Switching is a copy of a few vectors. Off, the model must be the base to the last bit.

# %% [markdown] lang="zh-TW"
# ## 自己的任務、別人的任務、關掉
#
# 切換只是抄寫幾個向量。關掉之後，模型必須跟基礎模型一個位元都不差。

# %%
vectors = {name: read_vectors(base, directory)[1] for name, directory in adapters.items()}
vectors = {name: {layer: factor.to(settings.device) for layer, factor in found.items()} for name, found in vectors.items()}
right = {}
for name, found in vectors.items():
    use_vectors(model, found)
    for task in tasks.values():
        right[name, task.name] = accuracy(model, task)
left_on = distance(logits_of(model, batch), untouched)
set_enabled(model, False)
switched_off = distance(logits_of(model, batch), untouched)
set_enabled(model, True)
home = min(right[name, name].accuracy for name in adapters)
away = max(right[name, other].accuracy for name in adapters for other in tasks if other != name)
lab.record("base_difference", switched_off)
lab.record("base_difference", left_on, variant="left_on")
lab.record("home", home)
lab.record("home", away, variant="other_task")
lab.record("home", max(best_constant(task) for task in tasks.values()), variant="constant")
lab.table(
    ["adapter", *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(name, *(str(right[name, task]) for task in tasks)) for name in adapters],
)

# %% [markdown] lang="en"
# ## A row, an adapter
#
# With LoRA, rows of different tasks need different matrices, so servers bring kernels of their own for it. A vector for a row is one more product of two tensors: `(batch, seq, features) * (batch, 1, features)`.

# %% [markdown] lang="zh-TW"
# ## 一列一個 adapter
#
# 用 LoRA 的話，不同任務的列需要不同的矩陣，所以伺服器得為此準備專用的 kernel。每列一個向量，只是多一次兩個張量的乘積：`(batch, seq, features) * (batch, 1, features)`。

# %%
lab.source(factors_of_rows)

# %% [markdown] lang="en"
# ## Predict
#
# A third of the rows asks `relabel`, a third `compose`, a third the base. How long does one mixed batch take, compared with three batches of a third each, one after the other? Write `mixed_over_separate = ...` into `predictions.toml`. And how far will the logits be from those of the rows alone?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 三分之一的列問 `relabel`，三分之一問 `compose`，三分之一問基礎模型。一個混合批次要花的時間，是三個小批次一個接一個的幾倍？把 `mixed_over_separate = ...` 寫進 `predictions.toml`。logits 又會跟單獨執行差多少？

# %%
each = settings.served_prompts // 3
wanted_task = [name for name in ("relabel", "compose", None) for _ in range(each)]
asked = tasks["relabel"].held_out[:each] + tasks["compose"].held_out[:each] + tasks["compose"].held_out[each : 2 * each]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]
inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(settings.device)
inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}


def some(which):
    """The given rows of the batch, padded as all are."""
    return {key: tensor[which] for key, tensor in inputs.items()}


def alone(name):
    """Logits of the rows of one task, with its adapter in the whole model."""
    which = [index for index, task in enumerate(wanted_task) if task == name]
    set_enabled(model, name is not None)
    if name is not None:
        use_vectors(model, vectors[name])
    logits = logits_of(model, some(which))
    set_enabled(model, True)
    return logits


separate = torch.cat([alone(name) for name in ("relabel", "compose", None)])
with rows(model, vectors, wanted_task):
    mixed = logits_of(model, inputs)
with rows(model, vectors, wanted_task[1:] + wanted_task[:1]):
    next_row = logits_of(model, inputs)
mixed_difference, shifted = distance(mixed, separate), distance(next_row, separate)
lab.record("mixed_difference", mixed_difference)
lab.record("mixed_difference", shifted, variant="next_row")

# %% [markdown] lang="en"
# The control gives each row the adapter of the next one, so that only the rows at the borders between the tasks are wrong. Logits see it. Now the answers:

# %% [markdown] lang="zh-TW"
# 對照組讓每一列用下一列的 adapter，所以錯的只有任務交界處的那幾列。logits 看得出來。再看答案：

# %%
@torch.inference_mode()
def written(given):
    """Greedy answers to the prompts of a batch."""
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": settings.answer_tokens}
    tokens = model.generate(**given, **greedy, pad_token_id=tokenizer.pad_token_id)[:, given["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]


def one_after_the_other():
    """Three batches, an adapter each; in the order of the rows."""
    answers = []
    for name in ("relabel", "compose", None):
        set_enabled(model, name is not None)
        if name is not None:
            use_vectors(model, vectors[name])
        answers += written(some([index for index, task in enumerate(wanted_task) if task == name]))
    set_enabled(model, True)
    return answers


def all_at_once():
    with rows(model, vectors, wanted_task):
        return written(inputs)


apart_answers, mixed_answers = one_after_the_other(), all_at_once()
differing = sum(one != other for one, other in zip(mixed_answers, apart_answers, strict=True))
shown = [index for start in range(0, 3 * each, each) for index in (start, start + 1)]
lab.table(
    [tr("row's adapter", "這一列的 adapter"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("answer", "回答")],
    [(wanted_task[index] or "-", asked[index].prompt, asked[index].answer, mixed_answers[index][:40]) for index in shown],
)
times = timed({"mixed": all_at_once, "separate": one_after_the_other}, repeats=settings.repeats)
mixed_ratio = times["mixed"].median / times["separate"].median
lab.record("mixed_over_separate", mixed_ratio)

# %% [markdown] lang="en"
# ## What does a factor cost?
#
# Counted, not timed: every product of two tensors by elements while one batch goes through the model, with factors and without. The formula says one product per factor and token. LoRA's cost is two per number that it trains: a multiplication and an addition.

# %% [markdown] lang="zh-TW"
# ## 一個倍率要花多少？
#
# 用數的，不用計時：一個批次通過模型時，有倍率與沒有倍率，各做了幾次逐元素的乘積。公式說：每個倍率、每個 token 一次。LoRA 則是每個訓練的數字兩次運算：一次乘法、一次加法。

# %%
def products(model):
    with ProductCounter() as counter:
        logits_of(model, batch)
    return counter.products


tokens = batch["input_ids"].numel()
counted = (products(model) - products(base)) / tokens
formula = ia3_parameter_count(base, chosen)
lab.record("product_count_difference", counted - formula)
lab.record("product_count_difference", counted - broken_count(linear_shapes(base), chosen, "both_sides"), variant="both_sides")
with FlopCounterMode(display=False) as flops:
    logits_of(base, batch)
of_base = flops.get_total_flops() / tokens
of_lora = sum(2 * 8 * (into + out) for into, out in targeted_shapes(base, ("q_proj", "v_proj")).values())
prompt = some([0])["input_ids"]
slower = family.token_ratio(model, base, prompt, repeats=settings.repeats)
lab.say(
    f"""{counted:,.0f} products more per token, as the formula says ({formula:,}). \
The base's matrix products take {of_base:,.0f} FLOPs per token, so that is {counted / of_base:.3%}; \
LoRA of rank 8 on q and v would add {of_lora / of_base:.1%}.
Measured, a token takes {slower:.2f} times as long with the factors as \
without{": more than the arithmetic says, because in a model this small each call costs" if slower > 1.05 else ", which is within what this machine can tell apart"}. \
Notebook 4 takes them out.""",
    f"""每個 token 多 {counted:,.0f} 次乘積，跟公式說的一樣（{formula:,}）。基礎模型的矩陣乘積每個 token 要 {of_base:,.0f} FLOPs，所以這是 \
{counted / of_base:.3%}；q、v 上秩 8 的 LoRA 會多 {of_lora / of_base:.1%}。
實際量測，帶著倍率時一個 token 要 {slower:.2f} 倍的時間{"：比計算量所說的多，因為在這麼小的模型裡，每次呼叫都有代價" if slower > 1.05 else "，這台機器分辨不出這樣的差別"}。第 4 本筆記本會把它們拿掉。""",
)

# %% [markdown] lang="en"
# ## Two adapters in one
#
# Vectors can be averaged, and they can be multiplied: one knob turned by one task, then by the other. Is the result a model that does both?

# %% [markdown] lang="zh-TW"
# ## 兩個 adapter 合而為一
#
# 向量可以取平均，也可以相乘：同一個旋鈕，先讓一個任務轉，再讓另一個任務轉。這樣得到的模型，兩個任務都會嗎？

# %%
one, other = vectors.values()
mixtures = {
    "average": {name: (one[name] + other[name]) / 2 for name in one},
    "product": {name: one[name] * other[name] for name in one},
}
both = {}
for way, mixture in mixtures.items():
    use_vectors(model, mixture)
    both[way] = {name: accuracy(model, task).accuracy for name, task in tasks.items()}
lab.table(
    [tr("factors", "倍率"), *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(way, *(f"{value:.1%}" for value in found.values())) for way, found in both.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("mixed_over_separate")
best = max(min(found.values()) for found in both.values())
lab.say(
    f"""- A row of a mixed batch differs by {mixed_difference:.1e} from the same row alone, and {differing} of {len(asked)} \
answers differ. One mixed batch takes {mixed_ratio:.2f} times as long as three separate \
ones{"" if guess is None else f" (you guessed {guess:.2f})"}.
- At home an adapter is right in at least {home:.1%}, away in at most {away:.1%}.
- Mixed into one, the better of the two ways does at least {best:.1%} of both tasks: \
{"two adapters may be put together without training" if best > 0.8 else "factors of two trainings do not simply add up; a row of its own for each task does what a mixture does not"}.""",
    f"""- 混合批次的一列，與同一列單獨執行差 {mixed_difference:.1e}；{len(asked)} 個答案中有 {differing} 個不同。\
一個混合批次的時間是三個分開批次的 {mixed_ratio:.2f} 倍{"" if guess is None else f"（你猜 {guess:.2f}）"}。
- 在自己的任務上，adapter 至少答對 {home:.1%}；換到別的任務，最多答對 {away:.1%}。
- 混成一個之後，兩種做法中較好的，兩個任務至少都答對 {best:.1%}：{"兩個 adapter 不必訓練就可能合起來用" if best > 0.8 else "兩次訓練的倍率不能直接加在一起；讓每個任務有自己的一列，才做得到混合做不到的事"}。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Batches of a few rows: what a mixed batch gains grows with the number of tasks that would wait for each other.
# - Common servers take LoRA adapters, and no vectors. A server with mixed batches of (IA)3 would have to do what `rows` does here.
#
# **Exercise.** 7 (`mixed_batch.py`: factors for each row) belongs here: `nox -s check -- lab-1.1.5-ia3`.
#
# **Next:** how do the factors disappear?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 批次只有幾列：原本會互相等待的任務越多，混合批次的好處越大。
# - 常見的伺服器收 LoRA 的 adapter，不收向量。要用 (IA)3 的混合批次，伺服器得做 `rows` 在這裡做的事。
#
# **練習。** 練習 7（`mixed_batch.py`：每一列的倍率）屬於這一本：`nox -s check -- lab-1.1.5-ia3`。
#
# **下一步：** 倍率要怎麼消失？
