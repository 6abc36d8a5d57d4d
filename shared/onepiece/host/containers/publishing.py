"""What `.github/workflows/images.yml` publishes, as data: `nox -s images -- --matrix`.

An image can be built once those that it stands on are in the registry, so images come in stages. Nothing here builds or asks anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from onepiece.course.errors import UserError
from onepiece.host.containers import image_inputs, images
from onepiece.host.road.environments import versions

STAGES = 3  # groups, groups and labs on those, labs on a group that stands on a group: the workflow has a job for each


def matrix(wanted: Sequence[images.Image]) -> dict[str, Any]:
    """Builder, SBOM generator and the images in stages, each with all that a build needs.

    Raises:
        UserError: "no-registry", or "unresolved-pin" for anything that is named by a tag that may move.
    """
    tools = versions()["publishing"]["images"]
    refuse(wanted, tools)
    return {name: f"{tool['tag']}@{tool['digest']}" for name, tool in tools.items()} | {"stages": stages(wanted)}


def stages(wanted: Sequence[images.Image]) -> list[list[dict[str, str]]]:
    """The images and everything that they stand on, in STAGES lists: one of a list stands on images of lists before it only."""
    found: list[list[dict[str, str]]] = [[] for _ in range(STAGES)]
    for image in images.in_order(wanted):
        found[_depth(image)].append(entry(image))
    return found


def entry(image: images.Image) -> dict[str, str]:
    """One job of the workflow. Lists are lines, as docker/build-push-action reads them."""
    args = dict(image.build_args)
    if image.variant == "cpu" and image.parent is None:
        args["TORCH_INDEX"] = versions()["torch"]["cpu_index"]
    repository, _, tag = image.reference.rpartition(":")
    return {
        "name": image.name,
        "variant": image.variant,
        "repository": repository,
        "tag": tag,
        "context": image.context.relative_to(image_inputs.ROOT).as_posix(),
        "file": image.dockerfile.relative_to(image_inputs.ROOT).as_posix(),
        "build_args": "\n".join(f"{key}={value}" for key, value in args.items()),
        "labels": "\n".join(f"{key}={value}" for key, value in image.labels.items()),
    }


def refuse(wanted: Sequence[images.Image], tools: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> None:
    """Stop what would be published without a registry, or from something that is not pinned: images, or tools of `versions.toml`."""
    if not images.registry_known():
        raise UserError("no-registry")
    missing = sorted({what for image in wanted for what in images.unresolved(image)})
    missing += [f"{tool['tag']}: digest" for tool in tools.values() if not tool["digest"]]
    if missing:
        raise UserError("unresolved-pin", what="; ".join(missing))


def _depth(image: images.Image) -> int:
    below = images.in_order([image])[:-1]
    return 1 + max(map(_depth, below)) if below else 0
