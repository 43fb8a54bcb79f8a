"""Helpers for the checks of fused kernels."""

from __future__ import annotations

import torch

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
EXACT = torch.float32 if DEVICE == 'cuda' else torch.float64
# Largest error against float64, relative to the largest element (or to 1).
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 6e-2,
}
DTYPES = [dtype for dtype in TOLERANCE if DEVICE == 'cpu' or dtype != torch.float64]
# Dtypes of the map and of its matrix products that occur on GPUs, without and with autocast.
ON_GPUS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
]


def results(function, inputs, products=None):
    """The output of ``function()``, autocast to ``products``, and the gradients of ``inputs``."""
    with torch.autocast(DEVICE, products or inputs[0].dtype, enabled=products is not None):
        out = function()
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return out, *torch.autograd.grad(out, inputs, grad.to(out.device, out.dtype))


def assert_near(ours, theirs, tolerance):
    """Compares tensors, relative to the largest element of each (or to 1)."""
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape
        if mine.numel():
            error = (mine.double() - other).abs().max() / max(1.0, other.abs().max().item())
            assert error <= tolerance, (i, error.item())
