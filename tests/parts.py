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


def only_if_asked_for(part: str, config: pytest.Config) -> None:
    """Skip the running test unless `part` is required, or the directory of the test was named: it takes many minutes."""
    named = any(word in str(argument).replace(os.sep, "/") for argument in config.args for word in ("tests/images", "tests/compose"))
    if not named and part not in os.environ.get("ONEPIECE_REQUIRE", "").split(","):
        pytest.skip("takes many minutes: nox -s tests -- tests/images tests/compose runs it")


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc, which only Linux has")
