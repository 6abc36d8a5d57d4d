"""Every error a user can meet: one line that says what is wrong, one that says what to type next.

The tables in `messages` are the single source of these sentences: the program prints them and the troubleshooting
page is made from them. Errors that only an author of a lab meets carry their detail in English.
"""

from __future__ import annotations

import errno

from onepiece.course.messages import course, host, lab
from onepiece.course.places import HOME
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


def write_error(error: OSError) -> UserError:
    """A failed write (its errno is one of `WRITE_ERRORS`) as the user reads it."""
    path = error.filename or HOME  # a failed write() does not say which file it was
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("disk-full", path=path)
    return UserError("no-write", path=path, reason=error.strerror or error)


def known_errors() -> dict[str, tuple[Text, Text]]:
    """Code -> (cause, remedy), with their placeholders, in the order of the table."""
    return dict(_ERRORS)
