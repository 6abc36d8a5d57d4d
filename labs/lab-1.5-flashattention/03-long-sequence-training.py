# %% [markdown] lang="en"
# # 3. Training on long sequences
#
# **Question.** Exactness of one call is one thing. Does a whole model learn the same with tiled attention, and does it learn where naive
# attention cannot run at all?
#
# | | |
# |---|---|
# | You build | a small language model that is handed its attention, trained on the sources of the Python standard library, three times; then a training run under a memory budget that the operating system enforces |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | loss curves that cannot be told apart; one wrong mask that looks like progress; naive attention refused at a length where tiled attention trains |

# %% [markdown] lang="zh-TW"
# # 3. 長序列訓練
#
# **問題。** 單次呼叫精確是一回事。整個模型用分塊注意力，學到的東西會一樣嗎？在樸素注意力根本跑不動的長度，它還能學嗎？
#
# | | |
# |---|---|
# | 你會做出 | 一個可以更換注意力的小型語言模型，用 Python 標準函式庫的原始碼，分別以三種注意力各訓練一次；再做一次受記憶體預算限制的訓練，由作業系統強制執行 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 分不出彼此的損失曲線；一個看起來像進步的錯誤遮罩；在分塊注意力還能訓練的長度，樸素注意力被拒絕 |

# %%
import functools

import numpy as np
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from broken_variants import broken_attention
from flash_attention import flash_attention, naive_attention
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import subplots
from onepiece.measure import MemoryBudgetExceeded, memory_budget, peak_memory
from small_transformer import ModelConfig, build_model, sample_batch, stdlib_corpus, train_steps

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one

# %% [markdown] lang="en"
# ## Real text that everyone has
#
# No download: the text is Python's own standard library, read as bytes. Two marks to measure a loss by: guessing blindly, and a model that
# only knows how often each byte occurs. To beat the second one, a model must look at the context.

# %% [markdown] lang="zh-TW"
# ## 人人都有的真實文字
#
# 不必下載：文字就是 Python 自己的標準函式庫，逐位元組讀取。有兩個基準可以衡量損失：瞎猜，以及只知道每個位元組出現頻率的模型。
# 要贏過後者，就一定得看上下文。

# %%
corpus = stdlib_corpus(settings.corpus_bytes)
print(bytes(corpus[:400].tolist()).decode("utf-8", errors="replace"))
frequencies = torch.bincount(corpus.long(), minlength=256) / corpus.numel()
byte_entropy = torch.special.entr(frequencies).sum().item()
lab.say(
    f"{corpus.numel():,} bytes. Guessing blindly costs ln 256 = {np.log(256):.2f} nats per byte; knowing the frequencies costs {byte_entropy:.2f}.",
    f"共 {corpus.numel():,} 個位元組。瞎猜的損失是 ln 256 = {np.log(256):.2f} nats／位元組；知道頻率的話是 {byte_entropy:.2f}。",
)

# %% [markdown] lang="en"
# ## The model takes its attention as an argument
#
# `small_transformer.py` is a Llama in small: RMSNorm, rotary positions, SwiGLU, grouped heads. Equal seeds give equal weights and equal
# batches, whatever the attention. Everything here is float32, so that differences mean something.

# %% [markdown] lang="zh-TW"
# ## 模型的注意力是一個參數
#
# `small_transformer.py` 是縮小版的 Llama：RMSNorm、旋轉位置編碼、SwiGLU、分組的 head。種子相同，權重和批次就相同，
# 跟用哪一種注意力無關。這裡全部用 float32，差異才有意義。

# %%
config = ModelConfig()


def sdpa(queries, keys, values, *, causal):
    keys, values = (tensor.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1) for tensor in (keys, values))  # kv_heads -> heads
    return scaled_dot_product_attention(queries, keys, values, is_causal=causal)


attentions = {
    "naive": naive_attention,
    "tiled": flash_attention,
    "sdpa": sdpa,
    "off_by_one": functools.partial(broken_attention, mistake="causal_off_by_one", block_keys=settings.seq),
}


def train(attention, seed, *, steps, batch, seq):
    """The losses of one training run, in nats per byte."""
    model = build_model(config, attention, seed=seed, device=settings.device)
    return list(train_steps(model, corpus, steps=steps, batch=batch, seq=seq, seed=seed))


parameters = sum(parameter.numel() for parameter in build_model(config, naive_attention, seed=0).parameters())
print(config, tr(f"{parameters:,} parameters", f"{parameters:,} 個參數"), sep="\n")

