"""What the commands add to the progress of the learner. Never in the way: a problem is a note, the command goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece.course.errors import UserError
from onepiece.course.text import current_language, tr
from onepiece.host.progress.events import Event, of_checks, of_run
from onepiece.host.progress.scores import Scored, best, scored


def record_run(console: Console, results: Mapping[str, Any]) -> None:
    """Add a run of a lab, as its `results.json` has it, and say its score beside the best one so far."""
    earlier: list[Event] = []
    made: list[Event] = []

    def new(known: tuple[Event, ...]) -> list[Event]:
        earlier.extend(known)
        made.extend(of_run(results))
        return made

    if keep(console, new) and (one := scored(made[0])) is not None:
        _say_score(console, results["score"]["objective"][current_language()], one, best(earlier).get(one.comparable))


def _say_score(console: Console, objective: str, one: Scored, before: Scored | None) -> None:
    if before is None:
        beside = tr("the first one", "第一次的成績")
    elif one.beats(before):
        beside = tr(f"the best so far; before: {before}", f"目前最佳；之前是 {before}")
    else:
        beside = tr(f"best so far {before}", f"目前最佳 {before}")
    where = f"{one.machine}{tr(', ', '，')}{one.whose}"
    line = tr(f"score: [bold]{one}[/] ({escape(beside)})", f"成績：[bold]{one}[/]（{escape(beside)}）")
    console.print(f"{line}  {escape(objective)}  [dim]{escape(where)}[/]", soft_wrap=True)


def record_checks(console: Console, lab_id: str, outcomes: Iterable[Mapping[str, Any]], *, own: bool) -> set[int]:
    """Add the exercises that pass for the first time, and return them; those of the reference solution (not `own`) are no progress."""
    made: list[Event] = []

    def new(known: tuple[Event, ...]) -> list[Event]:
        passed = {event.values.get("exercise") for event in known if (event.kind, event.subject) == ("check_passed", lab_id)}
        made.extend(event for event in of_checks(lab_id, outcomes) if event.values["exercise"] not in passed)
        return made

    if own:
        keep(console, new)
    return {event.values["exercise"] for event in made}


def keep(console: Console, make: Callable[[tuple[Event, ...]], list[Event]]) -> bool:
    """Add what `make` makes of the events that there are; False, and a note, if that cannot be done."""
    try:
        from onepiece.host.progress import store  # here: a Python without SQLite runs labs all the same

        made = make(store.read())
        if made:
            store.add(made)
    except Exception as error:  # whatever it is, a run that took minutes must not fail for it
        cause = str(error.cause) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        console.print(f"[yellow]{tr('note', '提醒')}[/] {tr('progress was not kept', '進度沒有記錄下來')}: {escape(cause)}", soft_wrap=True)
        return False
    return True
