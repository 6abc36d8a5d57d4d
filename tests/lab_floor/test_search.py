"""The search of settings: the same budget for both sides, unseen seeds for the judgement, and nothing lost when it is cut off."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import toy_course

from onepiece.adaptation.calibrate import calibrate, changed, digest, lab_sources, load_search
from onepiece.adaptation.search import (
    Candidate,
    Contender,
    Search,
    Settings,
    Trial,
    TrialFile,
    calibrate_one,
    on_the_edge,
    rung_sizes,
    search_one,
)

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def near(best: float) -> Callable[[Settings, int], float]:
    """A score that falls with the distance from the best rate; seeds move it a little, all rates alike."""
    return lambda settings, seed: 1 - abs(float(settings["rate"]) - best) + seed * 1e-3


def contender(name: str = "method", best: float = 0.6, **changes: Any) -> Contender:
    return Contender(**{"name": name, "run": near(best), "grid": {"rate": RATES}, "names": {"rate": f"{name}_rate"}} | changes)


def search(*contenders: Contender, **changes: Any) -> Search:
    given = contenders or (contender("method"), contender("baseline", best=0.2))
    return Search(**{"metric": "points", "contenders": given, "search_seeds": (10, 11, 12), "confirmation_seeds": (0, 1, 2)} | changes)


class Log:
    """Runs trials and remembers which."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, dict[str, Any], int]] = []

    def __call__(self, contender: Contender, settings: Settings, seed: int) -> Trial:
        self.tried.append((contender.label, dict(settings), seed))
        return Trial(contender.label, dict(settings), seed, contender.run(settings, seed), 0.5)


# --- halving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "seeds", "sizes"),
    [(8, 3, [8, 4, 2]), (6, 3, [6, 3, 2]), (5, 4, [5, 3, 2, 2]), (2, 3, [2, 2, 2]), (1, 2, [1, 1]), (8, 1, [8]), (3, 2, [3, 2])],
)
def test_the_better_half_rounded_up_goes_on_and_two_reach_the_end(candidates: int, seeds: int, sizes: list[int]) -> None:
    assert rung_sizes(candidates, seeds) == sizes


def test_each_rung_gives_one_more_seed_to_those_that_scored_best() -> None:
    log = Log()
    ranked = search_one(contender(), search(), log)
    rates = {seed: [settings["rate"] for _, settings, tried in log.tried if tried == seed] for seed in (10, 11, 12)}
    assert rates[10] == list(RATES)
    assert sorted(rates[11]) == [0.4, 0.5, 0.6, 0.7]
    assert sorted(rates[12]) in ([0.5, 0.6], [0.6, 0.7])
    assert ranked[0].settings == {"rate": 0.6}
    assert [len(candidate.trials) for candidate in ranked] == [3, 3, 2, 2, 1, 1, 1, 1]


def test_a_candidate_that_had_luck_with_the_first_seed_is_caught_by_the_next() -> None:
    def lucky(settings: Settings, seed: int) -> float:
        return 2.0 if (settings["rate"], seed) == (0.1, 10) else near(0.6)(settings, seed) - (settings["rate"] == 0.1)

    assert search_one(contender(run=lucky), search(), Log())[0].settings == {"rate": 0.6}


def test_of_equal_scores_the_first_of_the_grid_wins_whatever_came_before() -> None:
    # On the first seed the second value is ahead; over two seeds all are equal.
    equal = contender(run=lambda settings, seed: float((settings["rate"] == 0.2) == (seed == 10)), grid={"rate": (0.1, 0.2)})
    found = calibrate_one(equal, search(equal, search_seeds=(10, 11)), Log())
    assert found["candidates"][0]["settings"] == {"rate": 0.1}
    assert found["tied"] == 1


def test_a_score_that_is_not_a_number_is_worse_than_all_others() -> None:
    diverges = contender(run=lambda settings, seed: math.nan if settings["rate"] > 0.55 else near(0.6)(settings, seed))
    ranked = search_one(diverges, search(), Log())
    assert ranked[0].settings == {"rate": 0.5}
    assert ranked[-1].mean == -math.inf
    all_diverge = calibrate_one(contender(run=lambda *_: math.nan), search(), Log())
    assert json.loads(json.dumps(all_diverge, allow_nan=False))["confirmed"][0]["mean"] == "-inf"


def test_no_trial_is_made_twice_and_their_number_is_known_before() -> None:
    whole, log = search(), Log()
    for each in whole.contenders:
        calibrate_one(each, whole, log)
    assert len(log.tried) == len({json.dumps(trial) for trial in log.tried}) == sum(map(whole.trials, whole.contenders)) == 2 * (14 + 6)


