# %% [markdown] lang="en"
# # 4. Fold it away, and serve what is left
#
# **Question.** A server takes models, and some take LoRA. None takes a bag of vectors. Into which numbers of the model can a factor go, and into which can it not?
#
# | | |
# |---|---|
# | You build | the fold, with and without biases; a second place for the same factors; an export; a real HTTP server that has never heard of (IA)3 |
# | You write | exercise 4 (`ia3.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory; the adapters of notebook 2 |
# | You should see | how far a folded model is from its factors; a mistake that one model cannot show and another can; which neighbour of a layer may take its factors; served answers beside local ones |

# %% [markdown] lang="zh-TW"
# # 4. 收進權重，再把剩下的部署出去
#
# **問題。** 伺服器收的是模型，有些也收 LoRA，但沒有一個收一袋向量。倍率可以放進模型的哪些數字裡？哪些又不行？
#
# | | |
# |---|---|
# | 你會做出 | 把倍率收進權重，有偏差與沒有偏差的都做；同樣的倍率的第二個去處；匯出；以及一個從沒聽過 (IA)3 的真正 HTTP 伺服器 |
# | 你要寫的 | 練習 4（`ia3.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的 adapter |
# | 你應該看到 | 收進權重之後，與帶著倍率的差多少；一個在這個模型上看不出來、在另一個模型上卻看得出來的錯誤；一層的倍率可以交給哪個鄰居；伺服器的回答與本機的並列 |

# %%
import copy

import torch

from broken_variants import fold_with_mistake
from ia3 import RescaledLinear, add_ia3, fold_ia3, fold_into_up_proj, fold_one_layer_earlier, ia3_layers, settings_for
from ia3_figures import distances
from ia3_files import load_adapter
from onepiece import lab
from onepiece.adaptation import accuracy, batches, distance, family, fit, load_base, logits_of
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, load_model
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
adapters = {"relabel": lab.artifact("adapter-relabel"), "compose": lab.artifact("adapter-compose")}
base, tokenizer = load_base(settings)
every_task = family.load_tasks(tokenizer, chat=settings.chat)
tasks = {name: every_task[name] for name in adapters}
batch_of = {name: batches(task, batch_size=settings.batch, seed=0)(0) for name, task in tasks.items()}


def adapted(name):
    """The base with the factors of a task."""
    model, _ = load_base(settings)
    load_adapter(model, adapters[name])
    return model

# %% [markdown] lang="en"
# ## Rows and columns

# %% [markdown] lang="zh-TW"
# ## 列與行

# %% [markdown]
# $$l\odot(Wx+b)=(\mathrm{diag}(l)\,W)\,x+l\odot b,\qquad\qquad W\,(l\odot x)+b=(W\,\mathrm{diag}(l))\,x+b$$

# %% [markdown] lang="en"
# Factors on the outputs rescale rows, and the bias with them; factors on the inputs rescale columns, and leave the bias alone.

# %% [markdown] lang="zh-TW"
# 乘在輸出上的倍率會縮放列，偏差也要跟著；乘在輸入上的倍率會縮放行，偏差不動。

# %%
lab.source(RescaledLinear.folded)

# %% [markdown] lang="en"
# ## Predict
#
# Somebody writes the fold and forgets that a bias has to be rescaled too. All tests pass on a Llama. By how much are the logits wrong on a model with biases, relative to the largest one? Write `bias_forgotten = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 有人寫了收進權重的程式，忘了偏差也要縮放。在 Llama 上，所有測試都通過。換成有偏差的模型，logits 相對於最大的那個會錯多少？把 `bias_forgotten = ...` 寫進 `predictions.toml`。

# %%
exact, without_down, unseen, right, extra = {}, {}, {}, {}, {}
for name in adapters:
    model = adapted(name)
    wanted = logits_of(model, batch_of[name])
    folded = fold_ia3(model)
    outputs_only = copy.deepcopy(model)
    for layer in ia3_layers(outputs_only).values():
        if layer.on_input:
            layer.scale.data.fill_(1.0)
    exact[name] = distance(logits_of(folded, batch_of[name]), wanted)
    without_down[name] = distance(logits_of(fold_ia3(outputs_only), batch_of[name]), wanted)
    unseen[name] = distance(logits_of(fold_with_mistake(model, "bias_forgotten"), batch_of[name]), wanted)
    right[name] = [accuracy(variant, tasks[name]).accuracy for variant in (model, folded)]
    extra[name] = [count_parameters(variant).total - count_parameters(base).total for variant in (folded, model)]
