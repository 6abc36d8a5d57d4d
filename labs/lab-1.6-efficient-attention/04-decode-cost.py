# %% [markdown] lang="en"
# # 4. What a token costs, and latent attention
#
# **Question.** A GPU writes one token. Is it busy with arithmetic or with reading, and can attention be changed so that this turns round?
#
# | | |
# |---|---|
# | You build | the bytes of a decode step, counted and as a formula; a roofline; latent attention (MLA) in its two forms |
# | You write | exercise 7 (`latent_attention.py`) |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | where on the roof each kind of attention stands; how far two forms of one function are apart, and what each keeps |

# %% [markdown] lang="zh-TW"
# # 4. 一個 token 的代價，以及潛在注意力
#
# **問題。** GPU 寫出一個 token。它是忙著計算，還是忙著讀取？能不能改變注意力，讓情況反過來？
#
# | | |
# |---|---|
# | 你會做出 | 解碼步驟的位元組，數出來的與公式算的；roofline；潛在注意力（MLA）的兩種形式 |
# | 你要寫的 | 練習 7（`latent_attention.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 每種注意力在 roofline 上的位置；同一個函式的兩種形式差多少，各要留下什麼 |

# %%
import functools

import torch
from transformers import DeepseekV3Config, LlamaConfig, MistralConfig

from broken_latent import broken_latent
from conversion import convert
from decode_cost import Roof, count_step, kept_by_grouped, kept_by_latent, step_bytes
from grouped_attention import expanded_attention, grouped_attention
from head_figures import bars, roofline
from latent_attention import LatentSizes, absorbed, expanded, project, random_weights
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.measure import timed
from onepiece.models import quiet_libraries
from onepiece.tiny.checkpoints import load_tiny
from small_llama import from_hugging_face

quiet_libraries()
settings = lab.settings
torch.set_num_threads(settings.threads)
tiny = from_hugging_face(load_tiny("tiny", device=settings.device)[0])

# %% [markdown] lang="en"
# ## Bytes of a step, counted
#
# A decode step multiplies with every weight once, and with every key and value that is kept. `count_step` watches the operators of a
# real step and sorts what they read by whose memory it is; `step_bytes` says what it must be.
#
# ## Predict
#
# `tiny`, 16 users at once, 256 tokens each, 4 bytes per number. Which is more, the weights or the cache, and by what factor? `cache_over_weights = ...`

# %% [markdown] lang="zh-TW"
# ## 數出一個步驟的位元組
#
# 一個解碼步驟要跟每個權重各乘一次，也要跟留下來的每個 key 與 value 相乘。`count_step` 觀察一個真實步驟的運算子，
# 依照是誰的記憶體，把它們讀的東西分類；`step_bytes` 則說出應該是多少。
#
# ## 先猜猜看
#
# `tiny`、同時 16 位使用者、每位 256 個 token、每個數 4 位元組。權重和快取哪個比較多，是幾倍？`cache_over_weights = ...`

# %%
batch, tokens = settings.users, settings.decode_tokens
ids = torch.randint(3, 1000, (batch, tokens), generator=torch.Generator().manual_seed(0)).to(settings.device)


def counted_step(kv_heads, attend):
    """Counted bytes of the last of `tokens` tokens, and the formula's."""
    model = convert(tiny, kv_heads)
    for layer in model.model.layers:
        layer.self_attn.attend = attend
    caches = model.caches(batch, tokens)
    with torch.inference_mode():
        for piece in ids[:, :-1].split(64, dim=1):
            model(piece, caches=caches)
    return count_step(model, ids[:, -1:], caches), step_bytes(model, batch, tokens)


rows, off = [], {}
for name, kv_heads, attend in (
    ("MHA", 4, grouped_attention), ("GQA", 2, grouped_attention), ("MQA", 1, grouped_attention),
    ("GQA, expanded", 2, expanded_attention),
):  # fmt: skip
    counted, formula = counted_step(kv_heads, attend)
    off[name] = abs(counted.total - formula.total)
    parts = (counted.weights, counted.cache_read, counted.cache_written, counted.copies)
    rows.append((name, *parts, counted.total, formula.total))
    if name == "MHA":
        mha = counted
