# %% [markdown] lang="en"
# # 4. Try to merge it, and serve what cannot be merged
#
# **Question.** A LoRA of lab 1.1.1 disappears into the weights, because it is a matrix. An adapter has a bend in it.
# Is there *any* plain layer that does the same, for the tokens that really come by? And who serves a model that no server knows?
#
# | | |
# |---|---|
# | You build | the best plain layer there can be, for each place; a directory that is base and adapters in one; a real HTTP server that loads it |
# | You write | exercise 6 (`merging.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory; the files of notebook 2 |
# | You should see | what the best merge gets wrong, beside LoRA's; what its answers are worth; served answers beside local ones |

# %% [markdown] lang="zh-TW"
# # 4. 試著合併，再部署合併不了的東西
#
# **問題。** 實驗 1.1.1 的 LoRA 會消失在權重裡，因為它是一個矩陣。adapter 中間彎了一下。
# 只看真正經過的 token，有*任何*一個一般的線性層做得到同樣的事嗎？一個沒有伺服器認識的模型，又由誰來部署？
#
# | | |
# |---|---|
# | 你會做出 | 每個位置上，所能找到的最好的一般線性層；把基礎模型與 adapter 合成一份的目錄；載入它的真正 HTTP 伺服器 |
# | 你要寫的 | 練習 6（`merging.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的檔案 |
# | 你應該看到 | 最好的合併弄錯多少，與 LoRA 的並列；它的答案還值多少；伺服器的回答與本機的並列 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import copy

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapter_figures import unexplained_by_layer
from adapters import adapted_layers
from bottleneck_files import load_adapter, read_adapter
from broken_variants import without_non_linearity
from merging import Seen, best_plain_layer, best_plain_model, seen_by, unexplained
from model_with_adapters import with_adapters
from onepiece import lab
from onepiece.adaptation import accuracy, batches, best_constant, directory_bytes, distance, family, fold_layers, load_base, logits_of
from onepiece.course.text import Text, tr
from onepiece.serving.model_with_code import save_with_code
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
task = family.load_tasks(tokenizer, chat=settings.chat)["relabel"]
batch = batches(task, batch_size=settings.batch, seed=0)(0)
model, _ = load_base(settings)
adapter_settings = load_adapter(model, lab.artifact("adapter-relabel"))
lora = PeftModel.from_pretrained(load_base(settings)[0], lab.artifact("lora-relabel"))

# %% [markdown] lang="en"
# ## Ask, and be refused
#
# The house's `fold_layers` makes plain layers of whatever can become one. What does it say of this model?

# %% [markdown] lang="zh-TW"
# ## 問，然後被拒絕
#
# 課程的 `fold_layers` 會把能變成一般線性層的東西都變回去。它對這個模型怎麼說？

# %%
try:
    fold_layers(model)
except ValueError as refusal:
    print(refusal)

# %% [markdown] lang="en"
# ## The best that any matrix can do
#
# That the formula has a bend does not prove much: perhaps the tokens of this task all lie on one side of it, and a plain layer would do.
# So we look: what goes into each layer with an adapter and what comes out, for real tokens. Least squares (exercise 6) finds the *best* $W$ and
# $b$ there are,
# and other tokens say how much of the adapter's change it gets wrong.
#
# The same is done with LoRA, and with the same adapter without its $f$.
#
# ## Predict
#
# 0 is merged without a trace, 1 is no better than leaving the adapter out. Write `merge_residual = ...` for the worst place of the adapter
# and `merged_accuracy = ...` for the model with all best plain layers, on `relabel`, into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 任何矩陣所能做到的最好結果
#
# 公式裡有個彎，並不能證明什麼：也許這個任務的 token 全都落在彎的同一邊，一般的線性層就夠了。
# 所以要實際看：真正的 token 經過時，每個有 adapter 的層進去的是什麼、出來的是什麼。最小平方法（練習 6）會找出*最好*的 $W$ 與 $b$，
# 再用另一批 token 看它把 adapter 的改變弄錯了多少。
#
# 對 LoRA、以及同一個 adapter 拿掉 $f$ 之後，也做同樣的事。
#
# ## 先猜猜看
#
# 0 表示合併得不留痕跡，1 表示不比拿掉 adapter 好。把最差的位置寫成 `merge_residual = ...`，
# 把全部換成最好的一般線性層之後、在 `relabel` 的準確率寫成 `merged_accuracy = ...`，都寫進 `predictions.toml`。

