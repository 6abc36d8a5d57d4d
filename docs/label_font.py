"""`nox -s docs -- --label-font FONT`: cut the font of zh-TW figure labels out of Noto Sans CJK.

matplotlib's own font has no Chinese signs, and a whole Chinese font is 16 MB. So `onepiece/fonts/` holds the signs of the labs: those of
their labels, which a test asks for, and those of their other texts, so that a new label seldom needs a new font.

FONT is `NotoSansCJK-Regular.ttc` (Debian, Ubuntu: `apt install fonts-noto-cjk`) or `NotoSansCJKtc-Regular.otf`, under the SIL Open Font
License, which stands beside the subset.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from onepiece.course.places import ROOT, SHARED

TARGET = SHARED / "onepiece" / "fonts" / "NotoSansTC-labels.otf"
COMMAND = "nox -s docs -- --label-font NotoSansCJK-Regular.ttc"
FAMILY = "Noto Sans CJK TC"
OWN_FAMILY = "Noto Sans TC Labels"  # a name of its own: else a machine that has the whole font would draw with that one
_FIRST_SIGN = "\u2e80"  # from here on signs are Chinese; what comes before is in matplotlib's own font


def programs() -> list[Path]:
    """The files that can draw: notebooks and modules of labs, the figures of chapters, and `onepiece.figures`."""
    chapters = sorted((ROOT / "docs" / "chapters").glob("*/figures.py"))
    return [*sorted((ROOT / "labs").glob("*/*.py")), *chapters, SHARED / "onepiece" / "figures.py"]


def label_signs() -> dict[str, Path]:
    """Every Chinese sign that a label can have, which is what `tr` chooses from -> a file that has it."""
    found: dict[str, Path] = {}
    for path in programs():
        for text in _chinese_of_tr(ast.parse(path.read_text(encoding="utf-8"))):
            found |= dict.fromkeys(filter(_is_chinese, text), path)
    return found


def font_signs() -> str:
    """The signs of the font, in their order: those of labels, and of all other texts of the same files."""
    texts = "".join(path.read_text(encoding="utf-8") for path in programs())
    return "".join(sorted(set(filter(_is_chinese, texts))))


def _is_chinese(sign: str) -> bool:
    return sign >= _FIRST_SIGN


def _chinese_of_tr(tree: ast.AST) -> Iterator[str]:
    """The constant parts of the second argument of each call of `tr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr" and len(node.args) == 2:
            for part in ast.walk(node.args[1]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def main(arguments: list[str]) -> int:
    """Write the subset of the font named; exit 2 if that font is not there, or is not Noto Sans CJK in its Taiwanese forms."""
    from fontTools import subset
    from fontTools.ttLib import TTCollection, TTFont

    source = Path(arguments[0])
    if not source.is_file():
        print("no such font:", source, file=sys.stderr)
        return 2
    fonts = TTCollection(source).fonts if source.suffix == ".ttc" else [TTFont(source)]
    numbers = [number for number, font in enumerate(fonts) if font["name"].getDebugName(1) == FAMILY]
    if not numbers:
        print(f"{source} holds no {FAMILY}", file=sys.stderr)
        return 2
    signs = font_signs()
    TARGET.parent.mkdir(exist_ok=True)
    options = [
        "--no-hinting",
        "--desubroutinize",
        "--layout-features=",
        "--name-IDs=0,1,2,3,4,5,6,13,14",
        "--drop-tables+=BASE,VORG,vhea,vmtx",
    ]
    subset.main([str(source), f"--font-number={numbers[0]}", f"--text={signs}", f"--output-file={TARGET}", *options])
    font = TTFont(TARGET, recalcTimestamp=False)  # equal signs give equal bytes
    for number, name in ((1, OWN_FAMILY), (3, OWN_FAMILY), (4, OWN_FAMILY), (6, OWN_FAMILY.replace(" ", ""))):
        font["name"].setName(name, number, 3, 1, 0x409)
    font.save(TARGET)
    print(f"{TARGET.name}: {len(signs)} signs, {TARGET.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
