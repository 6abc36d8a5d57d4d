"""Container images as the course's files say them: which one a lab needs, and what decides it. Nothing here talks to an engine.

`images/<group>/Dockerfile` holds the locked requirements, `images/<lab>/Dockerfile` stands on its group's image and adds what is the
lab's own. Lab sources and `shared/` are mounted, not copied: editing a lab builds nothing. An image is tagged by the hash of
everything that decides it, so that a tag that exists, here or in a registry, is always the right image.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.places import IMAGES, LABS, ROOT
from onepiece.host.road.environments import versions

VARIANTS = ("cuda", "cpu")
# On a CPU every lab runs in one environment, whatever its GPU group is; so do its containers.
CPU_GROUP = "train"


@dataclass(frozen=True, slots=True)
class Image:
    """One image, as the course's files say it."""

    name: str  # a lab's id, or a group
    variant: str  # one of VARIANTS
    dockerfile: Path
    context: Path  # the directory of the lock that goes into it
    parent: Image | None  # the image that this one stands on, if it is one of ours
    floor: Image | None  # the image whose environment is copied into this one, which stands on a server's
    base: str  # what the outermost FROM says: tag, and digest once it is pinned
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    inputs: str  # sha256 of everything that decides the image
    reference: str  # repository and tag

    @property
    def target(self) -> str:
        """Its name in the bake description, which allows no dots."""
        return f"{catalog.environment_name(self.name)}-{self.variant}"


# --- which image --------------------------------------------------------------------------------


