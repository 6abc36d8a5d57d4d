"""Facts and a request -> a plan. Pure functions: nothing here looks at the machine."""

from __future__ import annotations

from dataclasses import dataclass

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.road.preflight import Facts, Gpu, is_of_a_tool


@dataclass(frozen=True, slots=True)
class Request:
    """What the learner asked for; "auto" where they left it to us."""

    profile: str = "auto"
    device: str = "auto"
    backend: str = "auto"


_NO_REASON = Text("", "")
_NO_IMAGE = Text("the lab has no image", "這個實驗沒有映像檔")


@dataclass(frozen=True, slots=True)
class ImageState:
    """What is known about the image that a container of the lab would need."""

    reference: str = ""  # repository and tag
    source: str = ""  # "here", "registry", "build"; empty: it cannot be had
    ready: bool = False  # no build is needed: a registry has it, or is known and it is here already
    needs_gb: float = 0.0  # on the engine's disk, if it has to be brought there
    reason: Text = _NO_IMAGE  # why it cannot be had


@dataclass(frozen=True, slots=True)
class Plan:
    """Where, on what and how big a lab runs, and why."""

    backend: str  # "local" or "container"
    device: str  # "cpu" or "cuda"
    profile: str  # "cpu" or "gpu"
    environment: str  # a directory of images/: its lock is what is installed
    extras: tuple[str, ...]
    missing_extras: tuple[str, ...]  # the lab's extras that this system cannot have
    reason: Text
    change: Text  # what would change the choice
    server: str | None = None  # a directory of images/: the server that the notebooks start, installed beside `environment`
    image: str = ""  # of a container
    image_source: str = ""  # as in `ImageState`


IMAGE_PLATFORM = "linux/x86_64"
_SERVER_ON_CPU = Text("without Docker, its server is a build for CPUs", "不用 Docker 時，它的伺服器是給 CPU 用的版本")


def choose(
    lab: Lab,
    facts: Facts,
    request: Request,
    unavailable_extras: tuple[str, ...] = (),
    image: ImageState | None = None,
    lowest_driver: str = "0",
) -> Plan:
    """Decide how `lab` runs on this machine.

    Args:
        lab: which one.
        facts: what this machine is.
        request: what the learner asked for.
        unavailable_extras: the lab's extras that an environment of this operating system cannot have.
        image: of the variant that `variant` names; None where nobody looked, because no container can be started.
        lowest_driver: the NVIDIA driver that the locked CUDA needs.

    Raises:
        UserError: what was asked for cannot be had here: "no-container", "engine-refuses", "no-gpu", "gpu-profile-needs-gpu", "no-profile",
            "server-elsewhere".
    """
    image = image or ImageState()
    here = (None, _SERVER_ON_CPU) if lab.server else _usable_gpu(facts, lowest_driver, container=False)
    inside = _usable_gpu(facts, lowest_driver, container=True)
    why_not = _why_no_container(facts, image)
    no_wheels = lab.server is not None and (facts.system, facts.machine) != ("linux", "x86_64")
    if request.backend == "container":
        if why_not:
            raise _refused(lab, facts, why_not)
        return _in_container(lab, request, inside, image, Text("you asked for a container", "依你的指定使用容器"))
    if request.backend == "auto" and not why_not:
        if _device_or_none(request, inside) == "cuda":
            return _in_container(lab, request, inside, image, Text("containers reach it", "容器可以使用它"))
        if no_wheels:
            return _in_container(lab, request, inside, image, Text("its server runs on Linux only", "它的伺服器只能在 Linux 上執行"))
        if image.ready and _device_or_none(request, here) == "cpu":
            return _in_container(lab, request, inside, image, Text("its image needs no build", "映像檔不需要建置"))
        return _locally(lab, request, here, _why_not_chosen(facts, image, inside), unavailable_extras)
    if no_wheels:
        raise UserError("server-elsewhere", platform=f"{facts.system} {facts.machine}", lab=lab.id)
    return _locally(lab, request, here, _no_container(why_not) if why_not and request.backend == "auto" else None, unavailable_extras)


def variant(facts: Facts, request: Request, lowest_driver: str = "0") -> str:
    """Which variant of an image a container would need here: "cuda" or "cpu"."""
    return _device_or_none(request, _usable_gpu(facts, lowest_driver, container=True)) or "cuda"


