"""Publishing and pulling by digest, over a real registry on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from docker_engine import docker, registry

from onepiece.errors import UserError
from onepiece.host import images, pin


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
