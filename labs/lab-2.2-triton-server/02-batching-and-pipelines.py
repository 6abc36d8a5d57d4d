# %% [markdown] lang="en"
# # 2. Batching and pipelines
#
# **Question.** A model is a function of one input. What can a server do around it that a client cannot: run strangers' requests together, join models, answer in pieces, or not compute at all?
#
# | | |
# |---|---|
# | You build | dynamic batching, an ensemble from text to text, a model with an `if` that calls other models, a stream of tokens, a response cache |
# | You write | exercise 4 (`pipeline.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory |
# | You should see | how many executions a request takes, in company, alone, and among others of other lengths; whether its tokens stay the same; a pipeline equal to its parts; the language model not even asked where a sum will do; tokens that arrive before the last one is made; exactly as many cache hits as repetitions |

# %% [markdown] lang="zh-TW"
# # 2. 批次與流程
#
# **問題。** 模型是單一輸入的函數。伺服器在它外面能做哪些用戶端做不到的事：把不同使用者的請求合在一起執行、把模型串起來、一段一段地回答，或者根本不用算？
#
# | | |
# |---|---|
# | 你會做出 | 動態批次、從文字到文字的 ensemble、會用 `if` 決定要呼叫哪個模型的模型、token 串流、回應快取 |
# | 你要寫的 | 練習 4（`pipeline.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體 |
# | 你應該看到 | 與其他請求一起、單獨一個、與長度不同的請求混在一起時，每個請求各要執行幾次；token 是否還相同；整條流程與逐步呼叫的結果相同；直接算就有答案的加法，根本不會問語言模型；最後一個 token 還沒產生，前面的已經到了；快取命中次數正好等於重複的次數 |

# %%
import statistics
from collections import Counter

import numpy as np

import lab_server
import lesson_models
import outside_the_server  # noqa: F401 -- so that a model's code can be shown here
from answer_model import TritonPythonModel as AnswerModel
from inference_client import counts, infer, over_grpc, over_http, rows_by_batch_size, streamed, texts
from lesson_models import BATCHING, CACHED, MAX_TOKENS, TEXT
from model_repository import Model, Tensor, write_model
from onepiece import lab, world
from onepiece.course.text import Text, tr
from onepiece.figures import COLORS, subplots
from onepiece.serving import servers
from onepiece.serving.load import closed_loop_in_threads, throughput
from pipeline import TEXT_TO_TEXT, ensemble_text
from stream_model import TritonPythonModel as StreamModel

settings = lab.settings
checkpoint = lesson_models.checkpoint_directory(settings)
repository, record_of_server = lab.artifact("repository"), lab.artifact("server.json")
server = servers.shared(record_of_server, lambda: lab_server.start(repository, record_of_server.parent))
write_model(
    repository, lesson_models.language_model("tiny", checkpoint, kind=settings.kind), "language_model"
)  # as in notebook 1: no batching
lab_server.ensure_loaded(server, "tiny")
limit = np.array([[settings.max_tokens]], dtype=np.int32)
client, statistics_client = over_grpc(server), over_http(server)

# %% [markdown] lang="en"
# ## The same model, and a pipeline around it
#
# `tiny_batched` differs from notebook 1's `tiny` in one line of `config.pbtxt`. Around it comes an *ensemble*: three models in a row, text to token ids, ids to new ids, ids to text. It has no code, only names: each step says what the model calls a tensor, and what the ensemble calls it. Loading an ensemble loads its parts.

# %% [markdown] lang="zh-TW"
# ## 同一個模型，外面再包一條流程
#
# `tiny_batched` 與第 1 本的 `tiny` 只差 `config.pbtxt` 裡的一行。外面再包一個 *ensemble*：把三個模型依序串起來：文字轉成 token id、id 產生新的 id、id 轉回文字。它沒有程式碼，只有名稱：每一步都寫明，一個張量在模型裡叫什麼、在 ensemble 裡又叫什麼。載入 ensemble 時，會一併載入它用到的模型。

# %%
write_model(repository, lesson_models.language_model("tiny_batched", checkpoint, kind=settings.kind, more=BATCHING), "language_model")
for direction in ("encode", "decode"):
    write_model(repository, lesson_models.tokenizer(direction, checkpoint), "tokenizer_model")
