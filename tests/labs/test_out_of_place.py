"""Something in the way of what the course keeps, or taken away under it: two lines, and no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import toy_course
from parts import linux_only, missing
from toy_course import GOOD, LAB, Checkout, Done

QUICK = "lab-9.2-quick"
REMOVES = "lab-9.3-removes"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    toy_course.write_quick_lab(made.root, QUICK, first=GOOD)
    toy_course.write_quick_lab(made.root, REMOVES, first=f'{GOOD}\nimport os\nimport shutil\nshutil.rmtree(os.environ["ONEPIECE_RUN"])')
    return made


@pytest.fixture
def checkout(source: Checkout, tmp_path: Path) -> Checkout:
    return source.elsewhere(tmp_path / "home")


def is_two_lines(done: Done, says: str) -> None:
    assert done.code == 2, done.output
    assert says in done.words
    assert "Traceback" not in done.output
    assert len([line for line in done.output.splitlines() if line.startswith(("error", "next"))]) == 2


@pytest.mark.fault("out-of-place")
def test_a_notebook_that_removes_its_run_directory(checkout: Checkout) -> None:
    is_two_lines(checkout.host("run", REMOVES), "Something removed or replaced what the course keeps here")


@pytest.mark.fault("out-of-place")
@pytest.mark.parametrize(("name", "command"), [("workspace", "start"), ("runs", "run"), ("runs/" + LAB, "run")])
def test_a_file_where_a_directory_must_be(checkout: Checkout, name: str, command: str) -> None:
    place = checkout.home / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine", encoding="utf-8")
    is_two_lines(checkout.host(command, LAB), "Something removed or replaced what the course keeps here")
    assert place.read_text(encoding="utf-8") == "mine"


@pytest.mark.fault("another-user")
@linux_only
@pytest.mark.parametrize("command", [("run", QUICK), ("check", LAB, "--reference"), ("start", LAB), ("progress",), ("serving", "--status")])
def test_somebody_else_without_a_name_or_a_home_finds_everything_or_two_lines(checkout: Checkout, command: tuple[str, ...]) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        missing("users", "only root, with setpriv, can become another user")
    for place in ("runs", "workspace"):
        (checkout.home / place).mkdir()
    reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # Python may be root's own
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *reads]
    environ = {name: value for name, value in checkout.host_environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    done = checkout._run([*become, *checkout.host_command(*command)], environ)
    assert "Traceback" not in done.output, done.output
    if command[0] in ("run", "start"):
        is_two_lines(done, "Cannot write to")


@pytest.mark.fault("reader-is-gone")
@linux_only
def test_whoever_reads_may_go_away(checkout: Checkout) -> None:
    import pty

    pairs = {"a pipe that is closed": (os.pipe(), 1), "a terminal that is gone": (pty.openpty(), 129)}
    for what, ((reads, writes), code) in pairs.items():
        os.close(reads)
        command = checkout.host_command("catalog")
        done = subprocess.run(command, env=checkout.host_environ, cwd=checkout.root, stdout=writes, stderr=subprocess.PIPE, text=True)
        os.close(writes)
        assert (done.returncode, done.stderr) == (code, ""), what


@pytest.mark.fault("out-of-place")
def test_a_home_of_nobody_is_a_name_like_others(checkout: Checkout) -> None:
    done = checkout.host("progress", "--import", "~nobody-at-all/progress.json")
    assert done.code == 2 and "cannot be imported" in done.words and "Traceback" not in done.output


@pytest.mark.fault("file-of-another-shape")
def test_a_copy_whose_context_was_edited_is_checked_all_the_same(checkout: Checkout) -> None:
    assert checkout.host("start", LAB).code == 0
    (checkout.home / "workspace" / LAB / ".run" / "context.json").write_text("[1]", encoding="utf-8")
    done = checkout.host("check", LAB)
    assert done.code == 1 and "0 of 2 exercises passed" in done.words, done.output


@pytest.mark.fault("passed-without-report")
@linux_only
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_results_that_say_passed_have_their_report_whenever_the_end_came(
    checkout: Checkout, how: signal.Signals, read_results: Any
) -> None:
    process = subprocess.Popen(
        checkout.host_command("run", QUICK), cwd=checkout.root, env=checkout.host_environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=toy_course.hear_signals,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any('"status": "ok"' in path.read_text(encoding="utf-8") for path in checkout.home.glob(f"runs/{QUICK}/*/results.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, how)  # the last notebook has ended: results are being made
    process.wait(timeout=60)
    (run,) = checkout.runs(QUICK)
    status = read_results(run)["status"]
    assert status == "incomplete" or (status == "passed" and (run / "report.html").exists())
