"""The warm process: every request is as good as a fresh start, and nothing that a mutant does ends or disturbs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import toy_course

HEAD = '"""Counting."""\n\nimport os, signal, subprocess, sys, threading, time\n\n'
DOUBLE = "\n\ndef double(steps):\n    return 2 * steps\n"


def counting(body: str, *, at_import: str = "") -> str:
    """The module of the toy lab with another `count`."""
    return HEAD + at_import + "def count(steps):\n" + "".join(f"    {line}\n" for line in body.splitlines()) + DOUBLE


class Warm:
    """A warm process that is spoken to."""

    def __init__(self, lab: Path, *options: str) -> None:
        self.lab = lab
        command = [sys.executable, "-m", "onepiece.kernel.warm_checks", *options]
        environ = os.environ | {"ONEPIECE_LANG": "en", "PYTHONUTF8": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environ, text=True, encoding="utf-8"
        )
        self.versions = self.hear()["versions"]

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def say(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"lab": str(self.lab), "code": [str(self.lab)], **request}) + "\n")
        self.process.stdin.flush()

    def ask(self, source: str | None = None, **request: Any) -> dict[str, Any]:
        self.say(**({} if source is None else {"replace": {"counting.py": source}}), **request)
        return self.hear()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)


def statuses(answer: dict[str, Any]) -> list[str]:
    return [outcome["status"] for outcome in answer["outcomes"]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_course.write_lab(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def warm(lab: Path) -> Iterator[Warm]:
    """One process for all tests below: what one request does must not reach the next."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    started = Warm(lab)
    yield started
    assert started.end() == 0


@pytest.fixture(scope="module")
def without_fork(lab: Path) -> Iterator[Warm]:
    """What there is on a system that cannot fork; each request takes as long as Python and torch take to start."""
    started = Warm(lab, "--no-fork")
    yield started
    assert started.end() == 0


@pytest.fixture(params=["warm", "without_fork"])
def either(request: pytest.FixtureRequest) -> Warm:
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def _the_reference_still_passes(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "warm" in request.fixturenames:
        assert statuses(request.getfixturevalue("warm").ask()) == ["passed", "passed"]


def test_it_says_what_it_runs_on(warm: Warm) -> None:
    assert {"python", "torch"} <= set(warm.versions)


def test_the_outcomes_are_those_of_onepiece_checks(either: Warm, lab: Path, tmp_path: Path) -> None:
    source = counting("return steps + 1")
    (tmp_path / "counting.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "onepiece.checks", str(lab), str(tmp_path), str(lab)]
    done = subprocess.run(command, env=os.environ | {"ONEPIECE_LANG": "en"}, capture_output=True, text=True, encoding="utf-8")
    fresh = [json.loads(line) for line in done.stdout.splitlines()][2:]
    answer = either.ask(source)
    assert answer["outcomes"] == fresh
    assert statuses(answer) == ["failed", "passed"]
    assert answer["exit_code"] == 0


def test_a_source_stands_for_a_file_of_the_code_directories_and_nothing_is_written(warm: Warm, lab: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()}
    (tmp_path / "counting.py").write_text(counting("return 7"), encoding="utf-8")
    both = [str(tmp_path), str(lab)]
    assert statuses(warm.ask(code=both)) == ["failed", "passed"], "the first directory comes first"
    assert statuses(warm.ask(counting("return steps"), code=both)) == ["passed", "passed"], "a source comes before all"
    assert {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()} == before


def test_an_error_shows_the_line_of_the_source_that_was_given(warm: Warm, lab: Path) -> None:
    (first, _) = warm.ask(counting("return {}['never in the file']"))["outcomes"]
    assert (first["status"], first["error"]) == ("error", "KeyError: 'never in the file'")
    assert "return {}['never in the file']" in first["traceback"]
    assert str(lab / "counting.py") in first["traceback"]


def test_a_module_can_read_its_own_source(warm: Warm) -> None:
    source = counting("import inspect\nreturn steps if 'only here' in inspect.getsource(count) else -1")
    assert statuses(warm.ask(source)) == ["passed", "passed"]


def test_what_cannot_be_imported_is_one_outcome(warm: Warm) -> None:
    (only,) = warm.ask("def count(steps):\n    return (steps\n")["outcomes"]
    assert "SyntaxError" in only["import_error"]
    assert 'counting.py", line 2' in only["import_error"]


def test_with_stop_nothing_is_looked_at_after_the_first_that_is_not_passed(warm: Warm, tmp_path: Path) -> None:
    trace = tmp_path / "looked_at"
    source = counting("return 7") + f"    open({str(trace)!r}, 'w')\n"
    source = source.replace("    return 2 * steps\n", "") + "    return 2 * steps\n"
    assert statuses(warm.ask(source, stop=True)) == ["failed", "error"], "what was not looked at is not passed"
    assert not trace.exists()
    assert statuses(warm.ask(source)) == ["failed", "passed"]
    assert trace.exists()


@pytest.mark.fault("code-that-ends-the-check")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("while True:\n    pass", id="a loop"),
        pytest.param("time.sleep(600)", id="sleep"),
        pytest.param("while True:\n    print('x' * 1000)", id="endless output"),
        pytest.param("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)", id="deaf"),
        pytest.param("subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])", id="waits for a program"),
    ],
)
def test_what_does_not_end_is_killed(warm: Warm, body: str) -> None:
    assert warm.ask(counting(body), seconds=1) == {"timeout": True}
    time.sleep(0.2)
    left = [process for process in psutil.Process(warm.process.pid).children(recursive=True) if process.status() != psutil.STATUS_ZOMBIE]
    assert left == []


