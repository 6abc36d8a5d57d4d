"""Is an environment what its lock says? Run by its own Python: `python -I intact.py LOCK... --import MODULE...`

Standard library only, on both floors: it looks for what makes an environment useless before anybody calls it damaged. Prints what is
wrong, one line each; exit code 1 if anything is.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==[^\s;]+ (?:\\|--hash)", re.MULTILINE)
"""Lines of a lock without a marker: what every machine has."""


def pinned(lock: Path) -> list[str]:
    """Names of the packages that a lock has for every machine."""
    return PINNED.findall(lock.read_text(encoding="utf-8"))


def missing_files(package: str) -> Iterator[str]:
    """What of a package is not there as it was installed: bytes that are gone, or a file that was cut."""
    try:
        files = metadata.distribution(package).files
    except metadata.PackageNotFoundError:
        yield f"{package} is not installed"
        return
    for file in files or ():
        if file.size is None or file.suffix == ".pyc":
            continue
        try:
            size = Path(str(file.locate())).stat().st_size
        except OSError as error:
            yield f"{package}: {file}: {error.strerror}"
            continue
        if size != file.size:
            yield f"{package}: {file} has {size:,} bytes of {file.size:,}"


def failing_import(module: str) -> Iterator[str]:
    """Why a module cannot be imported: a package that is gone, a library that the loader refuses."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever it is, it is what is asked for
        yield f"import {module}: {type(error).__name__}: {error}"


def main(arguments: list[str]) -> int:
    """Look at everything that is named."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    end = arguments.index("--import") if "--import" in arguments else len(arguments)
    locks, modules = arguments[:end], arguments[end + 1 :]
    found = [line for lock in locks for package in pinned(Path(lock)) for line in missing_files(package)]
    found += [line for module in modules for line in failing_import(module)]
    print("\n".join(found), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
