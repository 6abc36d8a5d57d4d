"""Published results, `labs/<lab>/results/<profile>-<device>.json`: the only source of numbers on the site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.json_numbers import decode_number

_ORDER = ("cpu-cpu", "gpu-cuda", "cpu-cuda", "gpu-cpu")  # what a sentence quotes first


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one published run."""

    value: Any
    values: tuple[Any, ...]  # over seeds, in their order
    notebook: str
    how: str  # "one", "worst" or "mean": what `value` is of `values`


@dataclass(frozen=True, slots=True)
class Published:
    """One published run of a lab."""

    path: Path
    results: dict[str, Any]

    @property
    def name(self) -> str:
        """`cpu-cpu`: profile and device."""
        return self.path.stem

    def machine(self, language: str) -> str:
        """What it ran on: the GPU if there was one, else the processor."""
        hardware = self.results["hardware"]
        if hardware.get("gpus") and self.results["device"] == "cuda":
            return " + ".join(hardware["gpus"])
        cores = {"en": "{} cores", "zh-TW": "{} 核心"}[language].format(hardware.get("cores", "?"))
        return f"{hardware.get('processor', '?')}, {cores}"

    @property
    def day(self) -> str:
        """The day on which it ran, ISO 8601."""
        return str(self.results["started"])[:10]

    def measurement(self, metric: str, variant: str | None = None) -> Measurement | None:
        """What was measured; where a gate judged the metric, the value that the gate showed."""
        records = [record for record in self.results["records"] if record["metric"] == metric and record["variant"] == variant]
        if not records:
            return None
        values = tuple(record["value"] for record in records)
        notebook = records[0]["notebook"]
        for gate in self.results["gates"]:
            if gate["metric"] != metric:
                continue
            how = "mean" if gate["over"] == "mean" else "worst"
            if variant is None and gate["value"] is not None:
                return Measurement(gate["value"], values, notebook, how if len(values) > 1 else "one")
            for contrast in filter(None, (gate["control"], gate.get("null"))):
                if contrast["variant"] == variant and contrast["value"] is not None:
                    return Measurement(contrast["value"], values, notebook, how if len(values) > 1 else "one")
        if len(values) == 1:
            return Measurement(values[0], values, notebook, "one")
        return Measurement(sum(decode_number(value) for value in values) / len(values), values, notebook, "mean")


def published(lab: Lab) -> list[Published]:
    """Every published run of a lab, the one that a sentence quotes first."""
    files = sorted((lab.directory / "results").glob("[cg]pu-*.json"))
    found = [Published(path, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return sorted(found, key=lambda run: _ORDER.index(run.name) if run.name in _ORDER else len(_ORDER))
