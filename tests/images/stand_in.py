"""Stand-ins for base images that cannot be pulled: a Debian of this machine's packages, so that every instruction of ours executes.

    python tests/images/stand_in.py        # make it, print the setting that uses it

What a stand-in cannot show: CUDA, Ubuntu's Python 3.12, and the servers inside the vendors' images. A machine's extra CA
certificates, its pip configuration and its local wheels are put into the stand-in, as they are found when it is made; a machine that
has none gets a plain Debian. Nothing of that is in the images that are published, whose bases are pulled.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

REPOSITORY = "onepiece-stand-in"
SUITE = "bookworm"
INCLUDE = ("ca-certificates", "python3")
# A machine's pip settings that also hold inside a container; indexes on the machine's own disk do not.
PIP_SETTINGS = ("cert", "default-timeout", "extra-index-url", "find-links", "index-url", "timeout", "trusted-host")
CERTIFICATES = Path("/usr/local/share/ca-certificates")
FLASH_INDEX = "file:///opt/stand-in/simple/"  # inside the stand-in: a flash-attn wheel that is empty


class Unavailable(Exception):
    """No stand-in can be made on this machine; the message says why."""


def ensure(flash_attn: str) -> str:
    """The name of the stand-in image, made if the engine does not have it (about a minute).

    Args:
        flash_attn: the version that the empty flash-attn wheel in it is to have.
    """
    reference = f"{REPOSITORY}:{_fingerprint(flash_attn)}"
    if _docker("image", "inspect", reference).returncode != 0:
        _make(reference, flash_attn)
    return reference


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, encoding="utf-8")


def _fingerprint(flash_attn: str) -> str:
    wheels = [f"{path} {path.stat().st_size}" for directory in _wheel_directories() for path in sorted(directory.iterdir())]
    certificates = [path.read_text(encoding="utf-8") for path in _certificates()]
    parts = [Path(__file__).read_text(encoding="utf-8"), flash_attn, str(_pip_settings()), *wheels, *certificates, _mirror()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@cache
def _pip_settings() -> dict[str, str]:
    """pip's settings on this machine that make sense inside a container."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, encoding="utf-8").stdout
    found: dict[str, str] = {}
    for key, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", said, flags=re.MULTILINE):
        words = [word for word in value.encode().decode("unicode_escape").split() if not word.startswith("file:")]
        if key in PIP_SETTINGS and words:
            found[key] = " ".join(words)
    return found


def _wheel_directories() -> list[Path]:
    return [Path(word) for word in _pip_settings().get("find-links", "").split() if Path(word).is_dir()]


def _certificates() -> list[Path]:
    return sorted(CERTIFICATES.glob("*.crt")) if CERTIFICATES.is_dir() else []


@cache
def _mirror() -> str:
    """Where this machine's apt finds Debian."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.is_file())
    found = re.search(r"^(?:URIs:|deb)\s+(?:\[.*?\]\s+)?(https?://\S*?/debian)/?(?:\s|$)", text, flags=re.MULTILINE)
    return found.group(1) if found else "http://deb.debian.org/debian"


def _make(reference: str, flash_attn: str) -> None:
    if os.name != "posix" or os.geteuid() != 0:
        raise Unavailable("a stand-in base image is made by root only")
    if shutil.which("debootstrap") is None:
        raise Unavailable("debootstrap is not installed")
    with tempfile.TemporaryDirectory(prefix="onepiece-stand-in-", dir="/var/tmp") as temporary:
        root = Path(temporary) / "root"
        _run("debootstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}", SUITE, str(root), _mirror())
        _furnish(root, flash_attn)
        archive = subprocess.Popen(["tar", "--one-file-system", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        label = "LABEL org.onepiece.stand-in=true"
        imported = subprocess.run(
            ["docker", "import", "--change", label, "-", reference], stdin=archive.stdout, capture_output=True, text=True
        )
        if archive.wait() != 0 or imported.returncode != 0:
            raise Unavailable(f"the stand-in could not be imported: {imported.stderr.strip()}")


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    if done.returncode != 0:
        raise Unavailable(f"{command[0]} failed: {(done.stdout + done.stderr).strip()[-500:]}")


def _furnish(root: Path, flash_attn: str) -> None:
    # Ubuntu's images come with a user of this UID; ours must cope with that.
    _run("chroot", str(root), "useradd", "--uid", "1000", "--create-home", "--shell", "/bin/bash", "ubuntu")
    for certificate in _certificates():
        shutil.copy(certificate, root / CERTIFICATES.relative_to("/"))
    _run("chroot", str(root), "update-ca-certificates")
    for directory in _wheel_directories():
        shutil.copytree(directory, root / directory.relative_to("/"))
    settings = "".join(f"{key} = {value}\n" for key, value in _pip_settings().items())
    (root / "etc/pip.conf").write_text(f"[global]\n{settings}", encoding="utf-8")
    _copy_apt_settings(root)
    _empty_wheel(root / FLASH_INDEX.removeprefix("file:///") / "flash-attn", flash_attn)


def _copy_apt_settings(root: Path) -> None:
    """How this machine reaches its mirror (proxies, whether dates are checked), and what images of a distribution do."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    wanted = [line for line in dumped.splitlines() if re.match(r"Acquire::(https?::Proxy|Check-)", line)]
    # Ubuntu's and Debian's own images keep no downloaded packages; debootstrap's do.
    wanted.append('DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };')
    (root / "etc/apt/apt.conf.d/99machine").write_text("\n".join(wanted) + "\n", encoding="utf-8")


def _empty_wheel(directory: Path, version: str) -> None:
    directory.mkdir(parents=True)
    info = f"flash_attn-{version}.dist-info"
    files = {
        "flash_attn/__init__.py": f'__version__ = "{version}"  # a stand-in\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    name = f"flash_attn-{version}-py3-none-any.whl"
    with zipfile.ZipFile(directory / name, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(zipfile.ZipInfo(path), content)  # no date: the hash is always the same
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    (directory / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>\n', encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared"))
    from onepiece.host.road.environments import versions

    stand_in = ensure(versions()["images"]["flash_attn"]["version"])
    bases = [base["tag"] for base in versions()["images"]["bases"].values()]
    print(f"export ONEPIECE_BASE_IMAGES={','.join(f'{base}={stand_in}' for base in bases)}")