Usable = tuple[Gpu | None, Text]  # the GPU to use, or why there is none


def _locally(lab: Lab, request: Request, usable: Usable, no_container: Text | None, unavailable_extras: tuple[str, ...]) -> Plan:
    device = _device(request, *usable)
    profile = _profile(lab, request, device, *usable)
    return Plan(
        backend="local",
        device=device,
        profile=profile,
        environment="cpu" if device == "cpu" else lab.image,
        extras=tuple(extra for extra in lab.extras if extra not in unavailable_extras),
        missing_extras=tuple(extra for extra in lab.extras if extra in unavailable_extras),
        reason=_and(_reason(device, *usable, request), no_container),
        change=_change(lab, device, profile, usable[0]),
        server=f"{lab.server}-cpu" if lab.server else None,
    )


def _in_container(lab: Lab, request: Request, usable: Usable, image: ImageState, why: Text) -> Plan:
    device = _device(request, *usable)
    profile = _profile(lab, request, device, *usable)
    return Plan(
        backend="container",
        device=device,
        profile=profile,
        environment="cpu" if device == "cpu" else lab.image,
        extras=(),  # the image has them, and containers are Linux everywhere
        missing_extras=(),
        reason=_and(_reason(device, *usable, request), why),
        change=_change(lab, device, profile, usable[0]),
        image=image.reference,
        image_source=image.source,
    )


def _why_no_container(facts: Facts, image: ImageState) -> Text | None:
    """Why no container can be started here, or None."""
    engine = facts.engine
    if engine is None:
        return facts.engine_reason
    if engine.platform != IMAGE_PLATFORM:
        return Text(
            f"images are for {IMAGE_PLATFORM}, this engine runs {engine.platform}",
            f"映像檔適用 {IMAGE_PLATFORM}，這個引擎執行的是 {engine.platform}",
        )
    if not image.source:
        return image.reason
    if image.source != "here" and engine.free_disk_gb is not None and engine.free_disk_gb < image.needs_gb:
        return Text(
            f"Docker's disk has {engine.free_disk_gb:.1f} GB free, the image needs {image.needs_gb:g} GB",
            f"Docker 的磁碟剩 {engine.free_disk_gb:.1f} GB，映像檔需要 {image.needs_gb:g} GB",
        )
    return None


def _no_container(why_not: Text) -> Text:
    why_not = _in_short("Docker", why_not)
    return Text(f"no container: {why_not.en}", f"不用容器：{why_not.zh_tw}")


def _why_not_chosen(facts: Facts, image: ImageState, inside: Usable) -> Text:
    """Why nobody who leaves the choice to us gets a container, although one can be started."""
    if facts.gpus and inside[0] is None:
        return _no_container(inside[1])
    if image.source == "here":
        return Text("no container: none is needed, --backend container uses one", "不用容器：沒有必要，要用請加 --backend container")
    return Text(
        "no container: its image is not published, --backend container builds it", "不用容器：映像檔尚未發布，--backend container 會建置它"
    )


def _refused(lab: Lab, facts: Facts, why_not: Text) -> UserError:
    if facts.engine is None and "permission denied" in why_not.en.lower():
        return UserError("engine-refuses", reason=why_not)
    return UserError("no-container", lab=lab.id, reason=why_not)


def _usable_gpu(facts: Facts, lowest_driver: str, *, container: bool) -> Usable:
    """The GPU that a lab can use locally or in a container, or why there is none."""
    if not facts.gpus:
        return None, facts.gpu_reason or _NO_REASON
    gpu = max(facts.gpus, key=lambda candidate: candidate.vram_gb)
    if _version(gpu.driver) < _version(lowest_driver):
        return None, Text(
            f"the driver of the {gpu.name} is {gpu.driver}, {lowest_driver} is needed",
            f"{gpu.name} 的驅動程式是 {gpu.driver}，需要 {lowest_driver}",
        )
    if container:
        reached = facts.engine is not None and facts.engine.gpu
        why = Text(
            f"Docker does not reach the {gpu.name} without the NVIDIA Container Toolkit",
            f"沒有 NVIDIA Container Toolkit，Docker 用不到 {gpu.name}",
        )
        return (gpu, _NO_REASON) if reached else (None, why)
    if facts.system != "linux" or facts.machine != "x86_64":
        return None, Text(
            f"the {gpu.name} needs Linux on x86-64 (on Windows: WSL2)", f"{gpu.name} 需要 x86-64 的 Linux（Windows 上請用 WSL2）"
        )
    return gpu, _NO_REASON


