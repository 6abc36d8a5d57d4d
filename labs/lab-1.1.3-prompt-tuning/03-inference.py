# %% [markdown] lang="en"
# # 3. Inference: another prompt in every row
#
# **Question.** One server, many tasks. With LoRA a batch has one adapter, or needs kernels for several. What does a batch need in which every row has its own prompt, and what does a prompt cost with each token?
#
# | | |
# |---|---|
# | You build | a batch of rows with prompts of their own, of different lengths too; the bill of a prompt in FLOPs and in time; the words nearest to the vectors |
# | You need | half a minute on two CPU cores, 1 GB of memory; the prompts of notebook 2 |
# | You should see | whether neighbours in a batch disturb each other; what each prompt does away from its task; what is forgotten; what the nearest words are worth |

# %% [markdown] lang="zh-TW"
# # 3. 推論：每一列都有自己的提示
#
# **問題。** 一台伺服器，很多任務。LoRA 的一個批次只能用一個 adapter，不然就需要專用的 kernel。如果每一列都有自己的提示，一個批次需要什麼？提示讓每個 token 多花多少？
#
# | | |
# |---|---|
# | 你會做出 | 每一列有自己提示的批次，長度也可以不同；提示的帳單，用 FLOPs 與時間來算；離這些向量最近的字 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的提示 |
# | 你應該看到 | 同一個批次的鄰居會不會互相干擾；每個提示離開自己的任務會怎樣；忘了什麼；最近的字值多少 |

# %%
import torch
from torch.utils.flop_counter import FlopCounterMode

from broken_variants import linear_layers_alone, swapped
from new_words import nearest_words
from onepiece import lab
from onepiece.adaptation import accuracy, batches, best_constant, distance, forgetting, load_base, load_task, logits_of
from onepiece.adaptation.soft_prompt import SoftPromptModel
from onepiece.course.text import tr
from onepiece.measure import timed
from onepiece.tiny.tokenizer import prompt_text
from prompt_files import load_prompt, read_prompt
from prompt_tuning import SoftPrompt, before_text, token_flops
from skill_tasks import skill_task

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
table = base.get_input_embeddings().weight.detach()
files = {
    "relabel": lab.artifact("prompt-relabel"),
    "reversed": lab.artifact("prompt-reversed"),
    "picked": lab.artifact("prompt-picked"),
}
prompts = {name: read_prompt(path, table.shape[1]).requires_grad_(False) for name, path in files.items()}
sizes = {"train_items": settings.batch, "held_out_items": settings.skill_items, "chat": settings.chat}
tasks = {
    "relabel": load_task("relabel", tokenizer, **sizes),
    "reversed": skill_task("reversed", tokenizer, **sizes),
    "picked": skill_task("picked", tokenizer, **sizes),
}
reading = {name: load_prompt(base, path) for name, path in files.items()}

# %% [markdown] lang="en"
# ## Switching is nothing
#
# The model is the same object for all prompts; a prompt is an argument. What does each do on the others' tasks?

# %% [markdown] lang="zh-TW"
# ## 切換幾乎零成本
#
# 所有提示共用同一個模型物件；提示只是一個引數。每個提示在別人的任務上會怎樣？

# %%
right = {(name, task): accuracy(reading[name], tasks[task]).accuracy for name in reading for task in tasks}
home = min(right[name, name] for name in reading)
away = max(right[name, task] for name in reading for task in tasks if task != name)
lab.record("home", home)
lab.record("home", away, variant="other_task")
lab.record("home", min(best_constant(task) for task in tasks.values()), variant="constant")
lab.table(
    [tr("prompt", "提示"), *(tr(f"right on {task}", f"{task} 答對") for task in tasks)],
    [(name, *(f"{right[name, task]:.0%}" for task in tasks)) for name in reading],
)

# %% [markdown] lang="en"
# ## Predict
#
# Row 1 is read with the prompt for `relabel`, row 2 with that for reversing, another row with a prompt of three vectors, and so on, all in one batch. By how much do the logits differ from those of each row alone, relative to the largest? Write `mixed_difference = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 第 1 列用 `relabel` 的提示讀，第 2 列用反轉的，另一列用一個只有三個向量的提示，依此類推，全部放進同一個批次。跟每一列單獨算相比，logits 會差多少（相對於最大值）？把 `mixed_difference = ...` 寫進 `predictions.toml`。

