"""One way to time, one way to measure memory, one way to enforce a memory budget.

Every measurement of the course goes through here, so that warm-up, alternation, spread and what counts as
"peak" are the same everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter would land in the notebook

import torch
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, over repetitions."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds; half of the repetitions were faster."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, in seconds: how far repetitions typically lie from the median."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) / 2

    def __str__(self) -> str:
        return f"{self.median * 1e3:.3g} ms ± {self.spread * 1e3:.2g}"


def timed(
    functions: Callable[[], object] | Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1
) -> Timing | dict[str, Timing]:
    """Wall-clock time of one function, or of several side by side.

    Several functions are alternated (a b c, a b c, ...), so that a machine that slows down slows all of them.
    On CUDA the device is synchronised around every call.

    Args:
        functions: a function without arguments, or name -> function.
        repeats: measured calls of each; at least 1.
        warmup: calls of each that are not measured.

    Returns:
        A `Timing`, or name -> `Timing`.
    """
    if repeats < 1:
        msg = f"repeats must be at least 1, not {repeats}"
        raise ValueError(msg)
    named = functions if isinstance(functions, Mapping) else {"": functions}
    for function in named.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(repeats):
        for name, function in named.items():
            _synchronize()
            began = time.perf_counter()
            function()
            _synchronize()
            seconds[name].append(time.perf_counter() - began)
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    return timings if isinstance(functions, Mapping) else timings[""]


def cpu_timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """What `function` returns, and the CPU-seconds that all threads of this process spent meanwhile.

    Unlike wall-clock time they hardly depend on what else the machine does: what a training costs, not how long one waits.
    """
    began = time.process_time()
    result = function()
    return result, time.process_time() - began


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that `function` holds at its worst moment, over what was held before.

    On CUDA this is the caching allocator's own peak. On the CPU every allocation and release that PyTorch's allocator
    reports to the profiler is added up, so workspaces inside an operator count and Python objects do not. What
    `function` returns counts as held. What the matrix library sets up once for itself (32 MiB on a Hopper GPU) does not count.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        _set_up_matrix_library(device)
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        held = function()
    del held
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiler.kineto_results.events() if event.name() == "[memory]")
    current = peak = 0
    for _, change in changes:
        current += change
        peak = max(peak, current)
    return peak


class MemoryBudgetExceeded(RuntimeError):
    """An allocation inside `memory_budget` did not fit."""


@contextlib.contextmanager
def memory_budget(budget: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Let the block allocate at most `budget` bytes more than are held now; then allocations really fail.

    Enforced by CUDA's caching allocator on a GPU and by the Linux kernel (RLIMIT_DATA) on the CPU. macOS and Windows
    enforce no such limit on a process, so there the budget is kept by the tensors' own ledger.

    Raises:
        MemoryBudgetExceeded: instead of PyTorch's out-of-memory errors.
    """
    device = torch.device(device)
    _set_up_matrix_library(device)
    gc.collect()
    if device.type == "cuda":
        limit: contextlib.AbstractContextManager[None] = _cuda_limit(budget, device)
    elif sys.platform == "linux":
        limit = _rlimit(budget)
    else:
        limit = _TensorLedger(budget)
    try:
        with limit:
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryBudgetExceeded(_first_line(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryBudgetExceeded(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def _cuda_limit(budget: int, device: torch.device) -> Iterator[None]:
    index = torch.cuda.current_device() if device.index is None else device.index  # a fraction is only taken for a numbered device
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(index) + budget) / total), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


@contextlib.contextmanager
def _rlimit(budget: int) -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with Path("/proc/self/status").open(encoding="utf-8") as status:
        held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + budget, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class _TensorLedger(torch.utils._python_dispatch.TorchDispatchMode):
    """Adds up the storages that operators return, and refuses the one that exceeds the budget."""

    def __init__(self, budget: int) -> None:
        super().__init__()
        self._budget, self._held, self._storages = budget, 0, {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        import weakref

        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._storages:
                self._storages[storage._cdata] = storage.nbytes()
                self._held += storage.nbytes()
                weakref.finalize(storage, self._release, storage._cdata)
        if self._held > self._budget:
            msg = f"{self._held} bytes are held, {self._budget} are allowed"
            raise MemoryBudgetExceeded(msg)
        return result

    def _release(self, key: int) -> None:
        self._held -= self._storages.pop(key, 0)


@functools.cache
def _set_up_matrix_library(device: torch.device) -> None:
    """Set up what the first matrix product of a process sets up: threads and workspaces, also those of autograd's own threads."""
    x = torch.ones(512, 512, device=device, requires_grad=True)
    (x @ x).relu().sum().backward()


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
