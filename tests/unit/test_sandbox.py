"""What a container sees, may use and is told; and what its engine says, read as the user does. No engine needed."""

from __future__ import annotations

import dataclasses
import datetime
import io
import socket
from pathlib import Path
from typing import IO, Any

import docker.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepiece.course.catalog import Gate, Lab, Profile
from onepiece.course.errors import UserError
from onepiece.course.places import HOME, IMAGES, LABS, RUNS, SHARED, WORKSPACE
from onepiece.course.text import Text
from onepiece.host.containers import container, engine, sandbox
from onepiece.host.containers.sandbox import Bind
from onepiece.host.road import local, runs
from onepiece.host.road.plan import Plan
from onepiece.host.road.preflight import Engine

LAB = Lab(
    id="lab-9.1-toy",
    directory=LABS / "lab-9.1-toy",
    title=Text("A toy", "玩具"),
    summary=Text("Counts.", "數數。"),
    chapter="1.3",
    level="core",
    notebooks=("01-count", "02-use"),
    image="train",
    profiles={"cpu": Profile(minutes=1, settings={}, memory_gb=2), "gpu": Profile(minutes=1, settings={}, vram_gb=16)},
    gates=(Gate("error", Text("It counts", "會數"), max=0.1),),
)
DIRECTORY = RUNS / LAB.id / "20261124-120000"
INSIDE = "/course/runs/lab-9.1-toy/20261124-120000"
CACHE = Path("/home/learner/.cache/huggingface/hub")
ENGINE = Engine("29.0", "1.52")


def run(*, device: str = "cpu", profile: str = "cpu", lab: Lab = LAB, **options: Any) -> runs.Run:
    plan = Plan("container", device, profile, "cpu", (), (), Text("a", "b"), Text("a", "b"), "onepiece/lab-9.1-toy:1", "here")
    chosen = runs.Options(**{"language": "en", "notebooks": lab.notebooks, **options})
    made = runs.Run(lab, plan, chosen, DIRECTORY, usage=None, started=datetime.datetime.now(datetime.UTC), predictions={})  # type: ignore[arg-type]
    made.image = {"reference": "onepiece/lab-9.1-toy:1", "id": "sha256:1", "digest": None}
    return made


# --- paths and mounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        (LABS / "lab-9.1-toy", "/course/labs/lab-9.1-toy"),
        (SHARED, "/course/shared"),
        (DIRECTORY, INSIDE),
        (WORKSPACE / "lab-9.1-toy", "/course/workspace/lab-9.1-toy"),
        (Path("/data/models/qwen"), "/course/model"),
    ],
)
def test_paths_of_this_machine_have_a_place_in_the_container(path: Path, inside: str) -> None:
    assert sandbox.place(path) == inside


@pytest.mark.fault("sandbox-escape")
def test_a_whole_run_sees_its_lab_and_shared_and_writes_into_its_directory_alone() -> None:
    assert sandbox.binds(run(), CACHE) == [
        Bind(LABS / "lab-9.1-toy", "/course/labs/lab-9.1-toy"),
        Bind(SHARED, "/course/shared"),
        Bind(IMAGES / "versions.toml", "/course/images/versions.toml"),
        Bind(DIRECTORY, INSIDE, read_only=False),
    ]


def test_a_run_of_the_learners_modules_sees_the_workspace() -> None:
    assert Bind(WORKSPACE / LAB.id, "/course/workspace/lab-9.1-toy") in sandbox.binds(run(mine=True), CACHE)
    path = sandbox.variables(run(mine=True), {})["PYTHONPATH"]
    assert path == "/course/workspace/lab-9.1-toy:/course/labs/lab-9.1-toy:/course/shared"


def test_a_single_notebook_sees_earlier_runs_and_cannot_change_them() -> None:
    found = sandbox.binds(run(notebooks=("02-use",)), CACHE)
    assert Bind(RUNS / LAB.id, "/course/runs/lab-9.1-toy") in found
    assert [bind for bind in found if not bind.read_only] == [Bind(DIRECTORY, INSIDE, read_only=False)]


