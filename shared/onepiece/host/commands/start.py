"""`nox -s start -- lab-X`: the learner's own copy, with the exercises still open."""

from __future__ import annotations

from rich.console import Console

from onepiece.course.errors import UserError
from onepiece.course.places import WORKSPACE
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.road import sources
from onepiece.host.road.local import kept_file
from onepiece.host.road.workspace import make_workspace


def command(console: Console, arguments: list[str]) -> int:
    """Make `workspace/<lab>/`; never overwrites what a learner wrote."""
    parser = Parser(
        prog="nox -s start --", description=tr("Make your own copy of a lab, with the exercises open.", "建立一份練習尚未完成的個人副本。")
    )
    parser.add_argument("lab", nargs="*")
    parser.add_argument(
        "--refresh", action="store_true", help=tr("add missing files; keep every existing one", "只補缺少的檔案，保留所有既有檔案")
    )
    add_language(parser)
    options = parser.parse_args(arguments)
    lab = one_lab(options.lab, "start")
    for problem in sources.verify(lab):
        raise problem
    target = WORKSPACE / lab.id
    if target.exists() and not options.refresh:
        raise UserError("workspace-exists", path=kept_file(target), lab=lab.id)
    added = make_workspace(lab, target, current_language())
    console.print(tr(f"Your copy of {lab.id}: {kept_file(target)}", f"你的 {lab.id} 副本：{kept_file(target)}"))
    console.print(tr(f"{len(added)} files added.", f"新增了 {len(added)} 個檔案。"))
    for path in (path for path in sources.modules(lab) if sources.solutions(path)):
        exercises = ", ".join(str(number) for number in sorted(sources.solutions(path)))
        console.print(f"  {kept_file(target / path.name)}  {tr('exercises', '練習')} {exercises}")
    guess = kept_file(target / "predictions.toml")
    console.print(tr(f"Guess first: {guess}", f"先猜猜看：{guess}"))
    console.print(tr(f"Open it: nox -s jupyter -- {lab.id} (or any editor)", f"開啟：nox -s jupyter -- {lab.id}（或任何編輯器）"))
    console.print(tr(f"Check your code: nox -s check -- {lab.id}", f"檢查你的程式碼：nox -s check -- {lab.id}"))
    console.print(tr(f"Run the lab on it: nox -s {lab.id} -- --mine", f"用你的程式碼執行整個實驗：nox -s {lab.id} -- --mine"))
    return 0
