"""Paths that are normalised before they are added (Swin V2, figure 1), in one piece on GPUs."""

from __future__ import annotations

from torch import Tensor

from ..backends import requested_backend
from ..dtypes import autocast_dtype
from .parameters import FeedForward, Norm

__all__ = ['FeedForward', 'Norm', 'feed_forward', 'norm_add', 'why_not']


def why_not(x: Tensor, hidden: int) -> str | None:
    """Why the functions here cannot take tokens ``x``, (B, L, C); None where they can.

    ``hidden`` is the width of the hidden layer.
    """
    requested = requested_backend()
    if requested not in (None, 'triton'):
        return f'backend {requested!r} was asked for'
    if requested is None and not x.is_cuda:
        return f'for GPUs, got {x.device.type}'
    from . import triton
    from .trial import fault

    if autocast_dtype(x) is not None and not triton.is_wide(x):
        return 'under autocast the sum would be wider than its tokens'
    if (reason := triton.can_run(x)) is not None:
        return reason
    return None if requested else fault(x, hidden)


def norm_add(x: Tensor, path: Tensor, norm: Norm, factors: Tensor | None = None) -> Tensor:
    """As :func:`.reference.norm_add`; can be differentiated once."""
    from . import triton

    return triton.norm_add(x, path, norm, factors)


def feed_forward(x: Tensor, p: FeedForward, factors: Tensor | None = None) -> Tensor:
    """As :func:`.reference.feed_forward`; can be differentiated once."""
    from . import triton

    return triton.feed_forward(x, p, factors)
