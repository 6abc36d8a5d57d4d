# %% [markdown] lang="en"
# # 2. Train: what can be asked for, and what cannot?
#
# **Question.** A prompt moves no weight. It can only change what the frozen layers do with a text. What can be taught in this way?
#
# | | |
# |---|---|
# | You build | the training of three tasks over three seeds beside full fine-tuning; starts and lengths compared; the same letters with taught and untaught answers; a look into the attention |
# | You need | three minutes on two CPU cores, 1 GB of memory |
# | You should see | what the rate of another method does; which answers a prompt can ask for and which not, and whether its size is to blame; an equation that says what a prompt cannot change |

# %% [markdown] lang="zh-TW"
# # 2. 訓練：提示引得出什麼，又引不出什麼？
#
# **問題。** 提示不動任何權重，只能改變凍結的層怎麼處理一段文字。用這種方式，教得會什麼？
#
# | | |
# |---|---|
# | 你會做出 | 三個任務、三個種子的訓練，旁邊是全參數微調；比較初始值與長度；同樣的字母，教過與沒教過的答案；看看注意力內部的變化 |
# | 你需要 | 兩個 CPU 核心跑三分鐘，1 GB 記憶體 |
# | 你應該看到 | 用了別的方法的學習率會怎麼樣；提示要得到哪些答案、要不到哪些，是不是提示太小的緣故；一條方程式，說明提示改不了什麼 |

# %%
import numpy as np
import torch

from onepiece.models import count_parameters, quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

from peft import LoraConfig, get_peft_model

from attention_over_text import moved_attention, weights_over_text
from broken_variants import train_the_table_too
from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    base_identity,
    best_constant,
    changed_tensors,
    directory_bytes,
    family,
    fit,
    load_base,
    tensor_hashes,
)
from onepiece.course.text import Text, tr
from onepiece.measure import peak_memory
from onepiece.tiny.tokenizer import prompt_text
from onepiece.world.words import CODES
from prompt_figures import attention_pictures, losses_by_answer, starts_and_lengths
from prompt_files import load_prompt, save_prompt
from prompt_tuning import PromptSettings, add_prompt, answer_tokens
from skill_tasks import ANSWERS, TAUGHT, skill_task

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
whole = count_parameters(base).total
tasks = family.load_tasks(tokenizer, chat=settings.chat)
chosen = PromptSettings(settings.virtual_tokens)
first_seed = settings.seeds[0]
steps_of = {"relabel": settings.relabel_steps, "compose": settings.compose_steps, "new_facts": settings.facts_steps}


def fresh(options=chosen, *, seed):
    """The base with a new prompt."""
    return add_prompt(load_base(settings)[0], options, seed=seed)


# %% [markdown] lang="en"
# ## Predict
#
# Two guesses for `predictions.toml`:
#
# ```toml
# relabel_vs_full = 0.9      # the prompt's held-out accuracy on relabel, divided by that of full fine-tuning
# compose_accuracy = 0.5     # the prompt's held-out accuracy on compose, 0 to 1
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 把兩個猜測寫進 `predictions.toml`：
#
# ```toml
# relabel_vs_full = 0.9      # relabel 的保留題目：提示的準確率除以全參數微調的準確率
# compose_accuracy = 0.5     # compose 的保留題目：提示的準確率，0 到 1
# ```

# %% [markdown] lang="en"
# ## The family's row, and full fine-tuning beside it
#
# Three tasks and three seeds, as every lab of this module measures them; full fine-tuning on `relabel`. The rates of both were searched equally hard: `nox -s calibrate -- lab-1.1.3-prompt-tuning`. Two controls: the prompt with the rate that suits LoRA (lab 1.1.1), and full fine-tuning at a tenth of its own.

