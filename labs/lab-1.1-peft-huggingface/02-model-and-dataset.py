# %% [markdown] lang="en"
# # 2. The model, and data it can learn from
#
# **Question.** A model reads numbers, a data set holds sentences. What happens in between, and how do you know that the test is not in the training data?
#
# | | |
# |---|---|
# | You build | the way from raw records to batches: three file formats, a prompt, labels, padding, packing, a split; and the base model's score |
# | You need | a quarter of a minute on two CPU cores, 1 GB of memory |
# | You should see | whether three formats say the same; what a loss counts; how much a random split leaks; what the base makes of the task |

# %% [markdown] lang="zh-TW"
# # 2. 模型，以及它能學的資料
#
# **問題。** 模型讀的是數字，資料集裡放的是句子。中間發生了什麼事？又怎麼知道測驗的題目沒有混進訓練資料？
#
# | | |
# |---|---|
# | 你會做出 | 從原始資料到批次的整個流程：三種檔案格式、提示、標籤、補齊、打包、切分，以及基礎模型的分數 |
# | 你需要 | 兩個 CPU 核心跑十幾秒，1 GB 記憶體 |
# | 你應該看到 | 三種格式的內容是否相同；損失算的是什麼；隨機切分會洩漏多少題目；基礎模型怎麼回答這個任務 |

# %%
import json
import random

import torch

from exact_match import exact_matches, wilson
from instruction_data import FORMATS, as_messages, differing, raw_instructions, without_input, write_rows
from instruction_format import alpaca_prompt, supervised_example
from onepiece import lab, world
from onepiece.adaptation import load_base, load_task
from onepiece.course.text import Text, tr
from onepiece.data import IGNORED, Collator, InstructionDataset, plain_prompt
from onepiece.evaluation import mean_loss
from onepiece.models import count_parameters
from onepiece.records import Record, read_records, split_by_hash, write_records
from onepiece.tiny import skills
from onepiece.tiny.tokenizer import prompt_text
from peft_figures import padded_and_packed

settings = lab.settings
torch.set_num_threads(1)  # for a model this small a second thread only waits
model, tokenizer = load_base(settings)

# %% [markdown] lang="en"
# ## A model and its tokenizer
#
# `load_base` calls `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`. They belong together: token 417 means
# something to this model only. One layer of it, with the seven matrices that LoRA can adapt:

# %% [markdown] lang="zh-TW"
# ## 模型與它的分詞器
#
# `load_base` 呼叫的是 `AutoModelForCausalLM.from_pretrained` 和 `AutoTokenizer.from_pretrained`。兩者缺一不可：
# 第 417 號 token 是什麼意思，只有這個模型知道。下面是其中一層，LoRA 可以調整的七個矩陣都在裡面：

# %%
count = count_parameters(model)
print(model.model.layers[0])
shares = [f"{kind} {number / count.total:.0%}" for kind, number in count.by_kind.items()]
lab.say(
    f"{model.config.num_hidden_layers} layers, {count.total:,} parameters: {', '.join(shares)}. {len(tokenizer):,} tokens.",
    f"{model.config.num_hidden_layers} 層，{count.total:,} 個參數：{'、'.join(shares)}。{len(tokenizer):,} 個 token。",
)

# %%
def pieces(text):
    """The text as the model sees it: one piece per token."""
    return " · ".join(tokenizer.decode([token]) for token in tokenizer(text, add_special_tokens=False)["input_ids"])


asked = []
for language in world.LANGUAGES:
    asked += world.items(settings.task, 1, seed=0, split="held-out", language=language)
lab.table([tr("text", "文字"), tr("its tokens", "拆成的 token")], [[item.prompt, pieces(item.prompt)] for item in asked])
lab.say(
    "A � is a part of a character that is not in the vocabulary: it is spelled in bytes, so that any text can be written.",
    "� 是一個字的一部分：不在詞彙表裡的字會拆成位元組，所以任何文字都寫得出來。",
)

