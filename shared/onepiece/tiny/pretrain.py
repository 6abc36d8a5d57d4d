"""Pretrains the tiny models: `python -m onepiece.tiny.pretrain tiny`.

Tokenizer and model come from the generated corpus alone. A run can be interrupted and resumed (`--resume`); the result is
the same. Weights are averaged over the steps, and the averages are what is saved.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from onepiece.course.errors import UserError
from onepiece.course.places import RUNS
from onepiece.tiny import checkpoints
from onepiece.tiny.corpus import Batch, Corpus, tokenizer_texts
from onepiece.tiny.recipes import RECIPES, Recipe, Stage
from onepiece.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


CURVE_POINTS = 200
TELL_SECONDS = 10.0
SAVE_SECONDS = 120.0


class Run:
    """One pretraining run: model, optimiser, averaged weights and how far it is."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(recipe.seed)
        self.recipe, self.tokenizer, self.device = recipe, tokenizer, device
        self.model: PreTrainedModel = AutoModelForCausalLM.from_config(recipe.config(tokenizer), attn_implementation="sdpa").to(device)
        matrices = [weight for weight in self.model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in self.model.parameters() if weight.dim() <= 1]  # norms and biases are not decayed
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.average = [weight.detach().clone() for weight in self.model.parameters()]
        self.corpus = Corpus(tokenizer, recipe.seed)
        self.step = 0
        self.tokens = 0
        self.curve: list[dict[str, float]] = []
        self.losses: list[float] = []
        """Of the steps since the last point of the curve."""

    def learning_rate(self) -> float:
        """Of the next step: linear warm-up, flat, linear decay to zero."""
        recipe, left = self.recipe, self.recipe.steps - self.step
        return recipe.learning_rate * min(1.0, (self.step + 1) / recipe.warmup_steps, left / (recipe.decay_share * recipe.steps))

    def train_step(self) -> float:
        """One optimiser step; the loss in nats per counted token."""
        progress = self.step / self.recipe.steps
        stage = _stage_at(self.recipe.stages, progress)
        max_pairs = 3 if progress < self.recipe.short_lookups else 5
        batch = self.corpus.batch(self.step, rows=stage.rows, length=stage.length, max_pairs=max_pairs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = batch_loss(self.model, batch, self.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.ids.numel()
        # A short memory at first, or the average would still hold the random initial weights.
        keep = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - keep)
        return float(loss.detach())

    def keep_point(self, cpu_seconds: float) -> None:
        """Add a point to the learning curve: the mean loss since the last one."""
        loss = sum(self.losses) / len(self.losses)
        self.curve.append({"step": self.step, "tokens": self.tokens, "loss": round(loss, 5), "cpu_seconds": round(cpu_seconds, 1)})
        self.losses = []

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "tokens": self.tokens,
            "curve": self.curve,
            "losses": self.losses,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            UserError: "other-recipe", it was made with another recipe.
        """
        if state["recipe"] != asdict(self.recipe):
            raise UserError("other-recipe", name=self.recipe.name)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mine, theirs in zip(self.average, state["average"], strict=True):
            mine.copy_(theirs)
        self.step, self.tokens, self.curve, self.losses = state["step"], state["tokens"], state["curve"], state["losses"]

    def averaged_model(self) -> PreTrainedModel:
        """A copy of the model with the averaged weights."""
        import copy

        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for weight, average in zip(model.parameters(), self.average, strict=True):
                weight.copy_(average)
        return model.eval()


def batch_loss(model: PreTrainedModel, batch: Batch, device: torch.device) -> torch.Tensor:
    """Mean cross-entropy in nats over the counted tokens of a packed batch; a scalar."""
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, -math.inf).to(device)
    hidden = model.base_model(
        input_ids=batch.ids.to(device), position_ids=batch.positions.to(device), attention_mask=mask, use_cache=False
    ).last_hidden_state
    # (rows, length, hidden) -> (n, hidden): the output layer is a third of the work, so only where the loss looks
    chosen = hidden.flatten(0, 1)[batch.predicts.to(device)]
    return functional.cross_entropy(model.get_output_embeddings()(chosen), batch.targets.to(device))


def _stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    ends = 0.0
    for stage in stages:
        ends += stage.share
        if progress < ends:
            return stage
    return stages[-1]


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    stop_at: int | None = None,
    tell: Callable[[str], None] = print,
) -> Run:
    """Train `recipe` and save checkpoint, tokenizer and learning curve into `out`.

    Args:
        resume: go on with the interrupted run in `out`, if there is one.
        stop_at: stop after this step, as an interruption would; the run can be resumed.
        tell: takes a line of progress every few seconds.

    Returns:
        The run; finished unless `stop_at` cut it short.

    Raises:
        UserError: "other-recipe", the interrupted run in `out` was made with another recipe.
    """
    run = Run(recipe, train_tokenizer(tokenizer_texts(), recipe.vocabulary), torch.device(device))
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "interrupted.pt"
    if resume and saved.exists():
        run.restore(torch.load(saved, weights_only=True, map_location=device))
        tell(f"{recipe.name}: resumed at step {run.step}")
    _train(run, saved, min(recipe.steps, stop_at or recipe.steps), tell)
    if run.step < recipe.steps:
        _save_state(run, saved)
    else:
        save(run, out)
        saved.unlink(missing_ok=True)
    return run


def _train(run: Run, saved: Path, last_step: int, tell: Callable[[str], None]) -> None:
    """Steps up to `last_step`; keeps the learning curve, tells how it goes, saves what a resumed run needs."""
    steps = run.recipe.steps
    began, first_step = time.monotonic(), run.step
    first_cpu = time.process_time() - (run.curve[-1]["cpu_seconds"] if run.curve else 0.0)
    last_told = last_saved = began
    while run.step < last_step:
        run.losses.append(run.train_step())
        if run.step % max(1, steps // CURVE_POINTS) == 0 or run.step == steps:
            run.keep_point(time.process_time() - first_cpu)
        now = time.monotonic()
        if now - last_told > TELL_SECONDS or run.step == last_step:
            last_told = now
            left = (now - began) / (run.step - first_step) * (steps - run.step)
            loss = run.losses[-1] if run.losses else run.curve[-1]["loss"]
            tell(f"{run.recipe.name}: step {run.step}/{steps}, loss {loss:.3f}, {left / 60:.1f} min left")
        if now - last_saved > SAVE_SECONDS:
            last_saved = now
            _save_state(run, saved)


def _save_state(run: Run, path: Path) -> None:
    fresh = path.with_suffix(".new")
    torch.save(run.state(), fresh)
    fresh.replace(path)  # an interruption while writing keeps the older one


def save(run: Run, out: Path) -> None:
    """Write the averaged model, tokenizer, generation settings and learning curve."""
    run.averaged_model().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it is written for the owner alone, and containers run as somebody else
    run.tokenizer.save_pretrained(out)
    write_curve({"recipe": asdict(run.recipe), "torch": torch.__version__, "device": run.device.type, "curve": run.curve}, out)


def write_curve(record: dict[str, Any], out: Path) -> None:
    """`learning_curve.json`: recipe, version, device, and one line per point of the curve."""
    points = ",\n".join(f"  {json.dumps(point)}" for point in record["curve"])
    head = json.dumps({key: value for key, value in record.items() if key != "curve"})
    text = f'{head[:-1]}, "curve": [\n{points}\n]}}\n'
    (out / "learning_curve.json").write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    """`python -m onepiece.tiny.pretrain NAME [--steps N] [--out DIRECTORY] [--resume] [--device cpu] [--ship]`."""
    parser = argparse.ArgumentParser(prog="nox -s pretrain --", description="Pretrain one of the tiny models.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="fewer or more optimiser steps than the recipe says")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: runs/pretrain/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted run in --out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--ship", action="store_true", help="when done, replace shared/checkpoints/NAME and its hashes")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.name]
    if options.steps:
        recipe = replace(recipe, steps=options.steps)
    out = options.out or RUNS / "pretrain" / options.name
    try:
        pretrain(recipe, out, device=options.device, resume=options.resume, tell=lambda line: print(line, flush=True))
        if options.ship:
            checkpoints.ship(options.name, out)
    except UserError as error:
        print(f"{error.cause}\n{error.remedy}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
