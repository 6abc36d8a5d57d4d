# %% [markdown] lang="en"
# # 3. Several memories for one model
#
# **Question.** What was learned is now a piece of cache. Pieces of cache can be exchanged, put one after the other, and cut. Which of these still make sense, and what do they cost on each request?
#
# | | |
# |---|---|
# | You build | prefixes read from files, in our code and in `peft`; a batch in which each row remembers something else, or nothing; a memory beside another; the cost per token, counted |
# | You write | exercise 6 (`prefix_tuning.py`), a design |
# | You need | half a minute on two CPU cores, 1 GB of memory; the prefixes of notebook 2 |
# | You should see | rows of a mixed batch beside the same rows alone; what a neighbour does to a memory; how much of a memory is needed |

# %% [markdown] lang="zh-TW"
# # 3. 同一個模型，好幾份記憶
#
# **問題。** 學到的東西，現在是一段快取。快取可以換、可以接在一起、可以剪短。這些做法哪些還有意義？每個請求又要付出多少？
#
# | | |
# |---|---|
# | 你會做出 | 從檔案讀取 prefix，用我們的程式碼，也用 `peft`；每一列記得不同的東西、或什麼都不記得的批次；一份記憶放在另一份旁邊；數出每個 token 的代價 |
# | 你要寫的 | 練習 6（`prefix_tuning.py`），一題設計 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的 prefix |
# | 你應該看到 | 混合批次的每一列，與同一列單獨執行並列；鄰居對一份記憶做了什麼；一份記憶需要多少才夠 |

# %%
from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

import functools

import torch
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from onepiece import lab
from onepiece.adaptation import (
    accuracy,
    batches,
    best_constant,
    directory_bytes,
    distance,
    family,
    load_base,
    logits_of,
    out_of_peft,
)
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel
from onepiece.course.text import Text, tr
from onepiece.measure import timed
from onepiece.tiny.tokenizer import prompt_text
from prefix_figures import accuracy_over_part
from prefix_files import load_prefix, read_prefix
from prefix_tuning import DirectPrefix, longest_prefix, rows_of_text

settings = lab.settings
torch.set_num_threads(settings.threads)
saved = {"relabel": lab.artifact("prefix-relabel"), "compose": lab.artifact("prefix-compose")}
base, tokenizer = load_base(settings)
shape = CacheShape.of(base.config)
every_task = family.load_tasks(tokenizer, chat=settings.chat)
tasks = {name: every_task[name] for name in saved}
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)

# %% [markdown] lang="en"
# ## What lies on the disk, and who can read it
#
# Two files, in `peft`'s format. Both directions are tried: ours in `peft`, and what `peft` saves again in ours. The control is the other task's prefix, which has the same shape.

# %% [markdown] lang="zh-TW"
# ## 硬碟上有什麼，誰讀得懂
#
# 兩個檔案，`peft` 的格式。兩個方向都試：我們的交給 `peft`，`peft` 再存一次之後由我們讀回。對照組是另一個任務的 prefix，形狀完全相同。

# %%
print((saved["relabel"] / "adapter_config.json").read_text(encoding="utf-8"))
through, of_others = {}, {}
for name, directory in saved.items():
    reference = PeftModel.from_pretrained(load_base(settings)[0], directory)
    wanted = logits_of(reference, batch)
    through[name, "our file in peft"] = distance(logits_of(load_prefix(base, directory), batch), wanted)
    again = out_of_peft(reference, functools.partial(load_prefix, base))
    through[name, "peft's file in ours"] = distance(logits_of(again, batch), wanted)
    other = next(path for key, path in saved.items() if key != name)
    of_others[name, "the other prefix"] = distance(logits_of(load_prefix(base, other), batch), wanted)
lab.record("file_difference", max(through.values()))
lab.record("file_difference", min(of_others.values()), variant="other_prefix")
columns = ["prefix", tr("way", "方式"), tr("largest difference of the logits (relative)", "logits 的最大差異（相對值）")]
lab.table(columns, [(*key, value) for key, value in (through | of_others).items()])

