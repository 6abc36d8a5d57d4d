"""LLM One Piece. Run a lab: nox -s <lab>   Its options go after --: nox -s <lab> -- --help"""

# Sessions only: what they do is in `shared/onepiece/host`, in an environment of its own that has no torch.

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

if sys.version_info < (3, 11):  # noqa: UP036 -- an older Python must read this far to be told so
    sys.exit(f"Python {sys.version.split()[0]} is too old: the course needs 3.11 to 3.14.\nType: uvx --python 3.12 nox -s {sys.argv[-1]}")

sys.path.insert(0, str(Path(__file__).parent / "shared"))

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.owner import OWNER
from onepiece.course.places import IMAGES, SHARED
from onepiece.host import nox_log
from onepiece.host.road import environments

nox.needs_version = ">=2026.10.20"
nox.options.sessions = ["catalog"]  # a bare `nox` shows the course
nox.options.error_on_external_run = False

nox_log.hush()

# After Ctrl-C the host stops its kernels and keeps what finished; nox's own default is half a second.
PATIENCE = {"interrupt_timeout": 3.0, "terminate_timeout": 12.0}
# What ends nox at once reaches nobody below it: they look whether it is still there.
OWNED = {OWNER: str(os.getpid())}

COURSE = catalog.load()


def host(session: nox.Session, *arguments: str) -> None:
    """Run a command of the host floor, in its environment."""
    command = (environment(session, "host"), "-P", "-m", "onepiece.host", *arguments)
    variables = OWNED | {"PYTHONPATH": str(SHARED), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": None}  # packages come without bytecode
    try:
        session.run(*command, env=variables, external=True, log=False, **PATIENCE)
    except nox.command.CommandFailed as failed:
        nox_log.answered(arguments[0], failed.return_code)
        raise


def environment(session: nox.Session, name: str) -> str:
    """The Python of an environment, made if it is not there yet."""
    try:
        fresh = "--fresh" in session.posargs and name == "host"
        return str(environments.ensure(name, session=session.name, fresh=fresh, note=session.log).python)
    except UserError as error:
        session.error(f"{error.cause}\n{error.remedy}")


def lab_session(lab_id: str, title: str) -> None:
    """Register one lab. An id that is wrong gets a session too, so that the host can say what is."""

    @nox.session(name=lab_id, venv_backend="none", default=False, tags=[f"module-{lab_id[4:5]}"])
    def run_lab(session: nox.Session) -> None:
        host(session, "run", lab_id, *session.posargs)

    run_lab.__doc__ = title


for lab in COURSE.labs:
    lab_session(lab.id, f"{lab.title} ({lab.profiles['cpu'].minutes:g} min)")
for broken in COURSE.problems:
    lab_session(broken, "cannot be read: nox -s catalog")
for asked in {word for word in sys.argv[1:] if word.startswith("lab")} - {"labs"} - {lab.id for lab in COURSE.labs} - set(COURSE.problems):
    if sys.argv[sys.argv.index(asked) - 1] in ("-s", "-e", "--session", "--sessions") and "--list" not in sys.argv:
        lab_session(asked, "the beginning of a name, or no lab at all")


def command(name: str, doc: str) -> None:
    """Register a command of the host floor as a session."""

    @nox.session(name=name, venv_backend="none", default=False)
    def run_command(session: nox.Session) -> None:
        host(session, name, *session.posargs)

    run_command.__doc__ = doc


command("catalog", "The course as a table, and what is wrong with any lab.")
command("doctor", "What this machine can run, and what is missing.")
command("start", "Your own copy of a lab, exercises open: nox -s start -- lab-1.5-flashattention")
command("check", "Is my code right, and if not, why not: nox -s check -- lab-1.5-flashattention")
command("grade", "Points for a learner's copy: nox -s grade -- lab-1.5-flashattention --submission DIR")
command("labs", "Several labs with one summary: nox -s labs -- --changed")
command("jupyter", "JupyterLab on your copy: nox -s jupyter -- lab-1.5-flashattention")
command("fetch", "Bring what a lab needs for working offline: nox -s fetch -- lab-1.5-flashattention")
command("docs", "Build the site, English and zh-TW: nox -s docs -- --serve")
command("clean", "Remove containers that killed runs left behind: nox -s clean -- --images for images too.")
command("images", "Build container images: nox -s images -- lab-1.5-flashattention --cpu")
command("pin", "Write digests and revisions into images/versions.toml, where a registry or hub is in reach.")
command("serving", "The serving stack without Docker: nox -s serving -- --status | --stop | --logs | --key")
command("new-lab", "A small working lab to change: nox -s new-lab -- lab-9.9-name --like training")
command("calibrate", "Search a method's settings and its baseline's equally: nox -s calibrate -- lab-1.1.1-lora")
command("mutate", "Do a lab's checks notice wrong code: nox -s mutate -- lab-1.5-flashattention")
command("quiz", "Questions about a lab or a chapter: nox -s quiz -- lab-1.5-flashattention")
command("progress", "What you did and what to do next: nox -s progress -- --path engineer")
command("feedback", "Tell what you think of a lab: nox -s feedback -- lab-1.5-flashattention")


@nox.session(venv_backend="none", default=False)
def tests(session: nox.Session) -> None:
    """All tests, those about a lab, or of faults: nox -s tests -- lab-1.5-flashattention | --faults"""
    if {"-h", "--help"} & set(session.posargs):  # needs nothing installed
        session.run(sys.executable, "tests/run.py", "--lab-python", "", "--help", external=True, log=False)
        return
    python, lab_python = environment(session, "tests"), environment(session, "cpu")
    variables = {"PYTHONPATH": str(SHARED), "PYTHONUTF8": "1", "ONEPIECE_NOX": sys.executable, "OMP_WAIT_POLICY": "passive"}
    session.run(python, "tests/run.py", "--lab-python", lab_python, *session.posargs, env=variables, external=True, **PATIENCE)


def lab_floor_command(name: str, module: str, doc: str) -> None:
    """Register `python -m onepiece.<module>`, in the CPU environment, as a session."""

    @nox.session(name=name, venv_backend="none", default=False)
    def run_module(session: nox.Session) -> None:
        variables = OWNED | {"PYTHONPATH": str(SHARED), "PYTHONUTF8": "1", "OMP_WAIT_POLICY": "passive"}
        command = (environment(session, "cpu"), "-P", "-m", "onepiece.kernel.tethered", f"onepiece.{module}")
        session.run(*command, *session.posargs, env=variables, external=True, **PATIENCE)

    run_module.__doc__ = doc


lab_floor_command("pretrain", "tiny.pretrain", "Train a shipped tiny model anew: nox -s pretrain -- tiny")
lab_floor_command("skills", "tiny.model_card", "Measure a tiny model and write its model card: nox -s skills -- tiny")


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """What the road costs over the bare tools, as ratios within one run."""
    variables = {"PYTHONPATH": str(SHARED), "PYTHONUTF8": "1", "ONEPIECE_NOX": sys.executable}
    session.run(environment(session, "tests"), "tests/bench/road.py", *session.posargs, env=variables, external=True, **PATIENCE)


@nox.session(default=False, reuse_venv=True)
def lock(session: nox.Session) -> None:
    """Resolve the dependency groups of pyproject.toml into images/*/lock.txt, with hashes."""
    session.install("uv")
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--quiet", "--custom-compile-command", "nox -s lock"]
    upgrade = ["--upgrade"] if "--upgrade" in session.posargs else []
    for group, target, more in environments.locks():
        session.run("uv", "pip", "compile", *options, *upgrade, "--group", group, *more, "-o", str(IMAGES / target))
