"""Quizzes as data: `quiz.toml` of a lab or a chapter -> frozen dataclasses, and what a right answer is.

Stdlib only. The terminal (`nox -s quiz`) and the pages of the site ask the same questions from here. A question with a
choice that has no explanation is an error: whoever answers learns why, whatever they chose.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.learning_paths import CHAPTER_DIRECTORY, CHAPTERS
from onepiece.course.places import LABS, ROOT
from onepiece.course.text import LANGUAGES, Text

KINDS = ("single", "multiple", "numeric", "order")
MAX_CHOICES = 8
_QUESTION_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ROUNDING = 1e-9  # 4.04 is within 1% of 4, whatever floats say

# Choices by their place in `Question.choices`: which ones (single, multiple), or in which order; or a number.
Answer = frozenset[int] | tuple[int, ...] | float


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a question. In an `order` question the choices stand in the right order, and none is `correct`."""

    text: Text
    explanation: Text
    correct: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One question: with choices, or (`numeric`) with an answer, its relative tolerance and its unit."""

    id: str
    kind: str
    prompt: Text
    choices: tuple[Choice, ...] = ()
    answer: float | None = None
    tolerance: float = 0.0  # relative: 0.01 accepts answers within 1%
    unit: Text = field(default_factory=lambda: Text("", ""))  # empty: a plain number
    explanation: Text | None = None  # of a numeric answer

    @property
    def right(self) -> Answer:
        """The right answer."""
        if self.answer is not None:
            return self.answer
        if self.kind == "order":
            return tuple(range(len(self.choices)))
        return frozenset(index for index, choice in enumerate(self.choices) if choice.correct)


@dataclass(frozen=True, slots=True)
class Quiz:
    """The questions of a lab (`id` is the lab's) or of a chapter (`id` is its number, "1.3")."""

    id: str
    path: Path
    questions: tuple[Question, ...]

    def question(self, question_id: str) -> Question | None:
        """The question of that id, if it is (still) asked."""
        return next((question for question in self.questions if question.id == question_id), None)


def grade(question: Question, answer: Answer) -> bool:
    """Is `answer` right?

    Args:
        question: what was asked.
        answer: a set of choices (single, multiple), a sequence of choices (order), or a number in the question's unit.

    Raises:
        TypeError: an answer of another kind than the question's.
    """
    expected = type(question.right)
    if question.answer is not None and isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return abs(answer - question.answer) <= question.tolerance * abs(question.answer) * (1 + _ROUNDING)
    if question.answer is not None or not isinstance(answer, expected):
        raise TypeError(f"{question.id} ({question.kind}) wants {expected.__name__}, and got {answer!r}")
    return answer == question.right


# --- where quizzes are --------------------------------------------------------------------------


def quiz_files(labs: Path = LABS, chapters: Path = CHAPTERS) -> dict[str, Path]:
    """Quiz id -> file, over chapters ("1.3") and labs ("lab-1.5-flashattention"), in course order."""
    found: dict[str, Path] = {}
    for path in chapters.glob("*/quiz.toml"):
        directory = CHAPTER_DIRECTORY.fullmatch(path.parent.name)
        if directory:
            found[directory["chapter"]] = path
    found |= {path.parent.name: path for path in labs.glob("*/quiz.toml")}
    return dict(sorted(found.items(), key=lambda item: _course_order(item[0])))


def _course_order(quiz_id: str) -> tuple[list[int], bool, str]:
    numbers = re.match(r"(?:lab-)?(\d+(?:\.\d+)*)", quiz_id)
    return [int(number) for number in numbers[1].split(".")] if numbers else [], quiz_id.startswith("lab-"), quiz_id


def find(wanted: str, files: Mapping[str, Path]) -> Path:
    """The file of the quiz `wanted`: its id, or the only id of which it is the beginning (`lab-1.5`).

    Raises:
        UserError: "no-quiz", with the nearest.
    """
    if wanted in files:
        return files[wanted]
    begins = [quiz_id for quiz_id in files if quiz_id.startswith(wanted + "-")]
    if len(begins) == 1:
        return files[begins[0]]
    nearest = (difflib.get_close_matches(wanted, files, n=1, cutoff=0.0) or ["..."])[0]
    raise UserError("no-quiz", quiz=wanted, nearest=nearest)


# --- one file -----------------------------------------------------------------------------------


def load(path: Path) -> Quiz:
    """Read and check one `quiz.toml`.

    Raises:
        UserError: "bad-quiz", with file, question and what is missing or wrong: the first of `problems`.
    """
    questions, found = _read(path)
    if found:
        raise found[0]
    directory = CHAPTER_DIRECTORY.fullmatch(path.parent.name)
    return Quiz(directory["chapter"] if directory else path.parent.name, path, tuple(questions))


def problems(path: Path) -> list[UserError]:
    """What is wrong with a `quiz.toml`: at most one problem of each question."""
    return _read(path)[1]


def _read(path: Path) -> tuple[list[Question], list[UserError]]:
    questions: list[Question] = []
    found: list[UserError] = []
    try:
        tables = _tables(path)
    except UserError as error:
        return [], [error]
    seen: set[str] = set()
    for number, values in enumerate(tables, start=1):
        try:
            question = _question(_Table(path, f"question {number}", values))
            if question.id in seen:
                raise _bad(path, f"question {question.id}", "the id is used twice")
        except UserError as error:
            found.append(error)
            continue
        seen.add(question.id)
        questions.append(question)
    return questions, found


def _tables(path: Path) -> list[dict[str, Any]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no TOML
        raise _bad(path, "", f"cannot be read: {error}") from None
    unknown = sorted(set(table) - {"questions"})
    if unknown:
        raise _bad(path, "", f"unknown key {unknown[0]}; allowed: [[questions]]")
    tables = table.get("questions")
    if not isinstance(tables, list) or not tables or not all(isinstance(item, dict) for item in tables):
        raise _bad(path, "", "no [[questions]]")
    return tables


def _question(table: _Table) -> Question:
    question_id = table.string("id")
    if not _QUESTION_ID.fullmatch(question_id):
        raise table.bad(f"id {question_id!r}; allowed: lower-case words with dashes")
    table.where = f"question {question_id}"
    kind = table.string("kind")
    if kind not in KINDS:
        raise table.bad(f"kind {kind!r}; allowed: {' | '.join(KINDS)}")
    prompt = table.text("prompt")
    question = _numeric(table, question_id, prompt) if kind == "numeric" else _with_choices(table, question_id, kind, prompt)
    table.refuse_unknown()
    return question


def _numeric(table: _Table, question_id: str, prompt: Text) -> Question:
    unit = table.take("unit", default="")
    return Question(
        question_id,
        "numeric",
        prompt,
        answer=table.number("answer"),
        tolerance=table.number("tolerance", least=0.0),
        unit=Text(unit, unit) if isinstance(unit, str) else table.text("unit"),
        explanation=table.text("explanation"),
    )


def _with_choices(table: _Table, question_id: str, kind: str, prompt: Text) -> Question:
    values = table.take("choices")
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        raise table.bad("choices are [[questions.choices]] tables")
    if not 2 <= len(values) <= MAX_CHOICES:
        raise table.bad(f"{len(values)} choices; allowed: 2 to {MAX_CHOICES}")
    choices = tuple(_choice(table.below(f"choice {number}", item), kind) for number, item in enumerate(values, start=1))
    right = sum(choice.correct for choice in choices)
    if kind == "single" and right != 1:
        raise table.bad(f"{right} choices are correct; a single question has exactly one")
    if kind == "multiple" and right == 0:
        raise table.bad("no choice is correct")
    for language in LANGUAGES:
        if len({choice.text[language].strip() for choice in choices}) < len(choices):
            raise table.bad(f"two choices read the same in {language}")
    return Question(question_id, kind, prompt, choices)


def _choice(table: _Table, kind: str) -> Choice:
    correct = False if kind == "order" else table.take("correct", default=False)
    if not isinstance(correct, bool):
        raise table.bad(f"correct = {correct!r}; allowed: true | false")
    choice = Choice(table.text("text"), table.text("explanation"), correct)
    table.refuse_unknown()
    return choice


def _bad(path: Path, where: str, what: str) -> UserError:
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return UserError("bad-quiz", where=place.as_posix() + (f", {where}" if where else ""), what=what)


_MISSING: Any = object()


class _Table:
    """A TOML table that knows where it stands and which of its keys were asked for."""

    def __init__(self, path: Path, where: str, values: dict[str, Any]) -> None:
        self.path, self.where, self._values = path, where, values
        self._asked: set[str] = set()

    def below(self, where: str, values: dict[str, Any]) -> _Table:
        return _Table(self.path, f"{self.where}, {where}", values)

    def bad(self, what: str) -> UserError:
        return _bad(self.path, self.where, what)

    def take(self, key: str, default: Any = _MISSING) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is _MISSING:
            raise self.bad(f"has no {key}")
        return value

    def string(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value.strip():
            raise self.bad(f"{key} = {value!r}; allowed: a non-empty string")
        return value

    def number(self, key: str, least: float = -math.inf) -> float:
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
            raise self.bad(f"{key} = {value!r}; allowed: a number" + (f" >= {least:g}" if math.isfinite(least) else ""))
        return float(value)

    def text(self, key: str) -> Text:
        value = self.take(key)
        if not isinstance(value, dict) or set(value) - set(LANGUAGES):
            raise self.bad(f'{key} is not {{ en = "...", zh-TW = "..." }}')
        for language in LANGUAGES:
            if not isinstance(value.get(language), str) or not value[language].strip():
                raise self.bad(f"{key} has no {language}")
        return Text(value["en"].strip(), value["zh-TW"].strip())

    def refuse_unknown(self) -> None:
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            raise self.bad(f"unknown key {unknown[0]}; allowed: {', '.join(sorted(self._asked))}")
