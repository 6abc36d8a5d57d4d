"""Virtual environments from locks: made once, made again when they must be, and never half.

Real `virtualenv` and real `pip`; what they install is a wheel of a few bytes from a directory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_course
from parts import linux_only

from onepiece.course.errors import UserError
from onepiece.host.road import environments

VERSIONS = """
[torch]
cpu_index = "file:///there/is/no/index"

[environments.small]
disk_gb = 0.001

[extras.elsewhere]
platforms = ["amiga"]
"""


def wheel(directory: Path, name: str, version: str) -> str:
    """Write a wheel with one module; returns the line of a lock."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Site:
    """A checkout with locks of its own, and a home for environments."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.home = root / "home"
        self.wheels = root / "wheels"
        (self.images / "small").mkdir(parents=True)
        (self.images / "versions.toml").write_text(VERSIONS, encoding="utf-8")
        self.lock = self.images / "small" / "lock.txt"
        self.lock.write_text(wheel(self.wheels, "straw", "1.0"), encoding="utf-8")

    @property
    def directory(self) -> Path:
        return self.home / ".nox" / f"small-py{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def environ(self) -> dict[str, str]:
        """For processes: this checkout, this home, and these wheels only."""
        return os.environ | {
            "ONEPIECE_ROOT": str(self.root),
            "ONEPIECE_HOME": str(self.home),
            "PYTHONPATH": str(toy_course.ROOT / "shared"),
            "ONEPIECE_LANG": "en",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PYTHONUTF8": "1",
        }

    def start(self, program: str) -> subprocess.Popen[str]:
        """Another process that uses `ensure`."""
        program = f"from onepiece.host.road.environments import ensure\n{program}"
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A background job of a shell ignores Ctrl-C, and hands that down.
            preexec_fn=None if sys.platform == "win32" else toy_course.hear_signals,
        )

    def version(self, module: str = "straw") -> str:
        """What the environment has installed; "" if it is not there."""
        python = environments.ensure("small").python
        done = subprocess.run([python, "-c", f"import {module}; print({module}.version)"], capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("virtualenv")


@pytest.fixture
def site(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "ONEPIECE_LANG"):
        monkeypatch.setenv(name, site.environ[name])
    # Each environment here would compile pip anew, which takes longer than everything else: let them share one pip.
    monkeypatch.setenv("VIRTUALENV_OVERRIDE_APP_DATA", str(cache))
    monkeypatch.setenv("VIRTUALENV_SYMLINK_APP_DATA", "true")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setattr(environments, "IMAGES", site.images)
    monkeypatch.setattr(environments, "ENVIRONMENTS", site.home / ".nox")
    environments.versions.cache_clear()
    yield site
    environments.versions.cache_clear()


def refusal(function: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as refused:
        function()
    return refused.value


# --- the user's own settings of pip ---------------------------------------------------------------------------


@pytest.mark.fault("inherited-settings")
@pytest.mark.parametrize(
    ("name", "value"),
    [("PIP_TARGET", "elsewhere"), ("PIP_PREFIX", "elsewhere"), ("PIP_USER", "1"), ("PIP_CONSTRAINT", "limits.txt"), ("PYTHONPATH", "elsewhere")],
)
def test_settings_that_move_or_constrain_packages_change_nothing(site: Site, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    (site.root / "limits.txt").write_text("straw<1\n", encoding="utf-8")
    monkeypatch.setenv(name, value if name == "PIP_USER" else str(site.root / value))
    environments.ensure("small", note=str)
    assert site.version() == "1.0"
    assert not (site.root / "elsewhere").exists()


@pytest.mark.fault("inherited-settings")
def test_the_same_settings_in_a_file_change_nothing_and_where_packages_come_from_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    (site.root / "limits.txt").write_text("straw<1\n", encoding="utf-8")
    settings = f"[global]\nfind-links = {site.wheels}\ntarget = {site.root / 'elsewhere'}\nconstraint = {site.root / 'limits.txt'}\n"
    (site.root / "pip.conf").write_text(settings, encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(site.root / "pip.conf"))
    environments.ensure("small", note=str)
    assert site.version() == "1.0"
    assert not (site.root / "elsewhere").exists()


@pytest.mark.fault("inherited-settings")
def test_what_pip_calls_good_and_is_not_there_is_not_stamped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments._Pip, "install", lambda *_: None)
    error = refusal(lambda: environments.ensure("small", note=str))
    assert error.code == "install-failed"
    assert "straw" in error.cause.en
    assert not (site.directory / "onepiece.json").exists()


# --- made once --------------------------------------------------------------------------------------------


def test_an_environment_is_made_when_first_needed_and_then_only_looked_at(site: Site) -> None:
    assert not environments.installed("small")
    notes: list[str] = []
    details: list[str] = []
    made = environments.ensure("small", note=notes.append, detail=details.append)
    assert any("small" in line for line in notes)
    assert any("straw" in line for line in details)
    assert environments.installed("small")
    assert site.version() == "1.0"
    # The warm path, in a process in which nothing can be started: no pip, no virtualenv, no second look.
    program = "import sys\nsys.addaudithook(lambda event, _: sys.exit('started a process') if event == 'subprocess.Popen' else None)\n"
    warm = site.start(f"{program}print(ensure('small', note=lambda line: print('NOTE', line)).python)")
    out, _ = warm.communicate(timeout=60)
    assert out.strip() == str(made.python)
    assert warm.returncode == 0


@pytest.mark.fault("interrupted-installation")
def test_two_processes_at_once_make_it_once_and_both_can_use_it(site: Site) -> None:
    program = "import subprocess\npython = ensure('small', detail=lambda line: print('DETAIL', line)).python\n"
    program += "print(subprocess.run([python, '-c', 'import straw; print(straw.version)'], capture_output=True, text=True).stdout)"
    both = [site.start(program), site.start(program)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("1.0" in out.splitlines() for out in said)
    assert sum("Installing collected packages: straw" in out for out in said) == 1


# --- made again -------------------------------------------------------------------------------------------


def test_a_changed_lock_makes_it_anew_so_that_it_holds_what_the_lock_says(site: Site) -> None:
    environments.ensure("small")
    site.lock.write_text(wheel(site.wheels, "hay", "3.0"), encoding="utf-8")
    assert not environments.installed("small")
    environments.ensure("small")
    assert site.version("hay") == "3.0"
    assert site.version("straw") == "", "what the lock no longer names is gone"


def test_fresh_makes_it_anew_although_nothing_changed(site: Site) -> None:
    environments.ensure("small")
    (site.directory / "left behind").write_text("")
    environments.ensure("small", fresh=True)
    assert not (site.directory / "left behind").exists()
    assert environments.installed("small")


@pytest.mark.fault("interrupted-installation")
def test_an_installation_that_was_cut_off_is_begun_again(site: Site) -> None:
    # What a power cut leaves: files, and no stamp that vouches for them.
    (site.directory / "bin").mkdir(parents=True)
    (site.directory / "bin" / "python").write_text("half a file")
    environments.ensure("small")
    assert site.version() == "1.0"


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null", "1", '{"lock.txt": "another"}', '{"lock.txt": null}'])
def test_a_stamp_that_does_not_vouch_for_the_lock_is_none(site: Site, stamp: str) -> None:
    site.directory.mkdir(parents=True)
    (site.directory / "onepiece.json").write_text(stamp)
    assert not environments.installed("small")


def test_another_torch_makes_the_environment_anew(site: Site) -> None:
    for version in ("1.0", "2.0"):
        wheel(site.wheels, "torch", version)
        pin = f'[environments.small]\ntorch = "{version}"'
        (site.images / "versions.toml").write_text(VERSIONS.replace("[environments.small]", pin), encoding="utf-8")
        environments.versions.cache_clear()
        environments.ensure("small")
        assert site.version("torch") == version


# --- extras -----------------------------------------------------------------------------------------------


def test_an_extra_is_added_when_first_needed_and_the_rest_stays(site: Site) -> None:
    (site.images / "small" / "extra-hay.txt").write_text(wheel(site.wheels, "hay", "2.0"), encoding="utf-8")
    environments.ensure("small")
    assert site.version("hay") == ""
    (site.directory / "stays").write_text("")
    environments.ensure("small", ["hay"])
    assert site.version("hay") == "2.0"
    assert (site.directory / "stays").exists()
    environments.ensure("small")
    assert site.version("hay") == "2.0", "a lab without the extra does not take it from the others"


def test_an_extra_that_this_system_cannot_have_is_left_out(site: Site) -> None:
    (site.images / "small" / "extra-elsewhere.txt").write_text("elsewhere==1.0 --hash=sha256:" + "0" * 64, encoding="utf-8")
    environments.ensure("small", ["elsewhere"])
    assert set(json.loads((site.directory / "onepiece.json").read_text())) >= {"lock.txt"}
    assert environments.installed("small")


# --- refusals ---------------------------------------------------------------------------------------------


def test_an_environment_without_its_python_is_made_anew(site: Site) -> None:
    python = environments.ensure("small").python
    python.unlink()
    said: list[str] = []
    assert environments.ensure("small", session="lab-9.1-toy", note=said.append).python == python
    assert said and site.version() == "1.0"


@pytest.mark.fault("interrupted-installation")
def test_a_wheel_that_is_not_what_the_lock_says_is_refused_and_the_log_tells_all(site: Site) -> None:
    good = site.lock.read_text(encoding="utf-8")
    site.lock.write_text(good.split("sha256:")[0] + "sha256:" + "0" * 64 + "\n", encoding="utf-8")
    error = refusal(lambda: environments.ensure("small"))
    assert error.code == "install-failed"
    assert "hash" in error.cause.en.lower()
    log = Path(error.remedy.en.split("log is ")[1].split(". Check")[0])
    assert "straw" in log.read_text(encoding="utf-8")
    assert not environments.installed("small"), "half an environment is none"
    site.lock.write_text(good, encoding="utf-8")
    environments.ensure("small")
    assert site.version() == "1.0"


def test_a_package_that_cannot_be_found_is_named(site: Site) -> None:
    site.lock.write_text("unobtainium==1.0 --hash=sha256:" + "0" * 64, encoding="utf-8")
    error = refusal(lambda: environments.ensure("small"))
    assert error.code == "install-failed"
    assert "unobtainium" in error.cause.en


def test_a_home_that_cannot_be_written_is_named_with_what_to_do(site: Site) -> None:
    site.home.write_text("a file where the directory should be")  # permissions do not stop root, this does
    error = refusal(lambda: environments.ensure("small"))
    assert error.code == "no-write"
    assert str(site.home) in error.cause.en
    assert "ONEPIECE_HOME" in error.remedy.en


def test_too_little_disk_is_said_before_anything_is_made(site: Site) -> None:
    (site.images / "versions.toml").write_text(VERSIONS.replace("0.001", "1e9"), encoding="utf-8")
    environments.versions.cache_clear()
    error = refusal(lambda: environments.ensure("small"))
    assert error.code == "disk-small"
    assert "1000000000.0 GB needed" in error.cause.en
    assert not site.directory.exists()


def test_an_unsupported_python_is_refused_with_one_that_works(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "SUPPORTED", ((3, 1), (3, 2)))
    error = refusal(lambda: environments.ensure("small", session="lab-9.1-toy"))
    assert error.code == "python-version"
    assert "uvx --python 3.12 nox -s lab-9.1-toy" in error.remedy.en
    assert not site.home.exists()


def test_an_environment_that_has_no_lock_is_a_mistake_with_a_name(site: Site) -> None:
    error = refusal(lambda: environments.ensure("nowhere", session="lab-9.1-toy"))
    assert "nowhere" in error.cause.en


# --- interrupted ------------------------------------------------------------------------------------------


@pytest.fixture
def silent_index() -> Iterator[tuple[str, threading.Event]]:
    """An index that takes a request and never answers: its address, and an event that is set when somebody asks."""
    asked = threading.Event()
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return
                asked.set()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple", asked
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


@pytest.mark.fault("interrupted-installation")
@linux_only
@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_an_interrupted_installation_leaves_no_installer_and_the_next_one_works(
    site: Site, silent_index: tuple[str, threading.Event], how: str
) -> None:
    address, asked = silent_index
    process = site.start(
        f"import os\nos.environ |= {{'PIP_INDEX_URL': {address!r}, 'PIP_NO_INDEX': '0', 'PIP_FIND_LINKS': ''}}\nensure('small')"
    )
    assert asked.wait(60), "pip never asked"
    if how == "Ctrl-C":
        process.send_signal(signal.SIGINT)  # to this process alone: nobody else will stop pip
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not toy_course.left_of(site.home)
    assert not environments.installed("small")
    environments.ensure("small")
    assert site.version() == "1.0"
