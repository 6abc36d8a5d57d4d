# %% [markdown] lang="en"
# # 4. Where the time goes
#
# **Question.** For each pair of tokens tiled attention does what naive attention does, and rescales on top. Why is it the faster one on a GPU,
# and how do you see that without a GPU?
#
# | | |
# |---|---|
# | You build | a count of every element that crosses between slow and fast memory, a formula that predicts it exactly, a block-size sweep, a roofline, and a table of every implementation on your machine |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | whether count and formula agree to the last element; what more fast memory buys, and in which loop order; how the largest temporary depends on the length; how many scores a causal mask saves |

# %% [markdown] lang="zh-TW"
# # 4. 時間花到哪裡去了
#
# **問題。** 對每一對 token，分塊注意力要做的事跟原始版一樣，另外還要重新縮放。為什麼在 GPU 上它反而快？沒有 GPU 的話，要怎麼看出來？
#
# | | |
# |---|---|
# | 你會做出 | 逐一數出每個跨越慢速與快速記憶體的元素，一條完全準確預測它的公式，一次區塊大小掃描，一張 roofline 圖，還有你這台機器上所有實作的比較表 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 數出來的和公式算的是否一個元素都不差；快速記憶體變大有什麼好處，又是在哪一種迴圈順序下；最大的暫存張量跟長度有什麼關係；因果遮罩省下多少分數 |

# %%
import contextlib
import functools
import importlib
import random
import warnings
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import attention_figures as figures
from flash_attention import default_scale, flash_attention, naive_attention, plan_tiles, tiled_forward
from keys_outer import block_keys_for_sram, count_keys_outer, keys_outer_traffic
from memory_traffic import (
    AttentionShape,
    attention_flops,
    block_queries_for_sram,
    count_naive_forward,
    count_tiled_backward,
    count_tiled_forward,
    count_tiled_pairs,
    largest_temporary,
    naive_forward_traffic,
    sram_elements,
    theorem_flash,
    tiled_backward_traffic,
    tiled_forward_traffic,
)
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.measure import peak_memory, timed
from power_law import fit_power_law
from tiling import Traffic

with contextlib.suppress(ImportError):  # early: at its first import Triton chooses between compiler and interpreter
    importlib.import_module("flash_attention_triton")

settings = lab.settings
torch.set_num_threads(1)  # on two threads every small tile would wait for the slower one
dtype = getattr(torch, settings.attention_dtype)
element_bytes = dtype.itemsize

# %% [markdown] lang="en"
# ## Two memories
#
# A GPU has a large slow memory (HBM, tens of gigabytes) and a small fast one per multiprocessor (SRAM, some hundred kilobytes).
# Arithmetic happens beside the fast one. What a kernel costs is decided by the slower of two things: the arithmetic, or carrying its
# operands across.
#
# Naive attention is three kernels, and the score matrix makes a round trip between each two of them. Tiled attention carries tiles of
# $Q$, $K$, $V$ in and the output out, and nothing of size $N^2$ ever crosses. Theorem 2 of the FlashAttention paper puts it in
# numbers, for $M$ elements of fast memory. It is proved for the loop order of that paper, keys outside and queries inside; our loops
# have the order of FlashAttention-2, queries outside. We will look at both:

# %% [markdown] lang="zh-TW"
# ## 兩種記憶體
#
# GPU 有一塊又大又慢的記憶體（HBM，數十 GB），每個多處理器旁邊還有一塊又小又快的（SRAM，幾百 KB）。算術就在快速記憶體旁邊進行。
# 一個 kernel 要花多久，取決於兩件事中較慢的那件：算術本身，或是把運算元搬過來。
#
# 原始注意力是三個 kernel，分數矩陣在每兩個 kernel 之間都要來回一趟。分塊注意力把 $Q$、$K$、$V$ 的 tile 搬進來、把輸出搬出去，
# 沒有任何 $N^2$ 大小的東西會跨過去。FlashAttention 論文的定理 2 把這件事寫成數字，其中快速記憶體放得下 $M$ 個元素。定理證明的是那篇論文的
# 迴圈順序：外層是 key，內層是 query；我們的迴圈則是 FlashAttention-2 的順序，外層是 query。兩種都會看到：

# %% [markdown]
# $$\text{naive: } \Theta(Nd + N^2) \qquad\qquad \text{tiled: } \Theta\!\left(\frac{N^2 d^2}{M}\right)$$

# %% [markdown] lang="en"
# ## Count, then compute
#
# The loops of `tiled_forward` and `tiled_backward` call `traffic.load` and `traffic.store` at every crossing. We run them on the CPU on
# tensors of zeros, for what crosses does not depend on the numbers. (Naive attention is counted on PyTorch's meta device, which knows
# shapes only.) The formulas never look at the loops; the forward one is exercise 6. `keys_outer.py` has the loops of FlashAttention-1 in
# the same way. A formula is only right if it agrees on ragged lengths, grouped heads, odd blocks, causal and full:

# %% [markdown] lang="zh-TW"
# ## 先數，再算
#
# `tiled_forward` 和 `tiled_backward` 的迴圈在每次跨越時都會呼叫 `traffic.load` 或 `traffic.store`。我們在 CPU 上用全是零的張量執行它們，
# 因為搬多少跟數值無關。（原始版則在 PyTorch 的 meta 裝置上數，它只知道形狀。）公式完全不看迴圈，前向的公式是練習 6。
# `keys_outer.py` 用同樣的方式寫出 FlashAttention-1 的迴圈。長度除不盡、分組的 head、奇怪的區塊大小、因果或完整，公式都得對得上，才算正確：

# %%
def random_shape(chance, causal):
    kv_heads = chance.choice([1, 2])
    shape = AttentionShape(
        query_len=chance.randint(80, 400), key_len=chance.randint(80, 400), head_dim=chance.choice([16, 32, 64]),
        batch=chance.randint(1, 2), heads=kv_heads * chance.choice([1, 3]), kv_heads=kv_heads, causal=causal,
    )
    return shape, chance.randint(16, 60), chance.randint(16, 60)


