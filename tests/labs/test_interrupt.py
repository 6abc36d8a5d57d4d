"""Ctrl-C, and worse, at any moment: no process left, what finished is kept and marked, and the next run works.

Real processes and real signals. Each moment is one that the run itself shows (a file appears), so that no test depends on
how fast this machine is.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
from parts import linux_only
from toy_course import GOOD, Checkout

pytestmark = linux_only

Results = Callable[[Path], dict[str, Any]]

PATIENCE = 90.0  # until a test gives up; nothing waits that long when all is well, but other work may have the machine
SLEEPS = "lab-9.2-sleeps"

# The second notebook waits for ever, and has a process of its own that would outlive a kernel that is only asked to stop.
SLEEP = f"""
import os
import subprocess
import sys
import time
from pathlib import Path

subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"])
print("before the long wait")
Path(os.environ["ONEPIECE_HOME"], "asleep").touch()
time.sleep(0 if Path(os.environ["ONEPIECE_HOME"], "hurry").exists() else 600)
{GOOD}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    toy_course.write_quick_lab(made.root, SLEEPS, first='lab.artifact("made.txt").write_text("kept")', second=SLEEP)
    return made


@pytest.fixture
def checkout(source: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A home of its own for every test, by which its processes are known."""
    made = source.elsewhere(tmp_path / "home")
    yield made
    for pid in toy_course.processes_of(made.home):  # a failing test must not leave what it complains about
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


class Started:
    """A command that runs, in a session of its own as a terminal gives it one."""

    def __init__(self, checkout: Checkout, command: list[str], environ: dict[str, str]) -> None:
        self.checkout = checkout
        self.process = subprocess.Popen(
            command,
            cwd=checkout.root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            preexec_fn=toy_course.hear_signals,
        )

    @property
    def group(self) -> int:
        return os.getpgid(self.process.pid)

    def wait(self, what: str) -> Path:
        """Wait for a moment of the run; the run directory."""
        moments: dict[str, Callable[[], object]] = {
            "a kernel starts": lambda: "ipykernel" in " ".join(toy_course.processes_of(self.checkout.home).values()),
            "the first notebook is done": lambda: any(
                '"status": "ok"' in path.read_text(encoding="utf-8") for path in self.checkout.home.glob(f"runs/{SLEEPS}/*/results.json")
            ),
            "a cell runs": lambda: (self.checkout.home / "asleep").exists(),
        }

        def reached() -> object:
            assert self.process.poll() is None, f"ended before {what}: {self.process.communicate()[0]}"
            return moments[what]()

        wait_for(reached, what)
        return self.checkout.runs(SLEEPS)[0]

    def end(self) -> tuple[int, str]:
        """Exit code and output, after it ended; no process of this home may be left."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        left = toy_course.left_of(self.checkout.home)
        assert not left, left
        return self.process.returncode, output


def host(checkout: Checkout, *arguments: str, **environ: str) -> Started:
    return Started(checkout, checkout.host_command("run", *arguments), checkout.host_environ | environ)


def nox(checkout: Checkout, *arguments: str) -> Started:
    return Started(checkout, checkout.nox_command("-s", *arguments), checkout.environ)


def next_run_works(checkout: Checkout, read_results: Results) -> None:
    (checkout.home / "hurry").touch()
    done = checkout.host("run", SLEEPS)
    assert done.code == 0, done.output
    assert read_results(checkout.runs(SLEEPS)[-1])["status"] == "passed"


# --- Ctrl-C -------------------------------------------------------------------------------------------------


@pytest.mark.fault("interrupted-run")
@pytest.mark.fault("own-stop")
def test_ctrl_c_in_a_cell_ends_everything_and_keeps_the_finished_notebook(checkout: Checkout, read_results: Results) -> None:
    started = nox(checkout, SLEEPS)
    run = started.wait("a cell runs")
    os.killpg(started.group, signal.SIGINT)  # a terminal sends it to nox and to everything below
    code, output = started.end()
    assert code == 130
    assert "Traceback" not in output
    assert "INCOMPLETE" in output
    assert str(run) in output, "where what finished is kept"
    results = read_results(run)
    assert (results["status"], results["complete"]) == ("incomplete", False)
    assert [(notebook["name"], notebook["status"]) for notebook in results["notebooks"]] == [
        ("01-first", "ok"),
        ("02-second", "interrupted"),
    ]
    assert results["notebooks"][1]["error"] is None, "our own stop is nobody's death"
    assert "died" not in output and "Interrupted" in output
    assert all((gate["passed"], gate["reason"]) == (None, "not run") for gate in results["gates"])
    assert "before the long wait" in (run / "notebooks" / "02-second.ipynb").read_text(encoding="utf-8")
    assert (run / "artifacts" / "made.txt").read_text() == "kept"
    assert (run / "report.html").exists()
    next_run_works(checkout, read_results)


@pytest.mark.fault("interrupted-run")
def test_ctrl_c_that_reaches_nox_alone_ends_everything_too(checkout: Checkout, read_results: Results) -> None:
    started = nox(checkout, SLEEPS)
    run = started.wait("a cell runs")
    started.process.send_signal(signal.SIGINT)
    code, _ = started.end()
    assert code == 130
    assert read_results(run)["status"] == "incomplete"


@pytest.mark.fault("impatient-interrupt")
def test_an_impatient_second_ctrl_c_does_not_leave_half_of_it_undone(checkout: Checkout, read_results: Results) -> None:
    started = host(checkout, SLEEPS)
    run = started.wait("a cell runs")
    for _ in range(5):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGINT)
        time.sleep(0.1)
    code, output = started.end()
    assert code == 130
    assert "Traceback" not in output
    assert read_results(run)["status"] == "incomplete"


