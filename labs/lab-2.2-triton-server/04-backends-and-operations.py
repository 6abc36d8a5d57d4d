# %% [markdown] lang="en"
# # 4. Backends and operations
#
# **Question.** The server runs. How do you see from outside what it does, how much it can bear, and what remains of its clients' requests when it dies, or is asked to go?
#
# | | |
# |---|---|
# | You build | a reader of its metrics, a load generator, configurations for four other backends, clients that survive a crash |
# | You write | exercise 9 (`server_metrics.py`) |
# | You need | three quarters of a minute on two CPU cores, 2 GB of memory |
# | You should see | counters equal to what the clients counted, and which requests no counter knows; latency and throughput over concurrency; what two ledgers miss after `kill -9`, and what an orderly end loses |

# %% [markdown] lang="zh-TW"
# # 4. Backend 與維運
#
# **問題。** 伺服器在跑了。怎麼從外面看出它在做什麼、撐得住多少負載？它當掉，或被要求關閉時，用戶端的請求還剩下什麼？
#
# | | |
# |---|---|
# | 你會做出 | 讀取指標的函式、負載產生器、另外四種 backend 的設定，以及撐得過當機的用戶端 |
# | 你要寫的 | 練習 9（`server_metrics.py`） |
# | 你需要 | 兩個 CPU 核心跑四十五秒，2 GB 記憶體 |
# | 你應該看到 | 計數器與用戶端自己數的相同，以及有哪些請求任何計數器都沒算到；延遲與吞吐量隨並行數的變化；`kill -9` 之後兩份紀錄各少了什麼；正常關閉時又丟了什麼 |

# %%
import statistics
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

import lab_server
import lesson_models
import perf_analyzer
from backend_configs import OTHERS, form_problems, names_fit, write_other
from inference_client import REFUSED, infer, over_grpc
from lab_server import closing
from lesson_models import BATCHING
from load_generator import ask_until_answered
from model_repository import write_model
from onepiece import lab
from onepiece.course import places
from onepiece.course.text import Text, tr
from onepiece.figures import subplots
from onepiece.serving import servers
from onepiece.serving.load import closed_loop_in_threads, percentile, throughput
from onepiece.serving.metrics import changes, total
from onepiece.serving.waiting import until
from server_metrics import fetch_metrics, parse_metrics, settled_metrics

settings = lab.settings
checkpoint = lesson_models.checkpoint_directory(settings)
repository, record_of_server = lab.artifact("repository"), lab.artifact("server.json")
server = servers.shared(record_of_server, lambda: lab_server.start(repository, record_of_server.parent))
for name, more in (("tiny", ""), ("tiny_batched", BATCHING)):
    write_model(repository, lesson_models.language_model(name, checkpoint, kind=settings.kind, more=more), "language_model")
timed = lesson_models.timed("timed", instances=2)
write_model(repository, timed, "timed_model")
lab_server.ensure_loaded(server, "tiny_batched", "timed")
client = over_grpc(server)

# %% [markdown] lang="en"
# ## Counted by both sides
#
# Triton writes its counters in Prometheus' text format on a port of its own. A counter is only worth something if it agrees with what happened, so we know what happens: requests that succeed, requests of which the model's code makes an error (a negative time to sleep), and requests that the server refuses before any model sees them (a wrong type). Predict: in which of `nv_inference_request_success` and `nv_inference_request_failure` does each kind appear?

# %% [markdown] lang="zh-TW"
# ## 兩邊各自計數
#
# Triton 在另一個連接埠上，用 Prometheus 的文字格式寫出計數器。計數器要跟實際發生的事一致才有價值，所以這裡送的請求，結果都是已知的：會成功的、會讓模型的程式碼出錯的（負的睡眠時間），以及模型還沒看到就被伺服器拒絕的（型別錯誤）。先猜：這三種各會出現在 `nv_inference_request_success` 與 `nv_inference_request_failure` 的哪一個？