def apart(one, other):
    return abs(one.loaded - other.loaded) + abs(one.stored - other.stored)


rows = []
for seed in settings.seeds:
    chance = random.Random(seed)
    forward = backward = naive_off = first_order = 0
    no_skip = backward_no_skip = no_round_trip = other_order = 0  # the controls
    for trial in range(6):
        shape, *blocks = random_shape(chance, causal=trial % 2 == 0)
        full = replace(shape, causal=False)
        counted, formula = count_tiled_forward(shape, *blocks), tiled_forward_traffic(shape, *blocks)
        forward += apart(counted, formula)
        no_skip += apart(counted, tiled_forward_traffic(full, *blocks))
        counted_backward = count_tiled_backward(shape, *blocks)
        backward += apart(counted_backward, tiled_backward_traffic(shape, *blocks))
        backward_no_skip += apart(counted_backward, tiled_backward_traffic(full, *blocks))
        counted_naive, formula_naive = count_naive_forward(shape), naive_forward_traffic(shape)
        naive_off += apart(counted_naive, formula_naive)
        read_back = 2 * shape.batch * shape.heads * shape.query_len * shape.key_len  # S and P
        no_round_trip += apart(counted_naive, replace(formula_naive, loaded=formula_naive.loaded - read_back))
        counted_first = count_keys_outer(full, *blocks)
        first_order += apart(counted_first, keys_outer_traffic(full, blocks[1]))
        other_order += apart(counted_first, tiled_forward_traffic(full, *blocks))
        if seed == settings.seeds[0]:
            forgetful = tiled_forward_traffic(full, *blocks).total
            sizes = f"{shape.query_len} × {shape.key_len}, d={shape.head_dim}, {shape.heads}/{shape.kv_heads}"
            mask = tr("causal", "因果") if shape.causal else tr("full", "完整")
            cut = f"{blocks[0]} × {blocks[1]}"
            rows.append([sizes, cut, mask, f"{counted.total:,}", f"{formula.total:,}", f"{forgetful:,}"])
    lab.record("forward_traffic_difference", forward, seed=seed)
    lab.record("forward_traffic_difference", no_skip, seed=seed, variant="no_causal_skip")
    lab.record("backward_traffic_difference", backward, seed=seed)
    lab.record("backward_traffic_difference", backward_no_skip, seed=seed, variant="no_causal_skip")
    lab.record("naive_traffic_difference", naive_off, seed=seed)
    lab.record("naive_traffic_difference", no_round_trip, seed=seed, variant="no_round_trip")
    lab.record("keys_outer_traffic_difference", first_order, seed=seed)
    lab.record("keys_outer_traffic_difference", other_order, seed=seed, variant="queries_outside")

columns = [
    tr("lengths, d, heads/kv heads", "長度、d、head 數/kv head 數"), tr("blocks", "區塊"), tr("mask", "遮罩"),
    tr("counted", "數出來的"), tr("formula", "公式"), tr("formula that forgets to skip", "忘了跳過空 tile 的公式"),
]
lab.table(columns, rows)

# %% [markdown] lang="en"
# The last column is the control: a formula that forgets that empty tiles are not loaded. On full attention it agrees; on causal
# attention it does not, and the gate would catch it. From here on, formulas are enough: they equal the count.
#
# ## Predict
#
# How many times fewer elements does the tiled forward pass move than the naive one, with the length, head size and blocks of the next
# cell? Write your guess into `predictions.toml`: `traffic_ratio = ...`

# %% [markdown] lang="zh-TW"
# 最後一欄是對照組：一條忘了「空的 tile 不必載入」的公式。完整注意力時它是對的；因果注意力時就不對了，關卡會抓到。
# 接下來用公式就夠了：它等於數出來的。
#
# ## 先猜猜看
#
# 照下一格的長度、head 大小與區塊，原始版的前向傳播搬的元素，會是分塊版的幾倍？把猜測寫進 `predictions.toml`：`traffic_ratio = ...`

# %%
length, block = settings.analysis_length, settings.block
shape = AttentionShape(length, length, settings.head_dim, heads=settings.heads, kv_heads=settings.heads, causal=True)
traffic = {"naive": naive_forward_traffic(shape), "tiled": tiled_forward_traffic(shape, block, block)}
ratio = traffic["naive"].total / traffic["tiled"].total
lab.record("traffic_ratio", ratio)

guess = lab.predict("traffic_ratio")
guessed = Text(".", "。") if guess is None else Text(f"; you guessed {guess:g}.", f"；你猜 {guess:g}。")
lab.say(
    f"N = {length}, d = {settings.head_dim}, blocks of {block} × {block}, causal, by the formulas: naive attention moves "
    f"{traffic['naive'].total:,} elements, tiled attention {traffic['tiled'].total:,}, **{ratio:.1f} times fewer**{guessed.en}",
    f"N = {length}、d = {settings.head_dim}、區塊 {block} × {block}、因果，照公式算：原始版搬了 {traffic['naive'].total:,} 個元素，"
    f"分塊版 {traffic['tiled'].total:,} 個，原始版是分塊版的 **{ratio:.1f} 倍**{guessed.zh_tw}",
)

# %% [markdown] lang="en"
# ## How does traffic grow with the length?
#
# At fixed blocks, with the slope of the longest three:

# %% [markdown] lang="zh-TW"
# ## 傳輸量隨長度怎麼成長？
#
# 區塊大小固定，斜率取最長的三點：

