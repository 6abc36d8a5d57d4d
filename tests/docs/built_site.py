"""A site that `nox -s docs` built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toy_course import Checkout, Done


@dataclass(frozen=True, slots=True)
class Built:
    """A build that ended."""

    checkout: Checkout
    done: Done

    @property
    def site(self) -> Path:
        return self.checkout.home / "site"

    def staged(self, language: str) -> Path:
        """What Sphinx read."""
        return self.site / ".build" / language / "source"
