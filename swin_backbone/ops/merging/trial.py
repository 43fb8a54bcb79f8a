"""A trial of patch merging's Triton kernels on a small map."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..dtypes import products_dtype
from ..trial import largest_error, verdict
from . import reference, triton


def fault(x: Tensor) -> str | None:
    """Why the kernels must not be used for a map ``x`` (..., C); None where they are right."""
    return _fault(x.device.type, x.dtype, products_dtype(x), x.shape[-1])


@functools.cache
def _fault(device: str, dtype: torch.dtype, products: torch.dtype, C: int) -> str | None:
    error = functools.partial(_error, device, dtype, products, C)
    return verdict(error, device, products, 'merges patches on GPUs module by module')


def _error(device: str, dtype: torch.dtype, products: torch.dtype, C: int) -> float:
    """The largest error of output and gradients, relative to each one's largest element."""
    generator = torch.Generator().manual_seed(0)  # leaves everybody's random numbers alone

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        drawn = size * torch.randn(*shape, generator=generator)
        return drawn.to(device, dtype).requires_grad_()

    inputs = [draw(2, 5, 7, C), draw(4 * C), draw(4 * C), draw(2 * C, 4 * C, size=C**-0.5)]
    grad = draw(2, 3, 4, 2 * C).detach()
    with torch.enable_grad():
        with torch.autocast(device, products, enabled=products != dtype):
            out = triton.patch_merging(*inputs, eps=1e-5)
        ours = out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))
        inputs = [t.detach().double().requires_grad_() for t in inputs]
        out = reference.patch_merging(*inputs, eps=1e-5)
        exact = out, *torch.autograd.grad(out, inputs, grad.double())
    return largest_error(ours, exact)