# %%
print("\n".join(line for line in fetch_metrics(server).splitlines() if 'model="timed"' in line and "request" in line))
one_millisecond = np.array([[1]], dtype=np.int32)
kinds = {  # what is sent, how often, and what it is called in the table
    "answered": (one_millisecond, 30, tr("answered", "成功")),
    "the code fails": (-one_millisecond, 4, tr("the code fails", "程式碼出錯")),
    "refused at the door": (one_millisecond.astype(np.float32), 5, tr("refused at the door", "在入口被擋下")),
}
before, sent, words = settled_metrics(server), dict.fromkeys(kinds, 0), {}
for kind, (milliseconds, times, _) in kinds.items():
    for _ in range(times):
        sent[kind] += 1
        try:
            infer(client, "timed", {"milliseconds": milliseconds})
        except REFUSED as refusal:
            words[kind] = str(refusal).split("\n")[0]
after = settled_metrics(server)


def grown(name, **labels):
    """By how much a counter has grown."""
    return total(changes(before, after), name, **labels)


succeeded = grown("nv_inference_request_success", model="timed")
failed = grown("nv_inference_request_failure", model="timed")
lab.record("counters_differ", abs(succeeded - sent["answered"]) + abs(failed - sent["the code fails"]))
lab.record("counters_differ", abs(succeeded + failed - sum(sent.values())), variant="every_request_is_counted")
lab.table(
    [tr("requests", "請求"), tr("sent", "送出"), tr("the client heard", "用戶端收到")],
    [(kinds[kind][2], times, f"`{words.get(kind, '-')[:110]}`") for kind, times in sent.items()],
)
lab.say(
    f"The server counts {succeeded:.0f} successes and {failed:.0f} failures. "
    f"Of {sum(sent.values())} requests, {sum(sent.values()) - succeeded - failed:.0f} are in neither: "
    f"what is refused at the door never reaches a model, and no counter of a model knows it. "
    f"Whoever wants to see those must count at the gateway, or in the client.",
    f"伺服器數到 {succeeded:.0f} 次成功、{failed:.0f} 次失敗。{sum(sent.values())} 個請求裡，有 {sum(sent.values()) - succeeded - failed:.0f} "
    f"個兩邊都沒有：在入口就被擋下的請求到不了任何模型，模型的計數器也就沒算到。想看到它們，就得在閘道或用戶端計數。",
)

# %% [markdown] lang="en"
# ## How much can it bear?
#
# The load generator keeps a fixed number of requests under way: *concurrency*. Throughput rises until something is full, and from then on only the waiting grows. In such a closed loop, throughput times mean latency must be the concurrency (Little's law): if it is not, the measurement is wrong. Where the time goes, the server says itself: in the queue, or in the model.

# %% [markdown] lang="zh-TW"
# ## 撐得住多少？
#
# 負載產生器讓固定數量的請求同時進行：*並行數*。吞吐量會一直上升，直到某項資源飽和；之後增加的就只有等待時間。在這種閉迴路裡，吞吐量乘以平均延遲必須等於並行數（Little 定律）：不等的話，就是量錯了。時間花在哪裡，伺服器自己會說：在佇列裡，還是在模型裡。

# %%
models = ["tiny", "tiny_batched"]
lab_server.ensure_loaded(server, *models)
begin_of_text = 1
prompt = np.array([[begin_of_text, *range(300, 308)]], dtype=np.int64)  # (1, length): which tokens does not matter here
request = {"input_ids": prompt, "max_tokens": np.array([[settings.batch_tokens]], dtype=np.int32)}
pool = [over_grpc(server) for _ in range(max(settings.sweep))]
measured, queued, computed = ({model: {level: [] for level in settings.sweep} for model in models} for _ in range(3))
for model in models:
    closed_loop_in_threads(pool[:4], lambda client, _, model=model: infer(client, model, request), 8)  # the first calls are slower
for _ in range(settings.sweep_repeats):
    for level in settings.sweep:
        for model in models:
            before = settled_metrics(server, 0.05)
            found = closed_loop_in_threads(
                pool[:level], lambda client, _, model=model: infer(client, model, request), settings.sweep_requests
            )
            after = settled_metrics(server, 0.05)
            measured[model][level].append(found)
            queued[model][level].append(grown("nv_inference_queue_duration_us", model=model) / 1000 / settings.sweep_requests)
            computed[model][level].append(grown("nv_inference_compute_infer_duration_us", model=model) / 1000 / settings.sweep_requests)
for extra_client in pool:
    extra_client.close()


def middle(values):
    """Median and half the range, as text."""
    values = list(values)
    return f"{statistics.median(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


def milliseconds(requests, percent):
    """The latency that `percent` percent of the requests did not exceed."""
    return 1000 * percentile((each.seconds for each in requests), percent)


