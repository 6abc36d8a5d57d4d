"""The page of a lab: what it is, how to run it, its README, its notebooks, its results, its download."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from onepiece.course.catalog import Lab
from onepiece.host.road import shared_modules

from .download import lab_zip
from .facts import facts_table
from .gate_plot import gate_plot
from .links import to_pages
from .notebook_page import fenced, latest_run, where_outputs_come_from, write_notebook
from .numbers import readable
from .published import Published, published
from .punctuation import colon, listed
from .stage import Stage

_LANGUAGE_LINE = re.compile(r"^\[English\].*$\n|^\*\*English\*\*.*$\n", re.MULTILINE)
_TOLD = ("python", "torch", "transformers")  # versions worth a line
_TITLE = re.compile(r"\A# (?P<title>.*)\n+")

WORDS = {
    "notebooks": {"en": "Notebooks", "zh-TW": "筆記本"},
    "results": {"en": "Published results", "zh-TW": "已發布的結果"},
    "take": {"en": "Take it with you", "zh-TW": "帶著走"},
    "objective": {"en": "objective", "zh-TW": "目標"},
    "measured": {"en": "measured", "zh-TW": "量測值"},
    "bound": {"en": "bound", "zh-TW": "界限"},
    "held": {"en": "held", "zh-TW": "通過"},
    "not held": {"en": "not held", "zh-TW": "沒通過"},
    "not judged": {"en": "not judged: {reason}", "zh-TW": "未判定：{reason}"},
    "control": {"en": "control (must miss)", "zh-TW": "對照組（必須不過）"},
    "null": {"en": "null system (must miss)", "zh-TW": "null 系統（必須不過）"},
    "missed": {"en": "missed", "zh-TW": "沒過"},
    "not missed": {"en": "did not miss", "zh-TW": "過了"},
    "quiz": {"en": "Quiz", "zh-TW": "測驗"},
}
NO_RESULTS = {
    "en": "No results of this lab are published yet. Your own run prints this table and writes it into `report.html`:\n\n"
    "```console\n$ nox -s {lab}\n```",
    "zh-TW": "這個實驗還沒有發布結果。你自己執行時，終端機會印出這張表，也會寫進 `report.html`：\n\n```console\n$ nox -s {lab}\n```",
}
RAN = {
    "en": "Profile `{profile}` on {machine}, {day}: {seconds} s, {memory:.2f} GB of memory at the peak. {versions}.",
    "zh-TW": "Profile `{profile}`，{machine}，{day}：耗時 {seconds} 秒，記憶體峰值 {memory:.2f} GB。{versions}。",
}
NOT_LOCKED = {
    "en": "(It ran with `--environment`, in an environment that was there already, not in the one of the lock.)",
    "zh-TW": "（以 `--environment` 在現成的環境裡執行，不是照鎖定檔安裝的環境。）",
}
CHANGED_SINCE = {
    "en": "(The lab has been changed since that run.)",
    "zh-TW": "（那次執行之後，這個實驗又改過。）",
}
SHARED_CHANGED_SINCE = {
    "en": "(Code that this lab shares with others has been changed since that run.)",
    "zh-TW": "（那次執行之後，這個實驗與其他實驗共用的程式碼又改過。）",
}
PLOT = {
    "en": "How far each measured value, and each control, is from its bound.",
    "zh-TW": "每個量測值與對照組離界限多遠。",
}
TAKE = {
    "en": "[{lab}.zip]({lab}.zip) holds your own copy of this lab: the notebooks in English, the modules with their exercises open, "
    "a file for your guesses. It is what `nox -s start -- {lab}` makes. Unpack it into `workspace/` of a checkout of the course, or read "
    "how to open it [in Colab](/guides/colab.md), [in VS Code](/guides/vscode.md) and in JupyterLab (`nox -s jupyter -- {lab}`).",
    "zh-TW": "[{lab}.zip]({lab}.zip) 是這個實驗的個人副本：繁體中文筆記本、練習尚未完成的模組，以及寫猜測用的檔案，"
    "和 `nox -s start -- {lab}` 產生的一樣。請解壓縮到課程目錄的 `workspace/` 底下，或參考"
    "[在 Colab 開啟](/guides/colab.md)、[在 VS Code 開啟](/guides/vscode.md)，也可以用 JupyterLab（`nox -s jupyter -- {lab}`）。",
}


def write_lab(stage: Stage, lab: Lab, language: str) -> None:
    """All pages and files of one lab, below `labs/<lab>/`."""
    run = latest_run(lab, language)
    for name in lab.notebooks:
        write_notebook(stage, lab, name, run, language)
    stage.write(f"labs/{lab.id}/{lab.id}.zip", lab_zip(lab, language))
    quiz = lab.directory / "quiz.toml"
    if quiz.exists():
        title = colon(WORDS["quiz"][language], lab.title[language], language)
        stage.write(f"labs/{lab.id}/quiz.md", f"# {title}\n\n```{{quiz}} {lab.id}\n```\n")
    stage.write(f"labs/{lab.id}/index.md", _page(lab, language, where_outputs_come_from(lab, run, language), quiz.exists()))


def _page(lab: Lab, language: str, outputs: str, has_quiz: bool) -> str:
    path = lab.directory / ("README.md" if language == "en" else "README.zh-TW.md")
    readme = path.read_text(encoding="utf-8") if path.exists() else f"# {lab.title[language]}\n\n{lab.summary[language]}\n"
    title = _TITLE.match(readme)
    body = _LANGUAGE_LINE.sub("", _TITLE.sub("", readme), count=1).strip()
    parts = [f"# {title['title'] if title else lab.title[language]}", facts_table(lab, language), to_pages(body, lab.directory)]
    pages = [*lab.notebooks, f"{WORDS['quiz'][language]} <quiz>"] if has_quiz else list(lab.notebooks)
    notebooks = [f"## {WORDS['notebooks'][language]}", outputs, _toctree(pages)]
    take = [f"## {WORDS['take'][language]}", TAKE[language].format(lab=lab.id)]
    return "\n\n".join([*parts, *notebooks, f"## {WORDS['results'][language]}", results_section(lab, language), *take]) + "\n"


def _toctree(entries: list[str]) -> str:
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *entries, "```"])


def results_section(lab: Lab, language: str) -> str:
    """Every published run: on what it ran, its gates as a table and as a plot."""
    found = published(lab)
    if not found:
        return NO_RESULTS[language].format(lab=lab.id)
    parts = []
    for run in found:
        results = run.results
        versions = listed((f"{name} {results['versions'][name]}" for name in _TOLD if name in results["versions"]), language)
        parts.append(
            RAN[language].format(
                profile=results["profile"], machine=run.machine(language), day=run.day, versions=versions,
                seconds=f"{results['seconds']:.0f}", memory=results["peak_bytes"] / 2**30,
            )
        )  # fmt: skip
        if results["environment"]["lock_sha256"] is None:
            parts.append(NOT_LOCKED[language])
        if results["sources_sha256"] != shared_modules.sources_hash(lab):
            parts.append(CHANGED_SINCE[language])
        elif results.get("shared_sha256") != shared_modules.shared_hash(lab):
            parts.append(SHARED_CHANGED_SINCE[language])
        parts.append(gates_table(lab, run, language))
        parts.append(fenced("{raw} html", gate_plot(run, PLOT[language], language)))
    return "\n\n".join(parts)


def gates_table(lab: Lab, run: Published, language: str) -> str:
    """Objective, measured value, bound, verdict and control of each gate."""
    word: Callable[[str], str] = lambda key: WORDS[key][language]  # noqa: E731
    contrasts = ["control", *(["null"] if any(gate.get("null") for gate in run.results["gates"]) else [])]  # not in older results
    lines = [
        f"| {word('objective')} | {word('measured')} | {word('bound')} | | {' | '.join(map(word, contrasts))} |",
        "|---|--:|--:|---|" + "---|" * len(contrasts),
    ]
    for gate in run.results["gates"]:
        if gate["passed"] is None:
            verdict = word("not judged").format(reason=gate["reason"])
        else:
            verdict = "✓ " + word("held") if gate["passed"] else "✗ " + word("not held")
        cells = [gate["objective"][language], readable(gate["value"], language), gate["bound"], verdict]
        cells += [_contrast(gate.get(key), language) for key in contrasts]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _contrast(found: dict[str, Any] | None, language: str) -> str:
    if not found or found["value"] is None:
        return ""
    missed = "✓ " + WORDS["missed"][language] if found["missed"] else "✗ " + WORDS["not missed"][language]
    return f"`{found['variant']}`: {readable(found['value'], language)} {missed}"