# %% [markdown] lang="zh-TW"
# ## 這個家族的一列，旁邊是全參數微調
#
# 三個任務、三個種子，跟這個單元每個實驗的量法一樣；全參數微調則只做 `relabel`。兩邊的學習率是用同樣的預算搜尋的：`nox -s calibrate -- lab-1.1.3-prompt-tuning`。兩個對照組：提示用適合 LoRA 的學習率（實驗 1.1.1），以及全參數微調只用自己的十分之一。

# %%
rate = settings.relabel_rate
runs, prompts, changed = {}, {}, []
for name, seed in lab.progress([(name, seed) for name in family.TASKS for seed in family.SEEDS]):
    model = fresh(seed=seed)
    before = tensor_hashes(model.base)
    budget = {"steps": steps_of[name], "learning_rate": rate, "schedule": settings.schedule}
    runs[name, seed] = family.learn(model, tasks[name], seed=seed, **budget)
    if seed == first_seed:
        prompts[name] = model
        changed += changed_tensors(before, tensor_hashes(model.base))
lab.record("changed_tensors", len(changed))
adapter = save_prompt(prompts["relabel"], lab.artifact("prompt-relabel"), base_name)


# %%
def train_fully(rate, seed):
    """Full fine-tuning on relabel: the held-out accuracy."""
    model, _ = load_base(settings)
    model.requires_grad_(True)
    budget = {"steps": settings.relabel_full_steps, "batch_size": family.BATCH, "schedule": settings.full_schedule}
    fit(model, tasks["relabel"], learning_rate=rate, seed=seed, progress=False, **budget)
    return accuracy(model, tasks["relabel"]).accuracy


full = {seed: train_fully(settings.relabel_full_rate, seed) for seed in lab.progress(settings.seeds)}
at_tenth = train_fully(settings.relabel_full_rate / 10, first_seed)
slow = fresh(seed=first_seed)
budget = {"steps": settings.relabel_steps, "batch_size": family.BATCH, "schedule": settings.schedule}
fit(slow, tasks["relabel"], learning_rate=settings.lora_rate, seed=first_seed, progress=False, **budget)
at_lora_rate = accuracy(slow, tasks["relabel"]).accuracy

# The nearest mistake to "only the prompt is trained": the table that the prompt stands in for is trained too.
careless = fresh(seed=first_seed)
train_the_table_too(careless)
before = tensor_hashes(careless.base)
fit(careless, tasks["relabel"], steps=1, learning_rate=rate, batch_size=family.BATCH, seed=first_seed, progress=False)
lab.record("changed_tensors", len(changed_tensors(before, tensor_hashes(careless.base))), variant="table_trained")


# %%
def relative(right, seed):
    """As a share of full fine-tuning; not a number if that is zero, which no gate accepts."""
    return right / full[seed] if full[seed] else float("nan")


constant = {name: best_constant(task) for name, task in tasks.items()}
for seed in settings.seeds:
    lab.record("full_accuracy", full[seed], seed=seed)
    lab.record("relabel_vs_full", relative(runs["relabel", seed].accuracy, seed), seed=seed)
    lab.record("relabel_vs_full", relative(constant["relabel"], seed), seed=seed, variant="constant")
lab.record("full_accuracy", at_tenth, seed=first_seed, variant="tenth_of_the_rate")
lab.record("full_accuracy", constant["relabel"], seed=first_seed, variant="constant")
lab.record("relabel_vs_full", relative(at_lora_rate, first_seed), seed=first_seed, variant="lora_rate")

trained = count_parameters(prompts["relabel"]).trainable
one_step = {"steps": 1, "learning_rate": 0.0, "batch_size": family.BATCH, "seed": 0, "progress": False}
measured = fresh(seed=first_seed)
ids = tokenizer("27 + 15 →", return_tensors="pt")["input_ids"].to(settings.device)
row = {
    "trained": trained,
    "total": whole,
    "file_bytes": directory_bytes(adapter),
    "peak_bytes": peak_memory(lambda: fit(measured, tasks["compose"], **one_step), settings.device),
    "token_ratio": family.token_ratio(prompts["compose"], base, ids, repeats=settings.repeats),
}
family.record_row(runs, mergeable=False, **row)


