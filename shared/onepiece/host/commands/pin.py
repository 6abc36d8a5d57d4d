"""`nox -s pin`: digests of images and revisions of models, asked where they are published, written into `images/versions.toml`.

Nobody else writes them there. What cannot be reached stays as it is and is said; nothing is ever made up. Files of `compose/` name
images themselves, for people who have no nox: there, a digest is written behind its tag.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course.places import IMAGES, ROOT
from onepiece.course.text import tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.road.environments import versions

_SECONDS = 15.0  # for one answer
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2")
)
HUB = "https://huggingface.co"


class Unresolved(Exception):
    """Why something could not be looked up."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One thing with a name that may move and a value that may not."""

    table: str  # its table in versions.toml
    key: str
    name: str  # the human tag
    present: str
    resolve: Callable[[], str]
    files: tuple[Path, ...] = ()  # that name the image by its tag


def command(console: Console, arguments: list[str]) -> int:
    """Resolve what is not pinned yet; exit 1 if anything is left."""
    parser = Parser(prog="nox -s pin --", description=tr("Resolve digests and revisions.", "查出 digest 與 revision。"))
    parser.add_argument("--upgrade", action="store_true", help=tr("look up again what is pinned", "已固定的也重新查詢"))
    add_language(parser)
    options = parser.parse_args(arguments)
    return run(console, IMAGES / "versions.toml", pins(versions()), options.upgrade)


def run(console: Console, path: Path, wanted: list[Pin], upgrade: bool) -> int:
    """Look the pins up, write what was found, show all of them."""
    table = Table()
    for column in (tr("what", "項目"), tr("pinned to", "固定到"), ""):
        table.add_column(column, overflow="fold")
    left = 0
    for pin in wanted:
        value, said = pin.present, tr("kept", "沿用")
        if upgrade or not pin.present:
            try:
                value = pin.resolve()
                said = tr("unchanged", "不變") if value == pin.present else f"[green]{tr('written', '已寫入')}[/]"
                path.write_text(written(path.read_text(encoding="utf-8"), pin.table, pin.key, value), encoding="utf-8", newline="\n")
            except Unresolved as error:
                said = f"[yellow]{tr('not reached', '查不到')}: {escape(str(error))}[/]"
        if value:
            _write_references(pin.files, pin.name, value)
        left += not value
        table.add_row(escape(pin.name), value or tr("nothing yet", "尚無"), said)
    console.print(table)
    if left:
        console.print(
            tr(f"{left} are not pinned; images that need them cannot be published.", f"還有 {left} 項未固定；需要它們的映像檔無法發布。")
        )
    return 1 if left else 0


def pins(known: dict[str, Any]) -> list[Pin]:
    """Everything in `versions.toml` that this command writes."""
    compose = tuple(sorted((ROOT / "compose").rglob("*.yaml")))
    tables = {"images.bases": known["images"]["bases"]} | {f"{room}.images": known[room]["images"] for room in ("serving", "publishing")}
    found = [
        Pin(f"{table}.{name}", "digest", entry["tag"], entry["digest"], lambda tag=entry["tag"]: image_digest(tag), compose)
        for table, entries in tables.items()
        for name, entry in entries.items()
    ]
    wheel, python = known["images"]["flash_attn"], known["images"]["python"]
    resolve = lambda: wheel_sha256(wheel["index"], "flash-attn", wheel["version"], python)  # noqa: E731
    found.append(Pin("images.flash_attn", "sha256", f"flash-attn {wheel['version']}", wheel["sha256"], resolve))
    for kind in ("models", "datasets"):
        for name, entry in known.get(kind, {}).items():
            look_up = lambda kind=kind, name=name, entry=entry: hub_revision(kind, name, entry["tag"])  # noqa: E731
            found.append(Pin(f'{kind}."{name}"', "revision", f"{name} ({entry['tag']})", entry["revision"], look_up))
    return found


def written(text: str, table: str, key: str, value: str) -> str:
    """The file with one value replaced; comments and order stay."""
    pattern = rf'(^\[{re.escape(table)}\][^\n]*\n(?:(?!\[)[^\n]*\n)*?{re.escape(key)} = )"[^"\n]*"'
    replaced, count = re.subn(pattern, lambda found: f'{found.group(1)}"{value}"', text, count=1, flags=re.MULTILINE)
    if count != 1:
        msg = f"versions.toml has no {key} in [{table}]"
        raise ValueError(msg)
    return replaced


