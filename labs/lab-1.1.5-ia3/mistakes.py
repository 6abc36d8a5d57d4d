"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- count

COUNT = {
    "outputs_everywhere": Text(
        "the outputs of down_proj are counted: its factors are on its inputs, the inside of the MLP",
        "算成 down_proj 的輸出了：它的倍率乘在輸入上，也就是 MLP 的內部",
    ),
    "inputs_everywhere": Text(
        "the inputs of k and v are counted: their factors are on the outputs", "算成 k 與 v 的輸入了：它們的倍率乘在輸出上"
    ),
    "swapped": Text("in and out are exchanged", "in 與 out 弄反了"),
    "both_sides": Text(
        "in + out is LoRA of rank 1: a layer has one vector here, on one side", "in + out 是秩 1 的 LoRA：這裡每層只有一個向量、在一邊"
    ),
    "one_layer": Text("only one layer of each name is counted: sum over all blocks", "每種名稱只算了一層：要把所有 block 加起來"),
}

# ---------------------------------------------------------------------------------------------- forward

FORWARD = {
    "other_side": Text("the factors are on the other side of the layer", "倍率乘到層的另一邊了"),
    "one_plus": Text("1 + l: the factors start at 1 and are the whole factor", "用了 1 + l：倍率從 1 開始，本身就是整個係數"),
    "bias_outside": Text(
        "the bias is added after the factors: it is part of the outputs, and is rescaled with them",
        "偏差在乘完倍率之後才加：它是輸出的一部分，要一起縮放",
    ),
    "added": Text("the factors are added: they multiply", "把倍率加上去了：它們是用乘的"),
}
ROWS_IGNORED = Text(
    "every row has the same factors: use `factors`, which may have some for each row, not self.scale",
    "每一列的倍率都一樣：要用 `factors`（每一列可能不同），不是 self.scale",
)

# ---------------------------------------------------------------------------------------------- fold

FOLD = {
    "bias_forgotten": Text(
        "the bias is not rescaled: it is part of the outputs. Without biases nobody would see it",
        "偏差沒有縮放：它是輸出的一部分。模型沒有偏差的話，誰也看不出來",
    ),
    "bias_dropped": Text("the bias is gone", "偏差不見了"),
    "bias_always": Text(
        "the bias is rescaled, although the factors are on the inputs: W (l * x) + b leaves b alone",
        "倍率在輸入上，卻也縮放了偏差：W (l * x) + b 並沒有動到 b",
    ),
    "other_dimension": Text(
        "rows and columns are exchanged: W is (out, in), an output is a row and an input a column",
        "列與行弄反了：W 是 (out, in)，一個輸出是一列（row），一個輸入是一行（column）",
    ),
    "one_plus": Text("1 + l: the factors are the whole factor", "用了 1 + l：倍率本身就是整個係數"),
}
NOT_FOLDED = Text("the weight is still that of the base", "權重還是基礎模型的")
NOT_IN_PLACE = Text(
    "the weight is as before: was a new tensor made instead of a change in place?",
    "權重沒有變：是不是做出了新的張量，而沒有在原地改？",
)

# ---------------------------------------------------------------------------------------------- file

NO_PREFIX = Text("peft's two wrappers are missing before the name: base_model.model.", "名稱前面少了 peft 的兩層包裝：base_model.model.")
HALF_PREFIX = Text("one of peft's two wrappers is missing: base_model.model.", "peft 的兩層包裝少了一層：base_model.model.")
OWN_NAME = Text("`scale` is our name of the vector: peft's is ia3_l", "`scale` 是我們的名稱：peft 的是 ia3_l")
WEIGHT = Text("a vector is no layer in peft, so that no `.weight` follows ia3_l", "在 peft 裡，向量不是一層，所以 ia3_l 後面沒有 `.weight`")
FLAT = Text(
    "a vector is saved flat: peft keeps a matrix that broadcasts over (out, in)", "存成一維的了：peft 存的是能對 (out, in) 廣播的矩陣"
)
SHAPES_SWAPPED = Text(
    "the shapes are exchanged: outputs are rows, (out, 1); inputs are columns, (1, in)", "形狀弄反了：輸出是列，(out, 1)；輸入是行，(1, in)"
)
ALL_COLUMNS = Text("the factors on the inputs belong to columns: (1, in)", "乘在輸入上的倍率對應到行：(1, in)")
ALL_ROWS = Text("the factors on the outputs belong to rows: (out, 1)", "乘在輸出上的倍率對應到列：(out, 1)")

# ---------------------------------------------------------------------------------------------- places

SIDES_SWAPPED = Text(
    "the sides are exchanged: keys and values are outputs, the inside of the MLP is an input",
    "兩邊弄反了：key 與 value 是輸出，MLP 的內部是輸入",
)
ALL_OUTPUTS = Text(
    "down_proj stands among the outputs: what comes out of it is the residual stream", "down_proj 放到輸出那邊了：它的輸出是殘差流"
)
NOT_REFUSED = Text("settings were made up from names that do not say enough", "名稱還不足以判斷，卻自己湊出了設定")
NAMES_NOT_SAID = Text("refused, but the message does not list the names that there were", "有拒絕，但訊息裡沒有列出原本有哪些名稱")

# ---------------------------------------------------------------------------------------------- rows

NO_SEQ = Text(
    "(batch, features) would broadcast over the wrong dimensions: the one of the tokens must be 1",
    "(batch, features) 會廣播到錯的維度：token 那一維必須是 1",
)
SEQ_FIRST = Text("the 1 stands before the rows: the rows are the first dimension", "1 放到列的前面了：列是第一個維度")
SEQ_LAST = Text("the 1 stands behind the features: it belongs to the tokens, between them", "1 放到特徵的後面了：它屬於 token，在兩者中間")
BASE_MUTED = Text(
    "a row of the base gets zeros, which switch every feature off: times 1 changes nothing",
    "基礎模型的那一列用了 0，等於關掉所有特徵：乘以 1 才不會改變",
)
SAME_FOR_ALL = Text("all rows have the first row's adapter", "所有列都用了第一列的 adapter")
ORDER_LOST = Text("the rows are in another order than `tasks`", "各列的順序跟 `tasks` 不同")
