# %% [markdown] lang="en"
# # 4. Merge and deploy
#
# **Question.** A server has no idea what an adapter is. How does it get the fine-tuned model, and is what it serves really the model that we trained?
#
# | | |
# |---|---|
# | You build | the merge, its undoing, the merge of a 4-bit base, an export, and a real HTTP server whose answers are compared token by token |
# | You need | half a minute on two CPU cores, 2 GB of memory; the adapters of notebook 2 |
# | You should see | how far a merged model is from the adapter; how far a wrong scale is; which of three ways to merge a 4-bit base is exact; whether a server answers as the model here does |

# %% [markdown] lang="zh-TW"
# # 4. 合併與部署
#
# **問題。** 伺服器根本不知道 adapter 是什麼。它要怎麼拿到微調好的模型？它提供的，真的就是我們訓練的那個模型嗎？
#
# | | |
# |---|---|
# | 你會做出 | 合併、還原、4 位元基礎模型的合併、匯出，以及一個真正的 HTTP 伺服器，逐 token 比對它的答案 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的 adapter |
# | 你應該看到 | 合併後的模型與 adapter 差多少；縮放錯了又差多少；合併 4 位元基礎模型的三種做法，哪一種是精確的；伺服器的答案跟這裡的模型一不一樣 |

# %%
import copy

import torch

from broken_variants import broken_merge
from lora import LoraLinear, lora_layers, merge_lora
from lora_figures import merge_errors
from lora_files import load_adapter
from nf4 import quantize_model
from onepiece import lab
from onepiece.adaptation import ALL_LINEAR, accuracy, batches, distance, load_base, load_task, logits_of
from onepiece.course.text import Text, tr
from onepiece.measure import timed
from onepiece.models import count_parameters, load_model
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
adapters = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}
base, tokenizer = load_base(settings)
asked = {"train_items": settings.batch, "held_out_items": settings.held_out_items, "chat": settings.chat}
tasks = {name: load_task(name, tokenizer, **asked) for name in adapters}
batch_of = {name: batches(task, batch_size=settings.batch, seed=0)(0) for name, task in tasks.items()}


def adapted(name):
    """The base with the adapter of a task, and the adapter's settings."""
    model, _ = load_base(settings)
    return model, load_adapter(model, adapters[name], name=name)

# %% [markdown] lang="en"
# ## The update has the shape of the weight
#
# For inference nothing has to be kept apart: the product of A and B is a matrix like $W_0$, so it can be added once.

# %% [markdown] lang="zh-TW"
# ## 更新量的形狀就是權重的形狀
#
# 推論的時候，沒有什麼需要分開放：A 與 B 的乘積是跟 $W_0$ 一樣形狀的矩陣，加上去一次就好。

# %% [markdown]
# $$W_0\,x + \tfrac{\alpha}{r} B A\,x \;=\; \underbrace{\left(W_0 + \tfrac{\alpha}{r} B A\right)}_{\text{merged}}\,x$$

# %%
lab.source(merge_lora)

# %% [markdown] lang="en"
# ## Predict
#
# Both sides are equal in mathematics. In float32 they round differently. How far apart are the logits, relative to the largest one? Write `merge_difference = ...` into `predictions.toml`. And if somebody forgot to divide alpha by the rank: would the answers still be right?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 兩邊在數學上相等，在 float32 中捨入卻不同。相對於最大的 logit，它們會差多少？把 `merge_difference = ...` 寫進 `predictions.toml`。再想想：要是有人忘了把 alpha 除以秩，答案還會對嗎？

# %%
def merged_in_place(model):
    """A copy in which each LoRA layer has put its update into its base, and still is a LoRA layer."""
    model = copy.deepcopy(model)
    for layer in lora_layers(model).values():
        layer.merge()
    return model


exact, in_place, wrong, right, extra = {}, {}, {}, {}, {}
for name in adapters:
    model, chosen = adapted(name)
    wanted = logits_of(model, batch_of[name])
    merged = merge_lora(model)
    unscaled = broken_merge(model, chosen, "alpha_alone")
    exact[name] = distance(logits_of(merged, batch_of[name]), wanted)
    in_place[name] = distance(logits_of(merged_in_place(model), batch_of[name]), wanted)
    wrong[name] = distance(logits_of(unscaled, batch_of[name]), wanted)
    right[name] = [accuracy(variant, tasks[name]).accuracy for variant in (model, merged, unscaled)]
    extra[name] = [count_parameters(variant).total - count_parameters(base).total for variant in (merged, model)]
    assert not lora_layers(merged), "a merged model has plain layers only"
