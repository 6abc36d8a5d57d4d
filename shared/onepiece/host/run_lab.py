"""`nox -s lab-X`: preflight, plan, run, verdict."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece import catalog
from onepiece.errors import UserError
from onepiece.host import environments, images, local, preflight, report, runs, sources, view
from onepiece.host.app import Parser, add_language, directory_argument
from onepiece.host.plan import ImageState, Plan, Request, choose, variant
from onepiece.host.progress_record import record_run
from onepiece.places import WORKSPACE
from onepiece.text import Text, current_language, tr


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
        type=directory_argument,
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
        help=tr("how big: cpu is small and offline, gpu is a real model", "規模：cpu 小而且可離線，gpu 用真實的模型"),
    )
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=tr("on what it runs", "在什麼裝置上執行"))
    made.add_argument("--backend", choices=("auto", "local", "container"), default="auto", help=tr("where it runs", "在哪裡執行"))
    made.add_argument(
        "--environment",
        metavar="DIR",
        type=directory_argument,
        help=tr(
            "a virtual environment that is there already, where nothing can be installed; results say that it is not the lock's",
            "改用現成的虛擬環境（適合無法安裝套件的機器）；結果會註明它不是照鎖定檔安裝的",
        ),
    )
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
    if options.mine:  # before anything is installed
        sources.require_copy(lab, WORKSPACE / lab.id)
    backend = make_ready(console, lab, options)
    wanted = (lab.notebook(options.notebook),) if getattr(options, "notebook", None) else lab.notebooks
    run_options = runs.Options(current_language(), wanted, options.mine, options.keep_going, getattr(options, "model", None))
    made = runs.prepare(lab, backend.plan, run_options, backend.place)
    made.image = backend.image
    finished = True
    _save(made, backend)
    try:
        with view.RunView(console, made) as progress:

            def hear(event: dict[str, Any]) -> None:
                made.hear(event)
                progress.hear(event)
                if event["event"] == "notebook_end":  # so that even a power cut leaves what finished, marked incomplete
                    _save(made, backend)

            finished = backend.execute(made, hear)
    except KeyboardInterrupt:  # before or after the runner was listened to
        finished = False
    except UserError:
        if not made.notebooks:
            shutil.rmtree(made.directory, ignore_errors=True)
        raise
    judged, results = _save(made, backend)
    (made.directory / "report.html").write_text(report.render(lab, results, made.directory), encoding="utf-8")
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
    if getattr(options, "publish", False):
        _publish(console, lab, results)
    return Outcome(1 if results["status"] == "failed" else 0, results)


def plan_for(lab: catalog.Lab, options: argparse.Namespace, facts: preflight.Facts | None = None) -> Plan:
    """The plan for this machine; `options` has `profile`, `device` and `backend`."""
    facts = facts or preflight.gather()
    request = Request(options.profile, options.device, options.backend)
    unavailable = tuple(extra for extra in lab.extras if not environments.extra_available(extra))
    image = None if request.backend == "local" or facts.engine is None else image_state(lab, facts, request)
    return choose(lab, facts, request, unavailable, image, lowest_driver())


def lowest_driver() -> str:
    """The NVIDIA driver that the locked CUDA needs."""
    return str(environments.versions()["images"]["driver"])


def image_state(lab: catalog.Lab, facts: preflight.Facts, request: Request) -> ImageState:
    """Where the image is that a container of `lab` would need here."""
    kind = variant(facts, request, lowest_driver())
    try:
        image = images.image_for(lab.id, kind)
    except UserError as error:
        return ImageState(reason=error.cause)
    here = images.local_id(image) is not None
    ready = images.registry_known() and (here or images.published(image))
    can_build = facts.engine is not None and bool(facts.engine.buildx)
    return ImageState(
        reference=image.reference,
        source="here" if here else "registry" if ready else "build" if can_build else "",
        ready=ready,
        needs_gb=environments.versions()["environments"].get("cpu" if kind == "cpu" else lab.image, {}).get("disk_gb", 0.0),
        reason=Text("its image is not published, and docker buildx is not installed", "映像檔尚未發布，也沒有安裝 docker buildx"),
    )


def preflight_line(plan: Plan) -> str:
    """One line: what was chosen, why, and what would change it."""
    where = Text("in a container", "在容器中") if plan.backend == "container" else Text("locally", "在本機")
    line = tr(
        f"[bold]Running {where} on {plan.device}, profile {plan.profile}[/]: {escape(plan.reason.en)}",
        f"[bold]{where}以 {plan.device} 執行，profile {plan.profile}[/]：{escape(plan.reason.zh_tw)}",
    )
    return line + tr(f" [dim]({escape(plan.change.en)})[/]", f"[dim]（{escape(plan.change.zh_tw)}）[/]")


# --- backends -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backend:
    """A place that is ready to run notebooks."""

    plan: Plan
    lock_sha256: str | None
    execute: Callable[[runs.Run, Callable[[dict[str, Any]], None]], bool]
    place: Callable[[Path], str] = str
    image: dict[str, Any] | None = None
    next_steps: Callable[[runs.Run], list[str]] = lambda _: []


def make_ready(console: Console, lab: catalog.Lab, options: argparse.Namespace) -> Backend:
    """The backend of the plan; the local one if a container that nobody insisted on cannot be had."""
    given = options.environment and environments.given(options.environment, lab.id)
    if given and options.backend == "container":
        what = tr("--environment is local: not with --backend container", "--environment 是本機的環境，不能搭配 --backend container")
        raise UserError("usage", what=what, session=lab.id)
    facts = preflight.gather()
    locally = argparse.Namespace(profile=options.profile, device=options.device, backend="local")
    if given:
        plan = plan_for(lab, locally, facts)
        console.print(preflight_line(plan), soft_wrap=True)
        return Backend(plan, None, lambda made, hear: local.execute(made, given, lab.id, hear))
    plan = plan_for(lab, options, facts)
    console.print(preflight_line(plan), soft_wrap=True)
    if plan.backend == "container" and facts.engine is not None:
        try:
            return container_backend(console, lab, plan, facts.engine, options.fresh)
        except UserError as error:
            if options.backend == "container":
                raise
            console.print(f"[yellow]{tr('no container after all', '無法使用容器')}[/]: {escape(str(error.cause))}", soft_wrap=True)
        plan = plan_for(lab, locally, facts)
        console.print(preflight_line(plan), soft_wrap=True)
    environment = prepare_environment(console, plan, options.fresh, lab.id)
    return Backend(plan, environment.lock_sha256, lambda made, hear: local.execute(made, environment, lab.id, hear))


def container_backend(console: Console, lab: catalog.Lab, plan: Plan, engine: preflight.Engine, fresh: bool) -> Backend:
    """A container of the plan's image, which is pulled or built if it is not here."""
    from onepiece.host import container, sandbox
    from onepiece.host.engine import identify  # docker-py takes a third of a second, which local runs need not wait for

    image = images.image_for(lab.id, "cpu" if plan.device == "cpu" else "cuda")
    bring_image(console, image, "build" if fresh else plan.image_source)
    lock = image.context / "lock.txt"
    return Backend(
        plan,
        hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else image.inputs,
        lambda made, hear: container.execute(made, engine, hear),
        sandbox.place,
        identify(engine, image.reference),
        container.next_steps,
    )


