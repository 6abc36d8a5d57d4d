"""What both floors say: about the catalog, quizzes, paths, disks and servers."""

from __future__ import annotations

from onepiece.course.text import Text

MESSAGES: dict[str, tuple[Text, Text]] = {
    "unknown-lab": (
        Text("There is no lab named {lab}.", "沒有名為 {lab} 的實驗。"),
        Text("Did you mean: {nearest} ? All labs: nox -s catalog", "你要的是不是：{nearest} ？全部實驗：nox -s catalog"),
    ),
    "bad-manifest": (
        Text("{where}: {what}", "{where}：{what}"),
        Text("Mend the file, then check it with: nox -s catalog", "請修正這個檔案，再用 nox -s catalog 檢查。"),
    ),
    "unknown-notebook": (
        Text("{lab} has no notebook {notebook}.", "{lab} 沒有編號 {notebook} 的筆記本。"),
        Text("Choose one of: {choices}", "請從這些選一個：{choices}"),
    ),
    "no-profile": (
        Text("{lab} has no {profile} profile.", "{lab} 沒有名為 {profile} 的 profile。"),
        Text("Choose: --profile {choices}", "請改用：--profile {choices}"),
    ),
    "server-failed": (
        Text("{name} did not become ready: {reason}; its log ends: {tail}", "{name} 沒有就緒：{reason}；日誌的結尾：{tail}"),
        Text("Read the whole log: {log}", "完整日誌：{log}"),
    ),
    "port-taken": (
        Text("Port {port} of 127.0.0.1, which {name} needs, is taken.", "{name} 需要的 127.0.0.1 連接埠 {port} 已被占用。"),
        Text("See who listens: ss -ltnp 'sport = :{port}'", "查看是誰在監聽：ss -ltnp 'sport = :{port}'"),
    ),
    "no-write": (
        Text("Cannot write to {path}: {reason}.", "無法寫入 {path}：{reason}。"),
        Text(
            "Make it writable, or keep everything that is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
            "請開放寫入權限，或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
        ),
    ),
    "disk-full": (
        Text("The disk of {path} is full.", "{path} 所在的磁碟已滿。"),
        Text(
            "Free some space (old results are in runs/), or keep what is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
            "請清出空間（舊的執行結果在 runs/），或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
        ),
    ),
    "model-missing": (
        Text("--model {path}: there is no model directory (no config.json).", "--model {path}：找不到模型目錄（缺少 config.json）。"),
        Text("Give the directory of a model saved with save_pretrained().", "請指定用 save_pretrained() 存下的模型目錄。"),
    ),
    "bad-model": (
        Text("{path}: {reason}.", "{path}：{reason}。"),
        Text(
            "Copy or download the model again, whole (in a clone: git lfs pull), or give the directory of another with --model PATH.",
            "請重新完整複製或下載這個模型（若是 clone 下來的：git lfs pull），或用 --model 路徑 指定另一個模型目錄。",
        ),
    ),
    "bad-quiz": (
        Text("{where}: {what}", "{where}：{what}"),
        Text("Mend the file, then check it with: nox -s quiz", "請修正這個檔案，再用 nox -s quiz 檢查。"),
    ),
    "no-quiz": (
        Text("There is no quiz named {quiz}.", "沒有名為 {quiz} 的測驗。"),
        Text(
            "Did you mean: nox -s quiz -- {nearest} ? All quizzes: nox -s quiz",
            "你要的是不是：nox -s quiz -- {nearest} ？全部測驗：nox -s quiz",
        ),
    ),
    "bad-paths": (
        Text("{where}: {what}", "{where}：{what}"),
        Text(
            "Mend the file, then look at it with: nox -s progress -- --path engineer",
            "請修正這個檔案，再用 nox -s progress -- --path engineer 查看。",
        ),
    ),
    "no-path": (
        Text("There is no learning path named {path}.", "沒有名為 {path} 的學習路徑。"),
        Text("Choose one of these, in docs/paths.toml: {choices}", "請從 docs/paths.toml 裡的這些選一個：{choices}"),
    ),
}
