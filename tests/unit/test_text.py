"""Which language a reader gets."""

from __future__ import annotations

import locale
import os
import subprocess
import sys

import pytest
import toy_course

from onepiece.course.text import LANGUAGES, Text, current_language, tr

VARIABLES = ("ONEPIECE_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> object:
    """Set the variables that decide about the language, and no others; the C locale below them."""

    def set_variables(**values: str) -> str:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return current_language()

    monkeypatch.setattr(locale, "getlocale", lambda: (None, None))  # what the machine of the tests speaks must not matter
    return set_variables


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_TW.UTF-8"}, "zh-TW"),
        ({"LANG": "zh_CN.UTF-8"}, "zh-TW"),
        ({"LANG": "ja_JP.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh-TW"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "ONEPIECE_LANG": "en"}, "en"),
        ({"LANG": "en_US.UTF-8", "ONEPIECE_LANG": "zh-TW"}, "zh-TW"),
        ({"LANG": "zh_TW.UTF-8", "ONEPIECE_LANG": "klingon"}, "zh-TW"),
        ({"ONEPIECE_LANG": ""}, "en"),
    ],
)
def test_our_own_variable_comes_first_then_the_locale_then_english(speak, variables: dict[str, str], language: str) -> None:  # type: ignore[no-untyped-def]
    assert speak(**variables) == language
    assert tr("yes", "是") == {"en": "yes", "zh-TW": "是"}[language]
    assert str(Text("yes", "是")) == {"en": "yes", "zh-TW": "是"}[language]


def test_windows_tells_its_language_by_name(speak, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(locale, "getlocale", lambda: ("Chinese (Traditional)_Taiwan", "950"))
    assert speak() == "zh-TW"


def test_a_text_answers_in_the_languages_of_the_course_only() -> None:
    text = Text("{n} labs", "{n} 個實驗")
    assert [text.format(n=3)[language] for language in LANGUAGES] == ["3 labs", "3 個實驗"]
    with pytest.raises(KeyError):
        text["fr"]


def test_output_is_utf8_whatever_the_console_says() -> None:
    # Python's own default for a console in Big5; the host must answer in UTF-8 all the same.
    program = "from onepiece.host.command_line import make_console; make_console().print('中文 ✓ é')"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared"), "PYTHONIOENCODING": "cp950", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("utf-8").strip() == "中文 ✓ é"
