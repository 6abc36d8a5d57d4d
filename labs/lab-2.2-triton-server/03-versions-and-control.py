# %% [markdown] lang="en"
# # 3. Versions and control
#
# **Question.** A new version of a model is ready. Who gets it, when, and how does nobody notice the change? And what does a server have to know about its callers to keep them apart?
#
# | | |
# |---|---|
# | You build | version policies, a router that deals users to two versions and always deals them the same way, an update under load, a limit on what runs at once, a model that remembers each of its callers |
# | You write | exercises 5 and 6 (`versions.py`), 7 (`tab_model.py`) and 8 (`load_generator.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory |
# | You should see | which versions are served; how far shares are from their weights; what an update costs the clients, done in two ways; how many executions run at once; each table's own bill |

# %% [markdown] lang="zh-TW"
# # 3. 版本與控制
#
# **問題。** 模型的新版本準備好了。誰會用到？什麼時候換？怎樣換才不會有人察覺？伺服器又得知道呼叫者的哪些事，才不會把他們搞混？
#
# | | |
# |---|---|
# | 你會做出 | 版本政策、把使用者分到兩個版本而且每次都分得一樣的路由、在負載下更新、同時執行數量的上限、記得每位呼叫者的模型 |
# | 你要寫的 | 練習 5、6（`versions.py`）、7（`tab_model.py`）、8（`load_generator.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體 |
# | 你應該看到 | 哪些版本在提供服務；各版本的比例與權重差多少；用兩種做法更新，各讓用戶端付出什麼代價；同時執行幾個；每一桌自己的帳單 |

# %%
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import lab_server
import lesson_models
import outside_the_server  # noqa: F401 -- so that a model's code can be shown here
from inference_client import REFUSED, counts, infer, over_grpc, over_http
from lab_server import closing
from lesson_models import LIMITED, SEQUENCES
from load_generator import most_at_once
from model_repository import write_model
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import COLORS, subplots
from onepiece.serving import servers
from onepiece.serving.load import closed_loop_in_threads
from tab_model import add_to_tab
from versions import Policy, choose_version, policy_text, served_versions

settings = lab.settings
repository, record_of_server = lab.artifact("repository"), lab.artifact("server.json")
server = servers.shared(record_of_server, lambda: lab_server.start(repository, record_of_server.parent))
client, statistics_client = over_grpc(server), over_http(server)
random = np.random.default_rng(settings.seed)


def some_weights():
    """A matrix for the model `linear`, (features, scores)."""
    return random.normal(size=(lesson_models.FEATURES, lesson_models.SCORES)).astype(np.float32)


# %% [markdown] lang="en"
# ## Which versions are served?
#
# Versions 1, 2 and 10 lie in the directory. Which of them the server makes ready is said by `version_policy`: the `latest` so many (the default: 1), `specific` ones, or `all`. Before you run the cell: what is the latest of 1, 2 and 10, and what happens to a version that is named and does not exist?

# %% [markdown] lang="zh-TW"
# ## 提供哪些版本？
#
# 目錄裡有版本 1、2、10。伺服器讓哪些版本就緒，由 `version_policy` 決定：最新的幾個 `latest`（預設 1 個）、指定的 `specific`，或全部 `all`。執行之前先想：1、2、10 之中最新的是哪一個？指定了卻不存在的版本又會怎樣？

# %%
available = {1: some_weights(), 2: some_weights(), 10: some_weights()}
policies = {
    "latest_1": Policy(latest=1),
    "latest_2": Policy(latest=2),
    "specific": Policy(specific=(1, 2)),
    "specific_99": Policy(specific=(1, 99)),
    "all_versions": Policy(all=True),
}
for name, policy in policies.items():
    versions = {version: {"weights": weights} for version, weights in available.items()}
    write_model(repository, lesson_models.linear(name, more=policy_text(policy)), "linear_model", versions)
with ThreadPoolExecutor(settings.parallel_loads) as pool:
    list(pool.map(lambda name: lab_server.ensure_loaded(server, name), policies))
