"""Every error a user can meet: one line that says what is wrong, one that says what to type next.

The table is the single source of these sentences: the program prints them and the troubleshooting
page is made from them. Errors that only an author of a lab meets carry their detail in English.
"""

from __future__ import annotations

import errno

from onepiece.places import HOME
from onepiece.text import Text

_ERRORS: dict[str, tuple[Text, Text]] = {}


class UserError(Exception):
    """A mistake or a missing part that the user can mend; shown without a traceback."""

    def __init__(self, code: str, **values: object) -> None:
        cause, remedy = _ERRORS[code]
        self.code = code
        self.cause = cause.format(**values)
        self.remedy = remedy.format(**values)
        super().__init__(f"{self.cause.en} {self.remedy.en}")


WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def write_error(error: OSError) -> UserError:
    """A failed write (its errno is one of `WRITE_ERRORS`) as the user reads it."""
    path = error.filename or HOME  # a failed write() does not say which file it was
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("disk-full", path=path)
    return UserError("no-write", path=path, reason=error.strerror or error)


def known_errors() -> dict[str, tuple[Text, Text]]:
    """Code -> (cause, remedy), with their placeholders, in the order of the table."""
    return dict(_ERRORS)


def _error(code: str, cause: tuple[str, str], remedy: tuple[str, str]) -> None:
    _ERRORS[code] = (Text(*cause), Text(*remedy))


