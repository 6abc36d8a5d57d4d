"""Check one lab's code many times without starting Python and torch each time: `python -m onepiece.kernel.warm_checks`

What is heavy is imported once; each request is then checked in a process forked from that state, so that none sees what another one
did. Standard input has one JSON object per line, and standard output answers each with one line:

    {"versions": {"torch": ...}}                                            first, when the heavy packages are there
    {"lab": DIR, "code": [DIR, ...], "replace": {"lora.py": SOURCE}, "stop": false, "seconds": 60}      a request
    {"outcomes": [...], "exit_code": 0}                                     one outcome per exercise, as `onepiece.checks` says it
    {"timeout": true}                                                       it was killed after `seconds`

`replace` holds sources that stand for files of the code directories; nothing is written to disk. With `stop` the first exercise that is
not passed is the last one looked at, with `only` these exercises are looked at, and with `module` nothing is checked: the outcome says
whether that module can be imported, and has the `names`. It ends when standard input closes, after the request that is under way.

Whoever checks code that they do not trust gives each request a `token`. The answer has it, and so has every line that the process of a
request says to this one: a line without it is no outcome, and is counted as `strange` in the answer. Code that looks for the token in the
memory of its own process finds it, for there it has to be: what is held back is a line that is written blindly.

Which packages are heavy is not written down anywhere: torch is, and whatever else the code of a lab imported is imported here too after
that request, so that the next one finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import linecache
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

from onepiece import checks
from onepiece.kernel.machine import versions

SECONDS = 60.0
GRACE_SECONDS = 5  # after which a child ends by itself, should nobody be left to kill it
MEMORY_BYTES = 4 * 2**30  # address space that a request may take beyond what the imports took
_LOOK_SECONDS = 0.02

Request = dict[str, Any]
Answer = dict[str, Any]


# --- in the process of one request ------------------------------------------------------------------------


class _Replaced(importlib.abc.SourceLoader):
    """Loads a module from a source at hand, under the name of the file that it stands for."""

    def __init__(self, path: str, source: str) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        if path != self._path:  # bytecode, of which there is none
            raise FileNotFoundError(path)
        return self._source.encode()

    def exec_module(self, module: ModuleType) -> None:
        # For tracebacks and for `inspect`, which would read the file; an entry without a time is never looked up again.
        lines = self._source.splitlines(keepends=True)
        linecache.cache[self._path] = (len(self._source), None, lines, self._path)
        super().exec_module(module)


class _Replacements(importlib.abc.MetaPathFinder):
    """Finds the replaced modules, before anything looks on disk."""

    def __init__(self, code: Sequence[str], replace: dict[str, str]) -> None:
        self._sources = {name.removesuffix(".py"): (str(_place(code, name)), source) for name, source in replace.items()}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname not in self._sources:
            return None
        file, source = self._sources[fullname]
        return importlib.util.spec_from_file_location(fullname, file, loader=_Replaced(file, source))


def _place(code: Sequence[str], name: str) -> Path:
    """The file that a source stands for: the first of that name in the code directories."""
    candidates = [Path(directory) / name for directory in code]
    return next((path for path in candidates if path.is_file()), candidates[0])


def check_here(request: Request, say: Callable[[dict[str, Any]], None]) -> None:
    """Check a request in this process, which is spoilt for another one by that; `say` gets what `onepiece.checks` says."""
    limit_memory()
    os.environ["ONEPIECE_RUN"] = request["lab"]
    sys.path[:0] = request["code"]
    sys.meta_path.insert(0, _Replacements(request["code"], request.get("replace", {})))
    before, untouched = set(sys.modules), _what_judges()

    def say_if_untouched(said: dict[str, Any]) -> None:
        changed = sorted(name for name, found in _what_judges().items() if untouched.get(name) != found)
        say(said | {"tampered": changed} if changed else said)

    if "module" in request:
        checks.check_import(request["module"], request.get("names", ()), say_if_untouched)
    else:
        checks.check_lab(Path(request["lab"]), say_if_untouched, stop=request.get("stop", False), only=request.get("only"))
    say({"imported": sorted(name for name in set(sys.modules) - before if not _of_the_lab(name, request["code"]))})


def _what_judges() -> dict[str, tuple[int, int]]:
    """What `onepiece.checks` consists of: a learner's module that puts something else in its place judges itself."""
    return {name: (id(value), id(getattr(value, "__code__", None))) for name, value in vars(checks).items() if not name.startswith("__")}


