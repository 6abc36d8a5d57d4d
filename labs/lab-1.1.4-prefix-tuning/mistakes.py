"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

COUNT = {
    "keys_only": Text("only the keys are counted: each virtual token has values too", "只數了 key：每個虛擬 token 還有 value"),
    "one_layer": Text("counted for one layer: a prefix stands in the cache of every layer", "只數了一層：prefix 放在每一層的快取裡"),
    "no_biases": Text("the linear layers of the encoder have biases too", "編碼器的兩個線性層也有偏差"),
    "encoder_stored": Text(
        "the encoder is counted as stored: only the rows that it makes are", "把編碼器也算成存放的了：存的只有它寫出的數字"
    ),
    "encoder_beside": Text(
        "the rows are counted as trained: with an encoder they are its output, and no parameters",
        "把那些數字也算成訓練的了：有編碼器時，它們是輸出，不是參數",
    ),
}
ENTRIES = {
    "kinds_first": Text(
        "the row is read as the keys of all layers, then the values of all layers: keys and values take turns, layer by layer",
        "讀成了所有層的 key、再來所有層的 value：應該是一層一層，key 與 value 輪流",
    ),
    "values_first": Text("values stand where the keys are: index 0 is for keys", "value 跑到 key 的位置了：索引 0 是 key"),
    "dims_first": Text(
        "head_dim and heads have changed places: in the keys of a layer all numbers of a head stand together",
        "head_dim 與 head 的順序反了：一層的 key 裡，同一個 head 的數字是連在一起的",
    ),
    "not_moved": Text(
        "the shape is right, but nothing was moved: a view alone mixes the virtual tokens. Split first, then permute",
        "形狀對了，但數字沒有搬動：只用 view 會把虛擬 token 混在一起。先拆開，再 permute",
    ),
}
ENCODER = {
    "no_tanh": Text("the two linear layers without the tanh between them", "兩個線性層之間少了 tanh"),
    "table_left_out": Text("the table is left out: every virtual token gets the same row", "沒有用到表：每個虛擬 token 都一樣"),
}
EXPORTED_TABLE = Text("the table is exported, not the rows that the network makes of it", "匯出的是表，不是網路用表寫出來的數字")
SHARED_MEMORY = Text(
    "the exported rows change with what is trained: they need memory of their own (`detach` alone shares it)",
    "匯出的數字會跟著訓練改變：它們要有自己的記憶體（只用 `detach` 還是共用的）",
)
STILL_ATTACHED = Text("the exported rows still hang on the network: detach them", "匯出的數字還連著網路：要 detach")
TEXT_START = {
    "values_first": Text("values stand where the keys are", "value 跑到 key 的位置了"),
    "last_token": Text("only the last token of the text is there", "只有文字的最後一個 token"),
    "reversed": Text("the tokens are in the wrong order", "token 的順序反了"),
}
SHARE = {
    "length": Text(
        "tokens are counted: virtual / (virtual + seq). What counts is the exponential of each score",
        "只數了 token：virtual /（virtual + seq）。要算的是每個分數的指數",
    ),
    "mean": Text("means instead of sums: a longer side gets more of a softmax", "用了平均而不是總和：比較長的一邊，在 softmax 裡分得多"),
    "odds": Text("prefix to text: the share is of both together", "算成了 prefix 比文字：比例的分母是兩者的總和"),
    "of_text": Text("the share of the text: the prefix gets the rest", "這是文字的比例：prefix 拿的是另一份"),
    "largest": Text("only the largest score of each side: all of them take part", "只用了兩邊各自最大的分數：每一個都要算進去"),
}
OVERFLOW = Text(
    "not a number where scores are large: exponentials overflow, differences of logsumexp do not",
    "分數大的時候變成 NaN：指數會溢位，logsumexp 的差不會",
)
LENGTH = {
    "sharing_ignored": Text("a shared prefix is there once, not once for every request", "共用的 prefix 只有一份，不是每個請求一份"),
    "always_shared": Text("not shared, every request has a copy of its own", "不共用的話，每個請求都有自己的一份"),
    "room_for_one": Text("room was left for one text: `requests` of them are there at once", "只留了一段文字的空間：同時有 `requests` 段"),
    "texts_ignored": Text("the texts take room too", "文字本身也要占空間"),
}
