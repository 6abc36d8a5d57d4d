"""What the dashboards and the alerts ask Prometheus."""

from __future__ import annotations

import json
import re

import toy_course
import yaml

MONITORING = toy_course.ROOT / "compose/monitoring"


def expressions() -> list[str]:
    """Of every panel of every dashboard, and of every alert."""
    found = []
    for path in sorted((MONITORING / "grafana/dashboards").glob("*.json")):
        found += [target["expr"] for panel in json.loads(path.read_text(encoding="utf-8"))["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((MONITORING / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    """The names of the servers' metrics in an expression, and `up`."""
    names = set(re.findall(r"\b(?:vllm:|nv_|http_)\w+", expression))
    return names | ({"up"} if re.search(r"\bup\b", expression) else set())
