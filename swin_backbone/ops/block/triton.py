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

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .. import gpu
from ..dtypes import products_dtype
from ..rows import triton as rows
from ..rows.triton import add, add_norm, gelu, gelu_backward, norm_backward, path_backward
from ..window_attention import triton as attention
from ..window_attention.problem import Problem
from .parameters import Options, Parameters


def can_run(x: Tensor, heads: int, window_size: int) -> str | None:
    """Why this backend cannot take a call; None where it can."""
    width = x.shape[-1]
    problem = Problem(x.device.type, products_dtype(x), window_size, width // heads)
    return rows.can_run(x, width) or attention.can_run(problem)


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
        keep_hidden = x.shape[-1] > rows.NARROW and recompute not in (True, 'block', 'mlp')
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


_OF_PRODUCTS = [
    f'{product}_{kind}' for product in ('qkv', 'proj', 'fc1', 'fc2') for kind in ('weight', 'bias')
]


def _cast(p: Parameters, dtype: torch.dtype) -> Parameters:
    """The products' weights and biases in their dtype; in one launch rather than eight."""
    found = {name: tensor for name in _OF_PRODUCTS if (tensor := getattr(p, name)) is not None}
    given = {name: tensor.detach() for name, tensor in found.items() if tensor.dtype != dtype}
    if not given:
        return p
    cast = {name: torch.empty_like(tensor, dtype=dtype) for name, tensor in given.items()}
    torch._foreach_copy_(list(cast.values()), list(given.values()))
    return p._replace(**cast)


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
        sum_dtype = gpu.sum_dtype(x)
        gradients['qkv_bias'] = d_qkv.sum((0, 1, 2), dtype=sum_dtype).add_(d_padding)
    norm = p.norm1_weight, p.norm1_bias, o.eps1
    d_x, _, normed, sums = norm_backward(d_qkv @ p.qkv_weight, d_x, x, None, None, *norm)
    of_weight('qkv', d_qkv, normed)
    gradients['norm1_weight'], gradients['norm1_bias'] = sums
    return d_x, gradients


def _windows(o: Options) -> dict[str, Any]:
    return dict(window_size=o.window_size, shift_size=o.shift_size, scale=o.scale)