# %% [markdown] lang="en"
# ## Predict
#
# We train the same model with naive and with tiled attention. How far apart are the two loss curves, at the worst step? Write
# `loss_difference = ...` into `predictions.toml`.
#
# The fourth run has a mistake: its mask lets each position see *one* token too many. What will that do to its loss?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 用樸素注意力和分塊注意力訓練同一個模型。兩條損失曲線在差最多的那一步，差多少？把 `loss_difference = ...` 寫進 `predictions.toml`。
#
# 第四次訓練有一個錯誤：它的遮罩讓每個位置*多看到一個* token。這對它的損失會有什麼影響？

# %%
curves = {}  # (attention, seed) -> losses
for seed in lab.progress(settings.seeds):
    for name, attention in attentions.items():
        curves[name, seed] = np.array(train(attention, seed, steps=settings.steps, batch=settings.batch, seq=settings.seq))
    difference = {name: np.abs(curves[name, seed] - curves["naive", seed]).max() for name in attentions}
    lab.record("loss_difference", difference["tiled"], seed=seed)
    lab.record("loss_difference", difference["sdpa"], seed=seed, variant="sdpa")
    lab.record("loss_difference", difference["off_by_one"], seed=seed, variant="causal_off_by_one")

# %%
seed = settings.seeds[0]
figure, (left, right) = subplots(1, 2, figsize=(10.5, 4))
for name, style in (("naive", "-"), ("tiled", "--"), ("sdpa", ":"), ("off_by_one", "-")):
    left.plot(curves[name, seed], linestyle=style, markevery=3, label=name)
left.axhline(byte_entropy, color="black", linestyle=":", marker="", linewidth=1.2)
left.annotate("entropy of the bytes", (0, byte_entropy), textcoords="offset points", xytext=(0, -14))
left.set(xlabel="step", ylabel="loss (nats per byte)")
left.legend()
right.set_prop_cycle(color=["#D55E00", "#009E73", "#CC79A7"], marker=["s", "^", "D"])
for name in ("tiled", "sdpa", "off_by_one"):
    right.semilogy(np.maximum(np.abs(curves[name, seed] - curves["naive", seed]), 1e-8), markevery=3, label=name)
right.set(xlabel="step", ylabel="distance from naive (nats)", title="1e-8 stands for equal")
right.legend()
lab.figure(
    "loss-curves",
    figure,
    Text(
        en="Left: loss curves of the same model with four attentions. Right: their distance from the naive curve.",
        zh_tw="左：同一個模型配上四種注意力的損失曲線。右：它們與樸素版曲線的距離。",
    ),
)

# %%
def final(name):
    """Mean loss of the last five steps, over the seeds."""
    return np.mean([curves[name, seed][-5:].mean() for seed in settings.seeds])


apart = {name: max(np.abs(curves[name, seed] - curves["naive", seed]).max() for seed in settings.seeds) for name in attentions}
guess = lab.predict("loss_difference")
leak = final("naive") - final("off_by_one")
lab.say(
    f"""- After {settings.steps} steps with {len(settings.seeds)} seeds, naive and tiled curves are nowhere more than {apart["tiled"]:.1e} nats apart{"" if guess is None else f" (you guessed {guess:g})"};
  SDPA {apart["sdpa"]:.1e}. The loss of the last five steps is {final("tiled"):.2f}.
- The run with the wrong mask is {apart["off_by_one"]:.2f} away, and ends {abs(leak):.3f} nats {"**lower**. A model that can look up its answer scores better: a leaking mask looks like progress" if leak > 0 else "higher"}.
  Comparing losses finds it; looking at one curve does not.""",
    f"""- {len(settings.seeds)} 個種子各訓練 {settings.steps} 步，樸素版和分塊版的曲線最多只差 {apart["tiled"]:.1e} nats{"" if guess is None else f"（你猜 {guess:g}）"}；SDPA 是 {apart["sdpa"]:.1e}。
  最後五步的損失是 {final("tiled"):.2f}。
- 遮罩錯誤的那次訓練差了 {apart["off_by_one"]:.2f}，最後的損失{"還**低了**" if leak > 0 else "高了"} {abs(leak):.3f} nats。{"能偷看答案的模型分數比較好：會洩漏的遮罩看起來就像進步。" if leak > 0 else ""}
  比較損失才找得到它；只看一條曲線是看不出來的。""",
)

# %% [markdown] lang="en"
# ## A budget
#
# Now the sequences get long and memory is rationed. `memory_budget` sets a limit that holds for this process: on Linux the kernel
# refuses further memory, on a GPU the allocator does. First, what does each attention need? One layer of naive attention holds at least one
# score matrix per head for the backward pass:

# %% [markdown] lang="zh-TW"
# ## 同一份記憶體預算
#
# 接下來序列變長，記憶體要配給。`memory_budget` 設下的限制對這個行程真的有效：在 Linux 上，作業系統核心會拒絕再給記憶體；在 GPU 上，則由配置器拒絕。
# 首先，每一種注意力需要多少？樸素注意力的每一層，至少要為反向傳播留下每個 head 一個分數矩陣：

# %%
budget = settings.budget_mb * 2**20
long = settings.long_seq
matrix = config.heads * long**2 * 4  # bytes of one layer's weights P in float32
tiled = functools.partial(flash_attention, block_queries=settings.long_block, block_keys=settings.long_block)
one_step = {"tiled": peak_memory(lambda: train(tiled, 0, steps=1, batch=1, seq=long), settings.device)}
lab.say(
    f"""At {long:,} tokens the weights of one layer are {config.heads} × {long:,}² × 4 bytes = {matrix / 2**20:.0f} MiB. Naive attention keeps them for each of the {config.layers} layers and needs
the scores beside them. A whole training step with tiled attention, model, optimiser and logits included, peaks at {one_step["tiled"] / 2**20:.0f} MiB. The budget is **{settings.budget_mb} MiB**.""",
    f"""{long:,} 個 token 時，一層的權重是 {config.heads} × {long:,}² × 4 位元組 = {matrix / 2**20:.0f} MiB。樸素注意力的 {config.layers} 層每一層都要留著它，還要另外存放分數。
而分塊注意力的一整個訓練步驟，連模型、最佳化器和 logits 都算進去，峰值是 {one_step["tiled"] / 2**20:.0f} MiB。預算是 **{settings.budget_mb} MiB**。""",
)

# %% [markdown] lang="en"
# Each attention gets the same budget and the same long sequences, and one step:

# %% [markdown] lang="zh-TW"
# 每一種注意力拿到同樣的預算、同樣的長序列，各跑一步：

# %%
def exceeds_budget(attention):
    """Whether one training step at the long length fails under the budget, and the message."""
    try:
        with memory_budget(budget, settings.device):
            train(attention, 0, steps=1, batch=1, seq=long)
    except MemoryBudgetExceeded as error:
        return True, str(error)
    return False, "ok"


candidates = {"naive": naive_attention, "tiled": tiled, "sdpa": sdpa}
for attention in candidates.values():
    train(attention, 0, steps=1, batch=1, seq=64)  # what PyTorch sets up once is not part of the budget
outcome = {name: exceeds_budget(attention) for name, attention in candidates.items()}
lab.record("naive_exceeds_budget", outcome["naive"][0])
lab.record("naive_exceeds_budget", outcome["tiled"][0], variant="tiled")
lab.record("naive_exceeds_budget", outcome["sdpa"][0], variant="sdpa")
lab.table([tr("attention", "注意力"), tr("exceeds the budget", "超出預算"), tr("what PyTorch says", "PyTorch 的訊息")], [[name, *result] for name, result in outcome.items()])

# %% [markdown] lang="en"
# ## Training where naive attention cannot
#
# The budget stays in force for the whole run. Each step is one long piece of text, and some pieces are easier than others; so beside the
# loss we draw what the byte frequencies would lose *on the same piece*.

# %% [markdown] lang="zh-TW"
# ## 在樸素注意力跑不動的地方訓練
#
# 整個訓練期間，預算一直有效。每一步是一段很長的文字，而有些段落比較容易；所以除了損失，我們也畫出只知道位元組頻率的模型，
# 在*同一段文字*上的損失。

# %%
model = build_model(config, tiled, seed=0, device=settings.device)
run = train_steps(model, corpus, steps=settings.long_steps, batch=1, seq=long, seed=0, learning_rate=6e-3)
losses = []
with memory_budget(budget, settings.device):
    for _ in lab.progress(range(settings.long_steps), loss=lambda: losses[-1]):
        losses.append(next(run))

generator = torch.Generator().manual_seed(0)  # the seed of the run: the same pieces again
pieces = [sample_batch(corpus, 1, long, generator) for _ in range(settings.long_steps)]
by_frequency = [-frequencies[targets].log().mean().item() for _, targets in pieces]

figure, axes = subplots()
axes.plot(losses, color="#D55E00", marker="s", label=f"tiled, {long:,} tokens")
axes.plot(by_frequency, color="black", linestyle=":", marker="", label="byte frequencies, same text")
axes.set(xlabel="step", ylabel="loss (nats per byte)")
axes.xaxis.get_major_locator().set_params(integer=True)
axes.legend()
lab.figure(
    "long-training",
    figure,
    Text(
        en="Training with tiled attention at a length where naive attention exceeds the memory budget.",
        zh_tw="在樸素注意力會超出記憶體預算的長度，用分塊注意力訓練。",
    ),
)

