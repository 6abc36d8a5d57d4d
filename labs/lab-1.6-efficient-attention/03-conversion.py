# %% [markdown] lang="en"
# # 3. Four heads into two
#
# **Question.** A model was trained with as many key/value heads as query heads. Can it be given fewer afterwards, and how much training does that cost?
#
# | | |
# |---|---|
# | You build | a conversion of the shipped `tiny` model, by three ways of making new heads, and a short training after it |
# | You write | exercise 6 (`conversion.py`) |
# | You need | a minute and a half on two CPU cores, 1 GB of memory |
# | You should see | what the model can still do before and after 100 steps, by the way its heads were made and by their number |

# %% [markdown] lang="zh-TW"
# # 3. 四個 head 併成兩個
#
# **問題。** 模型訓練時，key/value head 跟 query head 一樣多。事後可以減少嗎？要花多少訓練？
#
# | | |
# |---|---|
# | 你會做出 | 用三種方式做出新的 head，轉換課程附的 `tiny` 模型，再接一段很短的訓練 |
# | 你要寫的 | 練習 6（`conversion.py`） |
# | 你需要 | 兩個 CPU 核心跑一分半鐘，1 GB 記憶體 |
# | 你應該看到 | 依 head 的做法與數量，模型在訓練 100 步之前與之後還會些什麼 |

# %%
import torch

from broken_variants import attend_with, broken_pool
from conversion import Exam, convert, pooled_heads, recovery, uptrain, uptraining_batches
from head_figures import skills, uptraining_curves
from onepiece import lab
from onepiece.course.text import Text, tr
from onepiece.models import quiet_libraries
from onepiece.tiny.checkpoints import load_tiny
from small_llama import from_hugging_face, to_hugging_face

quiet_libraries()
settings = lab.settings
torch.set_num_threads(settings.threads)
theirs, tokenizer = load_tiny("tiny", device=settings.device)
tiny = from_hugging_face(theirs)
exam = Exam(tokenizer, settings.exam_items)
before = exam.shares(tiny)
layout = tiny.sizes.layout
lab.say(
    f"`tiny` has {layout.heads} query heads and {layout.kv_heads} key/value heads of {layout.head_dim}, in {tiny.sizes.layers} layers. "
    f"On {len(before)} skills it answers between {min(before.values()):.0%} and {max(before.values()):.0%} of held-out items right.",
    f"`tiny` 有 {layout.heads} 個 query head、{layout.kv_heads} 個 key/value head，各寬 {layout.head_dim}，共 {tiny.sizes.layers} 層。"
    f"在 {len(before)} 項技能上，沒看過的題目答對 {min(before.values()):.0%} 到 {max(before.values()):.0%}。",
)

# %% [markdown] lang="en"
# ## Three ways to make a head
#
# Each new key/value head serves the query heads of a group, which so far had one each. Make it the mean of theirs, or take the first one of them,
# or draw it at random:

# %% [markdown] lang="zh-TW"
# ## 做出一個 head 的三種方式
#
# 每個新的 key/value head 要服務一組 query head，而它們原本各有一個。新的可以是那幾個的平均、其中的第一個，或隨機抽：

# %%
lab.source(pooled_heads)

# %% [markdown] lang="en"
# ## Predict
#
# Recovery is the share of right answers relative to the model before conversion, as a mean over skills. Guess it for two key/value heads,
# made by the mean: `recovery_at_start = ...` before any training, and `gqa_recovery = ...` after 100 steps. Then for one head (MQA), after the same
# 100 steps: `mqa_recovery = ...`. And does it matter how heads were made, if all three are trained afterwards?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 恢復率是相對於轉換前的模型，答對比例剩下多少，取各項技能的平均。請猜兩個 key/value head、用平均做的：完全沒訓練之前 `recovery_at_start = ...`，
# 訓練 100 步之後 `gqa_recovery = ...`。再猜一個 head（MQA），同樣 100 步之後 `mqa_recovery = ...`。還有：既然三種做法之後都要訓練，當初怎麼做有差嗎？