def by_seed(name):
    """Accuracies in the order of the seeds."""
    return [runs[name, seed].accuracy for seed in family.SEEDS]


lab.table(
    [
        *(tr("task", "任務"), tr("steps", "步數"), tr("prompt, by seed", "提示，各種子")),
        *(tr("always the same answer", "永遠答同一個"), tr("training loss at the end", "最後的訓練損失")),
    ],
    [
        (
            name,
            steps_of[name],
            ", ".join(f"{right:.1%}" for right in by_seed(name)),
            f"{constant[name]:.1%}",
            f"{np.mean(runs[name, first_seed].history.losses[-10:]):.2f}",
        )
        for name in family.TASKS
    ],
)

# %%
guess, guess_compose = lab.predict("relabel_vs_full"), lab.predict("compose_accuracy")
against = float(np.mean([relative(runs["relabel", seed].accuracy, seed) for seed in settings.seeds]))
composed, facts = float(np.mean(by_seed("compose"))), float(np.mean(by_seed("new_facts")))
lab.say(
    f"""- {trained:,} of {whole:,} numbers ({trained / whole:.2%}) reach {against:.0%} of full fine-tuning on \
`relabel`{"" if guess is None else f" (you guessed {guess:.0%})"}, in {settings.relabel_steps} steps instead of \
{settings.relabel_full_steps}.
- With the rate that suits LoRA, {settings.lora_rate:g} instead of {rate:g}, the same prompt gets {at_lora_rate:.0%}; \
always the same answer gets {constant["relabel"]:.0%}. Whoever stops there writes that the method is weak. \
A vector has to travel far, and each of its numbers moves at most by about the rate in a step of Adam.
- On `compose` it gets {composed:.0%} in {settings.compose_steps} \
steps{"" if guess_compose is None else f" (you guessed {guess_compose:.0%})"}, on `new_facts` {facts:.0%} in \
{settings.facts_steps}.""",
    f"""- {whole:,} 個數字中的 {trained:,} 個（{trained / whole:.2%}），在 `relabel` 達到全參數微調的 \
{against:.0%}{"" if guess is None else f"（你猜 {guess:.0%}）"}，用了 {settings.relabel_steps} 步，全參數微調是 \
{settings.relabel_full_steps} 步。
- 用適合 LoRA 的學習率（{settings.lora_rate:g}，而不是 {rate:g}），同一個提示只有 {at_lora_rate:.0%}；永遠答同一個答案有 {constant["relabel"]:.0%}。\
在這裡停手的人，就會寫下「這個方法很弱」。向量要走很遠，而在 Adam 的一步裡，每個數字最多大約只移動一個學習率。
- `compose` 在 {settings.compose_steps} 步之後是 \
{composed:.0%}{"" if guess_compose is None else f"（你猜 {guess_compose:.0%}）"}，`new_facts` 在 {settings.facts_steps} \
步之後是 {facts:.0%}。""",
)

# %%
forgotten = {name: runs[name, first_seed].kept for name in family.TASKS}
asked = list(forgotten["relabel"])
lab.table(
    [tr("kept with the prompt of", "用這個任務的提示時還會"), *asked],
    [(name, *(f"{values[skill]:.0%}" for skill in asked)) for name, values in forgotten.items()],
)

# %% [markdown] lang="en"
# ## Where to begin, and how long?
#
# The paper's three starts (section 2.1), and several lengths; fewer steps and one seed. The words for the third start are the answers of the task.

# %% [markdown] lang="zh-TW"
# ## 從哪裡開始，要多長？
#
# 論文的三種初始值（第 2.1 節），以及幾種長度；步數較少，一個種子。第三種初始值用的字，就是這個任務的答案。

