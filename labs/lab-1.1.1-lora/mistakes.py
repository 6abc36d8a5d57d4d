"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- scale

SCALING = {
    "no_scaling": Text(
        "the scale is 1: alpha does not come in at all",
        "縮放係數成了 1：alpha 完全沒有用到",
    ),
    "alpha_alone": Text(
        "alpha is not divided by the rank: the update would grow with every rank that is added",
        "alpha 沒有除以 rank：rank 每多一個，更新量就跟著變大",
    ),
    "alpha_forgotten": Text(
        "divided by the rank, but alpha is missing from the numerator",
        "除以 rank 了，但分子漏了 alpha",
    ),
    "inverted": Text("upside down: alpha is above, the rank below", "分子分母顛倒：alpha 在上，rank 在下"),
    "other_rule": Text(
        "the two rules are exchanged: the plain one divides by rank, the rank-stabilised one by sqrt(rank)",
        "兩種規則弄反了：一般的除以 rank，rank-stabilized 的除以 sqrt(rank)",
    ),
}
RANK_STABILIZED_IGNORED = Text(
    "rank_stabilized changes nothing: with it the divisor is sqrt(rank)",
    "rank_stabilized 沒有作用：設為 True 時，除數是 sqrt(rank)",
)
RANK_STABILIZED_ALWAYS = Text(
    "divided by sqrt(rank) in every case: without rank_stabilized the divisor is rank",
    "一律除以 sqrt(rank) 了：沒有 rank_stabilized 時，除數是 rank",
)

# ---------------------------------------------------------------------------------------------- count

A_ONLY = Text("only A is counted: B has rank * out numbers more", "只算了 A：B 還有 rank * out 個數")
B_ONLY = Text("only B is counted: A has rank * in numbers more", "只算了 B：A 還有 rank * in 個數")
DENSE = Text(
    "in * out is the size of W, which is frozen: A and B have rank * in and out * rank",
    "in * out 是 W 的大小，而 W 是凍結的：A 和 B 分別是 rank * in 和 out * rank",
)
RANK_FORGOTTEN = Text("in + out is the count for rank 1: multiply by the rank", "in + out 是 rank 為 1 時的數量：還要乘上 rank")
ONE_LAYER = Text("this is one layer: sum over all targeted layers", "這只是一層的數量：要把所有目標層加起來")

# ---------------------------------------------------------------------------------------------- start

B_RANDOM = Text(
    "B is not zero: B A must be zero at the start, or training does not begin with the base model",
    "B 不是零：一開始 B A 必須是零，否則訓練就不是從基礎模型出發",
)
A_ZERO = Text(
    "A is zero: if B is zero too, neither factor ever gets a gradient",
    "A 是零：如果 B 也是零，兩個因子永遠都拿不到梯度",
)
SHAPE_SWAPPED = Text(
    "the shapes are transposed: A is (rank, in) and B is (out, rank)",
    "形狀轉置了：A 是 (rank, in)，B 是 (out, rank)",
)
A_GAUSSIAN = Text(
    "A is Gaussian: the paper says so, but here it is uniform, as peft and the authors' code have it",
    "A 用了常態分布：論文是這樣寫的，但這裡跟 peft 和作者的程式碼一樣，用均勻分布",
)
KAIMING_DEFAULT = Text(
    "the bound of A is too wide: kaiming_uniform_ needs a=math.sqrt(5)",
    "A 的範圍太寬：kaiming_uniform_ 要給 a=math.sqrt(5)",
)
GENERATOR_IGNORED = Text(
    "A is drawn from PyTorch's global generator: pass `generator`, or the seed of add_lora means nothing",
    "A 是用 PyTorch 的全域亂數產生器抽的：要傳入 `generator`，否則 add_lora 的 seed 沒有意義",
)

# ---------------------------------------------------------------------------------------------- forward

NOT_SCALED = Text("the update is not scaled: multiply it by self.scaling", "更新量沒有縮放：要乘上 self.scaling")
SCALED_TWICE = Text(
    "the update is scaled twice: once, at the bottleneck or at the end, is enough",
    "更新量縮放了兩次：在瓶頸或最後乘一次就夠了",
)
BASE_ADDED = Text(
    "`update` already holds the outputs of the base: they are added once more after your lines",
    "`update` 已經包含基礎層的輸出：你寫的這幾行之後還會再加一次",
)
BASE_ONLY = Text("the update is zero: the low-rank path has no effect", "更新量是零：低秩這條路沒有作用")

# ---------------------------------------------------------------------------------------------- add_lora

ALL_FROZEN = Text(
    "nothing is trainable: frozen after the layers were put in, which freezes A and B too",
    "沒有可訓練的參數：是先放進新的層才凍結，所以連 A 和 B 也凍結了",
)
TARGETED_ONLY_FROZEN = Text(
    "only the targeted layers are frozen, which LoraLinear does itself: call model.requires_grad_(False) first",
    "只有目標層凍結了，那是 LoraLinear 自己做的：要先呼叫 model.requires_grad_(False)",
)
NOTHING_REPLACED = Text(
    "no layer was replaced: replace_layer(model, name, layer) puts it in place",
    "沒有任何一層被換掉：要用 replace_layer(model, name, layer) 放進去",
)
SAME_START = Text(
    "every layer got the same random numbers: one generator goes through all layers",
    "每一層抽到一樣的亂數：應該用同一個產生器走過所有的層",
)

