"""`nox -s doctor`: what can this machine run, and what is missing."""

from __future__ import annotations

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import HOME
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.containers import images
from onepiece.host.road import environments, preflight
from onepiece.host.road.plan import IMAGE_PLATFORM, ImageState, Request, choose
from onepiece.host.road.prepare import image_state, lowest_driver

_CONNECT_SECONDS = 2.0


def command(console: Console, arguments: list[str]) -> int:
    """Report on this machine, then lab by lab."""
    parser = Parser(
        prog="nox -s doctor --", description=tr("What this machine can run, and what is missing.", "這台機器能執行什麼、還缺什麼。")
    )
    add_language(parser)
    parser.parse_args(arguments)
    facts = preflight.gather()
    course = catalog.load()
    console.print(_machine_table(facts))
    console.print(_labs_table(course, facts))
    for found in course.problems.values():
        for problem in found:
            console.print(f"[bold red]{tr('error', '錯誤')}[/] {escape(str(problem.cause))}")
    return 2 if course.problems else 0


def _machine_table(facts: preflight.Facts) -> Table:
    table = Table(title=tr("This machine", "這台機器"), title_justify="left", show_header=False)
    table.add_column("", width=2)
    table.add_column("")
    table.add_column("")

    def row(good: bool, what: str, found: str) -> None:
        table.add_row("[green]✓[/]" if good else "[yellow]–[/]", what, escape(found))

    row(True, "Python", f"{facts.python} ({facts.system}, {facts.machine})")
    row(facts.cores >= 2, tr("cores", "核心"), str(facts.cores))
    row(facts.memory_gb >= 4, tr("memory", "記憶體"), f"{facts.memory_gb:.0f} GB")
    row(facts.free_disk_gb >= 5, tr("free disk", "可用磁碟"), f"{facts.free_disk_gb:.0f} GB ({HOME})")
    gpus = ", ".join(f"{gpu.name}, {gpu.vram_gb:.0f} GB, driver {gpu.driver}, compute {gpu.compute}" for gpu in facts.gpus)
    row(bool(facts.gpus), "GPU", gpus or str(facts.gpu_reason))
    for good, what, found in _engine_rows(facts):
        row(good, what, found)
    row(shutil.which("git") is not None, "git", shutil.which("git") or tr("not installed", "未安裝"))
    for host, why in (
        ("https://pypi.org", tr("packages", "套件")),
        (environments.versions()["torch"]["cpu_index"], tr("PyTorch for the CPU", "CPU 版 PyTorch")),
        ("https://huggingface.co", tr("models for the gpu profile", "gpu profile 的模型")),
    ):
        name = urlparse(host).hostname or host
        reached = _reaches(name)
        row(
            reached,
            tr("network", "網路"),
            f"{name} ({why}): {tr('in reach', '可連線') if reached else tr('out of reach from here', '無法直接連線')}",
        )
    for name in ("cpu", "train"):
        there = environments.installed(name)
        row(
            there,
            tr("environment", "環境"),
            f"{name}: {tr('installed', '已安裝') if there else tr('made when first needed', '第一次需要時建立')}",
        )
    return table


def _engine_rows(facts: preflight.Facts) -> list[tuple[bool, str, str]]:
    engine = facts.engine
    if engine is None:
        return [(False, "Docker", str(facts.engine_reason))]
    security = f", {', '.join(engine.security)}" if engine.security else ""
    disk = "" if engine.free_disk_gb is None else tr(f", {engine.free_disk_gb:.0f} GB free", f"，可用 {engine.free_disk_gb:.0f} GB")
    absent = tr("not installed", "未安裝")
    reached = {"runtime": "NVIDIA runtime", "cdi": "CDI, nvidia.com/gpu"}.get(engine.gpu)
    unreached = tr("containers reach no GPU (NVIDIA Container Toolkit)", "容器無法使用 GPU（NVIDIA Container Toolkit）")
    registry = images.prefix() if images.registry_known() else tr("none known: images are built here", "尚未設定：映像檔在本機建置")
    return [
        (engine.platform == IMAGE_PLATFORM, "Docker", f"{engine.version}, API {engine.api}, {engine.platform}{security}{disk}"),
        (bool(engine.buildx), "Docker Buildx", engine.buildx or absent),
        (bool(engine.compose), "Docker Compose", engine.compose or absent),
        (bool(engine.gpu), tr("GPU in containers", "容器中的 GPU"), reached or unreached),
        (images.registry_known(), tr("registry of images", "映像檔 registry"), registry),
    ]


def _reaches(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _labs_table(course: catalog.Course, facts: preflight.Facts) -> Table:
    table = Table(title=tr("Labs here", "這裡的實驗"), title_justify="left")
    for column in (tr("lab", "實驗"), tr("would run", "會怎麼執行"), tr("missing", "缺少")):
        table.add_column(column)
    for lab, image in zip(course.labs, _image_states(course, facts), strict=True):
        unavailable = tuple(extra for extra in lab.extras if not environments.extra_available(extra))
        missing = [tr(f"{extra} (not on {facts.system})", f"{extra}（{facts.system} 上沒有）") for extra in unavailable]
        try:
            plan = choose(lab, facts, Request(), unavailable, image, lowest_driver())
            would = f"{plan.backend}, {plan.device}, {tr('profile', '規模')} {plan.profile}"
            if plan.device == "cpu":
                missing.append(str(plan.change))
        except UserError as error:
            would = tr("cannot run", "無法執行")
            missing.append(str(error.cause))
        profile = lab.profiles["cpu"]
        if profile.memory_gb and 0 < facts.memory_gb < profile.memory_gb:
            missing.append(tr(f"{profile.memory_gb:g} GB of memory", f"{profile.memory_gb:g} GB 記憶體"))
        table.add_row(lab.id, would, escape("; ".join(missing)) or "—")
    return table


def _image_states(course: catalog.Course, facts: preflight.Facts) -> list[ImageState | None]:
    """The image of each lab; all are looked for at once, because a registry may be asked."""
    if facts.engine is None:
        return [None] * len(course.labs)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda lab: image_state(lab, facts, Request()), course.labs))
