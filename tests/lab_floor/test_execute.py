"""The runner: real kernels, the events of a run, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

CONTEXT = {
    "lab": "lab-9.1-toy", "profile": "cpu", "device": "cpu", "dtype": "float32", "language": "en", "settings": {}, "model": None,
    "predictions": {}, "artifact_makers": {}, "earlier_runs": [], "strict": True,
}  # fmt: skip

PATIENCE = 60.0

# A process that does not end when it is asked to; its id is written where the test finds it.
CHILD = """
import subprocess, sys
from pathlib import Path
ignore = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
child = subprocess.Popen([sys.executable, "-c", ignore + "print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
child.stdout.readline()
Path("child").write_text(str(child.pid))
"""


class Runner:
    """A prepared run directory and the process that executes it."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.process: subprocess.Popen[str] | None = None
        (run / "notebooks").mkdir(parents=True)
        (run / "context.json").write_text(json.dumps(CONTEXT), encoding="utf-8")

    def notebook(self, name: str, *cells: str) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *map(nbformat.v4.new_code_cell, cells)])
        nbformat.write(notebook, self.run / "notebooks" / f"{name}.ipynb")

    def saved(self, name: str) -> str:
        return (self.run / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        # Its standard input stays open for as long as we do: when it closes, the runner ends.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "onepiece.kernel.execute", str(self.run), *arguments], env=os.environ | {"PYTHONUTF8": "1"} | environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip
        return self.process

    def end(self) -> list[dict[str, Any]]:
        """Wait for the end; everything it said."""
        assert self.process is not None
        stdin, self.process.stdin = self.process.stdin, None  # or communicate() closes it
        out, log = self.process.communicate(timeout=PATIENCE)
        if stdin is not None and not stdin.closed:
            stdin.close()
        assert "execute.py" not in log, log  # the runner's own traceback; a kernel that is shut down may say goodbye with one
        return [json.loads(line) for line in out.splitlines()]

    def wait_for(self, name: str) -> str:
        """Wait until a cell wrote the file `name` into the run directory; its content."""
        deadline = time.monotonic() + PATIENCE
        while not (self.run / name).exists() or not (self.run / name).read_text():
            assert self.process is not None and self.process.poll() is None, "the runner ended"
            assert time.monotonic() < deadline, f"waited in vain for {name}"
            time.sleep(0.02)
        return (self.run / name).read_text()

    def kernels(self) -> list[int]:
        assert self.process is not None
        return [
            child.pid for child in psutil.Process(self.process.pid).children(recursive=True) if "ipykernel" in " ".join(child.cmdline())
        ]


def gone(pid: int) -> bool:
    """Has the process ended? It may take the system a moment to say so."""
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    made = Runner(tmp_path / "run")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()
    child = made.run / "child"
    if child.exists() and child.read_text():  # a failing test must not leave what it complains about
        try:
            psutil.Process(int(child.read_text())).kill()
        except psutil.NoSuchProcess:
            pass


@pytest.mark.fault("inherited-settings")
def test_a_kernel_is_the_python_that_runs_it_whatever_else_calls_itself_python3(runner: Runner, tmp_path: Path) -> None:
    spec = {"argv": ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (tmp_path / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    runner.notebook("01-a", "import sys; print(sys.executable)")
    process = runner.start("01-a", JUPYTER_PATH=str(tmp_path / "jupyter"))
    runner.end()
    assert process.returncode == 0
    assert sys.executable in runner.saved("01-a")


def test_a_run_says_what_happens_as_it_happens(runner: Runner) -> None:
    runner.notebook(
        "01-a", "from onepiece import lab\nprint('hello')", "lab.record('error', float('inf'), seed=1)\nfor _ in lab.progress([1]): pass"
    )
    runner.notebook("02-b", "1 + 1")
    process = runner.start("01-a", "02-b")
    events = runner.end()
    assert process.returncode == 0
    kinds = [(event["event"], event.get("notebook"), event.get("cell")) for event in events]
    assert kinds == [
        ("notebook_start", "01-a", None), ("cell_start", "01-a", 1), ("cell_start", "01-a", 2), ("record", "01-a", None),
        ("progress", "01-a", None), ("notebook_end", "01-a", None), ("notebook_start", "02-b", None), ("cell_start", "02-b", 1),
        ("notebook_end", "02-b", None), ("end", None, None),
    ]  # fmt: skip
    assert events[0]["cells"] == 2
    assert (events[3]["value"], events[3]["seed"]) == ("inf", 1)
    assert (events[5]["status"], events[5]["error"]) == ("ok", None)
    assert events[5]["peak_bytes"] > 2**20
    assert events[-1]["versions"]["torch"]
    assert "hello" in runner.saved("01-a")


def test_each_notebook_has_a_kernel_of_its_own(runner: Runner) -> None:
    runner.notebook("01-a", "secret = 1")
    runner.notebook("02-b", "print('secret' in globals())")
    runner.start("01-a", "02-b")
    runner.end()
    assert "False" in runner.saved("02-b")


def test_a_failing_cell_is_reported_with_everything_and_ends_the_run(runner: Runner) -> None:
    runner.notebook("01-a", "print('before')", "1 / 0", "print('never')")
    runner.notebook("02-b", "1")
    process = runner.start("01-a", "02-b")
    events = runner.end()
    assert process.returncode == 1
    (ended,) = [event for event in events if event["event"] == "notebook_end"]
    assert ended["status"] == "failed"
    assert (ended["error"]["cell"], ended["error"]["source"], ended["error"]["name"]) == (2, "1 / 0", "ZeroDivisionError")
    assert "\x1b" not in ended["error"]["traceback"]
    assert "before" in runner.saved("01-a")
    assert events[-1]["event"] == "end"


def test_keep_going_runs_the_next_notebook(runner: Runner) -> None:
    runner.notebook("01-a", "1 / 0")
    runner.notebook("02-b", "1")
    process = runner.start("--keep-going", "01-a", "02-b")
    statuses = [event["status"] for event in runner.end() if event["event"] == "notebook_end"]
    assert process.returncode == 1
    assert statuses == ["failed", "ok"]


@pytest.mark.fault("killed-kernel")
def test_a_kernel_that_dies_is_reported_with_its_cell(runner: Runner) -> None:
    runner.notebook("01-a", "1", "import os\nos._exit(9)")
    process = runner.start("01-a")
    (ended,) = [event for event in runner.end() if event["event"] == "notebook_end"]
    assert process.returncode == 1
    assert (ended["status"], ended["error"]["name"], ended["error"]["cell"]) == ("failed", "DeadKernel", 2)
    assert "os._exit" in ended["error"]["source"]


@pytest.mark.fault("cell-writes-into-events")
def test_what_a_cell_prints_never_reaches_the_events(runner: Runner) -> None:
    runner.notebook("01-a", "import os\nos.system('echo not an event')\nos.write(1, b'nor this\\n')\nprint('nor that')")
    process = runner.start("01-a")
    assert all("event" in event for event in runner.end())
    assert process.returncode == 0


def stop_by_closing_standard_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


STOPS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "its standard input closes": stop_by_closing_standard_input,
    "SIGINT": lambda process: process.send_signal(signal.SIGINT),
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
}


@pytest.mark.fault("interrupted-run")
@pytest.mark.fault("own-stop")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that a process can take as a wish")
@pytest.mark.parametrize("stop", STOPS)
def test_it_stops_saves_and_leaves_no_kernel_and_no_child(runner: Runner, stop: str) -> None:
    runner.notebook("01-a", "print('before')", CHILD + "import time\ntime.sleep(600)")
    runner.notebook("02-b", "1")
    process = runner.start("01-a", "02-b")
    child = int(runner.wait_for("child"))
    kernels = runner.kernels()
    assert kernels
    STOPS[stop](process)
    events = runner.end()
    assert process.returncode == 130
    (ended,) = [event for event in events if event["event"] == "notebook_end"]
    assert (ended["status"], ended["error"]) == ("interrupted", None)
    assert "before" in runner.saved("01-a")
    assert all(gone(pid) for pid in [*kernels, child])


def test_a_process_that_a_cell_started_does_not_outlive_its_notebook(runner: Runner) -> None:
    runner.notebook("01-a", CHILD)
    process = runner.start("01-a")
    child = int(runner.wait_for("child"))
    runner.end()
    assert process.returncode == 0
    assert gone(child)


@pytest.mark.fault("killed-kernel")
def test_a_process_that_a_cell_started_does_not_outlive_a_kernel_that_died(runner: Runner) -> None:
    runner.notebook("01-a", CHILD, "import time\ntime.sleep(1)\nimport os\nos._exit(9)")
    process = runner.start("01-a")
    child = int(runner.wait_for("child"))
    runner.end()
    assert process.returncode == 1
    assert gone(child)


# A server as the labs start theirs, only smaller; what it is written to is what `servers.shared` reads.
SERVER = """
import sys
from pathlib import Path
from onepiece.serving import servers
port = servers.free_port()
command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
start = lambda: servers.start("small", command, {}, f"http://127.0.0.1:{port}", "/", {"http": port}, Path("."))
server = servers.shared(Path("server.json"), start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="servers are started on Linux")
def test_a_server_is_shared_by_the_notebooks_and_ends_with_the_run(runner: Runner) -> None:
    # The runner looks at the processes of a kernel every now and then: give it the time to see the server.
    runner.notebook("01-a", SERVER, "import time; time.sleep(1.5); Path('child').write_text(str(server.pid))")
    runner.notebook("02-b", SERVER, "assert server.pid == int(Path('child').read_text()); assert servers.answers(server.url)")
    process = runner.start("01-a", "02-b")
    events = runner.end()
    assert process.returncode == 0, events
    assert gone(int((runner.run / "child").read_text()))


def test_a_temporary_directory_with_a_long_name_is_no_obstacle(runner: Runner, tmp_path: Path) -> None:
    # A Unix socket has a path of at most about a hundred bytes.
    long = tmp_path / ("a-temporary-directory-as-a-cluster-names-it-" * 3)
    long.mkdir()
    runner.notebook("01-a", "1")
    process = runner.start("01-a", TMPDIR=str(long))
    events = runner.end()
    assert process.returncode == 0, events
    assert not list(long.iterdir()), "what a kernel needs for talking is gone with it"


def test_memory_of_what_a_kernel_starts_is_counted(runner: Runner) -> None:
    # 300 MiB in a process of the cell's own, held until the runner has had time to look.
    hold = "import time; held = b'x' * (300 * 2**20); time.sleep(2)"
    runner.notebook("01-a", f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r}], check=True)")
    runner.start("01-a")
    (ended,) = [event for event in runner.end() if event["event"] == "notebook_end"]
    assert ended["peak_bytes"] > 300 * 2**20
