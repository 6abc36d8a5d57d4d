"""The course as data: `labs/<lab>/lab.toml` -> frozen dataclasses.

Stdlib only and quick: the noxfile reads the whole course on each start. What needs the notebooks' sources
(a gate on a metric that nothing records, a missing translation) is in `onepiece.host.road.sources`.
"""

from __future__ import annotations

import difflib
import keyword
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onepiece.course.errors import UserError
from onepiece.course.places import LABS
from onepiece.course.text import LANGUAGES, Text

LAB_ID = re.compile(r"lab-\d+(\.\d+)+-[a-z0-9]+(-[a-z0-9]+)*")
NOTEBOOK_NAME = re.compile(r"\d{2}-[a-z0-9]+(-[a-z0-9]+)*")
LEVELS = ("intro", "core", "advanced")
PATHS = ("engineer", "researcher", "manager")
PROFILES = ("cpu", "gpu")
SERVERS = ("vllm", "triton")
RESERVED_SETTINGS = ("profile", "device", "model")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Profile:
    """How big a run is. `settings` is what the notebooks read as `lab.settings`."""

    minutes: float
    settings: Mapping[str, Any]
    memory_gb: float | None = None  # peak resident memory budget, GiB
    vram_gb: float | None = None  # GPU memory it needs, GiB
    min_compute: str | None = None  # lowest CUDA compute capability, "7.5"