# %%
fitting, judging = (batches(task, batch_size=settings.fit_prompts, seed=seed)(0) for seed in (1, 2))
layers = adapted_layers(model)
lora_layers = {name: lora.get_submodule(f"base_model.model.{name}") for name in layers}


def residuals(fit_on, judge_on, without):
    """Name of a layer -> what the best plain layer gets wrong, and that layer."""
    fitted = {name: best_plain_layer(seen.inputs, seen.outputs) for name, seen in fit_on.items()}
    left = {name: unexplained(*fitted[name], judge_on[name], without(name, judge_on[name].inputs)) for name in fitted}
    return left, fitted


def renamed(seen):
    """Without peft's two wrappers before the names."""
    return {name.removeprefix("base_model.model."): value for name, value in seen.items()}


def linear_adapter(seen):
    """What the same layers would have given without f."""
    return {name: Seen(each.inputs, without_non_linearity(layers[name], each.inputs)) for name, each in seen.items()}


with torch.no_grad():
    first, second = (seen_by(model, layers, given) for given in (fitting, judging))
    lora_names = [f"base_model.model.{name}" for name in layers]
    lora_first, lora_second = (renamed(seen_by(lora, lora_names, given)) for given in (fitting, judging))
    of_adapter, plain_layers = residuals(first, second, lambda name, inputs: layers[name].base(inputs))
    of_linear, _ = residuals(linear_adapter(first), linear_adapter(second), lambda name, inputs: layers[name].base(inputs))
    of_lora, _ = residuals(lora_first, lora_second, lambda name, inputs: lora_layers[name].base_layer(inputs))
lab.record("merge_residual", max(of_adapter.values()))
lab.record("merge_residual", max(of_linear.values()), variant="no_non_linearity")
lab.record("merge_residual", max(of_lora.values()), variant="lora")
lab.figure(
    "unexplained",
    unexplained_by_layer(
        {
            "adapter": list(of_adapter.values()),
            "adapter, no f": list(of_linear.values()),
            "LoRA": list(of_lora.values()),
        },
        [name.removeprefix("model.layers.") for name in layers],
    ),
    Text(
        en="What the best plain layer gets wrong of the change that an adapter, the same without f, or a LoRA makes; "
        "tokens that the fit has not seen.",
        zh_tw="adapter、拿掉 f 的同一個 adapter、LoRA 各自造成的改變中，最好的一般線性層弄錯的部分；用擬合時沒看過的 token 來評。",
    ),
)

# %% [markdown] lang="en"
# ## What is it worth?
#
# All best plain layers together make a model of the shape of the base (with biases). It costs nothing more per token. What does it know?

# %% [markdown] lang="zh-TW"
# ## 這樣還值多少？
#
# 把最好的一般線性層全部換上去，就是一個形狀跟基礎模型一樣的模型（多了偏差）。每個 token 不必多付任何東西。它還會什麼？

# %%
plain_model = best_plain_model(model, plain_layers)
known = {
    "adapter": accuracy(model, task).accuracy,
    "best plain layers": accuracy(plain_model, task).accuracy,
    "base": accuracy(base, task).accuracy,
}
merged_lora = copy.deepcopy(lora).merge_and_unload()
known |= {
    "LoRA": accuracy(lora, task).accuracy,
    "LoRA, merged": accuracy(merged_lora, task).accuracy,
    "always the same answer": best_constant(task),
}
off = distance(logits_of(plain_model, batch), logits_of(model, batch))
lora_off = distance(logits_of(merged_lora, batch), logits_of(lora, batch))
lab.record("merged_accuracy", known["best plain layers"])
lab.table(
    [tr("model", "模型"), tr("right on relabel", "relabel 答對")],
    [(name, f"{value:.1%}") for name, value in known.items()],
)

