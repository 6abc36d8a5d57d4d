# %% [markdown] lang="en"
# # 4. Everything that goes wrong
#
# **Question.** Strangers without a key, prompts that are too long, clients that leave, more load than fits, a deployment, a crash: what does the server do each time, and what may a client believe?
#
# | | |
# |---|---|
# | You build | a rule for what counts as an answer; retries for those who were refused; a ledger of a server that is killed; an estimate of capacity from two measurements |
# | You write | exercises 6 and 7 (`retrying.py`) and 8 (`capacity.py`) |
# | You need | just under a minute on two CPU cores, 2 GB of memory |
# | You should see | which paths a key guards; how long a server works for a client that has left; in what form refusals come, and who notices them; how far the estimate is from the load; what a killed server makes a client believe, and what a planned end loses |

# %% [markdown] lang="zh-TW"
# # 4. 所有會出錯的情況
#
# **問題。** 沒有金鑰的外人、太長的提示、中途離開的用戶端、超過容量的負載、一次部署、一次當機：伺服器每一次會怎麼做？用戶端又可以相信什麼？
#
# | | |
# |---|---|
# | 你會做出 | 判斷「什麼才算回答」的規則；替被拒絕的請求重試；伺服器被強制終止時的紀錄；用兩次量測估計容量 |
# | 你要寫的 | 練習 6、7（`retrying.py`）、8（`capacity.py`） |
# | 你需要 | 兩個 CPU 核心跑將近一分鐘，2 GB 記憶體 |
# | 你應該看到 | 金鑰保護哪些路徑；用戶端離開之後伺服器還做多久；拒絕以什麼形式出現、誰察覺得到；估計與負載差多遠；被強制終止的伺服器會讓用戶端相信什麼，計畫性停機又會遺失什麼 |

# %%
import asyncio
import json
import math
import statistics
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import httpx2

from capacity import StepModel
from lab_servers import NAME, start_production
from load import open_loop, percentile
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import COLORS, subplots
from onepiece.serving import servers, streaming
from onepiece.serving.load import closed_loop, mean_at_once, poisson_arrivals, span
from onepiece.serving.metrics import changes, total
from onepiece.serving.signals import terminate
from onepiece.serving.streaming import COMPLETIONS, connect
from retrying import complete_all, retry_delay, succeeded
from server_metrics import read_idle, read_with
from streaming_client import begin, stream

settings = lab.settings
adapter, key = lab.artifact("adapter"), lab.artifact("api-key").read_text(encoding="utf-8")
place = lab.artifact("production.json")
server = servers.shared(place, lambda: start_production(settings, place.parent, adapter=adapter, key=key))
expected = json.loads(lab.artifact("expected.json").read_text(encoding="utf-8"))
prompts = expected["prompts"]
greedy = {"model": NAME, "temperature": 0, "return_token_ids": True}


def story(number, tokens):
    """A request of exactly so many tokens: the end-of-sequence token does not end it."""
    return greedy | {"prompt": prompts[number % len(prompts)], "max_tokens": tokens, "ignore_eos": True}


def with_client(work):
    """Run `work(client)` with a client that has the key."""
    return streaming.with_client(server.url, work, key=key)


# %% [markdown] lang="en"
# ## Who may ask?
#
# The server was started with a key (in `VLLM_API_KEY`, not on its command line, which every user of the machine can read). A request carries it as `Authorization: Bearer ...`. Which paths does the key guard, and which not?

# %% [markdown] lang="zh-TW"
# ## 誰可以問？
#
# 伺服器啟動時設了金鑰（放在 `VLLM_API_KEY`，不放在命令列，因為機器上的每個使用者都讀得到命令列）。請求用 `Authorization: Bearer ...` 帶著它。金鑰保護哪些路徑？哪些沒有？

# %%
small = story(0, 2)
paths = {
    "/v1/models": None,
    "/v1/completions": small,
    "/v1/chat/completions": {"model": NAME, "messages": [{"role": "user", "content": "27 + 15"}], "max_tokens": 2},
    "/health": None,
    "/metrics": None,
    "/tokenize": {"model": NAME, "prompt": "27 + 15"},
    "/invocations": small,
}
asking = {"no key": {}, "wrong key": {"Authorization": "Bearer wrong"}, "right key": {"Authorization": f"Bearer {key}"}}


