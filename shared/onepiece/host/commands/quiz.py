"""`nox -s quiz`: questions in the terminal, an explanation for every answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text as Line

from onepiece.course import catalog, learning_paths
from onepiece.course.errors import UserError
from onepiece.course.quiz import Answer, Question, Quiz, find, grade, load, problems, quiz_files
from onepiece.course.text import current_language, tr
from onepiece.host.command_line import Parser, add_language
from onepiece.host.interrupts import read_line
from onepiece.host.progress import record
from onepiece.host.progress.events import Attempt, Event
from onepiece.host.quiz.answers import NotAnAnswer, how_to_answer, letter, parse, shuffled
from onepiece.host.quiz.history import standing
from onepiece.host.quiz.text import prose, wrapped


@dataclass
class Score:
    """Of one sitting."""

    answered: int = 0
    right: int = 0
    stopped: bool = False


def command(console: Console, arguments: list[str]) -> int:
    """Ask one quiz, or list all of them; 0 however many answers were right, 130 if it was left before its end."""
    parser = Parser(prog="nox -s quiz --", description=tr("Questions about a lab or a chapter.", "實驗或章節的測驗。"))
    parser.add_argument(
        "quiz",
        nargs="?",
        help=tr("a lab (lab-1.5) or a chapter (1.3); all are listed without one", "實驗（lab-1.5）或章節（1.3）；不寫就列出全部"),
    )
    parser.add_argument("--missed", action="store_true", help=tr("only the questions you last got wrong", "只問你上次答錯的題目"))
    parser.add_argument(
        "--seed", type=int, metavar="N", help=tr("the order of the choices; each attempt has its own", "選項的排列順序；預設每次作答都不同")
    )
    add_language(parser)
    options = parser.parse_args(arguments)
    files = quiz_files()
    events = read_events(console)
    if options.quiz is None and not options.missed:
        return _list(console, events)
    quizzes = [load(find(options.quiz, files))] if options.quiz else [load(path) for path in files.values() if not problems(path)]
    chosen = {quiz.id: _chosen(quiz, events, options.missed) for quiz in quizzes}
    if not any(chosen.values()):
        console.print(tr("You have no missed questions here.", "這裡沒有你答錯的題目。"))
        return 0
    if not sys.stdin.isatty():
        raise UserError("quiz-needs-terminal")
    for quiz in quizzes:
        seed = standing(quiz, events).attempts + 1 if options.seed is None else options.seed
        if chosen[quiz.id] and _sitting(console, quiz, chosen[quiz.id], seed).stopped:
            return 130
    return 0


def read_events(console: Console) -> tuple[Event, ...]:
    """What the learner did so far; a quiz can be taken also where that cannot be read."""
    found: list[Event] = []
    record.keep(console, lambda known: found.extend(known) or [])
    return tuple(found)


def quiz_title(quiz_id: str, course: catalog.Course, syllabus: learning_paths.Syllabus) -> str:
    """What the lab or the chapter is called."""
    lab = next((lab for lab in course.labs if lab.id == quiz_id), None)
    if lab is not None:
        return lab.title[current_language()]
    title = syllabus.chapters.get(quiz_id)
    return tr(f"Chapter {quiz_id}", f"第 {quiz_id} 章") + (
        f": {title}" if title and current_language() == "en" else f"　{title}" if title else ""
    )


def _chosen(quiz: Quiz, events: Sequence[Event], missed: bool) -> list[Question]:
    if not missed:
        return list(quiz.questions)
    wrong = standing(quiz, events).missed
    return [question for question in quiz.questions if question.id in wrong]


def _list(console: Console, events: Sequence[Event]) -> int:
    """Every quiz with its result; exit 2 if one is broken."""
    course, syllabus = catalog.load(), learning_paths.load()
    table = Table()
    for column in (tr("quiz", "測驗"), tr("about", "主題"), tr("questions", "題數"), tr("right", "答對"), tr("missed", "答錯")):
        table.add_column(column, no_wrap=not table.columns, justify="right" if len(table.columns) > 1 else "left")
    broken: list[UserError] = []
    for quiz_id, path in quiz_files().items():
        found = problems(path)
        broken += found
        if found:
            table.add_row(quiz_id, f"[red]{tr('cannot be read', '無法讀取')}[/]")
            continue
        quiz = load(path)
        stands = standing(quiz, events)
        about = escape(quiz_title(quiz_id, course, syllabus))
        counted = (str(len(stands.right)), str(len(stands.missed))) if stands.attempts else ("—", "—")
        table.add_row(quiz_id, about, str(len(quiz.questions)), *counted)
    console.print(table if table.rows else tr("There is no quiz yet.", "目前還沒有測驗。"))
    if table.rows:
        first = next(iter(quiz_files()))
        console.print(
            tr(
                f"Take one: nox -s quiz -- {first}   What you missed: nox -s quiz -- --missed",
                f"開始作答：nox -s quiz -- {first}　重做答錯的題目：nox -s quiz -- --missed",
            )
        )
    for problem in broken:
        console.print(f"[bold red]{tr('error', '錯誤')}[/] {escape(str(problem.cause))}", soft_wrap=True)
    return 2 if broken else 0


# --- one sitting --------------------------------------------------------------------------------


def _sitting(console: Console, quiz: Quiz, questions: Sequence[Question], seed: int) -> Score:
    console.rule(f"[bold]{escape(quiz_title(quiz.id, catalog.load(), learning_paths.load()))}[/]", align="left")
    count = len(questions)
    console.print(
        tr(
            f"{count} question{'s' * (count != 1)}. Ctrl-C stops; the answers you gave are kept, on this machine only.",
            f"共 {count} 題。按 Ctrl-C 停止；已作答的部分會保留，而且只存在這台機器上。",
        ),
        style="dim",
    )
    attempt, score, keeping = Attempt(quiz.id, seed), Score(), True
    for number, question in enumerate(questions, start=1):
        began = time.monotonic()
        shown = shuffled(question, quiz.id, seed)
        try:
            _show_question(console, question, shown, f"{number}/{count}")
            answer = _ask(console, question, shown)
        except (KeyboardInterrupt, EOFError):
            score.stopped = True
            break
        right = grade(question, answer)
        # Kept before it is explained: whoever leaves while reading has answered.
        made = attempt.answered(question.id, answer, right, time.monotonic() - began)
        keeping = keeping and record.keep(console, lambda _, made=made: made)
        score.answered, score.right = score.answered + 1, score.right + right
        _explain(console, question, answer, right, shown)
    _show_score(console, quiz, score, count)
    return score


def _show_question(console: Console, question: Question, shown: Sequence[int], number: str) -> None:
    console.print(Line.assemble("\n", wrapped(Line.assemble((number, "bold"), "  ", prose(question.prompt)), console.width - 1)))
    for place, index in enumerate(shown):
        console.print(_hanging(console, Line(letter(place), "bold cyan"), prose(question.choices[index].text)))


def _ask(console: Console, question: Question, shown: Sequence[int]) -> Answer:
    """Ask until there is an answer."""
    console.print(f"   [dim]{escape(str(how_to_answer(question)))}[/]")
    while True:
        console.print("   [bold]>[/] ", end="")
        typed = read_line()
        if not typed.strip():
            continue
        try:
            return parse(question, typed, shown)
        except NotAnAnswer as wrong:
            console.print(f"   [yellow]{escape(str(wrong.says))}[/]")


def _explain(console: Console, question: Question, answer: Answer, right: bool, shown: Sequence[int]) -> None:
    """The verdict, then the explanation of what was chosen and of what is right."""
    console.print(f"   [bold green]✓ {tr('Right.', '答對了。')}[/]" if right else f"   [bold red]✗ {tr('Not right.', '不對。')}[/]")
    if question.kind == "numeric":
        assert question.answer is not None and question.explanation is not None
        right_number = Line(f"{question.answer:,.10g} {question.unit}".strip(), "bold")
        console.print(_hanging(console, Line(" "), Line.assemble(right_number, "  ", prose(question.explanation))))
    elif question.kind == "order":
        for place, choice in enumerate(question.choices):
            mark = Line(str(place + 1), "bold" if answer[place] == place else "bold red")  # type: ignore[index]
            console.print(_hanging(console, mark, Line.assemble((str(choice.text), "bold"), "  ", prose(choice.explanation))))
    else:
        _explain_choices(console, question, answer, shown)


def _explain_choices(console: Console, question: Question, answer: Answer, shown: Sequence[int]) -> None:
    """What was chosen and what is right, with the letters that were shown."""
    overlooked = tr(" (this one too)", "（這個也對）") if question.kind == "multiple" else tr(" (this one)", "（正確答案）")
    for place, index in enumerate(shown):
        choice, chosen = question.choices[index], index in answer  # type: ignore[operator]
        if chosen or choice.correct:
            mark = Line(letter(place), "bold green" if choice.correct else "bold red")
            console.print(_hanging(console, mark, Line.assemble(prose(choice.explanation), ("" if chosen else overlooked, "dim"))))


def _show_score(console: Console, quiz: Quiz, score: Score, count: int) -> None:
    console.print()
    if score.stopped:
        console.print(tr(f"Stopped after {score.answered} of {count} questions.", f"共 {count} 題，答了 {score.answered} 題後停止。"))
    if score.answered:
        color = "green" if score.right == score.answered else "yellow"
        said = tr(f"{score.right} of {score.answered} right", f"{score.answered} 題中答對 {score.right} 題")
        console.print(f"[bold {color}]{said}[/]")
    if score.right < score.answered:
        console.print(
            tr(f"Try the missed ones again: nox -s quiz -- {quiz.id} --missed", f"重做答錯的題目：nox -s quiz -- {quiz.id} --missed"),
            soft_wrap=True,
        )


def _hanging(console: Console, mark: Line, text: Line) -> Line:
    """A paragraph whose lines stay right of its mark."""
    lines = wrapped(text, console.width - 6).split("\n")
    return Line("\n     ").join([Line.assemble("   ", mark, " ", lines[0]), *lines[1:]])