lab.table(
    [
        tr("model", "模型"), tr("concurrency", "並行數"), tr("requests per second", "每秒請求數"), tr("p50, ms", "p50（ms）"), tr("p95, ms", "p95（ms）"),
        tr("in the queue, ms", "佇列中（ms）"), tr("in the model, ms", "模型中（ms）"), tr("throughput × latency", "吞吐量 × 延遲"),
    ],
    [
        (
            model, level, middle(throughput(one) for one in found), *(middle(milliseconds(one, percent) for one in found) for percent in (50, 95)),
            middle(queued[model][level]), middle(computed[model][level]),
            f"{statistics.median(throughput(one) * statistics.fmean(each.seconds for each in one) for one in found):.2f}",
        )
        for model, by_level in measured.items()
        for level, found in by_level.items()
    ],
)  # fmt: skip

# %%
figure, (left, right) = subplots(ncols=2, figsize=(8.6, 3.4))
for model, by_level in measured.items():
    left.plot(settings.sweep, [statistics.median(throughput(one) for one in found) for found in by_level.values()], label=model)
    right.plot(settings.sweep, [statistics.median(milliseconds(one, 95) for one in found) for found in by_level.values()], label=model)
for axes, label in ((left, tr("requests per second", "每秒請求數")), (right, tr("p95 latency (ms)", "p95 延遲（ms）"))):
    axes.set(xlabel=tr("concurrency", "並行數"), ylabel=label, xticks=settings.sweep, ylim=(0, None))
left.legend()
lab.figure(
    "load",
    figure,
    Text(
        en="Throughput and 95th percentile of the latency over concurrency, medians.",
        zh_tw="吞吐量與延遲的第 95 百分位數隨並行數的變化，取中位數。",
    ),
)
least, most = settings.sweep[0], settings.sweep[-1]
gain = {
    model: statistics.median(throughput(one) for one in by_level[most]) / statistics.median(throughput(one) for one in by_level[least])
    for model, by_level in measured.items()
}
waiting = {model: statistics.median(queued[model][most]) for model in models}
lab.say(
    f"From {least} to {most} clients throughput grows {gain['tiny']:.1f} times without batching and "
    f"{gain['tiny_batched']:.1f} times with it. With {most} clients a request waits {waiting['tiny']:.0f} ms in the queue "
    f"of `tiny`, {waiting['tiny_batched']:.0f} ms in that of `tiny_batched`. A service has a limit on latency: "
    f"read off the concurrency at which p95 crosses yours, and that throughput is the capacity.",
    f"從 {least} 個用戶端到 {most} 個，沒有批次時吞吐量成長為 {gain['tiny']:.1f} 倍，有批次時為 {gain['tiny_batched']:.1f} 倍。"
    f"{most} 個用戶端時，一個請求在 `tiny` 的佇列裡等 {waiting['tiny']:.0f} ms，在 `tiny_batched` 的佇列裡等 {waiting['tiny_batched']:.0f} ms。"
    f"服務對延遲有上限：看 p95 在哪個並行數超過你的上限，那裡的吞吐量就是容量。",
)

# %% [markdown] lang="en"
# NVIDIA's own tool for this is `perf_analyzer`, a program of the SDK container. It is not in the course's environments (the package of that name on PyPI holds no program); where there is one, it runs here.

# %% [markdown] lang="zh-TW"
# NVIDIA 自己的工具是 `perf_analyzer`，放在 SDK 容器裡。課程的環境裡沒有它（PyPI 上同名的套件裡沒有程式）；找得到的話，這裡就會執行。

# %%
with (places.IMAGES / "versions.toml").open("rb") as file:
    image = tomllib.load(file)["images"]["bases"]["triton"]["tag"]
request_file = perf_analyzer.write_data(lab.artifact("perf-analyzer-request.json"), request)
typed = perf_analyzer.command("tiny_batched", request_file, f"127.0.0.1:{server.ports['grpc']}", most, settings.sweep_requests)
output = perf_analyzer.run(typed, seconds=60.0)
if output is None:
    there = ["docker run --rm --net=host", f"-v {request_file.parent}:{request_file.parent}:ro", f"{image}-sdk"]
    print(" \\\n  ".join([*there, " ".join(typed)]))
    lab.say(
        "There is no `perf_analyzer` on this machine; above is what one would type.", "這台機器上沒有 `perf_analyzer`；上面是要輸入的指令。"
    )
