# %% [markdown] lang="en"
# # 1. Words that no dictionary has
#
# **Question.** You may write something before a question, and nothing else of the model may change. What if it need not be words?
#
# | | |
# |---|---|
# | You build | a prompt of trained vectors in plain PyTorch: its count, its start, its place before the text, its labels; the proof that it is what `peft` does |
# | You write | exercises 1 to 5 |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | how far prompts of real words get; how many numbers a prompt has in a 7B model; what goes wrong when text, padding or labels stand in the wrong place; losses beside those of `peft`, step by step |

# %% [markdown] lang="zh-TW"
# # 1. 字典裡沒有的字
#
# **問題。** 你可以在問題前面寫點東西，模型的其他地方一概不准改。如果寫的不必是字呢？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出由訓練得到的向量組成的提示：它的參數量、初始值、在文字前面的位置、標籤；並證明它就是 `peft` 做的事 |
# | 你要寫的 | 練習 1 到 5 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 用真正的字當提示能走多遠；7B 模型的提示有幾個數字；文字、補齊或標籤放錯位置會怎麼樣；每一步的損失與 `peft` 並列 |

# %%
import functools

import torch
from transformers import LlamaConfig, Qwen2Config

from onepiece.models import count_parameters, meta_model, quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

from peft import PromptTuningConfig, get_peft_model

from broken_variants import broken_count, broken_layout
from onepiece import lab
from onepiece.adaptation import accuracy, batches, distance, family, fit, load_base, load_task, logits_of, traced
from onepiece.adaptation.soft_prompt import SoftPromptModel
from onepiece.course.text import Text, tr
from onepiece.data import IGNORED
from onepiece.tiny import skills
from prompt_figures import beside_peft
from prompt_tuning import (
    PromptSettings,
    SoftPrompt,
    add_prompt,
    before_text,
    initial_vectors,
    longest_prompt,
    place_in_front,
    prompt_parameter_count,
    shifted_labels,
)

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
table = base.get_input_embeddings().weight.detach()  # (vocabulary, hidden)
tasks = family.load_tasks(tokenizer, chat=settings.chat)
chosen = PromptSettings(settings.virtual_tokens)
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## First with words
#
# `relabel` judges a review, but with a colour for an answer; the base can judge, and has never named a colour for it. We write real words before the question: an instruction, some examples, and words drawn by lot.

# %% [markdown] lang="zh-TW"
# ## 先用真正的字
#
# `relabel` 要判斷一則評論，但用顏色回答；基礎模型會判斷，只是從沒用顏色答過。我們在問題前面寫真正的字：一段指示、幾個例子，以及抽籤抽出來的字。

# %%
task = tasks["relabel"]
asked = task.held_out[:: settings.every_item]
known = load_task("sentiment", tokenizer, train_items=16, held_out_items=40, chat=settings.chat)
examples = " ".join(f"{item.prompt} → {item.answer}" for item in task.held_out[1:4])
written = {
    tr("an instruction", "一段指示"): "Say the colour of the signal: green if the review is good, red if it is bad.",
    tr("three examples", "三個例子"): examples,
}
prefixes = {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in written.items()}
generator = torch.Generator().manual_seed(0)
for number in range(settings.drawn_prompts):
    drawn = torch.randint(len(table), (settings.virtual_tokens,), generator=generator)
    prefixes[tr(f"drawn words {number + 1}", f"抽出來的字 {number + 1}")] = drawn.tolist()
by_words = {}
for name, token_ids in prefixes.items():
    reading = SoftPromptModel(base, SoftPrompt(table[torch.tensor(token_ids, device=table.device)]), before_text)
    by_words[name] = skills.score(reading, tokenizer, asked, chat=settings.chat)
lab.table(
    [tr("before the question", "問題前面"), tr("tokens", "token 數"), tr("right", "答對")],
    [(name, len(prefixes[name]), str(by_words[name])) for name in by_words],
)
lab.record("base_accuracy", max(accuracy(base, each).accuracy for each in tasks.values()))
lab.record("base_accuracy", accuracy(base, known).accuracy, variant="known_skill")
best_words = max(score.accuracy for score in by_words.values())
lab.say(
    f"The best of {len(by_words)} prompts of real words gets {best_words:.0%} right. "
    f"A model this small follows no instruction; large ones follow some.",
    f"{len(by_words)} 個用真正的字寫的提示，最好的答對 {best_words:.0%}。這麼小的模型聽不懂指示；大模型有時聽得懂。",
)