states = lab_server.index(server)
ready = {name: sorted(int(version) for version, state in states[name].items() if state == "READY") for name in policies}
predicted = {name: served_versions(policy, tuple(available)) for name, policy in policies.items()}
lab.record("policies_mispredicted", sum(ready[name] != predicted[name] for name in policies))
lab.record("policies_mispredicted", sum(ready[name] != sorted(available) for name in policies), variant="everything_is_served")
lab.table(
    [tr("policy", "政策"), tr("predicted", "預測"), tr("ready", "就緒")],
    [(f"`{policy_text(policy)}`", predicted[name], ready[name]) for name, policy in policies.items()],
)

# %% [markdown] lang="en"
# A request may name a version; otherwise it gets the highest number that is ready. The control forgets to name it.

# %% [markdown] lang="zh-TW"
# 請求可以指明版本；沒指明就拿到就緒版本中號碼最大的。對照組忘了指明。

# %%
features = random.normal(size=(1, lesson_models.FEATURES)).astype(np.float32)
named = {version: infer(client, "all_versions", {"features": features}, version=str(version))["scores"] for version in available}
unnamed = infer(client, "all_versions", {"features": features})["scores"]
wanted = {version: features @ weights for version, weights in available.items()}
lab.record("versions_mixed_up", sum(not np.allclose(named[version], wanted[version], atol=1e-5) for version in available))
lab.record(
    "versions_mixed_up", sum(not np.allclose(unnamed, wanted[version], atol=1e-5) for version in available), variant="version_not_named"
)
lab.table(
    [tr("version", "版本"), tr("named", "指明"), tr("not named", "未指明"), tr("here", "本機")],
    [
        (version, *(", ".join(f"{score:.3f}" for score in scores[0]) for scores in (named[version], unnamed, wanted[version])))
        for version in available
    ],
)

# %% [markdown] lang="en"
# ## A and B
#
# Triton serves two versions; *who* gets which is decided before it. A fifth of the users shall get version 2, and each user always the same one: an experiment in which people change sides measures nothing. So the choice must depend on the user alone: on a hash. The server's own statistics say how the requests were dealt.
#
# How far may the share be from the weight? With $n$ users and weight $p$ chance alone moves it by about $\sqrt{p(1-p)/n}$; beyond 3.3 of these it is one in a thousand. The control has the weights wrong.

# %% [markdown] lang="zh-TW"
# ## A 與 B
#
# Triton 同時提供兩個版本；*誰*拿到哪一個，在它之前就決定了。五分之一的使用者要用版本 2，而且每個使用者永遠用同一個：參加者會換組的實驗，什麼都量不出來。所以分組只能取決於使用者是誰：用雜湊。請求實際上怎麼分，看伺服器自己的統計。
#
# 比例可以跟權重差多少？$n$ 個使用者、權重 $p$，光是隨機就會讓它偏離大約 $\sqrt{p(1-p)/n}$；偏離超過這個值的 3.3 倍，機率是千分之一。對照組的權重是錯的。

# %%
lab.source(choose_version)
users = [f"user-{number}" for number in range(settings.users)]
weights_of = {1: 1 - settings.treated_share, 2: settings.treated_share}
router_clients = [over_grpc(server) for _ in range(4)]


def dealt(choose):
    """The share of requests that version 2 got, as the server counted them; a request per user."""
    before = {version: counts(statistics_client, "all_versions", str(version))["requests"] for version in (1, 2)}

    def ask(client, number):
        version = choose(users[number])
        scores = infer(client, "all_versions", {"features": features}, version=str(version))["scores"]
        assert np.allclose(scores, wanted[version], atol=1e-5)

    closed_loop_in_threads(router_clients, ask, len(users))
    got = {version: counts(statistics_client, "all_versions", str(version))["requests"] - before[version] for version in (1, 2)}
    return got[2] / sum(got.values())


error = math.sqrt(settings.treated_share * (1 - settings.treated_share) / len(users))
share = dealt(lambda user: choose_version(user, weights_of, "spring"))
wrong_share = dealt(lambda user: choose_version(user, {1: 1.0, 2: 1.0}, "spring"))
lab.record("share_in_standard_errors", abs(share - settings.treated_share) / error)
lab.record("share_in_standard_errors", abs(wrong_share - settings.treated_share) / error, variant="equal_weights")
lab.record("share_in_standard_errors", settings.treated_share / error, variant="nobody")  # a router that never gives version 2
for extra_client in router_clients:
    extra_client.close()

