"""`.ci/engine` starts a daemon that outlives it, and that keeps nothing open that its caller had: tried with a stand-in for the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import toy_course
from parts import linux_only, missing

pytestmark = linux_only

DAEMON = """#!/bin/sh
ls /proc/$$/fd > "$STATE/descriptors.part"
echo $$ > "$STATE/pid"
mv "$STATE/descriptors.part" "$STATE/descriptors"
exec sleep 60
"""


@pytest.mark.fault("inherited-descriptors")
def test_the_daemon_keeps_nothing_of_its_caller(tmp_path: Path) -> None:
    if os.getuid() != 0:
        missing("docker", "starting an engine needs root")
    shims = {"dockerd": DAEMON, "dpkg-query": "#!/bin/sh\n", "docker": '#!/bin/sh\n[ "$1" != info ] || [ -e "$STATE/descriptors" ]\n'}
    for name, content in shims.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environ = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": str(tmp_path), "ONEPIECE_DOCKERD": str(tmp_path / "dockerd"),
        "ONEPIECE_ENGINE_ROOT": str(tmp_path / "engine"),
    }  # fmt: skip
    reads, writes = os.pipe()
    try:
        done = subprocess.run([toy_course.ROOT / ".ci/engine", "up"], env=environ, pass_fds=[writes], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        os.close(writes)
        os.set_blocking(reads, False)
        assert os.read(reads, 1) == b"", "the pipe has ended: nobody has it open any more"
        listed = set((tmp_path / "descriptors").read_text(encoding="utf-8").split())
        assert {"0", "1", "2"} <= listed and str(writes) not in listed
    finally:
        os.close(reads)
        if (tmp_path / "pid").exists():
            os.kill(int((tmp_path / "pid").read_text(encoding="utf-8")), signal.SIGKILL)