def test_the_grid_is_every_combination_and_its_order_is_the_authors() -> None:
    two = contender(grid={"rate": (0.2, 0.1), "schedule": ("linear", "constant")})
    assert [tuple(settings.values()) for settings in two.candidates(None)] == [
        (0.2, "linear"), (0.2, "constant"), (0.1, "linear"), (0.1, "constant"),
    ]  # fmt: skip


def test_a_part_of_a_grid_is_drawn_the_same_each_time_and_keeps_its_order() -> None:
    drawn = [settings["rate"] for settings in contender().candidates(5)]
    assert drawn == [settings["rate"] for settings in contender().candidates(5)]
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn)


# --- both sides equally, on seeds of their own --------------------------------------------------------------------


def test_unequal_budgets_are_refused_and_a_part_of_equal_size_makes_them_equal() -> None:
    sides = contender("method"), contender("baseline", grid={"rate": RATES[:5]})
    with pytest.raises(ValueError, match="searched equally, but method has 8 candidates, baseline has 5 candidates"):
        search(*sides)
    assert [len(each.candidates(5)) for each in search(*sides, candidates=5).contenders] == [5, 5]
    with pytest.raises(ValueError, match="baseline has 5 candidates, not 6"):
        search(*sides, candidates=6)


def test_comparisons_have_budgets_of_their_own() -> None:
    other = {"grid": {"rate": RATES[:3]}, "comparison": "easy"}
    both = search(
        contender("method"), contender("baseline"),
        contender("method", names={"rate": "a"}, **other), contender("baseline", names={"rate": "b"}, **other),
    )  # fmt: skip
    assert [each.label for each in both.contenders] == ["method", "baseline", "easy: method", "easy: baseline"]


