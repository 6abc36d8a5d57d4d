# %% [markdown] lang="en"
# # 3. One base model, many behaviours
#
# **Question.** A server holds one model. How much more can it be made to do, without another model, and without becoming wrong: other skills, less work, answers in a fixed form, several tokens per step?
#
# | | |
# |---|---|
# | You build | an adapter, trained here and loaded into the running server; a count of the blocks that requests hold; a formula that predicts the prefix cache; answers in a fixed form; a draft model that guesses |
# | You write | exercise 5 (`prefix_cache.py`) |
# | You need | just under a minute on two CPU cores, 3 GB of memory |
# | You should see | what an adapter does to its own answers, and to those of others; how much memory is held for nothing, with and without blocks; how far a formula is from the cache's own count; how many constrained answers parse, and what ends the guarantee; what speculation changes, greedy and sampled |

# %% [markdown] lang="zh-TW"
# # 3. 一個基礎模型，多種行為
#
# **問題。** 伺服器裡只有一個模型。不換模型、也不出錯的前提下，還能讓它多做多少事：別的技能、少算一點、固定格式的回答、一步好幾個 token？
#
# | | |
# |---|---|
# | 你會做出 | 在這裡訓練、載入執行中伺服器的 adapter；請求占用多少區塊的計算；預測前綴快取的公式；固定格式的回答；會先猜的草稿模型 |
# | 你要寫的 | 練習 5（`prefix_cache.py`） |
# | 你需要 | 兩個 CPU 核心跑將近一分鐘，3 GB 記憶體 |
# | 你應該看到 | adapter 對自己的回答、對別人的回答各有什麼影響；分成區塊與不分，各有多少記憶體白白占著；公式與快取自己數的差多少；有格式限制的回答有幾個能解析，以及這個保證到哪裡為止；推測解碼改變了什麼，貪婪與取樣都看 |

# %%
import asyncio
import json
import random
import re
import secrets
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from onepiece.models import load_model, quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import httpx2
import torch
from peft import LoraConfig, get_peft_model

from broken_variants import broken_hits
from lab_servers import NAME, start_first, start_production
from onepiece import lab
from onepiece.adaptation import fit, load_base, load_task
from onepiece.course.text import Text, tr
from onepiece.evaluation import exact_match
from onepiece.figures import COLORS, subplots
from onepiece.serving import servers
from onepiece.serving.load import closed_loop
from onepiece.serving.metrics import changes, label, total
from onepiece.serving.signals import terminate
from onepiece.serving.streaming import send, with_client
from onepiece.tiny.tokenizer import prompt_text
from prefix_cache import blocks_held, predicted_hits
from reference import greedy_tokens, guessed_second, next_probabilities, second_probabilities, total_variation
from retrying import succeeded
from server_metrics import read_idle, read_with
from streaming_client import begin, stream

settings = lab.settings
torch.set_num_threads(settings.threads)
place = lab.artifact("server.json")
server = servers.shared(place, lambda: start_first(settings, place.parent))
expected = json.loads(lab.artifact("expected.json").read_text(encoding="utf-8"))
greedy = {"model": NAME, "max_tokens": settings.answer_tokens, "temperature": 0, "return_token_ids": True}


def ask_all(bodies, *, at_once=16, key=None, timeout=60.0):
    """The replies of the server to all bodies."""

    async def work(client):
        return await closed_loop(
            lambda number, _: stream(client, bodies[number]), count=len(bodies), concurrency=min(at_once, len(bodies))
        )

    return with_client(server.url, work, key=key, timeout=timeout)


def differing(replies, wanted):
    return sum(reply.token_ids != tokens for reply, tokens in zip(replies, wanted, strict=True))


# %% [markdown] lang="en"
# ## A new skill
#
# `relabel` is a task that the base cannot do: to call sentiment by colours. Lab 1.1.1 wrote LoRA from the paper; here `peft` trains an adapter in seconds and saves it in the format that vLLM reads.

# %% [markdown] lang="zh-TW"
# ## 新技能
#
# `relabel` 是基礎模型不會的任務：用顏色來稱呼情緒。實驗 1.1.1 照論文寫出了 LoRA；這裡用 `peft` 花幾秒訓練一個 adapter，存成 vLLM 讀得懂的格式。

# %%
adapter = lab.artifact("adapter")
base, tokenizer = load_base(settings)
task = load_task(
    "relabel", tokenizer, train_items=settings.train_items, held_out_items=settings.held_out_items, chat=settings.chat
)
torch.manual_seed(0)
adapted = get_peft_model(
    base, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
)
history = fit(
    adapted,
    task,
    steps=settings.adapter_steps,
    learning_rate=settings.adapter_rate,
    batch_size=settings.adapter_batch,
    seed=0,
)
adapted.eval()
adapted.save_pretrained(adapter)

questions = [
    tokenizer(prompt_text(item, tokenizer, chat=settings.chat), add_special_tokens=False)["input_ids"]
    for item in task.held_out
]
with_peft = [greedy_tokens(adapted, question, settings.answer_tokens) for question in questions]
size = sum(file.stat().st_size for file in adapter.glob("*.safetensors"))
lab.say(
    f"Loss {history.losses[0]:.2f} → {history.losses[-1]:.2f}; the adapter is a file of {size / 1e3:,.0f} KB.",
    f"損失 {history.losses[0]:.2f} → {history.losses[-1]:.2f}；adapter 是一個 {size / 1e3:,.0f} KB 的檔案。",
)

# %% [markdown] lang="en"
# ## Into the running server
#
# A server that was started with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING` takes adapters while it runs. Each gets a name and is then a model like any other. (The variable lets every client load any path that the server can read. Not in production: there, name the adapters at the start, as the second server of this lab does.)