def status_of(path, headers):
    body = paths[path]
    method = "GET" if body is None else "POST"
    return httpx2.request(
        method, server.url + path, json=body, headers=headers, trust_env=False, timeout=60.0
    ).status_code


statuses = {path: {name: status_of(path, headers) for name, headers in asking.items()} for path in paths}
guarded = [path for path in paths if path.startswith("/v1/")]
let_in = sum(statuses[path][name] != 401 for path in guarded for name in ("no key", "wrong key"))
lab.record("strangers_let_in", let_in)
lab.record("strangers_let_in", sum(statuses[path]["right key"] != 401 for path in guarded), variant="right_key")
unguarded = [path for path in paths if statuses[path]["no key"] == 200]
lab.record("paths_open", len(unguarded))
asked_with = [tr("no key", "沒有金鑰"), tr("wrong key", "錯的金鑰"), tr("right key", "對的金鑰")]
lab.table([tr("path", "路徑"), *asked_with], [(path, *statuses[path].values()) for path in paths])
lab.say(
    f"Open without a key: {', '.join(f'`{path}`' for path in unguarded)}. "
    f"Health and metrics are open by design, for load balancers and Prometheus. "
    f"{'But `/invocations` *generates text* for anybody: the key guards only paths that begin with `/v1` and a few others.' if '/invocations' in unguarded else ''} "
    f"So the key is not a fence around the server. Put a gateway in front that lets through only the paths you offer "
    f"(`compose/serving.yaml` of this course has one), and let nobody else reach the port.",
    f"不用金鑰就開放的：{'、'.join(f'`{path}`' for path in unguarded)}。健康檢查與指標本來就是開放的，給負載平衡器和 Prometheus 用。"
    f"{'但是 `/invocations` 會替任何人*生成文字*：金鑰只保護 `/v1` 開頭的路徑和少數幾個。' if '/invocations' in unguarded else ''}所以金鑰沒有保護到整個伺服器。"
    f"請在前面放一個閘道，只放行你要提供的路徑（本課程的 `compose/serving.yaml` 就有一個），並且別讓其他人連得到這個連接埠。",
)

# %% [markdown] lang="en"
# ## How much may one ask?

# %% [markdown] lang="zh-TW"
# ## 一次可以問多少？

# %%
longest = next(
    entry["max_model_len"]
    for entry in with_client(lambda client: client.get("/v1/models")).json()["data"]
    if entry["id"] == NAME
)
word = prompts[0][1]
requests = {
    tr("a prompt longer than the model's context", "提示比模型的上下文長度還長"): greedy
    | {"prompt": [word] * (longest + 50), "max_tokens": 1},
    tr("max_tokens longer than the context", "max_tokens 比上下文長度還長"): greedy
    | {"prompt": prompts[0], "max_tokens": longest + 50},
    tr("a temperature below zero", "溫度小於零"): greedy | {"prompt": prompts[0], "max_tokens": 1, "temperature": -1},
    tr("both fit, but not together", "分開都放得下，加起來放不下"): greedy
    | {"prompt": [word] * (longest - 4), "max_tokens": 50, "ignore_eos": True},
    tr("everything fits", "全部放得下"): greedy | {"prompt": prompts[0], "max_tokens": 4, "ignore_eos": True},
}


async def one_by_one(client):
    return [await stream(client, body) for body in requests.values()]


replies = with_client(one_by_one)
lab.record("wrong_requests_refused", sum(reply.status == 400 for reply in replies[:3]))
lab.record("wrong_requests_refused", sum(reply.status == 400 for reply in replies[4:]), variant="right_requests")
lab.table(
    [tr("request", "請求"), tr("status", "狀態"), "token", "finish_reason", tr("the server says", "伺服器說")],
    [
        (name, reply.status, len(reply.token_ids), reply.finish_reason, reply.problem[:90])
        for name, reply in zip(requests, replies, strict=True)
    ],
)
lab.say(
    f"The fourth one is not refused: it got {len(replies[3].token_ids)} tokens of 50, with finish_reason "
    f"`{replies[3].finish_reason}`. Whoever needs all of an answer must look at that field.",
    f"第四個沒有被拒絕：要 50 個 token，拿到 {len(replies[3].token_ids)} 個，finish_reason 是 `{replies[3].finish_reason}`。需要完整回答的人，一定要看這個欄位。",
)

