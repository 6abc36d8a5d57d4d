"""What `checks.py` says to a learner whose result looks like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- events

FIRST_ONLY = Text("a piece may hold several events: only its first one came out", "一段裡可能有好幾個事件：只出來了第一個")
PREFIX_KEPT = Text("`data:` belongs to the format, not to the data", "`data:` 屬於格式，不是資料")
SPACE_KEPT = Text("the one space after `data:` belongs to the format", "`data:` 後面的那一個空格屬於格式")
LINE_BY_LINE = Text(
    "each line became an event: an event ends at an empty line, and its `data:` lines are joined",
    "每一行都成了一個事件：事件到空行才結束，它的各個 `data:` 行要接在一起",
)
COMMENT_COUNTED = Text("an event without data (a comment) is none", "沒有資料的事件（註解）不算事件")
CRLF_MISSED = Text("lines may end with CR LF: that event was not found", "一行可能以 CR LF 結尾：那個事件沒有被找到")
CUT_LOST = Text(
    "an event that arrives in two pieces is lost: keep what is not complete in self.buffer",
    "分成兩段到達的事件不見了：不完整的部分要留在 self.buffer",
)
DECODED_TOO_EARLY = Text(
    "a character was cut in two by the network: decode complete events, not pieces",
    "有個字元被網路切成兩半：要解碼完整的事件，不是一段一段地解碼",
)

# ---------------------------------------------------------------------------------------------- metrics

LABELS_IN_NAME = Text("the labels are still part of the name", "標籤還黏在名稱上")
NO_LABELS = Text("the labels are missing: series of one name overwrite each other", "漏了標籤：同名的序列會互相覆蓋")
UNSORTED_LABELS = Text("the labels must be sorted by name, or the same series has two keys", "標籤要依名稱排序，否則同一個序列會有兩個鍵")

# ---------------------------------------------------------------------------------------------- percentile

NOT_SORTED = Text("the values were not sorted", "沒有先排序")
ONE_TOO_HIGH = Text("one place too high: the k-th smallest has index k - 1", "高了一個位置：第 k 小的索引是 k - 1")
ONE_TOO_LOW = Text("rounded down: fewer than `percent` percent are covered then", "無條件捨去了：這樣涵蓋的不到 `percent` %")
INTERPOLATED = Text(
    "that is a value between two of them: nearest rank gives one of the values", "這是兩個值之間的數：nearest rank 給的是其中一個值"
)
ROUNDING = Text(
    "percent / 100 is not exact: 0.55 * 100 is a little more than 55, and ceil makes 56 of it; multiply first",
    "percent / 100 不是精確值：0.55 * 100 比 55 大一點點，ceil 之後成了 56；請先乘再除",
)

# ---------------------------------------------------------------------------------------------- open loop

CLOSED = Text(
    "each request waited for the answer to the one before: that is a closed loop with one client",
    "每個請求都等前一個的回答：那是只有一個用戶端的閉迴路",
)
AT_ONCE = Text("all were sent at once: each has its arrival time", "全部同時送出了：每個請求都有自己的到達時間")
GAPS = Text("the arrivals are times from the start, not gaps to be added up", "到達時間是從開始算起的時間，不是要再累加的間隔")
ACTUAL_TIME = Text(
    "the request was told when it *was* sent: a client that was held up must count the delay, so pass began + arrival",
    "傳給請求的是*實際*送出的時間：用戶端自己被耽擱，也得算進去，所以要傳 began + arrival",
)
FINISHING_ORDER = Text("the replies are in the order in which they ended", "回覆依完成的先後排列了，應該依到達的先後")

# ---------------------------------------------------------------------------------------------- prefix cache

HITS = {
    "tokens": Text("tokens are counted, not full blocks", "數的是 token，不是完整的區塊"),
    "last_token": Text(
        "a prompt that is all in the cache: its last token must be computed, so the block with it does not count",
        "整個提示都在快取裡：最後一個 token 一定要計算，所以包含它的區塊不能算",
    ),
    "no_chain": Text(
        "a block was found although the tokens before it differ: its hash covers everything before it",
        "區塊前面的 token 不同，卻被當成命中：它的雜湊值涵蓋前面的一切",
    ),
    "adapters": Text("a block of one adapter was found by another one", "一個 adapter 的區塊被另一個用了"),
    "itself": Text("the prompt found its own blocks: look first, keep afterwards", "提示命中了自己的區塊：要先查、後存"),
    "latest": Text("only the prompt just before is remembered: keep the blocks of all", "只記得前一個提示：所有提示的區塊都要留著"),
    "blocks": Text("these are blocks: the answer is in tokens", "這是區塊數：答案要以 token 為單位"),
}

LAST_FULL = Text(
    "a prompt that ends exactly with a block: its last block is full, and must be kept for longer prompts",
    "剛好結束在區塊邊界的提示：最後一個區塊也是滿的，要留給更長的提示用",
)
ONE_IS_ENOUGH = Text(
    "a block less than there is: one token beyond it is enough to compute the logits",
    "少算了一個區塊：區塊之後只要還有一個 token，就算得出 logits",
)

# ---------------------------------------------------------------------------------------------- success, retries

SUCCESS = {
    "status": Text(
        "status 200 is sent before the first token: it says nothing about the end", "狀態 200 在第一個 token 之前就送出了：它說不出結尾如何"
    ),
    "done": Text("`[DONE]` alone: an answer that was aborted ends in order too", "只看 `[DONE]`：被中止的回答也會正常結束串流"),
    "finish": Text("any finish_reason: `abort` is one as well", "任何 finish_reason 都算：`abort` 也是其中之一"),
    "stop_only": Text("`length` is complete too: the client asked for no more", "`length` 也算完整：用戶端要的就是這麼多"),
    "no_done": Text(
        "the stream broke off after the last token: without `[DONE]` the usage may be missing",
        "串流在最後一個 token 之後斷了：沒有 `[DONE]`，usage 可能不完整",
    ),
}
DELAY = {
    "no_jitter": Text("no randomness: all refused clients come back at the same moment", "沒有隨機性：所有被拒絕的用戶端會同時回來"),
    "no_cap": Text(
        "LONGEST_SECONDS is no limit here: after ten attempts a client would wait for minutes",
        "LONGEST_SECONDS 沒有生效：十次之後，用戶端會等上好幾分鐘",
    ),
    "early": Text("one power of two too many: attempt 0 waits up to BASE_SECONDS", "2 的次方多了一次：第 0 次最多等 BASE_SECONDS"),
    "linear": Text("the wait grows by addition: it must double", "等待時間是用加的：應該每次加倍"),
    "not_from_zero": Text("half of the wait is fixed: full jitter begins at 0", "有一半的等待是固定的：full jitter 從 0 開始"),
}
RETRIES_ALL = Text("a request that is wrong is repeated: it will be refused again", "錯誤的請求也重送：只會再被拒絕一次")
BROKEN_IS_FINAL = Text("a stream that broke off (status 200) may succeed next time", "斷掉的串流（狀態 200）下一次可能成功")
CONNECTION_IS_FINAL = Text("status 0, a broken connection, is in TEMPORARY", "狀態 0 是斷線，在 TEMPORARY 裡")

# ---------------------------------------------------------------------------------------------- capacity

ALONE = Text(
    "that is the time of a request that is alone: company makes each step longer", "這是單一請求時的時間：和別的請求一起，每一步都會變長"
)
NOT_SOLVED = Text("the sequences' own share of the time is missing: divide by 1 - busy", "漏了序列自己占用的時間：要除以 1 - busy")
PER_TOKEN = Text("the tokens of a request are missing: it stays for so many steps", "漏了請求的 token 數：它會停留這麼多步")
ONE_PER_STEP = Text(
    "one token per step is assumed: a request stays for tokens / tokens_per_step steps",
    "假設了一步一個 token：請求會停留 tokens / tokens_per_step 步",
)
STEPS_ABOVE_ONLY = Text(
    "the sequences' own share (busy) still counts a step for every token", "序列自己占用的時間（busy）還是把每個 token 算成一步"
)
STEPS_BELOW_ONLY = Text(
    "only busy counts in steps: the numerator still counts a step for every token", "只有 busy 以步計算：分子還是把每個 token 算成一步"
)
NEGATIVE = Text("a negative number of requests: from busy >= 1 on no server can follow", "請求數成了負的：busy >= 1 之後，伺服器就跟不上了")
EXACTLY_FULL = Text(
    "at busy = 1 the denominator is zero: no request ever catches up, so that is infinite as well",
    "busy = 1 時分母是零：永遠趕不上，所以也是無限大",
)
