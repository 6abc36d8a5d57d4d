"""Virtual environments from the locks in `images/`. Stdlib only: the noxfile uses it before anything is installed.

An environment is `images/<name>/lock.txt` (hash-locked), plus `extra-<extra>.txt` for what only some labs need. It is
made when first needed, in `.nox/<name>-py3.12/`, and its stamp holds the hash of what is in it, so that the warm
path is one small file read. Two runs that need the same environment at once make it once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course import intact
from onepiece.course.errors import UserError, write_error
from onepiece.course.json_objects import read_object
from onepiece.course.places import ENVIRONMENTS, IMAGES
from onepiece.course.text import tr

SUPPORTED = ((3, 11), (3, 14))
_WAIT_SECONDS = 1800  # how long one process waits for another that is installing


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that exists."""

    name: str
    directory: Path
    lock_sha256: str | None  # None: somebody else made it

    @property
    def python(self) -> Path:
        return _python(self.directory)


def _ignore(_: str) -> None:
    pass


def ensure(
    name: str,
    extras: Sequence[str] = (),
    *,
    fresh: bool = False,
    session: str = "doctor",
    note: Callable[[str], None] = print,
    detail: Callable[[str], None] = _ignore,
) -> Environment:
    """The environment `name` with `extras`, installed if it is not there yet.

    Args:
        name: a directory of `images/` with a `lock.txt`.
        extras: names of `extra-<extra>.txt` files beside it; those without a file here are not needed here.
        fresh: throw an existing one away first.
        session: what the user typed, for error messages.
        note: gets the few lines that a user should see.
        detail: gets what the installer is at, line by line.

    Raises:
        UserError: the Python version is not supported, nothing can be written, the disk is full, or pip failed.
    """
    check_python(session)
    directory = ENVIRONMENTS / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    wanted = _wanted(name, extras)
    if not fresh and _usable(directory, wanted):
        return Environment(name, directory, wanted["lock.txt"])
    with _writable(directory.parent), _alone(directory, note):
        if fresh or not _usable(directory, wanted):
            # Without its Python nothing of it can be used: an update of the system took that away.
            gone = directory.exists() and not _python(directory).exists()
            _install(name, directory, wanted, fresh or gone, note, detail)
    return Environment(name, directory, wanted["lock.txt"])


def given(directory: Path, session: str) -> Environment:
    """A virtual environment that somebody else made, for a machine where nothing can be installed.

    Raises:
        UserError: "not-an-environment".
    """
    found = Environment(directory.name, directory.absolute(), None)
    if not found.python.exists():
        reason = tr(f"there is no {found.python}", f"找不到 {found.python}")
        raise UserError("not-an-environment", path=directory, reason=reason, session=session)
    return found


def installed(name: str) -> bool:
    """Is there an environment of this name, made from the present lock?"""
    directory = ENVIRONMENTS / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    return _covers(stamp_of(directory), _wanted(name, ()))