pipeline = Model(
    "pipeline",
    (TEXT, MAX_TOKENS),
    (Tensor("answer", "BYTES", (1,)),),
    max_batch_size=1,
    platform="ensemble",
    more=ensemble_text(TEXT_TO_TEXT),
)
write_model(repository, pipeline)
print((repository / "tiny_batched" / "config.pbtxt").read_text(encoding="utf-8").splitlines()[-1])
print((repository / "pipeline" / "config.pbtxt").read_text(encoding="utf-8"))
lab_server.ensure_loaded(server, "pipeline")
print(sorted(name for name, versions in lab_server.index(server).items() if "READY" in versions.values()))

# %% [markdown] lang="en"
# ## Dynamic batching
#
# While the model computes, requests pile up. With `dynamic_batching` the server hands all that wait (at most `max_batch_size`) to `execute` at once; `max_queue_delay_microseconds` is how long it may hold back a request in the hope of company.
#
# Predict: so many clients as `batch_clients` in `lab.toml` ask again and again, one request at a time each. How many executions per request will the server need? Write `executions_per_inference = ...` into `predictions.toml`: without batching it is 1.

# %% [markdown] lang="zh-TW"
# ## 動態批次
#
# 模型計算的時候，請求會累積起來。有了 `dynamic_batching`，伺服器就把正在等的（最多 `max_batch_size` 個）一次交給 `execute`；`max_queue_delay_microseconds` 則是一個請求最多可以留多久，看能不能湊到別的請求一起執行。
#
# 先猜：有 `lab.toml` 裡 `batch_clients` 那麼多個用戶端，每個一次送一個請求，拿到答案再送下一個。平均每個請求，伺服器要執行幾次？把 `executions_per_inference = ...` 寫進 `predictions.toml`：沒有批次的話是 1。

# %%
prompts = [item.prompt for family in settings.families for item in world.distinct_items(family, 30, settings.seed, "held-out", "en")]
encoded = [infer(client, "encode", {"text": texts(prompt)})["input_ids"] for prompt in prompts]  # (1, length) each
common, _ = Counter(ids.shape[1] for ids in encoded).most_common(1)[0]
alike = [ids for ids in encoded if ids.shape[1] == common]
tokens = np.array([[settings.batch_tokens]], dtype=np.int32)
clients = [over_grpc(server) for _ in range(settings.batch_clients)]


def burst(model, prompts, clients, requests=settings.batch_requests):
    """Load in a closed loop: what was measured, executions per row, and the answer of each prompt."""
    answers, before = {}, counts(statistics_client, model)

    def ask(client, number):
        ids = prompts[number % len(prompts)]
        answers[number % len(prompts)] = infer(client, model, {"input_ids": ids, "max_tokens": tokens})["output_ids"][0].tolist()

    measured, after = closed_loop_in_threads(clients, ask, requests), counts(statistics_client, model)
    return measured, (after["executions"] - before["executions"]) / (after["inferences"] - before["inferences"]), answers


burst("tiny_batched", alike, clients, settings.batch_clients)  # the first calls are slower
rounds = {model: [] for model in ("tiny", "tiny_batched")}
for _ in range(settings.repeats):
    for model, results in rounds.items():
        results.append(burst(model, alike, clients))
executions = {model: max(ratio for _, ratio, _ in results) for model, results in rounds.items()}
speedups = sorted(
    throughput(one) / throughput(other) for (one, *_), (other, *_) in zip(rounds["tiny_batched"], rounds["tiny"], strict=True)
)
plain, batched = rounds["tiny"][0][2], rounds["tiny_batched"][0][2]
asked = sorted(plain)
lab.record("executions_per_inference", executions["tiny_batched"])
lab.record("executions_per_inference", executions["tiny"], variant="no_batching")
lab.record("batched_differently", sum(plain[number] != batched[number] for number in asked))
lab.record(
    "batched_differently",
    sum(plain[number] != batched[asked[place - 1]] for place, number in enumerate(asked)),
    variant="neighbours_answer",
)
most_common = max(plain.values(), key=list(plain.values()).count)
lab.record("batched_differently", sum(plain[number] != most_common for number in asked), variant="constant")
lab.table(
    [tr("model", "模型"), tr("executions per request", "每個請求的執行次數"), tr("requests per second, median", "每秒請求數（中位數）")],
    [(model, executions[model], f"{statistics.median(throughput(one) for one, *_ in results):.0f}") for model, results in rounds.items()],
)