# %% [markdown] lang="en"
# ## What the model reads is no word
#
# A word is looked up in the embedding table, and what goes into the first layer is its vector. There are as many words as rows in that table, but every vector can be read. So: let the words go, keep their places, and *train* the vectors (Lester et al., [2104.08691](https://arxiv.org/abs/2104.08691), section 2):

# %% [markdown] lang="zh-TW"
# ## 模型讀的不是字
#
# 字要先查 embedding 表，進到第一層的是它的向量。字的數量就是表的列數，但任何向量模型都讀得進去。所以：不要字了，只留下它們的位置，直接*訓練*那些向量（Lester 等人，[2104.08691](https://arxiv.org/abs/2104.08691)，第 2 節）：

# %% [markdown]
# $$\Pr_\theta\,(Y\mid[P;X]),\qquad P\in\mathbb R^{k\times d}\ \text{trained},\qquad\theta\ \text{frozen}$$

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-7B has 32 layers of hidden size 4,096 and 32,000 words. A prompt has 20 virtual tokens. How many numbers are trained? Write `llama_trained = ...` into `predictions.toml`. (LoRA of rank 8 on queries and values trains 4,194,304 there.)
#
# <details><summary>A hint</summary>
#
# In how many layers does a vector stand that the model reads like a word?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-7B 有 32 層，hidden size 是 4,096，詞彙量 32,000。提示有 20 個虛擬 token。要訓練幾個數字？把 `llama_trained = ...` 寫進 `predictions.toml`。（query 與 value 上秩 8 的 LoRA，在那裡訓練 4,194,304 個。）
#
# <details><summary>提示</summary>
#
# 一個像字一樣被模型讀進去的向量，出現在幾層裡？
# </details>

# %%
wrong_by, as_prefix = 0, 0
for length in settings.lengths:
    options = PromptSettings(length)
    trained = count_parameters(add_prompt(load_base(settings)[0], options, seed=0)).trainable  # counted in a real model
    wrong_by += abs(prompt_parameter_count(table.shape[1], options) - trained)
    layers = base.config.num_hidden_layers
    as_prefix += abs(broken_count(table.shape[1], options, "every_layer", layers=layers) - trained)
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", as_prefix, variant="every_layer")

half_billion = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
models = {
    "this run": base,
    "Qwen2.5-0.5B": meta_model(half_billion),
    "Llama-2-7B": meta_model(LlamaConfig()),  # its default values are those of Llama 7B
}
twenty, rows, counts = PromptSettings(20), [], {}
for name, model in models.items():
    whole, hidden = count_parameters(model).total, model.config.hidden_size
    counts[name] = prompt_parameter_count(hidden, twenty)
    rows.append((name, f"{whole:,}", f"{counts[name]:,}", f"{counts[name] / whole:.5%}"))
columns = [tr("model", "模型"), tr("parameters", "參數量"), tr("a prompt of 20", "長度 20 的提示"), tr("share", "比例")]
lab.table(columns, rows)
lab.record("llama_trained", counts["Llama-2-7B"])
lab.record("llama_trained", broken_count(4096, twenty, "every_layer", layers=32), variant="every_layer")
whole = count_parameters(base).total
share = prompt_parameter_count(table.shape[1], chosen) / whole
lab.record("trained_share", share)
with_table = broken_count(table.shape[1], chosen, "whole_table", vocabulary=len(table)) / whole
lab.record("trained_share", with_table, variant="whole_table")

