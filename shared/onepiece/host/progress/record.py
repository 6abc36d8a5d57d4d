"""What the commands add to the progress of the learner. Never in the way: a problem is a note, the command goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from onepiece.course.errors import UserError
from onepiece.course.text import tr
from onepiece.host.progress.events import Event, of_checks, of_run


def record_run(console: Console, results: Mapping[str, Any]) -> None:
    """Add a run of a lab, as its `results.json` has it."""
    keep(console, lambda _: of_run(results))


def record_checks(console: Console, lab_id: str, outcomes: Iterable[Mapping[str, Any]], *, own: bool) -> None:
    """Add the exercises that pass for the first time; those of the reference solution (not `own`) are no progress."""

    def new(known: tuple[Event, ...]) -> list[Event]:
        passed = {event.values.get("exercise") for event in known if (event.kind, event.subject) == ("check_passed", lab_id)}
        return [event for event in of_checks(lab_id, outcomes) if event.values["exercise"] not in passed]

    if own:
        keep(console, new)


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
