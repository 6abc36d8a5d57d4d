"""Every error a user can meet: one line that says what is wrong, one that says what to type next.

The table is the single source of these sentences: the program prints them and the troubleshooting
page is made from them. Errors that only an author of a lab meets carry their detail in English.
"""

from __future__ import annotations

import errno

from onepiece.course.places import HOME
from onepiece.course.text import Text

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
        "環境 {name} 沒有鎖定檔（images/{name}/lock.txt）。",
    ),
    ("Use --device cpu; an author makes locks with: nox -s lock", "請改用 --device cpu；作者以 nox -s lock 產生鎖定檔。"),
)
_error(
    "not-an-environment",
    ("--environment {path}: {reason}.", "--environment {path}：{reason}。"),
    (
        "Give the directory of a virtual environment that has what the lab needs, or leave the option out: nox -s {session}",
        "請指定裝好實驗所需套件的虛擬環境目錄，或拿掉這個選項：nox -s {session}",
    ),
)
_error(
    "no-server",
    ("The environment of the real server, {name}, is not installed here.", "這裡還沒有安裝真實伺服器的環境 {name}。"),
    (
        "On Linux x86-64: nox -s serving -- --install   elsewhere: docker compose up serving",
        "在 Linux x86-64 上：nox -s serving -- --install   其他平台：docker compose up serving",
    ),
)
_error(
    "server-failed",
    ("{name} did not become ready: {reason}; its log ends: {tail}", "{name} 沒有就緒：{reason}；日誌的結尾：{tail}"),
    ("Read the whole log: {log}", "完整日誌：{log}"),
)
_error(
    "port-taken",
    ("Port {port} of 127.0.0.1, which {name} needs, is taken.", "{name} 需要的 127.0.0.1 連接埠 {port} 已被占用。"),
    ("See who listens: ss -ltnp 'sport = :{port}'", "查看是誰在監聽：ss -ltnp 'sport = :{port}'"),
)
_error(
    "server-elsewhere",
    (
        "{lab} starts a real server, which without Docker exists for Linux on x86-64 only; this is {platform}.",
        "{lab} 會啟動真實的伺服器；不用 Docker 時只支援 x86-64 的 Linux，這台機器是 {platform}。",
    ),
    ("With Docker: nox -s {lab} -- --backend container", "使用 Docker：nox -s {lab} -- --backend container"),
)
_error(
    "serving-elsewhere",
    (
        "Real servers without Docker exist for Linux on x86-64 only; this is {platform}.",
        "不用 Docker 的真實伺服器只支援 x86-64 的 Linux；這台機器是 {platform}。",
    ),
    (
        "With Docker, and without a GPU: ONEPIECE_DEVICE=cpu docker compose up serving",
        "使用 Docker，且沒有 GPU：ONEPIECE_DEVICE=cpu docker compose up serving",
    ),
)
_error(
    "serving-runs",
    ("The serving stack runs already, at {url}.", "服務堆疊已經在 {url} 執行中。"),
    (
        "See it: nox -s serving -- --status   end it: nox -s serving -- --stop",
        "查看：nox -s serving -- --status   停止：nox -s serving -- --stop",
    ),
)
_error(
    "serving-model",
    (
        "ONEPIECE_MODEL={model}: neither a model's directory (with config.json), there or in {directory}, nor OWNER/NAME of a hub.",
        "ONEPIECE_MODEL={model}：不是模型目錄（含 config.json），{directory} 裡也沒有，也不是 hub 的 OWNER/NAME。",
    ),
    ("Leave it out to serve the shipped model: unset ONEPIECE_MODEL", "不設定就會使用內附的模型：unset ONEPIECE_MODEL"),
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
        "完整日誌在 {log}。請檢查網路與磁碟空間，再執行一次同樣的指令。",
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
    "workspace-incomplete",
    ("Your copy of {lab} lacks {files}, and its exercises with it.", "你的 {lab} 副本缺少 {files}，裡面的練習也跟著不見了。"),
    ("To bring it back, and keep the rest: nox -s start -- {lab} --refresh", "補回缺少的檔案，其他保留：nox -s start -- {lab} --refresh"),
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
    ("Give the directory of a model saved with save_pretrained().", "請指定用 save_pretrained() 存下的模型目錄。"),
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
        "請用 revision= 指定完整的 commit 雜湊值（40 個十六進位數字），見模型頁面的 Files > History。",
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
    ("Load the model without quantized=, or on an NVIDIA GPU.", "載入模型時請不要加 quantized=，或改用 NVIDIA GPU。"),
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
    ("There is no checkpoint named {name}.", "沒有名為 {name} 的 checkpoint。"),
    ("Choose one of: {choices}", "請從這些選一個：{choices}"),
)
_error(
    "bad-checkpoint",
    ("The checkpoint {name} is not what was shipped: {reason}.", "checkpoint {name} 與隨課程附上的不同：{reason}。"),
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
_error(
    "bad-quiz",
    ("{where}: {what}", "{where}：{what}"),
    ("Mend the file, then check it with: nox -s quiz", "請修正這個檔案，再用 nox -s quiz 檢查。"),
)
_error(
    "no-quiz",
    ("There is no quiz named {quiz}.", "沒有名為 {quiz} 的測驗。"),
    ("Did you mean: nox -s quiz -- {nearest} ? All quizzes: nox -s quiz", "你要的是不是：nox -s quiz -- {nearest} ？全部測驗：nox -s quiz"),
)
_error(
    "quiz-needs-terminal",
    ("A quiz asks and waits for answers, and there is no terminal to answer in.", "測驗會提問並等待作答，但這裡沒有可以輸入的終端機。"),
    (
        "Run it in a terminal, without a pipe; the list of quizzes needs none: nox -s quiz",
        "請在終端機裡執行，不要接管線；列出測驗則不需要終端機：nox -s quiz",
    ),
)
_error(
    "bad-paths",
    ("{where}: {what}", "{where}：{what}"),
    (
        "Mend the file, then look at it with: nox -s progress -- --path engineer",
        "請修正這個檔案，再用 nox -s progress -- --path engineer 查看。",
    ),
)
_error(
    "no-path",
    ("There is no learning path named {path}.", "沒有名為 {path} 的學習路徑。"),
    ("Choose one of these, in docs/paths.toml: {choices}", "請從 docs/paths.toml 裡的這些選一個：{choices}"),
)
_error(
    "progress-damaged",
    ("{path} holds no progress that can be read, and is left as it is: {reason}.", "無法從 {path} 讀出進度，檔案維持原狀：{reason}。"),
    (
        "Move the file away to begin anew, then bring back a copy or an export: nox -s progress -- --import FILE",
        "請把這個檔案移到別處，就會重新開始；再併入備份或匯出檔：nox -s progress -- --import 檔案",
    ),
)
_error(
    "progress-newer",
    (
        "{path} was written by a later version of the course (format {found}; this one knows {known}), and is left as it is.",
        "{path} 是由較新版的課程寫入的（格式 {found}；這個版本只認得 {known}），檔案維持原狀。",
    ),
    ("Update the course with: git pull", "請更新課程：git pull"),
)
_error(
    "progress-busy",
    ("{path} is being written by another process all the time.", "另一個行程一直在寫入 {path}。"),
    ("Wait until it ends, then run the same command again.", "請等它結束，再執行一次同樣的指令。"),
)
_error(
    "progress-conflict",
    (
        "Another event than the one in {path} has the id {event}: one of the files was edited. Nothing was added.",
        "編號 {event} 的紀錄與 {path} 裡的內容不同：其中一個檔案被改過。沒有併入任何紀錄。",
    ),
    (
        "Export again on the other machine: nox -s progress -- --export json FILE",
        "請在另一台機器重新匯出：nox -s progress -- --export json 檔案",
    ),
)
_error(
    "bad-import",
    ("{path} cannot be imported: {reason}. Nothing was added.", "無法匯入 {path}：{reason}。沒有併入任何紀錄。"),
    (
        "Give a file that was made by: nox -s progress -- --export json FILE   (or another progress.sqlite)",
        "請指定由 nox -s progress -- --export json 檔案 產生的檔案（或另一個 progress.sqlite）。",
    ),
)
_error(
    "export-exists",
    ("{path} exists already, and is not overwritten.", "{path} 已經存在，不會覆寫。"),
    ("Choose another name for the file.", "請換一個檔名。"),
)
_error(
    "feedback-needs-terminal",
    (
        "The form asks and waits for answers, and there is no terminal to answer in.",
        "這份表單會提問並等待回答，但這裡沒有可以輸入的終端機。",
    ),
    (
        "Run it in a terminal, without a pipe; its questions are also in {template}.",
        "請在終端機裡執行，不要接管線；題目也寫在 {template}。",
    ),
)
_error(
    "no-image",
    ("There is no container image for {image}: {reason} is missing.", "沒有 {image} 的容器映像檔：缺少 {reason}。"),
    ("Use --backend local; all images: nox -s images -- --print", "請改用 --backend local；全部映像檔：nox -s images -- --print"),
)
_error(
    "image-build-failed",
    ("The image {image} could not be built: {reason}", "映像檔 {image} 建置失敗：{reason}"),
    (
        "The full log is {log}. Check the network and the free disk, then type: nox -s images -- {image}",
        "完整日誌在 {log}。請檢查網路與磁碟空間，再輸入：nox -s images -- {image}",
    ),
)
_error(
    "image-pull-failed",
    ("The image {image} could not be pulled: {reason}", "無法下載映像檔 {image}：{reason}"),
    (
        "Check the network and the login (docker login), or build it here: nox -s images -- {name}",
        "請檢查網路與登入狀態（docker login），或在本機建置：nox -s images -- {name}",
    ),
)
_error(
    "image-push-failed",
    ("The image {image} could not be published: {reason}", "無法發布映像檔 {image}：{reason}"),
    (
        "Log in to the registry (docker login), then type: nox -s images -- --push",
        "請先登入 registry（docker login），再輸入：nox -s images -- --push",
    ),
)
_error(
    "unresolved-pin",
    ("Not published, because it is not pinned: {what}.", "未發布，因為尚未固定版本：{what}。"),
    ("With the registries in reach, type: nox -s pin", "請在連得上 registry 的地方輸入：nox -s pin"),
)
_error(
    "no-registry",
    ("There is nowhere to publish images to.", "沒有可以發布映像檔的地方。"),
    (
        "Set [project.urls] repository in pyproject.toml, or: ONEPIECE_REGISTRY=registry/path nox -s images -- --push",
        "請在 pyproject.toml 設定 [project.urls] 的 repository，或輸入：ONEPIECE_REGISTRY=registry/路徑 nox -s images -- --push",
    ),
)
_error(
    "engine-refuses",
    ("The Docker engine does not let you in: {reason}.", "Docker 引擎拒絕存取：{reason}。"),
    (
        "Run without it: --backend local. To be let in (members can become root): sudo usermod -aG docker $USER, then log in again",
        "可以不用容器：--backend local。若要取得權限（群組成員等同 root）：sudo usermod -aG docker $USER，再重新登入",
    ),
)
_error(
    "no-engine",
    ("There is no Docker engine to use: {reason}.", "沒有可用的 Docker 引擎：{reason}。"),
    ("See what this machine has: nox -s doctor", "看看這台機器有什麼：nox -s doctor"),
)
_error(
    "no-port",
    ("Port {port} of this machine and those after it are taken.", "這台機器從 {port} 起的連接埠都已被占用。"),
    ("Choose another one: --port 9000", "請改用其他連接埠：--port 9000"),
)
_error(
    "engine-gone",
    ("The Docker engine does not answer (any more).", "Docker 引擎沒有回應，或已經停止。"),
    (
        "Start it until `docker info` answers, then run the same command again; or run without it: --backend local",
        "請啟動引擎，確認 docker info 有回應，再執行一次同樣的指令；或不用容器：--backend local",
    ),
)
_error(
    "engine-says-no",
    ("The Docker engine could not start the container: {reason}.", "Docker 引擎無法啟動容器：{reason}。"),
    (
        "See what this engine can do: nox -s doctor ; or run without it: --backend local",
        "看看這個引擎能做什麼：nox -s doctor ；或不用容器：--backend local",
    ),
)
_error(
    "engine-disk-full",
    ("The disk of the Docker engine is full: {reason}.", "Docker 引擎的磁碟已滿：{reason}。"),
    (
        "See what takes it: docker system df ; remove the course's images: nox -s clean -- --images",
        "看看是什麼占用空間：docker system df ；移除本課程的映像檔：nox -s clean -- --images",
    ),
)
_error(
    "engine-does-not-see",
    ("The Docker engine does not see the course's files: {reason}.", "Docker 引擎看不到課程的檔案：{reason}。"),
    (
        "Share the directory in Docker Desktop's settings; an engine on another machine cannot be used. Or run without it: --backend local",
        "請在 Docker Desktop 的設定中分享這個目錄；無法使用另一台機器上的引擎。或不用容器：--backend local",
    ),
)
_error(
    "container-without-gpu",
    ("The container got no GPU: {reason}.", "容器拿不到 GPU：{reason}。"),
    (
        "Set up the NVIDIA Container Toolkit (nvidia-ctk), or use the GPU without a container: --backend local",
        "請設定 NVIDIA Container Toolkit（nvidia-ctk），或不用容器直接使用 GPU：--backend local",
    ),
)
_error(
    "container-stopped",
    ("Something stopped the container from outside: the engine, or another command.", "容器被外部停止了：可能是引擎，或其他指令。"),
    ("Run the same command again.", "請再執行一次同樣的指令。"),
)
_error(
    "container-failed",
    ("The runner in the container ended by itself: {reason}.", "容器裡的執行程式自行結束了：{reason}。"),
    (
        "Build the image anew: nox -s images -- {lab} ; or run without a container: nox -s {lab} -- --backend local",
        "請重新建置映像檔：nox -s images -- {lab} ；或不用容器：nox -s {lab} -- --backend local",
    ),
)
_error(
    "image-gone",
    ("The image {image} is not here (any more).", "這裡沒有映像檔 {image}（或已被移除）。"),
    ("Run the same command again: it is brought or built anew.", "請再執行一次同樣的指令，會重新取得或建置。"),
)
_error(
    "out-of-memory",
    (
        "Out of memory: the container may use {limit_gb:.1f} GB (lab.toml says memory_gb = {budget_gb:g}).",
        "記憶體不足：容器最多可用 {limit_gb:.1f} GB（lab.toml 設定 memory_gb = {budget_gb:g}）。",
    ),
    (
        "Run it without that limit: nox -s {lab} -- --backend local",
        "以沒有上限的方式執行：nox -s {lab} -- --backend local",
    ),
)