# %%
guess = lab.predict("llama_trained")
lab.say(
    f"""- A prompt of 20 trains **{counts["Llama-2-7B"]:,}** numbers in \
Llama-2-7B{"" if guess is None else f" (you guessed {guess:,.0f})"}; \
LoRA's number is {4_194_304 / counts["Llama-2-7B"]:.0f} times as large. \
The prompt of this lab has {settings.virtual_tokens} vectors: {share:.2%} of the base.
- The formula is off by {wrong_by} in {len(settings.lengths)} models that were built. \
Counted as prefix tuning counts, with keys and values in every layer, it would be off by {as_prefix:,}.""",
    f"""- 長度 20 的提示，在 Llama-2-7B 訓練 **{counts["Llama-2-7B"]:,}** 個數字{"" if guess is None else f"（你猜 {guess:,.0f}）"}；\
LoRA 是它的 {4_194_304 / counts["Llama-2-7B"]:.0f} 倍。這個實驗的提示有 {settings.virtual_tokens} 個向量：基礎模型的 {share:.2%}。
- 公式在 {len(settings.lengths)} 個實際建出的模型上總共差 {wrong_by}。要是照 prefix tuning 的算法，每一層都有 key 與 value，就會差 {as_prefix:,}。""",
)

# %% [markdown] lang="en"
# ## Where it begins, and where it stands
#
# Three starts are in the paper (section 2.1): random numbers, words drawn from the vocabulary, the words of the answers. Notebook 2 compares them. And the vectors stand before the text: find what has to move because of that.

# %% [markdown] lang="zh-TW"
# ## 從哪裡開始，放在哪裡
#
# 論文有三種初始值（第 2.1 節）：亂數、從詞彙表抽出的字、答案的字。第 2 本筆記本會比較。向量放在文字前面：找找看，什麼東西要跟著移動？

# %%
lab.source(initial_vectors)
lab.source(place_in_front)
lab.source(shifted_labels)

# %% [markdown] lang="en"
# ## Words as vectors, vectors as words
#
# If the vectors are embeddings of real words, the model must do exactly what it does with these words in the text. So we know the right answer without any training, whatever is wrong with place, mask or positions. The controls: the text keeps the positions that it had without a prompt; and padding on the left is counted as if it were text, which is what `peft` does.

# %% [markdown] lang="zh-TW"
# ## 字當向量，向量當字
#
# 向量如果就是真正的字的 embedding，模型的行為必須跟文字裡寫了這些字完全一樣。所以不用訓練就知道正確答案，不論是位置編號、遮罩或排列順序出錯。對照組：文字沿用沒有提示時的位置編號；以及把左邊的補齊當成文字來數，`peft` 就是這樣做的。

# %%
drawn = torch.randint(len(table), (settings.virtual_tokens,), generator=torch.Generator().manual_seed(1))
words = SoftPrompt(table[drawn.to(table.device)])
batch = batches(task, batch_size=settings.batch, seed=0)(0)
front = drawn.expand(settings.batch, -1)  # (virtual,) -> (batch, virtual)
in_text = {
    "input_ids": torch.cat([front, batch["input_ids"]], dim=1),
    "attention_mask": torch.cat([torch.ones_like(front), batch["attention_mask"]], dim=1),
}
behind_words = logits_of(base, in_text)  # (tokens, vocabulary)
real = in_text["attention_mask"].bool().to(behind_words.device)
of_text = (torch.arange(real.shape[1], device=real.device) >= settings.virtual_tokens).expand_as(real)[real]
wanted = behind_words[of_text]  # (tokens, vocabulary) -> (tokens of the text, vocabulary)

room = settings.left_padding
one = {"input_ids": batch["input_ids"][:1], "attention_mask": batch["attention_mask"][:1]}
left = {
    "input_ids": torch.nn.functional.pad(one["input_ids"], (room, 0), value=tokenizer.pad_token_id),
    "attention_mask": torch.nn.functional.pad(one["attention_mask"], (room, 0)),
}
apart, padded = {}, {}
for mistake in (None, "text_not_moved", "mask_forgotten", "over_padding"):
    reading = SoftPromptModel(base, words, before_text if mistake is None else broken_layout(mistake))
    apart[mistake] = distance(logits_of(reading, batch), wanted)
    padded[mistake] = distance(logits_of(reading, left), logits_of(SoftPromptModel(base, words, before_text), one))
