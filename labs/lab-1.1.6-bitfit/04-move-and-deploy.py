# %% [markdown] lang="en"
# # 4. How many constants does a model need?
#
# **Question.** What was trained is a plain model already: there is nothing to fold. But are its biases all different numbers, or do some of them say what others could say for them?
#
# | | |
# |---|---|
# | You build | a model in which three kinds of bias are zero, and which computes the same; an export; a real HTTP server that has never heard of BitFit |
# | You write | exercise 7 (`equal_biases.py`) |
# | You need | half a minute on two CPU cores, 2 GB of memory; the files of notebook 2 |
# | You should see | how many numbers remain; a mistake that keeps every shape and ruins every logit; served answers beside local ones |

# %% [markdown] lang="zh-TW"
# # 4. 模型需要幾個常數？
#
# **問題。** 訓練出來的已經是普通的模型，沒有東西要收進權重。但它的偏差，個個都說著不同的事嗎？還是有些話，別的偏差也能代它說？
#
# | | |
# |---|---|
# | 你會做出 | 一個有三種偏差是零、算出來卻相同的模型；匯出；以及一個從沒聽過 BitFit 的真正 HTTP 伺服器 |
# | 你要寫的 | 練習 7（`equal_biases.py`） |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的檔案 |
# | 你應該看到 | 還剩幾個數字；一個形狀全都正確、卻毀掉所有 logits 的錯誤；伺服器的回答與本機的並列 |

# %%
import copy

import torch

from bias_files import read_biases, use_biases
from bitfit import bias_parameters
from bitfit_figures import distances
from broken_variants import values_as_last_third
from equal_biases import biases_in_use, carry_through, said_once
from onepiece import lab
from onepiece.adaptation import accuracy, batches, distance, family, load_base, logits_of
from onepiece.course.text import Text, tr
from onepiece.models import count_parameters, load_model
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text

settings = lab.settings
torch.set_num_threads(settings.threads)
files = {"relabel": lab.artifact("biases-relabel"), "compose": lab.artifact("biases-compose")}
base, tokenizer = load_base(settings)
tasks = {name: task for name, task in family.load_tasks(tokenizer, chat=settings.chat).items() if name in files}


def trained(name):
    """The base with the biases of a task."""
    model, _ = load_base(settings)
    use_biases(model, read_biases(model, files[name]))
    return model


# %% [markdown] lang="en"
# ## Through a layer, and through attention
#
# A constant that goes into a linear layer comes out as a constant:

# %% [markdown] lang="zh-TW"
# ## 穿過一層，穿過 attention
#
# 常數進入線性層，出來的還是常數：

# %% [markdown]
# $$W(\mathrm{norm}(x)+s)+b = W\,\mathrm{norm}(x)+(Ws+b),\qquad\qquad \sum_j a_j\,(v_j+s)=\sum_j a_j v_j+s$$

# %% [markdown] lang="en"
# So the layer behind a norm can say the norm's bias, and the layer behind attention the bias of the values: the shares $a_j$ add up to 1, so what is added to every value comes out whole.

# %% [markdown] lang="zh-TW"
# 所以 norm 的偏差，可以由後面那一層代說；value 的偏差，可以由 attention 後面那一層代說：各份注意力 $a_j$ 加起來是 1，加在每個 value 上的東西會原封不動出來。

# %%
lab.source(carry_through)

# %% [markdown] lang="en"
# ## Predict
#
# A GPT-NeoX of 4 blocks and hidden size 64 (MLP 256 inside) has 2,880 biases, of the kinds that you saw in notebook 1. How many have to be different from zero, if every constant that can be said elsewhere is? Write `needed_biases = ...` into `predictions.toml`.
#
# <details><summary>A hint</summary>
#
# Go through a block from its first norm to the end of its MLP. Behind which constants comes a linear layer with a bias, and nothing else before it?
# </details>

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 4 個 block、hidden size 64（MLP 內部 256）的 GPT-NeoX 有 2,880 個偏差，種類就是第 1 本筆記本看到的那些。如果能由別處代說的常數都由別處說，還有幾個必須不是零？把 `needed_biases = ...` 寫進 `predictions.toml`。
#
# <details><summary>提示</summary>
#
# 從一個 block 的第一個 norm 走到 MLP 的結尾。哪些常數的後面緊接著一個有偏差的線性層，中間沒有別的東西？
# </details>

