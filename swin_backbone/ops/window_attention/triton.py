"""Shifted-window attention in fused Triton kernels, forward and backward.

The kernels read the un-partitioned projection and write the un-partitioned output. Partitioned
copies, score matrices, attention masks and dropout masks are never in memory. For a map of n tokens
of width C with e bytes per element, and windows of one tile (M² <= 64), the memory traffic is:

    forward    4 e n C    reads q, k, v; writes out
    backward   7 e n C    reads q, k, v and the gradient of out; writes the gradients of q, k, v

In addition, the bias and the partial sums of its gradient have heads * M⁴ elements each (a few
megabytes, for any image). Larger windows are processed in tiles. They save one float32 per row for
backward, and read their keys and values M² / 64 times, mostly from cache. With m tokens including
padding, the matrix products cost 4 m M² C FLOPs forward and 10 m M² C backward (for one tile, which
recomputes the scores). At M = 7 in bfloat16, that is 25 and 35 FLOPs per byte. An H100 does 295
(989 TFLOP/s, 3.35 TB/s), so memory is the limit.

Importing this module does not need triton; :func:`can_run` reports whether it is installed.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import gpu
from ..backends import Backend, Problem

MAX_HEAD_DIM = 64


class Tuning(NamedTuple):
    """Launch parameters. They do not change what the kernels compute."""

    programs: int  # target for each multiprocessor; each program processes a group of windows
    num_warps: int
    num_stages: int = 2
    maxnreg: int | None = None


def default_tuning(qkv: Tensor, window_size: int, backward: bool) -> Tuning:
    """Launch parameters by the number of registers; benchmarks/gpu_attention.py tunes them.

    They are not measured on a GPU yet. The registers of a multiprocessor hold four programs for
    windows of one tile, or three in the backward pass, which spills registers except on Hopper. The
    grid has about twice as many programs; each writes its part of the gradient of the bias.
    """
    halves, hopper = qkv.dtype.itemsize == 2, gpu.is_hopper(qkv.device)
    registers = None
    if halves and _tiles(window_size) == 1:
        if not backward:
            registers = 128
        elif hopper:
            registers = 168
    return Tuning(6 if backward else 8, num_warps=4 if halves or hopper else 8, maxnreg=registers)


@functools.cache
def _kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


def can_run(problem: Problem) -> str | None:
    """Why the kernels cannot run a problem; None if they can."""
    if (reason := gpu.why_not(problem.device, problem.dtype)) is not None:
        return reason
    if problem.head_dim > MAX_HEAD_DIM:
        return f'heads are {problem.head_dim} wide, more than {MAX_HEAD_DIM}'
    if problem.dropout_p >= 1:
        return f'dropout_p is {problem.dropout_p}: no weight is kept'
    return None


def shifted_window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    padding: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """:func:`.reference.shifted_window_attention`, fused; differentiable once.

    Sums are float32 for every dtype and have a fixed order: results and gradients are deterministic
    bit for bit. float32 products have full precision unless
    ``torch.backends.cuda.matmul.fp32_precision`` or ``torch.set_float32_matmul_precision`` allows
    TF32. On Hopper, full precision is three TF32 products, as in PyTorch's fused attention.
    """
    seed = draw_seed(qkv.device) if dropout_p > 0 else None
    return ShiftedWindowAttention.apply(
        qkv, bias, padding, seed, window_size, shift_size, scale, dropout_p
    )


class ShiftedWindowAttention(torch.autograd.Function):
    """:func:`forward_kernel` with :func:`backward_kernel` as its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        bias: Tensor,
        padding: Tensor | None,
        seed: Tensor | None,
        window_size: int,
        shift_size: int,
        scale: float | None,
        dropout_p: float,
    ) -> Tensor:
        ctx.options = dict(
            window_size=window_size, shift_size=shift_size, scale=scale, dropout_p=dropout_p
        )
        out, lse = forward_kernel(qkv, bias, padding, seed, **ctx.options)
        ctx.save_for_backward(qkv, bias, padding, seed, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        return (*backward_kernel(grad_out, *ctx.saved_tensors, **ctx.options), *[None] * 5)


def forward(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float | None,
) -> Tensor:
    """The op without dropout, for the custom operator; its gradient is :func:`backward`."""
    options: dict[str, Any] = dict(window_size=window_size, shift_size=shift_size, scale=scale)
    return forward_kernel(qkv, bias, padding, None, **options)[0]


def backward(
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of qkv, bias and padding, computed only from the inputs of the op.

    Windows of more than one tile need the forward pass once more.
    """
    options: dict[str, Any] = dict(window_size=window_size, shift_size=shift_size, scale=scale)
    out = lse = None
    if _tiles(window_size) > 1:
        out, lse = forward_kernel(qkv, bias, padding, None, **options)
    return backward_kernel(grad, qkv, bias, padding, None, out, lse, **options)


def draw_seed(device: torch.device) -> Tensor:
    """A seed for dropout, int64 (1,) on the device, from the default generator of the device."""
    return torch.randint(2**62, (1,), device=device)


def lse_shape(qkv_shape: torch.Size, heads: int, window_size: int) -> tuple[int, ...]:
    """Shape of ``lse`` of :func:`forward_kernel`: (windows, heads, M²), or (0,) for one tile."""
    tokens = window_size**2
    if tokens <= _block(tokens):
        return (0,)
    B, H, W, _ = qkv_shape
    return B * -(-H // window_size) * -(-W // window_size), heads, tokens


def forward_kernel(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    seed: Tensor | None,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor]:
    """The op without its gradient.

    Args:
        seed: The seed of dropout, int64 (1,) on the device; None without dropout. It alone
            determines which weights are dropped.
        tuning: Launch parameters, for benchmarks; :func:`default_tuning` if None.

    The other arguments are those of the op.

    Returns:
        out: (B, H, W, C), contiguous, in the dtype of qkv.
        lse: Base 2 logarithm of the sum of exponentials of each row, float32, of
            :func:`lse_shape`.
    """
    heads = bias.shape[0]
    tuning = tuning or default_tuning(qkv, window_size, backward=False)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    lse = qkv.new_empty(lse_shape(qkv.shape, heads, window_size), dtype=gpu.sum_dtype(qkv))
    qkv, padding = _prepare(qkv, padding, window_size)
    options = _options(qkv, heads, window_size, shift_size, scale, dropout_p, padding)
    grid = _grid(heads * _tiles(window_size), options, tuning, qkv.device)
    _launch('forward', grid, (qkv, bias.contiguous(), padding, seed, out, lse), options, tuning)
    return out, lse


def backward_kernel(
    grad_out: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    seed: Tensor | None,
    out: Tensor | None,
    lse: Tensor | None,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of the op, from the arguments and results of :func:`forward_kernel`.

    Args:
        grad_out: Gradient of ``out``, (B, H, W, C).
        out, lse: Results of the forward pass. They may be None for windows of one tile.

    Returns:
        The gradients of qkv (contiguous), bias and padding (None without padding), each in the
        dtype of its input.
    """
    heads = bias.shape[0]
    tiles = _tiles(window_size)
    tuning = tuning or default_tuning(qkv, window_size, backward=True)
    given_padding = padding
    grad_qkv = qkv.new_empty(qkv.shape)
    qkv, padding = _prepare(qkv, padding, window_size)
    options = _options(qkv, heads, window_size, shift_size, scale, dropout_p, padding)
    inputs = (qkv, bias.contiguous(), padding, seed)
    grad_out = grad_out.contiguous()

    new = functools.partial(qkv.new_empty, dtype=gpu.sum_dtype(qkv))

    def launch(name: str, grid: _Grid, *tensors: Tensor) -> None:
        _launch(name, grid, (*inputs, *tensors), options, tuning)

    grid = _grid(heads * tiles, options, tuning, qkv.device)
    part_padding = new(grid.groups * tiles, heads, 2, options['HEAD_DIM'])
    if tiles == 1:
        part_bias = new(grid.groups, *bias.shape)
        launch('backward_window', grid, grad_out, grad_qkv, part_bias, part_padding)
    else:
        assert out is not None and lse is not None
        delta = torch.empty_like(lse)
        launch('backward_queries', grid, out, lse, grad_out, delta, grad_qkv)
        launch('backward_keys', grid, lse, grad_out, delta, grad_qkv, part_padding)
        grid = _grid(heads * tiles**2, options, tuning, qkv.device)
        part_bias = new(grid.groups, *bias.shape)
        launch('backward_bias', grid, lse, grad_out, delta, part_bias)
    grad_padding = None
    if given_padding is not None:
        # The gradient of padded queries is zero, because their output is dropped.
        grad_padding = torch.zeros_like(given_padding, memory_format=torch.contiguous_format)
        if padding is not None:
            grad_padding.view(3, heads, -1)[1:] = part_padding.sum(0).transpose(0, 1)
    return grad_qkv, part_bias.sum(0).to(bias.dtype), grad_padding


def _block(tokens: int) -> int:
    """Side of a tile of scores: a power of two, at least 16 as the matrix units require."""
    return min(64, max(16, 1 << (tokens - 1).bit_length()))


def _tiles(window_size: int) -> int:
    """Number of tiles along each axis of the scores of a window."""
    return -(-(window_size**2) // _block(window_size**2))


def _prepare(qkv: Tensor, padding: Tensor | None, window_size: int) -> tuple[Tensor, Tensor | None]:
    """Makes the channels of qkv contiguous; the padded token, or None if the map has no padding."""
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    if not (qkv.shape[1] % window_size or qkv.shape[2] % window_size):
        return qkv, None
    if padding is None:
        return qkv, qkv.new_zeros(qkv.shape[3])
    return qkv, padding.to(qkv.dtype).contiguous()


def _options(
    qkv: Tensor,
    heads: int,
    window_size: int,
    shift_size: int,
    scale: float | None,
    dropout_p: float,
    padding: Tensor | None,
) -> dict:
    """The arguments of every kernel other than tensors: sizes, then compile-time constants.

    Strides are passed in units of the largest power of two that divides all of them. So kernels
    know the alignment of rows and load 16 bytes at once, without recompilation for each image size.
    """
    B, H, W, channels = qkv.shape
    rows, columns = -(-H // window_size), -(-W // window_size)
    head_dim = channels // (3 * heads)
    strides = [s if n > 1 else 0 for s, n in zip(qkv.stride()[:3], qkv.shape[:3], strict=True)]
    align = math.gcd(16, *strides)
    # The largest offset from the first token of an image: in qkv, and in its gradient.
    height, width = rows * window_size, columns * window_size
    reach = (height * strides[1] + width * strides[2]) // align
    reach = max(reach, 3 * heads * (height * W + width))
    return dict(
        **dict(H=H, W=W, rows=rows, columns=columns, windows=B * rows * columns, heads=heads),
        **{f'stride_{axis}': s // align for axis, s in zip('bhw', strides, strict=True)},
        **dict(ALIGN=align, WINDOW=window_size, SHIFT=shift_size, HEAD_DIM=head_dim),
        SCALE=head_dim**-0.5 if scale is None else float(scale),
        DROPOUT=float(dropout_p),
        PADDED=padding is not None,
        BLOCK=_block(window_size**2),
        D=max(16, 1 << (head_dim - 1).bit_length()),
        PRECISION=_precision(qkv),
        ACC=gpu.accumulator(qkv),
        INDEX=gpu.index_type(reach),
    )


def _precision(qkv: Tensor) -> str:
    """The input_precision of `tl.dot`, or 'widened' to convert its operands to float32."""
    if qkv.dtype == torch.bfloat16 and gpu.interpreted():
        return 'widened'
    if qkv.dtype != torch.float32:
        return 'ieee'
    if gpu.allows_tf32():
        return 'tf32'
    return 'tf32x3' if gpu.is_hopper(qkv.device) else 'ieee'


class _Grid(NamedTuple):
    """The programs of a launch: ``programs`` for each of ``groups`` groups of windows."""

    groups: int
    programs: int


def _grid(programs: int, options: dict, tuning: Tuning, device: torch.device) -> _Grid:
    groups = max(1, tuning.programs * gpu.multiprocessors(device) // programs)
    return _Grid(min(groups, options['windows']), programs)


def _launch(name: str, grid: _Grid, tensors: tuple, options: dict, tuning: Tuning) -> None:
    if grid.groups == 0:
        return
    machine = tuning._asdict()
    del machine['programs']
    with torch.cuda.device_of(tensors[0]):
        kernel = getattr(_kernels(), name)
        kernel[(grid.groups * grid.programs,)](*tensors, **options, groups=grid.groups, **machine)


BACKEND = Backend('triton', can_run, shifted_window_attention, forward, backward)
