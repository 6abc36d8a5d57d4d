"""What someone types at a question -> an answer. Pure."""

from __future__ import annotations

import math
import random
import re
import string
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

from onepiece.course.quiz import Answer, Question
from onepiece.course.text import Text

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")
_FRACTION = re.compile(r"(?P<above>[+-]?\d{1,18})/(?P<below>\d{1,18})")


class NotAnAnswer(ValueError):
    """What was typed answers nothing; `says` tells the reader what would."""

    def __init__(self, says: Text) -> None:
        super().__init__(says.en)
        self.says = says


def shuffled(question: Question, quiz_id: str, seed: int) -> tuple[int, ...]:
    """The order in which the choices are shown: always the same for one seed; never the solution of an `order` question."""
    shown = list(range(len(question.choices)))
    chance = random.Random(f"{quiz_id} {question.id} {seed}")
    chance.shuffle(shown)
    if question.kind == "order" and tuple(shown) == question.right:
        shown = shown[1:] + shown[:1]
    return tuple(shown)


def letter(place: int) -> str:
    """The letter before the choice that is shown in this place, counted from 0."""
    return string.ascii_lowercase[place]


def how_to_answer(question: Question) -> Text:
    """What to type, in one line."""
    last = letter(max(len(question.choices) - 1, 0))
    if question.kind == "numeric" and not question.unit.en:
        return Text("a number", "一個數字")
    if question.kind == "numeric":
        return Text(f"a number, in {question.unit.en}", f"一個數字，單位是 {question.unit.zh_tw}")
    if question.kind == "order":
        example = "b a c" if len(question.choices) > 2 else "b a"
        return Text(f"all letters in order, like: {example}", f"依順序寫出全部字母，例如：{example}")
    if question.kind == "multiple":
        return Text(f"every right letter, a to {last}, like: ac", f"寫出所有正確的字母（a 到 {last}），例如：ac")
    return Text(f"one letter, a to {last}", f"一個字母（a 到 {last}）")


def parse(question: Question, typed: str, shown: Sequence[int]) -> Answer:
    """The answer that was typed.

    Args:
        question: what was asked.
        typed: one line: letters (`a`, `ac`, `b a c`) or a number (`4`, `4.0 GB`, `1,024`, `1e6`, `1/3`).
        shown: the choices' places in `question.choices`, in the order of their letters.

    Raises:
        NotAnAnswer: says what would be an answer.
    """
    # Full-width letters and digits come from Chinese keyboards.
    plain = unicodedata.normalize("NFKC", typed).strip().lower()
    return _number(question, plain) if question.kind == "numeric" else _letters(question, plain, shown)


def _letters(question: Question, plain: str, shown: Sequence[int]) -> Answer:
    letters = [character for character in plain if not re.match(r"[\s,;、>→-]", character)]
    known = [letter(place) for place in range(len(shown))]
    wrong = next((character for character in letters if character not in known), None)
    if wrong is not None or not letters:
        raise NotAnAnswer(how_to_answer(question))
    if len(set(letters)) < len(letters):
        raise NotAnAnswer(Text("one letter stands there twice", "有一個字母出現了兩次"))
    chosen = tuple(shown[known.index(character)] for character in letters)
    if question.kind == "order":
        if len(chosen) < len(shown):
            raise NotAnAnswer(how_to_answer(question))
        return chosen
    if question.kind == "single" and len(chosen) > 1:
        raise NotAnAnswer(Text("exactly one letter: only one choice is right", "請只寫一個字母：只有一個選項正確"))
    return frozenset(chosen)


def _number(question: Question, plain: str) -> float:
    for unit in (question.unit.en, question.unit.zh_tw):
        plain = plain.removesuffix(unicodedata.normalize("NFKC", unit).lower()).strip()
    plain = re.sub(r"[\s_]", "", plain)
    if _THOUSANDS.fullmatch(plain):
        plain = plain.replace(",", "")
    fraction = _FRACTION.fullmatch(plain)
    if fraction and int(fraction["below"]):
        return float(Fraction(int(fraction["above"]), int(fraction["below"])))
    if not _NUMBER.fullmatch(plain) or not math.isfinite(float(plain)):
        raise NotAnAnswer(how_to_answer(question))
    return float(plain)
