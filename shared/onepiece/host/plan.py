"""Facts and a request -> a plan. Pure functions: nothing here looks at the machine."""

from __future__ import annotations

from dataclasses import dataclass

from onepiece.catalog import Lab
from onepiece.errors import UserError
from onepiece.host.preflight import Facts, Gpu
from onepiece.text import Text


@dataclass(frozen=True, slots=True)
class Request:
    """What the learner asked for; "auto" where they left it to us."""

    profile: str = "auto"
    device: str = "auto"
    backend: str = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where, on what and how big a lab runs, and why."""

    backend: str  # "local" (the container backend is planned as "container")
    device: str  # "cpu" or "cuda"
    profile: str  # "cpu" or "gpu"
    environment: str  # a directory of images/
    extras: tuple[str, ...]
    missing_extras: tuple[str, ...]  # the lab's extras that this system cannot have
    reason: Text
    change: Text  # what would change the choice


def choose(lab: Lab, facts: Facts, request: Request, unavailable_extras: tuple[str, ...] = ()) -> Plan:
    """Decide how `lab` runs on this machine.

    Raises:
        UserError: what was asked for cannot be had here: "no-container", "no-gpu", "gpu-profile-needs-gpu", "no-profile".
    """
    if request.backend == "container":
        reason = facts.engine_reason if facts.engine is None else "this lab has no image yet"
        raise UserError("no-container", lab=lab.id, reason=reason)
    gpu, why_not = _usable_gpu(lab, facts)
    device = _device(request, gpu, why_not)
    profile = _profile(lab, request, device, gpu, why_not)
    environment = "cpu" if device == "cpu" else lab.image
    return Plan(
        backend="local",
        device=device,
        profile=profile,
        environment=environment,
        # The CUDA locks hold everything that their labs need; extras belong to the CPU environment that all labs share.
        extras=tuple(extra for extra in lab.extras if extra not in unavailable_extras) if environment == "cpu" else (),
        missing_extras=tuple(extra for extra in lab.extras if extra in unavailable_extras),
        reason=_reason(device, gpu, why_not, request),
        change=_change(lab, device, profile, gpu),
    )


def _usable_gpu(lab: Lab, facts: Facts) -> tuple[Gpu | None, str]:
    """The GPU to use, or why there is none that can be used without a container."""
    if not facts.gpus:
        return None, facts.gpu_reason
    gpu = max(facts.gpus, key=lambda candidate: candidate.vram_gb)
    if facts.system != "linux" or facts.machine != "x86_64":
        return None, f"the {gpu.name} needs Linux on x86-64 (on Windows: WSL2)"
    return gpu, ""


def _device(request: Request, gpu: Gpu | None, why_not: str) -> str:
    if request.device == "cuda" and gpu is None:
        raise UserError("no-gpu", reason=why_not)
    if request.device != "auto":
        return request.device
    return "cuda" if gpu is not None and request.profile != "cpu" else "cpu"


def _profile(lab: Lab, request: Request, device: str, gpu: Gpu | None, why_not: str) -> str:
    fits, too_small = _fits(lab, gpu) if device == "cuda" else (False, why_not or "--device cpu")
    if request.profile == "auto":
        return "gpu" if fits else "cpu"
    lab.profile(request.profile)
    if request.profile == "gpu" and not fits:
        raise UserError("gpu-profile-needs-gpu", lab=lab.id, reason=too_small)
    return request.profile


def _fits(lab: Lab, gpu: Gpu | None) -> tuple[bool, str]:
    """Does the lab's gpu profile fit this GPU, and if not, why."""
    profile = lab.profiles.get("gpu")
    if profile is None or gpu is None:
        return False, "the lab has no gpu profile"
    # A "16 GB" card reports a little less than 16 GiB.
    if profile.vram_gb and gpu.vram_gb < profile.vram_gb * 0.92:
        return False, f"{gpu.name} has {gpu.vram_gb:.0f} GB, {profile.vram_gb:g} GB are needed"
    if profile.min_compute and _version(gpu.compute) < _version(profile.min_compute):
        return False, f"{gpu.name} has compute capability {gpu.compute}, {profile.min_compute} is needed"
    return True, ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _reason(device: str, gpu: Gpu | None, why_not: str, request: Request) -> Text:
    if device == "cuda" and gpu is not None:
        return Text(f"{gpu.name} found", f"找到 {gpu.name}")
    if request.device == "cpu" or request.profile == "cpu":
        return Text("you asked for it", "依你的指定")
    return Text(f"no usable GPU: {why_not}", f"沒有可用的 GPU：{why_not}")


def _change(lab: Lab, device: str, profile: str, gpu: Gpu | None) -> Text:
    if device == "cpu" and gpu is None:
        return Text("an NVIDIA GPU on Linux x86-64 would run the gpu profile", "在 Linux x86-64 上有 NVIDIA GPU 就會用 gpu profile 執行")
    if device == "cpu":
        return Text("--device cuda uses the GPU", "--device cuda 會使用 GPU")
    if profile == "cpu" and "gpu" in lab.profiles:
        fits, why = _fits(lab, gpu)
        if not fits:
            return Text(f"not the gpu profile: {why}", f"未採用 gpu profile：{why}")
    return Text("--device cpu runs it small", "--device cpu 會以小規模執行")