# %% [markdown] lang="en"
# ## Work for nobody
#
# A user closes the page in the middle of an answer. Does the server go on computing? Its own counter of generated tokens tells.

# %% [markdown] lang="zh-TW"
# ## 做白工
#
# 使用者在回答到一半時關掉網頁。伺服器會繼續算下去嗎？看它自己的生成 token 計數器就知道。


# %%
def of_one_event(client):
    """A stream of which nobody wants more than the first event."""
    return client.stream("POST", COMPLETIONS, json=story(0, settings.long_tokens) | {"stream": True})


async def closes(client):
    async with of_one_event(client) as answer:
        await anext(answer.aiter_raw())


async def only_stops_reading(client):
    before = await read_with(client)
    async with of_one_event(client) as answer:
        pieces = answer.aiter_raw()  # has a name: collected as garbage, it would close the connection
        await anext(pieces)
        # The connection stays open until the server has finished the request.
        async with asyncio.timeout(60):
            while total(changes(before, await read_with(client)), "vllm:request_success_total") == 0:
                await asyncio.sleep(0.02)


def computed_share(work, repeats):
    """Tokens that the server generated, as a share of those that were asked for: the least of several tries.

    A gauge is as old as the last step, so it may still say "idle" of a request that has just begun. The small request that follows
    brings it up to date.
    """
    shares, small = [], story(1, 2)
    for _ in range(repeats):
        before = read_idle(server.url)
        with_client(work)
        with_client(lambda client: stream(client, small))
        # Idle: what went on has been counted.
        generated = total(changes(before, read_idle(server.url)), "vllm:generation_tokens_total")
        shares.append((generated - small["max_tokens"]) / settings.long_tokens)
    return min(shares)


left, kept_open = computed_share(closes, settings.repeats), computed_share(only_stops_reading, 1)
lab.record("computed_for_nobody", left)
lab.record("computed_for_nobody", kept_open, variant="connection_kept")
lab.say(
    f"Each client asked for {settings.long_tokens} tokens and wanted no more than the first. "
    f"Where it closed the connection, the server computed {left:.1%} of them; "
    f"where it only stopped reading, {kept_open:.1%}. Closing the connection is the way to cancel; "
    f"a proxy that keeps it open keeps the server busy.",
    f"每個用戶端都要求了 {settings.long_tokens} 個 token，但看到第一個就不想再看。關閉連線的，伺服器算了其中的 {left:.1%}；只是不再讀取的，算了 {kept_open:.1%}。要取消就關閉連線；如果中間有代理伺服器把連線留著，伺服器就會一直忙下去。",
)

# %% [markdown] lang="en"
# ## Predict
#
# This server runs at most so many requests at once (`--max-num-seqs`) and holds at most so many in all (`--max-num-queued-reqs`); without the second limit vLLM's queue has no end, and everybody in it waits. Now a burst comes, larger than both together. Of those that are refused, which share gets an HTTP status that says so (0 to 1)? Write `refused_by_status = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 這個伺服器同時執行的請求有上限（`--max-num-seqs`），總共容納的也有上限（`--max-num-queued-reqs`）；少了第二個限制，vLLM 的佇列就沒有上限，排在裡面的都得等。現在來了一波比兩者加起來還多的請求。被拒絕的請求中，HTTP 狀態碼就說明了被拒絕的，占多少比例（0 到 1）？把 `refused_by_status = ...` 寫進 `predictions.toml`。


# %%
async def burst(client):
    seen = []

    async def look():
        while True:
            samples = await read_with(client)
            seen.append((total(samples, "vllm:num_requests_running"), total(samples, "vllm:num_requests_waiting")))
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    replies = await asyncio.gather(
        *(stream(client, story(number, settings.burst_tokens)) for number in range(settings.burst))
    )
    looking.cancel()
    return replies, seen


