"""Patch merging on a feature map, for where it is faster in one piece than by its modules."""

from __future__ import annotations

from torch import Tensor

from ..backends import requested_backend

__all__ = ['patch_merging', 'why_not']


def why_not(x: Tensor) -> str | None:
    """Why :func:`patch_merging` cannot take a map ``x``, (..., C); None where it can."""
    requested = requested_backend()
    if requested not in (None, 'triton'):
        return f'backend {requested!r} was asked for'
    if requested is None and not x.is_cuda:
        return f'for GPUs, got {x.device.type}'
    from . import triton
    from .trial import fault

    if (reason := triton.can_run(x)) is not None:
        return reason
    return None if requested else fault(x)


def patch_merging(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, *, eps: float
) -> Tensor:
    """As :func:`.reference.patch_merging`; can be differentiated once."""
    from . import triton

    return triton.patch_merging(x, norm_weight, norm_bias, weight, eps=eps)
