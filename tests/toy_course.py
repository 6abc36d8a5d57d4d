"""A course of small labs without torch in most notebooks, and the commands that run it, for tests of the road."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAB = "lab-9.1-toy"


def hear_signals() -> None:
    """`preexec_fn` of commands that a test interrupts: background jobs and `nohup` ignore signals, the tests may be one, and children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


MANIFEST = """
title = { en = "A toy", zh-TW = "玩具" }
summary = { en = "Counts.", zh-TW = "數數。" }
chapter = "1.3"
level = "core"
image = "train"
notebooks = ["01-count", "02-use"]

[cpu]
minutes = 1
memory_gb = 1
[cpu.settings]
seeds = [0, 1]
steps = 3

[gpu]
minutes = 1
vram_gb = 16
min_compute = "7.5"
[gpu.settings]
steps = 30

[[gates]]
metric = "error"
objective = { en = "The count is exact", zh-TW = "計數精確" }
max = 0.1
control = "off_by_one"

[[gates]]
metric = "agrees"
objective = { en = "Both notebooks agree", zh-TW = "兩份筆記本一致" }
equals = true
"""

COUNT = """
# %% [markdown] lang="en"
# # Counting
#
# How many?

# %% [markdown] lang="zh-TW"
# # 計數
#
# 有幾個？

# %% [markdown]
# $1 + 1 = 2$

# %%
import json

from counting import count
from onepiece import lab

for seed in lab.settings.seeds:
    lab.record("error", abs(count(lab.settings.steps) - lab.settings.steps), seed=seed)
    lab.record("error", 1.0, seed=seed, variant="off_by_one")

# %% tags=["output"]
lab.artifact("count.json").write_text(json.dumps(count(lab.settings.steps)))
for _ in lab.progress(range(3), total=lambda: 3.0):
    pass
"""

USE = """
# %% [markdown] lang="en"
# # Using

# %% [markdown] lang="zh-TW"
# # 使用

# %%
import json

from counting import count
from onepiece import lab

lab.record("agrees", json.loads(lab.artifact("count.json").read_text()) == count(3))
"""

COUNTING = '''
"""Counting."""


def count(steps: int) -> int:
    """How many steps there are."""
    # SOLUTION 1
    return sum(1 for _ in range(steps))
    # END SOLUTION


def double(steps: int) -> int:
    """Twice as many."""
    # SOLUTION 2
    return 2 * steps
    # END SOLUTION
'''

CHECKS = """
from counting import count, double

from onepiece.checks import exercise, expect
from onepiece.course.text import Text


@exercise(1, title=Text("count", "計數"), minutes=5, level="core", hint=Text("use range", "用 range"))
def check_count() -> None:
    expect(count(3), 3, mistakes={Text("one too many", "多算了一個"): 4})


@exercise(2, title=Text("double", "加倍"), minutes=5, level="core", hint=Text("use *", "用 *"))
def check_double() -> None:
    expect(double(4), 8, mistakes={Text("squared instead of doubled", "平方而不是加倍"): 16})
"""

# One cell that measures what a test wants measured, without torch, so that a run takes as long as a kernel takes to start.
MEASURE = """
# %% [markdown] lang="en"
# # Measuring

# %% [markdown] lang="zh-TW"
# # 量測

# %%
from onepiece import lab

"""


def write_lab(root: Path, lab_id: str = LAB, **changes: str) -> Path:
    """A lab below `root/labs`; `changes` replaces files by stem (`manifest`, `count`, `use`, `counting`, `checks`)."""
    directory = root / "labs" / lab_id
    directory.mkdir(parents=True, exist_ok=True)
    write_image(root, lab_id)
    files = {
        "manifest": ("lab.toml", MANIFEST),
        "count": ("01-count.py", COUNT),
        "use": ("02-use.py", USE),
        "counting": ("counting.py", COUNTING),
        "checks": ("checks.py", CHECKS),
    }
    for stem, (name, content) in files.items():
        (directory / name).write_text(textwrap.dedent(changes.get(stem, content)).lstrip("\n"), encoding="utf-8", newline="\n")
    return directory


def write_image(root: Path, lab_id: str) -> None:
    """The Dockerfile of a lab that adds nothing to its group, where the course has images at all."""
    if (root / "images").is_dir() and not (root / "images" / lab_id).exists():
        (root / "images" / lab_id).mkdir()
        shutil.copy(ROOT / "images" / "lab-1.1-peft-huggingface" / "Dockerfile", root / "images" / lab_id / "Dockerfile")


