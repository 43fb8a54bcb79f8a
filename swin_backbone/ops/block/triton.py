"""A Swin block for GPUs: attention kernels, PyTorch's matrix products, and token-wise kernels.

Everything between two matrix products is one kernel: residual, drop path, norm and the cast to the
dtype of the products. For n tokens of width C, a map in float32 and products in bfloat16, the
memory traffic in bytes for each of the n C elements (read + written by each operation) is:

    forward    4 + 2 | 2 + 6 | 6 + 2 | 2 + 2 | 6 + 2 | 2 + 8 | 8 + 8 | 8 + 2 | 8 + 4

The block saves for the backward pass its input (4), queries, keys and values (6), the output of
attention (2) and its projection (2). Norms and GELU are recomputed from their inputs. Narrow blocks
also recompute the hidden layer of 4C channels (8): that costs C FLOPs for each byte that is not
saved, and up to a few hundred FLOPs per byte a GPU computes faster than it loads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .. import gpu
from ..backends import Problem
from ..dtypes import products_dtype
from ..tokenwise import triton as tokenwise
from ..tokenwise.triton import add, add_norm, gelu, gelu_backward, norm_backward, path_backward
from ..window_attention import triton as attention
from .parameters import Options, Parameters


def can_run(x: Tensor, heads: int, window_size: int) -> str | None:
    """Why the kernels cannot run on a map ``x``; None if they can."""
    width = x.shape[-1]
    problem = Problem(x.device, products_dtype(x), window_size, width // heads)
    return tokenwise.can_run(x, width) or attention.can_run(problem)


def swin_block(
    x: Tensor,
    parameters: Parameters,
    options: Options,
    factors: Tensor | None = None,
    recompute: bool | str = False,
) -> Tensor:
    """:func:`.reference.swin_block`, fused; differentiable once.

    Matrix products run in autocast's dtype if it is on, everything else in float32 or wider.
    ``recompute`` selects what else is computed again in the backward pass: ``'attention'``,
    ``'mlp'``, or both (True or ``'block'``).
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
    """Results of the attention half of the block, saved for the backward pass or recomputed.

    Attributes:
        qkv: Queries, keys and values, (B, H, W, 3C).
        attended: Output of attention, (B, H, W, C).
        lse: Row statistics of the attention kernel.
        path: Projection of ``attended``, (B, H, W, C).
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
        keep_hidden = x.shape[-1] > tokenwise.NARROW and recompute not in (True, 'block', 'mlp')
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


_LINEAR = [
    f'{product}_{kind}' for product in ('qkv', 'proj', 'fc1', 'fc2') for kind in ('weight', 'bias')
]


def _cast(p: Parameters, dtype: torch.dtype) -> Parameters:
    """Casts the parameters of matrix products to their dtype, in one launch instead of eight."""
    found = {name: tensor for name in _LINEAR if (tensor := getattr(p, name)) is not None}
    given = {name: tensor.detach() for name, tensor in found.items() if tensor.dtype != dtype}
    if not given:
        return p
    cast = {name: torch.empty_like(tensor, dtype=dtype) for name, tensor in given.items()}
    torch._foreach_copy_(list(cast.values()), list(given.values()))
    return p._replace(**cast)


def _attend(x: Tensor, p: Parameters, o: Options, dtype: torch.dtype) -> _Attended:
    """The first half of the block, up to the attention path."""
    normed = add_norm(x, None, None, p.norm1_weight, p.norm1_bias, o.eps1, dtype)
    qkv = F.linear(normed, p.qkv_weight, p.qkv_bias)
    attended, lse = attention.forward_kernel(qkv, p.bias, p.qkv_bias, None, **_windows(o))
    return _Attended(qkv, attended, lse, F.linear(attended, p.proj_weight, p.proj_bias))


def _feed_forward(
    x: Tensor, path: Tensor, p: Parameters, o: Options, factors: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The second half of the block: its output, and the hidden layer if ``keep``."""
    normed = add_norm(x, path, factors, p.norm2_weight, p.norm2_bias, o.eps2, path.dtype)
    hidden = F.linear(normed, p.fc1_weight, p.fc1_bias)
    del normed
    active = gelu(hidden, keep)
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
    """Gradients of the input, and of the parameters by name; without weights that need none."""
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
    if d_padding is not None:  # the value of padded tokens is the bias of the projection
        sum_dtype = gpu.sum_dtype(x)
        gradients['qkv_bias'] = d_qkv.sum((0, 1, 2), dtype=sum_dtype).add_(d_padding)
    norm = p.norm1_weight, p.norm1_bias, o.eps1
    d_x, _, normed, sums = norm_backward(d_qkv @ p.qkv_weight, d_x, x, None, None, *norm)
    of_weight('qkv', d_qkv, normed)
    gradients['norm1_weight'], gradients['norm1_bias'] = sums
    return d_x, gradients


def _windows(o: Options) -> dict[str, Any]:
    return dict(window_size=o.window_size, shift_size=o.shift_size, scale=o.scale)
