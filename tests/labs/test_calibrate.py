"""`nox -s calibrate` on a toy lab: the search in the lab's environment, cut off and resumed, refused, published."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_course
from parts import linux_only
from toy_course import LAB, Checkout

from onepiece.course import catalog
from onepiece.host.road.shared_modules import sources_hash

PATIENCE = 60.0  # until a test gives up; nothing waits that long when all is well

# Eight candidates on each side; `rate` is best at 0.3 for the method and at 0.2 for the baseline. No torch in it, so that a trial takes no time.
CALIBRATION = """
import os
import time
from functools import partial
from pathlib import Path

from counting import count
from onepiece import lab
from onepiece.adaptation.search import Contender, Search

HOME = Path(os.environ["ONEPIECE_HOME"])


def run(best, settings, seed):
    if seed == 11 and (HOME / "wait").exists():
        (HOME / "asleep").touch()
        time.sleep(600)
    if seed == 12 and (HOME / "broken").exists():
        raise RuntimeError("the training broke")
    print("a trial says what it likes")
    assert count(lab.settings.steps) == 3
    return 1 - abs(settings["rate"] - best) - 0.1 * (settings["rule"] == "slow") + seed * 1e-3


GRID = {"rate": (0.1, 0.2, 0.3, 0.4), "rule": ("quick", "slow")}
SEARCH = Search(
    metric="points (0 to 1)",
    contenders=(
        Contender("method", partial(run, 0.3), GRID, names={"rate": "method_rate", "rule": "method_rule"}),
        Contender("baseline", partial(run, 0.2), GRID, names={"rate": "baseline_rate", "rule": "baseline_rule"}),
    ),
    search_seeds=(10, 11, 12),
    confirmation_seeds=(0, 1),
)
"""
SETTINGS = 'steps = 3\nmethod_rate = 0.3\nmethod_rule = "quick"\nbaseline_rate = 0.1\nbaseline_rule = "quick"'
WITHOUT, EMPTY = "lab-9.2-without", "lab-9.3-empty"


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("course"))
    manifest = toy_course.MANIFEST.replace("steps = 3", SETTINGS, 1)
    (toy_course.write_lab(made.root, manifest=manifest) / "calibration.py").write_text(CALIBRATION, encoding="utf-8")
    toy_course.write_lab(made.root, WITHOUT)
    (toy_course.write_lab(made.root, EMPTY) / "calibration.py").write_text("SEARCHES = []\n", encoding="utf-8")
    return made


@pytest.fixture
def checkout(course: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A home of its own for every test, by which its processes are known."""
    made = course.elsewhere(tmp_path / "home")
    yield made
    for pid in toy_course.processes_of(made.home):  # a failing test must not leave what it complains about
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def trials(checkout: Checkout) -> list[dict[str, Any]]:
    lines = (checkout.home / "runs" / "calibration" / LAB / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_search_is_shown_pasted_and_published(checkout: Checkout) -> None:
    lab = catalog.load(checkout.root / "labs").lab(LAB)
    before = sources_hash(lab)
    done = checkout.nox("-s", "calibrate", "--", LAB, "--publish")
    assert done.code == 0, done.output
    # 8 + 4 + 2 trials of the search and 2 x 2 of the confirmation, on each side.
    assert "  36/36  " in done.output
    assert "36 trials" in done.output
    assert "confirmed, seeds 0, 1" in done.words
    assert re.search(r"method.*rate 0\.3, rule quick \(now\)", done.output)
    # Scores 1 and 1.001: 1.0005 ± 12.7062 x 0.0007071 / sqrt(2).
    assert "[0.9941, 1.007]" in done.output
    block = done.output[done.output.index("[cpu.settings]") :].splitlines()[:5]
    assert tomllib.loads("\n".join(block))["cpu"]["settings"] == {
        "method_rate": 0.3, "method_rule": "quick", "baseline_rate": 0.2, "baseline_rule": "quick",
    }  # fmt: skip
    assert block[3] == "baseline_rate = 0.2  # now 0.1"
    path = checkout.root / "labs" / LAB / "results" / "calibration.json"
    published = json.loads(path.read_text(encoding="utf-8"))
    assert published["lab"] == LAB
    assert published["contenders"][0]["settings"] == {"method_rate": 0.3, "method_rule": "quick"}
    assert [len(each["candidates"]) for each in published["contenders"]] == [8, 8]
    assert {"torch", "python"} <= set(published["versions"])
    assert published["hardware"]["cores"] >= 1
    assert published["settings"]["steps"] == 3
    assert sources_hash(lab) == before, "published results are still those of the lab"
    path.unlink()


def test_what_is_finished_is_not_run_again_unless_it_is_forgotten(checkout: Checkout) -> None:
    first = checkout.host("calibrate", LAB)
    assert first.code == 0, first.output
    assert "a trial says what it likes" in first.output
    again = checkout.host("calibrate", LAB)
    assert "a trial says what it likes" not in again.output
    assert again.output.index("lab-9.1-toy: points") >= 0
    assert again.output[again.output.index("lab-9.1-toy: points") :] == first.output[first.output.index("lab-9.1-toy: points") :]
    assert len(trials(checkout)) == 36
    fresh = checkout.host("calibrate", LAB, "--fresh-search", "--quick", "--lang", "zh-TW")
    assert fresh.output.count("a trial says what it likes") == len(trials(checkout)) == 2 * (8 + 2)
    assert "目前 0.1" in fresh.output
    assert "沒有區間" in fresh.words


def test_grid_contender_and_seeds_change_what_is_searched(checkout: Checkout) -> None:
    done = checkout.host("calibrate", LAB, "--contender", "method", "--grid", "rate=0.3,0.5", "--grid", "rule=quick", "--seeds", "20")
    assert done.code == 0, done.output
    tried = {(trial["contender"], trial["settings"]["rate"], trial["settings"]["rule"], trial["seed"]) for trial in trials(checkout)}
    assert tried == {("method", rate, "quick", seed) for rate in (0.3, 0.5) for seed in (20, 0, 1)}
    assert "rate is at the edge of its grid" in done.words


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        ((WITHOUT,), f"{WITHOUT} has no calibration.py", f"Labs that have one: {LAB}, {EMPTY}"),
        ((EMPTY,), f"{EMPTY}/calibration.py: ValueError: there is no SEARCH", "CONTRIBUTING.md"),
        ((LAB, "--grid", "speed=1"), "no grid has speed; there are rate, rule", "nox -s calibrate -- --help"),
        ((LAB, "--grid", "rate=fast"), "--grid rate=fast: 'fast' is no number", "nox -s calibrate -- --help"),
        ((LAB, "--contender", "nobody"), "no contender is called nobody", "nox -s calibrate -- --help"),
        ((LAB, "--seeds", "0,10"), "seeds 0 are search seeds and confirmation seeds", "nox -s calibrate -- --help"),
        ((LAB, "--quick", "--publish"), "--publish keeps the search as calibration.py says it", "nox -s calibrate -- --help"),
        ((), "needs exactly one lab", "nox -s calibrate -- lab-"),
    ],
)
def test_a_mistake_is_two_lines(checkout: Checkout, arguments: tuple[str, ...], cause: str, remedy: str) -> None:
    done = checkout.host("calibrate", *arguments)
    assert done.code == 2, done.output
    assert cause in done.words and remedy in done.words
    assert "Traceback" not in done.output
    assert len(done.output.strip().splitlines()) == 2


