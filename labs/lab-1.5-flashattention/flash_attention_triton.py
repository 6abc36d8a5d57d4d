"""FlashAttention-2 in Triton, with the signature of `flash_attention.flash_attention`.

On a machine with an NVIDIA GPU the kernels are compiled; on any other they run in Triton's interpreter, which executes
the same source with NumPy: right, and slow. Without the package `triton` (it exists for Linux only), importing this
module raises ImportError.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flash_attention import check_shapes, default_scale
from triton_kernels import INTERPRETED, attend, forward_kernel, key_value_gradient_kernel, query_gradient_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIMS = (16, 32, 64, 128)  # a tile is head_dim wide, tiles are powers of two, and tl.dot wants at least 16


@dataclass(frozen=True)
class Launch:
    """How the work of a kernel is cut into programs, and how one program runs."""

    block_queries: int  # tokens; a power of two, at least 16
    block_keys: int  # tokens; a power of two, at least 16
    num_stages: int = 1  # tiles of the inner loop in flight at a time, each of them in shared memory
    num_warps: int = 4  # of 32 threads, per program

    def options(self, head_dim: int, causal: bool) -> dict[str, int | bool]:
        """What is fixed when a kernel is compiled."""
        return {
            "HEAD_DIM": head_dim, "BLOCK_QUERIES": self.block_queries, "BLOCK_KEYS": self.block_keys, "CAUSAL": causal,
            "num_stages": self.num_stages, "num_warps": self.num_warps,
        }  # fmt: skip


class Launches(NamedTuple):
    """One for each direction: the backward pass holds more tiles at a time, so its tiles are smaller."""

    forward: Launch
    backward: Launch


def default_launches(head_dim: int, tensor_cores: bool) -> Launches:
    """Tiles that fit shared memory (99 KiB from compute capability 8.6 on, 64 KiB on 7.5) and spill few registers."""
    if not tensor_cores:  # every thread multiplies out of its own registers: they are the limit
        small = Launch(16 if head_dim == 128 else 32, 32)
        return Launches(small, small)
    backward = Launch(64, 64, num_stages=2, num_warps=8)
    if head_dim == 128:
        return Launches(Launch(128, 64, num_stages=2, num_warps=8), backward)
    return Launches(Launch(128, 64, num_stages=3), backward)


def launches_for(queries: Tensor) -> Launches:
    """The default for these queries on their device."""
    if INTERPRETED:  # no registers to run out of, and the fewer tiles, the fewer calls of NumPy
        return Launches(Launch(64, 64), Launch(64, 64))
    # Triton 3.7 puts 16-bit products on tensor cores from compute capability 8.0 on, float32 at full precision never.
    capable = torch.cuda.get_device_capability(queries.device) >= (8, 0)
    return default_launches(queries.shape[-1], capable and queries.dtype != torch.float32)


class Sizes(NamedTuple):
    """The numbers that every kernel takes after its tensors, in their order."""

    query_len: int  # tokens
    key_len: int  # tokens
    first_row: int  # the first query that sees a key: the kernels start there
    group: int  # query heads per key/value head
    scale: float  # what the scores are multiplied by before the softmax


def inner_loop_is_open() -> bool:
    """Whether exercise 7 is still to be done: the compiler knows no `raise`, and the interpreter would wrap it."""
    return "NotImplementedError" in inspect.getsource(attend.fn)


def count_blocks(tokens: int, block: int) -> int:
    """How many programs `tokens` rows or columns need; the last one may have fewer."""
    return -(-tokens // block)


class FlashAttentionTriton(torch.autograd.Function):
    """Launches the kernels; saves the same five tensors as `flash_attention.FlashAttention`."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool, scale: float, launches: Launches
    ) -> Tensor:
        # This copies what a model hands over transposed. Kernels that take strides save the copy, and are longer.
        queries, keys, values = (tensor.contiguous() for tensor in (queries, keys, values))
        batch, heads, query_len, head_dim = queries.shape
        kv_heads, key_len = keys.shape[1:3]
        first_row = max(0, query_len - key_len) if causal else 0
        sizes = Sizes(query_len, key_len, first_row, heads // kv_heads, scale)
        output = torch.empty_like(queries)
        output[:, :, :first_row] = 0
        logsumexp = torch.full_like(queries[..., 0], -math.inf, dtype=torch.float32)  # -> (batch, heads, query_len)
        grid = (count_blocks(query_len - first_row, launches.forward.block_queries), batch * heads)
        options = launches.forward.options(head_dim, causal)
        with torch.cuda.device_of(queries):
            forward_kernel[grid](queries, keys, values, output, logsumexp, *sizes, **options)
        ctx.save_for_backward(queries, keys, values, output, logsumexp)
        ctx.sizes, ctx.causal, ctx.launch = sizes, causal, launches.backward
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        queries, keys, values, output, logsumexp = ctx.saved_tensors
        sizes, launch, (batch, heads, _, head_dim) = ctx.sizes, ctx.launch, queries.shape
        grad_output = grad_output.contiguous()
        dots = (grad_output.float() * output.float()).sum(dim=-1)  # -> (batch, heads, query_len)
        inputs = (queries, keys, values, grad_output, logsumexp, dots)
        grad_queries, grad_keys, grad_values = (torch.empty_like(tensor) for tensor in (queries, keys, values))
        grad_queries[:, :, : sizes.first_row] = 0
        key_grid = (count_blocks(sizes.key_len, launch.block_keys), batch * keys.shape[1])
        query_grid = (count_blocks(sizes.query_len - sizes.first_row, launch.block_queries), batch * heads)
        options = launch.options(head_dim, ctx.causal)
        with torch.cuda.device_of(queries):
            key_value_gradient_kernel[key_grid](*inputs, grad_keys, grad_values, *sizes, **options)
            query_gradient_kernel[query_grid](*inputs, grad_queries, *sizes, **options)
        return grad_queries, grad_keys, grad_values, None, None, None


def flash_attention_triton(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, scale: float | None = None,
    block_queries: int | None = None, block_keys: int | None = None,
) -> Tensor:  # fmt: skip
    """Exact attention by GPU kernels, differentiable once; shapes, masks and result as `flash_attention`.

    float32 is multiplied at full precision; bfloat16 and float16 on tensor cores, summed in float32. Block sizes are in
    tokens, powers of two from 16 on, and hold for both passes; None chooses them by head_dim and dtype.
    Raises ValueError for shapes, dtypes, head sizes, blocks or devices that the kernels do not take.
    """
    check_shapes(queries, keys, values)
    head_dim, dtype = queries.shape[-1], queries.dtype
    if head_dim not in HEAD_DIMS or dtype not in DTYPES or keys.dtype != dtype or values.dtype != dtype:
        raise ValueError(f"one dtype of {DTYPES} and head_dim of {HEAD_DIMS} needed; got {dtype} and {head_dim}")
    if not (queries.is_cuda or INTERPRETED):
        raise ValueError('the kernels were compiled for the GPU, the tensors are not on it; move them: .to("cuda")')
    launches = launches_for(queries)
    for name, size in (("block_queries", block_queries), ("block_keys", block_keys)):
        if size is not None:
            if size < 16 or size & (size - 1):
                raise ValueError(f"{name} must be a power of two, at least 16; got {size}")
            launches = Launches(*(replace(launch, **{name: size}) for launch in launches))
    scale = default_scale(head_dim) if scale is None else scale
    return FlashAttentionTriton.apply(queries, keys, values, causal, scale, launches)
