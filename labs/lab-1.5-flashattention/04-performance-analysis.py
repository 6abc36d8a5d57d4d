# %% [markdown] lang="en"
# # 4. Where the time goes
#
# **Question.** Tiled attention does the same arithmetic as naive attention, and more. Why is it the faster one on a GPU, and how do you
# see that without a GPU?
#
# | | |
# |---|---|
# | You build | a count of every element that crosses between slow and fast memory, a formula that predicts it exactly, a block-size sweep, a roofline, and a table of every implementation on your machine |
# | You need | half a minute on two CPU cores, 1 GB of memory; notebook 1 must have run |
# | You should see | count and formula equal to the last element; traffic that falls as 1 / M with M elements of fast memory; a largest temporary that does not know how long the sequence is |

# %% [markdown] lang="zh-TW"
# # 4. 時間花到哪裡去了
#
# **問題。** 分塊注意力做的算術跟樸素版一樣多，甚至更多。為什麼在 GPU 上它反而快？沒有 GPU 的話，要怎麼看出來？
#
# | | |
# |---|---|
# | 你會做出 | 逐一數出每個跨越慢速與快速記憶體的元素，一條完全準確預測它的公式，一次區塊大小掃描，一張 roofline 圖，還有你這台機器上所有實作的比較表 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；要先跑過第 1 本筆記本 |
# | 你應該看到 | 數出來的和公式算的一個元素都不差；快速記憶體放得下 M 個元素時，傳輸量隨 1 / M 下降；最大的暫存張量跟序列多長無關 |

# %%
import contextlib
import importlib
import json
import random
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attention import default_scale, flash_attention, naive_attention, plan_tiles, tiled_forward
from memory_traffic import (
    AttentionShape,
    attention_flops,
    block_queries_for_sram,
    count_naive_forward,
    count_tiled_backward,
    count_tiled_forward,
    largest_temporary,
    naive_forward_traffic,
    sram_elements,
    theorem_flash,
    tiled_backward_traffic,
    tiled_forward_traffic,
)
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.figures import subplots
from onepiece.measure import timed
from tiling import Traffic

with contextlib.suppress(ImportError):  # early: Triton chooses between compiler and interpreter when it is first imported
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
# numbers, for $M$ elements of fast memory:

# %% [markdown] lang="zh-TW"
# ## 兩種記憶體
#
# GPU 有一塊又大又慢的記憶體（HBM，數十 GB），每個多處理器旁邊還有一塊又小又快的（SRAM，幾百 KB）。算術就在快速記憶體旁邊進行。
# 一個 kernel 要花多久，取決於兩件事中較慢的那件：算術本身，或是把運算元搬過來。
#
# 樸素注意力是三個 kernel，分數矩陣在每兩個 kernel 之間都要來回一趟。分塊注意力把 $Q$、$K$、$V$ 的 tile 搬進來、把輸出搬出去，
# 沒有任何 $N^2$ 大小的東西會跨過去。FlashAttention 論文的定理 2 把這件事寫成數字，其中快速記憶體放得下 $M$ 個元素：

# %% [markdown]
# $$\text{naive: } \Theta(Nd + N^2) \qquad\qquad \text{tiled: } \Theta\!\left(\frac{N^2 d^2}{M}\right)$$

# %% [markdown] lang="en"
# ## Count, then compute
#
# The loops of `tiled_forward` and `tiled_backward` call `traffic.load` and `traffic.store` at every crossing. Run on PyTorch's meta
# device, which knows shapes and no numbers, they count without computing. The formulas never look at the loops (the forward one is
# exercise 6). A formula is only right if it agrees on ragged lengths, grouped heads, odd blocks, causal and full:

# %% [markdown] lang="zh-TW"
# ## 先數，再算
#
# `tiled_forward` 和 `tiled_backward` 的迴圈在每次跨越時都會呼叫 `traffic.load` 或 `traffic.store`。放到 PyTorch 的 meta 裝置上執行
# （它只知道形狀，不存數值），就能只數不算。公式則完全不看迴圈（前向的公式是練習 6）。長度除不盡、分組的 head、奇怪的區塊大小、
# 因果或完整，公式都得對得上，才算正確：

