"""An engine and bases for tests that build and run images; without them those tests are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import stand_in`, wherever pytest was started

import stand_in
from docker_engine import REGISTRY, docker
from parts import missing, only_if_asked_for

from onepiece.host.containers import image_inputs, images
from onepiece.host.road.environments import versions


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The version of a usable Docker engine."""
    only_if_asked_for("docker", request.config)
    if shutil.which("docker") is None:
        missing("docker", "docker is not installed")
    done = docker("version", "--format", "{{.Server.Version}}", check=False, timeout=30)
    if done.returncode != 0:
        missing("docker", f"no Docker engine answers: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    if docker("buildx", "version", check=False, timeout=30).returncode != 0:
        missing("docker", "the buildx plugin is not installed")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def stand_ins(engine: str) -> Iterator[Mapping[str, str]]:
    """Tag of a base -> what is built on in its place; set for this session and the commands that it starts."""
    bases = [base["tag"] for base in versions()["images"]["bases"].values()]
    settings = {"ONEPIECE_REGISTRY": REGISTRY}
    if "ONEPIECE_BASE_IMAGES" not in os.environ:
        try:
            made = stand_in.ensure(versions()["images"]["flash_attn"]["version"])
        except stand_in.Unavailable as error:
            missing("docker", f"there are no base images: {error}")
        print(f"\nbases are stand-ins ({made}): a Debian, without CUDA, with its own Python")
        settings["ONEPIECE_BASE_IMAGES"] = ",".join(f"{base}={made}" for base in bases)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        yield image_inputs.replaced_bases()


@pytest.fixture(scope="session")
def lab_image(stand_ins: Mapping[str, str]) -> images.Image:
    """The exemplar's image for the CPU, built."""
    image = images.image_for("lab-1.5-flashattention", "cpu")
    images.build([image], note=print)
    return image