lab.record("fold_difference", max(exact.values()))
lab.record("fold_difference", min(without_down.values()), variant="outputs_only")
lab.record("extra_parameters", max(after for after, _ in extra.values()))
lab.record("extra_parameters", min(before for _, before in extra.values()), variant="not_folded")

# %% [markdown] lang="en"
# A few steps on a model with biases (GPT-NeoX), so that its factors are no longer 1. Then the right fold, and two that went wrong.

# %% [markdown] lang="zh-TW"
# 在有偏差的模型（GPT-NeoX）上訓練幾步，讓倍率不再是 1。然後是正確的做法，以及兩種出錯的。

# %%
with_biases, bias_tokenizer = load_model(settings.bias_model, device=settings.device, dtype=settings.dtype)
add_ia3(with_biases, settings_for(with_biases))
bias_task = family.load_tasks(bias_tokenizer)["relabel"]
options = {"steps": settings.bias_steps, "learning_rate": settings.relabel_rate, "batch_size": settings.batch}
fit(with_biases, bias_task, seed=0, progress=False, **options)
bias_batch = batches(bias_task, batch_size=settings.batch, seed=0)(0)
wanted = logits_of(with_biases, bias_batch)
of_biases = {"right": distance(logits_of(fold_ia3(with_biases), bias_batch), wanted)}
for mistake in ("bias_forgotten", "bias_always"):
    of_biases[mistake] = distance(logits_of(fold_with_mistake(with_biases, mistake), bias_batch), wanted)
lab.record("bias_fold_difference", of_biases["right"])
lab.record("bias_fold_difference", of_biases["bias_forgotten"], variant="bias_forgotten")
lab.record("bias_forgotten", of_biases["bias_forgotten"])
lab.table(
    [tr("fold", "做法"), tr("no biases", "沒有偏差"), tr("biases", "有偏差")],
    [
        (tr("right", "正確"), max(exact.values()), of_biases["right"]),
        (tr("bias not rescaled", "偏差沒有縮放"), max(unseen.values()), of_biases["bias_forgotten"]),
    ],
)

# %%
guess = lab.predict("bias_forgotten")
lab.say(
    f"""Folded, the logits differ by {max(exact.values()):.1e}: rounding. \
Without the factors of `down_proj` they would differ by {min(without_down.values()):.2g}. \
The forgotten bias differs by {max(unseen.values()):.1e} on a Llama, where nobody can see it, and by \
{of_biases["bias_forgotten"]:.2g} on a model with biases{"" if guess is None else f" (you guessed {guess:.2g})"}.
Qwen2.5 has biases on its keys and values. Test a fold on a model that has everything that the fold touches.""",
    f"""收進權重之後，logits 差 {max(exact.values()):.1e}：只是捨入。漏掉 `down_proj` 的倍率，會差 {min(without_down.values()):.2g}。\
忘了偏差的做法，在 Llama 上差 {max(unseen.values()):.1e}，誰也看不出來；在有偏差的模型上差 \
{of_biases["bias_forgotten"]:.2g}{"" if guess is None else f"（你猜 {guess:.2g}）"}。
Qwen2.5 的 key 與 value 就有偏差。測試這種程式，要用一個什麼都有的模型。""",
)

# %% [markdown] lang="en"
# ## One layer earlier
#
# `peft` rescales the inputs of `down_proj`. The authors' own code rescales the outputs of `wi_1`, which a Llama calls `up_proj` (`configs/ia3.json` of r-three/t-few). Are these two methods, or one? And could `gate_proj` take the factors as well?

# %% [markdown] lang="zh-TW"
# ## 提前一層
#
# `peft` 縮放的是 `down_proj` 的輸入。作者自己的程式縮放的是 `wi_1` 的輸出，也就是 Llama 的 `up_proj`（r-three/t-few 的 `configs/ia3.json`）。這是兩個方法，還是同一個？`gate_proj` 也能收下這些倍率嗎？

