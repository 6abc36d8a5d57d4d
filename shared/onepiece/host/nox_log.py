"""What nox itself says beside a command: nothing in red about what is no failure. Standard library only: every start of nox reads this."""

from __future__ import annotations

import logging

_answered: set[str] = set()


def hush() -> None:
    """Leave out that nox found no uv, which nothing here needs, and the command line of a host that said itself why it ended."""
    logging.getLogger("nox").addFilter(_worth_saying)


def answered(command: str, exit_code: int | None) -> None:
    """A command of the host ended like this: of a check with open exercises nox does not say that it failed. Scripts get the exit code."""
    if command == "check" and exit_code == 1:
        _answered.add(f"Session {command} failed.")


def _worth_saying(record: logging.LogRecord) -> bool:
    text = str(record.msg)
    return not ("uv binary" in text or (text.startswith("Command ") and " -m onepiece.host " in text) or text in _answered)
