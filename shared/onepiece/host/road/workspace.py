"""The learner's own copy of a lab: modules with open exercises, notebooks, predictions, and what `onepiece.lab` needs to work by hand."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from onepiece.course.catalog import Lab
from onepiece.course.text import Text
from onepiece.host.road import runs, sources
from onepiece.host.road.plan import Plan

_BY_HAND = Plan(
    "local", "cpu", "cpu", "cpu", (), (), reason=Text("opened by hand", "手動開啟"), change=Text("nox -s jupyter", "nox -s jupyter")
)


def make_workspace(lab: Lab, target: Path, language: str) -> list[Path]:
    """Write what is not there yet; returns the files that were added."""
    # Modules without exercises stay in the lab: they are importable there, and some of them give answers away.
    files: dict[Path, str] = {target / path.name: sources.starter_source(path) for path in sources.modules(lab) if sources.solutions(path)}
    for name in lab.notebooks:
        files[target / f"{name}.ipynb"] = sources.notebook_json(lab.directory / f"{name}.py", language)
    readme = lab.directory / ("README.zh-TW.md" if language == "zh-TW" else "README.md")
    if readme.exists():
        files[target / "README.md"] = readme.read_text(encoding="utf-8")
    files[target / "predictions.toml"] = _predictions(lab, language)
    added: list[Path] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            if not path.exists():
                added.append(path)
                path.write_text(content, encoding="utf-8", newline="\n")
        write_interactive_context(lab, _BY_HAND, target, language)
    except OSError:
        for path in added:  # half a copy would look like a whole one
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.rmdir()
        raise
    return added


def write_interactive_context(lab: Lab, plan: Plan, target: Path, language: str) -> None:
    """`.run/`, so that `onepiece.lab` works in a notebook opened by hand (JupyterLab, VS Code)."""
    options = runs.Options(language, lab.notebooks, mine=True)
    context = runs.context_json(lab, plan, options, sources.usage(lab), runs.read_predictions(lab), (), strict=False)
    (target / ".run").mkdir(exist_ok=True)
    runs.write_json(target / ".run" / "context.json", context)


def _predictions(lab: Lab, language: str) -> str:
    """The metrics that a lab asks a guess for, each below the question as its notebook asks it."""
    lines = [
        "# Guess before you run: metric = number. The run shows your guess beside what it measured.",
        "# 先猜再跑：指標 = 數字。執行後會把你的猜測放在量測值旁邊。",
    ]
    asked: dict[tuple[str, ...], list[str]] = {}
    for metric in sources.usage(lab).predicted or [gate.metric for gate in lab.gates]:
        question, remark = _question(lab, metric, language)
        asked.setdefault(question, []).append(f"# {metric} = {remark and '    ' + remark}")
    for question, guesses in asked.items():
        lines += ["", *(f"# {line}" for line in question), *guesses]
    return "\n".join(lines) + "\n"


def _question(lab: Lab, metric: str, language: str) -> tuple[tuple[str, ...], str]:
    """The lines in which a notebook asks for a guess of `metric`, and the remark where it shows how to write that down."""
    for name in lab.notebooks:
        for cell in sources.read_cells(lab.directory / f"{name}.py"):
            if cell.kind == "markdown" and cell.language in (None, language):
                shown = re.search(rf"^{metric} = [^#\n]*(?P<remark>#.*)?$", cell.text, re.MULTILINE)
                if shown or f"`{metric} = " in cell.text:
                    return (f"{name}:", *_prose(cell.text, metric)), (shown and shown["remark"]) or ""
    objectives = [gate.objective[language] for gate in lab.gates if gate.metric == metric]
    return tuple(objectives), ""


def _prose(markdown: str, metric: str) -> list[str]:
    """The paragraph that has the metric in it; where it stands in a block of code, all those of the cell before that."""
    text = re.split(r"^(?:```|<details>)", markdown, maxsplit=1, flags=re.MULTILINE)[0]
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip() and not paragraph.startswith("#")]
    kept = [paragraph for paragraph in paragraphs if f"`{metric} = " in paragraph] or paragraphs
    return [line for paragraph in kept for line in paragraph.strip().splitlines()]
