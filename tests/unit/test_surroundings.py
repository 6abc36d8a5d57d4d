"""What surrounds the course: other repositories, proxies, paths with spaces, editors that mark the order of bytes."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from parts import linux_only

from onepiece.course import catalog
from onepiece.host.containers import notebook_server
from onepiece.host.grading.submission import needed_names
from onepiece.host.mutation.mutants import mutants_of_lab
from onepiece.host.progress import files as progress_files
from onepiece.host.road import runs, sources
from onepiece.host.road.shared_modules import of_lab
from onepiece.serving import servers


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of somebody's, with one commit."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "a project"
    root.mkdir()
    (root / "file").write_text("one", encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", "file")
    git(root, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one")
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.fault("other-repository")
def test_a_course_inside_another_repository_has_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = repository / "downloads" / "course"
    course.mkdir(parents=True)
    monkeypatch.setattr(runs, "ROOT", course)
    assert runs.git_state() == {"commit": None, "dirty": None}
    monkeypatch.setattr(runs, "ROOT", repository)
    commit = git(repository, "rev-parse", "HEAD")
    assert runs.git_state() == {"commit": commit, "dirty": False}
    (repository / "file").write_text("two", encoding="utf-8")
    assert runs.git_state() == {"commit": commit, "dirty": True}


@pytest.mark.fault("other-repository")
def test_variables_of_a_hook_do_not_choose_the_repository(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(runs, "ROOT", tmp_path / "unpacked")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert runs.git_state() == {"commit": None, "dirty": None}


@pytest.fixture
def local_server() -> Iterator[int]:
    """The port of a server of this machine that answers whatever it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.fault("proxy-to-loopback")
def test_waiting_for_jupyterlab_asks_no_proxy(local_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notebook_server, "_READY_SECONDS", 2.0)
    said: list[str] = []
    address = f"http://127.0.0.1:{local_server}/lab?token=0123"
    notebook_server._when_ready(address, False, said.append)
    assert said == [address]


@linux_only
@pytest.mark.fault("space-in-the-path")
@pytest.mark.parametrize("before", [None, "/nowhere"])
def test_a_space_in_the_path_keeps_what_vllm_needs_loaded_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    environment = tmp_path / "a course" / "vllm"
    for name in ("bin", "lib"):
        (environment / name).mkdir(parents=True)
    any_library = next(line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if "/libm" in line)
    shutil.copy(any_library, environment / "lib" / "libiomp5.so")
    if before is None:
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    else:
        monkeypatch.setenv("LD_LIBRARY_PATH", before)
    settings = servers._vllm_on_cpu(environment / "bin" / "python")
    assert "libiomp" in settings["LD_PRELOAD"], "vLLM looks for the name"
    program = [sys.executable, "-c", "print(open('/proc/self/maps').read())"]
    done = subprocess.run(program, env=os.environ | settings, capture_output=True, text=True, check=True)
    assert str(environment / "lib" / "libiomp5.so") in done.stdout
    assert done.stderr == ""


@pytest.mark.fault("byte-order-mark")
def test_a_byte_order_mark_changes_nothing_in_what_people_edit(tmp_path: Path) -> None:
    plain = toy_course.write_lab(tmp_path / "plain")
    marked = toy_course.write_lab(tmp_path / "marked")
    for path in [*marked.glob("*.py"), *marked.glob("*.toml")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    one, other = (catalog.load(directory.parent).lab(toy_course.LAB) for directory in (plain, marked))
    assert sources.verify(other) == sources.verify(one) == []
    assert sources.usage(other) == sources.usage(one)
    for name in one.notebooks:
        assert sources.read_cells(marked / f"{name}.py") == sources.read_cells(plain / f"{name}.py")
    assert set(of_lab(other)) == set(of_lab(one))
    assert needed_names(other) == needed_names(one)
    assert mutants_of_lab(other) == mutants_of_lab(one) != []
    export = tmp_path / "progress.json"
    content = {"format": progress_files.JSON_FORMAT, "version": progress_files.JSON_VERSION, "events": []}
    export.write_text(json.dumps(content), encoding="utf-8-sig")
    assert progress_files.read_export(export) == ()
