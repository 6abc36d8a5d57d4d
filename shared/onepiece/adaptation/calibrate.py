"""Run the search of a lab: `python -m onepiece.adaptation.calibrate LAB_DIRECTORY TRIALS_FILE [--grid KEY=VALUE,...] ...`

`LAB_DIRECTORY/calibration.py` has a module-level `SEARCH`. Standard output is one JSON object per line:

    {"event": "refused", "where": "options" | "calibration", "what": "..."}     and nothing else
    {"event": "plan", "metric": ..., "trials": {label: how many}, "sources": what finished trials must be of}
    {"event": "trial", "contender": label, "settings": {...}, "seed": 10, "score": ..., "cpu_seconds": ..., "resumed": false}
    {"event": "result", "metric": ..., "contenders": [...], ...}

Exit code: 0 the search is done, 2 refused; a trial that raises ends it with a traceback. Every finished trial is in `TRIALS_FILE` by then,
and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onepiece
from onepiece.adaptation.search import Contender, Search, Setting, Settings, Trial, TrialFile, calibrate_one
from onepiece.course.json_numbers import encode_number
from onepiece.course.text import tr
from onepiece.kernel.machine import hardware, versions
from onepiece.measure import cpu_timed

Emit = Callable[[dict[str, Any]], None]


def load_search(lab_directory: Path) -> Search:
    """The `SEARCH` of a lab's `calibration.py`, which may import the lab's modules.

    Raises:
        ValueError: there is no `SEARCH`.
        Exception: whatever the module raises.
    """
    sys.path.insert(0, str(lab_directory))
    spec = importlib.util.spec_from_file_location("lab_calibration", lab_directory / "calibration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module that they are defined in
    spec.loader.exec_module(module)
    found = getattr(module, "SEARCH", None)
    if not isinstance(found, Search):
        msg = "there is no SEARCH = Search(...) in it"
        raise ValueError(msg)
    return found


# --- what the command line changes --------------------------------------------------------------------------------


def changed(search: Search, *, grid: Sequence[str] = (), names: Sequence[str] = (), seeds: str = "", quick: bool = False) -> Search:
    """The search as the command line wants it.

    Args:
        grid: `KEY=VALUE,VALUE`: other values for a key, of every contender that has it.
        names: only the contenders with these names or labels.
        seeds: `10,11`: other search seeds.
        quick: one search seed and one confirmation seed.

    Raises:
        ValueError: a key, a name or a value that does not exist or is no number, or what `Search` refuses.
    """
    contenders = tuple(contender for contender in search.contenders if not names or {contender.name, contender.label} & set(names))
    known = {word for contender in search.contenders for word in (contender.name, contender.label)}
    for name in names:
        if name not in known:
            listed = ", ".join(contender.label for contender in search.contenders)
            raise ValueError(tr(f"no contender is called {name}; there are {listed}", f"沒有名為 {name} 的方法；有的是 {listed}"))
    for text in grid:
        contenders = _with_values(contenders, text)
    search_seeds = tuple(_number(seed, "--seeds", whole=True) for seed in seeds.split(",")) if seeds else search.search_seeds
    only = slice(0, 1 if quick else None)
    return dataclasses.replace(
        search, contenders=contenders, search_seeds=search_seeds[only], confirmation_seeds=search.confirmation_seeds[only]
    )


def _with_values(contenders: Sequence[Contender], text: str) -> tuple[Contender, ...]:
    key, equals, values = text.partition("=")
    option = f"--grid {text}"
    if not equals or not values:
        raise ValueError(tr(f"{option}: write KEY=VALUE,VALUE", f"{option}：請寫成 鍵=值,值"))
    keys = {key: None for contender in contenders for key in contender.grid}
    if key not in keys:
        listed = ", ".join(keys)
        raise ValueError(tr(f"{option}: no grid has {key}; there are {listed}", f"{option}：搜尋範圍裡沒有 {key}；有的是 {listed}"))
    return tuple(
        dataclasses.replace(contender, grid={**contender.grid, key: _values(values, contender.grid[key], option)})
        if key in contender.grid
        else contender
        for contender in contenders
    )


def _values(text: str, before: Sequence[Setting], option: str) -> tuple[Setting, ...]:
    """Values of the kind that the grid had before."""
    if all(isinstance(value, bool) for value in before):
        words = {"true": True, "false": False}
        unknown = [word for word in text.split(",") if word not in words]
        if unknown:
            raise ValueError(tr(f"{option}: {unknown[0]} is neither true nor false", f"{option}：{unknown[0]} 不是 true 也不是 false"))
        return tuple(words[word] for word in text.split(","))
    if all(isinstance(value, str) for value in before):
        return tuple(text.split(","))
    return tuple(_number(word, option, whole=all(isinstance(value, int) for value in before)) for word in text.split(","))


def _number(text: str, option: str, *, whole: bool) -> Any:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = tr("whole number", "整數") if whole else tr("number", "數字")
        raise ValueError(tr(f"{option}: {text!r} is no {kind}", f"{option}：{text!r} 不是{kind}"))
    return value


# --- what decides a trial -----------------------------------------------------------------------------------------


def lab_sources(lab_directory: Path) -> list[Path]:
    """`calibration.py` and the modules that it may import: neither notebooks nor checks."""
    return [path for path in sorted(lab_directory.glob("*.py")) if not path.name[0].isdigit() and path.name != "checks.py"]


def lab_settings() -> dict[str, Any]:
    """What `lab.settings` says to every trial; empty outside a run."""
    context = Path(os.environ.get("ONEPIECE_RUN", ""), "context.json")
    return dict(json.loads(context.read_text(encoding="utf-8"))["settings"]) if context.is_file() else {}


def digest(paths: Iterable[Path], *more: Mapping[str, Any]) -> str:
    """One SHA-256 over files, by their names and bytes, and over whatever else decides."""
    found = hashlib.sha256(json.dumps(more, sort_keys=True).encode())
    for path in paths:
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _course_sources() -> list[Path]:
    """The lab floor of the package: a change in the training loop is another trial."""
    package = Path(onepiece.__file__).parent
    return [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] != "host"]


# --- the process --------------------------------------------------------------------------------------------------


def calibrate(search: Search, trials: TrialFile, emit: Emit) -> dict[str, Any]:
    """Search and confirm every contender; `emit` gets an event for each trial. Returns the result without its machine."""
    spent = []

    def attempt(contender: Contender, settings: Settings, seed: int) -> Trial:
        trial = trials.find(contender.label, settings, seed)
        resumed = trial is not None
        if trial is None:
            score, seconds = cpu_timed(lambda: float(contender.run(dict(settings), seed)))
            trial = Trial(contender.label, dict(settings), seed, score, seconds)
            trials.add(trial)
        spent.append(trial.cpu_seconds)
        emit({"event": "trial", **dataclasses.asdict(trial), "score": encode_number(trial.score), "resumed": resumed})
        return trial

    planned = {each.label: search.trials(each) for each in search.contenders}
    emit({"event": "plan", "metric": search.metric, "trials": planned, "sources": trials.sources})
    contenders = [calibrate_one(contender, search, attempt) for contender in search.contenders]
    return {
        "metric": search.metric,
        "search_seeds": list(search.search_seeds),
        "confirmation_seeds": list(search.confirmation_seeds),
        "budget": {"candidates": search.candidates, "trials": len(spent), "cpu_seconds": round(sum(spent), 1)},
        "contenders": contenders,
    }


def main(arguments: Sequence[str]) -> int:
    """Read the lab's search, change it as the options say, run what is not in the trials file yet."""
    parser = argparse.ArgumentParser(prog="python -m onepiece.adaptation.calibrate")
    parser.add_argument("lab_directory", type=Path)
    parser.add_argument("trials_file", type=Path)
    parser.add_argument("--grid", action="append", default=[])
    parser.add_argument("--contender", action="append", default=[])
    parser.add_argument("--seeds", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a training prints must not mix with the JSON lines

    def emit(event: dict[str, Any]) -> None:
        protocol.write(json.dumps(event, ensure_ascii=False) + "\n")
        protocol.flush()

    try:
        search = load_search(options.lab_directory)
    except (Exception, SystemExit) as error:  # whatever the module raises is what its author needs to see
        if not isinstance(error, ValueError):
            traceback.print_exc()
        emit({"event": "refused", "where": "calibration", "what": "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]})
        return 2
    try:
        search = changed(search, grid=options.grid, names=options.contender, seeds=options.seeds, quick=options.quick)
    except ValueError as error:
        emit({"event": "refused", "where": "options", "what": str(error)})
        return 2
    mine, settings, packages = lab_sources(options.lab_directory), lab_settings(), versions()
    trials = TrialFile(options.trials_file, digest([*mine, *_course_sources()], settings, packages))
    result = calibrate(search, trials, emit)
    made = {"settings": settings, "sources_sha256": digest(mine), "versions": packages, "hardware": hardware()}
    emit({"event": "result", **result, **made})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
