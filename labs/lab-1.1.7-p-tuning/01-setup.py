# %% [markdown] lang="en"
# # 1. A network that always says the same
#
# **Question.** Prompt tuning trains the vectors of a prompt. P-tuning trains a network that makes them, and then
# throws the network away. What is a network for whose input never changes?
#
# | | |
# |---|---|
# | You build | the prompt encoder (MLP, LSTM) in plain PyTorch, its count, and a template that puts vectors before, inside and behind a text; the proof that it is what `peft` does |
# | You write | exercises 1 to 6 |
# | You need | half a minute on two CPU cores, 1 GB of memory |
# | You should see | how many of the trained numbers are ever shipped; what a gradient on one virtual token does to the others; what the template becomes in a library that puts all vectors in front |

# %% [markdown] lang="zh-TW"
# # 1. 永遠說同一句話的網路
#
# **問題。** Prompt tuning 訓練提示的向量。P-tuning 訓練的是產生這些向量的網路，訓練完就把網路丟掉。
# 一個輸入永遠不變的網路，有什麼用？
#
# | | |
# |---|---|
# | 你會做出 | 用純 PyTorch 寫出提示編碼器（MLP、LSTM）、它的參數量，以及把向量放到文字前面、中間、後面的樣板；並證明它就是 `peft` 做的事 |
# | 你要寫的 | 練習 1 到 6 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，1 GB 記憶體 |
# | 你應該看到 | 訓練的數字裡，有幾個會真的出貨；只對一個虛擬 token 的梯度，會對其他的做什麼；遇到把向量全放在前面的函式庫，樣板會變成什麼 |

# %%
import functools

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, Qwen2Config

from onepiece.models import count_parameters, meta_model, quiet_libraries

quiet_libraries()  # before peft is imported, which tells of things that are not wrong

from peft import PromptEncoderConfig, get_peft_model

from broken_variants import AllInFront, Detached, broken_count, broken_labels, freeze_encoder, written_out
from encoder_figures import moved_by_one
from onepiece import lab
from onepiece.adaptation import accuracy, batches, distance, family, fit, load_base, load_task, logits_of, traced
from onepiece.course.text import Text, tr
from onepiece.data import IGNORED
from p_tuning import (
    EncoderSettings,
    ExportedPrompt,
    PromptEncoder,
    Template,
    TemplateModel,
    add_prompt,
    placed_labels,
    reading_order,
    slots,
    trained_count,
)

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
hidden = base.config.hidden_size
anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(settings.anchor))[-1]
tasks = family.load_tasks(tokenizer, chat=settings.chat)
in_front = Template(settings.virtual_tokens)
encoders = {kind: EncoderSettings(kind, settings.width) for kind in ("none", "mlp", "lstm")}
print(f"torch {torch.__version__} on {settings.device}, base model {settings.model or settings.base_model}")

# %% [markdown] lang="en"
# ## A function of nothing
#
# A prompt encoder is a table of inputs and a network behind it ([Liu et al. 2021](https://arxiv.org/abs/2103.10385)).
# The question of the user does not go into it; nothing does.
#
# $$P=\text{MLP}\big(\text{LSTM}(E)\big),\qquad E\in\mathbb R^{k\times d}\ \text{and both networks trained}$$

# %% [markdown] lang="zh-TW"
# ## 什麼都不輸入的函數
#
# 提示編碼器就是一張輸入的表，後面接一個網路（[Liu 等人，2021](https://arxiv.org/abs/2103.10385)）。
# 使用者的問題不會進到裡面；什麼都不會。
#
# $$P=\text{MLP}\big(\text{LSTM}(E)\big),\qquad E\in\mathbb R^{k\times d}\ \text{與兩個網路都要訓練}$$

# %%
lab.source(PromptEncoder.forward)
prompt = PromptEncoder(in_front, encoders["lstm"], hidden, seed=0)
print(tuple(prompt.table.shape), "->", tuple(prompt().shape), "| again the same:", torch.equal(prompt(), prompt()))

# %% [markdown] lang="en"
# ## Predict
#
# Llama-2-7B has hidden size 4,096. The prompt has 20 virtual tokens, its encoder is an MLP of three layers whose
# hidden ones are 128 wide. How many numbers are trained, and how many does somebody need who only wants answers?
# Write `llama_trained = ...` and `llama_shipped = ...` into `predictions.toml`.

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# Llama-2-7B 的 hidden size 是 4,096。提示有 20 個虛擬 token，編碼器是三層的 MLP，隱藏層寬 128。
# 要訓練幾個數字？只想要答案的人，需要其中幾個？
# 把 `llama_trained = ...` 與 `llama_shipped = ...` 寫進 `predictions.toml`。

