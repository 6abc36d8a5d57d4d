# %% [markdown] lang="en"
# # 2. FlashAttention, step by step
#
# **Question.** The softmax of a row needs the sum over the whole row. How can attention be exact if no row is ever complete?
#
# | | |
# |---|---|
# | You build | the argument in four steps (shift, merge, tiles, backward), and the evidence: random shapes against a float64 oracle, three mistakes that must be caught, and the same algorithm as a GPU kernel |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | how far tiled attention is from the oracle, beside naive attention; which inputs reveal which mistake |
#
# The code is in `flash_attention.py`, `tiling.py` and `triton_kernels.py`; read them beside this notebook.

# %% [markdown] lang="zh-TW"
# # 2. 一步一步看懂 FlashAttention
#
# **問題。** 一列的 softmax 需要整列的總和。如果從來沒有一列是完整的，注意力怎麼可能還是精確的？
#
# | | |
# |---|---|
# | 你會做出 | 分四步的推導（平移、合併、tile、反向傳播），以及證據：用隨機形狀對照 float64 的標準答案、三個一定要抓得到的錯誤，還有同一個演算法的 GPU kernel |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 分塊注意力離標準答案多遠，旁邊是原始注意力的距離；哪種輸入才看得出哪個錯誤 |
#
# 程式碼在 `flash_attention.py`、`tiling.py` 和 `triton_kernels.py`，請和這本筆記本對照著讀。

# %%
import functools
import math
import random

import numpy as np
import torch

from onepiece import lab
from onepiece.course.text import Text, tr

try:  # early: Triton chooses between compiler and interpreter when it is first imported
    from flash_attention_triton import INTERPRETED, flash_attention_triton, inner_loop_is_open
    kernel_missing = "exercise 7 is open" if inner_loop_is_open() else None
except ImportError as error:
    kernel_missing = str(error).splitlines()[0]

import attention_figures as figures
from broken_variants import State, broken_attention, broken_gradients, merge_without_rescale, zero_attention
from flash_attention import (
    empty_state,
    finish_softmax,
    flash_attention,
    naive_attention,
    online_softmax_merge,
    plan_tiles,
    row_dots,
    tile_gradients,
)

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one

# %% [markdown] lang="en"
# ## Step 1: what may one subtract from the scores?
#
# Subtracting the same number from every score changes nothing on paper:

# %% [markdown] lang="zh-TW"
# ## 第一步：分數可以減去什麼？
#
# 把每個分數都減去同一個數，紙上的結果不變：

# %% [markdown]
# $$\mathrm{softmax}(s)_j=\frac{e^{s_j}}{\sum_k e^{s_k}}=\frac{e^{s_j-m}}{\sum_k e^{s_k-m}}\qquad\forall\, m$$

# %% [markdown] lang="en"
# In floating point it changes everything. We shift the scores 98, 99 and 100 by different $m$:

# %% [markdown] lang="zh-TW"
# 但在浮點數裡，結果天差地別。我們把 98、99、100 這三個分數用不同的 $m$ 平移：

# %%
scores = torch.tensor([98.0, 99.0, 100.0])
rows = []
for shift in (0, 50, 100, 300):
    powers = torch.exp(scores - shift)
    rows.append([shift, *powers.tolist(), *(powers / powers.sum()).tolist()])
lab.table(["m", *(f"exp({s:.0f} - m)" for s in scores), "p1", "p2", "p3"], rows)

# %% [markdown] lang="en"
# Too small an $m$ overflows, too large an $m$ underflows, and both end in nan. The maximum of the row is the safe choice: the largest power
# is then $e^0 = 1$. But the maximum, too, belongs to the whole row.
#
# ## Step 2: can two parts of a row be merged?
#
# Split the keys of a row into two parts. Each part knows three things: its own maximum $m$, its own sum $\ell$ of $e^{s-m}$, and its own
# weighted sum $o$ of values. Both are relative to their *own* maximum, so before they can be added they must be brought to a common one:

# %% [markdown] lang="zh-TW"
# $m$ 太小會溢位，太大會下溢，最後都會得到 nan。整列的最大值是安全的選擇：最大的那一項就是 $e^0 = 1$。可是最大值也屬於整列。
#
# ## 第二步：一列的兩個部分能不能合併？
#
# 把一列的 key 分成兩部分。每一部分知道三件事：自己的最大值 $m$、自己的 $e^{s-m}$ 總和 $\ell$，以及自己的 value 加權總和 $o$。
# 兩邊都是相對於*自己的*最大值算的，所以要先換算到同一個最大值，才能相加：

# %% [markdown]
# $$m=\max(m_1,m_2),\qquad \ell = e^{m_1-m}\,\ell_1 + e^{m_2-m}\,\ell_2,\qquad o = e^{m_1-m}\,o_1 + e^{m_2-m}\,o_2,\qquad O = o/\ell$$

