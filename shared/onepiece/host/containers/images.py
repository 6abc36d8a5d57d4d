"""Container images in an engine: build them with the docker CLI (BuildKit), find them, pull and push them.

What an image is, and what decides it, is in `image_inputs`; the names that callers need come from here too.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.places import ENVIRONMENTS, ROOT
from onepiece.course.text import tr
from onepiece.host.containers.image_inputs import (
    VARIANTS,
    Image,
    bake,
    base_reference,
    groups,
    image_for,
    in_order,
    prefix,
    registry_known,
    replaced_bases,
    repository,
    unresolved,
)
from onepiece.host.interrupts import raise_if_asked
from onepiece.host.road.environments import versions

__all__ = [
    "VARIANTS",
    "Built",
    "Image",
    "bake",
    "base_reference",
    "build",
    "engine_root",
    "groups",
    "image_for",
    "in_order",
    "local_id",
    "prefix",
    "published",
    "pull",
    "push",
    "registry_known",
    "replaced_bases",
    "repository",
    "size",
    "unresolved",
]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did."""

    seconds: float
    steps: int  # instructions of Dockerfiles, over all images
    cached: int  # how many of them were taken from the cache


def _ignore(_: str) -> None:
    pass


def build(
    images: Sequence[Image],
    *,
    note: Callable[[str], None] = print,
    detail: Callable[[str], None] = _ignore,
    push: bool = False,
    base_images: Mapping[str, str] | None = None,
    build_args: Mapping[str, str] | None = None,
) -> Built:
    """Build images and what they stand on, in one `docker buildx bake`, which orders them and shares their layers.

    Args:
        images: what to build; parents come by themselves.
        note: gets the few lines that a user should see.
        detail: gets what the builder is at, line by line.
        push: publish them afterwards.
        base_images: see `image_inputs.bake`.
        build_args: likewise.

    Raises:
        UserError: "image-build-failed" or "image-push-failed". OSError ENOSPC if the disk is full.
    """
    arguments = dict(build_args or {})
    if any(image.variant == "cpu" for image in images):
        arguments.setdefault("TORCH_INDEX", _torch_index(note))
    description = bake(images, base_images=base_images, build_args=arguments)
    log = ENVIRONMENTS / "images.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # Provenance belongs to what the publishing workflow builds; here it would only need a registry.
    command = ["docker", "buildx", "bake", "--file", "-", "--progress", "plain", "--load"]
    done, lines = _follow(command, log, detail, stdin=json.dumps(description))
    if done != 0:
        raise _failed("\n".join(lines), images, log)
    if push:
        for image in in_order(images):
            _push(image, detail)
    return Built(time.monotonic() - began, *_count(lines))


def local_id(image: Image) -> str | None:
    """The engine's identifier of an image that it has, sha256:..."""
    return _ask("image", "inspect", "--format", "{{.Id}}", image.reference) or None


def published(image: Image) -> bool:
    """Does the registry have the tag of exactly these inputs? Quickly False where no registry is known."""
    if not registry_known():
        return False
    # The engine asks, with its logins, proxies and exceptions; that is also who would pull.
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=15)
        try:
            client.images.get_registry_data(image.reference)
        finally:
            client.close()
    except (DockerException, OSError):  # what requests raises is an OSError
        return False
    return True


def pull(image: Image, detail: Callable[[str], None] = _ignore) -> str:
    """Pull an image; returns it by digest, repository@sha256:...

    Raises:
        UserError: "image-pull-failed". OSError ENOSPC if the disk is full.
    """
    done, lines = _follow(["docker", "pull", image.reference], ENVIRONMENTS / "images.log", detail)
    if done != 0:
        _raise_if_full("\n".join(lines))
        raise UserError("image-pull-failed", image=image.reference, name=image.name, reason=_last(lines))
    return _digest(image)


def push(image: Image, detail: Callable[[str], None] = _ignore) -> str:
    """Publish an image that the engine has; returns it by digest."""
    _push(image, detail)
    return _digest(image)


