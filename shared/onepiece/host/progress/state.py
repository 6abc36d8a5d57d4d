"""Where a learner stands, computed from events: per lab, per module, and what to do next. Pure, but for `gather`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onepiece.course import learning_paths, quiz
from onepiece.course.catalog import Course, Lab
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.progress.events import Event
from onepiece.host.quiz.history import Standing, standing_of

_EXERCISE = re.compile(r"^\s*# SOLUTION (\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LabState:
    """One lab that exists."""

    lab: Lab
    runs: int
    passed: bool  # at least one run in which every gate held
    last: str | None  # status of the latest run
    exercises: int
    exercises_passed: frozenset[int]
    quiz: Standing | None  # None: it has no quiz
    minutes: float

    @property
    def started(self) -> bool:
        """Anything was done with it."""
        return bool(self.runs or self.exercises_passed or (self.quiz and self.quiz.answered))


@dataclass(frozen=True, slots=True)
class ModuleState:
    """One module: its labs, and those that are still being written."""

    id: str
    title: Text
    labs: tuple[LabState, ...]
    upcoming: tuple[str, ...]
    chapters: Mapping[str, Standing]  # quizzes of its chapters
    chapter_minutes: float

    @property
    def minutes(self) -> float:
        """Time spent on its labs and chapters."""
        return self.chapter_minutes + sum(state.minutes for state in self.labs)

    @property
    def quizzes(self) -> list[Standing]:
        """Of its chapters and labs."""
        return [*self.chapters.values(), *(state.quiz for state in self.labs if state.quiz)]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is shown."""

    modules: tuple[ModuleState, ...]
    labs: Mapping[str, LabState]  # in course order
    quizzes: Mapping[str, Standing]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do next; `lab` is None when there is nothing left."""

    lab: Lab | None
    reason: Text
    command: str = ""


@dataclass(frozen=True, slots=True)
class Material:
    """What the course asks of a learner, from its files."""

    course: Course
    syllabus: learning_paths.Syllabus
    questions: Mapping[str, tuple[str, ...]]  # quiz id -> ids of its questions
    exercises: Mapping[str, int]  # lab id -> how many
    chapters: frozenset[str] = frozenset()  # numbers of those that are written
    problems: tuple[UserError, ...] = ()  # quizzes that cannot be read


def gather(course: Course) -> Material:
    """Read what the course asks; a quiz that cannot be read is left out and named."""
    questions: dict[str, tuple[str, ...]] = {}
    problems: list[UserError] = []
    for quiz_id, path in quiz.quiz_files().items():
        try:
            questions[quiz_id] = tuple(question.id for question in quiz.load(path).questions)
        except UserError as error:
            problems.append(error)
    exercises = {lab.id: len(_exercises(lab)) for lab in course.labs}
    written = learning_paths.written_chapters() | {quiz_id for quiz_id in questions if quiz_id[0].isdigit()}
    return Material(course, learning_paths.load(labs=course.labs), questions, exercises, written, tuple(problems))


def _exercises(lab: Lab) -> set[str]:
    return {
        number for path in lab.directory.glob("*.py") for number in _EXERCISE.findall(path.read_text(encoding="utf-8", errors="replace"))
    }


def state(material: Material, events: Iterable[Event]) -> State:
    """Where the learner stands after `events`, which are sorted by time."""
    by_kind: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        by_kind[event.kind, event.subject].append(event)
    quizzes = {
        quiz_id: standing_of(quiz_id, asked, by_kind.get(("quiz_answer", quiz_id), ())) for quiz_id, asked in material.questions.items()
    }
    labs = {lab.id: _lab_state(lab, material.exercises.get(lab.id, 0), quizzes.get(lab.id), by_kind) for lab in material.course.labs}
    upcoming = material.syllabus.upcoming(material.course)
    ids = {*material.syllabus.modules, *(found.lab.module for found in labs.values()), *map(_module_of, upcoming)}
    modules = []
    for module in sorted(ids, key=int):
        chapters = {quiz_id: found for quiz_id, found in quizzes.items() if quiz_id.split(".")[0] == module}
        modules.append(
            ModuleState(
                id=module,
                title=material.syllabus.modules.get(module, Text(f"Module {module}", f"單元 {module}")),
                labs=tuple(found for found in labs.values() if found.lab.module == module),
                upcoming=tuple(lab_id for lab_id in upcoming if _module_of(lab_id) == module),
                chapters=chapters,
                chapter_minutes=sum(_minutes(by_kind, chapter) for chapter in chapters),
            )
        )
    return State(tuple(modules), labs, quizzes)


def _lab_state(lab: Lab, exercises: int, standing: Standing | None, by_kind: Mapping[tuple[str, str], list[Event]]) -> LabState:
    statuses = [event.values.get("status") for event in by_kind.get(("lab_run", lab.id), ())]
    passed = {event.values.get("exercise") for event in by_kind.get(("check_passed", lab.id), ())}
    return LabState(
        lab=lab,
        runs=len(statuses),
        passed="passed" in statuses,
        last=statuses[-1] if statuses else None,
        exercises=exercises,
        exercises_passed=frozenset(number for number in passed if isinstance(number, int)),
        quiz=standing,
        minutes=_minutes(by_kind, lab.id),
    )


def _minutes(by_kind: Mapping[tuple[str, str], list[Event]], subject: str) -> float:
    spent: list[Any] = [event.values.get("minutes") for event in by_kind.get(("minutes", subject), ())]
    return sum(value for value in spent if isinstance(value, (int, float)))


def _module_of(lab_id: str) -> str:
    return lab_id.removeprefix("lab-").split(".")[0]


# --- what next ----------------------------------------------------------------------------------


def recommend(found: State, order: Sequence[str], start: str = "") -> Advice:
    """The lab to do next.

    Among the labs that are not passed and whose prerequisites are: first what was begun, then what measures the subject
    of missed questions, then the order of the path or the course.

    Args:
        found: where the learner stands.
        order: ids of the labs of a path, or of all labs; those that do not exist are left out, and prerequisites that are
            missing in it come before the lab that needs them.
        start: the lab of `order` with which a learner begins who did nothing yet.
    """
    wanted = _with_prerequisites(found, order)
    if not wanted:
        return Advice(None, Text("Its labs are still being written.", "其中的實驗都還在編寫中。"))
    ready = [lab_id for lab_id in wanted if not found.labs[lab_id].passed and not _open_prerequisites(found, lab_id)]
    if not ready:
        return _nothing_to_run(found, wanted)
    first = "" if any(state.started for state in found.labs.values()) else start

    def rank(lab_id: str) -> tuple[bool, int, bool, int]:
        return not found.labs[lab_id].started, -_missed(found, found.labs[lab_id].lab), lab_id != first, wanted.index(lab_id)

    best = min(ready, key=rank)
    return Advice(found.labs[best].lab, _reason(found, found.labs[best]), f"nox -s {best}")


def _with_prerequisites(found: State, order: Sequence[str]) -> list[str]:
    wanted: list[str] = []

    def want(lab_id: str) -> None:
        if lab_id in found.labs and lab_id not in wanted:
            for required in found.labs[lab_id].lab.requires:
                want(required)
            wanted.append(lab_id)

    for lab_id in order:
        want(lab_id)
    return wanted


def _open_prerequisites(found: State, lab_id: str) -> list[str]:
    return [required for required in found.labs[lab_id].lab.requires if required in found.labs and not found.labs[required].passed]


def _missed(found: State, lab: Lab) -> int:
    """Missed questions about what the lab measures: of its chapter and of itself."""
    return sum(len(found.quizzes[quiz_id].missed) for quiz_id in (lab.chapter, lab.id) if quiz_id in found.quizzes)


def _reason(found: State, best: LabState) -> Text:
    if best.runs and best.last != "passed":
        return Text(f"You began it: its last run is {best.last}.", "你已經開始了：上次執行還沒有通過。")
    if best.started:
        return Text("You began it, and its run is still to come.", "你已經開始了，但還沒有執行整個實驗。")
    missed = _missed(found, best.lab)
    if missed:
        about = best.lab.chapter
        return Text(
            f"It measures what you missed in a quiz ({missed} question{'s' * (missed != 1)}, chapter {about}).",
            f"它量測的正是你在測驗中答錯的內容（第 {about} 章，{missed} 題）。",
        )
    if best.lab.requires:
        done = ", ".join(required.split("-")[1] for required in best.lab.requires)
        return Text(f"What it needs is done ({done}).", f"先修實驗都完成了（{done}）。")
    return Text("It needs no other lab first.", "不需要先修其他實驗。")


def _nothing_to_run(found: State, wanted: Sequence[str]) -> Advice:
    for lab_id in wanted:
        open_exercises = found.labs[lab_id].exercises - len(found.labs[lab_id].exercises_passed)
        if found.labs[lab_id].passed and open_exercises > 0:
            return Advice(
                found.labs[lab_id].lab,
                Text(
                    f"Every lab passed; {open_exercises} of its exercises are open.",
                    f"所有實驗都通過了；它還有 {open_exercises} 題練習未完成。",
                ),
                f"nox -s start -- {lab_id}",
            )
    return Advice(None, Text("Every lab that exists is done, with its exercises.", "目前已有的實驗與練習都完成了。"))
