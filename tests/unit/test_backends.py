"""Which backend is made ready, where an image comes from, and what happens when it cannot be had. No engine needed."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onepiece.course.catalog import Gate, Lab, Profile
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.containers import images
from onepiece.host.road import environments, preflight, prepare
from onepiece.host.road.plan import Request
from onepiece.host.road.preflight import Engine, Facts, Gpu

LAB = Lab(
    id="lab-9.1-toy",
    directory=Path("labs/lab-9.1-toy"),
    title=Text("A toy", "玩具"),
    summary=Text("Counts.", "數數。"),
    chapter="1.3",
    level="core",
    notebooks=("01-count",),
    image="train",
    profiles={"cpu": Profile(minutes=1, settings={}, memory_gb=1), "gpu": Profile(minutes=1, settings={}, vram_gb=16)},
    gates=(Gate("error", Text("It counts", "會數"), max=0.1),),
)
ENGINE = Engine("29.0", "1.52", buildx="0.31", gpu="runtime")
FACTS = Facts("linux", "x86_64", "3.12.1", 8, 64, 500, (Gpu("L4", 22.5, "580.95.05", "8.9"),), "", ENGINE, "")


@dataclasses.dataclass
class Images:
    """The images that there are, and what was asked of them."""

    here: bool = False
    in_registry: bool = False
    known: bool = True
    pull_fails: bool = False
    build_fails: bool = False
    asked: list[str] = dataclasses.field(default_factory=list)

    def local_id(self, _: Any) -> str | None:
        self.asked.append("here?")
        return "sha256:1" if self.here else None

    def published(self, _: Any) -> bool:
        self.asked.append("published?")
        return self.in_registry

    def pull(self, image: Any, _: Any) -> str:
        self.asked.append("pull")
        if self.pull_fails:
            raise UserError("image-pull-failed", image="x", name="x", reason="the network is down")
        return "x@sha256:1"

    def build(self, _: Any, **__: Any) -> None:
        self.asked.append("build")
        if self.build_fails:
            raise UserError("image-build-failed", image="x", reason="no base", log="x.log")


@dataclasses.dataclass(frozen=True)
class Image:
    reference: str = "registry.example/lab-9.1-toy:1"
    context: Path = Path("nowhere")
    inputs: str = "0" * 64


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Images:
    made = Images()
    monkeypatch.setattr(images, "image_for", lambda *_: Image())
    monkeypatch.setattr(images, "registry_known", lambda: made.known)
    for name in ("local_id", "published", "pull", "build"):
        monkeypatch.setattr(images, name, getattr(made, name))
    monkeypatch.setattr(preflight, "gather", lambda: FACTS)
    monkeypatch.setattr("onepiece.host.containers.engine.identify", lambda *_: {"reference": "x", "id": "sha256:1", "digest": None})
    environment = environments.Environment("train", Path("nowhere"), "0" * 64)
    monkeypatch.setattr(prepare, "prepare_environment", lambda *_: environment)
    return made


def ready(backend: str = "auto", fresh: bool = False) -> tuple[prepare.Backend, str]:
    console = Console(file=io.StringIO(), width=400)
    made = prepare.make_ready(console, LAB, Request(backend=backend), fresh=fresh)
    return made, console.file.getvalue()  # type: ignore[attr-defined]


# --- where the image comes from ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "asked", "says"),
    [
        pytest.param({"here": True, "in_registry": True}, ["here?"], "which is here", id="here: no registry is asked"),
        pytest.param({"in_registry": True}, ["here?", "published?", "pull"], "Pulling the image", id="published"),
        pytest.param({}, ["here?", "published?", "build"], "Building the image", id="nowhere"),
        pytest.param({"known": False}, ["here?", "build"], "Building the image", id="no registry"),
        pytest.param(
            {"in_registry": True, "pull_fails": True},
            ["here?", "published?", "pull", "build"],
            "the network is down",
            id="a pull that fails",
        ),
    ],
)
def test_an_image_is_taken_from_here_else_pulled_else_built(there: Images, image: dict[str, bool], asked: list[str], says: str) -> None:
    for name, value in image.items():
        setattr(there, name, value)
    backend, said = ready()
    assert (backend.plan.backend, backend.plan.device) == ("container", "cuda")
    assert backend.image is not None
    assert there.asked == asked
    assert says in said


def test_fresh_builds_even_what_is_here(there: Images) -> None:
    there.here = True
    ready(fresh=True)
    assert there.asked == ["here?", "build"]


# --- else locally -----------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_had_is_said_and_the_lab_runs_locally(there: Images) -> None:
    there.build_fails = True
    backend, said = ready()
    assert (backend.plan.backend, backend.plan.device, backend.image) == ("local", "cuda", None)
    assert "no container after all" in said
    assert "no base" in said
    assert said.splitlines()[-1].startswith("Running locally on cuda")


def test_a_container_that_was_asked_for_is_not_replaced(there: Images) -> None:
    there.build_fails = True
    with pytest.raises(UserError, match="no base"):
        ready("container")


def test_who_asks_to_run_locally_waits_for_no_image(there: Images) -> None:
    backend, _ = ready("local")
    assert backend.plan.backend == "local"
    assert there.asked == []


def test_without_buildx_and_without_a_registry_there_is_no_image(there: Images) -> None:
    facts = dataclasses.replace(FACTS, engine=dataclasses.replace(ENGINE, buildx=""))
    state = prepare.image_state(LAB, facts, Request())
    assert (state.source, state.ready) == ("", False)
    assert "buildx" in state.reason.en


def test_a_lab_without_a_dockerfile_has_no_image_and_says_which(there: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise UserError("no-image", image=LAB.id, reason="images/lab-9.1-toy/Dockerfile")

    monkeypatch.setattr(images, "image_for", none)
    backend, said = ready()
    assert backend.plan.backend == "local"
    assert "images/lab-9.1-toy/Dockerfile" in said
