"""What a learner did, as events that are only ever added: the one truth from which progress is computed.

Every event has an id of its own, so that two machines' events merge by union: nothing is lost, whatever is merged into
what, how often and in which order.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onepiece.course.json_numbers import encode_number
from onepiece.course.quiz import Answer

# What there is today. A database or an export may hold others, from a later version: they are kept and not shown.
KINDS = ("lab_run", "gate", "check_passed", "quiz_answer", "minutes")

_KIND = re.compile(r"[a-z][a-z_]{0,39}")
_SUBJECT = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")  # a lab id or the number of a chapter


class BadEvent(ValueError):
    """Not an event; says what is wrong with it."""


class Conflict(ValueError):
    """Two different events have one id, which only happens to files that were edited."""


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One thing that happened, to `subject`: a lab or a chapter. Sorts by time."""

    at: str  # UTC, ISO 8601, with milliseconds
    id: str  # a UUID
    kind: str
    subject: str
    data: str  # canonical JSON of an object, see `values`

    @property
    def values(self) -> dict[str, Any]:
        """What is known about it."""
        return json.loads(self.data)


def event(kind: str, subject: str, *, event_id: str | None = None, at: str | None = None, **values: Any) -> Event:
    """A new event, of now.

    Raises:
        BadEvent: `values` cannot be written as JSON, or `kind` or `subject` are none.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return check(Event(at or now, event_id or str(uuid.uuid4()), kind, subject, canonical(values)))


def canonical(values: Mapping[str, Any]) -> str:
    """One JSON text for equal values."""
    try:
        return json.dumps(dict(values), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadEvent(f"values that are no JSON: {error}") from None


def check(found: Event) -> Event:
    """The event itself, if it is one.

    Raises:
        BadEvent: says which part is not.
    """
    if not isinstance(found.id, str) or str(_uuid(found.id)) != found.id:
        raise BadEvent(f"id {found.id!r} is no UUID")
    if not isinstance(found.kind, str) or not _KIND.fullmatch(found.kind):
        raise BadEvent(f"kind {found.kind!r}")
    if not isinstance(found.subject, str) or not _SUBJECT.fullmatch(found.subject):
        raise BadEvent(f"subject {found.subject!r}")
    if not isinstance(found.at, str) or not _is_time(found.at):
        raise BadEvent(f"time {found.at!r}")
    try:
        values = json.loads(found.data)
        found.data.encode()  # half a surrogate pair is no text
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise BadEvent(f"data of {found.id} is no JSON") from None
    if not isinstance(values, dict) or canonical(values) != found.data:
        raise BadEvent(f"data of {found.id} is no canonical JSON object")
    return found


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _is_time(text: str) -> bool:
    """UTC to the millisecond, in one form only, so that times sort as text."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return time.utcoffset() == datetime.timedelta(0) and time.isoformat(timespec="milliseconds") == text


def merge(*collections: Iterable[Event]) -> tuple[Event, ...]:
    """All events of all collections, each once, sorted by time.

    Raises:
        Conflict: one id, two events.
    """
    merged = sorted(set().union(*collections))
    by_id: dict[str, Event] = {}
    for found in merged:
        if by_id.setdefault(found.id, found) != found:
            raise Conflict(found.id)
    return tuple(merged)


# --- what the commands record -------------------------------------------------------------------


def of_run(results: Mapping[str, Any]) -> list[Event]:
    """The events of one run of a lab, from its `results.json`: the run, each gate that was judged, the time it took."""
    lab_id = results["lab"]
    helped = any((results.get("exercises") or {}).get(kind) for kind in ("partly", "reference"))  # by the reference, with --mine
    run = event(
        "lab_run",
        lab_id,
        status=results["status"],
        profile=results["profile"],
        device=results["device"],
        mine=results["mine"] and not helped,
        seconds=results["seconds"],
        predictions=[_prediction(item) for item in results["predictions"]],
        **({} if helped else _score(results)),  # it would compare with neither one's
    )
    gates = [
        event(
            "gate",
            lab_id,
            at=run.at,
            run=run.id,
            metric=gate["metric"],
            passed=gate["passed"],
            control=None if gate["control"] is None else gate["control"]["variant"],
            missed=None if gate["control"] is None else gate["control"]["missed"],
        )
        for gate in results["gates"]
        if gate["passed"] is not None or gate["reason"] != "not run"
    ]
    return [run, *gates, minutes(lab_id, results["seconds"], "run", at=run.at)]


def _score(results: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run comparable with another: the score, and the machine. Empty where the lab has no score."""
    score = results.get("score")
    if score is None:
        return {}
    return {"score": {name: score[name] for name in ("metric", "value", "unit", "better")}, "machine": machine(results)}


def machine(results: Mapping[str, Any]) -> str:
    """On what a run was: the first GPU where it used one, else the processor."""
    hardware = results["hardware"]
    gpus = hardware.get("gpus") or []
    if results["device"] == "cuda" and gpus:
        return str(gpus[0]).partition(",")[0]  # without the driver's version, which comes after the name
    return str(hardware.get("processor") or hardware.get("platform") or "?")


def _prediction(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encode_number(value) if isinstance(value, float) else value for name, value in item.items()}


def of_checks(lab_id: str, outcomes: Iterable[Mapping[str, Any]]) -> list[Event]:
    """One event for each exercise that passed."""
    passed = [outcome for outcome in outcomes if outcome["status"] == "passed"]
    return [event("check_passed", lab_id, exercise=outcome["exercise"], level=outcome["level"]) for outcome in passed]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sitting with a quiz."""

    quiz: str
    seed: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def answered(self, question: str, answer: Answer, right: bool, seconds: float) -> list[Event]:
        """The events of one answer; thinking longer than ten minutes counts as having left."""
        given = answer if isinstance(answer, (int, float)) else sorted(answer) if isinstance(answer, frozenset) else list(answer)
        said = event("quiz_answer", self.quiz, attempt=self.id, seed=self.seed, question=question, given=given, correct=right)
        return [said, minutes(self.quiz, min(seconds, 600.0), "quiz", at=said.at)]


def minutes(subject: str, seconds: float, activity: str, at: str | None = None) -> Event:
    """Time spent, in minutes."""
    return event("minutes", subject, at=at, minutes=round(seconds / 60, 3) if math.isfinite(seconds) else 0.0, activity=activity)