def image_for(name: str, variant: str) -> Image:
    """The image of a lab or a group.

    Args:
        name: a lab's id, or a directory of `images/` that `versions.toml` lists as a group.
        variant: "cuda", or "cpu" for machines without an NVIDIA GPU.

    Raises:
        UserError: "no-image", if there is no Dockerfile, or the group has no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(variant)
    dockerfile = IMAGES / name / "Dockerfile"
    if not dockerfile.is_file():
        raise UserError("no-image", image=name, reason=f"images/{name}/Dockerfile")
    if name in versions()["images"]["groups"]:
        return _group(name, variant, dockerfile)
    return _lab(catalog.read_manifest(LABS / name / "lab.toml"), variant, dockerfile)


def groups() -> tuple[str, ...]:
    """The names of all groups."""
    return tuple(versions()["images"]["groups"])


def base_reference(name: str) -> str:
    """A base as FROM takes it: its tag, with the digest once there is one."""
    base = versions()["images"]["bases"][name]
    return f"{base['tag']}@{base['digest']}" if base["digest"] else str(base["tag"])


def _group(name: str, variant: str, dockerfile: Path) -> Image:
    settings = versions()["images"]["groups"][name]
    context = IMAGES / ("cpu" if variant == "cpu" and name == CPU_GROUP else name)
    args: dict[str, str] = {}
    parent = None
    if "parent" in settings and variant == "cuda":
        parent = image_for(settings["parent"], variant)
        base = parent.base
    elif variant in settings.get("base", {}):
        base = base_reference(settings["base"][variant])
        args["BASE_IMAGE"] = base
    else:
        raise UserError("no-image", image=f"{name} ({variant})", reason=f"images.groups.{name}, base.{variant}")
    if variant == "cpu":
        args["TORCH"] = versions()["environments"][context.name]["torch"]
    if name == "flash":
        wheel = versions()["images"]["flash_attn"]
        args |= {"FLASH_ATTN": wheel["version"], "FLASH_ATTN_INDEX": wheel["index"], "FLASH_ATTN_SHA256": wheel["sha256"]}
    files = [path for path in (context / "lock.txt", context / "extra-jupyter.txt") if path.is_file()]
    return _image(name, variant, dockerfile, context, parent, base, args, files, {"org.onepiece.group": name, **_stack(variant, context)})


def _stack(variant: str, context: Path) -> dict[str, str]:
    """Labels that say which Python, PyTorch and driver an image is made for; none where the vendor's image decides."""
    lock = context / "lock.txt"
    pinned = re.search(r"^torch==(\S+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE) if lock.is_file() else None
    torch = versions()["environments"][context.name]["torch"] if variant == "cpu" else pinned and pinned.group(1)
    if not torch:
        return {}
    driver = {"org.onepiece.driver": f">={versions()['images']['driver']}"} if variant == "cuda" else {}
    return {"org.onepiece.python": versions()["images"]["python"], "org.onepiece.torch": torch, **driver}


def _lab(lab: catalog.Lab, variant: str, dockerfile: Path) -> Image:
    group = image_for(CPU_GROUP if variant == "cpu" else lab.image, variant)
    parent = image_for(f"{lab.server}-cpu" if variant == "cpu" else lab.server, variant) if lab.server else group
    context = IMAGES / ("cpu" if variant == "cpu" else lab.image)
    # An extra without a file beside the lock is in the lock already. Containers are Linux everywhere, so nothing is left out here.
    extras = [extra for extra in lab.extras if (context / f"extra-{extra}.txt").is_file()]
    # A Dockerfile without anything of its own declares neither, and is not told either: the builder would remark on it.
    declared = re.findall(r"^ARG (\w+)", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    args = {key: value for key, value in (("VARIANT", variant), ("EXTRAS", " ".join(extras))) if key in declared}
    labels = {"org.onepiece.group": parent.name, "org.onepiece.lab": lab.id}
    files = [context / f"extra-{extra}.txt" for extra in extras]
    floor = group if lab.server else None
    return _image(lab.id, variant, dockerfile, context, parent, parent.base, args, files, labels, floor)


def _image(
    name: str,
    variant: str,
    dockerfile: Path,
    context: Path,
    parent: Image | None,
    base: str,
    args: dict[str, str],
    files: Sequence[Path],
    labels: dict[str, str],
    floor: Image | None = None,
) -> Image:
    labels |= {
        "org.opencontainers.image.title": f"LLM One Piece: {name} ({variant})",
        "org.opencontainers.image.licenses": _project()["license"],
        "org.opencontainers.image.base.name": base.partition("@")[0],
        "org.opencontainers.image.base.digest": base.partition("@")[2],
        "org.onepiece.variant": variant,
    }
    labels["org.opencontainers.image.source"] = repository()
    labels = {key: value for key, value in labels.items() if value}
    decides = {
        "dockerfile": _sha256(dockerfile),
        "files": {path.name: _sha256(path) for path in files},
        "args": args,
        "labels": labels,
        "parent": parent.inputs if parent else "",
    } | ({"floor": floor.inputs} if floor else {})
    inputs = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    if parent is not None:
        args["GROUP_IMAGE"] = parent.reference  # after hashing: the same image may be in several registries
    if floor is not None:
        args["FLOOR_IMAGE"] = floor.reference
    tag = inputs[:16] + ("-cpu" if variant == "cpu" else "")
    labels |= {"org.opencontainers.image.version": tag, "org.onepiece.inputs": inputs}
    return Image(name, variant, dockerfile, context, parent, floor, base, args, labels, inputs, f"{prefix()}/{name}:{tag}")


def _sha256(path: Path) -> str:
    # Line ends do not decide an image: git writes them as the platform likes.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


# --- where images are published -----------------------------------------------------------------


@functools.cache
def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8-sig"))["project"])


def repository() -> str:
    """The address of the course's repository, or "" while `[project.urls]` does not say it."""
    return str(_project().get("urls", {}).get("repository", "")).rstrip("/")


def prefix() -> str:
    """What stands before an image's name: registry and path, or "onepiece" while nothing is published anywhere."""
    chosen = os.environ.get("ONEPIECE_REGISTRY", "").rstrip("/")
    if chosen:
        return chosen
    owner = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?", repository())
    return f"ghcr.io/{owner.group(1).lower()}" if owner else "onepiece"


def registry_known() -> bool:
    """Is there a registry that could have our images?"""
    return prefix() != "onepiece"


def unresolved(image: Image) -> list[str]:
    """What is not pinned in an image and those it stands on; an image with any of it must not be published."""
    found = []
    for link in _line(image):
        if "@sha256:" not in link.base and (missing := f"{link.base}: digest") not in found:
            found.append(missing)
        if link.build_args.get("FLASH_ATTN_SHA256", "set") == "":
            found.append(f"flash-attn {link.build_args['FLASH_ATTN']}: sha256")
    return found


# --- bake ---------------------------------------------------------------------------------------


def in_order(images: Sequence[Image]) -> list[Image]:
    """The images with everything that they stand on, parents first, each once."""
    found: dict[str, Image] = {}
    for image in images:
        for link in _line(image):
            found.setdefault(link.target, link)
    return list(found.values())


def _line(image: Image) -> list[Image]:
    return [*(link for below in (image.parent, image.floor) if below for link in _line(below)), image]


def replaced_bases() -> dict[str, str]:
    """`ONEPIECE_BASE_IMAGES`, "tag=replacement,...": a mirror of the bases, or stand-ins for them."""
    pairs = os.environ.get("ONEPIECE_BASE_IMAGES", "").split(",")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def bake(
    images: Sequence[Image], *, base_images: Mapping[str, str] | None = None, build_args: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The description that `docker buildx bake` builds from, for the images and what they stand on.

    Args:
        images: what to build.
        base_images: tag of a base -> what to build from in its place; `replaced_bases()` if left out.
        build_args: further arguments of the groups that do not decide what is in them (`TORCH_INDEX`), or, in tests, replace theirs.
    """
    replaced = replaced_bases() if base_images is None else base_images
    targets: dict[str, Any] = {}
    for image in in_order(images):
        args = {**image.build_args, **((build_args or {}) if image.parent is None else {})}
        if "BASE_IMAGE" in args:
            args["BASE_IMAGE"] = replaced.get(args["BASE_IMAGE"].partition("@")[0], args["BASE_IMAGE"])
        targets[image.target] = {
            "context": _relative(image.context),
            "dockerfile": _relative(image.dockerfile, image.context),
            "args": args,
            "labels": dict(image.labels),
            "tags": [image.reference],
        }
        if image.parent is not None:
            stands_on = [link for link in (image.parent, image.floor) if link]
            targets[image.target]["contexts"] = {link.reference: f"target:{link.target}" for link in stands_on}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _relative(path: Path, to: Path = ROOT) -> str:
    return Path(os.path.relpath(path, to)).as_posix()
