"""Whether Triton kernels are chosen: last a trial of them, a small problem against the definition.

What a compiler makes of a kernel differs from GPU to GPU, and a wrong number would go unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .backends import requested_backend

# Of the largest element: some times what rounding makes of it.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def why_not_kernels(
    x: Tensor, can_run: Callable[[], str | None], fault: Callable[[], str | None]
) -> str | None:
    """Why a tensor is not for kernels that may stand in for modules; None where it is.

    Args:
        x: The tensor.
        can_run: Why they cannot run at all, or None.
        fault: What a trial finds wrong with them, or None; not asked where they were asked for.
    """
    if (reason := why_other_device(x) or can_run()) is not None or requested_backend():
        return reason
    if torch.cuda.is_current_stream_capturing():  # a graph must not record the trial
        return None
    return fault()


def why_other_device(x: Tensor) -> str | None:
    """Why kernels are not considered for ``x``: its device, or a request for another backend."""
    requested = requested_backend()
    if requested not in (None, 'triton'):
        return f'backend {requested!r} was asked for'
    if requested is None and not x.is_cuda:
        return f'for GPUs, got {x.device.type}'
    return None


def verdict(
    error: Callable[[], float], device: str, dtype: torch.dtype, instead: str
) -> str | None:
    """Why kernels must not be used; None where they are right.

    Args:
        error: Runs them, and gives their error relative to the largest element.
        device: The kind of device.
        dtype: What they compute in.
        instead: What a warning says is done without them.
    """
    try:
        with (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.autocast(device, enabled=False),
        ):
            found = error()
    except Exception as failure:  # whatever a compiler or a driver may raise
        reason = f'its kernels fail on this device: {type(failure).__name__}: {failure}'
    else:
        if found <= TOLERANCE[dtype]:
            return None
        reason = f'its kernels are wrong on this device, by {found:.2g} of the largest value'
    warnings.warn(f'swin_backbone {instead}: {reason}', stacklevel=2)
    return reason


def largest_error(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Of any tensor's elements, relative to its largest one or to 1."""
    errors = [
        (mine.double() - other).abs().max() / other.abs().max().clamp(min=1)
        for mine, other in zip(ours, exact, strict=True)
    ]
    return torch.stack(errors).max().item()
