"""What a learner handed in: which of its files are taken, and which are not, and why.

Taken are the modules with exercises, and modules of the learner's own beside them. Whatever else the course has is the course's own:
its checks, its mistakes, its packages. Where a module with exercises is not there, its starter is, never the reference.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.road import sources

MODULE_BYTES = 2**20  # more than any module that somebody wrote by hand

_NOT_THERE = Text("it is not there", "檔案不存在")
_NO_FILE = Text("it is a link or no file", "它是連結，或不是檔案")
_TOO_LARGE = Text("it has more than {limit} bytes", "它超過 {limit} 個位元組").format(limit=MODULE_BYTES)
_NO_TEXT = Text("it is not UTF-8 text", "它不是 UTF-8 文字檔")
_OURS = Text("the course's own is used", "使用課程自己的版本")
_HIDES = Text("it would hide a module of Python or of the course", "它會遮蔽 Python 或課程的模組")
_DIRECTORY = Text("modules in directories are not taken", "不採用目錄裡的模組")


@dataclass(frozen=True, slots=True)
class Submission:
    """The files of a submission."""

    modules: Mapping[str, bytes]  # file name -> content, of what is taken
    missing: Mapping[str, Text]  # modules with exercises that cannot be taken -> why
    ignored: Mapping[str, Text]  # other files that are not taken -> why

    @property
    def sha256(self) -> str:
        """One hash over the modules that are taken."""
        digest = hashlib.sha256()
        for name, content in sorted(self.modules.items()):
            digest.update(name.encode() + b"\0" + content + b"\0")
        return digest.hexdigest()


def exercise_modules(lab: Lab) -> dict[str, tuple[int, ...]]:
    """The modules of a lab that have exercises -> the numbers of these."""
    found = {path.name: tuple(sources.solutions(path)) for path in sources.modules(lab)}
    return {name: numbers for name, numbers in found.items() if numbers}


def read(lab: Lab, directory: Path) -> Submission:
    """Look through a submission; nothing of it is run.

    Raises:
        UserError: "no-submission", "not-a-submission".
    """
    if not directory.is_dir():
        raise UserError("no-submission", path=directory, lab=lab.id)
    wanted = exercise_modules(lab)
    _require_this_lab(lab, directory, wanted)
    modules: dict[str, bytes] = {}
    missing: dict[str, Text] = {}
    ignored: dict[str, Text] = {}
    for name in wanted:
        content = _content(directory / name)
        if isinstance(content, bytes):
            modules[name] = content
        else:
            missing[name] = content
    ours = {path.name for path in lab.directory.glob("*.py")} | {f"{name}.py" for name in lab.notebooks}
    for path in sorted(directory.iterdir()):
        if path.name in wanted or not _is_importable(path):
            continue
        why = _why_not(path, ours)
        content = why or _content(path)
        if isinstance(content, bytes):
            modules[path.name] = content
        else:
            ignored[path.name] = content
    return Submission(modules, missing, ignored)


def stage(lab: Lab, submission: Submission, target: Path) -> None:
    """Make the directory that is checked: the lab without notebooks and without the reference, with what was handed in.

    Raises:
        OSError: it cannot be written.
    """
    left_out = {"results", "__pycache__", *exercise_modules(lab), *(f"{name}.py" for name in lab.notebooks)}
    shutil.copytree(lab.directory, target, ignore=lambda directory, names: left_out & set(names))
    for name in submission.missing:
        (target / name).write_text(sources.starter_source(lab.directory / name), encoding="utf-8", newline="\n")
    for name, content in submission.modules.items():
        (target / name).write_bytes(content)


def needed_names(lab: Lab) -> dict[str, list[str]]:
    """Module with exercises -> what the course's own modules, `checks.py` above all, import from it."""
    wanted = {name.removesuffix(".py"): name for name in exercise_modules(lab)}
    found: dict[str, set[str]] = {name: set() for name in wanted.values()}
    notebooks = {f"{name}.py" for name in lab.notebooks}
    for path in sorted(lab.directory.glob("*.py")):
        if path.name in notebooks or path.name in found:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module in wanted:
                found[wanted[node.module]] |= {alias.name for alias in node.names}
    return {name: sorted(names) for name, names in found.items()}


def _require_this_lab(lab: Lab, directory: Path, wanted: Mapping[str, object]) -> None:
    reason = None
    if not any((directory / name).exists() for name in wanted):
        reason = Text("it has none of {files}", "裡面沒有 {files}").format(files=", ".join(wanted))
    try:
        context = json.loads((directory / ".run" / "context.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not made by `start`, or cleaned up: the modules decide
        context = None
    if isinstance(context, dict) and context.get("lab") not in (None, lab.id):
        reason = Text("it was made for {other}", "它是為 {other} 建立的").format(other=context["lab"])
    if reason is not None:
        raise UserError("not-a-submission", path=directory, lab=lab.id, reason=reason)


def _is_importable(path: Path) -> bool:
    """Could Python import this: a module, or a directory with modules?"""
    if path.suffix == ".py":
        return True
    return path.name.isidentifier() and path.is_dir() and path.name != "__pycache__" and next(path.glob("*.py"), None) is not None


def _why_not(path: Path, ours: set[str]) -> Text | None:
    if path.name in ours:
        return _OURS
    if sources.hides(path.stem):
        return _HIDES
    return _DIRECTORY if path.is_dir() else None


def _content(path: Path) -> bytes | Text:
    """The bytes of a module, or why it is not taken. A link could point at the reference, or at anything else here."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return _NO_FILE
    if not path.exists():
        return _NOT_THERE
    if path.stat().st_size > MODULE_BYTES:
        return _TOO_LARGE
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return _NO_TEXT
    return content
