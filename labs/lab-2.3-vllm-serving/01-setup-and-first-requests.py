# %% [markdown] lang="en"
# # 1. A server, and the proof that it is right
#
# **Question.** A server turns a model into an address. How do you know that what comes out of the address is what is in the model?
#
# | | |
# |---|---|
# | You build | a running vLLM server; requests by plain HTTP and by the `openai` client; a parser for what the server counts |
# | You write | exercise 2 (`server_metrics.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory |
# | You should see | the server's tokens beside those of Transformers, and in how many answers they part; the same of log-probabilities, and of a bill of tokens |

# %% [markdown] lang="zh-TW"
# # 1. 一個伺服器，以及它沒有算錯的證明
#
# **問題。** 伺服器把模型變成一個網址。你怎麼知道，從這個網址拿到的就是模型算出來的？
#
# | | |
# |---|---|
# | 你會做出 | 一個執行中的 vLLM 伺服器；用純 HTTP 和 `openai` 用戶端送出的請求；解析伺服器計數器的程式 |
# | 你要寫的 | 練習 2（`server_metrics.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體 |
# | 你應該看到 | 伺服器的 token 與 Transformers 的並列，以及有幾個回答兩邊不同；對數機率與 token 用量也這樣比對 |

# %%
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

from lab_servers import NAME, start_first
from onepiece import lab
from onepiece.course.text import tr
from onepiece.serving import servers

settings = lab.settings
place = lab.artifact("server.json")


def start():
    began = time.perf_counter()
    server = servers.shared(place, lambda: start_first(settings, place.parent))
    return server, time.perf_counter() - began


starting = ThreadPoolExecutor().submit(start)

# %% [markdown] lang="en"
# The server starts in the background: two processes (HTTP; the engine, which is scheduler and model), each of which imports vLLM. (On a CPU, vLLM by itself gives the model a third one, and the engine spins while it waits for it: with few cores, requests that come together are then sometimes served one after the other. On one GPU it does as here.) It takes a while even for a model of one megabyte, and the model is the smallest part of it. We use the time to compute the answers that we expect: the same model, in this process, with Transformers, one prompt at a time.
#
# The prompts are of all kinds that the model was taught, half of them plain text and half in the chat template.

# %% [markdown] lang="zh-TW"
# 伺服器在背景啟動：兩個行程（HTTP；引擎，也就是排程器和模型），每個都要匯入 vLLM。（在 CPU 上，vLLM 預設會把模型放進第三個行程，引擎則一邊空轉一邊等它：核心不多時，同時到的請求有時就變成一個接一個地處理。只有一個 GPU 時，vLLM 的做法跟這裡一樣。）就算模型只有一 MB，也要等一會兒，而模型只占其中最小的一部分。我們利用這段時間，先算出預期的答案：同一個模型，在這個行程裡，用 Transformers 一次算一個提示。
#
# 提示涵蓋模型學過的各種題目，一半是純文字，一半套用對話範本。

# %%
import torch

from onepiece import world
from onepiece.adaptation import load_base
from onepiece.tiny.tokenizer import prompt_text
from reference import greedy_tokens, next_probabilities, token_logprobs

torch.set_num_threads(settings.threads)
model, tokenizer = load_base(settings)


