"""`report.html`: one file with everything that a run measured, readable without a network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from onepiece.course.catalog import Lab
from onepiece.course.text import LANGUAGES
from onepiece.host.road.exercises import Standing


def render(lab: Lab, results: dict[str, Any], run_directory: Path) -> str:
    """The report of one run; both languages, with a switch."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    figures = [figure | {"data": _data_uri(run_directory / figure["file"])} for figure in results["figures"]]
    template = environment.get_template("report.html.j2")
    found = results.get("exercises")
    standing = Standing(**{name: tuple(numbers) for name, numbers in found.items()}) if found else None
    by_metric = _by_metric(results["records"])
    return template.render(lab=lab, r=results, figures=figures, languages=LANGUAGES, by_metric=by_metric, standing=standing)


def _number(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "—" if value is None else str(value)


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _by_metric(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric and variant, its values in the order of their seeds."""
    rows: dict[tuple[str, str | None], dict[str, Any]] = {}
    for record in records:
        key = (record["metric"], record["variant"])
        row = rows.setdefault(key, {"metric": key[0], "variant": key[1], "notebook": record["notebook"], "values": []})
        row["values"].append(record["value"])
    return list(rows.values())