# %% [markdown] lang="en"
# Did the loss fall because the model learned, or because the last pieces are easy? An untrained model on the last pieces tells:

# %% [markdown] lang="zh-TW"
# 損失下降，是因為模型學會了，還是因為最後幾段文字比較容易？拿沒訓練過的模型跑最後幾段就知道：

# %%
fresh = build_model(config, sdpa, seed=0, device=settings.device)
with torch.no_grad():
    untrained = [cross_entropy(fresh(tokens.to(settings.device))[0], targets[0].to(settings.device)).item() for tokens, targets in pieces[-3:]]

last = np.mean(losses[-3:])
lab.record("long_loss_fall", losses[0] - last)
lab.record("long_loss_fall", losses[0] - np.mean(untrained), variant="untrained")
gain = np.mean(np.array(by_frequency[-5:]) - losses[-5:])
lab.say(
    f"""- {long:,} tokens, a budget of {settings.budget_mb} MiB: naive attention is {"refused" if outcome["naive"][0] else "not refused"}; tiled attention trains, from {losses[0]:.2f} to {last:.2f} nats per byte in {len(losses)} steps.
  On the same last pieces an untrained model has {np.mean(untrained):.2f}.
- Over the last five steps the model is {abs(gain):.2f} nats per byte {"better" if gain > 0 else "worse"} than the byte frequencies: {"it has begun to use what stands nearby" if gain > 0.05 else "so far it has learned hardly more than these"}.
- The budget is {budget / one_step["tiled"]:.1f} times what a tiled step needs. For naive attention each further layer would add at least {matrix / 2**20:.0f} MiB.""",
    f"""- {long:,} 個 token、預算 {settings.budget_mb} MiB：樸素注意力{"被拒絕" if outcome["naive"][0] else "沒有被拒絕"}；分塊注意力可以訓練，{len(losses)} 步之內從 {losses[0]:.2f} 降到 {last:.2f} nats／位元組。
  在同樣的最後幾段文字上，沒訓練過的模型是 {np.mean(untrained):.2f}。
- 最後五步，模型比位元組頻率{"好" if gain > 0 else "差"} {abs(gain):.2f} nats／位元組：{"它開始運用鄰近的上下文了" if gain > 0.05 else "到目前為止，學到的幾乎就只有頻率"}。
- 預算是分塊版一步所需的 {budget / one_step["tiled"]:.1f} 倍。樸素注意力則是每多一層，至少再多 {matrix / 2**20:.0f} MiB。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - A few dozen steps teach a model which bytes are frequent, and a little of which follow which. They do not teach it to *use* a long context: that needs long-range
#   structure, many more steps and more layers. What is shown here is that the training runs and is exact.
# - Equal losses are shown where both fit. Where naive attention does not fit there is nothing to compare with; that is what the exactness tests
#   of notebook 2 are for.
# - Other things grow with the length too. Here the logits (length × vocabulary) and the feed-forward activations are the largest; with a real
#   vocabulary the logits are often the next wall after attention.
# - On macOS and Windows the operating system offers no such limit for a process; there the budget is kept by adding up tensors.
#
# **Exercises.** This notebook uses all of 1 to 5: with `nox -s lab-1.5-flashattention -- --mine` it trains on *your* attention.
# `nox -s check -- lab-1.5-flashattention` says which are still open.

# %% [markdown] lang="zh-TW"
# ## 玩具規模的限制
#
# - 幾十步的訓練，教會模型的是哪些位元組常出現，以及一點點哪個後面常接哪個。它教不會模型*運用*長上下文：那需要長距離的結構、多得多的步數和更多層。
#   這裡證明的是：訓練跑得動，而且精確。
# - 損失相等，是在兩者都放得下的長度證明的。樸素注意力放不下的地方，就沒有東西可以比；這正是第 2 本筆記本精確度測試的用途。
# - 隨長度成長的不只注意力。這裡最大的是 logits（長度 × 詞彙量）和前饋層的激勵值；換成真正的詞彙表，logits 往往是注意力之後的下一道牆。
# - macOS 和 Windows 沒有提供這種針對行程的限制；在那裡，預算是靠累加張量大小來維持的。
#
# **練習。** 這本筆記本用到練習 1 到 5 的全部：執行 `nox -s lab-1.5-flashattention -- --mine`，就會用*你的*注意力來訓練。
# `nox -s check -- lab-1.5-flashattention` 會告訴你哪些還沒完成。
