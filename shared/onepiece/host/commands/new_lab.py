"""`nox -s new-lab -- lab-9.9-name --like training`: a small working lab of a kind, and its image, for its author to replace.

`host/scaffold/common` has what labs of every kind have, `host/scaffold/<kind>` the rest, and a file of the kind takes the place of a common
one. In all of them `@LAB@` is the id; in the common ones `@name@` is what the kind's `words.toml` says for `name`.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from rich.console import Console

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import IMAGES, LABS
from onepiece.course.text import Text, tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road.local import kept_file

KINDS = {
    "peft": Text("something small that is put into a frozen model and trained", "在凍結的模型裡放進少量參數來訓練"),
    "training": Text("how a model is trained: gradients, memory, steps", "模型怎麼訓練：梯度、記憶體、步驟"),
    "serving": Text("a real server and what its clients get", "真正的伺服器，以及用戶端得到什麼"),
    "compression": Text("weights in fewer bits or fewer numbers", "用更少的位元或更少的數字存權重"),
}
SCAFFOLD = resources.files("onepiece.host") / "scaffold"
_WORDS = "words.toml"
_SUFFIX = ".in"  # what is only the mould of a module is no module


def command(console: Console, arguments: list[str]) -> int:
    """Scaffold `labs/<lab>/` and its `images/<lab>/Dockerfile`."""
    listed = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser = Parser(prog="nox -s new-lab --", description=tr("Scaffold a new lab.", "建立新實驗的骨架。"))
    parser.add_argument("lab")
    parser.add_argument("--like", choices=KINDS, metavar="KIND", help=tr("the kind of lab: ", "實驗的種類：") + listed)
    add_language(parser)
    options = parser.parse_args(arguments)
    _refuse_taken(options.lab)
    if options.like is None:
        raise UserError("which-kind", kinds=", ".join(KINDS), lab=options.lab, example="training")
    files = scaffold(options.lab, options.like)
    for directory in (LABS / options.lab, IMAGES / options.lab):
        directory.mkdir(parents=True)
    for name, content in files.items():
        place = (IMAGES if name == "Dockerfile" else LABS) / options.lab / name
        place.write_text(content, encoding="utf-8", newline="\n")
    _say_what_next(console, options.lab, files)
    return 0


def scaffold(lab_id: str, kind: str) -> dict[str, str]:
    """The files of a lab of a kind, by name; `Dockerfile` is that of its image."""
    moulds = _moulds("common") | _moulds(kind)
    words = tomllib.loads(moulds.pop(_WORDS))
    manifest = tomllib.loads(moulds["lab.toml"])
    words |= {"title": manifest["title"], "summary": manifest["summary"]}
    return {name: _filled(content, words, "zh-TW" if "zh-TW" in name else "en", lab_id) for name, content in moulds.items()}


def _moulds(directory: str) -> dict[str, str]:
    found: list[Traversable] = sorted((SCAFFOLD / directory).iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(_SUFFIX): entry.read_text(encoding="utf-8") for entry in found}


def _filled(content: str, words: dict[str, Any], language: str, lab_id: str) -> str:
    def said(found: re.Match[str]) -> str:
        return str(words[found[1]][language]).strip("\n")

    return re.sub(r"@([a-z]+)@", said, content).replace("@LAB@", lab_id)


def _refuse_taken(lab_id: str) -> None:
    """What the catalog would refuse is refused before anything is written."""
    if not catalog.LAB_ID.fullmatch(lab_id):
        raise UserError("bad-lab-id", lab=lab_id)
    for directory in (LABS / lab_id, IMAGES / lab_id):
        if directory.exists():
            raise UserError("lab-exists", path=kept_file(directory))
    number = lab_id.split("-")[1]
    course = catalog.load(LABS)
    for other in (*(lab.id for lab in course.labs), *course.problems):
        if other.split("-")[1] == number:
            raise UserError("lab-number-taken", number=number, other=other)


def _say_what_next(console: Console, lab_id: str, files: dict[str, str]) -> None:
    steps = [
        (f"nox -s {lab_id}", tr("run it", "執行它")),
        (f"nox -s check -- {lab_id} --reference", tr("its checks, on the reference", "用參考解跑它的檢查")),
        (f"nox -s {lab_id} -- --publish", tr("run it whole and keep the results", "完整執行並保存結果")),
        (f"nox -s mutate -- {lab_id} --gates --publish", tr("do checks and gates notice wrong code?", "檢查與關卡抓得到錯的程式碼嗎？")),
    ]
    if "calibration.py" in files:
        steps.append((f"nox -s calibrate -- {lab_id} --publish", tr("search the settings of both sides", "為兩邊搜尋設定")))
    steps.append(("nox -s catalog -- --readme", tr("into the list of both READMEs", "寫進兩份 README 的清單")))
    steps.append((f"nox -s tests -- {lab_id}", tr("everything about it", "關於它的所有測試")))
    wide = max(len(typed) for typed, _ in steps)
    made = f"{kept_file(LABS / lab_id)}, {kept_file(IMAGES / lab_id)}"
    console.print(tr(f"Made {made}. What to type now, and after each change:", f"已建立 {made}。現在與每次修改後要輸入："), soft_wrap=True)
    for typed, what in steps:
        console.print(f"  {typed:{wide}}  {what}", soft_wrap=True)
    console.print(tr("How a lab is written: CONTRIBUTING.md", "如何撰寫實驗：docs/guides/add-a-lab.zh-TW.md"))