before = read_idle(server.url)
replies, seen = with_client(burst)
rejections = total(changes(before, read_idle(server.url)), "vllm:admission_rejections_total")
refused = [reply for reply in replies if reply.status == 503]
by_status = [reply for reply in replies if reply.http_status == 503]
lab.record("refusals_unaccounted", abs(len(refused) - rejections))
exceptions = [reply for reply in replies if reply.http_status == 0]
lab.record("refusals_unaccounted", abs(len(exceptions) - rejections), variant="exceptions_only")
lab.record("refused", len(refused))
lab.record("refused_by_status", len(by_status) / max(1, len(refused)))
lab.table(
    [tr("a burst of requests", "一波請求"), tr("number", "數量")],
    [
        (tr("sent", "送出"), len(replies)),
        (tr("most running, says the server", "最多執行中（伺服器說）"), max(running for running, _ in seen)),
        (tr("most waiting, says the server", "最多等待中（伺服器說）"), max(waiting for _, waiting in seen)),
        (tr("answered completely", "完整回答"), sum(succeeded(reply) for reply in replies)),
        (tr("refused, says the server's counter", "被拒絕（伺服器的計數器說）"), rejections),
        (tr("refused, with HTTP status 503", "被拒絕，HTTP 狀態 503"), len(by_status)),
        (
            tr("refused inside the stream, after HTTP status 200", "在串流裡被拒絕，HTTP 狀態是 200"),
            len(refused) - len(by_status),
        ),
    ],
)
inside = len(refused) - len(by_status)
lab.say(
    f"The server says `{refused[0].problem if refused else 'nothing'}`. vLLM checks twice: "
    f"before it sends the HTTP status, and again when the request joins the engine. "
    f"In between others may have come, and then the refusal is an event inside a stream that began with status 200. "
    f"{f'{inside} times it was so in this run.' if inside else 'In this run no request fell between the two; on a busy machine most of them may.'} "
    f"And no exception was raised for any of them: a client that only catches broken connections ({len(exceptions)} here) "
    f"takes every refusal for an answer.",
    f"伺服器說：`{refused[0].problem if refused else '（無）'}`。vLLM 檢查兩次：送出 HTTP 狀態碼之前，以及請求加入引擎的時候。"
    f"這之間可能又有別人進來，那麼拒絕就成了串流裡的一個事件，而這個串流是以狀態 200 開始的。"
    f"{f'這次執行中發生了 {inside} 次。' if inside else '這次執行中沒有請求落在兩者之間；在忙碌的機器上，可能大部分都會。'}而且沒有任何一個會引發例外：只攔截斷線（這裡有 {len(exceptions)} "
    f"個）的用戶端，會把每一個拒絕都當成回答。",
)

# %% [markdown] lang="en"
# A refusal is not a failure: it is the server's way to keep its promises to those whom it let in. The client's part is to come back later, and not all clients at the same moment:

# %% [markdown] lang="zh-TW"
# 拒絕不是失敗：伺服器這樣做，才顧得好已經放進來的請求。用戶端該做的是晚一點再來，而且不要大家同時再來：

# %%
lab.source(retry_delay)

# %%
ledger = with_client(
    lambda client: complete_all(
        lambda number: stream(client, story(number, settings.burst_tokens)), count=settings.burst, attempts=16, seed=0
    )
)
read_idle(server.url)
unanswered = sum(not entry.complete for entry in ledger)
lab.record("unanswered", unanswered)
lab.record("unanswered", sum(not succeeded(entry.replies[0]) for entry in ledger), variant="no_retry")
attempts = Counter(len(entry.replies) for entry in ledger)
lab.table([tr("attempts", "嘗試次數"), tr("requests", "請求數")], sorted(attempts.items()))

# %% [markdown] lang="en"
# ## How much fits?
#
# Two measurements, few clients and more, give a line: what a step costs once, and what each sequence adds. From it follows what the server can do at its limit, and how many requests are under way at a given rate. One thing must not be forgotten: this server speculates, so a step may bring a sequence several tokens. Its counters say how many.

# %% [markdown] lang="zh-TW"
# ## 裝得下多少？
#
# 兩次量測（用戶端少一點、多一點）就能畫出一條線：一步的固定成本，以及每個序列另外加上的成本。由此可以推算伺服器的極限，以及在某個到達速率下有多少請求在進行中。有一件事不能忘：這個伺服器會推測解碼，所以一步可能替一個序列帶來好幾個 token。究竟幾個，它的計數器會說。

# %%
lab.source(StepModel.at_once)


# %%
class Measured(NamedTuple):
    """Means over the steps of one load."""

    turns: float  # of single sequences in steps, all together
    sequences: float  # in a step
    seconds: float  # of a step
    tokens_per_step: float  # of one sequence
    tokens_per_second: float  # of all clients together, by their own clock


