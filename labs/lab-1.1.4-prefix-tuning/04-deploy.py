# %% [markdown] lang="en"
# # 4. Hand the memory over
#
# **Question.** A LoRA disappears into the weights. A memory is no weight: what can be thrown away after training, what must be kept, and which server starts a conversation with something already in its cache?
#
# | | |
# |---|---|
# | You build | the prefix without the network that wrote it; a directory that is base and prefix in one; a real HTTP server that loads it |
# | You write | nothing new: exercise 3 is used |
# | You need | half a minute on two CPU cores, 2 GB of memory; the files of notebook 2 |
# | You should see | what is left of a prefix whose network was lost too early; served answers beside local ones; what must be trusted for that |

# %% [markdown] lang="zh-TW"
# # 4. 把記憶交出去
#
# **問題。** LoRA 可以消失在權重裡。記憶不是權重：訓練完之後，什麼可以丟？什麼一定要留？哪種伺服器，一開口快取裡就已經有東西？
#
# | | |
# |---|---|
# | 你會做出 | 拿掉網路之後的 prefix；把基礎模型與 prefix 合成一份的目錄；載入它的真正 HTTP 伺服器 |
# | 你要寫的 | 沒有新的：用到練習 3 |
# | 你需要 | 兩個 CPU 核心跑半分鐘，2 GB 記憶體；第 2 本筆記本的檔案 |
# | 你應該看到 | 網路太早弄丟的話，prefix 還剩下什麼；伺服器的回答與本機的並列；為了這件事必須信任什麼 |

# %%
import copy

import torch
from transformers import AutoModelForCausalLM

from broken_variants import another_encoder
from model_with_prefix import with_prefix
from onepiece import lab
from onepiece.adaptation import accuracy, base_identity, batches, directory_bytes, distance, family, load_base, logits_of
from onepiece.adaptation.prefix_cache import CacheShape, PrefixModel
from onepiece.course.text import tr
from onepiece.serving.model_with_code import save_with_code
from onepiece.serving.plain_model import GREEDY, complete, missing_packages, served
from onepiece.tiny.tokenizer import prompt_text
from prefix_files import load_prefix, save_prefix
from prefix_tuning import EncodedPrefix, PrefixSettings, exported, prefix_parameter_count

settings = lab.settings
torch.set_num_threads(settings.threads)
base, tokenizer = load_base(settings)
shape = CacheShape.of(base.config)
task = family.load_tasks(tokenizer, chat=settings.chat)["relabel"]
batch = batches(task, batch_size=settings.batch, seed=0)(0)
encoded_settings = PrefixSettings(settings.virtual_tokens, settings.encoder)
encoded = EncodedPrefix(encoded_settings, shape)
encoded.load_state_dict(torch.load(lab.artifact("encoder.pt"), map_location="cpu", weights_only=True))

# %% [markdown] lang="en"
# ## The network goes, the numbers stay
#
# The network that wrote the prefix gives the same rows every time: it depends on no text. So its output is kept, and the network is thrown away, *after* training. In this order. The control kept the table and lost the network: that is what one has who saves "the embedding" of a prefix in training.

# %% [markdown] lang="zh-TW"
# ## 網路丟掉，數字留下
#
# 寫出 prefix 的那個網路，每次給的數字都一樣：它不看任何文字。所以留下它的輸出，把網路丟掉，而且是在訓練*之後*。順序不能反。對照組留下了表，卻弄丟了網路：有人在訓練途中只存 prefix 的「embedding」，手上就是這個。


# %%
def right_with(prefix):
    """Held-out exact match on relabel."""
    return accuracy(PrefixModel(base, prefix), task).accuracy


