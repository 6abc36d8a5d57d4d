# %% [markdown] lang="en"
# # 1. The model repository, and its mistakes
#
# **Question.** Triton serves a directory. What has to be in it, so that what comes out over the network is what the model computes, and what does the server say when something is wrong?
#
# | | |
# |---|---|
# | You build | the writer of `config.pbtxt`, a NumPy model, the real language model in the Python backend, and a function that knows the server's verdict beforehand |
# | You write | exercises 1 (`model_repository.py`), 2 (`diagnosis.py`) and 3 (`language_model.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory |
# | You should see | tokens and logits over HTTP and gRPC beside those of Transformers; twenty-two repositories, what the diagnosis said of each, and what the server did with it; how many mistakes it does *not* notice, and one that it never answers |

# %% [markdown] lang="zh-TW"
# # 1. 模型儲存庫，以及它的各種錯誤
#
# **問題。** Triton 部署的是一個目錄。裡面要放什麼，網路上拿到的才會是模型算出來的結果？有東西不對的時候，伺服器又會怎麼說？
#
# | | |
# |---|---|
# | 你會做出 | `config.pbtxt` 的產生器、一個 NumPy 模型、放進 Python backend 的真實語言模型，以及事先就能知道伺服器會怎麼判定的函式 |
# | 你要寫的 | 練習 1（`model_repository.py`）、2（`diagnosis.py`）、3（`language_model.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體 |
# | 你應該看到 | 透過 HTTP 與 gRPC 拿到的 token 與 logits，和 Transformers 的結果並列；二十二個儲存庫，診斷怎麼說、伺服器怎麼做；有幾個錯誤伺服器*不會*發現，以及一個它永遠不會回應的錯誤 |

# %%
import json
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import lab_server
import lesson_models
import outside_the_server  # noqa: F401 -- so that a model's code can be shown here
from broken_repositories import MISTAKES, make
from diagnosis import SERVED, diagnose, read_config, read_verdict, undeclared
from inference_client import REFUSED, infer, over_grpc, over_http
from lab_server import closing
from language_model import TritonPythonModel
from model_repository import config_text, lesson_file, write_model
from onepiece import lab, world
from onepiece.course.text import tr
from onepiece.models import load_model
from onepiece.serving import servers

settings = lab.settings
torch.set_num_threads(1)
checkpoint = lesson_models.checkpoint_directory(settings)
repository = lab.artifact("repository")
repository.mkdir(exist_ok=True)
random = np.random.default_rng(settings.seed)

# %% [markdown] lang="en"
# ## A directory per model
#
# A repository holds one directory per model; in it stand `config.pbtxt` and one directory per version, whose name is a number. For the Python backend a version holds `model.py`, and whatever that reads. The first model is as small as a model can be: four features, two scores, and a matrix beside the code.

# %% [markdown] lang="zh-TW"
# ## 一個模型一個目錄
#
# 儲存庫裡，每個模型一個目錄；目錄裡有 `config.pbtxt`，以及每個版本各一個以數字命名的目錄。用 Python backend 時，版本目錄裡放 `model.py`，還有它要讀的檔案。第一個模型小到不能再小：四個特徵、兩個分數，程式碼旁邊放一個矩陣。

# %%
weights = random.normal(size=(lesson_models.FEATURES, lesson_models.SCORES)).astype(np.float32)  # (features, scores)
linear = lesson_models.linear()
directory = write_model(repository, linear, "linear_model", {1: {"weights": weights}})
print("\n".join(str(path.relative_to(repository)) for path in sorted(directory.rglob("*"))))
print()
print(config_text(linear))

# %% [markdown] lang="en"
# `dims: [ 4 ]` speaks of one row, without the batch: with `max_batch_size: 8` the server puts a batch dimension before it, and may join requests. `kind: KIND_CPU` is explicit, because the default takes a GPU wherever the server sees one; written out, the same directory runs in NVIDIA's container too.
#
# The code is a class with two methods. `execute` gets a *list* of requests: whatever the server decided to run together.

