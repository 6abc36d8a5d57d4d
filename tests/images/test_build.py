"""Every Dockerfile is built, on stand-ins where its base is out of reach, and what an image promises its children keep.

What a stand-in cannot show is CUDA, Ubuntu's Python 3.12, and the servers inside the vendors' images: those Dockerfiles are
executed to the last instruction, with small locks in place of gigabytes of CUDA wheels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import stand_in
import toy_course
from docker_engine import REGISTRY, docker

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.host.commands import images as build_images
from onepiece.host.containers import images
from onepiece.host.road.environments import versions

IMAGES = toy_course.ROOT / "images"
LAB = "lab-1.5-flashattention"
LABS = [lab.id for lab in catalog.load().labs]
GROUPS = list(images.groups())


def as_test(image: images.Image, name: str, **changes: object) -> images.Image:
    """An image that a test has changed, under a tag of its own."""
    return dataclasses.replace(image, reference=f"{REGISTRY}/changed-{name}:test", **changes)


def flash(directory: Path, sha256: str) -> images.Image:
    """The flash group with small locks in place of its own, and the stand-in's empty wheel."""
    context = directory / "flash"
    context.mkdir(exist_ok=True)
    shutil.copy(IMAGES / "host/lock.txt", context / "lock.txt")
    shutil.copy(IMAGES / "triton/lock.txt", context / "extra-jupyter.txt")
    image = images.image_for("flash", "cuda")
    args = {**image.build_args, "FLASH_ATTN_INDEX": stand_in.FLASH_INDEX, "FLASH_ATTN_SHA256": sha256}
    return as_test(image, "flash", context=context, build_args=args)


def evaluation(directory: Path) -> images.Image:
    """The eval group on train's CPU variant, with the CPU's lm-eval lock."""
    context = directory / "eval"
    context.mkdir(exist_ok=True)
    shutil.copy(IMAGES / "cpu/extra-lm-eval.txt", context / "lock.txt")
    parent = images.image_for("train", "cpu")
    args = {"GROUP_IMAGE": parent.reference}
    return as_test(images.image_for("eval", "cuda"), "eval", context=context, parent=parent, build_args=args)


@pytest.fixture(scope="module")
def wheel_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("wheel") / "flash-attn"
    stand_in._empty_wheel(directory, versions()["images"]["flash_attn"]["version"])
    (wheel,) = directory.glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def built(stand_ins: Mapping[str, str], wheel_sha256: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, images.Image]:
    """Name -> image, all of them built: groups by their name, labs by their id."""
    directory = tmp_path_factory.mktemp("contexts")
    made = {
        "train": images.image_for("train", "cpu"),
        "flash": flash(directory, wheel_sha256),
        "eval": evaluation(directory),
        "vllm": images.image_for("vllm", "cuda"),
        "triton": images.image_for("triton", "cuda"),
        **{name: images.image_for(name, "cpu") for name in ("vllm-cpu", "triton-cpu")},
        **{lab: images.image_for(lab, "cpu") for lab in LABS},
    }
    assert set(GROUPS) <= set(made), "a group without a test of its build"
    log: list[str] = []
    images.build(list(made.values()), note=print, detail=log.append)
    (directory / "build.log").write_text("\n".join(log), encoding="utf-8")
    return made


def run(image: images.Image, *command: str, options: tuple[str, ...] = (), check: bool = True) -> str:
    """What a command writes in a container that has no network, and is removed."""
    return docker("run", "--rm", "--network", "none", *options, image.reference, *command, check=check).stdout.strip()


# --- what images promise --------------------------------------------------------------------------


def the_user_is_not_root(image: images.Image) -> None:
    assert run(image, "id", "-u", options=("--entrypoint", "")) == "1000"
    assert run(image, "id", "-g", options=("--entrypoint", "")) == "0"


def anyone_can_write_to_home_and_has_a_name(image: images.Image) -> None:
    # An arbitrary UID in group 0, as clusters give; a caller's own UID and GID; no capability is needed.
    for user in ("54321:0", "54321:54322"):
        options = ("--user", user, "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", "")
        script = "import getpass, pathlib; pathlib.Path.home().joinpath('x').write_text('y'); print(getpass.getuser(), pathlib.Path.home())"
        assert run(image, "python3", "-c", script, options=options) == "learner /home/learner"


