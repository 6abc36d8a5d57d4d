# %% [markdown] lang="en"
# # 4. New words for a server
#
# **Question.** A server takes text, not vectors. vLLM once had an option for soft prompts; it was removed after version 0.9.2 ([pull request 20588](https://github.com/vllm-project/vllm/pull/20588)). How does a prompt get there?
#
# | | |
# |---|---|
# | You build | files that `peft` reads; a plain model whose vocabulary has the prompts for words; a real HTTP server that is asked in them |
# | You write | exercises 6 and 7 |
# | You need | half a minute on two CPU cores, 2 GB of memory; the prompts of notebook 2 |
# | You should see | whether the plain model is the one that was trained; what a new word scores when nobody thought of the head; whether the server answers as the model here does |

# %% [markdown] lang="zh-TW"
# # 4. 給伺服器的新字
#
# **問題。** 伺服器收的是文字，不是向量。vLLM 曾經有軟提示的選項，在 0.9.2 版之後移除了（[pull request 20588](https://github.com/vllm-project/vllm/pull/20588)）。提示要怎麼送過去？
#
# | | |
# |---|---|
# | 你會做出 | `peft` 讀得懂的檔案；一個普通的模型，它的詞彙裡有這些提示；一個真正的 HTTP 伺服器，用這些新字來問它 |
# | 你要寫的 | 練習 6 與 7 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的提示 |
# | 你應該看到 | 普通的模型是不是訓練出來的那一個；沒人想到輸出層的時候，新字會得幾分；伺服器的答案跟這裡的模型一不一樣 |

# %%
import copy
import functools

import torch

from broken_variants import with_tied_head
from new_words import longer_tables, nearest_words, with_new_words, words
from onepiece import lab
from onepiece.adaptation import (
    base_identity,
    batches,
    directory_bytes,
    distance,
    in_peft,
    load_base,
    load_task,
    logits_of,
    out_of_peft,
)
from onepiece.adaptation.soft_prompt import SoftPromptModel
from onepiece.course.text import tr
from onepiece.models import count_parameters, load_model
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text
from prompt_files import load_prompt, save_prompt
from prompt_tuning import SoftPrompt, before_text
from skill_tasks import skill_task

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
files = {
    "relabel": lab.artifact("prompt-relabel"),
    "reversed": lab.artifact("prompt-reversed"),
    "picked": lab.artifact("prompt-picked"),
}
reading = {name: load_prompt(base, path) for name, path in files.items()}
prompts = {name: model.prompt for name, model in reading.items()}
sizes = {"train_items": settings.batch, "held_out_items": settings.served_prompts, "chat": settings.chat}
tasks = {
    "relabel": load_task("relabel", tokenizer, **sizes),
    "reversed": skill_task("reversed", tokenizer, **sizes),
    "picked": skill_task("picked", tokenizer, **sizes),
}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)

# %% [markdown] lang="en"
# ## The same file in our code and in `peft`
#
# A prompt is one tensor. Both directions are tried; the control is the other prompt, which has the same shape.

# %% [markdown] lang="zh-TW"
# ## 同一個檔案，用我們的程式碼，也用 `peft`
#
# 一個提示就是一個張量。兩個方向都試；對照組是另一個提示，形狀完全相同。

# %%
through = {}
for name, model in reading.items():
    theirs = in_peft(load_base(settings)[0], functools.partial(save_prompt, model, base_model_name=base_name))
    wanted = logits_of(theirs, batch)
    through[name, "ours in peft"] = distance(logits_of(model, batch), wanted)
    again = out_of_peft(theirs, functools.partial(load_prompt, load_base(settings)[0]))
    through[name, "peft's in ours"] = distance(logits_of(again, batch), wanted)
    other = reading[next(key for key in reading if key != name)]
    through[name, "the other prompt"] = distance(logits_of(other, batch), wanted)
lab.record("file_difference", max(value for (_, way), value in through.items() if way != "the other prompt"))
lab.record(
    "file_difference",
    min(value for (_, way), value in through.items() if way == "the other prompt"),
    variant="other_prompt",
)
columns = [tr("prompt", "提示"), tr("way", "方式"), tr("logits differ by (relative)", "logits 差異（相對值）")]
lab.table(columns, [(*key, value) for key, value in through.items()])
held = {name: directory_bytes(path) for name, path in files.items()}
print({name: f"{size / 1e3:.1f} KB" for name, size in held.items()})

# %% [markdown] lang="en"
# ## Give the vectors words
#
# A soft prompt is rows of embeddings that no token has. So make tokens: the table gets the vectors as new rows, the tokenizer gets new words. Whoever writes these words before a text gets the prompt. What about the other end, the head, which scores every word for the next place?

