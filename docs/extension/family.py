"""The methods of module 1.1 side by side: how they were measured, one table, and each task; from published results alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from onepiece.course.catalog import Lab
from onepiece.course.family_rows import BATCH, GOAL, HELD_OUT_ITEMS, SEEDS, TASKS, TRAIN_ITEMS, Row, expect_comparable, rows_of

from . import course
from .numbers import readable
from .published import published
from .punctuation import brackets, colon, listed

_FAMILY = "lab-1.1."
_RUN = "cpu-cpu"
WORDS = {
    "method": {"en": "method", "zh-TW": "方法"},
    "base": {"en": "base (parameters)", "zh-TW": "基礎模型（參數）"},
    "trained": {"en": "trained parameters", "zh-TW": "訓練的參數"},
    "share": {"en": "share", "zh-TW": "占比"},
    "file": {"en": "file (KiB)", "zh-TW": "檔案（KiB）"},
    "peak": {"en": "peak of a step (MiB)", "zh-TW": "一步的記憶體峰值（MiB）"},
    "token": {"en": "time per token, base = 1", "zh-TW": "每個 token 的時間，基礎模型 = 1"},
    "merges": {"en": "merges", "zh-TW": "能否合併"},
    "exact match": {"en": "exact match", "zh-TW": "完全相符"},
    "steps": {"en": "steps", "zh-TW": "步數"},
    "to goal": {"en": "steps to {goal:.0%}, per seed", "zh-TW": "到 {goal:.0%} 的步數（各種子）"},
    "seconds": {"en": "CPU-seconds to {goal:.0%}, per seed", "zh-TW": "到 {goal:.0%} 的 CPU 秒數（各種子）"},
    "never": {"en": "never", "zh-TW": "未達到"},
    "kept": {
        "en": "Skills of pretraining, exact match after training on `{task}`:",
        "zh-TW": "訓練 `{task}` 之後，預訓練技能的完全相符比例：",
    },
    "waiting": {"en": "No row yet", "zh-TW": "尚無資料列"},
    "nothing": {
        "en": "No lab has published its row yet, so there is nothing to compare. "
        "The table and the figure appear here as soon as a lab has.",
        "zh-TW": "還沒有實驗公布資料列，所以沒有東西可以比較。只要有實驗公布，表格和圖就會出現在這裡。",
    },
    "protocol": {
        "en": "Every row: the tasks {tasks}, {train:,} training items in batches of {batch}, {held_out} held-out items, seeds {seeds}. "
        "Steps, learning rate and schedule are the method's own, found by its lab's search.",
        "zh-TW": "每一列都相同的是：任務 {tasks}，{train:,} 題訓練資料，批次大小 {batch}，{held_out} 題沒看過的題目，種子 {seeds}。"
        "步數、學習率和排程則是各方法自己的，由各實驗搜尋而得。",
    },
}


def comparable_rows(labs: Iterable[Lab]) -> list[Row]:
    """The rows that these labs published, in their order.

    Raises:
        NotComparable: two of them were not measured alike, or one is not whole.
    """
    rows = [row for lab in labs for run in published(lab) if run.name == _RUN for row in rows_of(run.results)]
    expect_comparable(rows)
    return rows


def protocol(argument: str, language: str) -> str:
    """What is the same for every row, as one sentence."""
    tasks = listed((f"`{task}`" for task in TASKS), language)
    seeds = listed(map(str, SEEDS), language)
    return WORDS["protocol"][language].format(tasks=tasks, train=TRAIN_ITEMS, batch=BATCH, held_out=HELD_OUT_ITEMS, seeds=seeds)


def table(argument: str, language: str) -> str:
    """One line per row: size, file, memory, latency, merge, exact match on every task; then the labs that have none yet."""
    rows = comparable_rows(course.labs())
    return "\n\n".join(filter(None, [_table(rows, language) if rows else WORDS["nothing"][language], _waiting(rows, language)]))


def _table(rows: Sequence[Row], language: str) -> str:
    columns = ["method", "base", "trained", "share", "file", "peak", "token", "merges"]
    lines = [
        "| # | " + " | ".join([*(WORDS[column][language] for column in columns), *(f"`{task}`" for task in TASKS)]) + " |",
        "|--:|---|---|" + "--:|" * 5 + "---|" + "--:|" * len(TASKS),
    ]
    for number, row in enumerate(rows, start=1):
        base = f"`{row.base_model}`" + brackets(f"{row.once['total']:,.0f}", language)
        cells = [
            str(number), _name(row, language), base, f"{row.once['trained']:,.0f}", f"{row.share:.3%}",
            f"{row.once['file_bytes'] / 2**10:,.1f}", f"{row.once['peak_bytes'] / 2**20:,.1f}", f"{row.once['token_ratio']:.2f}",
            readable(bool(row.once["mergeable"]), language), *(span(row, task) for task in TASKS),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(row: Row, language: str) -> str:
    return f"[{row.lab}](/labs/{row.lab}/index.md)" + (brackets(f"`{row.variant}`", language) if row.variant else "")


def span(row: Row, task: str) -> str:
    """Mean over the seeds, and from the worst of them to the best."""
    values = row.by_seed[task, "accuracy"].values()
    return f"{row.mean(task):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _waiting(rows: Sequence[Row], language: str) -> str:
    """Which labs of the family have published no row."""
    known = dict.fromkeys([*course.syllabus().planned, *(lab.id for lab in course.labs())])
    missing = [lab_id for lab_id in known if lab_id.startswith(_FAMILY) and lab_id not in {row.lab for row in rows}]
    names = listed((f"{{upcoming}}`{lab_id}`" for lab_id in missing), language)
    return colon(WORDS["waiting"][language], names + {"en": ".", "zh-TW": "。"}[language], language) if missing else ""


def tasks(argument: str, language: str) -> str:
    """One section per task: how fast it was learned, and what was forgotten. The argument is the heading's mark."""
    rows = comparable_rows(course.labs())
    return "\n\n".join(f"{argument} `{task}`\n\n{_speed(rows, task, language)}\n\n{_kept(rows, task, language)}" for task in TASKS if rows)


