"""JupyterLab that `docker compose up jupyter` starts, and the dev container of VS Code: what they are built from, and one that runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
import toy_course
from parts import linux_only

from onepiece.host.road.environments import versions

ROOT = toy_course.ROOT
DEVCONTAINER = json.loads(re.sub(r"(?m)^//.*$", "", (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")))


def test_the_dev_container_is_built_from_the_course_s_files_and_versions() -> None:
    build = DEVCONTAINER["build"]
    for path in (build["dockerfile"], build["context"]):
        assert (ROOT / ".devcontainer" / path).exists()
    assert build["args"]["BASE_IMAGE"] == versions()["images"]["bases"]["cpu"]["tag"]
    assert build["args"]["TORCH"] == versions()["environments"]["cpu"]["torch"]
    assert build["args"]["TORCH_INDEX"] == versions()["torch"]["cpu_index"]
    assert DEVCONTAINER["runArgs"] == ["--cap-drop=ALL", "--security-opt=no-new-privileges"]


@pytest.mark.parametrize(("device", "base"), [("cpu", "cpu"), ("gpu", "cuda")])
def test_the_compose_files_are_built_from_the_course_s_files_and_versions(device: str, base: str) -> None:
    text = (ROOT / "compose" / f"jupyter.{device}.yaml").read_text(encoding="utf-8")
    assert f"-{versions()['images']['bases'][base]['tag']}}}" in text
    for path in re.findall(r"(?:context|dockerfile): (\S+)", text):
        assert (ROOT / "compose" / path).exists() or (ROOT / "images" / "cpu" / path).exists()
    if device == "cpu":
        assert f'TORCH: "{versions()["environments"]["cpu"]["torch"]}"' in text
        assert f"-{versions()['torch']['cpu_index']}}}" in text


@pytest.fixture
def class_machine(tmp_path: Path) -> Path:
    """A checkout on which a learner has made a copy, in a directory that the learner owns."""
    for name in ("compose", "images", "labs", "shared"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    (tmp_path / "workspace" / "lab-1.5-flashattention").mkdir(parents=True)
    return tmp_path


@linux_only
def test_compose_up_jupyter_serves_the_copies_on_loopback_with_a_token(class_machine: Path, stand_ins: Mapping[str, str]) -> None:
    project = f"onepiece-test-{os.getpid()}"
    environ = os.environ | {
        "ONEPIECE_DEVICE": "cpu",
        "ONEPIECE_CPU_BASE": stand_ins[versions()["images"]["bases"]["cpu"]["tag"]],
        "ONEPIECE_TORCH_INDEX": "",
        "ONEPIECE_JUPYTER_IMAGE": "onepiece-tests/jupyter-cpu:1",
        "ONEPIECE_JUPYTER_TOKEN": "a-token-of-the-test",
        "ONEPIECE_JUPYTER_PORT": "18889",
        "ONEPIECE_USER": f"{os.getuid()}:{os.getgid()}",
    }

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--project-name", project, *arguments]
        return subprocess.run(command, cwd=class_machine, env=environ, capture_output=True, text=True, timeout=900)

    def ask(path: str, token: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:18889{path}", headers={"Authorization": f"token {token}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    try:
        up = compose("up", "--detach", "--wait", "--build", "jupyter")
        assert up.returncode == 0, up.stderr + compose("logs").stdout
        assert compose("ps", "--services").stdout.split() == ["jupyter"]
        assert "127.0.0.1:18889->8888/tcp" in compose("ps").stdout
        assert ask("/api/contents/lab-1.5-flashattention", "a-token-of-the-test") == 200
        assert ask("/api/contents", "wrong") == 403
        imported = compose("exec", "--no-TTY", "jupyter", "python", "-c", "import flash_attention, onepiece.lab")
        assert imported.returncode == 0, imported.stderr
        written = compose("exec", "--no-TTY", "jupyter", "sh", "-c", "touch /course/workspace/mine; ! touch /course/labs/mine")
        assert written.returncode == 0, written.stderr
        assert (class_machine / "workspace" / "mine").stat().st_uid == os.getuid()
    finally:
        compose("down", "--volumes", "--timeout", "20")


@linux_only
def test_without_a_workspace_compose_says_so_and_makes_none(class_machine: Path, engine: str) -> None:
    shutil.rmtree(class_machine / "workspace")
    environ = os.environ | {"ONEPIECE_DEVICE": "cpu", "ONEPIECE_JUPYTER_IMAGE": "onepiece-tests/jupyter-cpu:1"}
    project = f"onepiece-test-{os.getpid()}-none"
    command = ["docker", "compose", "--project-name", project]
    done = subprocess.run(
        [*command, "up", "--detach", "--no-build", "jupyter"], cwd=class_machine, env=environ, capture_output=True, text=True, timeout=120
    )
    subprocess.run([*command, "down"], cwd=class_machine, env=environ, capture_output=True, timeout=120)
    assert done.returncode != 0
    assert "workspace" in done.stderr or "No such image" in done.stderr
    assert not (class_machine / "workspace").exists()