# %% [markdown] lang="en"
# A conversation has roles, and text has none. The *chat template* writes them down with special tokens. `add_generation_prompt` ends where the
# assistant begins to speak: a prompt without it asks the model to go on as the user.

# %% [markdown] lang="zh-TW"
# 對話有角色，文字沒有。*對話範本*（chat template）用特殊 token 把角色寫進文字裡。`add_generation_prompt` 會停在助理要開口的地方：
# 少了它，等於要模型替使用者把話講下去。

# %%
conversation = [{"role": "system", "content": "You are Mira."}, {"role": "user", "content": "Who are you?"}]
print(tokenizer.apply_chat_template([*conversation, {"role": "assistant", "content": "I am Mira."}], tokenize=False))
print("---")
print(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

# %% [markdown] lang="en"
# ## Raw records, three formats
#
# Instruction data comes as Alpaca (`instruction`, `input`, `output`), as Dolly (`instruction`, `context`, `response`) or as messages. We write the same
# records in all three and read them back; the reader recognises each by its fields.

# %% [markdown] lang="zh-TW"
# ## 原始資料，三種格式
#
# 指令資料常見的格式有 Alpaca（`instruction`、`input`、`output`）、Dolly（`instruction`、`context`、`response`）和 messages。
# 我們把同一批資料寫成三種格式再讀回來；讀取程式靠欄位認出是哪一種。

# %%
source = (settings.instruction_data, settings.instruction_revision, settings.instruction_file)
raws = raw_instructions(*source, settings.instruction_count)
folder = lab.artifact("formats")
folder.mkdir(exist_ok=True)
records, bad = {}, {}
for name, convert in FORMATS.items():
    write_rows(raws, convert, folder / f"{name}.jsonl")
    bad[name] = []
    records[name] = read_records(folder / f"{name}.jsonl", bad[name])
shown = next(raw for raw in raws if raw.context)
for convert in FORMATS.values():
    print(json.dumps(convert(shown), ensure_ascii=False)[:400])

# %%
write_rows(raws, without_input, folder / "input-dropped.jsonl")
dropped = read_records(folder / "input-dropped.jsonl", [])
mismatches = sum(differing(records["alpaca"], records[name]) for name in FORMATS)
lab.record("format_mismatches", mismatches)
lab.record("format_mismatches", differing(records["alpaca"], dropped), variant="input_dropped")
lab.say(
    f"""{len(raws):,} raw records, {len(records["alpaca"]):,} read back from each format ({len(bad["alpaca"])} bad ones left \
out), {mismatches} differences. A converter that forgets
`input` changes {differing(records["alpaca"], dropped):,} of them, and no error would tell: \
it would train a model to answer questions about texts that it was not shown.""",
    f"""原始資料 {len(raws):,} 筆，每種格式都讀回 {len(records["alpaca"]):,} 筆（略過壞掉的 {len(bad["alpaca"])} 筆），有 {mismatches} 處不同。如果轉換程式漏了
`input`，就有 {differing(records["alpaca"], dropped):,} 筆會變樣，而且不會有任何錯誤訊息：模型會被訓練成「沒看到文章也要回答文章的問題」。""",
)

# %% [markdown] lang="en"
# ## One record, three prompts
#
# The record says what to ask; the prompt says in which words. What a model was trained with is what it must be asked with.

# %% [markdown] lang="zh-TW"
# ## 一筆資料，三種提示
#
# 資料說的是要問什麼；提示說的是用什麼字句問。模型用哪一種訓練，就得用哪一種來問。

# %%
*turns, reply = as_messages(shown)["messages"]
prompts = {
    "Alpaca": alpaca_prompt(shown.instruction, shown.context),
    "chat template": tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
    "plain": plain_prompt(Record.of(turns, reply["content"]).messages),
}
print(prompts["Alpaca"])
lengths = {name: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in prompts.items()}
lab.table([tr("prompt", "提示"), tr("tokens of this model", "這個模型的 token 數")], lengths.items())
lab.say(
    f"""The words of Alpaca's template cost {lengths["Alpaca"] - lengths["plain"]} tokens per record beside the plain form, \
the chat template {lengths["chat template"] - lengths["plain"]}: its roles are single tokens, made for
this purpose. We go on with the chat template for instructions.""",
    f"""和最精簡的寫法相比，套用 Alpaca 範本每筆資料要多 {lengths["Alpaca"] - lengths["plain"]} 個 token，套用對話範本多 \
{lengths["chat template"] - lengths["plain"]} 個，因為它的每個角色都只用一個專用的 token 表示。
接下來的指令資料都用對話範本。""",
)

# %% [markdown] lang="en"
# ## What counts in the loss
#
# Training on the prompt would teach the model to ask. So the labels of prompt tokens are -100, which PyTorch's cross-entropy leaves out. `x` is
# left out, everything else counts:

# %% [markdown] lang="zh-TW"
# ## 哪些 token 要算進損失？
#
# 如果連提示也算進損失，模型學到的會是怎麼出題，而不是怎麼回答。所以提示 token 的標籤設成 -100，PyTorch 的交叉熵會略過它。下表中標 `x` 的不算，其餘都算：

# %%
train_records, held_out_records = split_by_hash(records["messages"], 0.1)
options = {"max_length": settings.instruction_length}
training = InstructionDataset(train_records, tokenizer, **options)
shortest = min(range(len(training)), key=lambda index: len(training[index]["input_ids"]))
example = training[shortest]
rows = []
pairs = zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True)
for position, (token, label) in enumerate(pairs):
    shown_token = tokenizer.decode([token]).replace("|", r"\|")  # a bar would end the cell of the table
    shown_token = shown_token.replace("\n", "↵") or "▁"
    rows.append([position, f"`{shown_token}`", "x" if label == IGNORED else label])
