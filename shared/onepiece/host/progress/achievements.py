"""Achievements: things that are hard to get without having understood something. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from onepiece.course.json_numbers import decode_number
from onepiece.course.text import Text
from onepiece.host.progress.events import Event
from onepiece.host.progress.state import State

PREDICTIONS = 3  # good guesses that one run needs
CLOSE = 0.1  # how near a guess must be, relative to what was measured


@dataclass(frozen=True, slots=True)
class Achievement:
    """One achievement, and where it was earned: labs, chapters or modules; nowhere yet if that is empty."""

    id: str
    title: Text
    takes: Text
    where: tuple[str, ...]


def achievements(found: State, events: Iterable[Event]) -> list[Achievement]:
    """All of them, in one order; those with `where` are earned."""
    kept = list(events)
    return [Achievement(name, title, takes, tuple(dict.fromkeys(earned(found, kept)))) for name, title, takes, earned in _ALL]


def _sharp_gates(_: State, events: list[Event]) -> list[str]:
    """Labs with a passed run in which every control missed its bound."""
    passed = {event.id: event.subject for event in events if event.kind == "lab_run" and event.values.get("status") == "passed"}
    missed: dict[str, list[bool]] = defaultdict(list)
    for event in events:
        if event.kind == "gate" and event.values.get("control"):
            missed[event.values.get("run", "")].append(event.values.get("missed") is True)
    return sorted(lab for run, lab in passed.items() if missed.get(run) and all(missed[run]))


def _own_exercises(found: State, _: list[Event]) -> list[str]:
    return [lab_id for lab_id, state in found.labs.items() if state.exercises and len(state.exercises_passed) >= state.exercises]


def _own_lab(_: State, events: list[Event]) -> list[str]:
    return sorted(event.subject for event in events if event.kind == "lab_run" and _passed(event) and event.values.get("mine") is True)


def _good_guesses(_: State, events: list[Event]) -> list[str]:
    runs = [event for event in events if event.kind == "lab_run"]
    return sorted(run.subject for run in runs if sum(map(_close, run.values.get("predictions") or ())) >= PREDICTIONS)


def _close(prediction: Any) -> bool:
    try:
        measured, predicted = decode_number(prediction["measured"]), decode_number(prediction["predicted"])
        return abs(predicted - measured) <= CLOSE * abs(measured)  # False for nan
    except (KeyError, TypeError, ValueError):  # nothing was measured
        return False


def _at_first_try(found: State, _: list[Event]) -> list[str]:
    return [quiz_id for quiz_id, stands in found.quizzes.items() if len(stands.right) == len(stands.asked) and not stands.ever_missed]


def _put_right(found: State, _: list[Event]) -> list[str]:
    return [quiz_id for quiz_id, stands in found.quizzes.items() if stands.ever_missed and stands.ever_missed <= stands.right]


def _two_scales(_: State, events: list[Event]) -> list[str]:
    profiles: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.kind == "lab_run" and _passed(event):
            profiles[event.subject].add(str(event.values.get("profile")))
    return sorted(lab for lab, passed in profiles.items() if passed >= {"cpu", "gpu"})


def _module(found: State, _: list[Event]) -> list[str]:
    """Modules of which every planned lab exists and is passed, with every exercise."""
    done = [module for module in found.modules if module.labs and not module.upcoming]
    return [module.id for module in done if all(state.passed and len(state.exercises_passed) >= state.exercises for state in module.labs)]


def _passed(event: Event) -> bool:
    return event.values.get("status") == "passed"


_ALL: tuple[tuple[str, Text, Text, Callable[[State, list[Event]], list[str]]], ...] = (
    (
        "sharp-gates",
        Text("Every control missed", "對照組全都過不了關卡"),
        Text("a passed run in which every wrong variant missed its bound", "一次通過的執行，而且每個錯誤的變體都過不了關卡"),
        _sharp_gates,
    ),
    (
        "own-exercises",
        Text("Every exercise in your own code", "所有練習都用自己的程式碼"),
        Text("all checks of a lab pass on your copy", "某個實驗的所有檢查，在你的副本上全部通過"),
        _own_exercises,
    ),
    (
        "own-lab",
        Text("A whole lab on your own code", "整個實驗都跑在自己的程式碼上"),
        Text("a passed run with --mine", "一次加上 --mine 且通過的執行"),
        _own_lab,
    ),
    (
        "good-guesses",
        Text("You knew before you ran", "還沒跑就知道"),
        Text(
            f"{PREDICTIONS} predictions in one run within {CLOSE:.0%} of what was measured",
            f"一次執行中有 {PREDICTIONS} 個預測與量測值相差不到 {CLOSE:.0%}",
        ),
        _good_guesses,
    ),
    (
        "at-first-try",
        Text("Nothing to put right", "一題都不必訂正"),
        Text("a quiz in which no question was ever missed", "某份測驗的每一題都從未答錯"),
        _at_first_try,
    ),
    (
        "put-right",
        Text("Every miss put right", "錯題全數訂正"),
        Text("a quiz whose missed questions are all right now", "某份測驗曾經答錯的題目，現在全部答對"),
        _put_right,
    ),
    (
        "two-scales",
        Text("The same gates at two scales", "兩種規模，同樣的關卡"),
        Text("one lab passed on the cpu and on the gpu profile", "同一個實驗在 cpu 與 gpu profile 都通過"),
        _two_scales,
    ),
    (
        "module",
        Text("A module from end to end", "完成一整個單元"),
        Text("every lab of a complete module passed, with every exercise", "某個完整單元的實驗全部通過，練習也全部完成"),
        _module,
    ),
)
