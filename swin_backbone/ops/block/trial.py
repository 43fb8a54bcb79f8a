"""A trial of the block's Triton kernels on a small map."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..dtypes import products_dtype
from ..trial import largest_error, verdict
from . import reference, triton
from .parameters import Options, Parameters


def fault(x: Tensor, heads: int, window_size: int, hidden: int) -> str | None:
    """Why the kernels must not be used for a map ``x`` (..., C); None where they are right."""
    device, C = x.device.type, x.shape[-1]
    return _fault(device, x.dtype, products_dtype(x), C, heads, window_size, hidden)


@functools.cache
def _fault(
    device: str,
    dtype: torch.dtype,
    products: torch.dtype,
    C: int,
    heads: int,
    window_size: int,
    hidden: int,
) -> str | None:
    error = functools.partial(_error, device, dtype, products, C, heads, window_size, hidden)
    return verdict(error, device, products, 'runs blocks on GPUs module by module')


def _error(
    device: str,
    dtype: torch.dtype,
    products: torch.dtype,
    C: int,
    heads: int,
    window_size: int,
    hidden: int,
) -> float:
    """The largest error of output and gradients, relative to each one's largest element."""
    generator = torch.Generator().manual_seed(0)  # leaves everybody's random numbers alone

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        drawn = size * torch.randn(*shape, generator=generator)
        return drawn.to(device, dtype).requires_grad_()

    def linear(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        return draw(outputs, inputs, size=inputs**-0.5), draw(outputs)

    area = window_size**2
    parameters = Parameters(
        *(draw(C), draw(C)),
        *linear(3 * C, C),
        draw(heads, area, area),
        *linear(C, C),
        *(draw(C), draw(C)),
        *linear(hidden, C),
        *linear(C, hidden),
    )
    x = draw(2, window_size + 1, window_size - 1 or 1, C)  # padded, and shifted below
    options = Options(window_size, window_size // 2, (C // heads) ** -0.5, 1e-5, 1e-5)
    factors = torch.tensor([[0.0, 1.5], [1.25, 1.0]], device=device)
    grad = draw(*x.shape).detach()
    inputs = [x, *(p for p in parameters if p is not None)]
    with torch.enable_grad():
        with torch.autocast(device, products, enabled=products != dtype):
            out = triton.swin_block(x, parameters, options, factors)
        ours = out, *torch.autograd.grad(out, inputs, grad)
        inputs = [t.detach().double().requires_grad_() for t in inputs]
        out = reference.swin_block(inputs[0], Parameters(*inputs[1:]), options, factors.double())
        exact = out, *torch.autograd.grad(out, inputs, grad.double())
    return largest_error(ours, exact)