# %%
def random_shape(chance, causal):
    kv_heads = chance.choice([1, 2])
    shape = AttentionShape(
        query_len=chance.randint(80, 400), key_len=chance.randint(80, 400), head_dim=chance.choice([16, 32, 64]),
        batch=chance.randint(1, 2), heads=kv_heads * chance.choice([1, 3]), kv_heads=kv_heads, causal=causal,
    )
    return shape, chance.randint(16, 60), chance.randint(16, 60)


rows = []
for seed in settings.seeds:
    chance = random.Random(seed)
    off = {"forward": 0, "backward": 0, "naive": 0, "no skip": 0}
    for trial in range(6):
        shape, block_queries, block_keys = random_shape(chance, causal=trial % 2 == 0)
        counted = count_tiled_forward(shape, block_queries, block_keys)
        formula = tiled_forward_traffic(shape, block_queries, block_keys)
        no_skip = tiled_forward_traffic(replace(shape, causal=False), block_queries, block_keys)
        backward = count_tiled_backward(shape, block_queries, block_keys), tiled_backward_traffic(shape, block_queries, block_keys)
        off["forward"] += abs(counted.loaded - formula.loaded) + abs(counted.stored - formula.stored)
        off["no skip"] += abs(counted.loaded - no_skip.loaded) + abs(counted.stored - no_skip.stored)
        off["backward"] += abs(backward[0].loaded - backward[1].loaded) + abs(backward[0].stored - backward[1].stored)
        off["naive"] += abs(count_naive_forward(shape).total - naive_forward_traffic(shape).total)
        if seed == settings.seeds[0]:
            sizes = f"{shape.query_len} × {shape.key_len}, d={shape.head_dim}, {shape.heads}/{shape.kv_heads}, {block_queries} × {block_keys}"
            rows.append([sizes, "causal" if shape.causal else "full", f"{counted.total:,}", f"{formula.total:,}", f"{no_skip.total:,}"])
    lab.record("forward_traffic_difference", off["forward"], seed=seed)
    lab.record("forward_traffic_difference", off["no skip"], seed=seed, variant="no_causal_skip")
    lab.record("backward_traffic_difference", off["backward"], seed=seed)
    lab.record("naive_traffic_difference", off["naive"], seed=seed)

lab.table(
    [tr("lengths, d, heads/kv heads, block", "長度、d、head 數/kv head 數、區塊"), "", tr("counted", "數出來的"), tr("formula", "公式"), tr("formula that forgets to skip", "忘了跳過空 tile 的公式")],
    rows,
)

# %% [markdown] lang="en"
# The last column is the control: a formula that forgets that empty tiles are not loaded. On full attention it agrees; on causal
# attention it does not, and the gate would catch it.
#
# ## Predict
#
# How many times fewer elements does the tiled forward pass move than the naive one, with the length, head size and blocks of the next
# cell? Write your guess into `predictions.toml`: `traffic_ratio = ...`

# %% [markdown] lang="zh-TW"
# 最後一欄是對照組：一條忘了「空的 tile 不必載入」的公式。完整注意力時它是對的；因果注意力時就不對了，關卡會抓到。
#
# ## 先猜猜看
#
# 照下一格的長度、head 大小與區塊，樸素版的前向傳播搬的元素，會是分塊版的幾倍？把猜測寫進 `predictions.toml`：`traffic_ratio = ...`

# %%
length, block = settings.analysis_length, settings.block
shape = AttentionShape(length, length, settings.head_dim, heads=settings.heads, kv_heads=settings.heads, causal=True)
traffic = {"naive": naive_forward_traffic(shape), "tiled": tiled_forward_traffic(shape, block, block)}
ratio = traffic["naive"].total / traffic["tiled"].total
lab.record("traffic_ratio", ratio)

