"""What is said inside a lab: models, data, artifacts."""

from __future__ import annotations

from onepiece.course.text import Text

MESSAGES: dict[str, tuple[Text, Text]] = {
    "no-server": (
        Text("The environment of the real server, {name}, is not installed here.", "這裡還沒有安裝真實伺服器的環境 {name}。"),
        Text(
            "On Linux x86-64: nox -s serving -- --install   elsewhere: docker compose up serving",
            "在 Linux x86-64 上：nox -s serving -- --install   其他平台：docker compose up serving",
        ),
    ),
    "missing-artifact": (
        Text(
            "{notebook} needs {artifact}, which {maker} makes, and no earlier run of this lab has it.",
            "{notebook} 需要 {artifact}，它由 {maker} 產生，而先前的執行結果裡沒有。",
        ),
        Text("Run that one first: nox -s {lab} -- --notebook {number}", "請先執行：nox -s {lab} -- --notebook {number}"),
    ),
    "model-not-pinned": (
        Text(
            "{model} is no directory here, and as a model of the hub it is not pinned (revision: {revision}).",
            "這裡沒有 {model} 這個目錄；若它是 hub 上的模型，則尚未固定版本（revision：{revision}）。",
        ),
        Text(
            "Give revision= the full commit hash (40 hex digits) that the model's page shows under Files > History.",
            "請用 revision= 指定完整的 commit 雜湊值（40 個十六進位數字），見模型頁面的 Files > History。",
        ),
    ),
    "model-not-fetched": (
        Text(
            "{model} is not in the cache of this machine, and cannot be downloaded: {reason}.",
            "這台機器的快取裡沒有 {model}，也無法下載：{reason}。",
        ),
        Text(
            "With a network: {hf} download {model} --revision {revision} ; without one, copy the "
            "model here and run the lab with --model PATH.",
            "有網路時請執行：{hf} download {model} --revision {revision} ；沒有網路時，"
            "請把模型複製到這台機器，再用 --model 路徑 執行實驗。",
        ),
    ),
    "no-quantized": (
        Text("{quantized} weights do not work on {device} here: {reason}.", "這裡無法在 {device} 上使用 {quantized} 權重：{reason}。"),
        Text("Load the model without quantized=, or on an NVIDIA GPU.", "載入模型時請不要加 quantized=，或改用 NVIDIA GPU。"),
    ),
    "bad-record": (
        Text("{path}, {where}: {reason}.", "{path}，{where}：{reason}。"),
        Text(
            "Mend or remove that record; the formats are described in shared/onepiece/records.py.",
            "請修正或移除這筆資料；格式說明在 shared/onepiece/records.py。",
        ),
    ),
    "unknown-checkpoint": (
        Text("There is no checkpoint named {name}.", "沒有名為 {name} 的 checkpoint。"),
        Text("Choose one of: {choices}", "請從這些選一個：{choices}"),
    ),
    "bad-checkpoint": (
        Text("The checkpoint {name} is not what was shipped: {reason}.", "checkpoint {name} 與隨課程附上的不同：{reason}。"),
        Text(
            "Restore it with: git checkout -- shared/checkpoints   (or train it again: nox -s pretrain -- {name} --ship)",
            "請還原：git checkout -- shared/checkpoints （或重新訓練：nox -s pretrain -- {name} --ship）",
        ),
    ),
    "other-recipe": (
        Text("The interrupted run of {name} was made with another recipe.", "{name} 中斷的訓練使用了不同的設定。"),
        Text("Start again without --resume: nox -s pretrain -- {name}", "請不要加 --resume，重新開始：nox -s pretrain -- {name}"),
    ),
}
