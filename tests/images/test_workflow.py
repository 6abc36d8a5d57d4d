"""The workflows as they are written: GitHub's own schema, pinned actions, least rights, and a matrix that is the catalog's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toy_course
import yaml
from docker_engine import registry
from parts import missing
from rich.console import Console
from test_registry import send

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.host.commands import images as build_images
from onepiece.host.commands import pin
from onepiece.host.containers import image_inputs, images, publishing
from onepiece.host.road import environments

GITHUB = toy_course.ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
DIGEST = "sha256:" + "0123456789abcdef" * 4
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}  # YAML 1.1 reads `on` as a boolean; GitHub does not


def schema(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((toy_course.ROOT / "tests/schemas" / f"{name}.json").read_text(encoding="utf-8")))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job.get("steps", [])]


# --- every workflow -------------------------------------------------------------------------------


@each_workflow
def test_a_workflow_is_one_for_github(path: Path) -> None:
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in schema("github-workflows").iter_errors(read(path))]
    assert errors == []


def test_the_schema_finds_a_mistake() -> None:
    workflow = read(GITHUB / "workflows/tests.yml")
    workflow["jobs"]["tests"]["permission"] = {"contents": "write"}
    assert not schema("github-workflows").is_valid(workflow)


def test_dependabot_proposes_newer_actions() -> None:
    content = read(GITHUB / "dependabot.yml")
    assert [error.message for error in schema("dependabot").iter_errors(content)] == []
    assert [update["package-ecosystem"] for update in content["updates"]] == ["github-actions"]


@each_workflow
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "uses:" in line:
            action = line.partition("uses:")[2].strip()
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) or action.startswith("./.github/workflows/"), action
    for step in steps(path):
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_version_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for step in steps(path):
            name, _, commit = str(step.get("uses", "")).partition("@")
            found.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in found.items() if len(commits) > 1} == {}


@each_workflow
def test_a_workflow_has_the_least_rights_and_an_end(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        publishes = "uses" in job or path.name == "publish-image.yml"
        default = {"contents": "read"} if workflow["permissions"] == {} else {}
        assert job.get("permissions", {}) == default | ({"packages": "write", "id-token": "write"} if publishes else {})
        assert "uses" in job or job["timeout-minutes"] <= 180
    assert "pull_request_target" not in workflow["on"]


@each_workflow
def test_what_outsiders_can_write_is_in_no_shell_and_nothing_floats(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "values come through env, which no shell reads as code"
        assert "secrets." not in json.dumps(step), "the job's own token is enough"
    if path.name != "tests.yml":
        assert "latest" not in path.read_text(encoding="utf-8")


def test_the_tests_run_on_every_python_and_system_that_the_readme_names() -> None:
    matrix = read(GITHUB / "workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    limits = environments.versions()["python"]
    lowest, highest = (int(limits[end].partition(".")[2]) for end in ("minimum", "maximum"))
    assert matrix["python"] == [f"3.{minor}" for minor in range(lowest, highest + 1)]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    commands = [step.get("run", "") for step in steps(GITHUB / "workflows/tests.yml")]
    assert "python -m nox -s tests" in commands and "python -m nox -s lab-1.5-flashattention" in commands
    assert ".ci/run" in commands and (toy_course.ROOT / ".ci/run").is_file()


# --- publishing -----------------------------------------------------------------------------------


def everything() -> list[tuple[str, str]]:
    """(name, variant) of all images of the course, from the files alone."""
    found = []
    for name, group in environments.versions()["images"]["groups"].items():
        found += [(name, variant) for variant in group.get("base", {"cuda": ""})]
    labs = [lab.id for lab in catalog.load().labs]
    return sorted(found + [(lab, variant) for lab in labs for variant in images.VARIANTS])


def test_the_matrix_is_the_catalog() -> None:
    jobs = [job for stage in publishing.stages(build_images.both_variants([])) for job in stage]
    assert sorted((job["name"], job["variant"]) for job in jobs) == everything()
    references = [f"{job['repository']}:{job['tag']}" for job in jobs]
    assert len(set(references)) == len(references) and not [reference for reference in references if reference.endswith(":latest")]
    for job in jobs:
        image = images.image_for(job["name"], job["variant"])
        assert f"{job['repository']}:{job['tag']}" == image.reference
        assert (toy_course.ROOT / job["file"]).is_file() and (toy_course.ROOT / job["context"]).is_dir()
        args = dict(line.split("=", 1) for line in job["build_args"].splitlines())
        assert args.items() >= dict(image.build_args).items()
        declared = re.findall(r"^ARG (\w+)", (toy_course.ROOT / job["file"]).read_text(encoding="utf-8"), re.M)
        assert set(args) <= set(declared), "an argument that the Dockerfile does not know"
        assert dict(line.split("=", 1) for line in job["labels"].splitlines()) == dict(image.labels)


def test_an_image_comes_after_those_that_it_stands_on() -> None:
    stages = publishing.stages(build_images.both_variants([]))
    assert len(stages) == publishing.STAGES
    published: set[str] = set()
    for stage in stages:
        for job in stage:
            args = dict(line.split("=", 1) for line in job["build_args"].splitlines())
            needed = {value for key, value in args.items() if key in ("GROUP_IMAGE", "FLOOR_IMAGE")}
            assert needed <= published, job["name"]
        published |= {f"{job['repository']}:{job['tag']}" for job in stage}


def test_one_lab_brings_what_it_stands_on_and_a_group_only_the_variants_that_it_has() -> None:
    stages = publishing.stages(build_images.both_variants(["lab-1.5"]))
    assert [sorted((job["name"], job["variant"]) for job in stage) for stage in stages] == [
        [("flash", "cuda"), ("train", "cpu")],
        [("lab-1.5-flashattention", "cpu"), ("lab-1.5-flashattention", "cuda")],
        [],
    ]


def test_the_workflow_has_a_job_for_each_stage_in_order() -> None:
    jobs = read(GITHUB / "workflows/images.yml")["jobs"]
    calls = {name: job for name, job in jobs.items() if "uses" in job}
    assert len(calls) == publishing.STAGES
    before = ["plan"]
    for number, (name, job) in enumerate(calls.items()):
        assert job["needs"] == (before if number else "plan")
        assert job["uses"] == "./.github/workflows/publish-image.yml"
        assert job["with"]["images"] == f"${{{{ toJSON(fromJSON(needs.plan.outputs.stages)[{number}]) }}}}"
        assert f"fromJSON(needs.plan.outputs.stages)[{number}][0] != null" in job["if"]
        before.append(name)
    called = read(GITHUB / "workflows/publish-image.yml")["on"]["workflow_call"]["inputs"]
    assert all(set(job["with"]) == set(called) for job in calls.values())


def test_the_workflow_uses_what_the_matrix_has() -> None:
    path = GITHUB / "workflows/publish-image.yml"
    used = set(re.findall(r"matrix\.(\w+)", path.read_text(encoding="utf-8")))
    assert used == set(publishing.entry(images.image_for("train", "cpu")))
    plan = read(GITHUB / "workflows/images.yml")["jobs"]["plan"]["steps"][-1]["run"]
    for name in [*environments.versions()["publishing"]["images"], "stages"]:
        assert f'"{name}=\\(.{name}' in plan
    assert "nox -s images -- --matrix" in plan and "ghcr.io/${GITHUB_REPOSITORY,,}" in plan


def test_an_image_is_pushed_by_digest_signed_and_only_then_tagged() -> None:
    found = steps(GITHUB / "workflows/publish-image.yml")
    (build,) = [step["with"] for step in found if "build-push-action" in step.get("uses", "")]
    assert "push-by-digest=true" in build["outputs"] and "tags" not in build
    assert build["provenance"] == "mode=max" and build["sbom"].startswith("generator=")
    (sign,) = [step["run"] for step in found if "cosign sign" in step.get("run", "")]
    assert sign.index('cosign sign --yes "$REPOSITORY@$DIGEST"') < sign.index('--tag "$REPOSITORY:$TAG" "$REPOSITORY@$DIGEST"')
    (login,) = [step["with"] for step in found if "login-action" in step.get("uses", "")]
    assert login["registry"] == "ghcr.io" and login["password"] == "${{ github.token }}"
    summary = found[-1]["run"]
    for word in ("$NAME", "$REPOSITORY:$TAG", "$DIGEST", "$bytes"):
        assert word in summary


def script(name: str) -> str:
    (found,) = [step["run"] for step in steps(GITHUB / "workflows/publish-image.yml") if step.get("name") == name]
    return str(found)


def test_the_steps_find_tag_and_describe_an_image_in_a_real_registry(tmp_path: Path) -> None:
    for program in ("docker", "jq"):
        if shutil.which(program) is None:
            missing("docker", f"{program} is not installed")
    if subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode != 0:
        missing("docker", "the buildx plugin is not installed")
    with registry(tmp_path) as address:
        digest, size = publish_index(address, "course/train")
        written = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        values = {"REPOSITORY": f"{address}/course/train", "TAG": "0123456789abcdef", "DIGEST": digest}
        values |= {"NAME": "train (cuda)", "BUILT": "built now"} | {name: str(path) for name, path in written.items()}

        def step(text: str) -> None:
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
            done = subprocess.run(command, env=os.environ | values, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

        step(script("Is it published already?"))
        assert written["GITHUB_OUTPUT"].read_text(encoding="utf-8") == "digest=\n", (
            "an image that is pushed and has no tag is not published"
        )
        sign = script("Sign, then tag").splitlines(keepends=True)
        assert sign[0].startswith("cosign sign ")
        step("".join(sign[1:]))
        step(script("Is it published already?"))
        assert written["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines()[-1] == f"digest={digest}"
        step(script("Say what is published"))
        last = written["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8").splitlines()[-1]
        assert last == f"| train (cuda) | `{address}/course/train:0123456789abcdef` | `{digest}` | {size} | built now |"


def publish_index(address: str, name: str) -> tuple[str, int]:
    """What BuildKit pushes: an index of an image and its attestations, without a tag. Returns its digest, and the image's bytes."""
    image = {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    parts = [send(address, name, content) for content in (json.dumps(image).encode(), b"layer" * 100)]
    kinds = [f"application/vnd.oci.image.{kind}" for kind in ("config.v1+json", "layer.v1.tar")]
    config, layer = ({"mediaType": kind, "digest": digest, "size": size} for kind, (digest, size) in zip(kinds, parts, strict=True))
    manifests = []
    for platform in ({"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"}):
        content = {"schemaVersion": 2, "config": config, "layers": [layer], "annotations": platform}
        manifests.append(put(address, name, "manifest", content) | {"platform": platform})
    index = put(address, name, "index", {"schemaVersion": 2, "manifests": manifests})
    return str(index["digest"]), sum(size for _, size in parts)


def put(address: str, name: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """Push a manifest by its digest; returns its descriptor."""
    media = f"application/vnd.oci.image.{kind}.v1+json"
    data = json.dumps({**content, "mediaType": media}).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    request = urllib.request.Request(f"http://{address}/v2/{name}/manifests/{digest}", data, {"Content-Type": media}, method="PUT")
    urllib.request.urlopen(request).close()
    return {"mediaType": media, "digest": digest, "size": len(data)}


@pytest.fixture
def versions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The course's files with a `versions.toml` that a test may change, and a registry to publish to."""
    shutil.copytree(toy_course.ROOT / "images", tmp_path / "images")
    for module, name, value in (
        (image_inputs, "ROOT", tmp_path),
        (image_inputs, "IMAGES", tmp_path / "images"),
        (environments, "IMAGES", tmp_path / "images"),
    ):
        monkeypatch.setattr(module, name, value)
    shutil.copy(toy_course.ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("ONEPIECE_REGISTRY", "ghcr.io/some-one/course")
    return tmp_path / "images/versions.toml"


@pytest.fixture(autouse=True)
def read_versions_anew() -> Any:
    environments.versions.cache_clear()
    yield
    environments.versions.cache_clear()


def set_every_pin(path: Path, value: str) -> None:
    text = path.read_text(encoding="utf-8")
    for item in pin.pins(environments.versions()):
        if item.key == "digest":
            text = pin.written(text, item.table, item.key, value)
        elif item.key == "sha256":
            text = pin.written(text, item.table, item.key, value.removeprefix("sha256:"))
    path.write_text(text, encoding="utf-8")
    environments.versions.cache_clear()


def test_what_is_pinned_is_planned(versions_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_every_pin(versions_file, DIGEST)
    assert build_images.command(Console(record=True), ["train", "--matrix"]) == 0
    plan = json.loads(capsys.readouterr().out)
    tools = environments.versions()["publishing"]["images"]
    assert plan["buildkit"] == f"{tools['buildkit']['tag']}@{DIGEST}" and plan["sbom"] == f"{tools['sbom']['tag']}@{DIGEST}"
    assert [[(job["name"], job["variant"]) for job in stage] for stage in plan["stages"]] == [[("train", "cuda"), ("train", "cpu")], [], []]
    cuda, cpu = (dict(line.split("=", 1) for line in job["build_args"].splitlines()) for job in plan["stages"][0])
    assert cuda["BASE_IMAGE"].endswith(f"@{DIGEST}") and cpu["TORCH_INDEX"] == environments.versions()["torch"]["cpu_index"]
    assert plan["stages"][0][0]["repository"] == "ghcr.io/some-one/course/train"


@pytest.mark.parametrize("table", ["images.bases.cuda", "images.bases.cpu", "publishing.images.buildkit", "publishing.images.sbom"])
def test_one_pin_that_is_missing_stops_the_whole_plan(versions_file: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_every_pin(versions_file, DIGEST)
    versions_file.write_text(pin.written(versions_file.read_text(encoding="utf-8"), table, "digest", ""), encoding="utf-8")
    environments.versions.cache_clear()
    with pytest.raises(UserError) as error:
        build_images.command(Console(record=True), ["train", "--matrix"])
    assert error.value.code == "unresolved-pin"
    one, two, three = table.split(".")
    assert environments.versions()[one][two][three]["tag"] in error.value.cause.en
    assert capsys.readouterr().out == ""


def test_without_a_registry_there_is_no_plan(versions_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_every_pin(versions_file, DIGEST)
    monkeypatch.setattr(images, "registry_known", lambda: False)
    with pytest.raises(UserError) as error:
        build_images.command(Console(record=True), ["train", "--matrix"])
    assert error.value.code == "no-registry"
