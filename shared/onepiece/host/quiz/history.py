"""How someone stands with a quiz, from the events of their answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onepiece.course.quiz import Quiz
from onepiece.host.progress.events import Event


@dataclass(frozen=True, slots=True)
class Standing:
    """The last answer to each question counts. Questions that are no longer asked do not."""

    asked: tuple[str, ...]  # every question of the quiz, in its order
    right: frozenset[str] = frozenset()
    missed: frozenset[str] = frozenset()
    ever_missed: frozenset[str] = frozenset()
    attempts: int = 0  # how many sittings there were

    @property
    def answered(self) -> int:
        """Questions that were answered at least once."""
        return len(self.right) + len(self.missed)


def standing(quiz: Quiz, events: Iterable[Event]) -> Standing:
    """Where the learner stands with `quiz`; `events` are sorted by time, and may be those of everything."""
    return standing_of(quiz.id, [question.id for question in quiz.questions], events)


def standing_of(quiz_id: str, asked: Sequence[str], events: Iterable[Event]) -> Standing:
    """As `standing`, for a quiz whose questions have these ids."""
    last: dict[str, bool] = {}
    ever_missed: set[str] = set()
    attempts: set[str] = set()
    for event in events:
        if event.kind != "quiz_answer" or event.subject != quiz_id:
            continue
        values = event.values
        attempts.add(values.get("attempt", event.id))
        question, correct = values.get("question"), values.get("correct") is True
        if question in asked:
            last[question] = correct
            ever_missed |= {question} if not correct else set()
    right = frozenset(question for question, correct in last.items() if correct)
    return Standing(tuple(asked), right, frozenset(last) - right, frozenset(ever_missed), len(attempts))
