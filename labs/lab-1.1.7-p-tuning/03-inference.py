# %% [markdown] lang="en"
# # 3. Inference: the encoder is gone. What has gone with it?
#
# **Question.** After training the encoder says one thing for ever. Write that down, and throw it away: what can still be
# done, and what cannot be done any more?
#
# | | |
# |---|---|
# | You build | the export, and its equality; an interrupted training that goes on in three ways, one of them `peft`'s; a bill of what a server must read anew; rows with templates of their own |
# | You write | exercise 7 |
# | You need | half a minute on two CPU cores, 1 GB of memory; the prompts of notebook 2 |
# | You should see | how far the loss jumps when training goes on from the shipped file; which virtual tokens a server may keep between requests |

# %% [markdown] lang="zh-TW"
# # 3. 推論：編碼器丟掉了，還丟掉了什麼？
#
# **問題。** 訓練完之後，編碼器永遠只說同一句話。把那句話記下來，把它丟掉：還能做什麼？又有什麼再也做不到了？
#
# | | |
# |---|---|
# | 你會做出 | 匯出，以及匯出後相等的證明；中斷的訓練，用三種方式接下去，其中一種是 `peft` 的；伺服器每個請求必須重讀多少的帳單；各列有自己樣板的批次 |
# | 你要寫的 | 練習 7 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體；第 2 本筆記本的提示 |
# | 你應該看到 | 從出貨的檔案接著訓練，損失會跳多少；哪些虛擬 token 伺服器可以留著給下一個請求用 |

# %%
import torch
from torch.utils.flop_counter import FlopCounterMode

from onepiece.models import quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

from peft import PeftModel, PromptEncoderConfig, get_peft_model, set_peft_model_state_dict

from broken_variants import broken_export, swapped
from encoder_figures import resumed_losses
from onepiece import lab
from onepiece.adaptation import batches, distance, fit, load_base, load_task, logits_of, read_tensors
from onepiece.course.text import Text, tr
from onepiece.measure import timed
from onepiece.tiny.tokenizer import prompt_text
from p_tuning import EncoderSettings, ExportedPrompt, PromptEncoder, Template, TemplateModel, exported
from prompt_files import load_prompt, load_state, read_prompt, state_to_go_on
from request_cost import counted_flops, keys_read, reading_flops

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
hidden = base.config.hidden_size
anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(settings.anchor))[-1]
files = {place: lab.artifact(f"prompt-{place}") for place in ("front", "around", "end")}
prompts = {place: read_prompt(path, hidden) for place, path in files.items()}
mlp = EncoderSettings("mlp", settings.width)
task = load_task("relabel", tokenizer, train_items=1600, held_out_items=40, chat=settings.chat)
in_order = batches(task, batch_size=settings.batch, seed=settings.seeds[0])
batch = in_order(0)

# %% [markdown] lang="en"
# ## Predict
#
# Notebook 2 has kept the encoder of the prompt in front as well. By how much do the logits differ with and without it,
# relative to the largest? Write `export_difference = ...` into `predictions.toml`. The control writes down what goes
# *into* the encoder, which has the same shape.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 第 2 本筆記本把前面那個提示的編碼器也留著。用編碼器與不用，logits 差多少（相對於最大值）？
# 把 `export_difference = ...` 寫進 `predictions.toml`。對照組記下的是*進*編碼器的東西，形狀一模一樣。

# %%
trained = PromptEncoder(prompts["front"].template, mlp, hidden, seed=0)
load_state(trained, files["front"])
with_encoder = TemplateModel(base, trained, anchor)
wanted = logits_of(with_encoder, batch)
without = distance(logits_of(TemplateModel(base, exported(trained), anchor), batch), wanted)
from_file = distance(logits_of(load_prompt(base, files["front"], anchor), batch), wanted)
the_table = distance(logits_of(TemplateModel(base, broken_export(trained, "table"), anchor), batch), wanted)
lab.record("export_difference", max(without, from_file))
lab.record("export_difference", the_table, variant="table")
with FlopCounterMode(display=False) as counter:
    trained()
