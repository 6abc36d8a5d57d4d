# %% [markdown] lang="en"
# # 3. One after the other, side by side, and at what price
#
# **Question.** Adapters are things that one can put in and take out. What happens with two in a row? With another one for each request of a batch?
# With some that were left out in training? And what does every token pay, for ever?
#
# | | |
# |---|---|
# | You build | adapters from files; a batch in which every row has its own; a stack of two; the price per token, counted |
# | You write | exercise 7 (`mixed_batch.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory; the adapters of notebook 2 |
# | You should see | what one forgotten line of a configuration does; rows of a mixed batch beside the same rows alone; two trainings in one model, in both orders |

# %% [markdown] lang="zh-TW"
# # 3. 一個接一個、各走各的，以及價錢
#
# **問題。** adapter 可以放進去，也可以拿出來。兩個串在一起會怎樣？同一批次裡每個請求各用一個呢？
# 訓練時跳過的那幾層，又會怎樣？還有，每個 token 永遠要付的，到底是多少？
#
# | | |
# |---|---|
# | 你會做出 | 從檔案讀取的 adapter；每一列都有自己的 adapter 的批次；疊在一起的兩個 adapter；數出來的每個 token 的價錢 |
# | 你要寫的 | 練習 7（`mixed_batch.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的 adapter |
# | 你應該看到 | 設定檔裡少讀一行的後果；混合批次的每一列，與同一列單獨執行並列；一個模型裡的兩次訓練，兩種順序 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import copy
from dataclasses import replace

import torch
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode

from adapter_drop import drop_first
from adapters import (
    adapter_places,
    add_adapters,
    bottleneck_width,
    houlsby,
    stack_adapters,
    use_adapter,
)
from bottleneck_files import load_adapter, read_adapter, save_adapter
from broken_variants import HookedAdapters, run_all
from mixed_batch import adapt_rows, rows
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    batches,
    best_constant,
    directory_bytes,
    distance,
    family,
    fit,
    load_base,
    logits_of,
)
from onepiece.course.text import Text, tr
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
files = {"relabel": lab.artifact("adapter-relabel"), "new_facts": lab.artifact("adapter-new_facts")}
chosen = houlsby(settings.reduction_factor)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
every_task = family.load_tasks(tokenizer, chat=settings.chat)
tasks = {name: every_task[name] for name in files}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
untouched = logits_of(base, batch)
training = {
    "learning_rate": settings.relabel_rate,
    "batch_size": family.BATCH,
    "schedule": settings.schedule,
    "progress": False,
}


def adapted(name):
    """The base with a saved adapter in it."""
    model, _ = load_base(settings)
    load_adapter(model, files[name])
    return model


# %% [markdown] lang="en"
# ## At home, away, and switched off
#
# Two files for each adapter. Off, the model must be the base to the last bit.

# %% [markdown] lang="zh-TW"
# ## 自己的任務、別人的任務、關掉
#
# 每個 adapter 兩個檔案。關掉之後，模型必須跟基礎模型一個位元都不差。

# %%
print((files["relabel"] / "adapter_config.json").read_text(encoding="utf-8"))
right = {(name, task.name): accuracy(adapted(name), task) for name in files for task in tasks.values()}
switched = adapted("relabel")
left_on = distance(logits_of(switched, batch), untouched)
drop_first(switched, base.config.num_hidden_layers)
lab.record("base_difference", distance(logits_of(switched, batch), untouched))
lab.record("base_difference", left_on, variant="left_on")
lab.record("home_relabel", right["relabel", "relabel"].accuracy)
lab.record("home_relabel", right["new_facts", "relabel"].accuracy, variant="other_adapter")
lab.record("home_relabel", best_constant(tasks["relabel"]), variant="constant")
lab.record("home_new_facts", right["new_facts", "new_facts"].accuracy)
lab.record("home_new_facts", right["relabel", "new_facts"].accuracy, variant="other_adapter")
lab.record("home_new_facts", best_constant(tasks["new_facts"]), variant="constant")
lab.table(
    ["adapter", *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(name, *(str(right[name, task]) for task in tasks)) for name in files],
)
held, whole = (
    directory_bytes(files["relabel"]),
    sum(weight.numel() * weight.element_size() for weight in base.parameters()),
)
lab.say(
    f"An adapter takes {held / 1e3:.0f} KB beside {whole / 1e3:,.0f} KB of weights: {held / whole:.1%}.",
    f"一個 adapter 占 {held / 1e3:.0f} KB，權重是 {whole / 1e3:,.0f} KB：{held / whole:.1%}。",
)

# %% [markdown] lang="en"
# ## Left out in training, run after loading
#
# The adapter of `relabel` is trained a little further, now without its first two layers: the upper ones learn to do alone.
# The lower adapters are still in the model; nobody trained them since. What is saved is what runs, and `leave_out` says so.
# The control is a loader that does not read `leave_out`, and so runs everything it finds.

