"""One training loop for lessons: small enough to read, equal to `transformers.Trainer` step by step.

    history = train(model, batches, steps=200, learning_rate=1e-3, seed=0)

What is trained is what `requires_grad`: all of a model, or the adapters in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from onepiece import lab
from onepiece.data import IGNORED, Batch

SCHEDULES = ("cosine", "linear", "constant")

LossFunction = Callable[[torch.nn.Module, Batch], torch.Tensor]


@dataclass(slots=True)
class History:
    """What a training measured; `History(**json.loads(...))` reads back what `json.dumps(asdict(history))` wrote."""

    losses: list[float] = field(default_factory=list)
    """Of each optimizer step; in nats per counted token, unless the loss function is another."""
    learning_rates: list[float] = field(default_factory=list)
    """That each step used."""
    gradient_norms: list[float] = field(default_factory=list)
    """Before clipping."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """What `evaluate` gave, with the number of steps done before it as `step`."""


def train(
    model: torch.nn.Module,
    batches: Callable[[int], Batch],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    schedule: str = "cosine",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    accumulation: int = 1,
    max_grad_norm: float | None = 1.0,
    loss_function: LossFunction | None = None,
    after_step: Callable[[int], object] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> History:
    """Train with AdamW (https://arxiv.org/abs/1711.05101) for a number of optimizer steps.

    Args:
        model: a model of Transformers, with or without adapters; with a `loss_function`, any module.
        batches: micro-batch number -> batch; an `onepiece.data.Batches`.
        steps: optimizer steps of the whole training, those before an interruption included.
        learning_rate: the peak.
        seed: of dropout and whatever else the model draws. The order of the data has its own seed, in `batches`.
        schedule, warmup_steps: as `learning_rate_at` takes them.
        weight_decay: of matrices; biases and norms are never decayed.
        accumulation: micro-batches per step; the gradient is that of one large batch.
        max_grad_norm: a larger gradient is scaled down to this norm; None never clips.
        loss_function: (model, batch) -> mean loss, a scalar; micro-batches then weigh the same. None: cross-entropy of the
            labels, in which every counted token of a step weighs the same.
        after_step: called with the step's number, from 0, when the weights have moved and before the gradients are cleared:
            where AdaLoRA moves its ranks, and pruning puts its zeros back.
        evaluate: called with the model in evaluation mode; what it gives is kept in the history.
        evaluate_every: steps between evaluations; the end is one of them. None: only at the end.
        checkpoint: a file from which an interrupted training goes on, as if it had not been interrupted. It is made if it is
            not there.
        checkpoint_every: steps between two writes of `checkpoint`; the end is one of them.
        progress: tell the run of the lab how far it is (needs a run; see `onepiece.lab`).

    Returns:
        The history, of the steps before an interruption too. The model is trained in place and keeps its mode.

    Raises:
        ValueError: nothing is trainable, a step has no label that counts, there is no such schedule, or `checkpoint` was made
            with other settings.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        msg = "nothing to train: no parameter of the model requires a gradient"
        raise ValueError(msg)
    optimizer = make_optimizer(weights.values(), learning_rate, weight_decay, betas)
    schedule_settings = {"steps": steps, "peak": learning_rate, "warmup_steps": warmup_steps, "schedule": schedule}
    settings = schedule_settings | {
        "seed": seed, "weight_decay": weight_decay, "betas": betas, "accumulation": accumulation, "max_grad_norm": max_grad_norm,
    }  # fmt: skip
    state = _State(weights, optimizer, settings)
    torch.manual_seed(seed)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    history, was_training = state.history, model.training
    remaining: Iterable[int] = range(len(history.losses), steps)
    if progress:
        remaining = lab.progress(remaining, loss=lambda: history.losses[-1])
    try:
        model.train()
        for step in remaining:
            rate = learning_rate_at(step, **schedule_settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            micro_batches = [batches(step * accumulation + index) for index in range(accumulation)]
            loss = accumulate_gradients(model, micro_batches, loss_function)
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), math.inf if max_grad_norm is None else max_grad_norm)
            optimizer.step()
            if after_step is not None:
                after_step(step)
            optimizer.zero_grad(set_to_none=True)
            history.learning_rates.append(rate)
            history.gradient_norms.append(float(norm))
            history.losses.append(loss)
            if evaluate is not None and _due(step + 1, evaluate_every, steps):
                model.eval()
                history.evaluations.append({"step": step + 1} | {name: float(value) for name, value in evaluate().items()})
                model.train()
            if checkpoint is not None and _due(step + 1, checkpoint_every, steps):
                state.save(checkpoint)
    finally:
        model.train(was_training)
    return history


