"""The API key of the local stack: made once, and held to what the gateway asks of it before anything is started."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.places import RUNS
from onepiece.course.text import tr

DIRECTORY = RUNS / "serving"
_KEY = DIRECTORY / "key"
_FORM = r"[0-9A-Za-z_-]{32,256}"  # as in compose/gateway/start.sh: nothing that means something to nginx, and too long to be guessed


def api_key() -> str:
    """The key that clients must show, made at the first use; only this user can read it.

    Raises:
        UserError: "serving-key", if what is there is none that keeps anybody out.
    """
    private_directory()
    if not _KEY.exists():
        write_private(_KEY, secrets.token_hex(32))
    status = _KEY.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError("serving-key", path=_KEY, reason=tr("it is no file", "它不是檔案"))
    if status.st_mode & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        raise UserError(
            "serving-key", path=_KEY, reason=tr(f"others may read or change it (mode {mode})", f"其他使用者可以讀取或修改它（權限 {mode}）")
        )
    key = _KEY.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(_FORM, key):
        why = tr("it is not 32 to 256 letters, digits, _ and -", "它不是 32 到 256 個英文字母、數字、_ 或 -")
        raise UserError("serving-key", path=_KEY, reason=why)
    return key


def private_directory() -> None:
    """The stack's directory, which nobody else may enter: logs, sockets and configurations are in it."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    DIRECTORY.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Replace a file at once by one that only this user can read or change, whatever the umask."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)