# %% [markdown] lang="en"
# Who shares a batch? Only requests of one shape: `input_ids` of another length would need padding, and that is the model's business. And somebody who is alone gains nothing, and waits.

# %% [markdown] lang="zh-TW"
# 哪些請求會共用一個批次？只有形狀相同的：長度不同的 `input_ids` 需要補齊，那是模型自己的事。而只有一個用戶端時，批次什麼好處也沒有，只會讓它多等。

# %%
mixed = [
    np.full((1, common + extra), int(alike[0][0, -1]), dtype=np.int64) for extra in range(settings.batch_clients)
]  # every length differs
_, mixed_executions, _ = burst("tiny_batched", mixed, clients)
lab.record("executions_per_inference", mixed_executions, variant="mixed_lengths")
alone = {model: [burst(model, alike[:1], clients[:1], 12)[0] for _ in range(settings.repeats)] for model in rounds}
waits = sorted(
    1000 * (statistics.median(each.seconds for each in one) - statistics.median(each.seconds for each in other))
    for one, other in zip(alone["tiny_batched"], alone["tiny"], strict=True)
)
rows = {model: rows_by_batch_size(statistics_client, model) for model in rounds}
figure, axes = subplots(figsize=(7.2, 3.2))
for place, (model, sizes) in enumerate(rows.items()):
    share = [sizes.get(size, 0) / sum(sizes.values()) for size in range(1, 9)]
    axes.bar([size + 0.4 * place - 0.2 for size in range(1, 9)], share, width=0.4, label=model, color=list(COLORS.values())[place])
axes.set(xlabel=tr("rows in the batch", "批次裡的列數"), ylabel=tr("share of all rows", "占全部列數的比例"))
axes.legend()
lab.figure(
    "batch-sizes",
    figure,
    Text(
        en="In batches of which size the rows were computed, by the server's own statistics (every request of this run, mixed "
            "lengths and lonely clients too).",
        zh_tw="每一列是在多大的批次裡算的，依據伺服器自己的統計（這次執行的所有請求，也包括長度混雜與單獨一個用戶端的）。",
    ),
)

# %%
guess = lab.predict("executions_per_inference")
lab.say(
    f"""With {settings.batch_clients} clients the server needed at most {executions["tiny_batched"]:.2f} executions per \
request{"" if guess is None else f" (you guessed {guess:.2f})"}, without batching {executions["tiny"]:.2f}. \
{len(asked) - sum(plain[number] != batched[number] for number in asked)} of {len(asked)} answers are the same. \
Throughput was {statistics.median(speedups):.1f} times as high (median; \
{speedups[0]:.1f} to {speedups[-1]:.1f} over {len(speedups)} rounds).
When no two neighbours have the same length, it is {mixed_executions:.2f} executions per request: \
batching was on, and did nothing. A client alone sees {waits[len(waits) // 2]:+.1f} ms with batching (median; \
{waits[0]:+.1f} to {waits[-1]:+.1f}), of which the configuration explains up to 2.""",
    f"""{settings.batch_clients} 個用戶端時，伺服器每個請求最多執行 {executions["tiny_batched"]:.2f} \
次{"" if guess is None else f"（你猜 {guess:.2f}）"}，沒有批次是 {executions["tiny"]:.2f} 次。\
{len(asked)} 個答案裡有 {len(asked) - sum(plain[number] != batched[number] for number in asked)} 個相同。\
吞吐量是 {statistics.median(speedups):.1f} 倍（中位數；{len(speedups)} 輪，從 {speedups[0]:.1f} 到 {speedups[-1]:.1f}）。
相鄰的請求長度都不同時，每個請求要執行 {mixed_executions:.2f} 次：批次是開著的，卻毫無作用。只有一個用戶端時，開了批次會差 {waits[len(waits) // 2]:+.1f} ms（中位數；\
{waits[0]:+.1f} 到 {waits[-1]:+.1f}），其中設定能解釋的最多 2 ms。""",
)
for extra_client in clients:
    extra_client.close()