def labels_say_what_it_is(image: images.Image) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image.reference).stdout)
    assert dict(image.labels).items() <= labels.items()
    for key in ("title", "version", "licenses", "base.name"):
        assert labels[f"org.opencontainers.image.{key}"]
    assert labels["org.onepiece.inputs"] == image.inputs


def nothing_is_left_behind(image: images.Image) -> None:
    assert leaks(image.reference, base_of(image)) == []


def the_lock_is_what_is_installed(image: images.Image) -> None:
    packages = "torch transformers peft trl bitsandbytes datasets accelerate nbclient ipykernel"
    assert (
        run(image, "python", "-c", f"import {packages.replace(' ', ', ')}; print(torch.__version__.split('+')[0])")
        == (versions()["environments"]["cpu"]["torch"])
    )
    assert "No broken requirements found" in run(image, "pip", "check")


def bytecode_is_compiled(image: images.Image) -> None:
    # Otherwise a user who cannot write there compiles torch anew at each start.
    script = "import importlib.util as u, torch, transformers, pathlib; print([m.__name__ for m in (torch, transformers) if not pathlib.Path(u.cache_from_source(m.__file__)).is_file()])"
    assert run(image, "python", "-c", script) == "[]"


def jupyterlab_starts(image: images.Image) -> None:
    group = image.floor or image
    while group.parent is not None:
        group = group.parent
    locked = re.search(r"^jupyterlab==(\S+)", (group.context / "extra-jupyter.txt").read_text(encoding="utf-8"), re.M)
    assert locked and run(image, "jupyter", "lab", "--version", options=("--user", "54321:54322")) == locked.group(1)


def there_is_no_compiler(image: images.Image) -> None:
    assert run(image, "sh", "-c", "command -v gcc cc clang g++ nvcc", options=("--entrypoint", ""), check=False) == ""


def it_works_in_course(image: images.Image) -> None:
    assert run(image, "pwd") == "/course"


def flash_attn_is_the_pinned_one(image: images.Image) -> None:
    assert run(image, "python", "-c", "import flash_attn; print(flash_attn.__version__)") == versions()["images"]["flash_attn"]["version"]


def lm_eval_imports(image: images.Image) -> None:
    assert run(image, "python", "-c", "import lm_eval; print('ok')") == "ok"


def the_client_is_beside_the_server(image: images.Image) -> None:
    script = "import tritonclient.http, tritonclient.grpc, importlib.metadata as m; print(m.version('tritonclient'))"
    assert run(image, "/opt/client/bin/python", "-c", script, options=("--entrypoint", "")) == "2.73.0"


def vllm_is_there_in_an_environment_of_its_own(image: images.Image) -> None:
    assert run(image, "/opt/server/bin/python", "-c", "import vllm; print('ok')").endswith("ok")
    assert "No module named 'vllm'" in run(image, "python", "-c", "try: import vllm\nexcept ImportError as error: print(error)")


def tritonserver_starts(image: images.Image) -> None:
    assert "--model-repository" in docker("run", "--rm", image.reference, "tritonserver", "--help", check=False).stderr


def triton_is_there_for_its_interpreter(image: images.Image) -> None:
    assert run(image, "python", "-c", "import triton; print(triton.__version__)", options=("--env", "TRITON_INTERPRET=1")) == "3.7.1"


Promise = Callable[[images.Image], None]
EVERY: list[Promise] = [
    the_user_is_not_root,
    anyone_can_write_to_home_and_has_a_name,
    labels_say_what_it_is,
    nothing_is_left_behind,
    there_is_no_compiler,
]
# Promises that the files alone decide; the others also depend on the settings of the image.
ABOUT_FILES = {the_lock_is_what_is_installed, bytecode_is_compiled, there_is_no_compiler}
OWN: dict[str, list[Promise]] = {
    "train": [*EVERY, the_lock_is_what_is_installed, bytecode_is_compiled, jupyterlab_starts, it_works_in_course],
    "flash": [*EVERY, flash_attn_is_the_pinned_one, it_works_in_course],
    "eval": [lm_eval_imports],
    "vllm": EVERY,
    "triton": [*EVERY, the_client_is_beside_the_server],
    "vllm-cpu": EVERY,
    "triton-cpu": EVERY,
    LAB: [triton_is_there_for_its_interpreter],
}
STARTS: dict[str | None, list[Promise]] = {"vllm": [vllm_is_there_in_an_environment_of_its_own], "triton": [tritonserver_starts]}
OWN |= {lab.id: OWN.get(lab.id, []) + STARTS[lab.server] for lab in catalog.load().labs if lab.server}