lab.record("merge_difference", max(*exact.values(), *in_place.values()))
lab.record("merge_difference", min(wrong.values()), variant="alpha_alone")
lab.record("extra_parameters", max(after for after, _ in extra.values()))
lab.record("extra_parameters", min(before for _, before in extra.values()), variant="not_merged")
columns = [
    *(tr("task", "任務"), tr("merged: logits differ by", "合併：logits 差異"), tr("merged in place", "原地合併")),
    *(tr("not divided by the rank", "沒有除以秩"), tr("right: adapter", "答對：adapter")),
    *(tr("right: merged", "答對：合併"), tr("right: wrong scale", "答對：錯誤縮放")),
]
lab.table(
    columns,
    [
        (name, exact[name], in_place[name], wrong[name], *(f"{value:.1%}" for value in right[name]))
        for name in adapters
    ],
)

# %%
guess = lab.predict("merge_difference")
worst = max(*exact.values(), *in_place.values())
lab.say(
    f"""The merged model differs by {worst:.1e}{"" if guess is None else f" (you guessed {guess:.1e})"}, which is \
{worst / torch.finfo(settings.dtype).eps:.0f} times the rounding unit of {settings.dtype}; \
the wrong scale differs by {min(wrong.values()):.2g} at least. The merged model has {extra["relabel"][0]} parameters \
more than the base, the adapted one {extra["relabel"][1]:,}.
With the wrong scale accuracy falls to {", ".join(f"{values[2]:.0%} ({name})" for name, values in right.items())}. \
{"An error in the logits does not always show in the answers: compare logits, not only answers." if max(values[2] for values in right.values()) > 0.5 else "Still, compare logits and not only answers: smaller mistakes do not show in them."}""",
    f"""合併後的模型差了 {worst:.1e}{"" if guess is None else f"（你猜 {guess:.1e}）"}，是 {settings.dtype} 捨入單位的 \
{worst / torch.finfo(settings.dtype).eps:.0f} 倍；錯誤的縮放至少差 {min(wrong.values()):.2g}。\
合併後的模型比基礎模型多 {extra["relabel"][0]} 個參數，帶著 adapter 的則多 {extra["relabel"][1]:,} 個。
縮放錯誤時，準確率掉到 {"、".join(f"{values[2]:.0%}（{name}）" for name, values in right.items())}。\
{"logits 的錯誤不一定會反映在答案裡：要比 logits，不能只比答案。" if max(values[2] for values in right.values()) > 0.5 else "即使如此，還是要比 logits，不能只比答案：比較小的錯誤在答案裡看不出來。"}""",
)

# %% [markdown] lang="en"
# ## And back?
#
# `LoraLinear.merge` adds the update in place, and `unmerge` takes it out again. Is $(w + d) - d = w$? In floating point, not always.

# %% [markdown] lang="zh-TW"
# ## 能還原嗎？
#
# `LoraLinear.merge` 在原地把更新量加上去，`unmerge` 再把它拿出來。$(w + d) - d = w$ 嗎？在浮點數裡，不一定。

# %%
model, _ = adapted("relabel")
layers = lora_layers(model)
before = {name: layer.base.weight.clone() for name, layer in layers.items()}


def from_before():
    """Largest difference of a weight, relative to the largest weight; and the share of weights that changed at all."""
    pairs = [(layer.base.weight, before[name]) for name, layer in layers.items()]
    largest = max(old.abs().max() for _, old in pairs)
    changed = sum(int((new != old).sum()) for new, old in pairs) / sum(old.numel() for _, old in pairs)
    return (max((new - old).abs().max() for new, old in pairs) / largest).item(), changed


for layer in layers.values():
    layer.merge()
while_merged, _ = from_before()
for layer in layers.values():
    layer.unmerge()
restored, changed = from_before()
lab.record("unmerge_difference", restored)
lab.record("unmerge_difference", while_merged, variant="still_merged")
lab.say(
    f"Merged and unmerged, the weights lie {restored:.1e} from where they were (still merged: "
    f"{while_merged:.2g}), and {changed:.0%} of them are no longer equal to the bit. "
    f"Whoever needs the base exactly keeps the adapter apart, or keeps the base.",
    f"合併再還原之後，權重與原來差 {restored:.1e}（還沒還原時是 {while_merged:.2g}），其中 {changed:.0%} 已經不是逐位元相等。需要基礎模型一個位元都不差的話，就把 adapter 分開放，或把基礎模型留一份。",
)

