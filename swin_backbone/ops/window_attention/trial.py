"""A trial of attention's Triton kernels on a small map."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..trial import largest_error, verdict
from . import reference, triton


@functools.cache
def fault(device: str, dtype: torch.dtype, window_size: int, head_dim: int) -> str | None:
    """Why the kernels must not be used on a kind of device; None where they are right.

    Tried once for each set of arguments, for which kernels are compiled anew.
    """
    error = functools.partial(_error, device, dtype, window_size, head_dim)
    return verdict(error, device, dtype, 'does without triton')


def _error(device: str, dtype: torch.dtype, window_size: int, head_dim: int) -> float:
    """The largest error of output and gradients, relative to each one's largest element."""
    generator = torch.Generator().manual_seed(0)  # leaves everybody's random numbers alone
    heads, area = 2, window_size**2
    size = (1, window_size + 1, 2 * window_size - 1)  # padded, and shifted below

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    width = heads * head_dim
    qkv, bias, padding = draw(*size, 3 * width), draw(heads, area, area), draw(3 * width)
    grad = draw(*size, width)
    numbers = (window_size, window_size // 2, head_dim**-0.5)
    out = triton.forward(qkv, bias, padding, *numbers)
    ours: tuple[Any, ...] = (out, *triton.backward(grad, qkv, bias, padding, *numbers))

    qkv, bias, padding = inputs = [x.double().requires_grad_() for x in (qkv, bias, padding)]
    names = ('window_size', 'shift_size', 'scale')
    options = dict(zip(names, numbers, strict=True), padding=padding)
    with torch.enable_grad():
        out = reference.shifted_window_attention(qkv, bias, **options)
    return largest_error(ours, (out, *torch.autograd.grad(out, inputs, grad.double())))
