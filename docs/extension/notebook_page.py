"""A notebook as a page: prose, code, and the outputs of the latest run where there is one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.course.places import RUNS
from onepiece.course.text import LANGUAGES
from onepiece.host.road import shared_modules, sources

from .stage import Stage

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FIRST_HEADING = re.compile(r"\A# (?P<title>.*)\n*")
_MAX_LINES = 200  # of one printed output

EXECUTED = {
    "en": "Outputs are those of a run on {day}: {machine}, profile {profile}, {result}.",
    "zh-TW": "輸出來自 {day} 的一次執行：{machine}，profile {profile}，{result}。",
}
RESULT = {
    "passed": {"en": "all gates held", "zh-TW": "所有關卡都通過"},
    "failed": {"en": "not all gates held", "zh-TW": "有關卡沒通過"},
}
OTHER_LANGUAGE = {
    "en": "That run spoke Traditional Chinese, and so does what it printed.",
    "zh-TW": "那次執行用的是英文，所以程式印出的文字是英文。",
}
NOT_EXECUTED = {
    "en": "This page was built without outputs: no whole run of this version of the lab was at hand. `nox -s {lab}` makes them.",
    "zh-TW": "這一頁沒有輸出：建置時沒有這一版實驗的完整執行結果。`nox -s {lab}` 會產生輸出。",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose outputs are shown."""

    directory: Path
    results: dict[str, Any]

    def outputs(self, notebook: str) -> dict[str, list[dict[str, Any]]]:
        """Cell id -> its outputs. Code is the same in both languages, and so are the ids of its cells."""
        cells = json.loads((self.directory / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
        return {cell["id"]: cell.get("outputs", []) for cell in cells if cell["cell_type"] == "code"}

    def captions(self) -> dict[str, dict[str, str]]:
        """A figure's caption in any language -> in both."""
        both = [figure["caption"] for figure in self.results["figures"]]
        return {caption[language]: caption for caption in both for language in LANGUAGES}


def latest_run(lab: Lab, language: str) -> Run | None:
    """The newest whole run of the reference with the present sources: in this language, else in the other."""
    found: list[Run] = []
    for path in sorted((RUNS / lab.id).glob("*/results.json"), reverse=True):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # cut off while it was written
            continue
        if results["complete"] and not results["mine"] and results["sources_sha256"] == shared_modules.sources_hash(lab):
            found.append(Run(path.parent, results))
    return next((run for run in found if run.results["language"] == language), found[0] if found else None)


def write_notebook(stage: Stage, lab: Lab, name: str, run: Run | None, language: str) -> None:
    """The page `labs/<lab>/<name>` and the pictures that its outputs show."""
    cells = json.loads(sources.notebook_json(lab.directory / f"{name}.py", language))["cells"]
    outputs = run.outputs(name) if run else {}
    captions = run.captions() if run else {}
    parts = []
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(fenced("python", text))
        found = outputs.get(cell["id"], [])
        shown = list(filter(None, _outputs(stage, f"labs/{lab.id}", f"{name}-{number}", found, captions, language)))
        if shown:
            parts.append("\n\n".join([":::::{container} cell-output", *shown, ":::::"]))
    page = "\n\n".join(parts) + "\n"
    note = fenced("{note}", where_outputs_come_from(lab, run, language), character=":")
    stage.write(f"labs/{lab.id}/{name}.md", _FIRST_HEADING.sub(lambda found: f"# {found['title']}\n\n{note}\n\n", page, count=1))


def where_outputs_come_from(lab: Lab, run: Run | None, language: str) -> str:
    """One sentence about the outputs of a lab's notebooks."""
    if run is None:
        return NOT_EXECUTED[language].format(lab=lab.id)
    results = run.results
    gpus = results["hardware"].get("gpus") if results["device"] == "cuda" else None
    machine = " + ".join(gpus) if gpus else results["hardware"].get("processor", results["device"])
    said = EXECUTED[language].format(
        day=results["started"][:10], machine=machine, profile=results["profile"], result=RESULT[results["status"]][language]
    )
    return said if results["language"] == language else said + (" " if language == "en" else "") + OTHER_LANGUAGE[language]


def _outputs(
    stage: Stage, place: str, name: str, outputs: list[dict[str, Any]], captions: dict[str, dict[str, str]], language: str
) -> Iterator[str]:
    """The outputs of a cell, as Markdown. A figure takes the caption that follows it, in the reader's language."""
    waiting = list(outputs)
    while waiting:
        output = waiting.pop(0)
        picture = output.get("data", {}).get("image/png")
        if picture is None:
            yield _text_output(output)
            continue
        path = f"outputs/{name}-{len(outputs) - len(waiting)}.png"
        stage.write(f"{place}/{path}", base64.b64decode("".join(picture)))
        caption = _caption(waiting[0], captions, language) if waiting else None
        if caption is None:
            yield f"```{{image}} {path}\n:alt: {name}\n```"
        else:
            waiting.pop(0)
            yield f"````{{figure}} {path}\n:alt: {_plain(caption)}\n\n{caption}\n````"


def _caption(output: dict[str, Any], captions: dict[str, dict[str, str]], language: str) -> str | None:
    """The caption that `lab.figure` shows below its figure."""
    text = "".join(output.get("data", {}).get("text/markdown", "")).strip()
    return captions[text.strip("*")][language] if text.strip("*") in captions else None


def _plain(caption: str) -> str:
    """A caption as an alternative text: one line, without marks."""
    return " ".join(re.sub(r"[`$*]", "", caption).split())


def _text_output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _printed("".join(output["text"]))
    if output["output_type"] == "error":
        return _printed("\n".join(output["traceback"]))
    data = output["data"]
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    if "text/html" in data:
        return fenced("{raw} html", "".join(data["text/html"]))
    return _printed("".join(data.get("text/plain", "")))


def _printed(text: str) -> str:
    lines = _ANSI.sub("", text).rstrip("\n").split("\n")
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES // 2], "...", *lines[-_MAX_LINES // 2 :]]
    return fenced("none", "\n".join(lines)) if any(lines) else ""


def fenced(opening: str, text: str, character: str = "`") -> str:
    """A fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(rf"{re.escape(character)}{{3,}}", text)), default=2)
    fence = character * (longest + 1)
    return f"{fence}{opening}\n{text}\n{fence}"