def _push(image: Image, detail: Callable[[str], None]) -> None:
    done, lines = _follow(["docker", "push", image.reference], ENVIRONMENTS / "images.log", detail)
    if done != 0:
        raise UserError("image-push-failed", image=image.reference, reason=_last(lines))


def _digest(image: Image) -> str:
    out = _ask("image", "inspect", "--format", "{{json .RepoDigests}}", image.reference)
    wanted = image.reference.rpartition(":")[0] + "@"
    return next((digest for digest in json.loads(out or "[]") if digest.startswith(wanted)), "")


# --- the docker CLI -----------------------------------------------------------------------------


def _ask(*arguments: str) -> str:
    """What a quick docker command says; "" if it fails, or there is no docker."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _follow(command: list[str], log: Path, detail: Callable[[str], None], stdin: str = "") -> tuple[int, list[str]]:
    """Run a command; every line it writes goes to the log and to `detail`."""
    lines: list[str] = []
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,  # the description's paths are relative to it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(stdin)
            process.stdin.close()
            for line in process.stdout:
                raise_if_asked()
                stream.write(line)
                lines.append(line.rstrip())
                detail(line.rstrip())
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()  # BuildKit stops what it was building when its client is gone
            process.wait()
    return process.returncode, lines


def _count(lines: Sequence[str]) -> tuple[int, int]:
    """(instructions, how many of them were cached) of a plain progress log."""
    # "#7 [train-cpu stage-0 2/5] RUN ...": one number for each distinct instruction; "#7 CACHED" later.
    steps = {found.group(1) for line in lines if (found := re.match(r"#(\d+) \[[\w-]+ [^\]]*\d+/\d+\] (?!FROM)", line))}
    cached = {found.group(1) for line in lines if (found := re.match(r"#(\d+) CACHED", line))}
    return len(steps), len(cached & steps)


def _last(lines: Sequence[str]) -> str:
    told = [line for line in lines if line.strip()]
    return told[-1].strip() if told else "docker ended without saying why"


def _failed(text: str, images: Sequence[Image], log: Path) -> Exception:
    _raise_if_full(text)
    lines = text.splitlines()
    # The builder repeats the failed instruction's last output between two rulers, after the target that it belongs to.
    target = next((found.group(1) for line in lines if (found := re.match(r"\s*> \[([\w-]+)[ \]]", line))), "")
    image = next((link.name for link in in_order(images) if link.target == target), images[-1].name)
    told = [line for line in lines if re.search(r"\bERROR\b|^error|failed to solve", line)]
    reason = re.sub(r"^#\d+ (ERROR: |[\d.]+ )?", "", _last(told or lines))
    said = [found.group(1) for line in lines if (found := re.match(r"#\d+ [\d.]+ (ERROR.*|E: .*)", line))]
    return UserError("image-build-failed", image=image, reason=f"{reason} | {said[-1]}" if said else reason, log=log)


def _raise_if_full(text: str) -> None:
    if "no space left on device" in text.lower():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), engine_root())


def size(reference: str) -> int:
    """Bytes of an image with everything that it stands on; 0 if the engine does not have it."""
    return int(_ask("image", "inspect", "--format", "{{.Size}}", reference) or 0)


def engine_root() -> str:
    """The directory that the engine keeps images in, as the engine says it."""
    return _ask("info", "--format", "{{.DockerRootDir}}") or "docker"


def _torch_index(note: Callable[[str], None]) -> str:
    """PyTorch's CPU index if it is in reach, else "": where the image's pip is set up to look."""
    index = str(versions()["torch"]["cpu_index"])
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{index}/torch/", method="HEAD"), timeout=3) as answer:
            if answer.status == 200:
                return index
    except (urllib.error.URLError, OSError, ValueError):
        pass
    note(
        tr(
            "PyTorch's CPU index is out of reach: taking torch from where pip is set up to look",
            "連不上 PyTorch 的 CPU 套件庫：改從 pip 設定的來源取得 torch",
        )
    )
    return ""
