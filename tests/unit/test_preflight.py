"""What this machine is: tools that are missing, hang, fail or say something odd never stop a lab."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepiece.course.text import Text
from onepiece.host.road import preflight

# --- nvidia-smi's table ---------------------------------------------------------------------------------


def test_rows_of_nvidia_smi_become_gpus_in_gibibytes() -> None:
    gpus, reason = preflight.parse_gpus("NVIDIA L4, 23034, 580.65.06, 8.9\nTesla T4, 15360, 580.65.06, 7.5\n")
    assert reason is None
    assert [(gpu.name, round(gpu.vram_gb, 1), gpu.driver, gpu.compute) for gpu in gpus] == [
        ("NVIDIA L4", 22.5, "580.65.06", "8.9"),
        ("Tesla T4", 15.0, "580.65.06", "7.5"),
    ]


@pytest.mark.parametrize(
    "row", ["NVIDIA GB10, [N/A], 580.95.05, 12.1", "NVIDIA L4, [Unknown Error], 580, 8.9", "No devices were found", "a, b"]
)
def test_a_row_that_is_no_gpu_gives_none_and_is_quoted(row: str) -> None:
    gpus, reason = preflight.parse_gpus(row + "\n")
    assert gpus == ()
    assert reason and row in reason.en


def test_a_gpu_that_cannot_be_read_does_not_hide_another_one() -> None:
    gpus, reason = preflight.parse_gpus("NVIDIA GB10, [N/A], 580.95.05, 12.1\nNVIDIA L4, 23034, 580.65.06, 8.9\n")
    assert [gpu.name for gpu in gpus] == ["NVIDIA L4"]
    assert reason is None


@pytest.mark.parametrize("out", ["", "\n", "  \n\n"])
def test_no_rows_are_no_gpu_and_a_reason(out: str) -> None:
    assert preflight.parse_gpus(out) == ((), Text("nvidia-smi lists no GPU", "nvidia-smi 沒有列出任何 GPU"))


@given(
    st.text(max_size=80) | st.lists(st.sampled_from(["L4", "23034", "[N/A]", "nan", "inf", "8.9", ",", "\n"]), max_size=12).map(", ".join)
)
def test_whatever_nvidia_smi_says_there_are_gpus_or_a_reason(out: str) -> None:
    gpus, reason = preflight.parse_gpus(out)
    assert bool(gpus) != bool(reason)


# --- real tools, real processes -------------------------------------------------------------------------


class Tools:
    """A PATH with nothing on it but what a test puts there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, name: str, script: str) -> None:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    if sys.platform == "win32":
        pytest.skip("the fake tools are shell scripts, which Windows does not start")
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return Tools(directory)


ROW = "echo 'NVIDIA L4, 23034, 580.65.06, 8.9'"
SERVER = json.dumps({"Version": "29.0.1", "ApiVersion": "1.52"})


def test_without_tools_there_are_facts_and_reasons(tools: Tools) -> None:
    facts = preflight.gather()
    assert facts.gpus == ()
    assert facts.gpu_reason and facts.gpu_reason.en == "nvidia-smi is not installed"
    assert facts.engine is None
    assert facts.engine_reason and facts.engine_reason.en == "docker is not installed"
    assert facts.cores >= 1
    assert facts.free_disk_gb > 0
    assert facts.memory_gb > 0


def docker(tools: Tools, info: object, host: str = "unix:///var/run/docker.sock") -> None:
    """A docker CLI whose engine answers; `info` is what `docker info` says of it."""
    (tools.directory / "info.json").write_text(json.dumps(info), encoding="utf-8")
    tools.make(
        "docker",
        f"case $1 in version) echo '{SERVER}';; info) while read -r line; do echo \"$line\"; done < {tools.directory}/info.json; "
        f'[ -z "$line" ] || echo "$line";; context) echo {host};; esac',
    )


INFO = {
    "OSType": "linux",
    "Architecture": "x86_64",
    "Runtimes": {"runc": {}},
    "CDISpecDirs": [],
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
    "ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "0.31"}, {"Name": "compose", "Version": "5.0"}]},
}


def test_a_gpu_and_an_engine_are_found(tools: Tools) -> None:
    tools.make("nvidia-smi", ROW)
    docker(tools, INFO | {"Runtimes": {"nvidia": {}, "runc": {}}})
    facts = preflight.gather()
    assert [gpu.name for gpu in facts.gpus] == ["NVIDIA L4"]
    assert facts.gpu_reason is None
    assert facts.engine == preflight.Engine(
        "29.0.1",
        "1.52",
        host="unix:///var/run/docker.sock",
        platform="linux/x86_64",
        buildx="0.31",
        compose="5.0",
        gpu="runtime",
        security=("seccomp", "rootless"),
    )


