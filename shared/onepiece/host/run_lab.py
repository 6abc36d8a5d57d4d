"""`nox -s lab-X`: preflight, plan, run, verdict."""

from __future__ import annotations

import argparse
import functools
import shutil
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece import catalog
from onepiece.errors import UserError
from onepiece.host import environments, local, preflight, report, runs, sources, view
from onepiece.host.app import Parser, add_language, model_directory
from onepiece.host.plan import Plan, Request, choose
from onepiece.text import current_language, tr


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one lab ended."""

    exit_code: int
    results: dict[str, Any]


def command(console: Console, arguments: list[str]) -> int:
    """Run one lab; exit 0 only if every gate held and every control missed."""
    lab_id, *rest = arguments
    options = parser(lab_id).parse_args(rest)
    return run(console, catalog.load().lab(lab_id), options).exit_code


def parser(lab_id: str) -> argparse.ArgumentParser:
    """The options of a lab's session."""
    made = Parser(prog=f"nox -s {lab_id} --", description=tr("Run a lab and judge what it measured.", "執行一個實驗，並判定量測結果。"))
    add_options(made)
    made.add_argument(
        "--notebook",
        metavar="02",
        help=tr("run only this notebook, with the artifacts of earlier runs", "只執行這一份筆記本，沿用先前的產物"),
    )
    made.add_argument(
        "--model",
        metavar="PATH",
        type=model_directory,
        help=tr("a local model directory instead of the profile's model", "改用本機的模型目錄"),
    )
    made.add_argument(
        "--publish", action="store_true", help=tr("write the results to labs/<lab>/results/", "把結果寫到 labs/<lab>/results/")
    )
    return made


def add_options(made: argparse.ArgumentParser) -> None:
    """The options that one lab and several labs have in common."""
    made.add_argument(
        "--profile",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help=tr("how big: cpu is small and offline, gpu is a real model", "profile：cpu 小而離線，gpu 用真實模型"),
    )
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=tr("on what it runs", "在什麼裝置上執行"))
    made.add_argument("--backend", choices=("auto", "local", "container"), default="auto", help=tr("where it runs", "在哪裡執行"))
    add_language(made)
    made.add_argument("--mine", action="store_true", help=tr("run on your modules in workspace/<lab>/", "使用你在 workspace/<lab>/ 的模組"))
    made.add_argument(
        "--keep-going", action="store_true", help=tr("go on with the next notebook after a failing cell", "某一格失敗後仍繼續下一份筆記本")
    )


def run(console: Console, lab: catalog.Lab, options: argparse.Namespace) -> Outcome:
    """Run `lab` as the options say and show the verdict.

    Raises:
        UserError: everything that keeps the lab from running.
    """
    for problem in sources.verify(lab):
        raise problem
    plan = plan_for(lab, options)
    console.print(preflight_line(plan), soft_wrap=True)
    environment = prepare_environment(console, plan, options.fresh, lab.id)
    wanted = (lab.notebook(options.notebook),) if getattr(options, "notebook", None) else lab.notebooks
    run_options = runs.Options(current_language(), wanted, options.mine, options.keep_going, getattr(options, "model", None))
    made = runs.prepare(lab, plan, run_options)
    finished = True
    _save(made, environment)
    try:
        with view.RunView(console, made) as progress:

            def hear(event: dict[str, Any]) -> None:
                made.hear(event)
                progress.hear(event)
                if event["event"] == "notebook_end":  # so that even a power cut leaves what finished, marked incomplete
                    _save(made, environment)

            finished = local.execute(made, environment, lab.id, hear)
    except KeyboardInterrupt:  # before or after the runner was listened to
        finished = False
    except UserError:
        if not made.notebooks:
            shutil.rmtree(made.directory, ignore_errors=True)
        raise
    judged, results = _save(made, environment)
    (made.directory / "report.html").write_text(report.render(lab, results, made.directory), encoding="utf-8")
    view.verdict(console, made, judged, results)
    if not finished:
        console.print(
            tr(
                f"Interrupted; what finished is kept in {local.kept_file(made.directory)}",
                f"已中斷；完成的部分保留在 {local.kept_file(made.directory)}",
            ),
            soft_wrap=True,
        )
        return Outcome(130, results)
    if getattr(options, "publish", False):
        _publish(console, lab, results)
    return Outcome(1 if results["status"] == "failed" else 0, results)


def plan_for(lab: catalog.Lab, options: argparse.Namespace) -> Plan:
    """The plan for this machine."""
    unavailable = tuple(extra for extra in lab.extras if not environments.extra_available(extra))
    return choose(lab, preflight.gather(), Request(options.profile, options.device, options.backend), unavailable)


def preflight_line(plan: Plan) -> str:
    """One line: what was chosen, why, and what would change it."""
    return tr(
        f"[bold]Running locally on {plan.device}, profile {plan.profile}[/]: {escape(plan.reason.en)} [dim]({escape(plan.change.en)})[/]",
        f"[bold]在本機以 {plan.device} 執行，profile {plan.profile}[/]：{escape(plan.reason.zh_tw)}[dim]（{escape(plan.change.zh_tw)}）[/]",
    )


def prepare_environment(console: Console, plan: Plan, fresh: bool, session: str, extras: tuple[str, ...] = ()) -> environments.Environment:
    """Make the plan's environment, showing what is installed while that takes minutes."""
    extras = (*plan.extras, *extras)
    install = functools.partial(environments.ensure, plan.environment, extras, fresh=fresh, session=session, note=console.print)
    if not console.is_terminal:
        return install()
    with console.status(tr("Looking at the environment", "檢查環境")) as status:
        return install(detail=lambda line: status.update(f"[dim]{escape(line[:100])}[/]"))


def _save(made: runs.Run, environment: environments.Environment) -> tuple[list[Any], dict[str, Any]]:
    judged = made.judge()
    results = runs.results_json(made, judged, environment.lock_sha256)
    runs.write_json(made.directory / "results.json", results)
    return judged, results


def _publish(console: Console, lab: catalog.Lab, results: dict[str, Any]) -> None:
    if results["status"] != "passed" or results["mine"]:
        raise UserError("nothing-published", reason=f"the run is {results['status']}{' of your own modules' * results['mine']}", lab=lab.id)
    path = lab.directory / "results" / f"{results['profile']}-{results['device']}.json"
    path.parent.mkdir(exist_ok=True)
    runs.write_json(path, results)
    console.print(tr(f"Published to {local.kept_file(path)}", f"已發布到 {local.kept_file(path)}"))
