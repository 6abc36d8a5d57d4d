"""How the rates and schedules of this lab were found: LoRA and full fine-tuning, searched equally hard on each task.

`nox -s calibrate -- lab-1.1.1-lora` runs it; `results/calibration.json` is what it found.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from lora import LoraSettings, add_lora
from onepiece import lab
from onepiece.adaptation import ALL_LINEAR, Task, accuracy, fit, load_base, load_task
from onepiece.adaptation.search import Contender, Search, Settings


@cache
def task(name: str) -> Task:
    """The lab's own task: the search sees the same items as the lab, in another order."""
    settings = lab.settings
    torch.set_num_threads(settings.threads)
    sizes = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
    return load_task(name, load_base(settings)[1], **sizes, chat=settings.chat)


def run(name: str, method: str, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with `chosen`: a learning rate and perhaps a schedule."""
    settings, data = lab.settings, task(name)
    model, _ = load_base(settings)
    if method == "LoRA":
        add_lora(model, LoraSettings(settings.rank, settings.alpha, ALL_LINEAR), seed=seed)
        options = {"schedule": settings.lora_schedule}
    else:
        model.requires_grad_(True)
        options = {"schedule": settings.full_schedule, "warmup_steps": settings.full_warmup_steps}
    if name == "relabel":
        options |= {"steps": settings.relabel_steps, "batch_size": settings.relabel_batch}
    else:
        options |= {"steps": settings.compose_steps, "batch_size": settings.compose_batch}
    fit(model, data, seed=seed, progress=False, **options | dict(chosen))
    return accuracy(model, data).accuracy


def contender(task_name: str, method: str, rates: tuple[float, ...], *schedules: str) -> Contender:
    """One method on one task: its rates, from the middle outwards, and schedules if it may choose one."""
    side = "lora" if method == "LoRA" else "full"
    grid = {"learning_rate": rates} | ({"schedule": schedules} if schedules else {})
    names = {"learning_rate": f"{task_name}_{side}_rate"} | ({"schedule": f"{side}_schedule"} if schedules else {})
    return Contender(method, partial(run, task_name, method), grid, names, comparison=task_name)


# `compose` is the hard task: it chooses the schedule too. `relabel` keeps that one and chooses a rate.
SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("compose", "LoRA", (4e-3, 2e-3, 8e-3), "linear", "constant"),
        contender("compose", "full", (1e-3, 5e-4, 2e-3), "linear", "constant"),
        contender("relabel", "LoRA", (8e-3, 4e-3, 1.6e-2, 2e-3)),
        contender("relabel", "full", (1e-3, 5e-4, 2e-3, 2.5e-4)),
    ),
    search_seeds=(10, 11, 12),
    confirmation_seeds=(0, 1, 2),  # those of the lab's gates
)
