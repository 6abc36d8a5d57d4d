"""Run directories: `runs/<lab>/<time>/`, prepared before a run, `results.json` after it.

`results.schema.json` beside this file documents the result; tests hold every result to it.
"""

from __future__ import annotations

import datetime
import difflib
import errno
import json
import math
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.json_numbers import decode_number, encode_number
from onepiece.course.json_objects import read_object
from onepiece.course.model_files import verify_directory
from onepiece.course.places import HOME, ROOT, RUNS, SHARED, WORKSPACE
from onepiece.course.text import tr
from onepiece.host.road import exercises, gates, shared_modules, sources
from onepiece.host.road.environments import lock_hash
from onepiece.host.road.plan import Plan

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Options:
    """How the learner wants this run."""

    language: str
    notebooks: tuple[str, ...]  # in course order; all of the lab's, or one
    mine: bool = False
    keep_going: bool = False
    model: Path | None = None
    replace: Mapping[str, str] = field(default_factory=dict)  # file name -> source that stands for the lab's module of that name
    artifacts_of: Path | None = None  # the run whose artifacts these notebooks use; None: any earlier one of the same kind


@dataclass
class Run:
    """A run directory and what has been heard from the run so far."""

    lab: Lab
    plan: Plan
    options: Options
    directory: Path
    usage: sources.Usage
    started: datetime.datetime
    predictions: dict[str, float]
    image: dict[str, Any] | None = None  # of the container, as `results.json` holds it
    notebooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: list[gates.Record] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    standing: exercises.Standing | None = None  # of the learner's copy, if it is that which runs

    @property
    def complete(self) -> bool:
        """Every notebook of the lab ran to its end."""
        return all(self.notebooks.get(name, {}).get("status") == "ok" for name in self.lab.notebooks)

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event of `onepiece.kernel.execute`."""
        kind = event["event"]
        if kind == "record":
            record = gates.Record(event["metric"], decode_number(event["value"]), event["seed"], event["variant"], event["notebook"])
            self.records.append(record)
        elif kind == "figure":
            self.figures.append({key: event[key] for key in ("name", "file", "caption", "notebook")})
        elif kind == "notebook_end":
            self.notebooks[event["notebook"]] = {key: event[key] for key in ("status", "seconds", "peak_bytes", "error")}
        elif kind == "end":
            self.versions, self.hardware = event["versions"], event["hardware"]

    def judge(self) -> list[gates.Judged]:
        """The verdict over every gate of the run's profile."""
        judged = []
        for gate in self.lab.gates:
            if self.plan.profile in gate.profiles:
                recorded_in = self.usage.recorded_in.get(gate.metric, frozenset())
                expected = all(self.notebooks.get(name, {}).get("status") == "ok" for name in recorded_in)
                judged.append(gates.judge(gate, self.records, expected=expected, missing_extras=self.plan.missing_extras))
        return judged


def prepare(lab: Lab, plan: Plan, options: Options, place: Callable[[Path], str] = str) -> Run:
    """Make the run directory with its notebooks and `context.json`.

    Args:
        lab: which one.
        plan: where, on what and how big.
        options: how the learner wants it.
        place: where the notebooks find a path of this machine: the same, or another one in a container.

    Raises:
        UserError: a broken source, no workspace for --mine or one that hides a module, unreadable predictions, a model that is not
            whole, or no place to write.
    """
    usage = sources.usage(lab)
    code, standing = [lab.directory], None
    if options.mine:
        mine = WORKSPACE / lab.id
        sources.require_copy(lab, mine)
        exercises.refuse_hiding(mine)
        code.insert(0, mine)
        standing = exercises.standing(lab, mine)
    replace = {**options.replace, **(standing.replace if standing else {})}
    predictions = read_predictions(lab)
    if options.model is not None:
        verify_directory(options.model)
    directory = _new_directory(lab)
    try:
        note = f"> **{standing.said[options.language]}**" if standing and not standing.whole else ""
        sources.write_notebooks(lab, directory / "notebooks", options.language, options.notebooks, note)
        (directory / "artifacts").mkdir()
        if replace:
            code.insert(0, directory / "code")
            code[0].mkdir()
        for name, source in replace.items():
            (code[0] / name).write_text(source, encoding="utf-8", newline="\n")
        context = context_json(lab, plan, options, usage, predictions, earlier_runs(lab, plan, options, directory), place=place)
        write_json(directory / "context.json", context | {"code": [place(path) for path in code]})
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Run(lab, plan, options, directory, usage, datetime.datetime.now(datetime.UTC), predictions, standing=standing)