# %% [markdown] lang="en"
# ## Who serves it?
#
# - What is merged would be a plain model, which any server takes (lab 1.1.1). This is none.
# - vLLM's documentation of adapters knows [LoRA](https://docs.vllm.ai/en/latest/features/lora.html): matrices beside a layer, not networks behind it.
# - So the model becomes a class of its own: Transformers saves it with the weights, and loads it if told to *trust* the code in the directory.

# %% [markdown] lang="zh-TW"
# ## 誰來部署它？
#
# - 合併得了的話，就是一般的模型，任何伺服器都收（實驗 1.1.1）。這個不是。
# - vLLM 的 adapter 文件只認得 [LoRA](https://docs.vllm.ai/en/latest/features/lora.html)：放在一層旁邊的矩陣，不是串在後面的網路。
# - 所以模型要有自己的類別：Transformers 把它跟權重一起存下來，載入時要明說*信任*目錄裡的程式碼。

# %%
lab.source(with_adapters)
_, tensors = read_adapter(base, lab.artifact("adapter-relabel"))
whole = with_adapters(base, tensors, adapter_settings.non_linearity)
served_directory, plain_directory = lab.artifact("base-and-adapters"), lab.artifact("base-alone")
save_with_code(whole, served_directory)
base.save_pretrained(plain_directory)
for place in (served_directory, plain_directory):
    tokenizer.save_pretrained(place)
reloaded = AutoModelForCausalLM.from_pretrained(served_directory, trust_remote_code=True, dtype=settings.dtype).to(settings.device).eval()
wanted = logits_of(model, batch)
exported = distance(logits_of(reloaded, batch), wanted)
lab.record("export_difference", exported)
lab.record(
    "export_difference",
    distance(logits_of(copy.deepcopy(whole).to(torch.bfloat16).to(settings.dtype), batch), wanted),
    variant="through_bfloat16",
)
more = directory_bytes(served_directory) - directory_bytes(plain_directory)
print(sorted(path.name for path in served_directory.iterdir()))

# %% [markdown] lang="en"
# `transformers serve` loads the directory in a process of its own. Each prompt goes to the server and to the model here; text and number of
# tokens must be the same. The control is the base.

# %% [markdown] lang="zh-TW"
# `transformers serve` 在自己的行程裡載入這個目錄。每個提示都同時送給伺服器與這裡的模型；文字與 token 數都必須相同。對照組是基礎模型。

# %%
asked = task.held_out[: settings.served_prompts]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]


@torch.inference_mode()
def local(model, prompt):
    """Greedy: the text, and how many tokens it took, the end-of-sequence token included."""
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(settings.device)
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    tokens = model.generate(**given, **GREEDY, max_new_tokens=settings.answer_tokens)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


def differing(one, other):
    """In how many places two lists of answers are not equal."""
    return sum(mine != yours for mine, yours in zip(one, other, strict=True))


expected = [local(model, prompt) for prompt in prompts]
of_base = [local(base, prompt) for prompt in prompts]
if missing := missing_packages():
    over_http = tr(f"not tried here: {', '.join(missing)} not installed", f"這裡沒有試：缺少 {'、'.join(missing)}")