def test_a_model_of_ones_own_is_where_the_context_says(tmp_path: Path) -> None:
    made = run(model=tmp_path)
    context = runs.context_json(LAB, made.plan, made.options, _usage(), {}, [], place=sandbox.place)
    assert context["model"] == "/course/model"
    assert Bind(tmp_path.resolve(), "/course/model") in sandbox.binds(made, CACHE)


def test_a_model_below_the_runs_keeps_its_place() -> None:
    made = run(model=DIRECTORY.parent / "earlier" / "artifacts" / "model")
    (bind,) = [bind for bind in sandbox.binds(made, CACHE) if bind.source == made.options.model]
    assert bind == Bind(made.options.model, sandbox.place(made.options.model))


def test_the_context_has_the_containers_paths_and_without_a_container_ours() -> None:
    made = run(notebooks=("02-use",))
    earlier = [RUNS / LAB.id / "20261123-120000"]
    inside = runs.context_json(LAB, made.plan, made.options, _usage(), {}, earlier, place=sandbox.place)
    assert inside["earlier_runs"] == ["/course/runs/lab-9.1-toy/20261123-120000"]
    assert runs.context_json(LAB, made.plan, made.options, _usage(), {}, earlier)["earlier_runs"] == [str(earlier[0])]


def _usage() -> Any:
    from onepiece.host.road.sources import Usage

    return Usage(**{field.name: {} for field in dataclasses.fields(Usage)})


# --- network, cache, environment --------------------------------------------------------------------------


@pytest.mark.fault("sandbox-escape")
def test_who_needs_no_network_has_none_and_no_cache_and_no_token() -> None:
    made = run()
    found = container.settings(made, ENGINE, CACHE)
    assert found["network_mode"] == "none"
    assert not [mount for mount in found["mounts"] if mount["Source"] == str(CACHE)]
    variables = sandbox.variables(made, {"HF_TOKEN": "secret", "HTTPS_PROXY": "http://proxy", "OMP_NUM_THREADS": "1", "PATH": "/bin"})
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert not {"HF_TOKEN", "HTTPS_PROXY", "PATH"} & set(variables)


