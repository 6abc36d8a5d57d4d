"""`nox -s lab-X -- --backend container`, for real: a toy course on the group's image, real containers, real signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toy_course
from parts import linux_only, missing
from toy_course import GOOD, LAB, Checkout, Done

from onepiece.course import catalog
from onepiece.course.declarations import SERVERS
from onepiece.course.model_files import CHECKPOINTS

pytestmark = linux_only

ROOT = toy_course.ROOT
SCHEMA = json.loads((ROOT / "shared" / "onepiece" / "host" / "road" / "results.schema.json").read_text(encoding="utf-8"))
PATIENCE = 60.0  # until a test gives up; nothing waits that long when all is well
PROBES, ONLINE, EATS, RAISES, SLEEPS = "lab-9.2-probes", "lab-9.3-online", "lab-9.4-eats", "lab-9.5-raises", "lab-9.6-sleeps"

# What the notebook finds out about where it runs.
PROBE = """
import json
import os
import socket
import subprocess
from pathlib import Path


def refused(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__ + ": " + os.strerror(error.errno) if error.errno else str(error)
    return ""


def limit(*paths):
    return next((Path(path).read_text().strip() for path in paths if Path(path).exists()), None)


status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
found = {
    "lab": refused(lambda: Path("/course/labs/LAB_ID/new").touch()),
    "shared": refused(lambda: Path("/course/shared/new").touch()),
    "root": refused(lambda: Path("/new").touch()),
    "environment": refused(lambda: Path("/opt/onepiece/new").touch()),
    "temporary": refused(lambda: Path("/tmp/new").touch()),
    "run": refused(lambda: Path(os.environ["ONEPIECE_RUN"], "new").touch()),
    "earlier": refused(lambda: Path(os.environ["ONEPIECE_RUN"]).with_name("new").touch()),
    "course": sorted(os.listdir("/course")),
    "sockets": [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)],
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "connect": refused(lambda: socket.create_connection(("1.1.1.1", 53), timeout=5)),
    "own name": socket.gethostbyname(socket.gethostname()),
    "user": [os.getuid(), os.getgid()],
    "capabilities": status["CapEff"].strip(),
    "no new privileges": status["NoNewPrivs"].strip(),
    "first process": Path("/proc/1/cmdline").read_text().split("\\0")[0],
    "memory": limit("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"),
    "processes": limit("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"),
    "shared memory": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "environment variables": dict(os.environ),
}
script = Path("/tmp/script")
script.write_text("#!/bin/sh\\nexit 7\\n")
script.chmod(0o755)
found["executable"] = subprocess.run([script]).returncode
lab.artifact("found.json").write_text(json.dumps(found))
"""

SLEEP = """
import os
import subprocess
import sys
import time
from pathlib import Path

subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"])
print("before the long wait")
Path(os.environ["ONEPIECE_RUN"], "asleep").touch()
time.sleep(600)
"""

EAT = """
held = []
while True:
    held.append(bytearray(64 * 2**20))