# %% [markdown] lang="en"
# The factors $e^{m_1-m}$ and $e^{m_2-m}$ are the **rescale**. In a loop, part 1 is everything so far and part 2 is the next block:

# %% [markdown] lang="zh-TW"
# 係數 $e^{m_1-m}$ 和 $e^{m_2-m}$ 就是**重新縮放**（rescale）。在迴圈裡，第 1 部分是到目前為止的一切，第 2 部分是下一個區塊：

# %%
lab.source(online_softmax_merge)

# %% [markdown] lang="en"
# Watch one row go by: 64 keys in blocks of 4. Whenever the running maximum rises, what was summed before shrinks by the same factor, and at
# the end the total is the one that the whole row gives. (The first factor is 0: there was nothing before.)

# %% [markdown] lang="zh-TW"
# 逐塊處理一列資料：64 個 key，每個區塊 4 個。每當目前最大值升高，先前累積的總和就按同樣的比例縮小；走到最後，
# 總和正好等於整列一次算出來的值。（第一個係數是 0，因為之前什麼都沒有。）

# %%
generator = torch.Generator().manual_seed(4)
row_scores = 3 * torch.randn(1, 64, generator=generator)  # (rows, keys)
row_values = torch.randn(64, 8, generator=generator)  # (keys, head_dim)
state = empty_state(torch.zeros(1, 8))
seen, maxima, totals, factors = [], [], [], []
for start in range(0, 64, 4):
    before = state.maximum
    state = online_softmax_merge(state, row_scores[:, start:start + 4], row_values[start:start + 4])
    seen.append(start + 4)
    maxima.append(state.maximum.item())
    totals.append(state.total.item())
    factors.append(torch.exp(before - state.maximum).item())
whole = torch.exp(row_scores - row_scores.max()).sum().item()

lab.figure(
    "running-softmax",
    figures.running_softmax(row_scores[0], seen, maxima, factors, totals, whole),
    Text(
        en="The running maximum, the factor that rescales the old sums, and the running total of one row.",
        zh_tw="一列資料的目前最大值、縮放舊總和的係數，以及累積總和。",
    ),
)

# %%
rescaled = sum(factor < 1 for factor in factors[1:])
lab.say(
    f"{rescaled} of {len(factors) - 1} merges really rescale anything: with every key seen, a new maximum becomes rarer. "
    "(Newer kernels skip the multiplication when it does nothing.)",
    f"{len(factors) - 1} 次合併裡，真正有縮放的只有 {rescaled} 次：看過的 key 愈多，就愈少出現新的最大值。"
    "（較新的 kernel 會在沒有作用時略過這次乘法。）",
)

# %% [markdown] lang="en"
# If the merge is right, neither the cuts nor the order of the blocks can matter. We try both at random, in float64, where a mistake
# cannot hide behind rounding:

# %% [markdown] lang="zh-TW"
# 合併如果正確，怎麼切、照什麼順序都不該有影響。切法和順序我們都隨機試，而且用 float64，錯誤才不會被捨入誤差蓋過去：

# %%
def merge_in_random_order(merge, scores, values, chance):
    """The softmax-weighted values of one row: keys shuffled, and cut into blocks of random sizes."""
    order = chance.sample(range(scores.shape[-1]), scores.shape[-1])
    state = empty_state(torch.zeros(1, values.shape[-1], dtype=scores.dtype))
    while order:
        size = chance.randint(1, 16)
        block, order = order[:size], order[size:]
        state = merge(state, scores[:, block], values[block])
    return finish_softmax(state)[0]


def forgetful_merge(state, scores, values):
    return merge_without_rescale(State(*state), scores, values)


def uniform_merge(state, scores, values):
    return online_softmax_merge(state, torch.zeros_like(scores), values)  # each key counts the same, whatever its score


rows = []
for seed in settings.seeds:
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(1, 100, generator=generator, dtype=torch.float64)
    values = torch.randn(100, 8, generator=generator, dtype=torch.float64)
    whole = torch.softmax(scores, dim=-1) @ values
    largest = {}
    for merge in (online_softmax_merge, forgetful_merge, uniform_merge):
        chance = random.Random(seed)
        merged = [merge_in_random_order(merge, scores, values, chance) for _ in range(50)]
        largest[merge] = max((output - whole).abs().max().item() for output in merged)
    lab.record("merge_order_difference", largest[online_softmax_merge], seed=seed)
    lab.record("merge_order_difference", largest[forgetful_merge], seed=seed, variant="no_rescale")
    lab.record("merge_order_difference", largest[uniform_merge], seed=seed, variant="uniform")
    rows.append([seed, *(f"{value:.1e}" for value in largest.values())])
columns = [("largest of 50 differences", "50 個差異中最大的"), ("no rescale", "少了重新縮放"), ("all keys alike", "每個 key 都一樣")]
lab.table(["seed", *(tr(*column) for column in columns)], rows)

