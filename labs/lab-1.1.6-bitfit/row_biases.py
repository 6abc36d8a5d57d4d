"""One batch, a task for each row: what a task has added to the biases is added behind each layer, to its rows alone.

    shifts = {"relabel": differences(base, relabel), "compose": differences(base, compose)}
    with rows(model, shifts, ["relabel", None, "compose"]):   # the model has the base's biases; None: the base
        model(input_ids=...)                                  # three rows

A bias is the last thing that a linear layer or a norm does, so that an addition behind it is the same as another bias.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitfit import bias_parameters

Biases = Mapping[str, Tensor]
"""Name of a bias -> numbers, (out,)."""


def differences(base: Biases, task: Biases) -> dict[str, Tensor]:
    """Name of a bias -> what the task has added to it."""
    return {name: task[name].to(bias.device) - bias for name, bias in base.items()}


# Exercise 6. One bias for a whole batch: row i gets what the task `tasks[i]` has added, and a row with None is the base's. Stack them
# so that they broadcast over the outputs of the layer, (batch, seq, out).
def shifts_of_rows(by_task: Mapping[str, Tensor], tasks: Sequence[str | None]) -> Tensor:
    """(batch, 1, out), for one bias.

    Args:
        by_task: name of a task -> what it has added to this bias, (out,).
        tasks: for each row the task, or None.
    """
    # SOLUTION 6
    nothing = torch.zeros_like(next(iter(by_task.values())))
    chosen = [nothing if task is None else by_task[task] for task in tasks]
    return torch.stack(chosen).unsqueeze(1)  # (batch, out) -> (batch, 1, out)
    # END SOLUTION


@contextlib.contextmanager
def rows(model: nn.Module, shifts: Mapping[str, Biases], tasks: Sequence[str | None]) -> Iterator[None]:
    """Within the block, row i of each batch is answered with the biases of `tasks[i]`.

    Args:
        shifts: name of a task -> what it has added to the biases that the model has now.

    Raises:
        ValueError: a task is not there, or has nothing for one of the model's biases.
    """
    if unknown := [task for task in tasks if task is not None and task not in shifts]:
        msg = f"there is no task {unknown[0]!r}; there are {', '.join(shifts) or 'none'}"
        raise ValueError(msg)
    names = list(bias_parameters(model))
    for task, found in shifts.items():
        if missing := [name for name in names if name not in found]:
            msg = f"the task {task} has nothing for {missing[0]}"
            raise ValueError(msg)
    with contextlib.ExitStack() as hooks:
        for name in names:
            added = shifts_of_rows({task: found[name] for task, found in shifts.items()}, tasks)
            layer = model.get_submodule(name.rpartition(".")[0])
            handle = layer.register_forward_hook(lambda _layer, _inputs, outputs, added=added: outputs + added.to(outputs.dtype))
            hooks.callback(handle.remove)
        yield


class OperatorCounter(TorchDispatchMode):
    """Counts how often each operator runs, and the numbers that come out of additions.

    with OperatorCounter() as counter:
        model(input_ids=...)
    counter.calls.total(), counter.added
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.added = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the operator, and count it."""
        result = operator(*args, **(kwargs or {}))
        self.calls[str(operator)] += 1
        if operator is torch.ops.aten.add.Tensor:
            self.added += result.numel()
        return result
