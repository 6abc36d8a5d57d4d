"""What the host says: command lines, environments, containers, progress, the serving stack."""

from __future__ import annotations

from onepiece.course.text import Text

MESSAGES: dict[str, tuple[Text, Text]] = {
    "which-lab": (
        Text("This command needs exactly one lab, and got: {given}.", "這個指令需要剛好一個實驗，但收到的是：{given}。"),
        Text("Type for example: nox -s {command} -- {example}", "例如輸入：nox -s {command} -- {example}"),
    ),
    "no-calibration": (
        Text("{lab} has no calibration.py, so there is nothing to search.", "{lab} 沒有 calibration.py，所以沒有設定可以搜尋。"),
        Text(
            "Labs that have one: {choices}. How to write one is in CONTRIBUTING.md.",
            "有 calibration.py 的實驗：{choices}。寫法請看 CONTRIBUTING.md。",
        ),
    ),
    "bad-calibration": (
        Text("{where}: {what}", "{where}：{what}"),
        Text("Mend the file; how it is written is in CONTRIBUTING.md.", "請修正這個檔案；寫法請看 CONTRIBUTING.md。"),
    ),
    "calibration-failed": (
        Text("A trial of {lab} ended the search (exit code {reason}).", "{lab} 的一次試驗讓搜尋中止（結束代碼 {reason}）。"),
        Text(
            "Its error stands above. Mend it, then go on with the same command: nox -s calibrate -- {lab}",
            "錯誤訊息在上方。修正後，用同樣的指令接著做：nox -s calibrate -- {lab}",
        ),
    ),
    "bad-source": (
        Text("{where}: {what}", "{where}：{what}"),
        Text("Mend that line; the notebook convention is in CONTRIBUTING.md.", "請修正這一行；筆記本的格式寫在 CONTRIBUTING.md。"),
    ),
    "bad-mutants": (
        Text("{where}: {what}", "{where}：{what}"),
        Text("Mend the file, then check it with: nox -s mutate -- {lab}", "請修正這個檔案，再用 nox -s mutate -- {lab} 檢查。"),
    ),
    "reference-fails": (
        Text("The reference of {lab} does not pass its own checks: {exercises}.", "{lab} 的參考解沒有通過自己的檢查：{exercises}。"),
        Text("See what is wrong: nox -s check -- {lab} --reference", "看看哪裡不對：nox -s check -- {lab} --reference"),
    ),
    "reference-misses": (
        Text("The reference of {lab} does not pass its own gates on the cpu profile.", "{lab} 的參考解沒有通過自己在 cpu profile 的關卡。"),
        Text("See which: nox -s {lab} -- --profile cpu --device cpu", "看看是哪些：nox -s {lab} -- --profile cpu --device cpu"),
    ),
    "no-gpu": (
        Text(
            "--device cuda was asked for, but no usable NVIDIA GPU was found: {reason}.",
            "你指定了 --device cuda，但找不到可用的 NVIDIA GPU：{reason}。",
        ),
        Text("Use --device cpu, or see what is missing with: nox -s doctor", "請改用 --device cpu，或執行 nox -s doctor 看看缺了什麼。"),
    ),
    "gpu-profile-needs-gpu": (
        Text("The gpu profile of {lab} does not fit the CPU: {reason}.", "{lab} 的 gpu profile 無法在 CPU 上執行：{reason}。"),
        Text(
            "Use --profile cpu, which runs the same notebooks with small sizes.", "請改用 --profile cpu，同一份筆記本會以較小的規模執行。"
        ),
    ),
    "no-container": (
        Text("The container backend cannot run {lab} here: {reason}.", "容器後端無法在這裡執行 {lab}：{reason}。"),
        Text("Leave out --backend container to run it locally.", "拿掉 --backend container，就會在本機執行。"),
    ),
    "python-version": (
        Text(
            "Python {found} is not supported: the locked packages have wheels for 3.11 to 3.14.",
            "不支援 Python {found}：鎖定的套件只有 3.11 到 3.14 的 wheel。",
        ),
        Text(
            "Run nox from one of these, for example: uvx --python 3.12 nox -s {session}",
            "請改用其中一版來執行 nox，例如：uvx --python 3.12 nox -s {session}",
        ),
    ),
    "no-environment": (
        Text(
            "There is no lock for an environment named {name} (images/{name}/lock.txt).",
            "環境 {name} 沒有鎖定檔（images/{name}/lock.txt）。",
        ),
        Text("Use --device cpu; an author makes locks with: nox -s lock", "請改用 --device cpu；作者以 nox -s lock 產生鎖定檔。"),
    ),
    "not-an-environment": (
        Text("--environment {path}: {reason}.", "--environment {path}：{reason}。"),
        Text(
            "Give the directory of a virtual environment that has what the lab needs, or leave the option out: nox -s {session}",
            "請指定裝好實驗所需套件的虛擬環境目錄，或拿掉這個選項：nox -s {session}",
        ),
    ),
    "server-elsewhere": (
        Text(
            "{lab} starts a real server, which without Docker exists for Linux on x86-64 only; this is {platform}.",
            "{lab} 會啟動真實的伺服器；不用 Docker 時只支援 x86-64 的 Linux，這台機器是 {platform}。",
        ),
        Text("With Docker: nox -s {lab} -- --backend container", "使用 Docker：nox -s {lab} -- --backend container"),
    ),
    "serving-elsewhere": (
        Text(
            "Real servers without Docker exist for Linux on x86-64 only; this is {platform}.",
            "不用 Docker 的真實伺服器只支援 x86-64 的 Linux；這台機器是 {platform}。",
        ),
        Text(
            "With Docker, and without a GPU: ONEPIECE_DEVICE=cpu docker compose up serving",
            "使用 Docker，且沒有 GPU：ONEPIECE_DEVICE=cpu docker compose up serving",
        ),
    ),
    "serving-runs": (
        Text("The serving stack runs already, at {url}.", "服務堆疊已經在 {url} 執行中。"),
        Text(
            "See it: nox -s serving -- --status   end it: nox -s serving -- --stop",
            "查看：nox -s serving -- --status   停止：nox -s serving -- --stop",
        ),
    ),
    "serving-key": (
        Text("The API key keeps nobody out: {path}: {reason}.", "API 金鑰無法發揮保護作用：{path}：{reason}。"),
        Text("Remove it, and the next start makes a good one: rm -r {path}", "刪除它，下次啟動時會產生安全的金鑰：rm -r {path}"),
    ),
    "serving-open": (
        Text("{name} answers at {url} without the key, so it was ended.", "{name} 在 {url} 不用金鑰就會回應，因此已停止。"),
        Text("Take what turns the key off out of ONEPIECE_VLLM_OPTIONS.", "請從 ONEPIECE_VLLM_OPTIONS 移除會停用金鑰的選項。"),
    ),
    "server-restarts": (
        Text(
            "{name} failed {times} times within {minutes} minutes, the last time because: {reason}; its log ends: {tail}",
            "{name} 在 {minutes} 分鐘內失敗了 {times} 次，最後一次的原因：{reason}；日誌的結尾：{tail}",
        ),
        Text("Read the whole log: {log}", "完整日誌：{log}"),
    ),
    "serving-model": (
        Text(
            "ONEPIECE_MODEL={model}: neither a model's directory (with config.json), there or in {directory}, nor OWNER/NAME of a hub.",
            "ONEPIECE_MODEL={model}：不是模型目錄（含 config.json），{directory} 裡也沒有，也不是 hub 的 OWNER/NAME。",
        ),
        Text("Leave it out to serve the shipped model: unset ONEPIECE_MODEL", "不設定就會使用內附的模型：unset ONEPIECE_MODEL"),
    ),
    "no-torch-wheel": (
        Text("PyTorch has no wheel for {platform}.", "PyTorch 沒有提供 {platform} 的 wheel。"),
        Text("Use Docker on this machine, or Colab (docs/guides).", "請在這台機器上使用 Docker，或改用 Colab（見 docs/guides）。"),
    ),
    "install-failed": (
        Text("The environment {name} could not be installed: {reason}", "環境 {name} 安裝失敗：{reason}"),
        Text(
            "The full log is {log}. Check the network and the free disk, then run the same command again.",
            "完整日誌在 {log}。請檢查網路與磁碟空間，再執行一次同樣的指令。",
        ),
    ),
    "broken-environment": (
        Text("The environment {name} is damaged: {reason}", "環境 {name} 已損壞：{reason}"),
        Text("Rebuild it with: {rebuild}", "請重建：{rebuild}"),
    ),
    "runner-ended": (
        Text(
            "What ran the code of {lab} ended: {reason}. The environment {name} is not why.",
            "執行 {lab} 程式碼的行程結束了：{reason}。問題不在環境 {name}。",
        ),
        Text("Nothing has to be rebuilt: run the same command again.", "不需要重建任何東西：請再執行一次同樣的指令。"),
    ),
    "disk-small": (
        Text(
            "Not enough disk at {path}: {free_gb:.1f} GB free, {need_gb:.1f} GB needed.",
            "{path} 的磁碟空間不足：剩 {free_gb:.1f} GB，需要 {need_gb:.1f} GB。",
        ),
        Text(
            "Free some space (old results are in runs/), or keep what is made elsewhere: ONEPIECE_HOME=DIRECTORY nox -s ...",
            "請清出空間（舊的執行結果在 runs/），或把產生的檔案放到別處：ONEPIECE_HOME=目錄 nox -s ...",
        ),
    ),
    "out-of-place": (
        Text(
            "Something removed or replaced what the course keeps here: {path} ({reason}).",
            "課程存放在這裡的東西被移除或換掉了：{path}（{reason}）。",
        ),
        Text(
            "Move away what is in its place, if anything is, then run the same command again.",
            "若那個位置有別的東西，請先移開，再執行一次同樣的指令。",
        ),
    ),
    "no-workspace": (
        Text("There is no copy of {lab} of your own yet.", "你還沒有 {lab} 的個人副本。"),
        Text("Make one with: nox -s start -- {lab}", "請先建立：nox -s start -- {lab}"),
    ),
    "hides-a-module": (
        Text(
            "{path} hides the module {module}, which Python or the course needs: everything that imports it would get yours.",
            "{path} 會蓋住 Python 或課程需要的模組 {module}：凡是匯入它的程式，拿到的都會是你的檔案。",
        ),
        Text("Rename the file, then run the same command again.", "請替檔案改名，再執行一次同樣的指令。"),
    ),
    "workspace-incomplete": (
        Text("Your copy of {lab} lacks {files}, and its exercises with it.", "你的 {lab} 副本缺少 {files}，裡面的練習也跟著不見了。"),
        Text(
            "To bring it back, and keep the rest: nox -s start -- {lab} --refresh",
            "補回缺少的檔案，其他保留：nox -s start -- {lab} --refresh",
        ),
    ),
    "workspace-exists": (
        Text("{path} exists, and your work in it is not overwritten.", "{path} 已經存在，不會覆寫你的成果。"),
        Text(
            "Go on there; to add only missing files: nox -s start -- {lab} --refresh",
            "請在那裡繼續；只補上缺少的檔案：nox -s start -- {lab} --refresh",
        ),
    ),
    "unknown-exercise": (
        Text("{lab} has no exercise {exercise}.", "{lab} 沒有練習 {exercise}。"),
        Text("Its exercises: {choices}", "可選的練習：{choices}"),
    ),
    "bad-predictions": (
        Text("{path} cannot be used: {reason}.", "{path} 無法使用：{reason}。"),
        Text("Write one line per guess, for example: {example}", "每個猜測寫一行，例如：{example}"),
    ),
    "usage": (
        Text("{what}", "{what}"),
        Text("See: nox -s {session} -- --help", "請看：nox -s {session} -- --help"),
    ),
    "lab-exists": (
        Text("{path} exists already.", "{path} 已經存在。"),
        Text("Choose another id.", "請換一個編號。"),
    ),
    "lab-number-taken": (
        Text("{number} is the number of {other}.", "編號 {number} 已經是 {other} 的了。"),
        Text("Choose another number; nox -s catalog lists those that are taken.", "請換一個編號；nox -s catalog 會列出已使用的編號。"),
    ),
    "which-kind": (
        Text("A lab begins like one of these kinds: {kinds}.", "新實驗要從下列其中一種開始：{kinds}。"),
        Text(
            "Say which, for example: nox -s new-lab -- {lab} --like {example}",
            "請指定一種，例如：nox -s new-lab -- {lab} --like {example}",
        ),
    ),
    "bad-lab-id": (
        Text("{lab} is not a lab id.", "{lab} 不是合法的實驗編號。"),
        Text(
            "A lab id looks like lab-1.5-flashattention: lab-, numbers with dots, a name in lower case.",
            "實驗編號像 lab-1.5-flashattention：lab-、以點分隔的數字、小寫名稱。",
        ),
    ),
    "nothing-published": (
        Text("Nothing was published: {reason}.", "沒有發布結果：{reason}。"),
        Text(
            "Publish a whole, passing run of the reference: nox -s {lab} -- --publish",
            "請發布一次完整且通過的參考解執行：nox -s {lab} -- --publish",
        ),
    ),
    "quiz-needs-terminal": (
        Text(
            "A quiz asks and waits for answers, and there is no terminal to answer in.",
            "測驗會提問並等待作答，但這裡沒有可以輸入的終端機。",
        ),
        Text(
            "Run it in a terminal, without a pipe; the list of quizzes needs none: nox -s quiz",
            "請在終端機裡執行，不要接管線；列出測驗則不需要終端機：nox -s quiz",
        ),
    ),
    "progress-damaged": (
        Text(
            "{path} holds no progress that can be read, and is left as it is: {reason}.", "無法從 {path} 讀出進度，檔案維持原狀：{reason}。"
        ),
        Text(
            "Move the file away to begin anew, then bring back a copy or an export: nox -s progress -- --import FILE",
            "請把這個檔案移到別處，就會重新開始；再併入備份或匯出檔：nox -s progress -- --import 檔案",
        ),
    ),
    "progress-newer": (
        Text(
            "{path} was written by a later version of the course (format {found}; this one knows {known}), and is left as it is.",
            "{path} 是由較新版的課程寫入的（格式 {found}；這個版本只認得 {known}），檔案維持原狀。",
        ),
        Text("Update the course with: git pull", "請更新課程：git pull"),
    ),
    "progress-busy": (
        Text("{path} is being written by another process all the time.", "另一個行程一直在寫入 {path}。"),
        Text("Wait until it ends, then run the same command again.", "請等它結束，再執行一次同樣的指令。"),
    ),
    "progress-conflict": (
        Text(
            "Another event than the one in {path} has the id {event}: one of the files was edited. Nothing was added.",
            "編號 {event} 的紀錄與 {path} 裡的內容不同：其中一個檔案被改過。沒有併入任何紀錄。",
        ),
        Text(
            "Export again on the other machine: nox -s progress -- --export json FILE",
            "請在另一台機器重新匯出：nox -s progress -- --export json 檔案",
        ),
    ),
    "bad-import": (
        Text("{path} cannot be imported: {reason}. Nothing was added.", "無法匯入 {path}：{reason}。沒有併入任何紀錄。"),
        Text(
            "Give a file that was made by: nox -s progress -- --export json FILE   (or another progress.sqlite)",
            "請指定由 nox -s progress -- --export json 檔案 產生的檔案（或另一個 progress.sqlite）。",
        ),
    ),
    "export-exists": (
        Text("{path} exists already, and is not overwritten.", "{path} 已經存在，不會覆寫。"),
        Text("Choose another name for the file.", "請換一個檔名。"),
    ),
    "feedback-needs-terminal": (
        Text(
            "The form asks and waits for answers, and there is no terminal to answer in.",
            "這份表單會提問並等待回答，但這裡沒有可以輸入的終端機。",
        ),
        Text(
            "Run it in a terminal, without a pipe; its questions are also in {template}.",
            "請在終端機裡執行，不要接管線；題目也寫在 {template}。",
        ),
    ),
    "no-submission": (
        Text("There is no directory {path} to grade.", "沒有可以評分的目錄 {path}。"),
        Text(
            "Name the directory of a learner's copy: nox -s grade -- {lab} --submission DIR",
            "請指定學習者副本所在的目錄：nox -s grade -- {lab} --submission 目錄",
        ),
    ),
    "not-a-submission": (
        Text("{path} is not a copy of {lab}: {reason}.", "{path} 不是 {lab} 的副本：{reason}。"),
        Text(
            "Name the directory that has the modules itself, as this makes it: nox -s start -- {lab}",
            "請指定直接放著模組的目錄，也就是這個指令建立的目錄：nox -s start -- {lab}",
        ),
    ),
    "no-exercises": (
        Text("{lab} has no exercises, so there is nothing to grade.", "{lab} 沒有練習，沒有東西可以評分。"),
        Text("See all labs: nox -s catalog", "查看全部實驗：nox -s catalog"),
    ),
    "no-image": (
        Text("There is no container image for {image}: {reason} is missing.", "沒有 {image} 的容器映像檔：缺少 {reason}。"),
        Text("Use --backend local; all images: nox -s images -- --print", "請改用 --backend local；全部映像檔：nox -s images -- --print"),
    ),
    "image-build-failed": (
        Text("The image {image} could not be built: {reason}", "映像檔 {image} 建置失敗：{reason}"),
        Text(
            "The full log is {log}. Check the network and the free disk, then type: nox -s images -- {image}",
            "完整日誌在 {log}。請檢查網路與磁碟空間，再輸入：nox -s images -- {image}",
        ),
    ),
    "image-pull-failed": (
        Text("The image {image} could not be pulled: {reason}", "無法下載映像檔 {image}：{reason}"),
        Text(
            "Check the network and the login (docker login), or build it here: nox -s images -- {name}",
            "請檢查網路與登入狀態（docker login），或在本機建置：nox -s images -- {name}",
        ),
    ),
    "image-push-failed": (
        Text("The image {image} could not be published: {reason}", "無法發布映像檔 {image}：{reason}"),
        Text(
            "Log in to the registry (docker login), then type: nox -s images -- --push",
            "請先登入 registry（docker login），再輸入：nox -s images -- --push",
        ),
    ),
    "unresolved-pin": (
        Text("Not published, because it is not pinned: {what}.", "未發布，因為尚未固定版本：{what}。"),
        Text("With the registries in reach, type: nox -s pin", "請在連得上 registry 的地方輸入：nox -s pin"),
    ),
    "no-registry": (
        Text("There is nowhere to publish images to.", "沒有可以發布映像檔的地方。"),
        Text(
            "Set [project.urls] repository in pyproject.toml, or: ONEPIECE_REGISTRY=registry/path nox -s images -- --push",
            "請在 pyproject.toml 設定 [project.urls] 的 repository，或輸入：ONEPIECE_REGISTRY=registry/路徑 nox -s images -- --push",
        ),
    ),
    "engine-refuses": (
        Text("The Docker engine does not let you in: {reason}.", "Docker 引擎拒絕存取：{reason}。"),
        Text(
            "Run without it: --backend local. To be let in (members can become root): sudo usermod -aG docker $USER, then log in again",
            "可以不用容器：--backend local。若要取得權限（群組成員等同 root）：sudo usermod -aG docker $USER，再重新登入",
        ),
    ),
    "no-engine": (
        Text("There is no Docker engine to use: {reason}.", "沒有可用的 Docker 引擎：{reason}。"),
        Text("See what this machine has: nox -s doctor", "看看這台機器有什麼：nox -s doctor"),
    ),
    "no-port": (
        Text("Port {port} of this machine and those after it are taken.", "這台機器從 {port} 起的連接埠都已被占用。"),
        Text("Choose another one: --port 9000", "請改用其他連接埠：--port 9000"),
    ),
    "engine-gone": (
        Text("The Docker engine does not answer (any more).", "Docker 引擎沒有回應，或已經停止。"),
        Text(
            "Start it until `docker info` answers, then run the same command again; or run without it: --backend local",
            "請啟動引擎，確認 docker info 有回應，再執行一次同樣的指令；或不用容器：--backend local",
        ),
    ),
    "engine-says-no": (
        Text("The Docker engine could not start the container: {reason}.", "Docker 引擎無法啟動容器：{reason}。"),
        Text(
            "See what this engine can do: nox -s doctor ; or run without it: --backend local",
            "看看這個引擎能做什麼：nox -s doctor ；或不用容器：--backend local",
        ),
    ),
    "engine-disk-full": (
        Text("The disk of the Docker engine is full: {reason}.", "Docker 引擎的磁碟已滿：{reason}。"),
        Text(
            "See what takes it: docker system df ; remove the course's images: nox -s clean -- --images",
            "看看是什麼占用空間：docker system df ；移除本課程的映像檔：nox -s clean -- --images",
        ),
    ),
    "engine-does-not-see": (
        Text("The Docker engine does not see the course's files: {reason}.", "Docker 引擎看不到課程的檔案：{reason}。"),
        Text(
            "Share the directory in Docker Desktop's settings; an engine on another machine cannot "
            "be used. Or run without it: --backend local",
            "請在 Docker Desktop 的設定中分享這個目錄；無法使用另一台機器上的引擎。或不用容器：--backend local",
        ),
    ),
    "container-without-gpu": (
        Text("The container got no GPU: {reason}.", "容器拿不到 GPU：{reason}。"),
        Text(
            "Set up the NVIDIA Container Toolkit (nvidia-ctk), or use the GPU without a container: --backend local",
            "請設定 NVIDIA Container Toolkit（nvidia-ctk），或不用容器直接使用 GPU：--backend local",
        ),
    ),
    "container-stopped": (
        Text("Something stopped the container from outside: the engine, or another command.", "容器被外部停止了：可能是引擎，或其他指令。"),
        Text("Run the same command again.", "請再執行一次同樣的指令。"),
    ),
    "container-failed": (
        Text("The runner in the container ended by itself: {reason}.", "容器裡的執行程式自行結束了：{reason}。"),
        Text(
            "Build the image anew: nox -s images -- {lab} ; or run without a container: nox -s {lab} -- --backend local",
            "請重新建置映像檔：nox -s images -- {lab} ；或不用容器：nox -s {lab} -- --backend local",
        ),
    ),
    "image-gone": (
        Text("The image {image} is not here (any more).", "這裡沒有映像檔 {image}（或已被移除）。"),
        Text("Run the same command again: it is brought or built anew.", "請再執行一次同樣的指令，會重新取得或建置。"),
    ),
    "out-of-memory": (
        Text(
            "Out of memory: the container may use {limit_gb:.1f} GB (lab.toml says memory_gb = {budget_gb:g}).",
            "記憶體不足：容器最多可用 {limit_gb:.1f} GB（lab.toml 設定 memory_gb = {budget_gb:g}）。",
        ),
        Text(
            "Run it without that limit: nox -s {lab} -- --backend local",
            "以沒有上限的方式執行：nox -s {lab} -- --backend local",
        ),
    ),
}
