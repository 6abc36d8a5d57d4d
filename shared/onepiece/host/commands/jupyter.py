"""`nox -s jupyter -- lab-X`: JupyterLab on the learner's copy."""

from __future__ import annotations

import os
import subprocess

from rich.console import Console

from onepiece.course.places import WORKSPACE
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language, one_lab
from onepiece.host.interrupts import ignore_interrupts
from onepiece.host.road import preflight, runs
from onepiece.host.road.exercises import refuse_hiding
from onepiece.host.road.local import kept_file
from onepiece.host.road.plan import Request
from onepiece.host.road.prepare import container_backend, plan_for, preflight_line, prepare_environment
from onepiece.host.road.workspace import make_workspace, write_interactive_context


def command(console: Console, arguments: list[str]) -> int:
    """Open JupyterLab on loopback, with a token; the copy is made first if there is none."""
    parser = Parser(prog="nox -s jupyter --", description=tr("Open JupyterLab on your copy of a lab.", "以 JupyterLab 開啟你的個人副本。"))
    parser.add_argument("lab", nargs="*")
    parser.add_argument("--port", type=int, default=8888, help=tr("the next free one if it is taken", "若被占用則用下一個"))
    parser.add_argument("--no-browser", action="store_true", help=tr("only print the address", "只印出網址"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--backend", choices=("local", "container"), default="local", help=tr("where it runs", "在哪裡執行"))
    add_language(parser)
    options = parser.parse_args(arguments)
    lab = one_lab(options.lab, "jupyter")
    target = WORKSPACE / lab.id
    if not target.exists():
        make_workspace(lab, target, current_language())
        console.print(tr(f"Made your copy of {lab.id}: {kept_file(target)}", f"已建立你的 {lab.id} 副本：{kept_file(target)}"))
    refuse_hiding(target)
    facts = preflight.gather()
    plan = plan_for(lab, Request(device=options.device, backend=options.backend), facts)
    write_interactive_context(lab, plan, target, current_language())
    console.print(preflight_line(plan), soft_wrap=True)
    if plan.backend == "container" and facts.engine is not None:
        from onepiece.host.containers import notebook_server  # docker-py, which is slow to import

        image = container_backend(console, lab, plan, facts.engine, options.fresh).image
        assert image is not None
        return notebook_server.serve(
            lab, plan, facts.engine, image, target, options.port, not options.no_browser, lambda address: _say(console, address)
        )
    environment = prepare_environment(console, plan, options.fresh, f"jupyter -- {lab.id}", extras=("jupyter",))
    variables = runs.kernel_environment(
        target / ".run", [target, lab.directory], current_language(), offline=not lab.network and plan.profile == "cpu"
    )
    for name in ("JUPYTER_TOKEN", "ONEPIECE_NOTEBOOK"):
        variables.pop(name, None)
    command_line = [
        str(environment.python),
        "-P",
        "-m",
        "onepiece.kernel.tethered",  # it ends with us, even if we are killed
        "jupyterlab",
        f"--ServerApp.root_dir={target}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={options.port}",
        # The default token is random and part of the printed address; news and extension downloads would need a network.
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    if options.no_browser:
        command_line.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command_line.append("--allow-root")
    process = subprocess.Popen(command_line, env=variables, cwd=target, stdin=subprocess.PIPE, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with ignore_interrupts():
            process.terminate()
            process.wait()
        return 130


def _say(console: Console, address: str) -> None:
    console.print(tr(f"JupyterLab: {address}   (Ctrl-C ends it)", f"JupyterLab：{address}　（按 Ctrl-C 結束）"), soft_wrap=True)
