"""Where things are. Stdlib only: the noxfile imports it.

`ROOT` is the checkout and is only read. `HOME` holds what is made: environments, runs, the learner's
workspace. They are the same directory unless `ONEPIECE_HOME` says otherwise (a read-only checkout).
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ.get("ONEPIECE_ROOT") or Path(__file__).resolve().parents[3]).expanduser()
HOME = Path(os.environ.get("ONEPIECE_HOME") or ROOT).expanduser().resolve()

LABS = ROOT / "labs"
IMAGES = ROOT / "images"
SHARED = ROOT / "shared"

ENVIRONMENTS = HOME / ".nox"
RUNS = HOME / "runs"
WORKSPACE = HOME / "workspace"
