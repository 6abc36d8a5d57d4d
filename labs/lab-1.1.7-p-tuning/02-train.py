# %% [markdown] lang="en"
# # 2. Train: what does the encoder buy, and where should vectors stand?
#
# **Question.** The encoder ties the vectors together while they are trained. The template puts them where one likes.
# Which of the two is worth something, and how would one know?
#
# | | |
# |---|---|
# | You build | the family's row; the same prompt with and without an encoder, each at its own rate; a watch on the vectors; the same encoder at three places of a text |
# | You need | two minutes on two calm CPU cores, 1 GB of memory |
# | You should see | how far a vector goes in a step, and how much of that all have in common; what a prompt near the answer learns first, and what it costs |

# %% [markdown] lang="zh-TW"
# # 2. 訓練：編碼器買到了什麼？向量該站在哪裡？
#
# **問題。** 訓練的時候，編碼器把向量綁在一起；樣板則讓它們愛站哪裡就站哪裡。這兩件事，哪一件值得？要怎麼知道？
#
# | | |
# |---|---|
# | 你會做出 | 這個家族的一列；同一個提示有編碼器與沒有編碼器，各用自己的學習率；盯著向量的觀察器；同一個編碼器放在文字的三個位置 |
# | 你需要 | 兩個閒著的 CPU 核心跑兩分鐘，1 GB 記憶體 |
# | 你應該看到 | 向量一步走多遠，其中有多少是大家一起走的；靠近答案的提示先學到什麼，代價又是什麼 |

# %%
import numpy as np
import torch

from broken_variants import train_the_table_too
from encoder_figures import losses_side_by_side
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
from onepiece.models import count_parameters
from onepiece.tiny import skills
from p_tuning import EncoderSettings, Template, add_prompt
from prompt_files import save_prompt, save_state
from vector_moves import Watch

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(settings.anchor))[-1]
whole = count_parameters(base).total
tasks = family.load_tasks(tokenizer, chat=settings.chat)
first_seed = settings.seeds[0]
virtual, behind = settings.virtual_tokens, settings.behind
templates = {
    "front": Template(front=virtual),
    "end": Template(behind=virtual),
    "around": Template(front=virtual - behind, behind=behind),
}
encoders = {kind: EncoderSettings(kind, settings.width) for kind in ("none", "mlp")}
steps_of = {"relabel": settings.relabel_steps, "compose": settings.compose_steps, "new_facts": settings.facts_steps}


def fresh(kind, place, *, seed):
    """The base with a new prompt."""
    return add_prompt(load_base(settings)[0], templates[place], encoders[kind], anchor, seed=seed)


# %% [markdown] lang="en"
# ## Predict
#
# Two guesses for `predictions.toml`:
#
# ```toml
# relabel_vs_full = 0.9      # P-tuning's held-out accuracy on relabel, divided by that of full fine-tuning
# without_encoder = 0.5      # the same for as many vectors without an encoder, with a rate of their own
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 把兩個猜測寫進 `predictions.toml`：
#
# ```toml
# relabel_vs_full = 0.9      # relabel 的保留題目：P-tuning 的準確率除以全參數微調的準確率
# without_encoder = 0.5      # 同樣多的向量、沒有編碼器、用自己的學習率，同樣的比例
# ```

# %% [markdown] lang="en"
# ## The family's row, and full fine-tuning beside it
#
# Three tasks and three seeds, as every lab of this module measures them, with the MLP and all vectors in front, as `peft`
# has it; full fine-tuning on `relabel`. The rates were searched equally hard: `nox -s calibrate -- lab-1.1.7-p-tuning`.
# Two controls: the encoder with the rate that suits bare vectors, and full fine-tuning at a tenth of its own.

# %% [markdown] lang="zh-TW"
# ## 這個家族的一列，旁邊是全參數微調
#
# 三個任務、三個種子，跟這個單元每個實驗的量法一樣；用 MLP，向量全在前面，跟 `peft` 一樣；全參數微調則只做 `relabel`。
# 學習率花了同樣的力氣去找：`nox -s calibrate -- lab-1.1.7-p-tuning`。
# 兩個對照組：編碼器用適合裸向量的學習率，以及全參數微調只用自己的十分之一。

# %%
runs, models, watches, changed = {}, {}, {}, []
for name, seed in lab.progress([(name, seed) for name in family.TASKS for seed in family.SEEDS]):
    model = fresh("mlp", "front", seed=seed)
    before = tensor_hashes(model.base)
    watch = Watch(model.prompt)
    budget = {"steps": steps_of[name], "learning_rate": settings.mlp_rate, "schedule": settings.schedule}
    runs[name, seed] = family.learn(model, tasks[name], seed=seed, after_step=watch, **budget)
    if name == "relabel":
        watches[seed] = watch
    if seed == first_seed:
        models[name] = model
        changed += changed_tensors(before, tensor_hashes(model.base))