def check_python(session: str) -> None:
    """Refuse a Python that the locks have no wheels for."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        raise UserError("python-version", found=platform.python_version(), session=session)


@functools.cache
def versions() -> dict[str, Any]:
    """`images/versions.toml`: the one truth for pins that several rooms share."""
    return tomllib.loads((IMAGES / "versions.toml").read_text(encoding="utf-8-sig"))


def extra_available(extra: str) -> bool:
    """Can this operating system have the extra at all?"""
    platforms = versions()["extras"].get(extra, {}).get("platforms")
    return platforms is None or sys.platform in platforms


# --- stamps -------------------------------------------------------------------------------------


def _wanted(name: str, extras: Sequence[str]) -> dict[str, str]:
    """File name -> hash, and torch -> version, of everything that the environment must hold."""
    lock = IMAGES / name / "lock.txt"
    if not lock.is_file():
        raise UserError("no-environment", name=name)
    torch = versions()["environments"].get(name, {}).get("torch")
    extra_files = [f"extra-{extra}.txt" for extra in sorted(extras) if extra_available(extra)]
    wanted = {"lock.txt": _sha256(lock)} | ({"torch": torch} if torch else {})
    return wanted | {file: _sha256(lock.parent / file) for file in extra_files if (lock.parent / file).exists()}


def lock_hash(name: str) -> str:
    """SHA-256 of the lock of the environment `name`."""
    return _sha256(IMAGES / name / "lock.txt")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamp_of(directory: Path) -> dict[str, str]:
    """What an environment says is in it: file of `images/<name>/` -> hash; empty if its installation did not come to an end."""
    return read_object(directory / "onepiece.json")


def _usable(directory: Path, wanted: dict[str, str]) -> bool:
    return _covers(stamp_of(directory), wanted) and _python(directory).exists()


def _covers(stamp: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(stamp.get(file) == digest for file, digest in wanted.items())


def _python(directory: Path) -> Path:
    return directory / "Scripts" / "python.exe" if os.name == "nt" else directory / "bin" / "python"


# --- installation -------------------------------------------------------------------------------


def _install(
    name: str, directory: Path, wanted: dict[str, str], fresh: bool, note: Callable[[str], None], detail: Callable[[str], None]
) -> None:
    stamp = {} if fresh else stamp_of(directory)
    settings = versions()["environments"].get(name, {})
    needed_gb = settings.get("disk_gb", 0.5)
    free_gb = shutil.disk_usage(directory.parent).free / 2**30
    if any(stamp.get(base) != wanted.get(base) for base in ("lock.txt", "torch")):
        # Without a stamp, or from another lock: begin again, so that what is installed is what the lock says.
        stamp = {}
        if free_gb < needed_gb:
            raise UserError("disk-small", path=directory.parent, free_gb=free_gb, need_gb=needed_gb)
        shutil.rmtree(directory, ignore_errors=True)
    log = directory.parent / f"{directory.name}.log"
    if stamp:
        added = ", ".join(file.removeprefix("extra-").removesuffix(".txt") for file in wanted if stamp.get(file) != wanted[file])
        note(tr(f"Adding {added} to the {name} environment; this happens once", f"正在把 {added} 加入 {name} 環境，只會發生這一次"))
    else:
        note(tr(f"Installing the {name} environment; this happens once", f"正在安裝 {name} 環境，只會發生這一次"))
    pip = _Pip(name, directory, log, detail)
    with log.open("w", encoding="utf-8") as stream:
        pip.stream = stream
        if not stamp:
            pip.run([sys.executable, "-P", "-m", "virtualenv", "--no-periodic-update", "-q", str(directory)], "virtualenv")
            pip.install(["--require-hashes", "--no-deps", "-r", str(IMAGES / name / "lock.txt")])
            if "torch" in wanted:
                pip.install([f"torch=={wanted['torch']}", *_torch_options(note)])
            stamp = {base: wanted[base] for base in ("lock.txt", "torch") if base in wanted}
        for file, digest in wanted.items():
            if stamp.get(file) != digest:
                pip.install(["--require-hashes", "--no-deps", "-r", str(IMAGES / name / file)])
                stamp[file] = digest
        pip.expect_installed(IMAGES / name / "lock.txt", torch="torch" in wanted)
    temporary = directory / "onepiece.json.tmp"
    temporary.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    temporary.replace(directory / "onepiece.json")


class _Pip:
    """Runs installers, keeps their output in a log, and shows what they are at."""

    def __init__(self, name: str, directory: Path, log: Path, detail: Callable[[str], None]) -> None:
        self.name, self.directory, self.log, self.detail = name, directory, log, detail
        self.stream: Any = None

    def install(self, arguments: list[str]) -> None:
        # Bytecode is compiled by the first import: most of what is installed is never imported by most labs.
        options = ["--no-compile", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        in_place = ["--no-user", "--target=", f"--prefix={self.directory}"]  # whatever a file of settings says
        self.run([str(_python(self.directory)), "-P", "-m", "pip", "install", *options, *in_place, *arguments], "pip")

    def run(self, command: list[str], what: str) -> None:
        self.stream.write(f"$ {' '.join(command)}\n")
        pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8", "errors": "replace"}
        process = subprocess.Popen(command, env=_installer_environment(), **pipe)
        last = ""
        try:
            for line in process.stdout or ():
                self.stream.write(line)
                last = line.strip() if line.startswith("ERROR") or not last.startswith("ERROR") else last
                if line.startswith(("Collecting", "Installing")) or "Downloading" in line:
                    self.detail(line.strip())
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            process.wait()
        if process.returncode != 0:
            raise UserError("install-failed", name=self.name, reason=last or f"{what} ended with {process.returncode}", log=self.log)

    def expect_installed(self, lock: Path, *, torch: bool) -> None:
        """Refuse an installation that pip calls good and that is somewhere else, or cannot be loaded.

        Raises:
            UserError: "install-failed".
        """
        program = "import sys\nfrom importlib.metadata import version\nfor name in sys.argv[1:]: version(name)" + "\nimport torch" * torch
        self.run([str(_python(self.directory)), "-P", "-c", program, *intact.pinned(lock)], "the first import")


# What of pip's settings says where packages come from and how they are reached. The others may move or constrain what the lock names.
_KEPT_PIP_SETTINGS = frozenset(
    f"PIP_{name}"
    for name in (
        "CACHE_DIR", "CERT", "CLIENT_CERT", "CONFIG_FILE", "DEFAULT_TIMEOUT", "EXTRA_INDEX_URL", "FIND_LINKS", "INDEX_URL",
        "KEYRING_PROVIDER", "NO_CACHE_DIR", "NO_INDEX", "PROXY", "RETRIES", "TIMEOUT", "TRUSTED_HOST",
    )
)  # fmt: skip


def _installer_environment() -> dict[str, str]:
    """The user's environment without what would put packages elsewhere, or other versions in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name in _KEPT_PIP_SETTINGS}
    for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE"):
        kept.pop(name, None)
    return kept | {"PIP_CONSTRAINT": os.devnull}


