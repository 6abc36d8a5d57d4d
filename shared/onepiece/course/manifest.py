"""One `lab.toml` -> a `Lab`, with every key checked."""

from __future__ import annotations

import keyword
import math
from pathlib import Path

from onepiece.course import toml_table
from onepiece.course.declarations import (
    BETTER,
    DTYPES,
    LAB_ID,
    LEVELS,
    NOTEBOOK_NAME,
    PATHS,
    PROFILES,
    RESERVED_SETTINGS,
    SERVERS,
    Gate,
    Lab,
    Profile,
    Score,
)
from onepiece.course.errors import UserError
from onepiece.course.toml_table import Table, at


def read_manifest(path: Path) -> Lab:
    """Parse and check one `lab.toml`.

    Raises:
        UserError: "bad-manifest", with file, key, what was found and what is allowed.
    """
    table = toml_table.read(path, _refuse(path))
    lab_id = path.parent.name
    if not LAB_ID.fullmatch(lab_id):
        raise table.bad("id", f"directory {lab_id!r}", "a directory named like lab-1.5-flashattention")
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
        score=_score(table.table("score")) if table.has("score") else None,
    )
    table.refuse_unknown()
    _check_notebooks(lab, table)
    for index, gate in enumerate(lab.gates):
        for extra in gate.requires:
            if extra not in lab.extras:
                raise table.bad(f"gates[{index}].requires", repr(extra), f"the lab's extras: {', '.join(lab.extras) or 'none'}")
    for profile in lab.score.profiles if lab.score else ():
        if profile not in lab.profiles:
            raise table.bad("score.profiles", repr(profile), f"the lab's profiles: {', '.join(lab.profiles)}")
    if not lab.gates:
        raise table.bad("gates", "none", "at least one [[gates]] table")
    if not any(gate.control for gate in lab.gates):
        raise table.bad("gates", "no gate has a control", "at least one gate with a negative control")
    return lab


def manifest_table(path: Path) -> Table:
    """An empty table of a manifest, for what is found wrong with it after it was read."""
    return Table(_refuse(path), {})


def _refuse(path: Path) -> toml_table.Refuse:
    return lambda where, what: UserError("bad-manifest", where=at(f"{path.parent.name}/{path.name}", where), what=what)


def _profiles(table: Table) -> dict[str, Profile]:
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


def _profile(table: Table, needed: tuple[str, ...]) -> Profile:
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
        minutes=table.number("minutes", above=0),
        settings=settings,
        memory_gb=table.number("memory_gb", default=None, above=0),
        vram_gb=table.number("vram_gb", default=None, above=0),
        min_compute=table.string("min_compute", default=None),
    )
    table.refuse_unknown()
    return profile


def _is_plain(value: object) -> bool:
    """Can a setting travel to the notebooks as JSON, and be frozen there?"""
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _gate(table: Table) -> Gate:
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
        null=table.string("null", default=None),
        requires=table.strings("requires", default=()),
    )
    table.refuse_unknown()
    return gate


def _score(table: Table) -> Score:
    score = Score(
        metric=table.string("metric"),
        objective=table.text("objective"),
        better=table.choice("better", BETTER),
        unit=table.string("unit", default=""),
        profiles=table.strings("profiles", default=("cpu",), allowed=PROFILES, non_empty=True),
    )
    table.refuse_unknown()
    return score


def _check_notebooks(lab: Lab, table: Table) -> None:
    for number, name in enumerate(lab.notebooks, start=1):
        if not NOTEBOOK_NAME.fullmatch(name) or int(name[:2]) != number:
            raise table.bad("notebooks", repr(name), f"names in order, here {number:02d}-some-words")
        if not (lab.directory / f"{name}.py").is_file():
            raise table.bad("notebooks", f"{name}, but there is no {name}.py", "notebooks that exist")
    for source in sorted(lab.directory.glob("[0-9][0-9]-*.py")):
        if source.stem not in lab.notebooks:
            raise table.bad("notebooks", f"{source.name} is not listed", "every NN-*.py of the lab")