def test_a_confirmation_seed_that_the_search_saw_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds 2 are search seeds and confirmation seeds"):
        search(search_seeds=(2, 10))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"search_seeds": ()}, "seeds of both kinds"),
        ({"confirmation_seeds": ()}, "seeds of both kinds"),
        ({"contenders": ()}, "needs contenders"),
        ({"search_seeds": (10, 10)}, "given twice"),
        ({"contenders": (contender(), contender())}, "the same name"),
        ({"contenders": (contender("a", names={"rate": "x"}), contender("b", names={"rate": "x"}))}, "a and b both decide x"),
        ({"contenders": (contender(grid={"rate": ()}),)}, "rate has no values"),
        ({"contenders": (contender(grid={"rate": "linear"}),)}, "rate has no values"),
        ({"contenders": (contender(grid={"rate": (1, 1)}),)}, "value of rate is given twice"),
        ({"contenders": (contender(grid={"rate": (None,)}),)}, "rate takes numbers or texts"),
        ({"contenders": (contender(grid={}, names={}),)}, "nothing is in its grid"),
        ({"contenders": (contender(names={"speed": "x"}),)}, "speed is in its grid"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        search(**changes)


def test_confirmation_judges_the_searchs_winner_and_never_changes_it() -> None:
    # The runner-up of the search is better on every confirmation seed.
    turns = contender(run=lambda settings, seed: near(0.6 if seed >= 10 else 0.5)(settings, seed))
    found = calibrate_one(turns, search(turns), Log())
    assert found["settings"] == {"method_rate": 0.6}
    assert found["confirmed"][1]["mean"] > found["confirmed"][0]["mean"]
    assert list(found["confirmed"][0]["scores"]) == ["0", "1", "2"]


def test_the_interval_is_students_t_over_the_confirmation_seeds() -> None:
    # Scores 1, 2, 3: mean 2, standard deviation 1, so half the width is t(0.975, 2) / sqrt(3) = 4.30265 / 1.73205.
    found = calibrate_one(contender(run=lambda _, seed: float(seed)), search(confirmation_seeds=(1, 2, 3)), Log())
    winner = found["confirmed"][0]
    assert (winner["mean"], winner["low"], winner["high"]) == pytest.approx((2, 2 - 2.48413, 2 + 2.48413), abs=1e-4)
    # Scores 1, 3: t(0.975, 1) = tan(0.475 pi) = 12.7062, standard deviation sqrt(2), over sqrt(2).
    found = calibrate_one(contender(run=lambda _, seed: float(seed)), search(confirmation_seeds=(1, 3)), Log())
    assert found["confirmed"][0]["high"] == pytest.approx(2 + math.tan(0.475 * math.pi), abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    found = calibrate_one(contender(), search(confirmation_seeds=(0,)), Log())
    assert (found["confirmed"][0]["low"], found["confirmed"][0]["high"]) == (None, None)


def test_a_winner_at_the_edge_of_its_numbers_is_named() -> None:
    grid = {"rate": (0.2, 0.1, 0.4), "schedule": ("linear", "constant"), "fused": (True, False), "steps": (7,)}
    edged = contender(grid=grid)
    assert on_the_edge(edged, {"rate": 0.4, "schedule": "linear", "fused": True, "steps": 7}) == ["rate"]
    assert on_the_edge(edged, {"rate": 0.2, "schedule": "constant", "fused": False, "steps": 7}) == []


def test_the_mean_is_over_the_seeds_of_a_candidate() -> None:
    trials = [Trial("a", {}, seed, score, 1.0) for seed, score in enumerate((1.0, 2.0, 6.0))]
    assert Candidate(0, {}, trials).mean == 3.0


# --- trials on disk -----------------------------------------------------------------------------------------------


def run(path: Path, whole: Search, sources: str = "now") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result and the events."""
    events: list[dict[str, Any]] = []
    return calibrate(whole, TrialFile(path, sources), events.append), events


def resumed(events: list[dict[str, Any]]) -> list[bool]:
    return [event["resumed"] for event in events if event["event"] == "trial"]


def timeless(value: Any) -> Any:
    """Without the seconds, which are never the same twice."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "cpu_seconds"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_the_same_search_gives_the_same_result_to_the_order_of_its_keys(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, search())[0] for name in ("a", "b"))
    assert json.dumps(timeless(first)) == json.dumps(timeless(second))
    assert first["contenders"][0]["settings"] == {"method_rate": 0.6}
    assert first["contenders"][1]["settings"] == {"baseline_rate": 0.2}


def test_a_finished_search_is_not_run_again_and_says_what_it_cost_then(tmp_path: Path) -> None:
    first, events = run(tmp_path / "trials", search())
    assert not any(resumed(events))
    again, events = run(tmp_path / "trials", search())
    assert all(resumed(events))
    assert len(resumed(events)) == 40
    assert json.dumps(again) == json.dumps(first)


@pytest.mark.parametrize("torn", [b'{"contender": "method", "settings": {"rate": 0.', b'{"contender"', b"\x00\x00"])
def test_a_torn_last_line_costs_that_trial_only(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "trials"
    whole, _ = run(path, search())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + torn)
    again, events = run(path, search())
    assert resumed(events) == [True] * 39 + [False]
    assert timeless(again) == timeless(whole)
    assert [json.loads(line)["seed"] for line in path.read_bytes().splitlines()][-1] == 2
    assert len(path.read_bytes().splitlines()) == 40


def test_a_search_that_is_cut_off_goes_on_with_the_trial_that_it_was_in(tmp_path: Path) -> None:
    made: list[float] = []

    def cut_off(settings: Settings, seed: int) -> float:
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(float(settings["rate"]))
        return near(0.6)(settings, seed)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "trials", search(contender(run=cut_off)))
    result, events = run(tmp_path / "trials", search(contender()))
    assert resumed(events) == [True] * 10 + [False] * 10
    assert timeless(result) == timeless(run(tmp_path / "other", search(contender()))[0])


def test_trials_of_other_sources_are_not_taken_and_are_kept_for_them(tmp_path: Path) -> None:
    run(tmp_path / "trials", search(), "before")
    assert not any(resumed(run(tmp_path / "trials", search(), "now")[1]))
    assert all(resumed(run(tmp_path / "trials", search(), "before")[1]))


def test_a_wider_grid_keeps_the_trials_of_the_narrow_one(tmp_path: Path) -> None:
    narrow = search(contender(grid={"rate": RATES[:4]}))
    run(tmp_path / "trials", narrow)
    events = run(tmp_path / "trials", search(contender()))[1]
    assert resumed(events)[:8] == [True] * 4 + [False] * 4


def test_scores_that_json_cannot_write_survive(tmp_path: Path) -> None:
    trials = TrialFile(tmp_path / "trials", "x")
    trials.add(Trial("a", {"rate": 1}, 0, math.inf, 0.1))
    found = TrialFile(tmp_path / "trials", "x").find("a", {"rate": 1}, 0)
    assert found is not None
    assert found.score == math.inf


def test_a_score_is_a_number(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        run(tmp_path / "trials", search(contender(run=lambda *_: None)))  # type: ignore[arg-type, return-value]


def test_what_decides_a_trial_is_hashed_by_name_and_content(tmp_path: Path) -> None:
    for name in ("01-count.py", "checks.py", "calibration.py", "counting.py"):
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    files = lab_sources(tmp_path)
    assert [path.name for path in files] == ["calibration.py", "counting.py"]
    before = digest(files, {"steps": 3})
    assert digest(files, {"steps": 4}) != before
    files[1].write_text("x = 2\n", encoding="utf-8")
    assert digest(files, {"steps": 3}) != before


# --- the command line ---------------------------------------------------------------------------------------------

MIXED = contender(grid={"rate": (0.1, 0.2), "steps": (10, 20), "schedule": ("linear", "constant"), "fused": (True, False)})


def test_values_from_the_command_line_are_of_the_kind_that_the_grid_had() -> None:
    made = changed(search(MIXED), grid=["rate=1e-3,3", "steps=5", "schedule=cosine,linear", "fused=false"])
    assert made.contenders[0].grid == {"rate": (1e-3, 3.0), "steps": (5,), "schedule": ("cosine", "linear"), "fused": (False,)}
    assert isinstance(made.contenders[0].grid["rate"][1], float)
    assert list(made.contenders[0].grid) == list(MIXED.grid), "the order of the keys is the author's"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"grid": ["speed=1"]}, "--grid speed=1: no grid has speed; there are rate, steps, schedule, fused"),
        ({"grid": ["rate"]}, "--grid rate: write KEY=VALUE,VALUE"),
        ({"grid": ["rate="]}, "write KEY=VALUE,VALUE"),
        ({"grid": ["rate=0.1,fast"]}, "'fast' is no number"),
        ({"grid": ["rate=nan"]}, "'nan' is no number"),
        ({"grid": ["rate=0.1,"]}, "'' is no number"),
        ({"grid": ["steps=1.5"]}, "'1.5' is no whole number"),
        ({"grid": ["fused=yes"]}, "yes is neither true nor false"),
        ({"grid": ["rate=1,1"]}, "value of rate is given twice"),
        ({"names": ["nobody"]}, "no contender is called nobody; there are method"),
        ({"seeds": "10,x"}, "--seeds: 'x' is no whole number"),
        ({"seeds": "0,10"}, "seeds 0 are search seeds and confirmation seeds"),
    ],
)
def test_what_the_command_line_gets_wrong_is_said(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], reason: str) -> None:
    monkeypatch.setenv("ONEPIECE_LANG", "en")
    with pytest.raises(ValueError) as caught:
        changed(search(MIXED), **options)
    assert reason in str(caught.value)


