"""How the learning rates of this lab were found: the prompt and full fine-tuning, searched equally hard on `relabel`.

`nox -s calibrate -- lab-1.1.3-prompt-tuning` runs it; `results/calibration.json` is what it found. Each side has its own number of steps, a
prompt more of them: it is cheaper to keep and slower to find. The other tasks take the prompt's rate from here.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from onepiece import lab
from onepiece.adaptation import Task, accuracy, family, fit, load_base, load_task
from onepiece.adaptation.search import Contender, Search, Settings
from onepiece.course.family_rows import HELD_OUT_ITEMS, TRAIN_ITEMS
from prompt_tuning import PromptSettings, add_prompt


@cache
def task() -> Task:
    """The lab's own: the search sees the same items as the lab, in another order."""
    settings = lab.settings
    torch.set_num_threads(settings.threads)
    sizes = {"train_items": TRAIN_ITEMS, "held_out_items": HELD_OUT_ITEMS}
    return load_task("relabel", load_base(settings)[1], **sizes, chat=settings.chat)


def run(method: str, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with the `chosen` learning rate."""
    settings = lab.settings
    model, _ = load_base(settings)
    if method == "prompt":
        model = add_prompt(model, PromptSettings(settings.virtual_tokens), seed=seed)
        options = {"steps": settings.relabel_steps, "schedule": settings.schedule}
    else:
        model.requires_grad_(True)
        options = {"steps": settings.relabel_full_steps, "schedule": settings.full_schedule}
    fit(model, task(), seed=seed, batch_size=family.BATCH, progress=False, **options, **dict(chosen))
    return accuracy(model, task()).accuracy


def contender(method: str, setting: str, *rates: float) -> Contender:
    """One method and its rates, from the middle outwards."""
    return Contender(method, partial(run, method), {"learning_rate": rates}, {"learning_rate": setting}, comparison="relabel")


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("prompt", "relabel_rate", 1.0, 0.3, 3.0),
        contender("full", "relabel_full_rate", 1e-3, 5e-4, 2e-3),
    ),
    search_seeds=(10,),
    confirmation_seeds=(0, 1),  # two of those of the lab's gates
)
