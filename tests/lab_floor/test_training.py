"""The lesson's loop: equal to the Trainer of Transformers, equal to itself after an interruption, gradients as of one batch."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from onepiece import lab
from onepiece.data import IGNORED, Batches, Collator
from onepiece.training import (
    SCHEDULES,
    History,
    accumulate_gradients,
    causal_lm_loss,
    counted,
    learning_rate_at,
    make_optimizer,
    to_device,
    train,
)


def dataset(count: int = 48) -> list[dict[str, torch.Tensor]]:
    """Examples of unequal length, with prompts of unequal length."""
    generator = random.Random(0)
    examples = []
    for _ in range(count):
        ids = torch.tensor([generator.randrange(len(small_models.tokenizer())) for _ in range(generator.randint(4, 14))])
        examples.append({"input_ids": ids, "labels": torch.where(torch.arange(len(ids)) < generator.randint(1, 3), IGNORED, ids)})
    return examples


def batches(batch_size: int = 4, **options: Any) -> Batches:
    return Batches(dataset(), Collator(0), batch_size=batch_size, seed=0, **options)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_loop_and_the_trainer_agree(tmp_path: Path, schedule: str) -> None:
    """Same data, order and settings: loss curves, gradient norms and learning rates step by step, and the final weights."""
    own, theirs = small_models.random_model(), small_models.random_model()
    settings: dict[str, Any] = {"learning_rate": 5e-3, "weight_decay": 0.1, "warmup_steps": 3, "max_grad_norm": 0.7, "seed": 0}
    history = train(own, batches(shuffle=False), steps=12, schedule=schedule, accumulation=2, progress=False, **settings)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=12,
        lr_scheduler_type=schedule,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = Trainer(model=theirs, args=arguments, train_dataset=dataset(), data_collator=Collator(0))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert history.losses == pytest.approx([entry["loss"] for entry in logs], abs=1e-5)
    assert history.gradient_norms == pytest.approx([float(entry["grad_norm"]) for entry in logs], rel=1e-4)
    assert history.learning_rates == pytest.approx([entry["learning_rate"] for entry in logs], abs=1e-12)
    for mine, other in zip(own.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    assert history.losses[-1] < history.losses[0] - 0.3  # it learned something, so that the agreement means something


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_learning_rates_are_those_of_transformers(schedule: str, warmup_steps: int) -> None:
    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], 0.5, 0.0, (0.9, 0.999))
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=20)
    for step in range(20):
        own = learning_rate_at(step, steps=20, peak=0.5, warmup_steps=warmup_steps, schedule=schedule)
        assert own == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_learning_rates_by_hand() -> None:
    def rates(schedule: str) -> list[float]:
        return [learning_rate_at(step, steps=6, peak=1.0, warmup_steps=2, schedule=schedule) for step in range(6)]

    assert rates("linear") == [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    assert rates("constant") == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert rates("cosine") == pytest.approx([0.0, 0.5, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])
    with pytest.raises(ValueError, match="schedule must be one of"):
        rates("linaer")


def test_only_matrices_are_decayed() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([matrix, vector], 0.1, 0.5, (0.9, 0.999))
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert matrix.tolist() == [[pytest.approx(0.95)] * 2] * 2 and vector.tolist() == [1.0, 1.0]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 4, 7])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, stop_at: int) -> None:
    settings: dict[str, Any] = {"steps": 9, "learning_rate": 1e-2, "seed": 3, "accumulation": 2, "progress": False}
    config = small_models.llama_config(attention_dropout=0.2)  # so that the random state matters
    whole = small_models.random_model(config)
    expected = train(whole, batches(), evaluate=lambda: {"one": 1}, evaluate_every=2, **settings)

    def interrupt(number: int) -> dict[str, Any]:
        if number == 2 * stop_at + 1:
            raise Interrupted
        return batches()(number)

    path = tmp_path / "state.pt"
    settings |= {"checkpoint": path, "checkpoint_every": 2, "evaluate": lambda: {"one": 1}, "evaluate_every": 2}
    first = small_models.random_model(config)
    with pytest.raises(Interrupted):
        train(first, interrupt, **settings)
    assert not first.training
    torch.manual_seed(12345)  # a new process has another random state
    resumed = small_models.random_model(config, seed=7)
    for weight in resumed.parameters():
        assert not torch.equal(weight, torch.zeros_like(weight))
    history = train(resumed, batches(), **settings)
    assert history == expected
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert [entry["step"] for entry in history.evaluations] == [2, 4, 6, 8, 9]
    finished = small_models.random_model(config, seed=8)
    assert train(finished, interrupt, **settings) == expected  # nothing is left to do
    assert torch.equal(finished.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
    with pytest.raises(ValueError, match="other settings"):
        train(resumed, batches(), **(settings | {"learning_rate": 2e-2}))


def test_a_seed_gives_the_same_losses_and_another_seed_others() -> None:
    def losses(seed: int) -> list[float]:
        model = small_models.random_model(small_models.llama_config(attention_dropout=0.2))
        return train(model, batches(), steps=3, learning_rate=1e-2, seed=seed, progress=False).losses

    assert losses(0) == losses(0) != losses(1)


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    model, examples, collator = small_models.random_model(), dataset(6), Collator(0)
    large = accumulate_gradients(model, [collator(examples)])
    expected = gradients(model)
    model.zero_grad()
    micro_batches = [collator(examples[:1]), collator(examples[1:4]), collator(examples[4:])]
    assert accumulate_gradients(model, micro_batches) == pytest.approx(large, abs=1e-6)
    for got, want in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    # The control: a mean of means weighs a token of a short batch more.
    means = [causal_lm_loss(model, batch).item() for batch in micro_batches]
    assert abs(sum(means) / 3 - large) > 1e-3


def test_labels_that_count() -> None:
    labels = torch.tensor([[5, 6, IGNORED, 7], [IGNORED, IGNORED, 8, IGNORED]])
    assert counted({"labels": labels}) == 3  # 6, 7 and 8: nothing comes before the 5
    model = small_models.random_model()
    nothing = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "labels": torch.full((1, 3), IGNORED)}
    with pytest.raises(ValueError, match="no label in this step counts"):
        accumulate_gradients(model, [nothing])
    something = Collator(0)(dataset(2))
    assert accumulate_gradients(model, [nothing, something]) == pytest.approx(causal_lm_loss(model, something).item(), abs=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients(model))


def test_a_loss_function_of_the_lab_and_what_is_frozen() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()

    def squared_error(module: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        return (module(batch["x"]) - batch["y"]).square().mean()

    batch = {"x": torch.tensor([[1.0, 2.0]]), "y": torch.tensor([[3.0]])}
    history = train(
        model, lambda _: batch, steps=60, learning_rate=0.1, seed=0, loss_function=squared_error, max_grad_norm=None, progress=False
    )
    assert history.losses[-1] < 1e-2 * history.losses[0] and len(history.losses) == 60
    assert torch.equal(model[0].weight, frozen) and model.training
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        train(model, lambda _: batch, steps=1, learning_rate=0.1, seed=0, progress=False)


def test_clipping_and_evaluation_mode() -> None:
    model, modes = small_models.random_model(), []

    def evaluate() -> dict[str, float]:
        modes.append(model.training)
        return {"accuracy": 0.5}

    history = train(
        model, batches(), steps=5, learning_rate=1e-3, seed=0, max_grad_norm=1e-9, evaluate=evaluate, evaluate_every=2, progress=False
    )
    assert modes == [False] * 3 and not model.training
    assert history.evaluations == [{"step": 2, "accuracy": 0.5}, {"step": 4, "accuracy": 0.5}, {"step": 5, "accuracy": 0.5}]
    assert min(history.gradient_norms) > 1e-2  # of before clipping
    assert History(**json.loads(json.dumps(asdict(history)))) == history
    assert to_device(batches()(0), model)["use_cache"] is False


def test_after_each_step_the_lab_may_change_the_weights() -> None:
    model, seen = small_models.random_model(), []
    matrix = model.model.layers[0].mlp.up_proj.weight

    def keep_sparse(step: int) -> None:
        assert matrix.grad is not None and matrix[0].abs().sum() > 0
        seen.append(step)
        with torch.no_grad():
            matrix[0] = 0.0

    train(model, batches(), steps=3, learning_rate=1e-2, seed=0, after_step=keep_sparse, progress=False)
    assert seen == [0, 1, 2] and matrix[0].abs().sum() == 0 and matrix[1].abs().sum() > 0


def test_progress_goes_to_the_run_of_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "context.json").write_text('{"strict": true}', encoding="utf-8")
    monkeypatch.setenv("ONEPIECE_RUN", str(tmp_path))
    monkeypatch.setenv("ONEPIECE_NOTEBOOK", "02-train")
    monkeypatch.setattr(lab, "_run", None)
    history = train(small_models.random_model(), batches(), steps=4, learning_rate=1e-3, seed=0)
    events = [json.loads(line) for line in (tmp_path / "events" / "02-train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events[-1] == {"event": "progress", "done": 4, "total": 4, "metrics": {"loss": history.losses[-1]}}
