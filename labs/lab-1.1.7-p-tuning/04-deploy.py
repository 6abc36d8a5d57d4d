# %% [markdown] lang="en"
# # 4. Deploy: a template in the tokenizer
#
# **Question.** A server takes text. The vectors stand before the text and behind it, and no client should have to know
# that. Where does the template go? (vLLM once had an option for soft prompts; it was removed after version 0.9.2, in
# [pull request 20588](https://github.com/vllm-project/vllm/pull/20588).)
#
# | | |
# |---|---|
# | You build | files that `peft` reads, and what it makes of a template; a plain model whose tokenizer writes the virtual tokens; a real HTTP server that is asked in plain text |
# | You need | half a minute on two CPU cores, 2 GB of memory; the prompts of notebook 2 |
# | You should see | whether the plain model is the one that was trained; whether the server answers as the model here does |

# %% [markdown] lang="zh-TW"
# # 4. 部署：分詞器裡的樣板
#
# **問題。** 伺服器收的是文字。向量站在文字前面與後面，而用戶端不該知道這件事。樣板要放到哪裡？
# （vLLM 曾經有軟提示的選項，在 0.9.2 版之後移除了，見 [pull request 20588](https://github.com/vllm-project/vllm/pull/20588)。）
#
# | | |
# |---|---|
# | 你會做出 | `peft` 讀得懂的檔案，以及它怎麼處理樣板；一個普通的模型，由分詞器寫上虛擬 token；一個真正的 HTTP 伺服器，用普通的文字來問 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的提示 |
# | 你應該看到 | 普通的模型是不是訓練出來的那一個；伺服器的答案跟這裡的模型一不一樣 |

# %%
import copy
import functools

import torch

from broken_variants import broken_export
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
from onepiece.course.text import tr
from onepiece.models import count_parameters, load_model
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from p_tuning import EncoderSettings, ExportedPrompt, PromptEncoder, Template, TemplateModel
from prompt_files import load_prompt, load_state, save_prompt
from template_tokenizer import pattern, with_template

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
base_name, _ = base_identity(settings)
hidden = base.config.hidden_size
anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(settings.anchor))[-1]
files = {place: lab.artifact(f"prompt-{place}") for place in ("front", "around")}
mlp = EncoderSettings("mlp", settings.width)
front, around = (load_prompt(base, files[place], anchor) for place in files)
sizes = {"train_items": settings.batch, "held_out_items": settings.served_prompts, "chat": settings.chat}
task = load_task("relabel", tokenizer, **sizes)
batch = batches(task, batch_size=settings.batch, seed=0)(0)

# %% [markdown] lang="en"
# ## The same file in our code and in `peft`
#
# Both directions, with all vectors in front. The control is the file that has the encoder's table instead of its output:
# the same name, the same shape. And the prompt around the text? `peft` reads that file, warns of a key that it does not know,
# and puts all vectors in front.

# %% [markdown] lang="zh-TW"
# ## 同一個檔案，用我們的程式碼，也用 `peft`
#
# 兩個方向都試，向量全在前面。對照組的檔案裡放的是編碼器的表，而不是輸出：名稱相同、形狀相同。
# 那圍著文字的提示呢？`peft` 照樣讀，只警告有個不認識的鍵，然後把向量全放在前面。


# %%
def through_peft(model):
    """peft's model with a prompt of ours, by way of our files."""
    write = functools.partial(save_prompt, model, settings=mlp, base_model_name=base_name)
    return in_peft(load_base(settings)[0], write)


theirs = through_peft(front)
wanted = logits_of(theirs, batch)
again = out_of_peft(theirs, functools.partial(load_prompt, load_base(settings)[0], anchor=anchor))
trained = PromptEncoder(front.prompt.template, mlp, hidden, seed=0)
load_state(trained, files["front"])
of_table = through_peft(TemplateModel(base, broken_export(trained, "table"), anchor))
apart = {
    "ours in peft": distance(logits_of(front, batch), wanted),
    "peft's in ours": distance(logits_of(again, batch), wanted),
    "the table in peft": distance(logits_of(front, batch), logits_of(of_table, batch)),
    "around the text, in peft": distance(logits_of(around, batch), logits_of(through_peft(around), batch)),
}
lab.record("file_difference", max(apart["ours in peft"], apart["peft's in ours"]))
lab.record("file_difference", apart["the table in peft"], variant="table")
columns = [tr("way", "方式"), tr("logits differ by (relative)", "logits 差異（相對值）")]
lab.table(columns, list(apart.items()))