# %% [markdown] lang="en"
# ## Merging a 4-bit base
#
# In notebook 2 an adapter was trained on a base of four bits. Three ways to ship it without the adapter:
#
# 1. make the 4-bit weights dense and add the update to *them*: 32 bits again;
# 2. add the update to the *original* weights, which were never rounded to four bits: 32 bits too;
# 3. take the first and quantise it again: four bits, as before.
#
# **Predict:** which of them is exact? And how much do the other two cost?

# %% [markdown] lang="zh-TW"
# ## 合併 4 位元的基礎模型
#
# 第 2 本筆記本在 4 位元的基礎模型上訓練了一個 adapter。要交出這個模型、又不附 adapter，有三種做法：
#
# 1. 把 4 位元權重還原成稠密的，再把更新量加到*它們*身上：回到 32 位元；
# 2. 把更新量加到*原本*的權重上，它們從來沒有捨入成 4 位元：也是 32 位元；
# 3. 拿第一種再量化一次：跟之前一樣是 4 位元。
#
# **先猜猜看：** 哪一種是精確的？另外兩種的代價是多少？

# %%
adapter = lab.artifact("adapter-four-bit")
model, _ = load_base(settings)
quantize_model(model, ALL_LINEAR, double=True)
load_adapter(model, adapter, name="four-bit")
wanted = logits_of(model, batch_of["relabel"])

dense = merge_lora(model)
onto_original, _ = load_base(settings)
load_adapter(onto_original, adapter, name="four-bit")
again = merge_lora(model)
quantize_model(again, ALL_LINEAR, double=True)
ways = {
    "adapter on 4 bits": model,
    "1. dense, merged": dense,
    "2. original, merged": merge_lora(onto_original),
    "3. merged, 4 bits again": again,
}
apart = {name: distance(logits_of(variant, batch_of["relabel"]), wanted) for name, variant in ways.items()}
four_bit_right = {name: accuracy(variant, tasks["relabel"]).accuracy for name, variant in ways.items()}
lab.record("four_bit_merge_difference", apart["1. dense, merged"])
lab.record("four_bit_merge_difference", apart["2. original, merged"], variant="original_weights")
lab.record("four_bit_merge_difference", apart["3. merged, 4 bits again"], variant="quantised_again")
columns = [tr("way", "做法"), tr("logits differ by (relative)", "logits 差異（相對值）"), tr("right on relabel", "relabel 答對")]
lab.table(columns, [(name, apart[name], f"{four_bit_right[name]:.1%}") for name in ways])

# %%
shown = {
    "merged": worst,
    **{name: value for name, value in apart.items() if value > 0},
    "not divided by the rank": min(wrong.values()),
}
figure = merge_errors(shown, rounding=1e-5)
lab.figure(
    "merge-errors",
    figure,
    Text(
        en="How far each merged model lies from the model with its adapter; left of the dashed line is rounding.",
        zh_tw="各種合併後的模型與帶著 adapter 的模型相差多少；虛線左邊只是捨入。",
    ),
)
gains = {name: value - four_bit_right["adapter on 4 bits"] for name, value in four_bit_right.items()}
lab.say(
    f"Only the first way gives the model that was trained ({apart['1. dense, merged']:.1e}). "
    f"On the original weights, beside which the adapter has not learned, the logits differ by "
    f"{apart['2. original, merged']:.2g} and the accuracy changes by {100 * gains['2. original, merged']:+.1f} points; "
    f"in four bits again, where the levels are coarse for a small update, they differ by "
    f"{apart['3. merged, 4 bits again']:.2g} and it changes by {100 * gains['3. merged, 4 bits again']:+.1f} points. "
    f"{'This task forgives both; measure it on yours.' if min(gains.values()) > -0.02 else 'That is the price of another rounding error than the one trained with.'}",
    f"只有第一種做法給出訓練過的那個模型（{apart['1. dense, merged']:.1e}）。用原本的權重（adapter 不是搭配它們學的）差 {apart['2. original, merged']:.2g}，準確率變化 "
    f"{100 * gains['2. original, merged']:+.1f} 個百分點；再量化一次（和小小的更新量相比，位準很粗）差 {apart['3. merged, 4 bits again']:.2g}，變化 "
    f"{100 * gains['3. merged, 4 bits again']:+.1f} 個百分點。"
    f"{'這個任務對兩者都不敏感；你的任務請自己量。' if min(gains.values()) > -0.02 else '這就是捨入誤差跟訓練時不一樣的代價。'}",
)

# %% [markdown] lang="en"
# ## Export
#
# The merged model is an ordinary model, so it is saved as one: weights as safetensors, configuration, tokenizer. A fresh load must give the same logits to the bit, because nothing is computed on the way. The control has been through bfloat16, as in a script that saves in half the size and tells nobody.

