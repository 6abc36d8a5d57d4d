"""`nox -s bench`: what the road costs over the bare tools, as ratios within one run.

    nox -s bench                  list and first cell, warm
    nox -s bench -- --install     also the first run, cold, over a bare pip install of the same lock (minutes)

Variants alternate; medians with half the interquartile range; the machine and versions stand beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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

from onepiece.host import environments

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


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--install", action="store_true", help="also the cold first run")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    console = Console(highlight=False)
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