else:
    print(output)

# %% [markdown] lang="en"
# ## Other backends
#
# The Python backend runs any Python. The others run a *file*: TorchScript, ONNX, a TensorRT engine, or a model for vLLM. What a client sends stays the same; `config.pbtxt` and the file in the version directory change. **This server has the Python backend alone, so these are written and checked, and not run.** What can be checked without them is the form: Triton's own schema, and a few rules of each backend. The control has a Triton batcher before vLLM, which batches by itself.

# %% [markdown] lang="zh-TW"
# ## 其他 backend
#
# Python backend 能跑任何 Python 程式，其他的跑的則是一個*檔案*：TorchScript、ONNX、TensorRT engine，或是給 vLLM 的模型。用戶端送的東西不變，變的是 `config.pbtxt` 與版本目錄裡的檔案。**這台伺服器只有 Python backend，所以下面的設定只寫出來、檢查過，沒有執行。** 沒有那些 backend 也能檢查的是格式：Triton 自己的 schema，以及各個 backend 的幾條規則。對照組在 vLLM 前面放了 Triton 的批次器，但 vLLM 自己就會組批次。

# %%
elsewhere = lab.artifact("other-backends")
written = {other.model.name: write_other(elsewhere, other) for other in OTHERS}
problems = {name: form_problems(directory) for name, directory in written.items()}
vllm = written["tiny_vllm"]
text = (vllm / "config.pbtxt").read_text(encoding="utf-8")
(vllm / "config.pbtxt").write_text(text.replace("max_batch_size: 0", "max_batch_size: 8") + "dynamic_batching { }\n", encoding="utf-8")
spoiled = form_problems(vllm)
(vllm / "config.pbtxt").write_text(text, encoding="utf-8")
lab.record("backend_forms_wrong", sum(map(len, problems.values())))
lab.record("backend_forms_wrong", len(spoiled), variant="batcher_before_vllm")
# What a linter must refuse, and the naming rules of TorchScript's tensors in particular: number them all, or name none by number.
assert not names_fit(["features", "INPUT__1"], ["scores__0"]) and not names_fit(["features"], ["scores"])
lab.source(names_fit)


def words_of_the_server(other):
    """What this server says to a model for another backend."""
    write_other(repository, other)
    try:
        client.load_model(other.model.name)
    except REFUSED as refusal:
        return str(refusal).rpartition("UNAVAILABLE state: ")[2].strip().rstrip(";")
    return "loaded"


said = {other.model.name: words_of_the_server(other) for other in OTHERS}
print((vllm / "config.pbtxt").read_text(encoding="utf-8"))
print((vllm / "1" / "model.json").read_text(encoding="utf-8"))
lab.table(
    [tr("model", "模型"), tr("backend", "backend"), tr("its file", "它的檔案"), tr("form", "格式"), tr("this server says", "這台伺服器說")],
    [
        (
            other.model.name,
            f"[{other.model.backend}]({other.source})",
            f"`1/{other.file}`",
            "; ".join(problems[other.model.name]) or "-",
            f"`{said[other.model.name][:90]}`",
        )
        for other in OTHERS
    ],
)

# %% [markdown] lang="en"
# The Python models of this lab need nothing but their directory. In NVIDIA's container the same repository is served like this (the container has no PyTorch and Transformers: the course's serving image adds them; the vLLM backend comes in a variant of the container, `-vllm-python-py3`):

# %% [markdown] lang="zh-TW"
# 這個實驗的 Python 模型只需要它們的目錄。在 NVIDIA 的容器裡，同一個儲存庫這樣部署（該容器沒有 PyTorch 與 Transformers，課程的部署映像檔會加進去；vLLM backend 在容器的另一個版本裡：`-vllm-python-py3`）：