"""


@dataclass(frozen=True, slots=True)
class Course:
    """The toy course and what its commands are told about images."""

    checkout: Checkout
    settings: Mapping[str, str]

    def run(self, lab_id: str, *arguments: str, home: Path | None = None, **environ: str) -> Done:
        checkout = self.checkout if home is None else Checkout(self.checkout.root, home)
        return checkout.host("run", lab_id, *arguments, **{**self.settings, **environ})

    def in_container(self, lab_id: str, *arguments: str, **more: Any) -> Done:
        return self.run(lab_id, "--backend", "container", *arguments, **more)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def containers(home: Path, *more: str) -> list[str]:
    """The containers of this home, running or not."""
    listed = docker("ps", "--all", "--filter", f"label=org.onepiece.home={home}", "--format", "{{.Names}}", *more)
    return listed.splitlines()


def write_dockerfile(root: Path, lab_id: str) -> None:
    (root / "images" / lab_id).mkdir(exist_ok=True)
    (root / "images" / lab_id / "Dockerfile").write_text("ARG GROUP_IMAGE=onepiece/train\nFROM ${GROUP_IMAGE}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def course(stand_ins: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    probe = GOOD + PROBE.replace("LAB_ID", PROBES)
    toy_course.write_quick_lab(made.root, PROBES, first=probe, second='assert lab.artifact("found.json").read_text()')
    online = toy_course.write_quick_lab(made.root, ONLINE, first=probe) / "lab.toml"
    online.write_text(online.read_text(encoding="utf-8").replace('image = "train"', 'image = "train"\nnetwork = true'), encoding="utf-8")
    toy_course.write_quick_lab(made.root, EATS, first=GOOD, second=EAT)
    toy_course.write_quick_lab(made.root, RAISES, first='values = [1, 2]\nprint("looking")\nvalues[7]', second=GOOD)
    toy_course.write_quick_lab(made.root, SLEEPS, first=f'lab.artifact("made.txt").write_text("kept")\n{GOOD}', second=SLEEP)
    labs = (LAB, PROBES, ONLINE, EATS, RAISES, SLEEPS)
    for lab_id in labs:
        write_dockerfile(made.root, lab_id)
    settings = {name: os.environ[name] for name in ("ONEPIECE_REGISTRY", "ONEPIECE_BASE_IMAGES", "DOCKER_HOST") if name in os.environ}
    found = Course(made, settings)
    built = made.host("images", "--cpu", *labs, **settings)
    assert built.code == 0, built.output
    yield found
    for name in containers(made.home):  # a failing test must not leave what it complains about
        docker("rm", "--force", name)


@pytest.fixture
def home(course: Course) -> Iterator[Path]:
    """A home of its own for a test, by which its containers are known; whoever a test runs as can reach it."""
    made = Path(tempfile.mkdtemp(prefix="onepiece-home-", dir="/var/tmp"))
    toy_course.link_environments(made)
    yield made
    left = containers(made)
    for name in left:
        docker("rm", "--force", name)
    shutil.rmtree(made)


def results_of(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(results)
    return results


def only_run(home: Path, lab_id: str) -> Path:
    (run,) = (home / "runs" / lab_id).iterdir()
    return run


def newest_run(home: Path, lab_id: str) -> Path:
    return max((home / "runs" / lab_id).iterdir(), key=lambda path: path.stat().st_mtime_ns)


# --- a run that passes ------------------------------------------------------------------------------------


def test_a_lab_runs_in_a_container_as_it_does_locally(course: Course, home: Path) -> None:
    done = course.in_container(LAB, home=home)
    assert done.code == 0, done.output
    assert "Running in a container on cpu, profile cpu" in done.words
    assert "you asked for a container" in done.words
    assert re.search(r"Image \S+/lab-9\.1-toy:[0-9a-f]{16}-cpu, which is here", done.words)
    assert re.search(r"✓ 01-count\s+[\d.]+ s", done.output)
    assert "2 of 2 gates held" in done.words
    assert containers(home) == []
    inside = results_of(only_run(home, LAB))
    assert course.run(LAB, "--backend", "local", home=home).code == 0
    outside = results_of(newest_run(home, LAB))
    for same in ("status", "complete", "gates", "records", "settings", "profile", "device", "environment", "sources_sha256"):
        assert inside[same] == outside[same], same
    assert (inside["backend"], outside["backend"]) == ("container", "local")
    assert outside["image"] is None
    assert inside["image"]["id"] == docker("image", "inspect", "--format", "{{.Id}}", inside["image"]["reference"])
    assert inside["image"]["digest"] is None, "it was built here, and no registry has it"
    assert (only_run_named(home, inside) / "report.html").exists()
    assert not list(home.glob(f"runs/{LAB}/*/container.lock"))


def only_run_named(home: Path, results: dict[str, Any]) -> Path:
    return next(path for path in (home / "runs" / LAB).iterdir() if results_of(path)["started"] == results["started"])


def test_where_a_registry_is_known_and_the_image_is_here_nobody_has_to_ask(course: Course, home: Path) -> None:
    done = course.run(PROBES, home=home)
    assert done.code == 0, done.output
    assert "Running in a container" in done.words
    assert "its image needs no build" in done.words


def test_without_a_registry_it_runs_locally_and_says_in_one_line_why(course: Course, home: Path) -> None:
    done = course.run(EATS, "--notebook", "1", home=home, ONEPIECE_REGISTRY="")
    line = done.output.splitlines()[0]
    assert line.startswith("Running locally on cpu")
    assert "its image is not published, --backend container builds it" in line


def test_without_an_engine_it_runs_locally_and_a_container_that_was_asked_for_is_one_clear_error(course: Course, home: Path) -> None:
    elsewhere = "unix:///nowhere/docker.sock"
    done = course.run(EATS, "--notebook", "1", home=home, DOCKER_HOST=elsewhere)
    assert done.output.splitlines()[0].startswith("Running locally on cpu")
    assert "no container:" in done.output.splitlines()[0]
    asked = course.in_container(EATS, home=home, DOCKER_HOST=elsewhere)
    assert asked.code == 2
    assert "Leave out --backend container" in asked.words
    assert "Traceback" not in asked.output


def test_a_lab_without_an_image_says_so(course: Course, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "course"
    other.mkdir()
    toy_course.write_course(other)
    shutil.rmtree(other / "images" / LAB)
    done = Checkout(other, home).host("run", LAB, "--backend", "container", **course.settings)
    assert done.code == 2
    assert f"images/{LAB}/Dockerfile" in done.words
    assert not (home / "runs").exists()


# --- what it may ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(course: Course) -> dict[str, Any]:
    """What a notebook found out about its container, and how its run looks from here."""
    done = course.in_container(PROBES, ONEPIECE_SECRET="of the host", HF_TOKEN="of the host", OMP_NUM_THREADS="1")
    assert done.code == 0, done.output
    run = newest_run(course.checkout.home, PROBES)
    return json.loads((run / "artifacts" / "found.json").read_text(encoding="utf-8")) | {"run directory": run}


@pytest.mark.parametrize("where", ["lab", "shared", "root", "environment"])
def test_what_is_not_the_run_cannot_be_written(found: dict[str, Any], where: str) -> None:
    assert found[where] == "OSError: Read-only file system"


def test_the_run_directory_and_temporary_files_can_be_written(found: dict[str, Any]) -> None:
    assert (found["run"], found["temporary"], found["executable"]) == ("", "", 7)
    assert (found["run directory"] / "new").exists()


def test_nothing_else_of_this_machine_is_there(found: dict[str, Any]) -> None:
    assert found["course"] == ["images", "labs", "runs", "shared"]
    assert found["sockets"] == []
    variables = found["environment variables"]
    assert "of the host" not in variables.values()
    assert variables["OMP_NUM_THREADS"] == "1"
    assert str(toy_course.ROOT) not in " ".join(variables.values())


def test_a_lab_that_needs_no_network_has_none(found: dict[str, Any]) -> None:
    assert found["interfaces"] == ["lo"]
    assert "Network is unreachable" in found["connect"]
    assert found["own name"] == "127.0.0.1", "torch.distributed looks its own name up"


def test_a_lab_that_says_that_it_needs_a_network_has_one_and_the_model_cache(course: Course, home: Path, tmp_path: Path) -> None:
    done = course.in_container(ONLINE, home=home, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.code == 0, done.output
    found = json.loads((only_run(home, ONLINE) / "artifacts" / "found.json").read_text(encoding="utf-8"))
    assert len(found["interfaces"]) > 1
    assert found["course"] == ["cache", "images", "labs", "runs", "shared"]
    assert found["environment variables"]["HF_HUB_CACHE"] == "/course/cache"
    assert (tmp_path / "hub").is_dir()


def test_limits_are_those_of_the_manifest(found: dict[str, Any]) -> None:
    assert int(found["memory"]) == int(1.75 * 2**30)  # memory_gb = 1, with its margin
    assert found["processes"] == "4096"
    assert found["shared memory"] == int(1.75 * 2**30) // 2


def test_it_has_no_privileges_and_a_first_process_that_reaps(found: dict[str, Any]) -> None:
    assert int(found["capabilities"], 16) == 0
    assert found["no new privileges"] == "1"
    assert found["first process"].endswith("docker-init")


def test_what_it_writes_belongs_to_the_caller(found: dict[str, Any]) -> None:
    assert found["user"] == [os.getuid(), os.getgid()]
    for path in found["run directory"].rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid()), path


def as_somebody(course: Course, home: Path, group: int, *arguments: str) -> Done:
    """The command as another user than root, who may read what root may, for pytest's directories and Python may be root's own."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        missing("docker", "only root, with setpriv, can become another user")
    os.chown(home, 1234, group)
    reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    done = subprocess.run(
        ["setpriv", "--reuid", "1234", "--regid", str(group), "--clear-groups", *reads, *course.checkout.host_command("run", *arguments)],
        cwd="/",
        env=course.checkout.host_environ | course.settings | {"ONEPIECE_HOME": str(home), "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout)


def test_another_user_than_root_owns_what_its_container_wrote(course: Course, home: Path) -> None:
    group = Path("/var/run/docker.sock").stat().st_gid
    done = as_somebody(course, home, group, PROBES, "--backend", "container")
    assert done.code == 0, done.output
    run = only_run(home, PROBES)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in run.rglob("*")} == {(1234, group)}
    assert json.loads((run / "artifacts" / "found.json").read_text(encoding="utf-8"))["user"] == [1234, group]


def test_whom_the_engine_does_not_let_in_hears_how_to_be_let_in(course: Course, home: Path) -> None:
    done = as_somebody(course, home, 1234, PROBES, "--backend", "container")
    assert done.code == 2
    assert "does not let you in" in done.words
    assert "usermod -aG docker" in done.words
    assert "Traceback" not in done.output


# --- options ----------------------------------------------------------------------------------------------


def test_a_single_notebook_reads_earlier_runs_and_cannot_change_them(course: Course, home: Path) -> None:
    assert course.in_container(PROBES, home=home).code == 0
    before = newest_run(home, PROBES)
    assert json.loads((before / "artifacts" / "found.json").read_text(encoding="utf-8"))["earlier"] == "OSError: Read-only file system"
    done = course.in_container(PROBES, "--notebook", "2", home=home)
    assert done.code == 0, done.output
    again = course.in_container(PROBES, "--notebook", "1", home=home)
    assert again.code == 0, again.output
    found = json.loads((newest_run(home, PROBES) / "artifacts" / "found.json").read_text(encoding="utf-8"))
    assert found["earlier"] == "OSError: Read-only file system"


def test_the_learners_modules_are_run(course: Course, home: Path) -> None:
    assert Checkout(course.checkout.root, home).host("start", LAB).code == 0
    still_open = course.in_container(LAB, "--mine", home=home)
    assert still_open.code == 0, still_open.output
    assert "reference: 1-2" in still_open.words
    count = home / "workspace" / LAB / "counting.py"
    count.write_text(count.read_text(encoding="utf-8").replace("raise NotImplementedError", "return -1  # raise", 1), encoding="utf-8")
    wrong = course.in_container(LAB, "--mine", home=home)
    assert wrong.code == 1, wrong.output
    assert "yours: 1" in wrong.words


def test_a_model_of_ones_own_is_read_in_the_container(course: Course, home: Path, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "tiny-draft", tmp_path, dirs_exist_ok=True)
    done = course.in_container(PROBES, "--model", str(tmp_path), home=home)
    assert done.code == 0, done.output
    run = only_run(home, PROBES)
    assert "model" in json.loads((run / "artifacts" / "found.json").read_text(encoding="utf-8"))["course"]
    assert json.loads((run / "context.json").read_text(encoding="utf-8"))["model"] == "/course/model"
    assert results_of(run)["model"] == tmp_path.name


def test_a_failing_cell_is_a_failure_and_keep_going_goes_on(course: Course, home: Path) -> None:
    done = course.in_container(RAISES, "--keep-going", home=home)
    assert done.code == 1
    assert "IndexError: list index out of range" in done.words
    results = results_of(only_run(home, RAISES))
    assert [notebook["status"] for notebook in results["notebooks"]] == ["failed", "ok"]
    assert "looking" in (only_run(home, RAISES) / "notebooks" / "01-first.ipynb").read_text(encoding="utf-8")
    assert containers(home) == []


# --- memory -----------------------------------------------------------------------------------------------


@pytest.mark.fault("container-out-of-memory")
def test_a_notebook_that_takes_too_much_memory_hears_so_and_what_to_type(course: Course, home: Path) -> None:
    done = course.in_container(EATS, home=home)
    assert done.code == 1
    assert "Out of memory: the container may use 1.8 GB (lab.toml says memory_gb = 1)" in done.words
    assert f"nox -s {EATS} -- --backend local" in done.words
    first, second = results_of(only_run(home, EATS))["notebooks"]
    assert first["status"] == "ok", "what finished is kept"
    assert (second["status"], second["error"]["name"]) == ("failed", "OutOfMemory")
    assert containers(home) == []


# --- interrupts -------------------------------------------------------------------------------------------


class Started:
    """A run that sleeps in a cell of its second notebook, in a session of its own as a terminal gives it one."""

    def __init__(self, course: Course, home: Path, *, nox: bool = False) -> None:
        self.home = home
        checkout = Checkout(course.checkout.root, home)
        command = checkout.nox_command("-s", SLEEPS, "--") if nox else checkout.host_command("run", SLEEPS)
        environ = (checkout.environ if nox else checkout.host_environ) | course.settings
        self.process = subprocess.Popen(
            [*command, "--backend", "container"],
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

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        wait_for(lambda: condition() or self.process.poll() is not None, what)
        assert self.process.poll() is None, f"ended before {what}: {self.process.communicate()[0]}"

    def asleep(self) -> Path:
        self.wait_for(lambda: list(self.home.glob(f"runs/{SLEEPS}/*/asleep")), "a cell to run")
        assert len(containers(self.home)) == 1
        return only_run(self.home, SLEEPS)

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert not toy_course.left_of(self.home)
        return self.process.returncode, output


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.mark.fault("interrupted-run")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "a closed terminal"])
def test_an_interrupt_leaves_no_container_and_keeps_what_finished(course: Course, home: Path, how: signal.Signals) -> None:
    started = Started(course, home)
    run = started.asleep()
    started.process.send_signal(how)
    code, output = started.end()
    assert code == 130
    assert containers(home) == []
    assert "INCOMPLETE" in output
    assert "Traceback" not in output
    results = results_of(run)
    assert [(notebook["name"], notebook["status"]) for notebook in results["notebooks"]] == [
        ("01-first", "ok"),
        ("02-second", "interrupted"),
    ]
    assert (run / "artifacts" / "made.txt").read_text() == "kept"
    assert "before the long wait" in (run / "notebooks" / "02-second.ipynb").read_text(encoding="utf-8")
    assert (run / "report.html").exists()


