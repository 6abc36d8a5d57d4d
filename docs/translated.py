"""`nox -s docs -- --translated PAGE...`: say that these zh-TW pages are up to date with their English source."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from extension.translations import pairs


def main(arguments: list[str]) -> int:
    """Mark every page named, by either of its files. There is no way to mark all at once: each wants to be read."""
    wanted = {Path(argument).resolve() for argument in arguments}
    found = [pair for pair in pairs() if {pair.english.resolve(), pair.chinese.resolve()} & wanted]
    for pair in found:
        if pair.english.exists() and pair.chinese.exists():
            pair.mark_translated()
            print(pair.chinese.name, "is up to date with", pair.english.name)
    if len(found) < len(wanted):
        print("no such page:", ", ".join(arguments), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