_error(
    "unknown-lab",
    ("There is no lab named {lab}.", "沒有名為 {lab} 的實驗。"),
    ("Did you mean: nox -s {nearest} ? All labs: nox -s catalog", "你要的是不是：nox -s {nearest} ？全部實驗：nox -s catalog"),
)
_error(
    "which-lab",
    ("This command needs exactly one lab, and got: {given}.", "這個指令需要剛好一個實驗，但收到的是：{given}。"),
    ("Type for example: nox -s {command} -- {example}", "例如輸入：nox -s {command} -- {example}"),
)
_error(
    "bad-manifest",
    ("{where}: {what}", "{where}：{what}"),
    ("Mend the file, then check it with: nox -s catalog", "請修正這個檔案，再用 nox -s catalog 檢查。"),
)
_error(
    "bad-source",
    ("{where}: {what}", "{where}：{what}"),
    ("Mend that line; the notebook convention is in CONTRIBUTING.md.", "請修正這一行；筆記本的格式寫在 CONTRIBUTING.md。"),
)
_error(
    "unknown-notebook",
    ("{lab} has no notebook {notebook}.", "{lab} 沒有編號 {notebook} 的筆記本。"),
    ("Choose one of: {choices}", "請從這些選一個：{choices}"),
)
_error(
    "no-profile",
    ("{lab} has no {profile} profile.", "{lab} 沒有名為 {profile} 的 profile。"),
    ("Choose: --profile {choices}", "請改用：--profile {choices}"),
)
_error(
    "no-gpu",
    (
        "--device cuda was asked for, but no usable NVIDIA GPU was found: {reason}.",
        "你指定了 --device cuda，但找不到可用的 NVIDIA GPU：{reason}。",
    ),
    ("Use --device cpu, or see what is missing with: nox -s doctor", "請改用 --device cpu，或執行 nox -s doctor 看看缺了什麼。"),
)
_error(
    "gpu-profile-needs-gpu",
    ("The gpu profile of {lab} does not fit the CPU: {reason}.", "{lab} 的 gpu profile 無法在 CPU 上執行：{reason}。"),
    ("Use --profile cpu, which runs the same notebooks with small sizes.", "請改用 --profile cpu，同一份筆記本會以較小的規模執行。"),
)
_error(
    "no-container",
    ("The container backend cannot run {lab} here: {reason}.", "容器後端無法在這裡執行 {lab}：{reason}。"),
    ("Leave out --backend container to run it locally.", "拿掉 --backend container，就會在本機執行。"),
)
_error(
    "python-version",
    (
        "Python {found} is not supported: the locked packages have wheels for 3.11 to 3.14.",
        "不支援 Python {found}：鎖定的套件只有 3.11 到 3.14 的 wheel。",
    ),
    (
        "Run nox from one of these, for example: uvx --python 3.12 nox -s {session}",
        "請改用其中一版來執行 nox，例如：uvx --python 3.12 nox -s {session}",
    ),
)
_error(
    "no-environment",
    (
        "There is no lock for an environment named {name} (images/{name}/lock.txt).",
        "沒有名為 {name} 的環境的鎖定檔（images/{name}/lock.txt）。",
    ),
    ("Use --device cpu; an author makes locks with: nox -s lock", "請改用 --device cpu；作者以 nox -s lock 產生鎖定檔。"),
)
_error(
    "no-torch-wheel",
    ("PyTorch has no wheel for {platform}.", "PyTorch 沒有提供 {platform} 的 wheel。"),
    ("Use Docker on this machine, or Colab (docs/guides).", "請在這台機器上使用 Docker，或改用 Colab（見 docs/guides）。"),
)
_error(
    "install-failed",
    ("The environment {name} could not be installed: {reason}", "環境 {name} 安裝失敗：{reason}"),
    (
        "The full log is {log}. Check the network and the free disk, then run the same command again.",
        "完整紀錄在 {log}。請檢查網路與磁碟空間，再執行一次同樣的指令。",
    ),
)
_error(
    "broken-environment",
    ("The environment {name} is damaged: {reason}", "環境 {name} 已損壞：{reason}"),
    ("Rebuild it with: nox -s {session} -- --fresh", "請重建：nox -s {session} -- --fresh"),
)
_error(
    "no-write",
    ("Cannot write to {path}: {reason}.", "無法寫入 {path}：{reason}。"),
    (
        "Make it writable, or keep everything that is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
        "請開放寫入權限，或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
    ),
)
_error(
    "disk-full",
    ("The disk of {path} is full.", "{path} 所在的磁碟已滿。"),
    (
        "Free some space (old results are in runs/), or keep what is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
        "請清出空間（舊的執行結果在 runs/），或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
    ),
)
_error(
    "disk-small",
    (
        "Not enough disk at {path}: {free_gb:.1f} GB free, {need_gb:.1f} GB needed.",
        "{path} 的磁碟空間不足：剩 {free_gb:.1f} GB，需要 {need_gb:.1f} GB。",
    ),
    (
        "Free some space (old results are in runs/), or keep what is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
        "請清出空間（舊的執行結果在 runs/），或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
    ),
)
_error(
    "missing-artifact",
    (
        "{notebook} needs {artifact}, which {maker} makes, and no earlier run of this lab has it.",
        "{notebook} 需要 {artifact}，它由 {maker} 產生，而先前的執行結果裡沒有。",
    ),
    ("Run that one first: nox -s {lab} -- --notebook {number}", "請先執行：nox -s {lab} -- --notebook {number}"),
)
_error(
    "no-workspace",
    ("There is no copy of {lab} of your own yet.", "你還沒有 {lab} 的個人副本。"),
    ("Make one with: nox -s start -- {lab}", "請先建立：nox -s start -- {lab}"),
)
_error(
    "workspace-exists",
    ("{path} exists, and your work in it is not overwritten.", "{path} 已經存在，不會覆寫你的成果。"),
    (
        "Go on there; to add only missing files: nox -s start -- {lab} --refresh",
        "請在那裡繼續；只補上缺少的檔案：nox -s start -- {lab} --refresh",
    ),
)
_error(
    "unknown-exercise",
    ("{lab} has no exercise {exercise}.", "{lab} 沒有練習 {exercise}。"),
    ("Its exercises: {choices}", "可選的練習：{choices}"),
)
_error(
    "bad-predictions",
    ("{path} cannot be read: {reason}.", "無法讀取 {path}：{reason}。"),
    ("Write one line per guess, for example: {example}", "每個猜測寫一行，例如：{example}"),
)
_error(
    "model-missing",
    ("--model {path}: there is no model directory (no config.json).", "--model {path}：找不到模型目錄（缺少 config.json）。"),
    ("Give the directory of a model saved with save_pretrained().", "請給以 save_pretrained() 存下的模型目錄。"),
)
_error(
    "usage",
    ("{what}", "{what}"),
    ("See: nox -s {session} -- --help", "請看：nox -s {session} -- --help"),
)
_error(
    "lab-exists",
    ("{path} exists already.", "{path} 已經存在。"),
    ("Choose another id.", "請換一個編號。"),
)
_error(
    "bad-lab-id",
    ("{lab} is not a lab id.", "{lab} 不是合法的實驗編號。"),
    (
        "A lab id looks like lab-1.5-flashattention: lab-, numbers with dots, a name in lower case.",
        "實驗編號像 lab-1.5-flashattention：lab-、以點分隔的數字、小寫名稱。",
    ),
)
_error(
    "nothing-published",
    ("Nothing was published: {reason}.", "沒有發布結果：{reason}。"),
    (
        "Publish a whole, passing run of the reference: nox -s {lab} -- --publish",
        "請發布一次完整且通過的參考解執行：nox -s {lab} -- --publish",
    ),
)
_error(
    "model-not-pinned",
    (
        "{model} is no directory here, and as a model of the hub it is not pinned (revision: {revision}).",
        "這裡沒有 {model} 這個目錄；若它是 hub 上的模型，則尚未固定版本（revision：{revision}）。",
    ),
    (
        "Give revision= the full commit hash (40 hex digits) that the model's page shows under Files > History.",
        "請用 revision= 給完整的 commit 雜湊（40 個十六進位數字），見模型頁面的 Files > History。",
    ),
)
_error(
    "model-not-fetched",
    (
        "{model} is not in the cache of this machine, and cannot be downloaded: {reason}.",
        "這台機器的快取裡沒有 {model}，也無法下載：{reason}。",
    ),
    (
        "With a network: {hf} download {model} --revision {revision} ; without one, copy the model here and run the lab with --model PATH.",
        "有網路時請執行：{hf} download {model} --revision {revision} ；沒有網路時，請把模型複製到這台機器，再用 --model 路徑 執行實驗。",
    ),
)
_error(
    "no-quantized",
    ("{quantized} weights do not work on {device} here: {reason}.", "這裡無法在 {device} 上使用 {quantized} 權重：{reason}。"),
    ("Load the model without quantized=, or on an NVIDIA GPU.", "請不要加 quantized= 來載入模型，或改用 NVIDIA GPU。"),
)
_error(
    "bad-record",
    ("{path}, {where}: {reason}.", "{path}，{where}：{reason}。"),
    (
        "Mend or remove that record; the formats are described in shared/onepiece/records.py.",
        "請修正或移除這筆資料；格式說明在 shared/onepiece/records.py。",
    ),
)
_error(
    "unknown-checkpoint",
    ("There is no checkpoint named {name}.", "沒有名為 {name} 的模型檢查點。"),
    ("Choose one of: {choices}", "請從這些選一個：{choices}"),
)
_error(
    "bad-checkpoint",
    ("The checkpoint {name} is not what was shipped: {reason}.", "模型檢查點 {name} 與發布時不同：{reason}。"),
    (
        "Restore it with: git checkout -- shared/checkpoints   (or train it again: nox -s pretrain -- {name} --ship)",
        "請還原：git checkout -- shared/checkpoints （或重新訓練：nox -s pretrain -- {name} --ship）",
    ),
)
_error(
    "other-recipe",
    ("The interrupted run of {name} was made with another recipe.", "{name} 中斷的訓練使用了不同的設定。"),
    ("Start again without --resume: nox -s pretrain -- {name}", "請不要加 --resume，重新開始：nox -s pretrain -- {name}"),
)
