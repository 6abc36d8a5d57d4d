# %% [markdown] lang="en"
# # 1. What attention costs
#
# **Question.** The context gets twice as long. How much more memory and time does attention need, and does it have to?
#
# | | |
# |---|---|
# | You build | two cost curves, memory and time, for three implementations of the same function, and the exponent of each curve |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | one answer three times; naive memory that grows with the square of the length; ours and PyTorch's that grow with the length |
#
# Measure first, explain later: how the second implementation works is the subject of notebook 2.

# %% [markdown] lang="zh-TW"
# # 1. 注意力的代價
#
# **問題。** 上下文長度加倍時，注意力要多用多少記憶體和時間？非得如此嗎？
#
# | | |
# |---|---|
# | 你會做出 | 同一個函式的三種實作，各自的記憶體曲線與時間曲線，以及每條曲線的指數 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 三種實作給出同一個答案；樸素版的記憶體隨長度的平方成長，我們的版本和 PyTorch 的版本只隨長度成長 |
#
# 這一本先量測，不解釋：第二種實作為什麼可行，是第 2 本筆記本的主題。

# %%
import json
import platform

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from flash_attention import flash_attention, naive_attention
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import subplots
from onepiece.measure import peak_memory, timed

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one
dtype = getattr(torch, settings.attention_dtype)
print(f"torch {torch.__version__} on {settings.device}, {dtype}, Python {platform.python_version()}")

# %% [markdown] lang="en"
# ## Three implementations of one function
#
# Every query compares itself with every key it may see, the softmax turns the comparisons into weights, and the weights mix the values:

# %% [markdown] lang="zh-TW"
# ## 同一個函式的三種實作
#
# 每個 query 跟它看得到的每個 key 比較，softmax 把比較的結果變成權重，再用權重混合 value：

# %% [markdown]
# $$S = \tfrac{1}{\sqrt d}\,QK^\top \in \mathbb R^{N\times N},\qquad P = \mathrm{softmax}(S + \text{mask}),\qquad O = PV \in \mathbb R^{N\times d}$$

# %% [markdown] lang="en"
# The naive version does exactly what the formula says. Look for the lines that make an $N \times N$ matrix:

# %% [markdown] lang="zh-TW"
# 樸素版完全照公式做。請找出哪幾行會產生 $N \times N$ 的矩陣：

# %%
lab.source(naive_attention)

# %% [markdown] lang="en"
# Beside it stand `flash_attention`, this lab's tiled version in plain PyTorch, and PyTorch's own fused
# `scaled_dot_product_attention` (SDPA). All three are causal here: a token sees itself and what came before.

# %% [markdown] lang="zh-TW"
# 另外兩個是本實驗用純 PyTorch 寫的分塊版 `flash_attention`，以及 PyTorch 內建的融合版
# `scaled_dot_product_attention`（SDPA）。這裡三者都是因果的：每個 token 只看得到自己和前面的 token。

# %%
def naive(queries, keys, values):
    return naive_attention(queries, keys, values, causal=True)


def tiled(queries, keys, values):
    block = settings.block
    return flash_attention(queries, keys, values, causal=True, block_queries=block, block_keys=block)


def sdpa(queries, keys, values):
    return scaled_dot_product_attention(queries, keys, values, is_causal=True)


implementations = {"naive": naive, "tiled": tiled, "sdpa": sdpa}

# %% [markdown] lang="en"
# ## Is it one function?
#
# Comparing costs only makes sense between things that compute the same. The judge is naive attention in `float64`, whose rounding
# errors are far below anything we can see here.

# %% [markdown] lang="zh-TW"
# ## 真的是同一個函式嗎？
#
# 要算出同樣的東西，比較代價才有意義。裁判是 `float64` 的樸素版，它的捨入誤差遠小於這裡看得到的任何差異。