# %% [markdown] lang="en"
# ## Step 3: tiles
#
# Now do this for a block of queries at a time, against one block of keys after the other. The score matrix is never there, only one tile
# of it. And with a causal mask many tiles are empty: they are not even loaded. Here is the geometry for two small problems, the
# second one ragged, with fewer queries than keys (a chunk of a longer text whose beginning is in the cache):

# %% [markdown] lang="zh-TW"
# ## 第三步：tile
#
# 接下來一次處理一個 query 區塊，依序和每一個 key 區塊計算。分數矩陣從來不存在，只有其中一個 tile 存在。
# 有因果遮罩時，許多 tile 是空的，連載入都不必。下面畫出兩個小例子的 tile，第二個長度除不盡，而且 query 比 key 少
# （一段長文的後半，前半已經在快取裡）：

# %%
def tile_map(query_len, key_len, block_queries, block_keys):
    """What happens to each score (query_len, key_len): its tile is skipped, masked or computed without a mask."""
    queries, keys = torch.empty(1, 1, query_len, 1), torch.empty(1, 1, key_len, 1)
    tiling = plan_tiles(queries, keys, True, block_queries, block_keys)
    kinds = np.full((query_len, key_len), figures.EMPTY)
    for rows in tiling.all_query_blocks():
        for columns in tiling.key_blocks(rows):
            kinds[rows, columns] = figures.MASKED if tiling.needs_mask(rows, columns) else figures.FULL
    return tiling, kinds


lab.figure(
    "tiles",
    figures.tile_maps([tile_map(24, 24, 4, 6), tile_map(14, 32, 4, 6)]),
    Text(
        en="Which tiles a causal forward pass visits; the black line is the causal border.",
        zh_tw="因果前向傳播會走訪哪些 tile；黑線是因果邊界。",
    ),
)

# %%
_, kinds = tile_map(4096, 4096, settings.block, settings.block)
empty, masked, full = ((kinds == kind).mean() for kind in (figures.EMPTY, figures.MASKED, figures.FULL))
lab.say(
    f"At 4096 tokens in tiles of {settings.block}: {empty:.1%} of the matrix is skipped, {masked:.1%} is computed under a mask, "
    f"{full:.1%} needs no mask at all.",
    f"4096 個 token、tile 邊長 {settings.block} 時：矩陣的 {empty:.1%} 直接略過，{masked:.1%} 要套遮罩，"
    f"{full:.1%} 完全不需要遮罩。",
)

# %% [markdown] lang="en"
# ## Step 4: backward, without having kept the weights
#
# Autograd through the loop would keep every tile for the backward pass, and $N^2$ would be back. FlashAttention keeps $O$ and one number per
# row, the **logsumexp** $L_i = m_i + \log \ell_i$, and recomputes each tile of weights when it needs it:

# %% [markdown] lang="zh-TW"
# ## 第四步：反向傳播，而且沒有留下權重
#
# 如果讓 autograd 穿過這個迴圈，它會為反向傳播留下每一個 tile，$N^2$ 就又回來了。FlashAttention 只留下 $O$ 和每列一個數字，
# 也就是 **logsumexp** $L_i = m_i + \log \ell_i$；需要權重時，再把那個 tile 重算出來：

# %% [markdown]
# $$P_{ij}=e^{S_{ij}-L_i},\qquad dV=P^\top dO,\qquad dP=dO\,V^\top$$
# $$dS_{ij}=P_{ij}\,(dP_{ij}-D_i),\qquad D_i=\sum_k P_{ik}\,dP_{ik},\qquad dQ=\tfrac1{\sqrt d}\,dS\,K,\qquad dK=\tfrac1{\sqrt d}\,dS^\top Q$$

# %% [markdown] lang="en"
# $D_i$ looks like trouble: a sum over all keys, while we hold one tile. But put $dP_{ik} = dO_i \cdot V_k$ in:

# %% [markdown] lang="zh-TW"
# $D_i$ 看起來很麻煩：它是對所有 key 的總和，而我們手上只有一個 tile。但把 $dP_{ik} = dO_i \cdot V_k$ 代進去：

# %% [markdown]
# $$D_i=\sum_k P_{ik}\,(dO_i\cdot V_k)=dO_i\cdot\sum_k P_{ik}V_k=dO_i\cdot O_i$$

# %% [markdown] lang="en"
# One dot product of two vectors that are at hand. So each tile can work on its own:

# %% [markdown] lang="zh-TW"
# 只是手邊兩個向量的一次內積。於是每個 tile 都可以自己算自己的：

# %%
generator = torch.Generator().manual_seed(0)
weights = torch.softmax(torch.randn(50, 70, generator=generator, dtype=torch.float64), dim=-1)
values = torch.randn(70, 16, generator=generator, dtype=torch.float64)
grad_output = torch.randn(50, 16, generator=generator, dtype=torch.float64)
by_definition = (weights * (grad_output @ values.T)).sum(dim=-1)
difference = (by_definition - row_dots(grad_output, weights @ values)).abs().max()
print(tr("D by its definition and as a dot product differ by", "依定義計算的 D 與用內積計算的 D 相差"), f"{difference:.1e}")
lab.source(tile_gradients)

