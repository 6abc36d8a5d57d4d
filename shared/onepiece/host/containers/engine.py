"""The Docker engine's API through docker-py: reaching it, its errors as the user reads them, and what of ours it has.

Containers are known by their labels, and whether the host that started one still lives by a lock that ends with it. Images are built and
pulled by the docker CLI, in `images`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from filelock import FileLock, Timeout

from onepiece.course.errors import UserError
from onepiece.course.places import HOME
from onepiece.host.containers.sandbox import LABEL
from onepiece.host.road.preflight import Engine

_SECONDS = 60  # until an engine that does not answer is given up


@contextlib.contextmanager
def connected(engine: Engine) -> Iterator[docker.DockerClient]:
    """The engine's API; what it refuses or cannot do becomes a `UserError`."""
    with translated(), contextlib.closing(docker.DockerClient(base_url=engine.host, version="auto", timeout=_SECONDS)) as client:
        yield client


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What docker-py raises, as the user reads it. Errors of writing files are left to who writes them."""
    try:
        yield
    except APIError as error:
        raise explain(str(error.explanation or error)) from None
    except (DockerException, OSError) as error:  # requests, below docker-py, calls whatever a connection can do an OSError
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if "Permission denied" in str(error):
            raise UserError("engine-refuses", reason="permission denied") from None
        raise UserError("engine-gone") from None


def explain(said: str) -> UserError:
    """What an engine answered when it could not do as it was told."""
    reason = " ".join(said.split())
    lower = reason.lower()
    if "no such image" in lower:
        return UserError("image-gone", image=reason.partition(": ")[2] or reason)
    if "no space left" in lower:
        return UserError("engine-disk-full", reason=reason)
    if any(word in lower for word in ("could not select device driver", "cdi device", "nvidia-container-cli")):
        return UserError("container-without-gpu", reason=reason)
    if any(word in lower for word in ("bind source path does not exist", "mounts denied", "not shared from the host")):
        return UserError("engine-does-not-see", reason=reason)
    return UserError("engine-says-no", reason=reason)


def identify(engine: Engine, reference: str) -> dict[str, Any]:
    """An image that is here, as `results.json` holds it.

    Raises:
        UserError: "image-gone", or what the engine says.
    """
    with connected(engine) as client:
        try:
            image = client.images.get(reference)
        except ImageNotFound:
            raise UserError("image-gone", image=reference) from None
    repository = reference.rpartition(":")[0]
    digests = [digest for digest in image.attrs.get("RepoDigests") or () if digest.rpartition("@")[0] == repository]
    return {"reference": reference, "id": image.id, "digest": digests[0] if digests else None}


# --- what is left behind ------------------------------------------------------------------------


def remove_abandoned(engine: Engine) -> tuple[list[str], list[str]]:
    """Remove the containers of this home whose host has ended; the names of what is gone, and of what is at work."""
    with connected(engine) as client:
        return remove_abandoned_of(client)


def remove_abandoned_of(client: docker.DockerClient) -> tuple[list[str], list[str]]:
    """`remove_abandoned`, over a connection that is there."""
    removed, working = [], []
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}.home={HOME}"}, ignore_removed=True):
        if _held(Path(container.labels.get(f"{LABEL}.lock", ""))):
            working.append(container.name)
        else:
            remove(container)
            removed.append(container.name)
    return removed, working


def remove_images(engine: Engine) -> tuple[list[str], list[str]]:
    """Remove the course's images, whatever their inputs were; the names of what is gone, and of what a container still uses."""
    removed, used = [], []
    with connected(engine) as client:
        for image in client.images.list(filters={"label": f"{LABEL}.inputs"}):
            # What somebody else builds on an image of ours has its label, but not its tag.
            ours = [tag for tag in image.tags if tag.rpartition(":")[2].startswith(image.labels[f"{LABEL}.inputs"][:16])]
            for tag in ours:
                try:
                    client.images.remove(tag)
                    removed.append(tag)
                except APIError as error:
                    if error.status_code != 409:
                        raise
                    used.append(tag)
    return removed, used


@contextlib.contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Let others see that the host of a container lives."""
    try:
        with FileLock(lock):
            yield
    finally:
        lock.unlink(missing_ok=True)


def _held(lock: Path) -> bool:
    """Does a host that lives hold this lock? Whoever ends, however that happens, lets go of it."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def remove(container: Container) -> None:
    """Remove a container, running or not. An engine that is gone cannot be asked: labels keep what it leaves findable."""
    with contextlib.suppress(DockerException, OSError):
        container.remove(force=True, v=True)