# %% [markdown] lang="en"
# ## The ensemble is its parts
#
# The client now sends text and gets text; ids stay inside the server. The same three calls, made by the client one after the other, must give the same. The control drops the first token between the first two calls: something that looks like a pipeline, and is another one.

# %% [markdown] lang="zh-TW"
# ## ensemble 等於逐步呼叫
#
# 用戶端現在送文字、收文字；id 只留在伺服器裡。由用戶端自己依序呼叫同樣的三個模型，結果必須相同。對照組在前兩個呼叫之間丟掉第一個 token：看起來是同一條流程，其實不是。

# %%
various = [
    item.prompt
    for family in settings.families
    for item in world.items(family, settings.prompts_per_family, settings.seed, "held-out", "en", distinct=True)
]


def by_hand(prompt, drop=0):
    """The three steps, each over the network."""
    ids = infer(client, "encode", {"text": texts(prompt)})["input_ids"][:, drop:]
    new = infer(client, "tiny_batched", {"input_ids": ids, "max_tokens": limit})["output_ids"]
    return infer(client, "decode", {"output_ids": new})["text"][0, 0].decode("utf-8")


def whole(prompt):
    """The same in one request."""
    return infer(client, "pipeline", {"text": texts(prompt), "max_tokens": limit})["answer"][0, 0].decode("utf-8")


in_one = [whole(prompt) for prompt in various]
apart = sum(answer != by_hand(prompt) for answer, prompt in zip(in_one, various, strict=True))
lab.record("ensemble_differs", apart)
lab.record("ensemble_differs", sum(answer != max(in_one, key=in_one.count) for answer in in_one), variant="constant")
lab.record(
    "ensemble_differs",
    sum(answer != by_hand(prompt, drop=1) for answer, prompt in zip(in_one, various, strict=True)),
    variant="first_token_dropped",
)
lab.table(
    [tr("prompt", "提示"), tr("ensemble", "ensemble"), tr("step by step", "逐步呼叫")],
    [(f"`{prompt}`", f"`{whole(prompt)}`", f"`{by_hand(prompt)}`") for prompt in various[:: settings.prompts_per_family]],
)

# %% [markdown] lang="en"
# ## A model with an `if`
#
# An ensemble always runs all its steps. *Business logic scripting* (BLS) is a Python model that calls other models of its server, and decides. Here a sum like `27 + 15 →` is computed, and only the rest goes to the language model.

# %% [markdown] lang="zh-TW"
# ## 會用 `if` 的模型
#
# ensemble 一定會執行每一個步驟。*Business logic scripting*（BLS）則是一個 Python 模型，會呼叫同一台伺服器上的其他模型，而且能決定要不要呼叫。在這裡，`27 + 15 →` 這樣的加法直接算，其他的才交給語言模型。

# %%
lab.source(AnswerModel.answer)
write_model(repository, lesson_models.answer(), "answer_model")
write_model(repository, lesson_models.stream(checkpoint), "stream_model")
lab_server.ensure_loaded(server, "answer", "stream")
random = np.random.default_rng(settings.seed)
sums = [f"{first} + {second} →" for first, second in random.integers(100_000, 1_000_000, (len(various), 2)).tolist()]


def scripted(prompt):
    """Text and route."""
    outputs = infer(client, "answer", {"text": texts(prompt), "max_tokens": limit})
    return outputs["text"][0, 0].decode("utf-8"), outputs["route"][0, 0].decode("utf-8")


def calls_of(model, ask):
    """How often a language model is asked while `ask` handles every prompt, and what comes out."""
    before = counts(statistics_client, model)["inferences"]
    answers = [ask(prompt) for prompt in [*various, *sums]]
    return counts(statistics_client, model)["inferences"] - before, answers


