"""From outcomes of checks to points: pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onepiece.course.text import tr
from onepiece.host.road.checks import Checked

OF = 100
STATUSES = ("passed", "open", "failed", "error", "blocked")
_NO_MEMORY = ("MemoryError", "DefaultCPUAllocator: can't allocate memory")


@dataclass(frozen=True, slots=True)
class Graded:
    """One exercise of a submission."""

    exercise: int
    title: str
    level: str
    minutes: int
    status: str  # one of `STATUSES`; "blocked": its check never came to a verdict
    points: float
    of: float
    mistake: str | None = None  # what a check recognised
    error: str | None = None  # what was raised, what differs, or what blocked it

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about an exercise: its status, and what stands beside it."""

    status: str
    mistake: str | None = None
    error: str | None = None


def blocked(why: str) -> Found:
    """An exercise without a verdict."""
    return Found("blocked", error=why)


def shares(minutes: Mapping[int, int]) -> dict[int, float]:
    """Exercise -> the points that it is worth: `OF`, shared by minutes; equally, where no exercise takes any."""
    weights = minutes if any(minutes.values()) else dict.fromkeys(minutes, 1)
    total = sum(weights.values())
    return {number: OF * weight / total for number, weight in weights.items()}


def graded(reference: Sequence[Mapping[str, Any]], found: Mapping[int, Found]) -> list[Graded]:
    """What a submission gets for each exercise.

    Args:
        reference: the outcomes of the reference: numbers, titles and minutes are the course's, whatever a submission says.
        found: of the submission, for every exercise.
    """
    worth = shares({outcome["exercise"]: outcome["minutes"] for outcome in reference})
    made = []
    for outcome in reference:
        number = outcome["exercise"]
        is_found = found[number]
        points = worth[number] if is_found.status == "passed" else 0.0
        made.append(
            Graded(
                number,
                outcome["title"],
                outcome["level"],
                outcome["minutes"],
                is_found.status,
                round(points, 2),
                round(worth[number], 2),
                is_found.mistake,
                is_found.error,
            )
        )
    return made


def score(graded: Sequence[Graded]) -> float:
    """Points of all exercises, 0 to `OF`; rounded once, so that three thirds are the whole."""
    passed = {item.exercise for item in graded if item.status == "passed"}
    worth = shares({item.exercise: item.minutes for item in graded})
    return round(sum(points for number, points in worth.items() if number in passed), 2)


def imported(checked: Checked) -> bool:
    """Does the process that imported one module say that it could, and nobody else?"""
    said = [outcome for outcome in checked.outcomes if "import_error" in outcome and not outcome.get("tampered")]
    return bool(said) and said[-1]["import_error"] is None and not checked.strange


def found(number: int, checked: Checked, seconds: float) -> Found:
    """What the process that checked one exercise says about it. Only an outcome that it reached itself is a verdict."""
    if checked.timed_out:
        return blocked(tr(f"not done after {seconds:g} s", f"{seconds:g} 秒後仍未結束"))
    if checked.strange:
        return blocked(tr("something else than the check wrote outcomes", "有檢查以外的程式寫入了結果"))
    broken = next((outcome for outcome in checked.outcomes if outcome.get("import_error")), None)
    outcome = next((outcome for outcome in checked.outcomes if outcome.get("exercise") == number), None)
    changed = ", ".join(sorted({name for said in checked.outcomes for name in said.get("tampered", ())}))
    if changed:
        return blocked(tr(f"the code replaces parts of onepiece.checks: {changed}", f"程式碼換掉了 onepiece.checks 的一部分：{changed}"))
    if broken is not None:
        why = _in_one_line(broken["import_error"])
        return blocked(tr(f"cannot be imported: {why}", f"無法匯入：{why}"))
    if outcome is None or not outcome["reached"]:
        return blocked(_ended(checked.exit_code))
    error = outcome["error"]
    if outcome["status"] == "error" and any(sign in error for sign in _NO_MEMORY):
        return blocked(tr(f"out of memory: {error}", f"記憶體不足：{error}"))
    if outcome["status"] == "failed":
        got, want = outcome["got"], outcome["want"]
        error = tr(f"{outcome['what']}: got {got}, want {want}", f"{outcome['what']}：得到 {got}，應為 {want}")
    return Found(outcome["status"], outcome["mistake"], error)


def _in_one_line(error: str) -> str:
    """What Python says of an error; of a syntax error the file and the line, without the directory, and the last word."""
    *where, last = error.splitlines()
    place = re.search(r'File ".*?([^/\\"]+)", line (\d+)', "\n".join(where))
    return f"{place[1]}:{place[2]}: {last}" if place else last


def _ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        memory = tr(", which is what too much memory ends with", "（記憶體用得太多時也是這樣結束）") if name == "SIGKILL" else ""
        return tr(f"ended by {name} before the verdict{memory}", f"在得出結果之前被 {name} 結束{memory}")
    return tr(
        f"the program ended by itself before the verdict (exit code {exit_code})", f"程式在得出結果之前自行結束（結束代碼 {exit_code}）"
    )