@dataclass(frozen=True, slots=True)
class Gate:
    """A measured pass condition: exactly one of `max`, `min`, `equals` is set."""

    metric: str
    objective: Text
    max: float | None = None
    min: float | None = None
    equals: float | bool | None = None
    over: str = "every"  # "every" seed must hold, or their "mean"
    profiles: tuple[str, ...] = PROFILES
    control: str | None = None  # a variant of the same metric that must miss the bound
    requires: tuple[str, ...] = ()  # extras without which it cannot be measured ("triton" on macOS)

    @property
    def bound(self) -> str:
        """The bound as a reader writes it: `<= 1e-05`."""
        if self.max is not None:
            return f"<= {self.max:g}"
        if self.min is not None:
            return f">= {self.min:g}"
        if isinstance(self.equals, bool):
            return f"is {str(self.equals).lower()}"
        return f"== {self.equals:,}" if isinstance(self.equals, int) else f"== {self.equals:g}"  # a count is written to the last digit


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab, as its manifest says."""

    id: str
    directory: Path
    title: Text
    summary: Text
    chapter: str
    level: str
    notebooks: tuple[str, ...]  # names without suffix, in order
    image: str
    profiles: Mapping[str, Profile]
    gates: tuple[Gate, ...]
    requires: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    server: str | None = None  # the real server that its notebooks start, of SERVERS
    network: bool = False

    @property
    def module(self) -> str:
        """The course module: "1" for lab-1.5-flashattention."""
        return self.id.removeprefix("lab-").split(".")[0]

    def notebook(self, wanted: str) -> str:
        """The notebook that `wanted` means: "2", "02" or its whole name."""
        for name in self.notebooks:
            if wanted in (name, name[:2], name[:2].lstrip("0"), f"{name}.py", f"{name}.ipynb"):
                return name
        raise UserError("unknown-notebook", lab=self.id, notebook=wanted, choices=", ".join(self.notebooks))

    def profile(self, name: str) -> Profile:
        """The profile `name`; UserError if the lab has none of that name."""
        if name not in self.profiles:
            raise UserError("no-profile", lab=self.id, profile=name, choices="|".join(self.profiles))
        return self.profiles[name]


@dataclass(frozen=True, slots=True)
class Course:
    """Every lab in order, and what is wrong with those that could not be read."""

    labs: tuple[Lab, ...]
    problems: Mapping[str, tuple[UserError, ...]] = field(default_factory=dict)

    def lab(self, lab_id: str) -> Lab:
        """The lab `lab_id`, or the only one that it is the beginning of (`lab-1.5`)."""
        by_id = {lab.id: lab for lab in self.labs}
        if lab_id in by_id:
            return by_id[lab_id]
        if lab_id in self.problems:
            raise self.problems[lab_id][0]
        begins = [lab for lab in self.labs if lab.id.startswith(lab_id + "-")]
        if len(begins) == 1:
            return begins[0]
        raise UserError("unknown-lab", lab=lab_id, nearest=self.nearest(lab_id))

    def nearest(self, lab_id: str) -> str:
        """The existing id that looks most like `lab_id`."""
        ids = [lab.id for lab in self.labs]
        return (difflib.get_close_matches(lab_id, ids, n=1, cutoff=0.0) or ["catalog"])[0]


def load(labs_directory: Path = LABS) -> Course:
    """Read every manifest below `labs_directory`, in course order. A bad one is set aside, not raised."""
    labs: list[Lab] = []
    problems: dict[str, tuple[UserError, ...]] = {}
    for manifest in sorted(labs_directory.glob("*/lab.toml")):
        try:
            labs.append(read_manifest(manifest))
        except UserError as error:
            problems[manifest.parent.name] = (error,)
    labs.sort(key=_course_order)
    for lab_id, found in _relations(labs, set(problems)).items():
        problems[lab_id] = problems.get(lab_id, ()) + tuple(found)
    return Course(tuple(lab for lab in labs if lab.id not in problems), problems)


def environment_name(lab_id: str) -> str:
    """The id as directory, image and Python names see it, where dots and dashes are one."""
    return re.sub(r"[^a-z0-9]+", "-", lab_id.lower())


def _course_order(lab: Lab) -> tuple[list[int], str]:
    numbers = lab.id.removeprefix("lab-").split("-")[0]
    return [int(number) for number in numbers.split(".")], lab.id


def _relations(labs: list[Lab], broken: set[str]) -> dict[str, list[UserError]]:
    """What only shows when the labs are seen together."""
    found: dict[str, list[UserError]] = {}

    def report(lab: Lab, key: str, what: str, allowed: str) -> None:
        found.setdefault(lab.id, []).append(_bad(lab.directory / "lab.toml", key, what, allowed))

    by_id = {lab.id: lab for lab in labs}
    by_environment: dict[str, Lab] = {}
    by_number: dict[str, Lab] = {}
    for lab in labs:
        other = by_environment.setdefault(environment_name(lab.id), lab)
        if other is not lab:
            report(lab, "id", f"{lab.id} and {other.id} collapse to one environment name", "ids that differ in letters or digits")
        other = by_number.setdefault(lab.id.split("-")[1], lab)
        if other is not lab:
            report(lab, "id", f"duplicate id: {other.id} has the same number", "one lab per number")
        for required in lab.requires:
            if required not in by_id and required not in broken:
                report(lab, "requires", repr(required), "ids of existing labs")
    for lab in labs:
        cycle = _cycle_from(lab, by_id)
        if cycle:
            report(lab, "requires", f"a cycle: {' -> '.join(cycle)}", "prerequisites without a cycle")
    return found


def _cycle_from(start: Lab, by_id: Mapping[str, Lab]) -> list[str]:
    """A path from `start` back to itself along `requires`; empty if there is none."""
    stack = [(start, [start.id])]
    seen: set[str] = set()
    while stack:
        lab, path = stack.pop()
        for required in lab.requires:
            if required == start.id:
                return [*path, required]
            if required in by_id and required not in seen:
                seen.add(required)
                stack.append((by_id[required], [*path, required]))
    return []


# --- one manifest -------------------------------------------------------------------------------


def read_manifest(path: Path) -> Lab:
    """Parse and check one `lab.toml`.

    Raises:
        UserError: "bad-manifest", with file, key, what was found and what is allowed.
    """
    table = _Table(path, "", _parse(path))
    lab_id = path.parent.name
    if not LAB_ID.fullmatch(lab_id):
        raise _bad(path, "id", f"directory {lab_id!r}", "a directory named like lab-1.5-flashattention")
    lab = Lab(
        id=lab_id,
        directory=path.parent,
        title=table.text("title"),
        summary=table.text("summary"),
        chapter=table.string("chapter"),
        level=table.choice("level", LEVELS),
        notebooks=table.strings("notebooks", non_empty=True),
        image=table.string("image"),
        profiles=_profiles(table),
        gates=tuple(_gate(gate) for gate in table.tables("gates")),
        requires=table.strings("requires", default=()),
        paths=table.strings("paths", default=(), allowed=PATHS),
        extras=table.strings("extras", default=()),
        server=table.choice("server", SERVERS, default=None),
        network=table.boolean("network", default=False),
    )
    table.refuse_unknown()
    _check_notebooks(lab, path)
    if not lab.gates:
        raise _bad(path, "gates", "none", "at least one [[gates]] table")
    if not any(gate.control for gate in lab.gates):
        raise _bad(path, "gates", "no gate has a control", "at least one gate with a negative control")
    return lab


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, "", f"unreadable ({error})", "a UTF-8 TOML file") from None
    if not content.strip():
        raise _bad(path, "", "an empty file", "the keys of CONTRIBUTING.md")
    try:
        return tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # tomllib's own error, a number of thousands of digits, endless nesting
        raise _bad(path, "", f"not TOML: {error}", "a TOML file") from None


def _profiles(table: _Table) -> dict[str, Profile]:
    cpu = table.table("cpu")
    profiles = {"cpu": _profile(cpu, needed=("minutes", "memory_gb"))}
    if table.has("gpu"):
        gpu = table.table("gpu")
        profile = _profile(gpu, needed=("minutes", "vram_gb"))
        unknown = set(profile.settings) - set(profiles["cpu"].settings)
        if unknown:
            raise gpu.bad("settings", ", ".join(sorted(unknown)), "settings that [cpu] has too, so that lessons need no `if profile`")
        settings = {**profiles["cpu"].settings, **profile.settings}
        profiles["gpu"] = Profile(profile.minutes, settings, profile.memory_gb, profile.vram_gb, profile.min_compute)
    return profiles


def _profile(table: _Table, needed: tuple[str, ...]) -> Profile:
    for key in needed:
        if not table.has(key):
            raise table.bad(key, "missing", "a number")
    settings = table.table("settings").rest() if table.has("settings") else {}
    for key in settings:
        if key in RESERVED_SETTINGS or not key.isidentifier() or keyword.iskeyword(key):
            raise table.bad(f"settings.{key}", "a reserved or impossible name", f"an identifier other than {', '.join(RESERVED_SETTINGS)}")
        if key == "dtype" and settings[key] not in DTYPES:
            raise table.bad("settings.dtype", repr(settings[key]), " | ".join(DTYPES))
        if not _is_plain(settings[key]):
            raise table.bad(f"settings.{key}", repr(settings[key]), "a number, string, true/false, or a list of these")
    profile = Profile(
        minutes=table.number("minutes"),
        settings=settings,
        memory_gb=table.number("memory_gb", default=None),
        vram_gb=table.number("vram_gb", default=None),
        min_compute=table.string("min_compute", default=None),
    )
    table.refuse_unknown()
    return profile


def _is_plain(value: object) -> bool:
    """Can a setting travel to the notebooks as JSON, and be frozen there?"""
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _gate(table: _Table) -> Gate:
    bounds = [key for key in ("max", "min", "equals") if table.has(key)]
    if len(bounds) != 1:
        raise table.bad("max|min|equals", ", ".join(bounds) or "none", "exactly one bound")
    equals = table.take("equals", default=None)
    if equals is not None and not isinstance(equals, (bool, int, float)):
        raise table.bad("equals", repr(equals), "a number or true/false")
    gate = Gate(
        metric=table.string("metric"),
        objective=table.text("objective"),
        max=table.number("max", default=None),
        min=table.number("min", default=None),
        equals=equals,
        over=table.choice("over", ("every", "mean"), default="every"),
        profiles=table.strings("profiles", default=PROFILES, allowed=PROFILES),
        control=table.string("control", default=None),
        requires=table.strings("requires", default=()),
    )
    table.refuse_unknown()
    return gate


def _check_notebooks(lab: Lab, path: Path) -> None:
    for number, name in enumerate(lab.notebooks, start=1):
        if not NOTEBOOK_NAME.fullmatch(name) or int(name[:2]) != number:
            raise _bad(path, "notebooks", repr(name), f"names in order, here {number:02d}-some-words")
        if not (lab.directory / f"{name}.py").is_file():
            raise _bad(path, "notebooks", f"{name}, but there is no {name}.py", "notebooks that exist")
    for source in sorted(lab.directory.glob("[0-9][0-9]-*.py")):
        if source.stem not in lab.notebooks:
            raise _bad(path, "notebooks", f"{source.name} is not listed", "every NN-*.py of the lab")


def _bad(path: Path, key: str, found: str, allowed: str) -> UserError:
    where = f"{path.parent.name}/{path.name}" + (f", key {key}" if key else "")
    return UserError("bad-manifest", where=where, what=f"found {found}; allowed: {allowed}")


_MISSING: Any = object()


class _Table:
    """A TOML table that remembers which keys were asked for, so that the others can be refused."""

    def __init__(self, path: Path, prefix: str, values: dict[str, Any]) -> None:
        self._path, self._prefix, self._values = path, prefix, values
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        return key in self._values

    def bad(self, key: str, found: str, allowed: str) -> UserError:
        return _bad(self._path, self._prefix + key, found, allowed)

    def take(self, key: str, default: Any = _MISSING, allowed: str = "a value") -> Any:
        self._asked.add(key)
        if key in self._values:
            return self._values[key]
        if default is _MISSING:
            raise self.bad(key, "missing", allowed)
        return default

    def rest(self) -> dict[str, Any]:
        return dict(self._values)

    def string(self, key: str, default: Any = _MISSING) -> Any:
        return self._typed(key, default, lambda value: isinstance(value, str) and value.strip() != "", "a non-empty string")

    def number(self, key: str, default: Any = _MISSING) -> Any:
        def is_number(value: object) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value

        return self._typed(key, default, is_number, "a number")

    def boolean(self, key: str, default: Any = _MISSING) -> Any:
        return self._typed(key, default, lambda value: isinstance(value, bool), "true or false")

    def choice(self, key: str, choices: Iterable[str], default: Any = _MISSING) -> Any:
        choices = tuple(choices)
        return self._typed(key, default, lambda value: isinstance(value, str) and value in choices, " | ".join(choices))

    def strings(self, key: str, default: Any = _MISSING, allowed: tuple[str, ...] = (), non_empty: bool = False) -> tuple[str, ...]:
        def is_list(value: object) -> bool:
            if not isinstance(value, (list, tuple)) or (non_empty and not value):
                return False
            if not all(isinstance(item, str) and item for item in value) or len(set(value)) != len(value):
                return False
            return not allowed or all(item in allowed for item in value)

        wording = f"a list of {' | '.join(allowed)}" if allowed else "a list of different strings"
        return tuple(self._typed(key, default, is_list, wording))

    def text(self, key: str) -> Text:
        value = self.take(key, allowed='{ en = "...", zh-TW = "..." }')
        if not isinstance(value, dict):
            raise self.bad(key, repr(value), '{ en = "...", zh-TW = "..." }')
        for language in LANGUAGES:
            written = value.get(language)
            if not isinstance(written, str) or not written.strip():
                raise self.bad(f"{key}.{language}", "missing" if written is None else repr(written), "the text in that language")
        unknown = set(value) - set(LANGUAGES)
        if unknown:
            raise self.bad(f"{key}.{min(unknown)}", "unknown key", ", ".join(LANGUAGES))
        return Text(value["en"], value["zh-TW"])

    def table(self, key: str) -> _Table:
        value = self.take(key, allowed=f"a [{key}] table")
        if not isinstance(value, dict):
            raise self.bad(key, repr(value), f"a [{key}] table")
        return _Table(self._path, f"{self._prefix}{key}.", value)

    def tables(self, key: str) -> list[_Table]:
        value = self.take(key, default=[])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.bad(key, repr(value), f"[[{key}]] tables")
        return [_Table(self._path, f"{self._prefix}{key}[{index}].", item) for index, item in enumerate(value)]

    def refuse_unknown(self) -> None:
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._asked, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise self.bad(unknown[0], f"an unknown key{hint}", ", ".join(sorted(self._asked)))

    def _typed(self, key: str, default: Any, accepts: Callable[[Any], bool], allowed: str) -> Any:
        value = self.take(key, default, allowed)
        if key in self._values and not accepts(value):
            raise self.bad(key, repr(value), allowed)
        return value
