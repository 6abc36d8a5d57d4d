"""Facts and a request -> a plan, over a table of machines. Nothing here looks at the machine of the tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepiece.course.catalog import Gate, Lab, Profile
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.road.plan import ImageState, Plan, Request, choose, variant
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
    profiles={
        "cpu": Profile(minutes=1, settings={}, memory_gb=1),
        "gpu": Profile(minutes=1, settings={}, vram_gb=16, min_compute="7.5"),
    },
    gates=(Gate("error", Text("It counts", "會數"), max=0.1),),
    extras=("triton",),
)
CPU_ONLY = dataclasses.replace(LAB, profiles={"cpu": LAB.profiles["cpu"]})

NO_GPU = Facts(
    system="linux",
    machine="x86_64",
    python="3.12.1",
    cores=2,
    memory_gb=8,
    free_disk_gb=50,
    gpus=(),
    gpu_reason=Text("nvidia-smi is not installed", "沒有安裝 nvidia-smi"),
    engine=None,
    engine_reason=Text("docker is not installed", "沒有安裝 docker"),
)


def with_gpu(name: str = "L4", vram_gb: float = 22.5, compute: str = "8.9", facts: Facts = NO_GPU) -> Facts:
    return dataclasses.replace(facts, gpus=(*facts.gpus, Gpu(name, vram_gb, "580.95.05", compute)), gpu_reason=None)


def with_engine(facts: Facts, **engine: Any) -> Facts:
    return dataclasses.replace(facts, engine=Engine("29.0", "1.52", **engine), engine_reason=None)


MACHINES: dict[str, Facts] = {
    "no GPU": NO_GPU,
    "an L4": with_gpu(),
    "a 16 GB card, which reports a little less": with_gpu("T4", 15.0, "7.5"),
    "a small GPU": with_gpu("GTX 1650", 4.0, "7.5"),
    "an old GPU": with_gpu("P40", 24.0, "6.1"),
    "a small and a large GPU": with_gpu(facts=with_gpu("GTX 1650", 4.0, "7.5")),
    "a Mac": dataclasses.replace(NO_GPU, system="darwin", machine="arm64"),
    "Windows with a GPU": dataclasses.replace(with_gpu("RTX 4090", 24.0), system="win32"),
    "Windows without a GPU": dataclasses.replace(NO_GPU, system="win32"),
    "an ARM server with a GPU": dataclasses.replace(with_gpu("GH200", 96.0, "9.0"), machine="arm64"),
    "Docker and a GPU": with_engine(with_gpu(), gpu="runtime"),
    "Docker with CDI and a GPU": with_engine(with_gpu(), gpu="cdi"),
    "Docker that does not reach its GPU": with_engine(with_gpu()),
    "Docker without a GPU": with_engine(NO_GPU),
    "Docker Desktop on Windows with a GPU": with_engine(dataclasses.replace(with_gpu("RTX 4090", 24.0), system="win32"), gpu="runtime"),
    "Docker on an ARM Mac": with_engine(dataclasses.replace(NO_GPU, system="darwin", machine="arm64"), platform="linux/aarch64"),
}

HERE = ImageState("onepiece/lab-9.1-toy:1", "here")
TO_BUILD = ImageState("onepiece/lab-9.1-toy:1", "build", needs_gb=14)
PUBLISHED = ImageState("registry.example/lab-9.1-toy:1", "registry", ready=True, needs_gb=14)


@pytest.mark.parametrize(
    ("machine", "device", "profile", "environment"),
    [
        ("no GPU", "cpu", "cpu", "cpu"),
        ("an L4", "cuda", "gpu", "train"),
        ("a 16 GB card, which reports a little less", "cuda", "gpu", "train"),
        ("a small GPU", "cuda", "cpu", "train"),
        ("a small and a large GPU", "cuda", "gpu", "train"),
        ("a Mac", "cpu", "cpu", "cpu"),
        ("Windows with a GPU", "cpu", "cpu", "cpu"),
        ("Windows without a GPU", "cpu", "cpu", "cpu"),
        ("an ARM server with a GPU", "cpu", "cpu", "cpu"),
        ("Docker and a GPU", "cuda", "gpu", "train"),
        ("Docker without a GPU", "cpu", "cpu", "cpu"),
    ],
)
def test_a_machine_gets_what_fits_it(machine: str, device: str, profile: str, environment: str) -> None:
    plan = choose(LAB, MACHINES[machine], Request())
    assert (plan.backend, plan.device, plan.profile, plan.environment) == ("local", device, profile, environment)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_choice_is_explained_in_both_languages_with_what_would_change_it(machine: str) -> None:
    plan = choose(LAB, MACHINES[machine], Request())
    for text in (plan.reason, plan.change):
        assert text.en and text.zh_tw and text.en != text.zh_tw
        assert "\n" not in text.en


def test_a_machine_without_a_gpu_hears_why_none_was_found() -> None:
    assert "nvidia-smi is not installed" in choose(LAB, NO_GPU, Request()).reason.en


def test_a_windows_gpu_is_pointed_to_wsl2() -> None:
    plan = choose(LAB, MACHINES["Windows with a GPU"], Request())
    assert "RTX 4090" in plan.reason.en
    assert "WSL2" in plan.reason.en


def test_a_gpu_that_is_too_old_never_gets_the_gpu_profile_and_hears_why() -> None:
    plan = choose(LAB, MACHINES["an old GPU"], Request())
    assert plan.profile == "cpu"
    assert "compute capability" in f"{plan.reason.en} {plan.change.en}"
    assert "more memory" not in plan.change.en


def test_a_small_gpu_hears_how_much_memory_the_gpu_profile_needs() -> None:
    assert "16 GB are needed" in choose(LAB, MACHINES["a small GPU"], Request()).change.en


def test_compute_capabilities_are_compared_as_versions() -> None:
    assert choose(LAB, with_gpu("B200", 180.0, "10.0"), Request()).profile == "gpu"


def test_a_lab_without_a_gpu_profile_runs_small_wherever_it_is() -> None:
    assert choose(CPU_ONLY, MACHINES["an L4"], Request()).profile == "cpu"


# --- what was asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [Request(device="cpu"), Request(profile="cpu"), Request(profile="cpu", device="cpu")])
@pytest.mark.parametrize("machine", ["no GPU", "an L4", "a Mac", "Windows with a GPU"])
def test_cpu_can_be_had_everywhere(machine: str, request_: Request) -> None:
    plan = choose(LAB, MACHINES[machine], request_)
    assert (plan.device, plan.profile) == ("cpu", "cpu")


def test_asking_for_the_cpu_on_a_gpu_machine_is_the_reason_and_the_gpu_is_mentioned() -> None:
    plan = choose(LAB, MACHINES["an L4"], Request(device="cpu"))
    assert plan.reason.en.startswith("you asked for it")
    assert "--device cuda" in plan.change.en


def test_the_small_profile_can_be_had_on_a_gpu() -> None:
    plan = choose(LAB, MACHINES["an L4"], Request(profile="cpu", device="cuda"))
    assert (plan.device, plan.profile) == ("cuda", "cpu")


@pytest.mark.parametrize(
    ("machine", "request_", "code", "says", "type_next"),
    [
        ("no GPU", Request(device="cuda"), "no-gpu", "nvidia-smi is not installed", "--device cpu"),
        ("a Mac", Request(device="cuda"), "no-gpu", "nvidia-smi is not installed", "nox -s doctor"),
        ("Windows with a GPU", Request(device="cuda"), "no-gpu", "WSL2", "--device cpu"),
        ("no GPU", Request(profile="gpu"), "gpu-profile-needs-gpu", "nvidia-smi is not installed", "--profile cpu"),
        ("a small GPU", Request(profile="gpu"), "gpu-profile-needs-gpu", "has 4 GB, 16 GB are needed", "--profile cpu"),
        ("an old GPU", Request(profile="gpu"), "gpu-profile-needs-gpu", "compute capability 6.1, 7.5 is needed", "--profile cpu"),
        ("an L4", Request(profile="gpu", device="cpu"), "gpu-profile-needs-gpu", "--device cpu", "--profile cpu"),
        ("no GPU", Request(backend="container"), "no-container", "docker is not installed", "--backend container"),
        ("Docker and a GPU", Request(backend="container"), "no-container", "has no image", "--backend container"),
        ("Docker on an ARM Mac", Request(backend="container"), "no-container", "linux/aarch64", "--backend container"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason_and_what_to_type(
    machine: str, request_: Request, code: str, says: str, type_next: str
) -> None:
    with pytest.raises(UserError) as refusal:
        choose(LAB, MACHINES[machine], request_)
    assert refusal.value.code == code
    assert says in refusal.value.cause.en
    assert type_next in refusal.value.remedy.en


def test_a_gpu_profile_that_the_lab_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(UserError) as refusal:
        choose(CPU_ONLY, MACHINES["an L4"], Request(profile="gpu"))
    assert refusal.value.code == "no-profile"
    assert "--profile cpu" in refusal.value.remedy.en


# --- extras -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["no GPU", "an L4"])
def test_an_extra_is_added_to_the_environment_of_the_lab(machine: str) -> None:
    # Where the lock has it already, there is no file of that extra beside it, and nothing is added.
    assert choose(LAB, MACHINES[machine], Request()).extras == ("triton",)


def test_an_extra_that_this_system_cannot_have_is_left_out_and_named() -> None:
    plan = choose(LAB, MACHINES["a Mac"], Request(), unavailable_extras=("triton",))
    assert (plan.extras, plan.missing_extras) == ((), ("triton",))


def test_a_lab_with_a_server_has_it_installed_too_and_leaves_the_gpu_to_a_container() -> None:
    lab = dataclasses.replace(LAB, server="vllm")
    plan = choose(lab, MACHINES["an L4"], Request())
    assert (plan.backend, plan.device, plan.environment, plan.server) == ("local", "cpu", "cpu", "vllm-cpu")
    assert "a build for CPUs" in plan.reason.en and "Docker reaches" in plan.change.en
    assert choose(LAB, MACHINES["an L4"], Request()).server is None
    plan = choose(lab, MACHINES["Docker and a GPU"], Request(), image=TO_BUILD)
    assert (plan.backend, plan.device, plan.server) == ("container", "cuda", None), "the image has it"


@pytest.mark.parametrize("machine", ["a Mac", "Windows without a GPU", "Windows with a GPU", "an ARM server with a GPU"])
def test_a_lab_with_a_server_is_refused_where_the_server_has_no_wheels(machine: str) -> None:
    with pytest.raises(UserError) as error:
        choose(dataclasses.replace(LAB, server="vllm"), MACHINES[machine], Request())
    assert error.value.code == "server-elsewhere"
    assert "--backend container" in str(error.value.remedy)


def test_where_a_server_has_no_wheels_docker_is_taken_without_being_asked() -> None:
    lab = dataclasses.replace(LAB, server="vllm")
    windows = with_engine(MACHINES["Windows without a GPU"])
    assert choose(lab, windows, Request(), image=TO_BUILD).backend == "container"
    with pytest.raises(UserError, match="Linux on x86-64"):
        choose(lab, windows, Request(backend="local"), image=TO_BUILD)


# --- containers -------------------------------------------------------------------------------------------


def test_a_container_on_the_cpu_can_be_asked_for() -> None:
    plan = choose(LAB, MACHINES["Docker without a GPU"], Request(backend="container"), image=TO_BUILD)
    assert (plan.backend, plan.device, plan.profile, plan.environment) == ("container", "cpu", "cpu", "cpu")
    assert (plan.image, plan.image_source) == (TO_BUILD.reference, "build")
    assert "you asked for a container" in plan.reason.en


def test_in_a_container_no_extra_is_missing_whatever_this_system_cannot_have() -> None:
    plan = choose(LAB, MACHINES["Docker without a GPU"], Request(backend="container"), ("triton",), HERE)
    assert (plan.extras, plan.missing_extras) == ((), ())


@pytest.mark.parametrize("machine", ["Docker and a GPU", "Docker with CDI and a GPU", "Docker Desktop on Windows with a GPU"])
@pytest.mark.parametrize("image", [HERE, TO_BUILD, PUBLISHED])
def test_a_gpu_that_containers_reach_is_used_in_one(machine: str, image: ImageState) -> None:
    plan = choose(LAB, MACHINES[machine], Request(), image=image)
    assert (plan.backend, plan.device, plan.profile, plan.environment) == ("container", "cuda", "gpu", "train")
    assert variant(MACHINES[machine], Request()) == "cuda"


def test_a_published_image_is_used_without_a_gpu_too() -> None:
    plan = choose(LAB, MACHINES["Docker without a GPU"], Request(), image=PUBLISHED)
    assert (plan.backend, plan.device, plan.image_source) == ("container", "cpu", "registry")
    assert variant(MACHINES["Docker without a GPU"], Request()) == "cpu"


@pytest.mark.parametrize(
    ("machine", "image", "says"),
    [
        pytest.param("no GPU", None, "docker is not installed", id="no engine"),
        pytest.param("Docker without a GPU", TO_BUILD, "--backend container builds it", id="nothing to gain, and a build to pay"),
        pytest.param("Docker without a GPU", HERE, "--backend container uses one", id="nothing to gain"),
        pytest.param("Docker without a GPU", ImageState(), "the lab has no image", id="no image"),
        pytest.param("Docker that does not reach its GPU", PUBLISHED, "NVIDIA Container Toolkit", id="a GPU that only we reach"),
        pytest.param("Docker on an ARM Mac", PUBLISHED, "images are for linux/x86_64", id="another platform"),
    ],
)
def test_whoever_leaves_the_choice_to_us_and_gets_no_container_hears_why(machine: str, image: ImageState | None, says: str) -> None:
    plan = choose(LAB, MACHINES[machine], Request(), image=image)
    assert plan.backend == "local"
    assert says in plan.reason.en
    assert plan.device == ("cuda" if MACHINES[machine].gpus else "cpu"), "a GPU is not given up for a container"


def test_whoever_asks_to_run_locally_hears_nothing_of_containers() -> None:
    plan = choose(LAB, MACHINES["Docker and a GPU"], Request(backend="local"))
    assert (plan.backend, plan.device) == ("local", "cuda")
    assert "container" not in plan.reason.en


@pytest.mark.fault("a-tools-text-in-every-run")
@pytest.mark.parametrize("request_", [Request(), Request(device="cpu")], ids=["auto", "cpu"])
def test_what_docker_or_the_driver_said_itself_is_for_the_doctor_alone(request_: Request) -> None:
    daemon = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    driver = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest driver is installed."
    facts = dataclasses.replace(NO_GPU, engine_reason=Text(daemon, daemon), gpu_reason=Text(driver, driver))
    plan = choose(LAB, facts, request_)
    for said in (plan.reason.en, plan.reason.zh_tw):
        assert "daemon" not in said and "NVIDIA-SMI" not in said
        assert "nox -s doctor" in said and len(said) < 150


@pytest.mark.parametrize("image", [TO_BUILD, PUBLISHED])
def test_an_image_that_does_not_fit_the_disk_is_not_fetched(image: ImageState) -> None:
    full = with_engine(with_gpu(), gpu="runtime", free_disk_gb=3.0)
    assert choose(LAB, full, Request(), image=image).backend == "local"
    with pytest.raises(UserError) as refusal:
        choose(LAB, full, Request(backend="container"), image=image)
    assert "3.0 GB free, the image needs 14 GB" in refusal.value.cause.en
    assert choose(LAB, full, Request(), image=HERE).backend == "container"


def test_an_engine_that_lets_nobody_in_is_an_error_of_its_own() -> None:
    said = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
    closed = dataclasses.replace(NO_GPU, engine_reason=Text(said, said))
    with pytest.raises(UserError) as refusal:
        choose(LAB, closed, Request(backend="container"))
    assert refusal.value.code == "engine-refuses"
    assert "usermod -aG docker" in refusal.value.remedy.en


def test_a_gpu_that_containers_do_not_reach_leaves_a_container_that_was_asked_for_to_the_cpu() -> None:
    machine = MACHINES["Docker that does not reach its GPU"]
    plan = choose(LAB, machine, Request(backend="container"), image=HERE)
    assert (plan.backend, plan.device) == ("container", "cpu")
    assert "NVIDIA Container Toolkit" in plan.reason.en
    assert variant(machine, Request(backend="container")) == "cpu"
    with pytest.raises(UserError) as refusal:
        choose(LAB, machine, Request(backend="container", device="cuda"), image=HERE)
    assert refusal.value.code == "no-gpu"
    assert "NVIDIA Container Toolkit" in refusal.value.cause.en


@pytest.mark.parametrize("backend", ["auto", "local", "container"])
@pytest.mark.parametrize(
    ("driver", "good"), [("570.133.20", False), ("580.60", False), ("580.65", True), ("580.65.06", True), ("610.1", True)]
)
def test_a_driver_below_the_floor_is_found_before_anything_is_fetched(backend: str, driver: str, good: bool) -> None:
    machine = with_engine(dataclasses.replace(NO_GPU, gpus=(Gpu("L4", 22.5, driver, "8.9"),), gpu_reason=None), gpu="runtime")
    plan = choose(LAB, machine, Request(backend=backend), image=HERE, lowest_driver="580.65")
    assert plan.device == ("cuda" if good else "cpu")
    if not good:
        assert f"the driver of the L4 is {driver}, 580.65 is needed" in plan.reason.en
        with pytest.raises(UserError, match=r"580\.65 is needed"):
            choose(LAB, machine, Request(backend=backend, device="cuda"), image=HERE, lowest_driver="580.65")


def test_too_little_gpu_memory_is_found_before_anything_is_fetched() -> None:
    small = with_engine(with_gpu("GTX 1650", 4.0, "7.5"), gpu="runtime")
    with pytest.raises(UserError, match="has 4 GB, 16 GB are needed"):
        choose(LAB, small, Request(profile="gpu", backend="container"), image=TO_BUILD)


# --- any machine at all -------------------------------------------------------------------------------


@given(
    st.builds(
        dataclasses.replace,
        st.just(NO_GPU),
        system=st.sampled_from(["linux", "darwin", "win32"]),
        machine=st.sampled_from(["x86_64", "arm64"]),
        gpus=st.lists(
            st.builds(
                Gpu,
                st.just("GPU"),
                st.floats(0, 300),
                st.sampled_from(["570.1", "580.95.05", "[N/A]"]),
                st.sampled_from(["5.2", "7.5", "9.0", "12.0", "[N/A]"]),
            ),
            max_size=3,
        ).map(tuple),
        engine=st.none()
        | st.builds(
            Engine,
            st.just("29.0"),
            st.just("1.52"),
            platform=st.sampled_from(["linux/x86_64", "linux/aarch64", "windows/x86_64"]),
            gpu=st.sampled_from(["", "runtime", "cdi"]),
            free_disk_gb=st.none() | st.floats(0, 100),
        ),
    ),
    st.builds(
        Request,
        st.sampled_from(["auto", "cpu", "gpu"]),
        st.sampled_from(["auto", "cpu", "cuda"]),
        st.sampled_from(["auto", "local", "container"]),
    ),
    st.sampled_from([LAB, CPU_ONLY]),
    st.sampled_from([None, ImageState(), HERE, TO_BUILD, PUBLISHED]),
)
def test_every_machine_gets_a_plan_that_keeps_to_the_request_or_a_refusal(
    facts: Facts, request: Request, lab: Lab, image: ImageState | None
) -> None:
    try:
        plan: Plan = choose(lab, facts, request, image=image, lowest_driver="580.65")
    except UserError as error:
        assert error.code in ("no-container", "no-gpu", "gpu-profile-needs-gpu", "no-profile")
        assert request != Request(), "who asks for nothing always gets something"
        return
    assert plan.profile in lab.profiles
    assert request.device in ("auto", plan.device)
    assert request.profile in ("auto", plan.profile)
    assert request.backend in ("auto", plan.backend)
    assert plan.device == "cpu" or facts.gpus
    assert plan.profile == "cpu" or plan.device == "cuda"
    assert plan.environment == ("cpu" if plan.device == "cpu" else lab.image)
    if plan.backend == "container":
        assert facts.engine and plan.image and plan.image_source
        assert plan.device == "cpu" or facts.engine.gpu
        assert variant(facts, request, "580.65") == plan.device
    else:
        assert plan.device == "cpu" or facts.system == "linux"
    assert "\n" not in plan.reason.en + plan.change.en
