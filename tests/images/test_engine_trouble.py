"""An engine that is killed, stopped, or asked for what it cannot do. These tests start an engine of their own, so that nobody else's suffers."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
from parts import linux_only, missing
from toy_course import LAB, Checkout, Done

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.containers import container, engine, sandbox
from onepiece.host.road import preflight, runs, sources
from onepiece.host.road.plan import Plan

pytestmark = linux_only

PATIENCE = 90.0
TOOLS = ("sh", "cat", "sleep", "tail", "touch")  # what the stand-in for a runner is made of

# In place of Python with torch: one notebook passes, in the next one a cell runs until standard input closes.
RUNNER = """#!/bin/sh
say() { printf '%s\\n' "$1"; }
say '{"event": "notebook_start", "notebook": "01-count", "cells": 1}'
say '{"event": "record", "notebook": "01-count", "metric": "error", "value": 0.0, "seed": null, "variant": null}'
say '{"event": "record", "notebook": "01-count", "metric": "error", "value": 1.0, "seed": null, "variant": "off_by_one"}'
say '{"event": "notebook_end", "notebook": "01-count", "status": "ok", "seconds": 1.0, "peak_bytes": 1, "error": null}'
say '{"event": "notebook_start", "notebook": "02-use", "cells": 1}'
touch asleep
case "$OMP_NUM_THREADS" in
    7) exec tail /dev/zero ;;
    8) echo "no module named onepiece" >&2; exit 3 ;;
esac
cat >/dev/null
say '{"event": "notebook_end", "notebook": "02-use", "status": "interrupted", "seconds": 1.0, "peak_bytes": 1, "error": null}'
exit 130
"""
EATS_MEMORY, CRASHES = "7", "8"  # as OMP_NUM_THREADS, one of the few variables that reach a container


class PrivateEngine:
    """A Docker engine below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = f"unix://{directory}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") or ""
        where = [f"--data-root={self.directory}/data", f"--exec-root={self.directory}/run", f"--pidfile={self.directory}/pid"]
        (self.directory / "pid").unlink(missing_ok=True)
        # A network of its own: an engine without a bridge removes docker0, which is the other engine's.
        alone = ["unshare", "--net", program, "--bridge=none", "--iptables=false", "--ip6tables=false"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*alone, *where, f"--host={self.host}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: self.docker("info", check=False).returncode == 0, "an engine of our own", self.last_words)

    def last_words(self) -> str:
        return "".join((self.directory / "log").read_text(encoding="utf-8").splitlines(keepends=True)[-5:])

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(timeout=PATIENCE)

    def docker(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[Any]:
        done = subprocess.run(["docker", "--host", self.host, *arguments], capture_output=True, timeout=PATIENCE, **options)
        assert not check or done.returncode == 0, done.stderr
        return done

    def listed(self, *arguments: str) -> list[str]:
        return self.docker(*arguments, text=True).stdout.split()


def wait_for(condition: Callable[[], object], what: str, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what} {why()}"
        time.sleep(0.05)


def runner_image() -> bytes:
    """A root file system with a shell, a few tools, the libraries that they need, and a stand-in for the image's Python."""
    files = {Path(shutil.which(tool) or "") for tool in TOOLS}
    for program in tuple(files):
        found = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
        files |= {Path(path) for path in re.findall(r"(/\S+) \(0x", found)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(files):
            data = path.read_bytes()
            _add(archive, str(path), data)
            if path.name in TOOLS and path.parent != Path("/bin"):
                _add(archive, f"/bin/{path.name}", data)
        _add(archive, "/opt/onepiece/bin/python", RUNNER.encode())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.size, entry.mode = len(data), 0o755
    archive.addfile(entry, io.BytesIO(data))


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateEngine]:
    if "docker" not in os.environ.get("ONEPIECE_REQUIRE", "").split(","):
        pytest.skip("starts and kills an engine of its own: only where ONEPIECE_REQUIRE names docker")
    if os.geteuid() != 0:
        missing("docker", "only root can start an engine")
    if shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") is None or shutil.which("docker") is None:
        missing("docker", "no Docker engine is installed")
    made = PrivateEngine(Path(tempfile.mkdtemp(prefix="onepiece-engine-", dir="/var/tmp")))
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.end(signal.SIGTERM)
        for mounted in (*made.directory.glob("run/netns/*"), made.directory / "data"):  # what a killed engine leaves mounted
            subprocess.run(["umount", "--lazy", mounted], capture_output=True)
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def image(private: PrivateEngine, checkout: Checkout) -> str:
    """The toy lab's image, as far as anybody can tell by its name."""
    said = checkout.host("images", "--print", "--cpu", LAB)
    (target,) = [made for name, made in json.loads(said.output)["target"].items() if name.startswith("lab-")]
    (reference,) = target["tags"]
    labels = [option for key, value in target["labels"].items() for option in ("--change", f'LABEL {key}="{value}"')]
    private.docker("import", *labels, "-", reference, input=runner_image())
    return str(reference)


@pytest.fixture
def home(checkout: Checkout, private: PrivateEngine, image: str) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="onepiece-home-", dir="/var/tmp"))
    toy_course.link_environments(made)
    yield made
    if private.process is not None and private.process.poll() is not None:
        private.start()
    for left in private.listed("ps", "--all", "--quiet", "--filter", f"label=org.onepiece.home={made}"):
        private.docker("rm", "--force", left, check=False)
    shutil.rmtree(made)