# %%
grown = [512 * 2**power for power in range(6)]
shapes = [replace(shape, query_len=n, key_len=n) for n in grown]
totals = {
    "naive": [naive_forward_traffic(s).total for s in shapes],
    f"tiled, {block} x {block}": [tiled_forward_traffic(s, block, block).total for s in shapes],
}
laws = {name: fit_power_law(grown, [values]) for name, values in totals.items()}
lab.figure(
    "traffic-over-length",
    figures.traffic_over_length(grown, totals, laws),
    Text(
        en="Elements moved by the causal forward pass over the length, by the formulas.",
        zh_tw="因果前向傳播搬移的元素數隨長度的變化，由公式算出。",
    ),
)

# %%
exponents = {name: f"$N^{{{law.exponent:.2f}}}$" for name, law in laws.items()}
(of_naive, of_tiled), factor = exponents.values(), totals["naive"][-1] / list(totals.values())[1][-1]
lab.say(
    f"Naive traffic grows like {of_naive}, tiled like {of_tiled}. FlashAttention does not change the exponent of the traffic; it divides the "
    f"traffic, at {grown[-1]:,} tokens by {factor:.0f}.",
    f"原始版的傳輸量像 {of_naive} 成長，分塊版像 {of_tiled}。FlashAttention 沒有改變傳輸量的指數，而是除以一個數：{grown[-1]:,} 個 token 時除以 {factor:.0f}。",
)

# %% [markdown] lang="en"
# ## What does more fast memory buy?
#
# Theorem 2 says that the traffic falls as $1/M$. So we take $M$ elements of fast memory and spend nearly all of them on *one* kind of
# block, with a few rows left for the other: on queries, or on keys. And we do it in both loop orders. Each reads something again and again:
# with the queries outside, $K$ and $V$ once per query block; with the keys outside, $Q$ and the unfinished output once per key block.
#
# **Predict:** in which order is the memory well spent on queries, in which on keys? And what happens when it is spent on the other one?

# %% [markdown] lang="zh-TW"
# ## 快速記憶體變大有什麼好處？
#
# 定理 2 說傳輸量隨 $1/M$ 下降。所以我們拿 $M$ 個元素的快速記憶體，幾乎全部用來放*一種*區塊，另一種只留幾列：用在 query，或是用在 key。
# 兩種迴圈順序都試。每一種順序都有一再重讀的東西：外層是 query 時，每個 query 區塊讀一次 $K$ 和 $V$；外層是 key 時，
# 每個 key 區塊讀一次 $Q$ 和還沒算完的輸出。
#
# **先猜猜看：** 哪一種順序該把記憶體用在 query，哪一種該用在 key？用錯地方又會怎麼樣？

# %%
full = replace(shape, heads=1, kv_heads=1, causal=False)
few, srams = 16, [2**power for power in range(13, 18)]
many_queries = [block_queries_for_sram(m, full.head_dim, few) for m in srams]
many_keys = [block_keys_for_sram(m, full.head_dim, few) for m in srams]
queries_outside = {
    "queries": [tiled_forward_traffic(full, many, few).total for many in many_queries],
    "keys": [tiled_forward_traffic(full, few, many).total for many in many_keys],
}
keys_outside = {
    "keys": [keys_outer_traffic(full, many).total for many in many_keys],
    "queries": [keys_outer_traffic(full, few).total for many in many_queries],
}
panels = {
    tr("queries outside (FlashAttention-2)", "外層是 query（FlashAttention-2）"): queries_outside,
    tr("keys outside (FlashAttention-1)", "外層是 key（FlashAttention-1）"): keys_outside,
}
promised = [theorem_flash(length, full.head_dim, m) for m in srams]
naive_total = naive_forward_traffic(full).total
lab.figure(
    "traffic-over-memory",
    figures.traffic_over_sram(srams, panels, promised, naive_total),
    Text(
        en="Elements moved by a full forward pass over the size of fast memory, in both loop orders, by what the memory is spent on.",
        zh_tw="完整的前向傳播搬移的元素數，隨快速記憶體大小的變化：兩種迴圈順序，依記憶體用在哪裡分別畫出。",
    ),
)

# %%
slope = {
    (order, spent): fit_power_law(srams, [values], longest=len(srams)).exponent
    for order, curves in (("queries outside", queries_outside), ("keys outside", keys_outside))
    for spent, values in curves.items()
}
lab.record("traffic_over_sram_exponent", slope["queries outside", "queries"])
lab.record("traffic_over_sram_exponent", slope["queries outside", "keys"], variant="spent_on_keys")
lab.record("keys_outer_sram_exponent", slope["keys outside", "keys"])
lab.record("keys_outer_sram_exponent", slope["keys outside", "queries"], variant="spent_on_queries")

falls = {key: f"$M^{{{round(value, 2) + 0.0:.2f}}}$" for key, value in slope.items()}  # + 0.0: no minus before a zero
constants = {
    name: [moved / law for moved, law in zip(values, promised, strict=True)]
    for name, values in (("queries outside", queries_outside["queries"]), ("keys outside", keys_outside["keys"]))
}
between = {name: f"{min(values):.1f}–{max(values):.1f}" for name, values in constants.items()}
tight = 4096
tight_moved = tiled_forward_traffic(full, block_queries_for_sram(tight, full.head_dim, few), few).total
wide_moved = queries_outside["queries"][-1]
lab.say(
    f"""- Queries outside (FlashAttention-2, our loops): spent on queries, the traffic falls like \
{falls["queries outside", "queries"]}; spent on keys, like {falls["queries outside", "keys"]}.
- Keys outside (FlashAttention-1, the order that the theorem is about): \
spent on keys, like {falls["keys outside", "keys"]}; spent on queries, like {falls["keys outside", "queries"]}.
- In both orders $M$ counts through the *outer* block, because everything of the inner side crosses once per outer \
block. The theorem's hidden constant is
  {between["queries outside"]} for the first and {between["keys outside"]} for the second: the unfinished output also travels there, out and in.
- M must be large enough for tiling to pay: with {tight:,} elements, queries outside, it would move \
{tight_moved / naive_total:.2f} times what naive attention moves, with
  {srams[-1]:,} it is {wide_moved / naive_total:.2f} times.""",
    f"""- 外層是 query（FlashAttention-2，我們的迴圈）：用在 query 上，傳輸量像 {falls["queries outside", "queries"]} 下降；用在 key 上，則像 {falls["queries outside", "keys"]}。
- 外層是 key（FlashAttention-1，定理講的就是這個順序）：用在 key 上，像 {falls["keys outside", "keys"]}；用在 query 上，像 {falls["keys outside", "queries"]}。
- 兩種順序裡，$M$ 都是經由*外層*的區塊發揮作用，因為內層那一邊的東西，每個外層區塊都要全部跨過一次。定理沒寫出來的常數，前者是
  {between["queries outside"]}，後者是 {between["keys outside"]}：在後者，還沒算完的輸出也要來回搬。
- M 要夠大，分塊才划算：外層是 query 時，只有 {tight:,} 個元素，傳輸量會是原始版的 {tight_moved / naive_total:.2f} 倍；有
  {srams[-1]:,} 個時是 {wide_moved / naive_total:.2f} 倍。""",
)

