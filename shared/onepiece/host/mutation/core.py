"""Core lines: what a lab is about, and so its gates must notice when it is wrong, on the cpu profile.

The reference is run first, unless a run of exactly these sources is there. Then the notebooks that use the wrong module are run, with it
in front of the lab's code as a learner's copy is with `--mine`, and with the artifacts of the reference's run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.json_objects import read_object
from onepiece.course.places import RUNS
from onepiece.course.text import current_language
from onepiece.host.mutation.mutants import Mutant
from onepiece.host.road import local, runs, shared_modules, sources
from onepiece.host.road.environments import Environment
from onepiece.host.road.gates import Judged
from onepiece.host.road.plan import Plan, Request
from onepiece.host.road.prepare import plan_for, prepare_environment
from onepiece.host.road.run_lab import RunOptions, run
from onepiece.host.road.view import RunView

ON_CPU = Request("cpu", "cpu", "local")
_PATIENCE = 5  # times what the reference took
_LEAST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Noticed:
    """A core line's mutant, and what of the notebooks that ran it was red."""

    mutant: Mutant
    notebooks: tuple[str, ...]  # that use its module
    by: tuple[str, ...]  # "gate error", "control error/off_by_one", "KeyError in 02-use, cell 3"; empty: it survived


def reference_run(console: Console, lab: Lab) -> Path:
    """A whole run of the reference on the cpu profile that passed: one of these very sources that is there, or a new one.

    Raises:
        UserError: "reference-misses": the reference does not pass its own gates.
    """
    found = _passed_runs(lab)
    if not found:
        outcome = run(console, lab, RunOptions(ON_CPU))
        if outcome.exit_code == 130:
            raise KeyboardInterrupt
        found = _passed_runs(lab)
    if not found:
        raise UserError("reference-misses", lab=lab.id)
    return found[0]


def _passed_runs(lab: Lab) -> list[Path]:
    """Newest first."""
    wanted = {
        "status": "passed", "complete": True, "mine": False, "model": None, "profile": "cpu", "device": "cpu", "backend": "local",
        "sources_sha256": shared_modules.sources_hash(lab), "shared_sha256": shared_modules.shared_hash(lab),
    }  # fmt: skip
    found = []
    for path in sorted((RUNS / lab.id).glob("*/results.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        results = read_object(path)
        if all(results.get(key) == value for key, value in wanted.items()):
            found.append(path.parent)
    return found


class Gates:
    """The notebooks of a lab on the cpu profile, run on one mutant after the other."""

    def __init__(self, console: Console, lab: Lab, reference: Path) -> None:
        self._console, self._lab, self._reference = console, lab, reference
        self._plan: Plan = plan_for(lab, ON_CPU)
        self._environment: Environment = prepare_environment(console, self._plan, False, lab.id)
        results = json.loads((reference / "results.json").read_text(encoding="utf-8"))
        self._seconds = {notebook["name"]: notebook["seconds"] for notebook in results["notebooks"]}

    def judge(self, mutant: Mutant) -> Noticed:
        """Run the notebooks that use the mutant's module, and say what was red. Nothing of the run is kept."""
        notebooks = notebooks_with(self._lab, Path(mutant.module).stem)
        if not notebooks:
            return Noticed(mutant, (), ())
        options = runs.Options(current_language(), notebooks, replace={mutant.module: mutant.source}, artifacts_of=self._reference)
        made = runs.prepare(self._lab, self._plan, options)
        try:
            patience = _LEAST_SECONDS + _PATIENCE * sum(self._seconds[name] for name in notebooks)
            return Noticed(mutant, notebooks, self._red(made, patience))
        finally:
            # Before anybody takes it for a run of the reference.
            shutil.rmtree(made.directory, ignore_errors=True)

    def _red(self, made: runs.Run, patience: float) -> tuple[str, ...]:
        began = time.monotonic()
        with RunView(self._console, made) as progress:

            def hear(event: dict[str, Any]) -> None:
                made.hear(event)
                progress.hear(event)

            finished = local.execute(made, self._environment, self._lab.id, hear, patience)
        if not finished and time.monotonic() - began < patience:
            raise KeyboardInterrupt
        late = [] if finished else [f"not done after {patience:.0f} s"]
        errors = [
            f"{notebook['error']['name']} in {name}, cell {notebook['error']['cell']}"
            for name, notebook in made.notebooks.items()
            if notebook["error"]
        ]
        return (*(name for item in made.judge() for name in _red_parts(item)), *errors, *late)


def _red_parts(judged: Judged) -> list[str]:
    """What of a gate is wrong; nothing, if it was not judged."""
    gate = judged.gate
    parts = [
        (judged.passed, f"gate {gate.metric}"),
        (judged.control_missed, f"control {gate.metric}/{gate.control}"),
        (judged.null_missed, f"null system {gate.metric}/{gate.null}"),
    ]
    return [name for good, name in parts if good is False]


def notebooks_with(lab: Lab, module: str) -> tuple[str, ...]:
    """The notebooks that use a module of their lab, themselves or through another one: what is imported, or named in a string, which is
    how code that runs elsewhere (in a server, in another process) is chosen."""
    files = {path.stem: path for path in sorted(lab.directory.glob("*.py"))}
    uses = {name: _names(path) & set(files) for name, path in files.items()}

    def reaches(name: str) -> bool:
        found, waiting = set[str](), [name]
        while waiting:
            found |= (new := uses[waiting.pop()] - found)
            waiting += new
        return module in found

    return tuple(name for name in lab.notebooks if reaches(name))


def _names(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.split(".")[0] for alias in names}
            case ast.ImportFrom(module=str(name)):
                found.add(name.split(".")[0])
            case ast.Constant(value=str(text)):
                found.add(text)
    return found


def code_hash(lab: Lab) -> str:
    """One hash over everything in the lab's directory that decides what its gates say: manifest, modules, and the code of its notebooks."""
    digest = hashlib.sha256((lab.directory / "lab.toml").read_bytes())
    for path in sources.modules(lab):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name in lab.notebooks:
        for cell in sources.read_cells(lab.directory / f"{name}.py"):
            if cell.kind == "code":
                digest.update(cell.text.encode() + b"\0")
    return digest.hexdigest()
