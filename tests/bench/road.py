"""`nox -s bench`: what the road costs over the bare tools, as ratios within one run.

    nox -s bench                  list and first cell, warm; a lab in a container, where there is an engine
    nox -s bench -- --install     also the first run, cold, over a bare pip install of the same lock (minutes)
    nox -s bench -- gateway       the serving stack through its gateway, over direct (serving.py; minutes, on a quiet machine)
    nox -s bench -- serving       tokens per second with 1, 4 and 16 requests at once: vLLM beside `transformers serve`

Variants alternate; medians with half the interquartile range; the machine and versions stand beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import toy_course
from rich.console import Console
from rich.table import Table

from onepiece.host.road import environments

NOX = os.environ.get("ONEPIECE_NOX", sys.executable)

FIRST_CELL = """
# %% [markdown] lang="en"
# # First cell

# %% [markdown] lang="zh-TW"
# # 第一格

# %%
import os
import time
from pathlib import Path

Path(os.environ["BENCH_FIRST_CELL"]).write_text(str(time.time()))

# %%
from onepiece import lab

lab.record("error", 0.0)
lab.record("error", 1.0, variant="off_by_one")
lab.record("agrees", True)
"""


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """Median, and half the interquartile range."""
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (upper - lower) / 2


def alternate(variants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each variant; one unmeasured round first."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, measure in variants.items():
            found = measure()
            if repeat:
                seconds[name].append(found)
    return seconds


def wall(command: list[str], **options: object) -> float:
    """Seconds that a command takes; its output is kept for the error message only."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


def list_sessions(root: Path, bare: Path) -> dict[str, list[float]]:
    """`nox --list` here, and of a noxfile with one empty session."""
    bare.mkdir()
    (bare / "noxfile.py").write_text("import nox\n\n\n@nox.session\ndef empty(session):\n    pass\n", encoding="utf-8")
    return alternate(
        {
            "course": lambda: wall([NOX, "-m", "nox", "--list"], cwd=toy_course.ROOT),
            "bare": lambda: wall([NOX, "-m", "nox", "--list"], cwd=bare),
        },
        repeats=9,
    )


def first_cell(root: Path, scratch: Path, repeats: int) -> dict[str, list[float]]:
    """From the command to the first cell of the same notebook: ours, and nbconvert's."""
    environment = environments.ensure("cpu", ("jupyter",))
    stamp = scratch / "first-cell"
    variables = os.environ | {"BENCH_FIRST_CELL": str(stamp), "ONEPIECE_ROOT": str(root), "ONEPIECE_HOME": str(root)}

    def measure(command: list[str], cwd: Path) -> float:
        stamp.unlink(missing_ok=True)
        began = time.time()
        wall(command, cwd=cwd, env=variables)
        return float(stamp.read_text()) - began

    subprocess.run([NOX, "-m", "nox", "-s", "lab-9.1-toy"], cwd=root, env=variables, capture_output=True, check=False)
    notebook = sorted((root / "runs" / "lab-9.1-toy").glob("*/notebooks/01-count.ipynb"))[-1]
    context = {"ONEPIECE_RUN": str(notebook.parents[1]), "PYTHONPATH": str(toy_course.ROOT / "shared")}
    variables |= context
    variables.pop("ONEPIECE_NOTEBOOK", None)
    one_cell = scratch / "first.ipynb"
    document = json.loads(notebook.read_text(encoding="utf-8"))
    document["cells"] = [cell for cell in document["cells"] if cell["cell_type"] == "code"][:1]
    one_cell.write_text(json.dumps(document), encoding="utf-8")
    convert = [
        str(environment.python),
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output",
        str(scratch / "done.ipynb"),
        str(one_cell),
    ]
    return alternate(
        {
            "course": lambda: measure([NOX, "-m", "nox", "-s", "lab-9.1-toy"], root),
            "nbconvert": lambda: measure(convert, scratch),
        },
        repeats,
    )


def first_run(root: Path, scratch: Path, repeats: int) -> dict[str, list[float]]:
    """Cold: from nothing to a finished lab, over venv and pip install of the same lock alone. Pip's own cache stays warm."""
    torch = environments.versions()["environments"]["cpu"]["torch"]
    rounds = iter(range(1000))

    def ours() -> float:
        home = scratch / f"home-{next(rounds)}"
        home.mkdir()
        variables = os.environ | {"ONEPIECE_ROOT": str(root), "ONEPIECE_HOME": str(home), "BENCH_FIRST_CELL": str(scratch / "first-cell")}
        return wall([NOX, "-m", "nox", "-s", "lab-9.1-toy"], cwd=root, env=variables)

    def bare() -> float:
        directory = scratch / f"venv-{next(rounds)}"
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "-q"]
        seconds = wall([sys.executable, "-m", "venv", str(directory)])
        seconds += wall([*pip, "--no-deps", "--require-hashes", "-r", str(environments.IMAGES / "cpu" / "lock.txt")])
        return seconds + wall([*pip, f"torch=={torch}"])

    seconds: dict[str, list[float]] = {"course": [], "pip": []}
    for _ in range(repeats):
        seconds["course"].append(ours())
        seconds["pip"].append(bare())
    return seconds


