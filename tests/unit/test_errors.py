"""Every error that a user can meet is in the table, in both languages, and gets what its sentences need."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest
import toy_course

from onepiece.course.errors import UserError, known_errors
from onepiece.course.messages import course, host, lab
from onepiece.course.text import Text

ERRORS = known_errors()


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def raised() -> dict[str, list[tuple[str, set[str]]]]:
    """Code -> where it is raised and with what, over all sources of the course."""
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for path in [toy_course.ROOT / "noxfile.py", *sorted((toy_course.ROOT / "shared").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                where = f"{path.relative_to(toy_course.ROOT)}:{node.lineno}"
                assert node.args and isinstance(node.args[0], ast.Constant), f"{where}: the code is not a literal"
                given = {keyword.arg or "**" for keyword in node.keywords}
                found.setdefault(str(node.args[0].value), []).append((where, given))
    return found


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_says_the_same_in_both_languages(code: str) -> None:
    for text in ERRORS[code]:
        assert text.en.strip() and text.zh_tw.strip()
        assert placeholders(text.en) == placeholders(text.zh_tw)
        if re.sub(r"\{[^}]*\}", "", text.en).strip():  # more than what is filled in
            assert text.en != text.zh_tw
            assert re.search(r"[\u4e00-\u9fff]|：", text.zh_tw), "no Chinese in it"
        assert "\n" not in text.en + text.zh_tw, "one line of cause, one of remedy"


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_says_what_to_type_or_to_do_next(code: str) -> None:
    _, remedy = ERRORS[code]
    assert remedy.en[0].isupper() or remedy.en.startswith("{")
    assert len(remedy.en) > 10


def test_every_error_in_the_table_can_happen() -> None:
    assert sorted(set(ERRORS) - set(raised())) == []


def test_every_error_that_is_raised_is_in_the_table_and_gets_exactly_what_it_needs() -> None:
    for code, places in raised().items():
        assert code in ERRORS, places
        needed = set().union(*(placeholders(text) for both in ERRORS[code] for text in (both.en, both.zh_tw)))
        for where, given in places:
            assert given == needed, f"{where}: {code}"


def test_no_code_is_in_two_tables() -> None:
    tables = (course.MESSAGES, lab.MESSAGES, host.MESSAGES)
    assert sum(map(len, tables)) == len(ERRORS)


def test_values_with_braces_are_shown_as_they_are() -> None:
    error = UserError("bad-manifest", where="{lab}", what='{ en = "" }')
    assert error.cause.en == '{lab}: { en = "" }'
    assert str(error).startswith('{lab}: { en = "" } Mend the file')


def test_the_table_is_a_copy_that_nobody_can_damage() -> None:
    known_errors()["usage"] = (Text("", ""), Text("", ""))
    assert known_errors()["usage"] == ERRORS["usage"]


def test_the_sources_were_found() -> None:
    assert len(raised()) > 10
    assert Path(toy_course.ROOT / "shared/onepiece/host/command_line.py").exists()
