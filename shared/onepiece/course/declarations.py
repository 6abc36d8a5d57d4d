"""What a lab declares about itself, as frozen dataclasses: the lab, its profiles, its gates, its score."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.text import Text

LAB_ID = re.compile(r"lab-\d+(\.\d+)+-[a-z0-9]+(-[a-z0-9]+)*")
NOTEBOOK_NAME = re.compile(r"\d{2}-[a-z0-9]+(-[a-z0-9]+)*")
LEVELS = ("intro", "core", "advanced")
PATHS = ("engineer", "researcher", "manager")
PROFILES = ("cpu", "gpu")
BETTER = ("higher", "lower")
SERVERS = ("vllm", "triton")
RESERVED_SETTINGS = ("profile", "device", "model")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Profile:
    """How big a run is. `settings` is what the notebooks read as `lab.settings`."""

    minutes: float
    settings: Mapping[str, Any]
    memory_gb: float | None = None  # peak resident memory budget, GiB
    vram_gb: float | None = None  # GPU memory it needs, GiB
    min_compute: str | None = None  # lowest CUDA compute capability, "7.5"


@dataclass(frozen=True, slots=True)
class Gate:
    """A measured pass condition: exactly one of `max`, `min`, `equals` is set."""

    metric: str
    objective: Text
    max: float | None = None
    min: float | None = None
    equals: float | bool | None = None
    over: str = "every"  # "every" seed must hold, or their "mean"
    profiles: tuple[str, ...] = PROFILES
    control: str | None = None  # a variant of the same metric that must miss the bound: the nearest plausible mistake
    null: str | None = None  # a variant that knows nothing, and must miss too: a constant answer, zeros, the untrained model
    requires: tuple[str, ...] = ()  # extras without which it cannot be measured ("triton" on macOS)

    @property
    def bound(self) -> str:
        """The bound as a reader writes it: `<= 1e-05`."""
        if self.max is not None:
            return f"<= {self.max:g}"
        if self.min is not None:
            return f">= {self.min:g}"
        if isinstance(self.equals, bool):
            return f"is {str(self.equals).lower()}"
        return f"== {self.equals:,}" if isinstance(self.equals, int) else f"== {self.equals:g}"  # a count is written to the last digit


@dataclass(frozen=True, slots=True)
class Score:
    """One measured number by which runs of a lab compare, on one machine: nothing passes or fails by it."""

    metric: str  # recorded by a notebook; its mean over seeds is the score
    objective: Text
    better: str  # "higher" or "lower"
    unit: str = ""
    profiles: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab, as its manifest says."""

    id: str
    directory: Path
    title: Text
    summary: Text
    chapter: str
    level: str
    notebooks: tuple[str, ...]  # names without suffix, in order
    image: str
    profiles: Mapping[str, Profile]
    gates: tuple[Gate, ...]
    requires: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    server: str | None = None  # the real server that its notebooks start, of SERVERS
    network: bool = False
    score: Score | None = None

    @property
    def module(self) -> str:
        """The course module: "1" for lab-1.5-flashattention."""
        return self.id.removeprefix("lab-").split(".")[0]

    def notebook(self, wanted: str) -> str:
        """The notebook that `wanted` means: "2", "02" or its whole name."""
        for name in self.notebooks:
            if wanted in (name, name[:2], name[:2].lstrip("0"), f"{name}.py", f"{name}.ipynb"):
                return name
        raise UserError("unknown-notebook", lab=self.id, notebook=wanted, choices=", ".join(self.notebooks))

    def profile(self, name: str) -> Profile:
        """The profile `name`; UserError if the lab has none of that name."""
        if name not in self.profiles:
            raise UserError("no-profile", lab=self.id, profile=name, choices="|".join(self.profiles))
        return self.profiles[name]
