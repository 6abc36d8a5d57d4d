"""The site, built once for all tests as `nox -s docs` builds it, and served to a real browser."""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from parts import linux_only, missing
from toy_course import Checkout

from onepiece.host.road import environments

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(toy_course.ROOT / "docs")]  # `import browser`, and the site's own extension

from built_site import Built  # noqa: E402 -- found through the line above


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The real site, built cold for a user who never ran a lab."""
    environments.ensure("docs", session="tests")
    checkout = Checkout(toy_course.ROOT, toy_course.ROOT).elsewhere(tmp_path_factory.mktemp("site") / "home")
    return Built(checkout, checkout.host("docs"))


PAGES = {
    "index": ("# Toy\n\n{measured}`lab-9.1-toy:error`, {measured}`lab-9.1-toy:error:off_by_one`, {upcoming}`lab-9.2-later`, {upcoming}`lab-9.1-toy`, "
              "{measured}`lab-9.2-later:speed`.\n\n$$\n\\begin{aligned} a &= \\frac{1}{2} \\\\ b &= \\sum_i x_i \\tag{7} \\end{aligned}\n$$\n\n"
              "```{course-map} ##\n```\n\n```{toctree}\n:hidden:\n\nlabs/index\nchapters/index\nguides/colab\nguides/vscode\n```\n"),
    "guides/colab": "# Colab\n",
    "guides/vscode": "# VS Code\n",
}  # fmt: skip

QUIZ = """
[[questions]]
id = "how-many"
kind = "numeric"
prompt = { en = "How many are $1 + 2$?", zh-TW = "$1 + 2$ 是多少？" }
answer = 3
tolerance = 0.0
explanation = { en = "Count.", zh-TW = "數一數。" }
"""


PRINTS = """
# %%
print("---\\nlibrary_name: peft\\n---\\nA model card, ``` and all")

# %%
print(":class: no option, but text")
"""


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A course of one small lab that was really run and published, with a site of its own."""
    environments.ensure("docs", session="tests")
    root = tmp_path_factory.mktemp("toy")
    checkout = Checkout.make(root)
    (root / "labs" / toy_course.LAB / "quiz.toml").write_text(QUIZ, encoding="utf-8")
    with (root / "labs" / toy_course.LAB / "02-use.py").open("a", encoding="utf-8") as notebook:
        notebook.write(PRINTS)
    for name in ("conf.py", "build.py", "translated.py"):
        (root / "docs").mkdir(exist_ok=True)
        shutil.copy(toy_course.ROOT / "docs" / name, root / "docs" / name)
    for name in ("extension", "static", "templates"):
        shutil.copytree(toy_course.ROOT / "docs" / name, root / "docs" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in PAGES.items():
        for language in ("en", "zh-TW"):
            path = root / "docs" / f"{name}.{language}.md"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    ran = checkout.host("run", toy_course.LAB, "--profile", "cpu", "--device", "cpu", "--backend", "local", "--lang", "zh-TW", "--publish")
    assert ran.code == 0, ran.output
    pages = [str(path) for path in sorted((root / "docs").rglob("*.zh-TW.md"))]
    marked = checkout.host("docs", "--translated", *pages)
    assert marked.code == 0, marked.output
    return Built(checkout, checkout.host("docs"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(built: Built) -> Iterator[str]:
    """Where the real site is served, ending in a slash."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(built.site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A browser with a fresh profile."""
    from browser import Browser, chromium_program

    if sys.platform != "linux":
        pytest.skip(str(linux_only.kwargs["reason"]))
    if chromium_program() is None:
        missing("chromium", "there is no chromium on this machine (Debian: apt install chromium fonts-noto-cjk)")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
