"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- scale

SCALE_MISSING = Text(
    "the scores are not scaled: multiply them by 1/sqrt(head_dim), or by `scale` where the caller gives it",
    "分數沒有縮放：要乘上 1/sqrt(head_dim)，呼叫端有給 `scale` 時就乘 `scale`",
)
SCALE_NOT_ROOT = Text(
    "divided by head_dim, not by its square root (or scaled twice, which is the same): a sum of d products has "
    "variance d, so its size grows with sqrt(d)",
    "除的是 head_dim，不是它的平方根（或是縮放了兩次，結果一樣）：d 個乘積之和的變異數是 d，數值大小只隨 sqrt(d) 成長",
)
SCALE_INVERTED = Text(
    "multiplied by sqrt(head_dim): the scale must make scores smaller, not larger",
    "乘成 sqrt(head_dim) 了：縮放是要讓分數變小，不是變大",
)
SCALE_TWICE = Text(
    "the scale is applied twice: to the queries and to the scores?",
    "縮放做了兩次：query 和分數是不是各乘了一次？",
)

# ---------------------------------------------------------------------------------------------- mask

TOP_LEFT = Text(
    "the causal offset is missing: the first query is aligned with the first key, and it should be last with last",
    "缺少因果位移：現在是第一個 query 對齊第一個 key，應該是最後一個對齊最後一個",
)
SEES_NEXT = Text(
    "off by one: every query also sees the key after its own, so a language model could look up its answer",
    "差了一格：每個 query 連自己的下一個 key 都看得到，語言模型等於可以偷看答案",
)
OFFSET_SIGN = Text("the sign is the wrong way round", "正負號相反")
NO_MASK = Text("nothing is masked: queries see the future", "完全沒有遮罩：query 看得到未來")
MASK_INVERTED = Text(
    "the mask is inverted: causal_mask is True where a key is visible",
    "遮罩反了：causal_mask 為 True 的位置才是看得到的",
)
MASK_AFTER_SOFTMAX = Text(
    "masked after the softmax: the weights that are left no longer sum to one",
    "softmax 之後才遮罩：剩下的權重加起來不再是 1",
)
MINUS_INFINITY = Text(
    "a row of nothing but -inf becomes nan in the softmax, and reaches the gradient of the values: fill with "
    "torch.finfo(scores.dtype).min",
    "整列都是 -inf，softmax 就會變成 nan，還會傳進 values 的梯度：請改填 torch.finfo(scores.dtype).min",
)
SOFTMAX_OVER_QUERIES = Text(
    "the softmax runs over the queries: each query shares out its weight among the keys, so dim=-1",
    "softmax 做在 query 的方向上：是每個 query 把權重分給各個 key，所以要用 dim=-1",
)

# ---------------------------------------------------------------------------------------------- online softmax

NO_RESCALE = Text(
    "the rescale is missing: the old sums are relative to the old maximum; multiply them by exp(old - new) first",
    "缺少重新縮放：舊的總和是相對於舊的最大值，要先乘上 exp(舊最大值 - 新最大值)",
)
OUTPUT_NOT_RESCALED = Text(
    "the total is brought to the new maximum, the output is not: both are sums of the same weights, and take the same factor",
    "total 換算到新的最大值了，輸出卻沒有：兩者加總的是同一組權重，要乘同一個係數",
)
RESCALE_INVERTED = Text(
    "the correction is upside down: it is exp(old maximum - new maximum), which is never above 1",
    "修正係數上下顛倒：應該是 exp(舊最大值 - 新最大值)，絕不會大於 1",
)
SUM_BEFORE_MAXIMUM = Text(
    "sum before maximum: the weights of this block are taken relative to the old maximum; update the maximum first",
    "先加總才更新最大值：這個區塊的權重是相對於舊的最大值算的，請先更新最大值",
)
SUM_AND_OLD_MAXIMUM = Text(
    "sum before maximum: both sums stay relative to the old maximum, but the new maximum is handed on",
    "先加總才更新最大值：兩個總和都還是相對於舊的最大值，交出去的卻是新的最大值",
)
BLOCK_RESCALED = Text(
    "the correction also multiplies what this block adds, and that is relative to the new maximum already",
    "修正係數連這個區塊新加的部分也乘到了，那部分本來就是相對於新的最大值",
)
PAST_LOST = Text("what came before this block is lost", "這個區塊之前累積的內容不見了")
BLOCK_IGNORED = Text("this block is not taken into account", "沒有把這個區塊算進去")
NO_MAXIMUM = Text(
    "exp overflows: subtract the maximum from the scores before exp",
    "exp 溢位了：取 exp 之前要先把分數減去最大值",
)
NOT_DIVIDED = Text("the output is not divided by the total", "輸出沒有除以 total")
NO_LOGARITHM = Text("add the logarithm of the total, not the total itself", "要加的是 total 的對數，不是 total 本身")
MAXIMUM_NOT_ADDED = Text(
    "log(total) is relative to the maximum: add the maximum",
    "log(total) 是相對於最大值的：還要把最大值加回來",
)
COLUMN_LEFT = Text(
    "the logsumexp is (..., rows): drop its last axis of one",
    "logsumexp 的形狀是 (..., rows)：最後那個長度為 1 的軸要去掉",
)
LAST_BLOCK_ONLY = Text(
    "only the last key block counts: hand the new state to the next turn of the loop",
    "只有最後一個 key 區塊有作用：要把新的狀態交給迴圈的下一輪",
)

# ---------------------------------------------------------------------------------------------- tiles

