"""Token-wise operations between two matrix products, for GPUs, each one fused kernel.

Residual, drop path, norm and the cast to the dtype of the products take one pass over memory.
Backward kernels recompute what they need from the inputs of the forward pass.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import gpu
from ..dtypes import products_dtype
from ..sizes import ceil_div

MAX_WIDTH = 8192  # kernels of norms hold whole rows in registers
# Up to this width, recomputing the hidden layer is faster than saving it. An H100 does 295 bfloat16
# FLOPs in the time it moves one byte (989 TFLOP/s, 3.35 TB/s).
NARROW = 256

# TILE is the number of elements of each tensor that a program holds at once. For kernels that sum
# over tokens, PROGRAMS is the number of programs for each multiprocessor, about as many as the
# registers of a Hopper GPU hold. Both are not measured yet.
TILE = 2048
PROGRAMS = dict(
    norm_backward=3, norm_add_backward=3, merge_norm_backward=3, path_backward=8, gelu_backward=8
)


def can_run(x: Tensor, width: int) -> str | None:
    """Why the kernels cannot run on rows of a width, for a map ``x``; None if they can."""
    dtype = products_dtype(x)
    if width > MAX_WIDTH:
        return f'rows are {width} wide, more than {MAX_WIDTH}'
    if x.dtype not in (dtype, torch.float32):
        return f'the map is {x.dtype}, the products {dtype}'
    return gpu.why_not(x.device.type, dtype)


def add_norm(
    x: Tensor,
    path: Tensor | None,
    factors: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """The layer norm, in ``dtype``, of ``x + factors[0] * path``, a map (B, H, W, C)."""
    normed = x.new_empty(x.shape, dtype=dtype)
    _add_norm(x, path, None, factors, weight, bias, None, normed, eps)
    return normed


def add(x: Tensor, path: Tensor, other: Tensor, factors: Tensor | None) -> Tensor:
    """``x + factors[0] * path + factors[1] * other``, (B, H, W, C), in the dtype of ``x``."""
    total = torch.empty_like(x)
    _add_norm(x, path, other, factors, None, None, total, None, 0.0)
    return total


def _add_norm(
    x: Tensor,
    path: Tensor | None,
    other: Tensor | None,
    factors: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    total: Tensor | None,
    normed: Tensor | None,
    eps: float,
) -> None:
    layout = _whole_rows(x.shape[-1])
    tensors = x, path, other, factors, weight, bias, total, normed
    _launch('add_norm', layout.programs(x), tensors, layout, **_sizes(x), EPS=eps)


class _NormGradients(NamedTuple):
    """Result of :func:`norm_backward`.

    Attributes:
        d_x: Gradient of ``x``, in its dtype.
        d_path: Gradient of ``path``, in its dtype; undefined without a path.
        normed: Output of the norm, in the dtype of ``grad``.
        sums: Gradients of weight and bias of the norm and, with a path, the sum of ``d_path`` over
            all tokens, (2 or 3, C), in float32 or wider.
    """

    d_x: Tensor
    d_path: Tensor
    normed: Tensor
    sums: Tensor


def norm_backward(
    grad: Tensor,
    onward: Tensor,
    x: Tensor,
    path: Tensor | None,
    factors: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    normed: Tensor | None = None,
) -> _NormGradients:
    """The backward pass of :func:`add_norm`.

    Args:
        grad: Gradient of the output of the norm.
        onward: Gradient that reaches the sum not through the norm.
        normed: Output of the norm, if available.
    """
    layout = _whole_rows(x.shape[-1])
    group, groups = layout.groups('norm_backward', x)
    parts = 2 if path is None else 3
    sums = x.new_empty(groups, parts, x.shape[-1], dtype=gpu.sum_dtype(x))
    d_x = torch.empty_like(x)
    d_path = grad if path is None else torch.empty_like(path)
    written = torch.empty_like(grad) if normed is None else normed
    # The kernel skips outputs that are None.
    outputs = d_x, None if path is None else d_path, written if normed is None else None, sums
    tensors = grad, onward, x, path, factors, weight, bias, *outputs
    _launch('norm_backward', groups, tensors, layout, **_sizes(x), group=group, EPS=eps)
    return _NormGradients(d_x, d_path, written, sums.sum(0))


def norm_add(
    x: Tensor, path: Tensor, factors: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """``x + factors * norm(path)``, (B, ..., C), in the dtype of ``x``; ``factors`` is (B,)."""
    total, layout = torch.empty_like(x), _whole_rows(x.shape[-1])
    tensors = x, path, factors, weight, bias, total
    _launch('norm_add', layout.programs(x), tensors, layout, **_sizes(x), EPS=eps)
    return total


def norm_add_backward(
    grad: Tensor, path: Tensor, factors: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The backward pass of :func:`norm_add`, for the gradient ``grad`` of its output.

    Returns:
        The gradient of ``path``, in its dtype, and (3, C) in float32 or wider: the gradients of
        weight and bias, and the sum of the gradient of ``path`` over all tokens.
    """
    layout = _whole_rows(grad.shape[-1])
    group, groups = layout.groups('norm_add_backward', grad)
    d_path = torch.empty_like(path)
    sums = grad.new_empty(groups, 3, grad.shape[-1], dtype=gpu.sum_dtype(grad))
    tensors, sizes = (grad, path, factors, weight, d_path, sums), _sizes(grad)
    _launch('norm_add_backward', groups, tensors, layout, **sizes, group=group, EPS=eps)
    return d_path, sums.sum(0)


