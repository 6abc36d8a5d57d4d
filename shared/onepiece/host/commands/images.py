"""`nox -s images -- [lab or group ...]`: build container images, parents first, and say what they take."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import IMAGES
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.containers import images, publishing
from onepiece.host.road.environments import versions


def command(console: Console, arguments: list[str]) -> int:
    """Build, print or check images; exit 1 if `--check` finds one that is nowhere yet."""
    options = _parser().parse_args(arguments)
    if options.matrix:
        print(json.dumps(publishing.matrix(both_variants(options.images))))
        return 0
    variant = "cpu" if options.cpu else "cuda"
    wanted = [images.image_for(name, variant) for name in _names(options.images, variant)]
    if options.print:
        print(json.dumps(images.bake(wanted), indent=2))
        return 0
    if options.check:
        return _check(console, wanted)
    if options.push:
        publishing.refuse(wanted)
    _check_disk(wanted)
    built = _build(console, wanted, options.push)
    console.print(
        tr(
            f"{len(images.in_order(wanted))} images in {built.seconds:.1f} s; {built.cached} of {built.steps} steps from the cache",
            f"{len(images.in_order(wanted))} 個映像檔，{built.seconds:.1f} 秒；{built.steps} 個步驟中有 {built.cached} 個取自快取",
        )
    )
    console.print(sizes_table(wanted))
    return 0


def _parser() -> argparse.ArgumentParser:
    made = Parser(prog="nox -s images --", description=tr("Build container images.", "建置容器映像檔。"))
    made.add_argument("images", nargs="*", metavar="lab|group", help=tr("all, if none is named", "不指定就是全部"))
    made.add_argument("--cpu", action="store_true", help=tr("the variant for machines without an NVIDIA GPU", "給沒有 NVIDIA GPU 的機器"))
    made.add_argument("--push", action="store_true", help=tr("publish them", "建置後發布"))
    made.add_argument("--print", action="store_true", help=tr("print the bake description and build nothing", "只印出 bake 描述，不建置"))
    made.add_argument(
        "--matrix",
        action="store_true",
        help=tr("print what the publishing workflow builds, both variants", "印出發布流程要建置的內容（兩種變體）"),
    )
    made.add_argument(
        "--check", action="store_true", help=tr("say which exist, here and in the registry", "列出本機與 registry 已有的映像檔")
    )
    add_language(made)
    return made


def _names(given: list[str], variant: str) -> list[str]:
    """Labs and groups by name; all that have this variant, if none is given."""
    groups = images.groups()
    if given:
        return [name if name in groups else catalog.load().lab(name).id for name in given]
    labs = [lab.id for lab in catalog.load().labs if (IMAGES / lab.id / "Dockerfile").is_file()]
    return [*(name for name in groups if _has_variant(name, variant)), *labs]


def both_variants(given: list[str]) -> list[images.Image]:
    """The images of these labs and groups, or of all, for GPUs and for CPUs: each where it is made for it."""
    groups = images.groups()
    pairs = [(name, variant) for variant in images.VARIANTS for name in _names(given, variant)]
    return [images.image_for(name, variant) for name, variant in pairs if name not in groups or _has_variant(name, variant)]


def _has_variant(group: str, variant: str) -> bool:
    settings = versions()["images"]["groups"][group]
    return variant in settings.get("base", {}) or (variant == "cuda" and "parent" in settings)


def _check_disk(wanted: list[images.Image]) -> None:
    """Refuse a build that would fill the disk, before it downloads anything."""
    missing = [image for image in images.in_order(wanted) if image.parent is None and images.local_id(image) is None]
    sizes = versions()["environments"]
    need_gb = sum(sizes["cpu" if image.variant == "cpu" else image.name].get("disk_gb", 0) for image in missing if image.name in sizes)
    root = Path(images.engine_root())
    if root.is_dir():  # an engine in a virtual machine has its own disk, which cannot be seen from here
        free_gb = shutil.disk_usage(root).free / 2**30
        if free_gb < need_gb:
            raise UserError("disk-small", path=root, free_gb=free_gb, need_gb=need_gb)


def _build(console: Console, wanted: list[images.Image], push: bool) -> images.Built:
    if not console.is_terminal:
        steps: dict[str, str] = {}

        def say_when_done(line: str) -> None:
            number, step = line.partition(" ")[0], step_of(line)
            if step:
                steps[number] = step
            done = re.match(r"#\d+ DONE ([\d.]+)s", line)
            if done and number in steps:
                console.print(f"  {escape(steps.pop(number))}  {done.group(1)} s", soft_wrap=True)

        return images.build(wanted, note=console.print, detail=say_when_done, push=push)
    with console.status(tr("Asking the builder", "詢問建置工具")) as status:

        def show(line: str) -> None:
            if line.strip():
                status.update(f"[dim]{escape(line[:100])}[/]")

        return images.build(wanted, note=console.print, detail=show, push=push)


def step_of(line: str) -> str:
    """The instruction that a line of plain progress begins: "train-cpu 2/5 RUN apt-get update"; "" for other lines."""
    found = re.match(r"#\d+ \[([\w-]+) [^\]]*?(\d+/\d+)\] (?!FROM)(.*)", line)
    return re.sub(r"\s+", " ", f"{found.group(1)} {found.group(2)} {found.group(3)}")[:110] if found else ""


def _check(console: Console, wanted: list[images.Image]) -> int:
    table = Table()
    for column in (tr("image", "映像檔"), tr("here", "本機"), tr("registry", "registry"), tr("not pinned", "尚未固定")):
        table.add_column(column, overflow="fold")
    nowhere = 0
    for image in images.in_order(wanted):
        here, there = images.local_id(image), images.published(image)
        nowhere += here is None and not there
        marks = [f"[green]{tr('yes', '有')}[/]" if found else f"[dim]{tr('no', '無')}[/]" for found in (here, there)]
        table.add_row(escape(image.reference), *marks, escape("; ".join(images.unresolved(image))))
    console.print(table)
    if not images.registry_known():
        console.print(
            tr(
                "No registry is known: [project.urls] in pyproject.toml names no repository, and ONEPIECE_REGISTRY is not set.",
                "不知道 registry：pyproject.toml 的 [project.urls] 沒有 repository，也沒有設定 ONEPIECE_REGISTRY。",
            ),
            markup=False,
        )
    return 1 if nowhere else 0


def sizes_table(wanted: list[images.Image]) -> Table:
    """What each image takes, and what of that is its own: the rest is its parent's or its base's."""
    table = Table()
    for column in (tr("image", "映像檔"), tr("size", "大小"), tr("its own", "自身"), tr("identifier", "識別碼")):
        table.add_column(column, justify="left" if column == tr("image", "映像檔") else "right", no_wrap=True)
    links = images.in_order(wanted)
    sizes = {image.reference: images.size(image.reference) for image in links}
    bases = {image.base: images.size(images.replaced_bases().get(image.base.partition("@")[0], image.base)) for image in links}
    total = sum(bases.values())
    for image in links:
        below = sizes[image.parent.reference] if image.parent else bases[image.base]
        own = sizes[image.reference] - below
        total += own
        identifier = (images.local_id(image) or "").removeprefix("sha256:")[:12]
        table.add_row(escape(f"{image.name} ({image.variant})"), _gigabytes(sizes[image.reference]), _gigabytes(own), identifier)
    largest = max(sizes.values(), default=0)
    if largest:
        table.caption = tr(
            f"all together {_gigabytes(total)}, {total / largest:.2f} times the largest",
            f"合計 {_gigabytes(total)}，是最大者的 {total / largest:.2f} 倍",
        )
    return table


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e3:.0f} kB"