# %% [markdown] lang="en"
# ## Who writes the virtual tokens?
#
# Lab 1.1.3 made vectors into words that a client writes before its text. A template stands on both sides of it. But
# something writes into every text already: the tokenizer, which puts a beginning-of-sequence token before it. Its pattern
# is data in `tokenizer.json`, so it can hold a template:

# %% [markdown] lang="zh-TW"
# ## 誰來寫虛擬 token？
#
# 實驗 1.1.3 把向量變成字，由用戶端寫在文字前面。樣板則站在文字兩邊。不過，本來就有東西會在每段文字裡寫字：
# 分詞器會在前面加上序列開頭的 token。它的模式是 `tokenizer.json` 裡的資料，所以放得下樣板：

# %%
print(pattern(Template(front=2, behind=1), tokenizer.bos_token))
lab.source(with_template)

# %% [markdown] lang="en"
# ## Predict
#
# A client sends `Signal: the trip was fun →`. By how much do the logits at its last place differ between the plain model
# with its own tokenizer, and the model with the prompt? Write `plain_difference = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 用戶端送出 `Signal: the trip was fun →`。普通的模型加上自己的分詞器，跟帶著提示的模型，在最後一個位置的 logits 差多少？
# 把 `plain_difference = ...` 寫進 `predictions.toml`。

# %%
plain, writing = with_template(base, tokenizer, around.prompt)
vocabulary = len(tokenizer)
texts = [item.plain for item in task.held_out]


@torch.no_grad()
def last_logits(model, reading):
    """Logits of the next token behind each text, (texts, words of the base), as a server computes them."""
    ids = [reading(text, return_tensors="pt")["input_ids"].to(base.device) for text in texts]
    return torch.stack([model(row).logits[0, -1, :vocabulary] for row in ids])


all_in_front = ExportedPrompt(around.prompt.vectors.clone(), Template(front=settings.virtual_tokens))
careless = with_template(base, tokenizer, all_in_front.requires_grad_(False))
wanted = last_logits(around, tokenizer)
apart_plain = distance(last_logits(plain, writing), wanted)
apart_careless = distance(last_logits(*careless), wanted)
lab.record("plain_difference", apart_plain)
lab.record("plain_difference", apart_careless, variant="all_in_front")
guess = lab.predict("plain_difference")
lab.say(
    f"""- The tokenizer reads `{texts[0]}` as {len(writing(texts[0])["input_ids"])} tokens instead of \
{len(tokenizer(texts[0])["input_ids"])}. The logits differ by {apart_plain:.1e}\
{"" if guess is None else f" (you guessed {guess:.1e})"}; with a tokenizer that writes all of them in front by \
{apart_careless:.2g}.
- The plain model has {count_parameters(plain).total - count_parameters(base).total:,} numbers more: \
{settings.virtual_tokens} rows at both ends, and a head that is a table of its own.""",
    f"""- 分詞器把 `{texts[0]}` 讀成 {len(writing(texts[0])["input_ids"])} 個 token，而不是 {len(tokenizer(texts[0])["input_ids"])} 個。\
logits 差 {apart_plain:.1e}{"" if guess is None else f"（你猜 {guess:.1e}）"}；分詞器要是全寫在前面，則差 {apart_careless:.2g}。
- 普通的模型多了 {count_parameters(plain).total - count_parameters(base).total:,} 個數字：\
兩端各 {settings.virtual_tokens} 列，以及一個有自己的表的輸出層。""",
)

# %% [markdown] lang="en"
# ## Export
#
# Saved as an ordinary model and loaded anew, it must give the same logits to the bit. The control has been through
# bfloat16.

# %% [markdown] lang="zh-TW"
# ## 匯出
#
# 照普通的模型存檔，再重新載入，logits 必須一個位元都不差。對照組先轉成 bfloat16 再轉回來。

# %%
directory = lab.artifact("plain-model")
plain.save_pretrained(directory)
writing.save_pretrained(directory)
reloaded, reloaded_tokenizer = load_model(directory, device=settings.device, dtype=settings.dtype)
exact = last_logits(plain, writing)
lab.record("reload_difference", distance(last_logits(reloaded, reloaded_tokenizer), exact))
rounded = copy.deepcopy(plain).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(last_logits(rounded, writing), exact), variant="through_bfloat16")