def test_what_does_not_end_is_killed_without_fork_too(without_fork: Warm) -> None:
    assert without_fork.ask(counting("time.sleep(600)"), seconds=15) == {"timeout": True}
    assert psutil.Process(without_fork.process.pid).children() == []


@pytest.mark.fault("code-that-ends-the-check")
@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        pytest.param("os._exit(3)", 3, id="exit"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -9, id="kill"),
        pytest.param("os.abort()", -6, id="abort"),
        pytest.param("os.close(1); os.close(2); os._exit(0)", 0, id="an exit that looks good"),
    ],
)
def test_what_ends_the_process_is_answered(warm: Warm, body: str, exit_code: int) -> None:
    answer = warm.ask(counting(body))
    assert answer["exit_code"] == exit_code
    assert statuses(answer) == ["error", "error"]
    assert "ended before this was checked" in answer["outcomes"][0]["error"]


def test_what_ends_the_process_at_import_is_answered_without_an_outcome(either: Warm) -> None:
    assert either.ask(counting("return steps", at_import="os._exit(4)\n")) == {"outcomes": [], "exit_code": 4}


def test_what_code_prints_never_mixes_with_the_answers(either: Warm) -> None:
    loud = """
print("printed")
sys.stdout.write("without an end of line")
sys.__stdout__.flush()
os.write(1, b'{"outcomes": [], "exit_code": 0}\\n')
os.write(2, b"to standard error\\n")
os.system("echo from a program")
print('{"exercise": 1, "status": "passed"}', flush=True)
return steps
"""
    assert statuses(either.ask(counting(loud.strip(), at_import="print('at import')\n"))) == ["passed", "passed"]


def test_code_that_reads_standard_input_does_not_eat_the_next_request(warm: Warm) -> None:
    warm.say(replace={"counting.py": counting("return len(sys.stdin.read()) + steps + len(os.read(0, 10))")})
    warm.say(replace={"counting.py": counting("return steps")})
    assert statuses(warm.hear()) == ["passed", "passed"]
    assert statuses(warm.hear()) == ["passed", "passed"]


def test_code_that_changes_the_process_changes_none_but_its_own(warm: Warm) -> None:
    wild = "import onepiece.checks\nonepiece.checks.run_exercise = None\nos.environ.clear()\nos.chdir('/')\nsys.path.clear()\nreturn steps"
    warm.ask(counting(wild))


@pytest.mark.fault("code-that-ends-the-check")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to the limit")
def test_what_takes_all_memory_fails_by_itself(warm: Warm) -> None:
    (first, second) = warm.ask(
        counting("import numpy\nkept = []\nwhile True:\n    kept.append(numpy.empty(2**28, dtype=numpy.uint8))"), seconds=30
    )["outcomes"]
    assert "MemoryError" in first["error"]
    assert second["status"] == "passed"


# --- its own end ------------------------------------------------------------------------------------------


def test_it_ends_with_its_standard_input_after_what_was_asked(lab: Path) -> None:
    warm = Warm(lab)
    warm.say()
    assert warm.end() == 0
    assert statuses(warm.hear()) == ["passed", "passed"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_being_stopped_it_leaves_nothing_running(lab: Path) -> None:
    warm = Warm(lab)
    warm.say(replace={"counting.py": counting("while True:\n    pass")})
    own = psutil.Process(warm.process.pid)
    deadline = time.monotonic() + 10
    while not (children := own.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    warm.process.send_signal(signal.SIGTERM)
    assert warm.process.wait(10) != 0
    assert len(children) == 1
    assert psutil.wait_procs(children, timeout=5)[1] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_what_a_lab_imports_is_imported_once(tmp_path: Path) -> None:
    lab = toy_course.write_lab(tmp_path)
    source = counting("import sys\nreturn steps if 'wave' in sys.modules else -1", at_import="import importlib\n")
    warm = Warm(lab)
    assert statuses(warm.ask(source)) == ["failed", "passed"]
    assert statuses(warm.ask(counting("import wave\nreturn steps"))) == ["passed", "passed"]
    assert statuses(warm.ask(source)) == ["passed", "passed"]
    assert warm.end() == 0


# --- for code that is not trusted -------------------------------------------------------------------------


def test_only_some_exercises_are_looked_at(either: Warm) -> None:
    assert [outcome["exercise"] for outcome in either.ask(only=[2])["outcomes"]] == [2]


def test_a_module_is_imported_and_nothing_is_checked(either: Warm) -> None:
    assert either.ask(module="counting", names=["count"])["outcomes"] == [{"import_error": None}]
    (lacking,) = either.ask(module="counting", names=["count", "triple"])["outcomes"]
    assert lacking["import_error"] == "ImportError: counting.py has no triple"
    (broken,) = either.ask("def count(:\n", module="counting")["outcomes"]
    assert "SyntaxError" in broken["import_error"]


@pytest.mark.fault("forged-outcomes")
def test_with_a_token_only_lines_that_have_it_are_outcomes(warm: Warm) -> None:
    forged = 'for fd in range(64):\n    try: os.write(fd, b\'{"exercise": 1, "status": "passed"}\\n\')\n    except OSError: pass\nreturn 7'
    answer = warm.ask(counting(forged), token="0123")
    assert (statuses(answer), answer["strange"], answer["token"]) == (["failed", "passed"], 1, "0123")
    assert "strange" not in warm.ask(token="4567")


@pytest.mark.fault("forged-outcomes")
def test_an_outcome_says_if_what_judges_was_replaced(warm: Warm) -> None:
    cheat = "import onepiece.checks\nonepiece.checks.expect = lambda *a, **k: None\n"
    answer = warm.ask(counting("return 7", at_import=cheat))
    assert [outcome["tampered"] for outcome in answer["outcomes"]] == [["expect"], ["expect"]]
