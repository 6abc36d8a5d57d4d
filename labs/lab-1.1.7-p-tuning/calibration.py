"""How the learning rates of this lab were found: each prompt and full fine-tuning, searched equally hard on `relabel`.

`nox -s calibrate -- lab-1.1.7-p-tuning` runs it; `results/calibration.json` is what it found. With and without an encoder a prompt gets the
same steps and the same number of rates, once with all virtual tokens in front and once with some behind the anchor: a rate that suits one
parametrisation means nothing for another. The notebooks train somewhat longer than a trial; the other tasks take the MLP's rate.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from onepiece import lab
from onepiece.adaptation import Task, accuracy, family, fit, load_base, load_task
from onepiece.adaptation.search import Contender, Search, Settings
from onepiece.course.family_rows import HELD_OUT_ITEMS, TRAIN_ITEMS
from p_tuning import EncoderSettings, Template, add_prompt


@cache
def task() -> Task:
    """The lab's own: the search sees the same items as the lab, in another order."""
    settings = lab.settings
    torch.set_num_threads(settings.threads)
    sizes = {"train_items": TRAIN_ITEMS, "held_out_items": HELD_OUT_ITEMS}
    return load_task("relabel", load_base(settings)[1], **sizes, chat=settings.chat)


def run(kind: str, behind: int, chosen: Settings, seed: int) -> float:
    """Held-out accuracy after a training as notebook 2 does it, but with the `chosen` learning rate and `search_steps`.

    Args:
        kind: of the encoder, or `full` for full fine-tuning.
        behind: how many of the virtual tokens stand behind the anchor.
    """
    settings = lab.settings
    model, tokenizer = load_base(settings)
    if kind == "full":
        model.requires_grad_(True)
        options = {"steps": settings.relabel_full_steps, "schedule": settings.full_schedule}
    else:
        template = Template(front=settings.virtual_tokens - behind, behind=behind)
        anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(settings.anchor))[-1]
        model = add_prompt(model, template, EncoderSettings(kind, settings.width), anchor, seed=seed)
        options = {"steps": settings.search_steps, "schedule": settings.schedule}
    fit(model, task(), seed=seed, batch_size=family.BATCH, progress=False, **options, **dict(chosen))
    return accuracy(model, task()).accuracy


def contender(comparison: str, name: str, kind: str, behind: int, setting: str, *rates: float) -> Contender:
    """One parametrisation and its rates, from the middle outwards."""
    return Contender(name, partial(run, kind, behind), {"learning_rate": rates}, {"learning_rate": setting}, comparison=comparison)


SEARCH = Search(
    metric="accuracy on held-out items (0 to 1)",
    contenders=(
        contender("in front", "no encoder", "none", 0, "plain_rate", 1.0, 0.3, 3.0),
        contender("in front", "MLP", "mlp", 0, "mlp_rate", 1e-2, 3e-3, 3e-2),
        contender("in front", "full", "full", 0, "relabel_full_rate", 1e-3, 5e-4, 2e-3),
        contender("around the text", "no encoder", "none", 8, "around_plain_rate", 0.3, 0.1, 1.0),
        contender("around the text", "MLP", "mlp", 8, "around_mlp_rate", 1e-2, 3e-3, 3e-2),
    ),
    search_seeds=(10,),
    confirmation_seeds=(0, 1),  # two of those of the lab's gates
)
