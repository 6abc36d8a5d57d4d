"""What the checks say about likely mistakes. Imports nothing of the lab, so that it can be read before anything runs."""

from __future__ import annotations

from onepiece.course.text import Text

ENCODER = {
    "table_alone": Text("the encoder does nothing: the table goes out as it came in", "編碼器什麼都沒做：表怎麼進去就怎麼出來"),
    "mlp_forgotten": Text("the LSTM's output went out as it is: the MLP comes behind it", "LSTM 的輸出直接出去了：後面還有 MLP"),
    "state_taken": Text(
        "the LSTM's last state went on, the same for every virtual token: `nn.LSTM` gives (output, state)",
        "往下傳的是 LSTM 最後的狀態，所有虛擬 token 都一樣了：`nn.LSTM` 給的是 (output, state)",
    ),
    "lstm_forgotten": Text("the MLP reads the table: the LSTM comes before it", "MLP 直接讀了表：前面還有 LSTM"),
}
EXPORT = {
    "table": Text(
        "this is what goes into the encoder: what the model reads comes out of it",
        "這是進編碼器的東西：模型讀的是從編碼器出來的",
    ),
}
STILL_ATTACHED = Text("the vectors are still part of a graph: detach them", "這些向量還連著計算圖：要 detach")
SHARED_MEMORY = Text(
    "the copy shares memory with what made it: more training would change what was exported",
    "副本與原本共用記憶體：再訓練下去，匯出的東西也會變",
)
COUNT = {
    "exported": Text("this is what is shipped: the encoder is trained too", "這是出貨的數量：編碼器也要訓練"),
    "no_biases": Text("the biases are trained too", "偏差（bias）也要訓練"),
    "one_direction": Text("the LSTM reads in both directions: each has weights of its own", "LSTM 往兩個方向讀：各有各的權重"),
    "one_bias": Text("PyTorch's LSTM has two biases per gate", "PyTorch 的 LSTM 每個閘有兩個偏差"),
    "narrow_layers": Text(
        "the second layer reads both directions of the first: 2 * width numbers", "第二層讀的是第一層的兩個方向：2 * width 個數字"
    ),
    "encoder_alone": Text("the table is trained too", "表也要訓練"),
}
SLOTS = {
    "all_in_front": Text("all stand in front: the template says otherwise", "全放到前面了：樣板不是這樣寫的"),
    "over_padding": Text(
        "those in front stand before the padding: the text begins at the first 1 of the mask",
        "前面的放到補齊之前了：文字從遮罩的第一個 1 開始",
    ),
    "first_anchor": Text("the first anchor was taken: a question may have one too", "拿了第一個錨點：問題裡面也可能有"),
    "anchor_not_passed": Text("those behind the anchor stand before it: one place more", "錨點後面的放到錨點前面了：要再多一格"),
    "at_the_end": Text(
        "those behind the anchor stand at the end of the row: in training that is behind the answer",
        "錨點後面的放到整列最後了：訓練時那是答案的後面",
    ),
}
ORDER = {
    "one_late": Text("each vector comes one token of the text too late", "每個向量都晚了一個文字 token"),
    "reversed": Text("vectors with the same slot changed their order: sort stably", "同一個 slot 的向量順序反了：要用穩定排序"),
    "inverse": Text(
        "this says where each place goes: wanted is which place is read first, second, ...",
        "這是「每一格去哪裡」：要的是「第一個、第二個……讀哪一格」",
    ),
    "text_first": Text(
        "the places are counted as if the text came first: the vectors are 0 to virtual - 1", "編號算成文字在前了：向量是 0 到 virtual - 1"
    ),
}
LABELS = {
    "in_front": Text(
        "the labels are those of a prompt in front: they go where their tokens go", "這是提示放在前面時的標籤：標籤要跟著自己的 token 走"
    ),
    "prompt_counted": Text(
        "the labels of virtual tokens are token 0, so the loss counts there: use IGNORED",
        "虛擬 token 的標籤是 token 0，損失會算進去：要用 IGNORED",
    ),
    "not_moved": Text("the ignored labels stand behind the text", "忽略的標籤全放到文字後面了"),
}
STATE = {
    "vectors_alone": Text(
        "these are the vectors for answers: an encoder cannot be had back from them", "這是回答用的向量：從它們要不回編碼器"
    ),
    "table_alone": Text("the encoder's weights are missing", "少了編碼器的權重"),
    "encoder_alone": Text("the table is missing: it was trained too", "少了表：它也訓練過"),
}