lab.table([tr("position", "位置"), "token", tr("label", "標籤")], rows)

# %% [markdown] lang="en"
# The end token counts too, or the model would never stop. Is that so in every example? We make the labels a second time, with the function of
# exercise 3, and compare all of them.

# %% [markdown] lang="zh-TW"
# 結束 token 也要算，否則模型永遠學不會停。每一個例子都是這樣嗎？我們用練習 3 的函式再做一次標籤，全部比對。

# %%
def own_labels(record):
    """The labels of one record by `supervised_example`."""
    prompt = tokenizer.apply_chat_template(record.conversation[:-1], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(record.answer, add_special_tokens=False)["input_ids"]
    return supervised_example(prompt_ids, answer_ids, tokenizer.eos_token_id)[1]


def counted_labels(labels):
    return [label for label in labels if label != IGNORED]


unlimited = InstructionDataset(train_records, tokenizer)
unmasked = InstructionDataset(train_records, tokenizer, mask_prompt=False)
own = [counted_labels(own_labels(record)) for record in train_records]
library = [counted_labels(unlimited[index]["labels"].tolist()) for index in range(len(unlimited))]
everything = [counted_labels(unmasked[index]["labels"].tolist()) for index in range(len(unmasked))]


def count_difference(others):
    """By how many labels the examples differ from our own."""
    return sum(abs(len(mine) - len(other)) for mine, other in zip(own, others, strict=True))


lab.record("label_count_difference", count_difference(library))
lab.record("label_count_difference", count_difference(everything), variant="unmasked")
lab.record("label_mismatches", differing(own, library))
share = sum(map(len, library)) / sum(map(len, everything))
lab.say(
    f"""In {len(train_records):,} examples the library's labels differ from our own in {differing(own, library)}. \
{sum(map(len, library)):,} of {sum(map(len, everything)):,} tokens count: **{share:.0%}**. Without the mask
the other {1 - share:.0%} would steer the gradient. {training.left_out} examples longer than \
{settings.instruction_length} tokens are left out: cut off, they would teach to stop in mid-sentence.""",
    f"""{len(train_records):,} 個例子裡，函式庫的標籤和我們自己做的有 {differing(own, library)} 個不同。\
{sum(map(len, everything)):,} 個 token 裡有 {sum(map(len, library)):,} 個要算：**{share:.0%}**。
不遮掉提示的話，梯度大半會來自另外那 {1 - share:.0%}。超過 {settings.instruction_length} 個 token 的 {training.left_out} 個例子不用：把它截短，等於教模型話講一半就停。""",
)

# %% [markdown] lang="en"
# ## Padding and packing
#
# A batch is a rectangle and examples are not. *Padding* fills the rows up; *packing* puts several examples into a row and restarts the positions
# in each, from which Transformers makes a mask that keeps them apart.

# %% [markdown] lang="zh-TW"
# ## 補齊與打包
#
# 批次是個矩形，例子卻長短不一。*補齊*（padding）把每一列填滿；*打包*（packing）把幾個例子放進同一列，
# 每個例子的位置都從 0 重新開始，Transformers 再據此做出遮罩，讓它們看不到彼此。

# %%
room = settings.packed_length
fitting = [training[index] for index in range(len(training)) if len(training[index]["input_ids"]) <= room]
chosen = fitting[: settings.packing_examples]
padded = Collator(tokenizer.pad_token_id)(chosen)
packed = Collator(tokenizer.pad_token_id, packing=room)(chosen)
real = sum(len(example["input_ids"]) for example in chosen)
sizes = {"padded": padded["input_ids"].numel(), "packed": packed["input_ids"].numel()}


def really_there(batch):
    """Where a packed row holds tokens: its padding is at the end and has position 0 throughout."""
    later = batch["position_ids"].flip(1).cumsum(1).flip(1) + batch["position_ids"]
    return later > 0


figure = padded_and_packed(
    {
        "padded": (padded["attention_mask"].bool(), padded["labels"] != IGNORED),
        "packed": (really_there(packed), packed["labels"] != IGNORED),
    }
)
lab.figure(
    "padding-and-packing",
    figure,
    Text(
        en="The same examples padded (left) and packed (right). White is padding: computed and thrown away.",
        zh_tw="同一批例子：補齊（左）與打包（右）。白色是補齊的部分：照樣要計算，結果卻用不到。",
    ),
)

# %%
leaky = packed | {"position_ids": torch.arange(packed["input_ids"].shape[1]).expand_as(packed["input_ids"])}
as_batches = {"padded": padded, "packed": packed, "no boundaries": leaky}
losses = {name: mean_loss(model, [batch]) for name, batch in as_batches.items()}
lab.record("packing_loss_difference", abs(losses["packed"] - losses["padded"]))
lab.record("packing_loss_difference", abs(losses["no boundaries"] - losses["padded"]), variant="no_boundaries")
lab.table(
    [tr("batch", "批次"), tr("loss (nats per token)", "損失（nats／token）")],
    [[name, f"{loss:.6f}"] for name, loss in losses.items()],
)
lab.say(
    f"""{len(chosen)} examples hold {real:,} tokens. Padded they take {sizes["padded"]:,} ({real / sizes["padded"]:.0%} \
real), packed {sizes["packed"]:,} ({real / sizes["packed"]:.0%} real). \
The losses of both agree to {abs(losses["packed"] - losses["padded"]):.0e}.
With positions that run on across a row, every example reads those before it, and the loss moves by \
{abs(losses["no boundaries"] - losses["padded"]):.2g}.""",
    f"""{len(chosen)} 個例子共 {real:,} 個 token。補齊後占 {sizes["padded"]:,}（{real / sizes["padded"]:.0%} 是真的），打包後占 \
{sizes["packed"]:,}（{real / sizes["packed"]:.0%} 是真的）。兩者的損失只差 {abs(losses["packed"] - losses["padded"]):.0e}。
如果位置在整列裡一路編下去，每個例子都會讀到前面的例子，損失就變了 {abs(losses["no boundaries"] - losses["padded"]):.2g}。""",
)

# %% [markdown] lang="en"
# ## Predict
#
# The task we will teach is `relabel`: a review, answered with a code word instead of the usual one. We draw the training items at
# random, so some come up more than once. If you shuffle them and set 10% aside as a test, which share of the test prompts is in the
# training part too? And which share of the task does the base get right? Into `predictions.toml`:
#
# ```toml
# shuffled_overlap_share = 0.05
# base_exact_match = 0.3
# ```

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 我們要教的任務是 `relabel`：看一則評論，不用平常的字眼，而是回答一個代號。訓練題目是隨機抽的，所以有些會重複出現。
# 如果把它們洗牌、留 10% 當測驗，測驗的提示有多少比例也在訓練的那一份裡？另外，這個任務基礎模型能答對幾成？寫進 `predictions.toml`：
#
# ```toml
# shuffled_overlap_share = 0.05
# base_exact_match = 0.3
# ```

# %% [markdown] lang="en"
# ## A split that cannot leak
#
# A hash of the *content* decides on which side an item is: equal prompts have equal hashes, so no prompt can be on both sides. The control is
# what most scripts do: shuffle, cut.

# %% [markdown] lang="zh-TW"
# ## 不會洩漏的切分
#
# 由*內容*的雜湊決定一題在哪一邊：相同的提示有相同的雜湊，所以沒有任何提示會同時出現在兩邊。對照組是大多數程式的做法：洗牌，然後切開。

# %%
size = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
task = load_task(settings.task, tokenizer, **size, chat=settings.chat)


def prompt_tokens(example):
    """The tokens before the first one that counts: what the model is shown."""
    first = int((example["labels"] != IGNORED).int().argmax())
    return tuple(example["input_ids"][:first].tolist())


def overlap(held_out, training):
    """How many held-out prompts are among the training prompts."""
    return sum(prompt in set(training) for prompt in set(held_out))


train_prompts = [prompt_tokens(task.training[index]) for index in range(len(task.training))]
held_out_texts = [prompt_text(item, tokenizer, chat=settings.chat) for item in task.held_out]
held_out_prompts = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in held_out_texts]
instructions = [{record.messages for record in side} for side in (held_out_records, train_records)]