def context_json(
    lab: Lab,
    plan: Plan,
    options: Options,
    usage: sources.Usage,
    predictions: dict[str, float],
    earlier: Sequence[Path],
    strict: bool = True,
    place: Callable[[Path], str] = str,
) -> dict[str, Any]:
    """What `onepiece.lab` needs to know."""
    settings = dict(lab.profiles[plan.profile].settings)
    return {
        "lab": lab.id,
        "profile": plan.profile,
        "device": plan.device,
        "dtype": settings.pop("dtype", "float32"),
        "language": options.language,
        "settings": settings,
        "model": None if options.model is None else place(options.model.resolve()),
        "predictions": predictions,
        "artifact_makers": usage.artifact_makers,
        "earlier_runs": [place(path) for path in earlier],
        "strict": strict,
    }


def _new_directory(lab: Lab) -> Path:
    """A directory that no other run has, however many start in this second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        directory = RUNS / lab.id / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory
    raise FileExistsError(errno.EEXIST, "a thousand runs in one second", str(RUNS / lab.id))


def earlier_runs(lab: Lab, plan: Plan, options: Options, directory: Path) -> list[Path]:
    """Earlier runs of the same kind, newest first, whose artifacts a single notebook may use."""
    if len(options.notebooks) == len(lab.notebooks):
        return []
    if options.artifacts_of is not None:
        return [options.artifacts_of]
    found = []
    for candidate in sorted(directory.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        earlier = read_object(candidate / "results.json")
        if (earlier.get("profile"), earlier.get("device"), earlier.get("mine")) == (plan.profile, plan.device, options.mine):
            found.append(candidate)
    return found


def read_predictions(lab: Lab) -> dict[str, float]:
    """The learner's guesses: `workspace/<lab>/predictions.toml`, metric = number."""
    path = WORKSPACE / lab.id / "predictions.toml"
    if not path.exists():
        return {}
    example = f"{lab.gates[0].metric} = 0.5"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with what Windows editors put first, or without
    except (OSError, ValueError) as error:
        raise UserError("bad-predictions", path=path, reason=error, example=example) from None
    seen = sources.usage(lab)
    known = {*seen.recorded_in, *seen.predicted}  # a notebook may say in a sentence what a guess is held against
    for metric, value in table.items():
        if metric not in known:
            raise UserError("bad-predictions", path=path, reason=_not_measured(metric, known), example=example)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError("bad-predictions", path=path, reason=tr(f"{metric} is not a number", f"{metric} 不是數字"), example=example)
    return {metric: float(value) for metric, value in table.items()}


def _not_measured(metric: str, known: Iterable[str]) -> str:
    near = (difflib.get_close_matches(metric, known, n=1, cutoff=0.0) or ["?"])[0]
    return tr(f"no notebook measures {metric} (did you mean {near}?)", f"沒有筆記本會量 {metric}（你要的是不是 {near}？）")


