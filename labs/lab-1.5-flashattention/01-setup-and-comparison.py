# %% [markdown] lang="en"
# # 1. What attention costs
#
# **Question.** The context gets twice as long. How much more memory and time does attention need, and does it have to?
#
# | | |
# |---|---|
# | You build | two cost curves, memory and time, for two implementations of the same function, and the exponent of each curve |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | whether both give one answer; how each curve grows, and how far its exponent can be trusted on your machine |
#
# Measure first, explain later: how the second implementation can work is the subject of notebook 2, where you write it yourself.

# %% [markdown] lang="zh-TW"
# # 1. 注意力的代價
#
# **問題。** 上下文長度加倍時，注意力要多用多少記憶體和時間？非得如此嗎？
#
# | | |
# |---|---|
# | 你會做出 | 同一個函式的兩種實作，各自的記憶體曲線與時間曲線，以及每條曲線的指數 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 兩種實作的答案是否相同；每條曲線怎麼成長，指數在你的機器上有多可信 |
#
# 這一本先量測，不解釋：第二種實作怎麼做得到，是第 2 本筆記本的主題，到時候由你自己寫出來。

# %%
import functools
import platform

import torch
from torch.nn.functional import scaled_dot_product_attention

from attention_figures import cost_curves
from flash_attention import naive_attention
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.measure import peak_memory, timed
from power_law import fit_power_law

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one
dtype = getattr(torch, settings.attention_dtype)
print(f"torch {torch.__version__} on {settings.device}, {dtype}, Python {platform.python_version()}")

# %% [markdown] lang="en"
# ## Two implementations of one function
#
# Every query compares itself with every key it may see, the softmax turns the comparisons into weights, and the weights mix the values:

# %% [markdown] lang="zh-TW"
# ## 同一個函式的兩種實作
#
# 每個 query 跟它看得到的每個 key 比較，softmax 把比較的結果變成權重，再用權重混合 value：

# %% [markdown]
# $$S = \tfrac{1}{\sqrt d}\,QK^\top \in \mathbb R^{N\times N},\qquad P = \mathrm{softmax}(S + \text{mask}),\qquad O = PV \in \mathbb R^{N\times d}$$

# %% [markdown] lang="en"
# The naive version does exactly what the formula says. Look for the lines that make an $N \times N$ matrix:

# %% [markdown] lang="zh-TW"
# 原始（naive）版完全照公式做。請找出哪幾行會產生 $N \times N$ 的矩陣：

# %%
lab.source(naive_attention)

# %% [markdown] lang="en"
# Beside it stands PyTorch's own fused `scaled_dot_product_attention` (SDPA). Both are causal here: a token sees itself and what came before.

# %% [markdown] lang="zh-TW"
# 另一個是 PyTorch 內建的融合版 `scaled_dot_product_attention`（SDPA）。這裡兩者都是因果的：每個 token 只看得到自己和前面的 token。

# %%
implementations = {
    "naive": functools.partial(naive_attention, causal=True),
    "fused": functools.partial(scaled_dot_product_attention, is_causal=True),
}

# %% [markdown] lang="en"
# ## Is it one function?
#
# Comparing costs only makes sense between things that compute the same. The judge is naive attention in `float64`, whose rounding
# errors are far below anything we can see here.

# %% [markdown] lang="zh-TW"
# ## 真的是同一個函式嗎？
#
# 要算出同樣的東西，比較代價才有意義。標準答案是 `float64` 的原始版，它的捨入誤差遠小於這裡看得到的任何差異。