def test_a_trial_that_raises_shows_where_and_what_was_finished_is_kept(checkout: Checkout) -> None:
    (checkout.home / "broken").touch()
    done = checkout.host("calibrate", LAB)
    assert done.code == 2
    assert "RuntimeError: the training broke" in done.output
    assert "calibration.py" in done.output
    assert f"go on with the same command: nox -s calibrate -- {LAB}" in done.words
    assert len(trials(checkout)) == 12
    (checkout.home / "broken").unlink()
    assert checkout.host("calibrate", LAB).code == 0
    assert len(trials(checkout)) == 36


@linux_only
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_whatever_ends_it_costs_the_trial_in_progress_only(checkout: Checkout, how: str) -> None:
    (checkout.home / "wait").touch()
    process = subprocess.Popen(
        checkout.host_command("calibrate", LAB),
        cwd=checkout.root, env=checkout.host_environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", start_new_session=True,
        preexec_fn=toy_course.hear_signals,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not (checkout.home / "asleep").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, getattr(signal, how))
    output, _ = process.communicate(timeout=PATIENCE)
    assert toy_course.left_of(checkout.home) == {}
    if how != "SIGKILL":
        assert process.returncode == 130
        assert "8 finished trials are kept" in output
        assert "Traceback" not in output
    assert len(trials(checkout)) == 8
    (checkout.home / "wait").unlink()
    done = checkout.host("calibrate", LAB)
    assert done.code == 0, done.output
    assert done.output.count("a trial says what it likes") == 36 - 8
    assert len(trials(checkout)) == 36