def promises() -> list[tuple[str, Promise]]:
    """Each image with what it promises itself and what it inherits."""
    parents = {"eval": "train", **dict.fromkeys(LABS, "train")}  # of a lab with a server too: train's environment is copied into it
    return [(name, promise) for name in [*GROUPS, *LABS] for promise in [*OWN.get(parents.get(name, ""), []), *OWN.get(name, [])]]


@pytest.mark.parametrize(("name", "promise"), promises(), ids=lambda value: getattr(value, "__name__", value))
def test_an_image_keeps_its_promises_and_those_of_its_parent(built: dict[str, images.Image], name: str, promise: Promise) -> None:
    image = built[name]
    if promise in ABOUT_FILES and image.parent is not None and layers(image) == layers(image.parent):
        return  # not one file differs from its parent, which is tested
    promise(image)


def layers(image: images.Image) -> list[str]:
    return list(json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image.reference).stdout))


# --- leaks ----------------------------------------------------------------------------------------

SECRET_FILES = r"\( -name pip.conf -o -name .netrc -o -name .pypirc -o -name 'id_*' -o -name '*.key' -o -name .git-credentials -o -name .docker -o -name token \)"
CACHES = "/root/.cache /home/learner /tmp /var/lib/apt/lists /var/cache/apt/archives"


def base_of(image: images.Image) -> str:
    return images.replaced_bases().get(image.base.partition("@")[0], image.base)


def leaks(reference: str, base: str) -> list[str]:
    """What an image has that nobody should get with it: secrets in its history, environment or files, caches, leftovers."""
    found = []
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", reference).stdout
    settings = docker("image", "inspect", "--format", "{{json .Config.Env}}", reference).stdout
    for text in (history, settings):
        found += re.findall(r"(?i)\b\w*(?:token|password|secret|api_key)\w*=\S+|https?://[^/\s]+:[^/\s]+@", text)
    script = f"find / -xdev {SECRET_FILES} -type f -not -path '/proc/*' 2>/dev/null | sort"
    files = {name: _as_root(name, script) for name in (reference, base)}
    found += sorted(files[reference] - files[base] - {path for path in files[reference] if "/site-packages/" in path or "/test" in path})
    found += sorted(
        _as_root(reference, f"find {CACHES} -mindepth 1 -type f -size +0 2>/dev/null")
        - _as_root(base, f"find {CACHES} -type f 2>/dev/null")
    )
    return found


def _as_root(reference: str, script: str) -> set[str]:
    out = docker("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "", reference, "sh", "-c", script, check=False).stdout
    return set(out.split("\n")) - {""}


def test_the_leak_test_finds_leaks(built: dict[str, images.Image], tmp_path: Path) -> None:
    vllm = built["vllm"]
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nUSER 0\nENV HF_TOKEN=hf_canary\n"
        "RUN pip_index=https://user:canary@index.example/simple; echo $pip_index >/root/.netrc && mkdir /root/.cache && echo x >/root/.cache/x\n",
        encoding="utf-8",
    )
    leaky = as_test(vllm, "leaky", dockerfile=dockerfile, context=tmp_path)
    images.build([leaky], note=print)
    found = " ".join(leaks(leaky.reference, base_of(leaky)))
    for leak in ("HF_TOKEN=hf_canary", "https://user:canary@", "/root/.netrc", "/root/.cache/x"):
        assert leak in found


# --- what runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), [("vllm", "health"), ("triton", "v2/health/ready")])
def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(built: dict[str, images.Image], name: str, path: str) -> None:
    serve = f"mkdir -p $HOME/s/{Path(path).parent} && echo ok >$HOME/s/{path} && exec python3 -m http.server 8000 --directory $HOME/s"
    for script, expected in ((serve, "healthy"), ("exec sleep 60", "unhealthy")):
        # The image's own check, only more often; what answers is a plain file server.
        often = ("--health-interval", "1s", "--health-retries", "2", "--health-start-period", "1ms")
        options = ("--detach", "--network", "none", "--init", "--label", "org.onepiece.test", "--entrypoint", "")
        container = docker("run", *options, *often, built[name].reference, "sh", "-c", script).stdout.strip()
        try:
            state = "starting"
            for _ in range(60):
                state = docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()
                if state != "starting" and not (expected == "healthy" and state == "unhealthy"):
                    break
                time.sleep(0.5)
            assert state == expected
        finally:
            docker("rm", "--force", container)