ALL_TILES = Text(
    "every tile is visited: the ones entirely above the diagonal must be skipped",
    "每個 tile 都去算了：完全在對角線上方的要跳過",
)
FIRST_ROW_DECIDES = Text(
    "this asks the first query of the block; its last query, stop - 1, sees most",
    "這是拿區塊的第一個 query 來判斷；看得最遠的是最後一個，也就是 stop - 1",
)
STOP_IS_A_ROW = Text(
    "off by one: query_block.stop is the row after the block, the last row is stop - 1",
    "差了一格：query_block.stop 是區塊之後的那一列，最後一列是 stop - 1",
)
WHOLE_BLOCK_ONLY = Text(
    "this skips tiles that are partly visible: one visible pair is enough",
    "這樣會跳過只看得到一部分的 tile：只要有一對看得到就要算",
)
ALWAYS_MASK = Text(
    "every tile is masked: below the diagonal nothing is hidden",
    "每個 tile 都加了遮罩：對角線下方其實沒有東西要遮",
)
STOP_IS_A_COLUMN = Text(
    "off by one: the last key of the block is stop - 1",
    "差了一格：區塊的最後一個 key 是 stop - 1",
)
LAST_ROW_DECIDES = Text(
    "this asks the last query of the block; its first query sees least, so it decides whether anything is hidden",
    "這是拿區塊的最後一個 query 來判斷；看得最少的是第一個，有沒有東西要遮由它決定",
)

# ---------------------------------------------------------------------------------------------- backward

NO_ROW_DOTS = Text(
    "the D term is missing: dS = P * (dP - D); without it each weight would be free, but the weights of a row sum to 1",
    "漏了 D 項：dS = P * (dP - D)；少了它就等於每個權重都能自由變動，但同一列的權重和固定是 1",
)
GRADIENT_NOT_SCALED = Text(
    "the scale is missing on the way back: S = scale * Q K^T, so dQ and dK carry it both",
    "反向時漏了縮放：S = scale * Q K^T，所以 dQ 和 dK 都要乘上 scale",
)
GRADIENT_SCALED_TWICE = Text(
    "the scale is applied twice on the way back: once in dS is enough for dQ and dK",
    "反向時縮放做了兩次：在 dS 乘一次，dQ 和 dK 就都有了",
)
DOTS_SIGN = Text("D is subtracted from dP, not added", "D 是從 dP 減掉，不是加上去")
DOTS_WITHOUT_PRODUCT = Text("D is the sum of dO * O, not of dO alone", "D 是 dO * O 的總和，不是只有 dO")
DOTS_OVER_ROWS = Text(
    "summed over the rows: D is one number per row, so the sum runs over head_dim",
    "加總的方向是列：D 是每列一個數，要沿 head_dim 加總",
)
WEIGHTS_NOT_NORMALISED = Text(
    "the weights are exp(S - L): without L they do not sum to one",
    "權重是 exp(S - L)：少了 L，加起來就不是 1",
)
GRAD_WEIGHTS_FOR_VALUES = Text(
    "dV = P^T dO: it takes the weights, not the gradient of the scores",
    "dV = P^T dO：這裡用的是權重，不是分數的梯度",
)

DOTS_COLUMN = Text(
    "D is (..., rows): the axis of head_dim numbers goes away altogether",
    "D 的形狀是 (..., rows)：head_dim 那個軸要整個消失",
)

# ---------------------------------------------------------------------------------------------- memory traffic

KEYS_ONLY = Text("K and V are both read: twice the keys", "K 和 V 都要讀：是 key 的兩倍")
KEYS_ONCE = Text(
    "K and V are read once: they are read again for every query block",
    "K 和 V 只讀了一次：每個 query 區塊都要重新讀一遍",
)
KEYS_PER_QUERY_HEAD = Text(
    "K and V are read once per key/value head, not once per query head: a tile holds the whole group",
    "K 和 V 是每個 key/value head 讀一次，不是每個 query head：一個 tile 裡放了整個群組",
)
RAGGED_BLOCK_FULL = Text(
    "the last block is counted as a full one: it ends with the sequence",
    "最後一個區塊被當成完整的來算：它只到序列結尾為止",
)
CAUSAL_NOT_SKIPPED = Text(
    "causal tiles above the diagonal are counted, but never loaded",
    "因果遮罩下，對角線上方的 tile 被算進去了，但其實從來沒有載入",
)
CAUSAL_NOT_WHOLE = Text(
    "counted up to the last visible key: a key block is loaded whole",
    "只算到最後一個看得到的 key：key 區塊是整塊載入的",
)
LAST_ROW_NOT_ASKED = Text(
    "the last row of a query block sees most, and it is not asked: it is number min(start + block_queries, query_len) - 1",
    "沒有問到 query 區塊的最後一列，它看得最遠：編號是 min(start + block_queries, query_len) - 1",
)
LOGSUMEXP_FORGOTTEN = Text(
    "the logsumexp is stored as well, one number per row",
    "logsumexp 也要存回去，每列一個數",
)

# ---------------------------------------------------------------------------------------------- Triton

BASE_MIXED = Text(
    "exp of scores that are in base 2: with scale_log2 the exponential is tl.exp2",
    "分數是以 2 為底的，卻用了 exp：搭配 scale_log2 的要用 tl.exp2",
)
PADDING_COUNTED = Text(
    "keys beyond the end take part: they are zero, not absent; mask them",
    "超出結尾的 key 也算進去了：它們的值是零，不是不存在，要遮起來",
)
MAXIMUM_OF_TILE = Text(
    "one maximum for several rows: a row whose scores are far below it becomes 0/0; each row has its own, tl.max(..., axis=1)",
    "好幾列共用一個最大值：分數比它小很多的列會變成 0/0；每一列要有自己的最大值，用 tl.max(..., axis=1)",
)