# %%
wrong_by, one_way = 0, 0
for option in encoders.values():
    counted = count_parameters(add_prompt(load_base(settings)[0], in_front, option, anchor, seed=0)).trainable
    wrong_by += abs(trained_count(hidden, settings.virtual_tokens, option) - counted)
    one_way += abs(broken_count(hidden, settings.virtual_tokens, option, "one_direction") - counted)
lab.record("parameter_count_difference", wrong_by)
lab.record("parameter_count_difference", one_way, variant="one_direction")

half_billion = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
models = {
    "this run": base,
    "Qwen2.5-0.5B": meta_model(half_billion),
    "Llama-2-7B": meta_model(LlamaConfig()),  # its default values are those of Llama 7B
}
rows, trained = [], {}
for name, model in models.items():
    whole, wide = count_parameters(model).total, model.config.hidden_size
    for kind in encoders:
        trained[name, kind] = trained_count(wide, 20, EncoderSettings(kind, settings.count_width))
        kept = 20 * wide
        rows.append((name, kind, f"{trained[name, kind]:,}", f"{trained[name, kind] / whole:.3%}", f"{kept:,}"))
columns = [tr("model", "模型"), tr("encoder", "編碼器"), tr("trained", "訓練"), tr("share", "比例"), tr("shipped", "出貨")]
lab.table(columns, rows)
lab.record("llama_trained", trained["Llama-2-7B", "mlp"])
lab.record("llama_trained", trained["Llama-2-7B", "none"], variant="exported")
lab.record("llama_shipped", trained["Llama-2-7B", "none"])

# %%
guess, guess_shipped = lab.predict("llama_trained"), lab.predict("llama_shipped")
ratio = trained["Llama-2-7B", "mlp"] / trained["Llama-2-7B", "none"]
lab.say(
    f"""- An MLP trains **{trained["Llama-2-7B", "mlp"]:,}** numbers in \
Llama-2-7B{"" if guess is None else f" (you guessed {guess:,.0f})"}, and \
**{trained["Llama-2-7B", "none"]:,}** are \
shipped{"" if guess_shipped is None else f" (you guessed {guess_shipped:,.0f})"}: 1 in {ratio:.0f}. \
Those are no trained numbers at all, but what the network says.
- The formula is off by {wrong_by} in {len(encoders)} models that were built; with an LSTM that reads in one \
direction it would be off by {one_way:,}.""",
    f"""- MLP 在 Llama-2-7B 訓練 **{trained["Llama-2-7B", "mlp"]:,}** 個數字{"" if guess is None else f"（你猜 {guess:,.0f}）"}，\
出貨的是 **{trained["Llama-2-7B", "none"]:,}** 個{"" if guess_shipped is None else f"（你猜 {guess_shipped:,.0f}）"}：\
{ratio:.0f} 個裡面才 1 個。而且那些根本不是訓練的數字，是網路說出來的結果。
- 公式在 {len(encoders)} 個實際建出的模型上總共差 {wrong_by}；LSTM 要是只往一個方向讀，就會差 {one_way:,}。""",
)

# %% [markdown] lang="en"
# ## Ask one vector to move
#
# If the network is a constant when training is over, its use can only be in training. So take one step. The loss
# looks at *one* virtual token, the sixth, and wants it elsewhere; the others are not mentioned. How many of the
# vectors move? Write `moved_by_one = ...` into `predictions.toml`, for the MLP.

# %% [markdown] lang="zh-TW"
# ## 請一個向量移動
#
# 訓練結束後，網路只是個常數；它要是有用，就只能用在訓練的時候。那就走一步看看。損失只看*一個*虛擬 token（第六個），
# 要它換個地方；完全沒提到其他的。有幾個向量會移動？把 `moved_by_one = ...` 寫進 `predictions.toml`（以 MLP 為準）。

# %%
asked, step = 5, 1e-2


def moves_of(option, seed):
    """How far each vector moves in one small step of plain gradient descent that one of them is asked for."""
    prompt = PromptEncoder(in_front, option, hidden, seed=seed)
    before = prompt().detach().clone()
    prompt()[asked].sum().backward()
    with torch.no_grad():
        for weight in prompt.parameters():
            weight -= step * weight.grad
    return (prompt().detach() - before).norm(dim=1).tolist()