def test_other_values_are_of_every_contender_that_has_the_key_and_budgets_stay_equal() -> None:
    assert [each.grid["rate"] for each in changed(search(), grid=["rate=1,2"]).contenders] == [(1.0, 2.0)] * 2
    sides = search(contender(grid={"rate": (1.0, 2.0)}), contender("baseline", grid={"speed": (1.0, 2.0)}, names={}))
    with pytest.raises(ValueError, match="searched equally"):
        changed(sides, grid=["speed=1,2,3"])
    assert changed(sides, grid=["speed=1,2,3"], names=["baseline"]).contenders[0].grid["speed"] == (1.0, 2.0, 3.0)


def test_contenders_are_chosen_by_name_or_by_label() -> None:
    both = search(contender("a", comparison="x"), contender("a", comparison="y", names={"rate": "z"}))
    assert [each.label for each in changed(both, names=["a"]).contenders] == ["x: a", "y: a"]
    assert [each.label for each in changed(both, names=["y: a"]).contenders] == ["y: a"]


def test_quick_is_one_seed_of_each_kind_and_seeds_replace_those_of_the_search() -> None:
    quick = changed(search(), quick=True)
    assert (quick.search_seeds, quick.confirmation_seeds) == ((10,), (0,))
    assert changed(search(), seeds="20,21").search_seeds == (20, 21)
    assert (changed(search()).search_seeds, changed(search()).confirmation_seeds) == ((10, 11, 12), (0, 1, 2))


# --- every lab that has one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((toy_course.ROOT / "labs").glob("*/calibration.py")), ids=lambda path: path.parent.name)
def test_what_a_lab_published_is_the_search_that_it_has(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Whoever changes a grid or a seed searches anew: `nox -s calibrate -- <lab> --publish`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    found = load_search(path.parent)
    for name in set(sys.modules) - before:
        if str(path.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]  # another lab may have a module of that name
    published = json.loads((path.parent / "results" / "calibration.json").read_text(encoding="utf-8"))
    assert published["metric"] == found.metric
    assert published["search_seeds"] == list(found.search_seeds)
    assert published["confirmation_seeds"] == list(found.confirmation_seeds)
    assert published["budget"]["trials"] == sum(map(found.trials, found.contenders))
    told = {each["label"]: (each["grid"], each["names"]) for each in published["contenders"]}
    assert told == {
        each.label: ({key: list(values) for key, values in each.grid.items()}, {key: each.names.get(key, key) for key in each.grid})
        for each in found.contenders
    }