# %%
answers = answer_tokens(tokenizer, [word for code in CODES for word in code])
options = {
    "random": PromptSettings(settings.virtual_tokens, "random"),
    "vocabulary": chosen,
    "answers": PromptSettings(settings.virtual_tokens, "text", answers),
}
options |= {length: PromptSettings(length) for length in settings.short_lengths if length != settings.virtual_tokens}
short = {}
for name, option in lab.progress(options.items()):
    model = fresh(option, seed=first_seed)
    budget = {
        "steps": settings.short_steps,
        "learning_rate": rate,
        "schedule": settings.schedule,
        "batch_size": family.BATCH,
    }
    history = fit(model, tasks["relabel"], seed=first_seed, progress=False, **budget)
    short[name] = history.losses, accuracy(model, tasks["relabel"]).accuracy
short[settings.virtual_tokens] = short["vocabulary"]
starts = {name: short[name][0] for name in ("random", "vocabulary", "answers")}
lengths = {length: float(np.mean(short[length][0][-10:])) for length in settings.short_lengths}
lab.record("length_gain", lengths[settings.short_lengths[0]] / lengths[settings.virtual_tokens])
lab.figure(
    "starts-and-lengths",
    starts_and_lengths(starts, lengths),
    Text(
        en="Left: training loss on relabel from three starts. Right: the loss after as many steps over the length of the prompt.",
        zh_tw="左：relabel 從三種初始值開始的訓練損失。右：同樣步數之後，損失隨提示長度的變化。",
    ),
)
ends = {name: float(np.mean(values[-10:])) for name, values in starts.items()}
best, worst = min(ends, key=ends.get), max(ends, key=ends.get)
lab.say(
    f"""- After {settings.short_steps} steps the best start is `{best}` ({ends[best]:.2f} nats), the worst `{worst}` \
({ends[worst]:.2f}); their accuracies are {short[best][1]:.0%} and {short[worst][1]:.0%}. One seed: \
do not take the order for a law.
- From {settings.short_lengths[0]} to {settings.virtual_tokens} vectors the loss falls from \
{lengths[settings.short_lengths[0]]:.2f} to {lengths[settings.virtual_tokens]:.2f}.""",
    f"""- {settings.short_steps} 步之後，最好的初始值是 `{best}`（{ends[best]:.2f} nats），最差的是 `{worst}`（{ends[worst]:.2f}）；\
準確率分別是 {short[best][1]:.0%} 與 {short[worst][1]:.0%}。只有一個種子：別把順序當成定律。
- 從 {settings.short_lengths[0]} 個向量到 {settings.virtual_tokens} 個，損失從 {lengths[settings.short_lengths[0]]:.2f} 降到 \
{lengths[settings.virtual_tokens]:.2f}。""",
)

# %% [markdown] lang="en"
# ## The same letters, two taught answers and an untaught one
#
# What is `compose` short of? It had few training steps, its questions are long, and its answer takes two operations: any of these may be to blame. So ask something as plain as can be: five letters, and no word about what to do with them. Three answers to the same texts, made of the same letters: *reversed* (`e d c b a`) and *picked* (`b`), which pretraining taught under the names "Reverse" and "Letter 2 of", and *rotated* (`b c d e a`), an exchange of places as simple as reversing, which it never taught. As many vectors, as many steps and the same rate for all three.

# %% [markdown] lang="zh-TW"
# ## 同樣的字母，兩個教過的答案，一個沒教過的
#
# `compose` 缺的是什麼？訓練步數少、問題長、答案又要兩個步驟才做得出來，每一個都可能是原因。所以問得越單純越好：五個字母，完全不說要做什麼。同樣的文字，三種答案，用的是同樣的字母：*反轉*（`e d c b a`）與*挑出*（`b`），預訓練用「反轉」與「第2個字母」這兩個名字教過；以及*輪轉*（`b c d e a`），跟反轉一樣只是交換位置，但從沒教過。三者的向量一樣多，步數與學習率也一樣。

