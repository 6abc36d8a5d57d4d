"""The one file with everything a learner did: merged without loss, written by several at once, killed, damaged, newer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_course
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onepiece.course.errors import UserError
from onepiece.host.progress import files as progress_files
from onepiece.host.progress import store as progress_store
from onepiece.host.progress.events import KINDS, BadEvent, Conflict, Event, canonical, check, event, merge

# --- events, for property tests -----------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2), max_size=4)
TIMES = st.datetimes().map(lambda time: time.isoformat(timespec="milliseconds") + "+00:00")
# A kind of a later version is kept too.
KIND = st.sampled_from([*KINDS, "from_tomorrow"])
SUBJECTS = st.sampled_from(["1.3", "lab-1.5-flashattention", "lab-9.1-toy"])
EVENTS = st.builds(
    lambda number, time, kind, subject, values: Event(time, str(uuid.UUID(int=number)), kind, subject, canonical(values)),
    st.integers(0, 2**128 - 1),
    TIMES,
    KIND,
    SUBJECTS,
    VALUES,
)
# Events of one pool: what two machines have in common is equal, as it is after a merge.
POOLS = st.lists(EVENTS, max_size=12, unique_by=lambda found: found.id)


@st.composite
def machines(draw: st.DrawFn, count: int) -> list[frozenset[Event]]:
    """What `count` machines know, with overlaps."""
    pool = draw(POOLS)
    return [frozenset(found for found in pool if draw(st.booleans())) for _ in range(count)]


def same(events: object) -> frozenset[Event]:
    return frozenset(events)  # type: ignore[call-overload]


@given(machines(3))
def test_a_merge_is_the_union_in_any_order_and_however_often(parts: list[frozenset[Event]]) -> None:
    a, b, c = parts
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)
    assert merge(a, a) == merge(a)
    assert same(merge(a, b)) == a | b, "nothing is lost, nothing is invented"
    assert list(merge(a, b)) == sorted(a | b)


@given(EVENTS, VALUES)
def test_one_id_with_two_contents_is_a_conflict_from_either_side(found: Event, values: dict[str, object]) -> None:
    other = Event(found.at, found.id, found.kind, found.subject, canonical({**values, "edited": True}))
    for pair in itertools.permutations([found, other]):
        with pytest.raises(Conflict):
            merge(pair)


@given(EVENTS)
def test_an_event_is_one(found: Event) -> None:
    assert check(found) is found
    assert canonical(found.values) == found.data


def changed(found: Event, **parts: object) -> Event:
    return Event(**{**{name: getattr(found, name) for name in Event.__slots__}, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        {"id": "1"},
        {"id": str(uuid.UUID(int=2**122 - 5)).upper()},
        {"id": None},
        {"at": "yesterday"},
        {"at": "2026-01-01T00:00:00+00:00"},
        {"at": "2026-01-01T00:00:00.000+08:00"},
        {"at": "2026-01-01T00:00:00.000"},
        {"at": 0},
        {"kind": ""},
        {"kind": "Lab Run"},
        {"kind": None},
        {"subject": "../../etc/passwd"},
        {"subject": ""},
        {"subject": 1.3},
        {"data": "{"},
        {"data": "[]"},
        {"data": '{"b": 1}'},
        {"data": '{"b":NaN}'},
        {"data": '{"b":"\ud800"}'},
        {"data": b"{}"},
        {"data": None},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(parts: dict[str, object]) -> None:
    with pytest.raises(BadEvent):
        check(changed(event("lab_run", "lab-9.1-toy"), **parts))


def test_a_new_event_has_an_id_of_its_own_and_is_of_now() -> None:
    one, other = event("minutes", "1.3", minutes=1.5), event("minutes", "1.3", minutes=1.5)
    assert one.id != other.id
    assert one.values == {"minutes": 1.5}
    with pytest.raises(BadEvent):
        event("minutes", "1.3", minutes=float("nan"))


# --- the file -----------------------------------------------------------------------------------------------


def some(count: int, subject: str = "lab-9.1-toy") -> list[Event]:
    return [event("minutes", subject, minutes=float(number)) for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home with space" / "progress.sqlite"


def test_before_anything_was_done_there_is_nothing_and_reading_makes_no_file(path: Path) -> None:
    assert progress_store.read(path) == ()
    assert not path.exists()


def test_what_was_added_is_there_once_and_sorted_by_time(path: Path) -> None:
    events = some(5)
    assert progress_store.add(reversed(events), path) == 5
    assert progress_store.add(events[:3], path) == 0
    assert progress_store.add([*events, *some(1)], path) == 1
    assert list(progress_store.read(path)[:5]) == sorted(events)
    assert [found.name for found in path.parent.iterdir()] == ["progress.sqlite"], "one file, nothing beside it"


def test_events_can_be_neither_changed_nor_deleted(path: Path) -> None:
    progress_store.add(some(2), path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in ("DELETE FROM events", "UPDATE events SET subject = '1.3'"):
            with pytest.raises(sqlite3.IntegrityError, match="events are never"):
                connection.execute(statement)
    assert len(progress_store.read(path)) == 2


def test_an_addition_that_fails_half_way_adds_nothing(path: Path) -> None:
    progress_store.add(some(1), path)

    def half() -> Iterator[Event]:
        yield from some(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        progress_store.add(half(), path)
    assert len(progress_store.read(path)) == 1
    assert progress_store.add(some(1), path) == 1


@pytest.mark.fault("damaged-progress")
def test_an_event_that_was_edited_is_refused_and_nothing_of_its_file_is_added(path: Path) -> None:
    (kept,) = some(1)
    progress_store.add([kept], path)
    with pytest.raises(UserError) as caught:
        progress_store.add([*some(2), changed(kept, data='{"minutes":9000}')], path)
    assert caught.value.code == "progress-conflict"
    assert progress_store.read(path) == (kept,)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(machines(2))
def test_two_machines_that_exchange_exports_end_with_the_same_and_everything(tmp_path: Path, parts: list[frozenset[Event]]) -> None:
    place = tmp_path / uuid.uuid4().hex
    stores = [place / name / "progress.sqlite" for name in ("a", "b")]
    for store, known in zip(stores, parts, strict=True):
        progress_store.add(known, store)
    exports = [place / name for name in ("a.json", "b.json")]
    for store, file in zip(stores, exports, strict=True):
        progress_files.export(file, lambda store=store: progress_files.as_json(progress_store.read(store)))
    for _ in range(2):  # the second time changes nothing
        progress_store.add(progress_files.read_export(exports[1]), stores[0])
        progress_store.add(progress_files.read_export(exports[0]), stores[1])
    assert same(progress_store.read(stores[0])) == same(progress_store.read(stores[1])) == parts[0] | parts[1]
    assert same(merge(*(progress_files.read_export(file) for file in exports))) == parts[0] | parts[1]


# --- several writers, and violence --------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from onepiece.host.progress import store as progress_store
from onepiece.host.progress.events import event

path, name, batches, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for batch in range(batches):
    progress_store.add([event("minutes", name, batch=batch, number=number) for number in range(size)], path)
    print(batch, flush=True)
"""