# %% [markdown] lang="en"
# And is it the same tomorrow, on another machine? A fresh process deals the same users again. The control uses Python's own `hash()`, which is salted anew in each process: a favourite mistake, because it passes every test within one process.

# %% [markdown] lang="zh-TW"
# 那明天、在另一台機器上，還會一樣嗎？用一個全新的行程再分一次同樣的使用者。對照組用 Python 內建的 `hash()`，它在每個行程裡都會重新加鹽：這是很常見的錯誤，因為在同一個行程裡怎麼測都會過。

# %%
ELSEWHERE = """
import json, sys
from versions import choose_version
users, weights = json.load(sys.stdin)
weights = {int(version): weight for version, weight in weights.items()}
by_hash = [2 if hash(user) % 1000 < 1000 * weights[2] else 1 for user in users]
print(json.dumps([[choose_version(user, weights, "spring") for user in users], by_hash]))
"""
done = subprocess.run(
    [sys.executable, "-c", ELSEWHERE],
    input=json.dumps([users, weights_of]),
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},  # the salt of another day
    capture_output=True, text=True, check=True,
)  # fmt: skip
tomorrow, tomorrow_by_hash = json.loads(done.stdout)
today = [choose_version(user, weights_of, "spring") for user in users]
today_by_hash = [2 if hash(user) % 1000 < 1000 * weights_of[2] else 1 for user in users]
moved = sum(one != other for one, other in zip(today, tomorrow, strict=True))
moved_by_hash = sum(one != other for one, other in zip(today_by_hash, tomorrow_by_hash, strict=True))
ramped = [choose_version(user, {1: 0.5, 2: 0.5}, "spring") for user in users]
back = sum(before == 2 and after == 1 for before, after in zip(today, ramped, strict=True))
lab.record("users_moved", moved)
lab.record("users_moved", moved_by_hash, variant="builtin_hash")
lab.say(
    f"Version 2 got {share:.1%} of {len(users):,} requests for a weight of {settings.treated_share:.0%}: "
    f"{abs(share - settings.treated_share) / error:.1f} standard errors. "
    f"With equal weights it would be {wrong_share:.1%}, {abs(wrong_share - settings.treated_share) / error:.0f} of them. "
    f"In another process {moved} users changed sides, with `hash()` {moved_by_hash}. "
    f"And when the share is raised from {settings.treated_share:.0%} to 50%, {back} of the users who had version 2 lose it.",
    f"權重 {settings.treated_share:.0%}，{len(users):,} 個請求中版本 2 拿到 {share:.1%}：相差 "
    f"{abs(share - settings.treated_share) / error:.1f} 個標準誤。如果權重相等，會是 {wrong_share:.1%}，差 "
    f"{abs(wrong_share - settings.treated_share) / error:.0f} 個。換一個行程，有 {moved} 個使用者換組；用 `hash()` 則有 {moved_by_hash} 個。"
    f"把比例從 {settings.treated_share:.0%} 調高到 50% 時，原本用版本 2 的使用者，有 {back} 個會失去它。",
)

# %% [markdown] lang="en"
# ## Load, unload, update
#
# In explicit mode models come and go by request. What is unloaded is not ready, and answers with an error.

# %% [markdown] lang="zh-TW"
# ## 載入、卸載、更新
#
# explicit 模式下，要有人要求，模型才會載入或卸載。卸載之後就不是就緒狀態，對它送請求只會得到錯誤。

# %%
loaded = client.is_model_ready("latest_2")
client.unload_model("latest_2")
unloaded = client.is_model_ready("latest_2")
try:
    infer(client, "latest_2", {"features": features})
    words = "an answer"
except REFUSED as refusal:
    words = str(refusal)
print(words)
lab.record("ready_after_unload", unloaded)
lab.record("ready_after_unload", loaded, variant="still_loaded")
for name in ("latest_1", "specific", "specific_99"):
    client.unload_model(name)

