"""Build the site: `site/en/`, `site/zh-TW/` and a page that chooses between them. Called by `nox -s docs`.

Each language is staged (pages written by hand, pages made from labs, pictures, downloads), read by Sphinx and indexed by
Pagefind. Only what changed is staged and read again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from extension.assets import make_assets
from extension.course import DOCS
from extension.search_index import write_index
from extension.translations import pairs

from onepiece.course.places import HOME, SHARED
from onepiece.course.text import LANGUAGES

SITE = HOME / "site"
WORK = SITE / ".build"  # what is staged, and what Sphinx remembers


def main(arguments: list[str]) -> int:
    """Exit code 0 if no page has a problem."""
    parser = argparse.ArgumentParser(prog="build.py")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--clean", action="store_true")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    problems = [problem for pair in pairs() if (problem := pair.problem)]
    for problem in problems:
        print(f"stale: {problem}", file=sys.stderr)
    if options.clean:
        shutil.rmtree(SITE, ignore_errors=True)
    assets = make_assets(WORK)
    with ThreadPoolExecutor(len(LANGUAGES)) as pool:
        codes = list(pool.map(lambda language: _build(language, assets, options.strict), LANGUAGES))
    _choose_language()
    print(f"built in {time.monotonic() - began:.1f} s")
    return 1 if any(codes) or problems else 0


def _build(language: str, assets: Path, strict: bool) -> int:
    """Stage, read and index one language, in processes of their own: Sphinx keeps state in its modules."""
    environ = dict(os.environ) | {
        "ONEPIECE_LANG": language,
        "ONEPIECE_SITE_ASSETS": str(assets),
        "ONEPIECE_DOCS_STRICT": "1" if strict else "0",
        "PYTHONPATH": os.pathsep.join([str(SHARED), str(DOCS)]),
    }
    work, output = WORK / language, SITE / language
    staged = subprocess.run([sys.executable, "-m", "extension.pages", str(work)], env=environ)
    if staged.returncode != 0:
        return staged.returncode
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-c", str(DOCS), "-d", str(work / "doctrees")]
    if _code_changed(work, strict):
        command.append("-E")
    read = subprocess.run([*command, str(work / "source"), str(output)], env=environ).returncode
    wrong = write_index(output, work) if (output / "index.html").exists() else ""
    print(wrong, end="", file=sys.stderr)
    return read or (1 if wrong else 0)


def _code_changed(work: Path, strict: bool) -> bool:
    """Did what makes pages change since the last build? Sphinx itself watches pages, configuration and templates only."""
    digest = hashlib.sha256(str(strict).encode())
    code = [DOCS / "conf.py", *(DOCS / "extension").glob("*.py"), *(DOCS / "templates").glob("*"), *SHARED.glob("onepiece/**/*.py")]
    for path in sorted(code):
        digest.update(path.read_bytes())
    digest.update(json.dumps(sorted(path.relative_to(work).as_posix() for path in (work / "source").rglob("*.md"))).encode())
    stamp = work / "code.sha256"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest.hexdigest():
        return False
    stamp.write_text(digest.hexdigest(), encoding="utf-8")
    return True


def _choose_language() -> None:
    stage = (DOCS / "templates" / "choose-language.html").read_text(encoding="utf-8")
    SITE.mkdir(parents=True, exist_ok=True)
    (SITE / "index.html").write_text(stage, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
