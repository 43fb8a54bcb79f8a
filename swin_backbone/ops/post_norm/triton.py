"""Residual paths with a norm at their end, for GPUs: norm, drop path and sum in one pass.

A norm saves its input for the backward pass. A feed-forward network saves its input, its output
and, if it is wide, the hidden layer before GELU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..dtypes import autocast_dtype, products_dtype
from ..tokenwise import triton as tokenwise
from .parameters import FeedForward, Norm


def can_run(x: Tensor) -> str | None:
    """Why the kernels cannot run on tokens ``x``; None if they can."""
    if autocast_dtype(x) is not None and x.dtype != torch.float32:
        return 'under autocast the sum would be wider than its tokens'
    return tokenwise.can_run(x, x.shape[-1])


def norm_add(x: Tensor, path: Tensor, norm: Norm, factors: Tensor | None = None) -> Tensor:
    """:func:`.reference.norm_add`, fused; differentiable once."""
    with torch.autocast(x.device.type, enabled=False):
        return _NormAdd.apply(x, path, factors, norm.eps, norm.weight, norm.bias)


def feed_forward(x: Tensor, p: FeedForward, factors: Tensor | None = None) -> Tensor:
    """:func:`.reference.feed_forward`, fused; differentiable once.

    Matrix products run in autocast's dtype if it is on, everything else in float32 or wider.
    """
    dtype, (*weights, norm) = products_dtype(x), p
    keep_hidden = torch.is_grad_enabled() and x.shape[-1] > tokenwise.NARROW
    options = norm.eps, dtype, keep_hidden
    with torch.autocast(x.device.type, enabled=False):
        return _FeedForward.apply(x, factors, *options, *weights, norm.weight, norm.bias)


class _NormAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        path: Tensor,
        factors: Tensor | None,
        eps: float,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.eps, path = eps, path.contiguous()
        ctx.save_for_backward(path, factors, weight)
        return tokenwise.norm_add(x.contiguous(), path, factors, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        path, factors, weight = ctx.saved_tensors
        grad = grad.contiguous()
        d_path, sums = tokenwise.norm_add_backward(grad, path, factors, weight, ctx.eps)
        d_weight, d_bias, _ = sums.to(weight.dtype)
        return grad, d_path, None, None, d_weight, d_bias


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factors: Tensor | None,
        eps: float,
        dtype: torch.dtype,
        keep_hidden: bool,
        fc1_weight: Tensor,
        fc1_bias: Tensor,
        fc2_weight: Tensor,
        fc2_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.eps, ctx.dtype = eps, dtype
        x = x.contiguous()
        hidden = F.linear(x.to(dtype), fc1_weight.to(dtype), fc1_bias.to(dtype))
        active = tokenwise.gelu(hidden, keep_hidden)
        path = F.linear(active, fc2_weight.to(dtype), fc2_bias.to(dtype))
        parameters = fc1_weight, fc1_bias, fc2_weight, fc2_bias, weight, bias
        ctx.save_for_backward(x, factors, path, hidden if keep_hidden else None, *parameters)
        return tokenwise.norm_add(x, path, factors, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factors, path, hidden, *parameters = ctx.saved_tensors
        fc1_weight, fc1_bias, fc2_weight, _, weight, _ = parameters
        needs_fc1, _, needs_fc2, *_ = ctx.needs_input_grad[-len(parameters) :]
        grad, dtype = grad.contiguous(), ctx.dtype
        with torch.autocast(x.device.type, enabled=False):
            d_path, sums = tokenwise.norm_add_backward(grad, path, factors, weight, ctx.eps)
            d_weight, d_bias, d_fc2_bias = sums
            d_active, low = d_path @ fc2_weight.to(dtype), x.to(dtype)
            active = None
            if hidden is None:
                hidden = active = F.linear(low, fc1_weight.to(dtype), fc1_bias.to(dtype))
            active, d_hidden, d_fc1_bias = tokenwise.gelu_backward(hidden, d_active, active)
            d_fc1_weight = d_fc2_weight = None
            if needs_fc2:
                d_fc2_weight = d_path.flatten(0, -2).t() @ active.flatten(0, -2)
            del active, hidden, d_active
            if needs_fc1:
                d_fc1_weight = d_hidden.flatten(0, -2).t() @ low.flatten(0, -2)
            d_x = grad + d_hidden @ fc1_weight.to(dtype)
        found = d_fc1_weight, d_fc1_bias, d_fc2_weight, d_fc2_bias, d_weight, d_bias
        like = zip(found, parameters, strict=True)
        return d_x, *[None] * 4, *(g if g is None else g.to(p.dtype) for g, p in like)