encoder_flops = counter.get_total_flops()
guess = lab.predict("export_difference")
lab.say(
    f"""- Without the encoder the logits differ by {max(without, from_file):.1e}\
{"" if guess is None else f" (you guessed {guess:.1e})"}; with its table for its output by {the_table:.2g}.
- Made anew for each request the vectors would cost {encoder_flops:,} FLOPs; written down they cost none.""",
    f"""- 不用編碼器，logits 差 {max(without, from_file):.1e}{"" if guess is None else f"（你猜 {guess:.1e}）"}；\
拿它的表當成輸出，則差 {the_table:.2g}。
- 每個請求都重算一次向量要 {encoder_flops:,} FLOPs；記下來就一個也不用。""",
)

# %% [markdown] lang="en"
# ## Tomorrow the training is to go on
#
# The file for answers has the vectors alone; `peft` writes the same one. People have asked how to train on from it
# ([peft issue 1247](https://github.com/huggingface/peft/issues/1247), [1607](https://github.com/huggingface/peft/issues/1607)).
# First what `peft` says when it is asked to make the loaded prompt trainable:

# %% [markdown] lang="zh-TW"
# ## 明天要接著訓練
#
# 給答案用的檔案只有向量；`peft` 寫的也是同一種檔案。有人問過怎麼從它接著訓練
# （[peft issue 1247](https://github.com/huggingface/peft/issues/1247)、[1607](https://github.com/huggingface/peft/issues/1607)）。
# 先看看要求 `peft` 讓載入的提示可以訓練時，它怎麼說：

# %%
try:
    PeftModel.from_pretrained(load_base(settings)[0], files["front"], is_trainable=True)
except ValueError as error:
    print(error)

# %% [markdown] lang="en"
# So people build a fresh model with the same configuration and load the tensor into it. That raises nothing: `peft` puts
# the saved *output* where its encoder has its *input*. Three ways to go on, on the same batches:
#
# - **state**: encoder and table as they were (exercise 7);
# - **fresh encoder**: `set_peft_model_state_dict` into a fresh model of `peft`;
# - **no encoder**: the vectors themselves are trained from here on, at the rate of bare vectors.

# %% [markdown] lang="zh-TW"
# 於是大家用同樣的設定建一個新的模型，再把張量載入。這樣不會報錯：`peft` 把存下來的*輸出*，放到編碼器的*輸入*那裡。
# 三種接下去的方式，用同樣的批次：
#
# - **state**：編碼器與表都跟原來一樣（練習 7）；
# - **fresh encoder**：用 `set_peft_model_state_dict` 載入 `peft` 的新模型；
# - **no encoder**：從這裡開始直接訓練向量，用適合裸向量的學習率。

# %%
lab.source(state_to_go_on)
options = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=settings.virtual_tokens, encoder_hidden_size=settings.width)
torch.manual_seed(settings.seeds[0])  # peft draws a fresh encoder from the global generator
fresh = get_peft_model(load_base(settings)[0], options)
set_peft_model_state_dict(fresh, read_tensors(files["front"]))
bare = ExportedPrompt(prompts["front"].vectors.clone(), prompts["front"].template)
going_on = {
    "state": (TemplateModel(load_base(settings)[0], trained, anchor), settings.mlp_rate),
    "fresh encoder": (fresh, settings.mlp_rate),
    "no encoder": (TemplateModel(load_base(settings)[0], bare, anchor), settings.plain_rate),
}


@torch.no_grad()
def mean_loss(model, count=8):
    """Over the first batches, before anything is trained."""
    return sum(float(model(**in_order(number)).loss) for number in range(count)) / count


before = mean_loss(load_prompt(base, files["front"], anchor))
jumps = {name: mean_loss(model) - before for name, (model, _) in going_on.items()}
budget = {"steps": settings.resume_steps, "batch_size": settings.batch, "seed": settings.seeds[0], "progress": False}
after = {}
for name, (model, rate) in lab.progress(going_on.items()):
    after[name] = fit(model, task, learning_rate=rate / 10, schedule="constant", **budget).losses