def referenced(text: str, tag: str, digest: str) -> str:
    """The text with the digest behind every mention of exactly this tag."""
    pattern = rf"(?<![\w./])(?<!\w-){re.escape(tag)}(?:@sha256:[0-9a-f]{{64}})?(?![\w.@-])"
    return re.sub(pattern, f"{tag}@{digest}", text)


def _write_references(files: tuple[Path, ...], tag: str, digest: str) -> None:
    for path in files:
        before = path.read_text(encoding="utf-8")
        after = referenced(before, tag, digest)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")


# --- where the values are published -------------------------------------------------------------


def image_digest(reference: str) -> str:
    """The digest that a registry has for a tag, sha256:...

    Source: OCI distribution specification, "Pulling manifests"; tokens as Docker's registries give them to anyone.
    """
    host, name, tag = split_reference(reference)
    scheme = "http" if re.match(r"(localhost|127\.)", host) else "https"
    address = f"{scheme}://{host}/v2/{name}/manifests/{tag}"
    headers = {"Accept": _MANIFESTS}
    try:
        answer = _open(address, headers, method="HEAD")
    except urllib.error.HTTPError as error:
        challenge = error.headers.get("WWW-Authenticate", "")
        if error.code != 401 or not challenge.lower().startswith("bearer "):
            raise Unresolved(f"{host} answered {error.code}") from None
        answer = _answer(address, {**headers, "Authorization": f"Bearer {_token(challenge)}"}, method="HEAD")
    except (urllib.error.URLError, OSError) as error:
        raise Unresolved(f"{host}: {getattr(error, 'reason', error)}") from None
    digest = str(answer.headers.get("Docker-Content-Digest", ""))
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Unresolved(f"{host} gave no digest")
    return digest


def split_reference(reference: str) -> tuple[str, str, str]:
    """(registry host, name, tag) of an image, as Docker reads it: `ubuntu:24.04` is docker.io's library/ubuntu."""
    name, _, tag = reference.rpartition(":")
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return "registry-1.docker.io", name if slash else f"library/{name}", tag
    return host, rest, tag


def _token(challenge: str) -> str:
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    answer = json.load(_answer(f"{fields.get('realm', '')}?{query}", {}))
    return str(answer.get("token") or answer.get("access_token") or "")


def wheel_sha256(index: str, package: str, version: str, python: str) -> str:
    """The hash that a package index gives for a Linux x86-64 wheel. Source: PEP 503, the fragment of each link."""
    page = _answer(f"{index.rstrip('/')}/{package}/", {"Accept": "text/html"}).read().decode("utf-8", errors="replace")
    tag = f"cp{python.replace('.', '')}"
    begins = f"{package.replace('-', '_')}-{version}-"
    for link in re.findall(r'href="([^"]+)"', page):
        address, _, fragment = link.partition("#")
        file = urllib.parse.unquote(address).rpartition("/")[2]
        if file.startswith(begins) and (tag in file or "abi3" in file or "py3-none" in file) and file.endswith(("x86_64.whl", "any.whl")):
            found = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
            if found:
                return found.group(1)
            raise Unresolved(f"the index gives no hash for {file}")
    raise Unresolved(f"the index has no wheel {begins}{tag}")


def hub_revision(kind: str, name: str, tag: str) -> str:
    """The commit that a branch or tag of a model or dataset stands at."""
    answer = json.load(_answer(f"{HUB}/api/{kind}/{name}/revision/{tag}", {}))
    revision = str(answer.get("sha", ""))
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise Unresolved(f"the hub gave no commit for {name}")
    return revision


def _answer(address: str, headers: dict[str, str], method: str = "GET") -> Any:
    host = urllib.parse.urlsplit(address).hostname
    try:
        return _open(address, headers, method)
    except urllib.error.HTTPError as error:
        raise Unresolved(f"{host} answered {error.code}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unresolved(f"{host}: {getattr(error, 'reason', error)}") from None


def _open(address: str, headers: dict[str, str], method: str = "GET") -> Any:
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers, method=method), timeout=_SECONDS)
