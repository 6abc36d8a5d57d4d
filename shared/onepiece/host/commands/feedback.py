"""`nox -s feedback -- lab-X`: a short form, kept as a file. Nothing leaves this machine by itself."""

from __future__ import annotations

import datetime
import platform
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from rich.console import Console
from rich.markup import escape

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.json_objects import read_object
from onepiece.course.places import HOME, ROOT, RUNS
from onepiece.course.text import Text, tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.interrupts import read_line
from onepiece.host.road import runs
from onepiece.host.road.local import kept_file

DIRECTORY = HOME / "feedback"
TEMPLATE = "lab-feedback.yml"  # in .github/ISSUE_TEMPLATE


@dataclass(frozen=True, slots=True)
class Field:
    """One question of the form; `id` is also that of the field in the issue template."""

    id: str
    asks: Text
    allowed: tuple[str, ...] = ()  # any text, if empty


FIELDS = (
    Field("clarity", Text("How clear was it? 1 (lost) to 5 (clear)", "說明清楚嗎？1（看不懂）到 5（很清楚）"), ("1", "2", "3", "4", "5")),
    Field("minutes", Text("How many minutes did it take you?", "你花了幾分鐘？")),
    Field("stuck", Text("Where were you stuck, and for how long?", "你卡在哪裡？卡了多久？")),
    Field("wrong", Text("What was wrong or misleading?", "哪裡有錯，或容易誤導？")),
    Field("missing", Text("What did you expect and not find?", "你期待看到、但沒有看到什麼？")),
    Field("keep", Text("What should stay as it is?", "哪些地方應該維持現狀？")),
)


def command(console: Console, arguments: list[str]) -> int:
    """Ask the form and save it; 130 if it was left, with what was written by then."""
    parser = Parser(prog="nox -s feedback --", description=tr("Tell what you think of a lab.", "說說你對一個實驗的意見。"))
    parser.add_argument("lab", nargs="*")
    add_language(parser)
    lab = one_lab(parser.parse_args(arguments).lab, "feedback")
    if not sys.stdin.isatty():
        raise UserError("feedback-needs-terminal", template=f".github/ISSUE_TEMPLATE/{TEMPLATE}")
    console.print(f"[bold]{lab.id}[/]  {escape(str(lab.title))}")
    console.print(
        tr(
            "Every question may be left empty. It is saved on this machine and sent nowhere.",
            "每一題都可以留空。內容只存在這台機器上，不會送出。",
        ),
        style="dim",
    )
    answers, finished = _ask(console)
    if not any(answers.values()):
        console.print(tr("Nothing was written, and nothing was saved.", "沒有填寫任何內容，也沒有儲存。"))
        return 0 if finished else 130
    path = save(lab, answers)
    console.print(tr(f"Saved: {kept_file(path)}", f"已儲存：{kept_file(path)}"), soft_wrap=True)
    for line in how_to_send(lab, path, answers, repository()):
        console.print(escape(line), soft_wrap=True)
    return 0 if finished else 130


def _ask(console: Console) -> tuple[dict[str, str], bool]:
    answers: dict[str, str] = {}
    try:
        for field in FIELDS:
            console.print(f"\n{escape(str(field.asks))}")
            answers[field.id] = _typed(console)
            while field.allowed and answers[field.id] and answers[field.id] not in field.allowed:
                console.print(f"[yellow]{' | '.join(field.allowed)}[/]")
                answers[field.id] = _typed(console)
    except (KeyboardInterrupt, EOFError):
        console.print()
        return answers, False
    return answers, True


def _typed(console: Console) -> str:
    console.print("[bold]>[/] ", end="")
    return read_line().strip()


def save(lab: Lab, answers: dict[str, str]) -> Path:
    """Write `feedback/<lab>-<time>.md`, a new file each time."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    lines = [f"# {lab.id}", "", *(f"- {name}: {value}" for name, value in about(lab).items())]
    for field in FIELDS:
        lines += ["", f"## {field.asks}", "", answers.get(field.id) or "—"]
    for attempt in range(1, 1000):
        path = DIRECTORY / f"{lab.id}-{stamp}{'' if attempt == 1 else f'-{attempt}'}.md"
        try:
            with path.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write("\n".join(lines) + "\n")
        except FileExistsError:
            continue
        return path
    raise FileExistsError(str(DIRECTORY))


def about(lab: Lab) -> dict[str, str]:
    """What helps whoever reads it: the version of the course, the system, how the last run ended. No names, no paths."""
    git = runs.git_state()
    commit = (git["commit"] or "?")[:12] + (" (changed)" if git["dirty"] else "")
    return {
        "course": commit,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "last run": _last_run(lab),
    }


def _last_run(lab: Lab) -> str:
    for path in sorted((RUNS / lab.id).glob("*/results.json"), key=lambda found: found.stat().st_mtime, reverse=True):
        results = read_object(path)
        try:
            return f"{results['status']}, {results['profile']} on {results['device']}, {results['seconds'] / 60:.1f} min"
        except (KeyError, TypeError):
            continue
    return "none"


def repository() -> str | None:
    """The course's repository, if its owner is set (`[project.urls]` in pyproject.toml)."""
    file = ROOT / "pyproject.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    return table.get("project", {}).get("urls", {}).get("repository")


def how_to_send(lab: Lab, path: Path, answers: dict[str, str], url: str | None) -> list[str]:
    """What to type or open to send it; the link fills in the form, and sends nothing before its reader does."""
    if not url:
        return [
            tr(
                "How to send it: give the file to whoever gave you the course. "
                "There is no link, because repository in [project.urls] of pyproject.toml is not set.",
                "如何送出：請把檔案交給提供課程給你的人。這裡沒有連結，因為 pyproject.toml 的 [project.urls] 還沒有設定 repository。",
            )
        ]
    fields = {"template": TEMPLATE, "title": f"{lab.id}: ", "lab": lab.id} | {name: text for name, text in answers.items() if text}
    link = f"{url.rstrip('/')}/issues/new?{urlencode(fields)}"
    if len(link) > 6000:  # longer ones are refused by servers; the file has it all
        link = f"{url.rstrip('/')}/issues/new?{urlencode({'template': TEMPLATE, 'lab': lab.id})}"
    return [tr("To send it, open this link, look it over, and submit:", "要送出的話，打開這個連結，確認內容後送出："), link]
