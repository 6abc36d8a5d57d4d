"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

GROUPS = {
    "tile": Text(
        "tiled (0 1 0 1): query head h then reads h % kv_heads, and it should read its neighbours' head, h // group (0 0 1 1)",
        "head 是整輪重複的（0 1 0 1）：這樣第 h 個 query head 讀的是 h % kv_heads；應該跟鄰居讀同一個，也就是 h // group（0 0 1 1）",
    ),
    "first_only": Text("every query head reads key/value head 0", "每個 query head 讀的都是第 0 個 key/value head"),
    "reversed": Text("the order of the heads is turned round", "head 的順序反過來了"),
}
ATTENTION = {
    "tile": GROUPS["tile"],
    "first_only": GROUPS["first_only"],
    "no_scale": Text("the scores are not scaled by `scale`", "分數沒有乘上 `scale`"),
    "no_mask": Text("the mask is not used: queries see the future", "沒有用到遮罩：query 看得到未來"),
    "softmax_over_queries": Text(
        "the softmax runs over the queries: a query shares out its weight among the keys, so dim=-1",
        "softmax 做在 query 的方向上：是每個 query 把權重分給各個 key，所以要用 dim=-1",
    ),
    "interleaved": Text(
        "group and query_len are taken out in another order than they were put in: their numbers land in other heads",
        "group 與 query_len 拆開的順序，跟合起來時不一樣：數字跑到別的 head 去了",
    ),
}
SCALE_IGNORED = Text("a `scale` that the caller gives is ignored", "呼叫端給的 `scale` 沒有用到")
EXPANDED = Text(
    "keys or values are copied: the result is right, but a copy moves more bytes than MHA does",
    "key 或 value 被複製了：結果沒錯，但複製所搬移的位元組比 MHA 還多",
)
APPEND = {
    "overwrites": Text("new tokens are written over the first ones: start at `length`", "新的 token 蓋掉了最前面的：要從 `length` 開始寫"),
    "new_only": Text("only the new tokens come back: the query has to see the old ones, too", "只回傳了新的 token：query 也要看得到舊的"),
    "whole_capacity": Text(
        "places that nobody has filled come back, too: zeros take part in the softmax",
        "連還沒填的位置也回傳了：那些零也會參與 softmax",
    ),
    "values_are_keys": Text("the values are the keys once more", "value 又存了一次 key"),
    "length_stays": Text("`length` is not moved on", "`length` 沒有往前移"),
}
POSITIONS = Text(
    "the positions are not those of all tokens that come back: 0 to length - 1", "位置不對：要涵蓋所有回傳的 token，從 0 到 length - 1"
)
COPIED = Text(
    "a copy comes back, not a view: every step would move the whole cache", "回傳的是複製品，不是 view：這樣每一步都要搬動整個快取"
)
KEYS_ONLY = Text("the factor 2 is missing: keys and values", "少了 2 倍：key 和 value 都要算")
ALL_HEADS = Text("counted with query heads: only key/value heads are kept", "用了 query head 的數量：只有 key/value head 會留下來")
ONE_LAYER = Text("counted for one layer", "只算了一層")
NOT_A_DIVISOR = Text(
    "this number does not divide `heads`: the groups would not be of one size", "這個數不能整除 `heads`：各組的大小會不一樣"
)
SMALLEST = Text("the smallest that fits: quality asks for the largest", "這是放得下的最小值：為了品質，要取最大的")
TOO_LARGE = Text("this does not fit into the budget", "這個放不進預算")
PLACES = {
    "no_sinks": Text("the first tokens are overwritten as well: sinks stay", "連最前面的 token 也被蓋掉：sink 要留著"),
    "not_shifted": Text(
        "wrapped by the position itself: the window begins behind the sinks, so count from there",
        "取餘數時直接用了 position：視窗從 sink 之後開始，要從那裡數起",
    ),
    "over_all": Text(
        "goes beyond the last place: there are `window` places behind the sinks", "超出最後一個位置：sink 之後只有 `window` 個"
    ),
}
POOL = {
    "first": Text("the first head of each group: the others are lost", "只取了每組的第一個 head：其他的都丟掉了"),
    "sum": Text(
        "added up, not averaged: keys come out as many times too long as there are heads in a group",
        "只加總，沒有平均：一組有幾個 head，key 就放大幾倍",
    ),
    "strided": Text(
        "the groups are those of `tile` (0 2, 1 3): average heads whose query heads share, neighbours (0 1, 2 3)",
        "分組是 `tile` 的那一種（0 2、1 3）：要平均的是共用同一個 head 的鄰居（0 1、2 3）",
    ),
    "rows": Text(
        "neighbouring rows are averaged: a head is head_dim rows, and number i meets number i of the other head",
        "平均的是相鄰的列：一個 head 有 head_dim 列，要拿第 i 個數跟另一個 head 的第 i 個數平均",
    ),
}
LATENT = {
    "latent_scale": Text(
        "scaled by the width that is multiplied now: the scores are still those of heads of plain_dim + rotary_dim numbers",
        "縮放用了現在相乘的寬度：分數仍然是寬 plain_dim + rotary_dim 的 head 的分數",
    ),
    "plain_scale": Text(
        "scaled by plain_dim alone: the turned part belongs to the query, too", "縮放只算了 plain_dim：轉過的部分也屬於 query"
    ),
    "no_position": Text("the part that has the position is missing from the scores", "分數裡少了帶位置的那一部分"),
    "no_values": Text("every head comes out with head 0's value matrix", "每個 head 都用了第 0 個 head 的 value 矩陣"),
}
MADE_HEADS = Text("keys or values of every head are made: this is the expanded form", "做出了每個 head 的 key 或 value：這是展開的形式")