headers = [tr(*pair) for pair in (
    ("attention", "注意力"), ("weights", "權重"), ("cache read", "讀快取"), ("cache written", "寫快取"),
    ("copies", "複製"), ("all, counted", "合計，數出來的"), ("formula", "公式"),
)]  # fmt: skip
lab.table(headers, rows)
lab.record("step_bytes_difference", max(off["MHA"], off["GQA"], off["MQA"]))
lab.record("step_bytes_difference", off["GQA, expanded"], variant="expanded")
guess, ratio = lab.predict("cache_over_weights"), mha.cache_read / mha.weights
lab.record("cache_over_weights", ratio)
lab.say(
    f"For MHA the cache is {ratio:.1f} times the weights{'' if guess is None else f' (you guessed {guess:g})'}. Weights are read once for all "
    "users together, a cache once for each.",
    f"MHA 的快取是權重的 {ratio:.1f} 倍{'' if guess is None else f'（你猜 {guess:g}）'}。權重由所有使用者一起讀一次，快取則是每位使用者各讀一次。",
)

# %% [markdown] lang="en"
# ## On the clock
#
# Time is reported, not gated: it depends on the machine. One layer of attention over a long cache, no model around it.

# %% [markdown] lang="zh-TW"
# ## 實際計時
#
# 時間只回報，不當關卡：它取決於機器。這裡只量一層注意力、很長的快取，外面沒有模型。

# %%
heads, kv_heads = settings.heads, settings.kv_heads
generator = torch.Generator().manual_seed(0)
visible = torch.ones(1, settings.timed_tokens, dtype=torch.bool, device=settings.device)


def step(kv_heads, attend):
    shapes = [(8, heads, 1, 64), (8, kv_heads, settings.timed_tokens, 64), (8, kv_heads, settings.timed_tokens, 64)]
    tensors = [torch.randn(shape, generator=generator).to(settings.device) for shape in shapes]
    return functools.partial(attend, *tensors, visible)


copied, folded = tr("GQA, expanded", "GQA，展開"), tr("GQA, grouped", "GQA，分組")
kinds = {"MHA": (heads, grouped_attention), folded: (kv_heads, grouped_attention),
         copied: (kv_heads, expanded_attention), "MQA": (1, grouped_attention)}  # fmt: skip
with torch.inference_mode():
    timings = timed({name: step(*kind) for name, kind in kinds.items()}, repeats=settings.repeats, warmup=2)
speeds = {name: timings["MHA"].median / timing.median for name, timing in timings.items()}
lab.record("speed_over_mha", speeds[folded])
lab.record("speed_over_mha", speeds[copied], variant="expanded")
lab.record("speed_over_mha", speeds["MQA"], variant="mqa")
lab.figure(
    "decode-speed", bars(speeds, ylabel=tr("speed, MHA = 1", "速度，MHA = 1"), reference=1.0),
    Text("Speed of one decode step of attention on this machine, relative to MHA.", "這台機器上，一個解碼步驟的注意力速度，相對於 MHA。"),
)  # fmt: skip

# %% [markdown] lang="en"
# ## The roof of a GPU
#
# A GPU that reads a byte has time for so many operations; that ratio is its *ridge*. An attention that does fewer per byte of its cache waits for memory.
# Both figures below are typed from a table of the H100 SXM: 1,979 TFLOP/s in bfloat16 *with sparsity*, so half of it for dense matrices, and
# 3.35 TB/s ([the table](https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html), of a vendor of these cards). Yours has others: look into its data sheet, mind the footnote on sparsity,
# and change `peak_tflops` and `bandwidth_tb` in `lab.toml`.
#
# ## Predict
#
# How many operations per byte of cache (2 bytes per number) does MHA do in a decode step? `mha_intensity = ...`. GQA with a quarter of the heads? MQA
# with one for 32? How many heads would have to share to reach the ridge?
#
# <details><summary>A hint</summary>
#
# A number of a key is multiplied and added once for each query head that reads it.
# </details>

# %% [markdown] lang="zh-TW"
# ## GPU 的上限
#
# GPU 每讀一個位元組，有時間做若干次運算；這個比值就是它的*轉折點*（ridge）。一種注意力對每個快取位元組做的運算比這還少，就是在等記憶體。
# 下面兩個數字是照 H100 SXM 的規格表打的：bfloat16 為 1,979 TFLOP/s，那是*稀疏*的，密集矩陣要打對折；頻寬 3.35 TB/s
# （[規格表](https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html)，來自這種卡的一家經銷商）。你的卡數字不同：請查它的規格表，留意關於稀疏的註腳，
# 再改 `lab.toml` 裡的 `peak_tflops` 與 `bandwidth_tb`。
#
# ## 先猜猜看
#
# 解碼步驟中，MHA 對快取的每個位元組做幾次運算（每個數 2 位元組）？請寫 `mha_intensity = ...`。head 只有四分之一的 GQA 呢？32 個共用一個的 MQA 呢？
# 要多少個 head 共用，才會到達轉折點？
#
# <details><summary>提示</summary>
#
# key 的一個數，每有一個 query head 讀它，就要乘一次、加一次。
# </details>