lab.record("changed_tensors", len(changed))
adapter = save_prompt(models["relabel"], lab.artifact("prompt-front"), encoders["mlp"], base_name)
adapter_bytes = directory_bytes(adapter)  # what answers need: the state is for training alone
save_state(models["relabel"].prompt, lab.artifact("prompt-front"))


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
hasty = fresh("mlp", "front", seed=first_seed)
hurry = {"steps": settings.short_steps, "batch_size": family.BATCH, "schedule": settings.schedule}
fit(hasty, tasks["relabel"], learning_rate=settings.plain_rate, seed=first_seed, progress=False, **hurry)
at_plain_rate = accuracy(hasty, tasks["relabel"]).accuracy

# The nearest mistake to "only the prompt is trained": the table that the vectors stand in for is trained too.
careless = fresh("mlp", "front", seed=first_seed)
train_the_table_too(careless)
before = tensor_hashes(careless.base)
one_step = {"steps": 1, "batch_size": family.BATCH, "seed": first_seed, "progress": False}
fit(careless, tasks["relabel"], learning_rate=settings.mlp_rate, **one_step)
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
lab.record("relabel_vs_full", relative(at_plain_rate, first_seed), seed=first_seed, variant="rate_of_vectors")

measured = fresh("mlp", "front", seed=first_seed)
ids = tokenizer("27 + 15 →", return_tensors="pt")["input_ids"].to(settings.device)
row = {
    "trained": count_parameters(models["relabel"]).trainable,
    "total": whole,
    "file_bytes": adapter_bytes,
    "peak_bytes": peak_memory(lambda: fit(measured, tasks["compose"], learning_rate=0.0, **one_step), settings.device),
    "token_ratio": family.token_ratio(models["compose"], base, ids, repeats=settings.repeats),
}
family.record_row(runs, mergeable=False, **row)


def by_seed(name):
    """Accuracies in the order of the seeds."""
    return [runs[name, seed].accuracy for seed in family.SEEDS]