def encode(text):
    """Token ids of a text that has its special tokens already."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


items = [
    item for family in world.TAUGHT for item in world.distinct_items(family, settings.items_per_family, 0, "held-out")
]
plain = [encode(prompt_text(item, tokenizer, chat=settings.chat)) for item in items]
chats = [encode(prompt_text(item, tokenizer, chat=True)) for item in items]
prompts = plain + chats
expected = [greedy_tokens(model, prompt, settings.answer_tokens) for prompt in prompts]
lab.table(
    [tr("family", "題目"), tr("prompt", "提示"), tr("answer of Transformers", "Transformers 的答案")],
    [
        (item.family, item.prompt[-50:], tokenizer.decode(tokens, skip_special_tokens=True))
        for item, tokens in list(zip(items, expected, strict=False))[:: settings.items_per_family]
    ],
)

# %%
server, ready_seconds = starting.result()
lab.record("ready_seconds", ready_seconds)
options = " ".join(server.command[server.command.index("--enable-lora") - 2 :])
lab.say(
    f"The server answers at `{server.url}` after {ready_seconds:.0f} s. The last of its options: `{options}`.",
    f"伺服器花了 {ready_seconds:.0f} 秒，現在在 `{server.url}` 回應。它最後的幾個選項：`{options}`。",
)

# %% [markdown] lang="en"
# ## The first request
#
# There is no magic in the protocol: JSON goes in, JSON comes out. The prompt may be text, or a list of token ids; with ids there is no doubt about what the model sees.

# %% [markdown] lang="zh-TW"
# ## 第一個請求
#
# 這個協定沒有什麼玄機：JSON 進去，JSON 出來。提示可以是文字，也可以是一串 token id；用 id 的話，模型看到什麼就毫無疑義。

# %%
import httpx2

request = {
    "model": NAME,
    "prompt": plain[6 % len(plain)],
    "max_tokens": settings.answer_tokens,
    "temperature": 0,
    "return_token_ids": True,
}
answer = httpx2.post(f"{server.url}/v1/completions", json=request, trust_env=False).json()
shown = {key: value for key, value in answer.items() if value is not None}
print(json.dumps(shown, ensure_ascii=False, indent=1)[:1200])

# %% [markdown] lang="en"
# The same through the `openai` package, which is what most programs use. It only needs another address. (vLLM's extra fields, such as `return_token_ids`, go into `extra_body`.)

# %% [markdown] lang="zh-TW"
# 換成 `openai` 套件，也就是大多數程式的做法。只要改網址就行。（vLLM 自己的欄位，例如 `return_token_ids`，放在 `extra_body`。）

# %%
import openai

client = openai.OpenAI(
    base_url=f"{server.url}/v1", api_key="none", http_client=openai.DefaultHttpxClient(trust_env=False)
)
same = client.completions.create(
    **{key: value for key, value in request.items() if key != "return_token_ids"}, extra_body={"return_token_ids": True}
)
conversation = client.chat.completions.create(
    model=NAME, messages=items[0].messages, max_tokens=settings.answer_tokens, temperature=0
)
assert same.choices[0].token_ids == answer["choices"][0]["token_ids"]
lab.table(
    [tr("endpoint", "端點"), tr("asked", "問題"), tr("answered", "回答"), "finish_reason", "usage"],
    [
        (
            "/v1/completions",
            items[6 % len(plain)].prompt,
            same.choices[0].text,
            same.choices[0].finish_reason,
            f"{same.usage.prompt_tokens} + {same.usage.completion_tokens}",
        ),
        (
            "/v1/chat/completions",
            items[0].prompt,
            conversation.choices[0].message.content,
            conversation.choices[0].finish_reason,
            f"{conversation.usage.prompt_tokens} + {conversation.usage.completion_tokens}",
        ),
    ],
)

# %% [markdown] lang="en"
# ## Predict
#
# All prompts go to the server at the same time. It will run them in one batch, with other kernels and another cache than Transformers, in another process. Greedy decoding takes the most likely token, so one different bit in the logits need not matter, but it may. For how many of the prompts will any token differ? And how many differ if the client makes a small mistake: the first token of every prompt left out (ids from a tokenizer that was told to add no special tokens, for a model that expects a beginning-of-sequence token), or the last one (a prompt that was cut to a length)? Write `greedy_differing = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 所有提示同時送給伺服器。它會把它們放進同一個批次，用的 kernel 和快取都跟 Transformers 不同，而且是在另一個行程裡。貪婪解碼只取最可能的 token，所以 logits 差一個位元不一定有影響，但也可能有。有幾個提示會出現不同的 token？如果用戶端犯了個小錯，又有幾個會不同：每個提示都少了第一個 token（分詞器被設成不加特殊 token，模型卻預期有序列開始 token），或是少了最後一個（提示被截到某個長度）？把 `greedy_differing = ...` 寫進 `predictions.toml`。

# %%
from onepiece.serving.load import closed_loop
from onepiece.serving.streaming import CHAT, COMPLETIONS, send, with_client


def ask_all(bodies, path=COMPLETIONS):
    """The answers to all bodies, 16 requests at a time."""

    async def work(client):
        return await closed_loop(
            lambda number, _: send(client, bodies[number], path=path), count=len(bodies), concurrency=16
        )

    return with_client(server.url, work)


def tokens_of(answers):
    return [answer["choices"][0]["token_ids"] for answer in answers]


def differing(got, wanted):
    return sum(one != other for one, other in zip(got, wanted, strict=True))


greedy = {"model": NAME, "max_tokens": settings.answer_tokens, "temperature": 0, "return_token_ids": True}
served = ask_all([greedy | {"prompt": prompt} for prompt in prompts])
cut_in_front = ask_all([greedy | {"prompt": prompt[1:]} for prompt in prompts])
cut_off = ask_all([greedy | {"prompt": prompt[:-1]} for prompt in prompts])
greedy_differing = differing(tokens_of(served), expected)
front_differing, cut_differing = differing(tokens_of(cut_in_front), expected), differing(tokens_of(cut_off), expected)
lab.record("greedy_differing", greedy_differing)
lab.record("greedy_differing", cut_differing, variant="last_token_dropped")


def constant(answers):
    """What a server says that knows one answer only: the most common one, to everybody."""
    return [max(answers, key=answers.count)] * len(answers)


lab.record("greedy_differing", differing(constant(expected), expected), variant="constant")

# %% [markdown] lang="en"
# ## Chat is a template, and nothing else
#
# `/v1/chat/completions` takes messages. The server renders them with the template that lies beside the weights and goes on as with any prompt. So it must give the tokens that Transformers gives for the rendered prompt. The control sends the bare text of the last message: the mistake of a client that "knows" that chat is only text.

# %% [markdown] lang="zh-TW"
# ## 對話只是一個範本
#
# `/v1/chat/completions` 收的是訊息。伺服器用放在權重旁邊的範本把它們排成文字，之後就跟任何提示一樣。所以它給的 token，必須等於 Transformers 對排好的提示所給的。對照組只送最後一則訊息的純文字：這是「反正對話也只是文字」的用戶端會犯的錯。

# %%
asked = {key: value for key, value in greedy.items() if key != "prompt"}
by_messages = ask_all([asked | {"messages": item.messages} for item in items], path=CHAT)
bare = ask_all([greedy | {"prompt": item.prompt} for item in items])
expected_chats = expected[len(plain) :]
chat_differing, bare_differing = (
    differing(tokens_of(by_messages), expected_chats),
    differing(tokens_of(bare), expected_chats),
)
lab.record("chat_differing", chat_differing)
lab.record("chat_differing", bare_differing, variant="no_template")
lab.record("chat_differing", differing(constant(expected_chats), expected_chats), variant="constant")
lab.table(
    [
        tr("request", "請求"),
        tr("requests", "請求數"),
        tr("answers with another token than Transformers", "與 Transformers 有任一 token 不同"),
    ],
    [
        (tr("completions, greedy", "completions，貪婪"), len(prompts), greedy_differing),
        (tr("completions, first token left out", "completions，少了第一個 token"), len(prompts), front_differing),
        (tr("completions, last token left out", "completions，少了最後一個 token"), len(prompts), cut_differing),
        (tr("chat", "chat"), len(items), chat_differing),
        (tr("chat questions without the template", "對話題目，不套範本"), len(items), bare_differing),
    ],
)

# %% [markdown] lang="en"
# ## Log-probabilities
#
# Equal tokens could hide unequal numbers. `logprobs` asks the server for the logarithm of each token's probability; Transformers gives the same from one pass over prompt and answer. The largest difference over all tokens is the error. The control shifts the comparison by one position: the most common mistake with logits.
#
# The first request of this kind compiles a small function, unless compilation is switched off, as on the CPU profile (`TORCH_COMPILE_DISABLE=1`). Where it is on, send one such request before users come. So the first one is timed, and the same once more.

# %% [markdown] lang="zh-TW"
# ## 對數機率
#
# token 相同，底下的數字仍可能不同。`logprobs` 向伺服器要每個 token 機率的對數；Transformers 把提示加回答一起算一遍，也能得到同樣的東西。所有 token 中最大的差異就是誤差。對照組把比較的位置錯開一格：這是處理 logits 最常見的錯誤。
#
# 第一個這種請求會先編譯一個小函式，除非像 CPU 規模那樣關掉了編譯（`TORCH_COMPILE_DISABLE=1`）。如果開著，請在使用者進來之前先送一個這樣的請求。所以這裡替第一個計時，再用同樣的請求計時一次。

# %%
waits = []
for _ in range(2):
    asked_at = time.perf_counter()
    ask_all([greedy | {"prompt": prompts[0], "logprobs": 1}])
    waits.append(time.perf_counter() - asked_at)
scored = ask_all([greedy | {"prompt": prompt, "logprobs": 1} for prompt in prompts])
errors, shifted = [], []
for prompt, scored_answer in zip(prompts, scored, strict=True):
    choice = scored_answer["choices"][0]
    theirs, ours = choice["logprobs"]["token_logprobs"], token_logprobs(model, prompt, choice["token_ids"])
    errors += [abs(one - other) for one, other in zip(theirs, ours, strict=True)]
    shifted += [abs(one - other) for one, other in zip(theirs[1:], ours, strict=False)]
lab.record("logprob_error", max(errors))
lab.record("logprob_error", max(shifted), variant="off_by_one")
knows_nothing = -math.log(len(tokenizer))  # every token equally likely
server_says = [value for answer in scored for value in answer["choices"][0]["logprobs"]["token_logprobs"]]
lab.record("logprob_error", max(abs(value - knows_nothing) for value in server_says), variant="uniform")
lab.say(
    f"Largest difference over {len(errors)} tokens: {max(errors):.2g} nats. Shifted by one position: {max(shifted):.2g}. "
    f"The first request for them took {waits[0]:.2f} s, the same again {waits[1]:.2f} s.",
    f"{len(errors)} 個 token 中最大的差異：{max(errors):.2g} nat。錯開一格：{max(shifted):.2g}。第一個這種請求花了 {waits[0]:.2f} 秒，同樣的再來一次 {waits[1]:.2f} 秒。",
)

# %% [markdown] lang="en"
# ## The bill
#
# `usage` is what customers pay for. It must equal the tokenizer's count: the prompt with its special tokens, and the answer with the end-of-sequence token. The control counts words.
#
# There is a trap in it. A prompt that is *text* gets a beginning-of-sequence token from the server's tokenizer, if the model has one. Whoever sends a text that has one already gets two: one token more on the bill, and a model that sees something it never saw in training.

# %% [markdown] lang="zh-TW"
# ## 用量
#
# 客戶依 `usage` 付費。它必須等於分詞器數出來的：提示加上特殊 token，回答加上序列結束 token。對照組數的是單字。
#
# 這裡有個陷阱。*文字*形式的提示，伺服器的分詞器會替它加上序列開始 token（如果模型有的話）。文字裡已經有一個的話，就會變成兩個：用量多一個 token，模型也會看到訓練時從沒見過的東西。

# %%
usage = [(answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) for answer in served]
counted = [(len(prompt), len(tokens)) for prompt, tokens in zip(prompts, expected, strict=True)]
words = [
    (len(tokenizer.decode(prompt).split()), len(tokenizer.decode(tokens).split()))
    for prompt, tokens in zip(prompts, expected, strict=True)
]
usage_differing = differing(usage, counted)
lab.record("usage_differing", usage_differing)
lab.record("usage_differing", differing(usage, words), variant="words")

start_token = tokenizer.bos_token or ""
texts = {
    tr("text without it", "文字，不帶它"): "27 + 15 →",
    tr("text that has it", "文字，自己帶著它"): f"{start_token}27 + 15 →",
}
bodies = [greedy | {"prompt": text} for text in texts.values()]
lab.table(
    [
        tr("prompt", "提示"),
        tr("prompt tokens on the bill", "用量中的提示 token 數"),
        tr("ids that the model saw", "模型看到的 id"),
    ],
    [
        (name, answer["usage"]["prompt_tokens"], answer["choices"][0]["prompt_token_ids"])
        for name, answer in zip(texts, ask_all(bodies), strict=True)
    ],
)

# %% [markdown] lang="en"
# ## What the server counts
#
# `/metrics` is the server's own account, as text in Prometheus' format: counters, gauges, histograms. All of module 2 looks through this window, so we open it ourselves:

# %% [markdown] lang="zh-TW"
# ## 伺服器自己的計數
#
# `/metrics` 是伺服器自己的統計，以 Prometheus 的文字格式寫成：計數器、量表、直方圖。整個第 2 單元都要靠它來觀察伺服器，所以我們自己來解析它：

# %%
from onepiece.serving.metrics import changes, total
from server_metrics import parse, read_idle

lab.source(parse)

# %% [markdown] lang="en"
# All prompts once more, with a reading before and after. The counter of generated tokens must grow by exactly what the answers' `usage` says together. The control counts the tokens of the answers' *text*: encoding a text anew does not give the tokens that it was made of.

# %% [markdown] lang="zh-TW"
# 再送一次所有提示，前後各讀一次。生成 token 的計數器增加的量，必須正好等於所有回答的 `usage` 加總。對照組數的是回答*文字*的 token：把文字重新編碼，得到的不是當初組成它的那些 token。

# %%
before = read_idle(server.url)
again = ask_all([greedy | {"prompt": prompt} for prompt in prompts])
grown = changes(before, read_idle(server.url))
billed = sum(answer["usage"]["completion_tokens"] for answer in again)
from_text = sum(len(encode(answer["choices"][0]["text"])) for answer in again)
generated = total(grown, "vllm:generation_tokens_total")
lab.record("tokens_unaccounted", abs(generated - billed))
lab.record("tokens_unaccounted", abs(generated - from_text), variant="encoded_anew")
interesting = (
    "vllm:request_success_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:prefix_cache_queries_total",
    "vllm:time_to_first_token_seconds_count",
)
lab.table([tr("counter", "計數器"), tr("grown by", "增加了")], [(name, total(grown, name)) for name in interesting])

# %% [markdown] lang="en"
# The next notebooks need the expected answers, and the distribution of one next token; here is the Transformers that computed them.

# %% [markdown] lang="zh-TW"
# 之後的筆記本會用到預期的答案，以及某一個「下一個 token」的分布；算出它們的 Transformers 就在這裡。

# %%
lab.artifact("expected.json").write_text(json.dumps({"prompts": prompts, "answers": expected}), encoding="utf-8")
beginning = encode(settings.sampling_prompt)
torch.save({"prompt": beginning, "probabilities": next_probabilities(model, beginning)}, lab.artifact("next-token.pt"))

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("greedy_differing")
lab.say(
    f"""- Of {len(prompts)} greedy answers {greedy_differing} differ from \
