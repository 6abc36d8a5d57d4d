"""The recipes for rented machines: their form, and that they end by themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest
import toy_course
import yaml

CLOUD = toy_course.ROOT / "compose" / "cloud"
LABS = {path.parent.name for path in (toy_course.ROOT / "labs").glob("*/lab.toml")}


def read(name: str) -> Any:
    return yaml.safe_load((CLOUD / name).read_text(encoding="utf-8"))


def test_the_sky_task_has_only_fields_of_skypilot_and_names_a_lab_that_exists() -> None:
    # https://docs.skypilot.co/en/latest/reference/yaml-spec.html
    task = read("lab.sky.yaml")
    assert set(task) <= {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts", "setup", "run", "config"}
    assert set(task["resources"]) <= {
        "infra",
        "accelerators",
        "cpus",
        "memory",
        "use_spot",
        "disk_size",
        "disk_tier",
        "autostop",
        "image_id",
        "any_of",
    }
    assert task["envs"]["LAB"] in LABS
    assert task["workdir"] == ".", "the checkout it is launched from"


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