lab.table(
    [
        *(tr("task", "任務"), tr("steps", "步數"), tr("P-tuning, by seed", "P-tuning，各種子")),
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
forgotten = {name: runs[name, first_seed].kept for name in family.TASKS}
kinds = list(forgotten["relabel"])
lab.table(
    [tr("kept with the prompt of", "用這個任務的提示時還會"), *kinds],
    [(name, *(f"{values[skill]:.0%}" for skill in kinds)) for name, values in forgotten.items()],
)

# %% [markdown] lang="en"
# ## The same vectors without an encoder
#
# As many vectors at the same places, trained directly: prompt tuning. Its rate is its own, some hundred times as large. A
# watch looks at the vectors after each step: how far did they go, and how much of that did all of them do *together*?
#
# $$\text{together}=\frac{\lVert\frac1k\sum_i\Delta_i\rVert^2}{\frac1k\sum_i\lVert\Delta_i\rVert^2}\qquad\text{1: all the same way; }1/k\text{: nothing to do with each other}$$

# %% [markdown] lang="zh-TW"
# ## 同樣的向量，沒有編碼器
#
# 同樣多的向量、同樣的位置，直接訓練：就是 prompt tuning。學習率是它自己的，大上百倍。
# 每一步之後都看一眼向量：它們走了多遠？其中有多少是大家*一起*走的？
#
# $$\text{一起}=\frac{\lVert\frac1k\sum_i\Delta_i\rVert^2}{\frac1k\sum_i\lVert\Delta_i\rVert^2}\qquad\text{1：全部同方向；}1/k\text{：彼此無關}$$

# %%
rates = {"none": settings.plain_rate, "mlp": settings.mlp_rate}
around_rates = {"none": settings.around_plain_rate, "mlp": settings.around_mlp_rate}


def trained_at(kind, place, rate, seed, steps=settings.relabel_steps):
    """(model, losses, watch) of a training on relabel."""
    model = fresh(kind, place, seed=seed)
    watch = Watch(model.prompt)
    options = {"steps": steps, "batch_size": family.BATCH, "schedule": settings.schedule, "after_step": watch}
    history = fit(model, tasks["relabel"], learning_rate=rate, seed=seed, progress=False, **options)
    return model, history.losses, watch


losses = {"mlp": runs["relabel", first_seed].history.losses}
right = {("mlp", seed): runs["relabel", seed].accuracy for seed in settings.seeds}
watched = {"mlp": watches[first_seed]}
for seed in lab.progress(settings.compared_seeds):
    model, values, watch = trained_at("none", "front", rates["none"], seed)
    right["none", seed] = accuracy(model, tasks["relabel"]).accuracy
    if seed == first_seed:
        losses["none"], watched["none"] = values, watch

# %%
bare = {kind: float(np.mean(watch.common)) for kind, watch in watched.items()}
lengths = {kind: float(np.mean(watch.lengths)) for kind, watch in watched.items()}
for seed, watch in watches.items():
    lab.record("moves_together", float(np.mean(watch.common)), seed=seed)
lab.record("moves_together", bare["none"], variant="no_encoder")


def first_below(values, bound=0.5):
    """The first step at which the mean of ten losses is below a bound, or a dash."""
    means = np.convolve(values, np.ones(10) / 10, mode="valid")
    return next((str(at) for at, mean in enumerate(means, start=10) if mean < bound), "–")


lab.table(
    [
        *(tr("encoder", "編碼器"), tr("rate", "學習率"), tr("right, by seed", "答對，各種子")),
        *(tr("loss below 0.5 after", "損失低於 0.5 的步數"), tr("a vector goes in a step", "向量一步走")),
        tr("together", "一起"),
    ],
    [
        (
            *(kind, f"{rates[kind]:g}", ", ".join(f"{right[kind, seed]:.0%}" for seed in settings.seeds if (kind, seed) in right)),
            *(first_below(losses[kind]), f"{lengths[kind]:.2f}", f"{bare[kind]:.2f}"),
        )
        for kind in losses
    ],
)

# %% [markdown] lang="en"
# ## Three places
#
# The same MLP and as many vectors, elsewhere: all at the end, behind the arrow (in half of the steps), or around the
# text. One seed. What does a prompt that stands next to the answer learn first? Look at the early loss, and at the answers: are they of the right *kind*, that is, one of the two
# colours of this language?

# %% [markdown] lang="zh-TW"
# ## 三個位置
#
# 同一個 MLP、同樣多的向量，換個地方站：全在最後、箭頭後面（步數只有一半），或是圍著文字。一個種子。
# 緊鄰答案的提示會先學到什麼？看看前期的損失，再看看答案：*種類*對不對，
# 也就是，是不是這個語言的兩種顏色之一？

# %%
placed = {"front": (models["relabel"], losses["mlp"])}
placed["end"] = trained_at("mlp", "end", settings.around_mlp_rate, first_seed, settings.place_steps)[:2]
around = {}
for kind in lab.progress(around_rates):
    around[kind] = trained_at(kind, "around", around_rates[kind], first_seed, settings.search_steps)[:2]
placed["around"] = around["mlp"]
save_prompt(placed["around"][0], lab.artifact("prompt-around"), encoders["mlp"], base_name)
save_prompt(placed["end"][0], lab.artifact("prompt-end"), encoders["mlp"], base_name)
placed[tr("around, no encoder", "圍著文字，沒有編碼器")] = around["none"]

# %%
held_out = tasks["relabel"].held_out
early_steps = settings.relabel_steps // 6


def kinds_of(model):
    """(share of answers that are one of the two possible ones, share that is right)"""
    given = skills.answers(model, tokenizer, held_out, chat=settings.chat)
    colours = {language: {item.answer for item in held_out if item.language == language} for language in ("en", "zh-TW")}
    possible = [answer in colours[item.language] for answer, item in zip(given, held_out, strict=True)]
    exact = [answer == item.answer for answer, item in zip(given, held_out, strict=True)]
    return float(np.mean(possible)), float(np.mean(exact))


early = {name: float(np.mean(values[early_steps - 10 : early_steps])) for name, (_, values) in placed.items()}
kinds = {name: kinds_of(model) for name, (model, _) in placed.items()}
lab.record("near_the_answer", max(early["end"], early["around"]) / early["front"])
lab.record("near_the_answer", early["front"] / early["front"], variant="all_in_front")
lab.table(
    [
        *(tr("place", "位置"), tr(f"loss after {early_steps} steps", f"{early_steps} 步後的損失"), tr("loss at the end", "最後的損失")),
        *(tr("a colour of this language", "是這個語言的顏色"), tr("the right one", "答對")),
    ],
    [
        (name, f"{early[name]:.2f}", f"{np.mean(values[-10:]):.2f}", *(f"{share:.0%}" for share in kinds[name]))
        for name, (_, values) in placed.items()
    ],
)
figure = losses_side_by_side(
    losses,
    {name: values for name, (_, values) in placed.items()},
    (tr("in front, two kinds", "放前面，兩種做法"), tr("one encoder, three places", "同一個編碼器，三個位置")),
)
lab.figure(
    "encoders-and-places",
    figure,
    Text(
        en="Training loss on relabel. Left: with and without the MLP, all vectors in front. "
        "Right: the MLP at three places, and bare vectors around the text.",
        zh_tw="relabel 的訓練損失。左：有 MLP 與沒有 MLP，向量都在前面。右：MLP 放在三個位置，以及圍著文字的裸向量。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess, guess_bare = lab.predict("relabel_vs_full"), lab.predict("without_encoder")
against = float(np.mean([relative(right["mlp", seed], seed) for seed in settings.seeds]))
bare_against = float(np.mean([relative(right["none", seed], seed) for seed in settings.compared_seeds]))
lab.record("without_encoder", bare_against)
same_seeds = float(np.mean([relative(right["mlp", seed], seed) for seed in settings.compared_seeds]))
gain = same_seeds - bare_against
lab.say(
    f"""- With the MLP {against:.0%} of full fine-tuning on `relabel`{"" if guess is None else f" (you guessed {guess:.0%})"}; \
without an encoder, at its own rate and on one of the seeds, \
{bare_against:.0%}{"" if guess_bare is None else f" (you guessed {guess_bare:.0%})"}. In front of the text the encoder \
{"buys" if gain > 0 else "costs"} {100 * abs(gain):.0f} points on that seed.
- What it does to the vectors: {bare["mlp"]:.0%} of what the vectors move they move together (without an encoder {bare["none"]:.0%}; as many \
strangers would have {1 / virtual:.0%}). Each step is shared by all, which is no help to {virtual} vectors that have to become different ones; \
what the step is per vector, {lengths["mlp"]:.2f} against {lengths["none"]:.2f}, the rate decides.
- With the rate of bare vectors, {settings.plain_rate:g} instead of {settings.mlp_rate:g}, the MLP gets {at_plain_rate:.0%}; \
always the same answer gets {constant["relabel"]:.0%}.
- Near the answer, after {early_steps} steps, the loss is {early["end"]:.2f} at the end and {early["around"]:.2f} around, \
against {early["front"]:.2f} in front. What was learned so soon is *which words answer*: in the end \
{kinds["end"][0]:.0%} of the answers are colours of the right language, and {kinds["end"][1]:.0%} are right.
- Around the text the MLP gets {kinds["around"][1]:.0%} and bare vectors {kinds[list(placed)[-1]][1]:.0%}, in \
{settings.search_steps} steps. One seed: do not take the order for a law.""",
    f"""- 用 MLP，`relabel` 達到全參數微調的 {against:.0%}{"" if guess is None else f"（你猜 {guess:.0%}）"}；\
沒有編碼器、用自己的學習率、在其中一個種子上，是 \
{bare_against:.0%}{"" if guess_bare is None else f"（你猜 {guess_bare:.0%}）"}。放在文字前面，編碼器在那個種子上\
{"買到" if gain > 0 else "賠了"} {100 * abs(gain):.0f} 個百分點。
- 它對向量做的事：向量的移動有 {bare["mlp"]:.0%} 是一起走的（沒有編碼器是 {bare["none"]:.0%}；同樣多互不相干的向量是 \
{1 / virtual:.0%}）。每一步都由大家分享，{virtual} 個向量要變得彼此不同，這幫不上忙；至於一步走多遠，{lengths["mlp"]:.2f} 對 \
{lengths["none"]:.2f}，由學習率決定。
- 用適合裸向量的學習率（{settings.plain_rate:g}，而不是 {settings.mlp_rate:g}），MLP 只有 {at_plain_rate:.0%}；\
永遠答同一個答案有 {constant["relabel"]:.0%}。
- 靠近答案的話，{early_steps} 步之後的損失，放最後是 {early["end"]:.2f}、圍著是 {early["around"]:.2f}，放前面是 \
{early["front"]:.2f}。這麼快學到的，是*用哪些字回答*：最後 {kinds["end"][0]:.0%} 的答案是對的語言的顏色，\
答對的有 {kinds["end"][1]:.0%}。
- 圍著文字時，{settings.search_steps} 步之後，MLP 是 {kinds["around"][1]:.0%}，裸向量是 {kinds[list(placed)[-1]][1]:.0%}。\
只有一個種子：別把順序當成定律。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - The paper reports that direct training of the vectors is unstable and an encoder helps. Here, in front of the
#   text and with a searched rate for each side, that is not seen.
# - `compose` and `new_facts` got few steps: prompts of lab 1.1.3 did not reach them either, with more of them.
# - How quickly a colour is learned near the answer depends on there being few answers.
#
# **Exercises.** 1 to 6 decide the numbers of this notebook.
#
# **Next:** the encoder is thrown away. What has gone with it?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 論文說直接訓練向量不穩定，編碼器有幫助。在這裡，放在文字前面、兩邊的學習率都認真找過，就看不到這件事。
# - `compose` 與 `new_facts` 的步數很少：實驗 1.1.3 的提示步數更多，也沒有學會。
# - 靠近答案時顏色學得多快，跟可能的答案很少有關。
#
# **練習。** 1 到 6 決定這一本的數字。
#
# **下一步：** 編碼器要丟掉了。還會丟掉什麼？
