"""Troubleshooting by symptom: what the program prints, from the same table that it prints from."""

from __future__ import annotations

import re

from onepiece.course.errors import known_errors

from .punctuation import colon

NEXT = {"en": "next", "zh-TW": "下一步"}
_PLACEHOLDER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
# A command inside a sentence: it ends before words that are none of its arguments.
_ARGUMENT = r"(?:-\S*|\{\w+\}\S*|lab-\S*|[A-Z]+\b|\d+\b|(?:cpu|cuda|gpu|local|container|json|engineer)\b)"
COMMAND = re.compile(rf"(?:uvx --python [\d.]+ )?nox -s (?:[a-z][\w.-]*|\{{\w+\}})(?: --(?: {_ARGUMENT})+)?|git checkout -- \S+")
_mentioned: dict[str, set[str]] = {"en": set(), "zh-TW": set()}


def error_list(argument: str, language: str) -> str:
    """The errors of these codes; `rest` are all that the page did not list before.

    Raises:
        KeyError: a code that the table does not have.
    """
    table = known_errors()
    wanted = argument.split()
    if wanted == ["rest"]:
        wanted = [code for code in table if code not in _mentioned[language]]
    _mentioned[language].update(wanted)
    entries = []
    for code in wanted:
        cause, remedy = (readable(text[language]) for text in table[code])
        entries.append(f"{cause}\n: {colon(NEXT[language], remedy, language)}")
    return "\n\n".join(entries)


def readable(sentence: str) -> str:
    """A sentence of the table as Markdown: commands as code, what is filled in within angle brackets, the rest escaped."""
    if not _PLACEHOLDER.sub("", sentence).strip(" :：,，"):
        return "`" + _PLACEHOLDER.sub(r"<\1>", sentence) + "`"
    parts = []
    end = 0
    for command in COMMAND.finditer(sentence):
        parts += [_prose(sentence[end : command.start()]), "`" + _PLACEHOLDER.sub(r"<\1>", command[0]).rstrip(".") + "`"]
        end = command.end() - command[0].endswith(".")
    return "".join([*parts, _prose(sentence[end:])])


def _prose(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]<>|#$])", r"\\\1", text)
    return _PLACEHOLDER.sub(lambda found: f"*\\<{found[1].replace(chr(92), '')}\\>*", escaped)