def measured(concurrency):
    """What the server counts, and the clients' clock says, while so many are served."""
    before = read_idle(server.url)
    replies = with_client(
        lambda client: closed_loop(
            lambda number, when: stream(client, story(number, settings.load_tokens), intended=when),
            count=settings.most_running,
            concurrency=concurrency,
        )
    )
    grown = changes(before, read_idle(server.url))
    steps, tokens, accepted = (
        total(grown, f"vllm:{counter}")
        for counter in (
            "iteration_tokens_total_count",
            "generation_tokens_total",
            "spec_decode_num_accepted_tokens_total",
        )
    )
    turns = tokens - accepted  # of single sequences in steps: each brings one token, and those accepted besides
    seconds = span(replies)
    return Measured(turns, turns / steps, seconds / steps, tokens / turns, tokens / seconds)


loads = few, many, full = 1, max(2, settings.most_running // 2), settings.most_running
tries = {concurrency: [] for concurrency in loads}
for _ in lab.progress(range(settings.repeats)):
    for concurrency, results in tries.items():
        results.append(measured(concurrency))
# The quickest: what else runs on this machine only adds.
alone, some, most = (min(results, key=lambda found: found.seconds) for results in tries.values())
model = StepModel.from_measurements(
    alone.sequences, alone.seconds, some.sequences, some.seconds, tokens_per_step=alone.tokens_per_step
)
one_per_step = replace(model, tokens_per_step=1.0)
estimates = {
    None: model.tokens_per_second(most.sequences),
    "one_token_per_step": one_per_step.tokens_per_second(most.sequences),
    "serial_server": alone.tokens_per_second,
}
for name, estimate in estimates.items():
    lab.record("capacity_error", abs(math.log2(estimate / most.tokens_per_second)), variant=name)

# What does not depend on how busy this machine is: how often sequences take part in a step. The server has counted it.
wanted_tokens = settings.most_running * settings.load_tokens
for name, estimator in ((None, model), ("one_token_per_step", one_per_step)):
    turns_error = abs(wanted_tokens / estimator.tokens_per_step / most.turns - 1)
    lab.record("turns_error", turns_error, variant=name)
lab.table(
    [
        tr("clients", "用戶端"),
        tr("turns of sequences", "序列輪到的次數"),
        tr("sequences in a step", "一步裡的序列"),
        tr("milliseconds of a step", "一步的毫秒數"),
        tr("tokens per sequence and step", "每個序列每步的 token"),
        tr("tokens per second", "每秒 token"),
    ],
    [
        (n, found.turns, found.sequences, found.seconds * 1e3, found.tokens_per_step, found.tokens_per_second)
        for n, found in zip(loads, (alone, some, most), strict=True)
    ],
)

# %%
rate = 0.5 * model.highest_rate(settings.load_tokens, full)
arrivals = poisson_arrivals(rate, max(8, int(rate * settings.load_seconds)), seed=1)
loaded = with_client(
    lambda client: open_loop(
        lambda number, when: stream(client, story(number, settings.load_tokens), intended=when), arrivals
    )
)
read_idle(server.url)
answered = [reply for reply in loaded if succeeded(reply)]
lab.record(
    "latency_ratio", statistics.mean(reply.seconds for reply in answered) / model.seconds(rate, settings.load_tokens)
)
lab.table(
    [tr("quantity", "項目"), tr("estimate", "估計"), tr("measured", "量測")],
    [
        (
            tr(f"tokens per second, {full} clients", f"每秒 token，{full} 個用戶端"),
            f"{estimates[None]:.0f}",
            f"{most.tokens_per_second:.0f}",
        ),
        (
            tr("if a step brought one token", "如果一步只帶來一個 token"),
            f"{estimates['one_token_per_step']:.0f}",
            "",
        ),
        (
            tr("if the server were serial", "如果伺服器是循序式的"),
            f"{estimates['serial_server']:.0f}",
            "",
        ),
        (
            tr(f"latency at {rate:.1f} requests/s (mean)", f"每秒 {rate:.1f} 個請求時的延遲（平均）"),
            f"{model.seconds(rate, settings.load_tokens) * 1e3:.0f} ms",
            f"{statistics.mean(reply.seconds for reply in answered) * 1e3:.0f} ms",
        ),
        (
            tr("the slowest twentieth begins at (p95)", "最慢的二十分之一從這裡開始（p95）"),
            "",
            f"{percentile([reply.seconds for reply in answered], 95) * 1e3:.0f} ms",
        ),
        (
            tr("under way at that rate", "該速率下進行中的請求"),
            f"{model.at_once(rate, settings.load_tokens):.1f}",
            f"{mean_at_once(answered):.1f}",
        ),
        (tr("refused", "被拒絕"), 0, len(loaded) - len(answered)),
    ],
)

# %%
figure, axes = subplots(figsize=(7.2, 3.6))
shares = [0.02 * step for step in range(1, 50)]
highest = model.highest_rate(settings.load_tokens, full)
axes.plot(
    [share * highest for share in shares],
    [model.seconds(share * highest, settings.load_tokens) * 1e3 for share in shares],
    marker="",
    label=tr("estimate", "估計"),
)
axes.plot(
    [rate],
    [statistics.mean(reply.seconds for reply in answered) * 1e3],
    "s",
    color=COLORS["orange"],
    label=tr("measured, mean", "量測，平均"),
)
axes.plot(
    [rate],
    [percentile([reply.seconds for reply in answered], 95) * 1e3],
    "^",
    color=COLORS["green"],
    label=tr("measured, p95", "量測，p95"),
)
latency = tr(f"latency of {settings.load_tokens} tokens (ms)", f"{settings.load_tokens} 個 token 的延遲（ms）")
axes.set(xlabel=tr("requests per second", "每秒請求數"), ylabel=latency, ylim=(0, None))
axes.legend()
lab.figure(
    "capacity",
    figure,
    Text(
        en="Latency over load, as estimated from two measurements, and one load test with Poisson arrivals.",
        zh_tw="由兩次量測估計的延遲隨負載變化，以及一次 Poisson 到達的壓力測試。",
    ),
)

# %% [markdown] lang="en"
# The estimate is the mean of a smooth world; arrivals come in clusters, so measured latencies scatter above it. Plan for half of the highest rate, and measure. It is made of times, so it is only as good as the machine was calm while they were measured: what is gated here is the part that was counted, how often a sequence takes part in a step.
#
# ## A server is killed
#
# Now the worst: in the middle of its work the server dies (SIGKILL: a crash, a lost machine). All its places are taken, in the batch and in the queue. The streams break off, with status 200 and correct tokens so far: *a stream that broke off looks like a short answer*. What may a client tell its user?

# %% [markdown] lang="zh-TW"
# 這個估計是請求平穩到達時的平均值；真實的請求會一陣一陣地來，所以量到的延遲散布在它上方。請以最高速率的一半來規劃，而且要實際量測。它是由時間算出來的，所以量測當時機器夠閒，它才可信：這裡設關卡的是數出來的那一部分，也就是序列輪到幾次。
#
# ## 伺服器被強制終止
#
# 現在是最壞的情況：伺服器處理到一半當掉（SIGKILL：程式崩潰，或整台機器沒了）。批次和佇列裡的位置都滿了。串流斷了，狀態是 200，到目前為止的 token 也都正確：*斷掉的串流，看起來就像一個短回答*。用戶端可以怎麼告訴使用者？

# %%
lab.source(succeeded)

# %% [markdown] lang="en"
# First an undisturbed run, whose answers are the reference. Then the same requests, and the kill. A new server takes the place of the old one, on the same port; the clients wait for it and repeat what was not answered.

# %% [markdown] lang="zh-TW"
# 先不受干擾地跑一次，它的回答就是參考答案。然後送出同樣的請求，再強制終止伺服器。新的伺服器在同一個連接埠接替舊的；用戶端等它起來，再重送沒有得到回答的請求。

# %%
clients = settings.most_running + settings.most_waiting
undisturbed = with_client(
    lambda client: closed_loop(
        lambda number, _: stream(client, story(number, settings.long_tokens)), count=clients, concurrency=clients
    )
)
assert all(succeeded(reply) for reply in undisturbed)
wanted = [reply.token_ids for reply in undisturbed]


async def killed_meanwhile(client):
    begun, back = asyncio.Event(), asyncio.Event()

    def crash_and_restart():
        global server
        server.kill()
        server = start_production(settings, place.parent, adapter=adapter, key=key, port=server.ports["http"])
        server.save(place)

    async def crash():
        async with asyncio.timeout(60):
            await begun.wait()  # the first token of all: most of the work is still to be done
        await asyncio.to_thread(crash_and_restart)
        back.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crash())
        asking = tasks.create_task(
            complete_all(
                lambda number: stream(client, story(number, settings.long_tokens), begun=begun),
                count=clients,
                attempts=4,
                seed=0,
                until=back,
            )
        )
    return asking.result()


