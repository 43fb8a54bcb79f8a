"""Patch merging for GPUs: gathering, norm and cast in one pass over memory.

Of the activations, only the map is saved for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..dtypes import products_dtype
from ..tokenwise import triton as tokenwise


def can_run(x: Tensor) -> str | None:
    """Why the kernels cannot run on a map ``x``; None if they can."""
    return tokenwise.can_run(x, 4 * x.shape[-1])


def patch_merging(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, *, eps: float
) -> Tensor:
    """:func:`.reference.patch_merging`, fused; differentiable once.

    The projection runs in autocast's dtype if it is on, the norm in float32 or wider.
    """
    dtype = products_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return _Merging.apply(x, norm_weight, norm_bias, weight, eps, dtype)


class _Merging(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.eps, ctx.dtype = eps, dtype
        x = x.contiguous()
        ctx.save_for_backward(x, norm_weight, norm_bias, weight)
        normed = tokenwise.merge_norm(x, norm_weight, norm_bias, eps, dtype)
        return F.linear(normed, weight.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grad = grad.to(ctx.dtype).contiguous()
            d_normed = grad @ weight.to(ctx.dtype)
            d_x, normed, sums = tokenwise.merge_norm_backward(
                d_normed, x, norm_weight, norm_bias, ctx.eps
            )
            d_weight = None
            if ctx.needs_input_grad[3]:
                d_weight = (grad.flatten(0, 2).t() @ normed.flatten(0, 2)).to(weight.dtype)
        d_norm_weight, d_norm_bias = sums.to(norm_weight.dtype)
        return d_x, d_norm_weight, d_norm_bias, d_weight, None, None
