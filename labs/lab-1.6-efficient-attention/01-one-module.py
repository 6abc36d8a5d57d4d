# %% [markdown] lang="en"
# # 1. Fewer keys and values than queries
#
# **Question.** Eight query heads, two key/value heads: which reads which, and what is saved if you write it the obvious way?
#
# | | |
# |---|---|
# | You build | one attention for MHA, GQA and MQA, in two forms, and the evidence that it is the one that libraries have |
# | You write | exercises 1 and 2 (`grouped_attention.py`) |
# | You need | a few seconds on two CPU cores, 1 GB of memory |
# | You should see | how far own and foreign attention are apart, where a wrong order of heads shows, and which form moves how much |

# %% [markdown] lang="zh-TW"
# # 1. key 與 value 比 query 少
#
# **問題。** 八個 query head、兩個 key/value head：誰讀誰？照最直覺的寫法，又省下了什麼？
#
# | | |
# |---|---|
# | 你會做出 | 一份同時適用 MHA、GQA、MQA 的注意力，有兩種形式，以及它與各家函式庫一致的證據 |
# | 你要寫的 | 練習 1、2（`grouped_attention.py`） |
# | 你需要 | 兩個 CPU 核心跑幾秒鐘，1 GB 記憶體 |
# | 你應該看到 | 自己的與別人的注意力差多少、head 的順序弄錯時哪裡看得出來、哪種形式要搬多少 |

# %%
import torch
from torch.nn.functional import scaled_dot_product_attention

from broken_variants import attend_with, zero_attention
from decode_cost import count_step
from grouped_attention import HeadLayout, causal, expand_heads, expanded_attention, grouped_attention
from head_figures import bars, who_reads_whom
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.models import quiet_libraries
from small_llama import LlamaSizes, random_llama, to_hugging_face

quiet_libraries()
settings = lab.settings
torch.set_num_threads(settings.threads)
place = {"dtype": torch.float64, "device": settings.device}


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(settings.device)


# %% [markdown] lang="en"
# ## One code path
#
# While a model writes, it keeps the keys and values of all that it has read. So the fewer heads *they* have, the less is kept. The queries
# of the past are never needed again, and keep all their heads. Each key/value head is then read by a group of query heads:

# %% [markdown] lang="zh-TW"
# ## 同一份程式碼
#
# 模型在寫字的時候，要留住讀過的所有 key 與 value。所以*它們*的 head 愈少，要留的就愈少。過去的 query 不會再用到，
# head 就一個都不必減。於是一個 key/value head 由一組 query head 共用：

