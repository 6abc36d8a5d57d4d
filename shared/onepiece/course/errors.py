"""Every error a user can meet: one line that says what is wrong, one that says what to type next.

The tables in `messages` are the single source of these sentences: the program prints them and the troubleshooting
page is made from them. Errors that only an author of a lab meets carry their detail in English.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from onepiece.course.messages import course, host, lab
from onepiece.course.places import ENVIRONMENTS, HOME, RUNS, WORKSPACE
from onepiece.course.text import Text

_ERRORS: dict[str, tuple[Text, Text]] = {**course.MESSAGES, **lab.MESSAGES, **host.MESSAGES}


class UserError(Exception):
    """A mistake or a missing part that the user can mend; shown without a traceback."""

    def __init__(self, code: str, **values: object) -> None:
        cause, remedy = _ERRORS[code]
        self.code = code
        self.cause = cause.format(**values)
        self.remedy = remedy.format(**values)
        super().__init__(f"{self.cause.en} {self.remedy.en}")


WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_OUT_OF_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)


def system_error(error: OSError) -> UserError | None:
    """What the operating system refused as the user reads it, if it is theirs to mend: a failed write, or something in the way of what we
    keep (a file where a directory must be; one that was removed while it was in use). None for everything else."""
    if error.errno in WRITE_ERRORS:
        return write_error(error)
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
    if error.errno not in _OUT_OF_PLACE or path is None or not any(path.is_relative_to(kept) for kept in (RUNS, WORKSPACE, ENVIRONMENTS)):
        return None
    return UserError("out-of-place", path=path, reason=error.strerror or error)


def write_error(error: OSError) -> UserError:
    """A failed write (its errno is one of `WRITE_ERRORS`) as the user reads it."""
    path = error.filename or HOME  # a failed write() does not say which file it was
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("disk-full", path=path)
    return UserError("no-write", path=path, reason=error.strerror or error)


def known_errors() -> dict[str, tuple[Text, Text]]:
    """Code -> (cause, remedy), with their placeholders, in the order of the table."""
    return dict(_ERRORS)
