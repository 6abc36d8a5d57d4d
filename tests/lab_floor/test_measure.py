"""Time, memory and budgets, against allocations whose size is known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from parts import missing

from onepiece import measure
from onepiece.measure import MemoryBudgetExceeded, Timing, cpu_timed, memory_budget, peak_memory, timed

MIB = 2**20
SLACK = MIB // 4  # what PyTorch itself allocates on the way


def block(mebibytes: int, device: str = "cpu") -> torch.Tensor:
    """A tensor of that many MiB, really written."""
    return torch.ones(mebibytes * MIB // 4, device=device)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        missing("cuda", "this machine has no GPU that PyTorch can use")
    return str(request.param)


# --- peak memory --------------------------------------------------------------------------------------------


def test_the_peak_of_one_allocation_is_its_size(device: str) -> None:
    assert peak_memory(lambda: block(16, device), device) == pytest.approx(16 * MIB, abs=SLACK)


def test_what_is_released_on_the_way_does_not_count_twice(device: str) -> None:
    def work() -> None:
        first = block(8, device)
        second = block(8, device)
        del first, second
        block(8, device)

    assert peak_memory(work, device) == pytest.approx(16 * MIB, abs=SLACK)


def test_the_worst_moment_counts_although_it_passed(device: str) -> None:
    def work() -> torch.Tensor:
        block(24, device)
        return block(4, device)

    assert peak_memory(work, device) == pytest.approx(24 * MIB, abs=SLACK)


def test_what_was_held_before_does_not_count(device: str) -> None:
    held = block(32, device)
    assert peak_memory(lambda: held.add_(1), device) == pytest.approx(0, abs=SLACK)


def test_what_a_function_returns_counts_as_held(device: str) -> None:
    assert peak_memory(lambda: [block(4, device), block(4, device)], device) == pytest.approx(8 * MIB, abs=SLACK)


def test_releasing_what_was_held_before_makes_room() -> None:
    if not torch.cuda.is_available():
        missing("cuda", "on the CPU, the profiler does not know what was allocated before it began")
    device = "cuda"
    held = [block(16, device)]

    def work() -> torch.Tensor:
        held.clear()
        return block(16, device)

    assert peak_memory(work, device) == pytest.approx(0, abs=SLACK)


def test_a_view_takes_nothing(device: str) -> None:
    held = block(16, device)
    assert peak_memory(lambda: held.view(2, -1).transpose(0, 1)[1:], device) == pytest.approx(0, abs=SLACK)


def test_two_measurements_do_not_disturb_each_other(device: str) -> None:
    small = [peak_memory(lambda: block(2, device), device) for _ in range(2)]
    peak_memory(lambda: block(32, device), device)
    assert [*small, peak_memory(lambda: block(2, device), device)] == pytest.approx([2 * MIB] * 3, abs=SLACK)


class Doubling(torch.autograd.Function):
    """y = 2x, whose forward saves 8 MiB and whose backward needs 16 MiB more for a moment."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(block(8, x.device.type))
        return 2 * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        block(16, gradient.device.type)
        return 2 * gradient


def test_what_autograd_saves_and_needs_in_the_backward_counts(device: str) -> None:
    x = torch.ones(4, device=device, requires_grad=True)
    assert peak_memory(lambda: Doubling.apply(x), device) == pytest.approx(8 * MIB, abs=SLACK)
    assert peak_memory(lambda: Doubling.apply(x).sum().backward(), device) == pytest.approx(24 * MIB, abs=SLACK)


def test_the_square_of_attention_is_seen(device: str) -> None:
    query = torch.randn(1024, 16, device=device)
    assert peak_memory(lambda: torch.softmax(query @ query.T, dim=-1), device) == pytest.approx(2 * 1024 * 1024 * 4, abs=SLACK)


def test_an_error_inside_is_the_callers_and_the_next_measurement_works(device: str) -> None:
    def broken() -> None:
        block(4, device)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        peak_memory(broken, device)
    assert peak_memory(lambda: block(4, device), device) == pytest.approx(4 * MIB, abs=SLACK)


# --- time -----------------------------------------------------------------------------------------------------