ALPHA_AS_SCALE = Text("alpha is passed as the scale: pass settings.scaling", "把 alpha 當成縮放係數傳進去了：要傳 settings.scaling")

# ---------------------------------------------------------------------------------------------- merge

DELTA_TRANSPOSED = Text("transposed: W is (out, in), so the product is B A", "轉置了：W 是 (out, in)，所以乘積是 B A")
DELTA_NOT_SCALED = Text(
    "the scale is missing: the matrix must do what the layer does",
    "漏了縮放：這個矩陣要跟這一層做的事一樣",
)
DELTA_SCALED_TWICE = Text("the scale is applied twice", "縮放做了兩次")
MERGE_SUBTRACTED = Text("the update is subtracted: merging adds it", "更新量被減掉了：合併是加上去")
MERGE_REPLACED = Text("W is replaced by the update: add it to W", "W 被更新量取代了：要加到 W 上")
MERGE_NOTHING = Text("the weight has not changed", "權重沒有改變")
MERGED_TWICE = Text(
    "a second merge adds the update once more: look at self.merged first",
    "第二次 merge 又加了一次：先看 self.merged",
)
COUNTED_TWICE = Text(
    "after the merge the layer still adds its update: set self.merged = True",
    "合併之後這一層還在加更新量：要設 self.merged = True",
)
UNMERGE_NOTHING = Text("unmerge leaves the update in the weight", "unmerge 之後，更新量還留在權重裡")
UNMERGED_UNASKED = Text(
    "unmerge took away an update that was not in there: look at self.merged first",
    "更新量本來就不在裡面，unmerge 卻減掉了：先看 self.merged",
)

# ---------------------------------------------------------------------------------------------- files

NO_PREFIX = Text(
    "the prefix is missing: peft names start with base_model.model.",
    "少了開頭：peft 的名稱開頭是 base_model.model.",
)
HALF_PREFIX = Text(
    "the prefix is base_model.model.: one for PeftModel, one for LoraModel (and the model's own names follow)",
    "開頭是 base_model.model.：一個來自 PeftModel，一個來自 LoraModel（後面才接模型自己的名稱）",
)
NO_WEIGHT = Text("the suffix .weight is missing: A and B are linear layers in peft", "結尾少了 .weight：在 peft 裡 A 和 B 是線性層")
LOWER_CASE = Text("lora_a is our name: in peft it is lora_A, and lora_B", "lora_a 是我們的名稱：peft 裡是 lora_A 和 lora_B")
ADAPTER_NAME = Text(
    "the adapter's name (`default`) is in the key: peft leaves it out of the file, because the loader chooses the name",
    "名稱裡有 adapter 的名字（`default`）：peft 存檔時會去掉，因為載入的人才決定名字",
)
FACTORS_EXCHANGED = Text("A and B are exchanged", "A 和 B 對調了")
FILE_TRANSPOSED = Text("the tensors are transposed: peft has the shapes of this lab", "張量轉置了：peft 的形狀跟本實驗一樣")

# ---------------------------------------------------------------------------------------------- NF4

LEVELS = {
    "even": Text("16 equal steps are integers, not NormalFloat: take quantiles", "16 個等距的值是整數格式，不是 NormalFloat：要取分位數"),
    "no_zero": Text(
        "symmetric quantiles have no exact zero: 7 levels below, a zero, 8 above",
        "對稱的分位數裡沒有真正的零：要 7 個負的、一個零、8 個正的",
    ),
    "not_normalised": Text("the levels do not reach 1: divide by the largest", "最大值不是 1：要除以最大的那一個"),
    "halves_swapped": Text("8 levels below zero and 7 above: it is the other way round", "零以下有 8 個、以上有 7 個：反過來才對"),
}
SIGNED_MAXIMUM = Text(
    "the scale is the largest value, not the largest absolute value: a large negative weight would leave -1",
    "縮放係數取了最大值，不是最大的絕對值：很大的負權重會超出 -1",
)
ONE_SCALE = Text("one scale for all blocks: each block has its own", "所有區塊共用一個縮放係數：每個區塊要有自己的")
FLOORED = Text(
    "each weight goes to the level below it, not to the nearest: the borders lie half way between the levels",
    "每個權重都取了下面那個位準，不是最近的位準：界線在相鄰兩個位準的正中間",
)
NOT_DIVIDED = Text("the weights are not divided by their scale before the comparison", "比較之前，權重沒有除以縮放係數")
SMALL_NOT_DIVIDED = Text(
    "a block whose scale is below 1 is not divided by it: only a scale of 0 is replaced by 1",
    "縮放係數小於 1 的區塊沒有除以它：只有縮放係數為 0 時才換成 1",
)
ZERO_BLOCK = Text("a block of zeros is divided by its scale, which is 0", "全是零的區塊被除以縮放係數，也就是除以 0")