# %%
sizes = {"train_items": family.TRAIN_ITEMS, "held_out_items": settings.skill_items, "chat": settings.chat}
letters = {answer: skill_task(answer, tokenizer, **sizes) for answer in ANSWERS}
budget = {"steps": settings.skill_steps, "schedule": settings.schedule, "batch_size": family.BATCH, "seed": first_seed}
unasked = {answer: accuracy(base, letters[answer]).accuracy for answer in ANSWERS}
kept = {"reversed": lab.artifact("prompt-reversed"), "picked": lab.artifact("prompt-picked")}
found = {}
for answer in lab.progress(ANSWERS):
    model = fresh(seed=first_seed)
    losses = fit(model, letters[answer], learning_rate=rate, progress=False, **budget).losses
    found[answer] = accuracy(model, letters[answer]).accuracy, losses
    if answer in TAUGHT:
        save_prompt(model, kept[answer], base_name)
skilled, skill_losses = ({answer: each[place] for answer, each in found.items()} for place in (0, 1))
lab.record("taught_skill", min(skilled[answer] for answer in TAUGHT))
lab.record("taught_skill", skilled["rotated"], variant="untaught")
lab.record("taught_skill", max(unasked[answer] for answer in TAUGHT), variant="no_prompt")
lab.record("compose_accuracy", composed)

# %% [markdown] lang="en"
# ## Is the prompt too small?
#
# Rank-1 LoRA on queries and values of this model has as many numbers as this prompt. The untaught answer again, as many steps, another place: inside the layers instead of before the text. (A rate for it was set by hand, not searched; the prompt keeps the one that was searched on `relabel`.)

# %% [markdown] lang="zh-TW"
# ## 是提示太小嗎？
#
# 在這個模型的 query 與 value 上放秩 1 的 LoRA，數字跟這個提示一樣多。再學一次沒教過的答案，同樣的步數，只是換個地方：在層裡面，而不是在文字前面。（LoRA 的學習率是手動設定的，沒有搜尋；提示沿用在 `relabel` 上搜尋到的。）

