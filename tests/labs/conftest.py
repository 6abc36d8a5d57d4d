"""What the tests with real runs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toy_course

from onepiece.host.road import environments

SCHEMA = json.loads((toy_course.ROOT / "shared" / "onepiece" / "host" / "road" / "results.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def read_results() -> Any:
    """`results.json` of a run directory, held to its schema."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)

    def read(run: Path) -> dict[str, Any]:
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        validator.validate(results)
        return results

    return read


@pytest.fixture(scope="session", autouse=True)
def _environments() -> None:
    """Make what all runs need before the first one: a test that interrupts a run must not interrupt an installation."""
    for name in ("host", "cpu"):
        environments.ensure(name, session="tests")