def test_functions_are_warmed_up_and_then_alternated() -> None:
    called: list[str] = []
    timings = timed({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, repeats=3, warmup=2)
    assert sorted(called[:4]) == ["a", "a", "b", "b"]
    assert called[4:] == ["a", "b"] * 3
    assert isinstance(timings, dict)
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_one_function_gives_one_timing() -> None:
    called: list[int] = []
    timing = timed(lambda: called.append(1), repeats=4, warmup=0)
    assert isinstance(timing, Timing)
    assert len(called) == len(timing.seconds) == 4
    assert all(seconds >= 0 for seconds in timing.seconds)


@pytest.mark.parametrize("repeats", [0, -1])
def test_no_repetitions_are_refused(repeats: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        timed(lambda: None, repeats=repeats)


def test_median_and_spread_are_those_of_the_repetitions() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.spread == 1.0, "half the interquartile range: one slow repetition does not decide"
    assert Timing((2.0,)).spread == 0.0
    assert str(Timing((0.001, 0.001))) == "1 ms ± 0"


def test_cpu_seconds_are_those_of_the_work_and_not_of_the_waiting() -> None:
    def work(seconds: float) -> str:
        began = time.process_time()
        while time.process_time() - began < seconds:
            pass
        time.sleep(0.5)
        return "done"

    value, seconds = cpu_timed(lambda: work(0.2))
    assert value == "done"
    assert 0.2 <= seconds < 0.5


# --- budgets ----------------------------------------------------------------------------------------------------


def platform_budget(budget: int) -> AbstractContextManager[None]:
    return memory_budget(budget)


def ledger_budget(budget: int) -> AbstractContextManager[None]:
    """What systems get that enforce no limit on a process."""
    return measure._TensorLedger(budget)


Budget = Callable[[int], AbstractContextManager[None]]
both = pytest.mark.parametrize("budget", [platform_budget, ledger_budget], ids=["platform", "ledger"])


@both
def test_an_allocation_beyond_the_budget_really_fails(budget: Budget) -> None:
    with pytest.raises(MemoryBudgetExceeded), budget(64 * MIB):
        block(320)


@both
def test_an_allocation_within_the_budget_works(budget: Budget) -> None:
    with budget(256 * MIB):
        assert block(64).sum() == 64 * MIB // 4


@both
def test_the_limit_is_gone_afterwards_also_after_it_was_hit(budget: Budget) -> None:
    with pytest.raises(MemoryBudgetExceeded), budget(64 * MIB):
        block(320)
    assert block(320).numel() == 320 * MIB // 4


@both
def test_what_is_held_together_counts_and_what_is_released_does_not(budget: Budget) -> None:
    with budget(160 * MIB):
        for _ in range(8):
            block(64)  # released at once
    with pytest.raises(MemoryBudgetExceeded), budget(160 * MIB):
        held = [block(64) for _ in range(8)]
        del held


@both
def test_what_was_held_before_is_not_charged(budget: Budget) -> None:
    held = block(256)
    with budget(64 * MIB):
        held.add_(1)
        assert held[: 4 * MIB].view(2, -1).shape == (2, 2 * MIB)


@both
def test_the_backward_of_autograd_is_under_the_budget_too(budget: Budget) -> None:
    x = torch.ones(32 * MIB // 4, requires_grad=True)
    with pytest.raises(MemoryBudgetExceeded), budget(100 * MIB):
        y = x
        for _ in range(8):
            y = (y * 2).sin()  # saves 32 MiB each
        y.sum().backward()


@both
def test_another_error_inside_is_the_callers(budget: Budget) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied") as error, budget(64 * MIB):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not isinstance(error.value, MemoryBudgetExceeded)


@both
def test_a_budget_inside_a_budget_gives_back_the_outer_one(budget: Budget) -> None:
    with budget(256 * MIB):
        with pytest.raises(MemoryBudgetExceeded), budget(32 * MIB):
            block(128)
        block(64)
        with pytest.raises(RuntimeError):  # it becomes MemoryBudgetExceeded where the outer budget ends
            block(320)


def test_the_budget_of_a_gpu_is_enforced_and_lifted() -> None:
    if not torch.cuda.is_available():
        missing("cuda", "this machine has no GPU that PyTorch can use")
    with pytest.raises(MemoryBudgetExceeded), memory_budget(64 * MIB, "cuda"):
        block(320, "cuda")
    assert block(320, "cuda").numel() == 320 * MIB // 4


@pytest.fixture
def fresh_process() -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """Run a program in a process in which PyTorch has not started its threads yet."""

    def run(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], env=os.environ | environ, capture_output=True, text=True)

    return run


def test_threads_that_start_under_a_budget_do_not_end_the_process(
    fresh_process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # Each thread of PyTorch reserves a stack of megabytes when the first operator needs it; that is no lesson's allocation.
    program = (
        "import torch\nfrom onepiece.measure import memory_budget\n"
        "x = torch.ones(512, 512)\nwith memory_budget(48 * 2**20):\n    print(float((x @ x).relu().sum()))\n"
    )
    done = fresh_process(program, OMP_NUM_THREADS="32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(float(512**3))