def writer(path: Path, name: str, batches: int, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(batches), str(size)],
        env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")},
        stdout=subprocess.PIPE,
        text=True,
    )


def batches_of(path: Path, name: str) -> dict[int, int]:
    """Batch -> how many of its events are in the file."""
    found: dict[int, int] = {}
    for kept in progress_store.read(path):
        if kept.subject == name:
            found[kept.values["batch"]] = found.get(kept.values["batch"], 0) + 1
    return found


@pytest.mark.fault("killed-writer-of-progress")
def test_several_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    names = [f"lab-9.{number}-toy" for number in range(1, 5)]
    writers = [writer(path, name, batches=25, size=3) for name in names]  # the file itself is made by whoever comes first
    for process in writers:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert len(said.split()) == 25
    for name in names:
        assert batches_of(path, name) == dict.fromkeys(range(25), 3)


@pytest.mark.fault("killed-writer-of-progress")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_writer_that_is_killed_leaves_every_finished_addition_whole_and_no_other(path: Path) -> None:
    for round_number in range(6):
        process = writer(path, f"lab-9.{round_number}-toy", batches=100_000, size=20)
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(3 + 5 * round_number)]
        time.sleep(0.003 * round_number)  # somewhere in the next addition
        process.kill()
        said += [int(line) for line in process.stdout.read().split()]
        process.wait()
        found = batches_of(path, f"lab-9.{round_number}-toy")
        assert set(found.values()) == {20}, "all of an addition or nothing of it"
        assert set(said) <= set(found) <= set(range(len(said) + 1)), "what was said to be kept is kept"
    assert progress_store.add(some(1, "1.3"), path) == 1


BIG_WRITER = """
import itertools, sys, time
from pathlib import Path
from onepiece.host.progress import store as progress_store
from onepiece.host.progress.events import event

def endless():
    for number in itertools.count():
        if number == 30_000:  # more than fits in the cache, so that half of it is in the file already
            print("half way", flush=True)
            time.sleep(600)
        yield event("minutes", "1.3", number=number, padding="x" * 200)

progress_store.add(endless(), Path(sys.argv[1]))
"""