ledger = with_client(killed_meanwhile)
first = [entry.replies[0] for entry in ledger]
wrong = sum(entry.complete and entry.last.token_ids != tokens for entry, tokens in zip(ledger, wanted, strict=True))
naive_wrong = sum(
    reply.http_status == 200 and reply.token_ids != tokens for reply, tokens in zip(first, wanted, strict=True)
)
lost = sum(not entry.complete for entry in ledger)
lab.record("wrong_answers_believed", wrong)
lab.record("wrong_answers_believed", naive_wrong, variant="status_200_is_success")
lab.record("unanswered_after_crash", lost)
lab.record("unanswered_after_crash", sum(not succeeded(reply) for reply in first), variant="no_retry")
lab.table(
    [
        tr("request", "請求"),
        tr("first attempt", "第一次嘗試"),
        "HTTP",
        "token",
        "finish_reason",
        tr("last attempt", "最後一次"),
        tr("equals the reference", "與參考答案相同"),
    ],
    [
        (
            number,
            tr("complete", "完整") if succeeded(entry.replies[0]) else tr("broken off", "中斷"),
            entry.replies[0].http_status,
            len(entry.replies[0].token_ids),
            entry.replies[0].finish_reason,
            tr("complete", "完整") if entry.complete else tr("failed", "失敗"),
            entry.last.token_ids == tokens,
        )
        for number, (entry, tokens) in enumerate(zip(ledger, wanted, strict=True))
    ],
)

