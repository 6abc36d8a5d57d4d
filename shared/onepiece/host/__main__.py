"""`python -m onepiece.host COMMAND ...`: what the nox sessions call."""

from __future__ import annotations

import sys

from onepiece.host.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