# %% [markdown] lang="zh-TW"
# `dims: [ 4 ]` 描述的是一列，不含批次：`max_batch_size: 8` 時，伺服器會在前面加上批次維度，也可以把幾個請求合併。`kind: KIND_CPU` 要寫明，因為預設是「看得到 GPU 就用」；寫明了，同一個目錄在 NVIDIA 的容器裡也能跑。
#
# 程式碼是一個有兩個方法的類別。`execute` 拿到的是請求的*串列*：伺服器決定一起執行的那些請求。

# %%
print(lesson_file("linear_model").read_text(encoding="utf-8").partition("class ")[2])

# %% [markdown] lang="en"
# ## Start the server, load the model
#
# It starts with `--model-control-mode=explicit`: nothing is loaded until someone asks for it. So the server is there at once, and a broken model harms nobody but itself. All notebooks of this lab share this one server.

# %% [markdown] lang="zh-TW"
# ## 啟動伺服器，載入模型
#
# 啟動時加上 `--model-control-mode=explicit`：沒有人要求就什麼都不載入。所以伺服器馬上就能用，有錯的模型也只會影響它自己。這個實驗的所有筆記本共用這一台伺服器。

# %%
record_of_server = lab.artifact("server.json")
server = servers.shared(record_of_server, lambda: lab_server.start(repository, record_of_server.parent))
print(" ".join(part.rpartition("/")[2] for part in server.command[:1]), *lab_server.OPTIONS, sep="\n  ")
lab_server.ensure_loaded(server, "linear")
print(lab_server.index(server))
with closing(over_grpc(server)) as client:
    running = client.get_server_metadata().version
lab.say(
    f"This is Triton {running}, as it says itself. Each release of NVIDIA's container has one: "
    f"2.51.0 is about that of release 24.10, and there are newer ones. What you read here was seen with this one; "
    f"a newer server may word its errors in another way, and do more.",
    f"伺服器回報自己是 Triton {running}。NVIDIA 每一版容器都有對應的版本：2.51.0 大約對應 24.10 版，之後還有更新的。這裡寫的都是在這個版本看到的；較新的伺服器，錯誤訊息的用字可能不同，功能也可能更多。",
)

# %% [markdown] lang="en"
# Over HTTP a request is JSON, in the protocol that KServe and Triton share: a name, a shape, a type and the numbers. Over gRPC the same content travels in binary. Both must give $x W$.

# %% [markdown] lang="zh-TW"
# 透過 HTTP，請求就是 JSON，用的是 KServe 與 Triton 共通的協定：名稱、形狀、型別，以及數字。透過 gRPC，同樣的內容以二進位傳送。兩者的結果都必須是 $x W$。

# %%
features = random.normal(size=(3, lesson_models.FEATURES)).astype(np.float32)  # (batch, features)
body = {"inputs": [{"name": "features", "shape": list(features.shape), "datatype": "FP32", "data": features.ravel().tolist()}]}
request = urllib.request.Request(f"{server.url}/v2/models/linear/infer", data=json.dumps(body).encode())
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
    answer = json.load(reply)
print("POST /v2/models/linear/infer")
print(json.dumps(body)[:160], "...")
print(json.dumps(answer))
with closing(over_grpc(server)) as client:
    by_grpc = infer(client, "linear", {"features": features})["scores"]
by_http = np.array(answer["outputs"][0]["data"], dtype=np.float32).reshape(by_grpc.shape)
largest = max(float(np.abs(scores - features @ weights).max()) for scores in (by_http, by_grpc))
lab.say(
    f"Both protocols agree with NumPy here in this notebook: the largest difference is {largest:.1e}.",
    f"兩種協定的結果都與這本筆記本裡用 NumPy 算的一致：最大差異是 {largest:.1e}。",
)

# %% [markdown] lang="en"
# ## A real language model
#
# Now the model that the course serves everywhere: `tiny` on a CPU, a Qwen on a GPU. `model.py` holds PyTorch and Transformers; the checkpoint is named in `config.pbtxt`. Token ids go in, because a server that tokenises decides *how*, and that is a step of its own (notebook 2). Out come the greedy continuation, and the logits of its first token.