# %%
options = LoraConfig(r=1, lora_alpha=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
torch.manual_seed(first_seed)  # peft draws the start values of LoRA from the global generator
inside = get_peft_model(load_base(settings)[0], options)
inside_numbers = count_parameters(inside).trainable
inside_budget = budget | {"learning_rate": settings.inside_rate, "schedule": settings.full_schedule}
inside_losses = fit(inside, letters["rotated"], progress=False, **inside_budget).losses
inside_right = accuracy(inside, letters["rotated"]).accuracy
lab.record("untaught_inside", inside_right)
lab.record("untaught_inside", skilled["rotated"], variant="before_the_text")
lab.record("untaught_inside", unasked["rotated"], variant="untrained")

# %%
figure = losses_by_answer(skill_losses | {"rotated, inside the layers": inside_losses})
lab.figure(
    "taught-and-untaught",
    figure,
    Text(
        en="Training losses of the same letters with two taught answers and an untaught one, and of the untaught one with as many "
            "numbers inside the layers.",
        zh_tw="同樣的字母、兩個教過與一個沒教過的答案的訓練損失；以及沒教過的答案，改把同樣多的數字放在層裡面。",
    ),
)
rows = [
    (answer, trained, f"{unasked[answer]:.0%}", f"{skilled[answer]:.0%}", f"{np.mean(skill_losses[answer][-10:]):.2f}")
    for answer in ANSWERS
]
rows.append(
    (
        tr("rotated, inside the layers", "輪轉，在層裡面"),
        inside_numbers,
        f"{unasked['rotated']:.0%}",
        f"{inside_right:.0%}",
        f"{np.mean(inside_losses[-10:]):.2f}",
    )
)
columns = [tr("wanted", "要的答案"), tr("numbers", "數字"), tr("untrained", "訓練前"), tr("trained", "訓練後")]
lab.table([*columns, tr("loss at the end", "最後的損失")], rows)

# %% [markdown] lang="en"
# ## What a prompt can change in a layer
#
# A query shares its attention between prompt and text. If the share $a$ goes to the prompt, softmax splits exactly:

# %% [markdown] lang="zh-TW"
# ## 提示能改變一層裡的什麼
#
# 一個 query 把注意力分給提示與文字。如果提示分到的比例是 $a$，softmax 就正好拆成兩部分：

# %% [markdown]
# $$\text{output}=a\cdot\underbrace{\textstyle\sum_{j\in P}\tfrac{w_j}{a}v_j}_{\text{from the prompt}}+(1-a)\cdot\underbrace{\textstyle\sum_{i\in X}\tfrac{w_i}{1-a}v_i}_{\text{the output without a prompt}}$$

# %% [markdown] lang="en"
# The second sum does not contain the prompt: whatever the vectors are, they cannot make one token of the text look *more* at another than at a third. They turn the text down and add something of their own. In the first layer that is exact, for its inputs are what they were; later layers read what the prompt has added, so there the shares may move. (Petrov et al., [2310.19698](https://arxiv.org/abs/2310.19698), who conclude that prompts elicit skills and may not learn tasks that need new attention patterns.) We measure how far the shares over the text have moved, with the prompt for reversing, and, as a control, with LoRA on queries in the first layer.

# %% [markdown] lang="zh-TW"
# 第二個和裡面沒有提示：不管向量是什麼，都沒辦法讓文字裡的一個 token 去看另一個 token，比看第三個*更多*。提示只能把文字調小聲，再加上自己的東西。在第一層這是精確的，因為那一層的輸入跟原來一樣；後面的層讀到提示加進去的東西，比例就可能改變。（Petrov 等人，[2310.19698](https://arxiv.org/abs/2310.19698)；他們的結論是：提示能引出技能，但可能學不會需要新注意力模式的任務。）我們用反轉的提示，量文字內部的比例移動了多少；對照組是 LoRA，它在第一層動了 query。

# %%
asking = load_base(settings)[0]
reading = load_prompt(asking, lab.artifact("prompt-reversed"))
item = letters["reversed"].held_out[0]
text = tokenizer(prompt_text(item, tokenizer, chat=settings.chat), add_special_tokens=False, return_tensors="pt")
one = {"input_ids": text["input_ids"], "attention_mask": torch.ones_like(text["input_ids"])}
layers = range(base.config.num_hidden_layers)
moved = {"prompt": [moved_attention(reading, base, one, layer) for layer in layers]}
moved["LoRA"] = [moved_attention(inside.get_base_model(), base, one, layer) for layer in layers]
lab.record("first_layer_moved", moved["prompt"][0])
lab.record("first_layer_moved", moved["LoRA"][0], variant="inside_the_layers")
paid = [float(weights_over_text(reading, one, layer)[1].mean()) for layer in layers]
lab.table(
    [
        tr("layer", "層"),
        tr("moved by the prompt", "被提示移動"),
        tr("moved by LoRA", "被 LoRA 移動"),
        tr("paid to the prompt", "分給提示"),
    ],
    [(layer + 1, moved["prompt"][layer], moved["LoRA"][layer], f"{paid[layer]:.0%}") for layer in layers],
)

# %%
tokens = tokenizer.convert_ids_to_tokens(text["input_ids"][0])
shown = [weights_over_text(reading, one, layer)[0][0].mean(dim=0) for layer in (0, len(layers) - 1)]
without = weights_over_text(base, one, 0)[0][0].mean(dim=0)
titles = (
    tr("layer 1, no prompt", "第 1 層，沒有提示"),
    tr("layer 1, prompt", "第 1 層，有提示"),
    tr(f"layer {len(layers)}, prompt", f"第 {len(layers)} 層，有提示"),
)
figure = attention_pictures(without, shown, tokens, titles)
lab.figure(
    "attention-over-text",
    figure,
    Text(
        en="What each token (row) pays to the tokens of the text, mean of the heads: first layer without and with the prompt, last layer with it.",
        zh_tw="每個 token（列）分給文字各 token 的注意力，各 head 平均：第一層沒有提示、有提示，以及最後一層有提示。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
later = max(moved["prompt"][1:])
timed = {answer: skill_losses[answer] for answer in TAUGHT}
timed[tr("rotated, inside", "輪轉，在層裡面")] = inside_losses
quick = {
    name: next((at for at, loss in enumerate(losses, start=1) if loss < 0.5), None) for name, losses in timed.items()
}
reached = ", ".join(f"{name} {at}" for name, at in quick.items())
before_it = ", ".join(f"{unasked[name]:.0%}" for name in TAUGHT)
with_it = ", ".join(f"{skilled[name]:.0%}" for name in TAUGHT)
lab.say(
    f"""- The same letters: what was taught is there for the asking. {", ".join(TAUGHT)}: \
{before_it} without a prompt, {with_it} with one. Rotating gets {skilled["rotated"]:.0%} in as many steps \
({settings.skill_steps}).
- As many numbers inside the layers reach {inside_right:.0%} of rotating in {settings.skill_steps} steps. \
{"So it is not their number: it is where they are." if inside_right > 0.5 > skilled["rotated"] else ""}
- The step at which the loss was first below 0.5 nats: {reached}.
- In the first layer the ratios over the text moved by {moved["prompt"][0]:.1e}, in later ones by up to {later:.2g}; \
LoRA moved the first layer by {moved["LoRA"][0]:.2g}.
- A prompt is quick at *choosing* among what a model can do; *teaching* it something else takes more than these steps. \
"Cannot" would be too much: what later layers make of the vectors may be new, and nobody waited longer here.""",
    f"""- 同樣的字母：教過的，一要就有。{"、".join(TAUGHT)}：不加提示 {before_it}，加了提示 {with_it}。\
同樣的步數（{settings.skill_steps} 步），輪轉是 {skilled["rotated"]:.0%}。
- 同樣多的數字放在層裡面，{settings.skill_steps} 步讓輪轉達到 {inside_right:.0%}。{"所以問題不在有多少數字，而在放在哪裡。" if inside_right > 0.5 > skilled["rotated"] else ""}
- 損失第一次低於 0.5 nats，是在第幾步：{reached}。
- 在第一層，文字內部的比例移動了 {moved["prompt"][0]:.1e}，後面的層最多 {later:.2g}；LoRA 把第一層移動了 {moved["LoRA"][0]:.2g}。
- 要從模型會做的事裡*挑出*一件，提示很快；要*教*它別的事，這些步數還不夠。說「做不到」就太過了：後面的層怎麼處理這些向量，可能是新的，而這裡沒有人等得更久。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The paper's title is *The Power of Scale*: the gap to full fine-tuning closes as models grow to billions of parameters. This model has a third of a million; do not carry the gap over.
# - `compose` and `new_facts` got few steps here, and the rate of `relabel`; `compose` got fewer than LoRA gets in lab 1.1.1. What the table says of them is a limit of this budget, and no gate holds it: a model that was never trained would pass.
# - What a prompt can ask for depends on what pretraining put there. A large model has more to ask for.
#
# **Exercises.** 2, 3 and 4 decide the numbers of this notebook; 6 (`prompt_files.py`) writes the prompt.
#
# **Next:** several prompts in one batch, and what a prompt costs with every token.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 論文的標題是 *The Power of Scale*：模型大到幾十億個參數時，與全參數微調的差距會消失。這個模型只有三十幾萬個，這裡的差距不能套用到大模型。
# - `compose` 與 `new_facts` 在這裡的步數很少，用的是 `relabel` 的學習率；`compose` 的步數比實驗 1.1.1 的 LoRA 還少。表裡的結果只說明這樣的預算辦不到，所以沒有為它設關卡：從沒訓練過的模型也過得了。
# - 提示要得到什麼，取決於預訓練放了什麼進去。大模型裡有更多東西可以要。
#
# **練習。** 2、3、4 決定這一本的數字；6（`prompt_files.py`）負責寫出提示。
#
# **下一步：** 一個批次裡放好幾個提示，以及提示讓每個 token 多花多少。