moved = {kind: moves_of(option, seed=0) for kind, option in encoders.items()}
number_moved = {kind: sum(length > 0 for length in lengths) for kind, lengths in moved.items()}
lab.record("moved_by_one", min(number_moved["mlp"], number_moved["lstm"]))
lab.record("moved_by_one", number_moved["none"], variant="no_encoder")
figure = moved_by_one(moved, asked)
lab.figure(
    "moved-by-one",
    figure,
    Text(
        en="How far each virtual token moves in one step whose loss looks at the sixth alone; the dotted line is the sixth.",
        zh_tw="損失只看第六個虛擬 token 時，一步之後每個虛擬 token 各移動多遠；虛線是第六個。",
    ),
)
others = {kind: (sum(lengths) - lengths[asked]) / (len(lengths) - 1) / lengths[asked] for kind, lengths in moved.items()}
guess = lab.predict("moved_by_one")
lab.say(
    f"""- Without an encoder {number_moved["none"]} vector moves; with an MLP {number_moved["mlp"]} of \
{settings.virtual_tokens}{"" if guess is None else f" (you guessed {guess:.0f})"}, with an LSTM {number_moved["lstm"]}.
- The unasked ones move on average {others["mlp"]:.0%} as far as the asked one with the MLP, {others["lstm"]:.0%} with \
the LSTM. They share weights: whatever is learned for one place is tried at all.""",
    f"""- 沒有編碼器時，移動的有 {number_moved["none"]} 個；用 MLP 是 {settings.virtual_tokens} 個中的 \
{number_moved["mlp"]} 個{"" if guess is None else f"（你猜 {guess:.0f}）"}，用 LSTM 是 {number_moved["lstm"]} 個。
- 沒被要求的那些，平均移動的距離是被要求的那個的 {others["mlp"]:.0%}（MLP）與 {others["lstm"]:.0%}（LSTM）。\
它們共用權重：在一個位置學到的，所有位置都跟著試。""",
)

# %% [markdown] lang="en"
# ## Does every part of it learn?
#
# One backward pass on the task, and look at each tensor of the encoder. The control has computed the vectors once, "to
# save time", and trains those: an encoder stands there, and no gradient ever reaches it.

# %% [markdown] lang="zh-TW"
# ## 每個部分都學得到嗎？
#
# 在任務上做一次反向傳播，然後檢查編碼器的每個張量。對照組為了「省時間」先把向量算好，然後訓練那些向量：
# 編碼器是在那裡，但從來沒有梯度進得去。

# %%
batch = batches(tasks["relabel"], batch_size=settings.batch, seed=0)(0)


def without_gradient(prompt, encoder):
    """How many tensors of an encoder get none from a batch."""
    TemplateModel(load_base(settings)[0], prompt, anchor)(**batch).loss.backward()
    return sum(weight.grad is None or not weight.grad.any() for weight in encoder.parameters())


dead, dead_detached = 0, []
for kind in ("mlp", "lstm"):
    prompt = PromptEncoder(in_front, encoders[kind], hidden, seed=0)
    dead += without_gradient(prompt, prompt)
    cached = Detached(PromptEncoder(in_front, encoders[kind], hidden, seed=0))
    dead_detached.append(without_gradient(cached, cached.encoder))
lab.record("tensors_without_gradient", dead)
lab.record("tensors_without_gradient", min(dead_detached), variant="detached")
lab.say(
    f"Tensors of both encoders without a gradient: {dead}; of those whose output was computed once: {sum(dead_detached)}.",
    f"兩種編碼器中沒有梯度的張量：{dead} 個；先把輸出算好的那兩個編碼器：{sum(dead_detached)} 個。",
)

# %% [markdown] lang="en"
# ## Where the vectors stand
#
# The paper's other idea: virtual tokens anywhere, with real tokens of the text as *anchors* between them. Every question
# of this course ends with an arrow, so the arrow is our anchor:
#
# `[front]  <bos> Signal: the trip was fun  [before]  →  [behind]  blue`
#
# `peft` has no such template; the functions are short, and their mistakes are silent.

# %% [markdown] lang="zh-TW"
# ## 向量站在哪裡
#
# 論文的另一個想法：虛擬 token 可以放在任何地方，中間夾著文字裡真正的 token，當作*錨點*（anchor）。
# 這門課的每個問題都以箭頭結尾，所以箭頭就是我們的錨點：
#
# `[front]  <bos> Signal: the trip was fun  [before]  →  [behind]  blue`
#
# `peft` 沒有這種樣板；這些函式很短，而且錯了也不會出聲。

# %%
lab.source(slots)
lab.source(reading_order)
lab.source(placed_labels)

# %% [markdown] lang="en"
# ## Words as vectors
#
# If the vectors are embeddings of real words, the model must do exactly what it does when these words are written at
# those places. So the right answer is known before anything is trained. The controls: all vectors in front, whatever the
# template says; and, for the loss, labels that stay where they would be if they were.

