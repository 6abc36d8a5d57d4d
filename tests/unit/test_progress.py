"""What is recorded, what it adds up to, what comes next, and that recording never fails a run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onepiece.course import catalog, learning_paths
from onepiece.course.catalog import Course, Gate, Lab, Profile
from onepiece.course.errors import UserError
from onepiece.course.learning_paths import LearningPath, Stage, Syllabus
from onepiece.course.places import ROOT
from onepiece.course.text import Text
from onepiece.host.progress import record, scores, view
from onepiece.host.progress import store as progress_store
from onepiece.host.progress.achievements import achievements
from onepiece.host.progress.events import Attempt, Event, event, of_checks, of_run
from onepiece.host.progress.page import render
from onepiece.host.progress.state import Material, State, recommend, state
from onepiece.host.quiz.history import standing_of

# --- a small course -----------------------------------------------------------------------------------------


def lab(lab_id: str, *requires: str, chapter: str = "1.3", paths: tuple[str, ...] = ()) -> Lab:
    gate = Gate("error", Text("exact", "精確"), max=0.1, control="wrong")
    profiles = {"cpu": Profile(1.0, {})}
    title = Text(lab_id.title(), f"實驗{lab_id}")
    return Lab(lab_id, Path("/nowhere") / lab_id, title, title, chapter, "core", ("01-a",), "train", profiles, (gate,), requires, paths)


A, B, C, D = "lab-1.1-a", "lab-1.2-b", "lab-1.3-c", "lab-2.1-d"
COURSE = Course((lab(A, chapter="1.1"), lab(B, A, chapter="1.2"), lab(C, chapter="1.3"), lab(D, B, chapter="2.1")))
SYLLABUS = Syllabus(
    modules={"1": Text("Training", "訓練"), "2": Text("Serving", "服務")},
    chapters={"1.3": Text("Alignment", "對齊")},
    planned=(A, B, C, D, "lab-2.2-e"),
    paths=(
        LearningPath(
            "engineer", Text("Engineer", "工程師"), Text("Build.", "動手做。"), (Stage(Text("First", "先"), ("1.3",), (D, "lab-2.2-e")),)
        ),
    ),
)
MATERIAL = Material(COURSE, SYLLABUS, {"1.3": ("x", "y"), A: ("p", "q", "r")}, {A: 2, B: 0, C: 1, D: 0}, frozenset({"1.3"}))


def results(lab_id: str, status: str = "passed", **changes: Any) -> dict[str, Any]:
    gate = {"metric": "error", "passed": status == "passed", "reason": None, "control": {"variant": "wrong", "value": 1.0, "missed": True}}
    made = {
        "lab": lab_id,
        "status": status,
        "profile": "cpu",
        "device": "cpu",
        "mine": False,
        "seconds": 90.0,
        "predictions": [],
        "gates": [gate],
    }
    return made | changes


def ran(lab_id: str, status: str = "passed", **changes: Any) -> list[Event]:
    return of_run(results(lab_id, status, **changes))


def checked(lab_id: str, *numbers: int) -> list[Event]:
    return of_checks(lab_id, [{"exercise": number, "level": "core", "status": "passed"} for number in numbers])


def answered(quiz: str, **right: bool) -> list[Event]:
    sitting = Attempt(quiz, seed=1)
    return [made for question, good in right.items() for made in sitting.answered(question, frozenset({0}), good, 30.0)]


def seen(*parts: list[Event]) -> State:
    return state(MATERIAL, in_order(*parts))


def in_order(*parts: list[Event]) -> list[Event]:
    """Events as if each part had happened a day after the one before it."""
    moved = [(day, made) for day, part in enumerate(parts, start=1) for made in part]
    return [Event(f"2026-01-{day:02d}T00:00:00.000+00:00", made.id, made.kind, made.subject, made.data) for day, made in moved]


def earned(*parts: list[Event]) -> dict[str, tuple[str, ...]]:
    events = in_order(*parts)
    return {one.id: one.where for one in achievements(state(MATERIAL, events), events) if one.where}


# --- what is recorded ---------------------------------------------------------------------------------------


def test_a_run_is_itself_its_gates_and_its_minutes() -> None:
    predictions = [{"metric": "error", "predicted": 0.1, "measured": "inf"}]
    found = ran(A, mine=True, predictions=predictions)
    assert [made.kind for made in found] == ["lab_run", "gate", "minutes"]
    run, gate, spent = (made.values for made in found)
    assert run == {"status": "passed", "profile": "cpu", "device": "cpu", "mine": True, "seconds": 90.0, "predictions": predictions}
    assert gate == {"run": found[0].id, "metric": "error", "passed": True, "control": "wrong", "missed": True}
    assert spent == {"minutes": 1.5, "activity": "run"}


def test_a_gate_that_was_not_reached_is_no_event_and_one_without_control_has_none() -> None:
    unreached = {"metric": "late", "passed": None, "reason": "not run", "control": None}
    plain = {"metric": "plain", "passed": False, "reason": None, "control": None}
    gates = [made.values for made in ran(A, "failed", gates=[unreached, plain]) if made.kind == "gate"]
    assert [(gate["metric"], gate["control"], gate["missed"]) for gate in gates] == [("plain", None, None)]


def test_published_results_can_be_recorded(tmp_path: Path) -> None:
    """Whatever `results.json` holds today, of every lab that published some."""
    for file in (Path(catalog.LABS)).glob("*/results/[cg]pu-*.json"):
        assert of_run(json.loads(file.read_text(encoding="utf-8")))[0].kind == "lab_run"


# --- scores -------------------------------------------------------------------------------------------------


def scoring(value: float | str, status: str = "passed", better: str = "higher", **changes: Any) -> dict[str, Any]:
    objective = {"en": "How fast", "zh-TW": "多快"}
    score = {"metric": "speed", "objective": objective, "unit": "x", "better": better, "value": value}
    hardware = {"processor": "A processor", "gpus": ["NVIDIA H100 80GB HBM3, 580.159.04"]}
    return results(A, status, score=score, hardware=hardware, **changes)


def bests(*runs: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one.machine, one.whose, str(one)) for one in scores.best(in_order(*(of_run(run) for run in runs))).values()]


def test_a_run_of_a_lab_with_a_score_keeps_it_with_the_machine() -> None:
    values = of_run(scoring(1.5, device="cuda"))[0].values
    assert values["score"] == {"metric": "speed", "value": 1.5, "unit": "x", "better": "higher"}
    assert values["machine"] == "NVIDIA H100 80GB HBM3", "without its driver"
    assert of_run(scoring(1.5))[0].values["machine"] == "A processor", "a GPU that the run did not use is not its machine"
    assert "score" not in of_run(results(A, score=None))[0].values


@pytest.mark.parametrize(("better", "wanted"), [("higher", "3 x"), ("lower", "1 x")])
def test_the_best_score_is_the_one_that_the_lab_calls_better(better: str, wanted: str) -> None:
    assert bests(*(scoring(value, better=better) for value in (2.0, 3.0, 1.0))) == [("A processor", "reference", wanted)]


def test_machines_authors_and_profiles_do_not_compare() -> None:
    runs = [scoring(1.0), scoring(2.0, mine=True), scoring(3.0, device="cuda"), scoring(4.0, device="cuda", profile="gpu")]
    assert [text for _, _, text in bests(*runs)] == ["1 x", "2 x", "3 x", "4 x"]


def test_a_run_that_missed_a_gate_has_no_score_and_neither_has_nan() -> None:
    assert bests(scoring(9.0, "failed"), scoring(9.0, "incomplete"), scoring("nan"), scoring(1.0)) == [("A processor", "reference", "1 x")]


@pytest.mark.parametrize("score", [5, {}, {"better": "higher"}, {"better": "up", "value": 1, "metric": "m", "unit": ""}, {"value": "much"}])
def test_a_score_that_cannot_be_read_is_left_out(score: object) -> None:
    made = event("lab_run", A, status="passed", profile="cpu", machine="m", mine=False, score=score)
    assert scores.best([made]) == {}


@pytest.mark.usefixtures("store")
def test_the_score_is_said_beside_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIECE_LANG", "en")

    def said(run: dict[str, Any]) -> str:
        console = Console(file=io.StringIO(), width=200)
        record.record_run(console, run)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "score: 2 x (the first one)  How fast  A processor, reference" in said(scoring(2.0))
    assert "score: 1 x (best so far 2 x)" in said(scoring(1.0))
    assert "score: 3 x (the best so far; before: 2 x)" in said(scoring(3.0))
    assert "score: 3 x (best so far 3 x)" in said(scoring(3.0))
    assert said(scoring(9.0, "failed")) == said(results(A)) == ""


def test_progress_shows_the_best_scores() -> None:
    console = Console(file=io.StringIO(), width=120)
    view.show_scores(console, scores.best(of_run(scoring(2.0, mine=True))).values())
    assert re.search(rf"{A}\s+speed\s+cpu\s+A processor\s+(mine|我的)\s+2 x", console.file.getvalue())  # type: ignore[attr-defined]
    empty = Console(file=io.StringIO())
    view.show_scores(empty, [])
    assert empty.file.getvalue() == ""  # type: ignore[attr-defined]


def test_only_exercises_that_pass_are_recorded() -> None:
    outcomes = [
        {"exercise": number, "level": "core", "status": status} for number, status in enumerate(["passed", "open", "failed", "error"], 1)
    ]
    assert [made.values["exercise"] for made in of_checks(A, outcomes)] == [1]


def test_an_answer_is_kept_with_what_was_given_and_a_long_absence_is_not_time_spent() -> None:
    sitting = Attempt("1.3", seed=3)
    events = [
        *sitting.answered("x", frozenset({2, 0}), False, 10_000.0),
        *sitting.answered("y", (1, 0), True, 6.0),
        *sitting.answered("z", 4.0, True, 0.0),
    ]
    answers = [made.values for made in events if made.kind == "quiz_answer"]
    assert [answer["given"] for answer in answers] == [[0, 2], [1, 0], 4.0]
    assert {answer["attempt"] for answer in answers} == {sitting.id}
    assert [made.values["minutes"] for made in events if made.kind == "minutes"] == [10.0, 0.1, 0.0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.sqlite"
    read, add = progress_store.read, progress_store.add
    monkeypatch.setattr(progress_store, "read", lambda: read(path))
    monkeypatch.setattr(progress_store, "add", lambda events: add(events, path))
    monkeypatch.setenv("ONEPIECE_LANG", "en")
    return path


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_exercise_counts_once_and_only_in_the_learners_own_code(store: Path, console: Console) -> None:
    outcomes = [{"exercise": 1, "level": "core", "status": "passed"}, {"exercise": 2, "level": "core", "status": "open"}]
    record.record_checks(console, A, outcomes, own=False)
    assert not store.exists()
    for _ in range(2):
        record.record_checks(console, A, outcomes, own=True)
    outcomes[1]["status"] = "passed"
    record.record_checks(console, A, outcomes, own=True)
    assert [made.values["exercise"] for made in progress_store.read()] == [1, 2]
    assert output(console) == ""


@pytest.mark.parametrize("content", ["not a database", None], ids=["damaged", "a directory"])
def test_what_cannot_be_recorded_is_a_note_and_fails_nothing(store: Path, console: Console, content: str | None) -> None:
    if content is None:
        store.mkdir()
    else:
        store.write_text(content, encoding="utf-8")
    record.record_run(console, results(A))
    assert "note progress was not kept: " in output(console)
    assert str(store) in output(console)
    assert "Traceback" not in output(console)
    assert content is None or store.read_text(encoding="utf-8") == content


def test_results_of_another_shape_are_a_note_too(store: Path, console: Console) -> None:
    record.record_run(console, {"lab": A})
    assert "progress was not kept: KeyError" in output(console)


# --- what it adds up to -------------------------------------------------------------------------------------


def test_nothing_done_is_nothing_passed() -> None:
    found = seen()
    assert [module.id for module in found.modules] == ["1", "2"]
    assert [module.upcoming for module in found.modules] == [(), ("lab-2.2-e",)]
    assert not any(each.started or each.passed for each in found.labs.values())
    assert earned() == {}


def test_a_lab_that_passed_once_stays_passed_and_shows_its_last_run() -> None:
    found = seen(ran(A), ran(A, "failed"), checked(A, 1)).labs[A]
    assert (found.runs, found.passed, found.last) == (2, True, "failed")
    assert (found.exercises, found.exercises_passed, found.minutes) == (2, {1}, 3.0)


def test_the_last_answer_counts_and_questions_that_are_gone_do_not() -> None:
    events = in_order(answered("1.3", x=False, y=True, gone=False), answered("1.3", x=True), answered(A, p=False))
    stands = standing_of("1.3", ("x", "y", "new"), events)
    assert (stands.right, stands.missed, stands.ever_missed, stands.attempts) == ({"x", "y"}, frozenset(), {"x"}, 2)
    assert standing_of(A, ("p",), events).missed == {"p"}


def test_events_of_a_later_version_change_nothing_and_break_nothing() -> None:
    strange = [
        event("dreamt", A, of="sheep"),
        event("lab_run", A),
        event("gate", A, run=None, control="x"),
        event("check_passed", A, exercise="one"),
        event("quiz_answer", "1.3"),
        event("minutes", A, minutes="many"),
        event("lab_run", "lab-9.9-gone", status="passed", predictions=[{}, 3, None]),
    ]
    found = seen(strange)
    assert found.labs[A].runs == 1
    assert not found.labs[A].passed
    assert earned(strange) == {}


# --- what comes next ----------------------------------------------------------------------------------------

ORDER = (A, B, C, D)


def next_lab(found: State, order: tuple[str, ...] = ORDER) -> str | None:
    advice = recommend(found, order)
    return advice.lab and advice.lab.id


def test_the_first_lab_comes_first_and_a_lab_waits_for_what_it_needs() -> None:
    assert next_lab(seen()) == A
    assert next_lab(seen(), (D, C)) == A, "a path gets what its labs need"
    assert next_lab(seen(ran(A))) == B
    assert recommend(seen(ran(A)), ORDER).reason.en == "What it needs is done (1.1)."
    assert next_lab(seen(ran(A), ran(B)), (D, C)) == D


@pytest.mark.fault("two-answers-where-to-start")
def test_the_lab_to_start_with_comes_first_as_long_as_nothing_was_begun() -> None:
    advice = recommend(seen(), ORDER, C)
    assert advice.lab is not None and advice.lab.id == C
    advice = recommend(seen(ran(A)), ORDER, C)
    assert advice.lab is not None and advice.lab.id == B
    advice = recommend(seen(), (A, B), C)
    assert advice.lab is not None and advice.lab.id == A, "a path without it has its own beginning"


def test_a_lab_that_was_begun_comes_before_others() -> None:
    advice = recommend(seen(ran(C, "failed")), ORDER)
    assert advice.lab is not None and advice.lab.id == C
    assert advice.command == f"nox -s {C}"
    assert "last run is failed" in advice.reason.en
    assert next_lab(seen(checked(C, 1))) == C


def test_what_measures_a_missed_question_comes_first() -> None:
    missed = answered("1.3", x=False, y=False)
    advice = recommend(seen(missed), ORDER)
    assert advice.lab is not None and advice.lab.id == C
    assert "2 questions, chapter 1.3" in advice.reason.en
    assert next_lab(seen(missed, answered("1.3", x=True, y=True))) == A


def test_a_missed_question_never_jumps_over_a_prerequisite() -> None:
    course = Course((lab(A, chapter="1.1"), lab(B, A, chapter="1.3")))
    material = Material(course, Syllabus(), {"1.3": ("x",)}, {})
    assert next_lab(state(material, answered("1.3", x=False))) == A


def test_after_every_lab_come_open_exercises_and_then_nothing() -> None:
    passed = [made for lab_id in ORDER for made in ran(lab_id)]
    advice = recommend(seen(passed), ORDER)
    assert advice.command == f"nox -s start -- {A}"
    assert "2 of its exercises are open" in advice.reason.en
    assert next_lab(seen(passed, checked(A, 1, 2), checked(C, 1))) is None
    assert "still being written" in recommend(seen(), ("lab-2.2-e",)).reason.en


# --- achievements -------------------------------------------------------------------------------------------


def with_gates(**missed: bool | None) -> list[dict[str, Any]]:
    return [
        {"metric": name, "passed": True, "reason": None, "control": {"variant": "w", "value": 1.0, "missed": value}}
        for name, value in missed.items()
    ]


def test_running_a_lab_is_no_achievement_but_controls_that_all_missed_are() -> None:
    assert earned(ran(A, "failed")) == {}
    assert earned(ran(A, gates=[])) == {}
    assert earned(ran(A, gates=with_gates(one=True, other=None))) == {}, "a control that was not judged did not miss"
    assert earned(ran(A, "failed", gates=with_gates(one=True, other=False))) == {}
    assert earned(ran(A, gates=with_gates(one=True, other=True))) == {"sharp-gates": (A,)}
    assert earned(ran(A), ran(A), ran(B)) == {"sharp-gates": (A, B)}


def test_own_code_is_an_achievement_when_all_of_it_is_right() -> None:
    assert earned(checked(A, 1)) == {}
    assert earned(checked(A, 1), checked(A, 2)) == {"own-exercises": (A,)}
    assert earned(ran(A, mine=True, gates=[])) == {"own-lab": (A,)}
    assert earned(ran(A, "failed", mine=True, gates=[])) == {}


@pytest.mark.parametrize(
    ("pairs", "is_one"),
    [
        ([(1.05, 1.0), (9.1, 10.0), (-2.0, -2.1)], True),
        ([(1.05, 1.0), (9.1, 10.0), (2.0, -2.0)], False),
        ([(0.0, 0.0), (5.0, 5.0), (1.0, 1.0)], True),
        ([(1.0, "inf"), (1.0, "nan"), (1.0, None), (1.0, 1.0)], False),
        ([(1.0, 1.0)] * 2, False),
    ],
)
def test_good_guesses_are_an_achievement(pairs: list[tuple[float, Any]], is_one: bool) -> None:
    predictions = [{"metric": f"m{index}", "predicted": said, "measured": value} for index, (said, value) in enumerate(pairs)]
    assert earned(ran(A, predictions=predictions, gates=[])) == ({"good-guesses": (A,)} if is_one else {})


def test_quizzes_are_an_achievement_without_a_miss_or_with_every_miss_put_right() -> None:
    assert earned(answered("1.3", x=True)) == {}
    assert earned(answered("1.3", x=True, y=True)) == {"at-first-try": ("1.3",)}
    assert earned(answered("1.3", x=False, y=True)) == {}
    assert earned(answered("1.3", x=False, y=True), answered("1.3", x=True)) == {"put-right": ("1.3",)}


def test_two_scales_and_whole_modules() -> None:
    assert earned(ran(A, gates=[]), ran(A, profile="gpu", gates=[])) == {"two-scales": (A,)}
    everything = [made for lab_id in (A, B, C, D) for made in ran(lab_id, gates=[])]
    assert "module" not in earned(everything), "exercises are open"
    assert earned(everything, checked(A, 1, 2), checked(C, 1))["module"] == ("1",), "module 2 has a lab that is still to come"


# --- what is shown ------------------------------------------------------------------------------------------

HISTORY = in_order(ran(A), checked(A, 1, 2), ran(B, "failed"), answered("1.3", x=False, y=True))


def shown(language: str, monkeypatch: pytest.MonkeyPatch, events: list[Event] = HISTORY) -> str:
    monkeypatch.setenv("ONEPIECE_LANG", language)
    console = Console(file=io.StringIO(), width=80)
    found = state(MATERIAL, events)
    view.show_modules(console, found)
    view.show_labs(console, found)
    view.show_path(console, SYLLABUS.path("engineer"), MATERIAL, found)
    view.show_advice(console, recommend(found, ORDER), found)
    view.show_achievements(console, achievements(found, events))
    return output(console)


def test_the_terminal_shows_modules_labs_path_advice_and_achievements(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown("en", monkeypatch)
    assert re.search(r"1  Training +█+░+ 1/3 +2 +2/3 +1/5 ✗1 +4 *\n", said)
    assert re.search(r"2  Serving +░+ 0/1 \+1 +0 +— +— +— *\n", said)
    assert re.search(r"✓ +lab-1\.1-a +passed +1 +2/2 +0/3 +1\.5", said)
    assert re.search(r"▶ +lab-1\.2-b +failed", said)
    assert "lab-1.3-c" not in said, "only what was begun"
    assert re.search(r"▶ Chapter 1\.3  Alignment +quiz 1/2 ✗1", said)
    assert re.search(r"○ lab-2\.2-e +upcoming", said)
    assert "Next  nox -s lab-1.2-b" in said
    assert "nox -s quiz -- 1.3 --missed  1 missed question\n" in said
    assert "…" not in said, "80 columns are enough"
    assert re.search(r"★ Every control missed +lab-1\.1-a", said)
    assert re.search(r"☆ A whole lab on your own code +a passed run with --mine", said)


def test_it_speaks_chinese_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown("zh-TW", monkeypatch)
    for words in ("學習進度", "訓練", "還在編寫中的實驗", "已開始的實驗", "未通過", "第 1.3 章", "下一步", "1 題答錯", "成就"):
        assert words in said
    assert not re.search(r"\b(upcoming|passed|missed|quiz|exercises|minutes)\b", said.replace("nox -s quiz", "").replace("--missed", ""))


def test_the_page_has_both_languages_and_needs_no_network() -> None:
    found = state(MATERIAL, HISTORY)
    page = render(found, achievements(found, HISTORY), recommend(found, ORDER))
    for words in ("Training", "訓練", "lab-1.1-a", "Every control missed", "對照組全都過不了關卡", "nox -s lab-1.2-b", "1/3"):
        assert words in page
    assert not re.search(r"https?://|src=", page)


@pytest.mark.fault("a-bar-of-nothing")
def test_where_there_is_nothing_to_count_there_is_no_bar() -> None:
    assert view.bar(0, 0) == ""
    assert [view.bar(done, 20).count("█") for done in (0, 1, 10, 19, 20)] == [0, 1, 5, 9, 10], "full only when all is done"
    material = Material(Course(()), Syllabus({"0": Text("Basics", "基礎")}), {}, {})
    found = state(material, [])
    assert "<progress" not in render(found, achievements(found, []), recommend(found, ()))


@pytest.mark.parametrize("events", [[], HISTORY], ids=["nothing", "something"])
def test_an_empty_course_can_be_shown(monkeypatch: pytest.MonkeyPatch, events: list[Event]) -> None:
    found = state(Material(Course(()), Syllabus(), {}, {}), events)
    console = Console(file=io.StringIO(), width=120)
    view.show_modules(console, found)
    view.show_advice(console, recommend(found, ()), found)
    assert render(found, achievements(found, events), recommend(found, ()))


# --- learning paths -----------------------------------------------------------------------------------------

REAL = catalog.load()


@pytest.mark.fault("two-answers-where-to-start")
@pytest.mark.parametrize("page", ["README.md", "README.zh-TW.md", "docs/index.en.md", "docs/index.zh-TW.md", "docs/guides/first-lab.en.md"])
def test_every_page_begins_with_the_same_lab_and_it_needs_no_other(page: str) -> None:
    start = learning_paths.load(labs=REAL.labs).start
    assert not REAL.lab(start).requires
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search(r"nox -s (lab-[\w.-]+)", text)[1] == start  # type: ignore[index]
    assert {said[1] for said in re.finditer(r"(?:Start with|從) (lab-[\w.-]+)", text)} <= {start}
    if page.startswith("README"):
        assert "git clone" in text and "nox -s feedback" in text


PATHS = learning_paths.load(labs=REAL.labs)


def test_the_paths_of_the_course_are_whole() -> None:
    assert [path.id for path in PATHS.paths] == list(catalog.PATHS)
    assert set(PATHS.modules) == {lab_id.removeprefix("lab-").split(".")[0] for lab_id in PATHS.planned}
    for path in PATHS.paths:
        assert path.labs
        chapters = [chapter for stage in path.stages for chapter in stage.chapters]
        assert len(chapters) == len(set(chapters))
        for stage in path.stages:
            assert stage.labs or stage.chapters


def test_planned_labs_are_in_course_order_and_existing_ones_have_the_planned_id() -> None:
    numbers = [[int(part) for part in lab_id.split("-")[1].split(".")] for lab_id in PATHS.planned]
    assert numbers == sorted(numbers)
    planned = {lab_id.split("-")[1]: lab_id for lab_id in PATHS.planned}
    for existing in [*(found.id for found in REAL.labs), *REAL.problems]:
        number = existing.split("-")[1]
        assert planned.get(number, existing) == existing, f"docs/paths.toml plans {planned.get(number)} with that number"


def test_on_every_path_a_lab_comes_after_what_it_needs() -> None:
    by_id = {found.id: found for found in REAL.labs}
    for path in PATHS.paths:
        for index, lab_id in enumerate(path.labs):
            for required in by_id[lab_id].requires if lab_id in by_id else ():
                assert required not in path.labs[index:], f"{path.id}: {lab_id} comes before {required}"


def test_every_lab_is_on_the_paths_that_its_manifest_names() -> None:
    for found in REAL.labs:
        for path_id in found.paths:
            assert found.id in PATHS.path(path_id).labs


def test_chapters_that_are_written_are_in_the_list() -> None:
    assert learning_paths.written_chapters() <= set(PATHS.chapters)


def test_a_lab_that_names_a_path_joins_the_stage_of_its_chapter_or_the_last() -> None:
    new = [lab("lab-9.1-x", chapter="1.3", paths=("engineer",)), lab("lab-9.2-y", chapter="9.9", paths=("engineer",))]
    path = learning_paths.load(labs=new).path("engineer")
    stage = next(stage for stage in path.stages if "1.3" in stage.chapters)
    assert stage.labs[-1] == "lab-9.1-x"
    assert path.stages[-1].labs[-1] == "lab-9.2-y"
    assert "lab-9.1-x" not in learning_paths.load(labs=new).path("manager").labs


def test_without_a_file_there_are_no_paths(tmp_path: Path) -> None:
    assert learning_paths.load(tmp_path / "none.toml") == Syllabus()
    with pytest.raises(UserError, match="no learning path named engineer"):
        Syllabus().path("engineer")


BROKEN: Mapping[str, tuple[str, str, str]] = {
    "no TOML": ("[modules]", "[modules", "not TOML"),
    "a title in one language": ('{ en = "Engineer", zh-TW = "工程師" }', '{ en = "Engineer" }', "engineer, key title.zh-TW: found missing"),
    "an unknown chapter": ('chapters = ["1.1"]', 'chapters = ["7.7"]', "chapter 7.7"),
    "a lab that is not planned": ('labs = ["lab-1.1-peft-huggingface"]', 'labs = ["lab-7.7-x"]', "lab lab-7.7-x"),
    "no lab id": ('labs = ["lab-1.1-peft-huggingface"]', 'labs = ["peft"]', "found 'peft'; allowed: ids of labs"),
    "a path that is not ours": ('id = "manager"', 'id = "boss"', "allowed: engineer | researcher | manager"),
    "a lab planned twice": ('"lab-0.1-llm-lifecycle",\n    "lab-0.2', '"lab-0.1-llm-lifecycle",\n    "lab-0.1-llm-lifecycle",\n    "lab-0.2', "key planned: found ['lab-0.1"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), BROKEN.values(), ids=BROKEN)
def test_a_mistake_in_the_paths_file_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    content = learning_paths.FILE.read_text(encoding="utf-8")
    assert old in content
    file = tmp_path / "paths.toml"
    file.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        learning_paths.load(file)
    assert caught.value.code == "bad-paths"
    assert says in caught.value.cause.en
