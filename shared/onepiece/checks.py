"""Diagnosing checks of a learner's functions: `checks.py` of a lab is written with these.

    @exercise(3, title=Text(...), minutes=15, level="core", hint=Text(...))
    def check_rescale() -> None:
        expect(got, want, atol=1e-6, mistakes={Text(en="the rescale is missing", zh_tw="..."): wrong})

Beside `checks.py` a lab has `mistakes.py`, the texts of the diagnoses, and `broken_variants.py`, the method with exactly one
mistake: the wrong values that checks recognise, and the controls of the gates. A function there takes the name of a mistake, or
None for the right one, and `check_mistake` refuses other names.

`python -m onepiece.checks LAB_DIRECTORY CODE_DIRECTORY...` runs them and writes one JSON object per exercise.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course.text import Text, tr
from onepiece.kernel.differences import shown

LEVELS = ("core", "stretch")


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise and the function that checks it."""

    number: int
    title: Text
    minutes: int
    level: str
    hint: Text
    check: Callable[[], None]


_exercises: dict[int, Exercise] = {}


def exercise(number: int, *, title: Text, minutes: int, level: str, hint: Text) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register the decorated function as the check of exercise `number`."""
    if level not in LEVELS:
        msg = f"level must be one of {LEVELS}, not {level!r}"
        raise ValueError(msg)
    if number in _exercises:
        msg = f"exercise {number} has two checks"
        raise ValueError(msg)

    def register(check: Callable[[], None]) -> Callable[[], None]:
        _exercises[number] = Exercise(number, title, minutes, level, hint, check)
        return check

    return register


def check_mistake(mistake: str | None, known: Sequence[str]) -> None:
    """Let through None, which is no mistake, and the names of known ones.

    Raises:
        ValueError: the mistake is not in `known`. A control that is misspelt would otherwise be the right thing.
    """
    if mistake is not None and mistake not in known:
        msg = f"unknown mistake {mistake!r}; known: {', '.join(known)}"
        raise ValueError(msg)


def same(text: str) -> Text:
    """What is the same in both languages: code, and names of functions."""
    return Text(text, text)


class Missed(AssertionError):
    """What was got is not what was wanted; says both, and the likely mistake."""

    def __init__(self, *, what: str, got: str, want: str, mistake: str | None) -> None:
        self.what, self.got, self.want, self.mistake = what, got, want, mistake
        super().__init__(f"{what}: got {got}, want {want}")


def expect(got: Any, want: Any, *, atol: float = 0.0, mistakes: Mapping[Text, Any] | None = None, what: Text | None = None) -> None:
    """Compare a learner's value with the right one.

    Args:
        got: the learner's tensor, number, boolean, or (nested) sequence or mapping of these.
        want: the right value, of the same structure and shapes.
        atol: largest absolute difference that is right. 0 means equal.
        mistakes: what one likely mistake each would have given; the first that `got` is close to is named.
        what: what is compared, if the exercise's title does not say it.

    Raises:
        Missed: the values differ.
    """
    difference = _difference(got, want)
    if difference <= atol:
        return
    likely = None
    for explanation, wrong in (mistakes or {}).items():
        # A wrong value that equals the right one here can explain nothing.
        if _difference(got, wrong) <= max(atol, 1e-9) and _difference(wrong, want) > atol:
            likely = str(explanation)
            break
    label = str(what) if what else tr("the result", "結果")
    detail = "" if math.isinf(difference) else tr(f" (largest difference {difference:.3g})", f"（最大差異 {difference:.3g}）")
    if got is None and likely is None:
        likely = tr("your function returned nothing: is a `return` missing?", "你的函式沒有回傳值：是不是少了 `return`？")
    if isinstance(want, Mapping) and isinstance(got, Mapping) and set(got) == set(want):
        differs = [key for key in want if _difference(got[key], want[key]) > atol]
        got, want = {key: got[key] for key in differs}, {key: want[key] for key in differs}
    found, wanted = shown(got, want)
    head, line, picture = found.partition("\n")
    raise Missed(what=label, got=head + detail + line + picture, want=wanted, mistake=likely)


def _difference(got: Any, want: Any) -> float:
    """Largest absolute difference; infinite when structure, shape or type do not fit. NaN equals NaN."""
    import torch

    if isinstance(want, torch.Tensor):
        if not isinstance(got, torch.Tensor) or got.shape != want.shape:
            return math.inf
        if want.numel() == 0:
            return 0.0
        got, want = got.detach().double().cpu(), want.detach().double().cpu()
        same = (got == want) | (got.isnan() & want.isnan())
        gap = torch.where(same, torch.zeros_like(got), (got - want).abs())
        return float(torch.nan_to_num(gap, nan=math.inf).max())
    if isinstance(want, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(want):
            return math.inf
        return max((_difference(got[key], want[key]) for key in want), default=0.0)
    if isinstance(want, Sequence) and not isinstance(want, str):
        if isinstance(got, str) or not isinstance(got, Sequence) or len(got) != len(want):
            return math.inf
        return max((_difference(*pair) for pair in zip(got, want, strict=True)), default=0.0)
    if isinstance(want, (int, float)) and not isinstance(want, bool):
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = got.item()
        if isinstance(got, bool) or not isinstance(got, (int, float)):
            return math.inf
        if got == want or (math.isnan(got) and math.isnan(want)):
            return 0.0
        gap = abs(got - want)
        return math.inf if math.isnan(gap) else gap
    return 0.0 if type(got) is type(want) and got == want else math.inf


def load_exercises(lab_directory: Path) -> list[Exercise]:
    """Import `checks.py` of a lab and return its exercises by number."""
    _exercises.clear()
    spec = importlib.util.spec_from_file_location("lab_checks", lab_directory / "checks.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return [_exercises[number] for number in sorted(_exercises)]


def _outcome(exercise: Exercise) -> dict[str, Any]:
    return {
        "exercise": exercise.number,
        "title": str(exercise.title),
        "minutes": exercise.minutes,
        "level": exercise.level,
        "hint": str(exercise.hint),
        "status": "passed",
        "reached": True,
        "what": None,
        "got": None,
        "want": None,
        "mistake": None,
        "error": None,
    }


def run_exercise(exercise: Exercise) -> dict[str, Any]:
    """The outcome of one check: status "passed", "open", "failed" or "error", and what a learner needs to go on."""
    outcome = _outcome(exercise)
    try:
        exercise.check()
    except NotImplementedError as error:
        outcome |= {"status": "open", "error": str(error)}
    except Missed as missed:
        outcome |= {"status": "failed", "what": missed.what, "got": missed.got, "want": missed.want, "mistake": missed.mistake}
    except (Exception, SystemExit) as error:  # whatever the learner's code raises is the answer they need to see
        outcome |= {"status": "error", "error": f"{type(error).__name__}: {error}", "traceback": _learners_frames(error)}
    return outcome


def _learners_frames(error: BaseException) -> str:
    """The traceback without the frames of this module."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return "".join(traceback.format_list(frames))