# %%
if hasattr(base, "gpt_neox"):
    first = {name: batches(task, batch_size=settings.batch, seed=0)(0) for name, task in tasks.items()}
    movable = {name: (trained(name), first[name]) for name in tasks}
else:  # a Qwen has no norms with a bias, and none behind attention: the algebra is shown on the small model
    small, small_tokenizer = load_model("tiny-bias", device=settings.device, dtype=torch.float32)
    small_task = family.load_tasks(small_tokenizer)["relabel"]
    movable = {"tiny-bias": (small, batches(small_task, batch_size=settings.batch, seed=0)(0))}
moved_by, misread_by, in_use = {}, {}, {}
for name, (model, batch) in movable.items():
    wanted = logits_of(model, batch)
    moved = said_once(model)
    moved_by[name] = distance(logits_of(moved, batch), wanted)
    misread_by[name] = distance(logits_of(values_as_last_third(copy.deepcopy(model)), batch), wanted)
    in_use[name] = biases_in_use(bias_parameters(model)), biases_in_use(bias_parameters(moved))
lab.record("moved_difference", max(moved_by.values()))
lab.record("moved_difference", min(misread_by.values()), variant="last_third")
lab.record("needed_biases", max(after for _, after in in_use.values()))
lab.record("needed_biases", max(before for before, _ in in_use.values()), variant="not_moved")
lab.figure(
    "moved",
    distances(
        {
            tr("said once", "只說一次"): max(moved_by.values()),
            tr("values taken for the last third", "把最後三分之一當成 value"): min(misread_by.values()),
        },
        rounding=1e-5,
    ),
    Text(
        en="How far a model whose biases were moved lies from the trained one; left of the dashed line is rounding.",
        zh_tw="搬過偏差的模型與訓練出來的相差多少；虛線左邊只是捨入。",
    ),
)

# %%
guess = lab.predict("needed_biases")
before, after = next(iter(in_use.values()))
lab.say(
    f"""{after:,} of {before:,} numbers are enough{"" if guess is None else f" (you guessed {guess:,.0f})"}, \
and the logits differ by {max(moved_by.values()):.1e}: \
the biases of the norms inside a block and those of the values are no freedom of their own. \
So the values alone and the layer after attention alone can say exactly the same things. \
That notebook 2 has them apart is the optimizer's doing: it walks along coordinates, and these are others.
The control took the last third of the fused bias for the values. Every shape fits, and the logits are off by \
{min(misread_by.values()):.2g}.""",
    f"""{before:,} 個數字只要 {after:,} 個就夠{"" if guess is None else f"（你猜 {guess:,.0f}）"}，\
logits 只差 {max(moved_by.values()):.1e}：block 裡 norm 的偏差與 value 的偏差，並不是獨立的自由度。\
所以單獨訓練 value 與單獨訓練 attention 後面那一層，說得出的話完全相同。\
第 2 本筆記本裡兩者的結果不同，是最佳化器造成的：\
它沿著座標走，而這是兩組不同的座標。
對照組把融合的偏差的最後三分之一當成 value。形狀全都對得上，logits 卻差了 {min(misread_by.values()):.2g}。""",
)

# %% [markdown] lang="en"
# ## Export
#
# Nothing is folded: the trained model is saved as any model is. It must have as many parameters as the base, and a fresh load must give the same logits to the bit. The control went through bfloat16.

# %% [markdown] lang="zh-TW"
# ## 匯出
#
# 沒有東西要收：訓練過的模型就照一般的方式儲存。它的參數量必須與基礎模型相同，重新載入之後 logits 必須一個位元都不差。對照組先轉成 bfloat16 再轉回來。

