"""`nox -s new-lab -- lab-9.9-name`: the files of a lab that passes every structural test, and of its image."""

from __future__ import annotations

from importlib import resources

from rich.console import Console

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import IMAGES, LABS
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road.local import kept_file


def command(console: Console, arguments: list[str]) -> int:
    """Scaffold `labs/<lab>/` and its `images/<lab>/Dockerfile`."""
    parser = Parser(prog="nox -s new-lab --", description=tr("Scaffold a new lab.", "建立新實驗的骨架。"))
    parser.add_argument("lab")
    add_language(parser)
    lab_id = parser.parse_args(arguments).lab
    if not catalog.LAB_ID.fullmatch(lab_id):
        raise UserError("bad-lab-id", lab=lab_id)
    target, image = LABS / lab_id, IMAGES / lab_id
    for directory in (target, image):
        if directory.exists():
            raise UserError("lab-exists", path=kept_file(directory))
    template = resources.files("onepiece.host") / "scaffold"
    target.mkdir(parents=True)
    image.mkdir(parents=True)
    for source in sorted(template.iterdir(), key=lambda entry: entry.name):
        content = source.read_text(encoding="utf-8").replace("@LAB@", lab_id)
        name = source.name.removesuffix(".in")
        ((image if name == "Dockerfile" else target) / name).write_text(content, encoding="utf-8", newline="\n")
    console.print(tr(f"Made {kept_file(target)}. Run it: nox -s {lab_id}", f"已建立 {kept_file(target)}。執行：nox -s {lab_id}"))
    console.print(tr("How a lab is written: CONTRIBUTING.md", "如何撰寫實驗：CONTRIBUTING.md"))
    return 0