def write_quick_lab(root: Path, lab_id: str, **code: str) -> Path:
    """A lab of one-cell notebooks that need no torch: `first="..."` makes `01-first` with that code after the import of `lab`.

    Its gates are those of the toy lab: `error <= 0.1`, which `off_by_one` must miss, and `agrees is true`. One of its notebooks
    must record them (`GOOD` does), or the lab is refused.
    """
    directory = root / "labs" / lab_id
    directory.mkdir(parents=True, exist_ok=True)
    write_image(root, lab_id)
    names = [f"{number:02d}-{stem}" for number, stem in enumerate(code, start=1)]
    listed = ", ".join(f'"{name}"' for name in names)
    (directory / "lab.toml").write_text(MANIFEST.replace('"01-count", "02-use"', listed), encoding="utf-8")
    for name, lines in zip(names, code.values(), strict=True):
        (directory / f"{name}.py").write_text(MEASURE.lstrip("\n") + textwrap.dedent(lines).strip("\n") + "\n", encoding="utf-8")
    return directory


GOOD = """
lab.record("error", 0.0)
lab.record("error", 1.0, variant="off_by_one")
lab.record("agrees", True)
"""


def write_course(root: Path) -> Path:
    """A checkout with one toy lab and the real code and locks; environments are those of the real checkout."""
    for name in ("images", "shared"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_lab(root)
    for name in ("noxfile.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    link_environments(root)
    return root


def link_environments(home: Path) -> None:
    """Let runs below `home` use the environments that exist already."""
    environments = Path(os.environ.get("ONEPIECE_HOME") or ROOT).resolve() / ".nox"
    environments.mkdir(exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # a link to a directory that needs no privilege
        import _winapi

        _winapi.CreateJunction(str(environments), str(home / ".nox"))
    else:
        (home / ".nox").symlink_to(environments)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    output: str  # standard output and standard error, as the user sees them

    @property
    def words(self) -> str:
        """The output without line breaks: where a sentence wraps depends on the length of paths."""
        return " ".join(self.output.split())


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout of the course and the place where it keeps what it makes."""

    root: Path
    home: Path

    @classmethod
    def make(cls, root: Path) -> Checkout:
        """A checkout with the toy lab, which keeps everything below itself."""
        return cls(write_course(root), root)

    def elsewhere(self, home: Path) -> Checkout:
        """The same checkout for a user who never ran anything: environments are there, runs and workspace are not."""
        link_environments(home)
        return Checkout(self.root, home)

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of a user who set none of ours, in English."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("ONEPIECE_", "NOX", "JPY_"))}
        for name in ("FORCE_COLOR", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH"):
            mine.pop(name, None)
        return mine | {"ONEPIECE_HOME": str(self.home), "ONEPIECE_ROOT": str(self.root), "ONEPIECE_LANG": "en", "PYTHONUTF8": "1"}

    def nox_command(self, *arguments: str) -> list[str]:
        """What a user types as `nox ...`."""
        return [os.environ.get("ONEPIECE_NOX") or sys.executable, "-m", "nox", *arguments]

    def host_command(self, *arguments: str) -> list[str]:
        """What the nox session calls."""
        from onepiece.host.road import environments

        return [str(environments.ensure("host", session="tests").python), "-m", "onepiece.host", *arguments]

    @property
    def host_environ(self) -> dict[str, str]:
        """The environment variables with which the nox session calls the host."""
        return self.environ | {"PYTHONPATH": str(self.root / "shared")}

    def nox(self, *arguments: str, **environ: str) -> Done:
        """Run nox to its end."""
        return self._run(self.nox_command(*arguments), self.environ | environ)

    def host(self, *arguments: str, **environ: str) -> Done:
        """Run a command of the host floor to its end, without the start of nox."""
        return self._run(self.host_command(*arguments), self.host_environ | environ)

    def _run(self, command: list[str], environ: dict[str, str]) -> Done:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=1200,  # a whole lab, on a busy machine
        )
        return Done(done.returncode, done.stdout)

    def runs(self, lab_id: str = LAB) -> list[Path]:
        """The run directories of a lab, oldest first."""
        return sorted((self.home / "runs" / lab_id).glob("*"), key=lambda path: path.stat().st_mtime_ns)


def status_of(pid: int, seconds: float) -> int:
    """What `os.waitpid` says of a child that must end by itself within these seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"process {pid} had to be killed: it did not end within {seconds:g} s")


def processes_of(home: Path) -> dict[int, str]:
    """The running processes that were started for this home, with their command lines; Linux only."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"ONEPIECE_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # ended meanwhile, or of another user
            continue
    return found


def left_of(home: Path, seconds: float = 5.0) -> dict[int, str]:
    """What of `processes_of` is still there after those that are ending had time to end."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