# %% [markdown] lang="en"
# ## How much arithmetic does it save?
#
# Without a mask none: every query-key pair gets its score, in tiles or at once. With a causal mask a query does not see the keys that come after it. Naive
# attention scores those pairs too and hides them afterwards; tiled attention skips tiles that are hidden as a whole. **Predict** the share of
# naive attention's scores that the tiled loops compute at the length and blocks above: `causal_pair_share = ...`

# %% [markdown] lang="zh-TW"
# ## 它省下多少算術？
#
# 沒有遮罩時一點也沒省：不管分塊還是一次算完，每一對 query 與 key 都要有分數。有因果遮罩時，query 看不到排在它後面的 key。原始版全部算完再遮住，
# 分塊版則跳過整塊都看不到的 tile。**先猜猜看：** 在上面的長度與區塊下，分塊迴圈算的分數是原始版的幾分之幾？寫成 `causal_pair_share = ...`

# %%
pairs = {
    "naive": shape.heads * shape.query_len * shape.key_len,
    "tiled": count_tiled_pairs(shape, block, block),  # noted tile by tile while the loops run
    "visible": shape.heads * shape.visible_pairs,
}
no_mask = replace(shape, causal=False)
lab.record("causal_pair_share", pairs["tiled"] / pairs["naive"])
lab.record("causal_pair_share", count_tiled_pairs(no_mask, block, block) / pairs["naive"], variant="no_mask")
lab.record("causal_pair_share", pairs["visible"] / pairs["naive"], variant="visible")

guess = lab.predict("causal_pair_share")
guessed = Text("", "") if guess is None else Text(f" (you guessed {guess:g})", f"（你猜 {guess:g}）")
lab.say(
    f"Naive attention scores {pairs['naive']:,} pairs, the tiled loops {pairs['tiled']:,}: **{pairs['tiled'] / pairs['naive']:.1%}**{guessed.en}. "
    f"{pairs['visible']:,} are visible ({pairs['visible'] / pairs['naive']:.1%}); "
    f"what lies between is the hidden part of the tiles that the diagonal crosses.",
    f"原始版算了 {pairs['naive']:,} 對，分塊迴圈算了 {pairs['tiled']:,} 對：**{pairs['tiled'] / pairs['naive']:.1%}**{guessed.zh_tw}。"
    f"看得到的是 {pairs['visible']:,} 對（{pairs['visible'] / pairs['naive']:.1%}）；多出來的，是對角線穿過的那些 tile 裡看不到的部分。",
)

# %% [markdown] lang="en"
# ## How large must a tile be?
#
# Larger tiles move less and need more fast memory. For each block size we look at the traffic, at the largest temporary tensor that
# the forward pass really makes (seen by intercepting every operator), and at the time.

# %% [markdown] lang="zh-TW"
# ## tile 該多大？
#
# tile 愈大，搬得愈少，需要的快速記憶體愈多。每一種區塊大小，我們都看三件事：傳輸量、前向傳播真正產生過的最大暫存張量
# （攔截每一個運算子來觀察），以及時間。

