"""`python -m onepiece.host COMMAND ...`: what the nox sessions call, and the one place where errors become two lines and an exit code."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onepiece.course.errors import UserError, system_error
from onepiece.course.owner import end_with_owner
from onepiece.course.text import tr
from onepiece.host.road import damage

if TYPE_CHECKING:
    from rich.console import Console

_NOBODY_READS = 129  # what a shell says of a program that a closed terminal ended

Command = Callable[["Console", list[str]], int]


def main(arguments: Sequence[str]) -> int:
    """Run one command. Exit codes: 0 good, 1 the lab or the check said no, 2 a mistake, 130 interrupted."""
    from rich.markup import escape  # from here on, what an environment that lost a package lacks

    from onepiece.host.command_line import make_console, take_language
    from onepiece.host.interrupts import interruptible

    console = make_console()
    name, *rest = arguments
    try:
        with interruptible():
            end_with_owner()
            return _command(name)(console, take_language(rest))
    except OSError as error:
        if error.errno == errno.EIO and error.filename is None:  # the terminal is gone; of a pipe that is closed rich takes care
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more, at its end
            return _NOBODY_READS
        told = system_error(error)
        if told is None:
            raise
        mistake = told
    except UserError as error:
        mistake = error
    except KeyboardInterrupt:
        make_console(stderr=True).print(tr("Interrupted.", "已中斷。"))
        return 130
    line = (
        f"[bold red]{tr('error', '錯誤')}[/] {escape(str(mistake.cause))}\n[bold]{tr('next', '下一步')}[/]  {escape(str(mistake.remedy))}"
    )
    make_console(stderr=True).print(line, soft_wrap=True)
    return 2


def _command(name: str) -> Command:
    """The command of `commands/<session>.py`, imported when it is asked for: `catalog` need not wait for what `run` needs."""
    module = f"onepiece.host.commands.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or importlib.util.find_spec(module) is None:
        raise UserError("usage", what=f"unknown command {name}", session="catalog")
    return importlib.import_module(module).command


def run() -> int:
    """Dispatch; what nobody expected may come of an environment that lost something, and then says how to get it back."""
    try:
        return main(sys.argv[1:])
    except Exception:
        damaged = damage.broken(damage.this("host"), "catalog")
        if damaged is None:
            raise
        print(f"{damaged.cause}\n{damaged.remedy}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