def _speed(rows: Sequence[Row], task: str, language: str) -> str:
    word = {key: WORDS[key][language].format(goal=GOAL) for key in ("method", "exact match", "steps", "to goal", "seconds")}
    lines = ["| # | " + " | ".join(word.values()) + " |", "|--:|---|--:|--:|--:|--:|"]
    for number, row in enumerate(rows, start=1):
        cells = [str(number), _name(row, language), span(row, task), _per_seed(row, task, "steps", 0, language)]
        cells += [_per_seed(row, task, "steps_to_goal", 0, language), _per_seed(row, task, "cpu_seconds_to_goal", 1, language)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _per_seed(row: Row, task: str, column: str, digits: int, language: str) -> str:
    """`150, 175, never`; once, if it is the same for all seeds."""
    values = [value for _, value in sorted(row.by_seed[task, column].items())]
    texts = [WORDS["never"][language] if math.isinf(value) else f"{value:,.{digits}f}" for value in values]
    return texts[0] if len(set(texts)) == 1 else listed(texts, language)


def _kept(rows: Sequence[Row], task: str, language: str) -> str:
    skills = sorted({skill for row in rows for of, skill in row.kept if of == task})
    if not skills:
        return ""
    header = ["#", WORDS["method"][language], *(f"`{skill}`" for skill in skills)]
    lines = [WORDS["kept"][language].format(task=task), "", f"| {' | '.join(header)} |", "|--:|---|" + "--:|" * len(skills)]
    for number, row in enumerate(rows, start=1):
        values = (row.kept.get((task, skill)) for skill in skills)
        cells = [str(number), _name(row, language), *("—" if value is None else f"{value:.3f}" for value in values)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