def _of_the_lab(name: str, code: Sequence[str]) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return name == "__main__" or (file is not None and any(Path(file).is_relative_to(directory) for directory in code))


def limit_memory() -> None:
    """Let a request that takes all memory fail by itself. Linux holds to this limit; elsewhere there is none to set."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# --- a process for each request ---------------------------------------------------------------------------


class _Heard:
    """What a child has said so far; its lines may come in pieces, and those without the token are not its own."""

    def __init__(self, token: str) -> None:
        self._token, self._rest, self._strange = token.encode(), b"", 0
        self._last_words: dict[Any, dict[str, Any]] = {}
        self.imported: list[str] = []

    def take(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line.removeprefix(self._token)) if line.startswith(self._token) else None
            except ValueError:
                said = None
            if not isinstance(said, dict):
                self._strange += 1
            elif "imported" in said:
                self.imported = said["imported"]
            else:
                self._last_words[said.get("exercise")] = said

    def answer(self, exit_code: int) -> Answer:
        answer = {"outcomes": list(self._last_words.values()), "exit_code": exit_code}
        return answer | ({"strange": self._strange} if self._strange else {})


def check_forked(request: Request, protocol: TextIO) -> tuple[Answer, list[str]]:
    """Check a request in a child of this process.

    Returns:
        The answer, and the modules that the child had to import.
    """
    deadline = time.monotonic() + request.get("seconds", SECONDS)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        protocol.close()
        _be_the_child(request, writes)
    os.close(writes)
    heard, ended = _Heard(request.get("token", "")), 0
    try:
        while True:
            # It has ended: then everything that it said is in the pipe, although something that it started may hold that open.
            ended, status = os.waitpid(child, os.WNOHANG)
            while select.select([reads], [], [], 0 if ended else _LOOK_SECONDS)[0]:
                piece = os.read(reads, 2**16)
                if not piece:
                    time.sleep(0 if ended else _LOOK_SECONDS)
                    break
                heard.take(piece)
            if ended:
                return heard.answer(os.waitstatus_to_exitcode(status)), heard.imported
            if time.monotonic() > deadline:
                return {"timeout": True}, []
    finally:
        os.close(reads)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what it started
            os.killpg(child, signal.SIGKILL)


def _be_the_child(request: Request, writes: int) -> NoReturn:
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(math.ceil(request.get("seconds", SECONDS)) + GRACE_SECONDS)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        sys.stdin = os.fdopen(os.dup(0), encoding="utf-8")  # the other one may have read the next request already
        with os.fdopen(writes, "w", encoding="utf-8") as stream:
            token = request.pop("token", "")
            check_here(request, lambda said: _write(stream, said, token))
        os._exit(0)
    finally:
        os._exit(1)


def _check_fresh(request: Request) -> Answer:
    """Check a request in a Python of its own, where processes cannot be forked: as right, and as slow as starting it."""
    command = [sys.executable, "-P", "-m", "onepiece.kernel.warm_checks", "--one"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    heard = _Heard(request.get("token", ""))
    try:
        said, _ = process.communicate(json.dumps(request).encode(), timeout=request.get("seconds", SECONDS))
    except subprocess.TimeoutExpired:
        return {"timeout": True}
    finally:
        process.kill()
        process.wait()
    heard.take(said)
    return heard.answer(process.returncode)


# --- the command ------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(prog="python -m onepiece.kernel.warm_checks", description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help="check one request in this very process, and say what onepiece.checks says")
    parser.add_argument("--no-fork", action="store_true", help="a fresh process for each request, as on systems without fork")
    options = parser.parse_args(arguments)
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Threads of torch would not be there in a child, which then waits for them for ever; nor can a child use a GPU after its parent.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    if options.one:
        request = json.loads(sys.stdin.buffer.readline())
        token = request.pop("token", "")
        check_here(request, lambda said: _write(protocol, said, token))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is under way is ended first
    forks = hasattr(os, "fork") and not options.no_fork
    if forks:
        _import_all(["torch"])
    _write(protocol, {"versions": versions()})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer, imported = check_forked(request, protocol) if forks else (_check_fresh(request), [])
        _write(protocol, answer | ({"token": request["token"]} if "token" in request else {}))
        _import_all(imported)
    return 0


def _import_all(names: Iterable[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # then each child does it, or fails to, itself: nothing is lost but time
            continue


def _write(stream: TextIO, said: Mapping[str, Any], token: str = "") -> None:
    stream.write(token + json.dumps(said, ensure_ascii=False) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
