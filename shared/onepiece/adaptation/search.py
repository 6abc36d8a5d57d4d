"""Settings for a method and for its baseline: searched equally hard, judged on seeds that the search did not see.

    SEARCH = Search(
        metric="accuracy on held-out items (0 to 1)",
        contenders=(
            Contender("LoRA", train_lora, {"learning_rate": (4e-3, 2e-3, 8e-3)}, names={"learning_rate": "lora_rate"}),
            Contender("full", train_full, {"learning_rate": (1e-3, 5e-4, 2e-3)}, names={"learning_rate": "full_rate"}),
        ),
        search_seeds=(10, 11, 12),
        confirmation_seeds=(0, 1, 2),
    )

stands in a lab's `calibration.py`; `nox -s calibrate -- <lab>` runs it. Successive halving (Jamieson and Talwalkar 2016,
https://arxiv.org/abs/1502.07943) with seeds as the budget: every candidate gets the first search seed, the better half the
second one too, and so on. A trial is never cut short: a schedule that ends earlier is another schedule, and a loss with a plateau
has said nothing before it leaves it.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onepiece.course.json_numbers import decode_number, encode_number
from onepiece.evaluation import over_seeds
from onepiece.record_files import json_lines

Setting = bool | int | float | str
Settings = Mapping[str, Setting]

FINALISTS = 2
"""How many candidates of each contender the search keeps to the end, and are confirmed: the winner and the runner-up."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method or its baseline, with what may be chosen for it."""

    name: str
    run: Callable[[Settings, int], float]
    """(settings, seed) -> score of one whole training; higher is better, any number; NaN is worse than all."""
    grid: Mapping[str, Sequence[Setting]]
    """Key -> values to try. Of equal scores the candidate that comes first wins, so put the cheaper or the safer value first."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Key -> the setting of `lab.toml` that it decides; a key that is not here is called the same there."""
    comparison: str = ""
    """What it is compared in, if the lab compares more than once: a task. Within one, everybody gets the same budget."""

    @property
    def label(self) -> str:
        """Its name, unique in a search."""
        return f"{self.comparison}: {self.name}" if self.comparison else self.name

    def candidates(self, number: int | None) -> list[dict[str, Setting]]:
        """The grid, its last key changing fastest; or `number` of it, drawn with a fixed seed, in the grid's order."""
        whole = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        if number is None or number >= len(whole):
            return whole
        return [whole[place] for place in sorted(random.Random(0).sample(range(len(whole)), number))]

    def in_lab_toml(self, settings: Settings) -> dict[str, Setting]:
        """The same settings, called as in `lab.toml`."""
        return {self.names.get(key, key): value for key, value in settings.items()}


@dataclass(frozen=True, slots=True)
class Search:
    """What is compared, and on which seeds.

    Raises:
        ValueError: the budgets of a comparison differ, a confirmation seed is a search seed, two contenders decide the same
            setting of `lab.toml`, or there is nothing to search.
    """

    metric: str
    """What a score is, with its unit."""
    contenders: Sequence[Contender]
    search_seeds: Sequence[int]
    confirmation_seeds: Sequence[int]
    """The seeds of the lab's gates, if the search does not see them."""
    candidates: int | None = None
    """So many of each grid, drawn with a fixed seed. None: the whole grid."""

    def __post_init__(self) -> None:
        _require(self.contenders and self.search_seeds and self.confirmation_seeds, "a search needs contenders and seeds of both kinds")
        seeds = [*self.search_seeds, *self.confirmation_seeds]
        both = set(self.search_seeds) & set(self.confirmation_seeds)
        _require(not both, f"seeds {_listed(both)} are search seeds and confirmation seeds: what confirms must not have been seen")
        _require(len(set(seeds)) == len(seeds), f"a seed is given twice: {_listed(seeds)}")
        labels = [contender.label for contender in self.contenders]
        _require(len(set(labels)) == len(labels), f"two contenders have the same name: {_listed(labels)}")
        budgets: dict[str, dict[str, int]] = {}
        decided: dict[str, str] = {}
        for contender in self.contenders:
            _check_grid(contender)
            found = contender.candidates(self.candidates)
            _require(len(found) >= (self.candidates or 1), f"{contender.label} has {len(found)} candidates, not {self.candidates}")
            budgets.setdefault(contender.comparison, {})[contender.label] = len(found)
            for name in contender.in_lab_toml(found[0]):
                other = decided.setdefault(name, contender.label)
                _require(other == contender.label, f"{other} and {contender.label} both decide {name}")
        for counts in budgets.values():
            said = ", ".join(f"{label} has {count} candidates" for label, count in counts.items())
            _require(len(set(counts.values())) == 1, f"both sides are searched equally, but {said}")

    def trials(self, contender: Contender) -> int:
        """How many trainings the search and the confirmation of a contender take."""
        number = len(contender.candidates(self.candidates))
        return sum(rung_sizes(number, len(self.search_seeds))) + min(FINALISTS, number) * len(self.confirmation_seeds)


def _check_grid(contender: Contender) -> None:
    for key, values in contender.grid.items():
        _require(not isinstance(values, str) and len(values) > 0, f"{contender.label}: {key} has no values to try")
        _require(len(set(values)) == len(values), f"{contender.label}: a value of {key} is given twice")
        _require(all(isinstance(value, (bool, int, float, str)) for value in values), f"{contender.label}: {key} takes numbers or texts")
    unknown = set(contender.names) - set(contender.grid)
    _require(contender.grid and not unknown, f"{contender.label}: {_listed(unknown) or 'nothing'} is in its grid")


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))


