"""The docker CLI as the tests of images call it, and a registry of their own on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from parts import missing

# Where images on stand-ins go by name, so that they are never mistaken for real ones; nothing listens there.
REGISTRY = "localhost:5999/onepiece-tests"


def docker(*arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a docker command; its output is in the error if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=timeout)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """A registry on loopback, host:port, stopped at the end."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        missing("docker", "docker-registry is not installed (a Debian package of that name)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = directory / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {directory / 'storage'}}}}}\nhttp: {{addr: {address}}}\n",
        encoding="utf-8",
    )
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(configuration)], stdout=log, stderr=log)
        try:
            _wait_for(address)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for(address: str) -> None:
    host, port = address.split(":")
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens at {address}")
