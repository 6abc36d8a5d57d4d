"""What the checks say about likely mistakes. Imports nothing of the lab, so that it can be read before anything runs."""

from __future__ import annotations

from onepiece.course.text import Text

COUNT = {
    "every_layer": Text(
        "counted as prefix tuning counts: keys and values in each layer. A prompt stands before the first layer only",
        "算成了 prefix tuning：每一層都有 key 與 value。提示只在第一層前面",
    ),
    "tokens_alone": Text("each virtual token is a vector: multiply by its width", "每個虛擬 token 都是一個向量：還要乘上寬度"),
    "whole_table": Text("the embedding table is counted too, but it is frozen", "把 embedding 表也算進去了，但它是凍結的"),
}
START = {
    "positive": Text("torch.rand gives numbers from 0 to 1: shift them to lie around 0", "torch.rand 給的是 0 到 1 的數：要移到 0 的兩邊"),
    "doubled": Text("the numbers lie between -1 and 1: half of that", "這些數落在 -1 與 1 之間：範圍要減半"),
    "same_word": Text("all vectors are the same word: nothing would ever tell them apart", "所有向量都是同一個字：之後永遠分不開"),
    "first_words": Text(
        "the first rows of the table are special tokens and bytes: draw from all of it",
        "表的前幾列是特殊 token 與位元組：要從整張表抽",
    ),
    "generator_ignored": Text(
        "drawn from PyTorch's global generator: pass `generator`, or the seed of add_prompt means nothing",
        "用 PyTorch 的全域亂數產生器抽的：要傳入 `generator`，否則 add_prompt 的 seed 沒有意義",
    ),
    "padded": Text("where the words end there are zeros: begin with the first word again", "字用完之後是零：要從第一個字再來一次"),
}
SHARED_MEMORY = Text(
    "the vectors share memory with the table: training the prompt would change words",
    "這些向量與 embedding 表共用記憶體：訓練提示會改到字",
)
PLACE = {
    "text_not_moved": Text(
        "the text begins at position 0 again: behind a prompt of k vectors its first token is at k",
        "文字又從位置 0 開始：前面有 k 個向量，第一個 token 的位置就是 k",
    ),
    "over_padding": Text(
        "padding is counted as if it were text: positions count what the mask says is real",
        "把補齊也數進去了：位置只數遮罩說是真的東西",
    ),
    "mask_forgotten": Text("the mask hides the prompt: nobody may look at it", "遮罩把提示遮住了：沒有人看得到它"),
    "behind": Text("the prompt stands behind the text: it must be read before it", "提示放到文字後面了：要先讀提示"),
}
LABELS = {
    "prompt_counted": Text(
        "the labels of the prompt are token 0, so the loss counts there: use IGNORED",
        "提示的標籤是 token 0，損失會算進去：要用 IGNORED",
    ),
    "not_moved": Text("the ignored labels stand behind those of the text: the prompt is in front", "忽略的標籤放到文字後面了：提示在前面"),
    "too_short": Text("there are no labels for the prompt: they must be as long as what is read", "提示沒有標籤：標籤要跟讀進去的一樣長"),
    "moved_twice": Text(
        "the labels are shifted by one place more: Transformers does that itself",
        "標籤多移了一格：那一格 Transformers 自己會移",
    ),
}
LENGTH = {
    "room_alone": Text("only the room in the context was looked at: `share` limits it too", "只看了上下文還剩多少：`share` 也是限制"),
    "share_alone": Text("only the share was looked at: the context limits it too", "只看了比例：上下文的長度也是限制"),
    "share_of_text": Text(
        "the share is of text and answer: it is of all tokens, the prompt among them",
        "比例算成了文字加答案的比例：是全部 token 的比例，包括提示自己",
    ),
    "answer_forgotten": Text("the answer needs room too", "答案也要占位置"),
    "rounded_up": Text("rounded up: one vector more than the budget allows", "進位了：比預算多一個向量"),
}
NAME = {
    "weights": Text(
        "this is the name inside peft's module: in the file it is prompt_embeddings", "這是 peft 模組裡面的名稱：檔案裡叫 prompt_embeddings"
    ),
    "prefixed": Text("methods inside the layers have this prefix: a prompt has none", "放在層裡的方法才有這個開頭：提示沒有"),
}
STILL_TRAINED = Text("the tensor still has a gradient: detach it", "這個張量還連著梯度：要 detach")
TABLES = {
    "in_front": Text("the new rows come first: every old word would have another number", "新的列放到前面了：每個舊字的編號都會變"),
    "tied": Text(
        "the head has the vectors too: long vectors score high, and the model would say the new words",
        "輸出層也放了這些向量：長的向量分數高，模型會說出新的字",
    ),
    "zeros": Text("rows of zeros score 0, which is high where all others are negative", "零的列得 0 分；其他都是負數時，0 分就是高分"),
    "last_row": Text(
        "the new rows repeat the last word, which may be said: repeat `unsaid`", "新的列重複了最後一個字，而那個字是會說的：要重複 `unsaid`"
    ),
}
