"""The exercises in a learner's copy: which are written, the reference in place of those that are not, and where each one is used.

A part of an exercise is a function of the reference with a `# SOLUTION n` in it. In a copy it is open while that function still raises
`NotImplementedError("Exercise n")`, as `start` made it.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.road import sources

_OPEN = re.compile(r"Exercise (\d+)")
_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Place = tuple[str, str, int]  # file name, the function with the names of what it is in, exercise


@dataclass(frozen=True, slots=True)
class Part:
    """One function of the reference that an exercise asks for."""

    exercise: int
    file: str
    function: str  # "Tiling.needs_mask"
    source: str  # all of it, with its decorators and without the marks of exercises
    remark: str  # the comment before it
    answer: str  # what stands between the marks


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a lab's exercises a copy has."""

    mine: tuple[int, ...]  # all their parts are written
    partly: tuple[int, ...]  # some are
    reference: tuple[int, ...]  # none is
    replace: Mapping[str, str] = field(default_factory=dict)  # file name -> the copy's source, with the reference in its open parts

    @property
    def whole(self) -> bool:
        """Nothing is the reference's."""
        return not (self.partly or self.reference)

    @property
    def said(self) -> Text:
        """Whose code it is: "yours: 1-4; reference: 5-7"."""
        kinds = (
            (self.mine, "yours: ", "你的："),
            (self.partly, "partly yours: ", "部分是你的："),
            (self.reference, "reference: ", "參考解："),
        )
        there = [(ranges(numbers), english, chinese) for numbers, english, chinese in kinds if numbers]
        return Text("; ".join(english + text for text, english, _ in there), "；".join(chinese + text for text, _, chinese in there))

    def as_json(self) -> dict[str, list[int]]:
        """As `results.json` holds it."""
        return {"mine": list(self.mine), "partly": list(self.partly), "reference": list(self.reference)}


def ranges(numbers: Collection[int]) -> str:
    """Numbers as a reader writes them: 1-4, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def open_exercise(message: str) -> int | None:
    """The exercise that says so itself, as the error of its function."""
    found = _OPEN.fullmatch(message)
    return int(found[1]) if found else None


def told(lab: Lab) -> dict[int, tuple[Text, Text]]:
    """Exercise -> its title and its hint, read from `checks.py`, which only the lab's environment could import."""
    found: dict[int, tuple[Text, Text]] = {}
    checks = lab.directory / "checks.py"
    for node in ast.walk(ast.parse(checks.read_text(encoding="utf-8"))) if checks.exists() else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "exercise" or not node.args:
            continue
        texts = {keyword.arg: _text(keyword.value) for keyword in node.keywords if keyword.arg in ("title", "hint")}
        number, title, hint = node.args[0], texts.get("title"), texts.get("hint")
        if isinstance(number, ast.Constant) and isinstance(number.value, int) and title is not None and hint is not None:
            found[number.value] = title, hint
    return found


def _text(node: ast.expr) -> Text | None:
    """`Text("en", "zh")` as it is written; None for anything else."""
    values = [*node.args, *(keyword.value for keyword in node.keywords)] if isinstance(node, ast.Call) else []
    written = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return Text(*written) if len(written) == len(values) == 2 else None


def parts(lab: Lab) -> list[Part]:
    """Every part of every exercise, file by file and from top to bottom."""
    return [part for path in sources.modules(lab) for part in _parts_of(path)]


