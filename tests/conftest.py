"""What all tests share. Only the standard library and pytest here: `lab_floor` runs in an environment without the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # `import toy_course`, `import parts`, wherever pytest was started

# The lab floor needs torch, which the environment of the other tests does not have; it has a call of its own.
collect_ignore = [] if importlib.util.find_spec("torch") else ["lab_floor"]
collect_ignore_glob = ["bench/*"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow_lab: runs a whole lab on the cpu profile")
