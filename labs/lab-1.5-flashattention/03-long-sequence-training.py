# %% [markdown] lang="en"
# # 3. Training on long sequences
#
# **Question.** Exactness of one call is one thing. Does a whole model learn the same with tiled attention, and does it learn where naive
# attention cannot run at all?
#
# | | |
# |---|---|
# | You build | a small language model that is handed its attention, trained on the sources of the Python standard library with several attentions; then training runs under a memory budget that the operating system enforces |
# | You need | a minute on two CPU cores, 1 GB of memory |
# | You should see | how far the loss curves of the attentions are apart, and what a wrong mask does to one; who is refused under the budget, and whether what is trained there really uses its long context |

# %% [markdown] lang="zh-TW"
# # 3. 長序列訓練
#
# **問題。** 單次呼叫精確是一回事。整個模型用分塊注意力，學到的東西會一樣嗎？在原始注意力根本跑不動的長度，它還能學嗎？
#
# | | |
# |---|---|
# | 你會做出 | 一個可以更換注意力的小型語言模型，用 Python 標準函式庫的原始碼，以好幾種注意力各訓練一次；再做受記憶體預算限制的訓練，由作業系統強制執行 |
# | 你需要 | 兩個 CPU 核心跑一分鐘，1 GB 記憶體 |
# | 你應該看到 | 各種注意力的損失曲線差多遠，錯誤的遮罩會對曲線做什麼；在預算之下，誰要不到記憶體，以及在那裡訓練出來的模型是不是真的用了長上下文 |

# %%
import functools

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from attention_figures import long_curves, loss_curves
from broken_variants import broken_attention, last_block_attention, zero_attention
from flash_attention import flash_attention, naive_attention
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.measure import MemoryBudgetExceeded, memory_budget, peak_memory
from recall_task import SIGNS, recall_batches, recall_gain
from small_transformer import ModelConfig, build_model, stdlib_corpus, text_batches, train_steps

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one

# %% [markdown] lang="en"
# ## Real text that everyone has
#
# No download: the text is Python's own standard library, read as bytes. Two marks to measure a loss by: guessing blindly, and a model that
# only knows how often each byte occurs. To beat the second one, a model must look at the byte before; that much it can do *without*
# attention, for each position reads its own byte.

# %% [markdown] lang="zh-TW"
# ## 每台機器上都有的真實文字
#
# 不必下載：文字就是 Python 自己的標準函式庫，逐位元組讀取。有兩個基準可以衡量損失：瞎猜，以及只知道每個位元組出現頻率的模型。
# 要贏過後者，就得看前一個位元組；光是這樣還*不需要*注意力，因為每個位置本來就讀得到自己的位元組。

