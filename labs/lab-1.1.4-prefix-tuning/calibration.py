"""How the learning rates of this lab were found: scale and shift, and full fine-tuning, searched equally hard.

`nox -s calibrate -- lab-1.1.4-prefix-tuning` runs it; `results/calibration.json` is what it found.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from onepiece import lab
from onepiece.adaptation import ALL_LINEAR, Task, accuracy, fit, load_base, load_task
from onepiece.adaptation.search import Contender, Search, Settings
from scale_shift import add_scale_shift


@cache
def task() -> Task:
    """The lab's own task: the search sees the same items as the lab, in another order."""
    settings = lab.settings
    torch.set_num_threads(settings.threads)
    sizes = {"train_items": settings.train_items, "held_out_items": settings.held_out_items}
    return load_task("relabel", load_base(settings)[1], **sizes, chat=settings.chat)


def run(method: str, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with the `chosen` learning rate."""
    settings, data = lab.settings, task()
    model, _ = load_base(settings)
    if method == "scale and shift":
        add_scale_shift(model, ALL_LINEAR)
    else:
        model.requires_grad_(True)
    fit(model, data, steps=settings.steps, batch_size=settings.batch, seed=seed, progress=False, **dict(chosen))
    return accuracy(model, data).accuracy


def contender(method: str, setting: str, *rates: float) -> Contender:
    """One method and its rates, from the middle outwards."""
    return Contender(method, partial(run, method), {"learning_rate": rates}, {"learning_rate": setting}, comparison="relabel")


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("scale and shift", "scale_shift_rate", 4e-2, 2e-2, 8e-2),
        contender("full", "full_rate", 1e-3, 5e-4, 2e-3),
    ),
    search_seeds=(10, 11),
    confirmation_seeds=(0, 1),  # those of the lab's gates
)