lab.record("words_difference", apart[None])
lab.record("words_difference", apart["text_not_moved"], variant="text_not_moved")
lab.record("padding_difference", padded[None])
lab.record("padding_difference", padded["over_padding"], variant="over_padding")
columns = [
    tr("layout", "擺法"),
    tr("apart from the words in the text", "與寫在文字裡相差"),
    tr(f"{room} padded on the left: apart from none", f"左邊補 {room} 個：與沒補相差"),
]
lab.table(columns, [(name or tr("right", "正確"), apart[name], padded[name]) for name in apart])

# %% [markdown] lang="en"
# ## What counts in the loss
#
# Nobody should learn to *say* the prompt. Its labels are ignored, and those of the text stay at their tokens. By hand: the cross-entropy of each token of an answer, from the logits one place before it. The control fills the labels of the prompt with token 0 (here: padding) instead of ignoring them.

# %% [markdown] lang="zh-TW"
# ## 損失裡算什麼
#
# 沒有人要學著*說出*提示。提示的標籤要忽略，文字的標籤要留在自己的 token 上。手算的方法：答案的每個 token，用前一個位置的 logits 算交叉熵。對照組把提示的標籤填成 token 0（在這裡是補齊用的 token），而不是忽略。

# %%
labels, reading = batch["labels"], SoftPromptModel(base, words, before_text)
with torch.no_grad():
    logits = reading(batch["input_ids"], batch["attention_mask"]).logits[:, settings.virtual_tokens :].cpu().double()
    counts_in = labels[:, 1:] != IGNORED
    by_hand = -logits[:, :-1].log_softmax(dim=-1)[counts_in].gather(1, labels[:, 1:][counts_in][:, None]).mean()
    loss_apart = {}
    for mistake in (None, "prompt_counted", "moved_twice"):
        layout = before_text if mistake is None else broken_layout(mistake)
        loss_apart[mistake] = abs(float(SoftPromptModel(base, words, layout)(**batch).loss) - float(by_hand))
lab.record("loss_difference", loss_apart[None])
lab.record("loss_difference", loss_apart["prompt_counted"], variant="prompt_counted")
lab.table(
    [tr("labels", "標籤"), tr("loss apart from by hand (nats)", "損失與手算相差（nats）")],
    [(name or tr("right", "正確"), value) for name, value in loss_apart.items()],
)

# %% [markdown] lang="en"
# ## Is it the prompt tuning that everyone uses?
#
# `peft` gets our start values, and both train on the same batches. (It refuses to train a prompt that it has loaded from a file, so we copy the vectors.) Padding stands on the right here, where `peft` counts positions rightly. The control leaves the text at its old positions: the loss still falls, and nothing breaks.

# %% [markdown] lang="zh-TW"
# ## 這就是大家在用的 prompt tuning 嗎？
#
# 把我們的初始值交給 `peft`，兩邊用同樣的批次訓練。（`peft` 不肯訓練從檔案載入的提示，所以直接複製向量。）這裡補齊在右邊，`peft` 的位置編號在這種情況是對的。對照組讓文字留在舊的位置：損失照樣下降，也沒有任何東西報錯。


# %%
def peft_twin(vectors):
    """peft's model with these vectors, to be trained."""
    options = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(vectors))
    twin = get_peft_model(load_base(settings)[0], options)
    twin.prompt_encoder["default"].embedding.weight.data.copy_(vectors)
    return twin


budget = {"steps": settings.equal_steps, "learning_rate": settings.relabel_rate, "batch_size": settings.batch}
losses, worst = {}, {"own": [0.0, 0.0], "text_not_moved": [0.0, 0.0]}
for seed in lab.progress(settings.seeds):
    train = functools.partial(fit, task=task, seed=seed, progress=False, **budget)
    traces = {}
    for name in ("own", "text_not_moved", "peft"):
        model = add_prompt(load_base(settings)[0], chosen, seed=seed)
        if name == "text_not_moved":
            model.layout = broken_layout(name)
        if name == "peft":
            model = peft_twin(model.prompt.vectors.detach())
        traces[name] = traced(model, train, batch)
        losses[name, seed] = traces[name].losses
    for name, found in worst.items():
        difference = traces[name].apart_from(traces["peft"])
        variant = None if name == "own" else name
        lab.record("peft_loss_difference", difference.loss, seed=seed, variant=variant)
        lab.record("peft_logit_difference", difference.after, seed=seed, variant=variant)
        worst[name] = [max(found[0], difference.loss), max(found[1], difference.after)]