@pytest.mark.fault("killed-writer-of-progress")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_kill_in_the_middle_of_an_addition_is_undone_by_the_next_reader(path: Path) -> None:
    before = some(3)
    progress_store.add(before, path)
    size = path.stat().st_size
    process = subprocess.Popen(
        [sys.executable, "-c", BIG_WRITER, str(path)],
        env=os.environ | {"PYTHONPATH": str(toy_course.ROOT / "shared")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.stat().st_size > size, "half of the addition was in the file when it was killed"
    assert path.with_name("progress.sqlite-journal").stat().st_size > 0
    assert list(progress_store.read(path)) == sorted(before)
    assert not path.with_name("progress.sqlite-journal").exists()
    assert progress_store.add(some(1), path) == 1


def test_a_lock_that_is_never_given_back_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress_store.add(some(1), path)
    monkeypatch.setattr(progress_store, "PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError) as caught:
            progress_store.add(some(1), path)
        assert caught.value.code == "progress-busy"
        assert len(progress_store.read(path)) == 1, "reading goes on"
        other.execute("ROLLBACK")


# --- files that are not ours to touch -----------------------------------------------------------------------


def damaged_in_the_middle(path: Path) -> None:
    progress_store.add(some(500), path)
    content = bytearray(path.read_bytes())
    content[8192:12288] = b"\xa5" * 4096
    path.write_bytes(content)


def cut(path: Path) -> None:
    progress_store.add(some(500), path)
    path.write_bytes(path.read_bytes()[:9000])


def with_sql(*statements: str, ours: bool = True) -> object:
    def make(path: Path) -> None:
        if ours:
            progress_store.add(some(3), path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return make


UNREADABLE = {
    "text": (lambda path: path.write_text("my notes", encoding="utf-8"), "progress-damaged"),
    "long text": (lambda path: path.write_text("my notes\n" * 1000, encoding="utf-8"), "progress-damaged"),
    "damaged in the middle": (damaged_in_the_middle, "progress-damaged"),
    "cut short": (cut, "progress-damaged"),
    "another program's": (with_sql("CREATE TABLE bookmarks (url TEXT)", ours=False), "progress-damaged"),
    "without its table": (with_sql("DROP TABLE events"), "progress-damaged"),
    "of a later version": (with_sql("PRAGMA user_version = 2"), "progress-newer"),
    "with an event that is none": (with_sql("INSERT INTO events VALUES ('1', 'now', 'lab_run', 'x', '{}')"), "progress-damaged"),
}


@pytest.mark.fault("damaged-progress")
@pytest.mark.parametrize(("make", "code"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_understood_is_named_and_left_as_it_is(path: Path, make, code: str) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir()
    make(path)
    content = path.read_bytes()
    with pytest.raises(UserError) as caught:
        progress_store.read(path)
    assert caught.value.code == code
    assert str(path) in caught.value.cause.en
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == ["progress.sqlite"]


@pytest.mark.fault("damaged-progress")
@pytest.mark.parametrize("make", [make for name, (make, _) in UNREADABLE.items() if name != "with an event that is none"])
def test_nothing_is_added_to_a_file_that_cannot_be_understood(path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir()
    make(path)
    content = path.read_bytes()
    with pytest.raises(UserError):
        progress_store.add(some(1), path)
    assert path.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_place_that_cannot_be_written_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    with pytest.raises(UserError) as caught:
        progress_store.add(some(1), path)
    path.parent.chmod(0o700)
    assert caught.value.code == "no-write"


# --- exports ------------------------------------------------------------------------------------------------


def test_an_export_never_replaces_a_file(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "notes.json"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        progress_files.export(target, lambda: progress_files.as_json(()))
    assert caught.value.code == "export-exists"
    assert target.read_text(encoding="utf-8") == "mine"
    with pytest.raises(UserError, match="its directory does not exist"):
        progress_files.export(tmp_path / "nowhere" / "x.json", lambda: "")


def test_another_machines_database_can_be_imported_itself(path: Path, tmp_path: Path) -> None:
    events = some(4)
    progress_store.add(events, path)
    assert list(progress_files.read_export(path)) == sorted(events)


GOOD_EXPORT = progress_files.as_json(some(2))
BAD_EXPORTS = {
    "not there": (None, "No such file"),
    "empty": ("", "no JSON export"),
    "cut short": (GOOD_EXPORT[:-30], "no JSON export"),
    "other JSON": ('{"events": []}', "no export of progress"),
    "a list": ("[]", "no export of progress"),
    "of a later version": (GOOD_EXPORT.replace('"version": 1', '"version": 2'), "version 2"),
    "an event without time": (GOOD_EXPORT.replace('"at"', '"when"', 1), "event 1: not id, at"),
    "an event with half a character": (GOOD_EXPORT.replace('"minutes": 1.0', '"minutes": "\\ud800"'), "event 2"),
    "an event with no id": (GOOD_EXPORT.replace(json.loads(GOOD_EXPORT)["events"][1]["id"], "7"), "event 2: id '7'"),
    "deeply nested": ("[" * 100_000, "no JSON export"),
}


@pytest.mark.parametrize(("content", "says"), BAD_EXPORTS.values(), ids=BAD_EXPORTS)
def test_what_cannot_be_imported_is_refused_with_the_reason(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "export.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        progress_files.read_export(file)
    assert caught.value.code == "bad-import"
    assert says in caught.value.cause.en


@given(POOLS)
def test_every_event_is_a_row_of_the_csv(events: list[Event]) -> None:
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(progress_files.as_csv(events), newline="")))
    assert [row["id"] for row in rows] == [found.id for found in events]
    assert all(not (cell or "").startswith(("=", "@")) for row in rows for cell in list(row.values())[4:])
