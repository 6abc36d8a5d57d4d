"""AdapterDrop: the first layers run without their adapters, and the training may prepare for it.

Source: Rücklé et al. (2020), https://arxiv.org/abs/2010.11918. Up to the first layer that has an adapter the model is the base: no
gradient is needed there, and at inference those layers can be computed once for all tasks.
"""

from __future__ import annotations

import torch
from torch import nn

from adapters import adapted_layers, layer_number


# Exercise 4. AdapterDrop leaves the adapters of the first `number` layers out. A layer whose adapters are left out has
# active = False; the others have True, also if they were left out before. `layer_number(name)` says where a layer stands.
def drop_first(model: nn.Module, number: int) -> None:
    """Run without the adapters of the first `number` layers, in place; 0 runs all of them.

    Raises:
        ValueError: below 0, or more than the model has layers.
    """
    layers = adapted_layers(model)
    deepest = 1 + max(layer_number(name) for name in layers)
    if not 0 <= number <= deepest:
        msg = f"adapters can be left out in 0 to {deepest} layers, not in {number}"
        raise ValueError(msg)
    # SOLUTION 4
    for name, layer in layers.items():
        layer.active = layer_number(name) >= number
    # END SOLUTION


class RandomDrop:
    """Leave out another number of layers in each step of a training: Rücklé et al. call that robust.

    drop = RandomDrop(model, seed=0)
    fit(model, task, ..., after_step=drop)
    drop_first(model, 0)
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)
        self.layers = 1 + max(layer_number(name) for name in adapted_layers(model))
        self(-1)  # for the first step

    def __call__(self, step: int) -> None:
        """Draw for the step that follows: 0 to all layers but one, equally likely."""
        drop_first(self.model, int(torch.randint(self.layers, (1,), generator=self.generator)))
