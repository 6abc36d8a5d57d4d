"""What makes an environment useless is found by looking: a package or a file that is gone or cut, an import that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import toy_course

from onepiece.course import intact
from onepiece.host.road import damage, environments

LOCK = "straw==1.0 \\\n    --hash=sha256:00\nhay==2.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:00\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages with one that was installed."""
    (tmp_path / "straw.py").write_text("version = '1.0'\n", encoding="utf-8")
    (tmp_path / "straw-1.0.dist-info").mkdir()
    (tmp_path / "straw-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: straw\nVersion: 1.0\n", encoding="utf-8")
    record = "straw.py,sha256=x,16\nstraw-1.0.dist-info/METADATA,,\nstraw-1.0.dist-info/RECORD,,\n"
    (tmp_path / "straw-1.0.dist-info" / "RECORD").write_text(record, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_whole_package_has_nothing_missing(packages: Path) -> None:
    assert list(intact.missing_files("straw")) == []


@pytest.mark.fault("damaged-environment")
def test_what_is_gone_or_cut_is_named(packages: Path) -> None:
    (packages / "straw.py").write_text("version")
    assert list(intact.missing_files("straw")) == ["straw: straw.py has 7 bytes of 16"]
    (packages / "straw.py").unlink()
    assert list(intact.missing_files("straw")) == ["straw: straw.py: No such file or directory"]
    assert list(intact.missing_files("chaff")) == ["chaff is not installed"]


@pytest.mark.fault("damaged-environment")
def test_an_import_that_fails_is_named_whatever_it_raises(packages: Path) -> None:
    (packages / "cut_short.py").write_text("def f(:\n", encoding="utf-8")
    (packages / "loader.py").write_text("raise OSError('libstraw.so: file too short')", encoding="utf-8")
    assert next(intact.failing_import("cut_short")).startswith("import cut_short: SyntaxError: ")
    assert list(intact.failing_import("loader")) == ["import loader: OSError: libstraw.so: file too short"]
    assert list(intact.failing_import("json")) == []


def test_of_a_lock_only_what_every_machine_has_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(LOCK, encoding="utf-8")
    assert intact.pinned(tmp_path / "lock.txt") == ["straw"]


@pytest.mark.parametrize("name", ["host", "cpu"])
def test_the_environments_here_are_whole(name: str) -> None:
    assert damage.damage(environments.ensure(name, session="tests")) is None


@pytest.mark.fault("damaged-environment")
def test_a_python_that_cannot_be_started_or_that_crashes_is_damage(tmp_path: Path) -> None:
    environment = environments.Environment("cpu", tmp_path, None)
    assert "No such file" in (damage.damage(environment) or "")
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text("#!/bin/sh\nkill -SEGV $$\n", encoding="utf-8")
    environment.python.chmod(0o755)
    assert damage.damage(environment) == f"its Python ended with {-11}"


def test_it_runs_by_itself_without_anything_installed() -> None:
    program = toy_course.ROOT / "shared" / "onepiece" / "course" / "intact.py"
    done = subprocess.run([sys.executable, "-I", "-S", program, "--import", "json", "nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "import nowhere: ModuleNotFoundError: No module named 'nowhere'\n")