# %% [markdown] lang="en"
# Now an update while clients keep asking. Version 2 is put beside version 1, and the model is loaded again: Triton keeps the old version until the new one is ready. The control does it by hand, unload and then load. How many requests fail in each? Write `failed_during_update = ...` into `predictions.toml` for the first.

# %% [markdown] lang="zh-TW"
# 接著，在用戶端不停送請求的時候更新。把版本 2 放到版本 1 旁邊，再載入一次：新版本就緒之前，Triton 會保留舊的。對照組改成手動：先卸載再載入。兩種做法各有幾個請求失敗？把第一種的 `failed_during_update = ...` 寫進 `predictions.toml`。

# %%
old, new = available[1], available[2]


def update_under_load(name, update):
    """Ask without a pause while `update` runs: how many answers came from each version, and how many requests failed."""
    directory = write_model(repository, lesson_models.linear(name), "linear_model", {1: {"weights": old}})
    lab_server.ensure_loaded(server, name)
    seen, finished = {"old": 0, "new": 0, "failed": 0}, threading.Event()

    def keep_asking():
        with closing(over_grpc(server)) as own:
            while not finished.is_set():
                try:
                    scores = infer(own, name, {"features": features})["scores"]
                    seen["old" if np.allclose(scores, features @ old, atol=1e-5) else "new"] += 1
                except REFUSED:
                    seen["failed"] += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    (directory / "2").mkdir()
    (directory / "2" / "model.py").write_bytes((directory / "1" / "model.py").read_bytes())
    np.save(directory / "2" / "weights.npy", new)
    update(name)
    finished.wait(0.3)
    finished.set()
    asking.join()
    assert np.allclose(infer(client, name, {"features": features})["scores"], features @ new, atol=1e-5), "the new version must be there"
    client.unload_model(name)
    return seen


def unload_first(name):
    client.unload_model(name)
    client.load_model(name)


updates = {"load": update_under_load("updated", client.load_model), "unload, load": update_under_load("replaced", unload_first)}
lab.record("failed_during_update", updates["load"]["failed"])
lab.record("failed_during_update", updates["unload, load"]["failed"], variant="unload_first")
guess = lab.predict("failed_during_update")
lab.table(
    [tr("update", "更新方式"), tr("answers of the old version", "舊版本的回答"), tr("of the new", "新版本的回答"), tr("failed", "失敗")],
    [(name, seen["old"], seen["new"], seen["failed"]) for name, seen in updates.items()],
)
lab.say(
    f"{updates['load']['failed']} requests failed in the update by "
    f"`load`{'' if guess is None else f' (you guessed {guess:.0f})'}, {updates['unload, load']['failed']} when it was "
    f"unloaded first. The price: for a moment both versions are in memory.",
    f"用 `load` 更新，失敗了 {updates['load']['failed']} 個請求{'' if guess is None else f'（你猜 {guess:.0f} 個）'}；"
    f"先卸載的話，失敗 {updates['unload, load']['failed']} 個。代價是：有一小段時間，兩個版本都在記憶體裡。",
)

# %% [markdown] lang="en"
# ## How much at once?
#
# Instances are copies of a model that run side by side. A machine with several models has a budget that no single one of them knows. The *rate limiter* does: the server has so many `slots` (an option at the start), each execution names what it needs, and waits until that is free. The model here only sleeps, and says from when to when.

# %% [markdown] lang="zh-TW"
# ## 同時跑多少？
#
# instance 是同一個模型同時執行的副本。機器上有好幾個模型時，沒有任何一個模型知道整台機器的額度有多少。*rate limiter* 知道：伺服器有幾個 `slots`（啟動時的選項），每次執行都寫明需要多少，等到有空才開始。這裡的模型只會 sleep，並回報從何時到何時。

# %%
write_model(repository, lesson_models.timed("free", instances=settings.instances), "timed_model")
write_model(repository, lesson_models.timed("limited", instances=settings.instances, limit=LIMITED), "timed_model")
lab_server.ensure_loaded(server, "free", "limited")
slots = int(next(option for option in lab_server.OPTIONS if "slots" in option).rpartition(":")[2])