def _due(done: int, every: int | None, steps: int) -> bool:
    return done == steps or (every is not None and done % every == 0)


def make_optimizer(
    weights: Iterable[torch.nn.Parameter], learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW that decays matrices only: pulling a norm or a bias to zero has no use."""
    weights = list(weights)
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)


def learning_rate_at(step: int, *, steps: int, peak: float, warmup_steps: int, schedule: str) -> float:
    """The learning rate of step `step`, counted from 0.

    Linear from 0 to `peak` during warm-up (so the very first step of a warm-up moves nothing, as in Transformers); then it
    stays (`constant`), or falls to 0 at `steps`, in a straight line (`linear`) or half a cosine (`cosine`,
    https://arxiv.org/abs/1608.03983).

    Raises:
        ValueError: there is no such schedule.
    """
    if schedule not in SCHEDULES:
        msg = f"schedule must be one of {SCHEDULES}, not {schedule!r}"
        raise ValueError(msg)
    if step < warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def accumulate_gradients(model: torch.nn.Module, micro_batches: Sequence[Batch], loss_function: LossFunction | None = None) -> float:
    """Add the gradient of the mean loss over all micro-batches to the weights' `.grad`.

    Averaging the means of unequal micro-batches would let a token of a short one weigh more; so each is weighted by the
    tokens that count in it.

    Returns:
        The mean loss.

    Raises:
        ValueError: no label counts.
    """
    shares = [1.0] * len(micro_batches) if loss_function is not None else [float(counted(batch)) for batch in micro_batches]
    if sum(shares) == 0:
        msg = "no label in this step counts: is every token masked, or the batch empty?"
        raise ValueError(msg)
    total = 0.0
    for batch, share in zip(micro_batches, shares, strict=True):
        if share == 0:
            continue  # the mean over no token is not a number
        loss = (loss_function or causal_lm_loss)(model, batch) * (share / sum(shares))
        loss.backward()
        total += float(loss.detach())
    return total


def counted(batch: Batch) -> int:
    """How many labels count: the first of a row never does, because nothing comes before it to predict it from."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def causal_lm_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the next token in nats over the labels that count; a scalar."""
    return model(**to_device(batch, model)).loss


def to_device(batch: Batch, model: torch.nn.Module) -> Batch:
    """The batch where the model is, and without a cache: keys and values of earlier steps have no use in training."""
    device = next(model.parameters()).device
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return moved | {"use_cache": False}


class _State:
    """Everything an interrupted training needs to go on as if nothing had happened."""

    def __init__(self, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> None:
        self.weights, self.optimizer, self.settings, self.history = weights, optimizer, settings, History()
        self.device = next(iter(weights.values())).device

    def save(self, path: Path) -> None:
        content = {
            "settings": self.settings,
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        fresh = path.with_name(path.name + ".new")
        torch.save(content, fresh)
        fresh.replace(path)  # an interruption while writing keeps the older one

    def load(self, path: Path) -> None:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["settings"] != self.settings or set(content["weights"]) != set(self.weights):
            msg = f"{path} was made by a training with other settings: remove it to begin anew"
            raise ValueError(msg)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(content["weights"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = History(**content["history"])
        torch.set_rng_state(content["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random"], self.device)