lab.record("resume_jump", max(abs(jumps["state"]), abs(jumps["no encoder"])))
lab.record("resume_jump", jumps["fresh encoder"], variant="fresh_encoder")
figure = resumed_losses([before] * 10, after)
lab.figure(
    "going-on",
    figure,
    Text(
        en="Losses of the three ways to go on. Left of the line: the mean loss of the prompt that was saved.",
        zh_tw="三種接下去的方式的損失。線的左邊：存檔的那個提示的平均損失。",
    ),
)
lab.table(
    [tr("goes on with", "接下去用"), tr("loss jumps by (nats)", "損失跳了（nats）"), tr("last ten steps", "最後十步")],
    [(name, f"{jumps[name]:+.3f}", f"{sum(after[name][-10:]) / 10:.2f}") for name in going_on],
)

# %% [markdown] lang="en"
# ## What a server may keep
#
# A server with a prefix cache keeps keys and values of what many requests begin with. Two questions, the same prompt: are
# the keys of its virtual tokens the same? Those in front have nothing before them; those behind the arrow have read the
# question.

# %% [markdown] lang="zh-TW"
# ## 伺服器可以留下什麼
#
# 有前綴快取的伺服器，會留下許多請求共同開頭的 key 與 value。兩個問題、同一個提示：虛擬 token 的 key 一樣嗎？
# 前面的虛擬 token 之前什麼都沒有；箭頭後面的，則已經讀過問題了。

# %%
texts = [prompt_text(item, tokenizer, chat=settings.chat) for item in task.held_out]
ids = [tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(base.device) for text in texts]
model = load_prompt(base, files["around"], anchor)
template = model.prompt.template
same_length = next(row for row in ids if row.shape == ids[0].shape and not torch.equal(row, ids[0]))
one, other = (keys_read(base, model.inputs(row)) for row in (ids[0], same_length))
apart_front = distance(other[:, :, : template.front], one[:, :, : template.front])
apart_behind = distance(other[:, :, -template.behind :], one[:, :, -template.behind :])
lab.record("kept_keys_difference", apart_front)
lab.record("kept_keys_difference", apart_behind, variant="behind")

seq, bill, off, off_short = ids[0].shape[1], {}, 0, 0
for place in ("front", "around", "end"):
    reads = load_prompt(base, files[place], anchor).inputs(ids[0])
    kept = prompts[place].template.front
    new = settings.virtual_tokens + seq - kept
    bill[place] = counted_flops(base, reads, kept)
    off += abs(reading_flops(base.config, new, kept) - bill[place])
    off_short += abs(reading_flops(base.config, new, 0) - bill[place])
lab.record("flops_difference", off)
lab.record("flops_difference", off_short, variant="kept_for_free")
none = reading_flops(base.config, seq, 0)
lab.table(
    [tr("place", "位置"), tr("kept", "留下"), tr("read anew", "重讀"), "FLOPs", tr("of no prompt", "與沒有提示相比")],
    [
        (
            *(place, prompts[place].template.front, settings.virtual_tokens + seq - prompts[place].template.front),
            *(f"{flops:,}", f"{flops / none:.2f}"),
        )
        for place, flops in bill.items()
    ],
)
exactly = {"min_new_tokens": settings.answer_tokens, "max_new_tokens": settings.answer_tokens, "do_sample": False}
asked = {"input_ids": ids[0], "attention_mask": torch.ones_like(ids[0])}
times = timed(
    {"prompt": lambda: model.generate(**asked, **exactly), "base": lambda: base.generate(**asked, **exactly)},
    repeats=settings.repeats,
)
lab.say(
    f"Measured, without any cache between requests, {settings.answer_tokens} tokens take "
    f"{times['prompt'].median / times['base'].median:.2f} times as long as without a prompt (reported, not gated).",
    f"實際量測，請求之間不留快取，{settings.answer_tokens} 個 token 花的時間是沒有提示時的 "
    f"{times['prompt'].median / times['base'].median:.2f} 倍（只報告，不設關卡）。",
)

