# %% [markdown] lang="en"
# # 2. Many at once, one token at a time
#
# **Question.** One user sees tokens trickle in. How can the same server answer thirty users in little more time, and what does a fair clock say about it?
#
# | | |
# |---|---|
# | You build | an asynchronous client from scratch: events from bytes, time to first token, gaps, percentiles; load in a closed and in an open loop |
# | You write | exercises 1 (`streaming_client.py`), 3 and 4 (`load.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory |
# | You should see | when the first token comes; how many steps of the engine a token takes, alone and in company; how far sampling is from the model's distribution; a stall that one kind of load test hides |

# %% [markdown] lang="zh-TW"
# # 2. 同時很多人，一次一個 token
#
# **問題。** 一個使用者看著 token 一個一個出來。同一個伺服器怎麼能用差不多的時間回答三十個使用者？公平地計時，又會看到什麼？
#
# | | |
# |---|---|
# | 你會做出 | 從零寫的非同步用戶端：把位元組變成事件、第一個 token 的時間、間隔、百分位數；閉迴路與開迴路的負載 |
# | 你要寫的 | 練習 1（`streaming_client.py`）、3、4（`load.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體 |
# | 你應該看到 | 第一個 token 什麼時候到；只有一個用戶端與很多個一起時，引擎產生每個 token 各要幾步；取樣與模型的分布差多遠；某一種壓力測試看不出來的停頓 |

# %%
import asyncio
import json
import time
from collections import Counter

import torch

from lab_servers import NAME, start_first
from load import open_loop, percentile
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import COLORS, subplots
from onepiece.measure import Timing
from onepiece.serving import servers, streaming
from onepiece.serving.load import Answered, closed_loop, mean_at_once, most_at_once, poisson_arrivals, span
from onepiece.serving.metrics import changes, total
from onepiece.serving.signals import frozen
from onepiece.serving.streaming import send
from reference import nucleus, total_variation
from server_metrics import read_idle, read_with
from streaming_client import EventParser, stream, whole_body

settings = lab.settings
place = lab.artifact("server.json")
server = servers.shared(place, lambda: start_first(settings, place.parent))
prompts = json.loads(lab.artifact("expected.json").read_text(encoding="utf-8"))["prompts"]
greedy = {"model": NAME, "temperature": 0, "return_token_ids": True}
print(server.url)


def with_client(work):
    """Run `work(client)` with a client of its own."""
    return streaming.with_client(server.url, work)


def story(number, tokens):
    """A request of exactly so many tokens: the end-of-sequence token does not end it."""
    return greedy | {"prompt": prompts[number % len(prompts)], "max_tokens": tokens, "ignore_eos": True}


# %% [markdown] lang="en"
# ## What a stream is made of
#
# With `"stream": true` the answer comes as server-sent events. These are the bytes of one, as the network cut them:

# %% [markdown] lang="zh-TW"
# ## 串流是由什麼組成的
#
# 加上 `"stream": true`，回答就以 server-sent events 的形式送來。這是其中一個回答的位元組，照網路傳輸時切開的樣子：