def spans_of(model):
    """When each execution began and ended, in milliseconds after the first began; as many clients as requests."""
    asking = [over_grpc(server) for _ in range(settings.timed_requests)]
    sleep, spans = np.array([[settings.timed_milliseconds]], dtype=np.int32), []

    def ask(client, number):
        outputs = infer(client, model, {"milliseconds": sleep})
        spans.append((int(outputs["began"][0, 0]), int(outputs["ended"][0, 0])))

    closed_loop_in_threads(asking, ask, settings.timed_requests)
    for one in asking:
        one.close()
    first = min(began for began, _ in spans)
    return sorted(((began - first) / 1e6, (ended - first) / 1e6) for began, ended in spans)


spans = {model: spans_of(model) for model in ("free", "limited")}
together = {model: most_at_once(found) for model, found in spans.items()}
lab.record("running_at_once", together["limited"])
lab.record("running_at_once", together["free"], variant="no_limit")
figure, axes = subplots(ncols=2, figsize=(7.2, 2.8), sharex=True, sharey=True)
for axis, (model, found), colour in zip(axes, spans.items(), COLORS.values(), strict=False):
    for row, (began, ended) in enumerate(found):
        axis.barh(row, ended - began, left=began, color=colour)
    axis.set(title=model, xlabel=tr("milliseconds", "毫秒"), ylabel=tr("request", "請求") if model == "free" else "", yticks=[])
lab.figure(
    "rate-limit",
    figure,
    Text(
        en="When each request was executed, with as many instances in both models; right, with a rate limit.",
        zh_tw="每個請求的執行時段，兩個模型的 instance 數相同；右邊有 rate limit。",
    ),
)
lab.say(
    f"With {settings.instances} instances and no limit {together['free']} requests ran at once; "
    f"with {slots} slots {together['limited']}. The other instances are loaded, take memory, and wait.",
    f"{settings.instances} 個 instance、沒有限制時，同時執行 {together['free']} 個請求；{slots} 個 slot 時是 {together['limited']} 個。其他 instance 都載入了、占著記憶體，卻只能等。",
)
for model in spans:
    client.unload_model(model)

# %% [markdown] lang="en"
# ## A model that remembers
#
# Some models have a state: a conversation, a tracked object, the tab of a table in a restaurant. Requests of one *sequence* carry the same number; the sequence batcher sends them to the same instance, one after the other, and tells the model where a sequence begins and ends. Here all tables order at the same time, and the model has two instances. The control is the same code without a sequence batcher.

# %% [markdown] lang="zh-TW"
# ## 有記憶的模型
#
# 有些模型有狀態：一段對話、一個追蹤中的物體、餐廳裡一桌的帳單。同一個*序列*的請求帶著相同的編號；sequence batcher 會把它們依序送到同一個 instance，並告訴模型序列從哪裡開始、到哪裡結束。這裡每一桌同時在點菜，模型有兩個 instance。對照組是同樣的程式碼，但沒有 sequence batcher。

# %%
lab.source(add_to_tab)
write_model(repository, lesson_models.tab("tab", instances=2, more=SEQUENCES), "tab_model")
write_model(repository, lesson_models.tab("one_for_all", instances=1), "tab_model")
lab_server.ensure_loaded(server, "tab", "one_for_all")
orders = random.integers(1, 20, (settings.tables, settings.rounds)).astype(np.float32)  # (tables, rounds)
bills = orders.cumsum(axis=1)


def totals_of(model):
    """(tables, rounds): what each table was told after each of its orders; tables take turns."""
    totals = np.zeros_like(orders)
    for turn in range(settings.rounds):
        for table in range(settings.tables):
            place = {"sequence_id": table + 1, "sequence_start": turn == 0, "sequence_end": turn == settings.rounds - 1}
            totals[table, turn] = infer(client, model, {"amount": orders[table : table + 1, turn : turn + 1]}, **place)["total"][0, 0]
    return totals


