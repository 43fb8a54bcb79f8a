"""A Swin block for GPUs: attention's kernels, PyTorch's products, and what lies between them fused.

Between two products everything goes through one kernel: residual, drop path, norm and the cast to
the products' dtype. For n tokens of width C, a map in float32 and products in bfloat16, that moves,
in bytes for each of the n C elements, products and attention included:

    forward    4 + 2 | 2 + 6 | 6 + 2 | 2 + 2 | 6 + 2 | 2 + 8 | 8 + 8 | 8 + 2 | 8 + 4

The block's input is kept for the backward pass (4), with queries, keys and values (6), what
attention gave (2) and its projection (2). Norms and GELU are computed again from what they were
given. Of the hidden layer's four times C channels (8), narrow blocks keep nothing: its product
costs C FLOPs for a byte that is not kept, and below a few hundred a GPU is faster at FLOPs than at
bytes.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..dtypes import products_dtype
from ..sizes import ceil_div
from ..window_attention import triton as attention
from ..window_attention.problem import Problem
from .parameters import Options, Parameters

# Up to this width the hidden layer is computed again. An H100 does 295 bfloat16 FLOPs in the time
# it needs for a byte (989 TFLOP/s, 3.35 TB/s).
NARROW = 256
MAX_WIDTH = 8192

# Elements that a program holds of each tensor at once; and, of programs that sum over tokens, how
# many for each multiprocessor: a Hopper GPU has registers for so many. Not measured yet.
TILE, PROGRAMS = 2048, {'norm_backward': 3, 'path_backward': 8, 'gelu_backward': 8}


def can_run(x: Tensor, heads: int, window_size: int) -> str | None:
    """Why this backend cannot take a call; None where it can."""
    dtype, width = products_dtype(x), x.shape[-1]
    if width > MAX_WIDTH:
        return f'tokens are {width} wide, more than {MAX_WIDTH}'
    if x.dtype not in (dtype, torch.float32):
        return f'the map is {x.dtype}, the products {dtype}'
    return attention.can_run(Problem(x.device.type, dtype, window_size, width // heads))


def swin_block(
    x: Tensor,
    parameters: Parameters,
    options: Options,
    factors: Tensor | None = None,
    recompute: bool | str = False,
) -> Tensor:
    """As :func:`.reference.swin_block`; can be differentiated once.

    Products are in autocast's dtype where it is on, all else in float32 at least. ``recompute``
    says what is computed again for the backward pass besides what always is: ``'attention'``,
    ``'mlp'``, or True or ``'block'`` for both.
    """
    dtype = products_dtype(x)
    trained = any(t is not None and t.requires_grad for t in (x, *parameters))
    with torch.autocast(x.device.type, enabled=False):
        if trained and torch.is_grad_enabled():
            return _Block.apply(x, factors, options, dtype, recompute, *parameters)
        x = x.contiguous()
        p = _cast(parameters, dtype)
        path = _attend(x, p, options, dtype).path
        return _feed_forward(x, path, p, options, factors, keep=False)[0]


class _Attended(NamedTuple):
    """What attention's half of the forward pass gives; kept for the backward pass, or made again.

    Attributes:
        qkv: Queries, keys and values, (B, H, W, 3C).
        attended: What attention gave, (B, H, W, C).
        lse: What attention's kernel keeps for itself.
        path: The projection of ``attended``, (B, H, W, C).
    """

    qkv: Tensor
    attended: Tensor
    lse: Tensor
    path: Tensor


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factors: Tensor | None,
        options: Options,
        dtype: torch.dtype,
        recompute: bool | str,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.options, ctx.dtype = options, dtype
        x = x.contiguous()
        p = _cast(Parameters(*parameters), dtype)
        half = _attend(x, p, options, dtype)
        keep_hidden = x.shape[-1] > NARROW and recompute not in (True, 'block', 'mlp')
        out, hidden = _feed_forward(x, half.path, p, options, factors, keep_hidden)
        kept = () if recompute in (True, 'block', 'attention') else half
        ctx.save_for_backward(x, factors, hidden, *parameters, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factors, hidden, *saved = ctx.saved_tensors
        count = len(Parameters._fields)
        parameters = Parameters(*saved[:count])
        needed = Parameters(*ctx.needs_input_grad[-count:])
        with torch.autocast(x.device.type, enabled=False):
            p = _cast(parameters, ctx.dtype)
            half = _Attended(*saved[count:]) if saved[count:] else None
            half = half or _attend(x, p, ctx.options, ctx.dtype)
            d_x, gradients = _backward(
                grad.contiguous(), x, half, hidden, p, needed, ctx.options, factors
            )
        found = (gradients.get(name) for name in Parameters._fields)
        like = zip(found, parameters, strict=True)
        return d_x, *[None] * 4, *(g if g is None or t is None else g.to(t.dtype) for g, t in like)


def _cast(p: Parameters, dtype: torch.dtype) -> Parameters:
    """The products' weights and biases in their dtype."""
    return p._replace(
        qkv_weight=p.qkv_weight.to(dtype),
        qkv_bias=None if p.qkv_bias is None else p.qkv_bias.to(dtype),
        proj_weight=p.proj_weight.to(dtype),
        proj_bias=p.proj_bias.to(dtype),
        fc1_weight=p.fc1_weight.to(dtype),
        fc1_bias=p.fc1_bias.to(dtype),
        fc2_weight=p.fc2_weight.to(dtype),
        fc2_bias=p.fc2_bias.to(dtype),
    )


