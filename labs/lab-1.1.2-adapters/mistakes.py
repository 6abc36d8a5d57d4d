"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

COUNT = {
    "no_biases": Text(
        "the biases are missing: down has one as long as the bottleneck, up one as long as h",
        "少算偏差：down 的偏差跟瓶頸一樣長，up 的跟 h 一樣長",
    ),
    "one_matrix": Text("only down is counted: what leads back?", "只算了 down：那怎麼回到原本的寬度？"),
    "hidden_biases": Text("the bias of down is as long as the bottleneck, not as h", "down 的偏差跟瓶頸一樣長，不是跟 h 一樣長"),
    "square": Text("this is hidden x hidden: where is the bottleneck?", "這是 hidden x hidden：瓶頸在哪裡？"),
    "last_only": Text("only the last place is counted: add up", "只算了最後一個位置：要累加"),
}
START = {
    "both_zero": Text(
        "both weights are zero: then each has a gradient of zero as well, and only a bias ever moves",
        "兩個權重都是零：這樣兩者的梯度也都是零，永遠只有偏差會動",
    ),
    "both_random": Text("both weights are random: the adapter changes h from the start", "兩個權重都是隨機的：adapter 一開始就改變了 h"),
    "down_zero": Text(
        "down is zero, and up is random. h passes unchanged, but what does the gradient of down go through? With relu, nothing comes back",
        "down 是零、up 是隨機的。h 確實沒變，但 down 的梯度要經過什麼？用 relu 的話，什麼都傳不回來",
    ),
    "shapes_swapped": Text(
        "the shapes are exchanged: a linear layer keeps its weight as (out, in)", "形狀弄反了：線性層的權重存成 (out, in)"
    ),
}
FORWARD = {
    "no_skip": Text(
        "h itself is missing: with an up of zero the sublayer would give nothing", "少了 h 本身：up 是零的時候，這個子層就什麼都不輸出了"
    ),
    "no_non_linearity": Text(
        "f is missing: down and up are then one matrix, a LoRA in series", "少了 f：down 與 up 就成了一個矩陣，等於串聯的 LoRA"
    ),
    "non_linearity_last": Text("f stands after up: it belongs between down and up", "f 放到 up 後面了：它應該在 down 與 up 之間"),
    "non_linearity_first": Text("f stands before down: it belongs between down and up", "f 放到 down 前面了：它應該在 down 與 up 之間"),
    "skip_inside": Text(
        "f is applied to h as well: the way past the bottleneck has nothing on it", "f 也作用到 h 上了：繞過瓶頸的那條路上什麼都沒有"
    ),
}
DROP = {
    "last_layers": Text(
        "the last layers are left out: AdapterDrop leaves out the first ones, near the input",
        "跳過的是最後幾層：AdapterDrop 跳過的是靠近輸入的前幾層",
    ),
    "one_more": Text(
        "one layer too many: layers count from 0, so that layer `number` is the first that runs",
        "多跳了一層：層從 0 數起，所以第一個執行的是第 `number` 層",
    ),
    "never_back": Text(
        "no layer runs, or none is put back: set active = True as well", "沒有任何層在執行，或沒有恢復：active = True 也要設"
    ),
    "inverted": Text("this runs what is to be left out, and leaves out the rest", "該跳過的在執行，其餘的反而跳過了"),
}
BUDGET = {
    "factor_kept": Text(
        "the factor is as before: with another number of places it costs another number of parameters",
        "係數沒有變：位置的數目變了，參數量就跟著變",
    ),
    "one_wider": Text("one too wide: it takes more than the budget", "寬了一格：超出預算了"),
    "half": Text("twice the width is not twice the numbers: there are biases", "寬度加倍，參數量並不剛好加倍：還有偏差"),
    "one_narrower": Text("one narrower than it may be: exactly the budget is within it", "可以再寬一格：剛好等於預算也算在預算內"),
}
NOT_REFUSED = Text(
    "a budget that is too small for a width of 1 is to be refused with a ValueError", "預算連寬度 1 都不夠時，要用 ValueError 拒絕"
)
OTHER_FIELDS = Text("something else than the reduction factor was changed", "除了係數之外，還改動了別的欄位")
FIT = {
    "no_bias": Text("there is no bias: give the inputs a column of ones", "沒有偏差：替輸入加一行 1"),
    "transposed": Text("the weight is (in, out): a linear layer keeps it as (out, in)", "權重是 (in, out)：線性層存的是 (out, in)"),
    "of_the_change": Text(
        "fitted to outputs - inputs: the plain layer has no way past it", "擬合到 outputs - inputs 了：一般的線性層沒有繞過去的路"
    ),
    "bias_is_mean": Text(
        "the bias is the mean of the outputs: it must be fitted together with the weight", "把輸出的平均當成偏差了：偏差要跟權重一起擬合"
    ),
}
ROWS = {
    "first_row": Text("all rows have the first row's adapter", "所有列都用了第一列的 adapter"),
    "next_row": Text("each row has the adapter of another row", "每一列用到了別列的 adapter"),
    "no_skip": Text("h itself is missing", "少了 h 本身"),
    "no_biases": Text(
        "the biases of the rows are missing: (batch, width) needs a dimension for the tokens",
        "少了各列的偏差：(batch, width) 還需要 token 的維度",
    ),
    "no_non_linearity": Text("f is missing", "少了 f"),
}