def check_import(module: str, names: Sequence[str], say: Callable[[dict[str, Any]], None]) -> bool:
    """Whether a module can be imported here, and has these names; `say` gets {"import_error": None} or the error, with its traceback."""
    try:
        imported = importlib.import_module(module)
        lacking = [name for name in names if not hasattr(imported, name)]
        if lacking:
            msg = f"{module}.py has no {', '.join(lacking)}"
            raise ImportError(msg)
    except (Exception, SystemExit) as error:
        say(_import_error(error))
        return False
    say({"import_error": None})
    return True


def _import_error(error: BaseException) -> dict[str, Any]:
    # Of a syntax error this has the file, the line and the place in it.
    said = "".join(traceback.format_exception_only(error)).strip()
    return {"import_error": said, "traceback": "" if isinstance(error, SyntaxError) else _learners_frames(error)}


def check_lab(
    lab_directory: Path, say: Callable[[dict[str, Any]], None], *, stop: bool = False, only: Collection[int] | None = None
) -> bool:
    """Check a lab's exercises on the modules that can be imported here, and `say` the outcome of each.

    Every exercise is spoken of twice: before the first check as one that was not reached, for a process that does not live to check it,
    and then with its outcome. If `checks.py` cannot be imported, all that is said is {"import_error": ..., "traceback": ...}.

    Args:
        lab_directory: where `checks.py` is.
        say: gets one dictionary that JSON can hold after the other.
        stop: look at no exercise after the first one that is not passed.
        only: the numbers of the exercises that are looked at; None: all of them.

    Returns:
        Whether every exercise is passed.
    """
    try:
        exercises = [item for item in load_exercises(lab_directory) if only is None or item.number in only]
    except (Exception, SystemExit) as error:
        say(_import_error(error))
        return False
    unreached = tr("your program ended before this was checked", "你的程式在檢查這一題之前就結束了")
    for item in exercises:
        say(_outcome(item) | {"status": "error", "reached": False, "error": unreached})
    passed = True
    for item in exercises:
        outcome = run_exercise(item)
        say(outcome)
        passed = passed and outcome["status"] == "passed"
        if stop and not passed:
            break
    return passed


def main(arguments: list[str]) -> int:
    """Run the checks of a lab on the modules found in the given code directories, first one first."""
    lab_directory, *code = arguments
    sys.path[:0] = code
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a learner's code prints must not mix with the JSON lines

    def say(outcome: dict[str, Any]) -> None:
        protocol.write(json.dumps(outcome, ensure_ascii=False) + "\n")
        protocol.flush()

    return 0 if check_lab(Path(lab_directory), say) else 1


if __name__ == "__main__":
    sys.modules["onepiece.checks"] = sys.modules["__main__"]  # one registry, whichever name imports this module
    sys.exit(main(sys.argv[1:]))
