"""Ask the checks about a submission, exercise by exercise, each in a process of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.grading import submission
from onepiece.host.grading.score import Found, Graded, blocked, found, graded, imported
from onepiece.host.grading.submission import Submission
from onepiece.host.road import sources
from onepiece.host.road.checks import Checked, WarmChecks

_REFERENCE_SECONDS = 900.0
_PATIENCE = 10  # times what the reference takes for all exercises, for each exercise of a submission
_LEAST_SECONDS = 30.0


@dataclass
class Grading:
    """A submission in the directory where it is checked."""

    lab: Lab
    handed_in: Submission
    directory: Path  # made by `submission.stage`
    start: Callable[[], WarmChecks]
    seconds: float | None = None  # for each exercise; None: many times what the reference takes
    versions: dict[str, str] = field(default_factory=dict)
    _warm: WarmChecks | None = None

    def grade(self, note: Callable[[str], None]) -> list[Graded]:
        """Judge every exercise; `note` gets what is looked at.

        Raises:
            UserError: "reference-fails", or why the checks cannot be run at all.
        """
        try:
            note(tr("the reference", "參考解"))
            reference, seconds = self._reference()
            reasons = self._unusable(seconds)
            starters = {name: sources.starter_source(self.lab.directory / name) for name in reasons}
            by_exercise: dict[int, str] = {}
            for name, numbers in submission.exercise_modules(self.lab).items():
                if name in reasons:
                    by_exercise |= dict.fromkeys(numbers, f"{name}: {reasons[name]}")
            verdicts: dict[int, Found] = {}
            for outcome in reference:
                number = outcome["exercise"]
                note(f"{number}. {outcome['title']}")
                if number in by_exercise:
                    verdicts[number] = blocked(by_exercise[number])
                else:
                    verdicts[number] = self._verdict(number, seconds, replace=starters, only=[number])
            return graded(reference, verdicts)
        finally:
            self._end()

    def _reference(self) -> tuple[tuple[dict[str, Any], ...], float]:
        """The outcomes of the reference, which gives titles, minutes and the patience: it must pass, or nothing can be judged here."""
        names = submission.exercise_modules(self.lab)
        replace = {name: (self.lab.directory / name).read_text(encoding="utf-8") for name in names}
        began = time.monotonic()
        checked = self._running().check(self._staged, replace=replace, seconds=_REFERENCE_SECONDS)
        if not checked.passed:
            wrong = [f"{number} ({status})" for number, status in checked.statuses.items() if status != "passed"]
            raise UserError("reference-fails", lab=self.lab.id, exercises=", ".join(wrong) or "-")
        return checked.outcomes, self.seconds or max(_LEAST_SECONDS, _PATIENCE * (time.monotonic() - began))

    def _unusable(self, seconds: float) -> dict[str, str]:
        """Module with exercises -> why it cannot be used.

        One that imports another which is broken is not broken itself: it gets a second look with the starters of the others.
        """
        reasons = {name: str(why) for name, why in self.handed_in.missing.items()}
        needed = submission.needed_names(self.lab)
        taken = [name for name in submission.exercise_modules(self.lab) if name not in reasons]
        broken = {name: why for name in taken if (why := self._why_not_imported(name, needed[name], seconds, {}))}
        if len(broken) > 1:
            starters = {name: sources.starter_source(self.lab.directory / name) for name in broken}
            again = {name: {other: source for other, source in starters.items() if other != name} for name in broken}
            broken = {name: why for name in broken if (why := self._why_not_imported(name, needed[name], seconds, again[name]))}
        return reasons | broken

    def _why_not_imported(self, name: str, needed: list[str], seconds: float, replace: Mapping[str, str]) -> str | None:
        checked = self._ask(seconds, replace=replace, module=name.removesuffix(".py"), names=needed)
        return None if checked is not None and imported(checked) else self._explain(0, checked, seconds).error

    def _verdict(self, number: int, seconds: float, **asked: Any) -> Found:
        return self._explain(number, self._ask(seconds, **asked), seconds)

    def _explain(self, number: int, checked: Checked | None, seconds: float) -> Found:
        if checked is None:
            return blocked(tr("it ended or stopped the process that checks it", "它結束或停住了檢查它的行程"))
        return found(number, checked, seconds)

    def _ask(self, seconds: float, **asked: Any) -> Checked | None:
        """None if the answer never came: the process that was to give it has ended, and the next question starts a new one."""
        warm = self._running()
        try:
            checked = warm.check(self._staged, seconds=seconds, **asked)
        except UserError:
            self._end()
            return None
        if checked.strange:  # whoever wrote that may have written more, which would be held against the next exercise
            self._end()
        return checked

    @property
    def _staged(self) -> Lab:
        return dataclasses.replace(self.lab, directory=self.directory)

    def _running(self) -> WarmChecks:
        if self._warm is None:
            self._warm = self.start()
            self.versions = self._warm.versions
        return self._warm

    def _end(self) -> None:
        if self._warm is not None:
            self._warm.close()
            self._warm = None
