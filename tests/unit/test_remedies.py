"""What an error tells the user to type can be typed: the session exists, takes these options, and is given what it needs."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Iterator

import pytest
import toy_course

from onepiece.course import catalog
from onepiece.course.errors import known_errors
from onepiece.host.command_line import Parser, make_console
from onepiece.host.road.damage import rebuilding

sys.path.insert(0, str(toy_course.ROOT / "docs"))

from extension.troubleshooting import COMMAND

LAB = catalog.load().labs[0].id
SAMPLES = {
    "lab": LAB, "nearest": LAB, "example": LAB, "image": LAB, "name": "tiny", "number": "01", "kind": "training", "session": LAB,
    "command": "check",
}  # fmt: skip
NOT_OF_THE_HOST = {"lock", "pretrain"}  # sessions of the noxfile, which parse their options elsewhere
HOST = toy_course.ROOT / "shared" / "onepiece" / "host"


class Parsed(Exception):
    """The options were understood."""


def remedies() -> Iterator[tuple[str, str]]:
    for code, (_, remedy) in known_errors().items():
        for found in COMMAND.finditer(remedy.en):  # as the site finds the commands in these sentences
            if "nox -s" in found[0] and code != "usage":  # argparse itself answers --help
                values = SAMPLES | ({"example": "training"} if "--like {example}" in found[0] else {})
                yield code, found[0].rstrip(".").format(**values)


def rebuilds() -> Iterator[str]:
    """What `--fresh` is printed behind: the sessions that sources hand to `environments` as what the user typed."""
    given = re.compile(r'(?:prepare_environment\(.*?|session=|return )f?"([a-z-]+(?: -- [^"]+)?)"|damage\.this\("host"\), "([a-z]+)"')
    for path in sorted(HOST.rglob("*.py")):
        for found in given.finditer(path.read_text(encoding="utf-8")):
            text = found[1] or found[2]
            if " -- " in text or text in ("docs", "catalog", "doctor"):
                yield rebuilding(re.sub(r"\{lab\.id\}", LAB, text))


@pytest.fixture
def parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop each command where it has understood its options."""

    def parse(self: argparse.ArgumentParser, arguments: list[str] | None = None, namespace: None = None) -> argparse.Namespace:
        understood = argparse.ArgumentParser.parse_args(self, arguments)
        raise Parsed(understood)

    monkeypatch.setattr(Parser, "parse_args", parse)


def understood(command: str) -> argparse.Namespace | None:
    words = shlex.split(command.partition("nox -s ")[2])
    session, arguments = words[0], words[2:] if words[1:2] == ["--"] else words[1:]
    if session in NOT_OF_THE_HOST:
        assert re.search(rf'(?:def |command\("){session}\b', (toy_course.ROOT / "noxfile.py").read_text(encoding="utf-8"))
        return None
    name, given = ("run", [session, *arguments]) if session.startswith("lab-") else (session, arguments)
    module = importlib.import_module(f"onepiece.host.commands.{name.replace('-', '_')}")
    with pytest.raises(Parsed) as found:
        module.command(make_console(), given)
    return found.value.args[0]


@pytest.mark.fault("untested-remedy")
@pytest.mark.parametrize(("code", "command"), list(remedies()))
def test_what_a_remedy_says_can_be_typed(parsing: None, code: str, command: str) -> None:
    needs_a_lab(understood(command), command)


@pytest.mark.fault("untested-remedy")
@pytest.mark.parametrize("command", sorted(set(rebuilds())))
def test_what_rebuilds_an_environment_can_be_typed(parsing: None, command: str) -> None:
    options = understood(command)
    assert options is not None and options.fresh
    needs_a_lab(options, command)


def needs_a_lab(options: argparse.Namespace | None, command: str) -> None:
    if hasattr(options, "lab") and not command.endswith(("nox -s quiz", "nox -s catalog")):
        assert options.lab, f"{command}: this session needs a lab"


def test_there_was_something_to_type() -> None:
    assert len(list(remedies())) > 30
    assert {"check", "calibrate", "jupyter", "fetch", "serving", "catalog"} <= {shlex.split(command)[2] for command in rebuilds()}
