"""`nox -s docs`: build the site in both languages, and serve it on this machine."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import webbrowser
from pathlib import Path

from rich.console import Console

from onepiece.course.places import HOME, ROOT, SHARED
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road import environments
from onepiece.host.road.local import kept_file

SITE = HOME / "site"


def command(console: Console, arguments: list[str]) -> int:
    """Build into `site/`; exit 1 if a page has a problem."""
    options = parser().parse_args(arguments)
    environment = environments.ensure("docs", session="docs", fresh=options.fresh, note=console.print)
    if options.translated:
        return _docs(environment, "translated.py", *map(str, options.translated))
    if options.label_font:
        return _docs(environment, "label_font.py", str(options.label_font))
    built = _docs(environment, "build.py", *(["--strict"] if options.strict else []), *(["--clean"] if options.clean else []))
    shows = options.serve or options.open
    if built != 0 and not (shows and (SITE / "index.html").exists()):
        return 1
    console.print(tr(f"The site: {kept_file(SITE / 'index.html')}", f"網站：{kept_file(SITE / 'index.html')}"), soft_wrap=True)
    if shows:  # a page with a problem is looked at too, while it is written
        _serve(console, options.port, options.open)
    else:
        console.print(tr("Read it, with its search: nox -s docs -- --serve", "瀏覽並使用搜尋：nox -s docs -- --serve"))
    return 1 if built else 0


def parser() -> Parser:
    """The options of `nox -s docs`."""
    made = Parser(prog="nox -s docs --", description=tr("Build the site in both languages.", "建置兩種語言的網站。"))
    made.add_argument("--serve", action="store_true", help=tr("serve it on this machine until Ctrl-C", "在這台機器上提供網站，直到 Ctrl-C"))
    made.add_argument("--open", action="store_true", help=tr("serve it and open the browser", "提供網站並開啟瀏覽器"))
    made.add_argument("--port", type=int, default=0, help=tr("instead of a free one", "指定連接埠；預設自動選一個可用的"))
    made.add_argument("--clean", action="store_true", help=tr("build every page anew", "重新建置每一頁"))
    made.add_argument(
        "--strict",
        action="store_true",
        help=tr("a measured number that nobody published yet is a problem too", "引用了尚未發布的量測值，也算問題"),
    )
    made.add_argument(
        "--translated",
        nargs="+",
        type=Path,
        metavar="PAGE",
        help=tr("say that these zh-TW pages are up to date with their English source", "宣告這些 zh-TW 頁面已跟上英文原文"),
    )
    made.add_argument(
        "--label-font",
        type=Path,
        metavar="FONT",
        help=tr("cut the font of zh-TW figure labels out of NotoSansCJK-Regular.ttc", "從 NotoSansCJK-Regular.ttc 取出圖表中文標籤的字型"),
    )
    add_language(made)
    return made


def _docs(environment: environments.Environment, program: str, *arguments: str) -> int:
    variables = dict(os.environ) | {"PYTHONPATH": str(SHARED), "PYTHONUTF8": "1", "ONEPIECE_ROOT": str(ROOT), "ONEPIECE_HOME": str(HOME)}
    return subprocess.run([str(environment.python), str(ROOT / "docs" / program), *arguments], env=variables).returncode


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of the site, never cached: the next build is seen by the next reload."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: requests of one's own browser are no news."""


def _serve(console: Console, port: int, open_browser: bool) -> None:
    """On loopback, until Ctrl-C; port 0 is a free one."""
    handler = functools.partial(_Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        console.print(tr(f"Serving {address} (Ctrl-C ends it)", f"網站在 {address}（按 Ctrl-C 結束）"), soft_wrap=True)
        console.file.flush()  # whoever reads a pipe wants the address now
        if open_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
