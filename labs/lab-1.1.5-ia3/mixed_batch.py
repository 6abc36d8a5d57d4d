"""One batch, a task for each row: every prompt is answered with vectors of its own, in one pass through one copy of the weights.

    adapters = {"relabel": vectors, "new_facts": vectors}         # each: name of a layer -> (features,)
    with rows(model, adapters, ["relabel", None, "new_facts"]):   # None: the base
        model(input_ids=...)                                      # three rows

LoRA's rows would each need two matrices of their own, in kernels made for that. A vector for a row is one more product of two tensors.
Source: Liu et al. (2022), on mixed-task batches, https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ia3 import ia3_layers

Vectors = Mapping[str, Tensor]
"""Name of a layer -> its factors, (features,)."""


# Exercise 7. One layer's factors for a whole batch: row i gets those of the adapter that `tasks[i]` names, and a row with None is the
# base's, which changes nothing. Stack them so that they broadcast over the activations, (batch, seq, features).
def factors_of_rows(by_adapter: Mapping[str, Tensor], tasks: Sequence[str | None]) -> Tensor:
    """(batch, 1, features), for one layer.

    Args:
        by_adapter: name of an adapter -> its factors of this layer, (features,).
        tasks: for each row the adapter, or None.
    """
    # SOLUTION 7
    nothing = torch.ones_like(next(iter(by_adapter.values())))
    chosen = [nothing if task is None else by_adapter[task] for task in tasks]
    return torch.stack(chosen).unsqueeze(1)  # (batch, features) -> (batch, 1, features)
    # END SOLUTION


@contextlib.contextmanager
def rows(model: nn.Module, adapters: Mapping[str, Vectors], tasks: Sequence[str | None]) -> Iterator[None]:
    """Within the block, row i of each batch is answered with the adapter `tasks[i]`.

    Raises:
        ValueError: a task has no adapter, or an adapter has no vector for one of the model's layers.
    """
    if unknown := [task for task in tasks if task is not None and task not in adapters]:
        msg = f"there is no adapter {unknown[0]!r}; there are {', '.join(adapters) or 'none'}"
        raise ValueError(msg)
    layers = ia3_layers(model)
    for name, vectors in adapters.items():
        if missing := [layer for layer in layers if layer not in vectors]:
            msg = f"the adapter {name} has no vector for {missing[0]}"
            raise ValueError(msg)
    try:
        for name, layer in layers.items():
            by_adapter = {adapter: vectors[name].to(layer.scale.device) for adapter, vectors in adapters.items()}
            layer.rows = factors_of_rows(by_adapter, tasks)
        yield
    finally:
        for layer in layers.values():
            layer.rows = None


class ProductCounter(TorchDispatchMode):
    """Counts products of two tensors by elements, one for each number that comes out; matrix products are none of them.

    with ProductCounter() as counter:
        model(input_ids=...)
    counter.products
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the operator, and count it if it is such a product."""
        result = operator(*args, **(kwargs or {}))
        if operator is torch.ops.aten.mul.Tensor:
            self.products += result.numel()
        return result
