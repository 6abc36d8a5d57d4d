"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

# ---------------------------------------------------------------------------------------------- names

NAMES = {
    "substring": Text(
        "a matrix is among them: a *module* called relative_attention_bias has a weight, which is no bias. Look at the last part of a name",
        "裡面混進了矩陣：名叫 relative_attention_bias 的*模組*有一個 weight，那不是偏差。要看名稱的最後一段",
    ),
    "dotted_only": Text(
        "in_proj_bias is missing: the last part ends with bias, and need not be just that",
        "漏了 in_proj_bias：最後一段以 bias 結尾就算，不必剛好等於 bias",
    ),
    "no_norms": Text("the biases of norms are missing: they are biases too", "漏了 norm 的偏差：它們也是偏差"),
    "vectors": Text(
        "everything of one dimension was taken: the weight of a norm is a factor", "把所有一維的都算進來了：norm 的 weight 是倍率"
    ),
    "buffers": Text(
        "a buffer is among them: a causal mask that is called bias cannot be trained. Look at parameters, not at the state",
        "裡面混進了 buffer：名叫 bias 的因果遮罩不能訓練。要看 parameters，不是 state_dict",
    ),
}

# ---------------------------------------------------------------------------------------------- fused

FUSED = {
    "thirds": Text(
        "these are thirds of the whole bias, as GPT-2 has them: here every head has its own three parts",
        "這是把整個偏差分成三段，GPT-2 的排法：這裡是每個 head 各有自己的三段",
    ),
    "every_third": Text(
        "query, key and value take turns number by number: they do by parts of head_dim", "逐個數字輪流了：應該以 head_dim 個為一段輪流"
    ),
    "one_head": Text("only the first head is in the masks", "遮罩裡只有第一個 head"),
    "reversed": Text("the order within a head is query, key, value", "每個 head 裡的順序是 query、key、value"),
}

# ---------------------------------------------------------------------------------------------- freezing

FREEZE = {
    "nothing_frozen": Text("the rest still requires a gradient: freeze the model first", "其他部分仍需要梯度：先凍結整個模型"),
    "all_biases": Text("biases that no mask names are trained too", "遮罩沒有提到的偏差也被訓練了"),
    "whole_tensor": Text(
        "all of a bias gets a gradient, although only a part of it is meant: multiply it by the mask",
        "整個偏差都有梯度，但只該有一部分：要乘上遮罩",
    ),
    "mask_inverted": Text("the part that is not meant gets the gradient", "拿到梯度的是不該有的那一部分"),
}
NOTHING_TRAINED = Text("nothing requires a gradient: the biases were frozen with the rest", "沒有任何參數需要梯度：偏差也一起凍結了")

# ---------------------------------------------------------------------------------------------- file

NO_PREFIX = Text("peft's two wrappers are missing before the name: base_model.model.", "名稱前面少了 peft 的兩層包裝：base_model.model.")
NO_WRAPPER = Text(
    "the layer with the LoRA is wrapped once more: its bias is called base_layer.bias there",
    "裝了 LoRA 的那一層多包了一層：它的偏差在那裡叫 base_layer.bias",
)
ALL_WRAPPED = Text(
    "only the layer that has the LoRA is wrapped: the others keep their names", "只有裝了 LoRA 的那一層被包起來：其他層名稱不變"
)
LORA_NAMES = Text(
    "the file wants the biases here; the two zero matrices are added by save_biases", "這裡只要偏差；兩個零矩陣由 save_biases 加上"
)

# ---------------------------------------------------------------------------------------------- new biases

NEW_NOT_ZERO = Text("the new biases are not zero, so that the model computes something else", "新的偏差不是零，所以算出來的不一樣了")
OLD_LOST = Text("the old weights were not copied: the model is a random one", "沒有複製原本的權重：這是隨機的模型")
ATTENTION_ONLY = Text("only the attention has biases: there are two options", "只有 attention 有偏差：選項有兩個")
MLP_ONLY = Text("only the MLP has biases: there are two options", "只有 MLP 有偏差：選項有兩個")
NOT_REFUSED = Text(
    "a configuration that does not know the options was not refused: it would be ignored without a word",
    "設定不認得這些選項，卻沒有拒絕：它會被一聲不響地忽略",
)
OTHER_ERROR = Text("it was refused, but not with a ValueError", "有拒絕，但不是 ValueError")
CHANGED_THE_GIVEN = Text("the model that was given has changed: copy its configuration", "傳進來的模型被改動了：要複製它的設定")

# ---------------------------------------------------------------------------------------------- rows

NO_SEQ = Text(
    "(batch, out) would broadcast over the wrong dimensions: the one of the tokens must be 1",
    "(batch, out) 會廣播到錯的維度：token 那一維必須是 1",
)
SEQ_FIRST = Text("the 1 stands before the rows: the rows are the first dimension", "1 放到列的前面了：列是第一個維度")
SEQ_LAST = Text("the 1 stands behind the features: it belongs to the tokens, between them", "1 放到特徵的後面了：它屬於 token，在兩者中間")
BASE_ONES = Text(
    "a row of the base gets ones: neutral for a product, but this is a sum", "基礎模型的那一列用了 1：那是乘法的中性值，這裡是加法"
)
SAME_FOR_ALL = Text("all rows have the first row's task", "所有列都用了第一列的任務")
ORDER_LOST = Text("the rows are in another order than `tasks`", "各列的順序跟 `tasks` 不同")

# ---------------------------------------------------------------------------------------------- carrying

CARRY = {
    "transposed": Text("the columns of W were used as rows: it is (out, in)", "W 的行與列弄反了：它是 (out, in)"),
    "as_it_is": Text("the shift itself was added: on its way it goes through W", "直接加上了平移本身：它得先通過 W"),
    "replaced": Text("the layer's own bias is lost: add to it", "這一層自己的偏差不見了：要加上去"),
    "taken_away": Text("the wrong sign: what is not said before must be said here", "正負號反了：前面不說的，要在這裡補上"),
}
NOT_IN_PLACE = Text(
    "the bias is as before: was a new tensor made instead of a change in place?", "偏差沒有變：是不是做出了新的張量，而沒有在原地改？"
)
