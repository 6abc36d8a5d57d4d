"""`labs/<lab>/mutants.toml`: what an author says about the mutants of a lab.

    [[equivalent]]                                   # cannot be told from the reference, and so counts neither way
    module = "nf4.py"
    line = "levels = torch.cat([zero, positive])"    # as `nox -s mutate` shows it: without indent and comment
    change = "`torch.cat([zero, positive])` -> `torch.cat([positive, zero])`"
    reason = "they are sorted in the next line"

    [[core]]                                         # what the lab is about: a gate must notice it too
    module = "flash_attention.py"
    line = "correction = torch.exp(state.maximum - maximum)"
    change = "deleted"                               # the default

An entry stands for every mutant that it fits; one that fits none is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from onepiece.course import toml_table
from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.toml_table import Table, at
from onepiece.host.mutation.mutants import DELETED, Mutant

FILE = "mutants.toml"


@dataclass(frozen=True, slots=True)
class Declared:
    """The mutants that the file speaks of."""

    equivalent: frozenset[Mutant] = frozenset()
    core: tuple[Mutant, ...] = ()  # in the order of the file


def read(lab: Lab, mutants: Sequence[Mutant]) -> Declared:
    """What `mutants.toml` says, of all mutants of a lab; nothing, if there is no such file.

    Raises:
        UserError: "bad-mutants", with the entry and what is wrong with it.
    """
    path = lab.directory / FILE
    if not path.exists():
        return Declared()
    table = toml_table.read(path, lambda where, what: refused(lab, where, what))
    equivalent, core = table.tables("equivalent"), table.tables("core")
    table.refuse_unknown()
    for entry in equivalent:
        entry.string("reason")
    return Declared(
        frozenset(found for entry in equivalent for found in _fitting(entry, mutants)),
        tuple(dict.fromkeys(found for entry in core for found in _fitting(entry, mutants, default=DELETED))),
    )


def _fitting(entry: Table, mutants: Sequence[Mutant], **default: str) -> list[Mutant]:
    """The mutants that an entry stands for; `default` is its change, if it need not say one."""
    module, line, change = entry.string("module"), entry.string("line"), entry.string("change", **default)
    entry.refuse_unknown()
    of_module = [mutant for mutant in mutants if mutant.module == module]
    if not of_module:
        raise entry.bad("module", repr(module), " | ".join(sorted({mutant.module for mutant in mutants})))
    on_line = [mutant for mutant in of_module if mutant.text == line]
    if not on_line:
        raise entry.bad(
            "line", repr(line), f"a line of a solution; the nearest is {_nearest(line, [mutant.text for mutant in of_module])!r}"
        )
    found = [mutant for mutant in on_line if mutant.change == change]
    if not found:
        near = _nearest(change, [mutant.change for mutant in on_line])
        raise entry.bad("change", repr(change), f"what nox -s mutate does to that line; the nearest is {near!r}")
    return found


def _nearest(text: str, among: Sequence[str]) -> str:
    return difflib.get_close_matches(text, among, n=1, cutoff=0.0)[0]


def refused(lab: Lab, where: str, what: str) -> UserError:
    """What is wrong with the file, and where in it."""
    return UserError("bad-mutants", where=at(f"{lab.id}/{FILE}", where), what=what, lab=lab.id)