# %%
corpus = stdlib_corpus(settings.corpus_bytes)
print(bytes(corpus[:400].tolist()).decode("utf-8", errors="replace"))
frequencies = torch.bincount(corpus.long(), minlength=256) / corpus.numel()
byte_entropy = torch.special.entr(frequencies).sum().item()
lab.say(
    f"{corpus.numel():,} bytes. Guessing blindly costs ln 256 = {np.log(256):.2f} nats per byte; "
    f"knowing the frequencies costs {byte_entropy:.2f}.",
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
    group = queries.shape[1] // keys.shape[1]
    keys, values = (tensor.repeat_interleave(group, dim=1) for tensor in (keys, values))  # kv_heads -> heads
    return scaled_dot_product_attention(queries, keys, values, is_causal=causal)


attentions = {
    "naive": naive_attention,
    "tiled": flash_attention,
    "sdpa": sdpa,
    "off_by_one": functools.partial(broken_attention, mistake="causal_off_by_one", block_keys=settings.seq),
    "zeros": zero_attention,
}


def train(attention, seed, *, steps, batch, seq):
    """The losses of one training run, in nats per byte."""
    model = build_model(config, attention, seed=seed, device=settings.device)
    return list(train_steps(model, text_batches(corpus, steps=steps, batch=batch, seq=seq, seed=seed)))


parameters = sum(parameter.numel() for parameter in build_model(config, naive_attention, seed=0).parameters())
print(config, tr(f"{parameters:,} parameters", f"{parameters:,} 個參數"), sep="\n")

# %% [markdown] lang="en"
# ## Predict
#
# We train the same model with naive and with tiled attention. How far apart are the two loss curves, at the worst step? Write
# `loss_difference = ...` into `predictions.toml`.
#
# The fourth run has a mistake: its mask lets each position see *one* token too many. What will that do to its loss? The fifth has no
# attention at all: what would be mixed is replaced by zeros. How much will that cost in so few steps?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 用原始注意力和分塊注意力訓練同一個模型。兩條損失曲線在差最多的那一步，差多少？把 `loss_difference = ...` 寫進 `predictions.toml`。
#
# 第四次訓練有一個錯誤：它的遮罩讓每個位置*多看到一個* token。這對它的損失會有什麼影響？第五次根本沒有注意力：該混合的東西全換成零。
# 只訓練這麼少步，損失會差多少？

# %%
curves = {}  # (attention, seed) -> losses
for seed in lab.progress(settings.seeds):
    for name, attention in attentions.items():
        losses = train(attention, seed, steps=settings.steps, batch=settings.batch, seq=settings.seq)
        curves[name, seed] = np.array(losses)
    difference = {name: np.abs(curves[name, seed] - curves["naive", seed]).max() for name in attentions}
    lab.record("loss_difference", difference["tiled"], seed=seed)
    lab.record("loss_difference", difference["sdpa"], seed=seed, variant="sdpa")
    lab.record("loss_difference", difference["off_by_one"], seed=seed, variant="causal_off_by_one")
    lab.record("loss_difference", difference["zeros"], seed=seed, variant="zeros")

# %%
lab.figure(
    "loss-curves",
    loss_curves({name: curves[name, settings.seeds[0]] for name in attentions}, byte_entropy),
    Text(
        en="Left: loss curves of the same model with five attentions. Right: their distance from the naive curve.",
        zh_tw="左：同一個模型配上五種注意力的損失曲線。右：它們與原始版曲線的距離。",
    ),
)

# %%
def final(name):
    """Mean loss of the last five steps, over the seeds."""
    return np.mean([curves[name, seed][-5:].mean() for seed in settings.seeds])


apart = dict.fromkeys(attentions, 0.0)
for (name, seed), losses in curves.items():
    apart[name] = max(apart[name], np.abs(losses - curves["naive", seed]).max())
guess = lab.predict("loss_difference")
guessed = Text("", "") if guess is None else Text(f" (you guessed {guess:g})", f"（你猜 {guess:g}）")
leak, blind = final("naive") - final("off_by_one"), final("zeros") - final("naive")
if leak > 0:
    told = Text(
        f"ends {leak:.3f} nats **lower**. A model that can look up its answer scores better: a leaking mask looks like progress",
        f"最後的損失還**低了** {leak:.3f} nats。能偷看答案的模型分數比較好：會洩漏的遮罩看起來就像進步",
    )
else:
    told = Text(f"ends {-leak:.3f} nats higher", f"最後的損失高了 {-leak:.3f} nats")
if blind > 0:
    missed = Text(f"{blind:.2f} nats above the naive one", f"比原始版高 {blind:.2f} nats")
else:
    missed = Text(
        f"{-blind:.2f} nats **below** the naive one: in so few steps attention is still in the way, and a falling loss alone does not "
        "show that it does anything",
        f"比原始版還**低** {-blind:.2f} nats：步數這麼少，注意力反而有妨礙，光看損失下降，證明不了注意力有作用",
    )
lab.say(
    f"""- After {settings.steps} steps with {len(settings.seeds)} seeds, naive and tiled curves are nowhere more than {apart["tiled"]:.1e} nats apart{guessed.en};
  SDPA {apart["sdpa"]:.1e}. The loss of the last five steps is {final("tiled"):.2f}.
- The run with the wrong mask is {apart["off_by_one"]:.2f} away, and {told.en}.
  Comparing losses finds it; looking at one curve does not.
- The run without attention ends {missed.en}.""",
    f"""- {len(settings.seeds)} 個種子各訓練 {settings.steps} 步，原始版和分塊版的曲線最多只差 {apart["tiled"]:.1e} nats{guessed.zh_tw}；SDPA 是 {apart["sdpa"]:.1e}。
  最後五步的損失是 {final("tiled"):.2f}。
- 遮罩錯誤的那次訓練差了 {apart["off_by_one"]:.2f}，{told.zh_tw}。
  比較損失才找得到它；只看一條曲線是看不出來的。
- 沒有注意力的那次訓練，最後的損失{missed.zh_tw}。""",
)

# %% [markdown] lang="en"
# ## A budget
#
# Now the sequences get long and memory is rationed. `memory_budget` sets a limit that holds for this process: on Linux the kernel
# refuses further memory, on a GPU the allocator does. First, what does each attention need? One layer of naive attention holds at least one
# score matrix per head for the backward pass:

# %% [markdown] lang="zh-TW"
# ## 記憶體預算
#
# 接下來序列變長，記憶體則有限額。`memory_budget` 設下的限制對這個行程真的有效：在 Linux 上，作業系統核心會拒絕再給記憶體；在 GPU 上，則由配置器拒絕。
# 首先，每一種注意力需要多少？原始注意力的每一層，至少要為反向傳播留下每個 head 一個分數矩陣：

# %%
budget = settings.budget_mb * 2**20
long = settings.long_seq
matrix = config.heads * long**2 * 4  # bytes of one layer's weights P in float32
tiled = functools.partial(flash_attention, block_queries=settings.long_block, block_keys=settings.long_block)
needed = peak_memory(lambda: train(tiled, 0, steps=1, batch=1, seq=long), settings.device)
lab.say(
    f"""At {long:,} tokens the weights of one layer are {config.heads} × {long:,}² × 4 bytes = {matrix / 2**20:.0f} MiB. Naive attention keeps them for each of
the {config.layers} layers and needs the scores beside them. A whole training step with tiled attention, model, optimiser and logits included,
peaks at {needed / 2**20:.0f} MiB. The budget is **{settings.budget_mb} MiB**.""",
    f"""{long:,} 個 token 時，一層的權重是 {config.heads} × {long:,}² × 4 位元組 = {matrix / 2**20:.0f} MiB。原始注意力的 {config.layers} 層每一層都要留著它，
還要另外存放分數。而分塊注意力的一整個訓練步驟，連模型、最佳化器和 logits 都算進去，峰值是 {needed / 2**20:.0f} MiB。預算是 **{settings.budget_mb} MiB**。""",
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


candidates = {"naive": naive_attention, "tiled": tiled, "sdpa": sdpa, "zeros": zero_attention}
for attention in candidates.values():
    train(attention, 0, steps=1, batch=1, seq=64)  # what PyTorch sets up once is not part of the budget
outcome = {name: exceeds_budget(attention) for name, attention in candidates.items()}
lab.record("naive_exceeds_budget", outcome["naive"][0])
lab.record("naive_exceeds_budget", outcome["tiled"][0], variant="tiled")
lab.record("naive_exceeds_budget", outcome["sdpa"][0], variant="sdpa")
lab.record("naive_exceeds_budget", outcome["zeros"][0], variant="zeros")
columns = [tr("attention", "注意力"), tr("exceeds the budget", "超出預算"), tr("what PyTorch says", "PyTorch 的訊息")]
lab.table(columns, [[name, *result] for name, result in outcome.items()])

# %% [markdown] lang="en"
# ## Does it use its long context?
#
# That a loss falls under the budget proves little: the run above without attention fell, too. A task is needed that cannot be solved without
# looking far back. `recall_task.py` makes one: a piece opens with a **header**, one of two signs over and over; then comes real text; at
# the end stand **questions**, all the same byte, and the right answer to each is the sign of the header, thousands of tokens earlier. Answers are
# predicted and never read, so nothing nearby gives them away.
#
# Three models learn it under the same budget: with tiled attention; with a tiled loop that forgets to hand its state on, so that each
# query only sees its last block (`last_block`); and with zeros. **Predict** how many nats per question each gains over guessing one of
# two signs, which costs ln 2: `recall_gain_over_guessing = ...`, for the tiled one.

# %% [markdown] lang="zh-TW"
# ## 它真的用到長上下文了嗎？
#
# 損失在預算之下有下降，證明不了什麼：前面沒有注意力的那次訓練也會下降。需要的是一個不往回看很遠就解不開的任務。
# `recall_task.py` 就做了一個：每一段開頭是**標頭**，兩種記號之一，一再重複；接著是真實的文字；結尾是**提問**，全是同一個位元組，
# 而每一題的正確答案都是標頭的記號，遠在幾千個 token 之前。答案只用來預測，從來不會被讀到，所以附近沒有任何東西會洩漏答案。
#
# 三個模型在同樣的預算下學這個任務：用分塊注意力；用一個忘了把狀態交給下一輪的分塊迴圈，每個 query 只看得到自己的最後一塊
# （`last_block`）；以及用零。**先猜猜看：** 從兩種記號裡瞎猜一個，損失是 ln 2；每一題平均能比瞎猜多得到幾 nats？把分塊版的寫進
# `recall_gain_over_guessing = ...`。

# %%
learners = {
    "tiled": tiled,
    "last_block": functools.partial(last_block_attention, block=settings.long_block),
    "zeros": zero_attention,
}
long_losses, gains = {}, {}
with memory_budget(budget, settings.device):
    for seed in lab.progress(settings.seeds):
        for name, attention in learners.items():
            model = build_model(config, attention, seed=seed, device=settings.device)
            pieces = recall_batches(corpus, steps=settings.long_steps, seq=long, seed=seed)
            long_losses[name, seed] = list(train_steps(model, pieces, learning_rate=6e-3))
            gains[name, seed] = recall_gain(model, corpus, long, seed=1000 + seed)
        lab.record("recall_gain_over_guessing", gains["tiled", seed], seed=seed)
        lab.record("recall_gain_over_guessing", gains["last_block", seed], seed=seed, variant="last_block")
        lab.record("recall_gain_over_guessing", gains["zeros", seed], seed=seed, variant="zeros")

lab.figure(
    "long-training",
    long_curves({name: long_losses[name, settings.seeds[0]] for name in learners}),
    Text(
        en="Training on long pieces under a budget that naive attention exceeds, with tiled attention and with two that do not reach the header.",
        zh_tw="在原始注意力會超出的預算下，用長片段訓練：分塊注意力，以及兩個看不到標頭的版本。",
    ),
)
lab.table(["seed", *learners], [[seed, *(gains[name, seed] for name in learners)] for seed in settings.seeds])

# %%
mean = {name: np.mean([gains[name, seed] for seed in settings.seeds]) for name in learners}
guess = lab.predict("recall_gain_over_guessing")
guessed = Text("", "") if guess is None else Text(f" (you guessed {guess:g})", f"（你猜 {guess:g}）")
refused = Text("refused", "被拒絕") if outcome["naive"][0] else Text("not refused", "沒有被拒絕")
distance = long // 2
lab.say(
    f"""- {long:,} tokens, a budget of {settings.budget_mb} MiB: naive attention is {refused.en}. \
Tiled attention trains, and after {settings.long_steps} steps it gains
  **{mean["tiled"]:.2f} nats** per question over guessing{guessed.en}, of at most ln {len(SIGNS)} = \
{np.log(len(SIGNS)):.2f}. At least {distance:,} tokens lie between an answer and where it stands.
- Without the state of earlier blocks the gain is {mean["last_block"]:.2f}, without attention {mean["zeros"]:.2f}. \
Neither can be above 0: who does not see the header answers
  both alike. Their losses fall all the same, because the text and the header can be learned without reaching far.
- The budget is {budget / needed:.1f} times what a tiled step needs. \
For naive attention each further layer would add at least {matrix / 2**20:.0f} MiB.""",
    f"""- {long:,} 個 token、預算 {settings.budget_mb} MiB：原始注意力{refused.zh_tw}。分塊注意力可以訓練，{settings.long_steps} 步之後，每一題比瞎猜多得到
  **{mean["tiled"]:.2f} nats**{guessed.zh_tw}，上限是 ln {len(SIGNS)} = {np.log(len(SIGNS)):.2f}。答案和它所在的位置之間，至少隔了 {distance:,} 個 token。
- 少了先前區塊的狀態，多得到的是 {mean["last_block"]:.2f}；沒有注意力則是 {mean["zeros"]:.2f}。兩者都不可能大於 0：看不到標頭的，對兩種情況只能給出同樣的答案。
  它們的損失照樣會下降，因為文字和標頭不必看得遠也學得會。
- 預算是分塊版一步所需的 {budget / needed:.1f} 倍。原始注意力則是每多一層，至少再多 {matrix / 2**20:.0f} MiB。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - A few dozen steps teach a model which bytes are frequent, a little of which follow which, and one planted fact that stands far back. Real long-range
#   structure needs many more steps and more layers. What is shown here is that the training is exact and reaches as far as it should.
# - The header is long and always at the beginning, so that it is found within a few dozen steps. A real needle in a haystack is small and anywhere.
# - Equal losses are shown where both fit. Where naive attention does not fit there is nothing to compare with; that is what the exactness tests
#   of notebook 2 are for.
# - Other things grow with the length too. Here the logits (length × vocabulary) and the feed-forward activations are the largest; with a real
#   vocabulary the logits are often the next wall after attention.
# - On macOS and Windows the operating system offers no such limit for a process; there the budget is kept by adding up tensors.
#
# **Exercises.** This notebook uses all of 1 to 5: with `nox -s lab-1.5-flashattention -- --mine` it trains on *your* attention.
# `nox -s check -- lab-1.5-flashattention` says which are still open.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 幾十步的訓練，教會模型的是哪些位元組常出現、大致上哪個後面常接哪個，以及一件刻意埋在遠處的事。真正的長距離結構需要多得多的步數和更多層。
#   這裡證明的是：訓練是精確的，而且該看多遠就看得到多遠。
# - 標頭很長，又總是在開頭，所以幾十步就找得到。真正的大海撈針，針很小，而且可能在任何地方。
# - 損失相等，是在兩者都放得下的長度證明的。原始注意力放不下的地方，就沒有東西可以比；這正是第 2 本筆記本精確度測試的用途。
# - 隨長度成長的不只注意力。這裡最大的是 logits（長度 × 詞彙量）和前饋層的激勵值；換成真正的詞彙表，logits 往往是注意力之後的下一個瓶頸。
# - macOS 和 Windows 沒有提供這種針對行程的限制；在那裡，預算是靠累加張量大小來維持的。
#
# **練習。** 這本筆記本用到練習 1 到 5 的全部：執行 `nox -s lab-1.5-flashattention -- --mine`，就會用*你的*注意力來訓練。
# `nox -s check -- lab-1.5-flashattention` 會告訴你哪些還沒完成。