guess = lab.predict("traffic_ratio")
lab.say(
    f"N = {length}, d = {settings.head_dim}, blocks of {block} × {block}, causal: naive attention moves {traffic['naive'].total:,} elements, "
    f"tiled attention {traffic['tiled'].total:,}, **{ratio:.1f} times fewer**" + ("." if guess is None else f"; you guessed {guess:g}."),
    f"N = {length}、d = {settings.head_dim}、區塊 {block} × {block}、因果：樸素版搬了 {traffic['naive'].total:,} 個元素，"
    f"分塊版 {traffic['tiled'].total:,} 個，樸素版是分塊版的 **{ratio:.1f} 倍**" + ("。" if guess is None else f"；你猜 {guess:g}。"),
)

# %% [markdown] lang="en"
# ## The theorem, seen
#
# Left: traffic over the length at fixed blocks, with the slope of the longest three. Both approach the square: FlashAttention does not
# change the exponent of the traffic, it divides the traffic. Right: what it divides by. We spend $M$ elements of fast memory on as many rows of queries as fit beside a
# few keys, and count (full attention). The dashed line is the theorem, with its constant chosen to pass through the middle. And what
# happens if the same memory is spent the other way round, on many keys beside a few queries?

# %% [markdown] lang="zh-TW"
# ## 親眼看定理
#
# 左圖：區塊大小固定，傳輸量隨長度的變化，斜率取最長的三點。兩條線都趨近平方：FlashAttention 沒有改變傳輸量的指數，而是除以一個數。
# 右圖：除以的是什麼。把 $M$ 個元素的快速記憶體，拿去放少少幾個 key，剩下全部放 query，能放幾列就放幾列，然後數（完整注意力）。
# 虛線是定理，常數選成讓它通過中間那一點。如果反過來，同樣的記憶體拿去放很多 key、只留少少幾個 query，會怎麼樣？