# %%
roof = Roof(settings.peak_tflops * 1e12, settings.bandwidth_tb * 1e12)
llama, mistral, deepseek = LlamaConfig(), MistralConfig(), DeepseekV3Config()
kept = {
    "MHA (Llama 7B)": kept_by_grouped(llama),
    "GQA (Mistral 7B)": kept_by_grouped(mistral),
    "MQA (1/32)": kept_by_grouped(llama, kv_heads=1),
    "MLA (DeepSeek-V3)": kept_by_latent(deepseek),
}
intensities = {name: cost.intensity(2) for name, cost in kept.items()}
lab.figure(
    "roofline", roofline(roof, intensities),
    Text("Attention of one decode step over a long cache, on the roof of the GPU's data sheet (formula, not a measurement).",
         "解碼步驟的注意力（快取很長），畫在 GPU 規格表的上限之下（公式，不是量測）。"),
)  # fmt: skip
rows = []
for name, cost in kept.items():
    nbytes = cost.numbers * cost.layers * 2 * settings.long_context
    seconds = max(nbytes / roof.bandwidth, cost.operations * cost.layers * settings.long_context / roof.operations)
    rows.append((name, cost.numbers * 2, intensities[name], nbytes / 1e9, seconds * 1e3))
columns = [
    tr("attention", "注意力"), tr("bytes per token and layer", "每個 token、每層的位元組"), tr("operations per byte", "每位元組的運算"),
    tr(f"GB read per step, {settings.long_context:,} tokens", f"每步讀的 GB，{settings.long_context:,} 個 token"),
    tr("ms at the roof", "上限下的毫秒"),
]  # fmt: skip
lab.table(columns, rows)

# %% [markdown] lang="en"
# One point stands apart. It is not another number of heads.
#
# ## Latent attention: keep one vector, make all heads from it
#
# DeepSeek's MLA keeps a *latent* of each token, from which keys and values of all heads can be made, and one short key that
# has the position, the same for all heads. Made, they would be as many as MHA's. But they need not be made:

# %% [markdown] lang="zh-TW"
# 有一個點離其他點很遠。它並不是換了另一個 head 數。
#
# ## 潛在注意力：只留一個向量，所有 head 都從它做出來
#
# DeepSeek 的 MLA 為每個 token 留下一個*潛在向量*（latent），所有 head 的 key 與 value 都可以由它做出來；另外留一個帶位置的短 key，
# 所有 head 共用。真的做出來，會跟 MHA 一樣多。但其實不必做：

# %% [markdown]
# $$q^\top (K c) = (K^\top q)^\top c, \qquad \sum_t w_t\,(V c_t) = V \sum_t w_t\,c_t$$

# %% [markdown] lang="en"
# ## Predict
#
# The left side of each equation is the expanded form, the right side the absorbed one. In float64, how far apart are they? `absorbed_difference = ...`.
# The control scales the scores by the width that is multiplied in the absorbed form (latent and turned key) instead of the width of a head.
# And: `absorbed` calls your `grouped_attention`. With how many key/value heads?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 每個等式的左邊是展開的形式，右邊是吸收後的形式。在 float64 下，兩者差多少？`absorbed_difference = ...`。
# 對照組用吸收後實際相乘的寬度（潛在向量加轉過的 key）來縮放，而不是用 head 的寬度。
# 還有：`absorbed` 呼叫了你的 `grouped_attention`。那是幾個 key/value head？

# %%
sizes = LatentSizes(width=48, heads=6, plain_dim=16, rotary_dim=8, value_dim=12, latent_dim=20)
differences = {"absorbed": [], "latent_scale": [], "zeros": []}
for seed in settings.seeds:
    weights = random_weights(sizes, seed=seed, dtype=torch.float64, device=settings.device)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 33, sizes.width, generator=generator, dtype=torch.float64).to(settings.device)
    inputs = project(weights, hidden)
    wanted = expanded(weights, inputs)
    candidates = {
        "absorbed": absorbed(weights, inputs),
        "latent_scale": broken_latent(weights, inputs, "latent_scale"),
        "zeros": 0 * wanted,
    }
    for name, got in candidates.items():
        differences[name].append((got - wanted).abs().max().item())
    lab.record("absorbed_difference", differences["absorbed"][-1], seed=seed)
    lab.record("absorbed_difference", differences["latent_scale"][-1], seed=seed, variant="latent_scale")
    lab.record("absorbed_difference", differences["zeros"][-1], seed=seed, variant="zeros")