# %%
def random_inputs(length, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    size = (1, settings.heads, length, settings.head_dim)  # (batch, heads, seq, head_dim)
    tensors = [torch.randn(size, generator=generator) for _ in range(3)]
    return [tensor.to(settings.device, dtype).requires_grad_(requires_grad) for tensor in tensors]


def tiled(queries, keys, values, block=block):
    return flash_attention(queries, keys, values, causal=True, block_queries=block, block_keys=block)


def naive(queries, keys, values):
    return naive_attention(queries, keys, values, causal=True)


def tiled_loop(queries, keys, values, block=block):
    tiling = plan_tiles(queries, keys, True, block, block)
    return tiled_forward(queries, keys, values, tiling, default_scale(settings.head_dim), Traffic())


inputs = random_inputs(length)
times = timed({b: functools.partial(tiled, *inputs, block=b) for b in settings.sweep_blocks}, repeats=settings.repeats)
sweep = {}
for b in lab.progress(settings.sweep_blocks):
    sweep[b] = {
        "traffic": tiled_forward_traffic(shape, b, b).total,
        "sram": sram_elements(b, b, settings.head_dim),
        "temporary": largest_temporary(functools.partial(tiled_loop, *inputs, block=b)),
        "pairs": count_tiled_pairs(shape, b, b) / pairs["naive"],
        "ms": times[b].median * 1e3,
        "spread": times[b].spread * 1e3,
    }

columns = [
    tr("block", "區塊"), tr("elements moved", "搬移的元素"), tr("in fast memory at once", "同時在快速記憶體裡"),
    tr("largest temporary", "最大暫存"), tr("share of the pairs", "配對的比例"), "ms",
]
rows = []
for b, found in sweep.items():
    counts = [f"{found[key]:,}" for key in ("traffic", "sram", "temporary")]
    rows.append([b, *counts, f"{found['pairs']:.1%}", f"{found['ms']:.1f} ± {found['spread']:.1f}"])
lab.table(columns, rows)

# %%
lab.figure(
    "block-sweep",
    figures.block_sweep(sweep, traffic["naive"].total, settings.heads * length**2),
    Text(
        en="Traffic, largest temporary and time of the tiled forward pass over the block size.",
        zh_tw="分塊前向傳播的傳輸量、最大暫存張量與時間，隨區塊大小的變化。",
    ),
)

# %%
smallest, largest = min(sweep), max(sweep)
fastest = min(sweep, key=lambda b: sweep[b]["ms"])
fewer = sweep[smallest]["traffic"] / sweep[largest]["traffic"]
more = sweep[largest]["sram"] / sweep[smallest]["sram"]
kib = {b: sram_elements(b, b, settings.head_dim) * element_bytes / 1024 for b in (64, largest)}
if fastest == largest:
    why = Text(
        "The Python loop is fastest with the largest of these tiles: fewer calls outweigh everything else here, also the scores that the causal "
        f"mask throws away ({sweep[largest]['pairs']:.0%} of all pairs are computed).",
        "在這裡，Python 迴圈用最大的 tile 最快：呼叫變少的好處蓋過其他一切，"
        f"連被因果遮罩丟掉的分數也算在內（算了全部配對的 {sweep[largest]['pairs']:.0%}）。",
    )
else:
    slower = sweep[largest]["ms"] / sweep[fastest]["ms"]
    why = Text(
        f"The Python loop is fastest at {fastest} here, and {slower:.1f} times slower at {largest}. Larger tiles are fewer calls, but they compute "
        f"more scores that the causal mask throws away ({sweep[largest]['pairs']:.0%} of all pairs against {sweep[fastest]['pairs']:.0%}), and their "
        "temporaries are larger, so that less of them fits a cache.",
        f"Python 迴圈在這裡用 {fastest} 最快，用 {largest} 要 {slower:.1f} 倍的時間。tile 愈大，呼叫愈少，但是被因果遮罩丟掉的分數也愈多"
        f"（算了全部配對的 {sweep[largest]['pairs']:.0%}，而不是 {sweep[fastest]['pairs']:.0%}），暫存張量也愈大，快取放得下的就愈少。",
    )
lab.say(
    f"""From blocks of {smallest} to {largest} the traffic falls by a factor of {fewer:.1f} and the fast memory rises {more:.0f} times. {why.en}
A GPU kernel has no such calls, and its limit is what fits: at {element_bytes} bytes per element a block of {largest} \
would take {kib[largest]:.0f} KiB, and a block of 64
{kib[64]:.0f} KiB. A multiprocessor has 64 to 228 KiB of shared memory: that is why kernels use tiles of 64 or 128 rows.""",
    f"""區塊從 {smallest} 到 {largest}，傳輸量降為 {fewer:.1f} 分之一，快速記憶體的需求變成 {more:.0f} 倍。{why.zh_tw}
GPU kernel 沒有這種呼叫，限制在於放不放得下：每個元素 {element_bytes} 位元組，區塊 {largest} 要 {kib[largest]:.0f} KiB，區塊 64 要 {kib[64]:.0f} KiB。
一個多處理器的共享記憶體是 64 到 228 KiB，所以 kernel 用的 tile 多半是 64 或 128 列。""",
)

# %% [markdown] lang="en"
# ## Does the largest temporary know the length?
#
# Now the length doubles and the block stays. **Predict** how many times as large the largest temporary becomes: in the forward pass, and in
# a training step with its gradients; tiled and naive.

# %% [markdown] lang="zh-TW"
# ## 最大的暫存張量跟長度有關嗎？
#
# 這次長度加倍、區塊不變。**先猜猜看：** 最大的暫存張量變成幾倍？前向傳播，以及包含梯度的訓練步驟；分塊版與原始版都猜。

# %%
def step(attend, inputs):
    return lambda: torch.autograd.grad(attend(*inputs).sum(), inputs)


rows = []
for n in (length // 2, length):
    plain, with_grad = random_inputs(n), random_inputs(n, requires_grad=True)
    rows.append([
        n,
        largest_temporary(lambda plain=plain: tiled_loop(*plain)),
        largest_temporary(lambda plain=plain: naive(*plain)),
        largest_temporary(step(tiled, with_grad)),
        largest_temporary(step(naive, with_grad)),
    ])
growth = [large / small for small, large in zip(*rows, strict=True)]
columns = [
    tr("tiled, forward", "分塊，前向"), tr("naive, forward", "原始，前向"),
    tr("tiled, training", "分塊，訓練"), tr("naive, training", "原始，訓練"),
]
lab.table([tr("length", "長度"), *columns], [*rows, [tr("growth", "倍數"), *growth[1:]]])

lab.record("temporary_growth", growth[1])
lab.record("temporary_growth", growth[2], variant="naive")
lab.record("training_temporary_growth", growth[3])
lab.record("training_temporary_growth", growth[4], variant="naive")
lab.say(
    f"Twice the length: the largest temporary of the forward pass becomes {growth[1]:g} times as large with tiles and "
    f"{growth[2]:g} times without; in a training "
    f"step {growth[3]:g} and {growth[4]:g} times, for there gradients are as long as the sequence.",
    f"長度加倍：前向傳播最大的暫存張量，分塊版變成 {growth[1]:g} 倍，原始版 {growth[2]:g} 倍；訓練步驟則是 {growth[3]:g} 倍與 {growth[4]:g} 倍，因為梯度跟序列一樣長。",
)

# %% [markdown] lang="en"
# ## Roofline
#
# How fast *can* it be? A kernel with an **arithmetic intensity** of $I$ operations per byte moved cannot exceed
# $\min(\text{peak},\ I \cdot \text{bandwidth})$. Both ceilings are measured here and now, peak by a large matrix product and bandwidth by a
# large copy, so this roofline is your machine's own. The operations are those that each implementation *does*, on the pairs that it scores:
# under the causal mask naive attention does many that are thrown away.

# %% [markdown] lang="zh-TW"
# ## Roofline
#
# *最快*能多快？一個 kernel 每搬一個位元組做 $I$ 次運算（**運算強度**，arithmetic intensity），速度就不可能超過
# $\min(\text{峰值},\ I \cdot \text{頻寬})$。這兩個上限都在此時此地量出來：峰值用一個大矩陣乘法，頻寬用一次大複製，
# 所以這張 roofline 是你這台機器自己的。運算次數是每種實作*真正做*的，依它算了分數的配對來數：在因果遮罩下，原始版有很多運算做了又丟掉。

# %%
def measured_ceilings():
    """Operations per second of a large matrix product, and bytes per second of a large copy (read and written)."""
    square = torch.randn(settings.matmul_size, settings.matmul_size, device=settings.device, dtype=dtype)
    source = torch.zeros(settings.copy_megabytes * 2**20 // element_bytes, device=settings.device, dtype=dtype)
    target = torch.zeros_like(source)
    times = timed({"matmul": lambda: square @ square, "copy": lambda: target.copy_(source)}, repeats=5)
    return 2 * settings.matmul_size**3 / times["matmul"].median, 2 * source.nbytes / times["copy"].median


def sdpa(queries, keys, values):
    return scaled_dot_product_attention(queries, keys, values, is_causal=True)


peak, bandwidth = measured_ceilings()
attends = {"naive": naive, "tiled": tiled, "sdpa": sdpa}
runs = {name: functools.partial(attend, *inputs) for name, attend in attends.items()}
times = timed(runs, repeats=settings.repeats)
useful = attention_flops(shape)
done = {name: attention_flops(shape, pairs=pairs[name]) for name in ("naive", "tiled")}
intensity = {name: flops / (traffic[name].total * element_bytes) for name, flops in done.items()}
attained = {name: flops / times[name].median for name, flops in done.items()}
fused = useful / times["sdpa"].median
lab.figure(
    "roofline",
    figures.roofline(peak, bandwidth, {name: (intensity[name], attained[name]) for name in done}, fused),
    Text(
        en="Roofline of this machine. Points: operations done per element of the traffic formula, and measured speed of the forward pass. "
        "What SDPA moves and skips inside is not ours to count, so it is a line, at its useful operations.",
        zh_tw="這台機器的 roofline。點：做過的運算次數除以公式的傳輸量，以及前向傳播量到的速度。"
        "SDPA 內部搬了多少、跳過多少都無從數起，所以只依有用的運算畫成一條線。",
    ),
)

# %%
ridge = peak / bandwidth
roof = {name: min(peak, i * bandwidth) for name, i in intensity.items()}
sloping = Text("sloping part, limited by bandwidth", "斜線段，受頻寬限制")
flat = Text("flat part, limited by arithmetic", "水平段，受算術限制")
under = {name: sloping if i < ridge else flat for name, i in intensity.items()}
share = {name: attained[name] / roof[name] for name in done}
kept = {name: useful / done[name] for name in done}
lab.say(
    f"""- The measured peak is {peak / 1e12:.3g} TFLOP/s, the bandwidth {bandwidth / 1e9:.3g} GB/s: the roof bends at {ridge:.1f} operations per byte.
- Naive attention does {intensity["naive"]:.1f} operations per byte: it is under the {under["naive"].en}. Tiled attention does
  {intensity["tiled"]:.1f}: under the {under["tiled"].en}.
- Attained: naive {share["naive"]:.0%} of its roof, tiled {share["tiled"]:.0%} of its own. \
Of what they do, {kept["naive"]:.0%} (naive) and {kept["tiled"]:.0%} (tiled) is useful, the rest is
  masked away. SDPA's useful operations reach {fused / peak:.0%} of the peak. What is missing below a roof is what the operations do not count:
  exponentials, masks, rescales and the overhead of calls. (Eager PyTorch also moves the scores for scale and mask; our traffic, like
  the paper's, takes these as fused.)
- One tiled forward pass takes {times["tiled"].median / times["naive"].median:.2f} times as long as a naive one here. \
Under a causal mask that is not all traffic: it also does {done["tiled"] / done["naive"]:.0%} of
  the operations.
- A single CPU core bends early. A data-centre GPU with tensor cores bends at more than 100 operations per byte: put both intensities there,
  and naive attention is far to the left of the bend, tiled attention {intensity["tiled"] / intensity["naive"]:.1f} \
times closer to it. That is why FlashAttention is faster there,
  with a mask and without.""",
    f"""- 量到的峰值是 {peak / 1e12:.3g} TFLOP/s，頻寬是 {bandwidth / 1e9:.3g} GB/s：上限線在每位元組 {ridge:.1f} 次運算處轉折。
- 原始注意力每位元組做 {intensity["naive"]:.1f} 次運算，位於{under["naive"].zh_tw}。分塊注意力做
  {intensity["tiled"]:.1f} 次，位於{under["tiled"].zh_tw}。
- 實際達到：原始版是自己上限的 {share["naive"]:.0%}，分塊版是自己上限的 {share["tiled"]:.0%}。做過的運算裡，有用的占 {kept["naive"]:.0%}（原始）與 {kept["tiled"]:.0%}（分塊），
  其餘都被遮掉。SDPA 有用的運算達到峰值的 {fused / peak:.0%}。離上限還差的那一段，是沒算進運算次數的東西：指數函數、遮罩、重新縮放和呼叫開銷。
  （eager 模式的 PyTorch 還會為了 scale 和遮罩多搬幾次分數；我們的傳輸量和論文一樣，把它們視為已融合。）
- 在這裡，分塊版一次前向傳播的時間是原始版的 {times["tiled"].median / times["naive"].median:.2f} 倍。在因果遮罩下，這不全是傳輸量的功勞：它的運算也只有原始版的 {done["tiled"] / done["naive"]:.0%}。
- CPU 的單一核心很早就轉折。資料中心級 GPU 有 tensor core，要到每位元組 100 次以上才轉折：把這兩個強度放上去，
  原始注意力就落在轉折點左邊很遠的地方，分塊注意力則近了 {intensity["tiled"] / intensity["naive"]:.1f} 倍。這就是 FlashAttention 在那裡比較快的原因，有沒有遮罩都一樣。""",
)

# %% [markdown] lang="en"
# ## Every implementation on this machine
#
# The same function from everyone who offers it here, forward and backward, in useful TFLOP/s (more is better). What this machine does not have
# is listed with the reason. (The `flash-attn` package is in this lab's image for GPUs; no local environment has it, for it is not on PyPI.)

# %% [markdown] lang="zh-TW"
# ## 這台機器上的所有實作
#
# 同一個函式，這台機器上有的實作全部都量，前向加反向傳播，單位是有用的 TFLOP/s（愈大愈好）。這台機器沒有的，會列出原因。
# （`flash-attn` 套件在這個實驗的 GPU 映像檔裡；它不在 PyPI 上，所以本機環境都沒有。）

# %%
def sdpa_backend(backend):
    def attend(queries, keys, values):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return attend


def triton_kernel(queries, keys, values):
    from flash_attention_triton import INTERPRETED, flash_attention_triton, inner_loop_is_open

    if INTERPRETED:
        raise RuntimeError("no NVIDIA GPU: the interpreter gives the right numbers, and its time means nothing")
    if inner_loop_is_open():
        raise RuntimeError("exercise 7 is open")
    return flash_attention_triton(queries, keys, values, causal=True)


def flash_attn_package(queries, keys, values):
    from flash_attn import flash_attn_func

    # (batch, heads, seq, head_dim) -> (batch, seq, heads, head_dim)
    queries, keys, values = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    return flash_attn_func(queries, keys, values, causal=True).transpose(1, 2)


candidates = {
    "naive": naive,
    "tiled (ours, Python loop)": tiled,
    "tiled (ours, Triton)": triton_kernel,
    "SDPA math": sdpa_backend(SDPBackend.MATH),
    "SDPA flash": sdpa_backend(SDPBackend.FLASH_ATTENTION),
    "SDPA memory-efficient": sdpa_backend(SDPBackend.EFFICIENT_ATTENTION),
    "SDPA cuDNN": sdpa_backend(SDPBackend.CUDNN_ATTENTION),
    "flash-attn package": flash_attn_package,
}


def why_not(attend, inputs):
    """None if the implementation runs on these inputs, otherwise the reason that it gives."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            attend(*inputs)
        except (ImportError, RuntimeError, ValueError) as error:
            return str(said[0].message if said else error).splitlines()[0].split(". ")[0]
    return None


inputs = random_inputs(length, requires_grad=True)
reasons = {name: why_not(attend, inputs) for name, attend in candidates.items()}
steps = {name: step(attend, inputs) for name, attend in candidates.items() if reasons[name] is None}
timings = timed(steps, repeats=settings.repeats)
if {"tiled (ours, Triton)", "SDPA flash"} <= timings.keys():
    lab.record("triton_over_sdpa", timings["SDPA flash"].median / timings["tiled (ours, Triton)"].median)
step_flops = attention_flops(shape) + attention_flops(shape, backward=True)
rows = []
for name, reason in reasons.items():
    if reason is None:
        timing = timings[name]
        speed = step_flops / timing.median / 1e12
        rows.append([name, f"{speed:.3g} ± {speed * timing.spread / timing.median:.1g}", str(timing)])
    else:
        rows.append([name, "–", tr("absent: ", "沒有：") + reason])
lab.table([tr("implementation", "實作"), "TFLOP/s", tr("time, or why it is absent", "時間，或沒有的原因")], rows)

# %% [markdown] lang="en"
# ## The curve of notebook 1, with your tiles in it
#
# Notebook 1 had two curves: naive attention, and PyTorch's fused one that nobody could look into. Here is the third: the loops that you wrote, in
# the same rounds as the other two. **Predict** the exponents of tiled attention: `tiled_memory_exponent = ...`, `tiled_time_exponent = ...`

# %% [markdown] lang="zh-TW"
# ## 第 1 本筆記本的曲線，加上你的 tile
#
# 第 1 本筆記本有兩條曲線：原始版，以及 PyTorch 的融合版，看不見裡面怎麼做。這裡加上第三條：你自己寫的迴圈，跟另外兩種在同樣的輪次裡量測。
# **先猜猜看：** 分塊版的指數：`tiled_memory_exponent = ...`、`tiled_time_exponent = ...`

# %%
lengths, repeats = settings.lengths[-3:], settings.repeats
steps = {}  # (implementation, length) -> one training step
for n in lengths:
    inputs = random_inputs(n, requires_grad=True)
    for name, attend in attends.items():
        steps[name, n] = step(attend, inputs)
timings = timed(steps, repeats=repeats)
memory = {key: peak_memory(run, settings.device) for key, run in steps.items()}

costs, laws = {"bytes": {}, "seconds": {}}, {}
for name in attends:
    costs["bytes"][name] = [memory[name, n] for n in lengths]
    costs["seconds"][name] = [timings[name, n].median for n in lengths]
    rounds = [[timings[name, n].seconds[number] for n in lengths] for number in range(repeats)]
    laws[name, "bytes"] = fit_power_law(lengths, [costs["bytes"][name]])
    laws[name, "seconds"] = fit_power_law(lengths, rounds)
lab.figure(
    "cost-with-tiles",
    figures.cost_curves(lengths, costs, laws),
    Text(
        en="Peak memory (left) and time (right) of one forward and backward pass, naive, tiled and fused.",
        zh_tw="一次前向加反向傳播的記憶體峰值（左）與時間（右）：原始、分塊與融合。",
    ),
)

# %%
lab.record("tiled_memory_exponent", laws["tiled", "bytes"].exponent)
lab.record("tiled_memory_exponent", laws["naive", "bytes"].exponent, variant="naive")
lab.record("tiled_time_exponent", laws["tiled", "seconds"].exponent)

law, guesses = laws["tiled", "seconds"], [lab.predict("tiled_memory_exponent"), lab.predict("tiled_time_exponent")]
guessed = ["" if guess is None else tr(f" (you guessed {guess:g})", f"（你猜 {guess:g}）") for guess in guesses]
if law.rough:
    trust = Text(
        f"± {law.spread:.2f} over the rounds, which is **rough**: run again on a calm machine",
        f"各輪相差 ± {law.spread:.2f}，**只能看個大概**：請在機器空閒時再跑一次",
    )
else:
    trust = Text(f"± {law.spread:.2f} over the rounds", f"各輪相差 ± {law.spread:.2f}")
at = lengths[-1]
less = memory["naive", at] / memory["tiled", at]
slower = timings["tiled", at].median / timings["sdpa", at].median
lab.say(
    f"""- Your loops need memory like $N^{{{laws["tiled", "bytes"].exponent:.2f}}}${guessed[0]}: \
at N = {at} {memory["tiled", at] / 1e6:.1f} MB, {less:.0f} times less than naive attention.
  (Attention that returns zeros would need even less. A memory gate says nothing about the answer; that is what the gates of notebook 2 are for.)
- Their time grows like $N^{{{law.exponent:.2f}}}${guessed[1]}, {trust.en}. \
At N = {at} they take {slower:.1f} times as long as the fused SDPA, which runs the same
  algorithm without a Python call per tile.""",
    f"""- 你的迴圈需要的記憶體像 $N^{{{laws["tiled", "bytes"].exponent:.2f}}}$ 成長{guessed[0]}：N = {at} 時是 {memory["tiled", at] / 1e6:.1f} MB，比原始版少 {less:.0f} 倍。
  （只會回傳零的注意力，需要的還更少。記憶體的關卡不會告訴你答案對不對，那是第 2 本筆記本那些關卡的事。）
- 時間像 $N^{{{law.exponent:.2f}}}$ 成長{guessed[1]}，{trust.zh_tw}。N = {at} 時，要花融合版 SDPA 的 {slower:.1f} 倍時間；SDPA 用的是同一個演算法，
  只是不必為每個 tile 呼叫一次 Python。""",
)

# %% [markdown] lang="en"
# As speeds, the same times show where overhead ends and arithmetic begins:

# %% [markdown] lang="zh-TW"
# 同樣的時間換算成速度，就看得出到哪個長度為止是開銷主導，之後才由算術主導：

# %%
speeds = {name: [] for name in attends}
for (name, n), timing in timings.items():
    at_length = replace(shape, query_len=n, key_len=n)
    flops = attention_flops(at_length) + attention_flops(at_length, backward=True)
    speeds[name].append(flops / timing.median)
lab.figure(
    "speed-over-length",
    figures.speed_curves(lengths, speeds, peak),
    Text(
        en="Attained speed over the sequence length, in useful operations.",
        zh_tw="各種序列長度實際達到的速度，以有用的運算計。",
    ),
)

# %% [markdown] lang="en"
# ## What the numbers said, and their limits
#
# - **Exact.** The traffic formulas agree with the loops to the last element, on shapes nobody chose by hand, in both loop orders.
# - **Memory.** The largest temporary of the forward pass depends on the block only; in training it is one row of `head_dim` numbers per token.
# - **Traffic is counted, not measured.** Loops and formulas say what an ideal fast memory would have to load. A CPU's caches decide for themselves,
#   and a GPU kernel reads through an L2 cache. On a GPU, a profiler (Nsight Compute, `dram__bytes`) measures the real thing.
# - **Time on a CPU is not the point.** It depends on your cores and on what else they do; no gate looks at it.
#
# **Exercises.** Exercise 4 (`tiling.py`: which tiles are needed) decides the traffic, exercise 6 (`memory_traffic.py`: the formula)
# predicts it. `nox -s check -- lab-1.5-flashattention` checks both.
#
# <details><summary>Something to try</summary>
#
# When a model generates, there is one query and a long cache of keys. Put `query_len = 1` into both formulas: what does each loop order move,
# and how much of it depends on $M$? What is then left to save, and who shares it (think of grouped heads)?
# </details>

# %% [markdown] lang="zh-TW"
# ## 數字說了什麼，以及它們的限制
#
# - **完全準確。** 傳輸量的公式和迴圈一個元素都不差，而且測試的形狀不是人挑的，兩種迴圈順序都是。
# - **記憶體。** 前向傳播最大的暫存只取決於區塊；訓練時，則是每個 token 一列 `head_dim` 個數字。
# - **傳輸量是數出來的，不是量出來的。** 迴圈與公式說的是：理想的快速記憶體必須載入什麼。CPU 的快取留下什麼，由硬體自己決定；GPU kernel 則要經過 L2 快取。
#   在 GPU 上，可以用 profiler（Nsight Compute 的 `dram__bytes`）量真正的傳輸量。
# - **CPU 上的時間不是重點。** 它取決於你的核心，以及核心還在忙什麼；沒有任何關卡看時間。
#
# **練習。** 練習 4（`tiling.py`：需要哪些 tile）決定傳輸量，練習 6（`memory_traffic.py`：公式）預測傳輸量。
# 兩者都用 `nox -s check -- lab-1.5-flashattention` 檢查。
#
# <details><summary>可以試試看</summary>
#
# 模型在生成的時候，只有一個 query，面對的是一長串 key 的快取。把 `query_len = 1` 代進兩條公式：兩種迴圈順序各搬多少？
# 其中有多少跟 $M$ 有關？這時還有什麼可以省，又是誰一起分攤（想想分組的 head）？
# </details>