def _device_or_none(request: Request, usable: Usable) -> str | None:
    """The device, or None if the one that was asked for is not there."""
    return None if request.device == "cuda" and usable[0] is None else _device(request, *usable)


def _device(request: Request, gpu: Gpu | None, why_not: Text) -> str:
    if request.device == "cuda" and gpu is None:
        raise UserError("no-gpu", reason=why_not)
    if request.device != "auto":
        return request.device
    return "cuda" if gpu is not None and request.profile != "cpu" else "cpu"


def _profile(lab: Lab, request: Request, device: str, gpu: Gpu | None, why_not: Text) -> str:
    fits, too_small = _fits(lab, gpu) if device == "cuda" else (False, why_not if why_not.en else Text("--device cpu", "--device cpu"))
    if request.profile == "auto":
        return "gpu" if fits else "cpu"
    lab.profile(request.profile)
    if request.profile == "gpu" and not fits:
        raise UserError("gpu-profile-needs-gpu", lab=lab.id, reason=too_small)
    return request.profile


def _fits(lab: Lab, gpu: Gpu | None) -> tuple[bool, Text]:
    """Does the lab's gpu profile fit this GPU, and if not, why."""
    profile = lab.profiles.get("gpu")
    if profile is None or gpu is None:
        return False, Text("the lab has no gpu profile", "這個實驗沒有 gpu profile")
    # A "16 GB" card reports a little less than 16 GiB.
    if profile.vram_gb and gpu.vram_gb < profile.vram_gb * 0.92:
        return False, Text(
            f"{gpu.name} has {gpu.vram_gb:.0f} GB, {profile.vram_gb:g} GB are needed",
            f"{gpu.name} 有 {gpu.vram_gb:.0f} GB，需要 {profile.vram_gb:g} GB",
        )
    if profile.min_compute and _version(gpu.compute) < _version(profile.min_compute):
        return False, Text(
            f"{gpu.name} has compute capability {gpu.compute}, {profile.min_compute} is needed",
            f"{gpu.name} 的 compute capability 是 {gpu.compute}，需要 {profile.min_compute}",
        )
    return True, _NO_REASON


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _and(first: Text, second: Text | None) -> Text:
    return first if second is None else Text(f"{first.en}; {second.en}", f"{first.zh_tw}；{second.zh_tw}")


def _reason(device: str, gpu: Gpu | None, why_not: Text, request: Request) -> Text:
    if device == "cuda" and gpu is not None:
        return Text(f"{gpu.name} found", f"找到 {gpu.name}")
    if request.device == "cpu" or request.profile == "cpu":
        return Text("you asked for it", "依你的指定")
    why_not = _in_short("nvidia-smi", why_not)
    return Text(f"no usable GPU: {why_not.en}", f"沒有可用的 GPU：{why_not.zh_tw}")


def _in_short(tool: str, reason: Text) -> Text:
    """A reason as one line of a run and its report says it: what a tool said itself, which is long, is for the doctor."""
    if not is_of_a_tool(reason):
        return reason
    return Text(f"{tool} cannot be used here (nox -s doctor says why)", f"這裡無法使用 {tool}（原因見 nox -s doctor）")


def _change(lab: Lab, device: str, profile: str, gpu: Gpu | None) -> Text:
    if device == "cpu" and gpu is None and lab.server:
        return Text("an NVIDIA GPU that Docker reaches would run the gpu profile", "Docker 能使用的 NVIDIA GPU 就會用 gpu profile 執行")
    if device == "cpu" and gpu is None:
        return Text("an NVIDIA GPU on Linux x86-64 would run the gpu profile", "在 Linux x86-64 上有 NVIDIA GPU 就會用 gpu profile 執行")
    if device == "cpu":
        return Text("--device cuda uses the GPU", "--device cuda 會使用 GPU")
    if profile == "cpu" and "gpu" in lab.profiles:
        fits, why = _fits(lab, gpu)
        if not fits:
            return Text(f"not the gpu profile: {why.en}", f"未採用 gpu profile：{why.zh_tw}")
    return Text("--device cpu runs it small", "--device cpu 會以小規模執行")
