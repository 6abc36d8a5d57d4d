"""What progress looks like in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onepiece.course.learning_paths import LearningPath
from onepiece.course.text import current_language, tr
from onepiece.host.progress.achievements import Achievement
from onepiece.host.progress.scores import Scored
from onepiece.host.progress.state import Advice, LabState, Material, State
from onepiece.host.quiz.history import Standing

_BAR = 10  # characters


def bar(done: int, total: int) -> str:
    """A bar as markup; empty if there is nothing to do."""
    if not total:
        return ""
    filled = max(_BAR * done // total, 1 if done else 0)
    return f"[green]{'█' * filled}[/][dim]{'░' * (_BAR - filled)}[/]"


def quiz_cell(standings: Iterable[Standing]) -> str:
    """Right answers of all questions, with what is missed."""
    kept = list(standings)
    asked, right, missed = (
        (sum(len(part) for part in parts) for parts in zip(*((s.asked, s.right, s.missed) for s in kept), strict=True))
        if kept
        else (0, 0, 0)
    )
    if not asked:
        return "—"
    return f"{right}/{asked}" + (f" [yellow]✗{missed}[/]" if missed else "")


def show_modules(console: Console, found: State) -> None:
    """One bar per module, and the sum; 80 columns are enough."""
    console.print(f"[bold]{tr('Progress', '學習進度')}[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(tr("module", "單元"), no_wrap=True)
    table.add_column(tr("labs passed", "通過的實驗"), no_wrap=True)
    for column in (tr("run", "執行過"), tr("exercises", "練習"), tr("quizzes", "測驗"), tr("minutes", "分鐘")):
        table.add_column(column, justify="right", no_wrap=True)
    for module in found.modules:
        cells = _cells(module.labs, len(module.upcoming), module.quizzes, module.minutes)
        table.add_row(f"{module.id}  {escape(module.title[current_language()])}", *cells)
    upcoming = sum(len(module.upcoming) for module in found.modules)
    minutes = sum(module.minutes for module in found.modules)
    everything = _cells(list(found.labs.values()), upcoming, list(found.quizzes.values()), minutes)
    table.add_row(f"[bold]   {tr('all', '合計')}[/]", *everything)
    console.print(table)
    if upcoming:
        console.print(f"[dim]   {tr('+ labs that are still being written', '+ 還在編寫中的實驗')}[/]")


def _cells(labs: Sequence[LabState], upcoming: int, quizzes: Sequence[Standing], minutes: float) -> list[str]:
    passed = sum(state.passed for state in labs)
    exercises = sum(state.exercises for state in labs)
    right = sum(min(len(state.exercises_passed), state.exercises) for state in labs)
    more = f" [dim]+{upcoming}[/]" if upcoming else ""
    return [
        (f"{bar(passed, len(labs))} {passed}/{len(labs)}" if labs else f"{'—':<{_BAR + 4}}") + more,
        str(sum(state.runs > 0 for state in labs)) if labs else "—",
        f"{right}/{exercises}" if exercises else "—",
        quiz_cell(quizzes),
        f"{minutes:.0f}" if minutes else "—",
    ]


def show_labs(console: Console, found: State) -> None:
    """Labs that were begun."""
    begun = [state for state in found.labs.values() if state.started]
    if not begun:
        return
    console.print(f"\n[bold]{tr('Labs you began', '已開始的實驗')}[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", width=1)
    table.add_column(tr("lab", "實驗"), no_wrap=True)
    table.add_column(tr("last run", "上次執行"))
    for column in (tr("runs", "次數"), tr("exercises", "練習"), tr("quiz", "測驗"), tr("minutes", "分鐘")):
        table.add_column(column, justify="right")
    for state in begun:
        exercises = f"{len(state.exercises_passed)}/{state.exercises}" if state.exercises else "—"
        quiz = quiz_cell([state.quiz] if state.quiz else [])
        table.add_row(_mark(state), state.lab.id, _status(state.last), str(state.runs), exercises, quiz, f"{state.minutes:.1f}")
    console.print(table)


def show_scores(console: Console, found: Iterable[Scored]) -> None:
    """The best score of each lab, machine and author."""
    rows = list(found)
    if not rows:
        return
    console.print(f"\n[bold]{tr('Best scores', '最佳成績')}[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in (tr("lab", "實驗"), tr("metric", "指標"), "profile", tr("machine", "機器"), tr("code", "程式碼")):
        table.add_column(column)
    table.add_column(tr("best", "最佳"), justify="right", no_wrap=True)
    for one in rows:
        table.add_row(one.lab, escape(one.metric), one.profile, escape(one.machine), one.whose, f"[bold]{escape(str(one))}[/]")
    console.print(table)


def _status(last: str | None) -> str:
    return {
        "passed": f"[green]{tr('passed', '通過')}[/]",
        "failed": f"[red]{tr('failed', '未通過')}[/]",
        "incomplete": f"[yellow]{tr('incomplete', '未完成')}[/]",
    }.get(last or "", "—")


def _mark(state: LabState) -> str:
    return "[green]✓[/]" if state.passed else "[yellow]▶[/]" if state.started else "·"


def _chapter_cells(chapter: str, material: Material, found: State) -> tuple[str, str, str]:
    title = tr(f"Chapter {chapter}", f"第 {chapter} 章") + f"  {escape(str(material.syllabus.chapters[chapter]))}"
    standing = found.quizzes.get(chapter)
    if chapter not in material.chapters:
        return "[dim]○[/]", f"[dim]{title}[/]", f"[dim]{tr('upcoming', '編寫中')}[/]"
    if standing is None:
        return "·", title, ""
    done = len(standing.right) == len(standing.asked)
    return "[green]✓[/]" if done else "[yellow]▶[/]" if standing.answered else "·", title, f"{tr('quiz', '測驗')} {quiz_cell([standing])}"


def show_path(console: Console, path: LearningPath, material: Material, found: State) -> None:
    """The stages of a path with what is done of them."""
    labs = [lab_id for lab_id in path.labs if lab_id in found.labs]
    passed = sum(found.labs[lab_id].passed for lab_id in labs)
    counted = tr(
        f"{passed} of {len(labs)} labs passed, {len(path.labs) - len(labs)} upcoming",
        f"{len(labs)} 個實驗中通過 {passed} 個，另有 {len(path.labs) - len(labs)} 個編寫中",
    )
    console.print(f"[bold]{escape(str(path.title))}[/]  {escape(str(path.summary))}", soft_wrap=False)
    console.print(f"{bar(passed, len(labs))} {counted}".lstrip())
    table = Table.grid(padding=(0, 1))
    table.add_column(width=3, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, stage in enumerate(path.stages, start=1):
        table.add_row(f"[bold]{number}[/]", f"[bold]{escape(str(stage.title))}[/]", "")
        for chapter in stage.chapters:
            table.add_row(*_chapter_cells(chapter, material, found))
        for lab_id in stage.labs:
            state = found.labs.get(lab_id)
            if state is None:
                table.add_row("[dim]○[/]", f"[dim]{lab_id}[/]", f"[dim]{tr('upcoming', '編寫中')}[/]")
            else:
                table.add_row(_mark(state), lab_id, escape(state.lab.title[current_language()]))
    console.print(table)


def show_advice(console: Console, advice: Advice, found: State) -> None:
    """What to do next, and what to answer again."""
    if advice.lab is None:
        console.print(f"\n[bold]{tr('Next', '下一步')}[/]  {advice.reason}")
    else:
        title = escape(advice.lab.title[current_language()])
        console.print(
            f"\n[bold]{tr('Next', '下一步')}[/]  [bold cyan]{advice.command}[/]  {title}\n      [dim]{advice.reason}[/]", soft_wrap=True
        )
    for quiz_id, standing in found.quizzes.items():
        if standing.missed:
            count = len(standing.missed)
            said = tr(f"{count} missed question{'s' * (count != 1)}", f"{count} 題答錯")
            console.print(f"      [bold cyan]nox -s quiz -- {quiz_id} --missed[/]  {said}", soft_wrap=True)


def show_achievements(console: Console, all_of_them: Sequence[Achievement]) -> None:
    """Those that were earned, with where; of the others what they take."""
    console.print(f"\n[bold]{tr('Achievements', '成就')}[/]")
    grid = Table.grid(padding=(0, 1))
    for overflow in ("ellipsis", "fold", "fold"):
        grid.add_column(overflow=overflow)
    for achievement in sorted(all_of_them, key=lambda one: not one.where):
        if achievement.where:
            grid.add_row("  [yellow]★[/]", f"[bold]{achievement.title}[/]", escape(", ".join(achievement.where)))
        else:
            grid.add_row("  [dim]☆[/]", f"[dim]{achievement.title}[/]", f"[dim]{achievement.takes}[/]")
    console.print(grid)