# %%
lab.source(fold_into_up_proj)
earlier, gated = {}, {}
for name in adapters:
    model = adapted(name)
    wanted = logits_of(model, batch_of[name])
    earlier[name] = distance(logits_of(fold_one_layer_earlier(model), batch_of[name]), wanted)
    gated[name] = distance(logits_of(fold_one_layer_earlier(model, "gate_proj"), batch_of[name]), wanted)
lab.record("earlier_difference", max(earlier.values()))
lab.record("earlier_difference", min(gated.values()), variant="gate_proj")
shown = {
    tr("folded", "收進權重"): max(exact.values()),
    tr("down_proj's factors in up_proj", "down_proj 的倍率放進 up_proj"): max(earlier.values()),
    tr("with biases", "有偏差"): of_biases["right"],
    tr("... bias not rescaled", "……偏差沒有縮放"): of_biases["bias_forgotten"],
    tr("... bias behind the MLP rescaled", "……MLP 後面的偏差也縮放"): of_biases["bias_always"],
    tr("down_proj's factors in gate_proj", "down_proj 的倍率放進 gate_proj"): min(gated.values()),
    tr("down_proj's factors left out", "漏掉 down_proj 的倍率"): min(without_down.values()),
}
lab.figure(
    "folds",
    distances(shown, rounding=1e-5),
    Text(
        en="How far each folded model lies from the model with its factors; left of the dashed line is rounding.",
        zh_tw="各種收進權重的模型與帶著倍率的模型相差多少；虛線左邊只是捨入。",
    ),
)
lab.say(
    f"""In `up_proj` the factors do the same ({max(earlier.values()):.1e}): between it and `down_proj` stands only a product. \
In `gate_proj` they do not ({min(gated.values()):.2g}): silu(l · g) is not l · silu(g).
For the same reason `l_k` cannot move into the queries: between them and the keys stands the rotation by position, \
which mixes two features, and their factors are not equal.""",
    f"""放在 `up_proj`，結果相同（{max(earlier.values()):.1e}）：它與 `down_proj` 之間只有一次相乘。放在 `gate_proj` 就不行（{min(gated.values()):.2g}）：silu(l · g) 不等於 l · silu(g)。
同樣的道理，`l_k` 也搬不到 query 那邊：兩者之間隔著位置的旋轉，它會把兩個特徵混在一起，而兩者的倍率並不相等。""",
)

# %% [markdown] lang="en"
# ## Export
#
# A folded model is an ordinary model, and is saved as one. A fresh load must give the same logits to the bit. The control went through bfloat16.

# %% [markdown] lang="zh-TW"
# ## 匯出
#
# 收進權重之後就是普通的模型，照普通的模型儲存。重新載入之後，logits 必須一個位元都不差。對照組先轉成 bfloat16 再轉回來。

# %%
exported = lab.artifact("folded-compose")
folded = fold_ia3(adapted("compose"))
folded.save_pretrained(exported)
tokenizer.save_pretrained(exported)
reloaded, reloaded_tokenizer = load_model(exported, device=settings.device, dtype=settings.dtype)
wanted = logits_of(folded, batch_of["compose"])
lab.record("reload_difference", distance(logits_of(reloaded, batch_of["compose"]), wanted))
rounded = copy.deepcopy(folded).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(logits_of(rounded, batch_of["compose"]), wanted), variant="through_bfloat16")
assert not ia3_layers(reloaded), "a plain model"

# %% [markdown] lang="en"
# ## Serve
#
# vLLM serves [LoRA adapters](https://docs.vllm.ai/en/latest/features/lora.html); for vectors it has no adapter format. Folded, that does not matter: any server that loads the base's architecture will do. `transformers serve` loads the directory in a process of its own and answers on HTTP. Each prompt goes to the server and to the model here; text and number of tokens must be the same. The control is the base.

# %% [markdown] lang="zh-TW"
# ## 部署
#
# vLLM 收的是 [LoRA adapter](https://docs.vllm.ai/en/latest/features/lora.html)，沒有給向量用的格式。收進權重之後就無所謂了：任何能載入這種架構的伺服器都行。`transformers serve` 在自己的行程裡載入這個目錄，在 HTTP 上回答。每個提示都同時送給伺服器與這裡的模型；文字與 token 數都必須相同。對照組是基礎模型。

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