# %%
heads, kv_heads = settings.heads, settings.kv_heads
lab.source(expand_heads)
markers = torch.arange(kv_heads).reshape(1, kv_heads, 1, 1).to(settings.device)
right = expand_heads(markers, heads).flatten().tolist()
tiled = markers.repeat(1, heads // kv_heads, 1, 1).flatten().tolist()
lab.figure(
    "who-reads-whom",
    who_reads_whom({"repeat_interleave": right, "tile": tiled}),
    Text("Which key/value head a query head reads: neighbours share one, or one goes round.",
         "query head 讀哪個 key/value head：相鄰的共用一個，或是輪流。"),
)  # fmt: skip

# %% [markdown] lang="en"
# ## Predict
#
# `tensor.repeat(1, group, 1, 1)` (the right picture) has the same shape, raises nothing, and every head is read equally often. You train a
# fresh model with it, and a second one with `repeat_interleave`. Which gets the better loss? And what happens when you load the weights
# of a published GQA model into the code with `repeat`? Answer before you read on.
#
# Then the numbers. Write a guess into `predictions.toml`: how large is the largest difference between our attention and PyTorch's
# (`library_difference = ...`), in float64, for outputs of size about 1?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# `tensor.repeat(1, group, 1, 1)`（右圖）的形狀一樣、不會報錯，每個 head 被讀的次數也一樣多。用它從頭訓練一個模型，
# 另一個用 `repeat_interleave`，哪一個的損失比較好？如果把公開的 GQA 模型的權重，載入用 `repeat` 寫的程式，又會怎樣？請先回答再往下看。
#
# 再來是數字。把猜測寫進 `predictions.toml`：在 float64、輸出大小約為 1 時，我們的注意力與 PyTorch 的，最大差異是多少（`library_difference = ...`）？


# %%
def own_and_library(attend, heads, kv_heads, seed):
    """Largest difference from SDPA's enable_gqa, with more keys than queries."""
    queries = draw(2, heads, 5, 16, seed=seed)
    keys, values = draw(2, kv_heads, 9, 16, seed=seed + 1), draw(2, kv_heads, 9, 16, seed=seed + 2)
    visible = causal(torch.arange(4, 9), torch.arange(9)).to(settings.device)
    wanted = scaled_dot_product_attention(queries, keys, values, attn_mask=visible, enable_gqa=True)
    return (attend(queries, keys, values, visible) - wanted).abs().max().item()


layouts = [(heads, count) for count in range(1, heads + 1) if heads % count == 0]
candidates = {
    "grouped": grouped_attention, "expanded": expanded_attention, "tile": attend_with("tile"), "zeros": zero_attention,
}  # fmt: skip
table = {name: [own_and_library(attend, *layout, seed=10) for layout in layouts] for name, attend in candidates.items()}
columns = [tr("attention", "注意力"), *(tr(f"{h} / {k} heads", f"{h} / {k} 個 head") for h, k in layouts)]
lab.table(columns, [(name, *(f"{value:.1e}" for value in row)) for name, row in table.items()])

# %% [markdown] lang="en"
# Look at the first and at the last column of `tile`. With one key/value head, or one for each query head, the order is no question. A test
# with such numbers proves nothing about GQA, and neither does a training: a fresh model learns with any fixed assignment.

# %% [markdown] lang="zh-TW"
# 看看 `tile` 的第一欄與最後一欄。只有一個 key/value head，或每個 query head 各有一個時，沒有順序可言。用這種數字寫的測試，
# 對 GQA 什麼都沒證明；訓練也一樣：全新的模型不管用哪一種固定的分配，都學得起來。

# %%
grouped_columns = [number for number, (h, k) in enumerate(layouts) if 1 < k < h]
lab.record("library_difference", max(*table["grouped"], *table["expanded"]))
lab.record("library_difference", min(table["tile"][number] for number in grouped_columns), variant="tile")
lab.record("library_difference", min(table["zeros"]), variant="zeros")

# %% [markdown] lang="en"
# ## A whole model, held against `transformers`
#
# Our `SmallLlama` has the parameter names of Hugging Face's Llama. So one set of weights goes into both: ours, and `LlamaForCausalLM`,
# which copies heads with its own `repeat_kv`. If the order of the heads were another, logits would differ.

# %% [markdown] lang="zh-TW"
# ## 整個模型，對照 `transformers`
#
# 我們的 `SmallLlama` 用的參數名稱與 Hugging Face 的 Llama 相同。所以同一組權重可以放進兩邊：我們的，以及 `LlamaForCausalLM`，
# 它用自己的 `repeat_kv` 複製 head。head 的順序要是不同，logits 就會不同。

# %%
sizes = LlamaSizes(layers=2, width=48, layout=HeadLayout(heads, kv_heads, 8), hidden=64, vocabulary=100)
model = random_llama(sizes, seed=0, dtype=torch.float32, device=settings.device)
ids = torch.randint(100, (2, 11), generator=torch.Generator().manual_seed(0)).to(settings.device)
differences = {}
with torch.inference_mode():
    wanted = to_hugging_face(model)(input_ids=ids).logits
    for name, attend in candidates.items():
        for layer in model.model.layers:
            layer.self_attn.attend = attend
        differences[name] = ((model(ids) - wanted).abs().max() / wanted.abs().max()).item()
lab.record("transformers_difference", max(differences["grouped"], differences["expanded"]))
lab.record("transformers_difference", differences["tile"], variant="tile")
lab.record("transformers_difference", differences["zeros"], variant="zeros")
columns = [tr("attention", "注意力"), tr("largest difference of logits, relative", "logits 的最大差異（相對值）")]
lab.table(columns, [(name, f"{value:.1e}") for name, value in differences.items()])

# %% [markdown] lang="en"
# And a training from scratch? Take the same weights, and only write the query heads down in another order, in `q_proj` and, so that they are
# undone behind it, in `o_proj`. Then let the model read with `tile`:

# %% [markdown] lang="zh-TW"
# 那麼從頭訓練呢？拿同一組權重，只把 query head 換個順序寫：`q_proj` 換了，後面的 `o_proj` 也跟著換。然後讓模型用 `tile` 來讀：

# %%
group = heads // kv_heads
order = [(head % kv_heads) * group + head // kv_heads for head in range(heads)]
reordered = random_llama(sizes, seed=0, dtype=torch.float32, device=settings.device)
with torch.no_grad():
    for layer in reordered.model.layers:
        attention = layer.self_attn
        attention.attend = attend_with("tile")
        by_head = attention.q_proj.weight.unflatten(0, (heads, 8))  # -> (heads, head_dim, width)
        attention.q_proj.weight.copy_(by_head[order].flatten(0, 1))
        by_head = attention.o_proj.weight.unflatten(1, (heads, 8))  # -> (width, heads, head_dim)
        attention.o_proj.weight.copy_(by_head[:, order].flatten(1, 2))
    reordered_difference = ((reordered(ids) - wanted).abs().max() / wanted.abs().max()).item()
lab.record("reordered_difference", reordered_difference)
lab.record("reordered_difference", differences["tile"], variant="not_reordered")
lab.say(
    f"Off by {reordered_difference:.0e}: the same function. So whatever `repeat_interleave` can learn, `tile` can learn, with its query "
    "heads in another order; a loss curve cannot tell them apart. The order only matters when weights are handed on.",
    f"只差 {reordered_difference:.0e}：同一個函式。所以 `repeat_interleave` 學得到的，`tile` 也學得到，只是 query head 的順序不同；"
    "損失曲線分不出這兩者。順序只在權重要交給別人時才重要。",
)

# %% [markdown] lang="en"
# ## Two forms, one answer
#
# `expanded_attention` copies the heads and then does what MHA does. `grouped_attention` (exercise 2) copies nothing: it puts the
# query heads of a group beside each other, as if they were more queries.
#
# ## Predict
#
# One decode step, one new token, a long cache. Set what MHA moves because of keys and values to 1. What do the two forms of GQA with a
# quarter of the key/value heads move? `expanded_over_mha = ...`, `grouped_over_mha = ...`
#
# <details><summary>A hint</summary>
#
# A copy is read once and written once, and then somebody has to read what was written.
# </details>

# %% [markdown] lang="zh-TW"
# ## 兩種形式，同一個答案
#
# `expanded_attention` 先複製 head，再照 MHA 的做法。`grouped_attention`（練習 2）什麼都不複製：它把一組的 query head 並排，
# 當成只是多了幾個 query。
#
# ## 先猜猜看
#
# 一個解碼步驟、一個新 token、很長的快取。把 MHA 因為 key 與 value 而搬移的量當作 1。key/value head 只有四分之一的 GQA，兩種形式各搬多少？
# 請寫 `expanded_over_mha = ...`、`grouped_over_mha = ...`
#
# <details><summary>提示</summary>
#
# 複製要讀一次、寫一次，之後還要有人把寫好的再讀一次。
# </details>


# %%
def cache_traffic(kv_heads, attend):
    """Bytes that one step moves because of keys and values, counted, after `tokens` tokens."""
    sizes = LlamaSizes(layers=1, width=32, layout=HeadLayout(heads, kv_heads, 64), hidden=32, vocabulary=50)
    model = random_llama(sizes, seed=0, dtype=torch.float32, device=settings.device)
    for layer in model.model.layers:
        layer.self_attn.attend = attend
    caches = model.caches(2, settings.tokens)
    ids = torch.randint(50, (2, settings.tokens), generator=torch.Generator().manual_seed(0)).to(settings.device)
    with torch.inference_mode():
        model(ids[:, :-1], caches=caches)
    return count_step(model, ids[:, -1:], caches).of_cache


mha = cache_traffic(heads, grouped_attention)
copied, folded = tr("GQA, expanded", "GQA，展開"), tr("GQA, grouped", "GQA，分組")
shares = {"MHA": 1.0}
for name, attend in ((copied, expanded_attention), (folded, grouped_attention)):
    shares[name] = cache_traffic(kv_heads, attend) / mha
lab.record("grouped_traffic_difference", shares[folded] - kv_heads / heads)
lab.record("grouped_traffic_difference", shares[copied] - kv_heads / heads, variant="expanded")
label = tr("bytes moved, MHA = 1", "搬移的位元組，MHA = 1")
lab.figure(
    "two-forms", bars(shares, ylabel=label),
    Text("What a decode step moves because of keys and values, counted.", "一個解碼步驟因為 key 與 value 而搬移的量，實際數出來的。"),
)  # fmt: skip

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
guesses = [(name, lab.predict(name)) for name in ("library_difference", "expanded_over_mha", "grouped_over_mha")]
measured = [max(*table["grouped"], *table["expanded"]), shares[copied], shares[folded]]
rows = [(name, "–" if guess is None else guess, value) for (name, guess), value in zip(guesses, measured, strict=True)]
lab.table([tr("metric", "指標"), tr("your guess", "你的猜測"), tr("measured", "量測值")], rows)
lab.say(
    f"""- Own attention is PyTorch's and Hugging Face's. With `tile` the logits of the same weights are {differences["tile"]:.0%} off: a
  checkpoint that was trained the one way is noise the other way, while a training from scratch notices nothing.
- GQA with {kv_heads} of {heads} heads *keeps* {kv_heads / heads:.2f} of the bytes in both forms. It *moves* {shares[folded]:.2f} in the
  grouped form and {shares[copied]:.2f} in the expanded one: written the obvious way, GQA is a cache that is small and a step that is slow.""",
    f"""- 自己的注意力與 PyTorch、Hugging Face 的一致。改用 `tile`，同一組權重的 logits 差了 {differences["tile"]:.0%}：用其中一種方式訓練的
  checkpoint，換成另一種就成了雜訊；從頭訓練卻什麼都看不出來。
- 用 {heads} 個 head 中的 {kv_heads} 個做 GQA，兩種形式*留下*的位元組都是 {kv_heads / heads:.2f} 倍。*搬移*的量，分組的形式是 {shares[folded]:.2f}，
  展開的形式是 {shares[copied]:.2f}：照最直覺的寫法，GQA 的快取小，步驟卻慢。""",
)

# %% [markdown] lang="en"
# **Limits.** The counter sees operators of PyTorch. A fused kernel can read a key/value head once and use it for the whole group in fast memory,
# which is what `enable_gqa` and serving engines do on a GPU: no form is slow by nature, only by what is written to memory.
#
# **Exercises.** 1 and 2 (`grouped_attention.py`) belong here: `nox -s check -- lab-1.6-efficient-attention`.
#
# **Next:** the cache itself.

# %% [markdown] lang="zh-TW"
# **限制。** 計數器看到的是 PyTorch 的運算子。融合的 kernel 可以把一個 key/value head 讀進快速記憶體一次，供整組使用，
# GPU 上的 `enable_gqa` 與推論引擎就是這麼做的：沒有哪種形式天生就慢，慢的是寫進記憶體的那些東西。
#
# **練習。** 練習 1、2（`grouped_attention.py`）屬於這一本：`nox -s check -- lab-1.6-efficient-attention`。
#
# **下一步：** 快取本身。
