"""Make the schemas in this directory anew, out of two packages of PyPI: python tests/schemas/collect.py

They are committed because only the tests need a small part of what would otherwise be 23 MB of packages to install. Both sources are under
the Apache License 2.0: SchemaStore's schemas of GitHub's files (in check-jsonschema), and the schemas of Kubernetes' own OpenAPI
description (in kubernetes-validate). Descriptions are left out, and of Kubernetes everything that the manifests do not name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GITHUB = "check-jsonschema==0.39.0"
KUBERNETES = "kubernetes-validate==1.37.0"
VERSION = "v1.34.0"  # what the manifests are held to: a field that came later would be refused by clusters that are not the newest
KINDS = {  # what the manifests are made of, by its name in Kubernetes' description
    "ConfigMap": "core.v1.ConfigMap",
    "Deployment": "apps.v1.Deployment",
    "HorizontalPodAutoscaler": "autoscaling.v2.HorizontalPodAutoscaler",
    "Namespace": "core.v1.Namespace",
    "NetworkPolicy": "networking.v1.NetworkPolicy",
    "PodDisruptionBudget": "policy.v1.PodDisruptionBudget",
    "PodTemplateSpec": "core.v1.PodTemplateSpec",
    "Secret": "core.v1.Secret",
    "Service": "core.v1.Service",
}


def wheel(requirement: str, directory: Path) -> zipfile.ZipFile:
    """Download a package without what it depends on."""
    options = ["--no-deps", "--quiet", "--only-binary", ":all:", "--dest", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    name = requirement.partition("==")[0].replace("-", "_")
    return zipfile.ZipFile(next(directory.glob(f"{name}-*.whl")))


def without_prose(value: Any, *, names: bool = False) -> Any:
    """A schema without descriptions and examples. `names`: the keys are names of properties, one of which may be "description"."""
    if isinstance(value, list):
        return [without_prose(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    left_out = set() if names else {"description", "examples", "$comment"}
    tables = {"properties", "definitions", "$defs", "patternProperties"}
    return {key: without_prose(inner, names=not names and key in tables) for key, inner in value.items() if key not in left_out}


def kubernetes(source: zipfile.ZipFile) -> dict[str, Any]:
    """KINDS and all that they refer to; unknown fields are errors."""
    read = source.read(f"kubernetes_validate/kubernetes-json-schema/{VERSION}-local-strict/_definitions.json")
    known: dict[str, Any] = without_prose(json.loads(read)["$defs"], names=True)
    found: dict[str, Any] = {}
    waiting = [f"io.k8s.api.{name}" for name in KINDS.values()]
    while waiting:
        name = waiting.pop()
        if name not in found:
            text = json.dumps(known[name])
            found[name] = json.loads(text.replace("/api/_definitions.json#/$defs/", "#/$defs/"))
            waiting += [reference for reference in known if f'"#/$defs/{reference}"' in json.dumps(found[name])]
    kinds = {kind: {"$ref": f"#/$defs/io.k8s.api.{name}"} for kind, name in KINDS.items()}
    return {"$comment": f"Kubernetes {VERSION}, from {KUBERNETES}; made by collect.py", "$defs": {**kinds, **dict(sorted(found.items()))}}


def main() -> None:
    """Write the three files."""
    with tempfile.TemporaryDirectory() as directory:
        github = wheel(GITHUB, Path(directory))
        for name in ("github-workflows", "dependabot"):
            content = json.loads(github.read(f"check_jsonschema/builtin_schemas/vendor/{name}.json"))
            write(name, {"$comment": f"SchemaStore, from {GITHUB}; made by collect.py", **without_prose(content)})
        write("kubernetes", kubernetes(wheel(KUBERNETES, Path(directory))))


def write(name: str, content: dict[str, Any]) -> None:
    """One line for each definition, so that a difference can be read."""
    tables = {key: value for key, value in content.items() if key in ("$defs", "definitions", "properties")}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items() if key not in tables]
    for key, table in tables.items():
        inner = ",\n".join(f"{json.dumps(part)}: {json.dumps(value)}" for part, value in table.items())
        lines.append(f"{json.dumps(key)}: {{\n{inner}\n}}")
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