def _torch_options(note: Callable[[str], None]) -> list[str]:
    """On Linux, PyPI's torch brings gigabytes of CUDA libraries that a machine without a GPU cannot use."""
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise UserError("no-torch-wheel", platform="Intel Macs")
    if sys.platform != "linux":
        return []
    index = versions()["torch"]["cpu_index"]
    if _reachable(index):
        note(tr(f"No GPU is used here: PyTorch for the CPU, from {index}", f"這裡不使用 GPU：從 {index} 取得 CPU 版 PyTorch"))
        return ["--index-url", index]
    note(
        tr(
            "PyTorch's CPU index is out of reach: taking torch from where pip is set up to look",
            "連不上 PyTorch 的 CPU 套件庫：改從 pip 設定的來源取得 torch",
        )
    )
    return []


def _reachable(index: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{index}/torch/", method="HEAD"), timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


# --- one at a time, and only where one may write ------------------------------------------------


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise write_error(error) from None


@contextlib.contextmanager
def _alone(directory: Path, note: Callable[[str], None]) -> Iterator[None]:
    from filelock import FileLock, Timeout  # comes with virtualenv, which comes with nox

    lock = FileLock(directory.parent / f"{directory.name}.lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        note(tr(f"Another run is installing {directory.name}; waiting for it", f"另一次執行正在安裝 {directory.name}，等待中"))
        lock.acquire(timeout=_WAIT_SECONDS)
    try:
        yield
    finally:
        lock.release()


# --- making the locks ---------------------------------------------------------------------------


def locks() -> list[tuple[str, str, list[str]]]:
    """(dependency group, file below images/, more options of `uv pip compile`), in the order they depend on each other.

    The CPU environment takes torch from an index of its own, so its lock holds neither torch nor the CUDA
    libraries that PyPI's torch for Linux asks for.
    """

    def leave_out(name: str) -> list[str]:
        return [option for package in versions()["environments"][name]["without"] for option in ("--no-emit-package", package)]

    cuda, media = leave_out("cpu"), leave_out("vllm-cpu")
    return [
        ("host", "host/lock.txt", []),
        ("tests", "tests/lock.txt", []),
        ("cpu", "cpu/lock.txt", cuda),
        ("triton", "cpu/extra-triton.txt", ["--no-deps"]),
        ("jupyter", "cpu/extra-jupyter.txt", ["--constraint", str(IMAGES / "cpu" / "lock.txt")]),
        ("serve", "cpu/extra-serve.txt", ["--constraint", str(IMAGES / "cpu" / "lock.txt")]),
        ("triton-client", "cpu/extra-triton-client.txt", ["--constraint", str(IMAGES / "cpu" / "lock.txt")]),
        ("train", "train/lock.txt", []),
        ("docs", "docs/lock.txt", []),
        ("jupyter", "train/extra-jupyter.txt", ["--constraint", str(IMAGES / "train" / "lock.txt")]),
        ("serve", "train/extra-serve.txt", ["--constraint", str(IMAGES / "train" / "lock.txt")]),
        ("triton-client", "train/extra-triton-client.txt", ["--constraint", str(IMAGES / "train" / "lock.txt")]),
        ("lm-eval", "cpu/extra-lm-eval.txt", [*cuda, "--constraint", str(IMAGES / "cpu" / "lock.txt")]),
        ("flash", "flash/lock.txt", []),
        ("jupyter", "flash/extra-jupyter.txt", ["--constraint", str(IMAGES / "flash" / "lock.txt")]),
        ("eval", "eval/lock.txt", ["--constraint", str(IMAGES / "train" / "lock.txt")]),  # its image stands on train's
        ("triton-client", "triton/lock.txt", []),
        ("vllm-cpu", "vllm-cpu/lock.txt", [*cuda, *media, "--override", str(IMAGES / "vllm-cpu" / "overrides.txt")]),
        ("triton-cpu", "triton-cpu/lock.txt", cuda),
    ]