def test_ctrl_c_typed_at_nox_ends_the_container_within_its_patience(course: Course, home: Path) -> None:
    started = Started(course, home, nox=True)
    run = started.asleep()
    os.killpg(started.process.pid, signal.SIGINT)
    code, output = started.end()
    assert code == 130, output
    assert containers(home) == []
    assert results_of(run)["notebooks"][1]["status"] == "interrupted"


@pytest.mark.parametrize("delay", [0.2, 0.5, 0.8, 1.1])
def test_an_interrupt_at_a_moment_that_nobody_chose_leaves_no_container(course: Course, home: Path, delay: float) -> None:
    started = Started(course, home)
    time.sleep(delay)
    started.process.send_signal(signal.SIGTERM)
    started.end()
    assert containers(home) == []
    for run in home.glob(f"runs/{SLEEPS}/*"):
        assert results_of(run)["status"] == "incomplete"


@pytest.mark.fault("killed-host")
def test_a_killed_host_leaves_nothing_that_runs_and_the_next_run_removes_what_is_left(course: Course, home: Path) -> None:
    started = Started(course, home)
    run = started.asleep()
    (name,) = containers(home)
    started.process.kill()
    started.process.communicate(timeout=PATIENCE)
    wait_for(lambda: not containers(home, "--filter", "status=running"), "the container to end by itself")
    assert containers(home) == [name], "it is still there, findable by its labels"
    results = results_of(run)
    assert [(notebook["name"], notebook["status"]) for notebook in results["notebooks"]] == [("01-first", "ok")]
    assert course.in_container(PROBES, home=home).code == 0
    assert containers(home) == []


