"""The manifest reader: every refusal says which file, which key, what was found and what is allowed."""

from __future__ import annotations

import copy
import datetime
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_course
from hypothesis import example, given
from hypothesis import strategies as st
from toy_course import LAB, MANIFEST

from onepiece.course import catalog
from onepiece.course.errors import UserError
from onepiece.course.text import Text
from onepiece.host.road import sources

# --- what a good manifest says --------------------------------------------------------------------


def test_a_good_manifest_is_read_as_it_is_written(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    course = catalog.load(tmp_path / "labs")
    assert not course.problems
    lab = course.lab(LAB)
    assert (lab.title.en, lab.title.zh_tw) == ("A toy", "玩具")
    assert lab.notebooks == ("01-count", "02-use")
    assert lab.module == "9"
    assert lab.profile("cpu").settings == {"seeds": [0, 1], "steps": 3}
    assert [gate.bound for gate in lab.gates] == ["<= 0.1", "is true"]


def test_the_gpu_profile_has_every_setting_of_the_cpu_profile(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    lab = catalog.load(tmp_path / "labs").lab(LAB)
    assert lab.profile("gpu").settings == {"seeds": [0, 1], "steps": 30}


def test_a_notebook_is_known_by_number_name_and_file_name(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    lab = catalog.load(tmp_path / "labs").lab(LAB)
    for wanted in ("2", "02", "02-use", "02-use.py", "02-use.ipynb"):
        assert lab.notebook(wanted) == "02-use"


def test_an_unknown_notebook_is_refused_with_the_choices(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    with pytest.raises(UserError) as refusal:
        catalog.load(tmp_path / "labs").lab(LAB).notebook("7")
    assert refusal.value.code == "unknown-notebook"
    assert "01-count, 02-use" in refusal.value.remedy.en


def test_a_profile_that_the_lab_does_not_have_is_refused_with_the_choices(tmp_path: Path) -> None:
    without_gpu = MANIFEST.partition("[gpu]")[0] + "[[gates]]" + MANIFEST.partition("[[gates]]")[2]
    toy_course.write_lab(tmp_path, manifest=without_gpu)
    with pytest.raises(UserError) as refusal:
        catalog.load(tmp_path / "labs").lab(LAB).profile("gpu")
    assert refusal.value.code == "no-profile"
    assert "--profile cpu" in refusal.value.remedy.en


def test_labs_are_in_course_order_and_ten_comes_after_nine(tmp_path: Path) -> None:
    for lab_id in ("lab-1.10-j", "lab-1.9-i", "lab-10.1-k", "lab-2.1-b"):
        toy_course.write_lab(tmp_path, lab_id)
    assert [lab.id for lab in catalog.load(tmp_path / "labs").labs] == ["lab-1.9-i", "lab-1.10-j", "lab-2.1-b", "lab-10.1-k"]


def test_the_beginning_of_an_id_is_enough_if_it_is_the_only_one(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-a")
    toy_course.write_lab(tmp_path, "lab-1.10-b")
    assert catalog.load(tmp_path / "labs").lab("lab-1.1").id == "lab-1.1-a"


def test_an_unknown_lab_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.5-flashattention")
    toy_course.write_lab(tmp_path, "lab-2.1-quantization")
    with pytest.raises(UserError) as refusal:
        catalog.load(tmp_path / "labs").lab("lab-1.5-flashatention")
    assert refusal.value.code == "unknown-lab"
    assert "Did you mean: lab-1.5-flashattention ?" in refusal.value.remedy.en


@pytest.mark.parametrize(
    ("typed", "meant"), [("1.1.4", "lab-1.1.4-prefix"), ("1.1", "lab-1.1-first"), ("pre", "lab-1.1.4-prefix"), ("iaa", "lab-1.1.5-ia3")]
)
def test_half_a_name_is_taken_for_the_lab_that_has_it(typed: str, meant: str) -> None:
    assert catalog.nearest(typed, ["lab-1.1-first", "lab-1.1.5-ia3", "lab-1.1.4-prefix"]) == meant


def test_a_course_without_labs_is_empty_and_still_answers(tmp_path: Path) -> None:
    course = catalog.load(tmp_path / "labs")
    assert course.labs == ()
    with pytest.raises(UserError) as refusal:
        course.lab("lab-1.1-a")
    assert refusal.value.code == "unknown-lab"


SCORE = """
[score]
metric = "error"
objective = { en = "How far off", zh-TW = "差多少" }
unit = "steps"
better = "lower"
profiles = ["cpu", "gpu"]
"""


def test_a_score_is_read_as_it_is_written_and_a_lab_may_have_none(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path)
    assert catalog.load(tmp_path / "labs").lab(LAB).score is None
    toy_course.write_lab(tmp_path, manifest=MANIFEST + SCORE)
    score = catalog.load(tmp_path / "labs").lab(LAB).score
    assert score == catalog.Score("error", Text("How far off", "差多少"), "lower", "steps", ("cpu", "gpu"))


@pytest.mark.parametrize(
    ("good", "bad", "key", "allowed"),
    [
        ('metric = "error"\nobjective = { en = "How', 'objective = { en = "How', "key score.metric", "missing"),
        ('better = "lower"', 'better = "faster"', "key score.better", "higher | lower"),
        ('better = "lower"', "", "key score.better", "missing"),
        ('unit = "steps"', "unit = 1", "key score.unit", "a"),
        ('unit = "steps"', 'units = "steps"', "key score.units", "did you mean unit?"),
        ('profiles = ["cpu", "gpu"]', "profiles = []", "key score.profiles", "a"),
        ('profiles = ["cpu", "gpu"]', 'profiles = ["tpu"]', "key score.profiles", "cpu"),
    ],
)
def test_a_score_that_is_wrong_is_refused(tmp_path: Path, good: str, bad: str, key: str, allowed: str) -> None:
    assert good in SCORE
    toy_course.write_lab(tmp_path, manifest=MANIFEST + SCORE.replace(good, bad))
    assert key in refusal_of(tmp_path / "labs")
    assert allowed in refusal_of(tmp_path / "labs")


def test_a_score_on_a_profile_that_the_lab_does_not_have_is_refused(tmp_path: Path) -> None:
    without_gpu = MANIFEST.partition("[gpu]")[0] + "[[gates]]" + MANIFEST.partition("[[gates]]")[2]
    toy_course.write_lab(tmp_path, manifest=without_gpu + SCORE)
    assert "key score.profiles: found 'gpu'" in refusal_of(tmp_path / "labs")


# --- refusals ---------------------------------------------------------------------------------------


def refusal_of(labs: Path, lab_id: str = LAB) -> str:
    """The one sentence with which the catalog refuses a lab."""
    course = catalog.load(labs)
    assert lab_id not in {lab.id for lab in course.labs}
    error = course.problems[lab_id][0]
    assert error.code == "bad-manifest"
    assert f"{lab_id}/lab.toml" in error.cause.en
    assert f"{lab_id}/lab.toml" in error.cause.zh_tw
    return error.cause.en


def test_a_manifest_may_begin_with_what_windows_editors_put_first(tmp_path: Path) -> None:
    manifest = toy_course.write_lab(tmp_path) / "lab.toml"
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes())
    assert not catalog.load(tmp_path / "labs").problems


def test_the_replacements_below_really_change_the_manifest() -> None:
    for name, change in CHANGES.items():
        assert change[0] in MANIFEST, name


# name -> (what the good manifest says, what this one says, the key, what was found, what is allowed)
CHANGES: dict[str, tuple[str, str, str, str, str]] = {
    "unknown key, nearly a known one": (
        "chapter =",
        'chapters = "1"\nchapter =',
        "key chapters",
        "did you mean chapter?",
        "allowed: chapter",
    ),
    "unknown key, like no other": ("chapter =", 'xyzzy = "1"\nchapter =', "key xyzzy", "an unknown key", "notebooks"),
    "unknown key of a profile": ("memory_gb = 1", "memory_gb = 1\nmemory = 1", "key cpu.memory", "did you mean memory_gb?", "minutes"),
    "unknown key of a gate": ("max = 0.1", 'max = 0.1\ncontrl = "x"', "key gates[0].contrl", "did you mean control?", "metric"),
    "unknown key of a text": ('zh-TW = "玩具" }', 'zh-TW = "玩具", fr = "jouet" }', "key title.fr", "unknown key", "en, zh-TW"),
    "no title": ("title =", "summary2 =", "key title", "missing", "zh-TW"),
    "no Chinese title": (', zh-TW = "玩具"', "", "key title.zh-TW", "missing", "the text in that language"),
    "no English title": ('en = "A toy", ', "", "key title.en", "missing", "the text in that language"),
    "blank Chinese title": ('zh-TW = "玩具"', 'zh-TW = " "', "key title.zh-TW", "' '", "the text in that language"),
    "no Chinese objective": (', zh-TW = "計數精確"', "", "key gates[0].objective.zh-TW", "missing", "the text in that language"),
    "title in one language only": ('title = { en = "A toy", zh-TW = "玩具" }', 'title = "A toy"', "key title", "'A toy'", "zh-TW"),
    "number for a string": ('chapter = "1.3"', "chapter = 1.3", "key chapter", "1.3", "a non-empty string"),
    "string for a number": ("minutes = 1\nmemory_gb", 'minutes = "1"\nmemory_gb', "key cpu.minutes", "'1'", "a number"),
    "truth value for a number": ("vram_gb = 16", "vram_gb = true", "key gpu.vram_gb", "True", "a number"),
    "string for a truth value": ("[cpu]\n", 'network = "no"\n[cpu]\n', "key network", "'no'", "true or false"),
    "unknown level": ('"core"', '"hard"', "key level", "'hard'", "intro | core | advanced"),
    "unknown path": ('level = "core"', 'level = "core"\npaths = ["chef"]', "key paths", "chef", "engineer | researcher | manager"),
    "a list that is no list": ('level = "core"', 'level = "core"\nextras = "triton"', "key extras", "'triton'", "a list"),
    "the same twice in a list": ('level = "core"', 'level = "core"\nextras = ["a", "a"]', "key extras", "['a', 'a']", "different"),
    "no cpu profile": ("[cpu]\nminutes = 1\nmemory_gb = 1\n[cpu.settings]", "[cpus]", "key cpu", "missing", "a [cpu] table"),
    "a profile that is no table": (
        "[cpu]\nminutes = 1\nmemory_gb = 1\n[cpu.settings]",
        "cpu = 1\n[cpus]",
        "key cpu",
        "1",
        "a [cpu] table",
    ),
    "no memory budget": ("memory_gb = 1\n", "", "key cpu.memory_gb", "missing", "a number"),
    "no VRAM": ("vram_gb = 16\n", "", "key gpu.vram_gb", "missing", "a number"),
    "setting that only the gpu profile has": (
        "steps = 30",
        "steps = 30\nrank = 8",
        "key gpu.settings",
        "rank",
        "settings that [cpu] has too",
    ),
    "reserved setting": ("steps = 3\n", 'steps = 3\ndevice = "cpu"\n', "key cpu.settings.device", "reserved", "an identifier other than"),
    "setting that is no name": (
        "steps = 3\n",
        "steps = 3\nlearning-rate = 1\n",
        "key cpu.settings.learning-rate",
        "impossible",
        "an identifier",
    ),
    "setting that is a word of Python": (
        "steps = 3\n",
        "steps = 3\nlambda = 0.1\n",
        "key cpu.settings.lambda",
        "impossible",
        "an identifier",
    ),
    "setting that cannot travel: a date": ("steps = 3\n", "steps = 3\nday = 2026-01-01\n", "cpu.settings", "2026", "allowed"),
    "setting that cannot travel: not a number": ("steps = 3\n", "steps = 3\nrate = nan\n", "cpu.settings", "nan", "allowed"),
    "no notebooks": ('["01-count", "02-use"]', "[]", "key notebooks", "[]", "a list"),
    "a notebook that does not exist": (
        '"02-use"]',
        '"02-use", "03-more"]',
        "key notebooks",
        "there is no 03-more.py",
        "notebooks that exist",
    ),
    "a notebook that is not listed": ('"01-count", "02-use"', '"01-count"', "key notebooks", "02-use.py is not listed", "every NN-*.py"),
    "a gap in the numbers": ('"02-use"', '"03-use"', "key notebooks", "'03-use'", "02-some-words"),
    "notebooks out of order": ('"01-count", "02-use"', '"02-use", "01-count"', "key notebooks", "'02-use'", "01-some-words"),
    "a notebook outside the lab": ('"02-use"', '"../02-use"', "key notebooks", "'../02-use'", "02-some-words"),
    "a gate with two bounds": ("max = 0.1", "max = 0.1\nmin = 0", "key gates[0].max|min|equals", "max, min", "exactly one bound"),
    "a gate without bounds": ("max = 0.1\n", "", "key gates[0].max|min|equals", "none", "exactly one bound"),
    "a bound that is no number": ("max = 0.1", 'max = "0.1"', "key gates[0].max", "'0.1'", "a number"),
    "a bound that is not a number": ("max = 0.1", "max = nan", "key gates[0].max", "nan", "a number"),
    "equals a string": ("equals = true", 'equals = "yes"', "key gates[1].equals", "'yes'", "a number or true/false"),
    "a gate over something else": ("max = 0.1", 'max = 0.1\nover = "best"', "key gates[0].over", "'best'", "every | mean"),
    "a gate of an unknown profile": ("max = 0.1", 'max = 0.1\nprofiles = ["tpu"]', "key gates[0].profiles", "tpu", "cpu | gpu"),
    "a gate without a metric": ('metric = "error"\n', "", "key gates[0].metric", "missing", "a non-empty string"),
    "a budget of no minutes": ("minutes = 1\nmemory_gb", "minutes = 0\nmemory_gb", "key cpu.minutes", "found 0", "a number > 0"),
    "a budget of negative minutes": ("minutes = 1\nvram_gb", "minutes = -5\nvram_gb", "key gpu.minutes", "found -5", "a number > 0"),
    "a negative memory budget": ("memory_gb = 1", "memory_gb = -1", "key cpu.memory_gb", "found -1", "a number > 0"),
    "a negative VRAM": ("vram_gb = 16", "vram_gb = -16", "key gpu.vram_gb", "found -16", "a number > 0"),
    "a budget without end": ("minutes = 1\nmemory_gb", "minutes = inf\nmemory_gb", "key cpu.minutes", "found inf", "a number > 0"),
    "a gate that needs an extra which the lab does not list": (
        "max = 0.1",
        'max = 0.1\nrequires = ["triton"]',
        "key gates[0].requires",
        "'triton'",
        "the lab's extras: none",
    ),
    "no control in the whole lab": ('control = "off_by_one"\n', "", "key gates", "no gate has a control", "a negative control"),
    "gates that are no tables": (
        MANIFEST[MANIFEST.index("[[gates]]") :],
        "gates = 3",
        "key gpu.settings",
        "gates",
        "settings that [cpu] has too",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_manifest_is_refused_with_file_key_found_and_allowed(tmp_path: Path, name: str) -> None:
    good, bad, key, found, allowed = CHANGES[name]
    toy_course.write_lab(tmp_path, manifest=MANIFEST.replace(good, bad, 1))
    said = refusal_of(tmp_path / "labs")
    assert key in said
    assert found in said
    assert allowed in said
    assert "allowed: " in said


def test_a_manifest_without_gates_is_refused(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, manifest=MANIFEST[: MANIFEST.index("[[gates]]")])
    said = refusal_of(tmp_path / "labs")
    assert "key gates" in said
    assert "at least one [[gates]] table" in said


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b" \n\n", "an empty file", id="blank"),
        pytest.param(b"title = ", "not TOML", id="broken off"),
        pytest.param(b"a = 1\na = 2", "not TOML", id="the same key twice"),
        pytest.param("title = { en = '\u73a9".encode("big5"), "unreadable", id="Big5"),
        pytest.param(b"\x80\x00\xff", "unreadable", id="binary"),
        pytest.param(b"a = " + b"[" * 20_000, "not TOML", id="nested without end"),
        pytest.param(b"a = " + b"9" * 5_000, "not TOML", id="a number of 5000 digits"),
    ],
)
def test_what_is_no_manifest_at_all_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (toy_course.write_lab(tmp_path) / "lab.toml").write_bytes(content)
    said = refusal_of(tmp_path / "labs")
    assert found in said
    assert "allowed: " in said


def test_a_directory_that_is_no_lab_id_is_refused(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "Lab_1")
    said = refusal_of(tmp_path / "labs", "Lab_1")
    assert "'Lab_1'" in said
    assert "lab-1.5-flashattention" in said


# --- what only shows when the labs are seen together --------------------------------------------------


def requiring(*lab_ids: str) -> str:
    return MANIFEST.replace('level = "core"', f'level = "core"\nrequires = {json.dumps(lab_ids)}')


def test_one_bad_lab_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-good")
    toy_course.write_lab(tmp_path, "lab-1.2-bad", manifest="title = 1")
    course = catalog.load(tmp_path / "labs")
    assert [lab.id for lab in course.labs] == ["lab-1.1-good"]
    assert set(course.problems) == {"lab-1.2-bad"}
    with pytest.raises(UserError) as refusal:
        course.lab("lab-1.2-bad")
    assert refusal.value.code == "bad-manifest"


def test_two_labs_with_one_number_are_refused(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-a")
    toy_course.write_lab(tmp_path, "lab-1.1-b")
    said = refusal_of(tmp_path / "labs", "lab-1.1-b")
    assert "duplicate id: lab-1.1-a has the same number" in said


def test_ids_that_collapse_to_one_environment_name_are_refused(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-1-x")
    toy_course.write_lab(tmp_path, "lab-1.1.1-x")
    course = catalog.load(tmp_path / "labs")
    (refused,) = course.problems
    said = refusal_of(tmp_path / "labs", refused)
    assert "lab-1.1-1-x" in said
    assert "lab-1.1.1-x" in said
    assert "collapse to one environment name" in said


def test_an_unknown_prerequisite_is_refused(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-a", manifest=requiring("lab-0.1-nothing"))
    said = refusal_of(tmp_path / "labs", "lab-1.1-a")
    assert "key requires" in said
    assert "'lab-0.1-nothing'" in said


def test_a_prerequisite_that_is_itself_broken_is_reported_once_where_it_is_broken(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-a", manifest=requiring("lab-1.2-b"))
    toy_course.write_lab(tmp_path, "lab-1.2-b", manifest="")
    assert set(catalog.load(tmp_path / "labs").problems) == {"lab-1.2-b"}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_of_prerequisites_is_refused_and_shown(tmp_path: Path, length: int) -> None:
    ids = [f"lab-1.{number}-x" for number in range(1, length + 1)]
    for lab_id, required in zip(ids, [*ids[1:], ids[0]], strict=True):
        toy_course.write_lab(tmp_path, lab_id, manifest=requiring(required))
    toy_course.write_lab(tmp_path, "lab-1.9-good")
    course = catalog.load(tmp_path / "labs")
    assert [lab.id for lab in course.labs] == ["lab-1.9-good"]
    said = refusal_of(tmp_path / "labs", ids[0])
    assert " -> ".join([*ids, ids[0]]) in said


def test_prerequisites_that_meet_again_are_no_cycle(tmp_path: Path) -> None:
    toy_course.write_lab(tmp_path, "lab-1.1-a")
    toy_course.write_lab(tmp_path, "lab-1.2-b", manifest=requiring("lab-1.1-a"))
    toy_course.write_lab(tmp_path, "lab-1.3-c", manifest=requiring("lab-1.1-a"))
    toy_course.write_lab(tmp_path, "lab-1.4-d", manifest=requiring("lab-1.2-b", "lab-1.3-c"))
    assert not catalog.load(tmp_path / "labs").problems


# --- what only shows beside the images ------------------------------------------------------------------


@pytest.fixture
def with_images(tmp_path: Path) -> Path:
    """A course whose images are there: a group, an extra, and the toy lab's own."""
    for name in ("train", LAB):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "Dockerfile").touch()
    (tmp_path / "images" / "train" / "extra-triton.txt").touch()
    return tmp_path


def test_a_lab_with_a_group_and_an_image_of_its_own_is_fine(with_images: Path) -> None:
    toy_course.write_lab(with_images, manifest=MANIFEST.replace('level = "core"', 'level = "core"\nextras = ["triton"]'))
    assert not catalog.load(with_images / "labs").problems


@pytest.mark.parametrize(
    ("good", "bad", "key", "found", "allowed"),
    [
        pytest.param('image = "train"', 'image = "trian"', "key image", "'trian'", "allowed: train", id="an unknown group"),
        pytest.param('image = "train"', f'image = "{LAB}"', "key image", LAB, "allowed: train", id="a lab for a group"),
        pytest.param('level = "core"', 'level = "core"\nextras = ["tritn"]', "key extras", "'tritn'", "allowed: triton", id="an extra"),
    ],
)
def test_what_a_manifest_names_of_the_images_must_be_there(
    with_images: Path, good: str, bad: str, key: str, found: str, allowed: str
) -> None:
    toy_course.write_lab(with_images, manifest=MANIFEST.replace(good, bad))
    said = refusal_of(with_images / "labs")
    assert key in said and found in said and allowed in said


def test_a_lab_without_a_dockerfile_is_refused(with_images: Path) -> None:
    toy_course.write_lab(with_images)
    (with_images / "images" / LAB / "Dockerfile").unlink()
    assert f"no images/{LAB}/Dockerfile" in refusal_of(with_images / "labs")


# --- what only shows beside the notebooks --------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "found"),
    [
        pytest.param('"agrees"', '"agreement"', "gates[1]: metric 'agreement'", id="a metric"),
        pytest.param('"off_by_one"', '"off_by_two"', "gates[0]: metric 'error', control variant 'off_by_two'", id="a control"),
    ],
)
def test_a_gate_on_what_no_notebook_records_is_refused(tmp_path: Path, good: str, bad: str, found: str) -> None:
    toy_course.write_lab(tmp_path, manifest=MANIFEST.replace(good, bad))
    (error,) = sources.verify(catalog.load(tmp_path / "labs").lab(LAB))
    assert error.code == "bad-manifest"
    assert f"{LAB}/lab.toml" in error.cause.en
    assert found in error.cause.en


# --- any manifest at all ----------------------------------------------------------------------------


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else repr(value)


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key and item inside a table."""
    inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [found for key, item in inside for found in ((*so_far, key), *paths(item, (*so_far, key)))]


PARSED = tomllib.loads(MANIFEST)
SCALARS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.sampled_from(["cpu", "mean", "01-count", LAB, "lab-0.1-none"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abz-_ ", max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def read_bytes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], catalog.Lab | None]:
    """Read a manifest's bytes as the toy lab's; None if it was refused the way it must be."""
    path = toy_course.write_lab(tmp_path_factory.mktemp("course")) / "lab.toml"

    def read(content: bytes) -> catalog.Lab | None:
        path.write_bytes(content)
        try:
            return catalog.read_manifest(path)
        except UserError as error:
            assert error.code == "bad-manifest"
            assert f"{LAB}/lab.toml" in error.cause.en
            assert "allowed: " in error.cause.en
            return None

    return read


@given(st.data())
def test_no_mutation_of_a_manifest_raises_anything_else(read_bytes: Callable[[bytes], catalog.Lab | None], data: st.DataObject) -> None:
    table = copy.deepcopy(PARSED)
    for _ in range(data.draw(st.integers(1, 3), label="mutations")):
        *parents, last = data.draw(st.sampled_from(paths(table)), label="where")
        inside = table
        for key in parents:
            inside = inside[key]
        kind = data.draw(st.sampled_from(["drop", "replace", "add"]), label="kind")
        if kind == "drop":
            del inside[last]
        elif kind == "replace":
            inside[last] = data.draw(VALUES, label="value")
        elif isinstance(inside, dict):
            inside[data.draw(st.text("abcdefgimnx", min_size=1, max_size=6), label="key")] = data.draw(VALUES, label="value")
        if not paths(table):
            break
    lab = read_bytes("\n".join(f"{toml(key)} = {toml(value)}" for key, value in table.items()).encode())
    if lab is not None:  # then it can be listed and run: minutes and bounds can be shown, settings travel as JSON
        for profile in lab.profiles.values():
            assert f"{profile.minutes:g}"
            json.dumps(profile.settings, allow_nan=False)
        assert all(gate.bound for gate in lab.gates)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf" + MANIFEST.encode())
@example(MANIFEST.encode("utf-16"))
def test_no_bytes_raise_anything_else(read_bytes: Callable[[bytes], catalog.Lab | None], content: bytes) -> None:
    read_bytes(content)


def test_the_writer_of_these_tests_writes_what_it_was_given() -> None:
    assert tomllib.loads("\n".join(f"{toml(key)} = {toml(value)}" for key, value in PARSED.items())) == PARSED
