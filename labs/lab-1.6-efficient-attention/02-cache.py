# %% [markdown] lang="en"
# # 2. The cache
#
# **Question.** A model that writes token 1,000 has computed the keys of the first 999 already. What exactly must be kept so that nothing
# changes, how many bytes is it, and what if there is no room for all?
#
# | | |
# |---|---|
# | You build | a key/value cache, its price, and a cache that forgets the middle |
# | You write | exercises 3, 4 and 5 (`key_value_cache.py`) |
# | You need | a few seconds on two CPU cores, 1 GB of memory |
# | You should see | cached and uncached logits side by side; bytes of a cache, counted and for real models; what a window forgets |

# %% [markdown] lang="zh-TW"
# # 2. 快取
#
# **問題。** 模型在寫第 1,000 個 token 時，前面 999 個的 key 早就算過了。到底要留下什麼，結果才會完全不變？要多少位元組？放不下全部時又該怎麼辦？
#
# | | |
# |---|---|
# | 你會做出 | key/value 快取、它的代價，以及一個會忘掉中間的快取 |
# | 你要寫的 | 練習 3、4、5（`key_value_cache.py`） |
# | 你需要 | 兩個 CPU 核心跑幾秒鐘，1 GB 記憶體 |
# | 你應該看到 | 有快取與沒快取的 logits 對照；快取的位元組，數出來的與真實模型的；視窗忘了什麼 |

# %%
import torch
from transformers import DeepseekV3Config, LlamaConfig, MistralConfig

from broken_variants import ForgetfulCache, RestartingCache
from decode_cost import kept_by_grouped, kept_by_latent
from grouped_attention import HeadLayout, causal
from head_figures import cache_over_tokens
from key_value_cache import CacheShape, KeyValueCache, RollingCache, cache_bytes, largest_kv_heads
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.models import meta_model, quiet_libraries
from small_llama import LlamaSizes, random_llama

quiet_libraries()
settings = lab.settings
torch.set_num_threads(settings.threads)
heads, kv_heads = settings.heads, settings.kv_heads
sizes = LlamaSizes(layers=2, width=48, layout=HeadLayout(heads, kv_heads, 8), hidden=64, vocabulary=100)
model = random_llama(sizes, seed=0, dtype=torch.float64, device=settings.device)
shape = CacheShape(batch=3, kv_heads=kv_heads, capacity=40, head_dim=8)
ids = torch.randint(100, (3, 40), generator=torch.Generator().manual_seed(0)).to(settings.device)

# %% [markdown] lang="en"
# ## Predict
#
# The prompt goes in at once, then one token at a time, each with the keys and values of all before it. In float64: how large is the largest
# difference from the logits of one pass over the whole text? `cache_difference = ...`. Two wrong models stand beside it: one that
# counts positions from 0 in every step, and one that keeps nothing.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 提示一次放進去，之後一次一個 token，每個都帶著之前所有的 key 與 value。在 float64 下，跟一次算完整段文字的 logits 相比，最大差異是多少？
# 請寫 `cache_difference = ...`。旁邊有兩個錯的模型：一個每一步都從 0 開始數位置，一個什麼都不留。

# %%
lab.source(KeyValueCache.append)


def in_pieces(caches, pieces):
    """Logits of the text, (batch, seq, vocabulary), in pieces of these lengths."""
    with torch.inference_mode():
        return torch.cat([model(piece, caches=caches) for piece in ids.split(pieces, dim=1)], dim=1)


with torch.inference_mode():
    whole = model(ids)
pieces = [17, 5] + [1] * 18
kinds = {None: KeyValueCache, "positions_restart": RestartingCache, "nothing_kept": ForgetfulCache}
differences = {}
for name, kind in kinds.items():
    caches = [kind(shape, torch.float64, settings.device) for _ in range(sizes.layers)]
    differences[name] = (in_pieces(caches, pieces) - whole).abs().max().item()
lab.record("cache_difference", differences[None])
lab.record("cache_difference", differences["positions_restart"], variant="positions_restart")
lab.record("cache_difference", differences["nothing_kept"], variant="nothing_kept")
names = {
    None: tr("cached", "有快取"),
    "positions_restart": tr("positions restart", "位置重新數"),
    "nothing_kept": tr("nothing kept", "什麼都不留"),
}
guess = lab.predict("cache_difference")
lab.table(
    [tr("model", "模型"), tr("largest difference of logits", "logits 的最大差異"), tr("your guess", "你的猜測")],
    [(names[name], f"{value:.1e}", "–" if guess is None or name else guess) for name, value in differences.items()],
)