# %%
prompts["three vectors"] = SoftPrompt(prompts["relabel"].vectors[:3].clone()).requires_grad_(False)
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
names = [list(prompts)[row % len(prompts)] for row in range(settings.batch)]
model = SoftPromptModel(base, prompts["relabel"], before_text)
with model.using([prompts[name] for name in names]):
    mixed = logits_of(model, batch)  # (tokens, vocabulary)
exchanged = swapped(prompts)
with model.using([exchanged[name] for name in names]):
    wrong = logits_of(model, batch)
alone = []
for row, name in enumerate(names):
    one = {key: batch[key][row : row + 1] for key in ("input_ids", "attention_mask")}
    with model.using([prompts[name]]):
        alone.append(logits_of(model, one))
alone = torch.cat(alone)
mixed_apart, wrong_apart = distance(mixed, alone), distance(wrong, alone)
lab.record("mixed_difference", mixed_apart)
lab.record("mixed_difference", wrong_apart, variant="swapped")
guess = lab.predict("mixed_difference")
lab.say(
    f"{len(set(names))} prompts of {', '.join(str(len(prompt.vectors)) for prompt in prompts.values())} vectors in one "
    f"batch of {settings.batch}: the logits differ by "
    f"{mixed_apart:.1e}{'' if guess is None else f' (you guessed {guess:.1e})'}. "
    f"With the prompts handed to the wrong rows it would be {wrong_apart:.2g}. No kernel was written for it: "
    f"prompts are rows of inputs.",
    f"{len(set(names))} 個提示，長度分別是 {'、'.join(str(len(prompt.vectors)) for prompt in prompts.values())} 個向量，放在 "
    f"{settings.batch} 列的同一個批次：logits 差 {mixed_apart:.1e}{'' if guess is None else f'（你猜 {guess:.1e}）'}。"
    f"提示給錯列的話，會差 {wrong_apart:.2g}。沒有為它寫任何 kernel：提示就是輸入的一部分。",
)

# %% [markdown] lang="en"
# ## The bill
#
# A merged LoRA costs nothing. A prompt cannot be merged: its keys and values are looked at by every token to come. Counted by PyTorch for one new token, and as a formula; the control forgets attention, which is all that grows with the context.

# %% [markdown] lang="zh-TW"
# ## 帳單
#
# 合併過的 LoRA 不花任何代價。提示不能合併：之後的每個 token 都要看它的 key 與 value。這裡讓 PyTorch 數一個新 token 的 FLOPs，再與公式比；對照組忘了注意力，而會隨上下文變長的只有注意力。

# %%
text = tokenizer(prompt_text(tasks["reversed"].held_out[0], tokenizer, chat=settings.chat), add_special_tokens=False)[
    "input_ids"
]
ids, virtual = torch.tensor([text], device=base.device), settings.virtual_tokens


@torch.no_grad()
def counted(length):
    """FLOPs of one token after `length` others, as PyTorch counts the products of the plain attention."""
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    cache = base(ids[:, :1].expand(1, length), use_cache=True).past_key_values
    with FlopCounterMode(display=False) as counter:
        base(ids[:, :1], past_key_values=cache, use_cache=True)
    base.set_attn_implementation(before)
    return counter.get_total_flops()


off, off_linear, bill = 0, 0, {}
for extra in (0, virtual):
    flops = token_flops(base.config, len(text) + extra + 1)
    bill[extra] = counted(len(text) + extra)
    off += abs(flops - bill[extra])
    off_linear += abs(linear_layers_alone(base.config, flops, len(text) + extra + 1) - bill[extra])
lab.record("flops_difference", off)
lab.record("flops_difference", off_linear, variant="attention_forgotten")

inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
exactly = {"min_new_tokens": settings.answer_tokens, "max_new_tokens": settings.answer_tokens, "do_sample": False}
times = timed(
    {
        "prompt": lambda: reading["reversed"].generate(**inputs, **exactly),
        "base": lambda: base.generate(**inputs, **exactly),
    },
    repeats=settings.repeats,
)
ratio = times["prompt"].median / times["base"].median
lab.say(
    f"""- One new token after {len(text)} tokens of text: {bill[0]:,} FLOPs; \
with {virtual} vectors before them {bill[virtual]:,}, {bill[virtual] / bill[0] - 1:.1%} more. \
The formula is off by {off}.
- Before the first token the prompt is read like {virtual} more tokens of text: {(len(text) + virtual) / len(text):.1f} times as many here.
- Measured, {settings.answer_tokens} tokens take {ratio:.2f} times as long as without a prompt (reported, not gated).""",
    f"""- {len(text)} 個 token 的文字之後，一個新 token 要 {bill[0]:,} FLOPs；前面多了 {virtual} 個向量則是 {bill[virtual]:,}，多 {bill[virtual] / bill[0] - 1:.1%}。公式差 {off}。
- 在第一個 token 出來之前，提示就像多了 {virtual} 個 token 的文字要讀：在這裡是原來的 {(len(text) + virtual) / len(text):.1f} 倍。
- 實際量測，{settings.answer_tokens} 個 token 花的時間是沒有提示時的 {ratio:.2f} 倍（只報告，不設關卡）。""",
)

# %% [markdown] lang="en"
# ## What was forgotten?
#
# Nothing was moved, so without the prompt nothing is lost. With it, the model is another one:

# %% [markdown] lang="zh-TW"
# ## 忘了什麼？
#
# 什麼都沒動過，所以不用提示就什麼也沒少。用了提示，就是另一個模型：

# %%
skills_asked = ("facts", "reverse", "pick", "sentiment")
kept = {tr("no prompt", "沒有提示"): base} | reading
left = {
    name: forgetting(each, tokenizer, skills_asked, per_language=10, chat=settings.chat) for name, each in kept.items()
}
lab.table(
    [tr("prompt", "提示"), *skills_asked],
    [(name, *(f"{scores[skill].accuracy:.0%}" for skill in skills_asked)) for name, scores in left.items()],
)

# %% [markdown] lang="en"
# ## Can one read a prompt?
#
# Lester et al. look for the words nearest to each vector. If they *were* the prompt, one could write them instead. We do: the second row reads the nearest words themselves.

# %% [markdown] lang="zh-TW"
# ## 提示讀得懂嗎？
#
# Lester 等人找出離每個向量最近的字。如果那些字*就是*提示，直接寫出來也可以。我們試試看：第二列讀的就是那些最近的字。

# %%
vectors = prompts["relabel"].vectors
nearest = nearest_words(vectors, table)
written = SoftPromptModel(base, SoftPrompt(table[nearest].clone()), before_text)
by_words = accuracy(written, tasks["relabel"]).accuracy
lengths = vectors.norm(dim=1).mean() / table.norm(dim=1).mean()
print(" | ".join(tokenizer.convert_ids_to_tokens(nearest[:12])))
lab.table(
    [tr("before the question", "問題前面"), tr("right on relabel", "relabel 答對")],
    [
        (tr("the trained vectors", "訓練過的向量"), f"{right['relabel', 'relabel']:.0%}"),
        (tr("their nearest words", "離它們最近的字"), f"{by_words:.0%}"),
    ],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- At home a prompt is right in at least {home:.0%}, on the others' tasks in at most {away:.0%}.
- Rows with prompts of their own do not disturb each other ({mixed_apart:.1e}).
- The price is paid with every request, in positions and in attention: \
{bill[virtual] / bill[0] - 1:.1%} more FLOPs for a token here, less in a wider model, more than that for reading.
- The nearest words get {by_words:.0%}. The vectors are {lengths:.1f} times as long as words: they stand where no word is.""",
    f"""- 在自己的任務上，提示至少答對 {home:.0%}；在別人的任務上最多 {away:.0%}。
- 各列有自己的提示，不會互相干擾（{mixed_apart:.1e}）。
- 代價是每個請求都要付，付在位置與注意力上：在這裡每個 token 多 {bill[virtual] / bill[0] - 1:.1%} 的 FLOPs，模型越寬越少；讀提示的部分則比這個多。
- 最近的字答對 {by_words:.0%}。這些向量的長度是字的 {lengths:.1f} 倍：那裡本來就沒有字。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The share of attention in the bill depends on width and context; the formula carries over, the percent does not.
# - Three prompts and one seed. What nearest words say of larger models is in the paper.
#
# **Next:** a server that takes no vectors at all. How does it get the prompt?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 帳單裡注意力的比例取決於寬度與上下文長度；可以套用到大模型的是公式，不是百分比。
# - 只有三個提示、一個種子。大模型上最近的字說明了什麼，論文裡有。
#
# **下一步：** 有一台伺服器，根本不收向量。它要怎麼拿到提示？