# %% [markdown] lang="zh-TW"
# ## 真正的語言模型
#
# 接下來是整個課程都會部署的模型：CPU 上是 `tiny`，GPU 上是 Qwen。`model.py` 裡是 PyTorch 與 Transformers；checkpoint 的路徑寫在 `config.pbtxt`。輸入是 token id，因為伺服器一旦負責分詞，就等於替你決定*怎麼*分詞，那是另一個步驟（第 2 本筆記本）。輸出是以貪婪解碼接下去的 token，以及其中第一個 token 的 logits。

# %%
write_model(repository, lesson_models.language_model("tiny", checkpoint, kind=settings.kind), "language_model")
print((repository / "tiny" / "config.pbtxt").read_text(encoding="utf-8"))
lab_server.ensure_loaded(server, "tiny")
lab.source(TritonPythonModel.execute)

# %%
prompts = [
    item.prompt
    for family in settings.families
    for item in world.items(family, settings.prompts_per_family, settings.seed, "held-out", "en", distinct=True)
]
model, tokenizer = load_model(checkpoint, device=settings.device, dtype=settings.dtype)
other, _ = load_model(settings.other_model, device=settings.device, dtype=settings.dtype)
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


@torch.inference_mode()
def local(model, ids):
    """What Transformers makes of one prompt in this process: new token ids, and the logits of the first."""
    inputs = torch.from_numpy(ids).to(model.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sampling settings that greedy decoding does not use
        new = model.generate(inputs, attention_mask=torch.ones_like(inputs), **GREEDY, max_new_tokens=settings.max_tokens)
    return new[0, ids.shape[1] :].tolist(), model(inputs).logits[0, -1].float().cpu().numpy()


def served(client, ids):
    """The same from the server."""
    limit = np.array([[settings.max_tokens]], dtype=np.int32)
    outputs = infer(client, "tiny", {"input_ids": ids, "max_tokens": limit})
    return outputs["output_ids"][0].tolist(), outputs["logits"][0]


encoded = [np.array([tokenizer(prompt)["input_ids"]], dtype=np.int64) for prompt in prompts]  # (1, length) each
cut = [ids[:, 1:] for ids in encoded]  # a client that drops the first token: here, the one that begins a text
expected = [local(model, ids) for ids in encoded]
with closing(over_http(server)) as http, closing(over_grpc(server)) as grpc:
    answers = {"HTTP": [served(http, ids) for ids in encoded], "gRPC": [served(grpc, ids) for ids in encoded]}
    wrong_preprocessing = [served(grpc, ids) for ids in cut]


def differing(got):
    """How many prompts have other tokens than here."""
    return sum(tokens != wanted for (tokens, _), (wanted, _) in zip(got, expected, strict=True))


def distance(got, wanted):
    """Largest difference of a logit, relative to the largest logit."""
    return max(float(np.abs(one - two).max() / np.abs(two).max()) for (_, one), (_, two) in zip(got, wanted, strict=True))


other_checkpoint = [local(other, ids % other.config.vocab_size) for ids in encoded]
logit_difference = max(distance(got, expected) for got in answers.values())
comparable = other.config.vocab_size == model.config.vocab_size
lab.record("tokens_served_differently", sum(differing(got) for got in answers.values()))
lab.record("tokens_served_differently", differing(wrong_preprocessing), variant="first_token_dropped")
common = max((tokens for tokens, _ in expected), key=[tokens for tokens, _ in expected].count)
constant = [(common, np.mean([logits for _, logits in expected], axis=0))] * len(expected)  # a server that says the same to everybody
lab.record("tokens_served_differently", differing(constant), variant="constant")
lab.record("logit_difference", logit_difference)
lab.record("logit_difference", distance(constant, expected), variant="constant")
lab.record("logit_difference", distance(wrong_preprocessing, expected), variant="first_token_dropped")
if comparable:
    lab.record("logit_difference", distance(other_checkpoint, expected), variant="other_checkpoint")
lab.table(
    [tr("prompt", "提示"), tr("served", "伺服器"), tr("here", "本機"), tr("first token dropped", "漏掉第一個 token")],
    [
        (
            f"`{prompt.splitlines()[-1][-40:]}`",
            *(f"`{tokenizer.decode(tokens, skip_special_tokens=True).strip()[:24]}`" for tokens, _ in row),
        )
        for prompt, *row in list(zip(prompts, answers["HTTP"], expected, wrong_preprocessing, strict=True))[:: settings.prompts_per_family]
    ],
)

# %%
lab.say(
    f"""Of {len(prompts)} prompts, {differing(answers["HTTP"])} have other tokens over HTTP than here, and \
{differing(answers["gRPC"])} over gRPC; the logits differ by {logit_difference:.1e} (relative). \
If the client drops one token of the prompt, {differing(wrong_preprocessing)} answers \
change{"" if not comparable else f", and with the checkpoint {settings.other_model} in its place the logits differ by {distance(other_checkpoint, expected):.2g}"}.
The server did nothing wrong in either case, and says nothing: that the *right* numbers come out has to be tested against a local run.""",
    f"""{len(prompts)} 個提示裡，HTTP 有 {differing(answers["HTTP"])} 個的 token 與本機不同，gRPC 有 {differing(answers["gRPC"])} 個；\
logits 相差 {logit_difference:.1e}（相對值）。用戶端如果漏掉提示的一個 token，有 {differing(wrong_preprocessing)} \
個答案會變{"" if not comparable else f"；要是換成 {settings.other_model} 這個 checkpoint，logits 會差 {distance(other_checkpoint, expected):.2g}"}。
這兩種情況，伺服器都沒有出錯，也不會示警：輸出的數字*對不對*，要跟本機的執行結果比對過才知道。""",
)

# %% [markdown] lang="en"
# ## Twenty-one mistakes
#
# Each directory below has one mistake (the first has none). `diagnose` reads the directory and the request that a client will send, and says what the server is going to do: refuse to load the model, refuse the request, or serve. Before you run the cell, go through the list yourself. How many of the broken ones does the server *serve*, as if nothing were wrong? Write `served_although_broken = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 二十一個錯誤
#
# 下面每個目錄都有一個錯誤（第一個沒有）。`diagnose` 讀取目錄與用戶端將要送出的請求，判斷伺服器會怎麼做：拒絕載入模型、拒絕請求，或者照常回答。執行之前，先自己看過一遍。有錯的目錄之中，有幾個伺服器會*照常回答*，好像什麼事都沒有？把 `served_although_broken = ...` 寫進 `predictions.toml`。

# %%
predicted = {mistake.name: diagnose(make(mistake, repository, weights), mistake.request) for mistake in MISTAKES}


def ask_the_server(mistake):
    """What the server really does: its answer, or its own words. Why it could not read a directory, only its log says."""
    with closing(over_grpc(server)) as client:
        try:
            client.load_model(mistake.name)
            return infer(client, mistake.name, mistake.request.inputs)
        except REFUSED as error:
            words = str(error)
        finally:
            if client.is_model_ready(mistake.name):
                client.unload_model(mistake.name)
    if "failed to poll" in words:
        lines = server.log.read_text(encoding="utf-8").splitlines()
        words = next((line.partition("] ")[2] for line in reversed(lines) if f"model directory '{mistake.name}'" in line), words)
    return words


def shortened(words):
    """The end of the server's first line, which is where the reason stands."""
    line = words.replace(str(repository), "...").strip().splitlines()[0].removesuffix(";")
    for before in (
        "UNAVAILABLE state: ",
        "<id_unknown>] ",
        "INVALID_ARGUMENT] ",
        "Poll failed for model directory ",
        "load failed for model ",
    ):
        line = line.rpartition(before)[2]
    return line.partition(" NOTE:")[0].strip('" ').replace("|", "/")[:120]


with ThreadPoolExecutor(settings.parallel_loads) as pool:
    said = dict(zip((mistake.name for mistake in MISTAKES), pool.map(ask_the_server, MISTAKES), strict=True))
real = {name: read_verdict(words) if isinstance(words, str) else SERVED for name, words in said.items()}
lab.record("verdicts_missed", sum(predicted[name] != real[name] for name in real))
lab.record("verdicts_missed", sum(verdict != SERVED for verdict in real.values()), variant="yes_to_all")
lab.table(
    [tr("mistake", "錯誤"), tr("diagnosed", "診斷"), tr("the server", "伺服器"), tr("in its own words", "伺服器的原文")],
    [
        (
            f"{mistake.name}: {mistake.what}",
            predicted[mistake.name],
            real[mistake.name] if real[mistake.name] == predicted[mistake.name] else f"**{real[mistake.name]}**",
            "" if not isinstance(said[mistake.name], str) else f"`{shortened(said[mistake.name])}`",
        )
        for mistake in MISTAKES
    ],
)

# %%
for line in server.log.read_text(encoding="utf-8", errors="replace").splitlines():
    if "Error parsing text-format" in line:  # line and column of config.pbtxt, in the log alone
        print(line.rpartition("ModelConfig: ")[2] if "ModelConfig: " in line else line)

# %% [markdown] lang="en"
# Two things stand out. First, when the server cannot read a directory, the client is told only that it "failed to poll": the reason is in the server's log, with line and column. Second, some broken models are *served*. The configuration declares outputs, but the server does not hold the answer of a Python model against it. A client or a test has to:

# %% [markdown] lang="zh-TW"
# 有兩件事值得注意。第一，伺服器讀不懂目錄時，用戶端只會收到「failed to poll」，原因在伺服器的日誌裡，連第幾行第幾欄都有。第二，有些有錯的模型，伺服器*照常回答*。設定宣告了輸出，但伺服器不會拿 Python 模型的答案去比對。這要靠用戶端或測試：

# %%
wrong_answers = {
    name: undeclared(read_config(repository / name), outputs) for name, outputs in said.items() if not isinstance(outputs, str)
}
unnoticed = {name: problems for name, problems in wrong_answers.items() if problems}
guess = lab.predict("served_although_broken")
lab.record("served_although_broken", len(unnoticed))
lab.table(
    [tr("served", "照常回答"), tr("what the answer lacks", "答案哪裡不對")],
    [(name, "; ".join(problems) or "-") for name, problems in wrong_answers.items()],
)
lab.say(
    f"The diagnosis was right for {sum(predicted[name] == real[name] for name in real)} of {len(real)} directories; "
    f"a linter that approves of everything would be wrong for {sum(verdict != SERVED for verdict in real.values())}. "
    f"The server served {len(unnoticed)} broken models without a "
    f"word{'' if guess is None else f' (you guessed {guess:.0f})'}.",
    f"{len(real)} 個目錄裡，診斷對了 {sum(predicted[name] == real[name] for name in real)} 個；"
    f"一個什麼都放行的檢查工具會錯 {sum(verdict != SERVED for verdict in real.values())} 個。"
    f"有 {len(unnoticed)} 個有錯的模型，伺服器照常回答，沒有任何警告{'' if guess is None else f'（你猜 {guess:.0f} 個）'}。",
)

# %% [markdown] lang="en"
# ## The mistake without an answer
#
# A version directory without `model.py` is not in the list. It needs a server of its own, which is thrown away afterwards: see what the client gets.

# %% [markdown] lang="zh-TW"
# ## 等不到回應的錯誤
#
# 版本目錄裡少了 `model.py` 的情況不在上面的清單裡。它需要一台用完就丟的伺服器：看看用戶端會拿到什麼。

# %%
elsewhere = lab.artifact("hanging")
write_model(elsewhere / "repository", lesson_models.linear("empty"), "linear_model")
(elsewhere / "repository" / "empty" / "1" / "model.py").unlink()
lonely = lab_server.start(elsewhere / "repository", elsewhere)
try:
    with closing(over_grpc(lonely)) as client:
        client.load_model("empty", client_timeout=settings.hang_seconds)
    outcome = "loaded"
except REFUSED as error:
    outcome = str(error)
finally:
    lonely.kill()  # asked to end in order, it would wait for the model that never comes
    for region in lab_server.regions(elsewhere):
        region.unlink()
reason = [line.partition("] ")[2] for line in lonely.log.read_text(encoding="utf-8").splitlines() if "model file not found" in line]
print("client:", outcome)
print("log:   ", *(line.strip().replace(str(elsewhere), "...") for line in reason))
lab.say(
    f"After {settings.hang_seconds:.0f} seconds the client gave up: `{outcome}`. The log knew at once. "
    f"In this version of the server the process that hosts the code ends, and the load waits for it: "
    f"give every call to a server a time limit.",
    f"{settings.hang_seconds:.0f} 秒後，用戶端放棄了：`{outcome}`。日誌裡馬上就有原因。在這個版本的伺服器裡，執行程式碼的行程已經結束，載入卻還在等它：對伺服器的每次呼叫都要設時限。",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- Over both protocols, {len(prompts) - max(differing(got) for got in answers.values())} of {len(prompts)} answers of \
the language model are equal to the local ones, token by token; logits differ by {logit_difference:.1e}.
- Of {len(MISTAKES) - 1} mistakes the server refused {sum(verdict != SERVED for verdict in real.values())}, served \
{len(unnoticed)} wrongly, and \
{len(MISTAKES) - 1 - sum(verdict != SERVED for verdict in real.values()) - len(unnoticed)} was none: \
an optional input may be missing.
- What is wrong with a repository can be known before a server is started: \
{len(real) - sum(predicted[name] != real[name] for name in real)} of {len(real)} verdicts were.""",
    f"""- 兩種協定下，語言模型的 {len(prompts)} 個答案有 {len(prompts) - max(differing(got) for got in answers.values())} 個與本機逐 token 相同；logits 相差 {logit_difference:.1e}。
- {len(MISTAKES) - 1} 個錯誤裡，伺服器拒絕了 {sum(verdict != SERVED for verdict in real.values())} 個，照常回答、結果卻是錯的有 {len(unnoticed)} 個，\
還有 {len(MISTAKES) - 1 - sum(verdict != SERVED for verdict in real.values()) - len(unnoticed)} 個其實沒錯：optional 的輸入可以不送。
- 儲存庫哪裡不對，啟動伺服器之前就能知道：{len(real)} 個判定裡，事先說中了 {len(real) - sum(predicted[name] != real[name] for name in real)} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of this scale
#
# - This server has the Python backend alone. Others read the model's file and complete or contradict the configuration: ONNX Runtime and TensorRT know the names and shapes of their tensors, and would notice the output mistakes that passed here.
# - The words are those of this server's version. Whoever reads errors by pattern, as `read_verdict` does, must test it again with each new version.
# - `verdicts_missed` speaks of these mistakes, not of all. A model that loads, answers, and means something else is found by no configuration check.
#
# **Exercises.** 1 (`model_repository.py`: an entry of `config.pbtxt`), 2 (`diagnosis.py`: the verdict on a request) and 3 (`language_model.py`: join and split a batch) belong here: `nox -s check -- lab-2.2-triton-server`.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這台伺服器只有 Python backend。其他的 backend 會讀模型檔案，補上設定，或指出設定與檔案不符：ONNX Runtime 與 TensorRT 知道張量的名稱與形狀，這裡放行的輸出錯誤，它們會發現。
# - 這些訊息出自這個版本的伺服器。像 `read_verdict` 這樣靠比對文字來判讀錯誤，每換一個版本就要重新測試。
# - `verdicts_missed` 只涵蓋這裡的錯誤，不是全部。載入得了、也會回答、但算的不是你要的東西，這種模型任何設定檢查都找不到。
#
# **練習。** 練習 1（`model_repository.py`：`config.pbtxt` 的一個項目）、練習 2（`diagnosis.py`：對請求的判定）與練習 3（`language_model.py`：合併與拆開批次）屬於這一本：`nox -s check -- lab-2.2-triton-server`。