# %% [markdown] lang="zh-TW"
# ## 載入執行中的伺服器
#
# 用 `--enable-lora` 和 `VLLM_ALLOW_RUNTIME_LORA_UPDATING` 啟動的伺服器，執行中也能接受 adapter。每個 adapter 有自己的名稱，之後就跟任何模型一樣。（這個變數會讓所有用戶端都能載入伺服器讀得到的任何路徑。正式環境別開：請在啟動時就指定 adapter，這個實驗的第二個伺服器就是這樣。）


# %%
def post(path, body):
    answer = httpx2.post(server.url + path, json=body, trust_env=False, timeout=60.0)
    return answer.status_code, answer.text


def model_names():
    return [entry["id"] for entry in httpx2.get(f"{server.url}/v1/models", trust_env=False).json()["data"]]


post("/v1/unload_lora_adapter", {"lora_name": "relabel"})  # left from an earlier run of this notebook
steps = [("", model_names())]
for path, body in (("/v1/load_lora_adapter", {"lora_name": "relabel", "lora_path": str(adapter)}),):
    status, text = post(path, body)
    steps.append((f"{path}: {status}, {text[:80]}", model_names()))
lab.table([tr("request", "請求"), tr("models of the server", "伺服器的模型")], steps)

# %% [markdown] lang="en"
# ## Predict
#
# How many of the held-out questions does the adapter get right on the server (0 to 1)? Write `adapter_accuracy = ...` into `predictions.toml`. And a question without a number: the same questions for the base and for the adapter, *mixed in the same batches*: does anything change?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 保留題目中，伺服器上的 adapter 能答對多少比例（0 到 1）？把 `adapter_accuracy = ...` 寫進 `predictions.toml`。還有一個不用寫數字的問題：同樣的題目，給基礎模型的和給 adapter 的*混在同樣的批次裡*，會有什麼不同嗎？


# %%
def for_model(model):
    return [greedy | {"prompt": question, "model": model} for question in questions]


def mixed_answers(**options):
    """The base's and the adapter's answers to all questions, asked at the same time in turn."""
    bodies = [body for pair in zip(for_model(NAME), for_model("relabel"), strict=True) for body in pair]
    replies = ask_all(bodies, **options)
    return replies[0::2], replies[1::2]


def share_right(replies):
    return exact_match([reply.text for reply in replies], [item.answer for item in task.held_out])


with adapted.disable_adapter():
    with_base = [greedy_tokens(adapted, question, settings.answer_tokens) for question in questions]
from_base, from_adapter = ask_all(for_model(NAME)), ask_all(for_model("relabel"))
mixed_base, mixed_adapter = mixed_answers()
right, base_right = share_right(from_adapter), share_right(from_base)
lab.record("adapter_accuracy", right)
lab.record("adapter_accuracy", base_right, variant="base")
answers = [item.answer for item in task.held_out]
most_common = Counter(answers).most_common(1)[0][0]
lab.record("adapter_accuracy", exact_match([most_common] * len(answers), answers), variant="constant")
lab.record("adapter_differing", differing(from_adapter, with_peft))

# The same tensors under another rule: alpha / sqrt(rank) instead of alpha / rank, one word in the file beside them.
other_scale = lab.artifact("adapter-other-scale")
shutil.copytree(adapter, other_scale, dirs_exist_ok=True)
config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
(other_scale / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}), encoding="utf-8")
post("/v1/unload_lora_adapter", {"lora_name": "relabel"})
post("/v1/load_lora_adapter", {"lora_name": "other-scale", "lora_path": str(other_scale)})
from_other_scale = ask_all(for_model("other-scale"))
post("/v1/unload_lora_adapter", {"lora_name": "other-scale"})
post("/v1/load_lora_adapter", {"lora_name": "relabel", "lora_path": str(adapter)})
lab.record("adapter_differing", differing(from_other_scale, with_peft), variant="other_scale")
lab.record("adapter_differing", differing(from_base, with_peft), variant="base")
one_slot = differing(mixed_base, with_base)
lab.record("mixed_base_differing", one_slot, variant="no_spare_slot")
lab.table(
    [
        tr("asked", "發問方式"),
        tr("model", "模型"),
        tr("right on relabel", "relabel 答對"),
        tr("unlike Transformers / peft", "與 Transformers、peft 不同"),
        tr("one answer", "其中一個回答"),
    ],
    [
        (how, name, f"{share_right(replies):.0%}", differing(replies, tokens), replies[0].text)
        for how, name, replies, tokens in (
            (tr("alone", "各自"), NAME, from_base, with_base),
            (tr("alone", "各自"), "relabel", from_adapter, with_peft),
            (
                tr("alone", "各自"),
                tr("relabel, scaled by another rule", "relabel，縮放規則不同"),
                from_other_scale,
                with_peft,
            ),
            (tr("mixed", "混合"), NAME, mixed_base, with_base),
            (tr("mixed", "混合"), "relabel", mixed_adapter, with_peft),
        )
    ],
)