# %% [markdown] lang="en"
# ## Is it exact?
#
# **Predict** the largest absolute error of the tiled output in float32, against naive attention in float64, over random shapes with inputs of
# variance 1: `tiled_error = ...` in `predictions.toml`. And will it be larger than the error of *naive* attention in float32?
#
# Shapes are drawn, not chosen: one or several sequences, grouped heads, lengths that no block divides, more or fewer keys than queries, causal
# or full, blocks from 3 to 80 tokens. Forward and gradients, in float32 and in float64.

# %% [markdown] lang="zh-TW"
# ## 真的精確嗎？
#
# **先猜猜看：** 輸入的變異數為 1，形狀隨機，分塊版的 float32 輸出與 float64 原始注意力的最大絕對誤差是多少？寫進 `predictions.toml`：
# `tiled_error = ...`。它會比*原始版*的 float32 誤差更大嗎？
#
# 形狀是抽出來的，不是挑出來的：一條或多條序列、分組的 head、任何區塊都除不盡的長度、key 比 query 多或少、因果或完整、
# 區塊從 3 到 80 個 token。前向與梯度都比，float32 與 float64 都比。

# %%
def random_case(seed, trial):
    """Float64 tensors and the options of one random attention call."""
    chance, generator = random.Random(f"{seed}/{trial}"), torch.Generator().manual_seed(1000 * seed + trial)
    batch, kv_heads, group = chance.randint(1, 2), chance.randint(1, 2), chance.randint(1, 3)
    query_len, key_len, head_dim = chance.randint(1, 200), chance.randint(1, 200), chance.choice([8, 16, 32, 64])

    def draw(heads, length):  # (batch, heads, length, head_dim)
        return torch.randn(batch, heads, length, head_dim, generator=generator).double().to(settings.device)

    heads = kv_heads * group
    tensors = draw(heads, query_len), draw(kv_heads, key_len), draw(kv_heads, key_len), draw(heads, query_len)
    return tensors, trial % 2 == 0, {"block_queries": chance.randint(3, 80), "block_keys": chance.randint(3, 80)}


def run(attend, tensors, dtype, **options):
    """Output and the gradients of queries, keys and values."""
    *inputs, grad_output = (tensor.to(dtype) for tensor in tensors)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    output = attend(*inputs, **options)
    return output.detach(), torch.autograd.grad(output, inputs, grad_output)


def largest_error(got, want):
    """Over all tensors; a nan is an infinite error."""
    differences = [(g.double() - w).abs() for g, w in zip(got, want, strict=True)]
    return max(torch.nan_to_num(difference, nan=math.inf).max().item() for difference in differences)


def error_of_zeros(want):
    """What the null system is off by: attention that returns zeros, and so has gradients of zero."""
    return largest_error([torch.zeros_like(tensor) for tensor in want], want)


single, double = torch.float32, torch.float64
errors = {}  # (what, variant) -> one error per case
for seed in settings.seeds:
    found = {}
    for trial in lab.progress(range(settings.trials)):
        tensors, causal, blocks = random_case(seed, trial)
        oracle, oracle_gradients = run(naive_attention, tensors, double, causal=causal)
        for name, attend, dtype in (
            ("tiled", functools.partial(flash_attention, **blocks), single),
            ("naive", naive_attention, single),
            ("tiled, float64", functools.partial(flash_attention, **blocks), double),
        ):
            output, gradients = run(attend, tensors, dtype, causal=causal)
            found.setdefault(("output", name), []).append(largest_error([output], [oracle]))
            found.setdefault(("gradients", name), []).append(largest_error(gradients, oracle_gradients))
        found.setdefault(("output", "zeros"), []).append(error_of_zeros([oracle]))
        found.setdefault(("gradients", "zeros"), []).append(error_of_zeros(oracle_gradients))
    for key, values in found.items():
        errors.setdefault(key, []).extend(values)
    worst = {key: max(values) for key, values in found.items()}
    lab.record("tiled_error", worst["output", "tiled"], seed=seed)
    lab.record("tiled_error", worst["output", "naive"], seed=seed, variant="naive_float32")
    lab.record("tiled_error", worst["output", "zeros"], seed=seed, variant="zeros")
    lab.record("tiled_gradient_error", worst["gradients", "tiled"], seed=seed)
    lab.record("tiled_gradient_error", worst["gradients", "naive"], seed=seed, variant="naive_float32")
    lab.record("tiled_gradient_error", worst["gradients", "zeros"], seed=seed, variant="zeros")
    both = {name: max(worst["output", name], worst["gradients", name]) for name in ("tiled, float64", "tiled", "zeros")}
    lab.record("tiled_error_float64", both["tiled, float64"], seed=seed)
    lab.record("tiled_error_float64", both["tiled"], seed=seed, variant="float32")
    lab.record("tiled_error_float64", both["zeros"], seed=seed, variant="zeros")