def _parts_of(path: Path) -> list[Part]:
    regions = sources.regions(path)
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    found = []
    for region in regions:
        name, node = _around(tree, region.first - 1)
        first = node.lineno if node is not None else region.first
        last = (node.end_lineno or first) if node is not None else region.last
        first = min([first, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        found.append(
            Part(
                region.exercise,
                path.name,
                name,
                sources.without_marks("\n".join(lines[first - 1 : last])),
                "\n".join(_remark(lines, first - 1)),
                "\n".join(lines[region.first - 1 : region.last]),
            )
        )
    return found


def _around(tree: ast.AST, line: int, name: str = "") -> tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None]:
    """The innermost definition that a line is in; None outside of all."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, _DEFINITION) and child.lineno <= line <= (child.end_lineno or child.lineno):
            inner = f"{name}.{child.name}".lstrip(".")
            deeper = _around(child, line, inner)
            return deeper if deeper[1] is not None else (inner, child)
    return name, None


def _remark(lines: list[str], end: int) -> list[str]:
    """The comment lines directly before line number `end`, counted from 0."""
    first = end
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return lines[first:end]


def standing(lab: Lab, copy: Path, only: int | None = None) -> Standing:
    """What of a lab's exercises a copy has, with the reference in its open parts.

    Args:
        lab: whose exercises.
        copy: the directory with the learner's modules.
        only: of this exercise nothing is replaced, although it is open.

    A module that cannot be parsed is left as it is: Python says what is wrong with it when it is imported.
    """
    reference: dict[Place, Part] = {(part.file, part.function, part.exercise): part for part in parts(lab)}
    still_open: set[Place] = set()
    replace: dict[str, str] = {}
    for file in dict.fromkeys(part.file for part in reference.values()):
        path = copy / file
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
            raised = {place: node for place, node in _raised(file, ast.parse(text)) if place in reference}
        except (SyntaxError, ValueError):
            continue
        still_open |= set(raised)
        wanted = {node.lineno: (node.end_lineno or node.lineno, reference[place]) for place, node in raised.items() if place[2] != only}
        if wanted:
            replace[file] = _with_answers(text, wanted)
    numbers = sorted({exercise for *_, exercise in reference})
    missing = {number: sum(place[2] == number for place in still_open) for number in numbers}
    every = {number: sum(place[2] == number for place in reference) for number in numbers}
    return Standing(
        mine=tuple(number for number in numbers if not missing[number]),
        partly=tuple(number for number in numbers if 0 < missing[number] < every[number]),
        reference=tuple(number for number in numbers if missing[number] == every[number]),
        replace=replace,
    )


def _raised(file: str, tree: ast.Module) -> Iterator[tuple[Place, ast.Raise]]:
    """Where exercises are open: each `raise NotImplementedError("Exercise n")`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not isinstance(node.exc.func, ast.Name):
            continue
        said = node.exc.args[0] if node.exc.args else None
        if node.exc.func.id == "NotImplementedError" and isinstance(said, ast.Constant) and isinstance(said.value, str):
            number = open_exercise(said.value)
            if number is not None:
                yield (file, _around(tree, node.lineno)[0], number), node


def _with_answers(text: str, wanted: Mapping[int, tuple[int, Part]]) -> str:
    """The source with the reference's lines where a line number is in `wanted`, indented as what they stand for."""
    lines = text.split("\n")
    for first in sorted(wanted, reverse=True):
        last, part = wanted[first]
        line = lines[first - 1]
        indent = line[: len(line) - len(line.lstrip())]
        lines[first - 1 : last] = textwrap.indent(textwrap.dedent(part.answer), indent).split("\n")
    return "\n".join(lines)


def refuse_hiding(copy: Path) -> None:
    """Refuse a copy with a file that hides a module of Python or of the course: whatever imports that one would get the learner's.

    Raises:
        UserError: "hides-a-module".
    """
    for path in sorted(copy.iterdir()) if copy.is_dir() else ():
        importable = path.suffix == ".py" or (path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")))
        if importable and sources.hides(path.stem):
            raise UserError("hides-a-module", path=path, module=path.stem)


# --- in the notebooks -----------------------------------------------------------------------------


def first_notebook(lab: Lab, exercise: int) -> str | None:
    """The first notebook that uses what an exercise asks for and needs no file of another one; None if there is none."""
    functions = {(Path(part.file).stem, part.function.split(".")[0]) for part in parts(lab) if part.exercise == exercise}
    modules = {path.stem: _uses(path) for path in sources.modules(lab)}
    makers = sources.usage(lab).artifact_makers
    for name in lab.notebooks:
        tree = ast.parse((lab.directory / f"{name}.py").read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        if any(artifact in strings and maker != name for artifact, maker in makers.items()):
            continue
        if functions & _reached(_imports(tree, modules), modules):
            return name
    return None


def gates_of(lab: Lab, notebook: str) -> int:
    """How many gates of the cpu profile are about what a notebook records."""
    recorded = sources.usage(lab).recorded_in
    return sum("cpu" in gate.profiles and notebook in recorded.get(gate.metric, ()) for gate in lab.gates)


Definition = tuple[str, str]  # module, name at its top


def _uses(path: Path) -> dict[str, set[str]]:
    """Name at the top of a module -> the names that its definition mentions, and "" -> what is imported, as "name=module.name"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {"": set()}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found[""] |= {f"{alias.asname or alias.name}={node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found[""] |= {f"{alias.asname or alias.name}={alias.name}." for alias in node.names}
        for name in _defined(node):
            found.setdefault(name, set()).update(child.id for child in ast.walk(node) if isinstance(child, ast.Name))
    return found


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, _DEFINITION):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _imports(tree: ast.AST, modules: Mapping[str, Mapping[str, set[str]]]) -> set[Definition]:
    """What a notebook takes from the lab's modules; all of one that it imports whole."""
    found: set[Definition] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            found |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, name) for alias in node.names if alias.name in modules for name in modules[alias.name]}
    return found


def _reached(begin: set[Definition], modules: Mapping[str, Mapping[str, set[str]]]) -> set[Definition]:
    """Everything that these use, and that in turn."""
    found, waiting = set(begin), list(begin)
    while waiting:
        module, name = waiting.pop()
        imported = dict(entry.split("=") for entry in modules[module][""])
        for used in modules[module].get(name, ()):
            where, _, what = imported.get(used, f"{module}.{used}").rpartition(".")
            targets = [(where, what)] if what else [(where, every) for every in modules.get(where, ())]
            for target in targets:
                if target[0] in modules and target not in found:
                    found.add(target)
                    waiting.append(target)
    return found
