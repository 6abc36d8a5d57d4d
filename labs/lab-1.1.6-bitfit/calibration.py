"""How the learning rates of this lab were found: BitFit and full fine-tuning, searched equally hard on two tasks.

`nox -s calibrate -- lab-1.1.6-bitfit` runs it; `results/calibration.json` is what it found. `new_facts` takes the rate of `compose`, the
other long task. Both sides keep their rate constant: that is what full fine-tuning chose in the search of `lab-1.1.1-lora`.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from bitfit import train_biases_only
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
    if method == "BitFit":
        train_biases_only(model)
    else:
        model.requires_grad_(True)
    steps = settings.relabel_steps if name == "relabel" else settings.compose_steps
    options = {"steps": steps, "batch_size": family.BATCH, "schedule": settings.schedule}
    fit(model, task, seed=seed, progress=False, **options, **dict(chosen))
    return accuracy(model, task).accuracy


def contender(task_name: str, method: str, setting: str, *rates: float) -> Contender:
    """One method on one task and its rates, from the middle outwards."""
    return Contender(method, partial(run, task_name, method), {"learning_rate": rates}, {"learning_rate": setting}, comparison=task_name)


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("relabel", "BitFit", "relabel_rate", 1e-2, 3e-3, 3e-2),
        contender("relabel", "full", "relabel_full_rate", 1e-3, 3e-4, 3e-3),
        contender("compose", "BitFit", "compose_rate", 2e-2, 1e-2, 4e-2),
        contender("compose", "full", "compose_full_rate", 1e-3, 5e-4, 2e-3),
    ),
    search_seeds=(10,),
    confirmation_seeds=(0, 1),  # two of those of the lab's gates
)