# %% [markdown] lang="en"
# Why are the old queries not kept? And why may the keys be kept *after* they were turned by their positions? Both have one answer: what a
# token gave to the cache never depends on what comes later.
#
# ## The price
#
# The bytes are counted on the tensors of a cache, for each number of key/value heads, and held against the formula of exercise 4.

# %% [markdown] lang="zh-TW"
# 為什麼不必留舊的 query？又為什麼 key 可以在依位置轉過*之後*才留下來？兩題的答案是同一個：一個 token 交給快取的東西，不會因為後來的內容而改變。
#
# ## 代價
#
# 對每一種 key/value head 數，數出快取張量的位元組，再跟練習 4 的公式對照。

# %%
counted = {}
for count in (number for number in range(1, heads + 1) if heads % number == 0):
    layout = HeadLayout(heads, count, 8)
    other = random_llama(LlamaSizes(2, 48, layout, 64, 100), seed=0, dtype=torch.float64, device=settings.device)
    counted[count] = sum(cache.nbytes for cache in other.caches(3, 40))
common = {"layers": 2, "head_dim": 8, "tokens": 40, "batch": 3, "bytes_per_number": 8}
formula = {count: cache_bytes(kv_heads=count, **common) for count in counted}
off = max(abs(counted[count] - formula[count]) for count in counted)
share_off = max(abs(counted[count] / counted[heads] - count / heads) for count in counted)
lab.record("cache_bytes_difference", off)
lab.record("cache_bytes_difference", abs(counted[kv_heads] - formula[kv_heads] // 2), variant="keys_only")
lab.record("cache_share_difference", share_off)
expanded_cache = CacheShape(3, heads, 40, 8)  # what is kept if heads are copied before they are written
copied = 2 * sum(tensor.nbytes for tensor in [expanded_cache.zeros(torch.float64, settings.device)] * 2)
lab.record("cache_share_difference", abs(copied / counted[heads] - kv_heads / heads), variant="copied_before_cache")
columns = [tr("key/value heads", "key/value head"), tr("bytes, counted", "位元組，數出來的"), tr("formula", "公式")]
columns.append(tr("share", "比例"))
rows = [(count, number, formula[count], f"{number / counted[heads]:.3f}") for count, number in counted.items()]
lab.table(columns, rows)

# %% [markdown] lang="en"
# ## Real models
#
# The default configurations of `transformers` are those of published models. `LlamaConfig()` has the shapes of a 7B of the second generation, `MistralConfig()` those of
# Mistral 7B, `DeepseekV3Config()` those of DeepSeek-V3, whose cache is the subject of notebook 4.
#
# ## Predict
#
# One user, 32,768 tokens, 2 bytes per number: how many GiB does the Llama keep? Write `llama_cache_gib = ...`.

# %% [markdown] lang="zh-TW"
# ## 真實的模型
#
# `transformers` 的預設組態就是公開模型的組態。`LlamaConfig()` 是第二代 7B 的形狀，`MistralConfig()` 是 Mistral 7B，
# `DeepseekV3Config()` 是 DeepSeek-V3，它的快取是第 4 本筆記本的主題。
#
# ## 先猜猜看
#
# 一位使用者、32,768 個 token、每個數 2 位元組：Llama 要留下幾 GiB？請寫 `llama_cache_gib = ...`。

# %%
llama, mistral, deepseek = LlamaConfig(), MistralConfig(), DeepseekV3Config()
kept = {
    f"Llama 7B ({llama.num_key_value_heads}/{llama.num_attention_heads})": kept_by_grouped(llama),
    f"Mistral 7B ({mistral.num_key_value_heads}/{mistral.num_attention_heads})": kept_by_grouped(mistral),
    f"MQA (1/{llama.num_attention_heads})": kept_by_grouped(llama, kv_heads=1),
    "DeepSeek-V3 (MLA)": kept_by_latent(deepseek),
}
tokens = settings.long_context
per_token = {name: cost.numbers * cost.layers * 2 for name, cost in kept.items()}
gib = {name: value * tokens / 2**30 for name, value in per_token.items()}
columns = [tr("model", "模型"), tr("KiB per token", "每個 token 的 KiB")]
columns.append(tr(f"GiB for {tokens:,} tokens", f"{tokens:,} 個 token 的 GiB"))
lab.table(columns, [(name, per_token[name] / 2**10, gib[name]) for name in kept])
lab.figure(
    "cache-over-tokens", cache_over_tokens(per_token, budget=settings.gpu_gigabytes * 1e9),
    Text("Bytes of one sequence's cache over its length (formula); the dashed line is all the memory of the GPU.",
         "一條序列的快取隨長度的位元組數（公式）；虛線是 GPU 的全部記憶體。"),
)  # fmt: skip

# %%
weights = 2 * meta_model(llama).num_parameters()  # bytes; they are on the GPU, too
budget = int(settings.gpu_gigabytes * 1e9) - weights
options = {"heads": llama.num_attention_heads, "layers": llama.num_hidden_layers}
options |= {"head_dim": 128, "tokens": tokens, "bytes_per_number": 2}
rows = [(batch, largest_kv_heads(budget, batch=batch, **options)) for batch in (1, 4, 16, 64, 256)]
lab.table(
    [tr("users at once", "同時的使用者"), tr("key/value heads that fit (0: none)", "放得下的 key/value head（0：一個都放不下）")], rows
)
guess = lab.predict("llama_cache_gib")
first = next(iter(gib))
lab.record("llama_cache_gib", gib[first])
lab.say(
    f"{first} keeps {gib[first]:.1f} GiB{'' if guess is None else f' (you guessed {guess:g})'}: its weights are {weights / 2**30:.1f} GiB. Weights are shared by all "
    "users, a cache is nobody else's.",
    f"{first} 要留下 {gib[first]:.1f} GiB{'' if guess is None else f'（你猜 {guess:g}）'}：權重是 {weights / 2**30:.1f} GiB。權重由所有使用者共用，快取卻是各用各的。",
)

# %% [markdown] lang="en"
# ## No room for all: a window, and sinks
#
# A rolling cache keeps the last tokens. Models put much weight on the very first tokens (*attention sinks*), so those stay as well.
# What must it be equal to? To a model without a cache whose mask hides just what was forgotten.

# %% [markdown] lang="zh-TW"
# ## 放不下全部：視窗與 sink
#
# 滾動快取只留最後的 token。模型常把很多權重放在最前面的幾個 token 上（*attention sink*），所以那些也留著。
# 它應該等於什麼？等於一個沒有快取、但遮罩剛好遮住被忘掉部分的模型。

# %%
sinks, capacity = settings.sinks, settings.sinks + settings.window
positions = torch.arange(40, device=settings.device)


def rolled(sinks):
    small = CacheShape(3, kv_heads, capacity, 8)
    caches = [RollingCache(small, sinks, torch.float64, settings.device) for _ in range(sizes.layers)]
    return in_pieces(caches, [1] * 40)


with torch.inference_mode():
    masked = model(ids, visible=causal(positions, positions, settings.window, sinks))
rolling_difference = (rolled(sinks) - masked).abs().max().item()
lab.record("rolling_difference", rolling_difference)
lab.record("rolling_difference", (rolled(0) - masked).abs().max().item(), variant="no_sinks")
lab.record("rolling_difference", (whole - masked).abs().max().item(), variant="everything_kept")
lab.say(
    f"With {sinks} sinks and a window of {settings.window}, the rolling cache is within {rolling_difference:.0e} of the masked model, and it "
    f"holds {capacity} tokens however long the text gets. It is off by {(whole - masked).abs().max().item():.1g} from the model that "
    "sees everything: forgetting is not free. (An untrained model has no sinks of its own; what they are worth, only a trained one can show.)",
    f"用 {sinks} 個 sink、{settings.window} 個 token 的視窗，滾動快取與遮罩模型只差 {rolling_difference:.0e}，而且不管文字多長都只存 {capacity} 個 token。"
    f"它與看得到全部的模型相差 {(whole - masked).abs().max().item():.1g}：遺忘不是免費的。（沒訓練過的模型沒有自己的 sink；它們值多少，只有訓練過的模型看得出來。）",
)

# %% [markdown] lang="en"
# **Limits.** The bytes here are of numbers only. A serving engine cuts the cache into blocks and wastes part of the last one.
# StreamingLLM counts positions anew inside the cache; ours keep theirs, so that an equality can be tested.
#
# **Exercises.** 3, 4 and 5 (`key_value_cache.py`) belong here: `nox -s check -- lab-1.6-efficient-attention`.
#
# **Next:** a model that was trained with four key/value heads is to live with two.

# %% [markdown] lang="zh-TW"
# **限制。** 這裡的位元組只算數字本身。推論引擎會把快取切成區塊，最後一塊會浪費一部分。
# StreamingLLM 會在快取裡重新編號位置；我們保留原本的，這樣才有等式可以檢驗。
#
# **練習。** 練習 3、4、5（`key_value_cache.py`）屬於這一本：`nox -s check -- lab-1.6-efficient-attention`。
#
# **下一步：** 一個用四個 key/value head 訓練的模型，要改用兩個過日子。