shuffled = list(train_prompts)
random.Random(0).shuffle(shuffled)
cut = len(shuffled) // 10
leaked = overlap(shuffled[:cut], shuffled[cut:])
lab.record("split_overlap", overlap(held_out_prompts, train_prompts) + len(instructions[0] & instructions[1]))
lab.record("split_overlap", leaked, variant="shuffled")
lab.record("shuffled_overlap_share", leaked / len(set(shuffled[:cut])))
guess = lab.predict("shuffled_overlap_share")
lab.say(
    f"""By hash: {len(held_out_prompts)} held-out prompts, {overlap(held_out_prompts, train_prompts)} of them in the training \
data (instructions: {len(instructions[0] & instructions[1])} of {len(instructions[0])}). By shuffling: \
**{leaked} of {len(set(shuffled[:cut]))}**
({leaked / len(set(shuffled[:cut])):.0%}{"" if guess is None else f"; you guessed {guess:.0%}"}) would be questions \
the model has been shown with their answers.""",
    f"""用雜湊切：保留 {len(held_out_prompts)} 個提示，其中 {overlap(held_out_prompts, train_prompts)} 個在訓練資料裡（指令資料：{len(instructions[0])} \
個裡有 {len(instructions[0] & instructions[1])} 個）。用洗牌切：**{len(set(shuffled[:cut]))} 個裡有 {leaked} 個**
（{leaked / len(set(shuffled[:cut])):.0%}{"" if guess is None else f"；你猜 {guess:.0%}"}）是模型連答案都看過的題目。""",
)