def test_an_engine_without_the_nvidia_runtime_is_an_engine(tools: Tools) -> None:
    docker(tools, INFO)
    engine = preflight.gather().engine
    assert engine is not None
    assert engine.gpu == ""


def test_a_gpu_that_the_engine_lists_as_a_cdi_device_is_found(tools: Tools) -> None:
    docker(tools, INFO | {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]})
    engine = preflight.gather().engine
    assert engine is not None
    assert engine.gpu == "cdi"


@pytest.mark.parametrize(("content", "gpu"), [("cdiVersion: 0.6.0\nkind: nvidia.com/gpu\n", "cdi"), ("kind: vendor.com/nic\n", "")])
def test_an_older_engine_has_the_cdi_devices_of_its_directories(tools: Tools, tmp_path: Path, content: str, gpu: str) -> None:
    (tmp_path / "nvidia.yaml").write_text(content, encoding="utf-8")
    docker(tools, INFO | {"CDISpecDirs": [str(tmp_path), str(tmp_path / "nowhere")]})
    engine = preflight.gather().engine
    assert engine is not None
    assert engine.gpu == gpu


@pytest.mark.parametrize("host", ["tcp://10.0.0.7:2376", "ssh://somebody@elsewhere"])
def test_an_engine_on_another_machine_is_none_that_could_mount_our_files(tools: Tools, host: str) -> None:
    docker(tools, INFO, host)
    facts = preflight.gather()
    assert facts.engine is None
    assert facts.engine_reason and host in facts.engine_reason.en
    assert facts.engine_reason and "another machine" in facts.engine_reason.en


@pytest.mark.parametrize("info", [[], "text", {}, {"Runtimes": None, "ClientInfo": None, "SecurityOptions": None}])
def test_an_engine_that_says_little_about_itself_is_an_engine(tools: Tools, info: object) -> None:
    docker(tools, info)
    engine = preflight.gather().engine
    assert engine is not None
    assert (engine.version, engine.gpu, engine.buildx) == ("29.0.1", "", "")


def test_a_driver_that_fails_says_why_in_its_own_words(tools: Tools) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    tools.make("nvidia-smi", f'echo "{said}"; exit 9')
    assert preflight.gather().gpu_reason == Text(said, said)


def test_an_engine_that_is_not_running_says_why_in_its_own_words(tools: Tools) -> None:
    tools.make("docker", "echo null; echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1")
    facts = preflight.gather()
    assert facts.engine is None
    assert facts.engine_reason and facts.engine_reason.en.startswith("Cannot connect to the Docker daemon")


@pytest.mark.parametrize("out", ["null", "", "not json", "{}", "[]", '"text"'])
def test_a_docker_that_answers_without_an_engine_is_no_engine(tools: Tools, out: str) -> None:
    tools.make("docker", f"echo '{out}'")
    facts = preflight.gather()
    assert facts.engine is None
    assert facts.engine_reason


@pytest.mark.fault("hanging-driver")
def test_tools_that_hang_are_given_up(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_PROBE_SECONDS", 0.5)
    sleep = next(path for path in ("/bin/sleep", "/usr/bin/sleep") if Path(path).exists())
    for name in ("nvidia-smi", "docker"):
        tools.make(name, f"exec {sleep} 600")
    facts = preflight.gather()
    assert facts.gpus == ()
    assert facts.gpu_reason and "nvidia-smi did not answer" in facts.gpu_reason.en
    assert facts.engine is None
    assert facts.engine_reason and "docker did not answer" in facts.engine_reason.en


def test_a_tool_that_cannot_be_started_is_a_reason(tools: Tools) -> None:
    path = tools.directory / "nvidia-smi"
    path.write_bytes(b"\x7fELF is not all it takes")
    path.chmod(0o755)
    facts = preflight.gather()
    assert facts.gpus == ()
    assert facts.gpu_reason and "nvidia-smi cannot be started" in facts.gpu_reason.en


def test_a_tool_that_writes_no_utf8_is_a_reason_or_a_gpu(tools: Tools) -> None:
    tools.make("nvidia-smi", r"printf 'caf\351, 23034, 580, 8.9\n'")
    facts = preflight.gather()
    assert bool(facts.gpus) != bool(facts.gpu_reason)


def test_a_home_that_is_not_there_yet_has_the_free_disk_of_the_directory_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "HOME", tmp_path / "not" / "yet" / "there")
    assert preflight.gather().free_disk_gb > 0
    assert not os.path.lexists(tmp_path / "not")