bls_calls, bls_answers = calls_of("tiny", scripted)
ensemble_calls, ensemble_answers = calls_of("tiny_batched", whole)
lab.record("bls_calls_too_many", bls_calls - len(various))
lab.record("bls_calls_too_many", ensemble_calls - len(various), variant="ensemble")
lab.record(
    "bls_differs",
    sum(text != other for (text, route), other in zip(bls_answers, ensemble_answers, strict=True) if route == "language model"),
)
lab.record(
    "bls_differs",
    sum(text != other for (text, route), other in zip(bls_answers, ensemble_answers, strict=True) if route == "calculator"),
    variant="the_sums",
)
right = {
    "BLS": sum(
        int(text) == sum(map(int, prompt.removesuffix(" →").split(" + ")))
        for prompt, (text, _) in zip(sums, bls_answers[len(various) :], strict=True)
    ),
    "ensemble": sum(
        text.strip() == str(sum(map(int, prompt.removesuffix(" →").split(" + "))))
        for prompt, text in zip(sums, ensemble_answers[len(various) :], strict=True)
    ),
}
lab.table(
    [tr("prompt", "提示"), tr("route", "路徑"), "BLS", "ensemble"],
    [
        (f"`{prompt}`", route, f"`{text.strip()}`", f"`{other.strip()}`")
        for prompt, (text, route), other in list(zip([*various, *sums], bls_answers, ensemble_answers, strict=True))[:: len(various) // 2]
    ],
)
lab.say(
    f"The ensemble equals its parts for {len(various) - apart} of {len(various)} prompts. "
    f"Of {len(various) + len(sums)} prompts BLS sent {bls_calls} to the language model, the ensemble {ensemble_calls}. "
    f"Of the {len(sums)} sums BLS got {right['BLS']} right, the ensemble {right['ensemble']}.",
    f"{len(various)} 個提示裡，ensemble 與逐步呼叫相同的有 {len(various) - apart} 個。"
    f"{len(various) + len(sums)} 個提示中，BLS 交給語言模型 {bls_calls} 個，ensemble 交了 {ensemble_calls} 個。"
    f"{len(sums)} 題加法，BLS 答對 {right['BLS']} 題，ensemble 答對 {right['ensemble']} 題。",
)

# %% [markdown] lang="en"
# ## Tokens as they are made
#
# A *decoupled* model may answer a request as often as it likes: here once per token, over a gRPC stream. Each response says when its token was made, by the same clock that the client reads. So it can be counted how many tokens had arrived before the last was made. The control makes the usual mistake: the same responses, kept back until the end.

# %% [markdown] lang="zh-TW"
# ## token 產生一個，送出一個
#
# *Decoupled* 的模型可以對一個請求回答很多次：在這裡是每個 token 一次，透過 gRPC 串流。每個回應都寫著它的 token 是什麼時候產生的，用的是用戶端也讀得到的同一個時鐘。所以數得出來：最後一個 token 產生之前，已經有幾個到了。對照組犯的是常見的錯誤：同樣的回應，全部留到最後才送。

# %%
lab.source(StreamModel.execute)
ids_of = {prompt: infer(client, "encode", {"text": texts(prompt)})["input_ids"] for prompt in various}
not_streamed = {
    prompt: infer(client, "tiny", {"input_ids": ids, "max_tokens": limit})["output_ids"][0].tolist() for prompt, ids in ids_of.items()
}
longest = max(various, key=lambda prompt: len(not_streamed[prompt]))


def stream_of(prompt, at_once=False):
    """Per token: the token, when it was made and when it arrived (milliseconds after the first was made)."""
    inputs = {"input_ids": ids_of[prompt], "max_tokens": limit, "at_once": np.array([[at_once]])}
    pieces = [(int(outputs["token"][0, 0]), int(outputs["made_at"][0, 0]), at) for at, outputs in streamed(server, "stream", inputs)]
    first = pieces[0][1]
    return [(token, (made - first) / 1e6, (at - first) / 1e6) for token, made, at in pieces]


def early(pieces):
    """How many tokens had arrived before the last one was made."""
    return sum(arrived < pieces[-1][1] for _, _, arrived in pieces)


pieces = {prompt: stream_of(prompt) for prompt in various}
kept_back = {prompt: stream_of(prompt, at_once=True) for prompt in various}
lab.record("stream_differs", sum([token for token, *_ in pieces[prompt]] != not_streamed[prompt] for prompt in various))
lab.record(
    "stream_differs",
    sum([token for token, *_ in pieces[prompt][:1]] != not_streamed[prompt] for prompt in various),
    variant="first_response_only",
)
in_time, in_time_kept_back = (sum(map(early, streams.values())) for streams in (pieces, kept_back))
lab.record("tokens_before_the_last", in_time)
lab.record("tokens_before_the_last", in_time_kept_back, variant="kept_back")
figure, axes = subplots(figsize=(7.2, 3.0))
for place, (label, row) in enumerate({tr("streamed", "串流"): pieces[longest], tr("kept back", "留到最後"): kept_back[longest]}.items()):
    colour = list(COLORS.values())[place]
    made_label, arrived_label = tr(f"{label}: made", f"{label}：產生"), tr(f"{label}: arrived", f"{label}：到達")
    axes.scatter([made for _, made, _ in row], [place] * len(row), marker="|", s=300, color=colour, label=made_label)
    axes.scatter([arrived for *_, arrived in row], [place + 0.25] * len(row), marker="v", s=40, color=colour, label=arrived_label)
axes.set(xlabel=tr("milliseconds after the first token was made", "第一個 token 產生後的毫秒數"), yticks=[], ylim=(-0.4, 1.7))
axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.25))
lab.figure(
    "stream",
    figure,
    Text(
        en="When each token of one answer was made and when it arrived. Streamed: one by one. Kept back: all at the end.",
        zh_tw="一個答案的每個 token 何時產生、何時到達。串流：一個接一個；留到最後：一次全到。",
    ),
)
lab.say(
    f"Put together, the pieces equal the whole answer for "
    f"{sum([token for token, *_ in pieces[prompt]] == not_streamed[prompt] for prompt in various)} of {len(various)} "
    f"prompts. Of {sum(map(len, pieces.values()))} tokens, {in_time} had arrived before the last of their answer was made; "
    f"kept back, {in_time_kept_back}. Both are streams to the client's code: only the clock tells them apart.",
    f"{len(various)} 個提示裡，有 {sum([token for token, *_ in pieces[prompt]] == not_streamed[prompt] for prompt in various)} "
    f"個的片段拼起來等於完整的答案。{sum(map(len, pieces.values()))} 個 token 裡，有 {in_time} 個在自己答案的最後一個 token 產生之前就到了；"
    f"留到最後才送的，有 {in_time_kept_back} 個。對用戶端的程式碼來說兩者都是串流：要看時間才分得出來。",
)

