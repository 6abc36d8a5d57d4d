"""What `checks.py` says to a learner whose result looks like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- 1, training cost

FROZEN_PAY_TOO = Text(
    "frozen parameters have gradients and means here: only trained ones pay for these",
    "凍結的參數也算了梯度與平均：只有受訓練的參數才有這些",
)
ONE_MEAN = Text(
    "AdamW keeps two numbers per trained parameter: the mean of the gradient and the mean of its square",
    "AdamW 為每個受訓練的參數記住兩個數：梯度的平均，以及梯度平方的平均",
)
FROZEN_FORGOTTEN = Text("frozen weights are held too, in their own type", "凍結的權重也要放在記憶體裡，用它們自己的型別")
TRAINED_FORGOTTEN = Text("the trained weights themselves are missing", "漏了受訓練的權重本身")
TRAINED_IN_FROZEN_TYPE = Text(
    "the trained weights are counted in the type of the frozen ones: take trained_bytes",
    "受訓練的權重用了凍結權重的型別來算：要用 trained_bytes",
)
GRADIENTS_IN_FROZEN_TYPE = Text(
    "gradients and means have the type of the weight that they belong to: trained_bytes",
    "梯度與平均的型別和它們所屬的權重相同：要用 trained_bytes",
)
STATE_ALWAYS_EIGHT = Text(
    "the means are counted as float32 whatever the type: here a trained parameter has trained_bytes, and so has each mean",
    "不論型別，平均都當成 float32 算了：這裡每個平均和受訓練的參數一樣是 trained_bytes",
)

# ---------------------------------------------------------------------------------------------- 2, LoRA's parameters

ONLY_A = Text("only A is counted: B has out x r more", "只算了 A：還有 B 的 out x r 個")
ONLY_B = Text("only B is counted: A has r x in more", "只算了 B：還有 A 的 r x in 個")
WHOLE_MATRIX = Text(
    "out and in are multiplied: that is the matrix itself; A and B have r (out + in) numbers together",
    "把 out 和 in 相乘了：那是矩陣本身的大小；A 與 B 合起來是 r (out + in) 個數",
)
SQUARE = Text(
    "every matrix is taken for a square: out and in may differ (with grouped heads, in the MLP)",
    "把每個矩陣都當成方陣：out 和 in 可能不同（分組的 head、MLP 都是）",
)
ONE_MATRIX = Text("only the last matrix is counted: sum over all of them", "只算了最後一個矩陣：要把全部加起來")

# ---------------------------------------------------------------------------------------------- 3, labels

UNMASKED = Text("the prompt counts too: its labels are IGNORED", "提示也被算進去了：它的標籤應該是 IGNORED")
END_MISSING = Text("the end token is missing: the model would never learn to stop", "漏了結束 token：模型永遠學不會停")
END_IGNORED = Text(
    "the end token is there but does not count: the model would never learn to stop",
    "有結束 token，卻沒有算進損失：模型永遠學不會停",
)
SHIFTED = Text(
    "the labels are shifted: Transformers shifts them itself, so now it would predict two tokens ahead",
    "標籤移位了：Transformers 自己會移位，這樣就變成預測再下一個 token",
)
ANSWER_MASKED = Text("the wrong way round: the answer is ignored and the prompt counts", "反了：答案被忽略，提示卻算進去")
ZERO_IGNORED = Text(
    "0 is an ordinary token: what the loss leaves out is IGNORED, -100",
    "0 是普通的 token：損失會略過的是 IGNORED，也就是 -100",
)
ONE_TOO_MANY = Text(
    "one token too many is masked: the first token of the answer is predicted from the prompt, and counts",
    "多遮了一個：答案的第一個 token 是由提示預測的，要算",
)
CHANGED_GIVEN = Text(
    "your function changed the list that it was given (append, +=): make a new one",
    "你的函式改動了傳進來的串列（append、+=）：請做一個新的",
)

# ---------------------------------------------------------------------------------------------- 4, targets

HEAD_ADAPTED = Text(
    "the output head is among them: leave out model.get_output_embeddings()",
    "輸出層也在裡面：要排除 model.get_output_embeddings()",
)
LAST_NAMES = Text("full names are wanted, as named_modules gives them", "要的是完整的名稱，也就是 named_modules 給的")
KINDS_IGNORED = Text("`kinds` has no effect", "`kinds` 沒有作用")
SUBSTRING = Text(
    "matched inside a name: `v_proj` is part of `kv_proj`, but the last name must be equal",
    "用部分字串比對了：`v_proj` 是 `kv_proj` 的一部分，但最後一段名稱要完全相等",
)
NOT_LINEAR = Text("a layer that is no Linear is among them", "裡面有不是 Linear 的層")
NOTHING_FROZEN = Text(
    "parameters without the name are still trained: switch them off",
    "名稱裡沒有這一段的參數還在訓練：要把它們關掉",
)
NOTHING_OPENED = Text(
    "parameters with the name stayed frozen: switch them on, whatever was true before",
    "名稱裡有這一段的參數還是凍結的：不管之前如何，都要打開",
)
WRONG_WAY_ROUND = Text("the wrong way round: what has the name is frozen, the rest is trained", "反了：有這一段名稱的被凍結，其餘的在訓練")
TENSORS_COUNTED = Text("this counts tensors; numbers are wanted: numel()", "這是張量的個數；要的是數字的個數：numel()")
ALL_COUNTED = Text("this counts all parameters, not those that are trained", "這是全部參數的個數，不是受訓練的")

# ---------------------------------------------------------------------------------------------- 5, the design

RANK_ZERO = Text(
    "not even rank 1 fits on all these layers, and rank 0 is no adapter: take fewer kinds of layers",
    "這些層連秩 1 都放不下，而秩 0 就沒有 adapter 了：少選幾種層",
)
ALPHA_FIXED = Text(
    "alpha is the same for every rank, so the scale alpha / r changes with it: here it stays 2",
    "不論秩多少，alpha 都一樣，縮放 alpha / r 就跟著變了：這裡要維持 2",
)
ALPHA_IS_RANK = Text("alpha equals r, a scale of 1: here it is 2", "alpha 等於 r，縮放是 1：這裡要是 2")
BUDGET_OF_HALF = Text(
    "A alone, or B alone, would fit: both count, r (in + out) for each layer", "只算 A 或只算 B 才放得下：兩者都要算，每一層是 r (in + out)"
)
BUDGET_OF_ONE = Text(
    "one layer alone would fit: the budget is for all adapted layers of all blocks together",
    "只看一層才放得下：預算是所有 block、所有調整過的層加起來的",
)
BUDGET_LEFT = Text(
    "more than a quarter of the budget is left: a higher rank, or more layers, would fit",
    "預算剩下超過四分之一：還放得下更高的秩，或更多的層",
)

# ---------------------------------------------------------------------------------------------- 6, padding

PADDED_RIGHT = Text(
    "padded on the right: generation goes on at the end of a row, so the prompt must end there",
    "補在右邊了：生成從每一列的結尾接下去，所以提示要在那裡結束",
)
REVERSED = Text("the tokens of a prompt are in reverse order", "提示的 token 順序顛倒了")
MASK_INVERTED = Text("the mask is inverted: 1 is a real token", "遮罩反了：1 代表真正的 token")
MASK_FROM_PAD_ID = Text(
    "the mask was made by comparing with pad_id, but a prompt may hold that token itself: in many models it is also the end token",
    "遮罩是拿 token 和 pad_id 比較得出的，但提示本身可能就含有這個 token：很多模型的補齊 token 就是結束 token",
)
MASK_OF_ONES = Text("nothing is masked: the model would read the padding", "什麼都沒遮：模型會讀到補齊的部分")
POSITIONS_OF_COLUMNS = Text(
    "positions count columns: they begin at 0 with the first real token of each row",
    "位置是從欄數算的：應該在每一列從第一個真正的 token 開始，由 0 數起",
)
POSITIONS_FROM_ONE = Text("positions begin at 1: subtract one from the running sum", "位置從 1 開始了：累加之後要減一")
POSITIONS_NEGATIVE = Text(
    "positions of padding are -1, which no table has: clamp them to 0", "補齊處的位置是 -1，任何表都沒有這一格：要夾到 0"
)

# ---------------------------------------------------------------------------------------------- 7, exact match

NOT_STRIPPED = Text("spaces at both ends do not count: strip them", "頭尾的空白不算：要先去掉")
CASE_IGNORED = Text("case was ignored: `Green` is not `green`", "忽略了大小寫：`Green` 不等於 `green`")
CONTAINED = Text(
    "an answer that merely contains the wanted one was counted: a model that says everything would win",
    "只是包含正確答案的回答也算對了：這樣什麼都講的模型就會贏",
)
SHARE_RETURNED = Text("a number of answers is wanted, not a share", "要的是答對的個數，不是比例")
WALD = Text(
    "this is p +- z sqrt(p (1 - p) / n), which claims certainty at 0 and 1; Wilson's has three more terms",
    "這是 p +- z sqrt(p (1 - p) / n)，在 0 和 1 會宣稱百分之百確定；Wilson 區間多了三項",
)
NO_SHIFT = Text("the centre is not p: it is (p + z^2 / (2 n)) / (1 + z^2 / n)", "中心不是 p：是 (p + z^2 / (2 n)) / (1 + z^2 / n)")
NO_DIVISION = Text("the half-width is not divided by 1 + z^2 / n", "半寬沒有除以 1 + z^2 / n")
NO_INNER_TERM = Text("z^2 / (4 n^2) is missing under the root", "根號裡漏了 z^2 / (4 n^2)")
HALF_ONLY = Text("(low, high) is wanted, not (centre, half)", "要的是 (low, high)，不是 (centre, half)")

# ---------------------------------------------------------------------------------------------- 8, merging

NO_SCALE = Text("alpha / r is missing", "漏了 alpha / r")
ALPHA_ONLY = Text("scaled by alpha, not by alpha / r", "只乘了 alpha，沒有除以 r")
SCALE_INVERTED = Text("scaled by r / alpha: upside down", "乘成 r / alpha 了：上下顛倒")
SUBTRACTED = Text("the update is added, not subtracted", "更新量是加上去，不是減掉")
UPDATE_ONLY = Text("this is the update alone: W is missing", "這只是更新量：漏了 W")
ORDER = Text("A B instead of B A: x meets A first, so A stands on the right", "寫成 A B 了，應該是 B A：x 先遇到 A，所以 A 在右邊")
TRANSPOSED = Text("the product is transposed: W is (out, in), and so is B A", "乘積轉置了：W 是 (out, in)，B A 也是")
WEIGHT_CHANGED = Text(
    "W itself was changed (+=): merging must leave the given matrix as it is, or it cannot be undone",
    "W 本身被改掉了（+=）：合併不能動到傳進來的矩陣，否則就無法還原",
)