# %%
finding = one_slot > 0
lab.say(
    f"""Asked alone, both are right. Mixed, {one_slot} of {len(questions)} answers of the *base* are \
wrong{": they are the adapter's. No error, no warning; the customers of the base get another model whenever a customer of the adapter is there too. It is a known mistake of vLLM's CPU code ([#48421](https://github.com/vllm-project/vllm/pull/48421)): a request without adapter has the adapter number -1, and Python takes -1 for the last one. With one adapter slot (`--max-loras 1`, the default) that is the adapter. The second server below gets one slot more than it has adapters, so that the last one stays empty, and takes the same test" if finding else ": this build keeps them apart (its CPU code does not, see [#48421](https://github.com/vllm-project/vllm/pull/48421))"}. \
A test of each model alone does not find such a thing.""",
    f"""各自發問，兩者都對。混在一起，*基礎模型*的 {len(questions)} 個回答中有 {one_slot} \
個是錯的{"：那其實是 adapter 的回答。沒有錯誤訊息，也沒有警告；只要剛好有人在用 adapter，使用基礎模型的客戶就會拿到另一個模型。這是 vLLM 的 CPU 程式碼的已知錯誤（[#48421](https://github.com/vllm-project/vllm/pull/48421)）：沒有 adapter 的請求，adapter 編號是 -1，而 Python 把 -1 當成最後一個。只有一個 adapter 位置時（`--max-loras 1`，預設值），最後一個就是那個 adapter。下面的第二個伺服器，位置會比 adapter 多一個，讓最後一個空著，然後再做一次同樣的測試" if finding else "：這個版本有把它們分開（它的 CPU 程式碼則沒有，見 [#48421](https://github.com/vllm-project/vllm/pull/48421)）"}。\
只分別測試每個模型，是發現不了這種事的。""",
)

# %%
status, _ = post("/v1/unload_lora_adapter", {"lora_name": "relabel"})
(gone,) = ask_all([greedy | {"prompt": questions[0], "model": "relabel"}])
post("/v1/load_lora_adapter", {"lora_name": "relabel", "lora_path": str(adapter)})
lab.say(
    f"An adapter leaves as it came. Unloading: {status}. A request for it afterwards: {gone.status}.",
    f"adapter 載入得了，也卸載得掉。卸載：{status}。之後再向它發請求：{gone.status}。",
)

# %% [markdown] lang="en"
# ## Memory in pieces: PagedAttention
#
# Decoding needs the keys and values of every token before. How much memory does a request need for them? Nobody knows before it ends. A server that reserves one piece for the longest answer possible holds most of it for nothing. *PagedAttention* does what an operating system does with pages: memory is cut into blocks of a few tokens; a request has a **block table**, which says for its first, second, ... block of tokens in which block of memory they are; a new one is taken only when the last is full. Attention reads through the table, so the blocks need not lie side by side, and two tables may name the same block. What can be wasted is the rest of each request's last block.
#
# The server says what share of its blocks is in use. We let several requests run, of prompts with nothing in common, and then as many that begin with the same three blocks, and hold the most that was in use against a formula:

# %% [markdown] lang="zh-TW"
# ## 記憶體分成區塊：PagedAttention
#
# 解碼需要前面每一個 token 的 key 與 value。一個請求要用多少記憶體來放？結束之前沒有人知道。如果伺服器替最長的回答預留一整段，大部分就白白占著。*PagedAttention* 的做法跟作業系統的分頁一樣：記憶體切成區塊，一塊放幾個 token；每個請求有一張**區塊表**（block table），記錄它的第一段、第二段……token 各在哪一塊記憶體裡；最後一塊滿了才拿新的。注意力透過這張表去讀，所以區塊不必相鄰，兩張表也可以指到同一塊。會浪費的，只有每個請求最後一塊剩下的部分。
#
# 伺服器會回報自己的區塊有多少比例正在使用。我們先讓幾個毫無共同點的請求一起跑，再讓同樣多個、前三個區塊相同的請求一起跑，把使用中的最大值拿來對照公式：

# %%
lab.source(blocks_held)

# %%
# A label of a series in its metrics says how large the server's blocks are, and how many there are.
now = read_idle(server.url)
block_size, blocks = (int(label(now, "vllm:cache_config_info", name)) for name in ("block_size", "num_gpu_blocks"))
# New ones each time: what an earlier run of this notebook cached must not count.
generator = random.Random(time.time_ns())


def some_tokens(count):
    return [generator.randrange(300, 900) for _ in range(count)]


async def most_blocks(client, prompts, generated):
    """The most blocks that were in use while these requests ran together."""
    usage = []

    async def look():
        while True:
            usage.append(total(await read_with(client), "vllm:kv_cache_usage_perc"))

    looking = asyncio.create_task(look())
    body = greedy | {"max_tokens": generated, "ignore_eos": True}
    await asyncio.gather(*(stream(client, body | {"prompt": prompt}) for prompt in prompts))
    looking.cancel()
    return round(max(usage) * (blocks - 1))  # one block is never given to anybody