# %% [markdown] lang="en"
# ## At home, away, and with an empty cache
#
# Switching is handing over another cache. With an empty one the model is the base, and the base was never touched.

# %% [markdown] lang="zh-TW"
# ## 自己的任務、別人的任務，以及清空快取
#
# 切換就是換一份快取。清空之後，模型就是基礎模型，而基礎模型從頭到尾都沒動過。

# %%
prefixes = {name: read_prefix(directory, shape).to(settings.device).requires_grad_(False) for name, directory in saved.items()}
right = {}
for name, prefix in prefixes.items():
    for task in tasks.values():
        right[name, task.name] = accuracy(PrefixModel(base, prefix), task)
home = {name: right[name, name].accuracy for name in prefixes}
away = max(right[name, other].accuracy for name in prefixes for other in tasks if other != name)
rows_of_batch = len(batch["input_ids"])
model = PrefixModel(base, prefixes["relabel"])
with model.using([None] * rows_of_batch):
    emptied = distance(logits_of(model, batch), logits_of(base, batch))
left_in = distance(logits_of(model, batch), logits_of(base, batch))
lab.record("base_difference", emptied)
lab.record("base_difference", left_in, variant="left_in")
lab.record("home", home["relabel"])
lab.record("home", right["compose", "relabel"].accuracy, variant="other_prefix")
lab.record("home", best_constant(tasks["relabel"]), variant="constant")
lab.table(
    ["prefix", *(tr(f"right on {name}", f"{name} 答對") for name in tasks)],
    [(name, *(str(right[name, task]) for task in tasks)) for name in prefixes],
)

# %% [markdown] lang="en"
# ## A row, a memory
#
# A cache has a row for each request anyway. So rows may remember different things, of different lengths, or nothing: shorter memories are padded in front, the mask hides the padding, and each row counts its positions from the length of its own. The control gives each row the memory of the next.

# %% [markdown] lang="zh-TW"
# ## 一列一份記憶
#
# 快取本來就是每個請求一列。所以每一列可以記得不同的東西、長度不同、或什麼都不記得：比較短的記憶在前面補齊，用遮罩蓋住，而每一列的位置從自己的長度開始數。對照組讓每一列用下一列的記憶。

# %%
each = settings.served_prompts // 3
half = DirectPrefix(prefixes["relabel"].rows.detach()[::2].clone(), shape)  # another length
remembered = [memory for memory in (half, prefixes["compose"], None) for _ in range(each)]
asked = tasks["relabel"].held_out[:each] + tasks["compose"].held_out[: 2 * each]
prompts = [prompt_text(item, tokenizer, chat=settings.chat) for item in asked]
inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(settings.device)
inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
alone = []
for row, memory in enumerate(remembered):
    with model.using([memory]):
        alone.append(logits_of(model, {key: tensor[row : row + 1] for key, tensor in inputs.items()}))
with model.using(remembered):
    mixed_difference = distance(logits_of(model, inputs), torch.cat(alone))
with model.using(remembered[1:] + remembered[:1]):
    shifted = distance(logits_of(model, inputs), torch.cat(alone))
lab.record("mixed_difference", mixed_difference)
lab.record("mixed_difference", shifted, variant="next_row")


