"""What every command that runs lesson code needs first: a plan for this machine, and a place that is ready for it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import Text, tr
from onepiece.host.containers import images
from onepiece.host.road import environments, local, preflight, runs
from onepiece.host.road.plan import ImageState, Plan, Request, choose, variant


def plan_for(lab: catalog.Lab, request: Request, facts: preflight.Facts | None = None) -> Plan:
    """The plan for this machine."""
    facts = facts or preflight.gather()
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


def make_ready(console: Console, lab: catalog.Lab, request: Request, *, fresh: bool = False, environment: Path | None = None) -> Backend:
    """The backend of the plan; the local one if a container that nobody insisted on cannot be had.

    Args:
        console: gets the preflight line, and what is installed.
        lab: what is to be run.
        request: what the user asked for.
        fresh: rebuild the environment or the image first.
        environment: a virtual environment that is there already.
    """
    given = environment and environments.given(environment, lab.id)
    if given and request.backend == "container":
        what = tr("--environment is local: not with --backend container", "--environment 是本機的環境，不能搭配 --backend container")
        raise UserError("usage", what=what, session=lab.id)
    facts = preflight.gather()
    locally = replace(request, backend="local")
    if given:
        plan = plan_for(lab, locally, facts)
        console.print(preflight_line(plan), soft_wrap=True)
        return Backend(plan, None, lambda made, hear: local.execute(made, given, lab.id, hear), next_steps=_next_steps(given, lab))
    plan = plan_for(lab, request, facts)
    console.print(preflight_line(plan), soft_wrap=True)
    if plan.backend == "container" and facts.engine is not None:
        try:
            return container_backend(console, lab, plan, facts.engine, fresh)
        except UserError as error:
            if request.backend == "container":
                raise
            console.print(f"[yellow]{tr('no container after all', '無法使用容器')}[/]: {escape(str(error.cause))}", soft_wrap=True)
        plan = plan_for(lab, locally, facts)
        console.print(preflight_line(plan), soft_wrap=True)
    installed = prepare_environment(console, plan, fresh, lab.id)
    return Backend(
        plan,
        installed.lock_sha256,
        lambda made, hear: local.execute(made, installed, lab.id, hear),
        next_steps=_next_steps(installed, lab),
    )


def _next_steps(environment: environments.Environment, lab: catalog.Lab) -> Callable[[runs.Run], list[str]]:
    return lambda made: local.next_steps(made, environment, lab.id)


def container_backend(console: Console, lab: catalog.Lab, plan: Plan, engine: preflight.Engine, fresh: bool) -> Backend:
    """A container of the plan's image, which is pulled or built if it is not here."""
    from onepiece.host.containers import container, sandbox
    from onepiece.host.containers.engine import identify  # docker-py takes a third of a second, which local runs need not wait for

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
