"""An adapter within a budget: on which layers, and of which rank?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lora_targets import lora_parameters
from onepiece.models import quiet_libraries

if TYPE_CHECKING:
    from peft import LoraConfig

quiet_libraries()  # before peft is imported, which tells of things that are not wrong


def last_names(names: Iterable[str]) -> list[str]:
    """The kinds of layers among some names, each once: `q_proj` for every `model.layers.0.self_attn.q_proj`."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


# Exercise 5. Design an adapter.
# You may train at most `budget` parameters. On which kinds of layers, at which rank? Every choice of kinds can be made to fit by
# its rank, so the number of parameters does not decide for you; notebook 3 trains what you choose and says how good it is. Use at
# least three quarters of the budget, if it is enough for all kinds of layers. If not even rank 1 fits on all that you want, take
# fewer kinds. Keep alpha / r at 2.
def design(shapes: Mapping[str, tuple[int, int]], budget: int) -> LoraConfig:
    """The LoRA to train: `r`, `lora_alpha` and `target_modules` (kinds of layers, such as `q_proj`) of a causal language model.

    Args:
        shapes: the layers that may be adapted: name -> (in, out).
        budget: how many parameters may be trained; rank 1 fits on one kind of layer at least.
    """
    from peft import LoraConfig

    # SOLUTION 5
    kinds = last_names(shapes)
    while (rank := budget // of_rank_one(shapes, kinds)) < 1:
        kinds.remove(max(kinds, key=lambda kind: of_rank_one(shapes, [kind])))
    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=kinds)
    # END SOLUTION


def of_rank_one(shapes: Mapping[str, tuple[int, int]], kinds: Iterable[str]) -> int:
    """Parameters of a LoRA of rank 1 on all layers of some kinds."""
    return lora_parameters([shape for name, shape in shapes.items() if name.rpartition(".")[2] in kinds], 1)
