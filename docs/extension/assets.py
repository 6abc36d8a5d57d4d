"""Files that pages need and no page is: the font of formulas, and the figures that chapters draw."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from fontTools import subset

from onepiece.course.places import SHARED
from onepiece.course.text import LANGUAGES

from . import course

# Latin, Greek, letters with marks, arrows, operators, brackets and the mathematical alphabets: what formulas are made of.
_RANGES = "U+20-7E,U+A0-FF,U+2B0-36F,U+370-3FF,U+2010-2044,U+2057,U+207F-209C,U+20D0-20F0,U+2100-214F,U+2190-21FF,U+2200-22FF,U+2308-230B,"
_RANGES += "U+23B0-23E1,U+25A0-25FF,U+27C0-27EF,U+27F5-27FF,U+2A00-2AFF,U+1D400-1D7FF"


def make_assets(work: Path) -> Path:
    """The directory of files that every page may use. Fonts and figures are made once, before the languages are built."""
    for chapter in course.chapters():
        if chapter.directory and (chapter.directory / "figures.py").exists():
            for language in LANGUAGES:
                drawn_figures(chapter.directory / "figures.py", work / "figures", language)
    assets = work / "assets"
    font = assets / "STIXTwoMath.woff2"
    if not font.exists():
        assets.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf") as source:
            temporary = str(font) + ".tmp"
            subset.main([str(source), f"--unicodes={_RANGES}", "--flavor=woff2", "--layout-features=*", f"--output-file={temporary}"])
            Path(temporary).replace(font)
    return assets


def drawn_figures(program: Path, figures: Path, language: str) -> Path:
    """The directory of a chapter's figures with labels in one language, drawn again only when their program or the style changed."""
    style = SHARED / "onepiece" / "figures.py", SHARED / "onepiece" / "fonts" / "NotoSansTC-labels.otf"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (program, *style))).hexdigest()
    target = figures / program.parent.name / language
    directory = target / digest[:16]
    if not directory.exists():
        shutil.rmtree(target, ignore_errors=True)
        temporary = target / f"{digest[:16]}.tmp"
        spoken = os.environ | {"ONEPIECE_LANG": language}
        subprocess.run([sys.executable, str(program), str(temporary)], check=True, stdout=subprocess.DEVNULL, env=spoken)
        temporary.rename(directory)
    return directory