# --- trials -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One whole training of one candidate."""

    contender: str
    """Its label."""
    settings: dict[str, Setting]
    seed: int
    score: float
    cpu_seconds: float
    """Of all threads of the process."""


class TrialFile:
    """Finished trials as JSON lines: each is written at once, so that whatever ends the search costs the trial in progress only.

    Args:
        path: made if it is not there. A last line without its end, as a killed process leaves one, is cut off.
        sources: a hash of everything that decides a trial; trials with another one are ignored.
    """

    def __init__(self, path: Path, sources: str) -> None:
        self._path, self.sources = path, sources
        self._trials: dict[str, Trial] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("rb+") as stream:
                stream.truncate(len(whole))
        for _, row in json_lines(whole):
            if row.pop("sources") == sources:
                self._keep(Trial(**row | {"score": decode_number(row["score"])}))

    def _keep(self, trial: Trial) -> None:
        self._trials[_key(trial.contender, trial.settings, trial.seed)] = trial

    def find(self, contender: str, settings: Settings, seed: int) -> Trial | None:
        """The trial, if it was finished before."""
        return self._trials.get(_key(contender, settings, seed))

    def add(self, trial: Trial) -> None:
        """Keep a finished trial, on disk too."""
        row = asdict(trial) | {"score": encode_number(trial.score), "sources": self.sources}
        with self._path.open("ab") as stream:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._keep(trial)


def _key(contender: str, settings: Settings, seed: int) -> str:
    return json.dumps([contender, dict(settings), seed], sort_keys=True)


# --- the search -------------------------------------------------------------------------------------------------

Try = Callable[[Contender, Settings, int], Trial]


@dataclass(slots=True)
class Candidate:
    """Settings and what they scored so far."""

    place: int
    """In the grid."""
    settings: dict[str, Setting]
    trials: list[Trial] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Over its seeds; minus infinity if a score is not a number."""
        mean = statistics.fmean(trial.score for trial in self.trials)
        return -math.inf if math.isnan(mean) else mean


def rung_sizes(candidates: int, seeds: int) -> list[int]:
    """How many candidates get the first seed, the second, ...: half of them go on, rounded up, but never fewer than `FINALISTS`."""
    sizes = [candidates]
    while len(sizes) < seeds:
        sizes.append(min(sizes[-1], max(FINALISTS, math.ceil(sizes[-1] / 2))))
    return sizes


def search_one(contender: Contender, search: Search, attempt: Try) -> list[Candidate]:
    """All candidates of a contender, best first: by how far they came, then by their mean, then by their place in the grid."""
    ranked = [Candidate(place, settings) for place, settings in enumerate(contender.candidates(search.candidates))]
    for seed, size in zip(search.search_seeds, rung_sizes(len(ranked), len(search.search_seeds)), strict=True):
        for candidate in ranked[:size]:
            candidate.trials.append(attempt(contender, candidate.settings, seed))
        ranked[:size] = sorted(ranked[:size], key=lambda candidate: (-candidate.mean, candidate.place))
    return ranked


def calibrate_one(contender: Contender, search: Search, attempt: Try) -> dict[str, Any]:
    """Search the settings of a contender, confirm the winner and the runner-up; as JSON, in an order that is always the same.

    The winner is the search's. Confirmation never changes it, for then its seeds would have been part of the search.
    """
    ranked = search_one(contender, search, attempt)
    winner = ranked[0]
    finalists = [Candidate(candidate.place, candidate.settings) for candidate in ranked[:FINALISTS]]
    for finalist in finalists:
        finalist.trials += [attempt(contender, finalist.settings, seed) for seed in search.confirmation_seeds]
    return {
        "label": contender.label,
        "name": contender.name,
        "comparison": contender.comparison,
        "grid": {key: list(values) for key, values in contender.grid.items()},
        "names": {key: contender.names.get(key, key) for key in contender.grid},
        "settings": contender.in_lab_toml(winner.settings),
        "tied": sum(len(other.trials) == len(winner.trials) and other.mean == winner.mean for other in ranked) - 1,
        "on_the_edge": on_the_edge(contender, winner.settings),
        "candidates": [_as_json(candidate) for candidate in ranked],
        "confirmed": [_as_json(finalist) | _interval(finalist) for finalist in finalists],
    }


def on_the_edge(contender: Contender, settings: Settings) -> list[str]:
    """Keys whose value is the smallest or the largest number of the grid: a better one may lie outside."""
    found = []
    for key, values in contender.grid.items():
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) > 1 and settings[key] in (min(numbers), max(numbers)):
            found.append(key)
    return found


def _as_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "settings": candidate.settings,
        "scores": {str(trial.seed): encode_number(trial.score) for trial in candidate.trials},
        "mean": encode_number(candidate.mean),
        "cpu_seconds": round(sum(trial.cpu_seconds for trial in candidate.trials), 1),
    }


def _interval(candidate: Candidate) -> dict[str, Any]:
    """The 95% t interval over the seeds; a single seed has none, and neither have scores that are no numbers."""
    scores = [trial.score for trial in candidate.trials]
    if len(scores) < 2 or not all(map(math.isfinite, scores)):
        return {"low": None, "high": None}
    interval = over_seeds(scores)
    return {"low": interval.low, "high": interval.high}
