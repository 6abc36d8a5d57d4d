"""The serving stack in an engine, on stand-ins: the real servers' CPU builds, Debian's nginx and Prometheus."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from parts import missing, only_if_asked_for

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))  # `import stand_in`
sys.path.insert(0, str(Path(__file__).parent))

import stand_in
from stack import Stack

from onepiece.host.containers import images
from onepiece.host.road.environments import versions
from onepiece.serving import servers

PACKAGES = {"gateway": "nginx-light gettext-base wget", "prometheus": "prometheus wget"}


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> None:
    """A usable Docker engine with compose."""
    only_if_asked_for("docker", request.config)
    if shutil.which("docker") is None:
        missing("docker", "docker is not installed")
    for command in (["docker", "version"], ["docker", "compose", "version"], ["docker", "buildx", "version"]):
        if subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
            missing("docker", f"{' '.join(command)} fails")


@pytest.fixture(scope="session")
def stand_ins(engine: None) -> dict[str, str]:
    """The variables that put stand-ins in the place of images that cannot be pulled."""
    try:
        base = images.replaced_bases().get(versions()["images"]["bases"]["cpu"]["tag"])
        base = base or stand_in.ensure(versions()["images"]["flash_attn"]["version"])
    except stand_in.Unavailable as error:
        missing("docker", f"there are no base images: {error}")
    print(f"\nbases are stand-ins ({base}): Debian's nginx and Prometheus, the real servers' CPU builds on a Debian")
    found = {"ONEPIECE_DEVICE": "cpu", "ONEPIECE_CPU_BASE": base, "ONEPIECE_TORCH_INDEX": images._torch_index(print)}
    for name, packages in PACKAGES.items():
        tag = f"onepiece-tests/serving-{name}:{base.rpartition(':')[2]}"
        made = (
            f"FROM {base}\nRUN apt-get update && apt-get install -y --no-install-recommends {packages}"
            " && rm -rf /var/lib/apt/lists/* && install -d -o 65534 -g 65534 /prometheus\n"
        )
        done = subprocess.run(["docker", "build", "--tag", tag, "-"], input=made, capture_output=True, text=True)
        if done.returncode != 0:
            missing("docker", f"the stand-in {name} cannot be built: {done.stderr[-500:]}")
        found[f"ONEPIECE_{name.upper()}_IMAGE"] = tag
    for name in ("vllm", "triton"):
        found[f"ONEPIECE_{name.upper()}_IMAGE"] = f"onepiece-tests/serving-{name}-cpu:{base.rpartition(':')[2]}"
    return found


def abandoned() -> set[str]:
    """Projects of tests that were killed, or whose engine was: their containers start again with every engine."""
    label = '{{.Label "com.docker.compose.project"}}'
    done = subprocess.run(["docker", "ps", "--all", "--format", label], capture_output=True, text=True, check=True)
    found = {name: re.fullmatch(r"onepiece-test-(\d+)", name) for name in done.stdout.split()}
    return {name for name, pid in found.items() if pid and not Path(f"/proc/{pid.group(1)}").exists()}


@pytest.fixture(scope="module")
def stack(stand_ins: dict[str, str]) -> Iterator[Stack]:
    """`docker compose up serving --wait`, and Prometheus beside it; all of it removed at the end."""
    ports = {f"ONEPIECE_{name}_PORT": str(servers.free_port()) for name in ("HTTP", "GRPC", "PROMETHEUS", "GRAFANA")}
    made = Stack(f"onepiece-test-{os.getpid()}", stand_ins | ports)
    for name in abandoned():
        Stack(name, stand_ins | ports).compose("down", "--volumes", "--timeout", "5")
    try:
        made.compose("build", "vllm", "triton", timeout=1800)
        began = monotonic()
        made.compose("up", "--detach", "--wait", "serving")
        made.seconds = monotonic() - began
        made.compose("up", "--detach", "--wait", "prometheus")
        yield made
    except BaseException:
        print(made.compose("logs", "--tail", "40", check=False))
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "10", check=False)