# %%
async def pieces_of(client):
    body = greedy | {"prompt": prompts[6], "max_tokens": 4, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        return [piece async for piece in answer.aiter_raw()]


for piece in with_client(pieces_of)[:3]:
    print(piece[:150], "..." if len(piece) > 150 else "")

# %% [markdown] lang="en"
# One piece may hold several events, or half of one: TCP knows nothing of events. So a client keeps what is not complete yet:

# %% [markdown] lang="zh-TW"
# 一段位元組裡可能有好幾個事件，也可能只有半個：TCP 不知道什麼是事件。所以用戶端要把還不完整的部分留著：

# %%
lab.source(EventParser.feed)

# %% [markdown] lang="en"
# ## Does the first token come before the end?
#
# A stopwatch would prove it on this machine only. So we ask the server: at the moment when the client holds its first event, has the server finished the request? The control is a client that reads the body whole, which is what many HTTP libraries, and some proxies, do by default.

# %% [markdown] lang="zh-TW"
# ## 第一個 token 真的先到嗎？
#
# 用碼表只能證明在這台機器上如此。所以我們問伺服器：用戶端拿到第一個事件的那一刻，伺服器做完這個請求了嗎？對照組是把整個內容讀完的用戶端，許多 HTTP 函式庫和某些代理伺服器預設就是這樣。


# %%
def finished(samples):
    return total(samples, "vllm:request_success_total")


async def at_first_event(client):
    before = await read_with(client)
    async with client.stream(
        "POST", "/v1/completions", json=story(0, settings.stream_tokens) | {"stream": True}
    ) as answer:
        await anext(answer.aiter_raw())
        return finished(changes(before, await read_with(client)))


async def at_whole_body(client):
    before = await read_with(client)
    await whole_body(client, story(0, settings.stream_tokens))
    return finished(changes(before, await read_with(client)))


def at_best(client_of_a_kind):
    """A busy machine may hold up any client: the best of several tries."""
    tries = []
    for _ in range(settings.repeats):
        tries.append(with_client(client_of_a_kind))
        read_idle(server.url)
    return min(tries)


streamed, whole = at_best(at_first_event), at_best(at_whole_body)
lab.record("finished_at_first_event", streamed)
lab.record("finished_at_first_event", whole, variant="whole_body")
lab.say(
    f"When the streaming client has its first event, the server has finished {streamed:g} requests of 1; "
    f"when the other one has anything at all, {whole:g}.",
    f"串流用戶端拿到第一個事件時，伺服器做完了 1 個請求中的 {streamed:g} 個；另一個用戶端拿到任何東西時，已經做完 {whole:g} 個。",
)

# %% [markdown] lang="en"
# ## Predict
#
# One client at a time, each for the same number of tokens; then all of them together. The server works in *steps*: one pass through the model, which gives each running request one token. How many steps per token does the server need when all clients come together? Write `steps_per_token = ...` into `predictions.toml` (1 means that nothing is shared).
#
# And a *serial server*: all clients ask it together, and it answers one after the other (a door in front of the same vLLM lets in one request at a time). Can you tell it from the real one by how many clients are being served at the same moment, as the clients see it?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 用戶端一個接一個來，每個要一樣多的 token；然後全部一起來。伺服器以「步」為單位工作：一步就是模型走一遍，讓每個執行中的請求各得到一個 token。全部用戶端一起來時，伺服器平均每個 token 要幾步？把 `steps_per_token = ...` 寫進 `predictions.toml`（1 表示什麼都沒有共用）。
#
# 還有一種*循序式的伺服器*：所有用戶端一起問，它一個接一個地回答（在同一個 vLLM 前面放一道門，一次只放一個請求進去）。從用戶端來看，只數「同一時刻有幾個用戶端正在接受服務」，分得出它和真正的伺服器嗎？


# %%
def measured(concurrency, tokens, count, *, let_in=None):
    """The replies, and what the server counted meanwhile; `let_in` is how many requests the door lets in at once, None: all."""

    async def work(client):
        door = asyncio.Semaphore(let_in or count)

        async def ask(number, when):
            async with door:
                return await stream(client, story(number, tokens), intended=when)

        return await closed_loop(ask, count=count, concurrency=concurrency)

    before = read_idle(server.url)
    return with_client(work), changes(before, read_idle(server.url))


def clients_at_once(replies):
    """How many clients had asked and not got all of their answer, at the same moment, at most."""
    return most_at_once([Answered(reply.intended, reply.ended, reply) for reply in replies])


def steps_per_token(grown):
    return total(grown, "vllm:iteration_tokens_total_count") / total(grown, "vllm:generation_tokens_total")


overlap = {}
few = settings.stream_tokens // 4  # enough where requests wait for each other; together they need time to meet
for name, concurrency, let_in, tokens, repeats in (
    ("together", settings.clients, None, settings.stream_tokens, settings.repeats),  # the best of several, as above
    ("one_by_one", 1, None, few, 1),
    ("serial_server", settings.clients, 1, few, 1),
):
    tries = [measured(concurrency, tokens, settings.clients, let_in=let_in) for _ in range(repeats)]
    replies, grown = min(tries, key=lambda found: steps_per_token(found[1]))
    steps, made = (
        total(grown, f"vllm:{counter}") for counter in ("iteration_tokens_total_count", "generation_tokens_total")
    )
    overlap[name] = (clients_at_once(replies), steps_per_token(grown), steps, made)
    lab.record("steps_per_token", overlap[name][1], variant=None if name == "together" else name)
ways = {
    "together": tr("together", "一起"),
    "one_by_one": tr("one by one", "一個接一個"),
    "serial_server": tr("serial server", "循序式伺服器"),
}
lab.table(
    [
        tr("clients", "用戶端"),
        tr("most clients at once, as they see it", "用戶端看到的最大同時數"),
        tr("engine steps", "引擎步數"),
        tr("tokens", "token 數"),
        tr("steps per token", "每個 token 的步數"),
    ],
    [(ways[name], most, steps, made, ratio) for name, (most, ratio, steps, made) in overlap.items()],
)
lab.say(
    f"The clients of the serial server count {overlap['serial_server'][0]} at once, those of the real one "
    f"{overlap['together'][0]}. What tells them apart is the engine's own counter: "
    f"{overlap['serial_server'][1]:.2f} steps per token against {overlap['together'][1]:.2f}.",
    f"循序式伺服器的用戶端數到同時有 {overlap['serial_server'][0]} 個，真正的伺服器則是 {overlap['together'][0]} 個。"
    f"分得出兩者的是引擎自己的計數器：每個 token 分別是 {overlap['serial_server'][1]:.2f} 步與 {overlap['together'][1]:.2f} 步。",
)

# %% [markdown] lang="en"
# This is **continuous batching**: a request joins the running batch at the next step, and leaves it when it is done; nobody waits for a batch to fill up or to end. One can watch it. A long request runs; short ones come and go meanwhile; the server says how many it is running:

# %% [markdown] lang="zh-TW"
# 這就是**連續批次**（continuous batching）：請求在下一步就加入執行中的批次，做完就離開；不必等批次湊滿，也不必等它結束。這是看得到的。一個長請求在跑，短請求來來去去；伺服器會回報正在跑幾個：


# %%
async def watch(client):
    seen, began = [], time.perf_counter()

    async def look():
        while True:
            seen.append((time.perf_counter() - began, total(await read_with(client), "vllm:num_requests_running")))
            await asyncio.sleep(0.01)

    async def later(number):
        await asyncio.sleep(0.1 * number)
        return await stream(client, story(number, settings.stream_tokens // 6))

    looking = asyncio.create_task(look())
    long, *short = await asyncio.gather(
        stream(client, story(0, settings.stream_tokens)), *(later(number) for number in range(1, 6))
    )
    await asyncio.sleep(0.1)
    looking.cancel()
    return seen, began, long, short


seen, began, long, short = with_client(watch)
read_idle(server.url)
most_running = max(running for _, running in seen)
inside = sum(long.sent < reply.sent and reply.ended < long.ended for reply in short)

figure, (upper, lower) = subplots(2, 1, figsize=(7.2, 4.4), sharex=True)
for row, reply in enumerate([long, *short]):
    upper.broken_barh(
        [(reply.sent - began, reply.ended - reply.sent)],
        (row - 0.35, 0.7),
        color=COLORS["blue" if row == 0 else "orange"],
    )
upper.set(ylabel=tr("request", "請求"), yticks=range(len(short) + 1))
upper.invert_yaxis()
lower.step(*zip(*seen, strict=True), where="post", color=COLORS["green"], marker="")
lower.set(xlabel=tr("seconds", "秒"), ylabel=tr("running, says the server", "執行中（伺服器回報）"), ylim=(0, None))
lab.figure(
    "continuous-batching",
    figure,
    Text(
        en="Above: one long request (blue) and short ones that join and leave while it runs. Below: how many requests the server says it is running.",
        zh_tw="上：一個長請求（藍），以及在它執行期間加入又離開的短請求。下：伺服器回報自己正在執行幾個請求。",
    ),
)
lab.say(
    f"{inside} of {len(short)} short requests began and ended while the long one ran; the server ran up to {most_running:g} at once.",
    f"{len(short)} 個短請求中，有 {inside} 個在長請求執行期間開始並結束；伺服器最多同時執行 {most_running:g} 個。",
)

# %% [markdown] lang="en"
# ## What does company cost?
#
# More clients, more tokens per second in all; and each of them gets its tokens more slowly. Both in one picture, as medians over repetitions, with the range. Times depend on the machine: they are reported, not judged.

# %% [markdown] lang="zh-TW"
# ## 大家一起用的代價
#
# 用戶端越多，合計每秒的 token 越多；每一個拿到 token 的速度則越慢。畫在同一張圖裡，取多次重複的中位數，並標出範圍。時間取決於機器：只回報，不判定。

# %%
sweep = {concurrency: [] for concurrency in settings.sweep}
for _ in lab.progress(range(settings.repeats)):
    for concurrency, results in sweep.items():
        replies, _ = measured(concurrency, settings.sweep_tokens, concurrency)
        each = [settings.sweep_tokens / reply.seconds for reply in replies]
        first = [reply.first_token_seconds for reply in replies]
        gaps = [gap for reply in replies for gap in reply.gaps]
        results.append(
            (
                concurrency * settings.sweep_tokens / span(replies),
                percentile(each, 50),
                percentile(first, 50),
                percentile(first, 95),
                percentile(gaps, 99),
                gaps.count(0.0) / len(gaps),
            )
        )


def column(concurrency, index):
    return Timing(tuple(values[index] for values in sweep[concurrency]))


lab.table(
    [
        tr("clients", "用戶端"),
        tr("tokens/s in all", "合計 token/s"),
        tr("tokens/s of one client", "單一用戶端 token/s"),
        tr("first token, p50", "第一個 token，p50"),
        tr("p95", "p95"),
        tr("gap between tokens, p99", "token 間隔，p99"),
        tr("came in one piece with the one before", "與前一個同一段到達"),
    ],
    [
        (
            n,
            f"{column(n, 0).median:.0f}",
            f"{column(n, 1).median:.0f}",
            *(f"{column(n, index).median * 1e3:.0f} ms" for index in (2, 3, 4)),
            f"{column(n, 5).median:.0%}",
        )
        for n in sweep
    ],
)
together = max(sweep, key=lambda n: column(n, 5).median)
in_one_piece = column(together, 5).median
lab.say(
    f"Read the last column before the gaps. "
    f"{f'With {together} clients, {in_one_piece:.0%} of the tokens came in one piece of bytes with the one before. Their gap is 0, which says nothing about the engine: in between, the HTTP process of the server or this client had no turn to pass them on.' if in_one_piece >= 0.005 else 'Here every token came in a piece of its own, so the gaps are those of the engine. On a busier machine several come in one piece: their gap is 0, which says nothing about the engine, only that the HTTP process of the server or this client had no turn in between.'} "
    f"A gap is only as good as the clock that it was read from.",
    f"看間隔之前，先看最後一欄。"
    f"{f'{together} 個用戶端時，有 {in_one_piece:.0%} 的 token 與前一個在同一段位元組裡到達。它們的間隔是 0，但這與引擎無關：在那之間，伺服器負責 HTTP 的行程，或是這個用戶端，沒有輪到執行，來不及轉交。' if in_one_piece >= 0.005 else '這裡每個 token 都是自己一段到達的，所以間隔就是引擎的間隔。在比較忙的機器上，會有好幾個在同一段裡到達：它們的間隔是 0，但這與引擎無關，只表示在那之間，伺服器負責 HTTP 的行程或這個用戶端沒有輪到執行。'}間隔可不可信，"
    f"要看是在哪裡計時的。",
)

# %%
figure, (left, right) = subplots(1, 2, figsize=(9, 3.6))
all_clients = tr("tokens per second, all clients", "每秒 token，全部用戶端")
each_client = tr("tokens per second, each client", "每秒 token，單一用戶端")
for axes, index, label in ((left, 0, all_clients), (right, 1, each_client)):
    middle = [column(n, index).median for n in sweep]
    low, high = ([abs(pick(column(n, index).seconds) - column(n, index).median) for n in sweep] for pick in (min, max))
    axes.errorbar(list(sweep), middle, yerr=[low, high], capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sweep), [str(n) for n in sweep])
    axes.set(xlabel=tr("clients at once", "同時的用戶端數"), ylabel=label, ylim=(0, None))
lab.figure(
    "sweep",
    figure,
    Text(
        en=f"Throughput of the server and of one client, over the number of clients; median and range of {settings.repeats} repetitions.",
        zh_tw=f"伺服器的吞吐量與單一用戶端的速度，隨用戶端數目的變化；{settings.repeats} 次重複的中位數與範圍。",
    ),
)
alone, crowd = min(sweep), max(sweep)
gain = column(crowd, 0).median / column(alone, 0).median
lab.record("throughput_gain", gain)
lab.say(
    f"{crowd} clients get {gain:.1f} times the tokens per second of one, and each of them "
    f"{column(crowd, 1).median / column(alone, 1).median:.2f} of its speed. "
    f"A step costs nearly the same however many share it, as long as reading weights and starting kernels is what it mostly "
    f"does.",
    f"{crowd} 個用戶端合計的每秒 token 是一個時的 {gain:.1f} 倍，而每一個的速度是單獨使用時的 {column(crowd, 1).median / column(alone, 1).median:.2f} 倍。"
    f"只要一步的成本主要花在讀權重和啟動 kernel，多少人共用都差不多。",
)

# %% [markdown] lang="en"
# ## Sampling: is it the model's distribution?
#
# Greedy decoding could be checked token by token. Sampling is random, so we check two other things: the same seed gives the same tokens, and many draws of one token have the shares that the model's softmax says. Their distance is the *total variation*: half the sum of all differences between shares and probabilities.
#
# A trap on the way: with `n` answers and `seed` s, vLLM gives answer number i the seed s + i. Requests with neighbouring seeds then repeat each other's draws, and the sample is smaller than it looks.

# %% [markdown] lang="zh-TW"
# ## 取樣：真的是模型的分布嗎？
#
# 貪婪解碼可以逐個 token 核對。取樣是隨機的，所以改查兩件事：同樣的種子給出同樣的 token；同一個 token 抽很多次，各個結果的比例要符合模型的 softmax。兩者的距離是*總變異距離*（total variation）：所有比例與機率之差，加總後的一半。
#
# 這裡有個陷阱：要 `n` 個回答、`seed` 為 s 時，vLLM 給第 i 個回答的種子是 s + i。於是種子相鄰的請求會重複彼此的抽樣，樣本比看起來的小。

# %%
wanted = torch.load(lab.artifact("next-token.pt"))


def draw(temperature, *, top_p=1.0, apart=settings.sample_batch):
    """How often each token was drawn; `apart` is the distance between the seeds of two requests."""

    async def work(client):
        body = {
            "model": NAME,
            "prompt": wanted["prompt"],
            "max_tokens": 1,
            "n": settings.sample_batch,
            "return_token_ids": True,
        }
        seeds = range(0, apart * settings.samples // settings.sample_batch, apart)
        answers = await asyncio.gather(
            *(send(client, body | {"temperature": temperature, "top_p": top_p, "seed": seed}) for seed in seeds)
        )
        return Counter(choice["token_ids"][0] for answer in answers for choice in answer["choices"])

    return with_client(work)


drawn = draw(1.0)
distance = total_variation(drawn, wanted["probabilities"])
other = total_variation(draw(settings.other_temperature), wanted["probabilities"])
overlapping = total_variation(draw(1.0, apart=1), wanted["probabilities"])
lab.record("sampling_distance", distance)
lab.record("sampling_distance", other, variant="other_temperature")
always_the_same = Counter({int(wanted["probabilities"].argmax()): settings.samples})
lab.record("sampling_distance", total_variation(always_the_same, wanted["probabilities"]), variant="constant")

by_torch = torch.multinomial(
    wanted["probabilities"], settings.samples, replacement=True, generator=torch.Generator().manual_seed(0)
)
noise = total_variation(Counter(by_torch.tolist()), wanted["probabilities"])  # what so many draws cannot do better

allowed = nucleus(wanted["probabilities"], settings.top_p)


def outside(counts):
    return sum(count for token, count in counts.items() if token not in allowed)


cut_off, not_cut_off = outside(draw(1.0, top_p=settings.top_p)), outside(drawn)
lab.record("drawn_outside_top_p", cut_off)
lab.record("drawn_outside_top_p", not_cut_off, variant="no_top_p")
lab.table(
    [
        tr(f"{settings.samples:,} draws of one token", f"同一個 token 抽 {settings.samples:,} 次"),
        tr("total variation from the softmax at temperature 1", "與溫度 1 的 softmax 的總變異距離"),
        tr(f"draws outside the top-p set ({len(allowed)} tokens)", f"抽到 top-p 集合（{len(allowed)} 個 token）以外"),
    ],
    [
        (tr("temperature 1", "溫度 1"), distance, not_cut_off),
        (
            tr("drawn by torch from that softmax itself", "由 torch 直接從該 softmax 抽"),
            noise,
            outside(Counter(by_torch.tolist())),
        ),
        (tr("temperature 1, overlapping seeds", "溫度 1，種子重疊"), overlapping, ""),
        (tr(f"temperature {settings.other_temperature:g}", f"溫度 {settings.other_temperature:g}"), other, ""),
        (f"top_p = {settings.top_p:g}", "", cut_off),
    ],
)


# %%
def sampled(seed):
    """Answers of several requests that run together, at temperature 1."""

    async def work(client):
        return await closed_loop(
            lambda number, _: stream(client, story(number, 24) | {"temperature": 1.0, "seed": seed}),
            count=settings.clients,
            concurrency=settings.clients,
        )

    return [reply.token_ids for reply in with_client(work)]


first, second, third = sampled(7), sampled(7), sampled(8)
seed_differing = sum(one != again for one, again in zip(first, second, strict=True))
other_seed = sum(one != again for one, again in zip(first, third, strict=True))
lab.record("same_seed_differing", seed_differing)
lab.record("same_seed_differing", other_seed, variant="other_seed")
lab.say(
    f"With the same seed {seed_differing} of {len(first)} answers differ, with another seed {other_seed}.",
    f"種子相同，{len(first)} 個回答中有 {seed_differing} 個不同；換一個種子，{other_seed} 個不同。",
)

# %% [markdown] lang="en"
# ## The clock that stops with the server
#
# Now a load test that deceives. We let the server stand still in the middle of it (SIGSTOP, as a machine does that is out of memory or loses its CPU), and measure latency in two ways:
#
# - **closed loop**: one client asks, waits, asks again. While the server stands still, the client does not ask. It notices *one* slow request.
# - **open loop**: requests arrive when they arrive, at random (Poisson) with a fixed rate and a fixed seed. All that arrive during the stall wait, and their clocks run from the moment when they *should* have been sent.
#
# Both send the same number of requests to the same server with the same stall. What share of the requests is slower than half the stall?

# %% [markdown] lang="zh-TW"
# ## 跟著伺服器一起停住的時鐘
#
# 接下來是會騙人的壓力測試。我們讓伺服器在中途停住（SIGSTOP，就像記憶體用完或 CPU 被搶走的機器），用兩種方式量延遲：
#
# - **閉迴路**：一個用戶端問、等、再問。伺服器停住時，用戶端就不問了。它只會發現*一個*慢的請求。
# - **開迴路**：請求該來就來，隨機到達（Poisson），速率固定、種子固定。停頓期間到達的全都要等，而且它們的時鐘從*應該*送出的那一刻開始走。
#
# 兩種方式送出的請求數相同、伺服器相同、停頓也相同。比停頓的一半還慢的請求，占多少比例？


# %%
def with_stall(loop):
    """The beginning and the replies of a load during which the server stands still once."""

    async def stall():
        await asyncio.sleep(0.4)
        with frozen(server):
            await asyncio.sleep(settings.stall_seconds)

    async def work(client):
        began = time.perf_counter()
        replies, _ = await asyncio.gather(
            loop(lambda number, when: stream(client, story(number, 4), intended=when)), stall()
        )
        return began, replies

    return with_client(work)


arrivals = poisson_arrivals(settings.arrival_rate, settings.arrivals, seed=0)
loops = {
    "closed": with_stall(lambda ask: closed_loop(ask, count=settings.arrivals, concurrency=1)),
    "open": with_stall(lambda ask: open_loop(ask, arrivals)),
}
read_idle(server.url)
slow = {
    name: sum(reply.seconds > settings.stall_seconds / 2 for reply in replies) / len(replies)
    for name, (_, replies) in loops.items()
}
lab.record("stalled_requests_seen", slow["open"])
lab.record("stalled_requests_seen", slow["closed"], variant="closed_loop")
loop_labels = {"closed": tr("closed loop", "閉迴路"), "open": tr("open loop", "開迴路")}
lab.table(
    [
        tr("load", "負載"),
        *(f"p{percent}" for percent in (50, 90, 95, 99)),
        tr("slower than half the stall", "比停頓的一半還慢"),
    ],
    [
        (
            loop_labels[name],
            *(
                f"{percentile([reply.seconds for reply in replies], percent) * 1e3:.0f} ms"
                for percent in (50, 90, 95, 99)
            ),
            f"{slow[name]:.0%}",
        )
        for name, (_, replies) in loops.items()
    ],
)

# %%
figure, axes = subplots(figsize=(7.2, 3.4))
for (name, (start, replies)), colour, mark in zip(loops.items(), ("orange", "blue"), ("s", "o"), strict=True):
    axes.plot(
        [reply.intended - start for reply in replies],
        [reply.seconds for reply in replies],
        mark,
        linestyle="",
        color=COLORS[colour],
        label=loop_labels[name],
        alpha=0.8,
    )
axes.axvspan(0.4, 0.4 + settings.stall_seconds, color="black", alpha=0.08, linewidth=0)
axes.set(
    xlabel=tr("when the request should have been sent (s)", "請求應該送出的時間（秒）"), ylabel=tr("latency (s)", "延遲（秒）")
)
axes.legend()
lab.figure(
    "stall",
    figure,
    Text(
        en="Latency of each request; the server stands still in the grey band. The closed loop has one point there, because its client waited too.",
        zh_tw="每個請求的延遲；伺服器在灰色區間內停住。閉迴路在那裡只有一個點，因為它的用戶端也在等。",
    ),
)

# %% [markdown] lang="en"
# Leaving out exactly the requests that would have been slow is called *coordinated omission*. A benchmark with a fixed number of clients answers "how fast can it go?", never "what will users see?".
#
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# 剛好漏掉那些本來會很慢的請求，叫做*協同遺漏*（coordinated omission）。用戶端數目固定的基準測試，回答的是「最快能多快」，從來不是「使用者會看到什麼」。
#
# ## 這些數字說了什麼

# %%
guess = lab.predict("steps_per_token")
lab.say(
    f"""- {settings.clients} clients together need {overlap["together"][1]:.2f} engine steps per \
token{"" if guess is None else f" (you guessed {guess:g})"}, one by one {overlap["one_by_one"][1]:.2f}.
- Throughput grows {gain:.1f} times from {alone} to {crowd} clients.
- {settings.samples:,} draws lie {distance:.3f} from the model's softmax (as many draws of torch from the softmax \
itself: {noise:.3f}), those of another temperature {other:.3f}, and {overlapping:.3f} where seeds overlap.
- The same stall touches {slow["closed"]:.0%} of the requests in a closed loop and {slow["open"]:.0%} in an open one \
(on average {mean_at_once(loops["open"][1]):.1f} were under way there).""",
    f"""- {settings.clients} 個用戶端一起來，每個 token 要 {overlap["together"][1]:.2f} 步{"" if guess is None else f"（你猜 {guess:g}）"}，一個接一個則要 {overlap["one_by_one"][1]:.2f} 步。
- 從 {alone} 個到 {crowd} 個用戶端，吞吐量變成 {gain:.1f} 倍。
- {settings.samples:,} 次抽樣與模型的 softmax 相距 {distance:.3f}（torch 直接從 softmax 抽同樣多次：{noise:.3f}），換一個溫度是 {other:.3f}，種子重疊則是 {overlapping:.3f}。
- 同樣的停頓，在閉迴路只影響 {slow["closed"]:.0%} 的請求，在開迴路影響 {slow["open"]:.0%}（那裡平均有 {mean_at_once(loops["open"][1]):.1f} 個請求在進行中）。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Server and client share two cores here, and a step takes about as long as handling its HTTP events. So the curve bends early, and gaps are jumpy: several tokens arrive in one piece of bytes. On a GPU it bends where the arithmetic units are full (compute instead of memory bandwidth), at far larger batches.
# - Prompts are short. Long prompts make the first token late, and they slow down everybody else's next token unless prefill is cut into chunks (vLLM does so by default).
# - Four thousand draws find an error of a few percent in the distribution, not of a per mille.
#
# **Exercises.** 1 (`streaming_client.py`: events from bytes), 3 and 4 (`load.py`: percentiles, the open loop) belong here.
#
# **Next:** one base model, many behaviours.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡伺服器和用戶端共用兩個核心，一步的時間跟處理它的 HTTP 事件差不多。所以曲線很早就彎下來，間隔也忽大忽小：好幾個 token 會擠在同一段位元組裡到達。在 GPU 上，要到運算單元滿載（受限於計算而不是記憶體頻寬）才會彎，那時的批次大得多。
# - 提示都很短。長提示會讓第一個 token 變慢，也會拖慢其他人的下一個 token，除非把 prefill 切成小塊（vLLM 預設就會這麼做）。
# - 四千次抽樣能發現分布上百分之幾的錯誤，發現不了千分之一的。
#
# **練習。** 練習 1（`streaming_client.py`：把位元組變成事件）、3 和 4（`load.py`：百分位數、開迴路）屬於這一本。
#
# **下一步：** 一個基礎模型，多種行為。
