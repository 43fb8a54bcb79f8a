"""Linear layers on 2-D tensors and their gradients, with the faster of two CPU libraries.

PyTorch computes float32 products on CPUs with MKL, which does not use AVX-512 on every processor
that supports it. oneDNN, which is part of PyTorch too, does, and it fuses GELU into the product.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Maps (L, K) to (L, N) by a weight (N, K) and bias (N,); applies exact GELU if ``gelu``."""
    if _onednn_can_run(x, weight):
        if gelu:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'gelu', [], 'none')
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of ``x``, ``weight`` and ``bias``; the last two are None if not needed."""
    d_x = linear(grad, weight.t(), None)
    if not needs_weight:
        return d_x, None, None
    # oneDNN is faster if the wider of the two takes the place of the weight.
    if grad.shape[1] > x.shape[1]:
        d_weight = linear(x.t(), grad.t(), None).t()
    else:
        d_weight = linear(grad.t(), x.t(), None)
    return d_x, d_weight, grad.sum(0)


def _onednn_can_run(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and bool(torch.backends.mkldnn.enabled)
        and _onednn_works()
    )


@functools.cache
def _onednn_works() -> bool:
    """Whether this PyTorch has the operator, and its result equals that of F.linear and F.gelu."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(24, 24, generator=generator) for _ in range(2))
    try:
        fused = torch.ops.mkldnn._linear_pointwise(x.t(), weight.t(), x[0], 'gelu', [], 'none')
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(fused, F.gelu(F.linear(x.t(), weight.t(), x[0])), atol=1e-4)