# %%
seed = settings.seeds[0]
figure = beside_peft({name: losses[name, seed] for name in ("peft", "own", "text_not_moved")})
lab.figure(
    "own-and-peft",
    figure,
    Text(
        en="Left: losses of our prompt, of peft's, and of ours with the text at its old positions. Right: their distance from peft's.",
        zh_tw="左：我們的提示、peft 的提示，以及文字留在舊位置的版本各自的損失。右：它們與 peft 的距離。",
    ),
)

# %% [markdown] lang="en"
# ## How long may it be?
#
# A prompt takes positions from the text and is read with every request. Exercise 5 finds the longest one within a budget:

# %% [markdown] lang="zh-TW"
# ## 可以多長？
#
# 提示會占掉文字的位置，而且每個請求都要讀一次。練習 5 要在預算內找出最長的提示：

# %%
text = max(len(row) for row in tokenizer([item.prompt for item in task.held_out])["input_ids"])
shares = (0.05, 0.2, 0.5)
context = base.config.max_position_embeddings
fitting = [longest_prompt(context, text, settings.answer_tokens, share) for share in shares]
lab.table(
    [tr("at most this share of all tokens", "最多占全部 token 的比例"), tr("longest prompt", "最長的提示")],
    [(f"{share:.0%}", length) for share, length in zip(shares, fitting, strict=True)],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼


# %%
def in_words(difference):
    """A difference, or that there is none."""
    return tr("exactly 0", "0") if difference == 0 else f"{difference:.1e}"


lab.say(
    f"""- Vectors of words do what the words do, up to {in_words(apart[None])} of the largest logit; \
with the text at its old positions it would be {apart["text_not_moved"]:.2g}.
- Over {len(settings.seeds)} seeds and {settings.equal_steps} steps our losses and `peft`'s differ by at most \
{in_words(worst["own"][0])} nats, the logits at the end by {in_words(worst["own"][1])}. \
The control differs by {worst["text_not_moved"][0]:.2g} nats, and no error tells.
- A batch padded on the left differs by {in_words(padded[None])} here, and by {padded["over_padding"]:.2g} where \
padding is counted: `generate` pads on the left.""",
    f"""- 字的向量做的事跟字一樣，最多差最大 logit 的 {in_words(apart[None])}；文字留在舊位置的話會差 {apart["text_not_moved"]:.2g}。
- {len(settings.seeds)} 個種子、{settings.equal_steps} 步之中，我們的損失與 `peft` 最多差 {in_words(worst["own"][0])} nats，最後的 logits \
差 {in_words(worst["own"][1])}。對照組差 {worst["text_not_moved"][0]:.2g} nats，而且不會有任何錯誤訊息。
- 左邊補齊的批次，在這裡差 {in_words(padded[None])}；把補齊也算進位置的話差 {padded["over_padding"]:.2g}：而 `generate` 正是補在左邊。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - That words as a prompt get nowhere is true of a model that was never taught to follow instructions. With a large one, try words first.
# - Rotary positions are relative: a model with learned absolute positions suffers more from a text that did not move.
# - The shares are counted on `meta`; only this run's model was trained.
#
# **Exercises.** 1 to 5 (`prompt_tuning.py`): `nox -s check -- lab-1.1.3-prompt-tuning`.
#
# **Next:** what can be learned with so few numbers, and what cannot?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 「用字當提示沒有用」，說的是一個從沒學過聽指示的模型。用大模型的話，先試試看用字寫。
# - 旋轉位置編碼是相對的：用學出來的絕對位置的模型，文字沒有移動會傷得更重。
# - 比例是在 `meta` 上數的；只有這次執行的模型真的訓練過。
#
# **練習。** 1 到 5（`prompt_tuning.py`）：`nox -s check -- lab-1.1.3-prompt-tuning`。
#
# **下一步：** 這麼少的數字，學得會什麼，又學不會什麼？