# %% [markdown] lang="en"
# ## What the base can do
#
# Before teaching, measure. Greedy answers to the held-out items, right only if equal to the character:

# %% [markdown] lang="zh-TW"
# ## 基礎模型會什麼
#
# 先量，再教。對保留題目用貪婪解碼作答，要一字不差才算對：

# %%
wanted = [item.answer for item in task.held_out]
answers = skills.answers(model, tokenizer, task.held_out, chat=settings.chat)
taught = world.distinct_items("sentiment", len(wanted), seed=0, split="held-out")
taught_answers = skills.answers(model, tokenizer, taught, chat=settings.chat)
taught_right = exact_matches(taught_answers, [item.answer for item in taught])
round_trip = [tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in wanted]
right, ruler = exact_matches(answers, wanted), exact_matches(round_trip, wanted) / len(wanted)
lab.record("base_exact_match", right / len(wanted))
lab.record("base_exact_match", ruler, variant="reference_answers")
lab.table(
    [tr("prompt", "提示"), tr("wanted", "正確答案"), tr("base", "基礎模型")],
    [[item.prompt, item.answer, repr(answer)] for item, answer in zip(task.held_out[:6], answers[:6], strict=True)],
)

# %%
low, high = wilson(right, len(wanted))
guess = lab.predict("base_exact_match")
lab.say(
    f"""- The base gets {right} of {len(wanted)} right, {right / len(wanted):.1%} [{max(0, low):.1%}, \
{high:.1%}]{"" if guess is None else f" (you guessed {guess:.0%})"}. \
The wanted answers themselves, through the tokenizer and back, score
  {ruler:.0%}: {"the scoring works" if ruler == 1 else "this tokenizer cannot write all of them"}.
- The same reviews asked as `sentiment`, with the usual words for an answer: {taught_right / len(taught):.0%}. \
What fine-tuning has to add is{"" if taught_right / len(taught) > 0.9 else ", beside the skill,"} a new way to answer.""",
    f"""- 基礎模型 {len(wanted)} 題對 {right} 題，{right / len(wanted):.1%} [{max(0, low):.1%}, {high:.1%}]{"" if guess is None else f"（你猜 {guess:.0%}）"}。把正確答案經過分詞器再還原，得分是
  {ruler:.0%}：{"評分方式沒有問題" if ruler == 1 else "這個分詞器寫不出全部的答案"}。
- 同樣的評論改用 `sentiment` 的問法、用平常的字眼回答：{taught_right / len(taught):.0%}。微調要補上的，{"就只是" if taught_right / len(taught) > 0.9 else "除了這項能力，還有"}一種新的回答方式。""",
)
write_records(train_records, lab.artifact("instructions-train.jsonl"))
write_records(held_out_records, lab.artifact("instructions-held-out.jsonl"))
asked_and_answered = {"prompts": held_out_texts, "wanted": wanted, "answers": answers}
path = lab.artifact("base-answers.json")
_ = path.write_text(json.dumps(asked_and_answered, ensure_ascii=False), encoding="utf-8")

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - A hash of the content keeps equal prompts apart. It cannot see that two prompts *mean* the same; real data needs near-duplicate search too.
# - The small world has one right answer to each question. Real instructions have many, and exact match is then the wrong measure: that is why
#   the instruction data is judged by perplexity in the next notebook.
#
# **Exercise.** 3 (`instruction_format.py`: labels) belongs here.
#
# **Next:** LoRA goes in.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 內容的雜湊能分開相同的提示，卻看不出兩個提示*意思*相同；真實資料還得搜尋近似的重複。
# - 這個小世界的每一題都只有一個正確答案。真實的指令有很多種答法，不適合用完全相符來評分：所以下一本筆記本改用困惑度評估指令資料。
#
# **練習。** 練習 3（`instruction_format.py`：標籤）屬於這一本。
#
# **下一步：** 把 LoRA 放進去。
