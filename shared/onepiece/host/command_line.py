"""Command lines: the parser that every nox session's command has, and what several of them take."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from onepiece.course import catalog, learning_paths
from onepiece.course.errors import UserError
from onepiece.course.json_objects import read_object
from onepiece.course.places import WORKSPACE
from onepiece.course.text import LANGUAGES, tr

_PLAIN_WIDTH = 120  # of logs, where no terminal says how wide it is


class Parser(argparse.ArgumentParser):
    """Bad options are the same two lines as every other mistake."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        # For every command: the noxfile rebuilds the host environment, and a command its lab's.
        self.add_argument("--fresh", action="store_true", help=tr("rebuild the environment first", "先重建環境"))

    def error(self, message: str) -> NoReturn:
        raise UserError("usage", what=message, session=self.prog.removeprefix("nox -s ").removesuffix(" --"))


def make_console(*, stderr: bool = False) -> Console:
    """A console that can write every character, whatever the terminal's code page says."""
    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="replace")
    console = Console(file=stream, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=_PLAIN_WIDTH)
    return console


def take_language(arguments: list[str]) -> list[str]:
    """Apply `--lang` before any parser is made, so that `--help` and errors speak it too; gives the arguments back."""
    for index, argument in enumerate(arguments):
        value = argument.partition("=")[2] or (arguments[index + 1] if index + 1 < len(arguments) else "")
        if argument.partition("=")[0] == "--lang" and canonical_language(value) in LANGUAGES:
            os.environ["ONEPIECE_LANG"] = canonical_language(value)
    return arguments


def speak_as_the_copy(lab_id: str, language: str | None) -> None:
    """Without --lang, speak the language that the learner's copy was made in."""
    chosen = read_object(WORKSPACE / lab_id / ".run" / "context.json").get("language")
    if language is None and chosen in LANGUAGES:
        os.environ["ONEPIECE_LANG"] = chosen


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
    """`zh-tw`, `ZH-TW` and `zh` mean `zh-TW`."""
    return next((language for language in LANGUAGES if text.lower() in (language.lower(), language.partition("-")[0])), text)


def one_lab(given: Sequence[str], command: str) -> catalog.Lab:
    """The one lab that a command was given."""
    course = catalog.load()
    if len(given) != 1:
        there = [lab.id for lab in course.labs]
        start = learning_paths.load(labs=course.labs).start
        example = start if start in there or not there else there[0]
        raise UserError("which-lab", given=" ".join(given) or tr("none", "無"), command=command, example=example)
    return course.lab(given[0])


def directory_argument(text: str) -> Path:
    """`--model PATH`, `--environment DIR`, as typed, with `~` expanded."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 -- Path's own raises for a user that does not exist