def path_backward(
    grad: Tensor, factors: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``factors[1] * grad`` in ``dtype``, and its sum over all tokens in float32 or wider."""
    layout = _tiles(grad.shape[-1])
    group, groups = layout.groups('path_backward', grad)
    d_path = torch.empty_like(grad, dtype=dtype)
    sums = grad.new_empty(groups, grad.shape[-1], dtype=gpu.sum_dtype(grad))
    tensors, programs = (grad, factors, d_path, sums), groups * layout.columns
    _launch('path_backward', programs, tensors, layout, **_sizes(grad), group=group)
    return d_path, sums.sum(0)


def gelu(hidden: Tensor, keep: bool) -> Tensor:
    """GELU of a contiguous map (B, ..., C); overwrites ``hidden`` unless ``keep``."""
    if hidden.dtype.itemsize > 2:  # memory-bound, so that PyTorch's kernel is as fast
        return F.gelu(hidden) if keep else torch.ops.aten.gelu_(hidden)
    active = torch.empty_like(hidden) if keep else hidden
    layout, count = _Layout(TILE, 1), hidden.numel()
    _launch('gelu', ceil_div(count, TILE), (hidden, active), layout, count=count)
    return active


def gelu_backward(
    hidden: Tensor, grad: Tensor, active: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of GELU. Overwrites the gradient ``grad`` of the output.

    Args:
        active: Receives the output of GELU; may be ``hidden`` itself. A new tensor if None.

    Returns:
        The output of GELU, the gradient of ``hidden``, and its sum over all tokens in float32 or
        wider.
    """
    layout = _tiles(grad.shape[-1])
    group, groups = layout.groups('gelu_backward', grad)
    active = torch.empty_like(hidden) if active is None else active
    sums = grad.new_empty(groups, grad.shape[-1], dtype=gpu.sum_dtype(grad))
    tensors, programs = (hidden, grad, active, grad, sums), groups * layout.columns
    sizes = dict(tokens=_tokens(grad), width=grad.shape[-1])
    _launch('gelu_backward', programs, tensors, layout, **sizes, group=group)
    return active, grad, sums.sum(0)


def merge_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The layer norm, in ``dtype``, of merged 2×2 tokens: (B, H, W, C) to (B, H', W', 4C).

    H' and W' are H / 2 and W / 2, rounded up. Odd sides are padded with zeros.
    """
    B, H, W, C = x.shape
    normed = x.new_empty(B, ceil_div(H, 2), ceil_div(W, 2), 4 * C, dtype=dtype)
    layout, tensors = _whole_rows(4 * C), (x, weight, bias, normed)
    _launch('merge_norm', layout.programs(normed), tensors, layout, **_merged(normed, x), EPS=eps)
    return normed


def merge_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of :func:`merge_norm`, for the gradient ``grad`` of its output.

    Returns:
        The gradient of ``x``, the output again, in the dtype of ``grad``, and the gradients of
        weight and bias, (2, 4C), in float32 or wider.
    """
    layout = _whole_rows(grad.shape[-1])
    group, groups = layout.groups('merge_norm_backward', grad)
    d_x, normed = torch.empty_like(x), torch.empty_like(grad)
    sums = x.new_empty(groups, 2, grad.shape[-1], dtype=gpu.sum_dtype(x))
    tensors = grad, x, weight, bias, d_x, normed, sums
    sizes = _merged(grad, x)
    _launch('merge_norm_backward', groups, tensors, layout, **sizes, group=group, EPS=eps)
    return d_x, normed, sums.sum(0)


# --- launching -----------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """The tiles of a table that programs hold.

    Attributes:
        block: Columns of a tile.
        rows: Rows of a tile.
        columns: Number of tiles in a row.
    """

    block: int
    rows: int
    columns: int = 1

    def programs(self, table: Tensor) -> int:
        """Number of tiles along the rows; each is processed by one program."""
        return ceil_div(_tokens(table), self.rows)

    def groups(self, kernel: str, table: Tensor) -> tuple[int, int]:
        """Number of tiles in a group, and of groups, for a kernel that sums over tokens.

        There are enough groups to occupy the device, but a group has at least eight tiles, so that
        the partial sums are small compared with the table.
        """
        tiles = self.programs(table)
        busy = max(1, PROGRAMS[kernel] * gpu.multiprocessors(table.device) // self.columns)
        group = max(ceil_div(tiles, busy), min(tiles, 8), 1)
        return group, ceil_div(tiles, group)


def _whole_rows(width: int) -> _Layout:
    block = max(16, 1 << (width - 1).bit_length())
    return _Layout(block, max(1, TILE // block))


def _tiles(width: int) -> _Layout:
    block = min(128, _whole_rows(width).block)
    return _Layout(block, TILE // block, ceil_div(width, block))


@functools.cache
def _kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


def _launch(name: str, programs: int, tensors: tuple, layout: _Layout, **options: Any) -> None:
    if programs:
        options |= constants(layout, tensors[0])
        with torch.cuda.device_of(tensors[0]):
            getattr(_kernels(), name)[(programs,)](*tensors, **options)


def constants(layout: _Layout, x: Tensor) -> dict[str, Any]:
    """Further compile-time constants of kernels on tables like ``x``."""
    return dict(ROWS=layout.rows, BLOCK=layout.block, ACC=gpu.accumulator(x))


def _tokens(table: Tensor) -> int:
    return table.shape[:-1].numel()


def _sizes(x: Tensor) -> dict[str, int]:
    """Sizes of maps (B, ..., C), as arguments of kernels."""
    per_image = x.shape[1:-1].numel()
    return dict(tokens=len(x) * per_image, images=len(x), per_image=per_image, width=x.shape[-1])


def _merged(merged: Tensor, x: Tensor) -> dict[str, int]:
    """Sizes of merged tokens (B, H', W', 4C) of a map ``x``, as arguments of kernels."""
    return dict(tokens=_tokens(merged), H=x.shape[1], W=x.shape[2], width=merged.shape[-1])