# %%
def random_inputs(length, dtype=dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (1, settings.heads, length, settings.head_dim)  # (batch, heads, seq, head_dim)
    return [torch.randn(shape, generator=generator).to(settings.device, dtype).requires_grad_() for _ in range(3)]


length = settings.lengths[0]
oracle = naive(*random_inputs(length, torch.float64))
errors = {name: (attend(*random_inputs(length)) - oracle).abs().max().item() for name, attend in implementations.items()}
lab.table([tr("implementation", "實作"), tr("largest difference from float64", "與 float64 的最大差異")], errors.items())

# %%
rounding = torch.finfo(dtype).eps
worst = max(errors, key=errors.get)
lab.say(
    f"The largest difference is {errors[worst]:.1e} ({worst}), that is {errors[worst] / rounding:.1f} times the rounding unit of "
    f"{dtype} ({rounding:.1e}). The three differ by rounding. Notebook 2 tests this much harder.",
    f"最大的差異是 {errors[worst]:.1e}（{worst}），也就是 {dtype} 捨入單位（{rounding:.1e}）的 {errors[worst] / rounding:.1f} 倍。"
    "三者只差在捨入。第 2 本筆記本會用嚴格得多的方式檢驗這件事。",
)

# %% [markdown] lang="en"
# ## Predict
#
# We measure one training step of attention (forward and backward) at growing lengths $N$ and fit $\text{cost} \approx c\,N^{p}$ to
# the longest three. Write your guesses into `predictions.toml` in your copy of the lab, then run on:
#
# ```toml
# naive_memory_exponent = 1.5   # your p for the memory of naive attention
# tiled_memory_exponent = 1.5   # ... for tiled attention
# tiled_time_exponent = 1.5     # ... and for the time of tiled attention
# ```
#
# <details><summary>A hint</summary>
#
# A score matrix has $N \times N$ entries; all queries together have $N \times d$. Which of them must exist at the same time?
# And does tiled attention compute fewer scores, or only store fewer?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 我們要在越來越長的 $N$ 下，量注意力的一個訓練步驟（前向加反向傳播），再用最長的三個長度擬合 $\text{代價} \approx c\,N^{p}$。
# 請把你的猜測寫進你那份實驗裡的 `predictions.toml`，再往下執行：
#
# ```toml
# naive_memory_exponent = 1.5   # 樸素版記憶體的 p，換成你的猜測
# tiled_memory_exponent = 1.5   # 分塊版記憶體的 p
# tiled_time_exponent = 1.5     # 分塊版時間的 p
# ```
#
# <details><summary>提示</summary>
#
# 一個分數矩陣有 $N \times N$ 個數，所有 query 合起來有 $N \times d$ 個。哪些東西必須同時存在？
# 另外，分塊版是少算了分數，還是只少存了分數？
# </details>

# %% [markdown] lang="en"
# ## Measure
#
# `peak_memory` adds up every allocation and release of PyTorch's allocator, so temporaries inside an operator count too.
# `timed` alternates the implementations, so that a busy machine is unfair to all of them equally. Without a GPU everything runs on one
# CPU thread: that compares algorithms, not schedulers.

# %% [markdown] lang="zh-TW"
# ## 量測
#
# `peak_memory` 會累計 PyTorch 配置器的每一次配置與釋放，所以運算子內部的暫存也算在內。`timed` 讓三種實作輪流執行，
# 機器忙碌時對大家一樣不公平。沒有 GPU 的話，全部只用一個 CPU 執行緒：要比的是演算法，不是排程器。

# %%
def training_step(attend, inputs, grad_output):
    return torch.autograd.grad(attend(*inputs), inputs, grad_output)


costs = {name: {} for name in implementations}  # name -> length -> bytes, seconds
for length in lab.progress(settings.lengths):
    inputs = random_inputs(length)
    steps = {
        name: lambda attend=attend, inputs=inputs: training_step(attend, inputs, torch.ones_like(inputs[0]))
        for name, attend in implementations.items()
    }
    for name, timing in timed(steps, repeats=settings.repeats).items():
        costs[name][length] = {"bytes": peak_memory(steps[name], settings.device), "seconds": timing.median, "spread": timing.spread}

with lab.artifact("costs.json").open("w", encoding="utf-8") as file:
    json.dump({"block": settings.block, "costs": costs}, file)

# %%
columns = [tr("length", "長度"), *(f"{name}: {unit}" for name in costs for unit in ("MB", "ms"))]
rows = []
for length in settings.lengths:
    row = [length]
    for by_length in costs.values():
        cost = by_length[length]
        row += [cost["bytes"] / 1e6, f"{cost['seconds'] * 1e3:.1f} ± {cost['spread'] * 1e3:.1f}"]
    rows.append(row)
lab.table(columns, rows)

# %% [markdown] lang="en"
# ## Fit the exponents
#
# A power law is a straight line on doubly logarithmic paper, and its slope is the exponent. We fit by least squares and use the longest
# three lengths only: at short lengths constant costs (a tile, a Python call) hide the law.

# %% [markdown] lang="zh-TW"
# ## 擬合指數
#
# 冪次律在雙對數座標上是一條直線，斜率就是指數。我們用最小平方法擬合，而且只用最長的三個長度：
# 長度太短時，固定的成本（一個 tile、一次 Python 呼叫）會蓋過規律。

# %%
def fit(name, quantity):
    """Exponent and factor of quantity = factor * length ** exponent, over the longest three lengths."""
    lengths = settings.lengths[-3:]
    values = [costs[name][length][quantity] for length in lengths]
    exponent, log_factor = np.polyfit(np.log(lengths), np.log(values), 1)
    return exponent, np.exp(log_factor)


def draw(axes, quantity, unit, label):
    lengths = np.array(settings.lengths)
    for name in costs:
        exponent, factor = fit(name, quantity)
        points = axes.loglog(lengths, [costs[name][length][quantity] / unit for length in settings.lengths], linestyle="", label=f"{name}: $N^{{{exponent:.2f}}}$")
        axes.loglog(lengths, factor * lengths**exponent / unit, color=points[0].get_color(), marker="", linewidth=1.2)
    axes.set(xlabel="sequence length N", ylabel=label)
    axes.set_xticks(settings.lengths, [str(length) for length in settings.lengths])
    axes.minorticks_off()
    axes.legend()


figure, (left, right) = subplots(1, 2, figsize=(10.5, 4.2))
draw(left, "bytes", 1e6, "peak memory (MB)")
draw(right, "seconds", 1e-3, "time (ms)")
lab.figure(
    "cost-over-length",
    figure,
    Text(
        en="Peak memory (left) and time (right) of one forward and backward pass; points are measured, lines are fitted to the longest three lengths.",
        zh_tw="一次前向加反向傳播的記憶體峰值（左）與時間（右）；點是量測值，線是用最長三個長度擬合的結果。",
    ),
)

# %%
memory = {name: fit(name, "bytes")[0] for name in costs}
lab.record("tiled_time_exponent", fit("tiled", "seconds")[0])
lab.record("naive_memory_exponent", memory["naive"])
lab.record("naive_memory_exponent", memory["tiled"], variant="tiled")
lab.record("tiled_memory_exponent", memory["tiled"])
lab.record("tiled_memory_exponent", memory["naive"], variant="naive")
lab.record("tiled_memory_exponent", memory["sdpa"], variant="sdpa")

measured = {
    "naive_memory_exponent": memory["naive"],
    "tiled_memory_exponent": memory["tiled"],
    "tiled_time_exponent": fit("tiled", "seconds")[0],
}
guesses = [lab.predict("naive_memory_exponent"), lab.predict("tiled_memory_exponent"), lab.predict("tiled_time_exponent")]
rows = [(metric, "–" if guess is None else guess, value) for (metric, value), guess in zip(measured.items(), guesses, strict=True)]
lab.table([tr("metric", "指標"), tr("your guess", "你的猜測"), tr("measured", "量測值")], rows)

# %% [markdown] lang="en"
# ## What the numbers say

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
at = settings.lengths[-1]
cost = {name: costs[name][at] for name in costs}
saved = cost["naive"]["bytes"] / cost["tiled"]["bytes"]
speed = cost["naive"]["seconds"] / cost["tiled"]["seconds"]
fused = cost["tiled"]["seconds"] / cost["sdpa"]["seconds"]
lab.say(
    f"""- **Memory.** Naive attention grows like $N^{{{memory["naive"]:.2f}}}$, tiled like $N^{{{memory["tiled"]:.2f}}}$. At N = {at} that is
  {cost["naive"]["bytes"] / 1e6:.0f} MB against {cost["tiled"]["bytes"] / 1e6:.1f} MB: {saved:.0f} times less. (An exponent a little below 1 is what a constant plus
  a linear term looks like: the constant is the tiles.)
- **Time.** Nothing was approximated, so every score is still computed: tiled time grows like $N^{{{measured["tiled_time_exponent"]:.2f}}}$ (the number of scores
  grows like $N^2$; a fit over three timings on a shared machine is rough). At N = {at} our Python loop takes {1 / speed:.2f} times as long as naive attention, and {fused:.1f} times as long as the fused SDPA, which runs the same
  algorithm without a Python call per tile. (Against naive attention two things pull: calls per tile cost time, and skipping the tiles above the
  diagonal and never writing an N x N matrix to memory save it.)
- So FlashAttention changes how much is *held and moved*, not how much is *computed*.""",
    f"""- **記憶體。** 樸素版的成長像 $N^{{{memory["naive"]:.2f}}}$，分塊版像 $N^{{{memory["tiled"]:.2f}}}$。在 N = {at} 時，兩者是
  {cost["naive"]["bytes"] / 1e6:.0f} MB 對 {cost["tiled"]["bytes"] / 1e6:.1f} MB，相差 {saved:.0f} 倍。（指數略低於 1，是「常數項加線性項」的樣子：常數項就是那些 tile。）
- **時間。** 沒有任何近似，所以每個分數都還是要算：分塊版的時間成長像 $N^{{{measured["tiled_time_exponent"]:.2f}}}$（分數的個數隨
  $N^2$ 成長；在忙碌的機器上用三個時間擬合，只能看個大概）。在 N = {at} 時，我們的 Python 迴圈花的時間是樸素版的 {1 / speed:.2f} 倍，是融合版 SDPA 的 {fused:.1f} 倍；SDPA 用的是同一個演算法，只是不必為每個 tile 呼叫一次 Python。（和樸素版相比有兩股力量拉扯：每個 tile 的呼叫要花時間；略過對角線以上的 tile，又不必把 N x N 的矩陣寫進記憶體，則省時間。）
- 所以 FlashAttention 改變的是要*存放與搬動*多少，不是要*計算*多少。""",
)

# %%
exponent, factor = fit("naive", "bytes")
further = 8 * settings.lengths[-1]
long, heads = 131_072, 32
matrix = long**2 * heads * 2  # bytes, bfloat16
lab.say(
    f"""**Extrapolate.** By the fitted line, one head of naive attention at N = {further:,} would need
{factor * further**exponent / settings.heads / 1e9:.0f} GB. And by plain arithmetic: a single score matrix of a model with {heads} heads at a context of {long:,} tokens,
in bfloat16, is {long:,}² × {heads} × 2 bytes = {matrix / 2**40:.0f} TiB. No accelerator holds that, for one layer and one sequence.""",
    f"""**外推。** 照擬合出來的直線，單一個 head 的樸素注意力在 N = {further:,} 時需要
{factor * further**exponent / settings.heads / 1e9:.0f} GB。再做一道純算術：一個有 {heads} 個 head 的模型，上下文 {long:,} 個 token，用 bfloat16 存一個分數矩陣，
就是 {long:,}² × {heads} × 2 位元組 = {matrix / 2**40:.0f} TiB。光是一層、一條序列，就沒有任何加速器放得下。""",
)

# %% [markdown] lang="en"
# ## Limits of this measurement
#
# - Few heads and one sequence. More of either multiplies all three memories; the exponents stay.
# - Our tiles are a Python loop around small matrix products. Its *memory* is the algorithm's, its *time* is partly PyTorch's
#   overhead per call. Judge the algorithm's speed by the fused SDPA, and by the Triton kernel if you have a GPU.
# - On a CPU the fast memory is the cache, and nothing forces the tiles to stay there. What really crosses between slow and fast
#   memory is counted in notebook 4.
#
# **Exercise.** Exercise 1 (`flash_attention.py`: scale, causal offset and `naive_attention`) belongs here. Check it with
# `nox -s check -- lab-1.5-flashattention`.
#
# **Next:** how can a softmax be computed without ever seeing a whole row?

# %% [markdown] lang="zh-TW"
# ## 這次量測的限制
#
# - 只有很少的 head、一條序列。兩者增加時，三種實作的記憶體都同倍數放大，指數不變。
# - 我們的 tile 是一個 Python 迴圈，裡面是一個個小矩陣乘法。*記憶體*反映的是演算法，*時間*卻有一部分是 PyTorch 每次呼叫的固定開銷。
#   要評斷演算法的速度，請看融合版 SDPA；有 GPU 的話，也看 Triton kernel。
# - 在 CPU 上，快速記憶體是快取，但沒有任何機制強迫 tile 留在裡面。慢速與快速記憶體之間到底搬了多少，第 4 本筆記本會實際去數。
#
# **練習。** 練習 1（`flash_attention.py`：scale、因果位移與 `naive_attention`）屬於這一本。用
# `nox -s check -- lab-1.5-flashattention` 檢查。
#
# **下一步：** 從頭到尾沒看過完整的一列，要怎麼算出 softmax？