@pytest.mark.parametrize("made", [run(profile="gpu", device="cuda"), run(lab=dataclasses.replace(LAB, network=True))])
def test_who_needs_models_has_a_network_and_the_cache_to_write(made: runs.Run) -> None:
    found = container.settings(made, ENGINE, CACHE)
    assert found["network_mode"] == "bridge"
    (cache,) = [mount for mount in found["mounts"] if mount["Source"] == str(CACHE)]
    assert (cache["Target"], cache["ReadOnly"]) == ("/course/cache", False)
    variables = sandbox.variables(made, {"HF_TOKEN": "secret"})
    assert "HF_HUB_OFFLINE" not in variables
    assert (variables["HF_HUB_CACHE"], variables["HF_TOKEN"]) == ("/course/cache", "secret")


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"HF_HUB_CACHE": "/data/hub", "HF_HOME": "/data/hf"}, "/data/hub"),
        ({"HF_HOME": "/data/hf"}, "/data/hf/hub"),
        ({"XDG_CACHE_HOME": "/data/cache"}, "/data/cache/huggingface/hub"),
        ({"HOME": "/home/learner"}, "/home/learner/.cache/huggingface/hub"),
    ],
)
def test_the_model_cache_is_where_the_hub_keeps_it(environ: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert sandbox.model_cache() == Path(where)


@pytest.mark.fault("sandbox-escape")
def test_the_docker_socket_and_the_home_directory_are_never_mounted(tmp_path: Path) -> None:
    for made in (run(), run(mine=True, notebooks=("02-use",), model=tmp_path), run(profile="gpu", device="cuda")):
        for mount in container.settings(made, ENGINE, CACHE)["mounts"]:
            assert not mount["Source"].endswith(".sock")
            assert Path(mount["Source"]) not in (Path.home(), HOME, Path("/"))


# --- limits -----------------------------------------------------------------------------------------------


def test_memory_is_the_budget_with_a_margin_and_no_swap_beyond_it() -> None:
    found = container.settings(run(), ENGINE, CACHE)
    assert found["mem_limit"] == found["memswap_limit"] == 3 * 2**30  # 2 GB x 1.25 + 0.5 GB
    assert found["shm_size"] == found["mem_limit"] // 2


def test_a_profile_without_a_memory_budget_has_no_limit_and_shared_memory_all_the_same() -> None:
    found = container.settings(run(profile="gpu", device="cuda"), ENGINE, CACHE)
    assert found["mem_limit"] is None
    assert found["shm_size"] == 8 * 2**30


@pytest.mark.fault("sandbox-escape")
def test_nothing_is_allowed_that_a_notebook_does_not_need() -> None:
    found = container.settings(run(), ENGINE, CACHE)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges" in found["security_opt"]
    assert found["init"] is True
    assert 0 < found["pids_limit"] <= 4096
    assert "privileged" not in found


def test_a_container_is_known_by_home_lab_run_and_lock() -> None:
    assert container.settings(run(), ENGINE, CACHE)["labels"] == {
        "org.onepiece.home": str(HOME),
        "org.onepiece.lab": "lab-9.1-toy",
        "org.onepiece.run": "20261124-120000",
        "org.onepiece.lock": str(DIRECTORY / "container.lock"),
    }


def test_the_image_is_started_by_its_identifier() -> None:
    """A tag may move between the look at it and the start; what the results name is what ran."""
    assert container.settings(run(), ENGINE, CACHE)["image"] == "sha256:1"


def test_the_runner_gets_the_notebooks_and_keep_going() -> None:
    found = container.settings(run(keep_going=True), ENGINE, CACHE)
    assert found["entrypoint"] == ["/opt/onepiece/bin/python"]
    assert found["command"] == ["-m", "onepiece.kernel.execute", INSIDE, "01-count", "02-use", "--keep-going"]


# --- who it runs as, and devices --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "system", "wanted"),
    [
        ((), "linux", {"user": "1234:567"}),
        (("seccomp", "userns"), "linux", {"user": "1234:567", "userns_mode": "host"}),
        (("rootless",), "linux", {"user": "0:0"}),
        ((), "darwin", {}),
        ((), "win32", {}),
    ],
)
def test_what_it_writes_belongs_to_the_caller(security: tuple[str, ...], system: str, wanted: dict[str, str]) -> None:
    assert sandbox.identity(dataclasses.replace(ENGINE, security=security), system, 1234, 567) == wanted


def test_selinux_lets_the_container_read_what_is_mounted() -> None:
    assert "label=disable" in container.settings(run(), dataclasses.replace(ENGINE, security=("selinux",)), CACHE)["security_opt"]
    assert "label=disable" not in container.settings(run(), ENGINE, CACHE)["security_opt"]


def test_gpus_are_asked_for_in_the_form_that_the_engine_has() -> None:
    made = run(device="cuda", profile="gpu")
    (runtime,) = container.settings(made, dataclasses.replace(ENGINE, gpu="runtime"), CACHE)["device_requests"]
    assert (runtime["Driver"], runtime["Count"], runtime["DeviceIDs"], runtime["Capabilities"]) == ("", -1, [], [["gpu"]])
    (cdi,) = container.settings(made, dataclasses.replace(ENGINE, gpu="cdi"), CACHE)["device_requests"]
    assert (cdi["Driver"], cdi["Count"], cdi["DeviceIDs"]) == ("cdi", 0, ["nvidia.com/gpu=all"])


def test_on_the_cpu_no_gpu_is_asked_for() -> None:
    assert container.settings(run(), dataclasses.replace(ENGINE, gpu="runtime"), CACHE)["device_requests"] is None