# %%
conversions = {
    "GQA, mean": (2, "mean"), "GQA, first": (2, "first"), "GQA, random": (2, "random"), "MQA, mean": (1, "mean"),
}  # fmt: skip
labels = {
    "MHA": "MHA", "GQA, mean": tr("GQA, mean", "GQA，平均"), "GQA, first": tr("GQA, first", "GQA，第一個"),
    "GQA, random": tr("GQA, random", "GQA，隨機"), "MQA, mean": tr("MQA, mean", "MQA，平均"),
}  # fmt: skip
starts = {name: recovery(exam.shares(convert(tiny, *how)), before) for name, how in conversions.items()}
ends, curves, shares, uptrained = {}, {}, {"MHA": before}, {}
for seed in lab.progress(settings.seeds):
    options = {"steps": settings.steps, "rows": settings.rows, "length": settings.length}
    batches = uptraining_batches(tokenizer, seed=seed, **options)
    for name, how in conversions.items():
        if seed != settings.seeds[0] and how not in ((2, "mean"), (2, "first")):
            continue  # the two that a gate compares get every seed, the others one
        model = convert(tiny, *how)
        losses = list(uptrain(model, batches, learning_rate=settings.learning_rate))
        after = exam.shares(model)
        ends[name, seed] = recovery(after, before)
        if seed == settings.seeds[0]:
            curves[name], shares[name], uptrained[name] = losses, after, model

# %%
constant = exam.constant()
for seed in settings.seeds:
    lab.record("gqa_recovery", ends["GQA, mean", seed], seed=seed)
    lab.record("gqa_recovery", ends["GQA, first", seed], seed=seed, variant="first_head")
    lab.record("gqa_recovery", constant, seed=seed, variant="constant")
    lab.record("mean_over_first", ends["GQA, mean", seed] - ends["GQA, first", seed], seed=seed)
first = settings.seeds[0]
lab.record("mean_over_first", ends["GQA, random", first] - ends["GQA, first", first], variant="random", seed=first)
lab.record("mqa_recovery", ends["MQA, mean", first])
lab.record("mqa_recovery", starts["MQA, mean"], variant="not_trained")
lab.record("mqa_recovery", constant, variant="constant")
lab.record("mqa_shortfall", ends["GQA, mean", first] - ends["MQA, mean", first])
lab.record("mqa_shortfall", ends["GQA, mean", first] - ends["GQA, mean", settings.seeds[-1]], variant="gqa")
columns = [tr("conversion", "轉換"), tr("seed", "種子"), tr("recovery at the start", "一開始的恢復率")]
columns.append(tr("after training", "訓練之後"))
lab.table(columns, [(labels[name], seed, f"{starts[name]:.3f}", f"{end:.3f}") for (name, seed), end in ends.items()])
lab.figure(
    "uptraining", uptraining_curves({labels[name]: losses for name, losses in curves.items()}),
    Text("Loss over the steps of uptraining, mean of the last eight steps, first seed.", "繼續訓練時的損失，取最近八步的平均，第一個種子。"),
)  # fmt: skip
lab.figure(
    "skills", skills({labels[name]: after for name, after in shares.items()}),
    Text("Share of right answers per skill, before conversion and after uptraining, first seed.",
         "各項技能答對的比例，轉換之前與繼續訓練之後，第一個種子。"),
)  # fmt: skip

# %% [markdown] lang="en"
# ## Does the library agree with the result?
#
# The converted model is an ordinary GQA checkpoint, so `LlamaForCausalLM` with `num_key_value_heads=2` must give its logits. The control
# is our model with `tile`: it computes something, but is it this checkpoint?

# %% [markdown] lang="zh-TW"
# ## 函式庫同意這個結果嗎？
#
# 轉換後的模型就是一個普通的 GQA checkpoint，所以 `LlamaForCausalLM` 設 `num_key_value_heads=2` 應該給出一樣的 logits。對照組是
# 改用 `tile` 的我們的模型：它也算得出東西，但算的是這個 checkpoint 嗎？

# %%
ids = next(iter(exam.papers.values()))[0][:8].to(settings.device)
model = uptrained["GQA, mean"]


def apart(left, right):
    return ((left - right).abs().max() / right.abs().max()).item()


with torch.inference_mode():
    own, wanted = model(ids), to_hugging_face(model)(input_ids=ids).logits
    for layer in model.model.layers:
        layer.self_attn.attend = attend_with("tile")
    tiled = model(ids)
lab.record("converted_difference", apart(own, wanted))
lab.record("converted_difference", apart(tiled, wanted), variant="tile")

# %% [markdown] lang="en"
# A conversion should lose nothing where there is nothing to lose. Give `tiny` pairs of equal key/value heads first: then two heads are
# enough, and converted and unconverted model are equal, without any training.
# The control averages the heads that `tile` would group (0 with 2, 1 with 3).