def test_on_the_gpu_the_triton_lab_has_the_compiler_that_triton_calls(built: dict[str, images.Image]) -> None:
    cpu = built[LAB]
    gpu = as_test(cpu, "lab-gpu", build_args={**cpu.build_args, "VARIANT": "cuda"})
    images.build([gpu], note=print)
    # What triton.runtime.build does at a first launch: a shared library against Python's headers.
    script = """
import pathlib, subprocess, sysconfig, tempfile
directory = pathlib.Path(tempfile.mkdtemp())
(directory / "a.c").write_text('#include <Python.h>\\nint one(void) { return 1; }\\n')
command = ["gcc", str(directory / "a.c"), "-O3", "-shared", "-fPIC", "-o", str(directory / "a.so")]
subprocess.run([*command, "-I", sysconfig.get_paths(scheme="posix_prefix")["include"]], check=True)
import ctypes
print(ctypes.CDLL(str(directory / "a.so")).one())
"""
    assert run(gpu, "python", "-c", script, options=("--user", "54321:54322")) == "1"


# --- building again, and failing ------------------------------------------------------------------


def test_building_again_takes_everything_from_the_cache(built: dict[str, images.Image]) -> None:
    before = {name: images.local_id(image) for name, image in built.items()}
    again = images.build(list(built.values()), note=print)
    print(f"warm: {again.seconds:.1f} s, {again.cached} of {again.steps} steps cached")
    assert again.steps == again.cached > 0
    assert {name: images.local_id(image) for name, image in built.items()} == before
    assert all(before.values())


def test_all_images_for_the_cpu_take_little_more_than_the_largest(built: dict[str, images.Image]) -> None:
    # Labs that start a server hold two environments, and so two copies of PyTorch: that is their price.
    wanted = [built["train"], *(built[lab] for lab in LABS if built[lab].floor is None)]
    sizes = {image.name: images.size(image.reference) for image in wanted}
    layers: dict[str, int] = {}
    for image in wanted:
        history = docker("history", "--no-trunc", "--human=false", "--format", "{{.ID}} {{.CreatedBy}}\t{{.Size}}", image.reference).stdout
        below = ""
        for line in reversed(history.splitlines()):  # a layer is what made it, on what it stands on
            what, _, size = line.rpartition("\t")
            below = hashlib.sha256((below + what.partition(" ")[2]).encode()).hexdigest()
            layers[below] = int(size)
    total = sum(layers.values())
    print(
        f"{len(wanted)} images, {total / 1e9:.2f} GB, largest {max(sizes.values()) / 1e9:.2f} GB, ratio {total / max(sizes.values()):.2f}"
    )
    assert total <= 1.3 * max(sizes.values())


def test_a_wheel_with_another_hash_is_refused_with_the_reason(stand_ins: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        images.build([flash(tmp_path, "0" * 64)], note=print)
    assert error.value.code == "image-build-failed"
    assert "nox -s images -- flash" in error.value.remedy.en
    assert "DO NOT MATCH THE HASHES" in error.value.cause.en or "hash" in error.value.cause.en.lower()


def test_ctrl_c_ends_the_build_and_leaves_nothing_running(stand_ins: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN echo begun && sleep 4711\n", encoding="utf-8")
    program = f"""
import dataclasses, pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
from onepiece.host.containers import images
here = pathlib.Path({str(tmp_path)!r})
image = dataclasses.replace(images.image_for("vllm", "cuda"), dockerfile=here / "Dockerfile", context=here, reference="{REGISTRY}/never:built")
try:
    images.build([image], detail=lambda line: print(line, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r"#\d+ [\d.]+ begun", line):
                break
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130
    for _ in range(50):
        if not _sleeping("4711"):
            break
        time.sleep(0.2)
    assert not _sleeping("4711"), "the builder goes on without its client"


def _sleeping(seconds: str) -> bool:
    return any(path.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()] for path in _command_lines())


def _command_lines() -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            path.read_bytes()
        except OSError:
            continue
        found.append(path)
    return found


def test_the_command_builds_and_says_what_it_takes(built: dict[str, images.Image], capsys: pytest.CaptureFixture[str]) -> None:
    from onepiece.host.command_line import make_console

    assert build_images.command(make_console(), [LAB, "--cpu"]) == 0
    said = capsys.readouterr().out
    assert f"{LAB} (cpu)" in said
    assert "steps from the cache" in said
    assert build_images.command(make_console(), [LAB, "--cpu", "--check"]) == 0