lab.table([tr("form", "形式"), tr("largest difference from the expanded one", "與展開形式的最大差異")],
          [(name, f"{max(values):.1e}") for name, values in differences.items()])  # fmt: skip

# %% [markdown] lang="en"
# What is kept is counted on the tensors, and held against the formula of the roofline, in the proportions of DeepSeek-V3.

# %% [markdown] lang="zh-TW"
# 留下了什麼，直接在張量上數，並按 DeepSeek-V3 的比例，跟 roofline 用的公式對照。

# %%
real = LatentSizes(
    width=64, heads=2, plain_dim=deepseek.qk_nope_head_dim, rotary_dim=deepseek.qk_rope_head_dim,
    value_dim=deepseek.v_head_dim, latent_dim=deepseek.kv_lora_rank,
)  # fmt: skip
inputs = project(random_weights(real, seed=0, dtype=torch.float32), torch.zeros(1, 1, 64))
counted = inputs.cached_per_token
per_head = real.plain_dim + real.rotary_dim + real.value_dim
lab.record("latent_numbers_difference", abs(counted - kept["MLA (DeepSeek-V3)"].numbers))
lab.record("latent_numbers_difference", abs(counted - per_head * deepseek.num_attention_heads), variant="expanded")
as_heads = counted / (2 * 128)
guess = lab.predict("mha_intensity")
lab.record("mha_intensity", intensities["MHA (Llama 7B)"])
mla = intensities["MLA (DeepSeek-V3)"]
lab.say(
    f"""- MHA does {intensities["MHA (Llama 7B)"]:.0f} operation per byte of cache{"" if guess is None else f" (you guessed {guess:g})"}; \
the ridge is at {roof.ridge:.0f}. GQA and MQA move to the right by the size of a group, to {intensities["GQA (Mistral 7B)"]:.0f} and {intensities["MQA (1/32)"]:.0f}.
- MLA keeps {counted} numbers per token and layer: as many as {as_heads:.2f} key/value heads of 128, for {deepseek.num_attention_heads} query heads. Expanded
  it would be {per_head * deepseek.num_attention_heads:,}, {per_head * deepseek.num_attention_heads / counted:.0f} times as many.
- Absorbed, it is MQA with one very wide head. All {deepseek.num_attention_heads} query heads read the same numbers, so it does {mla:.0f} operations per byte: it pays with
  arithmetic, which the GPU has left, for bytes, which it has not. At {mla / roof.ridge:.0%} of the ridge, both are nearly used up at once.""",
    f"""- MHA 對每個快取位元組做 {intensities["MHA (Llama 7B)"]:.0f} 次運算{"" if guess is None else f"（你猜 {guess:g}）"}；\
轉折點在 {roof.ridge:.0f}。GQA 與 MQA 依一組的大小往右移，到 {intensities["GQA (Mistral 7B)"]:.0f} 與 {intensities["MQA (1/32)"]:.0f}。
- MLA 每個 token、每層留 {counted} 個數：相當於 {as_heads:.2f} 個寬 128 的 key/value head，卻供 {deepseek.num_attention_heads} 個 query head 使用。
  展開的話是 {per_head * deepseek.num_attention_heads:,} 個，{per_head * deepseek.num_attention_heads / counted:.0f} 倍。
- 吸收後，它就是只有一個很寬的 head 的 MQA。{deepseek.num_attention_heads} 個 query head 讀的都是同一批數，所以每位元組做 {mla:.0f} 次運算：
  拿 GPU 還有餘裕的計算，去換它不夠用的位元組。位在轉折點的 {mla / roof.ridge:.0%}，兩者幾乎同時用完。""",
)

# %% [markdown] lang="en"
# **Limits.** A roofline is a promise of the data sheet: no kernel gets all of it. The points are for attention alone, over a cache so long that
# nothing else counts. MLA is not converted from a trained model here, and its quality is not measured: equality of two forms says nothing about what either learns.
#
# **Exercise.** 7 (`latent_attention.py`) belongs here: `nox -s check -- lab-1.6-efficient-attention`.

# %% [markdown] lang="zh-TW"
# **限制。** roofline 是規格表的承諾：沒有 kernel 拿得到全部。這些點只算注意力，而且快取長到其他部分可以不計。
# 這裡沒有把訓練好的模型轉成 MLA，也沒有量它的品質：兩種形式相等，不代表學得好不好。
#
# **練習。** 練習 7（`latent_attention.py`）屬於這一本：`nox -s check -- lab-1.6-efficient-attention`。