# %% [markdown] lang="en"
# ## An end without loss
#
# Last, a planned end: a new version is to be deployed. This server was started with `--shutdown-timeout`, so that after SIGTERM it finishes what its engine has begun. The control is the first server, which had none (end of notebook 3). And what happens to a request that arrives *during* the drain?

# %% [markdown] lang="zh-TW"
# ## 沒有損失的停機
#
# 最後是計畫性停機：要部署新版本了。這個伺服器啟動時設了 `--shutdown-timeout`，所以收到 SIGTERM 之後，會把引擎已經開始的做完。對照組是沒有設的第一個伺服器（第 3 本筆記本的結尾）。那麼在排空（drain）*期間*到達的請求呢？


# %%
async def drained(client):
    # More than run at once: while some run others wait, so that the server is not done before we ask it to end.
    asked = [story(number, settings.long_tokens) for number in range(settings.most_running + settings.most_waiting // 2)]
    beginning, answers, running = {asyncio.create_task(begin(client, body)) for body in asked}, [], 0
    while beginning and running < settings.most_running // 2:
        begun, beginning = await asyncio.wait(beginning, return_when=asyncio.FIRST_COMPLETED)
        answers += [answer for task in begun for answer in task.result()]
        running = sum(not answer.done() for answer in answers)
    terminate(server)
    await asyncio.sleep(0.1)
    async with connect(server.url, key=key, timeout=2.0) as newcomer:
        late = await stream(newcomer, story(0, 2))
    begun = await asyncio.gather(*answers)
    await asyncio.gather(*[answer for task in beginning for answer in await task])  # nobody promised these an answer
    return running, begun, late


running, replies, late = with_client(drained)
assert running > 0
server.stop()  # whatever is left of it
lost_in_drain = sum(not succeeded(reply) for reply in replies)
lab.record("lost_in_drain", lost_in_drain)
lab.table(
    [tr("request", "請求"), "HTTP", "token", "finish_reason", tr("complete", "完整"), tr("problem", "問題")],
    [
        (name, reply.http_status, len(reply.token_ids), reply.finish_reason, succeeded(reply), reply.problem[:60])
        for name, reply in [
            *((tr("running", "執行中"), reply) for reply in replies),
            (tr("arrived during the drain", "排空期間到達"), late),
        ]
    ],
)
lab.say(
    f"At SIGTERM {running} answers were running; {lost_in_drain} were lost. "
    f"The late request {'was answered' if succeeded(late) else 'was not answered'} "
    f"({'status ' + str(late.http_status) if late.http_status else 'no connection'}{', then ' + ('silence until its own timeout' if 'Timeout' in late.error else 'an empty stream') if late.http_status == 200 and not succeeded(late) else ''}). "
    f"{'So the order of a deployment is: take the server out of the load balancer, wait until no new request comes, and only then send SIGTERM.' if not succeeded(late) else ''}",
    f"收到 SIGTERM 時，有 {running} 個回答正在執行；遺失了 {lost_in_drain} 個。"
    f"晚到的請求{'得到了回答' if succeeded(late) else '沒有得到回答'}（{'狀態 ' + str(late.http_status) if late.http_status else '連不上'}{'，接著' + ('就沒有下文，直到它自己逾時' if 'Timeout' in late.error else '是一個空的串流') if late.http_status == 200 and not succeeded(late) else ''}）。"
    f"{'所以部署的順序是：先把伺服器從負載平衡器移除，等到不再有新請求，才送 SIGTERM。' if not succeeded(late) else ''}",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guess = lab.predict("refused_by_status")
lab.say(
    f"""- A wrong key was let in {let_in} times on the guarded paths; {len(unguarded)} of {len(paths)} paths ask for none.
- Of {len(refused)} refusals {len(by_status)} had the HTTP status \
503{"" if guess is None else f" (you guessed a share of {guess:g})"}; \
the other {inside} came inside a stream with status 200. With retries {unanswered} of {settings.burst} stayed \
unanswered.
- At its limit the server made {most.tokens_per_second:.0f} tokens per second, the estimate said \
{estimates[None]:.0f}. With one token per step it would have said {estimates["one_token_per_step"]:.0f}, for a serial \
server {estimates["serial_server"]:.0f}.
- The crash broke {sum(not succeeded(reply) for reply in first)} of {clients} streams. \
{wrong} wrong answers were believed; a client that trusts status 200 would have believed {naive_wrong}. \
After the restart {lost} are unanswered.
- The planned end lost {lost_in_drain}.""",
    f"""- 受保護的路徑上，錯的金鑰被放行 {let_in} 次；{len(paths)} 個路徑中有 {len(unguarded)} 個不要求金鑰。
- {len(refused)} 個拒絕中，{len(by_status)} 個的 HTTP 狀態是 503{"" if guess is None else f"（你猜的比例是 {guess:g}）"}；\
其餘 {inside} 個出現在狀態 200 的串流裡。重試之後，{settings.burst} 個中剩 {unanswered} 個沒有回答。
- 滿載時，伺服器每秒產生 {most.tokens_per_second:.0f} 個 token，估計是 {estimates[None]:.0f}。\
以為一步只有一個 token，會估成 {estimates["one_token_per_step"]:.0f}；當成循序式的伺服器，則是 {estimates["serial_server"]:.0f}。
- 當機打斷了 {clients} 個串流中的 {sum(not succeeded(reply) for reply in first)} 個。被當成正確的錯誤答案有 {wrong} 個；相信狀態 200 的用戶端會相信 {naive_wrong} 個。重新啟動之後，還有 {lost} 個沒有回答。
- 計畫性停機遺失了 {lost_in_drain} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Repeating a request is safe here because it only reads. A request that triggers a payment needs a key of its own by which the receiver knows it again.
# - One server: while it starts anew, everybody waits. Two behind a gateway turn the wait into a slower answer; a large model takes minutes to load, so count on it.
# - The estimate knows nothing of long prompts, whose prefill takes steps of its own, and nothing of a full KV cache, which makes vLLM preempt requests (`vllm:num_preemptions_total`). Both matter on a GPU before compute does.
#
# **Exercises.** 6 and 7 (`retrying.py`: what is an answer, when to come back) and 8 (`capacity.py`: Little's law) belong here: `nox -s check -- lab-2.3-vllm-serving`.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 在這裡重送請求是安全的，因為它只是讀取。會觸發付款的請求，需要自己的識別碼，讓接收端認得出是同一個請求。
# - 只有一個伺服器：它重新啟動時，大家都得等。閘道後面放兩個，等待就變成慢一點的回答；大模型載入要好幾分鐘，請把它算進去。
# - 這個估計沒有考慮長提示（prefill 要花自己的步數），也沒有考慮 KV 快取滿了會怎樣（vLLM 會搶占請求，見 `vllm:num_preemptions_total`）。在 GPU 上，這兩者都比計算更早成為問題。
#
# **練習。** 練習 6 和 7（`retrying.py`：什麼才算回答、什麼時候再來）、8（`capacity.py`：Little 定律）屬於這一本：`nox -s check -- lab-2.3-vllm-serving`。