# %% [markdown] lang="zh-TW"
# 沒有東西可失去的時候，轉換就應該什麼都不失去。先讓 `tiny` 的 key/value head 兩兩相同：這樣兩個 head 就夠了，轉換前後的模型不經訓練就該相等。
# 對照組平均的是 `tile` 會分在一組的 head（0 與 2、1 與 3）。

# %%
paired = from_hugging_face(theirs)
projections = [part for layer in paired.model.layers for part in (layer.self_attn.k_proj, layer.self_attn.v_proj)]
with torch.no_grad():
    for part in projections:
        by_head = part.weight.unflatten(0, (2, 2, layout.head_dim))  # -> (pairs, 2, head_dim, width)
        by_head[:, 1] = by_head[:, 0]
    wanted = paired(ids)
    converted, strided = convert(paired, 2), convert(paired, 2)
    for layer, source in zip(strided.model.layers, paired.model.layers, strict=True):
        for name in ("k_proj", "v_proj"):
            weight = getattr(source.self_attn, name).weight
            getattr(layer.self_attn, name).weight.copy_(broken_pool(weight, 2, layout.head_dim, "strided"))
    lab.record("lossless_difference", apart(converted(ids), wanted))
    lab.record("lossless_difference", apart(strided(ids), wanted), variant="strided")
    lossless = apart(converted(ids), wanted)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼


# %%
def mean(name):
    values = [end for (conversion, _), end in ends.items() if conversion == name]
    return sum(values) / len(values)


guesses = [lab.predict(name) for name in ("recovery_at_start", "gqa_recovery", "mqa_recovery")]
measured = [starts["GQA, mean"], mean("GQA, mean"), mean("MQA, mean")]
names = [tr("GQA at the start", "GQA，一開始"), tr("GQA after training", "GQA，訓練之後"), tr("MQA after training", "MQA，訓練之後")]
shown = ["–" if guess is None else guess for guess in guesses]
lab.table([tr("recovery", "恢復率"), tr("your guess", "你的猜測"), tr("measured", "量測值")], zip(names, shown, measured, strict=True))
lab.say(
    f"""- Pooling alone leaves {measured[0]:.0%} of the skills; {settings.steps} steps later it is {measured[1]:.0%}. The heads that were averaged were not alike,
  but something of each is left in their mean.
- How heads are made does matter: from the first head of each group {mean("GQA, first"):.0%} come back in the same steps, from random ones
  {mean("GQA, random"):.0%}. A constant answer has {constant:.0%}.
- One head for all (MQA) is at {measured[2]:.0%} after the same steps.""",
    f"""- 只做平均，技能剩下 {measured[0]:.0%}；{settings.steps} 步之後是 {measured[1]:.0%}。被平均的那些 head 並不相像，但平均裡還留著每一個的一點東西。
- head 怎麼做出來，確實有差：同樣的步數，從每組的第一個 head 出發恢復到 {mean("GQA, first"):.0%}，從隨機的出發是 {mean("GQA, random"):.0%}。
  固定答案有 {constant:.0%}。
- 全部共用一個 head（MQA），同樣的步數之後是 {measured[2]:.0%}。""",
)

# %% [markdown] lang="en"
# **Limits.** Four heads into two is a mild cut, and `tiny` has learned a small world by heart. The paper (arXiv 2305.13245) uptrains T5 models with a
# twentieth of their pretraining steps, and prefers the mean as well. All conversions share one learning rate, which
# was not searched for each of them. How long MQA would need is not answered by stopping after so few steps: raise `steps` and see.
#
# **Exercise.** 6 (`conversion.py`) belongs here: `nox -s check -- lab-1.6-efficient-attention`.
#
# **Next:** what a step costs on a GPU, and whether there is something better than few heads.

# %% [markdown] lang="zh-TW"
# **限制。** 四個併成兩個算是溫和的，而且 `tiny` 只是把一個小小的世界背熟了。論文（arXiv 2305.13245）用預訓練步數的
# 二十分之一繼續訓練 T5，也是取平均最好。所有轉換共用同一個學習率，沒有替每一種各自搜尋。MQA 需要多久，不是停在這麼少的步數就答得出來的：把 `steps` 調高試試。
#
# **練習。** 練習 6（`conversion.py`）屬於這一本：`nox -s check -- lab-1.6-efficient-attention`。
#
# **下一步：** 在 GPU 上，一個步驟的代價是多少？有沒有比「少幾個 head」更好的辦法？
