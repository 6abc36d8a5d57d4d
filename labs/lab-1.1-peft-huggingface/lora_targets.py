"""Which matrices LoRA adapts, how many parameters that makes, and what is frozen.

LoRA leaves a matrix W (out, in) as it is and learns a product beside it: W + (alpha / r) B A, with A (r, in) and
B (out, r). Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch


# Exercise 2. How many parameters does LoRA train?
# A has a column for each input, B a row for each output; both have `rank` of the other. The matrix may be rectangular.
def lora_parameters(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """The number of parameters of A and B together, over all adapted matrices.

    Args:
        shapes: (in, out) of each adapted layer, as `onepiece.adaptation.targeted_shapes` gives them.
        rank: r.
    """
    # SOLUTION 2
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)
    # END SOLUTION


# Exercise 4. Who is adapted, and who may move?
# a. target_linears: the full names of the Linear layers that LoRA adapts. With `kinds`, those whose last name is one of
#    them: `model.layers.0.self_attn.q_proj` is a `q_proj`. Without, all but the output head (`get_output_embeddings()`).
# b. train_only: let exactly the parameters whose name contains `part` require a gradient, whatever was true before.
def target_linears(model: torch.nn.Module, kinds: Sequence[str] | None = None) -> list[str]:
    """Names of the Linear layers to adapt, in the order of `named_modules`.

    Args:
        model: a causal language model of Transformers (or whatever has `get_output_embeddings`).
        kinds: the last names that are wanted, such as ("q_proj", "v_proj"); None for all but the head.
    """
    # SOLUTION 4
    head = model.get_output_embeddings()
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if kinds is None:
        return [name for name, module in linears if module is not head]
    return [name for name, module in linears if name.rpartition(".")[2] in kinds]
    # END SOLUTION


def train_only(model: torch.nn.Module, part: str) -> int:
    """Freeze everything but the parameters whose name contains `part`; returns how many numbers are trained then."""
    # SOLUTION 4
    trained = 0
    for name, weight in model.named_parameters():
        weight.requires_grad_(part in name)
        trained += weight.numel() if part in name else 0
    return trained
    # END SOLUTION