# %%
exported = lab.artifact("trained-relabel")
model = trained("relabel")
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)
model.save_pretrained(exported)
tokenizer.save_pretrained(exported)
reloaded, reloaded_tokenizer = load_model(exported, device=settings.device, dtype=settings.dtype)
wanted = logits_of(model, batch)
rounded = copy.deepcopy(model).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(logits_of(reloaded, batch), wanted))
lab.record("reload_difference", distance(logits_of(rounded, batch), wanted), variant="through_bfloat16")
more = count_parameters(reloaded).total - count_parameters(base).total

# %% [markdown] lang="en"
# ## Serve
#
# vLLM takes [LoRA adapters](https://docs.vllm.ai/en/latest/features/lora.html), and has no format for biases alone. It need not: any server that loads the base's architecture will do. `transformers serve` loads the directory in a process of its own and answers on HTTP. Text and number of tokens must be those of the model here. The control is the base.

# %% [markdown] lang="zh-TW"
# ## 部署
#
# vLLM 收的是 [LoRA adapter](https://docs.vllm.ai/en/latest/features/lora.html)，沒有只放偏差的格式。也不需要：任何能載入這種架構的伺服器都行。`transformers serve` 在自己的行程裡載入這個目錄，在 HTTP 上回答。文字與 token 數都必須與這裡的模型相同。對照組是基礎模型。

# %%
asked = tasks["relabel"].held_out[: settings.served_prompts]
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


expected = [local(model, prompt) for prompt in prompts]
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
        f"{differing(given, expected)} of {len(prompts)} answers differ from those of the model here; "
        f"from the base's {differing(given, of_base)} do",
        f"{len(prompts)} 個答案中有 {differing(given, expected)} 個與這裡的模型不同；與基礎模型不同的有 {differing(given, of_base)} 個",
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
    f"""- The exported model has {more} parameters more than the base, and is right in \
{accuracy(reloaded, tasks["relabel"]).accuracy:.1%} of `relabel`.
- {after:,} of {before:,} biases say all that they said together.
- Over HTTP: {over_http}.""",
    f"""- 匯出的模型比基礎模型多 {more} 個參數，`relabel` 答對 {accuracy(reloaded, tasks["relabel"]).accuracy:.1%}。
- {before:,} 個偏差一起說的話，{after:,} 個就說得完。
- 透過 HTTP：{over_http}。""",
)

# %% [markdown] lang="en"
# ## A plain model, or a file of biases?
#
# | | a model for each task | a file for each task |
# |---|---|---|
# | one task, any server | yes: nothing to adapt | |
# | many tasks, one after the other | | yes: copy the biases, keep the base's |
# | many tasks in one batch | | yes: what was added, for each row |
#
# ## Limits of the toy scale
#
# - Float32 throughout. In bfloat16 a sum `W s + b` is rounded once more; move in float32, convert afterwards, compare.
# - What may be moved depends on the architecture. A norm that only scales, a layer without bias, or an activation function in between, and nothing moves.
#
# **Exercise.** 7 (`equal_biases.py`: carry a constant through a layer) belongs here: `nox -s check -- lab-1.1.6-bitfit`.

# %% [markdown] lang="zh-TW"
# ## 普通的模型，還是一個偏差檔？
#
# | | 每個任務一個模型 | 每個任務一個檔案 |
# |---|---|---|
# | 單一任務，任何伺服器 | 適合：什麼都不用改 | |
# | 許多任務，一個接一個 | | 適合：抄寫偏差，並留著基礎模型的 |
# | 同一批次裡許多任務 | | 適合：每一列加上各自的量 |
#
# ## 小規模實驗的限制
#
# - 全程用 float32。在 bfloat16 下，`W s + b` 會再捨入一次；請用 float32 搬，之後再轉換，然後比對。
# - 能不能搬，要看架構。只縮放的 norm、沒有偏差的層，或中間隔著激勵函數，就什麼都搬不動。
#
# **練習。** 練習 7（`equal_biases.py`：把常數帶過一層）屬於這一本：`nox -s check -- lab-1.1.6-bitfit`。