# %% [markdown] lang="zh-TW"
# ## 拿字當向量
#
# 向量如果就是真正的字的 embedding，模型的行為必須跟把這些字寫在那些位置完全一樣。所以什麼都還沒訓練，就知道正確答案。
# 對照組：不管樣板怎麼寫，向量全放在前面；至於損失，則是標籤留在「全放在前面」時的位置。

# %%
table = base.get_input_embeddings().weight.detach()
third = settings.virtual_tokens // 3
interleaved = Template(front=settings.virtual_tokens - 2 * third, before=third, behind=third)
drawn = torch.randint(len(table), (settings.virtual_tokens,), generator=torch.Generator().manual_seed(1))
words = ExportedPrompt(table[drawn.to(table.device)].clone(), interleaved)
# Every token counts here, not the answer alone: it stands behind all virtual tokens and would notice nothing.
every = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
every[:, 0] = IGNORED
counting = batch | {"labels": every}


@torch.no_grad()
def by_words():
    """Logits of each next token, row by row, and the loss, from token ids alone."""
    logits, losses = [], []
    for ids, mask, labels in zip(*(counting[key] for key in ("input_ids", "attention_mask", "labels")), strict=True):
        row = ids[mask.bool()].tolist()
        written, places = written_out(drawn.tolist(), interleaved, row, anchor)
        logits.append(base(torch.tensor([written], device=base.device)).logits[0, places])
        wanted = labels[mask.bool()][1:].to(base.device)
        counted = wanted != IGNORED
        losses.append(cross_entropy(logits[-1][:-1][counted], wanted[counted], reduction="none"))
    return torch.cat(logits), float(torch.cat(losses).mean())


wanted, loss_by_hand = by_words()
right, careless = TemplateModel(base, words, anchor), AllInFront(base, words, anchor)
room = settings.left_padding
left = {
    "input_ids": torch.nn.functional.pad(batch["input_ids"], (room, 0), value=tokenizer.pad_token_id),
    "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (room, 0)),
}
apart = {"right": distance(logits_of(right, batch), wanted), "all in front": distance(logits_of(careless, batch), wanted)}
padded = distance(logits_of(right, left), wanted)
lab.record("template_difference", max(apart["right"], padded))
lab.record("template_difference", apart["all in front"], variant="all_in_front")
with torch.no_grad():
    off = abs(float(right(**counting).loss) - loss_by_hand)
    read = right.inputs(**counting)
    stay = broken_labels(every, right.order(batch["input_ids"], batch["attention_mask"]), "in_front")
    loss_staying = base(**read._replace(labels=stay.to(base.device))._asdict()).loss
lab.record("loss_difference", off)
lab.record("loss_difference", abs(float(loss_staying) - loss_by_hand), variant="in_front")
lab.table(
    [tr("template", "樣板"), tr("logits apart from the words (relative)", "logits 與寫成字的差異（相對值）")],
    [
        (tr("as it says", "照樣板寫的"), apart["right"]),
        (tr(f"{room} padded on the left", f"左邊補 {room} 個"), padded),
        (tr("all in front", "全放在前面"), apart["all in front"]),
    ],
)
lab.say(
    f"Loss: {off:.1e} from the one computed by hand; with labels that were not moved along {float(loss_staying):.2f} "
    f"instead of {loss_by_hand:.2f} nats.",
    f"損失：與手算相差 {off:.1e}；標籤沒有跟著移動的話是 {float(loss_staying):.2f} nats，而不是 {loss_by_hand:.2f}。",
)

# %% [markdown] lang="en"
# ## Is it the P-tuning that everyone uses?
#
# `peft` has the encoder and no template, so all vectors stand in front here. Both get the same start values and the same
# batches. The control trains the table alone and leaves the encoder as it was drawn.

# %% [markdown] lang="zh-TW"
# ## 這就是大家在用的 P-tuning 嗎？
#
# `peft` 有編碼器、沒有樣板，所以這裡的向量都在前面。兩邊用同樣的初始值、同樣的批次。
# 對照組只訓練那張表，編碼器留在一開始抽到的樣子。


# %%
def peft_twin(kind, prompt):
    """peft's model with the start values of an encoder of ours."""
    options = PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=settings.virtual_tokens,
        encoder_reparameterization_type=kind.upper(),
        encoder_hidden_size=settings.width,
    )
    twin = get_peft_model(load_base(settings)[0], options)
    theirs = dict(twin.prompt_encoder["default"].named_parameters())
    for name, weight in prompt.named_parameters():
        renamed = name.replace("table", "embedding.weight").replace("mlp.", "mlp_head.").replace("lstm.", "lstm_head.")
        theirs[renamed].data.copy_(weight)
    return twin