def test_a_container_that_somebody_else_removes_is_said(course: Course, home: Path) -> None:
    started = Started(course, home)
    started.asleep()
    (name,) = containers(home)
    docker("rm", "--force", name)
    code, output = started.end()
    assert code == 2
    assert "Traceback" not in output
    assert results_of(only_run(home, SLEEPS))["notebooks"][0]["status"] == "ok"


# --- nox -s jupyter ----------------------------------------------------------------------------------------


class Jupyter:
    """JupyterLab in a container, and what one can ask it over HTTP."""

    def __init__(self, course: Course, home: Path) -> None:
        checkout = Checkout(course.checkout.root, home)
        self.process = subprocess.Popen(
            checkout.host_command("jupyter", LAB, "--backend", "container", "--no-browser", "--port", "18888"),
            cwd=checkout.root,
            env=checkout.host_environ | course.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=toy_course.hear_signals,
        )
        assert self.process.stdout is not None
        line = next(line for line in self.process.stdout if line.startswith("JupyterLab: "))
        self.address, self.token = re.findall(r"(http://127\.0\.0\.1:\d+)/lab\?token=([0-9a-f]{48})", line)[0]

    def ask(self, path: str, method: str = "GET", body: object = None, token: str | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token if token is None else token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None


def test_jupyterlab_in_a_container_is_on_loopback_with_a_token_and_saves_what_belongs_to_the_caller(course: Course, home: Path) -> None:
    jupyter = Jupyter(course, home)
    try:
        (name,) = containers(home)
        ports = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", name))
        assert {binding["HostIp"] for bindings in ports.values() for binding in bindings} == {"127.0.0.1"}
        assert jupyter.ask("/api/contents", token="wrong")[0] == 403
        status, listed = jupyter.ask("/api/contents")
        assert status == 200
        assert {"01-count.ipynb", "counting.py", "predictions.toml"} <= {entry["name"] for entry in listed["content"]}
        saved = jupyter.ask("/api/contents/mine.txt", "PUT", {"type": "file", "format": "text", "content": "kept"})
        assert saved[0] == 201
        assert jupyter.ask("/api/kernels", "POST", {"name": "python3"})[0] == 201
    finally:
        jupyter.process.send_signal(signal.SIGINT)
        code = jupyter.process.wait(timeout=PATIENCE)
    assert code == 130
    assert containers(home) == []
    mine = home / "workspace" / LAB / "mine.txt"
    assert mine.read_text() == "kept"
    assert (mine.stat().st_uid, mine.stat().st_gid) == (os.getuid(), os.getgid())


def test_jupyterlab_in_a_container_ends_with_a_host_that_is_killed(course: Course, home: Path) -> None:
    jupyter = Jupyter(course, home)
    jupyter.process.kill()
    jupyter.process.communicate(timeout=PATIENCE)
    wait_for(lambda: not containers(home, "--filter", "status=running"), "JupyterLab to end")


# --- nox -s grade -----------------------------------------------------------------------------------------

HANDED_IN = """
import json
import os
import socket
from pathlib import Path


def refused(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return ""


def count(steps):
    here = Path(__file__)
    with open("/proc/self/status") as status:
        capabilities = dict(line.split(":", 1) for line in status)["CapEff"].strip()
    pids = next(path for path in (Path("/sys/fs/cgroup/pids/pids.max"), Path("/sys/fs/cgroup/pids.max")) if path.exists())
    raise ValueError("FOUND" + json.dumps({
        "beside": sorted(path.name for path in here.parent.iterdir()),
        "code": refused(lambda: (here.parent / "checks.py").write_text("")),
        "shared": refused(lambda: Path("/course/shared/new").write_text("")),
        "connect": refused(lambda: socket.create_connection(("1.1.1.1", 53), timeout=5)),
        "course": sorted(path.name for path in Path("/course").iterdir()),
        "labs": Path("/course/labs").exists(),
        "pids": pids.read_text().strip(),
        "capabilities": int(capabilities, 16),
        "secret": "of the host" in os.environ.values(),
    }))


def double(steps):
    os.kill(os.getppid(), 9)
"""


def test_what_is_handed_in_is_graded_in_a_container_that_keeps_it_from_everything(course: Course, tmp_path: Path) -> None:
    home = course.checkout.home
    (tmp_path / "counting.py").write_text(HANDED_IN, encoding="utf-8")
    arguments = ("grade", LAB, "--submission", str(tmp_path), "--json")
    done = course.checkout.host(*arguments, **{**course.settings, "ONEPIECE_SECRET": "of the host"})
    assert done.code == 1, done.output
    made = json.loads(done.output.splitlines()[-1])
    assert (made["backend"], made["isolated"], made["score"]) == ("container", True, 0), "its image is here: nobody has to ask"
    assert made["image"]["id"] == docker("image", "inspect", "--format", "{{.Id}}", made["image"]["reference"])
    first, second = made["exercises"]
    assert first["status"] == "error"
    found = json.loads(first["error"].partition("FOUND")[2])
    assert found == {
        "beside": ["checks.py", "counting.py", "lab.toml"],
        "code": "OSError",
        "shared": "OSError",
        "connect": "OSError",
        "course": ["images", "runs", "shared"],
        "labs": False,
        "pids": "512",
        "capabilities": 0,
        "secret": False,
    }
    assert (second["status"], second["points"]) == ("blocked", 0)
    assert containers(home) == []
    assert not list((home / "runs" / "grading").iterdir())


# --- nox -s clean -----------------------------------------------------------------------------------------


def test_clean_removes_what_a_killed_host_left_and_nothing_else(course: Course, home: Path) -> None:
    killed, working = Started(course, home), None
    killed.asleep()
    (left,) = containers(home)
    killed.process.kill()
    killed.process.communicate(timeout=PATIENCE)
    image = docker("inspect", "--format", "{{.Image}}", left)
    foreign = [
        docker("create", "--label", "org.onepiece.home=/somebody/else", image),
        docker("create", "--label", "org.onepiece.lab=lab-9.1-toy", image),
    ]
    try:
        shutil.rmtree(home / "runs" / SLEEPS)
        working = Started(course, home)
        wait_for(lambda: list(home.glob(f"runs/{SLEEPS}/*/asleep")), "a cell to run")  # it removes what is left before it starts
        assert left not in containers(home)
        at_work = containers(home)
        done = Checkout(course.checkout.root, home).host("clean")
        assert done.code == 0
        assert "0 containers removed" in done.words
        assert f"1 containers at work, left alone {at_work[0]}" in done.words
        working.process.kill()
        working.process.communicate(timeout=PATIENCE)
        wait_for(lambda: not containers(home, "--filter", "status=running"), "the container to end by itself")
        done = Checkout(course.checkout.root, home).host("clean")
        assert f"1 containers removed {at_work[0]}" in done.words
        assert containers(home) == []
        for container in foreign:
            assert docker("inspect", "--format", "{{.Id}}", container)
    finally:
        docker("rm", "--force", *foreign)


def test_clean_without_an_engine_is_one_clear_error(course: Course) -> None:
    done = course.checkout.host("clean", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.code == 2
    assert "no Docker engine" in done.words
    assert "nox -s doctor" in done.words


def test_doctor_says_what_the_engine_is(course: Course) -> None:
    done = course.checkout.host("doctor", **course.settings)
    for row in ("Docker", "Docker Buildx", "Docker Compose", "GPU in containers", "registry of images"):
        assert re.search(rf"│ {row}\s+│", done.output), row
    assert "linux/x86_64" in done.output
    assert re.search(rf"{LAB}\s+│ container, cpu, profile cpu", done.output)


# --- a real lab -------------------------------------------------------------------------------------------

CHOSEN = os.environ.get("ONEPIECE_LABS") or "lab-1.5-flashattention"


def chosen(server: str | None) -> list[str]:
    """Of the labs that are run whole, the first whose image stands on this server's, or on the group's: each kind of image once."""
    by_id = {lab.id: lab for lab in catalog.load().labs}
    asked = list(by_id) if CHOSEN == "all" else CHOSEN.split(",")
    return [lab_id for lab_id in asked if lab_id in by_id and by_id[lab_id].server == server][:1]


@pytest.mark.slow_lab
@pytest.mark.parametrize("lab_id", chosen(None))
def test_a_real_lab_measures_the_same_in_its_image(
    lab_id: str, course: Course, home: Path, run_small: Callable[[str], tuple[Done, Checkout]]
) -> None:
    done, small = run_small(lab_id)
    assert done.code == 0, done.output
    real = Course(Checkout(ROOT, home), course.settings)
    done = real.in_container(lab_id)
    assert done.code == 0, done.output
    local, inside = results_of(only_run(small.home, lab_id)), results_of(only_run(home, lab_id))
    assert (local["backend"], inside["backend"]) == ("local", "container")
    assert [gate["passed"] for gate in inside["gates"]] == [gate["passed"] for gate in local["gates"]]
    assert [key(record) for record in inside["records"]] == [key(record) for record in local["records"]]
    exact = {gate["metric"] for gate in local["gates"] if gate["bound"].startswith(("==", "is"))}
    assert exact
    for mine, theirs in zip(inside["records"], local["records"], strict=True):
        if mine["metric"] in exact:
            assert mine["value"] == theirs["value"], mine
    # The local environment is shared: it may have another lab's extras. Python is the image's own.
    for package in set(inside["versions"]) & set(local["versions"]) - {"python"}:
        assert inside["versions"][package] == local["versions"][package]
    assert {"torch", "transformers"} <= set(inside["versions"])


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["metric"], record["seed"], record["variant"], record["notebook"]


@pytest.mark.slow_lab
@pytest.mark.parametrize("lab_id", [lab_id for server in SERVERS for lab_id in chosen(server)])
def test_a_lab_that_starts_a_server_passes_in_its_image_without_a_network(lab_id: str, course: Course, home: Path) -> None:
    done = Course(Checkout(ROOT, home), course.settings).in_container(lab_id)
    assert done.code == 0, done.output
    results = results_of(only_run(home, lab_id))
    assert (results["status"], results["backend"], results["server"]) == ("passed", "container", None), "the server is the image's"