# %%
lengths = [512 * 2**power for power in range(6)]
same = [replace(shape, query_len=n, key_len=n) for n in lengths]
full = replace(shape, heads=1, kv_heads=1, causal=False)
few = 16
srams = [2**power for power in range(13, 18)]
many = [block_queries_for_sram(m, full.head_dim, few) for m in srams]
moved = [tiled_forward_traffic(full, block, few).total for block in many]
moved_wrong = [tiled_forward_traffic(full, few, block).total for block in many]
promised = np.array([theorem_flash(length, full.head_dim, m) for m in srams])
constant = moved[len(srams) // 2] / promised[len(srams) // 2]

figure, (left, right) = subplots(1, 2, figsize=(10.5, 4.2))
for name, totals in {
    "naive": [naive_forward_traffic(s).total for s in same],
    f"tiled, {block} x {block}": [tiled_forward_traffic(s, block, block).total for s in same],
}.items():
    exponent = np.polyfit(np.log(lengths[-3:]), np.log(totals[-3:]), 1)[0]
    left.loglog(lengths, totals, label=f"{name}: $N^{{{exponent:.2f}}}$")
left.set(xlabel="sequence length N", ylabel="elements moved, forward")
left.set_xticks(lengths, [str(n) for n in lengths])
left.minorticks_off()
left.legend()
right.axhline(naive_forward_traffic(full).total, color="#0072B2", label="naive")
right.loglog(srams, moved, linestyle="", color="#D55E00", marker="s", label="spent on queries")
right.loglog(srams, moved_wrong, color="#CC79A7", marker="D", label="spent on keys instead")
right.loglog(srams, constant * promised, linestyle="--", color="black", marker="", linewidth=1.2, label="theorem: 1 / M")
right.set(xlabel="fast memory M (elements)", ylabel="elements moved, forward")
right.set_xticks(srams, [f"{m // 1024}K" for m in srams])
right.minorticks_off()
right.legend()
lab.figure(
    "traffic",
    figure,
    Text(
        en="Elements moved by the forward pass: over the length (left), and over the size of the fast memory (right).",
        zh_tw="前向傳播搬移的元素數：隨長度（左）與隨快速記憶體大小（右）的變化。",
    ),
)

# %%
slope = np.polyfit(np.log(srams), np.log(moved), 1)[0]
slope_wrong = np.polyfit(np.log(srams), np.log(moved_wrong), 1)[0]
lab.record("traffic_over_sram_exponent", slope)
lab.record("traffic_over_sram_exponent", slope_wrong, variant="spent_on_keys")
spread = np.array(moved) / promised
naive_total, tight = naive_forward_traffic(full).total, 4096
tight_moved = tiled_forward_traffic(full, block_queries_for_sram(tight, full.head_dim, few), few).total
lab.say(
    f"The counted traffic falls like $M^{{{slope:.2f}}}$; the theorem says $M^{{-1}}$. Its hidden constant lies between {spread.min():.1f} and {spread.max():.1f} here. "
    f"Spent on keys, the same memory saves nothing ($M^{{{slope_wrong:.2f}}}$): K and V are read once per *query block*, so only more queries per block help. "
    f"And M must be large enough for tiling to pay: with {tight:,} elements it would move {tight_moved / naive_total:.2f} times what naive attention moves, with {srams[-1]:,} it is {moved[-1] / naive_total:.2f} times.",
    f"數出來的傳輸量像 $M^{{{slope:.2f}}}$ 那樣下降；定理說是 $M^{{-1}}$。定理沒寫出來的常數，在這裡介於 {spread.min():.1f} 與 {spread.max():.1f} 之間。"
    f"同樣的記憶體拿去放 key，就什麼也省不到（$M^{{{slope_wrong:.2f}}}$）：K 和 V 是每個 *query 區塊*重讀一次，所以只有一個區塊放更多 query 才有用。"
    f"而且 M 要夠大，分塊才划算：只有 {tight:,} 個元素時，傳輸量會是樸素版的 {tight_moved / naive_total:.2f} 倍；有 {srams[-1]:,} 個時是 {moved[-1] / naive_total:.2f} 倍。",
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
    return [torch.randn(size, generator=generator).to(settings.device, dtype).requires_grad_(requires_grad) for _ in range(3)]


def tiled(queries, keys, values, block=block):
    return flash_attention(queries, keys, values, causal=True, block_queries=block, block_keys=block)


def naive(queries, keys, values):
    return naive_attention(queries, keys, values, causal=True)


def tiled_loop(queries, keys, values, block=block):
    tiling = plan_tiles(queries, keys, True, block, block)
    return tiled_forward(queries, keys, values, tiling, default_scale(settings.head_dim), Traffic())


inputs = random_inputs(length)
sweep = {b: {"traffic": tiled_forward_traffic(shape, b, b).total, "sram": sram_elements(b, b, settings.head_dim)} for b in settings.sweep_blocks}
times = timed({b: lambda b=b: tiled(*inputs, block=b) for b in settings.sweep_blocks}, repeats=settings.repeats)
for b in lab.progress(settings.sweep_blocks):
    sweep[b] |= {"temporary": largest_temporary(lambda b=b: tiled_loop(*inputs, block=b)), "ms": times[b].median * 1e3, "spread": times[b].spread * 1e3}

lab.table(
    [tr("block", "區塊"), tr("elements moved", "搬移的元素"), tr("in fast memory at once", "同時在快速記憶體裡"), tr("largest temporary", "最大暫存"), "ms"],
    [[b, f"{s['traffic']:,}", f"{s['sram']:,}", f"{s['temporary']:,}", f"{s['ms']:.1f} ± {s['spread']:.1f}"] for b, s in sweep.items()],
)

# %%
figure, axes = subplots(1, 3, figsize=(12, 3.8))
blocks = list(sweep)
axes[0].loglog(blocks, [s["traffic"] for s in sweep.values()])
axes[0].axhline(traffic["naive"].total, color="black", linestyle="--", linewidth=1.2)
axes[0].annotate("naive", (blocks[0], traffic["naive"].total), textcoords="offset points", xytext=(0, -14))
axes[0].set(ylabel="elements moved, forward")
axes[1].loglog(blocks, [s["temporary"] for s in sweep.values()], color="#D55E00", marker="s")
axes[1].axhline(settings.heads * length**2, color="black", linestyle="--", linewidth=1.2)
axes[1].annotate("naive", (blocks[0], settings.heads * length**2), textcoords="offset points", xytext=(0, -14))
axes[1].set(ylabel="largest temporary (elements)")
axes[2].errorbar(blocks, [s["ms"] for s in sweep.values()], [s["spread"] for s in sweep.values()], color="#009E73", marker="^")
axes[2].set(ylabel="time (ms), Python loop", ylim=(0, None))
axes[2].set_xscale("log")
for panel in axes:
    panel.set(xlabel="block size")
    panel.set_xticks(blocks, [str(b) for b in blocks])
    panel.minorticks_off()
lab.figure(
    "block-sweep",
    figure,
    Text(
        en="Traffic, largest temporary and time of the tiled forward pass over the block size.",
        zh_tw="分塊前向傳播的傳輸量、最大暫存張量與時間，隨區塊大小的變化。",
    ),
)

# %%
fastest = min(sweep, key=lambda b: sweep[b]["ms"])
lab.say(
    f"""From blocks of {blocks[0]} to {blocks[-1]} the traffic falls by a factor of {sweep[blocks[0]]["traffic"] / sweep[blocks[-1]]["traffic"]:.1f} and the fast memory rises by
{sweep[blocks[-1]]["sram"] / sweep[blocks[0]]["sram"]:.0f} times. The Python loop is fastest at {fastest} here: larger tiles are fewer calls, but they also compute more scores that the causal mask throws
away, and leave the processor's cache. A GPU kernel has no such calls, and its limit is what fits: at {element_bytes} bytes per element a block of {blocks[-1]} would take {sweep[blocks[-1]]["sram"] * element_bytes / 1024:.0f} KiB, and a block of 64
{sram_elements(64, 64, settings.head_dim) * element_bytes / 1024:.0f} KiB. A multiprocessor has 64 to 228 KiB of shared memory: that is why kernels use tiles of 64 or 128 rows.""",
    f"""區塊從 {blocks[0]} 到 {blocks[-1]}，傳輸量降為 {sweep[blocks[0]]["traffic"] / sweep[blocks[-1]]["traffic"]:.1f} 分之一，快速記憶體的需求變成
{sweep[blocks[-1]]["sram"] / sweep[blocks[0]]["sram"]:.0f} 倍。Python 迴圈在區塊 {fastest} 時最快：tile 愈大，呼叫愈少，但是被因果遮罩丟掉的分數也愈多，而且放不進處理器的快取。GPU kernel 沒有這種呼叫，限制在於放不放得下：
每個元素 {element_bytes} 位元組，區塊 {blocks[-1]} 要 {sweep[blocks[-1]]["sram"] * element_bytes / 1024:.0f} KiB，區塊 64 要
{sram_elements(64, 64, settings.head_dim) * element_bytes / 1024:.0f} KiB。一個多處理器的共享記憶體是 64 到 228 KiB，所以 kernel 用的 tile 多半是 64 或 128 列。""",
)

# %% [markdown] lang="en"
# ## The largest temporary does not know the length
#
# Now the length doubles and the block stays. The largest temporary of the forward pass should not move at all; in a training step it
# may double, because gradients are as long as the sequence. Naive attention pays four times, either way.

# %% [markdown] lang="zh-TW"
# ## 最大的暫存張量與序列長度無關
#
# 這次長度加倍、區塊不變。前向傳播最大的暫存張量應該完全不動；訓練步驟裡它可以加倍，因為梯度跟序列一樣長。
# 樸素版則不管哪一種都要四倍。

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
columns = [tr("tiled, forward", "分塊，前向"), tr("naive, forward", "樸素，前向"), tr("tiled, training", "分塊，訓練"), tr("naive, training", "樸素，訓練")]
lab.table([tr("length", "長度"), *columns], [*rows, [tr("growth", "倍數"), *growth[1:]]])

lab.record("temporary_growth", growth[1])
lab.record("temporary_growth", growth[2], variant="naive")
lab.record("training_temporary_growth", growth[3])
lab.record("training_temporary_growth", growth[4], variant="naive")

# %% [markdown] lang="en"
# ## Roofline
#
# How fast *can* it be? A kernel with an **arithmetic intensity** of $I$ operations per byte moved cannot exceed
# $\min(\text{peak},\ I \cdot \text{bandwidth})$. Both ceilings are measured here and now, peak by a large matrix product and bandwidth by a
# large copy, so this roofline is your machine's own.

# %% [markdown] lang="zh-TW"
# ## Roofline
#
# *最快*能多快？一個 kernel 每搬一個位元組做 $I$ 次運算（**運算強度**，arithmetic intensity），速度就不可能超過
# $\min(\text{峰值},\ I \cdot \text{頻寬})$。這兩個上限都在此時此地量出來：峰值用一個大矩陣乘法，頻寬用一次大複製，
# 所以這張 roofline 是你這台機器自己的。

# %%
def measured_ceilings():
    """Operations per second of a large matrix product, and bytes per second of a large copy (read and written)."""
    square = torch.randn(settings.matmul_size, settings.matmul_size, device=settings.device, dtype=dtype)
    source = torch.zeros(settings.copy_megabytes * 2**20 // element_bytes, device=settings.device, dtype=dtype)
    target = torch.zeros_like(source)
    times = timed({"matmul": lambda: square @ square, "copy": lambda: target.copy_(source)}, repeats=5)
    return 2 * settings.matmul_size**3 / times["matmul"].median, 2 * source.nbytes / times["copy"].median


peak, bandwidth = measured_ceilings()
flops = attention_flops(shape)
intensity = {name: flops / (moved.total * element_bytes) for name, moved in traffic.items()}


def sdpa(queries, keys, values):
    return scaled_dot_product_attention(queries, keys, values, is_causal=True)


times = timed({name: lambda attend=attend: attend(*inputs) for name, attend in (("naive", naive), ("tiled", tiled), ("sdpa", sdpa))}, repeats=settings.repeats)
attained = {name: flops / timing.median for name, timing in times.items()}

figure, axes = subplots()
grid = np.logspace(-1.5, 3, 100)
axes.loglog(grid, np.minimum(peak, grid * bandwidth) / 1e9, color="black", marker="", label="roof (measured)")
for name, color, marker in (("naive", "#0072B2", "o"), ("tiled", "#D55E00", "s")):
    axes.loglog(intensity[name], attained[name] / 1e9, color=color, marker=marker, markersize=10, linestyle="", label=name)
axes.axhline(attained["sdpa"] / 1e9, color="#009E73", linestyle="--", linewidth=1.5, label="sdpa (traffic not counted)")
axes.set(xlabel="arithmetic intensity (operations per byte)", ylabel="GFLOP/s")
axes.yaxis.set_major_formatter("{x:g}")
axes.minorticks_off()
axes.legend(loc="lower right")
lab.figure(
    "roofline",
    figure,
    Text(
        en="Roofline of this machine. Points: counted intensity and measured speed of the forward pass. The traffic inside SDPA is not ours to count, so it is a line.",
        zh_tw="這台機器的 roofline。點：前向傳播數出來的運算強度與量到的速度。SDPA 內部的傳輸量無從數起，所以畫成一條線。",
    ),
)

# %%
ridge = peak / bandwidth
roof = {name: min(peak, i * bandwidth) for name, i in intensity.items()}
bound = {name: i < ridge for name, i in intensity.items()}


def limit(name, of_bandwidth, of_arithmetic):
    return of_bandwidth if bound[name] else of_arithmetic


lab.say(
    f"""- The measured peak is {peak / 1e12:.3g} TFLOP/s, the bandwidth {bandwidth / 1e9:.3g} GB/s: the roof bends at {ridge:.1f} operations per byte.
- Naive attention has {intensity["naive"]:.1f} operations per byte: it is under the {limit("naive", "sloping part, limited by bandwidth", "flat part, limited by arithmetic")}. Tiled attention has
  {intensity["tiled"]:.1f}: under the {limit("tiled", "sloping part, limited by bandwidth", "flat part, limited by arithmetic")}.
- Attained: naive {attained["naive"] / roof["naive"]:.0%} of its roof, tiled {attained["tiled"] / roof["tiled"]:.0%} of its own, SDPA {attained["sdpa"] / peak:.0%} of the peak. What is missing below the roof
  is exponentials, masks and call overhead, none of which are in the count of operations. (Eager PyTorch also moves the scores for scale and mask; our
  count, like the paper's, takes these as fused.)
- A single CPU core bends early. A data-centre GPU with tensor cores bends at more than 100 operations per byte: put both intensities there,
  and naive attention is far to the left of the bend, tiled attention {intensity["tiled"] / intensity["naive"]:.1f} times closer to it. That is why FlashAttention is faster there.""",
    f"""- 量到的峰值是 {peak / 1e12:.3g} TFLOP/s，頻寬是 {bandwidth / 1e9:.3g} GB/s：屋頂在每位元組 {ridge:.1f} 次運算處轉折。
- 樸素注意力每位元組 {intensity["naive"]:.1f} 次運算，位於{limit("naive", "斜坡段，受頻寬限制", "平頂段，受算術限制")}。分塊注意力有
  {intensity["tiled"]:.1f} 次，位於{limit("tiled", "斜坡段，受頻寬限制", "平頂段，受算術限制")}。
- 實際達到：樸素版是自己屋頂的 {attained["naive"] / roof["naive"]:.0%}，分塊版是自己屋頂的 {attained["tiled"] / roof["tiled"]:.0%}，SDPA 是峰值的 {attained["sdpa"] / peak:.0%}。屋頂下缺的那一段，
  是指數函數、遮罩和呼叫開銷，這些都沒算進運算次數。（eager 模式的 PyTorch 還會為了 scale 和遮罩多搬幾次分數；我們的數法和論文一樣，把它們視為已融合。）
- CPU 的單一核心很早就轉折。資料中心級 GPU 有 tensor core，要到每位元組 100 次以上才轉折：把這兩個強度放上去，
  樸素注意力就落在轉折點左邊很遠的地方，分塊注意力則近了 {intensity["tiled"] / intensity["naive"]:.1f} 倍。這就是 FlashAttention 在那裡比較快的原因。""",
)

# %% [markdown] lang="en"
# ## Every implementation on this machine
#
# The same function from everyone who offers it here, forward and backward, in TFLOP/s (more is better). What this machine does not have is
# listed with the reason.

# %% [markdown] lang="zh-TW"
# ## 這台機器上的所有實作
#
# 同一個函式，這台機器上有的實作全部上場，前向加反向傳播，單位是 TFLOP/s（愈大愈好）。這台機器沒有的，會列出原因。

# %%
def sdpa_backend(backend):
    def attend(queries, keys, values):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return attend


def triton_kernel(queries, keys, values):
    from flash_attention_triton import INTERPRETED, flash_attention_triton

    if INTERPRETED:
        raise RuntimeError("no NVIDIA GPU: the interpreter gives the right numbers, and its time means nothing")
    return flash_attention_triton(queries, keys, values, causal=True)


def flash_attn_package(queries, keys, values):
    from flash_attn import flash_attn_func

    queries, keys, values = (tensor.transpose(1, 2) for tensor in (queries, keys, values))  # -> (batch, seq, heads, head_dim)
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
step_flops = attention_flops(shape) + attention_flops(shape, backward=True)
rows = []
for name, reason in reasons.items():
    if reason is None:
        speed = step_flops / timings[name].median / 1e12
        rows.append([name, f"{speed:.3g} ± {speed * timings[name].spread / timings[name].median:.1g}", str(timings[name])])
    else:
        rows.append([name, "–", tr("absent: ", "沒有：") + reason])
lab.table([tr("implementation", "實作"), "TFLOP/s", tr("time, or why it is absent", "時間，或沒有的原因")], rows)

# %% [markdown] lang="en"
# Notebook 1 measured times over the length. As speeds they show where overhead ends and arithmetic begins:

# %% [markdown] lang="zh-TW"
# 第 1 本筆記本量過各種長度的時間。換算成速度，就看得出開銷在哪裡結束、算術從哪裡開始主導：

# %%
costs = json.loads(lab.artifact("costs.json").read_text(encoding="utf-8"))["costs"]
figure, axes = subplots()
for name, by_length in costs.items():
    speeds = []
    for n, cost in by_length.items():
        at = replace(shape, query_len=int(n), key_len=int(n))
        speeds.append((attention_flops(at) + attention_flops(at, backward=True)) / cost["seconds"] / 1e9)
    axes.semilogx([int(n) for n in by_length], speeds, label=name)
axes.axhline(peak / 1e9, color="black", linestyle="--", linewidth=1.2, label="matmul peak")
axes.set(xlabel="sequence length N", ylabel="GFLOP/s, forward + backward", ylim=(0, None))
axes.set_xticks(settings.lengths, [str(n) for n in settings.lengths])
axes.minorticks_off()
axes.legend(loc="center right")
lab.figure(
    "speed-over-length",
    figure,
    Text(en="Attained speed over the sequence length, from the measurements of notebook 1.", zh_tw="各種序列長度實際達到的速度，取自第 1 本筆記本的量測。"),
)

# %% [markdown] lang="en"
# ## What the numbers said, and their limits
#
# - **Exact.** The traffic formulas agree with the loops to the last element, on shapes nobody chose by hand.
# - **Memory.** The largest temporary of the forward pass depends on the block only; in training it is one row of `head_dim` numbers per token.
# - **Traffic is counted, not measured.** The loops say what an ideal fast memory would have to load. A CPU's caches decide for themselves,
#   and a GPU kernel reads through an L2 cache. On a GPU, a profiler (Nsight Compute, `dram__bytes`) measures the real thing.
# - **Time on a CPU is not the point.** It depends on your cores and on what else they do; no gate looks at it.
#
# **Exercises.** Exercise 4 (`tiling.py`: which tiles are needed) decides the traffic, exercise 6 (`memory_traffic.py`: the formula)
# predicts it. `nox -s check -- lab-1.5-flashattention` checks both.
#
# <details><summary>Something to try</summary>
#
# FlashAttention 1 had its loops the other way round: keys outside, queries inside, so that the unfinished output made a round trip per
# tile. Write that formula beside `tiled_forward_traffic` and compare: how many more elements does it move at the length of this notebook?
# </details>

# %% [markdown] lang="zh-TW"
# ## 數字說了什麼，以及它們的限制
#
# - **完全準確。** 傳輸量的公式和迴圈一個元素都不差，而且測試的形狀不是人挑的。
# - **記憶體。** 前向傳播最大的暫存只取決於區塊；訓練時，則是每個 token 一列 `head_dim` 個數字。
# - **傳輸量是數出來的，不是量出來的。** 迴圈說的是：理想的快速記憶體必須載入什麼。CPU 的快取自己作主，GPU kernel 則要經過 L2 快取。
#   在 GPU 上，可以用 profiler（Nsight Compute 的 `dram__bytes`）量真正的傳輸量。
# - **CPU 上的時間不是重點。** 它取決於你的核心，以及核心還在忙什麼；沒有任何關卡看時間。
#
# **練習。** 練習 4（`tiling.py`：需要哪些 tile）決定傳輸量，練習 6（`memory_traffic.py`：公式）預測傳輸量。
# 兩者都用 `nox -s check -- lab-1.5-flashattention` 檢查。
#
# <details><summary>可以試試看</summary>
#
# FlashAttention 1 的迴圈順序正好相反：外層是 key，內層是 query，所以還沒算完的輸出每個 tile 都要來回一趟。
# 請在 `tiled_forward_traffic` 旁邊寫出那個版本的公式再比較：在這本筆記本的長度下，它要多搬多少元素？
# </details>