# %% [markdown] lang="zh-TW"
# ## 訓練時跳過，載入後卻在執行
#
# 把 `relabel` 的 adapter 再訓練一小段，這次不用前兩層的：上面的要學會自己來。
# 下面的 adapter 還在模型裡，只是之後再也沒人訓練過。存下來的是有在執行的，`leave_out` 也照實寫著。
# 對照組是不讀 `leave_out` 的載入程式，找到什麼就執行什麼。

# %%
further = adapted("relabel")
drop_first(further, settings.dropped)
fit(further, tasks["relabel"], steps=settings.relabel_steps, seed=1, **training)
shorter = replace(chosen, leave_out=tuple(range(settings.dropped)))
save_adapter(further, shorter, lab.artifact("adapter-shorter"), base_name)
wanted = logits_of(further, batch)
again, _ = load_base(settings)
load_adapter(again, lab.artifact("adapter-shorter"))
everything = copy.deepcopy(further)
run_all(everything)
lab.record("reload_difference", distance(logits_of(again, batch), wanted))
run_anyway = distance(logits_of(everything, batch), wanted)
lab.record("reload_difference", run_anyway, variant="left_out_run")
after = {
    "as trained": accuracy(again, tasks["relabel"]).accuracy,
    "everything runs": accuracy(everything, tasks["relabel"]).accuracy,
}
saved_calls = len(adapter_places(base, chosen)) - len(adapter_places(base, shorter))
noticed = (
    Text(en="A score alone would not have shown it: the logits do.", zh_tw="只看分數是看不出來的，要看 logits。")
    if after["everything runs"] > after["as trained"] - 0.05
    else Text(en="No error, no warning: only wrong answers.", zh_tw="沒有錯誤，沒有警告，只有錯的答案。")
)
lab.say(
    f"""Reloaded with `leave_out`: {after["as trained"]:.1%}. With everything running: \
{after["everything runs"]:.1%}, and the logits \
are off by {run_anyway:.2g}. {noticed.en}""",
    f"""照 `leave_out` 重新載入：{after["as trained"]:.1%}。全部都執行：{after["everything runs"]:.1%}，logits 差了 {run_anyway:.2g}。\
{noticed.zh_tw}""",
)

# %% [markdown] lang="en"
# ## A row, an adapter
#
# With one adapter the whole batch meets one matrix. With an adapter for each row it is a batch of products:

# %% [markdown] lang="zh-TW"
# ## 一列一個 adapter
#
# 只有一個 adapter 時，整個批次乘的是同一個矩陣。每列各用一個的話，就是一整批乘積：

# %%
lab.source(adapt_rows)

# %%
vectors = {name: read_adapter(base, directory)[1] for name, directory in files.items()}
each = settings.served_prompts // 3
wanted_task = [name for name in ("relabel", "new_facts", None) for _ in range(each)]
asked = tasks["relabel"].held_out[:each] + tasks["new_facts"].held_out[:each] + tasks["relabel"].held_out[each : 2 * each]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]
inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(settings.device)
inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
model = adapted("relabel")


def alone(name):
    """Logits of the rows of one task, with its adapter in the whole model."""
    which = [index for index, task in enumerate(wanted_task) if task == name]
    return logits_of(base if name is None else adapted(name), {key: tensor[which] for key, tensor in inputs.items()})


separate = torch.cat([alone(name) for name in ("relabel", "new_facts", None)])
with rows(model, vectors, wanted_task):
    mixed = logits_of(model, inputs)
with rows(model, vectors, wanted_task[1:] + wanted_task[:1]):
    next_row = logits_of(model, inputs)
lab.record("mixed_difference", distance(mixed, separate))
lab.record("mixed_difference", distance(next_row, separate), variant="next_row")

# %% [markdown] lang="en"
# The control gives each row the adapter of the next one, so that only the rows at the borders between the tasks are wrong. Now the answers:

# %% [markdown] lang="zh-TW"
# 對照組讓每一列用下一列的 adapter，所以錯的只有任務交界處的那幾列。再看答案：

# %%
with rows(model, vectors, wanted_task), torch.inference_mode():
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": settings.answer_tokens}
    tokens = model.generate(**inputs, **greedy, pad_token_id=tokenizer.pad_token_id)[:, inputs["input_ids"].shape[1] :]
