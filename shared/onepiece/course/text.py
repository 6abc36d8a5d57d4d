"""Everything a learner reads exists in English and in Traditional Chinese."""

from __future__ import annotations

import locale
import os
from dataclasses import dataclass

LANGUAGES = ("en", "zh-TW")


@dataclass(frozen=True, slots=True)
class Text:
    """One message in both languages."""

    en: str
    zh_tw: str

    def __getitem__(self, language: str) -> str:
        """The message in `language`, one of `LANGUAGES`; KeyError otherwise."""
        if language not in LANGUAGES:
            raise KeyError(language)
        return self.en if language == "en" else self.zh_tw

    def __str__(self) -> str:
        return self[current_language()]

    def format(self, **values: object) -> Text:
        """The same message with its placeholders filled in."""
        return Text(self.en.format(**values), self.zh_tw.format(**values))


def current_language() -> str:
    """`ONEPIECE_LANG` if it names one of ours, else the locale's language, else English."""
    wanted = os.environ.get("ONEPIECE_LANG", "")
    if wanted in LANGUAGES:
        return wanted
    # Windows leaves LANG unset and tells its language only through the locale module.
    tag = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG")
    tag = tag or locale.getlocale()[0] or ""
    return "zh-TW" if tag.lower().startswith(("zh", "chinese")) else "en"


def tr(en: str, zh_tw: str) -> str:
    """The one of the two that the reader reads."""
    return zh_tw if current_language() == "zh-TW" else en
