"""The locks: everything pinned and hashed, nothing in them that does not belong there, one truth for each version."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import toy_course
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from onepiece.host.road import environments

ROOT = toy_course.ROOT
IMAGES = ROOT / "images"
LOCKS = sorted([*IMAGES.glob("*/lock.txt"), *IMAGES.glob("*/extra-*.txt")])


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(path: Path) -> dict[str, str]:
    """Name -> the whole entry of a lock, its continuation lines joined."""
    joined = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    entries = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {Requirement(entry.split(" --hash")[0].split(" #")[0]).name.lower(): entry for entry in entries}


def pinned(path: Path, name: str) -> str:
    (specifier,) = Requirement(requirements(path)[name].split(" --hash")[0]).specifier
    return specifier.version


def group(name: str) -> dict[str, Requirement]:
    """The requirements of a dependency group with the groups that it includes."""
    found: dict[str, Requirement] = {}
    for entry in pyproject()["dependency-groups"][name]:
        found |= group(entry["include-group"]) if isinstance(entry, dict) else {Requirement(entry).name.lower(): Requirement(entry)}
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_everything_in_a_lock_is_pinned_and_hashed(path: Path) -> None:
    entries = requirements(path)
    assert entries
    for name, entry in entries.items():
        assert re.match(r"^[A-Za-z0-9._-]+(\[[^\]]*\])?==[^\s*]+", entry), f"{name} is not pinned"
        hashes = re.findall(r"--hash=(\S+)", entry)
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), name


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_lock_names_no_place_that_only_its_author_can_reach(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "file://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("name", ["host", "tests"])
def test_what_runs_before_a_lab_has_no_torch(name: str) -> None:
    assert not {"torch", "triton", "numpy", "transformers"} & set(requirements(IMAGES / name / "lock.txt"))


def test_the_cpu_lock_has_neither_torch_nor_cuda() -> None:
    found = set(requirements(IMAGES / "cpu" / "lock.txt"))
    assert not {name for name in found if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))}


def test_everything_that_the_cpu_lock_leaves_out_is_in_the_list_of_what_is_left_out() -> None:
    without = set(environments.versions()["environments"]["cpu"]["without"])
    assert {"torch", "triton"} <= without
    assert not without & set(requirements(IMAGES / "cpu" / "lock.txt"))


def test_an_extra_does_not_pin_another_version_of_what_the_cpu_environment_has() -> None:
    base = requirements(IMAGES / "cpu" / "lock.txt")
    for path in (IMAGES / "cpu").glob("extra-*.txt"):
        for name in set(requirements(path)) & set(base):
            assert pinned(path, name) == pinned(IMAGES / "cpu" / "lock.txt", name), f"{path.name}: {name}"


def test_each_lock_is_made_from_a_group_and_each_group_keeps_its_promise() -> None:
    made = {target: name for name, target, _ in environments.locks()}
    assert sorted(made) == sorted(path.relative_to(IMAGES).as_posix() for path in LOCKS)
    left_out = {"torch", "triton"}
    for target, name in made.items():
        entries = requirements(IMAGES / target)
        for required in group(name).values():
            if required.name.lower() not in entries:
                assert target == "cpu/lock.txt" and required.name in left_out, f"{target} has no {required.name}"
                continue
            assert required.specifier.contains(pinned(IMAGES / target, required.name.lower()), prereleases=True), f"{target}: {required}"


def test_the_torch_of_the_cpu_environment_is_the_one_of_its_group() -> None:
    assert str(group("cpu")["torch"].specifier) == f"=={environments.versions()['environments']['cpu']['torch']}"


def test_the_triton_extra_is_there_for_the_systems_that_can_have_it() -> None:
    assert "triton" in requirements(IMAGES / "cpu" / "extra-triton.txt")
    assert environments.versions()["extras"]["triton"]["platforms"] == ["linux"]


def test_the_python_versions_are_the_same_everywhere() -> None:
    python = environments.versions()["python"]
    supported = SpecifierSet(pyproject()["project"]["requires-python"])
    lowest, highest = environments.SUPPORTED
    assert python == {"minimum": f"{lowest[0]}.{lowest[1]}", "maximum": f"{highest[0]}.{highest[1]}"}
    assert supported.contains(python["minimum"])
    assert supported.contains(f"{python['maximum']}.9")
    assert not supported.contains(f"{highest[0]}.{highest[1] + 1}")
    assert not supported.contains(f"{lowest[0]}.{lowest[1] - 1}")
    assert pyproject()["tool"]["ruff"]["target-version"] == f"py{python['minimum'].replace('.', '')}"


def test_every_lab_names_an_image_whose_lock_exists() -> None:
    for manifest in sorted((ROOT / "labs").glob("*/lab.toml")):
        image = tomllib.loads(manifest.read_text(encoding="utf-8"))["image"]
        assert (IMAGES / image / "lock.txt").is_file(), f"{manifest.parent.name}: on a GPU it would need images/{image}/lock.txt"