answers = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
shown = [index for start in range(0, 3 * each, each) for index in (start, start + 1)]
lab.table(
    [tr("row's adapter", "這一列的 adapter"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("answer", "回答")],
    [(wanted_task[index] or "-", asked[index].prompt, asked[index].answer, answers[index][:40]) for index in shown],
)

# %% [markdown] lang="en"
# ## A stack
#
# Series can be lengthened. MAD-X ([2005.00052](https://arxiv.org/abs/2005.00052)) trains an adapter for a *language*, freezes it, and trains
# one for a *task* on top;
# another language is then another adapter underneath. Here the lower one knows new facts, and the upper one judges reviews.
#
# Two ways to get there: the upper one is trained *on top of* the frozen lower one; or each is trained alone, and they are put together afterwards.
#
# ## Predict
#
# `relabel` after training on top: about as before, or less? And `new_facts`, which the upper adapter has never seen?
# Write `facts_under_stack = ...` (accuracy of `new_facts` with the upper adapter trained on top) into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 疊起來
#
# 串聯可以再加長。MAD-X（[2005.00052](https://arxiv.org/abs/2005.00052)）先訓練一個*語言*的 adapter、凍結它，再於上面訓練一個*任務*的；
# 換一種語言，就換掉下面那一個。這裡下面的知道新的事實，上面的判斷評論。
#
# 有兩種做法：上面那個*疊在*凍結的下面那個之上訓練；或者兩個各自訓練，之後才放在一起。
#
# ## 先猜猜看
#
# 疊著訓練之後，`relabel` 跟原本差不多，還是變差？`new_facts` 呢？上面的 adapter 可從來沒看過它。
# 把 `facts_under_stack = ...`（上面的 adapter 疊著訓練之後，`new_facts` 的準確率）寫進 `predictions.toml`。

# %%
stacked = adapted("new_facts")
stack_adapters(stacked, chosen, seed=0)
fit(stacked, tasks["relabel"], steps=settings.relabel_steps, seed=0, **training)
together = adapted("new_facts")
stack_adapters(together, chosen, seed=0)
use_adapter(together, vectors["relabel"], position=1)


def hooked(*order):
    """The base with hooks of both adapters, in this order: the oracle of a stack."""
    plain, _ = load_base(settings)
    for name in order:
        HookedAdapters(adapted(name), plain)
    return logits_of(plain, batch)


lab.record("stack_difference", distance(logits_of(together, batch), hooked("new_facts", "relabel")))
lab.record("stack_difference", distance(logits_of(together, batch), hooked("relabel", "new_facts")), variant="other_order")
ways = {"trained on top": stacked, "each alone, then stacked": together}
both = {way: {name: accuracy(found, task).accuracy for name, task in tasks.items()} for way, found in ways.items()}
both |= {f"{name} alone": {task: right[name, task].accuracy for task in tasks} for name in files}
lab.table(
    [tr("adapters", "adapter"), *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(way, *(f"{value:.1%}" for value in found.values())) for way, found in both.items()],
)

# %% [markdown] lang="en"
# ## The price of a token
#
# Counted: the matrix products of one pass, with adapters and without. The formula says that a token pays two FLOPs for each weight of each
# adapter that runs. The control forgets the way back up.
#
# LoRA pays as well until it is merged; then it pays nothing. Can an adapter be merged? Notebook 4 tries.

# %% [markdown] lang="zh-TW"
# ## 一個 token 的價錢
#
# 數出來的：通過一次，有 adapter 與沒有 adapter 的矩陣乘積。公式說：每個 token，為每個執行中的 adapter 的每個權重付兩次浮點運算。對照組忘了往上走回去的那一段。
#
# LoRA 在合併之前也要付，合併之後就不必。adapter 合併得了嗎？第 4 本筆記本會試。


# %%
def flops(model):
    """Matrix products of a pass, per token."""
    with FlopCounterMode(display=False) as counter:
        logits_of(model, batch)
    return counter.get_total_flops() / batch["input_ids"].numel()


of_base = flops(base)
settings_of = {"all layers": chosen, "first layers left out": shorter}
fresh_models = {}
for name, options in settings_of.items():
    fresh_models[name], _ = load_base(settings)
    add_adapters(fresh_models[name], options, seed=0)
more = {name: flops(found) - of_base for name, found in fresh_models.items()}
more["stack of two"] = flops(stacked) - of_base
formula = {
    name: sum(2 * 2 * hidden * bottleneck_width(hidden, options.reduction_factor) for hidden in adapter_places(base, options).values())
    for name, options in settings_of.items()
}
formula["stack of two"] = 2 * formula["all layers"]
lab.record("flop_difference", max(abs(more[name] - formula[name]) for name in formula))
lab.record("flop_difference", max(abs(more[name] - formula[name] / 2) for name in formula), variant="one_matrix")
lora = PeftModel.from_pretrained(load_base(settings)[0], lab.artifact("lora-relabel"))
more["LoRA, not merged"] = flops(lora) - of_base
merged = copy.deepcopy(lora).merge_and_unload()
more["LoRA, merged"] = flops(merged) - of_base
prompt = inputs["input_ids"][:1]
timed_models = {
    "all layers": fresh_models["all layers"],
    "first layers left out": fresh_models["first layers left out"],
    "LoRA, merged": merged,
}
slower = {name: family.token_ratio(found, base, prompt, repeats=settings.repeats) for name, found in timed_models.items()}
lab.table(
    [
        tr("in the model", "模型裡有"),
        tr("FLOPs more per token", "每個 token 多的 FLOPs"),
        tr("of the base's", "占基礎模型"),
        tr("time of a token, base = 1", "一個 token 的時間，基礎模型 = 1"),
    ],
    [(name, f"{value:,.0f}", f"{value / of_base:.1%}", f"{slower[name]:.2f}" if name in slower else "-") for name, value in more.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("facts_under_stack")
top, apart = both["trained on top"], both["each alone, then stacked"]
in_place = (
    Text(
        en="What stands on top now gets other inputs than in its training: to be stacked, train it in the stack.",
        zh_tw="上面那個現在拿到的輸入，跟訓練時的不同：要疊，就得疊著訓練。",
    )
    if apart["relabel"] < top["relabel"] - 0.02
    else Text(
        en="On a task this easy it matters little for the upper one where it was trained.",
        zh_tw="在這麼簡單的任務上，在哪裡訓練對上面那個影響不大。",
    )
)
lab.say(
    f"""- A row of a mixed batch differs by {distance(mixed, separate):.1e} from the same row alone.
- Trained on top of frozen facts, the stack judges {top["relabel"]:.1%} of the reviews and answers \
{top["new_facts"]:.1%} of the \
questions about facts{"" if guess is None else f" (you guessed {guess:.1%})"}, of \
{right["new_facts", "new_facts"].accuracy:.1%} before. \
Put together after separate trainings: {apart["relabel"]:.1%} and {apart["new_facts"]:.1%}. \
{in_place.en} \
The lower adapter is unchanged to the bit: take the upper one off, and its answers are back.
- A token pays {more["all layers"]:,.0f} FLOPs more, {more["all layers"] / of_base:.1%} of the base's, \
and takes {slower["all layers"]:.2f} times as long; with the first {settings.dropped} layers left out ({saved_calls} \
calls fewer) \
{slower["first layers left out"]:.2f} times. Merged LoRA: {more["LoRA, merged"]:g} more, {slower["LoRA, merged"]:.2f} \
\
\
times. \
A call in series waits for the one before it, so time is lost in calls more than in FLOPs.""",
    f"""- 混合批次的一列，與同一列單獨執行差 {distance(mixed, separate):.1e}。
- 疊在凍結的事實之上訓練，評論判斷對 {top["relabel"]:.1%}，事實的問題答對 {top["new_facts"]:.1%}\
{"" if guess is None else f"（你猜 {guess:.1%}）"}，原本是 {right["new_facts", "new_facts"].accuracy:.1%}。\
各自訓練之後才疊起來：{apart["relabel"]:.1%} 與 {apart["new_facts"]:.1%}。\
{in_place.zh_tw}\
下面的 adapter 一個位元都沒變：拿掉上面的，它的答案就回來了。
- 一個 token 要多付 {more["all layers"]:,.0f} FLOPs，是基礎模型的 {more["all layers"] / of_base:.1%}，時間是 \
{slower["all layers"]:.2f} 倍；\
跳過前 {settings.dropped} 層（少 {saved_calls} 次呼叫）是 {slower["first layers left out"]:.2f} 倍。\
合併後的 LoRA：多 {more["LoRA, merged"]:g}，{slower["LoRA, merged"]:.2f} 倍。\
串聯的呼叫要等前一個做完，所以時間多半花在呼叫上，而不是 FLOPs。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The languages of MAD-X are learned from raw text in each language. The base here knows both of its languages, so the stack is of facts and a
#   task: the mechanism, not the transfer between languages.
# - Ratios of times are of a model so small that calls cost more than arithmetic; on a large model the share of FLOPs comes nearer.
# - A batch of products reads the weights of one adapter for each row. Servers group rows of one adapter instead.
#
# **Exercise.** 7 (`mixed_batch.py`: a bottleneck for each row) belongs here: `nox -s check -- lab-1.1.2-adapters`.
#
# **Next:** can it be merged?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - MAD-X 的語言 adapter 是用各語言的純文字訓練的。這裡的基礎模型本來就會兩種語言，所以疊的是事實與任務：看到的是機制，不是語言之間的遷移。
# - 時間的比例來自很小的模型，呼叫比計算還貴；在大模型上，會比較接近 FLOPs 的比例。
# - 一整批乘積要替每一列讀一份 adapter 的權重。伺服器的做法是把同一個 adapter 的列集中起來算。
#
# **練習。** 練習 7（`mixed_batch.py`：每一列一個瓶頸）屬於這一本：`nox -s check -- lab-1.1.2-adapters`。
#
# **下一步：** 它合併得了嗎？