@pytest.mark.fault("interrupted-run")
@pytest.mark.parametrize(
    ("moment", "how"),
    [
        pytest.param("a kernel starts", signal.SIGINT, id="Ctrl-C while a kernel starts"),
        pytest.param("a kernel starts", signal.SIGHUP, id="the terminal closes while a kernel starts"),
        pytest.param("the first notebook is done", signal.SIGTERM, id="SIGTERM between notebooks"),
        pytest.param("a cell runs", signal.SIGTERM, id="SIGTERM in a cell"),
    ],
)
def test_at_any_moment_the_run_ends_and_is_marked_incomplete(
    checkout: Checkout, read_results: Results, moment: str, how: signal.Signals
) -> None:
    started = host(checkout, SLEEPS)
    run = started.wait(moment)
    started.process.send_signal(how)
    code, output = started.end()
    assert code == 130
    assert "Traceback" not in output
    results = read_results(run)
    assert (results["status"], results["complete"]) == ("incomplete", False)
    if moment == "the first notebook is done":
        assert results["notebooks"][0] == {**results["notebooks"][0], "name": "01-first", "status": "ok", "error": None}


@pytest.mark.fault("hanging-driver")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_while_the_machine_is_looked_at_the_run_ends_at_once_and_nothing_was_made(
    checkout: Checkout, tmp_path: Path, how: signal.Signals
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    # A driver that hangs, which is when people press Ctrl-C.
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\ntouch {checkout.home}/asked\nexec sleep 600\n", encoding="utf-8")
    (tools / "nvidia-smi").chmod(0o755)
    started = host(checkout, SLEEPS, PATH=f"{tools}:{os.environ['PATH']}")
    wait_for((checkout.home / "asked").exists, "the driver to be asked")
    started.process.send_signal(how)
    code, output = started.end()
    assert code == 130
    assert "Traceback" not in output
    assert not checkout.runs(SLEEPS)


@pytest.mark.fault("interrupted-run")
@pytest.mark.parametrize("delay", [0.1, 0.3, 0.4, 0.5])
def test_at_a_moment_that_nobody_chose_a_run_directory_is_whole_or_not_there(
    checkout: Checkout, read_results: Results, delay: float
) -> None:
    started = host(checkout, SLEEPS)
    time.sleep(delay)
    started.process.send_signal(signal.SIGTERM)
    started.end()
    for run in checkout.runs(SLEEPS):
        assert read_results(run)["status"] == "incomplete"


# --- worse ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("killed-host")
def test_a_host_that_is_killed_takes_its_kernels_with_it_and_what_finished_is_marked(checkout: Checkout, read_results: Results) -> None:
    started = host(checkout, SLEEPS)
    run = started.wait("a cell runs")
    started.process.kill()
    started.process.communicate(timeout=PATIENCE)
    wait_for(lambda: not toy_course.processes_of(checkout.home), "every process to end")
    results = read_results(run)
    assert (results["status"], results["complete"]) == ("incomplete", False)
    assert [(notebook["name"], notebook["status"]) for notebook in results["notebooks"]] == [("01-first", "ok")]
    next_run_works(checkout, read_results)


@pytest.mark.fault("wrong-diagnosis")
def test_a_runner_that_is_killed_is_said_at_once_and_its_kernel_ends(checkout: Checkout) -> None:
    started = host(checkout, SLEEPS)
    started.wait("a cell runs")
    (runner,) = [pid for pid in children(started.process.pid) if "onepiece.kernel.execute" in command_line(pid)]
    os.kill(runner, signal.SIGKILL)
    output, _ = started.process.communicate(timeout=PATIENCE)
    assert started.process.returncode == 2
    assert "Traceback" not in output
    assert "SIGKILL" in output and "damaged" not in output and "--fresh" not in output
    wait_for(lambda: "ipykernel" not in " ".join(toy_course.processes_of(checkout.home).values()), "the kernel to end")


@pytest.mark.fault("killed-owner")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_a_nox_that_is_gone_takes_the_lab_with_it_whatever_ended_it(checkout: Checkout, read_results: Results, how: signal.Signals) -> None:
    started = nox(checkout, SLEEPS)
    run = started.wait("a cell runs")
    os.kill(started.process.pid, how)
    output, _ = started.process.communicate(timeout=PATIENCE)  # the host has the other end of the pipe, until it ends
    assert started.process.returncode == -how
    assert "INCOMPLETE" in output and "Traceback" not in output
    assert not (left := toy_course.left_of(checkout.home)), left
    assert read_results(run)["status"] == "incomplete"
    assert (run / "report.html").exists()


@pytest.mark.fault("killed-owner")
def test_jupyterlab_ends_with_a_host_that_is_killed(checkout: Checkout) -> None:
    command = checkout.host_command("jupyter", toy_course.LAB, "--no-browser", "--port", "0")
    started = Started(checkout, command, checkout.host_environ)
    wait_for(lambda: "jupyterlab" in " ".join(toy_course.processes_of(checkout.home).values()), "JupyterLab to be started")
    started.process.kill()
    started.process.communicate(timeout=PATIENCE)
    assert not (left := toy_course.left_of(checkout.home, PATIENCE)), left


@pytest.mark.fault("killed-owner")
def test_a_check_without_end_ends_with_a_host_that_is_killed(checkout: Checkout) -> None:
    copy = checkout.home / "workspace" / toy_course.LAB
    assert checkout.host("start", toy_course.LAB).code == 0
    endless = "def count(steps):\n    open(__file__ + '.runs', 'w')\n    while True: pass\n\n\ndef double(steps): ...\n"
    (copy / "counting.py").write_text(endless, encoding="utf-8")
    started = Started(checkout, checkout.host_command("check", toy_course.LAB), checkout.host_environ)
    wait_for((copy / "counting.py.runs").exists, "the check to run")
    started.process.kill()
    started.process.communicate(timeout=PATIENCE)
    assert not (left := toy_course.left_of(checkout.home)), left


@pytest.mark.fault("killed-kernel")
def test_a_kernel_that_is_killed_is_a_failing_cell(checkout: Checkout, read_results: Results) -> None:
    started = host(checkout, SLEEPS)
    run = started.wait("a cell runs")
    (runner,) = [pid for pid in children(started.process.pid) if "onepiece.kernel.execute" in command_line(pid)]
    (kernel,) = [pid for pid in children(runner) if "ipykernel" in command_line(pid)]
    os.kill(kernel, signal.SIGKILL)  # what Linux does when the memory is gone
    code, output = started.end()
    assert code == 1
    assert "the kernel died" in output
    assert read_results(run)["notebooks"][1]["error"]["name"] == "DeadKernel"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


# --- a real terminal --------------------------------------------------------------------------------------------


@pytest.mark.fault("interrupted-run")
def test_ctrl_c_typed_into_a_terminal(checkout: Checkout, read_results: Results) -> None:
    import pty

    command = checkout.nox_command("-s", SLEEPS)
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(checkout.root)
        os.execve(command[0], command, checkout.environ | {"TERM": "xterm-256color"})
    shown = bytearray()
    deadline = time.monotonic() + 2 * PATIENCE
    typed = False
    while time.monotonic() < deadline:
        try:
            if select.select([terminal], [], [], 1.0)[0]:
                shown += os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not typed and (checkout.home / "asleep").exists():
            os.write(terminal, b"\x03")
            typed = True
    status = toy_course.status_of(pid, PATIENCE)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    text = shown.decode(errors="replace")
    assert "02-second" in text
    assert "INCOMPLETE" in text
    assert "Traceback" not in text
    assert not toy_course.left_of(checkout.home)
    assert read_results(checkout.runs(SLEEPS)[0])["status"] == "incomplete"