def _attend(x: Tensor, p: Parameters, o: Options, dtype: torch.dtype) -> _Attended:
    """Everything up to attention's path."""
    normed = add_norm(x, None, None, p.norm1_weight, p.norm1_bias, o.eps1, dtype)
    qkv = F.linear(normed, p.qkv_weight, p.qkv_bias)
    attended, lse = attention.forward_kernel(qkv, p.bias, p.qkv_bias, None, **_windows(o))
    return _Attended(qkv, attended, lse, F.linear(attended, p.proj_weight, p.proj_bias))


def _feed_forward(
    x: Tensor, path: Tensor, p: Parameters, o: Options, factors: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Everything after attention's path: the block's output, and the hidden layer if kept."""
    normed = add_norm(x, path, factors, p.norm2_weight, p.norm2_bias, o.eps2, path.dtype)
    hidden = F.linear(normed, p.fc1_weight, p.fc1_bias)
    del normed
    active = F.gelu(hidden) if keep else torch.ops.aten.gelu_(hidden)
    other = F.linear(active, p.fc2_weight, p.fc2_bias)
    return add(x, path, other, factors), hidden if keep else None


def _backward(
    grad: Tensor,
    x: Tensor,
    half: _Attended,
    hidden: Tensor | None,
    p: Parameters,
    needed: Parameters,
    o: Options,
    factors: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Gradients of the input and of the parameters; None of weights that need none."""
    gradients: dict[str, Tensor | None] = {}

    def of_weight(name: str, d_out: Tensor, inputs: Tensor) -> None:
        if getattr(needed, f'{name}_weight'):
            gradients[f'{name}_weight'] = d_out.flatten(0, 2).t() @ inputs.flatten(0, 2)

    # The feed-forward network.
    norm = p.norm2_weight, p.norm2_bias, o.eps2
    d_path, gradients['fc2_bias'] = path_backward(grad, factors, half.path.dtype)
    d_active = d_path @ p.fc2_weight
    normed = active = None
    if hidden is None:
        normed = add_norm(x, half.path, factors, *norm, half.path.dtype)
        hidden = active = F.linear(normed, p.fc1_weight, p.fc1_bias)
    active, d_hidden, gradients['fc1_bias'] = gelu_backward(hidden, d_active, active)
    of_weight('fc2', d_path, active)
    del hidden, active, d_active, d_path
    d_normed = d_hidden @ p.fc1_weight
    d_x, d_path, normed, sums = norm_backward(d_normed, grad, x, half.path, factors, *norm, normed)
    of_weight('fc1', d_hidden, normed)
    del d_hidden, d_normed, normed
    gradients['norm2_weight'], gradients['norm2_bias'], gradients['proj_bias'] = sums

    # The attention.
    of_weight('proj', d_path, half.attended)
    d_qkv, gradients['bias'], d_padding = attention.backward_kernel(
        *(d_path @ p.proj_weight, half.qkv, p.bias, p.qkv_bias, None, half.attended, half.lse),
        **_windows(o),
    )
    if d_padding is not None:  # padded tokens are the projection's bias
        sum_dtype = attention.sum_dtype(x)
        gradients['qkv_bias'] = d_qkv.sum((0, 1, 2), dtype=sum_dtype).add_(d_padding)
    norm = p.norm1_weight, p.norm1_bias, o.eps1
    d_x, _, normed, sums = norm_backward(d_qkv @ p.qkv_weight, d_x, x, None, None, *norm)
    of_weight('qkv', d_qkv, normed)
    gradients['norm1_weight'], gradients['norm1_bias'] = sums
    return d_x, gradients


def _windows(o: Options) -> dict[str, Any]:
    return dict(window_size=o.window_size, shift_size=o.shift_size, scale=o.scale)


# --- between the products ------------------------------------------------------------------------


def add_norm(
    x: Tensor,
    path: Tensor | None,
    factors: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """The layer norm of ``x + factors[0] * path``, a map (B, H, W, C), in ``dtype``."""
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
    block, rows = _tile(x.shape[-1])
    _launch(
        'add_norm',
        ceil_div(_tokens(x), rows),
        (x, path, other, factors, weight, bias, total, normed),
        dict(**_sizes(x), EPS=eps, ROWS=rows, BLOCK=block, ACC=_acc(x)),
    )


class _NormGradients(NamedTuple):
    """What :func:`norm_backward` gives.

    Attributes:
        d_x: Gradient of ``x``, in its dtype.
        d_path: Gradient of ``path``, in its dtype; nothing to be read without a path.
        normed: The norm's output, in the dtype of ``grad``.
        sums: In float32 at least, gradients of the norm's weight and bias and, with a path, the sum
            of ``d_path`` over all tokens, (2 or 3, C).
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
    """Back through :func:`add_norm` for its output's gradient ``grad``.

    Args:
        onward: What reaches the sum besides, past the norm.
        normed: The norm's output, where it is at hand.
    """
    block, rows = _tile(x.shape[-1])
    group, groups = _groups('norm_backward', ceil_div(_tokens(x), rows), 1, x.device)
    parts = 2 if path is None else 3
    sums = x.new_empty(groups, parts, x.shape[-1], dtype=attention.sum_dtype(x))
    d_x = torch.empty_like(x)
    d_path = grad if path is None else torch.empty_like(path)
    written = torch.empty_like(grad) if normed is None else normed
    # A kernel does not write what it is not given.
    outputs = d_x, None if path is None else d_path, written if normed is None else None, sums
    _launch(
        'norm_backward',
        groups,
        (grad, onward, x, path, factors, weight, bias, *outputs),
        dict(**_sizes(x), group=group, EPS=eps, ROWS=rows, BLOCK=block, ACC=_acc(x)),
    )
    return _NormGradients(d_x, d_path, written, sums.sum(0))


def path_backward(
    grad: Tensor, factors: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``factors[1] * grad`` in ``dtype``, and its sum over all tokens in float32 at least."""
    d_path = torch.empty_like(grad, dtype=dtype)
    sums, programs, options = _by_columns('path_backward', grad)
    _launch('path_backward', programs, (grad, factors, d_path, sums), options | _sizes(grad))
    return d_path, sums.sum(0)


def gelu_backward(
    hidden: Tensor, grad: Tensor, active: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Back through GELU of ``hidden`` for its output's gradient ``grad``, which is overwritten.

    Args:
        active: Where the output goes; may be ``hidden`` itself. A new tensor if None.

    Returns:
        GELU's output; the gradient of ``hidden``; its sum over all tokens in float32 at least.
    """
    active = torch.empty_like(hidden) if active is None else active
    sums, programs, options = _by_columns('gelu_backward', grad)
    tensors = (hidden, grad, active, grad, sums)
    _launch('gelu_backward', programs, tensors, options | dict(tokens=_tokens(grad)))
    return active, grad, sums.sum(0)


# --- launching -----------------------------------------------------------------------------------


@functools.cache
def _kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


def _launch(name: str, programs: int, tensors: tuple, options: dict) -> None:
    if programs:
        with torch.cuda.device_of(tensors[0]):
            getattr(_kernels(), name)[(programs,)](*tensors, **options)


def _sizes(x: Tensor) -> dict[str, int]:
    """What kernels are told of a map (B, H, W, C)."""
    B, H, W, C = x.shape
    return dict(tokens=B * H * W, images=B, per_image=H * W, width=C)


def _tile(width: int) -> tuple[int, int]:
    """Columns, all of them, and rows of a tile for kernels that need whole rows."""
    block = max(16, 1 << (width - 1).bit_length())
    return block, max(1, TILE // block)


def _groups(kernel: str, tiles: int, columns: int, device: torch.device) -> tuple[int, int]:
    """Tiles of rows in a group, and groups, for so many tiles of rows and of columns.

    As many groups as keep the device busy, but of eight tiles at least, so that their sums are
    small beside what is summed.
    """
    busy = max(1, PROGRAMS[kernel] * attention.multiprocessors(device) // columns)
    group = max(ceil_div(tiles, busy), min(tiles, 8), 1)
    return group, ceil_div(tiles, group)


def _by_columns(kernel: str, x: Tensor) -> tuple[Tensor, int, dict]:
    """Each group's sums, (groups, C), programs and options of a kernel on tiles of columns."""
    tokens, width = _tokens(x), x.shape[-1]
    block = min(128, _tile(width)[0])
    rows, columns = TILE // block, ceil_div(width, block)
    group, groups = _groups(kernel, ceil_div(tokens, rows), columns, x.device)
    sums = x.new_empty(groups, width, dtype=attention.sum_dtype(x))
    options = dict(group=group, width=width, ROWS=rows, BLOCK=block, ACC=_acc(x))
    return sums, groups * columns, options


def _tokens(x: Tensor) -> int:
    return x.shape[:-1].numel()


def _acc(x: Tensor) -> Any:
    """Triton's name of the dtype that sums have."""
    tl = importlib.import_module('triton.language')
    return tl.float64 if x.dtype == torch.float64 else tl.float32
