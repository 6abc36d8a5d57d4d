"""Publishing and pulling by digest, over a real registry on loopback."""

from __future__ import annotations

import hashlib
import json
import tomllib
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from docker_engine import docker, registry
from rich.console import Console

from onepiece.course.errors import UserError
from onepiece.host.commands import pin
from onepiece.host.containers import images


def test_an_image_is_pushed_found_and_pulled_by_digest(
    stand_ins: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path) as address:
        monkeypatch.setenv("ONEPIECE_REGISTRY", f"{address}/course")
        image = images.image_for("vllm", "cuda")
        assert image.reference.startswith(f"{address}/course/vllm:")
        assert images.registry_known() and not images.published(image)
        try:
            images.build([image], note=print, push=True)
            identifier = images.local_id(image)
            assert images.published(image)
            assert pin.image_digest(image.reference) == images.push(image).partition("@")[2], "the registry and the engine agree"

            docker("image", "rm", image.reference)
            assert images.local_id(image) is None
            digest = images.pull(image)
            assert digest.startswith(f"{address}/course/vllm@sha256:")
            assert images.local_id(image) == identifier
            assert docker("image", "inspect", "--format", "{{.Id}}", digest).stdout.strip() == identifier
            assert digest.partition("@")[2] == pin.image_digest(image.reference)
        finally:
            docker("image", "rm", "--force", image.reference, check=False)


def test_without_its_registry_an_image_is_not_published_and_says_so_when_pulled(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_REGISTRY", "127.0.0.1:9/course")
    image = images.image_for("vllm", "cuda")
    assert images.published(image) is False
    with pytest.raises(UserError) as error:
        images.pull(image)
    assert error.value.code == "image-pull-failed"
    assert "127.0.0.1:9" in error.value.cause.en
    with pytest.raises(UserError) as error:
        images.push(image)
    assert error.value.code == "image-push-failed"


def send(address: str, name: str, content: bytes) -> tuple[str, int]:
    """Put a blob into a registry; returns its digest and size. Source: OCI distribution specification, "Push"."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    started = urllib.request.urlopen(urllib.request.Request(f"http://{address}/v2/{name}/blobs/uploads/", method="POST"))
    upload = f"{started.headers['Location']}&digest={digest}"
    urllib.request.urlopen(urllib.request.Request(upload, content, {"Content-Type": "application/octet-stream"}, method="PUT")).close()
    return digest, len(content)


def publish(address: str, name: str, tag: str, content: str) -> str:
    """Put a small image of one blob into a registry; returns its digest."""
    digest, size = send(address, name, content.encode())
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}).encode()
    address = f"http://{address}/v2/{name}/manifests/{tag}"
    urllib.request.urlopen(urllib.request.Request(address, manifest, {"Content-Type": kind}, method="PUT")).close()
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def test_pin_writes_what_the_registry_has_into_the_versions_and_behind_the_tags_of_compose(tmp_path: Path) -> None:
    versions, compose = tmp_path / "versions.toml", tmp_path / "serving.yaml"
    with registry(tmp_path) as address:
        first = publish(address, "some/gateway", "1.28", "{}")
        tag = f"{address}/some/gateway:1.28"
        versions.write_text(f'[serving.images.gateway]\ntag = "{tag}"\ndigest = ""\n', encoding="utf-8")
        compose.write_text(f"a: ${{IMAGE:-{tag}}}\nb: {tag}-alpine\nc: other/{tag}\nd: my-{tag}\n", encoding="utf-8")

        def run(*, upgrade: bool = False) -> tuple[int, str, str]:
            present = tomllib.loads(versions.read_text(encoding="utf-8"))["serving"]["images"]["gateway"]["digest"]
            wanted = pin.Pin("serving.images.gateway", "digest", tag, present, lambda: pin.image_digest(tag), (compose,))
            code = pin.run(Console(record=True), versions, [wanted], upgrade)
            return code, versions.read_text(encoding="utf-8"), compose.read_text(encoding="utf-8")

        done = run()
        assert done[0] == 0 and f'digest = "{first}"' in done[1]
        assert done[2] == f"a: ${{IMAGE:-{tag}@{first}}}\nb: {tag}-alpine\nc: other/{tag}\nd: my-{tag}\n", (
            "another tag and another name stay"
        )

        second = publish(address, "some/gateway", "1.28", '{"moved": true}')
        assert second != first and run() == done, "what is pinned stays, although the tag moved"
        moved = run(upgrade=True)
        assert moved == (0, done[1].replace(first, second), done[2].replace(first, second))