def results_json(run: Run, judged: Iterable[gates.Judged], lock_sha256: str | None) -> dict[str, Any]:
    """The run as `results.json` holds it."""
    judged = list(judged)
    profile = run.lab.profiles[run.plan.profile]
    measured = gates.measured(run.records)
    return {
        "schema": SCHEMA_VERSION,
        "lab": run.lab.id,
        "status": status(run, judged),
        "complete": run.complete,
        "started": run.started.isoformat(timespec="seconds"),
        "seconds": round(sum(notebook["seconds"] for notebook in run.notebooks.values()), 3),
        "peak_bytes": max((notebook["peak_bytes"] for notebook in run.notebooks.values()), default=0),
        "budget": {"minutes": profile.minutes, "memory_gb": profile.memory_gb, "vram_gb": profile.vram_gb},
        "backend": run.plan.backend,
        "device": run.plan.device,
        "profile": run.plan.profile,
        "reason": {"en": run.plan.reason.en, "zh-TW": run.plan.reason.zh_tw},
        "language": run.options.language,
        "mine": run.options.mine,
        "exercises": None if run.standing is None else run.standing.as_json(),
        "model": None if run.options.model is None else run.options.model.name,
        "settings": dict(profile.settings),
        "notebooks": [{"name": name, **found} for name, found in run.notebooks.items()],
        "gates": [gates.as_json(item) for item in judged],
        "records": [asdict(record) | {"value": encode_number(record.value)} for record in run.records],
        "score": _score(run, measured),
        "predictions": [
            {"metric": metric, "predicted": guess, "measured": encode_number(measured.get(metric))}
            for metric, guess in run.predictions.items()
        ],
        "figures": run.figures,
        "versions": run.versions,
        "hardware": run.hardware,
        "image": run.image,
        "environment": {"name": run.plan.environment, "lock_sha256": lock_sha256, "missing_extras": list(run.plan.missing_extras)},
        "server": {"name": run.plan.server, "lock_sha256": lock_hash(run.plan.server)} if run.plan.server else None,
        "sources_sha256": shared_modules.sources_hash(run.lab),
        "shared_sha256": shared_modules.shared_hash(run.lab),
        "git": git_state(),
    }


def _score(run: Run, measured: Mapping[str, float]) -> dict[str, Any] | None:
    """The lab's score as this run measured it; None where the lab has none for this profile, or the run did not come to it."""
    score = run.lab.score
    if score is None or run.plan.profile not in score.profiles or score.metric not in measured:
        return None
    return {
        "metric": score.metric,
        "objective": {"en": score.objective.en, "zh-TW": score.objective.zh_tw},
        "unit": score.unit,
        "better": score.better,
        "value": encode_number(measured[score.metric]),
    }


def status(run: Run, judged: Sequence[gates.Judged]) -> str:
    """ "passed", "failed" (a gate, a control or a cell), or "incomplete" (interrupted, or only some notebooks ran)."""
    states = {notebook["status"] for notebook in run.notebooks.values()}
    if "failed" in states or any(not item.ok for item in judged):
        return "failed" if "interrupted" not in states else "incomplete"
    return "passed" if run.complete else "incomplete"


def git_state() -> dict[str, Any]:
    """The commit that ran, and whether files differed from it; None where there is no git, or no repository of the course.

    A course that was unpacked inside another repository has no commit: that repository's would name other files.
    """
    # Set in a hook, for instance; they would choose the repository.
    environ = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    }

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, env=environ)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("rev-parse", "--show-prefix") != "":  # where we are below the repository's root; None: in none
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def kernel_environment(run_directory: Path, code: Sequence[Path | str], language: str, *, offline: bool) -> dict[str, str]:
    """Environment variables of everything that runs lesson code on this machine: the runner, the checks, JupyterLab."""
    environment = dict(os.environ)
    for name in ("PYTHONHOME", "VIRTUAL_ENV", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE"):  # packages come without bytecode
        environment.pop(name, None)
    environment |= {
        "PYTHONPATH": os.pathsep.join([*map(str, code), str(SHARED)]),
        "ONEPIECE_ROOT": str(ROOT),
        "ONEPIECE_HOME": str(HOME),
        "ONEPIECE_RUN": str(run_directory),
    }
    if not {"LOGNAME", "USER", "LNAME", "USERNAME"} & environment.keys():
        environment["USER"] = "learner"  # who has no line in passwd has no name, and torch.compile asks for one
    return environment | lesson_variables(language, offline=offline)


def lesson_variables(language: str, *, offline: bool) -> dict[str, str]:
    """Environment variables of everything that runs lesson code, wherever it does."""
    variables = {
        "PYTHONUTF8": "1",
        "ONEPIECE_LANG": language,
        # Threads that spin while they wait make a two-core machine 30 times slower.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "KINETO_LOG_LEVEL": "99",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # of tqdm, which then draws its bars as text
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    return variables | ({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if offline else {})
