"""Quizzes as data: `quiz.toml` of a lab or a chapter -> frozen dataclasses, and what a right answer is.

Stdlib only. The terminal (`nox -s quiz`) and the pages of the site ask the same questions from here. A question with a
choice that has no explanation is an error: whoever answers learns why, whatever they chose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.course import toml_table
from onepiece.course.catalog import nearest
from onepiece.course.errors import UserError
from onepiece.course.learning_paths import CHAPTER_DIRECTORY, CHAPTERS
from onepiece.course.places import LABS, ROOT
from onepiece.course.text import LANGUAGES, Text
from onepiece.course.toml_table import Table, at

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
    raise UserError("no-quiz", quiz=wanted, nearest=nearest(wanted, files) or "...")


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
    for number, table in enumerate(tables, start=1):
        try:
            question = _question(table.named(f"question {number}"))
            if question.id in seen:
                raise table.named(f"question {question.id}").wrong("the id is used twice")
        except UserError as error:
            found.append(error)
            continue
        seen.add(question.id)
        questions.append(question)
    return questions, found


def _tables(path: Path) -> list[Table]:
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    file = toml_table.read(path, lambda where, what: UserError("bad-quiz", where=at(place.as_posix(), where), what=what))
    tables = file.tables("questions")
    file.refuse_unknown()
    if not tables:
        raise file.bad("questions", "none", "[[questions]] tables")
    return tables


def _question(table: Table) -> Question:
    question_id = table.string("id")
    if not _QUESTION_ID.fullmatch(question_id):
        raise table.bad("id", repr(question_id), "lower-case words with dashes")
    where = f"question {question_id}"
    table = table.named(where)
    table.take("id")
    kind = table.choice("kind", KINDS)
    prompt = table.text("prompt")
    question = _numeric(table, question_id, prompt) if kind == "numeric" else _with_choices(table, question_id, kind, prompt, where)
    table.refuse_unknown()
    return question


def _numeric(table: Table, question_id: str, prompt: Text) -> Question:
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


def _with_choices(table: Table, question_id: str, kind: str, prompt: Text, where: str) -> Question:
    tables = table.tables("choices")
    if not 2 <= len(tables) <= MAX_CHOICES:
        raise table.bad("choices", str(len(tables)), f"2 to {MAX_CHOICES} [[questions.choices]] tables")
    choices = tuple(_choice(item.named(f"{where}, choice {number}"), kind) for number, item in enumerate(tables, start=1))
    right = sum(choice.correct for choice in choices)
    if kind == "single" and right != 1:
        raise table.wrong(f"{right} choices are correct; a single question has exactly one")
    if kind == "multiple" and right == 0:
        raise table.wrong("no choice is correct")
    for language in LANGUAGES:
        if len({choice.text[language] for choice in choices}) < len(choices):
            raise table.wrong(f"two choices read the same in {language}")
    return Question(question_id, kind, prompt, choices)


def _choice(table: Table, kind: str) -> Choice:
    correct = False if kind == "order" else table.boolean("correct", default=False)
    choice = Choice(table.text("text"), table.text("explanation"), correct)
    table.refuse_unknown()
    return choice
