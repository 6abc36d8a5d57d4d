# %% [markdown] lang="en"
# # 3. Many tasks, one set of weights
#
# **Question.** The trained model is a plain model, so there is nothing to switch off. How does one copy of the weights answer for two tasks and for the base, in one batch?
#
# | | |
# |---|---|
# | You build | biases read from files, in our code and in `peft`; the way back to the base; a batch in which every row has biases of its own; two tasks added up |
# | You write | exercise 6 (`row_biases.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory; the files of notebook 2 |
# | You should see | what `peft` calls switching off; rows of a mixed batch beside the same rows alone; which operators a trained model runs more than its base, counted |

# %% [markdown] lang="zh-TW"
# # 3. 許多任務，一份權重
#
# **問題。** 訓練出來的就是普通的模型，沒有東西可以關掉。同一份權重要怎麼在一個批次裡，同時替兩個任務和基礎模型回答？
#
# | | |
# |---|---|
# | 你會做出 | 從檔案讀取偏差，用我們的程式碼，也用 `peft`；回到基礎模型的路；每一列都有自己偏差的批次；把兩個任務加在一起 |
# | 你要寫的 | 練習 6（`row_biases.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的檔案 |
# | 你應該看到 | `peft` 所謂的關掉是什麼；混合批次的每一列，與同一列單獨執行並列；數出來的：訓練過的模型比基礎模型多執行了哪些運算 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import functools
import warnings

import torch
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode

from bias_files import copied_biases, read_biases, use_biases
from bitfit import bias_parameters
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    best_constant,
    directory_bytes,
    distance,
    family,
    load_base,
    logits_of,
    out_of_peft,
    targeted_shapes,
)
from onepiece.course.text import tr
from onepiece.measure import timed
from onepiece.tiny.tokenizer import prompt_text
from row_biases import OperatorCounter, differences, rows, shifts_of_rows

settings = lab.settings
torch.set_num_threads(settings.threads)
files = {"relabel": lab.artifact("biases-relabel"), "compose": lab.artifact("biases-compose")}
base, tokenizer = load_base(settings)
of_base = copied_biases(base)
every_task = family.load_tasks(tokenizer, chat=settings.chat)
tasks = {name: every_task[name] for name in files}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)

# %% [markdown] lang="en"
# ## What lies on the disk, and who can read it
#
# For `peft` it is a LoRA of zeros with `bias="all"`. Both directions are tried: ours in `peft`, and what `peft` saves again in ours. The control is the other task's file, which has the same names and shapes.

# %% [markdown] lang="zh-TW"
# ## 磁碟上有什麼，誰讀得懂
#
# 對 `peft` 來說，這是一個全零的 LoRA，`bias="all"`。兩個方向都試：我們的交給 `peft`，`peft` 再存一次之後由我們讀回。對照組是另一個任務的檔案，名稱與形狀完全相同。