# %% [markdown] lang="zh-TW"
# ## 給向量配上字
#
# 軟提示就是沒有 token 的 embedding 列。那就造 token：把向量加成表裡的新列，分詞器加上新的字。誰在文字前面寫這些字，就用上了那個提示。那另一端呢？輸出層（head）會替下一個位置的每個字打分數。

# %%
lab.source(longer_tables)

# %% [markdown] lang="en"
# ## Predict
#
# This base has one table for both ends. Suppose the head had the vectors as its new rows too, as a table that is shared would. At how many of 100 places of a text would a new word score highest? Write `said_when_tied = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 這個基礎模型兩端共用一張表。假設輸出層的新列也是這些向量（共用一張表的話就會這樣），那麼一段文字的 100 個位置中，有幾個是新字得分最高？把 `said_when_tied = ...` 寫進 `predictions.toml`。

# %%
plain, longer = with_new_words(base, tokenizer, prompts)
vocabulary, new = len(tokenizer), len(longer) - len(tokenizer)


def in_words(name, batch):
    """A batch with the words of a prompt written before each text."""
    ids = longer(words(name, prompts[name]), add_special_tokens=False, return_tensors="pt")["input_ids"]
    front = ids.expand(len(batch["input_ids"]), -1)  # (1, virtual) -> (batch, virtual)
    return {
        "input_ids": torch.cat([front, batch["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones_like(front), batch["attention_mask"]], dim=1),
    }


def of_text(model, name):
    """Logits at the tokens of the text, (tokens, vocabulary)."""
    given = in_words(name, batch)
    mask = given["attention_mask"].bool()
    behind = (torch.arange(mask.shape[1]) >= len(prompts[name].vectors)).expand_as(mask)[mask]
    return logits_of(model, given)[behind.to(base.device)]  # (virtual + tokens, vocabulary) -> (tokens, vocabulary)


exported, by_words, said, said_tied = [], [], 0, []
tied = with_tied_head(copy.deepcopy(plain), torch.cat([prompt.vectors for prompt in prompts.values()]))
table = base.get_input_embeddings().weight.detach()
for name, model in reading.items():
    wanted, got = logits_of(model, batch), of_text(plain, name)
    exported.append(distance(got[:, :vocabulary], wanted))
    said += int((got.argmax(dim=-1) >= vocabulary).sum())
    said_tied.append(float((of_text(tied, name).argmax(dim=-1) >= vocabulary).float().mean()))
    near = SoftPrompt(table[nearest_words(prompts[name].vectors, table)])
    by_words.append(distance(logits_of(SoftPromptModel(base, near, before_text), batch), wanted))
lab.record("export_difference", max(exported))
lab.record("export_difference", min(by_words), variant="nearest_words")
lab.record("new_words_said", said)
lab.record("new_words_said", max(said_tied), variant="tied")
lab.record("said_when_tied", 100 * max(said_tied))  # of 100 places, as the guess

# %%
guess = lab.predict("said_when_tied")
lab.say(
    f"""- The plain model has {new} words and {count_parameters(plain).total - count_parameters(base).total:,} numbers more \
({vocabulary * base.config.hidden_size:,} of them because the head now has a table of its own). \
Its logits differ by {max(exported):.1e} from those of the model with the prompt; \
with the nearest words of the old vocabulary they would by {min(by_words):.2g}.
- A new word scores highest at {said} places. With the vectors in the head it would at {max(said_tied):.0%} of \
them{"" if guess is None else f" (you guessed {guess:.0f}%)"}: long vectors score high with everything that points \
their way.""",
    f"""- 這個普通的模型多了 {new} 個字、{count_parameters(plain).total - count_parameters(base).total:,} 個數字（其中 \
{vocabulary * base.config.hidden_size:,} 個，是因為輸出層現在有自己的表）。它的 logits 與帶著提示的模型差 {max(exported):.1e}；\
用舊詞彙裡最近的字，則會差 {min(by_words):.2g}。
- 新字得分最高的位置有 {said} 個。輸出層放了這些向量的話，會有 {max(said_tied):.0%} 的位置{"" if guess is None else f"（你猜 {guess:.0f}%）"}：向量很長，凡是朝著它的方向，分數都高。""",
)

# %% [markdown] lang="en"
# ## Export
#
# Saved as an ordinary model and loaded anew, it must give the same logits to the bit. The control has been through bfloat16.

# %% [markdown] lang="zh-TW"
# ## 匯出
#
# 照普通的模型存檔，再重新載入，logits 必須一個位元都不差。對照組先轉成 bfloat16 再轉回來。

# %%
directory = lab.artifact("with-new-words")
plain.save_pretrained(directory)
longer.save_pretrained(directory)
reloaded, reloaded_tokenizer = load_model(directory, device=settings.device, dtype=settings.dtype)
wanted = of_text(plain, "relabel")
lab.record("reload_difference", distance(of_text(reloaded, "relabel"), wanted))
rounded = copy.deepcopy(plain).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(of_text(rounded, "relabel"), wanted), variant="through_bfloat16")

# %% [markdown] lang="en"
# ## Serve
#
# `transformers serve` loads the directory in a process of its own. Each request begins with the words of its prompt: three tasks, one model, no adapter anywhere. Text and number of tokens must be those of the soft prompt here, which has never seen the new vocabulary. The control is the base, asked without a prompt.

# %% [markdown] lang="zh-TW"
# ## 部署
#
# `transformers serve` 在自己的行程裡載入這個目錄。每個請求都以自己提示的那些字開頭：三個任務、一個模型，完全沒有 adapter。文字與 token 數，必須跟這裡的軟提示相同，而軟提示從沒看過新的詞彙。對照組是不加提示、直接問基礎模型。

# %%
asked = [(name, prompt_text(item, tokenizer, chat=settings.chat)) for name in tasks for item in tasks[name].held_out]


@torch.inference_mode()
def local(model, text):
    """Greedy: the text, and how many tokens it took, the end-of-sequence token included."""
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(settings.device)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    written = model.generate(**inputs, **ends, **GREEDY, max_new_tokens=settings.answer_tokens)[0]
    new = written[inputs["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), len(new)


def differing(one, other):
    """In how many places two lists of answers are not equal."""
    return sum(mine != yours for mine, yours in zip(one, other, strict=True))


expected = [local(reading[name], text) for name, text in asked]
without = [local(base, text) for _, text in asked]
if missing := missing_packages():
    lab.say(
        f"The server needs {', '.join(missing)}, which are not installed here.",
        f"伺服器需要 {'、'.join(missing)}，這裡沒有安裝。",
    )
else:
    with served(directory, device=str(settings.device)) as address:
        print(address)
        answers = [complete(address, words(name, prompts[name]) + text, settings.answer_tokens) for name, text in asked]
    given = [(answer.text, answer.completion_tokens) for answer in answers]
    lab.record("served_differently", differing(given, expected))
    lab.record("served_differently", differing(given, without), variant="no_prompt")
    rows = [
        (name, text.removeprefix(tokenizer.bos_token), *(answer for answer, _ in each))
        for (name, text), *each in list(zip(asked, given, expected, without, strict=True))[:: max(1, len(asked) // 6)]
    ]
    columns = [
        tr("prompt", "提示"),
        tr("text", "文字"),
        tr("served", "伺服器"),
        tr("here", "這裡"),
        tr("no prompt", "沒有提示"),
    ]
    lab.table(columns, rows)
    lab.say(
        f"{differing(given, expected)} of {len(asked)} served answers differ from those here, {differing(given, without)} from those of the base.",
        f"{len(asked)} 個伺服器的答案中，有 {differing(given, expected)} 個與這裡不同，與基礎模型不同的有 {differing(given, without)} 個。",
    )

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- The file of a prompt has {max(held.values()) / 1e3:.1f} KB, and `peft` reads it and writes it (largest difference \
{max(value for (_, way), value in through.items() if way != "the other prompt"):.1e}).
- As {new} new words the prompts need nothing of a server that a plain model does not need, and requests with different prompts can share a batch.
- What is served is what was trained: {max(exported):.1e} of the largest logit.""",
    f"""- 一個提示的檔案有 {max(held.values()) / 1e3:.1f} KB，`peft` 讀得懂，也寫得回來（最大差異 {max(value for (_, way), value in through.items() if way != "the other prompt"):.1e}）。
- 變成 {new} 個新字之後，提示對伺服器的要求，跟普通模型沒有兩樣；用不同提示的請求，可以放進同一個批次。
- 部署的就是訓練出來的模型：logits 只差最大值的 {max(exported):.1e}。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Only `transformers serve` was tried. That vLLM takes the directory follows from its being a plain Llama; nobody here has run it.
# - Untying the head costs a second table here. A model whose head is its own already pays only for the new rows.
# - A client can write the new words into any text: whoever must not choose the prompt should not be able to.
#
# **Exercises.** 6 (`prompt_files.py`) and 7 (`new_words.py`): `nox -s check -- lab-1.1.3-prompt-tuning`.
#
# **Next:** lab 1.1.4 puts vectors into every layer instead of before the first.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 只試過 `transformers serve`。這個目錄是普通的 Llama，所以 vLLM 應該也收；但這裡沒有人跑過。
# - 在這裡，把輸出層拆開要多付一張表。輸出層本來就獨立的模型，只要付新的幾列。
# - 用戶端可以在任何文字裡寫這些新字：不該由他選提示的人，就不該有辦法寫。
#
# **練習。** 6（`prompt_files.py`）與 7（`new_words.py`）：`nox -s check -- lab-1.1.3-prompt-tuning`。
#
# **下一步：** 實驗 1.1.4 把向量放進每一層，而不只是第一層前面。