CONTAINED = "lab-9.2-contained"


def in_container(root: Path, scratch: Path, repeats: int) -> dict[str, list[float]] | None:
    """A whole lab of one quick notebook: ours, and a bare `docker run` of the same runner with the same mounts.

    None where no image can be had. What can be pulled or built is, before anything is measured; stand-ins for base images:
    eval "$(python3 tests/images/stand_in.py)"
    """
    toy_course.write_quick_lab(root, CONTAINED, first=toy_course.GOOD)
    (root / "images" / CONTAINED).mkdir(exist_ok=True)
    (root / "images" / CONTAINED / "Dockerfile").write_text("ARG GROUP_IMAGE=onepiece/train\nFROM ${GROUP_IMAGE}\n", encoding="utf-8")
    variables = os.environ | {"ONEPIECE_ROOT": str(root), "ONEPIECE_HOME": str(root)}
    course = [NOX, "-m", "nox", "-s", CONTAINED, "--", "--backend", "container"]
    first = subprocess.run(course, cwd=root, env=variables, capture_output=True, text=True)
    if first.returncode != 0:
        print(f"no container: {' '.join((first.stdout + first.stderr).split())[-300:]}", file=sys.stderr)
        return None
    (template,) = (root / "runs" / CONTAINED).iterdir()
    image = json.loads((template / "results.json").read_text(encoding="utf-8"))["image"]["id"]
    rounds = iter(range(1000))

    def bare() -> float:
        run = scratch / f"run-{next(rounds)}"
        shutil.copytree(template, run, ignore=shutil.ignore_patterns("events"))
        inside = f"/course/runs/{CONTAINED}/{template.name}"
        mounts = {root / "labs" / CONTAINED: f"/course/labs/{CONTAINED}:ro", root / "shared": "/course/shared:ro", run: inside}
        options = [option for source, target in mounts.items() for option in ("--volume", f"{source}:{target}")]
        options += ["--env", "PYTHONPATH=/course/shared", "--env", "OMP_WAIT_POLICY=passive", "--env", "HOME=/tmp", "--workdir", inside]
        options += ["--user", f"{os.getuid()}:{os.getgid()}", "--network", "none", "--init", "--entrypoint", "/opt/onepiece/bin/python"]
        read_end, write_end = os.pipe()  # the runner ends when its standard input does
        try:
            command = ["docker", "run", "--rm", "--interactive", *options, image, "-m", "onepiece.kernel.execute", inside, "01-first"]
            return wall(command, stdin=read_end)
        finally:
            os.close(read_end)
            os.close(write_end)

    return alternate({"course": lambda: wall(course, cwd=root, env=variables), "docker run": bare}, repeats)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["road", "gateway", "serving"], default="road")
    parser.add_argument("--install", action="store_true", help="also the cold first run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--soak", action="store_true", help="the serving stack under load, and the memory of each process")
    parser.add_argument("--minutes", type=float, default=30.0, help="of --soak")
    options = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if options.soak:
        import soak  # which takes the stack from `serving`

        with tempfile.TemporaryDirectory() as temporary:
            soak.soak(console, Path(temporary), options.minutes)
        return
    if options.what != "road":
        import serving  # which takes `median_and_spread` from here

        with tempfile.TemporaryDirectory() as temporary:
            getattr(serving, options.what)(console, Path(temporary), options.repeats)
        return
    table = Table(title=f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", title_justify="left")
    for column in ("what", "course, s", "bare, s", "course - bare, s", "ratio", "goal"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        root = scratch / "course"
        root.mkdir()
        toy_course.write_course(root)
        one_notebook = toy_course.MANIFEST.replace('"01-count", "02-use"', '"01-count"')
        (toy_course.write_lab(root, count=FIRST_CELL, manifest=one_notebook) / "02-use.py").unlink()
        measured = [("nox --list", list_sessions(root, scratch / "bare"), "<= 0.3 s more")]
        measured.append(("command to first cell, over nbconvert", first_cell(root, scratch, options.repeats), "<= 1.1x"))
        contained = in_container(root, scratch, options.repeats)
        if contained is not None:
            measured.append(("lab in a container, over docker run", contained, "<= 1 s more"))
        if options.install:
            measured.append(("first run, over pip install", first_run(root, scratch, 3), "<= 1.25x"))
    for name, seconds, goal in measured:
        (course, course_spread), (other, other_spread) = (median_and_spread(values) for values in seconds.values())
        table.add_row(
            name,
            f"{course:.2f} ± {course_spread:.2f}",
            f"{other:.2f} ± {other_spread:.2f}",
            f"{course - other:+.2f}",
            f"{course / other:.2f}",
            goal,
        )
    console.print(table)


if __name__ == "__main__":
    main()