# %%
columns = [("against naive float64", "對照 float64 原始版"), ("median error", "誤差中位數"), ("largest error", "最大誤差")]
rows = [[f"{name}: {what}", float(np.median(found)), max(found)] for (what, name), found in errors.items()]
lab.table([tr(*column) for column in columns], rows)
lab.figure(
    "exactness",
    figures.exactness(errors),
    Text(
        en="One point per random shape: error of naive and of tiled attention in float32, both against naive float64. "
        "On the line both are equally exact.",
        zh_tw="每個隨機形狀一個點：float32 的原始注意力與分塊注意力，各自對照 float64 原始版的誤差。落在線上表示兩者一樣精確。",
    ),
)

# %%
worst = {name: max(errors["output", name]) for name in ("tiled", "naive", "zeros")}
guess = lab.predict("tiled_error")
better = np.mean(np.array(errors["output", "tiled"]) <= np.array(errors["output", "naive"]))
guessed = Text("", "") if guess is None else Text(f" (you guessed {guess:g})", f"（你猜 {guess:g}）")
lab.say(
    f"The largest error of the tiled output is {worst['tiled']:.1e}, of the naive one {worst['naive']:.1e}{guessed.en}. "
    f"In {better:.0%} of {len(errors['output', 'tiled'])} shapes tiled is at least as close to the truth as naive. It is not an "
    f"approximation: it is the same sum in another order. (Attention that returns zeros is {worst['zeros']:.1f} off.)",
    f"分塊版輸出的最大誤差是 {worst['tiled']:.1e}，原始版是 {worst['naive']:.1e}{guessed.zh_tw}。"
    f"{len(errors['output', 'tiled'])} 個形狀中有 {better:.0%}，分塊版至少和原始版一樣接近真值。這不是近似，而是換一個順序做同樣的加總。"
    f"（只會回傳零的注意力差了 {worst['zeros']:.1f}。）",
)

# %% [markdown] lang="en"
# ## What breaks
#
# A test that nothing fails proves little. `broken_variants.py` has attention with exactly one mistake. Three of them, on the same
# random shapes; and for the gradients, the one that forgets $D$:
#
# - `no_rescale`: the old sums are not brought to the new maximum;
# - `no_maximum`: $e^{s}$ without subtracting anything, so there is nothing to rescale;
# - `sum_before_maximum`: the new terms of the total are taken relative to the old maximum.
#
# **Predict:** which of the three is invisible on inputs of this size?

# %% [markdown] lang="zh-TW"
# ## 什麼會壞掉
#
# 什麼都能通過的測試，證明不了什麼。`broken_variants.py` 裡的注意力各有剛好一個錯誤。拿其中三個跑同樣的隨機形狀；
# 梯度則用忘記 $D$ 的那個：
#
# - `no_rescale`：舊的總和沒有換算到新的最大值；
# - `no_maximum`：直接算 $e^{s}$，什麼都不減，所以也沒有東西要縮放；
# - `sum_before_maximum`：總和的新項是相對於舊的最大值算的。
#
# **先猜猜看：** 在這種大小的輸入下，三個錯誤裡哪一個看不出來？

# %%
mistakes = ("no_rescale", "no_maximum", "sum_before_maximum")
rows = []
for seed in settings.seeds:
    worst = dict.fromkeys((*mistakes, "no_row_dots"), 0.0)
    for trial in range(settings.trials):
        tensors, causal, _ = random_case(seed, trial)
        *inputs, grad_output = (tensor.float() for tensor in tensors)
        oracle, oracle_gradients = run(naive_attention, tensors, double, causal=causal)
        for mistake in mistakes:
            output = broken_attention(*inputs, mistake, causal=causal, block_keys=16)
            worst[mistake] = max(worst[mistake], largest_error([output], [oracle]))
        if not causal or inputs[0].shape[2] <= inputs[1].shape[2]:  # every query sees a key
            gradients = broken_gradients(*inputs, grad_output, "no_row_dots", causal=causal)
            worst["no_row_dots"] = max(worst["no_row_dots"], largest_error(gradients, oracle_gradients))
    lab.record("tiled_error", worst["no_rescale"], seed=seed, variant="no_rescale")
    lab.record("tiled_error", worst["no_maximum"], seed=seed, variant="no_maximum")
    lab.record("tiled_error", worst["sum_before_maximum"], seed=seed, variant="sum_before_maximum")
    lab.record("tiled_gradient_error", worst["no_row_dots"], seed=seed, variant="no_row_dots")
    rows.append([seed, *worst.values()])
lab.table(["seed", *worst], rows)

# %% [markdown] lang="en"
# So a mistake can pass a test on gentle inputs. Turn up the size of the scores, as outliers in a trained model do, and look again. Points at the
# top are inf or nan:

# %% [markdown] lang="zh-TW"
# 可見輸入太溫和時，錯誤也可能通過測試。把分數調大（訓練好的模型裡的離群值就會這樣），再看一次。最上緣的點是 inf 或 nan：

# %%
generator = torch.Generator().manual_seed(0)
tensors = [torch.randn(1, 2, 128, 32, generator=generator).double().to(settings.device) for _ in range(3)]
stretches = [2.0**power for power in range(-6, 9)]
attentions = {"tiled": functools.partial(flash_attention, block_keys=16), "naive": naive_attention}
attentions |= {mistake: functools.partial(broken_attention, mistake=mistake, block_keys=16) for mistake in mistakes}
attentions["zeros"] = zero_attention
ceiling = 1e3
by_size = {name: [] for name in attentions}
largest_scores = []
for stretch in stretches:
    stretched = [tensors[0] * stretch, *tensors[1:]]
    oracle = naive_attention(*stretched)
    largest_scores.append((stretched[0] @ stretched[1].transpose(-2, -1)).abs().max().item() / math.sqrt(32))
    for name, attend in attentions.items():
        error = largest_error([attend(*(tensor.float() for tensor in stretched))], [oracle])
        by_size[name].append(error)

overflow = math.log(torch.finfo(torch.float32).max)
drawn = {name: by_size[name] for name in ("tiled", "naive", *mistakes)}
lab.figure(
    "mistakes",
    figures.mistakes_over_scores(largest_scores, drawn, overflow, ceiling),
    Text(
        en="Error in float32 of tiled and naive attention and of three mistakes, over the size of the scores; the upper edge stands for inf and nan.",
        zh_tw="分塊與原始注意力，以及三種錯誤的 float32 誤差，隨分數大小的變化；上緣代表 inf 或 nan。",
    ),
)

# %%
lab.record("large_score_error", max(by_size["tiled"]))
lab.record("large_score_error", max(by_size["no_maximum"]), variant="no_maximum")
lab.record("large_score_error", max(by_size["zeros"]), variant="zeros")
sizes = zip(largest_scores, by_size["no_maximum"], strict=True)
broken_from = next((size for size, error in sizes if error >= ceiling), math.inf)
ratios = {name: np.array(by_size[name]) / by_size["naive"] for name in ("no_rescale", "sum_before_maximum")}
always = [name for name, ratio in ratios.items() if min(ratio) > 100]
lab.say(
    f"""- `no_maximum` follows the right algorithm and breaks at scores of {broken_from:.0f}. **Test with inputs that can show the mistake**: that is why
  this lab also has the gate `large_score_error`.
- More than 100 times the error of naive attention at every size: {", ".join(f"`{name}`" for name in always)}. Smaller scores make the error smaller,
  because then the maxima of the blocks hardly differ, but never as small as rounding.
- Naive and tiled attention lose digits together as the scores grow: a large float32 number has coarse steps, and the exponential of its
  rounding error is a relative error.""",
    f"""- `no_maximum` 原本跟正確的演算法一樣精確，分數到 {broken_from:.0f} 時就壞掉了。**測試要用看得出錯誤的輸入**：所以這個實驗還有一道關卡
  `large_score_error`。
- 在任何大小下，誤差都超過原始注意力 100 倍的是：{"、".join(f"`{name}`" for name in always)}。分數愈小，各區塊的最大值差得愈少，
  誤差也就愈小，但從來沒有小到像捨入誤差。
- 分數變大時，原始版和分塊版會一起損失精度：float32 的數字愈大，間距愈粗，而捨入誤差經過指數函數，就成了相對誤差。""",
)

# %% [markdown] lang="en"
# ## The same algorithm as a GPU kernel
#
# `triton_kernels.py` is the same two loops, once more: one program per block of queries (forward) or keys (backward), tiles in the fast memory
# of a multiprocessor, and the inner loop inside the kernel. On an NVIDIA GPU it is compiled. Elsewhere Triton's interpreter runs the
# same source with NumPy: slow, but it tells whether the kernel is right.

# %% [markdown] lang="zh-TW"
# ## 同一個演算法，寫成 GPU kernel
#
# `triton_kernels.py` 是同樣的兩層迴圈，再寫一次：每個 program 負責一個 query 區塊（前向）或 key 區塊（反向），tile 放在多處理器的快速記憶體裡，
# 內層迴圈就在 kernel 裡面。有 NVIDIA GPU 時會編譯；沒有的話，Triton 的直譯器會用 NumPy 執行同一份原始碼：很慢，但能告訴你 kernel 對不對。

# %% [markdown] lang="en"
# A kernel that is tested on one tile has never merged anything. So: several key tiles, a last one that is not full, fewer key/value heads than
# query heads, more and fewer keys than queries. Beside it stands what the same kernel gives when its inner loop forgets the rescale.