worst = {"own": [0.0, 0.0], "encoder_frozen": [0.0, 0.0]}
for kind, seed in lab.progress([(kind, seed) for kind in ("mlp", "lstm") for seed in settings.compared_seeds]):
    budget = {"steps": settings.equal_steps, "learning_rate": settings.equal_rate, "batch_size": settings.batch}
    train = functools.partial(fit, task=tasks["relabel"], seed=seed, progress=False, **budget)
    own = add_prompt(load_base(settings)[0], in_front, encoders[kind], anchor, seed=seed)
    frozen = freeze_encoder(add_prompt(load_base(settings)[0], in_front, encoders[kind], anchor, seed=seed))
    theirs = traced(peft_twin(kind, own.prompt), train, batch)
    for name, model in (("own", own), ("encoder_frozen", frozen)):
        difference = traced(model, train, batch).apart_from(theirs)
        worst[name] = [max(worst[name][0], difference.loss), max(worst[name][1], difference.after)]
for name, (loss, after) in worst.items():
    variant = None if name == "own" else name
    lab.record("peft_loss_difference", loss, variant=variant)
    lab.record("peft_logit_difference", after, variant=variant)

# %% [markdown] lang="en"
# ## What the base can do
#
# The tasks are those of the whole module: the base must not know them already.

# %% [markdown] lang="zh-TW"
# ## 基礎模型會什麼
#
# 任務跟這個單元的其他實驗一樣：基礎模型不可以本來就會。

# %%
known = load_task("sentiment", tokenizer, train_items=16, held_out_items=40, chat=settings.chat)
lab.record("base_accuracy", max(accuracy(base, each).accuracy for each in tasks.values()))
lab.record("base_accuracy", accuracy(base, known).accuracy, variant="known_skill")

# %% [markdown] lang="en"
# ## What the numbers said

# %% [markdown] lang="zh-TW"
# ## 這些數字說了什麼

# %%
lab.say(
    f"""- An encoder is a constant to whoever asks, and a coupling to whoever trains: one gradient moved \
{number_moved["mlp"]} vectors instead of {number_moved["none"]}.
- Over two encoders and {settings.equal_steps} steps our losses and `peft`'s differ by at \
most {worst["own"][0]:.1e} nats, the logits at the end by {worst["own"][1]:.1e}. With the encoder left as it was drawn \
they differ by {worst["encoder_frozen"][0]:.2g} nats.
- The template does what words at its places do ({max(apart["right"], padded):.1e}); with all vectors in front the \
logits are {apart["all in front"]:.2g} away, and no error tells.""",
    f"""- 對問問題的人來說，編碼器是個常數；對訓練的人來說，它把向量綁在一起：一個梯度移動了 {number_moved["mlp"]} 個向量，\
而不是 {number_moved["none"]} 個。
- 兩種編碼器、{settings.equal_steps} 步之中，我們的損失與 `peft` 最多差 {worst["own"][0]:.1e} nats，\
最後的 logits 差 {worst["own"][1]:.1e}。編碼器留在一開始的樣子，就會差 {worst["encoder_frozen"][0]:.2g} nats。
- 樣板做的事，跟在那些位置寫字一樣（{max(apart["right"], padded):.1e}）；向量全放在前面的話，logits 差 \
{apart["all in front"]:.2g}，而且不會有任何錯誤訊息。""",
)

# %% [markdown] lang="en"
# ## Limits of the toy scale
#
# - Here the encoder is as wide as the base; for a model of billions one of 128 is an ordinary choice.
# - An anchor must be a token that every text has. In a chat template that is easy; in free text it must be written.
#
# **Exercises.** 1 to 6 (`p_tuning.py`): `nox -s check -- lab-1.1.7-p-tuning`.
#
# **Next:** is the coupling worth anything, and where should vectors stand?

# %% [markdown] lang="zh-TW"
# ## 小規模實驗的限制
#
# - 這裡的編碼器跟基礎模型一樣寬；幾十億參數的模型，寬 128 的編碼器也很常見。
# - 錨點必須是每段文字都有的 token。對話樣板裡很容易找；自由的文字裡就得自己寫進去。
#
# **練習。** 1 到 6（`p_tuning.py`）：`nox -s check -- lab-1.1.7-p-tuning`。
#
# **下一步：** 綁在一起值不值得？向量又該站在哪裡？