def host(checkout: Checkout, home: Path, private: PrivateEngine, *arguments: str, **environ: str) -> Done:
    return Checkout(checkout.root, home).host(*arguments, DOCKER_HOST=private.host, **environ)


def asleep(checkout: Checkout, home: Path, private: PrivateEngine) -> subprocess.Popen[str]:
    """A run whose second notebook waits."""
    mine = Checkout(checkout.root, home)
    process = subprocess.Popen(
        mine.host_command("run", LAB, "--backend", "container"),
        cwd=mine.root,
        env=mine.host_environ | {"DOCKER_HOST": private.host},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=toy_course.hear_signals,
    )
    wait_for(lambda: list(home.glob(f"runs/{LAB}/*/asleep")) or process.poll() is not None, "a cell to run")
    assert process.poll() is None, process.communicate()[0]
    return process


def ours(private: PrivateEngine, home: Path) -> list[str]:
    return private.listed("ps", "--all", "--quiet", "--filter", f"label=org.onepiece.home={home}")


# --- an engine that ends ----------------------------------------------------------------------------------


@pytest.mark.fault("killed-engine")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_engine_that_ends_during_a_run_is_said_and_what_finished_is_kept(
    checkout: Checkout, home: Path, private: PrivateEngine, how: signal.Signals
) -> None:
    process = asleep(checkout, home, private)
    private.end(how)
    began = time.monotonic()
    output, _ = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 15
    assert process.returncode == 2, output
    words = " ".join(output.split())
    assert "The Docker engine does not answer" in words or "Something stopped the container from outside" in words
    assert "Traceback" not in output
    (run,) = home.glob(f"runs/{LAB}/*")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert (results["status"], results["notebooks"][0]["status"]) == ("incomplete", "ok")
    private.start()
    done = host(checkout, home, private, "clean")
    assert done.code == 0, done.output
    assert ours(private, home) == []
    assert "1 containers removed" in done.words or "0 containers removed" in done.words


@pytest.mark.fault("killed-engine")
def test_ctrl_c_where_the_engine_hangs_ends_all_the_same(checkout: Checkout, home: Path, private: PrivateEngine) -> None:
    process = asleep(checkout, home, private)
    assert private.process is not None
    os.kill(private.process.pid, signal.SIGSTOP)
    try:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        os.kill(private.process.pid, signal.SIGCONT)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    wait_for(lambda: not private.listed("ps", "--quiet"), "the container to end")
    host(checkout, home, private, "clean")
    assert ours(private, home) == []


# --- a runner that ends -----------------------------------------------------------------------------------


@pytest.mark.fault("container-out-of-memory")
def test_a_runner_that_takes_too_much_memory_is_said_as_such(checkout: Checkout, home: Path, private: PrivateEngine) -> None:
    done = host(checkout, home, private, "run", LAB, "--backend", "container", OMP_NUM_THREADS=EATS_MEMORY)
    assert done.code == 2
    assert "Out of memory: the container may use 1.8 GB (lab.toml says memory_gb = 1)" in done.words
    assert f"nox -s {LAB} -- --backend local" in done.words
    assert ours(private, home) == []


@pytest.mark.fault("container-out-of-memory")
def test_a_runner_that_crashes_says_why(checkout: Checkout, home: Path, private: PrivateEngine) -> None:
    done = host(checkout, home, private, "run", LAB, "--backend", "container", OMP_NUM_THREADS=CRASHES)
    assert done.code == 2
    assert "ended by itself: no module named onepiece" in done.words
    assert f"nox -s images -- {LAB}" in done.words
    assert ours(private, home) == []


