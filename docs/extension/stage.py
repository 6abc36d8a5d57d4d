"""The tree that Sphinx reads: one language, the same page names in both, written only where something changed."""

from __future__ import annotations

import shutil
from pathlib import Path


class Stage:
    """A directory that holds exactly what was written since it was opened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.changed: list[str] = []
        self._kept: set[Path] = set()
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str | bytes) -> None:
        """A file, left alone if it holds this already: its age tells Sphinx what to read again."""
        path = self.directory / name
        data = content.encode() if isinstance(content, str) else content
        self._kept.add(path)
        if path.is_file() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.changed.append(name)

    def copy(self, source: Path, name: str) -> None:
        """A file as it is."""
        self.write(name, source.read_bytes())

    def pages(self) -> set[str]:
        """The documents, without suffix."""
        return {path.relative_to(self.directory).with_suffix("").as_posix() for path in self._kept if path.suffix == ".md"}

    def close(self) -> None:
        """Remove what was not written this time."""
        for path in sorted(self.directory.rglob("*"), reverse=True):
            if path.is_file() and path not in self._kept:
                path.unlink()
                self.changed.append(path.relative_to(self.directory).as_posix())
            elif path.is_dir() and not any(path.iterdir()):
                shutil.rmtree(path)
