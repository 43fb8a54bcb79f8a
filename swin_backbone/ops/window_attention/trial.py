"""A trial of the Triton kernels before they are chosen: a small map, against the definition.

What a compiler makes of a kernel differs from GPU to GPU, and a wrong number would go unnoticed.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from . import reference, triton

# Of the largest element: some times what rounding makes of it.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@functools.cache
def fault(device: str, dtype: torch.dtype, window_size: int, head_dim: int) -> str | None:
    """Why the kernels must not be used on a kind of device; None where they are right.

    Tried once for each set of arguments, for which kernels are compiled anew.
    """
    try:
        with (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.autocast(device, enabled=False),
        ):
            error = _error(device, dtype, window_size, head_dim)
    except Exception as failure:  # whatever a compiler or a driver may raise
        reason = f'its kernels fail on this device: {type(failure).__name__}: {failure}'
    else:
        if error <= TOLERANCE[dtype]:
            return None
        reason = f'its kernels are wrong on this device, by {error:.2g} of the largest value'
    warnings.warn(f'swin_backbone does without triton: {reason}', stacklevel=2)
    return reason


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
    exact = (out, *torch.autograd.grad(out, inputs, grad.double()))
    errors = [
        (mine.double() - other).abs().max() / other.abs().max().clamp(min=1)
        for mine, other in zip(ours, exact, strict=True)
    ]
    return torch.stack(errors).max().item()
