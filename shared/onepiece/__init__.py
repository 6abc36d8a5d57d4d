"""LLM One Piece: a course you can run.

Two floors share this package, and `tests/unit/test_floors.py` keeps them apart:

- `onepiece.host`: what runs before and after a lab (no torch, starts in well under a second);
- every other module: what runs inside a lab's environment or image. What a notebook imports stands at the top.

`course` is plain data that both floors import, and needs the standard library only.
"""

__version__ = "0.1.0"
