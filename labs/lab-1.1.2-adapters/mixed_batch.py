"""One batch, an adapter for each row: every prompt goes through a bottleneck of its own, in one pass through one copy of the base.

    adapters = {"relabel": tensors, "new_facts": tensors}         # each: name of a layer -> tensors of its bottleneck
    with rows(model, adapters, ["relabel", None, "new_facts"]):   # None: the base
        model(input_ids=...)                                      # three rows

A row needs two matrices of its own, so the product of a batch with *one* matrix becomes a batch of products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from adapters import NON_LINEARITIES, adapted_layers

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Name of a layer -> `down.weight` (width, hidden), `down.bias` (width,), `up.weight` (hidden, width), `up.bias` (hidden,)."""


def weights_of_rows(by_adapter: Mapping[str, Mapping[str, Tensor]], tasks: Sequence[str | None]) -> dict[str, Tensor]:
    """The weights of one layer for a whole batch: each tensor with the rows in front; those of a row of the base are zero.

    Args:
        by_adapter: name of an adapter -> the tensors of its bottleneck in this layer.
        tasks: for each row the adapter, or None.
    """
    pattern = next(iter(by_adapter.values()))
    nothing = {name: torch.zeros_like(tensor) for name, tensor in pattern.items()}
    chosen = [nothing if task is None else by_adapter[task] for task in tasks]
    return {name: torch.stack([tensors[name] for tensors in chosen]) for name in pattern}


# Exercise 7. The same formula as of one adapter, but row i of `hidden` goes through the weights [i]. `@` multiplies batches of
# matrices: (batch, seq, hidden) @ (batch, hidden, width). A linear layer keeps its weight as (out, in); `.mT` exchanges the last two
# dimensions. A bias, (batch, width), must broadcast over the tokens of its row.
def adapt_rows(hidden: Tensor, weights: Mapping[str, Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
    """(batch, seq, hidden) -> (batch, seq, hidden).

    Args:
        weights: as `weights_of_rows` gives them.
        f: the non-linearity.
    """
    # SOLUTION 7
    narrow = f(hidden @ weights["down.weight"].mT + weights["down.bias"].unsqueeze(1))  # -> (batch, seq, width)
    return hidden + narrow @ weights["up.weight"].mT + weights["up.bias"].unsqueeze(1)  # -> (batch, seq, hidden)
    # END SOLUTION


@contextlib.contextmanager
def rows(model: nn.Module, adapters: Mapping[str, Tensors], tasks: Sequence[str | None]) -> Iterator[None]:
    """Within the block, row i of each batch is answered with the adapter `tasks[i]`.

    Raises:
        ValueError: a task has no adapter, or an adapter has no tensors for one of the model's layers.
    """
    if unknown := [task for task in tasks if task is not None and task not in adapters]:
        msg = f"there is no adapter {unknown[0]!r}; there are {', '.join(adapters) or 'none'}"
        raise ValueError(msg)
    layers = adapted_layers(model)
    for name, tensors in adapters.items():
        if missing := [layer for layer in layers if layer not in tensors]:
            msg = f"the adapter {name} has no tensors for {missing[0]}"
            raise ValueError(msg)
    try:
        for name, layer in layers.items():
            by_adapter = {adapter: tensors[name] for adapter, tensors in adapters.items()}
            f = NON_LINEARITIES[layer.stack[0].non_linearity]
            layer.rows = partial(adapt_rows, weights=weights_of_rows(by_adapter, tasks), f=f)
        yield
    finally:
        for layer in layers.values():
            layer.rows = None
