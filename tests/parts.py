"""Tests whose part is missing on this machine are skipped with the reason, unless `ONEPIECE_REQUIRE` names the part."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import pytest


def missing(part: str, reason: str) -> NoReturn:
    """Skip the running test for want of `part`; fail it where `ONEPIECE_REQUIRE=part,...` says that it must be there."""
    if part in os.environ.get("ONEPIECE_REQUIRE", "").split(","):
        pytest.fail(f"{part} is required here, but {reason}", pytrace=False)
    pytest.skip(reason)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc, which only Linux has")
