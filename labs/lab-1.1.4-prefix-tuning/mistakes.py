"""What `checks.py` says to a learner whose numbers look like a known mistake: one text for each mistake."""

from __future__ import annotations

from onepiece.course.text import Text

FORWARD = {
    "no_shift": Text("the shift is missing", "漏了 shift"),
    "no_scale": Text("the scale is missing", "漏了 scale"),
    "shift_scaled": Text(
        "the shift is scaled too: first the scale, then the shift",
        "連 shift 也乘上 scale 了：先乘 scale，再加 shift",
    ),
    "scale_plus_one": Text(
        "1 + scale: the scale is the whole factor, and starts at 1",
        "用了 1 + scale：scale 本身就是整個係數，從 1 開始",
    ),
    "input_scaled": Text("the scale is on the input: it belongs to the outputs", "scale 乘在輸入上了：它是給輸出用的"),
}
MERGE = {
    "shift_scaled": Text(
        "the shift is scaled too: the bias is scale * b + shift",
        "連 shift 也乘上 scale 了：偏差應該是 scale * b + shift",
    ),
    "bias_unscaled": Text(
        "the base's bias is not scaled; without biases nobody would see it",
        "基礎層的偏差沒有乘 scale；基礎層沒有偏差的話，就沒人發現",
    ),
    "bias_forgotten": Text("the base's bias is gone: only the shift is left", "基礎層的偏差不見了：只剩下 shift"),
    "columns_scaled": Text(
        "the columns of W are scaled: an output is a row",
        "乘到 W 的行（column）上了：一個輸出是一列（row）",
    ),
}
NOT_MERGED = Text("the weight is that of the base: the scale has to go into it", "權重還是基礎層的：scale 要併進去")