# %% [markdown] lang="zh-TW"
# 只用一個 tile 測試的 kernel，從來沒有合併過任何東西。所以這裡要有好幾個 key tile、最後一個填不滿、key/value head 比 query head 少、
# key 比 query 多也比它少。旁邊放的是：同一個 kernel 的內層迴圈忘了重新縮放，會得到什麼。

# %%
def draw_tensors(seed, query_len, key_len, head_dim, heads, kv_heads):
    """Float64 queries, keys, values and gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (heads, query_len), (kv_heads, key_len), (kv_heads, key_len), (heads, query_len)
    drawn = [torch.randn(1, count, length, head_dim, generator=generator) for count, length in sizes]
    return [tensor.double().to(settings.device) for tensor in drawn]


def forget_rescale(tensors, first_row, block_keys, dtype, causal):
    """Output and gradients of a forward pass without the rescale, on the rows that see a key."""
    queries, keys, values, grad_output = (tensor.to(dtype) for tensor in tensors)
    queries, grad_output = queries[:, :, first_row:], grad_output[:, :, first_row:]
    options = {"causal": causal, "block_keys": block_keys}
    output = broken_attention(queries, keys, values, "no_rescale", **options)
    return output, broken_gradients(queries, keys, values, grad_output, "no_rescale", **options)


def kernel_errors(tensors, causal, block_queries, block_keys):
    """Errors in float32 of output and of gradients: of the kernel, without the rescale, and of zeros."""
    oracle, oracle_gradients = run(naive_attention, tensors, double, causal=causal)
    blocks = {"block_queries": block_queries or None, "block_keys": block_keys or None}  # 0: the kernel's own choice
    output, gradients = run(flash_attention_triton, tensors, single, causal=causal, **blocks)
    first_row = max(0, tensors[0].shape[2] - tensors[1].shape[2]) if causal else 0
    seeing = [oracle[:, :, first_row:]], [oracle_gradients[0][:, :, first_row:], *oracle_gradients[1:]]
    forgot, forgot_gradients = forget_rescale(tensors, first_row, block_keys or 32, single, causal)
    return {
        None: (largest_error([output], [oracle]), largest_error(gradients, oracle_gradients)),
        "no_rescale": (largest_error([forgot], seeing[0]), largest_error(forgot_gradients, seeing[1])),
        "zeros": tuple(error_of_zeros(truth) for truth in seeing),
    }


rows = []
if kernel_missing is None:
    heads, kv_heads = settings.triton_heads
    for seed, (query_len, key_len) in zip(settings.seeds, settings.triton_lengths, strict=True):
        tensors = draw_tensors(seed, query_len, key_len, 16, heads, kv_heads)
        cases = [kernel_errors(tensors, causal, *settings.triton_blocks) for causal in (True, False)]
        for variant in (None, "no_rescale", "zeros"):
            forward, backward = (max(case[variant][index] for case in cases) for index in (0, 1))
            lab.record("triton_error", forward, seed=seed, variant=variant)
            lab.record("triton_gradient_error", backward, seed=seed, variant=variant)
            rows.append([f"{query_len} × {key_len}", variant or "kernel", f"{forward:.1e}", f"{backward:.1e}"])
    lab.table([tr("queries × keys", "query × key"), tr("what", "什麼"), tr("output", "輸出"), tr("gradients", "梯度")], rows)

# %% [markdown] lang="en"
# Models run in 16 bits. There the truth is not within reach: even naive attention is off by the rounding of its dtype. So the question becomes how many
# times as far from the truth the kernel is as naive attention *in the same dtype*, with heads as wide as real models have them:

# %% [markdown] lang="zh-TW"
# 模型用 16 位元跑。這時不可能完全命中真值：連原始注意力也差了一個 dtype 的捨入。所以問題變成：用真實模型的 head 寬度，kernel 離真值的距離，
# 是*同一個 dtype* 的原始注意力的幾倍？

# %%
def error_ratios(tensors, dtype, causal, block_queries, block_keys):
    """How many times the error of naive attention in `dtype`: of the kernel, without the rescale, of zeros."""
    tensors = [tensor.to(dtype).double() for tensor in tensors]  # the truth about the rounded inputs
    oracle, oracle_gradients = run(naive_attention, tensors, double, causal=causal)
    naive = run(naive_attention, tensors, dtype, causal=causal)
    blocks = {"block_queries": block_queries or None, "block_keys": block_keys or None}
    candidates = {
        None: run(flash_attention_triton, tensors, dtype, causal=causal, **blocks),
        "no_rescale": forget_rescale(tensors, 0, block_keys or 32, single, causal),
        "zeros": (oracle * 0, [gradient * 0 for gradient in oracle_gradients]),
    }

    def ratio(got, of, want):
        return largest_error([got], [want]) / largest_error([of], [want])

    ratios = {}
    for name, (output, gradients) in candidates.items():
        of_gradients = [ratio(*triple) for triple in zip(gradients, naive[1], oracle_gradients, strict=True)]
        ratios[name] = ratio(output, naive[0], oracle), max(of_gradients)
    return ratios


if kernel_missing is None:
    rows, found = [], {}
    for dtype in (torch.float16, torch.bfloat16):
        for head_dim in (64, 128):
            tensors = draw_tensors(0, *settings.triton_half_lengths, head_dim, 2, 1)
            for causal in (True, False):
                for name, ratios in error_ratios(tensors, dtype, causal, *settings.triton_half_blocks).items():
                    found.setdefault(name, []).append(ratios)
                shown = [f"{value:.2f}" for value in found[None][-1]]
                rows.append([str(dtype), head_dim, tr("causal", "因果") if causal else tr("full", "完整"), *shown])
    lab.table(["", "head_dim", "", tr("output", "輸出"), tr("gradients", "梯度")], rows)
    lab.record("triton_half_ratio", max(forward for forward, _ in found[None]))
    lab.record("triton_half_gradient_ratio", max(backward for _, backward in found[None]))
    for variant in ("no_rescale", "zeros"):  # the case that comes nearest to passing
        lab.record("triton_half_ratio", min(forward for forward, _ in found[variant]), variant=variant)
        lab.record("triton_half_gradient_ratio", min(backward for _, backward in found[variant]), variant=variant)
    how = Text("compiled", "編譯後執行")
    if INTERPRETED:
        how = Text("in the interpreter (no NVIDIA GPU here)", "在直譯器裡執行（這裡沒有 NVIDIA GPU）")
    lab.say(f"The kernels ran {how.en}.", f"這些 kernel 是{how.zh_tw}。")
else:
    lab.say(
        f"The kernels did not run: {kernel_missing}. (Triton exists for Linux.) What they are to be is not measured here.",
        f"這些 kernel 沒有執行：{kernel_missing}。（Triton 只有 Linux 版。）相關的項目在這裡沒有量測。",
    )

# %% [markdown] lang="en"
# ## What the numbers said, and their limits
#
# - Attention needs no complete row: two numbers and one vector of `head_dim` numbers per query (maximum, total, output so far) carry
#   everything, in any order.
# - The backward pass needs no stored weights: one number per row brings them back, and $D$ is a dot product.
# - Tiled attention is as exact as naive attention. It may differ from it in the last bits, because floating-point sums depend on their order: compare
#   with a float64 oracle, not with `==`.
# - The lengths here are short, so that the oracle fits and the test is quick. Errors grow slowly with the length; notebook 3 trains with
#   both at once and compares the losses.
#
# **Exercises.** 1 (mask and naive attention), 2 (the merge) and 3 (finish, and the forward loop) are steps 1 to 3, exercise 4 (`tiling.py`) is
# the picture of the tiles, exercise 5 (`row_dots`, `tile_gradients`) is step 4. Exercise 7 (`triton_kernels.py`, a stretch) is the inner
# loop of the kernel. `nox -s check -- lab-1.5-flashattention` recognises the mistakes
# of this notebook in your code.
#
# <details><summary>Something to try</summary>
#
# Split the keys over two workers, let each do attention over its half, and merge the two states at the end. Which three tensors must travel?
# That is how decoding over a long cache is parallelised (Flash-Decoding), and how a sequence is spread over several GPUs (ring attention).
# </details>

# %% [markdown] lang="zh-TW"
# ## 數字說了什麼，以及它們的限制
#
# - 注意力不需要完整的一列：每個 query 只要兩個數字和一個 `head_dim` 維的向量（最大值、總和、目前的輸出）就有全部的資訊，而且順序隨意。
# - 反向傳播不需要存下權重：每列一個數字就能把它們算回來，而 $D$ 只是一次內積。
# - 分塊注意力和原始注意力一樣精確。兩者的最後幾個位元可能不同，因為浮點數加總的結果與順序有關：請對照 float64 的標準答案，不要用 `==`。
# - 這裡的長度很短，標準答案才放得下，測試才跑得快。誤差會隨長度緩慢增加；第 3 本筆記本會用兩種注意力同時訓練，比較損失。
#
# **練習。** 練習 1（遮罩與原始注意力）、2（合併）、3（收尾與前向迴圈）是第一到第三步；練習 4（`tiling.py`）就是那張 tile 的圖；
# 練習 5（`row_dots`、`tile_gradients`）是第四步；練習 7（`triton_kernels.py`，進階）是 kernel 的內層迴圈。`nox -s check -- lab-1.5-flashattention` 認得出這本筆記本裡的錯誤。
#
# <details><summary>可以試試看</summary>
#
# 把 key 分給兩個 worker，各自對自己那一半做注意力，最後再合併兩邊的狀態。哪三個張量必須傳送？
# 長快取的解碼就是這樣平行化的（Flash-Decoding），一條序列也是這樣分散到多張 GPU 上的（ring attention）。
# </details>