def differing(one, other):
    """In how many places two lists of answers are not equal."""
    return sum(mine != yours for mine, yours in zip(one, other, strict=True))


expected = [local(adapted("compose"), prompt) for prompt in prompts]  # with the factors, not folded
of_base = [local(base, prompt) for prompt in prompts]
if missing := missing_packages():
    over_http = tr(f"not tried here: {', '.join(missing)} not installed", f"這裡沒有試：缺少 {'、'.join(missing)}")
else:
    begins = reloaded_tokenizer.bos_token or ""  # the server puts it before each prompt
    with served(exported, device=str(settings.device)) as address:
        answers = [complete(address, prompt.removeprefix(begins), settings.answer_tokens) for prompt in prompts]
    given = [(answer.text, answer.completion_tokens) for answer in answers]
    lab.record("served_differently", differing(given, expected))
    lab.record("served_differently", differing(given, of_base), variant="base")
    over_http = tr(
        f"{differing(given, expected)} of {len(prompts)} answers differ from those of the factors here; "
        f"from the base's {differing(given, of_base)} do",
        f"{len(prompts)} 個答案中有 {differing(given, expected)} 個與這裡帶著倍率的模型不同；與基礎模型不同的有 {differing(given, of_base)} 個",
    )
    lab.table(
        [tr("prompt", "提示"), tr("wanted", "正確答案"), tr("served", "伺服器"), tr("base", "基礎模型")],
        [
            (item.prompt, item.answer, text.strip(), plain.strip().replace("\n", " ")[:24])
            for item, (text, _), (plain, _) in list(zip(asked, given, of_base, strict=True))[:5]
        ],
    )

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- The fold changes the logits by {max(exact.values()):.1e}; right before and after are \
{", ".join(f"{before:.1%} and {after:.1%} ({name})" for name, (before, after) in right.items())}; \
the folded model has {extra["compose"][0]} parameters more than the base.
- A forgotten bias is invisible without biases, and {of_biases["bias_forgotten"]:.2g} of the largest logit with them.
- Over HTTP: {over_http}.""",
    f"""- 收進權重讓 logits 改變 {max(exact.values()):.1e}，答對率前後是 \
{"、".join(f"{name} {before:.1%} 與 {after:.1%}" for name, (before, after) in right.items())}；\
收完之後的模型比基礎模型多 {extra["compose"][0]} 個參數。
- 忘了偏差，在沒有偏差的模型上看不出來；有偏差時，是最大 logit 的 {of_biases["bias_forgotten"]:.2g}。
- 透過 HTTP：{over_http}。""",
)

# %% [markdown] lang="en"
# ## Fold, or keep the vectors?
#
# | | folded | kept |
# |---|---|---|
# | one task, any server | yes: nothing extra per token | |
# | many tasks in one batch | | yes: a vector for each row |
# | back to the base | divide again: a factor near 0 loses what it muted, so keep the base | switch off, exact |
#
# ## Limits of the toy scale
#
# - Float32 throughout. In bfloat16 a fold rounds each weight anew; fold in float32, convert afterwards, compare.
# - `transformers serve` is a plain server: throughput is the subject of module 2.
#
# **Exercise.** 4 (`ia3.py`: one layer earlier) belongs here: `nox -s check -- lab-1.1.5-ia3`.

# %% [markdown] lang="zh-TW"
# ## 收進權重，還是留著向量？
#
# | | 收進權重 | 留著 |
# |---|---|---|
# | 單一任務，任何伺服器 | 適合：每個 token 沒有額外代價 | |
# | 同一批次裡許多任務 | | 適合：每一列一個向量 |
# | 回到基礎模型 | 要再除回去：倍率接近 0 的話，被關小的就找不回來，所以基礎模型要留著 | 關掉即可，完全精確 |
#
# ## 小規模實驗的限制
#
# - 全程用 float32。在 bfloat16 下收進權重，每個權重都會再捨入一次；請用 float32 收，之後再轉換，然後比對。
# - `transformers serve` 是功能簡單的伺服器：吞吐量是第 2 單元的主題。
#
# **練習。** 練習 4（`ia3.py`：提前一層）屬於這一本：`nox -s check -- lab-1.1.5-ia3`。
