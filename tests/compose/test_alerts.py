"""Every alert fires with its fault and clears with the recovery, by Prometheus' own rule tests; a rule that is wrong fails them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from parts import missing
from watched import MONITORING, expressions, metrics_in

RULES = MONITORING / "prometheus/alerts.yml"
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        missing("prometheus", "promtool is not installed (Debian: apt install prometheus)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, encoding="utf-8")


def judged(directory: Path, rules: str) -> subprocess.CompletedProcess[str]:
    """What the tests in alerts.test.yaml say of these rules."""
    (directory / "alerts.yml").write_text(rules, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("alerts.test.yaml"), directory)
    return promtool("test", "rules", directory / "alerts.test.yaml")


def test_prometheus_reads_its_configuration() -> None:
    done = promtool("check", "config", MONITORING / "prometheus/prometheus.yml")
    assert done.returncode == 0 and f"{len(ALERTS)} rules found" in done.stdout, done.stdout + done.stderr


def test_every_alert_fires_and_clears(tmp_path: Path) -> None:
    done = judged(tmp_path, RULES.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("wrong", ["vector(1)", "vector(1) > 2"], ids=["always", "never"])
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_fires_always_or_never_is_found_out(tmp_path: Path, alert: str, wrong: str) -> None:
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    (rule,) = [rule for group in content["groups"] for rule in group["rules"] if rule["alert"] == alert]
    rule["expr"] = wrong
    done = judged(tmp_path, yaml.safe_dump(content, sort_keys=False))
    assert done.returncode != 0 and f"alertname: {alert}," in done.stdout + done.stderr


def test_every_expression_asks_for_something_that_the_servers_have() -> None:
    assert all(metrics_in(expression) or "ALERTS" in expression for expression in expressions())
