"""`nox -s start -- lab-X`: the learner's own copy, with the exercises still open."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console

from onepiece.catalog import Lab
from onepiece.errors import UserError
from onepiece.host import runs, sources
from onepiece.host.app import Parser, add_language, one_lab
from onepiece.host.local import kept_file
from onepiece.host.plan import Plan
from onepiece.places import WORKSPACE
from onepiece.text import Text, current_language, tr

_BY_HAND = Plan(
    "local", "cpu", "cpu", "cpu", (), (), reason=Text("opened by hand", "手動開啟"), change=Text("nox -s jupyter", "nox -s jupyter")
)


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
        exercises = ", ".join(str(number) for number in sources.solutions(path))
        console.print(f"  {kept_file(target / path.name)}  {tr('exercises', '練習')} {exercises}")
    guess = kept_file(target / "predictions.toml")
    console.print(tr(f"Guess first: {guess}", f"先猜猜看：{guess}"))
    console.print(tr(f"Open it: nox -s jupyter -- {lab.id} (or any editor)", f"開啟：nox -s jupyter -- {lab.id}（或任何編輯器）"))
    console.print(tr(f"Check your code: nox -s check -- {lab.id}", f"檢查你的程式碼：nox -s check -- {lab.id}"))
    console.print(tr(f"Run the lab on it: nox -s {lab.id} -- --mine", f"用你的程式碼執行整個實驗：nox -s {lab.id} -- --mine"))
    return 0


def make_workspace(lab: Lab, target: Path, language: str) -> list[Path]:
    """Write what is not there yet; returns the files that were added."""
    # Modules without exercises stay in the lab: they are importable there, and some of them give answers away.
    files: dict[Path, str] = {target / path.name: sources.starter_source(path) for path in sources.modules(lab) if sources.solutions(path)}
    for name in lab.notebooks:
        files[target / f"{name}.ipynb"] = sources.notebook_json(lab.directory / f"{name}.py", language)
    readme = lab.directory / ("README.zh-TW.md" if language == "zh-TW" else "README.md")
    if readme.exists():
        files[target / "README.md"] = readme.read_text(encoding="utf-8")
    files[target / "predictions.toml"] = _predictions(lab)
    added: list[Path] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            if not path.exists():
                added.append(path)
                path.write_text(content, encoding="utf-8", newline="\n")
        write_interactive_context(lab, _BY_HAND, target, language)
    except OSError:
        for path in added:  # half a copy would look like a whole one
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.rmdir()
        raise
    return added


def write_interactive_context(lab: Lab, plan: Plan, target: Path, language: str) -> None:
    """`.run/`, so that `onepiece.lab` works in a notebook opened by hand (JupyterLab, VS Code)."""
    options = runs.Options(language, lab.notebooks, mine=True)
    context = runs.context_json(lab, plan, options, sources.usage(lab), runs.read_predictions(lab), (), strict=False)
    (target / ".run").mkdir(exist_ok=True)
    runs.write_json(target / ".run" / "context.json", context)


def _predictions(lab: Lab) -> str:
    lines = [
        "# Guess before you run: metric = number. The run shows your guess beside what it measured.",
        "# 先猜再跑：指標 = 數字。執行後會把你的猜測放在量測值旁邊。",
    ]
    for metric in sources.usage(lab).predicted or [gate.metric for gate in lab.gates]:
        lines.append(f"# {metric} = ")
    return "\n".join(lines) + "\n"