def bring_image(console: Console, image: images.Image, source: str) -> None:
    """Have an image on this machine: it is, or it is pulled, or else built."""
    if source == "here":
        console.print(tr(f"Image {image.reference}, which is here", f"映像檔 {image.reference}，本機已有"), soft_wrap=True)
        return
    with console.status(tr("Looking at the image", "檢查映像檔")) as status:

        def detail(line: str) -> None:
            status.update(f"[dim]{escape(line[:100])}[/]")

        if source == "registry":
            console.print(
                tr(f"Pulling the image {image.reference}; this happens once", f"正在下載映像檔 {image.reference}，只會發生這一次")
            )
            try:
                images.pull(image, detail)
                return
            except UserError as error:
                console.print(escape(str(error.cause)), soft_wrap=True)
        console.print(tr(f"Building the image {image.reference}; this happens once", f"正在建置映像檔 {image.reference}，只會發生這一次"))
        images.build([image], note=console.print, detail=detail)


def prepare_environment(console: Console, plan: Plan, fresh: bool, session: str, extras: tuple[str, ...] = ()) -> environments.Environment:
    """Make the plan's environment and its server's, showing what is installed while that takes minutes."""
    wanted = {plan.environment: (*plan.extras, *extras)} | ({plan.server: ()} if plan.server else {})
    with console.status(tr("Looking at the environment", "檢查環境")) if console.is_terminal else contextlib.nullcontext() as status:

        def detail(line: str) -> None:
            if status:
                status.update(f"[dim]{escape(line[:100])}[/]")

        how = {"fresh": fresh, "session": session, "note": console.print, "detail": detail}
        made = {name: environments.ensure(name, more, **how) for name, more in wanted.items()}
    return made[plan.environment]


def _save(made: runs.Run, backend: Backend) -> tuple[list[Any], dict[str, Any]]:
    judged = made.judge()
    results = runs.results_json(made, judged, backend.lock_sha256)
    runs.write_json(made.directory / "results.json", results)
    return judged, results


def _publish(console: Console, lab: catalog.Lab, results: dict[str, Any]) -> None:
    if results["status"] != "passed" or results["mine"]:
        raise UserError("nothing-published", reason=f"the run is {results['status']}{' of your own modules' * results['mine']}", lab=lab.id)
    path = lab.directory / "results" / f"{results['profile']}-{results['device']}.json"
    path.parent.mkdir(exist_ok=True)
    runs.write_json(path, results)
    console.print(tr(f"Published to {local.kept_file(path)}", f"已發布到 {local.kept_file(path)}"))
