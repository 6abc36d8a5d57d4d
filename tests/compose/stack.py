"""One project of compose, as the tests handle it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import toy_course
from requests_to import Client


@dataclass
class Stack:
    """One project of compose, with ports of its own."""

    name: str
    variables: dict[str, str]
    seconds: float = 0.0  # from `up` to everything healthy

    def compose(self, *arguments: str, check: bool = True, timeout: float = 900) -> str:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, "--profile", "monitoring", "--ansi", "never", *arguments],
            cwd=toy_course.ROOT,
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"compose {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def python(self, service: str, code: str, **variables: str) -> str:
        """What a program writes that runs in a service's container."""
        given = [option for name, value in variables.items() for option in ("-e", f"{name}={value}")]
        return self.compose("exec", "-T", *given, service, "python3", "-c", code)

    def inspect(self, service: str) -> dict[str, Any]:
        done = subprocess.run(["docker", "inspect", self._identifier(service)], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout)[0])

    def log(self, service: str) -> str:
        """All that a service wrote; `docker compose logs` adds characters for a terminal."""
        done = subprocess.run(["docker", "logs", self._identifier(service)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout

    def access_log(self) -> list[dict[str, Any]]:
        """What the gateway wrote about each request."""
        return [json.loads(line) for line in self.log("serving").splitlines() if line.startswith("{")]

    def _identifier(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    @cached_property
    def client(self) -> Client:
        """With the key."""
        return Client(int(self.variables["ONEPIECE_HTTP_PORT"]), self.compose("exec", "-T", "serving", "cat", "/run/onepiece/key"))

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        answer = Client(int(self.variables["ONEPIECE_PROMETHEUS_PORT"])).ask(f"/api/v1/query?{urlencode({'query': query})}")
        assert answer.status == 200, (query, answer.body)
        return list(answer.json["data"]["result"])

    def number(self, query: str) -> float:
        """The one value of a query; 0 if there is none."""
        result = self.prometheus(query)
        return float(result[0]["value"][1]) if result else 0.0
