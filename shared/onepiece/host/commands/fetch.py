"""`nox -s fetch -- lab-X`: everything a lab needs, now, so that it runs offline later."""

from __future__ import annotations

from rich.console import Console

from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.road import preflight
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import container_backend, plan_for, prepare_environment


def command(console: Console, arguments: list[str]) -> int:
    """Install the lab's environment with its extras and JupyterLab, or bring its image."""
    parser = Parser(
        prog="nox -s fetch --",
        description=tr("Bring what a lab needs, for working offline later.", "先取得實驗所需的一切，之後可離線執行。"),
    )
    parser.add_argument("lab", nargs="*")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--backend",
        choices=("auto", "local", "container"),
        default="auto",
        help=tr("for which of them; auto is what nox -s <lab> would choose", "為哪一種準備；auto 就是 nox -s <lab> 會選的那一種"),
    )
    add_language(parser)
    options = parser.parse_args(arguments)
    lab = one_lab(options.lab, "fetch")
    facts = preflight.gather()
    plan = plan_for(lab, Request(device=options.device, backend=options.backend), facts)
    if plan.backend == "container" and facts.engine is not None:
        container_backend(console, lab, plan, facts.engine, options.fresh)
    else:
        prepare_environment(console, plan, options.fresh, f"fetch -- {lab.id}", extras=("jupyter",))
    if plan.profile == "gpu":
        console.print(
            tr(
                f"Everything but its model is here, which the first run downloads: nox -s {lab.id}",
                f"除了模型以外都準備好了，模型會在第一次執行時下載：nox -s {lab.id}",
            )
        )
    else:
        console.print(tr(f"{lab.id} can now run without a network: nox -s {lab.id}", f"{lab.id} 現在可以離線執行：nox -s {lab.id}"))
    return 0