# %%
def random_inputs(length, dtype=dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (1, settings.heads, length, settings.head_dim)  # (batch, heads, seq, head_dim)
    tensors = [torch.randn(shape, generator=generator) for _ in range(3)]
    return [tensor.to(settings.device, dtype).requires_grad_() for tensor in tensors]


length = settings.lengths[0]
oracle = implementations["naive"](*random_inputs(length, torch.float64))
errors = {}
for name, attend in implementations.items():
    errors[name] = (attend(*random_inputs(length)) - oracle).abs().max().item()
lab.table([tr("implementation", "實作"), tr("largest difference from float64", "與 float64 的最大差異")], errors.items())

# %%
rounding = torch.finfo(dtype).eps
worst = max(errors, key=errors.get)
lab.say(
    f"The largest difference is {errors[worst]:.1e} ({worst}), that is {errors[worst] / rounding:.1f} times the rounding unit of "
    f"{dtype} ({rounding:.1e}). Notebook 2 tests this much harder.",
    f"最大的差異是 {errors[worst]:.1e}（{worst}），也就是 {dtype} 捨入單位（{rounding:.1e}）的 {errors[worst] / rounding:.1f} 倍。"
    "第 2 本筆記本會用嚴格得多的方式檢驗這件事。",
)

# %% [markdown] lang="en"
# ## Predict
#
# We measure one training step of attention (forward and backward) at growing lengths $N$ and fit $\text{cost} \approx c\,N^{p}$ to
# the longest three. Write your guesses into `predictions.toml` in your copy of the lab, then run on:
#
# ```toml
# naive_memory_exponent = 1.5   # your p for the memory of naive attention
# fused_memory_exponent = 1.5   # ... for the memory of the fused one
# fused_time_exponent = 1.5     # ... and for its time
# ```
#
# <details><summary>A hint</summary>
#
# A score matrix has $N \times N$ entries; all queries together have $N \times d$. Which of them must exist at the same time?
# And could an implementation compute fewer scores, or only store fewer?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 我們要用愈來愈長的 $N$，量注意力的一個訓練步驟（前向加反向傳播），再用最長的三個長度擬合 $\text{代價} \approx c\,N^{p}$。
# 請把你的猜測寫進你那份實驗裡的 `predictions.toml`，再往下執行：
#
# ```toml
# naive_memory_exponent = 1.5   # 原始版記憶體的 p，換成你的猜測
# fused_memory_exponent = 1.5   # 融合版記憶體的 p
# fused_time_exponent = 1.5     # 融合版時間的 p
# ```
#
# <details><summary>提示</summary>
#
# 一個分數矩陣有 $N \times N$ 個數，所有 query 合起來有 $N \times d$ 個。哪些東西必須同時存在？
# 另外，一個實作能不能少算一些分數，還是只能少存一些？
# </details>

# %% [markdown] lang="en"
# ## Measure
#
# `peak_memory` adds up every allocation and release of PyTorch's allocator, so temporaries inside an operator count too.
# `timed` goes round by round through all implementations *and* all lengths: if the machine is busy for a while, a round is slow, not one
# length. Without a GPU everything runs on one CPU thread: that compares algorithms, not schedulers.

# %% [markdown] lang="zh-TW"
# ## 量測
#
# `peak_memory` 會累計 PyTorch 配置器的每一次配置與釋放，所以運算子內部的暫存也算在內。`timed` 一輪一輪地量，每一輪都走過所有實作
# *和*所有長度：機器忙了一陣子的話，慢的是那一輪，不會只拖慢某一個長度。沒有 GPU 的話，全部只用一個 CPU 執行緒：要比的是演算法，不是排程器。

# %%
def training_step(attend, inputs):
    return torch.autograd.grad(attend(*inputs), inputs, torch.ones_like(inputs[0]))


lengths, repeats = settings.lengths, settings.repeats
steps = {}  # (implementation, length) -> what is measured
for length in lengths:
    inputs = random_inputs(length)
    for name, attend in implementations.items():
        steps[name, length] = functools.partial(training_step, attend, inputs)

timings = timed(steps, repeats=repeats)
memory = {key: peak_memory(step, settings.device) for key, step in steps.items()}

# %%
columns = [tr("length", "長度"), *(f"{name}: {unit}" for name in implementations for unit in ("MB", "ms"))]
rows = []
for length in lengths:
    row = [length]
    for name in implementations:
        timing = timings[name, length]
        row += [memory[name, length] / 1e6, f"{timing.median * 1e3:.1f} ± {timing.spread * 1e3:.1f}"]
    rows.append(row)
lab.table(columns, rows)

# %% [markdown] lang="en"
# ## Fit the exponents
#
# A power law is a straight line on doubly logarithmic paper, and its slope is the exponent. We fit by least squares and use the longest
# three lengths only: at short lengths constant costs (a tile, a Python call) hide the law. For times, each round gives an exponent of its
# own; how far they lie apart says how far the fit can be trusted.

# %% [markdown] lang="zh-TW"
# ## 擬合指數
#
# 冪次律在雙對數座標上是一條直線，斜率就是指數。我們用最小平方法擬合，而且只用最長的三個長度：
# 長度太短時，固定的成本（一個 tile、一次 Python 呼叫）會蓋過規律。時間的部分，每一輪都能算出自己的指數；它們彼此差多少，
# 就說明這個擬合有多可信。

# %%
costs, laws = {"bytes": {}, "seconds": {}}, {}
for name in implementations:
    costs["bytes"][name] = [memory[name, length] for length in lengths]
    costs["seconds"][name] = [timings[name, length].median for length in lengths]
    rounds = [[timings[name, length].seconds[number] for length in lengths] for number in range(repeats)]
    laws[name, "bytes"] = fit_power_law(lengths, [costs["bytes"][name]])
    laws[name, "seconds"] = fit_power_law(lengths, rounds)

lab.figure(
    "cost-over-length",
    cost_curves(lengths, costs, laws),
    Text(
        en="Peak memory (left) and time (right) of one forward and backward pass; "
        "points are measured, lines are fitted to the longest three lengths.",
        zh_tw="一次前向加反向傳播的記憶體峰值（左）與時間（右）；點是量測值，線是用最長三個長度擬合的結果。",
    ),
)

# %%
lab.record("naive_memory_exponent", laws["naive", "bytes"].exponent)
lab.record("naive_memory_exponent", laws["fused", "bytes"].exponent, variant="fused")
lab.record("fused_memory_exponent", laws["fused", "bytes"].exponent)
lab.record("fused_memory_exponent", laws["naive", "bytes"].exponent, variant="naive")
lab.record("naive_time_exponent", laws["naive", "seconds"].exponent)
lab.record("fused_time_exponent", laws["fused", "seconds"].exponent)

guesses = {
    "naive_memory_exponent": (lab.predict("naive_memory_exponent"), laws["naive", "bytes"]),
    "fused_memory_exponent": (lab.predict("fused_memory_exponent"), laws["fused", "bytes"]),
    "fused_time_exponent": (lab.predict("fused_time_exponent"), laws["fused", "seconds"]),
}
rows = [(metric, "–" if guess is None else guess, law.exponent) for metric, (guess, law) in guesses.items()]
lab.table([tr("metric", "指標"), tr("your guess", "你的猜測"), tr("measured", "量測值")], rows)

# %% [markdown] lang="en"
# ## What the numbers say

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
at = lengths[-1]
naive_mb, fused_mb = memory["naive", at] / 1e6, memory["fused", at] / 1e6
speed = timings["naive", at].median / timings["fused", at].median
exponents = {key: f"$N^{{{law.exponent:.2f}}}$" for key, law in laws.items()}
times = [laws[name, "seconds"] for name in implementations]
apart = max(law.spread for law in times)
if any(law.rough for law in times):
    trust = Text(
        f"The rounds of one fit disagree by ± {apart:.2f}: these time exponents are **rough**, run again on a calm machine",
        f"同一個擬合的各輪相差到 ± {apart:.2f}：這些時間的指數**只能看個大概**，請在機器空閒時再跑一次",
    )
else:
    trust = Text(f"The rounds of one fit agree within ± {apart:.2f}", f"同一個擬合的各輪只差 ± {apart:.2f}")
lab.say(
    f"""- **Memory.** Naive attention grows like {exponents["naive", "bytes"]}, the fused one like {exponents["fused", "bytes"]}. At N = {at} that is
  {naive_mb:.0f} MB against {fused_mb:.1f} MB: {naive_mb / fused_mb:.0f} times less. (An exponent a little below 1 is what a constant plus
  a linear term looks like.)
- **Time.** Naive grows like {exponents["naive", "seconds"]}, fused like {exponents["fused", "seconds"]}; \
at N = {at} the fused one is {speed:.1f} times as fast. {trust.en}.
  Nothing was approximated: every pair that a query may see has its score, and with the mask these are N(N + 1)/2.
- So one function has two very different memory curves: the N x N matrix is how naive attention is *written*, not what attention *is*.""",
    f"""- **記憶體。** 原始版的成長像 {exponents["naive", "bytes"]}，融合版像 {exponents["fused", "bytes"]}。在 N = {at} 時，兩者是
  {naive_mb:.0f} MB 對 {fused_mb:.1f} MB，相差 {naive_mb / fused_mb:.0f} 倍。（指數略低於 1，是「常數項加線性項」的樣子。）
- **時間。** 原始版的成長像 {exponents["naive", "seconds"]}，融合版像 {exponents["fused", "seconds"]}；在 N = {at} 時，融合版的速度是原始版的 {speed:.1f} 倍。{trust.zh_tw}。
  沒有任何近似：query 看得到的每一對都有分數，套上遮罩後一共是 N(N + 1)/2 對。
- 所以同一個函式有兩條天差地別的記憶體曲線：N x N 的矩陣來自原始版的*寫法*，不是注意力*本身*的要求。""",
)

# %%
law = laws["naive", "bytes"]
further = 8 * at
long, heads = 131_072, 32
matrix = long**2 * heads * 2  # bytes, bfloat16
lab.say(
    f"""**Extrapolate.** By the fitted line, one head of naive attention at N = {further:,} would need
{law.factor * further**law.exponent / settings.heads / 1e9:.0f} GB. And by plain arithmetic: \
a single score matrix of a model with {heads} heads at a context of {long:,} tokens,
in bfloat16, is {long:,}² × {heads} × 2 bytes = {matrix / 2**40:.0f} TiB. No accelerator holds that, for one layer and one sequence.""",
    f"""**外推。** 照擬合出來的直線，單一個 head 的原始注意力在 N = {further:,} 時需要
{law.factor * further**law.exponent / settings.heads / 1e9:.0f} GB。再單純算一下：一個有 {heads} 個 head 的模型，上下文 {long:,} 個 token，用 bfloat16 存一個分數矩陣，
就是 {long:,}² × {heads} × 2 位元組 = {matrix / 2**40:.0f} TiB。光是一層、一條序列，就沒有任何加速器放得下。""",
)

# %% [markdown] lang="en"
# ## Limits of this measurement
#
# - Few heads and one sequence. More of either multiplies both memories; the exponents stay.
# - The fused version is compiled C++ or CUDA. That it is fast proves neither that its algorithm is clever nor that its memory must be this small:
#   you will write the algorithm in plain PyTorch and put its curve beside these two in notebook 4.
# - Memory is exact, time is not: it depends on your machine and on what else it does. No gate looks at it.
#
# **Exercise.** Exercise 1 (`flash_attention.py`: scale, causal offset and `naive_attention`) belongs here, and is all that this notebook
# needs. Check it with `nox -s check -- lab-1.5-flashattention`.
#
# **Next:** how can a softmax be computed without ever seeing a whole row?

# %% [markdown] lang="zh-TW"
# ## 這次量測的限制
#
# - 只有很少的 head、一條序列。兩者增加時，兩種實作的記憶體都同倍數放大，指數不變。
# - 融合版是編譯好的 C++ 或 CUDA。它很快，並不證明演算法有多聰明，也不證明記憶體一定能這麼小：
#   你會用純 PyTorch 寫出這個演算法，在第 4 本筆記本把它的曲線畫在這兩條旁邊。
# - 記憶體是精確的，時間不是：它取決於你的機器，以及機器還在忙什麼。沒有任何關卡看時間。
#
# **練習。** 練習 1（`flash_attention.py`：scale、因果位移與 `naive_attention`）屬於這一本，這本也只需要它。用
# `nox -s check -- lab-1.5-flashattention` 檢查。
#
# **下一步：** 從頭到尾沒看過完整的一列，要怎麼算出 softmax？