Transformers{"" if guess is None else f" (you guessed {guess:g})"}; \
without the last token of the prompt {cut_differing} do, without the first \
{front_differing}{"" if front_differing else ": equal answers alone do not prove that the prompt was right"}.
- Chat through the template: {chat_differing} of {len(items)} differ; without it, {bare_differing}.
- Log-probabilities agree to {max(errors):.1g} nats.
- On {usage_differing} of {len(prompts)} bills the tokens are not those of the tokenizer, and \
{abs(generated - billed):g} tokens are missing from the server's own account of {generated:g}.""",
    f"""- {len(prompts)} 個貪婪解碼的回答中，{greedy_differing} 個與 Transformers 不同{"" if guess is None else f"（你猜 {guess:g}）"}；\
提示少了最後一個 token 時，有 {cut_differing} 個不同，少了第一個時則有 {front_differing} 個{"" if front_differing else "：回答相同，還不足以證明提示是對的"}。
- 套用範本的對話：{len(items)} 個中 {chat_differing} 個不同；不套範本，{bare_differing} 個。
- 對數機率相差不超過 {max(errors):.1g} nat。
- {len(prompts)} 個回答的用量中，{usage_differing} 個的 token 數與分詞器數的不同；伺服器自己記的 {generated:g} 個 token，差了 {abs(generated - billed):g} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Equality to the last token holds here because both sides compute in float32 with the same CPU library. In bfloat16 on a GPU another batch size means another order of additions, and near ties flip: there, compare log-probabilities with a tolerance, and expect some greedy answers to part ways.
# - The server is a community build of vLLM for CPUs. On the GPU profile it is the official one, with compiled kernels and CUDA graphs; the protocol and the counters are the same.
# - Start-up is mostly imports here. With a large model it is reading weights, compiling, and capturing graphs.
#
# **Exercise.** 2 (`server_metrics.py`: the format of Prometheus) belongs here: `nox -s check -- lab-2.3-vllm-serving`.
#
# **Next:** the same server, asked by many at once.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡能一個 token 都不差，是因為兩邊都用同一個 CPU 函式庫以 float32 計算。在 GPU 上用 bfloat16，批次大小不同，加法順序就不同，機率接近的 token 會翻轉：這時比對對數機率要設容許誤差，也要預期有些貪婪解碼的回答會跟 Transformers 不同。
# - 這個伺服器是社群為 CPU 建置的 vLLM。GPU 規模用的是官方版本，有編譯過的 kernel 與 CUDA graph；協定與計數器相同。
# - 這裡的啟動時間大多花在匯入。換成大模型，就是讀取權重、編譯、擷取 CUDA graph。
#
# **練習。** 練習 2（`server_metrics.py`：Prometheus 的格式）屬於這一本：`nox -s check -- lab-2.3-vllm-serving`。
#
# **下一步：** 同一個伺服器，很多人同時來問。
