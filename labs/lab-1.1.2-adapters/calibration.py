"""How the rates of this lab were found: adapters at two placements and full fine-tuning, searched equally hard on each task.

`nox -s calibrate -- lab-1.1.2-adapters` runs it; `results/calibration.json` is what it found.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from adapters import adapter_parameter_count, add_adapters, houlsby, pfeiffer, settings_within
from onepiece import lab
from onepiece.adaptation import Task, accuracy, family, fit, load_base
from onepiece.adaptation.search import Contender, Search, Settings


@cache
def tasks() -> dict[str, Task]:
    """The lab's own: the search sees the same items as the lab, in another order."""
    torch.set_num_threads(lab.settings.threads)
    return family.load_tasks(load_base(lab.settings)[1], chat=lab.settings.chat)


def run(name: str, method: str, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with the `chosen` learning rate."""
    settings, task = lab.settings, tasks()[name]
    model, _ = load_base(settings)
    two = houlsby(settings.reduction_factor)
    if method == "full":
        model.requires_grad_(True)
    else:
        one = settings_within(model, pfeiffer(1), adapter_parameter_count(model, two))
        add_adapters(model, two if method == "Houlsby" else one, seed=seed)
    steps = settings.relabel_steps if name == "relabel" else settings.compose_steps
    schedule = settings.full_schedule if method == "full" else settings.schedule
    fit(model, task, seed=seed, progress=False, steps=steps, batch_size=family.BATCH, schedule=schedule, **dict(chosen))
    return accuracy(model, task).accuracy


def contender(task_name: str, method: str, setting: str, *rates: float) -> Contender:
    """One method on one task and its rates, from the middle outwards."""
    return Contender(method, partial(run, task_name, method), {"learning_rate": rates}, {"learning_rate": setting}, comparison=task_name)


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("relabel", "Houlsby", "relabel_rate", 1e-2, 5e-3, 2e-2),
        contender("relabel", "full", "relabel_full_rate", 1e-3, 5e-4, 2e-3),
        contender("compose", "Houlsby", "compose_rate", 1e-2, 5e-3, 2e-2),
        contender("compose", "Pfeiffer", "compose_pfeiffer_rate", 1e-2, 5e-3, 2e-2),
    ),
    search_seeds=(10,),
    confirmation_seeds=(0, 1),  # two of those of the lab's gates
)
