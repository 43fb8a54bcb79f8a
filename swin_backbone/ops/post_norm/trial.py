"""A trial of the Triton kernels of paths that are normalised before they are added."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..dtypes import products_dtype
from ..trial import largest_error, verdict
from . import reference, triton
from .parameters import FeedForward, Norm


def fault(x: Tensor, hidden: int) -> str | None:
    """Why the kernels must not be used for tokens ``x`` (..., C); None where they are right."""
    return _fault(x.device.type, x.dtype, products_dtype(x), x.shape[-1], hidden)


@functools.cache
def _fault(
    device: str, dtype: torch.dtype, products: torch.dtype, C: int, hidden: int
) -> str | None:
    error = functools.partial(_error, device, dtype, products, C, hidden)
    return verdict(error, device, products, 'runs V2 blocks on GPUs module by module')


def _error(device: str, dtype: torch.dtype, products: torch.dtype, C: int, hidden: int) -> float:
    """The largest error of output and gradients, relative to each one's largest element."""
    generator = torch.Generator().manual_seed(0)  # leaves everybody's random numbers alone

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        drawn = size * torch.randn(*shape, generator=generator)
        return drawn.to(device, dtype).requires_grad_()

    x, path = draw(2, 15, C), draw(2, 15, C)
    weights = draw(hidden, C, size=C**-0.5), draw(hidden), draw(C, hidden, size=hidden**-0.5)
    inputs = [x, path, draw(C), draw(C), *weights, draw(C), draw(C), draw(C)]
    factors, grad = torch.tensor([0.0, 1.5], device=device), draw(2, 15, C).detach()

    def both(ops: Any, inputs: list[Tensor], factors: Tensor) -> tuple[Tensor, ...]:
        x, path, weight, bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, *last = inputs
        middle = ops.norm_add(x, path, Norm(weight, bias, 1e-5), factors)
        p = FeedForward(fc1_weight, fc1_bias, fc2_weight, fc2_bias, Norm(last[0], last[1], 1e-5))
        out = ops.feed_forward(middle, p, factors)
        return out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))

    with torch.enable_grad():
        with torch.autocast(device, products, enabled=products != dtype):
            ours = both(triton, inputs, factors)
        wide = [t.detach().double().requires_grad_() for t in inputs]
        exact = both(reference, wide, factors.double())
    return largest_error(ours, exact)
