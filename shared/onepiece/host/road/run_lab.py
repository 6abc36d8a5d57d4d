"""One lab from its manifest to a verdict: prepare, run, judge, report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import WORKSPACE
from onepiece.course.text import current_language, tr
from onepiece.host.interrupts import ignore_interrupts
from onepiece.host.progress.record import record_run
from onepiece.host.road import exercises, local, report, runs, sources, view
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import Backend, make_ready


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a lab is to be run, as the options of its session say."""

    request: Request = field(default_factory=Request)
    fresh: bool = False
    environment: Path | None = None  # a virtual environment that is there already
    mine: bool = False
    keep_going: bool = False
    notebook: str | None = None  # only this one
    model: Path | None = None
    publish: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one lab ended."""

    exit_code: int
    results: dict[str, Any]


def run(console: Console, lab: catalog.Lab, options: RunOptions) -> Outcome:
    """Run `lab` as the options say and show the verdict.

    Raises:
        UserError: everything that keeps the lab from running.
    """
    for problem in sources.verify(lab):
        raise problem
    if options.mine:  # before anything is installed
        sources.require_copy(lab, WORKSPACE / lab.id)
        exercises.refuse_hiding(WORKSPACE / lab.id)
    backend = make_ready(console, lab, options.request, fresh=options.fresh, environment=options.environment)
    wanted = (lab.notebook(options.notebook),) if options.notebook else lab.notebooks
    run_options = runs.Options(current_language(), wanted, options.mine, options.keep_going, options.model)
    made = runs.prepare(lab, backend.plan, run_options, backend.place)
    made.image = backend.image
    finished = True
    _save_so_far(made, backend)
    try:
        with view.RunView(console, made) as progress:

            def hear(event: dict[str, Any]) -> None:
                made.hear(event)
                progress.hear(event)
                if event["event"] == "notebook_end":
                    _save_so_far(made, backend)

            finished = backend.execute(made, hear)
    except KeyboardInterrupt:  # before or after the runner was listened to
        finished = False
    except UserError:
        if not made.notebooks:
            shutil.rmtree(made.directory, ignore_errors=True)
        raise
    with ignore_interrupts():  # it takes a moment, and results that say "passed" are never without their report
        judged = made.judge()
        results = runs.results_json(made, judged, backend.lock_sha256)
        (made.directory / "report.html").write_text(report.render(lab, results, made.directory), encoding="utf-8")
        runs.write_json(made.directory / "results.json", results)
        view.verdict(console, made, judged, results)
    record_run(console, results)
    for step in backend.next_steps(made):
        console.print(escape(step), soft_wrap=True)
    if not finished:
        console.print(
            tr(
                f"Interrupted; what finished is kept in {local.kept_file(made.directory)}",
                f"已中斷；完成的部分保留在 {local.kept_file(made.directory)}",
            ),
            soft_wrap=True,
        )
        return Outcome(130, results)
    if options.publish:
        _publish(console, lab, results)
    return Outcome(1 if results["status"] == "failed" else 0, results)


def _save_so_far(made: runs.Run, backend: Backend) -> None:
    """Keep what finished, marked incomplete: a power cut, or a kill, may be next."""
    results = runs.results_json(made, made.judge(), backend.lock_sha256) | {"status": "incomplete", "complete": False}
    runs.write_json(made.directory / "results.json", results)


def _publish(console: Console, lab: catalog.Lab, results: dict[str, Any]) -> None:
    if results["status"] != "passed" or results["mine"]:
        raise UserError("nothing-published", reason=f"the run is {results['status']}{' of your own modules' * results['mine']}", lab=lab.id)
    path = lab.directory / "results" / f"{results['profile']}-{results['device']}.json"
    path.parent.mkdir(exist_ok=True)
    runs.write_json(path, results)
    console.print(tr(f"Published to {local.kept_file(path)}", f"已發布到 {local.kept_file(path)}"))