# %% [markdown] lang="en"
# ## Not computing at all
#
# With `response_cache { enable: true }` the server remembers answers by a hash over the model, its version and every byte of the inputs. How many hits will a stream of requests have? As many as there are repetitions: requests less distinct ones. The control has the cache off.

# %% [markdown] lang="zh-TW"
# ## 根本不用算
#
# 有了 `response_cache { enable: true }`，伺服器會用雜湊記住答案：雜湊涵蓋模型、版本，以及輸入的每一個位元組。一串請求會命中幾次？重複了幾次就命中幾次：請求數減去不同的請求數。對照組把快取關掉。

# %%
weights = random.normal(size=(lesson_models.FEATURES, lesson_models.SCORES)).astype(np.float32)
for name, more in (("linear_cached", CACHED), ("linear_uncached", "")):
    write_model(repository, lesson_models.linear(name, more=more), "linear_model", {1: {"weights": weights}})
lab_server.ensure_loaded(server, "linear_cached", "linear_uncached")
inputs = random.normal(size=(settings.cache_inputs, 1, lesson_models.FEATURES)).astype(np.float32)
drawn = random.integers(0, settings.cache_inputs, settings.cache_requests).tolist()
repeated = len(drawn) - len(set(drawn))
hits, executed = {}, {}
for name in ("linear_cached", "linear_uncached"):
    before = counts(statistics_client, name)
    for number in drawn:
        scores = infer(client, name, {"features": inputs[number]})["scores"]
        assert np.allclose(scores, inputs[number] @ weights, atol=1e-5), "a cached answer must be the right one"
    after = counts(statistics_client, name)
    hits[name], executed[name] = after["hits"] - before["hits"], after["executions"] - before["executions"]