directory = lab.artifact("prefix-exported")
save_prefix(encoded, directory, base_identity(settings)[0])
with_network = logits_of(PrefixModel(base, encoded), batch)
without_network = distance(logits_of(load_prefix(base, directory), batch), with_network)
lost = another_encoder(encoded, seed=0)
network_lost = distance(logits_of(PrefixModel(base, lost), batch), with_network)
lab.record("export_difference", without_network)
lab.record("export_difference", network_lost, variant="encoder_lost")
stored, trained = prefix_parameter_count(shape, encoded_settings)
accuracies = {"with the network": right_with(encoded), "exported": right_with(exported(encoded)), "network lost": right_with(lost)}
lab.table(
    [tr("prefix", "prefix"), tr("right on relabel", "relabel 答對")],
    [(name, f"{value:.1%}") for name, value in accuracies.items()],
)
lab.say(
    f"""{trained:,} numbers were trained, {stored:,} are stored; the logits differ by {without_network:g}. \
With the table and another network they differ by {network_lost:.2g}, and {accuracies["network lost"]:.1%} are right.
`peft` stores the same: so a training of a prefix with a network cannot be *resumed* from its files, neither by us \
nor by `peft`, which refuses to load any prefix for training. Keep a checkpoint of the training as well.""",
    f"""訓練了 {trained:,} 個數字，存下 {stored:,} 個；logits 相差 {without_network:g}。只有表、配上另一個網路，則差 {network_lost:.2g}，答對 {accuracies["network lost"]:.1%}。
`peft` 存的也是這些：所以帶網路的 prefix，沒辦法從檔案*接著*訓練，我們不行，`peft` 也不行，它根本不准載入 prefix 來訓練。訓練的 checkpoint 要另外留。""",
)

# %% [markdown] lang="en"
# ## Who serves it?
#
# - A prefix cannot be merged: there is no weight in a Llama whose output is "a key that is always there".
# - vLLM served *prompts* of `peft` for a while (no prefixes); that was removed in [pull request 20588](https://github.com/vllm-project/vllm/pull/20588), and is gone since 0.10.0. It takes LoRA-like adapters only.
# - The memory of a *text* needs no support at all: send the text with each request, and a server with a prefix cache computes it once (lab 2.3). But no text has these numbers.
#
# What remains: a model class of our own. Transformers saves it with the weights, and loads it if told to *trust* the code in the directory. These are the lines that matter:

# %% [markdown] lang="zh-TW"
# ## 誰來部署它？
#
# - prefix 沒辦法合併：Llama 裡沒有哪個權重的輸出是「永遠都在的 key」。
# - vLLM 曾經支援 `peft` 的 *prompt*（不支援 prefix）；後來在 [pull request 20588](https://github.com/vllm-project/vllm/pull/20588) 移除，從 0.10.0 起就沒有了。它只收類似 LoRA 的 adapter。
# - 一段*文字*的記憶則完全不需要支援：每個請求都帶上那段文字，有 prefix cache 的伺服器只會算一次（實驗 2.3）。但沒有任何文字寫得出這些數字。
#
# 剩下的辦法：自己寫一個模型類別。Transformers 會把它跟權重一起存下來，載入時要明說*信任*目錄裡的程式碼。關鍵是這幾行：

# %%
lab.source(with_prefix)
lab.source(save_with_code)

# %% [markdown] lang="en"
# ## Predict
#
# How many bytes has the directory more than one with the base alone: about a prefix, about a network, about a second model? And how many of the answers will differ between the server and the model here?

# %% [markdown] lang="zh-TW"
# ## 先猜猜看
#
# 這個目錄比只有基礎模型的目錄多幾個位元組：大約一個 prefix、一個網路，還是第二個模型？伺服器與這裡的模型，又會有幾個答案不同？

# %%
local_model = load_prefix(base, lab.artifact("prefix-relabel"))
whole = with_prefix(base, local_model.prefix())
served_directory, plain_directory = lab.artifact("base-and-prefix"), lab.artifact("base-alone")
save_with_code(whole, served_directory)
base.save_pretrained(plain_directory)
for place in (served_directory, plain_directory):
    tokenizer.save_pretrained(place)
