"""Command lines: one parser per nox session, and one place where errors become two lines and an exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from onepiece import catalog
from onepiece.errors import WRITE_ERRORS, UserError, write_error
from onepiece.host.interrupts import interruptible
from onepiece.host.view import make_console
from onepiece.text import LANGUAGES, tr


class Parser(argparse.ArgumentParser):
    """Bad options are the same two lines as every other mistake."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        # For every command: the noxfile rebuilds the host environment, and a command its lab's.
        self.add_argument("--fresh", action="store_true", help=tr("rebuild the environment first", "先重建環境"))

    def error(self, message: str) -> NoReturn:
        raise UserError("usage", what=message, session=self.prog.removeprefix("nox -s ").removesuffix(" --"))


Command = Callable[[Console, list[str]], int]


def main(arguments: Sequence[str]) -> int:
    """Run one command. Exit codes: 0 good, 1 the lab or the check said no, 2 a mistake, 130 interrupted."""
    console = make_console()
    name, *rest = arguments
    try:
        with interruptible():
            return _command(name)(console, _take_language(rest))
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        mistake = write_error(error)
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


def _take_language(arguments: list[str]) -> list[str]:
    """Apply `--lang` before any parser is made, so that `--help` and errors speak it too."""
    for index, argument in enumerate(arguments):
        value = argument.partition("=")[2] or (arguments[index + 1] if index + 1 < len(arguments) else "")
        if argument.partition("=")[0] == "--lang" and canonical_language(value) in LANGUAGES:
            os.environ["ONEPIECE_LANG"] = canonical_language(value)
    return arguments


def _command(name: str) -> Command:
    """Imported on demand: `catalog` need not wait for what `run` needs."""
    if name == "run":
        from onepiece.host.run_lab import command
    elif name == "labs":
        from onepiece.host.run_labs import command
    elif name == "catalog":
        from onepiece.host.show_catalog import command
    elif name == "start":
        from onepiece.host.start import command
    elif name == "check":
        from onepiece.host.check import command
    elif name == "doctor":
        from onepiece.host.doctor import command
    elif name == "jupyter":
        from onepiece.host.jupyter import command
    elif name == "fetch":
        from onepiece.host.fetch import command
    elif name == "new-lab":
        from onepiece.host.new_lab import command
    elif name == "docs":
        from onepiece.host.docs import command
    elif name == "quiz":
        from onepiece.host.ask_quiz import command
    elif name == "progress":
        from onepiece.host.progress import command
    elif name == "feedback":
        from onepiece.host.feedback import command
    elif name == "clean":
        from onepiece.host.clean import command
    elif name == "images":
        from onepiece.host.build_images import command
    elif name == "serving":
        from onepiece.host.serving import command
    elif name == "pin":
        from onepiece.host.pin import command
    else:
        raise UserError("usage", what=f"unknown command {name}", session="catalog")
    return command


def add_language(parser: argparse.ArgumentParser) -> None:
    """`--lang`, for every command that shows or makes something in one language."""
    parser.add_argument(
        "--lang",
        type=canonical_language,
        choices=LANGUAGES,
        default=os.environ.get("ONEPIECE_LANG") or None,
        help=tr("language of notebooks and messages", "筆記本與訊息的語言"),
    )


def canonical_language(text: str) -> str:
    """`zh-tw` and `ZH-TW` mean `zh-TW`."""
    return next((language for language in LANGUAGES if language.lower() == text.lower()), text)


def one_lab(given: Sequence[str], command: str) -> catalog.Lab:
    """The one lab that a command was given."""
    course = catalog.load()
    if len(given) != 1:
        example = course.labs[0].id if course.labs else "lab-1.5-flashattention"
        raise UserError("which-lab", given=" ".join(given) or tr("none", "無"), command=command, example=example)
    return course.lab(given[0])


def directory_argument(text: str) -> Path:
    """`--model PATH`, `--environment DIR`, as typed, with `~` expanded."""
    return Path(text).expanduser()