totals = {model: totals_of(model) for model in ("tab", "one_for_all")}
again = totals_of("tab")  # other guests at the same tables: nothing may be left of the first
wrong = {
    "tab": int((totals["tab"] != bills).sum()) + int((again != bills).sum()),
    "one_for_all": int((totals["one_for_all"] != bills).sum()),
}
lab.record("totals_wrong", wrong["tab"])
lab.record("totals_wrong", wrong["one_for_all"], variant="no_sequences")
lab.table(
    [tr("table", "桌號"), tr("orders", "點的"), tr("right totals", "正確的累計"), "tab", "one_for_all"],
    [
        (table + 1, *(row[table].astype(int).tolist() for row in (orders, bills, totals["tab"], totals["one_for_all"])))
        for table in range(min(3, settings.tables))
    ],
)
try:
    infer(client, "tab", {"amount": orders[:1, :1]}, sequence_id=99)
    words = "an answer"
except REFUSED as refusal:
    words = str(refusal)
lab.say(
    f"With sequences {wrong['tab']} of {2 * bills.size} totals were wrong (two evenings), without {wrong['one_for_all']} of "
    f"{bills.size}. Whoever goes on with a sequence that the server does not know hears: `{words}`.",
    f"有序列時，{2 * bills.size} 個累計（兩個晚上）錯了 {wrong['tab']} 個；沒有時，{bills.size} 個錯了 {wrong['one_for_all']} 個。拿伺服器不認得的序列接著問，會收到：`{words}`。",
)
for model in (*totals, "all_versions"):
    client.unload_model(model)
client.close()
statistics_client.close()

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- {sum(ready[name] == predicted[name] for name in policies)} of {len(policies)} policies served the versions that were predicted.
- {share:.1%} of the users got version 2, always the same ones: {moved} moved.
- The update lost {updates["load"]["failed"]} requests, unloading first {updates["unload, load"]["failed"]}.
- At most {together["limited"]} requests ran at once where {slots} were allowed, {together["free"]} without a limit.
- {2 * bills.size - wrong["tab"]} of {2 * bills.size} totals were right with sequences, {bills.size - wrong["one_for_all"]} of {bills.size} without.""",
    f"""- {len(policies)} 個政策裡，有 {sum(ready[name] == predicted[name] for name in policies)} 個提供的版本與預測相同。
- {share:.1%} 的使用者拿到版本 2，而且永遠是同一群：換組的有 {moved} 個。
- 用 `load` 更新，失敗了 {updates["load"]["failed"]} 個請求；先卸載則失敗 {updates["unload, load"]["failed"]} 個。
- 上限 {slots} 個時，同時執行最多 {together["limited"]} 個；沒有限制時是 {together["free"]} 個。
- 有序列時，{2 * bills.size} 個累計對了 {2 * bills.size - wrong["tab"]} 個；沒有時，{bills.size} 個對了 {bills.size - wrong["one_for_all"]} 個。""",
)

# %% [markdown] lang="en"
# ## Limits of this scale
#
# - These versions differ by a matrix of eight numbers. With a language model an update holds two of them in memory at once: on a GPU that is often what does not fit.
# - The state of a sequence lives in one process. It is gone when that process ends (notebook 4 kills one), and a second server behind a load balancer does not have it: sequences need the same server each time.
# - That two versions differ in an A/B test is a question of statistics, not of routing. Routing only makes the question possible.
#
# **Exercises.** 5 and 6 (`versions.py`: policies, routing), 7 (`tab_model.py`: state) and 8 (`load_generator.py`: how much at once) belong here: `nox -s check -- lab-2.2-triton-server`.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的版本只差一個八個數字的矩陣。換成語言模型，更新時記憶體裡會同時有兩個：在 GPU 上，放不下的往往就是這個。
# - 序列的狀態存在某一個行程裡。行程結束就沒了（第 4 本會強制終止一個）；負載平衡器後面的第二台伺服器也沒有它：序列每次都要回到同一台伺服器。
# - A/B 測試裡兩個版本是否真的不同，是統計的問題，不是路由的問題。路由只是讓人有辦法問這個問題。
#
# **練習。** 練習 5 與 6（`versions.py`：政策、路由）、練習 7（`tab_model.py`：狀態）與練習 8（`load_generator.py`：同時多少個）屬於這一本：`nox -s check -- lab-2.2-triton-server`。