# %%
published = " ".join(f"-p 127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002))  # on the machine itself; inside, on all interfaces
mounts = f"-v {repository}:/models:ro -v {checkpoint}:{checkpoint}:ro"
print(
    " \\\n  ".join(
        [
            "docker run --rm --init --shm-size=1g --stop-timeout=60",
            published,
            mounts,
            image,
            "tritonserver --model-repository=/models",
            *lab_server.OPTIONS,
        ]
    )
)

# %% [markdown] lang="en"
# ## `kill -9`
#
# Now the server dies: at once, with requests under way, as in a crash or when memory runs out. Two sets of clients are asking. The careful ones ask again, on a new connection, what got no answer; that is safe, because inference changes nothing. The careless ones take an exception for done. Some requests that sleep are in flight too, and nobody asks those again.
#
# A new server starts on the same ports. What will be missing in each ledger? Write `answers_missing = ...` for the careful clients into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## `kill -9`
#
# 現在讓伺服器當掉：毫無預警，請求還處理到一半，就像程式崩潰或記憶體用完的時候。有兩組用戶端在送請求。謹慎的那組，沒得到答案就換一條連線再送一次；這樣做是安全的，因為推論不會改變任何東西。粗心的那組，把例外當成完成。另外還有幾個 sleep 中的請求也在處理，沒有人會重送它們。
#
# 新的伺服器在同樣的連接埠啟動。兩份紀錄各會少了什麼？把謹慎那組的 `answers_missing = ...` 寫進 `predictions.toml`。

# %%
choices = [np.array([[begin_of_text, *range(300 + number, 308 + number)]], dtype=np.int64) for number in range(8)]
right = [infer(client, "tiny_batched", request | {"input_ids": ids})["output_ids"][0].tolist() for ids in choices]
client.close()
answered = []


def ask(own, number):
    """One of the eight prompts; the first wrong answer would show in the ledger."""
    outputs = infer(own, "tiny_batched", request | {"input_ids": choices[number % len(choices)]}, client_timeout=20.0)
    answered.append(time.monotonic())
    return outputs["output_ids"][0].tolist()


def missing(ledger, requests):
    """Requests without the right answer."""
    return sum(ledger.answers.get(number) != right[number % len(right)] for number in range(requests))


def sleep_on(server):
    """A request that takes a while: whether it was answered."""
    with closing(over_grpc(server)) as own:
        try:
            infer(own, "timed", {"milliseconds": np.array([[settings.in_flight_milliseconds]], dtype=np.int32)}, client_timeout=30.0)
            return True
        except REFUSED:
            return False


def waiting_for(server, model):
    """How many requests wait in the queue of a model, says the server."""
    return total(parse_metrics(fetch_metrics(server)), "nv_inference_pending_request_count", model=model)


def in_flight_on(server, background):
    """Requests that take a while, as soon as all have arrived: each instance has one, and the server says that the others wait."""
    sent = [background.submit(sleep_on, server) for _ in range(settings.in_flight)]
    others = settings.in_flight - timed.instances
    until(
        lambda: waiting_for(server, "timed") >= others or all(done.done() for done in sent),
        seconds=settings.patience,
        what=f"{others} requests wait",
        pause=0.02,
    )
    return sent


def alive_answers(server):
    """Whether the server on these ports gives the right answer to a prompt, now."""
    with closing(over_grpc(server)) as own:
        try:
            return (
                infer(own, "tiny_batched", request | {"input_ids": choices[0]}, client_timeout=20.0)["output_ids"][0].tolist() == right[0]
            )
        except REFUSED:
            return False


directory = record_of_server.parent
with ThreadPoolExecutor(8) as background:
    careful = background.submit(
        ask_until_answered,
        lambda: over_grpc(server),
        ask,
        settings.restart_requests,
        clients=settings.restart_clients,
        patience=settings.patience,
    )
    careless = background.submit(
        ask_until_answered, lambda: over_grpc(server), ask, settings.restart_requests, clients=settings.restart_clients, patience=0
    )
    quarter = settings.restart_requests // 4
    until(lambda: len(answered) >= quarter or careful.done(), seconds=settings.patience, what=f"{quarter} answers", pause=0.02)
    sleeping = in_flight_on(server, background)
    regions_before = len(lab_server.regions(directory))
    server.kill()
    while_dead, left_over = alive_answers(server), lab_server.regions(directory)
    for region in left_over:  # nobody else will
        region.unlink()
    restarted = lab_server.start(repository, directory, ports=server.ports, options=("--load-model=tiny_batched", "--load-model=timed"))
    restarted.save(record_of_server)
    after_restart = alive_answers(restarted)
    ledgers = {"careful": careful.result(), "careless": careless.result()}
    killed_in_flight = [done.result() for done in sleeping]
outage = max(after - before for before, after in pairwise(sorted(answered)))  # the longest silence
lab.record("answers_missing", missing(ledgers["careful"], settings.restart_requests))
lab.record("answers_missing", missing(ledgers["careless"], settings.restart_requests), variant="exception_taken_for_done")
lab.record("answers_after_restart", after_restart)
lab.record("answers_after_restart", while_dead, variant="not_restarted")
lab.table(
    [
        tr("clients", "用戶端"),
        tr("requests", "請求"),
        tr("failed attempts", "失敗次數"),
        tr("right answers", "正確答案"),
        tr("missing", "缺少"),
    ],
    [
        (
            name,
            settings.restart_requests,
            len(ledger.failures),
            settings.restart_requests - missing(ledger, settings.restart_requests),
            missing(ledger, settings.restart_requests),
        )
        for name, ledger in zip((tr("careful", "謹慎"), tr("careless", "粗心")), ledgers.values(), strict=True)
    ],
)
guess = lab.predict("answers_missing")
lab.say(
    f"The clients were without answers for {outage:.1f} seconds: until the new server had imported PyTorch and loaded the "
    f"model again. The careful ones miss {missing(ledgers['careful'], settings.restart_requests)} answers in the "
    f"end{'' if guess is None else f' (you guessed {guess:.0f})'}, the careless ones "
    f"{missing(ledgers['careless'], settings.restart_requests)}. Of the sleeping requests {sum(killed_in_flight)} of "
    f"{len(killed_in_flight)} were answered. And the dead server left {len(left_over)} of its {regions_before} regions in "
    f"shared memory behind: on a machine without containers, they stay until somebody removes them.",
    f"用戶端有 {outage:.1f} 秒得不到答案：要等新的伺服器匯入 PyTorch、重新載入模型。謹慎的那組最後缺 {missing(ledgers['careful'], settings.restart_requests)} "
    f"個答案{'' if guess is None else f'（你猜 {guess:.0f} 個）'}，粗心的那組缺 {missing(ledgers['careless'], settings.restart_requests)} "
    f"個。sleep 中的 {len(killed_in_flight)} 個請求，有 {sum(killed_in_flight)} 個得到回答。"
    f"當掉的伺服器在共享記憶體裡原有 {regions_before} 個區段，留下了 {len(left_over)} 個：沒有用容器的機器上，它們會一直留著，直到有人清掉。",
)

# %% [markdown] lang="en"
# ## An orderly end
#
# SIGTERM is the other way to go. Triton takes no new requests, finishes what it has, queue included, unloads its models, and ends; at the latest after `--exit-timeout-secs` (30 by default). Whoever stops it must be more patient than that: `docker stop` waits 10 seconds unless told otherwise, Kubernetes 30. Requests are in flight when the signal comes, more of them than instances, so that some wait in the queue.

# %% [markdown] lang="zh-TW"
# ## 正常關閉
#
# 另一種停掉它的方式是 SIGTERM。Triton 不再接受新的請求，把手上的做完（佇列裡的也算），卸載模型，然後結束；最遲不超過 `--exit-timeout-secs`（預設 30 秒）。負責停掉它的一方，要等得比這更久：`docker stop` 預設只等 10 秒，Kubernetes 等 30 秒。訊號來的時候，還沒處理完的請求比 instance 還多，所以有些在佇列裡等。

# %%
with ThreadPoolExecutor(settings.in_flight + 1) as background:
    in_flight = in_flight_on(restarted, background)
    began = time.monotonic()
    stopping = background.submit(restarted.stop)
    time.sleep(settings.in_flight_milliseconds / 3000)
    late = sleep_on(restarted)
    finished = [done.result() for done in in_flight]
    stopping.result()
took, regions_left = time.monotonic() - began, len(lab_server.regions(directory))
lab.record("in_flight_lost", finished.count(False))
lab.record("in_flight_lost", killed_in_flight.count(False), variant="killed")
lab.record("regions_left", regions_left)
lab.record("regions_left", len(left_over), variant="killed")
lab.table(
    [
        tr("end", "結束方式"),
        tr("in flight", "處理中的請求"),
        tr("answered", "得到回答"),
        tr("regions left in shared memory", "共享記憶體裡留下的區段"),
    ],
    [
        ("kill -9", len(killed_in_flight), killed_in_flight.count(True), len(left_over)),
        ("SIGTERM", len(finished), finished.count(True), regions_left),
    ],
)
lab.say(
    f"After SIGTERM {finished.count(True)} of {len(finished)} requests in flight were answered; "
    f"a request that came later was {'answered' if late else 'refused'}; the server had ended after {took:.1f} seconds. "
    f"Connections that clients keep open, even idle ones, count as well: the server waits for them, so close them.",
    f"SIGTERM 之後，處理中的 {len(finished)} 個請求有 {finished.count(True)} 個得到回答；之後才來的請求{'得到回答' if late else '被拒絕'}；"
    f"{took:.1f} 秒後伺服器結束。用戶端一直開著的連線，就算閒著，也算在內：伺服器會等它們，所以請記得關閉。",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- The counters agree with the clients for everything that reached a model, and know nothing of \
{sum(sent.values()) - succeeded - failed:.0f} of {sum(sent.values())} requests.
- Batching raised what {most} clients get through from \
{statistics.median(throughput(one) for one in measured["tiny"][most]):.0f} to \
{statistics.median(throughput(one) for one in measured["tiny_batched"][most]):.0f} requests per second.
- After `kill -9` the server was back on its ports, and clients that ask again had \
{settings.restart_requests - missing(ledgers["careful"], settings.restart_requests)} of {settings.restart_requests} \
answers; those that do not, {settings.restart_requests - missing(ledgers["careless"], settings.restart_requests)}.
- An orderly end lost {finished.count(False)} requests and left {regions_left} regions behind, the crash \
{killed_in_flight.count(False)} and {len(left_over)}.""",
    f"""- 只要到達模型的請求，計數器都與用戶端一致；{sum(sent.values())} 個請求裡，有 {sum(sent.values()) - succeeded - failed:.0f} 個完全沒算到。
- 批次讓 {most} 個用戶端的吞吐量從每秒 {statistics.median(throughput(one) for one in measured["tiny"][most]):.0f} 個請求變成 \
{statistics.median(throughput(one) for one in measured["tiny_batched"][most]):.0f} 個。
- `kill -9` 之後，伺服器在原來的連接埠回來了；會重送的用戶端拿到 {settings.restart_requests} 個答案中的 \
{settings.restart_requests - missing(ledgers["careful"], settings.restart_requests)} 個，不會的拿到 \
{settings.restart_requests - missing(ledgers["careless"], settings.restart_requests)} 個。
- 正常關閉丟了 {finished.count(False)} 個請求、留下 {regions_left} 個區段；當機則是 {killed_in_flight.count(False)} 個與 {len(left_over)} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of this scale
#
# - Clients, server and models share the same cores here. Where the curve bends says something about this machine, not about Triton; in earnest the load comes from another machine.
# - PyTorch, ONNX Runtime, TensorRT and vLLM backends were written and **not run**: that takes NVIDIA's container, and for TensorRT and vLLM a GPU. GPU memory, several GPUs per model, and what a batch saves on one are not to be seen here either.
# - A closed loop hides overload, because it asks less when the server is slow. Requests of real users arrive whether the server is ready or not (open loop, lab 2.6).
# - One server that restarts is away for seconds. Nobody notices if there is a second one: replicas behind a gateway are lab 2.6.
#
# **Exercise.** 9 (`server_metrics.py`: read the metrics) belongs here: `nox -s check -- lab-2.2-triton-server`.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 用戶端、伺服器與模型在這裡共用同樣的核心。曲線在哪裡轉彎，反映的是這台機器，不是 Triton；真的要測，負載得從另一台機器來。
# - PyTorch、ONNX Runtime、TensorRT 與 vLLM backend 只寫出設定，**沒有執行**：那需要 NVIDIA 的容器，TensorRT 與 vLLM 還需要 GPU。GPU 記憶體、一個模型用多張 GPU、批次在 GPU 上能省多少，這裡也都看不到。
# - 閉迴路會掩蓋過載，因為伺服器一慢，它就送得少。真實使用者的請求不管伺服器準備好了沒都會來（開迴路，實驗 2.6）。
# - 只有一台伺服器，重新啟動就會中斷好幾秒。有第二台的話就沒有人會察覺：閘道後面的多個副本是實驗 2.6 的主題。
#
# **練習。** 練習 9（`server_metrics.py`：讀取指標）屬於這一本：`nox -s check -- lab-2.2-triton-server`。
