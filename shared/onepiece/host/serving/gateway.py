"""The gateway of the local stack: this machine's nginx with the stack's own template."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Mapping

from onepiece.course.places import ROOT
from onepiece.host.serving import watch
from onepiece.host.serving.keys import DIRECTORY, write_private
from onepiece.serving import servers
from onepiece.serving.servers import Server

_OURS = DIRECTORY / "nginx"
_DRAIN_SECONDS = 8.5  # `worker_shutdown_timeout` of the template, and some; nox waits 15 s for all of the end
_KEY_CONF = 'map $http_authorization $onepiece_key {{\n    default 0;\n    "~^(?i:Bearer) +{key}$" 1;\n}}\n'


def nginx() -> str | None:
    """The nginx of this machine; distributions put it where only root looks."""
    if os.environ.get("ONEPIECE_GATEWAY", "") == "none":
        return None
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def start(program: str, key: str, ports: Mapping[str, int], limits: Mapping[str, str], upstreams: Mapping[str, int]) -> Server:
    """Start it and wait until it answers.

    Args:
        program: nginx.
        key: that clients must show.
        ports: `http` and `grpc`, where it listens.
        limits: `RATE`, `BURST`, `OPEN`, `BODY`, `TIMEOUT`.
        upstreams: `VLLM`, `TRITON_HTTP`, `TRITON_GRPC`: the servers' ports.

    Raises:
        UserError: "port-taken", "server-failed".
    """
    _OURS.mkdir(parents=True, exist_ok=True)
    (_OURS / "access.log").touch()
    write_private(_OURS / "key.conf", _KEY_CONF.format(key=key))
    values = {
        "RUN": str(_OURS),
        "KEY_CONF": str(_OURS / "key.conf"),
        "ACCESS_LOG": str(_OURS / "access.log"),
        "RESOLVER": "",
        "LISTEN_HTTP": f"127.0.0.1:{ports['http']}",
        "LISTEN_GRPC": f"127.0.0.1:{ports['grpc']}",
        **limits,
        **{name: f"127.0.0.1:{port}" for name, port in upstreams.items()},
    }
    template = (ROOT / "compose" / "gateway" / "nginx.conf.template").read_text(encoding="utf-8")
    write_private(_OURS / "nginx.conf", re.sub(r"\$\{ONEPIECE_([A-Z_]+)\}", lambda name: values[name.group(1)], template))
    line = [program, "-e", "stderr", "-p", str(_OURS), "-c", str(_OURS / "nginx.conf"), "-g", "daemon off;"]
    return servers.start("gateway", line, {}, f"http://127.0.0.1:{ports['http']}", "/healthz", dict(ports), DIRECTORY)


def drain() -> None:
    """Refuse what comes from now on with 503 and Retry-After, and wait until what is under way was answered, for a bounded time.

    Servers that are told to end answer new requests with 500, or not at all. So they are told when nothing new reaches them.
    """
    try:
        master = int((_OURS / "nginx.pid").read_text(encoding="utf-8"))
        before = watch.family(master)
        configuration = (_OURS / "nginx.conf").read_text(encoding="utf-8")
        write_private(_OURS / "nginx.conf", configuration.replace(" max_fails=0", " down max_fails=0"))
        os.kill(master, signal.SIGHUP)
    except (OSError, ValueError):  # it does not run
        return
    deadline = time.monotonic() + _DRAIN_SECONDS
    while (before - {master}) & watch.family(master) and time.monotonic() < deadline:
        time.sleep(0.05)