else:
    begins = tokenizer.bos_token or ""  # the server puts it before each prompt
    with served(served_directory, device=str(settings.device), trust_code=True) as address:
        answers = [complete(address, prompt.removeprefix(begins), settings.answer_tokens) for prompt in prompts]
    given = [(answer.text, answer.completion_tokens) for answer in answers]
    lab.record("served_differently", differing(given, expected))
    lab.record("served_differently", differing(given, of_base), variant="base")
    over_http = tr(
        f"{differing(given, expected)} of {len(prompts)} answers differ from those here; from the base's {differing(given, of_base)} do",
        f"{len(prompts)} 個答案中有 {differing(given, expected)} 個與這裡不同；與基礎模型不同的有 {differing(given, of_base)} 個",
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
said, said_zh = {}, {}
for name in ("merge_residual", "merged_accuracy"):
    guess = lab.predict(name)
    said[name] = "" if guess is None else f" (you guessed {guess:g})"
    said_zh[name] = "" if guess is None else f"（你猜 {guess:g}）"
worth = known["best plain layers"]
verdict = (
    Text(
        en="So an approximate merge may answer well, and is another model all the same: who ships it measures it anew.",
        zh_tw="所以近似的合併可能答得不錯，但那已經是另一個模型：要交出去，就得為它重新量一次。",
    )
    if worth > 0.8
    else Text(
        en="So an approximate merge is no merge: errors of one layer are the inputs of the next.",
        zh_tw="所以近似的合併不算合併：一層的誤差，就是下一層的輸入。",
    )
)
lab.say(
    f"""- Of LoRA's change the best plain layer misses {max(of_lora.values()):.1e}: rounding. Of the same adapter \
without its bend {max(of_linear.values()):.1e}. \
Of the adapter it misses between {min(of_adapter.values()):.0%} and \
{max(of_adapter.values()):.0%}{said["merge_residual"]}: no weight does what it does.
- With all of these plain layers the model is right in {worth:.1%}{said["merged_accuracy"]}, with adapters in \
{known["adapter"]:.1%}; \
its logits are off by {off:.2g} (merged LoRA: {lora_off:.1e}). \
{verdict.en}
- The export is the adapter to {exported:g}, with {more:,} bytes more than the base; over HTTP: {over_http}.""",
    f"""- LoRA 的改變，最好的一般線性層只漏掉 {max(of_lora.values()):.1e}：捨入誤差。同一個 adapter 拿掉那個彎，漏掉 {max(of_linear.values()):.1e}。\
adapter 本身則漏掉 {min(of_adapter.values()):.0%} 到 {max(of_adapter.values()):.0%}{said_zh["merge_residual"]}：沒有任何權重做得到它做的事。
- 全部換成這些一般線性層，模型答對 {worth:.1%}{said_zh["merged_accuracy"]}，帶著 adapter 是 {known["adapter"]:.1%}；\
logits 差 {off:.2g}（合併後的 LoRA：{lora_off:.1e}）。\
{verdict.zh_tw}
- 匯出的模型與 adapter 相差 {exported:g}，比基礎模型多 {more:,} 個位元組；透過 HTTP：{over_http}。""",
)

# %% [markdown] lang="en"
# ## LoRA or an adapter?
#
# | | LoRA, merged | LoRA beside the layer | adapter behind it |
# |---|---|---|---|
# | cost per token | none | two products per layer | two products, one after the other, per place |
# | other task for each row | no | yes, servers have kernels for it | yes, in code of your own |
# | layers left out, stacked | - | seldom done | AdapterDrop, MAD-X |
# | who serves it | any server | vLLM and others | whatever trusts the code in the directory |
#
# To trust code in a directory means to run it. Load only what you wrote, or have read.
#
# ## Limits of the toy scale
#
# - The best plain layer is the best for tokens of *this* task. On other text it is further off; that was not measured.
# - Float32 throughout, one request at a time, one adapter in the server.
#
# **Exercise.** 6 (`merging.py`: the nearest plain layer) belongs here: `nox -s check -- lab-1.1.2-adapters`.

# %% [markdown] lang="zh-TW"
# ## LoRA 還是 adapter？
#
# | | 合併後的 LoRA | 放在旁邊的 LoRA | 串在後面的 adapter |
# |---|---|---|---|
# | 每個 token 的代價 | 無 | 每層兩次乘積 | 每個位置兩次乘積，一次接一次 |
# | 每一列不同的任務 | 不行 | 可以，伺服器有專用的 kernel | 可以，用自己的程式碼 |
# | 跳過幾層、疊起來 | - | 很少這樣做 | AdapterDrop、MAD-X |
# | 誰能部署 | 任何伺服器 | vLLM 等等 | 願意信任目錄裡程式碼的工具 |
#
# 信任目錄裡的程式碼，就是執行它。只載入自己寫的，或自己讀過的。
#
# ## 小規模實驗的限制
#
# - 最好的一般線性層，是對*這個*任務的 token 最好。換成別的文字會差得更遠；那沒有量。
# - 全程用 float32，一次一個請求，伺服器裡只有一個 adapter。
#
# **練習。** 練習 6（`merging.py`：最接近的一般線性層）屬於這一本：`nox -s check -- lab-1.1.2-adapters`。