generated = 2 * block_size - 8  # so that each request grows, and ends with its last block nearly full
three_blocks = some_tokens(3 * block_size)
kinds = {
    tr("nothing in common", "毫無共同點"): lambda: [
        some_tokens((1 + n % 3) * block_size + 1) for n in range(settings.clients)
    ],
    tr("three blocks in common", "前三個區塊相同"): lambda: [
        three_blocks + some_tokens(1) for _ in range(settings.clients)
    ],
}
served = httpx2.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
model_length = next(entry["max_model_len"] for entry in served if entry["id"] == NAME)
reserved_each = -(-model_length // block_size)
rows, paging_error, unshared_error, reserved_error = [], 0, 0, 0
for kind, make in kinds.items():
    tries = []
    for _ in range(settings.repeats):  # a busy machine may not look at the right moment: the most of several
        prompts = make()
        tries.append(with_client(server.url, lambda client, prompts=prompts: most_blocks(client, prompts, generated)))
    held, formula = max(tries), blocks_held(prompts, generated, block_size)
    tokens = sum(len(prompt) + generated - 1 for prompt in prompts)
    alone = sum(blocks_held([prompt], generated, block_size) for prompt in prompts)
    reserved = reserved_each * len(prompts)
    paging_error += abs(held - formula)
    unshared_error += abs(held - alone)
    reserved_error += abs(held - reserved)
    rows.append(
        (
            kind,
            tokens,
            formula,
            held,
            alone,
            f"{1 - tokens / (alone * block_size):.0%}",
            reserved,
            f"{1 - tokens / (reserved * block_size):.0%}",
        )
    )
lab.record("paging_error", paging_error)
lab.record("paging_error", unshared_error, variant="not_shared")
lab.record("paging_error", reserved_error, variant="reserved")
lab.table(
    [
        tr(f"{settings.clients} requests", f"{settings.clients} 個請求"),
        "token",
        tr("blocks, formula", "區塊，公式"),
        tr("blocks, the server", "區塊，伺服器"),
        tr("if nobody shared", "如果都不共用"),
        tr("of that, held for nothing", "其中白白占著的"),
        tr(f"if each reserved {model_length} tokens", f"如果各預留 {model_length} 個 token"),
        tr("of that, held for nothing", "其中白白占著的"),
    ],
    rows,
)

# %% [markdown] lang="en"
# ## What was computed before need not be computed again
#
# Two tables can name the same block only if the server finds it. Requests often begin alike: the same system prompt, the same document, the same conversation so far. vLLM finds a full block again by a hash of all tokens up to its end. So one can say in advance, to the token, what a prompt will find:

# %% [markdown] lang="zh-TW"
# ## 算過的不必再算
#
# 兩張表要能指到同一塊，伺服器得先找得到它。請求的開頭常常一樣：同樣的系統提示、同一份文件、到目前為止的同一段對話。vLLM 用「到區塊結尾為止所有 token」的雜湊值，把填滿的區塊找回來。所以一個提示能找到多少，事先就能說，而且精確到 token：

# %%
lab.source(predicted_hits)

# %% [markdown] lang="en"
# The prompts are random tokens, so that nothing is in the cache by chance. They come one after the other; after each, the server's own counter says how many tokens it found. Besides prompts with a common beginning there are: one that is repeated, a piece that ends exactly with a block, one that does so and goes on by a token, the same prompt for the adapter, and one that has nothing in common with any other.

# %% [markdown] lang="zh-TW"
# 提示是隨機的 token，這樣快取裡就不會碰巧有東西。它們一個接一個送出；每送一個，就看伺服器自己的計數器說找到幾個 token。除了開頭相同的提示，還有：重複的提示、剛好結束在區塊邊界的一段、結束在邊界之後又多一個 token 的、給 adapter 的同一個提示，以及與其他提示毫無共同點的提示。

# %%
common, exact = some_tokens(settings.shared_tokens), some_tokens(3 * block_size)
cases = [
    (tr("common beginning, first", "共同開頭，第一次"), NAME, common + some_tokens(settings.own_tokens)),
    (tr("common beginning, other end", "共同開頭，結尾不同"), NAME, common + some_tokens(settings.own_tokens)),
    (tr("common beginning, other end", "共同開頭，結尾不同"), NAME, common + some_tokens(settings.own_tokens)),
    (tr("the beginning alone", "只有開頭"), NAME, common),
    (tr("two blocks of it, exactly", "剛好兩個區塊"), NAME, common[: 2 * block_size]),
    (tr("one token changed in front", "最前面改一個 token"), NAME, some_tokens(1) + common[1:]),
    (tr("the same for the adapter", "同一個提示，給 adapter"), "relabel", common),
    (tr("again for the adapter", "再給 adapter 一次"), "relabel", common),
    (tr("three blocks, exactly", "剛好三個區塊"), NAME, exact),
    (tr("the same and one token more", "同樣的提示，再多一個 token"), NAME, exact + some_tokens(1)),
    (tr("unrelated", "毫無關聯"), NAME, some_tokens(settings.shared_tokens)),
]
found = []
for _, model, prompt in cases:
    before = read_idle(server.url)
    ask_all([greedy | {"prompt": prompt, "model": model, "max_tokens": 1}])
    found.append(int(total(changes(before, read_idle(server.url)), "vllm:prefix_cache_hits_total")))
tokens = [prompt for _, _, prompt in cases]
models = [model for _, model, _ in cases]
predicted = predicted_hits(tokens, block_size, adapters=models)
all_of_it = broken_hits(tokens, block_size, models, "last_token")
error = sum(abs(one - other) for one, other in zip(found, predicted, strict=True))
lab.record("cache_prediction_error", error)
lab.record(
    "cache_prediction_error",
    sum(abs(one - other) for one, other in zip(found, all_of_it, strict=True)),
    variant="last_token_found_too",
)
# The formula of a server without a cache says 0, always.
lab.record("cache_prediction_error", sum(found), variant="nothing_cached")
lab.record("cached_tokens", found[1])
lab.record("cached_tokens", found[-1], variant="unrelated")
lab.table(
    [
        tr("prompt", "提示"),
        tr("model", "模型"),
        "token",
        tr("predicted", "預測"),
        tr("found", "找到"),
        tr("if the last token need not be computed", "如果最後一個 token 不必計算"),
    ],
    [
        (name, model, len(prompt), *numbers)
        for (name, model, prompt), *numbers in zip(cases, predicted, found, all_of_it, strict=True)
    ],
)

# %% [markdown] lang="en"
# Two things to take along. What varies belongs at the *end* of a prompt: one changed token in front costs the whole cache. And a cache that is shared between customers can be asked what is in it, by the clock: vLLM's `cache_salt` field keeps them apart.
#
# ## Answers that a program can read
#
# A model may be asked for JSON, and mostly gives it. A *structured output* cannot be anything else: at each step the server forbids all tokens that would leave the grammar. We sample at temperature 1 for three forms, with and without the constraint. (JSON allows any number of spaces between its parts, and our small model fills whole answers with them; the server was started with `disable_any_whitespace`.)

# %% [markdown] lang="zh-TW"
# 有兩件事值得記住。會變的東西要放在提示的*最後*：最前面改一個 token，整個快取就沒了。還有，客戶之間共用的快取，從回應時間就能推測出裡面有什麼：vLLM 的 `cache_salt` 欄位可以把他們隔開。
#
# ## 程式讀得懂的回答
#
# 你可以請模型輸出 JSON，它大多會照做。*結構化輸出*則一定符合格式：每一步，伺服器都排除不符合文法的 token。我們在溫度 1 取樣三種格式，有限制與沒有限制都試。（JSON 允許各部分之間有任意多個空格，而我們的小模型會用空格填滿整個回答；所以伺服器啟動時設了 `disable_any_whitespace`。）

# %%
COLOURS = ["blue", "green", "red"]
PHONE = "[0-9]{3}-[0-9]{4}"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": COLOURS}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


def is_phone(text):
    return re.fullmatch(PHONE, text) is not None


def is_record(text):
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return False
    return (
        isinstance(value, dict)
        and set(value) == {"colour", "count"}
        and value["colour"] in COLOURS
        and 0 <= value["count"] <= 99
    )


forms = {  # the constraint, and whether a text keeps it
    "choice": ({"choice": COLOURS}, lambda text: text in COLOURS),
    "regex": ({"regex": PHONE}, is_phone),
    "json": ({"json": SCHEMA}, is_record),
}
rows, unparsable, free_unparsable = [], 0, 0
for name, (constraint, keeps) in forms.items():
    bodies = [
        greedy | {"prompt": questions[number], "max_tokens": 48, "temperature": 1.0, "seed": number}
        for number in range(settings.structured_requests)
    ]
    bound = ask_all([body | {"structured_outputs": constraint} for body in bodies])
    free = ask_all(bodies)
    unparsable += sum(not keeps(reply.text) for reply in bound)
    free_unparsable += sum(not keeps(reply.text) for reply in free)
    rows.append(
        (
            name,
            f"{sum(keeps(reply.text) for reply in bound)}/{len(bound)}",
            f"{sum(keeps(reply.text) for reply in free)}/{len(free)}",
            f"`{bound[0].text}`",
            f"`{free[0].text.strip()[:30]}`",
        )
    )
lab.record("unparsable", unparsable)
lab.record("unparsable", free_unparsable, variant="free")
too_short = ask_all([body | {"structured_outputs": forms["json"][0], "max_tokens": 6} for body in bodies])
cut = too_short[0]
lab.record("unparsable", sum(not is_record(reply.text) for reply in too_short), variant="too_few_tokens")
lab.table(
    [
        tr("form", "格式"),
        tr("parsed, constrained", "可解析，有限制"),
        tr("parsed, free", "可解析，不限制"),
        tr("constrained", "有限制"),
        tr("free", "不限制"),
    ],
    rows,
)
lab.say(
    f"The guarantee ends with the tokens: with `max_tokens` 6 the answer is `{cut.text}`, finish_reason "
    f"`{cut.finish_reason}`. The form is right, the content is the model's: "
    f"it was never taught these, and says whatever is allowed.",
    f"這個保證到 token 用完為止：`max_tokens` 設成 6，回答是 `{cut.text}`，finish_reason 是 `{cut.finish_reason}`。格式一定對，內容還是模型的：它沒學過這些，只是說出允許的東西。",
)

# %% [markdown] lang="en"
# ## Before the server goes
#
# The first server has one more thing to show. It gets enough long requests to be busy for seconds, and at the first token that arrives it is asked to end (SIGTERM, what `docker stop` and Kubernetes send). What do the clients get? Their patience is two seconds without a byte.

# %% [markdown] lang="zh-TW"
# ## 伺服器退場之前
#
# 第一個伺服器還有一件事要示範。給它足夠多的長請求，要忙上好幾秒；第一個 token 一到，就請它結束（SIGTERM，也就是 `docker stop` 和 Kubernetes 送的訊號）。用戶端會得到什麼？它們最多容忍兩秒收不到任何位元組。

# %%
sampling_prompt = torch.load(lab.artifact("next-token.pt"))["prompt"]


def second_tokens(samples, *, at_once, key=None):
    """How often each token was the second one of an answer at temperature 1; `at_once` answers to each request."""
    body = {"model": NAME, "prompt": sampling_prompt, "max_tokens": 3, "ignore_eos": True, "return_token_ids": True}

    async def work(client):
        return await closed_loop(
            lambda number, _: send(client, body | {"n": at_once, "temperature": 1.0, "seed": number * at_once}),
            count=samples // at_once,
            concurrency=1,
        )

    answers = with_client(server.url, work, key=key)
    return Counter(choice["token_ids"][1] for answer in answers for choice in answer["choices"])


plain_second_tokens = second_tokens(
    settings.samples, at_once=settings.sample_batch
)  # the second server will be asked too

alone = greedy | {"prompt": expected["prompts"][0], "max_tokens": settings.long_tokens, "ignore_eos": True}
before = read_idle(server.url)
ask_all([alone])
grown = changes(before, read_idle(server.url))
plain_tokens_per_step = total(grown, "vllm:generation_tokens_total") / total(grown, "vllm:iteration_tokens_total_count")


async def asked_to_end(client):
    # At the first token of all: seconds of work are left for the engine, however late the signal arrives.
    answers = await begin(client, *[alone] * settings.cut_off_streams)
    terminate(server)
    return await asyncio.gather(*answers)


cut_off = with_client(server.url, asked_to_end, timeout=2.0)
lost = sum(not succeeded(reply) for reply in cut_off)
lab.record("lost_in_drain", lost, variant="no_timeout")
ends = Counter((reply.http_status, reply.finish_reason, reply.done, reply.problem[:90]) for reply in cut_off)
lab.table(
    [tr("clients", "用戶端"), tr("HTTP status", "HTTP 狀態"), "finish_reason", "[DONE]", tr("problem", "問題")],
    [(count, *end) for end, count in ends.most_common()],
)
like_success = sum(reply.http_status == 200 and not succeeded(reply) for reply in cut_off)
aborted = sum(reply.finish_reason == "abort" for reply in cut_off)
told = sum(reply.http_status == 200 != reply.status for reply in cut_off)
silent = sum("Timeout" in reply.error for reply in cut_off)
without_reason = sum(reply.status == 200 and reply.done and reply.finish_reason is None for reply in cut_off)
longest = max((len(reply.token_ids) for reply in cut_off if not succeeded(reply)), default=0)
lab.say(
    f"{lost} of {len(cut_off)} answers are cut off, after at most {longest} of {settings.long_tokens} tokens; "
    f"{like_success} of these have HTTP status 200. By default vLLM ends its engine at once (`--shutdown-timeout 0`). "
    f"How a client learns of it depends on the moment: {aborted} by the finish_reason `abort`, {told} by an error inside "
    f"the stream, {silent} by their own timeout, after waiting for tokens that nobody computes any more. "
    f"And {without_reason} are told nothing at all: their stream ends in order, with `[DONE]` and without a finish_reason. "
    f"A client needs eyes for all of these. Notebook 4 spares its clients that.",
    f"{len(cut_off)} 個回答中有 {lost} 個被截斷，最多只拿到 {settings.long_tokens} 個 token 中的 {longest} 個；"
    f"其中 {like_success} 個的 HTTP 狀態是 200。vLLM 預設會立刻結束引擎（`--shutdown-timeout 0`）。"
    f"用戶端怎麼知道，要看當下的時機：{aborted} 個是 finish_reason 寫著 `abort`，{told} 個是串流裡出現錯誤，{silent} 個一直在等沒有人會再算的 token，直到自己逾時。"
    f"還有 {without_reason} 個完全沒有得到通知：串流正常結束，有 `[DONE]`，卻沒有 finish_reason。以上每一種，用戶端都要能察覺。第 4 本筆記本會讓用戶端不必面對這些。",
)

# %% [markdown] lang="en"
# ## A second server, which guesses
#
# Decoding is slow because each token needs a step of its own. **Speculative decoding** lets a smaller model guess the next few tokens; the large one checks all of them in *one* step and keeps those that it would have chosen itself. A wrong guess costs a little work and never a wrong token.
#
# The second server has a draft model, the adapter from the start (and a spare slot), an API key, and limits that notebook 4 explains. It starts in the background while the first one is gone: two at once would share the two cores.

# %% [markdown] lang="zh-TW"
# ## 第二個伺服器：它會猜
#
# 解碼慢，是因為每個 token 都得占用一步。**推測解碼**（speculative decoding）讓較小的模型先猜接下來的幾個 token；大模型用*一步*全部檢查，留下自己也會選的那些。猜錯只會多算一點，不會產生錯的 token。
#
# 第二個伺服器有草稿模型、啟動時就載入的 adapter（外加一個空位）、API 金鑰，還有第 4 本筆記本會說明的限制。它在第一個伺服器停止之後才在背景啟動：兩個一起跑，就得共用那兩個核心。

# %%
server.stop()
key_file = lab.artifact("api-key")
if not key_file.exists():
    key_file.touch(mode=0o600)
    key_file.write_text(secrets.token_urlsafe(24), encoding="utf-8")
key = key_file.read_text(encoding="utf-8")
place = lab.artifact("production.json")
starting = ThreadPoolExecutor().submit(
    servers.shared, place, lambda: start_production(settings, place.parent, adapter=adapter, key=key)
)

# Meanwhile, here: what comes out if every guess is believed. And what Transformers says of a second token.
with adapted.disable_adapter():
    first_probabilities = next_probabilities(adapted, sampling_prompt)
    wanted_second = second_probabilities(adapted, sampling_prompt)
if settings.draft_model:
    draft, _ = load_model(settings.draft_model, device=settings.device, dtype=settings.dtype)
    believed = [greedy_tokens(draft, prompt, settings.answer_tokens) for prompt in expected["prompts"]]
    believed_second = guessed_second(draft, sampling_prompt, first_probabilities)
else:  # n-grams that nobody checks only copy what came before
    believed, believed_second = expected["prompts"], first_probabilities
server = starting.result()

# %%
before = read_idle(server.url)
guessed = ask_all(
    [greedy | {"prompt": prompt} for prompt in expected["prompts"]], key=key, at_once=settings.most_running
)
grown = changes(before, read_idle(server.url))
mixed_base, mixed_adapter = mixed_answers(key=key, at_once=settings.most_running)
speculative_differing, believed_differing = (
    sum(tokens != wanted for tokens, wanted in zip(answers, expected["answers"], strict=True))
    for answers in ([reply.token_ids for reply in guessed], believed)
)
constant = max(expected["answers"], key=expected["answers"].count)
lab.record("speculative_differing", speculative_differing)
lab.record("speculative_differing", believed_differing, variant="guesses_believed")
lab.record("speculative_differing", sum(tokens != constant for tokens in expected["answers"]), variant="constant")
spare_slot, adapter_mixed = differing(mixed_base, with_base), differing(mixed_adapter, with_peft)
lab.record("mixed_base_differing", spare_slot)
lab.record("mixed_adapter_differing", adapter_mixed)

before = read_idle(server.url)
ask_all([alone], key=key)
grown_alone = changes(before, read_idle(server.url))
tokens_per_step = total(grown_alone, "vllm:generation_tokens_total") / total(
    grown_alone, "vllm:iteration_tokens_total_count"
)
lab.record("tokens_per_step", tokens_per_step)
lab.record("tokens_per_step", plain_tokens_per_step, variant="no_speculation")

# %%
counters = {
    name: total(grown, f"vllm:spec_decode_num_{name}_total") for name in ("drafts", "draft_tokens", "accepted_tokens")
}
by_place = [
    total(grown, "vllm:spec_decode_num_accepted_tokens_per_pos_total", position=str(number)) / counters["drafts"]
    for number in range(settings.guessed_tokens)
]
accepted = counters["accepted_tokens"] / counters["draft_tokens"]
lab.record("accepted_share", accepted)
pieces = sum(len(reply.choices) for reply in guessed)
figure, axes = subplots(figsize=(5.6, 3.0))
axes.bar(range(1, settings.guessed_tokens + 1), by_place, color=COLORS["blue"], width=0.6)
axes.set(
    xlabel=tr("guessed token", "第幾個猜的 token"),
    ylabel=tr("accepted (share of drafts)", "被接受（占草稿的比例）"),
    ylim=(0, 1.02),
    xticks=range(1, settings.guessed_tokens + 1),
)
lab.figure(
    "speculation",
    figure,
    Text(
        en="How often the first, second, ... guessed token was accepted. A guess counts only if all before it were right.",
        zh_tw="第一個、第二個……猜的 token 有多常被接受。前面全對，後面的才算。",
    ),
)
lab.table(
    [tr("greedy answers with speculation", "有推測解碼的貪婪解碼回答"), tr("number", "數量")],
    [
        (tr("answers", "回答"), len(guessed)),
        (tr("unlike Transformers", "與 Transformers 不同"), speculative_differing),
        (
            tr("unlike Transformers, if every guess were believed", "與 Transformers 不同，若每個猜測都照單全收"),
            believed_differing,
        ),
        (tr("guessed tokens", "猜的 token"), counters["draft_tokens"]),
        (tr("accepted", "被接受"), counters["accepted_tokens"]),
        (tr("generated tokens", "生成的 token"), sum(len(reply.token_ids) for reply in guessed)),
        (tr("events that brought them", "送來它們的事件"), pieces),
        (
            tr("base, mixed with the adapter: unlike Transformers", "基礎模型，與 adapter 混合：與 Transformers 不同"),
            spare_slot,
        ),
        (tr("adapter, mixed with the base: unlike peft", "adapter，與基礎模型混合：與 peft 不同"), adapter_mixed),
    ],
)

# %% [markdown] lang="en"
# An event now brings several tokens at once: whoever counts events to measure tokens per second is wrong from here on. (Count token ids, or take `usage`.)
#
# ## And if the tokens are drawn?
#
# With greedy decoding a guess is right or wrong. When tokens are sampled there is no right one: a guess is kept with a probability, and if it is not, the token is drawn from what is left of the distribution, so that in the end everything is as likely as without a guess. Is it? The first token of an answer is never guessed, the second is. So we draw many answers, from the first server (before it went) and from this one, and hold their second tokens against Transformers, which knows the probability of each: the sum over all first tokens of the first's probability times the second's after it. The control believes every guess.

# %% [markdown] lang="zh-TW"
# 現在一個事件會帶來好幾個 token：用數事件的方式來量每秒 token 數，從這裡開始就錯了。（請數 token id，或看 `usage`。）
#
# ## 那麼，抽樣的時候呢？
#
# 貪婪解碼時，猜測只有對與錯。抽樣時沒有所謂對的 token：猜測以某個機率留下；沒留下的話，就從分布剩下的部分抽一個，讓最後每個 token 出現的機率都跟沒有猜測時一樣。真的嗎？回答的第一個 token 不會用猜的，第二個會。所以我們向第一個伺服器（在它退場之前）和這個伺服器各抽很多個回答，拿它們的第二個 token 對照 Transformers；每個 token 的機率它都知道：對所有可能的第一個 token，把它的機率乘上第二個接在它後面的機率，再加總。對照組則是每個猜測都照單全收。


# %%
before = read_idle(server.url)
guessed_second_tokens = second_tokens(settings.speculative_samples, at_once=settings.most_running, key=key)
grown_sampled = changes(before, read_idle(server.url))
sampled_accepted = total(grown_sampled, "vllm:spec_decode_num_accepted_tokens_total") / total(
    grown_sampled, "vllm:spec_decode_num_draft_tokens_total"
)
second_distance, speculative_distance = (
    total_variation(drawn, wanted_second) for drawn in (plain_second_tokens, guessed_second_tokens)
)
believed_distance, uniform_distance = (
    float((other - wanted_second).abs().sum() / 2) for other in (believed_second, 1 / len(wanted_second))
)


def by_torch(samples):
    """How far so many draws from the right distribution itself are from it."""
    drawn = torch.multinomial(wanted_second, samples, replacement=True, generator=torch.Generator().manual_seed(0))
    return total_variation(Counter(drawn.tolist()), wanted_second)


lab.record("second_token_distance", second_distance)
lab.record("second_token_distance", believed_distance, variant="guesses_believed")
lab.record("second_token_distance", uniform_distance, variant="uniform")
lab.record("speculative_distance", speculative_distance)
lab.table(
    [
        tr("the second token of an answer", "回答的第二個 token"),
        tr("draws", "抽樣次數"),
        tr("total variation from Transformers", "與 Transformers 的總變異距離"),
        tr("of as many draws of torch", "由 torch 抽同樣多次"),
    ],
    [
        (tr("the first server", "第一個伺服器"), settings.samples, second_distance, by_torch(settings.samples)),
        (
            tr("the server that guesses", "會猜的伺服器"),
            settings.speculative_samples,
            speculative_distance,
            by_torch(settings.speculative_samples),
        ),
        (tr("every guess believed", "每個猜測都照單全收"), "", believed_distance, ""),
        (tr("every token equally likely", "每個 token 機率都相同"), "", uniform_distance, ""),
    ],
)

# %%
biased = speculative_distance > 2 * by_torch(settings.speculative_samples)
lab.say(
    f"""The server that guesses kept {sampled_accepted:.0%} of its guesses, and its draws are {speculative_distance:.2f} from \
the model's \
distribution{"; the noise of so many draws does not explain that. The method is right, this build is not: where a request samples, vLLM's CPU code reads its temperature from memory that nobody has written ([#55005](https://github.com/vllm-project/vllm/issues/55005)). No error, no warning; the answers are fluent. Greedy answers are not touched, which is why equality with Transformers held. So on this server nobody may sample, until the version is another one *and this test passes*" if biased else ": no more than the noise of so many draws, so guessing changed nothing"}. \
Looking at greedy answers alone does not find such a thing.""",
    f"""會猜的伺服器留下了 {sampled_accepted:.0%} 的猜測，抽樣結果與模型的分布相距 \
{speculative_distance:.2f}{"；這不是抽樣次數太少的雜訊解釋得了的。方法沒有錯，錯的是這個版本：請求要抽樣時，vLLM 的 CPU 程式碼會從一塊沒人寫過的記憶體讀它的溫度（[#55005](https://github.com/vllm-project/vllm/issues/55005)）。沒有錯誤訊息，也沒有警告，回答讀起來很通順。貪婪解碼的回答不受影響，所以與 Transformers 仍然相同。因此，在換了版本*而且通過這個測試*之前，誰都不能在這個伺服器上抽樣" if biased else "：不比這麼多次抽樣的雜訊更大，所以猜測沒有改變什麼"}。\
只看貪婪解碼的回答，是發現不了這種事的。""",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("adapter_accuracy")
lab.say(
    f"""- With the adapter {right:.0%} of the held-out questions are \
right{"" if guess is None else f" (you guessed {guess:.0%})"}, without it {base_right:.0%}; \
{differing(from_adapter, with_peft)} of {len(questions)} answers differ from `peft`. \
In mixed batches {one_slot} answers of the base were wrong with one adapter slot, and {spare_slot} with a spare one.
- Blocks in use and formula are {paging_error} apart, without sharing they would be {unshared_error}, and with room \
reserved for the longest answer {reserved_error}.
- The cache found what the formula said, with an error of {error} tokens over {len(cases)} prompts in blocks of {block_size}.
- {unparsable} constrained answers did not parse, of the free ones {free_unparsable} of {3 * settings.structured_requests}.
- Speculation changed {speculative_differing} of {len(guessed)} answers. \
The target accepted {accepted:.0%} of the guesses on questions it knows; \
a long free text got {tokens_per_step:.2f} tokens per step, and {plain_tokens_per_step:.2f} without speculation.""",
    f"""- 有 adapter 時，保留題目答對 {right:.0%}{"" if guess is None else f"（你猜 {guess:.0%}）"}，沒有時 {base_right:.0%}；\
{len(questions)} 個回答中 {differing(from_adapter, with_peft)} 個與 `peft` 不同。\
在混合的批次裡，只有一個 adapter 位置時，基礎模型有 {one_slot} 個回答是錯的；多一個空位時，{spare_slot} 個。
- 使用中的區塊與公式差 {paging_error} 塊；都不共用會差 {unshared_error} 塊，替最長的回答預留則差 {reserved_error} 塊。
- 快取找到的與公式說的，{len(cases)} 個提示合計差 {error} 個 token，區塊大小是 {block_size}。
- 有限制的回答中 {unparsable} 個無法解析；不限制的，{3 * settings.structured_requests} 個中有 {free_unparsable} 個。
- 推測解碼改變了 {len(guessed)} 個回答中的 {speculative_differing} 個。在模型熟悉的題目上，目標模型接受了 {accepted:.0%} 的猜測；\
一段自由的長文，每步得到 {tokens_per_step:.2f} 個 token，不用推測解碼則是 {plain_tokens_per_step:.2f} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Fewer steps are not less time here: the draft model is hardly faster than the target, because Python costs more than the arithmetic of either. On a GPU a step of a large model is bound by reading its weights, and accepted guesses are nearly free; at large batches that gain shrinks again.
# - A cache hit of a hundred tokens saves no time that one could measure on this model. With a system prompt of some thousand tokens on a large model it is most of the time to the first token.
# - One adapter, rank 8. Many adapters at once need room (`--max-loras`), and their kernels are written for GPUs.
#
# **Exercise.** 5 (`prefix_cache.py`: what the cache must find) belongs here.
#
# **Next:** the same server, and everything that goes wrong.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 在這裡，步數少不代表時間少：草稿模型幾乎不比目標模型快，因為兩者的 Python 開銷都大於計算。在 GPU 上，大模型的一步受限於讀取權重，被接受的猜測幾乎是免費的；批次很大時，這個好處又會縮小。
# - 命中一百個 token 的快取，在這個模型上省下的時間量不出來。換成大模型加上幾千個 token 的系統提示，省下的就是第一個 token 時間的大部分。
# - 這裡只有一個 adapter，秩 8。同時很多個 adapter 需要空間（`--max-loras`），它們的 kernel 也是為 GPU 寫的。
#
# **練習。** 練習 5（`prefix_cache.py`：快取一定會找到什麼）屬於這一本。
#
# **下一步：** 同一個伺服器，以及所有會出錯的情況。
