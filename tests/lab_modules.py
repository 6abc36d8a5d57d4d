"""The modules of a lab, for unit tests of its method."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import toy_course

LABS = toy_course.ROOT / "labs"


def lab_modules(lab_id: str, *names: str) -> tuple[ModuleType, ...]:
    """Import modules of a lab as its notebooks do, with the lab's directory on the path, in the order of `names`.

    Labs have modules of the same name (`checks`, `mistakes`, `broken_variants`). So that the next test file gets those of its own
    lab, the path is taken back and the modules are forgotten by name; what was imported goes on working.
    """
    directory = LABS / lab_id
    if not (directory / "lab.toml").is_file():
        msg = f"there is no lab in {directory}"
        raise ValueError(msg)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        return tuple(importlib.import_module(name) for name in names)
    finally:
        sys.path.remove(str(directory))
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent == directory:
                del sys.modules[name]