reloaded = AutoModelForCausalLM.from_pretrained(served_directory, trust_remote_code=True, dtype=settings.dtype).to(settings.device).eval()
wanted = logits_of(local_model, batch)
lab.record("reload_difference", distance(logits_of(reloaded, batch), wanted))
rounded = copy.deepcopy(whole).to(torch.bfloat16).to(settings.dtype)
lab.record("reload_difference", distance(logits_of(rounded, batch), wanted), variant="through_bfloat16")
more = directory_bytes(served_directory) - directory_bytes(plain_directory)
print(sorted(path.name for path in served_directory.iterdir()))

# %% [markdown] lang="en"
# `transformers serve` loads the directory in a process of its own. Each prompt goes to the server and to the model here, which has the prefix in its cache; text and number of tokens must be the same. The control is the base.

# %% [markdown] lang="zh-TW"
# `transformers serve` 在自己的行程裡載入這個目錄。每個提示都同時送給伺服器，以及這裡快取裡有 prefix 的模型；文字與 token 數都必須相同。對照組是基礎模型。

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


expected = [local(local_model, prompt) for prompt in prompts]
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
lab.say(
    f"""- Without its network the prefix is the same ({without_network:g}); a lost network cannot be made up for ({accuracies["network lost"]:.1%} right).
- The directory has {more:,} bytes more than the base's; the prefix alone is {stored * settings.dtype.itemsize:,} \
bytes, the rest is the code that puts it in and what the files say about it.
- Over HTTP: {over_http}.""",
    f"""- 拿掉網路，prefix 不變（{without_network:g}）；弄丟了網路，就補不回來（答對 {accuracies["network lost"]:.1%}）。
- 這個目錄比基礎模型的多 {more:,} 個位元組；prefix 本身占 {stored * settings.dtype.itemsize:,} 個，其餘是把它放進去的程式碼，以及檔案裡的說明。
- 透過 HTTP：{over_http}。""",
)

# %% [markdown] lang="en"
# ## A file, a directory, or a text?
#
# | | prefix as a file | base and prefix in one | the text itself |
# |---|---|---|---|
# | who loads it | `peft`, our code | whatever trusts the code in the directory | any server |
# | many tasks in one batch | yes, a memory for each row | one model for each task | yes |
# | what it can say | what was trained | what was trained | what words can say |
#
# To trust code in a directory means to run it: a server does with it whatever it says. Load only what you wrote, or have read.
#
# ## Limits of the toy scale
#
# - Float32 throughout, and one request at a time. `transformers serve` with batches of its own, or with speculative decoding, was not tried.
#
# **Exercise.** 3 (`prefix_tuning.py`) is what this notebook stands on: `nox -s check -- lab-1.1.4-prefix-tuning`.

# %% [markdown] lang="zh-TW"
# ## 檔案、目錄，還是文字？
#
# | | prefix 存成檔案 | 基礎模型與 prefix 合成一份 | 直接用文字 |
# |---|---|---|---|
# | 誰能載入 | `peft`、我們的程式碼 | 願意信任目錄裡程式碼的工具 | 任何伺服器 |
# | 同一批次裡許多任務 | 可以，每一列一份記憶 | 一個任務一個模型 | 可以 |
# | 能表達什麼 | 訓練得出來的 | 訓練得出來的 | 文字說得出來的 |
#
# 信任目錄裡的程式碼，就是執行它：它寫什麼，伺服器就做什麼。只載入自己寫的，或自己讀過的。
#
# ## 小規模實驗的限制
#
# - 全程用 float32，一次一個請求。`transformers serve` 自己組的批次、推測解碼都沒有試。
#
# **練習。** 這本筆記本的基礎是練習 3（`prefix_tuning.py`）：`nox -s check -- lab-1.1.4-prefix-tuning`。
