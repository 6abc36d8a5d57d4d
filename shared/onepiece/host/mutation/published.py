"""`labs/<lab>/results/mutants.json`: what `nox -s mutate -- <lab> --publish` found, the same for the same sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.host.mutation.core import Noticed, code_hash
from onepiece.host.mutation.declared import FILE
from onepiece.host.mutation.mutants import Mutant
from onepiece.host.mutation.score import Judged, counts, share_killed
from onepiece.host.road import runs, sources

SCHEMA_VERSION = 1


def path_of(lab: Lab) -> Path:
    """Where it is."""
    return lab.directory / "results" / "mutants.json"


def write(lab: Lab, judged: Sequence[Judged], noticed: Sequence[Noticed], versions: Mapping[str, str]) -> Path:
    """Publish. Without `noticed`, what the gates said earlier is kept while it is about the present code."""
    path = path_of(lab)
    path.parent.mkdir(exist_ok=True)
    runs.write_json(path, as_json(lab, judged, noticed, versions))
    return path


def read(lab: Lab) -> dict[str, Any] | None:
    """What is published; None if nothing is."""
    path = path_of(lab)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def as_json(lab: Lab, judged: Sequence[Judged], noticed: Sequence[Noticed], versions: Mapping[str, str]) -> dict[str, Any]:
    """The file as it is written."""
    made = {
        "schema": SCHEMA_VERSION,
        "lab": lab.id,
        "sources_sha256": sources_hash(lab),
        "versions": dict(versions),
        "killed": round(share_killed(judged), 4),
        "exercises": [{"exercise": number, **fates} for number, fates in counts(judged).items()],
        "survivors": [_place(item.mutant) for item in judged if item.fate == "survived"],
    }
    if noticed:
        lines = [_place(item.mutant) | {"noticed_by": list(item.by)} for item in noticed]
        return made | {"core": {"code_sha256": code_hash(lab), "lines": lines}}
    earlier = (read(lab) or {}).get("core")
    return made | ({"core": earlier} if earlier and earlier["code_sha256"] == code_hash(lab) else {})


def _place(mutant: Mutant) -> dict[str, Any]:
    return {"module": mutant.module, "line": mutant.line, "text": mutant.text, "change": mutant.change}


def sources_hash(lab: Lab) -> str:
    """One hash over everything in the lab's directory that decides what the checks say about a mutant."""
    digest = hashlib.sha256()
    for path in [*sources.modules(lab), lab.directory / "checks.py", lab.directory / FILE]:
        if path.exists():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
