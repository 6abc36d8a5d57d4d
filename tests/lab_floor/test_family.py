"""A method's row: what is recorded can be read, the goal is looked for honestly, and the clock does not count the looking."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onepiece import lab
from onepiece.adaptation import family, load_base
from onepiece.course.family_rows import rows_of
from onepiece.training import History

torch.set_num_threads(1)  # two threads on a busy machine wait for each other
SETTINGS = SimpleNamespace(model=None, base_model="tiny", base_revision="", device=torch.device("cpu"), dtype=torch.float32)


def test_a_task_that_is_learned_says_after_how_many_steps_and_what_was_kept() -> None:
    model, tokenizer = load_base(SETTINGS)
    tasks = family.load_tasks(tokenizer)
    assert tuple(tasks) == family.TASKS
    model.requires_grad_(True)
    learned = family.learn(model, tasks["relabel"], steps=55, learning_rate=1e-3, seed=0, keep_items=2, schedule="constant")
    assert learned.accuracy > 0.9
    assert learned.steps == 55
    assert learned.steps_to_goal in (25, 50, 55)
    assert 0 < learned.cpu_seconds_to_goal < 55
    assert set(learned.kept) >= {"facts", "add"}


def test_a_model_that_learns_nothing_never_reaches_the_goal() -> None:
    model, tokenizer = load_base(SETTINGS)
    task = family.load_tasks(tokenizer)["compose"]
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    learned = family.learn(model, task, steps=2, learning_rate=1e-6, seed=1)
    assert learned.steps_to_goal == learned.cpu_seconds_to_goal == math.inf
    assert learned.accuracy < 0.1
    assert not learned.kept, "only the first seed says what was forgotten"


def test_what_is_recorded_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    monkeypatch.setattr(lab, "record", lambda metric, value, seed=None, variant=None: records.append(
        {"metric": metric, "value": value, "seed": seed, "variant": variant}
    ))  # fmt: skip
    runs = {
        (task, seed): family.Learned(History(losses=[1.0] * 7), 0.5 + seed / 10, math.inf, math.inf, {} if seed else {"facts": 0.25})
        for task in family.TASKS for seed in family.SEEDS
    }  # fmt: skip
    given = {"trained": 3, "total": 12, "file_bytes": 44, "peak_bytes": 5, "token_ratio": 1.5, "mergeable": True}
    family.record_row(runs, variant="deep", **given)
    (row,) = rows_of(
        {"lab": "lab-9.1-toy", "records": records, "versions": {"torch": "1", "transformers": "2"}, "settings": {"base_model": "tiny"}}
    )
    assert (row.variant, row.share, row.once["token_ratio"]) == ("deep", 0.25, 1.5)
    assert row.mean("new_facts") == pytest.approx(0.6)
    assert row.mean("relabel", "steps") == 7
    assert row.kept["compose", "facts"] == 0.25
    with pytest.raises(KeyError):
        family.record_row({key: run for key, run in runs.items() if key != ("compose", 2)}, **given)


def test_the_time_of_a_token_is_compared_in_turn() -> None:
    base, tokenizer = load_base(SETTINGS)
    prompt = tokenizer("27 + 15 →", return_tensors="pt", add_special_tokens=False)["input_ids"]
    calls: list[str] = []

    class Twice:
        """A method that asks the base twice for each answer."""

        def generate(self, **given: Any) -> torch.Tensor:
            calls.append("adapted")
            base.generate(**given)
            return base.generate(**given)

    assert family.token_ratio(Twice(), base, prompt, tokens=4, repeats=3) > 1  # type: ignore[arg-type]
    assert len(calls) == 4, "one to warm up, three to measure"