@torch.inference_mode()
def written(memories, given):
    """Greedy answers to the prompts of a batch."""
    greedy = {"do_sample": False, "max_new_tokens": settings.answer_tokens, "pad_token_id": tokenizer.pad_token_id}
    with model.using(memories):
        tokens = model.generate(**given, **greedy)[:, given["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]


def one_after_the_other():
    """Three batches, a memory each."""
    parts = [slice(start, start + each) for start in range(0, 3 * each, each)]
    return [text for part in parts for text in written(remembered[part], {key: tensor[part] for key, tensor in inputs.items()})]


mixed_answers, apart_answers = written(remembered, inputs), one_after_the_other()
differing = sum(one != other for one, other in zip(mixed_answers, apart_answers, strict=True))
times = timed({"mixed": lambda: written(remembered, inputs), "separate": one_after_the_other}, repeats=settings.repeats)
mixed_ratio = times["mixed"].median / times["separate"].median
shown = [index for start in range(0, 3 * each, each) for index in (start, start + 1)]
names = [name for name in ("half of relabel", "compose", "-") for _ in range(each)]
lab.table(
    [tr("memory", "記憶"), tr("prompt", "提示"), tr("wanted", "正確答案"), tr("answer", "回答")],
    [(names[index], asked[index].prompt, asked[index].answer, mixed_answers[index][:40]) for index in shown],
)

# %% [markdown] lang="en"
# ## Predict
#
# Two texts can stand one after the other in a context. What becomes of the memory of `relabel`, if something else stands in the cache before it, or behind it (and is it the same)? Zeros, the memory of an ordinary text, the memory of `compose`: all are tried. And what if only its first virtual tokens are left? Write into `predictions.toml`:
#
# ```toml
# beside_text = 0.5    # the memory of relabel, and behind it that of a text as long: held-out exact match on relabel (0 to 1)
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 兩段文字可以一前一後放在同一個上下文裡。如果快取裡在 `relabel` 的記憶前面或後面還有別的東西（零、一段普通文字的記憶、`compose` 的記憶都會試），它會變成怎樣？放前面跟放後面一樣嗎？如果只留下它的前幾個虛擬 token 呢？把這些寫進 `predictions.toml`：
#
# ```toml
# beside_text = 0.5    # relabel 的記憶，後面再放一段同樣長度文字的記憶：relabel 保留題目答對的比例（0 到 1）
# ```

# %%
whole = settings.virtual_tokens
own = prefixes["relabel"].rows
text = (tasks["compose"].training[0]["input_ids"].tolist() * whole)[:whole]
neighbours = {"zeros": torch.zeros_like(own), "text": rows_of_text(base, text), "compose": prefixes["compose"].rows}
alone_logits = logits_of(model, batch)
beside, by_order, by_neighbour = {}, [], []
for name, other in neighbours.items():
    orders = {"before": torch.cat([other, own]), "behind": torch.cat([own, other])}
    together = {place: PrefixModel(base, DirectPrefix(rows, shape)) for place, rows in orders.items()}
    for place, both in together.items():
        beside[name, place] = accuracy(both, tasks["relabel"]).accuracy
    before, behind = (logits_of(both, batch) for both in together.values())
    by_order.append(distance(before, behind))
    by_neighbour.append(distance(behind, alone_logits))
lab.record("order_difference", max(by_order))
lab.record("order_difference", min(by_neighbour), variant="no_neighbour")
beside_text = beside["text", "behind"]
lab.record("beside_text", beside_text)
lab.table(
    [tr("beside the memory of relabel", "放在 relabel 的記憶旁邊"), tr("before it", "放前面"), tr("behind it", "放後面")],
    [(name, f"{beside[name, 'before']:.1%}", f"{beside[name, 'behind']:.1%}") for name in neighbours],
)

# %%
parts = sorted({1, whole // 4, whole // 2, whole - 1, whole} - {0})
over_part = []
for left in parts:
    cut = DirectPrefix(own[:left].clone(), shape)
    over_part.append(accuracy(PrefixModel(base, cut), tasks["relabel"]).accuracy)
lab.figure(
    "cut",
    accuracy_over_part(parts, {"relabel": over_part}),
    Text(
        en="The task relabel with only the first virtual tokens of its own prefix left.",
        zh_tw="relabel 這個任務，只留下自己的 prefix 的前幾個虛擬 token。",
    ),
)

# %%
guess = lab.predict("beside_text")
alone_right = over_part[-1]
enough = next(left for left, value in zip(parts, over_part, strict=True) if value >= 0.9 * alone_right)
worst = min(beside, key=beside.get)
lab.say(
    f"""Alone the memory of `relabel` is right in {alone_right:.1%}. Beside a text it is \
{beside_text:.1%}{"" if guess is None else f" (you guessed {guess:.0%})"}; the worst neighbour is `{worst[0]}`: \
{beside[worst]:.1%}.
Before or behind makes no difference ({max(by_order):.1e}): attention sums over a *set*. \
The order of a text is in the rotation of its keys, and numbers that are read as they are have no place but the one \
that was written into them.
Each memory was trained as the only one there. Beside another it gets another share of the softmax, and what the \
neighbour gives is added to what it gives itself.
Of its {whole} virtual tokens {enough} are enough for nine tenths of \
that{": it is longer than this task needs" if enough < whole else ", so each of them is needed"}. \
A shorter one that was trained as a shorter one may do better.""",
    f"""單獨使用時，`relabel` 的記憶答對 {alone_right:.1%}。旁邊有一段文字的話是 {beside_text:.1%}{"" if guess is None else f"（你猜 {guess:.0%}）"}；最糟的鄰居是 `{worst[0]}`：{beside[worst]:.1%}。
放前面或後面沒有差別（{max(by_order):.1e}）：注意力是對一個*集合*求和。文字的順序藏在 key 的旋轉裡；照原樣讀取的數字，除了寫在它們裡面的位置，沒有別的位置。
每一份記憶訓練時都是唯一的一份。旁邊多了另一份，它在 softmax 裡分到的比例就變了，鄰居給的東西還會加到它給的上面。
它的 {whole} 個虛擬 token 裡，留 {enough} 個就有上面的九成{"：這個任務用不到這麼長" if enough < whole else "，所以每一個都需要"}。一開始就訓練成比較短的，也許還會更好。""",
)

# %% [markdown] lang="en"
# ## What does a memory cost?
#
# No virtual token is read again: its keys and values are there. What is left is that each query meets them: `4 * heads * head_dim` operations per virtual token and layer (a product and a sum for the score, and for the value). Counted by PyTorch's counter against that formula. The control is a prompt of the same length, whose tokens go through every layer first.

# %% [markdown] lang="zh-TW"
# ## 一份記憶要花多少？
#
# 虛擬 token 不必再讀一遍：它的 key 與 value 已經在那裡。剩下的代價是每個 query 都要跟它們碰面：每個虛擬 token、每一層 `4 * heads * head_dim` 次運算（分數要一次乘、一次加，value 也是）。用 PyTorch 的計數器來數，與這個公式對照。對照組是同樣長度的 prompt，它的 token 得先通過每一層。


# %%
def counted_flops(function):
    """FLOPs of the matrix products of a call, by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


text = inputs["input_ids"][:1, -8:]
soft = torch.zeros(1, whole, base.config.hidden_size, device=settings.device, dtype=settings.dtype)
words = base.get_input_embeddings()(text)
base.set_attn_implementation("eager")  # written out in products that the counter knows
of_base = counted_flops(lambda: base(text))
of_prefix = counted_flops(lambda: PrefixModel(base, prefixes["relabel"])(text)) - of_base
of_prompt = counted_flops(lambda: base(inputs_embeds=torch.cat([soft, words], dim=1))) - of_base
base.set_attn_implementation("sdpa")
formula = 4 * base.config.num_attention_heads * shape.head_dim * whole * shape.layers * text.shape[1]
lab.record("flops_over_formula", of_prefix / formula)
lab.record("flops_over_formula", of_prompt / formula, variant="prompt")
slower = family.token_ratio(PrefixModel(base, prefixes["relabel"]), base, text, repeats=settings.repeats)
held, weights = directory_bytes(saved["relabel"]), sum(weight.numel() * weight.element_size() for weight in base.parameters())

# %% [markdown] lang="en"
# A cache is also memory. On a Llama-2-7B in 16 bits, beside 32 texts of 1,000 tokens and with 20 GiB for the cache: how long may a prefix be, if each request holds a copy, and if a server lets them share one?

# %% [markdown] lang="zh-TW"
# 快取也占記憶體。以 16 位元的 Llama-2-7B 為例，同時有 32 段 1,000 個 token 的文字，快取有 20 GiB 可用：如果每個請求各存一份，prefix 最長可以多長？如果伺服器讓大家共用一份呢？

# %%
seven_billion = CacheShape.of(LlamaConfig())
room = {"room": 20 * 2**30, "requests": 32, "tokens": 1000, "number_bytes": 2}
longest = {shared: longest_prefix(seven_billion, shared=shared, **room) for shared in (False, True)}
lab.say(
    f"""- For a text of {text.shape[1]} tokens the prefix adds {of_prefix:,} operations, {of_prefix / formula:.3f} times the \
formula; a prompt of the same length adds {of_prompt:,}, {of_prompt / of_prefix:.0f} times as much, though once per \
request only. The base itself takes {of_base:,}.
- A decoded token takes {slower:.2f} times as long as without; the file has {held / 1e3:.1f} KB beside \
{weights / 1e3:,.0f} KB of weights ({held / weights:.1%}).
- On the 7B model one virtual token takes {seven_billion.numbers * 2 / 2**20:.2f} MiB. \
A prefix may have {longest[False]} virtual tokens with a copy for each request, and {longest[True]:,} if they share \
one.
- One mixed batch takes {mixed_ratio:.2f} times as long as three separate ones; \
rows differ by {mixed_difference:.1e}, and {differing} of {len(asked)} answers differ.""",
    f"""- 對 {text.shape[1]} 個 token 的文字，prefix 多了 {of_prefix:,} 次運算，是公式的 {of_prefix / formula:.3f} 倍；\
同樣長度的 prompt 多了 {of_prompt:,} 次，是 prefix 的 {of_prompt / of_prefix:.0f} 倍，不過每個請求只有一次。基礎模型本身要 {of_base:,} 次。
- 解碼一個 token 的時間是沒有 prefix 時的 {slower:.2f} 倍；檔案 {held / 1e3:.1f} KB，權重 {weights / 1e3:,.0f} KB（{held / weights:.1%}）。
- 在 7B 模型上，一個虛擬 token 占 {seven_billion.numbers * 2 / 2**20:.2f} MiB。每個請求各存一份時，prefix 最長 {longest[False]} 個虛擬 token；共用一份時 {longest[True]:,} 個。
- 一個混合批次的時間是三個分開批次的 {mixed_ratio:.2f} 倍；每一列相差 {mixed_difference:.1e}，{len(asked)} 個答案中有 {differing} 個不同。""",
)

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- At home a prefix is right in {home["relabel"]:.1%} (`relabel`) and {home["compose"]:.1%} (`compose`); \
away in at most {away:.1%}. With an empty cache the logits are the base's, to {emptied:g}.
- Rows of one batch may remember different things; beside another, the memory of `relabel` falls to {beside[worst]:.1%} at worst.
- A prefix takes nothing to be read and something to be looked at, for every token.""",
    f"""- 在自己的任務上，prefix 答對 {home["relabel"]:.1%}（`relabel`）與 {home["compose"]:.1%}（`compose`）；換到別的任務最多 {away:.1%}。清空快取之後，logits 與基礎模型相差 {emptied:g}。
- 同一批次的每一列可以記得不同的東西；旁邊多了別的記憶，`relabel` 的記憶最糟掉到 {beside[worst]:.1%}。
- prefix 不必花時間讀，但每個 token 都得看它一眼。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - In a model this small a call costs more than its arithmetic, so the measured ratio says little about a large one; the counted operations carry over.
# - What a neighbour does was asked of one prefix, with one seed. Training memories to stand together is another method; that of `compose` learnt little by itself.
#
# **Exercise.** 6 (`prefix_tuning.py`: how long may a prefix be) belongs here: `nox -s check -- lab-1.1.4-prefix-tuning`.
#
# **Next:** who serves a memory?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 在這麼小的模型裡，呼叫的代價比計算還大，所以量到的倍數對大模型沒什麼參考價值；數出來的運算次數則可以套用。
# - 鄰居的影響，只問了一個 prefix、一個種子。專門訓練成可以接在一起，是另一種方法；而 `compose` 的記憶本身就沒學到多少。
#
# **練習。** 練習 6（`prefix_tuning.py`：prefix 最長可以多長）屬於這一本：`nox -s check -- lab-1.1.4-prefix-tuning`。
#
# **下一步：** 誰來部署一份記憶？