# %% [markdown] lang="zh-TW"
# ## 匯出
#
# 合併後的模型就是普通的模型，所以照普通的模型儲存：safetensors 格式的權重、設定、分詞器。重新載入之後，logits 必須一個位元都不差，因為途中沒有做任何計算。對照組先轉成 bfloat16 再轉回來，就像有些程式為了省一半空間，存檔時悄悄換了型別。

# %%
exported = lab.artifact("merged-compose")
model, _ = adapted("compose")
merged = merge_lora(model)
merged.save_pretrained(exported)
tokenizer.save_pretrained(exported)

reloaded, reloaded_tokenizer = load_model(exported, device=settings.device, dtype=settings.dtype)
wanted = logits_of(merged, batch_of["compose"])
lab.record("reload_difference", distance(logits_of(reloaded, batch_of["compose"]), wanted))
rounded = copy.deepcopy(merged).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(logits_of(rounded, batch_of["compose"]), wanted), variant="through_bfloat16")
assert not any(isinstance(module, LoraLinear) for module in reloaded.modules())
sizes = [(file.name, f"{file.stat().st_size / 1e3:,.1f}") for file in sorted(exported.iterdir())]
lab.table([tr("file", "檔案"), "KB"], sizes)

# %% [markdown] lang="en"
# ## Serve
#
# `transformers serve` loads the directory in a process of its own and answers on HTTP in OpenAI's protocol. It knows nothing of this notebook. Each prompt goes to the server and to the reloaded model here; text and number of tokens must be the same. The control is the base model without the adapter.

# %% [markdown] lang="zh-TW"
# ## 部署
#
# `transformers serve` 在自己的行程裡載入這個目錄，用 OpenAI 的協定在 HTTP 上回答。它對這本筆記本一無所知。每個提示都同時送給伺服器，以及在這裡重新載入的模型；文字與 token 數都必須相同。對照組是沒有 adapter 的基礎模型。

# %%
asked = tasks["compose"].held_out[: settings.served_prompts]
prompts = [prompt_text(item, reloaded_tokenizer, chat=settings.chat) for item in asked]


@torch.inference_mode()
def local(model, prompt):
    """Greedy: the text, and how many tokens it took, the end-of-sequence token included."""
    inputs = reloaded_tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    written = model.generate(**inputs, **GREEDY, max_new_tokens=settings.answer_tokens)[0]
    tokens = written[inputs["input_ids"].shape[1] :]
    return reloaded_tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


expected = [local(reloaded, prompt) for prompt in prompts]
without_adapter = [local(base, prompt) for prompt in prompts]
def differing(one, other):
    """In how many places two lists of answers are not equal."""
    return sum(mine != yours for mine, yours in zip(one, other, strict=True))


if missing := missing_packages():
    lab.say(
        f"The server needs {', '.join(missing)}, which are not installed here.",
        f"伺服器需要 {'、'.join(missing)}，這裡沒有安裝。",
    )
else:
    begins = reloaded_tokenizer.bos_token or ""  # the server puts it before each prompt
    with served(exported, device=str(settings.device)) as address:
        print(address)
        answers = [complete(address, prompt.removeprefix(begins), settings.answer_tokens) for prompt in prompts]
    served_answers = [(answer.text, answer.completion_tokens) for answer in answers]
    lab.record("served_differently", differing(served_answers, expected))
    lab.record("served_differently", differing(served_answers, without_adapter), variant="base")
    rows = []
    for item, *given in list(zip(asked, served_answers, expected, without_adapter, strict=True))[:6]:
        rows.append([item.prompt, item.answer, *(text.strip().replace("\n", " ")[:24] for text, _ in given)])
    columns = [tr("prompt", "提示"), tr("wanted", "正確答案"), tr("served", "伺服器"), tr("here", "本機")]
    lab.table([*columns, tr("base", "基礎模型")], rows)

# %% [markdown] lang="en"
# ## What does merging save?
#
# An adapter that is kept apart costs two more small products in each layer, for each token. We decode the same number of tokens with both, in turn. Times depend on the machine, so this is reported and not judged.

# %% [markdown] lang="zh-TW"
# ## 合併有什麼好處？
#
# 分開放的 adapter，每一層、每個 token 都要多做兩個小乘積。我們輪流用兩者解碼同樣多的 token。時間取決於機器，所以只回報，不評判。

# %%
model, _ = adapted("compose")
inputs = reloaded_tokenizer(prompts[0], add_special_tokens=False, return_tensors="pt").to(settings.device)