# %%
print((files["relabel"] / "adapter_config.json").read_text(encoding="utf-8"))
model, _ = load_base(settings)
untouched = logits_of(model, batch)
saved = {name: read_biases(model, directory) for name, directory in files.items()}
through, of_others, switched = {}, {}, {}
for name, directory in files.items():
    reference = PeftModel.from_pretrained(load_base(settings)[0], directory)
    wanted = logits_of(reference, batch)
    use_biases(model, saved[name])
    through[name, "our file in peft"] = distance(logits_of(model, batch), wanted)
    use_biases(model, out_of_peft(reference, functools.partial(read_biases, model)))
    through[name, "peft's file in ours"] = distance(logits_of(model, batch), wanted)
    use_biases(model, next(found for other, found in saved.items() if other != name))
    of_others[name, "the other task"] = distance(logits_of(model, batch), wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of exactly what is measured here
        with reference.disable_adapter():
            switched[name] = distance(logits_of(reference, batch), untouched)
lab.record("file_difference", max(through.values()))
lab.record("file_difference", min(of_others.values()), variant="other_task")
columns = [tr("task", "任務"), tr("way", "方式"), tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）")]
lab.table(columns, [(*key, value) for key, value in (through | of_others).items()])
whole = sum(weight.numel() * weight.element_size() for weight in base.parameters())
held = directory_bytes(files["relabel"])
lab.say(
    f"A task takes {held / 1e3:.1f} KB beside {whole / 1e3:,.0f} KB of weights: {held / whole:.1%}, some of it names.",
    f"一個任務占 {held / 1e3:.1f} KB，權重是 {whole / 1e3:,.0f} KB：{held / whole:.1%}；其中不少是名稱。",
)

# %% [markdown] lang="en"
# ## The way back
#
# LoRA is switched off by not taking its path. Here the biases were *overwritten*, and whoever did not keep the base's has no base any more. `peft` has `disable_adapter()`, and calls it without complaint but for a warning. Predict: by how much do its logits then differ from the base's?

# %% [markdown] lang="zh-TW"
# ## 回去的路
#
# LoRA 只要不走它那條路，就關掉了。這裡的偏差則是被*覆寫*的，沒有留下基礎模型的偏差，就再也沒有基礎模型了。`peft` 有 `disable_adapter()`，呼叫時只會給一句警告。先猜：那時它的 logits 與基礎模型差多少？

# %%
right = {}
for name, found in saved.items():
    use_biases(model, found)
    for task in tasks.values():
        right[name, task.name] = accuracy(model, task)
use_biases(model, of_base)
back = distance(logits_of(model, batch), untouched)
home = right["relabel", "relabel"].accuracy
away = right["compose", "relabel"].accuracy
lab.record("base_difference", back)
lab.record("base_difference", min(switched.values()), variant="peft_disabled")
lab.record("home", home)
lab.record("home", away, variant="other_task")
lab.record("home", best_constant(tasks["relabel"]), variant="constant")
lab.table(
    [tr("biases", "偏差"), *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(name, *(str(right[name, task]) for task in tasks)) for name in files],
)
lab.say(
    f"""With the base's biases copied back the logits differ by {back:g}; after `disable_adapter()` by \
{min(switched.values()):.2g} or more: `peft` leaves out the LoRA, which was zero, and keeps the biases.""",
    f"""把基礎模型的偏差抄回去之後，logits 差 {back:g}；呼叫 `disable_adapter()` 之後，至少差 {min(switched.values()):.2g}：`peft` 拿掉的是 LoRA，\
它本來就是零，偏差則留著。""",
)

# %% [markdown] lang="en"
# ## A row, a task
#
# A bias is the last thing that a layer does. So what a task has *added* to it can be added behind the layer, to the rows of that task alone: `(batch, seq, out) + (batch, 1, out)`.

# %% [markdown] lang="zh-TW"
# ## 一列一個任務
#
# 偏差是一層最後做的事。所以任務在偏差上*加了*多少，就可以在這一層後面再加，而且只加給那個任務的列：`(batch, seq, out) + (batch, 1, out)`。

# %%
lab.source(shifts_of_rows)

# %% [markdown] lang="en"
# ## Predict
#
# A third of the rows asks `relabel`, a third `compose`, a third the base. How long does one mixed batch take, compared with three batches of a third each, one after the other? Write `mixed_over_separate = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 三分之一的列問 `relabel`，三分之一問 `compose`，三分之一問基礎模型。一個混合批次要花的時間，是三個小批次一個接一個的幾倍？把 `mixed_over_separate = ...` 寫進 `predictions.toml`。

# %%
each = settings.served_prompts // 3
wanted_task = [name for name in ("relabel", "compose", None) for _ in range(each)]
asked = tasks["relabel"].held_out[:each] + tasks["compose"].held_out[:each] + tasks["compose"].held_out[each : 2 * each]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]
inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
inputs = {key: inputs[key].to(settings.device) for key in ("input_ids", "attention_mask")}
saved = {name: {key: value.to(settings.device) for key, value in found.items()} for name, found in saved.items()}
shifts = {name: differences(of_base, found) for name, found in saved.items()}


def some(which):
    """The given rows of the batch, padded as all are."""
    return {key: tensor[which] for key, tensor in inputs.items()}


def rows_of(name):
    return [index for index, task in enumerate(wanted_task) if task == name]


def alone(name, answer):
    """What `answer` makes of the rows of one task, with its biases in the whole model."""
    use_biases(model, of_base if name is None else saved[name])
    result = answer(some(rows_of(name)))
    use_biases(model, of_base)
    return result


separate = torch.cat([alone(name, lambda given: logits_of(model, given)) for name in ("relabel", "compose", None)])
with rows(model, shifts, wanted_task):
    mixed = logits_of(model, inputs)
with rows(model, shifts, wanted_task[1:] + wanted_task[:1]):
    next_row = logits_of(model, inputs)
mixed_difference, shifted = distance(mixed, separate), distance(next_row, separate)
lab.record("mixed_difference", mixed_difference)
lab.record("mixed_difference", shifted, variant="next_row")

# %% [markdown] lang="en"
# The control gives each row the biases of the next one, so that only the rows at the borders between the tasks are wrong. Now the answers, and the time:

# %% [markdown] lang="zh-TW"
# 對照組讓每一列用下一列的偏差，所以錯的只有任務交界處的那幾列。再來看答案，以及時間：

# %%
@torch.inference_mode()
def written(given):
    """Greedy answers to the prompts of a batch."""
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": settings.answer_tokens}
    tokens = model.generate(**given, **greedy, pad_token_id=tokenizer.pad_token_id)[:, given["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]


def one_after_the_other():
    """Three batches, each with its biases; in the order of the rows."""
    return [answer for name in ("relabel", "compose", None) for answer in alone(name, written)]


def all_at_once():
    with rows(model, shifts, wanted_task):
        return written(inputs)


apart_answers, mixed_answers = one_after_the_other(), all_at_once()
differing = sum(one != other for one, other in zip(mixed_answers, apart_answers, strict=True))
shown = [index for start in range(0, 3 * each, each) for index in (start, start + 1)]
lab.table(
    [tr("row's biases", "這一列的偏差"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("answer", "回答")],
    [
        (wanted_task[index] or "-", asked[index].prompt, asked[index].answer, mixed_answers[index][:40])
        for index in shown
    ],
)
times = timed({"mixed": all_at_once, "separate": one_after_the_other}, repeats=settings.repeats)
mixed_ratio = times["mixed"].median / times["separate"].median
lab.record("mixed_over_separate", mixed_ratio)

# %% [markdown] lang="en"
# ## What does it cost?
#
# Counted, not timed: every operator that runs while one batch goes through the model. The trained model against its base, and the mixed batch against both.

# %% [markdown] lang="zh-TW"
# ## 要花多少？
#
# 用數的，不用計時：一個批次通過模型時執行的每一個運算。訓練過的模型對基礎模型，混合批次再對這兩者。

# %%
def counted(one):
    with OperatorCounter() as counter:
        logits_of(one, batch)
    return counter


tokens = batch["input_ids"].numel()
use_biases(model, saved["relabel"])
with FlopCounterMode(display=False) as flops:
    logits_of(model, batch)
trained_count, base_count = counted(model), counted(base)
use_biases(model, of_base)
with rows(model, shifts, ["relabel"] * len(batch["input_ids"])):
    rows_count = counted(model)
calls = {"trained": trained_count.calls.total(), "rows": rows_count.calls.total()}
extra = {name: number - base_count.calls.total() for name, number in calls.items()}
added = (rows_count.added - base_count.added) / tokens
formula = sum(bias.numel() for bias in bias_parameters(base).values())
lab.record("extra_operators", extra["trained"])
lab.record("extra_operators", extra["rows"], variant="as_rows")
lab.record("addition_count_difference", added - formula)
lab.record("addition_count_difference", added - len(of_base), variant="one_per_layer")
prompt = some([0])["input_ids"]
use_biases(model, saved["relabel"])
slower = family.token_ratio(model, base, prompt, repeats=settings.repeats)
use_biases(model, of_base)
of_flops = flops.get_total_flops() / tokens
of_lora = sum(2 * 8 * sum(shape) for shape in targeted_shapes(base, settings.attention_layers).values())
lab.say(
    f"""A trained model runs {extra["trained"]} operators more than its base: the constant was added before, too. \
Measured, a token takes {slower:.2f} times as long, which is what two runs of one model differ by.
As rows of a mixed batch, {extra["rows"]} operators and {added:,.0f} additions more per token, one for each bias, \
as the formula says ({formula:,}): {added / of_flops:.2%} of the matrix products' {of_flops:,.0f} FLOPs. \
LoRA of rank 8 on the attention's first layers would add {of_lora / of_flops:.1%} in *every* batch that is not \
merged.""",
    f"""訓練過的模型比基礎模型多執行 {extra["trained"]} 個運算：那個常數本來就要加。實際量測，一個 token 要 {slower:.2f} 倍的時間，同一個模型跑兩次也差這麼多。
混合批次則多 {extra["rows"]} 個運算，每個 token 多 {added:,.0f} 次加法，每個偏差一次，跟公式說的一樣（{formula:,}）：占矩陣乘積 \
{of_flops:,.0f} FLOPs 的 {added / of_flops:.2%}。attention 第一層上秩 8 的 LoRA，只要沒有合併，*每個*批次都會多 {of_lora / of_flops:.1%}。""",
)

# %% [markdown] lang="en"
# ## Two tasks in one
#
# What a task has added to the biases can be added to another's, or averaged with it. Is the result a model that does both?

# %% [markdown] lang="zh-TW"
# ## 兩個任務合而為一
#
# 一個任務在偏差上加的量，可以再加上另一個任務的，也可以取平均。得到的模型，兩個任務都會嗎？

# %%
one, other = shifts.values()
mixtures = {
    "average": {name: of_base[name] + (one[name] + other[name]) / 2 for name in one},
    "sum": {name: of_base[name] + one[name] + other[name] for name in one},
}
both = {}
for way, mixture in mixtures.items():
    use_biases(model, mixture)
    both[way] = {name: accuracy(model, task).accuracy for name, task in tasks.items()}
use_biases(model, of_base)
lab.table(
    [tr("biases", "偏差"), *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(way, *(f"{value:.1%}" for value in found.values())) for way, found in both.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("mixed_over_separate")
best = max(min(found[name] / max(right[name, name].accuracy, 1e-9) for name in tasks) for found in both.values())
lab.say(
    f"""- A row of a mixed batch differs by {mixed_difference:.1e} from the same row alone, and \
{differing} of {len(asked)} answers differ. One mixed batch takes {mixed_ratio:.2f} times as long as three separate \
ones{"" if guess is None else f" (you guessed {guess:.2f})"}.
- The biases of `relabel` do {home:.1%} of it, those of `compose` {away:.1%}.
- Mixed into one, the better of the two ways keeps at least {best:.0%} of what each task can do alone.""",
    f"""- 混合批次的一列，與同一列單獨執行差 {mixed_difference:.1e}；{len(asked)} 個答案中有 {differing} 個不同。\
一個混合批次的時間是三個分開批次的 {mixed_ratio:.2f} 倍{"" if guess is None else f"（你猜 {guess:.2f}）"}。
- `relabel` 的偏差在 `relabel` 答對 {home:.1%}，`compose` 的偏差則是 {away:.1%}。
- 混成一個之後，兩種做法中較好的，對每個任務至少還保有單獨時的 {best:.0%}。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Batches of a few rows: what a mixed batch gains grows with the number of tasks that would wait for each other.
# - Common servers have no format for biases by row. One that did would have to do what `rows` does here.
#
# **Exercise.** 6 (`row_biases.py`: a bias for each row) belongs here: `nox -s check -- lab-1.1.6-bitfit`.
#
# **Next:** how many of these numbers does the model need?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 批次只有幾列：原本會互相等待的任務越多，混合批次的好處越大。
# - 常見的伺服器沒有每列一份偏差的格式。要做到的話，伺服器得做 `rows` 在這裡做的事。
#
# **練習。** 練習 6（`row_biases.py`：每一列的偏差）屬於這一本：`nox -s check -- lab-1.1.6-bitfit`。
#
# **下一步：** 這些數字，模型需要幾個？
