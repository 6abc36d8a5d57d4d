"""`nox -s fetch -- lab-X`: everything a lab needs, now, so that it runs offline later."""

from __future__ import annotations

import argparse

from rich.console import Console

from onepiece.host.app import Parser, add_language, one_lab
from onepiece.host.run_lab import plan_for, prepare_environment
from onepiece.text import tr


def command(console: Console, arguments: list[str]) -> int:
    """Install the lab's environment with its extras and JupyterLab."""
    parser = Parser(
        prog="nox -s fetch --",
        description=tr("Bring what a lab needs, for working offline later.", "先取得實驗所需的一切，之後可離線執行。"),
    )
    parser.add_argument("lab", nargs="*")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_language(parser)
    options = parser.parse_args(arguments)
    lab = one_lab(options.lab, "fetch")
    plan = plan_for(lab, argparse.Namespace(profile="auto", device=options.device, backend="local"))
    prepare_environment(console, plan, options.fresh, "fetch", extras=("jupyter",))
    console.print(tr(f"{lab.id} can now run without a network: nox -s {lab.id}", f"{lab.id} 現在可以離線執行：nox -s {lab.id}"))
    return 0
