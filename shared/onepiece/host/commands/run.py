"""`nox -s lab-X`: preflight, plan, run, verdict."""

from __future__ import annotations

import argparse

from rich.console import Console

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, directory_argument, speak_as_the_copy
from onepiece.host.road.plan import Request
from onepiece.host.road.run_lab import RunOptions, run


def command(console: Console, arguments: list[str]) -> int:
    """Run one lab; exit 0 only if every gate held and every control missed."""
    lab_id, *rest = arguments
    options = parser(lab_id).parse_args(rest)
    if options.mine:
        speak_as_the_copy(lab_id, options.lang)
    course = catalog.load()
    if lab_id not in {lab.id for lab in course.labs} | set(course.problems):  # minutes of work are not begun on a guess
        raise UserError("unknown-lab", lab=lab_id, nearest=f"nox -s {course.nearest(lab_id)}")
    return run(console, course.lab(lab_id), run_options(options)).exit_code


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


def run_options(options: argparse.Namespace) -> RunOptions:
    """What was parsed; options that only one of the two parsers has keep their defaults."""
    request = Request(options.profile, options.device, options.backend)
    one = {name: getattr(options, name) for name in ("notebook", "model", "publish") if hasattr(options, name)}
    return RunOptions(request, options.fresh, options.environment, options.mine, options.keep_going, **one)
