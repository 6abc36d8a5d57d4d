"""`progress.sqlite`: the events of one learner, in one file, on this machine only.

A rollback journal, not WAL: WAL does not work on network file systems and keeps the latest events in a second file, which
whoever copies the one file leaves behind. Each addition is one transaction that takes the write lock at its beginning, so
two labs that end at once wait for each other, and a process that is killed leaves the state before or after it.

A file that cannot be understood is never written to: damaged, another program's, or from a later version of the course.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from onepiece.course.errors import UserError
from onepiece.course.places import HOME
from onepiece.host.progress.events import BadEvent, Event, check

PATH = HOME / "progress.sqlite"
APPLICATION_ID = 0x0E9E1ECE  # says whose file it is (PRAGMA application_id)
FORMAT = 1  # of the table below (PRAGMA user_version)
PATIENCE = 10.0  # seconds to wait for another writer, less than nox waits for us after Ctrl-C

_CREATE = (
    """CREATE TABLE events (
        id TEXT PRIMARY KEY NOT NULL, at TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, data TEXT NOT NULL
    )""",
    "CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END",
    "CREATE TRIGGER events_stand BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)


def read(path: Path = PATH) -> tuple[Event, ...]:
    """All events, sorted by time; none if there is no file yet, which is not made.

    Raises:
        UserError: "progress-damaged", "progress-newer", "progress-busy", "no-write" (a killed writer left a journal that
            must be undone first).
    """
    if not path.exists():
        return ()
    with _connected(path, "rw") as connection:
        return _events(connection, path) if _format(connection, path) else ()


def add(events: Iterable[Event], path: Path = PATH) -> int:
    """Add events, all or none of them; one that is there already is not added again. Returns how many were new.

    Raises:
        UserError: as for `read`; "disk-full"; "progress-conflict": another event has that id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _connected(path, "rwc") as connection, _transaction(connection):
        if not _format(connection, path):
            for statement in _CREATE:
                connection.execute(statement)
        return sum(_insert(connection, event, path) for event in events)


def _insert(connection: sqlite3.Connection, event: Event, path: Path) -> bool:
    row = (event.id, event.at, event.kind, event.subject, event.data)
    if connection.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", row).rowcount:
        return True
    if connection.execute("SELECT * FROM events WHERE id = ?", row[:1]).fetchone() != row:
        raise UserError("progress-conflict", path=path, event=event.id)
    return False


def _events(connection: sqlite3.Connection, path: Path) -> tuple[Event, ...]:
    rows = connection.execute("SELECT at, id, kind, subject, data FROM events").fetchall()
    try:
        return tuple(sorted(check(Event(*row)) for row in rows))
    except BadEvent as error:
        raise UserError("progress-damaged", path=path, reason=error) from None


def _format(connection: sqlite3.Connection, path: Path) -> int:
    """The format of the file, 0 if it is empty; refuses what cannot be understood."""
    for (said,) in connection.execute("PRAGMA quick_check(1)"):
        if said != "ok":
            raise UserError("progress-damaged", path=path, reason=said)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not names and not application and not found:
        return 0
    if application != APPLICATION_ID:
        raise UserError("progress-damaged", path=path, reason="it is the database of another program")
    if found > FORMAT:
        raise UserError("progress-newer", path=path, found=found, known=FORMAT)
    if found < 1 or "events" not in names:
        raise UserError("progress-damaged", path=path, reason="it has no table of events")
    return found


@contextlib.contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with _translated(path), contextlib.closing(_connect(path, mode)) as connection:
        connection.execute("PRAGMA synchronous = FULL")  # on disk before `add` returns
        yield connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # isolation_level=None: transactions begin where we say, not where the module guesses.
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # also Ctrl-C
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the user reads them; what is none of theirs goes on as it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise UserError("progress-busy", path=path) from None
        if name.startswith("SQLITE_FULL"):
            raise UserError("disk-full", path=path) from None
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
            raise UserError("no-write", path=path, reason=error) from None
        raise UserError("progress-damaged", path=path, reason=error) from None