def decode(model):
    """So many tokens, whatever they say."""
    exactly = {"min_new_tokens": settings.decode_tokens, "max_new_tokens": settings.decode_tokens}
    with torch.inference_mode():
        model.generate(**inputs, do_sample=False, **exactly)


decoders = {"adapter": lambda: decode(model), "merged": lambda: decode(reloaded), "base": lambda: decode(base)}
times = timed(decoders, repeats=settings.repeats)
ratios = sorted(one / other for one, other in zip(times["adapter"].seconds, times["merged"].seconds, strict=True))
ratio = times["adapter"].median / times["merged"].median
lab.record("decode_ratio", ratio)
tokens = settings.decode_tokens
lab.table(
    [tr("model", "模型"), tr(f"{tokens} tokens", f"{tokens} 個 token"), tr("tokens per second", "每秒 token 數")],
    [(name, str(timing), f"{tokens / timing.median:.0f}") for name, timing in times.items()],
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
if missing:
    over_http = tr("not tried here", "這裡沒有試")
else:
    wrong_ones, from_base = differing(served_answers, expected), differing(served_answers, without_adapter)
    over_http = tr(
        f"{wrong_ones} of {len(prompts)} answers differ from the local ones; from the base's {from_base} do",
        f"{len(prompts)} 個答案中有 {wrong_ones} 個與本機不同；與基礎模型不同的有 {from_base} 個",
    )
lab.say(
    f"""- Merging changes the logits by {worst:.1e} and leaves no trace of LoRA; the wrong scale changes them by {min(wrong.values()):.2g}.
- A 4-bit base is made dense first. Only then is the merge exact.
- Over HTTP: {over_http}.
- With the adapter kept apart, decoding takes {ratio:.2f} times as long here (from {ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)} repetitions).""",
    f"""- 合併讓 logits 改變 {worst:.1e}，而且模型裡不再有 LoRA 的層；錯誤的縮放會改變 {min(wrong.values()):.2g}。
- 4 位元的基礎模型要先還原成稠密的，合併才精確。
- 透過 HTTP：{over_http}。
- adapter 分開放的話，在這裡解碼要花 {ratio:.2f} 倍的時間（{len(ratios)} 次重複，從 {ratios[0]:.2f} 到 {ratios[-1]:.2f}）。""",
)

# %% [markdown] lang="en"
# ## Merge, or keep apart?
#
# | | merged | kept apart |
# |---|---|---|
# | one task, many requests | yes: nothing extra per token, any server | |
# | many tasks or customers on one base | a whole model for each | yes: a small file for each |
# | go back to the base exactly | only with a copy of it | yes |
# | base in 4 bits | grows dense again | stays in 4 bits |
#
# ## Limits of the toy scale
#
# - In a model this small, the overhead of a Python call weighs more than the arithmetic of the adapter. The ratio above says that there *is* a price, not how high it is on a GPU.
# - In bfloat16 a merge rounds the sum to 8 bits of mantissa: a small update can vanish in it. Merge in float32 and convert afterwards, then compare again.
# - `transformers serve` is a real server but a plain one. Throughput, batching, keys and metrics are the subject of module 2.
#
# **Exercises.** 6 (`lora.py`: delta, merge, unmerge) and 8 (`nf4.py`) belong here: `nox -s check -- lab-1.1.1-lora`.

# %% [markdown] lang="zh-TW"
# ## 合併，還是分開放？
#
# | | 合併 | 分開放 |
# |---|---|---|
# | 單一任務、大量請求 | 適合：每個 token 沒有額外代價，任何伺服器都行 | |
# | 同一個基礎模型上有許多任務或客戶 | 每一個都是一整個模型 | 適合：每一個只是小檔案 |
# | 要能精確回到基礎模型 | 得另外留一份 | 適合 |
# | 4 位元的基礎模型 | 會變回稠密的 | 維持 4 位元 |
#
# ## 小規模實驗的限制
#
# - 這麼小的模型，Python 呼叫的開銷比 adapter 的計算更重。上面的倍數說明*有*代價，說不出在 GPU 上是多少。
# - 在 bfloat16 下合併，總和會捨入到 8 位元的尾數：小小的更新量可能就這樣消失。請用 float32 合併，之後再轉換，然後重新比對。
# - `transformers serve` 是真正的伺服器，但功能很陽春。吞吐量、批次、金鑰與監控是第 2 單元的主題。
#
# **練習。** 練習 6（`lora.py`：delta、合併、還原）與練習 8（`nf4.py`）屬於這一本：`nox -s check -- lab-1.1.1-lora`。