# %% [markdown] lang="en"
# ## A template of its own in each row
#
# Row 1 has all vectors in front, row 2 around the text, row 3 behind it, another row three vectors only. One batch. The
# control hands the prompts to the wrong rows.

# %% [markdown] lang="zh-TW"
# ## 每一列有自己的樣板
#
# 第 1 列的向量全在前面，第 2 列圍著文字，第 3 列全在後面，還有一列只有三個向量。放在同一個批次。對照組把提示給錯列。

# %%
short = Template(front=1, before=1, behind=1)
several = prompts | {"three vectors": ExportedPrompt(prompts["front"].vectors[:3].clone(), short).requires_grad_(False)}
names = [list(several)[row % len(several)] for row in range(settings.batch)]
with model.using([several[name] for name in names]):
    mixed = logits_of(model, batch)  # (tokens, vocabulary)
exchanged = swapped(several)
with model.using([exchanged[name] for name in names]):
    wrong = logits_of(model, batch)
alone = []
for row, name in enumerate(names):
    single = {key: batch[key][row : row + 1] for key in ("input_ids", "attention_mask")}
    with model.using([several[name]]):
        alone.append(logits_of(model, single))
mixed_apart, wrong_apart = distance(mixed, torch.cat(alone)), distance(wrong, torch.cat(alone))
lab.record("mixed_difference", mixed_apart)
lab.record("mixed_difference", wrong_apart, variant="swapped")

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- For answers nothing has gone: {max(without, from_file):.1e}.
- For training the way back has gone. From the state the loss goes on where it was ({jumps["state"]:+.1e} nats); a fresh \
encoder that reads the saved vectors jumps by {jumps["fresh encoder"]:+.2f}, and no error tells. Without an encoder \
the vectors can be trained on: {jumps["no encoder"]:+.1e}.
- Keys of virtual tokens in front are the same for every question ({apart_front:.1e}); behind the arrow they are \
{apart_behind:.2g} apart. A place behind the text is paid with every request.
- {len(set(names))} templates share a batch ({mixed_apart:.1e}; handed to the wrong rows {wrong_apart:.2g}).""",
    f"""- 對回答來說，什麼都沒丟：{max(without, from_file):.1e}。
- 對訓練來說，回頭路沒了。從 state 接下去，損失停在原來的地方（{jumps["state"]:+.1e} nats）；用新的編碼器去讀存下來的向量，\
會跳 {jumps["fresh encoder"]:+.2f}，而且不會報錯。不要編碼器的話，向量可以接著訓練：{jumps["no encoder"]:+.1e}。
- 前面的虛擬 token，key 對每個問題都一樣（{apart_front:.1e}）；箭頭後面的差 {apart_behind:.2g}。站在文字後面，每個請求都要付錢。
- {len(set(names))} 種樣板可以放進同一個批次（{mixed_apart:.1e}；給錯列則是 {wrong_apart:.2g}）。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - How far the loss jumps depends on the fresh encoder that is drawn; that it jumps does not.
# - The share of the prompt in the bill is large because the questions are short.
#
# **Exercises.** 2 (`p_tuning.py`) and 7 (`prompt_files.py`): `nox -s check -- lab-1.1.7-p-tuning`.
#
# **Next:** a server that takes text alone, and a template in the middle of it.

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 損失跳多少，要看抽到怎樣的新編碼器；會不會跳，則不用看。
# - 帳單裡提示的比例這麼高，是因為問題很短。
#
# **練習。** 2（`p_tuning.py`）與 7（`prompt_files.py`）：`nox -s check -- lab-1.1.7-p-tuning`。
#
# **下一步：** 一台只收文字的伺服器，和一個夾著文字的樣板。