@pytest.mark.fault("container-out-of-memory")
def test_a_container_that_somebody_stops_is_said(checkout: Checkout, home: Path, private: PrivateEngine) -> None:
    process = asleep(checkout, home, private)
    private.docker("kill", *ours(private, home))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "Something stopped the container from outside" in output
    assert ours(private, home) == []


# --- what an engine refuses -------------------------------------------------------------------------------


@pytest.fixture
def prepared(checkout: Checkout, home: Path, private: PrivateEngine, image: str, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    """A run of the toy lab that can be started in this process."""
    for name, value in {"LABS": checkout.root / "labs", "SHARED": checkout.root / "shared", "RUNS": home / "runs", "HOME": home}.items():
        monkeypatch.setattr(sandbox, name, value)
    lab = catalog.load(checkout.root / "labs").lab(LAB)
    directory = home / "runs" / LAB / "now"
    directory.mkdir(parents=True)
    plan = Plan("container", "cpu", "cpu", "cpu", (), (), Text("a", "b"), Text("a", "b"), image, "here")
    made = runs.Run(lab, plan, runs.Options("en", lab.notebooks), directory, sources.usage(lab), datetime.datetime.now(datetime.UTC), {})
    made.image = engine.identify(engine_of(private), image)
    return made


def engine_of(private: PrivateEngine) -> preflight.Engine:
    return preflight.Engine("", "", host=private.host)


def refusal(run: runs.Run, of: preflight.Engine) -> UserError:
    with pytest.raises(UserError) as told:
        container.execute(run, of, lambda _: None)
    return told.value


@pytest.mark.parametrize("form", ["runtime", "cdi"])
def test_a_gpu_that_the_engine_cannot_give_is_said_and_no_created_container_stays(
    prepared: runs.Run, private: PrivateEngine, form: str
) -> None:
    prepared.plan = dataclasses.replace(prepared.plan, device="cuda")
    error = refusal(prepared, dataclasses.replace(engine_of(private), gpu=form))
    assert error.code == "container-without-gpu", str(error)
    assert "NVIDIA Container Toolkit" in error.remedy.en
    assert private.listed("ps", "--all", "--quiet") == []


def test_files_that_the_engine_does_not_see_are_named_and_no_container_stays(prepared: runs.Run, private: PrivateEngine) -> None:
    prepared.lab = dataclasses.replace(prepared.lab, directory=Path("/not/on/the/machine/of/the/engine"))
    error = refusal(prepared, engine_of(private))
    assert error.code == "engine-does-not-see"
    assert "/not/on/the/machine/of/the/engine" in error.cause.en
    assert private.listed("ps", "--all", "--quiet") == []


def test_an_image_that_is_gone_is_said(prepared: runs.Run, private: PrivateEngine) -> None:
    prepared.image = {"reference": "x", "id": f"sha256:{'0' * 64}", "digest": None}
    assert refusal(prepared, engine_of(private)).code == "image-gone"
    with pytest.raises(UserError) as told:
        engine.identify(engine_of(private), "onepiece/nowhere:1")
    assert told.value.code == "image-gone"
    assert "onepiece/nowhere:1" in told.value.cause.en


@pytest.mark.fault("killed-engine")
def test_an_engine_that_is_not_there_is_said(prepared: runs.Run) -> None:
    assert refusal(prepared, preflight.Engine("", "", host="unix:///nowhere/docker.sock")).code == "engine-gone"


# --- nox -s clean -- --images -----------------------------------------------------------------------------


def test_clean_removes_the_courses_images_and_not_what_others_built_on_them(
    checkout: Checkout, home: Path, private: PrivateEngine, image: str
) -> None:
    private.docker("commit", private.docker("create", image, "sh", text=True).stdout.strip(), "somebody/else:1")
    private.docker("import", "-", "somebody/other:1", input=runner_image())
    process = asleep(checkout, home, private)
    in_use = host(checkout, home, private, "clean", "--images")
    assert f"left alone {image}" in in_use.words
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    private.docker("rm", "--force", *private.listed("ps", "--all", "--quiet"))
    done = host(checkout, home, private, "clean", "--images")
    assert f"1 images removed {image}" in done.words
    assert sorted(private.listed("images", "--format", "{{.Repository}}:{{.Tag}}")) == ["somebody/else:1", "somebody/other:1"]
    again = host(checkout, home, private, "clean", "--images")
    assert "0 images removed" in again.words