# %% [markdown] lang="en"
# ## Serve
#
# `transformers serve` loads the directory in a process of its own. The client sends plain questions, and nothing else.
# Text and number of tokens must be those of the model here. The control is the base without a prompt.

# %% [markdown] lang="zh-TW"
# ## 部署
#
# `transformers serve` 在自己的行程裡載入這個目錄。用戶端只送普通的問題，別的都不送。
# 文字與 token 數必須跟這裡的模型相同。對照組是沒有提示的基礎模型。


# %%
@torch.inference_mode()
def local(model, text):
    """Greedy: the text, and how many tokens it took, the end-of-sequence token included."""
    inputs = tokenizer(text, return_tensors="pt").to(settings.device)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    written = model.generate(**inputs, **ends, **GREEDY, max_new_tokens=settings.answer_tokens)[0]
    new = written[inputs["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), len(new)


def differing(one, other):
    """In how many places two lists of answers are not equal."""
    return sum(mine != yours for mine, yours in zip(one, other, strict=True))


expected = [local(around, text) for text in texts]
without = [local(base, text) for text in texts]
if missing := missing_packages():
    lab.say(
        f"The server needs {', '.join(missing)}, which are not installed here.",
        f"伺服器需要 {'、'.join(missing)}，這裡沒有安裝。",
    )
else:
    with served(directory, device=str(settings.device)) as address:
        print(address)
        answers = [complete(address, text, settings.answer_tokens) for text in texts]
    given = [(answer.text, answer.completion_tokens) for answer in answers]
    lab.record("served_differently", differing(given, expected))
    lab.record("served_differently", differing(given, without), variant="no_prompt")
    rows = [(text, *(answer for answer, _ in each)) for text, *each in list(zip(texts, given, expected, without, strict=True))[:6]]
    columns = [tr("text", "文字"), tr("served", "伺服器"), tr("here", "這裡"), tr("no prompt", "沒有提示")]
    lab.table(columns, rows)
    lab.say(
        f"{differing(given, expected)} of {len(texts)} served answers differ from those here, "
        f"{differing(given, without)} from those of the base.",
        f"{len(texts)} 個伺服器的答案中，有 {differing(given, expected)} 個與這裡不同，與基礎模型不同的有 {differing(given, without)} 個。",
    )

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- The file for answers has {directory_bytes(files["front"]) / 1e3:.1f} KB with the training state, and `peft` \
reads and writes its adapter (largest difference {max(apart["ours in peft"], apart["peft's in ours"]):.1e}). It has no \
place for a template: read by `peft`, the prompt around the text is {apart["around the text, in peft"]:.2g} away from \
what was trained.
- As data of a tokenizer the template needs nothing of a server, and nothing of a client ({apart_plain:.1e}).""",
    f"""- 給答案用的檔案連同訓練狀態是 {directory_bytes(files["front"]) / 1e3:.1f} KB，`peft` 讀得懂也寫得回其中的 adapter\
（最大差異 {max(apart["ours in peft"], apart["peft's in ours"]):.1e}）。但它沒有地方放樣板：由 `peft` 來讀，圍著文字的提示與訓練時差 \
{apart["around the text, in peft"]:.2g}。
- 樣板成了分詞器的資料之後，對伺服器沒有任何要求，對用戶端也沒有（{apart_plain:.1e}）。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - One directory is one task: whoever needs several lets the client write words, as lab 1.1.3 does.
# - A tokenizer writes before and behind a text, never into its middle: a template with vectors before the anchor cannot
#   be served in this way.
# - Only `transformers serve` was tried.
#
# **Next:** lab 1.1.8 puts vectors into every layer, and calls that P-tuning v2.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 一個目錄就是一個任務：需要好幾個任務的話，像實驗 1.1.3 那樣讓用戶端寫字。
# - 分詞器只能寫在文字前面與後面，不能寫到中間：錨點前面有向量的樣板，就不能這樣部署。
# - 只試過 `transformers serve`。
#
# **下一步：** 實驗 1.1.8 把向量放進每一層，並稱它為 P-tuning v2。
