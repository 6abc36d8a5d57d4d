"""What all tests share. Only the standard library and pytest here: `lab_floor` runs in an environment without the others."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # `import toy_course`, `import parts`, wherever pytest was started

# The lab floor needs torch, which the environment of the other tests does not have; it has a call of its own.
collect_ignore = [] if importlib.util.find_spec("torch") else ["lab_floor"]
collect_ignore_glob = ["bench/*"]


@pytest.fixture(scope="session")
def run_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """Run a real lab of the course small, on this machine without a container: once, however many tests look at it.

    Returns what was said (`toy_course.Done`), and the home that the run is in (`toy_course.Checkout`).
    """
    import toy_course

    made: dict[str, tuple[Any, Any]] = {}

    def run(lab_id: str) -> tuple[Any, Any]:
        if lab_id not in made:
            checkout = toy_course.Checkout(toy_course.ROOT, toy_course.ROOT).elsewhere(tmp_path_factory.mktemp("small") / "home")
            made[lab_id] = checkout.host("run", lab_id, "--profile", "cpu", "--device", "cpu", "--backend", "local"), checkout
        return made[lab_id]

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The lab floor has no pytest-timeout: there a test without end ends the run, and says where it stood."""
    if item.config.pluginmanager.hasplugin("timeout"):
        return (yield)
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note how each test of a fault ended, for `nox -s tests -- --faults`, which counts over several runs of pytest."""
    report = yield
    log = os.environ.get("ONEPIECE_FAULTS_LOG")
    ids = [mark.args[0] for mark in item.iter_markers("fault")]
    if log and ids and (report.when == "call" or report.outcome != "passed"):
        why = (
            str(report.longrepr[2]).removeprefix("Skipped: ") if report.outcome == "skipped" and isinstance(report.longrepr, tuple) else ""
        )
        with Path(log).open("a", encoding="utf-8") as stream:  # one short write: workers side by side add whole lines
            stream.write(json.dumps({"faults": ids, "test": item.nodeid, "outcome": report.outcome, "why": why}) + "\n")
    return report


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # not captured here
    config.addinivalue_line("markers", "slow_lab: runs a whole lab on the cpu profile")
    config.addinivalue_line("markers", "fault(id): a fault or an attack that is survived; told in docs/faults/*.toml")
    config.addinivalue_line("markers", "alone: needs the machine to itself (given to tests by what they use, see below)")


SECONDS, SECONDS_ALONE = 300, 1200  # of one test with its fixtures: a net below the tests' own limits, so that none waits for ever
_STDERR = pytest.StashKey[int]()
ALONE = {"engine", "private", "run_small", "real"}  # fixtures: a container engine, a whole lab, real servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what would fail or mislead beside another test that works, what shares things that are expensive to make, and how long."""
    for item in items:
        if item.config.pluginmanager.hasplugin("xdist"):  # by file; all tests of the site share one site
            group = "docs" if "docs" in item.path.relative_to(TESTS).parts else item.path.name
            item.add_marker(pytest.mark.xdist_group(group))
        if ALONE & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("slow_lab"):
            item.add_marker("alone")
        if item.config.pluginmanager.hasplugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS_ALONE if item.get_closest_marker("alone") else SECONDS))