before = counts(statistics_client, "linear_cached")["hits"]
nearly = np.nextafter(inputs[drawn[0]], np.float32(np.inf))  # the next number that float32 has
infer(client, "linear_cached", {"features": nearly})
nearly_hits = counts(statistics_client, "linear_cached")["hits"] - before
lab.record("cache_hits_missing", repeated - hits["linear_cached"])
lab.record("cache_hits_missing", repeated - hits["linear_uncached"], variant="cache_off")
lab.table(
    [tr("model", "模型"), tr("requests", "請求"), tr("hits", "命中"), tr("executions", "執行")],
    [(name, len(drawn), hits[name], executed[name]) for name in hits],
)
lab.say(
    f"{len(drawn)} requests, {len(set(drawn))} of them distinct: {repeated} repetitions, {hits['linear_cached']} hits. "
    f"An input that differs in the last bit of float32 had {nearly_hits}. "
    f"A cache is for inputs that come again to the byte, and for answers that may be the same twice: "
    f"greedy text, not sampled text.",
    f"{len(drawn)} 個請求，其中 {len(set(drawn))} 個不同：重複 {repeated} 次，命中 {hits['linear_cached']} 次。"
    f"只差 float32 最後一個位元的輸入，命中 {nearly_hits} 次。快取適合一個位元組都不差地重複出現的輸入，以及可以每次都一樣的答案：貪婪解碼的文字可以，取樣的不行。",
)
for name in hits:
    client.unload_model(name)
client.close()
statistics_client.close()

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- Dynamic batching: {executions["tiny_batched"]:.2f} executions per request instead of {executions["tiny"]:.2f}, and \
{statistics.median(speedups):.1f} times the throughput with {settings.batch_clients} clients; \
with mixed lengths {mixed_executions:.2f}.
- BLS asked the language model {bls_calls} times where the ensemble asked {ensemble_calls} times.
- Of {len(pieces[longest])} streamed tokens {early(pieces[longest])} came before the end was known.
- The cache computed {executed["linear_cached"]} of {len(drawn)} requests.""",
    f"""- 動態批次：每個請求執行 {executions["tiny_batched"]:.2f} 次，而不是 {executions["tiny"]:.2f} 次；\
{settings.batch_clients} 個用戶端時，吞吐量是 {statistics.median(speedups):.1f} 倍；長度混雜時則是 {mixed_executions:.2f} 次。
- 語言模型被 BLS 問了 {bls_calls} 次，被 ensemble 問了 {ensemble_calls} 次。
- 串流的 {len(pieces[longest])} 個 token 裡，有 {early(pieces[longest])} 個在結尾確定之前就到了。
- 有快取時，{len(drawn)} 個請求只算了 {executed["linear_cached"]} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of this scale
#
# - A batch here is a whole `generate`: nobody can join it halfway, and the shortest answer waits for the longest. Engines for language models batch token by token instead (continuous batching, labs 2.3 and 2.5); in Triton that is the vLLM or TensorRT-LLM backend.
# - On a CPU a batch saves mostly overhead. On a GPU it saves much more, because a small batch leaves most of the device idle.
# - The stream asks for the whole text again for each token. It shows the transport, not how one should decode.
#
# **Exercise.** 4 (`pipeline.py`: a step of an ensemble) belongs here: `nox -s check -- lab-2.2-triton-server`.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的一個批次就是一整次 `generate`：沒有請求能中途加入，最短的答案也得等最長的。語言模型的引擎是逐 token 組批次的（連續批次，實驗 2.3 與 2.5）；在 Triton 裡，那是 vLLM 或 TensorRT-LLM backend 的工作。
# - 在 CPU 上，批次省下的主要是額外開銷。在 GPU 上省得更多，因為批次小的時候，裝置大半閒著。
# - 這裡的串流每產生一個 token 就重算一次全文。它示範的是傳輸，不是解碼該有的做法。
#
# **練習。** 練習 4（`pipeline.py`：ensemble 的一個步驟）屬於這一本：`nox -s check -- lab-2.2-triton-server`。
