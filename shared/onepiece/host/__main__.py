"""`python -m onepiece.host COMMAND ...`: what the nox sessions call."""

from __future__ import annotations

import sys

from onepiece.errors import UserError


def run() -> int:
    """Dispatch; an environment that lost a package says how to get it back."""
    try:
        from onepiece.host.app import main
    except ImportError as error:
        session = next((argument for argument in sys.argv[2:] if argument.startswith("lab-")), sys.argv[1])
        damaged = UserError("broken-environment", name="host", reason=error, session=session)
        print(f"{damaged.cause}\n{damaged.remedy}", file=sys.stderr)
        return 2
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
