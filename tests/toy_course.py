"""A course of one small lab without torch in its notebooks, for tests of the road."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

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

lab.record("agrees", json.loads(lab.artifact("count.json").read_text()) == count(lab.settings.steps))
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
from onepiece.text import Text


@exercise(1, title=Text("count", "計數"), minutes=5, level="core", hint=Text("use range", "用 range"))
def check_count() -> None:
    expect(count(3), 3, mistakes={Text("one too many", "多算了一個"): 4})


@exercise(2, title=Text("double", "加倍"), minutes=5, level="core", hint=Text("use *", "用 *"))
def check_double() -> None:
    expect(double(4), 8, mistakes={Text("squared instead of doubled", "平方而不是加倍"): 16})
"""


def write_lab(root: Path, lab_id: str = "lab-9.1-toy", **changes: str) -> Path:
    """A lab below `root/labs`; `changes` replaces files by stem (`manifest`, `count`, `use`, `counting`, `checks`)."""
    directory = root / "labs" / lab_id
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "manifest": ("lab.toml", MANIFEST),
        "count": ("01-count.py", COUNT),
        "use": ("02-use.py", USE),
        "counting": ("counting.py", COUNTING),
        "checks": ("checks.py", CHECKS),
    }
    for stem, (name, content) in files.items():
        (directory / name).write_text(textwrap.dedent(changes.get(stem, content)).lstrip("\n"), encoding="utf-8")
    return directory


def write_course(root: Path) -> Path:
    """A checkout with one toy lab and the real code and locks; environments are those of the real checkout."""
    write_lab(root)
    for name in ("images", "shared", "noxfile.py", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    environments = Path(os.environ.get("ONEPIECE_HOME") or ROOT) / ".nox"
    environments.mkdir(exist_ok=True)
    (root / ".nox").symlink_to(environments)
    return root