# --- what comes out of it ---------------------------------------------------------------------------------


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def parted(sent: bytes, errors: IO[bytes]) -> bytes:
    """The standard output that arrives over a real connection."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(sent)
        return b"".join(container.output_lines(ours, errors))


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from([b"", b"a", b"\n", b"b\nc", b"\xff" * 40])), max_size=12), st.integers(0, 30))
def test_both_streams_arrive_whole_and_in_order_and_a_cut_loses_only_its_frame(frames: list[tuple[int, bytes]], cut: int) -> None:
    sent = b"".join(frame(*one) for one in frames)
    errors = io.BytesIO()
    output = parted(sent, errors)
    assert output == b"".join(data for stream, data in frames if stream == 1)
    assert errors.getvalue() == b"".join(data for stream, data in frames if stream == 2)
    assert output.startswith(parted(sent[: len(sent) - cut], io.BytesIO()))


def test_lines_are_whole_however_the_engine_cuts_them() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(frame(1, b"one\ntw") + frame(2, b"complaint\n") + frame(1, b"o\n\nthr") + frame(1, b"ee"))
        assert list(container.output_lines(ours, io.BytesIO())) == [b"one\n", b"two\n", b"\n", b"three"]


def test_a_log_that_cannot_be_written_does_not_stop_the_events() -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    assert parted(frame(2, b"complaint") + frame(1, b"event\n"), Full()) == b"event\n"


@pytest.mark.fault("killed-engine")
def test_a_runner_that_is_killed_while_it_speaks_is_heard_up_to_there() -> None:
    heard: list[dict[str, Any]] = []
    ending = local.listen([b'{"event": "a"}\n', b'{"event": "en'], heard.append, stop=int, wait=int, kill=int)
    assert heard == [{"event": "a"}]
    assert (ending.finished, ending.whole) == (True, False)


def test_an_interrupted_runner_is_asked_to_stop_and_still_heard() -> None:
    asked: list[str] = []
    heard: list[str] = []
    events = iter(['{"event": "a"}\n', '{"event": "b"}\n'])

    def hear(event: dict[str, Any]) -> None:
        heard.append(event["event"])
        if event["event"] == "a":
            raise KeyboardInterrupt

    ending = local.listen(
        (line.encode() for line in events), hear, stop=lambda: asked.append("stop"), wait=lambda: asked.append("wait"), kill=int
    )
    assert (ending.finished, ending.whole) == (False, False)
    assert heard == ["a", "b"]
    assert asked == ["stop", "wait"]


# --- what an engine says ----------------------------------------------------------------------------------


@pytest.mark.fault("killed-engine")
@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "container-without-gpu"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all", "container-without-gpu"),
        ("nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1", "container-without-gpu"),
        ('invalid mount config for type "bind": bind source path does not exist: /course', "engine-does-not-see"),
        ("Mounts denied: The path /course is not shared from the host", "engine-does-not-see"),
        ("mkdir /var/lib/docker/overlay2/1: no space left on device", "engine-disk-full"),
        ("No such image: sha256:1", "image-gone"),
        ("something\nnew", "engine-says-no"),
    ],
)
def test_what_an_engine_refuses_is_told_with_what_to_type(said: str, code: str) -> None:
    error = engine.explain(said)
    assert error.code == code
    assert " ".join(said.split()).removeprefix("No such image: ") in error.cause.en


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (docker.errors.APIError("500 Server Error", explanation="no space left on device"), "engine-disk-full"),
        (docker.errors.DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))"), "engine-refuses"),
        (docker.errors.DockerException("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))"), "engine-gone"),
        (OSError("Connection aborted."), "engine-gone"),  # what requests raises
    ],
)
def test_what_docker_py_raises_is_read_as_the_user_does(raised: Exception, code: str) -> None:
    with pytest.raises(UserError) as told, engine.translated():
        raise raised
    assert told.value.code == code


@pytest.mark.fault("full-disk")
def test_a_full_disk_of_ours_is_not_blamed_on_the_engine() -> None:
    with pytest.raises(OSError, match="No space"), engine.translated():
        raise OSError(28, "No space left on device")


@pytest.mark.fault("another-user")
def test_somebody_without_a_home_and_a_name_has_a_cache_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a user id without a line in passwd
    assert sandbox.model_cache() == HOME / ".cache" / "huggingface" / "hub"
    assert runs.kernel_environment(Path("/run"), [], "en", offline=True)["USER"] == "learner"
