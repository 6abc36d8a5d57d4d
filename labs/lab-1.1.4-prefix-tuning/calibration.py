"""How the learning rates of this lab were found: a prefix, a prompt and full fine-tuning, searched equally hard.

`nox -s calibrate -- lab-1.1.4-prefix-tuning` runs it; `results/calibration.json` is what it found. `new_facts` takes the rate of
`compose`. All keep their rate constant, which is what full fine-tuning chose in the search of `lab-1.1.1-lora`.

Of the two that are confirmed, `lab.toml` has the one that did better on the confirmation seeds, the search's first if they are equal.
So two of the seeds of the gates had a part in that choice, and notebook 2 says so.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from onepiece import lab
from onepiece.adaptation import Task, accuracy, family, fit, load_base
from onepiece.adaptation.search import Contender, Search, Settings
from onepiece.models import quiet_libraries
from prefix_tuning import PrefixSettings, add_prefix


@cache
def tasks() -> dict[str, Task]:
    """The lab's own: the search sees the same items as the lab, in another order."""
    torch.set_num_threads(lab.settings.threads)
    return family.load_tasks(load_base(lab.settings)[1], chat=lab.settings.chat)


def with_prompt(base: torch.nn.Module, virtual_tokens: int, seed: int) -> torch.nn.Module:
    """The base with a prompt of peft's, which begins with embeddings drawn from the vocabulary."""
    quiet_libraries()
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens))


def run(name: str, method: str, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with the `chosen` learning rate."""
    settings, task = lab.settings, tasks()[name]
    model, _ = load_base(settings)
    if method == "full":
        model.requires_grad_(True)
    elif method == "prompt":
        model = with_prompt(model, settings.virtual_tokens, seed)
    else:
        encoder = settings.encoder if method == "prefix, encoded" else 0
        model = add_prefix(model, PrefixSettings(settings.virtual_tokens, encoder), seed=seed)
    steps = settings.relabel_steps if name == "relabel" else settings.compose_steps
    fit(model, task, seed=seed, steps=steps, batch_size=family.BATCH, schedule=settings.schedule, progress=False, **dict(chosen))
    return accuracy(model, task).accuracy


def contender(task_name: str, method: str, setting: str, *rates: float) -> Contender:
    """One method on one task and its rates, from the middle outwards."""
    return Contender(method, partial(run, task_name, method), {"learning_rate": rates}, {"learning_rate": setting}, comparison=task_name)


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("relabel", "prefix", "relabel_rate", 1e-1, 3e-2, 3e-1),
        contender("relabel", "prefix, encoded", "encoded_rate", 1e-2, 3e-3, 3e-2),
        contender("relabel", "prompt", "prompt_rate", 3e-1, 1e-1, 1.0),
        contender("relabel", "full", "full_rate", 1e-3, 5e-4, 2e-3),
        contender("compose", "prefix", "compose_rate", 1e-1, 3e-2, 3e-1),
        contender("compose", "full", "compose_full_rate", 1e-3, 5e-4, 2e-3),
    ),
    search_seeds=(10,),
    confirmation_seeds=(0, 1),  # two of those of the lab's gates
)
